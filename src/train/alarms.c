/* Watching a run: what evaluations say beyond scores, and what follows from it.
 *
 * health_direction() adds what health.c finds in the texts of a direction and what the bare base thinks of them; health_moved() how far each
 * adapter has gone since the last evaluation; guard.c what has been forgotten. alarms_judge() holds these against the table below, in
 * evaluations of eval.data (or of the sides' own text) after the first cycle; what sounds is in the evaluation as "alarms", in metrics.jsonl and on the terminal. alarms_act() does what on_alarm
 * says: warn (nothing more), rollback (once: adapters and optimizers become the best evaluation's again, while steps, schedule and data go on; the
 * next alarm stops), stop (a checkpoint, then E_NUMERIC: exit status 1). After the last step there is nothing to undo or to stop: it warns.
 *
 * Nothing here has a memory of its own but the sketches and the step of the rollback, which checkpoints hold: a resumed run sees the same. */
#include "train/run.h"
#include "base/log.h"
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* --- what is measured -------------------------------------------------------------------------------------------------- */
enum { REAL_TEXTS = 256 }; /* of a side, to compare with */

/* What was written as rows with loss on it; those that the plan's passes have no room for are left out. */
static err rows_written(struct run *r, const struct side *s, const struct wrote *w, struct rows *out) {
    for (int i = 0; i < w->out.n; i++) {
        struct ids answer = {0};
        err e = OK;
        for (int k = 0; k < w->made[i].n && !e; k++) e = ids_push(&answer, w->made[i].ids[k]);
        if (!e && w->made[i].stopped) e = ids_push(&answer, s->base->eos);
        if (!e && answer.n && w->prompt[i].n + answer.n + s->plans->st.virtual_tokens <= (size_t)run_pass(r))
            e = rows_add(out, w->prompt[i].v, w->prompt[i].n, answer.v, answer.n);
        ids_free(&answer);
        if (e) return e;
    }
    return OK;
}

/* How sure the adapter is of what it wrote, and what the bare base makes of it: nats for each token, and the share of tokens that it would have
 * chosen at that place too. */
static err add_base(struct run *r, const struct side *s, const struct wrote *w, json_t *to) {
    struct rows rows = {0};
    double own[4], base[4];
    if (!s->base->bare.p.ni) return OK;
    err e = rows_written(r, s, w, &rows);
    const struct row **list = calloc((size_t)rows.n + 1, sizeof *list);
    if (!e && !list) e = fail(E_MEMORY, "out of memory");
    for (int i = 0; i < rows.n && !e; i++) list[i] = &rows.r[i];
    if (!e && rows.n) e = rows_loss(&s->plans->score, &r->wb, s->learner.w, list, rows.n, own);
    if (!e && rows.n) e = rows_loss(&s->base->bare, &r->wb, NULL, list, rows.n, base);
    if (!e && rows.n) {
        json_object_set_new(to, "nll", json_real(own[0] / own[1]));
        json_object_set_new(to, "base_nll", json_real(base[0] / base[1]));
        json_object_set_new(to, "base_agreement", json_real(base[2] / base[1]));
    }
    free(list);
    rows_free(&rows);
    return e;
}

err health_direction(struct run *r, const struct wrote *w, json_t *list) {
    const struct side *s = &r->side[w->writer];
    arena mem = {0};
    const char *real[REAL_TEXTS];
    const struct side *of = &r->side[w->side];
    struct health_ask ask = {w->in, w->out, w->wanted, {real, of->source.n < REAL_TEXTS ? of->source.n : REAL_TEXTS}, 0};
    json_t *to = json_pack("{s:s, s:s, s:i}", "name", s->name, "direction", w->direction, "rows", w->out.n);
    json_array_append_new(list, to);
    for (int i = 0; i < w->out.n; i++) ask.truncated += !w->made[i].stopped;
    err e = w->out.n ? data_texts(of, ask.real.n, &mem, real) : OK;
    if (!e && w->out.n) e = health_texts(&ask, to);
    if (!e && w->out.n && w->changed >= 0) json_object_set_new(to, "retokenised", json_real((double)w->changed / w->out.n));
    if (!e && w->out.n) e = add_base(r, s, w, to);
    arena_free(&mem);
    return e;
}

