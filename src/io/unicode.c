/* Sets of characters by binary search in ranges. See unicode.h; unicode_sets.def and unicode_ages.def are made by
 * scripts. */
#include "io/unicode.h"
#include <stddef.h>

struct range {
    uint32_t first, last;
};
#define ROW(a, b) {a, b},
#define SPACE     ROW
static const struct range space[] = {
#include "io/unicode_sets.def"
};
#define WORD ROW
static const struct range word[] = {
#include "io/unicode_sets.def"
};
#define MARK ROW
static const struct range mark[] = {
#include "io/unicode_sets.def"
};
#define NONSPACING ROW
static const struct range nonspacing[] = {
#include "io/unicode_sets.def"
};
#define PUNCT ROW
static const struct range punct[] = {
#include "io/unicode_sets.def"
};
#define NUMERIC ROW
static const struct range numeric[] = {
#include "io/unicode_sets.def"
};
#define CONTROL ROW
static const struct range control[] = {
#include "io/unicode_sets.def"
};
#define EXTEND ROW
static const struct range extend[] = {
#include "io/unicode_sets.def"
};
#define LOWER(first, last, stride, delta) {first, last, stride, delta},
static const struct lower_range {
    uint32_t first, last, stride;
    int32_t delta;
} lower[] = {
#include "io/unicode_sets.def"
};
#define ASCII(...) __VA_ARGS__,
const uint8_t chars_ascii[128] = {
#include "io/unicode_sets.def"
};

#define SET(s)                                                                                                         \
    { s, sizeof s / sizeof *s }
static const struct {
    const struct range *v;
    size_t n;
} sets[N_CHAR_SETS] = {
    [CHARS_SPACE] = SET(space),           [CHARS_WORD] = SET(word),     [CHARS_MARK] = SET(mark),
    [CHARS_NONSPACING] = SET(nonspacing), [CHARS_PUNCT] = SET(punct),   [CHARS_NUMERIC] = SET(numeric),
    [CHARS_CONTROL] = SET(control),       [CHARS_EXTEND] = SET(extend),
};

bool chars_has_wide(enum char_set set, uint32_t cp) {
    const struct range *v = sets[set].v;
    size_t lo = 0, hi = sets[set].n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > v[mid].last) lo = mid + 1;
        else hi = mid;
    }
    return lo < sets[set].n && cp >= v[lo].first;
}

struct age_range {
    uint32_t first, last, stand_in;
};
static const struct age_range newer_chars[] = {
#define NEWER(first, last, stand_in) {first, last, stand_in},
#include "io/unicode_ages.def"
};
static const struct age_range unnormalised_chars[] = {
#define UNNORMALISED(first, last) {first, last, 0},
#include "io/unicode_ages.def"
};

static const struct age_range *age_find(const struct age_range *table, size_t n, uint32_t cp) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > table[mid].last) lo = mid + 1;
        else hi = mid;
    }
    return lo < n && cp >= table[lo].first ? &table[lo] : NULL;
}

uint32_t chars_stand_in(uint32_t cp) {
    const struct age_range *r = age_find(newer_chars, sizeof newer_chars / sizeof *newer_chars, cp);
    return r ? r->stand_in : 0;
}

bool chars_unnormalised(uint32_t cp) {
    return cp >= 0x300 && age_find(unnormalised_chars, sizeof unnormalised_chars / sizeof *unnormalised_chars, cp);
}

uint32_t chars_lower(uint32_t cp) {
    if (cp < 128) return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    if (cp == 0x130) return 'i';
    size_t n = sizeof lower / sizeof *lower, lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > lower[mid].last) lo = mid + 1;
        else hi = mid;
    }
    if (lo == n || cp < lower[lo].first || (cp - lower[lo].first) % lower[lo].stride) return cp;
    return (uint32_t)((int32_t)cp + lower[lo].delta);
}
