/* The models of a run, with their tokenizers: which there are, opened; their hashes; what they take of memory; and how an encoder-decoder
 * reads a row.
 *
 * A run has one base that all its adapters share, or, where the objective says so (dmcct), one for each side: then a file that two sides name
 * is opened twice, mapped twice and counted twice, since each side's copy is trained apart. Nothing is assumed of two tokenizers: their ids
 * mean the same where the hashes of vocabulary and merges are equal (base_same_ids).
 *
 * Refused: a model without weights where a run is to start, a tokenizer with more ids than the model, one without an end of text. Called by
 * run.c; what the bases are trained as is quantise.c's and context.c's. */
#include "train/run.h"
#include "base/log.h"
#include "io/chat.h"
#include "model/derived.h"
#include <stdlib.h>
#include <string.h>

/* --- opening ------------------------------------------------------------------------------------------------------- */
static err open_model(const struct run *r, struct base *b, int64_t layers) {
    const char *path = b->cfg->model, *dt;
    const bool bare = model_has_no_weights(path);
    uint64_t seed;
    if (bare && !r->plans_only && !path_is_dir(path))
        return fail(E_USAGE, "%s has sizes and no weights: it can be planned (cyclora plan), not run", path);
    if (layers && config_random_model(path, &seed, &dt))
        path = arena_printf(&r->cfg->mem, "%s:%s", b->cfg->model_config, *dt ? dt : "bf16");
    else if (layers && !bare && !path_is_dir(path))
        return fail(E_USAGE, "%s: other numbers of layers are tried on a config.json: name one, or a folder with one, as `model`", path);
    if (!path) return fail(E_MEMORY, "out of memory");
    TRY((bare && r->plans_only) || layers ? model_open_sizes(path, layers, &b->model) : model_open(path, b->cfg->model_config, &b->model));
    model_warn(&b->model);
    if (b->model.random && !r->plans_only)
        log_warn("%s: random weights are for planning and benchmarks; nothing useful can be trained on them", path);
    return OK;
}

/* A plan without data needs no tokenizer where there is none. */
static bool no_tokenizer(const struct run *r, const struct base *b) {
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizer.json", b->cfg->model);
    return r->assumes && !*b->cfg->tokenizer && !b->model.gguf && !path_exists(path);
}

static err read_tokenizer(struct base *b) {
    if (*b->cfg->tokenizer) return tokenizer_from_json(b->cfg->tokenizer, &b->tok);
    if (b->model.random || (b->model.sizes_only && !path_is_dir(b->cfg->model)))
        return fail(E_USAGE, "%s has no tokenizer of its own: name one as `tokenizer`, the path of a tokenizer.json", b->cfg->model);
    if (b->model.gguf) return tokenizer_from_gguf(&b->model.files, &b->tok);
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizer.json", b->cfg->model);
    return tokenizer_from_json(path, &b->tok);
}

static err open_tokenizer(const struct run *r, struct base *b, const struct base *like) {
    if (like) return b->tok = like->tok, b->eos = like->eos, OK; /* lent: budget.c */
    if (no_tokenizer(r, b)) return b->eos = -1, OK;
    TRY(read_tokenizer(b));
    if (!tokenizer_fit(b->tok, b->model.shape.vocab))
        return fail(E_INPUT, "the tokenizer has %d ids, the model %s only %lld: they do not belong together", tokenizer_vocab(b->tok),
                    b->cfg->model, (long long)b->model.shape.vocab);
    b->eos = tokenizer_eos(b->tok);
    if (b->eos < 0 && !r->objective->heading)
        return fail(E_INPUT, "%s: the tokenizer names no end-of-text token, so answers could never end",
                    *b->cfg->tokenizer ? b->cfg->tokenizer : b->cfg->model);
    tokenizer_hash(b->tok, b->tok_hash);
    if (!*b->cfg->chat_template) return OK;
    str source = {0};
    err e = chat_template_load(b->cfg->chat_template, &source);
    if (!e) e = tokenizer_set_template(b->tok, source.p ? source.p : "", b->cfg->chat_template);
    str_free(&source);
    return e;
}

/* A teacher's is as its files have it. */
err base_open(const struct run *r, struct base *b, const struct plan_ask *ask, const struct base *like) {
    TRY(open_model(r, b, ask->layers));
    const bool teaches = b == r->teacher.base;
    TRY(teaches ? teacher_reads(b) : quantise_open(r, b));
    b->model.mlp_chunk = r->cfg->mlp_chunk;
    if (!teaches) TRY(base_stretch(r, b));
    return open_tokenizer(r, b, like);
}

err bases_open(struct run *r, const struct plan_ask *ask) {
    r->n_bases = r->objective->own_bases ? r->n_sides : 1;
    for (int i = 0; i < r->n_sides; i++) r->side[i].base = &r->base[r->objective->own_bases ? i : 0];
    for (int i = 0; i < r->n_bases; i++) {
        struct base *b = &r->base[i];
        b->cfg = r->side[i].cfg;
        b->name = r->objective->own_bases ? r->side[i].name : "";
        err e = base_open(r, b, ask, ask->like ? &ask->like->base[i] : NULL);
        if (e) return *b->name ? fail_in(e, "side %s", b->name) : e;
    }
    return teacher_open(r, ask);
}

int bases_trained(const struct run *r) { return r->n_bases - (r->teacher.base && !r->teacher.shared); }

void base_close(struct base *b) {
    tokenizer_free(b->tok);
    model_close(&b->model);
    free(b->quantised);
    *b = (struct base){0};
}

