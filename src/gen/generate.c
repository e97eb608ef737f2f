/* See generate.h. */
#define _POSIX_C_SOURCE 200809L
#include "gen/batch.h"
#include <stdlib.h>
#include <string.h>

err generator_choosing(struct generator *g, const struct model *m, struct structure *st, struct capacity cap, const struct choosing *how,
                       const struct backend *backend) {
    *g = (struct generator){.cap = cap, .choosing = *how, .start = m->shape.start};
    if (how->beams > MOST_BEAMS || 2 * how->beams > m->shape.vocab)
        return fail(E_USAGE, "%d beams: at most %d, and no more than half of the %lld ids", how->beams, MOST_BEAMS,
                    (long long)m->shape.vocab);
    err e = program_generates(&g->prefill, m, MODE_PREFILL, st, cap, how, backend);
    if (!e) e = program_generates(&g->decode, m, MODE_DECODE, st, cap, how, backend);
    const bool shares = how->head > 0 && !m->family->seq2seq && !(st && (st->virtual_tokens || st->given));
    if (!e && shares) e = program_generates(&g->extend, m, MODE_EXTEND, st, cap, how, backend);
    if (!e && (shares || how->beams > 1)) e = program_generates(&g->copy, m, MODE_COPY, st, cap, how, backend);
    if (e) generator_free(g);
    return e;
}

err generator_build(struct generator *g, const struct model *m, struct structure *st, struct capacity cap, const struct backend *backend) {
    return generator_choosing(g, m, st, cap, &(struct choosing){0}, backend);
}

void generator_free(struct generator *g) {
    program_free(&g->prefill);
    program_free(&g->decode);
    program_free(&g->extend);
    program_free(&g->copy);
}

int generator_programs(const struct generator *g, const struct program *out[GENERATOR_PROGRAMS]) {
    const struct program *const all[] = {&g->prefill, &g->decode, &g->extend, &g->copy};
    int n = 0;
    for (int i = 0; i < GENERATOR_PROGRAMS; i++)
        if (all[i]->p.ni) out[n++] = all[i];
    return n;
}

int generate_beams(const struct generator *g) { return g->choosing.beams > 1 ? g->choosing.beams : 1; }

/* --- lines ---------------------------------------------------------------------------------------------------------- */
static void batch_free(struct batch *b) {
    free(b->given);
    free(b->all);
}

