/* A tokenizer as GGUF metadata, by kind: gpt2 (BPE on bytes), llama (SentencePiece's BPE), t5 (Unigram), bert (WordPiece).
 *
 * GGUF says little of what goes on around a model: a name for pre-tokenisers of bytes, two switches for SentencePiece, nothing
 * for BERT. So each of the few things that it can say is tried: the keys are read as a file's would be, and the first that gives the
 * ids of the tokenizer stays. Where none does, it is refused. llama has scores in place of merges: any two neighbours whose text is a
 * token merge, so merges that leave some such pair out (other trainers' than SentencePiece's) are refused by the pair.
 *
 * Readers put a space before every stretch of text between special tokens, or before none; and they know no white space that a
 * token takes along. Where only this differs the keys stay, with a warning: a text as such has the same ids, and the model's own
 * SentencePiece file says what GGUF does. */
#include "base/log.h"
#include "io/tokenizer_out_parts.h"
#include <stdlib.h>
#include <string.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

/* --- tokens ---------------------------------------------------------------------------------------------------------- */
static bool puts_space(const tokenizer *t) {
    for (int i = 0; i < t->norm.n; i++)
        if (t->norm.step[i].kind == NORM_PREPEND) return true;
    for (int i = 0; i < t->pre.n; i++)
        if (t->pre.stage[i].kind == STAGE_METASPACE && t->pre.stage[i].prepend != PREPEND_NEVER) return true;
    return false;
}

/* The user's own symbols of SentencePiece's BPE are written with spaces where no space is put before texts: readers look for them in the
 * normalised text then, in the raw one otherwise. BERT's words begin with a space's sign, and what goes on one is bare. */
static void spell(const tokenizer *t, int32_t id, bool spaces, str *out) {
    const struct token *k = &t->tokens[id];
    str_clear(out);
    if (spaces && out_type(t, id) == TOKEN_USER_DEFINED) return out_spaced(k->text, k->n_text, out);
    if (t->kind == MODEL_WORDPIECE && !k->special) {
        bool part = k->n_text > 2 && !memcmp(k->text, "##", 2), whole = k->n_text > 2 && k->text[0] == '[' && k->text[k->n_text - 1] == ']';
        if (!part && !whole) str_adds(out, SPACE_SIGN);
        str_add(out, k->text + (part ? 2 : 0), k->n_text - (part ? 2 : 0));
        return;
    }
    str_add(out, k->text, k->n_text);
}

static err put_tokens(const tokenizer *t, int64_t vocab, struct gguf_keys *out) {
    const bool spaces = t->kind == MODEL_BPE && !t->byte_level && !puts_space(t);
    str text = {0};
    gguf_key_array(out, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)vocab);
    for (int64_t i = 0; i < vocab; i++) {
        if (i < t->n) spell(t, (int32_t)i, spaces, &text);
        else str_clear(&text), str_addf(&text, "[PAD%lld]", (long long)i);
        gguf_array_add_str(out, text.p ? text.p : "", text.n);
    }
    gguf_key_array(out, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)vocab);
    for (int64_t i = 0; i < vocab; i++) gguf_array_add_i32(out, i < t->n ? (int32_t)out_type(t, (int32_t)i) : TOKEN_UNUSED);
    bool failed = text.failed;
    str_free(&text);
    return failed ? out_of_memory() : OK;
}

static void put_scores(const tokenizer *t, const double *score, double rest, int64_t vocab, struct gguf_keys *out) {
    gguf_key_array(out, "tokenizer.ggml.scores", GGUF_F32, (uint64_t)vocab);
    for (int64_t i = 0; i < vocab; i++) gguf_array_add_f32(out, i < t->n ? score[i] : rest);
}

static void put_id(struct gguf_keys *out, const char *key, int32_t id) {
    if (id >= 0) gguf_key_u32(out, key, (uint32_t)id);
}

