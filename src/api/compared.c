/* The texts on which a quantised model is compared with its base (cyc_export_options.data): the first records of a file, as tokens. */
#include "api/api.h"
#include "data/rows.h"
#include "data/source.h"
#include <stdlib.h>

err api_read_texts(const cyc_export_options *o, struct ids **list, int *n) {
    struct source s = {0};
    struct rows rows = {0};
    cyc_model *tk = NULL;
    int64_t most = o->data_tokens;
    if (cyc_tokenizer_open(o->model, &tk)) return E_INPUT; /* the message is there */
    err e = source_open(o->data, WANT_TEXT, o->data_field, NULL, &s);
    if (!e && s.n > most) s.n = (int)most; /* a token each at least */
    if (!e) e = rows_documents(tk->tok, &s, INT32_MAX, false, &rows);
    *list = e ? NULL : calloc((size_t)rows.n + 1, sizeof **list);
    if (!e && !*list) e = fail(E_MEMORY, "out of memory");
    for (*n = 0; !e && *n < rows.n && most > 0; most -= rows.r[(*n)++].n)
        for (int k = 0; k < rows.r[*n].n && !e; k++) e = ids_push(&(*list)[*n], rows.r[*n].ids[k]);
    rows_free(&rows);
    source_close(&s);
    cyc_model_close(tk);
    return e;
}
