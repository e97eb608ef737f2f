/* See generate.h. */
#define _POSIX_C_SOURCE 200809L
#include "gen/generate.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

err generator_build(struct generator *g, const struct model *m, struct structure *st, struct capacity cap, const struct backend *backend) {
    *g = (struct generator){.cap = cap, .start = m->shape.start};
    err e = program_build(&g->prefill, m, MODE_PREFILL, st, cap, CHECKPOINT_NONE, backend, false);
    if (!e) e = program_build(&g->decode, m, MODE_DECODE, st, cap, CHECKPOINT_NONE, backend, false);
    if (e) generator_free(g);
    return e;
}

void generator_free(struct generator *g) {
    program_free(&g->prefill);
    program_free(&g->decode);
}

/* The inputs of one run and the rows behind them. One allocation serves prefill and decode. */
struct batch {
    int32_t *ids, *pos, *slot, *cu, *rows, *sample, *next_pos, *next; /* next: of each line ids, then the bits of their log-probabilities */
    int32_t *src_ids, *src_pos, *src_slot, *src_sample, *src_cu, *src_last; /* encoder-decoders */
    float *given; /* vectors beside the prompts, and 0, 1, ... */
    int32_t *given_rows;
    int *live; /* decode: request row of each live line */
    float *mix, *src_mix; /* where a request has weights of its own */
    int members;
    struct adapters adapters; /* where the request is several's: whose the rows of the next run are */
    void *all;
};

static void batch_free(struct batch *b) {
    free(b->given);
    free(b->all);
}

static err batch_init(struct batch *b, const struct generator *g, bool weights) {
    const struct capacity cap = g->cap;
    const int tokens = cap.tokens + g->prefill.virtual_tokens;
    size_t n = (size_t)(tokens > cap.slots ? tokens : cap.slots), s = (size_t)(cap.sequences > cap.slots ? cap.sequences : cap.slots) + 1;
    const size_t members = weights ? (size_t)g->decode.members : 0;
    int32_t *p = b->all = calloc(7 * n + (7 + 2 * LOG_LINES) * s + 2 * n * members, sizeof *p);
    *b = (struct batch){.all = p, .members = (int)members};
    if (!p) return fail(E_MEMORY, "out of memory");
    b->ids = p;
    b->pos = p + n;
    b->slot = p + 2 * n;
    b->cu = p + 3 * n;
    b->rows = b->cu + s;
    b->sample = b->rows + s;
    b->next_pos = b->sample + s;
    b->next = b->next_pos + s;
    b->live = b->next + 2 * LOG_LINES * s;
    b->src_cu = b->live + s;
    b->src_last = b->src_cu + s;
    b->src_ids = b->src_last + s;
    b->src_pos = b->src_ids + n;
    b->src_slot = b->src_pos + n;
    b->src_sample = b->src_slot + n;
    if (members) b->mix = (float *)(b->src_sample + n), b->src_mix = b->mix + n * members;
    const size_t vectors = (size_t)g->cap.sequences * (size_t)g->prefill.given;
    b->given = vectors ? malloc(vectors * ((size_t)g->prefill.given_width + 1) * sizeof *b->given) : NULL;
    b->given_rows = b->given ? (int32_t *)(b->given + vectors * (size_t)g->prefill.given_width) : NULL;
    for (size_t i = 0; i < vectors && b->given; i++) b->given_rows[i] = (int32_t)i;
    if (!vectors || b->given) return OK;
    batch_free(b);
    return fail(E_MEMORY, "out of memory");
}

/* Takes the token of request row `row`, one of `lines` (program_log); true when the row goes on. */
static bool take(const struct generate_request *rq, struct generation *out, int row, const int32_t *at, int lines) {
    struct generation *o = &out[row];
    const int32_t id = *at;
    float logprob;
    memcpy(&logprob, at + lines, sizeof logprob);
    o->logprob += (double)logprob;
    if (id == rq->eos) return o->stopped = true, false;
    o->ids[o->n++] = id;
    if (rq->on_token && rq->on_token(rq->ctx, row, id)) return false;
    return o->n < rq->max_new;
}

/* The request row's weights as those of `n` lines of a batch; nothing where the request has none. */
static void weigh_lines(const struct generate_request *rq, const struct batch *b, float *mix, int line, int n, int row) {
    for (int i = 0; i < n && b->members; i++)
        memcpy(mix + (size_t)(line + i) * (size_t)b->members, rq->mix + (size_t)row * (size_t)b->members, (size_t)b->members * sizeof *mix);
}

/* Before the rows of a run are put together; and request row `row` takes its rows up to `end`. Rows come in the request's order. */
static void forget_adapters(struct batch *b) {
    for (int k = 0; k < b->adapters.n; k++) b->adapters.of[k].end = 0;
}

static void note_adapter(const struct generate_request *rq, struct batch *b, int row, int end) {
    for (int k = 0; k < b->adapters.n; k++)
        if (row < rq->crowd->end[k]) b->adapters.of[k].end = end;
}

