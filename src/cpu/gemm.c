/* The product engine's driver and its portable kernel. See gemm.h for what is computed and why the results are
 * reproducible.
 *
 * Order of work: the pieces are cut into k-blocks of at most GEMM_KC, as many blocks as fit GEMM_PACK are packed together
 * (a chunk), all threads packing; then threads take items - a few units of one output - from a common counter. An item
 * unpacks its weights block by block and walks the packed rows. Every element is written by one thread per chunk, and
 * chunks are separated by barriers, so who takes which item changes nothing. */
#include "cpu/gemm.h"
#include "cpu/cpu.h"
#include <omp.h>
#include <string.h>

static int64_t imin(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t imax(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* --- chunks ---------------------------------------------------------------------------------------------------- */

struct block {
    int piece;
    int64_t k0, kc, off; /* rows k0 .. k0+kc of the piece; off: of the chunk, where they are packed */
};

struct chunk {
    struct block b[GEMM_BLOCKS];
    int n;
    int piece; /* where the next chunk starts */
    int64_t k0;
};

/* Block length of a piece: equal parts, so that 576 is 3 x 192 and not 256 + 256 + 64. */
static int64_t block_len(int64_t k) { return ceil_div(ceil_div(k, ceil_div(k, GEMM_KC)), 32) * 32; }

static bool next_chunk(const struct gemm *g, struct chunk *c) {
    int64_t off = 0, most = imax(GEMM_KC, GEMM_PACK / g->m);
    c->n = 0;
    for (; c->piece < g->pieces; c->piece++, c->k0 = 0) {
        const struct gemm_piece *p = &g->piece[c->piece];
        if (p->after && c->k0 == 0 && c->n) return true;
        while (c->k0 < p->k) {
            int64_t kc = imin(block_len(p->k), p->k - c->k0);
            if (c->n == GEMM_BLOCKS || (c->n && off + kc > most)) return true;
            c->b[c->n++] = (struct block){c->piece, c->k0, kc, off};
            c->k0 += kc;
            off += kc;
        }
    }
    return c->n > 0;
}

/* --- rows ------------------------------------------------------------------------------------------------------ */

/* Tiles of nearly equal height: 256 rows are 19 tiles of 13 or 14, not 18 of 14 and one of 4. */
struct tiles {
    int64_t m, n;
};
static struct tiles tiles_of(int64_t m, int mr) { return (struct tiles){m, ceil_div(m, mr)}; }
static int64_t tile_row(struct tiles t, int64_t i) { return t.m * i / t.n; }

static void pack_tile(const struct gemm *g, const struct gemm_isa *isa, const struct chunk *c, struct tiles t, int64_t i,
                      float *packed) {
    int64_t r0 = tile_row(t, i), rows = tile_row(t, i + 1) - r0;
    for (int b = 0; b < c->n; b++) {
        const struct block *k = &c->b[b];
        const struct gemm_piece *p = &g->piece[k->piece];
        isa->pack(p->x + r0 * p->ld + k->k0, p->ld, (int)rows, k->kc, packed + k->off * t.m + r0 * k->kc);
    }
}

/* --- items ----------------------------------------------------------------------------------------------------- */

struct item {
    const struct gemm_out *out;
    int64_t n0, n1; /* columns */
    int64_t t0, t1; /* row tiles */
};

/* How a chunk's work is cut: `group` units of one output by one of `parts` ranges of row tiles. */
struct plan {
    int64_t group, parts, items;
    int64_t of[GEMM_OUTS]; /* items of each output; 0 when it takes nothing of this chunk */
};

static bool takes(const struct gemm_out *o, const struct chunk *c) {
    for (int b = 0; b < c->n; b++)
        if (o->w[c->b[b].piece].p) return true;
    return false;
}

static struct plan plan_items(const struct gemm *g, const struct chunk *c, struct tiles t) {
    struct plan p = {.parts = 1};
    int64_t units = 0;
    for (int j = 0; j < g->outs; j++)
        if (takes(&g->out[j], c)) units += ceil_div(g->out[j].n, GEMM_UNIT);
    p.group = g->m <= GEMM_ROWS_L2 ? 1 : imax(1, imin(GEMM_GROUP, units / (4 * g->threads)));
    if (units < 2 * g->threads) p.parts = imin(t.n, ceil_div(2 * g->threads, imax(units, 1)));
    for (int j = 0; j < g->outs; j++) {
        p.of[j] = takes(&g->out[j], c) ? ceil_div(g->out[j].n, GEMM_UNIT * p.group) * p.parts : 0;
        p.items += p.of[j];
    }
    return p;
}

static struct item item_of(const struct gemm *g, const struct plan *p, struct tiles t, int64_t i) {
    int j = 0;
    while (i >= p->of[j]) i -= p->of[j++];
    int64_t part = i % p->parts, n0 = i / p->parts * p->group * GEMM_UNIT;
    const struct gemm_out *o = &g->out[j];
    return (struct item){o, n0, imin(o->n, n0 + p->group * GEMM_UNIT), t.n * part / p->parts, t.n * (part + 1) / p->parts};
}

/* Before the first block of an output adds: nothing (it overwrites), or the bias. */
static bool start(const struct item *it, const struct block *b, struct tiles t) {
    const struct gemm_out *o = it->out;
    for (int p = 0; p < b->piece; p++)
        if (o->w[p].p) return true;
    if (b->k0) return true;
    if (!o->bias) return false;
    for (int64_t r = tile_row(t, it->t0); r < tile_row(t, it->t1); r++)
        memcpy(o->y + r * o->ld + it->n0, o->bias + it->n0, (size_t)(it->n1 - it->n0) * sizeof(float));
    return true;
}

/* One unpacked unit against row tiles t0 .. t1. */
static void unit_rows(const struct gemm_isa *isa, const struct block *b, const struct gemm_out *o, int64_t n0, int64_t n1,
                      struct tiles t, int64_t t0, int64_t t1, const float *panel, const float *packed, bool add) {
    for (; n0 < n1; n0 += isa->nr, panel += b->kc * isa->nr) {
        int cols = (int)imin(isa->nr, n1 - n0);
        for (int64_t i = t0; i < t1; i++) {
            int64_t r0 = tile_row(t, i), rows = tile_row(t, i + 1) - r0;
            isa->tile((int)rows, cols, b->kc, packed + b->off * t.m + r0 * b->kc, rows, panel, isa->nr,
                      o->y + r0 * o->ld + n0, o->ld, add);
        }
    }
}

static void run_item(const struct gemm_isa *isa, const struct chunk *c, struct tiles t, struct item it, const float *packed,
                     float *panels) {
    float *tmp = panels + GEMM_GROUP * GEMM_UNIT * GEMM_KC;
    int64_t step = imax(1, GEMM_ROWS_L2 / isa->mr);
    for (int b = 0; b < c->n; b++) {
        const struct block *k = &c->b[b];
        const struct gemm_w *w = &it.out->w[k->piece];
        if (!w->p) continue;
        bool add = start(&it, k, t);
        int64_t size = k->kc * GEMM_UNIT;
        for (int64_t n = it.n0, u = 0; n < it.n1; n += GEMM_UNIT, u++)
            isa->unpack(w, n, (int)imin(GEMM_UNIT, it.n1 - n), k->k0, k->kc, panels + u * size, tmp);
        for (int64_t t0 = it.t0; t0 < it.t1; t0 += step)
            for (int64_t n = it.n0, u = 0; n < it.n1; n += GEMM_UNIT, u++)
                unit_rows(isa, k, it.out, n, imin(it.n1, n + GEMM_UNIT), t, t0, imin(it.t1, t0 + step), panels + u * size,
                          packed, add);
    }
}

/* --- entry ----------------------------------------------------------------------------------------------------- */

enum { THREAD_FLOATS = (GEMM_GROUP + 1) * GEMM_UNIT * GEMM_KC };

static int64_t packed_floats(int64_t m) { return ceil_div(imax(GEMM_PACK, m * GEMM_KC), 16) * 16; }

size_t gemm_scratch(int64_t m) {
    return (size_t)(packed_floats(m) + (int64_t)THREAD_FLOATS * cpu_max_threads()) * sizeof(float);
}

/* Outputs that no piece reaches are their bias, or zero. */
static void fill_untouched(const struct gemm *g) {
    for (int j = 0; j < g->outs; j++) {
        const struct gemm_out *o = &g->out[j];
        bool any = false;
        for (int p = 0; p < g->pieces; p++) any |= o->w[p].p && g->piece[p].k > 0;
        for (int64_t r = 0; !any && r < g->m; r++)
            for (int64_t n = 0; n < o->n; n++) o->y[r * o->ld + n] = o->bias ? o->bias[n] : 0;
    }
}

void gemm_run(const struct gemm *g, void *scratch) {
    if (g->m == 0) return;
    fill_untouched(g);
    const struct gemm_isa *isa = gemm_isa();
    float *packed = scratch, *own = packed + packed_floats(g->m);
    struct tiles t = tiles_of(g->m, isa->mr);
#pragma omp parallel num_threads(g->threads)
    {
        float *panels = own + (int64_t)THREAD_FLOATS * omp_get_thread_num();
        struct chunk c = {0};
        while (next_chunk(g, &c)) {
            struct plan p = plan_items(g, &c, t);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < t.n; i++) pack_tile(g, isa, &c, t, i, packed);
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < p.items; i++) run_item(isa, &c, t, item_of(g, &p, t, i), packed, panels);
        }
    }
}

