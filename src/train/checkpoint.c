/* Run folders and checkpoints.
 *
 *   output_dir/config.yaml            the resolved configuration
 *   output_dir/audit.json             hashes of base, tokenizer and data; version; seed; processor
 *   output_dir/metrics.jsonl          a line per logged step and evaluation
 *   output_dir/checkpoint-N/{A,B,...}/    adapters in PEFT's layout, optimizer.safetensors beside each, and
 *                                     rollouts.safetensors where texts wait for later steps (rollout_file.c)
 *   output_dir/checkpoint-N/trainer_state.json   step, updates, data cursors, evaluations so far
 *   output_dir/best/{A,B}/            those of the best evaluation, where metric_for_best_model asks for it
 *   output_dir/{A,B}/                 the finished adapters (sft: output_dir/adapter); none of a random base
 *   output_dir/report.json            evaluations, measured memory, times: written last
 *   output_dir/report.html            the same to look at, with curves and samples; at evaluations and saves
 *   output_dir/runs/                  TensorBoard's event files, where report_to asks for them
 *   output_dir/.lock                  while a run is at work
 *
 * A checkpoint is written into a folder of another name and renamed when whole, so one that exists is whole. Randomness is
 * a function of seed and step (base/philox.h): there is no generator state to save, and resuming is exact to the bit. */
#define _GNU_SOURCE
#include "train/run.h"
#include "base/log.h"
#include "cpu/cpu.h"
#include "io/jsonl_out.h"
#include "report/report.h"
#include "train/tensorboard.h"
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *adapter_folder(const struct run *r, int side, const char *root, arena *mem) {
    return arena_printf(mem, "%s/%s", root, *r->side[side].name ? r->side[side].name : "adapter");
}

static err write_json(const char *path, json_t *j) {
    char *text = j ? json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(j);
    if (!text) return fail(E_MEMORY, "out of memory");
    err e = file_write(path, text, strlen(text));
    free(text);
    return e;
}

/* --- the folder ---------------------------------------------------------------------------------------------------- */
static void audit_files(const struct source *s, json_t *data) {
    for (int i = 0; i < s->n_parts; i++) json_array_append_new(data, json_pack("{s:s, s:s}", "path", s->part[i].path, "xxh128", s->part[i].hash));
}

static json_t *base_json(struct base *b) {
    return json_pack("{s:s, s:s, s:I}", "path", b->model.path, "xxh128_of_tensors", base_hash(b), "parameters",
                     (json_int_t)b->model.parameters);
}

static json_t *audit_json(struct run *r) {
    json_t *data = json_array();
    for (int i = 0; i < r->n_sides; i++) audit_files(&r->side[i].source, data);
    const struct source *pairs[] = {&r->warm.source, &r->eval.source, &r->test.source};
    for (int i = 0; i < 3; i++)
        audit_files(pairs[i], data);
    struct base *b = &r->base[0];
    json_t *j =
        json_pack("{s:s, s:I, s:o, s:s, s:o, s:s, s:i}", "cyclora", CYC_VERSION, "seed", (json_int_t)r->cfg->seed, "base", base_json(b),
                  "tokenizer_xxh128", b->tok_hash, "data", data, "kernels", cpu_isa_name(cpu_isa()), "threads", r->threads);
    if (r->teacher.lesson.train.share > 0) json_object_set_new(j, "teacher", teacher_json(r));
    if (b->model.stretched) json_object_set_new(j, "positions", base_positions_json(r, b));
    if (r->n_bases == 1) return j;
    json_t *bases = json_array(); /* all of them, the first included */
    for (int i = 0; i < r->n_bases; i++) {
        json_t *one = base_json(&r->base[i]);
        json_object_set_new(one, "side", json_string(r->base[i].name));
        json_object_set_new(one, "tokenizer_xxh128", json_string(r->base[i].tok_hash));
        json_array_append_new(bases, one);
    }
    json_object_set_new(j, "bases", bases);
    return j;
}

static const char *in_folder(const struct run *r, const char *name, arena *mem) {
    const char *path = arena_printf(mem, "%s/%s", r->cfg->output_dir, name);
    return path ? path : "";
}

/* One process at a time trains into a folder: two would drop each other's checkpoints and mix their metrics. */
static const char LOCK_FILE[] = ".lock";

static err lock_folder(struct run *r) {
    arena mem = {0};
    char *what = arena_printf(&mem, "output_dir %s", r->cfg->output_dir);
    err e = what ? lock_take(&r->lock, in_folder(r, LOCK_FILE, &mem), what) : fail(E_MEMORY, "out of memory");
    arena_free(&mem);
    return e;
}

