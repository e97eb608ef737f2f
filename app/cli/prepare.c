/* `cyclora data prepare`: data and a configuration of cycle training by a ready recipe. */
#define _POSIX_C_SOURCE 200809L /* strdup */
#include "prepare.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "a,b" as two texts, the first in *own, which the caller frees. false: it is no two. */
static bool two(const char *list, char **own, const char *out[2]) {
    out[0] = out[1] = *own = NULL;
    if (!list) return true;
    char *comma = (*own = strdup(list)) ? strchr(*own, ',') : NULL;
    if (!comma || comma == *own || !comma[1] || strchr(comma + 1, ',')) return false;
    *comma = 0;
    out[0] = *own, out[1] = comma + 1;
    return true;
}

static void print_prepared(const json_t *o) {
    static const struct {
        const char *key, *what;
    } parts[] = {{"A", "texts of side A"},
                 {"B", "texts of side B, of other pairs"},
                 {"warm", "pairs to begin with"},
                 {"dev", "pairs to choose the best adapters by"},
                 {"test", "pairs to end with"}};
    printf("%s%s%s  %.0f pairs, %.0f more were equal to others\n", term_bold(), json_text(o, "out"), term_off(), json_num(o, "pairs"),
           json_num(o, "duplicates"));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (json_num(o, parts[i].key) > 0)
            printf("  %s.jsonl%*s %6.0f %s\n", parts[i].key, 5 - (int)strlen(parts[i].key), "", json_num(o, parts[i].key), parts[i].what);
    printf("  config.yaml        cyclora train %s/config.yaml\n", json_text(o, "out"));
}

int data_prepare(const struct prepare *p, const struct arg_list *files, const char *field, const char *model, bool json) {
    char *own_fields, *own_names = NULL, *text = NULL;
    const char *fields[2];
    cyc_prepare_request q = {.recipe = files->v[0],
                             .files = files->v + 1,
                             .n_files = files->n - 1,
                             .model = model ? model : "",
                             .out = p->out,
                             .seed = p->seed,
                             .warm = p->warm,
                             .dev = p->dev,
                             .test = p->test};
    int status = STATUS_OK;
    if (files->n < 2) return args_missing("data", "a file to prepare");
    if (!p->out) return args_missing("data", "--out");
    if (!two(field, &own_fields, fields)) status = cli_bad("data: --field wants two names with a comma between, not '%s'", field);
    else if (!two(p->names, &own_names, q.names))
        status = cli_bad("data: --names wants two names with a comma between, not '%s'", p->names);
    q.field = fields[0], q.field2 = fields[1];
    int code = status ? CYC_OK : cyc_data_prepare(&q, &text);
    free(own_fields);
    free(own_names);
    if (status) return status;
    if (code) return cli_failed(code);
    json_t *o = json_take(text);
    if (!json) print_prepared(o);
    json ? json_line(o) : json_decref(o);
    return STATUS_OK;
}
