/* What happens to the texts that a cycle's adapters write: a side's processor, and what evaluation says of them.
 *
 * A processor (`processor.command` of a side) stands between the adapter that writes a side's text and whoever gets it: the next adapter's
 * prompt, the scores, the samples. It sees texts without the white space around them; in training, what it gives becomes ids of the
 * writer's tokenizer again, so that everything behind it (replay, filters, handing over) sees one kind of generation.
 *
 * A direction's scores are bleu, chrf and exact, then `eval.metrics` of the side whose adapter writes (data/metrics.h), then the numbers of
 * `eval.metric_command` (data/command.h), which may not take the name of anything else. What can be found out before the first step is:
 * names, references that a metric cannot read (where the pairs are loaded), and commands, which are tried on one row (judge_open). */
#define _POSIX_C_SOURCE 200809L
#include "train/run.h"
#include "data/metrics.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_METRICS = 32, USUAL = 3 };

/* --- texts ---------------------------------------------------------------------------------------------------------- */
/* An adapter that has learnt little, or that ran into max_new_tokens inside a character, writes bytes that are none: they are text that the
 * other side can read, and the samples can show. */
err base_text(const struct base *b, const int32_t *ids, size_t n, str *text) {
    TRY(tokenizer_decode(b->tok, ids, n, true, text));
    utf8_repair(text);
    return text->failed ? fail(E_MEMORY, "out of memory") : OK;
}

err base_text_trimmed(const struct base *b, const int32_t *ids, size_t n, char **text) {
    str s = {0};
    err e = base_text(b, ids, n, &s);
    const char *from = s.p ? s.p : "", *to = from + strlen(from);
    while (from < to && isspace((unsigned char)*from)) from++;
    while (to > from && isspace((unsigned char)to[-1])) to--;
    *text = e ? NULL : strndup(from, (size_t)(to - from));
    if (!e && !*text) e = fail(E_MEMORY, "out of memory");
    str_free(&s);
    return e;
}

err ids_reread(const struct side *to, const struct base *b, const int32_t *ids, size_t n, struct ids *out) {
    str text = {0};
    err e = base_text(b, ids, n, &text);
    const char *from = text.p ? text.p : "";
    while (isspace((unsigned char)*from)) from++;
    if (!e) e = prompt_form_text(to->base->tok, &to->form, from, out);
    str_free(&text);
    return e;
}

err ids_changed(const struct side *to, const struct base *b, const struct generation *made, int n, int *changed) {
    *changed = 0;
    for (int i = 0; i < n; i++) {
        struct ids again = {0};
        if (!made[i].n) continue; /* nothing is nothing in any ids */
        err e = ids_reread(to, b, made[i].ids, (size_t)made[i].n, &again);
        if (!e) *changed += again.n != (size_t)made[i].n || memcmp(again.v, made[i].ids, again.n * sizeof *again.v) != 0;
        ids_free(&again);
        if (e) return e;
    }
    return OK;
}

static void free_texts(char **v, int n) {
    for (int i = 0; v && i < n; i++) free(v[i]);
    free(v);
}

/* --- processors ------------------------------------------------------------------------------------------------------- */
err process_texts(struct side *to, char **text, const char *const *source, int n) {
    return to->processor.line ? command_process(&to->processor, text, source, n) : OK;
}

/* What stood between a prompt's head and its tail. */
static err source_text(const struct side *s, const struct ids *prompt, char **text) {
    const size_t around = s->form.head.n + s->form.tail.n + (s->base->model.family->seq2seq ? 1 : 0);
    return base_text_trimmed(s->base, prompt->v + s->form.head.n, prompt->n > around ? prompt->n - around : 0, text);
}

err process_made(const struct side *by, const struct ids *prompt, int n, struct generation *made) {
    struct side *to = by->next;
    if (!to->processor.line) return OK;
    char **text = calloc((size_t)n, sizeof *text), **source = calloc((size_t)n, sizeof *source);
    err e = text && source ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n && !e; i++) {
        e = base_text_trimmed(by->base, made[i].ids, (size_t)made[i].n, &text[i]);
        if (!e) e = source_text(by, &prompt[i], &source[i]);
    }
    if (!e) e = process_texts(to, text, (const char *const *)source, n);
    for (int i = 0; i < n && !e; i++) {
        struct ids ids = {0};
        e = prompt_form_text(by->base->tok, &to->form, text[i], &ids);
        free(made[i].ids);
        made[i].ids = ids.v, made[i].n = (int)ids.n;
    }
    free_texts(text, n);
    free_texts(source, n);
    return e;
}

/* --- scores ----------------------------------------------------------------------------------------------------------- */
/* The names of a side's metrics, the usual ones first, each once. */
static int names_of(const struct side *s, const char **names) {
    static const char *const usual[USUAL] = {"bleu", "chrf", "exact"};
    int n = 0;
    for (; n < USUAL; n++) names[n] = usual[n];
    for (int i = 0; i < s->cfg->eval_metrics.n; i++) {
        bool there = false;
        for (int k = 0; k < n && !there; k++) there = !strcmp(names[k], s->cfg->eval_metrics.v[i]);
        if (!there && n < MOST_METRICS) names[n++] = s->cfg->eval_metrics.v[i];
    }
    return n;
}

