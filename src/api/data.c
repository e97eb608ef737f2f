/* What data files hold: shapes, lengths, duplicates (data/stats.h), and the first rows as tokens. Called by `cyclora data`. */
#include "api/api.h"
#include "base/file.h"
#include "data/rows.h"
#include "data/stats.h"
#include "report/report.h"
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

static err stats(const cyc_data_request *q, const tokenizer *tk, json_t *out) {
    const int max_length = q->max_length > 0 ? q->max_length : 1024;
    json_t *files = json_array(), *rows = json_array(), *totals;
    struct stats *t = NULL;
    json_object_set_new(out, "files", files);
    json_object_set_new(out, "preview", rows);
    err e = stats_open(&(struct stats_options){tk, max_length}, &t);
    for (int i = 0; i < q->n_files && !e; i++) {
        const struct source_file f = {.path = q->files[i], .format = q->format, .field = q->field, .field2 = q->field2};
        struct source s;
        if ((e = source_open_files(&f, 1, &streamed, &s))) break;
        if (q->rows && tk) e = first_rows(tk, &s, q->rows, max_length, rows);
        if (!e) e = stats_add(t, &s, files);
        source_close(&s);
    }
    if (!e && !(e = stats_totals(t, files, &totals))) json_object_set_new(out, "totals", totals);
    stats_close(t);
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

int cyc_data_page(const char *stats, const char *path, int overwrite) {
    json_t *o = json_loads(stats, 0, NULL);
    err e = !o                               ? fail(E_USAGE, "the statistics are no JSON")
            : !overwrite && path_exists(path) ? fail(E_USAGE, "%s exists already; --overwrite replaces it", path)
                                              : data_page_write(path, o);
    json_decref(o);
    return api_code(e);
}