/* The entry of a side in the evaluation's "health", made where there is none. */
static json_t *health_of(json_t *eval, const char *name) {
    json_t *list = json_object_get(eval, "health"), *h;
    size_t i;
    if (!list) json_object_set_new(eval, "health", list = json_array());
    json_array_foreach(list, i, h) if (!strcmp(json_string_value(json_object_get(h, "name")), name)) return h;
    json_array_append_new(list, h = json_pack("{s:s}", "name", name));
    return h;
}

enum { PART = 1 << 14, MOST = 1024 * PART }; /* of more numbers than MOST, which only trained copies of large models have, every so many parts */

/* Numbers first .. first + n - 1 of a learner into its sketch, and their squares into *sum; they lie at `at`, as dt. */
static err sketch_span(const struct learner *l, const char *at, dtype dt, int64_t first, int64_t n, double *sketch, double *sum) {
    const int64_t stride = PART * ((n + MOST - 1) / MOST);
    float *part = malloc(PART * sizeof *part);
    void *stored = malloc(PART * sizeof *part);
    err e = part && stored ? OK : fail(E_MEMORY, "out of memory");
    for (int64_t i = 0; i < n && !e; i += stride) {
        const int64_t k = n - i < PART ? n - i : PART;
        e = l->backend->mem->download(stored, at + dtype_row_bytes(dt, i), dtype_row_bytes(dt, k));
        if (e) break;
        dequantise_row(dt, stored, part, k);
        sketch_add(sketch, part, first + i, k);
        for (int64_t j = 0; j < k; j++) *sum += (double)part[j] * (double)part[j];
    }
    free(stored);
    free(part);
    return e;
}

/* A learner's numbers as a sketch, and their length. Of narrow weights the matrices come first, in 16 bits. */
static err sketch_of(const struct learner *l, double sketch[SKETCH], double *length) {
    const struct param_set *s = &l->st->params;
    const int64_t matrices = (int64_t)(s->vectors / sizeof(float)), vectors = (int64_t)((s->trained - s->vectors) / sizeof(float));
    const dtype dt = s->narrow ? DT_BF16 : DT_F32;
    double sum = 0;
    memset(sketch, 0, SKETCH * sizeof *sketch);
    err e = sketch_span(l, l->w, dt, 0, matrices, sketch, &sum);
    if (!e) e = sketch_span(l, (const char *)l->w + dtype_row_bytes(dt, matrices), DT_F32, matrices, vectors, sketch, &sum);
    *length = sqrt(sum);
    return e;
}

err health_moved(struct run *r, json_t *eval) {
    for (int i = 0; i < r->n_sides; i++) {
        struct side *s = &r->side[i];
        double now[SKETCH], length;
        TRY(sketch_of(&s->learner, now, &length));
        const bool known = s->sketched && length > 0;
        json_object_set_new(health_of(eval, s->name), "movement",
                            known ? json_real(sketch_distance(now, s->sketch) / length) : json_null());
        memcpy(s->sketch, now, sizeof now);
        s->sketched = true;
    }
    return OK;
}