err judge_readable(const struct side *s, const struct source *from, bool swap) {
    if (!s->cfg->eval_metrics.n) return OK;
    const char **ref = calloc((size_t)from->n, sizeof *ref), *names[MOST_METRICS];
    double out[MOST_METRICS];
    if (!ref) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < from->n; i++) ref[i] = swap ? from->r[i].prompt : from->r[i].completion;
    const int n = names_of(s, names) - USUAL; /* which read anything */
    err e = n ? metrics_score(names + USUAL, n, &(struct scored){ref, ref, from->n}, out) : OK;
    free(ref);
    return e ? fail_in(e, "eval.metrics of adapter %s: %s", s->name, from->path) : OK;
}

static err scores_into(json_t *into, const char *const *names, int n_names, const struct scored *in) {
    double got[MOST_METRICS];
    TRY(metrics_score(names, n_names, in, got));
    for (int i = 0; i < n_names; i++) json_object_set_new(into, names[i], json_real(got[i]));
    return OK;
}

static err command_into(struct run *r, const struct command_rows *rows, json_t *into) {
    json_t *numbers, *v;
    const char *name;
    TRY(command_measure(&r->metric, rows, &numbers));
    json_object_foreach(numbers, name, v) {
        if (json_object_get(into, name)) {
            err e = fail(E_IO, "%s '%s': its name \"%s\" is taken by a figure of the evaluation: choose another", r->metric.what,
                         r->metric.line, name);
            return json_decref(numbers), e;
        }
        json_object_set(into, name, v);
    }
    json_decref(numbers);
    return OK;
}

err judge_direction(struct run *r, const struct side *s, const struct command_rows *rows, json_t *into) {
    const char *names[MOST_METRICS];
    const int n = names_of(s, names);
    json_t *copy = json_object();
    TRY(scores_into(into, names, n, &(struct scored){rows->hyp, rows->ref, rows->n}));
    err e = scores_into(copy, names, n, &(struct scored){rows->source, rows->ref, rows->n});
    json_object_set_new(into, "copy", copy);
    json_object_set_new(into, "rows", json_integer(rows->n));
    return e || !r->metric.line ? e : command_into(r, rows, into);
}

/* --- opening ---------------------------------------------------------------------------------------------------------- */
static err try_processor(struct side *s) {
    struct fetcher f = {0}, g = {0};
    struct record own, from;
    err e = source_fetch(&s->source, 0, &f, &own);
    if (!e) e = source_fetch(&s->from->source, 0, &g, &from);
    char *text = e ? NULL : strdup(own.text);
    if (!e) e = text ? process_texts(s, &text, &from.text, 1) : fail(E_MEMORY, "out of memory");
    free(text);
    fetcher_free(&f);
    fetcher_free(&g);
    return e;
}

/* One held-out pair against itself; the metric that decides on the best model must be among the numbers. */
static err try_metric(struct run *r) {
    const char *best = r->cfg->best_metric;
    const struct record *pair = r->eval.source.n ? r->eval.source.r : r->test.source.r;
    json_t *into = json_object();
    if (!pair) return json_decref(into), OK;
    err e =
        judge_direction(r, &r->side[0], &(struct command_rows){&pair->prompt, &pair->completion, &pair->completion, "a trial", 1}, into);
    if (!e && !config_knows_metric(best) && !json_object_get(into, best))
        e = fail(E_USAGE, "'metric_for_best_model' is %s, which is no metric of ours and none that '%s' says", best, r->metric.line);
    json_decref(into);
    return e;
}

err judge_open(struct run *r) {
    const struct config *c = r->cfg;
    for (int i = 0; i < r->n_sides && r->objective->generates; i++) {
        struct side *s = &r->side[i];
        if (!*s->cfg->processor_command) continue;
        char *what = arena_printf(&r->cfg->mem, "processor of side %s", s->name);
        if (!what) return fail(E_MEMORY, "out of memory");
        s->processor = (struct command){.line = s->cfg->processor_command,
                                        .what = what,
                                        .timeout = s->cfg->processor_timeout,
                                        .skip = !strcmp(s->cfg->processor_on_error, "skip")};
        TRY(try_processor(s));
    }
    if (!*c->metric_command) return OK;
    r->metric = (struct command){.line = c->metric_command,
                                 .what = "eval.metric_command",
                                 .timeout = c->metric_timeout,
                                 .skip = !strcmp(c->metric_on_error, "skip")};
    return try_metric(r);
}

void judge_close(struct run *r) {
    for (int i = 0; i < CONFIG_SIDES; i++) command_close(&r->side[i].processor);
    command_close(&r->metric);
}
