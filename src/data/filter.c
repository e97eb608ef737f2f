/* See filter.h. With a rule about tokens a first pass measures rows (data/rows.h); two bits of each record say how that ended. */
#define PCRE2_CODE_UNIT_WIDTH 8
#define XXH_INLINE_ALL
#include "data/filter.h"
#include "data/bits.h"
#include "data/rows.h"
#include "data/said.h"
#include <limits.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>

enum rule { MIN_TOKENS, MAX_TOKENS, MIN_CHARS, MAX_CHARS, MIN_RATIO, MAX_RATIO, MIN_LETTERS, MAX_REPEATED, ALPHABET, KEEP, DROP, RULES };
static const char *const rule_names[RULES] = {"min_tokens",  "max_tokens",   "min_chars", "max_chars", "min_ratio", "max_ratio",
                                              "min_letters", "max_repeated", "alphabet",  "keep",      "drop"};

struct expression {
    char *field; /* "": all that is said */
    pcre2_code *re;
};
struct filtering {
    const struct filter_options *o;
    bool on[RULES];
    struct expression *keep, *drop;
    pcre2_code *foreign;          /* a run of letters of other scripts */
    uint64_t *too_few, *too_many; /* tokens: a bit for each record; NULL: no rule */
    int measured;                 /* records */
    enum rule failed[BLOCK];      /* RULES: none */
    int64_t count[RULES];
    struct output out;
};

/* --- expressions ------------------------------------------------------------------------------------------------------- */
static err compile(const char *option, const char *pattern, pcre2_code **re) {
    int code;
    PCRE2_SIZE at;
    PCRE2_UCHAR why[128];
    *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (*re) return (void)pcre2_jit_compile(*re, PCRE2_JIT_COMPLETE), OK;
    pcre2_get_error_message(code, why, sizeof why);
    return fail(E_USAGE, "%s: '%.200s' does not compile: %s, at byte %zu", option, pattern, (const char *)why, (size_t)at);
}

static err read_expressions(const char *option, const char *const *list, int n, struct expression **out) {
    struct expression *e = *out = calloc((size_t)n + 1, sizeof **out);
    if (!e) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n; i++) {
        const char *equals = strchr(list[i], '=');
        if (!equals) return fail(E_USAGE, "%s wants FIELD=REGEX, or =REGEX for all that a record says, not '%.200s'", option, list[i]);
        e[i].field = calloc((size_t)(equals - list[i]) + 1, 1);
        if (!e[i].field) return fail(E_MEMORY, "out of memory");
        memcpy(e[i].field, list[i], (size_t)(equals - list[i]));
        TRY(compile(option, equals + 1, &e[i].re));
    }
    return OK;
}

/* "Latin,Greek" as a run of letters that are of neither. */
static err read_alphabet(const char *names, pcre2_code **re) {
    str pattern = {0};
    str_adds(&pattern, "(?:(?![\\p{M}");
    for (const char *p = names; *p;) {
        const size_t n = strcspn(p, ",");
        str_addf(&pattern, "\\p{%.*s}", (int)n, p);
        p += n + (p[n] == ',');
    }
    str_adds(&pattern, "])\\p{L})+");
    err e = pattern.failed ? fail(E_MEMORY, "out of memory") : compile("--alphabet", pattern.p, re);
    if (e) e = fail(e, "--alphabet: '%.200s' is no list of scripts, such as Latin,Greek,Cyrillic,Han,Arabic", names);
    str_free(&pattern);
    return e;
}

/* The first match from `from` on: its place. Text is valid UTF-8; what PCRE2 gives up on (a pattern that backtracks without end) is an error. */
static err find(const pcre2_code *re, const char *text, size_t n, size_t from, size_t at[2], bool *found) {
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(re, NULL);
    if (!m) return fail(E_MEMORY, "out of memory");
    const int rc = pcre2_match(re, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, m, NULL);
    *found = rc >= 0;
    if (*found) at[0] = pcre2_get_ovector_pointer(m)[0], at[1] = pcre2_get_ovector_pointer(m)[1];
    pcre2_match_data_free(m);
    return rc >= PCRE2_ERROR_NOMATCH ? OK : fail(E_INPUT, "a regex needs too long for this record (PCRE2 error %d)", rc);
}

static size_t code_points(const char *s, size_t n) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) k += (s[i] & 0xC0) != 0x80;
    return k;
}

static err foreign_letters(const struct filtering *f, const str *text, size_t *n) {
    size_t at[2] = {0, 0};
    bool found = true;
    *n = 0;
    while (found) {
        TRY(find(f->foreign, text->p, text->n, at[1], at, &found));
        if (found) *n += code_points(text->p + at[0], at[1] - at[0]);
    }
    return OK;
}

