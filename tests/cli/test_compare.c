/* `cyclora compare CONFIG` as its users meet it, on tests/golden/cipher: the table, its files and figures against those of the runs themselves; what is
 * finished is not run again; rows that fail; completions scored; every refusal. */
#define _GNU_SOURCE
#include "support/shell.h"

/* Labelled letters; prompts with the same letters as completion. */
static int begin(void **state) {
    if (shell_begin(state)) return -1;
    labelled_letters();
    ok("printf 'objective: classification\nmodel: %%s\noutput_dir: %%s/run\nseed: 7\ndata: %%s/train.jsonl\neval: {data: %%s/dev.jsonl}\nmax_steps: 6\nlearning_rate: 3e-3\nmax_length: 16\n' $G $D $D $D > $D/run.yaml\n"
       "for t in sle els lse esl; do echo '{\"prompt\": \"'$t':\", \"completion\": \"'$t'\"}'; done > $D/pairs.jsonl\n"
       "printf 'objective: sft\nmodel: %%s\noutput_dir: %%s/sft\ndata: %%s/pairs.jsonl\ntest: {data: %%s/pairs.jsonl}\nmax_steps: 2\nmax_new_tokens: 4\n' $G $D $D $D > $D/sft.yaml");
    return 0;
}

static const json_t *row(const json_t *result, const char *name) {
    size_t i;
    json_t *cell;
    json_array_foreach(json_object_get(result, "cells"), i, cell) if (!strcmp(json_string_value(json_object_get(cell, "name")), name)) return cell;
    flunk("no row '%s'", name);
    return NULL;
}

static double number(const json_t *j, const char *key) {
    const json_t *v = json_object_get(j, key);
    if (!json_is_number(v)) flunk("no number '%s'", key);
    return json_number_value(v);
}

/* Mean, spread and least of a metric of two seeds, as the runs' own reports have it. */
static void same_as_runs(const json_t *cell, const char *folder, const char *metric) {
    double x[2];
    for (int s = 0; s < 2; s++) {
        char name[128];
        snprintf(name, sizeof name, "run/%s/seed%d/report.json", folder, 7 + s);
        json_t *report = json_of(name), *evals = json_object_get(report, "evals");
        x[s] = number(json_array_get(json_object_get(json_array_get(evals, json_array_size(evals) - 1), "sides"), 0), metric);
        json_decref(report);
    }
    const json_t *got = json_object_get(json_object_get(cell, "metrics"), metric);
    assert_true(fabs(number(got, "mean") - (x[0] + x[1]) / 2) < 1e-6);
    assert_true(fabs(number(got, "sd") - fabs(x[0] - x[1]) / sqrt(2)) < 1e-6);
    assert_true(fabs(number(got, "min") - fmin(x[0], x[1])) < 1e-6 && fabs(number(got, "max") - fmax(x[0], x[1])) < 1e-6);
    assert_int_equal((int)number(got, "runs"), 2);
}

/* Of the plot's names none lies on another: their boxes, from where the file puts them, at 5.5 a letter and 11 high. */
static void names_apart(const char *svg) {
    double box[64][4];
    int n = 0;
    ok("cat $D/%s", svg);
    for (const char *p = ran.out.p; (p = strstr(p, "<text x=\"")) && n < 64; p++) {
        double x, y;
        const char *open = strchr(p, '>'), *close = strstr(p, "</text>"), *class = strstr(p, "class=\"label\"");
        if (!class || class > open) continue;
        assert_int_equal(sscanf(p, "<text x=\"%lf\" y=\"%lf\"", &x, &y), 2);
        const double at[] = {x, y - 9, x + 5.5 * (double)(close - open - 1), y + 2};
        for (int i = 0; i < n; i++)
            if (fmin(at[2], box[i][2]) > fmax(at[0], box[i][0]) && fmin(at[3], box[i][3]) > fmax(at[1], box[i][1])) flunk("%.*s lies on the %d. name", (int)(close - open - 1), open + 1, i + 1);
        assert_true(at[0] > 0 && at[2] < 900 && at[1] > 0 && at[3] < 560);
        memcpy(box[n++], at, sizeof at);
    }
    assert_int_equal(n, 10);
}

