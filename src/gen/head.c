/* See head.h. */
#define _DEFAULT_SOURCE
#include "gen/head.h"
#include "ops/ops.h"
#include "peft/methods.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int least_of[] = {[HEAD_CLASSES] = 1, [HEAD_NUMBERS] = 1, [HEAD_TAGS] = 2}; /* one class: a regression of one number */

enum { MOST_CLASSES = 1 << 16 };
static const float INIT_STD = 0.02f; /* initializer_range of nearly every configuration: what transformers gives a new classifier */

const char *head_module(const struct head *h, const struct model *m) {
    const char *own = h->kind == HEAD_TAGS ? m->family->tagger : m->family->classifier;
    return own ? own : "score";
}

const char *head_objective(const struct head *h) {
    static const char *const names[] = {[HEAD_CLASSES] = "classification", [HEAD_NUMBERS] = "regression", [HEAD_TAGS] = "token_classification"};
    return names[h->kind];
}

const char *head_text(const struct head *h, char text[64]) {
    const char *const form[] = {"a classifier of %d classes", h->classes == 1 ? "a regression of %d number" : "a regression of %d numbers", "a classifier of tokens into %d classes"};
    snprintf(text, 64, form[h->kind], h->classes);
    return text;
}

bool head_reads_first(const struct model *m) { return m->family->classifier != NULL && !m->family->seq2seq; }
bool head_reads_twice(const struct head *h, const struct model *m) { return m->family->seq2seq && h->kind != HEAD_TAGS; }

/* --- in a program ------------------------------------------------------------------------------------------------------ */
static val kept_rows(const struct features *f, const struct model *m, struct site *s) {
    const int64_t d[2] = {f->n, m->shape.width};
    val table = prog_base(s->p, DT_F32, 2, d, f->row, "features");
    return emit1(s->p, &op_embed, (val[]){s->ids, table}, 2, &(struct op_attr){.scale = 1});
}

/* A trained linear layer of the head. module: must last. */
static struct linear trained(const struct model *m, struct site *s, const char *module, int64_t rows, bool biased) {
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", module);
    snprintf(bias, sizeof bias, "%s.bias", module);
    const int64_t d[2] = {rows, m->shape.width};
    const float std = m->family->seq2seq ? (float)(1 / sqrt((double)d[1])) : INIT_STD; /* T5's own rule */
    const struct param_slice all = {.name = weight, .rows = d[0], .init_scale = std}, of_bias = {.name = bias, .rows = d[0]};
    struct linear w = {.of = {.name = module, .module = module, .head = true}, .in = d[1], .out = d[0]};
    w.w = prog_param(s->p, s->params, param_get(s->params, weight, 2, d, INIT_NORMAL_SLICES, 0, &all, 1));
    if (biased) w.bias = prog_param(s->p, s->params, param_get(s->params, bias, 1, d, INIT_ZERO, 0, &of_bias, 1));
    return w;
}

static val dense(const struct model *m, struct site *s, val x) {
    const struct linear w = trained(m, s, "classification_head.dense", m->shape.width, true);
    val h;
    if (s->p->failed || site_emit_linear(s, x, 1, &w, NULL, NULL, &h)) return (val){0};
    return emit1(s->p, &op_glu, (val[]){h, {0}}, 2, &(struct op_attr){.act = ACT_TANH});
}

val head_rows(const struct head *h, const struct model *m, struct site *s) {
    const bool of_tokens = h->kind == HEAD_TAGS;
    if (head_reads_twice(h, m)) return dense(m, s, m->family->stacks(m, s));
    val x = h->features ? kept_rows(h->features, m, s) : of_tokens && m->family->encode ? m->family->encode(m, s) : model_body(m, s);
    return m->family->pool && !of_tokens ? m->family->pool(m, s, x) : x;
}

struct linear head_linear(const struct head *h, const struct model *m, struct site *s) {
    return trained(m, s, head_reads_twice(h, m) ? "classification_head.out_proj" : head_module(h, m), h->classes,
                   m->family->classifier || h->kind == HEAD_TAGS);
}

/* --- in a folder ------------------------------------------------------------------------------------------------------- */
/* PEFT writes both names of every sequence classifier, whichever the model has. */
bool head_names(const char *module) { return !strcmp(module, "score") || !strcmp(module, "classifier") || !strcmp(module, "classification_head"); }

err head_check(const void *json, const char *where, bool others) {
    const json_t *list = json_object_get(json, "modules_to_save");
    size_t i;
    json_t *v;
    if (!list || json_is_null(list)) return OK;
    if (!json_is_array(list)) return fail(E_INPUT, "%s: 'modules_to_save' is no list", where);
    json_array_foreach(list, i, v) {
        const char *name = json_string_value(v);
        if (!name || (!others && !head_names(name)))
            return fail(E_UNSUPPORTED,
                        "%s: 'modules_to_save' %.60s: of whole modules only a head (score, classifier, classification_head) is supported",
                        where, name ? name : "that is no name");
    }
    return OK;
}

static const char HUBS[] = "model_head.safetensors";

