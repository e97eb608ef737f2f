/* See prune.h. */
#include "export/prune.h"
#include "export/place.h"
#include "gen/importance.h"
#include "gen/passes.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct job {
    const struct prune_request *r;
    struct model m;
    arena mem;
    struct ids *known, *held; /* parts of the texts: what is measured with, what is held out; their tokens are the texts' own */
    int n_known, n_held;
    int64_t known_tokens, held_tokens;
    struct importances worth;
    bool by_perplexity;
    double *block; /* [runs]: what the run of blocks from here on is worth */
    bool *gone;    /* [layers] */
    struct cut cut;
    json_t *report;
};

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

/* --- what is asked --------------------------------------------------------------------------------------------------- */
static err number_in(const char **p, int64_t layers, int64_t *n) {
    char *end;
    if (!isdigit((unsigned char)**p)) return fail(E_USAGE, "blocks to leave out are numbers and ranges such as 3,7-9, not '%s'", *p);
    *n = strtoll(*p, &end, 10);
    *p = end;
    return *n < layers ? OK : fail(E_USAGE, "there is no block %lld: there are %lld, from 0 on", (long long)*n, (long long)layers);
}

static err read_drop(struct job *j) {
    const char *p = j->r->drop;
    int64_t from, to;
    do {
        TRY(number_in(&p, j->m.shape.layers, &from));
        to = from;
        if (*p == '-') {
            p++;
            TRY(number_in(&p, j->m.shape.layers, &to));
        }
        if (to < from) return fail(E_USAGE, "blocks %lld-%lld: a range goes upwards", (long long)from, (long long)to);
        for (int64_t l = from; l <= to; l++) j->gone[l] = true;
    } while (*p == ',' && *++p);
    return *p ? fail(E_USAGE, "blocks to leave out are numbers and ranges such as 3,7-9, not '%s'", j->r->drop) : OK;
}

static err fewer(const char *what, int64_t wanted, int64_t have) {
    return !wanted || wanted < have
               ? OK
               : fail(E_USAGE, "%lld %s are to stay, and there are %lld: fewer have to", (long long)wanted, what, (long long)have);
}

/* Rows of a quantised type are whole blocks. */
static err whole_blocks(const char *what, dtype type, int64_t wanted) {
    const int64_t block = dtype_info[type].block;
    return wanted % block
               ? fail(E_USAGE, "%s %lld with --type %s: its rows are whole blocks of %lld numbers, so it has to be a multiple of that",
                      what, (long long)wanted, dtype_info[type].name, (long long)block)
               : OK;
}

static err check_by(const struct job *j) {
    const char *by = j->r->by;
    const bool widths = j->r->ffn || j->r->heads || j->r->width;
    if (!by || !strcmp(by, "block-influence") || !strcmp(by, "perplexity")) return OK;
    if (strcmp(by, "activation"))
        return fail(E_USAGE, "--by %s: there are block-influence and perplexity for blocks, activation for widths", by);
    return widths && !j->r->layers ? OK
                                   : fail(E_USAGE, "--by activation is how widths are chosen; blocks go by block-influence or perplexity");
}

