/* Configuration, planning and training of the public API. */
#include "api/api.h"
#include "base/log.h"
#include "train/run.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static volatile int stop_requested;
void cyc_stop(void) { stop_requested = 1; }
volatile int *api_stop(void) { return &stop_requested; }

/* --- configuration --------------------------------------------------------------------------------------------------- */
cyc_config *cyc_config_new(void) {
    cyc_config *c = calloc(1, sizeof *c);
    if (!c || config_init(&c->c)) return free(c), NULL;
    return c;
}

void cyc_config_free(cyc_config *c) {
    if (c) config_free(&c->c);
    free(c);
}

int cyc_config_load(cyc_config *c, const char *yaml_path) { return api_code(config_load(&c->c, yaml_path)); }
int cyc_config_set(cyc_config *c, const char *key_equals_value) { return api_code(config_set(&c->c, key_equals_value)); }

int cyc_config_text(const cyc_config *c, char **yaml) {
    str s = {0};
    err e = config_write(&c->c, &s);
    if (e) str_free(&s);
    *yaml = s.p;
    return api_code(e);
}

const cyc_key *cyc_config_keys(size_t *n) {
    static cyc_key keys[256];
    static size_t count;
    if (!count) {
        size_t have;
        const struct config_key *k = config_keys(&have);
        for (; count < have && count < sizeof keys / sizeof *keys; count++) keys[count] = (cyc_key){k[count].name, k[count].type, k[count].fallback, k[count].doc, k[count].per_side};
    }
    *n = count;
    return keys;
}

/* --- training -------------------------------------------------------------------------------------------------------- */
struct relay { const cyc_callbacks *cb; };

_Static_assert((int)CYC_SIDES == (int)CONFIG_SIDES, "a step of the public API has room for all sides");

static void relay_step(void *ctx, const struct run *r, const struct step_info *info) {
    const cyc_callbacks *cb = ((struct relay *)ctx)->cb;
    if (!cb->on_step) return;
    cyc_step s = {.step = (int)info->step, .max_steps = (int)info->total, .warmup = info->warmup, .sides = r->n_sides, .seconds = info->seconds,
                  .generate_s = info->generate_s, .train_s = info->train_s, .generated = info->generated, .resident = run_memory(r)};
    for (int i = 0; i < s.sides; i++) {
        const bool idle = info->rollouts[i].idle;
        s.loss[i] = idle ? NAN : info->side[i].loss;
        s.grad_norm[i] = idle ? NAN : info->side[i].grad_norm;
        s.learning_rate[i] = idle ? NAN : info->side[i].learning_rate;
        s.texts += info->rollouts[i].texts;
        s.dropped += info->rollouts[i].dropped;
        s.idle += idle;
        s.trained += info->side[i].tokens;
        s.supervised += info->side[i].supervised;
        s.skipped += info->side[i].skipped;
    }
    s.eta_s = r->elapsed / (double)info->step * (double)(info->total - info->step);
    cb->on_step(cb->ctx, &s);
}

