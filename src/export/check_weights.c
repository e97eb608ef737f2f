/* The weights' half of the check (check.h): what was written, tensor by tensor, against what should have been. Rows are named in Hugging
 * Face's order and looked up in each file by what its own model says of it (struct weight, rope_heads), so that this shares nothing
 * with the plan that wrote them but the numbers. */
#include "core/rope_rows.h"
#include "export/check.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_LOOKED_AT = 8 };

/* The most that a type's rounding can be of a row's size: half a step for each number of a block whose step one great number sets.
 * step: of the block's greatest magnitude. Plain types: half a unit in the last place, and as much again for sums in another order. */
static double worst_of(dtype dt) {
    static const struct {
        const char *name;
        double step;
        int block;
    } steps[] = {{"q8_0", 1.0 / 127, 32}, {"q6_k", 1.0 / 32, 16}, {"q5_0", 1.0 / 16, 32}, {"q5_1", 2.0 / 31, 32},
                 {"q5_k", 2.0 / 31, 32},  {"q4_0", 1.0 / 8, 32},  {"q4_1", 2.0 / 15, 32}, {"q4_k", 2.0 / 15, 32}};
    if (dt == DT_F32) return 1e-6;
    if (dt == DT_F16) return 1e-3;
    if (dt == DT_BF16) return 8e-3;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (!strcmp(steps[i].name, dtype_info[dt].name))
            return 1.5 * steps[i].step / 2 * sqrt(steps[i].block); /* 1.5: scales are rounded too */
    return 0.7;
}

/* The type in the file: what the model has may be a copy in f32. */
static dtype stored_as(const struct model *m, const struct weight *w) {
    const struct tensor *t = tensor_of_weight(m, w);
    return t && t->dt ? t->dt : w->dt;
}

static int64_t row_in(const struct weight *w, int64_t row) { return w->rope_heads ? rope_row_in_pairs(row, w->d[0] / w->rope_heads) : row; }

/* to has room for a row of which this is a part. */
static void read_row(const struct weight *w, int64_t row, int64_t cols, float *to) {
    const struct picked *p = w->pick;
    const int64_t at = row_in(w, row), all = p && p->col ? p->cols : cols;
    dequantise_row(w->dt, (const char *)w->data + dtype_row_bytes(w->dt, all) * (size_t)(p && p->row ? p->row[at] : at), to, all);
    for (int64_t c = 0; c < cols && p && p->col; c++) to[c] = to[p->col[c]];
}

/* The adapter's own row in the place of the base's; of a vector all of it. */
static void read_whole(const struct delta *d, int64_t row, int64_t cols, float *to) {
    const struct tensor *t = d->whole;
    const size_t each = (size_t)dtype_info[t->dt].bytes;
    for (int64_t c = 0; c < cols && d->w->turned; c++)
        dequantise_row(t->dt, (const char *)t->data + each * (size_t)(c * t->d[1] + row), to + c, 1);
    if (!d->w->turned) dequantise_row(t->dt, (const char *)t->data + each * (size_t)(row * cols), to, cols);
    form_from_file(&d->w->form, to, cols);
}

static void add_delta(const struct delta *d, int64_t row, float *to, float *a, float *b) {
    int64_t cols = d->a->d[1];
    dequantise_row(d->b->dt, (const char *)d->b->data + dtype_row_bytes(d->b->dt, d->rank) * (size_t)row, b, d->rank);
    for (int k = 0; k < d->rank; k++) {
        dequantise_row(d->a->dt, (const char *)d->a->data + dtype_row_bytes(d->a->dt, cols) * (size_t)k, a, cols);
        for (int64_t c = 0; c < cols; c++) to[c] += (float)(d->scale * b[k]) * a[c];
    }
    double squares = 0;
    for (int64_t c = 0; c < cols && d->m; c++) squares += (double)to[c] * to[c];
    for (int64_t c = 0; c < cols && d->m; c++) to[c] = (float)(to[c] * delta_factor(d, row, squares));
}

/* Size of the difference over size of the row, the worst of the rows looked at. Vectors are one row; of q's and k's bias each number
 * is looked up. */
static double error_of(const struct weight *base, const struct delta *d, const struct weight *w, float *buf) {
    int64_t rows = base->nd == 2 ? base->d[0] : 1, cols = base->nd == 2 ? base->d[1] : base->d[0];
    int64_t step = rows <= ROWS_LOOKED_AT ? 1 : rows / ROWS_LOOKED_AT + 1; /* odd places too: neighbours differ in order */
    float *want = buf, *have = want + cols, *a = have + cols, *b = a + cols;
    double worst = 0;
    for (int64_t r = 0; r < rows; r += step) {
        double diff = 0, size = 0;
        if (base->nd == 2) read_row(base, r, cols, want), read_row(w, r, cols, have);
        else
            for (int64_t i = 0; i < cols; i++) read_row(base, i, 1, want + i), read_row(w, i, 1, have + i);
        if (d && d->whole) read_whole(d, r, cols, want);
        else if (d) add_delta(d, r, want, a, b);
        for (int64_t c = 0; c < cols; c++) {
            diff += ((double)have[c] - want[c]) * ((double)have[c] - want[c]);
            size += (double)want[c] * want[c];
        }
        double rel = size > 0 ? sqrt(diff / size) : diff > 0 ? 1 : 0;
        if (!(rel <= worst)) worst = rel;
    }
    return worst;
}

static int64_t buffer_of(const struct model *m, const struct deltas *d) {
    int64_t most = 0;
    for (int i = 0; i < m->n; i++) {
        const struct weight *w = &m->w[i];
        if (w->d[w->nd - 1] > most) most = w->d[w->nd - 1];
        if (w->pick && w->pick->cols > most) most = w->pick->cols;
    }
    return 3 * most + (d ? d->max_rank : 0) + 1;
}

