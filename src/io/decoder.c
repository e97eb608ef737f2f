/* Ids to text: the decoders of the `tokenizers` library, a list of steps that each turn a list of texts (one a token)
 * into another; what the last leaves is joined. Without steps the tokens are joined with spaces.
 *
 * One difference: tokens of single bytes that make no character are written as those bytes (the library writes U+FFFD
 * for each), so that a text that is decoded in parts is whole when the parts are joined. */
#include "io/tokenizer_internal.h"
#include <stdlib.h>
#include <string.h>

err decoder_add(tokenizer *t, struct decode_step step) {
    struct decoder *d = &t->decoder;
    if (d->n == DECODE_STEPS_MAX) return fail(E_UNSUPPORTED, "%s: more than %d decoders", t->name, DECODE_STEPS_MAX);
    step.from = arena_strn(&t->mem, step.from ? step.from : "", step.n_from);
    step.to = arena_strn(&t->mem, step.to ? step.to : "", step.n_to);
    if (!step.from || !step.to) return fail(E_MEMORY, "%s: out of memory", t->name);
    d->step[d->n++] = step;
    return OK;
}

/* Texts side by side in one string. */
struct texts {
    str all;
    size_t *end, n;
};
static const char *text_at(const struct texts *x, size_t i, size_t *n) {
    size_t start = i ? x->end[i - 1] : 0;
    *n = x->end[i] - start;
    return x->all.p ? x->all.p + start : "";
}
static void text_done(struct texts *x) { x->end[x->n++] = x->all.n; }

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0x41>": the byte. */
static bool is_byte(const char *s, size_t n, char *byte) {
    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>' || hex(s[4]) < 0) return false;
    int high = s[3] == '+' ? 0 : hex(s[3]); /* Rust reads a sign */
    *byte = (char)(high * 16 + hex(s[4]));
    return high >= 0;
}

static void add_replaced(str *out, const char *s, size_t n, const struct decode_step *d) {
    for (size_t i = 0; i < n;) {
        bool hit = d->n_from && n - i >= d->n_from && !memcmp(s + i, d->from, d->n_from);
        if (hit) str_add(out, d->to, d->n_to);
        else str_addc(out, s[i]);
        i += hit ? d->n_from : 1;
    }
}

static void add_stripped(str *out, const char *s, size_t n, const struct decode_step *d) {
    size_t k = d->n_from;
    for (size_t i = 0; i < d->left && n >= k && !memcmp(s, d->from, k); i++) s += k, n -= k;
    for (size_t i = 0; i < d->right && n >= k && !memcmp(s + n - k, d->from, k); i++) n -= k;
    str_add(out, s, n);
}

/* The spaces that WordPiece put around marks and contractions, out again. */
static void clean_up(str *s, size_t from) {
    static const char *const pairs[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                           {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                           {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t k = 0; k < sizeof pairs / sizeof *pairs && !s->failed; k++) {
        struct decode_step d = {
            .from = pairs[k][0], .to = pairs[k][1], .n_from = strlen(pairs[k][0]), .n_to = strlen(pairs[k][1])};
        str out = {0};
        add_replaced(&out, s->p + from, s->n - from, &d);
        s->n = from;
        str_add(s, out.p ? out.p : "", out.n);
        s->failed |= out.failed;
        str_free(&out);
    }
}

static void add_wordpiece(str *out, const char *s, size_t n, const struct decode_step *d, bool first) {
    size_t from = out->n;
    bool goes_on = n >= d->n_from && !memcmp(s, d->from, d->n_from);
    if (first) str_add(out, s, n);
    else if (goes_on) str_add(out, s + d->n_from, n - d->n_from);
    else {
        str_addc(out, ' ');
        str_add(out, s, n);
    }
    if (d->cleanup && out->n > from) clean_up(out, from);
}

/* One step over all texts. `begins`: the first token is the beginning of a text. */
static void step(const struct decode_step *d, const struct texts *in, bool begins, struct texts *out) {
    static const struct decode_step to_space = {.to = " ", .n_to = 1}, to_none = {0};
    bool in_bytes = false;
    for (size_t i = 0, n; i < in->n; i++) {
        const char *s = text_at(in, i, &n);
        bool first = begins && i == 0;
        char byte;
        struct decode_step sign = d->prepends && first ? to_none : to_space;
        switch (d->kind) {
        case DECODE_BYTE_FALLBACK:
            if (in_bytes && !is_byte(s, n, &byte)) text_done(out); /* bytes in a row are one text */
            if ((in_bytes = is_byte(s, n, &byte))) {
                str_add(&out->all, &byte, 1);
                continue;
            }
            str_add(&out->all, s, n);
            break;
        case DECODE_FUSE: str_add(&out->all, s, n); continue;
        case DECODE_REPLACE: add_replaced(&out->all, s, n, d); break;
        case DECODE_METASPACE:
            sign.from = d->from;
            sign.n_from = d->n_from;
            add_replaced(&out->all, s, n, &sign);
            break;
        case DECODE_WORDPIECE: add_wordpiece(&out->all, s, n, d, first); break;
        case DECODE_STRIP: /* of a fused text it strips the beginning, which a middle has not */
            if (begins || in->n > 1) add_stripped(&out->all, s, n, d);
            else str_add(&out->all, s, n);
            break;
        }
        text_done(out);
    }
    if (d->kind == DECODE_FUSE || in_bytes) text_done(out);
}

err decoder_run(const tokenizer *t, const int32_t *ids, size_t n, unsigned flags, str *out) {
    const struct decoder *d = &t->decoder;
    struct texts now = {.end = malloc((n + 1) * sizeof(size_t))}, next = {.end = malloc((n + 1) * sizeof(size_t))};
    bool failed = !now.end || !next.end, begins = !(flags & DECODE_GOES_ON);
    for (size_t i = 0; i < n && !failed; i++) {
        const struct token *k = &t->tokens[ids[i]];
        if (flags & DECODE_SKIP_SPECIAL && k->special) continue;
        if (d->n == 0 && (now.n || !begins)) str_addc(&now.all, ' ');
        str_add(&now.all, k->bytes, k->n_bytes);
        text_done(&now);
    }
    for (int i = 0; i < d->n && !failed; i++) {
        str_clear(&next.all);
        next.n = 0;
        step(&d->step[i], &now, begins, &next);
        struct texts swap = now;
        now = next;
        next = swap;
    }
    failed |= now.all.failed || next.all.failed;
    if (!failed) str_add(out, now.all.p ? now.all.p : "", now.all.n);
    failed |= out->failed;
    str_free(&now.all);
    str_free(&next.all);
    free(now.end);
    free(next.end);
    return failed ? fail(E_MEMORY, "out of memory") : OK;
}
