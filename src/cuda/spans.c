/* Instructions that run together (struct backend, span). At plan time the program's list is looked at, place by place, for a row of
 * the table below; values between the instructions of a span must have no reader outside of it, unless they are written.
 *
 * Decoding is bound by the number of launches: a layer is eight of them. A product and what reads it are a span of two: all matrices
 * of a group, and A beside them, are one matrix-vector launch (T = x A^T rides along), and the reader adds the low-rank deltas:
 *   linear q k v, rope, rope, kv_append, attention_cached
 *   linear o (down), add, norm
 *   linear gate up, glu
 * and the same with a scale of each output behind the linear (DoRA), which is the reader's too.
 * With more rows than the matrix-vector kernel takes, or a type that is not for it, the products are cuBLASLt's; beyond 64 rows the
 * linear runs as it does alone, deltas and all, and the reader has less to do.
 *
 * In every program: add and the norm after it; the rotations of q and k; and of DoRA, whose launches at every linear are small, two
 * products that read the same rows of A, the magnitudes of a group, its scales, and these backward (IA3's scales too). */
#include "cuda/spans.h"
#include "core/plan.h"
#include "cuda/gemm.h"
#include <string.h>

/* --- products that leave their deltas ------------------------------------------------------------------------------------ */
static bool few(const struct inst *i, const struct view *in, const struct view *x) {
    for (int k = 0; k < i->a.n; k++)
        if (!cuda_few_rows(&in[LIN_W + k], x)) return false;
    return !in[LIN_A].p || cuda_few_rows(&in[LIN_A], x);
}

static err by_matvec(const struct inst *i, const struct view *in, struct view *out) {
    const struct view *x = &in[LIN_X], *t = &out[LIN_T];
    struct cuda_matvec m[MAX_GROUP + 1];
    int n = 0;
    for (int k = 0; k < i->a.n; k++) {
        const struct view *b = &in[LIN_B + k];
        m[n] = (struct cuda_matvec){&in[LIN_W + k], in[LIN_BIAS + k].p, x->p, x->dt, out[k].dt, x->d[0], x->ld, out[k].ld, out[k].p, NULL, 0};
        if (i->a.rank[k]) m[n].soon = b->p, m[n].soon_bytes = (int64_t)view_bytes(b);
        n++;
    }
    if (in[LIN_A].p) m[n++] = (struct cuda_matvec){&in[LIN_A], NULL, x->p, x->dt, t->dt, x->d[0], x->ld, t->ld, t->p, NULL, 0};
    TRY(cuda_matvec(m, n));
    return in[LIN_MIX].p ? cuda_weigh(i, &in[LIN_MIX], t) : OK;
}

/* left: the deltas are still to be added. Up to 64 rows the reader adds them for less than launches of their own cost. */
static err products(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch, bool *left) {
    enum { MOST = 64 };
    struct inst base = *i;
    *left = in[LIN_X].d[0] <= MOST && !run->adapters; /* the readers know one adapter's deltas */
    if (!run->adapters && few(i, in, &in[LIN_X])) return by_matvec(i, in, out);
    if (*left) memset(base.a.rank, 0, sizeof base.a.rank);
    return cuda_linear(run, &base, in, out, scratch);
}

void cuda_delta_of(const struct inst *i, const struct view *in, const struct view *out, int k, bool left, struct cuda_delta *d) {
    int64_t first = 0, size = (int64_t)dtype_row_bytes(in[LIN_X].dt, 1);
    for (int j = 0; j < k; j++) first += i->a.rank[j];
    const struct view *t = &out[LIN_T], *b = &in[LIN_B + k];
    *d = (struct cuda_delta){.rank = left ? i->a.rank[k] : 0};
    if (!d->rank) return;
    d->t = (const char *)t->p + first * size, d->b = b->p, d->ldt = t->ld, d->ldb = b->ld, d->alpha = i->a.alpha[k];
    d->wide = (((uintptr_t)d->t | (uintptr_t)d->b | (uintptr_t)(t->ld * size) | (uintptr_t)(b->ld * size) | (uintptr_t)(d->rank * size)) & 15) == 0;
}

/* --- the spans' kernels ----------------------------------------------------------------------------------------------------- */
#define IN(j) (in + (j) * MAX_IN)
#define OUT(j) (out + (j) * MAX_OUT)

/* How many scales stand behind the linear: of all its outputs or of none (scaled_all). */
static int scales_behind(const struct inst *linear) {
    int k = 0;
    while (linear[1 + k].op == &op_scale) k++;
    return k;
}

