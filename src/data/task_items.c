/* Records into items: each by the task's templates over its fields. See task.h. */
#include "base/str.h"
#include "data/records.h"
#include "data/task.h"
#include "io/jinja.h"
#include <stdlib.h>
#include <string.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

/* One of doc_to_text, doc_to_choice, doc_to_target, description: a field, a template, a list of texts, or nothing. */
struct form {
    const char *key, *field;
    jinja *template;
    const json_t *fixed;
};
enum { TEXT, CHOICE, TARGET, DESCRIPTION, FORMS };
struct reading {
    const struct task_reading *ask;
    struct form form[FORMS];
    struct jinja_text text;
    enum task_kind kind;
    bool begun;
};
static const char *const keys[FORMS] = {"doc_to_text", "doc_to_choice", "doc_to_target", "description"};
static const char *const usual[FORMS][9] = {{"question", "query", "prompt", "input", "text", "ctx", "context", NULL},
                                            {"choices", "options", "endings", NULL},
                                            {"answer", "label", "gold", "target", "completion", "output", NULL}};

static err template_of(struct form *f, const char *source) {
    str text = {0};
    const char *open = strstr(source, "{{"), *close = strstr(source, "}}");
    const bool lists = !strcmp(f->key, keys[CHOICE]); /* the expression's value, not its print */
    if (lists && (open != source || !close || close[2]))
        return fail(E_UNSUPPORTED, "doc_to_choice: '%.80s' is no field and no single {{ expression }}", source);
    if (lists) str_addf(&text, "{{ (%.*s) | tojson }}", (int)(close - source - 2), source + 2);
    else str_adds(&text, source);
    err e = text.failed ? out_of_memory() : jinja_parse_plain(f->key, text.p ? text.p : "", text.n, &f->template);
    str_free(&text);
    return e;
}

static err no_field(const char *key, const char *name, const json_t *record) {
    str have = {0};
    const char *field;
    json_t *v;
    json_object_foreach((json_t *)record, field, v) if (have.n < 200) str_addf(&have, "%s%.40s", have.n ? ", " : "", field);
    err e = fail(E_INPUT, "%s: there is no field '%.60s' (the record has: %s); a template names fields as {{field}}", key, name,
                 have.p ? have.p : "");
    str_free(&have);
    return e;
}

static const char *usual_field(int which, const json_t *record) {
    for (const char *const *name = usual[which]; *name; name++)
        if (json_object_get(record, *name)) return *name;
    return NULL;
}

static err form_begin(struct form *f, const json_t *said, int which, const json_t *record) {
    const char *s = json_string_value(said);
    *f = (struct form){.key = keys[which]};
    if (said && !s) return f->fixed = said, OK;
    if (s && (strstr(s, "{{") || strstr(s, "{%") || which == DESCRIPTION)) return template_of(f, s);
    if (s && !json_object_get(record, s)) return no_field(f->key, s, record);
    f->field = s ? s : usual_field(which, record);
    if (!f->field && (which == TEXT || which == TARGET))
        return fail(E_INPUT, "which field is the %s? None of the usual names (%s, %s, ...) is there: say it with %s",
                    which == TEXT ? "question" : "answer", usual[which][0], usual[which][1], which == TEXT ? "--template" : "--target");
    return OK;
}

/* The first record says which of the usual fields there are. */
static err begin(struct reading *r, const json_t *record) {
    const json_t *const said[FORMS] = {r->ask->text, r->ask->choice, r->ask->target, r->ask->description};
    r->begun = true;
    for (int i = 0; i < FORMS; i++)
        if (i != CHOICE || !r->ask->writes) TRY(form_begin(&r->form[i], said[i], i, record));
    r->kind = r->form[CHOICE].field || r->form[CHOICE].template || r->form[CHOICE].fixed ? TASK_CHOICE : TASK_WRITE;
    const json_t *target = r->form[TARGET].fixed;
    if (r->form[TEXT].fixed || r->form[DESCRIPTION].fixed) return fail(E_INPUT, "doc_to_text and description are texts");
    if (target && !json_is_array(target) && (r->kind == TASK_WRITE || !json_is_integer(target)))
        return fail(E_INPUT, "doc_to_target is a field, a template, a list or an option's number");
    return OK;
}

