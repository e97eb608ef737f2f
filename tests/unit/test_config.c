/* The configuration: defaults, YAML, --set, every refusal with its place and its words, and the way back to text. */
#define _GNU_SOURCE
#include "train/config.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static void holds(const char *what, va_list words) {
    for (const char *w; (w = va_arg(words, const char *));)
        if (!strstr(err_text(), w)) fail_msg("%s: \"%s\" is not in: %s", what, w, err_text());
}

/* The text must be refused with this code and every one of the words (NULL-ended) in the message. */
static void refused_(err code, const char *yaml, ...) {
    struct config c;
    assert_int_equal(config_init(&c), OK);
    err e = config_parse(&c, "run.yaml", yaml, strlen(yaml));
    config_free(&c);
    if (e != code) fail_msg("%s: code %d, not %d (%s)", yaml, e, code, e ? err_text() : "accepted");
    va_list ap;
    va_start(ap, yaml);
    holds(yaml, ap);
    va_end(ap);
}
#define refused(...) refused_(E_USAGE, __VA_ARGS__, NULL)

static void set_refused_(const char *assignment, ...) {
    struct config c;
    assert_int_equal(config_init(&c), OK);
    err e = config_set(&c, assignment);
    config_free(&c);
    if (!err_is_input(e)) fail_msg("%s: code %d", assignment, e);
    va_list ap;
    va_start(ap, assignment);
    holds(assignment, ap);
    va_end(ap);
}
#define set_refused(...) set_refused_(__VA_ARGS__, NULL)

static void parse(struct config *c, const char *yaml) {
    assert_int_equal(config_init(c), OK);
    if (config_parse(c, "run.yaml", yaml, strlen(yaml))) fail_msg("%s", err_text());
}

/* The smallest configuration that trains. */
#define MACCT "model: m.gguf\noutput_dir: out\nA: {data: a.jsonl}\nB: {data: b.jsonl}\n"

/* MACCT with one line more must fail config_check with these words. */
static void check_refused_(const char *more, ...) {
    struct config c;
    char yaml[1024];
    snprintf(yaml, sizeof yaml, "%s%s", MACCT, more);
    parse(&c, *more == '!' ? more + 1 : yaml);
    err e = config_check(&c);
    config_free(&c);
    if (e != E_USAGE) fail_msg("%s: code %d", more, e);
    va_list ap;
    va_start(ap, more);
    holds(more, ap);
    va_end(ap);
}
#define check_refused(...) check_refused_(__VA_ARGS__, NULL)

static void defaults(void **state) {
    (void)state;
    struct config c;
    assert_int_equal(config_init(&c), OK);
    assert_string_equal(c.side[0].model, "");
    assert_string_equal(c.objective, "macct");
    assert_string_equal(c.gradient_checkpointing, "selective");
    assert_string_equal(c.side[0].activations, "f32");
    assert_int_equal(c.seed, 42);
    for (int s = 0; s < 2; s++) {
        assert_true(c.side[s].learning_rate == 2e-4);
        assert_true(c.side[s].shuffle);
        assert_string_equal(c.side[s].prompt, "{text}\n");
        assert_int_equal(c.side[s].lora_targets.n, 1);
        assert_string_equal(c.side[s].lora_targets.v[0], "all-linear");
    }
    assert_int_equal(c.eval_fields.n, 2);
    assert_string_equal(c.eval_fields.v[1], "b");
    config_free(&c);
    size_t n;
    const struct config_key *k = config_keys(&n);
    for (size_t i = 0; i < n; i++) assert_true(*k[i].name && *k[i].type && *k[i].doc);
    assert_string_equal(k[0].name, "model");
}

