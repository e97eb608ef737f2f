/* Regression and token classification as their users meet them: train, evaluate, resume, classify, on tests/golden/cipher with numbers and tags
 * that its letters tell; the base's features found again; every refusal. test_classify.c has what all heads share. */
#define _GNU_SOURCE
#include "support/shell.h"

/* Texts of the letters s, l, e and how far the last is; words of them with a span of each run of "s". */
static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("for a in s l e a; do for b in s l e t n; do for c in 0s 1l 3e; do echo '{\"text\": \"'$a$b${c#?}'\", \"label\": '${c%%?}'}'; done; done; done > $D/n.jsonl\n"
       "for a in s l e; do for b in s l e; do for c in s l e; do echo '{\"tokens\": [\"'$a'\", \"'$b'\", \"'$c'\"], \"tags\": [\"'$(for w in $a $b $c; do "
       "case $w$p in ss) printf I-S;; s*) printf B-S;; *) printf O;; esac; p=$w; echo; done | sed ':x;N;s/\\n/\", \"/;tx')'\"]}'; done; done; done > $D/t.jsonl\n"
       "for k in n t; do sed -n '1~5p' $D/$k.jsonl > $D/dev-$k.jsonl; sed '1~5d' $D/$k.jsonl > $D/train-$k.jsonl; done\n"
       "for k in n:regression t:token_classification; do printf 'objective: %%s\nmodel: %%s\noutput_dir: %%s/%%s\ndata: %%s/train-%%s.jsonl\neval: {data: %%s/dev-%%s.jsonl}\nmax_steps: 60\nlearning_rate: 3e-2\nmethod: none\nmax_length: 16\n' "
       "${k#*:} $G $D ${k%%:*} $D ${k%%:*} $D ${k%%:*} > $D/${k%%:*}.yaml; done");
    return 0;
}

static json_t *last_side(const char *run, json_t **report) {
    char name[64];
    snprintf(name, sizeof name, "%s/report.json", run);
    *report = json_of(name);
    const json_t *evals = json_object_get(*report, "evals");
    return json_array_get(json_object_get(json_array_get(evals, json_array_size(evals) - 1), "sides"), 0);
}

static double figure(const json_t *side, const char *key) {
    const json_t *v = json_object_get(side, key);
    if (!json_is_number(v)) flunk("no %s", key);
    return json_number_value(v);
}

static void test_regression(void **state) {
    (void)state;
    json_t *report;
    ok("$C train $D/n.yaml");
    says(ran.out.p, "One regression of 1 number on the frozen base learns from");
    says(ran.out.p, "the base's rows of 60 texts");
    says(ran.out.p, "RMSE");
    says(ran.out.p, "Spearman");
    says(ran.out.p, "cyclora classify --model");
    const json_t *side = last_side("n", &report);
    const double rmse = figure(side, "rmse");
    assert_true(rmse < 0.9 && figure(side, "pearson") > 0.5 && fabs(figure(side, "loss") - rmse * rmse) < 1e-9);
    json_decref(report);
    ok("grep -q eval_rmse $D/n/metrics.jsonl && ! grep -q accuracy $D/n/metrics.jsonl && grep -q problem_type $D/n/adapter/labels.json && grep -q SEQ_CLS $D/n/adapter/adapter_config.json");

    /* classify prints the numbers: their error is the evaluation's */
    double squares = 0;
    int n = 0;
    ok("$C classify --model $G --adapter $D/n/adapter --data $D/dev-n.jsonl");
    for (char *line = ran.out.p, *end; *line; line = end + 1, n++) {
        end = strchr(line, '\n');
        json_t *j = json_loadb(line, (size_t)(end - line), 0, NULL);
        const char c = json_string_value(json_object_get(j, "text"))[2];
        const double off = figure(j, "label") - (c == 's' ? 0 : c == 'l' ? 1 : 3);
        squares += off * off;
        json_decref(j);
    }
    assert_true(fabs(sqrt(squares / n) - rmse) < 1e-5);

    ok("$C train $D/n.yaml --quiet --set features.once=false --set per_device_train_batch_size=16 --set output_dir=$D/n-whole && $C train $D/n.yaml --quiet --set per_device_train_batch_size=16 --set output_dir=$D/n-parts && cmp $D/n-parts/adapter/adapter_model.safetensors $D/n-whole/adapter/adapter_model.safetensors");
    ok("$C train $D/n.yaml --quiet --set max_steps=20 --set output_dir=$D/n-cut && $C train $D/n.yaml --quiet --set output_dir=$D/n-cut --resume && cmp $D/n/adapter/adapter_model.safetensors $D/n-cut/adapter/adapter_model.safetensors");
    ok("$C eval $D/n.yaml --run $D/n && $C data preview $D/n.yaml");
    says(ran.out.p, "; label ");
    ok("sed 's/\"label\": \\(.\\)/\"label\": [\\1, 2]/' $D/n.jsonl > $D/two.jsonl && $C train $D/n.yaml --quiet --set method=lora --set lora.r=4 --set data=$D/two.jsonl --set eval.data= --set eval.split=0.2 --set output_dir=$D/two --set metric_for_best_model=pearson && $C classify --model $G --adapter $D/two/adapter --data $D/dev-n.jsonl | head -1");
    says(ran.out.p, "\"label\":[");
    ok("grep -q '\"numbers\"' $D/two/report.json");
}

