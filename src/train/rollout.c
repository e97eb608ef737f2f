/* Which texts a step of a cycle trains on.
 *
 * In a cycle's plainest form a step draws real texts, has the other adapter write a text for each, and trains on all of these pairs.
 * Here is what may lie between, for each direction by itself (A.filter, B.filter ...); nothing of it is on unless a configuration says so.
 *
 *   rollout_refresh   texts for n steps are made in one go, by the adapter as it is at the first of them: fewer, larger batches of
 *                     generation, from weights up to n - 1 steps old. What is not used yet lies in checkpoints, since the weights that
 *                     made it are gone: so a run that resumes inside a window has the same bits.
 *   curriculum        real texts longer than a limit that grows are passed over, and come in a later epoch. Which these are is a
 *                     function of step and cursor: there is nothing to save.
 *   filter            judges each made text by what the generator itself thought of it (the mean log-probability of its tokens), by its
 *                     length against the real text's and by how much of that it copied. threshold drops rows; weight gives them less of
 *                     the loss.
 *   replay            the best texts of earlier steps, by that log-probability; of a real text that is there already the newer one stays.
 *   denoise           a real text of the side that the adapter writes, corrupted, as the prompt, and the text itself as the answer
 *                     (Lample et al. 2018, "Unsupervised Machine Translation Using Monolingual Corpora Only": dropped words, a local
 *                     shuffle; and masks), with tokens for words, since not every language has spaces.
 *   supervised        pairs of warmup_pairs among the rows.
 *
 * replay, denoise and supervised take their shares of a step's rows and the cycle makes the rest. A share that is no whole number of
 * rows comes out right over the steps: step k has floor((k + 1) s n) - floor(k s n) of them, so the pairs' cursor is a function of the
 * step too. Random choices are philox's, by step and direction.
 *
 * A step that has no rows left (all were dropped, or the generator wrote nothing at all) is left out for this direction, counted, and
 * warned of: the adapter, its optimizer and its schedule stay where they were. A single empty text among others is a row like any
 * other, unless there is a filter.
 *
 * Called by the cycles' step, checkpoints, and the plan for its bytes. Knows neither prompts nor how a text goes round (rollout_maker). */
#include "train/run.h"
#include "base/log.h"
#include "base/philox.h"
#include "ops/ops.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RUN = 3 };                        /* tokens that count as copied when they come in a row */
static const double LEAST_WEIGHT = 1e-3; /* of a text that the filter thinks nothing of: f16 still sees it */

/* --- lists ---------------------------------------------------------------------------------------------------------- */
static void rollout_drop(struct rollout *x) {
    ids_free(&x->real);
    ids_free(&x->answer);
    free(x->made.ids);
    *x = (struct rollout){0};
}

void rollouts_clear(struct rollouts *r) {
    for (int i = 0; i < r->n; i++) rollout_drop(&r->v[i]);
    free(r->v);
    *r = (struct rollouts){0};
}

void rollout_free(struct rollout_pool *p) {
    rollouts_clear(&p->window);
    rollouts_clear(&p->replay);
    rollouts_clear(&p->step);
}

/* Room for one more; what x owns is the list's from then on. */
static err rollouts_take(struct rollouts *to, const struct rollout *x) {
    if (to->n == to->cap) {
        const int cap = to->cap * 2 + 8;
        struct rollout *v = realloc(to->v, (size_t)cap * sizeof *v);
        if (!v) return fail(E_MEMORY, "out of memory");
        to->v = v;
        to->cap = cap;
    }
    to->v[to->n++] = *x;
    return OK;
}

static err copy_ids(const struct ids *from, struct ids *to) {
    for (size_t i = 0; i < from->n; i++) TRY(ids_push(to, from->v[i]));
    return OK;
}

static err rollout_copy(const struct rollout *from, struct rollout *x) {
    *x = *from;
    x->real = x->answer = (struct ids){0};
    x->made.ids = malloc(((size_t)from->made.n + 1) * sizeof *x->made.ids);
    err e = x->made.ids ? OK : fail(E_MEMORY, "out of memory");
    if (!e && from->made.n) memcpy(x->made.ids, from->made.ids, (size_t)from->made.n * sizeof *x->made.ids);
    if (!e) e = copy_ids(&from->real, &x->real);
    if (!e) e = copy_ids(&from->answer, &x->answer);
    if (e) rollout_drop(x);
    return e;
}