/* --- alarms ------------------------------------------------------------------------------------------------------------ */
enum { LEAST_ROWS = 4 }; /* of fewer texts no share is judged */
static const struct alarm {
    const char *name, *figure, *less; /* sounds where figure - less is beyond the threshold */
    size_t threshold;                 /* its key in struct config; 0 there: off */
    bool below, of_texts;
    double scale; /* of the figure in `says` */
    const char *says;
} table[] = {
#define KEY_OF(field) offsetof(struct config, field)
    {"identity", "copy_rate", "copy_wanted", KEY_OF(alarm_identity), false, true, 100,
     "repeats its input: %.0f %% more of its outputs equal it than should"},
    {"collapse", "most_common", "most_common_input", KEY_OF(alarm_collapse), false, true, 100,
     "writes one and the same text for %.0f %% more of its inputs than are the same"},
    {"empty", "empty", NULL, KEY_OF(alarm_empty), false, true, 100, "writes nothing for %.0f %% of its inputs"},
    {"drift", "drift", NULL, KEY_OF(alarm_drift), false, true, 1,
     "writes another language than its side's texts: character pairs diverge by %.2f bits"},
    {"forgetting", "loss_rise", NULL, KEY_OF(guard_rise), false, false, 100, "forgets: its loss is %.0f %% above the first evaluation's"},
    {"forgetting", "score_fall", NULL, KEY_OF(guard_fall), false, true, 1, "forgets: its score is %.2f below its best evaluation's"},
    {"hallucination", "invented", NULL, KEY_OF(guard_invented), false, false, 100,
     "makes answers up: %.0f %% of the questions went from abstained to wrong"},
    {"still", "movement", NULL, KEY_OF(alarm_still), true, false, 1, "has stopped moving: by %.2g of its length since the last evaluation"},
#undef KEY_OF
};

static bool sounds(const struct run *r, const struct alarm *a, const json_t *h, double *value) {
    const json_t *v = json_object_get(h, a->figure), *rows = json_object_get(h, "rows");
    const double limit = *(const double *)((const char *)r->cfg + a->threshold);
    if (!json_is_number(v) || limit <= 0 || (a->of_texts && json_integer_value(rows) < LEAST_ROWS)) return false;
    *value = json_number_value(v) - (a->less ? json_number_value(json_object_get(h, a->less)) : 0);
    return a->below ? *value < limit : *value > limit;
}

/* Of an adapter's entry in "health", or a guard's. */
static void sound(const struct run *r, const struct alarm *a, const json_t *h, double value, json_t *list) {
    const char *guard = json_string_value(json_object_get(h, "guard")),
               *side = json_string_value(json_object_get(h, guard ? "side" : "name"));
    char says[200];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(says, sizeof says, a->says, a->scale * value);
#pragma GCC diagnostic pop
    if (guard) snprintf(says + strlen(says), sizeof says - strlen(says), " on guard %s", guard);
    json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:s}", "name", a->name, "side", side, "value", value, "message", says));
    log_warn("step %lld: alarm %s: adapter%s%s %s", (long long)r->step, a->name, *side ? " " : "", side, says);
}

void alarms_judge(const struct run *r, json_t *eval) {
    json_t *list, *h;
    size_t i;
    if (r->step <= r->warm_steps || !(list = json_array())) return;
    for (int of = 0; of < 2; of++)
        json_array_foreach(json_object_get(eval, of ? "guard" : "health"), i, h) for (size_t k = 0; k < sizeof table / sizeof *table; k++) {
            double value;
            if (sounds(r, &table[k], h, &value)) sound(r, &table[k], h, value, list);
        }
    if (json_array_size(list)) json_object_set(eval, "alarms", list);
    json_decref(list);
}

static err roll_back(struct run *r, int64_t best) {
    TRY(best_load(r, true));
    r->rolled_back = r->step;
    log_warn("step %lld: back to the adapters of the best evaluation, at step %lld; the next alarm stops the run", (long long)r->step,
             (long long)best);
    return metrics_append(r, json_pack("{s:I, s:I}", "step", (json_int_t)r->step, "rollback_to", (json_int_t)best));
}

err alarms_act(struct run *r) {
    const json_t *eval = json_array_get(r->evals, json_array_size(r->evals) - 1),
                 *first = json_array_get(json_object_get(eval, "alarms"), 0);
    if (!first || r->step >= run_total(r) || json_integer_value(json_object_get(eval, "step")) != r->step ||
        !strcmp(r->cfg->on_alarm, "warn"))
        return OK;
    const json_t *best = eval_best(r);
    const int64_t from = best ? json_integer_value(json_object_get(best, "step")) : r->step;
    const bool back = !strcmp(r->cfg->on_alarm, "rollback");
    if (back && !r->rolled_back && from < r->step) return roll_back(r, from);
    const char *side = json_string_value(json_object_get(first, "side"));
    return fail(
        E_NUMERIC,
        "alarm %s at step %lld: adapter%s%s %s; on_alarm: %s ends the run here%s. Its state is saved; --resume goes on all the same",
        json_string_value(json_object_get(first, "name")), (long long)r->step, *side ? " " : "", side,
        json_string_value(json_object_get(first, "message")), r->cfg->on_alarm,
        back ? r->rolled_back ? " after one rollback" : ", since no evaluation was better" : "");
}

