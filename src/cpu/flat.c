/* See core/flat.h. All are limited by memory, so plain loops that any compiler vectorises are enough. An arena is cut
 * in at most PIECES pieces whose borders depend on its length alone; a piece is one thread's, and pieces are combined
 * in their order. */
#include "base/round.h"
#include "cpu/optim.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PIECES = 256, LANES = 16, LEAST = 16384 /* floats of a piece: less is not worth a thread */ };

static int64_t piece_of(int64_t n) {
    int64_t each = (n + PIECES - 1) / PIECES;
    return each < LEAST ? LEAST : (each + LANES - 1) / LANES * LANES;
}
static int threads_for(int64_t n, int threads) { return threads < 1 || n <= LEAST ? 1 : threads; }
static int64_t end_of(int64_t start, int64_t each, int64_t n) { return n - start < each ? n : start + each; }

/* Independent lanes, since the compiler may not reorder one long sum. */
static double sumsq(const float *x, int64_t n) {
    double lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * x[i + j];
    for (; i < n; i++) lane[0] += (double)x[i] * x[i];
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

double flat_sumsq(const float *x, int64_t n, int threads) {
    double part[PIECES] = {0}, sum = 0;
    const int64_t each = piece_of(n);
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (int64_t i = 0; i < n; i += each) part[i / each] = sumsq(x + i, end_of(i, each, n) - i);
    for (int k = 0; k < PIECES; k++) sum += part[k];
    return sum;
}

bool flat_finite(const float *x, int64_t n, int threads) {
    const uint32_t exponent = 0x7F800000u;
    uint32_t bad = 0;
#pragma omp parallel for num_threads(threads_for(n, threads)) reduction(| : bad)
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bad |= (bits & exponent) == exponent;
    }
    return !bad;
}

