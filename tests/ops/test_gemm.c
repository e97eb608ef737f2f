/* The CPU product kernels (linear, linear_bwd, head_loss) and exp, on every instruction set this machine has, against
 * sums in double over the weights as dequantise_row() defines them.
 *
 * Tolerance: rounding errors of a chain of K multiply-adds add up like a random walk, eps * sqrt(K) * |products|_2, and
 * the factor 4 covers the worst of some thousand elements. An activation rounded to a grid is wrong by up to half a
 * step, evenly spread, so its products with weights w are wrong by step / sqrt(12) * |w|_2; six times that covers a
 * million elements, and is so much more than f32 rounding that the latter's size for sums split otherwise does not
 * matter. Where a product takes a rounded value (dT), the bound of that value is carried along. All buffers are exact
 * heap blocks, so AddressSanitizer sees any read past a tensor. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "ops/ops.h"
#include "support/support.h" /* after ours: cmocka defines a macro fail() */

enum { MAX_BLOCKS = 256 };
static void *blocks[MAX_BLOCKS];
static int n_blocks;
static uint32_t counter;

static void *take(size_t bytes) {
    assert_true(n_blocks < MAX_BLOCKS);
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    return blocks[n_blocks++] = p;
}

static void drop_all(void) {
    while (n_blocks) free(blocks[--n_blocks]);
}

static float uniform(void) { return philox_unit(philox(7, counter++, 0, 0, 0).v[0]) * 2 - 1; }

/* [rows, cols] f32 in rows of `cols + gap`, the gap filled with NaN. */
static struct view matrix(int64_t rows, int64_t cols, int64_t gap) {
    struct view v = {.dt = DT_F32, .nd = 2, .d = {rows, cols}, .ld = cols + gap};
    float *p = v.p = take((size_t)(rows ? rows * v.ld - gap : 0) * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < (r + 1 < rows ? v.ld : cols); c++) p[r * v.ld + c] = c < cols ? uniform() : NAN;
    return v;
}

static struct view ints(int64_t n, int32_t below) {
    struct view v = {.dt = DT_I32, .nd = 1, .d = {n}, .ld = 1};
    int32_t *p = v.p = take((size_t)n * 4);
    for (int64_t i = 0; i < n; i++) p[i] = (int32_t)(philox(9, counter++, 0, 0, 0).v[0] % (uint32_t)below);
    return v;
}

static struct view weights(dtype dt, int64_t rows, int64_t cols) {
    struct view v = {.dt = dt, .nd = 2, .d = {rows, cols}, .ld = cols};
    size_t bytes = dtype_row_bytes(dt, cols);
    uint8_t *p = v.p = take((size_t)rows * bytes);
    float *row = take((size_t)cols * sizeof(float));
    for (int64_t r = 0; r < rows; r++, p += bytes) {
        for (int64_t c = 0; c < cols; c++) row[c] = uniform();
        if (dtype_writable(dt)) quantise_row(dt, row, p, cols);
        else random_blocks(dt, p, cols, 1, &counter);
    }
    return v;
}

/* The weights as the format defines them. */
static float *plain(const struct view *w) {
    float *p = take((size_t)(w->d[0] * w->d[1]) * sizeof(float));
    for (int64_t r = 0; r < w->d[0]; r++)
        dequantise_row(w->dt, (const uint8_t *)w->p + (size_t)r * dtype_row_bytes(w->dt, w->ld), p + r * w->d[1],
                       w->d[1]);
    return p;
}

/* A sum in double with the bound of a float chain's error. */
struct sum {
    double v, squares, carried, grid; /* grid: the variance that rounded activations add */
    int64_t n;
};
static void sum_add(struct sum *s, double a, double b) {
    s->v += a * b;
    s->squares += a * a * b * b;
    s->n++;
}
/* a is rounded to a multiple of `step`. */
static void sum_add_rounded(struct sum *s, double a, double b, double step) {
    sum_add(s, a, b);
    s->grid += step * step / 12 * b * b;
}
static double sum_bound(const struct sum *s) {
    return 4 * FLT_EPSILON * sqrt((double)s->n) * (sqrt(s->squares) + fabs(s->v)) + 6 * sqrt(s->grid) + s->carried +
           FLT_MIN;
}
static const char *place = "";
static void near(const struct sum *s, double got, const char *name, int64_t i, int64_t j) {
    if (fabs(got - s->v) <= sum_bound(s)) return;
    flunk("%s %s %s[%lld,%lld] = %.9g, want %.9g +- %.2g", cpu_isa_name(cpu_isa()), place, name, (long long)i,
             (long long)j, got, s->v, sum_bound(s));
}

