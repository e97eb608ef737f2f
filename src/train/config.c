/* The configuration's keys, their values and the rules between them. See config.h for the contract, config.def for the
 * keys, config_yaml.c for the reading and config_write.c for the writing.
 *
 * A value takes one road whether it comes from a file, from --set or from the defaults: it becomes a `given` (where it
 * stood, its dotted name, what it looked like), is resolved to a key, converted by the key's type, held against the
 * key's `wants`, and stored. So each complaint names the place, the key, what was found and what is wanted, and there
 * is no second rule book. A file is read to its end before anything is stored, shared settings before the sides' own,
 * so that the order of sections does not matter.
 *
 * Numbers are decimal (no 1_000, no 0x10), booleans are true and false alone: whatever YAML readers disagree on is
 * refused. It opens no file but the configuration; whether the named files exist is for those to say who open them.
 * Called by api and by tests. */
#include "train/config_internal.h"
#include "base/dtype.h"
#include "base/file.h"
#include "data/metrics.h"
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* --- the table ---------------------------------------------------------------------------------------------------- */
struct place {
    enum kind kind;
    size_t off; /* in struct config, or in struct side_config where the key is per side */
    const char *wants;
};

#define TYPE_STR(wants)  sizeof(wants) > 1 ? wants : "text"
#define TYPE_INT(wants)  sizeof(wants) > 1 ? "integer " wants : "integer"
#define TYPE_REAL(wants) sizeof(wants) > 1 ? "number " wants : "number"
#define TYPE_BOOL(wants) "true|false"
#define TYPE_FILES(wants) "file, or list of files"
#define TYPE_STRS(wants) sizeof(wants) > 1 ? wants : "list of names"
#define SIDE_RUN         false
#define SIDE_SIDE        true
#define OFF_RUN(field)   offsetof(struct config, field)
#define OFF_SIDE(field)  offsetof(struct side_config, field)

static const struct config_key keys[] = {
#define KEY(where, type, field, name, def, wants, doc) {name, TYPE_##type(wants), def, doc, SIDE_##where},
#include "train/config.def"
#undef KEY
};
static const struct place places[] = {
#define KEY(where, type, field, name, def, wants, doc) {KIND_##type, OFF_##where(field), wants},
#include "train/config.def"
#undef KEY
};
static const char *const names[] = {
#define KEY(where, type, field, name, def, wants, doc) name,
#include "train/config.def"
#undef KEY
    NULL};
enum { N_KEYS = sizeof keys / sizeof *keys };

const struct config_key *config_keys(size_t *n) {
    *n = N_KEYS;
    return keys;
}

enum kind config_kind(int k) { return places[k].kind; }

static void *slot(const struct config *c, int k, int side) {
    return keys[k].per_side ? (char *)&c->side[side] + places[k].off : (char *)c + places[k].off;
}

union value config_value(const struct config *c, int k, int side) {
    const void *p = slot(c, k, side);
    switch (places[k].kind) {
    case KIND_STR: return (union value){.s = *(const char *const *)p};
    case KIND_INT: return (union value){.i = *(const int64_t *)p};
    case KIND_REAL: return (union value){.r = *(const double *)p};
    case KIND_BOOL: return (union value){.b = *(const bool *)p};
    default: return (union value){.l = *(const struct strs *)p};
    }
}

static void store(struct config *c, int k, int side, union value v) {
    void *p = slot(c, k, side);
    switch (places[k].kind) {
    case KIND_STR: *(const char **)p = v.s; break;
    case KIND_INT: *(int64_t *)p = v.i; break;
    case KIND_REAL: *(double *)p = v.r; break;
    case KIND_BOOL: *(bool *)p = v.b; break;
    case KIND_STRS:
    case KIND_FILES: *(struct strs *)p = v.l; break;
    }
}

/* --- what a value must satisfy ------------------------------------------------------------------------------------ */
static bool within(const char *interval, double x) {
    double lo, hi;
    char a[3], b[3];
    if (sscanf(interval, "%lf %2[<=] x %2[<=] %lf", &lo, a, b, &hi) == 4)
        return (a[1] ? x >= lo : x > lo) && (b[1] ? x <= hi : x < hi);
    if (sscanf(interval, ">= %lf", &lo) == 1) return x >= lo;
    if (sscanf(interval, "> %lf", &lo) == 1) return x > lo;
    return true;
}

/* Finds `word` among "a|b|c=b"; *canonical becomes the spelling that the rest of the library knows. */
static bool choose(const char *choices, const char **word, arena *mem) {
    for (const char *p = choices; *p;) {
        size_t n = strcspn(p, "|"), name = strcspn(p, "|="), fixed = strcspn(p, "|=[");
        if (!strncmp(p + fixed, "[n]", 3) && !strncasecmp(*word, p, fixed) && (*word)[fixed] && strlen(*word) < fixed + 4 &&
            !(*word)[fixed + strspn(*word + fixed, "0123456789")])
            return true; /* any number in its place */
        if (strlen(*word) == name && strncasecmp(*word, p, name) == 0) {
            const char *value = name < n ? p + name + 1 : p;
            return (*word = arena_strn(mem, value, (size_t)(p + n - value))) != NULL;
        }
        p += n + (p[n] == '|');
    }
    return false;
}

