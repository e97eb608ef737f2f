/* See head.h. */
#define _DEFAULT_SOURCE
#include "gen/head.h"
#include "ops/ops.h"
#include "peft/methods.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CLASSES = 1 << 16 };
static const float INIT_STD = 0.02f; /* initializer_range of nearly every configuration: what transformers gives a new classifier */

const char *head_module(const struct model *m) { return m->family->classifier ? m->family->classifier : "score"; }
bool head_reads_first(const struct model *m) { return m->family->classifier != NULL; }

/* --- in a program ------------------------------------------------------------------------------------------------------ */
val head_rows(const struct head *h, const struct model *m, struct site *s) {
    const struct features *f = h->features;
    if (f) {
        const int64_t d[2] = {f->n, m->shape.width};
        val table = prog_base(s->p, DT_F32, 2, d, f->row, "features");
        val x = emit1(s->p, &op_embed, (val[]){s->ids, table}, 2, &(struct op_attr){.scale = 1});
        return m->family->pool ? m->family->pool(m, s, x) : x;
    }
    val x = model_body(m, s);
    return m->family->pool ? m->family->pool(m, s, x) : x;
}

struct linear head_linear(const struct head *h, const struct model *m, struct site *s) {
    const char *module = head_module(m);
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", module);
    snprintf(bias, sizeof bias, "%s.bias", module);
    const int64_t d[2] = {h->classes, m->shape.width};
    const struct param_slice rows = {.name = weight, .rows = d[0], .init_scale = INIT_STD}, of_bias = {.name = bias, .rows = d[0]};
    struct linear w = {.of = {.name = module, .module = module, .head = true}, .in = d[1], .out = d[0]};
    w.w = prog_param(s->p, s->params, param_get(s->params, weight, 2, d, INIT_NORMAL_SLICES, 0, &rows, 1));
    if (m->family->classifier) w.bias = prog_param(s->p, s->params, param_get(s->params, bias, 1, d, INIT_ZERO, 0, &of_bias, 1));
    return w;
}

/* --- in a folder ------------------------------------------------------------------------------------------------------- */
/* PEFT writes both names of every sequence classifier, whichever the model has. */
err head_check(const void *json, const char *where) {
    const json_t *list = json_object_get(json, "modules_to_save");
    size_t i;
    json_t *v;
    if (!list || json_is_null(list)) return OK;
    if (!json_is_array(list)) return fail(E_INPUT, "%s: 'modules_to_save' is no list", where);
    json_array_foreach(list, i, v) {
        const char *name = json_string_value(v);
        if (!name || (strcmp(name, "score") && strcmp(name, "classifier")))
            return fail(E_UNSUPPORTED, "%s: 'modules_to_save' %.60s: of whole modules only a classifier (score, classifier) is supported", where, name ? name : "that is no name");
    }
    return OK;
}

static const char HUBS[] = "model_head.safetensors";

/* How many classes the saved classifier has; of AdapterHub's own file 0 where that is another head. */
static err count_classes(const char *folder, const char *file, int *classes) {
    /* the third: beside soft prompts; the last two: AdapterHub's */
    static const char *const names[] = {"base_model.model.score.weight", "base_model.model.classifier.weight", "base_model.score.weight", "score.weight", "classifier.weight"};
    char path[4096];
    struct tensors ts;
    const struct tensor *t = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    TRY(tensors_open(path, &ts));
    for (size_t i = 0; i < sizeof names / sizeof *names && !t; i++) t = tensors_find(&ts, names[i]);
    err e = OK;
    if (!t && file == HUBS) *classes = 0;
    else if (!t) e = fail(E_INPUT, "%s: a classifier is to be there (modules_to_save), but neither score.weight nor classifier.weight is", path);
    else if (t->nd != 2 || t->d[0] < 2 || t->d[0] > MOST_CLASSES) e = fail(E_INPUT, "%s: tensor %s is no classifier of 2 to %d classes", path, t->name, MOST_CLASSES);
    else *classes = (int)t->d[0];
    tensors_close(&ts);
    return e;
}

