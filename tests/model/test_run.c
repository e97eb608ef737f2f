/* Run folders, resuming, and what a run leaves behind, on the cipher base through the public API: a run that was stopped and
 * resumed is the straight run to the byte (adapters) and to the line (metrics), with dropout and sampling on, wherever it
 * was stopped; what a folder refuses; the two objectives' numbers; the names in metrics.jsonl. */
#define _GNU_SOURCE
#include "support/support.h"
#include "support/pairs.h"
#include "base/file.h"
#include "base/log.h"
#include "cyclora/cyclora.h"
#include "train/run.h"
#include <unistd.h>

#define DATA GOLDEN "/cipher/"
enum { MOST = 64 };
static char root[] = "/tmp/cyclora_run_XXXXXX";

/* --- running ------------------------------------------------------------------------------------------------------- */
struct watch {
    int stop_at;            /* cyc_stop() in this step's callback; 0: never */
    bool stop_in_eval;      /* cyc_stop() when the run starts: the first evaluation is cut short */
    int steps, first, evals, saves, learned;
    double loss[MOST], rate[MOST];
    json_t *eval[MOST];
};

static void on_step(void *ctx, const cyc_step *s) {
    struct watch *w = ctx;
    if (!w->steps) w->first = s->step;
    if (w->steps < MOST) w->loss[w->steps] = s->loss[0], w->rate[w->steps] = s->learning_rate[0];
    w->steps++;
    w->learned += s->warmup;
    if (s->step == w->stop_at) cyc_stop();
}
static void on_start(void *ctx, const char *json) {
    (void)json;
    if (((struct watch *)ctx)->stop_in_eval) cyc_stop();
}
static void on_eval(void *ctx, const char *json) {
    struct watch *w = ctx;
    if (w->evals < MOST) w->eval[w->evals++] = json_loads(json, 0, NULL);
}
static void on_save(void *ctx, const char *path) {
    ((struct watch *)ctx)->saves++;
    assert_true(path_is_dir(path));
}

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
static const char *const macct[] = {
    "model=" DATA, "A.data=" DATA "a.jsonl", "B.data=" DATA "b.jsonl", "warmup_pairs.data=" DATA "warm.jsonl", "warmup_pairs.limit=10",
    "warmup_pairs.epochs=2", "eval.data=" DATA "test.jsonl", "eval.limit=4", "per_device_train_batch_size=4", "max_new_tokens=8",
    "max_length=48", "pass_tokens=64", "lora.r=4", "lora.lora_dropout=0.1", "generation.temperature=0.7", "learning_rate=2e-3",
    "lr_scheduler_type=linear", "threads=1", "max_steps=6", NULL};
static const char *const sft[] = {"objective=sft", "model=" DATA, "per_device_train_batch_size=8", "max_length=32", "pass_tokens=64",
                                  "lora.r=4", "learning_rate=4e-3", "threads=1", NULL};

static cyc_config *config(const char *name, const char *const *common, const char *const *more) {
    char out[256];
    cyc_config *c = cyc_config_new();
    snprintf(out, sizeof out, "output_dir=%s/%s", root, name);
    if (cyc_config_set(c, out)) flunk("%s", cyc_error());
    for (int i = 0; common[i]; i++)
        if (cyc_config_set(c, common[i])) flunk("%s: %s", common[i], cyc_error());
    for (int i = 0; more && more[i]; i++)
        if (cyc_config_set(c, more[i])) flunk("%s: %s", more[i], cyc_error());
    return c;
}

static int run(const char *name, int flags, struct watch *w, const char *const *common, const char *const *more) {
    struct watch none = {0};
    if (!w) w = &none;
    cyc_config *c = config(name, common, more);
    cyc_callbacks cb = {w, on_start, on_step, on_eval, on_save};
    int code = cyc_train(c, flags, &cb, NULL);
    cyc_config_free(c);
    if (w == &none)
        for (int i = 0; i < none.evals; i++) json_decref(none.eval[i]);
    return code;
}
static void watch_free(struct watch *w) {
    for (int i = 0; i < w->evals; i++) json_decref(w->eval[i]);
    *w = (struct watch){0};
}

/* The run goes through, or the test ends with its message. */
#define runs(...) (run(__VA_ARGS__) ? flunk("%s:%d: %s", __FILE__, __LINE__, cyc_error()) : (void)0)
static void ends_with(int code, int want, const char *part) {
    if (code != want) flunk("code %d, not %d: %s", code, want, cyc_error());
    if (want && !strstr(cyc_error(), part)) flunk("\"%s\" is not in: %s", part, cyc_error());
}

/* --- looking ------------------------------------------------------------------------------------------------------- */
static const char *at(const char *fmt, ...) {
    static char ring[8][512];
    static int next;
    char rest[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rest, sizeof rest, fmt, ap);
    va_end(ap);
    char *s = ring[next++ % 8];
    snprintf(s, sizeof ring[0], "%s/%s", root, rest);
    return s;
}