static bool is_choice(const char *wants) { return strchr(wants, '|') != NULL; }

static int count(const char *s, const char *part) {
    int n = 0;
    for (; (s = strstr(s, part)); s += strlen(part)) n++;
    return n;
}

static bool parse_bytes(const char *text, size_t *bytes) {
    static const struct {
        const char *unit;
        double size;
    } units[] = {{"B", 1},        {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},    {"TB", 1e12},
                 {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
    size_t n = strspn(text, "0123456789.");
    char *end;
    *bytes = 0;
    if (n == 0) return *text == 0;
    double x = strtod(text, &end);
    if (end != text + n) return false;
    while (*end == ' ') end++;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcasecmp(end, units[i].unit) != 0) continue;
        double total = x * units[i].size;
        if (!(total >= 1 && total < 0x1p62)) return false;
        *bytes = (size_t)total;
        return true;
    }
    return false;
}

err config_bytes(const char *text, size_t *bytes) {
    if (parse_bytes(text, bytes)) return OK;
    return fail(E_USAGE, "'%s' is not a size: write a number and a unit, such as 500MB, 2GB or 1.5GiB", text);
}

static bool fits(const struct place *at, union value *v, arena *mem) {
    size_t bytes;
    switch (at->kind) {
    case KIND_INT: /* the rest of the library counts in int; only a key without any bound (seed) uses all 64 bits */
        return !*at->wants || (v->i <= INT32_MAX && within(at->wants, (double)v->i));
    case KIND_REAL: return isfinite(v->r) && within(at->wants, v->r);
    case KIND_BOOL: return true;
    case KIND_FILES: return true;
    case KIND_STRS: return (v->l.n > 0 || str_ends(at->wants, "may be empty"));
    case KIND_STR: break;
    }
    if (is_choice(at->wants)) return choose(at->wants, &v->s, mem);
    if (str_starts(at->wants, "size")) return parse_bytes(v->s, &bytes);
    if (str_starts(at->wants, "text with")) return count(v->s, "{text}") == 1;
    return true;
}

/* "an integer >= 1", "one of macct, sft": the key's type as the end of "wants ..." */
static void describe(int k, str *out) {
    const char *type = keys[k].type;
    if (!is_choice(type)) {
        str_adds(out, *type == 'i' ? "an " : *type == 't' ? "" : "a ");
        str_adds(out, type);
        return;
    }
    str_adds(out, "one of ");
    for (const char *p = type; *p;) {
        size_t n = strcspn(p, "|");
        if (!memchr(p, '=', n)) {
            if (p != type) str_adds(out, ", ");
            str_add(out, p, n);
        }
        p += n + (p[n] == '|');
    }
}

/* What someone may have meant; a word longer than any key is no typo. */
static const char *nearest(const char *word, const char *const *list) {
    return strlen(word) < 64 ? str_nearest(word, list) : NULL;
}

/* The choice nearest to a misspelt one, copied to buf; NULL when none is near. */
static const char *nearest_choice(const char *wants, const char *word, char *buf, size_t size) {
    const char *list[16];
    int n = 0;
    if ((size_t)snprintf(buf, size, "%s", wants) >= size) return NULL;
    for (char *p = buf, *bar; p && n < 15; p = bar) {
        if ((bar = strchr(p, '|'))) *bar++ = 0;
        if (!strchr(p, '=')) list[n++] = p;
    }
    list[n] = NULL;
    return nearest(word, list);
}

/* --- one given value ---------------------------------------------------------------------------------------------- */
bool config_is_null(const struct given *g) {
    const char *s = g->shape == PLAIN ? g->v.v[0] : "x";
    return !*s || !strcmp(s, "~") || !strcasecmp(s, "null");
}

static void found(const struct given *g, str *out) {
    if (g->shape == LIST) str_addf(out, "a list of %d", g->v.n);
    else if (g->shape == MAPPING) str_adds(out, "nested keys");
    else if (config_is_null(g)) str_adds(out, "nothing");
    else str_addf(out, g->shape == QUOTED ? "the text \"%.60s\"" : "'%.60s'", g->v.v[0]);
}

err config_mismatch(const struct given *g, int k) {
    str s = {0};
    char buf[128];
    const char *near = NULL;
    describe(k, &s);
    str_adds(&s, ", found ");
    found(g, &s);
    if (is_choice(places[k].wants) && g->v.n == 1) near = nearest_choice(places[k].wants, g->v.v[0], buf, sizeof buf);
    if (near) str_addf(&s, "; did you mean '%s'?", near);
    err e = s.failed ? fail(E_MEMORY, "out of memory") : fail(E_USAGE, "%s: '%s' wants %s", g->at, g->name, s.p);
    str_free(&s);
    return e;
}

