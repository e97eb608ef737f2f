/* Normalisation and the splitting of text into words, the two steps before byte-pair merges. Private to src/io.
 *
 * A pre-tokeniser is a list of stages; each splits every piece that the stage before left. Patterns are oniguruma's
 * (what the `tokenizers` library runs) and are translated to PCRE2; where the two languages differ and translation is
 * not plain, adding the stage fails instead of splitting differently. Read-only once built: threads share it, each
 * with a pre_scratch of its own. */
#ifndef CYC_IO_PRETOKENIZER_H
#define CYC_IO_PRETOKENIZER_H
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/err.h"
#include "base/str.h"
#include <pcre2.h>
#include <stdint.h>

enum normal_form { NORMAL_NFC, NORMAL_NFD, NORMAL_NFKC, NORMAL_NFKD };
enum split_kind { SPLIT_ISOLATED, SPLIT_REMOVED, SPLIT_WITH_PREVIOUS, SPLIT_WITH_NEXT, SPLIT_CONTIGUOUS };

struct stage {
    pcre2_code *re; /* NULL: put a space before each piece that does not start with one */
    bool jit, literal, invert;
    enum split_kind kind;
};

enum { STAGES_MAX = 16, NORMAL_FORMS_MAX = 4 };

struct pretokenizer {
    struct stage stage[STAGES_MAX];
    int n_stages;
    enum normal_form form[NORMAL_FORMS_MAX];
    int n_forms;
};

struct piece {
    uint32_t start, end;
};
struct pieces {
    struct piece *v;
    size_t n, cap;
};
struct pre_scratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    struct pieces now, next;
    str text; /* the text with prefix spaces put in */
    str view; /* the text as the regexes see it */
};

/* The `tokenizers` library's ByteLevel pattern, and what its Digits stage takes for a digit: that stage asks Rust's
 * char::is_numeric, whose Unicode is one version ahead of the regex engine's. */
#define PATTERN_BYTE_LEVEL "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PATTERN_DIGIT      "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]"

/* `where` is put before messages. A literal pattern is text to find, not a regex. */
err pre_add_split(struct pretokenizer *p, const char *where, const char *pattern, size_t n, bool literal,
                  enum split_kind kind, bool invert);
err pre_add_prefix_space(struct pretokenizer *p, const char *where);
err pre_add_form(struct pretokenizer *p, const char *where, enum normal_form form);
void pre_free(struct pretokenizer *p);

err pre_scratch_init(struct pre_scratch *s);
void pre_scratch_free(struct pre_scratch *s);

/* Sets *out to the normalised text: `text` itself where nothing changes, otherwise the bytes of `buf`. */
err pre_normalise(const struct pretokenizer *p, const char *text, size_t n, str *buf, const char **out, size_t *out_n);
/* Splits n bytes of valid UTF-8 (less than 2 GiB). The pieces are s->now; they index *out. */
err pre_split(const struct pretokenizer *p, struct pre_scratch *s, const char *text, size_t n, const char **out);

#endif
