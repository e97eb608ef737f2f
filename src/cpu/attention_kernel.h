/* Attention over packed sequences, forward and backward, and over a key/value cache: included once per instruction set
 * (fused_*.c), written against vec.h.
 *
 * Tiles of ATT_Q queries meet tiles of ATT_K keys, and no [T, T] array exists. A score tile is kept TRANSPOSED,
 * s[key][query]: the queries lie in the vector lanes, so the softmax runs down the columns without one horizontal sum,
 * and of all operands only the queries (and dO, backward) need packing, once per tile of queries; keys and values are
 * read where they lie. All seven products are then one routine, multiply(), which takes its left operand by two
 * strides.
 *
 *   forward    s = K Q^T;  online softmax (maximum m, sum l per query; o is rescaled when m moves);  o += p^T V
 *   backward   s and dP = V dO^T again;  p = exp(s - lse);  dS = p * (dP - rowsum(dO * o)) * scale
 *              dV += p dO;  dK += dS Q;  dQ += dS^T K
 *
 * Causal: a tile above the diagonal is never met; in a tile on it, work starts at the first vector of queries that sees
 * the key, and what the mask hides is written as 0, so that every product may run over whole tiles. A window hides
 * what lies further back: tiles beyond it are never met, and those on its edge are masked likewise.
 *
 * Threads take items from a ticket counter. Forward an item is (sequence, tile of queries, head); backward it is
 * (sequence, kv head), so that each row of dk and dv has one writer. A result therefore never depends on the number of
 * threads nor on who took what. Nothing is zeroed first: tile (i, j) of dK and dV is first met on the diagonal.
 *
 * Accumulation: f32 over at most D, ATT_K or T terms. A soft-cap bends scores in place; its slope, backward, comes from
 * the bent score. Cost outside of multiply(), which runs near peak: the exponentials and, for very short sequences,
 * packing. */
#include "cpu/fused.h"
#include "cpu/vec.h"
#include "ops/ops.h"
#include <omp.h>

/* The running maximum before the first key: finite, so that a query whose window has not begun in a tile gets weights of 0
 * and not of exp(inf - inf). */
static const float LEAST = -1e30f;
enum { MR = 6, NV = VW == 16 ? 4 : 2 }; /* multiply(): rows and vectors of one register tile */

/* C[m][n] = (or +=) sum over k of a[m*am + k*ak] * b[k*ldb + n] */
struct product {
    int64_t k;
    const float *a;
    int64_t am, ak;
    const float *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
    bool add;
};

/* One register tile: mr rows, nv vectors (0: the n < VW columns that are left). mr and nv are constants at each call.
 */
