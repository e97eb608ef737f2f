/* The optimizers beside AdamW on the processor (core/flat.h says what they compute; AdamW itself is flat.c's): Lion, SGD, AdamW with 8-bit
 * states, Adafactor. f32, each scalar rounded once, in the order of operations of the references, so that results are theirs but for the last bit.
 * Results do not depend on the number of threads: elements and blocks are one thread's, and sums over a matrix are of its rows and columns,
 * each in one order, added in double. Muon is muon.c. Called through flat_cpu (flat.c). */
#include "base/dynamic_map.h"
#include "cpu/optim.h"
#include <math.h>
#include <string.h>

enum { LEAST = 16384 /* floats: less is not worth a thread */ };

static int threads_for(int64_t n, int threads) { return threads < 1 || n <= LEAST ? 1 : threads; }

err cpu_lion(const struct lion *o, const struct momentum_state *s, int64_t n, int threads) {
    const float decay = (float)(1 - o->lr * o->weight_decay), lr = (float)o->lr, scale = o->grad_scale;
    const float b1 = (float)o->beta1, one_b1 = (float)(1 - o->beta1), b2 = (float)o->beta2, one_b2 = (float)(1 - o->beta2);
    float *restrict p = s->p, *restrict m = s->m;
    const float *restrict grad = s->g;
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (int64_t i = 0; i < n; i++) {
        const float g = scale * grad[i], towards = b1 * m[i] + one_b1 * g;
        p[i] = decay * p[i] - lr * (float)((towards > 0) - (towards < 0));
        m[i] = b2 * m[i] + one_b2 * g;
    }
    return OK;
}

err cpu_sgd(const struct sgd *o, const struct momentum_state *s, int64_t n, int threads) {
    const float lr = (float)o->lr, momentum = (float)o->momentum, decay = (float)o->weight_decay, scale = o->grad_scale;
    float *restrict p = s->p, *restrict m = s->m;
    const float *restrict grad = s->g;
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (int64_t i = 0; i < n; i++) {
        float g = scale * grad[i] + decay * p[i];
        if (m) m[i] = momentum * m[i] + g, g = o->nesterov ? g + momentum * m[i] : m[i];
        p[i] -= lr * g;
    }
    return OK;
}

/* --- AdamW, 8 bits ---------------------------------------------------------------------------------------------------------- */
static uint8_t nearest(const float middle[DYNAMIC_CODES], float x) {
    int c = 0;
    for (int step = DYNAMIC_CODES / 2; step; step /= 2)
        if (x > middle[c + step]) c += step;
    return (uint8_t)c;
}

struct maps {
    float m[DYNAMIC_CODES], v[DYNAMIC_CODES], m_middle[DYNAMIC_CODES], v_middle[DYNAMIC_CODES];
};
struct rounded { /* of a step, once */
    float b1, one_b1, b2, one_b2, decay, step, root, eps, scale;
};

static void one_block(const struct rounded *o, const struct maps *k, const struct adamw_8bit_state *s, int64_t block, int64_t n) {
    const int64_t from = block * STATE_BLOCK;
    const int len = (int)(n - from < STATE_BLOCK ? n - from : STATE_BLOCK);
    float m[STATE_BLOCK], v[STATE_BLOCK], m_most = 0, v_most = 0;
    for (int i = 0; i < len; i++) {
        const float g = o->scale * s->g[from + i];
        m[i] = o->b1 * (k->m[s->m[from + i]] * s->m_most[block]) + o->one_b1 * g;
        v[i] = o->b2 * (k->v[s->v[from + i]] * s->v_most[block]) + o->one_b2 * (g * g);
        m_most = fmaxf(m_most, fabsf(m[i]));
        v_most = fmaxf(v_most, v[i]);
    }
    for (int i = 0; i < len; i++) {
        s->p[from + i] = o->decay * s->p[from + i] - o->step * (m[i] / (sqrtf(v[i]) / o->root + o->eps));
        s->m[from + i] = nearest(k->m_middle, m_most > 0 ? m[i] / m_most : 0);
        s->v[from + i] = nearest(k->v_middle, v_most > 0 ? v[i] / v_most : 0);
    }
    s->m_most[block] = m_most;
    s->v_most[block] = v_most;
}

err cpu_adamw_8bit(const struct adamw *o, const struct adamw_8bit_state *s, int64_t n, int threads) {
    const double bias1 = 1 - pow(o->beta1, (double)o->t), bias2 = 1 - pow(o->beta2, (double)o->t);
    const struct rounded r = {.b1 = (float)o->beta1,
                              .one_b1 = (float)(1 - o->beta1),
                              .b2 = (float)o->beta2,
                              .one_b2 = (float)(1 - o->beta2),
                              .decay = (float)(1 - o->lr * o->weight_decay),
                              .step = (float)(o->lr / bias1),
                              .root = (float)sqrt(bias2),
                              .eps = (float)o->eps,
                              .scale = o->grad_scale};
    struct maps k;
    dynamic_map(true, k.m);
    dynamic_map(false, k.v);
    dynamic_middles(k.m, k.m_middle);
    dynamic_middles(k.v, k.v_middle);
#pragma omp parallel for num_threads(threads_for(n, threads))
    for (int64_t b = 0; b < state_blocks(n); b++) one_block(&r, &k, s, b, n);
    return OK;
}

