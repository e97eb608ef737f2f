/* macct: multi-adapter cycle-consistency training. Two adapters on one frozen base, unpaired text on both sides.
 *
 * Adapter A maps A-text to B-text, adapter B maps back. In the A-half of a step, B writes synthetic A-text from real B-text
 * (no dropout, no gradient) and A learns to rebuild the real B-text from it; the B-half mirrors it, with A already updated.
 * With one tokenizer, generated ids become the prompt as they are; where the two prompts lead a text in differently
 * (another space or newline before {text}), ids pass through text instead.
 *
 * A few pairs may come first (warmup_pairs): both directions train on them by plain supervision, so that the first
 * generations mean something. */
#define _POSIX_C_SOURCE 200809L
#include "train/run.h"
#include "base/log.h"
#include "data/score.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- data ------------------------------------------------------------------------------------------------------- */
/* The longest text that leaves room for its prompt and the answer, within max_length. */
static int64_t text_limit(const struct run *r, const struct prompt_form *f) {
    int64_t room = r->cfg->max_length - (int64_t)f->head.n - (int64_t)f->tail.n - 1;
    return room - r->cfg->max_new_tokens;
}

/* Rows of texts as the list of ids that a step takes from; streamed ones are drawn instead. */
static err list_texts(struct side *s) {
    s->n_texts = s->rows.n;
    if (!s->rows.r) return OK;
    s->texts = calloc((size_t)s->n_texts, sizeof *s->texts);
    if (!s->texts) return s->n_texts = 0, fail(E_MEMORY, "out of memory");
    for (int i = 0; i < s->n_texts; i++) s->texts[i] = (struct ids){s->rows.r[i].ids, (size_t)s->rows.r[i].n, 0};
    return OK;
}

static err load_texts(struct run *r, struct side *s) {
    TRY(data_open(r, s->cfg, WANT_TEXT, false, &s->source));
    int64_t limit = text_limit(r, &s->form);
    if (limit < 1)
        return fail(E_USAGE, "max_length %lld leaves no room for a text beside the prompt of side %s and max_new_tokens %lld",
                    (long long)r->cfg->max_length, s->name, (long long)r->cfg->max_new_tokens);
    TRY(rows_texts(r->tok, &s->form, &s->source, (int)limit, &s->rows));
    TRY(list_texts(s));
    s->longest = s->rows.longest;
    s->truncated = s->rows.truncated;
    if (s->truncated)
        log_warn("%s: %d of %d texts were cut to %lld tokens (max_length, less the prompt and max_new_tokens)", s->source.path,
                 s->truncated, s->n_texts, (long long)limit);
    return data_order(r, s, (uint32_t)(s - r->side));
}

static err load_pairs(struct run *r, struct pairs *p, const char *path, struct strs fields, int64_t limit) {
    if (fields.n != 2) return fail(E_USAGE, "%s: fields must name two JSON fields, side A's and side B's", path);
    TRY(source_open(path, WANT_PAIR, fields.v[0], fields.v[1], &p->source));
    if (limit > 0 && limit < p->source.n) p->source.n = (int)limit;
    for (int d = 0; d < 2; d++) {
        TRY(rows_pairs(r->tok, &r->side[d].form, &p->source, d == 1, (int)r->cfg->max_length, &p->rows[d]));
        if (p->rows[d].longest > r->cap.tokens) r->cap.tokens = p->rows[d].longest;
    }
    return OK;
}

/* The most ids of a synthetic text that the plan's rows have room for. */
static int made_limit(const struct run *r, const struct side *s) {
    return r->cfg->max_new_tokens > s->longest ? (int)r->cfg->max_new_tokens : s->longest;
}

