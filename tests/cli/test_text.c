/* Objective text and guards, as their user meets them: a document goes on in the next row and is learnt whole, what is measured is what
 * `cyclora eval --text` says, streamed and resumed runs are the same run, text far from the base is warned of, guards watch any run without
 * changing it and sound an alarm, under heads and beside vectors too, and what is refused. On tests/golden/cipher. */
#define _GNU_SOURCE
#include "support/shell.h"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("printf 'model: %%s\nobjective: text\noutput_dir: %%s/run\ndata: %%s/a.jsonl\neval: {data: %%s/held.txt}\nmax_length: 6\nmax_steps: "
       "6\n"
       "per_device_train_batch_size: 4\nlearning_rate: 1e-2\nlora: {r: 2, lora_dropout: 0.1, target_modules: attention}\n' $G $D $G $D > "
       "$D/run.yaml; "
       "printf 'ahcmnlajgr\\n' > $D/held.txt; printf '{\"text\": \"msletqt\\\\nmsletqt\"}\\n{\"text\": \"pcrbetqqt\\\\npcrbetqqt\"}\\n' > "
       "$D/old.jsonl");
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
    ok("$C train $D/run.yaml --quiet --set eval_steps=3 && $C train $D/run.yaml --quiet --set streaming=true --set output_dir=$D/streamed "
       "&& "
       "cmp $D/run/adapter/adapter_model.safetensors $D/streamed/adapter/adapter_model.safetensors");
    says(ran.err.p, "the held-out text costs the base ");
    json_t *j = json_of("run/report.json");
    const json_t *evals = json_object_get(j, "evals"), *first = json_array_get(json_object_get(json_array_get(evals, 0), "sides"), 0);
    assert_true(json_is_true(json_object_get(first, "far")));
    json_decref(j);
    ok("grep -q 'eval_bits_per_byte' $D/run/metrics.jsonl && grep -q 'Bits per byte' $D/run/report.html");
    ok("$C train $D/run.yaml --quiet --set max_steps=3 --set output_dir=$D/half --set save_steps=3 && $C train $D/run.yaml --quiet "
       "--resume --set output_dir=$D/half && "
       "cmp $D/run/adapter/adapter_model.safetensors $D/half/adapter/adapter_model.safetensors");
    ok("$C train $D/run.yaml --quiet --set format=document --set data=$D/one.txt --set max_steps=10 --set text.far_bits_per_byte=0 --set "
       "output_dir=$D/whole");
    assert_null(strstr(ran.err.p, "costs the base"));
    j = json_of("whole/report.json");
    const json_t *plan = json_object_get(j, "plan");
    evals = json_object_get(j, "evals");
    assert_true(number(json_array_get(json_object_get(json_array_get(evals, 1), "sides"), 0), "perplexity") <
                0.7 * number(json_array_get(json_object_get(json_array_get(evals, 0), "sides"), 0), "perplexity"));
    assert_int_equal(number(json_array_get(json_object_get(plan, "sides"), 0), "rows"),
                     2); /* 10 letters and an end: 6 of them, and the last of these with 5 more */
    json_decref(j);
}

#define GUARDED "--set guard.data=\"[{path: $D/old.jsonl}, {path: $D/one.txt, name: one}, {path: $D/pairs.jsonl, name: task, kind: sft}]\""

/* Of an entry of the last evaluation's guards. */
static double guarded(const char *report, const char *name, const char *figure) {
    json_t *j = json_of(report);
    const json_t *evals = json_object_get(j, "evals"), *list = json_object_get(json_array_get(evals, json_array_size(evals) - 1), "guard"),
                 *g;
    double x = NAN;
    size_t i;
    json_array_foreach(list, i, g) if (!strcmp(json_string_value(json_object_get(g, "name")), name)) x = number(g, figure);
    json_decref(j);
    if (isnan(x)) flunk("%s has no guard %s", report, name);
    return x;
}