static err batch_init(struct batch *b, const struct generator *g, bool weights) {
    const struct capacity cap = g->cap;
    const int tokens = cap.tokens + g->prefill.virtual_tokens;
    size_t n = (size_t)(tokens > cap.slots ? tokens : cap.slots), s = (size_t)(cap.sequences > cap.slots ? cap.sequences : cap.slots) + 1;
    const size_t members = weights ? (size_t)g->decode.members : 0,
                 each = g->choosing.beams > 1 ? 4 * (size_t)g->choosing.beams : 2 * LOG_LINES;
    int32_t *p = b->all = calloc(8 * n + (8 + each) * s + 2 * n * members, sizeof *p);
    *b = (struct batch){.all = p, .members = (int)members};
    if (!p) return fail(E_MEMORY, "out of memory");
    int32_t **const by_n[] = {&b->ids, &b->pos, &b->slot, &b->copied_from, &b->src_ids, &b->src_pos, &b->src_slot, &b->src_sample};
    int32_t **const by_s[] = {&b->cu, &b->rows, &b->sample, &b->last_pos, &b->begin, &b->live, &b->src_cu, &b->src_last};
    for (int k = 0; k < 8; k++, p += n) *by_n[k] = p;
    for (int k = 0; k < 8; k++, p += s) *by_s[k] = p;
    b->next = p;
    p += each * s;
    if (members) b->mix = (float *)p, b->src_mix = b->mix + n * members;
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

/* Adds tokens from .. to - 1 of a prompt to a pass. An encoder-decoder's is the encoder's text; its decoder begins with one token of its own. */
static void add_prompt(const struct generating *w, struct feed *f, int row, int slot, int from, int to) {
    const struct program *g = &w->g->prefill;
    const struct generate_request *rq = w->rq;
    struct batch *b = w->b;
    const int before = from ? 0 : g->virtual_tokens, given = g->given, first = g->virtual_first + (given ? f->m : 0),
              n = before + to - from;
    const size_t numbers = (size_t)given * (size_t)g->given_width;
    const bool apart = g->seq2seq;
    int32_t *ids = apart ? b->src_ids + f->m : b->ids + f->n, *pos = apart ? b->src_pos + f->m : b->pos + f->n,
            *slots = apart ? b->src_slot + f->m : b->slot + f->n;
    for (int t = 0; t < n; t++) {
        ids[t] = t < before ? first + t : rq->prompt[row].v[from + t - before];
        pos[t] = from + t;
        slots[t] = slot;
    }
    weigh_lines(rq, b, b->mix, f->n, apart ? 1 : n, row);
    if (given) {
        memcpy(b->given + (size_t)f->m * (size_t)g->given_width, rq->given + (size_t)row * numbers, numbers * sizeof *b->given);
        f->m += given;
    }
    if (apart) {
        weigh_lines(rq, b, b->src_mix, f->m, n, row);
        f->m += n;
        b->ids[f->n] = w->g->start, b->pos[f->n] = 0, b->slot[f->n] = slot;
    }
    f->n += apart ? 1 : n;
    note_adapter(rq, b, row, f->n);
    b->cu[f->s + 1] = f->n;
    b->src_cu[f->s + 1] = f->m;
    b->rows[f->s] = f->n - 1;
    b->sample[f->s] = rq->first_sample + row;
    b->last_pos[f->s++] = apart ? 0 : from + n - 1;
}

static struct feed pass_feed(const struct generating *w) {
    const struct batch *b = w->b;
    return (struct feed){.ids = b->ids,
                         .pos = b->pos,
                         .cu = b->cu,
                         .slot = b->slot,
                         .rows = b->rows,
                         .sample = b->sample,
                         .last_pos = b->last_pos,
                         .src_ids = b->src_ids,
                         .src_pos = b->src_pos,
                         .src_cu = b->src_cu,
                         .src_sample = b->src_sample,
                         .src_slot = b->src_slot,
                         .mix = b->mix,
                         .src_mix = b->src_mix,
                         .given = w->rq->given ? b->given : NULL,
                         .given_rows = b->given_rows};
}

static err run_pass(const struct generating *w, const struct program *g, const struct feed *f) {
    struct run_ctx run = w->rq->run;
    run.int_activations = false; /* of decoding only: a short prompt's rows would take them, a long one's would not */
    return program_run(g, w->mem, w->param, NULL, f, &run, false);
}

const struct program *generate_opens(const struct generating *w) { return w->shared ? &w->g->extend : &w->g->prefill; }

err generate_pass(const struct generating *w, int place, int *n, int *s) {
    const struct generator *g = w->g;
    struct feed f = pass_feed(w);
    const int before = w->shared ? 0 : g->prefill.virtual_tokens, most = g->cap.tokens + before;
    forget_adapters(w->b);
    for (; place < w->to && f.s < g->cap.sequences; place++) {
        const int row = w->order[place], len = (int)w->rq->prompt[row].n;
        if ((g->prefill.seq2seq ? f.m : f.n) + before + len - w->shared > most) break;
        add_prompt(w, &f, row, (place - w->from) * generate_beams(g), w->shared, len);
    }
    if (!f.s) return fail(E_INTERNAL, "a prompt of %zu tokens does not fit a pass of %d", w->rq->prompt[w->order[place]].n, g->cap.tokens);
    *n = f.n, *s = f.s;
    return run_pass(w, generate_opens(w), &f);
}

/* --- what slots have in common -------------------------------------------------------------------------------------- */
err generate_copies(const struct generating *w) {
    struct batch *b = w->b;
    const struct feed f = {.from = b->copied_from, .slot = b->slot, .pos = b->pos, .n = b->copies};
    if (!b->copies) return OK;
    b->copies = 0;
    return program_run(&w->g->copy, w->mem, w->param, NULL, &f, &w->rq->run, false);
}

err generate_copy(const struct generating *w, int from, int to, int pos, int end) {
    struct batch *b = w->b;
    for (; pos < end; pos++) {
        if (b->copies == w->g->copy.p.cap[-SYM_N]) TRY(generate_copies(w));
        b->copied_from[b->copies] = from, b->slot[b->copies] = to, b->pos[b->copies++] = pos;
    }
    return OK;
}

/* How many ids all prompts of this batch begin with, where they are worth a pass of their own. Each prompt keeps one. */
static int shared_head(const struct generating *w) {
    const struct ids *prompt = w->rq->prompt, *first = &prompt[w->order[w->from]];
    if (!w->g->extend.p.ni || w->b->members || w->rq->crowd || w->to - w->from < 2) return 0;
    size_t n = first->n - 1;
    for (int i = w->from; i < w->to; i++) {
        const struct ids *p = &prompt[w->order[i]];
        size_t same = 0;
        while (same < n && same + 1 < p->n && p->v[same] == first->v[same]) same++;
        n = same;
    }
    return (int)n < w->g->choosing.head ? 0 : (int)n;
}

/* The batch's shared head goes through once, and to all its slots. */
static err run_head(struct generating *w) {
    struct feed f = pass_feed(w);
    w->shared = shared_head(w);
    if (!w->shared) return OK;
    add_prompt(w, &f, w->order[w->from], 0, 0, w->shared);
    TRY(run_pass(w, &w->g->prefill, &f));
    w->stats->shared_tokens += (int64_t)w->shared * (w->to - w->from - 1);
    for (int i = 1; i < w->to - w->from; i++) TRY(generate_copy(w, 0, i * generate_beams(w->g), 0, w->shared));
    return generate_copies(w);
}

int generate_begins(const struct generating *w, int row) {
    return w->g->decode.seq2seq ? 1 : w->g->decode.virtual_tokens + (int)w->rq->prompt[row].n;
}

void generate_line(const struct generating *w, int i, int place, int32_t id, int made, int slot) {
    struct batch *b = w->b;
    const int row = w->order[place];
    if (i == 0) forget_adapters(b);
    note_adapter(w->rq, b, row, i + 1);
    b->ids[i] = id;
    b->begin[i] = generate_begins(w, row);
    b->pos[i] = b->begin[i] + made - 1;
    b->src_last[i] = (int32_t)w->rq->prompt[row].n - 1;
    b->slot[i] = slot;
    b->src_slot[i] = (place - w->from) * generate_beams(w->g);
    b->sample[i] = w->rq->first_sample + row;
    weigh_lines(w->rq, b, b->mix, i, 1, row);
}

int generate_lines(const struct generating *w, int n) {
    struct batch *b = w->b;
    const int lines = program_lines(&w->g->decode, n), last = n - 1;
    const size_t members = (size_t)b->members;
    int32_t *const each[] = {b->ids, b->begin, b->pos, b->src_last, b->slot, b->src_slot, b->sample};
    for (int i = n; i < lines; i++) {
        for (size_t k = 0; k < sizeof each / sizeof *each; k++) each[k][i] = each[k][last];
        if (members) memcpy(b->mix + (size_t)i * members, b->mix + (size_t)last * members, members * sizeof *b->mix);
    }
    for (int k = 0; k < b->adapters.n; k++)
        if (b->adapters.of[k].end == n) b->adapters.of[k].end = lines;
    return lines;
}

struct feed generate_feed(const struct batch *b, int lines) {
    return (struct feed){.ids = b->ids,
                         .pos = b->pos,
                         .slot = b->slot,
                         .sample = b->sample,
                         .begin = b->begin,
                         .src_last = b->src_last,
                         .src_slot = b->src_slot,
                         .mix = b->mix,
                         .n = lines,
                         .repeats = true};
}

/* --- one token a row and step --------------------------------------------------------------------------------------- */
/* What a run of `lines` rows sampled, as program_log() has it. */
static err read_line(const struct program *g, const struct memory *mem, int n, int s, int lines, int32_t *to) {
    TRY(program_read(g, mem, g->next, n, s, to, (size_t)lines * 4));
    return program_read(g, mem, g->logprob, n, s, to + lines, (size_t)lines * 4);
}

/* Leaves each row's first token in out. */
static err prefill(const struct generating *w, int *n_live) {
    const struct program *g = generate_opens(w);
    struct batch *b = w->b;
    for (int place = w->from, n, s; place < w->to; place += s) {
        TRY(generate_pass(w, place, &n, &s));
        TRY(read_line(g, w->mem, n, s, s, b->next));
        for (int i = 0; i < s; i++)
            if (take(w->rq, w->out, w->order[place + i], b->next + i, s)) b->live[(*n_live)++] = place + i;
    }
    return OK;
}

/* `steps` tokens for each line into b->next, [steps][2][lines]. Between them nothing comes to the host. */
static err run_steps(const struct generating *w, int lines, int steps) {
    const struct program *decode = &w->g->decode;
    const struct memory *mem = w->mem;
    const struct run_ctx *run = &w->rq->run;
    struct feed f = generate_feed(w->b, lines);
    TRY(program_run(decode, mem, w->param, NULL, &f, run, false));
    w->stats->runs += steps;
    if (!mem->log) return read_line(decode, mem, lines, 0, lines, w->b->next);
    for (int k = 0; k < steps; k++) {
        if (k) TRY(program_again(decode, mem, w->param, lines, run));
        TRY(program_advance(decode, mem, lines, k));
    }
    return program_log(mem, lines, steps, w->b->next);
}

/* All live rows have made the same number of tokens, so what is left to make is one number too. A row that ends between two looks
 * goes on in its own cache until the next, unheard. */
static err decode(const struct generating *w, int n_live) {
    const struct generate_request *rq = w->rq;
    struct batch *b = w->b;
    while (n_live > 0) {
        if (rq->stop && *rq->stop) return fail(E_INTERRUPTED, "interrupted");
        int left = rq->max_new - w->out[w->order[b->live[0]]].n, steps = !w->mem->log || rq->on_token ? 1
                                                                         : left < LOG_LINES           ? left
                                                                                                      : LOG_LINES;
        for (int i = 0; i < n_live; i++) {
            const struct generation *o = &w->out[w->order[b->live[i]]];
            generate_line(w, i, b->live[i], o->ids[o->n - 1], o->n, b->live[i] - w->from);
        }
        const int lines = generate_lines(w, n_live);
        TRY(run_steps(w, lines, steps));
        int still = 0;
        for (int i = 0; i < n_live; i++) {
            bool on = true;
            for (int k = 0; k < steps && on; k++) on = take(rq, w->out, w->order[b->live[i]], b->next + 2 * k * lines + i, lines);
            if (on) b->live[still++] = b->live[i];
        }
        n_live = still;
    }
    return OK;
}

static err run_tokens(const struct generating *w) {
    int n_live = 0;
    const double t0 = seconds_now();
    TRY(prefill(w, &n_live));
    const double t1 = seconds_now();
    err e = decode(w, n_live);
    w->stats->prefill_s += t1 - t0;
    w->stats->decode_s += seconds_now() - t1;
    return e;
}

/* --- a request ------------------------------------------------------------------------------------------------------ */
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
    const struct sampling *how = &rq->run.sampling;
    if (sampling_processes(how) && !g->choosing.rules) return fail(E_INTERNAL, "programs without rules cannot penalise ids");
    if (g->choosing.beams > 1 && rq->crowd) return fail(E_INTERNAL, "beams of several adapters at once");
    if (g->choosing.beams > 1 && how->temperature > 0)
        return fail(E_USAGE, "beams take the likeliest: they do not go with a temperature of %g", (double)how->temperature);
    if (how->min_new > rq->max_new) return fail(E_USAGE, "min_new_tokens %d is more than max_new_tokens %d", how->min_new, rq->max_new);
    return rq->max_new < 1 ? fail(E_USAGE, "max_new_tokens must be at least 1") : OK;
}

