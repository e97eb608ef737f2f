/* Records to texts and turns. See shapes.h.
 *
 * JSON itself is jansson's work (syntax, UTF-8, depth). A CSV record becomes the same kind of object, its columns as
 * string fields, so that every shape is read by one function whatever it came in. Strings are copied into the arena:
 * neither the file nor the JSON outlives the parse. */
#include "data/shapes.h"
#include "io/jsonl_out.h"
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

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

/* --- names ---------------------------------------------------------------------------------------------------------- */
static const struct {
    const char *name;
    enum record_shape shape;
    const char *key; /* whose presence tells it */
} shapes[] = {{"text", SHAPE_TEXT, NULL},
              {"messages", SHAPE_MESSAGES, "messages"},
              {"prompt_completion", SHAPE_PAIR, "prompt"},
              {"alpaca", SHAPE_ALPACA, "instruction"},
              {"sharegpt", SHAPE_SHAREGPT, "conversations"}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };
static const char known[] = "messages, prompt with completion, instruction with output (alpaca), conversations (sharegpt)";

static const struct {
    const char *name, *shown;
} containers[] = {{"lines", "plain lines"}, {"jsonl", "JSONL"}, {"json", "a JSON array"},        {"csv", "CSV"},
                  {"tsv", "TSV"},           {"conll", "CoNLL"}, {"document", "a whole document"}};
enum { N_CONTAINERS = sizeof containers / sizeof *containers };

/* What is wanted of every record, where that alone settles its shape. */
static const struct {
    enum record_shape shape;
    const char *what;
} settled[WANT_SFT] = {[WANT_TEXT] = {SHAPE_TEXT, "a text is wanted for each record: name its field, or format: text"},
                       [WANT_PAIR] = {SHAPE_PAIR, "two texts are wanted for each record (prompt_completion, or two named fields)"},
                       [WANT_LABELLED] = {SHAPE_LABELLED, "a text and its label are wanted for each record"},
                       [WANT_NUMBERED] = {SHAPE_NUMBERED, "a text and its numbers are wanted for each record"},
                       [WANT_TAGGED] = {SHAPE_TAGGED, "words and their tags are wanted for each record"},
                       [WANT_WORDS] = {SHAPE_WORDS, "words are wanted for each record"},
                       [WANT_QUESTION] = {SHAPE_QUESTION, "a question and its answers are wanted for each record"}};

const char *container_name(enum container c) { return containers[c].shown; }

const char *layout_name(const struct layout *l) {
    if (l->shape == SHAPE_PROMPT_TURNS) return "prompt_completion";
    static const char *const more[] = {"labelled", "numbered", "tagged", "words", "question"};
    if (l->shape >= SHAPE_LABELLED) return more[l->shape - SHAPE_LABELLED];
    for (int i = 0; i < N_SHAPES; i++)
        if (shapes[i].shape == l->shape) return shapes[i].name;
    return "unknown";
}

bool layout_has_turns(const struct layout *l) { return l->shape > SHAPE_PAIR && l->shape < SHAPE_LABELLED; }

/* The ending that tells the container; .gz and .zst say nothing about it. */
static bool ends(const char *path, const char *ending) {
    static const char *const packed[] = {"", ".gz", ".zst"};
    for (int i = 0; i < 3; i++) {
        char all[16];
        snprintf(all, sizeof all, "%s%s", ending, packed[i]);
        if (str_ends(path, all)) return true;
    }
    return false;
}

static enum container container_of(const char *path, bool shape_named) {
    if (ends(path, ".csv")) return IN_CSV;
    if (ends(path, ".tsv")) return IN_TSV;
    if (ends(path, ".conll")) return IN_CONLL;
    if (ends(path, ".json")) return IN_ARRAY; /* or JSONL: its first character tells (data/source.c) */
    return ends(path, ".jsonl") || shape_named ? IN_JSONL : IN_LINES;
}

/* Text without fields. */
static bool is_plain(enum container c) { return c == IN_LINES || c == IN_DOCUMENT; }