/* What a guard says is what eval --text says, at the end with the finished adapter; and the run is the same run as without it. */
static void test_guards(void **state) {
    (void)state;
    ok("printf '{\"prompt\": \"abc\\\\n\", \"completion\": \"ABC\"}\\n' > $D/pairs.jsonl; $C train $D/run.yaml --set output_dir=$D/guarded "
       "--set max_length=16 --set on_alarm=stop --set guard.max_loss_rise=0 --set report_to=tensorboard " GUARDED
       " && $C train $D/run.yaml --quiet --set output_dir=$D/alone --set max_length=16 && cmp $D/alone/adapter/adapter_model.safetensors "
       "$D/guarded/adapter/adapter_model.safetensors");
    says(ran.out.p, "guard task");
    ok("$C eval --model $G --adapter $D/guarded/adapter --text $D/one.txt --json");
    json_t *j = printed();
    const double mean = number(j, "mean"), own = guarded("guarded/report.json", "one", "loss");
    json_decref(j);
    if (fabs(own - mean) > 1e-5 * mean) flunk("the guard's loss is %.9g, eval --text says %.9g", own, mean);
    assert_true(guarded("guarded/report.json", "one", "loss_rise") != 0);
    assert_true(guarded("guarded/report.json", "task", "accuracy") >= 0);
    ok("grep -q 'eval_guard_old_bits_per_byte' $D/guarded/metrics.jsonl && grep -q 'eval_guard_task_loss_rise' $D/guarded/metrics.jsonl && "
       "grep -q 'Gain and loss' $D/guarded/report.html && "
       "! grep -q 'Gain and loss' $D/alone/report.html && ! grep -q 'Accuracy on held-out' $D/guarded/report.html && grep -q 'old (3 "
       "rows), one (1 rows), task (1 rows)' $D/guarded/report.json && "
       "grep -aq 'eval/guard_one_loss' $D/guarded/runs/*");
    ok("$C plan $D/run.yaml " GUARDED);
    says(ran.out.p, "an evaluation's guards take at least");
}

/* Learning one text by heart loses the others: the alarm ends the run, or takes it back to where the guard was best. */
static void test_forgetting(void **state) {
    (void)state;
    static const char line[] = "$C train $D/run.yaml --set data=$D/held.txt --set eval.data= --set guard.data=$D/old.jsonl --set "
                               "eval_steps=2 --set learning_rate=3e-2";
    sh("%s --set on_alarm=stop --set output_dir=$D/stop", line);
    assert_int_equal(ran.status, 1);
    says(ran.err.p, "alarm forgetting at step ");
    says(ran.err.p, " % above the first evaluation's on guard old");
    ok("test -e $D/stop/checkpoint-* -a ! -e $D/stop/adapter && grep -q '<b>forgetting</b>' $D/stop/report.html");
    sh("%s --set on_alarm=rollback --set metric_for_best_model=guard.old.bits_per_byte --set output_dir=$D/back", line);
    assert_int_equal(ran.status, 1);
    says(ran.err.p, "back to the adapters of the best evaluation, at step 0");
    says(ran.err.p, "after one rollback");
    ok("%s --quiet --set output_dir=$D/warn", line);
    says(ran.err.p, "alarm forgetting: adapter forgets: its loss is");
    ok("%s --quiet --set guard.max_loss_rise=0 --set output_dir=$D/off", line);
    assert_null(strstr(ran.err.p, "alarm"));
    assert_true(guarded("off/report.json", "old", "loss_rise") > 0.1);
    refused("$C train $D/run.yaml --quiet --set guard.data=$D/old.jsonl --set metric_for_best_model=guard.new.loss --set "
            "text.far_bits_per_byte=0 --set output_dir=$D/x",
            "theirs are", "guard.old.perplexity");
}

