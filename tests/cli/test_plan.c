/* `cyclora plan` as its users meet it: a model's config.json without weights, phases, limits and what fits them, the sums of --explain; and
 * the plan against runs, one whose bytes a formula gives, and a sweep of random settings near a limit: what fits runs within its plan, what is
 * refused would not have. */
#define _GNU_SOURCE
#include "support/shell.h"
#include "base/str.h"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("head -200 $G/a.jsonl > $D/a.jsonl; head -200 $G/b.jsonl > $D/b.jsonl\n"
       "for i in $(seq 1 40); do printf '%%s\\n' '{\"prompt\": \"abcdefgh\\n\", \"completion\": \"ABCDEFGH\"}'; done > $D/sft.jsonl\n"
       "{ echo \"model: $G\"; echo \"output_dir: $D/out\"; echo 'max_steps: 1'; echo 'max_new_tokens: 8'; echo 'max_length: 48'; echo "
       "'pass_tokens: 256'; "
       "echo 'per_device_train_batch_size: 16'; echo 'threads: 1'; echo 'lora: {r: 8, lora_alpha: 16}'; "
       "echo \"A: {data: $D/a.jsonl}\"; echo \"B: {data: $D/b.jsonl}\"; } > $D/run.yaml\n"
       "{ echo \"model: $G\"; echo \"output_dir: $D/out\"; echo 'objective: sft'; echo \"data: $D/sft.jsonl\"; echo 'max_steps: 1'; echo "
       "'max_length: 48'; "
       "echo 'pass_tokens: 256'; echo 'per_device_train_batch_size: 16'; echo 'threads: 1'; echo 'lora: {r: 8, lora_alpha: 16}'; } > "
       "$D/sft.yaml");
    return 0;
}

static json_t *out_json(void) {
    json_t *j = json_loads(ran.out.p, JSON_DISABLE_EOF_CHECK, NULL);
    if (!j) flunk("not JSON: %s", ran.out.p);
    return j;
}

static double num(const json_t *j, const char *key) { return json_number_value(json_object_get(j, key)); }

static const json_t *named(const json_t *list, const char *name) {
    size_t i;
    const json_t *j;
    json_array_foreach(list, i, j) if (!strcmp(json_string_value(json_object_get(j, "name")), name)) return j;
    return NULL;
}

static double line_of(const json_t *plan, const char *name, const char *key) {
    return num(named(json_object_get(plan, "memory"), name), key);
}

static json_t *plan_of(const char *what) {
    ok("$C plan %s --json", what);
    return out_json();
}

/* --- a model without weights ------------------------------------------------------------------------------------------- */
/* 70.6e9 parameters: 80 blocks of q, o, k, v, gate, up, down and two norms, a table, a head, a norm. The address space alone is taken. */
static void test_sizes_alone(void **state) {
    (void)state;
    const double C = 8192, KD = 1024, F = 28672, V = 128256, L = 80,
                 parameters = L * (2 * C * C + 2 * C * KD + 3 * C * F + 2 * C) + 2 * V * C + C;
    json_t *j = plan_of("bench/shapes/70b.json --memory-budget 400GB");
    assert_true(num(json_object_get(j, "model"), "parameters") == parameters);
    assert_true(line_of(j, "weights", "bytes") == 2 * parameters);
    assert_true(num(j, "assumed_tokens") == 1024);
    json_decref(j);
    j = plan_of("bench/shapes/70b.json:q4_k --memory-budget 400GB"); /* 4.5 bits; vectors f32 */
    assert_true(line_of(j, "weights", "bytes") == (parameters - (2 * L + 1) * C) * 4.5 / 8 + (2 * L + 1) * C * 4);
    json_decref(j);
    j = plan_of("bench/shapes/70b.json:nf4 --memory-budget 400GB"); /* with double quantisation: 4.25 bits */
    assert_true(line_of(j, "weights", "bytes") == (parameters - (2 * L + 1) * C) * 4.25 / 8 + (2 * L + 1) * C * 4);
    json_decref(j);
    refused("$C plan bench/shapes/70b.json:nf4_dq", "no file has weights of type 'nf4_dq'");
    ok("cp $G/config.json $D/only.json; mkdir $D/folder; cp $G/config.json $D/folder/config.json; $C plan $D/folder --set objective=sft");
    says(ran.out.p, "No data are given: rows of 1024 tokens are planned for.");
    ok("$C plan $D/only.json --set max_length=64 --set max_new_tokens=8 | grep -q 'rows of 64 tokens'");
    refused("$C train $D/sft.yaml --set model=$D/only.json", "has sizes and no weights: it can be planned (cyclora plan), not run");
    refused("$C plan $D/only.json --set objective=classification", "'data' is missing", "how many rows the head has");
    refused("$C plan $D/only.json:q9", "no file has weights of type 'q9'");
    refused("$C plan $D/none.json", "none.json");
    refused("$C plan $D/sft.yaml --set model=$D/only.json", "has no tokenizer of its own");
    refused("echo '{\"model_type\": \"llama\"}' > $D/bad.json; $C plan $D/bad.json", "bad.json", "num_hidden_layers");
    refused("sed 's/\"dtype\"/\"quantization_config\": {}, \"dtype\"/' $D/only.json > $D/packed.json; $C plan $D/packed.json", "quantised",
            "packed.json:nf4");
    refused("$C train $D/sft.yaml --set device=h100", "is a name to plan for", "device: cuda");
}

