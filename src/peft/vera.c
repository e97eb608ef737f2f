/* VeRA (Kopiczko et al. 2023, "VeRA: Vector-based Random Matrix Adaptation"): y = W x + b * (B (d * (A x))), with A and B random, frozen and
 * one pair for the whole model; trained are d [r] and b [out] of each module. b begins at zero, so step 0 is the base.
 *
 * A [r, widest input] and B [widest output, r] of the taken modules; a module uses A's first columns and B's first rows. Products want their
 * matrices whole and in the base's order of rows, so the adapter holds a copy of A for each width of input and one of B for each shape of
 * output that occurs (a few, whatever the number of layers); the file has each matrix once, as PEFT's has it. Targets that share an input
 * share the product with A.
 *
 * A fresh pair is a function of projection_prng_key alone: Kaiming-uniform as in PEFT, but not PEFT's numbers, which are torch's generator's.
 * So the pair is always in the file, and a file of PEFT's without it (save_projection false) is refused. With dropout (vera_dropout) each target
 * drops its own input, as in PEFT, so the product with A is made for each. */
#include "peft/vera.h"
#include "base/philox.h"
#include "core/rope_rows.h"
#include "ops/ops.h"
#include "peft/methods.h"
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_R = 65536, STREAM_A = 1, STREAM_B = 2 };
static const char A[] = "vera_A", B[] = "vera_B"; /* in files: base_model.vera_A, base_model.vera_B */

/* --- settings ------------------------------------------------------------------------------------------------------------ */
static bool same(const void *one, const void *other) {
    const struct vera *a = one, *b = other;
    return a->r == b->r && a->d_initial == b->d_initial && a->key == b->key && a->dropout == b->dropout && targets_same(&a->targets, &b->targets);
}

static err check(const void *settings) {
    const struct vera *v = settings;
    if (v->r < 1 || v->r > MOST_R) return fail(E_USAGE, "vera.r is %d; it must be 1 to %d", v->r, MOST_R);
    if (!isfinite(v->d_initial) || v->d_initial == 0)
        return fail(E_USAGE, "vera.d_initial is %g; it must be a number other than 0, where nothing would be learned", v->d_initial);
    if (!(v->dropout >= 0 && v->dropout < 1)) return fail(E_USAGE, "vera.vera_dropout is %g; it must be at least 0 and below 1", v->dropout);
    return targets_check(&v->targets, "vera");
}

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct vera *v = settings;
    const json_t *r = json_object_get(json, "r"), *d = json_object_get(json, "d_initial");
    const char *bias = json_string_value(json_object_get(json, "bias"));
    const json_int_t rank = json_integer_value(r);
    if (!json_is_integer(r)) return fail(E_INPUT, "%s: 'r' is missing", where);
    if (json_is_false(json_object_get(json, "save_projection")))
        return fail(E_UNSUPPORTED,
                    "%s: save_projection is false, so vera_A and vera_B are not in the file, and the generator that made them (torch's) is "
                    "not here: save the adapter again in PEFT with save_projection true",
                    where);
    if (bias && strcmp(bias, "none")) return fail(E_UNSUPPORTED, "%s: bias '%.40s' beside VeRA is not supported", where, bias);
    *v = (struct vera){.r = rank < 0 || rank > INT_MAX ? 0 : (int)rank, .d_initial = json_is_number(d) ? json_number_value(d) : 0.1, .key = json_integer_value(json_object_get(json, "projection_prng_key")),
                       .dropout = json_number_value(json_object_get(json, "vera_dropout"))};
    TRY(targets_read(json, where, mem, &v->targets));
    err e = check(v);
    return e ? fail_in(e, "%s", where) : OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    const struct vera *v = settings;
    const int bad = json_object_set_new(json, "r", json_integer(v->r)) | json_object_set_new(json, "d_initial", json_real(v->d_initial)) |
                    json_object_set_new(json, "projection_prng_key", json_integer(v->key)) |
                    json_object_set_new(json, "save_projection", json_true()) |
                    json_object_set_new(json, "vera_dropout", json_real(v->dropout)) |
                    json_object_set_new(json, "bias", json_string("none")) | json_object_set_new(json, "modules_to_save", json_null());
    return bad ? fail(E_MEMORY, "out of memory") : targets_write(&v->targets, named, json);
}

