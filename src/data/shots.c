/* See shots.h. */
#include "data/shots.h"
#include "base/philox.h"
#include "data/symbols.h"
#include <stdlib.h>
#include <string.h>

enum { PURPOSE_SHOTS = 0x5307 };

/* --- which ---------------------------------------------------------------------------------------------------------- */
static bool usable(const struct items *from, const struct item *it, int i, const int *which, int n) {
    for (int k = 0; k < n; k++)
        if (which[k] == i) return false;
    return strcmp(from->v[i].record, it->record) != 0;
}

err shots_draw(const struct task *t, enum shot_order order, uint64_t seed, int item, int k, int *which) {
    const struct items *from = task_examples(t);
    const struct item *it = &t->asked.v[item];
    const bool first = order == SHOTS_FIRST || (order == SHOTS_TASK && t->first);
    const uint32_t whose = order == SHOTS_EACH ? (uint32_t)item + 1 : 0;
    int others = 0;
    for (int i = 0; i < from->n && others < k; i++) others += strcmp(from->v[i].record, it->record) != 0;
    if (others < k)
        return fail(E_INPUT, "%s:%d: %d shots, but %s has only %d record%s beside this one: fewer --shots, or another --shot-data",
                    it->path, it->line, k, from->v[0].path, others, others == 1 ? "" : "s");
    uint32_t draw = 0;
    for (int n = 0, i = 0; n < k;) {
        if (!first) i = (int)((uint64_t)philox(philox_key(seed, PURPOSE_SHOTS), draw++, whose, 0, 0).v[0] * (uint64_t)from->n >> 32);
        if (usable(from, it, i, which, n)) which[n++] = i;
        else i++; /* where they come in order */
    }
    return OK;
}

/* --- prompts -------------------------------------------------------------------------------------------------------- */
static const char *answer_of(const struct task *t, const struct item *x) { return x->choice[t->kind == TASK_CHOICE ? x->right : 0]; }

static void as_text(const struct task *t, const struct item *it, const int *which, int k, str *out) {
    str_adds(out, it->description);
    for (int i = 0; i < k; i++) {
        const struct item *x = &task_examples(t)->v[which[i]];
        const char *answer = answer_of(t, x);
        str_adds(out, x->text);
        if (!*answer) continue;
        str_adds(out, t->target_delimiter);
        str_adds(out, answer);
        str_adds(out, t->shot_delimiter);
    }
    str_adds(out, it->text);
}

static err as_turns(const struct task *t, const struct item *it, const int *which, int k, struct chat *chat, str *out) {
    struct chat_message *m = malloc((size_t)(2 * k + 2) * sizeof *m);
    struct chat_text text = {0};
    size_t n = 0;
    if (!m) return fail(E_MEMORY, "out of memory");
    if (*it->description) m[n++] = (struct chat_message){"system", it->description};
    for (int i = 0; i < k; i++) {
        const struct item *x = &task_examples(t)->v[which[i]];
        m[n++] = (struct chat_message){"user", x->text};
        m[n++] = (struct chat_message){"assistant", answer_of(t, x)};
    }
    m[n++] = (struct chat_message){"user", it->text};
    err e = chat_render(chat, m, n, true, &text);
    if (!e) str_add(out, text.text.p ? text.text.p : "", text.text.n);
    chat_text_free(&text);
    free(m);
    return e;
}

err shots_prompt(const struct task *t, const struct item *it, const int *which, int k, struct chat *chat, str *out) {
    err e = OK;
    if (chat) e = as_turns(t, it, which, k, chat, out);
    else as_text(t, it, which, k, out);
    if (!e && out->failed) e = fail(E_MEMORY, "out of memory");
    return e ? fail_in(e, "%s:%d", it->path, it->line) : OK;
}

/* --- ids ------------------------------------------------------------------------------------------------------------ */
/* Bytes of the prompt without the white space (Python's) at its end. */
static size_t stripped(const str *s) {
    size_t keep = 0;
    unsigned cp;
    for (size_t i = 0, n; i < s->n; i += n) {
        n = (size_t)utf8_decode(s->p + i, s->n - i, &cp);
        if (!n) n = 1, cp = 'x'; /* told by the tokenizer */
        if (!char_is_space(cp)) keep = i + n;
    }
    return keep;
}

static err encode(const tokenizer *tk, const char *text, size_t n, struct ids *out) {
    TRY(tokenizer_encode(tk, text, n, ENCODE_SPECIAL, out));
    return tokenizer_surround(tk, true, false, out);
}

err prompt_encode(const tokenizer *tk, const str *prompt, bool options, struct ids *out) {
    const size_t n = options ? stripped(prompt) : prompt->n;
    if (n) return encode(tk, prompt->p, n, out);
    const int32_t bos = tokenizer_bos(tk) >= 0 ? tokenizer_bos(tk) : tokenizer_eos(tk);
    return bos >= 0 ? ids_push(out, bos)
                    : fail(E_UNSUPPORTED, "an empty prompt, and the model has neither a BOS nor an EOS to stand for it");
}

err option_encode(const tokenizer *tk, const str *prompt, const struct ids *prompt_ids, const char *delimiter, const char *text,
                  struct ids *out) {
    const size_t n = stripped(prompt);
    struct ids whole = {0};
    str all = {0};
    str_add(&all, prompt->p ? prompt->p : "", prompt->n);
    str_adds(&all, delimiter);
    str_adds(&all, text);
    err e = all.failed ? fail(E_MEMORY, "out of memory")
            : n        ? encode(tk, all.p, all.n, &whole)
                       : tokenizer_encode(tk, all.p, all.n, ENCODE_SPECIAL, &whole);
    for (size_t i = n ? prompt_ids->n : 0; i < whole.n && !e; i++) e = ids_push(out, whole.v[i]);
    if (!e && !out->n) e = fail(E_INPUT, "the option '%.60s' is no token behind this prompt: there is nothing to score", text);
    str_free(&all);
    ids_free(&whole);
    return e;
}
