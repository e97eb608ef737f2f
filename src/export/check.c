/* See check.h. */
#include "export/check.h"
#include "base/philox.h"
#include "gen/likeness.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 4, ROW_TOKENS = 16, INPUTS = 4 /* ids, pos, cu, sample */ };

/* Ordinary text, a question, code; the last row is ids from all over the vocabulary. */
static const char *const texts[ROWS - 1] = {
    "The river rose slowly in the night, and by morning the lower fields lay under a sheet of grey water.",
    "Question: What is the capital of France, and how many people live there?\nAnswer: The capital",
    "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result"};

/* --- rows ------------------------------------------------------------------------------------------------------------ */
static void add_row(struct check *c, const int32_t *ids, int n) {
    for (int i = 0; i < n; i++) {
        c->ids[c->n] = ids[i];
        c->pos[c->n] = i;
        c->sample[c->n++] = c->s;
    }
    c->cu[++c->s] = c->n;
}

static void add_spread(struct check *c, int most, uint32_t row) {
    int32_t ids[ROW_TOKENS];
    for (int i = 0; i < most; i++) ids[i] = (int32_t)(philox(0x6379636C6F7261, row, (uint32_t)i, 0, 0).v[0] % (uint64_t)c->vocab);
    add_row(c, ids, most);
}

err check_open(struct check *c, const struct model *m, const tokenizer *tok) {
    *c = (struct check){.vocab = m->shape.vocab, .tok = tok};
    int most = m->shape.context < ROW_TOKENS ? (int)m->shape.context : ROW_TOKENS;
    c->ids = calloc(3 * ROWS * ROW_TOKENS + ROWS + 1, sizeof *c->ids);
    if (!c->ids) return fail(E_MEMORY, "out of memory");
    c->pos = c->ids + ROWS * ROW_TOKENS;
    c->sample = c->pos + ROWS * ROW_TOKENS;
    c->cu = c->sample + ROWS * ROW_TOKENS;
    for (uint32_t i = 0; i + 1 < ROWS; i++) {
        struct ids ids = {0};
        if (tok && tokenizer_adds_bos(tok) && tokenizer_bos(tok) >= 0 && ids_push(&ids, tokenizer_bos(tok)))
            return fail(E_MEMORY, "out of memory");
        bool usable = tok && !tokenizer_encode(tok, texts[i], strlen(texts[i]), false, &ids) && ids.n > 0;
        for (size_t k = 0; k < ids.n; k++) usable &= ids.v[k] < c->vocab;
        if (usable) add_row(c, ids.v, (int)ids.n < most ? (int)ids.n : most);
        else add_spread(c, most, i + 1);
        ids_free(&ids);
    }
    add_spread(c, most, 0);
    return OK;
}

void check_close(struct check *c) {
    free(c->ids);
    if (c->logits) arena_f32_free(c->logits, (size_t)c->n * (size_t)c->vocab * 4);
    *c = (struct check){0};
}

/* --- passes ---------------------------------------------------------------------------------------------------------- */
struct pass {
    struct program g;
    struct memory mem;
    const float *logits; /* [n, vocab], until pass_close() */
};

static err build(const struct check *c, const struct model *m, struct structure *st, struct program *g) {
    return program_build(g, m, MODE_SCORE, st, (struct capacity){c->n, c->s, 0, 0, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, &backend_cpu, true);
}

err check_bytes(struct check *c, const struct model *m, struct structure *st, size_t *bytes) {
    struct program g;
    struct memory mem;
    err e = build(c, m, st, &g);
    *bytes = 0;
    if (e) return e == E_UNSUPPORTED ? OK : e; /* an encoder alone */
    memory_sizes(&mem, (const struct program *const[]){&g}, 1);
    *bytes = mem.act_bytes + mem.scratch_bytes;
    c->runs = g.p.n_inputs == INPUTS;
    program_free(&g);
    return OK;
}

static void pass_close(struct pass *p) {
    memory_free(&p->mem);
    program_free(&p->g);
}

static err pass_open(struct pass *p, const struct check *c, const struct model *m, struct structure *st, const float *weights) {
    *p = (struct pass){0};
    if (m->shape.vocab != c->vocab)
        return fail(E_INTERNAL, "%s has a vocabulary of %lld, its base one of %lld", m->path, (long long)m->shape.vocab,
                    (long long)c->vocab);
    TRY(build(c, m, st, &p->g));
    struct run_ctx run = {.threads = omp_get_max_threads()};
    struct feed f = {.ids = c->ids, .pos = c->pos, .cu = c->cu, .sample = c->sample, .n = c->n, .s = c->s};
    void *param = NULL;
    err e = memory_for(&p->mem, (struct program *const[]){&p->g}, 1);
    if (!e) e = memory_bind(&p->mem, &p->g, weights, run.threads, &param);
    if (!e) e = program_run(&p->g, &p->mem, param, NULL, &f, &run, false);
    if (e) pass_close(p);
    else p->logits = program_out(&p->g, &p->mem, p->g.logits, c->n, c->s).p;
    return e;
}

/* --- comparing ------------------------------------------------------------------------------------------------------- */
/* Over all positions; *where is the worst one. */
static struct distance compare(const struct check *c, const float *p, const float *q, int *where, int *agree) {
    struct distance each[ROWS * ROW_TOKENS], all = {.worst = -1};
    *agree = 0;
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < c->n; i++) each[i] = logits_distance(p + i * c->vocab, q + i * c->vocab, c->vocab);
    for (int i = 0; i < c->n; i++) {
        all.kl += each[i].kl / c->n;
        all.square += each[i].square;
        all.spread += each[i].spread;
        *agree += each[i].same_top;
        if (!(each[i].worst <= all.worst)) all.worst = each[i].worst, all.at = each[i].at, *where = i;
    }
    return all;
}

