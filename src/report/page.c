/* output_dir/report.html: what a run is, how it went and how it was set, on one page without scripts, fonts or anything from a network, light or
 * dark as the reader's system is. Made of the run's report (report.json's object) and its files, at each evaluation and save and at the end; a run
 * has it as soon as it has anything to show. What a run does not have (health and samples of a classifier) is not on its page.
 *
 * Every text that comes from files or models goes through html_text(). */
#define _POSIX_C_SOURCE 200809L
#include "base/file.h"
#include "report/report.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char style[] =
    "<style>:root{--bg:#fbfaf7;--card:#fff;--text:#22303f;--soft:#5d6b7a;--rule:#dcd9d0;--a:#0068a8;--b:#c24e00;--c:#00805a;--d:#a83f84;--"
    "base:#475a70;--warm:#f2ead6;--ins:#d5efd9;--del:#f8d8d5}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14181d;--card:#1d232a;--text:#e3e8ed;--soft:#9aa7b4;--rule:#37414c;--a:#5cb8f5;--b:#"
    "ff9a52;--c:#3fcf9b;--d:#e58cc6;--base:#3c4f66;--warm:#2b2a22;--ins:#1e4a2b;--del:#5b2a2a}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;padding:24px 20px "
    "60px;max-width:1240px;background:var(--bg);color:var(--text);font:16px/1.5 system-ui,'Segoe UI',Helvetica,Arial,sans-serif}\n"
    "h1{font-size:26px;line-height:1.2;margin:0 0 6px;overflow-wrap:anywhere}h2{font-size:19px;margin:38px 0 "
    "12px}p{max-width:75ch;margin:6px 0;overflow-wrap:anywhere}.soft{color:var(--soft)}\n"
    ".tiles,.charts{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}.charts{grid-template-columns:repeat("
    "auto-fill,minmax(min(320px,100%),1fr))}\n"
    ".tile,figure,.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px "
    "14px;margin:0;min-width:0}.tile b{display:block;font-size:21px;line-height:1.25;overflow-wrap:anywhere}.tile "
    "span{color:var(--soft);font-size:14px}\n"
    "figcaption{font-weight:600;display:flex;flex-wrap:wrap;gap:4px 12px;margin-bottom:6px}figcaption "
    "span{font-weight:400;font-size:14px;white-space:nowrap}svg{display:block;width:100%;height:auto}\n"
    "svg text{font-size:13px;fill:var(--soft)}svg "
    "text.strong{font-weight:600;font-size:15px;fill:var(--text)}.grid{stroke:var(--rule);fill:none}.axis{stroke:var(--soft);fill:none}."
    "warm{fill:var(--warm)}\n"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}.dashed{stroke-dasharray:5 "
    "4}.ink0{stroke:var(--a);color:var(--a)}.ink1{stroke:var(--b);color:var(--b)}.ink2{stroke:var(--c);color:var(--c)}.ink3{stroke:var(--d)"
    ";color:var(--d)}.dot{fill:currentColor;stroke:none}\n"
    ".diagram{max-width:620px}.diagram "
    ".data{fill:none;stroke:var(--soft)}.adapter{fill:none;stroke-width:2}.edge0{stroke:var(--a)}.edge1{stroke:var(--b)}.edge2{stroke:var(--c)}.edge3{stroke:var(--d)}.base{fill:var(--"
    "base)}\n"
    ".diagram rect.base+text,.diagram rect.base+text+text,.diagram rect.base+text+text+text{fill:#fff}.alarm{border-left:5px solid "
    "var(--b)}.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:15px}th,td{text-align:left;padding:5px 16px 5px "
    "0;border-bottom:1px solid var(--rule);vertical-align:top}\n"
    "td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.bars{width:100%}.bars "
    "td.bar{width:50%;min-width:110px}.bar i{display:block;height:9px;border-radius:3px;background:var(--a);margin:3px 0}.bar "
    "i.m{background:var(--b)}\n"
    ".split{display:flex;height:26px;border-radius:6px;overflow:hidden;margin:6px 0 "
    "10px}.key{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px}.f0{background:var(--a)}.f1{background:var(--"
    "b)}.f2{background:var(--c)}.f3{background:var(--d)}.f4{background:var(--rule)}\n"
    ".sample{display:grid;grid-template-columns:9em 1fr;gap:4px 14px;margin-bottom:14px}.sample dt{color:var(--soft)}.sample "
    "dd{margin:0;overflow-wrap:anywhere;white-space:pre-wrap;unicode-bidi:isolate}ins{background:var(--ins);text-decoration:none;border-"
    "radius:3px;padding:0 2px}del{background:var(--del);border-radius:3px;padding:0 2px}\n"
    "pre{overflow-x:auto;font-size:13px;margin:8px 0 0}summary{cursor:pointer;font-weight:600}@media(max-width:520px){.bars "
    "td:last-child,.bars th:last-child{display:none}th,td{padding-right:9px}.bars td.bar{min-width:80px}body{padding:16px 12px "
    "40px}.sample{grid-template-columns:1fr}.sample dt{margin-top:6px}.tiles{grid-template-columns:1fr 1fr}}</style>\n";

struct page {
    const char *folder;
    const json_t *report, *plan, *sides, *evals;
    struct all_series series;
    str *out;
};

/* --- the beginning ------------------------------------------------------------------------------------------------------- */
void page_begin(str *out, const char *title) {
    str_adds(out, "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\"><title>");
    html_text(out, title);
    str_addf(out, "</title>\n%s<body>\n<h1>", style);
    html_text(out, title);
    str_adds(out, "</h1>\n");
}

void page_tile(str *out, const char *value, const char *name) {
    str_adds(out, "<div class=tile><b>");
    html_text(out, value);
    str_adds(out, "</b><span>");
    html_text(out, name);
    str_adds(out, "</span></div>\n");
}

static int count_alarms(const json_t *evals) {
    size_t i;
    json_t *e;
    int n = 0;
    json_array_foreach(evals, i, e) n += (int)json_array_size(json_object_get(e, "alarms"));
    return n;
}

static void head(const struct page *p) {
    const double step = json_num_or(p->report, "steps", 0), total = json_num_or(p->report, "total_steps", step);
    const double peak = json_num_or(p->plan, "peak_resident", 0);
    const char *ended = json_str(p->report, "ended");
    const bool going = step < total && !*ended;
    char line[96];
    str_adds(p->out, "<p>");
    html_text(p->out, json_str(p->plan, "sentence"));
    str_adds(p->out, "</p>\n<div class=tiles>\n");
    snprintf(line, sizeof line, "%.0f / %.0f", step, total);
    page_tile(p->out, line, *ended ? ended : going ? "steps so far" : "steps");
    page_tile(p->out, time_text(json_num_or(p->report, "seconds", 0)), "spent in steps");
    page_tile(p->out, json_str(p->report, "objective"), json_str(p->plan, "device"));
    page_tile(p->out, bytes_text(json_num_or(p->plan, "total", 0)), "memory planned");
    if (peak > 0) page_tile(p->out, bytes_text(peak), going ? "measured so far" : "measured");
    if (json_array_size(p->evals)) {
        snprintf(line, sizeof line, "%d", count_alarms(p->evals));
        page_tile(p->out, line, "alarms");
    }
    str_adds(p->out, "</div>\n<h2>The run</h2>\n<figure class=diagram>");
    diagram_svg(p->out, p->plan, json_str(p->report, "objective"));
    str_adds(p->out, "</figure>\n");
}

/* The last ones: of a run that is ill there are as many as evaluations. */
static void alarms(const struct page *p) {
    enum { SHOWN = 12 };
    size_t i, k;
    json_t *e, *a;
    int hidden = count_alarms(p->evals) - SHOWN;
    if (hidden <= -SHOWN) return;
    str_adds(p->out, "<h2>Alarms</h2>\n");
    if (hidden > 0) str_addf(p->out, "<p class=soft>and %d before these</p>\n", hidden);
    json_array_foreach(p->evals, i, e) json_array_foreach(json_object_get(e, "alarms"), k, a) {
        if (hidden-- > 0) continue;
        str_addf(p->out, "<div class=\"card alarm\">step %.0f, <b>", json_num_or(e, "step", 0));
        html_text(p->out, json_str(a, "name"));
        str_adds(p->out, "</b>: adapter ");
        html_text(p->out, json_str(a, "side"));
        str_adds(p->out, " ");
        html_text(p->out, json_str(a, "message"));
        str_adds(p->out, "</div>\n");
    }
}

/* --- curves -------------------------------------------------------------------------------------------------------------- */
static const struct {
    const char *name, *title;
    double scale;
    const char *unit;
    int room;
} figures[] = {{"loss", "Loss, nats per token", 1, "", 0},
               {"grad_norm", "Gradient norm", 1, "", 0},
               {"learning_rate", "Learning rate", 1, "", 0},
               {"bits_per_byte", "Bits per byte", 1, "", 1},
               {"ce", "Cross-entropy of the labels, nats per token", 1, "", 1},
               {"kd", "Distance from the teacher (its part of the loss)", 1, "", 1},
               {"kl", "KL divergence from the teacher, nats per token", 1, "", 1},
               {"chrf", "chrF", 1, "", 1},
               {"bleu", "BLEU", 1, "", 1},
               {"exact", "Exact matches", 1, " %", 1},
               {"round_trip_chrf", "Round trip, chrF", 1, "", 1},
               {"round_trip_exact", "Round trip, exact matches", 1, " %", 1},
               {"accuracy", "Accuracy", 100, " %", 1},
               {"macro_f1", "Macro F1", 100, " %", 1},
               {"copy_rate", "Copies of the input", 100, " %", 2},
               {"copy_ngrams", "Trigrams out of the input", 100, " %", 2},
               {"length_ratio", "Length, written / read", 1, "", 2},
               {"distinct_1", "Distinct words", 1, "", 2},
               {"distinct_2", "Distinct word pairs", 1, "", 2},
               {"distinct_3", "Distinct word triples", 1, "", 2},
               {"empty", "Empty outputs", 100, " %", 2},
               {"truncated", "Cut by max_new_tokens", 100, " %", 2},
               {"retokenised", "Other ids when read as text", 100, " %", 2},
               {"most_common", "Most frequent output", 100, " %", 2},
               {"entropy", "Entropy, bits per word", 1, "", 2},
               {"drift", "Drift from the side's texts, bits", 1, "", 2},
               {"nll", "Own nats per token", 1, "", 2},
               {"base_nll", "The bare base's nats per token", 1, "", 2},
               {"base_agreement", "Tokens as the base chooses", 100, " %", 2},
               {"movement", "Movement, share of its length", 1, "", 2}};
enum { FIGURES = sizeof figures / sizeof *figures, ROOMS = 3, LINES = 8 };
static const char *const rooms[ROOMS] = {"Training", "Quality", "Health"};
static const char *const left_out[] = {
    "rows",  "perplexity",          "copy_wanted",      "most_common_input", "num_tokens", "supervised_tokens",
    "epoch", "mean_token_accuracy", "generated_tokens", "loss_scale"};

static void caption(const struct page *p, const char *title, const struct chart_line *line, int n) {
    str_adds(p->out, "<figure><figcaption>");
    html_text(p->out, title);
    for (int i = 0; i < n; i++) {
        const json_t *side = json_array_get(p->sides, line[i].s->side < 0 ? SIZE_MAX : (size_t)line[i].s->side);
        const char *name = json_str(side, "name");
        if (!*name && n < 2) continue;
        str_addf(p->out, "<span style=\"color:var(--%c)\">", "abcd"[line[i].ink % 4]);
        html_text(p->out, name);
        str_adds(p->out, line[i].dashed ? " held out</span>" : *name ? "</span>" : "training</span>");
    }
    str_adds(p->out, "</figcaption>");
}

/* The chart of a figure, where the run has it. Losses of steps and of evaluations share one. */
static bool chart(const struct page *p, const char *name, const char *title, double scale, const char *unit) {
    struct chart_line line[LINES];
    struct chart c = {line, 0, json_num_or(p->report, "total_steps", 1), json_num_or(p->plan, "warmup_steps", 0), scale, unit};
    const bool loss = !strcmp(name, "loss");
    for (int i = 0; i < p->series.n && c.n < LINES; i++) {
        const struct series *s = p->series.v[i];
        const bool of_steps = loss || !strcmp(name, "grad_norm") || !strcmp(name, "learning_rate");
        if (strcmp(s->figure, name) != 0 || !s->n || (!s->eval && !of_steps)) continue;
        line[c.n++] = (struct chart_line){s, s->side < 0 ? 2 : s->side, loss && s->eval};
    }
    if (!c.n) return false;
    caption(p, title, line, c.n);
    chart_svg(p->out, &c);
    str_adds(p->out, "</figure>\n");
    return true;
}

static bool is_known(const char *figure) {
    for (int i = 0; i < FIGURES; i++)
        if (!strcmp(figures[i].name, figure)) return true;
    for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++)
        if (!strcmp(left_out[i], figure)) return true;
    return false;
}

