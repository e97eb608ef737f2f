/* See adapter.h. */
#define _DEFAULT_SOURCE
#include "gen/adapter.h"
#include "core/rope_rows.h"
#include "io/tensors_out.h"
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char PREFIX[] = "base_model.model.", STRETCHED[] = "rope_scaling.json";

float *arena_f32(size_t bytes) { return pages_take(bytes); }

void arena_f32_free(float *p, size_t bytes) { pages_give(p, bytes); }

/* --- structure --------------------------------------------------------------------------------------------------- */
/* What the method could take: any weight, matrices, or vectors of the part that its mark names. */
static bool could_take(const struct peft_method *method, const struct weight *w) {
    if (method->matrix && !method->linears) return str_ends(w->name, ".weight");
    return method->linears ? w->nd == 2 && str_ends(w->name, ".weight") : w->nd == 1 && str_ends(w->name, strrchr(method->mark, '.'));
}

static err no_match(const struct model *m, const struct structure *st) {
    str names = {0}, known = {0};
    const struct targets *t = st->method->targets(st->settings);
    if (take_word(t->of.take)) str_adds(&names, take_word(t->of.take));
    for (int i = 0; i < t->of.n; i++) str_addf(&names, "%s%s", i ? ", " : "", t->of.names[i]);
    for (int i = 0; i < m->n; i++) { /* the last name parts of layer 0's */
        if (!could_take(st->method, &m->w[i]) || !strstr(m->w[i].module, ".layers.0.")) continue;
        str_addf(&known, "%s%s", known.n ? ", " : "", strrchr(m->w[i].module, '.') + 1);
    }
    err e = known.n
                ? fail(E_USAGE, "%s.target_modules (%s)%s%s match no module of this model; it has %d layers of %s%s", st->method->name,
                       names.p ? names.p : "", t->except.n ? " without exclude_modules" : "", t->n_layers ? " in layers_to_transform" : "",
                       (int)m->shape.layers, known.p, st->method->linears ? ", or use all-linear" : "")
                : fail(E_USAGE, "%s has nothing to train in this model: no layer has a %s", st->method->name,
                       strrchr(st->method->mark, '.') + 1);
    str_free(&names);
    str_free(&known);
    return e;
}

bool adapter_of_head(const struct structure *st, const struct param_slice *s) {
    const size_t n = st->head_module ? strlen(st->head_module) : 0;
    return n && !strncmp(s->name, st->head_module, n) && s->name[n] == '.';
}

/* The module of a slice, up to the method's mark, in `name`; false: the slice is not the one that a module has once. */
static bool marked_module(const struct structure *st, const struct param_slice *s, char name[256]) {
    const struct peft_method *m = st->method;
    const char *end = m->table_mark && str_ends(s->name, m->table_mark) ? m->table_mark : m->mark;
    if (adapter_of_head(st, s) || !str_ends(s->name, end)) return false;
    snprintf(name, 256, "%.*s", (int)(strlen(s->name) - strlen(end)), s->name);
    return true;
}

/* The modules' names, whole (ending: their last parts, each once) into list; returns how many. */
static int module_names(struct structure *st, bool ending, const char **list) {
    int n = 0;
    for (int i = 0; i < st->params.n; i++)
        for (int k = 0; k < st->params.p[i].n_slices; k++) {
            char name[256];
            if (!marked_module(st, &st->params.p[i].slice[k], name)) continue;
            const char *last = ending && strrchr(name, '.') ? strrchr(name, '.') + 1 : name;
            bool seen = false;
            for (int t = 0; t < n && ending; t++) seen |= !strcmp(list[t], last);
            if (!seen && !(list[n++] = arena_str(&st->mem, last))) return -1;
        }
    return n;
}

/* Would the endings take a matrix that is not among the whole names? */
static bool takes_more(const struct model *m, const struct structure *st, const struct module_list *endings, const struct module_list *whole) {
    struct targets other = *st->method->targets(st->settings);
    other.of = *endings;
    for (int i = 0; i < m->n; i++) {
        if (!could_take(st->method, &m->w[i])) continue;
        const struct module w = {.name = m->w[i].name, .module = m->w[i].module};
        bool taken = false;
        for (int k = 0; k < whole->n && !taken; k++) taken = !strcmp(whole->names[k], w.module);
        if (!taken && targets_take(&other, &w)) return true;
    }
    return false;
}

/* Words such as all-linear are written as the endings that they took, as PEFT does; where these would take more than that
 * (GPT-2's attention and MLP both have a c_proj), as whole names. */
static err name_modules(struct structure *st, const struct model *m, int modules) {
    if (!st->method->targets || !take_word(st->method->targets(st->settings)->of.take)) return OK; /* names and expressions are written as they are */
    const char **list[2];
    for (int k = 0; k < 2; k++)
        if (!(list[k] = arena_alloc(&st->mem, (size_t)modules * sizeof **list + 1))) return fail(E_MEMORY, "out of memory");
    const struct module_list endings = {TAKE_NAMES, module_names(st, true, list[0]), list[0]}, whole = {TAKE_NAMES, module_names(st, false, list[1]), list[1]};
    if (endings.n < 0 || whole.n < 0) return fail(E_MEMORY, "out of memory");
    st->named = takes_more(m, st, &endings, &whole) ? whole : endings;
    return OK;
}