/* --- Adafactor -------------------------------------------------------------------------------------------------------------- */
enum { COLUMNS = 256 /* at a time: sums over the rows run along them */ };

/* What rows add up to, in scratch. */
static double sum(const double *of_row, int64_t rows) {
    double all = 0;
    for (int64_t r = 0; r < rows; r++) all += of_row[r];
    return all;
}

static double rms(const float *x, int64_t n, int threads) { return sqrt(flat_sumsq(x, n, threads) / (double)n); }

/* beta2 x + (1 - beta2) now */
static float smooth(const struct adafactor *o, float x, double now) { return (float)o->beta2 * x + (float)(1 - o->beta2) * (float)now; }

static void smooth_rows(const struct adafactor *o, const struct adafactor_state *s, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < o->rows; r++) {
        double squares = 0;
        for (int64_t c = 0; c < o->columns; c++) {
            const float g = o->grad_scale * s->g[r * o->columns + c];
            squares += (double)(g * g);
        }
        s->row[r] = smooth(o, s->row[r], squares / (double)o->columns + o->eps);
    }
}

static void smooth_columns(const struct adafactor *o, const struct adafactor_state *s, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t c0 = 0; c0 < o->columns; c0 += COLUMNS) {
        const int64_t end = o->columns - c0 < COLUMNS ? o->columns - c0 : COLUMNS;
        double squares[COLUMNS] = {0};
        for (int64_t r = 0; r < o->rows; r++)
            for (int64_t c = 0; c < end; c++) {
                const float g = o->grad_scale * s->g[r * o->columns + c0 + c];
                squares[c] += (double)(g * g);
            }
        for (int64_t c = 0; c < end; c++) s->column[c0 + c] = smooth(o, s->column[c0 + c], squares[c] / (double)o->rows + o->eps);
    }
}

/* The update of one element, before it is clipped. A vector has columns of one number. */
struct direction {
    const struct adafactor *o;
    const struct adafactor_state *s;
    const float *by_column;
    float mean;
};

static float by_row(const struct direction *d, int64_t r) { return 1 / sqrtf(d->o->columns ? d->s->row[r] / d->mean : d->s->row[r]); }

err cpu_adafactor(const struct adafactor *o, const struct adafactor_state *s, void *scratch, int threads) {
    const int64_t columns = o->columns ? o->columns : 1, n = o->rows * columns;
    const int team = threads_for(n, threads);
    double *squares = scratch;
    float *by_column = (float *)(squares + o->rows);
    const double size = o->scale_parameter ? rms(s->p, n, threads) : 0;
    if (o->columns) {
        smooth_rows(o, s, team);
        smooth_columns(o, s, team);
    } else
        for (int64_t r = 0; r < n; r++)
            s->row[r] = smooth(o, s->row[r], (double)(o->grad_scale * s->g[r] * (o->grad_scale * s->g[r])) + o->eps);
    double mean = 0;
    for (int64_t r = 0; r < o->rows; r++) mean += (double)s->row[r];
    for (int64_t c = 0; c < columns; c++) by_column[c] = o->columns ? 1 / sqrtf(s->column[c]) : 1;
    const struct direction d = {o, s, by_column, (float)(mean / (double)o->rows)};
#pragma omp parallel for num_threads(team)
    for (int64_t r = 0; r < o->rows; r++) {
        squares[r] = 0;
        for (int64_t c = 0; c < columns; c++) {
            const float u = by_row(&d, r) * by_column[c] * (o->grad_scale * s->g[r * columns + c]);
            squares[r] += (double)(u * u);
        }
    }
    const double beyond = sqrt(sum(squares, o->rows) / (double)n) / o->clip,
                 lr = o->lr * (o->scale_parameter ? fmax(o->eps_scale, size) : 1);
    const float decay = (float)(lr * o->weight_decay), step = (float)(lr / fmax(1, beyond));
#pragma omp parallel for num_threads(team)
    for (int64_t r = 0; r < o->rows; r++) {
        const float row = by_row(&d, r);
        float *p = s->p + r * columns;
        for (int64_t c = 0; c < columns; c++)
            p[c] = p[c] - decay * p[c] - step * (row * by_column[c] * (o->grad_scale * s->g[r * columns + c]));
    }
    return OK;
}

size_t cpu_adafactor_scratch(int64_t rows, int64_t columns) {
    return (size_t)rows * sizeof(double) + (size_t)(columns ? columns : 1) * sizeof(float);
}
