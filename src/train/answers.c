/* What a teacher says of a run's rows, kept on disk: distill.cache/KEY.safetensors with one tensor, "best" [positions, 2, k] in f32,
 * which has of each supervised position of all rows (training, then eval, then test, in the order of the files) its best k ids and,
 * behind them, their log-probabilities at temperature 1.
 *
 * KEY is a hash of the teacher's tensors, of its adapter's file, of the type and device that it computed with, of k, of the student's
 * number of ids, and of every token of every row with its flag (so of data, tokenizer, template and max_length). Temperature, loss and
 * everything else of the student may change from run to run. A file of another shape than its name says is refused, not overwritten.
 * It is mapped, and pages that a pass has read are given back, so it takes disk and no memory.
 *
 * Rows have to be in memory (streaming is refused), since each is found by its number. Called by teacher.c. */
#define XXH_INLINE_ALL
#include "train/run.h"
#include "base/log.h"
#include "io/tensors_out.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* --- which positions --------------------------------------------------------------------------------------------------- */
/* Places of a row at which a supervised token is to come next, as pack_row() weighs them. */
static int places_of(const struct row *r) {
    int n = 0;
    for (int i = 1; i < r->n; i++) n += r->supervised[i] != 0;
    return n;
}

static err count_places(struct run *r) {
    struct answers *a = &r->teacher.answers;
    const struct rows *all[] = {&r->side[0].rows, &r->eval.rows[0], &r->test.rows[0]};
    if (all[0]->stream)
        return fail(E_USAGE,
                    "'distill.cache' keeps what the teacher says of rows that are in memory: set streaming: false, or leave it out");
    for (int i = 0; i < 3; i++) {
        a->set[i] = (struct answer_set){all[i], malloc((size_t)all[i]->n * sizeof *a->set[i].first + 1)};
        if (!a->set[i].first) return fail(E_MEMORY, "out of memory");
        for (int k = 0; k < all[i]->n; k++) a->set[i].first[k] = a->n, a->n += places_of(&all[i]->r[k]);
    }
    return OK;
}

/* --- the file ---------------------------------------------------------------------------------------------------------- */
static void hash_rows(const struct answers *a, char hex[33]) {
    XXH3_state_t *h = XXH3_createState();
    if (h) XXH3_128bits_reset(h);
    for (int i = 0; h && i < 3; i++)
        for (int k = 0; k < a->set[i].rows->n; k++) {
            const struct row *r = &a->set[i].rows->r[k];
            XXH3_128bits_update(h, &r->n, sizeof r->n);
            XXH3_128bits_update(h, r->ids, (size_t)r->n * sizeof *r->ids);
            XXH3_128bits_update(h, r->supervised, (size_t)r->n);
        }
    const XXH128_hash_t x = h ? XXH3_128bits_digest(h) : (XXH128_hash_t){0};
    XXH3_freeState(h);
    snprintf(hex, 33, "%016llx%016llx", (unsigned long long)x.high64, (unsigned long long)x.low64);
}

static err make_key(struct run *r) {
    struct teacher *t = &r->teacher;
    char rows[33], adapter[33] = "", file[4096];
    str all = {0};
    snprintf(file, sizeof file, "%s/%s", r->cfg->teacher_adapter,
             t->st.method && t->st.method->called ? "adapter.safetensors" : "adapter_model.safetensors");
    if (t->st.method) TRY(file_hash(file, adapter));
    hash_rows(&t->answers, rows);
    str_addf(&all, "%s %s %s %s %s %d %lld %s", base_hash(t->base), t->shared ? r->cfg->quantization : "none", adapter, r->backend->name,
             dtype_info[r->compute].name, t->lesson.top, (long long)r->base[0].model.shape.vocab, rows);
    bytes_hash(all.p ? all.p : "", all.n, t->answers.key);
    const bool failed = all.failed;
    str_free(&all);
    return failed ? fail(E_MEMORY, "out of memory") : OK;
}

static err name_file(const struct run *r, char path[4096]) {
    const int n = snprintf(path, 4096, "%s/%s.safetensors", r->cfg->distill_cache, r->teacher.answers.key);
    return n < 4096 ? OK : fail(E_USAGE, "'distill.cache' is too long a name");
}

static err open_file(struct teacher *t, const char *path) {
    struct answers *a = &t->answers;
    TRY(tensors_open(path, &a->file));
    const struct tensor *x = tensors_find(&a->file, "best");
    if (!x || x->dt != DT_F32 || x->nd != 3 || x->d[0] != a->n || x->d[1] != 2 || x->d[2] != t->lesson.top)
        return fail(E_INPUT, "%s: not what a teacher says of %lld positions, the best %d ids of each, as its name says: remove it", path,
                    (long long)a->n, t->lesson.top);
    a->best = x->data;
    return OK;
}

err answers_look(struct run *r) {
    char path[4096];
    TRY(count_places(r));
    TRY(make_key(r));
    TRY(name_file(r, path));
    r->teacher.answers.found = path_exists(path);
    return OK;
}

void answers_close(struct answers *a) {
    for (int i = 0; i < 3; i++) free(a->set[i].first);
    tensors_close(&a->file);
    *a = (struct answers){.n = 0};
}

