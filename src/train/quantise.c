/* A run's quantised base: what `quantization` and its keys become, what they do not go with, and the loss of quality that they cost
 * (quantization_check). model/quantised.h makes the numbers, gen/rules.h says which matrix gets which type. */
#include "train/run.h"
#include "gen/rules.h"
#include "model/quantised.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static err keep_fp8(const struct run *r, struct base *b) {
    b->model.keep = DT_F8;
    if (r->cfg->quantization_modules.n) return fail(E_USAGE, "quantization_modules goes with nf4, int8 and GGUF's types, not with fp8");
    if (!r->backend->keeps || !r->backend->keeps(DT_F8))
        return fail(E_USAGE, "quantization: fp8 needs a Hopper card (compute capability 9.0) and cuBLASLt 12.9 or newer; this run is on %s",
                    r->backend->name);
    return r->compute == DT_F32 ? fail(E_USAGE, "quantization: fp8 goes with dtype bfloat16 or float16, not float32") : OK;
}

/* Of the file's tensors one is there at a time, and meanwhile none of the base's own that are mapped. */
static size_t mapped_more(const struct model *file, const struct model *base) {
    size_t most = 0, own = 0;
    for (int i = 0; i < file->n; i++) {
        if (model_maps(file, &file->w[i]) && weight_bytes(&file->w[i]) > most) most = weight_bytes(&file->w[i]);
        if (model_maps(base, &base->w[i])) own += weight_bytes(&base->w[i]);
    }
    return most + NEIGHBOURS_BYTES > own ? most + NEIGHBOURS_BYTES - own : 0;
}

/* What the check takes. Two random models have nothing to be alike in. */
static err size_check(struct base *b) {
    struct model file;
    if (b->model.random) return OK;
    if (!b->model.sizes_only) TRY(model_open(b->cfg->model, NULL, &file));
    err e = likeness_bytes(b->model.sizes_only ? &b->model : &file, &b->model, &b->check_bytes);
    if (!b->model.sizes_only) b->check_bytes += mapped_more(&file, &b->model), model_close(&file);
    return e ? fail_in(e, "quantization_check") : OK;
}

/* Not wanted: then nothing that only it makes sense with. */
static err not_quantised(const struct run *r) {
    const char *key = r->cfg->quantization_modules.n ? "quantization_modules" : r->cfg->quantization_check ? "quantization_check" : NULL;
    return key ? fail(E_USAGE, "%s says how a base is quantised, and quantization is none", key) : OK;
}

err quantise_open(const struct run *r, struct base *b) {
    const struct config *c = r->cfg;
    struct rules rules;
    str what = {0};
    if (!strcmp(c->quantization, "none")) return not_quantised(r);
    if (!strcmp(c->quantization, "fp8"))
        return c->quantization_check ? fail(E_USAGE, "quantization_check runs on the processor, which has no fp8") : keep_fp8(r, b);
    TRY(rules_read(c->quantization, c->quantization_modules.v, c->quantization_modules.n, "quantization_modules", &b->model.mem, &rules));
    dtype *to = calloc((size_t)b->model.n + 1, sizeof *to);
    err e = to ? rules_apply(&rules, &b->model, to) : fail(E_MEMORY, "out of memory");
    if (!e) e = quantised_open(&b->model, to, c->double_quant);
    if (!e) rules_print(&b->model, to, &what);
    if (!e && !what.p)
        e = what.failed ? fail(E_MEMORY, "out of memory")
                        : fail(E_USAGE, "quantization: %s finds no matrix in %s", c->quantization, b->model.path);
    b->quantised = what.p;
    free(to);
    return !e && c->quantization_check && r->backend->mem->host ? size_check(b) : e;
}

/* What is trained as a copy of the base's begins at the base's numbers, not at rounded ones. */
err quantise_allowed(const struct run *r) {
    for (int p = 0; p < r->n_plans; p++) {
        const struct base *b = r->plans[p].base;
        for (int i = 0; i < b->model.n && b->quantised; i++) {
            const struct weight *w = &b->model.w[i];
            if (dtype_quantised(w->dt) && param_copies(&r->plans[p].st.params, w->data))
                return fail(E_USAGE,
                            "%s is to be trained itself (method %s): it cannot be quantised as well; leave it as it is "
                            "(quantization_modules: [%s=none])",
                            w->name, r->plans[p].st.method->name, w->module);
        }
    }
    return OK;
}

/* --- the loss of quality ------------------------------------------------------------------------------------------------ */
/* Rows that the run has in memory or can draw: those of eval.data, or else of the training data. */
static struct rows *rows_of(struct run *r, int side) { return r->eval.rows[side].n ? &r->eval.rows[side] : &r->side[side].rows; }

static err take_texts(struct rows *from, int64_t most, struct ids **out, int *n) {
    *n = 0;
    *out = calloc((size_t)from->n + 1, sizeof **out);
    if (!*out) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < from->n && most > 0; i++) {
        const struct row *row;
        TRY(rows_draw(from, &i, 1, &row));
        for (int k = 0; k < row->n; k++) TRY(ids_push(&(*out)[i], row->ids[k]));
        *n = i + 1;
        most -= row->n;
    }
    return OK;
}

static err measure(const struct run *r, struct base *b, const struct ids *text, int n) {
    struct model file;
    TRY(model_open(b->cfg->model, NULL, &file));
    err e = b->model.stretched ? model_stretch_as(&file, b->model.stretched, false, file.path) : OK;
    if (!e) e = likeness_measure(&file, &b->model, text, n, r->cfg->quantization_check, r->stop, &b->likeness);
    model_close(&file);
    return e;
}

static err check_base(struct run *r, struct base *b, struct rows *rows) {
    struct ids *text = NULL;
    int n = 0;
    if (b->model.random || !b->quantised) return OK;
    err e = take_texts(rows, r->cfg->quantization_check, &text, &n);
    if (!e) e = measure(r, b, text, n);
    for (int i = 0; text && i < n; i++) ids_free(&text[i]);
    free(text);
    return e ? fail_in(e, "quantization_check") : OK;
}

/* Each base with rows of the first side that it has. */
err quantise_check(struct run *r) {
    for (int i = 0; i < r->n_bases; i++) TRY(check_base(r, &r->base[i], rows_of(r, i)));
    return OK;
}

json_t *quantise_json(const struct run *r, const struct base *b) {
    const struct likeness *l = &b->likeness;
    json_t *j = json_pack("{s:s, s:s}", "type", r->cfg->quantization, "made", b->quantised);
    if (l->tokens)
        json_object_update_new(j, json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "tokens", (json_int_t)l->tokens, "mean_kl", l->kl, "worst_kl",
                                            l->kl_worst, "perplexity_base", exp(l->nll[0]), "perplexity", exp(l->nll[1]), "same_top",
                                            (double)l->same_top / (double)l->tokens));
    return j;
}