/* Questions: shares of right, abstained and wrong; what went from the one to the other is an alarm. The base answers abc with SDKCJKDP. */
static void test_questions(void **state) {
    (void)state;
    ok("printf '{\"question\": \"abc\", \"answers\": [\"no\", \"the SDKCJKDP\"]}\n{\"question\": \"slfe\", \"answers\": \"no\"}\n' > "
       "$D/qa.jsonl");
    static const char line[] = "$C train $D/run.yaml --quiet --set guard.data=\"[{path: $D/qa.jsonl, kind: qa}]\" --set max_new_tokens=8 "
                               "--set max_length=64 --set text.far_bits_per_byte=0";
    ok("$C generate --model $G --prompt 'Question: abc\nAnswer:' --max-new-tokens 8 --json | grep -q SDKCJKDP");
    ok("%s --set max_steps=1 --set learning_rate=1e-9 --set output_dir=$D/asked", line);
    assert_true(guarded("asked/report.json", "qa", "right") == 0.5 && guarded("asked/report.json", "qa", "abstained") == 0);
    assert_true(guarded("asked/report.json", "qa", "wrong") == 0.5 && guarded("asked/report.json", "qa", "invented") == 0);
    says(ran.out.p, "kv cache");
    sh("sed -i 's/, .the SDKCJKDP.//' $D/qa.jsonl; %s --set learning_rate=3e-2 --set eval_steps=3 --set on_alarm=stop --set "
       "guard.abstain=sdkcjkdp --set output_dir=$D/invents",
       line);
    assert_int_equal(ran.status, 1);
    says(ran.err.p,
         "alarm hallucination at step 3: adapter makes answers up: 50 % of the questions went from abstained to wrong on guard qa");
}

/* A run of two adapters watches both. */
static void test_cycles(void **state) {
    (void)state;
    ok("$C train $D/run.yaml --quiet --set objective=macct --set eval.data= --set A.data=$G/a.jsonl --set B.data=$G/b.jsonl --set "
       "max_length=32 --set max_new_tokens=4 --set max_steps=1 --set guard.data=$D/old.jsonl "
       "--set guard.max_loss_rise=0 --set output_dir=$D/two && grep -q 'eval_guard_old_loss_rise_B' $D/two/metrics.jsonl");
    assert_true(guarded("two/report.json", "old_A", "loss") != guarded("two/report.json", "old_B", "loss"));
}

/* Two numbers that are one sum, of rows that may have gone through other passes. */
static void same(double a, double b) {
    if (!(fabs(a - b) <= 1e-6 * fabs(b))) flunk("%.17g is not %.17g", a, b);
}

/* Every evaluation says how far a guard's accuracy is below the best of those before it. */
static void falls_from_best(const char *report) {
    json_t *j = json_of(report), *eval;
    double best = -1;
    size_t i;
    json_array_foreach(json_object_get(j, "evals"), i, eval) {
        const json_t *g = json_array_get(json_object_get(eval, "guard"), 0);
        if (i) assert_true(fabs(number(g, "score_fall") - (best - number(g, "accuracy"))) < 1e-6);
        else assert_null(json_object_get(g, "score_fall"));
        best = fmax(best, number(g, "accuracy"));
    }
    assert_true(i > 3);
    json_decref(j);
}

/* Of the held-out data, of evaluation `i` (-1: the last). */
static double held_out(const char *report, int i, const char *figure) {
    json_t *j = json_of(report);
    const json_t *evals = json_object_get(j, "evals"), *eval = json_array_get(evals, i < 0 ? json_array_size(evals) - 1 : (size_t)i);
    const double x = number(json_array_get(json_object_get(eval, "sides"), 0), figure);
    json_decref(j);
    return x;
}

#define HEAD                                                                                                                               \
    "$C train $D/run.yaml --quiet --set objective=classification --set data=$D/train.jsonl --set max_length=16 --set "                     \
    "lora.target_modules=all-linear --set guard.max_loss_rise=0 "

/* Under a head: labelled rows are told as eval tells them, texts are read by the language model beneath, which is what another run finds that begins with
 * that adapter, and questions are answered by it; features that are made once have the guard's rows too. */