static void sh(const char *fmt, ...) {
    char line[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (system(line)) flunk("failed: %s", line);
}

static void same_files(const char *a, const char *b) {
    if (!same_bytes(a, b)) flunk("%s and %s differ", a, b);
}

static void same_adapters(const char *a, const char *b) {
    for (int i = 0; i < 2; i++) {
        same_files(at("%s/%c/adapter_model.safetensors", a, "AB"[i]), at("%s/%c/adapter_model.safetensors", b, "AB"[i]));
        same_files(at("%s/%c/adapter_config.json", a, "AB"[i]), at("%s/%c/adapter_config.json", b, "AB"[i]));
    }
}

/* The lines of a run's metrics without what a clock says. */
static json_t *metrics(const char *name) {
    str all = {0};
    json_t *lines = json_array();
    must(file_read(at("%s/metrics.jsonl", name), &all));
    assert_true(all.n && all.p[all.n - 1] == '\n');
    for (char *line = strtok(all.p, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *j = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(j);
        json_object_del(j, "seconds");
        json_object_del(j, "generate_seconds");
        json_object_del(j, "train_seconds");
        json_array_append_new(lines, j);
    }
    str_free(&all);
    return lines;
}

static void same_metrics(const char *a, const char *b) {
    json_t *x = metrics(a), *y = metrics(b);
    for (size_t i = 0; i < json_array_size(x); i++) {
        if (json_equal(json_array_get(x, i), json_array_get(y, i))) continue;
        char *s = json_dumps(json_array_get(x, i), JSON_COMPACT), *t = json_dumps(json_array_get(y, i), JSON_COMPACT | JSON_ENCODE_ANY);
        flunk("line %zu of %s and of %s:\n%s\n%s", i + 1, a, b, s, t ? t : "(none)");
    }
    assert_int_equal(json_array_size(x), json_array_size(y));
    json_decref(x);
    json_decref(y);
}

static json_t *json_at(const char *path) {
    json_t *j = json_load_file(path, 0, NULL);
    if (!j) flunk("%s is not JSON", path);
    return j;
}

static int count_checkpoints(const char *name) {
    int n = 0;
    for (int i = 0; i < 100; i++) n += path_exists(at("%s/checkpoint-%d", name, i));
    return n;
}

static int make_root(void **state) {
    (void)state;
    if (!mkdtemp(root)) return -1;
    char path[128];
    snprintf(path, sizeof path, "%s/train.jsonl", root);
    sft_rows_of_pairs(DATA "warm.jsonl", path, 0, 16);
    snprintf(path, sizeof path, "%s/held.jsonl", root);
    sft_rows_of_pairs(DATA "test.jsonl", path, 0, 12);
    return 0;
}
static int remove_root(void **state) {
    (void)state;
    return dir_remove(root) != OK;
}

/* --- resuming ------------------------------------------------------------------------------------------------------ */
/* 10 warm pairs in batches of 4, twice: steps 1-6 are warm-up (the third of each pass has 2 rows), 7-12 cycles. */
static void test_resume_is_exact(void **state) {
    (void)state;
    struct watch w = {0};
    const char *const *more = LIST("eval_steps=3", "save_steps=5", "save_total_limit=0");
    runs("straight", 0, &w, macct, more);
    assert_int_equal(w.steps, 12);
    assert_int_equal(w.learned, 6);
    assert_int_equal(w.evals, 4); /* steps 3, 6 (the warm-up's end), 9, 12 */
    watch_free(&w);
    runs("no-dropout", 0, NULL, macct, LIST("eval_steps=3", "lora.lora_dropout=0")); /* the draws are in the numbers */
    runs("greedy", 0, NULL, macct, LIST("eval_steps=3", "generation.temperature=0"));
    if (same_bytes(at("straight/A/adapter_model.safetensors"), at("no-dropout/A/adapter_model.safetensors"))) flunk("dropout changes nothing");
    if (same_bytes(at("straight/A/adapter_model.safetensors"), at("greedy/A/adapter_model.safetensors"))) flunk("sampling changes nothing");
    static const int stops[] = {2, 6, 9, 11, 12}; /* in the warm-up, at its end, at an evaluation, before the end, at it */
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        char name[32];
        snprintf(name, sizeof name, "stop%d", stops[i]);
        w = (struct watch){.stop_at = stops[i]};
        ends_with(run(name, 0, &w, macct, more), CYC_INTERRUPTED, "--resume");
        assert_int_equal(w.steps, stops[i]);
        assert_true(path_exists(at("%s/checkpoint-%d", name, stops[i])));
        assert_false(path_exists(at("%s/A", name)));
        watch_free(&w);
        runs(name, CYC_RESUME, &w, macct, more);
        assert_int_equal(w.steps, 12 - stops[i]);
        if (w.steps) assert_int_equal(w.first, stops[i] + 1);
        same_adapters("straight", name);
        same_metrics("straight", name);
        watch_free(&w);
    }
}

static int64_t planned_cache(const char *name, const char *const *more) {
    char *text = NULL;
    cyc_config *c = config(name, macct, more);
    if (cyc_plan(c, &text)) flunk("%s", cyc_error());
    json_t *j = json_loads(text, 0, NULL), *line;
    int64_t bytes = 0;
    size_t i;
    json_array_foreach(json_object_get(j, "memory"), i, line) if (!strcmp(json_string_value(json_object_get(line, "name")), "kv cache"))
        bytes = json_integer_value(json_object_get(line, "bytes"));
    json_decref(j);
    cyc_free(text);
    cyc_config_free(c);
    return bytes;
}

/* A run in one go, and the same stopped after so many steps and resumed: the same adapters, the same metrics. */
static void stops_and_goes_on(const char *name, int stop_at, const char *const *more) {
    char stopped[64];
    struct watch w = {.stop_at = stop_at};
    snprintf(stopped, sizeof stopped, "%s-stopped", name);
    runs(name, 0, NULL, macct, more);
    ends_with(run(stopped, 0, &w, macct, more), CYC_INTERRUPTED, "--resume");
    watch_free(&w);
    runs(stopped, CYC_RESUME, NULL, macct, more);
    same_adapters(name, stopped);
    same_metrics(name, stopped);
}

/* With a penalty, a least length, min-p and beams in evaluation: another run, which stops and goes on as any does; beams have room in the plan. */
static void test_choices(void **state) {
    (void)state;
    const char *const *more = LIST("eval_steps=4", "max_steps=4", "warmup_pairs.epochs=1", "generation.repetition_penalty=1.3",
                                   "generation.min_p=0.05", "min_new_tokens=4", "eval.num_beams=3");
    stops_and_goes_on("chosen", 5, more);
    const int64_t one = planned_cache("plan-one", LIST("generation_batch=1")),
                  beams = planned_cache("plan-beams", LIST("generation_batch=1", "eval.num_beams=3"));
    assert_true(one > 0);
    assert_int_equal(beams, 3 * one);
}

/* Stopped twice, and once before any step; a process that was killed after a checkpoint has lines of a lost future. */
static void test_resume_again(void **state) {
    (void)state;
    const char *const *more = LIST("eval_steps=3", "save_steps=3", "save_total_limit=0");
    struct watch w = {.stop_in_eval = true};
    const char *const *cold = LIST("warmup_pairs.data=", "max_steps=4");
    ends_with(run("cold", 0, &w, macct, cold), CYC_INTERRUPTED, "--resume");
    assert_int_equal(w.steps, 0);
    watch_free(&w);
    w.stop_at = 1;
    ends_with(run("cold", CYC_RESUME, &w, macct, cold), CYC_INTERRUPTED, "step 1 of 4");
    watch_free(&w);
    w.stop_at = 3;
    ends_with(run("cold", CYC_RESUME, &w, macct, cold), CYC_INTERRUPTED, "step 3 of 4");
    watch_free(&w);
    runs("cold", CYC_RESUME, NULL, macct, cold);
    runs("cold-straight", 0, NULL, macct, cold);
    same_adapters("cold-straight", "cold");
    same_metrics("cold-straight", "cold");

    runs("killed", CYC_RESUME, NULL, macct, more); /* resume of nothing is a start */
    must(dir_remove(at("killed/checkpoint-12")));
    must(dir_remove(at("killed/checkpoint-9")));
    must(dir_remove(at("killed/A")));
    must(dir_remove(at("killed/B")));
    sh("rm %s; printf '{\"step\":13,\"trai' >> %s", at("killed/report.json"), at("killed/metrics.jsonl"));
    runs("killed", CYC_RESUME, &w, macct, more);
    assert_int_equal(w.first, 7);
    assert_int_equal(w.evals, 2); /* that of step 6 was made before the checkpoint: it is not made again */
    same_adapters("straight", "killed");
    same_metrics("straight", "killed");
    watch_free(&w);
}

/* Stopped within a window of texts that were made at once, with a replay buffer, corrupted and supervised rows, a filter and a curriculum:
 * what is not a function of the step lies in rollouts.safetensors. */
static void test_resume_rollouts(void **state) {
    (void)state;
    const char *const *more = LIST("rollout_refresh=3", "replay.size=5", "replay.share=0.25", "supervised.share=0.2", "denoise.share=0.15",
                                   "denoise.mask_token=?", "A.filter.kind=threshold", "A.filter.logprob=-2", "B.filter.kind=weight",
                                   "A.curriculum.start=6", "A.curriculum.end=9", "A.curriculum.steps=4", "save_total_limit=0");
    runs("rollouts", 0, NULL, macct, more);
    if (same_bytes(at("straight/A/adapter_model.safetensors"), at("rollouts/A/adapter_model.safetensors"))) flunk("rollouts change nothing");
    static const int stops[] = {8, 10}; /* two steps' texts are left, and one's */
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        char name[32];
        snprintf(name, sizeof name, "rollouts%d", stops[i]);
        struct watch w = {.stop_at = stops[i]};
        ends_with(run(name, 0, &w, macct, more), CYC_INTERRUPTED, "--resume");
        watch_free(&w);
        assert_true(path_exists(at("%s/checkpoint-%d/A/rollouts.safetensors", name, stops[i])));
        if (i) sh("cp -r %s %s", at("%s", name), at("forgetful"));
        runs(name, CYC_RESUME, NULL, macct, more);
        same_adapters("rollouts", name);
        same_metrics("rollouts", name);
    }
    sh("rm %s", at("forgetful/checkpoint-10/A/rollouts.safetensors"));
    runs("forgetful", CYC_RESUME, NULL, macct, more);
    if (same_bytes(at("rollouts/A/adapter_model.safetensors"), at("forgetful/A/adapter_model.safetensors"))) flunk("the texts that were kept change nothing");
}

