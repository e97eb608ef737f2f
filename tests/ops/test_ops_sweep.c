/* The op sweep: every op of ops.def, forward and backward, on every instruction set that this machine has, against the
 * op's slow definition; and each definition's backward against finite differences of its forward.
 *
 * One row of `rows` per forward op: a builder that makes the operands for a shape and emits the op. The rest follows:
 * the op's vjp appends the backward instructions, the definitions are run, and each instruction is then checked alone:
 *   - outputs and scratch are filled with NaN first and end in guard bytes; activations are column slices (ld >
 * columns)
 *   - GRAD outputs and STATE start with numbers, so adding is told from writing
 *   - one, two and three threads and a second run are bit-equal; so is each in-place form that op->inplace allows
 *   - error at most 8 eps sqrt(K) * the tensor's largest value, K the length of the longest sum (0: must be equal)
 *   - a NaN planted in the first operand comes out wherever the definition has one
 * then with activations, adapters and caches in bf16 and f16 on operands rounded to them, within 8 of their eps; the definitions too. Caches
 * are also of another type than the rest.
 * With CYC_TEST_DEVICE=cuda the same operands go to the card instead (ctest label `cuda`), under the same limits.
 *   - finite differences: along a random direction per trained or needed operand, within 1 % of the gradient's norm */
#include "core/wide.h"
#include "cpu/cpu.h"
#include "ops/ops.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "support/support.h"

enum { VALUES = 96, SEQS = 6, GUARD = 64 };
static int PAD = 5; /* floats between the rows of a slice; 8 on a card, where a quantised table's rows go to 16-byte places */
static const struct backend *card; /* NULL: the CPU's instruction sets are tested */
static const char *only;           /* the shape to which a run is confined: a race checker has no time for all */

struct shape {
    const char *name;
    int seqs;
    int64_t len[SEQS], C;
    int H, K, D;
    bool for_card; /* nothing new to a processor in f32 */
};
#ifdef __SANITIZE_ADDRESS__ /* sanitizers see ends of memory; the numbers are checked without them, where all this is fast */
enum { SANITIZED = true };
#define ALIGNED {9, 21} /* every stored type runs in this shape */
#else
enum { SANITIZED = false };
#define ALIGNED {32, 128}
#endif
enum { WIDE = DTYPE_BLOCK_MAX };
static const struct shape shapes[] = {
    {"no sequence", 0, {0}, 32, 2, 1, 16, false},
    {"zero tokens", 2, {0, 0}, 32, 2, 1, 16, false},
    {"one", 1, {1}, 1, 1, 1, 2, false},
    {"prime", 5, {7, 1, 13, 0, 3}, 37, 6, 2, 10, false},
    {"small", 2, {5, 11}, 64, 4, 2, 32, false},
    {"aligned", 2, ALIGNED, 256, 2, 2, 64, false},
    {"ragged", 4, {65, 3, 0, 130}, 96, 6, 2, 64, false},
    {"head of 80", 1, {70}, 160, 2, 1, 80, false},
    {"head of 128", 2, {1, 66}, 32, 1, 1, 128, false},
    {"head of 256", 2, {17, 8}, 64, 2, 1, 256, false},
    {"many rows", 3, {217, 3, 100}, 72, 2, 1, 32, true}, /* a card's fused products begin at 256 */
    {"one row", 1, {1}, 256, 2, 1, 16, true},            /* .. and its matrix-vector products end at 16 */
    {"three rows", 1, {3}, 256, 2, 1, 16, true},
    {"nine rows", 2, {4, 5}, 256, 2, 1, 16, true},
    {"sixteen rows", 1, {16}, 256, 2, 1, 16, true},
    {"wide", 1, {3}, WIDE, 2, 1, 16, false}, /* for types whose blocks fit no other shape */
    {"many wide rows", 2, {257, 3}, WIDE, 2, 1, 16, true},
};

/* A program of a few instructions and the contents of its values, by value index. */
struct lab {
    struct prog p;
    const struct shape *s;
    dtype dt; /* of weights and tables */
    int variant;
    uint32_t rng;
    struct run_ctx run;
    int64_t N;
    double terms;       /* K of the tolerance */
    double cancelled;   /* size of terms that cancel in the result, where it is larger than the result */
    int loss_outs;      /* outputs of the forward op that a loss may depend on */
    bool loss_is_first; /* ... or: the loss is out[0][0] itself */
    void *data[VALUES];
    size_t bytes[VALUES];
    val din[MAX_IN];
    size_t param_off;
    bool planted; /* a NaN is among the inputs */
    dtype narrow; /* bf16 or f16 in place of f32, or DT_NONE; ... */
    enum { ALL, CACHES, ALL_BUT_CACHES } what_is_narrow;
    char what[160];
};

struct row {
    const struct op_def *op;
    void (*build)(struct lab *l);
    int variants;
    bool weights; /* sweep the dtype */
};

/* --- operands -------------------------------------------------------------------------------------------------- */

static uint32_t random_bits(struct lab *l) {
    l->rng += 1;
    return philox(12345, l->rng, 0, 0, 0).v[0];
}
static float random_float(struct lab *l) { return 3 * philox_unit(random_bits(l)) - 1.5f; }
static int64_t below(struct lab *l, int64_t n) { return (int64_t)(random_bits(l) % (uint32_t)n); }

static int64_t rows_of(const struct lab *l, val v) {
    struct view w = prog_view(&l->p, v, NULL);
    int64_t n = 1;
    for (int i = 0; i + 1 < w.nd; i++) n *= w.d[i];
    return w.nd == 1 ? w.d[0] : n;
}
static int64_t ld_of(const struct lab *l, val v) {
    const struct value *x = prog_v(&l->p, v);
    return x->nd == 1 ? 1 : x->nd == 2 ? x->ld : x->d[x->nd - 1];
}

/* Memory for a value; 2-D f32 activations become column slices. All NaN. */
static void allocate(struct lab *l, val v) {
    struct value *x = prog_v(&l->p, v);
    assert_true(v.i < VALUES);
    if (x->nd == 2 && x->dt == DT_F32 && (x->role == ROLE_ACT || x->role == ROLE_INPUT)) x->ld = x->d[1] + PAD;
    size_t row = x->nd == 2 && x->ld == x->d[1] ? dtype_row_bytes(x->dt, x->d[1]) : (size_t)ld_of(l, v) * 4;
    l->bytes[v.i] = (size_t)rows_of(l, v) * row;
    l->data[v.i] = malloc(l->bytes[v.i] + GUARD);
    assert_non_null(l->data[v.i]);
    memset(l->data[v.i], 0xFF, l->bytes[v.i] + GUARD);
}

static val give(struct lab *l, enum role role, dtype dt, int nd, const int64_t *d, const char *name) {
    val v = role == ROLE_INPUT ? prog_input(&l->p, dt, nd, d, name) : prog_value(&l->p, role, dt, nd, d, name);
    assert_true(has(v));
    allocate(l, v);
    return v;
}

/* The f32 elements that count: rows x cols at ld. */
static float *element(const struct lab *l, val v, void *base, int64_t k) {
    const struct value *x = prog_v(&l->p, v);
    int64_t cols = x->nd == 1 ? 1 : x->d[x->nd - 1];
    return (float *)base + k / cols * ld_of(l, v) + k % cols;
}
static int64_t elements(const struct lab *l, val v) {
    const struct value *x = prog_v(&l->p, v);
    return rows_of(l, v) * (x->nd == 1 ? 1 : x->d[x->nd - 1]);
}
static void fill(struct lab *l, val v) {
    const int64_t n = elements(l, v);
    for (int64_t k = 0; k < n; k++) *element(l, v, l->data[v.i], k) = random_float(l);
}

static val floats(struct lab *l, enum role role, int nd, const int64_t *d, const char *name) {
    val v = give(l, role, DT_F32, nd, d, name);
    fill(l, v);
    return v;
}
/* An activation [N, cols] that wants a gradient. */
static val activation_of(struct lab *l, int64_t rows, int64_t cols, const char *name) {
    val v = floats(l, ROLE_INPUT, 2, (int64_t[]){rows, cols}, name);
    prog_v(&l->p, v)->needs = true;
    return v;
}
static val activation(struct lab *l, int64_t cols, const char *name) { return activation_of(l, SYM_N, cols, name); }
static val param(struct lab *l, int nd, const int64_t *d, const char *name) {
    val v = floats(l, ROLE_PARAM, nd, d, name);
    prog_v(&l->p, v)->needs = true;
    prog_v(&l->p, v)->off = prog_v(&l->p, v)->grad = l->param_off;
    l->param_off += 1 << 20;
    return v;
}
static val ints(struct lab *l, int64_t d, const char *name, int64_t limit) {
    val v = give(l, ROLE_INPUT, DT_I32, 1, &d, name);
    for (int64_t k = 0; k < rows_of(l, v); k++) ((int32_t *)l->data[v.i])[k] = (int32_t)below(l, limit);
    return v;
}
/* A frozen matrix of the lab's type; quantised ones are random bits. */
static val weight(struct lab *l, int64_t rows, int64_t cols, const char *name) {
    val v = give(l, ROLE_BASE, l->dt, 2, (int64_t[]){rows, cols}, name);
    if (cols % dtype_info[l->dt].block) flunk("%s: rows of %lld are no whole blocks of %s", l->what, (long long)cols, dtype_info[l->dt].name);
    if (dtype_quantised(l->dt)) {
        uint32_t bits = l->rng; /* the other operands are the same for every type */
        random_blocks(l->dt, l->data[v.i], rows * cols, 0.4f, &bits);
        return v;
    }
    float *row = malloc((size_t)cols * sizeof *row);
    assert_non_null(row);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) row[c] = random_float(l) / 4;
        quantise_row(l->dt, row, (uint8_t *)l->data[v.i] + (size_t)r * dtype_row_bytes(l->dt, cols), cols);
    }
    free(row);
    return v;
}

/* --- rows ------------------------------------------------------------------------------------------------------ */

