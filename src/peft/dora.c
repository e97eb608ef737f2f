/* DoRA (Liu et al. 2024): y = (m / ||W + s B A||) * (W x + s B A x) + bias, norms of rows, m [out] trained. m begins as ||W||, so that
 * step 0 is the base: exactly, but for the bias, which is added after the product and not in it.
 *
 * W + B A is never formed (ops/magnitude.c). Its cross term P = A W^T reads W once more in each pass, for as many rows as the rank; A goes
 * into it as rows that no gradient flows to, for the norm is a constant to the gradient (section 4.3; PEFT). Decoding reads what prefill
 * has computed, so a token costs no more than with LoRA and a multiplication.
 *
 * Dropout is on the input of the delta alone, as in LoRA. PEFT, while it trains with dropout, also drops the input of the part of W x by
 * which the factor differs from 1; without dropout, and whenever nothing is trained, both are the same. */
#include "peft/dora.h"
#include "ops/ops.h"
#include <stdio.h>

/* [out] f32; PEFT's files of today have no ".weight" behind the name. */
static int magnitude_param(struct site *s, const struct dora *d, const struct linear *w, val squares) {
    char name[256], file[256], also[264];
    snprintf(name, sizeof name, "%s.lora_magnitude", w->of.name);
    snprintf(file, sizeof file, "%s.lora_magnitude_vector", w->of.module);
    snprintf(also, sizeof also, "%s.weight", file);
    const struct param_slice slice = {.name = file, .also = also, .rows = w->out, .rope_heads = w->rope_heads, .from = prog_v(s->p, squares)->data, .stored = DT_F32};
    const int p = param_get(s->params, name, 1, &w->out, INIT_ROOT, 0, &slice, 1);
    param_rate(s->params, p, d->rate);
    param_keep(s->params, p);
    return p;
}

/* x A^T for A's rows of this delta as x, or as the matrix: f32. */
static val product(struct site *s, val x, val matrix) {
    val in[LIN_IN] = {[LIN_X] = x, [LIN_W] = matrix};
    return emit1(s->p, &op_linear, in, LIN_IN, &(struct op_attr){.n = 1, .wide = true});
}

/* m / norm. These are small and no part of a block: recomputing a block does not compute them again. */
static val factor(struct site *s, const struct dora *d, const struct linear *w, val squares, int m) {
    const int segment = s->p->segment;
    s->p->segment = 0;
    val a = prog_param_rows(s->p, s->params, d->a, d->row0, d->rank);
    val in[] = {prog_param(s->p, s->params, m), squares, product(s, a, w->w), d->b, product(s, a, a), s->kept ? s->kept[m] : (val){0}};
    val l = emit1(s->p, &op_magnitude, in, 6, &(struct op_attr){.scale = d->scale});
    s->p->segment = segment;
    return l;
}

val dora_output(struct site *s, const struct dora *d, const struct linear *w, val y) {
    val squares = s->row_norms(s, w);
    if (s->p->failed) return (val){0};
    const int m = magnitude_param(s, d, w, squares);
    if (m < 0) return prog_fail(s->p, E_MEMORY, "out of memory while building a program"), (val){0};
    val l = s->mode == MODE_DECODE ? s->kept[m] : factor(s, d, w, squares, m);
    return emit1(s->p, &op_scale, (val[]){y, l, w->bias}, 3, NULL);
}
