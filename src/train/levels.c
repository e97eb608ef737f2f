/* What the backward pass of a run recomputes, block by block: from its configuration, or chosen by planning (gradient_checkpointing:
 * auto). The levels themselves are core/grad.h's; whether a number of blocks is too large only a program can tell, so that is refused
 * there.
 *
 * There is one ladder of levels, from the least recomputation to the most: none; the cheap ops (selective); whole blocks; one checkpoint for
 * 2, 3, ... of them, as long as that saves. auto goes down it, and so do the changes that a refused budget names (budget.c).
 *
 * auto takes, in this order and no further than the limit asks: smaller passes, down to the size at which the processor or a card still
 * works well; then rung by rung, of the first k blocks (k by bisection: each is planned, not estimated). The first blocks, because their
 * values wait longest: the last one's are read at once. Called by plan_within() of run.c; refuses nothing itself. */
#define _DEFAULT_SOURCE
#include "train/run.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const level_names[] = {"none", "selective", "block"};

static int every_of(const char *word) { return word[strcspn(word, ":")] ? atoi(word + strcspn(word, ":") + 1) : 1; }

err levels_parse(struct run *r) {
    const struct config *c = r->cfg;
    const char *word = c->gradient_checkpointing;
    struct checkpoints *l = &r->levels;
    *l = (struct checkpoints){.blocks = (int)c->checkpointing_blocks, .offload = c->offload_activations || !strcmp(word, "offload")};
    r->picks_levels = !strcmp(word, "auto");
    if (!strcmp(word, "selective")) l->level = CHECKPOINT_SELECTIVE;
    if (!strncasecmp(word, "block", 5)) l->level = CHECKPOINT_BLOCK, l->every = every_of(word);
    if (!strcmp(word, "offload")) l->level = CHECKPOINT_BLOCK, l->every = 1;
    if (l->level == CHECKPOINT_BLOCK && l->every < 1)
        return fail(E_USAGE, "gradient_checkpointing: %s: one checkpoint for how many blocks? block:1 is block, block:2 one for two", word);
    if (l->blocks && l->level == CHECKPOINT_NONE)
        return fail(E_USAGE,
                    "gradient_checkpointing_blocks is %d, and gradient_checkpointing is %s, which %s: give it a level, or no blocks",
                    l->blocks, word, r->picks_levels ? "chooses their number itself" : "recomputes nothing");
    if (l->blocks && l->level == CHECKPOINT_BLOCK && !strcmp(c->checkpointing_rest, "selective")) l->rest = CHECKPOINT_SELECTIVE;
    if (r->backend->mem->host) l->offload = false;
    return OK;
}

/* --- the ladder ---------------------------------------------------------------------------------------------------- */
enum { SINGLE = CHECKPOINT_BLOCK + 1 }; /* rungs of a level alone; behind them block:2, block:3, ... */

/* n blocks to a checkpoint keep blocks / n + n - 1 inputs at a time: beyond the root of their number it is more again. */
int levels_rungs(int blocks) {
    int n = SINGLE;
    for (int every = 2; (every - 1) * (every - 1) < blocks && every <= blocks; every++) n++;
    return n;
}

static struct checkpoints rung(int i) {
    return i < SINGLE ? (struct checkpoints){.level = (enum checkpoint)i, .every = 1}
                      : (struct checkpoints){.level = CHECKPOINT_BLOCK, .every = i - SINGLE + 2};
}

int levels_at(const struct checkpoints *l) { return (int)l->level + (l->every > 1 ? l->every - 1 : 0); }

const char *levels_word(int i, char word[LEVEL_WORD]) {
    const struct checkpoints l = rung(i);
    snprintf(word, LEVEL_WORD, l.every > 1 ? "%s:%d" : "%s", level_names[l.level], l.every);
    return word;
}

/* --- auto ---------------------------------------------------------------------------------------------------------- */
struct pick {
    struct run *r;
    size_t limit;
    err (*plan)(struct run *r, int64_t pass_tokens, void *ctx);
    void *ctx;
    int64_t pass;
    int blocks; /* of the model */
    bool offload;
    struct checkpoints least;
    size_t least_total;
};