static void emit(struct lab *l, const struct op_def *op, const val *in, const struct op_attr *a) {
    if (!prog_emit(&l->p, op, in, op->n_in, a)) flunk("%s: %s", l->what, err_text());
}

/* Variants: plain, with a factor; a trained table (f32). Some ids are no rows of the table. */
static void build_embed(struct lab *l) {
    const bool trained = l->variant == 2;
    if (trained && l->dt != DT_F32) return;
    val in[] = {ints(l, SYM_N, "ids", 11), trained ? param(l, 2, (int64_t[]){11, l->s->C}, "table") : weight(l, 11, l->s->C, "table")};
    for (int64_t n = 3; n < l->N; n += 5) ((int32_t *)l->data[in[0].i])[n] = n % 3 ? 11 + (int32_t)n * 100 : -(int32_t)n;
    bool sum = l->dt == DT_Q4_1 || l->dt == DT_Q5_1 || l->dt == DT_Q2_K || l->dt == DT_Q4_K || l->dt == DT_Q5_K;
    l->terms = trained ? (double)l->N : sum ? 1 : 0; /* d * q + m may round once or twice */
    l->loss_outs = trained;
    emit(l, &op_embed, in, &(struct op_attr){.scale = l->variant ? 1.5f : 1});
}

/* Variants: a trained table over rows that want a gradient, the same over frozen rows, a table that other ops made over either, a
 * frozen table. A third of the ids name its rows, some none. */
static void build_overlay(struct lab *l) {
    const int64_t C = l->s->C, P = 4, d[] = {P, C};
    val in[] = {activation(l, C, "x"), ints(l, SYM_N, "ids", 18), {0}};
    prog_v(&l->p, in[0])->needs = l->variant % 2 == 0;
    in[2] = l->variant < 2 ? param(l, 2, d, "table") : activation_of(l, P, C, "table");
    if (l->variant == 4) prog_v(&l->p, in[2])->needs = false;
    l->terms = (double)l->N;
    l->loss_outs = 1;
    emit(l, &op_overlay, in, &(struct op_attr){.first = 12});
}

/* Ascending ids of the replaced, all below n. */
static val replaced(struct lab *l, int64_t R, int64_t n) {
    val v = ints(l, R, "which", 1);
    for (int64_t r = 0; r < R; r++) ((int32_t *)l->data[v.i])[r] = (int32_t)(r * (n - 1) / (R > 1 ? R - 1 : 1));
    return v;
}

/* Variants: one replacement, four. */
static void build_find_rows(struct lab *l) {
    emit(l, &op_find_rows, (val[]){ints(l, SYM_N, "ids", 11), replaced(l, l->variant ? 4 : 1, 11)}, NULL);
}

static void build_put_columns(struct lab *l) {
    const int64_t V = 3 * l->s->C, R = l->variant ? 3 : 1;
    val z = activation(l, V, "logits"), own = activation(l, R, "own");
    prog_v(&l->p, z)->needs = prog_v(&l->p, own)->needs = false;
    emit(l, &op_put_columns, (val[]){z, own, replaced(l, R, V)}, NULL);
}

/* Variants: RMSNorm with a frozen and a trained weight, LayerNorm with both trained, RMSNorm and LayerNorm per head. */
static void build_norm(struct lab *l) {
    const bool center = l->variant == 2 || l->variant == 4, trained = l->variant != 0, apart = l->variant > 2;
    const int64_t heads = apart ? l->s->H : 1, D = apart ? l->s->D : l->s->C, C = heads * D;
    val x = activation(l, C, "x"), w = trained ? param(l, 1, &D, "w") : floats(l, ROLE_BASE, 1, &D, "w"), bias = {0};
    if (center) bias = param(l, 1, &D, "bias");
    l->terms = (double)(D + l->N * heads);
    for (int64_t k = 0; k < l->N * heads; k++) { /* dx is what is left of dy w rstd without its part along x */
        double ss = 1e-30, mean = 0;
        for (int64_t c = 0; c < D; c++) mean += center ? *element(l, x, l->data[x.i], k * D + c) / (double)D : 0;
        for (int64_t c = 0; c < D; c++) ss += pow(*element(l, x, l->data[x.i], k * D + c) - mean, 2);
        l->cancelled = fmax(l->cancelled, 1.5 * 1.5 * fmin(sqrt((double)D / ss), 1 / sqrt(1e-5)) * (center ? 2 : 1));
    }
    l->loss_outs = 1;
    emit(l, &op_norm, (val[]){x, w, bias}, &(struct op_attr){.eps = 1e-5f, .heads = (int)heads, .center = center});
}

/* Variants: one plain output; three with two deltas and a bias; dropout; no gradient to x; sizes that a card's fused products take.
 * From 5 on trained matrices and biases: two of three beside a frozen one, with deltas; biases alone; a matrix and nothing below;
 * all of a group, in a card's sizes. Last, with and without dropout, deltas of which A is frozen: their backward has no x. */
static void build_linear(struct lab *l) {
    static const struct {
        int n, rank[3];
        float dropout;
        bool bias, dx;
        unsigned trained, trained_bias; /* bit k: output k's */
        bool frozen_a;
    } kinds[] = {{1, {0}, 0, false, true, 0, 0, false},
                 {3, {4, 0, 3}, 0, true, true, 0, 0, false},
                 {2, {8, 1}, 0.3f, false, true, 0, 0, false},
                 {1, {5}, 0, false, false, 0, 0, false},
                 {3, {8, 0, 16}, 0, true, true, 0, 0, false},
                 {3, {4, 0, 3}, 0, false, true, 5, 6, false},
                 {2, {0}, 0, false, true, 0, 3, false},
                 {1, {0}, 0, false, false, 1, 1, false},
                 {3, {8, 0, 16}, 0, false, true, 7, 5, false},
                 {3, {8, 0, 16}, 0, false, true, 0, 0, true},
                 {2, {3, 2}, 0.3f, false, true, 0, 0, true}};
    const bool fused = l->variant == 4 || l->variant == 8 || l->variant == 9;
    const int64_t C = l->s->C, eights = fused ? 8 : 1, O[] = {C + (fused ? 8 : 3), eights, 2 * C};
    const unsigned trained = kinds[l->variant].trained, trained_bias = kinds[l->variant].trained_bias;
    if (l->dt != DT_F32 && trained == (1u << kinds[l->variant].n) - 1) return; /* nothing is of the lab's type */
    struct op_attr a = {.n = kinds[l->variant].n, .dropout = kinds[l->variant].dropout, .site = 5};
    val in[LIN_IN] = {{0}};
    int64_t R = 0;
    in[LIN_X] = activation(l, C, "x");
    prog_v(&l->p, in[LIN_X])->needs = kinds[l->variant].dx;
    for (int k = 0; k < a.n; k++) {
        in[LIN_W + k] = trained >> k & 1 ? param(l, 2, (int64_t[]){O[k], C}, "w") : weight(l, O[k], C, "w");
        if (kinds[l->variant].bias && k == 0) in[LIN_BIAS + k] = floats(l, ROLE_BASE, 1, &O[k], "bias");
        if (trained_bias >> k & 1) in[LIN_BIAS + k] = param(l, 1, &O[k], "bias");
        R += a.rank[k] = kinds[l->variant].rank[k];
        a.alpha[k] = 0.5f + (float)k;
        if (a.rank[k]) in[LIN_B + k] = param(l, 2, (int64_t[]){O[k], a.rank[k]}, "B");
    }
    if (R) in[LIN_A] = param(l, 2, (int64_t[]){R, C}, "A");
    if (R && kinds[l->variant].frozen_a) prog_v(&l->p, in[LIN_A])->needs = false;
    in[LIN_SAMPLE] = ints(l, SYM_N, "sample", 1000);
    in[LIN_POS] = ints(l, SYM_N, "pos", 1000);
    l->terms = (double)(C + l->N + R); /* of the longest sum: over C, over tokens, over all outputs (dx), over ranks */
    for (int k = 0; k < a.n; k++) l->terms += (double)O[k];
    l->cancelled = C == 1 || (trained_bias >> 1 && O[1] == 1); /* no larger element beside one whose terms cancel */
    l->loss_outs = a.n;
    emit(l, &op_linear, in, &a);
}

/* T alone: of a group, with dropout. */
static void build_low(struct lab *l) {
    const int64_t C = l->s->C, O[] = {C + 8, 2 * C}, R = 16 + 8;
    struct op_attr a = {.n = 2, .rank = {16, 8}, .alpha = {0.5f, 1.5f}, .dropout = l->variant ? 0.3f : 0, .site = 5};
    val in[LIN_IN] = {[LIN_X] = activation(l, C, "x"), [LIN_A] = param(l, 2, (int64_t[]){R, C}, "A")};
    for (int k = 0; k < a.n; k++) in[LIN_W + k] = weight(l, O[k], C, "w"), in[LIN_B + k] = param(l, 2, (int64_t[]){O[k], a.rank[k]}, "B");
    in[LIN_SAMPLE] = ints(l, SYM_N, "sample", 1000);
    in[LIN_POS] = ints(l, SYM_N, "pos", 1000);
    l->terms = (double)C;
    l->cancelled = C == 1;
    emit(l, &op_linear, in, &a);
    for (int k = 0; k < a.n; k++) l->p.in[0].out[k] = (val){0};
}

/* Several adapters' deltas in one product, rows weighing them; some weights are 0. Variants: members that leave an output out; sizes that a
 * card's fused products take. */