/* The method's own copy of its settings, with what it wants to know of the base. */
err structure_turn(struct structure *st, const struct model *m, const void *settings) {
    const struct peft_method *method = st->method;
    const struct shape *z = &m->shape;
    const struct weight *projection = model_weight(m, "blk.0.attn_output.weight");
    const struct base_sizes base = {z->layers, z->width, z->heads, z->kv_heads, z->head_dim, z->vocab, z->interleaved, m->family->seq2seq, z->encoder_layers, m->family->norms_apart,
                                    m->family->encoder, projection && projection->turned, model_weight(m, "blk.0.attn_q_norm.weight") != NULL};
    TRY(method->check(settings));
    void *copy = st->settings ? (void *)st->settings : arena_alloc(&st->mem, method->settings);
    if (!copy) return fail(E_MEMORY, "out of memory");
    st->settings = memcpy(copy, settings, method->settings);
    TRY(method->fit ? method->fit(copy, &base) : OK);
    if (st->head_module && method->apart && method->apart(copy))
        return fail(
            E_UNSUPPORTED,
            "method %s keeps what it trains apart from what it comes to, where a classifier has no place: use another method beside it",
            method->name);
    st->given = method->given ? method->given(copy, &st->given_width) : 0;
    st->virtual_tokens = method->virtual_tokens ? method->virtual_tokens(copy) : 0;
    return OK;
}

/* Methods whose products are of layers' matrices alone would pass over the output projection in a list where other names match. */
static err no_head(const struct structure *st, const struct model *m) {
    const struct peft_method *method = st->method;
    const struct targets *t = method->targets && method->linears && !method->head ? method->targets(st->settings) : NULL;
    const struct module head = {.name = "output", .module = "lm_head", .head = true};
    if (!t || st->head_module || m->family->encoder || take_word(t->of.take) || !targets_take(t, &head)) return OK;
    return fail(E_UNSUPPORTED,
                "%s.target_modules takes lm_head: %s does not act on the output projection; leave it out (a list, or exclude_modules), or use lora",
                method->name, method->name);
}

/* Each of these endings is one of a trained tensor's module. */
static err check_saved(const struct structure *st, const struct module_list *saved) {
    for (int i = 0; i < saved->n; i++) {
        bool found = false;
        for (int p = 0; p < st->params.n && !found; p++)
            for (int k = 0; k < st->params.p[p].n_slices && !found; k++) {
                char module[256];
                snprintf(module, sizeof module, "%s", st->params.p[p].slice[k].name);
                *strrchr(module, '.') = 0;
                found = str_ends(module, saved->names[i]);
            }
        if (!found)
            return fail(E_USAGE, "%s.modules_to_save: no module of this model that could be trained whole ends in '%s'", st->method->name,
                        saved->names[i]);
    }
    return OK;
}

err structure_init(struct structure *st, const struct model *m, const struct peft_method *method, const void *settings, int *modules) {
    return structure_init_head(st, m, method, settings, NULL, modules);
}

void structure_begin(struct structure *st, const struct model *m, const struct peft_method *method, const struct head *head) {
    *st = (struct structure){.method = method, .inside = "", .fan_in_fan_out = m->shape.conv1d, .seq2seq = m->family->seq2seq, .stretched = m->stretched};
    if (head && head->classes) st->head = *head, st->head_module = head_module(head, m);
    if (head && head->classes && m->family->inside) st->inside = m->family->inside;
}

/* Emitting the forward lays down the parameters. */
err structure_add(struct structure *st, const struct model *m, const void *settings) {
    struct program probe;
    TRY(structure_turn(st, m, settings));
    TRY(no_head(st, m));
    TRY(program_build(&probe, m, st->head_module ? MODE_CLASSIFY : MODE_SCORE, st, (struct capacity){1, 1, 1, 1, DT_F32, DT_NONE, 0}, CHECKPOINT_NONE,
                      &backend_null, false));
    program_free(&probe);
    return OK;
}

err structure_init_head(struct structure *st, const struct model *m, const struct peft_method *method, const void *settings,
                        const struct head *head, int *modules) {
    *st = (struct structure){.method = method};
    if (!method) return OK;
    structure_begin(st, m, method, head);
    err e = structure_add(st, m, settings);
    param_seal(&st->params);
    int n = 0;
    for (int i = 0; i < st->params.n && !e; i++)
        for (int k = 0; k < st->params.p[i].n_slices && method->targets; k++) {
            char name[256];
            n += marked_module(st, &st->params.p[i].slice[k], name);
        }
    if (modules) *modules = n;
    if (!e && method->targets && !n) e = no_match(m, st);
    if (!e && method->targets) e = name_modules(st, m, n);
    if (!e && method->saved) e = check_saved(st, method->saved(st->settings));
    if (!e && !st->params.n)
        e = fail(E_USAGE,
                 "method %s trains nothing of the model: it goes with a head (objective: classification, regression, token_classification)",
                 method->name);
    if (e) structure_free(st);
    return e;
}

void structure_free(struct structure *st) {
    param_free(&st->params);
    arena_free(&st->mem);
}