/* A virtual token is few numbers to train, and the activations of the whole network are kept for it as they are for LoRA; for a head alone they are
 * not. */
static void test_few_parameters(void **state) {
    (void)state;
    static const char line[] = "$D/sft.yaml --set gradient_checkpointing=none --set lora.target_modules=all-linear",
                      prompt[] = " --set method=prompt_tuning --set prompt_tuning.num_virtual_tokens=1";
    char with[512];
    json_t *lora = plan_of(line);
    snprintf(with, sizeof with, "%s%s", line, prompt);
    json_t *soft = plan_of(with);
    labelled_letters();
    snprintf(with, sizeof with, "%s --set objective=classification --set method=none --set data=$D/train.jsonl", line);
    json_t *head = plan_of(with);
    assert_true(num(json_array_get(json_object_get(soft, "sides"), 0), "trained") < 100);
    const double most = line_of(lora, "activations", "bytes");
    assert_true(line_of(soft, "activations", "bytes") > 0.7 * most);
    assert_true(line_of(head, "activations", "bytes") < 0.2 * most);
    json_decref(lora);
    json_decref(soft);
    json_decref(head);
}

/* The plan without data is that of data whose rows are as long as they may be. */
static void test_without_data(void **state) {
    (void)state;
    ok("for i in 1 2 3; do printf '%%s\\n' '{\"prompt\": \"abcdefghabcdefghabcdefghabcdefgh\\n\", \"completion\": "
       "\"ABCDEFGHABCDEFGHABCDEFGHABCDEFGH\"}'; done > $D/long.jsonl");
    json_t *with = plan_of("$D/sft.yaml --set data=$D/long.jsonl"), *without = plan_of("$D/sft.yaml --set data=");
    static const char *const lines[] = {"adapters", "gradients", "optimizer", "activations", "scratch"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (line_of(with, lines[i], "bytes") != line_of(without, lines[i], "bytes")) flunk("%s", lines[i]);
    json_decref(with);
    json_decref(without);
}

/* Scratch that threads own is counted for those that the run has. */
static void test_threads(void **state) {
    (void)state;
    json_t *one = plan_of("$D/sft.yaml --device cpu --set pass_tokens=64 --set threads=1"),
           *four = plan_of("$D/sft.yaml --device cpu --set pass_tokens=64 --set threads=4");
    assert_true(line_of(one, "scratch", "bytes") < line_of(four, "scratch", "bytes"));
    assert_true(line_of(one, "activations", "bytes") == line_of(four, "activations", "bytes"));
    json_decref(one);
    json_decref(four);
}

/* What is said of Mistral 7B in f32, by the plan itself: 7.2417e9 parameters, weights and gradients and twice that of states; activations are those
 * of --explain full, by tokens. LoRA beside it has gradients of its own numbers and of no others. */
static void test_mistral(void **state) {
    (void)state;
    const double C = 4096, KD = 1024, F = 14336, V = 32000, L = 32, H = 32,
                 parameters = L * (2 * C * C + 2 * C * KD + 3 * C * F + 2 * C) + 2 * V * C + C;
    assert_true(fabs(parameters - 7.2417e9) < 1e5);
    ok("echo '{\"model_type\": \"mistral\", \"vocab_size\": 32000, \"hidden_size\": 4096, \"intermediate_size\": 14336, "
       "\"num_hidden_layers\": "
       "32, \"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"max_position_embeddings\": 32768, \"rms_norm_eps\": 1e-5, "
       "\"rope_theta\": "
       "10000.0, \"tie_word_embeddings\": false}' > $D/mistral.json");
    for (int tokens = 512; tokens <= 2048; tokens *= 4) {
        char line[512];
        const int n = snprintf(line, sizeof line,
                               "$D/mistral.json:f32 --memory-budget 400GB --set objective=sft --set per_device_train_batch_size=1 --set "
                               "gradient_checkpointing=none --set max_length=%d --set pass_tokens=%d",
                               tokens, tokens);
        json_t *lora = plan_of(line);
        snprintf(line + n, sizeof line - (size_t)n, " --set method=full");
        json_t *full = plan_of(line);
        assert_true(num(json_object_get(full, "model"), "parameters") == parameters);
        assert_true(line_of(lora, "weights", "bytes") == 4 * parameters);
        assert_true(line_of(full, "adapters", "bytes") == 4 * parameters); /* that is what is trained, 28.97 GB */
        assert_true(line_of(full, "gradients", "bytes") == 4 * parameters);
        assert_true(line_of(full, "optimizer", "bytes") == 8 * parameters);
        assert_true(line_of(lora, "gradients", "bytes") == 4 * num(json_array_get(json_object_get(lora, "sides"), 0), "trained"));
        const double kept = 4.0 * tokens * L * (6 * C + 2 * KD + 3 * F + 2 + H), act = line_of(full, "activations", "bytes");
        if (act < kept || act > 1.02 * kept) flunk("%d tokens: %.0f bytes of activations, by hand %.0f", tokens, act, kept);
        json_decref(lora);
        json_decref(full);
    }
}

/* --- phases ------------------------------------------------------------------------------------------------------------ */
static void test_phases(void **state) {
    (void)state;
    static const char *const names[] = {"load", "generate", "train", "evaluate", "save", "merge"};
    json_t *j = plan_of("$D/run.yaml");
    const json_t *phases = json_object_get(j, "phases"), *line;
    double most = 0;
    assert_int_equal(json_array_size(phases), 6);
    for (int i = 0; i < 6; i++) {
        const json_t *p = named(phases, names[i]);
        double sum = 0;
        const char *key;
        if (!p) flunk("%s", names[i]);
        json_object_foreach((json_t *)json_object_get(p, "lines"), key, line) sum += json_number_value(line);
        assert_true(sum == num(p, "total"));
        if (i < 5 && sum > most) most = sum;
    }
    assert_true(num(j, "peak") == num(j, "total"));
    assert_true(num(j, "peak_kept") >= 0 && num(j, "peak") == most + num(j, "peak_kept"));
    assert_string_equal(json_string_value(json_object_get(j, "peak_phase")), "train");
    const json_t *generate = json_object_get(named(phases, "generate"), "lines"), *train = json_object_get(named(phases, "train"), "lines");
    assert_true(num(generate, "kv cache") == line_of(j, "kv cache", "bytes"));
    assert_null(json_object_get(train, "kv cache")); /* its bytes are the activations' while training */
    assert_null(json_object_get(generate, "gradients"));
    json_decref(j);
    ok("$C plan $D/run.yaml");
    says(ran.out.p, "set by train\n");
    says(ran.out.p, "activations   #");
    says(ran.out.p, "a step whose texts all have max_new_tokens takes at least ");
    if (strstr(ran.out.p, "\033[")) flunk("colours where there is no terminal");
}

/* --- limits ------------------------------------------------------------------------------------------------------------ */
/* What --solve gives fits a share of the plan, its runtime apart (which sanitizers make twice as large), and one more does not. */
static void solved(const char *config, const char *what, const char *key, double share) {
    json_t *j;
    ok("$C plan %s --json", config);
    j = out_json();
    const double own = line_of(j, "runtime", "bytes"), limit = floor((own + (num(j, "total") - own) * share) / 1000);
    json_decref(j);
    ok("$C plan %s --memory-budget %.0fKB --solve %s --json", config, limit, what);
    j = out_json();
    const json_t *s = json_object_get(j, "solved"), *value = json_object_get(s, "value");
    if (!json_is_integer(value)) flunk("%s: %s", what, ran.out.p);
    const long long v = json_integer_value(value);
    const double total = num(s, "total");
    assert_true(total <= limit * 1000);
    json_decref(j);
    ok("$C plan %s --set %s=%lld --json", config, key, v);
    j = out_json();
    if (num(j, "total") != total) flunk("%s %lld: %f, solved as %f", key, v, num(j, "total"), total);
    json_decref(j);
    sh("$C plan %s --memory-budget %.0fKB --set %s=%lld", config, limit, key, v + 1);
    if (ran.status != 2) flunk("%s=%lld fits too", key, v + 1);
}

static void test_solve(void **state) {
    (void)state;
    solved("$D/sft.yaml --set gradient_checkpointing=none --set pass_tokens=1024", "pass_tokens", "pass_tokens", 0.9);
    solved("$D/run.yaml --set generation_batch=16 --set pass_tokens=1 --set gradient_checkpointing=block --set max_new_tokens=24",
           "generation_batch", "generation_batch", 0.97);
    solved("$D/sft.yaml --set data= --set pass_tokens=1 --set max_length=400", "max_length", "max_length", 0.9);
    solved("$D/sft.yaml --set pass_tokens=1 --set lora.r=64", "rank", "lora.r", 0.9);
    ok("$C plan $D/sft.yaml --solve checkpointing | grep -q '^gradient_checkpointing: none takes'");
    ok("$C plan bench/shapes/8b.json --memory-budget 20GB --solve base --set objective=sft --set max_length=512 --set "
       "per_device_train_batch_size=1 --json");
    json_t *j = out_json();
    const json_t *s = json_object_get(j, "solved");
    const double layers = num(s, "value"), C = 4096, KD = 1024, F = 14336, V = 128256;
    assert_true(num(s, "parameters") == layers * (2 * C * C + 2 * C * KD + 3 * C * F + 2 * C) + 2 * V * C + C);
    assert_true(num(s, "total") <= 20e9 && layers > 25);
    json_decref(j);
    ok("$C plan bench/shapes/8b.json --memory-budget 1GB --solve base --set objective=sft | tail -1");
    says(ran.out.p, "layers: nothing fits 1.00 GB");
    refused("$C plan $D/sft.yaml --solve pass_token", "is not known", "pass_tokens");
    refused("$C plan $D/sft.yaml --solve generation_batch", "no such setting", "objective sft");
    refused("$C plan $D/sft.yaml --solve rank --set method=ln_tuning", "no such setting", "ln_tuning");
    refused("$C plan $D/sft.yaml --solve rank --explain", "do not go together");
}

/* States in the host's memory: on the card two pages of 4 MB of weights, each with two states of as many bytes, among the activations, or behind
 * those of a backward pass that updates, and tables of the host's pages (8 bytes for 4096, in pages of 2 MiB); and a step takes the way there and back. */
static void states_pass_by(void) {
    enum { PAGES = 2 * 2 * (4 << 20) };
    for (int in_bwd = 0; in_bwd < 2; in_bwd++) {
        double act[2], states[2], total[2], seconds[2], runtime[2];
        for (int away = 0; away < 2; away++) {
            sh("$C plan bench/shapes/8b.json --device h100 --set objective=sft --set max_length=512 --set lora.r=64 --set max_grad_norm=0 "
               "--set optimizer_in_bwd=%s --set offload_optimizer=%s --json",
               in_bwd ? "true" : "false", away ? "idle" : "none");
            json_t *j = out_json();
            act[away] = line_of(j, "activations", "bytes"), states[away] = line_of(j, "optimizer", "bytes"), total[away] = num(j, "total");
            seconds[away] = num(json_object_get(j, "forecast"), "optimizer_s"), runtime[away] = line_of(j, "runtime", "bytes");
            json_decref(j);
        }
        const double more = act[1] - act[0], page = 2 << 20, tables = ceil(floor(states[0] / 4096) * 8 / page) * page;
        assert_true(runtime[1] - runtime[0] == tables);
        assert_true(states[0] > 1e9 && states[1] == 0 && total[0] - total[1] == states[0] - more - tables);
        assert_true(in_bwd ? more >= PAGES && more < PAGES + 256 : more == 0);
        assert_true(seconds[1] == states[0] / 64e9);
    }
}

/* A card by name: a build with CUDA plans for it, whether or not it is here; another one says what it lacks. */
static void test_named_card(void **state) {
    (void)state;
    static const char line[] = "$C plan bench/shapes/8b.json --device h100 --set objective=sft --set max_length=512 --json";
    refused("$C plan $D/sft.yaml --device h1000", "device", "h100");
    sh(line);
    if (ran.status) {
        says(ran.err.p, "device h100: ");
        says(ran.err.p, "without CUDA");
        return;
    }
    json_t *j = out_json();
    assert_true(num(j, "limit") == 80e9);
    assert_string_equal(json_string_value(json_object_get(j, "device")), "h100");
    assert_string_equal(json_string_value(json_object_get(json_object_get(j, "forecast"), "rates")), "H100 SXM 80 GB");
    const double parameters = num(json_object_get(j, "model"), "parameters"), norms = (2 * 32 + 1) * 4096; /* f32; and 64 frequencies */
    assert_true(line_of(j, "weights", "bytes") == 2 * (parameters - norms) + 4 * (norms + 64));
    json_decref(j);
    states_pass_by();
}

/* --- the sums ---------------------------------------------------------------------------------------------------------- */
static void test_explain(void **state) {
    (void)state;
    ok("$C plan --explain dmcct");
    says(ran.out.p, "2 θ (p + 64) bits");
    says(ran.out.p, "20.00 GB");
    says(ran.out.p, "32.00 GB");
    ok("$C plan --explain macct");
    says(ran.out.p, "21.76 bits");
    says(ran.out.p, "7.353e9");
    says(ran.out.p, "said to be ~7.5)           7.35x");
    says(ran.out.p, "8.11x");
    says(ran.out.p, "8.45x");
    says(ran.out.p, "16.0x");
    ok("$C plan --explain lora");
    says(ran.out.p, "29.12 GB");
    says(ran.out.p, "33.60 GB");
    ok("$C plan --explain full");
    says(ran.out.p, "28.97 GB");
    says(ran.out.p, "26.98 GiB");
    says(ran.out.p, "not terms of a sum");
    ok("$C plan $D/run.yaml --explain macct");
    says(ran.out.p, "This run: ");
    ok("$C plan --explain --json | grep -q '\"topics\"'");
    refused("$C plan $D/run.yaml --explain nonsense", "superfluous argument 'nonsense'", "dmcct, macct, lora or full");
    refused("$C plan $D/run.yaml macct", "superfluous argument 'macct'");
}

/* --- a profile --------------------------------------------------------------------------------------------------------- */
/* Every phase of a step is there with what its work needs, the parts are the whole, and the run is the one that it would have been. */
static void test_profile(void **state) {
    (void)state;
    static const char *const phases[] = {"generate", "forward", "backward", "optimizer"};
    double seconds[4] = {0}, bound[4] = {0}, sum = 0;
    size_t i;
    json_t *row;
    ok("$C train $D/run.yaml --quiet --set per_device_train_batch_size=4 --set max_steps=3 --set output_dir=$D/plain");
    ok("$C train $D/run.yaml --quiet --set per_device_train_batch_size=4 --set max_steps=3 --set output_dir=$D/profiled --profile");
    says(ran.err.p, "2 steps op by op; the bound: ");
    says(ran.err.p, "  linear_bwd ");
    ok("cmp $D/plain/A/adapter_model.safetensors $D/profiled/A/adapter_model.safetensors");
    json_t *report = json_of("profiled/report.json");
    const json_t *p = json_object_get(report, "profile");
    assert_true(num(p, "steps") == 2);
    json_array_foreach(json_object_get(p, "rows"), i, row) {
        for (int k = 0; k < 4; k++)
            if (!strcmp(json_string_value(json_object_get(row, "phase")), phases[k]))
                seconds[k] += num(row, "seconds"), bound[k] += num(row, "bound_s");
        if (!strcmp(json_string_value(json_object_get(row, "what")), "head_loss")) assert_true(num(row, "launches") == 4);
    }
    for (int k = 0; k < 4; k++) {
        assert_true(seconds[k] > 0 && bound[k] > 0);
        sum += seconds[k];
    }
    assert_true(num(p, "rest_s") > 0 && fabs(sum + num(p, "rest_s") - num(p, "seconds")) < 1e-9 * num(p, "seconds") + 1e-12);
    json_decref(report);
    report = json_of("plain/report.json");
    assert_null(json_object_get(report, "profile"));
    json_decref(report);
}

/* --- the plan against runs --------------------------------------------------------------------------------------------- */
static uint32_t seed = 2026;
static uint32_t below(uint32_t n) { return seed = seed * 1664525 + 1013904223, (uint32_t)((uint64_t)(seed >> 8) * n >> 24); }
static const char *one_of(const char *const *list, uint32_t n) { return list[below(n)]; }

/* Settings at random: objective, method, rank, recomputation, passes, batches. */
static char *settings(void) {
    static const char *const configs[] = {"$D/run.yaml", "$D/sft.yaml"}, *const levels[] = {"none", "selective", "block"},
                             *const methods[] = {"lora", "lora", "full", "ia3", "ln_tuning", "prompt_tuning"};
    str s = {0};
    const char *method = one_of(methods, 6);
    str_addf(&s, "%s --set method=%s --set gradient_checkpointing=%s --set pass_tokens=%u", one_of(configs, 2), method, one_of(levels, 3),
             64 + below(449));
    str_addf(&s, " --set per_device_train_batch_size=%u --set generation_batch=%u --set max_new_tokens=%u", 24 + below(17), 1 + below(32),
             2 + below(15));
    str_addf(&s, " --set lora.r=%u --set prompt_tuning.num_virtual_tokens=%u", 1 + below(48), 1 + below(8));
    return s.p;
}

/* "a: 1, b: c" as "--set a=1 --set b=c" */
static void as_sets(const char *said, str *out) {
    for (const char *end; *said; said = *end ? end + 2 : end) {
        const char *colon = strstr(said, ": ");
        end = strstr(said, ", ");
        if (!end) end = said + strcspn(said, "\n");
        if (!colon || colon > end) return;
        str_addf(out, " --set %.*s=%.*s", (int)(colon - said), said, (int)(end - colon - 2), colon + 2);
        if (*end == '\n') return;
    }
}

static const struct backend *card; /* CYC_TEST_DEVICE: the sweep alone, with the runs on it */

/* A run's own report: the peak is within the plan, and each line is within 2 % of its own; arenas are all there. */
static void within(const char *sets, const json_t *plan) {
    static const char *const within[] = {"weights", "adapters", "gradients", "optimizer", "scratch"},
                             *const exact[] = {"adapters", "gradients", "optimizer", "scratch"};
#ifndef __SANITIZE_ADDRESS__ /* its shadow, and what it keeps of what was freed, are memory too */
    if (num(plan, "peak_resident") > num(plan, "total"))
        flunk("%s: a peak of %.0f, planned %.0f", sets, num(plan, "peak_resident"), num(plan, "total"));
    const double runtime = line_of(plan, "runtime", "bytes"), took = line_of(plan, "runtime", "measured");
    if (took > runtime || took < 0.98 * runtime) flunk("%s: a runtime of %.0f, planned %.0f", sets, took, runtime);
    const double data = line_of(plan, "data", "bytes"), read = line_of(plan, "data", "measured");
    if (!card && (read > data || read < 0.98 * data)) flunk("%s: data of %.0f, planned %.0f", sets, read, data);
#endif
    for (size_t i = 0; i < sizeof within / sizeof *within; i++) {
        const double planned = line_of(plan, within[i], "bytes"), measured = line_of(plan, within[i], "measured");
        if (measured > planned || measured < 0.98 * planned) flunk("%s: %s %.0f, planned %.0f", sets, within[i], measured, planned);
    }
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++)
        if (line_of(plan, exact[i], "measured") != line_of(plan, exact[i], "bytes")) flunk("%s: %s are not all there", sets, exact[i]);
    if (card) assert_true(line_of(plan, "weights", "measured") == line_of(plan, "weights", "bytes"));
    const double room = line_of(plan, "activations", "bytes") + line_of(plan, "kv cache", "bytes"),
                 touched = line_of(plan, "activations", "measured") + line_of(plan, "kv cache", "measured");
    if (touched != room) flunk("%s: %.0f of an arena of %.0f", sets, touched, room);
}

