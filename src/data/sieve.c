/* See sieve.h. */
#include "data/sieve.h"
#include <stdlib.h>
#include <string.h>

#define SIEVE_OUTPUT "\nOutput:"
static const char *const fates[FATES] = {"kept", "unread", "cut", "empty", "length", "refusal", "echo", "copy", "similar", "evaluation"};
/* How a model that was taught to refuse begins. */
static const char *const refusals[] = {"I'm sorry", "I am sorry",    "Sorry,",      "I cannot",        "I can't",
                                       "I can not", "I'm unable",    "I am unable", "As an AI",        "I'm not able",
                                       "I won't",   "I am not able", "I apologize", "Unfortunately, I"};

const char *fate_name(enum fate f) { return fates[f]; }

/* --- words ---------------------------------------------------------------------------------------------------------- */
enum { FNV_PRIME32 = 16777619 };
#define FNV_BASIS64 14695981039346656037ull
#define FNV_PRIME64 1099511628211ull

static bool separates(uint32_t c) {
    return c < '0' || (c > '9' && c < 'a') || (c > 'z' && c < 0xC0) || char_is_space(c) || (c >= 0x2000 && c < 0x2070) ||
           (c >= 0x3000 && c < 0x3040);
}

/* The words of a text as symbols. */
static void words_of(struct line *l, const char *s, struct text *out) {
    uint32_t hash = 2166136261u;
    bool inside = false;
    out->n = 0;
    line_decode(l, s, &l->h);
    line_lower(l, &l->h, &l->th);
    for (size_t i = 0; i <= l->th.n; i++) {
        const bool word = i < l->th.n && !separates(l->th.v[i]);
        if (word) hash = (hash ^ l->th.v[i]) * FNV_PRIME32;
        else if (inside) line_put(l, out, hash), hash = 2166136261u;
        inside = word;
    }
}

/* of: a whole text (0), or a run of so many words. */
static uint64_t hash_words(const uint32_t *w, size_t n, uint64_t of) {
    uint64_t h = (FNV_BASIS64 ^ of) * FNV_PRIME64;
    for (size_t i = 0; i < n; i++) h = (h ^ w[i]) * FNV_PRIME64;
    return h;
}

static bool begins_with(const struct text *t, const struct text *head) {
    return head->n <= t->n && !memcmp(t->v, head->v, head->n * sizeof *t->v);
}
static bool same_words(const struct text *a, const struct text *b) { return a->n == b->n && begins_with(a, b); }

/* --- seeds and evaluation sets ---------------------------------------------------------------------------------------- */
static err know(struct sieve *s, const struct text *words) {
    if (s->n_known == s->cap_known) {
        const int cap = s->cap_known * 2 + 64;
        struct text *more = realloc(s->known, (size_t)cap * sizeof *more);
        if (!more) return fail(E_MEMORY, "out of memory");
        s->known = more, s->cap_known = cap;
    }
    uint32_t *v = arena_alloc(&s->mem, (words->n + 1) * sizeof *v);
    if (!v) return fail(E_MEMORY, "out of memory");
    memcpy(v, words->v, words->n * sizeof *v);
    s->known[s->n_known++] = (struct text){v, words->n, words->n};
    return OK;
}

static const char *trimmed(arena *mem, const char *s, size_t n) {
    while (n && strchr(" \t\r\n", s[n - 1])) n--;
    while (n && strchr(" \t\r\n", *s)) s++, n--;
    return arena_strn(mem, s, n);
}

static err add_seed(struct sieve *s, const struct record *r, const char *path) {
    const char *instruction = r->prompt, *output = r->completion;
    for (int i = 1; i < r->n_turns && !instruction; i++)
        if (!strcmp(r->turns[i - 1].role, "user") && !strcmp(r->turns[i].role, "assistant"))
            instruction = r->turns[i - 1].content, output = r->turns[i].content;
    if (!instruction || !output)
        return fail(E_INPUT, "%s:%d: a seed is an instruction and its output, and this record has not both", path, r->line);
    struct seed *seed = &s->seed[s->n_seeds++];
    *seed = (struct seed){trimmed(&s->mem, instruction, strlen(instruction)), trimmed(&s->mem, output, strlen(output)), path, r->line};
    if (!seed->instruction || !seed->output) return fail(E_MEMORY, "out of memory");
    words_of(&s->line, seed->instruction, &s->line.sh);
    return s->line.failed ? fail(E_MEMORY, "out of memory") : know(s, &s->line.sh);
}

err sieve_seeds(struct sieve *s, const struct source *seeds) {
    s->seed = arena_alloc(&s->mem, (size_t)(seeds->n + 1) * sizeof *s->seed);
    if (!s->seed) return fail(E_MEMORY, "out of memory");
    s->turns = source_has_turns(seeds);
    for (int i = 0; i < seeds->n; i++) TRY(add_seed(s, &seeds->r[i], source_part_of(seeds, i)->path));
    return OK;
}

static void hold_out(struct sieve *s, uint64_t hash) {
    uint64_t *v = line_grow(s->held_out, &s->cap_held_out, s->n_held_out + 1, sizeof *v);
    if (!v) {
        s->line.failed = true;
        return;
    }
    s->held_out = v;
    v[s->n_held_out++] = hash;
}

static void hold_out_text(struct sieve *s, const char *text) {
    const struct text *w = &s->line.sh;
    const size_t run = (size_t)s->rules.run;
    if (!text) return;
    words_of(&s->line, text, &s->line.sh);
    if (w->n) hold_out(s, hash_words(w->v, w->n, 0));
    for (size_t i = 0; i + run <= w->n; i++) hold_out(s, hash_words(w->v + i, run, run));
}