static const char *const side_names[CONFIG_SIDES] = {"A", "B", "C", "D", "E", "F", "G", "H"};
static const char *const side_prefixes[CONFIG_SIDES] = {"A.", "B.", "C.", "D.", "E.", "F.", "G.", "H."};

const char *config_side_name(int side) { return side_names[side]; }

int config_sides(const struct config *c) { return c->named > 2 ? c->named : 2; }

static int side_called(const char *name) { return strlen(name) == 1 && *name >= 'A' && *name < 'A' + CONFIG_SIDES ? *name - 'A' : -1; }

/* Splits "A.lora.r" into side 0 and "lora.r"; -1 where the name has no side. */
static int split_side(const char **name) {
    for (int side = 0; side < CONFIG_SIDES; side++)
        if (str_starts(*name, side_prefixes[side])) return *name += 2, side;
    return -1;
}

bool config_is_section(const char *name) {
    if (side_called(name) >= 0) return true;
    split_side(&name);
    size_t n = strlen(name);
    for (int k = 0; k < N_KEYS; k++)
        if (!strncmp(names[k], name, n) && names[k][n] == '.') return true;
    return false;
}

/* `r` at the top is lora.r; `batch_size` is part of per_device_train_batch_size; else the nearest spelling. */
static const char *meant(const char *name) {
    const char *dot = strrchr(name, '.'), *leaf = dot ? dot + 1 : name, *near;
    for (int k = 0; k < N_KEYS; k++) {
        dot = strrchr(names[k], '.');
        if (dot && !strcmp(dot + 1, name)) return names[k];
    }
    if ((near = nearest(name, names))) return near;
    for (int k = 0; k < 2 * N_KEYS && strlen(leaf) > 3; k++) /* of its own section first */
        if ((k >= N_KEYS || !strncmp(names[k], name, (size_t)(leaf - name))) && strstr(names[k % N_KEYS], leaf)) return names[k % N_KEYS];
    return NULL;
}

static err unknown(const struct given *g) {
    const char *name = g->name;
    int side = split_side(&name), k = 0;
    const char *near = meant(name);
    if (!near) return fail(E_USAGE, "%s: unknown key '%s'; `cyclora help config` lists the keys", g->at, g->name);
    while (strcmp(names[k], near) != 0) k++;
    const char *prefix = side >= 0 && keys[k].per_side ? side_prefixes[side] : "";
    return fail(E_USAGE, "%s: unknown key '%s'; did you mean '%s%s'?", g->at, g->name, prefix, near);
}

err config_key_of(const struct given *g, int *k, int *side) {
    const char *name = g->name;
    *side = split_side(&name);
    for (*k = 0; *k < N_KEYS; ++*k)
        if (!strcmp(names[*k], name)) break;
    if (*k == N_KEYS) {
        if (!config_is_section(g->name)) return unknown(g);
        return fail(E_USAGE, "%s: '%s' is a section and holds keys of its own; `cyclora help config` lists them", g->at,
                    g->name);
    }
    if (*side >= 0 && !keys[*k].per_side)
        return fail(E_USAGE, "%s: '%s' belongs to the run, not to a side: write '%s' at the top", g->at, g->name, name);
    return OK;
}

bool config_is_decimal(const char *s, bool real) {
    s += *s == '-' || *s == '+';
    size_t whole = strspn(s, "0123456789"), part = 0;
    s += whole;
    if (!real) return whole && !*s;
    if (*s == '.') part = strspn(++s, "0123456789"), s += part;
    if (whole + part == 0) return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '-' || *s == '+';
        size_t digits = strspn(s, "0123456789");
        if (!digits) return false;
        s += digits;
    }
    return !*s;
}

/* "q_proj, v_proj" as a list. Empty items leave the list empty, which fits() refuses. */
static struct strs split_commas(arena *mem, const char *s) {
    struct strs l = {.v = arena_alloc(mem, (size_t)(count(s, ",") + 1) * sizeof *l.v)};
    while (l.v) {
        s += strspn(s, " ");
        size_t n = strcspn(s, ","), trimmed = n;
        while (trimmed && s[trimmed - 1] == ' ') trimmed--;
        if (!trimmed) return (struct strs){0};
        l.v[l.n++] = arena_strn(mem, s, trimmed);
        if (!s[n]) break;
        s += n + 1;
    }
    return l;
}

/* A path stays whole, commas or not; the empty one is no file. */
static bool one_file(const char *path, union value *v, arena *mem) {
    v->l = (struct strs){*path != 0, arena_alloc(mem, sizeof *v->l.v)};
    if (v->l.v) v->l.v[0] = path;
    return v->l.v != NULL;
}

