/* A row of logits in head_loss: its loss, and the gradient in the logits' place. Plain cross-entropy and squared error are a pass or two over the row; the
 * other terms (ops.h, struct loss_terms) go over it in blocks, so that what is between two steps stays in the cache.
 *
 * The distance from a teacher is the same whether the outcomes are all V ids or the remembered ones and the rest: distance() leaves in the place of
 * the teacher's logits e, and the derivative by logit y is (e - centre s) / T with s = softmax(y / T). Exponentials in f32, sums of them in double; D
 * and centre are sums in f32 per block, then double. */
#include "cpu/head_loss.h"
#include "cpu/cpu.h"
#include "cpu/fused.h"
#include <math.h>
#include <string.h>

enum { BLOCK = 256 };

/* --- portable kernels ------------------------------------------------------------------------------------------ */

static void generic_stats(const float *z, int64_t n, float *max, double *sum) {
    float top = -INFINITY;
    for (int64_t i = 0; i < n; i++) top = z[i] > top ? z[i] : top;
    *max = top;
    *sum = 0;
    for (int64_t i = 0; i < n; i++) *sum += expf(z[i] - top);
}

static void generic_grad(float *z, int64_t n, float max, float scale) {
    for (int64_t i = 0; i < n; i++) z[i] = expf(z[i] - max) * scale;
}

const struct head_rows head_generic = {generic_stats, generic_grad};

const struct head_rows *head_isa(void) {
#if defined(__x86_64__)
    switch (cpu_isa()) {
    case CPU_AVX512: return &head_avx512;
    case CPU_AVX2: return &head_avx2;
    default: break;
    }
#endif
    return &head_generic;
}

/* --- cross-entropy alone, squares ------------------------------------------------------------------------------ */

/* dlogits of capped logits: what dlogits would be without the cap, times the cap's slope 1 - (z / cap)^2. A block's
 * capped values are kept aside while their place takes the gradient. */
static float slope(float z, float cap) { return cap > 0 ? 1 - z / cap * (z / cap) : 1; }

static void capped_grad(const struct head_rows *isa, float *z, int64_t v, float max, float scale, float cap) {
    float kept[BLOCK];
    for (int64_t i = 0, n; i < v; i += n) {
        n = v - i < BLOCK ? v - i : BLOCK;
        memcpy(kept, z + i, (size_t)n * sizeof *z);
        isa->grad(z + i, n, max, scale);
        for (int64_t j = 0; j < n; j++) z[i + j] *= slope(kept[j], cap);
    }
}

/* softmax - onehot, times the weight; sum: of exp(z - max). */
static void plain_gradient(const struct loss_row *r, float *z, int64_t v, float max, double sum) {
    const struct head_rows *isa = head_isa();
    const float mine = z[r->label], scale = (float)((double)r->weight / sum);
    if (r->cap > 0) capped_grad(isa, z, v, max, scale, r->cap);
    else isa->grad(z, v, max, scale);
    z[r->label] -= r->cap > 0 ? r->weight * slope(mine, r->cap) : r->weight;
}

/* The mean of squared errors. */
static struct row_loss squares(const struct loss_row *r, float *z, int64_t v) {
    double sum = 0;
    for (int64_t i = 0; i < v; i++) {
        const float off = z[i] - r->target[i];
        sum += (double)off * off;
        if (r->gradient) z[i] = r->weight * 2 / (float)v * off;
    }
    return (struct row_loss){(float)(sum / (double)v), (float)(sum / (double)v), 0};
}

/* --- other terms ----------------------------------------------------------------------------------------------- */

/* In lanes, so that the order does not hang on the instruction set. */
static double sum_of(const float *x, int64_t n) {
    enum { LANES = 16 };
    double total = 0;
    for (int64_t from = 0; from < n; from += BLOCK) {
        const int64_t to = n < from + BLOCK ? n : from + BLOCK;
        float lane[LANES] = {0};
        int64_t i = from;
        for (; i + LANES <= to; i += LANES)
            for (int k = 0; k < LANES; k++) lane[k] += x[i + k];
        for (int k = 0; i < to; i++, k++) lane[k] += x[i];
        for (int k = 0; k < LANES; k++) total += (double)lane[k];
    }
    return total;
}

