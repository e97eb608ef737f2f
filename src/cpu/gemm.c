/* The product engine's driver and its portable kernel. See gemm.h for what is computed and why the results are
 * reproducible.
 *
 * Order of work: GEMM_ROWS rows at a time; the pieces are cut into k-blocks of at most GEMM_KC, as many blocks as fit
 * GEMM_PACK are packed together (a chunk), all threads packing; then threads take items - a unit of one output - from a
 * common counter. An item unpacks its weights block by block and walks the packed rows. Every element is written by one
 * thread per chunk, and chunks are separated by barriers, so who takes which item changes nothing. */
#include "cpu/gemm.h"
#include "cpu/gemm_bf16.h"
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

/* Block length of a piece: equal parts, so that 576 is 3 x 192 and not 256 + 256 + 64; of whole blocks of 64, and of 256
 * where k is. */
static int64_t block_len(int64_t k) { return ceil_div(ceil_div(k, ceil_div(k, GEMM_KC)), 64) * 64; }

static bool next_chunk(const struct gemm *g, int64_t rows, struct chunk *c) {
    int64_t off = 0, most = GEMM_PACK / rows;
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

/* Rows first .. first + m in n tiles of nearly equal height: 256 rows are 19 tiles of 13 or 14, not 18 of 14 and a 4.
 */
struct tiles {
    int64_t first, m, n;
};
static struct tiles tiles_of(int64_t first, int64_t m, int mr) { return (struct tiles){first, m, ceil_div(m, mr)}; }
static int64_t tile_row(struct tiles t, int64_t i) { return t.m * i / t.n; } /* from `first` */

static void pack_tile(const struct gemm *g, const struct gemm_isa *isa, const struct chunk *c, struct tiles t,
                      int64_t i, float *packed) {
    int64_t r0 = tile_row(t, i), rows = tile_row(t, i + 1) - r0;
    for (int b = 0; b < c->n; b++) {
        const struct block *k = &c->b[b];
        const struct gemm_piece *p = &g->piece[k->piece];
        float *dst = packed + k->off * t.m + r0 * k->kc;
        if (!g->turned) isa->pack(p->x + (t.first + r0) * p->ld + k->k0, p->ld, (int)rows, k->kc, dst);
        for (int64_t j = 0; g->turned && j < k->kc; j++)
            memcpy(dst + j * rows, p->x + (k->k0 + j) * p->ld + t.first + r0, (size_t)rows * sizeof *dst);
    }
}

/* --- items ----------------------------------------------------------------------------------------------------- */

/* A unit of one output by a range of row tiles. */
struct item {
    const struct gemm_out *out;
    int64_t n0;
    int cols;
    int64_t t0, t1;
};

/* How a chunk's work is cut: every unit in `parts` ranges of tiles (more than one where units are fewer than threads).
 */
struct plan {
    int64_t parts, items;
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
    for (int j = 0; j < g->outs; j++) units += takes(&g->out[j], c) ? ceil_div(g->out[j].n, GEMM_UNIT) : 0;
    if (units < 2 * g->threads) p.parts = imin(t.n, ceil_div(2 * g->threads, imax(units, 1)));
    for (int j = 0; j < g->outs; j++) {
        p.of[j] = takes(&g->out[j], c) ? ceil_div(g->out[j].n, GEMM_UNIT) * p.parts : 0;
        p.items += p.of[j];
    }
    return p;
}

static struct item item_of(const struct gemm *g, const struct plan *p, struct tiles t, int64_t i) {
    int j = 0;
    while (i >= p->of[j]) i -= p->of[j++];
    int64_t part = i % p->parts, n0 = i / p->parts * GEMM_UNIT;
    const struct gemm_out *o = &g->out[j];
    return (struct item){o, n0, (int)imin(GEMM_UNIT, o->n - n0), t.n * part / p->parts, t.n * (part + 1) / p->parts};
}

/* Whether the block adds to what is there: the output's first one overwrites (but where the output is to be added to), or adds to
 * the bias put down here. */
static bool adds(const struct item *it, const struct block *b, struct tiles t) {
    const struct gemm_out *o = it->out;
    if (o->add) return true;
    for (int p = 0; p < b->piece; p++)
        if (o->w[p].p) return true;
    if (b->k0) return true;
    if (!o->bias) return false;
    for (int64_t r = t.first + tile_row(t, it->t0); r < t.first + tile_row(t, it->t1); r++)
        memcpy(o->y + r * o->ld + it->n0, o->bias + it->n0, (size_t)it->cols * sizeof(float));
    return true;
}

/* Asks for the weights that this thread will most likely unpack next: the following block of this unit, or after the
 * last one the first of the unit `threads` further on. The pieces of rows are too short for the hardware to see a
 * stream. */
static void fetch_next(const struct gemm_w *w, const struct item *it, const struct block *b, int64_t piece_k,
                       int threads) {
    size_t row = dtype_row_bytes(w->dt, w->ld);
    bool last = b->k0 + b->kc >= piece_k;
    int64_t n = last ? it->n0 + GEMM_UNIT * threads : it->n0, k = last ? 0 : b->k0 + b->kc;
    if (n + GEMM_UNIT > it->out->n) return;
    int64_t rows = w->t ? GEMM_UNIT : imin(b->kc, piece_k - k), first = w->t ? n : k;
    size_t bytes = dtype_row_bytes(w->dt, w->t ? b->kc : GEMM_UNIT);
    const char *p = (const char *)w->p + (size_t)first * row + dtype_row_bytes(w->dt, w->t ? k : n);
    for (int64_t r = 0; r < rows; r++, p += row)
        for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at, 0, 2);
}