err check_reference(struct check *c, const struct model *m, struct structure *st, const float *weights) {
    struct pass p;
    size_t bytes = (size_t)c->n * (size_t)c->vocab * 4;
    c->logits = arena_f32(bytes);
    if (!c->logits) return fail(E_MEMORY, "out of memory");
    TRY(pass_open(&p, c, m, st, weights));
    memcpy(c->logits, p.logits, bytes);
    pass_close(&p);
    c->moved = st != NULL;
    if (!st) return OK;
    int where, agree;
    TRY(pass_open(&p, c, m, NULL, NULL));
    c->moved_kl = compare(c, c->logits, p.logits, &where, &agree).kl;
    pass_close(&p);
    return OK;
}

/* About ten times what was measured on SmolLM2-135M (30 blocks): f32 1e-6, f16 0.0024, bf16 0.010, q8_0 0.072. */
double check_bound(dtype type) {
    static const struct {
        dtype dt;
        double bound;
    } bounds[] = {{DT_F32, 1e-4}, {DT_F16, 0.03}, {DT_BF16, 0.15}, {DT_Q8_0, 0.5}};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        if (bounds[i].dt == type) return bounds[i].bound;
    return HUGE_VAL;
}

static json_t *report_of(const struct check *c, const struct distance *d, int where, int agree, double bound) {
    int row = 0;
    while (where >= c->cu[row + 1]) row++;
    double relative = sqrt(d->square / (d->spread > 0 ? d->spread : 1));
    json_t *j = json_pack("{s:i, s:i, s:f, s:i, s:i, s:I, s:f, s:o, s:f, s:i}", "rows", c->s, "tokens", c->n, "worst", d->worst, "row",
                          row + 1, "position", where - c->cu[row] + 1, "id", (json_int_t)d->at, "relative", relative, "bound",
                          isfinite(bound) ? json_real(bound) : json_null(), "mean_kl", d->kl > 0 ? d->kl : 0, "same_top", agree);
    const char *token = c->tok && d->at < tokenizer_vocab(c->tok) ? tokenizer_token(c->tok, (int32_t)d->at) : NULL;
    json_t *text = token ? json_string(token) : NULL;
    if (text) json_object_set_new(j, "token", text);
    if (c->moved) json_object_set_new(j, "adapter_kl", json_real(c->moved_kl));
    return j;
}

err check_written(const struct check *c, const struct model *m, struct structure *st, const float *weights, dtype type, json_t *report) {
    struct pass p;
    int where = 0, agree;
    TRY(pass_open(&p, c, m, st, weights));
    struct distance d = compare(c, c->logits, p.logits, &where, &agree);
    pass_close(&p);
    double bound = check_bound(type), relative = sqrt(d.square / (d.spread > 0 ? d.spread : 1));
    json_object_set_new(report, "check", report_of(c, &d, where, agree, bound));
    if (relative <= bound && isfinite(d.worst)) return OK;
    return fail(E_NUMERIC,
                "the check failed: the logits of what was written differ by %.3g of their spread from the trained model's (%.3g is what %s "
                "explains; worst %.4g, mean KL %.4g); nothing was left of it",
                relative, bound, dtype_info[type].name, d.worst, d.kl);
}
