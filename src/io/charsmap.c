/* The normaliser that SentencePiece compiles into a model ("Precompiled" in tokenizer.json, precompiled_charsmap in
 * GGUF): texts of one or a few characters and what replaces them.
 *
 * Layout, little-endian: u32 bytes of the trie; the trie, a double array of u32 units (darts-clone); the replacements,
 * zero-terminated. A unit holds a label or a value, whether a value hangs below it, and the offset of its children.
 *
 * The `tokenizers` library looks up grapheme clusters of less than six bytes whole, then characters, and of the entries
 * that begin a cluster takes the shortest, dropping the rest of the cluster. That is followed to the letter: models
 * were trained on it. utf8proc finds the clusters. */
#include "io/normaliser.h"
#include "io/unicode.h"
#include <string.h>
#include <utf8proc.h>

static inline uint32_t unit_offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
static inline uint32_t unit_label(uint32_t unit) { return unit & (1u << 31 | 0xFF); }
static inline bool unit_has_leaf(uint32_t unit) { return unit >> 8 & 1; }
static inline uint32_t unit_value(uint32_t unit) { return unit & ((1u << 31) - 1); }

/* The replacement of the shortest entry that begins the key, or NULL. */
static const char *lookup(const struct charsmap *map, const char *key, size_t n, size_t *n_out) {
    uint32_t at = unit_offset(map->unit[0]);
    for (size_t i = 0; i < n && key[i]; i++) {
        at ^= (unsigned char)key[i];
        if (at >= map->n_units) return NULL;
        uint32_t unit = map->unit[at];
        if (unit_label(unit) != (unsigned char)key[i]) return NULL;
        at ^= unit_offset(unit);
        if (at >= map->n_units) return NULL;
        if (!unit_has_leaf(unit)) continue;
        uint32_t start = unit_value(map->unit[at]);
        if (start >= map->n_text || ((unsigned char)map->text[start] & 0xC0) == 0x80) return NULL; /* in a character */
        const char *text = map->text + start, *end = memchr(text, 0, map->n_text - start);
        *n_out = end ? (size_t)(end - text) : map->n_text - start;
        return text;
    }
    return NULL;
}

/* Is there a cluster's end between two characters? The library's Unicode is newer than utf8proc's. */
static bool breaks(uint32_t cp, uint32_t next, utf8proc_int32_t *state) {
    if (!utf8proc_grapheme_break_stateful((utf8proc_int32_t)cp, (utf8proc_int32_t)next, state)) return false;
    if (!chars_has(CHARS_EXTEND, next)) return true;
    unsigned class = utf8proc_get_property((utf8proc_int32_t)cp)->boundclass;
    return class == UTF8PROC_BOUNDCLASS_CONTROL || class == UTF8PROC_BOUNDCLASS_CR || class == UTF8PROC_BOUNDCLASS_LF;
}

/* The bytes of the grapheme cluster at s. */
static size_t cluster(const char *s, size_t n) {
    uint32_t cp, next;
    size_t len = (size_t)utf8_at(s, &cp);
    utf8proc_int32_t state = 0;
    while (len < n) {
        int more = utf8_at(s + len, &next);
        if (cp < 128 && next < 128 && !(cp == '\r' && next == '\n')) break;
        if (breaks(cp, next, &state)) break;
        len += (size_t)more;
        cp = next;
    }
    return len;
}

err charsmap_apply(const struct charsmap *map, const char *text, size_t n, str *out) {
    enum { CLUSTER_BYTES = 6 };
    for (size_t i = 0; i < n;) {
        size_t len = cluster(text + i, n - i), m;
        const char *other = len < CLUSTER_BYTES ? lookup(map, text + i, len, &m) : NULL;
        if (other) str_add(out, other, m);
        for (size_t k = 0, part; !other && k < len; k += part) {
            part = (size_t)utf8_len(text + i + k);
            const char *one = lookup(map, text + i + k, part, &m);
            if (one) str_add(out, one, m);
            else str_add(out, text + i + k, part);
        }
        i += len;
    }
    return out->failed ? fail(E_MEMORY, "out of memory") : OK;
}

static bool is_utf8(const char *s, size_t n) {
    unsigned cp;
    for (size_t i = 0, len; i < n; i += len)
        if ((len = (size_t)utf8_decode(s + i, n - i, &cp)) == 0) return false;
    return true;
}

err norm_add_charsmap(struct normaliser *z, arena *mem, const char *where, const uint8_t *bytes, size_t n) {
    uint32_t trie = 0;
    if (n >= 4) trie = bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
    if (n < 8 || trie < 4 || trie % 4 || trie > n - 4)
        return fail(E_INPUT, "%s: the precompiled charsmap of %zu bytes is damaged (a trie of %u bytes)", where, n,
                    trie);
    struct norm_step step = {.kind = NORM_CHARSMAP};
    uint32_t *unit = arena_alloc(mem, trie);
    step.map.n_units = trie / 4;
    step.map.n_text = n - 4 - trie;
    step.map.text = arena_strn(mem, (const char *)bytes + 4 + trie, step.map.n_text);
    if (!unit || !step.map.text) return fail(E_MEMORY, "%s: out of memory", where);
    for (size_t i = 0; i < step.map.n_units; i++) {
        const uint8_t *b = bytes + 4 + 4 * i;
        unit[i] = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    }
    step.map.unit = unit;
    if (!is_utf8(step.map.text, step.map.n_text))
        return fail(E_INPUT, "%s: the precompiled charsmap replaces by bytes that are not UTF-8", where);
    return norm_add(z, where, step);
}