static err attempt(struct pick *p, struct checkpoints l, bool *fits) {
    if (l.blocks == p->blocks) l.blocks = 0;
    if (l.level == CHECKPOINT_BLOCK && !l.blocks) l.rest = CHECKPOINT_NONE;
    l.offload = p->offload;
    p->r->levels = l;
    TRY(p->plan(p->r, p->pass, p->ctx));
    *fits = p->r->foot.total <= p->limit;
    if (!p->least_total || p->r->foot.total < p->least_total) p->least_total = p->r->foot.total, p->least = p->r->levels;
    return OK;
}

/* The fewest blocks at a level that fit, where all of them do. */
static err fewest(struct pick *p, enum checkpoint level, enum checkpoint rest, bool *fits) {
    int none = 0, all = p->blocks;
    TRY(attempt(p, (struct checkpoints){level, rest, all, 1, false}, fits));
    if (!*fits) return OK;
    bool last = true;
    while (all - none > 1) {
        const int k = none + (all - none) / 2;
        TRY(attempt(p, (struct checkpoints){level, rest, k, 1, false}, &last));
        if (last) all = k;
        else none = k;
    }
    return last ? OK : attempt(p, (struct checkpoints){level, rest, all, 1, false}, fits);
}

err levels_pick(struct run *r, size_t limit, err (*plan)(struct run *r, int64_t pass_tokens, void *ctx), void *ctx) {
    const int64_t least = r->backend->mem->host ? 256 : 2048;
    struct pick p = {.r = r,
                     .limit = limit,
                     .plan = plan,
                     .ctx = ctx,
                     .pass = r->cfg->pass_tokens ? r->cfg->pass_tokens : least,
                     .offload = r->levels.offload};
    bool fits = false;
    TRY(attempt(&p, (struct checkpoints){0}, &fits));
    while (!fits && p.pass > least) {
        p.pass = p.pass / 2 > least ? p.pass / 2 : least;
        TRY(attempt(&p, (struct checkpoints){0}, &fits));
    }
    p.blocks = prog_blocks(&r->plans[0].train.p);
    if (fits || !p.blocks) return OK;
    for (int i = 1; i < levels_rungs(p.blocks) && !fits; i++)
        TRY(i < SINGLE ? fewest(&p, rung(i).level, rung(i - 1).level, &fits) : attempt(&p, rung(i), &fits));
    return fits ? OK : attempt(&p, p.least, &fits);
}

/* --- words --------------------------------------------------------------------------------------------------------- */
static const char *const again[] = {"nothing", "norms and activations", "whole blocks"};

char *levels_text(const struct run *r) {
    const struct checkpoints *l = &r->levels;
    const int of = prog_blocks(&r->plans[0].train.p);
    str s = {0};
    str_addf(&s, "recomputes %s", again[l->level]);
    if (l->blocks) str_addf(&s, " in the first %d of %d blocks", l->blocks, of);
    if (l->blocks && l->rest) str_addf(&s, ", %s in the others", again[l->rest]);
    if (l->every > 1) str_addf(&s, ", with one checkpoint for %d blocks", l->every);
    if (l->offload) str_adds(&s, "; what blocks read waits on the host");
    else if (r->cfg->offload_activations || !strcmp(r->cfg->gradient_checkpointing, "offload"))
        str_adds(&s, "; nothing to offload: here activations are on the host");
    if (r->picks_levels) str_adds(&s, " (auto)");
    return s.p;
}

json_t *levels_json(const struct run *r) {
    const struct checkpoints *l = &r->levels;
    char *text = levels_text(r);
    const int of = prog_blocks(&r->plans[0].train.p);
    json_t *j = json_pack("{s:s, s:s, s:i, s:i, s:i, s:b, s:b, s:s}", "level", level_names[l->level], "rest",
                          level_names[l->blocks ? l->rest : l->level], "blocks", l->blocks ? l->blocks : of, "of", of, "every",
                          l->every > 1 ? l->every : 1, "offload", (int)l->offload, "auto", (int)r->picks_levels, "text", text ? text : "");
    free(text);
    return j;
}
