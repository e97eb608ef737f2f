/* magnitude and its backward (ops/magnitude.c): a warp has a row of W. Its lanes share the columns of B, G is read along its columns (it is
 * symmetric), and the eight warps of a block have neighbouring rows, so that P's lines are read once. Root and quotient are IEEE's: a fresh
 * adapter multiplies with 1 to the bit. */
#include "cuda/spans.h"
#include "cuda/types.cuh"

enum { WARPS = 8, THREADS = WARPS * 32 };

struct magnitude {
    const float *m, *w2, *p, *g;
    const void *b;
    float *l, *inverse, s;
    int64_t O, ldp, ldb, ldg;
    int r;
};

struct magnitudes { struct magnitude of[MAX_SCALES]; };

template <typename T> __global__ void __launch_bounds__(THREADS) magnitude_kernel(const __grid_constant__ struct magnitudes all) {
    const struct magnitude &a = all.of[blockIdx.y];
    const int lane = threadIdx.x % 32;
    const int64_t o = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (o >= a.O) return;
    const T *b = (const T *)a.b + o * a.ldb;
    float sum = 0;
    for (int j = lane; j < a.r; j += 32) {
        float inside = 0;
        for (int k = 0; k < a.r; k++) inside = fmaf(a.g[k * a.ldg + j], to_f32(b[k]), inside);
        sum = fmaf(to_f32(b[j]), fmaf(a.s, inside, 2 * a.p[j * a.ldp + o]), sum);
    }
    sum = warp_sum(sum);
    if (lane) return;
    const float square = fmaf(a.s, sum, a.w2[o]), norm = __fsqrt_rn(square);
    a.l[o] = square > 0 ? __fdiv_rn(a.m[o], norm) : a.m[o] * (square * 0); /* NaN stays NaN */
    a.inverse[o] = square > 0 ? __fdiv_rn(1, norm) : square * 0;
}

__global__ void magnitude_bwd_kernel(const float *dl, const float *inverse, float *dm, int64_t O) {
    const int64_t o = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (o < O) dm[o] = fmaf(dl[o], inverse[o], dm[o]);
}

extern "C" err cuda_magnitudes(const struct inst *inst, const struct view *in, struct view *out, int n) {
    struct magnitudes all = {};
    int64_t most = 0;
    const dtype dt = in[3].dt;
    for (int k = 0; k < n; k++, in += MAX_IN, out += MAX_OUT) {
        struct magnitude *a = &all.of[k];
        a->m = view_f32(&in[0]), a->w2 = view_f32(&in[1]), a->p = view_f32(&in[2]), a->b = in[3].p, a->g = view_f32(&in[4]);
        a->l = view_f32(&out[0]), a->inverse = view_f32(&out[1]), a->s = inst[k].a.scale;
        a->O = in[0].d[0], a->ldp = in[2].ld, a->ldb = in[3].ld, a->ldg = in[4].ld, a->r = (int)in[4].d[0];
        if (a->O > most) most = a->O;
    }
    if (!most) return OK;
    WITH_TYPE(dt, magnitude_kernel<T><<<dim3((unsigned)((most + WARPS - 1) / WARPS), (unsigned)n), THREADS, 0, cuda_stream>>>(all));
    return CUDA_LAUNCHED("magnitude");
}

extern "C" err cuda_magnitude(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    return cuda_magnitudes(inst, in, out, 1);
}

extern "C" err cuda_magnitude_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)scratch;
    const int64_t O = in[0].d[0];
    if (O) magnitude_bwd_kernel<<<(unsigned)((O + THREADS - 1) / THREADS), THREADS, 0, cuda_stream>>>(view_f32(&in[0]), view_f32(&in[1]), view_f32(&out[0]), O);
    return CUDA_LAUNCHED("magnitude_bwd");
}