/* Figures that an objective or a processor has of its own stand under their own names. */
static void other_charts(const struct page *p) {
    for (int i = 0; i < p->series.n; i++) {
        const struct series *s = p->series.v[i];
        bool shown = !s->eval || is_known(s->figure);
        for (int k = 0; k < i && !shown; k++) shown = p->series.v[k]->eval && !strcmp(p->series.v[k]->figure, s->figure);
        if (!shown) chart(p, s->figure, s->figure, 1, "");
    }
}

/* A figure of what is trained and of the guards, in one chart. */
struct balance {
    const char *figure, *title, *unit;
    double scale;
    bool change; /* from the first evaluation, in per cent */
};

static void changes(const struct series *s, struct series *out) {
    *out = *s;
    for (int i = 0; i < s->n; i++) out->y[i] = 100 * (s->y[i] / s->y[0] - 1);
}

/* Is it that figure of evaluations, of a guard (guard_NAME_figure) or of what is trained? */
static bool is_of(const struct series *s, const char *figure, bool *guard) {
    const size_t n = strlen(s->figure), k = strlen(figure);
    *guard = str_starts(s->figure, "guard_") && n > k && s->figure[n - k - 1] == '_' && str_ends(s->figure, figure);
    return s->eval && s->n > 1 && (*guard || !strcmp(s->figure, figure));
}

