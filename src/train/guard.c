/* Guards (guard.data): what a run is not to lose. Old text and old tasks are measured at each evaluation with every adapter on, beside
 * what is trained:
 *
 *   text    each token but a document's first, as objective text measures what is held out: loss, perplexity, bits_per_byte
 *   sft     prompt/completion or conversations, the tokens that loss_on counts: loss, perplexity, accuracy of the likeliest token
 *   qa      questions without a text to read the answer from: the shares of what the adapter writes that are right, abstained and wrong
 *           (data/questions.c). The question is a user's turn of the model's chat template, or "Question: ... Answer:" of a model
 *           without one
 *   labels  of a run that trains a head: records as its data are, of an older task; the objective's own figures
 *
 * loss_rise is the loss over the run's first evaluation's, less 1: what an adapter has forgotten. Above guard.max_loss_rise the alarm
 * "forgetting" sounds (alarms.c), which on_alarm heeds, and metric_for_best_model takes any figure: guard.NAME.perplexity, in cycles
 * guard.NAME_A.perplexity. A head is new when a run begins, and may grow surer of the same answers, so of labels the alarm goes by
 * score_fall: how far the score (`scores` below) is under the best of the earlier evaluations. invented is the share of questions that
 * went from abstained to wrong: the lesser of what the one lost and the other gained.
 *
 * Where a head is trained, texts, answers and questions are read by the language model beneath it: the base's own output projection on
 * the adapted body, in a program of its own (run.c, beneath). A tensor that such a model has and the head's has not is the base's.
 *
 * Rows are made once, for each base's tokenizer, and go through the programs that evaluation has anyway, but for that one; for questions
 * those of generation are built too. Lengths, memory and time are in the plan.
 *
 * Refused: labels where nothing is trained that tells them; beneath a head what an encoder cannot read, what method none does not
 * change, and what tags on an encoder-decoder leave out; sets without a name of their own; raw text and questions for an
 * encoder-decoder; records without vectors for an adapter that reads them, and questions, which never have any.
 * Called by run.c and evaluate.c. */
#include "train/headed.h"
#include "data/questions.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct side *first_on(const struct run *r, int base) { return r->objective->own_bases ? &r->side[base] : &r->side[0]; }

/* Questions as prompts: room for the longest with what is written for it. */
static err make_questions(struct run *r, struct guard *g, int base) {
    struct base *b = &r->base[base];
    struct prompt_form *f = &g->form[base];
    int new = 0;
    for (int i = 0; i < r->n_sides; i++)
        if (r->side[i].base == b && r->side[i].cfg->max_new_tokens > new) new = (int)r->side[i].cfg->max_new_tokens;
    TRY(tokenizer_template(b->tok) ? prompt_form_chat(b->tok, "{text}", f) : prompt_form_parse(b->tok, "Question: {text}\nAnswer:", f));
    const int around = (int)(f->head.n + f->tail.n), room = (int)first_on(r, base)->cfg->max_length - around - new;
    if (room < 2)
        return fail(E_USAGE, "max_length leaves no room for a question beside its form (%d tokens) and max_new_tokens (%d)", around, new);
    TRY(rows_texts(b->tok, f, &g->source, room, &g->rows[base]));
    const int prompt = g->rows[base].longest + around;
    if (prompt > r->cap.tokens) r->cap.tokens = prompt;
    if (prompt + new > r->cap.length) r->cap.length = prompt + new;
    return r->generates = true, OK;
}

/* A run that trains a head has a language model beneath where the base has one, and the adapter acts on all of it. */
static err look_beneath(struct run *r) {
    const struct model *m = &r->base[0].model;
    static const char *const instead = "guard it with kind labels";
    if (m->family->encoder)
        return fail(E_UNSUPPORTED, "%s is an encoder (%s), beneath whose head is no language model: %s", m->path, model_arch(m), instead);
    if (!strcmp(r->side[0].cfg->method, "none"))
        return fail(E_USAGE, "method none changes nothing of the base, which writes and reads as before: %s", instead);
    if (m->family->seq2seq && r->head.kind == HEAD_TAGS)
        return fail(E_UNSUPPORTED, "a classifier of tokens on an encoder-decoder (%s) is an adapted encoder, without what writes: %s",
                    model_arch(m), instead);
    if (r->base[0].eos < 0) return fail(E_INPUT, "the tokenizer names no end-of-text token, so answers could never end");
    return r->beneath = true, OK;
}

