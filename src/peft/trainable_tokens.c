/* Trainable tokens: the rows of a few ids in the token table are trained and nothing else (new tokens, or old ones that are to mean
 * something else). They begin as the base's rows; where the head is the same table (tied) it has them too, so the logits of these
 * tokens move with them. C numbers a token, and no copy of the table: the rows are a matrix of their own that stands beside it
 * (ops/token_rows.c).
 *
 * PEFT's TRAINABLE_TOKENS: the file holds the new rows whole, in the order of token_indices, and of a tied table once more under the head's
 * name, as PEFT writes it. Of other tables than the token table it is
 * refused by name, as random initial rows are. */
#include "peft/trainable_tokens.h"
#include "peft/methods.h"
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK ".trainable_tokens_delta"
enum { MOST_TOKENS = 65536 };

static bool same(const void *one, const void *other) {
    const struct trainable_tokens *a = one, *b = other;
    return a->n == b->n && !memcmp(a->ids, b->ids, (size_t)a->n * sizeof *a->ids) && targets_same(&a->targets, &b->targets);
}

static int by_id(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static err check(const void *settings) {
    const struct trainable_tokens *t = settings;
    if (t->n < 1) return fail(E_USAGE, "trainable_tokens.token_indices is empty; name ids of tokens, such as 49150 or 49140-49151");
    if (t->n > MOST_TOKENS)
        return fail(
            E_USAGE,
            "trainable_tokens.token_indices has %d ids; for more than %d train the table: method full, full.target_modules embed_tokens",
            t->n, MOST_TOKENS);
    int32_t *sorted = malloc((size_t)t->n * sizeof *sorted);
    if (!sorted) return fail(E_MEMORY, "out of memory");
    memcpy(sorted, t->ids, (size_t)t->n * sizeof *sorted);
    qsort(sorted, (size_t)t->n, sizeof *sorted, by_id);
    int32_t twice = -1;
    for (int i = 1; i < t->n; i++)
        if (sorted[i] == sorted[i - 1]) twice = sorted[i];
    free(sorted);
    return twice < 0 ? OK : fail(E_USAGE, "trainable_tokens.token_indices has %d twice", (int)twice);
}

static err read_ids(const json_t *list, const char *where, arena *mem, struct trainable_tokens *t) {
    if (list && !json_is_null(list) && !json_is_array(list)) return fail(E_INPUT, "%s: token_indices must be a list of ids", where);
    int32_t *ids = arena_alloc(mem, json_array_size(list) * sizeof *ids + 1);
    if (!ids) return fail(E_MEMORY, "out of memory");
    for (size_t i = 0; i < json_array_size(list) && i <= MOST_TOKENS; i++) {
        const json_t *v = json_array_get(list, i);
        const json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id > INT32_MAX) return fail(E_INPUT, "%s: token_indices holds something that is no token's id", where);
        ids[t->n++] = (int32_t)id;
    }
    t->ids = ids;
    return OK;
}

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct trainable_tokens *t = settings;
    *t = (struct trainable_tokens){0};
    if (json_is_false(json_object_get(json, "init_weights")))
        return fail(E_UNSUPPORTED, "%s: init_weights false (random rows) is not supported", where);
    TRY(read_ids(json_object_get(json, "token_indices"), where, mem, t));
    TRY(targets_read(json, where, mem, &t->targets));
    err e = check(t);
    return e ? fail_in(e, "%s", where) : OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    (void)named;
    const struct trainable_tokens *t = settings;
    json_t *ids = json_array();
    for (int i = 0; i < t->n; i++) json_array_append_new(ids, json_integer(t->ids[i]));
    int bad = json_object_set_new(json, "token_indices", ids) | json_object_set_new(json, "init_weights", json_true()) |
              json_object_set_new(json, "target_modules", json_null());
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

/* Rows of other ids are other tokens. */
static err agrees(const void *have, const void *want, const char *module, const char *folder) {
    const struct trainable_tokens *a = have, *b = want;
    (void)module;
    return a->n == b->n && !memcmp(a->ids, b->ids, (size_t)a->n * sizeof *a->ids)
               ? OK
               : fail(E_USAGE, "%s has rows of other tokens than trainable_tokens.token_indices", folder);
}

static void describe(const void *settings, str *out) {
    str_addf(out, "trainable-tokens adapter (%d tokens", ((const struct trainable_tokens *)settings)->n);
}

static const struct targets *targets_of(const void *settings) { return &((const struct trainable_tokens *)settings)->targets; }

static const int32_t *own_tokens(const void *settings, int *n) {
    const struct trainable_tokens *t = settings;
    *n = t->n;
    return t->ids;
}

/* The table's own. */
static err rows_of_ids(const struct param_slice *s, int64_t columns, uint64_t key, float *rows) {
    const int32_t *ids = s->how;
    const size_t bytes = dtype_row_bytes(s->stored, columns);
    (void)key;
    for (int64_t r = 0; r < s->rows; r++) dequantise_row(s->stored, (const char *)s->from + bytes * (size_t)ids[r], rows + r * columns, columns);
    return OK;
}

static val tokens(struct site *s, const struct base_matrix *table) {
    const struct trainable_tokens *t = s->settings;
    const bool named = t->targets.of.take != TAKE_NAMES || t->targets.of.n;
    if (named && !targets_take(&t->targets, &table->of))
        return prog_fail(s->p, E_UNSUPPORTED, "trainable_tokens: target_modules names another module than the token table, %s", table->of.module), (val){0};
    for (int i = 0; i < t->n; i++)
        if (t->ids[i] >= table->rows) return prog_fail(s->p, E_USAGE, "trainable_tokens.token_indices: %d is no token of this model, which has %lld", (int)t->ids[i], (long long)table->rows), (val){0};
    char file[256];
    snprintf(file, sizeof file, "%s" MARK, table->of.module);
    struct param_slice rows[2] = {{.name = file, .rows = t->n, .from = table->data, .stored = table->stored, .make = rows_of_ids, .how = t->ids}};
    rows[1] = rows[0];
    rows[1].name = "lm_head" MARK;
    const int p = param_get(s->params, "token rows", 2, (int64_t[]){t->n, table->cols}, INIT_MADE, 0, rows, table->tied ? 2 : 1);
    if (!table->tied) param_occasional(s->params, p); /* a head hears of every token */
    return prog_param(s->p, s->params, p);
}

const struct peft_method method_trainable_tokens = {.name = "trainable_tokens",
                                                    .peft_type = "TRAINABLE_TOKENS",
                                                    .settings = sizeof(struct trainable_tokens),
                                                    .check = check,
                                                    .same = same,
                                                    .read = read_json,
                                                    .write = write_json,
                                                    .agrees = agrees,
                                                    .describe = describe,
                                                    .targets = targets_of,
                                                    .mark = MARK,
                                                    .own_tokens = own_tokens,
                                                    .tokens = tokens};