/* Where a lock file lies, a run may be at work, which matters more than what it has written so far. Otherwise a folder
 * that is refused is not touched. */
err folder_check(struct run *r, int flags) {
    const char *dir = r->cfg->output_dir;
    if (!*dir) return fail(E_USAGE, "output_dir is not set");
    if (!path_exists(dir)) return OK; /* locked when it is made */
    if (!path_is_dir(dir)) return fail(E_USAGE, "output_dir %s exists and is not a folder", dir);
    arena mem = {0};
    bool locked = path_exists(in_folder(r, LOCK_FILE, &mem));
    bool run = path_exists(in_folder(r, "config.yaml", &mem)) || path_exists(in_folder(r, "audit.json", &mem));
    arena_free(&mem);
    if (locked) TRY(lock_folder(r));
    if (!dir_empty(dir, LOCK_FILE)) {
        if (!(flags & 3)) return fail(E_USAGE, "output_dir %s is not empty: go on with --resume, or start over with --overwrite", dir);
        if (flags & 2 && !run)
            return fail(E_USAGE,
                        "output_dir %s holds files but no run (no config.yaml): --overwrite would delete them; name another folder", dir);
    }
    return lock_folder(r);
}

/* ".checkpoint-20.tmp-4711", ".best.tmp-4711": folders until they are whole, or while they are removed. */
static const char *unfinished_name(const struct run *r, const char *name, arena *mem) {
    const char *path = arena_printf(mem, "%s/.%s.tmp-%ld", r->cfg->output_dir, name, (long)getpid());
    return path ? path : "";
}

/* What follows `prefix` and a number in name; NULL where it does not begin so. */
static const char *past_number(const char *name, const char *prefix) {
    if (!name || !str_starts(name, prefix)) return NULL;
    name += strlen(prefix);
    const size_t digits = strspn(name, "0123456789");
    return digits ? name + digits : NULL;
}

static bool is_unfinished(const char *name, bool folder) {
    static const char *const files[] = {"config.yaml", "audit.json", "metrics.jsonl", "report.", "adapter_"}; /* file_write()'s */
    const char *end = folder ? past_number(past_number(name, ".checkpoint-"), ".tmp-") : NULL;
    if (folder && !end) end = past_number(name, ".best.tmp-");
    for (size_t i = 0; i < sizeof files / sizeof *files && !folder && !end; i++)
        if (str_starts(name, files[i])) end = past_number(strstr(name, ".tmp-"), ".tmp-");
    return end && !*end;
}

/* What a killed run did not finish, in one folder. */
static err sweep_folder(const char *folder) {
    DIR *d = opendir(folder);
    err e = OK;
    for (struct dirent *ent; d && !e && (ent = readdir(d));) {
        struct stat st;
        char path[4096];
        if (snprintf(path, sizeof path, "%s/%s", folder, ent->d_name) >= (int)sizeof path || lstat(path, &st) || !is_unfinished(ent->d_name, S_ISDIR(st.st_mode))) continue;
        if (S_ISDIR(st.st_mode)) e = dir_remove(path);
        else if (S_ISREG(st.st_mode)) unlink(path);
    }
    if (d) closedir(d);
    return e;
}

/* Nobody else writes here while the lock is held, so each of them is a leftover, whatever process now has its number; without a lock none is
 * certain to be one. */
static err sweep_unfinished(const struct run *r) {
    if (r->lock.fd < 0) return OK;
    arena mem = {0};
    err e = sweep_folder(r->cfg->output_dir);
    for (int i = 0; i < r->n_sides && !e; i++) e = sweep_folder(adapter_folder(r, i, r->cfg->output_dir, &mem));
    arena_free(&mem);
    return e;
}

static err write_record(struct run *r) {
    arena mem = {0};
    str yaml = {0};
    err e = config_write(r->cfg, &yaml);
    if (!e) e = file_write(in_folder(r, "config.yaml", &mem), yaml.p, yaml.n);
    if (!e) e = write_json(in_folder(r, "audit.json", &mem), audit_json(r));
    bases_forget(r); /* the hash has read the whole base, and the kernel brings back what is before the bytes that are read */
    str_free(&yaml);
    arena_free(&mem);
    return e;
}

/* A folder that was not there when it was checked is checked again once it is ours: another run may have come first.
 * A resumed run has no report until it has one of its own: that is how a finished run is told from one that still has
 * its last evaluation or its adapters to write (checkpoint_resume). */