static void trained(const char *sets, const char *limit, const char *what) {
    ok("rm -rf $D/out; $C train %s %s --quiet", sets, limit);
    json_t *report = json_of("out/report.json");
    if (!json_object_get(json_object_get(report, "plan"), "total")) flunk("%s: %s", what, sets);
    within(sets, json_object_get(report, "plan"));
    json_decref(report);
}

/* The sum that goes around for LoRA in f32, 4 N + 16 M bytes: a frozen parameter is its weight alone, a trained one a weight, a gradient and two
 * states. So the plan says, and so it lies in memory at the end of a run. */
static void test_four_and_sixteen(void **state) {
    (void)state;
    static const char sets[] = "$D/sft.yaml --set model=$D/f32 --set lora.target_modules=all-linear --set lora.r=32";
    ok("mkdir $D/f32 && cp tests/golden/tiny_llama/untied_mha/*.json tests/golden/tiny_llama/untied_mha/model.safetensors $D/f32 && cp "
       "$G/tokenizer.json $D/f32; rm -rf $D/out; $C train %s --quiet",
       sets);
    json_t *report = json_of("out/report.json");
    const json_t *plan = json_object_get(report, "plan");
    const double N = num(json_object_get(plan, "model"), "parameters"),
                 M = num(json_array_get(json_object_get(plan, "sides"), 0), "trained");
    assert_true(N > 0 && M > 0);
    assert_true(num(json_object_get(plan, "model"), "bytes") == 4 * N); /* on its line is the file's header too */
    assert_true(line_of(plan, "weights", "bytes") - 4 * N < 4096);
    assert_true(line_of(plan, "adapters", "bytes") == 4 * M);
    assert_true(line_of(plan, "gradients", "bytes") == 4 * M);
    assert_true(line_of(plan, "optimizer", "bytes") == 8 * M);
    within(sets, plan);
    json_decref(report);
}

