/* What a comparison found: a table for the terminal, the same as Markdown, all of it as JSON, and a plot. See compare.h.
 *
 * A figure is the mean over the seeds, +- the standard deviation of one run (n - 1); the plot's bars are the least and the greatest run.
 * Times are medians, memory is the greatest of the runs. */
#include "base/file.h"
#include "compare.h"
#include "term.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct metric usual[] = {{"accuracy", "accuracy %", "%.1f", 100, false}, {"macro_f1", "macro F1 %", "%.1f", 100, false}, {"chrf", "chrF", "%.1f", 1, false},
                                      {"bleu", "BLEU", "%.1f", 1, false},             {"exact", "exact %", "%.1f", 1, false},          {"loss", "loss", "%.3f", 1, true}};
enum { USUAL = sizeof usual / sizeof *usual };

static const json_t *metric_of(const struct cell *x, const struct metric *m) {
    return json_object_get(json_object_get(x->result, "metrics"), m->key);
}

static bool any_has(const struct comparison *c, const struct metric *m) {
    for (int i = 0; i < c->n; i++)
        if (metric_of(&c->cell[i], m)) return true;
    return false;
}

static bool listed(const struct comparison *c, const char *name) {
    for (int m = 0; m < c->metrics; m++)
        if (!strcmp(c->metric[m].key, name)) return true;
    return false;
}

/* The usual metrics that any cell has, then those of a run's own (eval.metrics, the numbers of a command) by their names. */
static void find_metrics(struct comparison *c) {
    const char *name;
    json_t *v;
    c->metrics = 0;
    for (int m = 0; m < USUAL; m++)
        if (any_has(c, &usual[m])) c->metric[c->metrics++] = usual[m];
    for (int i = 0; i < c->n; i++)
        json_object_foreach(json_object_get(c->cell[i].result, "metrics"), name, v)
            if (c->metrics < MOST_SCORES && !listed(c, name)) c->metric[c->metrics++] = (struct metric){name, name, "%.2f", 1, false};
}

/* That of the plot; NULL where no cell has any. */
static const struct metric *main_metric(const struct comparison *c) { return c->metrics ? &c->metric[0] : NULL; }

/* --- cells of the table ------------------------------------------------------------------------------------------------ */
static void number(str *out, const char *format, double x) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    str_addf(out, format, x);
#pragma GCC diagnostic pop
}

/* "98.2 ± 0.4" */
static void figure(str *out, const json_t *spread, const struct metric *m) {
    if (!spread) return;
    number(out, m->format, m->scale * json_num(spread, "mean"));
    if (isnan(json_num(spread, "sd"))) return;
    str_adds(out, " ± ");
    number(out, m->format, m->scale * json_num(spread, "sd"));
}

static void bytes(str *out, const struct cell *x, const char *key) {
    if (json_num(x->result, key) > 0) str_adds(out, show_bytes(json_num(x->result, key)));
}

static void seconds(str *out, const struct cell *x) {
    double s = json_num(x->result, "seconds_per_step");
    if (!isnan(s)) str_addf(out, s < 1e-3 ? "%.3f ms" : s < 1 ? "%.1f ms" : "%.2f s", s < 1 ? 1e3 * s : s);
}

/* Why a row has no figures, or not all of them. */
static void remark(str *out, const struct comparison *c, const struct cell *x, int columns) {
    const json_t *runs = json_object_get(x->result, "runs");
    const char *why = json_text(x->result, "error");
    if (!x->result) str_adds(out, "not run");
    else if (!*why && (int)json_array_size(runs) < c->seeds) str_addf(out, "%zu of %d seeds", json_array_size(runs), c->seeds);
    else if (*why) text_one_line(out, why, columns);
}