/* --- making it --------------------------------------------------------------------------------------------------------- */
/* What it says of some rows, into the file. */
static err put_pass(struct teacher *t, struct workbench *b, struct tensors_out *o, const struct row *const *rows, int first, int last) {
    const int top = t->lesson.top;
    int n;
    float ids[TOP_MOST];
    TRY(teacher_best(t, b, rows, first, last, &n));
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < top; k++) ids[k] = (float)t->ids[i * top + k];
        TRY(tensors_out_put(o, ids, (size_t)top * sizeof *ids));
        TRY(tensors_out_put(o, t->logprob + (size_t)i * (size_t)top, (size_t)top * sizeof *ids));
    }
    return OK;
}

static err put_rows(struct run *r, struct workbench *b, struct tensors_out *o, const struct rows *rows) {
    struct teacher *t = &r->teacher;
    const struct row **list = malloc((size_t)rows->n * sizeof *list + 1);
    int *first = malloc((size_t)(rows->n + 1) * sizeof *first);
    err e = list && first ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < rows->n && !e; i++) list[i] = &rows->r[i];
    const int passes = e ? 0 : pack_plan(list, rows->n, t->body.virtual_tokens, t->pack.cap_n, t->pack.cap_s, first);
    for (int p = 0; p < passes && !e; p++) {
        if (r->stop && *r->stop) e = fail(E_INTERRUPTED, "interrupted while the teacher was asked; nothing of it is kept");
        else e = put_pass(t, b, o, list, first[p], first[p + 1]);
    }
    free(list);
    free(first);
    return e;
}

static err make_file(struct run *r, const char *path) {
    struct teacher *t = &r->teacher;
    struct workbench b = {.threads = r->threads};
    struct tensors_out o;
    const struct tensor x = {.name = "best",
                             .dt = DT_F32,
                             .nd = 3,
                             .d = {t->answers.n, 2, t->lesson.top},
                             .bytes = (size_t)t->answers.n * 2 * (size_t)t->lesson.top * sizeof(float)};
    TRY(dir_make(r->cfg->distill_cache));
    TRY(tensors_out_safetensors(&o, path, &x, 1, 0));
    err e = memory_for(&b.mem, (struct program *const[]){&t->body, &t->best}, 2);
    for (int i = 0; i < 3 && !e; i++) e = put_rows(r, &b, &o, t->answers.set[i].rows);
    memory_free(&b.mem);
    if (e) tensors_out_abandon(&o);
    return e ? e : tensors_out_commit(&o);
}

err answers_start(struct run *r) {
    struct answers *a = &r->teacher.answers;
    char path[4096];
    const double t0 = seconds_now();
    TRY(name_file(r, path));
    const bool there = path_exists(path);
    if (!there) TRY(make_file(r, path));
    TRY(open_file(&r->teacher, path));
    a->seconds = seconds_now() - t0;
    log_info("the teacher's best %d ids of %lld positions %s in %s (%s)", r->teacher.lesson.top, (long long)a->n,
             there ? "were found" : "are kept", path, size_text((size_t)a->n * 2 * (size_t)r->teacher.lesson.top * sizeof(float)));
    return OK;
}

/* --- reading it -------------------------------------------------------------------------------------------------------- */
bool answers_know(const struct answers *a, const struct rows *rows) {
    bool known = !a->best;
    for (int i = 0; i < 3; i++) known |= a->set[i].rows == rows;
    return known;
}

/* Where a row's begin; -1: it is none of these (a guard's). */
static int64_t first_of(const struct answers *a, const struct row *r) {
    for (int i = 0; i < 3; i++) {
        const struct rows *of = a->set[i].rows;
        if (of->r && r >= of->r && r < of->r + of->n) return a->set[i].first[r - of->r];
    }
    return -1;
}

/* Of a row that nobody asked about: nothing, which is any ids, all as likely. */
static void say_nothing(struct teacher *t, size_t place) {
    const size_t top = (size_t)t->lesson.top;
    for (size_t j = 0; j < top; j++) t->ids[place * top + j] = (int32_t)j, t->logprob[place * top + j] = -logf((float)(top + 1));
}

void answers_tell(struct teacher *t, const struct pack *k, const struct row *const *rows, int first) {
    const struct answers *a = &t->answers;
    const size_t top = (size_t)t->lesson.top;
    for (int s = 0; s < k->s; s++) {
        const float *from = NULL, *begin = NULL;
        for (int32_t i = k->cu[s]; i < k->cu[s + 1]; i++) {
            if (k->weight[i] == 0) continue;
            const int64_t at = from ? 0 : first_of(a, rows[first + s]);
            if (at < 0) {
                say_nothing(t, (size_t)i);
                continue;
            }
            if (!from) from = begin = a->best + (size_t)at * 2 * top;
            for (size_t j = 0; j < top; j++) t->ids[(size_t)i * top + j] = (int32_t)from[j];
            memcpy(t->logprob + (size_t)i * top, from + top, top * sizeof *from);
            from += 2 * top;
        }
        if (begin) file_forget(begin, (size_t)(from - begin) * sizeof *from);
    }
}
