/* LoRA (Hu et al. 2021): y = W x + (alpha / r) B A x, with A [r, in] random and B [out, r] zero at the start, so that step 0
 * is the base. All targets that share an input are one instruction: their A matrices are one parameter, rows stacked in the
 * order of the group; adapter files see the named slices (core/params.h). */
#include "peft/lora.h"
#include "peft/methods.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

bool lora_targets(const struct lora *l, const struct linear *w) {
    if (l->all_linear) return !w->head;
    for (int i = 0; i < l->n_targets; i++) {
        size_t n = strlen(w->module), m = strlen(l->targets[i]);
        if (n < m || strcmp(w->module + n - m, l->targets[i])) continue;
        if (n == m || w->module[n - m - 1] == '.') return true;
    }
    return false;
}

bool lora_same_structure(const struct lora *a, const struct lora *b) {
    if (a->r != b->r || a->alpha != b->alpha || a->dropout != b->dropout || a->all_linear != b->all_linear || a->n_targets != b->n_targets) return false;
    for (int i = 0; i < a->n_targets; i++)
        if (strcmp(a->targets[i], b->targets[i])) return false;
    return true;
}

err lora_check(const struct lora *l) {
    if (l->r < 1 || l->r > 4096) return fail(E_USAGE, "lora.r is %d; it must be 1 to 4096", l->r);
    if (!isfinite(l->alpha)) return fail(E_USAGE, "lora.lora_alpha is not a number");
    if (!(l->dropout >= 0 && l->dropout < 1)) return fail(E_USAGE, "lora.lora_dropout is %g; it must be at least 0 and below 1", l->dropout);
    if (!l->all_linear && l->n_targets == 0) return fail(E_USAGE, "lora.target_modules is empty; name modules such as q_proj, or all-linear");
    return OK;
}

/* A [R, in]: PEFT's default is kaiming_uniform(a = sqrt 5), whose bound is 1 / sqrt(in); gaussian is N(0, 1/r). */
static val a_param(struct site *s, const struct lora *l, int n, const struct linear *w, const bool *taken) {
    struct param_slice slice[MAX_GROUP] = {{0}};
    char names[MAX_GROUP][256], name[256];
    int slices = 0;
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        if (!taken[i]) continue;
        snprintf(names[slices], sizeof names[0], "%s.lora_A.weight", w[i].module);
        slice[slices] = (struct param_slice){names[slices], (int64_t)slices * l->r, l->r, 0};
        at += (size_t)snprintf(name + at, sizeof name - at, "%s%s", slices ? "+" : "", w[i].name);
        if (at > sizeof name - 16) at = sizeof name - 16;
        slices++;
    }
    snprintf(name + at, sizeof name - at, ".lora_A");
    float scale = (float)(l->init == LORA_GAUSSIAN ? 1.0 / l->r : 1 / sqrt((double)w[0].in));
    int p = param_get(s->params, name, 2, (int64_t[]){(int64_t)slices * l->r, w[0].in},
                      l->init == LORA_GAUSSIAN ? INIT_NORMAL : INIT_UNIFORM, scale, slice, slices);
    return prog_param(s->p, s->params, p);
}

static val b_param(struct site *s, const struct lora *l, const struct linear *w) {
    char name[256], file[256];
    snprintf(name, sizeof name, "%s.lora_B", w->name);
    snprintf(file, sizeof file, "%s.lora_B.weight", w->module);
    struct param_slice slice = {file, 0, w->out, w->rope_heads};
    return prog_param(s->p, s->params, param_get(s->params, name, 2, (int64_t[]){w->out, l->r}, INIT_ZERO, 0, &slice, 1));
}

static err linears(struct site *s, val x, int n, const struct linear *w, val *out) {
    const struct lora *l = s->settings;
    struct low_rank low = {0};
    struct op_attr a = {.dropout = (float)l->dropout};
    bool taken[MAX_GROUP] = {0}, any = false;
    for (int i = 0; i < n; i++) any |= taken[i] = lora_targets(l, &w[i]);
    if (!any) return site_emit_linear(s, x, n, w, NULL, NULL, out);
    low.a = a_param(s, l, n, w, taken);
    for (int i = 0; i < n; i++) {
        if (!taken[i]) continue;
        a.rank[i] = l->r;
        a.alpha[i] = (float)(l->alpha / l->r);
        low.b[i] = b_param(s, l, &w[i]);
    }
    return site_emit_linear(s, x, n, w, &a, &low, out);
}

const struct peft_method method_lora = {"lora", "LORA", linears};