static err load(struct run *r) {
    if (r->model.family->seq2seq)
        return fail(E_UNSUPPORTED, "%s is an encoder-decoder (%s): macct trains decoders so far, sft trains both", r->cfg->model,
                    model_arch(&r->model));
    for (int i = 0; i < 2; i++) {
        err e = prompt_form_parse(r->tok, r->side[i].cfg->prompt, &r->side[i].form);
        if (e) return fail_in(e, "%s.prompt", r->side[i].name);
    }
    r->text_path = strcmp(r->side[0].form.lead, r->side[1].form.lead) != 0;
    if (r->text_path)
        log_warn(
            "the two prompts lead {text} in with different spaces: generated ids pass through text, which is slower and may not be exact");
    for (int i = 0; i < 2; i++) TRY(load_texts(r, &r->side[i]));
    int new = (int)r->cfg->max_new_tokens;
    for (int i = 0; i < 2; i++) {
        const struct side *s = &r->side[i], *o = &r->side[!i];
        int form = (int)(s->form.head.n + s->form.tail.n), made = made_limit(r, s);
        int row = form + (r->text_path ? made : new) + o->longest + 1,
            prompt = form + made; /* ids that are handed over are at most `new` */
        if (row > r->cap.tokens) r->cap.tokens = row;
        if (prompt + new > r->cap.length) r->cap.length = prompt + new;
    }
    if (*r->cfg->warmup_pairs) TRY(load_pairs(r, &r->warm, r->cfg->warmup_pairs, r->cfg->warmup_fields, r->cfg->warmup_limit));
    if (*r->cfg->eval_data) TRY(load_pairs(r, &r->eval, r->cfg->eval_data, r->cfg->eval_fields, r->cfg->eval_limit));
    if (*r->cfg->test_data) TRY(load_pairs(r, &r->test, r->cfg->test_data, r->cfg->eval_fields, r->cfg->test_limit));
    for (int d = 0; d < 2; d++) {
        int longest = r->eval.rows[d].longest > r->test.rows[d].longest ? r->eval.rows[d].longest : r->test.rows[d].longest;
        if (longest && longest + new > r->cap.length) r->cap.length = longest + new;
    }
    return OK;
}

/* --- a step ----------------------------------------------------------------------------------------------------- */
static void free_ids(struct ids *v, int n) {
    for (int i = 0; v && i < n; i++) ids_free(&v[i]);
    free(v);
}

static void free_generations(struct generation *g, int n) {
    for (int i = 0; g && i < n; i++) free(g[i].ids);
    free(g);
}

/* The text of what was generated. An adapter that has learnt little, or that ran into max_new_tokens inside a character,
 * writes bytes that are none: they are text that the other side can read, and the samples can show. */
static err text_of(const struct run *r, const struct generation *g, str *text) {
    TRY(tokenizer_decode(r->tok, g->ids, (size_t)g->n, true, text));
    utf8_repair(text);
    return text->failed ? fail(E_MEMORY, "out of memory") : OK;
}

/* Generated text of the other side becomes ids for this side's prompt: as they are, or through text. Text can come back as
 * more ids than were generated (the prompt's lead, bytes that are no character): what the plan has no room for is cut. */
static err hand_over(struct run *r, const struct side *to, const struct generation *g, struct ids *out) {
    if (!r->text_path) {
        for (int i = 0; i < g->n; i++) TRY(ids_push(out, g->ids[i]));
        return OK;
    }
    str text = {0};
    err e = text_of(r, g, &text);
    char *t = text.p ? text.p : "";
    while (*t && isspace((unsigned char)*t)) t++;
    if (!e) e = prompt_form_text(r->tok, &to->form, t, out);
    if (!e && out->n > (size_t)made_limit(r, to)) out->n = (size_t)made_limit(r, to);
    str_free(&text);
    return e;
}

/* Rows that adapter `s` trains on: its side's prompt around each synthetic text, then the real text and EOS. */
static err cycle_rows(struct run *r, const struct side *s, const struct generation *made, const struct ids *real, int n, struct rows *out) {
    for (int i = 0; i < n; i++) {
        struct ids synth = {0}, prompt = {0}, answer = {0};
        err e = hand_over(r, s, &made[i], &synth);
        if (!e) e = prompt_form_wrap(&s->form, synth.v, synth.n, &prompt);
        for (size_t k = 0; k < real[i].n && !e; k++) e = ids_push(&answer, real[i].v[k]);
        if (!e) e = ids_push(&answer, r->eos);
        if (!e) e = rows_add(out, prompt.v, prompt.n, answer.v, answer.n);
        ids_free(&synth);
        ids_free(&prompt);
        ids_free(&answer);
        if (e) return e;
    }
    return OK;
}

/* One half: the other adapter writes this side's text from the other side's, this adapter learns to undo it. */
static err half(struct run *r, int which, struct step_info *info) {
    struct side *s = &r->side[which], *o = &r->side[!which];
    int n = (int)(s->cfg->batch * s->cfg->accumulation);
    struct ids *real = calloc((size_t)n, sizeof *real);
    struct ids *prompt = calloc((size_t)n, sizeof *prompt);
    struct generation *made = calloc((size_t)n, sizeof *made);
    const struct row **list = calloc((size_t)n, sizeof *list);
    struct rows rows = {0};
    err e = real && prompt && made && list ? OK : fail(E_MEMORY, "out of memory");
    if (!e) e = data_draw_texts(o, n, real);
    for (int i = 0; i < n && !e; i++) e = prompt_form_wrap(&o->form, real[i].v, real[i].n, &prompt[i]);
    double t0 = seconds_now(), t1;
    if (!e) e = generate_texts(r, !which, prompt, n, (int)r->cfg->max_new_tokens, r->cfg->temperature, (uint64_t)(2 * r->step + which), made, NULL);
    info->generate_s += (t1 = seconds_now()) - t0;
    if (!e) e = cycle_rows(r, s, made, real, n, &rows);
    for (int i = 0; i < rows.n; i++) list[i] = &rows.r[i], info->generated += made[i].n + made[i].stopped;
    if (!e) e = learner_step(&s->learner, &r->wb, list, n, (uint64_t)r->cfg->seed, (uint64_t)(2 * r->step + which), &info->side[which]);
    info->train_s += seconds_now() - t1;
    rows_free(&rows);
    free(list);
    free_generations(made, n);
    free_ids(prompt, n);
    free(real);
    return e;
}

