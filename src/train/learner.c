/* See learner.h. */
#include "train/learner.h"
#include "base/arena.h"
#include "train/accumulation.h"
#include "train/teacher.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double FIRST_SCALE = 65536;
enum { GROW_AFTER = 2000 };

int learner_states(const struct structure *st) { return st->method ? st->method->states : 0; }

err learner_init(struct learner *l, struct structure *st, const struct program *program, const struct recipe *r) {
    const struct backend *backend = program->plan.backend;
    *l = (struct learner){
        .st = st, .program = program, .recipe = *r, .backend = backend, .optim = recipe_optimizer(r), .how = recipe_settings(r)};
    if (prog_dt(&program->p) == DT_F16) l->scaler.scale = FIRST_SCALE;
    l->w = backend->mem->take(param_weight_bytes(&st->params));
    const int own = learner_states(st);
    l->states = optim_states(l->optim, &l->how, &st->params, l->state);
    l->slots = paged_room(r, &st->params);
    bool room = l->w;
    for (int i = 0; i < l->states; i++)
        room &= (l->state[i].p = (r->page ? backend->mem->take_host : backend->mem->take)(l->state[i].bytes)) != NULL;
    for (int i = 0; i < own; i++) room &= (l->own[i] = backend->mem->take(st->params.trained)) != NULL;
    if (room) return OK;
    learner_free(l);
    return fail(E_MEMORY, "cannot allocate %zu bytes for an adapter and its optimizer",
                param_weight_bytes(&st->params) + optim_bytes(recipe_optimizer(r), &r->how, &st->params) + (size_t)own * st->params.trained);
}

void learner_free(struct learner *l) {
    if (!l->st) return;
    const struct mem_ops *mem = l->backend->mem;
    if (l->w) mem->give(l->w, param_weight_bytes(&l->st->params));
    for (int i = 0; i < l->states; i++)
        if (l->state[i].p) (l->recipe.page ? mem->give_host : mem->give)(l->state[i].p, l->state[i].bytes);
    for (int i = 0; i < MAX_STATES; i++)
        if (l->own[i]) mem->give(l->own[i], l->st->params.trained);
    reach_free(&l->reach);
    *l = (struct learner){0};
}

/* --- from and to the host ------------------------------------------------------------------------------------------ */
/* An arena of the backend as the host sees it: itself, or a copy that lend_end() frees. */
static err lend(const struct learner *l, bool with_content, void **host) {
    const size_t bytes = param_weight_bytes(&l->st->params);
    *host = l->backend->mem->host ? l->w : pages_take(bytes);
    if (!*host) return fail(E_MEMORY, "out of memory");
    return *host != l->w && with_content ? l->backend->mem->download(*host, l->w, bytes) : OK;
}

/* What was written into the lent copy goes back. */
static err put_back(const struct learner *l, const void *host) {
    return host == l->w ? OK : l->backend->mem->upload(l->w, host, param_weight_bytes(&l->st->params));
}

static void lend_end(const struct learner *l, void *host) {
    if (host && host != l->w) pages_give(host, param_weight_bytes(&l->st->params));
}

err learner_fill(struct learner *l, uint64_t key) {
    void *host;
    TRY(lend(l, false, &host));
    err e = param_fill(&l->st->params, key, host);
    if (!e) e = put_back(l, host);
    lend_end(l, host);
    return e;
}

err learner_write(const struct learner *l, const char *folder, const char *base_model) {
    void *host;
    err e = lend(l, true, &host);
    if (!e) e = adapter_write(folder, l->st, host, base_model);
    lend_end(l, host);
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
    void *host;
    err e = lend(l, true, &host);
    if (!e) e = write_finished(&(struct numbers){l->st->settings, &l->st->params, host}, folder, m, l->st);
    lend_end(l, host);
    return e;
}

err learner_load(struct learner *l, const char *folder, const struct model *m) {
    void *host;
    err e = lend(l, false, &host);
    if (!e) e = adapter_load(folder, m, l->st, host);
    if (!e) e = put_back(l, host);
    lend_end(l, host);
    return e;
}