static struct run_ctx context(int threads) { return (struct run_ctx){.seed = 5, .step = 3, .threads = threads}; }

/* --- linear ---------------------------------------------------------------------------------------------------- */

struct layer {
    int n;
    dtype dt[MAX_GROUP];
    int64_t rows, c, o[MAX_GROUP], gap;
    int rank[MAX_GROUP];
    bool bias;
    float dropout;
    int threads;
    bool ints;
};

struct problem {
    struct inst inst;
    struct view in[LIN_IN], out[MAX_OUT];
    float *w[MAX_GROUP];
    int64_t rank, before[MAX_GROUP];
};

static void make(const struct layer *l, struct problem *p) {
    memset(p, 0, sizeof *p);
    p->inst.a = (struct op_attr){.n = l->n, .dropout = l->dropout, .site = 4};
    p->in[LIN_X] = matrix(l->rows, l->c, l->gap);
    for (int i = 0; i < l->n; i++) {
        p->inst.a.rank[i] = l->rank[i];
        p->inst.a.alpha[i] = 0.5f + (float)i;
        p->before[i] = p->rank;
        p->rank += l->rank[i];
        p->in[LIN_W + i] = weights(l->dt[i], l->o[i], l->c);
        p->w[i] = plain(&p->in[LIN_W + i]);
        if (l->bias) p->in[LIN_BIAS + i] = matrix(1, l->o[i], 0);
        if (l->rank[i]) p->in[LIN_B + i] = matrix(l->o[i], l->rank[i], 0);
        p->out[i] = matrix(l->rows, l->o[i], l->gap);
    }
    if (p->rank) {
        p->in[LIN_A] = matrix(p->rank, l->c, 0);
        p->out[LIN_T] = matrix(l->rows, p->rank, l->gap);
    }
    p->in[LIN_SAMPLE] = ints(l->rows, 9);
    p->in[LIN_POS] = ints(l->rows, 99);
}

static double dropped(const struct layer *l, const struct problem *p, int output, int64_t n, int64_t c, double x) {
    if (l->dropout <= 0) return x;
    struct run_ctx run = context(1);
    struct philox r = ops_drop_bits(&run, p->inst.a.site, output, view_i32(&p->in[LIN_SAMPLE])[n],
                                    view_i32(&p->in[LIN_POS])[n], c & ~(int64_t)3);
    return ops_drop_keep(r.v[c & 3], l->dropout) ? x * (double)(1 / (1 - l->dropout)) : 0;
}

/* The grid on which output i takes row n of x; 0: as it is. */
static double step_of(const struct layer *l, const struct problem *p, int i, int64_t n) {
    double most = 0;
    if (!l->ints || l->rows > gemm_isa()->dot_rows || !gemm_takes_ints(l->dt[i], l->c)) return 0;
    for (int64_t c = 0; c < l->c; c++) most = fmax(most, fabs((double)view_row(&p->in[LIN_X], n)[c]));
    return most / INT16_MAX;
}

static void check_forward(const struct layer *l, const struct problem *p) {
    for (int64_t n = 0; n < l->rows; n++)
        for (int i = 0; i < l->n; i++) {
            const float *x = view_row(&p->in[LIN_X], n);
            const double step = step_of(l, p, i, n);
            for (int r = 0; r < l->rank[i]; r++) {
                struct sum s = {0};
                const float *a = view_row(&p->in[LIN_A], p->before[i] + r);
                for (int64_t c = 0; c < l->c; c++) sum_add(&s, dropped(l, p, i, n, c, x[c]), a[c]);
                near(&s, view_row(&p->out[LIN_T], n)[p->before[i] + r], "T", n, p->before[i] + r);
            }
            for (int64_t o = 0; o < l->o[i]; o++) {
                struct sum s = {0};
                for (int64_t c = 0; c < l->c; c++) sum_add_rounded(&s, x[c], p->w[i][o * l->c + c], step);
                for (int r = 0; r < l->rank[i]; r++)
                    sum_add(&s, p->inst.a.alpha[i] * view_row(&p->out[LIN_T], n)[p->before[i] + r],
                            view_row(&p->in[LIN_B + i], o)[r]);
                if (l->bias) sum_add(&s, view_f32(&p->in[LIN_BIAS + i])[o], 1);
                near(&s, view_row(&p->out[i], n)[o], "Y", n, o);
            }
        }
}

