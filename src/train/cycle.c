/* Cycle-consistency training: macct, whose adapters share one frozen base, and dmcct, whose sides have a model each. Unpaired text on all sides.
 *
 * A side has texts and an adapter, which maps its texts to the next side's: A to B, B back to A, or in a ring A to B, B to C, C to A. What a
 * text is, is kept by going round: in A's part of a step real text of B goes through the adapters of B, C, ... until it is text of A (no
 * dropout, no gradient), and adapter A learns to rebuild the real B-text from that; the other parts mirror it, each with the adapters before it
 * already updated. With two sides that is one generation a part, with n it is n - 1. Several cycles (`cycles`: [A-B, C-D]) take turns on the
 * same base and know nothing of each other.
 *
 * Where the tokenizers of two sides are one (by the hash of vocabulary and merges; macct has one base and so one), generated ids become the
 * next prompt as they are. Elsewhere, and where two prompts lead a text in differently (another space or newline before {text}), they pass
 * through text, and so does what a processor (judge.c) gives. Of real text each side that needs it in ids of its own has it made from the file, not from the other's ids.
 *
 * A few pairs may come first (warmup_pairs): all directions train on them by plain supervision, so that the first generations mean something. */
#define _POSIX_C_SOURCE 200809L
#include "train/run.h"
#include "base/log.h"
#include "data/score.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- the cycles -------------------------------------------------------------------------------------------------- */
static int index_of(const struct run *r, const struct side *s) { return (int)(s - r->side); }

static int length_of(const struct side *s) {
    int n = 1;
    for (const struct side *w = s->next; w != s; w = w->next) n++;
    return n;
}

/* Is side i the first of its cycle? */
static bool begins(const struct run *r, int i) {
    for (const struct side *w = r->side[i].next; w != &r->side[i]; w = w->next)
        if (w < &r->side[i]) return false;
    return true;
}

/* Can ids that were written for side s be its prompt? Found, and said once. */
static void compare_ids(struct run *r) {
    bool led = false;
    for (int i = 0; i < r->n_sides; i++) {
        struct side *s = &r->side[i], *w = s->from;
        const bool same = base_same_ids(w->base, s->base), lead = !strcmp(w->form.lead, s->form.lead) && w->form.turn == s->form.turn;
        s->by_text = !same || !lead || *s->cfg->processor_command;
        if (w->base != s->base && w < s)
            log_info(
                same ? "sides %s and %s: one vocabulary and the same merges, so ids are handed over as they are"
                     : "sides %s and %s: two tokenizers (their vocabularies or merges differ), so what is generated passes through text",
                w->name, s->name);
        led |= same && !lead;
    }
    if (led)
        log_warn("two prompts lead {text} in with different spaces, or one is a chat's turn: generated ids pass through text, which is "
                 "slower and may not be exact");
}

/* --- data ------------------------------------------------------------------------------------------------------- */
/* The longest text of side s that leaves room within max_length: beside its prompt and what its adapter writes, and, as an answer of the
 * adapter before, beside what that one's prompt was written by. */
static int64_t text_limit(const struct side *s) {
    const struct side_config *own = s->cfg, *before = s->from->cfg;
    const int64_t asked = own->max_length - own->max_new_tokens, answered = before->max_length - s->from->from->cfg->max_new_tokens;
    return (asked < answered ? asked : answered) - (int64_t)s->form.head.n - (int64_t)s->form.tail.n - 1;
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
    int64_t limit = text_limit(s);
    if (limit < 1)
        return fail(E_USAGE, "max_length %lld leaves no room for a text beside the prompt of side %s and max_new_tokens %lld",
                    (long long)s->cfg->max_length, s->name, (long long)s->cfg->max_new_tokens);
    TRY(rows_texts(s->base->tok, &s->form, &s->source, (int)limit, &s->rows));
    if (!base_same_ids(s->base, s->from->base)) TRY(rows_texts(s->from->base->tok, &s->from->form, &s->source, (int)limit, &s->answers));
    TRY(list_texts(s));
    s->longest = s->rows.longest;
    s->truncated = s->rows.truncated;
    if (s->truncated)
        log_warn("%s: %d of %d texts were cut to %lld tokens (max_length, less the prompt and max_new_tokens)", s->source.path,
                 s->truncated, s->n_texts, (long long)limit);
    return data_order(r, s, (uint32_t)index_of(r, s));
}