static void yaml_to_structs(void **state) {
    (void)state;
    struct config c;
    parse(&c, "# a run\n"
              "B:\n  learning_rate: 1e-3\n  lora: {r: 4}\n  prompt: \"Modern: {text}\\nKJV:\"\n"
              "learning_rate: 5.0e-4   # both\n"
              "lora:\n  r: 8\n  target_modules: q_proj, v_proj\n"
              "A:\n  lora:\n    target_modules: [o_proj,\n      \"down_proj\"]\n"
              "lora.lora_dropout: 0.05\n"
              "shuffle: False\ngradient_checkpointing: True\nlr_scheduler_type: Cosine\n"
              "output_dir: 2026\nmemory: 1.5 GiB\nseed: -7\ngeneration: {temperature: .7, top_p: 0.9, activations: int15}\n"
              "warmup_pairs:\n#  data: x\n");
    assert_true(c.side[0].learning_rate == 5e-4 && c.side[1].learning_rate == 1e-3);
    assert_int_equal(c.side[0].lora_r, 8);
    assert_int_equal(c.side[1].lora_r, 4);
    assert_string_equal(c.side[1].prompt, "Modern: {text}\nKJV:");
    assert_string_equal(c.side[0].lora_targets.v[1], "down_proj");
    assert_int_equal(c.side[1].lora_targets.n, 2);
    assert_string_equal(c.side[1].lora_targets.v[1], "v_proj");
    assert_true(c.side[0].lora_dropout == 0.05 && c.side[1].lora_dropout == 0.05);
    assert_false(c.side[0].shuffle);
    assert_string_equal(c.gradient_checkpointing, "block");
    assert_string_equal(c.side[0].scheduler, "cosine");
    assert_string_equal(c.output_dir, "2026");
    assert_int_equal(c.seed, -7);
    assert_true(c.side[0].temperature == 0.7 && c.side[0].top_p == 0.9);
    assert_string_equal(c.side[0].activations, "int15");
    config_free(&c);
    parse(&c, "# nothing but a comment\n");
    config_free(&c);
}

/* A list of files: paths and mappings become items, and items entries; written and read again they are the same. */
static void lists_of_files(void **state) {
    (void)state;
    struct config c, d;
    struct file_entry e;
    str out = {0};
    parse(&c, "A:\n  data:\n    - a,b.jsonl\n    - {path: \"more;x.csv\", weight: 0.5, limit: 100}\n    - path: c.json.gz\n      format: alpaca\n      field: body\n"
              "B: {data: {path: b.txt, weight: 2}}\n");
    assert_int_equal(c.side[0].data.n, 3);
    assert_int_equal(c.side[1].data.n, 1);
    assert_string_equal(c.side[0].data.v[0], "a,b.jsonl");
    assert_int_equal(config_entry(&c.mem, c.side[0].data.v[1], &e), OK);
    assert_string_equal(e.path, "more;x.csv");
    assert_true(e.weight == 0.5 && e.limit == 100 && !e.format && !e.field);
    assert_int_equal(config_entry(&c.mem, c.side[0].data.v[2], &e), OK);
    assert_string_equal(e.path, "c.json.gz");
    assert_string_equal(e.format, "alpaca");
    assert_string_equal(e.field, "body");
    assert_int_equal(config_write(&c, &out), OK);
    parse(&d, out.p);
    for (int i = 0; i < 3; i++) assert_string_equal(d.side[0].data.v[i], c.side[0].data.v[i]);
    assert_string_equal(d.side[1].data.v[0], "b.txt;weight=2");
    assert_int_equal(config_set(&d, "A.data=[x.jsonl, \"y.jsonl;weight=3\"]"), OK);
    assert_int_equal(d.side[0].data.n, 2);
    assert_int_equal(config_set(&d, "A.data=one, with comma.jsonl"), OK);
    assert_int_equal(d.side[0].data.n, 1);
    assert_int_equal(config_set(&d, "A.data="), OK);
    assert_int_equal(d.side[0].data.n, 0);
    str_free(&out);
    config_free(&c);
    config_free(&d);
    refused("data: [{path: a, wieght: 2}]\n", "run.yaml:1: a file of 'data' has path, weight, limit, format and field, not 'wieght'");
    refused("data:\n  - a\n  - {weight: 2}\n", "run.yaml:3: a file of 'data' needs a path");
    refused("data: [{path: a, path: b}]\n", "'path' is given twice");
    refused("data: [{path: a, weight: 1, weight: 2}]\n", "'weight' is given twice");
    refused("data: [{path: a, weight: [1]}]\n", "run.yaml:1: 'weight' of a file wants one value");
    refused("data: [[a]]\n", "other than names");
    refused("data: ~\n", "'data' wants a file, or list of files, found nothing");
    refused("tokenizer: {path: a}\n", "'tokenizer'", "nested keys");
}

