/* See wide.h. */
#include "core/wide.h"

enum { ALIGN = 64, LEAST = 16384 /* numbers: fewer are not worth a second thread */ };

static bool half(const struct view *v) { return v->dt == DT_BF16 || v->dt == DT_F16; }
static bool widens(const struct wide *w, const struct view *in, int k) { return half(&in[k]) && !(w->as_stored >> k & 1); }
static int64_t columns(const struct view *v) { return v->nd == 2 ? v->d[1] : view_cols(v); }
static int64_t stride(const struct view *v) { return v->nd == 2 ? v->ld : view_cols(v); }

bool wide_needed(const struct wide *w, const struct inst *inst, const struct view *in, const struct view *out) {
    for (int k = 0; k < inst->op->n_in; k++)
        if (widens(w, in, k)) return true;
    for (int k = 0; k < inst->op->n_out; k++)
        if (half(&out[k])) return true;
    return false;
}

/* The rows of one block; *all: of the instruction. */
static int64_t block(const struct wide *w, const struct inst *inst, const struct view *in, const struct view *out, int64_t *all) {
    *all = 0;
    for (int k = inst->op->n_out - 1; k >= 0; k--)
        if (w->rows_out >> k & 1 && out[k].nd) *all = out[k].d[0];
    for (int k = inst->op->n_in - 1; k >= 0; k--)
        if (w->rows_in >> k & 1 && in[k].nd) *all = in[k].d[0];
    return *all < w->rows ? *all : w->rows;
}

/* v as the kernel sees it: f32, and of the rows of one block. Returns the bytes of such a copy. */
static size_t shaped(struct view *v, bool copied, bool sliced, int64_t rows) {
    if (sliced && v->nd) v->d[0] = rows;
    if (!copied) return 0;
    v->dt = DT_F32;
    v->ld = columns(v);
    return (view_bytes(v) + ALIGN - 1) / ALIGN * ALIGN;
}

/* What the kernel is given for a block. */
struct widened {
    struct view in[MAX_IN], out[MAX_OUT];
    int64_t first, rows; /* of the token rows */
};

/* Returns the bytes of the copies, which lie one after the other from `room` on. */
static size_t lay_out(const struct wide *w, const struct inst *inst, const struct view *in, const struct view *out, int64_t rows,
                      struct widened *as, char *room) {
    size_t bytes = 0;
    for (int k = 0; k < inst->op->n_in; k++) {
        as->in[k] = in[k];
        const size_t own = shaped(&as->in[k], widens(w, in, k), w->rows_in >> k & 1, rows);
        if (own && in[k].p) as->in[k].p = room + bytes;
        bytes += own;
    }
    for (int k = 0; k < inst->op->n_out; k++) {
        as->out[k] = out[k];
        const size_t own = shaped(&as->out[k], half(&out[k]), w->rows_out >> k & 1, rows);
        if (own && out[k].p) as->out[k].p = room + bytes;
        bytes += own;
    }
    return bytes;
}

size_t wide_scratch(const struct wide *w, const struct inst *inst, const struct view *in, const struct view *out) {
    struct widened as;
    int64_t all;
    const size_t copies = lay_out(w, inst, in, out, block(w, inst, in, out, &all), &as, NULL);
    return copies + (w->scratch ? w->scratch(inst, as.in, as.out) : 0);
}

/* Rows first .. of the narrow view, as many as the wide one has, one way or the other. */
static void convert(const struct wide *w, const struct run_ctx *run, const struct view *narrow, int64_t first, const struct view *wide,
                    bool widen) {
    const int64_t rows = view_rows(wide), n = columns(wide);
    const int threads = rows * n < LEAST || run->threads < 1 ? 1 : run->threads;
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        uint16_t *there = (uint16_t *)narrow->p + (first + r) * stride(narrow);
        float *here = (float *)wide->p + r * n;
        if (widen) w->widen(narrow->dt, there, here, n);
        else w->narrow(narrow->dt, here, there, n);
    }
}

