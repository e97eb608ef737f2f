/* A group's products over a quantised base: W is unpacked to the type of the products, and these are the ones of plain matrices, with
 * the low-rank deltas in their sums. At most a piece at a time, so that scratch is no more than one large matrix.
 *
 * Forward: a piece is rows of one W_k, or several whole matrices where they are small: columns of Y_k, or whole outputs. Backward: the same
 * columns of all W_k, which are columns of dX: it is written once. A sum's terms and their order are those of whole matrices.
 *
 * Small pieces, each unpacked on the stream beside the product of the one before it, were slower (docs/speed-log.md): the products' blocks
 * have all registers of their multiprocessors, so nothing runs beside them.
 *
 * Refused: what group_gemm.h refuses, fp8 (fp8.h). Called by linear.c. */
#include "cuda/unpacked.h"

size_t cuda_piece_bytes = (size_t)128 << 20;

enum { TILE = 128 /* a piece's rows: whole tiles of the products */, BLOCK = DTYPE_BLOCK_MAX /* .. and its columns: whole blocks */, HALF = 2 /* bytes of an element */ };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* Of `n` things of `bytes` each, in units: how many a piece has, so that the pieces are alike. */
static int64_t share(int64_t n, int64_t bytes, int64_t unit) {
    const int64_t pieces = up(n * bytes, (int64_t)cuda_piece_bytes) / (int64_t)cuda_piece_bytes;
    return least(n, up((n + pieces - 1) / pieces, unit));
}

/* --- forward ------------------------------------------------------------------------------------------------------------- */
/* Outputs [k, end) whole, or of output k (end = k + 1) rows [from, to). */
struct rows { int k, end; int64_t from, to; };

static int64_t all_rows(const struct view *w, struct rows p) {
    int64_t n = p.to - p.from;
    for (int k = p.k + 1; k < p.end; k++) n += w[k].d[0];
    return n;
}

/* The piece after p; false: there is none. */
static bool next_rows(int n, const struct view *w, struct rows *p) {
    const int64_t C = w[0].d[1], most = (int64_t)cuda_piece_bytes / (C * HALF);
    const bool inside = p->end && p->to < w[p->k].d[0];
    const int k = inside ? p->k : p->end;
    const int64_t from = inside ? p->to : 0;
    if (k == n) return false;
    *p = (struct rows){k, k + 1, from, least(w[k].d[0], from + share(w[k].d[0], C * HALF, TILE))};
    while (!from && p->to == w[k].d[0] && p->end < n && all_rows(w, *p) + w[p->end].d[0] <= most) p->end++;
    return true;
}

static err unpack_rows(const struct view *w, struct rows p, dtype dt, char *to) {
    for (int k = p.k; k < p.end; k++) {
        const int64_t C = w[k].d[1], from = k == p.k ? p.from : 0, rows = (k == p.k ? p.to : w[k].d[0]) - from;
        TRY(cuda_dequantise(w[k].dt, (const char *)w[k].p + dtype_row_bytes(w[k].dt, C) * (size_t)from, rows, C, dt, to));
        to += rows * C * HALF;
    }
    return OK;
}

static err product_of_rows(const struct cuda_group_forward *g, const struct view *w, struct rows p, const char *unpacked) {
    struct cuda_group_forward part = {.dt = g->dt, .n = p.end - p.k, .rows = g->rows, .C = g->C, .x = g->x, .ldx = g->ldx, .ldt = g->ldt};
    int64_t before = 0;
    for (int k = 0; k < p.k; k++) before += g->rank[k];
    part.t = g->t ? (const char *)g->t + before * HALF : NULL;
    for (int i = 0, k = p.k; k < p.end; i++, k++) {
        const int64_t from = k == p.k ? p.from : 0;
        part.O[i] = (k == p.k ? p.to : w[k].d[0]) - from, part.rank[i] = g->rank[k], part.alpha[i] = g->alpha[k];
        part.w[i] = unpacked, unpacked += part.O[i] * g->C * HALF;
        part.b[i] = g->b[k] ? (const char *)g->b[k] + from * g->ldb[k] * HALF : NULL, part.ldb[i] = g->ldb[k];
        part.bias[i] = g->bias[k] ? g->bias[k] + from : NULL;
        part.y[i] = (char *)g->y[k] + from * HALF, part.ldy[i] = g->ldy[k];
    }
    return cuda_group_forward(&part);
}

err cuda_unpacked_forward(const struct cuda_group_forward *g, const struct view *w, void *scratch) {
    struct rows p = {0};
    while (next_rows(g->n, w, &p)) {
        TRY(unpack_rows(w, p, g->dt, scratch));
        TRY(product_of_rows(g, w, p, scratch));
    }
    return OK;
}

/* --- backward ------------------------------------------------------------------------------------------------------------ */
static err unpack_columns(const struct cuda_group_backward *g, const struct view *const w[], int64_t from, int64_t width, char *to) {
    for (int k = 0; k < g->n; k++) {
        TRY(cuda_dequantise_columns(w[k], from, width, g->dt, to));
        to += g->O[k] * width * HALF;
    }
    return OK;
}

static err product_of_columns(const struct cuda_group_backward *g, int64_t from, int64_t width, const char *unpacked) {
    struct cuda_group_backward part = *g;
    part.C = width;
    part.dx = (char *)g->dx + from * HALF;
    part.a = g->a ? (const char *)g->a + from * HALF : NULL;
    for (int k = 0; k < g->n; k++) part.w[k] = unpacked, unpacked += g->O[k] * width * HALF;
    return cuda_group_backward(&part);
}

err cuda_unpacked_backward(const struct cuda_group_backward *g, const struct view *const w[], void *scratch) {
    int64_t O = 0;
    for (int k = 0; k < g->n; k++) O += g->O[k];
    const int64_t step = share(g->C, O * HALF, BLOCK);
    for (int64_t from = 0; from < g->C; from += step) {
        const int64_t width = least(step, g->C - from);
        TRY(unpack_columns(g, w, from, width, scratch));
        TRY(product_of_columns(g, from, width, scratch));
    }
    return OK;
}

/* The largest piece of either way; backward of any of the outputs, for some may have no gradient. */
size_t cuda_unpacked_scratch(int n, const struct view *w) {
    const int64_t C = w[0].d[1];
    int64_t most = 0;
    struct rows p = {0};
    while (next_rows(n, w, &p))
        if (all_rows(w, p) * C > most) most = all_rows(w, p) * C;
    for (unsigned some = 1; some < 1u << n; some++) {
        int64_t O = 0;
        for (int k = 0; k < n; k++) O += some >> k & 1 ? w[k].d[0] : 0;
        if (O * share(C, O * HALF, BLOCK) > most) most = O * share(C, O * HALF, BLOCK);
    }
    return (size_t)up(most * HALF, 256);
}
