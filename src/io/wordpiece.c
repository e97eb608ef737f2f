/* The WordPiece model: the longest token that begins the word, then the longest of those that go on a word (written
 * with a prefix, "##") where it ends, and so on. A word that cannot be written so, or that has too many characters, is
 * the unknown token as a whole. */
#include "io/tokenizer_internal.h"

/* The length of the longest key of the trie that begins the text, 0 when none does. */
static size_t longest(const struct trie *t, const char *text, size_t n, int32_t *id) {
    size_t best = 0;
    uint32_t at = 0;
    for (size_t i = 0; i < n && (at = trie_child(t, at, (uint8_t)text[i]));) {
        i++;
        if (t->node[at].id < 0) continue;
        best = i;
        *id = t->node[at].id;
    }
    return best;
}

err wordpiece_word(const tokenizer *t, struct scratch *s, const char *word, size_t n, struct ids *out) {
    (void)s;
    size_t chars = 0, first = out->n, len;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)word[i] & 0xC0) != 0x80;
    for (size_t i = 0; i < n && chars <= t->max_chars; i += len) {
        int32_t id;
        len = longest(i ? &t->parts : &t->whole, word + i, n - i, &id);
        if (len == 0) chars = SIZE_MAX;
        else TRY(ids_push(out, id));
    }
    if (chars <= t->max_chars) return OK;
    out->n = first;
    if (t->unk < 0)
        return fail(E_INPUT, "%s: no token for \"%.*s\", and the vocabulary has no unknown token", t->name,
                    (int)(n < 80 ? n : 80), word);
    return ids_push(out, t->unk);
}