/* A supervised step on pairs, both directions on the same ones. */
static err warm_step(struct run *r, struct step_info *info) {
    int64_t per = r->side[0].cfg->batch * r->side[0].cfg->accumulation, pairs = r->warm.source.n, steps = (pairs + per - 1) / per;
    int64_t epoch = r->step / steps, from = r->step % steps * per, to = from + per < pairs ? from + per : pairs;
    TRY(order_seek(&r->warm_order, epoch, from));
    int n = (int)(to - from);
    const struct row **list = calloc((size_t)n * 2, sizeof *list);
    if (!list) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n; i++) {
        int k = order_next(&r->warm_order);
        list[i] = &r->warm.rows[0].r[k];
        list[n + i] = &r->warm.rows[1].r[k];
    }
    double t0 = seconds_now();
    err e = OK;
    for (int d = 0; d < 2 && !e; d++)
        e = learner_step(&r->side[d].learner, &r->wb, list + d * n, n, (uint64_t)r->cfg->seed, (uint64_t)(2 * r->step + d), &info->side[d]);
    info->train_s = seconds_now() - t0;
    free(list);
    return e;
}

static err step(struct run *r, struct step_info *info) {
    info->warmup = r->step < r->warm_steps;
    if (info->warmup) return warm_step(r, info);
    TRY(half(r, 0, info));
    return half(r, 1, info);
}

/* --- evaluation ------------------------------------------------------------------------------------------------- */
struct texts { char **v; int n; struct ids *prompt; struct generation *made; }; /* as text, and as the ids that were read and written */

static void texts_free(struct texts *t) {
    for (int i = 0; t->v && i < t->n; i++) free(t->v[i]);
    free(t->v);
    free_generations(t->made, t->n);
    free_ids(t->prompt, t->n);
    *t = (struct texts){0};
}

static char *trimmed(const str *s) {
    const char *a = s->p ? s->p : "", *b = a + strlen(a);
    while (a < b && isspace((unsigned char)*a)) a++;
    while (b > a && isspace((unsigned char)b[-1])) b--;
    return strndup(a, (size_t)(b - a));
}

/* Greedy texts of adapter `side` for texts of its own side. */
static err translate(struct run *r, int side, const char *const *in, int n, struct texts *out) {
    struct ids *prompt = out->prompt = calloc((size_t)n, sizeof *prompt);
    struct generation *made = out->made = calloc((size_t)n, sizeof *made);
    out->v = calloc((size_t)n, sizeof *out->v);
    out->n = n;
    err e = prompt && made && out->v ? OK : fail(E_MEMORY, "out of memory");
    const struct prompt_form *f = &r->side[side].form;
    int room = r->cap.length - (int)r->cfg->max_new_tokens - (int)(f->head.n + f->tail.n);
    for (int i = 0; i < n && !e; i++) {
        struct ids text = {0};
        e = prompt_form_text(r->tok, f, in[i], &text);
        if (!e) e = prompt_form_wrap(f, text.v, text.n < (size_t)room ? text.n : (size_t)room, &prompt[i]);
        ids_free(&text);
    }
    if (!e) e = generate_texts(r, side, prompt, n, (int)r->cfg->max_new_tokens, 0, 0, made, NULL);
    for (int i = 0; i < n && !e; i++) {
        str s = {0};
        e = text_of(r, &made[i], &s);
        if (!e && !(out->v[i] = trimmed(&s))) e = fail(E_MEMORY, "out of memory");
        str_free(&s);
    }
    return e;
}

/* The health of what adapter `side` wrote for texts `in`; wanted: references, or NULL. */
static err watch_direction(struct run *r, int side, const char *const *in, const struct texts *out, const char *const *wanted, json_t *list) {
    const struct wrote w = {.writer = side, .side = !side, .direction = side ? "B→A" : "A→B", .in = {in, out->n}, .out = {(const char *const *)out->v, out->n},
                            .wanted = {wanted, wanted ? out->n : 0}, .prompt = out->prompt, .made = out->made};
    return health_direction(r, &w, list);
}