static err check_sizes(const struct job *j) {
    const struct prune_request *r = j->r;
    const struct shape *z = &j->m.shape;
    const int64_t group = z->heads / z->kv_heads;
    if (!r->layers && !r->drop && !r->ffn && !r->heads && !r->width)
        return fail(E_USAGE, "nothing is to be left out: --layers, --drop-layers, --ffn, --heads or --hidden says what");
    if (r->layers && r->drop) return fail(E_USAGE, "--layers says how many blocks stay, --drop-layers which ones go: one of them");
    if (r->contiguous && !r->layers) return fail(E_USAGE, "--contiguous says which blocks --layers leaves out");
    TRY(check_by(j));
    TRY(fewer("blocks", r->layers, z->layers));
    TRY(fewer("channels of a feed-forward", r->ffn, z->ffn));
    TRY(fewer("heads", r->heads, z->heads));
    TRY(fewer("columns", r->width, z->width));
    if (r->heads % group)
        return fail(E_USAGE, "--heads %lld: %lld query heads read one key/value head and go with it, so a multiple of %lld can stay",
                    (long long)r->heads, (long long)group, (long long)group);
    if (r->width && z->embed_scale > 0)
        return fail(E_UNSUPPORTED,
                    "%s: a %s model multiplies its embeddings by the root of the width, so that fewer columns are another model; "
                    "--ffn, --heads and --layers are not",
                    j->m.path, model_arch(&j->m));
    if (!r->out.type || !dtype_quantised(r->out.type)) return OK;
    TRY(whole_blocks("--ffn", r->out.type, r->ffn));
    TRY(whole_blocks("--hidden", r->out.type, r->width));
    return whole_blocks("--heads, numbers of all heads:", r->out.type, r->heads * z->head_dim);
}

/* --- texts ----------------------------------------------------------------------------------------------------------- */
static struct ids part_of(const struct ids *t, int64_t from, int64_t to) {
    return (struct ids){.v = t->v + from, .n = (size_t)(to - from)};
}

/* The first tokens are for measuring, those behind them held out. */
static err split_texts(struct job *j) {
    const struct prune_request *r = j->r;
    int64_t all = 0, at = 0;
    if (!r->n_texts)
        return r->drop && !r->ffn && !r->heads && !r->width
                   ? OK
                   : fail(E_USAGE, "what can go is measured on texts: --text or --data names them");
    for (int i = 0; i < r->n_texts; i++) all += (int64_t)r->texts[i].n;
    if (all > r->tokens + r->tokens / 4) all = r->tokens + r->tokens / 4;
    j->held_tokens = all / 5, j->known_tokens = all - j->held_tokens;
    const int row = pass_tokens(&j->m);
    if (j->held_tokens < PASS_FEWEST || j->known_tokens < row)
        return fail(E_USAGE, "%lld tokens of text are too few: %d are a row to measure with, and a quarter as many are held out",
                    (long long)all, row);
    j->known = arena_alloc(&j->mem, (size_t)r->n_texts * sizeof *j->known);
    j->held = arena_alloc(&j->mem, (size_t)r->n_texts * sizeof *j->held);
    if (!j->known || !j->held) return out_of_memory();
    for (int i = 0; i < r->n_texts && at < all; i++) {
        const int64_t n = (int64_t)r->texts[i].n, left = j->known_tokens - at, known = left < 0 ? 0 : left < n ? left : n;
        if (known) j->known[j->n_known++] = part_of(&r->texts[i], 0, known);
        if (known < n) j->held[j->n_held++] = part_of(&r->texts[i], known, n);
        at += n;
    }
    return OK;
}

/* --- measuring ------------------------------------------------------------------------------------------------------- */
static int64_t span_of(const struct job *j) { return j->r->contiguous ? j->m.shape.layers - j->r->layers : 1; }

/* The perplexity of the model without a run of blocks. */
static err without(const struct job *j, int64_t first, int64_t span, double *perplexity) {
    struct cut c = cut_nothing(&j->m);
    struct model less;
    double nll;
    int32_t *layer = malloc((size_t)c.layers * sizeof *layer);
    if (!layer) return out_of_memory();
    c.layer = layer, c.layers = 0;
    for (int64_t l = 0; l < j->m.shape.layers; l++)
        if (l < first || l >= first + span) layer[c.layers++] = (int32_t)l;
    err e = model_cut(&j->m, &c, &less);
    if (!e) {
        e = nll_measure(&less, j->known, j->n_known, j->known_tokens, j->r->out.progress.stop, &nll);
        if (!e) *perplexity = exp(nll);
        model_close(&less);
    }
    free(layer);
    return e;
}

