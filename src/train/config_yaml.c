/* The configuration as text: libyaml's events in, a list of given values out (config_internal.h).
 *
 * YAML is used as a notation for nested keys and no more: anchors, aliases, tags and several documents are refused, and
 * so is a key given twice. An unknown key stops the reading at once, so a hostile file cannot make us keep more values
 * than there are keys, and nesting can go no deeper than the keys do. */
#include "train/config_internal.h"
#include "io/yaml.h"
#include <string.h>
#include <yaml.h>

struct reader {
    arena *mem;
    const char *path; /* NULL: a --set value */
    const uint8_t *bytes;
    yaml_parser_t p;
    yaml_event_t ev; /* the current one */
    struct given *first, **last;
};
enum { LIST_MOST = 256, FILE_MOST = 1 << 20 };

static const char *at_line(struct reader *r, size_t line) {
    const char *at = r->path ? arena_printf(r->mem, "%s:%zu", r->path, line) : "--set";
    return at ? at : "";
}
static const char *here(struct reader *r) { return at_line(r, r->ev.start_mark.line + 1); }

static err syntax_error(struct reader *r) {
    const yaml_parser_t *p = &r->p;
    size_t line = p->problem_mark.line + 1;
    if (p->error == YAML_MEMORY_ERROR) return fail(E_MEMORY, "out of memory");
    if (p->error == YAML_READER_ERROR) { /* bytes that are not text have an offset, not a line */
        line = 1;
        for (size_t i = 0; i < p->problem_offset; i++) line += r->bytes[i] == '\n';
    }
    return fail(E_INPUT, "%s: not valid YAML: %s%s%s", at_line(r, line), p->context ? p->context : "",
                p->context ? ", " : "", p->problem ? p->problem : "unreadable");
}

static err next_event(struct reader *r) {
    yaml_event_delete(&r->ev);
    if (!yaml_parser_parse(&r->p, &r->ev)) return syntax_error(r);
    const void *anchor;
    const char *tag;
    yaml_marks(&r->ev, &anchor, &tag);
    if (anchor) return fail(E_USAGE, "%s: anchors and aliases (&name, *name) are not used in a configuration", here(r));
    if (tag) return fail(E_USAGE, "%s: tags (!name) are not used in a configuration", here(r));
    return OK;
}

/* The text of the current scalar, copied. */
static err scalar(struct reader *r, const char **text) {
    const char *s = (const char *)r->ev.data.scalar.value;
    size_t n = r->ev.data.scalar.length;
    if (memchr(s, 0, n)) return fail(E_USAGE, "%s: a text with a NUL byte in it", here(r));
    *text = arena_strn(r->mem, s, n);
    return *text ? OK : fail(E_MEMORY, "out of memory");
}

/* {path: a.jsonl, weight: 2} as the item "a.jsonl;weight=2" (config_entry). The current event opens the mapping. */
static err read_file(struct reader *r, const struct given *g, const char **item) {
    const char *path = NULL, *options = "", *key, *value;
    for (;;) {
        TRY(next_event(r));
        if (r->ev.type == YAML_MAPPING_END_EVENT) break;
        if (r->ev.type != YAML_SCALAR_EVENT) return fail(E_USAGE, "%s: a key must be a name", here(r));
        TRY(scalar(r, &key));
        int k = 0;
        while (config_file_options[k] && strcmp(config_file_options[k], key) != 0) k++;
        if (!config_file_options[k] && strcmp(key, "path") != 0)
            return fail(E_USAGE, "%s: a file of '%s' has path, %s, not '%.40s'", here(r), g->name,
                        strcmp(g->name, "guard.data") ? "weight, limit, format and field" : "name, kind, vectors, limit, format and field",
                        key);
        TRY(next_event(r));
        if (r->ev.type != YAML_SCALAR_EVENT) return fail(E_USAGE, "%s: '%s' of a file wants one value", here(r), key);
        TRY(scalar(r, &value));
        if (!strcmp(key, "path") ? path != NULL : strstr(options, arena_printf(r->mem, ";%s=", key)) != NULL)
            return fail(E_USAGE, "%s: '%s' is given twice for one file", here(r), key);
        if (!strcmp(key, "path")) path = value;
        else options = arena_printf(r->mem, "%s;%s=%s", options, key, value);
        if (!options) return fail(E_MEMORY, "out of memory");
    }
    if (!path || !*path) return fail(E_USAGE, "%s: a file of '%s' needs a path", here(r), g->name);
    *item = arena_printf(r->mem, "%s%s", path, options);
    return *item ? OK : fail(E_MEMORY, "out of memory");
}