static bool convert(const struct given *g, enum kind kind, union value *v, arena *mem) {
    const char *s = g->shape == LIST || g->shape == MAPPING ? NULL : g->v.v[0];
    if (kind >= KIND_STRS && g->shape == LIST) {
        v->l = g->v;
        for (int i = 0; i < v->l.n; i++)
            if (!*v->l.v[i]) return false;
        return true;
    }
    if (!s || config_is_null(g)) return false;
    if (kind == KIND_FILES) return one_file(s, v, mem);
    switch (kind) {
    case KIND_STR: v->s = s; return true;
    case KIND_STRS: v->l = split_commas(mem, s); return true;
    case KIND_BOOL: v->b = !strcasecmp(s, "true"); return g->shape == PLAIN && (v->b || !strcasecmp(s, "false"));
    case KIND_INT:
        errno = 0;
        v->i = strtoll(s, NULL, 10);
        return g->shape == PLAIN && config_is_decimal(s, false) && !errno;
    case KIND_REAL: v->r = strtod(s, NULL); return g->shape == PLAIN && config_is_decimal(s, true);
    case KIND_FILES: break;
    }
    return false;
}

static err assign(struct config *c, const struct given *g) {
    int k, side;
    union value v;
    TRY(config_key_of(g, &k, &side));
    if (!convert(g, places[k].kind, &v, &c->mem) || !fits(&places[k], &v, &c->mem)) return config_mismatch(g, k);
    for (int i = 0; i < CONFIG_SIDES; i++)
        if (side < 0 || side == i) store(c, k, i, v);
    if (side >= c->named) c->named = side + 1;
    return OK;
}

static err assign_all(struct config *c, const struct given *first, bool sides) {
    for (const struct given *g = first; g; g = g->next) {
        const char *name = g->name;
        if (config_is_section(g->name) || (split_side(&name) >= 0) != sides) continue;
        TRY(assign(c, g));
    }
    return OK;
}

err config_parse(struct config *c, const char *path, const void *yaml, size_t n) {
    struct given *first;
    TRY(config_read(&c->mem, path, yaml, n, &first));
    TRY(assign_all(c, first, false));
    return assign_all(c, first, true);
}

err config_load(struct config *c, const char *path) {
    struct file_map m;
    TRY(file_map(path, &m));
    err e = config_parse(c, path, m.p, m.n);
    file_unmap(&m);
    return e;
}

static bool is_utf8(const char *s) {
    unsigned cp;
    for (size_t n = strlen(s), step; n; n -= step, s += step)
        if (!(step = (size_t)utf8_decode(s, n, &cp))) return false;
    return true;
}

err config_set(struct config *c, const char *assignment) {
    const char *eq = strchr(assignment, '=');
    if (!eq || eq == assignment) return fail(E_USAGE, "--set: '%.60s' is not key=value", assignment);
    if (!is_utf8(assignment))
        return fail(E_USAGE, "--set: '%.*s' is not valid UTF-8", (int)(eq - assignment), assignment);
    const char *value = arena_str(&c->mem, eq + 1);
    struct given g = {.at = "--set", .shape = eq[1] ? PLAIN : QUOTED, .v = {1, &value}};
    g.name = arena_strn(&c->mem, assignment, (size_t)(eq - assignment));
    if (!g.name || !value) return fail(E_MEMORY, "out of memory");
    if (*value && strchr("\"'[", *value)) TRY(config_read_value(&c->mem, value, &g));
    return assign(c, &g);
}

err config_init(struct config *c) {
    *c = (struct config){0};
    for (int k = 0; k < N_KEYS; k++) {
        const char *value = keys[k].fallback;
        struct given g = {.at = "config.def", .name = names[k], .shape = *value ? PLAIN : QUOTED, .v = {1, &value}};
        TRY(assign(c, &g));
    }
    return OK;
}

void config_free(struct config *c) {
    arena_free(&c->mem);
    *c = (struct config){0};
}

/* --- what the values say together --------------------------------------------------------------------------------- */
static void show(int k, union value v, str *out) {
    switch (places[k].kind) {
    case KIND_STR: str_addf(out, "'%.60s'", v.s); break;
    case KIND_INT: str_addf(out, "%lld", (long long)v.i); break;
    case KIND_REAL: str_addf(out, "%g", v.r); break;
    case KIND_BOOL: str_adds(out, v.b ? "true" : "false"); break;
    case KIND_STRS:
    case KIND_FILES: str_addf(out, "a list of %d", v.l.n); break;
    }
}

/* Objectives other than these have one adapter, whose keys people write without a side. */
static bool one_sided(const struct config *c) { return strcmp(c->objective, "macct") != 0 && strcmp(c->objective, "dmcct") != 0; }

bool config_has_head(const struct config *c) { return str_ends(c->objective, "classification") || !strcmp(c->objective, "regression"); }

static const char *side_prefix(const struct config *c, int side) { return one_sided(c) ? "" : side_prefixes[side]; }