static void test_table(void **state) {
    (void)state;
    ok("$C compare $D/run.yaml --methods head,prompt,prefix,ia3,bitfit,lora,dora,full --seeds 2 --sweep r=4,16 --sweep target_modules=mlp,all-linear --lr full=1e-4 --set lora.lora_alpha=8");
    says(ran.out.p, "accuracy %");
    says(ran.out.p, "lora r=4 target_modules=mlp");
    says(ran.out.p, "no layer has a bias");
    says(ran.out.p, "2 seeds each, 7 to 8");
    says(ran.out.p, "given by --lr: full.");
    json_t *j = json_of("run/compare.json");
    assert_string_equal(json_string_value(json_object_get(j, "metric")), "accuracy");
    assert_int_equal(json_array_size(json_object_get(j, "cells")), 11); /* eight, and four points less the one that is lora itself */
    same_as_runs(row(j, "lora"), "lora", "loss");
    same_as_runs(row(j, "lora r=4 target_modules=mlp"), "lora_r=4_target_modules=mlp", "accuracy");
    assert_true(number(row(j, "full"), "learning_rate") == 1e-4 && number(row(j, "prompt"), "learning_rate") == 3e-2);
    assert_true(number(row(j, "lora"), "trained") > number(row(j, "lora r=4 target_modules=all-linear"), "trained"));
    assert_true(number(row(j, "dora"), "trained") > number(row(j, "lora"), "trained"));
    assert_true(number(row(j, "head"), "seconds_per_step") > 0 && number(row(j, "head"), "measured") > 1e6);
    assert_true(json_is_true(json_object_get(row(j, "lora"), "swept")));
    const json_t *none = row(j, "bitfit");
    says(json_string_value(json_object_get(none, "error")), "bitfit has nothing to train");
    assert_int_equal(json_array_size(json_object_get(none, "runs")), 1); /* not tried again with the other seed */
    json_decref(j);
    ok("test ! -e $D/run/lora/seed7/checkpoint-6 && test -e $D/run/lora/seed7/adapter/adapter_model.safetensors && ls $D/run/features && grep -c '^| lora' $D/run/compare.md && { ! command -v xmllint >/dev/null || xmllint --noout $D/run/compare.svg; }");
    ok("grep -c '<circle' $D/run/compare.svg");
    assert_string_equal(ran.out.p, "10\n");
    names_apart("run/compare.svg");

    /* again: nothing runs, the table is the same; another setting makes a row's runs anew */
    ok("cp $D/run/compare.md $D/first.md; stat -c %%Y%%i $D/run/*/seed*/report.json > $D/first; $C compare $D/run.yaml --methods head,prompt,prefix,ia3,bitfit,lora,dora,full --seeds 2 --sweep r=4,16 --sweep target_modules=mlp,all-linear "
       "--lr full=1e-4 --set lora.lora_alpha=8 --json && cmp $D/first.md $D/run/compare.md && stat -c %%Y%%i $D/run/*/seed*/report.json | cmp - $D/first");
    j = json_loads(ran.out.p, 0, NULL); /* one line, nothing else */
    assert_int_equal(json_array_size(json_object_get(j, "cells")), 11);
    json_decref(j);
    ok("$C compare $D/run.yaml --methods lora,head --seeds 1 --set max_steps=5 --set lora.lora_alpha=8");
    says(ran.err.p, "one seed a row");
    says(ran.out.p, "no spread");
    if (strstr(ran.out.p, "finished before")) flunk("runs of other settings were taken for these: %s", ran.out.p);
    /* an interrupted run is no finished one */
    ok("sed -i 's/\"stopped\": false/\"stopped\": true/' $D/run/lora/seed7/report.json && $C compare $D/run.yaml --methods lora,head --seeds 1 --set max_steps=5 --set lora.lora_alpha=8");
    says(ran.out.p, "1 of 2  lora, seed 7  accuracy");
    says(ran.out.p, "2 of 2  head, seed 7  (finished before)");
}

