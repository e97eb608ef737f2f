/* See recipes.h. */
#include "data/recipes.h"
#include "base/file.h"
#include "data/source.h"
#include "data/span_score.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

void text_pairs_free(struct text_pairs *p) {
    arena_free(&p->mem);
    free(p->v);
    *p = (struct text_pairs){0};
}

static err add_pair(struct text_pairs *p, const char *a, const char *b) {
    if (bytes_are_blank(a, strlen(a)) || bytes_are_blank(b, strlen(b))) return fail(E_INPUT, "an empty text");
    if (p->n == p->cap) {
        const int cap = 2 * p->cap + 256;
        struct text_pair *v = realloc(p->v, (size_t)cap * sizeof *v);
        if (!v) return out_of_memory();
        p->v = v, p->cap = cap;
    }
    struct text_pair own = {arena_str(&p->mem, a), arena_str(&p->mem, b)};
    if (!own.a || !own.b) return out_of_memory();
    p->v[p->n++] = own;
    return OK;
}

/* A pair of a structure, as the form writes it, and a text. */
static err add_structure(struct text_pairs *p, const struct recipe *r, const struct listing *l, const char *text) {
    str said = {0};
    struct listing back = {0};
    listing_render(r->form, l, &said);
    err e = said.failed ? out_of_memory() : listing_parse(r->form, said.p, &back);
    bool same = back.n == l->n;
    for (int i = 0; i < l->n && same; i++) same = item_equal(&l->v[i], &back.v[i]);
    if (!e && !same) e = fail(E_INTERNAL, "\"%.200s\" is read otherwise than it was written", said.p);
    if (!e) e = r->structure_first ? add_pair(p, said.p, text) : add_pair(p, text, said.p);
    listing_free(&back);
    str_free(&said);
    return e;
}

static void add_words(str *out, const char *const *words, int from, int to) {
    for (int i = from; i < to; i++) str_addf(out, "%s%s", i > from ? " " : "", words[i]);
}

/* --- sentences with tags -------------------------------------------------------------------------------------------------- */
static err tagged_record(const struct recipe *r, const struct record *rec, struct text_pairs *out) {
    struct listing l = {0};
    str text = {0};
    bool outside = true; /* nothing but O: a sentence without entities */
    for (int i = 0; i < rec->n_words && outside; i++) outside = !strcmp(rec->tags[i], "O");
    if (!outside && !spans_are_tagged(rec->tags, rec->n_words))
        return fail(E_INPUT, "tags that mark no entities: they must be O, or B-, I-, E- or S- and a type");
    struct span *span = calloc((size_t)rec->n_words + 1, sizeof *span);
    err e = span ? OK : out_of_memory();
    for (int i = 0, n = e ? 0 : spans_find(rec->tags, rec->n_words, span); i < n && !e; i++) {
        str mention = {0};
        add_words(&mention, rec->words, span[i].from, span[i].to);
        e = mention.failed ? out_of_memory() : listing_add(&l, &(struct item){2, {span[i].type, mention.p ? mention.p : ""}});
        str_free(&mention);
    }
    add_words(&text, rec->words, 0, rec->n_words);
    if (!e) e = text.failed ? out_of_memory() : add_structure(out, r, &l, text.p ? text.p : "");
    str_free(&text);
    listing_free(&l);
    free(span);
    return e;
}

static err read_tagged(const struct recipe *r, const struct recipe_input *in, struct text_pairs *out) {
    for (int k = 0; k < in->n; k++) {
        struct source s;
        const bool records = strstr(in->files[k], ".json") != NULL; /* whatever else holds words and tags is lines of them */
        const struct source_file file = {
            .path = in->files[k], .format = records ? NULL : "conll", .field = in->field, .field2 = in->field2};
        TRY(source_open_files(&file, 1, &(struct source_options){.want = WANT_TAGGED, .in_memory = UINT64_MAX}, &s));
        err e = OK;
        for (int i = 0; i < s.n && !e; i++)
            if ((e = tagged_record(r, &s.r[i], out))) e = fail_in(e, "%s:%d", in->files[k], s.r[i].line);
        source_close(&s);
        TRY(e);
    }
    return OK;
}

/* --- records and triples --------------------------------------------------------------------------------------------------- */
/* Text of a JSON string or number; buf: room for the latter. */
static const char *scalar(const json_t *v, char *buf, size_t size) {
    if (json_is_string(v)) return json_string_value(v);
    if (json_is_integer(v)) snprintf(buf, size, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v)) snprintf(buf, size, "%.15g", json_real_value(v));
    else return json_is_true(v) ? "true" : json_is_false(v) ? "false" : NULL;
    return buf;
}

static const json_t *field_of(const json_t *o, const char *asked, const char *const *usual) {
    const json_t *v = asked ? json_object_get(o, asked) : NULL;
    for (; !asked && !v && *usual; usual++) v = json_object_get(o, *usual);
    return v;
}