/* A generator whose texts are all dropped: no step, no NaN, a schedule that waits; the other adapter goes on. */
static void test_idle(void **state) {
    (void)state;
    runs("idle", 0, NULL, macct, LIST("A.filter.kind=threshold", "A.filter.logprob=-1e-9", "warmup_pairs.data=", "max_steps=2"));
    json_t *lines = metrics("idle");
    size_t i;
    json_t *j;
    int steps = 0;
    json_array_foreach(lines, i, j) {
        if (!json_object_get(j, "rollout_texts_A")) continue;
        steps++;
        assert_int_equal(json_integer_value(json_object_get(j, "rollout_dropped_A")), json_integer_value(json_object_get(j, "rollout_texts_A")));
        assert_true(json_is_true(json_object_get(j, "idle_A")) && !json_object_get(j, "train_loss_A"));
        assert_true(isfinite(json_number_value(json_object_get(j, "train_loss_B"))) && !json_object_get(j, "idle_B"));
        assert_true(json_number_value(json_object_get(j, "rollout_logprob_A")) < 0);
    }
    assert_int_equal(steps, 2);
    json_decref(lines);
}

/* A longer run goes on from a finished one; a schedule of constant rate is then the same as one long run. */
static void test_more_steps(void **state) {
    (void)state;
    const char *const *six = LIST("lr_scheduler_type=constant", "max_steps=2"), *const *all = LIST("lr_scheduler_type=constant", "max_steps=4");
    runs("longer", 0, NULL, macct, six);
    int code = run("longer", CYC_RESUME, NULL, macct, six);
    ends_with(code, CYC_BAD_INPUT, "nothing is left");
    assert_non_null(strstr(cyc_error(), "max_steps"));
    assert_true(path_exists(at("longer/report.json")));
    runs("longer", CYC_RESUME, NULL, macct, all);
    runs("long", 0, NULL, macct, all);
    same_adapters("long", "longer");
}

/* Each side with an optimizer of its own; what one has left is not the other's. */
static void test_optimizers(void **state) {
    (void)state;
    const char *const *two =
                          LIST("lr_scheduler_type=inverse_sqrt", "A.optim=adafactor", "B.optim=muon", "warmup_pairs.data=", "max_steps=2"),
                      *const *four =
                          LIST("lr_scheduler_type=inverse_sqrt", "A.optim=adafactor", "B.optim=muon", "warmup_pairs.data=", "max_steps=4");
    runs("several", 0, NULL, macct, two);
    ends_with(run("several", CYC_RESUME, NULL, macct,
                  LIST("lr_scheduler_type=inverse_sqrt", "optim=adafactor", "warmup_pairs.data=", "max_steps=4")),
              CYC_BAD_INPUT, "states of optim muon, the run's is adafactor");
    runs("several", CYC_RESUME, NULL, macct, four);
    runs("several-straight", 0, NULL, macct, four);
    same_adapters("several-straight", "several");
    ends_with(run("offload", 0, NULL, macct, LIST("offload_optimizer=idle")), CYC_BAD_INPUT, "this run is on the cpu");
    /* the update in the backward pass: one pass a step, the same bits as at the end of one */
    const char *const *end = LIST("max_grad_norm=0", "pass_tokens=192", "max_steps=2"), *const *way =
                                                                                            LIST("max_grad_norm=0", "optimizer_in_bwd=true",
                                                                                                 "max_steps=2");
    runs("at-end", 0, NULL, macct, end);
    runs("in-bwd", 0, NULL, macct, way);
    same_adapters("at-end", "in-bwd");
    ends_with(run("clipped", 0, NULL, macct, LIST("optimizer_in_bwd=true")), CYC_BAD_INPUT, "max_grad_norm 0");
}