/* Values that a program wrote into the struct obey the same ranges as those that were read. */
static err check_ranges(const struct config *c) {
    for (int k = 0; k < N_KEYS; k++) {
        for (int side = 0; side < (keys[k].per_side ? config_sides(c) : 1); side++) {
            arena mem = {0};
            union value v = config_value(c, k, side), canonical = v;
            bool ok = fits(&places[k], &canonical, &mem) && (!is_choice(places[k].wants) || !strcmp(canonical.s, v.s));
            arena_free(&mem);
            if (ok) continue;
            str s = {0};
            describe(k, &s);
            str_adds(&s, ", found ");
            show(k, v, &s);
            const char *prefix = keys[k].per_side ? side_prefix(c, side) : "";
            err e = fail(E_USAGE, "'%s%s' wants %s", prefix, names[k], s.p ? s.p : "");
            str_free(&s);
            return e;
        }
    }
    return OK;
}

bool config_random_model(const char *model, uint64_t *seed, const char **dt) {
    if (!str_starts(model, "random:")) return false;
    char *end;
    *seed = strtoull(model + 7, &end, 10);
    *dt = *end == ':' ? end + 1 : "";
    return true;
}

static err check_model_of(const struct side_config *c, const char *prefix) {
    uint64_t seed;
    const char *dt;
    if (!*c->model) return fail(E_USAGE, "'%smodel' is missing: name a .gguf file, a Hugging Face folder, or random:SEED", prefix);
    if (!config_random_model(c->model, &seed, &dt)) {
        if (*c->model_config)
            return fail(E_USAGE, "'%smodel_config' goes with a random:SEED model; '%s' has a configuration of its own", prefix, c->model);
        return OK;
    }
    const char *digits = c->model + strlen("random:");
    size_t n = strspn(digits, "0123456789");
    bool plain = n && n < 20 && (!digits[n] || digits[n] == ':');
    if (!plain || (digits[n] && dtype_parse(dt) == DT_NONE))
        return fail(E_USAGE, "'%smodel' is '%s': write random:SEED or random:SEED:dtype, such as random:1:f32", prefix, c->model);
    if (!*c->model_config)
        return fail(E_USAGE, "'%smodel_config' is missing: a random:SEED model needs a config.json for its shape", prefix);
    return OK;
}

/* Adapters of macct share their base; models of dmcct are each side's own. */
static err check_model(const struct config *c) {
    const struct side_config *a = &c->side[0];
    if (!strcmp(c->objective, "dmcct")) {
        for (int i = 0; i < config_sides(c); i++) TRY(check_model_of(&c->side[i], *c->side[i].model ? side_prefixes[i] : ""));
        return OK;
    }
    for (int i = 1; i < config_sides(c); i++) {
        const struct side_config *b = &c->side[i];
        const char *key = strcmp(a->model, b->model) != 0                   ? "model"
                          : strcmp(a->model_config, b->model_config) != 0   ? "model_config"
                          : strcmp(a->tokenizer, b->tokenizer) != 0         ? "tokenizer"
                          : strcmp(a->chat_template, b->chat_template) != 0 ? "chat_template"
                                                                            : NULL;
        if (key)
            return fail(E_USAGE,
                        "'A.%s' and '%s%s' are two: the adapters of objective %s share one base; objective dmcct has a model for each side",
                        key, side_prefixes[i], key, c->objective);
    }
    return check_model_of(a, "");
}

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    if (!strcmp(a, b)) return true;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Entries of two sides that are the same text are an error: a cycle needs different sides. */
static err check_sides_differ(const struct config *c, int first, int second, arena *mem) {
    const struct side_config *a = &c->side[first], *b = &c->side[second];
    for (int i = 0; i < a->data.n; i++) {
        for (int k = 0; k < b->data.n; k++) {
            struct file_entry x, y;
            TRY(config_data_entry(mem, a->data.v[i], &x));
            TRY(config_data_entry(mem, b->data.v[k], &y));
            if (same_file(x.path, y.path) && !strcmp(x.field ? x.field : a->field, y.field ? y.field : b->field))
                return fail(E_USAGE, "'%sdata' and '%sdata' are the same text (%s): a cycle needs different sides", side_prefixes[first],
                            side_prefixes[second], x.path);
        }
    }
    return OK;
}

