/* A frozen base under a head: no value of the backbone ever changes, so the rows that the head reads (one of each text, or one of each word) are made once, by
 * a program without backward, and the head trains on those rows (gen/head.h, struct features). What a run's head sees is what it would see
 * if every step went through the model, to the bit where both passes take the same kernels (few rows take others than many).
 *
 * The rows are kept on disk, features.cache/KEY.safetensors with one tensor "features" [texts, C], and found there by the next run whose
 * KEY is the same: a hash of the base's tensors, of the type and device that they were made on, and of every token of every text in its
 * order (so of data, tokenizer, template and max_length). A file of another shape than expected is refused, not overwritten.
 *
 * Called by run.c. */
#define XXH_INLINE_ALL
#include "train/run.h"
#include "io/matrix_out.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* --- rows of features' numbers, in place of the texts -------------------------------------------------------------------- */
/* The texts step aside; each row has the numbers of its supervised positions' features: one for a text, of words as many as there are. They
 * go on from `first`. */
static err number_rows(struct rows *rows, struct rows *texts, int64_t first) {
    *texts = *rows;
    *rows = (struct rows){.n = texts->n, .cap = texts->n, .longest = 1, .tokens = texts->supervised, .supervised = texts->supervised, .truncated = texts->truncated};
    const size_t n = (size_t)texts->supervised;
    int32_t *ids = arena_alloc(&rows->mem, n * sizeof *ids + 1), *labels = arena_alloc(&rows->mem, n * sizeof *labels + 1);
    uint8_t *on = arena_alloc(&rows->mem, n + 1);
    rows->r = malloc((size_t)texts->n * sizeof *rows->r + 1);
    if (!ids || !labels || !on || !rows->r) return fail(E_MEMORY, "out of memory");
    memset(on, 1, n);
    for (int i = 0, at = 0; i < texts->n; i++) {
        const struct row *t = &texts->r[i];
        struct row *r = &rows->r[i];
        *r = *t;
        r->ids = &ids[at];
        r->supervised = &on[at];
        r->n = 0;
        if (t->labels) r->labels = &labels[at];
        for (int k = 0; k < t->n; k++) {
            if (!t->supervised[k]) continue;
            labels[at] = t->labels ? t->labels[k] : 0;
            ids[at++] = (int32_t)(first + r->n++);
        }
        first += r->n;
        if (r->n > rows->longest) rows->longest = r->n;
    }
    rows->bytes = n * (2 * sizeof *ids + 1) + (size_t)texts->n * sizeof *rows->r;
    return OK;
}

err features_plan(struct run *r) {
    struct frozen *f = &r->frozen;
    struct rows *held[] = {&r->side[0].rows, &r->eval.rows[0], &r->test.rows[0]};
    if (held[0]->stream) return fail(E_USAGE, "the features of streamed data are not kept: set streaming: false, or features.once: false");
    if (!(f->texts = calloc(3 + (size_t)r->n_guards, sizeof *f->texts))) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < 3 + r->n_guards; i++) {
        struct rows *set = i < 3 ? held[i] : &r->guard[i - 3].rows[0];
        if (f->table.n + set->supervised > INT32_MAX) return fail(E_INPUT, "more than %d texts or words", INT32_MAX);
        TRY(number_rows(set, &f->texts[f->sets++], f->table.n));
        f->table.n += f->texts[i].supervised;
    }
    f->bytes = (size_t)f->table.n * (size_t)r->base[0].model.shape.width * sizeof *f->table.row;
    f->row = pages_take(f->bytes);
    f->table.row = f->row;
    r->side[0].plans->st.head.features = &f->table;
    return f->row ? OK : fail(E_MEMORY, "cannot take %zu bytes for the features of %lld texts", f->bytes, (long long)f->table.n);
}

void features_free(struct frozen *f) {
    for (int i = 0; i < f->sets; i++) rows_free(&f->texts[i]);
    free(f->texts);
    if (f->row) pages_give(f->row, f->bytes);
    *f = (struct frozen){0};
}