static void build_mixed(struct lab *l) {
    static const uint16_t ranks[][2][3] = {{{3, 0, 2}, {0, 4, 1}}, {{8, 8, 0}, {8, 0, 24}}};
    const int64_t C = l->s->C, O[] = {C + (l->variant ? 8 : 3), 2 * C};
    struct op_attr a = {.n = 2, .members = 3};
    val in[LIN_IN] = {{0}};
    int64_t R = 0;
    in[LIN_X] = activation(l, C, "x");
    for (int k = 0; k < a.n; k++) {
        for (int m = 0; m < a.members; m++) a.rank[k] += a.member_rank[k][m] = ranks[l->variant][k][m];
        in[LIN_W + k] = weight(l, O[k], C, "w");
        in[LIN_B + k] = param(l, 2, (int64_t[]){O[k], a.rank[k]}, "B");
        prog_v(&l->p, in[LIN_B + k])->needs = false;
        a.alpha[k] = 0.5f + (float)k;
        R += a.rank[k];
    }
    in[LIN_A] = param(l, 2, (int64_t[]){R, C}, "A");
    in[LIN_MIX] = activation(l, a.members, "mix");
    prog_v(&l->p, in[LIN_X])->needs = prog_v(&l->p, in[LIN_A])->needs = prog_v(&l->p, in[LIN_MIX])->needs = false;
    for (int64_t k = 0; k < elements(l, in[LIN_MIX]); k += 1 + k % 3) *element(l, in[LIN_MIX], l->data[in[LIN_MIX].i], k) = 0;
    l->terms = (double)(C + R);
    l->cancelled = C == 1;
    emit(l, &op_linear, in, &a);
}

/* A card's matrix-vector products: groups of mixed types whose last step is a part of one where the type's blocks allow it. Variants: more
 * steps than warps; more units than multiprocessors, x unaligned; units of three tiles, two a multiprocessor. */
static void build_few(struct lab *l) {
    static const int64_t outputs[][3] = {{33, 1, 48}, {2200, 7, 50}, {8500, 7, 300}}, steps[] = {18, 1, 2};
    const dtype dt = l->dt, types[] = {dt, dtype_info[dt].block == 256 ? DT_Q6_K : DT_Q8_0, DT_BF16};
    const int64_t block = dtype_info[dt].block, part = block < 8 ? 8 : block, C = 256 * steps[l->variant] / part * part + part,
                  *O = outputs[l->variant];
    if (!card || l->N < 1 || l->N > 16 || l->s->C < 256) return;
    struct op_attr a = {.n = C % 32 ? 1 : 3};
    val in[LIN_IN] = {{0}};
    const int pad = PAD;
    if (l->variant == 1) PAD = 4;
    in[LIN_X] = activation(l, C, "x");
    PAD = pad;
    for (int k = 0; k < a.n; k++) {
        l->dt = types[k];
        in[LIN_W + k] = weight(l, O[k], C, "w");
        if (k != 1) in[LIN_BIAS + k] = floats(l, ROLE_BASE, 1, &O[k], "bias");
    }
    l->dt = dt;
    l->terms = (double)C;
    emit(l, &op_linear, in, &a);
}

/* The definition takes the angle in double, the kernels round it to f32 as the models' own code does: pos eps. */
static void build_rope(struct lab *l) {
    val x = activation(l, (int64_t)l->s->H * l->s->D, "x"), pos = ints(l, SYM_N, "pos", 500);
    const int rotated = l->variant < 4 || l->s->D < 4 ? l->s->D : l->s->D / 4 * 2; /* from 4 on: half of a head, and a factor */
    int64_t half = rotated / 2;
    val freq = floats(l, ROLE_BASE, 1, &half, "freq");
    for (int64_t j = 0; j < half; j++) ((float *)l->data[freq.i])[j] = powf(10000, -(float)j / (float)half);
    struct op_attr a = {
        .heads = l->s->H, .head_dim = l->s->D, .interleaved = l->variant & 1, .inverse = l->variant & 2};
    if (l->variant >= 4) a.rope_dims = rotated, a.scale = 1.25f;
    l->terms = 500.0 * 500 / 64;
    l->loss_outs = 1;
    emit(l, &op_rope, (val[]){x, pos, freq}, &a);
}

static struct op_attr heads(const struct lab *l) {
    return (struct op_attr){
        .heads = l->s->H, .kv_heads = l->s->K, .head_dim = l->s->D, .scale = 1 / sqrtf((float)l->s->D)};
}

/* The bounds of sequences that are len[s] long. */
static val bounds(struct lab *l, const int64_t *len, const char *name) {
    val cu = ints(l, SYM_S1, name, 1);
    for (int s = 0; s < l->s->seqs; s++) ((int32_t *)l->data[cu.i])[s + 1] = ((int32_t *)l->data[cu.i])[s] + (int32_t)len[s];
    return cu;
}

/* Variants: causal, not causal, window and soft-cap, a window of more than a tile, soft-cap without a mask, a bias by
 * distance with and without a mask (8 buckets; T5's 32), keys of another text, whose sequences are the same ones in another order, and
 * of one with another number of rows, where some rows find no key and some keys are for no row; every query with every key. */
static void build_attention(struct lab *l) {
    struct op_attr a = heads(l);
    a.causal = l->variant != 1 && l->variant != 4 && l->variant < 6;
    val bias = {0}, cu_k = {0};
    int64_t keys[SEQS], M = 0;
    if (l->variant == 2) a.window = 4, a.softcap = 2;
    if (l->variant == 3) a.window = 67;
    if (l->variant == 4) a.softcap = 1.5f;
    for (int s = 0; s < l->s->seqs; M += keys[s++]) {
        keys[s] = l->s->len[l->s->seqs - 1 - s];
        if (l->variant == 8) keys[s] = s % 3 == 1 ? 0 : keys[s] + 5;
    }
    if (l->variant == 9) M = 11;
    l->p.cap[-SYM_M] = M;
    const int64_t rows = l->variant == 9 ? M : l->variant < 7 ? SYM_N : SYM_M, width = (int64_t)a.kv_heads * a.head_dim;
    val q = activation(l, (int64_t)a.heads * a.head_dim, "q"), k = activation_of(l, rows, width, "k"), v = activation_of(l, rows, width, "v");
    val cu = l->variant == 9 ? (val){0} : bounds(l, l->s->len, "cu");
    l->terms = (double)(l->N + M + a.head_dim);
    /* one key alone: dq = dk = 0, what is left of two equal sums of a head's terms */
    if (l->N == 1 || l->variant >= 7) l->cancelled = 1.5 * 1.5 * 1.5 * sqrt(a.head_dim) * a.scale;
    l->loss_outs = 1;
    if (l->variant == 5) a.buckets = 8, a.distance = 40;
    if (l->variant == 6) a.buckets = 32, a.distance = 128;
    if (a.buckets) bias = floats(l, ROLE_BASE, 2, (int64_t[]){a.buckets, a.heads}, "bias");
    if (l->variant == 7 || l->variant == 8) cu_k = bounds(l, keys, "cu k");
    emit(l, &op_attention, (val[]){q, k, v, cu, cu_k, bias}, &a);
}

static void build_add(struct lab *l) {
    val in[] = {activation(l, l->s->C, "a"), activation(l, l->s->C, "b")};
    l->loss_outs = 1;
    emit(l, &op_add, in, NULL);
}

/* Variants: a frozen vector, a trained one, one that is computed; the latter two with no gradient to x; a trained bias beside a computed one; one number
 * for all, without a bias and with one; one number that is trained, and one that is computed. */
static void build_scale(struct lab *l) {
    const int64_t C = l->s->C, scales = l->variant > 7 ? 1 : C;
    const bool computed = l->variant == 2 || l->variant == 4 || l->variant == 5 || l->variant == 9, none = l->variant == 6 || l->variant == 7;
    val x = activation(l, C, "x"), by = none ? (val){0} : l->variant && !computed ? param(l, 1, &scales, "l") : floats(l, l->variant ? ROLE_INPUT : ROLE_BASE, 1, &scales, "l");
    val bias = l->variant == 5 || l->variant == 7 ? param(l, 1, &C, "bias") : (val){0};
    prog_v(&l->p, x)->needs = l->variant < 3 || l->variant >= 5;
    if (has(by)) prog_v(&l->p, by)->needs = l->variant > 0;
    l->terms = (double)(l->N * (scales == 1 ? C : 1));
    l->loss_outs = 1;
    emit(l, &op_scale, (val[]){x, by, bias}, &(struct op_attr){.scale = l->variant % 2 ? 0.75f : l->variant == 6 ? -1.75f : 0});
}

/* Variants: ranks below, at and beyond a vector. ||W||^2 is large enough for the parts never to cancel. */
static void build_magnitude(struct lab *l) {
    static const int64_t ranks[] = {1, 5, 16, 21};
    const int64_t O = l->s->C, r = ranks[l->variant];
    val m = param(l, 1, &O, "m"), w2 = floats(l, ROLE_BASE, 1, &O, "w2"), P = floats(l, ROLE_BASE, 2, (int64_t[]){r, O}, "P");
    val B = param(l, 2, (int64_t[]){O, r}, "B"), G = floats(l, ROLE_BASE, 2, (int64_t[]){r, r}, "G");
    prog_v(&l->p, B)->needs = false; /* to the gradient the norm is a constant */
    for (int64_t o = 0; o < O; o++) ((float *)l->data[w2.i])[o] += 2 * 1.5f * 1.5f * 1.5f * (float)(r * r + 2 * r) + 2;
    l->terms = (double)(r * r + r);
    l->loss_outs = 1;
    emit(l, &op_magnitude, (val[]){m, w2, P, B, G, {0}}, &(struct op_attr){.scale = 0.75f});
}

/* Variants: each activation, gated with moderate and with large gates, then alone. */
static void build_glu(struct lab *l) {
    const int kind = l->variant / 3, form = l->variant % 3;
    val in[] = {activation(l, l->s->C, "gate"), {0}};
    if (form < 2) in[1] = activation(l, l->s->C, "up");
    for (int64_t k = 0; k < elements(l, in[0]); k += 9) *element(l, in[0], l->data[in[0].i], k) *= form ? 80 : 4;
    for (int64_t k = 0; k < elements(l, in[0]) && kind == ACT_RELU; k++) { /* finite differences do not see a kink */
        float *g = element(l, in[0], l->data[in[0].i], k);
        *g += fabsf(*g) < 0.1f ? 0.5f : 0;
    }
    l->terms = 4;
    l->loss_outs = 1;
    emit(l, &op_glu, in, &(struct op_attr){.act = (enum activation)kind});
}

