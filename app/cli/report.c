/* See report.h. */
#include "report.h"
#include "cli.h"
#include "term.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static void label(const char *name) { printf("%s%-10s%s ", term_bold(), name, term_off()); }

static void report_model(const json_t *m) {
    if (!m) return;
    label("model");
    printf("%s", json_text(m, "path"));
    if (*json_text(m, "arch")) printf("  %s", json_text(m, "arch"));
    if (json_object_get(m, "parameters")) printf(", %s parameters", show_count(json_num(m, "parameters")));
    if (json_object_get(m, "bytes")) printf(", %s", show_bytes(json_num(m, "bytes")));
    if (json_object_get(m, "layers"))
        printf(", %.0f layers of width %.0f, vocabulary %.0f", json_num(m, "layers"), json_num(m, "width"),
               json_num(m, "vocab"));
    putchar('\n');
}

/* "adapter A  2.44M parameters in 210 modules; 3204 rows of b.jsonl" */
static void report_side(const json_t *s) {
    char name[40];
    const char *data = json_text(s, "data"), *targets = json_text(s, "targets");
    snprintf(name, sizeof name, "adapter %s", json_text(s, "name"));
    label(name);
    printf("%s parameters", show_count(json_num(s, "trained")));
    if (json_num(s, "modules") > 0) printf(" in %.0f modules", json_num(s, "modules"));
    if (json_num(s, "virtual_tokens") > 0)
        printf(" for %.0f virtual token%s", json_num(s, "virtual_tokens"), json_num(s, "virtual_tokens") > 1 ? "s" : "");
    if (json_num(s, "rows") > 0) printf("; %.0f rows of %s", json_num(s, "rows"), *targets ? targets : data);
    putchar('\n');
}

/* Both sides' adapters are of one method. */
void report_servers(const json_t *plan) {
    size_t i;
    const json_t *one, *list = json_object_get(json_array_get(json_object_get(plan, "sides"), 0), "not_served_by");
    json_array_foreach(list, i, one) {
        label(i ? "" : "warning");
        printf("%s will not serve it: %s\n", json_text(one, "loader"), json_text(one, "why"));
    }
}

/* Rotary positions that do not stand as the model's files have them. */
static void report_positions(const json_t *p) {
    if (!p) return;
    label("positions");
    printf("%s", json_text(p, "type"));
    if (json_num(p, "factor") > 0) printf(", %g times %.0f", json_num(p, "factor"), json_num(p, "original"));
    else if (json_num(p, "original") > 0) printf(", from %.0f", json_num(p, "original"));
    printf(": context %.0f, base %g", json_num(p, "context"), json_num(p, "base"));
    if (!strcmp(json_text(p, "type"), "dynamic") || !strcmp(json_text(p, "type"), "longrope"))
        printf(", for sequences of up to %.0f tokens", json_num(p, "length"));
    putchar('\n');
}

/* "quantised  59.7 MB as nf4; on 2048 tokens mean KL 0.07 nats from the file's model, perplexity 21.3 -> 22.9" */
static void report_quantised(const json_t *q) {
    if (!q) return;
    label("quantised");
    printf("%s", json_text(q, "made"));
    if (json_object_get(q, "tokens"))
        printf("; on %.0f tokens mean KL %.4g nats from the file's model (worst %.3g), same first choice at %.1f %%, perplexity %.3f -> %.3f",
               json_num(q, "tokens"), json_num(q, "mean_kl"), json_num(q, "worst_kl"), 100 * json_num(q, "same_top"),
               json_num(q, "perplexity_base"), json_num(q, "perplexity"));
    putchar('\n');
}

void report_run(const json_t *plan) {
    size_t i;
    const json_t *side;
    if (*json_text(plan, "sentence")) print_wrapped(json_text(plan, "sentence"));
    const json_t *one, *models = json_object_get(plan, "models"); /* where each side has its own */
    if (models) json_array_foreach(models, i, one) report_model(one);
    else report_model(json_object_get(plan, "model"));
    report_quantised(json_object_get(plan, "quantization"));
    report_positions(json_object_get(plan, "positions"));
    json_array_foreach(json_object_get(plan, "sides"), i, side) report_side(side);
    report_servers(plan);
    const json_t *f = json_object_get(plan, "features");
    if (!(json_num(f, "seconds") > 0)) return;
    label("features");
    printf("the base's rows of %.0f %s, %s; ", json_num(f, "rows"), json_text(f, "of"), show_bytes(json_num(f, "bytes")));
    if (json_is_true(json_object_get(f, "found"))) printf("found on disk\n");
    else printf("computed in %s\n", show_time(json_num(f, "seconds")));
}