static err check_one_side(const struct config *c) {
    const struct strs *a = &c->side[0].data;
    struct file_entry e;
    if (!a->n)
        return fail(E_USAGE, "'data' is missing: %s",
                    config_has_head(c)              ? "a head trains on a file of texts with labels or numbers, or of words with tags"
                    : !strcmp(c->objective, "text") ? "text trains on a file of raw text"
                                                    : "sft and distill train on a file of prompt/completion or conversations");
    for (int s = 1; s < config_sides(c); s++) {
        const struct strs *b = &c->side[s].data;
        bool same = a->n == b->n;
        for (int i = 0; i < a->n && same; i++) same = !strcmp(a->v[i], b->v[i]);
        if (b->n && !same) return fail(E_USAGE, "'%sdata' has no use: %s trains one adapter, on 'data'", side_prefixes[s], c->objective);
    }
    if (*c->warmup_pairs) return fail(E_USAGE, "'warmup_pairs.data' has no use with objective %s", c->objective);
    TRY(config_check_no_rollouts(c));
    if (c->cycles.n) return fail(E_USAGE, "'cycles' has no use with objective %s, which has one side", c->objective);
    if (!config_has_head(c) && c->labels.n)
        return fail(E_USAGE, "'labels' has no use with objective %s: classes belong to objective classification", c->objective);
    if (c->eval_split > 0 && *c->eval_data) return fail(E_USAGE, "'eval.split' and 'eval.data' are both given: held-out data come from one of them");
    if (c->eval_split > 0 && *c->side[0].projector_file)
        return fail(E_USAGE, "'eval.split' takes records out of the data that 'projector.file' has a row for: put the vectors into the "
                             "records, or name 'eval.data' and 'eval.vectors'");
    for (int i = 0; i < 2; i++) {
        const char *vectors = i ? c->test_vectors : c->eval_vectors, *data = i ? c->test_data : c->eval_data;
        if (*vectors && (!*data || strcmp(c->side[0].method, "projector") != 0))
            return fail(E_USAGE, "'%s.vectors' has no use %s", i ? "test" : "eval",
                        *data ? "without method projector"
                        : i   ? "without 'test.data'"
                              : "without 'eval.data'");
    }
    arena mem = {0};
    err why = OK;
    for (int i = 0; i < a->n && !why; i++) why = config_data_entry(&mem, a->v[i], &e);
    arena_free(&mem);
    return why;
}

/* One cycle, "A-B-C": each of its sides is followed by the next, the last by the first. */
static err read_cycle(const char *text, int sides, int next[CONFIG_SIDES]) {
    int first = -1, last = -1;
    for (const char *p = text;; p += 2) {
        const int side = *p >= 'A' && *p < 'A' + sides ? *p - 'A' : -1;
        if (side < 0 || (p[1] && p[1] != '-'))
            return fail(E_USAGE, "'cycles' has '%.40s': write the names of this run's %d sides (A to %s) with - between them, as in A-B",
                        text, sides, side_names[sides - 1]);
        if (next[side] >= 0) return fail(E_USAGE, "'cycles' has side %s twice: each adapter has one side to write for", side_names[side]);
        if (first < 0) first = side;
        else next[last] = side;
        next[side] = first;
        last = side;
        if (!p[1]) break;
    }
    return last == first ? fail(E_USAGE, "'cycles' has '%s' alone: a cycle goes through two sides at least", text) : OK;
}

err config_cycles(const struct config *c, int next[CONFIG_SIDES]) {
    const int sides = config_sides(c);
    for (int i = 0; i < sides; i++) next[i] = c->cycles.n ? -1 : (i + 1) % sides;
    for (int i = 0; i < c->cycles.n; i++) TRY(read_cycle(c->cycles.v[i], sides, next));
    for (int i = 0; i < sides; i++)
        if (next[i] < 0) return fail(E_USAGE, "'cycles' leaves side %s out", side_names[i]);
    return OK;
}

/* What adapters that write for each other cannot be. */
static err check_cycle(const struct config *c) {
    int next[CONFIG_SIDES];
    for (int s = 0; s < config_sides(c); s++) {
        const struct side_config *side = &c->side[s];
        if (!strcmp(side->method, "none"))
            return fail(E_USAGE,
                        "'%smethod' none trains nothing but a classifier's head: it goes with objective classification, regression or "
                        "token_classification",
                        side_prefixes[s]);
        if (!strcmp(side->method, "projector"))
            return fail(E_USAGE,
                        "'%smethod' projector reads vectors beside each text, which a text that the other side makes has not: it goes "
                        "with objective sft or classification",
                        side_prefixes[s]);
        if (side->max_new_tokens >= side->max_length)
            return fail(E_USAGE, "'max_new_tokens' (%lld) leaves no room for a prompt within 'max_length' (%lld)",
                        (long long)side->max_new_tokens, (long long)side->max_length);
    }
    if (c->labels.n)
        return fail(E_USAGE, "'labels' has no use with objective %s: classes belong to objective classification", c->objective);
    TRY(config_check_rollouts(c));
    return config_cycles(c, next);
}

/* What a learning rate's shape is told belongs to it, and fits. */
static err check_curve(const struct config *c, const struct side_config *s, const char *prefix) {
    const bool wsd = !strcmp(s->scheduler, "warmup_stable_decay"), ends = !strcmp(s->scheduler, "cosine_with_min_lr");
    const char *idle = wsd                                    ? NULL
                       : s->decay_steps                       ? "num_decay_steps"
                       : strcmp(s->decay_type, "cosine") != 0 ? "decay_type"
                       : s->min_lr_ratio > 0 && !ends         ? "min_lr_ratio"
                                                              : NULL;
    if (idle) return fail(E_USAGE, "'%slr_scheduler_kwargs.%s' has no use with lr_scheduler_type %s", prefix, idle, s->scheduler);
    if (ends && s->min_lr_ratio == 0)
        return fail(
            E_USAGE,
            "'%slr_scheduler_type' cosine_with_min_lr needs lr_scheduler_kwargs.min_lr_ratio, where it ends; to end at 0 there is cosine",
            prefix);
    if (wsd && s->decay_steps + s->warmup_steps > c->max_steps)
        return fail(E_USAGE, "'%slr_scheduler_kwargs.num_decay_steps' (%lld) and warmup_steps (%lld) are more than max_steps (%lld)",
                    prefix, (long long)s->decay_steps, (long long)s->warmup_steps, (long long)c->max_steps);
    return OK;
}

