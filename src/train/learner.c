/* See learner.h. */
#include "train/learner.h"
#include "base/arena.h"
#include "train/accumulation.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double FIRST_SCALE = 65536;
enum { GROW_AFTER = 2000 };

int learner_states(const struct structure *st) { return st->method ? st->method->states : 0; }

err learner_init(struct learner *l, struct structure *st, const struct program *program, const struct recipe *r) {
    const struct backend *backend = program->plan.backend;
    *l = (struct learner){.st = st, .program = program, .recipe = *r, .backend = backend};
    if (prog_dt(&program->p) == DT_F16) l->scaler.scale = FIRST_SCALE;
    l->w = backend->mem->take(st->params.bytes);
    l->m = backend->mem->take(st->params.trained);
    l->v = backend->mem->take(st->params.trained);
    const int own = learner_states(st);
    bool room = l->w && l->m && l->v;
    for (int i = 0; i < own; i++) room &= (l->own[i] = backend->mem->take(st->params.trained)) != NULL;
    if (room) return OK;
    learner_free(l);
    return fail(E_MEMORY, "cannot allocate %zu bytes for an adapter and its optimizer", st->params.bytes + (size_t)(2 + own) * st->params.trained);
}

void learner_free(struct learner *l) {
    if (!l->st) return;
    if (l->w) l->backend->mem->give(l->w, l->st->params.bytes);
    float *const states[] = {l->m, l->v, l->own[0], l->own[1]};
    for (int i = 0; i < 2 + MAX_STATES; i++)
        if (states[i]) l->backend->mem->give(states[i], l->st->params.trained);
    reach_free(&l->reach);
    *l = (struct learner){0};
}

/* --- from and to the host ------------------------------------------------------------------------------------------ */
static size_t bytes_of(const struct learner *l, const float *there) { return there == l->w ? l->st->params.bytes : l->st->params.trained; }

/* An arena of the backend (`there`) as the host sees it: itself, or a copy that lend_end() frees. */
static err lend(const struct learner *l, float *there, bool with_content, float **host) {
    *host = l->backend->mem->host ? there : pages_take(bytes_of(l, there));
    if (!*host) return fail(E_MEMORY, "out of memory");
    return *host != there && with_content ? l->backend->mem->download(*host, there, bytes_of(l, there)) : OK;
}

/* What was written into the lent copy goes back. */
static err put_back(const struct learner *l, float *there, const float *host) {
    return host == there ? OK : l->backend->mem->upload(there, host, bytes_of(l, there));
}

static void lend_end(const struct learner *l, const float *there, float *host) {
    if (host && host != there) pages_give(host, bytes_of(l, there));
}

err learner_fill(struct learner *l, uint64_t key) {
    float *host;
    TRY(lend(l, l->w, false, &host));
    err e = param_fill(&l->st->params, key, host);
    if (!e) e = put_back(l, l->w, host);
    lend_end(l, l->w, host);
    return e;
}

err learner_write(const struct learner *l, const char *folder, const char *base_model) {
    float *host;
    err e = lend(l, l->w, true, &host);
    if (!e) e = adapter_write(folder, l->st, host, base_model);
    lend_end(l, l->w, host);
    return e;
}

static err write_finished(const struct numbers *have, const char *folder, const struct model *m, const struct structure *st) {
    struct structure done;
    arena mem = {0};
    const void *settings;
    TRY(st->method->finished(have, &mem, &settings));
    err e = structure_init_head(&done, m, st->method, settings, &st->head, NULL);
    float *weights = e ? NULL : arena_f32(done.params.bytes);
    if (!e && !weights) e = fail(E_MEMORY, "out of memory");
    if (!e) {
        st->method->adopt(have, &(struct numbers){settings, &done.params, weights});
        e = adapter_write(folder, &done, weights, m->path);
        arena_f32_free(weights, done.params.bytes);
    }
    structure_free(&done);
    arena_free(&mem);
    return e;
}