static void test_heads(void **state) {
    (void)state;
    labelled_letters();
    ok("printf '{\"prompt\": \"abc\\\\n\", \"completion\": \"ABC\"}\n' > $D/pairs.jsonl; " HEAD
       "--set eval.data= --set eval_steps=4 --set max_steps=20 --set output_dir=$D/head "
       "--set guard.data=\"[{path: $D/dev.jsonl, kind: labels}, {path: $D/old.jsonl}, {path: $D/pairs.jsonl, kind: sft}]\" && " HEAD
       "--set eval.data=$D/dev.jsonl --set max_steps=20 --set output_dir=$D/bare && "
       "cmp $D/bare/adapter/adapter_model.safetensors $D/head/adapter/adapter_model.safetensors");
    same(guarded("head/report.json", "dev", "loss"), held_out("bare/report.json", -1, "loss"));
    same(guarded("head/report.json", "dev", "macro_f1"), held_out("bare/report.json", -1, "macro_f1"));
    assert_true(guarded("head/report.json", "dev", "accuracy") > 0.6);
    falls_from_best("head/report.json");
    ok("grep -q 'Accuracy on held-out rows' $D/head/report.html && grep -q eval_guard_dev_score_fall $D/head/metrics.jsonl");
    static const char begins[] = "$C train $D/run.yaml --quiet --set init_from=$D/head --set max_steps=1 --set max_length=16 --set "
                                 "lora.target_modules=all-linear --set output_dir=$D/%s %s";
    ok(begins, "reads", "--set eval.data=$D/old.jsonl");
    same(guarded("head/report.json", "old", "loss"), held_out("reads/report.json", 0, "loss"));
    ok(begins, "writes", "--set objective=sft --set data=$D/pairs.jsonl --set eval.data=$D/pairs.jsonl");
    same(guarded("head/report.json", "pairs", "loss"), held_out("writes/report.json", 0, "loss"));
    ok("printf '{\"question\": \"abc\", \"answers\": [\"no\", \"the SDKCJKDP\"]}\n' > $D/knows.jsonl; " HEAD
       "--set eval.data= --set max_length=64 --set max_new_tokens=8 --set max_steps=1 --set learning_rate=1e-9 --set output_dir=$D/knows "
       "--set guard.data=\"[{path: $D/knows.jsonl, kind: qa}]\"");
    assert_true(guarded("knows/report.json", "knows", "right") == 1);
    ok("for once in true false; do " HEAD
       "--set method=none --set features.once=$once --set eval.data= --set max_steps=4 --set output_dir=$D/$once "
       "--set guard.data=\"[{path: $D/dev.jsonl, kind: labels}]\" || exit 1; done");
    same(guarded("true/report.json", "dev", "loss"), guarded("false/report.json", "dev", "loss"));
    refused(HEAD "--set eval.data= --set method=none --set output_dir=$D/x --set guard.data=$D/old.jsonl",
            "guard old: method none changes nothing of the base");
    refused(HEAD "--set eval.data= --set output_dir=$D/x --set guard.data=\"[{path: $D/old.jsonl, kind: labels}]\"",
            "guard old: ", "no field \"label\"");
    refused(HEAD "--set eval.data= --set output_dir=$D/x --set lora.target_modules=[q_proj,lm_head] --set guard.data=$D/old.jsonl",
            "'guard.data', whose texts", "laid down without a part of the model");
}

/* A task that turns the labels of the old one around: the score of these falls, from the best evaluation of any process. */
static void test_unlearnt(void **state) {
    (void)state;
    ok("sed 's/of s/of x/; s/of l/of s/; s/of x/of l/' $D/train.jsonl > $D/turned.jsonl");
    static const char line[] =
        HEAD "--set eval.data= --set init_from=$D/head --set data=$D/turned.jsonl --set eval_steps=2 --set max_steps=10 "
             "--set guard.data=\"[{path: $D/dev.jsonl, name: old, kind: labels}]\" --set output_dir=$D/%s %s";
    sh(line, "sounds", "--set on_alarm=stop");
    assert_int_equal(ran.status, 1);
    says(ran.err.p, "adapter forgets: its score is 0.");
    says(ran.err.p, "below its best evaluation's on guard old");
    ok(line, "silent", "--set guard.max_score_fall=0");
    assert_null(strstr(ran.err.p, "alarm"));
    ok(line, "cut", "--set guard.max_score_fall=0 --set max_steps=4");
    ok(line, "cut", "--set guard.max_score_fall=0 --resume");
    same(guarded("cut/report.json", "old", "score_fall"), guarded("silent/report.json", "old", "score_fall"));
    assert_true(guarded("cut/report.json", "old", "score_fall") > 0.3);
}