/* --- on disk ------------------------------------------------------------------------------------------------------------ */
static void make_key(struct run *r) {
    str all = {0};
    XXH3_state_t *h = XXH3_createState();
    if (h) XXH3_128bits_reset(h);
    for (int i = 0; h && i < r->frozen.sets; i++)
        for (int k = 0; k < r->frozen.texts[i].n; k++) {
            const struct row *t = &r->frozen.texts[i].r[k];
            XXH3_128bits_update(h, &t->n, sizeof t->n);
            XXH3_128bits_update(h, t->ids, (size_t)t->n * sizeof *t->ids);
            if (t->labels) XXH3_128bits_update(h, t->supervised, (size_t)t->n);
        }
    const XXH128_hash_t ids = h ? XXH3_128bits_digest(h) : (XXH128_hash_t){0};
    XXH3_freeState(h);
    str_addf(&all, "%s %s %s %s", base_hash(&r->base[0]), r->backend->name, dtype_info[r->compute].name, r->cfg->quantization);
    for (int i = 0; i < r->cfg->quantization_modules.n; i++) str_addf(&all, ",%s", r->cfg->quantization_modules.v[i]);
    if (!strcmp(r->cfg->quantization, "nf4")) str_addf(&all, " %d", r->cfg->double_quant);
    str_addf(&all, " %016llx%016llx", (unsigned long long)ids.high64, (unsigned long long)ids.low64);
    bytes_hash(all.p ? all.p : "", all.n, r->frozen.key);
    str_free(&all);
}

static err name_file(struct run *r, str *folder, str *path) {
    if (!*r->frozen.key) make_key(r);
    if (*r->cfg->features_cache) str_adds(folder, r->cfg->features_cache);
    else str_addf(folder, "%s/features", r->cfg->output_dir);
    if (folder->p) str_addf(path, "%s/%s.safetensors", folder->p, r->frozen.key);
    return path->p && !path->failed && !folder->failed ? OK : fail(E_MEMORY, "out of memory");
}

static err read_file(struct frozen *f, const char *path, int64_t width) {
    struct tensors ts;
    TRY(tensors_open(path, &ts));
    const struct tensor *t = tensors_find(&ts, "features");
    const bool good = t && t->dt == DT_F32 && t->nd == 2 && t->d[0] == f->table.n && t->d[1] == width && t->bytes == f->bytes;
    err e = good ? OK
                 : fail(E_INPUT, "%s: not the features of %lld texts of width %lld that its name says: remove it", path,
                        (long long)f->table.n, (long long)width);
    if (good) memcpy(f->row, t->data, f->bytes);
    tensors_close(&ts);
    return e;
}

/* --- making them -------------------------------------------------------------------------------------------------------- */
static err make_rows(struct run *r) {
    const struct program *g = &r->plans[0].body;
    struct workbench b = {.threads = r->threads};
    float *to = r->frozen.row;
    err e = memory_for(&b.mem, (struct program *const[]){&r->plans[0].body}, 1);
    if (!e) e = pack_init(&b.pack, (int)g->p.cap[-SYM_N], r->cap.sequences);
    for (int i = 0; i < r->frozen.sets && !e; i++) {
        const struct rows *texts = &r->frozen.texts[i];
        const struct row **list = malloc((size_t)texts->n * sizeof *list + 1);
        for (int k = 0; list && k < texts->n; k++) list[k] = &texts->r[k];
        e = list ? rows_outputs(g, &b, NULL, list, texts->n, g->features, to) : fail(E_MEMORY, "out of memory");
        to += texts->supervised * r->base[0].model.shape.width;
        free(list);
    }
    pack_free(&b.pack);
    memory_free(&b.mem);
    free(b.first);
    return e;
}

err features_start(struct run *r) {
    str folder = {0}, path = {0};
    const double t0 = seconds_now();
    err e = name_file(r, &folder, &path);
    if (!e && path_exists(path.p)) {
        e = read_file(&r->frozen, path.p, r->base[0].model.shape.width);
        r->frozen.found = !e;
    } else if (!e) e = make_rows(r);
    r->frozen.seconds = seconds_now() - t0;
    str_free(&folder);
    str_free(&path);
    return e;
}

err features_keep(struct run *r, const struct run_events *ev) {
    str folder = {0}, path = {0};
    err e = name_file(r, &folder, &path);
    if (!e && !path_exists(path.p)) {
        e = dir_make(folder.p);
        if (!e) e = matrix_write(path.p, "features", r->frozen.row, r->frozen.table.n, r->base[0].model.shape.width);
        if (!e && ev->save) ev->save(ev->ctx, path.p);
    }
    str_free(&folder);
    str_free(&path);
    return e;
}

json_t *features_json(const struct run *r) {
    const struct frozen *f = &r->frozen;
    return json_pack("{s:I, s:s, s:I, s:b, s:f, s:s}", "rows", (json_int_t)f->table.n, "of", r->head.kind == HEAD_TAGS ? "words" : "texts",
                     "bytes", (json_int_t)f->bytes, "found", (int)f->found, "seconds", f->seconds, "key", f->key);
}
