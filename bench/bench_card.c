/* Steps and decoding at the size of real models, on a card (or, to check the program, on the processor): random weights of a
 * shape, random ids, LoRA r 16 on all linear layers with f32 adapters or what --set says. Only speed and memory mean anything.
 *
 *   bench_card [--cpu] [--type T] [--f32] [--fp8] [--base TYPE] [--set KEY=VALUE]... SHAPE.json ITEM...
 *     sft:ROWSxLENGTH:LEVEL[:PASS]   a step on all tokens; PASS tokens a pass (default: the whole step); LEVEL none, selective, block,
 *                                    block2 (one checkpoint for two), first20 (block in the first 20, selective in the others), and any
 *                                    with +offload (offload alone: block)
 *     decode:ROWS[:LENGTH]           one token for each row, its cache LENGTH (64) tokens long
 *     macct:ROWS[:LEVEL[:PASS]]      both halves of a cycle, ROWS a side, 64 + 64 tokens
 *     profile:ROWSxLENGTH:LEVEL      where a training pass spends its time: each op launched alone and waited for
 *     products                       few rows through the matrix-vector kernel and through cuBLASLt, microseconds each
 *     products:TYPE                  the same with matrices of a stored type, and their bytes a second
 *
 * --set: a configuration's keys of methods: method=full, lora.use_dora=true, ... (the defaults else).
 * --type: of weights and computation: float32, tf32 (float32 whose products a card rounds), bfloat16 (the default), float16, fp8 (bfloat16 with the
 * layers' matrices in e4m3). --f32: the computation alone; --fp8: the same as --type fp8.
 * --base: how the matrices are stored: q4_k, nf4, f8_e4m3, .. or q4_k_m, GGUF's mixture (half of the value and down projections and the
 * output in Q6_K). Their blocks are random bytes, a few rows of them repeated: made in no time, and as slow to unpack as any.
 *
 * Prints one RESULT {json} line an item: best and median seconds, tokens/s, what is trained, the plan's bytes and what the card says is taken (of
 * a processor: this process at most), the share of the card's own rate (4 flops a matrix parameter and token, attention besides; 6 where blocks are
 * recomputed count as 4; of LoRA alone) or bandwidth (all weights once a decode step), both measured first in this process. */
#include "base/process.h"
#include "base/philox.h"
#include "base/str.h"
#include "train/run.h"
#ifdef CYC_CUDA
#include "cuda/device.h"
#include "cuda/gemm.h"
#endif
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

void random_blocks(dtype dt, void *p, int64_t n, float scale, uint32_t *rng); /* tests/support/blocks.c */

static struct {
    const struct backend *backend;
    struct model model;
    struct structure st;
    dtype compute;
    double bandwidth, rate; /* measured: bytes/s, flop/s */
} g;

enum { ROWS_OF_THEIR_OWN = 61 }; /* with one row in all places no gradient would reach the queries of a deep model */