/* --- configuration ----------------------------------------------------------------------------------------------- */
static err read_config(const json_t *j, const char *path, arena *mem, const struct peft_method **method, const void **out) {
    const char *type = json_string_value(json_object_get(j, "peft_type"));
    if (!type && !config_of_hub(j)) return fail(E_INPUT, "%s: 'peft_type' is missing: not a PEFT adapter", path);
    *method = none_is(j) ? &method_none : type ? method_of_type(type) : method_of_hub();
    if (!*method) {
        str known = {0};
        method_types(&known);
        err e = fail(E_UNSUPPORTED, "%s: peft_type %s is not supported (supported: %s)", path, type, known.p);
        str_free(&known);
        return e;
    }
    TRY(head_check(j, path, (*method)->saved));
    void *settings = arena_alloc(mem, (*method)->settings);
    *out = settings;
    return settings ? (*method)->read(j, path, mem, settings) : fail(E_MEMORY, "out of memory");
}

static err load_config(const char *folder, arena *mem, const char **path, json_t **out) {
    json_error_t je;
    *path = arena_printf(mem, "%s/adapter_config.json", folder);
    if (!*path) return fail(E_MEMORY, "out of memory");
    *out = json_load_file(*path, JSON_REJECT_DUPLICATES, &je);
    return *out ? OK : fail(path_exists(*path) ? E_INPUT : E_USAGE, "%s: %s", *path, je.text);
}

err adapter_read_config(const char *folder, arena *mem, const struct peft_method **method, const void **settings) {
    const char *path;
    json_t *j;
    TRY(load_config(folder, mem, &path, &j));
    err e = read_config(j, path, mem, method, settings);
    json_decref(j);
    return e;
}

err adapter_read_head(const char *folder, arena *mem, struct head *head) {
    const char *path;
    json_t *j;
    TRY(load_config(folder, mem, &path, &j));
    err e = head_read(j, folder, mem, head);
    json_decref(j);
    return e;
}

err adapter_check_base(const char *folder, const struct model *m) {
    const char *path;
    json_t *j;
    arena mem = {0};
    err e = load_config(folder, &mem, &path, &j);
    if (!e) {
        const char *base = json_string_value(json_object_get(j, "base_model_name_or_path"));
        if (base && str_starts(base, "random:") && strcmp(base, m->path))
            e = fail(E_USAGE, "%s was trained on the random weights %s, for a benchmark: on %s it means nothing", folder, base, m->path);
        json_decref(j);
    }
    arena_free(&mem);
    return e;
}

/* --- tensors ----------------------------------------------------------------------------------------------------- */
static int64_t columns_of(const struct param *p) { return p->nd > 1 ? p->d[1] : 1; }

/* Where file row `row` lies in memory. Files have RoPE pairs half a head apart, GGUF's order has them side by side. */
static int64_t memory_row(const struct param_slice *s, int64_t row) {
    return s->row0 + (s->rope_heads && !s->columns ? rope_row_in_pairs(row, s->rows / s->rope_heads) : row);
}

/* The same of the columns of a slice that is some of a tensor's. */
static int64_t memory_column(const struct param *p, const struct param_slice *s, int64_t column) {
    return s->rope_heads ? rope_row_in_pairs(column, p->d[1] / s->rope_heads) : column;
}

static int64_t file_columns(const struct param *p, const struct param_slice *s) { return s->columns ? s->columns : columns_of(p); }

/* A file's tensor may be several slices, columns of it: the one that begins it stands for it. */
static bool begins_tensor(const struct param_slice *s) { return s->column0 == 0 && !s->again; }

static int count_tensors(const struct param_set *set) {
    int n = 0;
    for (int i = 0; i < set->n; i++)
        for (int k = 0; k < set->p[i].n_slices; k++) n += begins_tensor(&set->p[i].slice[k]);
    return n;
}

/* AdapterHub's "LAYER.output_adapters.adapters.NAME.adapter_up.weight"; our slices have it without the name. */
static void hub_name(const char *slice, const char *called, char name[512]) {
    const char *last = NULL;
    for (const char *at = slice; (at = strstr(at, ".adapters.")); at++) last = at + strlen(".adapters");
    if (last) snprintf(name, 512, "%.*s.%s%s", (int)(last - slice), slice, called, last);
    else snprintf(name, 512, "%s", slice);
}

/* PEFT puts its own model around the base's for most methods, not for soft prompts: a head's module is one level less deep there. */
void adapter_tensor_name(const struct structure *st, const struct param_slice *s, char name[512]) {
    const bool head = adapter_of_head(st, s);
    if (st->method->called) hub_name(s->name, st->method->called(st->settings), name);
    else
        snprintf(name, 512, "%s%s%s",
                 s->outer || (st->method->bare && head) ? "base_model."
                 : st->method->bare                     ? ""
                                                        : PREFIX,
                 head || s->outer ? "" : st->inside, s->name);
}

/* A slice in a weights' arena, and its numbers there: of row `row` of the file's, from the parameter's column c on. */
struct place {
    const struct param_set *set;
    const struct param *p;
    const struct param_slice *s;
    void *weights; /* read alone where a file is written */
};

static void get_numbers(const struct place *w, int64_t row, int64_t c, int64_t n, float *to) {
    param_read(w->set, w->p, w->weights, memory_row(w->s, row) * columns_of(w->p) + c, n, to);
}

static void put_numbers(const struct place *w, int64_t row, int64_t c, int64_t n, const float *from) {
    param_write(w->set, w->p, w->weights, memory_row(w->s, row) * columns_of(w->p) + c, n, from);
}

float *adapter_row(const struct param *p, const struct param_slice *s, const float *weights, int64_t row) {
    return (float *)weights + p->off / 4 + memory_row(s, row) * columns_of(p);
}

