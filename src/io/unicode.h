/* Sets of characters as the `tokenizers` library has them, and UTF-8 that is known to be valid. Private to src/io.
 *
 * The library's steps take their sets from several crates with several versions of Unicode; ids must equal, so the
 * sets were found by giving each step every character (tests/golden/make/tokenizer_families.py --sets). They do not
 * depend on the installed utf8proc or PCRE2. What must be evened out where those two are used is here as well
 * (unicode_ages.def, by tokenizer.py --ages). */
#ifndef CYC_IO_UNICODE_H
#define CYC_IO_UNICODE_H
#include <stdbool.h>
#include <stdint.h>

enum char_set {
    CHARS_SPACE,      /* Unicode's White_Space */
    CHARS_WORD,       /* \w of Rust's regexes */
    CHARS_MARK,       /* combining marks: what StripAccents removes */
    CHARS_NONSPACING, /* what BertNormalizer's strip_accents removes */
    CHARS_PUNCT,
    CHARS_NUMERIC,
    CHARS_CONTROL, /* what BertNormalizer's clean_text removes, beside U+0000 and U+FFFD */
    CHARS_EXTEND,  /* what goes on a grapheme cluster */
    N_CHAR_SETS
};

extern const uint8_t chars_ascii[128];               /* bit 1 << set */
bool chars_has_wide(enum char_set set, uint32_t cp); /* cp >= 128 */
static inline bool chars_has(enum char_set set, uint32_t cp) {
    return cp < 128 ? chars_ascii[cp] >> set & 1 : chars_has_wide(set, cp);
}
/* The lower case of one character. U+0130 alone becomes two: 'i' is returned and U+0307 has to follow. */
uint32_t chars_lower(uint32_t cp);

/* For PCRE2's older Unicode: a character that it knows, of the same category and length; 0 when cp needs none. */
uint32_t chars_stand_in(uint32_t cp);
/* True for characters that only a newer normaliser than the library's changes: they are copied. */
bool chars_unnormalised(uint32_t cp);

/* The code point at s of text known to be valid, and its length. */
static inline int utf8_at(const char *s, uint32_t *cp) {
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return *cp = u[0], 1;
    if (u[0] < 0xE0) return *cp = (u[0] & 0x1Fu) << 6 | (u[1] & 0x3Fu), 2;
    if (u[0] < 0xF0) return *cp = (u[0] & 0xFu) << 12 | (u[1] & 0x3Fu) << 6 | (u[2] & 0x3Fu), 3;
    return *cp = (u[0] & 7u) << 18 | (u[1] & 0x3Fu) << 12 | (u[2] & 0x3Fu) << 6 | (u[3] & 0x3Fu), 4;
}
static inline int utf8_len(const char *s) {
    unsigned char c = (unsigned char)*s;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

#endif
