/* See examples.h. */
#include "train/examples.h"
#include <stdio.h>
#include <string.h>

#define EXAMPLE(name, file, page, command, about) extern const char text_##file[];
#define COMMAND(name, page, command, about)
#include "train/examples.def"
#undef EXAMPLE
#undef COMMAND

static const struct example table[] = {
#define EXAMPLE(name, file, page, command, about) {name, text_##file, page, command, about},
#define COMMAND(name, page, command, about)       {name, NULL, page, command, about},
#include "train/examples.def"
#undef EXAMPLE
#undef COMMAND
};
enum { N_EXAMPLES = sizeof table / sizeof *table };

const struct example *examples_all(int *n) {
    *n = N_EXAMPLES;
    return table;
}

err example_find(const char *name, const struct example **out) {
    const char *names[N_EXAMPLES + 1] = {0};
    for (int i = 0; i < N_EXAMPLES; i++) {
        names[i] = table[i].name;
        if (!strcmp(name, names[i])) return *out = &table[i], OK;
    }
    const char *near = str_nearest(name, names);
    if (near) return fail(E_USAGE, "there is no recipe '%.60s'; did you mean '%s'?", name, near);
    return fail(E_USAGE, "there is no recipe '%.60s'; `cyclora recipes` lists them", name);
}

/* --- a line of an example ------------------------------------------------------------------------------------------- */
enum { DEPTH = 4, KEY_MOST = 128 };
struct line {
    const char *p, *value, *comment; /* value and comment: where they begin, at the line's end where there is none */
    size_t n, value_n;
    char key[KEY_MOST]; /* dotted; "" of a comment or a blank line; of "eval:" that alone */
    int indent;
    size_t own; /* where the line's own name begins in key */
};
struct reader { /* begins as {text} */
    const char *next;
    char section[DEPTH][KEY_MOST]; /* the dotted names around a line of each depth, with their dots */
};

static const char *comment_of(const char *p, const char *end) {
    bool quoted = false;
    for (; p < end; p++) {
        if (*p == '\\' && quoted) p++;
        else if (*p == '"') quoted = !quoted;
        else if (*p == '#' && !quoted && p[-1] == ' ') return p;
    }
    return end;
}

static bool next_line(struct reader *r, struct line *l) {
    if (!*r->next) return false;
    *l = (struct line){.p = r->next, .n = strcspn(r->next, "\n")};
    const char *end = l->p + l->n;
    r->next = *end ? end + 1 : end;
    l->indent = (int)strspn(l->p, " ");
    const char *name = l->p + l->indent, *colon = memchr(name, ':', (size_t)(end - name));
    l->value = l->comment = end;
    const int depth = l->indent / 2;
    if (name == end || *name == '#' || !colon || depth >= DEPTH) return true;
    const char *around = depth ? r->section[depth] : "";
    snprintf(l->key, sizeof l->key, "%s%.*s", around, (int)(colon - name), name);
    l->own = strlen(around);
    l->value = colon + 1 + strspn(colon + 1, " ");
    if (l->value > end) l->value = end;
    l->comment = comment_of(l->value, end);
    for (l->value_n = (size_t)(l->comment - l->value); l->value_n && l->value[l->value_n - 1] == ' ';) l->value_n--;
    if (!l->value_n && depth + 1 < DEPTH) snprintf(r->section[depth + 1], KEY_MOST, "%.*s.", KEY_MOST - 2, l->key);
    return true;
}

static bool sets(const struct example *x, const char *key) {
    struct reader r = {x->text, {{0}}};
    struct line l;
    while (next_line(&r, &l))
        if (!strcmp(l.key, key) && l.value_n) return true;
    return false;
}

/* --- what goes over it ------------------------------------------------------------------------------------------------ */
enum { BELONGINGS = 4 };
struct change {
    const char *key, *value; /* as YAML */
};
struct changes {
    arena mem;
    const struct example *x;
    struct change *v;
    int n;
    bool eval_in_place_of_split, without[BELONGINGS];
};

/* What is the example's own data's, and goes with the file that is named first. */
static const char *const belongings[BELONGINGS][5] = {
    {"eval.data", "eval.", "eval_steps", "metric_for_best_model", "early_stopping_patience"},
    {"test.data", "test."},
    {"warmup_pairs.data", "warmup_pairs."},
    {"guard.data", "guard.", "on_alarm"}};

static const struct change *changed(const struct changes *c, const char *key) {
    for (int i = 0; i < c->n; i++)
        if (!strcmp(c->v[i].key, key)) return &c->v[i];
    return NULL;
}

static err change(struct changes *c, const char *key, const char *value) {
    if (!sets(c->x, key))
        return fail(E_USAGE, "recipe %s does not set '%s': write the file without it, and add the key there (`cyclora help config`)",
                    c->x->name, key);
    if (changed(c, key)) return fail(E_USAGE, "'%s' is given twice", key);
    c->v[c->n++] = (struct change){key, value};
    return value ? OK : fail(E_MEMORY, "out of memory");
}

