/* The run folder as processes meet it: one run at a time trains into it, a killed one leaves nothing that blocks the next,
 * and what it did not finish writing is swept; from random weights no adapter leaves it. */
#define _GNU_SOURCE
#include "support/shell.h"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("{ echo \"model: $G\"; echo 'max_steps: 2'; echo 'max_new_tokens: 4'; echo 'max_length: 32'; echo 'pass_tokens: 64'; "
       "echo 'per_device_train_batch_size: 2'; echo 'lora: {r: 2, lora_alpha: 4, target_modules: [q_proj, v_proj]}'; "
       "echo \"A: {data: $G/a.jsonl}\"; echo \"B: {data: $G/b.jsonl}\"; } > $D/run.yaml; echo '{\"prompt\": \"abc\", \"completion\": \"ABC\"}' > $D/sft.jsonl");
    return 0;
}

/* Starts a run that would go on for long, and waits (a minute at most) until it has saved; its number is in $D/pid. */
#define START(out)                                                                                                                \
    "rm -f $D/events; $C train $D/run.yaml --json --set output_dir=$D/" out " --set max_steps=1000000 --set save_steps=2 > $D/events & echo $! > $D/pid; " \
    "n=0; while ! grep -qs '\"event\":\"save\"' $D/events; do sleep 0.05; kill -0 $(cat $D/pid) && test $((n += 1)) -lt 1200 || exit 99; done"

static void test_one_at_a_time(void **state) {
    (void)state;
    ok(START("busy"));
    sh("cat $D/pid");
    char who[64];
    snprintf(who, sizeof who, "is in use by process %ld:", strtol(ran.out.p, NULL, 10));
    refused("$C train $D/run.yaml --set output_dir=$D/busy", "output_dir ", "/busy ", who);
    refused("$C train $D/run.yaml --set output_dir=$D/busy --resume", "/busy ", who);
    refused("$C train $D/run.yaml --set output_dir=$D/busy --overwrite", "/busy ", who);
    ok("kill -0 $(cat $D/pid) && test -f $D/busy/config.yaml"); /* none the worse for it */
    ok("$C train $D/run.yaml --quiet --set output_dir=$D/other");
    ok("kill -TERM $(cat $D/pid); while kill -0 $(cat $D/pid) 2>/dev/null; do sleep 0.05; done; test ! -e $D/busy/.lock");
}

/* A killed run leaves its lock file, which locks nothing. */
static void test_killed(void **state) {
    (void)state;
    ok(START("killed"));
    ok("kill -KILL $(cat $D/pid); while kill -0 $(cat $D/pid) 2>/dev/null; do sleep 0.05; done; test -f $D/killed/.lock");
    refused("$C train $D/run.yaml --set output_dir=$D/killed", "is not empty", "--resume");
    ok("echo 1 > $D/killed/.lock"); /* the number of a process that lives: still no lock */
    sh("ls -d $D/killed/checkpoint-* | sed 's/.*-//' | sort -n | tail -1");
    long last = strtol(ran.out.p, NULL, 10);
    ok("$C train $D/run.yaml --json --set output_dir=$D/killed --set max_steps=%ld --resume", last + 1);
    char first[64];
    snprintf(first, sizeof first, "{\"event\":\"step\",\"step\":%ld,", last + 1);
    says(ran.out.p, first);
    ok("test -f $D/killed/A/adapter_model.safetensors && test ! -e $D/killed/.lock");
    ok("mkdir $D/early && touch $D/early/.lock && $C train $D/run.yaml --quiet --set output_dir=$D/early"); /* killed before it wrote anything */
}

/* Of runs that start together into a folder that is not there yet, one goes on. */
static void test_started_together(void **state) {
    (void)state;
    ok("for i in 1 2 3 4; do { $C train $D/run.yaml --quiet --set output_dir=$D/race > $D/said$i; echo $? > $D/status$i; } & done; wait; cat $D/status?");
    int done = 0, refusals = 0;
    for (const char *p = ran.out.p; *p; p++) done += *p == '0', refusals += *p == '2';
    if (done != 1 || refusals != 3) flunk("statuses:\n%s%s", ran.out.p, ran.err.p);
    ok("test $(wc -l < $D/race/metrics.jsonl) = 4"); /* two steps, two evaluations */
}

static void test_lock_is_no_link(void **state) {
    (void)state;
    ok("mkdir $D/linked && echo precious > $D/thesis.tex && ln -s ../thesis.tex $D/linked/.lock");
    sh("$C train $D/run.yaml --set output_dir=$D/linked");
    if (ran.status != 1) flunk("status %d: %s", ran.status, ran.err.p);
    says(ran.err.p, "/linked/.lock: cannot create");
    ok("test \"$(cat $D/thesis.tex)\" = precious");
}

