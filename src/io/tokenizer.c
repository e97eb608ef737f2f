/* Text to ids and back: the calls of tokenizer.h. The readers are tokenizer_json.c and tokenizer_gguf.c.
 *
 * Encoding follows the `tokenizers` library step by step, for its ids are the ones that models were trained on: added
 * tokens are cut out of the raw text, the gaps are normalised (normaliser.c), added tokens that are declared so are cut
 * out of the normalised text, the rest is split into words (pretokenizer.c) and each word goes through the model
 * (bpe.c, unigram.c, wordpiece.c). Decoding is decoder.c.
 *
 * Threads may encode with one tokenizer at the same time: each call takes a scratch (buffers, match data, a cache of
 * words) from a list and gives it back. */
#define XXH_INLINE_ALL
#include "base/log.h"
#include "io/tokenizer_internal.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

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

void scratch_free(struct scratch *s) {
    pre_scratch_free(&s->pre);
    matcher_free(&s->norm.matcher);
    str_free(&s->norm.now);
    str_free(&s->norm.next);
    free(s->cache);
    free(s->symbols);
    free(s->heap);
    free(s->path);
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
    if (!e) e = matcher_init(&s->norm.matcher);
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

static uint32_t char_after(const char *text, size_t at, size_t *len) {
    uint32_t cp;
    *len = (size_t)utf8_at(text + at, &cp);
    return cp;
}

static uint32_t char_before(const char *text, size_t at, size_t *len) {
    size_t start = at;
    do start--;
    while (start > 0 && ((uint8_t)text[start] & 0xC0) == 0x80);
    return char_after(text, start, len);
}

static bool stands_alone(const char *text, size_t n, size_t start, size_t end) {
    size_t len;
    return !(start > 0 && chars_has(CHARS_WORD, char_before(text, start, &len))) &&
           !(end < n && chars_has(CHARS_WORD, char_after(text, end, &len)));
}

struct encoding {
    const tokenizer *t;
    struct scratch *s;
    bool special;
    struct ids *out;
};
typedef err (*gap_fn)(struct encoding *e, const char *text, size_t n, enum lead lead);

/* Cuts added tokens out of a text: their ids go to the output, the gaps to `gap`. Of tokens that begin at one place the
 * longest wins; one that is passed over for its flags still covers its text, as in the reference. */
static err cut_added(struct encoding *e, const struct added_list *list, const char *text, size_t n, enum lead lead,
                     gap_fn gap) {
    size_t done = 0, len;
    for (size_t at = 0; list->n && at < n; at++) {
        const struct added *k = list->begins[(uint8_t)text[at]] ? longest(list, text + at, n - at) : NULL;
        if (!k) continue;
        size_t start = at, end = at + k->n;
        at = end - 1;
        if ((k->special && !e->special) || (k->single_word && !stands_alone(text, n, start, end))) continue;
        if (k->lstrip)
            while (start > done && chars_has(CHARS_SPACE, char_before(text, start, &len))) start -= len;
        if (k->rstrip)
            while (end < n && chars_has(CHARS_SPACE, char_after(text, end, &len))) end += len;
        if (k->lstrip && start < done) start = done; /* the one before took these spaces along */
        if (start > done) TRY(gap(e, text + done, start - done, lead));
        if (start < end) TRY(ids_push(e->out, k->id));
        done = end;
        lead = LEAD_AFTER_TOKEN;
    }
    return done < n ? gap(e, text + done, n - done, lead) : OK;
}

/* ---- encoding ---- */

/* The ids of a piece; those of short ones are remembered. */
static inline err encode_word(struct encoding *e, const char *word, size_t n) {
    const tokenizer *t = e->t;
    struct ids *out = e->out;
    if (n > CACHE_BYTES) return t->word(t, e->s, word, n, out);
    struct cached_word *c = &e->s->cache[XXH3_64bits(word, n) % CACHE_WORDS];
    if (c->n_bytes == n && !memcmp(c->bytes, word, n)) {
        for (int i = 0; i < c->n_ids; i++) TRY(ids_push(out, c->ids[i]));
        return OK;
    }
    size_t first = out->n;
    TRY(t->word(t, e->s, word, n, out));
    if (out->n - first > CACHE_IDS) return OK;
    c->n_bytes = (uint8_t)n;
    c->n_ids = (uint8_t)(out->n - first);
    memcpy(c->bytes, word, n);
    if (c->n_ids) memcpy(c->ids, out->v + first, c->n_ids * sizeof *c->ids);
    return OK;
}

/* A piece that may hold many words, cut before signs of spaces where no merge can cross. */
static err encode_spaced(struct encoding *e, const char *text, size_t n) {
    size_t start = 0;
    for (size_t i = 1; i + SPACE_SIGN_BYTES <= n; i++) {
        const char *sign = memchr(text + i, SPACE_SIGN[0], n - i);
        if (!sign) break;
        i = (size_t)(sign - text);
        if (n - i < SPACE_SIGN_BYTES || memcmp(sign, SPACE_SIGN, SPACE_SIGN_BYTES)) continue;
        if (e->t->joined[(uint8_t)text[i - 1]]) continue;
        TRY(encode_word(e, text + start, i - start));
        start = i;
    }
    return encode_word(e, text + start, n - start);
}

static err encode_words(struct encoding *e, const char *text, size_t n, enum lead lead) {
    const char *split;
    if (n > INT32_MAX) return fail(E_INPUT, "the text is too long once normalised (%zu bytes); encode it in parts", n);
    TRY(pre_split(&e->t->pre, &e->s->pre, text, n, lead, &split));
    const struct pieces *p = &e->s->pre.now;
    for (size_t i = 0; i < p->n; i++) {
        const char *piece = split + p->v[i].start;
        size_t len = p->v[i].end - p->v[i].start;
        TRY(e->t->cut_spaces ? encode_spaced(e, piece, len) : encode_word(e, piece, len));
    }
    return OK;
}

static err encode_gap(struct encoding *e, const char *text, size_t n, enum lead lead) {
    struct normal normal;
    TRY(norm_apply(&e->t->norm, &e->s->norm, text, n, lead, &normal));
    if (normal.cut && lead == LEAD_TEXT) lead = LEAD_AFTER_TOKEN; /* to the reference it does not begin the text */
    return cut_added(e, &e->t->normalised, normal.text, normal.n, lead, encode_words);
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

static bool is_added(const tokenizer *t, int32_t id) { return id >= 0 && id < t->n && t->tokens[id].added; }

err tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, struct ids *out) {
    if (n > INT32_MAX / 4) /* normal forms and prefix spaces may lengthen it */
        return fail(E_INPUT, "a text of %zu bytes is too long for one call; encode it in parts below 512 MiB", n);
    TRY(check_utf8(text, n));
    struct encoding e = {.t = t, .special = flags & ENCODE_SPECIAL, .out = out};
    enum lead lead = LEAD_TEXT;
    if (flags & ENCODE_GOES_ON) lead = out->n && is_added(t, out->v[out->n - 1]) ? LEAD_AFTER_TOKEN : LEAD_MIDDLE;
    tokenizer *shared = (tokenizer *)t; /* the list of scratches is behind a lock */
    TRY(scratch_take(shared, &e.s));
    size_t first = out->n;
    err result = cut_added(&e, &t->raw, text, n, lead, encode_gap);
    scratch_give(shared, e.s);
    if (result) out->n = first;
    return result;
}

err tokenizer_surround(const tokenizer *t, bool before, bool after, struct ids *ids) {
    const struct ids *p = &t->prefix, *s = &t->suffix;
    bool begins = p->n <= ids->n && (p->n == 0 || !memcmp(ids->v, p->v, p->n * sizeof *p->v));
    if (before && !begins) {
        for (size_t i = 0; i < p->n; i++) TRY(ids_push(ids, 0));
        memmove(ids->v + p->n, ids->v, (ids->n - p->n) * sizeof *ids->v);
        memcpy(ids->v, p->v, p->n * sizeof *p->v);
    }
    bool ends = s->n <= ids->n && (s->n == 0 || !memcmp(ids->v + ids->n - s->n, s->v, s->n * sizeof *s->v));
    for (size_t i = 0; after && !ends && i < s->n; i++) TRY(ids_push(ids, s->v[i]));
    return OK;
}

err tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, unsigned flags, str *out) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= t->n)
            return fail(E_INPUT, "token id %d at position %zu is outside the vocabulary of %d", ids[i], i, t->n);
    if (!t->decoder.bytes) return decoder_run(t, ids, n, flags, out);
    for (size_t i = 0; i < n; i++) {
        const struct token *k = &t->tokens[ids[i]];
        if (!(flags & DECODE_SKIP_SPECIAL && k->special)) str_add(out, k->bytes, k->n_bytes);
    }
    return out->failed ? fail(E_MEMORY, "out of memory") : OK;
}

