/* The CPU products in f32, f16 and bf16 beside each other, at the layer shapes of SmolLM2-135M: linear and its backward, 256 tokens, rank 16, as
 * programs of these types run them (core/wide.h; AMX where the processor has it, CYC_CPU=avx512 leaves it out). GFLOP/s of one thread by its
 * processor time, the best of many interleaved repetitions; the flops are the products', nothing for unpacking or for changing types.
 *
 *   bench_half */
#define _GNU_SOURCE
#include "cpu/cpu.h"
#include "ops/ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TOKENS = 256, RANK = 16, TIMES = 20 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *take(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!p) exit(1);
    return memset(p, 0, bytes);
}

static struct view matrix(dtype dt, int64_t rows, int64_t cols) {
    struct view v = {take((size_t)rows * dtype_row_bytes(dt, cols)), dt, 2, {rows, cols}, cols};
    float *row = take((size_t)cols * sizeof *row);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) row[c] = (float)((r * cols + c) * 7919 % 1000) * 1e-3f - 0.5f;
        quantise_row(dt, row, (char *)v.p + (size_t)r * dtype_row_bytes(dt, cols), cols);
    }
    free(row);
    return v;
}

struct layer {
    const char *name;
    int outs;
    int64_t c, o;
};

/* One layer in one type, both ways; operands live as long as the program. */
struct job {
    struct inst way[2];
    struct view in[2][MAX_IN], out[2][MAX_OUT];
    kernel run[2];
    void *scratch;
    double flops[2], best[2];
};

static struct job job_of(const struct layer *l, dtype act, dtype weights) {
    struct job j = {.way = {{.op = &op_linear}, {.op = &op_linear_bwd}}, .best = {1e9, 1e9}};
    struct op_attr a = {.n = l->outs};
    struct view *in = j.in[0], *back = j.in[1];
    in[LIN_X] = back[LB_X] = matrix(act, TOKENS, l->c);
    in[LIN_A] = back[LB_A] = matrix(act, RANK * l->outs, l->c);
    j.out[0][LIN_T] = back[LB_T] = matrix(act, TOKENS, RANK * l->outs);
    j.out[1][LB_DX] = matrix(act, TOKENS, l->c);
    j.out[1][LB_DA] = matrix(DT_F32, RANK * l->outs, l->c);
    for (int k = 0; k < l->outs; k++) {
        in[LIN_W + k] = back[LB_W + k] = matrix(weights, l->o, l->c);
        in[LIN_B + k] = back[LB_B + k] = matrix(act, l->o, RANK);
        j.out[0][k] = back[LB_DY + k] = matrix(act, TOKENS, l->o);
        j.out[1][LB_DB + k] = matrix(DT_F32, l->o, RANK);
        a.rank[k] = RANK, a.alpha[k] = 2;
    }
    size_t most = 0;
    for (int w = 0; w < 2; w++) {
        j.way[w].a = a;
        j.run[w] = backend_cpu.find(&j.way[w], j.in[w], j.out[w]);
        const size_t bytes = backend_cpu.scratch(&j.way[w], j.in[w], j.out[w]);
        most = bytes > most ? bytes : most;
        j.flops[w] = 2.0 * TOKENS * l->outs * (double)(l->c * l->o + (w + 1) * RANK * (l->c + l->o));
    }
    j.scratch = take(most);
    return j;
}

int main(void) {
    static const struct layer layers[] = {{"gate|up", 2, 576, 1536}, {"down", 1, 1536, 576}};
    static const dtype acts[] = {DT_F32, DT_F16, DT_BF16}, stored[] = {DT_Q4_1, DT_BF16};
    const struct run_ctx run = {.threads = 1};
    printf("%s%s, one thread\n", cpu_isa_name(cpu_isa()), cpu_amx() ? " with AMX" : "");
    for (int w = 0; w < 2; w++)
        for (int l = 0; l < 2; l++) {
            struct job job[3];
            for (int i = 0; i < 3; i++) job[i] = job_of(&layers[l], acts[i], stored[w]);
            for (int t = 0; t < 6 * TIMES; t++) {
                struct job *j = &job[t % 3];
                const int way = t / 3 % 2;
                const double t0 = now();
                if (j->run[way](&run, &j->way[way], j->in[way], j->out[way], j->scratch)) return 1;
                const double took = now() - t0;
                if (took < j->best[way]) j->best[way] = took;
            }
            for (int i = 0; i < 3; i++)
                printf("%-8s %-5s weights, %-4s activations: forward %4.0f GFLOP/s (%.2fx), backward %4.0f GFLOP/s (%.2fx)\n",
                       layers[l].name, dtype_info[stored[w]].name, dtype_info[acts[i]].name, 1e-9 * job[i].flops[0] / job[i].best[0],
                       job[0].best[0] / job[i].best[0], 1e-9 * job[i].flops[1] / job[i].best[1], job[0].best[1] / job[i].best[1]);
        }
    return 0;
}