/* A field of each line, without spaces around it, as a line of another file. */
static void texts_of(const char *jsonl, const char *field, const char *to) {
    char path[256];
    ok("cat $D/%s", jsonl);
    str out = {0};
    for (char *line = strtok(ran.out.p, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *j = json_loads(line, 0, NULL);
        const char *text = json_string_value(json_object_get(j, field));
        if (!text) flunk("%s: no '%s' in %s", jsonl, field, line);
        text += strspn(text, " \n");
        size_t n = strlen(text);
        while (n && strchr(" \n", text[n - 1])) n--;
        str_addf(&out, "%.*s\n", (int)n, text);
        json_decref(j);
    }
    ok("echo $D");
    snprintf(path, sizeof path, "%.*s/%s", (int)strcspn(ran.out.p, "\n"), ran.out.p, to);
    FILE *f = fopen(path, "w");
    assert_true(f && fwrite(out.p, 1, out.n, f) == out.n && !fclose(f));
    str_free(&out);
}

/* Of sft no head can be trained; what the others write is scored. */
static void test_completions(void **state) {
    (void)state;
    ok("$C compare $D/sft.yaml --methods head,lora:learning_rate=1e-2:r=4,norms --seeds 2 --score 3 --sweep norms.learning_rate=1e-3,1e-2");
    says(ran.out.p, "goes with objective classification");
    says(ran.out.p, "chrF");
    says(ran.out.p, "loss");
    says(ran.out.p, "the row's own: lora learning_rate=1e-2 r=4");
    json_t *j = json_of("sft/compare.json");
    assert_string_equal(json_string_value(json_object_get(j, "metric")), "chrf");
    const json_t *lora = row(j, "lora learning_rate=1e-2 r=4"), *runs = json_object_get(lora, "runs");
    assert_true(number(lora, "learning_rate") == 1e-2);
    assert_int_equal(json_array_size(json_object_get(j, "cells")), 4); /* the usual rate of norms is one of the two */
    /* the score is that of the same completions through the command */
    double chrf = number(json_object_get(json_array_get(runs, 0), "metrics"), "chrf");
    ok("head -3 $D/pairs.jsonl > $D/three.jsonl; $C generate --model $G --adapter $D/sft/lora_learning_rate=1e-2_r=4/seed42/adapter --file $D/three.jsonl --max-new-tokens 4 --json > $D/made.jsonl");
    texts_of("three.jsonl", "completion", "ref.txt");
    texts_of("made.jsonl", "text", "hyp.txt");
    ok("$C score --hyp $D/hyp.txt --ref $D/ref.txt --json");
    json_t *score = json_loads(ran.out.p, JSON_DISABLE_EOF_CHECK, NULL);
    assert_true(fabs(number(score, "chrf") - chrf) < 0.01);
    json_decref(score);
    json_decref(j);
}

static void test_refusals(void **state) {
    (void)state;
    refused("$C compare $D/run.yaml --methods lora,lore", "unknown method 'lore'", "did you mean 'lora'");
    refused("$C compare $D/run.yaml --methods quantum", "unknown method 'quantum'");
    refused("$C compare $D/run.yaml --methods lora,", "an empty name");
    refused("$C compare $D/run.yaml --methods lora,lora", "'lora' and 'lora' are the same run");
    refused("$C compare $D/run.yaml --methods lora:rank=8", "lora:rank=8: 'rank' is no setting of lora");
    refused("$C compare $D/run.yaml --methods lora:rs=8", "lora:rs=8: lora has no setting 'rs'; did you mean 'r'?");
    refused("$C compare $D/run.yaml --methods lora:r=eight", "'lora.r' wants an integer >= 1, found 'eight'");
    refused("$C compare $D/run.yaml --methods lora:r=8:r=4", "'lora.r' is set twice");
    refused("$C compare $D/run.yaml --methods lora:r", "'r' of lora:r is not key=value");
    refused("$C compare $D/run.yaml --methods lora:seed=3", "'seed' is not set for one method: --seeds says how many");
    refused("$C compare $D/run.yaml --methods lora --sweep r=4,16 --sweep lora.r=8", "--sweep lora.r is given twice");
    refused("$C compare $D/run.yaml --methods lora:r=8 --sweep r=4,16", "--sweep r clashes with lora r=8, which sets it to 8");
    refused("$C compare $D/run.yaml --methods dora --sweep use_dora=true,false", "--sweep use_dora clashes with dora, which sets it to true");
    refused("$C compare $D/run.yaml --methods head,full --sweep r=4,16", "none of --methods head,full has a setting 'r'");
    refused("$C compare $D/run.yaml --methods lora --sweep learning_rate=1e-3", "none of --methods lora has a setting 'learning_rate'", "METHOD.learning_rate");
    refused("$C compare $D/run.yaml --methods lora --sweep full.layers=last-1", "--sweep of 'full', which is not among --methods lora");
    refused("$C compare $D/run.yaml --methods lora --sweep lora.rr=4", "lora has no setting 'rr'; did you mean 'r'");
    refused("$C compare $D/run.yaml --methods lora --sweep lora.output_dir=x,y", "--out says where all goes");
    refused("$C compare $D/run.yaml --methods lora --sweep r=4,,16", "--sweep r has an empty value");
    refused("$C compare $D/run.yaml --methods lora --sweep r", "--sweep wants key=value,value,... found 'r'");
    refused("$C compare $D/run.yaml --methods lora --sweep r=4,x", "'lora.r' wants an integer >= 1, found 'x'");
    refused("$C compare $D/run.yaml --methods lora --lr full=1e-4", "--lr wants METHOD=RATE of one of --methods lora, found 'full=1e-4'");
    refused("$C compare $D/run.yaml --methods lora --lr lora=fast", "'learning_rate' wants a number > 0, found 'fast'");
    refused("$C compare $D/run.yaml --methods lora --seeds 0", "--seeds is 0, but at least 1 is wanted");
    refused("$C compare $D/run.yaml --methods lora --seeds 33", "--seeds is 33, but at most 32 are run");
    refused("$C compare $D/run.yaml $D/sft.yaml", "one configuration at a time");
    refused("$C compare $D/nothing.yaml --methods lora", "nothing.yaml");
    refused("mkdir -p $D/folder; $C compare $D/folder --methods lora", "is a run folder: --methods, --sweep and the like go with a configuration file");
    refused("$C compare", "CONFIG or RUN is missing");
    refused("$C compare $D/run.yaml --set output_dir= --methods lora", "'output_dir' is not set");
    refused("$C compare $D/run.yaml --set eval.data= --methods lora", "names no held-out data (test.data, eval.data or eval.split)");
    ok("$C compare --list");
    says(ran.out.p, "method=lora lora.use_dora=true");
    /* a file in the way of a run is a line of the table */
    ok("mkdir -p $D/way/lora && echo x > $D/way/lora/seed7 && $C compare $D/run.yaml --methods lora --seeds 1 --out $D/way");
    says(ran.out.p, "exists and is not a folder");
    ok("test ! -e $D/way/compare.svg && grep -q 'is not a folder' $D/way/compare.md");
}

/* Two models against two adapters: their memory and time beside the scores, as their own reports have it. */
static void test_runs(void **state) {
    (void)state;
    ok("printf 'model: %%s\nA: {data: %%s/a.jsonl}\nB: {data: %%s/b.jsonl}\neval: {data: %%s/test.jsonl, limit: 2}\nmax_steps: 1\nper_device_train_batch_size: 2\n"
       "max_new_tokens: 4\nmax_length: 32\npass_tokens: 64\n' $G $G $G $G > $D/cycles.yaml\n"
       "$C train $D/cycles.yaml --set output_dir=$D/macct --set A.eval.metrics=ter && $C train $D/cycles.yaml --set objective=dmcct --set method=full --set output_dir=$D/dmcct");
    ok("$C compare $D/macct $D/dmcct");
    says(ran.out.p, "B→A BLEU");
    says(ran.out.p, " ter ");
    says(ran.out.p, "weights and states");
    ok("$C compare $D/macct $D/dmcct --json > $D/runs.json");
    json_t *j = json_of("runs.json"), *runs = json_object_get(j, "runs");
    double weights[2];
    for (size_t i = 0; i < 2; i++) {
        char name[64];
        const json_t *cost = json_object_get(json_array_get(runs, i), "cost");
        snprintf(name, sizeof name, "%s/report.json", i ? "dmcct" : "macct");
        json_t *report = json_of(name), *plan = json_object_get(report, "plan");
        assert_true(number(cost, "planned") == number(plan, "total") && number(cost, "measured") == number(plan, "peak_resident"));
        assert_true(number(cost, "step_s") > 0);
        weights[i] = number(cost, "static");
        if (i) assert_int_equal(json_array_size(json_object_get(plan, "models")), 2);
        json_decref(report);
    }
    assert_true(weights[1] > 2 * weights[0]);
    json_decref(j);
    /* a metric of the run's own is summarised as the usual ones are: the mean over the sides that have it */
    ok("$C compare $D/cycles.yaml --methods lora --seeds 1 --set A.eval.metrics=ter --set output_dir=$D/own");
    says(ran.out.p, " ter ");
    json_t *own = json_of("own/compare.json"), *report = json_of("own/lora/seed42/report.json"), *evals = json_object_get(report, "evals");
    const json_t *a = json_array_get(json_object_get(json_array_get(evals, json_array_size(evals) - 1), "sides"), 0);
    assert_true(number(json_object_get(json_object_get(row(own, "lora"), "metrics"), "ter"), "mean") == number(a, "ter"));
    json_decref(report);
    json_decref(own);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_completions), cmocka_unit_test(test_refusals), cmocka_unit_test(test_runs)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