/* One item: a list of its parts, an object that names them, or WebNLG's "s | p | o". */
static err item_of(const struct listing_form *f, const json_t *v, struct listing *l) {
    static const char *const subject[] = {"subject", "name", NULL}, *const predicate[] = {"predicate", "property", "value", NULL},
                             *const object[] = {"object", NULL};
    static const char *const *const names[] = {subject, predicate, object};
    struct item item = {f->fields, {0}};
    char buf[ITEM_FIELDS][40];
    if (json_is_string(v)) {
        struct listing one = {0};
        err e = listing_parse(f, json_string_value(v), &one);
        if (!e && (one.n != 1 || one.v[0].n != f->fields))
            e = fail(E_INPUT, "\"%.80s\" has not %d parts with \"%s\" between", json_string_value(v), f->fields, f->within);
        if (!e) e = listing_add(l, &one.v[0]);
        listing_free(&one);
        return e;
    }
    for (int i = 0; i < f->fields; i++) {
        const json_t *part = json_is_array(v) ? json_array_get(v, (size_t)i) : field_of(v, NULL, names[i]);
        if (!(item.field[i] = scalar(part, buf[i], sizeof buf[i])))
            return fail(E_INPUT, "an item without its %d parts, which are texts or numbers", f->fields);
    }
    return listing_add(l, &item);
}

/* A list of items, or the names and values of an object. */
static err items_of(const struct listing_form *f, const json_t *v, struct listing *l) {
    size_t i;
    const char *name;
    json_t *one;
    char buf[40];
    err e = OK;
    if (json_is_object(v) && f->fields == 2) json_object_foreach((json_t *)v, name, one) {
            const char *value = scalar(one, buf, sizeof buf);
            if (!e)
                e = value ? listing_add(l, &(struct item){2, {name, value}})
                          : fail(E_INPUT, "\"%.40s\" is neither a text nor a number", name);
        }
    else if (json_is_array(v)) json_array_foreach(v, i, one) e = e ? e : item_of(f, one, l);
    else return fail(E_INPUT, f->fields == 2 ? "the fields are neither an object nor a list" : "the triples are no list");
    return e;
}

static err items_record(const struct recipe *r, const struct recipe_input *in, const struct extent *x, struct text_pairs *out) {
    static const char *const structures[] = {"triples", "record", "records", "fields", "input", NULL}, *const texts[] = {"text", "target",
                                                                                                                         "lex", NULL};
    json_error_t where;
    json_t *o = json_loadb(x->p, x->n, JSON_REJECT_DUPLICATES, &where);
    if (!o) return fail(E_INPUT, "no JSON: %s", where.text);
    const json_t *s = field_of(o, in->field, structures), *t = field_of(o, in->field2, texts);
    struct listing l = {0};
    err e = !s                   ? fail(E_INPUT, "no \"%s\"; --field A,B names the field of the structure and of the text",
                      in->field ? in->field : "triples\", \"record\" or \"input")
            : !json_is_string(t) ? fail(E_INPUT, "no text \"%s\"; --field A,B names the field of the structure and of the text",
                                        in->field2 ? in->field2 : "text\" or \"target")
                                 : items_of(r->form, s, &l);
    if (!e) e = add_structure(out, r, &l, json_string_value(t));
    listing_free(&l);
    json_decref(o);
    return e;
}

static err read_items(const struct recipe *r, const struct recipe_input *in, struct text_pairs *out) {
    for (int k = 0; k < in->n; k++) {
        struct text_file t;
        struct scanner s;
        struct extent x;
        bool found = true;
        size_t first = 0;
        TRY(text_file_open(in->files[k], UINT64_MAX, &t));
        while (first < t.n && strchr(" \t\r\n", t.p[first]) && t.p[first]) first++;
        scan_begin(&s, &t, first < t.n && t.p[first] == '[' ? IN_ARRAY : IN_JSONL);
        err e = OK;
        while (!e && !(e = scan_next(&s, &x, &found)) && found)
            if ((e = items_record(r, in, &x, out))) e = fail_in(e, "%s:%d", in->files[k], x.line);
        scan_end(&s);
        text_file_close(&t);
        TRY(e);
    }
    return OK;
}

/* --- texts that go together --------------------------------------------------------------------------------------------------- */
static err read_lines(const char *path, struct source *s) {
    const struct source_file file = {.path = path, .format = str_ends(path, ".tsv") ? "lines" : NULL};
    return source_open_files(&file, 1, &(struct source_options){.want = WANT_TEXT, .in_memory = UINT64_MAX}, s);
}

static err two_files(const struct recipe_input *in, struct text_pairs *out) {
    struct source a, b;
    TRY(read_lines(in->files[0], &a));
    err e = read_lines(in->files[1], &b);
    if (e) return source_close(&a), e;
    if (a.n != b.n) e = fail(E_INPUT, "%s has %d texts and %s has %d: a text for each is needed", in->files[0], a.n, in->files[1], b.n);
    for (int i = 0; i < a.n && !e; i++) {
        if (a.r[i].line != b.r[i].line)
            e = fail(E_INPUT, "%s:%d and %s:%d: an empty line in one of them alone", in->files[0], a.r[i].line, in->files[1], b.r[i].line);
        else if ((e = add_pair(out, a.r[i].text, b.r[i].text))) e = fail_in(e, "%s:%d", in->files[0], a.r[i].line);
    }
    source_close(&a);
    source_close(&b);
    return e;
}