/* --- what changes -------------------------------------------------------------------------------------------------- */
struct bytes { char w[33], m[33], v[33]; };
static struct bytes bytes_of(const struct side *s) {
    struct bytes b;
    size_t n = s->plans->st.params.bytes;
    bytes_hash(s->learner.w, n, b.w);
    bytes_hash(s->learner.state[0].p, n, b.m);
    bytes_hash(s->learner.state[1].p, n, b.v);
    return b;
}

/* A step of adapter A changes A's weights and both of its states, no byte of B's, no byte of the base; and the mirror. */
static void test_only_the_trained_adapter(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    must(config_init(&cfg));
    for (int i = 0; macct[i]; i++) must(config_set(&cfg, macct[i]));
    must(run_open(&r, &cfg));
    must(run_start(&r));
    char base[33], after[33];
    model_hash(&r.base[0].model, base);
    for (int turn = 0; turn < 4; turn++) {
        int d = turn % 2;
        const struct row *rows[] = {&r.warm.rows[d].r[0], &r.warm.rows[d].r[1]};
        struct bytes mine = bytes_of(&r.side[d]), other = bytes_of(&r.side[!d]);
        struct step_result out;
        must(learner_step(&r.side[d].learner, &r.wb, rows, 2, 1, (uint64_t)turn, &out));
        struct bytes mine2 = bytes_of(&r.side[d]), other2 = bytes_of(&r.side[!d]);
        assert_memory_equal(&other, &other2, sizeof other);
        assert_string_not_equal(mine.w, mine2.w);
        assert_string_not_equal(mine.m, mine2.m);
        assert_string_not_equal(mine.v, mine2.v);
    }
    model_hash(&r.base[0].model, after);
    assert_string_equal(base, after);
    run_close(&r);
    config_free(&cfg);
}

static char *tensors_hash(void) {
    char *text;
    if (cyc_inspect(DATA, &text)) flunk("%s", cyc_error());
    json_t *j = json_loads(text, 0, NULL);
    char *hash = strdup(json_string_value(json_object_get(j, "xxh128_of_tensors")));
    json_decref(j);
    cyc_free(text);
    return hash;
}

static void test_base_and_audit(void **state) {
    (void)state;
    char file[33], file2[33], data[33], *before = tensors_hash();
    must(file_hash(DATA "model.safetensors", file));
    runs("audit", 0, NULL, macct, LIST("max_steps=1"));
    char *after = tensors_hash();
    must(file_hash(DATA "model.safetensors", file2));
    assert_string_equal(before, after);
    assert_string_equal(file, file2);
    json_t *j = json_at(at("audit/audit.json"));
    assert_string_equal(json_string_value(json_object_get(json_object_get(j, "base"), "xxh128_of_tensors")), before);
    must(file_hash(DATA "b.jsonl", data));
    assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(j, "data"), 1), "xxh128")), data);
    json_decref(j);
    free(before);
    free(after);
    struct config c; /* the resolved configuration is one that loads */
    must(config_init(&c));
    must(config_load(&c, at("audit/config.yaml")));
    assert_int_equal(c.max_steps, 1);
    assert_int_equal(c.side[1].lora_r, 4);
    config_free(&c);
}

/* --- the folder ---------------------------------------------------------------------------------------------------- */
static void test_folder(void **state) {
    (void)state;
    const char *const *more = LIST("max_steps=4", "warmup_pairs.data=", "eval.data=", "save_steps=1", "save_total_limit=2");
    struct watch w = {0};
    runs("folder", 0, &w, macct, more);
    assert_int_equal(w.saves, 4);
    assert_int_equal(count_checkpoints("folder"), 2);
    assert_true(path_exists(at("folder/checkpoint-3")) && path_exists(at("folder/checkpoint-4")));
    watch_free(&w);
    sh("cd %s && find folder -type f | sort | xargs md5sum > before", root);
    ends_with(run("folder", 0, NULL, macct, more), CYC_BAD_INPUT, "--overwrite");
    ends_with(run("folder", CYC_OVERWRITE, NULL, macct, LIST("max_steps=4", "A.adapter=/nowhere")), CYC_BAD_INPUT, "/nowhere");
    ends_with(run("folder", CYC_RESUME, NULL, macct, LIST("max_steps=9", "lora.lora_alpha=5")), CYC_BAD_INPUT, "lora_alpha");
    ends_with(run("folder", CYC_RESUME, NULL, macct, LIST("max_steps=9", "lora.r=2")), CYC_BAD_INPUT, "lora.r");
    ends_with(run("folder", CYC_RESUME, NULL, macct, LIST("max_steps=9", "lora.rank_pattern=down_proj=2")), CYC_BAD_INPUT, "down_proj");
    ends_with(run("folder", CYC_RESUME, NULL, macct, LIST("max_steps=9", "lora.rank_pattern=down_proj")), CYC_BAD_INPUT, "such as down_proj=32");
    ends_with(run("folder", CYC_RESUME, NULL, macct, LIST("max_steps=9", "lora.use_rslora=true")), CYC_BAD_INPUT, "use_rslora");
    ends_with(run("folder", CYC_RESUME, NULL, macct, LIST("max_steps=9", "lora.layers_to_transform=2-1")), CYC_BAD_INPUT, "8-15");
    ends_with(run("folder", CYC_RESUME, NULL, macct, LIST("max_steps=9", "lora.layers_to_transform=77")), CYC_BAD_INPUT, "'77' goes beyond the model's last layer, 2");
    ends_with(run("folder", CYC_RESUME, NULL, macct, LIST("max_steps=9", "lora.target_modules=[\"(q_proj\"]")), CYC_BAD_INPUT, "no regular expression");
    sh("cd %s && find folder -type f | sort | xargs md5sum | cmp - before", root); /* what is refused changes nothing */
    sh("touch %s", at("folder/stale"));
    runs("folder", CYC_OVERWRITE, NULL, macct, LIST("max_steps=1", "warmup_pairs.data=", "eval.data="));
    assert_false(path_exists(at("folder/stale")));
    assert_int_equal(count_checkpoints("folder"), 1);
    sh("mkdir -p %s && touch %s", at("precious"), at("precious/thesis.tex"));
    ends_with(run("precious", CYC_OVERWRITE, NULL, macct, more), CYC_BAD_INPUT, "no run");
    assert_true(path_exists(at("precious/thesis.tex")));
    ends_with(run("precious/thesis.tex", 0, NULL, macct, more), CYC_BAD_INPUT, "not a folder");
}

