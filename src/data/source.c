/* Lines to records. source.h says what is accepted and what is refused.
 *
 * One loop walks the lines; parse_line() turns a line into a record and knows neither the file's name nor the line's
 * number: the loop puts "file:line: " before whatever it complains of, so no complaint can lack them. JSON itself is
 * jansson's work (syntax, UTF-8, depth); plain lines are checked here. Every string that a record keeps is copied into
 * the source's arena, so neither the file nor the JSON outlives the parse. */
#include "data/source.h"
#include "base/file.h"
#include "base/str.h"
#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    struct source *s;
    enum source_want want;
    const char *field, *field2;
    bool json;
    int cap; /* records that s->r has room for */
};

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

static bool blank(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\f\v", p[i]) || !p[i]) return false;
    return true;
}

static const char *type_name(const json_t *v) {
    static const char *const name[] = {"an object", "an array",  "a string",  "a number",
                                       "a number",  "a boolean", "a boolean", "null"};
    return name[json_typeof(v)];
}

/* "no field X", with the fields that are there: a misnamed field is the commonest mistake. */
static err missing(const json_t *obj, const char *what) {
    str have = {0};
    const char *key;
    json_t *v;
    int shown = 0;
    json_object_foreach((json_t *)obj, key, v) {
        if (strlen(key) > 40 || shown == 8) continue;
        str_addf(&have, "%s\"%s\"", shown++ ? ", " : "", key);
    }
    err e = have.n ? fail(E_INPUT, "no %s (the line has %s)", what, have.p) : fail(E_INPUT, "no %s", what);
    str_free(&have);
    return e;
}

static err get_string(struct source *s, const json_t *obj, const char *key, const char **out) {
    const json_t *v = json_object_get(obj, key);
    if (!v) {
        str what = {0};
        str_addf(&what, "field \"%.60s\"", key);
        err e = what.failed ? out_of_memory() : missing(obj, what.p);
        str_free(&what);
        return e;
    }
    if (!json_is_string(v)) return fail(E_INPUT, "\"%.60s\" is %s, not a string", key, type_name(v));
    if (blank(json_string_value(v), json_string_length(v))) return fail(E_INPUT, "\"%.60s\" holds no text", key);
    *out = arena_strn(&s->mem, json_string_value(v), json_string_length(v));
    return *out ? OK : out_of_memory();
}

static err get_turn(struct source *s, const json_t *obj, struct chat_message *t) {
    static const char *const roles[] = {"system", "user", "assistant", "tool", NULL};
    if (!json_is_object(obj)) return fail(E_INPUT, "is %s, not an object", type_name(obj));
    TRY(get_string(s, obj, "role", &t->role));
    TRY(get_string(s, obj, "content", &t->content));
    for (int i = 0; roles[i]; i++)
        if (!strcmp(t->role, roles[i])) return OK;
    return fail(E_INPUT, "unknown role \"%.40s\" (supported: system, user, assistant, tool)", t->role);
}

static err get_turns(struct source *s, const json_t *list, struct record *r) {
    if (!json_is_array(list)) return fail(E_INPUT, "\"messages\" is %s, not an array", type_name(list));
    size_t n = json_array_size(list);
    if (n > INT_MAX) return fail(E_INPUT, "\"messages\" has %zu turns", n);
    struct chat_message *t = arena_alloc(&s->mem, n * sizeof *t);
    if (!t) return out_of_memory();
    bool answered = false;
    for (size_t i = 0; i < n; i++) {
        err e = get_turn(s, json_array_get(list, i), &t[i]);
        if (e) return fail_in(e, "\"messages\"[%zu]", i);
        answered |= !strcmp(t[i].role, "assistant");
    }
    if (!answered) return fail(E_INPUT, "\"messages\" has no assistant's turn: there is nothing to learn");
    r->turns = t;
    r->n_turns = (int)n;
    return OK;
}

static err get_pair(const struct reader *rd, const json_t *obj, struct record *r) {
    TRY(get_string(rd->s, obj, rd->field ? rd->field : "prompt", &r->prompt));
    return get_string(rd->s, obj, rd->field2 ? rd->field2 : "completion", &r->completion);
}

