/* See options.h. */
#include "gen/options.h"
#include <stdlib.h>
#include <string.h>

enum { PREFILL, EXTEND, COPY, CONTINUE, PROGRAMS };
enum { PASS_TOKENS = 512, COLUMNS = 9 }; /* columns: see struct work */

struct work {
    const struct options_request *rq;
    struct program g[PROGRAMS];
    struct memory mem;
    void *param;
    int before; /* the method's virtual tokens */
    int head;   /* ids that all prompts begin with */
    int cap;    /* tokens of a pass */
    int32_t *ids, *pos, *slot, *label, *from, *rows, *sample, *last_pos, *cu;
    float *weight, *nll;
    int n, s;
};

static const struct option_list *at(const struct work *w, int place) { return &w->rq->v[w->rq->order[place]]; }

/* The ids that all begin with; each prompt keeps one, and a prompt alone shares nothing. */
static int common_head(const struct options_request *rq) {
    const struct ids *first = &rq->v[0].prompt;
    size_t n = rq->n > 1 ? first->n - 1 : 0;
    for (int i = 1; i < rq->n; i++) {
        const struct ids *p = &rq->v[i].prompt;
        size_t same = 0;
        while (same < n && same + 1 < p->n && p->v[same] == first->v[same]) same++;
        n = same;
    }
    return (int)n;
}

/* --- sizes ---------------------------------------------------------------------------------------------------------- */
static void measure(struct work *w, struct capacity *cap, struct options_stats *stats) {
    const struct options_request *rq = w->rq;
    size_t longest = 0, option = 0, total = 0;
    for (int i = 0; i < rq->n; i++) {
        const struct option_list *l = &rq->v[i];
        size_t most = 0;
        for (int k = 0; k < l->n; k++) {
            if (l->option[k].n > most) most = l->option[k].n;
            stats->option_tokens += (int64_t)l->option[k].n;
        }
        stats->prompt_tokens += (int64_t)l->prompt.n;
        if (l->prompt.n > longest) longest = l->prompt.n;
        if (most > option) option = most;
        if (l->prompt.n + most > total) total = l->prompt.n + most;
    }
    w->head = common_head(rq);
    stats->shared = w->head;
    w->cap = longest > PASS_TOKENS ? (int)longest : PASS_TOKENS;
    if ((int)option > w->cap) w->cap = (int)option;
    const int slots = rq->n < rq->batch ? rq->n : rq->batch;
    *cap = (struct capacity){w->cap, slots, slots, (int)total, rq->compute, DT_NONE, 0};
}

static err begin(struct work *w, struct options_stats *stats) {
    static const enum mode modes[PROGRAMS] = {MODE_PREFILL, MODE_EXTEND, MODE_COPY, MODE_CONTINUE};
    const struct options_request *rq = w->rq;
    struct capacity cap;
    struct program *list[PROGRAMS];
    measure(w, &cap, stats);
    for (int i = 0; i < PROGRAMS; i++) {
        TRY(program_generates(&w->g[i], rq->model, modes[i], rq->st, cap, &(struct choosing){0}, rq->backend));
        list[i] = &w->g[i];
    }
    w->before = w->g[PREFILL].virtual_tokens;
    w->cap += w->before;
    const size_t n = (size_t)(w->cap + cap.slots + 1);
    w->ids = calloc(COLUMNS * n, sizeof *w->ids);
    w->weight = calloc(2 * n, sizeof *w->weight);
    if (!w->ids || !w->weight) return fail(E_MEMORY, "out of memory");
    int32_t **const columns[COLUMNS] = {&w->ids, &w->pos, &w->slot, &w->label, &w->from, &w->rows, &w->sample, &w->last_pos, &w->cu};
    for (int k = 1; k < COLUMNS; k++) *columns[k] = w->ids + (size_t)k * n;
    w->nll = w->weight + n;
    TRY(memory_for(&w->mem, list, PROGRAMS));
    stats->bytes = w->mem.act_bytes + w->mem.scratch_bytes + w->mem.work_bytes;
    return memory_bind(&w->mem, &w->g[CONTINUE], rq->weights, rq->threads, &w->param);
}

static void end(struct work *w) {
    memory_free(&w->mem);
    for (int i = 0; i < PROGRAMS; i++) program_free(&w->g[i]);
    free(w->ids);
    free(w->weight);
}

/* --- passes --------------------------------------------------------------------------------------------------------- */
static err run(struct work *w, int which) {
    const struct feed f = {.ids = w->ids,
                           .pos = w->pos,
                           .slot = w->slot,
                           .cu = w->cu,
                           .label = w->label,
                           .weight = w->weight,
                           .from = w->from,
                           .rows = w->rows,
                           .sample = w->sample,
                           .last_pos = w->last_pos,
                           .n = w->n,
                           .s = w->s};
    return program_run(&w->g[which], &w->mem, w->param, NULL, &f, &(struct run_ctx){.threads = w->rq->threads}, false);
}

static void clear(struct work *w) { w->n = w->s = 0; }