static bool plain(const struct file_form *f) { return f->less == 0 && !f->row; }

static struct tensor file_shape(const struct param *p, const struct param_slice *s) {
    if (s->beside) return (struct tensor){.nd = 2, .d = {s->rows * (s->beside == BESIDE_BELOW ? 2 : 1), p->d[1] * (s->beside == BESIDE_NEGATED ? 2 : 1)}};
    if (p->nd == 1 && s->form.shape == FILE_VECTOR) return (struct tensor){.nd = 1, .d = {s->rows}};
    if (p->nd == 1 && s->form.shape == FILE_ROW) return (struct tensor){.nd = 2, .d = {1, s->rows}};
    if (s->form.shape == FILE_ONE_OF) return (struct tensor){.nd = 3, .d = {1, s->rows, columns_of(p)}};
    if (s->turned) return (struct tensor){.nd = 2, .d = {columns_of(p), s->rows}};
    return (struct tensor){.nd = 2, .d = {s->of_rows ? s->of_rows : s->rows, file_columns(p, s)}};
}

/* core/params.h; n: of a vector, or of a matrix's row. */
void form_from_file(const struct file_form *f, float *x, int64_t n) {
    for (int64_t i = 0; i < n && !plain(f); i++) x[i] += f->less + (f->row ? f->row[i] : 0);
}

static void to_file(const struct file_form *f, float *x, int64_t n) {
    for (int64_t i = 0; i < n && !plain(f); i++) x[i] -= f->less + (f->row ? f->row[i] : 0);
}

/* A tensor's rows as numbers, one after the other, out of pieces of the file: a run whose memory is all in use reads its best weights again. */
enum { ROWS_BYTES = 64 << 10 };
struct row_reader {
    const struct tensors *ts;
    const struct tensor *t;
    int64_t columns, rows, next, here; /* of the file; the next to be read; how many of them are in the piece */
    size_t bytes;                      /* of a row */
    char *piece;
    float *row;
};

static err rows_begin(struct row_reader *q, const struct tensors *ts, const struct tensor *t, int64_t rows, int64_t columns) {
    *q = (struct row_reader){.ts = ts, .t = t, .rows = rows, .columns = columns, .bytes = dtype_row_bytes(t->dt, columns)};
    q->piece = malloc(q->bytes > ROWS_BYTES ? q->bytes : ROWS_BYTES);
    q->row = malloc((size_t)columns * sizeof *q->row + 1);
    return q->piece && q->row ? OK : fail(E_MEMORY, "%s: out of memory", ts->path);
}

/* Into q->row. */
static err rows_next(struct row_reader *q) {
    const int64_t fit = q->bytes && q->bytes < ROWS_BYTES ? ROWS_BYTES / (int64_t)q->bytes : 1, at = q->here ? q->next % fit : 0;
    if (!at) {
        q->here = q->rows - q->next < fit ? q->rows - q->next : fit;
        TRY(tensors_copy(q->ts, (const char *)q->t->data + q->bytes * (size_t)q->next, q->bytes * (size_t)q->here, q->piece));
    }
    dequantise_row(q->t->dt, q->piece + q->bytes * (size_t)at, q->row, q->columns);
    q->next++;
    return OK;
}

static void rows_end(struct row_reader *q) { free(q->piece), free(q->row); }

/* The file's rows are the parameter's columns. */
static err put_turned(struct row_reader *q, const struct place *w) {
    for (int64_t c = 0; c < q->rows; c++) {
        TRY(rows_next(q));
        for (int64_t r = 0; r < q->columns; r++) put_numbers(w, r, c, 1, q->row + r);
    }
    return OK;
}

/* --- a slice and what it began with (core/params.h, beside): rows of the file ---------------------------------------------- */
static void begun_row(const struct param *p, const struct param_slice *s, int64_t row, float *to) {
    const float *from = (const float *)s->from + (memory_row(s, row) - s->row0) * p->d[1];
    for (int64_t c = 0; c < p->d[1]; c++) to[c] = from[c] * (s->beside == BESIDE_NEGATED ? -s->times : s->times);
}

/* What it began with must be what this base gives, or the adapter is for another one. begun: room for a row. */
static err put_beside(struct row_reader *q, const struct place *w, float *begun) {
    const struct param *p = w->p;
    const struct param_slice *s = w->s;
    const int64_t columns = p->d[1];
    float most = 0, worst = 0;
    for (int64_t r = 0; r < q->rows; r++) {
        const bool own = r < s->rows, also = !own || s->beside == BESIDE_NEGATED;
        TRY(rows_next(q));
        if (own) put_numbers(w, r, 0, columns, q->row);
        if (also) begun_row(p, s, own ? r : r - s->rows, begun);
        for (int64_t c = 0; c < columns && also; c++) {
            const float off = fabsf(begun[c] - q->row[own ? columns + c : c]);
            most = fabsf(begun[c]) > most ? fabsf(begun[c]) : most, worst = off > worst ? off : worst;
        }
    }
    return worst <= 1e-3f * most ? OK
                                 : fail(E_INPUT,
                                        "%s: tensor %s has begun elsewhere than at this base's singular vectors: it is for another base, "
                                        "or no adapter of this start",
                                        q->ts->path, q->t->name);
}