static void settings(void **state) {
    (void)state;
    struct config c;
    parse(&c, "learning_rate: 1e-4\nA: {lora: {r: 3}}\n");
    assert_int_equal(config_set(&c, "lora.r=8"), OK);
    assert_int_equal(config_set(&c, "B.lora.r=9"), OK);
    assert_int_equal(config_set(&c, "model=a=b.gguf"), OK);
    assert_int_equal(config_set(&c, "memory="), OK);
    assert_int_equal(config_set(&c, "prompt=\"{text} =>\\n\""), OK);
    assert_int_equal(config_set(&c, "lora.target_modules=[q_proj, v_proj]"), OK);
    assert_int_equal(config_set(&c, "A.lora.target_modules=o_proj"), OK);
    assert_int_equal(c.side[0].lora_r, 8);
    assert_int_equal(c.side[1].lora_r, 9);
    assert_string_equal(c.side[0].model, "a=b.gguf");
    assert_string_equal(c.side[1].prompt, "{text} =>\n");
    assert_int_equal(c.side[1].lora_targets.n, 2);
    assert_string_equal(c.side[0].lora_targets.v[0], "o_proj");
    config_free(&c);
    set_refused("lerning_rate=1", "--set: ", "unknown key 'lerning_rate'", "did you mean 'learning_rate'?");
    set_refused("A.lerning_rate=1", "did you mean 'A.learning_rate'?");
    set_refused("B.max_steps=5", "--set: 'B.max_steps' belongs to the run", "write 'max_steps'");
    set_refused("lora=8", "'lora' is a section");
    set_refused("A=8", "'A' is a section");
    set_refused("max_steps", "not key=value");
    set_refused("=3", "not key=value");
    set_refused("logging_steps=", "--set: 'logging_steps' wants an integer >= 1, found the text \"\"");
    set_refused("max_steps=null", "found nothing");
    set_refused("lora.target_modules=[a, {b: c}]", "--set: ");
    set_refused("lora.target_modules=[a", "--set: not valid YAML");
    assert_int_equal(config_set(&c, "lora.init_lora_weights=pissa_niter_16"), OK); /* a word with a number in it */
    assert_string_equal(c.side[0].lora_init, "pissa_niter_16");
    set_refused("lora.init_lora_weights=pissa_niter_", "'lora.init_lora_weights' wants one of true, gaussian, orthogonal, pissa, pissa_niter_[n]");
    set_refused("lora.init_lora_weights=pissa_niter_4x", "wants one of");
    set_refused("lora.init_lora_weights=pissa_niter_12345", "wants one of");
    set_refused("model=\"a\" b", "--set: not valid YAML");
    set_refused("output_dir=\xFF", "--set: 'output_dir' is not valid UTF-8");
    config_free(&c);
}

static void wrong_values(void **state) {
    (void)state;
    refused("seed: 1\n\nlearning_rate: fast\n", "run.yaml:3: 'learning_rate' wants a number > 0, found 'fast'");
    refused("logging_steps: 1_000\n", "run.yaml:1: ", "'logging_steps'", "'1_000'", "an integer >= 1");
    refused("learning_rate: 1_0.5\n", "'1_0.5'");
    refused("max_steps: 1e3\n", "'1e3'");
    refused("max_steps: 0x10\n", "'0x10'");
    refused("max_steps: 10.0\n", "'10.0'");
    refused("max_steps: \"10\"\n", "found the text \"10\"");
    refused("max_steps: 4294967296\n", "4294967296");
    refused("seed: 99999999999999999999\n", "an integer");
    refused("max_steps: [1]\n", "a list of 1");
    refused("max_steps: {a: 1}\n", "run.yaml:1: 'max_steps'", "nested keys");
    refused("max_steps:\nseed: 1\n", "run.yaml:1: 'max_steps'", "found nothing");
    refused("adapter: ~\n", "'adapter' wants text, found nothing");
    refused("learning_rate: .nan\n", "'.nan'");
    refused("learning_rate: 1e999\n", "'1e999'");
    refused("learning_rate: 0\n", "> 0");
    refused("A: {learning_rate: -1e-4}\n", "'A.learning_rate' wants a number > 0, found '-1e-4'");
    refused("lora: {lora_dropout: 1}\n", "0 <= x < 1");
    refused("lora: {r: 0}\n", "'lora.r' wants an integer >= 1, found '0'");
    refused("generation: {top_p: 0}\n", "0 < x <= 1");
    refused("generation: {repetition_penalty: 0}\n", "> 0");
    refused("eval: {num_beams: 33}\n", "1 <= x <= 32");
    refused("per_device_train_batch_size: 0\n", ">= 1");
    refused("shuffle: yes\n", "'shuffle' wants one of true, false, found 'yes'");
    refused("shuffle: \"true\"\n", "the text \"true\"");
    refused("lr_scheduler_type: cosin\n", "one of constant, constant_with_warmup, linear, cosine",
            "did you mean 'cosine'?");
    refused("optim: adamw_8bits\n", "one of adamw_torch, adamw_8bit, adafactor, lion_32bit, sgd, muon", "did you mean 'adamw_8bit'?");
    refused("objective: mact\n", "did you mean 'macct'?");
    refused("gradient_checkpointing: blocks\n", "none, selective, block", "did you mean 'block'?");
    refused("memory: 2\n", "a size such as 2GB", "'2'");
    refused("memory: 2 bytes\n", "'2 bytes'");
    refused("prompt: say it\n", "text with {text} once");
    refused("prompt: \"{text}{text}\"\n", "text with {text} once");
    refused("eval: {fields: []}\n", "list of names", "a list of 0");
    refused("lora: {target_modules: []}\n", "a list of names", "a list of 0");
    refused("lora: {target_modules: \"a,,b\"}\n", "a list of names");
    refused("lora: {target_modules: [a, [b]]}\n", "run.yaml:1: ", "other than names");
    refused("model: \"a\\0b\"\n", "NUL");
}

