/* The optimizers beside AdamW on the card (core/flat.h): src/cpu/optim.c, operation by operation, each rounded to f32 by itself. Elementwise steps are
 * one pass over memory. Of 8-bit states a thread has one element of a block, and the block of threads finds its largest; the maps lie in shared
 * memory. Adafactor's means and norms stay on the card, in scratch: nothing waits for the host. Sums are of pieces that the shape alone
 * cuts, in double, added in their order. Muon is muon.cu. Called through flat_ops (backend.c). */
extern "C" { /* the house's own headers are C */
#include "base/dynamic_map.h"
}
#include "cuda/flat.cuh"
#include <math.h>

/* --- Lion, SGD ------------------------------------------------------------------------------------------------------------- */
struct lion_step {
    float decay, lr, b1, one_b1, b2, one_b2, scale;
};

__global__ void lion_kernel(struct lion_step o, const float *grad, float *p, float *m, int64_t n) {
    EACH_ITEM(i, n) {
        const float g = __fmul_rn(o.scale, grad[i]), towards = __fadd_rn(__fmul_rn(o.b1, m[i]), __fmul_rn(o.one_b1, g));
        p[i] = __fsub_rn(__fmul_rn(o.decay, p[i]), __fmul_rn(o.lr, (float)((towards > 0) - (towards < 0))));
        m[i] = __fadd_rn(__fmul_rn(o.b2, m[i]), __fmul_rn(o.one_b2, g));
    }
}

extern "C" err cuda_lion(const struct lion *o, const struct momentum_state *s, int64_t n, int threads) {
    (void)threads;
    if (n <= 0) return OK;
    const struct lion_step k = {(float)(1 - o->lr * o->weight_decay),
                                (float)o->lr,
                                (float)o->beta1,
                                (float)(1 - o->beta1),
                                (float)o->beta2,
                                (float)(1 - o->beta2),
                                o->grad_scale};
    lion_kernel<<<grid_for(n), THREADS, 0, cuda_stream>>>(k, s->g, s->p, s->m, n);
    return CUDA_LAUNCHED("lion");
}

struct sgd_step {
    float lr, momentum, decay, scale;
    bool nesterov;
};

__global__ void sgd_kernel(struct sgd_step o, const float *grad, float *p, float *m, int64_t n) {
    EACH_ITEM(i, n) {
        float g = __fadd_rn(__fmul_rn(o.scale, grad[i]), __fmul_rn(o.decay, p[i]));
        if (m) {
            const float mi = __fadd_rn(__fmul_rn(o.momentum, m[i]), g);
            m[i] = mi;
            g = o.nesterov ? __fadd_rn(g, __fmul_rn(o.momentum, mi)) : mi;
        }
        p[i] = __fsub_rn(p[i], __fmul_rn(o.lr, g));
    }
}

extern "C" err cuda_sgd(const struct sgd *o, const struct momentum_state *s, int64_t n, int threads) {
    (void)threads;
    if (n <= 0) return OK;
    const struct sgd_step k = {(float)o->lr, (float)o->momentum, (float)o->weight_decay, o->grad_scale, o->nesterov};
    sgd_kernel<<<grid_for(n), THREADS, 0, cuda_stream>>>(k, s->g, s->p, s->m, n);
    return CUDA_LAUNCHED("sgd");
}

/* --- AdamW, 8 bits ---------------------------------------------------------------------------------------------------------- */
/* The numbers of both maps, and what lies between neighbours (dynamic_middles). */
struct maps {
    float m[DYNAMIC_CODES], v[DYNAMIC_CODES], m_middle[DYNAMIC_CODES], v_middle[DYNAMIC_CODES];
};
static struct maps *maps; /* on the card; made at first use and kept */

static err maps_made(void) {
    static struct maps host;
    if (maps) return OK;
    dynamic_map(true, host.m);
    dynamic_map(false, host.v);
    dynamic_middles(host.m, host.m_middle);
    dynamic_middles(host.v, host.v_middle);
    struct maps *there;
    TRY(cuda_check(cudaMalloc((void **)&there, sizeof *there), "maps of 8-bit states"));
    TRY(cuda_check(cudaMemcpy(there, &host, sizeof host, cudaMemcpyHostToDevice), "maps of 8-bit states"));
    maps = there;
    return OK;
}

