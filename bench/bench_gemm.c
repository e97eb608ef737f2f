/* The CPU products at the layer shapes: GFLOP/s of linear and linear_bwd beside OpenBLAS on plain f32 (loaded at run
 * time when the machine has it), decode speed beside the memory bandwidth measured here, and a head_loss step.
 *
 *   bench_gemm [threads [train|decode|head|types]]   CYC_CPU=avx2 caps the instruction set
 *   bench_gemm --peak                                this machine's own ceilings alone
 *
 * Best of many interleaved repetitions; GFLOP/s count the products' 2NOC (plus the low-rank ones), nothing for
 * unpacking. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "ops/ops.h"

typedef void (*sgemm)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                      const float *b, int ldb, float beta, float *c, int ldc);
static sgemm blas;
static struct run_ctx run = {.threads = 2, .seed = 1};

/* One thread: its processor time, which other programs on the machine do not stretch. */
static double now(void) {
    struct timespec t;
    clock_gettime(run.threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *take(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!p) exit(1);
    return memset(p, 0, bytes);
}

static struct view matrix(int64_t rows, int64_t cols) {
    struct view v = {take((size_t)(rows * cols) * 4), DT_F32, 2, {rows, cols}, cols};
    for (int64_t i = 0; i < rows * cols; i++) view_f32(&v)[i] = (float)(i * 7919 % 1000) * 1e-3f - 0.5f;
    return v;
}

static struct view weights(dtype dt, int64_t rows, int64_t cols) {
    struct view f = matrix(1, cols), v = {take((size_t)rows * dtype_row_bytes(dt, cols)), dt, 2, {rows, cols}, cols};
    for (int64_t r = 0; r < rows; r++) quantise_row(dt, f.p, (char *)v.p + (size_t)r * dtype_row_bytes(dt, cols), cols);
    free(f.p);
    return v;
}

/* One group: its operands for both directions. */
struct group {
    struct inst inst;
    struct view in[LIN_IN], out[MAX_OUT], bin[LB_IN], bout[MAX_OUT];
    void *scratch, *bscratch;
    double flops, low, bytes;
};

static void make(struct group *g, dtype dt, int64_t n, int64_t c, int outs, const int64_t *o, int rank) {
    memset(g, 0, sizeof *g);
    g->inst.a.n = outs;
    g->in[LIN_X] = g->bin[LB_X] = matrix(n, c);
    for (int i = 0; i < outs; i++) {
        g->in[LIN_W + i] = g->bin[LB_W + i] = weights(dt, o[i], c);
        g->out[i] = g->bin[LB_DY + i] = matrix(n, o[i]);
        g->inst.a.alpha[i] = 2;
        g->inst.a.rank[i] = rank;
        g->flops += 2.0 * (double)(n * o[i] * c);
        g->low += 2.0 * (double)(n * rank * (o[i] + c));
        g->bytes += (double)o[i] * (double)dtype_row_bytes(dt, c) + 4.0 * (double)(rank * (o[i] + c));
        if (!rank) continue;
        g->in[LIN_B + i] = g->bin[LB_B + i] = matrix(o[i], rank);
        g->bout[LB_DB + i] = matrix(o[i], rank);
    }
    if (rank) {
        g->in[LIN_A] = g->bin[LB_A] = matrix(rank * outs, c);
        g->out[LIN_T] = g->bin[LB_T] = matrix(n, rank * outs);
        g->bout[LB_DA] = matrix(rank * outs, c);
    }
    g->bout[LB_DX] = matrix(n, c);
    g->scratch = take(cpu_linear_scratch(&g->inst, g->in, g->out));
    g->bscratch = take(cpu_linear_bwd_scratch(&g->inst, g->bin, g->bout));
}

static void release(struct group *g) {
    for (int i = 0; i < LIN_IN; i++) free(g->in[i].p);
    for (int i = 0; i < MAX_OUT; i++) free(g->out[i].p), free(g->bout[i].p);
    free(g->scratch), free(g->bscratch);
}

static double seconds_of(void (*f)(struct group *), struct group *g, double best) {
    double t = now();
    f(g);
    t = now() - t;
    return t < best ? t : best;
}

static void forward(struct group *g) { cpu_linear(&run, &g->inst, g->in, g->out, g->scratch); }
static void backward(struct group *g) { cpu_linear_bwd(&run, &g->inst, g->bin, g->bout, g->bscratch); }

/* The same base product with plain f32 weights, one call for the whole group. */
static float *plain_w, *plain_y;
static void blas_forward(struct group *g) {
    int n = (int)g->in[LIN_X].d[0], c = (int)g->in[LIN_X].d[1], o = (int)(g->flops / 2 / n / c);
    blas(101, 111, 112, n, o, c, 1, g->in[LIN_X].p, c, plain_w, c, 0, plain_y, o);
}
static void blas_backward(struct group *g) {
    int n = (int)g->in[LIN_X].d[0], c = (int)g->in[LIN_X].d[1], o = (int)(g->flops / 2 / n / c);
    blas(101, 111, 111, n, c, o, 1, plain_y, o, plain_w, c, 0, g->bout[LB_DX].p, c);
}

struct shape {
    const char *name;
    int64_t c;
    int outs;
    int64_t o[3];
};
static const struct shape shapes[] = {
    {"135M qkv", 576, 3, {576, 192, 192}},  {"135M o", 576, 1, {576}},
    {"135M gate up", 576, 2, {1536, 1536}}, {"135M down", 1536, 1, {576}},
    {"1B qkv", 2048, 3, {2048, 512, 512}},  {"1B down", 8192, 1, {2048}},
};

static void training(void) {
    printf("\n%-14s %5s | %8s %8s %8s | %8s %8s %8s   GFLOP/s: base only, with rank 16 (its flops too), OpenBLAS f32\n",
           "Q4_1", "N", "forward", "+low", "blas", "backward", "+low", "blas");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int64_t n = 64; n <= 1024; n *= 4) {
            struct group g, l;
            make(&g, DT_Q4_1, n, shapes[s].c, shapes[s].outs, shapes[s].o, 0);
            make(&l, DT_Q4_1, n, shapes[s].c, shapes[s].outs, shapes[s].o, 16);
            double total = g.flops / 2 / (double)(n * shapes[s].c), t[6] = {9, 9, 9, 9, 9, 9};
            plain_w = take((size_t)total * (size_t)shapes[s].c * 4);
            plain_y = take((size_t)total * (size_t)n * 4);
            int reps = g.flops < 1e8 ? 40 : g.flops < 1e9 ? 15 : 4;
            for (int i = 0; i < reps; i++) {
                t[0] = seconds_of(forward, &g, t[0]);
                t[1] = seconds_of(forward, &l, t[1]);
                t[3] = seconds_of(backward, &g, t[3]);
                t[4] = seconds_of(backward, &l, t[4]);
            }
            for (int i = 0; blas && i < reps; i++) {
                t[2] = seconds_of(blas_forward, &g, t[2]);
                t[5] = seconds_of(blas_backward, &g, t[5]);
            }
            double f = g.flops * 1e-9, low = l.low * 1e-9;
            printf("%-14s %5lld | %8.1f %8.1f %8.1f | %8.1f %8.1f %8.1f\n", shapes[s].name, (long long)n, f / t[0],
                   (f + low) / t[1], f / t[2], f / t[3], (f + 2 * low) / t[4], f / t[5]);
            release(&g), release(&l), free(plain_w), free(plain_y);
        }
}

