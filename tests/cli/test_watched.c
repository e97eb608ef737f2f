/* A run that is watched, as its user meets it: what alarms do, the best evaluation by any figure, early stopping, what is refused, the page of each
 * kind of run, and (tools/kill-sweep) that none of it is lost when the run is killed. On tests/golden/cipher, whose base copies its input before it
 * has learnt anything. */
#define _GNU_SOURCE
#include "support/shell.h"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("printf 'model: %%s\noutput_dir: %%s/run\nA: {data: %%s/a.jsonl}\nB: {data: %%s/b.jsonl}\neval: {data: %%s/test.jsonl, limit: 6, samples: 1}\nmax_length: 32\nmax_new_tokens: 12\n"
       "max_steps: 9\neval_steps: 3\nper_device_train_batch_size: 2\nlearning_rate: 1e-5\nlora: {r: 2, target_modules: attention}\n' $G $D $G $G $G > $D/run.yaml");
    return 0;
}

static double at_last(const char *run, const char *list, int side, const char *figure) {
    char path[64];
    snprintf(path, sizeof path, "%s/report.json", run);
    json_t *j = json_of(path), *evals = json_object_get(j, "evals"), *last = json_array_get(evals, json_array_size(evals) - 1);
    const json_t *v = json_object_get(json_array_get(json_object_get(last, list), (size_t)side), figure);
    if (!json_is_number(v)) flunk("%s: no %s", run, figure);
    const double x = json_number_value(v);
    json_decref(j);
    return x;
}

/* The base copies: that is said at each evaluation after a step, and no more than said. */
static void test_warn(void **state) {
    (void)state;
    ok("$C train $D/run.yaml");
    says(ran.err.p, "step 3: alarm identity: adapter A repeats its input: 100 % more of its outputs equal it than should");
    says(ran.err.p, "alarm drift: adapter B writes another language than its side's texts: character pairs diverge by");
    says(ran.out.p, "copies 100 %");
    assert_true(at_last("run", "health", 0, "copy_rate") == 1);
    assert_true(at_last("run", "health", 1, "base_agreement") > 0.99);
    assert_true(at_last("run", "health", 0, "movement") > 1e-5);
    ok("grep -q '\"alarms\":\\[{\"name\":\"identity\"' $D/run/metrics.jsonl && grep -q 'Copies of the input' $D/run/report.html && "
       "grep -q '<b>identity</b>' $D/run/report.html");
    ok("test ! -e $D/run/runs && $C train $D/run.yaml --quiet --overwrite --set report_to=tensorboard --set alarms.identity=0 --set alarms.drift=0 && ls $D/run/runs | grep -q '^events.out.tfevents.' ");
    assert_null(strstr(ran.err.p, "alarm"));
}

/* An end by an alarm leaves a checkpoint; --resume goes on behind it. Where a killed run has left none, what it had told did not happen. */
static void test_stop(void **state) {
    (void)state;
    sh("$C train $D/run.yaml --quiet --set on_alarm=stop --set output_dir=$D/stop");
    assert_int_equal(ran.status, 1);
    says(ran.err.p, "cyclora: error: alarm identity at step 3: adapter A repeats its input");
    says(ran.err.p, "--resume goes on all the same");
    ok("test -d $D/stop/checkpoint-3 -a ! -e $D/stop/A && $C train $D/run.yaml --quiet --resume --set output_dir=$D/stop && cmp $D/stop/A/adapter_model.safetensors $D/run/A/adapter_model.safetensors");
    ok("mkdir $D/none && cp $D/run/config.yaml $D/run/metrics.jsonl $D/none && grep -q '\"step\":9' $D/none/metrics.jsonl && "
       "$C train $D/run.yaml --quiet --resume --set output_dir=$D/none --set max_steps=3 && ! grep -q '\"step\":9' $D/none/metrics.jsonl && grep -q '\"step\":3' $D/none/metrics.jsonl");
}

