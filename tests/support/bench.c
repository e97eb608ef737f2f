/* See bench.h. */
#include "support/bench.h"

/* tag: of each token of the row; -1: it tells none. */
static void add_tags(struct bench *b, struct row *r, const int32_t *tag) {
    int32_t *labels = arena_alloc(&b->mem, (size_t)r->n * sizeof *labels);
    for (int i = 0; i < r->n; i++) labels[i] = tag[i] + 1, r->supervised[i] = tag[i] >= 0;
    r->labels = labels;
}

/* Rows whose packed labels and weights are the fixture's; before an encoder-decoder's, the source. */
static void make_rows(struct bench *b) {
    const int32_t *ids = i32_of(fixture(&b->want, "ids")), *cu = i32_of(fixture(&b->want, "cu_seqlens"));
    const struct tensor *classes = tensors_find(&b->want, "classes"), *targets = tensors_find(&b->want, "targets"), *tags = tensors_find(&b->want, "tags");
    const float *weights = b->st.head.classes ? NULL : f32_of(fixture(&b->want, "weights"));
    const struct tensor *src_ids = tensors_find(&b->want, "src_ids"), *src_cu = tensors_find(&b->want, "src_cu");
    const struct tensor *given = tensors_find(&b->want, "given");
    b->n_rows = (int)fixture(&b->want, "cu_seqlens")->d[0] - 1;
    for (int s = 0; s < b->n_rows; s++) {
        int n = cu[s + 1] - cu[s], from = src_cu ? i32_of(src_cu)[s] : 0, source = src_cu ? i32_of(src_cu)[s + 1] - from : 0;
        struct row *r = &b->row[s];
        *r = (struct row){.ids = arena_alloc(&b->mem, (size_t)(source + n) * 4),
                          .n = source + n,
                          .supervised = arena_alloc(&b->mem, (size_t)(source + n)),
                          .source = source};
        if (source) memcpy(r->ids, i32_of(src_ids) + from, (size_t)source * 4);
        memcpy(r->ids + source, ids + cu[s], (size_t)n * 4);
        for (int i = 1; weights && i < n; i++) r->supervised[source + i] = weights[cu[s] + i - 1] != 0;
        if (given) r->given = f32_of(given) + s * given->d[1] * given->d[2];
        if (classes || targets) r->supervised[head_reads_first(&b->model) ? 0 : source + n - 1] = 1;
        if (classes) r->label = 1 + i32_of(classes)[s];
        if (targets) r->target = f32_of(targets) + s * targets->d[1];
        if (tags) add_tags(b, r, i32_of(tags) + cu[s]);
        b->rows[s] = r;
    }
}

void bench_build(struct bench *b, const struct bench_case *c, const struct peft_method *method, const void *settings, const struct head *head) {
    *b = (struct bench){0};
    must(model_open(c->model, NULL, &b->model));
    b->model.mlp_chunk = c->mlp_chunk;
    must(tensors_open(c->expected, &b->want));
    must(structure_init_head(&b->st, &b->model, method, settings, head, NULL));
    b->st.params.narrow = c->narrow;
    b->st.terms = c->terms, b->st.noise = c->noise;
    const bool classifies = head && head->classes;
    must(program_build(&b->train, &b->model, MODE_TRAIN, &b->st, c->cap, c->level, c->backend, false));
    struct program *list[4] = {&b->train};
    int n = 1;
    if (c->score || classifies) {
        must(program_build(list[n++] = &b->score, &b->model, classifies ? MODE_CLASSIFY : MODE_SCORE, &b->st, c->cap, c->level, c->backend, false));
    }
    if (!classifies) {
        must(program_build(list[n++] = &b->gen.prefill, &b->model, MODE_PREFILL, &b->st, c->cap, c->level, c->backend, true));
        must(program_build(list[n++] = &b->gen.decode, &b->model, MODE_DECODE, &b->st, c->cap, c->level, c->backend, true));
    }
    b->gen.cap = c->cap;
    must(memory_for(&b->wb.mem, list, n));
    must(learner_init(&b->learner, &b->st, &b->train, &c->recipe));
    must(learner_fill(&b->learner, 1));
    b->wb.grad = c->backend->mem->take(b->st.params.bytes);
    b->wb.threads = 2;
    must(pack_init(&b->wb.pack, (int)b->train.p.cap[-SYM_N], c->cap.sequences));
    if (classifies && head->kind == HEAD_NUMBERS) must(pack_targets(&b->wb.pack, head->classes));
    make_rows(b);
}

void bench_open(struct bench *b, const struct bench_case *c) {
    const struct peft_method *method;
    const void *settings;
    struct head head;
    arena mem = {0}; /* the settings' texts */
    must(adapter_read_config(c->adapter, &mem, &method, &settings));
    must(adapter_read_head(c->adapter, &mem, &head));
    bench_build(b, c, method, settings, &head);
    b->mem_settings = mem;
    must(learner_load(&b->learner, c->adapter, &b->model));
}