static void relay_eval(void *ctx, const json_t *eval) {
    const cyc_callbacks *cb = ((struct relay *)ctx)->cb;
    char *text = cb->on_eval ? json_dumps(eval, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (text) cb->on_eval(cb->ctx, text);
    free(text);
}

static void relay_save(void *ctx, const char *path) {
    const cyc_callbacks *cb = ((struct relay *)ctx)->cb;
    if (cb->on_save) cb->on_save(cb->ctx, path);
}

static void announce(struct run *r, const cyc_callbacks *cb) {
    if (!cb->on_start) return;
    json_t *j = json_pack("{s:o, s:s, s:s, s:I}", "plan", (json_t *)api_plan_json(r), "objective", r->objective->name, "output_dir",
                          r->cfg->output_dir, "resumed_step", (json_int_t)r->step);
    char *text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(j);
    if (text) cb->on_start(cb->ctx, text);
    free(text);
}

static err train(struct run *r, struct config *c, int flags, const cyc_callbacks *cb) {
    bool found = false;
    TRY(run_open(r, c));
    r->stop = &stop_requested;
    TRY(folder_check(r, flags));
    TRY(run_start(r));
    if (flags & CYC_RESUME) TRY(checkpoint_resume(r, &found));
    TRY(folder_begin(r, flags));
    if (flags & CYC_RESUME && !found) log_warn("%s holds no checkpoint: starting at step 1", c->output_dir);
    announce(r, cb);
    struct relay relay = {cb};
    return run_loop(r, &(struct run_events){&relay, relay_step, relay_eval, relay_save});
}

int cyc_train(cyc_config *c, int flags, const cyc_callbacks *cb, char **report) {
    static const cyc_callbacks silent;
    struct run r = {0};
    if (report) *report = NULL;
    err e = train(&r, &c->c, flags, cb ? cb : &silent);
    if ((!e || e == E_INTERRUPTED) && report) {
        int code = api_json((struct json_t *)run_report_json(&r, AT_END), report);
        if (code && !e) e = E_MEMORY;
    }
    run_close(&r);
    stop_requested = 0; /* this run is what it stopped, not the next */
    return api_code(e);
}

int cyc_evaluate(cyc_config *c, const char *run_dir, char **json) {
    struct run r = {0};
    json_t *j = NULL;
    *json = NULL;
    const bool once = c->c.features_once;
    c->c.features_once = false; /* of the training data none are wanted here */
    err e = run_open(&r, &c->c);
    c->c.features_once = once;
    if (!e) r.stop = &stop_requested;
    if (!e && !run_dir && r.objective->heading) e = fail(E_USAGE, "the bare base has no head to evaluate: name the run that trained one");
    if (!e) e = run_start(&r);
    if (!e && run_dir) e = adapters_load(&r, run_dir);
    if (!e) e = run_evaluate(&r, r.test.source.n ? &r.test : &r.eval, run_dir ? "run" : "base", &j);
    int code = e ? api_code(e) : api_json((struct json_t *)j, json);
    run_close(&r);
    return code;
}

/* --- preview --------------------------------------------------------------------------------------------------------- */
struct totals { json_int_t rows, tokens, supervised, longest, truncated; };

static void count_rows(const struct rows *list, struct totals *t) {
    t->rows += list->n;
    t->tokens += list->tokens;
    t->supervised += list->supervised;
    t->truncated += list->truncated;
    if (list->longest > t->longest) t->longest = list->longest;
}

/* A text of a cycle as the answer that it will be: after the prompt, with nothing in it, of the adapter that writes such texts, and an EOS. */
static err text_row(const struct side *writer, const struct row *text, struct rows *made) {
    struct ids prompt = {0}, answer = {0};
    err e = prompt_form_wrap(&writer->form, NULL, 0, &prompt);
    for (int k = 0; k < text->n && !e; k++) e = ids_push(&answer, text->ids[k]);
    if (!e) e = ids_push(&answer, writer->base->eos);
    if (!e) e = rows_add(made, prompt.v, prompt.n, answer.v, answer.n);
    ids_free(&prompt);
    ids_free(&answer);
    if (!e) made->r[made->n - 1].path = text->path, made->r[made->n - 1].line = text->line;
    return e;
}

/* A side's texts, where no pairs are given: the first n as rows, the totals from all. */
static err preview_texts(struct side *s, int n, json_t *rows, struct totals *t) {
    const struct side *writer = s->from;
    struct rows *texts = s->answers.n ? &s->answers : &s->rows, made = {0};
    const int around = (int)(writer->form.head.n + writer->form.tail.n) + 1;
    err e = OK;
    for (int i = 0; i < n && i < texts->n && !e; i++) {
        const struct row *text;
        e = rows_draw(texts, &i, 1, &text);
        if (!e) e = text_row(writer, text, &made);
    }
    if (!e) e = base_split_rows(writer->base, &made);
    for (int i = 0; i < made.n && !e; i++) e = api_row_json(writer->base->tok, &made.r[i], rows);
    rows_free(&made);
    t->rows += texts->n;
    t->tokens += texts->tokens + (json_int_t)texts->n * around;
    t->supervised += texts->tokens + texts->n;
    t->truncated += texts->truncated;
    if (texts->longest + around > t->longest) t->longest = texts->longest + around;
    return e;
}

/* What a row of a head's is to tell: a label, numbers, or each word's tag. */
static err told_json(const struct run *r, const struct row *row, json_t *j) {
    json_t *list = json_array();
    for (int k = 0; row->target && k < r->classes.numbers; k++) json_array_append_new(list, json_real(row->target[k]));
    for (int k = 0; row->labels && k < row->n; k++)
        if (row->supervised[k]) json_array_append_new(list, json_string(r->labels.name[row->labels[k] - 1]));
    int bad = !list;
    if (row->label) bad |= json_object_set_new(j, "label", json_string(r->labels.name[row->label - 1]));
    if (json_array_size(list)) bad |= json_object_set(j, row->target ? "numbers" : "tags", list);
    json_decref(list);
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

/* Cycles have no rows before a generation: the pairs are shown where given, else the texts as answers. */
static err preview(struct run *r, int n, json_t *out) {
    json_t *rows = json_array();
    json_object_set_new(out, "rows", rows);
    struct totals t = {0};
    for (int d = 0; d < r->n_sides; d++) {
        struct rows *list = r->freezes ? &r->frozen.texts[0] : r->n_sides == 1 ? &r->side[d].rows : &r->warm.rows[d];
        if (!list->n) {
            TRY(preview_texts(&r->side[d], n, rows, &t));
            continue;
        }
        for (int i = 0; i < n && i < list->n; i++) {
            const struct row *row;
            TRY(rows_draw(list, &i, 1, &row));
            TRY(api_row_json(r->side[d].base->tok, row, rows));
            TRY(told_json(r, row, json_array_get(rows, json_array_size(rows) - 1)));
        }
        count_rows(list, &t);
    }
    json_object_set_new(out, "totals",
                        json_pack("{s:I, s:I, s:I, s:I, s:f, s:I}", "rows", t.rows, "tokens", t.tokens, "supervised", t.supervised,
                                  "longest", t.longest, "mean", t.rows ? (double)t.tokens / (double)t.rows : 0.0, "truncated",
                                  t.truncated));
    return OK;
}

int cyc_preview(cyc_config *c, int n, char **json) {
    struct run r = {0};
    *json = NULL;
    err e = run_open(&r, &c->c);
    json_t *j = json_object();
    if (!e) e = preview(&r, n, j);
    int code = e ? api_code(e) : api_json((struct json_t *)j, json);
    if (e) json_decref(j);
    run_close(&r);
    return code;
}
