/* See listing.h. A separator is spaces around a core (" | ": "|"; ": ": ":"); a field can hold it only where it holds the core with what
 * the separator wants on both sides of it, a field's end counting as a space, since a separator of the other kind may follow. */
#include "data/listing.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

const struct listing_form listing_entities = {"entities", " | ", ": ", 2}, listing_triples = {"triples", " && ", " | ", 3};
static const char empty_list[] = "none";

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

void listing_clear(struct listing *l) {
    arena_free(&l->mem);
    l->n = 0;
}

void listing_free(struct listing *l) {
    listing_clear(l);
    free(l->v);
    *l = (struct listing){0};
}

err listing_add(struct listing *l, const struct item *item) {
    if (l->n == l->cap) {
        const int cap = 2 * l->cap + 8;
        struct item *v = realloc(l->v, (size_t)cap * sizeof *v);
        if (!v) return out_of_memory();
        l->v = v, l->cap = cap;
    }
    struct item *own = &l->v[l->n];
    *own = *item;
    for (int i = 0; i < item->n; i++)
        if (!(own->field[i] = arena_str(&l->mem, item->field[i]))) return out_of_memory();
    l->n++;
    return OK;
}

bool item_equal(const struct item *a, const struct item *b) {
    bool same = a->n == b->n;
    for (int i = 0; i < a->n && same; i++) same = !strcmp(a->field[i], b->field[i]);
    return same;
}

/* --- writing -------------------------------------------------------------------------------------------------------- */
/* Would `sep` be seen at s[i], a sign of the field s? */
static bool looks_like(const char *sep, const char *s, size_t i) {
    const size_t lead = strspn(sep, " "), core = strcspn(sep + lead, " ");
    if (strncmp(s + i, sep + lead, core) != 0) return false;
    if (lead && i && s[i - 1] != ' ') return false;
    const char after = s[i + core];
    return !sep[lead + core] || !after || after == ' ';
}

static void render_field(const struct listing_form *f, const char *s, bool last, str *out) {
    static const char signs[] = "\n\r\t\\", letters[] = "nrt\\";
    const size_t n = strlen(s);
    if (!n) str_adds(out, "\\e");
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)s[i];
        const char *at = strchr(signs, c);
        if (at) str_addf(out, "\\%c", letters[at - signs]);
        else if (c == ' ' && (!i || i + 1 == n)) str_adds(out, "\\s");
        else if (c < 0x20 || c == 0x7F) str_addf(out, "\\x%02x", c);
        else if (looks_like(f->between, s, i) || (!last && looks_like(f->within, s, i))) str_addf(out, "\\%c", c);
        else str_addc(out, (char)c);
    }
}

void listing_render(const struct listing_form *f, const struct listing *l, str *out) {
    if (!l->n) str_adds(out, empty_list);
    for (int i = 0; i < l->n; i++) {
        if (i) str_adds(out, f->between);
        for (int k = 0; k < l->v[i].n; k++) {
            if (k) str_adds(out, f->within);
            render_field(f, l->v[i].field[k], k + 1 == f->fields, out);
        }
    }
}

/* --- reading -------------------------------------------------------------------------------------------------------- */
/* One escaped character at s (behind the backslash); returns how many bytes of s it took. */
static size_t unescape(const char *s, str *out) {
    static const char letters[] = "nrts", meant[] = "\n\r\t ";
    const char *at = *s ? strchr(letters, *s) : NULL;
    if (!*s) return str_addc(out, '\\'), 0;
    if (*s == 'e') return 1;
    if (*s == 'x' && isxdigit((unsigned char)s[1]) && isxdigit((unsigned char)s[2])) {
        const char hex[3] = {s[1], s[2], 0};
        const char c = (char)strtol(hex, NULL, 16);
        if (c) return str_addc(out, c), 3;
    }
    return str_addc(out, at ? meant[at - letters] : *s), 1;
}

/* A field from *s on to the next separator, `more` telling whether one within the item ended it; *s is left behind the separator. Spaces
 * that were written as such do not count at its ends. */
static err read_field(const struct listing_form *f, const char **s, bool last, arena *mem, const char **field, bool *more) {
    str text = {0};
    size_t keep = 0; /* up to here nothing is dropped */
    const char *p = *s + strspn(*s, " ");
    *more = false;
    if (p > *s && str_starts(p - 1, f->between)) p--; /* an empty item: its separator begins with the space */
    for (; *p && !str_starts(p, f->between);) {
        if (!last && str_starts(p, f->within)) {
            *more = true;
            p += strlen(f->within);
            break;
        }
        if (*p == '\\') {
            p += 1 + unescape(p + 1, &text);
            keep = text.n;
        } else {
            str_addc(&text, *p);
            if (*p++ != ' ') keep = text.n;
        }
    }
    *s = p;
    *field = arena_strn(mem, text.p ? text.p : "", keep);
    const bool failed = text.failed || !*field;
    str_free(&text);
    return failed ? out_of_memory() : OK;
}

err listing_parse(const struct listing_form *f, const char *text, struct listing *out) {
    listing_clear(out);
    const char *s = text + strspn(text, " ");
    if (str_starts(s, empty_list) && !s[strlen(empty_list) + strspn(s + strlen(empty_list), " ")]) return OK;
    while (*s) {
        struct item item = {0};
        bool more = true;
        arena mem = {0};
        err e = OK;
        while (more && !e) {
            e = read_field(f, &s, item.n + 1 == f->fields, &mem, &item.field[item.n], &more);
            item.n++;
        }
        if (!e) e = listing_add(out, &item);
        arena_free(&mem);
        if (e) return e;
        if (*s) s += strlen(f->between);
        if (!s[strspn(s, " ")]) break; /* a separator that nothing follows */
    }
    return OK;
}
