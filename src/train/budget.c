/* A memory limit and what fits it. Every question is answered by planning a run like the one that is open, with settings changed and with the
 * lengths of its data (run_plan, struct plan_ask): programs are laid down and placed again, nothing is estimated. So what is named here is
 * what the run that follows will take.
 *
 * Called where a plan is beyond the limit (run.c), and for `cyclora plan --solve`. */
#include "train/run.h"
#include "base/log.h"
#include <stdio.h>
#include <string.h>

struct found {
    size_t total;
    int64_t parameters;
};

/* The plan with other settings ("lora.r=8"); false: they are not possible. */
static bool probe(const struct run *r, const char *const *set, int n, const struct plan_ask *ask, struct found *f) {
    struct config c = *r->cfg; /* its strings stay the other's; what is set here lies in an arena of its own */
    struct run p;
    c.mem = (arena){0};
    const bool before = log_hush(true);
    err e = OK;
    if (ask->like || r->assumes) for (int i = 0; i < CONFIG_SIDES; i++) c.side[i].data = (struct strs){0};
    for (int i = 0; i < n && !e; i++) e = config_set(&c, set[i]);
    if (!e) {
        e = run_plan(&p, &c, ask);
        *f = (struct found){p.foot.total, p.base[0].model.parameters};
        for (int i = 0; i < p.n_bases && ask->like; i++) p.base[i].tok = NULL; /* they are the other's */
        run_close(&p);
    }
    log_hush(before);
    arena_free(&c.mem);
    return !e;
}

/* A setting that is a whole number; of `base` the number of layers. */
struct dial {
    const char *key; /* NULL: layers */
    int64_t least, most;
    const char *with[2]; /* other settings that it goes with; NULL: none */
    bool own_lengths;    /* rows are as long as the setting lets them be, not as the data's */
};

static bool probe_at(const struct run *r, const struct dial *d, int64_t v, struct found *f) {
    char set[96] = "";
    const char *list[3];
    int n = 0;
    for (int i = 0; i < 2 && d->with[i]; i++) list[n++] = d->with[i];
    if (d->key) snprintf(set, sizeof set, "%s=%lld", d->key, (long long)v), list[n++] = set;
    const struct plan_ask ask = {.unlimited = true, .layers = d->key ? 0 : v, .like = d->own_lengths ? NULL : r};
    return probe(r, list, n, &ask, f);
}

/* The largest value that fits, between least and most; *f is its plan, or that of the least where not even that fits (then least - 1). */
static int64_t turn(const struct run *r, const struct dial *d, struct found *f) {
    struct found at;
    int64_t fits = d->least, not = d->most;
    *f = (struct found){0};
    if (d->most < d->least || !probe_at(r, d, fits, f) || f->total > r->limit) return d->least - 1;
    if (probe_at(r, d, not, &at) && at.total <= r->limit) return *f = at, not ;
    while (not -fits > 1) {
        const int64_t mid = fits + (not -fits) / 2;
        if (probe_at(r, d, mid, &at) && at.total <= r->limit) fits = mid, *f = at;
        else not = mid;
    }
    return fits;
}

/* The first of these that fits somewhere, as text. */
static bool one_dial(const struct run *r, const struct dial *d, int n_dials, char *say, size_t n, struct found *f) {
    for (int i = 0; i < n_dials; i++) {
        const int64_t v = d[i].most < d[i].least ? d[i].least - 1 : turn(r, &d[i], f);
        if (v < d[i].least) continue;
        *say = 0;
        for (int k = 0; k < 2 && d[i].with[k]; k++) {
            const char *equals = strchr(d[i].with[k], '=');
            snprintf(say + strlen(say), n - strlen(say), "%.*s: %s, ", (int)(equals - d[i].with[k]), d[i].with[k], equals + 1);
        }
        snprintf(say + strlen(say), n - strlen(say), "%s: %lld", d[i].key, (long long)v);
        return true;
    }
    return false;
}

/* A prompt and an answer of a token each, or of what is generated, and for a guard's questions what stands around them. */
static int64_t least_length(const struct run *r) {
    int64_t least = 2;
    for (int i = 0; i < r->n_sides && r->generates; i++)
        if (r->side[i].cfg->max_new_tokens + 2 > least) least = r->side[i].cfg->max_new_tokens + 2;
    size_t around = 0;
    for (int i = 0; i < r->n_guards * CONFIG_SIDES; i++) {
        const struct prompt_form *f = &r->guard[i / CONFIG_SIDES].form[i % CONFIG_SIDES];
        if (f->head.n + f->tail.n > around) around = f->head.n + f->tail.n;
    }
    return least + (int64_t)around;
}