/* Whose source has the records of side i's text and the next one's; swap: in the other order. Two sides that go back and forth have one source;
 * side 0's is pairs.source, another's pairs.more[]. */
static int source_of(const struct run *r, int i, bool *swap) {
    const struct side *s = &r->side[i];
    *swap = s->next->next == s && s->next < s;
    return *swap ? index_of(r, s->next) : i;
}

static err load_pairs(struct run *r, struct pairs *p, const char *path, struct strs fields, int64_t limit) {
    if (fields.n != r->n_sides)
        return fail(E_USAGE, "%s: fields must name %d JSON fields, one for each side, and names %d", path, r->n_sides, fields.n);
    for (int i = 0; i < r->n_sides; i++) {
        struct side *s = &r->side[i];
        bool swap;
        const int of = source_of(r, i, &swap);
        struct source *from = of ? &p->more[of] : &p->source;
        if (!swap) TRY(source_open(path, WANT_PAIR, fields.v[i], fields.v[index_of(r, s->next)], from));
        if (limit > 0 && limit < from->n) from->n = (int)limit;
        if (p != &r->warm) TRY(judge_readable(s, from, swap));
        TRY(rows_pairs(s->base->tok, &s->form, from, swap, (int)s->cfg->max_length, &p->rows[i]));
        TRY(base_split_rows(s->base, &p->rows[i]));
        if (p->rows[i].longest > r->cap.tokens) r->cap.tokens = p->rows[i].longest;
    }
    return OK;
}

/* The most ids of a synthetic text of side s that the plan's rows have room for. */
static int made_limit(const struct side *s) {
    const int new = (int)s->from->cfg->max_new_tokens;
    return new > s->longest ? new : s->longest;
}

/* Tokens that an encoder-decoder's rows have beside a prompt and an answer: the prompt's EOS, and (start) the decoder's first. */
static int beside(const struct side *s, bool start) { return s->base->model.family->seq2seq ? 1 + start : 0; }

static void widen(struct run *r, const struct side *s) {
    const int form = (int)(s->form.head.n + s->form.tail.n), made = made_limit(s), new = (int)s->from->cfg->max_new_tokens,
              answer = s->next->answers.n ? s->next->answers.longest : s->next->longest;
    const int row = form + (s->by_text ? made : new) + answer + 1 + beside(s, true), /* ids that are handed over are at most `new` */
        prompt = form + made + beside(s, false), length = prompt + (int)s->cfg->max_new_tokens;
    if (row > r->cap.tokens) r->cap.tokens = row;
    if (prompt > r->cap.tokens) r->cap.tokens = prompt; /* one tokenizer's prompt may be longer than the other's row */
    if (length > r->cap.length) r->cap.length = length;
}