static void put_settings(const tokenizer *t, struct gguf_keys *out) {
    const bool bert = t->kind == MODEL_WORDPIECE;
    put_id(out, "tokenizer.ggml.bos_token_id", tokenizer_bos(t));
    put_id(out, "tokenizer.ggml.eos_token_id", t->eos < 0 && t->suffix.n ? t->suffix.v[0] : t->eos);
    put_id(out, "tokenizer.ggml.padding_token_id", tokenizer_pad(t));
    if (!t->byte_level) put_id(out, "tokenizer.ggml.unknown_token_id", t->unk);
    if (bert) put_id(out, "tokenizer.ggml.cls_token_id", t->prefix.n ? t->prefix.v[0] : -1);
    if (bert) put_id(out, "tokenizer.ggml.seperator_token_id", t->suffix.n ? t->suffix.v[0] : -1); /* the format's own spelling */
    if (bert) put_id(out, "tokenizer.ggml.mask_token_id", tokenizer_id(t, "[MASK]"));
    gguf_key_bool(out, "tokenizer.ggml.add_bos_token", tokenizer_adds_bos(t));
    if (!t->byte_level || t->suffix.n) gguf_key_bool(out, "tokenizer.ggml.add_eos_token", t->suffix.n > 0);
    if (tokenizer_template(t)) gguf_key_str(out, "tokenizer.chat_template", tokenizer_template(t));
}