err layout_begin(const char *path, const char *format, enum source_want want, struct layout *l) {
    bool contained = false;
    *l = (struct layout){0};
    if (!format || !*format) format = "auto";
    for (int i = 0; i < N_SHAPES; i++)
        if (!strcmp(format, shapes[i].name)) l->shape = shapes[i].shape, l->named = true;
    for (int i = 0; i < N_CONTAINERS; i++)
        if (!strcmp(format, containers[i].name)) l->container = (enum container)i, contained = true;
    if (!l->named && !contained && strcmp(format, "auto") != 0)
        return fail(E_USAGE,
                    "%s: format '%.40s' is not known (auto; text, messages, prompt_completion, alpaca, sharegpt; lines, document, jsonl, "
                    "json, csv, tsv, conll)",
                    path, format);
    if (!contained) l->container = container_of(path, l->named);
    if (want < WANT_SFT && l->named && l->shape != (want == WANT_PAIR ? SHAPE_PAIR : SHAPE_TEXT))
        return fail(E_USAGE, "%s: format %s, but here %s", path, format, settled[want].what);
    if (want < WANT_SFT) l->shape = settled[want].shape, l->named = true;
    if (want == WANT_ANY && is_plain(l->container)) l->shape = SHAPE_TEXT;
    if (l->container == IN_CONLL && want != WANT_TAGGED && want != WANT_WORDS)
        return fail(E_USAGE, "%s: a CoNLL file holds words and tags, but here %s", path,
                    want < WANT_SFT ? settled[want].what : "pairs or conversations are wanted");
    if (is_plain(l->container) && l->shape != SHAPE_TEXT && (l->container == IN_DOCUMENT || l->shape != SHAPE_WORDS))
        return fail(E_USAGE,
                    "%s: pairs, labels, tags and conversations need a .jsonl file (one JSON object per line), .json, .csv or .tsv; its name "
                    "ends in none of them, so it would be plain lines (`format` says otherwise)",
                    path);
    return OK;
}

/* --- fields --------------------------------------------------------------------------------------------------------- */
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

static err copy_text(arena *mem, const json_t *v, const char **out) {
    *out = arena_strn(mem, json_string_value(v), json_string_length(v));
    return *out ? OK : out_of_memory();
}

static err get_string(arena *mem, const json_t *obj, const char *key, const char **out) {
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
    return copy_text(mem, v, out);
}

/* A field that may be missing, null or blank: then *out is NULL. */
static err get_optional(arena *mem, const json_t *obj, const char *key, const char **out) {
    const json_t *v = json_object_get(obj, key);
    *out = NULL;
    if (!v || json_is_null(v)) return OK;
    if (!json_is_string(v)) return fail(E_INPUT, "\"%.60s\" is %s, not a string", key, type_name(v));
    return blank(json_string_value(v), json_string_length(v)) ? OK : copy_text(mem, v, out);
}

/* --- conversations -------------------------------------------------------------------------------------------------- */
/* How a list of turns names things: OpenAI's messages and ShareGPT's conversations. */
struct turn_names {
    const char *role, *content;
    const char *const *roles; /* "human=user", in pairs, NULL-ended */
    const char *known;
};
static const char *const message_roles[] = {"system", "system", "user", "user", "assistant", "assistant", "tool", "tool", NULL};
static const char *const sharegpt_roles[] = {"system", "system", "human", "user", "user", "user", "gpt", "assistant", "assistant", "assistant", NULL};
static const struct turn_names in_messages = {"role", "content", message_roles, "system, user, assistant, tool"};
static const struct turn_names in_sharegpt = {"from", "value", sharegpt_roles, "system, human, gpt"};

static err get_turn(arena *mem, const struct turn_names *names, const json_t *obj, struct chat_message *t) {
    const char *role;
    if (!json_is_object(obj)) return fail(E_INPUT, "is %s, not an object", type_name(obj));
    TRY(get_string(mem, obj, names->role, &role));
    TRY(get_string(mem, obj, names->content, &t->content));
    for (int i = 0; names->roles[i]; i += 2)
        if (!strcmp(role, names->roles[i])) return t->role = names->roles[i + 1], OK;
    return fail(E_INPUT, "unknown role \"%.40s\" (supported: %s)", role, names->known);
}

/* Appends a list's turns to those of the record, which has room for `room` more. */
static err add_turns(arena *mem, const struct turn_names *names, const json_t *obj, const char *key, struct chat_message *t, int *n) {
    const json_t *list = json_object_get(obj, key);
    for (size_t i = 0; i < json_array_size(list); i++) {
        err e = get_turn(mem, names, json_array_get(list, i), &t[*n]);
        if (e) return fail_in(e, "\"%s\"[%zu]", key, i);
        ++*n;
    }
    return OK;
}