__device__ static uint8_t nearest(const float *middle, float x) {
    int c = 0;
    for (int step = DYNAMIC_CODES / 2; step; step /= 2)
        if (x > middle[c + step]) c += step;
    return (uint8_t)c;
}

/* Every thread gets the largest; each[] is free again when all have it. */
__device__ static float block_max(float x, float *each) {
    x = warp_max(x);
    if ((threadIdx.x & 31) == 0) each[threadIdx.x >> 5] = x;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) x = fmaxf(x, each[w]);
    __syncthreads();
    return x;
}

struct adamw_step {
    float decay, step, root, b1, one_b1, b2, one_b2, eps, scale;
};
static_assert((int)STATE_BLOCK == (int)THREADS && (int)DYNAMIC_CODES == (int)THREADS,
              "a thread for each element of a block, and for each code");

__global__ void adamw_8bit_kernel(struct adamw_step o, const struct maps *maps, struct adamw_8bit_state s, int64_t blocks, int64_t n) {
    __shared__ struct maps k;
    __shared__ float each[WARPS];
    k.m[threadIdx.x] = maps->m[threadIdx.x], k.v[threadIdx.x] = maps->v[threadIdx.x];
    k.m_middle[threadIdx.x] = maps->m_middle[threadIdx.x], k.v_middle[threadIdx.x] = maps->v_middle[threadIdx.x];
    __syncthreads();
    for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
        const int64_t i = b * STATE_BLOCK + threadIdx.x;
        const bool in = i < n;
        const float g = in ? __fmul_rn(o.scale, s.g[i]) : 0, m_was = s.m_most[b], v_was = s.v_most[b];
        const float m = in ? __fadd_rn(__fmul_rn(o.b1, __fmul_rn(k.m[s.m[i]], m_was)), __fmul_rn(o.one_b1, g)) : 0;
        const float v = in ? __fadd_rn(__fmul_rn(o.b2, __fmul_rn(k.v[s.v[i]], v_was)), __fmul_rn(o.one_b2, __fmul_rn(g, g))) : 0;
        const float m_most = block_max(fabsf(m), each), v_most = block_max(v, each);
        if (in) {
            const float by = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), o.root), o.eps);
            s.p[i] = __fsub_rn(__fmul_rn(o.decay, s.p[i]), __fmul_rn(o.step, __fdiv_rn(m, by)));
            s.m[i] = nearest(k.m_middle, m_most > 0 ? __fdiv_rn(m, m_most) : 0);
            s.v[i] = nearest(k.v_middle, v_most > 0 ? __fdiv_rn(v, v_most) : 0);
        }
        if (!threadIdx.x) s.m_most[b] = m_most, s.v_most[b] = v_most;
    }
}

extern "C" err cuda_adamw_8bit(const struct adamw *o, const struct adamw_8bit_state *s, int64_t n, int threads) {
    (void)threads;
    if (n <= 0) return OK;
    TRY(maps_made());
    const double bias1 = 1 - pow(o->beta1, (double)o->t), bias2 = 1 - pow(o->beta2, (double)o->t);
    const struct adamw_step k = {(float)(1 - o->lr * o->weight_decay),
                                 (float)(o->lr / bias1),
                                 (float)sqrt(bias2),
                                 (float)o->beta1,
                                 (float)(1 - o->beta1),
                                 (float)o->beta2,
                                 (float)(1 - o->beta2),
                                 (float)o->eps,
                                 o->grad_scale};
    adamw_8bit_kernel<<<blocks_for(n, STATE_BLOCK, (int64_t)cuda_sms * 16), THREADS, 0, cuda_stream>>>(k, maps, *s, state_blocks(n), n);
    return CUDA_LAUNCHED("adamw, 8 bits");
}

