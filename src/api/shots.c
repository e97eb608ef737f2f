/* Tasks as a model does them with no or few examples before it (data/task.h): the prompts, made and put in order, go through gen/options.h
 * (options of which one is right) or generation (answers that are written), and what comes of it is counted.
 *
 * Prompts go longest first, equal lengths by their ids: so batches, and with them roundings, do not depend on where a record stands in its
 * file. */
#include "api/api.h"
#include "base/clock.h"
#include "data/answers.h"
#include "data/metrics.h"
#include "data/shots.h"
#include "gen/options.h"
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

struct cyc_task {
    struct task t;
};

enum { BATCH = 8, SHARE = 16 /* tokens of a head that is worth a pass of its own */ };

int cyc_task_open(const cyc_task_options *o, cyc_task **out) {
    const struct task_ask ask = {.path = o->path,
                                 .shot_data = o->shot_data,
                                 .text = o->text,
                                 .choice = o->choice,
                                 .target = o->target,
                                 .description = o->description,
                                 .until = o->until,
                                 .n_until = o->n_until,
                                 .max_new = o->max_new_tokens,
                                 .limit = o->limit};
    *out = calloc(1, sizeof **out);
    err e = *out ? task_open(&ask, &(*out)->t) : fail(E_MEMORY, "out of memory");
    if (e) free(*out), *out = NULL;
    return api_code(e);
}

void cyc_task_close(cyc_task *t) {
    if (t) task_close(&t->t);
    free(t);
}

int cyc_task_size(const cyc_task *t) { return t->t.asked.n; }

/* --- prompts -------------------------------------------------------------------------------------------------------- */
struct job {
    const struct task *t;
    cyc_model *m;
    cyc_adapter *a;
    const cyc_shots *how;
    int n;
    struct option_list *v; /* of TASK_WRITE the prompts alone */
    str *prompt;
    char **text; /* of TASK_WRITE: what was written */
    int *order;
    struct options_stats stats;
    double seconds;
};

static void job_end(struct job *j) {
    for (int i = 0; i < j->n && j->v; i++) {
        for (int k = 0; k < j->v[i].n && j->v[i].option; k++) ids_free(&j->v[i].option[k]);
        ids_free(&j->v[i].prompt);
        free(j->v[i].option);
        free(j->v[i].logprob);
    }
    for (int i = 0; i < j->n && j->prompt; i++) str_free(&j->prompt[i]);
    for (int i = 0; i < j->n && j->text; i++) free(j->text[i]);
    free(j->v), free(j->prompt), free(j->text), free(j->order);
}

static err add_options(struct job *j, const struct item *it, const str *prompt, struct option_list *l) {
    l->option = calloc((size_t)it->n, sizeof *l->option);
    l->logprob = calloc((size_t)it->n, sizeof *l->logprob);
    if (!l->option || !l->logprob) return fail(E_MEMORY, "out of memory");
    l->n = it->n;
    for (int k = 0; k < it->n; k++)
        TRY(option_encode(j->m->tok, prompt, &l->prompt, j->how->chat ? "" : j->t->target_delimiter, it->choice[k], &l->option[k]));
    return OK;
}

/* Record i's prompt, and that it has room in the context with the longest that may follow. */
static err add_prompt(struct job *j, struct chat *chat, int *which, int i) {
    const struct item *it = &j->t->asked.v[i];
    struct option_list *l = &j->v[i];
    const int shots = j->how->shots;
    size_t most = 0;
    TRY(shots_draw(j->t, (enum shot_order)j->how->order, j->how->seed, i, shots, which));
    TRY(shots_prompt(j->t, it, which, shots, chat, &j->prompt[i]));
    err e = prompt_encode(j->m->tok, &j->prompt[i], j->t->kind == TASK_CHOICE, &l->prompt);
    if (!e && j->t->kind == TASK_CHOICE) e = add_options(j, it, &j->prompt[i], l);
    if (e) return fail_in(e, "%s:%d", it->path, it->line);
    for (int k = 0; k < l->n; k++) most = l->option[k].n > most ? l->option[k].n : most;
    if (j->t->kind == TASK_WRITE) most = (size_t)j->t->max_new;
    const int64_t before = j->a ? j->a->st.virtual_tokens : 0, context = j->m->m.shape.context;
    if ((int64_t)(l->prompt.n + most) + before <= context) return OK;
    return fail(E_INPUT,
                "%s:%d: with %d shot%s the prompt has %zu tokens, and up to %zu follow: more than the model's context of %lld; ask for "
                "fewer --shots or leave "
                "the record out",
                it->path, it->line, shots, shots == 1 ? "" : "s", l->prompt.n + (size_t)before, most, (long long)context);
}

