/* Muon on the card (core/flat.h): momentum, five Newton-Schulz steps by cuBLASLt, the update. X and its products are bf16 (sums in f32), as
 * torch.optim.Muon has them; momentum and weights are f32. A matrix that is taller than wide is turned, so that the square products are of the shorter
 * side. Scratch: parts of the norm, X twice (a step reads one and writes the other), XX' and b XX' + c (XX')^2. Called through flat_ops
 * (backend.c). */
#include "cuda/flat.cuh"
#include "cuda/gemm.h"
#include <math.h>

struct norm {
    double squares, part[SUM_PIECES];
};
struct iteration {
    bf16 *x, *next, *gram, *poly;
    int64_t s, n;
}; /* X is [s, n], s the shorter side */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static size_t whole_lines(int64_t elements) { return ((size_t)elements * sizeof(bf16) + 255) & ~(size_t)255; }
static size_t norm_bytes(void) { return (sizeof(struct norm) + 255) & ~(size_t)255; }

extern "C" size_t cuda_muon_scratch(int64_t rows, int64_t columns) {
    const int64_t s = least(rows, columns);
    return norm_bytes() + 2 * whole_lines(rows * columns) + 2 * whole_lines(s * s);
}

struct momentum {
    float rest, scale;
    int64_t rows, columns;
    bool turned;
};

__device__ static int64_t place(const struct momentum &o, int64_t i) { return o.turned ? i % o.columns * o.rows + i / o.columns : i; }

__global__ void direction_kernel(struct momentum o, const float *grad, float *m, bf16 *x, double *part) {
    double sum = 0;
    EACH_ITEM(i, o.rows * o.columns) {
        const float g = __fmul_rn(o.scale, grad[i]), mi = __fadd_rn(m[i], __fmul_rn(o.rest, __fsub_rn(g, m[i])));
        const bf16 d = __float2bfloat16_rn(__fsub_rn(mi, __fmul_rn(o.rest, __fsub_rn(mi, g))));
        m[i] = mi;
        x[place(o, i)] = d;
        sum += square(__bfloat162float(d));
    }
    sum = block_sum(sum);
    if (!threadIdx.x) part[blockIdx.x] = sum;
}

__global__ void unit_kernel(const double *squares, bf16 *x, int64_t n) {
    const float by = (float)(1 / fmax(sqrt(*squares), MUON_EPS));
    EACH_ITEM(i, n) x[i] = __float2bfloat16_rn(__bfloat162float(x[i]) * by);
}

__global__ void apply_kernel(struct momentum o, float decay, float step, const bf16 *x, float *p) {
    EACH_ITEM(i, o.rows * o.columns) p[i] = __fsub_rn(__fmul_rn(decay, p[i]), __fmul_rn(step, __bfloat162float(x[place(o, i)])));
}

static err copy(bf16 *to, const bf16 *from, int64_t n) {
    return cuda_check(cudaMemcpyAsync(to, from, (size_t)n * sizeof *to, cudaMemcpyDeviceToDevice, cuda_stream), "muon");
}

/* c [m, n] = alpha a [m, k] b + beta c; b is [k, n], or [n, k] where tb. */
static err product(int64_t m, int64_t n, int64_t k, const bf16 *a, const bf16 *b, bool tb, bf16 *c, double alpha, double beta) {
    const struct cuda_gemm g = {m, n, k, a, b, c, k, tb ? k : n, n, false, tb, DT_BF16, DT_BF16, (float)alpha, (float)beta};
    return cuda_gemm(&g);
}

static err iterate(struct iteration *it) {
    const int64_t s = it->s, n = it->n;
    for (int i = 0; i < MUON_ITERATIONS; i++) {
        TRY(product(s, s, n, it->x, it->x, true, it->gram, 1, 0));
        TRY(copy(it->poly, it->gram, s * s));
        TRY(product(s, s, s, it->gram, it->gram, false, it->poly, MUON_C, MUON_B));
        TRY(copy(it->next, it->x, s * n));
        TRY(product(s, n, s, it->poly, it->x, false, it->next, 1, MUON_A));
        bf16 *const done = it->next;
        it->next = it->x;
        it->x = done;
    }
    return OK;
}

extern "C" err cuda_muon(const struct muon *o, const struct momentum_state *s, void *scratch, int threads) {
    (void)threads;
    const int64_t all = o->rows * o->columns;
    if (all <= 0) return OK;
    const struct momentum k = {(float)(1 - o->momentum), o->grad_scale, o->rows, o->columns, o->rows > o->columns};
    struct norm *norm = (struct norm *)scratch;
    struct iteration it;
    char *at = (char *)scratch + norm_bytes();
    it.s = least(o->rows, o->columns), it.n = k.turned ? o->rows : o->columns;
    it.x = (bf16 *)at, at += whole_lines(all);
    it.next = (bf16 *)at, at += whole_lines(all);
    it.gram = (bf16 *)at, at += whole_lines(it.s * it.s);
    it.poly = (bf16 *)at;
    direction_kernel<<<sum_pieces(all), THREADS, 0, cuda_stream>>>(k, s->g, s->m, it.x, norm->part);
    TRY(CUDA_LAUNCHED("muon"));
    total_kernel<<<1, THREADS, 0, cuda_stream>>>(norm->part, sum_pieces(all), &norm->squares);
    TRY(CUDA_LAUNCHED("muon"));
    unit_kernel<<<grid_for(all), THREADS, 0, cuda_stream>>>(&norm->squares, it.x, all);
    TRY(CUDA_LAUNCHED("muon"));
    TRY(iterate(&it));
    apply_kernel<<<grid_for(all), THREADS, 0, cuda_stream>>>(k, (float)(1 - o->lr * o->weight_decay), (float)o->step, it.x, s->p);
    return CUDA_LAUNCHED("muon");
}
