/* Text to ids and back: the calls of tokenizer.h. The readers are tokenizer_json.c and tokenizer_gguf.c.
 *
 * Encoding follows the `tokenizers` library step by step, for its ids are the ones that models were trained on: added
 * tokens are cut out of the raw text, the gaps are normalised, added tokens that are declared so are cut out of the
 * normalised text, the rest is split into words (pretokenizer.c) and each word is merged (bpe.c).
 *
 * Threads may encode with one tokenizer at the same time: each call takes a scratch (buffers, match data, a cache of
 * words) from a list and gives it back. */
#include "io/tokenizer_internal.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

err ids_push(struct ids *ids, int32_t id) {
    if (ids->n == ids->cap) {
        size_t cap = ids->cap ? 2 * ids->cap : 64;
        int32_t *v = realloc(ids->v, cap * sizeof *v);
        if (!v) return fail(E_MEMORY, "out of memory for %zu token ids", cap);
        ids->v = v;
        ids->cap = cap;
    }
    ids->v[ids->n++] = id;
    return OK;
}

void ids_free(struct ids *ids) {
    free(ids->v);
    *ids = (struct ids){0};
}

/* ---- scratch ---- */

static void scratch_free(struct scratch *s) {
    pre_scratch_free(&s->pre);
    free(s->cache);
    free(s->symbols);
    free(s->heap);
    str_free(&s->normal);
    str_free(&s->word);
    free(s);
}

static err scratch_take(tokenizer *t, struct scratch **out) {
    pthread_mutex_lock(&t->lock);
    struct scratch *s = t->idle;
    if (s) t->idle = s->next;
    pthread_mutex_unlock(&t->lock);
    *out = s;
    if (s) return OK;
    s = calloc(1, sizeof *s);
    if (!s) return fail(E_MEMORY, "out of memory");
    err e = pre_scratch_init(&s->pre);
    if (!e && !(s->cache = calloc(CACHE_WORDS, sizeof *s->cache))) e = fail(E_MEMORY, "out of memory");
    if (e) scratch_free(s);
    else *out = s;
    return e;
}

static void scratch_give(tokenizer *t, struct scratch *s) {
    pthread_mutex_lock(&t->lock);
    s->next = t->idle;
    t->idle = s;
    pthread_mutex_unlock(&t->lock);
}

void tokenizer_free(tokenizer *t) {
    if (!t) return;
    while (t->idle) {
        struct scratch *s = t->idle;
        t->idle = s->next;
        scratch_free(s);
    }
    pthread_mutex_destroy(&t->lock);
    pre_free(&t->pre);
    free(t->raw.v);
    free(t->normalised.v);
    str_free(&t->hashed);
    arena_free(&t->mem);
    free(t);
}

/* ---- added tokens ---- */

/* Narrows the sorted range [*lo, *hi), whose texts agree in their first `depth` bytes, to those with byte c next. */
static void narrow(const struct added_list *list, size_t depth, uint8_t c, size_t *lo, size_t *hi) {
    size_t bound[2];
    for (int above = 0; above < 2; above++) {
        size_t a = *lo, b = *hi;
        while (a < b) {
            size_t mid = (a + b) / 2;
            const struct added *k = &list->v[mid];
            int have = k->n > depth ? (uint8_t)k->text[depth] : -1;
            if (have < c + above) a = mid + 1;
            else b = mid;
        }
        bound[above] = a;
    }
    *lo = bound[0];
    *hi = bound[1];
}

/* The longest added token that begins here, or NULL. */
static const struct added *longest(const struct added_list *list, const char *text, size_t n) {
    const struct added *best = NULL;
    size_t lo = 0, hi = list->n;
    for (size_t depth = 0; depth < n; depth++) {
        narrow(list, depth, (uint8_t)text[depth], &lo, &hi);
        if (lo == hi) break;
        if (list->v[lo].n == depth + 1) best = &list->v[lo]; /* a prefix sorts before what it begins */
    }
    return best;
}

/* Unicode's White_Space. */
static bool is_space(utf8proc_int32_t c) {
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Word characters as Rust's regexes have them: Alphabetic, marks, decimal digits, connectors, joiners. */
static bool is_word(utf8proc_int32_t c) {
    if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
        (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C || c == 0x200D)
        return true; /* circled letters are symbols by category */
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return false;
    }
}

static utf8proc_int32_t char_after(const char *text, size_t n, size_t at, size_t *len) {
    unsigned cp = 0;
    *len = (size_t)utf8_decode(text + at, n - at, &cp);
    return (utf8proc_int32_t)cp;
}

static utf8proc_int32_t char_before(const char *text, size_t at, size_t *len) {
    size_t start = at;
    do start--;
    while (start > 0 && ((uint8_t)text[start] & 0xC0) == 0x80);
    return char_after(text, at, start, len);
}

static bool stands_alone(const char *text, size_t n, size_t start, size_t end) {
    size_t len;
    return !(start > 0 && is_word(char_before(text, start, &len))) &&
           !(end < n && is_word(char_after(text, n, end, &len)));
}

