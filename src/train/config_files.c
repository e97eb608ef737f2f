/* Files that a configuration names in lists: the data of a side, with how much of each, and guards, with what they are called. See config_internal.h.
 *
 * Refused: an option that is empty, out of its range, or of the other kind of list; two guards of one name; labels where nothing is trained that
 * tells them. Of what else guards are refused guard.c says, which knows the model. */
#include "train/config_internal.h"
#include <stdlib.h>
#include <string.h>

const char *const config_file_options[] = {"weight", "limit", "format", "field", "name", "kind", "vectors", NULL};

err config_entry(arena *mem, const char *item, struct file_entry *e) {
    char *path = arena_str(mem, item);
    if (!path) return fail(E_MEMORY, "out of memory");
    *e = (struct file_entry){.path = path};
    for (char *at; (at = strrchr(path, ';'));) {
        int k = 0;
        char *value = strchr(at, '=');
        size_t n = value ? (size_t)(value - at - 1) : 0;
        while (config_file_options[k] && (strlen(config_file_options[k]) != n || strncmp(at + 1, config_file_options[k], n) != 0)) k++;
        if (!value || !config_file_options[k]) break;
        value++;
        *at = 0;
        if (k == 0) e->weight = strtod(value, NULL);
        if (k == 1) e->limit = strtoll(value, NULL, 10);
        if (k == 2) e->format = value;
        if (k == 3) e->field = value;
        if (k == 4) e->name = value;
        if (k == 5) e->kind = value;
        if (k == 6) e->vectors = value;
        if (k == 0 && (!config_is_decimal(value, true) || !(e->weight > 0 && e->weight <= 1e6)))
            return fail(E_USAGE, "%s: weight wants a number > 0, found '%.40s'", path, value);
        if (k == 1 && (!config_is_decimal(value, false) || e->limit < 1 || e->limit > INT32_MAX))
            return fail(E_USAGE, "%s: limit wants an integer >= 1, found '%.40s'", path, value);
        if (k > 1 && !*value) return fail(E_USAGE, "%s: %s is empty", path, config_file_options[k]);
    }
    return *path ? OK : fail(E_USAGE, "'%s' names no file", item);
}

err config_data_entry(arena *mem, const char *item, struct file_entry *e) {
    err why = config_entry(mem, item, e);
    if (!why && (e->name || e->kind || e->vectors))
        why = fail(E_USAGE, "%s: '%s' is of guard.data alone", e->path, e->name ? "name" : e->kind ? "kind" : "vectors");
    return why ? fail_in(why, "'data'") : OK;
}

/* The name of a file up to its first dot. */
static const char *stem(arena *mem, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    return arena_strn(mem, name, strcspn(name, "."));
}

enum guard_kind config_guard_kind(const struct file_entry *e) {
    static const char *const words[] = {[GUARD_TEXT] = "text", [GUARD_SFT] = "sft", [GUARD_QA] = "qa", [GUARD_LABELS] = "labels"};
    int k = GUARD_TEXT;
    while (e->kind && k < GUARD_KINDS && strcmp(words[k], e->kind) != 0) k++;
    return (enum guard_kind)k;
}

err config_guard(arena *mem, const char *item, struct file_entry *e) {
    enum { LONGEST = 24 };
    static const char signs[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    TRY(config_entry(mem, item, e));
    if (e->weight > 0) return fail(E_USAGE, "%s: weight is of 'data': a guard is looked at whole", e->path);
    if (config_guard_kind(e) == GUARD_KINDS)
        return fail(E_USAGE, "%s: kind wants text, sft, qa or labels, found '%.40s'", e->path, e->kind);
    if (!e->name && !(e->name = stem(mem, e->path))) return fail(E_MEMORY, "out of memory");
    const size_t n = strlen(e->name);
    if (!n || n > LONGEST || e->name[strspn(e->name, signs)])
        return fail(E_USAGE, "%s: a guard's name has 1 to %d letters, digits, - and _, not '%.40s': give it another `name`", e->path,
                    LONGEST, e->name);
    return OK;
}

err config_check_guards(const struct config *c) {
    arena mem = {0};
    struct file_entry a, b;
    err e = OK;
    for (int i = 0; i < c->guards.n && !e; i++) {
        e = config_guard(&mem, c->guards.v[i], &a);
        if (!e && config_guard_kind(&a) == GUARD_LABELS && !config_has_head(c))
            e = fail(E_USAGE,
                     "%s: kind labels is told by a head (classification, regression, token_classification); objective %s trains none",
                     a.path, c->objective);
        if (!e && a.vectors && strcmp(c->side[0].method, "projector") != 0)
            e = fail(E_USAGE, "%s: vectors are read by method projector alone", a.path);
        for (int k = 0; k < i && !e; k++)
            if (!config_guard(&mem, c->guards.v[k], &b) && !strcmp(a.name, b.name))
                e = fail(E_USAGE, "%s and %s are both called %s: give one of them another `name`", b.path, a.path, a.name);
    }
    arena_free(&mem);
    return e ? fail_in(e, "'guard.data'") : OK;
}