static void wrong_keys(void **state) {
    (void)state;
    refused("model: x\nlerning_rate: 1\n", "run.yaml:2: unknown key 'lerning_rate'; did you mean 'learning_rate'?");
    refused("batch_size: 8\n", "did you mean 'per_device_train_batch_size'?");
    refused("r: 8\n", "did you mean 'lora.r'?");
    refused("A:\n  lora:\n    alpha: 8\n", "run.yaml:3: unknown key 'A.lora.alpha'; did you mean 'A.lora.lora_alpha'?");
    refused("zzzzzzzzzzzzzz: 8\n", "unknown key", "cyclora help config");
    refused("lore: {r: 8}\n", "run.yaml:1: unknown key 'lore'");
    refused("A:\n  max_steps: 3\n",
            "run.yaml:2: 'A.max_steps' belongs to the run, not to a side: write 'max_steps' at the top");
    refused("I: {data: x}\n", "unknown key 'I'");
    refused("eval: file.jsonl\n", "run.yaml:1: 'eval' is a section");
    refused("A: file.jsonl\n", "'A' is a section");
    refused("seed: 1\nmodel: x\nseed: 2\n", "run.yaml:3: 'seed' is given twice (first at run.yaml:1)");
    refused("lora: {r: 1}\nlora.r: 2\n", "run.yaml:2: 'lora.r' is given twice");
    refused("lora: {r: 1}\nlora: {lora_alpha: 2}\n", "'lora' is given twice");
    refused("A: {data: x}\nA.data: y\n", "'A.data' is given twice");
    refused("? [a]\n: b\n", "a key must be a name");
}

static void not_a_configuration(void **state) {
    (void)state;
    refused_(E_INPUT, "model: x\nseed: [1\nmax_steps: 3\n", "run.yaml:", "not valid YAML", NULL);
    refused_(E_INPUT, "model: x\n\tseed: 1\n", "run.yaml:2: not valid YAML", NULL);
    refused_(E_INPUT, "model: x\nfield: \xFF\n", "run.yaml:2: not valid YAML", NULL);
    refused_(E_INPUT, "model: \x01\n", "run.yaml:1: not valid YAML", NULL);
    refused("seed: &s 1\n", "run.yaml:1: anchors and aliases");
    refused("<<: *x\n", "anchors and aliases");
    refused("seed: !!int 1\n", "tags");
    refused("- model\n", "`key: value`");
    refused("just words\n", "`key: value`");
    refused("seed: 1\n---\nseed: 2\n", "run.yaml:2: a second document");
    struct config c;
    assert_int_equal(config_init(&c), OK);
    assert_int_equal(config_load(&c, "/nonexistent/run.yaml"), E_USAGE);
    assert_non_null(strstr(err_text(), "/nonexistent/run.yaml"));
    config_free(&c);
}