err learner_finish(const struct learner *l, const char *folder, const struct model *m) {
    if (!l->st->method->finished) return learner_write(l, folder, m->path);
    float *host;
    err e = lend(l, l->w, true, &host);
    if (!e) e = write_finished(&(struct numbers){l->st->settings, &l->st->params, host}, folder, m, l->st);
    lend_end(l, l->w, host);
    return e;
}

err learner_load(struct learner *l, const char *folder, const struct model *m) {
    float *host;
    err e = lend(l, l->w, false, &host);
    if (!e) e = adapter_load(folder, m, l->st, host);
    if (!e) e = put_back(l, l->w, host);
    lend_end(l, l->w, host);
    return e;
}

/* Where each parameter lies, as 32 characters: moments that were saved for another order of the same size are for other parameters. */
static err layout_hash(const struct param_set *s, char hex[33]) {
    str all = {0};
    for (int i = 0; i < s->n; i++) str_addf(&all, "%s %zu\n", s->p[i].name, s->p[i].off);
    if (!all.p) return fail(E_MEMORY, "out of memory");
    bytes_hash(all.p, all.n, hex);
    str_free(&all);
    return OK;
}

static const char *const own_names[MAX_STATES] = {"method_state_1", "method_state_2"};

err optimizer_write(const struct learner *l, const char *folder) {
    char path[4096], layout[33];
    size_t bytes = l->st->params.trained;
    int32_t step = (int32_t)l->adam_steps, good = (int32_t)l->scaler.good;
    float *m, *v = NULL, *own[MAX_STATES] = {NULL}, scale = (float)l->scaler.scale;
    err e = lend(l, l->m, true, &m);
    if (!e) e = lend(l, l->v, true, &v);
    for (int i = 0; i < learner_states(l->st) && !e; i++) e = lend(l, l->own[i], true, &own[i]);
    if (!e) e = layout_hash(&l->st->params, layout);
    int n = 4;
    struct tensor t[6 + MAX_STATES] = {{.name = "exp_avg", .dt = DT_F32, .nd = 1, .d = {(int64_t)(bytes / 4)}, .data = m, .bytes = bytes},
                         {.name = "exp_avg_sq", .dt = DT_F32, .nd = 1, .d = {(int64_t)(bytes / 4)}, .data = v, .bytes = bytes},
                         {.name = "step", .dt = DT_I32, .nd = 1, .d = {1}, .data = &step, .bytes = 4},
                         {.name = "layout", .dt = DT_I32, .nd = 1, .d = {8}, .data = layout, .bytes = 32}};
    if (l->scaler.scale != 0) {
        t[n++] = (struct tensor){.name = "loss_scale", .dt = DT_F32, .nd = 1, .d = {1}, .data = &scale, .bytes = 4};
        t[n++] = (struct tensor){.name = "loss_scale_good_steps", .dt = DT_I32, .nd = 1, .d = {1}, .data = &good, .bytes = 4};
    }
    for (int i = 0; i < learner_states(l->st); i++) t[n++] = (struct tensor){.name = own_names[i], .dt = DT_F32, .nd = 1, .d = {(int64_t)(bytes / 4)}, .data = own[i], .bytes = bytes};
    snprintf(path, sizeof path, "%s/optimizer.safetensors", folder);
    if (!e) e = safetensors_write(path, t, n);
    for (int i = 0; i < learner_states(l->st); i++) lend_end(l, l->own[i], own[i]);
    lend_end(l, l->m, m);
    lend_end(l, l->v, v);
    return e;
}

/* Files of before there was a layout have the parameters in the order of their names' making, as an arena of one rate has. */
static bool layout_fits(const struct tensor *t, const struct param_set *s, const char hex[33]) {
    if (t) return t->bytes == 32 && !memcmp(t->data, hex, 32);
    for (int i = 0; i < s->n; i++)
        if (s->p[i].rate != 1) return false;
    return true;
}