static err measure(struct job *j) {
    const struct prune_request *r = j->r;
    const bool depth = r->layers > 0;
    if (!j->n_known) return OK;
    TRY(importance_measure(&j->m, span_of(j), j->known, j->n_known, j->known_tokens, r->out.progress.stop, &j->worth));
    j->by_perplexity = depth && r->by && !strcmp(r->by, "perplexity");
    j->block = j->worth.block;
    if (!j->by_perplexity) return OK;
    if (!(j->block = arena_alloc(&j->mem, (size_t)j->worth.runs * sizeof *j->block))) return out_of_memory();
    for (int64_t l = 0; l < j->worth.runs; l++) TRY(without(j, l, span_of(j), &j->block[l]));
    return OK;
}

/* --- choosing -------------------------------------------------------------------------------------------------------- */
struct ranked {
    double worth;
    int32_t at;
};

static int by_worth(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    return x->worth != y->worth ? (x->worth < y->worth ? 1 : -1) : (x->at > y->at) - (x->at < y->at);
}

static int by_number(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The `keep` of n that are worth most, ascending; the part of the sum that is theirs. */
static err choose(const double *worth, int64_t n, int64_t keep, int32_t *to, double *share) {
    double all = 0, kept = 0;
    struct ranked *list = malloc((size_t)n * sizeof *list);
    if (!list) return out_of_memory();
    for (int64_t i = 0; i < n; i++) list[i] = (struct ranked){worth[i], (int32_t)i}, all += worth[i];
    qsort(list, (size_t)n, sizeof *list, by_worth);
    for (int64_t i = 0; i < keep; i++) to[i] = list[i].at, kept += list[i].worth;
    qsort(to, (size_t)keep, sizeof *to, by_number);
    *share = all > 0 ? kept / all : 1;
    free(list);
    return OK;
}

static err choose_blocks(struct job *j) {
    const int64_t layers = j->m.shape.layers, span = span_of(j);
    if (j->r->drop) return read_drop(j);
    if (!j->r->layers) return OK;
    for (int64_t k = 0; k < layers - j->r->layers; k += span) { /* a run is all that goes, else one block after the other */
        int64_t least = -1;
        for (int64_t l = 0; l < j->worth.runs; l++)
            if (!j->gone[l] && (least < 0 || j->block[l] < j->block[least])) least = l;
        for (int64_t l = least; l < least + span; l++) j->gone[l] = true;
    }
    return OK;
}

static err take_blocks(struct job *j) {
    int32_t *layer = arena_alloc(&j->mem, (size_t)j->m.shape.layers * sizeof *layer);
    if (!layer) return out_of_memory();
    j->cut.layers = 0;
    for (int64_t l = 0; l < j->m.shape.layers; l++)
        if (!j->gone[l]) layer[j->cut.layers++] = (int32_t)l;
    j->cut.layer = layer;
    return j->cut.layers ? OK : fail(E_USAGE, "all %lld blocks would go: nothing would be left", (long long)j->m.shape.layers);
}

/* Of each block `keep` of n units; n_lists 1: of all at once. What was chosen, as JSON, under `name`. */
static err take_units(struct job *j, const char *name, const double *worth, int64_t n_lists, int64_t n, int64_t keep, const int32_t **out) {
    int32_t *list = arena_alloc(&j->mem, (size_t)(n_lists * keep) * sizeof *list);
    double sum = 0, least = 2;
    int64_t where = 0, counted = 0;
    if (!list) return out_of_memory();
    for (int64_t l = 0; l < n_lists; l++) {
        double share;
        TRY(choose(worth + l * n, n, keep, list + l * keep, &share));
        if (n_lists > 1 && j->gone[l]) continue;
        sum += share, counted++;
        if (share < least) least = share, where = l;
    }
    *out = list;
    json_object_set_new(j->report, name,
                        json_pack("{s:I, s:I, s:f, s:f, s:I}", "before", (json_int_t)n, "after", (json_int_t)keep, "share",
                                  sum / (double)counted, "least_share", least, "least_block", (json_int_t)where));
    return OK;
}

static err choose_widths(struct job *j) {
    const struct prune_request *r = j->r;
    const struct shape *z = &j->m.shape;
    if (r->ffn) j->cut.ffn = r->ffn;
    if (r->heads) j->cut.kv_heads = r->heads / (z->heads / z->kv_heads);
    if (r->width) j->cut.width = r->width;
    if (r->ffn) TRY(take_units(j, "ffn", j->worth.channel, z->layers, z->ffn, r->ffn, &j->cut.channel));
    if (r->heads) TRY(take_units(j, "kv_heads", j->worth.head, z->layers, z->kv_heads, j->cut.kv_heads, &j->cut.head));
    if (r->width) TRY(take_units(j, "hidden", j->worth.column, 1, z->width, r->width, &j->cut.column));
    return OK;
}

/* --- saying ---------------------------------------------------------------------------------------------------------- */
static void measured_json(struct job *j, size_t bytes) {
    json_t *o = j->report, *blocks = json_array();
    const char *by = j->by_perplexity ? "perplexity" : "influence";
    json_object_update_new(o,
                           json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "model", j->m.path, "architecture", model_arch(&j->m),
                                     "blocks", (json_int_t)j->m.shape.layers, "blocks_after", (json_int_t)j->cut.layers, "tokens",
                                     (json_int_t)j->worth.tokens, "rows", (json_int_t)j->worth.rows, "held_out", (json_int_t)j->held_tokens,
                                     "span", (json_int_t)j->worth.span, "memory", (json_int_t)bytes));
    for (int64_t l = 0; l < j->m.shape.layers; l++) {
        json_t *b = json_pack("{s:I, s:b}", "block", (json_int_t)l, "dropped", (int)j->gone[l]);
        if (l < j->worth.runs) json_object_set_new(b, by, json_real(j->block[l]));
        json_array_append_new(blocks, b);
    }
    json_object_set_new(o, "by_block", blocks);
    if (j->r->on_measured) j->r->on_measured(j->r->out.progress.ctx, o);
}