static err render(struct reading *r, const struct form *f, const json_t *record) {
    return jinja_render(f->template, &(struct jinja_context){.fields = record}, &r->text);
}

/* A string, or a number as Python prints it; NULL: neither. */
static const char *text_of(arena *mem, const json_t *v) {
    if (json_is_string(v)) return arena_strn(mem, json_string_value(v), json_string_length(v));
    return json_is_integer(v) ? arena_printf(mem, "%lld", (long long)json_integer_value(v)) : NULL;
}

static err get_text(struct reading *r, int which, const json_t *record, const char **out) {
    const struct form *f = &r->form[which];
    *out = NULL;
    if (f->template) {
        TRY(render(r, f, record));
        *out = arena_strn(r->ask->mem, r->text.text.p ? r->text.text.p : "", r->text.text.n);
        return *out ? OK : out_of_memory();
    }
    if (!f->field) return OK;
    if (!json_object_get(record, f->field)) return no_field(f->key, f->field, record);
    *out = text_of(r->ask->mem, json_object_get(record, f->field));
    return *out ? OK : fail(E_INPUT, "%s: '%.60s' holds no text", f->key, f->field);
}

static err texts_of(struct reading *r, const char *key, const json_t *list, struct item *it) {
    const size_t n = json_array_size(list);
    it->choice = arena_alloc(r->ask->mem, (n + 1) * sizeof *it->choice);
    if (!it->choice) return out_of_memory();
    for (it->n = 0; it->n < (int)n; it->n++)
        if (!(it->choice[it->n] = text_of(r->ask->mem, json_array_get(list, (size_t)it->n))))
            return fail(E_INPUT, "%s: number %d is no text", key, it->n);
    return OK;
}

static err get_choices(struct reading *r, const json_t *record, struct item *it) {
    const struct form *f = &r->form[CHOICE];
    json_t *made = NULL;
    const json_t *list = f->fixed ? f->fixed : f->field ? json_object_get(record, f->field) : NULL;
    if (f->template) {
        TRY(render(r, f, record));
        list = made = json_loadb(r->text.text.p ? r->text.text.p : "", r->text.text.n, JSON_DECODE_ANY, NULL);
    }
    if (json_is_object(list)) list = json_object_get(list, "text"); /* ARC's {"text": [...], "label": [...]} */
    err e = json_is_array(list) ? texts_of(r, f->key, list, it) : fail(E_INPUT, "%s gives no list of options", f->key);
    for (int k = 0; k < it->n && !e; k++)
        if (bytes_are_blank(it->choice[k], strlen(it->choice[k])))
            e = fail(E_INPUT, "option number %d is blank: there is nothing to score", k);
    if (!e && it->n < 2) e = fail(E_INPUT, "%d option%s: there is nothing to choose from", it->n, it->n == 1 ? "" : "s");
    json_decref(made);
    return e;
}

static err right_number(struct item *it, json_int_t i) {
    if (i < 0 || i >= it->n) return fail(E_INPUT, "the answer is number %lld of %d options (they are counted from 0)", (long long)i, it->n);
    it->right = (int)i;
    return OK;
}

static err right_text(struct item *it, const char *text) {
    for (int i = 0; i < it->n; i++)
        if (!strcmp(it->choice[i], text)) return it->right = i, OK;
    return fail(E_INPUT, "the answer '%.60s' is none of the %d options ('%.60s', ...)", text, it->n, it->choice[0]);
}