void report_memory(const json_t *plan) {
    struct table t = {0};
    size_t i;
    const json_t *row;
    table_head(&t, "memory");
    table_head(&t, ">planned");
    table_head(&t, ">measured");
    table_head(&t, "");
    json_array_foreach(json_object_get(plan, "memory"), i, row) {
        table_text(&t, json_text(row, "name"));
        table_bytes(&t, row, "bytes");
        table_bytes(&t, row, "measured");
        table_text(&t, json_text(row, "note"));
    }
    static const struct {
        const char *name, *key, *measured;
    } sums[] = {{"total", "total", "peak_resident"}, {"private", "private", "peak_private"}, {"limit", "limit", ""}};
    for (i = 0; i < 3; i++) {
        if (!(json_num(plan, sums[i].key) > 0)) continue;
        table_text(&t, sums[i].name);
        table_bytes(&t, plan, sums[i].key);
        table_bytes(&t, plan, sums[i].measured);
        table_text(&t, "");
    }
    table_print(&t, "");
}

/* --- evaluations ----------------------------------------------------------------------------------------------------
 */
static const struct {
    const char *head, *key, *fmt;
} metrics[] = {{">loss", "loss", "%.4f"},
               {">perplexity", "perplexity", "%.2f"},
               {">bits/byte", "bits_per_byte", "%.4f"},
               {">BLEU", "bleu", "%.1f"},
               {">chrF", "chrf", "%.1f"},
               {">exact %", "exact", "%.1f"},
               {">accuracy", "accuracy", "%.4f"},
               {">macro F1", "macro_f1", "%.4f"},
               {">span F1", "span_f1", "%.4f"},
               {">RMSE", "rmse", "%.4f"},
               {">MAE", "mae", "%.4f"},
               {">Pearson", "pearson", "%.4f"},
               {">Spearman", "spearman", "%.4f"}};
enum { METRICS = sizeof metrics / sizeof *metrics };

/* Figures that the table above does not know, in the order in which they come: eval.metrics, what a command says. */
struct more {
    char head[TABLE_COLUMNS][40]; /* ">name" */
    int n;
};

static void find_more(const json_t *eval, struct more *more) {
    size_t i;
    const char *name;
    json_t *side, *v;
    for (int of = 0; of < 2; of++)
        json_array_foreach(json_object_get(eval, of ? "guard" : "sides"), i, side) json_object_foreach(side, name, v) {
            bool known = !json_is_real(v);
            for (int m = 0; m < METRICS && !known; m++) known = !strcmp(metrics[m].key, name);
            for (int m = 0; m < more->n && !known; m++) known = !strcmp(more->head[m] + 1, name);
            if (!known && more->n + METRICS + 2 < TABLE_COLUMNS && strlen(name) < sizeof *more->head - 1)
                snprintf(more->head[more->n++], sizeof *more->head, ">%s", name);
        }
}

static void metric_heads(struct table *t, const struct more *more) {
    table_head(t, "direction");
    table_head(t, "");
    for (int m = 0; m < METRICS; m++) table_head(t, metrics[m].head);
    for (int m = 0; m < more->n; m++) table_head(t, more->head[m]);
}

static void metric_row(struct table *t, const struct more *more, const char *name, const char *what, const json_t *o) {
    table_text(t, name);
    table_text(t, what);
    bool classes = json_object_get(o, "macro_f1") != NULL; /* of tokens the accuracy is not shown */
    for (int m = 0; m < METRICS; m++)
        table_number(t, classes || strcmp(metrics[m].key, "accuracy") ? o : NULL, metrics[m].key, metrics[m].fmt);
    for (int m = 0; m < more->n; m++) table_number(t, o, more->head[m] + 1, "%.2f");
}