struct encoding {
    const tokenizer *t;
    struct scratch *s;
    bool special;
    struct ids *out;
};
typedef err (*gap_fn)(struct encoding *e, const char *text, size_t n);

/* Cuts added tokens out of a text: their ids go to the output, the gaps to `gap`. Of tokens that begin at one place the
 * longest wins; one that is passed over for its flags still covers its text, as in the reference. */
static err cut_added(struct encoding *e, const struct added_list *list, const char *text, size_t n, gap_fn gap) {
    bool begins[256] = {0};
    size_t done = 0, len;
    for (size_t i = 0; i < list->n; i++) begins[(uint8_t)list->v[i].text[0]] = true;
    for (size_t at = 0; list->n && at < n; at++) {
        const struct added *k = begins[(uint8_t)text[at]] ? longest(list, text + at, n - at) : NULL;
        if (!k) continue;
        size_t start = at, end = at + k->n;
        at = end - 1;
        if ((k->special && !e->special) || (k->single_word && !stands_alone(text, n, start, end))) continue;
        if (k->lstrip)
            while (start > done && is_space(char_before(text, start, &len))) start -= len;
        if (k->rstrip)
            while (end < n && is_space(char_after(text, n, end, &len))) end += len;
        if (start > done) TRY(gap(e, text + done, start - done));
        TRY(ids_push(e->out, k->id));
        done = end;
    }
    return done < n ? gap(e, text + done, n - done) : OK;
}

/* ---- encoding ---- */

static err encode_words(struct encoding *e, const char *text, size_t n) {
    const char *split;
    if (n > INT32_MAX) return fail(E_INPUT, "the text is too long once normalised (%zu bytes); encode it in parts", n);
    TRY(pre_split(&e->t->pre, &e->s->pre, text, n, &split));
    const struct pieces *p = &e->s->pre.now;
    for (size_t i = 0; i < p->n; i++)
        TRY(bpe_word(e->t, e->s, split + p->v[i].start, p->v[i].end - p->v[i].start, e->out));
    return OK;
}

static err encode_gap(struct encoding *e, const char *text, size_t n) {
    const char *normal;
    TRY(pre_normalise(&e->t->pre, text, n, &e->s->normal, &normal, &n));
    return cut_added(e, &e->t->normalised, normal, n, encode_words);
}

static err check_utf8(const char *text, size_t n) {
    for (size_t i = 0; i < n;) {
        uint64_t eight;
        if (n - i >= sizeof eight && (memcpy(&eight, text + i, sizeof eight), (eight & 0x8080808080808080ull) == 0)) {
            i += sizeof eight;
            continue;
        }
        unsigned cp;
        int len = utf8_decode(text + i, n - i, &cp);
        if (len == 0)
            return fail(E_INPUT, "the text is not valid UTF-8: byte 0x%02X at offset %zu", (unsigned)(uint8_t)text[i],
                        i);
        i += (size_t)len;
    }
    return OK;
}

err tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool special, struct ids *out) {
    if (n > INT32_MAX / 4) /* normal forms and prefix spaces may lengthen it */
        return fail(E_INPUT, "a text of %zu bytes is too long for one call; encode it in parts below 512 MiB", n);
    TRY(check_utf8(text, n));
    struct encoding e = {.t = t, .special = special, .out = out};
    tokenizer *shared = (tokenizer *)t; /* the list of scratches is behind a lock */
    TRY(scratch_take(shared, &e.s));
    size_t first = out->n;
    err result = cut_added(&e, &t->raw, text, n, encode_gap);
    scratch_give(shared, e.s);
    if (result) out->n = first;
    return result;
}

err tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special, str *out) {
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->n)
            return fail(E_INPUT, "token id %d at position %zu is outside the vocabulary of %d", ids[i], i, t->n);
        const struct token *k = &t->tokens[ids[i]];
        if (!(skip_special && k->special)) str_add(out, k->bytes, k->n_bytes);
    }
    return out->failed ? fail(E_MEMORY, "out of memory") : OK;
}

/* ---- what is known of it ---- */

int tokenizer_vocab(const tokenizer *t) { return t->n; }
int32_t tokenizer_id(const tokenizer *t, const char *token) { return tok_find(t, token, strlen(token)); }
const char *tokenizer_token(const tokenizer *t, int32_t id) { return id >= 0 && id < t->n ? t->tokens[id].text : NULL; }
int32_t tokenizer_bos(const tokenizer *t) { return t->bos; }
int32_t tokenizer_eos(const tokenizer *t) { return t->eos; }
int32_t tokenizer_pad(const tokenizer *t) { return t->pad; }
bool tokenizer_adds_bos(const tokenizer *t) { return t->adds_bos; }
bool tokenizer_is_special(const tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n && (t->tokens[id].special || id == t->bos || id == t->eos);
}
err tokenizer_set_template(tokenizer *t, const char *source) {
    t->chat_template = arena_str(&t->mem, source);
    return t->chat_template ? OK : fail(E_MEMORY, "out of memory");
}
const char *tokenizer_template(const tokenizer *t) { return t->chat_template; }
void tokenizer_hash(const tokenizer *t, char hex[33]) { memcpy(hex, t->hash, sizeof t->hash); }