void bench_close(struct bench *b) {
    b->learner.backend->mem->give(b->wb.grad, b->st.params.bytes);
    pack_free(&b->wb.pack);
    free(b->wb.first);
    learner_free(&b->learner);
    memory_free(&b->wb.mem);
    program_free(&b->train);
    program_free(&b->score);
    generator_free(&b->gen);
    structure_free(&b->st);
    tensors_close(&b->want);
    model_close(&b->model);
    arena_free(&b->mem);
    arena_free(&b->mem_settings);
}

/* Where file row `row` of n lies: GGUF's interleaved order (core/params.h). */
static int64_t place_of(int heads, int64_t n, int64_t row) {
    if (!heads) return row;
    int64_t D = n / heads, head = row / D, j = row % D;
    return head * D + (j < D / 2 ? 2 * j : 2 * (j - D / 2) + 1);
}

static void compare_slice(struct bench *b, const char *prefix, const struct param *p, const struct param_slice *s, const float *weights,
                          double scale, double rel, double abs) {
    char name[640], tensor[512];
    adapter_tensor_name(&b->st, s, tensor);
    snprintf(name, sizeof name, "%s.%s", prefix, tensor);
    const struct tensor *t = fixture(&b->want, name);
    const int64_t columns = p->nd > 1 ? p->d[1] : 1, wide = s->columns ? s->columns : columns;
    assert_int_equal(t->d[0] * (t->nd > 1 ? t->d[1] : 1) * (t->nd > 2 ? t->d[2] : 1), s->rows * wide);
    if (s->turned) assert_int_equal(t->d[0], columns);
    size_t n = (size_t)(s->rows * columns);
    float *have = malloc(n * 4), *want = malloc(n * 4), big = 0;
    for (int64_t j = 0; j < (int64_t)n; j++) {
        int64_t row = s->turned ? j % s->rows : j / columns, column = s->turned ? j / s->rows : j % columns;
        want[j] = f32_of(t)[s->columns ? row * wide + s->column0 + column : j];
        big = fmaxf(big, fabsf(want[j]));
        if (s->columns) column = place_of(s->rope_heads, columns, column);
        else row = place_of(s->rope_heads, s->rows, row);
        have[j] = (float)(scale * weights[p->off / 4 + (size_t)((s->row0 + row) * columns + column)]);
        if (s->form.less != 0 && !strncmp(prefix, "after", 5)) have[j] -= s->form.less; /* as files have it (core/params.h) */
    }
    snprintf(name, sizeof name, "%s: %s %s", b->name, prefix, p->name);
    close_to(name, have, want, n, rel, abs * (big > 1e-3 ? big : 1e-3));
    free(have);
    free(want);
}

void bench_compare(struct bench *b, const char *prefix, const float *there, double scale, double rel, double abs) {
    float *weights = to_host(b->learner.backend, there, b->st.params.bytes);
    int slices = 0, wanted = 0;
    for (int i = 0; i < b->st.params.n; i++)
        for (int k = 0; k < b->st.params.p[i].n_slices && !b->st.params.p[i].frozen; k++) {
            const struct param_slice *s = &b->st.params.p[i].slice[k];
            compare_slice(b, prefix, &b->st.params.p[i], s, weights, scale, rel, abs);
            slices += s->column0 == 0; /* columns of one tensor count once */
        }
    for (int i = 0; i < b->want.n; i++)
        wanted += str_starts(b->want.t[i].name, prefix) && b->want.t[i].name[strlen(prefix)] == '.';
    assert_int_equal(slices, wanted);
    free(weights);
}

/* --- what every oracle of a whole model asks ----------------------------------------------------------------------------- */
void bench_train(struct bench *b, double sums[4]) {
    const struct row *const *rows = (const struct row *const *)b->rows;
    const struct tensor *lrs = tensors_find(&b->want, "lrs");
    must(learner_gradient(&b->learner, &b->wb, rows, b->n_rows, 1, 0, sums));
    float loss = (float)(sums[0] / sums[1]);
    close_to(b->name, &loss, f32_of(fixture(&b->want, "loss")), 1, 1e-5, 0);
    bench_compare(b, "grad", b->wb.grad, 1 / sums[1], 1e-4, 1e-4);
    for (int step = 0; step < 10; step++) {
        struct step_result r;
        must(learner_step(&b->learner, &b->wb, rows, b->n_rows, 1, (uint64_t)step, &r));
        float got[3] = {(float)r.loss, (float)r.grad_norm, (float)r.learning_rate};
        close_to(b->name, &got[0], f32_of(fixture(&b->want, "losses")) + step, 1, 1e-4, 1e-5);
        close_to("grad_norms", &got[1], f32_of(fixture(&b->want, "grad_norms")) + step, 1, 1e-3, 1e-5);
        if (lrs) close_to("lrs", &got[2], f32_of(lrs) + step, 1, 1e-6, 1e-12);
    }
    bench_compare(b, "after10", b->learner.w, 1, 1e-3, 1e-3);
}