static err change_text(struct changes *c, const char *key, const char *text) {
    str s = {0};
    config_quote(text, &s);
    const char *value = s.failed ? NULL : arena_str(&c->mem, s.p);
    str_free(&s);
    return change(c, key, value);
}

/* One side takes all files, several sides one each. */
static err change_data(struct changes *c, const struct strs *data) {
    int side = 0;
    str list = {0};
    if (!sets(c->x, "A.data") && data->n == 1) return change_text(c, "data", data->v[0]);
    if (!sets(c->x, "A.data")) {
        for (int i = 0; i < data->n; i++) str_adds(&list, i ? ", " : "["), config_quote(data->v[i], &list);
        str_addc(&list, ']');
        const char *value = list.failed ? NULL : arena_str(&c->mem, list.p);
        str_free(&list);
        return change(c, "data", value);
    }
    for (; side < CONFIG_SIDES; side++) {
        const char *key = arena_printf(&c->mem, "%s.data", config_side_name(side));
        if (!key) return fail(E_MEMORY, "out of memory");
        if (!sets(c->x, key)) break;
        if (side < data->n) TRY(change_text(c, key, data->v[side]));
    }
    return side == data->n
               ? OK
               : fail(E_USAGE, "recipe %s has %d sides, so it wants as many data files, a side each, not %d", c->x->name, side, data->n);
}

static err gather(struct changes *c, const struct example_edits *e) {
    c->v = arena_alloc(&c->mem, (size_t)(e->sets.n + CONFIG_SIDES + 8) * sizeof *c->v);
    if (!c->v) return fail(E_MEMORY, "out of memory");
    const char *const given[] = {e->eval, e->test, e->pairs};
    if (e->model) TRY(change_text(c, "model", e->model));
    if (e->data.n) TRY(change_data(c, &e->data));
    c->eval_in_place_of_split = e->eval && sets(c->x, "eval.split");
    for (int i = 0; i < 3; i++)
        if (given[i]) TRY(change_text(c, i || !c->eval_in_place_of_split ? belongings[i][0] : "eval.split", given[i]));
    for (int i = 0; i < e->sets.n; i++) {
        const char *eq = strchr(e->sets.v[i], '=');
        if (!eq || eq == e->sets.v[i]) return fail(E_USAGE, "--set: '%.60s' is not key=value", e->sets.v[i]);
        const char *key = arena_strn(&c->mem, e->sets.v[i], (size_t)(eq - e->sets.v[i]));
        TRY(key ? change(c, key, eq[1] ? eq + 1 : "\"\"") : fail(E_MEMORY, "out of memory"));
        if (strchr(eq, '\n')) return fail(E_USAGE, "--set: the value of '%s' has a line end in it: write \\n within double quotes", key);
    }
    for (int i = 0; i < BELONGINGS; i++) c->without[i] = e->data.n && sets(c->x, belongings[i][0]) && !changed(c, belongings[i][0]);
    return OK;
}

static bool goes(const struct changes *c, const struct line *l) {
    for (int i = 0; i < BELONGINGS; i++)
        for (int k = 1; k < 5 && c->without[i] && belongings[i][k]; k++) {
            const char *name = belongings[i][k];
            const size_t n = strlen(name);
            const bool section = name[n - 1] == '.';
            if (section ? !strncmp(l->key, name, n) || (strlen(l->key) == n - 1 && !strncmp(l->key, name, n - 1)) : !strcmp(l->key, name))
                return true;
        }
    return false;
}

/* The line with another value; its comment stays in its column where there is room. */
static void add_changed(const struct changes *c, const struct line *l, const char *value, str *out) {
    const size_t before = out->n;
    const bool split = c->eval_in_place_of_split && !strcmp(l->key, "eval.split");
    str_addf(out, "%*s%s: %s", l->indent, "", split ? "data" : l->key + l->own, value);
    const size_t column = (size_t)(l->comment - l->p);
    do str_addc(out, ' ');
    while (!out->failed && out->n - before < column);
    if (split) str_adds(out, "# held out, in place of a share of the training data");
    else str_add(out, l->comment, l->n - column);
    str_addc(out, '\n');
}

static void write_edited(const struct changes *c, str *out) {
    struct reader r = {c->x->text, {{0}}};
    struct line l;
    while (next_line(&r, &l)) {
        const struct change *to = l.value_n ? changed(c, l.key) : NULL;
        if (to) {
            add_changed(c, &l, to->value, out);
            continue;
        }
        if (goes(c, &l)) str_adds(out, "# ");
        str_add(out, l.p, l.n);
        str_addc(out, '\n');
    }
}

err example_edit(const struct example *x, const struct example_edits *edits, const char *where, str *out, struct config *c) {
    struct changes changes = {.x = x};
    if (!x->text) return fail(E_USAGE, "recipe %s is a command and needs no configuration: `%s --help`, %s", x->name, x->command, x->page);
    err e = gather(&changes, edits);
    if (!e) write_edited(&changes, out);
    arena_free(&changes.mem);
    if (!e && out->failed) e = fail(E_MEMORY, "out of memory");
    if (!e) e = config_parse(c, where, out->p, out->n);
    return e ? e : config_check(c);
}