err optimizer_read(struct learner *l, const char *folder, bool *found) {
    char path[4096], layout[33];
    struct tensors ts;
    size_t bytes = l->st->params.trained;
    snprintf(path, sizeof path, "%s/optimizer.safetensors", folder);
    *found = path_exists(path);
    if (!*found) return OK;
    TRY(layout_hash(&l->st->params, layout));
    TRY(tensors_open(path, &ts));
    const struct tensor *m = tensors_find(&ts, "exp_avg"), *v = tensors_find(&ts, "exp_avg_sq"), *step = tensors_find(&ts, "step");
    err e = m && v && step && m->bytes == bytes && v->bytes == bytes && step->bytes == 4 &&
                    layout_fits(tensors_find(&ts, "layout"), &l->st->params, layout)
                ? OK
                : fail(E_INPUT, "%s: the optimizer state does not belong to this configuration", path);
    for (int i = 0; i < learner_states(l->st) && !e && l->updates > 0; i++) {
        const struct tensor *own = tensors_find(&ts, own_names[i]);
        e = own && own->bytes == bytes ? l->backend->mem->upload(l->own[i], own->data, bytes)
                                       : fail(E_INPUT, "%s: %s is missing or does not belong to this configuration", path, own_names[i]);
    }
    if (!e) e = l->backend->mem->upload(l->m, m->data, bytes);
    if (!e) e = l->backend->mem->upload(l->v, v->data, bytes);
    if (!e) l->adam_steps = *(const int32_t *)step->data;
    const struct tensor *scale = tensors_find(&ts, "loss_scale"), *good = tensors_find(&ts, "loss_scale_good_steps");
    if (!e && l->scaler.scale != 0 && scale && good && scale->bytes == 4 && good->bytes == 4) l->scaler = (struct scaler){*(const float *)scale->data, *(const int32_t *)good->data, 0};
    tensors_close(&ts);
    return e;
}

/* Splits rows into passes: b->first. */
static err split_passes(const struct program *g, struct workbench *b, const struct row *const *rows, int n, int *passes) {
    int cap_n = (int)g->p.cap[-SYM_N], cap_s = (int)g->p.cap[-SYM_S];
    if (n + 1 > b->first_cap) {
        int *first = realloc(b->first, (size_t)(n + 1) * sizeof *first);
        if (!first) return fail(E_MEMORY, "out of memory");
        b->first = first;
        b->first_cap = n + 1;
    }
    for (int i = 0; i < n; i++)
        if (rows[i]->n + g->virtual_tokens > cap_n)
            return fail(E_INTERNAL, "a row of %d tokens exceeds the plan's %d", rows[i]->n + g->virtual_tokens, cap_n);
    *passes = b->passes = pack_plan(rows, n, g->virtual_tokens, cap_n, b->rows_apart ? 1 : cap_s, b->first);
    b->pack.virtual_tokens = g->virtual_tokens;
    b->pack.virtual_first = g->virtual_first;
    return pack_given(&b->pack, g->given, g->given_width);
}

/* What a pack gives a program of rows. */
static struct feed feed_of(const struct pack *k) {
    return (struct feed){.ids = k->ids,
                         .pos = k->pos,
                         .cu = k->cu,
                         .sample = k->sample,
                         .label = k->label,
                         .weight = k->weight,
                         .target = k->target,
                         .src_ids = k->src_ids,
                         .src_pos = k->src_pos,
                         .src_cu = k->src_cu,
                         .src_sample = k->src_sample,
                         .given = pack_vectors(k),
                         .given_rows = k->x_rows,
                         .n = k->n,
                         .s = k->s,
                         .m = k->m};
}