struct place {
    size_t length;
    int row;
};

static int longest_first(const void *a, const void *b) {
    const struct place *x = a, *y = b;
    return x->length != y->length ? (x->length < y->length) - (x->length > y->length) : (x->row > y->row) - (x->row < y->row);
}

/* Rows as they come where one batch has them all, or they are several adapters', else by length. */
static err order_rows(const struct generate_request *rq, int at_once, int *order) {
    struct place *p = malloc((size_t)rq->n * sizeof *p + 1);
    if (!p) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < rq->n; i++) p[i] = (struct place){rq->prompt[i].n, i};
    if (rq->n > at_once && !rq->crowd) qsort(p, (size_t)rq->n, sizeof *p, longest_first);
    for (int i = 0; i < rq->n; i++) order[i] = p[i].row;
    free(p);
    return OK;
}

static void count(const struct generate_request *rq, const struct generation *out, struct generate_stats *stats) {
    for (int i = 0; i < rq->n; i++) {
        const int64_t new = out[i].n + out[i].stopped;
        stats->prompt_tokens += (int64_t)rq->prompt[i].n;
        stats->new_tokens += new;
        stats->decoded_tokens += new > 0 ? new - 1 : 0; /* the first is prefill's */
    }
}

err generate(const struct generator *g, const struct memory *mem, const float *weights, const struct generate_request *rq,
             struct generation *out, struct generate_stats *stats) {
    struct generate_request own = *rq;
    struct generate_stats unasked = {0};
    struct batch b;
    own.run.sampling.eos = rq->eos;
    TRY(check(g, rq));
    TRY(batch_init(&b, g, rq->mix != NULL));
    const int at_once = g->cap.slots / generate_beams(g);
    int *order = malloc((size_t)rq->n * sizeof *order + 1);
    struct generating w = {.g = g, .mem = mem, .rq = &own, .order = order, .b = &b, .out = out, .stats = stats ? stats : &unasked};
    err e = order ? order_rows(rq, at_once, order) : fail(E_MEMORY, "out of memory");
    if (rq->crowd) own.run.adapters = &b.adapters;
    if (!e)
        e = rq->crowd ? memory_bind_all(mem, &g->decode, rq->crowd, rq->run.threads, &w.param, &b.adapters)
                      : memory_bind(mem, &g->decode, weights, rq->run.threads, &w.param);
    for (int i = 0; i < rq->n; i++) {
        out[i] = (struct generation){.ids = malloc((size_t)rq->max_new * sizeof(int32_t))};
        if (!out[i].ids) e = fail(E_MEMORY, "out of memory");
    }
    for (; w.from < rq->n && !e; w.from = w.to) {
        w.to = w.from + at_once < rq->n ? w.from + at_once : rq->n;
        const double t0 = seconds_now();
        e = run_head(&w);
        w.stats->prefill_s += seconds_now() - t0;
        if (!e) e = g->choosing.beams > 1 ? beams_run(&w) : run_tokens(&w);
    }
    if (!e) count(rq, out, w.stats);
    for (int i = 0; i < rq->n && e; i++) {
        free(out[i].ids);
        out[i].ids = NULL;
    }
    free(order);
    batch_free(&b);
    return e;
}