/* A classifier's classes, and what it took for what. */
static void classes(const json_t *side, bool details) {
    enum { SHOWN = 8 };
    struct table t = {0};
    size_t i;
    const json_t *c, *list = json_object_get(side, "classes"), *wrong = json_object_get(side, "confusions");
    const bool words = json_object_get(side, "words") != NULL;
    const char *const heads[] = {"class", ">precision", ">recall", ">F1", words ? ">words" : ">texts", ">predicted"};
    if (!list || !details) return;
    putchar('\n');
    for (i = 0; i < sizeof heads / sizeof *heads; i++) table_head(&t, heads[i]);
    json_array_foreach(list, i, c) {
        if (!(json_num(c, "support") + json_num(c, "predicted") > 0)) continue;
        table_text(&t, json_text(c, "label"));
        table_number(&t, c, "precision", "%.3f");
        table_number(&t, c, "recall", "%.3f");
        table_number(&t, c, "f1", "%.3f");
        table_number(&t, c, "support", "%.0f");
        table_number(&t, c, "predicted", "%.0f");
    }
    table_print(&t, "  ");
    json_array_foreach(wrong, i, c) {
        str from = {0}, to = {0};
        if (i == SHOWN) break;
        text_one_line(&from, json_text(c, "label"), 60);
        text_one_line(&to, json_text(c, "predicted"), 60);
        printf("%s  %s taken for %s: %.0f\n", i ? "" : "\n", from.p ? from.p : "", to.p ? to.p : "", json_num(c, "count"));
        str_free(&from);
        str_free(&to);
    }
    if (json_array_size(wrong) > SHOWN) printf("  and %zu other confusions\n", json_array_size(wrong) - SHOWN);
}

static const char *direction(const json_t *side) {
    const char *d = json_text(side, "direction");
    return *d ? d : json_text(side, "name");
}

static void sample_line(const char *name, const char *mark, const char *text) {
    str line = {0};
    text_one_line(&line, text, term_width() - 6);
    printf("  %s%s%-*s%s  %s\n", term_dim(), name, 2 - (int)strlen(name), mark, term_off(), line.p ? line.p : "");
    str_free(&line);
}

/* A text of the first side, what becomes of it from side to side, and the text that comes back. */
static void samples(const json_t *list) {
    size_t i;
    const json_t *s;
    json_array_foreach(list, i, s) {
        const json_t *names = json_object_get(s, "names"), *via = json_object_get(s, "via");
        const char *first = names ? json_string_value(json_array_get(names, 0)) : "A";
        sample_line(first, "", json_text(s, "a"));
        if (json_object_get(s, "b")) sample_line(names ? json_string_value(json_array_get(names, 1)) : "B", "", json_text(s, "b"));
        for (size_t k = 0; k < json_array_size(via); k++)
            sample_line(json_string_value(json_array_get(names, k + 2)), "", json_string_value(json_array_get(via, k)));
        if (json_object_get(s, "back")) sample_line(first, "'", json_text(s, "back"));
        if (i + 1 < json_array_size(list)) putchar('\n');
    }
}

/* "A→B  copied 2 %, cut 0 %, ..., moved 1.2e-3": what goes beside the scores (docs/health.md). */
static void health(const json_t *list) {
    static const struct { const char *key, *fmt; double scale; } figures[] = {{"copy_rate", "copies %.0f %%", 100},        {"copy_ngrams", "trigrams copied %.0f %%", 100},
                                                                              {"length_ratio", "length x%.2f", 1},          {"distinct_2", "distinct-2 %.2f", 1},
                                                                              {"empty", "empty %.0f %%", 100},              {"truncated", "cut %.0f %%", 100},
                                                                              {"retokenised", "retokenised %.0f %%", 100},    {"entropy", "%.1f bits a word", 1},
                                                                              {"drift", "drift %.2f", 1},
                                                                              {"base_agreement", "as the base %.0f %%", 100}, {"movement", "moved %.2g", 1}};
    size_t i;
    const json_t *h;
    json_array_foreach(list, i, h) {
        int shown = 0;
        if (!json_object_get(h, "rows")) continue; /* movement alone: in metrics.jsonl and the report */
        for (size_t k = 0; k < sizeof figures / sizeof *figures; k++) {
            const json_t *v = json_object_get(h, figures[k].key);
            if (!json_is_number(v)) continue;
            if (shown++) printf(", ");
            else printf("  %s%s%s  ", term_dim(), direction(h), term_off());
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            printf(figures[k].fmt, figures[k].scale * json_number_value(v));
#pragma GCC diagnostic pop
        }
        if (shown) putchar('\n');
    }
}