static err load(struct run *r) {
    for (int i = 0; i < r->n_sides; i++) {
        struct side *s = &r->side[i];
        err e = (s->cfg->chat_prompt ? prompt_form_chat : prompt_form_parse)(s->base->tok, s->cfg->prompt, &s->form);
        if (e) return fail_in(e, "%s.prompt", r->side[i].name);
    }
    compare_ids(r);
    for (int i = 0; i < r->n_sides; i++) TRY(load_texts(r, &r->side[i]));
    for (int i = 0; i < r->n_sides; i++) widen(r, &r->side[i]);
    if (*r->cfg->warmup_pairs) TRY(load_pairs(r, &r->warm, r->cfg->warmup_pairs, r->cfg->warmup_fields, r->cfg->warmup_limit));
    for (int i = 0; i < r->n_sides; i++) TRY(rollout_check(r, &r->side[i]));
    if (*r->cfg->eval_data) TRY(load_pairs(r, &r->eval, r->cfg->eval_data, r->cfg->eval_fields, r->cfg->eval_limit));
    if (*r->cfg->test_data) TRY(load_pairs(r, &r->test, r->cfg->test_data, r->cfg->eval_fields, r->cfg->test_limit));
    for (int d = 0; d < r->n_sides; d++) {
        const int new = (int)r->side[d].cfg->max_new_tokens;
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

/* Of n, as far as they were made; they can be made again. */
static void drop_generations(struct generation *g, int n) {
    for (int i = 0; g && i < n; i++) free(g[i].ids), g[i] = (struct generation){0};
}

/* Text that was made for side `to`, in a base's ids, becomes ids for its prompt: as they are, or through text. Text can come back as
 * more ids than were generated (the prompt's lead, bytes that are no character): what the plan has no room for is cut. */
static err hand_over(const struct side *to, const struct base *ids_of, const struct generation *g, struct ids *out) {
    if (!to->by_text) {
        for (int i = 0; i < g->n; i++) TRY(ids_push(out, g->ids[i]));
        return OK;
    }
    TRY(ids_reread(to, ids_of, g->ids, (size_t)g->n, out));
    if (out->n > (size_t)made_limit(to)) out->n = (size_t)made_limit(to);
    return OK;
}

/* A text of side s as its adapter reads it; an encoder-decoder's prompt ends with an EOS. */
static err wrap(const struct side *s, const struct ids *text, struct ids *prompt) {
    TRY(prompt_form_wrap(&s->form, text->v, text->n, prompt));
    return beside(s, false) ? ids_push(prompt, s->base->eos) : OK;
}

static err wrap_made(const struct side *s, const struct base *ids_of, const struct generation *made, struct ids *prompt) {
    struct ids synth = {0};
    err e = hand_over(s, ids_of, made, &synth);
    if (!e) e = wrap(s, &synth, prompt);
    ids_free(&synth);
    return e;
}

/* The row of a prompt and a real text as its answer. The decoder of an encoder-decoder begins with a token that nobody predicts. */
static err add_row(const struct side *s, struct ids *prompt, const struct ids *real, struct rows *out) {
    struct ids answer = {0};
    const int source = beside(s, false) ? (int)prompt->n : 0;
    err e = source ? ids_push(prompt, s->base->model.shape.start) : OK;
    for (size_t k = 0; k < real->n && !e; k++) e = ids_push(&answer, real->v[k]);
    if (!e) e = ids_push(&answer, s->base->eos);
    if (!e) e = rows_add(out, prompt->v, prompt->n, answer.v, answer.n);
    if (!e) out->r[out->n - 1].source = source;
    ids_free(&answer);
    return e;
}

/* Rows that adapter `s` trains on: its side's prompt around each synthetic text, then the real text and EOS. */
static err cycle_rows(const struct side *s, const struct rollouts *from, struct rows *out) {
    for (int i = 0; i < from->n; i++) {
        const struct rollout *x = &from->v[i];
        struct ids prompt = {0};
        err e = wrap_made(s, x->corrupted ? s->base : s->from->base, &x->made, &prompt);
        if (!e) e = add_row(s, &prompt, rollout_answer(x), out);
        if (!e) out->r[out->n - 1].weight = x->weight;
        ids_free(&prompt);
        if (e) return e;
    }
    return OK;
}

/* Keys of the sampler: each generation of a step has its own. With two sides 2 step, and 2 step + 1 in B's part. */
static uint64_t sampler_key(const struct run *r, const struct side *s) {
    int before = 0, all = 0;
    for (const struct side *w = r->side; w < r->side + r->n_sides; w++) {
        if (w == s) before = all;
        all += length_of(w) - 1;
    }
    return (uint64_t)(all * r->step + before);
}

/* Real texts of the side after s go round until they are texts of s: made[n]. */
static err go_round(struct run *r, const struct side *s, const struct ids *real, int n, struct generation *made, int64_t *tokens) {
    uint64_t key = sampler_key(r, s);
    struct ids *prompt = calloc((size_t)n, sizeof *prompt);
    err e = prompt ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n && !e; i++) e = wrap(s->next, &real[i], &prompt[i]);
    for (const struct side *w = s->next; w != s && !e; w = w->next) {
        for (int i = 0; i < n && !e && w != s->next; i++) {
            ids_free(&prompt[i]);
            prompt[i] = (struct ids){0};
            e = wrap_made(w, w->from->base, &made[i], &prompt[i]);
        }
        drop_generations(made, n);
        if (!e) e = generate_texts(r, index_of(r, w), prompt, n, (int)w->cfg->max_new_tokens, w->cfg->temperature, key++, made, NULL);
        for (int i = 0; i < n && !e; i++) *tokens += made[i].n + made[i].stopped;
        if (!e) e = process_made(w, prompt, n, made);
    }
    free_ids(prompt, n);
    return e;
}

/* One part of a step: the other adapters write this side's text from the next one's, this adapter learns to undo it. */
static err half(struct run *r, int which, struct step_info *info) {
    struct side *s = &r->side[which];
    struct rollout_stats *stats = &info->rollouts[which];
    const uint64_t key = (uint64_t)(r->n_sides * r->step + which);
    const struct row **list = NULL;
    struct rows rows = {0};
    int n = 0;
    double t0 = seconds_now(), t1;
    err e = rollout_draw(r, s, key, go_round, stats);
    info->generate_s += (t1 = seconds_now()) - t0;
    info->generated += stats->tokens;
    if (!e) e = cycle_rows(s, &s->rollouts.step, &rows);
    if (!e) e = rollout_list(r, s, &rows, stats, &list, &n);
    if (!e && n) e = learner_step(&s->learner, &r->wb, list, n, (uint64_t)r->cfg->seed, key, &info->side[which]);
    info->train_s += seconds_now() - t1;
    rows_free(&rows);
    free(list);
    return e;
}

/* A supervised step on pairs, all directions on the same ones. */
static err warm_step(struct run *r, struct step_info *info) {
    int64_t per = r->side[0].cfg->batch * r->side[0].cfg->accumulation, pairs = r->warm.source.n, steps = (pairs + per - 1) / per;
    int64_t epoch = r->step / steps, from = r->step % steps * per, to = from + per < pairs ? from + per : pairs;
    TRY(order_seek(&r->warm_order, epoch, from));
    int n = (int)(to - from);
    int *which = calloc((size_t)n, sizeof *which);
    const struct row **list = calloc((size_t)n, sizeof *list);
    err e = list && which ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n && !e; i++) which[i] = order_next(&r->warm_order);
    double t0 = seconds_now();
    for (int d = 0; d < r->n_sides && !e; d++) {
        for (int i = 0; i < n; i++) list[i] = &r->warm.rows[d].r[which[i]];
        e = learner_step(&r->side[d].learner, &r->wb, list, n, (uint64_t)r->cfg->seed, (uint64_t)(r->n_sides * r->step + d),
                         &info->side[d]);
    }
    info->train_s = seconds_now() - t0;
    free(which);
    free(list);
    return e;
}