/* Unfinished checkpoints go, whatever process now has their number; what only looks like one stays. */
static void test_sweep(void **state) {
    (void)state;
    ok("$C train $D/run.yaml --quiet --set output_dir=$D/swept");
    ok("cd $D/swept && mkdir -p .checkpoint-3.tmp-1/A .checkpoint-12.tmp-4194304 && touch .checkpoint-3.tmp-1/A/adapter_model.safetensors && "
       "mkdir .checkpoint-3.tmp- .checkpoint-.tmp-3 .checkpoint-3.tmp-4x checkpoint-3.tmp-4 .checkpoint-x.tmp-4 ../precious && touch .checkpoint-7.tmp-8 ../precious/thesis.tex && "
       "ln -s ../precious .checkpoint-8.tmp-9 && ls -A > ../all");
    refused("$C train $D/run.yaml --set output_dir=$D/swept --set lora.r=3 --set max_steps=9 --resume", "lora.r"); /* what is refused sweeps nothing */
    ok("ls -A $D/swept | cmp - $D/all");
    ok("$C train $D/run.yaml --quiet --set output_dir=$D/swept --set max_steps=3 --resume");
    ok("cd $D/swept && grep -v -e '^.checkpoint-3.tmp-1$' -e '^.checkpoint-12.tmp-4194304$' ../all > ../stay && ls -A | grep -v '^checkpoint-3$' | cmp - ../stay && test -f ../precious/thesis.tex");
}

/* A benchmark on random weights runs, resumes, and keeps its best; nothing of it is exported, and what lies in its
 * checkpoints goes on no other base. */
static void test_random_base(void **state) {
    (void)state;
#define RANDOM "$C train $D/run.yaml --set model=random:7:f32 --set model_config=$G/config.json --set tokenizer=$G/tokenizer.json --set output_dir=$D/random "
    ok(RANDOM "--set save_steps=1 --set eval.data=$G/test.jsonl --set eval.limit=2 --set metric_for_best_model=loss");
    says(ran.err.p, "random weights are for planning and benchmarks");
    says(ran.err.p, "random:7:f32 is a random model: no adapters are written to ");
    if (strstr(ran.out.p, "cyclora generate")) flunk("an adapter is offered that is not there: %s", ran.out.p);
    ok("cd $D/random && test ! -e A && test ! -e B && test -f report.json && test -f checkpoint-1/A/adapter_model.safetensors && test -f best/B/adapter_model.safetensors");
    ok(RANDOM "--resume --set max_steps=3 --json");
    says(ran.out.p, "\"random\":true");
    ok("cd $D/random && test ! -e A && test -d checkpoint-3");
    ok(RANDOM "--overwrite --set objective=sft --set data=$D/sft.jsonl && test ! -e $D/random/adapter && test -d $D/random/checkpoint-2/adapter");
    ok(RANDOM "--overwrite --quiet");
    static const char why[] = "was trained on the random weights random:7:f32";
    refused("$C generate --model $G --adapter $D/random/checkpoint-2/A --prompt abc", "random/checkpoint-2/A", why);
    refused("$C eval --model $G --adapter $D/random/checkpoint-2/A --text $G/README.md", why);
    refused("$C eval $D/run.yaml --run $D/random/checkpoint-2", why);
    refused("$C generate --model random:7:f32 --prompt abc", "name a real one");
    refused("$C train $D/run.yaml --set output_dir=$D/none --set A.adapter=$D/random/checkpoint-2/A", "side A", why);
    refused("$C train $D/run.yaml --set output_dir=$D/random --set max_steps=9 --resume", "checkpoint-2/A", why);
    ok(RANDOM "--set output_dir=$D/again --quiet --set A.adapter=$D/random/checkpoint-2/A"); /* the same base */
}

/* Near-uniform sampling of bytes is hardly ever UTF-8. Such text goes to the other side (the prompts lead it in differently), and
 * through the round trip at the end; neither stops the run, and the samples show U+FFFD for it. */
static void test_bytes_that_are_no_text(void **state) {
    (void)state;
    ok("mkdir $D/bytes && cp tests/golden/tokenizer/small.json $D/bytes/tokenizer.json && echo '{\"eos_token\": \"<|im_end|>\"}' > $D/bytes/tokenizer_config.json && "
       "sed 's/\"vocab_size\": [0-9]*/\"vocab_size\": 2003/' $G/config.json > $D/bytes/config.json");
    ok("$C train $D/run.yaml --set model=random:7:f32 --set model_config=$D/bytes/config.json --set tokenizer=$D/bytes/tokenizer.json --set output_dir=$D/unread "
       "--set generation.temperature=9 --set 'A.prompt={text}' --set 'B.prompt=B: {text}' --set max_length=64 --set max_new_tokens=16 --json");
    says(ran.err.p, "generated ids pass through text");
    says(ran.out.p, "\xEF\xBF\xBD");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_at_a_time), cmocka_unit_test(test_killed), cmocka_unit_test(test_started_together),
                                       cmocka_unit_test(test_lock_is_no_link), cmocka_unit_test(test_sweep), cmocka_unit_test(test_random_base),
                                       cmocka_unit_test(test_bytes_that_are_no_text)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
