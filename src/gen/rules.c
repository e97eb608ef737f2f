/* See rules.h. */
#include "gen/rules.h"
#include <stdlib.h>
#include <string.h>

static bool may_be(dtype dt) { return dtype_writable(dt) && dtype_quantised(dt) && dt != DT_E4M3; }

static void known(str *out) {
    for (int i = 1; i < DT_COUNT; i++)
        if (may_be((dtype)i)) str_addf(out, "%s%s", out->n ? ", " : "", dtype_info[i].name);
}

/* E_USAGE with the list. */
static err type_of(const char *name, dtype *dt) {
    str all = {0};
    *dt = dtype_parse(name);
    if (*dt && may_be(*dt)) return OK;
    known(&all);
    err e = fail(E_USAGE, "'%.40s' is no type to quantise to (%s)", name, all.p ? all.p : "");
    str_free(&all);
    return e;
}

static err read_choice(const char *text, const char *setting, arena *mem, struct module_value *v) {
    const char *is = strrchr(text, '=');
    dtype dt = DT_NONE;
    if (!is || is == text) return fail(E_USAGE, "%s wants a module and a type such as lm_head=q8_0, found '%.60s'", setting, text);
    if (strcmp(is + 1, "none") != 0) {
        err e = type_of(is + 1, &dt);
        if (e) return fail_in(e, "%s", setting);
    }
    v->key = arena_strn(mem, text, (size_t)(is - text));
    v->value = dt;
    return v->key ? OK : fail(E_MEMORY, "out of memory");
}

err rules_read(const char *type, const char *const *choice, int n, const char *setting, arena *mem, struct rules *r) {
    *r = (struct rules){.n = n};
    struct module_value *v = arena_alloc(mem, (size_t)n * sizeof *v + 1);
    if (!v) return fail(E_MEMORY, "out of memory");
    TRY(type_of(type, &r->type));
    for (int i = 0; i < n; i++) TRY(read_choice(choice[i], setting, mem, &v[i]));
    r->of = v;
    return module_values_check(v, n, setting);
}

/* A matrix that the product kernels take. Small tables are looked up, and are f32. */
static bool is_matrix(const struct weight *w) {
    return w->nd == 2 && !str_ends(w->name, "attn_rel_b.weight") && strcmp(w->name, "position_embd.weight") &&
           strcmp(w->name, "token_types.weight");
}

/* The type that the choices give, or else `otherwise`; *by: which choice. */
static err chosen(const struct rules *r, const char *module, dtype otherwise, dtype *dt, int *by) {
    for (int i = 0; i < r->n; i++) {
        double value;
        TRY(module_value(&r->of[i], 1, module, -1, &value));
        if (value >= 0) return *by = i, *dt = (dtype)value, OK;
    }
    return *dt = otherwise, OK;
}

static err type_for(const struct rules *r, const struct model *m, const struct weight *w, dtype *dt, int *by) {
    const bool table = !strcmp(w->name, "token_embd.weight");
    TRY(chosen(r, w->module, strstr(w->name, "blk.") ? r->type : DT_NONE, dt, by));
    if (*by < 0 && table && m->shape.tied) TRY(chosen(r, "lm_head", DT_NONE, dt, by));
    if (!*dt) return OK;
    if (dtype_quantised(w->dt))
        return fail(
            E_USAGE,
            "%s: %s is quantised already, as %s: a base is quantised from f32, f16 or bf16; without quantization it is trained on as it is",
            m->path, w->name, dtype_info[w->dt].name);
    *dt = dtype_fitting(*dt, w->d[1]);
    if (!*dt || !dtype_quantised(*dt))
        return fail(E_UNSUPPORTED, "%s: %s has rows of %lld, which the blocks of no such type fit; leave it as it is (%s=none)", m->path,
                    w->name, (long long)w->d[1], w->module);
    return OK;
}

err rules_apply(const struct rules *r, const struct model *m, dtype *to) {
    bool *used = calloc((size_t)r->n + 1, sizeof *used);
    err e = used ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < m->n && !e; i++) {
        int by = -1;
        to[i] = DT_NONE;
        if (is_matrix(&m->w[i])) e = type_for(r, m, &m->w[i], &to[i], &by);
        if (by >= 0) used[by] = true;
    }
    for (int i = 0; i < r->n && !e; i++)
        if (!used[i])
            e = fail(E_USAGE, "'%s=%s' decides about no matrix of %s: none is called so, or an earlier choice has them", r->of[i].key,
                     r->of[i].value > 0 ? dtype_info[(int)r->of[i].value].name : "none", m->path);
    free(used);
    return e;
}

void rules_print(const struct model *m, const dtype *to, str *out) {
    size_t bytes[DT_ALL] = {0};
    for (int i = 0; i < m->n; i++)
        if (to[i]) bytes[to[i]] += weight_bytes(&m->w[i]);
    for (int i = 1; i < DT_ALL; i++)
        if (bytes[i]) str_addf(out, "%s%.1f MB as %s", out->n ? ", " : "", (double)bytes[i] / 1e6, dtype_info[i].name);
}