/* Adds a prompt to a prefill. An encoder-decoder's is the encoder's text; its decoder begins with one token of its own. */
static void add_prompt(const struct generator *g, const struct generate_request *rq, struct batch *b, struct feed *f, int row, int slot) {
    const int len = (int)rq->prompt[row].n, before = g->prefill.virtual_tokens, given = g->prefill.given,
              first = g->prefill.virtual_first + (given ? f->m : 0);
    const size_t numbers = (size_t)given * (size_t)g->prefill.given_width;
    const bool apart = g->prefill.seq2seq;
    int32_t *ids = apart ? b->src_ids + f->m : b->ids + f->n, *pos = apart ? b->src_pos + f->m : b->pos + f->n,
            *slots = apart ? b->src_slot + f->m : b->slot + f->n;
    for (int t = 0; t < before + len; t++) {
        ids[t] = t < before ? first + t : rq->prompt[row].v[t - before];
        pos[t] = t;
        slots[t] = slot;
    }
    weigh_lines(rq, b, b->mix, f->n, apart ? 1 : before + len, row);
    if (given) {
        memcpy(b->given + (size_t)f->m * (size_t)g->prefill.given_width, rq->given + (size_t)row * numbers, numbers * sizeof *b->given);
        f->m += given;
    }
    if (apart) {
        weigh_lines(rq, b, b->src_mix, f->m, len, row);
        f->m += len;
        b->ids[f->n] = g->start, b->pos[f->n] = 0, b->slot[f->n] = slot;
    }
    f->n += apart ? 1 : before + len;
    note_adapter(rq, b, row, f->n);
    b->cu[f->s + 1] = f->n;
    b->src_cu[f->s + 1] = f->m;
    b->rows[f->s] = f->n - 1;
    b->sample[f->s] = rq->first_sample + row;
    b->next_pos[f->s++] = apart ? 1 : before + len;
}

/* What a run of `lines` rows sampled, as program_log() has it. */
static err read_line(const struct program *g, const struct memory *mem, int n, int s, int lines, int32_t *to) {
    TRY(program_read(g, mem, g->next, n, s, to, (size_t)lines * 4));
    return program_read(g, mem, g->logprob, n, s, to + lines, (size_t)lines * 4);
}

/* Prefills request rows from..to in passes; slot = row - from. Leaves each row's first token in out. */
static err prefill(const struct generator *g, const struct memory *mem, void *param, const struct generate_request *rq,
                   struct batch *b, int from, int to, struct generation *out, int *n_live) {
    struct run_ctx run = rq->run;
    run.adapters = b->adapters.n ? &b->adapters : NULL;
    run.int_activations = false; /* of decoding only: a short prompt's rows would take them, a long one's would not */
    for (int row = from; row < to;) {
        struct feed f = {.ids = b->ids,
                         .pos = b->pos,
                         .cu = b->cu,
                         .slot = b->slot,
                         .rows = b->rows,
                         .sample = b->sample,
                         .next_pos = b->next_pos,
                         .src_ids = b->src_ids,
                         .src_pos = b->src_pos,
                         .src_cu = b->src_cu,
                         .src_sample = b->src_sample,
                         .src_slot = b->src_slot,
                         .mix = b->mix,
                         .src_mix = b->src_mix,
                         .given = rq->given ? b->given : NULL,
                         .given_rows = b->given_rows};
        int first = row;
        forget_adapters(b);
        const int before = g->prefill.virtual_tokens, most = g->cap.tokens + before;
        for (; row < to && f.s < g->cap.sequences && (g->prefill.seq2seq ? f.m : f.n) + before + (int)rq->prompt[row].n <= most; row++)
            add_prompt(g, rq, b, &f, row, row - from);
        if (row == first) return fail(E_INTERNAL, "a prompt of %zu tokens does not fit a pass of %d", rq->prompt[row].n, g->cap.tokens);
        TRY(program_run(&g->prefill, mem, param, NULL, &f, &run, false));
        TRY(read_line(&g->prefill, mem, f.n, f.s, f.s, b->next));
        for (int s = 0; s < f.s; s++)
            if (take(rq, out, first + s, b->next + s, f.s)) b->live[(*n_live)++] = first + s;
    }
    return OK;
}

/* Live rows are the first lines of the batch; lines beyond them, up to a size that has been recorded, repeat the last and are
 * not listened to. */
static void fill_lines(const struct generator *g, struct batch *b, const struct generate_request *rq, const struct generation *out,
                       int from, int n_live, int lines) {
    forget_adapters(b);
    for (int i = 0; i < lines; i++) {
        int row = b->live[i < n_live ? i : n_live - 1], made = out[row].n;
        note_adapter(rq, b, row, i + 1);
        b->ids[i] = out[row].ids[made - 1];
        b->pos[i] = (g->decode.seq2seq ? 1 : g->decode.virtual_tokens + (int32_t)rq->prompt[row].n) + made - 1;
        b->src_last[i] = (int32_t)rq->prompt[row].n - 1;
        b->slot[i] = row - from;
        b->sample[i] = rq->first_sample + row;
        weigh_lines(rq, b, b->mix, i, 1, row);
    }
}