/* Runs the products and says what each output lacks; the number of scales that its reader takes over in *scales. */
static err lacking(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch, struct cuda_delta *d, int *scales) {
    bool left;
    TRY(products(run, i, in, out, scratch, &left));
    *scales = scales_behind(i);
    for (int k = 0; k < i->a.n; k++) {
        cuda_delta_of(i, in, out, k, left, &d[k]);
        if (*scales) d[k].l = view_f32(&IN(1 + k)[1]), d[k].bias = view_f32(&IN(1 + k)[2]);
    }
    return OK;
}

static err attend(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    struct cuda_delta d[3];
    int k;
    if (!in[LIN_X].d[0]) return OK;
    TRY(lacking(run, i, in, out, scratch, d, &k));
    return cuda_attend_fresh(i + 1 + k, out, IN(1 + k), OUT(1 + k), d, scratch);
}

static err linear_add_norm(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    struct cuda_delta d;
    int k;
    if (!in[LIN_X].d[0]) return OK;
    TRY(lacking(run, i, in, out, scratch, &d, &k));
    const int which = i[1 + k].in[1].i == i[k].out[0].i;
    struct view read[2 * MAX_IN];
    memcpy(read, IN(1 + k), sizeof read);
    read[which] = out[0]; /* the product itself: what is scaled is not written */
    return cuda_add_norm(i + 1 + k, read, OUT(1 + k), which, &d);
}

static err linear_glu(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    struct cuda_delta d[2];
    int k;
    if (!in[LIN_X].d[0]) return OK;
    TRY(lacking(run, i, in, out, scratch, d, &k));
    return cuda_glu_delta(i[1 + k].a.act, out, OUT(1 + k), d);
}

static err add_norm(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    return cuda_add_norm(i, in, out, 1, &(struct cuda_delta){.rank = 0});
}

static err rope_pair(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    return cuda_rope_pair(i, in, out);
}

/* Two products without deltas that share x. */
static err products_of_a(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    if (!few(i, in, &in[LIN_X]) || !few(i + 1, IN(1), &in[LIN_X])) {
        TRY(cuda_linear(run, i, in, out, scratch));
        return cuda_linear(run, i + 1, IN(1), OUT(1), scratch);
    }
    struct cuda_matvec m[2];
    for (int k = 0; k < 2; k++) {
        const struct view *x = &IN(k)[LIN_X], *y = OUT(k);
        m[k] = (struct cuda_matvec){&IN(k)[LIN_W], NULL, x->p, x->dt, y->dt, x->d[0], x->ld, y->ld, y->p, NULL, 0};
    }
    return cuda_matvec(m, 2);
}