static err get_list(const json_t *obj, const char *key, const json_t **list) {
    *list = json_object_get(obj, key);
    if (!*list) {
        char what[64];
        snprintf(what, sizeof what, "field \"%.40s\"", key);
        return missing(obj, what);
    }
    if (!json_is_array(*list)) return fail(E_INPUT, "\"%s\" is %s, not an array", key, type_name(*list));
    if (json_array_size(*list) > INT_MAX / 4) return fail(E_INPUT, "\"%s\" has %zu turns", key, json_array_size(*list));
    return OK;
}

static struct chat_message *room_for(arena *mem, size_t n) { return arena_alloc(mem, (n + 1) * sizeof(struct chat_message)); }

static err keep_turns(struct record *r, const struct chat_message *t, int n, const char *key) {
    bool answered = false;
    for (int i = 0; i < n; i++) answered |= !strcmp(t[i].role, "assistant");
    if (!answered) return fail(E_INPUT, "\"%s\" has no assistant's turn: there is nothing to learn", key);
    r->turns = t;
    r->n_turns = n;
    return OK;
}

static err get_messages(arena *mem, const struct turn_names *names, const json_t *obj, const char *key, struct record *r) {
    const json_t *list;
    const char *system = NULL;
    int n = 0;
    TRY(get_list(obj, key, &list));
    if (names == &in_sharegpt) TRY(get_optional(mem, obj, "system", &system));
    struct chat_message *t = room_for(mem, json_array_size(list) + 1);
    if (!t) return out_of_memory();
    if (system) t[n++] = (struct chat_message){"system", system};
    TRY(add_turns(mem, names, obj, key, t, &n));
    return keep_turns(r, t, n, key);
}

/* Lists as prompt and completion: every answer would be learnt, so the prompt may not hold one. */
static err get_prompt_turns(arena *mem, const json_t *obj, struct record *r) {
    const json_t *prompt, *completion;
    int n = 0;
    TRY(get_list(obj, "prompt", &prompt));
    TRY(get_list(obj, "completion", &completion));
    struct chat_message *t = room_for(mem, json_array_size(prompt) + json_array_size(completion));
    if (!t) return out_of_memory();
    TRY(add_turns(mem, &in_messages, obj, "prompt", t, &n));
    for (int i = 0; i < n; i++)
        if (!strcmp(t[i].role, "assistant"))
            return fail(E_UNSUPPORTED,
                        "\"prompt\"[%d] is an assistant's turn, which would be learnt like the completion: write \"messages\" if it should be", i);
    TRY(add_turns(mem, &in_messages, obj, "completion", t, &n));
    return keep_turns(r, t, n, "completion");
}

static err get_history(arena *mem, const json_t *obj, struct chat_message *t, int *n) {
    const json_t *list = json_object_get(obj, "history");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *pair = json_array_get(list, i), *a = json_array_get(pair, 0), *b = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 || !json_is_string(a) || !json_is_string(b) || !json_string_length(a) || !json_string_length(b))
            return fail(E_INPUT, "\"history\"[%zu]: wants a question and its answer, two strings", i);
        t[*n].role = "user";
        t[*n + 1].role = "assistant";
        TRY(copy_text(mem, a, &t[*n].content));
        TRY(copy_text(mem, b, &t[*n + 1].content));
        *n += 2;
    }
    return OK;
}

static err get_alpaca(arena *mem, const json_t *obj, struct record *r) {
    const char *system, *input;
    const json_t *history = json_object_get(obj, "history");
    int n = 0;
    if (json_is_string(history) && !json_string_length(history)) history = NULL; /* a CSV's empty column */
    if (history && !json_is_null(history)) TRY(get_list(obj, "history", &history));
    struct chat_message *t = room_for(mem, 2 * json_array_size(history) + 3);
    if (!t) return out_of_memory();
    TRY(get_optional(mem, obj, "system", &system));
    if (system) t[n++] = (struct chat_message){"system", system};
    TRY(get_history(mem, obj, t, &n));
    TRY(get_string(mem, obj, "instruction", &t[n].content));
    TRY(get_optional(mem, obj, "input", &input));
    if (input && !(t[n].content = arena_printf(mem, "%s\n%s", t[n].content, input))) return out_of_memory();
    t[n++].role = "user";
    TRY(get_string(mem, obj, "output", &t[n].content));
    t[n++].role = "assistant";
    return keep_turns(r, t, n, "output");
}