/* `steps` tokens for each line into b->next, [steps][2][lines]. Between them nothing comes to the host. */
static err run_steps(const struct generator *g, const struct memory *mem, void *param, const struct generate_request *rq, struct batch *b,
                     int lines, int steps) {
    struct feed f = {.ids = b->ids, .pos = b->pos, .slot = b->slot, .sample = b->sample, .src_last = b->src_last, .mix = b->mix, .n = lines, .repeats = true};
    struct run_ctx run = rq->run;
    run.adapters = b->adapters.n ? &b->adapters : NULL;
    TRY(program_run(&g->decode, mem, param, NULL, &f, &run, false));
    if (!mem->log) return read_line(&g->decode, mem, lines, 0, lines, b->next);
    for (int k = 0; k < steps; k++) {
        if (k) TRY(program_again(&g->decode, mem, param, lines, &run));
        TRY(program_advance(&g->decode, mem, lines, k));
    }
    return program_log(mem, lines, steps, b->next);
}

/* All live rows have made the same number of tokens, so what is left to make is one number too. A row that ends between two looks
 * goes on in its own cache until the next, unheard. */
static err decode(const struct generator *g, const struct memory *mem, void *param, const struct generate_request *rq,
                  struct batch *b, int from, struct generation *out, int n_live) {
    while (n_live > 0) {
        if (rq->stop && *rq->stop) return fail(E_INTERRUPTED, "interrupted");
        int left = rq->max_new - out[b->live[0]].n, steps = !mem->log || rq->on_token ? 1 : left < LOG_LINES ? left : LOG_LINES;
        int lines = program_lines(&g->decode, n_live);
        fill_lines(g, b, rq, out, from, n_live, lines);
        TRY(run_steps(g, mem, param, rq, b, lines, steps));
        int still = 0;
        for (int i = 0; i < n_live; i++) {
            bool on = true;
            for (int k = 0; k < steps && on; k++) on = take(rq, out, b->live[i], b->next + 2 * k * lines + i, lines);
            if (on) b->live[still++] = b->live[i];
        }
        n_live = still;
    }
    return OK;
}

static err check(const struct generator *g, const struct generate_request *rq) {
    if (g->prefill.given && !rq->given)
        return fail(E_USAGE, "this adapter reads %d vector%s of %d numbers beside each prompt, and none %s given", g->prefill.given,
                    g->prefill.given > 1 ? "s" : "", g->prefill.given_width, g->prefill.given > 1 ? "are" : "is");
    for (int i = 0; i < rq->n; i++) {
        if (rq->prompt[i].n == 0) return fail(E_INPUT, "prompt %d is empty", i + 1);
        if (rq->prompt[i].n + (size_t)rq->max_new > (size_t)g->cap.length || (int)rq->prompt[i].n > g->cap.tokens)
            return fail(E_INPUT, "prompt %d has %zu tokens; with %d new ones that is more than the %d planned for", i + 1, rq->prompt[i].n,
                        rq->max_new, g->cap.length);
    }
    return rq->max_new < 1 ? fail(E_USAGE, "max_new_tokens must be at least 1") : OK;
}

err generate(const struct generator *g, const struct memory *mem, const float *weights, const struct generate_request *rq,
             struct generation *out, struct generate_stats *stats) {
    struct batch b;
    TRY(check(g, rq));
    TRY(batch_init(&b, g, rq->mix != NULL));
    void *param;
    err e = rq->crowd ? memory_bind_all(mem, &g->decode, rq->crowd, rq->run.threads, &param, &b.adapters)
                      : memory_bind(mem, &g->decode, weights, rq->run.threads, &param);
    for (int i = 0; i < rq->n; i++) {
        out[i] = (struct generation){.ids = malloc((size_t)rq->max_new * sizeof(int32_t))};
        if (!out[i].ids) e = fail(E_MEMORY, "out of memory");
    }
    for (int from = 0; from < rq->n && !e; from += g->cap.slots) {
        int to = from + g->cap.slots < rq->n ? from + g->cap.slots : rq->n, n_live = 0;
        double t0 = seconds_now();
        e = prefill(g, mem, param, rq, &b, from, to, out, &n_live);
        double t1 = seconds_now();
        if (!e) e = decode(g, mem, param, rq, &b, from, out, n_live);
        if (stats) {
            stats->prefill_s += t1 - t0;
            stats->decode_s += seconds_now() - t1;
            for (int i = from; i < to; i++) {
                const int64_t new = out[i].n + out[i].stopped;
                stats->prompt_tokens += (int64_t)rq->prompt[i].n;
                stats->new_tokens += new;
                stats->decoded_tokens += new > 0 ? new - 1 : 0; /* the first is prefill's */
            }
        }
    }
    for (int i = 0; i < rq->n && e; i++) {
        free(out[i].ids);
        out[i].ids = NULL;
    }
    batch_free(&b);
    return e;
}