static void die(err e) {
    if (!e) return;
    fprintf(stderr, "bench_card: %s\n", err_text());
    exit(1);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int32_t random_id(int64_t k) { return (int32_t)(philox(9, (uint32_t)k, 0, 0, 0).v[0] % (uint32_t)g.model.shape.vocab); }

static struct row *random_rows(int n, int length) {
    struct row *r = calloc((size_t)n, sizeof *r);
    for (int i = 0; i < n; i++) {
        int32_t *ids = malloc((size_t)length * 4);
        for (int t = 0; t < length; t++) ids[t] = random_id((int64_t)i * length + t);
        r[i] = (struct row){.ids = ids, .n = length, .supervised = malloc((size_t)length)};
        memset(r[i].supervised, 1, (size_t)length);
        r[i].supervised[0] = 0;
    }
    return r;
}

/* What each matrix is stored as in llama.cpp's Q4_K_M, about. */
static dtype mixture(const struct weight *w) {
    int layer = 0;
    bool wide = strstr(w->name, "attn_v.") || strstr(w->name, "ffn_down.");
    if (wide && sscanf(w->name, "blk.%d.", &layer) == 1) return layer % 2 ? DT_Q4_K : DT_Q6_K;
    return !strncmp(w->name, "output.", 7) ? DT_Q6_K : DT_Q4_K;
}

/* In place of model_fill(): matrices of a stored type (DT_NONE: the mixture) in the room that was reserved for bf16. */
static void fill_stored(struct model *m, dtype type) {
    m->bytes = 0;
    for (int i = 0; i < m->n; i++) {
        struct weight *w = &m->w[i];
        dtype dt = type ? type : mixture(w);
        uint32_t rng = 1;
        if (w->nd == 1)
            for (int64_t k = 0; k < w->d[0]; k++) ((float *)w->data)[k] = strstr(w->name, ".bias") ? 0 : 1;
        else if (w->d[1] % dtype_info[dt].block || !dtype_quantised(dt))
            die(fail(E_USAGE, "%s has %lld columns: not for %s", w->name, (long long)w->d[1], dtype_info[dt].name));
        else {
            size_t row = dtype_row_bytes(w->dt = dt, w->d[1]);
            char *first = (char *)w->data;
            const int64_t own = w->d[0] < ROWS_OF_THEIR_OWN ? w->d[0] : ROWS_OF_THEIR_OWN;
            random_blocks(dt, first, own * w->d[1], 0.07f, &rng);
#pragma omp parallel for
            for (int64_t r = own; r < w->d[0]; r++) memcpy(first + (size_t)r * row, first + (size_t)(r % own) * row, row);
        }
        m->bytes += w->nd == 1 ? (size_t)w->d[0] * 4 : dtype_row_bytes(w->dt, w->d[1]) * (size_t)w->d[0];
    }
}

static double matrix_parameters(void) { /* those that a token is multiplied with: an untied embedding is only looked up */
    const struct shape *z = &g.model.shape;
    return (double)g.model.parameters - (z->tied ? 0 : (double)(z->vocab * z->width));
}

static void print(const char *item, double *s, int n, double tokens, double share, const char *of, size_t planned) {
    const size_t taken = g.backend->mem->host ? resident_bytes("VmHWM") : g.backend->mem->taken();
    qsort(s, (size_t)n, sizeof *s, ascending);
    printf("RESULT {\"engine\": \"cyclora\", \"item\": \"%s\", \"trained\": %lld, \"ms_best\": %.3f, \"ms_median\": %.3f, \"tok_s\": %.1f, "
           "\"share\": %.3f, \"of\": \"%s\", \"planned_gb\": %.2f, \"taken_gb\": %.2f}\n",
           item, (long long)param_count(&g.st.params), 1e3 * s[0], 1e3 * s[n / 2], tokens / s[n / 2], share / s[n / 2], of,
           (double)planned * 1e-9, (double)taken * 1e-9);
    fflush(stdout);
}

static size_t planned(const struct memory *m, const struct program *of, int adapters) {
    const bool host = g.backend->mem->host;
    const size_t own = host ? 0 : g.backend->own(&of->p, (int)of->p.cap[-SYM_N]); /* as a run plans it, but for what is lost to pages */
    return own + (host ? g.model.bytes : g.model.residents->bytes) + m->act_bytes + m->scratch_bytes + m->work_bytes + m->stage_bytes +
           (size_t)(3 * adapters + 1) * g.st.params.bytes;
}

static void sft(const char *item, int rows, int length, struct checkpoints levels, int pass) {
    const int before = rows * g.st.virtual_tokens; /* of a soft prompt: in the pass, not in the rows */
    struct capacity cap = {pass + before - g.st.virtual_tokens, rows, 1, 1, g.compute, DT_NONE, 0};
    struct program train;
    struct workbench wb = {.threads = omp_get_max_threads()};
    struct learner l;
    struct recipe q = {.learning_rate = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
    die(program_train(&train, &g.model, &g.st, cap, &levels, g.backend));
    die(memory_for(&wb.mem, (struct program *const[]){&train}, 1));
    die(pack_init(&wb.pack, pass + before, rows));
    wb.grad = g.backend->mem->take(g.st.params.bytes);
    die(learner_init(&l, &g.st, &train, &q));
    die(learner_fill(&l, 1));
    struct row *r = random_rows(rows, length);
    const struct row **list = calloc((size_t)rows, sizeof *list);
    for (int i = 0; i < rows; i++) list[i] = &r[i];
    enum { STEPS = 8 };
    double s[STEPS];
    for (int k = -2; k < STEPS; k++) {
        struct step_result out;
        double t0 = seconds_now();
        die(learner_step(&l, &wb, list, rows, 1, (uint64_t)(k + 2), &out));
        if (k >= 0) s[k] = seconds_now() - t0;
        if (k == -2 || k == STEPS - 1) fprintf(stderr, "%s: loss %.4f, gradient norm %.4g\n", item, out.loss, out.grad_norm);
    }
    const struct shape *z = &g.model.shape;
    double tokens = (double)rows * length;
    const bool counted = !strcmp(g.st.method->name, "lora");
    double flops = 4 * tokens * matrix_parameters() + 6.0 * tokens * (double)param_count(&g.st.params) +
                   0.5 * 12 * tokens * length * (double)(z->layers * z->heads * z->head_dim);
    print(item, s, STEPS, tokens, counted ? flops / g.rate : 0, "rate", planned(&wb.mem, &train, 1));
    learner_free(&l);
    memory_free(&wb.mem);
    g.backend->mem->give(wb.grad, g.st.params.bytes);
    pack_free(&wb.pack);
    program_free(&train);
}

static void decode(const char *item, int rows, int length) {
    enum { STEPS = 24 };
    struct generator gen;
    struct memory mem;
    struct capacity cap = {rows * length, rows, rows, length + STEPS + 8, g.compute, DT_NONE, 0};
    die(generator_build(&gen, &g.model, &g.st, cap, g.backend));
    die(memory_for(&mem, (struct program *const[]){&gen.prefill, &gen.decode}, 2));
    struct learner l;
    die(learner_init(&l, &g.st, &gen.decode, &(struct recipe){0}));
    die(learner_fill(&l, 1));
    struct ids *prompt = calloc((size_t)rows, sizeof *prompt);
    struct generation *out = calloc((size_t)rows, sizeof *out);
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < length; t++) die(ids_push(&prompt[i], random_id((int64_t)i * length + t)));
    double s[4];
    for (int k = -1; k < 4; k++) {
        struct generate_stats st = {0};
        struct generate_request rq = {.prompt = prompt, .n = rows, .max_new = STEPS, .eos = -1, .run = {.threads = omp_get_max_threads()}};
        die(generate(&gen, &mem, l.w, &rq, out, &st));
        if (k >= 0) s[k] = st.decode_s / (STEPS - 1);
        for (int i = 0; i < rows; i++) free(out[i].ids);
    }
    const struct weight *table = model_weight(&g.model, "token_embd.weight"); /* only looked up */
    double bytes = (double)g.model.bytes - (g.model.shape.tied ? 0 : (double)dtype_row_bytes(table->dt, table->d[1]) * (double)table->d[0]);
    print(item, s, 4, rows, bytes / g.bandwidth, "bandwidth", planned(&mem, &gen.prefill, 1));
    learner_free(&l);
    memory_free(&mem);
    generator_free(&gen);
}

/* Both halves of a cycle, through the objective itself. */
static void macct(const char *item, int rows, struct checkpoints levels, int pass) {
    enum { LENGTH = 64, STEPS = 4 };
    static struct config cfg;
    static struct run r;
    die(config_init(&cfg));
    int made = rows * 2 * (LENGTH + 2);
    struct capacity cap = {pass ? pass : made, rows * 2, rows, 2 * LENGTH + 4, g.compute, DT_NONE, 0};
    r = (struct run){.cfg = &cfg, .objective = &objective_macct, .backend = g.backend, .threads = omp_get_max_threads(), .n_plans = 1, .n_bases = 1, .n_sides = 2, .cap = cap};
    r.base[0] = (struct base){.model = g.model, .eos = 2};
    struct plans *p = &r.plans[0];
    p->st = g.st;
    die(program_train(&p->train, &g.model, &p->st, cap, &levels, g.backend));
    die(generator_build(&p->gen, &g.model, &p->st, cap, g.backend));
    die(memory_for(&r.wb.mem, (struct program *const[]){&p->train, &p->gen.prefill, &p->gen.decode}, 3));
    die(pack_init(&r.wb.pack, cap.tokens, cap.sequences));
    r.wb.threads = r.threads;
    r.wb.grad = g.backend->mem->take(p->st.params.bytes);
    static int32_t separator = 1;
    for (int i = 0; i < 2; i++) {
        struct side *s = &r.side[i];
        struct recipe q = {.learning_rate = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
        *s = (struct side){.name = i ? "B" : "A", .cfg = &cfg.side[i], .base = &r.base[0], .plans = p, .n_texts = rows};
        s->next = s->from = &r.side[!i];
        cfg.side[i].max_new_tokens = LENGTH;
        cfg.side[i].batch = rows;
        s->texts = calloc((size_t)rows, sizeof *s->texts);
        for (int k = 0; k < rows; k++)
            for (int t = 0; t < LENGTH; t++) die(ids_push(&s->texts[k], random_id((int64_t)(i * rows + k) * LENGTH + t)));
        s->form.tail = (struct ids){&separator, 1, 0};
        die(order_init(&s->order, s->n_texts, 1, (uint32_t)i, false));
        die(learner_init(&s->learner, &p->st, &p->train, &q));
        die(learner_fill(&s->learner, (uint64_t)i));
    }
    double s[STEPS], gen = 0, train = 0;
    for (int k = -1; k < STEPS; k++) {
        struct step_info info = {0};
        double t0 = seconds_now();
        die(objective_macct.step(&r, &info));
        if (k >= 0) s[k] = seconds_now() - t0, gen += info.generate_s / STEPS, train += info.train_s / STEPS;
        r.step++;
    }
    fprintf(stderr, "%s: %.3f s generating, %.3f s training\n", item, gen, train);
    print(item, s, STEPS, 2.0 * rows * 2 * LENGTH, 0, "nothing", planned(&r.wb.mem, &p->train, 2));
    for (int i = 0; i < 2; i++) learner_free(&r.side[i].learner);
    g.backend->mem->give(r.wb.grad, p->st.params.bytes);
    memory_free(&r.wb.mem);
    program_free(&p->train);
    generator_free(&p->gen);
}

/* Each instruction alone, waiting after it: the sum is more than the pass takes, its parts tell where to look. */
static void profile(const char *item, int rows, int length, struct checkpoints levels) {
    struct program train;
    struct memory mem;
    g.model.mlp_chunk = rows * length; /* instructions are launched one by one */
    die(program_train(&train, &g.model, &g.st, (struct capacity){rows * length, rows, 1, 1, g.compute, DT_NONE, 0}, &levels, g.backend));
    die(memory_for(&mem, (struct program *const[]){&train}, 1));
    struct pack pack;
    die(pack_init(&pack, rows * length, rows));
    struct row *r = random_rows(rows, length);
    pack_clear(&pack);
    for (int i = 0; i < rows; i++) pack_row(&pack, &r[i], i);
    struct feed f = {.ids = pack.ids, .pos = pack.pos, .cu = pack.cu, .sample = pack.sample, .label = pack.label, .weight = pack.weight, .n = pack.n, .s = pack.s};
    float *w = g.backend->mem->take(g.st.params.bytes), *grad = g.backend->mem->take(g.st.params.bytes);
    void *param;
    struct run_ctx run = {.threads = omp_get_max_threads(), .longest = length};
    die(memory_bind(&mem, &train, w, run.threads, &param));
    die(program_run(&train, &mem, param, grad, &f, &run, false));
    const void *inputs[] = {f.ids, f.pos, f.cu, f.sample, f.label, f.weight};
    struct binding b = {.input = (void *const *)inputs, .act = mem.act, .scratch = mem.scratch, .state = mem.act, .host = mem.host, .param = param, .grad = grad, .stage = mem.stage, .stage_host = mem.stage_host};
    b.size[-SYM_N] = f.n, b.size[-SYM_S] = f.s, b.size[-SYM_S1] = f.s + 1;
    struct { const char *op; double s; int n, span; } sums[32] = {{0}};
    double all = 0;
    char byte[4];
    for (int i = 0, next; i < train.p.ni; i = next) {
        const char *op = train.p.in[i].op->name;
        die(g.backend->mem->download(byte, mem.act, 4));
        double t0 = seconds_now();
        die(plan_launch(&train.plan, &b, &run, i, &next));
        die(g.backend->mem->download(byte, mem.act, 4));
        double t = seconds_now() - t0;
        int k = 0;
        while (sums[k].op && (strcmp(sums[k].op, op) || sums[k].span != next - i)) k++;
        sums[k].op = op, sums[k].span = next - i, sums[k].s += t, sums[k].n++, all += t;
    }
    printf("%s: %.1f ms in %d instructions\n", item, 1e3 * all, train.p.ni);
    for (int k = 0; sums[k].op; k++)
        printf("  %-16s +%d %5d  %8.2f ms  %4.1f %%\n", sums[k].op, sums[k].span - 1, sums[k].n, 1e3 * sums[k].s, 100 * sums[k].s / all);
    g.backend->mem->give(w, 0);
    g.backend->mem->give(grad, 0);
    memory_free(&mem);
    pack_free(&pack);
    program_free(&train);
}

#ifdef CYC_CUDA
/* Microseconds of a product of n rows of bf16 with W [O, C] of type w, over several copies so that W comes from memory. */
static double product(bool matvec, dtype w_dt, int64_t n, int64_t O, int64_t C) {
    size_t each = (dtype_row_bytes(w_dt, C) * (size_t)O + 255) / 256 * 256, copies = (size_t)(200 << 20) / each + 1;
    char *w = g.backend->mem->take(each * copies), *x = g.backend->mem->take((size_t)(n * C) * 2),
         *y = g.backend->mem->take((size_t)(n * O) * 2), byte[4];
    double best = 1e30;
    for (int rep = 0; rep < 4; rep++) {
        die(g.backend->mem->download(byte, x, 4));
        double t0 = seconds_now();
        enum { RUNS = 50 };
        for (int i = 0; i < RUNS; i++) {
            struct view v = {w + each * ((size_t)i % copies), w_dt, 2, {O, C}, C};
            if (matvec) die(cuda_matvec(&(struct cuda_matvec){&v, NULL, x, DT_BF16, DT_BF16, n, C, O, y, NULL, 0}, 1));
            else die(cuda_gemm(&(struct cuda_gemm){n, O, C, x, v.p, y, C, C, O, false, true, DT_BF16, DT_BF16, 1, 0}));
        }
        die(g.backend->mem->download(byte, y, 4));
        double t = (seconds_now() - t0) / RUNS * 1e6;
        if (t < best) best = t;
    }
    g.backend->mem->give(w, 0);
    g.backend->mem->give(x, 0);
    g.backend->mem->give(y, 0);
    return best;
}

/* Of bf16 beside cuBLASLt's, of other types alone. */
static void products(dtype w_dt) {
    if (!w_dt) die(fail(E_USAGE, "products: of which stored type?"));
    static const int rows[] = {1, 2, 4, 8, 12, 16};
    const struct shape *z = &g.model.shape;
    const int64_t shapes[][2] = {{z->heads * z->head_dim, z->width}, {z->kv_heads * z->head_dim, z->width}, {z->ffn, z->width}, {z->width, z->ffn}, {z->vocab, z->width}, {48, z->width}, {16, z->ffn}};
    printf("%-16s", "rows: us of each");
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) printf("  %6d mv / %s", rows[k], w_dt == DT_BF16 ? "lt" : "TB/s");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t O = shapes[s][0], C = shapes[s][1];
        printf("\n%7lld x %-6lld", (long long)O, (long long)C);
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
            double us = product(true, w_dt, rows[k], O, C);
            if (w_dt == DT_BF16) printf("  %6.1f / %4.1f", us, product(false, w_dt, rows[k], O, C));
            else printf("  %6.1f / %4.2f", us, (double)(dtype_row_bytes(w_dt, C) * (size_t)O) / us * 1e-6);
        }
    }
    printf("\n");
}
#else
static void products(dtype w_dt) { (void)w_dt, die(fail(E_USAGE, "products are compared on a card")); }
#endif