/* The texts that all sides' parts want, in one batch, each written by the adapter before (joint.c; cycles of two). */
static err write_together(struct run *r, struct rollout_stats *stats) {
    struct crowd writes = joint_crowd(r);
    int n = 0, asked[CONFIG_SIDES];
    for (int d = 0; d < r->n_sides; d++) {
        struct side *to = r->side[d].next;
        TRY(rollout_ask(r, to, &stats[index_of(r, to)], &asked[d]));
        writes.end[d] = n += asked[d];
    }
    if (!n) return OK;
    struct ids *prompt = calloc((size_t)n, sizeof *prompt);
    struct generation *made = calloc((size_t)n, sizeof *made);
    err e = prompt && made ? OK : fail(E_MEMORY, "out of memory");
    for (int d = 0, at = 0; d < r->n_sides; d++)
        for (int i = 0; i < asked[d] && !e; i++) e = wrap(&r->side[d], &r->side[d].next->rollouts.window.v[i].real, &prompt[at++]);
    if (!e) e = generate_texts_of_all(r, prompt, &writes, sampler_key(r, &r->side[0]), made);
    for (int d = 0, at = 0; d < r->n_sides && !e; at = writes.end[d++]) {
        struct side *to = r->side[d].next;
        for (int i = at; i < writes.end[d]; i++) stats[index_of(r, to)].tokens += made[i].n + made[i].stopped;
        e = process_made(&r->side[d], prompt + at, asked[d], made + at);
        if (asked[d] && !e) rollout_take(to, made + at);
    }
    drop_generations(made, n);
    free(made);
    free_ids(prompt, n);
    return e;
}