static err read_names(const json_t *j, const char *path, arena *mem, struct head *h) {
    const json_t *names = json_object_get(j, "id2label");
    if (json_object_size(names) != (size_t)h->classes) return fail(E_INPUT, "%s: id2label names %zu classes, the classifier has %d", path, json_object_size(names), h->classes);
    const char **name = arena_alloc(mem, (size_t)h->classes * sizeof *name);
    for (int i = 0; name && i < h->classes; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        const char *text = json_string_value(json_object_get(names, key));
        if (!text) return fail(E_INPUT, "%s: id2label has no name for class %d", path, i);
        name[i] = arena_str(mem, text);
        if (!name[i]) return fail(E_MEMORY, "out of memory");
    }
    h->names = name;
    return name ? OK : fail(E_MEMORY, "out of memory");
}

/* "label2id" of head_config.json: a name and its class. */
static err hubs_names(const json_t *ids, const char *path, arena *mem, struct head *h) {
    const char *name;
    json_t *id;
    const char **names = arena_alloc(mem, (size_t)h->classes * sizeof *names);
    if (!names) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < h->classes; i++) names[i] = NULL;
    json_object_foreach((json_t *)ids, name, id) {
        const json_int_t i = json_is_integer(id) ? json_integer_value(id) : -1;
        if (i < 0 || i >= h->classes || names[i]) return fail(E_INPUT, "%s: label2id does not give each of %d classes a name", path, h->classes);
        if (!(names[i] = arena_str(mem, name))) return fail(E_MEMORY, "out of memory");
    }
    if (json_object_size(ids) == (size_t)h->classes) h->names = names;
    return OK;
}

static err read_hubs(const char *folder, arena *mem, struct head *h) {
    const char *tensors = arena_printf(mem, "%s/%s", folder, HUBS), *path = arena_printf(mem, "%s/head_config.json", folder);
    json_error_t je;
    if (!tensors || !path) return fail(E_MEMORY, "out of memory");
    if (!path_exists(tensors) || !path_exists(path)) return OK;
    TRY(count_classes(folder, HUBS, &h->classes));
    if (!h->classes) return OK;
    h->file = HUBS;
    json_t *j = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    err e = j ? hubs_names(json_object_get(j, "label2id"), path, mem, h) : fail(E_INPUT, "%s: not JSON (line %d)", path, je.line);
    json_decref(j);
    return e;
}

err head_read(const void *json, const char *folder, arena *mem, struct head *h) {
    const json_t *list = json_object_get(json, "modules_to_save");
    const char *path = arena_printf(mem, "%s/labels.json", folder), *config = arena_printf(mem, "%s/adapter_config.json", folder);
    json_error_t je;
    *h = (struct head){0};
    if (!path || !config) return fail(E_MEMORY, "out of memory");
    if (!list || json_is_null(list) || (json_is_array(list) && !json_array_size(list))) return config_of_hub(json) ? read_hubs(folder, mem, h) : OK;
    TRY(head_check(json, config));
    TRY(count_classes(folder, method_file(config_of_hub(json)), &h->classes));
    if (!path_exists(path)) return OK;
    json_t *j = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    err e = j ? read_names(j, path, mem, h) : fail(E_INPUT, "%s: not JSON (line %d)", path, je.line);
    json_decref(j);
    return e;
}

err head_write_labels(const struct head *h, const char *folder) {
    char path[4096];
    if (!h->names) return OK;
    json_t *names = json_object(), *ids = json_object(), *j = json_pack("{s:o, s:o}", "id2label", names, "label2id", ids);
    for (int i = 0; j && i < h->classes; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        json_object_set_new(names, key, json_string(h->names[i]));
        json_object_set_new(ids, h->names[i], json_integer(i));
    }
    char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
    json_decref(j);
    if (!text) return fail(E_MEMORY, "out of memory");
    snprintf(path, sizeof path, "%s/labels.json", folder);
    err e = file_write(path, text, strlen(text));
    free(text);
    return e;
}

bool head_same(const struct head *a, const struct head *b) {
    if (a->classes != b->classes) return false;
    for (int i = 0; a->names && b->names && i < a->classes; i++)
        if (strcmp(a->names[i], b->names[i])) return false;
    return true;
}