static void balance_caption(const struct page *p, const struct balance *b, const struct chart_line *line, int n) {
    str_addf(p->out, "<figure><figcaption>%s", b->title);
    for (int i = 0; i < n; i++) {
        const struct series *s = line[i].s;
        const char *side = json_str(json_array_get(p->sides, s->side < 0 ? SIZE_MAX : (size_t)s->side), "name");
        str_addf(p->out, "<span style=\"color:var(--%c)\">", "abcd"[i % 4]);
        if (line[i].dashed)
            str_addf(p->out, "guard %.*s ", (int)(strlen(s->figure) - strlen("guard__") - strlen(b->figure)), s->figure + strlen("guard_"));
        else str_adds(p->out, *side ? "trained " : "trained");
        html_text(p->out, side);
        str_adds(p->out, "</span>");
    }
    str_adds(p->out, "</figcaption>");
}

/* *drawn: a guard has the figure. */
static err balance_chart(const struct page *p, const struct balance *b, bool *drawn) {
    struct series *moved = malloc(LINES * sizeof *moved);
    struct chart_line line[LINES];
    struct chart c = {line, 0, json_num_or(p->report, "total_steps", 1), json_num_or(p->plan, "warmup_steps", 0), b->scale, b->unit};
    *drawn = false;
    if (!moved) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < p->series.n && c.n < LINES; i++) {
        const struct series *s = p->series.v[i];
        bool guard;
        if (!is_of(s, b->figure, &guard)) continue;
        if (b->change) changes(s, &moved[c.n]);
        line[c.n] = (struct chart_line){b->change ? &moved[c.n] : s, c.n, guard};
        *drawn |= guard;
        c.n++;
    }
    if (*drawn) {
        balance_caption(p, b, line, c.n);
        chart_svg(p->out, &c);
        str_adds(p->out, "</figure>");
    }
    free(moved);
    return OK;
}