/* All parts of a step at once, with the adapters as the step finds them. */
static err step_joint(struct run *r, struct step_info *info) {
    struct crowd learns = joint_crowd(r);
    struct rows rows[CONFIG_SIDES] = {{.n = 0}};
    const struct row **own[CONFIG_SIDES] = {NULL}, **all = NULL;
    int n = 0;
    double t0 = seconds_now(), t1;
    struct rollout_stats asked[CONFIG_SIDES] = {{.texts = 0}};
    err e = write_together(r, asked);
    for (int d = 0; d < r->n_sides && !e; d++) {
        struct rollout_stats *stats = &info->rollouts[d];
        int rows_of = 0;
        e = rollout_draw(r, &r->side[d], (uint64_t)(r->n_sides * r->step + d), go_round, stats);
        stats->tokens += asked[d].tokens, stats->passed_over += asked[d].passed_over;
        if (!e) e = cycle_rows(&r->side[d], &r->side[d].rollouts.step, &rows[d]);
        if (!e) e = rollout_list(r, &r->side[d], &rows[d], stats, &own[d], &rows_of);
        info->generated += stats->tokens;
        learns.end[d] = n += rows_of;
    }
    info->generate_s = (t1 = seconds_now()) - t0;
    if (!e && n && !(all = calloc((size_t)n, sizeof *all))) e = fail(E_MEMORY, "out of memory");
    for (int d = 0, i = 0; d < r->n_sides && !e && n; d++)
        for (int first = i; i < learns.end[d]; i++) all[i] = own[d][i - first];
    if (!e && n) e = joint_step(r, &learns, all, (uint64_t)(r->n_sides * r->step), info->side);
    info->train_s = seconds_now() - t1;
    for (int d = 0; d < r->n_sides; d++) rows_free(&rows[d]), free(own[d]);
    free(all);
    return e;
}

static err step(struct run *r, struct step_info *info) {
    info->warmup = r->step < r->warm_steps;
    if (info->warmup) return warm_step(r, info);
    if (run_joins(r)) return step_joint(r, info);
    for (int i = 0; i < r->n_sides; i++) TRY(half(r, i, info));
    return OK;
}

/* --- evaluation ------------------------------------------------------------------------------------------------- */
struct texts { /* as text, and as the ids that were read and written */
    char **v;
    int n;
    struct ids *prompt;
    struct generation *made;
};

static void texts_free(struct texts *t) {
    for (int i = 0; t->v && i < t->n; i++) free(t->v[i]);
    free(t->v);
    if (t->made) drop_generations(t->made, t->n);
    free(t->made);
    free_ids(t->prompt, t->n);
    *t = (struct texts){0};
}

/* Greedy texts of a side's adapter for texts of its own side. */
static err translate(struct run *r, const struct side *s, const char *const *in, int n, struct texts *out) {
    struct ids *prompt = out->prompt = calloc((size_t)n, sizeof *prompt);
    struct generation *made = out->made = calloc((size_t)n, sizeof *made);
    out->v = calloc((size_t)n, sizeof *out->v);
    out->n = n;
    err e = prompt && made && out->v ? OK : fail(E_MEMORY, "out of memory");
    const struct prompt_form *f = &s->form;
    const int most = r->cap.length - (int)s->cfg->max_new_tokens,
              room = (most < r->cap.tokens ? most : r->cap.tokens) - (int)(f->head.n + f->tail.n) - beside(s, false);
    for (int i = 0; i < n && !e; i++) {
        struct ids text = {0};
        e = prompt_form_text(s->base->tok, f, in[i], &text);
        if (text.n > (size_t)room) text.n = (size_t)room;
        if (!e) e = wrap(s, &text, &prompt[i]);
        ids_free(&text);
    }
    if (!e) e = generate_texts(r, index_of(r, s), prompt, n, (int)s->cfg->max_new_tokens, 0, 0, made, NULL);
    for (int i = 0; i < n && !e; i++) e = base_text_trimmed(s->base, made[i].ids, (size_t)made[i].n, &out->v[i]);
    if (!e) e = process_texts(s->next, out->v, in, n);
    return e;
}