static err get_right(struct reading *r, const json_t *record, struct item *it) {
    const struct form *f = &r->form[TARGET];
    const json_t *v = f->fixed ? f->fixed : f->field ? json_object_get(record, f->field) : NULL;
    if (f->template) {
        TRY(render(r, f, record));
        const str *s = &r->text.text;
        const bool number = s->n && s->n < 10 && strspn(s->p, "0123456789") == s->n;
        return number ? right_number(it, atoi(s->p)) : right_text(it, s->p ? s->p : "");
    }
    if (!v) return no_field(f->key, f->field, record);
    if (json_is_array(v)) return fail(E_UNSUPPORTED, "several right options are not counted here");
    if (json_is_integer(v)) return right_number(it, json_integer_value(v));
    return json_is_string(v) ? right_text(it, json_string_value(v)) : fail(E_INPUT, "%s: an option's number or its text is wanted", f->key);
}

/* The answers that are right: one, or those of a list. */
static err get_answers(struct reading *r, const json_t *record, struct item *it) {
    const struct form *f = &r->form[TARGET];
    const json_t *v = f->fixed ? f->fixed : f->field ? json_object_get(record, f->field) : NULL;
    if (json_is_array(v)) {
        TRY(texts_of(r, f->key, v, it));
        return it->n ? OK : fail(E_INPUT, "%s: an empty list", f->key);
    }
    it->n = 1;
    it->choice = arena_alloc(r->ask->mem, sizeof *it->choice);
    return it->choice ? get_text(r, TARGET, record, it->choice) : out_of_memory();
}

static err read_record(struct reading *r, const json_t *record, struct item *it) {
    if (!r->begun) TRY(begin(r, record));
    TRY(get_text(r, TEXT, record, &it->text));
    TRY(get_text(r, DESCRIPTION, record, &it->description));
    if (!it->description) it->description = "";
    if (r->kind == TASK_CHOICE) TRY(get_choices(r, record, it));
    TRY(r->kind == TASK_CHOICE ? get_right(r, record, it) : get_answers(r, record, it));
    char *dump = json_dumps(record, JSON_COMPACT | JSON_SORT_KEYS);
    it->record = dump ? arena_str(r->ask->mem, dump) : NULL;
    free(dump);
    return it->record ? OK : out_of_memory();
}

static err add(struct reading *r, const char *path, const struct extent *x, struct items *out) {
    json_error_t je;
    json_t *record = json_loadb(x->p, x->n, JSON_REJECT_DUPLICATES, &je);
    err e = OK;
    if (out->n == out->cap) {
        const int cap = out->cap ? 2 * out->cap : 64;
        struct item *v = arena_alloc(r->ask->mem, (size_t)cap * sizeof *v);
        if (!v) e = out_of_memory();
        else if (out->n) memcpy(v, out->v, (size_t)out->n * sizeof *v);
        if (v) out->v = v, out->cap = cap;
    }
    if (!e && !json_is_object(record))
        e = record ? fail(E_INPUT, "a record is a JSON object") : fail(E_INPUT, "not valid JSON: %s", je.text);
    if (!e) out->v[out->n] = (struct item){.path = path, .line = x->line}, e = read_record(r, record, &out->v[out->n]);
    if (e) e = fail_in(e, "%s:%d", path, x->line);
    else out->n++;
    json_decref(record);
    return e;
}

err task_items(const struct task_reading *ask, const char *path, int limit, struct items *out, enum task_kind *kind) {
    struct reading r = {.ask = ask};
    struct text_file t;
    struct scanner s;
    struct extent x;
    bool found = true;
    size_t first = 0;
    TRY(text_file_open(path, UINT64_MAX, &t));
    while (first < t.n && t.p[first] && strchr(" \t\r\n", t.p[first])) first++;
    scan_begin(&s, &t, first < t.n && t.p[first] == '[' ? IN_ARRAY : IN_JSONL);
    err e = OK;
    while (!e && (!limit || out->n < limit) && !(e = scan_next(&s, &x, &found)) && found) e = add(&r, path, &x, out);
    scan_end(&s);
    text_file_close(&t);
    for (int i = 0; i < FORMS; i++) jinja_free(r.form[i].template);
    jinja_text_free(&r.text);
    if (!e && !out->n) e = fail(E_INPUT, "%s: no record in it", path);
    *kind = r.kind;
    return e;
}
