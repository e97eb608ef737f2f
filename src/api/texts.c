/* What a model says of many texts: their vectors (cyclora embed), and their classes, numbers or tags (cyclora classify). Texts are packed into passes, none
 * is padded, none sees another. */
#include "api/api.h"
#include "base/log.h"
#include "data/pack.h"
#include "io/matrix_out.h"
#include "train/learner.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

struct cyc_texts { struct source s; };

static int open_as(enum source_want want, const char *path, const char *format, const char *field, cyc_texts **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) return api_code(fail(E_MEMORY, "out of memory"));
    err e = source_open_files(&(struct source_file){.path = path, .format = format, .field = field}, 1, &(struct source_options){.want = want, .in_memory = UINT64_MAX}, &(*out)->s);
    if (e) free(*out), *out = NULL;
    return api_code(e);
}

int cyc_texts_open(const char *path, const char *format, const char *field, cyc_texts **out) { return open_as(WANT_TEXT, path, format, field, out); }
int cyc_words_open(const char *path, const char *format, const char *field, cyc_texts **out) { return open_as(WANT_WORDS, path, format, field, out); }

void cyc_texts_close(cyc_texts *t) {
    if (t) source_close(&t->s);
    free(t);
}

int cyc_texts_count(const cyc_texts *t) { return t->s.n; }
const char *cyc_text_at(const cyc_texts *t, int i) { return t->s.r[i].text; }
int cyc_words_count(const cyc_texts *t, int i) { return t->s.r[i].n_words; }
const char *cyc_word_at(const cyc_texts *t, int i, int k) { return t->s.r[i].words[k]; }

int cyc_matrix_write(const char *out, const float *x, int rows, int columns) { return api_code(matrix_write(out, "embeddings", x, rows, columns)); }

/* --- one program over all texts ------------------------------------------------------------------------------------------ */
struct ask {
    enum mode mode;
    bool first; /* of single rows: the first token's; else the last's */
    bool words; /* rows of words */
    int max_length;
    dtype compute;
};

struct work {
    struct rows rows;
    const struct row **list;
    struct program g;
    struct workbench b;
};

static void work_end(struct work *w) {
    pack_free(&w->b.pack);
    memory_free(&w->b.mem);
    free(w->b.first);
    program_free(&w->g);
    free(w->list);
    rows_free(&w->rows);
}

static err work_begin(struct work *w, cyc_model *m, cyc_adapter *a, const cyc_texts *t, const struct ask *ask) {
    const struct backend *backend = api_backend(m);
    const int64_t context = m->m.shape.context;
    const struct class_form form = {.first = ask->first, .twice = a && a->st.head.classes && ask->mode == MODE_CLASSIFY && head_reads_twice(&a->st.head, &m->m), .start = m->m.shape.start};
    int max_length = ask->max_length;
    *w = (struct work){.b.threads = omp_get_max_threads()};
    if (!m->weights) return fail(E_USAGE, "this handle is a tokenizer alone");
    if (max_length > context) return fail(E_USAGE, "max_length %d is more than the model's context of %lld", max_length, (long long)context);
    if (!max_length) max_length = context < 1024 ? (int)context : 1024;
    if (form.twice) max_length *= 2;
    TRY((ask->words ? rows_tagged : rows_labelled)(m->tok, &form, &t->s, max_length, &w->rows));
    if (w->rows.truncated)
        log_warn("%s: %d of %d texts were cut to %d tokens", t->s.path, w->rows.truncated, w->rows.n,
                 form.twice ? max_length / 2 : max_length);
    const int pass = backend->mem->host ? 512 : 4096, tokens = w->rows.longest > pass ? w->rows.longest : pass;
    w->list = malloc((size_t)w->rows.n * sizeof *w->list + 1);
    for (int i = 0; w->list && i < w->rows.n; i++) w->list[i] = &w->rows.r[i];
    const struct capacity cap = {tokens, tokens / 2 + 1, 0, 0, ask->compute, DT_NONE, 0};
    TRY(w->list ? program_build(&w->g, &m->m, ask->mode, a ? &a->st : NULL, cap, CHECKPOINT_NONE, backend, false) : fail(E_MEMORY, "out of memory"));
    TRY(memory_for(&w->b.mem, (struct program *const[]){&w->g}, 1));
    return pack_init(&w->b.pack, tokens + w->g.virtual_tokens, tokens / 2 + 1);
}

/* --- vectors ------------------------------------------------------------------------------------------------------------- */
static err means(struct work *w, const float *weights, int64_t C, bool normalize, float *out) {
    struct pack *k = &w->b.pack;
    const struct run_ctx run = {.threads = w->b.threads};
    float *rows = malloc((size_t)(k->cap_n * C) * sizeof *rows);
    void *param = NULL;
    err e = rows ? memory_bind(&w->b.mem, &w->g, weights, w->b.threads, &param) : fail(E_MEMORY, "out of memory");
    const int before = k->virtual_tokens = w->g.virtual_tokens;
    k->virtual_first = w->g.virtual_first;
    for (int i = 0; i < w->rows.n && !e;) {
        pack_clear(k);
        while (i < w->rows.n && pack_row(k, w->list[i], i)) i++;
        const struct feed f = {.ids = k->ids, .pos = k->pos, .cu = k->cu, .n = k->n, .s = k->s};
        e = program_run(&w->g, &w->b.mem, param, NULL, &f, &run, false);
        if (!e) e = program_read(&w->g, &w->b.mem, w->g.features, k->n, k->s, rows, (size_t)(k->n * C) * sizeof *rows);
        for (int s = 0; s < k->s && !e; s++, out += C) api_mean(rows + (k->cu[s] + before) * C, k->cu[s + 1] - k->cu[s] - before, C, normalize, out);
    }
    free(rows);
    return e;
}