static void *scratch_for(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    assert_non_null(p);
    memset(p, 0xFF, bytes); /* NaN */
    return blocks[n_blocks++] = p;
}

struct back {
    struct view in[LB_IN], out[MAX_OUT], da0, db0[MAX_GROUP];
    double *dt, *dt_error; /* [N, R] */
};

static struct view copy_of(const struct view *v) {
    struct view c = *v;
    size_t bytes = (size_t)(v->d[0] * v->ld) * sizeof(float);
    c.p = take(bytes);
    memcpy(c.p, v->p, bytes);
    return c;
}

static void make_back(const struct layer *l, const struct problem *p, int absent, struct back *b) {
    memset(b, 0, sizeof *b);
    b->in[LB_X] = p->in[LIN_X];
    b->in[LB_A] = p->in[LIN_A];
    b->in[LB_T] = p->out[LIN_T];
    b->in[LB_SAMPLE] = p->in[LIN_SAMPLE];
    b->in[LB_POS] = p->in[LIN_POS];
    b->out[LB_DX] = matrix(l->rows, l->c, l->gap);
    if (p->rank) {
        b->out[LB_DA] = matrix(p->rank, l->c, 0);
        b->da0 = copy_of(&b->out[LB_DA]);
    }
    for (int i = 0; i < l->n; i++) {
        b->in[LB_W + i] = p->in[LIN_W + i];
        b->in[LB_B + i] = p->in[LIN_B + i];
        if (i != absent) b->in[LB_DY + i] = matrix(l->rows, l->o[i], l->gap);
        if (!l->rank[i]) continue;
        b->out[LB_DB + i] = matrix(l->o[i], l->rank[i], 0);
        b->db0[i] = copy_of(&b->out[LB_DB + i]);
    }
    b->dt = take((size_t)(l->rows * p->rank) * sizeof(double));
    b->dt_error = take((size_t)(l->rows * p->rank) * sizeof(double));
    for (int64_t n = 0; n < l->rows; n++)
        for (int i = 0; i < l->n; i++)
            for (int r = 0; r < l->rank[i]; r++) {
                struct sum s = {0};
                for (int64_t o = 0; b->in[LB_DY + i].p && o < l->o[i]; o++)
                    sum_add(&s, p->inst.a.alpha[i] * view_row(&b->in[LB_DY + i], n)[o],
                            view_row(&p->in[LIN_B + i], o)[r]);
                b->dt[n * p->rank + p->before[i] + r] = s.v;
                b->dt_error[n * p->rank + p->before[i] + r] = sum_bound(&s);
            }
}

static void check_dx(const struct layer *l, const struct problem *p, const struct back *b) {
    for (int64_t n = 0; n < l->rows; n++)
        for (int64_t c = 0; c < l->c; c++) {
            struct sum s = {0};
            for (int i = 0; i < l->n; i++) {
                for (int64_t o = 0; b->in[LB_DY + i].p && o < l->o[i]; o++)
                    sum_add(&s, view_row(&b->in[LB_DY + i], n)[o], p->w[i][o * l->c + c]);
                for (int64_t r = p->before[i]; r < p->before[i] + l->rank[i]; r++) {
                    double a = dropped(l, p, i, n, c, view_row(&p->in[LIN_A], r)[c]);
                    sum_add(&s, b->dt[n * p->rank + r], a);
                    s.carried += b->dt_error[n * p->rank + r] * fabs(a);
                }
            }
            near(&s, view_row(&b->out[LB_DX], n)[c], "dx", n, c);
        }
}