err learner_transfer(struct learner *l, const char *folder, const struct model *m, bool *head) {
    void *host;
    err e = lend(l, true, &host); /* with what the head has begun with */
    if (!e) e = adapter_transfer(folder, m, l->st, host, head);
    if (!e) e = put_back(l, host);
    lend_end(l, host);
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

/* The weights of all whose rows these are, as programs read them. */
static err bind_all(struct workbench *b, const struct rows_run *x, void **param, struct adapters *all) {
    *all = (struct adapters){.n = 0};
    return x->of.n > 1 ? memory_bind_all(&b->mem, x->program, &x->of, b->threads, param, all)
                       : memory_bind(&b->mem, x->program, x->of.weights[0], b->threads, param);
}

/* Rows first .. last - 1 into the pack, and where each adapter's end. */
static void fill_pack(struct pack *k, const struct rows_run *x, int first, int last, struct adapters *all) {
    pack_clear(k);
    for (int a = 0; a < all->n; a++) all->of[a].end = 0;
    for (int i = first; i < last; i++) {
        pack_row(k, x->rows[i], i);
        for (int a = 0; a < all->n; a++)
            if (i < x->of.end[a]) all->of[a].end = k->n;
    }
}

err rows_run(struct workbench *b, struct rows_run *x) {
    const struct program *g = x->program;
    struct adapters all;
    int passes;
    void *param;
    TRY(split_passes(g, b, x->rows, x->of.end[x->of.n - 1], &passes));
    TRY(bind_all(b, x, &param, &all));
    x->run.adapters = all.n ? &all : NULL;
    memset(x->sums, 0, sizeof x->sums);
    for (int p = 0; p < passes; p++) {
        struct pack *k = &b->pack;
        fill_pack(k, x, b->first[p], b->first[p + 1], &all);
        int up_n = k->n, up_s = k->s;
        struct fusing *fusing = x->grad ? b->fusing : NULL;
        if (fusing) TRY(fused_pass(fusing, k, passes));
        bool repeats = !fusing && !g->seq2seq && !g->given && program_rungs(g, &up_n, &up_s);
        if (repeats) pack_pad(k, up_n, up_s);
        if (all.n) all.of[all.n - 1].end = k->n;
        struct feed f = feed_of(k);
        f.repeats = repeats;
        f.watch = fusing ? &fusing->watch : NULL;
        if (g->lesson) TRY(teacher_tell(b, x->rows, b->first[p], b->first[p + 1], &f));
        float out[MAX_ADAPTERS][4];
        TRY(program_run(g, &b->mem, param, x->grad, &f, &x->run, false));
        TRY(program_read(g, &b->mem, g->loss, k->n, k->s, out, (size_t)x->of.n * sizeof *out));
        if (g->lesson) TRY(teacher_hear(b, g));
        for (int a = 0; a < x->of.n; a++)
            for (int j = 0; j < 4; j++) x->sums[a][j] += (double)out[a][j];
    }
    return OK;
}

/* The rows of a pack that are read, one of each sequence. */
static void read_positions(const struct pack *k, int32_t *at) {
    for (int s = 0; s < k->s; s++)
        for (int32_t i = k->cu[s]; i < k->cu[s + 1]; i++)
            if (k->weight[i] != 0) at[s] = i;
}

err rows_outputs(const struct program *g, struct workbench *b, const void *weights, const struct row *const *rows, int n, val value, float *to) {
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

err rows_loss(const struct program *score, struct workbench *b, const void *weights, const struct row *const *rows, int n, double sums[4]) {
    struct rows_run x = {.program = score, .of = {1, {weights}, {n}}, .rows = rows, .run = {.threads = b->threads}};
    TRY(rows_run(b, &x));
    memcpy(sums, x.sums[0], sizeof x.sums[0]);
    return OK;
}

err learner_gradient(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed, uint64_t step, double sums[4]) {
    struct rows_run x = {.program = l->program, .of = {1, {l->w}, {n}}, .grad = b->grad, .rows = rows};
    x.run = (struct run_ctx){.seed = seed, .step = step, .threads = b->threads, .loss_scale = (float)l->scaler.scale};
    if (!b->fusing) TRY(l->backend->mem->fill(b->grad, 0, l->st->params.trained));
    TRY(rows_run(b, &x));
    memcpy(sums, x.sums[0], sizeof x.sums[0]);
    return OK;
}

/* After a step: is its gradient to be left out? */
static bool scaler_skips(struct scaler *s, bool finite) {
    if (s->scale == 0) return false;
    if (!finite) s->scale /= 2, s->good = 0, s->skipped++;
    else if (++s->good == GROW_AFTER) s->scale *= 2, s->good = 0;
    return !finite && s->scale >= 1; /* below that it is not the scale */
}

err learner_take_here(const struct learner *l, const struct optim_step *o) {
    if (l->st->params.narrow) return narrow_step(l->optim, o, &l->recipe.rounding);
    struct optim_step part = *o;
    part.w += o->of.first / sizeof(float);
    return l->optim->step(&part);
}

err learner_take(const struct learner *l, const struct workbench *b, const struct optim_step *o) {
    return l->slots ? paged_take(l, b, o) : learner_take_here(l, o);
}

struct cost learner_work(const struct learner *l, double share) {
    const struct cost c = optim_cost(l->optim, &l->how, &l->st->params);
    return (struct cost){share * c.flops, share * (c.bytes + (double)l->st->params.trained)};
}

struct optim_step learner_whole(struct learner *l, const struct workbench *b, double lr, float grad_scale) {
    return (struct optim_step){.backend = l->backend,
                               .of = optim_whole(&l->st->params),
                               .how = &l->how,
                               .w = l->w,
                               .state = l->state,
                               .states = l->states,
                               .scratch = b->mem.scratch,
                               .lr = lr,
                               .t = l->optim_steps + 1,
                               .grad_scale = grad_scale,
                               .threads = b->threads};
}

static double learning_rate(const struct learner *l) {
    const double scheduled = l->recipe.learning_rate * schedule_at(&l->recipe.curve, l->updates);
    return l->optim->rate ? l->optim->rate(&l->how, scheduled, l->optim_steps + 1) : scheduled;
}

/* The gradient, and the sum of its squares. What the backward pass has updated on its way is not there any more. */
static err gradient(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed, uint64_t step,
                    double sums[4], double *squares) {
    struct fusing f;
    fused_begin(&f, l, b, learning_rate(l));
    b->fusing = l->fused ? &f : NULL;
    const err e = learner_gradient(l, b, rows, n, seed, step, sums);
    b->fusing = NULL;
    *squares = f.squares;
    return e;
}

err learner_step(struct learner *l, struct workbench *b, const struct row *const *rows, int n, uint64_t seed, uint64_t step,
                 struct step_result *out) {
    struct step_sums all = {.grad = b->grad, .step = step};
    TRY(gradient(l, b, rows, n, seed, step, all.sums, &all.squares));
    if (b->check_accumulation && !l->checked) TRY(accumulation_check(l, b, rows, n, seed, step, all.sums));
    l->checked = true;
    for (int i = 0; i < n; i++) all.tokens += rows[i]->n;
    return learner_update(l, b, &all, out);
}

err learner_update(struct learner *l, struct workbench *b, const struct step_sums *all, struct step_result *out) {
    const double *sums = all->sums, scale = l->scaler.scale != 0 ? l->scaler.scale : 1;
    const struct recipe *r = &l->recipe;
    const struct reaching reaching = {&l->st->params, l->backend, b->threads, l->side};
    double norm = all->squares;
    if (sums[1] <= 0) return fail(E_INPUT, "step %llu has no supervised token", (unsigned long long)all->step + 1);
    const struct peft_method *method = l->st->method;
    struct tuning t = {.backend = l->backend, .set = &l->st->params, .w = l->w, .grad = all->grad, .own = {l->own[0], l->own[1]}, .step = l->updates, .weight = sums[1] * scale, .threads = b->threads};
    if (method->before_step) TRY(method->before_step(l->st->settings, &t));
    TRY(l->fused ? reach_judge(&l->reach, &reaching) : reach_check(&l->reach, &reaching, all->grad));
    const double began = profile_begin(&b->mem);
    if (!l->fused) TRY(l->backend->flat->sumsq(all->grad, (int64_t)(l->st->params.trained / 4), b->threads, &norm));
    norm = sqrt(norm) / (sums[1] * scale);
    *out = (struct step_result){.loss = sums[0] / sums[1], .grad_norm = norm, .accuracy = sums[2] / sums[1], .tokens = all->tokens, .supervised = (int64_t)sums[3], .loss_scale = l->scaler.scale};
    out->learning_rate = learning_rate(l);
    if (isfinite(sums[0]) && (out->skipped = scaler_skips(&l->scaler, isfinite(norm)))) return OK;
    if (!isfinite(sums[0]) || !isfinite(norm))
        return fail(E_NUMERIC, "step %llu: the %s is not finite%s. Lower learning_rate or look at the data", (unsigned long long)all->step + 1,
                    isfinite(sums[0]) ? "gradient" : "loss", l->fused ? "" : "; the weights are unchanged");
    double clip = r->max_grad_norm > 0 ? r->max_grad_norm / (norm + 1e-6) : 1; /* torch's clip_grad_norm_ */
    t.grad_scale = (float)((clip < 1 ? clip : 1) / (sums[1] * scale));
    if (!l->fused) {
        struct optim_step o = learner_whole(l, b, out->learning_rate, t.grad_scale);
        o.g = all->grad;
        TRY(learner_take(l, b, &o));
        profile_end(&b->mem, PROFILE_OPTIMIZER, l->optim->name, learner_work(l, 1), began);
    }
    if (method->after_step) TRY(method->after_step(l->st->settings, &t));
    l->reach.moved |= out->learning_rate > 0;
    l->updates++;
    l->optim_steps++;
    return OK;
}