static bool left_out(const struct weight *x, const struct model *written) { return x->hf_only && written->gguf; }

err check_weights(const struct model *base, const struct deltas *d, const struct model *written, json_t *report) {
    const struct weight *worst = NULL;
    double most = -1, error = 0;
    float *buf = malloc((size_t)buffer_of(base, d) * sizeof *buf);
    int n = base->n;
    for (int i = 0; i < base->n; i++) n -= left_out(&base->w[i], written);
    err e = !buf              ? fail(E_MEMORY, "out of memory")
            : n == written->n ? OK
                              : fail(E_INTERNAL, "%d tensors were written of %d", written->n, n);
    for (int i = 0; i < base->n && !e; i++) {
        const struct weight *x = &base->w[i], *w = model_weight(written, x->name);
        if (left_out(x, written)) continue;
        if (!w || w->nd != x->nd || memcmp(w->d, x->d, (size_t)x->nd * sizeof *x->d))
            e = fail(E_INTERNAL, "what was written has no %s of the base's shape", x->name);
        if (e) break;
        double rel = error_of(x, deltas_of(d, x), w, buf), bound = worst_of(stored_as(written, w));
        if (!(rel / bound <= most)) most = rel / bound, error = rel, worst = w;
        if (!(rel <= bound))
            e = fail(E_NUMERIC,
                     "the check failed: rows of %s differ by %.3g of their size from the base's with the adapter (%.2g is what %s "
                     "explains); nothing was left of it",
                     x->name, rel, bound, dtype_info[stored_as(written, w)].name);
    }
    free(buf);
    if (worst)
        json_object_set_new(report, "weights_check",
                            json_pack("{s:i, s:s, s:s, s:f, s:f}", "tensors", n, "tensor", worst->name, "dtype",
                                      dtype_info[stored_as(written, worst)].name, "relative", error, "bound",
                                      most > 0 ? error / most : worst_of(stored_as(written, worst))));
    return e;
}

/* Rounded to the type of the folder, and nothing else. */
err check_head(const struct deltas *d, const struct model *written) {
    for (int k = 0; k < 2 && d->head_part[k]; k++) {
        const struct tensor *want = d->head_part[k];
        char name[64];
        snprintf(name, sizeof name, "%s.%s", d->head_module, k ? "bias" : "weight");
        const struct tensor *have = tensors_find(&written->files, name);
        if (!have || have->nd != want->nd || memcmp(have->d, want->d, (size_t)want->nd * sizeof *want->d))
            return fail(E_INTERNAL, "what was written has no %s of the head's shape", name);
        const double bound = worst_of(have->dt);
        for (int64_t i = 0; i < want->d[0] * (k ? 1 : want->d[1]); i++) {
            float x, y;
            dequantise_row(want->dt, (const char *)want->data + (size_t)i * (size_t)dtype_info[want->dt].bytes, &x, 1);
            dequantise_row(have->dt, (const char *)have->data + (size_t)i * (size_t)dtype_info[have->dt].bytes, &y, 1);
            if (!(fabs((double)x - y) <= bound * (fabs((double)x) + 1e-4))) /* f16 has fixed steps below 6e-5 */
                return fail(E_NUMERIC, "the check failed: number %lld of %s is %g, not %g; nothing was left of it", (long long)i + 1, name,
                            y, x);
        }
    }
    return OK;
}

/* --- an undone merge ----------------------------------------------------------------------------------------------- */
struct sameness { double worst, off, size; const char *at; int64_t same, all; };

static void compare_rows(const struct weight *want, const struct weight *have, float *buf, struct sameness *s) {
    const int64_t cols = want->d[1];
    for (int64_t r = 0; r < want->d[0]; r++) {
        read_row(want, r, cols, buf), read_row(have, r, cols, buf + cols);
        for (int64_t c = 0; c < cols; c++) {
            const double off = fabs((double)buf[c] - buf[cols + c]);
            s->same += off == 0;
            s->off += off * off;
            s->size += (double)buf[c] * buf[c];
            if (off > s->worst) s->worst = off, s->at = want->name;
        }
    }
    s->all += want->d[0] * cols;
}

err check_alike(const struct model *like, const struct deltas *d) {
    for (int i = 0; i < d->n; i++) {
        const struct weight *x = d->d[i].w, *w = model_weight(like, x->name);
        if (!w || w->nd != x->nd || memcmp(w->d, x->d, (size_t)x->nd * sizeof *x->d))
            return fail(E_USAGE, "%s has no %s of the merged model's shape: it is not the base that it was merged from", like->path, x->name);
    }
    return OK;
}

err check_same(const struct model *like, const struct deltas *d, const struct model *written, json_t *report) {
    struct sameness s = {.at = ""};
    dtype dt = DT_F32;
    float *buf = malloc((size_t)buffer_of(like, d) * sizeof *buf);
    err e = buf ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < d->n && !e; i++) {
        const struct weight *have = model_weight(written, d->d[i].w->name);
        compare_rows(model_weight(like, d->d[i].w->name), have, buf, &s);
        dt = stored_as(written, have);
    }
    free(buf);
    if (!e)
        json_object_set_new(report, "undone",
                            json_pack("{s:s, s:f, s:s, s:f, s:s, s:f}", "like", like->path, "worst", s.worst, "tensor", s.at, "relative",
                                      sqrt(s.off / (s.size > 0 ? s.size : 1)), "dtype", dtype_info[dt].name, "same",
                                      s.all ? (double)s.same / (double)s.all : 1));
    return e;
}
