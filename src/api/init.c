/* Ready configurations of the public API (train/examples.h): what there is, and one of them written for a user's model and data. */
#include "api/api.h"
#include "base/file.h"
#include "train/examples.h"
#include <jansson.h>
#include <string.h>

int cyc_recipes(char **json) {
    int n;
    const struct example *x = examples_all(&n);
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:b}", "name", x[i].name, "about", x[i].about, "page", x[i].page,
                                              "command", x[i].command, "config", x[i].text != NULL));
    return api_json((struct json_t *)list, json);
}

/* Once, whichever sides name it. */
static void note_missing(const char *path, json_t *missing) {
    size_t i;
    const json_t *known;
    if (!*path || path_exists(path) || config_random_model(path, &(uint64_t){0}, &(const char *){NULL})) return;
    json_array_foreach(missing, i, known) if (!strcmp(json_string_value(known), path)) return;
    json_array_append_new(missing, json_string(path));
}

/* The files that the configuration names and that are not here. */
static err find_missing(struct config *c, json_t *missing) {
    for (int s = 0; s < config_sides(c); s++) {
        note_missing(c->side[s].model, missing);
        for (int i = 0; i < c->side[s].data.n; i++) {
            struct file_entry e;
            TRY(config_entry(&c->mem, c->side[s].data.v[i], &e));
            note_missing(e.path, missing);
        }
    }
    note_missing(c->init_from, missing);
    note_missing(c->warmup_pairs, missing);
    note_missing(c->eval_data, missing);
    note_missing(c->test_data, missing);
    return OK;
}

static err write_config(const cyc_init_request *q, const struct example *x, struct config *c, json_t *missing) {
    const struct example_edits edits = {.model = q->model,
                                        .data = {q->n_data, (const char **)q->data},
                                        .eval = q->eval,
                                        .test = q->test,
                                        .pairs = q->pairs,
                                        .sets = {q->n_sets, (const char **)q->sets}};
    str text = {0};
    if (path_exists(q->out)) return fail(E_USAGE, "%s exists already: name another file (-o), or remove it", q->out);
    err e = example_edit(x, &edits, q->out, &text, c);
    if (!e) e = find_missing(c, missing);
    if (!e) e = file_write(q->out, text.p, text.n);
    str_free(&text);
    return e;
}

int cyc_init(const cyc_init_request *q, char **json) {
    const struct example *x;
    struct config c = {0};
    json_t *missing = json_array();
    *json = NULL;
    err e = example_find(q->recipe, &x);
    if (!e && !(e = config_init(&c))) e = write_config(q, x, &c, missing);
    config_free(&c);
    if (e) return json_decref(missing), api_code(e);
    return api_json((struct json_t *)json_pack("{s:s, s:s, s:s, s:s, s:o}", "recipe", x->name, "out", q->out, "page", x->page, "command",
                                               x->command, "missing", missing),
                    json);
}