static err direction_json(struct run *r, const struct pairs *on, int side, const char *const *in, const struct texts *hyp,
                          const char *const *ref, json_t *sides) {
    struct scores s, copy;
    int n = hyp->n;
    TRY(score_texts((const char *const *)hyp->v, ref, n, &s));
    TRY(score_texts(in, ref, n, &copy));
    const struct rows *rows = &on->rows[side];
    const struct row **list = calloc((size_t)rows->n, sizeof *list);
    if (!list) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < rows->n; i++) list[i] = &rows->r[i];
    double sums[4];
    err e = rows_loss(&r->side[side].plans->score, &r->wb, r->side[side].learner.w, list, rows->n, sums);
    free(list);
    if (e) return e;
    double loss = sums[0] / sums[1];
    json_array_append_new(sides,
                          json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:{s:f, s:f, s:f}, s:i}", "name", side ? "B" : "A", "direction",
                                    side ? "B→A" : "A→B", "loss", loss, "perplexity", exp(loss), "bleu", s.bleu, "chrf", s.chrf, "exact",
                                    s.exact, "copy", "bleu", copy.bleu, "chrf", copy.chrf, "exact", copy.exact, "rows", n));
    return OK;
}

static json_t *sample_json(const char *a, const char *b, const char *back, const char *want) {
    return json_pack("{s:s, s:s, s:s, s:s*}", "a", a, "b", b, "back", back, "reference", want);
}

/* Text i of side A, copied. */
static err own_text(struct run *r, int i, arena *mem, const char **text) {
    struct fetcher f = {0};
    struct record rec;
    err e = source_fetch(&r->side[0].source, i, &f, &rec);
    if (!e && !(*text = arena_str(mem, rec.text))) e = fail(E_MEMORY, "out of memory");
    fetcher_free(&f);
    return e;
}

/* With pairs: both directions against references, and the round trip. Without: the round trip of some of A's own text. */
static err evaluate(struct run *r, const struct pairs *on, json_t *out) {
    int n = on->source.n ? on->source.n : r->side[0].n_texts < 32 ? r->side[0].n_texts : 32;
    const char **a = calloc((size_t)n, sizeof *a), **b = calloc((size_t)n, sizeof *b);
    struct texts to_b = {0}, to_a = {0}, back = {0};
    err e = a && b ? OK : fail(E_MEMORY, "out of memory");
    arena mem = {0};
    for (int i = 0; i < n && !e; i++) {
        if (on->source.n) a[i] = on->source.r[i].prompt, b[i] = on->source.r[i].completion;
        else e = own_text(r, i, &mem, &a[i]);
    }
    if (!e) e = translate(r, 0, a, n, &to_b);
    if (!e && on->source.n) {
        json_t *sides = json_array();
        json_object_set_new(out, "sides", sides);
        e = translate(r, 1, b, n, &to_a);
        if (!e) e = direction_json(r, on, 0, a, &to_b, b, sides);
        if (!e) e = direction_json(r, on, 1, b, &to_a, a, sides);
    }
    if (!e) e = translate(r, 1, (const char *const *)to_b.v, n, &back);
    json_t *health = json_array();
    json_object_set_new(out, "health", health);
    const bool pairs = on->source.n > 0; /* else B reads what A wrote */
    if (!e) e = watch_direction(r, 0, a, &to_b, pairs ? b : NULL, health);
    if (!e) e = watch_direction(r, 1, pairs ? b : (const char *const *)to_b.v, pairs ? &to_a : &back, pairs ? a : NULL, health);
    struct scores s;
    if (!e) e = score_texts((const char *const *)back.v, a, n, &s);
    if (!e) {
        json_object_set_new(out, "round_trip", json_pack("{s:f, s:f, s:f, s:i}", "bleu", s.bleu, "chrf", s.chrf, "exact", s.exact, "rows", n));
        json_t *samples = json_array();
        for (int i = 0; i < n && i < r->cfg->eval_samples; i++) json_array_append_new(samples, sample_json(a[i], to_b.v[i], back.v[i], b[i]));
        json_object_set_new(out, "samples", samples);
    }
    arena_free(&mem);
    texts_free(&to_b);
    texts_free(&to_a);
    texts_free(&back);
    free(a);
    free(b);
    return e;
}

const struct objective objective_macct = {.name = "macct", .sides = 2, .generates = true, .load = load, .step = step, .evaluate = evaluate};