static void test_tags(void **state) {
    (void)state;
    json_t *report;
    ok("$C train $D/t.yaml");
    says(ran.out.p, "One classifier of tokens into 3 classes on the frozen base learns from");
    says(ran.out.p, "the base's rows of 81 words");
    says(ran.out.p, "span F1");
    json_decref(((void)last_side("t", &report), report));
    ok("grep -q TOKEN_CLS $D/t/adapter/adapter_config.json && grep -q score.bias $D/t/adapter/adapter_model.safetensors && grep -q eval_span_f1 $D/t/metrics.jsonl");
    ok("$C train $D/t.yaml --quiet --set features.once=false --set per_device_train_batch_size=16 --set output_dir=$D/t-whole && $C train $D/t.yaml --quiet --set per_device_train_batch_size=16 --set output_dir=$D/t-parts && cmp $D/t-parts/adapter/adapter_model.safetensors $D/t-whole/adapter/adapter_model.safetensors");
    ok("$C train $D/t.yaml --quiet --set max_steps=20 --set output_dir=$D/t-cut && $C train $D/t.yaml --quiet --set output_dir=$D/t-cut --resume && cmp $D/t/adapter/adapter_model.safetensors $D/t-cut/adapter/adapter_model.safetensors");

    /* with LoRA a letter's tag is learnt; the words' tags that classify prints have the evaluation's accuracy */
    ok("$C train $D/t.yaml --quiet --set method=lora --set lora.r=4 --set learning_rate=1e-2 --set output_dir=$D/t-lora --set metric_for_best_model=span_f1");
    const json_t *side = last_side("t-lora", &report);
    const double accuracy = figure(side, "accuracy");
    assert_true(figure(side, "words") == 18 && figure(side, "span_f1") <= 1);
    json_decref(report);
    int right = 0, n = 0;
    ok("$C classify --model $G --adapter $D/t-lora/adapter --data $D/dev-t.jsonl");
    for (char *line = ran.out.p, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        json_t *j = json_loadb(line, (size_t)(end - line), 0, NULL), *words = json_object_get(j, "tokens"), *tags = json_object_get(j, "tags"), *w;
        size_t i;
        char last = 0;
        json_array_foreach(words, i, w) {
            const char c = *json_string_value(w);
            right += !strcmp(json_string_value(json_array_get(tags, i)), c != 's' ? "O" : last == 's' ? "I-S" : "B-S");
            last = c;
            n++;
        }
        json_decref(j);
    }
    assert_int_equal(n, 18);
    assert_true(fabs((double)right / n - accuracy) < 1e-9);
    ok("echo 's l  e' > $D/plain.txt; $C classify --model $G --adapter $D/t/adapter --data $D/plain.txt --max-length 2");
    says(ran.out.p, "{\"tokens\":[\"s\",\"l\",\"e\"],\"tags\":[");
    says(ran.out.p, ",null],\"probabilities\":[");
    ok("$C eval $D/t.yaml --run $D/t && $C inspect $D/t/adapter && $C data preview $D/t.yaml");
    says(ran.out.p, "; tags ");
    ok("for m in ln_tuning ia3 prompt_tuning prefix_tuning; do $C train $D/t.yaml --quiet --set method=$m --set max_steps=3 --set output_dir=$D/t-$m && $C classify --model $G --adapter $D/t-$m/adapter --data $D/plain.txt || exit 1; done");

    ok("printf 's B-S\nl O\n\ne O\ns B-S\n' > $D/c.conll && $C train $D/t.yaml --quiet --set data=$D/c.conll --set eval.data= --set max_steps=2 --set output_dir=$D/c > /dev/null && $C classify --model $G --adapter $D/c/adapter --data $D/c.conll | wc -l");
    assert_string_equal(ran.out.p, "2\n");
    ok("echo '{\"tokens\": [\"s\", \"l\"], \"ner_tags\": [2, 0]}' > $D/i.jsonl && $C train $D/t.yaml --quiet --set data=$D/i.jsonl --set eval.data= --set labels=[O,B-S,I-S] --set max_steps=1 --set output_dir=$D/i && grep -q '\"1\": \"B-S\"' $D/i/adapter/labels.json");
}

