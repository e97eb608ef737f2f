/* What a task is: a YAML file as the harness has them, a file of records, and what the command line says over it. See task.h. */
#include "data/task.h"
#include "base/str.h"
#include "io/yaml.h"
#include <string.h>

enum { NEW_TOKENS = 64, NEW_TOKENS_OF_YAML = 256 /* the harness's */, NEW_TOKENS_MOST = 1 << 20 };

/* Keys that are read, and those that have no bearing on what a task asks or how it counts. */
static const char *const known[] = {"task",
                                    "dataset_path",
                                    "dataset_name",
                                    "dataset_kwargs",
                                    "test_split",
                                    "validation_split",
                                    "training_split",
                                    "fewshot_split",
                                    "fewshot_config",
                                    "output_type",
                                    "doc_to_text",
                                    "doc_to_choice",
                                    "doc_to_target",
                                    "description",
                                    "target_delimiter",
                                    "fewshot_delimiter",
                                    "generation_kwargs",
                                    "metric_list",
                                    NULL},
                         *const idle[] = {"tag",         "group",   "task_alias",           "metadata",
                                          "num_fewshot", "repeats", "should_decontaminate", "doc_to_decontamination_query",
                                          "test_size",   NULL};

static bool is_any(const char *s, const char *const *words) {
    while (*words && strcmp(s, *words) != 0) words++;
    return *words != NULL;
}

static const char *text_or(const json_t *o, const char *key, const char *fallback) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : fallback;
}

static err check_keys(const char *path, const json_t *y) {
    const char *key;
    json_t *v;
    if (!json_is_object(y)) return fail(E_INPUT, "%s: a task is lines of `key: value`", path);
    json_object_foreach((json_t *)y, key, v) {
        if (is_any(key, idle) || is_any(key, known)) continue;
        return fail(E_UNSUPPORTED, "%s: '%.60s' is not read here, and it may change what the task is", path, key);
    }
    json_object_foreach(json_object_get(y, "fewshot_config"), key, v) {
        if (strcmp(key, "sampler") != 0) return fail(E_UNSUPPORTED, "%s: fewshot_config has only 'sampler' here, not '%.60s'", path, key);
    }
    const char *type = text_or(y, "output_type", "");
    if (*type && strcmp(type, "multiple_choice") != 0 && strcmp(type, "generate_until") != 0)
        return fail(E_UNSUPPORTED, "%s: output_type %.40s: multiple_choice and generate_until can be had", path, type);
    const char *data = text_or(y, "dataset_path", "json");
    if (strcmp(data, "json") != 0)
        return fail(E_UNSUPPORTED, "%s: dataset_path %.60s: only local files can be had (dataset_path: json, dataset_kwargs: data_files)",
                    path, data);
    return OK;
}

/* The file of a split: data_files is one file, or one for each split. */
static const char *file_of(const json_t *y, const char *split) {
    const json_t *files = json_object_get(json_object_get(y, "dataset_kwargs"), "data_files");
    if (json_is_string(files)) return json_string_value(files);
    return split ? json_string_value(json_object_get(files, split)) : NULL;
}

static const char *kept(struct task *t, const char *s) { return s ? arena_str(&t->mem, s) : NULL; }

static err take_until(struct task *t, const char *const *v, int n) {
    t->until = arena_alloc(&t->mem, ((size_t)n + 1) * sizeof *t->until);
    if (!t->until) return fail(E_MEMORY, "out of memory");
    for (t->n_until = 0; t->n_until < n; t->n_until++)
        if (!(t->until[t->n_until] = kept(t, v[t->n_until]))) return fail(E_MEMORY, "out of memory");
    return OK;
}

static err generation(struct task *t, const char *path, const json_t *how) {
    static const char *const lengths[] = {"max_gen_toks", "max_new_tokens", "max_tokens", NULL};
    const json_t *until = json_object_get(how, "until");
    const char *stops[16];
    int n = 0;
    for (const char *const *key = lengths; *key; key++) {
        const json_int_t most = json_integer_value(json_object_get(how, *key));
        if (most > 0) t->max_new = most < NEW_TOKENS_MOST ? (int)most : NEW_TOKENS_MOST;
    }
    if (json_is_true(json_object_get(how, "do_sample")) || json_number_value(json_object_get(how, "temperature")) > 0)
        return fail(E_UNSUPPORTED,
                    "%s: generation_kwargs: answers are the likeliest (do_sample: false, temperature: 0), so that a score comes again",
                    path);
    if (json_is_string(until)) stops[n++] = json_string_value(until);
    for (size_t i = 0; i < json_array_size(until); i++) {
        const char *s = json_string_value(json_array_get(until, i));
        if (!s || n == 16) return fail(E_INPUT, "%s: generation_kwargs.until is a list of up to 16 texts", path);
        if (*s) stops[n++] = s;
    }
    if (!until && *t->shot_delimiter) stops[n++] = t->shot_delimiter;
    return take_until(t, stops, n);
}