static struct checkpoints levels_of(const char *s) {
    const int n = atoi(s + strcspn(s, "0123456789"));
    struct checkpoints c = {.level = CHECKPOINT_BLOCK, .offload = strstr(s, "offload") != NULL};
    if (!strncmp(s, "none", 4)) c.level = CHECKPOINT_NONE;
    else if (!strncmp(s, "sel", 3)) c.level = CHECKPOINT_SELECTIVE;
    else if (!strncmp(s, "first", 5)) c.blocks = n, c.rest = CHECKPOINT_SELECTIVE;
    else c.every = n;
    return c;
}

/* What the weights are made as; the rest of a type goes where it belongs. */
static const char *type_of(const char *name, dtype *keep) {
    const bool tf32 = !strcmp(name, "tf32"), fp8 = !strcmp(name, "fp8");
    die(backend_compute(g.backend, tf32 ? "float32" : fp8 ? "bfloat16" : name, &g.compute));
    if ((tf32 || fp8) && g.backend->mem->host) die(fail(E_USAGE, "%s is a card's", name));
    if (fp8 && (!g.backend->keeps || !g.backend->keeps(DT_F8))) die(fail(E_USAGE, "this card has no matrix units for fp8"));
    if (fp8) *keep = DT_F8;
    if (g.backend->configure) g.backend->configure(&(struct settings){.tf32 = tf32});
    return g.compute == DT_F32 ? "random:1:f32" : g.compute == DT_F16 ? "random:1:f16" : "random:1:bf16";
}