static void contradictions(void **state) {
    (void)state;
    struct config c;
    parse(&c, MACCT);
    if (config_check(&c)) fail_msg("%s", err_text());
    config_free(&c);
    check_refused("!output_dir: o\nA: {data: a}\nB: {data: b}\n", "'model' is missing");
    check_refused("!model: m\noutput_dir: o\nA: {data: a}\n", "'B.data' is missing");
    check_refused("!model: m\noutput_dir: o\nB: {data: a}\n", "'A.data' is missing");
    check_refused("!model: m\noutput_dir: o\ndata: a\n", "'A.data' and 'B.data' are the same text (a)");
    check_refused("!model: m\noutput_dir: o\nA: {data: CMakeLists.txt}\nB: {data: ./CMakeLists.txt}\n",
                  "the same text");
    check_refused("!model: random:1\noutput_dir: o\nA: {data: a}\nB: {data: b}\n", "'model_config' is missing");
    check_refused("model_config: c.json\n", "'model_config' goes with a random:SEED model");
    for (int i = 0; i < 4; i++) {
        static const char *const bad[] = {"random:", "random:x", "random:1:f31", "random:1:"};
        char yaml[256];
        snprintf(yaml, sizeof yaml, "!model: \"%s\"\nmodel_config: c\nA: {data: a}\nB: {data: b}\n", bad[i]);
        check_refused(yaml, bad[i], "random:1:f32");
    }
    check_refused("!model: m\noutput_dir: o\nobjective: sft\n", "'data' is missing");
    check_refused("!model: m\nobjective: sft\ndata: a\nB: {data: b}\n", "'B.data' has no use");
    check_refused("!model: m\nobjective: sft\ndata: a\nwarmup_pairs: {data: b}\n", "'warmup_pairs.data' has no use");
    check_refused("warmup_steps: 5\n", "'A.warmup_steps' has no use with lr_scheduler_type constant");
    check_refused("lr_scheduler_kwargs: {num_decay_steps: 5}\n", "'A.lr_scheduler_kwargs.num_decay_steps' has no use with lr_scheduler_type constant");
    check_refused("lr_scheduler_type: linear\nlr_scheduler_kwargs: {min_lr_ratio: 0.1}\n", "'A.lr_scheduler_kwargs.min_lr_ratio' has no use");
    check_refused("lr_scheduler_type: cosine\nlr_scheduler_kwargs: {decay_type: linear}\n", "'A.lr_scheduler_kwargs.decay_type' has no use");
    check_refused("lr_scheduler_type: cosine_with_min_lr\n", "needs lr_scheduler_kwargs.min_lr_ratio");
    check_refused("lr_scheduler_type: wsd\nmax_steps: 9\nwarmup_steps: 4\nlr_scheduler_kwargs: {num_decay_steps: 6}\n", "(6) and warmup_steps (4) are more than max_steps (9)");
    check_refused("optim: sgd\nsgd: {momentum: 0, nesterov: true}\n", "'A.sgd.nesterov' has no use with sgd.momentum 0");
    check_refused("optim: adafactor\nadafactor: {relative_step: true}\nlr_scheduler_type: linear\n", "brings its own learning rate");
    check_refused("lora: {target_modules: [all-linear, q_proj]}\n", "all-linear stands alone");
    check_refused("max_new_tokens: 1024\n", "'max_new_tokens' (1024)", "'max_length' (1024)");
    check_refused("generation: {top_k: 5}\n", "'A.generation.top_k'", "temperature");
    check_refused("generation: {top_p: 0.5}\n", "'A.generation.top_p'", "temperature");
    check_refused("generation: {min_p: 0.1}\n", "'A.generation.min_p'", "temperature");
    check_refused("max_new_tokens: 8\nB.min_new_tokens: 9\n", "'B.min_new_tokens' is 9", "max_new_tokens 8");
    check_refused("eval: {length_penalty: 2}\n", "'eval.length_penalty' has no use", "eval.num_beams");
    check_refused("eval: {early_stopping: never}\n", "'eval.early_stopping' has no use", "eval.num_beams");
    check_refused("eval_steps: 5\n", "'eval_steps' is 5", "'eval.data'");
    check_refused("metric_for_best_model: chrf\n", "'metric_for_best_model' is chrf", "'eval.data'");
    check_refused("max_steps: 0\n", "'max_steps' is 0", "warmup_pairs");
    check_refused("B.model: n.gguf\n", "'A.model' and 'B.model' are two", "objective dmcct has a model for each side");
    check_refused("C: {lora: {r: 4}}\n", "'C.data' is missing", "for each side");
    check_refused("C: {data: b.jsonl}\n", "'B.data' and 'C.data' are the same text (b.jsonl)");
    check_refused("C: {data: c, max_new_tokens: 2000}\n", "'max_new_tokens' (2000)");
    check_refused("C: {data: c}\ncycles: [A-B]\n", "'cycles' leaves side C out");
    check_refused("C: {data: c}\ncycles: [A-B, C]\n", "'C' alone");
    check_refused("C: {data: c}\ncycles: [A-B, C-A]\n", "side A twice");
    check_refused("cycles: A-C\n", "'A-C'", "2 sides (A to B)");
    check_refused("cycles: A+B\n", "'A+B'");
    check_refused("!model: m\nobjective: sft\ndata: a\ncycles: A-B\n", "'cycles' has no use with objective sft");
    check_refused("loss_on: all\n", "'loss_on' has no use with objective macct");
    check_refused("!model: m\nobjective: regression\ndata: a\nz_loss: 1e-4\n", "'z_loss' has no use with objective regression");
    check_refused("!model: m\nobjective: classification\nmethod: none\ndata: a\nneftune_noise_alpha: 5\n",
                  "'neftune_noise_alpha' has no use with method none");
    check_refused("!objective: dmcct\nA: {data: a, model: m}\nB: {data: b}\n", "'model' is missing");
    check_refused("!objective: dmcct\nmodel: m\nA: {data: a}\nB: {data: b, model: \"random:x\"}\n", "'B.model' is 'random:x'");
    parse(&c, "model: random:7:bf16\nmodel_config: c.json\noutput_dir: o\nobjective: sft\ndata: a\n");
    assert_int_equal(config_check(&c), OK);
    uint64_t seed;
    const char *dt;
    assert_true(config_random_model(c.side[0].model, &seed, &dt));
    assert_int_equal(seed, 7);
    assert_string_equal(dt, "bf16");
    assert_false(config_random_model("m.gguf", &seed, &dt));
    config_free(&c);
    parse(&c, "model: m\noutput_dir: o\ndata: pairs.jsonl\nA: {field: a}\nB: {field: b}\n");
    assert_int_equal(config_check(&c), OK); /* two columns of one file are two sides */
    config_free(&c);
}