err rollouts_push(struct rollouts *to, const struct rollout *x) {
    struct rollout copy;
    TRY(rollout_copy(x, &copy));
    err e = rollouts_take(to, &copy);
    if (e) rollout_drop(&copy);
    return e;
}

/* --- the filter ------------------------------------------------------------------------------------------------------- */
double rollout_copy_rate(const struct ids *real, const struct generation *made) {
    const int run = real->n < RUN ? (int)real->n : RUN, all = (int)real->n - run + 1;
    int found = 0;
    for (int i = 0; i < all; i++) {
        bool there = false;
        for (int k = 0; k + run <= made->n && !there; k++) there = !memcmp(real->v + i, made->ids + k, (size_t)run * sizeof *made->ids);
        found += there;
    }
    return run ? (double)found / all : 0;
}

double rollout_length_ratio(const struct ids *real, const struct generation *made) {
    return real->n ? (double)made->n / (double)real->n : 0;
}

float rollout_weight(const struct side_config *c, const struct rollout *x) {
    const double ratio = rollout_length_ratio(&x->real, &x->made), copied = rollout_copy_rate(&x->real, &x->made);
    if (!strcmp(c->filter_kind, "none")) return 1;
    if (ratio == 0) return 0;
    const double unlike = ratio < 1 ? 1 / ratio : ratio, most = c->filter_length_ratio > 0 ? c->filter_length_ratio : HUGE_VAL;
    if (!strcmp(c->filter_kind, "threshold")) {
        const bool unsure = c->filter_logprob < 0 && !(x->logprob >= c->filter_logprob);
        return !unsure && unlike <= most && copied <= c->filter_copy_rate;
    }
    double keeps = exp(x->logprob - c->filter_logprob);
    if (keeps > 1) keeps = 1;
    if (unlike > most) keeps *= most / unlike;
    if (copied > c->filter_copy_rate) keeps *= c->filter_copy_rate / copied;
    return (float)(keeps > LEAST_WEIGHT ? keeps : LEAST_WEIGHT);
}

/* --- shares of a step --------------------------------------------------------------------------------------------------- */
static int64_t cycle_step(const struct run *r) { return r->step - r->warm_steps; }

/* Rows that a share has come to by the beginning of step k. */
static int64_t share_until(double share, int n, int64_t k) { return (int64_t)floor(share * n * (double)k + 1e-9); }

static int share_at(double share, int n, int64_t k) { return (int)(share_until(share, n, k + 1) - share_until(share, n, k)); }

struct mix {
    int made, replayed, denoised, supervised;
};

static struct mix mix_of(const struct run *r, const struct side *to) {
    const struct side_config *c = to->cfg;
    const int n = (int)(c->batch * c->accumulation);
    const int64_t k = cycle_step(r);
    struct mix m = {.replayed = share_at(c->replay_share, n, k),
                    .denoised = share_at(c->denoise_share, n, k),
                    .supervised = share_at(c->supervised_share, n, k)};
    if (m.replayed > to->rollouts.replay.n) m.replayed = to->rollouts.replay.n;
    m.made = n - m.replayed - m.denoised - m.supervised; /* shares that all come due at once may leave none */
    if (m.made < 0) m.made = 0;
    return m;
}

/* --- drawing and making --------------------------------------------------------------------------------------------------- */
/* Longer texts are not drawn yet; 0: all are. */
static int64_t curriculum_limit(const struct run *r, const struct side_config *c) {
    const int64_t k = cycle_step(r);
    return k >= c->curriculum_steps ? 0 : c->curriculum_start + (c->curriculum_end - c->curriculum_start) * k / c->curriculum_steps;
}