int main(int argc, char **argv) {
    const char *device = "cuda", *base = NULL, *type = NULL, *weights = "random:1:bf16";
    dtype keep = DT_NONE;
    struct config cfg;
    arena mem = {0};
    const struct peft_method *method;
    const void *settings;
    int i = 1;
    die(config_init(&cfg));
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (!strcmp(argv[i], "--cpu")) device = "cpu";
        if (!strcmp(argv[i], "--f32")) g.compute = DT_F32;
        if (!strcmp(argv[i], "--fp8")) keep = DT_F8;
        if (!strcmp(argv[i], "--type") && i + 1 < argc) type = argv[++i];
        if (!strcmp(argv[i], "--set") && i + 1 < argc) die(config_set(&cfg, argv[++i]));
        if (!strcmp(argv[i], "--base") && i + 1 < argc) base = argv[++i];
    }
    if (argc - i < 2)
        return fprintf(stderr, "usage: bench_card [--cpu] [--type T] [--f32] [--fp8] [--base TYPE] [--set KEY=VALUE]... SHAPE.json "
                               "(sft:RxL:LEVEL[:PASS] | decode:R[:L] | macct:R)...\n"),
               2;
    die(backend_pick(device, &g.backend));
    if (g.backend->open) die(g.backend->open());
    if (type) weights = type_of(type, &keep);
    g.rate = g.bandwidth = 1;