err folder_begin(struct run *r, int flags) {
    const char *dir = r->cfg->output_dir;
    TRY(dir_make(dir));
    if (!r->lock.path) TRY(folder_check(r, flags));
    if (flags & 2) TRY(dir_clear(dir, LOCK_FILE));
    TRY(sweep_unfinished(r));
    arena mem = {0};
    unlink(in_folder(r, "report.json", &mem));
    err e = write_record(r);
    if (!e && !strcmp(r->cfg->report_to, "tensorboard")) e = events_begin(in_folder(r, "runs", &mem), flags & 1 ? r->resumed ? r->step + 1 : 0 : -1, &r->events);
    arena_free(&mem);
    return e;
}

err metrics_append(const struct run *r, json_t *line) {
    char path[4096];
    str text = {0};
    snprintf(path, sizeof path, "%s/metrics.jsonl", r->cfg->output_dir);
    err e = r->events ? events_append(r->events, line) : OK;
    jsonl_add(&text, line);
    if (!e) e = text.failed ? fail(E_MEMORY, "out of memory") : file_append(path, text.p, text.n);
    str_free(&text);
    return e;
}

/* A resumed run goes on after its checkpoint: lines of steps beyond it are from a future that did not happen. */
static err metrics_cut(const struct run *r) {
    char path[4096];
    snprintf(path, sizeof path, "%s/metrics.jsonl", r->cfg->output_dir);
    if (!path_exists(path)) return OK;
    str all = {0}, keep = {0};
    TRY(file_read(path, &all));
    for (char *line = all.p, *end; line && *line; line = end) {
        end = strchr(line, '\n');
        end = end ? end + 1 : line + strlen(line);
        json_t *j = json_loadb(line, (size_t)(end - line), 0, NULL);
        if (j && json_integer_value(json_object_get(j, "step")) <= r->step) str_add(&keep, line, (size_t)(end - line));
        json_decref(j);
    }
    err e = file_write(path, keep.p ? keep.p : "", keep.n);
    str_free(&all);
    str_free(&keep);
    return e;
}

/* --- saving --------------------------------------------------------------------------------------------------------- */
static err save_side(const struct run *r, int i, const char *dir, arena *mem) {
    const struct side *s = &r->side[i];
    const char *folder = adapter_folder(r, i, dir, mem);
    TRY(learner_write(&s->learner, folder, s->cfg->model));
    TRY(rollout_write(&s->rollouts, folder));
    return optimizer_write(&s->learner, folder);
}

static json_t *state_json(const struct run *r) {
    json_t *sides = json_array();
    for (int i = 0; i < r->n_sides; i++) {
        const struct side *s = &r->side[i];
        json_t *j = json_pack("{s:s, s:I, s:I, s:I, s:s}", "name", s->name, "updates", (json_int_t)s->learner.updates, "epoch",
                              (json_int_t)s->order.epoch, "index", (json_int_t)s->order.index, "data_xxh128", s->source.hash);
        json_array_append_new(sides, j);
        json_t *sketch = s->sketched ? json_array() : NULL;
        for (int k = 0; sketch && k < SKETCH; k++) json_array_append_new(sketch, json_real(s->sketch[k]));
        if (sketch) json_object_set_new(j, "sketch", sketch);
    }
    return json_pack("{s:I, s:I, s:s, s:f, s:o, s:O, s:I, s:o}", "global_step", (json_int_t)r->step, "max_steps", (json_int_t)run_total(r),
                     "objective", r->objective->name, "seconds", r->elapsed, "sides", sides, "evals", r->evals, "rolled_back",
                     (json_int_t)r->rolled_back, "times", times_json(r));
}