static err check_side(const struct config *c, int side) {
    const struct side_config *s = &c->side[side];
    const char *prefix = side_prefix(c, side);
    if (!strcmp(s->scheduler, "constant") && (s->warmup_steps || s->warmup_ratio > 0))
        return fail(E_USAGE, "'%s%s' has no use with lr_scheduler_type constant: use constant_with_warmup", prefix,
                    s->warmup_steps ? "warmup_steps" : "warmup_ratio");
    TRY(check_curve(c, s, prefix));
    if (*c->init_from && *s->adapter)
        return fail(E_USAGE, "'%sadapter' and 'init_from' are both given: one goes on with a task, the other begins a new one", prefix);
    if (s->sgd_nesterov && s->sgd_momentum == 0) return fail(E_USAGE, "'%ssgd.nesterov' has no use with sgd.momentum 0", prefix);
    if (!strcmp(s->optim, "adafactor") && s->adafactor_relative && strcmp(s->scheduler, "constant") != 0)
        return fail(E_USAGE,
                    "'%slr_scheduler_type' has no use with adafactor.relative_step, which brings its own learning rate: leave it constant",
                    prefix);
    if (s->min_new_tokens > s->max_new_tokens)
        return fail(E_USAGE, "'%smin_new_tokens' is %lld, more than max_new_tokens %lld", prefix, (long long)s->min_new_tokens,
                    (long long)s->max_new_tokens);
    if (s->temperature == 0 && (s->top_p < 1 || s->top_k || s->min_p > 0))
        return fail(E_USAGE, "'%sgeneration.%s' has no use at generation.temperature 0 (greedy): raise the temperature", prefix,
                    s->top_k ? "top_k" : s->min_p > 0 ? "min_p" : "top_p");
    for (int i = 0; i < s->lora_targets.n && s->lora_targets.n > 1; i++)
        if (!strcmp(s->lora_targets.v[i], "all-linear"))
            return fail(E_USAGE, "'%slora.target_modules': all-linear stands alone, it already has every linear",
                        prefix);
    return OK;
}

static err check_data(const struct config *c) {
    if (one_sided(c) && !strcmp(c->schedule, "joint"))
        return fail(E_USAGE, "'schedule' joint has no use with objective %s, which trains one adapter: it is for macct", c->objective);
    if (one_sided(c)) return check_one_side(c);
    const int sides = config_sides(c);
    for (int s = 0; s < sides; s++)
        if (!c->side[s].data.n)
            return fail(E_USAGE, "'%sdata' is missing: %s needs unpaired text for %s", side_prefixes[s], c->objective,
                        sides == 2 ? "both sides, A.data and B.data" : "each side");
    if (c->eval_split > 0)
        return fail(E_USAGE, "'eval.split' has no use with objective %s: its evaluation needs pairs (eval.data)", c->objective);
    arena mem = {0};
    err e = OK;
    for (int a = 0; a < sides; a++)
        for (int b = a + 1; b < sides && !e; b++) e = check_sides_differ(c, a, b, &mem);
    arena_free(&mem);
    TRY(e);
    return check_cycle(c);
}

bool config_without_data(const struct config *c) {
    for (int i = 0; i < config_sides(c); i++)
        if (c->side[i].data.n) return false;
    return true;
}

/* What evaluations say beside the metrics of texts (data/metrics.def). */
static const struct {
    const char *name;
    bool falls;
} figures[] = {{"none", false}, {"loss", true}, {"perplexity", true}, {"accuracy", false}, {"macro_f1", false},    {"span_f1", false},
               {"rmse", true},  {"mae", true},  {"pearson", false},   {"spearman", false}, {"bits_per_byte", true}, {"kl", true}};
enum { N_FIGURES = sizeof figures / sizeof *figures };

bool config_knows_metric(const char *name) {
    if (strchr(name, '.')) return true; /* a number of an evaluation: eval_has_metric() looks for it in the first */
    for (int i = 0; i < N_FIGURES; i++)
        if (!strcmp(name, figures[i].name)) return true;
    return metric_find(name) != NULL;
}