static err get_record(const struct reader *rd, const json_t *obj, struct record *r) {
    if (rd->want == WANT_TEXT) return get_string(rd->s, obj, rd->field ? rd->field : "text", &r->text);
    if (rd->want == WANT_PAIR) return get_pair(rd, obj, r);
    const json_t *turns = json_object_get(obj, "messages");
    bool pair = json_object_get(obj, rd->field ? rd->field : "prompt");
    if (turns && pair) return fail(E_INPUT, "has both \"messages\" and a prompt: which one is meant? Remove one");
    if (turns) return get_turns(rd->s, turns, r);
    if (!pair) return missing(obj, "\"messages\" and no \"prompt\" with \"completion\"");
    return get_pair(rd, obj, r);
}

static err parse_json(const struct reader *rd, const char *p, size_t n, struct record *r) {
    json_error_t why;
    /* Numbers are never read: as reals, an identifier beyond 64 bits does not spoil the line. */
    json_t *v = json_loadb(p, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, &why);
    if (!v && json_error_code(&why) == json_error_null_character)
        return fail(E_INPUT, "a NUL (\\u0000) inside a string");
    if (!v && json_error_code(&why) == json_error_out_of_memory) return out_of_memory();
    if (!v)
        return fail(E_INPUT, "not a JSON object on one line: %s (column %d)%s", why.text, why.column,
                    *p == '[' ? "; a JSON array must be rewritten as one object per line" : "");
    err e = json_is_object(v) ? get_record(rd, v, r) : fail(E_INPUT, "is %s, not a JSON object", type_name(v));
    json_decref(v);
    return e;
}

static err parse_plain(const struct reader *rd, const char *p, size_t n, struct record *r) {
    if (p[n - 1] == '\r') n--;
    unsigned cp;
    for (size_t i = 0, len; i < n; i += len) {
        len = (size_t)utf8_decode(p + i, n - i, &cp);
        if (!len) return fail(E_INPUT, "invalid UTF-8 (byte 0x%02x at column %zu)", (unsigned char)p[i], i + 1);
        if (!cp) return fail(E_INPUT, "a NUL at column %zu: not a text file?", i + 1);
    }
    r->text = arena_strn(&rd->s->mem, p, n);
    return r->text ? OK : out_of_memory();
}

static err parse_line(struct reader *rd, const char *p, size_t n, int line) {
    struct source *s = rd->s;
    if (s->n == rd->cap) {
        int cap = rd->cap ? (rd->cap > INT_MAX / 2 ? INT_MAX : rd->cap * 2) : 64;
        struct record *r = s->n == INT_MAX ? NULL : realloc(s->r, (size_t)cap * sizeof *r);
        if (!r) return out_of_memory();
        s->r = r;
        rd->cap = cap;
    }
    struct record *r = &s->r[s->n];
    *r = (struct record){.line = line};
    TRY(rd->json ? parse_json(rd, p, n, r) : parse_plain(rd, p, n, r));
    s->n++;
    return OK;
}

static err parse_lines(struct reader *rd, const char *p, size_t n) {
    const char *end = p + n;
    if (n >= 3 && !memcmp(p, "\xEF\xBB\xBF", 3)) p += 3;
    for (int line = 1; p < end; line++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t len = (size_t)((stop ? stop : end) - p);
        err e = line == INT_MAX ? fail(E_INPUT, "too many lines") : blank(p, len) ? OK : parse_line(rd, p, len, line);
        if (e) return fail_in(e, "%s:%d", rd->s->path, line);
        p += len + (stop != NULL);
    }
    return rd->s->n ? OK : fail(E_INPUT, "%s: holds no records (%zu bytes)", rd->s->path, n);
}

err source_parse(const char *path, const void *bytes, size_t n, enum source_want want, const char *field,
                 const char *field2, struct source *s) {
    *s = (struct source){0};
    struct reader rd = {s, want, field, field2, str_ends(path, ".jsonl") || str_ends(path, ".json"), 0};
    if (!rd.json && want != WANT_TEXT)
        return fail(E_USAGE, "%s: pairs and conversations need a .jsonl file (one JSON object per line)", path);
    s->path = arena_str(&s->mem, path);
    err e = s->path ? parse_lines(&rd, bytes, n) : out_of_memory();
    bytes_hash(bytes, n, s->hash);
    if (e) source_close(s);
    return e;
}

err source_open(const char *path, enum source_want want, const char *field, const char *field2, struct source *s) {
    struct file_map m;
    *s = (struct source){0};
    TRY(file_map(path, &m));
    err e = source_parse(path, m.p, m.n, want, field, field2, s);
    file_unmap(&m);
    return e;
}

void source_close(struct source *s) {
    free(s->r);
    arena_free(&s->mem);
    *s = (struct source){0};
}