static err make_rows(struct run *r, struct guard *g, int base) {
    struct base *b = &r->base[base];
    const int length = (int)first_on(r, base)->cfg->max_length;
    if (g->kind != GUARD_LABELS && r->objective->heading) TRY(look_beneath(r));
    if (g->kind == GUARD_LABELS) {
        TRY(r->objective->heading->rows.make(r, &g->source, &g->rows[base]));
    } else if (g->kind == GUARD_SFT) {
        TRY(rows_sft(b->tok, &g->source, length, &g->rows[base]));
        TRY(base_split_rows(b, &g->rows[base]));
    } else if (b->model.family->seq2seq)
        return fail(E_UNSUPPORTED,
                    "an encoder-decoder (%s) has nothing to read before raw text, and no form for questions: guard it with kind sft",
                    model_arch(&b->model));
    else if (g->kind == GUARD_QA) return make_questions(r, g, base);
    else TRY(rows_documents(b->tok, &g->source, length, false, &g->rows[base]));
    if (g->rows[base].longest > r->cap.tokens) r->cap.tokens = g->rows[base].longest;
    return OK;
}

static err open_one(struct run *r, const struct file_entry *e, struct guard *g) {
    static const enum source_want wants[] = {[GUARD_TEXT] = WANT_TEXT, [GUARD_SFT] = WANT_SFT, [GUARD_QA] = WANT_QUESTION};
    *g = (struct guard){.name = e->name, .kind = config_guard_kind(e)};
    struct source_file file = {.path = e->path, .format = e->format, .field = e->field, .limit = e->limit};
    struct source_options o = {.want = g->kind == GUARD_LABELS ? r->objective->heading->rows.want : wants[g->kind],
                               .in_memory = UINT64_MAX,
                               .learnt = data_learnt(r),
                               .threads = r->threads};
    const char *field;
    data_fields(r, r->side[0].cfg, o.want, &field, &file.field2);
    if (!file.field && g->kind == GUARD_LABELS) file.field = field;
    TRY(data_given(r->side[0].cfg, e->vectors ? e->vectors : "", &g->given, &o.given));
    if (o.given.each && g->kind == GUARD_QA)
        return fail(E_USAGE, "a question brings no vectors, which method %s reads", r->side[0].cfg->method);
    TRY(source_open_files(&file, 1, &o, &g->source));
    for (int i = 0; i < bases_trained(r); i++) TRY(make_rows(r, g, i));
    if (g->kind != GUARD_QA) source_drop_texts(&g->source); /* which are held against their answers */
    return OK;
}

err guards_open(struct run *r) {
    const struct strs *list = &r->cfg->guards;
    if (!list->n) return OK;
    r->guard = calloc((size_t)list->n, sizeof *r->guard);
    if (!r->guard) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < list->n; i++) {
        struct file_entry entry;
        TRY(config_guard(&r->cfg->mem, list->v[i], &entry));
        err e = open_one(r, &entry, &r->guard[r->n_guards++]);
        if (e) return fail_in(e, "guard %s", entry.name);
    }
    return OK;
}

void guards_close(struct run *r) {
    for (int i = 0; i < r->n_guards; i++) {
        source_close(&r->guard[i].source);
        npy_close(&r->guard[i].given);
        for (int k = 0; k < CONFIG_SIDES; k++) rows_free(&r->guard[i].rows[k]), prompt_form_free(&r->guard[i].form[k]);
    }
    free(r->guard);
    r->guard = NULL;
    r->n_guards = 0;
}

size_t guards_bytes(const struct run *r) {
    size_t n = 0;
    for (int i = 0; i < r->n_guards; i++) {
        n += r->guard[i].source.bytes;
        for (int k = 0; k < bases_trained(r); k++) n += r->guard[i].rows[k].bytes;
    }
    return n;
}

const struct rows *guard_rows(const struct run *r, const struct guard *g, const struct side *s) { return &g->rows[s->base - r->base]; }

/* --- questions ---------------------------------------------------------------------------------------------------- */
/* What is written after a form without turns goes on with a question of its own: the first line is the answer. */
static err judge(const struct run *r, const struct guard *g, int i, const struct side *s, const struct generation *made,
                 enum answered *out) {
    const struct record *q = &g->source.r[i];
    char *said = NULL;
    TRY(base_text_trimmed(s->base, made->ids, (size_t)made->n, &said));
    if (!g->form[s->base - r->base].turn) said[strcspn(said, "\n")] = 0;
    err e = answer_judge(said, (struct phrases){q->words, q->n_words}, (struct phrases){r->cfg->abstains.v, r->cfg->abstains.n}, out);
    free(said);
    return e;
}