static void check_parameters(const struct layer *l, const struct problem *p, const struct back *b) {
    for (int i = 0; i < l->n; i++)
        for (int64_t r = p->before[i]; r < p->before[i] + l->rank[i]; r++) {
            for (int64_t c = 0; c < l->c; c++) {
                struct sum s = {0};
                sum_add(&s, view_row(&b->da0, r)[c], 1);
                for (int64_t n = 0; n < l->rows; n++) {
                    double x = dropped(l, p, i, n, c, view_row(&p->in[LIN_X], n)[c]);
                    sum_add(&s, b->dt[n * p->rank + r], x);
                    s.carried += b->dt_error[n * p->rank + r] * fabs(x);
                }
                near(&s, view_row(&b->out[LB_DA], r)[c], "dA", r, c);
            }
            for (int64_t o = 0; o < l->o[i]; o++) {
                struct sum s = {0};
                sum_add(&s, view_row(&b->db0[i], o)[r - p->before[i]], 1);
                for (int64_t n = 0; b->in[LB_DY + i].p && n < l->rows; n++)
                    sum_add(&s, p->inst.a.alpha[i] * view_row(&b->in[LB_DY + i], n)[o], view_row(&p->out[LIN_T], n)[r]);
                near(&s, view_row(&b->out[LB_DB + i], o)[r - p->before[i]], "dB", o, r - p->before[i]);
            }
        }
}

/* Forward and backward of one group; absent: an output without gradient (-1: none). */
static void check_layer(const struct layer *l, int absent) {
    struct problem p;
    struct back b;
    struct run_ctx run = context(l->threads);
    make(l, &p);
    size_t bytes = cpu_linear_scratch(&p.inst, p.in, p.out);
    assert_int_equal(cpu_linear(&run, &p.inst, p.in, p.out, scratch_for(bytes)), OK);
    check_forward(l, &p);
    make_back(l, &p, absent, &b);
    bytes = cpu_linear_bwd_scratch(&p.inst, b.in, b.out);
    assert_int_equal(cpu_linear_bwd(&run, &p.inst, b.in, b.out, scratch_for(bytes)), OK);
    check_dx(l, &p, &b);
    check_parameters(l, &p, &b);
    drop_all();
}

static void for_each_isa(void (*f)(void)) {
    enum cpu_isa have = cpu_isa();
    for (enum cpu_isa i = CPU_GENERIC; i <= have; i++) {
        cpu_cap(i);
        f();
    }
    cpu_cap(have);
}

/* Every two of rows, outputs and width meet: a third of all combinations. */
static void every_dtype(void) {
    static const int64_t rows[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 17, 32, 64}, outs[] = {1, 37, 64};
    for (int t = DT_F32; t < DT_COUNT; t++) {
        if (t == DT_I32) continue;
        int64_t block = dtype_info[t].block;
        int64_t plain_c[] = {1, 7, 64, 331}, quant_c[] = {block, 3 * block, 576 / block * block, 0};
        place = dtype_info[t].name;
        for (size_t c = 0; c < 4; c++)
            for (size_t o = 0; o < 3; o++)
                for (size_t n = (c + o) % 3; n < sizeof rows / sizeof *rows; n += 3) {
                    int64_t width = block == 1 ? plain_c[c] : quant_c[c];
                    struct layer l = {1,   {(dtype)t}, rows[n], width, {outs[o]}, (int64_t)(n % 3),
                                      {0}, n % 2,      0,       2,     false};
                    if (width) check_layer(&l, -1);
                }
    }
}

static void every_group(void) {
    static const struct layer cases[] = {
        {3, {DT_Q4_1, DT_Q8_0, DT_Q4_0}, 19, 96, {96, 32, 45}, 5, {16, 7, 16}, true, 0, 2, false},
        {3, {DT_Q4_1, DT_Q6_K, DT_F32}, 70, 256, {64, 33, 1}, 0, {0, 8, 64}, false, 0, 3, false},
        {4, {DT_Q4_K, DT_Q5_0, DT_Q6_K, DT_NF4}, 33, 512, {64, 96, 33, 40}, 0, {8, 0, 4, 16}, false, 0, 2, false},
        {3, {DT_NF4, DT_E4M3, DT_Q5_K}, 20, 768, {64, 33, 40}, 0, {0, 4, 0}, true, 0, 3, false},
        {3, {DT_NF4_DQ, DT_Q4_K, DT_NF4}, 20, 1024, {64, 33, 40}, 0, {0, 4, 0}, true, 0, 3, false},
        {2, {DT_NF4, DT_E4M3}, 40, 320, {64, 33}, 0, {0, 4}, true, 0, 3, false},
        {2, {DT_Q4_1, DT_Q4_1}, 300, 64, {300, 40}, 0, {4, 0}, false, 0, 2, false},
        {4, {DT_F32, DT_F16, DT_BF16, DT_Q8_0}, 4, 64, {33, 70, 5, 64}, 3, {1, 17, 8, 32}, true, 0, 2, false},
        {2, {DT_Q4_1, DT_Q8_0}, 1, 576, {50, 31}, 0, {16, 16}, false, 0, 1, false},
        {3, {DT_Q4_1, DT_Q8_0, DT_F32}, 70, 96, {40, 32, 45}, 2, {16, 0, 3}, true, 0.25f, 2, false},
        {1, {DT_F32}, 3, 13, {9}, 0, {2}, false, 0.5f, 2, false},
        {3, {DT_Q4_1, DT_Q8_0, DT_Q4_0}, 0, 96, {96, 32, 45}, 0, {16, 7, 16}, true, 0, 2, false},
    };
    place = "group";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int absent = -1; absent < cases[i].n; absent++) check_layer(&cases[i], absent);
}