static err agrees(const void *have, const void *want, const char *module, const char *folder) {
    const int r = ((const struct vera *)have)->r, wanted = ((const struct vera *)want)->r;
    (void)module;
    return r == wanted ? OK : fail(E_USAGE, "%s was made with vera.r %d, the configuration says %d", folder, r, wanted);
}

static void describe(const void *settings, str *out) {
    str_addf(out, "VeRA adapter (r %d, one random pair of matrices", ((const struct vera *)settings)->r);
}

static const struct targets *targets_of(const void *settings) { return &((const struct vera *)settings)->targets; }

/* --- the shared pair ------------------------------------------------------------------------------------------------------- */
/* U(-bound, bound), bound = sqrt(6 / fan in) (Kaiming with the gain of a ReLU); an element's number depends on its place in the file's
 * matrix alone, so that all copies agree. */
static float drawn(int64_t key, uint32_t stream, int64_t row, int64_t column, double fan_in) {
    const struct philox r = philox((uint64_t)key, (uint32_t)row, (uint32_t)column, stream, 0);
    return (2 * philox_unit(r.v[0]) - 1) * (float)sqrt(6 / fan_in);
}

static err make_a(const struct param_slice *s, int64_t columns, uint64_t key, float *rows) {
    const struct vera *v = s->how;
    (void)key;
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t c = 0; c < columns; c++) rows[r * columns + c] = drawn(v->key, STREAM_A, r, c, (double)(s->columns ? s->columns : columns));
    return OK;
}

static err make_b(const struct param_slice *s, int64_t columns, uint64_t key, float *rows) {
    const struct vera *v = s->how;
    (void)key;
    for (int64_t o = 0; o < s->rows; o++) {
        float *row = rows + columns * (s->rope_heads ? rope_row_in_pairs(o, s->rows / s->rope_heads) : o);
        for (int64_t c = 0; c < columns; c++) row[c] = drawn(v->key, STREAM_B, o, c, (double)columns);
    }
    return OK;
}

/* The widest of a pair's copies is what the file has, the first where there are several; the others are parts of it. While the structure is
 * being laid down wider ones may still come. */
static void settle(struct param_set *set, const char *which) {
    int64_t rows = 0, columns = 0;
    bool found = false;
    for (int i = 0; i < set->n; i++) {
        const struct param *p = &set->p[i];
        if (!p->frozen || strcmp(p->slice->name, which)) continue;
        rows = p->d[0] > rows ? p->d[0] : rows;
        columns = p->d[1] > columns ? p->d[1] : columns;
    }
    for (int i = 0; i < set->n; i++) {
        const struct param *p = &set->p[i];
        if (!p->frozen || strcmp(p->slice->name, which)) continue;
        const bool whole = p->d[0] == rows && p->d[1] == columns;
        p->slice->of_rows = p->d[0] == rows ? 0 : rows;
        p->slice->columns = p->d[1] == columns ? 0 : columns;
        p->slice->again = found || !whole;
        found |= whole;
    }
}

static void copy_name(const char *which, int64_t size, int rope_heads, char name[64]) {
    snprintf(name, 64, "%s.%lld.%d", which, (long long)size, rope_heads);
}

/* A copy of A or B. rope_heads: of an output whose rows the base has in pairs. */
static val shared(struct site *s, const char *which, int64_t rows, int64_t columns, int rope_heads) {
    char name[64];
    copy_name(which, which == A ? columns : rows, rope_heads, name);
    const struct param_slice all = {.name = which, .rows = rows, .rope_heads = rope_heads, .make = which == A ? make_a : make_b, .how = s->settings, .outer = true};
    const int p = param_get(s->params, name, 2, (int64_t[]){rows, columns}, INIT_MADE, 0, &all, 1);
    param_freeze(s->params, p);
    if (p >= 0 && !s->params->sealed) settle(s->params, which);
    return prog_param(s->p, s->params, p);
}

/* --- in a program -------------------------------------------------------------------------------------------------------- */
static err make_d(const struct param_slice *s, int64_t columns, uint64_t key, float *to) {
    const struct vera *v = s->how;
    (void)columns, (void)key;
    for (int64_t i = 0; i < s->rows; i++) to[i] = (float)v->d_initial;
    return OK;
}