/* Runs what there is, and begins anew. */
static err flush(struct work *w, int which) {
    if (w->n) TRY(run(w, which));
    clear(w);
    return OK;
}

/* Adds ids from .. to - 1 of a prompt; from its beginning with the method's own before them. */
static void add_prompt(struct work *w, const struct ids *p, int slot, int from, int to) {
    const int before = from ? 0 : w->before;
    for (int t = 0; t < before + to - from; t++, w->n++) {
        w->ids[w->n] = t < before ? w->g[PREFILL].virtual_first + t : p->v[from + t - before];
        w->pos[w->n] = (from ? w->before + from : 0) + t;
        w->slot[w->n] = slot;
    }
    w->rows[w->s] = w->n - 1;
    w->last_pos[w->s++] = w->before + to - 1;
    w->cu[w->s] = w->n;
}

/* What all prompts begin with, into every slot. */
static err run_head(struct work *w) {
    const int slots = w->rq->n < w->rq->batch ? w->rq->n : w->rq->batch;
    if (!w->head) return OK;
    add_prompt(w, &w->rq->v[0].prompt, 0, 0, w->head);
    TRY(flush(w, PREFILL));
    for (int slot = 1; slot < slots; slot++)
        for (int pos = 0; pos < w->before + w->head; pos++) {
            w->from[w->n] = 0, w->slot[w->n] = slot, w->pos[w->n++] = pos;
            if (w->n == w->cap) TRY(flush(w, COPY));
        }
    return flush(w, COPY);
}

/* The prompts at `from` .. `to` - 1, each into its slot. */
static err run_prompts(struct work *w, int from, int to) {
    const int which = w->head ? EXTEND : PREFILL, before = w->head ? 0 : w->before;
    for (int place = from; place < to; place++) {
        const struct ids *p = &at(w, place)->prompt;
        if (w->n + before + (int)p->n - w->head > w->cap) TRY(flush(w, which));
        add_prompt(w, p, place - from, w->head, (int)p->n);
    }
    return flush(w, which);
}

/* Takes the figures of the pass: option `round` of the prompts at place .. */
static err take(struct work *w, int round, const int *place) {
    if (!w->s) return OK;
    TRY(run(w, CONTINUE));
    TRY(program_read(&w->g[CONTINUE], &w->mem, w->g[CONTINUE].nll, w->n, w->s, w->nll, (size_t)w->n * sizeof *w->nll));
    for (int s = 0; s < w->s; s++) {
        double sum = 0;
        for (int t = w->cu[s]; t < w->cu[s + 1]; t++) sum -= (double)w->nll[t];
        at(w, place[s])->logprob[round] = sum;
    }
    clear(w);
    return OK;
}

static err run_round(struct work *w, int round, int from, int to, int *places) {
    for (int place = from; place < to; place++) {
        const struct option_list *l = at(w, place);
        if (round >= l->n) continue;
        const struct ids *o = &l->option[round];
        if (w->n + (int)o->n > w->cap) TRY(take(w, round, places));
        for (int t = 0; t < (int)o->n; t++, w->n++) {
            w->ids[w->n] = t ? o->v[t - 1] : l->prompt.v[l->prompt.n - 1];
            w->pos[w->n] = w->before + (int)l->prompt.n - 1 + t;
            w->slot[w->n] = place - from;
            w->label[w->n] = o->v[t];
            w->weight[w->n] = 1;
        }
        places[w->s++] = place;
        w->cu[w->s] = w->n;
    }
    return take(w, round, places);
}

static err all_batches(struct work *w) {
    const struct options_request *rq = w->rq;
    int *places = malloc((size_t)rq->batch * sizeof *places);
    err e = places ? run_head(w) : fail(E_MEMORY, "out of memory");
    for (int from = 0, to; from < rq->n && !e; from = to) {
        int rounds = 0;
        to = from + rq->batch < rq->n ? from + rq->batch : rq->n;
        for (int place = from; place < to; place++) rounds = at(w, place)->n > rounds ? at(w, place)->n : rounds;
        e = run_prompts(w, from, to);
        for (int k = 0; k < rounds && !e; k++) {
            e = run_round(w, k, from, to, places);
            if (!e && rq->stop && *rq->stop) e = fail(E_INTERRUPTED, "interrupted after %d of %d prompts", from, rq->n);
        }
    }
    free(places);
    return e;
}

err options_score(const struct options_request *rq, struct options_stats *stats) {
    struct work w = {.rq = rq};
    *stats = (struct options_stats){0};
    if (rq->model->family->seq2seq)
        return fail(E_UNSUPPORTED, "%s is an encoder-decoder (%s): options are scored by models that go on with a text", rq->model->path,
                    model_arch(rq->model));
    if (rq->st && rq->st->given) return fail(E_UNSUPPORTED, "this adapter reads vectors beside each text, and a task has none");
    err e = begin(&w, stats);
    if (!e) e = all_batches(&w);
    end(&w);
    return e;
}
