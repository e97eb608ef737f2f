/* The small loops around products: bias, the weights of several adapters, dropout masks (philox: a function of the token and the
 * channel, so a recomputed or repacked token has the same mask), random numbers for measuring. Seed and step are read on the card (cuda_keys). */
#include "cuda/gemm.h"
#include "cuda/types.cuh"

enum { THREADS = 256 };
static int grid_of(int64_t n) {
    int64_t blocks = (n + THREADS - 1) / THREADS, most = (int64_t)cuda_sms * 16;
    return (int)(blocks < most ? blocks : most);
}

template <typename T> __global__ void bias_kernel(T *y, int64_t rows, int64_t cols, int64_t ld, const float *bias) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < rows * cols; i += (int64_t)gridDim.x * blockDim.x) {
        T *p = y + i / cols * ld + i % cols;
        *p = from_f32<T>(to_f32(*p) + bias[i % cols]);
    }
}

extern "C" err cuda_add_bias(void *y, dtype dt, int64_t rows, int64_t cols, int64_t ld, const float *bias) {
    if (!rows || !cols) return OK;
    WITH_TYPE(dt, bias_kernel<T><<<grid_of(rows * cols), THREADS, 0, cuda_stream>>>((T *)y, rows, cols, ld, bias));
    return CUDA_LAUNCHED("bias");
}

/* Are the kernels of this program built for a card that has early starts and clusters? Of PTX for older ones, run on a newer card, they
 * know nothing of waiting. */
__global__ static void nothing_kernel(void) {}
extern "C" bool cuda_is_hopper(void) {
    static int known; /* 1 yes, -1 no */
    cudaFuncAttributes a;
    if (!known) known = cudaFuncGetAttributes(&a, (const void *)nothing_kernel) == cudaSuccess && a.ptxVersion >= 90 ? 1 : -1;
    return known > 0;
}

static err launch(const void *kernel, cudaLaunchConfig_t c, int cluster, void *argument, const char *what) {
    cudaLaunchAttribute how[2] = {};
    how[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    how[0].val.programmaticStreamSerializationAllowed = 1;
    how[1].id = cudaLaunchAttributeClusterDimension;
    how[1].val.clusterDim = {(unsigned)cluster, 1, 1};
    c.stream = cuda_stream, c.attrs = how, c.numAttrs = cuda_is_hopper() ? 1 + (cluster > 1) : 0;
    void *params[] = {argument};
    return cuda_check(cudaLaunchKernelExC(&c, kernel, params), what);
}

extern "C" err cuda_launch(const void *kernel, dim3 grid, int threads, int shared_bytes, void *argument, const char *what) {
    cudaLaunchConfig_t c = {};
    c.gridDim = grid, c.blockDim = dim3((unsigned)threads), c.dynamicSmemBytes = (size_t)shared_bytes;
    return launch(kernel, c, 1, argument, what);
}

extern "C" err cuda_launch_clusters(const void *kernel, int blocks, int cluster, int threads, void *argument, const char *what) {
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3((unsigned)blocks), c.blockDim = dim3((unsigned)threads);
    return launch(kernel, c, cluster, argument, what);
}

__global__ static void keys_kernel(struct cuda_keys *to, struct cuda_keys k) { *to = k; }

extern "C" err cuda_begin_run(const struct run_ctx *run) {
    static struct cuda_keys there; /* cuda_keys starts as zeros */
    float scale = run->loss_scale != 0 ? run->loss_scale : 1;
    if (there.seed == run->seed && there.step == run->step && there.loss_scale == scale) return OK;
    there = {run->seed, run->step, scale};
    keys_kernel<<<1, 1, 0, cuda_stream>>>(cuda_keys, there);
    return CUDA_LAUNCHED("a run's keys");
}

/* What ops_drop_bits() needs, without host structs. */
struct mask {
    const struct cuda_keys *keys;
    uint32_t channel0;
    float p;
    const int32_t *sample, *pos;
};

static struct mask mask_of(const struct cuda_drop *d) {
    struct mask m = {cuda_keys, (uint32_t)(d->inst->a.site * MAX_GROUP + d->k) << 16, d->inst->a.dropout, d->sample, d->pos};
    return m;
}

/* The factor of channel c..c+3 of token n. */
__device__ static void factors(const struct mask &m, int64_t n, int64_t c, float f[4]) {
    struct philox r = philox(philox_key(m.keys->seed, PURPOSE_DROPOUT), (uint32_t)m.keys->step, (uint32_t)m.sample[n], (uint32_t)m.pos[n], m.channel0 | (uint32_t)(c >> 2));
    for (int j = 0; j < 4; j++) f[j] = philox_unit(r.v[j]) >= m.p ? 1 / (1 - m.p) : 0;
}

/* One thread four channels. add: to += from * factor, else to = from * factor. */
template <typename T, bool add>
__global__ void drop_kernel(struct mask m, const T *from, int64_t ld_from, T *to, int64_t ld_to, int64_t rows, int64_t cols) {
    int64_t quads = (cols + 3) / 4;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < rows * quads; i += (int64_t)gridDim.x * blockDim.x) {
        int64_t n = i / quads, c = i % quads * 4;
        float f[4];
        factors(m, n, c, f);
        for (int64_t j = c; j < c + 4 && j < cols; j++) {
            float x = f[j - c] != 0 ? to_f32(from[n * ld_from + j]) * f[j - c] : 0;
            T *p = to + n * ld_to + j;
            *p = from_f32<T>(add ? to_f32(*p) + x : x);
        }
    }
}