static void run_item(const struct gemm *g, const struct gemm_isa *isa, const struct chunk *c, struct tiles t,
                     struct item it, const float *packed, float *panels) {
    const struct gemm_out *o = it.out;
    for (int i = 0; i < c->n; i++) {
        const struct block *b = &c->b[i];
        const struct gemm_w *w = &o->w[b->piece];
        if (!w->p) continue;
        bool add = adds(&it, b, t);
        fetch_next(w, &it, b, g->piece[b->piece].k, g->threads);
        isa->unpack(w, it.n0, it.cols, b->k0, b->kc, panels, panels + GEMM_UNIT * GEMM_KC);
        for (int n = 0; n < it.cols; n += isa->nr)
            for (int64_t j = it.t0; j < it.t1; j++) {
                int64_t r0 = tile_row(t, j), rows = tile_row(t, j + 1) - r0;
                isa->tile((int)rows, (int)imin(isa->nr, it.cols - n), b->kc, packed + b->off * t.m + r0 * b->kc, rows,
                          panels + n * b->kc, isa->nr, o->y + (t.first + r0) * o->ld + it.n0 + n, o->ld, add);
            }
    }
}

/* --- entry ----------------------------------------------------------------------------------------------------- */

enum { THREAD_FLOATS = 2 * GEMM_UNIT * GEMM_KC };

size_t gemm_scratch(void) { return (size_t)(GEMM_PACK + (int64_t)THREAD_FLOATS * cpu_max_threads()) * sizeof(float); }

/* Outputs that no piece reaches are their bias, or zero, or what they were. */
static void fill_untouched(const struct gemm *g) {
    for (int j = 0; j < g->outs; j++) {
        const struct gemm_out *o = &g->out[j];
        bool any = o->add;
        for (int p = 0; p < g->pieces; p++) any |= o->w[p].p && g->piece[p].k > 0;
        for (int64_t r = 0; !any && r < g->m; r++)
            for (int64_t n = 0; n < o->n; n++) o->y[r * o->ld + n] = o->bias ? o->bias[n] : 0;
    }
}

static void run_with(const struct gemm *g, const struct gemm_isa *isa, void *scratch) {
    if (g->m == 0) return;
    fill_untouched(g);
    float *packed = scratch, *own = packed + GEMM_PACK;
    int64_t parts = ceil_div(g->m, GEMM_ROWS);
#pragma omp parallel num_threads(g->threads)
    for (int64_t part = 0; part < parts; part++) {
        float *panels = own + (int64_t)THREAD_FLOATS * omp_get_thread_num();
        int64_t first = g->m * part / parts, rows = g->m * (part + 1) / parts - first;
        struct tiles t = tiles_of(first, rows, isa->mr);
        struct chunk c = {0};
        while (next_chunk(g, rows, &c)) {
            struct plan p = plan_items(g, &c, t);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < t.n; i++) pack_tile(g, isa, &c, t, i, packed);
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < p.items; i++) run_item(g, isa, &c, t, item_of(g, &p, t, i), packed, panels);
        }
    }
}

void gemm_run(const struct gemm *g, void *scratch) { run_with(g, gemm_isa(), scratch); }

void gemm_run_in(dtype operands, const struct gemm *g, void *scratch) {
#if defined(__x86_64__)
    if (operands == DT_BF16 && !g->turned && cpu_amx()) {
        run_with(g, &gemm_amx, scratch);
        return;
    }
#endif
    gemm_run(g, scratch);
}

/* --- low-rank gradients ---------------------------------------------------------------------------------------- */

enum { OUTER_PANEL = GEMM_UNIT * GEMM_KC };

static int64_t outer_floats(int64_t r) { return ceil_div(r, 16) * 16 * GEMM_UNIT + OUTER_PANEL; }

size_t gemm_outers_scratch(int64_t r) { return (size_t)(outer_floats(r) * cpu_max_threads()) * sizeof(float); }