static err two_columns(const char *path, struct text_pairs *out) {
    struct source s;
    TRY(read_lines(path, &s));
    err e = OK;
    for (int i = 0; i < s.n && !e; i++) {
        const char *text = s.r[i].text, *tab = strchr(text, '\t');
        char *a = tab ? arena_strn(&out->mem, text, (size_t)(tab - text)) : NULL,
             *b = a ? arena_strn(&out->mem, tab + 1, strcspn(tab + 1, "\t")) : NULL;
        e = !tab ? fail(E_INPUT, "no tab") : !b ? out_of_memory() : add_pair(out, a, b);
        if (e) e = fail_in(e, "%s:%d", path, s.r[i].line);
    }
    source_close(&s);
    return e;
}

static err named_fields(const struct recipe_input *in, struct text_pairs *out) {
    struct source s;
    TRY(source_open(in->files[0], WANT_PAIR, in->field ? in->field : "a", in->field2 ? in->field2 : "b", &s));
    err e = OK;
    for (int i = 0; i < s.n && !e; i++)
        if ((e = add_pair(out, s.r[i].prompt, s.r[i].completion))) e = fail_in(e, "%s:%d", in->files[0], s.r[i].line);
    source_close(&s);
    return e;
}

static err read_aligned(const struct recipe *r, const struct recipe_input *in, struct text_pairs *out) {
    if (in->n > 2) return fail(E_USAGE, "%s: two files of lines, or one file of pairs, not %d files", r->name, in->n);
    if (in->n == 2) return two_files(in, out);
    return str_ends(in->files[0], ".tsv") && !in->field ? two_columns(in->files[0], out) : named_fields(in, out);
}

/* --- all of them ------------------------------------------------------------------------------------------------------------------ */
static const struct recipe recipes[] = {
#define RECIPE(name, a, b, reader, form, first, metrics_a, metrics_b, best)                                                                \
    {name, a, b, read_##reader, form, first, metrics_a, metrics_b, best},
#include "data/recipes.def"
#undef RECIPE
};
enum { N_RECIPES = sizeof recipes / sizeof *recipes };

const struct recipe *recipe_find(const char *name) {
    for (int i = 0; i < N_RECIPES; i++)
        if (!strcmp(recipes[i].name, name)) return &recipes[i];
    return NULL;
}

err recipe_unknown(const char *name) {
    str all = {0};
    for (int i = 0; i < N_RECIPES; i++) str_addf(&all, "%s%s", i ? ", " : "", recipes[i].name);
    err e = fail(E_USAGE, "there is no recipe '%.60s' (%s)", name, all.p ? all.p : "");
    str_free(&all);
    return e;
}

static int by_texts(const void *a, const void *b) {
    const struct text_pair *x = *(struct text_pair *const *)a, *y = *(struct text_pair *const *)b;
    const int c = strcmp(x->a, y->a), d = c ? c : strcmp(x->b, y->b);
    return d ? d : (x > y) - (x < y);
}

/* Of equal pairs the first stays. */
static err drop_equal(struct text_pairs *p) {
    struct text_pair **order = malloc((size_t)p->n * sizeof *order + 1);
    const int all = p->n;
    if (!order) return out_of_memory();
    for (int i = 0; i < all; i++) order[i] = &p->v[i];
    qsort(order, (size_t)all, sizeof *order, by_texts);
    for (int i = all - 1; i > 0; i--)
        if (!strcmp(order[i]->a, order[i - 1]->a) && !strcmp(order[i]->b, order[i - 1]->b)) order[i]->a = NULL;
    p->n = 0;
    for (int i = 0; i < all; i++)
        if (p->v[i].a) p->v[p->n++] = p->v[i];
    p->duplicates = all - p->n;
    free(order);
    return OK;
}

err recipe_read(const struct recipe *r, const struct recipe_input *in, struct text_pairs *out) {
    *out = (struct text_pairs){0};
    err e = r->read(r, in, out);
    if (!e) e = drop_equal(out);
    if (e) text_pairs_free(out);
    return e;
}

/* Two numbers in [0, 1) from the hash: which part, and which half of the rest. */
enum part recipe_part(const char *a, uint64_t seed, const struct shares *s) {
    char hex[33], half[16], seeded[33 + 24];
    bytes_hash(a, strlen(a), hex);
    const int n = snprintf(seeded, sizeof seeded, "%s %llu", hex, (unsigned long long)seed);
    bytes_hash(seeded, (size_t)n, hex);
    memcpy(half, hex + 16, 13), half[13] = 0, hex[13] = 0;
    const double u = (double)strtoull(hex, NULL, 16) * 0x1p-52, v = (double)strtoull(half, NULL, 16) * 0x1p-52;
    if (u < s->test) return PART_TEST;
    if (u < s->test + s->dev) return PART_DEV;
    if (u < s->test + s->dev + s->warm) return PART_WARM;
    return v < 0.5 ? PART_A : PART_B;
}
