/* Objective text, as its user meets it: a document goes on in the next row and is learnt whole, what is measured is what `cyclora eval --text` says, streamed
 * and resumed runs are the same run, text far from the base is warned of, and what is refused. On tests/golden/cipher. */
#define _GNU_SOURCE
#include "support/shell.h"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("printf 'model: %%s\nobjective: text\noutput_dir: %%s/run\ndata: %%s/a.jsonl\neval: {data: %%s/held.txt}\nmax_length: 6\nmax_steps: 6\n"
       "per_device_train_batch_size: 4\nlearning_rate: 1e-2\nlora: {r: 2, lora_dropout: 0.1, target_modules: attention}\n' $G $D $G $D > $D/run.yaml; "
       "printf 'ahcmnlajgr\\n' > $D/held.txt; printf '{\"text\": \"qqtbaah\"}\\n{\"text\": \"zzabtsslfelsetaa\"}\\n' > $D/old.jsonl");
    return 0;
}

static json_t *printed(void) {
    json_t *j = json_loads(ran.out.p, 0, NULL);
    if (!j) flunk("no JSON: %s", ran.out.p);
    return j;
}

static double number(const json_t *j, const char *key) {
    const json_t *v = json_object_get(j, key);
    if (!json_is_number(v)) flunk("no %s", key);
    return json_number_value(v);
}

/* One row or several, the same tokens are measured; in one row they are those of eval --text. */
static void test_measured(void **state) {
    (void)state;
    double mean = 0;
    ok("printf ahcmnlajgr > $D/one.txt; $C eval --model $G --text $D/one.txt --json");
    json_t *j = printed();
    mean = number(j, "mean");
    const double n = number(j, "tokens");
    json_decref(j);
    ok("$C eval $D/run.yaml --json --set max_length=32");
    j = printed();
    const json_t *side = json_array_get(json_object_get(j, "sides"), 0);
    assert_true(fabs(number(side, "loss") - mean) < 1e-6 * mean);
    assert_true(fabs(number(side, "bits_per_byte") - mean / log(2) * (n + 1) / 10) < 1e-6);
    assert_int_equal(number(side, "rows"), 1);
    json_decref(j);
    ok("$C eval $D/run.yaml --json");
    j = printed();
    assert_int_equal(number(json_array_get(json_object_get(j, "sides"), 0), "rows"), 2);
    json_decref(j);
}

/* Rows that go on: streamed or not, stopped or not, with whole files as documents too. */
static void test_run(void **state) {
    (void)state;
    ok("$C train $D/run.yaml --quiet --set eval_steps=3 && $C train $D/run.yaml --quiet --set streaming=true --set output_dir=$D/streamed && "
       "cmp $D/run/adapter/adapter_model.safetensors $D/streamed/adapter/adapter_model.safetensors");
    says(ran.err.p, "the held-out text costs the base ");
    json_t *j = json_of("run/report.json");
    const json_t *evals = json_object_get(j, "evals"), *first = json_array_get(json_object_get(json_array_get(evals, 0), "sides"), 0);
    assert_true(json_is_true(json_object_get(first, "far")));
    json_decref(j);
    ok("grep -q 'eval_bits_per_byte' $D/run/metrics.jsonl && grep -q 'Bits per byte' $D/run/report.html");
    ok("$C train $D/run.yaml --quiet --set max_steps=3 --set output_dir=$D/half --set save_steps=3 && $C train $D/run.yaml --quiet --resume --set output_dir=$D/half && "
       "cmp $D/run/adapter/adapter_model.safetensors $D/half/adapter/adapter_model.safetensors");
    ok("$C train $D/run.yaml --quiet --set format=document --set data=$D/one.txt --set max_steps=10 --set text.far_bits_per_byte=0 --set output_dir=$D/whole");
    assert_null(strstr(ran.err.p, "costs the base"));
    j = json_of("whole/report.json");
    const json_t *plan = json_object_get(j, "plan");
    evals = json_object_get(j, "evals");
    assert_true(number(json_array_get(json_object_get(json_array_get(evals, 1), "sides"), 0), "perplexity") <
                0.7 * number(json_array_get(json_object_get(json_array_get(evals, 0), "sides"), 0), "perplexity"));
    assert_int_equal(number(json_array_get(json_object_get(plan, "sides"), 0), "rows"), 2); /* 10 letters and an end: 6 of them, and the last of these with 5 more */
    json_decref(j);
}

static void test_refused(void **state) {
    (void)state;
    refused("$C train $D/run.yaml --set data=", "'data' is missing: text trains on a file of raw text");
    refused("$C train $D/run.yaml --set method=none", "'method' none trains nothing but a classifier's head");
    refused("$C train $D/run.yaml --set labels=[a,b]", "'labels' has no use with objective text");
    refused("$C train $D/run.yaml --set max_length=1", "'max_length' wants an integer >= 2");
    refused("printf '\\n\\n' > $D/no.txt; $C train $D/run.yaml --set data=$D/no.txt --set output_dir=$D/x", "no.txt: holds no records");
    refused("printf 'a\\n' > $D/a.txt; $C train $D/run.yaml --set eval.data=$D/a.txt --set output_dir=$D/x", "a.txt: no text with two tokens");
    refused("$C train $D/run.yaml --set field=body --set output_dir=$D/x", "a.jsonl:1: no field \"body\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_measured), cmocka_unit_test(test_run), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