/* --- Adafactor -------------------------------------------------------------------------------------------------------------- */
enum { COLUMN_PIECES = 64, COLUMN_EACH = 64 /* rows of a piece, before pieces grow */ };

struct factor {
    float beta2, one_beta2, scale;
    double eps;
    int64_t rows, columns;
};
struct sums {
    double size, row, update;
}; /* squares of p; smoothed rows; squares of the update */
/* Scratch: the sums, parts of one of them, parts of each column. */
struct factor_scratch {
    struct sums sums;
    double part[SUM_PIECES];
    double column[1];
};

static int column_pieces(int64_t rows) { return blocks_for(rows, COLUMN_EACH, COLUMN_PIECES); }

extern "C" size_t cuda_adafactor_scratch(int64_t rows, int64_t columns) {
    return sizeof(struct factor_scratch) + (size_t)(column_pieces(rows) * columns) * sizeof(double);
}

__device__ static float smooth(const struct factor &o, float x, double now) {
    return __fadd_rn(__fmul_rn(o.beta2, x), __fmul_rn(o.one_beta2, (float)now));
}
__device__ static double squared(const struct factor &o, float grad) {
    const float g = __fmul_rn(o.scale, grad);
    return (double)__fmul_rn(g, g);
}

__global__ void size_kernel(const float *p, int64_t n, double *part) {
    double sum = 0;
    EACH_ITEM(i, n) sum += square(p[i]);
    sum = block_sum(sum);
    if (!threadIdx.x) part[blockIdx.x] = sum;
}

/* A block has a row. */
__global__ void rows_kernel(struct factor o, const float *g, float *row) {
    double sum = 0;
    for (int64_t c = threadIdx.x; c < o.columns; c += THREADS) sum += squared(o, g[blockIdx.x * o.columns + c]);
    sum = block_sum(sum);
    if (!threadIdx.x) row[blockIdx.x] = smooth(o, row[blockIdx.x], sum / (double)o.columns + o.eps);
}

/* A thread has a column of a piece of the rows. */
__global__ void columns_kernel(struct factor o, const float *g, double *part) {
    const int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x, each = (o.rows + gridDim.y - 1) / gridDim.y;
    const int64_t from = blockIdx.y * each, to = from + each < o.rows ? from + each : o.rows;
    double sum = 0;
    if (c >= o.columns) return;
    for (int64_t r = from; r < to; r++) sum += squared(o, g[r * o.columns + c]);
    part[blockIdx.y * o.columns + c] = sum;
}

__global__ void smooth_columns_kernel(struct factor o, const double *part, int pieces, float *column) {
    EACH_ITEM(c, o.columns) {
        double sum = 0;
        for (int k = 0; k < pieces; k++) sum += part[k * o.columns + c];
        column[c] = smooth(o, column[c], sum / (double)o.rows + o.eps);
    }
}

__global__ void vector_kernel(struct factor o, const float *g, float *v) {
    EACH_ITEM(i, o.rows) v[i] = smooth(o, v[i], squared(o, g[i]) + o.eps);
}

__global__ void mean_kernel(const float *row, int64_t rows, double *part) {
    double sum = 0;
    EACH_ITEM(r, rows) sum += (double)row[r];
    sum = block_sum(sum);
    if (!threadIdx.x) part[blockIdx.x] = sum;
}

__device__ static float direction(const struct factor &o, const struct adafactor_state &s, float mean, int64_t i) {
    const int64_t r = o.columns ? i / o.columns : i;
    const float row = __fdiv_rn(1, __fsqrt_rn(o.columns ? __fdiv_rn(s.row[r], mean) : s.row[r]));
    const float column = o.columns ? __fdiv_rn(1, __fsqrt_rn(s.column[i - r * o.columns])) : 1;
    return __fmul_rn(__fmul_rn(row, column), __fmul_rn(o.scale, s.g[i]));
}

__global__ void update_size_kernel(struct factor o, struct adafactor_state s, const struct sums *sums, int64_t n, double *part) {
    const float mean = (float)(sums->row / (double)o.rows);
    double sum = 0;
    EACH_ITEM(i, n) {
        const float u = direction(o, s, mean, i);
        sum += (double)__fmul_rn(u, u);
    }
    sum = block_sum(sum);
    if (!threadIdx.x) part[blockIdx.x] = sum;
}