/* --- low-rank gradients ---------------------------------------------------------------------------------------- */

enum { OUTER_PANEL = GEMM_UNIT * GEMM_KC };

static int64_t outer_floats(int64_t r) { return ceil_div(r, 16) * 16 * GEMM_UNIT + OUTER_PANEL; }

size_t gemm_outers_scratch(int64_t r) { return (size_t)(outer_floats(r) * cpu_max_threads()) * sizeof(float); }

/* Columns n0 .. n0+cols of Z, cols <= nr, summed in s[r][GEMM_UNIT]. A narrow last panel is copied to be read whole. */
static void outer_panel(const struct gemm_isa *isa, const struct gemm_outer *o, int64_t n0, int cols, float *s,
                        float *copy) {
    struct tiles t = tiles_of(o->r, isa->mr);
    for (int64_t k0 = 0; k0 < o->k; k0 += GEMM_KC) {
        int64_t kc = imin(GEMM_KC, o->k - k0), ldq = o->ldq;
        const float *q = o->q + k0 * ldq + n0;
        if (cols < isa->nr) {
            for (int64_t k = 0; k < kc; k++)
                for (int i = 0; i < isa->nr; i++) copy[k * isa->nr + i] = i < cols ? q[k * ldq + i] : 0;
            q = copy;
            ldq = isa->nr;
        }
        for (int64_t i = 0; i < t.n; i++) {
            int64_t r0 = tile_row(t, i), rows = tile_row(t, i + 1) - r0;
            isa->tile((int)rows, cols, kc, o->p + k0 * o->ldp + r0, o->ldp, q, ldq, s + r0 * GEMM_UNIT, GEMM_UNIT, k0 > 0);
        }
    }
    for (int64_t r = 0; r < o->r; r++)
        for (int i = 0; i < cols; i++) {
            float *z = o->transposed ? &o->z[(n0 + i) * o->ldz + r] : &o->z[r * o->ldz + n0 + i];
            *z += o->scale * s[r * GEMM_UNIT + i];
        }
}