static int longest_first(const struct ids *a, const struct ids *b) {
    if (a->n != b->n) return (a->n < b->n) - (a->n > b->n);
    return memcmp(a->v, b->v, a->n * sizeof *a->v);
}

struct place {
    const struct option_list *l;
    int i;
};

/* Prompts that are equal are parted by their options, and then it does not matter. */
static int by_prompt(const void *x, const void *y) {
    const struct place *a = x, *b = y;
    int c = longest_first(&a->l->prompt, &b->l->prompt);
    for (int k = 0; !c && k < a->l->n && k < b->l->n; k++) c = longest_first(&a->l->option[k], &b->l->option[k]);
    return c ? c : (a->l->n < b->l->n) - (a->l->n > b->l->n);
}

static err job_begin(struct job *j) {
    struct chat *chat = NULL;
    const size_t n = (size_t)j->n;
    struct place *place = malloc(n * sizeof *place);
    int *which = malloc(((size_t)j->how->shots + 1) * sizeof *which);
    j->v = calloc(n, sizeof *j->v), j->prompt = calloc(n, sizeof *j->prompt), j->order = malloc(n * sizeof *j->order),
    j->text = calloc(n, sizeof *j->text);
    err e = place && which && j->v && j->prompt && j->order && j->text ? OK : fail(E_MEMORY, "out of memory");
    if (!e && j->how->chat) e = chat_open(j->m->tok, &chat);
    for (int i = 0; i < j->n && !e; i++) {
        e = add_prompt(j, chat, which, i);
        place[i] = (struct place){&j->v[i], i};
    }
    if (!e) qsort(place, n, sizeof *place, by_prompt);
    for (int i = 0; i < j->n && !e; i++) j->order[i] = place[i].i;
    chat_close(chat);
    free(place);
    free(which);
    return e;
}

/* --- running -------------------------------------------------------------------------------------------------------- */
static int batch_of(const struct job *j) { return j->how->batch > 0 ? j->how->batch : BATCH; }

static err run_options(struct job *j) {
    const struct options_request rq = {.model = &j->m->m,
                                       .st = j->a ? &j->a->st : NULL,
                                       .weights = j->a ? j->a->w : NULL,
                                       .backend = api_backend(j->m),
                                       .compute = j->m->compute,
                                       .v = j->v,
                                       .order = j->order,
                                       .n = j->n,
                                       .batch = batch_of(j),
                                       .threads = omp_get_max_threads(),
                                       .stop = api_stop()};
    err e = options_score(&rq, &j->stats);
    if (e == E_INTERRUPTED) *api_stop() = 0;
    return e;
}

/* Where any of the texts begins first; the text's length where none does. */
static size_t stop_at(const struct task *t, const char *text) {
    size_t end = strlen(text);
    for (int i = 0; i < t->n_until; i++) {
        const char *found = strstr(text, t->until[i]);
        if (found && (size_t)(found - text) < end) end = (size_t)(found - text);
    }
    return end;
}

/* What is written so far, row by row, while a batch is generated. */
struct writing {
    const struct job *j;
    struct ids *made;
    err failed;
};

static int on_token(void *ctx, int row, int32_t id) {
    struct writing *w = ctx;
    str text = {0};
    struct ids *made = &w->made[row];
    err e = ids_push(made, id);
    if (!e) e = tokenizer_decode(w->j->m->tok, made->v, made->n, DECODE_SKIP_SPECIAL, &text);
    const bool over = e || (text.n && stop_at(w->j->t, text.p) < text.n);
    if (e) w->failed = e;
    str_free(&text);
    return over;
}