/* Column k of row x (NULL: its head); false behind the last. */
static bool column(const struct comparison *c, const struct cell *x, int k, int columns, str *out) {
    static const char *const heads[] = {"method", ">learning rate", ">trained"}, *const tails[] = {">a step", ">planned", ">measured", ""};
    str_clear(out);
    str_adds(out, "");
    if (k < 3) {
        if (!x) return str_adds(out, heads[k]), true;
        if (k == 0) str_adds(out, x->name);
        if (k == 1) str_addf(out, "%g", x->rate);
        if (k == 2 && json_object_get(x->result, "trained")) str_adds(out, show_count(json_num(x->result, "trained")));
        return true;
    }
    k -= 3;
    if (k < c->metrics) {
        if (!x) str_addf(out, ">%s", c->metric[k].head);
        else figure(out, metric_of(x, &c->metric[k]), &c->metric[k]);
        return true;
    }
    k -= c->metrics;
    if (k > 3) return false;
    if (!x) return str_adds(out, tails[k]), true;
    if (k == 0) seconds(out, x);
    if (k == 1 || k == 2) bytes(out, x, k == 1 ? "planned" : "measured");
    if (k == 3) remark(out, c, x, columns);
    return true;
}

/* Where the learning rates of the rows are from; a grid's are its method's. */
static void rates_sentence(const struct comparison *c, str *out) {
    static const struct { const char *from, *words; } kinds[] = {{"usual", "each method's usual one, not tuned on these data (`cyclora compare --list`)"}, {"--lr", "given by --lr"}, {"own", "the row's own"},
                                                               {"configuration", "the configuration's"}};
    str_addf(out, "%d seed%s each, %lld to %lld", c->seeds, c->seeds > 1 ? "s" : "", c->first_seed, c->first_seed + c->seeds - 1);
    if (c->seeds > 1) str_adds(out, "; mean ± standard deviation of a run");
    else str_adds(out, ": no spread, and small differences may be luck");
    const char *before = ". Learning rates: ";
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        bool found = false;
        for (int i = 0; i < c->n; i++) {
            const struct cell *x = &c->cell[i];
            if (strcmp(x->rate_from, kinds[k].from) != 0 ||
                (x->swept && strcmp(x->name, x->method) != 0 && strcmp(x->rate_from, "own") != 0))
                continue;
            if (!found) str_addf(out, "%s%s: %s", before, kinds[k].words, x->name);
            else str_addf(out, ", %s", x->name);
            found = true, before = "; ";
        }
    }
    str_adds(out, ".");
}

static void sentence_memory(str *out) {
    str_adds(out, "A step is the median of a run's steps but the first; memory is the plan's total and the greatest that was measured (on "
                  "a processor the whole "
                  "process, on a card what is gone from it).");
}

void comparison_print(const struct comparison *c) {
    char head[24][40];
    struct table t = {0};
    str cell = {0};
    int columns = 0;
    for (; column(c, NULL, columns, 0, &cell) && columns < 24; columns++) {
        snprintf(head[columns], sizeof head[columns], "%s", cell.p);
        table_head(&t, head[columns]);
    }
    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < columns; k++) {
            column(c, &c->cell[i], k, 90, &cell);
            table_text(&t, cell.p ? cell.p : "");
        }
    putchar('\n');
    table_print(&t, "");
    str_clear(&cell);
    str_adds(&cell, "\n");
    rates_sentence(c, &cell);
    printf("%s\n%s/compare.md, compare.json, compare.svg\n", cell.p ? cell.p : "", c->out);
    str_free(&cell);
}

/* --- files --------------------------------------------------------------------------------------------------------------- */
static void markdown(const struct comparison *c, str *out) {
    str cell = {0};
    str_addf(out, "# %s: methods compared\n\n", c->config);
    for (int i = -1; i < c->n; i++) {
        for (int k = 0; column(c, i < 0 ? NULL : &c->cell[i], k, 0, &cell); k++) {
            const char *p = cell.p ? cell.p : "";
            str_adds(out, "| ");
            for (p += i < 0 && *p == '>'; *p; p++) str_addf(out, *p == '|' ? "\\|" : "%c", *p);
            str_addc(out, ' ');
        }
        str_adds(out, "|\n");
        for (int k = 0; i < 0 && column(c, NULL, k, 0, &cell); k++) str_adds(out, *cell.p == '>' ? "|---:" : "|---");
        if (i < 0) str_adds(out, "|\n");
    }
    str_addc(out, '\n');
    rates_sentence(c, out);
    str_addc(out, ' ');
    sentence_memory(out);
    str_adds(out, "\n\n![quality against trained parameters](compare.svg)\n");
    str_free(&cell);
}