void flat_scale(float *x, float factor, int64_t n, int threads) {
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

void flat_zero(float *x, int64_t n, int threads) {
    const int64_t each = piece_of(n);
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (int64_t i = 0; i < n; i += each) memset(x + i, 0, (size_t)(end_of(i, each, n) - i) * sizeof(float));
}

/* torch rounds each scalar to f32 once and keeps the order of operations below; m is a lerp. */
void flat_adamw(const struct adamw *o, const struct adamw_state *s, int64_t n, int threads) {
    const double bias1 = 1 - pow(o->beta1, (double)o->t), bias2 = 1 - pow(o->beta2, (double)o->t);
    const float decay = (float)(1 - o->lr * o->weight_decay), step = (float)(o->lr / bias1), root = (float)sqrt(bias2);
    const float one_b1 = (float)(1 - o->beta1), b2 = (float)o->beta2, one_b2 = (float)(1 - o->beta2);
    const float eps = (float)o->eps, scale = o->grad_scale;
    float *restrict p = s->p, *restrict m = s->m, *restrict v = s->v;
    const float *restrict grad = s->g;
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (int64_t i = 0; i < n; i++) {
        float g = scale * grad[i], mi = m[i] + one_b1 * (g - m[i]), vi = b2 * v[i] + one_b2 * (g * g);
        m[i] = mi;
        v[i] = vi;
        p[i] = decay * p[i] - step * (mi / (sqrtf(vi) / root + eps));
    }
}

void flat_importance(const struct importance *o, const struct importance_state *s, int64_t n, int threads) {
    const float b1 = (float)o->beta1, one_b1 = (float)(1 - o->beta1), b2 = (float)o->beta2, one_b2 = (float)(1 - o->beta2), scale = o->grad_scale;
    const float *restrict p = s->p, *restrict g = s->g;
    float *restrict mean = s->mean, *restrict spread = s->spread;
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (int64_t i = 0; i < n; i++) {
        const float now = fabsf(p[i] * (scale * g[i])), m = b1 * mean[i] + one_b1 * now;
        mean[i] = m;
        spread[i] = b2 * spread[i] + one_b2 * fabsf(now - m);
    }
}

static double product(const struct orthogonal *o, const float *v, int i, int j) {
    const float *a = v + i * o->across, *b = v + j * o->across;
    double sum = 0;
    for (int64_t l = 0; l < o->length; l++) sum += (double)a[l * o->along] * b[l * o->along];
    return sum;
}

err flat_orthogonal(const struct orthogonal *o, const float *v, float *grad, int threads) {
    const int n = o->n;
    float *s = malloc((size_t)n * (size_t)n * sizeof *s + 1);
    double squares = 0;
    if (!s) return fail(E_MEMORY, "out of memory");
#pragma omp parallel for num_threads(threads_for((int64_t)n * n * o->length, threads)) schedule(dynamic)
    for (int i = 0; i < n; i++)
        for (int j = 0; j <= i; j++) s[i * n + j] = s[j * n + i] = (float)(product(o, v, i, j) - (i == j));
    for (int k = 0; k < n * n; k++) squares += (double)s[k] * s[k];
    const float by = squares > 0 ? (float)(2 * o->weight / sqrt(squares)) : 0;
#pragma omp parallel for num_threads(threads_for((int64_t)n * n * o->length, threads))
    for (int64_t l = 0; l < o->length; l++)
        for (int i = 0; i < n; i++) {
            float sum = 0;
            for (int j = 0; j < n; j++) sum += s[i * n + j] * v[j * o->across + l * o->along];
            grad[i * o->across + l * o->along] += by * sum;
        }
    free(s);
    return OK;
}

static err sumsq_of(const float *x, int64_t n, int threads, double *out) { return *out = flat_sumsq(x, n, threads), OK; }

static err adamw_of(const struct adamw *o, const struct adamw_state *s, int64_t n, int threads) { return flat_adamw(o, s, n, threads), OK; }

static err cast_of(const float *x, void *to, dtype dt, int64_t n, int threads) {
    if (dt == DT_F32) return memcpy(to, x, (size_t)n * sizeof *x), OK;
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[i] = dt == DT_BF16 ? f32_to_bf16(x[i]) : f32_to_f16(x[i]);
    return OK;
}

static err widen_of(const uint16_t *x, float *to, int64_t n, int threads) {
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (int64_t i = 0; i < n; i++) to[i] = bf16_to_f32(x[i]);
    return OK;
}

static err round_of(const struct rounding *o, const float *x, uint16_t *to, int64_t n, int threads) {
    const uint64_t from = o->first / ROUND_GROUP, end = (o->first + (uint64_t)n + ROUND_GROUP - 1) / ROUND_GROUP;
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (uint64_t g = from; g < end; g++) {
        const struct philox random = round_group(o->key, o->step, g);
        for (uint64_t k = g * ROUND_GROUP; k < (g + 1) * ROUND_GROUP; k++) {
            uint32_t bits;
            if (k < o->first || k >= o->first + (uint64_t)n) continue;
            memcpy(&bits, x + (k - o->first), sizeof bits);
            to[k - o->first] = round_bf16(bits, round_bits(&random, k));
        }
    }
    return OK;
}

static err importance_of(const struct importance *o, const struct importance_state *s, int64_t n, int threads) {
    return flat_importance(o, s, n, threads), OK;
}

const struct flat_ops flat_cpu = {.sumsq = sumsq_of,
                                  .adamw = adamw_of,
                                  .cast = cast_of,
                                  .widen = widen_of,
                                  .round = round_of,
                                  .importance = importance_of,
                                  .orthogonal = flat_orthogonal,
                                  .adamw_8bit = cpu_adamw_8bit,
                                  .lion = cpu_lion,
                                  .sgd = cpu_sgd,
                                  .adafactor = cpu_adafactor,
                                  .muon = cpu_muon,
                                  .adafactor_scratch = cpu_adafactor_scratch,
                                  .muon_scratch = cpu_muon_scratch};
