/* The one product engine of the CPU backend: Y = [X0 | X1 | ...] * [W0; W1; ...], f32 activations, weights of any
 * dtype.
 *
 * The long axis K is cut in pieces: each piece is a run of activation columns, and each output names, per piece, the
 * matrix it is multiplied with (or none). So one run computes a whole layer group from one packed copy of its input:
 *   forward   pieces x, T_0, T_1..;  outputs Y_i = x W_i^T + T_i (alpha_i B_i)^T, and T = x A^T itself
 *   backward  pieces dY_0, dY_1.., dT;  outputs dx = sum dY_i W_i + dT A, and dT_i = alpha_i dY_i B_i
 *   a trained weight's gradient  piece dY^T, `turned`;  output dW += dY^T x, x in the weight's place
 * A piece that reads what an earlier piece's output wrote (T, dT) is marked `after`.
 *
 * Weights are never expanded whole: a unit is GEMM_UNIT output columns, and a thread unpacks GEMM_KC rows of a unit
 * into its own scratch, where GEMM_ROWS rows of X meet it. Activations are packed once and shared.
 *
 * Rounding: every element of Y is one chain of fused multiply-adds over k inside a k-block, the blocks added in order;
 * block borders depend on the piece lengths alone. So a result depends neither on the number of rows nor of threads,
 * and is the same on AVX2 and AVX-512. (The portable kernel rounds products first, where the compiler has no FMA.)
 *
 * For few rows (decoding; gemm_isa.dot_rows) linear.c uses gemm_isa.dot instead: weights unpacked to registers, never
 * stored. They come with integer activations too (gemm_int_isa), on request: half the work, and a rounding of x.
 */
#ifndef CYC_CPU_GEMM_H
#define CYC_CPU_GEMM_H
#include "base/dtype.h"

enum {
    GEMM_UNIT = 32,  /* output columns unpacked at once: one block of the 32-wide formats in either orientation */
    GEMM_KC = 256,   /* most rows of an unpacked unit: 256 x 16 x 4 = 16 KB (AVX2), x 32 = 32 KB (AVX-512) stay in L1.
                      * Exactly a super-block of the K formats, so blocks of those never straddle two. */
    GEMM_ROWS = 256, /* rows at a time: x GEMM_KC x 4 = 256 KB of packed activations, half a Zen 3's L2. More rows take
                      * their weights' unpacking (3 %) again rather than stream activations from L3 (10 %). */
    GEMM_PIECES = 5,
    GEMM_OUTS = 5,
    GEMM_BLOCKS = 64,    /* most k-blocks packed at once */
    GEMM_PACK = 1 << 18, /* most floats of packed activations: 1 MB */
    GEMM_DOT_ROWS = 32,  /* the largest dot_rows of any instruction set */
    GEMM_DOT_SPAN = 48   /* rows of W that meet one group of x rows after the other: both lie in L1 */
};

/* A weight matrix: t: stored [columns of Y][k] (forward), else [k][columns of Y]. ld: elements from row to row. */
struct gemm_w {
    const void *p; /* NULL: the output does not take this piece */
    dtype dt;
    int64_t ld;
    bool t;
    float scale; /* F32 only; 1 elsewhere */
};

struct gemm_piece {
    const float *x;
    int64_t ld, k;
    bool after;
};

struct gemm_out {
    float *y;
    int64_t ld, n;
    const float *bias; /* NULL where `add` */
    bool add;          /* to what is in y */
    struct gemm_w w[GEMM_PIECES];
};

struct gemm {
    int64_t m;
    int pieces, outs, threads;
    bool turned; /* pieces are stored [k][m] */
    struct gemm_piece piece[GEMM_PIECES];
    struct gemm_out out[GEMM_OUTS];
};

void gemm_run(const struct gemm *g, void *scratch);
size_t gemm_scratch(void); /* whatever the shapes */

/* Z[r, n] += scale * P[k, r]^T Q[k, n], all f32, k the tokens: the low-rank gradients. P and Q are read where they lie.
 * transposed: Z is stored [n, r]. A list runs in one parallel region; r: the largest of the list. */
struct gemm_outer {
    const float *p, *q;
    float *z;
    int64_t k, r, n, ldp, ldq, ldz;
    bool transposed;
    float scale;
};
void gemm_outers(const struct gemm_outer *list, int count, int threads, void *scratch);
size_t gemm_outers_scratch(int64_t r);

/* Rows of x rounded to integers: x[i] = steps[i] * q[i], but for half a step. */
struct gemm_ints {
    int16_t *q;  /* [rows, k], in an order that only `round` and `dot` know */
    float *sums; /* [rows, k / 32]: of each 32 integers */
    float *steps;
};

/* Few rows: y[i, o] = x_i . W_o + t_i . B_o + bias_o for o in [o0, o1), i < rows. W as stored [O, k]. */
struct gemm_dot {
    const float *x, *t, *b, *bias; /* t, b, bias: may be NULL; t is already scaled */
    const void *w;
    float *y;
    dtype dt;
    int rows;
    size_t row_bytes; /* of W; gemm_dots() sets it */
    int64_t k, r, ldx, ldw, ldt, ldb, ldy, o0, o1;
    struct gemm_ints ints; /* q not NULL: taken in place of x */
};

void gemm_dots(const struct gemm_dot *d); /* on the calling thread */

/* What an instruction set provides. A unit's panel layout: GEMM_UNIT / nr panels, each [kc][nr]. */
struct gemm_isa {
    int mr, nr;
    int dot_rows, dot_group; /* up to how many rows gemm_dots() is the faster way; the most rows that dot() takes */
    /* c[mr, cols] (+)= a^T b: a[k][i] at a[k * lda + i], b[k][j] at b[k * ldb + j]; cols <= nr */
    void (*tile)(int mr, int cols, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                 int64_t ldc, bool add);
    /* rows (<= mr) x k of x into dst[k][rows] */
    void (*pack)(const float *x, int64_t ld, int rows, int64_t k, float *dst);
    /* columns n0 .. n0+cols, k-rows k0 .. k0+kc of w into the panels at dst; tmp: GEMM_UNIT x GEMM_KC floats */
    void (*unpack)(const struct gemm_w *w, int64_t n0, int cols, int64_t k0, int64_t kc, float *dst, float *tmp);
    void (*dot)(const struct gemm_dot *d);
};
extern const struct gemm_isa gemm_generic, gemm_avx2, gemm_avx512;
void gemm_few_avx2(const struct gemm_dot *d), gemm_few_avx512(const struct gemm_dot *d); /* their dot() */
const struct gemm_isa *gemm_isa(void);

/* Dot products with integer activations. */
struct gemm_int_isa {
    void (*round)(const float *x, int64_t k, int16_t *q, float *sums, float *step); /* one row; step is NaN where x has a value that is not finite */
    void (*dot)(const struct gemm_dot *d); /* as many rows as gemm_isa.dot_group */
};
extern const struct gemm_int_isa gemm_vnni;
const struct gemm_int_isa *gemm_int_isa(void); /* NULL where this machine has no fast ones */
bool gemm_takes_ints(dtype dt, int64_t k);

#endif