/* Instructions of one kind, side by side. */
#define SIDE_BY_SIDE(name, call)                                                                                                    \
    static err name(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {         \
        (void)run, (void)scratch;                                                                                                      \
        return call;                                                                                                                   \
    }
SIDE_BY_SIDE(magnitudes2, cuda_magnitudes(i, in, out, 2))
SIDE_BY_SIDE(magnitudes3, cuda_magnitudes(i, in, out, 3))
SIDE_BY_SIDE(scales2, cuda_scales(i, in, out, 2))
SIDE_BY_SIDE(scales3, cuda_scales(i, in, out, 3))
SIDE_BY_SIDE(scales2_bwd, cuda_scales_bwd(i, in, out, 2, false, scratch))
SIDE_BY_SIDE(scale_magnitude_bwd, cuda_scales_bwd(i, in, out, 1, true, scratch))
SIDE_BY_SIDE(scales2_magnitudes_bwd, cuda_scales_bwd(i, in, out, 2, true, scratch))
SIDE_BY_SIDE(scales3_magnitudes_bwd, cuda_scales_bwd(i, in, out, 3, true, scratch))

/* --- finding them ----------------------------------------------------------------------------------------------------------- */
static bool same(val a, val b) { return has(a) && a.i == b.i; }

/* Do all outputs of instruction i die by `end`? */
static bool dies(const struct prog *p, int i, int end) {
    for (int k = 0; k < p->in[i].op->n_out; k++)
        if (has(p->in[i].out[k]) && prog_v(p, p->in[i].out[k])->last > end) return false;
    return true;
}

/* In programs with a cache only: in training a recomputed block has to be the first one's bits, wherever its spans lie. */
static bool generates(const struct prog *p) {
    for (int v = 1; v < p->nv; v++)
        if (p->v[v].role == ROLE_STATE) return true;
    return false;
}

static bool decodes(const struct prog *p, const struct inst *s) {
    const struct value *w = prog_v(p, s->in[LIN_W]);
    return s->a.dropout == 0 && w->dt != DT_F8 && generates(p);
}

/* The whole head, as it is. */
static bool plain_rope(const struct inst *i) { return (!i->a.rope_dims || i->a.rope_dims == i->a.head_dim) && (i->a.scale == 0 || i->a.scale == 1); }

/* Behind a linear, in a span that ends at `end`: k scales, none or one by a vector of each output in their order, and nothing of it is read later. */
static bool scaled_all(const struct prog *p, int i, const struct inst *s, int k, int end) {
    for (int j = 0; j < k; j++) {
        const struct inst *scale = &s[1 + j];
        if (!same(scale->in[0], s->out[j]) || !has(scale->in[1]) || prog_v(p, scale->in[1])->d[0] != prog_v(p, s->out[j])->d[1] || ops_scale_by(scale) != 1 || !dies(p, i + 1 + j, end))
            return false;
    }
    return (k == 0 || k == s->a.n) && dies(p, i, end);
}

/* Output j of a linear as its readers behind k scales have it. */
static val finished(const struct inst *linear, int k, int j) { return k ? linear[1 + j].out[0] : linear->out[j]; }

static bool is_attend(const struct prog *p, int i, const struct inst *s, int n) {
    const int k = n - 5, end = i + n - 1;
    const struct inst *rope = s + 1 + k, *append = rope + 2, *attention = rope + 3;
    /* a row's block appends that row alone: it must need no other's */
    if (s->a.n != 3 || !decodes(p, s) || attention->a.slot_rows || has(attention->in[5]) || !scaled_all(p, i, s, k, end)) return false;
    bool wired = same(rope[0].in[0], finished(s, k, 0)) && same(rope[1].in[0], finished(s, k, 1)) && same(append->in[0], rope[1].out[0]) &&
                 same(append->in[1], finished(s, k, 2)) && same(attention->in[0], rope[0].out[0]);
    wired = wired && same(attention->in[1], append->in[4]) && same(attention->in[2], append->in[5]) && same(append->in[3], attention->in[4]) &&
            same(rope[0].in[1], attention->in[4]) && same(rope[1].in[1], attention->in[4]);
    return wired && plain_rope(&rope[0]) && plain_rope(&rope[1]) && !rope[0].a.inverse && dies(p, end - 3, end) && dies(p, end - 2, end);
}

static bool norm_follows(const struct inst *add) { return same(add[1].in[0], add->out[0]) && cuda_plain_norm(&add[1]); }

static bool is_linear_add_norm(const struct prog *p, int i, const struct inst *s, int n) {
    const int k = n - 3;
    const struct inst *add = s + 1 + k;
    return s->a.n == 1 && decodes(p, s) && (same(add->in[0], finished(s, k, 0)) || same(add->in[1], finished(s, k, 0))) && norm_follows(add) && scaled_all(p, i, s, k, i + n - 2);
}

static bool is_linear_glu(const struct prog *p, int i, const struct inst *s, int n) {
    const int k = n - 2;
    return s->a.n == 2 && decodes(p, s) && same(s[1 + k].in[0], finished(s, k, 0)) && same(s[1 + k].in[1], finished(s, k, 1)) && scaled_all(p, i, s, k, i + n - 1);
}

static bool is_add_norm(const struct prog *p, int i, const struct inst *s, int n) { return (void)p, (void)i, (void)n, norm_follows(s); }

static bool is_rope_pair(const struct prog *p, int i, const struct inst *s, int n) {
    (void)p, (void)i, (void)n;
    return same(s[0].in[1], s[1].in[1]) && same(s[0].in[2], s[1].in[2]) && !same(s[1].in[0], s[0].out[0]) &&
           s[0].a.head_dim == s[1].a.head_dim && s[0].a.rope_dims == s[1].a.rope_dims && s[0].a.interleaved == s[1].a.interleaved &&
           s[0].a.inverse == s[1].a.inverse;
}

static bool is_products_of_a(const struct prog *p, int i, const struct inst *s, int n) {
    (void)p, (void)i, (void)n;
    for (int k = 0; k < 2; k++)
        if (s[k].a.n != 1 || has(s[k].in[LIN_A]) || has(s[k].in[LIN_BIAS]) || !s[k].a.wide) return false;
    return same(s[0].in[LIN_X], s[1].in[LIN_X]);
}

/* Does instruction j read or write over what instruction k gives? */
static bool feeds(const struct inst *k, const struct inst *j) {
    for (int o = 0; o < k->op->n_out; o++)
        for (int x = 0; x < j->op->n_in; x++)
            if (has(k->out[o]) && same(k->out[o], j->in[x])) return true;
    return false;
}

/* None of n scales waits for another. */
static bool is_scales(const struct prog *p, int i, const struct inst *s, int n) {
    (void)p, (void)i;
    for (int j = 1; j < n; j++)
        for (int k = 0; k < j; k++)
            if (feeds(&s[k], &s[j])) return false;
    return true;
}

/* Sums go over the rows of each column alone: with a vector that is one number, or whose gradient is not wanted, a scale_bwd runs alone. */
static bool is_scales_bwd(const struct prog *p, int i, const struct inst *s, int n) {
    for (int k = 0; k < n; k++)
        if (!has(s[k].in[0]) || !has(s[k].in[1]) || prog_v(p, s[k].in[1])->d[0] != prog_v(p, s[k].in[2])->d[1]) return false;
    return is_scales(p, i, s, n);
}

/* n / 2 scale_bwd, and a magnitude_bwd of each of their dl, which has no other reader. */
static bool is_scales_magnitudes_bwd(const struct prog *p, int i, const struct inst *s, int n) {
    for (int k = 0; k < n / 2; k++) {
        const val dl = s[k].out[2];
        if (!has(dl) || !same(s[n / 2 + k].in[0], dl) || prog_v(p, dl)->last >= i + n) return false;
    }
    return is_scales_bwd(p, i, s, n / 2);
}

static const struct row {
    int n;
    const struct op_def *op[MAX_SPAN];
    bool (*is)(const struct prog *p, int i, const struct inst *s, int n); /* NULL: always */
    kernel run;
} table[] = {
    {5, {&op_linear, &op_rope, &op_rope, &op_kv_append, &op_attention_cached}, is_attend, attend},
    {8, {&op_linear, &op_scale, &op_scale, &op_scale, &op_rope, &op_rope, &op_kv_append, &op_attention_cached}, is_attend, attend},
    {3, {&op_linear, &op_add, &op_norm}, is_linear_add_norm, linear_add_norm},
    {4, {&op_linear, &op_scale, &op_add, &op_norm}, is_linear_add_norm, linear_add_norm},
    {2, {&op_linear, &op_glu}, is_linear_glu, linear_glu},
    {4, {&op_linear, &op_scale, &op_scale, &op_glu}, is_linear_glu, linear_glu},
    {2, {&op_add, &op_norm}, is_add_norm, add_norm},
    {2, {&op_rope, &op_rope}, is_rope_pair, rope_pair},
    {2, {&op_linear, &op_linear}, is_products_of_a, products_of_a},
    {3, {&op_magnitude, &op_magnitude, &op_magnitude}, NULL, magnitudes3},
    {2, {&op_magnitude, &op_magnitude}, NULL, magnitudes2},
    {3, {&op_scale, &op_scale, &op_scale}, is_scales, scales3},
    {2, {&op_scale, &op_scale}, is_scales, scales2},
    {6, {&op_scale_bwd, &op_scale_bwd, &op_scale_bwd, &op_magnitude_bwd, &op_magnitude_bwd, &op_magnitude_bwd}, is_scales_magnitudes_bwd, scales3_magnitudes_bwd},
    {4, {&op_scale_bwd, &op_scale_bwd, &op_magnitude_bwd, &op_magnitude_bwd}, is_scales_magnitudes_bwd, scales2_magnitudes_bwd},
    {2, {&op_scale_bwd, &op_magnitude_bwd}, is_scales_magnitudes_bwd, scale_magnitude_bwd},
    {2, {&op_scale_bwd, &op_scale_bwd}, is_scales_bwd, scales2_bwd},
};

int cuda_span(const struct prog *p, int first, kernel *run) {
    for (size_t r = 0; r < sizeof table / sizeof *table; r++) {
        int n = 0;
        while (n < table[r].n && first + n < p->ni && p->in[first + n].op == table[r].op[n]) n++;
        if (n < table[r].n || (table[r].is && !table[r].is(p, first, &p->in[first], n))) continue;
        *run = table[r].run;
        return n;
    }
    return 0;
}
