/* The `tokenizers` library's patterns: regexes in oniguruma's language, or plain text to find. Private to src/io.
 *
 * They run on PCRE2, translated; where the two languages differ and translation is not plain, compiling fails instead
 * of matching differently. A compiled pattern is read-only: threads share it, each with a matcher of its own. */
#ifndef CYC_IO_PATTERN_H
#define CYC_IO_PATTERN_H
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/err.h"
#include "base/str.h"
#include <pcre2.h>
#include <stdint.h>

struct pattern {
    pcre2_code *re; /* NULL: not in use */
    bool jit, literal;
};
struct matcher {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    str view; /* a text as the regexes see it */
};
/* A walk over the matches in n bytes of valid UTF-8. Begin with at = 0, last = SIZE_MAX. */
struct finder {
    const struct pattern *p;
    struct matcher *m;
    const char *text;
    size_t n, at, last;
};

/* `where` is put before messages. */
err pattern_compile(const char *where, const char *pattern, size_t n, bool literal, struct pattern *p);
void pattern_free(struct pattern *p);
err matcher_init(struct matcher *m);
void matcher_free(struct matcher *m);
/* Sets *view to the text with stand-ins for characters that PCRE2 does not know: to `text` itself when it has none.
 * Regexes are matched against the view, literals against the text; offsets are the same. */
err matcher_view(struct matcher *m, const char *text, size_t n, const char **view);
/* The next match. An empty one right behind another does not count, as in oniguruma's iterator. */
err finder_next(struct finder *f, bool *found, size_t *start, size_t *end);

#endif