/* --- a refusal --------------------------------------------------------------------------------------------------------- */
static const char *rank_key(const struct side_config *c, int64_t *rank) {
    const struct {
        const char *method, *key;
        int64_t rank;
    } ranks[] = {{"lora", "lora.r", c->lora_r}, {"adalora", "adalora.init_r", c->ada_init}, {"vera", "vera.r", c->vera_r}};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
        if (!strcmp(c->method, ranks[i].method)) return *rank = ranks[i].rank, ranks[i].key;
    return NULL;
}

static int blocks_of(const struct run *r) { return prog_blocks(&r->plans[0].train.p); }

/* Is a word ("block") the value of one of these settings that fits? */
static bool word_fits(const struct run *r, const char *key, const char *value, struct found *f) {
    char set[96];
    snprintf(set, sizeof set, "%s=%s", key, value);
    return probe(r, (const char *[]){set}, 1, &(struct plan_ask){.unlimited = true, .like = r}, f) && f->total <= r->limit;
}

/* The first level from this rung on that fits, as its word; NULL: none, and *f is the last one's. */
static const char *level_fits(const struct run *r, int rung, struct found *f, char word[LEVEL_WORD]) {
    for (; rung < levels_rungs(blocks_of(r)); rung++)
        if (word_fits(r, "gradient_checkpointing", levels_word(rung, word), f)) return word;
    return NULL;
}

/* The single changes that a run could make, in the order in which they cost it: time first, then what it learns. */
static bool one_change(const struct run *r, char *say, size_t n, struct found *f) {
    int64_t rank = 0;
    char word[LEVEL_WORD];
    const char *key = rank_key(&r->cfg->side[0], &rank);
    const char *level;
    const struct dial quick[] = {{.key = "pass_tokens", .least = 1, .most = run_pass(r) - 1},
                                 {.key = "generation_batch", .least = 1, .most = r->generates ? r->cap.slots - 1 : 0}},
                      dear[] = {{.key = key, .least = 1, .most = key ? rank - 1 : 0},
                                {.key = "max_length", .least = least_length(r), .most = r->cap.tokens - 1}};
    if (one_dial(r, quick, 2, say, n, f)) return true;
    level = r->picks_levels ? NULL : level_fits(r, levels_at(&r->levels) + 1, f, word); /* auto has been down the ladder */
    if (level) return snprintf(say, n, "gradient_checkpointing: %s", level), true;
    static const char *const types[] = {"fp8", "nf4"}; /* what the device, or this program, does not have is passed over */
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (word_fits(r, "quantization", types[i], f)) return snprintf(say, n, "quantization: %s", types[i]), true;
    return one_dial(r, dear, 2, say, n, f);
}

/* "gradient_checkpointing=block:2" */
static const char *level_set(int rung, char set[40]) {
    char word[LEVEL_WORD];
    snprintf(set, 40, "gradient_checkpointing=%s", levels_word(rung, word));
    return set;
}

/* Recomputing and small passes together, then fewer rows at once too. */
static bool several_changes(const struct run *r, char *say, size_t n, struct found *f) {
    char set[40];
    const int rungs = levels_rungs(blocks_of(r)), slots = r->generates ? r->cap.slots : 0;
    for (int i = 1; i < rungs; i++) {
        const struct dial d = {.key = "pass_tokens", .least = 1, .most = run_pass(r), .with = {level_set(i, set)}};
        if (one_dial(r, &d, 1, say, n, f)) return true;
    }
    for (int i = CHECKPOINT_BLOCK; i < rungs; i++) {
        const struct dial d = {.key = "generation_batch", .least = 1, .most = slots, .with = {level_set(i, set), "pass_tokens=1"}};
        if (one_dial(r, &d, 1, say, n, f)) return true;
    }
    return false;
}

/* What a run takes at its leanest: one row at a time, and the level that leaves least. */
static size_t leanest(const struct run *r) {
    char set[40];
    struct found f;
    size_t least = r->foot.total;
    for (int i = CHECKPOINT_BLOCK; i < levels_rungs(blocks_of(r)); i++) {
        const char *const list[] = {level_set(i, set), "pass_tokens=1", "generation_batch=1"};
        if (probe(r, list, 3, &(struct plan_ask){.unlimited = true, .like = r}, &f) && f.total < least) least = f.total;
    }
    return least;
}