static err write_beside(struct tensors_out *o, const struct place *w, float *piece) {
    const struct param *p = w->p;
    const struct param_slice *s = w->s;
    const bool right = s->beside == BESIDE_NEGATED;
    for (int64_t r = 0; r < s->rows * (right ? 1 : 2); r++) {
        if (r < s->rows) get_numbers(w, r, 0, p->d[1], piece);
        if (right || r >= s->rows) begun_row(p, s, right ? r : r - s->rows, piece + (right ? p->d[1] : 0));
        TRY(tensors_out_put(o, piece, (size_t)(p->d[1] * (right ? 2 : 1)) * sizeof *piece));
    }
    return OK;
}

/* Of each row of the file's tensor the columns that are the parameter's. */
static err put_columns(struct row_reader *q, const struct place *w) {
    const struct param *p = w->p;
    const struct param_slice *s = w->s;
    for (int64_t r = 0; r < q->rows; r++) {
        TRY(rows_next(q));
        for (int64_t c = 0; c < p->d[1]; c++) put_numbers(w, r, memory_column(p, s, c), 1, q->row + s->column0 + c);
    }
    return OK;
}

/* One row of a file may be a vector, whose numbers may change places. */
static err put_rows(struct row_reader *q, const struct place *w) {
    const bool vector = w->p->nd == 1;
    for (int64_t r = 0; r < q->rows; r++) {
        TRY(rows_next(q));
        form_from_file(&w->s->form, q->row, q->columns);
        if (!vector) put_numbers(w, r, 0, q->columns, q->row);
        for (int64_t k = 0; k < q->columns && vector; k++) put_numbers(w, k, 0, 1, q->row + k);
    }
    return OK;
}

/* A slice that is some rows of a tensor is read alone. */
static err slice_begin(struct row_reader *q, const struct tensors *ts, const struct tensor *t, const struct place *w) {
    const struct param_slice *s = w->s;
    if (s->turned) return rows_begin(q, ts, t, w->p->d[1], s->rows);
    if (s->beside) return rows_begin(q, ts, t, t->d[0], t->d[1]);
    if (s->columns) return rows_begin(q, ts, t, s->rows, s->columns);
    return w->p->nd == 1 ? rows_begin(q, ts, t, 1, s->rows) : rows_begin(q, ts, t, s->rows, w->p->d[1]);
}

static err put_slice(struct row_reader *q, const struct place *w) {
    const struct param_slice *s = w->s;
    if (!s->beside) return (s->turned ? put_turned : s->columns ? put_columns : put_rows)(q, w);
    float *begun = malloc((size_t)w->p->d[1] * sizeof *begun);
    err e = begun ? put_beside(q, w, begun) : fail(E_MEMORY, "%s: out of memory", q->ts->path);
    free(begun);
    return e;
}

/* AdapterHub saves of a bare model ("layers.0.", "model." being its head's) and of models that have one around it ("transformer.encoder."). */
static const struct tensor *hub_tensor(const struct tensors *ts, const char *name) {
    const struct tensor *t = tensors_find(ts, name);
    const char *dot = strchr(name, '.');
    char around[600];
    if (!t && dot) t = tensors_find(ts, dot + 1);
    if (!t) snprintf(around, sizeof around, "transformer.%s", name), t = tensors_find(ts, around);
    return t;
}

/* settings: of the folder. */
static err find_slice(const struct tensors *ts, const struct structure *st, const void *settings, const struct param_slice *s,
                      const struct tensor **t) {
    char name[512];
    adapter_tensor_name(st, s, name);
    if (st->method->called) hub_name(s->name, st->method->called(settings), name);
    *t = st->method->called ? hub_tensor(ts, name) : tensors_find(ts, name);
    if (!*t && s->also) {
        char also[512];
        snprintf(also, sizeof also, "%s%s%s", PREFIX, st->inside, s->also);
        *t = tensors_find(ts, also);
    }
    return *t ? OK : fail(E_INPUT, "%s: tensor %s is missing", ts->path, name);
}

static err read_slice(const struct tensors *ts, const struct structure *st, const void *settings, const struct place *w) {
    const struct param *p = w->p;
    const struct param_slice *s = w->s;
    const struct tensor *t;
    TRY(find_slice(ts, st, settings, s, &t));
    const struct tensor want = file_shape(p, s);
    bool fits = t->nd == want.nd;
    for (int k = 0; k < want.nd && fits; k++) fits = t->d[k] == want.d[k];
    const int last = want.nd > 2; /* a leading 1 is left out */
    if (!fits)
        return fail(E_INPUT, "%s: tensor %s has another shape than [%lld, %lld]: was it made for another model or rank?", ts->path, t->name,
                    (long long)want.d[last], (long long)(want.nd > 1 ? want.d[last + 1] : 1));
    TRY(tensor_readable(ts, t));
    struct row_reader q;
    err e = slice_begin(&q, ts, t, w);
    if (!e) e = put_slice(&q, w);
    rows_end(&q);
    return e;
}

static const char *file_apart(const struct structure *st) { return st->method->apart ? st->method->apart(st->settings) : NULL; }

static const char *file_of(const struct structure *st) { return method_file(st->method->called != NULL); }

/* AdapterHub's default is a pickle. */
static err no_pickle(const char *folder, const char *path) {
    char pickle[4096];
    snprintf(pickle, sizeof pickle, "%s/pytorch_adapter.bin", folder);
    if (path_exists(path) || !path_exists(pickle)) return OK;
    return fail(E_UNSUPPORTED,
                "%s is a pickle, which is not read here: save the adapter with save_adapter(folder, name, use_safetensors=True)", pickle);
}