static val vector(struct site *s, const struct linear *w, const char *which, int64_t n, int rope_heads, param_maker make) {
    char name[256], file[256];
    snprintf(name, sizeof name, "%s.%s", w->of.name, which);
    snprintf(file, sizeof file, "%s.%s", w->of.module, which);
    const struct param_slice all = {.name = file, .rows = n, .rope_heads = rope_heads, .make = make, .how = s->settings};
    return prog_param(s->p, s->params, param_get(s->params, name, 1, &n, make ? INIT_MADE : INIT_ZERO, 0, &all, 1));
}

static val product(struct site *s, val x, val matrix) {
    val in[LIN_IN] = {[LIN_X] = x, [LIN_W] = matrix};
    return emit1(s->p, &op_linear, in, LIN_IN, &(struct op_attr){.n = 1});
}

static val scaled(struct site *s, val x, val by) { return emit1(s->p, &op_scale, (val[]){x, by}, 2, NULL); }

static err linears(struct site *s, val x, int n, const struct linear *w, val *out) {
    const struct vera *v = s->settings;
    const bool drops = s->mode == MODE_TRAIN && v->dropout > 0;
    val t = {0};
    TRY(site_emit_linear(s, x, n, w, NULL, NULL, out));
    for (int i = 0; i < n && !s->p->failed; i++) {
        if (!targets_take(&v->targets, &w[i].of)) continue;
        if (!has(t) || drops) t = product(s, site_dropout(s, x, v->dropout), shared(s, A, v->r, w[i].in, 0));
        const val d = vector(s, &w[i], "vera_lambda_d", v->r, 0, make_d), b = vector(s, &w[i], "vera_lambda_b", w[i].out, w[i].rope_heads, NULL);
        const val z = product(s, scaled(s, t, d), shared(s, B, w[i].out, v->r, w[i].rope_heads));
        out[i] = emit1(s->p, &op_add, (val[]){out[i], scaled(s, z, b)}, 2, NULL);
    }
    return s->p->failed;
}

/* --- as a product of two matrices ---------------------------------------------------------------------------------------- */
static const struct param *param_named(const struct param_set *set, const char *name) {
    for (int i = 0; i < set->n; i++)
        if (!strcmp(set->p[i].name, name)) return &set->p[i];
    return NULL;
}

/* A is the shared one; b and d go into B. */
static err pair(const struct numbers *n, const char *module, const struct matrix *w, arena *mem, struct pair *out) {
    char name[256], a_name[64], b_name[64];
    snprintf(name, sizeof name, "%s.vera_lambda_d", module);
    const int d = param_of_slice(n->set, name);
    snprintf(name, sizeof name, "%s.vera_lambda_b", module);
    const int b = param_of_slice(n->set, name), heads = b < 0 ? 0 : n->set->p[b].slice->rope_heads;
    copy_name(A, w->columns, 0, a_name), copy_name(B, w->rows, heads, b_name);
    const struct param *pa = param_named(n->set, a_name), *pb = param_named(n->set, b_name);
    if (d < 0 || b < 0 || !pa || !pb) return fail(E_INTERNAL, "%s has no VeRA", module);
    const int64_t r = pa->d[0];
    float *made = arena_alloc(mem, (size_t)(w->rows * r) * sizeof *made);
    if (!made) return fail(E_MEMORY, "out of memory");
    for (int64_t o = 0; o < w->rows; o++) {
        const int64_t at = heads ? rope_row_in_pairs(o, w->rows / heads) : o;
        const float by = n->w[n->set->p[b].off / 4 + (size_t)at], *row = n->w + pb->off / 4 + at * r;
        for (int64_t k = 0; k < r; k++) made[o * r + k] = by * row[k] * n->w[n->set->p[d].off / 4 + (size_t)k];
    }
    *out = (struct pair){r, n->w + pa->off / 4, made};
    return OK;
}

const struct peft_method method_vera = {.name = "vera", .peft_type = "VERA", .settings = sizeof(struct vera), .check = check, .same = same, .read = read_json, .write = write_json, .agrees = agrees,
                                        .describe = describe, .targets = targets_of, .mark = ".vera_lambda_b", .linears = linears, .pair = pair};