/* What is gained against what is lost: how far the losses of the held-out data and of each guard have gone from where they were; and where
 * guards are judged by a score, as a head's old labels are, the first of these that they have. */
static err gain_and_loss(const struct page *p) {
    static const struct balance loss = {"loss", "Held-out loss, change from the first evaluation", " %", 1, true},
                                scores[] = {{"span_f1", "Span F1 of held-out words", " %", 100, false},
                                            {"accuracy", "Accuracy on held-out rows", " %", 100, false},
                                            {"pearson", "Correlation (Pearson) on held-out rows", "", 1, false}};
    const size_t before = p->out->n;
    bool any, scored = false, guard, drawn = false;
    str_adds(p->out, "<h2>Gain and loss</h2>\n<div class=charts>");
    TRY(balance_chart(p, &loss, &any));
    for (int i = 0; i < p->series.n; i++) scored |= is_of(p->series.v[i], "score_fall", &guard);
    for (size_t k = 0; k < sizeof scores / sizeof *scores && scored && !drawn; k++) TRY(balance_chart(p, &scores[k], &drawn));
    if (any || drawn) str_adds(p->out, "</div>\n");
    else if (!p->out->failed) p->out->p[p->out->n = before] = 0; /* nothing is guarded */
    return OK;
}

static void charts(const struct page *p) {
    for (int room = 0; room < ROOMS; room++) {
        const size_t before = p->out->n;
        str_addf(p->out, "<h2>%s</h2>\n<div class=charts>\n", rooms[room]);
        const size_t begun = p->out->n;
        for (int i = 0; i < FIGURES; i++)
            if (figures[i].room == room) chart(p, figures[i].name, figures[i].title, figures[i].scale, figures[i].unit);
        if (room == 1) other_charts(p);
        if (p->out->n == begun && !p->out->failed) p->out->p[p->out->n = before] = 0; /* nothing in it */
        else str_adds(p->out, "</div>\n");
    }
}