struct factor_step {
    double lr, eps_scale, clip, weight_decay;
    bool scale_parameter;
};

__global__ void factor_step_kernel(struct factor o, struct factor_step k, struct adafactor_state s, const struct sums *sums, int64_t n) {
    const float mean = (float)(sums->row / (double)o.rows);
    const double lr = k.lr * (k.scale_parameter ? fmax(k.eps_scale, sqrt(sums->size / (double)n)) : 1),
                 beyond = sqrt(sums->update / (double)n) / k.clip;
    const float decay = (float)(lr * k.weight_decay), step = (float)(lr / fmax(1.0, beyond));
    EACH_ITEM(i, n) s.p[i] = __fsub_rn(__fsub_rn(s.p[i], __fmul_rn(decay, s.p[i])), __fmul_rn(step, direction(o, s, mean, i)));
}

static err total(const double *part, int n, double *out) {
    total_kernel<<<1, THREADS, 0, cuda_stream>>>(part, n, out);
    return CUDA_LAUNCHED("adafactor");
}

static err smooth_all(const struct factor &f, const struct adafactor_state *s, struct factor_scratch *at) {
    if (!f.columns) {
        vector_kernel<<<grid_for(f.rows), THREADS, 0, cuda_stream>>>(f, s->g, s->row);
        return CUDA_LAUNCHED("adafactor");
    }
    const int pieces = column_pieces(f.rows);
    rows_kernel<<<(unsigned)f.rows, THREADS, 0, cuda_stream>>>(f, s->g, s->row);
    TRY(CUDA_LAUNCHED("adafactor"));
    columns_kernel<<<dim3((unsigned)((f.columns + THREADS - 1) / THREADS), (unsigned)pieces), THREADS, 0, cuda_stream>>>(f, s->g,
                                                                                                                         at->column);
    TRY(CUDA_LAUNCHED("adafactor"));
    smooth_columns_kernel<<<grid_for(f.columns), THREADS, 0, cuda_stream>>>(f, at->column, pieces, s->column);
    TRY(CUDA_LAUNCHED("adafactor"));
    mean_kernel<<<sum_pieces(f.rows), THREADS, 0, cuda_stream>>>(s->row, f.rows, at->part);
    TRY(CUDA_LAUNCHED("adafactor"));
    return total(at->part, sum_pieces(f.rows), &at->sums.row);
}

extern "C" err cuda_adafactor(const struct adafactor *o, const struct adafactor_state *s, void *scratch, int threads) {
    (void)threads;
    const int64_t n = o->rows * (o->columns ? o->columns : 1);
    const struct factor f = {(float)o->beta2, (float)(1 - o->beta2), o->grad_scale, o->eps, o->rows, o->columns};
    const struct factor_step k = {o->lr, o->eps_scale, o->clip, o->weight_decay, o->scale_parameter};
    struct factor_scratch *at = (struct factor_scratch *)scratch;
    if (n <= 0) return OK;
    TRY(cuda_check(cudaMemsetAsync(&at->sums, 0, sizeof at->sums, cuda_stream), "adafactor"));
    if (o->scale_parameter) {
        size_kernel<<<sum_pieces(n), THREADS, 0, cuda_stream>>>(s->p, n, at->part);
        TRY(CUDA_LAUNCHED("adafactor"));
        TRY(total(at->part, sum_pieces(n), &at->sums.size));
    }
    TRY(smooth_all(f, s, at));
    update_size_kernel<<<sum_pieces(n), THREADS, 0, cuda_stream>>>(f, *s, &at->sums, n, at->part);
    TRY(CUDA_LAUNCHED("adafactor"));
    TRY(total(at->part, sum_pieces(n), &at->sums.update));
    factor_step_kernel<<<grid_for(n), THREADS, 0, cuda_stream>>>(f, k, *s, &at->sums, n);
    return CUDA_LAUNCHED("adafactor");
}