static int by_step(const void *a, const void *b) {
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

/* The steps of the whole checkpoints in output_dir, ascending; the caller frees. */
static long long *list_checkpoints(const char *dir, int *n) {
    DIR *d = opendir(dir);
    long long *v = NULL;
    *n = 0;
    for (struct dirent *ent; d && (ent = readdir(d));) {
        char *end;
        if (!str_starts(ent->d_name, "checkpoint-")) continue;
        long long step = strtoll(ent->d_name + 11, &end, 10);
        if (*end || end == ent->d_name + 11) continue;
        long long *w = realloc(v, (size_t)(*n + 1) * sizeof *v);
        if (!w) break;
        v = w;
        v[(*n)++] = step;
    }
    if (d) closedir(d);
    if (v) qsort(v, (size_t)*n, sizeof *v, by_step);
    return v;
}

static err drop_old(const struct run *r) {
    int n;
    long long *v = list_checkpoints(r->cfg->output_dir, &n);
    err e = OK;
    for (int i = 0; i + r->cfg->save_total_limit < n && r->cfg->save_total_limit > 0 && !e; i++) {
        char path[4096];
        arena mem = {0};
        const char *going = unfinished_name(r, arena_printf(&mem, "checkpoint-%lld", v[i]), &mem); /* so that no half of one looks whole */
        snprintf(path, sizeof path, "%s/checkpoint-%lld", r->cfg->output_dir, v[i]);
        e = rename(path, going) ? fail(E_IO, "%s: cannot rename: %s", path, strerror(errno)) : dir_remove(going);
        arena_free(&mem);
    }
    free(v);
    return e;
}

/* What goes wrong on the way (a full disk) leaves what was there. */
static err replace_or_remove(err e, const char *tmp, const char *to) {
    if (!e) e = dir_replace(tmp, to);
    if (!e || !path_exists(tmp)) return e;
    char why[1024];
    snprintf(why, sizeof why, "%s", err_text());
    dir_remove(tmp);
    return fail(e, "%s", why);
}

err checkpoint_save(struct run *r, char **path_out) {
    arena mem = {0};
    const char *name = arena_printf(&mem, "checkpoint-%lld", (long long)r->step), *to = in_folder(r, name, &mem), *tmp = unfinished_name(r, name, &mem);
    err e = dir_make(tmp);
    for (int i = 0; i < r->n_sides && !e; i++) e = save_side(r, i, tmp, &mem);
    if (!e) e = write_json(arena_printf(&mem, "%s/trainer_state.json", tmp), state_json(r));
    e = replace_or_remove(e, tmp, to);
    if (!e && path_out) *path_out = strdup(to);
    arena_free(&mem);
    return e ? e : drop_old(r);
}

/* Of a random base nothing leaves the run: an adapter in PEFT's layout would look like any other and mean nothing. The
 * checkpoints (and the best evaluation's adapters) are the run's own state and stay, so that benchmarks can resume. */
err folder_finish(struct run *r) {
    for (int i = 0; i < bases_trained(r); i++)
        if (r->base[i].model.random)
            log_warn("%s is a random model: no adapters are written to %s, only its checkpoints stay", r->base[i].cfg->model,
                     r->cfg->output_dir);
    arena mem = {0};
    err e = OK;
    for (int i = 0; i < r->n_sides && !e; i++)
        if (!r->side[i].base->model.random)
            e = learner_finish(&r->side[i].learner, adapter_folder(r, i, r->cfg->output_dir, &mem), &r->side[i].base->model);
    arena_free(&mem);
    return e;
}

err folder_report(struct run *r) {
    char path[4096];
    snprintf(path, sizeof path, "%s/report.json", r->cfg->output_dir);
    TRY(folder_page(r, AT_END));
    return write_json(path, run_report_json(r, AT_END));
}

err folder_page(struct run *r, enum telling when) {
    const double begun = seconds_now();
    if (when == SO_FAR && begun - r->page_made < 50 * r->page_took) return OK; /* it reads all of metrics.jsonl */
    json_t *j = run_report_json(r, when);
    err e = j ? report_write(r->cfg->output_dir, j) : fail(E_MEMORY, "out of memory");
    json_decref(j);
    r->page_made = seconds_now();
    r->page_took = r->page_made - begun;
    return e;
}

static err load_side(struct run *r, int i, const char *dir, arena *mem) {
    struct side *s = &r->side[i];
    const char *folder = adapter_folder(r, i, dir, mem);
    TRY(learner_load(&s->learner, folder, &s->base->model));
    bool found;
    TRY(optimizer_read(&s->learner, folder, &found));
    const struct base *made = s->from ? s->from->base : s->base, *real = s->next ? s->next->base : s->base;
    const int vocab[] = {(int)real->model.shape.vocab, (int)s->base->model.shape.vocab, (int)made->model.shape.vocab};
    TRY(rollout_read(&s->rollouts, folder, vocab));
    return found ? OK : fail(E_INPUT, "%s/optimizer.safetensors is missing: this checkpoint is not whole", folder);
}

/* A rollback wants the optimizers' states too. */
err best_save(struct run *r) {
    arena mem = {0};
    const bool whole = !strcmp(r->cfg->on_alarm, "rollback");
    const char *tmp = unfinished_name(r, "best", &mem);
    err e = dir_make(tmp);
    for (int i = 0; i < r->n_sides && !e; i++)
        e = whole ? save_side(r, i, tmp, &mem) : learner_write(&r->side[i].learner, adapter_folder(r, i, tmp, &mem), r->side[i].cfg->model);
    e = replace_or_remove(e, tmp, in_folder(r, "best", &mem));
    arena_free(&mem);
    return e;
}

err best_load(struct run *r, bool optimizers) {
    arena mem = {0};
    const char *best = in_folder(r, "best", &mem);
    const bool is = strcmp(r->cfg->best_metric, "none") && path_is_dir(best);
    err e = OK;
    for (int i = 0; is && i < r->n_sides && !e; i++)
        e = optimizers ? load_side(r, i, best, &mem) : learner_load(&r->side[i].learner, adapter_folder(r, i, best, &mem), &r->side[i].base->model);
    arena_free(&mem);
    return e;
}

/* --- resuming ------------------------------------------------------------------------------------------------------- */
static void load_times(struct run *r, const json_t *times) {
    static const struct { const char *name; enum phase phase; } rows[] = {{"generate", PHASE_GENERATE}, {"train", PHASE_TRAIN}, {"evaluate", PHASE_EVALUATE}, {"save", PHASE_SAVE}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) r->spent[rows[i].phase] = json_number_value(json_object_get(times, rows[i].name));
}

static void load_sketch(struct side *s, const json_t *sketch) {
    s->sketched = json_array_size(sketch) == SKETCH;
    for (int k = 0; s->sketched && k < SKETCH; k++) s->sketch[k] = json_number_value(json_array_get(sketch, (size_t)k));
}

static err load_state(struct run *r, const char *path, const json_t *j) {
    const json_t *sides = json_object_get(j, "sides"), *step = json_object_get(j, "global_step");
    const char *objective = json_string_value(json_object_get(j, "objective"));
    if (!json_is_integer(step) || json_array_size(sides) != (size_t)r->n_sides || !objective || strcmp(objective, r->objective->name))
        return fail(E_INPUT, "%s: not the state of a run like this one", path);
    for (int i = 0; i < r->n_sides; i++) {
        const json_t *s = json_array_get(sides, (size_t)i);
        const char *hash = json_string_value(json_object_get(s, "data_xxh128"));
        if (!hash || strcmp(hash, r->side[i].source.hash))
            return fail(E_INPUT, "%s has changed since the checkpoint: resume needs the same data", r->side[i].source.path);
        r->side[i].learner.updates = json_integer_value(json_object_get(s, "updates"));
        load_sketch(&r->side[i], json_object_get(s, "sketch"));
        TRY(order_seek(&r->side[i].order, json_integer_value(json_object_get(s, "epoch")), json_integer_value(json_object_get(s, "index"))));
    }
    r->step = json_integer_value(step);
    r->rolled_back = json_integer_value(json_object_get(j, "rolled_back"));
    r->elapsed = json_number_value(json_object_get(j, "seconds"));
    load_times(r, json_object_get(j, "times"));
    json_t *evals = json_object_get(j, "evals");
    if (json_is_array(evals)) json_array_extend(r->evals, evals);
    return OK;
}

err checkpoint_resume(struct run *r, bool *found) {
    int n;
    long long *v = list_checkpoints(r->cfg->output_dir, &n);
    *found = n > 0;
    arena mem = {0};
    if (!n) { /* what a run has told that was killed before its first checkpoint did not happen either */
        unlink(in_folder(r, "metrics.jsonl", &mem));
        return arena_free(&mem), OK;
    }
    char *dir = arena_printf(&mem, "%s/checkpoint-%lld", r->cfg->output_dir, v[n - 1]), *path = arena_printf(&mem, "%s/trainer_state.json", dir);
    free(v);
    json_error_t je;
    json_t *j = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
    err e = j ? load_state(r, path, j) : fail(E_INPUT, "%s: %s", path, je.text);
    for (int i = 0; i < r->n_sides && !e; i++) e = load_side(r, i, dir, &mem);
    json_decref(j);
    if (!e && r->step >= run_total(r) && path_exists(in_folder(r, "report.json", &mem)))
        e = fail(E_USAGE, "%s is at step %lld of %lld: nothing is left to do; raise max_steps", dir, (long long)r->step,
                 (long long)run_total(r));
    if (!e) e = metrics_cut(r);
    r->resumed = true;
    arena_free(&mem);
    return e;
}

err adapters_load(struct run *r, const char *folder) {
    arena mem = {0};
    err e = OK;
    for (int i = 0; i < r->n_sides && !e; i++) {
        const char *dir = adapter_folder(r, i, folder, &mem);
        e = learner_load(&r->side[i].learner, dir, &r->side[i].base->model);
    }
    arena_free(&mem);
    return e;
}