static err ask(struct run *r, const struct guard *g, int side, json_t *to) {
    const struct side *s = &r->side[side];
    const struct rows *rows = guard_rows(r, g, s);
    struct ids *prompt = calloc((size_t)rows->n, sizeof *prompt);
    struct generation *made = calloc((size_t)rows->n, sizeof *made);
    double count[3] = {0};
    err e = prompt && made ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < rows->n && !e; i++)
        e = prompt_form_wrap(&g->form[s->base - r->base], rows->r[i].ids, (size_t)rows->r[i].n, &prompt[i]);
    if (!e) e = generate_texts(r, side, prompt, rows->n, (int)s->cfg->max_new_tokens, 0, 0, made, NULL);
    for (int i = 0; i < rows->n && !e; i++) {
        enum answered a;
        e = judge(r, g, i, s, &made[i], &a);
        if (!e) count[a] += 1.0 / rows->n;
    }
    for (int i = 0; i < rows->n && prompt; i++) ids_free(&prompt[i]);
    for (int i = 0; i < rows->n && made; i++) free(made[i].ids);
    free(prompt);
    free(made);
    if (e) return e;
    json_object_update_new(to, json_pack("{s:f, s:f, s:f, s:i}", "right", count[ANSWERED_RIGHT], "abstained", count[ANSWERED_NOT], "wrong",
                                         count[ANSWERED_WRONG], "rows", rows->n));
    return OK;
}

/* --- all of them ---------------------------------------------------------------------------------------------------- */
static double figure(const json_t *g, const char *name) { return json_number_value(json_object_get(g, name)); }

/* The entry of that name in an evaluation; NULL: it has none. */
static const json_t *entry_of(const json_t *eval, const char *name) {
    const json_t *g;
    size_t i;
    json_array_foreach(json_object_get(eval, "guard"), i, g) if (!strcmp(json_string_value(json_object_get(g, "name")), name)) return g;
    return NULL;
}

/* What a head is judged by, the first of these that its objective has. */
static const char *const scores[] = {"span_f1", "accuracy", "pearson"};

/* The best score of that name in the evaluations so far; -HUGE_VAL: there is none. */
static double best_score(const struct run *r, const char *name, const char *score) {
    double best = -HUGE_VAL;
    size_t i;
    json_t *eval;
    json_array_foreach(r->evals, i, eval) if (entry_of(eval, name)) best = fmax(best, figure(entry_of(eval, name), score));
    return best;
}

static err tell(struct run *r, const struct rows *rows, const char *name, json_t *to) {
    json_t *said, *v;
    const char *key;
    size_t k = 0;
    TRY(headed_figures(r, rows, &said));
    json_object_foreach(said, key, v) if (json_is_number(v)) json_object_set(to, key, v); /* not of each class */
    json_decref(said);
    while (!json_object_get(to, scores[k])) k++;
    const double best = best_score(r, name, scores[k]);
    if (best > -HUGE_VAL) json_object_set_new(to, "score_fall", json_real(best - figure(to, scores[k])));
    return OK;
}

static err measure(struct run *r, const struct guard *g, int side, json_t *list) {
    const struct side *s = &r->side[side];
    char name[64];
    snprintf(name, sizeof name, *s->name ? "%s_%s" : "%s", g->name, s->name);
    const json_t *first = entry_of(json_array_get(r->evals, 0), name);
    json_t *one = json_pack("{s:s, s:s, s:s}", "name", name, "guard", g->name, "side", s->name);
    json_array_append_new(list, one);
    if (g->kind == GUARD_LABELS) return tell(r, guard_rows(r, g, s), name, one);
    if (g->kind != GUARD_QA) {
        TRY(rows_figures(r, s, guard_rows(r, g, s), one));
        if (figure(first, "loss") > 0) json_object_set_new(one, "loss_rise", json_real(figure(one, "loss") / figure(first, "loss") - 1));
        return OK;
    }
    TRY(ask(r, g, side, one));
    const double gained = figure(one, "wrong") - figure(first, "wrong"), lost = figure(first, "abstained") - figure(one, "abstained");
    if (first) json_object_set_new(one, "invented", json_real(fmax(0, fmin(gained, lost))));
    return OK;
}

err guards_evaluate(struct run *r, json_t *eval) {
    json_t *list = json_array();
    if (r->n_guards) json_object_set(eval, "guard", list);
    json_decref(list);
    for (int i = 0; i < r->n_guards; i++)
        for (int k = 0; k < r->n_sides; k++) TRY(measure(r, &r->guard[i], k, list));
    return OK;
}
