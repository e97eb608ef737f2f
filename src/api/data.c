/* What data files hold: shapes, lengths, duplicates, and the first rows as tokens.
 *
 * One pass over each file, streamed, so a file larger than memory is no trouble: kept are a length and a hash for each
 * record. Duplicates are records that say the same, in whatever file and whatever notation (128 bits would be needed to
 * be certain; with 64, a thousand million records have one false pair in forty such sets). Called by `cyclora data`. */
#include "api/api.h"
#include "data/rows.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* What stands for the checks that a person makes first: the BOS in front, and what each answer ends with (null: it is cut). */
static json_t *row_ends(const tokenizer *tk, const struct row *row) {
    int32_t bos = tokenizer_bos(tk);
    bool begins = row->n && bos >= 0 && row->ids[0] == bos;
    json_t *ends = json_array();
    for (int k = 0; k < row->n; k++) {
        if (!row->supervised[k] || (k + 1 < row->n && row->supervised[k + 1])) continue;
        int end = answer_end(tk, row->ids, row->supervised, k);
        json_array_append_new(ends, end >= 0 ? json_string(tokenizer_token(tk, row->ids[end])) : json_null());
    }
    return json_pack("{s:o, s:o}", "bos", begins ? json_string(tokenizer_token(tk, bos)) : json_null(), "answers", ends);
}

/* A row's text, piece by piece. A token may be part of a character: such bytes are shown as the vocabulary spells them. */
err api_row_json(const tokenizer *tk, const struct row *row, struct json_t *rows) {
    char from[4300];
    snprintf(from, sizeof from, "%s:%d", row->path, row->line);
    json_t *pieces = json_array();
    for (int k = 0; k < row->n; k++) {
        str s = {0};
        err e = tokenizer_decode(tk, &row->ids[k], 1, DECODE_GOES_ON, &s);
        if (e) return json_decref(pieces), e;
        json_t *text = json_stringn(s.p ? s.p : "", s.n);
        if (!text) text = json_string(tokenizer_token(tk, row->ids[k]));
        json_array_append_new(pieces, json_pack("{s:o, s:i, s:b}", "text", text, "id", row->ids[k], "supervised", row->supervised[k]));
        str_free(&s);
    }
    json_t *o = json_pack("{s:s, s:o}", "from", from, "pieces", pieces), *ends = row_ends(tk, row);
    json_object_update(o, ends);
    json_decref(ends);
    json_array_append_new(rows, o);
    return OK;
}

struct seen {
    int64_t n, cap;
    uint32_t *length;
    uint64_t *hash;
    int64_t tokens, kept, supervised, truncated, unlearnable;
    size_t max_length;
};

static err see(void *ctx, const struct row_seen *row) {
    struct seen *s = ctx;
    if (row->e) return fail(row->e, "%s", row->wrong);
    if (s->n == s->cap) {
        int64_t cap = s->cap ? s->cap * 2 : 1024;
        uint32_t *length = realloc(s->length, (size_t)cap * sizeof *length);
        if (length) s->length = length;
        uint64_t *hash = realloc(s->hash, (size_t)cap * sizeof *hash);
        if (hash) s->hash = hash;
        if (!length || !hash) return fail(E_MEMORY, "out of memory");
        s->cap = cap;
    }
    s->length[s->n] = (uint32_t)row->tokens;
    s->hash[s->n++] = row->hash;
    s->tokens += (int64_t)row->tokens;
    s->kept += (int64_t)(row->tokens < s->max_length ? row->tokens : s->max_length);
    s->supervised += (int64_t)row->supervised;
    s->truncated += row->tokens > s->max_length;
    s->unlearnable += !row->supervised;
    return OK;
}

static void seen_free(struct seen *s) {
    free(s->length);
    free(s->hash);
}

