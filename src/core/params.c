/* See params.h. */
#include "core/params.h"
#include "base/philox.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t elems_of(const struct param *p) {
    int64_t n = 1;
    for (int i = 0; i < p->nd; i++) n *= p->d[i];
    return n;
}

static size_t padded_bytes(const struct param *p) { return ((size_t)elems_of(p) * 4 + 63) & ~(size_t)63; }

/* Programs ask in the order in which they have laid down: the next is mostly the one behind the last. */
static int find(const struct param_set *s, const char *name, int first) {
    for (int k = 0; k < s->n; k++) {
        const int i = (first + k) % s->n;
        if (!strcmp(s->p[i].name, name)) return i;
    }
    return -1;
}

/* The lender's parameter as one of this set; it begins with the lender's numbers. */
static int borrow(struct param_set *s, const char *name) {
    const struct param_lender l = s->lender;
    const int from = find(l.set, name, 0);
    if (from < 0 || l.set->p[from].nd > 2) return -1;
    const struct param *p = &l.set->p[from];
    char own[512];
    snprintf(own, sizeof own, "%s/%s", l.name, name);
    const struct param_slice whole = {.name = own, .rows = p->d[0], .from = l.weights + p->off / 4, .stored = DT_F32};
    s->lender.set = NULL;
    const int got = param_get(s, own, p->nd, p->d, INIT_COPY, 0, &whole, 1);
    s->lender = l;
    return got;
}

int param_get(struct param_set *s, const char *name, int nd, const int64_t *d, enum param_init init, float scale,
              const struct param_slice *slice, int n_slices) {
    if (s->lender.set) return borrow(s, name);
    const int known = find(s, name, s->next);
    if (known >= 0) s->next = known + 1;
    if (known >= 0 || s->sealed) return known;
    if (s->n == s->cap) {
        int cap = s->cap ? 2 * s->cap : 64;
        struct param *p = realloc(s->p, (size_t)cap * sizeof *p);
        if (!p) return -1;
        s->p = p;
        s->cap = cap;
    }
    struct param *p = &s->p[s->n];
    *p = (struct param){.nd = nd, .init = init, .init_scale = scale, .rate = 1, .off = s->bytes, .n_slices = n_slices};
    for (int i = 0; i < nd; i++) p->d[i] = d[i];
    p->name = arena_str(&s->mem, name);
    p->slice = arena_alloc(&s->mem, (size_t)n_slices * sizeof *slice + 1);
    if (!p->name || !p->slice) return -1;
    for (int i = 0; i < n_slices; i++) {
        p->slice[i] = slice[i];
        p->slice[i].name = arena_str(&s->mem, slice[i].name);
        if (slice[i].also) p->slice[i].also = arena_str(&s->mem, slice[i].also);
        if (!p->slice[i].name || (slice[i].also && !p->slice[i].also)) return -1;
    }
    s->bytes += padded_bytes(p);
    return s->n++;
}

void param_rate(struct param_set *s, int index, float rate) {
    if (index >= 0 && !s->sealed) s->p[index].rate = rate;
}

void param_occasional(struct param_set *s, int index) {
    if (index >= 0 && !s->sealed) s->p[index].occasional = true;
}

void param_keep(struct param_set *s, int index, int64_t rows, int64_t columns) {
    if (index < 0 || s->sealed) return;
    s->p[index].kept = true;
    s->p[index].keeps[0] = rows, s->p[index].keeps[1] = columns;
}

void param_freeze(struct param_set *s, int index) {
    if (index >= 0 && !s->sealed) s->p[index].frozen = true;
}

/* The least rate above `above` among the matrices, or the vectors; 0: none. */
static float next_rate(const struct param_set *s, bool vectors, float above) {
    float least = 0;
    for (int i = 0; i < s->n; i++)
        if (!s->p[i].frozen && (s->p[i].nd == 1) == vectors && s->p[i].rate > above && (least == 0 || s->p[i].rate < least)) least = s->p[i].rate;
    return least;
}