void gemm_outers(const struct gemm_outer *list, int count, int threads, void *scratch) {
    const struct gemm_isa *isa = gemm_isa();
    int64_t items = 0, r = 0;
    for (int i = 0; i < count; i++) {
        if (list[i].k == 0) return; /* all share the tokens */
        items += ceil_div(list[i].n, isa->nr);
        r = imax(r, list[i].r);
    }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < items; i++) {
        float *own = (float *)scratch + outer_floats(r) * omp_get_thread_num();
        const struct gemm_outer *o = list;
        int64_t n = i;
        while (n >= ceil_div(o->n, isa->nr)) n -= ceil_div(o++->n, isa->nr);
        n *= isa->nr;
        outer_panel(isa, o, n, (int)imin(isa->nr, o->n - n), own, own + outer_floats(r) - OUTER_PANEL);
    }
}

/* --- portable kernel ------------------------------------------------------------------------------------------- */

enum { G_MR = 4, G_NR = 8 }; /* 8 four-wide accumulators: what SSE2 or NEON keep in registers */

static void generic_tile(int mr, int cols, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                         int64_t ldc, bool add) {
    float acc[G_MR][G_NR] = {{0}};
    if (mr == G_MR) {
        for (; k > 0; k--, a += lda, b += ldb)
            for (int i = 0; i < G_MR; i++)
                for (int j = 0; j < G_NR; j++) acc[i][j] += a[i] * b[j];
    } else {
        for (; k > 0; k--, a += lda, b += ldb)
            for (int i = 0; i < mr; i++)
                for (int j = 0; j < G_NR; j++) acc[i][j] += a[i] * b[j];
    }
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < cols; j++) c[i * ldc + j] = acc[i][j] + (add ? c[i * ldc + j] : 0);
}