/* Variants: a gradient to each slice, to the first alone. */
static void build_split(struct lab *l) {
    struct op_attr a = {.n = 3, .width = {l->s->D, 1, (int)l->s->C}};
    l->loss_outs = l->variant ? 1 : 3;
    emit(l, &op_split, (val[]){activation(l, l->s->C + l->s->D + 1, "x")}, &a);
}

static void build_softcap(struct lab *l) {
    val x = activation(l, 3 * l->s->C, "logits");
    prog_v(&l->p, x)->needs = false;
    for (int64_t k = 0; k < elements(l, x); k += 5) *element(l, x, l->data[x.i], k) *= 100;
    l->terms = 1;
    emit(l, &op_softcap, &x, &(struct op_attr){.softcap = 3});
}

/* Variants: half of the rows count, none does, half with capped logits; a trained classifier of few labels, a trained matrix with a
 * frozen bias over a frozen backbone, a trained bias alone; a forward pass without gradients; trained replacements of three rows, the
 * same of one over a frozen backbone with capped logits and a bias; replacements in a forward pass; squared errors from a table of targets:
 * under a trained classifier of five numbers, and of one with a bias over a frozen backbone. Where W is trained it is f32. */
static void build_head_loss(struct lab *l) {
    const bool squares = l->variant > 9, trained = l->variant == 3 || l->variant == 4 || squares, biased = l->variant == 3 || l->variant == 5 || l->variant == 11;
    const bool frozen = l->variant == 4 || l->variant == 5 || l->variant == 8 || l->variant == 11, own = l->variant > 6 && !squares;
    const bool backward = l->variant != 6 && l->variant != 9;
    const int64_t V = l->variant == 3 || l->variant == 10 ? 5 : l->variant == 11 ? 1 : 101, C = l->s->C, targets = 3;
    if (trained && l->dt != DT_F32) return;
    val in[HEAD_IN] = {activation(l, C, "x"), trained ? param(l, 2, (int64_t[]){V, C}, "w") : weight(l, V, C, "w"), ints(l, SYM_N, "label", squares ? targets : V),
                floats(l, ROLE_INPUT, 1, (int64_t[]){SYM_N}, "weight")};
    if (squares) in[7] = floats(l, ROLE_INPUT, 2, (int64_t[]){targets, V}, "target");
    if (own) in[5] = param(l, 2, (int64_t[]){l->variant == 8 ? 1 : 3, C}, "rows"), in[6] = replaced(l, l->variant == 8 ? 1 : 3, V);
    if (frozen) prog_v(&l->p, in[0])->needs = false;
    if (biased) in[4] = param(l, 1, &V, "bias");
    if (l->variant == 4 || l->variant == 8) in[4] = floats(l, ROLE_BASE, 1, &V, "bias");
    for (int64_t n = 0; n < l->N; n++) {
        float *w = (float *)l->data[in[3].i] + n;
        *w = l->variant == 1 || n % 2 ? 0 : fabsf(*w);
    }
    l->terms = (double)(C + l->N + V);
    l->loss_is_first = backward;
    emit(l, &op_head_loss, in, &(struct op_attr){.softcap = l->variant == 2 || l->variant == 4 || l->variant == 8 ? 2 : 0, .backward = backward});
    for (int k = 2; k < 6 && l->p.ni; k++)
        if (has(l->p.in[0].out[k]) != (backward && (k == 2 ? !frozen : k == 3 ? trained : k == 5 ? own : biased)))
            flunk("%s: gradient %d", l->what, k - 2);
}

/* Beside a low-rank delta: half of the rows count, under a cap; over a frozen backbone, of which t alone wants a gradient; a frozen B and an odd
 * rank; beside a trained W with a bias; a forward pass. */
static void build_head_delta(struct lab *l) {
    static const struct { int r; bool dx, dt, db, dw, backward; float cap; } kinds[] = {{4, true, true, true, false, true, 2},
                                                                                       {8, false, true, true, false, true, 0},
                                                                                       {3, true, true, false, false, true, 0},
                                                                                       {16, true, true, true, true, true, 0},
                                                                                       {4, true, true, true, false, false, 0}};
    const int64_t V = l->variant == 3 ? 5 : 104, C = l->s->C, r = kinds[l->variant].r;
    if (kinds[l->variant].dw && l->dt != DT_F32) return;
    val in[HEAD_IN] = {activation(l, C, "x"), kinds[l->variant].dw ? param(l, 2, (int64_t[]){V, C}, "w") : weight(l, V, C, "w"), ints(l, SYM_N, "label", V),
                       floats(l, ROLE_INPUT, 1, (int64_t[]){SYM_N}, "weight")};
    in[HEAD_T] = activation(l, r, "t"), in[HEAD_B] = param(l, 2, (int64_t[]){V, r}, "B");
    if (kinds[l->variant].dw) in[4] = param(l, 1, &V, "bias");
    prog_v(&l->p, in[0])->needs = kinds[l->variant].dx;
    prog_v(&l->p, in[HEAD_T])->needs = kinds[l->variant].dt;
    prog_v(&l->p, in[HEAD_B])->needs = kinds[l->variant].db;
    for (int64_t n = 0; n < l->N; n++) {
        float *w = (float *)l->data[in[3].i] + n;
        *w = n % 2 ? 0 : fabsf(*w);
    }
    l->terms = (double)(C + l->N + V + r);
    l->loss_is_first = kinds[l->variant].backward;
    emit(l, &op_head_loss, in, &(struct op_attr){.softcap = kinds[l->variant].cap, .alpha = {1.5f}, .backward = kinds[l->variant].backward});
    const bool want[] = {kinds[l->variant].dx, kinds[l->variant].dw, kinds[l->variant].dw, false, kinds[l->variant].dt, kinds[l->variant].db};
    for (int k = 2; k < HEAD_OUT && l->p.ni; k++)
        if (has(l->p.in[0].out[k]) != (want[k - 2] && kinds[l->variant].backward)) flunk("%s: gradient %d", l->what, k - 2);
}

/* Rows whose ids differ, in no order, and what a distribution might give them. */
static void remembered(struct lab *l, val *in, int64_t k, int64_t V) {
    const int64_t d[] = {SYM_N, k};
    in[HEAD_TOP] = give(l, ROLE_INPUT, DT_I32, 2, d, "top");
    in[HEAD_LOGP] = floats(l, ROLE_INPUT, 2, d, "logp");
    for (int64_t n = 0; n < l->N; n++) {
        double sum = 1e-4;
        const int64_t first = below(l, V);
        for (int64_t j = 0; j < k; j++) sum += exp((double)*element(l, in[HEAD_LOGP], l->data[in[HEAD_LOGP].i], n * k + j));
        for (int64_t j = 0; j < k; j++) {
            *element(l, in[HEAD_LOGP], l->data[in[HEAD_LOGP].i], n * k + j) -= (float)log(k < V ? sum * 1.25 : sum - 1e-4);
            ((int32_t *)l->data[in[HEAD_TOP].i])[n * k + j] = (int32_t)((first + 2 * j) % V); /* V is odd */
        }
    }
}

/* Terms beside the cross-entropy: smoothing and z-loss under a cap; those of a trained classifier with a bias. A teacher's logits, by KL forward, KL
 * reverse (capped, both), Jensen-Shannon with all terms (the rows' own distance among them), and in a forward pass; its remembered ids by each of the three, under a cap; all of a small vocabulary. */
static void build_head_terms(struct lab *l) {
    static const struct { struct loss_terms l; float cap; int k; bool teacher, few, no_backward; } kinds[] = {
        {{.smoothing = 0.1f, .z = 0.01f}, 2, 0, false, false, false},
        {{.smoothing = 0.2f, .z = 0.02f}, 0, 0, false, true, false},
        {{.share = 0.5f, .beta = 0, .temperature = 2}, 0, 0, true, false, false},
        {{.share = 1, .beta = 1, .temperature = 1, .teacher_cap = 3}, 2, 0, true, false, false},
        {{.smoothing = 0.1f, .z = 0.01f, .share = 0.7f, .beta = 0.3f, .temperature = 1.5f, .hidden = 0.6f}, 0, 0, true, false, false},
        {{.share = 1, .beta = 0.5f, .temperature = 1, .hidden = 2}, 0, 0, true, false, true},
        {{.share = 0.5f, .beta = 0, .temperature = 2}, 0, 7, false, false, false},
        {{.share = 0.5f, .beta = 1, .temperature = 1.5f}, 0, 30, false, false, false},
        {{.smoothing = 0.1f, .share = 0.75f, .beta = 0.4f, .temperature = 1.25f}, 2, 7, false, false, false},
        {{.share = 1, .beta = 0, .temperature = 2}, 0, 5, false, true, false}};
    const bool few = kinds[l->variant].few, backward = !kinds[l->variant].no_backward;
    const int64_t V = few ? 5 : 101, C = l->s->C, k = kinds[l->variant].k;
    if (few && l->dt != DT_F32) return;
    val in[HEAD_IN] = {activation(l, C, "x"), few ? param(l, 2, (int64_t[]){V, C}, "w") : weight(l, V, C, "w"), ints(l, SYM_N, "label", V),
                       floats(l, ROLE_INPUT, 1, (int64_t[]){SYM_N}, "weight")};
    if (few) in[4] = param(l, 1, &V, "bias");
    if (kinds[l->variant].teacher) {
        in[HEAD_TX] = activation(l, C, "teacher x"), in[HEAD_TW] = weight(l, V + 3, C, "teacher w");
        prog_v(&l->p, in[HEAD_TX])->needs = false;
    }
    if (k) remembered(l, in, k, V);
    for (int64_t n = 0; n < l->N; n++) {
        float *w = (float *)l->data[in[3].i] + n;
        *w = n % 2 ? 0 : fabsf(*w);
    }
    l->terms = (double)(C + l->N + V);
    l->loss_is_first = backward;
    emit(l, &op_head_loss, in, &(struct op_attr){.softcap = kinds[l->variant].cap, .loss = kinds[l->variant].l, .backward = backward});
}