/* --- memory and time ----------------------------------------------------------------------------------------------------- */
static void memory_row(str *out, const char *name, const char *note, double planned, double measured, double most) {
    str_adds(out, "<tr><td>");
    html_text(out, name);
    str_addf(out, "<td class=n>%s<td class=n>%s<td class=bar><i style=\"width:%.1f%%\"></i>", bytes_text(planned),
             measured >= 0 ? bytes_text(measured) : "", 100 * planned / most);
    if (measured >= 0) str_addf(out, "<i class=m style=\"width:%.1f%%\"></i>", 100 * fmin(measured, most) / most);
    str_adds(out, "<td class=soft>");
    html_text(out, note);
    str_adds(out, "\n");
}

static void memory(const struct page *p) {
    const json_t *list = json_object_get(p->plan, "memory"), *row;
    const double total = json_num_or(p->plan, "total", 0), peak = json_num_or(p->plan, "peak_resident", -1),
                 most = fmax(fmax(total, peak), 1);
    size_t i;
    if (!json_array_size(list)) return;
    str_adds(p->out, "<h2>Memory</h2>\n<div class=\"card scroll\"><table class=bars><tr><th><th class=n>planned<th "
                     "class=n>measured<th><span class=\"key f0\"></span>planned <span class=\"key f1\"></span>measured<th>\n");
    json_array_foreach(list, i, row) memory_row(p->out, json_str(row, "name"), json_str(row, "note"), json_num_or(row, "bytes", 0),
                                                json_num_or(row, "measured", -1), most);
    memory_row(p->out, "total", "", total, peak, most);
    str_adds(p->out, "</table></div>\n");
}

static void times(const struct page *p) {
    const json_t *t = json_object_get(p->report, "times");
    const char *name;
    json_t *v;
    double sum = 0;
    int ink = 0;
    json_object_foreach((json_t *)t, name, v) sum += json_number_value(v);
    if (!(sum > 0)) return;
    str_adds(p->out, "<h2>Time</h2>\n<div class=card><div class=split>");
    json_object_foreach((json_t *)t, name, v)
        str_addf(p->out, "<i class=f%d style=\"width:%.2f%%\"></i>", ink++ % 5, 100 * json_number_value(v) / sum);
    str_adds(p->out, "</div><table>\n");
    ink = 0;
    json_object_foreach((json_t *)t, name, v) {
        str_addf(p->out, "<tr><td><span class=\"key f%d\"></span>", ink++ % 5);
        html_text(p->out, name);
        str_addf(p->out, "<td class=n>%s<td class=n>%.1f %%\n", time_text(json_number_value(v)), 100 * json_number_value(v) / sum);
    }
    str_adds(p->out, "</table></div>\n");
}