void bench_same_gradient(struct bench *b, float **first) {
    double sums[4];
    must(learner_gradient(&b->learner, &b->wb, (const struct row *const *)b->rows, b->n_rows, 1, 0, sums));
    float *grad = to_host(b->learner.backend, b->wb.grad, b->st.params.bytes);
    if (!*first) {
        *first = grad;
        return;
    }
    assert_memory_equal(*first, grad, b->st.params.bytes);
    free(grad);
}

/* The adapter as programs read it: itself, or its working copy in the compute type. */
static void *bound(struct bench *b, const struct program *g) {
    void *param;
    must(memory_bind(&b->wb.mem, g, b->learner.w, b->wb.threads, &param));
    return param;
}

/* An encoder-decoder's caches begin with a prefill of all its texts. */
static void read_sources(struct bench *b) {
    const struct tensor *src_ids = fixture(&b->want, "src_ids");
    const int32_t *src_cu = i32_of(fixture(&b->want, "src_cu"));
    int32_t pos[64], slot[64], zeros[64] = {0}, cu[8], start[8], rows[8], slots[8];
    struct feed f = {.ids = start, .pos = zeros, .cu = cu, .slot = slots, .rows = rows, .sample = zeros, .last_pos = zeros, .src_ids = i32_of(src_ids),
                     .src_pos = pos, .src_cu = src_cu, .src_sample = zeros, .src_slot = slot, .n = b->n_rows, .s = b->n_rows, .m = (int)src_ids->d[0]};
    cu[0] = 0;
    for (int s = 0; s < b->n_rows; s++) {
        start[s] = b->model.shape.start, rows[s] = slots[s] = s, cu[s + 1] = s + 1;
        for (int32_t t = src_cu[s]; t < src_cu[s + 1]; t++) pos[t] = t - src_cu[s], slot[t] = s;
    }
    must(program_run(&b->gen.prefill, &b->wb.mem, bound(b, &b->gen.prefill), NULL, &f, &(struct run_ctx){.threads = 2}, false));
}

/* The first token of a row as a prompt, behind the virtual ones that only a prefill can have. */
static void first_token(struct bench *b, const struct row *row, int32_t slot, float *z, int64_t V) {
    enum { MOST = 16 };
    const int before = b->st.virtual_tokens, n = before + 1;
    int32_t ids[MOST], pos[MOST], slots[MOST], numbers[MOST];
    assert_true(n <= MOST);
    for (int i = 0; i < n; i++) numbers[i] = i, ids[i] = i < before ? (int32_t)b->model.shape.vocab + i : row->ids[0], pos[i] = i, slots[i] = slot;
    const int32_t bounds[2] = {0, n}, sample = 0, last = n - 1;
    const struct feed f = {.ids = ids, .pos = pos, .cu = bounds, .slot = slots, .rows = &last, .sample = &sample, .last_pos = &last, .n = n, .s = 1,
                           .given = row->given, .given_rows = numbers, .m = b->gen.prefill.given};
    must(program_run(&b->gen.prefill, &b->wb.mem, bound(b, &b->gen.prefill), NULL, &f, &(struct run_ctx){.threads = 2}, false));
    must(program_read(&b->gen.prefill, &b->wb.mem, b->gen.prefill.logits, n, 1, z, (size_t)V * 4));
}

void bench_decode(struct bench *b, double abs) {
    if (b->gen.decode.seq2seq) read_sources(b);
    const int32_t *ids = i32_of(fixture(&b->want, "ids")), *cu = i32_of(fixture(&b->want, "cu_seqlens"));
    const struct tensor *logits = fixture(&b->want, "logits");
    const int64_t V = logits->d[1];
    float *z = malloc((size_t)V * sizeof *z);
    for (int s = 0; s < b->n_rows; s++)
        for (int32_t i = cu[s]; i < cu[s + 1]; i++) {
            const int32_t pos = b->st.virtual_tokens + i - cu[s], slot = s % 4, sample = 0, last = b->rows[s]->source - 1;
            const struct feed f = {.ids = ids + i, .pos = &pos, .slot = &slot, .sample = &sample, .src_last = &last, .src_slot = &slot, .n = 1};
            if (b->st.virtual_tokens && i == cu[s]) first_token(b, b->rows[s], slot, z, V);
            else {
                must(program_run(&b->gen.decode, &b->wb.mem, bound(b, &b->gen.decode), NULL, &f, &(struct run_ctx){.threads = 2}, false));
                must(program_read(&b->gen.decode, &b->wb.mem, b->gen.decode.logits, 1, 0, z, (size_t)V * 4));
            }
            close_to(b->name, z, f32_of(logits) + i * V, (size_t)V, 0, abs);
        }
    free(z);
}