/* Of the student: s = exp((y - top) / T) / sum. */
struct taught {
    double D, centre, sum;
    float top;
};

/* A block's terms of D into d and e into q; s and t are both sides' probabilities, apart log s - log t = (y - q) / T + shift. */
static void block_terms(const struct loss_terms *l, const float *y, float *q, const float *s, const float *t, float shift, float *d,
                        int64_t n) {
    const float beta = l->beta, to = 1 / l->temperature;
    for (int64_t j = 0; j < n; j++) {
        const float apart = (y[j] - q[j]) * to + shift, m = (1 - beta) * s[j] + beta * t[j];
        if (beta == 0) d[j] = -t[j] * apart, q[j] = -t[j];
        else if (beta == 1) d[j] = q[j] = s[j] * apart;
        else {
            const float from_s = s[j] > 0 ? s[j] * logf(s[j] / m) : s[j], from_t = t[j] > 0 ? t[j] * logf(t[j] / m) : t[j];
            d[j] = beta * from_t + (1 - beta) * from_s, q[j] = (1 - beta) * from_s;
        }
    }
}

static struct taught distance(const struct loss_terms *l, const float *y, float *q, int64_t n) {
    const struct fused_kernels *f = fused();
    const float to = 1 / l->temperature, top = f->row_max(y, n), top_q = f->row_max(q, n);
    const double sum = f->row_exp(y, n, top, to, NULL), sum_q = f->row_exp(q, n, top_q, to, NULL);
    const float shift = (float)((double)(top_q - top) * (double)to + log(sum_q) - log(sum)), of_s = (float)(1 / sum),
                of_t = (float)(1 / sum_q);
    struct taught r = {.sum = sum, .top = top};
    float s[BLOCK], t[BLOCK], d[BLOCK];
    for (int64_t i = 0, m; i < n; i += m) {
        m = n - i < BLOCK ? n - i : BLOCK;
        f->row_exp(y + i, m, top, to, s);
        f->row_exp(q + i, m, top_q, to, t);
        for (int64_t j = 0; j < m; j++) s[j] *= of_s, t[j] *= of_t;
        block_terms(l, y + i, q + i, s, t, shift, d, m);
        r.D += sum_of(d, m);
        r.centre += sum_of(q + i, m);
    }
    return r;
}

/* Remembered ids: their logits and log-probabilities, and behind them the others' together, as outcomes. Returns how many. *rest: logsumexp of the others' logits. */
static int64_t outcomes_of(const struct loss_row *r, float *z, int64_t v, float *rest) {
    float *y = r->outcomes, *q = y + r->k + 1, max;
    double sum;
    for (int64_t j = 0; j < r->k; j++) y[j] = z[r->top[j]], q[j] = r->logp[j];
    *rest = 0;
    if (r->k == v) return r->k;
    for (int64_t j = 0; j < r->k; j++) z[r->top[j]] = -INFINITY;
    head_isa()->stats(z, v, &max, &sum);
    for (int64_t j = 0; j < r->k; j++) z[r->top[j]] = y[j];
    y[r->k] = *rest = (float)((double)max + log(sum));
    q[r->k] = ops_rest(r->logp, r->k);
    return r->k + 1;
}

/* What a row's gradient is made of: g = p exp(z - max) - even + by the teacher taught (e - centre s), and at the label less `mine`. */
struct mixture {
    float max, p, even, mine, taught;
    struct taught from;  /* centre and sum: of what is multiplied by `taught` */
    float rest, of_rest; /* of remembered ids: the others' logsumexp, and the factor of exp(z - rest) */
};