static double bandwidth(void) {
    int64_t n = 1 << 26; /* 256 MB */
    float *p = take((size_t)n * 4), sink = 0;
    double best = 9;
    for (int i = 0; i < 8; i++) {
        double t = now();
#pragma omp parallel for num_threads(run.threads) reduction(+ : sink)
        for (int64_t b = 0; b < n; b += 4096) {
            float s[64] = {0};
            for (int64_t k = b; k < b + 4096; k += 64)
                for (int j = 0; j < 64; j++) s[j] += p[k + j];
            for (int j = 0; j < 64; j++) sink += s[j];
        }
        t = now() - t;
        if (t < best) best = t;
    }
    free(p);
    if (sink != 0) puts("");
    return (double)n * 4e-9 / best;
}

/* All linears of SmolLM2-135M once: weights far larger than the caches, as in one step of decoding. */
static void decoding(dtype dt, int rank, double peak) {
    enum { LAYERS = 30, KINDS = 4 };
    struct group *g = take(sizeof *g * (LAYERS * KINDS + 1));
    static const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 40};
    static const int64_t vocabulary[] = {49152};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        double bytes = 0, flops = 0, best[] = {9, 9};
        const int settings = gemm_int_isa() && rows[r] <= gemm_isa()->dot_rows ? 2 : 1;
        for (int i = 0; i < LAYERS * KINDS; i++) {
            const struct shape *s = &shapes[i % KINDS];
            make(&g[i], dt, rows[r], s->c, s->outs, s->o, rank);
        }
        make(&g[LAYERS * KINDS], DT_Q8_0, rows[r], 576, 1, vocabulary, 0);
        for (int i = 0; i <= LAYERS * KINDS; i++) bytes += g[i].bytes, flops += g[i].flops + g[i].low;
        for (int k = 0; k < 8; k++)
            for (int ints = 0; ints < settings; ints++) {
                run.int_activations = ints;
                double t = now();
                for (int i = 0; i <= LAYERS * KINDS; i++) forward(&g[i]);
                t = now() - t;
                if (t < best[ints]) best[ints] = t;
            }
        run.int_activations = false;
        for (int ints = 0; ints < settings; ints++)
            printf("%-5s x %-5s rank %2d N %2lld  %7.2f ms a step  %6.1f GB/s (%3.0f %% of the read bandwidth)  %6.1f GFLOP/s\n",
                   dtype_info[dt].name, ints ? "int15" : "f32", rank, (long long)rows[r], best[ints] * 1e3,
                   bytes * 1e-9 / best[ints], 100 * bytes * 1e-9 / best[ints] / peak, flops * 1e-9 / best[ints]);
        for (int i = 0; i <= LAYERS * KINDS; i++) release(&g[i]);
    }
    free(g);
}