static err take_text(struct job *j, int i, const cyc_generation *g) {
    str text = {0};
    err e = tokenizer_decode(j->m->tok, g->ids, g->n, DECODE_SKIP_SPECIAL, &text);
    str_add(&text, "", 0);
    if (!e && text.failed) e = fail(E_MEMORY, "out of memory");
    if (!e) text.p[text.n = stop_at(j->t, text.p)] = 0, utf8_repair(&text);
    if (!e && text.failed) e = fail(E_MEMORY, "out of memory");
    if (e) str_free(&text);
    j->text[i] = text.p;
    return e;
}

static err write_batch(struct job *j, int from, int n) {
    struct ids *made = calloc((size_t)n, sizeof *made);
    const int32_t **prompt = malloc((size_t)n * sizeof *prompt);
    size_t *length = malloc((size_t)n * sizeof *length);
    cyc_generation *out = calloc((size_t)n, sizeof *out);
    struct writing w = {.j = j, .made = made};
    const cyc_generate_options o = {.max_new_tokens = j->t->max_new, .share_head = SHARE, .on_token = on_token, .ctx = &w};
    err e = made && prompt && length && out ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n && !e; i++) {
        const struct ids *p = &j->v[j->order[from + i]].prompt;
        prompt[i] = p->v, length[i] = p->n;
        j->stats.prompt_tokens += (int64_t)p->n;
    }
    if (!e) {
        const int code = cyc_generate(j->m, j->a, prompt, length, n, &o, out, NULL);
        e = code ? (code == CYC_BAD_INPUT ? E_INPUT : E_INTERNAL) : w.failed; /* the message is there */
    }
    for (int i = 0; i < n && !e; i++) e = take_text(j, j->order[from + i], &out[i]);
    for (int i = 0; i < n && out; i++) free(out[i].ids), ids_free(&made[i]);
    free(made), free(prompt), free(length), free(out);
    return e;
}

static err run_writing(struct job *j) {
    const int batch = batch_of(j);
    for (int from = 0; from < j->n; from += batch) {
        TRY(write_batch(j, from, from + batch < j->n ? batch : j->n - from));
        if (!*api_stop()) continue;
        *api_stop() = 0;
        return fail(E_INTERRUPTED, "interrupted after %d of %d prompts", from, j->n);
    }
    return OK;
}

/* --- counting ------------------------------------------------------------------------------------------------------- */
enum { METRICS = 3 };
static const char *const names[][METRICS] = {
    [TASK_CHOICE] = {"acc", "acc_norm", "acc_bytes"}, [TASK_WRITE] = {"exact_match", "squad_em", "squad_f1"}};

static double characters(const char *s) {
    double n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

/* The likeliest option is right: as it is, per character, per byte (the first of equals, as numpy's argmax). */
static void judge_options(const struct item *it, const double *logprob, double *points) {
    int best[METRICS] = {0};
    double top[METRICS];
    for (int k = 0; k < it->n; k++) {
        const double per[METRICS] = {1, characters(it->choice[k]), (double)strlen(it->choice[k])};
        for (int i = 0; i < METRICS; i++)
            if (!k || logprob[k] / per[i] > top[i]) top[i] = logprob[k] / per[i], best[i] = k;
    }
    for (int i = 0; i < METRICS; i++) points[i] = best[i] == it->right;
}

static err judge_text(const struct task *t, const struct item *it, const char *text, double *points) {
    static const char *const squad[] = {"squad_em", "squad_f1"};
    for (int i = 0; i < METRICS; i++) points[i] = 0;
    for (int k = 0; k < it->n; k++) {
        bool equal;
        double got[2];
        TRY(answer_equal(text, it->choice[k], t->ignore_case, t->ignore_punctuation, &equal));
        TRY(metrics_score(squad, 2, &(struct scored){&text, &it->choice[k], 1}, got));
        points[0] = fmax(points[0], equal);
        for (int i = 0; i < 2; i++) points[1 + i] = fmax(points[1 + i], got[i] / 100);
    }
    return OK;
}

static json_t *texts_json(const char *const *v, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_string(v[i]));
    return list;
}