/* --overwrite may start from the adapters of the run that it replaces: they are read before they go. */
static void test_overwrite_from_itself(void **state) {
    (void)state;
    char a[128], b[128];
    const char *const *more = LIST("max_steps=1", "eval.data=");
    runs("self", 0, NULL, macct, more);
    snprintf(a, sizeof a, "A.adapter=%s/self/A", root);
    snprintf(b, sizeof b, "B.adapter=%s/self/B", root);
    runs("self", CYC_OVERWRITE, NULL, macct, LIST("max_steps=1", "eval.data=", a, b));
    assert_true(path_exists(at("self/A/adapter_model.safetensors")));
}

/* A folder that another run made and filled between the look at it and the first write is refused after all. */
static void test_folder_taken_meanwhile(void **state) {
    (void)state;
    struct config cfg;
    struct run r;
    must(config_init(&cfg));
    for (int i = 0; macct[i]; i++) must(config_set(&cfg, macct[i]));
    cfg.output_dir = at("meanwhile");
    must(run_open(&r, &cfg));
    must(folder_check(&r, 0));
    assert_false(path_exists(at("meanwhile"))); /* a look makes nothing */
    must(dir_make(at("meanwhile/A")));
    assert_int_equal(folder_begin(&r, 0), E_USAGE);
    assert_non_null(strstr(err_text(), "meanwhile is not empty"));
    run_close(&r);
    assert_false(path_exists(at("meanwhile/.lock")) || path_exists(at("meanwhile/config.yaml")));
    config_free(&cfg);
}