/* Does a field, or all that is said, match? A field that is missing is empty; one that is no string is as JSON writes it. */
static err matches(const struct expression *e, const json_t *object, const str *text, bool *found) {
    size_t at[2];
    if (!*e->field) return find(e->re, text->p, text->n, 0, at, found);
    const json_t *v = json_object_get(object, e->field);
    if (json_is_string(v)) return find(e->re, json_string_value(v), json_string_length(v), 0, at, found);
    char *own = v ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    err failed = find(e->re, own ? own : "", own ? strlen(own) : 0, 0, at, found);
    free(own);
    return failed;
}

/* --- what a record is ---------------------------------------------------------------------------------------------------- */
struct facts {
    size_t chars, letters, solid; /* solid: no white space */
    double repeated, ratio;       /* ratio below 0: it has none */
};

static double repeated_lines(const char *text) {
    struct hashes lines = {0};
    size_t all = 0;
    for (const char *p = text; *p;) {
        const size_t n = strcspn(p, "\n");
        if (!bytes_are_blank(p, n) && !hashes_add(&lines, XXH3_64bits(p, n))) all++;
        p += n + (p[n] == '\n');
    }
    hashes_to_set(&lines);
    const double share = all ? (double)(all - lines.n) / (double)all : 0;
    hashes_free(&lines);
    return share;
}

static double ratio_of(const struct record *r) {
    size_t asked = 0, answered = 0;
    if (r->text) return -1;
    if (r->prompt) asked = code_points(r->prompt, strlen(r->prompt)), answered = code_points(r->completion, strlen(r->completion));
    for (int i = 0; i < r->n_turns; i++) {
        const size_t n = code_points(r->turns[i].content, strlen(r->turns[i].content));
        if (!strcmp(r->turns[i].role, "assistant")) answered += n;
        else asked += n;
    }
    return (double)answered / (double)(asked ? asked : 1);
}

static struct facts facts_of(const struct filtering *f, const struct record *r, const str *text) {
    struct facts t = {.ratio = ratio_of(r)};
    for (size_t i = 0, len; i < text->n; i += len, t.chars++) {
        unsigned cp = 0;
        if (!(len = (size_t)utf8_decode(text->p + i, text->n - i, &cp))) len = 1;
        const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
        t.letters += c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_ME;
        t.solid += !strchr(" \t\r\n\f\v", (int)cp) && c != UTF8PROC_CATEGORY_ZS;
    }
    if (f->on[MAX_REPEATED]) t.repeated = repeated_lines(text->p);
    return t;
}

static err any_matches(const struct filtering *f, const struct visited *v, const str *text, enum rule *failed) {
    const struct filter_options *o = f->o;
    json_t *object = NULL;
    bool found, fields = false;
    for (int i = 0; i < o->n_keep; i++) fields |= *f->keep[i].field != 0;
    for (int i = 0; i < o->n_drop; i++) fields |= *f->drop[i].field != 0;
    err e = fields ? record_object(&v->part->layout, v->x, &object) : OK;
    for (int i = 0; i < o->n_keep && !e && *failed == RULES; i++)
        if (!(e = matches(&f->keep[i], object, text, &found)) && !found) *failed = KEEP;
    for (int i = 0; i < o->n_drop && !e && *failed == RULES; i++)
        if (!(e = matches(&f->drop[i], object, text, &found)) && found) *failed = DROP;
    json_decref(object);
    return e;
}

static enum rule first_failed(const struct filtering *f, const struct facts *t, int record) {
    const struct filter_options *o = f->o;
    const bool fails[ALPHABET] = {[MIN_TOKENS] = f->too_few && bit_of(f->too_few, record),
                                  [MAX_TOKENS] = f->too_many && bit_of(f->too_many, record),
                                  [MIN_CHARS] = t->chars<(size_t)o->min_chars, [MAX_CHARS] = t->chars>(size_t) o->max_chars,
                                  [MIN_RATIO] = t->ratio<o->min_ratio, [MAX_RATIO] = t->ratio> o->max_ratio,
                                  [MIN_LETTERS] =
                                      (double)t->letters<o->min_letters *(double)t->solid, [MAX_REPEATED] = t->repeated> o->max_repeated};
    for (int i = 0; i < ALPHABET; i++)
        if (f->on[i] && fails[i]) return (enum rule)i;
    return RULES;
}

static err judge(void *ctx, const struct visited *v) {
    struct filtering *f = ctx;
    enum rule *failed = &f->failed[v->k];
    size_t foreign = 0;
    str text = {0};
    TRY(said_text(v->r, &text));
    const struct facts t = facts_of(f, v->r, &text);
    err e = OK;
    if ((f->on[MIN_RATIO] || f->on[MAX_RATIO]) && t.ratio < 0)
        e = fail(E_USAGE, "--min-ratio and --max-ratio are for prompts and answers, and this is a plain text");
    *failed = first_failed(f, &t, v->i);
    if (!e && *failed == RULES && f->on[ALPHABET]) e = foreign_letters(f, &text, &foreign);
    if (!e && (double)foreign > f->o->max_foreign * (double)t.letters) *failed = ALPHABET;
    if (!e && *failed == RULES) e = any_matches(f, v, &text, failed);
    str_free(&text);
    return e;
}