/* --- one record ----------------------------------------------------------------------------------------------------- */
static const char *pair_field(const struct layout *l, int which) {
    const char *f = which ? l->field2 : l->field;
    return f ? f : which ? "completion" : "prompt";
}

/* A class by its name or its number (read as a real, like every number here). */
static err get_label(arena *mem, const json_t *obj, const char *key, const char **out) {
    const json_t *v = json_object_get(obj, key);
    if (!json_is_number(v)) return get_string(mem, obj, key, out);
    const double x = json_number_value(v);
    if (x != floor(x) || fabs(x) > 0x1p53) return fail(E_INPUT, "\"%.60s\" is %g: a label is a name or an integer", key, x);
    *out = arena_printf(mem, "%.0f", x);
    return *out ? OK : out_of_memory();
}

static err given_number(const json_t *v, float *to) {
    if (!json_is_number(v)) return fail(E_INPUT, "%s where a number is wanted", type_name(v));
    *to = (float)json_number_value(v);
    return isfinite(*to) ? OK : fail(E_INPUT, "%g is beyond the numbers of 32 bits", json_number_value(v));
}

/* A list of all numbers, or of lists: the vectors. */
static err get_given(const struct given_form *g, const json_t *obj, arena *mem, const float **out) {
    const json_t *list = json_object_get(obj, g->field);
    const size_t want = (size_t)g->each * (size_t)g->width, outer = json_array_size(list);
    float *x = arena_alloc(mem, want * sizeof *x);
    size_t n = 0;
    if (!x) return out_of_memory();
    TRY(get_list(obj, g->field, &list));
    for (size_t i = 0; i < outer; i++) {
        const json_t *v = json_array_get(list, i);
        const size_t inner = json_is_array(v) ? json_array_size(v) : 1;
        if (json_is_array(v) && inner != (size_t)g->width)
            return fail(E_INPUT, "\"%.40s\"[%zu] has %zu numbers, a vector has %d", g->field, i, inner, g->width);
        for (size_t k = 0; k < inner; k++, n++) {
            err e = n < want ? given_number(json_is_array(v) ? json_array_get(v, k) : v, &x[n]) : OK;
            if (e) return fail_in(e, "\"%.40s\"[%zu]", g->field, i);
        }
    }
    *out = x;
    if (n == want) return OK;
    return fail(E_INPUT, "\"%.40s\" has %zu numbers, wanted are %zu (%d vector%s of %d)", g->field, n, want, g->each,
                g->each > 1 ? "s" : "", g->width);
}

/* --- numbers, words and tags ------------------------------------------------------------------------------------------ */
enum { MOST_NUMBERS = 1 << 12, MOST_WORDS = 1 << 20 };

/* A number, or (a table's column) the text of one. */
static err get_number(const json_t *v, const char *key, float *out) {
    const char *text = json_string_value(v);
    char *end = NULL;
    double x = json_number_value(v);
    if (text) x = strtod(text, &end);
    if (text ? end == text || !blank(end, strlen(end)) : !json_is_number(v))
        return text ? fail(E_INPUT, "\"%.60s\" is '%.40s', not a number", key, text)
                    : fail(E_INPUT, "\"%.60s\" is %s, not a number", key, type_name(v));
    *out = (float)x;
    return isfinite(*out) ? OK : fail(E_INPUT, "\"%.60s\" is %g: a target must be a finite number", key, x);
}

static err get_numbers(arena *mem, const json_t *obj, const char *key, struct record *r) {
    const json_t *v = json_object_get(obj, key);
    const bool list = json_is_array(v);
    const size_t n = list ? json_array_size(v) : 1;
    if (!v) return get_string(mem, obj, key, &r->label); /* which says what is missing */
    if (n < 1 || n > MOST_NUMBERS) return fail(E_INPUT, "\"%.60s\" has %zu numbers; 1 to %d are possible", key, n, MOST_NUMBERS);
    float *out = arena_alloc(mem, n * sizeof *out);
    if (!out) return out_of_memory();
    for (size_t i = 0; i < n; i++) TRY(get_number(list ? json_array_get(v, i) : v, key, &out[i]));
    r->number = out;
    r->n_numbers = (int)n;
    return OK;
}

static bool is_space(char c) { return strchr(" \t\r\n\f\v", c) && c; }