/* loss_on says what is counted, of a guard as of what is held out; an encoder-decoder's answers are guarded beneath a head too; vectors come from
 * a field or a file. */
static void test_answers(void **state) {
    (void)state;
    ok("for on in answers all; do $C train $D/run.yaml --quiet --set objective=sft --set data=$D/pairs.jsonl --set "
       "eval.data=$D/pairs.jsonl --set "
       "max_length=16 --set max_steps=1 --set loss_on=$on --set output_dir=$D/$on --set guard.data=\"[{path: $D/pairs.jsonl, name: p, "
       "kind: sft}]\" || exit 1; "
       "done");
    same(guarded("answers/report.json", "p", "loss"), held_out("answers/report.json", -1, "loss"));
    same(guarded("all/report.json", "p", "loss"), held_out("all/report.json", -1, "loss"));
    assert_true(guarded("all/report.json", "p", "loss") != guarded("answers/report.json", "p", "loss"));
#define T5 "--set model=random:3:f32 --set model_config=$D/t5.json --set tokenizer=$G/tokenizer.json --set eval.data= "
    ok("sed 's/_size\": 40/_size\": 48/' tests/golden/families/t5/config.json > $D/t5.json; " HEAD T5
       "--set max_steps=4 --set output_dir=$D/two "
       "--set guard.data=\"[{path: $D/pairs.jsonl, kind: sft}]\" --overwrite");
    ok("$C train $D/run.yaml --quiet " T5
       "--set objective=sft --set data=$D/pairs.jsonl --set eval.data=$D/pairs.jsonl --set max_length=16 "
       "--set init_from=$D/two/checkpoint-4 --set lora.target_modules=all-linear --set max_steps=1 --set output_dir=$D/three");
    same(guarded("two/report.json", "pairs", "loss"), held_out("three/report.json", 0, "loss"));
    sh(HEAD T5 "--set output_dir=$D/x --set guard.data=$D/old.jsonl");
    assert_int_equal(ran.status, 2);
    says(ran.err.p, "guard old: an encoder-decoder (t5) has nothing to read before raw text");
    sh("echo '{\"words\": [\"a\", \"b\"], \"tags\": [\"x\", \"y\"]}' > $D/tags.jsonl; " HEAD T5
       "--set objective=token_classification --set data=$D/tags.jsonl "
       "--set output_dir=$D/x --set guard.data=\"[{path: $D/pairs.jsonl, kind: sft}]\"");
    assert_int_equal(ran.status, 2);
    says(ran.err.p, "is an adapted encoder, without what writes: guard it with kind labels");
    ok("sed 's/}/, \"vectors\": [1, 2]}/' $D/pairs.jsonl > $D/seen.jsonl");
#define SEEN                                                                                                                               \
    "$C train $D/run.yaml --quiet --overwrite --set objective=sft --set method=projector --set projector.mm_hidden_size=2 --set "          \
    "data=$D/seen.jsonl --set eval.data=$D/seen.jsonl --set max_length=16 --set max_steps=2 --set output_dir=$D/seen --set guard.data="
    ok(SEEN "\"[{path: $D/seen.jsonl, name: p, kind: sft}]\"");
    same(guarded("seen/report.json", "p", "loss"), held_out("seen/report.json", -1, "loss"));
    ok("python3 -c \"import struct; h = b'{\\x27descr\\x27: \\x27<f4\\x27, \\x27fortran_order\\x27: False, \\x27shape\\x27: (1, 2), "
       "}'.ljust(117) + b'\\n'; "
       "open('$D/seen.npy', 'wb').write(b'\\x93NUMPY\\x01\\x00' + struct.pack('<H', len(h)) + h + struct.pack('<2f', 1, 2))\" && " SEEN
       "\"[{path: $D/pairs.jsonl, name: p, kind: sft, vectors: $D/seen.npy}]\"");
    same(guarded("seen/report.json", "p", "loss"), held_out("seen/report.json", -1, "loss"));
    refused(SEEN "\"[{path: $D/pairs.jsonl, kind: sft}]\"", "guard pairs: ", "pairs.jsonl:1: no field \"vectors\"");
    refused(SEEN "\"[{path: $D/knows.jsonl, kind: qa}]\"", "guard knows: a question brings no vectors, which method projector reads");
}

