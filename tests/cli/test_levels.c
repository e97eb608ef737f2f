/* gradient_checkpointing as its users meet it: what `auto` chooses is no more than the limit asks for (the same by the keys takes what the plan
 * says, with one block less it would not fit), it is printed and recorded, and a run that recomputes writes the bytes of one that does not; and
 * every setting that makes no sense is refused in one line. Plans are of the 135M shape (30 blocks) without weights. */
#define _GNU_SOURCE
#include "support/shell.h"

#define SHAPE "--set model=random:1 --set model_config=bench/shapes/135m.json --set tokenizer=$G/tokenizer.json --set pass_tokens=256 "

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("for i in 1 2 3 4 5 6; do printf '{\"prompt\": \"slf\", \"completion\": \"fls\"}\n{\"prompt\": \"les\", \"completion\": "
       "\"sel\"}\n'; done > $D/rows.jsonl");
    ok("printf 'model: tests/golden/cipher\nobjective: sft\noutput_dir: %%s/out\ndata: %%s/rows.jsonl\nmax_steps: 3\nlora:\n  r: 4\n  "
       "target_modules: all-linear\n  lora_dropout: 0.1\n' $D $D > $D/run.yaml");
    return 0;
}

static json_t *planned(const char *sets) {
    ok("$C plan $D/run.yaml --json %s 2>/dev/null", sets);
    json_t *j = json_loads(ran.out.p, JSON_DISABLE_EOF_CHECK, NULL);
    assert_non_null(j);
    return j;
}

static long long total_of(const char *sets) {
    json_t *j = planned(sets);
    const long long n = (long long)json_integer_value(json_object_get(j, "total"));
    json_decref(j);
    return n;
}

static long long of(const json_t *plan, const char *key) {
    return (long long)json_integer_value(json_object_get(json_object_get(plan, "checkpointing"), key));
}
static const char *text_of(const json_t *plan, const char *key) {
    return json_string_value(json_object_get(json_object_get(plan, "checkpointing"), key));
}

static json_t *automatic(long long limit) {
    char sets[512];
    snprintf(sets, sizeof sets, SHAPE "--set gradient_checkpointing=auto --set memory=%lldKB", limit / 1000);
    json_t *j = planned(sets);
    assert_true((long long)json_integer_value(json_object_get(j, "total")) <= limit / 1000 * 1000);
    assert_true(json_is_true(json_object_get(json_object_get(j, "checkpointing"), "auto")));
    return j;
}

/* What auto chose for a limit between two levels: some of the blocks, as few as will do. */
static void fewest(long long limit, const char *level, const char *rest) {
    json_t *j = automatic(limit);
    const long long k = of(j, "blocks");
    char sets[512];
    assert_string_equal(text_of(j, "level"), level);
    assert_string_equal(text_of(j, "rest"), rest);
    assert_true(k > 0 && k < 30);
    assert_int_equal(of(j, "of"), 30);
    for (int less = 0; less < 2 && k - less > 0; less++) {
        snprintf(sets, sizeof sets, SHAPE "--set gradient_checkpointing=%s --set gradient_checkpointing_blocks=%lld", level, k - less);
        const long long n = total_of(sets);
        if (less) assert_true(n > limit / 1000 * 1000);
        else assert_int_equal(n, json_integer_value(json_object_get(j, "total")));
    }
    json_decref(j);
}

/* A refused budget and --solve come to what auto does: one ladder. Passes are of one token, so that they cannot be the change. */
static void names_the_same(long long limit, long long every) {
    char line[512], word[64];
    snprintf(line, sizeof line, "$C plan $D/run.yaml " SHAPE "--memory-budget %lldKB --solve checkpointing 2>/dev/null", limit / 1000);
    ok("%s", line);
    snprintf(word, sizeof word, "block:%lld", every);
    says(ran.out.p, word);
    const long long row = total_of(SHAPE "--set pass_tokens=1 --set gradient_checkpointing=block:2") / 1000 + 1;
    snprintf(line, sizeof line, "$C plan $D/run.yaml " SHAPE "--set pass_tokens=1 --set gradient_checkpointing=block --set memory=%lldKB",
             row);
    refused(line, "with gradient_checkpointing: block:2");
}