/* PEFT saves the base's table or head beside a delta on it (save_embedding_layers): the base has it already. */
static int bases_beside(const struct tensors *ts, const struct structure *st) {
    static const char base[] = ".base_layer.weight";
    const char *const marks[] = {st->method->table_mark, st->method->head ? st->method->mark : NULL};
    int n = 0;
    for (int i = 0; i < ts->n; i++)
        for (int k = 0; k < 2; k++) {
            char name[512];
            const char *t = ts->t[i].name;
            if (!marks[k] || !str_ends(t, base)) continue;
            snprintf(name, sizeof name, "%.*s%s", (int)(strlen(t) - strlen(base)), t, marks[k]);
            n += tensors_find(ts, name) != NULL;
        }
    return n;
}

/* settings, head: the folder's own; head: the file of its classifier, or NULL. */
static err read_as(const char *folder, const struct structure *st, const void *settings, const char *head, void *weights) {
    char path[4096];
    struct tensors ts, of_its_own = {0};
    const char *apart = file_apart(st);
    snprintf(path, sizeof path, "%s/%s", folder, apart ? apart : file_of(st));
    if (apart && !path_exists(path))
        return fail(E_USAGE, "%s holds what its training came to, but not what it went on from: %s is missing", folder, apart);
    if (st->method->called) TRY(no_pickle(folder, path));
    TRY(tensors_open(path, &ts));
    const int n = count_tensors(&st->params);
    if (head) snprintf(path, sizeof path, "%s/%s", folder, head);
    err e = head ? tensors_open(path, &of_its_own) : OK;
    for (int i = 0; i < st->params.n && !e; i++)
        for (int k = 0; k < st->params.p[i].n_slices && !e; k++) {
            const struct place w = {&st->params, &st->params.p[i], &st->params.p[i].slice[k], weights};
            e = read_slice(head && adapter_of_head(st, w.s) ? &of_its_own : &ts, st, settings, &w);
        }
    if (!e && ts.n + of_its_own.n - bases_beside(&ts, st) != n)
        e = fail(E_INPUT, "%s holds %d tensors, this adapter's settings use %d", ts.path, ts.n + of_its_own.n, n);
    tensors_close(&ts);
    if (head) tensors_close(&of_its_own);
    return e;
}

err adapter_read(const char *folder, const struct structure *st, void *weights) { return read_as(folder, st, st->settings, st->head.file, weights); }

/* Is the folder's classifier the one of this structure? */
static err head_agrees(const char *folder, const struct structure *st, arena *mem, const char **file) {
    struct head have;
    TRY(adapter_read_head(folder, mem, &have));
    *file = have.file;
    if (head_same(&have, &st->head)) return OK;
    char is[64], wanted[64];
    if (have.classes && (!st->head.classes || have.kind != st->head.kind))
        return fail(E_USAGE, "%s holds %s: it goes on with objective: %s", folder, head_text(&have, is), head_objective(&have));
    if (!have.classes) return fail(E_USAGE, "%s holds no classifier; this one would be %s", folder, head_text(&st->head, wanted));
    if (have.kind == HEAD_NUMBERS)
        return fail(E_USAGE, "%s holds %s, these data want %s", folder, head_text(&have, is), head_text(&st->head, wanted));
    return fail(E_USAGE, "%s was made for other classes (%d) than these (%d), or for the same in another order: name them with `labels`",
                folder, have.classes, st->head.classes);
}

/* A folder of another form than the structure's (core/site.h, finished): by a structure of its own. */
static err adopt(const char *folder, const struct model *m, const struct structure *st, const void *settings, void *weights) {
    struct structure own;
    TRY(structure_init_head(&own, m, st->method, settings, &st->head, NULL));
    float *have = arena_f32(own.params.bytes);
    err e = have ? adapter_read(folder, &own, have) : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < own.params.n && !e; i++)
        if (param_of_slice(&st->params, own.params.p[i].slice->name) < 0)
            e = fail(E_USAGE, "%s trains %s too, which the configuration's target_modules leave out", folder, own.params.p[i].slice->name);
    if (!e) st->method->adopt(&(struct numbers){settings, &own.params, have}, &(struct numbers){st->settings, &st->params, weights});
    if (have) arena_f32_free(have, own.params.bytes);
    structure_free(&own);
    return e;
}

static err same_method(const char *folder, const struct model *m, const struct structure *st, arena *mem, const void **have) {
    const struct peft_method *method;
    TRY(adapter_check_base(folder, m));
    TRY(adapter_read_config(folder, mem, &method, have));
    if (method != st->method) return fail(E_USAGE, "%s is a %s adapter, the configuration says %s", folder, method->name, st->method->name);
    return OK;
}

static err modules_agree(const char *folder, const struct structure *st, const void *have) {
    for (int i = 0; i < st->params.n; i++)
        for (int k = 0; k < st->params.p[i].n_slices; k++) {
            char module[256];
            if (st->method->agrees && marked_module(st, &st->params.p[i].slice[k], module))
                TRY(st->method->agrees(have, st->settings, module, folder));
        }
    return OK;
}

err adapter_settings(const char *folder, const struct model *m, const struct structure *st, arena *mem, const void **have) {
    TRY(same_method(folder, m, st, mem, have));
    return modules_agree(folder, st, *have);
}