extern "C" err cuda_drop(const struct cuda_drop *d, const struct view *x, void *to) {
    int64_t rows = x->d[0], cols = x->d[1];
    if (!rows) return OK;
    WITH_TYPE(x->dt, (drop_kernel<T, false><<<grid_of(rows * (cols + 3) / 4), THREADS, 0, cuda_stream>>>(mask_of(d), (const T *)x->p, x->ld, (T *)to, cols, rows, cols)));
    return CUDA_LAUNCHED("dropout");
}

extern "C" err cuda_dropout(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    const int64_t rows = in[0].d[0], cols = in[0].d[1];
    const struct cuda_drop d = {i, 0, (const int32_t *)in[1].p, (const int32_t *)in[2].p};
    if (!rows) return OK;
    WITH_TYPE(in[0].dt, (drop_kernel<T, false><<<grid_of(rows * (cols + 3) / 4), THREADS, 0, cuda_stream>>>(mask_of(&d), (const T *)in[0].p, in[0].ld, (T *)out[0].p, out[0].ld, rows, cols)));
    return CUDA_LAUNCHED("dropout");
}

/* One thread four channels; x may be y. */
struct noise { const struct cuda_keys *keys; const int32_t *cu, *sample, *pos; int64_t S, rows, cols; };
template <typename T> __global__ void noise_kernel(struct noise m, struct op_attr a, const T *x, int64_t ldx, T *y, int64_t ldy) {
    const int64_t quads = (m.cols + 3) / 4;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < m.rows * quads; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t n = i / quads, c = i % quads * 4;
        const float most = ops_noise_most(&a, m.cu, m.S, n, m.cols);
        const struct philox bits = ops_noise_bits(m.keys->seed, m.keys->step, m.sample[n], m.pos[n], c);
        for (int64_t j = c; j < c + 4 && j < m.cols; j++) y[n * ldy + j] = from_f32<T>(to_f32(x[n * ldx + j]) + most * (2 * philox_unit(bits.v[j - c]) - 1));
    }
}

extern "C" err cuda_noise(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    const struct noise m = {cuda_keys, (const int32_t *)in[1].p, (const int32_t *)in[2].p, (const int32_t *)in[3].p, in[1].d[0] - 1, in[0].d[0], in[0].d[1]};
    if (!m.rows) return OK;
    WITH_TYPE(in[0].dt, (noise_kernel<T><<<grid_of(m.rows * (m.cols + 3) / 4), THREADS, 0, cuda_stream>>>(m, i->a, (const T *)in[0].p, in[0].ld, (T *)out[0].p, out[0].ld)));
    return CUDA_LAUNCHED("noise");
}

extern "C" err cuda_drop_add(const struct cuda_drop *d, const void *g, const struct view *dx) {
    int64_t rows = dx->d[0], cols = dx->d[1];
    if (!rows) return OK;
    WITH_TYPE(dx->dt, (drop_kernel<T, true><<<grid_of(rows * (cols + 3) / 4), THREADS, 0, cuda_stream>>>(mask_of(d), (const T *)g, cols, (T *)dx->p, dx->ld, rows, cols)));
    return CUDA_LAUNCHED("dropout");
}

/* Columns of T up to end[s] are member[s]'s, one stretch after the other. */
struct stretches { int n, end[MAX_GROUP * MAX_MEMBERS]; uint8_t member[MAX_GROUP * MAX_MEMBERS]; };

template <typename T> __global__ void weigh_kernel(const __grid_constant__ stretches s, T *t, const float *weight, int64_t rows, int64_t cols, int64_t ld, int64_t ldw) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < rows * cols; i += (int64_t)gridDim.x * blockDim.x) {
        int64_t n = i / cols, c = i % cols;
        int at = 0;
        while (c >= s.end[at]) at++;
        const float w = weight[n * ldw + s.member[at]];
        T *p = t + n * ld + c;
        *p = from_f32<T>(w == 0 ? 0 : to_f32(*p) * w); /* ops_weigh() */
    }
}

extern "C" err cuda_weigh(const struct inst *inst, const struct view *weight, const struct view *t) {
    const struct op_attr *a = &inst->a;
    stretches s = {};
    int end = 0;
    for (int k = 0; k < a->n; k++)
        for (int m = 0; m < a->members; m++) {
            if (!a->member_rank[k][m]) continue;
            end += a->member_rank[k][m];
            s.end[s.n] = end, s.member[s.n++] = (uint8_t)m;
        }
    if (!t->d[0] || !t->d[1]) return OK;
    WITH_TYPE(t->dt, (weigh_kernel<T><<<grid_of(t->d[0] * t->d[1]), THREADS, 0, cuda_stream>>>(s, (T *)t->p, view_f32(weight), t->d[0], t->d[1], t->ld, weight->ld)));
    return CUDA_LAUNCHED("the weights of several adapters");
}

__global__ static void random_kernel(bf16 *p, int64_t n) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        p[i] = __float2bfloat16_rn(2 * philox_unit(philox(1, (uint32_t)i, (uint32_t)(i >> 32), 0, 0).v[0]) - 1);
}

extern "C" err cuda_fill_random(void *p, int64_t n) {
    if (n) random_kernel<<<grid_of(n), THREADS, 0, cuda_stream>>>((bf16 *)p, n);
    return CUDA_LAUNCHED("random numbers");
}
