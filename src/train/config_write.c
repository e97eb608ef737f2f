/* The resolved configuration as text: every key, in the order of config.def, first the run's and those in which all
 * sides agree, then what A, B, ... have of their own. Reading it back gives the same configuration; a run keeps it beside
 * its results. */
#include "train/config_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Plain where no YAML reader could take it for something else, double quotes with escapes otherwise. */
void config_quote(const char *s, str *out) {
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-";
    if (*s && *s != '-' && *s != '.' && !s[strspn(s, safe)] && strcasecmp(s, "null") != 0) {
        str_adds(out, s);
        return;
    }
    str_addc(out, '"');
    for (size_t n = strlen(s), step; n; n -= step, s += step) {
        unsigned cp = 0;
        step = (size_t)utf8_decode(s, n, &cp);
        if (!step) step = 1, cp = 0xFFFD; /* set from C, not from text: YAML cannot say it */
        if (cp == '"' || cp == '\\') str_addf(out, "\\%c", (int)cp);
        else if (cp == '\n') str_adds(out, "\\n");
        else if (cp == '\t') str_adds(out, "\\t");
        else if (cp < 0x20 || (cp >= 0x7F && cp < 0xA0) || (cp >= 0x2028 && cp < 0x202A) || cp == 0xFEFF ||
                 cp >= 0xFFFD)
            str_addf(out, "\\U%08X", cp);
        else str_add(out, s, step);
    }
    str_addc(out, '"');
}

/* The shortest decimal that reads back as the same double. */
static void write_real(double x, str *out) {
    char buf[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(buf, sizeof buf, "%.*g", digits, x);
        if (strtod(buf, NULL) == x) break;
    }
    str_adds(out, buf);
}

static void write_value(int k, union value v, str *out) {
    switch (config_kind(k)) {
    case KIND_STR: config_quote(v.s, out); break;
    case KIND_INT: str_addf(out, "%lld", (long long)v.i); break;
    case KIND_REAL: write_real(v.r, out); break;
    case KIND_BOOL: str_adds(out, v.b ? "true" : "false"); break;
    case KIND_FILES:
        if (v.l.n < 2) {
            config_quote(v.l.n ? v.l.v[0] : "", out);
            break;
        }
        /* fall through */
    case KIND_STRS:
        str_addc(out, '[');
        for (int i = 0; i < v.l.n; i++) {
            if (i) str_adds(out, ", ");
            config_quote(v.l.v[i], out);
        }
        str_addc(out, ']');
        break;
    }
    str_addc(out, '\n');
}

static bool same_value(int k, union value a, union value b) {
    switch (config_kind(k)) {
    case KIND_STR: return !strcmp(a.s, b.s);
    case KIND_INT: return a.i == b.i;
    case KIND_REAL: return a.r == b.r;
    case KIND_BOOL: return a.b == b.b;
    case KIND_STRS:
    case KIND_FILES: break;
    }
    if (a.l.n != b.l.n) return false;
    for (int i = 0; i < a.l.n; i++)
        if (strcmp(a.l.v[i], b.l.v[i]) != 0) return false;
    return true;
}

/* Do the sides have this key apart? The data of a third side and further ones are written there always: they say that there is such a side. */
static bool differs(const struct config *c, int k, const char *name) {
    const int sides = config_sides(c);
    for (int i = 1; i < sides; i++)
        if (!same_value(k, config_value(c, k, 0), config_value(c, k, i))) return true;
    return sides > 2 && !strcmp(name, "data");
}

/* side -1: the run's keys, and those in which all sides agree; else what one side has of its own. */
static void write_keys(const struct config *c, int side, str *out) {
    const char *indent = side < 0 ? "" : "  ", *section = "";
    size_t n_keys, section_n = 0;
    const struct config_key *key = config_keys(&n_keys);
    bool opened = side < 0;
    for (int k = 0; k < (int)n_keys; k++, key++) {
        if ((key->per_side && differs(c, k, key->name)) != (side >= 0)) continue;
        if (!opened) str_addf(out, "%s:\n", config_side_name(side)), opened = true;
        const char *dot = strchr(key->name, '.');
        size_t n = dot ? (size_t)(dot - key->name) : 0;
        if (dot && (n != section_n || strncmp(section, key->name, n) != 0))
            str_addf(out, "%s%.*s:\n", indent, (int)n, key->name);
        section = key->name;
        section_n = n;
        str_addf(out, "%s%s%s: ", indent, dot ? "  " : "", dot ? dot + 1 : key->name);
        write_value(k, config_value(c, k, side < 0 ? 0 : side), out);
    }
}

err config_write(const struct config *c, str *yaml) {
    for (int side = -1; side < config_sides(c); side++) write_keys(c, side, yaml);
    return yaml->failed ? fail(E_MEMORY, "out of memory") : OK;
}