static void forward(const struct problem *p, const struct view *out, int threads, bool ints) {
    struct run_ctx run = context(threads);
    struct view to[MAX_OUT];
    memcpy(to, out, sizeof to);
    run.int_activations = ints;
    void *scratch = scratch_for(cpu_linear_scratch(&p->inst, p->in, to));
    assert_int_equal(cpu_linear(&run, &p->inst, p->in, to, scratch), OK);
}

/* Integer activations: every number of rows that takes them and one more, whole groups of blocks and a rest; every two of type, width and rows meet. */
static void integers(void) {
    static const dtype types[] = {DT_Q4_0, DT_Q4_1, DT_Q8_0};
    static const int64_t widths[] = {64, 128, 320, 576, 1536};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (int64_t n = 1 + (int64_t)(t + w) % 3; n <= 33; n += 3) {
                struct layer l = {2,     {types[t], DT_Q8_0},     n,     widths[w], {37, 5},
                                  n % 3, {n % 4 < 2 ? 16 : 0, 0}, n % 2, 0,         1 + (int)n % 3,
                                  true};
                struct problem p;
                place = "integer activations";
                make(&l, &p);
                forward(&p, p.out, l.threads, true);
                check_forward(&l, &p);
                drop_all();
            }
}

/* What has no integer products keeps its bits, and so does T; a row that is not finite spoils no other. */
static void integers_elsewhere(void) {
    static const struct layer cases[] = {
        {3, {DT_F32, DT_Q6_K, DT_BF16}, 8, 256, {40, 33, 7}, 0, {16, 0, 4}, true, 0, 2, true},
        {3, {DT_Q4_0, DT_Q4_1, DT_Q8_0}, 8, 96, {40, 33, 7}, 0, {16, 0, 4}, true, 0, 2, true},
        {3, {DT_Q4_0, DT_Q4_1, DT_Q8_0}, 64, 128, {40, 33, 7}, 0, {16, 0, 4}, true, 0, 2, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct problem p;
        struct view out[MAX_OUT];
        make(&cases[i], &p);
        for (int k = 0; k < MAX_OUT; k++) out[k] = p.out[k].p ? copy_of(&p.out[k]) : p.out[k];
        forward(&p, p.out, 2, true);
        forward(&p, out, 2, false);
        for (int k = 0; k < MAX_OUT; k++)
            if (out[k].p) assert_memory_equal(out[k].p, p.out[k].p, (size_t)(out[k].d[0] * out[k].ld) * sizeof(float));
        drop_all();
    }
    struct layer l = {1, {DT_Q4_1}, 5, 128, {40}, 0, {0}, false, 0, 2, true};
    for (int bad = 0; bad < 2; bad++) {
        struct problem p;
        make(&l, &p);
        view_row(&p.in[LIN_X], 2)[77] = bad ? INFINITY : NAN;
        memset(view_row(&p.in[LIN_X], 3), 0, 128 * sizeof(float));
        forward(&p, p.out, 2, true);
        for (int64_t o = 0; o < 40; o++) {
            assert_true(!isfinite(view_row(&p.out[0], 2)[o]) && view_row(&p.out[0], 3)[o] == 0);
            for (int n = 0; n < 5; n++) assert_true(n == 2 || isfinite(view_row(&p.out[0], n)[o]));
        }
        drop_all();
    }
}

/* The first rows of one batch after another: the same bits as in batch 0, whatever the batch's size or the threads. */
static void same_rows(const int64_t *rows, int count, bool ints) {
    struct layer l = {2, {DT_Q4_1, DT_Q8_0}, rows[0], 320, {100, 64}, 0, {16, 16}, false, 0, 3, false};
    struct problem p;
    make(&l, &p);
    float *first = take((size_t)(rows[0] * 100) * sizeof(float));
    for (int i = 0; i < count; i++) {
        p.in[LIN_X].d[0] = p.out[0].d[0] = p.out[1].d[0] = p.out[LIN_T].d[0] = rows[i];
        forward(&p, p.out, i == 0 ? 1 : 3, ints);
        if (i == 0) memcpy(first, p.out[0].p, (size_t)(rows[0] * 100) * sizeof(float));
        assert_memory_equal(first, p.out[0].p, (size_t)(rows[i] * 100) * sizeof(float));
    }
    drop_all();
}

/* Within each of the three ways to multiply: products by tiles, dot products for few rows, those with integers. */
static void same_bits(void) {
    const int64_t most = gemm_isa()->dot_rows;
    const int64_t many[] = {333, 333, 256, 100, most + 1}, few[] = {most, most, most / 2, most / 2 - 1, 3, 2, 1};
    same_rows(many, 5, false);
    same_rows(few, 7, false);
    same_rows(few, 7, true);
}

/* --- head_loss ------------------------------------------------------------------------------------------------- */

struct head {
    struct inst inst;
    struct view in[HEAD_IN], out[HEAD_OUT];
    float *w;
};

static void make_head(struct head *h, dtype dt, int64_t n, int64_t c, int64_t v, bool dx) {
    memset(h, 0, sizeof *h);
    h->in[0] = matrix(n, c, 3);
    h->in[1] = weights(dt, v, c);
    h->w = plain(&h->in[1]);
    h->in[2] = ints(n, (int32_t)v);
    h->in[3] = matrix(1, n, 0);
    h->in[3] = (struct view){h->in[3].p, DT_F32, 1, {n}, 1};
    for (int64_t i = 0; i < n; i++) view_f32(&h->in[3])[i] = i % 3 == 1 ? 0 : 0.5f + (float)(i % 2);
    h->out[0] = matrix(1, 4, 0);
    h->out[1] = matrix(1, n, 0);
    if (dx) h->out[2] = matrix(n, c, 2);
}

static void run_head(struct head *h, int threads) {
    struct run_ctx run = context(threads);
    void *scratch = scratch_for(cpu_head_loss_scratch(&h->inst, h->in, h->out));
    assert_int_equal(cpu_head_loss(&run, &h->inst, h->in, h->out, scratch), OK);
}

/* nll, argmax and dx of row n in double; bound: the largest error of one of its logits. */
static void check_head_row(const struct head *h, int64_t n, double *sums) {
    int64_t v = h->in[1].d[0], c = h->in[1].d[1], best = 0;
    double *z = take((size_t)v * sizeof(double)), total = 0, bound = 0, weight = view_f32(&h->in[3])[n];
    int32_t label = view_i32(&h->in[2])[n];
    for (int64_t i = 0; i < v; i++) {
        struct sum s = {0};
        for (int64_t k = 0; k < c; k++) sum_add(&s, view_row(&h->in[0], n)[k], h->w[i * c + k]);
        z[i] = s.v;
        if (z[i] > z[best]) best = i;
        bound = fmax(bound, sum_bound(&s));
    }
    for (int64_t i = 0; i < v; i++) total += exp(z[i] - z[best]);
    double nll = z[best] + log(total) - z[label], got = (double)view_f32(&h->out[1])[n];
    bound = 2 * bound + 8 * FLT_EPSILON * (1 + fabs(z[best]) + fabs(nll));
    if (weight == 0) nll = bound = 0;
    if (fabs(got - nll) > bound)
        flunk("%s nll[%lld] = %.9g, want %.9g +- %.2g", place, (long long)n, got, nll, bound);
    sums[0] += weight * nll;
    sums[1] += weight;
    sums[2] += weight * (best == label);
    sums[3] += weight != 0;
    for (int64_t k = 0; h->out[2].p && k < c; k++) {
        struct sum s = {0};
        for (int64_t i = 0; i < v; i++) {
            double d = weight * (exp(z[i] - z[best]) / total - (i == label));
            sum_add(&s, d, h->w[i * c + k]);
            s.carried += 2 * bound * fabs(weight * exp(z[i] - z[best]) / total * (double)h->w[i * c + k]);
        }
        near(&s, view_row(&h->out[2], n)[k], "dx", n, k);
    }
    free(blocks[--n_blocks]);
}

static void every_head(void) {
    static const struct {
        dtype dt;
        int64_t n, c, v;
        bool dx;
    } cases[] = {
        {DT_Q8_0, 40, 64, 1000, true}, {DT_Q8_0, 40, 64, 1000, false}, {DT_Q4_1, 1, 32, 17, true},
        {DT_F32, 7, 5, 1, true},       {DT_F32, 300, 9, 333, true},    {DT_Q6_K, 3, 256, 70, true},
        {DT_F16, 0, 8, 9, true},
    };
    place = "head";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct head h;
        double sums[4] = {0};
        make_head(&h, cases[i].dt, cases[i].n, cases[i].c, cases[i].v, cases[i].dx);
        run_head(&h, 2);
        for (int64_t n = 0; n < cases[i].n; n++) check_head_row(&h, n, sums);
        for (int k = 0; k < 4; k++)
            assert_true(fabs((double)view_f32(&h.out[0])[k] - sums[k]) <= 1e-5 * (1 + fabs(sums[k])));
        drop_all();
    }
}