static int fits, refusals, changes;

static void one_of_the_sweep(void) {
    char *sets = settings(), limit[64];
    json_t *plan = plan_of(sets);
    const double total = num(plan, "total"), at = floor(total * (0.9 + below(200) / 1000.0) / 1000);
    json_decref(plan);
    snprintf(limit, sizeof limit, "--set memory=%.0fKB", at);
    if (at * 1000 >= total) {
        trained(sets, limit, "fits");
        fits++;
    } else {
        sh("$C train %s %s --quiet", sets, limit);
        if (ran.status != 2) flunk("%s %s is not refused", sets, limit);
        const char *with = strstr(ran.err.p, ") with ");
        str change = {0};
        if (with) as_sets(with + 7, &change);
        else says(ran.err.p, "even at its leanest it needs");
        if (with) ok("$C plan %s %s %s", sets, limit, change.p), changes++;
        str_free(&change);
        trained(sets, "", "refused"); /* without the limit it takes what it was refused for */
        refusals++;
    }
    free(sets);
}

static void test_sweep(void **state) {
    (void)state;
    const char *n = getenv("CYC_PLAN_SWEEP");
#ifdef __SANITIZE_ADDRESS__ /* a dozen times as slow */
    const int runs = n ? atoi(n) : 5;
#else
    const int runs = n ? atoi(n) : 20;
#endif
    for (int i = 0; i < runs; i++) one_of_the_sweep();
    print_message("%d settings: %d fit and ran within their plan, %d were refused (%d with a change that fits)\n", runs, fits, refusals,
                  changes);
    assert_true(fits > runs / 5 && refusals > runs / 5 && changes > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_alone),      cmocka_unit_test(test_without_data), cmocka_unit_test(test_threads), cmocka_unit_test(test_few_parameters),
        cmocka_unit_test(test_mistral),          cmocka_unit_test(test_phases),       cmocka_unit_test(test_solve),
        cmocka_unit_test(test_named_card),       cmocka_unit_test(test_explain),      cmocka_unit_test(test_profile),
        cmocka_unit_test(test_four_and_sixteen), cmocka_unit_test(test_sweep)};
    const struct CMUnitTest there[] = {cmocka_unit_test(test_sweep)};
    const char *device = getenv("CYC_TEST_DEVICE");
    if (device && (backend_pick(device, &card) || card->open())) return fprintf(stderr, "%s\n", err_text()), 77; /* ctest: skipped */
    if (device) return cmocka_run_group_tests(there, begin, shell_end);
    return cmocka_run_group_tests(tests, begin, shell_end);
}