static err take(void *ctx, const struct visited *v) {
    struct filtering *f = ctx;
    if (f->failed[v->k] == RULES) return output_record(&f->out, v);
    f->count[f->failed[v->k]]++;
    return OK;
}

/* --- all of it ----------------------------------------------------------------------------------------------------------- */
static err see_tokens(void *ctx, const struct row_seen *row) {
    struct filtering *f = ctx;
    if (row->e) return fail(row->e, "%s", row->wrong);
    if (row->tokens < (size_t)f->o->min_tokens) bit_set(f->too_few, f->measured);
    if (row->tokens > (size_t)f->o->max_tokens) bit_set(f->too_many, f->measured);
    f->measured++;
    return OK;
}

static err measure(struct filtering *f, const struct source *s) {
    if (!f->on[MIN_TOKENS] && !f->on[MAX_TOKENS]) return OK;
    if (!f->o->tk) return fail(E_USAGE, "lengths in tokens need a tokenizer: --model names it");
    f->too_few = bits_new(s->n), f->too_many = bits_new(s->n);
    return f->too_few && f->too_many ? rows_visit(f->o->tk, s, INT_MAX, see_tokens, f) : fail(E_MEMORY, "out of memory");
}

static err read_rules(struct filtering *f) {
    const struct filter_options *o = f->o;
    const bool on[RULES] = {o->min_tokens > 0,   o->max_tokens > 0, o->min_chars > 0,   o->max_chars > 0,
                            o->min_ratio > 0,    o->max_ratio > 0,  o->min_letters > 0, o->max_repeated > 0,
                            o->alphabet != NULL, o->n_keep > 0,     o->n_drop > 0};
    bool any = false;
    for (int i = 0; i < RULES; i++) any |= f->on[i] = on[i];
    if (!any) return fail(E_USAGE, "no rule is given: `cyclora help data filter` lists them");
    TRY(read_expressions("--keep", o->keep, o->n_keep, &f->keep));
    TRY(read_expressions("--drop", o->drop, o->n_drop, &f->drop));
    return o->alphabet ? read_alphabet(o->alphabet, &f->foreign) : OK;
}

static json_t *texts_json(const char *const *v, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_string(v[i]));
    return list;
}

static void fill_card(const struct filtering *f, json_t *card, const struct source *s) {
    const struct filter_options *o = f->o;
    json_t *const values[RULES] = {
        json_integer(o->min_tokens),    json_integer(o->max_tokens),   json_integer(o->min_chars),
        json_integer(o->max_chars),     json_real(o->min_ratio),       json_real(o->max_ratio),
        json_real(o->min_letters),      json_real(o->max_repeated),    o->alphabet ? json_string(o->alphabet) : json_null(),
        texts_json(o->keep, o->n_keep), texts_json(o->drop, o->n_drop)};
    card_inputs(card, "inputs", s);
    card_count(card, "read", s->n);
    for (int i = 0; i < RULES; i++) {
        char name[40];
        snprintf(name, sizeof name, "removed_%s", rule_names[i]);
        if (f->on[i]) card_set(card, rule_names[i], json_incref(values[i])), card_count(card, name, f->count[i]);
        json_decref(values[i]);
    }
    if (f->on[ALPHABET]) card_set(card, "max_foreign", json_real(o->max_foreign));
    card_count(card, "kept", f->out.rows);
}

static err go_through(struct filtering *f, const struct rewriting *w) {
    struct source s;
    TRY(source_open_files(w->files, w->n, &(struct source_options){.want = WANT_ANY}, &s));
    err e = measure(f, &s);
    if (!e) e = records_pass(&(struct record_pass){&s, judge, take, f});
    fill_card(f, w->card, &s);
    if (!e && !f->out.rows) e = fail(E_INPUT, "no record of %d passes the rules: %s would be empty", s.n, w->out);
    if (!e) e = output_commit(&f->out, json_object_get(w->card, "outputs"));
    if (!e) e = card_write(w->card, w->out);
    source_close(&s);
    return e;
}

static void free_expressions(struct expression *e, int n) {
    for (int i = 0; e && i < n; i++) pcre2_code_free(e[i].re), free(e[i].field);
    free(e);
}

err data_filter(const struct rewriting *w, const struct filter_options *o) {
    struct filtering f = {.o = o};
    err e = read_rules(&f);
    if (!e) e = output_open(&f.out, w->out, w);
    if (!e) e = go_through(&f, w);
    output_abandon(&f.out);
    free_expressions(f.keep, o->n_keep);
    free_expressions(f.drop, o->n_drop);
    pcre2_code_free(f.foreign);
    free(f.too_few), free(f.too_many);
    return e;
}
