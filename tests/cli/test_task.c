/* `cyclora eval --task` as its users meet it: the table and its JSON, the usual fields found, an adapter's row, every refusal. The figures
 * are tests/model/test_shots.c's. */
#define _GNU_SOURCE
#include "support/shell.h"

#define S    "tests/golden/shots"
#define EVAL "$C eval --model " S " "

static void test_table(void **state) {
    (void)state;
    ok(EVAL "--task " S "/choice.yaml --shots 0..2 --compare " S "/lora");
    says(ran.out.p, "shots_choice  multiple_choice, 20 records");
    says(ran.out.p, S "/lora      0");
    ok(EVAL "--task " S "/choice.yaml --shots 2 --compare " S "/lora --json");
    json_t *j = json_loads(ran.out.p, 0, NULL), *rows = json_object_get(j, "rows"), *own = json_array_get(rows, 0),
           *other = json_array_get(rows, 1);
    assert_int_equal(json_array_size(rows), 2);
    assert_string_equal(json_string_value(json_object_get(own, "row")), "base");
    assert_string_equal(json_string_value(json_object_get(other, "row")), S "/lora");
    assert_true(json_number_value(json_object_get(own, "bytes")) > 1e5);
    assert_false(json_equal(json_object_get(own, "results"), json_object_get(other, "results")));
    json_decref(j);
}

/* Records alone: the usual fields, ARC's options, answers as texts and lists, templates from the command line. */
static void test_records(void **state) {
    (void)state;
    ok("printf '{\"query\": \"a?\", \"choices\": {\"text\": [\"x\", \"y\"], \"label\": [\"A\", \"B\"]}, \"gold\": \"y\"}\n{\"query\": "
       "\"b?\", \"choices\": {\"text\": [\"x\", \"y\"]}, \"gold\": 0}\n' > $D/t.jsonl && " EVAL "--task $D/t.jsonl --shots 1 --json");
    says(ran.out.p, "\"prompt\":\"b? x\\n\\na?\"");
    ok(EVAL
       "--task $D/t.jsonl --template 'Q{{query}}' --choices '{{[query ~ \"!\", \"no\"]}}' --target '{{0}}' --description 'D: ' --json");
    says(ran.out.p, "\"prompt\":\"D: Qa?\"");
    says(ran.out.p, "[\"a?!\",\"no\"]");
    ok("printf '[{\"question\": \"a\", \"answer\": [\"x\", \"y\"]},\n {\"question\": \"b\", \"answer\": 12}]\n' > $D/w.json && " EVAL
       "--task $D/w.json --max-new-tokens 3 --until . --until ! --json");
    says(ran.out.p, "\"answers\":[\"12\"]");
    ok(EVAL "--task $D/t.jsonl --choices '[\"x\", \"y\", \"z\"]' --limit 1 --json");
    says(ran.out.p, "\"options\":[\"x\",\"y\",\"z\"]");
}

/* A record, and what is said of it. */
static void bad(const char *record, const char *why) {
    sh("printf '%%s\n' '{\"question\": \"a\", \"choices\": [\"x\", \"y\"], \"answer\": 1}' '%s' > $D/bad.jsonl", record);
    refused_("$C eval --model " S " --task $D/bad.jsonl", why, NULL);
}

static void test_bad_records(void **state) {
    (void)state;
    bad("{\"question\": \"a\", \"choices\": [\"x\", \"y\"], \"answer\": 2}", "bad.jsonl:2: the answer is number 2 of 2 options");
    bad("{\"question\": \"a\", \"choices\": [\"x\", \"y\"], \"answer\": \"z\"}", "bad.jsonl:2: the answer 'z' is none of the 2 options");
    bad("{\"question\": \"a\", \"choices\": [\"x\", \"y\"], \"answer\": [0, 1]}", "bad.jsonl:2: several right options");
    bad("{\"question\": \"a\", \"choices\": [\"x\"], \"answer\": 0}", "bad.jsonl:2: 1 option: there is nothing to choose from");
    bad("{\"question\": \"a\", \"choices\": [\"x\", [1]], \"answer\": 0}", "bad.jsonl:2: doc_to_choice: number 1 is no text");
    bad("{\"query\": \"a\", \"choices\": [\"x\", \"y\"], \"answer\": 0}",
        "bad.jsonl:2: doc_to_text: there is no field 'question' (the record has: query, choices, answer)");
    bad("{\"question\": \"a\", \"choices\": [\"x\", \"y\"]}", "bad.jsonl:2: doc_to_target: there is no field 'answer'");
    bad("[1]", "bad.jsonl:2: a record is a JSON object");
    bad("{\"question\": ", "bad.jsonl:2: not valid JSON");
}