/* --- samples ------------------------------------------------------------------------------------------------------------- */
static void part(str *out, const char *name, const char *text) {
    str_addf(out, "<dt>%s<dd>", name);
    html_text(out, text);
    str_adds(out, "\n");
}

/* What was written, its words against the reference; without one, what came back against the input. */
static err written(str *out, const char *when, const json_t *s) {
    const char *wanted = json_str(s, "reference");
    str_addf(out, "<dt>%s<dd>", when);
    if (*wanted) TRY(html_difference(out, json_str(s, "b"), wanted));
    else html_text(out, json_str(s, "b"));
    str_addf(out, "\n<dt>%s, and back<dd>", when);
    TRY(html_difference(out, json_str(s, "back"), json_str(s, "a")));
    str_adds(out, "\n");
    return OK;
}

static const json_t *sample_of(const json_t *eval, const char *a) {
    size_t i;
    json_t *s;
    json_array_foreach(json_object_get(eval, "samples"), i, s) if (!strcmp(json_str(s, "a"), a)) return s;
    return NULL;
}

static err samples(const struct page *p) {
    const json_t *first = NULL, *last = NULL, *before;
    size_t i;
    json_t *e, *s;
    json_array_foreach(p->evals, i, e) if (json_array_size(json_object_get(e, "samples")) && strcmp(json_str(e, "tag"), "test")) first =
        first ? first : e,
                                                                                                                                 last = e;
    if (!first) return OK;
    str_addf(p->out,
             "<h2>Samples</h2>\n<p class=soft>Of the evaluations at step %.0f and step %.0f. <ins>Words that the reference has not</ins>, "
             "<del>words of it that are missing</del>; of what came back the same against the input.</p>\n",
             json_num_or(first, "step", 0), json_num_or(last, "step", 0));
    json_array_foreach(json_object_get(last, "samples"), i, s) {
        str_adds(p->out, "<dl class=\"card sample\">\n");
        part(p->out, "input", json_str(s, "a"));
        if (*json_str(s, "reference")) part(p->out, "reference", json_str(s, "reference"));
        if (first != last && (before = sample_of(first, json_str(s, "a")))) TRY(written(p->out, "before", before));
        TRY(written(p->out, first == last ? "written" : "after", s));
        str_adds(p->out, "</dl>\n");
    }
    return OK;
}

/* --- settings ------------------------------------------------------------------------------------------------------------ */
static void file_shown(const struct page *p, const char *name, const char *title) {
    str path = {0}, text = {0};
    str_addf(&path, "%s/%s", p->folder, name);
    if (path.p && path_exists(path.p) && !file_read(path.p, &text)) {
        str_addf(p->out, "<details class=card><summary>%s</summary><pre>", title);
        html_text(p->out, text.p ? text.p : "");
        str_adds(p->out, "</pre></details>\n");
    }
    str_free(&path);
    str_free(&text);
}

static err build(struct page *p) {
    str path = {0};
    str_addf(&path, "%s/metrics.jsonl", p->folder);
    err e = path.failed ? fail(E_MEMORY, "out of memory") : series_read(path.p, p->sides, &p->series);
    str_free(&path);
    TRY(e);
    page_begin(p->out, p->folder);
    head(p);
    alarms(p);
    TRY(gain_and_loss(p));
    charts(p);
    TRY(samples(p));
    memory(p);
    times(p);
    str_adds(p->out, "<h2>Settings and audit</h2>\n");
    file_shown(p, "config.yaml", "config.yaml: every key, resolved");
    file_shown(p, "audit.json", "audit.json: hashes of base, tokenizer and data");
    str_adds(p->out, "</body></html>\n");
    return p->out->failed ? fail(E_MEMORY, "out of memory") : OK;
}

err report_write(const char *folder, const json_t *report) {
    str html = {0}, path = {0};
    const json_t *plan = json_object_get(report, "plan");
    struct page p = {.folder = folder,
                     .report = report,
                     .plan = plan,
                     .sides = json_object_get(plan, "sides"),
                     .evals = json_object_get(report, "evals"),
                     .out = &html};
    err e = build(&p);
    str_addf(&path, "%s/report.html", folder);
    if (!e) e = path.failed ? fail(E_MEMORY, "out of memory") : file_write(path.p, html.p, html.n);
    series_free(&p.series);
    str_free(&path);
    str_free(&html);
    return e;
}