static void test_auto(void **state) {
    (void)state;
    const long long none = total_of(SHAPE "--set gradient_checkpointing=none"),
                    selective = total_of(SHAPE "--set gradient_checkpointing=selective"),
                    block = total_of(SHAPE "--set gradient_checkpointing=block"),
                    five = total_of(SHAPE "--set gradient_checkpointing=block:5");
    assert_true(none > selective && selective > block && block > five);
    json_t *j = automatic(none + 1000);
    assert_string_equal(text_of(j, "level"), "none");
    assert_string_equal(text_of(j, "text"), "recomputes nothing (auto)");
    json_decref(j);
    fewest((none + selective) / 2, "selective", "none");
    fewest((selective + block) / 2, "block", "selective");
    j = automatic((block + five) / 2);
    assert_string_equal(text_of(j, "level"), "block");
    const long long every = of(j, "every");
    assert_true(every > 1 && every <= 5 && of(j, "blocks") == 30);
    json_decref(j);
    names_the_same((block + five) / 2, every);
}

/* Smaller passes come before recomputation, and no smaller than they need be. */
static void test_passes_first(void **state) {
    (void)state;
    char sets[512];
    const long long at = total_of(SHAPE "--set pass_tokens=1024 --set gradient_checkpointing=none");
    snprintf(sets, sizeof sets, SHAPE "--set pass_tokens=4096 --set gradient_checkpointing=auto --set memory=%lldKB", at / 1000 + 1);
    json_t *j = planned(sets);
    assert_int_equal(json_integer_value(json_object_get(j, "pass_tokens")), 1024);
    assert_string_equal(text_of(j, "level"), "none");
    json_decref(j);
}

static void test_printed_and_recorded(void **state) {
    (void)state;
    ok("$C plan $D/run.yaml " SHAPE "--set gradient_checkpointing=block:3 2>/dev/null");
    says(ran.out.p, "recomputes whole blocks, with one checkpoint for 3 blocks");
    ok("$C plan $D/run.yaml " SHAPE "--set gradient_checkpointing=block --set gradient_checkpointing_blocks=12 2>/dev/null");
    says(ran.out.p, "recomputes whole blocks in the first 12 of 30 blocks, norms and activations in the others");
    ok("$C plan $D/run.yaml --device cpu --set gradient_checkpointing=unsloth 2>/dev/null");
    says(ran.out.p, "nothing to offload: here activations are on the host");
    char sets[256];
    snprintf(sets, sizeof sets, "--set gradient_checkpointing=auto --set memory=%lldKB",
             total_of("--set gradient_checkpointing=selective") / 1000 + 1);
    ok("$C train $D/run.yaml --quiet --set output_dir=$D/kept --set gradient_checkpointing=none && $C train $D/run.yaml --quiet %s", sets);
    ok("cmp $D/kept/adapter/adapter_model.safetensors $D/out/adapter/adapter_model.safetensors");
    json_t *report = json_of("out/report.json");
    const json_t *plan = json_object_get(report, "plan");
    assert_string_equal(text_of(plan, "level"), "selective");
    assert_true(json_is_true(json_object_get(json_object_get(plan, "checkpointing"), "auto")));
    json_decref(report);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *sets, *says;
    } list[] = {
        {"--set gradient_checkpointing=blocks", "did you mean 'block'?"},
        {"--set gradient_checkpointing=block:", "gradient_checkpointing"},
        {"--set gradient_checkpointing=block:x", "gradient_checkpointing"},
        {"--set gradient_checkpointing=block:0", "gradient_checkpointing: block:0: one checkpoint for how many blocks?"},
        {"--set gradient_checkpointing=block:4", "one checkpoint for 4 blocks, and this model has 3 blocks"},
        {"--set gradient_checkpointing_blocks=-1", "gradient_checkpointing_blocks"},
        {"--set gradient_checkpointing_blocks=4", "gradient_checkpointing_blocks is 4, and this model has 3 blocks"},
        {"--set gradient_checkpointing_blocks=2 --set gradient_checkpointing=none", "recomputes nothing"},
        {"--set gradient_checkpointing_blocks=2 --set gradient_checkpointing=auto", "chooses their number itself"},
        {"--set gradient_checkpointing_rest=block", "none, selective"},
        {"--set gradient_checkpointing=auto --set memory=1MB", "the limit is 1.0 MB"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char line[512];
        snprintf(line, sizeof line, "$C plan $D/run.yaml %s", list[i].sets);
        refused(line, list[i].says);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_auto), cmocka_unit_test(test_passes_first),
                                       cmocka_unit_test(test_printed_and_recorded), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