static void build_dropout(struct lab *l) {
    val in[] = {activation(l, l->s->C, "x"), ints(l, SYM_N, "sample", 1000), ints(l, SYM_N, "pos", 1000)};
    l->terms = 2;
    l->loss_outs = 1;
    emit(l, &op_dropout, in, &(struct op_attr){.dropout = l->variant ? 0.7f : 0.1f, .site = 3});
}

/* Variants: every row of a sequence, all but its first two. */
static void build_noise(struct lab *l) {
    val in[] = {activation(l, l->s->C, "x"), bounds(l, l->s->len, "cu"), ints(l, SYM_N, "sample", 1000), ints(l, SYM_N, "pos", 1000)};
    l->terms = 1;
    l->loss_outs = 1;
    emit(l, &op_noise, in, &(struct op_attr){.alpha = {5}, .n = 2 * l->variant});
}

static void build_gather(struct lab *l) {
    int64_t rows = l->N;
    val in[] = {activation(l, l->s->C, "x"), ints(l, rows ? SYM_S : 0, "rows", rows ? rows : 1)};
    if (rows) emit(l, &op_gather, in, NULL);
}

/* Rows of five slots; no two rows share a cell. */
static void cache_of(struct lab *l, val *cache, val *slot, val *pos) {
    const int apart = l->variant >= 4 ? 150 : 16; /* far enough that a row is divided among blocks */
    const int64_t d[] = {5, l->s->K, l->N / 5 + 4 * apart + 6, l->s->D};
    cache[0] = floats(l, ROLE_STATE, 4, d, "cache k");
    cache[1] = floats(l, ROLE_STATE, 4, d, "cache v");
    *slot = ints(l, SYM_N, "slot", 1);
    *pos = ints(l, SYM_N, "pos", 1);
    for (int64_t n = 0; n < l->N; n++) {
        ((int32_t *)l->data[slot->i])[n] = (int32_t)(n * 3 % 5);
        ((int32_t *)l->data[pos->i])[n] = (int32_t)(n / 5 + n % 5 * apart); /* 0 to beyond a tile of keys */
    }
}

/* Ids up to `limit`: of a vocabulary, and beyond it those of virtual tokens. */
static val history_of(struct lab *l, int64_t slots, int64_t length, int64_t limit) {
    val v = give(l, ROLE_STATE, DT_I32, 2, (int64_t[]){slots, length}, "history");
    for (int64_t k = 0; k < slots * length; k++) ((int32_t *)l->data[v.i])[k] = (int32_t)below(l, limit);
    return v;
}

static void build_kv_append(struct lab *l) {
    int64_t cols = (int64_t)l->s->K * l->s->D;
    val k = activation(l, cols, "k"), v = activation(l, cols, "v"), cache[2], slot, pos;
    cache_of(l, cache, &slot, &pos);
    emit(l, &op_kv_append, (val[]){k, v, slot, pos, cache[0], cache[1]}, NULL);
}

/* The same as positions that go from one slot to another: what is read is in slots 0 and 1, what is written in 2 to 4. Variants: numbers, ids. */
static void build_cache_copy(struct lab *l) {
    val cache[2], from = ints(l, SYM_N, "from", 2), to, pos;
    cache_of(l, cache, &to, &pos);
    for (int64_t n = 0; n < l->N; n++) { /* no cell is written twice, but with its own contents: a card has no order */
        const bool room = n / 3 < l->N / 5 + 6;
        if (!room) ((int32_t *)l->data[from.i])[n] = 0;
        ((int32_t *)l->data[to.i])[n] = room ? (int32_t)(2 + n % 3) : 0;
        ((int32_t *)l->data[pos.i])[n] = room ? (int32_t)(n / 3) : 0;
    }
    if (l->variant) cache[0] = history_of(l, 5, l->N / 5 + 6, 1000);
    emit(l, &op_cache_copy, (val[]){cache[0], from, to, pos}, NULL);
}

static void build_remember(struct lab *l) {
    val ids = ints(l, SYM_N, "ids", 1000), slot = ints(l, SYM_N, "slot", 1), pos = ints(l, SYM_N, "pos", 1);
    for (int64_t n = 0; n < l->N; n++) ((int32_t *)l->data[slot.i])[n] = (int32_t)(n % 5), ((int32_t *)l->data[pos.i])[n] = (int32_t)(n / 5);
    emit(l, &op_remember, (val[]){ids, slot, pos, history_of(l, 5, l->N / 5 + 1, 1000)}, NULL);
}

static void build_store(struct lab *l) {
    val x = activation(l, l->s->C, "x");
    emit(l, &op_store, (val[]){x, floats(l, ROLE_STATE, 2, (int64_t[]){SYM_N, l->s->C}, "state")}, NULL);
}

/* Copies, to the bit. */
static void build_stash(struct lab *l) {
    val x = activation(l, l->s->C, "x");
    prog_v(&l->p, x)->needs = false;
    emit(l, &op_stash, &x, NULL);
}

static void build_fetch(struct lab *l) {
    val h = floats(l, ROLE_HOST, 2, (int64_t[]){SYM_N, l->s->C}, "h");
    emit(l, &op_fetch, &h, NULL);
}

/* Variants: of what came back, of what has left. */
static void build_await(struct lab *l) {
    const int64_t d[] = {SYM_N, l->s->C};
    val in[] = {floats(l, l->variant ? ROLE_HOST : ROLE_INPUT, 2, d, "copy"), l->variant ? floats(l, ROLE_INPUT, 2, d, "x") : (val){0}};
    emit(l, &op_await, in, NULL);
}

static void build_attention_cached(struct lab *l) {
    struct op_attr a = heads(l);
    static const int windows[] = {0, 3, 66, 0, 0, 400, 0};
    a.window = windows[l->variant], a.softcap = l->variant == 1 ? 2 : 0;
    a.causal = true;
    val bias = {0};
    if (l->variant == 3) a.buckets = 8, a.distance = 40;
    if (l->variant == 6) a.buckets = 32, a.distance = 128;
    if (a.buckets) bias = floats(l, ROLE_BASE, 2, (int64_t[]){a.buckets, a.heads}, "bias");
    val q = activation(l, (int64_t)a.heads * a.head_dim, "q"), cache[2], slot, pos;
    cache_of(l, cache, &slot, &pos);
    l->terms = (double)(l->N + 606 + a.head_dim);
    emit(l, &op_attention_cached, (val[]){q, cache[0], cache[1], slot, pos, bias}, &a);
}

/* Variants: greedy with ties, plain, top-k, top-p, both; one likely id and a tail that together weighs as much; min-p, so little of it that all
 * ids are asked (its log-probability under other logits), all three. */
static void build_sample(struct lab *l) {
    static const struct sampling how[] = {{.temperature = 0, .top_p = 1},
                                          {.temperature = 0.7f, .top_p = 1},
                                          {.temperature = 1.3f, .top_p = 1, .top_k = 7},
                                          {.temperature = 1, .top_p = 0.8f},
                                          {.temperature = 2, .top_p = 0.5f, .top_k = 20},
                                          {.temperature = 1, .top_p = 0.9f},
                                          {.temperature = 1.5f, .top_p = 1, .min_p = 0.1f},
                                          {.temperature = 3, .top_p = 1, .min_p = 1e-4f},
                                          {.temperature = 2, .top_p = 0.95f, .top_k = 50, .min_p = 0.2f}};
    l->run.sampling = how[l->variant];
    val in[] = {activation(l, 3 * l->s->C, "logits"), ints(l, SYM_N, "sample", 1000), ints(l, SYM_N, "pos", 1000),
                l->variant == 7 ? activation(l, 3 * l->s->C, "raw") : (val){0}};
    for (int64_t k = 0; k < elements(l, in[0]); k++) {
        float *z = element(l, in[0], l->data[in[0].i], k);
        *z = l->variant == 5 ? (k % (3 * l->s->C) ? -7.5f : 0) : l->variant ? 3 * *z : floorf(*z);
    }
    l->terms = (double)(3 * l->s->C);
    l->cancelled = 1; /* the log of a sum >= 1 */
    emit(l, &op_sample, in, NULL);
}

/* Variants: penalty and least length in decoding, in prefill (rows of several tokens; nothing made yet), of log-probabilities, those alone. */
static void build_process(struct lab *l) {
    const int64_t V = 3 * l->s->C, length = 40;
    const bool rows = l->variant == 1;
    val in[PROC_IN] = {[PROC_Z] = rows ? activation_of(l, SYM_S, V, "logits") : activation(l, V, "logits")};
    l->run.sampling = (struct sampling){.penalty = l->variant ? 0.8f : 1.3f, .min_new = 6, .eos = (int)V / 2};
    l->terms = (double)V;
    if (l->variant < 3) {
        in[PROC_HISTORY] = history_of(l, 5, length, V + V / 4 + 1);
        in[PROC_SLOT] = ints(l, SYM_N, "slot", 5), in[PROC_POS] = ints(l, SYM_N, "pos", length);
        if (rows) in[PROC_ROWS] = ints(l, SYM_S, "rows", l->N ? l->N : 1);
        else in[PROC_BEGIN] = ints(l, SYM_N, "begin", length);
    }
    if (!rows || l->N) emit(l, &op_process, in, &(struct op_attr){.normalise = l->variant >= 2});
}

/* With ties. Variants: one, a few, as many as there can be. */
static void build_top(struct lab *l) {
    static const int most[] = {1, 8, TOP_MOST};
    const int64_t V = 3 * l->s->C;
    val z = activation(l, V, "logits");
    for (int64_t k = 0; k < elements(l, z); k++) *element(l, z, l->data[z.i], k) = floorf(16 * *element(l, z, l->data[z.i], k));
    emit(l, &op_top, &z, &(struct op_attr){.n = most[l->variant] < V ? most[l->variant] : (int)V});
}