/* --- the best evaluation, and when no better one comes ----------------------------------------------------------------- */
/* One of eval.data (test.data is evaluated when all is over). */
const json_t *eval_best(const struct run *r) {
    const json_t *best = NULL;
    size_t i;
    json_t *j;
    json_array_foreach(r->evals, i, j) if (strcmp(json_string_value(json_object_get(j, "tag")), "test") != 0 &&
                                           eval_metric(r, j) > (best ? eval_metric(r, best) : -HUGE_VAL)) best = j;
    return best;
}

bool eval_patience_is_over(const struct run *r) {
    const json_t *best = eval_best(r);
    int64_t since = 0;
    size_t i;
    json_t *j;
    json_array_foreach(r->evals, i, j) since = j == best || !best ? 0 : since + 1;
    return r->cfg->patience && since >= r->cfg->patience;
}

/* What "a.b.c" names: members of objects, of lists the entry of that name (a list of one needs none). */
static const json_t *dotted(const json_t *at, const char *name) {
    while (at && *name) {
        if (json_is_array(at) && json_array_size(at) == 1 && !*json_string_value(json_object_get(json_array_get(at, 0), "name"))) {
            at = json_array_get(at, 0);
            continue;
        }
        char part[64];
        const size_t n = strcspn(name, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, name);
        const json_t *next = json_object_get(at, part);
        for (size_t i = 0; json_is_array(at) && i < json_array_size(at) && !next; i++) {
            const char *own = json_string_value(json_object_get(json_array_get(at, i), "name"));
            if (own && !strcmp(own, part)) next = json_array_get(at, i);
        }
        at = next;
        name += n + (name[n] == '.');
    }
    return at;
}

double eval_metric(const struct run *r, const json_t *eval) {
    const char *name = r->cfg->best_metric;
    const json_t *sides = json_object_get(eval, "sides"), *v;
    const double sign = config_metric_falls(r->cfg) ? -1 : 1;
    if (strchr(name, '.')) return json_is_number(v = dotted(eval, name)) ? sign * json_number_value(v) : -HUGE_VAL;
    double sum = 0;
    int have = 0;
    for (size_t i = 0; i < json_array_size(sides) && strcmp(name, "none") != 0; i++) /* the mean over those that have it */
        if ((v = json_object_get(json_array_get(sides, i), name))) sum += json_number_value(v), have++;
    return have ? sign * sum / have : -HUGE_VAL;
}

static void list_numbers(const json_t *j, const char *path, str *out) {
    const char *key;
    json_t *v;
    size_t i;
    char below[160];
    if (json_is_number(j) && *path) str_addf(out, "%s%s", out->n ? ", " : "", path);
    json_object_foreach((json_t *)j, key, v) {
        snprintf(below, sizeof below, "%s%s%s", path, *path ? "." : "", key);
        list_numbers(v, below, out);
    }
    json_array_foreach(j, i, v) {
        const char *name = json_string_value(json_object_get(v, "name"));
        if (!name) continue;
        snprintf(below, sizeof below, "%s%s%s", path, *name ? "." : "", name);
        list_numbers(v, below, out);
    }
}

err eval_has_metric(const struct run *r, const json_t *eval) {
    if (!strchr(r->cfg->best_metric, '.') || dotted(eval, r->cfg->best_metric)) return OK;
    str s = {0};
    list_numbers(eval, "", &s);
    err e = fail(E_USAGE, "'metric_for_best_model' is %s, which evaluations do not have: theirs are %s", r->cfg->best_metric,
                 s.p ? s.p : "none");
    str_free(&s);
    return e;
}
