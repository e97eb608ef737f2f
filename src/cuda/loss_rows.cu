/* Rows of logits whose loss has terms beside the label's cross-entropy (ops.h, struct loss_terms): smoothing, z-loss, the distance from a teacher. A block a
 * row, which it goes over a few times: maximum and sums, the same of both sides at temperature T, the distance's terms (left in the place of the teacher's
 * logits), the gradient. Of a teacher that is remembered the row's k + 1 outcomes are a small row of their own; the logits of the k are
 * minus infinity while the others are asked, and their gradients are written last. As cpu/loss_rows.c has it. Called by head_loss.cu. */
#include "cuda/loss.cuh"

/* Over the block, in one order; every thread gets it. */
__device__ static double block_sum(double x) {
    __shared__ double part[THREADS / 32];
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(~0u, x, d);
    __syncthreads(); /* part may still be read from the last time */
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[0];
    for (int i = 1; i < THREADS / 32; i++) x += part[i];
    return x;
}

__device__ static float block_max(float x) {
    __shared__ float part[THREADS / 32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[0];
    for (int i = 1; i < THREADS / 32; i++) x = fmaxf(x, part[i]);
    return x;
}

/* n outcomes: the student's logits y and the teacher's q, with caps that are not in them yet. */
struct sides { const float *y; float *q; int64_t n; float cap, teacher_cap; };
/* Of the student: s = exp((y - top) / T) / sum. */
struct taught { double D, centre, sum; float top; };

/* An outcome's term of D; *e: what the derivative by y is made of. a, b: log s and log t. */
__device__ static float term(const struct loss_terms *l, float a, float b, float *e) {
    const float s = expf(a), t = expf(b), beta = l->beta;
    if (beta == 0) {
        *e = -t;
        return t * (b - a);
    }
    if (beta == 1) return *e = s * (a - b);
    const float m = (1 - beta) * s + beta * t, from_s = s > 0 ? s * logf(s / m) : s, from_t = t > 0 ? t * logf(t / m) : t;
    *e = (1 - beta) * from_s;
    return beta * from_t + *e;
}

/* q's place takes e, of which the derivative by y is (e - centre s) / T. */
__device__ static struct taught distance(const struct sides *o, const struct loss_terms *l) {
    const float to = 1 / l->temperature;
    float top = -INFINITY, top_q = -INFINITY, sum_y = 0, sum_q = 0;
    for (int64_t v = threadIdx.x; v < o->n; v += THREADS) {
        top = fmaxf(top, capped(o->y[v], o->cap));
        top_q = fmaxf(top_q, capped(o->q[v], o->teacher_cap));
    }
    top = block_max(top);
    top_q = block_max(top_q);
    for (int64_t v = threadIdx.x; v < o->n; v += THREADS) {
        sum_y += expf((capped(o->y[v], o->cap) - top) * to);
        sum_q += expf((capped(o->q[v], o->teacher_cap) - top_q) * to);
    }
    struct taught r = {0, 0, block_sum(sum_y), top};
    const float log_y = logf((float)r.sum), log_q = logf((float)block_sum(sum_q));
    double D = 0, centre = 0;
    for (int64_t v = threadIdx.x; v < o->n; v += THREADS) {
        float e;
        D += term(l, (capped(o->y[v], o->cap) - top) * to - log_y, (capped(o->q[v], o->teacher_cap) - top_q) * to - log_q, &e);
        o->q[v] = e;
        centre += e;
    }
    r.D = block_sum(D);
    r.centre = block_sum(centre);
    return r;
}

/* Remembered ids become outcomes, and minus infinity among the logits z, then the others as one. Returns how many; *rest: the others' logsumexp. */
__device__ static int64_t outcomes_of(const struct mixing *m, int64_t n, float *z, float *y, float *rest) {
    __shared__ struct soft parts[THREADS / 32];
    const int64_t k = m->top.d[1];
    const int32_t *id = (const int32_t *)m->top.p + n * m->top.ld;
    const float *logp = (const float *)m->logp.p + n * m->logp.ld;
    float *q = y + k + 1;
    double known = 0;
    for (int64_t j = threadIdx.x; j < k; j += THREADS) {
        const bool there = id[j] >= 0 && id[j] < m->V; /* else the step is E_NUMERIC */
        y[j] = there ? capped(z[id[j]], m->cap) : NAN;
        q[j] = logp[j];
        if (there) z[id[j]] = -INFINITY;
        known += exp((double)logp[j]);
    }
    known = block_sum(known); /* and now all have written */
    *rest = 0;
    if (k == m->V) return k;
    struct soft s = {-INFINITY, 0, 0x7FFFFFFF};
    for (int64_t v = threadIdx.x; v < m->V; v += THREADS) {
        const float x[4] = {capped(z[v], m->cap), -INFINITY, -INFINITY, -INFINITY};
        if (z[v] != -INFINITY) see(&s, x, (int)v);
    }
    s = block_soft(s, parts);
    *rest = s.top + logf(s.sum);
    if (threadIdx.x == 0) y[k] = *rest, q[k] = (float)log(fmax(1 - known, 0x1p-24));
    __syncthreads();
    return k + 1;
}

template <typename T> __global__ void __launch_bounds__(THREADS) mixed_kernel(struct mixing m, T *grads) {
    __shared__ struct soft parts[THREADS / 32];
    __shared__ float wanted;
    const bool taught_at_all = m.l.share > 0;
    const int64_t r = blockIdx.x, n = m.index[r], V = m.V, k = taught_at_all && m.top.p ? m.top.d[1] : 0;
    float *z = m.logits + r * V, *q = taught_at_all && m.teacher ? m.teacher + r * V : NULL, *y = m.outcomes + r * 2 * (k + 1), *e = y + k + 1, rest = 0;
    T *grad = grads ? grads + r * V : NULL;
    if (n == NOBODY) {
        for (int64_t v = threadIdx.x; v < V && grad; v += THREADS) grad[v] = from_f32<T>(0);
        return;
    }
    const int32_t want = m.label[n];
    if (threadIdx.x == 0) wanted = want >= 0 && want < V ? capped(z[want], m.cap) : NAN;
    struct soft s = {-INFINITY, 0, 0x7FFFFFFF};
    double mean = 0;
    for (int64_t v = threadIdx.x; v < V; v += THREADS) {
        const float x[4] = {capped(z[v], m.cap), -INFINITY, -INFINITY, -INFINITY};
        see(&s, x, (int)v);
        mean += x[0];
    }
    s = block_soft(s, parts);
    mean = block_sum(mean) / (double)V;
    const double own = 1 - (double)m.l.share, smooth = m.l.smoothing, temperature = m.l.temperature, all = s.top + log((double)s.sum), nll = all - wanted;
    double loss = own * ((1 - smooth) * nll + smooth * (all - mean)) + m.l.z * all * all;
    struct taught d = {0, 0, 1, 0};
    float of_rest = 0;
    const float w = m.weight[n] * m.keys->loss_scale, taught = (float)(w * m.l.share * temperature);
    if (taught_at_all) {
        const struct sides whole = {z, q, V, m.cap, m.l.teacher_cap}, some = {y, e, k ? outcomes_of(&m, n, z, y, &rest) : 0, 0, 0};
        d = distance(k ? &some : &whole, &m.l);
        __syncthreads();
        if (k && k < V) of_rest = (float)(taught * ((double)e[k] - d.centre * exp((double)(y[k] - d.top) / temperature) / d.sum));
        loss += m.l.share * temperature * temperature * d.D;
    }
    if (threadIdx.x == 0) m.nll[n] = (float)nll, m.row[2 * r] = (float)loss, m.row[2 * r + 1] = s.at == want;
    if (!grad) return;
    const float p = (float)(w * (own + 2 * m.l.z * all) / s.sum), even = (float)(w * own * smooth / (double)V), mine = (float)(w * own * (1 - smooth));
    const float of_s = (float)(taught * d.centre / d.sum), to = taught_at_all ? (float)(1 / temperature) : 0;
    for (int64_t v = threadIdx.x; v < V; v += THREADS) {
        if (k && z[v] == -INFINITY) continue;
        const float x = capped(z[v], m.cap);
        float g = p * expf(x - s.top) - even - (v == want ? mine : 0);
        if (q) g += taught * q[v] - of_s * expf((x - d.top) * to);
        if (k) g += of_rest * expf(x - rest);
        grad[v] = from_f32<T>(g * slope_of(x, m.cap));
    }
    __syncthreads(); /* the logits' place may be the gradients' */
    for (int64_t j = threadIdx.x; j < k; j += THREADS) {
        const int32_t id = ((const int32_t *)m.top.p)[n * m.top.ld + j];
        const float g = p * expf(y[j] - s.top) - even - (id == want ? mine : 0) + taught * e[j] - of_s * expf((y[j] - d.top) * to);
        if (id >= 0 && id < V) grad[id] = from_f32<T>(g * slope_of(y[j], m.cap));
    }
}

err cuda_mixed_rows(const struct mixing *m, int64_t rows, void *grad, dtype dt) {
    WITH_TYPE(dt, mixed_kernel<T><<<(unsigned)rows, THREADS, 0, cuda_stream>>>(*m, (T *)grad));
    return CUDA_LAUNCHED("head_loss");
}