#ifdef CYC_CUDA
    if (!g.backend->mem->host) die(cuda_measure(&g.bandwidth, &g.rate));
    printf("measured: copies %.2f TB/s, bf16 products %.0f TFLOP/s\n", g.bandwidth * 1e-12, g.rate * 1e-12);
#endif
    double t0 = seconds_now();
    die(model_open(weights, argv[i++], &g.model));
    if (!base) die(model_fill(&g.model));
    else if (!strcmp(base, "q4_k_m")) fill_stored(&g.model, DT_NONE);
    else if (dtype_parse(base)) fill_stored(&g.model, dtype_parse(base));
    else return fprintf(stderr, "bench_card: what is a base of '%s'?\n", base), 2;
    g.model.keep = keep;
    int modules;
    static struct run about;
    about.cfg = &cfg, about.base[0].model = g.model;
    die(side_method(&(struct side){.cfg = &cfg.side[0], .base = &about.base[0]}, &about, &mem, &method, &settings));
    die(structure_init(&g.st, &g.model, method, settings, &modules));
    printf("random weights made in %.1f s\n", seconds_now() - t0);
    for (; i < argc; i++) {
        int a = 0, b = 0, pass = 0;
        char level[24] = "none";
        if (sscanf(argv[i], "sft:%dx%d:%23[a-z0-9+]:%d", &a, &b, level, &pass) >= 2) sft(argv[i], a, b, levels_of(level), pass ? pass : a * b);
        else if (sscanf(argv[i], "decode:%d:%d", &a, &b) >= 1) decode(argv[i], a, b ? b : 64);
        else if (sscanf(argv[i], "macct:%d:%23[a-z0-9+]:%d", &a, level, &pass) >= 1) macct(argv[i], a, levels_of(level), pass);
        else if (sscanf(argv[i], "profile:%dx%d:%23[a-z0-9+]", &a, &b, level) >= 2) profile(argv[i], a, b, levels_of(level));
        else if (!strncmp(argv[i], "products", 8)) products(argv[i][8] == ':' ? dtype_parse(argv[i] + 9) : DT_BF16);
        else return fprintf(stderr, "bench_card: what is '%s'?\n", argv[i]), 2;
    }
    return 0;
}