/* The health of what a side's adapter wrote for texts `in`; wanted: references, or NULL. */
static err watch(struct run *r, const struct side *s, const char *const *in, const struct texts *out, const char *const *wanted, json_t *to) {
    char direction[16];
    json_t *list = json_object_get(to, "health");
    if (!list) json_object_set_new(to, "health", list = json_array());
    snprintf(direction, sizeof direction, "%s→%s", s->name, s->next->name);
    int changed = -1;
    if (base_same_ids(s->base, s->next->base)) TRY(ids_changed(s->next, s->base, out->made, out->n, &changed));
    const struct wrote w = {.writer = index_of(r, s),
                            .side = index_of(r, s->next),
                            .direction = direction,
                            .in = {in, out->n},
                            .out = {(const char *const *)out->v, out->n},
                            .wanted = {wanted, wanted ? out->n : 0},
                            .prompt = out->prompt,
                            .made = out->made,
                            .changed = changed};
    return health_direction(r, &w, list);
}

static err direction_json(struct run *r, const struct pairs *on, const struct side *side, const char *const *in, const struct texts *hyp,
                          const char *const *ref, json_t *sides) {
    char direction[16];
    const struct rows *rows = &on->rows[index_of(r, side)];
    const struct row **list = calloc((size_t)rows->n, sizeof *list);
    if (!list) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < rows->n; i++) list[i] = &rows->r[i];
    double sums[4];
    err e = rows_loss(&side->plans->score, &r->wb, side->learner.w, list, rows->n, sums);
    free(list);
    if (e) return e;
    double loss = sums[0] / sums[1];
    snprintf(direction, sizeof direction, "%s→%s", side->name, side->next->name);
    json_t *one = json_pack("{s:s, s:s, s:f, s:f}", "name", side->name, "direction", direction, "loss", loss, "perplexity", exp(loss));
    json_array_append_new(sides, one);
    return judge_direction(r, side, &(struct command_rows){in, (const char *const *)hyp->v, ref, direction, hyp->n}, one);
}

/* What an evaluation has of each side: its texts, and what its adapter makes of them. */
struct judged {
    arena mem;
    int n[CONFIG_SIDES];
    const char **text[CONFIG_SIDES];
    struct texts made[CONFIG_SIDES];
};

/* With pairs all sides' texts; without, some of the own text of those that a cycle begins with. */
static err take_texts(struct run *r, const struct pairs *on, struct judged *j) {
    err e = OK;
    for (int i = 0; i < r->n_sides && !e; i++) {
        struct side *s = &r->side[i];
        bool swap;
        const int of = source_of(r, i, &swap);
        const struct source *from = of ? &on->more[of] : &on->source;
        if (!on->source.n && !begins(r, i)) continue;
        j->n[i] = on->source.n ? on->source.n : s->n_texts < 32 ? s->n_texts : 32;
        j->text[i] = arena_alloc(&j->mem, (size_t)j->n[i] * sizeof *j->text[i]);
        if (!j->text[i]) return fail(E_MEMORY, "out of memory");
        if (!on->source.n) e = data_texts(s, j->n[i], &j->mem, j->text[i]);
        for (int k = 0; k < on->source.n; k++) j->text[i][k] = swap ? from->r[k].completion : from->r[k].prompt;
    }
    return e;
}

/* "A→B→C→A" */
static void name_way(const struct side *s, str *out) {
    str_addf(out, "%s→", s->name);
    for (const struct side *w = s->next; w != s; w = w->next) str_addf(out, "%s→", w->name);
    str_adds(out, s->name);
}

/* "a" is a text of the first side, "b" what its adapter makes of it, "via" what further ones do, "back" the last one's; "names": of these
 * sides, where they are not A and B. */