/* --- all of it ------------------------------------------------------------------------------------------------------- */
/* Before anything is measured: is there a place for it? */
static err check_place(const struct export_request *r) {
    struct place p;
    TRY(export_known(r->to));
    TRY(place_not_itself(r->out, r->base));
    TRY(place_open(&p, r->out, !export_is_file(r->to), r->force, 0));
    place_abandon(&p);
    return OK;
}

static err plan(struct job *j) {
    TRY(check_place(&j->r->out));
    TRY(model_open(j->r->out.base, j->r->out.base_config, &j->m));
    TRY(cut_known(&j->m));
    TRY(check_sizes(j));
    j->cut = cut_nothing(&j->m);
    if (!(j->gone = arena_alloc(&j->mem, (size_t)j->m.shape.layers * sizeof *j->gone))) return out_of_memory();
    return split_texts(j);
}

static err run_job(struct job *j) {
    size_t bytes = 0;
    TRY(plan(j));
    if (j->n_known) TRY(importance_bytes(&j->m, span_of(j), &bytes));
    TRY(model_fill(&j->m));
    TRY(measure(j));
    TRY(choose_blocks(j));
    TRY(take_blocks(j));
    TRY(choose_widths(j));
    measured_json(j, bytes);
    importance_free(&j->worth);
    model_close(&j->m);
    return OK;
}

err prune(const struct prune_request *r, json_t **report) {
    struct job j = {.r = r, .report = json_object()};
    json_t *output = NULL;
    *report = json_object();
    if (!*report || !j.report) return json_decref(j.report), out_of_memory();
    err e = run_job(&j);
    if (!e) {
        struct export_request out = r->out;
        out.cut = &j.cut, out.texts = j.held, out.n_texts = j.n_held, out.most_tokens = j.held_tokens;
        e = export_one(&out, &output);
    }
    json_object_set_new(*report, "measured", j.report);
    if (output) json_object_set_new(*report, "output", output);
    importance_free(&j.worth);
    model_close(&j.m);
    arena_free(&j.mem);
    return e;
}