/* Sides beyond two: their number is the last that is named, a bare key is all sides', and who follows whom is in order or as `cycles` says. */
static void more_sides(void **state) {
    (void)state;
    struct config c, d;
    int next[CONFIG_SIDES];
    parse(&c, MACCT "C: {data: c.jsonl, max_length: 80, generation: {temperature: 0.5}}\nlora.r: 4\n");
    if (config_check(&c)) fail_msg("%s", err_text());
    assert_int_equal(config_sides(&c), 3);
    assert_int_equal(c.side[2].lora_r, 4);
    assert_true(c.side[0].max_length == 1024 && c.side[2].max_length == 80 && c.side[1].temperature == 0);
    assert_int_equal(config_cycles(&c, next), OK);
    assert_true(next[0] == 1 && next[1] == 2 && next[2] == 0);
    assert_int_equal(config_set(&c, "D.data=d.jsonl"), OK);
    assert_int_equal(config_set(&c, "cycles=[A-D, B-C]"), OK);
    assert_int_equal(config_cycles(&c, next), OK);
    assert_true(next[0] == 3 && next[3] == 0 && next[1] == 2 && next[2] == 1);
    assert_int_equal(config_set(&c, "cycles=B-A-D-C"), OK);
    assert_int_equal(config_cycles(&c, next), OK);
    assert_true(next[1] == 0 && next[0] == 3 && next[3] == 2 && next[2] == 1);
    str one = {0}, two = {0};
    assert_int_equal(config_write(&c, &one), OK);
    parse(&d, one.p);
    assert_int_equal(config_sides(&d), 4);
    assert_true(d.side[2].max_length == 80 && d.side[3].max_length == 1024);
    assert_int_equal(config_write(&d, &two), OK);
    assert_string_equal(one.p, two.p);
    str_free(&one);
    str_free(&two);
    config_free(&c);
    config_free(&d);
}

/* A program may write the struct itself: config_check() holds it to the same ranges. */
static void ranges_of_structs(void **state) {
    (void)state;
    struct config c;
    parse(&c, MACCT);
    c.side[1].learning_rate = 0;
    assert_int_equal(config_check(&c), E_USAGE);
    assert_string_equal(err_text(), "'B.learning_rate' wants a number > 0, found 0");
    c.side[1].learning_rate = 1;
    c.gradient_checkpointing = "true";
    assert_int_equal(config_check(&c), E_USAGE);
    assert_non_null(strstr(err_text(), "gradient_checkpointing"));
    config_free(&c);
}

