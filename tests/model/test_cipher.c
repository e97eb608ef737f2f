/* The cipher task (tests/golden/cipher/README.md): a tiny base that knows two toy languages over disjoint alphabets, twenty
 * warm pairs that never show five of the letters, unpaired text of both. The cycles find the true bijection (held-out exact
 * match of at least 95 % both ways); the same pairs trained on alone do not; copying scores 0. Through the public API. */
#define _DEFAULT_SOURCE
#include "support/support.h"
#include "cyclora/cyclora.h"
#include <jansson.h>
#include "base/file.h"

#define DATA GOLDEN "/cipher/"
static char root[64];

static void on_eval(void *ctx, const char *json) {
    json_t **last = ctx;
    json_decref(*last);
    *last = json_loads(json, 0, NULL);
}

static void set(cyc_config *c, const char *assignment) {
    if (cyc_config_set(c, assignment)) flunk("%s: %s", assignment, cyc_error());
}

/* Trains with the given settings and returns the last evaluation (of the test pairs). */
static json_t *train(const char *name, const char *const *settings) {
    static const char *const common[] = {"model=" DATA, "A.data=" DATA "a.jsonl", "B.data=" DATA "b.jsonl", "test.data=" DATA "test.jsonl", "A.prompt={text}\n", "B.prompt={text}\n",
                                         "learning_rate=2e-3", "per_device_train_batch_size=32", "max_new_tokens=12", "max_length=64", "shuffle=false", "generation_batch=64", "seed=1", NULL};
    cyc_config *c = cyc_config_new();
    char out[128];
    json_t *eval = NULL;
    for (int i = 0; common[i]; i++) set(c, common[i]);
    for (int i = 0; settings[i]; i++) set(c, settings[i]);
    snprintf(out, sizeof out, "output_dir=%s/%s", root, name);
    set(c, out);
    if (cyc_train(c, 0, &(cyc_callbacks){.ctx = &eval, .on_eval = on_eval}, NULL)) flunk("%s: %s", name, cyc_error());
    cyc_config_free(c);
    return eval;
}

static double side(const json_t *eval, int i, const char *key) { return json_number_value(json_object_get(json_array_get(json_object_get(eval, "sides"), (size_t)i), key)); }

static double copy_exact(const json_t *eval, int i) {
    return json_number_value(json_object_get(json_object_get(json_array_get(json_object_get(eval, "sides"), (size_t)i), "copy"), "exact"));
}

static void test_cipher(void **state) {
    (void)state;
    snprintf(root, sizeof root, "%s", "/tmp/cyclora-cipher-XXXXXX");
    assert_non_null(mkdtemp(root));
    json_t *warm = train("warm", (const char *const[]){"warmup_pairs.data=" DATA "warm.jsonl", "warmup_pairs.epochs=80", "max_steps=0", NULL});
    json_t *control = train("control", (const char *const[]){"warmup_pairs.data=" DATA "warm.jsonl", "warmup_pairs.epochs=300", "max_steps=0", NULL});
    char a[128], b[128];
    snprintf(a, sizeof a, "A.adapter=%s/warm/A", root);
    snprintf(b, sizeof b, "B.adapter=%s/warm/B", root);
    json_t *cycles = train("cycles", (const char *const[]){a, b, "max_steps=120", NULL});
    for (int i = 0; i < 2; i++) {
        print_message("%s exact match: copying %.1f %%, warm start %.1f %%, control %.1f %%, cycles %.1f %%\n", i ? "B to A" : "A to B", copy_exact(cycles, i), side(warm, i, "exact"),
                      side(control, i, "exact"), side(cycles, i, "exact"));
        assert_true(copy_exact(cycles, i) == 0);
        assert_true(side(cycles, i, "exact") >= 95);
        assert_true(side(control, i, "exact") < 50);
    }
    json_decref(warm);
    json_decref(control);
    json_decref(cycles);
    must(dir_remove(root));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cipher)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