static void add_samples(const struct run *r, const struct side *s, const struct judged *j, const struct texts *way, int hops,
                        json_t *samples) {
    const int i = index_of(r, s);
    for (int k = 0; k < j->n[i] && k < r->cfg->eval_samples; k++) {
        const char *const *want = j->text[index_of(r, s->next)];
        json_t *one = json_pack("{s:s, s:s, s:s, s:s*}", "a", j->text[i][k], "b", j->made[i].v[k], "back", way[hops - 1].v[k], "reference",
                                want ? want[k] : NULL);
        json_t *via = json_array(), *names = json_pack("[s]", s->name);
        for (int h = 0; h + 1 < hops; h++) json_array_append_new(via, json_string(way[h].v[k]));
        for (const struct side *w = s->next; w != s; w = w->next) json_array_append_new(names, json_string(w->name));
        if (hops > 1) json_object_set(one, "via", via);
        if (i || hops > 1 || index_of(r, s->next) != 1) json_object_set(one, "names", names);
        json_decref(via);
        json_decref(names);
        json_array_append_new(samples, one);
    }
}

/* Texts of a cycle's first side, all the way round. */
static err round_trip(struct run *r, struct side *s, struct judged *j, json_t *out) {
    struct texts way[CONFIG_SIDES] = {{0}};
    const int i = index_of(r, s);
    const struct texts *last = &j->made[i];
    int hops = 0;
    const bool watched = last->v != NULL; /* on pairs, which say more than what adapters wrote for each other */
    err e = watched ? OK : translate(r, s, j->text[i], j->n[i], &j->made[i]);
    if (!e && !watched) e = watch(r, s, j->text[i], last, NULL, out);
    for (const struct side *w = s->next; w != s && !e; w = w->next) {
        e = translate(r, w, (const char *const *)last->v, last->n, &way[hops]);
        if (!e && !watched) e = watch(r, w, (const char *const *)last->v, &way[hops], NULL, out);
        last = &way[hops++];
    }
    struct scores got;
    if (!e) e = score_texts((const char *const *)last->v, j->text[i], j->n[i], &got);
    if (!e) {
        str name = {0};
        name_way(s, &name);
        json_t *trip = json_pack("{s:s, s:f, s:f, s:f, s:i}", "way", name.p ? name.p : "", "bleu", got.bleu, "chrf", got.chrf, "exact",
                                 got.exact, "rows", j->n[i]);
        str_free(&name);
        json_t *samples = json_object_get(out, "samples");
        if (length_of(s) < r->n_sides) { /* there are more cycles */
            if (!i) json_object_set_new(out, "round_trips", json_array());
            json_array_append(json_object_get(out, "round_trips"), trip);
        }
        if (!i) json_object_set(out, "round_trip", trip);
        json_decref(trip);
        if (!samples) json_object_set_new(out, "samples", samples = json_array());
        add_samples(r, s, j, way, hops, samples);
    }
    for (int h = 0; h < hops; h++) texts_free(&way[h]);
    return e;
}

/* With pairs: all directions against references, and the round trips. Without: the round trips of some of the first sides' own text. */
static err evaluate(struct run *r, const struct pairs *on, json_t *out) {
    struct judged j = {0};
    err e = take_texts(r, on, &j);
    json_t *sides = on->source.n ? json_array() : NULL;
    if (sides) json_object_set_new(out, "sides", sides);
    for (int i = 0; i < r->n_sides && !e && sides; i++) e = translate(r, &r->side[i], j.text[i], j.n[i], &j.made[i]);
    for (int i = 0; i < r->n_sides && !e && sides; i++) {
        const struct side *s = &r->side[i];
        const char *const *wanted = j.text[index_of(r, s->next)];
        e = direction_json(r, on, s, j.text[i], &j.made[i], wanted, sides);
        if (!e) e = watch(r, s, j.text[i], &j.made[i], wanted, out);
    }
    for (int i = 0; i < r->n_sides && !e; i++)
        if (begins(r, i)) e = round_trip(r, &r->side[i], &j, out);
    for (int i = 0; i < r->n_sides; i++) texts_free(&j.made[i]);
    arena_free(&j.mem);
    return e;
}

const struct objective objective_macct = {.name = "macct", .sides = 2, .generates = true, .load = load, .step = step, .evaluate = evaluate};
const struct objective objective_dmcct = {
    .name = "dmcct", .sides = 2, .generates = true, .own_bases = true, .load = load, .step = step, .evaluate = evaluate};
