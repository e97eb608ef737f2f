/* Muon on the processor (core/flat.h): momentum, five Newton-Schulz steps by the product engine (gemm.h), the update. A matrix that is taller than
 * wide is turned, so that the square products are of the shorter side. Everything is f32, where torch.optim.Muon rounds X to bf16.
 * Scratch: X twice (a step reads one and writes the other), XX' and b XX' + c (XX')^2, and the engine's own. */
#include "cpu/gemm.h"
#include "cpu/optim.h"
#include <math.h>
#include <string.h>

enum { LEAST = 16384 /* floats: less is not worth a thread */ };

struct iteration {
    float *x, *next, *gram, *poly;
    int64_t s, n; /* X is [s, n], s the shorter side */
    void *engine;
    int threads;
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static size_t whole_lines(int64_t floats) { return ((size_t)floats * sizeof(float) + 63) & ~(size_t)63; }

size_t cpu_muon_scratch(int64_t rows, int64_t columns) {
    const int64_t s = least(rows, columns);
    return 2 * whole_lines(rows * columns) + 2 * whole_lines(s * s) + gemm_scratch();
}

/* y [s, n] += scale * a [s, k] w; w is [k, n], or [n, k] where t. */
static void product(const struct iteration *it, float *y, int64_t n, const float *a, int64_t k, const struct gemm_w *w) {
    const struct gemm g = {.m = it->s,
                           .pieces = 1,
                           .outs = 1,
                           .threads = it->threads,
                           .piece = {{.x = a, .ld = k, .k = k}},
                           .out = {{.y = y, .ld = n, .n = n, .add = true, .w = {*w}}}};
    gemm_run(&g, it->engine);
}

static void scaled(float *to, const float *x, float by, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = by * x[i];
}

static void iterate(struct iteration *it) {
    const int64_t s = it->s, n = it->n;
    for (int k = 0; k < MUON_ITERATIONS; k++) {
        memset(it->gram, 0, (size_t)(s * s) * sizeof(float));
        product(it, it->gram, s, it->x, n, &(struct gemm_w){.p = it->x, .dt = DT_F32, .ld = n, .t = true, .scale = 1});
        scaled(it->poly, it->gram, (float)MUON_B, s * s);
        product(it, it->poly, s, it->gram, s, &(struct gemm_w){.p = it->gram, .dt = DT_F32, .ld = s, .scale = (float)MUON_C});
        scaled(it->next, it->x, (float)MUON_A, s * n);
        product(it, it->next, n, it->poly, s, &(struct gemm_w){.p = it->x, .dt = DT_F32, .ld = n, .scale = 1});
        float *const done = it->next;
        it->next = it->x;
        it->x = done;
    }
}

err cpu_muon(const struct muon *o, const struct momentum_state *s, void *scratch, int threads) {
    const int64_t rows = o->rows, columns = o->columns, all = rows * columns;
    const bool turned = rows > columns;
    const int team = threads < 1 || all <= LEAST ? 1 : threads;
    char *at = scratch;
    struct iteration it = {.s = least(rows, columns), .n = turned ? rows : columns, .threads = threads};
    it.x = (float *)at, at += whole_lines(all);
    it.next = (float *)at, at += whole_lines(all);
    it.gram = (float *)at, at += whole_lines(it.s * it.s);
    it.poly = (float *)at, at += whole_lines(it.s * it.s);
    it.engine = at;
    const float rest = (float)(1 - o->momentum);
#pragma omp parallel for num_threads(team)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            const int64_t i = r * columns + c;
            const float g = o->grad_scale * s->g[i], m = s->m[i] + rest * (g - s->m[i]);
            s->m[i] = m;
            it.x[turned ? c * rows + r : i] = m - rest * (m - g); /* g + momentum (m - g), as torch.lerp has it */
        }
    const double norm = sqrt(flat_sumsq(it.x, all, threads));
    flat_scale(it.x, (float)(1 / fmax(norm, MUON_EPS)), all, threads);
    iterate(&it);
    const float decay = (float)(1 - o->lr * o->weight_decay), step = (float)o->step;
#pragma omp parallel for num_threads(team)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            const int64_t i = r * columns + c;
            s->p[i] = decay * s->p[i] - step * it.x[turned ? c * rows + r : i];
        }
    return OK;
}