/* An operand that the kernel reads where it lies, from row `first` on. */
static void slide(struct view *to, const struct view *v, int64_t first) {
    to->p = (char *)v->p + dtype_row_bytes(v->dt, first * (v->nd == 1 ? 1 : v->ld));
}

/* A program computes in one type: that of any operand of 16 bits. */
static dtype half_of(const struct inst *inst, const struct view *in, const struct view *out) {
    for (int k = 0; k < inst->op->n_out; k++)
        if (half(&out[k])) return out[k].dt;
    for (int k = 0; k < inst->op->n_in; k++)
        if (half(&in[k])) return in[k].dt;
    return DT_NONE;
}

/* The operands of the block that `as` is about. */
static void bring(const struct wide *w, const struct run_ctx *run, const struct inst *inst, const struct view *in, const struct view *out,
                  struct widened *as) {
    for (int k = 0; k < inst->op->n_in; k++) {
        if (!(w->rows_in >> k & 1) || !in[k].p) continue;
        as->in[k].d[0] = as->rows;
        if (widens(w, in, k)) convert(w, run, &in[k], as->first, &as->in[k], true);
        else slide(&as->in[k], &in[k], as->first);
    }
    for (int k = 0; k < inst->op->n_out; k++) {
        if (!(w->rows_out >> k & 1) || !out[k].p) continue;
        as->out[k].d[0] = as->rows;
        if (!half(&out[k])) slide(&as->out[k], &out[k], as->first);
    }
}

static err run_blocks(const struct wide *w, const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                      void *scratch) {
    struct widened as = {.first = 0};
    struct run_ctx half_run = *run;
    half_run.operands = half_of(inst, in, out);
    int64_t all, step = block(w, inst, in, out, &all);
    char *own = (char *)scratch + lay_out(w, inst, in, out, step, &as, scratch);
    for (int k = 0; k < inst->op->n_in; k++)
        if (in[k].p && widens(w, in, k) && !(w->rows_in >> k & 1)) convert(w, run, &in[k], 0, &as.in[k], true);
    do {
        as.rows = all - as.first < step ? all - as.first : step;
        bring(w, run, inst, in, out, &as);
        TRY(w->run(&half_run, inst, as.in, as.out, own));
        for (int k = 0; k < inst->op->n_out; k++)
            if (out[k].p && half(&out[k])) convert(w, run, &out[k], as.first, &as.out[k], false);
        as.first += step;
    } while (as.first < all);
    return OK;
}

/* Rows of several adapters: one adapter after the other, for the matrices that are widened are its own. */
err wide_run(const struct wide *w, const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
             void *scratch) {
    struct view own_in[MAX_IN], own_out[MAX_OUT];
    struct run_ctx alone = *run;
    alone.adapters = NULL;
    const int n = run->adapters && inst->op->part ? run->adapters->n : 0;
    for (int k = 0; k < n; k++) {
        if (!inst->op->part(run->adapters, k, inst, in, out, own_in, own_out)) return run_blocks(w, &alone, inst, in, out, scratch);
        TRY(run_blocks(w, &alone, inst, own_in, own_out, scratch));
    }
    return n ? OK : run_blocks(w, run, inst, in, out, scratch);
}

/* --- definitions ---------------------------------------------------------------------------------------------------- */
static struct wide of_definition(const struct inst *inst) {
    return (struct wide){.run = inst->op->ref, .scratch = inst->op->ref_scratch, .widen = dequantise_row, .narrow = quantise_row};
}

static err run_definition(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    const struct wide w = of_definition(inst);
    return wide_run(&w, run, inst, in, out, scratch);
}

kernel wide_reference(const struct inst *inst, const struct view *in, const struct view *out, size_t *scratch) {
    const struct wide w = of_definition(inst);
    const bool through = !inst->op->any_type && wide_needed(&w, inst, in, out);
    *scratch = through ? wide_scratch(&w, inst, in, out) : w.scratch ? w.scratch(inst, in, out) : 0;
    return through ? run_definition : inst->op->ref;
}