/* The pieces between white space. */
static err split_words(arena *mem, const char *text, size_t n, const char ***out, int *count) {
    *count = 0;
    for (size_t i = 0; i < n; i++) *count += !is_space(text[i]) && (!i || is_space(text[i - 1]));
    if (*count > MOST_WORDS) return fail(E_INPUT, "%d words; at most %d are possible", *count, MOST_WORDS);
    const char **list = arena_alloc(mem, (size_t)*count * sizeof *list + 1);
    int k = 0;
    for (size_t i = 0, from = 0; list && i <= n; i++) {
        if (i < n && !is_space(text[i])) continue;
        if (i > from && !(list[k++] = arena_strn(mem, text + from, i - from))) return out_of_memory();
        from = i + 1;
    }
    *out = list;
    return list ? OK : out_of_memory();
}

/* A list of strings (tags: or integers), or a text with spaces between them. */
static err get_list_of_words(arena *mem, const json_t *v, const char *key, bool tags, const char ***out, int *count) {
    if (json_is_string(v)) return split_words(mem, json_string_value(v), json_string_length(v), out, count);
    if (!json_is_array(v)) return fail(E_INPUT, "\"%.60s\" is %s, not a list of %s", key, type_name(v), tags ? "tags" : "words");
    const size_t n = json_array_size(v);
    if (n > MOST_WORDS) return fail(E_INPUT, "\"%.60s\" has %zu words; at most %d are possible", key, n, MOST_WORDS);
    *out = arena_alloc(mem, n * sizeof **out + 1);
    if (!*out) return out_of_memory();
    *count = (int)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *w = json_array_get(v, i);
        const double x = json_number_value(w);
        if (tags && json_is_number(w) && x == floor(x) && fabs(x) < 0x1p53) (*out)[i] = arena_printf(mem, "%.0f", x);
        else if (json_is_string(w)) TRY(copy_text(mem, w, &(*out)[i]));
        else return fail(E_INPUT, "\"%.60s\"[%zu] is %s, not a %s", key, i, type_name(w), tags ? "tag (a name or an integer)" : "word");
        if (!(*out)[i]) return out_of_memory();
    }
    return OK;
}

/* The field under the given name; where none is given, under one that data sets have. NULL: *key is what it should be named. */
static const json_t *find_list(const json_t *obj, const char *given, const char *const *known_as, const char **key) {
    *key = given ? given : *known_as;
    for (; !given && *known_as; known_as++)
        if (json_object_get(obj, *known_as)) return *key = *known_as, json_object_get(obj, *known_as);
    return json_object_get(obj, *key);
}

static err get_words(const struct layout *l, const json_t *obj, arena *mem, struct record *r) {
    static const char *const as_words[] = {"tokens", "words", "text", NULL}, *const as_tags[] = {"tags", "ner_tags", "labels", "pos_tags", "label", NULL};
    const char *key, *tags_key, **words, **tags;
    int n_tags;
    const json_t *v = find_list(obj, l->field, as_words, &key);
    if (!v) return get_string(mem, obj, key, &r->text); /* which says what is missing */
    TRY(get_list_of_words(mem, v, key, false, &words, &r->n_words));
    if (!r->n_words) return fail(E_INPUT, "\"%.60s\" holds no word", key);
    r->words = words;
    if (l->shape == SHAPE_WORDS) return OK;
    if (!(v = find_list(obj, l->field2, as_tags, &tags_key))) return get_string(mem, obj, tags_key, &r->label);
    TRY(get_list_of_words(mem, v, tags_key, true, &tags, &n_tags));
    if (n_tags != r->n_words)
        return fail(E_INPUT, "\"%.60s\" has %d words, \"%.60s\" %d tags: each word wants one", key, r->n_words, tags_key, n_tags);
    r->tags = tags;
    return OK;
}