static void test_refused(void **state) {
    (void)state;
    refused("$C train $D/run.yaml --set data=", "'data' is missing: text trains on a file of raw text");
    refused("$C train $D/run.yaml --set method=none", "'method' none trains nothing but a classifier's head");
    refused("$C train $D/run.yaml --set labels=[a,b]", "'labels' has no use with objective text");
    refused("$C train $D/run.yaml --set max_length=1", "'max_length' wants an integer >= 2");
    refused("printf '\\n\\n' > $D/no.txt; $C train $D/run.yaml --set data=$D/no.txt --set output_dir=$D/x", "no.txt: holds no records");
    refused("printf 'a\\n' > $D/a.txt; $C train $D/run.yaml --set eval.data=$D/a.txt --set output_dir=$D/x",
            "a.txt: no text with two tokens");
#define REFUSED(guard, ...) refused("$C train $D/run.yaml --set output_dir=$D/x --set guard.data=\"" guard "\"", __VA_ARGS__)
    REFUSED("$D/no.txt", "guard no: ", "no.txt: holds no records");
    REFUSED("[$D/a.txt, {path: $D/old.jsonl, name: a}]", "'guard.data': ", " are both called a: give one of them another `name`");
    REFUSED("[{path: $D/old.jsonl, name: a.b}]", "a guard's name has 1 to 24 letters, digits, - and _, not 'a.b'");
    REFUSED("[{path: $D/old.jsonl, kind: quiz}]", "kind wants text, sft, qa or labels, found 'quiz'");
    REFUSED("[{path: $D/old.jsonl, weight: 2}]", "weight is of 'data'");
    REFUSED("[{path: $D/old.jsonl, kind: sft}]", "guard old: ", "old.jsonl:1: no \"messages\" and no \"prompt\"");
    refused("echo '{\"question\": \"a\", \"answers\": []}' > $D/q.jsonl; $C train $D/run.yaml --set output_dir=$D/x --set "
            "guard.data=\"[{path: $D/q.jsonl, kind: qa}]\"",
            "guard q: ", "q.jsonl:1: \"answers\" has 0 texts: a question wants at least one that answers it");
    REFUSED("[{path: $D/old.jsonl, kind: qa}]", "guard old: ", "old.jsonl:1: no field \"question\"");
    refused("$C train $D/run.yaml --set data=\"[{path: $D/old.jsonl, name: a}]\"", "'data': ", "'name' is of guard.data alone");
    REFUSED("[{path: $D/old.jsonl, kind: labels}]", "kind labels is told by a head", "objective text trains none");
    REFUSED("[{path: $D/old.jsonl, vectors: v.npy}]", "vectors are read by method projector alone");
    refused("$C train $D/run.yaml --set field=body --set output_dir=$D/x", "a.jsonl:1: no field \"body\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_measured),   cmocka_unit_test(test_run),       cmocka_unit_test(test_guards),
                                       cmocka_unit_test(test_forgetting), cmocka_unit_test(test_questions), cmocka_unit_test(test_cycles),
                                       cmocka_unit_test(test_heads),      cmocka_unit_test(test_unlearnt),  cmocka_unit_test(test_answers),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
