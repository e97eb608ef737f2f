/* `cyclora recipes` and `cyclora init`: every recipe's configuration is its example byte for byte, has a reason beside each key, names a page
 * that is there, and plans with a tiny model and tiny data in their place; what goes over it changes that and nothing else. */
#define _GNU_SOURCE
#include "support/shell.h"
#include "base/file.h"

static json_t *recipes;

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("head -40 $G/a.jsonl > $D/a.jsonl; head -40 $G/b.jsonl > $D/b.jsonl; cut -c 1-40 $G/a.jsonl | tail -40 > $D/c.jsonl\n"
       "cp -r $G/../passkey $D/model\n" /* rows of 64 and 128 numbers, which NF4 can have */
       "for i in $(seq 200); do echo '{\"prompt\": \"abcd'$((i %% 10))':\", \"completion\": \"AB'$i'\"}'; done > $D/sft.jsonl\n"
       "for i in $(seq 40); do echo '{\"text\": \"ab'$i'cd\", \"label\": '$((i %% 3))'}'; done > $D/labels.jsonl\n"
       "for i in $(seq 40); do echo '{\"tokens\": [\"ab\", \"cd\"], \"tags\": [\"O\", \"B-x\"]}'; done > $D/tags.jsonl\n"
       "for i in $(seq 40); do echo '{\"text\": \"abcd'$i'\"}'; done > $D/long.jsonl\n");
    ok("$C recipes --json > $D/list.json && cat $D/list.json");
    recipes = json_loads(ran.out.p, 0, NULL);
    return recipes ? 0 : -1;
}

static int end(void **state) {
    json_decref(recipes);
    return shell_end(state);
}

static const char *of(const json_t *recipe, const char *key) { return json_string_value(json_object_get(recipe, key)); }
static bool has_config(const json_t *recipe) { return json_is_true(json_object_get(recipe, "config")); }

/* Options that put the tiny ones in place of an example's, found by what the example trains. */
static const char *tiny_data(const char *yaml) {
    if (strstr(yaml, "\nC:")) return "--data $D/a.jsonl --data $D/b.jsonl --data $D/c.jsonl";
    if (strstr(yaml, "\nA:")) return "--data $D/a.jsonl --data $D/b.jsonl";
    if (strstr(yaml, "objective: token_classification")) return "--data $D/tags.jsonl";
    if (strstr(yaml, "\ninit_from:")) return "--data $D/labels.jsonl --set init_from=$D/model";
    if (strstr(yaml, "objective: distill")) return "--data $D/sft.jsonl --set teacher.model=$D/model";
    if (strstr(yaml, "objective: classification") || strstr(yaml, "objective: regression")) return "--data $D/labels.jsonl";
    return strstr(yaml, "format: text") || strstr(yaml, "objective: text") ? "--data $D/long.jsonl" : "--data $D/sft.jsonl";
}

static void test_each_plans(void **state) {
    (void)state;
    size_t i;
    const json_t *r;
    json_array_foreach(recipes, i, r) {
        const char *name = of(r, "name");
        if (!path_exists(of(r, "page"))) flunk("recipe %s: there is no page %s", name, of(r, "page"));
        ok("${C%%/*}/%s --help >/dev/null", of(r, "command"));
        if (!has_config(r)) continue;
        ok("$C init %s -o $D/%s-own.yaml >/dev/null && cat $D/%s-own.yaml", name, name, name);
        ok("cat $D/%s-own.yaml >$D/one; for f in examples/*.yaml; do cmp -s $f $D/one && echo $f; done | wc -l", name);
        says(ran.out.p, "1\n");
        ok("cat $D/one");
        const char *data = tiny_data(ran.out.p);
        ok("$C init %s -o $D/%s.yaml --model $D/model %s --json", name, name, data);
        says(ran.out.p, "\"missing\":[]");
        ok("$C plan $D/%s.yaml --set max_length=120 --set max_new_tokens=40 --set rope_scaling.rope_type=default --set "
           "rope_scaling.factor=0 --set "
           "threads=1 --memory-budget 2GB >/dev/null",
           name);
    }
}

/* Each line of what was written there that sets something ends with a comment. */
static void test_reasons(void **state) {
    (void)state;
    ok("cat $D/*-own.yaml | grep -v '^ *#' | grep -v '^ *$' | grep -v '^ *[A-Za-z_]*:$' | grep -vE ' # [A-Za-z0-9{(`.\\-]' || true");
    assert_string_equal(ran.out.p ? ran.out.p : "", "");
}

static void test_changes(void **state) {
    (void)state;
    ok("$C init macct -o $D/m.yaml --data one.jsonl --data 'two #2.jsonl' --pairs p.jsonl --set lora.r=4 --set 'A.prompt=\"a # "
       "{text}\\nb\"' --json");
    says(ran.out.p, "\"missing\":[");
    says(ran.out.p, "two #2.jsonl");
    ok("diff examples/macct-bible.yaml $D/m.yaml | grep -c '^>' ");
    says(ran.out.p, "11\n"); /* two sides, a prompt, pairs, rank, and six lines of held-out pairs */
    ok("grep -qF '  data: \"two #2.jsonl\" ' $D/m.yaml && grep -q '^  r: 4  *# ' $D/m.yaml && grep -q '^# eval_steps: 20' $D/m.yaml && "
       "grep -qF 'prompt: \"a # {text}\\nb\"  ' $D/m.yaml");
    ok("$C init macct -o $D/k.yaml --data one --data two --set eval.data=mine.jsonl >/dev/null && grep -q '^eval_steps: 20' $D/k.yaml && "
       "grep -q "
       "'^  data: mine.jsonl ' $D/k.yaml && grep -q '^# warmup_pairs:' $D/k.yaml");
    ok("$C init sft -o $D/s.yaml --data one.jsonl --data two.jsonl --eval e.jsonl > $D/said && grep -q '^  data: e.jsonl .*# held out' "
       "$D/s.yaml && grep "
       "-qF 'data: [one.jsonl, two.jsonl]' $D/s.yaml && grep -q 'not here: e.jsonl' $D/said && grep -q 'cyclora train' $D/said");
}

static void test_refused(void **state) {
    (void)state;
    refused("$C init", "RECIPE is missing");
    refused("$C init stf -o $D/no", "no recipe 'stf'", "did you mean 'sft'");
    refused("$C init cycle-data -o $D/no", "is a command", "cyclora data prepare --help");
    refused("touch $D/here; $C init sft -o $D/here", "exists already");
    refused("$C init sft -o $D/no --set max_stepz=3", "does not set 'max_stepz'");
    refused("$C init sft -o $D/no --set eval_steps", "is not key=value");
    refused("$C init sft -o $D/no --set model=a --model b", "'model' is given twice");
    refused("$C init sft -o $D/no --pairs b", "does not set 'warmup_pairs.data'");
    refused("$C init sft -o $D/no --set learning_rate=-1", "'learning_rate' wants a number > 0");
    refused("$C init sft -o $D/no --set 'seed=1\nmax_steps: 3'", "has a line end in it");
    refused("$C init macct -o $D/no --data one", "has 2 sides");
    ok("! test -e $D/no && ! ls $D | grep -F .tmp-");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_plans), cmocka_unit_test(test_reasons), cmocka_unit_test(test_changes),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, begin, end);
}