/* Every stored type at one shape: products of 64 and 256 rows, and one row against 24 such matrices (more than the caches
 * hold). */
static void types(double peak) {
    enum { SIZE = 2048, MANY = 24 };
    printf("\n%-8s | forward, backward at 64 rows, then 256: GFLOP/s | one row: weights/ns, GB/s (share of the read bandwidth)\n", "[2048]^2");
    for (int dt = DT_F32; dt < DT_COUNT; dt++) {
        if (dt == DT_I32) continue;
        double t[4] = {9, 9, 9, 9}, one = 9, bytes = 0, flops = 0;
        const int64_t o = SIZE;
        for (int k = 0; k < 2; k++) {
            struct group g;
            make(&g, (dtype)dt, k ? 256 : 64, SIZE, 1, &o, 0);
            for (int i = 0; i < 5; i++) t[2 * k] = seconds_of(forward, &g, t[2 * k]), t[2 * k + 1] = seconds_of(backward, &g, t[2 * k + 1]);
            flops = g.flops;
            release(&g);
        }
        struct group g[MANY];
        for (int i = 0; i < MANY; i++) make(&g[i], (dtype)dt, 1, SIZE, 1, &o, 0), bytes += g[i].bytes;
        for (int k = 0; k < 6; k++) {
            double from = now();
            for (int i = 0; i < MANY; i++) forward(&g[i]);
            from = now() - from;
            if (from < one) one = from;
        }
        for (int i = 0; i < MANY; i++) release(&g[i]);
        printf("%-8s | %6.1f %6.1f  %6.1f %6.1f | %6.2f  %5.1f (%3.0f %%)\n", dtype_info[dt].name, flops / 4e9 / t[0], flops / 4e9 / t[1],
               flops / 1e9 / t[2], flops / 1e9 / t[3], (double)MANY * SIZE * SIZE * 1e-9 / one, bytes * 1e-9 / one,
               100 * bytes * 1e-9 / one / peak);
    }
}