void param_seal(struct param_set *s) {
    s->bytes = 0;
    for (int vectors = 0; vectors < 2; vectors++) {
        if (vectors) s->vectors = s->bytes;
        for (float rate = next_rate(s, vectors, 0); rate > 0; rate = next_rate(s, vectors, rate))
            for (int i = 0; i < s->n; i++) {
                if (s->p[i].frozen || (s->p[i].nd == 1) != vectors || s->p[i].rate != rate) continue;
                s->p[i].off = s->bytes;
                s->bytes += padded_bytes(&s->p[i]);
            }
    }
    s->trained = s->bytes;
    for (int i = 0; i < s->n; i++) {
        if (!s->p[i].frozen) continue;
        s->p[i].off = s->bytes;
        s->bytes += padded_bytes(&s->p[i]);
    }
    s->sealed = true;
}

size_t param_end(const struct param *p) { return p->off + padded_bytes(p); }

struct param_stretch param_stretch(const struct param_set *s, size_t from) {
    struct param_stretch t = {s->trained, 1, from >= s->vectors};
    size_t start = 0; /* of the parameter that `from` is in */
    for (int i = 0; i < s->n; i++)
        if (s->p[i].off <= from && s->p[i].off >= start) start = s->p[i].off, t.rate = s->p[i].rate;
    for (int i = 0; i < s->n; i++)
        if (s->p[i].off > from && s->p[i].off < t.end && (s->p[i].rate != t.rate || (s->p[i].nd == 1) != t.vectors)) t.end = s->p[i].off;
    return t;
}

size_t param_work_bytes(const struct param_set *s, dtype compute) {
    return (s->vectors + s->bytes - s->trained) / 4 * dtype_row_bytes(compute, 1) + (s->trained - s->vectors);
}

size_t param_weight_bytes(const struct param_set *s) { return s->narrow ? param_work_bytes(s, DT_BF16) : s->bytes; }

size_t param_list_bytes(const struct param_set *s) { return arena_used(&s->mem) + (size_t)s->n * sizeof *s->p; }

/* Byte of the working copy in `dt`: before it lie matrices in that type, and vectors in f32. */
static size_t work_offset(const struct param_set *s, const struct param *p, dtype dt) {
    const size_t vectors = !s->sealed || p->off < s->vectors ? 0 : (p->off < s->trained ? p->off : s->trained) - s->vectors;
    return (p->off - vectors) / 4 * dtype_row_bytes(dt, 1) + vectors;
}

void *param_place(const struct param_set *s, const struct param *p, const void *weights, dtype *dt) {
    *dt = s->narrow && p->nd > 1 ? DT_BF16 : DT_F32;
    return (char *)weights + work_offset(s, p, s->narrow ? DT_BF16 : DT_F32);
}

void param_read(const struct param_set *s, const struct param *p, const void *weights, int64_t first, int64_t n, float *to) {
    dtype dt;
    const char *at = param_place(s, p, weights, &dt);
    dequantise_row(dt, at + dtype_row_bytes(dt, first), to, n);
}

void param_write(const struct param_set *s, const struct param *p, void *weights, int64_t first, int64_t n, const float *from) {
    dtype dt;
    char *at = param_place(s, p, weights, &dt);
    quantise_row(dt, from, at + dtype_row_bytes(dt, first), n);
}

void param_free(struct param_set *s) {
    arena_free(&s->mem);
    free(s->p);
    *s = (struct param_set){0};
}

int64_t param_count(const struct param_set *s) {
    int64_t n = 0;
    for (int i = 0; i < s->n; i++) n += s->p[i].frozen ? 0 : elems_of(&s->p[i]);
    return n;
}

int param_of_slice(const struct param_set *s, const char *name) {
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < s->p[i].n_slices; k++)
            if (!strcmp(s->p[i].slice[k].name, name)) return i;
    return -1;
}

bool param_copies(const struct param_set *s, const void *data) {
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < s->p[i].n_slices && s->p[i].init == INIT_COPY; k++)
            if (s->p[i].slice[k].from == data && !s->p[i].slice[k].base_stays) return true;
    return false;
}

val prog_param(struct prog *p, const struct param_set *s, int index) {
    if (p->failed) return (val){0};
    if (index < 0 && s->sealed)
        return prog_fail(p, E_UNSUPPORTED,
                         "the adapter has been laid down without a part of the model that is read here (the output projection?)"),
               (val){0};
    if (index < 0) return prog_fail(p, E_MEMORY, "out of memory while building a program"), (val){0};
    const struct param *q = &s->p[index];
    val v = prog_value(p, ROLE_PARAM, q->nd == 1 ? DT_F32 : prog_dt(p), q->nd, q->d, q->name);
    if (!has(v)) return v;
    prog_v(p, v)->off = work_offset(s, q, prog_dt(p));
    prog_v(p, v)->grad = q->off;
    prog_v(p, v)->needs = !q->frozen;
    return v;
}