/* Runs rows through a train or score program, pass by pass, adding its four sums. */
static err run_passes(const struct program *g, struct workbench *b, const float *weights, float *grad, const struct row *const *rows,
                      int n, const struct run_ctx *run, double sums[4]) {
    int passes;
    void *param;
    TRY(split_passes(g, b, rows, n, &passes));
    TRY(memory_bind(&b->mem, g, weights, b->threads, &param));
    memset(sums, 0, 4 * sizeof *sums);
    for (int p = 0; p < passes; p++) {
        pack_clear(&b->pack);
        for (int i = b->first[p]; i < b->first[p + 1]; i++) pack_row(&b->pack, rows[i], i);
        struct pack *k = &b->pack;
        int up_n = k->n, up_s = k->s;
        bool repeats = !g->seq2seq && !g->given && program_rungs(g, &up_n, &up_s);
        if (repeats) pack_pad(k, up_n, up_s);
        struct feed f = feed_of(k);
        f.repeats = repeats;
        float out[4];
        TRY(program_run(g, &b->mem, param, grad, &f, run, false));
        TRY(program_read(g, &b->mem, g->loss, k->n, k->s, out, sizeof out));
        for (int j = 0; j < 4; j++) sums[j] += (double)out[j];
    }
    return OK;
}

/* The rows of a pack that are read, one of each sequence. */
static void read_positions(const struct pack *k, int32_t *at) {
    for (int s = 0; s < k->s; s++)
        for (int32_t i = k->cu[s]; i < k->cu[s + 1]; i++)
            if (k->weight[i] != 0) at[s] = i;
}

err rows_outputs(const struct program *g, struct workbench *b, const float *weights, const struct row *const *rows, int n, val value, float *to) {
    const struct view out = prog_view(&g->p, value, NULL);
    const bool of_tokens = prog_v(&g->p, value)->d[0] == SYM_N; /* a row for each, of which the supervised are wanted; else one for each text */
    const int64_t columns = out.d[1];
    const size_t row = dtype_row_bytes(out.dt, columns), most = (size_t)out.d[0];
    const struct run_ctx run = {.threads = b->threads};
    int passes;
    void *param;
    TRY(split_passes(g, b, rows, n, &passes));
    TRY(memory_bind(&b->mem, g, weights, b->threads, &param));
    int32_t *at = calloc((size_t)g->p.cap[-SYM_S], sizeof *at);
    char *have = malloc(most * row);
    err e = at && have ? OK : fail(E_MEMORY, "out of memory");
    for (int p = 0; p < passes && !e; p++) {
        struct pack *k = &b->pack;
        pack_clear(k);
        for (int i = b->first[p]; i < b->first[p + 1]; i++) pack_row(k, rows[i], i);
        read_positions(k, at);
        struct feed f = feed_of(k);
        f.rows = at;
        e = program_run(g, &b->mem, param, NULL, &f, &run, false);
        const int count = of_tokens ? k->n : k->s;
        if (!e) e = program_read(g, &b->mem, value, k->n, k->s, have, (size_t)count * row);
        for (int i = 0; i < count && !e; i++) {
            if (of_tokens && k->weight[i] == 0) continue;
            dequantise_row(out.dt, have + (size_t)i * row, to, columns);
            to += columns;
        }
    }
    free(at);
    free(have);
    return e;
}

err rows_loss(const struct program *score, struct workbench *b, const float *weights, const struct row *const *rows, int n, double sums[4]) {
    struct run_ctx run = {.threads = b->threads};
    return run_passes(score, b, weights, NULL, rows, n, &run, sums);
}

err learner_gradient(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed, uint64_t step, double sums[4]) {
    struct run_ctx run = {.seed = seed, .step = step, .threads = b->threads, .loss_scale = (float)l->scaler.scale};
    TRY(l->backend->mem->fill(b->grad, 0, l->st->params.trained));
    return run_passes(l->program, b, l->w, b->grad, rows, n, &run, sums);
}