/* n real texts with nothing made of them yet. Where a whole epoch has none within the limit, the next one is as good as any. */
static err draw(const struct run *r, struct side *from, int n, struct rollouts *to, struct rollout_stats *stats) {
    const int64_t limit = curriculum_limit(r, from->cfg);
    const bool other = from->answers.n;
    struct ids *text = calloc(2 * (size_t)n, sizeof *text), *answer = text + n; /* what they point to stays until the next draw */
    err e = text ? OK : fail(E_MEMORY, "out of memory");
    for (int have = 0, in_vain = 0; have < n && !e;) {
        const int some = limit ? 1 : n;
        e = data_draw_texts(from, some, text, answer);
        if (!e && limit && (int64_t)text[0].n > limit && in_vain++ < from->order.n) {
            stats->passed_over++;
            continue;
        }
        for (int i = 0; i < some && !e; i++)
            e = rollouts_push(to, &(struct rollout){.real = text[i], .answer = other ? answer[i] : (struct ids){0}, .weight = 1});
        have += some;
        in_vain = 0;
    }
    free(text);
    return e;
}

/* Texts for the steps to come. */
static err ask(struct run *r, struct side *to, int n, struct rollout_stats *stats) {
    rollouts_clear(&to->rollouts.window);
    to->rollouts.used = 0;
    return draw(r, to->next, n, &to->rollouts.window, stats);
}

void rollout_take(struct side *to, struct generation *made) {
    for (int i = 0; i < to->rollouts.window.n; i++) {
        struct rollout *x = &to->rollouts.window.v[i];
        const int tokens = made[i].n + made[i].stopped;
        free(x->made.ids);
        x->made = made[i];
        x->logprob = tokens ? (float)(made[i].logprob / tokens) : 0;
        made[i] = (struct generation){0};
    }
}

static err refill(struct run *r, struct side *to, int n, rollout_maker *make, struct rollout_stats *stats) {
    struct rollouts *w = &to->rollouts.window;
    struct ids *real = calloc((size_t)n, sizeof *real);
    struct generation *made = calloc((size_t)n, sizeof *made);
    err e = real && made ? ask(r, to, n, stats) : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n && !e; i++) real[i] = w->v[i].real;
    if (!e) e = make(r, to, real, n, made, &stats->tokens);
    if (!e) rollout_take(to, made);
    for (int i = 0; i < n && e && made; i++) free(made[i].ids);
    free(made);
    free(real);
    if (e) rollouts_clear(w);
    return e;
}

/* Of a step that makes n texts, when none of the window's are left for its text i. */
static int wanted(const struct run *r, int n, int i) { return (n - i) + (int)(r->cfg->rollout_refresh - 1) * n; }

/* Takes the step's texts from the window and judges them. */
static err take_made(struct run *r, struct side *to, int n, rollout_maker *make, struct rollout_stats *stats) {
    struct rollout_pool *p = &to->rollouts;
    double sums[3] = {0};
    for (int i = 0; i < n; i++) {
        if (p->used == p->window.n) TRY(refill(r, to, wanted(r, n, i), make, stats));
        struct rollout *x = &p->window.v[p->used++], own = *x;
        *x = (struct rollout){0};
        own.weight = rollout_weight(to->cfg, &own);
        const double seen[] = {own.logprob, rollout_copy_rate(&own.real, &own.made), rollout_length_ratio(&own.real, &own.made)};
        for (int k = 0; k < 3; k++) sums[k] += seen[k];
        stats->empty += !own.made.n;
        stats->truncated += !own.made.stopped;
        stats->dropped += !(own.weight > 0);
        err e = own.weight > 0 ? rollouts_take(&p->step, &own) : (rollout_drop(&own), OK);
        if (e) return rollout_drop(&own), e;
    }
    stats->texts = n;
    stats->logprob = sums[0] / n;
    stats->copy_rate = sums[1] / n;
    stats->length_ratio = sums[2] / n;
    return OK;
}

/* --- replay --------------------------------------------------------------------------------------------------------------- */
/* k of the buffer's texts, each at most once. */
static err take_replayed(const struct run *r, struct side *to, int k, uint64_t key) {
    struct rollout_pool *p = &to->rollouts;
    int *turn = malloc(((size_t)p->replay.n + 1) * sizeof *turn);
    if (!turn) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < p->replay.n; i++) turn[i] = i;
    err e = OK;
    for (int i = 0; i < k && !e; i++) {
        const struct philox u =
            philox(philox_key((uint64_t)r->cfg->seed, PURPOSE_REPLAY), (uint32_t)key, (uint32_t)(key >> 32), (uint32_t)i, 0);
        const int at = i + (int)(u.v[0] % (uint32_t)(p->replay.n - i)), which = turn[at];
        const struct rollout *x = &p->replay.v[which];
        turn[at] = turn[i];
        e = rollouts_push(&p->step, x);
        if (!e) p->step.v[p->step.n - 1].weight = rollout_weight(to->cfg, x);
    }
    free(turn);
    return e;
}