/* Columns n0 .. n0+cols of Z, cols <= nr, summed in s[r][GEMM_UNIT]. A narrow last panel is copied to be read whole. */
static void outer_panel(const struct gemm_isa *isa, const struct gemm_outer *o, int64_t n0, int cols, float *s,
                        float *copy) {
    struct tiles t = tiles_of(0, o->r, isa->mr);
    for (int64_t k0 = 0; k0 < o->k; k0 += GEMM_KC) {
        int64_t kc = imin(GEMM_KC, o->k - k0), ldq = o->ldq;
        const float *q = o->q + k0 * ldq + n0;
        /* The next rows of these columns: at a stride of whole rows the hardware sees no stream. */
        for (int64_t k = kc; k < imin(kc + GEMM_KC, o->k - k0); k++)
            for (int at = 0; at < cols; at += 16) __builtin_prefetch(q + k * ldq + at, 0, 2);
        if (cols < isa->nr) {
            for (int64_t k = 0; k < kc; k++)
                for (int i = 0; i < isa->nr; i++) copy[k * isa->nr + i] = i < cols ? q[k * ldq + i] : 0;
            q = copy;
            ldq = isa->nr;
        }
        for (int64_t i = 0; i < t.n; i++) {
            int64_t r0 = tile_row(t, i), rows = tile_row(t, i + 1) - r0;
            isa->tile((int)rows, cols, kc, o->p + k0 * o->ldp + r0, o->ldp, q, ldq, s + r0 * GEMM_UNIT, GEMM_UNIT,
                      k0 > 0);
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

/* --- few rows --------------------------------------------------------------------------------------------------- */

void gemm_dots(const struct gemm_dot *d) {
    const struct gemm_isa *isa = gemm_isa();
    void (*dot)(const struct gemm_dot *) = d->ints.q ? gemm_int_isa()->dot : isa->dot;
    const int groups = (d->rows + isa->dot_group - 1) / isa->dot_group;
    const size_t row_bytes = dtype_row_bytes(d->dt, d->ldw);
    for (int64_t o = d->o0; o < d->o1; o += GEMM_DOT_SPAN)
        for (int g = 0; g < groups; g++) {
            int64_t i = d->rows * g / groups;
            struct gemm_dot part = *d;
            part.rows = (int)(d->rows * (g + 1) / groups - i);
            part.x += i * d->ldx;
            part.y += i * d->ldy;
            if (part.t) part.t += i * d->ldt;
            if (part.ints.q) {
                part.ints.q += i * d->k;
                part.ints.sums += i * (d->k / 32);
                part.ints.steps += i;
            }
            part.row_bytes = row_bytes;
            part.o0 = o;
            part.o1 = imin(o + GEMM_DOT_SPAN, d->o1);
            dot(&part);
        }
}

/* --- portable kernel ------------------------------------------------------------------------------------------- */

enum { G_MR = 4, G_NR = 8, G_DOT_GROUP = 4 }; /* 8 four-wide accumulators: what SSE2 or NEON keep in registers */

static void generic_tile(int mr, int cols, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb,
                         float *c, int64_t ldc, bool add) {
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

/* n <= GEMM_KC weights from element k0 (a multiple of 32) of a row: whole blocks are decoded, which may be larger. */
static void generic_row(const struct gemm_w *w, int64_t row, int64_t k0, int64_t n, float *dst) {
    const uint8_t *p = (const uint8_t *)w->p + (size_t)row * dtype_row_bytes(w->dt, w->ld);
    float whole[DTYPE_BLOCK_MAX];
    const int block = dtype_info[w->dt].block;
    if (block <= 32) {
        dequantise_row(w->dt, p + dtype_row_bytes(w->dt, k0), dst, n);
        return;
    }
    for (int64_t done = 0, len; done < n; done += len) {
        int64_t at = (k0 + done) % block;
        len = imin(block - at, n - done);
        dequantise_row(w->dt, p + dtype_row_bytes(w->dt, k0 + done - at), whole, block);
        memcpy(dst + done, whole + at, (size_t)len * sizeof(float));
    }
}

static void generic_unpack(const struct gemm_w *w, int64_t n0, int cols, int64_t k0, int64_t kc, float *dst,
                           float *tmp) {
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
        float sum[G_DOT_GROUP];
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

const struct gemm_isa gemm_generic = {G_MR, G_NR, G_DOT_GROUP, G_DOT_GROUP, generic_tile, generic_pack, generic_unpack, generic_dot};

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

const struct gemm_int_isa *gemm_int_isa(void) {
#if defined(__x86_64__)
    if (cpu_vnni()) return &gemm_vnni;
#endif
    return NULL;
}

bool gemm_takes_ints(dtype dt, int64_t k) {
    return (dt == DT_Q4_0 || dt == DT_Q4_1 || dt == DT_Q8_0) && k % 64 == 0 && gemm_int_isa();
}