/* Reports of earlier versions do not say it: they knew two sides. */
static const char *way_of(const json_t *round) {
    const char *way = json_text(round, "way");
    return *way ? way : "A→B→A";
}

static const char *guard_row(const json_t *g) {
    static char name[80];
    snprintf(name, sizeof name, "guard %s", json_text(g, "name"));
    return name;
}

void report_eval(const json_t *eval) {
    struct table t = {0};
    struct more more = {0};
    size_t i;
    const json_t *side, *copy, *round = json_object_get(eval, "round_trip"), *trips = json_object_get(eval, "round_trips");
    find_more(eval, &more);
    metric_heads(&t, &more);
    json_array_foreach(json_object_get(eval, "sides"), i, side) {
        metric_row(&t, &more, direction(side), "", side);
        if ((copy = json_object_get(side, "copy"))) metric_row(&t, &more, "", "copying", copy);
    }
    json_array_foreach(json_object_get(eval, "guard"), i, side) metric_row(&t, &more, guard_row(side), "", side);
    if (trips) json_array_foreach(trips, i, side) metric_row(&t, &more, json_text(side, "way"), "", side);
    else if (round) metric_row(&t, &more, way_of(round), "", round);
    table_print(&t, "  ");
    health(json_object_get(eval, "health"));
    const char *tag = json_text(eval, "tag"); /* what was measured on the way is not looked at that closely */
    json_array_foreach(json_object_get(eval, "sides"), i, side) classes(side, strcmp(tag, "step") && strcmp(tag, "before"));
    samples(json_object_get(eval, "samples"));
}

/* The entry of that name in "sides" or "guard". */
static const json_t *entry_of(const json_t *eval, const char *list, const char *name) {
    size_t i;
    const json_t *side;
    json_array_foreach(json_object_get(eval, list), i, side) if (!strcmp(json_text(side, "name"), name)) return side;
    return NULL;
}

/* The evaluations between the steps were shown as they came; the table is about the milestones. */
static bool is_milestone(const json_t *evals, size_t i) {
    return strcmp(json_text(json_array_get(evals, i), "tag"), "step") != 0 || i + 1 == json_array_size(evals);
}

static void milestones_of(struct table *t, const struct more *more, const json_t *evals, const char *list, const json_t *first) {
    size_t i;
    const json_t *eval, *copy = NULL;
    const char *name = json_object_get(first, "guard") ? guard_row(first) : direction(first);
    json_array_foreach(evals, i, eval) {
        const json_t *side = entry_of(eval, list, json_text(first, "name"));
        const char *tag = json_text(eval, "tag");
        bool test = !strcmp(tag, "test"); /* data of its own, and so a row of its own for copying */
        if (test && copy) metric_row(t, more, "", "copying", copy);
        if (!side || !is_milestone(evals, i)) continue;
        metric_row(t, more, name, tag, side);
        name = "";
        copy = json_object_get(side, "copy");
    }
    if (copy) metric_row(t, more, "", "copying", copy);
}

bool report_compares(const json_t *side, const char *name, const json_t *number) {
    return json_is_real(number) && strcmp(name, "perplexity") != 0 && (strcmp(name, "accuracy") != 0 || json_object_get(side, "macro_f1"));
}

void report_milestones(const json_t *evals) {
    struct table t = {0};
    struct more more = {0};
    size_t i;
    const json_t *side, *eval;
    const char *name = NULL;
    if (!json_array_size(evals)) return;
    json_array_foreach(evals, i, eval) find_more(eval, &more);
    metric_heads(&t, &more);
    for (int of = 0; of < 2; of++) {
        const char *list = of ? "guard" : "sides";
        json_array_foreach(json_object_get(json_array_get(evals, 0), list), i, side) milestones_of(&t, &more, evals, list, side);
    }
    json_array_foreach(evals, i, eval) {
        const json_t *round = json_object_get(eval, "round_trip");
        if (!round || !is_milestone(evals, i)) continue;
        metric_row(&t, &more, name ? name : way_of(round), json_text(eval, "tag"), round);
        name = "";
    }
    table_print(&t, "");
}