static void sizes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t bytes;
    } ok[] = {{"", 0},         {"2GB", 2000000000}, {"1.5GiB", 1610612736}, {"500MB", 500000000},
              {"1 kib", 1024}, {"7b", 7},           {"1TB", 1000000000000}};
    for (size_t i = 0; i < sizeof ok / sizeof *ok; i++) {
        size_t n = 1;
        assert_int_equal(config_bytes(ok[i].text, &n), OK);
        assert_int_equal(n, ok[i].bytes);
    }
    static const char *const bad[] = {"2", "GB", "2 G", "2GBx", "-1GB", "1.2.3GB", "0GB", "99999999999TB", " 2GB", "."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t n;
        if (config_bytes(bad[i], &n) != E_USAGE) fail_msg("%s was accepted", bad[i]);
    }
}

static void written_and_read_back(void **state) {
    (void)state;
    struct config c, d;
    parse(&c, MACCT "prompt: \"\\\"q\\\"\\\\ \\t{text}\\n\\u2028\\uFEFF\\x01 \xC3\xA9 # no: comment\"\n"
                    "lora: {target_modules: [q_proj, \"odd, name\", 'null']}\nfield: \"null\"\nmemory: 2GB\n"
                    "lora.lora_alpha: 0.1\nadam_beta1: 0.30000000000000004\n"
                    "eval: {data: e.jsonl, fields: [x, y]}\n");
    assert_int_equal(config_set(&c, "A.learning_rate=3.3333333333333335e-05"), OK);
    assert_int_equal(config_set(&c, "B.lora.r=2"), OK);
    assert_int_equal(config_set(&c, "B.shuffle=false"), OK);
    assert_int_equal(config_set(&c, "A.adapter=\"\""), OK);
    str one = {0}, two = {0};
    assert_int_equal(config_write(&c, &one), OK);
    parse(&d, one.p);
    assert_int_equal(config_write(&d, &two), OK);
    assert_string_equal(one.p, two.p);
    assert_string_equal(d.side[0].prompt, c.side[0].prompt);
    assert_true(d.side[0].learning_rate == c.side[0].learning_rate && d.side[0].adam_beta1 == c.side[0].adam_beta1);
    assert_int_equal(d.side[0].lora_r, 16);
    assert_int_equal(d.side[1].lora_r, 2);
    assert_int_equal(d.side[0].lora_targets.n, 3);
    assert_string_equal(d.side[0].lora_targets.v[1], "odd, name");
    assert_string_equal(d.side[0].lora_targets.v[2], "null");
    assert_string_equal(d.side[1].data.v[0], "b.jsonl");
    size_t n;
    const struct config_key *k = config_keys(&n);
    for (size_t i = 0; i < n; i++) { /* every key is there */
        const char *dot = strchr(k[i].name, '.');
        char leaf[80];
        snprintf(leaf, sizeof leaf, "%s: ", dot ? dot + 1 : k[i].name);
        if (!strstr(one.p, leaf)) fail_msg("%s is not written", k[i].name);
    }
    str_free(&one);
    str_free(&two);
    config_free(&c);
    config_free(&d);
}

static void from_a_file(void **state) {
    (void)state;
    char path[] = "/tmp/cyclora_config_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    static const char text[] = "model: m.gguf\r\nmax_steps: 7\r\nbatch: 3\r\n";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    struct config c;
    assert_int_equal(config_init(&c), OK);
    assert_int_equal(config_load(&c, path), E_USAGE);
    char want[80];
    snprintf(want, sizeof want, "%s:3: unknown key 'batch'", path);
    assert_non_null(strstr(err_text(), want));
    config_free(&c);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),       cmocka_unit_test(yaml_to_structs),
        cmocka_unit_test(settings), cmocka_unit_test(lists_of_files),       cmocka_unit_test(wrong_values),
        cmocka_unit_test(wrong_keys),     cmocka_unit_test(not_a_configuration),
        cmocka_unit_test(contradictions), cmocka_unit_test(more_sides), cmocka_unit_test(ranges_of_structs),
        cmocka_unit_test(sizes),          cmocka_unit_test(written_and_read_back),
        cmocka_unit_test(from_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