/* How many classes the saved head has; of AdapterHub's own file 0 where that is another head. */
static err count_classes(const char *folder, const char *file, enum head_kind kind, int *classes) {
    /* the third and fourth: beside soft prompts; the last two: AdapterHub's */
    static const char *const names[] = {"base_model.model.score.weight", "base_model.model.classifier.weight", "base_model.score.weight", "base_model.classifier.weight",
                                        "base_model.model.classification_head.out_proj.weight", "score.weight", "classifier.weight"};
    char path[4096];
    struct tensors ts;
    const struct tensor *t = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    TRY(tensors_open(path, &ts));
    for (size_t i = 0; i < sizeof names / sizeof *names && !t; i++) t = tensors_find(&ts, names[i]);
    err e = OK;
    if (!t && file == HUBS) *classes = 0;
    else if (!t) e = fail(E_INPUT, "%s: a classifier is to be there (modules_to_save), but neither score.weight nor classifier.weight is", path);
    else if (t->nd != 2 || t->d[0] < least_of[kind] || t->d[0] > MOST_CLASSES)
        e = fail(E_INPUT, "%s: tensor %s is no classifier of %d to %d classes", path, t->name, least_of[kind], MOST_CLASSES);
    else *classes = (int)t->d[0];
    tensors_close(&ts);
    return e;
}

static err read_names(const json_t *j, const char *path, arena *mem, struct head *h) {
    const json_t *names = json_object_get(j, "id2label");
    if (json_object_size(names) != (size_t)h->classes)
        return fail(E_INPUT, "%s: id2label names %zu classes, the classifier has %d", path, json_object_size(names), h->classes);
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
    TRY(count_classes(folder, HUBS, HEAD_CLASSES, &h->classes));
    if (!h->classes) return OK;
    h->file = HUBS;
    json_t *j = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    err e = j ? hubs_names(json_object_get(j, "label2id"), path, mem, h) : fail(E_INPUT, "%s: not JSON (line %d)", path, je.line);
    json_decref(j);
    return e;
}

static bool any_head(const json_t *list) {
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v) if (head_names(json_string_value(v))) return true;
    return false;
}

static enum head_kind kind_of(const json_t *config, const json_t *labels) {
    const char *task = json_string_value(json_object_get(config, "task_type")), *problem = json_string_value(json_object_get(labels, "problem_type"));
    return task && !strcmp(task, "TOKEN_CLS") ? HEAD_TAGS : problem && !strcmp(problem, "regression") ? HEAD_NUMBERS : HEAD_CLASSES;
}

err head_read(const void *json, const char *folder, arena *mem, struct head *h) {
    const json_t *list = json_object_get(json, "modules_to_save");
    const char *path = arena_printf(mem, "%s/labels.json", folder), *config = arena_printf(mem, "%s/adapter_config.json", folder);
    json_error_t je;
    *h = (struct head){0};
    if (!path || !config) return fail(E_MEMORY, "out of memory");
    if (!list || json_is_null(list) || (json_is_array(list) && !json_array_size(list))) return config_of_hub(json) ? read_hubs(folder, mem, h) : OK;
    TRY(head_check(json, config, true));
    if (!any_head(list)) return OK;
    json_t *j = path_exists(path) ? json_load_file(path, JSON_REJECT_DUPLICATES, &je) : json_object();
    if (!j) return fail(E_INPUT, "%s: not JSON (line %d)", path, je.line);
    h->kind = kind_of(json, j);
    err e = count_classes(folder, method_file(config_of_hub(json)), h->kind, &h->classes);
    if (!e && h->kind == HEAD_CLASSES && h->classes == 1) h->kind = HEAD_NUMBERS; /* transformers' rule */
    if (!e && h->kind != HEAD_NUMBERS && path_exists(path)) e = read_names(j, path, mem, h);
    json_decref(j);
    return e;
}

err head_labels(const struct head *h, void *json) {
    const bool numbers = h->kind == HEAD_NUMBERS;
    json_t *names = json_object(), *ids = json_object();
    int bad = json_object_set_new(json, "id2label", names) | json_object_set_new(json, "label2id", ids);
    if (numbers) bad |= json_object_set_new(json, "problem_type", json_string("regression"));
    for (int i = 0; i < h->classes && !bad; i++) {
        char key[16], number[24];
        snprintf(key, sizeof key, "%d", i);
        snprintf(number, sizeof number, "LABEL_%d", i);
        const char *name = numbers || !h->names ? number : h->names[i];
        bad |= json_object_set_new(names, key, json_string(name)) | json_object_set_new(ids, name, json_integer(i));
    }
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

err head_write_labels(const struct head *h, const char *folder) {
    char path[4096];
    if (!h->names && !(h->classes && h->kind == HEAD_NUMBERS)) return OK;
    json_t *j = json_object();
    char *text = j && !head_labels(h, j) ? json_dumps(j, JSON_INDENT(2)) : NULL;
    json_decref(j);
    if (!text) return fail(E_MEMORY, "out of memory");
    snprintf(path, sizeof path, "%s/labels.json", folder);
    err e = file_write(path, text, strlen(text));
    free(text);
    return e;
}

bool head_same(const struct head *a, const struct head *b) {
    if (a->classes != b->classes || (a->classes && a->kind != b->kind)) return false;
    for (int i = 0; a->names && b->names && i < a->classes; i++)
        if (strcmp(a->names[i], b->names[i])) return false;
    return true;
}