/* After a step: is its gradient to be left out? */
static bool scaler_skips(struct scaler *s, bool finite) {
    if (s->scale == 0) return false;
    if (!finite) s->scale /= 2, s->good = 0, s->skipped++;
    else if (++s->good == GROW_AFTER) s->scale *= 2, s->good = 0;
    return !finite && s->scale >= 1; /* below that it is not the scale */
}

/* A stretch of the arena at a time (core/params.h). Weight decay is for matrices: a norm's weight, a bias, a scale have no reason to be near 0 (transformers' Trainer leaves norms and
 * biases out too). */
static err adamw(struct learner *l, const struct adamw *o, struct workbench *b) {
    struct param_stretch t;
    for (size_t from = 0, n = 0; from < l->st->params.trained; from = t.end, n = from / 4) {
        t = param_stretch(&l->st->params, from);
        struct adamw its = *o;
        its.lr *= t.rate;
        if (t.vectors) its.weight_decay = 0;
        TRY(l->backend->flat->adamw(&its, &(struct adamw_state){l->w + n, l->m + n, l->v + n, b->grad + n}, (int64_t)(t.end - from) / 4, b->threads));
    }
    return OK;
}

err learner_step(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed, uint64_t step,
                 struct step_result *out) {
    double sums[4], scale = l->scaler.scale != 0 ? l->scaler.scale : 1;
    const struct recipe *r = &l->recipe;
    int64_t elems = (int64_t)(l->st->params.trained / 4);
    TRY(learner_gradient(l, b, rows, n, seed, step, sums));
    if (b->check_accumulation && !l->checked) TRY(accumulation_check(l, b, rows, n, seed, step, sums));
    l->checked = true;
    if (sums[1] <= 0) return fail(E_INPUT, "step %llu has no supervised token", (unsigned long long)step + 1);
    const struct peft_method *method = l->st->method;
    struct tuning t = {.backend = l->backend, .set = &l->st->params, .w = l->w, .grad = b->grad, .own = {l->own[0], l->own[1]}, .step = l->updates, .weight = sums[1] * scale, .threads = b->threads};
    if (method->before_step) TRY(method->before_step(l->st->settings, &t));
    double norm;
    TRY(reach_check(&l->reach, &(struct reaching){&l->st->params, l->backend, b->grad, b->threads, l->side}));
    TRY(l->backend->flat->sumsq(b->grad, elems, b->threads, &norm));
    norm = sqrt(norm) / (sums[1] * scale);
    *out = (struct step_result){.loss = sums[0] / sums[1], .grad_norm = norm, .accuracy = sums[2] / sums[1], .supervised = (int64_t)sums[3], .loss_scale = l->scaler.scale};
    out->learning_rate = r->learning_rate * schedule_at(r->schedule, l->updates, r->warmup_steps, r->total_steps);
    for (int i = 0; i < n; i++) out->tokens += rows[i]->n;
    if (isfinite(sums[0]) && (out->skipped = scaler_skips(&l->scaler, isfinite(norm)))) return OK;
    if (!isfinite(sums[0]) || !isfinite(norm))
        return fail(E_NUMERIC, "step %llu: the %s is not finite; the weights are unchanged. Lower learning_rate or look at the data",
                    (unsigned long long)step + 1, isfinite(sums[0]) ? "gradient" : "loss");
    double clip = r->max_grad_norm > 0 ? r->max_grad_norm / (norm + 1e-6) : 1; /* torch's clip_grad_norm_ */
    struct adamw o = {.lr = out->learning_rate, .beta1 = r->beta1, .beta2 = r->beta2, .eps = r->epsilon, .weight_decay = r->weight_decay, .t = l->adam_steps + 1,
                      .grad_scale = (float)((clip < 1 ? clip : 1) / (sums[1] * scale))};
    TRY(adamw(l, &o, b));
    t.grad_scale = o.grad_scale;
    if (method->after_step) TRY(method->after_step(l->st->settings, &t));
    l->reach.moved |= o.lr > 0;
    l->updates++;
    l->adam_steps++;
    return OK;
}