static void generic_pack(const float *x, int64_t ld, int rows, int64_t k, float *dst) {
    for (int64_t j = 0; j < k; j++)
        for (int i = 0; i < rows; i++) *dst++ = x[i * ld + j];
}

/* n <= GEMM_KC weights from element k0 (a multiple of 32) of a row: whole blocks are decoded, which Q6_K's may exceed. */
static void generic_row(const struct gemm_w *w, int64_t row, int64_t k0, int64_t n, float *dst) {
    const uint8_t *p = (const uint8_t *)w->p + (size_t)row * dtype_row_bytes(w->dt, w->ld);
    float whole[256];
    if (w->dt != DT_Q6_K) {
        dequantise_row(w->dt, p + dtype_row_bytes(w->dt, k0), dst, n);
        return;
    }
    for (int64_t done = 0, len; done < n; done += len) {
        int64_t at = (k0 + done) % 256;
        len = imin(256 - at, n - done);
        dequantise_row(w->dt, p + dtype_row_bytes(w->dt, k0 + done - at), whole, 256);
        memcpy(dst + done, whole + at, (size_t)len * sizeof(float));
    }
}

static void generic_unpack(const struct gemm_w *w, int64_t n0, int cols, int64_t k0, int64_t kc, float *dst, float *tmp) {
    float row[GEMM_UNIT];
    for (int i = 0; w->t && i < cols; i++) generic_row(w, n0 + i, k0, kc, tmp + i * GEMM_KC);
    for (int64_t k = 0; k < kc; k++) {
        if (!w->t) generic_row(w, k0 + k, n0, cols, row);
        for (int i = 0; i < GEMM_UNIT; i++) {
            float v = i >= cols ? 0 : w->t ? tmp[i * GEMM_KC + k] : row[i];
            dst[(i / G_NR * kc + k) * G_NR + i % G_NR] = v * w->scale;
        }
    }
}

static float generic_sum(const float *a, const float *b, int64_t n) {
    float s[8] = {0}, rest = 0;
    int64_t j = 0;
    for (; j + 8 <= n; j += 8)
        for (int i = 0; i < 8; i++) s[i] += a[j + i] * b[j + i];
    for (; j < n; j++) rest += a[j] * b[j];
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7])) + rest;
}

static void generic_dot(const struct gemm_dot *d) {
    const struct gemm_w w = {d->w, d->dt, d->ldw, true, 1};
    float part[GEMM_KC];
    for (int64_t o = d->o0; o < d->o1; o++) {
        float sum[GEMM_DOT_ROWS];
        for (int i = 0; i < d->rows; i++) sum[i] = d->bias ? d->bias[o] : 0;
        for (int64_t k0 = 0; k0 < d->k; k0 += GEMM_KC) {
            int64_t n = imin(GEMM_KC, d->k - k0);
            generic_row(&w, o, k0, n, part);
            for (int i = 0; i < d->rows; i++) sum[i] += generic_sum(d->x + i * d->ldx + k0, part, n);
        }
        for (int i = 0; i < d->rows; i++) {
            if (d->r) sum[i] += generic_sum(d->t + i * d->ldt, d->b + o * d->ldb, d->r);
            d->y[i * d->ldy + o] = sum[i];
        }
    }
}

const struct gemm_isa gemm_generic = {G_MR, G_NR, generic_tile, generic_pack, generic_unpack, generic_dot};

const struct gemm_isa *gemm_isa(void) {
#if defined(__x86_64__)
    switch (cpu_isa()) {
    case CPU_AVX512: return &gemm_avx512;
    case CPU_AVX2: return &gemm_avx2;
    default: break;
    }
#endif
    return &gemm_generic;
}