/* --- merges ---------------------------------------------------------------------------------------------------------- */
struct ranked {
    int32_t left, right, id;
    uint32_t rank;
};
static int by_rank(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* All merges in their order; free() them. */
static err ranked_merges(const tokenizer *t, struct ranked **out, size_t *n) {
    struct ranked *v = malloc((t->merges_max + 1) * sizeof *v);
    *n = 0;
    if (!(*out = v)) return out_of_memory();
    for (size_t i = 0; t->merges && i <= t->merge_mask; i++) {
        const struct merge *m = &t->merges[i];
        if (m->pair != MERGE_FREE) v[(*n)++] = (struct ranked){(int32_t)(m->pair >> 32), (int32_t)(uint32_t)m->pair, m->id, m->rank};
    }
    qsort(v, *n, sizeof *v, by_rank);
    return OK;
}

static err put_merges(const tokenizer *t, struct gguf_keys *out) {
    struct ranked *v;
    size_t n;
    str line = {0};
    TRY(ranked_merges(t, &v, &n));
    gguf_key_array(out, "tokenizer.ggml.merges", GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) {
        const struct token *l = &t->tokens[v[i].left], *r = &t->tokens[v[i].right];
        str_clear(&line);
        str_add(&line, l->text, l->n_text);
        str_addc(&line, ' ');
        str_add(&line, r->text, r->n_text);
        gguf_array_add_str(out, line.p, line.n);
    }
    bool failed = line.failed;
    str_free(&line);
    free(v);
    return failed ? out_of_memory() : OK;
}

/* --- llama ----------------------------------------------------------------------------------------------------------- */
static err check_halves(void *ctx, int32_t whole, int32_t left, int32_t right) {
    const tokenizer *t = ctx;
    const char *text = t->tokens[whole].text;
    if (left < 0 || right < 0)
        return fail(E_UNSUPPORTED,
                    "%s: a character of \"%.80s\" is no token, and GGUF's kind llama (SentencePiece's BPE) would merge it where this one "
                    "does not",
                    t->name, text);
    const struct merge *m = merge_of(t, left, right);
    if (m && m->id == whole) return OK;
    return fail(E_UNSUPPORTED,
                "%s: \"%.80s\" and \"%.80s\" do not merge to \"%.80s\", and GGUF's kind llama (SentencePiece's BPE) would merge them: it "
                "has scores of tokens in place of a list of merges",
                t->name, t->tokens[left].text, t->tokens[right].text, text);
}

static err check_chars(const tokenizer *t) {
    int bytes = 0;
    for (int b = 0; b < 256; b++) bytes += t->byte_id[b] >= 0;
    if (t->ignore_merges) return fail(E_UNSUPPORTED, "%s: model.ignore_merges: GGUF has no word for it in SentencePiece's BPE", t->name);
    if (bytes && !t->byte_fallback)
        return fail(E_UNSUPPORTED, "%s: tokens for bytes without model.byte_fallback: GGUF readers would use them", t->name);
    if (bytes < 256 && !t->fuse_unk)
        return fail(E_UNSUPPORTED, "%s: model.fuse_unk is false: GGUF readers make one unknown token of several", t->name);
    return each_halves(t, check_halves, (void *)t);
}

/* Tokens in the order of their first merges; those whose merges lie between each other's had one score, as Hugging Face's converter
 * sorts the pairs of equal scores by length. Bytes and control tokens have 0, as SentencePiece writes it. */
static err scores_of(const tokenizer *t, double *score, double *least) {
    struct ranked *v;
    size_t n;
    uint32_t *last = calloc((size_t)t->n, sizeof *last), open = 0;
    if (!last) return out_of_memory();
    err e = ranked_merges(t, &v, &n);
    for (size_t i = 0; i < n && !e; i++) last[v[i].id] = (uint32_t)i;
    for (int32_t i = 0; i < t->n; i++) score[i] = 1;
    *least = 0;
    for (uint32_t i = 0; i < n && !e; i++) {
        if (i > open) --*least;
        if (score[v[i].id] > 0) score[v[i].id] = *least;
        if (last[v[i].id] > open) open = last[v[i].id];
    }
    for (int32_t i = 0; i < t->n && !e; i++)
        if (score[i] > 0) score[i] = out_type(t, i) == TOKEN_NORMAL ? --*least : 0;
    free(last);
    free(v);
    return e;
}

static err put_llama(const tokenizer *t, int64_t vocab, struct gguf_keys *out) {
    double least;
    TRY(check_chars(t));
    double *score = malloc((size_t)t->n * sizeof *score);
    err e = score ? scores_of(t, score, &least) : out_of_memory();
    if (!e) put_scores(t, score, least - 1, vocab, out);
    free(score);
    return e;
}

static bool llama_variant(int i, struct gguf_keys *out) {
    gguf_key_bool(out, "tokenizer.ggml.add_space_prefix", i == 0);
    return i < 2;
}

/* --- t5 -------------------------------------------------------------------------------------------------------------- */
static void put_charsmap(const tokenizer *t, struct gguf_keys *out) {
    for (int i = 0; i < t->norm.n; i++) {
        const struct charsmap *map = &t->norm.step[i].map;
        if (t->norm.step[i].kind != NORM_CHARSMAP) continue;
        uint32_t bytes = (uint32_t)(map->n_units * sizeof *map->unit);
        gguf_key_array(out, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, sizeof bytes + bytes + map->n_text);
        gguf_array_add_bytes(out, &bytes, sizeof bytes);
        gguf_array_add_bytes(out, map->unit, bytes);
        gguf_array_add_bytes(out, map->text, map->n_text);
        return;
    }
}

static err put_t5(const tokenizer *t, int64_t vocab, struct gguf_keys *out) {
    enum { STRANGER = -10000 }; /* what llama.cpp's converter gives to tokens that the model lacks */
    if (t->byte_fallback) return fail(E_UNSUPPORTED, "%s: model.byte_fallback: GGUF has no word for it in a Unigram model", t->name);
    double *score = malloc((size_t)t->n * sizeof *score);
    if (!score) return out_of_memory();
    for (int32_t i = 0; i < t->n; i++) score[i] = t->tokens[i].in_model ? t->score[i] : STRANGER;
    put_scores(t, score, STRANGER, vocab, out);
    put_charsmap(t, out);
    free(score);
    return OK;
}

static bool t5_variant(int i, struct gguf_keys *out) {
    gguf_key_bool(out, "tokenizer.ggml.add_space_prefix", i < 2);
    gguf_key_bool(out, "tokenizer.ggml.remove_extra_whitespaces", i % 2 == 0);
    return i < 4;
}

/* --- all kinds ------------------------------------------------------------------------------------------------------- */
static err put_gpt2(const tokenizer *t, int64_t vocab, struct gguf_keys *out) { return (void)vocab, put_merges(t, out); }

static bool gpt2_variant(int i, struct gguf_keys *out) {
    struct gguf_pre pre;
    for (int k = 0; gguf_pre_at(k, &pre); k++) {
        if (!strcmp(pre.name, "default") || i-- > 0) continue; /* what readers make of no name is never written */
        gguf_key_str(out, "tokenizer.ggml.pre", pre.name);
        return true;
    }
    return false;
}

static err put_nothing(const tokenizer *t, int64_t vocab, struct gguf_keys *out) { return (void)t, (void)vocab, (void)out, OK; }

static bool bert_variant(int i, struct gguf_keys *out) {
    gguf_key_str(out, "tokenizer.ggml.pre", "default");
    return i < 1;
}

static const struct kind {
    const char *name, *lacks; /* why none of the variants gave the same ids */
    err (*put)(const tokenizer *t, int64_t vocab, struct gguf_keys *out);
    bool (*variant)(int i, struct gguf_keys *out); /* adds the keys of the i-th way to say what goes on around the model; false: no more */
} kinds[] = {{"gpt2", "none of the pre-tokenisers that GGUF files can name splits text as this one does", put_gpt2, gpt2_variant},
             {"llama",
              "GGUF's kind llama means SentencePiece's BPE on whole texts, and this normalizer and pre_tokenizer make other pieces of them",
              put_llama, llama_variant},
             {"t5", "GGUF's kind t5 means SentencePiece's Unigram, and this normalizer and pre_tokenizer make other pieces of a text",
              put_t5, t5_variant},
             {"bert", "GGUF's kind bert means BERT's own steps, and this normalizer and pre_tokenizer make other pieces of a text",
              put_nothing, bert_variant}};

static const struct kind *kind_of(const tokenizer *t) {
    if (t->kind == MODEL_BPE) return &kinds[t->byte_level ? 0 : 1];
    return &kinds[t->kind == MODEL_UNIGRAM ? 2 : 3];
}

/* What a reader makes of the keys and the i-th variant. more: there is one. */
static err read_variant(const struct kind *kind, int i, const struct gguf_keys *keys, tokenizer **made, bool *more) {
    struct gguf_keys with = {.n = keys->n};
    str bytes = {0};
    struct tensors ts;
    *made = NULL;
    str_add(&with.bytes, keys->bytes.p, keys->bytes.n);
    err e = OK;
    *more = kind->variant(i, &with);
    if (*more && !(e = gguf_keys_open(&with, &bytes, &ts))) {
        e = tokenizer_from_gguf(&ts, made);
        tensors_close(&ts);
    }
    str_free(&bytes);
    gguf_keys_free(&with);
    return e;
}

static err check_added(const tokenizer *t, const tokenizer *made) {
    char what[128];
    if (!out_same_around(t, made))
        return fail(E_UNSUPPORTED, "%s: what it puts around a text is not what GGUF can say (BOS before it, EOS behind)", t->name);
    if (!out_same_added(t, made, what, sizeof what))
        log_warn("%s: GGUF readers cut %s otherwise: they have no words for where a space is put before text and which tokens take spaces "
                 "along; other texts have the same ids",
                 t->name, what);
    return OK;
}

static err put_variant(const tokenizer *t, const struct kind *kind, struct gguf_keys *out) {
    for (int i = 0;; i++) {
        tokenizer *made;
        bool more, same;
        TRY(read_variant(kind, i, out, &made, &more));
        if (!more) return fail(E_UNSUPPORTED, "%s: %s", t->name, kind->lacks);
        same = out_same_text(t, made);
        err e = same ? check_added(t, made) : OK;
        if (same) kind->variant(i, out);
        tokenizer_free(made);
        if (e || same) return e;
    }
}

err tokenizer_keys(const tokenizer *t, int64_t vocab, struct gguf_keys *out) {
    const struct kind *kind = kind_of(t);
    gguf_key_str(out, "tokenizer.ggml.model", kind->name);
    TRY(put_tokens(t, vocab, out));
    TRY(kind->put(t, vocab, out));
    put_settings(t, out);
    return put_variant(t, kind, out);
}