static void ties_and_nan(void) {
    struct head h;
    make_head(&h, DT_F32, 2, 4, 50, true);
    memset(h.in[1].p, 0, 50 * 4 * sizeof(float)); /* all logits equal: the argmax is 0 */
    int32_t *label = h.in[2].p;
    label[0] = 0;
    label[1] = 1;
    view_f32(&h.in[3])[0] = view_f32(&h.in[3])[1] = 1;
    run_head(&h, 2);
    assert_true(view_f32(&h.out[0])[2] == 1);
    assert_true(fabs((double)view_f32(&h.out[1])[0] - log(50)) < 1e-6);
    view_row(&h.in[0], 0)[2] = NAN;
    run_head(&h, 2);
    assert_true(isnan(view_f32(&h.out[0])[0]) && isnan(view_f32(&h.out[1])[0]) && !isnan(view_f32(&h.out[1])[1]));
    assert_true(isnan(view_row(&h.out[2], 0)[0]));
    drop_all();
    struct run_ctx run = context(2);
    make_head(&h, DT_F32, 2, 4, 50, true);
    *(int32_t *)h.in[2].p = 50;
    assert_int_equal(
        cpu_head_loss(&run, &h.inst, h.in, h.out, scratch_for(cpu_head_loss_scratch(&h.inst, h.in, h.out))), E_INPUT);
    drop_all();
}