static void head(int64_t n) {
    struct view in[8] = {matrix(n, 576), weights(DT_Q8_0, 49152, 576), matrix(1, n), matrix(1, n)};
    struct view out[6] = {matrix(1, 4), matrix(1, n), matrix(n, 576)};
    memset(in[2].p, 0, (size_t)n * 4);
    for (int64_t i = 0; i < n; i++) view_f32(&in[3])[i] = 1;
    struct inst inst = {0};
    void *scratch = take(cpu_head_loss_scratch(&inst, in, out));
    double best[2] = {9, 9};
    for (int i = 0; i < 4; i++)
        for (int grad = 0; grad < 2; grad++) {
            struct view o[6] = {out[0], out[1], grad ? out[2] : (struct view){0}};
            double t = now();
            cpu_head_loss(&run, &inst, in, o, scratch);
            t = now() - t;
            if (t < best[grad]) best[grad] = t;
        }
    double f = 2.0 * (double)n * 49152 * 576 * 1e-9;
    printf("head_loss Q8_0 [49152, 576], %4lld rows: %6.1f GFLOP/s forward, %6.1f with dx; scratch %.1f MB\n",
           (long long)n, f / best[0], 2 * f / best[1], (double)cpu_head_loss_scratch(&inst, in, out) * 1e-6);
    for (int i = 0; i < 4; i++) free(in[i].p);
    for (int i = 0; i < 3; i++) free(out[i].p);
    free(scratch);
}

/* The most f32 operations a second that all threads reach together, on a tile that stays in L1. */
static double fma_peak(void) {
    enum { K = 256, ROUNDS = 20000 };
    const struct gemm_isa *isa = gemm_isa();
    double best = 9;
    for (int i = 0; i < 5; i++) {
        double t = now();
#pragma omp parallel num_threads(run.threads)
        {
            struct view a = matrix(K, isa->mr), b = matrix(K, isa->nr), c = matrix(isa->mr, isa->nr);
            for (int k = 0; k < ROUNDS; k++) isa->tile(isa->mr, isa->nr, K, a.p, a.ld, b.p, b.ld, c.p, c.ld, false);
            free(a.p), free(b.p), free(c.p);
        }
        t = now() - t;
        if (t < best) best = t;
    }
    return 2.0 * isa->mr * isa->nr * K * ROUNDS * run.threads * 1e-9 / best;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--peak")) {
        run.threads = omp_get_num_procs();
        printf("RESULT {\"item\": \"peak\", \"threads\": %d, \"isa\": \"%s\", \"int15\": %s, \"gflops\": %.1f, \"gb_s\": %.1f}\n",
               run.threads, cpu_isa_name(cpu_isa()), cpu_vnni() ? "true" : "false", fma_peak(), bandwidth());
        return 0;
    }
    if (argc > 1) run.threads = atoi(argv[1]);
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW);
    if (lib) {
        *(void **)&blas = dlsym(lib, "cblas_sgemm");
        void (*set)(int);
        *(void **)&set = dlsym(lib, "openblas_set_num_threads");
        if (set) set(run.threads);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    double peak = bandwidth();
    printf("%s, %d threads, OpenBLAS %s, reads %.1f GB/s\n", cpu_isa_name(cpu_isa()), run.threads, lib ? "yes" : "no",
           peak);
    const char *only = argc > 2 ? argv[2] : NULL;
    if (!only || !strcmp(only, "train")) training();
    for (int64_t n = 16; n <= 256 && (!only || !strcmp(only, "head")); n *= 4) head(n);
    for (int rank = 0; rank <= 16 && (!only || !strcmp(only, "decode")); rank += 16) decoding(DT_Q4_1, rank, peak);
    if (!only || !strcmp(only, "types")) types(peak);
    return 0;
}