static err read_list(struct reader *r, struct given *g, bool files) {
    const char *item[LIST_MOST];
    bool one = r->ev.type == YAML_MAPPING_START_EVENT;
    g->shape = LIST;
    if (one) TRY(read_file(r, g, &item[g->v.n++]));
    while (!one) {
        TRY(next_event(r));
        if (r->ev.type == YAML_SEQUENCE_END_EVENT) break;
        bool mapping = files && r->ev.type == YAML_MAPPING_START_EVENT;
        if (r->ev.type != YAML_SCALAR_EVENT && !mapping)
            return fail(E_USAGE, "%s: the list of '%s' holds something other than names", here(r), g->name);
        if (g->v.n == LIST_MOST) return fail(E_USAGE, "%s: '%s' has more than %d items", g->at, g->name, LIST_MOST);
        TRY(mapping ? read_file(r, g, &item[g->v.n]) : scalar(r, &item[g->v.n]));
        g->v.n++;
    }
    g->v.v = arena_alloc(r->mem, (size_t)(g->v.n + 1) * sizeof *g->v.v);
    if (!g->v.v) return fail(E_MEMORY, "out of memory");
    memcpy(g->v.v, item, (size_t)g->v.n * sizeof *item);
    return OK;
}

static err read_mapping(struct reader *r, const char *prefix);

/* Takes the current event as the value of g->name. A section is walked; an empty one sets nothing. */
static err read_value(struct reader *r, struct given *g) {
    int k, side;
    bool mapping = r->ev.type == YAML_MAPPING_START_EVENT;
    for (struct given *o = r->first; o; o = o->next)
        if (!strcmp(o->name, g->name))
            return fail(E_USAGE, "%s: '%s' is given twice (first at %s)", g->at, g->name, o->at);
    *r->last = g;
    r->last = &g->next;
    if (mapping && config_is_section(g->name)) {
        g->shape = MAPPING;
        return read_mapping(r, g->name);
    }
    if (r->ev.type == YAML_SCALAR_EVENT) {
        g->shape = r->ev.data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? PLAIN : QUOTED;
        g->v = (struct strs){1, arena_alloc(r->mem, sizeof *g->v.v)};
        if (!g->v.v) return fail(E_MEMORY, "out of memory");
        TRY(scalar(r, g->v.v));
        if (config_is_null(g) && config_is_section(g->name)) return OK;
    }
    TRY(config_key_of(g, &k, &side));
    bool files = config_kind(k) == KIND_FILES;
    if (mapping && !files) {
        g->shape = MAPPING;
        return config_mismatch(g, k);
    }
    return mapping || r->ev.type == YAML_SEQUENCE_START_EVENT ? read_list(r, g, files) : OK;
}

static err read_mapping(struct reader *r, const char *prefix) {
    for (;;) {
        TRY(next_event(r));
        if (r->ev.type == YAML_MAPPING_END_EVENT) return OK;
        if (r->ev.type != YAML_SCALAR_EVENT) return fail(E_USAGE, "%s: a key must be a name", here(r));
        struct given *g = arena_alloc(r->mem, sizeof *g);
        const char *key;
        TRY(scalar(r, &key));
        if (!g || !(g->name = arena_printf(r->mem, "%s%s%s", prefix, *prefix ? "." : "", key)) || !*(g->at = here(r)))
            return fail(E_MEMORY, "out of memory");
        TRY(next_event(r));
        TRY(read_value(r, g));
    }
}

/* The whole stream: one mapping, or nothing but comments. */
static err read_document(struct reader *r) {
    TRY(next_event(r)); /* stream start */
    TRY(next_event(r));
    if (r->ev.type == YAML_STREAM_END_EVENT) return OK;
    TRY(next_event(r));
    if (r->ev.type != YAML_MAPPING_START_EVENT)
        return fail(E_USAGE, "%s: a configuration is lines of `key: value`", here(r));
    TRY(read_mapping(r, ""));
    TRY(next_event(r)); /* document end */
    TRY(next_event(r));
    if (r->ev.type != YAML_STREAM_END_EVENT) return fail(E_USAGE, "%s: a second document; one run is one", here(r));
    return OK;
}

static err reader_open(struct reader *r, arena *mem, const char *path, const void *bytes, size_t n) {
    *r = (struct reader){.mem = mem, .path = path, .bytes = bytes};
    r->last = &r->first;
    if (!yaml_parser_initialize(&r->p)) return fail(E_MEMORY, "out of memory");
    yaml_parser_set_encoding(&r->p, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->p, bytes, n);
    return OK;
}

static void reader_close(struct reader *r) {
    yaml_event_delete(&r->ev);
    yaml_parser_delete(&r->p);
}

err config_read(arena *mem, const char *path, const void *yaml, size_t n, struct given **first) {
    struct reader r;
    if (n > FILE_MOST) return fail(E_INPUT, "%s: a file of %zu bytes is no configuration", path, n);
    TRY(reader_open(&r, mem, path, yaml, n));
    err e = read_document(&r);
    reader_close(&r);
    *first = r.first;
    return e;
}

err config_read_value(arena *mem, const char *yaml, struct given *g) {
    struct reader r;
    TRY(reader_open(&r, mem, NULL, yaml, strlen(yaml)));
    err e = OK;
    g->v = (struct strs){0};
    for (int i = 0; i < 3 && !e; i++) e = next_event(&r); /* stream, document, value */
    if (!e) e = read_value(&r, g);
    for (int i = 0; i < 2 && !e; i++) e = next_event(&r); /* text after the value is a syntax error */
    reader_close(&r);
    return e;
}
