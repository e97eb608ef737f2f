/* See bench.h. */
#include "support/bench.h"

/* Rows whose packed labels and weights are the fixture's; before an encoder-decoder's, the source. */
static void make_rows(struct bench *b) {
    const int32_t *ids = i32_of(fixture(&b->want, "ids")), *cu = i32_of(fixture(&b->want, "cu_seqlens"));
    const float *weights = f32_of(fixture(&b->want, "weights"));
    const struct tensor *src_ids = tensors_find(&b->want, "src_ids"), *src_cu = tensors_find(&b->want, "src_cu");
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
        for (int i = 1; i < n; i++) r->supervised[source + i] = weights[cu[s] + i - 1] != 0;
        b->rows[s] = r;
    }
}

void bench_open(struct bench *b, const struct bench_case *c) {
    const struct peft_method *method;
    const void *settings;
    *b = (struct bench){0};
    must(model_open(c->model, NULL, &b->model));
    must(tensors_open(c->expected, &b->want));
    must(adapter_read_config(c->adapter, &b->mem, &method, &settings));
    must(structure_init(&b->st, &b->model, method, settings, NULL));
    must(program_build(&b->train, &b->model, MODE_TRAIN, &b->st, c->cap, c->level, c->backend, false));
    if (c->score) must(program_build(&b->score, &b->model, MODE_SCORE, &b->st, c->cap, c->level, c->backend, false));
    must(program_build(&b->gen.prefill, &b->model, MODE_PREFILL, &b->st, c->cap, c->level, c->backend, true));
    must(program_build(&b->gen.decode, &b->model, MODE_DECODE, &b->st, c->cap, c->level, c->backend, true));
    b->gen.cap = c->cap;
    must(memory_for(&b->wb.mem, (struct program *const[]){&b->train, &b->gen.prefill, &b->gen.decode, &b->score}, c->score ? 4 : 3));
    must(learner_init(&b->learner, &b->st, &b->train, &c->recipe));
    must(learner_load(&b->learner, c->adapter, &b->model));
    b->wb.grad = c->backend->mem->take(b->st.params.bytes);
    b->wb.threads = 2;
    must(pack_init(&b->wb.pack, c->cap.tokens, c->cap.sequences));
    make_rows(b);
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
}

/* Where file row `row` of a slice lies: GGUF's interleaved order (core/params.h). */
static int64_t place_of(const struct param_slice *s, int64_t row) {
    if (!s->rope_heads) return s->row0 + row;
    int64_t D = s->rows / s->rope_heads, head = row / D, j = row % D;
    return s->row0 + head * D + (j < D / 2 ? 2 * j : 2 * (j - D / 2) + 1);
}

static void compare_slice(struct bench *b, const char *prefix, const struct param *p, const struct param_slice *s, const float *weights,
                          double scale, double rel, double abs) {
    char name[512];
    snprintf(name, sizeof name, "%s.base_model.model.%s", prefix, s->name);
    const struct tensor *t = fixture(&b->want, name);
    const int64_t columns = p->nd > 1 ? p->d[1] : 1;
    assert_int_equal(t->d[0] * (t->nd > 1 ? t->d[1] : 1), s->rows * columns);
    if (s->turned) assert_int_equal(t->d[0], columns);
    size_t n = (size_t)(s->rows * columns);
    float *have = malloc(n * 4), big = 0;
    for (int64_t j = 0; j < (int64_t)n; j++) {
        const int64_t row = s->turned ? j % s->rows : j / columns, column = s->turned ? j / s->rows : j % columns;
        have[j] = (float)(scale * weights[p->off / 4 + (size_t)(place_of(s, row) * columns + column)]);
        if (s->form.less != 0 && !strncmp(prefix, "after", 5)) have[j] -= s->form.less; /* as files have it (core/params.h) */
        big = fmaxf(big, fabsf(f32_of(t)[j]));
    }
    snprintf(name, sizeof name, "%s: %s %s", b->name, prefix, s->name);
    close_to(name, have, f32_of(t), n, rel, abs * (big > 1e-3 ? big : 1e-3));
    free(have);
}

void bench_compare(struct bench *b, const char *prefix, const float *there, double scale, double rel, double abs) {
    float *weights = to_host(b->learner.backend, there, b->st.params.bytes);
    int slices = 0, wanted = 0;
    for (int i = 0; i < b->st.params.n; i++)
        for (int k = 0; k < b->st.params.p[i].n_slices; k++, slices++)
            compare_slice(b, prefix, &b->st.params.p[i], &b->st.params.p[i].slice[k], weights, scale, rel, abs);
    for (int i = 0; i < b->want.n; i++)
        wanted += str_starts(b->want.t[i].name, prefix) && b->want.t[i].name[strlen(prefix)] == '.';
    assert_int_equal(slices, wanted);
    free(weights);
}

float *logits_with(const char *path, struct structure *st, float *weights, const struct tensors *expected) {
    struct model m;
    struct program g;
    struct memory mem;
    const struct tensor *ids = fixture(expected, "ids"), *cu = fixture(expected, "cu_seqlens");
    int n = (int)ids->d[0], s = (int)cu->d[0] - 1;
    int32_t *sample = calloc((size_t)n, sizeof *sample), *pos = calloc((size_t)n, sizeof *pos);
    for (int i = 0, row = 0; i < n; i++) {
        while (i >= i32_of(cu)[row + 1]) row++;
        pos[i] = i - i32_of(cu)[row];
    }
    must(model_open(path, NULL, &m));
    must(program_build(&g, &m, MODE_SCORE, st, (struct capacity){n, s, 0, 0, DT_F32}, CHECKPOINT_NONE, &backend_cpu, true));
    must(memory_for(&mem, (struct program *const[]){&g}, 1));
    struct feed f = {.ids = i32_of(ids), .pos = pos, .cu = i32_of(cu), .sample = sample, .n = n, .s = s};
    must(program_run(&g, &mem, weights, NULL, &f, &(struct run_ctx){.threads = 1}, true));
    float *out = malloc((size_t)(n * m.shape.vocab) * 4);
    must(program_read(&g, &mem, g.logits, n, s, out, (size_t)(n * m.shape.vocab) * 4));
    const double cap = m.shape.logit_softcap; /* what the loss does with them */
    for (int64_t i = 0; cap > 0 && i < n * m.shape.vocab; i++) out[i] = (float)(cap * tanh(out[i] / cap));
    memory_free(&mem);
    program_free(&g);
    model_close(&m);
    free(sample);
    free(pos);
    return out;
}

float *logits_of(const char *path, const struct tensors *expected) { return logits_with(path, NULL, NULL, expected); }

float *logits_of_fresh(const char *path, struct structure *st, const struct tensors *expected) {
    float *weights = arena_f32(st->params.bytes), *out;
    must(param_fill(&st->params, 1, weights));
    out = logits_with(path, st, weights, expected);
    arena_f32_free(weights, st->params.bytes);
    return out;
}
