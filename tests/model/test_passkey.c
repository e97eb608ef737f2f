/* A key in a text twice and four times as long as any that the model was trained on (tools/passkey.sh in short; docs/experiments.md). The base,
 * tests/golden/passkey, was trained by that script on texts of up to 32 tokens. It finds every key there, hardly one at 64 and none at 128; 20
 * steps on longer texts are enough for both with YaRN, and are not where positions run on as they are. The outcome is held far from where it lies. */
#define _GNU_SOURCE
#include "support/folder.h"
#include "support/shell.h"
#include "base/file.h"
#include "base/philox.h"
#include <stdlib.h>

enum { SHORT = 32, TWICE = 2 * SHORT, LONG = 4 * SHORT, KEY = 4, TESTS = 40, STEPS = 20, BATCH = 32 };

static uint32_t below(uint32_t n, uint32_t row, uint32_t i, uint32_t what) { return philox(31, row, i, what, 0).v[0] % n; }

/* A text of so many tokens, its answer and the end among them: letters a-t with ":" and four capitals in it, and ":" behind. */
static void write_row(FILE *f, uint32_t row, int tokens) {
    const int fill = tokens - 2 * KEY - 3, at_ = (int)below((uint32_t)fill + 1, row, 0, 1);
    char key[KEY + 1] = "", letters[] = "ABCDEFGHIJKLMNOPQRST";
    for (int k = 0; k < KEY; k++) { /* no letter twice */
        const uint32_t j = below(20 - (uint32_t)k, row, (uint32_t)k, 2);
        key[k] = letters[j];
        letters[j] = letters[19 - k];
    }
    fputs("{\"prompt\": \"", f);
    for (int i = 0; i <= fill; i++) {
        if (i == at_) fprintf(f, ":%s", key);
        if (i < fill) fputc('a' + (int)below(20, row, (uint32_t)i, 3), f);
    }
    fprintf(f, ":\", \"completion\": \"%s\"}\n", key);
}

static void write_rows(const char *name, uint32_t first, int n, int shortest, int longest) {
    FILE *f = fopen(at(name), "w");
    if (!f) flunk("%s", name);
    for (uint32_t r = first; r < first + (uint32_t)n; r++)
        write_row(f, r, shortest + (int)below((uint32_t)(longest - shortest + 1), r, 0, 4));
    fclose(f);
}

/* The next line's `key`, or NULL at the end. */
static json_t *field(FILE *f, const char *key) {
    static char line[4096];
    json_t *j = fgets(line, sizeof line, f) ? json_loads(line, 0, NULL) : NULL, *v = json_incref(json_object_get(j, key));
    json_decref(j);
    return v;
}

static double found(const char *model, const char *texts) {
    ok("$C generate %s --file $O/%s --json --batch 40 --max-new-tokens 5 > $O/said.jsonl", model, texts);
    FILE *said = fopen(at("said.jsonl"), "r"), *asked = fopen(at(texts), "r");
    int right = 0, n = 0;
    for (json_t *want; (want = field(asked, "completion")); n++) {
        json_t *have = field(said, "text");
        right += json_equal(want, have);
        json_decref(want);
        json_decref(have);
    }
    fclose(said);
    fclose(asked);
    assert_int_equal(n, TESTS);
    print_message("%-70s %5.1f %% of the keys in %s\n", model, 100.0 * right / n, texts);
    return (double)right / n;
}

#define BASE GOLDEN "/passkey"
/* Trained so many steps with such positions: what is found at twice and (returned) four times the length. */
static double tuned(const char *type, int steps, const char *rate, double *twice) {
    char adapter[256];
    ok("$C train $O/run.yaml --overwrite --set output_dir=$O/run --set rope_scaling.rope_type=%s --set max_steps=%d --set learning_rate=%s",
       type, steps, rate);
    snprintf(adapter, sizeof adapter, "--model %s --adapter $O/run/adapter", BASE);
    *twice = found(adapter, "twice.jsonl");
    return found(adapter, "long.jsonl");
}

static void test_passkey(void **state) {
    (void)state;
    char yaml[1024];
    double twice;
    write_rows("short.jsonl", 100000, TESTS, SHORT, SHORT);
    write_rows("twice.jsonl", 300000, TESTS, TWICE, TWICE);
    write_rows("long.jsonl", 200000, TESTS, LONG, LONG);
    write_rows("tune.jsonl", 0, STEPS * BATCH, SHORT / 2, LONG);
    snprintf(
        yaml, sizeof yaml,
        "model: %s\nobjective: sft\nmethod: full\ndata: %s\nlr_scheduler_type: linear\nadam_beta2: 0.98\nper_device_train_batch_size: %d\n"
        "max_length: %d\nmax_new_tokens: 5\ngradient_checkpointing: none\npass_tokens: 1024\n",
        BASE, at("tune.jsonl"), BATCH, LONG);
    must(file_write(at("run.yaml"), yaml, strlen(yaml)));
    assert_true(found("--model " BASE, "short.jsonl") > 0.95);
    assert_true(tuned("default", 1, "1e-12", &twice) < 0.1 && twice < 0.2);
    assert_true(tuned("default", STEPS, "5e-4", &twice) < 0.4 && twice < 0.8);
    assert_true(tuned("yarn --set rope_scaling.factor=4", STEPS, "5e-4", &twice) > 0.8 && twice > 0.9);
}

static int begin(void **state) { return own_folder_make(state) || shell_begin(state) || setenv("O", own_folder(), 1); }
static int end(void **state) { return own_folder_remove(state) || shell_end(state); }

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_passkey)};
    return cmocka_run_group_tests(tests, begin, end);
}