err adapter_load(const char *folder, const struct model *m, const struct structure *st, void *weights) {
    const void *have;
    const char *head = NULL;
    arena mem = {0};
    err e = same_method(folder, m, st, &mem, &have);
    if (!e) e = head_agrees(folder, st, &mem, &head);
    if (!e) e = modules_agree(folder, st, have);
    if (!e)
        e = st->method->adopt && !st->method->same(have, st->settings) ? adopt(folder, m, st, have, weights)
                                                                       : read_as(folder, st, have, head, weights);
    arena_free(&mem);
    return e;
}

static err write_config(const char *path, const struct structure *st, const char *base_model) {
    json_t *j = st->method->called ? json_pack("{s:s}", "base_model_name_or_path", base_model)
                                   : json_pack("{s:s, s:n, s:s, s:n, s:s, s:b}", "peft_type", st->method->peft_type, "auto_mapping",
                                               "base_model_name_or_path", base_model, "revision", "task_type",
                                               st->head_module ? st->head.kind == HEAD_TAGS ? "TOKEN_CLS" : "SEQ_CLS"
                                               : st->seq2seq   ? "SEQ_2_SEQ_LM"
                                                               : "CAUSAL_LM",
                                               "inference_mode", 1);
    if (!j) return fail(E_MEMORY, "out of memory");
    if (st->method->linears) json_object_set_new(j, "fan_in_fan_out", json_boolean(st->fan_in_fan_out)); /* methods of vectors do not know it */
    err e = st->method->write(st->settings, &st->named, j);
    json_t *saved = json_object_get(j, "modules_to_save");
    if (!e && st->head_module &&
        (json_is_array(saved) ? json_array_append_new(saved, json_string(st->head_module))
                              : json_object_set_new(j, "modules_to_save", json_pack("[s]", st->head_module))))
        e = fail(E_MEMORY, "out of memory");
    char *text = e ? NULL : json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(9));
    json_decref(j);
    if (!text) return e ? e : fail(E_MEMORY, "out of memory");
    e = file_write(path, text, strlen(text));
    free(text);
    return e;
}

/* A slice on its way into a file: as it lies, or, where RoPE's rows change places, a number is taken off or rows become columns, a piece
 * at a time through `piece`, of WRITE_PIECE floats or one row of the file. */
enum { WRITE_PIECE = 1 << 14 };

/* Files have a slice in its arena's own type, but where a number is taken off: that may want more bits. */
static dtype file_dtype(const struct place *w) {
    dtype dt;
    param_place(w->set, w->p, w->weights, &dt);
    return plain(&w->s->form) ? dt : DT_F32;
}

/* n numbers of a piece into the file, as `dt`: bf16 where they come from bf16, so nothing is rounded. */
static err put_piece(struct tensors_out *o, dtype dt, float *piece, int64_t n) {
    if (dt != DT_F32) quantise_row(dt, piece, piece, n); /* in place: of each number two bytes lie before the next */
    return tensors_out_put(o, piece, dtype_row_bytes(dt, n));
}

static err write_slice(struct tensors_out *o, const struct place *w, float *piece) {
    const struct param *p = w->p;
    const struct param_slice *s = w->s;
    const int64_t columns = columns_of(p), rows = s->turned ? columns : s->rows, of_each = s->turned ? s->rows : columns;
    const dtype as = file_dtype(w);
    dtype dt;
    const char *at = param_place(w->set, p, w->weights, &dt);
    if (s->beside) return write_beside(o, w, piece);
    if (!s->rope_heads && !s->turned && plain(&s->form))
        return tensors_out_put(o, at + dtype_row_bytes(dt, s->row0 * columns), dtype_row_bytes(dt, s->rows * columns));
    const int64_t at_once = of_each < WRITE_PIECE ? WRITE_PIECE / of_each : 1;
    float *row = piece + (at_once > 1 ? WRITE_PIECE : of_each); /* of a turned slice: what one of its rows gives to the piece */
    for (int64_t r0 = 0; r0 < rows; r0 += at_once) {
        const int64_t n = rows - r0 < at_once ? rows - r0 : at_once;
        for (int64_t r = 0; r < n && !s->turned; r++) get_numbers(w, r0 + r, 0, columns, piece + r * columns);
        for (int64_t k = 0; k < s->rows && s->turned; k++) {
            get_numbers(w, k, r0, n, row);
            for (int64_t r = 0; r < n; r++) piece[r * s->rows + k] = row[r];
        }
        for (int64_t r = 0; r < n; r++) to_file(&s->form, piece + r * of_each, of_each);
        TRY(put_piece(o, as, piece, n * of_each));
    }
    return OK;
}

/* A tensor that lies in several parameters, columns of it in each: row by row through `piece`. */
static err write_columns(struct tensors_out *o, const struct structure *st, const struct place *first, float *piece) {
    for (int64_t r = 0; r < first->s->rows; r++) {
        for (int i = 0; i < st->params.n; i++)
            for (int k = 0; k < st->params.p[i].n_slices; k++) {
                const struct param *p = &st->params.p[i];
                const struct param_slice *s = &p->slice[k];
                if (!s->columns || strcmp(s->name, first->s->name)) continue;
                const struct place w = {&st->params, p, s, first->weights};
                for (int64_t c = 0; c < p->d[1]; c++) get_numbers(&w, r, memory_column(p, s, c), 1, piece + s->column0 + c);
            }
        TRY(put_piece(o, file_dtype(first), piece, first->s->columns));
    }
    return OK;
}

