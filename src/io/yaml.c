/* See yaml.h. */
#include "io/yaml.h"
#include "base/file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { FILE_MOST = 1 << 20, DEPTH_MOST = 32 };

struct reader {
    const char *path;
    yaml_parser_t p;
    yaml_event_t ev; /* the current one */
    int depth;
};

static size_t line_of(const struct reader *r) { return r->ev.start_mark.line + 1; }

void yaml_marks(const yaml_event_t *e, const void **anchor, const char **tag) {
    const yaml_char_t *t = NULL;
    *anchor = NULL;
    switch (e->type) {
    case YAML_ALIAS_EVENT: *anchor = e; break;
    case YAML_SCALAR_EVENT: *anchor = e->data.scalar.anchor, t = e->data.scalar.tag; break;
    case YAML_SEQUENCE_START_EVENT: *anchor = e->data.sequence_start.anchor, t = e->data.sequence_start.tag; break;
    case YAML_MAPPING_START_EVENT: *anchor = e->data.mapping_start.anchor, t = e->data.mapping_start.tag; break;
    default: break;
    }
    *tag = (const char *)t;
}

static err next_event(struct reader *r) {
    yaml_event_delete(&r->ev);
    if (!yaml_parser_parse(&r->p, &r->ev)) {
        const yaml_parser_t *p = &r->p;
        if (p->error == YAML_MEMORY_ERROR) return fail(E_MEMORY, "out of memory");
        return fail(E_INPUT, "%s:%zu: not valid YAML: %s%s%s", r->path, p->problem_mark.line + 1, p->context ? p->context : "",
                    p->context ? ", " : "", p->problem ? p->problem : "unreadable");
    }
    const void *anchor;
    const char *tag;
    yaml_marks(&r->ev, &anchor, &tag);
    if (anchor) return fail(E_UNSUPPORTED, "%s:%zu: anchors and aliases (&name, *name) are not read", r->path, line_of(r));
    if (tag) return fail(E_UNSUPPORTED, "%s:%zu: the tag %.60s is not read: Python code does not run here", r->path, line_of(r), tag);
    return OK;
}

static bool is_any(const char *s, const char *const *words) {
    while (*words && strcmp(s, *words) != 0) words++;
    return *words != NULL;
}

/* A plain scalar by YAML 1.1's rules, as far as PyYAML has them (no octals, no sexagesimals, no dates). */
static json_t *plain(const char *s) {
    static const char *const none[] = {"", "~", "null", "Null", "NULL", NULL}, *const yes[] = {"yes",  "Yes", "YES", "true", "True",
                                                                                               "TRUE", "on",  "On",  "ON",   NULL},
                             *const no[] = {"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", NULL};
    if (is_any(s, none)) return json_null();
    if (is_any(s, yes)) return json_true();
    if (is_any(s, no)) return json_false();
    if (s[strspn(s, "+-.0123456789eE")] || !s[strcspn(s, "0123456789")]) return json_string(s);
    char *end;
    const long long i = strtoll(s, &end, 10);
    if (!*end) return json_integer(i);
    const double x = strtod(s, &end);
    return !*end && isfinite(x) && strchr(s, '.') ? json_real(x) : json_string(s);
}

static err value(struct reader *r, json_t **out);

static err sequence(struct reader *r, json_t *list) {
    for (;;) {
        json_t *item = NULL;
        TRY(next_event(r));
        if (r->ev.type == YAML_SEQUENCE_END_EVENT) return OK;
        TRY(value(r, &item));
        if (json_array_append_new(list, item)) return fail(E_MEMORY, "out of memory");
    }
}

static err mapping(struct reader *r, json_t *object) {
    for (;;) {
        json_t *item = NULL;
        char key[256];
        TRY(next_event(r));
        if (r->ev.type == YAML_MAPPING_END_EVENT) return OK;
        if (r->ev.type != YAML_SCALAR_EVENT || r->ev.data.scalar.length >= sizeof key)
            return fail(E_INPUT, "%s:%zu: a key must be a name", r->path, line_of(r));
        strcpy(key, (const char *)r->ev.data.scalar.value);
        if (json_object_get(object, key)) return fail(E_INPUT, "%s:%zu: '%s' is given twice", r->path, line_of(r), key);
        TRY(next_event(r));
        TRY(value(r, &item));
        if (json_object_set_new(object, key, item)) return fail(E_MEMORY, "out of memory");
    }
}

/* The value that the current event begins; *out is NULL after an error. */
static err value(struct reader *r, json_t **out) {
    const bool list = r->ev.type == YAML_SEQUENCE_START_EVENT;
    if (r->ev.type == YAML_SCALAR_EVENT) {
        const char *s = (const char *)r->ev.data.scalar.value;
        const size_t n = r->ev.data.scalar.length;
        if (memchr(s, 0, n)) return fail(E_INPUT, "%s:%zu: a text with a NUL byte in it", r->path, line_of(r));
        *out = r->ev.data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? plain(s) : json_stringn(s, n);
        return *out ? OK : fail(E_MEMORY, "out of memory");
    }
    if (++r->depth > DEPTH_MOST) return fail(E_INPUT, "%s:%zu: nested more than %d deep", r->path, line_of(r), DEPTH_MOST);
    *out = list ? json_array() : json_object();
    err e = !*out ? fail(E_MEMORY, "out of memory") : list ? sequence(r, *out) : mapping(r, *out);
    r->depth--;
    if (e) json_decref(*out), *out = NULL;
    return e;
}

static err document(struct reader *r, json_t **out) {
    TRY(next_event(r)); /* stream start */
    TRY(next_event(r));
    if (r->ev.type == YAML_STREAM_END_EVENT) return *out = json_null(), OK;
    TRY(next_event(r));
    TRY(value(r, out));
    TRY(next_event(r)); /* document end */
    TRY(next_event(r));
    return r->ev.type == YAML_STREAM_END_EVENT ? OK : fail(E_UNSUPPORTED, "%s:%zu: a second document", r->path, line_of(r));
}

err yaml_parse(const char *path, const void *bytes, size_t n, json_t **out) {
    struct reader r = {.path = path};
    *out = NULL;
    if (n > FILE_MOST) return fail(E_INPUT, "%s: %zu bytes of YAML (at most %d)", path, n, FILE_MOST);
    if (!yaml_parser_initialize(&r.p)) return fail(E_MEMORY, "out of memory");
    yaml_parser_set_encoding(&r.p, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.p, bytes, n);
    err e = document(&r, out);
    yaml_event_delete(&r.ev);
    yaml_parser_delete(&r.p);
    if (e && *out) json_decref(*out), *out = NULL;
    return e;
}

err yaml_read(const char *path, json_t **out) {
    str text = {0};
    *out = NULL;
    err e = file_read(path, &text);
    if (!e) e = yaml_parse(path, text.p ? text.p : "", text.n, out);
    str_free(&text);
    return e;
}