static int by_length(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}
static int by_hash(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Records that say what an earlier one said. Sorts. */
static json_int_t duplicates(struct seen *s) {
    json_int_t n = 0;
    qsort(s->hash, (size_t)s->n, sizeof *s->hash, by_hash);
    for (int64_t i = 1; i < s->n; i++) n += s->hash[i] == s->hash[i - 1];
    return n;
}

static json_t *seen_json(struct seen *s, bool tokens) {
    json_t *j = json_pack("{s:I, s:I}", "rows", (json_int_t)s->n, "duplicates", duplicates(s));
    if (!j || !tokens) return j;
    qsort(s->length, (size_t)s->n, sizeof *s->length, by_length);
    const uint32_t *l = s->length;
    int64_t n = s->n;
    json_object_update_new(j, json_pack("{s:I, s:I, s:I, s:I, s:I, s:{s:i, s:i, s:i, s:i}}", "tokens", (json_int_t)s->tokens, "kept",
                                        (json_int_t)s->kept, "supervised", (json_int_t)s->supervised, "truncated", (json_int_t)s->truncated,
                                        "unlearnable", (json_int_t)s->unlearnable, "length", "min", (int)l[0], "median",
                                        (int)l[(n - 1) / 2], "p95", (int)l[(n - 1) * 95 / 100], "max", (int)l[n - 1]));
    return j;
}

/* One file's figures join all files'. */
static err join(struct seen *all, const struct seen *one) {
    struct row_seen row = {0};
    for (int64_t i = 0; i < one->n; i++) {
        row.tokens = one->length[i];
        row.hash = one->hash[i];
        TRY(see(all, &row));
    }
    all->supervised += one->supervised;
    all->unlearnable += one->unlearnable - one->n; /* see() took them for rows without a supervised token */
    return OK;
}

static const struct source_options streamed = {.want = WANT_ANY, .in_memory = 0};

/* The first rows of a source that is streamed, whose records stay what they are. */
static err first_rows(const tokenizer *tk, struct source *s, int rows, int max_length, json_t *out) {
    struct rows made;
    const struct row *row;
    int all = s->n;
    if (rows < s->n) s->n = rows;
    err e = rows_sft(tk, s, max_length, &made);
    for (int i = 0; !e && i < s->n; i++) {
        e = rows_draw(&made, &i, 1, &row);
        if (!e) e = api_row_json(tk, row, out);
    }
    rows_free(&made);
    s->n = all;
    return e;
}

static err file_stats(const tokenizer *tk, const struct source_file *f, int max_length, int shown, struct seen *all, json_t *rows, json_t *files) {
    static const char *const packings[] = {"none", "gzip", "zstd"};
    struct source s;
    struct seen one = {.max_length = (size_t)max_length};
    TRY(source_open_files(f, 1, &streamed, &s));
    err e = shown && tk ? first_rows(tk, &s, shown, max_length, rows) : OK;
    if (!e) e = rows_visit(tk, &s, max_length, see, &one);
    if (!e) e = join(all, &one);
    if (!e) {
        json_t *j = seen_json(&one, tk != NULL);
        const struct source_part *p = s.part;
        json_object_update_new(j, json_pack("{s:s, s:s, s:s, s:s, s:I}", "path", f->path, "container", container_name(p->layout.container),
                                            "shape", layout_name(&p->layout), "packing", packings[p->file.packing], "bytes",
                                            (json_int_t)p->file.n));
        json_array_append_new(files, j);
    }
    seen_free(&one);
    source_close(&s);
    return e;
}

static err stats(const cyc_data_request *q, const tokenizer *tk, json_t *out) {
    int max_length = q->max_length > 0 ? q->max_length : 1024;
    json_t *files = json_array(), *rows = json_array();
    json_object_set_new(out, "files", files);
    json_object_set_new(out, "preview", rows);
    struct seen all = {.max_length = (size_t)max_length};
    err e = OK;
    for (int i = 0; i < q->n_files && !e; i++) {
        struct source_file f = {.path = q->files[i], .format = q->format, .field = q->field, .field2 = q->field2};
        e = file_stats(tk, &f, max_length, q->rows, &all, rows, files);
    }
    if (!e) json_object_set_new(out, "totals", seen_json(&all, tk != NULL));
    seen_free(&all);
    return e;
}

int cyc_data_stats(const cyc_data_request *q, char **json) {
    cyc_model *m = NULL;
    *json = NULL;
    int code = q->model ? cyc_tokenizer_open(q->model, &m) : CYC_OK;
    if (code) return code;
    json_t *j = json_object();
    err e = stats(q, m ? m->tok : NULL, j);
    if (e) json_decref(j);
    code = e ? api_code(e) : api_json((struct json_t *)j, json);
    if (m) cyc_model_close(m);
    return code;
}