static json_t *result_json(const struct job *j, int i) {
    const struct item *it = &j->t->asked.v[i];
    str at = {0};
    str_addf(&at, "%s:%d", it->path, it->line);
    json_t *o = json_pack("{s:s*, s:s%}", "at", at.p, "prompt", j->prompt[i].n ? j->prompt[i].p : "", j->prompt[i].n);
    str_free(&at);
    if (j->t->kind == TASK_WRITE) {
        json_object_set_new(o, "text", json_string(j->text[i]));
        json_object_set_new(o, "answers", texts_json(it->choice, it->n));
        return o;
    }
    json_t *list = json_array();
    for (int k = 0; k < it->n; k++) json_array_append_new(list, json_real(j->v[i].logprob[k]));
    json_object_set_new(o, "log_likelihoods", list);
    json_object_set_new(o, "options", texts_json(it->choice, it->n));
    json_object_set_new(o, "right", json_integer(it->right));
    return o;
}

/* points: [n][METRICS]. */
static json_t *metrics_json(const struct job *j, const double *points) {
    json_t *o = json_object();
    for (int m = 0; m < METRICS; m++) {
        double mean = 0, square = 0;
        for (int i = 0; i < j->n; i++) mean += points[i * METRICS + m] / j->n;
        for (int i = 0; i < j->n; i++) square += (points[i * METRICS + m] - mean) * (points[i * METRICS + m] - mean);
        json_object_set_new(
            o, names[j->t->kind][m],
            json_pack("{s:f, s:o}", "value", mean, "stderr", j->n > 1 ? json_real(sqrt(square / (j->n - 1) / j->n)) : json_null()));
    }
    return o;
}

static err count(const struct job *j, json_t **out) {
    double *points = malloc((size_t)j->n * METRICS * sizeof *points);
    json_t *results = json_array();
    const bool choice = j->t->kind == TASK_CHOICE;
    err e = points ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < j->n && !e; i++) {
        const struct item *it = &j->t->asked.v[i];
        if (choice) judge_options(it, j->v[i].logprob, points + (size_t)i * METRICS);
        else e = judge_text(j->t, it, j->text[i], points + (size_t)i * METRICS);
        json_array_append_new(results, result_json(j, i));
    }
    if (!e)
        *out = json_pack("{s:s, s:s, s:i, s:i, s:o, s:I, s:I, s:I, s:f, s:O}", "task", j->t->name, "kind",
                         choice ? "multiple_choice" : "generate_until", "shots", j->how->shots, "records", j->n, "metrics",
                         metrics_json(j, points), "prompt_tokens", (json_int_t)j->stats.prompt_tokens, "option_tokens",
                         (json_int_t)j->stats.option_tokens, "shared_tokens", (json_int_t)j->stats.shared, "seconds", j->seconds, "results",
                         results);
    if (!e && choice) json_object_set_new(*out, "bytes", json_integer((json_int_t)j->stats.bytes));
    json_decref(results);
    free(points);
    return e;
}

int cyc_task_run(const cyc_task *t, cyc_model *m, cyc_adapter *a, const cyc_shots *how, char **json) {
    struct job j = {.t = &t->t, .m = m, .a = a, .how = how, .n = t->t.asked.n};
    json_t *o = NULL;
    err e = api_adapter_ready(&j.a, NULL, 0, NULL);
    if (!e && !m->weights) e = fail(E_USAGE, "this handle is a tokenizer alone");
    if (!e && how->shots < 0) e = fail(E_USAGE, "%d shots", how->shots);
    const double t0 = seconds_now();
    if (!e) e = job_begin(&j);
    if (!e) e = t->t.kind == TASK_CHOICE ? run_options(&j) : run_writing(&j);
    j.seconds = seconds_now() - t0;
    if (!e) e = count(&j, &o);
    job_end(&j);
    return e ? api_code(e) : api_json(o, json);
}