/* exp through the head: x = 1, W[:, 0] = z - so nll of label 1 is log(1 + e^d) + ... exactly where exp enters. */
static void exp_range(void) {
    for (float d = -110; d <= 0; d += 0.37f) {
        struct head h;
        make_head(&h, DT_F32, 1, 1, 20, true);
        view_f32(&h.in[0])[0] = 1;
        view_f32(&h.in[3])[0] = 1;
        for (int i = 0; i < 20; i++) view_f32(&h.in[1])[i] = i == 3 ? 0 : d;
        *(int32_t *)h.in[2].p = 3;
        run_head(&h, 1);
        double e = exp((double)d), nll = log1p(19 * e), dx = 19 * e / (1 + 19 * e) * (double)d;
        assert_true(fabs((double)view_f32(&h.out[1])[0] - nll) <= 4 * FLT_EPSILON * nll + 2 * FLT_EPSILON);
        assert_true(fabs((double)view_f32(&h.out[2])[0] - dx) <=
                    16 * FLT_EPSILON * fabs(dx) + 120 * FLT_EPSILON * 1e-6);
        drop_all();
    }
}

static void test_dtypes(void **state) { (void)state, for_each_isa(every_dtype); }
static void test_groups(void **state) { (void)state, for_each_isa(every_group); }
static void test_integers(void **state) { (void)state, integers(); }
static void test_integers_elsewhere(void **state) { (void)state, for_each_isa(integers_elsewhere); }
static void test_same_bits(void **state) { (void)state, for_each_isa(same_bits); }
static void test_head(void **state) { (void)state, for_each_isa(every_head); }
static void test_ties_and_nan(void **state) { (void)state, for_each_isa(ties_and_nan); }
static void test_exp(void **state) { (void)state, for_each_isa(exp_range); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dtypes),       cmocka_unit_test(test_groups),
        cmocka_unit_test(test_same_bits),    cmocka_unit_test(test_head),
        cmocka_unit_test(test_ties_and_nan), cmocka_unit_test(test_exp),
        cmocka_unit_test(test_integers),     cmocka_unit_test(test_integers_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