static void test_broken_checkpoints(void **state) {
    (void)state;
    char data[160];
    struct watch w = {.stop_at = 2};
    sh("cp %s %s", DATA "a.jsonl", at("mine.jsonl"));
    snprintf(data, sizeof data, "A.data=%s/mine.jsonl", root);
    const char *const *more = LIST("max_steps=3", "warmup_pairs.data=", "eval.data=", data);
    ends_with(run("broken", 0, &w, macct, more), CYC_INTERRUPTED, "");
    watch_free(&w);
    sh("cd %s && cp -r broken whole", root);
    /* a folder that was being written when the power went */
    sh("mkdir -p %s/A && printf '{' > %s/trainer_state.json", at("broken/.checkpoint-3.tmp-77"), at("broken/.checkpoint-3.tmp-77"));
    runs("broken", CYC_RESUME, &w, macct, more);
    assert_int_equal(w.first, 3);
    watch_free(&w);
    static const struct { const char *break_it, *says; } cases[] = {
        {"truncate -s -1 checkpoint-2/A/optimizer.safetensors", "checkpoint-2/A/optimizer.safetensors"},
        {"truncate -s 5 checkpoint-2/B/optimizer.safetensors", "checkpoint-2/B/optimizer.safetensors"},
        {"rm checkpoint-2/B/optimizer.safetensors", "checkpoint-2/B/optimizer.safetensors"},
        {"truncate -s 40 checkpoint-2/trainer_state.json", "checkpoint-2/trainer_state.json"},
        {"truncate -s 0 checkpoint-2/trainer_state.json", "checkpoint-2/trainer_state.json"},
        {"rm checkpoint-2/trainer_state.json", "checkpoint-2/trainer_state.json"},
        {"sed -i s/global_step/globalstep/ checkpoint-2/trainer_state.json", "not the state of a run like this one"},
        {"sed -i 's/\"index\": [0-9]*/\"index\": 99999/' checkpoint-2/trainer_state.json", "did the file change"},
        {"truncate -s 100 checkpoint-2/A/adapter_model.safetensors", "checkpoint-2/A/adapter_model.safetensors"},
        {"cp checkpoint-2/A/optimizer.safetensors checkpoint-2/A/adapter_model.safetensors", "missing"},
        {"cp checkpoint-2/A/adapter_model.safetensors checkpoint-2/A/optimizer.safetensors", "does not belong"},
        {"rm -r checkpoint-2/B", "checkpoint-2/B"},
        {"sed -i '1s/.*/{\"text\": \"abcabc\"}/' ../mine.jsonl", "mine.jsonl has changed since the checkpoint"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sh("cd %s && rm -rf hurt && cp -r whole hurt && cd hurt && %s && find . -type f | sort | xargs md5sum > ../before", root, cases[i].break_it);
        int code = run("hurt", CYC_RESUME, NULL, macct, more);
        if (code != CYC_BAD_INPUT) flunk("%s: code %d, %s", cases[i].break_it, code, cyc_error());
        if (!strstr(cyc_error(), cases[i].says) || strchr(cyc_error(), '\n')) flunk("%s: \"%s\" is not in: %s", cases[i].break_it, cases[i].says, cyc_error());
        sh("cd %s/hurt && find . -type f | sort | xargs md5sum | cmp - ../before", root);
    }
}

/* A finished adapter, evaluated from its files, gives what the run said. Takes c. */
static void same_evaluation(cyc_config *c, const char *folder, const json_t *eval) {
    char *text;
    if (cyc_evaluate(c, folder, &text)) flunk("%s", cyc_error());
    json_t *again = json_loads(text, 0, NULL);
    double x = json_number_value(json_object_get(json_array_get(json_object_get(again, "sides"), 0), "loss"));
    double y = json_number_value(json_object_get(json_array_get(json_object_get(eval, "sides"), 0), "loss"));
    if (fabs(x - y) > 1e-6 * y) flunk("eval loss %.9g from the files, %.9g in the run", x, y);
    json_decref(again);
    cyc_free(text);
    cyc_config_free(c);
}

/* --- sft ----------------------------------------------------------------------------------------------------------- */
static const char *sft_data(const char *key, const char *file) {
    static char ring[4][160];
    static int next;
    char *s = ring[next++ % 4];
    snprintf(s, sizeof ring[0], "%s=%s/%s", key, root, file);
    return s;
}

static void test_sft(void **state) {
    (void)state;
    struct watch w = {0};
    runs("sft", 0, &w, sft, LIST("max_steps=30", "eval_steps=15", sft_data("data", "train.jsonl"), sft_data("eval.data", "held.jsonl")));
    assert_int_equal(w.steps, 30);
    if (!(w.loss[29] < 0.5 * w.loss[0])) flunk("loss %g at first, %g after 30 steps", w.loss[0], w.loss[29]);
    assert_int_equal(w.evals, 3);
    for (int i = 0; i < 3; i++) {
        const json_t *e = json_array_get(json_object_get(w.eval[i], "sides"), 0);
        assert_true(json_number_value(json_object_get(e, "loss")) > 0);
        assert_true(fabs(log(json_number_value(json_object_get(e, "perplexity"))) - json_number_value(json_object_get(e, "loss"))) < 1e-6);
        assert_int_equal(json_integer_value(json_object_get(e, "rows")), 12);
    }
    assert_true(path_exists(at("sft/adapter/adapter_model.safetensors")));
    assert_false(path_exists(at("sft/A")));
    json_t *m = metrics("sft"), *first = json_array_get(m, 1);
    static const char *const names[] = {"loss", "learning_rate", "grad_norm", "mean_token_accuracy", "num_tokens", "epoch", "step"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!json_object_get(first, names[i])) flunk("no %s in metrics.jsonl", names[i]);
    assert_non_null(json_object_get(json_array_get(m, 0), "eval_loss"));
    json_decref(m);
    /* the same rows scored through the finished adapter give the last evaluation again */
    cyc_config *c = config("sft", sft, LIST(sft_data("data", "train.jsonl"), sft_data("eval.data", "held.jsonl")));
    same_evaluation(c, at("sft"), w.eval[2]);
    watch_free(&w);
}

static void test_sft_resume(void **state) {
    (void)state;
    struct watch w = {.stop_at = 5};
    const char *const *more = LIST("max_steps=9", "lora.lora_dropout=0.1", sft_data("data", "train.jsonl"));
    runs("sft-straight", 0, NULL, sft, more);
    ends_with(run("sft-stopped", 0, &w, sft, more), CYC_INTERRUPTED, "");
    watch_free(&w);
    runs("sft-stopped", CYC_RESUME, NULL, sft, more);
    same_files(at("sft-straight/adapter/adapter_model.safetensors"), at("sft-stopped/adapter/adapter_model.safetensors"));
    same_metrics("sft-straight", "sft-stopped");
}

static void test_messages_without_template(void **state) {
    (void)state;
    static const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"abc\"}, {\"role\": \"assistant\", \"content\": \"ABC\"}]}\n";
    must(file_write(at("chat.jsonl"), chat, sizeof chat - 1));
    ends_with(run("chat", 0, NULL, sft, LIST(sft_data("data", "chat.jsonl"))), CYC_BAD_INPUT, "chat.jsonl:1");
    if (!strstr(cyc_error(), "no chat template")) flunk("%s", cyc_error());
    assert_false(path_exists(at("chat")));
}

/* Accumulated batches are the large batch: gradients are sums, divided once by the step's supervised tokens. */
static void test_accumulation(void **state) {
    (void)state;
    struct watch one = {0}, two = {0};
    const char *data = sft_data("data", "train.jsonl");
    runs("batch8", 0, &one, sft, LIST(data, "max_steps=10", "per_device_train_batch_size=8"));
    runs("batch4x2", 0, &two, sft, LIST(data, "max_steps=10", "per_device_train_batch_size=4", "gradient_accumulation_steps=2"));
    assert_int_equal(two.steps, 10);
    for (int i = 0; i < 10; i++)
        if (fabs(one.loss[i] - two.loss[i]) > 1e-5) flunk("step %d: %.9g in one batch, %.9g in two", i + 1, one.loss[i], two.loss[i]);
    watch_free(&one);
    watch_free(&two);
    runs("pass8", 0, &two, sft, LIST(data, "max_steps=10", "pass_tokens=1", "gradient_checkpointing=block"));
    runs("batch8b", 0, &one, sft, LIST(data, "max_steps=10", "pass_tokens=512", "gradient_checkpointing=none"));
    for (int i = 0; i < 10; i++)
        if (fabs(one.loss[i] - two.loss[i]) > 1e-4) flunk("step %d: %.9g in one pass, %.9g in many", i + 1, one.loss[i], two.loss[i]);
    watch_free(&one);
    watch_free(&two);
}

/* --- names, structures, the best ----------------------------------------------------------------------------------- */
static void test_metric_names(void **state) {
    (void)state;
    struct watch w = {0};
    runs("names", 0, &w, macct, LIST("max_steps=2", "B.learning_rate=1e-4"));
    watch_free(&w);
    json_t *m = metrics("names");
    static const char *const per[] = {"train_loss", "learning_rate", "grad_norm", "mean_token_accuracy", "num_tokens", "supervised_tokens", "epoch"};
    static const char *const eval[] = {"eval_loss", "eval_perplexity", "eval_bleu", "eval_chrf", "eval_exact"};
    int steps = 0, evals = 0;
    for (size_t i = 0; i < json_array_size(m); i++) {
        const json_t *j = json_array_get(m, i);
        bool is_eval = json_object_get(j, "eval");
        for (int side = 0; side < 2; side++)
            for (size_t k = 0; k < (is_eval ? sizeof eval / sizeof *eval : sizeof per / sizeof *per); k++) {
                char key[64];
                snprintf(key, sizeof key, "%s_%c", is_eval ? eval[k] : per[k], "AB"[side]);
                if (!json_is_number(json_object_get(j, key))) flunk("line %zu has no number %s", i + 1, key);
            }
        if (is_eval) assert_non_null(json_object_get(j, "eval_round_trip_chrf"));
        steps += !is_eval;
        evals += is_eval;
    }
    assert_int_equal(steps, 8);
    assert_int_equal(evals, 2);
    const json_t *first = json_array_get(m, 0);
    assert_true(fabs(json_number_value(json_object_get(first, "learning_rate_A")) - 2e-3) < 1e-9);
    assert_true(fabs(json_number_value(json_object_get(first, "learning_rate_B")) - 1e-4) < 1e-9);
    json_decref(m);
}

static void shape_is(const struct tensors *ts, const char *module, const char *ab, int64_t rows, int64_t cols) {
    char name[256];
    snprintf(name, sizeof name, "base_model.model.model.layers.1.%s.lora_%s.weight", module, ab);
    const struct tensor *t = fixture(ts, name);
    if (t->nd != 2 || t->d[0] != rows || t->d[1] != cols) flunk("%s is [%lld, %lld]", name, (long long)t->d[0], (long long)t->d[1]);
}

/* Cipher base: C 96, 4 heads and 2 key/value heads of 24, F 192, 3 layers. */
static void test_two_structures(void **state) {
    (void)state;
    struct tensors ts;
    const char *const *more = LIST("A.lora.r=8", "B.lora.r=4", "A.lora.target_modules=q_proj,v_proj", "B.lora.target_modules=[o_proj, down_proj, gate_proj]", "B.lora.lora_dropout=0",
                                   "max_steps=2");
    stops_and_goes_on("two", 7, more);
    must(tensors_open(at("two/A/adapter_model.safetensors"), &ts));
    assert_int_equal(ts.n, 3 * 2 * 2);
    shape_is(&ts, "self_attn.q_proj", "A", 8, 96);
    shape_is(&ts, "self_attn.q_proj", "B", 96, 8);
    shape_is(&ts, "self_attn.v_proj", "A", 8, 96);
    shape_is(&ts, "self_attn.v_proj", "B", 48, 8);
    tensors_close(&ts);
    must(tensors_open(at("two/B/adapter_model.safetensors"), &ts));
    assert_int_equal(ts.n, 3 * 3 * 2);
    shape_is(&ts, "self_attn.o_proj", "A", 4, 96);
    shape_is(&ts, "mlp.down_proj", "A", 4, 192);
    shape_is(&ts, "mlp.down_proj", "B", 96, 4);
    shape_is(&ts, "mlp.gate_proj", "B", 192, 4);
    tensors_close(&ts);
    cyc_model *m;
    cyc_adapter *a;
    if (cyc_model_open(DATA, &m) || cyc_adapter_open(m, at("two/B"), &a)) flunk("%s", cyc_error());
    cyc_adapter_close(a);
    cyc_model_close(m);
}

/* --- full fine-tuning ------------------------------------------------------------------------------------------------ */
/* Both sides train the last block, each its own copy: stopped and resumed it is the same; files hold that block and nothing else. */
static void test_full_last_layer(void **state) {
    (void)state;
    struct tensors ts;
    const char *const *more = LIST("method=full", "full.layers=last-1", "max_steps=3");
    stops_and_goes_on("full", 7, more);
    assert_false(same_bytes(at("full/A/adapter_model.safetensors"), at("full/B/adapter_model.safetensors")));
    must(tensors_open(at("full/A/adapter_model.safetensors"), &ts));
    assert_int_equal(ts.n, 7 + 2);
    for (int i = 0; i < ts.n; i++) assert_true(str_starts(ts.t[i].name, "base_model.model.model.layers.2.") && str_ends(ts.t[i].name, ".weight"));
    tensors_close(&ts);
    ends_with(run("full", CYC_RESUME, NULL, macct, LIST("max_steps=9")), CYC_BAD_INPUT, "is a full adapter, the configuration says lora");
    ends_with(run("full", CYC_RESUME, NULL, macct, LIST("max_steps=9", "method=full", "full.layers=first-1")), CYC_BAD_INPUT, "layers.0.input_layernorm.weight is missing");
    ends_with(run("full", CYC_RESUME, NULL, macct, LIST("max_steps=9", "method=full", "full.layers=last-1", "full.target_modules=mlp")), CYC_BAD_INPUT, "holds 9 tensors, this adapter's settings use 3");
}

/* Everything: it learns, and what is evaluated from the files is what was trained. */
static void test_full_sft(void **state) {
    (void)state;
    struct watch w = {0};
    const char *data = sft_data("data", "train.jsonl"), *held = sft_data("eval.data", "held.jsonl");
    runs("full-sft", 0, &w, sft, LIST("method=full", "learning_rate=2e-3", "max_steps=30", "eval_steps=30", data, held));
    if (!(w.loss[29] < 0.5 * w.loss[0])) flunk("loss %g at first, %g after 30 steps", w.loss[0], w.loss[29]);
    cyc_config *c = config("full-sft", sft, LIST("method=full", data, held));
    same_evaluation(c, at("full-sft"), w.eval[1]);
    watch_free(&w);
    cyc_model *m;
    cyc_adapter *a;
    if (cyc_model_open(DATA, &m) || cyc_adapter_open(m, at("full-sft/adapter"), &a)) flunk("%s", cyc_error());
    cyc_adapter_close(a);
    cyc_model_close(m);
}

/* Layers by their place in the model, for any method: files have numbers. */
static void test_layers(void **state) {
    (void)state;
    static const struct { const char *setting, *say; } bad[] = {
        {"lora.layers_to_transform=last-4", "'lora.layers_to_transform' wants layers such as 3, 8-15, first-2, last-4 or every-2 of the model's 3, found 'last-4'"},
        {"lora.layers_to_transform=first-4", "'first-4' goes beyond the model's last layer, 2"},
        {"lora.layers_to_transform=last-0", "found 'last-0'"}, {"lora.layers_to_transform=every-", "found 'every-'"}, {"lora.layers_to_transform=every-2x", "found 'every-2x'"},
        {"lora.layers_to_transform=[0, middle]", "found 'middle'"}, {"lora.layers_to_transform=1-3", "'1-3' goes beyond"}, {"full.layers=5", "'full.layers': '5' goes beyond"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const bool full = str_starts(bad[i].setting, "full");
        ends_with(run("layers-bad", 0, NULL, sft, LIST(bad[i].setting, full ? "method=full" : "method=lora", sft_data("data", "train.jsonl"))), CYC_BAD_INPUT, bad[i].say);
    }
    ends_with(run("layers-bad", 0, NULL, sft, LIST("method=full", "full.layers=last-1", "full.target_modules=\".*mlp.*\"", sft_data("data", "train.jsonl"))), CYC_BAD_INPUT, "a regular expression says itself which layers");
    ends_with(run("layers-bad", 0, NULL, sft, LIST("method=full", "full.target_modules=lm_head", sft_data("data", "train.jsonl"))), CYC_BAD_INPUT, "full.target_modules (lm_head) match no module of this model; it has 3 layers of");
    static const struct { const char *words; int n, layer[3]; } good[] = {{"every-2", 2, {0, 2}}, {"[first-1, last-1]", 2, {0, 2}}, {"last-2", 2, {1, 2}}, {"every-1", 3, {0, 1, 2}}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        char setting[80];
        snprintf(setting, sizeof setting, "lora.layers_to_transform=%s", good[i].words);
        runs("layers", CYC_OVERWRITE, NULL, sft, LIST(setting, "max_steps=1", sft_data("data", "train.jsonl")));
        json_t *j = json_at(at("layers/adapter/adapter_config.json")), *list = json_object_get(j, "layers_to_transform");
        assert_int_equal(json_array_size(list), good[i].n);
        for (int k = 0; k < good[i].n; k++) assert_int_equal(json_integer_value(json_array_get(list, (size_t)k)), good[i].layer[k]);
        json_decref(j);
    }
}

/* A tensor that no gradient comes to is named: one module's scale of zero when the others have moved (with a warm-up, whose first rate is zero,
 * a step later), all of them at once, one side's. */
static void test_reach(void **state) {
    (void)state;
    static const char *const warm[] = {"warmup_steps=0", "warmup_steps=2"};
    for (int i = 0; i < 2; i++) {
        struct watch w = {0};
        ends_with(run("reach", CYC_OVERWRITE, &w, sft, LIST("lora.alpha_pattern=['1\\.self_attn\\.v_proj=0']", "max_steps=9", "lr_scheduler_type=linear", warm[i], sft_data("data", "train.jsonl"))), CYC_FAILED,
                  "no gradient has reached model.layers.1.self_attn.v_proj.lora_A.weight, model.layers.1.self_attn.v_proj.lora_B.weight of the adapter in the first steps");
        assert_int_equal(w.steps, i ? 2 : 1);
        watch_free(&w);
    }
    ends_with(run("reach", CYC_OVERWRITE, NULL, sft, LIST("lora.alpha_pattern=['.*=0']", "max_steps=3", sft_data("data", "train.jsonl"))), CYC_FAILED, " more of the adapter in the first step:");
    ends_with(run("reach", CYC_OVERWRITE, NULL, macct, LIST("B.lora.alpha_pattern=['.*=0']")), CYC_FAILED, "no gradient has reached B: ");
}

static double eval_loss(const json_t *e) { return json_number_value(json_object_get(json_array_get(json_object_get(e, "sides"), 0), "loss")); }

/* Sixteen rows at a high rate: the held-out loss falls, then rises. The finished adapter is that of its lowest point. */
static void test_best(void **state) {
    (void)state;
    struct watch w = {0};
    const char *const *more = LIST("max_steps=40", "eval_steps=4", "learning_rate=2e-2", "metric_for_best_model=loss", sft_data("data", "train.jsonl"), sft_data("eval.data", "held.jsonl"));
    runs("best", 0, &w, sft, more);
    int best = 0;
    for (int i = 1; i < w.evals; i++)
        if (eval_loss(w.eval[i]) < eval_loss(w.eval[best])) best = i;
    if (best == w.evals - 1) flunk("the last evaluation is the best: the case shows nothing");
    same_files(at("best/adapter/adapter_model.safetensors"), at("best/best/adapter/adapter_model.safetensors"));
    cyc_config *c = config("best", sft, more);
    char *text;
    if (cyc_evaluate(c, at("best"), &text)) flunk("%s", cyc_error());
    json_t *j = json_loads(text, 0, NULL);
    if (fabs(eval_loss(j) - eval_loss(w.eval[best])) > 1e-6) flunk("the finished adapter has %.9g, the best evaluation was %.9g", eval_loss(j), eval_loss(w.eval[best]));
    json_decref(j);
    cyc_free(text);
    cyc_config_free(c);
    /* stopped behind its best point and resumed: the same one is kept */
    int step = 0;
    for (int i = 0; i <= best; i++) step = (int)json_integer_value(json_object_get(w.eval[i], "step"));
    watch_free(&w);
    w.stop_at = step + 2;
    ends_with(run("best-stopped", 0, &w, sft, more), CYC_INTERRUPTED, "");
    watch_free(&w);
    runs("best-stopped", CYC_RESUME, NULL, sft, more);
    same_files(at("best/adapter/adapter_model.safetensors"), at("best-stopped/adapter/adapter_model.safetensors"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume_is_exact),
        cmocka_unit_test(test_resume_again), cmocka_unit_test(test_resume_rollouts), cmocka_unit_test(test_idle), cmocka_unit_test(test_choices),
        cmocka_unit_test(test_more_steps),
        cmocka_unit_test(test_optimizers),
        cmocka_unit_test(test_only_the_trained_adapter),
        cmocka_unit_test(test_base_and_audit),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_overwrite_from_itself),
        cmocka_unit_test(test_folder_taken_meanwhile),
        cmocka_unit_test(test_broken_checkpoints),
        cmocka_unit_test(test_sft),
        cmocka_unit_test(test_sft_resume),
        cmocka_unit_test(test_messages_without_template),
        cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_metric_names),
        cmocka_unit_test(test_two_structures),
        cmocka_unit_test(test_best),
        cmocka_unit_test(test_full_last_layer),
        cmocka_unit_test(test_full_sft),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_reach),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