static void test_refusals(void **state) {
    (void)state;
    ok("for k in n t; do test -d $D/$k || $C train $D/$k.yaml --quiet || exit 1; done");
    refused("$C train $D/n.yaml --set labels=[a,b] --set output_dir=$D/x", "'labels' has no use with objective regression");
    refused("echo '{\"text\": \"s\", \"label\": \"of s\"}' > $D/bad.jsonl; $C train $D/n.yaml --set data=$D/bad.jsonl --set output_dir=$D/x", "bad.jsonl:1: \"label\" is 'of s', not a number");
    refused("echo '{\"text\": \"s\", \"label\": 1}' > $D/bad.jsonl; echo '{\"text\": \"s\", \"label\": [1, 2]}' >> $D/bad.jsonl; $C train $D/n.yaml --set data=$D/bad.jsonl --set eval.data= --set output_dir=$D/x", "bad.jsonl:2: 2 numbers, but the first record has 1");
    refused("$C eval $D/n.yaml", "the bare base has no head to evaluate");
    refused("$C generate --model $G --adapter $D/n/adapter --prompt s --max-new-tokens 4", "this adapter is a regression of 1 number", "cyclora classify");
    refused("$C generate --model $G --adapter $D/t/adapter --prompt s --max-new-tokens 4", "this adapter is a classifier of tokens into 3 classes");
    refused("$C train $D/n.yaml --set adapter=$D/t/adapter --set output_dir=$D/x", "holds a classifier of tokens into 3 classes: it goes on with objective: token_classification");
    refused("$C train $D/t.yaml --set adapter=$D/n/adapter --set output_dir=$D/x", "holds a regression of 1 number: it goes on with objective: regression");
    refused("$C train $D/n.yaml --set adapter=$D/n/adapter --set data=$D/n.jsonl --set eval.data= --set objective=classification --set output_dir=$D/x", "it goes on with objective: regression");
    refused("$C train $D/t.yaml --set data=$D/n.jsonl --set output_dir=$D/x", "\"label\" is a number, not a list of tags");
    refused("$C train $D/t.yaml --set labels=[O,B-S] --set output_dir=$D/x", "label 'I-S' is none of the 2 classes (O, B-S)");
    refused("$C train $D/t.yaml --set objective=sft --set method=lora --set data=$D/c.conll --set output_dir=$D/x", "c.conll");
    refused("$C classify --model $G --adapter $D/t/adapter --data $D/t.jsonl --field words2", "no field \"words2\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_regression), cmocka_unit_test(test_tags), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