/* Back to the best evaluation once, adapters and optimizers; then the next alarm ends the run. An adapter that does not move is one. */
static void test_rollback(void **state) {
    (void)state;
    sh("$C train $D/run.yaml --quiet --set on_alarm=rollback --set metric_for_best_model=round_trip.chrf --set output_dir=$D/back --set alarms.drift=0 --set save_steps=3");
    assert_int_equal(ran.status, 1);
    says(ran.err.p, "step 3: back to the adapters of the best evaluation, at step 0; the next alarm stops the run");
    says(ran.err.p, "error: alarm identity at step 6");
    says(ran.err.p, "after one rollback");
    ok("cmp $D/back/checkpoint-3/A/adapter_model.safetensors $D/back/best/A/adapter_model.safetensors && cmp $D/back/checkpoint-3/B/optimizer.safetensors $D/back/best/B/optimizer.safetensors && grep -q '\"rollback_to\":0' $D/back/metrics.jsonl");
    ok("! cmp -s $D/back/checkpoint-6/A/adapter_model.safetensors $D/back/best/A/adapter_model.safetensors");
    ok("$C train $D/run.yaml --quiet --set output_dir=$D/still --set alarms.identity=0 --set alarms.drift=0 --set learning_rate=1e-30");
    says(ran.err.p, "alarm still: adapter B has stopped moving: by 0 of its length since the last evaluation");
}

/* A round trip that is never better than at the start ends a run; its adapters are those of the start. Any figure may be the measure. */
static void test_early(void **state) {
    (void)state;
    ok("$C train $D/run.yaml --quiet --set metric_for_best_model=round_trip.chrf --set early_stopping_patience=2 --set output_dir=$D/early --set alarms.identity=0 --set alarms.drift=0");
    json_t *j = json_of("early/report.json");
    assert_int_equal(json_integer_value(json_object_get(j, "steps")), 6);
    assert_true(json_is_false(json_object_get(j, "stopped")));
    json_decref(j);
    ok("cmp $D/early/A/adapter_model.safetensors $D/early/best/A/adapter_model.safetensors && grep -q 'ended by early_stopping_patience' $D/early/report.html");
    ok("$C train $D/run.yaml --quiet --set metric_for_best_model=health.A.movement --set greater_is_better=false --set output_dir=$D/least --set max_steps=3 && test -d $D/least/best");
    refused("$C train $D/run.yaml --quiet --set metric_for_best_model=health.A.moves --set output_dir=$D/x", "'metric_for_best_model' is health.A.moves, which evaluations do not have: theirs are ", "health.B.copy_rate", "round_trip.chrf");
    refused("$C train $D/run.yaml --set metric_for_best_model=chrff", "did you mean 'chrf'?");
    refused("$C train $D/run.yaml --set early_stopping_patience=2", "needs metric_for_best_model");
    refused("$C train $D/run.yaml --set on_alarm=rollback", "'on_alarm: rollback' needs metric_for_best_model");
    refused("$C train $D/run.yaml --set metric_for_best_model=chrf --set early_stopping_patience=2 --set eval_steps=0", "needs eval_steps");
    refused("$C train $D/run.yaml --set alarms.drift=-1", "alarms.drift");
}

/* What does not apply is not on the page. */
static void test_pages(void **state) {
    (void)state;
    labelled_letters();
    ok("sed -e 's/^A: .*/data: '$(echo $D | sed 's,/,\\\\/,g')'\\/train.jsonl/' -e '/^B:/d' -e 's/^eval: .*/eval: {data: '$(echo $D | sed 's,/,\\\\/,g')'\\/dev.jsonl}/' $D/run.yaml > $D/class.yaml && "
       "$C train $D/class.yaml --quiet --set objective=classification --set output_dir=$D/class && grep -q 'Macro F1' $D/class/report.html && grep -q '3 classes' $D/class/report.html && "
       "! grep -q 'Copies of the input\\|<h2>Samples' $D/class/report.html && grep -q 'Movement' $D/class/report.html");
    ok("! grep -il '<script\\|http' $D/class/report.html $D/run/report.html");
}

static void test_kills(void **state) {
    (void)state;
    ok("TMPDIR=$D python3 tools/kill-sweep --binary $C --kills 5 --steps 6 --save-steps 2");
    says(ran.out.p, "5 kills within");
    says(ran.out.p, "disk full: exit status 1, cyclora: error: ");
    says(ran.out.p, "kill sweep: well");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_warn), cmocka_unit_test(test_stop), cmocka_unit_test(test_rollback), cmocka_unit_test(test_early), cmocka_unit_test(test_pages), cmocka_unit_test(test_kills)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