static err metrics(struct task *t, const char *path, const json_t *list) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i);
        if (strcmp(text_or(m, "metric", ""), "exact_match") != 0) continue;
        if (json_object_get(m, "regexes_to_ignore") || json_is_true(json_object_get(m, "ignore_numbers")))
            return fail(E_UNSUPPORTED, "%s: metric_list: exact_match ignores case and punctuation here, no expressions and no numbers",
                        path);
        t->ignore_case = json_is_true(json_object_get(m, "ignore_case"));
        t->ignore_punctuation = json_is_true(json_object_get(m, "ignore_punctuation"));
    }
    return OK;
}

static err settings(struct task *t, const struct task_ask *ask, const json_t *y) {
    t->name = kept(t, text_or(y, "task", ask->path));
    t->target_delimiter = kept(t, text_or(y, "target_delimiter", " "));
    t->shot_delimiter = kept(t, text_or(y, "fewshot_delimiter", "\n\n"));
    t->first = !strcmp(text_or(json_object_get(y, "fewshot_config"), "sampler", ""), "first_n");
    t->max_new = y ? NEW_TOKENS_OF_YAML : NEW_TOKENS;
    TRY(metrics(t, ask->path, json_object_get(y, "metric_list")));
    TRY(y ? generation(t, ask->path, json_object_get(y, "generation_kwargs")) : take_until(t, (const char *const[]){"\n"}, 1));
    if (ask->n_until) TRY(take_until(t, ask->until, ask->n_until));
    if (ask->max_new) t->max_new = ask->max_new;
    return t->name && t->target_delimiter && t->shot_delimiter ? OK : fail(E_MEMORY, "out of memory");
}

/* What the command line says of a form, else the file. The new reference is the caller's. */
static json_t *said(const char *word, const json_t *y, const char *key) {
    json_t *list = word && *word == '[' ? json_loads(word, 0, NULL) : NULL;
    if (list) return list;
    return word ? json_string(word) : json_incref(json_object_get(y, key));
}

static err records(struct task *t, const struct task_ask *ask, const json_t *y) {
    const char *type = text_or(y, "output_type", ""), *split = text_or(y, "test_split", text_or(y, "validation_split", NULL));
    const char *asked = y ? file_of(y, split) : ask->path, *examples = ask->shot_data;
    const char *from = text_or(y, "fewshot_split", text_or(y, "training_split", NULL));
    enum task_kind kind;
    if (!asked)
        return fail(E_INPUT, "%s: no file for the split '%.40s' (dataset_kwargs.data_files, test_split)", ask->path,
                    split ? split : "test");
    if (!examples && y && from && (!split || strcmp(from, split) != 0)) examples = file_of(y, from);
    json_t *form[] = {said(ask->text, y, "doc_to_text"), said(ask->choice, y, "doc_to_choice"), said(ask->target, y, "doc_to_target"),
                      said(ask->description, y, "description")};
    const struct task_reading r = {&t->mem, form[0], form[1], form[2], form[3], !strcmp(type, "generate_until")};
    const char *path = kept(t, asked), *also = kept(t, examples);
    err e = path && (also || !examples) ? task_items(&r, path, ask->limit, &t->asked, &t->kind) : fail(E_MEMORY, "out of memory");
    if (!e && !strcmp(type, "multiple_choice") && t->kind != TASK_CHOICE)
        e = fail(E_INPUT, "%s: multiple_choice needs options: say doc_to_choice", ask->path);
    if (!e && also) e = task_items(&r, also, 0, &t->examples, &kind);
    if (!e && also && kind != t->kind) e = fail(E_INPUT, "%s: one has options and the other has none: these are two tasks", also);
    for (int i = 0; i < 4; i++) json_decref(form[i]);
    return e;
}

err task_open(const struct task_ask *ask, struct task *t) {
    const bool yaml = str_ends(ask->path, ".yaml") || str_ends(ask->path, ".yml");
    json_t *y = NULL;
    *t = (struct task){0};
    if (yaml) TRY(yaml_read(ask->path, &y));
    err e = yaml ? check_keys(ask->path, y) : OK;
    if (!e) e = settings(t, ask, y);
    if (!e) e = records(t, ask, y);
    json_decref(y);
    if (e) task_close(t);
    return e;
}

void task_close(struct task *t) {
    arena_free(&t->mem);
    *t = (struct task){0};
}