void bench_greedy(struct bench *b) {
    const int32_t *prompts = i32_of(fixture(&b->want, "gen.prompts")), *cu = i32_of(fixture(&b->want, "gen.cu"));
    const struct tensor *want_ids = fixture(&b->want, "gen.ids");
    struct ids prompt[8];
    struct generation out[8];
    const int n = (int)want_ids->d[0], new = (int)want_ids->d[1];
    for (int i = 0; i < n; i++) prompt[i] = (struct ids){(int32_t *)prompts + cu[i], (size_t)(cu[i + 1] - cu[i]), 0};
    const struct tensor *given = tensors_find(&b->want, "gen.given");
    const struct generate_request rq = {.given = given ? f32_of(given) : NULL, .prompt = prompt, .n = n, .max_new = new, .eos = -1, .run = {.threads = 2}};
    must(generate(&b->gen, &b->wb.mem, b->learner.w, &rq, out, NULL));
    for (int i = 0; i < n; i++) {
        assert_int_equal(out[i].n, new);
        assert_memory_equal(out[i].ids, i32_of(want_ids) + i * new, (size_t)new * 4);
        free(out[i].ids);
    }
}

/* Each row of the fixture with `n_before` ids before it, packed as a program wants it (data/pack.h); the logits of the fixture's own tokens. */
static float *logits_by(const char *path, struct structure *st, float *weights, const struct tensors *expected, const int32_t *before, int n_before) {
    struct model m;
    struct program g;
    struct memory mem;
    struct pack k;
    const int32_t *ids = i32_of(fixture(expected, "ids")), *cu = i32_of(fixture(expected, "cu_seqlens"));
    const int n = (int)fixture(expected, "ids")->d[0], s = (int)fixture(expected, "cu_seqlens")->d[0] - 1, made = st ? st->virtual_tokens : 0, extra = n_before + made;
    must(model_open(path, NULL, &m));
    const int64_t V = m.shape.vocab;
    must(program_build(&g, &m, MODE_SCORE, st, (struct capacity){n + s * extra, s, 0, 0, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE, &backend_cpu, true));
    must(memory_for(&mem, (struct program *const[]){&g}, 1));
    must(pack_init(&k, n + s * extra, s));
    k.virtual_tokens = g.virtual_tokens;
    k.virtual_first = g.virtual_first;
    for (int r = 0; r < s; r++) {
        int32_t row[128];
        uint8_t supervised[128] = {0};
        const int len = cu[r + 1] - cu[r];
        assert_true(n_before + len <= 128);
        if (n_before) memcpy(row, before, (size_t)n_before * 4);
        memcpy(row + n_before, ids + cu[r], (size_t)len * 4);
        assert_true(pack_row(&k, &(struct row){.ids = row, .supervised = supervised, .n = n_before + len}, 0));
    }
    struct feed f = {.ids = k.ids, .pos = k.pos, .cu = k.cu, .sample = k.sample, .n = k.n, .s = k.s};
    must(program_run(&g, &mem, weights, NULL, &f, &(struct run_ctx){.threads = 1}, true));
    float *all = malloc((size_t)(k.n * V) * 4), *out = malloc((size_t)(n * V) * 4);
    must(program_read(&g, &mem, g.logits, k.n, s, all, (size_t)(k.n * V) * 4));
    for (int r = 0; r < s; r++) memcpy(out + cu[r] * V, all + (k.cu[r] + extra) * V, (size_t)((cu[r + 1] - cu[r]) * V) * 4);
    const double cap = m.shape.logit_softcap; /* what the loss does with them */
    for (int64_t i = 0; cap > 0 && i < n * V; i++) out[i] = (float)(cap * tanh(out[i] / cap));
    free(all);
    pack_free(&k);
    memory_free(&mem);
    program_free(&g);
    model_close(&m);
    return out;
}

float *logits_of(const char *path, const struct tensors *expected) { return logits_by(path, NULL, NULL, expected, NULL, 0); }

float *logits_after(const char *path, const struct tensors *expected, const int32_t *before, int n) { return logits_by(path, NULL, NULL, expected, before, n); }

float *logits_with(const char *path, struct structure *st, float *weights, const struct tensors *expected) { return logits_by(path, st, weights, expected, NULL, 0); }

float *logits_of_fresh(const char *path, struct structure *st, const struct tensors *expected) {
    float *weights = arena_f32(st->params.bytes), *out;
    must(param_fill(&st->params, 1, weights));
    out = logits_with(path, st, weights, expected);
    arena_f32_free(weights, st->params.bytes);
    return out;
}