/* The line that most of the memory is on. */
static const char *largest(const struct footprint *f) {
    const struct {
        const char *name;
        size_t bytes;
    } lines[] = {{"weights", f->weights},         {"adapters", f->adapters}, {"gradients", f->gradients}, {"optimizer", f->optimizer},
                 {"activations", f->activations}, {"kv cache", f->cache},    {"scratch", f->scratch}};
    size_t most = 0;
    for (size_t i = 1; i < sizeof lines / sizeof *lines; i++)
        if (lines[i].bytes > lines[most].bytes) most = i;
    return lines[most].name;
}

err budget_refuse(struct run *r) {
    char bound[64], say[160];
    struct found f = {.total = r->foot.total};
    const bool card = !r->backend->mem->host && !r->card && !*r->cfg->memory; /* others may be at work on it */
    snprintf(bound, sizeof bound, card ? "%s is free on the card" : "the limit is %s", size_text(r->limit));
    if (r->freezes) /* its programs are made for the rows of its texts, which a plan like it does not have */
        return fail(E_USAGE, "this run needs %s, %s: use a smaller or quantised base, or features.once: false", size_text(f.total), bound);
    if (one_change(r, say, sizeof say, &f) || several_changes(r, say, sizeof say, &f))
        return fail(E_USAGE, "this run needs %s, %s; it would fit (%s) with %s", size_text(r->foot.total), bound, size_text(f.total), say);
    return fail(E_USAGE,
                "this run needs %s, %s; even at its leanest it needs %s (most of the plan is %s): use a smaller or quantised base, or a "
                "lower max_length",
                size_text(r->foot.total), bound, size_text(leanest(r)), largest(&r->foot));
}

/* --- solving ----------------------------------------------------------------------------------------------------------- */
static json_t *solution(const struct run *r, const char *what, const char *key, json_t *value, const struct found *f) {
    return json_pack("{s:s, s:s, s:o, s:I, s:I, s:I}", "solve", what, "key", key, "value", value, "total", (json_int_t)f->total, "limit",
                     (json_int_t)r->limit, "parameters", (json_int_t)f->parameters);
}

err budget_solve(const struct run *r, const char *what, json_t **out) {
    int64_t rank = 0;
    const char *key = rank_key(&r->cfg->side[0], &rank);
    const struct shape *z = &r->base[0].model.shape;
    const int64_t positions = z->hard_context ? z->context : 1 << 20;
    const struct {
        const char *what;
        struct dial d;
    } dials[] = {{"pass_tokens", {.key = "pass_tokens", .least = 1, .most = 1 << 20}},
                 {"generation_batch", {.key = "generation_batch", .least = 1, .most = r->generates ? run_most_rows(r) : 0}},
                 {"max_length", {.key = "max_length", .least = least_length(r), .most = positions, .own_lengths = true}},
                 {"rank", {.key = key, .least = 1, .most = key ? z->width : 0}},
                 {"base", {.key = NULL, .least = 1, .most = 1024}}};
    struct found f = {0};
    if (r->freezes)
        return fail(E_USAGE, "--solve: a head on rows of a frozen base that are computed once (features.once) has nothing to solve for");
    if (!strcmp(what, "checkpointing")) {
        char word[LEVEL_WORD];
        const char *level = level_fits(r, CHECKPOINT_NONE, &f, word);
        return *out = solution(r, what, "gradient_checkpointing", level ? json_string(level) : json_null(), &f), OK;
    }
    for (size_t i = 0; i < sizeof dials / sizeof *dials; i++) {
        const struct dial *d = &dials[i].d;
        if (strcmp(what, dials[i].what) != 0) continue;
        if (d->most < d->least)
            return fail(E_USAGE, "--solve %s: this run has no such setting (objective %s, method %s)", what, r->cfg->objective,
                        r->cfg->side[0].method);
        const int64_t v = turn(r, d, &f);
        if (!f.total) return fail_in(E_USAGE, "--solve %s", what); /* not even the least can be planned: the error is that plan's */
        *out = solution(r, what, d->key ? d->key : "layers", v < d->least ? json_null() : json_integer(v), &f);
        return OK;
    }
    return fail(E_USAGE, "--solve '%s' is not known (pass_tokens, generation_batch, max_length, rank, checkpointing, base)", what);
}