val prog_param_rows(struct prog *p, const struct param_set *s, int index, int64_t row0, int64_t rows) {
    val v = prog_param(p, s, index);
    if (!has(v)) return v;
    struct value *x = prog_v(p, v);
    x->off += (size_t)row0 * dtype_row_bytes(x->dt, x->d[1]);
    x->d[0] = rows;
    x->needs = false;
    return v;
}

enum { PIECE = 4096 }; /* numbers at a time; whole blocks of every stored type */

/* A vector is one row of its numbers. */
static void copy_slices(const struct param_set *set, const struct param *p, void *weights) {
    for (int i = 0; i < p->n_slices; i++) {
        const struct param_slice *s = &p->slice[i];
        const int64_t rows = p->nd > 1 ? s->rows : 1, columns = p->nd > 1 ? p->d[1] : s->rows;
        const int64_t first = s->row0 * (p->nd > 1 ? columns : 1);
        const size_t bytes = dtype_row_bytes(s->stored, columns);
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c += PIECE) {
                float piece[PIECE];
                const int64_t n = columns - c < PIECE ? columns - c : PIECE;
                dequantise_row(s->stored, (const char *)s->from + bytes * (size_t)r + dtype_row_bytes(s->stored, c), piece, n);
                for (int64_t k = 0; k < n && s->times != 0; k++) piece[k] *= s->times;
                param_write(set, p, weights, first + r * columns + c, n, piece);
            }
    }
}

static float slice_scale(const struct param *p, int64_t element) {
    int64_t columns = p->nd > 1 ? p->d[1] : 1, row = element / columns;
    for (int i = 0; i < p->n_slices; i++)
        if (row >= p->slice[i].row0 && row < p->slice[i].row0 + p->slice[i].rows) return p->slice[i].init_scale;
    return 0;
}

/* Two uniforms to one normal (Box-Muller). */
static float normal(uint32_t a, uint32_t b) {
    double u = (a + 1.0) * 0x1p-32, t = 6.283185307179586 * (b * 0x1p-32);
    return (float)(sqrt(-2 * log(u)) * cos(t));
}

static err make_slices(const struct param_set *set, const struct param *p, uint64_t key, void *weights) {
    const int64_t columns = p->nd > 1 ? p->d[1] : 1;
    dtype dt;
    float *w = param_place(set, p, weights, &dt);
    if (dt != DT_F32) return fail(E_INTERNAL, "%s is made in f32, and its arena is not", p->name);
    for (int i = 0; i < p->n_slices; i++) TRY(p->slice[i].make(&p->slice[i], columns, key, w + p->slice[i].row0 * columns));
    return OK;
}

static float first_number(const struct param *p, uint64_t key, int i, int64_t k) {
    const struct philox r = philox(key, (uint32_t)i, (uint32_t)k, (uint32_t)(k >> 32), 0);
    if (p->init == INIT_ONE) return 1;
    return p->init == INIT_UNIFORM ? (2 * philox_unit(r.v[0]) - 1) * p->init_scale : normal(r.v[0], r.v[1]) * slice_scale(p, k);
}

err param_fill(const struct param_set *s, uint64_t key, void *weights) {
    memset(weights, 0, param_weight_bytes(s));
    for (int i = 0; i < s->n; i++) {
        const struct param *p = &s->p[i];
        const int64_t n = p->init == INIT_ZERO || p->init == INIT_COPY || p->init == INIT_MADE ? 0 : elems_of(p);
        if (p->init == INIT_COPY) copy_slices(s, p, weights);
        if (p->init == INIT_MADE) TRY(make_slices(s, p, key, weights));
#pragma omp parallel for schedule(static) if (n > PIECE)
        for (int64_t k = 0; k < n; k += PIECE) { /* each number is a function of its place */
            float piece[PIECE];
            const int64_t end = n - k < PIECE ? n - k : PIECE;
            for (int64_t j = 0; j < end; j++) piece[j] = first_number(p, key, i, k + j);
            param_write(s, p, weights, k, end, piece);
        }
    }
    return OK;
}