static bool same_text(const struct ids *a, const struct ids *b) { return a->n == b->n && !memcmp(a->v, b->v, a->n * sizeof *a->v); }

/* The step's own texts are there for the steps to come: those that ended, and are better than what they replace. */
static err remember(struct rollouts *replay, int64_t size, const struct rollout *x) {
    int at = 0;
    if (!size || !x->made.n || !x->made.stopped) return OK;
    while (at < replay->n && !same_text(&replay->v[at].real, &x->real)) at++;
    if (at == replay->n && replay->n < size) return rollouts_push(replay, x);
    if (at == replay->n) {
        at = 0;
        for (int i = 1; i < replay->n; i++)
            if (replay->v[i].logprob < replay->v[at].logprob) at = i;
        if (!(x->logprob > replay->v[at].logprob)) return OK;
    }
    struct rollout copy;
    TRY(rollout_copy(x, &copy));
    rollout_drop(&replay->v[at]);
    replay->v[at] = copy;
    return OK;
}

/* --- denoising -------------------------------------------------------------------------------------------------------------- */
struct place {
    double at;
    int32_t id;
};

static int by_place(const void *a, const void *b) {
    const double x = ((const struct place *)a)->at, y = ((const struct place *)b)->at;
    return (x > y) - (x < y);
}

/* Token i goes where i + U[0, shuffle + 1) sorts it, which is at most `shuffle` places away. */
int rollout_corrupt(const struct side_config *c, int32_t mask, const uint64_t key[2], uint32_t row, const struct ids *from, int32_t *to) {
    const int n = (int)from->n;
    struct place *p = malloc(((size_t)n + 1) * sizeof *p);
    int left = 0, made = 0;
    for (int i = 0; i < n && p; i++) {
        const struct philox u = philox(philox_key(key[0], PURPOSE_NOISE), (uint32_t)key[1], (uint32_t)(key[1] >> 32), row, (uint32_t)i);
        if (philox_unit(u.v[0]) < c->denoise_drop && (left || i + 1 < n)) continue;
        p[left].at = left + philox_unit(u.v[1]) * (double)(c->denoise_shuffle + 1);
        p[left++].id = philox_unit(u.v[2]) < c->denoise_mask ? mask : from->v[i];
    }
    if (p) qsort(p, (size_t)left, sizeof *p, by_place);
    for (; made < left; made++) to[made] = p[made].id;
    free(p);
    return made;
}

static err take_denoised(struct run *r, struct side *to, int n, uint64_t key, struct rollout_stats *stats) {
    struct rollouts *step = &to->rollouts.step;
    const int first = step->n, most = (int)to->from->cfg->max_new_tokens; /* as many as a made text may have: the plan has room for these */
    const int32_t mask = tokenizer_id(to->base->tok, to->cfg->denoise_token);
    const uint64_t keys[] = {(uint64_t)r->cfg->seed, key};
    TRY(draw(r, to->next, n, step, stats));
    for (int i = first; i < step->n; i++) {
        struct rollout *x = &step->v[i];
        const struct ids *text = rollout_answer(x);
        int32_t *ids = malloc((text->n + 1) * sizeof *ids);
        if (!ids) return fail(E_MEMORY, "out of memory");
        free(x->made.ids);
        const int left = rollout_corrupt(to->cfg, mask, keys, (uint32_t)(i - first), text, ids);
        x->corrupted = true;
        x->made = (struct generation){.ids = ids, .n = left < most ? left : most, .stopped = true};
    }
    return OK;
}

/* --- a step ----------------------------------------------------------------------------------------------------------------- */
/* Of a generator that wrote nothing at all nothing can be learnt. */
static void drop_silence(struct rollout_pool *p, struct rollout_stats *stats) {
    if (!stats->texts || stats->empty < stats->texts) return;
    rollouts_clear(&p->step);
    stats->dropped = stats->texts;
}

err rollout_ask(struct run *r, struct side *to, struct rollout_stats *stats, int *n) {
    const int made = mix_of(r, to).made;
    *n = made && to->rollouts.used == to->rollouts.window.n ? wanted(r, made, 0) : 0;
    return *n ? ask(r, to, *n, stats) : OK;
}

