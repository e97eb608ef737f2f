/* Instructions that run together (struct backend, span). At plan time the program's list is looked at, place by place, for a row of
 * the table below; values between the instructions of a span must have no reader outside of it, unless they are written.
 *
 * Decoding is bound by the number of launches: a layer is eight of them. A product and what reads it are a span of two: all matrices
 * of a group, and A beside them, are one matrix-vector launch (T = x A^T rides along), and the reader adds the low-rank deltas:
 *   linear q k v, rope, rope, kv_append, attention_cached
 *   linear o (down), add, norm
 *   linear gate up, glu
 * With more rows than the matrix-vector kernel takes, or a type that is not for it, the products are cuBLASLt's; beyond 64 rows the
 * linear runs as it does alone, deltas and all, and the reader has less to do.
 *
 * In every program: add and the norm after it; the rotations of q and k. */
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
    *left = in[LIN_X].d[0] <= MOST;
    if (few(i, in, &in[LIN_X])) return by_matvec(i, in, out);
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

static err attend(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    struct cuda_delta d[3];
    bool left;
    if (!in[LIN_X].d[0]) return OK;
    TRY(products(run, i, in, out, scratch, &left));
    for (int k = 0; k < 3; k++) cuda_delta_of(i, in, out, k, left, &d[k]);
    return cuda_attend_fresh(i, in, out, d, scratch);
}

static err linear_add_norm(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    struct cuda_delta d;
    bool left;
    if (!in[LIN_X].d[0]) return OK;
    TRY(products(run, i, in, out, scratch, &left));
    cuda_delta_of(i, in, out, 0, left, &d);
    return cuda_add_norm(i + 1, IN(1), OUT(1), IN(1)[1].p == out[0].p, &d);
}

static err linear_glu(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    struct cuda_delta d[2];
    bool left;
    if (!in[LIN_X].d[0]) return OK;
    TRY(products(run, i, in, out, scratch, &left));
    for (int k = 0; k < 2; k++) cuda_delta_of(i, in, out, k, left, &d[k]);
    return cuda_glu_delta(i[1].a.act, IN(1), OUT(1), d);
}

static err add_norm(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    return cuda_add_norm(i, in, out, 1, &(struct cuda_delta){.rank = 0});
}

static err rope_pair(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)scratch;
    return cuda_rope_pair(i, in, out);
}

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

static bool is_attend(const struct prog *p, int i, const struct inst *s) {
    if (s[0].a.n != 3 || !decodes(p, s) || s[4].op != &op_attention_cached || has(s[4].in[5])) return false;
    bool wired = same(s[1].in[0], s[0].out[0]) && same(s[2].in[0], s[0].out[1]) && same(s[3].in[0], s[2].out[0]) &&
                 same(s[3].in[1], s[0].out[2]) && same(s[4].in[0], s[1].out[0]);
    wired = wired && same(s[4].in[1], s[3].in[4]) && same(s[4].in[2], s[3].in[5]) && same(s[3].in[3], s[4].in[4]) &&
            same(s[1].in[1], s[4].in[4]) && same(s[2].in[1], s[4].in[4]);
    return wired && plain_rope(&s[1]) && plain_rope(&s[2]) && !s[1].a.inverse && dies(p, i, i + 4) && dies(p, i + 1, i + 4) && dies(p, i + 2, i + 4);
}

static bool norm_follows(const struct inst *add) { return same(add[1].in[0], add->out[0]) && cuda_plain_norm(&add[1]); }

static bool is_linear_add_norm(const struct prog *p, int i, const struct inst *s) {
    return s[0].a.n == 1 && decodes(p, s) && (same(s[1].in[0], s[0].out[0]) || same(s[1].in[1], s[0].out[0])) && norm_follows(&s[1]) &&
           dies(p, i, i + 1);
}

static bool is_linear_glu(const struct prog *p, int i, const struct inst *s) {
    return s[0].a.n == 2 && decodes(p, s) && same(s[1].in[0], s[0].out[0]) && same(s[1].in[1], s[0].out[1]) && dies(p, i, i + 1);
}

static bool is_add_norm(const struct prog *p, int i, const struct inst *s) { return (void)p, (void)i, norm_follows(s); }

static bool is_rope_pair(const struct prog *p, int i, const struct inst *s) {
    (void)p, (void)i;
    return same(s[0].in[1], s[1].in[1]) && same(s[0].in[2], s[1].in[2]) && !same(s[1].in[0], s[0].out[0]) &&
           s[0].a.head_dim == s[1].a.head_dim && s[0].a.rope_dims == s[1].a.rope_dims && s[0].a.interleaved == s[1].a.interleaved &&
           s[0].a.inverse == s[1].a.inverse;
}

static const struct row {
    int n;
    const struct op_def *op[MAX_SPAN];
    bool (*is)(const struct prog *p, int i, const struct inst *s);
    kernel run;
} table[] = {
    {5, {&op_linear, &op_rope, &op_rope, &op_kv_append, &op_attention_cached}, is_attend, attend},
    {3, {&op_linear, &op_add, &op_norm}, is_linear_add_norm, linear_add_norm},
    {2, {&op_linear, &op_glu}, is_linear_glu, linear_glu},
    {2, {&op_add, &op_norm}, is_add_norm, add_norm},
    {2, {&op_rope, &op_rope}, is_rope_pair, rope_pair},
};

int cuda_span(const struct prog *p, int first, kernel *run) {
    for (size_t r = 0; r < sizeof table / sizeof *table; r++) {
        int n = 0;
        while (n < table[r].n && first + n < p->ni && p->in[first + n].op == table[r].op[n]) n++;
        if (n < table[r].n || !table[r].is(p, first, &p->in[first])) continue;
        *run = table[r].run;
        return n;
    }
    return 0;
}