/* ---- what is known of it ---- */

int tokenizer_vocab(const tokenizer *t) { return t->n; }
static void forget_beyond(struct added_list *list, int64_t n) {
    size_t kept = 0;
    for (size_t i = 0; i < list->n; i++)
        if (list->v[i].id < n) list->v[kept++] = list->v[i];
    list->n = kept;
}

bool tokenizer_fit(tokenizer *t, int64_t n) {
    if (t->n <= n) return true;
    if (t->bos >= n || t->eos >= n || t->pad >= n || n < 0) return false;
    for (size_t i = 0; i < t->prefix.n; i++)
        if (t->prefix.v[i] >= n) return false;
    for (size_t i = 0; i < t->suffix.n; i++)
        if (t->suffix.v[i] >= n) return false;
    for (int64_t i = n; i < t->n; i++)
        if (t->tokens[i].in_model) return false;
    log_warn("%s: the model has %lld ids, so the added tokens from \"%.80s\" on are not recognised", t->name, (long long)n,
             t->tokens[n].text);
    forget_beyond(&t->raw, n);
    forget_beyond(&t->normalised, n);
    t->n = (int32_t)n;
    return true;
}

int32_t tokenizer_id(const tokenizer *t, const char *token) {
    int32_t id = tok_find(t, token, strlen(token));
    return id < t->n ? id : -1;
}
const char *tokenizer_token(const tokenizer *t, int32_t id) { return id >= 0 && id < t->n ? t->tokens[id].text : NULL; }
int32_t tokenizer_bos(const tokenizer *t) { return t->bos; }
int32_t tokenizer_eos(const tokenizer *t) { return t->eos; }
int32_t tokenizer_pad(const tokenizer *t) { return t->pad; }
bool tokenizer_adds_bos(const tokenizer *t) { return t->prefix.n > 0; }
const struct ids *tokenizer_prefix(const tokenizer *t) { return &t->prefix; }
const struct ids *tokenizer_suffix(const tokenizer *t) { return &t->suffix; }
bool tokenizer_is_special(const tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n && (t->tokens[id].special || id == t->bos || id == t->eos);
}
err tokenizer_set_template(tokenizer *t, const char *source, const char *name) {
    t->chat_template = arena_str(&t->mem, source);
    t->template_name = arena_str(&t->mem, name);
    return t->chat_template && t->template_name ? OK : fail(E_MEMORY, "out of memory");
}
const char *tokenizer_template(const tokenizer *t) { return t->chat_template; }
const char *tokenizer_template_name(const tokenizer *t) { return t->template_name ? t->template_name : "chat template"; }
size_t tokenizer_bytes(const tokenizer *t) { return arena_used(&t->mem); }
size_t tokenizer_words_bytes(void) { return CACHE_WORDS * sizeof(struct cached_word); }
void tokenizer_rest(tokenizer *t) {
    for (struct scratch *s = t->idle, *next; s; s = next) next = s->next, scratch_free(s);
    t->idle = NULL;
}
void tokenizer_hash(const tokenizer *t, char hex[33]) { memcpy(hex, t->hash, sizeof t->hash); }