static int by_value(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

err sieve_against(struct sieve *s, const struct source *set) {
    for (int i = 0; i < set->n; i++) {
        const struct record *r = &set->r[i];
        hold_out_text(s, r->text);
        hold_out_text(s, r->prompt);
        hold_out_text(s, r->completion);
        for (int k = 0; k < r->n_turns; k++) hold_out_text(s, r->turns[k].content);
    }
    if (s->n_held_out) qsort(s->held_out, s->n_held_out, sizeof *s->held_out, by_value);
    return s->line.failed ? fail(E_MEMORY, "out of memory") : OK;
}

static bool held_out(const struct sieve *s, const struct text *w, bool whole) {
    const size_t run = (size_t)s->rules.run;
    uint64_t h = hash_words(w->v, w->n, 0);
    if (!s->n_held_out) return false;
    if (whole && bsearch(&h, s->held_out, s->n_held_out, sizeof h, by_value)) return true;
    for (size_t i = 0; i + run <= w->n; i++) {
        h = hash_words(w->v + i, run, run);
        if (bsearch(&h, s->held_out, s->n_held_out, sizeof h, by_value)) return true;
    }
    return false;
}

/* --- the form --------------------------------------------------------------------------------------------------------- */
err sieve_prompt(const struct sieve *s, const char *template, const int *which, int n, str *out) {
    static const char hole[] = "{examples}";
    const char *at = strstr(template, hole);
    if (!at || strstr(at + 1, hole)) return fail(E_USAGE, "the template must have {examples} in one place");
    str_add(out, template, (size_t)(at - template));
    for (int i = 0; i < n; i++)
        str_addf(out, "%s" SIEVE_HEAD " %s" SIEVE_OUTPUT " %s" SIEVE_END, i ? "\n\n" : "", s->seed[which[i]].instruction,
                 s->seed[which[i]].output);
    str_adds(out, at + sizeof hole - 1);
    return out->failed ? fail(E_MEMORY, "out of memory") : OK;
}

/* Takes the text apart; false: it has no output. */
static err read_pair(struct sieve *s, const char *text, bool *ended, struct seed *pair, bool *read) {
    const char *end = strstr(text, SIEVE_END), *next = strstr(text, "\n" SIEVE_HEAD), *output = strstr(text, SIEVE_OUTPUT);
    if (!end || (next && next < end)) end = next;
    *ended = *ended || end;
    if (!end) end = text + strlen(text);
    *read = output && output < end;
    if (!*read) return OK;
    *pair = (struct seed){.instruction = trimmed(&s->mem, text, (size_t)(output - text))};
    output += sizeof SIEVE_OUTPUT - 1;
    pair->output = trimmed(&s->mem, output, (size_t)(end - output));
    return pair->instruction && pair->output ? OK : fail(E_MEMORY, "out of memory");
}

static bool refuses(struct sieve *s, const struct text *output) {
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        words_of(&s->line, refusals[i], &s->line.r);
        if (begins_with(output, &s->line.r)) return true;
    }
    return false;
}

/* How like the nearest known instruction it is; *copy: it is a seed's. */
static double likeness(struct sieve *s, const struct text *words, bool *copy) {
    double most = 0;
    *copy = false;
    for (int i = 0; i < s->n_known && !*copy; i++) {
        const struct text *k = &s->known[i];
        *copy = i < s->n_seeds && same_words(words, k);
        const size_t all = words->n + k->n, least = words->n < k->n ? words->n : k->n;
        if (2 * (double)least / (double)all <= most) continue; /* it cannot be nearer */
        const double f1 = 2 * (double)line_common(&s->line, words, k) / (double)all;
        if (f1 > most) most = f1;
    }
    return most;
}

/* Of words: its instruction's in line.sh, its output's in line.sr. */
static enum fate judge(struct sieve *s, bool ended) {
    const struct text *in = &s->line.sh, *out = &s->line.sr;
    bool copy;
    if (!ended) return FATE_CUT;
    if (!in->n || !out->n) return FATE_EMPTY;
    if ((int)in->n < s->rules.least_words || (int)in->n > s->rules.most_words) return FATE_LENGTH;
    if (refuses(s, out)) return FATE_REFUSAL;
    if (same_words(in, out)) return FATE_ECHO;
    const double like = likeness(s, in, &copy);
    if (copy) return FATE_COPY;
    if (like > s->rules.likeness) return FATE_SIMILAR;
    return held_out(s, in, true) || held_out(s, out, false) ? FATE_EVALUATION : FATE_KEPT;
}

err sieve_take(struct sieve *s, const char *text, bool ended, enum fate *fate, struct seed *pair) {
    bool read;
    *fate = FATE_UNREAD;
    TRY(read_pair(s, text, &ended, pair, &read));
    if (read) {
        words_of(&s->line, pair->instruction, &s->line.sh);
        words_of(&s->line, pair->output, &s->line.sr);
        *fate = judge(s, ended);
    }
    if (s->line.failed) return fail(E_MEMORY, "out of memory");
    s->count[*fate]++;
    return *fate == FATE_KEPT ? know(s, &s->line.sh) : OK;
}

void sieve_free(struct sieve *s) {
    free(s->known);
    free(s->held_out);
    line_free(&s->line);
    arena_free(&s->mem);
    *s = (struct sieve){0};
}