static const struct row rows[] = {
    {&op_embed, build_embed, 3, true},          {&op_norm, build_norm, 5, false},
    {&op_overlay, build_overlay, 5, false},     {&op_find_rows, build_find_rows, 2, false},
    {&op_put_columns, build_put_columns, 2, false},
    {&op_linear, build_mixed, 2, true},         {&op_linear, build_low, 2, false},
    {&op_linear, build_linear, 11, true},       {&op_rope, build_rope, 8, false},
    {&op_linear, build_few, 3, true},
    {&op_attention, build_attention, 10, false}, {&op_add, build_add, 1, false},
    {&op_glu, build_glu, 15, false},            {&op_head_loss, build_head_loss, 12, true},
    {&op_head_loss, build_head_delta, 5, true}, {&op_head_loss, build_head_terms, 10, false},
    {&op_noise, build_noise, 2, false},
    {&op_dropout, build_dropout, 2, false},
    {&op_gather, build_gather, 1, false},       {&op_kv_append, build_kv_append, 1, false},
    {&op_cache_copy, build_cache_copy, 2, false}, {&op_remember, build_remember, 1, false},
    {&op_process, build_process, 4, false},     {&op_top, build_top, 3, false},
    {&op_sample, build_sample, 9, false},       {&op_attention_cached, build_attention_cached, 7, false},
    {&op_split, build_split, 2, false},         {&op_softcap, build_softcap, 1, false},
    {&op_scale, build_scale, 10, false},
    {&op_magnitude, build_magnitude, 4, false}, {&op_store, build_store, 1, false},
    {&op_stash, build_stash, 1, false},         {&op_fetch, build_fetch, 1, false},
    {&op_await, build_await, 2, false},
};

/* --- running one instruction ----------------------------------------------------------------------------------- */

/* The operands of one launch. Owned copies: every output, STATE inputs, an input that out[0] lies in. */
struct launch {
    struct view in[MAX_IN], out[MAX_OUT];
    void *own_in[MAX_IN], *own_out[MAX_OUT];
};

static void *copy(const struct lab *l, val v) {
    void *p = malloc(l->bytes[v.i] + GUARD);
    assert_non_null(p);
    memcpy(p, l->data[v.i], l->bytes[v.i] + GUARD);
    return p;
}

static struct launch prepare(const struct lab *l, const struct inst *i, int alias) {
    struct launch x = {0};
    for (int k = 0; k < i->op->n_in; k++) {
        x.in[k] = prog_view(&l->p, i->in[k], NULL);
        if (!has(i->in[k])) continue;
        x.in[k].p = l->data[i->in[k].i];
        if (prog_v(&l->p, i->in[k])->role == ROLE_STATE || k == alias) x.in[k].p = x.own_in[k] = copy(l, i->in[k]);
    }
    for (int k = 0; k < i->op->n_out; k++) {
        x.out[k] = prog_view(&l->p, i->out[k], NULL);
        if (!has(i->out[k])) continue;
        x.out[k].p = x.own_out[k] = copy(l, i->out[k]);
        if (prog_v(&l->p, i->out[k])->role != ROLE_GRAD) memset(x.out[k].p, 0xFF, l->bytes[i->out[k].i]);
    }
    if (alias >= 0) x.out[0].p = x.in[alias].p;
    return x;
}

static void release(struct launch *x) {
    for (int k = 0; k < MAX_IN; k++) free(x->own_in[k]);
    for (int k = 0; k < MAX_OUT; k++) free(x->own_out[k]);
}

static bool untouched(const void *p, size_t n) {
    for (size_t k = 0; k < n; k++)
        if (((const uint8_t *)p)[k] != 0xFF) return false;
    return true;
}

/* --- the same where memory or types are others ------------------------------------------------------------------- */

/* Is the value of the compute type? All activations, adapters and caches are; vectors, lse, losses, targets and gradients stay f32. */
static bool narrowed(const struct lab *l, val v) {
    const struct value *x = prog_v(&l->p, v);
    bool statistic = !strcmp(x->name, "lse") || !strcmp(x->name, "rstd") || !strcmp(x->name, "mean") || !strcmp(x->name, "mix") ||
                     !strcmp(x->name, "target") || !strcmp(x->name, "logp");
    const bool cache = x->role == ROLE_STATE && x->nd == 4;
    if (cache ? l->what_is_narrow == ALL_BUT_CACHES : l->what_is_narrow == CACHES) return false;
    return l->narrow && x->dt == DT_F32 && x->nd >= 2 && x->role != ROLE_GRAD && x->role != ROLE_BASE && !statistic;
}

static uint16_t to_16(dtype dt, float x) { return dt == DT_BF16 ? f32_to_bf16(x) : f32_to_f16(x); }
static float from_16(dtype dt, uint16_t x) { return dt == DT_BF16 ? bf16_to_f32(x) : f16_to_f32(x); }

static size_t bytes_there(const struct lab *l, val v) { return narrowed(l, v) ? l->bytes[v.i] / 2 : l->bytes[v.i]; }

/* The host's f32 bytes as the backend has them, or back. The guard travels along. */
static void *send(const struct lab *l, const struct mem_ops *mem, val v, struct view *w) {
    size_t n = l->bytes[v.i] / 4, bytes = bytes_there(l, v);
    uint8_t *host = malloc(bytes + GUARD), *there = mem->take(bytes + GUARD);
    assert_non_null(host);
    assert_non_null(there);
    memset(host + bytes, 0xFF, GUARD);
    if (!narrowed(l, v)) memcpy(host, w->p, bytes);
    else
        for (size_t k = 0; k < n; k++) {
            uint32_t bits;
            memcpy(&bits, (float *)w->p + k, 4);
            ((uint16_t *)host)[k] = bits == 0xFFFFFFFF ? 0xFFFF : to_16(l->narrow, ((float *)w->p)[k]);
        }
    if (mem->upload(there, host, bytes + GUARD)) flunk("%s: %s", l->what, err_text());
    if (narrowed(l, v)) w->dt = l->narrow;
    free(host);
    return there;
}

static void fetch(const struct lab *l, const struct mem_ops *mem, val v, void *there, void *to) {
    size_t n = l->bytes[v.i] / 4, bytes = bytes_there(l, v);
    uint8_t *host = malloc(bytes + GUARD);
    assert_non_null(host);
    if (mem->download(host, there, bytes + GUARD)) flunk("%s: %s", l->what, err_text());
    if (!untouched(host + bytes, GUARD)) flunk("%s: wrote past '%s'", l->what, prog_v(&l->p, v)->name);
    if (!narrowed(l, v)) memcpy(to, host, bytes);
    else
        for (size_t k = 0; k < n; k++) {
            uint16_t bits = ((uint16_t *)host)[k];
            if (bits == 0xFFFF) memset((float *)to + k, 0xFF, 4);
            else ((float *)to)[k] = from_16(l->narrow, bits);
        }
    free(host);
}

/* The kernel and its scratch, as plan.c chooses them. */
static kernel kernel_of(const struct inst *i, const struct backend *b, const struct launch *x, size_t *bytes) {
    kernel run = b->find(i, x->in, x->out);
    if (!run && b == &backend_reference) return wide_reference(i, x->in, x->out, bytes);
    *bytes = run && b->scratch ? b->scratch(i, x->in, x->out) : 0;
    return run;
}

static bool launch_there(const struct lab *l, const struct inst *i, const struct backend *b, struct launch *x, int threads) {
    const struct mem_ops *mem = b->mem;
    struct launch c = *x;
    void *in[MAX_IN] = {0}, *out[MAX_OUT] = {0};
    for (int k = 0; k < i->op->n_in; k++)
        if (has(i->in[k])) in[k] = send(l, mem, i->in[k], &c.in[k]);
    for (int k = 0; k < i->op->n_out; k++) {
        if (!has(i->out[k])) continue;
        for (int a = 0; a < i->op->n_in && k == 0; a++)
            if (has(i->in[a]) && x->in[a].p == x->out[0].p) out[0] = in[a], c.out[0].dt = c.in[a].dt;
        if (!out[k]) out[k] = send(l, mem, i->out[k], &c.out[k]);
    }
    for (int k = 0; k < i->op->n_in; k++) c.in[k].p = in[k];
    for (int k = 0; k < i->op->n_out; k++) c.out[k].p = out[k];
    size_t bytes = 0;
    kernel run = kernel_of(i, b, &c, &bytes);
    uint8_t *scratch = mem->take(bytes + GUARD), guard[GUARD];
    assert_non_null(scratch);
    mem->fill(scratch, 0xFF, bytes + GUARD);
    struct run_ctx ctx = l->run;
    ctx.threads = threads;
    if (run && ((b->begin_run && b->begin_run(&ctx)) || run(&ctx, i, c.in, c.out, scratch))) flunk("%s: %s", l->what, err_text());
    if (mem->download(guard, scratch + bytes, GUARD)) flunk("%s: %s", l->what, err_text());
    if (!untouched(guard, GUARD)) flunk("%s, %s: wrote past its scratch", l->what, i->op->name);
    for (int k = 0; k < i->op->n_out; k++)
        if (has(i->out[k])) fetch(l, mem, i->out[k], out[k], x->out[k].p);
    for (int k = 0; k < i->op->n_in; k++)
        if (x->own_in[k] && prog_v(&l->p, i->in[k])->role == ROLE_STATE) fetch(l, mem, i->in[k], in[k], x->in[k].p);
    for (int k = 0; k < i->op->n_out; k++)
        if (has(i->out[k]) && !(k == 0 && x->out[0].p != x->own_out[0])) mem->give(out[k], bytes_there(l, i->out[k]) + GUARD);
    for (int k = 0; k < i->op->n_in; k++)
        if (in[k]) mem->give(in[k], bytes_there(l, i->in[k]) + GUARD);
    mem->give(scratch, bytes + GUARD);
    return run != NULL;
}

/* --- running it where everything is f32 and the host's -------------------------------------------------------------- */