/* The same list in the same order. */
static err write_tensors(const char *path, const struct structure *st, const void *weights, const struct tensor *t, int n) {
    struct tensors_out o;
    int64_t most = WRITE_PIECE;
    for (int i = 0; i < n; i++) most = t[i].d[t[i].nd - 1] > most ? t[i].d[t[i].nd - 1] : most;
    float *piece = malloc(2 * (size_t)most * sizeof *piece);
    err e = piece ? tensors_out_safetensors(&o, path, t, n, 0) : fail(E_MEMORY, "%s: out of memory", path);
    if (!e) {
        for (int i = 0; i < st->params.n && !e; i++)
            for (int k = 0; k < st->params.p[i].n_slices && !e; k++) {
                const struct place w = {&st->params, &st->params.p[i], &st->params.p[i].slice[k], (void *)weights};
                if (begins_tensor(w.s)) e = w.s->columns ? write_columns(&o, st, &w, piece) : write_slice(&o, &w, piece);
            }
        if (e) tensors_out_abandon(&o);
        else e = tensors_out_commit(&o);
    }
    free(piece);
    return e;
}

static err write_made(const char *folder, const struct structure *st, const void *weights, arena *mem) {
    struct made_matrix m;
    TRY(st->method->made(st->settings, &st->params, weights, mem, &m));
    const struct tensor t = {.name = m.name, .dt = DT_F32, .nd = 2, .d = {m.rows, m.columns}, .data = m.data, .bytes = (size_t)(m.rows * m.columns) * 4};
    return safetensors_write(arena_printf(mem, "%s/adapter_model.safetensors", folder), &t, 1);
}

static err describe_tensor(const struct structure *st, const struct param *p, const struct param_slice *s, arena *mem, struct tensor *t) {
    char name[512];
    adapter_tensor_name(st, s, name);
    *t = file_shape(p, s);
    t->name = arena_str(mem, name);
    t->dt = file_dtype(&(struct place){&st->params, p, s, NULL});
    t->bytes = dtype_row_bytes(t->dt, 1);
    for (int k = 0; k < t->nd; k++) t->bytes *= (size_t)t->d[k];
    return t->name ? OK : fail(E_MEMORY, "out of memory");
}

err adapter_stretching(const char *folder, arena *mem, const char **text) {
    str bytes = {0};
    const char *path = arena_printf(mem, "%s/%s", folder, STRETCHED);
    *text = NULL;
    if (!path || !path_exists(path)) return path ? OK : fail(E_MEMORY, "out of memory");
    err e = file_read(path, &bytes);
    if (!e && !(*text = arena_strn(mem, bytes.p ? bytes.p : "", bytes.n))) e = fail(E_MEMORY, "out of memory");
    str_free(&bytes);
    return e;
}

err adapter_stretch(const char *folder, bool asked, struct model *m) {
    arena mem = {0};
    const char *text;
    err e = adapter_stretching(folder, &mem, &text);
    const char *where = e ? NULL : arena_printf(&mem, "%s/%s", folder, STRETCHED);
    if (!e && text && m->as_filed)
        e = fail(E_USAGE, "%s was trained with RoPE stretched, an adapter that is open on %s already was not: one model at a time", folder, m->path);
    else if (!e && text) e = where ? model_stretch_as(m, text, asked, where) : fail(E_MEMORY, "out of memory");
    else if (!e && m->stretched)
        e = fail(E_USAGE, "%s was trained with RoPE as %s has it, which another adapter has stretched by now: one model at a time", folder, m->path);
    else if (!e) m->as_filed = true;
    arena_free(&mem);
    return e;
}

/* PEFT and AdapterHub know no such file and leave it alone. */
static err write_stretched(const char *folder, const struct structure *st, arena *mem) {
    const char *path = arena_printf(mem, "%s/%s", folder, STRETCHED);
    if (!path) return fail(E_MEMORY, "out of memory");
    if (st->stretched) return file_write(path, st->stretched, strlen(st->stretched));
    return unlink(path) && errno != ENOENT ? fail(E_IO, "%s: %s", path, strerror(errno)) : OK;
}

err adapter_write(const char *folder, const struct structure *st, const void *weights, const char *base_model) {
    arena mem = {0};
    const int n = count_tensors(&st->params);
    struct tensor *t = arena_alloc(&mem, (size_t)n * sizeof *t + 1);
    err e = t ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0, at = 0; i < st->params.n && !e; i++)
        for (int k = 0; k < st->params.p[i].n_slices && !e; k++) {
            const struct param_slice *s = &st->params.p[i].slice[k];
            if (begins_tensor(s)) e = describe_tensor(st, &st->params.p[i], s, &mem, &t[at++]);
        }
    const char *apart = file_apart(st);
    if (!e) e = dir_make(folder);
    if (!e) e = write_tensors(arena_printf(&mem, "%s/%s", folder, apart ? apart : file_of(st)), st, weights, t, n);
    if (!e && apart) e = write_made(folder, st, weights, &mem);
    if (!e) e = write_config(arena_printf(&mem, "%s/adapter_config.json", folder), st, base_model);
    if (!e) e = head_write_labels(&st->head, folder);
    if (!e) e = write_stretched(folder, st, &mem);
    arena_free(&mem);
    return e;
}
