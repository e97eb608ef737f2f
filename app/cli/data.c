/* `cyclora data preview`: the training rows as the model will see them, token by token. */
#include "args.h"
#include "cli.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_data[] =
    "Shows the first training rows as token pieces, with those that carry loss marked: in green, or between ⟦ and ⟧\n"
    "where there are no colours. A mask that is off by a token, a template twice, a missing end token are seen here.\n"
    "\n"
    "Usage: cyclora data preview CONFIG [-n N] [--set key=value]... [--json]\n"
    "\n"
    "  CONFIG           a run's YAML file\n"
    "  -n N             rows to show (3)\n"
    "  --set key=value  goes over the file; may be given several times\n"
    "  --json           {\"rows\": [{\"from\", \"bos\", \"answers\", \"pieces\": [{\"text\", \"id\", \"supervised\"}]}],\n"
    "                   \"totals\": {...}} on one line; \"answers\" is the token that ends each (null where it is cut)\n"
    "\n"
    "Examples:\n"
    "  cyclora data preview run.yaml\n"
    "  cyclora data preview run.yaml -n 20 --set max_length=128 --json | jq .totals\n"
    "\n"
    "Writes to stdout alone. Exit status: 0; 2 for a wrong configuration or data file (named with its line); 1 "
    "otherwise.\n";

static void open_line(bool *line_open) {
    if (!*line_open) fputs("    ", stdout);
    *line_open = true;
}

/* A piece as it stands in the row: line ends are shown and made, other control characters shown as escapes. */
static void print_piece(const char *s, bool *line_open) {
    while (*s) {
        size_t n = strcspn(s, "\n");
        str text = {0}, shown = {0};
        str_add(&text, s, n);
        text_one_line(&shown, text.p ? text.p : "", 0);
        open_line(line_open);
        fputs(shown.p ? shown.p : "", stdout);
        *line_open = s[n] != '\n';
        if (!*line_open) puts("↵");
        s += n + !*line_open;
        str_free(&text);
        str_free(&shown);
    }
}

/* "BOS <s>; 2 answers, each ended by <|im_end|>": what is to be checked before anything else. */
static void print_ends(const json_t *row) {
    const json_t *ends = json_object_get(row, "answers"), *e;
    const char *bos = json_string_value(json_object_get(row, "bos")), *end = NULL;
    size_t i, n = json_array_size(ends), cut = 0;
    bool alike = true;
    json_array_foreach(ends, i, e) {
        const char *s = json_string_value(e);
        cut += !s;
        alike = alike && (!s || !end || !strcmp(s, end));
        if (s) end = s;
    }
    printf("; %s%s; %zu answer%s", bos ? "BOS " : "no BOS", bos ? bos : "", n, n == 1 ? "" : "s");
    if (cut) printf(", %zu without an end token", cut);
    if (end) printf(", %s by %s", n - cut == 1 ? "ended" : "each ended", alike ? end : "a token of its own");
}

static void print_row(const json_t *row) {
    size_t i, supervised = 0;
    const json_t *p, *pieces = json_object_get(row, "pieces");
    bool on = false, line_open = true;
    const char *begin = term_colour() ? term_good() : "⟦", *end = term_colour() ? term_off() : "⟧";
    json_array_foreach(pieces, i, p) supervised += json_is_true(json_object_get(p, "supervised"));
    printf("%s%s%s  %zu tokens, %zu supervised", term_bold(), json_text(row, "from"), term_off(),
           json_array_size(pieces), supervised);
    print_ends(row);
    fputs("\n    ", stdout);
    json_array_foreach(pieces, i, p) {
        bool now = json_is_true(json_object_get(p, "supervised"));
        if (now && !on) open_line(&line_open);
        if (now != on) fputs(now ? begin : end, stdout);
        on = now;
        print_piece(json_text(p, "text"), &line_open);
    }
    printf("%s%s\n", on ? end : "", line_open || on ? "\n" : "");
}

static void print_preview(const json_t *o) {
    size_t i;
    const json_t *row, *t = json_object_get(o, "totals");
    json_array_foreach(json_object_get(o, "rows"), i, row) print_row(row);
    if (!t) return;
    printf("%.0f rows, %.0f tokens, %.0f supervised", json_num(t, "rows"), json_num(t, "tokens"),
           json_num(t, "supervised"));
    if (json_object_get(t, "mean"))
        printf("; %.1f tokens a row, %.0f in the longest", json_num(t, "mean"), json_num(t, "longest"));
    if (json_num(t, "truncated") > 0) printf("; %.0f cut to max_length", json_num(t, "truncated"));
    putchar('\n');
}

static int preview(const char *config, const struct arg_list *sets, int rows, bool json) {
    cyc_config *c;
    char *text = NULL;
    int status = config_open(config, sets, &c);
    if (status) return status;
    int code = cyc_preview(c, rows, &text);
    cyc_config_free(c);
    if (code) return cli_failed(code);
    json_t *o = json_take(text);
    if (!json) print_preview(o);
    json ? json_line(o) : json_decref(o);
    return STATUS_OK;
}

int cmd_data(int argc, char **argv) {
    const char *what = NULL, *config = NULL;
    struct arg_list sets = {0};
    int rows = 3;
    bool json = false;
    const struct arg args[] = {{"preview", ARG_TEXT, &what, 0}, {"CONFIG", ARG_TEXT, &config, 0},
                               {"-n", ARG_INT, &rows, 1},       {"--set", ARG_LIST, &sets, 0},
                               {"--json", ARG_FLAG, &json, 0},  {0}};
    int status = args_parse("data", argc, argv, args);
    if (status < 0) {
        if (!what) status = args_missing("data", "what to do (preview)");
        else if (strcmp(what, "preview") != 0)
            status = cli_bad("data: '%s' is nothing that can be done; `cyclora data preview CONFIG` is", what);
        else if (!config) status = args_missing("data", "CONFIG");
        else status = preview(config, &sets, rows, json);
    }
    free(sets.v);
    return status;
}