static void mixed_gradient(const struct loss_row *r, const struct mixture *m, float *z, int64_t v) {
    const struct fused_kernels *f = fused();
    const float to = 1 / r->terms->temperature, of_s = (float)((double)m->taught * m->from.centre / m->from.sum);
    float kept[BLOCK], s[BLOCK], label = z[r->label];
    for (int64_t i = 0, n; i < v; i += n) {
        n = v - i < BLOCK ? v - i : BLOCK;
        memcpy(kept, z + i, (size_t)n * sizeof *z);
        head_isa()->grad(z + i, n, m->max, m->p);
        for (int64_t j = 0; j < n; j++) z[i + j] -= m->even;
        if (r->teacher) {
            f->row_exp(kept, n, m->from.top, to, s);
            for (int64_t j = 0; j < n; j++) z[i + j] += m->taught * r->teacher[i + j] - of_s * s[j];
        } else if (r->top) {
            f->row_exp(kept, n, m->rest, 1, s);
            for (int64_t j = 0; j < n; j++) z[i + j] += m->of_rest * s[j];
        }
        for (int64_t j = 0; j < n && r->cap > 0; j++) z[i + j] *= slope(kept[j], r->cap);
    }
    const float *y = r->outcomes, *e = y + r->k + 1;
    for (int64_t j = 0; j < r->k; j++) {
        const float g = expf(y[j] - m->max) * m->p - m->even + m->taught * e[j] - of_s * expf((y[j] - m->from.top) * to);
        z[r->top[j]] = g * slope(y[j], r->cap);
    }
    z[r->label] -= m->mine * slope(label, r->cap);
}

/* sum: of exp(z - max). Returns the loss. */
static float mixed(const struct loss_row *r, float *z, int64_t v, float nll, float max, double sum) {
    const struct loss_terms *l = r->terms;
    const double all = (double)max + log(sum), own = 1 - (double)l->share, w = r->weight, T = l->temperature;
    double loss = own * ((1 - (double)l->smoothing) * (double)nll + (double)l->smoothing * (all - sum_of(z, v) / (double)v)) +
                  (double)l->z * all * all;
    struct mixture m = {.max = max,
                        .p = (float)(w * (own + 2 * (double)l->z * all) / sum),
                        .even = (float)(w * own * (double)l->smoothing / (double)v),
                        .mine = (float)(w * own * (1 - (double)l->smoothing)),
                        .from.sum = 1};
    if (l->share > 0) {
        const int64_t n = r->top ? outcomes_of(r, z, v, &m.rest) : v;
        float *y = r->top ? r->outcomes : z, *q = r->top ? y + r->k + 1 : r->teacher;
        m.from = distance(l, y, q, n);
        m.taught = (float)(w * (double)l->share * T);
        if (n == r->k + 1 && r->top) /* k < V */
            m.of_rest =
                (float)((double)m.taught * ((double)q[r->k] - m.from.centre * exp((double)(y[r->k] - m.from.top) / T) / m.from.sum));
        loss += (double)l->share * T * T * m.from.D;
    }
    if (r->gradient) mixed_gradient(r, &m, z, v);
    return (float)loss;
}

struct row_loss head_row(const struct loss_row *r, float *z, int64_t v) {
    float max;
    double sum;
    if (r->target) return squares(r, z, v);
    if (r->cap > 0) fused()->cap_row(z, v, r->cap);
    head_isa()->stats(z, v, &max, &sum);
    struct row_loss to = {.nll = (float)((double)max - (double)z[r->label] + log(sum)), .correct = z[r->label] == max};
    for (int32_t i = 0; to.correct != 0 && i < r->label; i++) to.correct = z[i] != max; /* the lowest index of equals */
    to.loss = to.nll;
    if (ops_mixes(r->terms)) to.loss = mixed(r, z, v, to.nll, max, sum);
    else if (r->gradient) plain_gradient(r, z, v, max, sum);
    return to;
}
