/* A growing byte string, and the small string helpers that several rooms need.
 *
 * `str` owns its bytes; s.p is always terminated once anything was added; str_free() releases it. A failed
 * allocation sets `failed` and drops further additions, so that callers check once at the end. */
#ifndef CYC_BASE_STR_H
#define CYC_BASE_STR_H
#include <stdbool.h>
#include <stddef.h>

typedef struct str {
    char *p;
    size_t n, cap;
    bool failed;
} str;

void str_add(str *s, const char *bytes, size_t n);
void str_adds(str *s, const char *cstr);
void str_addc(str *s, char c);
void str_addf(str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void str_clear(str *s); /* keeps the memory */
void str_free(str *s);

/* Edit distance (Levenshtein), for "did you mean". */
int str_distance(const char *a, const char *b);
/* The entry of `names` (NULL-terminated) nearest to `name`, or NULL when none is near. */
const char *str_nearest(const char *name, const char *const *names);
bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);
bool bytes_are_blank(const char *p, size_t n); /* nothing but space, tabs and ends of lines and pages */

/* One code point of UTF-8 at s (n bytes there): returns its length 1-4 and stores it, or 0 when malformed
 * (overlong forms, surrogates and values above U+10FFFF are malformed). */
int utf8_decode(const char *s, size_t n, unsigned *cp);
/* Puts U+FFFD for what is no UTF-8 in s, one for each longest beginning of a character that breaks off and one for each
 * other byte, as Unicode recommends and Python's and Rust's decoders do. What a model writes may be such text. */
void utf8_repair(str *s);
/* Writes cp as UTF-8 to out (4 bytes of room), returns the length. */
int utf8_encode(unsigned cp, char *out);

#endif