/* A sentence of a CoNLL file: of each line the first column and the last. */
static err read_sentence(const struct layout *l, const struct extent *x, arena *mem, struct record *r) {
    const bool tagged = l->shape == SHAPE_TAGGED;
    int n = 1;
    unsigned cp;
    for (size_t i = 0, len; i < x->n; i += len) {
        if (!(len = (size_t)utf8_decode(x->p + i, x->n - i, &cp)) || !cp)
            return fail(E_INPUT, "not UTF-8 text (byte 0x%02x)", (unsigned char)x->p[i]);
        n += x->p[i] == '\n';
    }
    if (n > MOST_WORDS) return fail(E_INPUT, "a sentence of %d words; at most %d are possible", n, MOST_WORDS);
    const char **words = arena_alloc(mem, 2 * (size_t)n * sizeof *words), **tags = words + n;
    if (!words) return out_of_memory();
    for (size_t at = 0, end; at <= x->n; at = end + 1) {
        const char *stop = at < x->n ? memchr(x->p + at, '\n', x->n - at) : NULL, **columns;
        int n_columns;
        end = stop ? (size_t)(stop - x->p) : x->n;
        TRY(split_words(mem, x->p + at, end - at, &columns, &n_columns));
        if (!n_columns) continue; /* the text's last newline */
        if (tagged && n_columns < 2)
            return fail(E_INPUT, "the word '%.60s' has no tag beside it (line %d): CoNLL has a word and its tag on each line", columns[0],
                        x->line + r->n_words);
        words[r->n_words] = columns[0];
        tags[r->n_words++] = columns[n_columns - 1];
    }
    r->words = words;
    r->tags = tagged ? tags : NULL;
    return OK;
}

/* A list of texts, or one. */
static err get_answers(arena *mem, const json_t *obj, const char *key, struct record *r) {
    const json_t *v = json_object_get(obj, key);
    const bool list = json_is_array(v);
    const size_t n = list ? json_array_size(v) : 1;
    if (n < 1 || n > MOST_WORDS) return fail(E_INPUT, "\"%.60s\" has %zu texts: a question wants at least one that answers it", key, n);
    const char **out = arena_alloc(mem, n * sizeof *out);
    if (!out) return out_of_memory();
    r->words = out;
    r->n_words = (int)n;
    if (!list) return get_string(mem, obj, key, out);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_array_get(v, i);
        if (!json_is_string(one) || blank(json_string_value(one), json_string_length(one)))
            return fail(E_INPUT, "\"%.60s\"[%zu] is %s: an answer is a text", key, i, json_is_string(one) ? "blank" : type_name(one));
        TRY(copy_text(mem, one, &out[i]));
    }
    return OK;
}

static err get_record(const struct layout *l, const json_t *obj, arena *mem, struct record *r) {
    switch (l->shape) {
    case SHAPE_NUMBERED:
        TRY(get_string(mem, obj, l->field ? l->field : "text", &r->text));
        return get_numbers(mem, obj, l->field2 ? l->field2 : "label", r);
    case SHAPE_TAGGED:
    case SHAPE_WORDS: return get_words(l, obj, mem, r);
    case SHAPE_LABELLED:
        TRY(get_string(mem, obj, l->field ? l->field : "text", &r->text));
        return get_label(mem, obj, l->field2 ? l->field2 : "label", &r->label);
    case SHAPE_QUESTION:
        TRY(get_string(mem, obj, l->field ? l->field : "question", &r->text));
        return get_answers(mem, obj, l->field2 ? l->field2 : "answers", r);
    case SHAPE_TEXT: return get_string(mem, obj, l->field ? l->field : "text", &r->text);
    case SHAPE_MESSAGES: return get_messages(mem, &in_messages, obj, "messages", r);
    case SHAPE_SHAREGPT: return get_messages(mem, &in_sharegpt, obj, "conversations", r);
    case SHAPE_ALPACA: return get_alpaca(mem, obj, r);
    case SHAPE_PROMPT_TURNS: return get_prompt_turns(mem, obj, r);
    default: break;
    }
    TRY(get_string(mem, obj, pair_field(l, 0), &r->prompt));
    return get_string(mem, obj, pair_field(l, 1), &r->completion);
}

/* The shape that an object's keys tell; more than one is an error, none is SHAPE_UNKNOWN. */
static err shape_of(const struct layout *l, const json_t *obj, enum record_shape *shape) {
    const char *had = NULL;
    *shape = SHAPE_UNKNOWN;
    for (int i = 0; i < N_SHAPES; i++) {
        const char *key = shapes[i].shape == SHAPE_PAIR ? pair_field(l, 0) : shapes[i].key;
        const json_t *v = key ? json_object_get(obj, key) : NULL;
        if (!v) continue;
        if (had) return fail(E_INPUT, "has both \"%s\" and \"%s\": which one is meant? Remove one, or name the shape with format", had, key);
        had = key;
        *shape = shapes[i].shape;
        if (*shape == SHAPE_PAIR && json_is_array(v) && json_is_array(json_object_get(obj, "completion"))) *shape = SHAPE_PROMPT_TURNS;
    }
    return OK;
}