bool config_metric_falls(const struct config *c) {
    static const char *const health[] = {"copy_rate", "copy_ngrams", "empty",     "truncated",  "most_common", "drift",
                                         "nll",       "base_nll",    "loss_rise", "score_fall", "wrong",       "invented"};
    const char *dot = strrchr(c->best_metric, '.'), *name = dot ? dot + 1 : c->best_metric;
    const struct metric *m = metric_find(name);
    if (strcmp(c->greater_is_better, "auto") != 0) return !strcmp(c->greater_is_better, "false");
    for (int i = 0; i < N_FIGURES; i++)
        if (!strcmp(name, figures[i].name)) return figures[i].falls;
    for (size_t i = 0; i < sizeof health / sizeof *health; i++)
        if (!strcmp(name, health[i])) return true;
    return m && m->lower_is_better;
}

static bool measures(const struct config *c, const char *name) {
    if (!strcmp(name, "bleu") || !strcmp(name, "chrf") || !strcmp(name, "exact")) return true;
    for (int s = 0; s < config_sides(c); s++)
        for (int i = 0; i < c->side[s].eval_metrics.n; i++)
            if (!strcmp(c->side[s].eval_metrics.v[i], name)) return true;
    return false;
}

/* Metrics by name, and what only texts that adapters write can have. */
static err check_metrics(const struct config *c) {
    for (int s = 0; s < config_sides(c); s++) {
        const struct side_config *side = &c->side[s];
        for (int i = 0; i < side->eval_metrics.n; i++)
            if (!metric_find(side->eval_metrics.v[i]))
                return fail_in(metric_unknown(side->eval_metrics.v[i]), "'%seval.metrics'", side_prefix(c, s));
        const char *idle = !one_sided(c)              ? NULL
                           : *side->processor_command ? "processor.command"
                           : side->eval_metrics.n     ? "eval.metrics"
                           : *c->metric_command       ? "eval.metric_command"
                                                      : NULL;
        if (idle)
            return fail(E_USAGE, "'%s' has no use with objective %s: it is about texts that adapters of a cycle write (macct, dmcct)", idle,
                        c->objective);
    }
    if (*c->metric_command && !*c->eval_data && !*c->test_data)
        return fail(E_USAGE, "'eval.metric_command' has nothing to measure: neither 'eval.data' nor 'test.data' names a file");
    if (!config_knows_metric(c->best_metric) && !*c->metric_command)
        return fail_in(metric_unknown(c->best_metric), "'metric_for_best_model'");
    if (!one_sided(c) && metric_find(c->best_metric) && !measures(c, c->best_metric))
        return fail(E_USAGE, "'metric_for_best_model' is %s, which no side's 'eval.metrics' names", c->best_metric);
    return OK;
}

/* What goes for every configuration, whether or not it has data yet. */
static err check_rest(const struct config *c) {
    TRY(config_check_distill(c));
    if (one_sided(c) && !config_has_head(c) && !strcmp(c->side[0].method, "none"))
        return fail(E_USAGE, "'method' none trains nothing but a classifier's head: it goes with objective classification, regression or "
                             "token_classification");
    for (int i = 0; i < config_sides(c); i++) TRY(check_side(c, i));
    TRY(config_check_loss(c));
    if (c->eval_beams > 1 && one_sided(c))
        return fail(E_USAGE, "'eval.num_beams' is of texts that are written in evaluation: objective %s writes none", c->objective);
    if (c->eval_beams == 1 && (c->eval_length_penalty != 1 || strcmp(c->eval_early_stopping, "false") != 0))
        return fail(E_USAGE, "'eval.%s' has no use without eval.num_beams",
                    c->eval_length_penalty != 1 ? "length_penalty" : "early_stopping");
    return check_metrics(c);
}

err config_check_plan(const struct config *c) {
    TRY(check_ranges(c));
    TRY(check_model(c));
    if (!one_sided(c)) TRY(check_cycle(c));
    return check_rest(c);
}

err config_check(const struct config *c) {
    TRY(check_ranges(c));
    TRY(check_model(c));
    TRY(check_data(c));
    TRY(config_check_guards(c));
    TRY(check_rest(c));
    const bool held_out = *c->eval_data || c->eval_split > 0 || c->guards.n;
    if (c->eval_steps && !held_out)
        return fail(E_USAGE, "'eval_steps' is %lld but 'eval.data' names no file", (long long)c->eval_steps);
    if (strcmp(c->best_metric, "none") != 0 && !held_out)
        return fail(E_USAGE, "'metric_for_best_model' is %s but 'eval.data' names no file", c->best_metric);
    const bool rollback = !strcmp(c->on_alarm, "rollback");
    if ((c->patience || rollback) && !strcmp(c->best_metric, "none"))
        return fail(E_USAGE, "'%s' needs metric_for_best_model, which says which evaluation is the best", rollback ? "on_alarm: rollback" : "early_stopping_patience");
    if (c->patience && !c->eval_steps) return fail(E_USAGE, "'early_stopping_patience' needs eval_steps: without it there is one evaluation, at the end");
    if (c->max_steps == 0 && !(*c->warmup_pairs && c->warmup_epochs))
        return fail(E_USAGE, "'max_steps' is 0 and there are no 'warmup_pairs': nothing to train");
    return OK;
}