static void test_bad_asks(void **state) {
    (void)state;
    refused(EVAL "--task " S "/choice.jsonl --target answer --template '{{questoin}}'",
            "choice.jsonl:1: doc_to_text:1:1: there is no \"questoin\"");
    refused(EVAL "--task " S "/choice.jsonl --template quest", "choice.jsonl:1: doc_to_text: there is no field 'quest'", "{{field}}");
    refused(EVAL "--task " S "/choice.jsonl --shots 20",
            "choice.jsonl:1: 20 shots, but " S "/choice.jsonl has only 19 records beside this one");
    refused(EVAL "--task " S "/choice.yaml --shots 5", "has only 4 records");
    refused(EVAL "--task " S "/choice.jsonl --choices '[\"x\", \" \"]' --target '{{0}}'", "choice.jsonl:1: option number 1 is blank");
    /* "ab" is one token: behind "a" nothing is left of "b" */
    refused("printf 'target_delimiter: \"\"\ndoc_to_text: \"{{question}}a\"\ndoc_to_choice: [x, b]\ndoc_to_target: 0\ndataset_kwargs: "
            "{data_files: " S "/choice.jsonl}\n' > $D/o.yaml; " EVAL "--task $D/o.yaml",
            "choice.jsonl:1: the option 'b' is no token behind this prompt");
    refused("printf '' > $D/empty.jsonl; " EVAL "--task $D/empty.jsonl", "empty.jsonl");
    refused("printf '\n\n' > $D/blank.jsonl; " EVAL "--task $D/blank.jsonl", "blank.jsonl: no record in it");
    refused(EVAL "--task " S "/choice.jsonl --template '{{question * 80}}' --limit 2", "choice.jsonl:1: with 0 shots the prompt has",
            "more than the model's context of 1024; ask for fewer --shots");
    refused(EVAL "--task " S "/choice.yaml --shots 3..1", "--shots is a number");
    refused(EVAL "--task " S "/choice.yaml --draw some", "--draw must be");
    refused(EVAL "--shots 2", "--task");
    refused(EVAL "--task " S "/choice.yaml --text x", "give one");
    refused("$C eval run.yaml --task " S "/choice.yaml", "different evaluations");
    refused("$C eval --task " S "/choice.yaml", "--model");
    refused("cp tests/golden/families/t5/* $D/ 2>/dev/null; cp " S "/tokenizer*.json $D/; $C eval --model $D --task " S "/choice.yaml", "");
}

static void test_bad_yaml(void **state) {
    (void)state;
    static const char *const files[][2] = {
        {"filter_list: [a]", "'filter_list' is not read here"},
        {"process_docs: !function u.f", "the tag !function"},
        {"output_type: loglikelihood", "output_type loglikelihood"},
        {"dataset_path: cais/mmlu", "only local files"},
                                           {"metric_list: [{metric: exact_match, regexes_to_ignore: [a]}]", "no expressions"},
                                           {"fewshot_config: {doc_to_text: a}", "fewshot_config has only"},
        {"task: a\ntask: b", "t.yaml:2: 'task' is given twice"},
        {"a: &x 1", "anchors"},
        {"- 1", "a task is lines of"},
        {"task: [", "not valid YAML"},
        {"task: a", "no file for the split 'test'"},
        {"generation_kwargs: {do_sample: true}", "the likeliest"},
        {"output_type: multiple_choice\ndataset_kwargs: {data_files: " S "/write.jsonl}", "multiple_choice needs options"},
        {"dataset_kwargs: {data_files: {test: " S "/choice.jsonl, few: " S "/write.jsonl}}\ntest_split: test\nfewshot_split: few",
         "write.jsonl"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        sh("printf '%%s\n' '%s' > $D/t.yaml", files[i][0]);
        refused_("$C eval --model " S " --task $D/t.yaml", files[i][1], NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_records), cmocka_unit_test(test_bad_records),
                                       cmocka_unit_test(test_bad_asks), cmocka_unit_test(test_bad_yaml)};
    return cmocka_run_group_tests(tests, shell_begin, shell_end);
}