static void unit_length(float *x, int n, int64_t C) {
    for (int i = 0; i < n; i++, x += C) {
        double sum = 0;
        for (int64_t c = 0; c < C; c++) sum += (double)x[c] * x[c];
        for (int64_t c = 0; c < C && sum > 0; c++) x[c] = (float)(x[c] / sqrt(sum));
    }
}

/* A classifier's adapter gives the vectors that its head would read: the head itself has no part in them. */
int cyc_embed_texts(cyc_model *m, cyc_adapter *a, const cyc_texts *t, int pooling, int normalize, int max_length, float *out) {
    struct work w;
    const bool mean = pooling == CYC_POOL_MEAN;
    err e = api_adapter_ready(&a, NULL, 0, NULL);
    if (e) return api_code(e);
    if (a && !mean && a->st.head.classes)
        return api_code(
            fail(E_UNSUPPORTED, "vectors of single tokens under a classifier's adapter are not to be had yet: ask for their mean"));
    e = work_begin(&w, m, a, t, &(struct ask){.mode = mean ? MODE_FEATURES : MODE_CLASSIFY, .first = pooling == CYC_POOL_FIRST, .max_length = max_length, .compute = DT_F32});
    if (!e)
        e = mean ? means(&w, a ? a->w : NULL, m->m.shape.width, normalize, out)
                 : rows_outputs(&w.g, &w.b, a ? a->w : NULL, w.list, w.rows.n, w.g.features, out);
    if (!e && normalize && !mean) unit_length(out, w.rows.n, m->m.shape.width);
    work_end(&w);
    return api_code(e);
}

/* --- heads --------------------------------------------------------------------------------------------------------------- */
int cyc_head(const cyc_adapter *a) {
    static const int kinds[] = {[HEAD_CLASSES] = CYC_HEAD_CLASSES, [HEAD_NUMBERS] = CYC_HEAD_NUMBERS, [HEAD_TAGS] = CYC_HEAD_TAGS};
    return a->st.head.classes ? kinds[a->st.head.kind] : CYC_HEAD_NONE;
}

int cyc_classes(const cyc_adapter *a) { return a->st.head.classes; }
const char *cyc_class_name(const cyc_adapter *a, int i) { return a->st.head.names[i]; }

static void softmax(float *z, int n) {
    double top = z[0], sum = 0;
    for (int k = 1; k < n; k++) top = fmax(top, z[k]);
    for (int k = 0; k < n; k++) sum += exp(z[k] - top);
    for (int k = 0; k < n; k++) z[k] = (float)(exp(z[k] - top) / sum);
}

int cyc_classify_texts(cyc_model *m, cyc_adapter *a, const cyc_texts *t, int max_length, float *out) {
    struct work w;
    if (!a->st.head.classes) return api_code(fail(E_USAGE, "this adapter holds no classifier: train one with objective: classification"));
    if (a->st.head.kind == HEAD_TAGS)
        return api_code(fail(E_USAGE, "this adapter tells the classes of words, not of texts: open its texts as words"));
    err e = work_begin(&w, m, a, t, &(struct ask){.mode = MODE_CLASSIFY, .first = head_reads_first(&m->m), .max_length = max_length, .compute = m->compute});
    if (!e) e = rows_outputs(&w.g, &w.b, a->w, w.list, w.rows.n, w.g.logits, out);
    for (int i = 0; i < w.rows.n && !e && a->st.head.kind == HEAD_CLASSES; i++) softmax(out + (int64_t)i * a->st.head.classes, a->st.head.classes);
    work_end(&w);
    return api_code(e);
}

/* logits: of the words that have some. What row i says of its words, from tag[0] on; returns how many rows of logits it had. */
static int tag_row(const struct row *r, float *logits, int classes, int32_t *tag, float *probability) {
    int n = 0;
    for (int k = 0; k < r->n; k++) {
        float *z = logits + (int64_t)n * classes;
        const int word = r->labels[k] - 1;
        int best = 0;
        if (!r->supervised[k]) continue;
        for (int c = 1; c < classes; c++)
            if (z[c] > z[best]) best = c;
        softmax(z, classes);
        tag[word] = best;
        probability[word] = z[best];
        n++;
    }
    return n;
}

int cyc_tag_words(cyc_model *m, cyc_adapter *a, const cyc_texts *t, int max_length, int32_t *tag, float *probability) {
    struct work w;
    const int classes = a->st.head.classes;
    if (cyc_head(a) != CYC_HEAD_TAGS)
        return api_code(fail(E_USAGE, "this adapter does not tell the classes of words: train one with objective: token_classification"));
    err e = work_begin(&w, m, a, t, &(struct ask){.mode = MODE_CLASSIFY, .words = true, .max_length = max_length, .compute = m->compute});
    float *all = e ? NULL : malloc((size_t)w.rows.supervised * (size_t)classes * sizeof *all + 1), *logits = all;
    if (!e) e = all ? rows_outputs(&w.g, &w.b, a->w, w.list, w.rows.n, w.g.logits, all) : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < w.rows.n && !e; i++) {
        for (int k = 0; k < t->s.r[i].n_words; k++) tag[k] = -1, probability[k] = 0;
        logits += (int64_t)tag_row(&w.rows.r[i], logits, classes, tag, probability) * classes;
        tag += t->s.r[i].n_words;
        probability += t->s.r[i].n_words;
    }
    free(all);
    work_end(&w);
    return api_code(e);
}