/* Runs it with poisoned scratch; false when the backend has no kernel for it. */
static bool launch(const struct lab *l, const struct inst *i, const struct backend *b, struct launch *x, int threads) {
    if (l->narrow && b != &backend_reference) return launch_there(l, i, b, x, threads);
    struct view in[MAX_IN], out[MAX_OUT];
    for (int k = 0; k < i->op->n_in; k++) in[k] = prog_view(&l->p, i->in[k], NULL);
    for (int k = 0; k < i->op->n_out; k++) out[k] = prog_view(&l->p, i->out[k], NULL);
    kernel run = b->find(i, in, out);
    size_t bytes = 0;
    if (run) bytes = b->scratch ? b->scratch(i, in, out) : 0;
    else if (b == &backend_reference) {
        run = i->op->ref;
        bytes = i->op->ref_scratch ? i->op->ref_scratch(i, in, out) : 0;
    } else return false;
    uint8_t *scratch = aligned_alloc(64, (bytes + GUARD + 63) / 64 * 64);
    assert_non_null(scratch);
    memset(scratch, 0xFF, bytes + GUARD);
    struct run_ctx ctx = l->run;
    ctx.threads = threads;
    if ((b->begin_run && b->begin_run(&ctx)) || run(&ctx, i, x->in, x->out, scratch)) flunk("%s: %s", l->what, err_text());
    if (!untouched(scratch + bytes, GUARD)) flunk("%s, %s: wrote past its scratch", l->what, i->op->name);
    for (int k = 0; k < i->op->n_out; k++) {
        if (!has(i->out[k])) continue;
        if (!untouched((char *)x->own_out[k] + l->bytes[i->out[k].i], GUARD))
            flunk("%s: wrote past '%s'", l->what, prog_v(&l->p, i->out[k])->name);
    }
    free(scratch);
    return true;
}

/* --- checking one instruction ---------------------------------------------------------------------------------- */

static void compare_ints(const struct lab *l, val v, void *got, void *want) {
    const int64_t n = elements(l, v);
    for (int64_t k = 0; k < n && !l->planted; k++) {
        const int32_t g = *(const int32_t *)(void *)element(l, v, got, k), w = *(const int32_t *)(void *)element(l, v, want, k);
        if (g != w) flunk("%s: %s[%lld] is %d, must be %d", l->what, prog_v(&l->p, v)->name, (long long)k, g, w);
    }
}

static void compare(const struct lab *l, val v, void *got, void *want) {
    if (prog_v(&l->p, v)->dt == DT_I32) {
        compare_ints(l, v, got, want);
        return;
    }
    const int64_t n = elements(l, v);
    double top = l->cancelled, worst = -1;
    int64_t at = 0;
    for (int64_t k = 0; k < n; k++) {
        double w = *element(l, v, want, k);
        if (isfinite(w) && fabs(w) > top) top = fabs(w);
    }
    for (int64_t k = 0; k < n; k++) {
        double g = *element(l, v, got, k), w = *element(l, v, want, k), e = g == w ? 0 : fabs(g - w); /* infinities too */
        if (l->planted) e = isnan(w) && !isnan(g) ? INFINITY : 0;
        else if (isnan(e)) e = INFINITY;
        if (e > worst) worst = e, at = k;
    }
    double eps = l->narrow == DT_BF16 ? 0x1p-8 : l->narrow == DT_F16 ? 0x1p-11 : 0x1p-24 * sqrt(l->terms);
    double limit = 8 * eps * top + (l->terms > 0 || l->narrow ? 1e-30 : 0) + (l->narrow == DT_F16 ? 1e-6 : 0);
    if (worst > limit)
        flunk("%s: %s element %lld is %.9g, must be %.9g: error %.3g, limit %.3g", l->what, prog_v(&l->p, v)->name,
                 (long long)at, (double)*element(l, v, got, at), (double)*element(l, v, want, at), worst, limit);
    for (int64_t r = 0; ld_of(l, v) > prog_v(&l->p, v)->d[1] && prog_v(&l->p, v)->nd == 2 && r < rows_of(l, v); r++)
        if (!untouched((float *)got + r * ld_of(l, v) + prog_v(&l->p, v)->d[1], PAD * sizeof(float)))
            flunk("%s: %s: wrote beyond row %lld of a slice", l->what, prog_v(&l->p, v)->name, (long long)r);
}

/* Bit by bit. */
static void must_equal(const struct lab *l, const struct inst *i, const struct launch *a, const struct launch *b,
                       const char *why) {
    for (int k = 0; k < i->op->n_out; k++) {
        const int64_t n = has(i->out[k]) ? elements(l, i->out[k]) : 0;
        for (int64_t e = 0; e < n; e++)
            if (memcmp(element(l, i->out[k], a->out[k].p, e), element(l, i->out[k], b->out[k].p, e), 4))
                flunk("%s: %s differs %s", l->what, prog_v(&l->p, i->out[k])->name, why);
    }
}

/* On one instruction set, against the definition's results. */
static void check_on(struct lab *l, const struct inst *i, const struct launch *want) {
    struct launch got = prepare(l, i, -1);
    if (launch(l, i, &backend_cpu, &got, 2)) {
        for (int k = 0; k < i->op->n_out; k++)
            if (has(i->out[k])) compare(l, i->out[k], got.out[k].p, want->out[k].p);
        for (int k = 0; k < i->op->n_in; k++)
            if (got.own_in[k]) compare(l, i->in[k], got.in[k].p, want->in[k].p);
        for (int threads = SANITIZED ? 3 : 1; threads <= 3; threads++) {
            struct launch again = prepare(l, i, -1);
            launch(l, i, &backend_cpu, &again, threads);
            must_equal(l, i, &again, &got, "between two runs or numbers of threads");
            release(&again);
        }
        for (int k = 0; k < i->op->n_in; k++) {
            if (!(i->op->inplace >> k & 1) || !has(i->in[k]) || !has(i->out[0])) continue;
            struct launch alias = prepare(l, i, k);
            launch(l, i, &backend_cpu, &alias, 2);
            must_equal(l, i, &alias, &got, "in place");
            release(&alias);
        }
    }
    release(&got);
}

static void check_on_card(struct lab *l, const struct inst *i, const struct launch *want) {
    struct launch got = prepare(l, i, -1), again = prepare(l, i, -1);
    if (!launch_there(l, i, card, &got, 2)) flunk("%s: no kernel for %s", l->what, i->op->name);
    for (int k = 0; k < i->op->n_out; k++)
        if (has(i->out[k])) compare(l, i->out[k], got.out[k].p, want->out[k].p);
    for (int k = 0; k < i->op->n_in; k++)
        if (got.own_in[k]) compare(l, i->in[k], got.in[k].p, want->in[k].p);
    launch_there(l, i, card, &again, 2);
    must_equal(l, i, &again, &got, "between two runs");
    for (int k = 0; k < i->op->n_in; k++) {
        if (!(i->op->inplace >> k & 1) || !has(i->in[k]) || !has(i->out[0])) continue;
        struct launch alias = prepare(l, i, k);
        launch_there(l, i, card, &alias, 2);
        must_equal(l, i, &alias, &got, "in place");
        release(&alias);
    }
    release(&again);
    release(&got);
}

/* The definition of an op in 16 bits is the one in f32, rounded at the store. */
static void check_definition(struct lab *l, const struct inst *i, const struct launch *want) {
    struct launch got = prepare(l, i, -1);
    launch_there(l, i, &backend_reference, &got, 1);
    for (int k = 0; k < i->op->n_out; k++)
        if (has(i->out[k])) compare(l, i->out[k], got.out[k].p, want->out[k].p);
    for (int k = 0; k < i->op->n_in; k++)
        if (got.own_in[k]) compare(l, i->in[k], got.in[k].p, want->in[k].p);
    release(&got);
}

static const char *narrow_text(const struct lab *l) {
    static const char *const text[][3] = {
        {"", "", ""}, {" in bf16", ", caches in bf16", " in bf16 but caches"}, {" in f16", ", caches in f16", " in f16 but caches"}};
    return text[l->narrow == DT_BF16 ? 1 : l->narrow ? 2 : 0][l->what_is_narrow];
}

static void check(struct lab *l, const struct inst *i) {
    char before[sizeof l->what];
    snprintf(before, sizeof before, "%s", l->what);
    struct launch want = prepare(l, i, -1);
    launch(l, i, &backend_reference, &want, 1);
    if (card) {
        snprintf(l->what, sizeof l->what, "%.90s: %s on the card%s", before, i->op->name, narrow_text(l));
        check_on_card(l, i, &want);
        release(&want);
        snprintf(l->what, sizeof l->what, "%s", before);
        return;
    }
    for (enum cpu_isa isa = CPU_GENERIC; isa <= CPU_AVX512; isa++) {
        cpu_cap(isa);
        if (cpu_isa() != isa) continue;
        snprintf(l->what, sizeof l->what, "%.90s: %s on %s%s", before, i->op->name, cpu_isa_name(isa), narrow_text(l));
        check_on(l, i, &want);
    }
    snprintf(l->what, sizeof l->what, "%.90s: definition of %s%s", before, i->op->name, narrow_text(l));
    if (l->narrow) check_definition(l, i, &want);
    release(&want);
    snprintf(l->what, sizeof l->what, "%s", before);
}

/* --- gradients ------------------------------------------------------------------------------------------------- */

/* Runs the definition of instruction i into the lab's own contents. */
static void define(struct lab *l, const struct inst *i) {
    struct launch x = prepare(l, i, -1);
    launch(l, i, &backend_reference, &x, 1);
    for (int k = 0; k < i->op->n_out; k++)
        if (has(i->out[k])) memcpy(l->data[i->out[k].i], x.out[k].p, l->bytes[i->out[k].i]);
    release(&x);
}