/* Of another shape than the file's first record? Then that is what is wrong, not that a field is missing. */
static err mixed(const struct layout *l, const json_t *obj, err why) {
    enum record_shape has;
    char text[1024];
    if (l->named || why != E_INPUT) return why;
    snprintf(text, sizeof text, "%s", err_text());
    if (shape_of(l, obj, &has) || has == SHAPE_UNKNOWN || has == l->shape) return fail(why, "%s", text);
    struct layout other = {.shape = has};
    const char *more = has == SHAPE_PROMPT_TURNS ? " of messages" : l->shape == SHAPE_PROMPT_TURNS ? " of strings" : "";
    return fail(E_INPUT, "is of shape %s%s, but the file began (line %d) with %s: one file, one shape", layout_name(&other), more,
                l->first_line, layout_name(l));
}

static err check_json(const struct layout *l, json_t *v, const json_error_t *why, char first) {
    if (v) return json_is_object(v) ? OK : fail(E_INPUT, "is %s, not a JSON object", type_name(v));
    if (json_error_code(why) == json_error_null_character) return fail(E_INPUT, "a NUL (\\u0000) inside a string");
    if (json_error_code(why) == json_error_out_of_memory) return out_of_memory();
    if (l->container == IN_ARRAY) return fail(E_INPUT, "the array's object that begins here is not JSON: %s", why->text);
    return fail(E_INPUT, "not a JSON object on one line: %s (column %d)%s", why->text, why->column,
                first == '[' ? "; a JSON array belongs into a file whose name ends in .json, or must be rewritten as one object per line" : "");
}

struct row_maker {
    const struct layout *l;
    json_t *obj;
    int n;
};

static err set_column(void *ctx, int i, const str *text) {
    struct row_maker *m = ctx;
    m->n = i + 1;
    if (i >= m->l->n_columns) return OK;
    if (memchr(text->p, 0, text->n)) return fail(E_INPUT, "column \"%.40s\": a NUL: not a text file?", m->l->column[i]);
    json_t *v = json_stringn(text->p, text->n);
    if (!v) return fail(E_INPUT, "column \"%.40s\": invalid UTF-8", m->l->column[i]);
    return json_object_set_new(m->obj, m->l->column[i], v) ? out_of_memory() : OK;
}

static err read_csv(const struct layout *l, const struct extent *x, json_t **out) {
    struct row_maker m = {.l = l, .obj = json_object()};
    err e = m.obj ? csv_fields(l->container, x, set_column, &m) : out_of_memory();
    if (!e && m.n != l->n_columns) e = fail(E_INPUT, "%d fields, but the header has %d", m.n, l->n_columns);
    if (e) json_decref(m.obj);
    else *out = m.obj;
    return e;
}

static err read_object(const struct layout *l, const struct extent *x, json_t **out) {
    if (l->container == IN_CSV || l->container == IN_TSV) return read_csv(l, x, out);
    json_error_t why;
    /* Numbers are never read: as reals, an identifier beyond 64 bits does not spoil the line. */
    *out = json_loadb(x->p, x->n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, &why);
    err e = check_json(l, *out, &why, *x->p);
    if (e) json_decref(*out);
    return e;
}

/* Of text without fields: a line's end may be two bytes. */
static size_t plain_length(const struct layout *l, const struct extent *x) {
    return x->n - (l->container == IN_LINES && x->p[x->n - 1] == '\r');
}

err record_object(const struct layout *l, const struct extent *x, json_t **out) {
    if (l->container == IN_CONLL) return fail(E_UNSUPPORTED, "a CoNLL sentence is no record of fields");
    if (!is_plain(l->container)) return read_object(l, x, out);
    json_t *text = json_stringn(x->p, plain_length(l, x));
    *out = text ? json_pack("{s:o}", "text", text) : NULL;
    return *out ? OK : fail(E_INPUT, "not UTF-8 text");
}

/* In JSON line ends stand between tokens alone. */
err record_line(const struct layout *l, const struct extent *x, str *out) {
    if (l->container == IN_JSONL || l->container == IN_ARRAY) {
        size_t n = x->n;
        while (n && strchr(" \t\r\n", x->p[n - 1])) n--;
        for (size_t i = 0; i < n; i++) str_addc(out, x->p[i] == '\n' || x->p[i] == '\r' ? ' ' : x->p[i]);
        str_addc(out, '\n');
    } else {
        json_t *o;
        TRY(record_object(l, x, &o));
        jsonl_add(out, o);
    }
    return out->failed ? out_of_memory() : OK;
}

