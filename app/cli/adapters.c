/* See adapters.h. */
#include "adapters.h"
#include "base/file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The last part of a path: what an adapter is called that has been given no name. */
static const char *last_part(char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') path[--n] = 0;
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* DIR, NAME=DIR, DIR:WEIGHT or NAME=DIR:WEIGHT; what exists as it stands is a DIR. text is taken apart. */
static int parse(const char *command, char *text, cyc_member *m) {
    m->weight = 1;
    char *folder = text, *eq = strchr(text, '=');
    const char *name = NULL;
    if (eq && !path_exists(text)) *eq = 0, name = text, folder = eq + 1;
    char *colon = strrchr(folder, ':'), *end;
    if (colon && !path_exists(folder)) {
        const double w = strtod(colon + 1, &end);
        if (end == colon + 1 || *end || !isfinite(w))
            return cli_bad("%s: --adapter %s: behind the last ':' a weight is expected, not '%s'", command, folder, colon + 1);
        *colon = 0;
        m->weight = (float)w;
    }
    if (!*folder || (name && !*name)) return cli_bad("%s: --adapter wants DIR or NAME=DIR[:WEIGHT]", command);
    m->folder = folder;
    m->name = name ? name : last_part(folder);
    return STATUS_OK;
}

static int open_several(cyc_model *m, struct adapters *s, bool off) {
    cyc_member *open = malloc((size_t)s->n * sizeof *open);
    if (!open) return cli_bad("out of memory");
    for (int i = 0; i < s->n; i++) open[i] = s->member[i], open[i].weight = off ? 0 : open[i].weight;
    const int code = cyc_mix_open(m, open, s->n, &s->a);
    free(open);
    return code ? cli_failed(code) : STATUS_OK;
}

int adapters_open(const char *command, cyc_model *m, const struct arg_list *list, bool rows, bool off, struct adapters *out) {
    *out = (struct adapters){0};
    size_t bytes = 0;
    for (int i = 0; i < list->n; i++) bytes += strlen(list->v[i]) + 1;
    char *at = out->texts = malloc(bytes + 1);
    out->member = calloc((size_t)list->n + 1, sizeof *out->member);
    if (!at || !out->member) return cli_bad("%s: out of memory", command);
    bool weighed = false;
    for (int i = 0; i < list->n; at += strlen(list->v[i++]) + 1) {
        strcpy(at, list->v[i]);
        const int status = parse(command, at, &out->member[i]);
        if (status) return status;
        weighed |= out->member[i].weight != 1;
    }
    if (!list->n) return STATUS_OK;
    out->n = list->n > 1 || rows || off || weighed ? list->n : 0;
    if (out->n) return open_several(m, out, off);
    const int code = cyc_adapter_open(m, out->member[0].folder, &out->a);
    return code ? cli_failed(code) : STATUS_OK;
}

void adapters_close(struct adapters *s) {
    if (s->a) cyc_adapter_close(s->a);
    free(s->member);
    free(s->texts);
}

static int named(const struct adapters *s, const char *name, const char *where, int *index) {
    const int code = cyc_mix_index(s->a, name, index);
    return code ? cli_bad("%s: %s", where, cyc_error()) : STATUS_OK;
}

int adapters_row(const struct adapters *s, const json_t *word, bool off, const char *where, float *weight) {
    const char *name;
    json_t *value;
    int i, status;
    for (i = 0; i < s->n; i++) weight[i] = word || off ? 0 : s->member[i].weight;
    if (!word || json_is_null(word)) return STATUS_OK;
    if (json_is_string(word)) {
        if ((status = named(s, json_string_value(word), where, &i))) return status;
        weight[i] = s->member[i].weight;
        return STATUS_OK;
    }
    if (!json_is_object(word)) return cli_bad("%s: \"adapter\" is a name, null, or an object of names and weights", where);
    json_object_foreach((json_t *)word, name, value) {
        if ((status = named(s, name, where, &i))) return status;
        if (!json_is_number(value)) return cli_bad("%s: the weight of adapter '%.80s' is not a number", where, name);
        weight[i] = (float)json_number_value(value);
    }
    return STATUS_OK;
}
