/* Fuzz target for io/yaml.c and io/jinja_fields.c, as a task brings them together (data/task.h): the bytes are YAML; its doc_to_text is a template over
 * the fields of its own mapping. tests/io/test_fuzz_corpus.c replays the corpus.
 *
 * Beside not crashing: a refusal names the file, what is read is JSON that can be written, and an output keeps its bound. */
#include "io/jinja.h"
#include "io/yaml.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct jinja_limits limits = {.steps = 200000, .output = 1 << 16, .memory = 8 << 20, .depth = 120};
    struct jinja_text out = {0};
    json_t *y;
    jinja *t;
    if (yaml_parse("fuzz", data, size, &y)) {
        if (y || strncmp(err_text(), "fuzz", 4) != 0) abort();
        return 0;
    }
    char *dump = json_dumps(y, JSON_ENCODE_ANY);
    if (!dump) abort();
    free(dump);
    const char *text = json_string_value(json_object_get(y, "doc_to_text"));
    if (text && !jinja_parse_plain("fuzz", text, strlen(text), &t)) {
        if (!jinja_render(t, &(struct jinja_context){.fields = y, .limits = &limits}, &out) && out.text.n > limits.output) abort();
        jinja_free(t);
    }
    jinja_text_free(&out);
    json_decref(y);
    return 0;
}