/* --- what they are -------------------------------------------------------------------------------------------------- */
const char *base_hash(struct base *b) {
    if (!*b->hash) model_hash(&b->model, b->hash);
    return b->hash;
}

bool base_same_ids(const struct base *a, const struct base *b) { return a == b || !strcmp(a->tok_hash, b->tok_hash); }

bool base_replaces(const struct run *r, const struct base *b, const struct weight *w) {
    if (b == r->teacher.base) return false;
    for (int i = 0; i < r->n_plans; i++)
        if (r->plans[i].base == b && !param_copies(&r->plans[i].st.params, w->data)) return false;
    return w->nd == 2;
}

bool base_forgets(const struct run *r, const struct base *b) {
    bool forgets = false;
    for (int i = 0; i < b->model.n && !forgets; i++) forgets = b->model.w[i].source || base_replaces(r, b, &b->model.w[i]);
    return forgets;
}

void bases_forget(const struct run *r) {
    for (int k = 0; k < r->n_bases; k++) {
        const struct base *b = &r->base[k];
        const struct tensors *files = &b->model.files;
        for (int i = 0; i < b->model.n; i++) b->model.w[i].replaced = base_replaces(r, b, &b->model.w[i]);
        for (int i = 0; i < files->n_maps && base_forgets(r, b); i++) tensors_forget(files, files->maps[i].p, files->maps[i].n);
    }
}

/* As the files have them; where a part of that is not needed, because a copy was made of it, as they are computed with: vectors are f32 in memory. What
 * lies in memory stays there, also where a copy of it is trained. Besides, what the files have beside tensors, where they are not let go of. */
static size_t host_bytes(const struct run *r, const struct base *b, size_t *held) {
    const struct model *m = &b->model;
    size_t bytes = 0;
    bool whole = !m->files.copied;
    for (int i = 0; i < m->n; i++) {
        const bool replaced = base_replaces(r, b, &m->w[i]);
        bytes += replaced ? 0 : weight_bytes(&m->w[i]);
        whole &= !replaced;
    }
    *held = m->random ? m->reserved_bytes : m->files.copied;
    if (whole && !m->random) bytes = m->bytes;
    return (bytes > *held ? bytes : *held) + (base_forgets(r, b) ? 0 : tensors_besides(&m->files));
}

static err weigh(const struct run *r, const struct residents *base, struct residents *out) {
    const struct program *list[2 * RUN_PROGRAMS];
    int n = run_programs(r, list, PHASES);
    n += run_programs(r, list + n, PHASE_LOAD);
    for (int i = 0; i < n; i++)
        if (list[i]->base == base) TRY(plan_weigh(&list[i]->plan, out));
    return OK;
}

/* What the run's programs read. */
static err card_bytes(const struct run *r, const struct base *b, size_t *bytes) {
    const struct residents *base = b->model.residents;
    struct residents beside = {0}, own = {.beside = &beside};
    err e = base->beside ? weigh(r, base->beside, &beside) : OK;
    if (!e) e = weigh(r, base, &own);
    *bytes = own.bytes - b->model.derived->bytes;
    residents_free(&beside), residents_free(&own);
    return e;
}

err base_bytes(const struct run *r, const struct base *b, size_t *bytes, size_t *held) {
    if (r->backend->mem->host) return *bytes = host_bytes(r, b, held), OK;
    TRY(card_bytes(r, b, bytes));
    *held = *bytes;
    return OK;
}

/* --- rows of an encoder-decoder ------------------------------------------------------------------------------------- */
static err split_row(const struct base *b, struct rows *all, struct row *row) {
    int first = 0, n = row->n;
    while (first < n && !row->supervised[first]) first++;
    for (int i = first; i < n; i++)
        if (!row->supervised[i])
            return fail(E_UNSUPPORTED, "%s:%d: answers between prompts; an encoder-decoder (%s) reads one prompt and writes one answer",
                        row->path, row->line, model_arch(&b->model));
    if (!first) return fail(E_INPUT, "%s:%d: an encoder-decoder (%s) needs a prompt", row->path, row->line, model_arch(&b->model));
    const bool ends = row->ids[first - 1] == b->eos;
    int32_t *ids = arena_alloc(&all->mem, (size_t)(n + 2) * sizeof *ids);
    uint8_t *supervised = arena_alloc(&all->mem, (size_t)n + 2);
    if (!ids || !supervised) return fail(E_MEMORY, "out of memory");
    memcpy(ids, row->ids, (size_t)first * sizeof *ids);
    if (!ends) ids[first] = b->eos;
    row->source = first + !ends;
    ids[row->source] = b->model.shape.start;
    memcpy(ids + row->source + 1, row->ids + first, (size_t)(n - first) * sizeof *ids);
    row->n = row->source + 1 + n - first;
    memset(supervised + row->source + 1, 1, (size_t)(n - first));
    row->ids = ids;
    row->supervised = supervised;
    if (row->n > all->longest) all->longest = row->n;
    return OK;
}

err base_split_rows(const struct base *b, struct rows *all) {
    if (!b->model.family->seq2seq) return OK;
    if (all->stream)
        return fail(E_UNSUPPORTED, "%s is an encoder-decoder (%s), whose rows are not streamed yet: set streaming: false", b->cfg->model,
                    model_arch(&b->model));
    for (int i = 0; i < all->n; i++) TRY(split_row(b, all, &all->r[i]));
    return OK;
}