/* Appends the backward of instruction 0, with random gradients of its outputs. */
static void differentiate(struct lab *l, val *dout) {
    struct inst forward = l->p.in[0];
    for (int k = 0; k < l->loss_outs; k++) {
        struct value y = *prog_v(&l->p, forward.out[k]);
        dout[k] = floats(l, ROLE_INPUT, y.nd, y.d, "dout");
    }
    if (!forward.op->vjp || !(l->loss_outs || l->loss_is_first)) return;
    if (forward.op->vjp(&l->p, &forward, dout, l->din)) flunk("%s: vjp: %s", l->what, err_text());
    for (int i = 1; i < l->p.ni; i++)
        for (int k = 0; k < l->p.in[i].op->n_out; k++) {
            val v = l->p.in[i].out[k];
            if (!has(v) || l->data[v.i]) continue;
            allocate(l, v);
            if (prog_v(&l->p, v)->role == ROLE_GRAD) memset(l->data[v.i], 0, l->bytes[v.i]);
        }
}

static double loss(struct lab *l, const val *dout) {
    const struct inst *i = &l->p.in[0];
    struct launch x = prepare(l, i, -1);
    launch(l, i, &backend_reference, &x, 1);
    double sum = 0;
    if (l->loss_is_first) sum = view_f32(&x.out[0])[0];
    for (int k = 0; k < l->loss_outs; k++) {
        const int64_t n = elements(l, dout[k]);
        for (int64_t e = 0; e < n; e++) sum += (double)*element(l, i->out[k], x.out[k].p, e) * *element(l, dout[k], l->data[dout[k].i], e);
    }
    release(&x);
    return sum;
}

/* The gradient of operand k of instruction 0: din, or the GRAD value of a parameter. */
static val gradient_of(const struct lab *l, int k) {
    const struct value *v = prog_v(&l->p, l->p.in[0].in[k]);
    for (uint32_t g = 1; v->role == ROLE_PARAM && g < (uint32_t)l->p.nv; g++)
        if (l->p.v[g].role == ROLE_GRAD && l->p.v[g].off == v->off) return (val){g};
    return l->din[k];
}

static void check_gradient(struct lab *l, const val *dout, int k) {
    const val x = l->p.in[0].in[k], g = gradient_of(l, k);
    const int64_t n = elements(l, x);
    const float h = 2e-3f;
    if (!has(g)) flunk("%s: no gradient for '%s'", l->what, prog_v(&l->p, x)->name);
    double along = 0, norm = 0, f[2];
    float *u = malloc((size_t)n * sizeof *u + 1);
    void *keep = copy(l, x);
    assert_non_null(u);
    for (int64_t e = 0; e < n; e++) {
        double ge = *element(l, g, l->data[g.i], e);
        u[e] = random_bits(l) & 1 ? 1 : -1;
        along += ge * u[e];
        norm += ge * ge;
    }
    for (int side = 0; side < 2; side++) {
        for (int64_t e = 0; e < n; e++)
            *element(l, x, l->data[x.i], e) = *element(l, x, keep, e) + (side ? h : -h) * u[e];
        f[side] = loss(l, dout);
    }
    memcpy(l->data[x.i], keep, l->bytes[x.i]);
    double difference = (f[1] - f[0]) / (2 * (double)h), limit = 0.01 * (sqrt(norm) + fabs(along)) + 1e-4;
    if (!(fabs(difference - along) <= limit))
        flunk("%s: gradient of '%s': %.6g, finite differences %.6g, limit %.2g", l->what, prog_v(&l->p, x)->name,
                 along, difference, limit);
    free(u);
    free(keep);
}

/* --- the sweep ------------------------------------------------------------------------------------------------- */

static const struct op_def *seen[64];
static int n_seen;
static void note(const struct op_def *op) {
    for (int i = 0; i < n_seen; i++)
        if (seen[i] == op) return;
    seen[n_seen++] = op;
}

/* Puts a NaN in the first activation. */
static void plant(struct lab *l) {
    val x = l->p.in[0].in[0];
    if (prog_v(&l->p, x)->dt != DT_F32 || !elements(l, x)) return;
    *element(l, x, l->data[x.i], below(l, elements(l, x))) = NAN;
    l->planted = true;
}

/* Rounds what a 16-bit program would hold in 16 bits. */
static void round_value(struct lab *l, val v) {
    const int64_t n = narrowed(l, v) ? elements(l, v) : 0;
    for (int64_t k = 0; k < n; k++) {
        float *x = element(l, v, l->data[v.i], k);
        *x = from_16(l->narrow, to_16(l->narrow, *x));
    }
}

static void check_narrow(struct lab *l) {
    for (uint32_t v = 1; v < (uint32_t)l->p.nv; v++)
        if (l->data[v] && l->p.v[v].def < 0) round_value(l, (val){v});
    define(l, &l->p.in[0]);
    for (int k = 0; k < l->p.in[0].op->n_out; k++)
        if (has(l->p.in[0].out[k])) round_value(l, l->p.in[0].out[k]);
    for (int i = 0; i < l->p.ni; i++) check(l, &l->p.in[i]);
}

/* Of the shapes those in which the processor's kernels meet 16 bits: no row, rows that fill no vector, a block and a rest, several of them. */
static bool few_kinds(const struct shape *s) {
    static const char *const names[] = {"zero tokens", "prime", "ragged", "many rows"};
    for (size_t i = 0; i < (SANITIZED ? 2 : sizeof names / sizeof *names); i++)
        if (!strcmp(s->name, names[i])) return true;
    return false;
}

static void sweep_one(const struct row *r, const struct shape *s, dtype dt, int variant, bool nan) {
    struct lab l = {.s = s, .dt = dt, .variant = variant, .run = {.seed = 7, .step = 3, .sampling = {.top_p = 1}, .threads = 2}};
    for (int k = 0; k < s->seqs; k++) l.N += s->len[k];
    l.p.cap[-SYM_N] = l.N;
    l.p.cap[-SYM_S] = s->seqs;
    l.p.cap[-SYM_S1] = s->seqs + 1;
    snprintf(l.what, sizeof l.what, "%s, %s, %s, variant %d%s", r->op->name, s->name, dtype_info[dt].name, variant,
             nan ? ", with a NaN" : "");
    r->build(&l);
    if (l.p.ni) {
        val dout[MAX_OUT] = {{0}};
        for (int k = 0; k < r->op->n_out; k++) {
            const val y = l.p.in[0].out[k];
            if (!has(y)) continue;
            allocate(&l, y);
            if (prog_v(&l.p, y)->role == ROLE_GRAD) memset(l.data[y.i], 0, l.bytes[y.i]);
        }
        if (nan) plant(&l);
        differentiate(&l, dout);
        for (int i = 0; i < l.p.ni; i++) define(&l, &l.p.in[i]);
        for (int k = 0; k < r->op->n_in && l.N && l.N < 30 && !nan && !SANITIZED && (l.p.ni > 1 || l.loss_is_first); k++)
            if (has(l.p.in[0].in[k]) && prog_v(&l.p, l.p.in[0].in[k])->needs) check_gradient(&l, dout, k);
        for (uint32_t v = 1; v < (uint32_t)l.p.nv; v++)
            if (l.p.v[v].role == ROLE_GRAD) fill(&l, (val){v});
        for (int i = 0; i < l.p.ni; i++) {
            note(l.p.in[i].op);
            check(&l, &l.p.in[i]);
        }
        const bool logits = r->op == &op_sample || r->op == &op_softcap || r->op == &op_process || r->op == &op_top; /* f32 in any program */
        const bool caches = !card && !variant && (r->op == &op_kv_append || r->op == &op_attention_cached);
        const bool halves = !nan && !logits && (card || (few_kinds(s) && (dt == DT_F32 || (dt == DT_BF16 && !variant)))); /* matrices stay what they are */
        for (l.narrow = DT_F16; l.narrow <= DT_BF16 && halves; l.narrow++)
            for (int what = ALL; what <= (caches ? ALL_BUT_CACHES : ALL); what++) {
                l.what_is_narrow = what;
                check_narrow(&l);
            }
    }
    for (int v = 0; v < VALUES; v++) free(l.data[v]);
    prog_free(&l.p);
}

static void sweep(void **state) {
    const struct row *r = *state;
    note(r->op);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        if (!card && shapes[s].for_card && !few_kinds(&shapes[s])) continue;
        if (only && strcmp(only, shapes[s].name)) continue;
        for (dtype dt = DT_F32; dt < DT_COUNT; dt++) {
            if (dt == DT_I32 || (!r->weights && dt != DT_F32) || shapes[s].C % dtype_info[dt].block) continue;
            if (shapes[s].C == WIDE && dtype_info[dt].block < WIDE) continue;
            for (int v = 0; v < r->variants; v++) {
                sweep_one(r, &shapes[s], dt, v, false);
                if (dt == DT_F32 && s % 2 && !SANITIZED) sweep_one(r, &shapes[s], dt, v, true);
            }
        }
    }
}

static void every_op_has_a_row(void **state) {
    (void)state;
    static const struct op_def *const all[] = {
#define OP(name) &op_##name,
#include "ops/ops.def"
#undef OP
    };
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        bool found = false;
        for (int i = 0; i < n_seen; i++) found |= seen[i] == all[k];
        if (!found) flunk("no row of the sweep runs '%s'", all[k]->name);
    }
}

/* Where the program has a card's kernels: small, so that the shapes here have several pieces (cuda/unpacked.h). */
extern size_t cuda_piece_bytes __attribute__((weak));

int main(int argc, char **argv) { /* arguments: only the ops that the first matches, such as 'atten*'; only the shape of that name */
    const char *device = getenv("CYC_TEST_DEVICE");
    if (device) {
        if (backend_pick(device, &card) || card->open()) return fprintf(stderr, "%s\n", err_text()), 77; /* ctest: skipped */
        PAD = 8;
        if (&cuda_piece_bytes) cuda_piece_bytes = 96 << 10;
    }
    enum { ROWS = sizeof rows / sizeof *rows };
    struct CMUnitTest tests[ROWS + 1];
    for (int i = 0; i < ROWS; i++)
        tests[i] = (struct CMUnitTest){rows[i].op->name, sweep, NULL, NULL, (void *)&rows[i]};
    tests[ROWS] = (struct CMUnitTest)cmocka_unit_test(every_op_has_a_row);
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (argc > 2) only = argv[2];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