err rollout_draw(struct run *r, struct side *to, uint64_t key, rollout_maker *make, struct rollout_stats *stats) {
    struct rollout_pool *p = &to->rollouts;
    const struct mix mix = mix_of(r, to);
    *stats = (struct rollout_stats){.logprob = NAN, .copy_rate = NAN, .length_ratio = NAN};
    rollouts_clear(&p->step);
    if (mix.made) TRY(take_made(r, to, mix.made, make, stats));
    drop_silence(p, stats);
    const int kept = p->step.n;
    if (mix.replayed) TRY(take_replayed(r, to, mix.replayed, key));
    for (int i = 0; i < kept; i++) TRY(remember(&p->replay, to->cfg->replay_size, &p->step.v[i]));
    if (mix.denoised) TRY(take_denoised(r, to, mix.denoised, key, stats));
    stats->replayed = mix.replayed;
    stats->denoised = mix.denoised;
    stats->supervised = mix.supervised;
    stats->made = p->step.v;
    return OK;
}

err rollout_list(struct run *r, struct side *to, const struct rows *made, struct rollout_stats *stats, const struct row ***list, int *n) {
    const struct side_config *c = to->cfg;
    const struct rows *pairs = &r->warm.rows[to - r->side];
    const int most = made->n + stats->supervised;
    *list = calloc((size_t)most + 1, sizeof **list);
    *n = 0;
    if (!*list) return fail(E_MEMORY, "out of memory");
    for (; *n < made->n; ++*n) (*list)[*n] = &made->r[*n];
    int64_t turn = share_until(c->supervised_share, (int)(c->batch * c->accumulation), cycle_step(r));
    for (; *n < most; ++*n, turn++) {
        TRY(order_seek(&r->warm_order, turn / pairs->n, turn % pairs->n));
        (*list)[*n] = &pairs->r[order_next(&r->warm_order)];
    }
    stats->idle = !*n;
    if (*n) return OK;
    log_warn("step %lld: adapter %s has nothing to learn from, its step is left out: %s %d texts made for it %s", (long long)r->step + 1,
             to->name, stats->empty == stats->texts ? "all" : "of the", stats->texts,
             stats->empty == stats->texts ? "are empty" : "the filter kept none");
    return OK;
}

/* --- before a run ------------------------------------------------------------------------------------------------------------- */
err rollout_check(const struct run *r, const struct side *to) {
    const struct side_config *c = to->cfg;
    const struct side *from = to->next;
    if (c->supervised_share > 0 && !r->warm.rows[to - r->side].n)
        return fail(E_USAGE, "'%s.supervised.share': %s has no pair for side %s", to->name, r->cfg->warmup_pairs, to->name);
    if (c->denoise_share > 0 && c->denoise_mask > 0 && tokenizer_id(to->base->tok, c->denoise_token) < 0)
        return fail(E_USAGE, "'%s.denoise.mask_token': the tokenizer has no token '%s': name one that it has, or set denoise.mask to 0",
                    to->name, c->denoise_token);
    if (from->cfg->curriculum_steps && !from->source.streams && from->n_texts) {
        size_t shortest = SIZE_MAX;
        for (int i = 0; i < from->n_texts; i++)
            if (from->texts[i].n < shortest) shortest = from->texts[i].n;
        if (shortest > (size_t)from->cfg->curriculum_start)
            log_warn("%s: curriculum.start is %lld, but the shortest text of side %s has %zu tokens: until the limit reaches it, texts "
                     "come as they are",
                     from->source.path, (long long)from->cfg->curriculum_start, from->name, shortest);
    }
    return OK;
}

size_t rollout_bytes(const struct run *r, const struct side *to) {
    const struct side_config *c = to->cfg;
    if (!to->next) return 0; /* a plan without data */
    const size_t text =
        ((size_t)to->next->longest + (size_t)to->next->answers.longest + (size_t)to->from->cfg->max_new_tokens) * sizeof(int32_t) +
        sizeof(struct rollout);
    const size_t ahead = (size_t)(r->cfg->rollout_refresh - 1) * (size_t)(c->batch * c->accumulation);
    return (ahead + (size_t)c->replay_size) * text;
}