json_t *comparison_json(const struct comparison *c) {
    const struct metric *m = main_metric(c);
    json_t *cells = json_array();
    for (int i = 0; i < c->n; i++) {
        const struct cell *x = &c->cell[i];
        json_t *settings = json_array(), *j = json_pack("{s:s, s:s, s:b, s:f, s:s}", "name", x->name, "method", x->method, "swept",
                                                        (int)x->swept, "learning_rate", x->rate, "learning_rate_from", x->rate_from);
        for (int k = 0; k < x->sets; k++) json_array_append_new(settings, json_utf8(x->set[k]));
        json_object_set_new(j, "settings", settings);
        json_object_update(j, x->result);
        json_array_append_new(cells, j);
    }
    return json_pack("{s:s, s:o, s:b, s:i, s:I, s:o}", "config", c->config, "metric", m ? json_string(m->key) : json_null(),
                     "lower_is_better", m && m->lower, "seeds", c->seeds, "first_seed", (json_int_t)c->first_seed, "cells", cells);
}

/* "r=4 mlp" of "lora r=4 target_modules=mlp": a word says what it is of. */
static const char *short_label(arena *mem, const char *name) {
    str s = {0};
    for (const char *p = name; *p;) {
        size_t n = strcspn(p, " "), eq = strcspn(p, "=");
        bool word = p != name && eq < n && (p[eq + 1] < '0' || p[eq + 1] > '9');
        str_addf(&s, "%s%.*s", p == name ? "" : " ", (int)(word ? n - eq - 1 : n), word ? p + eq + 1 : p);
        p += n + (p[n] == ' ');
    }
    const char *label = arena_str(mem, s.p ? s.p : name);
    str_free(&s);
    return label;
}

static const char *file_name(const char *path) { return strrchr(path, '/') ? strrchr(path, '/') + 1 : path; }

/* A colour for each method, in the order of --methods. */
static int group_of(const struct comparison *c, const struct cell *x) {
    int group = 0;
    for (const struct cell *y = c->cell; strcmp(y->method, x->method) != 0; y++) {
        const struct cell *z = c->cell;
        while (strcmp(z->method, y->method) != 0) z++;
        group += z == y;
    }
    return group;
}

static void plot(struct comparison *c, const struct metric *m, str *out) {
    struct plot p = {.title = arena_printf(&c->mem, "%s: %s on held-out data", file_name(c->config), m->head), .x_label = "trained parameters", .y_label = m->head, .lower = m->lower,
                     .note = c->seeds > 1 ? arena_printf(&c->mem, "points: mean of %d seeds; bars: least and greatest", c->seeds) : "one seed",
                     .point = arena_alloc(&c->mem, (size_t)c->n * sizeof *p.point)};
    for (int i = 0; p.point && i < c->n; i++) {
        const struct cell *x = &c->cell[i];
        const json_t *s = metric_of(x, m);
        if (!s || !(json_num(x->result, "trained") > 0)) continue;
        const bool small = x->swept && strcmp(x->name, x->method) != 0;
        p.point[p.n++] = (struct plot_point){short_label(&c->mem, x->name), json_num(x->result, "trained"), m->scale * json_num(s, "mean"), m->scale * json_num(s, "min"), m->scale * json_num(s, "max"), group_of(c, x), small};
    }
    plot_svg(&p, out);
}

static int write(struct comparison *c, const char *name, str *text) {
    err e = text->failed ? fail(E_MEMORY, "out of memory")
                         : file_write(arena_printf(&c->mem, "%s/%s", c->out, name), text->p ? text->p : "", text->n);
    str_free(text);
    if (e) cli_bad("%s", err_text());
    return e ? STATUS_FAILED : STATUS_OK;
}

int comparison_write(struct comparison *c) {
    find_metrics(c);
    const struct metric *m = main_metric(c);
    str md = {0}, svg = {0}, json = {0};
    json_t *j = comparison_json(c);
    char *text = json_dumps(j, JSON_INDENT(1) | JSON_REAL_PRECISION(8));
    str_adds(&json, text ? text : "{}");
    str_addc(&json, '\n');
    free(text);
    json_decref(j);
    markdown(c, &md);
    if (m) plot(c, m, &svg);
    int a = write(c, "compare.json", &json), b = write(c, "compare.md", &md);
    return a | b | (svg.n ? write(c, "compare.svg", &svg) : STATUS_OK);
}
