/* Fuzz target for the chat template interpreter: the bytes are a template, rendered over a fixed conversation under tight
 * bounds. tests/io/test_fuzz_jinja.c replays the corpus; tests/golden/chat holds real templates as further seeds.
 *
 * Beside not crashing: a refusal names its place, an output keeps its bound, and every tag is a message's. */
#include "io/jinja.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must_hold(int truth) {
    if (!truth) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct chat_message talk[] = {{"system", "Be brief."},
                                               {"user", " \xC3\xBC\xE6\x97\xA5 {{ x }} "},
                                               {"assistant", "<think>\na\n</think>\n\nb"},
                                               {"user", ""},
                                               {"assistant", "42"}};
    static const struct jinja_limits limits = {.steps = 200000, .output = 1 << 16, .memory = 8 << 20, .depth = 120};
    static const struct tm now = {.tm_year = 125, .tm_mon = 2, .tm_mday = 5, .tm_wday = 3, .tm_yday = 63};
    struct jinja_text out = {0};
    jinja *t;
    if (jinja_parse("fuzz", (const char *)data, size, &t)) {
        must_hold(!strncmp(err_text(), "fuzz:", 5));
        return 0;
    }
    for (size_t n = 0; n <= 5; n += 1 + 3 * (n > 0)) {
        const struct jinja_context c = {.message = talk,
                                        .n = n,
                                        .bos = "<s>",
                                        .eos = n ? "</s>" : NULL,
                                        .add_generation_prompt = n == 1,
                                        .now = &now,
                                        .limits = &limits};
        if (jinja_render(t, &c, &out)) {
            must_hold(!strncmp(err_text(), "fuzz:", 5));
            continue;
        }
        must_hold(out.text.n <= limits.output);
        for (size_t i = 0; i < out.text.n; i++) {
            must_hold((out.tag[i] & ~JINJA_GENERATION) <= n);
            must_hold(!(out.tag[i] & JINJA_GENERATION) || jinja_has_generation(t));
        }
    }
    jinja_text_free(&out);
    jinja_free(t);
    return 0;
}