static err read_plain(const struct layout *l, const struct extent *x, arena *mem, struct record *r) {
    const size_t n = plain_length(l, x);
    const char *place = l->container == IN_LINES ? "column" : "byte";
    unsigned cp;
    for (size_t i = 0, len; i < n; i += len) {
        len = (size_t)utf8_decode(x->p + i, n - i, &cp);
        if (!len) return fail(E_INPUT, "invalid UTF-8 (byte 0x%02x at %s %zu)", (unsigned char)x->p[i], place, i + 1);
        if (!cp) return fail(E_INPUT, "a NUL at %s %zu: not a text file?", place, i + 1);
    }
    if (l->shape == SHAPE_WORDS) {
        const char **words;
        TRY(split_words(mem, x->p, n, &words, &r->n_words));
        return r->words = words, OK;
    }
    r->text = arena_strn(mem, x->p, n);
    return r->text ? OK : out_of_memory();
}

err record_parse(const struct layout *l, const struct extent *x, arena *mem, struct record *r) {
    *r = (struct record){.line = x->line};
    if (is_plain(l->container) && l->given.each && l->given.field)
        return fail(E_INPUT, "plain text has no field \"%.40s\": JSONL has, or a .npy file beside them", l->given.field);
    if (is_plain(l->container)) return read_plain(l, x, mem, r);
    if (l->container == IN_CONLL) return read_sentence(l, x, mem, r);
    json_t *obj;
    TRY(read_object(l, x, &obj));
    err e = get_record(l, obj, mem, r);
    if (e) e = mixed(l, obj, e);
    if (!e && l->given.each && l->given.field) e = get_given(&l->given, obj, mem, &r->given);
    json_decref(obj);
    return e;
}

/* --- the layout ----------------------------------------------------------------------------------------------------- */
struct header {
    struct layout *l;
    arena *mem;
};

static err add_column(void *ctx, int i, const str *text) {
    struct header *h = ctx;
    struct layout *l = h->l;
    unsigned cp;
    if (i >= 4096) return fail(E_INPUT, "more than 4096 columns: not a table");
    if (blank(text->p, text->n)) return fail(E_INPUT, "column %d of the header has no name", i + 1);
    for (size_t k = 0, len; k < text->n; k += len)
        if (!(len = (size_t)utf8_decode(text->p + k, text->n - k, &cp)) || !cp)
            return fail(E_INPUT, "column %d of the header is not UTF-8 text", i + 1);
    for (int k = 0; k < i; k++)
        if (!strcmp(l->column[k], text->p)) return fail(E_INPUT, "two columns of the header are named \"%.60s\"", text->p);
    l->column[i] = arena_strn(h->mem, text->p, text->n);
    l->n_columns = i + 1;
    return l->column[i] ? OK : out_of_memory();
}

err layout_columns(struct layout *l, const struct extent *x, arena *mem) {
    struct header h = {l, mem};
    l->column = arena_alloc(mem, 4096 * sizeof *l->column);
    return l->column ? csv_fields(l->container, x, add_column, &h) : out_of_memory();
}

err layout_find(struct layout *l, const struct extent *x, enum source_want want) {
    json_t *obj;
    if (is_plain(l->container) || l->container == IN_CONLL) return OK;
    l->first_line = x->line;
    if (want == WANT_ANY && l->shape == SHAPE_UNKNOWN && l->field && !l->field2) l->shape = SHAPE_TEXT;
    if (l->shape != SHAPE_UNKNOWN && !(want >= WANT_SFT && l->shape == SHAPE_PAIR)) return OK;
    TRY(read_object(l, x, &obj));
    enum record_shape found;
    err e = shape_of(l, obj, &found);
    if (l->named) e = OK; /* prompt_completion: strings or lists */
    bool text = !e && found == SHAPE_UNKNOWN && want == WANT_ANY && json_object_get(obj, l->field ? l->field : "text");
    if (text) found = SHAPE_TEXT;
    if (!e && found == SHAPE_UNKNOWN && !l->named) {
        e = missing(obj, "\"messages\" and no \"prompt\" with \"completion\"");
        if (e == E_INPUT)
            fail(e, "%s; known shapes: %s%s", err_text(), known,
                 json_object_get(obj, "text") ? "; format: text learns every token of \"text\"" : "");
    }
    if (!e && (!l->named || found == SHAPE_PROMPT_TURNS)) l->shape = found;
    json_decref(obj);
    return e;
}