static inline __attribute__((always_inline)) void tile(const int mr, const int nv, const struct product *p, int64_t n) {
    const int w = nv ? nv : 1;
    vf acc[MR][NV];
#pragma GCC unroll 6
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
        for (int j = 0; j < w; j++) acc[i][j] = (vf){0};
    const float *a = p->a, *b = p->b;
    const int64_t am = p->am, ak = p->ak, ldb = p->ldb;
    for (int64_t k = p->k; k > 0; k--, a += ak, b += ldb) {
        vf bv[NV];
#pragma GCC unroll 4
        for (int j = 0; j < w; j++) bv[j] = nv ? vf_load(b + j * VW) : vf_load_n(b, n);
#pragma GCC unroll 6
        for (int i = 0; i < mr; i++) {
            vf av = vf_set1(a[i * am]);
#pragma GCC unroll 4
            for (int j = 0; j < w; j++) acc[i][j] = vf_fma(av, bv[j], acc[i][j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
        for (int j = 0; j < w; j++) {
            float *c = p->c + i * p->ldc + j * VW;
            if (p->add) acc[i][j] += nv ? vf_load(c) : vf_load_n(c, n);
            if (nv) vf_store(c, acc[i][j]);
            else vf_store_n(c, acc[i][j], n);
        }
}

static void tile_of(int mr, int nv, const struct product *p, int64_t n) {
#define CASE(m, v)                                                                                                     \
    case (m)*8 + (v):                                                                                                  \
        tile(m, v, p, n);                                                                                              \
        return;
#if defined(__AVX512F__)
#define ROW(m) CASE(m, 0) CASE(m, 1) CASE(m, 2) CASE(m, 3) CASE(m, 4)
#else
#define ROW(m) CASE(m, 0) CASE(m, 1) CASE(m, 2)
#endif
    switch (mr * 8 + nv) { ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) }
#undef ROW
#undef CASE
}

/* The product with m rows and n columns; moves a, b and c of *p. (A copy per call costs more than it looks: a struct
 * just written in pieces and read back in one vector stalls.) Columns outermost: a panel of b stays in L1. */
static void multiply(struct product *p, int64_t m, int64_t n) {
    const float *a = p->a;
    float *c = p->c;
    for (int64_t j = 0; j < n;) {
        int64_t left = n - j, step = NV * VW;
        int nv = NV;
        if (left < step) {
            nv = (int)(left / VW);
            step = nv ? nv * VW : left;
        }
        p->a = a;
        p->c = c + j;
        for (int64_t i = 0; i < m; i += MR, p->a += MR * p->am, p->c += MR * p->ldc)
            tile_of((int)(m - i < MR ? m - i : MR), nv, p, left);
        p->b += step;
        j += step;
    }
}

/* Asks for the rows of a tile before they are needed: short pieces of long rows, which no hardware prefetcher follows.
 */
static inline void prefetch(const float *x, int64_t ldx, int64_t rows, int D) {
    for (int64_t r = 0; r < rows; r++)
        for (int d = 0; d < D; d += 16) __builtin_prefetch(x + r * ldx + d, 0, 2);
}

/* t[d][r] = factor * x[r][d] for r < rows; lanes up to the next vector are 0. Four rows at a time: interleaving them
 * twice leaves, in every 128-bit lane of a vector, four rows of one column. */
static void pack_transposed(const float *x, int64_t ldx, int rows, int D, float factor, float *t) {
    const int padded = (rows + VW - 1) / VW * VW;
    for (int r = 0; r < padded; r += 4) {
        for (int d = 0; d < D; d += VW) {
            vf a[4], b[4];
            for (int i = 0; i < 4; i++) {
                const float *p = x + (r + i) * ldx + d;
                a[i] = r + i >= rows ? (vf){0} : factor * (d + VW <= D ? vf_load(p) : vf_load_n(p, D - d));
            }
            b[0] = vf_zip_low(a[0], a[1]);
            b[1] = vf_zip_low(a[2], a[3]);
            b[2] = vf_zip_high(a[0], a[1]);
            b[3] = vf_zip_high(a[2], a[3]);
            for (int i = 0; i < 2; i++) {
                a[2 * i] = vf_pair_low(b[2 * i], b[2 * i + 1]);
                a[2 * i + 1] = vf_pair_high(b[2 * i], b[2 * i + 1]);
            }
            for (int i = 0; i < VW && d + i < D; i++) vf_store_four(t + (d + i) * ATT_Q + r, a[i % 4], i / 4);
        }
    }
}

/* --- tiles ------------------------------------------------------------------------------------------------------ */

/* Where a tile lies: queries q0 .. q0+nq and keys k0 .. k0+nk of one sequence. Without a mask, lag is so large that
 * every query comes after every key. */
struct place {
    int64_t nq, nk;
    int64_t lag; /* q0 - k0: query r sees key c when c <= r + lag, ... */
    int64_t window; /* ... and c > r + lag - window; without one it is too large to matter */
};
static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
/* Keys that some query below r sees; queries from which on key c is seen. */
static inline int64_t keys_seen(const struct place *t, int64_t r) { return min64(t->nk, t->lag + r); }
static inline int64_t first_query(const struct place *t, int64_t c) { return max64(0, c - t->lag); }

/* Does some query of r .. r+VW not see key c? */
static inline bool edge(const struct place *t, int64_t c, int64_t r) { return c > t->lag + r || c - t->lag - r + t->window < VW; }

/* v in the lanes r .. r+VW whose queries see key c, `hidden` in the others. */
static inline vf seen_or(const struct place *t, int64_t c, int64_t r, vf v, vf hidden) {
    if (c > t->lag + r) v = vf_from(c - t->lag - r, v, hidden);
    const int64_t past = c - t->lag - r + t->window; /* the first lane whose window has left the key behind */
    return past < VW ? vf_from(past, hidden, v) : v;
}

/* s[c][r] = sum over d of x[c][d] * packed[d][r]: scores, or dP. Vectors that the mask hides are left as they were. */
static void keys_by_queries(const struct place *t, const float *x, int64_t ldx, const float *packed, int D, float *s) {
    int64_t padded = (t->nq + VW - 1) / VW * VW;
    for (int64_t c = 0; c < t->nk; c += MR) {
        int64_t r = first_query(t, c) / VW * VW;
        struct product p = {D, x + c * ldx, ldx, 1, packed + r, ATT_Q, s + c * ATT_Q + r, ATT_Q, false};
        multiply(&p, min64(MR, t->nk - c), padded - r);
    }
}

/* y[r][d] (+)= sum over c of s[c][r] * x[c][d]: o from p and V, dQ from dS and K. *p names x, y and whether to add. */
static void queries_from_keys(const struct place *t, const float *s, struct product *p, int D) {
    const float *x = p->b;
    float *y = p->c;
    p->am = 1;
    p->ak = ATT_Q;
    for (int64_t r = 0; r < t->nq; r += MR) {
        int64_t rows = min64(MR, t->nq - r);
        p->k = keys_seen(t, r + rows);
        p->a = s + r;
        p->b = x;
        p->c = y + r * p->ldc;
        multiply(p, rows, D);
    }
}

/* y[c][d] (+)= sum over r of s[c][r] * x[r][d]: dV from p and dO, dK from dS and Q. */
static void keys_from_queries(const struct place *t, const float *s, struct product *p, int D) {
    const float *x = p->b;
    float *y = p->c;
    p->am = ATT_Q;
    p->ak = 1;
    for (int64_t c = 0; c < t->nk; c += MR) {
        int64_t r = first_query(t, c);
        p->k = t->nq - r;
        p->a = s + c * ATT_Q + r;
        p->b = x + r * p->ldb;
        p->c = y + c * p->ldc;
        multiply(p, min64(MR, t->nk - c), D);
    }
}

/* --- items ------------------------------------------------------------------------------------------------------ */

/* The operands of one attention instruction. */
struct attention {
    const struct view *q, *k, *v, *o, *lse, *grad; /* grad: dO */
    const struct view *dq, *dk, *dv;
    const int32_t *cu, *cu_k; /* of queries; of keys */
    const struct view *bias;  /* NULL: none */
    const struct op_attr *attr;
    int64_t S;
    int H, K, D;
    int64_t window;
    float scale, softcap;
    bool causal;
};

/* Sequence s, tile i of its queries, head h: found by walking on from the last one, since tickets only rise. */
struct walk {
    int64_t s, first; /* the sequence and its first ticket */
    int64_t i;
    int h;
};

static bool walk_to(struct walk *w, const struct attention *a, int64_t ticket, int64_t tile_rows, int heads) {
    for (; w->s < a->S; w->s++) {
        int64_t T = max64(a->cu[w->s + 1] - a->cu[w->s], tile_rows == INT32_MAX ? a->cu_k[w->s + 1] - a->cu_k[w->s] : 0),
                n = (T + tile_rows - 1) / tile_rows * heads;
        if (ticket < w->first + n) {
            w->i = (ticket - w->first) / heads;
            w->h = (int)((ticket - w->first) % heads);
            return true;
        }
        w->first += n;
    }
    return false;
}

static int64_t take(int64_t *tickets) {
    int64_t t;
#pragma omp atomic capture
    t = (*tickets)++;
    return t;
}

static inline float *at(const struct view *v, int64_t row, int64_t col) { return view_row(v, row) + col; }

/* T queries, keys keys. */
static inline struct place place_of(const struct attention *a, int64_t T, int64_t keys, int64_t q0, int64_t k0) {
    return (struct place){min64(ATT_Q, T - q0), min64(ATT_K, keys - k0), a->causal ? q0 - k0 : INT32_MAX, a->window};
}

/* The first tile of keys that a query from q0 on sees. */
static inline int64_t first_tile(const struct attention *a, int64_t q0) { return max64(0, q0 - a->window + 1) / ATT_K * ATT_K; }

static void cap_scores(const struct place *t, float cap, float (*s)[ATT_Q]) {
    for (int64_t c = 0; c < t->nk; c++)
        for (int64_t r = first_query(t, c) / VW * VW; r < t->nq; r += VW) vf_store(s[c] + r, vf_tanh(vf_load(s[c] + r) / cap) * cap);
}

/* s += bias by distance. The distances of a tile are consecutive, so they are laid out once, nearest key last: query r and key c
 * are at r - c + ATT_K - 1, and a vector of queries reads neighbours. */
static void add_bias(const struct attention *a, const struct place *t, int64_t q0, int64_t k0, int h, float (*s)[ATT_Q]) {
    float by[ATT_K + ATT_Q + VW];
    for (int64_t i = 0; i < ATT_K + ATT_Q + VW; i++) by[i] = view_row(a->bias, ops_bucket(a->attr, k0 - q0 - (i - ATT_K + 1)))[h];
    for (int64_t c = 0; c < t->nk; c++)
        for (int64_t r = first_query(t, c) / VW * VW; r < t->nq; r += VW) vf_store(s[c] + r, vf_load(s[c] + r) + vf_load(by + r - c + ATT_K - 1));
}

/* --- forward ---------------------------------------------------------------------------------------------------- */

struct forward_tile { /* one thread's scratch, followed by the packed queries [D][ATT_Q] */
    float s[ATT_K][ATT_Q], m[ATT_Q], l[ATT_Q], alpha[ATT_Q];
    float q[];
};

/* Scores to probabilities relative to the running maximum; alpha is what earlier sums must be multiplied with. */
static void online_softmax(const struct place *t, struct forward_tile *f) {
    for (int64_t r = 0; r < t->nq; r += VW) {
        int64_t seen = keys_seen(t, r + VW);
        vf m = vf_load(f->m + r), top = m, sum = {0};
        for (int64_t c = 0; c < seen; c++) {
            vf s = vf_load(f->s[c] + r);
            if (edge(t, c, r)) vf_store(f->s[c] + r, s = seen_or(t, c, r, s, vf_set1(-INFINITY)));
            top = vf_max(s, top);
        }
        vf alpha = vf_weight(m - top);
        for (int64_t c = 0; c < seen; c++) {
            vf p = vf_weight(vf_load(f->s[c] + r) - top);
            vf_store(f->s[c] + r, p);
            sum += p;
        }
        for (int64_t c = seen; c < t->nk; c++) vf_store(f->s[c] + r, (vf){0});
        vf_store(f->m + r, top);
        vf_store(f->l + r, vf_fma(vf_load(f->l + r), alpha, sum));
        vf_store(f->alpha + r, alpha);
    }
}

static void forward_item(const struct attention *a, const struct walk *w, struct forward_tile *f) {
    const int D = a->D;
    const int64_t t0 = a->cu[w->s], T = a->cu[w->s + 1] - t0, q0 = w->i * ATT_Q, nq = min64(ATT_Q, T - q0);
    const int64_t u0 = a->cu_k[w->s], keys = a->cu_k[w->s + 1] - u0; /* k and v's rows */
    const int64_t col = (int64_t)w->h * D, kcol = (int64_t)w->h * a->K / a->H * D, ldo = a->o->ld;
    float *o = at(a->o, t0 + q0, col);
    prefetch(at(a->q, t0 + q0, col), a->q->ld, nq, D);
    prefetch(at(a->k, u0, kcol), a->k->ld, min64(ATT_K, keys), D);
    pack_transposed(at(a->q, t0 + q0, col), a->q->ld, (int)nq, D, a->scale, f->q);
    for (int r = 0; r < ATT_Q; r++) {
        f->m[r] = LEAST;
        f->l[r] = 0;
    }
    const int64_t start = first_tile(a, q0);
    for (int64_t r = 0; !keys && r < nq; r++) memset(o + r * ldo, 0, (size_t)D * sizeof *o);
    for (int64_t k0 = start; k0 < (a->causal ? q0 + nq : keys); k0 += ATT_K) {
        struct place t = place_of(a, T, keys, q0, k0);
        prefetch(at(a->v, u0 + k0, kcol), a->v->ld, t.nk, D);
        if (k0 == start) prefetch(o, ldo, nq, D);
        keys_by_queries(&t, at(a->k, u0 + k0, kcol), a->k->ld, f->q, D, f->s[0]);
        if (a->softcap > 0) cap_scores(&t, a->softcap, f->s);
        if (a->bias) add_bias(a, &t, q0, k0, w->h, f->s);
        online_softmax(&t, f);
        for (int64_t r = 0; k0 > start && r < nq; r++) vec_scale(o + r * ldo, f->alpha[r], D);
        struct product pv = {.b = at(a->v, u0 + k0, kcol), .ldb = a->v->ld, .c = o, .ldc = ldo, .add = k0 > start};
        queries_from_keys(&t, f->s[0], &pv, D);
    }
    for (int64_t r = 0; r < nq; r++) {
        if (keys) vec_scale(o + r * ldo, 1 / f->l[r], D);
        *at(a->lse, t0 + q0 + r, w->h) = keys ? f->m[r] + logf(f->l[r]) : 0;
    }
}

/* whole: for the bounds of one sequence of all queries and all keys, where there is no cu. */
static struct attention attention_of(const struct inst *inst, const struct view *in, int32_t whole[2][2]) {
    whole[0][0] = whole[1][0] = 0, whole[0][1] = (int32_t)view_rows(&in[0]), whole[1][1] = (int32_t)view_rows(&in[1]);
    return (struct attention){.q = &in[0],
                              .k = &in[1],
                              .v = &in[2],
                              .cu = in[3].p ? view_i32(&in[3]) : whole[0],
                              .cu_k = in[3].p ? view_i32(&in[3]) : whole[1],
                              .attr = &inst->a,
                              .S = in[3].p ? view_rows(&in[3]) - 1 : 1,
                              .H = inst->a.heads,
                              .K = inst->a.kv_heads,
                              .D = inst->a.head_dim,
                              .scale = inst->a.scale,
                              .softcap = inst->a.softcap,
                              .window = inst->a.window > 0 ? inst->a.window : INT64_C(1) << 40,
                              .causal = inst->a.causal};
}

static err attention(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                     void *scratch) {
    int32_t whole[2][2];
    struct attention a = attention_of(inst, in, whole);
    if (in[4].p) a.cu_k = view_i32(&in[4]);
    if (in[5].p) a.bias = &in[5];
    a.o = &out[0];
    a.lse = &out[1];
    const size_t share = ATT_FORWARD_SHARE((size_t)a.D);
    int64_t tickets = 0;
#pragma omp parallel num_threads(cpu_threads(run))
    {
        struct walk w = {0};
        struct forward_tile *f = (void *)((float *)scratch + (size_t)omp_get_thread_num() * share);
        while (walk_to(&w, &a, take(&tickets), ATT_Q, a.H)) forward_item(&a, &w, f);
    }
    return OK;
}

/* --- backward --------------------------------------------------------------------------------------------------- */

struct backward_tile { /* one thread's scratch, followed by the packed queries and dO, [D][ATT_Q] each */
    float p[ATT_K][ATT_Q], ds[ATT_K][ATT_Q], lse[ATT_Q], delta[ATT_Q];
    float q[];
};

/* s -> p = exp(s - lse), dP -> dS = p * (dP - delta) * scale; 0 where masked. */
static void softmax_backward(const struct place *t, const struct attention *a, struct backward_tile *b) {
    const float inverse = a->softcap > 0 ? 1 / a->softcap : 0; /* a cap and a bias do not meet (attention_bwd) */
    for (int64_t r = 0; r < t->nq; r += VW) {
        int64_t seen = keys_seen(t, r + VW);
        vf lse = vf_load(b->lse + r), delta = vf_load(b->delta + r);
        for (int64_t c = 0; c < seen; c++) {
            vf s = vf_load(b->p[c] + r), bent = s * inverse;
            vf p = vf_weight(s - lse), ds = p * (vf_load(b->ds[c] + r) - delta) * (a->scale * (1 - bent * bent));
            if (edge(t, c, r)) {
                p = seen_or(t, c, r, p, (vf){0});
                ds = seen_or(t, c, r, ds, (vf){0});
            }
            vf_store(b->p[c] + r, p);
            vf_store(b->ds[c] + r, ds);
        }
        for (int64_t c = seen; c < t->nk; c++) {
            vf_store(b->p[c] + r, (vf){0});
            vf_store(b->ds[c] + r, (vf){0});
        }
    }
}

/* Queries q0.. of head h against every tile of keys that they see. */
static void backward_queries(const struct attention *a, const struct walk *w, int h, int64_t q0,
                             struct backward_tile *b) {
    const int D = a->D;
    const int64_t t0 = a->cu[w->s], T = a->cu[w->s + 1] - t0, nq = min64(ATT_Q, T - q0), u0 = a->cu_k[w->s], keys = a->cu_k[w->s + 1] - u0;
    const int64_t col = (int64_t)h * D, kcol = (int64_t)w->h * D;
    const bool first_head = h == w->h * (a->H / a->K);
    const float *q = at(a->q, t0 + q0, col), *grad = at(a->grad, t0 + q0, col);
    float *packed_grad = b->q + (size_t)D * ATT_Q;
    prefetch(q, a->q->ld, nq, D);
    prefetch(grad, a->grad->ld, nq, D);
    prefetch(at(a->o, t0 + q0, col), a->o->ld, nq, D);
    pack_transposed(q, a->q->ld, (int)nq, D, a->scale, b->q);
    pack_transposed(grad, a->grad->ld, (int)nq, D, 1, packed_grad);
    for (int64_t r = 0; r < ATT_Q; r++) {
        b->lse[r] = r < nq ? *at(a->lse, t0 + q0 + r, h) : 0;
        b->delta[r] = r < nq ? vec_dot(grad + r * a->grad->ld, at(a->o, t0 + q0 + r, col), D) : 0;
    }
    const int64_t start = first_tile(a, q0);
    for (int64_t r = 0; !keys && r < nq; r++) memset(at(a->dq, t0 + q0 + r, col), 0, (size_t)D * sizeof(float));
    for (int64_t k0 = start; k0 < (a->causal ? q0 + nq : keys); k0 += ATT_K) {
        struct place t = place_of(a, T, keys, q0, k0);
        const bool add = !first_head || q0 != (a->causal ? k0 : 0);
        const float *k = at(a->k, u0 + k0, kcol), *v = at(a->v, u0 + k0, kcol);
        keys_by_queries(&t, k, a->k->ld, b->q, D, b->p[0]);
        keys_by_queries(&t, v, a->v->ld, packed_grad, D, b->ds[0]);
        if (a->softcap > 0) cap_scores(&t, a->softcap, b->p);
        if (a->bias) add_bias(a, &t, q0, k0, h, b->p);
        softmax_backward(&t, a, b);
        struct product dv = {
            .b = grad, .ldb = a->grad->ld, .c = at(a->dv, u0 + k0, kcol), .ldc = a->dv->ld, .add = add};
        struct product dk = {.b = q, .ldb = a->q->ld, .c = at(a->dk, u0 + k0, kcol), .ldc = a->dk->ld, .add = add};
        struct product dq = {.b = k, .ldb = a->k->ld, .c = at(a->dq, t0 + q0, col), .ldc = a->dq->ld, .add = k0 > start};
        keys_from_queries(&t, b->p[0], &dv, D);
        keys_from_queries(&t, b->ds[0], &dk, D);
        queries_from_keys(&t, b->ds[0], &dq, D);
    }
}

static err attention_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                         void *scratch) {
    int32_t whole[2][2];
    struct attention a = attention_of(inst, in, whole);
    if (in[7].p) a.cu_k = view_i32(&in[7]);
    if (in[8].p) a.bias = &in[8];
    a.o = &in[4];
    a.lse = &in[5];
    a.grad = &in[6];
    a.dq = &out[0];
    a.dk = &out[1];
    a.dv = &out[2];
    const int group = a.H / a.K;
    const size_t share = ATT_BACKWARD_SHARE((size_t)a.D);
    int64_t tickets = 0;
#pragma omp parallel num_threads(cpu_threads(run))
    {
        struct walk w = {0};
        struct backward_tile *b = (void *)((float *)scratch + (size_t)omp_get_thread_num() * share);
        while (walk_to(&w, &a, take(&tickets), INT32_MAX, a.K)) {
            int64_t T = a.cu[w.s + 1] - a.cu[w.s];
            for (int64_t c = a.cu_k[w.s]; !T && c < a.cu_k[w.s + 1]; c++) { /* keys that nobody asks for */
                memset(at(a.dk, c, (int64_t)w.h * a.D), 0, (size_t)a.D * sizeof(float));
                memset(at(a.dv, c, (int64_t)w.h * a.D), 0, (size_t)a.D * sizeof(float));
            }
            for (int64_t q0 = 0; q0 < T; q0 += ATT_Q)
                for (int h = w.h * group; h < (w.h + 1) * group; h++) backward_queries(&a, &w, h, q0, b);
        }
    }
    return OK;
}

/* --- decoding --------------------------------------------------------------------------------------------------- */

/* s[c] = scale * q . k[c] for n keys [n][D], four at a time: a vector of q meets four keys, and four sums are one.
 * soon: what will be read next, `ahead` bytes for every four keys, or NULL: a cache is longer than the processor's, and its runs are too
 * short for the hardware to see a stream. */
static void key_scores(const float *q, const float *k, int64_t n, int D, float scale, float *s, const char *const soon[2], int64_t ahead) {
    int64_t c = 0;
    for (; c + 4 <= n && D % VW == 0; c += 4, k += 4 * D) {
        for (int i = 0; i < 2; i++)
            for (int64_t b = 0; soon[i] && b < ahead; b += 64) __builtin_prefetch(soon[i] + c / 4 * ahead + b);
        vf a[4] = {{0}, {0}, {0}, {0}};
        for (int d = 0; d < D; d += VW)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) a[i] = vf_fma(vf_load(q + d), vf_load(k + i * D + d), a[i]);
        vf_sum4(a[0], a[1], a[2], a[3], s + c);
        for (int i = 0; i < 4; i++) s[c + i] *= scale;
    }
    for (; c < n; c++, k += D) s[c] = scale * vec_dot(q, k, D);
}

/* n numbers of a cache as f32: where they lie, or widened into `room`. */
static const float *cached(dtype dt, const char *p, int64_t n, float *room) {
    if (dt == DT_F32) return (const float *)p;
    if (dt == DT_BF16) vec_widen(DT_BF16, (const uint16_t *)p, room, n);
    else vec_widen(DT_F16, (const uint16_t *)p, room, n);
    return room;
}

/* What the heads of one kv head look at: n cached keys and values [n][D]; next: the keys of the item after this, or NULL. */
struct cached_keys {
    dtype dt;
    const char *k, *v, *next;
    int64_t n;
};

/* Queries q[group][D]. s: [group][ATT_K], then m, l, then room for a tile of a cache of 16 bits. */
static void cached_item(const float *q, const struct cached_keys *keys, int group, const struct op_attr *a, const struct view *bias, int h0, float *s,
                        float *o) {
    const int D = a->head_dim;
    const int64_t n = keys->n, key = D * (int64_t)(keys->dt == DT_F32 ? 4 : 2);
    float *m = s + group * ATT_K, *l = m + group, *room = s + ATT_CACHED_SHARE(group);
    for (int h = 0; h < group; h++) {
        m[h] = -INFINITY;
        l[h] = 0;
    }
    for (int64_t k0 = 0; k0 < n; k0 += ATT_K) {
        const int64_t nk = min64(ATT_K, n - k0);
        const float *k = cached(keys->dt, keys->k + k0 * key, nk * D, room);
        for (int h = 0; h < group; h++) {
            float *sh = s + h * ATT_K, top = m[h];
            vf sum = {0};
            const char *const soon[2] = {h ? NULL : keys->v + k0 * key, h || !keys->next ? NULL : keys->next + k0 * key};
            key_scores(q + h * D, k, nk, D, a->scale, sh, soon, 4 * key);
            for (int64_t c = 0; a->softcap > 0 && c < nk; c += VW) /* up to the end of a vector, which is s's own */
                vf_store(sh + c, vf_tanh(vf_load(sh + c) / a->softcap) * a->softcap);
            for (int64_t c = 0; bias && c < nk; c++) sh[c] += view_row(bias, ops_bucket(a, k0 + c - n + 1))[h0 + h];
            for (int64_t c = 0; c < nk; c++) top = sh[c] > top ? sh[c] : top;
            for (int64_t c = nk; c % VW; c++) sh[c] = -INFINITY;
            for (int64_t c = 0; c < nk; c += VW) {
                vf p = vf_weight(vf_load(sh + c) - vf_set1(top));
                vf_store(sh + c, p);
                sum += p;
            }
            float alpha = expf(m[h] - top);
            if (k0) vec_scale(o + h * D, alpha, D);
            l[h] = l[h] * alpha + vf_sum(sum);
            m[h] = top;
        }
        struct product pv = {nk, s, ATT_K, 1, cached(keys->dt, keys->v + k0 * key, nk * D, room), D, o, D, k0 > 0};
        multiply(&pv, group, D);
    }
    for (int h = 0; h < group; h++) vec_scale(o + h * D, 1 / l[h], D);
}

static err attention_cached(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                            void *scratch) {
    const int K = inst->a.kv_heads, D = inst->a.head_dim, group = inst->a.heads / K;
    const dtype dt = in[1].dt;
    const int64_t N = view_rows(&in[0]), T = in[1].d[2], key = D * (int64_t)(dt == DT_F32 ? 4 : 2);
    const char *ck = in[1].p, *cv = in[2].p;
    const int32_t *slot = view_i32(&in[3]), *pos = view_i32(&in[4]);
    const size_t share = ATT_CACHED_SHARE((size_t)group) + ATT_CACHED_ROOM((size_t)D, dt);
#pragma omp parallel num_threads(cpu_threads(run))
    {
        float *s = (float *)scratch + (size_t)omp_get_thread_num() * share;
#pragma omp for
        for (int64_t i = 0; i < N * K; i++) {
            int64_t n = i / K, h = i % K, base = (slot[n] * (int64_t)K + h) * T * key;
            const int64_t from = inst->a.window > 0 ? max64(0, pos[n] + 1 - inst->a.window) : 0;
            const char *k = ck + base + from * key;
            const struct cached_keys keys = {dt, k, cv + base + from * key, h + 1 < K ? k + T * key : NULL, pos[n] + 1 - from};
            cached_item(at(&in[0], n, h * group * D), &keys, group, &inst->a, in[5].p ? &in[5] : NULL, (int)h * group, s,
                        at(&out[0], n, h * group * D));
        }
    }
    return OK;
}
