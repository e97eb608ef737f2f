/* The runs of a comparison, one child process after the other: `cyclora train` with the cell's settings. See compare.h.
 *
 * What a run gave is read from its folder (report.json, metrics.jsonl), never from what the child prints, so a finished run counts the
 * same when the command is given again. Finished means: a report, and a resolved configuration that is the one it would have now, to the
 * byte; anything else in the folder is started over. A run that is refused (status 2) is not tried with the other seeds. Ctrl-C ends the child,
 * which saves, and then the comparison. */
#define _GNU_SOURCE
#include "compare.h"
#include "base/file.h"
#include "report.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- a child ------------------------------------------------------------------------------------------------------------ */
static volatile sig_atomic_t stopped;
static volatile pid_t child;

/* A terminal sends the signal to the child as well; `kill` does not. */
static void on_signal(int sig) {
    if (!stopped++ && child > 0 && sig == SIGTERM) kill(child, SIGTERM);
}

/* This very program, also where the file that it was started from has been replaced meanwhile. */
static void become(const char **argv, const char *log, int out) {
    int to = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (to >= 0 && dup2(to, 2) >= 0 && dup2(out, 1) >= 0) execv("/proc/self/exe", (char *const *)argv);
    dprintf(2, "cyclora: error: cannot start this program once more: %s\n", strerror(errno));
    _exit(STATUS_FAILED);
}

int child_run(const char **argv, const char *log, void (*each)(void *ctx, const char *line), void *ctx) {
    int out[2], st = 0;
    if (pipe2(out, O_CLOEXEC)) return cli_bad("compare: no pipe: %s", strerror(errno));
    fflush(stdout);
    child = fork();
    if (!child) become(argv, log, out[1]);
    close(out[1]);
    FILE *f = child > 0 ? fdopen(out[0], "r") : NULL;
    char *line = NULL;
    size_t room = 0;
    while (f && (getline(&line, &room, f) > 0 || (ferror(f) && errno == EINTR))) {
        if (each && !ferror(f)) each(ctx, line);
        clearerr(f);
    }
    free(line);
    if (f) fclose(f);
    else close(out[0]);
    while (child > 0 && waitpid(child, &st, 0) < 0 && errno == EINTR) continue;
    if (child < 0) return cli_bad("compare: cannot start a process: %s", strerror(errno));
    child = 0;
    return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}

/* The last error line of a log, without its beginning. */
static const char *reason(arena *mem, const char *log, int status) {
    static const char mark[] = "cyclora: error: ";
    str text = {0};
    const char *why = NULL;
    if (!file_read(log, &text))
        for (char *p = text.p; p && (p = strstr(p, mark)); p += sizeof mark - 1)
            if (p == text.p || p[-1] == '\n') why = p + sizeof mark - 1;
    why = why ? arena_strn(mem, why, strcspn(why, "\n"))
        : status > 128 ? arena_printf(mem, "ended by signal %d (%s); see %s", status - 128, strsignal(status - 128), log)
                       : arena_printf(mem, "exit status %d; see %s", status, log);
    str_free(&text);
    return why;
}

/* --- folders ------------------------------------------------------------------------------------------------------------ */
/* A cell's name as that of a folder; what no plain name can hold is replaced, and a hash then keeps such names apart. */
static const char *folder_name(arena *mem, const char *name) {
    char hex[33], *to = arena_str(mem, name);
    bool plain = strlen(name) < 100;
    for (char *p = to; *p; p++) {
        if (*p == ' ') *p = '_';
        else if (!isalnum((unsigned char)*p) && !strchr("._=+-", *p)) *p = '-', plain = false;
    }
    if (plain) return to;
    bytes_hash(name, strlen(name), hex);
    return arena_printf(mem, "%.90s-%.8s", to, hex);
}

struct one {
    struct comparison *c;
    struct cell *cell;
    long long seed;
    const char *folder, *log, *set[MOST_SETS + 8];
    int sets, done, all; /* of the comparison's runs */
};

static void one_make(struct one *o) {
    arena *mem = &o->c->mem;
    const char *cell = arena_printf(mem, "%s/%s", o->c->out, folder_name(mem, o->cell->name));
    o->folder = arena_printf(mem, "%s/seed%lld", cell, o->seed);
    o->log = arena_printf(mem, "%s.log", o->folder);
    dir_make(cell); /* where it cannot be made, the child's message says why */
    o->sets = 0;
    for (int i = 0; i < o->cell->sets; i++) o->set[o->sets++] = o->cell->set[i];
    o->set[o->sets++] = arena_printf(mem, "output_dir=%s", o->folder);
    o->set[o->sets++] = arena_printf(mem, "seed=%lld", o->seed);
    o->set[o->sets++] = "logging_steps=1";
    o->set[o->sets++] = "save_steps=0";
    if (o->c->keeps_features && !strcmp(o->cell->set[0], "method=none"))
        o->set[o->sets++] = arena_printf(mem, "features.cache=%s/features", o->c->out);
}

static bool same_text(const char *path, const char *text) {
    str had = {0};
    bool same = path_exists(path) && !file_read(path, &had) && had.p && !strcmp(had.p, text);
    str_free(&had);
    return same;
}

static json_t *json_at(arena *mem, const char *folder, const char *name) { return json_load_file(arena_printf(mem, "%s/%s", folder, name), 0, NULL); }

static bool finished(const struct one *o) {
    arena *mem = &o->c->mem;
    cyc_config *cfg = cyc_config_new();
    char *yaml = NULL;
    int code = cfg ? cyc_config_load(cfg, o->c->config) : CYC_FAILED;
    for (int i = 0; i < o->c->sets->n && !code; i++) code = cyc_config_set(cfg, o->c->sets->v[i]);
    for (int i = 0; i < o->sets && !code; i++) code = cyc_config_set(cfg, o->set[i]);
    if (!code) code = cyc_config_text(cfg, &yaml);
    cyc_config_free(cfg);
    bool same = !code && same_text(arena_printf(mem, "%s/config.yaml", o->folder), yaml);
    cyc_free(yaml);
    json_t *report = same ? json_at(mem, o->folder, "report.json") : NULL;
    bool whole = report && !json_is_true(json_object_get(report, "stopped"));
    json_decref(report);
    return whole;
}

/* The state to resume from is no use to a comparison, and three times as large as what was trained. */
static void drop_checkpoints(const struct one *o) {
    glob_t found;
    if (glob(arena_printf(&o->c->mem, "%s/checkpoint-*", o->folder), GLOB_ONLYDIR, NULL, &found)) return;
    for (size_t i = 0; i < found.gl_pathc; i++) dir_remove(found.gl_pathv[i]);
    globfree(&found);
}

/* --- one run ------------------------------------------------------------------------------------------------------------ */
static void on_line(void *ctx, const char *line) {
    const struct one *o = ctx;
    if (!term_tty() || !strstr(line, "\"step\"")) return;
    json_t *j = json_loads(line, 0, NULL);
    const json_t *loss = json_array_get(json_object_get(j, "loss"), 0);
    if (!strcmp(json_text(j, "event"), "step")) {
        str s = {0};
        str_addf(&s, "run %d of %d: %s, seed %lld  step %.0f/%.0f  loss %.4f  left %s", o->done + 1, o->all, o->cell->name, o->seed,
                 json_num(j, "step"), json_num(j, "max_steps"), json_number_value(loss), show_time(json_num(j, "eta_s")));
        progress_show(s.p ? s.p : "");
        str_free(&s);
    }
    json_decref(j);
}

static int train(struct one *o) {
    const char **argv = arena_alloc(&o->c->mem, (size_t)(2 * (o->c->sets->n + o->sets) + 8) * sizeof *argv);
    int n = 0;
    if (!argv) return cli_bad("out of memory");
    argv[n++] = "cyclora", argv[n++] = "train", argv[n++] = o->c->config;
    for (int i = 0; i < o->c->sets->n; i++) argv[n++] = "--set", argv[n++] = o->c->sets->v[i];
    for (int i = 0; i < o->sets; i++) argv[n++] = "--set", argv[n++] = o->set[i];
    argv[n++] = "--overwrite";
    argv[n++] = "--json";
    return child_run(argv, o->log, on_line, o);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, size_t n) {
    if (!n) return NAN;
    qsort(x, n, sizeof *x, ascending);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* The median of a run's steps but the first, which touches all memory for the first time. */
static double step_seconds(const char *path) {
    FILE *f = fopen(path, "re");
    double *x = NULL;
    size_t n = 0, room = 0, line_room = 0;
    char *line = NULL;
    while (f && getline(&line, &line_room, f) > 0) {
        json_t *j = json_loads(line, 0, NULL);
        double s = json_object_get(j, "eval") ? NAN : json_num(j, "seconds");
        json_decref(j);
        if (isnan(s)) continue;
        double *more = n == room ? realloc(x, (room = 2 * room + 64) * sizeof *x) : x;
        if (!more) break;
        x = more;
        x[n++] = s;
    }
    double m = n > 1 ? median(x + 1, n - 1) : n ? x[0] : NAN;
    free(x);
    free(line);
    if (f) fclose(f);
    return m;
}

/* The mean of a figure over the sides that have it. */
static void add_mean(json_t *to, const json_t *sides, const char *name) {
    size_t i, n = 0;
    double sum = 0;
    json_t *side;
    json_array_foreach(sides, i, side) {
        const json_t *v = json_object_get(side, name);
        if (report_compares(side, name, v)) sum += json_real_value(v), n++;
    }
    if (n) json_object_set_new(to, name, json_real(sum / (double)n));
}

/* Of the last evaluation: the usual metrics first, then what else it has (eval.metrics, the numbers of a command). */
static json_t *metrics_of(const json_t *report) {
    static const char *const usual[] = {"accuracy", "macro_f1", "loss", "bleu", "chrf", "exact"};
    const json_t *evals = json_object_get(report, "evals"), *sides = json_object_get(json_array_get(evals, json_array_size(evals) - 1), "sides");
    json_t *m = json_object(), *side, *v;
    const char *name;
    size_t i;
    for (i = 0; i < sizeof usual / sizeof *usual; i++) add_mean(m, sides, usual[i]);
    json_array_foreach(sides, i, side) json_object_foreach(side, name, v) if (!json_object_get(m, name)) add_mean(m, sides, name);
    return m;
}

static json_t *result_of(struct one *o) {
    arena *mem = &o->c->mem;
    json_t *report = json_at(mem, o->folder, "report.json"), *metrics = metrics_of(report), *side;
    const json_t *plan = json_object_get(report, "plan");
    double trained = 0;
    size_t i;
    json_array_foreach(json_object_get(plan, "sides"), i, side) trained += json_num(side, "trained");
    json_t *scores = o->c->score ? completions_score(o->c, o->folder) : NULL;
    json_object_update(metrics, scores);
    json_decref(scores);
    json_t *j = json_pack("{s:I, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "seed", (json_int_t)o->seed, "folder", o->folder, "status", "done",
                          "metrics", metrics, "seconds_per_step",
                          json_number(step_seconds(arena_printf(mem, "%s/metrics.jsonl", o->folder))), "trained", json_number(trained),
                          "planned", json_number(json_num(plan, "total")), "measured", json_number(json_num(plan, "peak_resident")));
    json_decref(report);
    return j;
}

/* *status: the child's. */
static json_t *run_one(struct one *o, bool *had, int *status) {
    one_make(o);
    *status = (*had = finished(o)) ? STATUS_OK : train(o);
    progress_clear();
    if (!*status) {
        if (!*had) drop_checkpoints(o);
        return result_of(o);
    }
    return json_pack("{s:I, s:s, s:s, s:o}", "seed", (json_int_t)o->seed, "folder", o->folder, "status",
                     *status == STATUS_USAGE ? "refused" : "failed", "error", json_utf8(reason(&o->c->mem, o->log, *status)));
}

/* --- over the seeds ----------------------------------------------------------------------------------------------------- */
static json_t *spread(const json_t *runs, const char *group, const char *key) {
    double x[64], sum = 0, squares = 0, low = HUGE_VAL, high = -HUGE_VAL;
    int n = 0;
    size_t i;
    const json_t *run;
    json_array_foreach(runs, i, run) {
        double v = json_num(group ? json_object_get(run, group) : run, key);
        if (isnan(v) || n == 64) continue;
        x[n++] = v, sum += v, low = fmin(low, v), high = fmax(high, v);
    }
    if (!n) return NULL;
    for (int k = 0; k < n; k++) squares += (x[k] - sum / n) * (x[k] - sum / n);
    return json_pack("{s:f, s:o, s:f, s:f, s:f, s:i}", "mean", sum / n, "sd", json_number(n > 1 ? sqrt(squares / (n - 1)) : NAN), "min",
                     low, "max", high, "median", median(x, (size_t)n), "runs", n);
}

static void summarise(struct cell *x, json_t *runs) {
    json_t *all = json_object(), *m, *run, *v;
    const char *name;
    size_t i;
    json_array_foreach(runs, i, run) json_object_foreach(json_object_get(run, "metrics"), name, v)
        if (!json_object_get(all, name) && (m = spread(runs, "metrics", name))) json_object_set_new(all, name, m);
    static const struct { const char *key, *of; } facts[] = {{"trained", "max"}, {"planned", "max"}, {"measured", "max"}, {"seconds_per_step", "median"}};
    x->result = json_pack("{s:o, s:o}", "metrics", all, "runs", runs);
    for (size_t k = 0; k < sizeof facts / sizeof *facts; k++) {
        m = spread(runs, NULL, facts[k].key);
        if (m) json_object_set(x->result, facts[k].key, json_object_get(m, facts[k].of));
        json_decref(m);
    }
    json_array_foreach(runs, i, m) if (json_object_get(m, "error")) json_object_set(x->result, "error", json_object_get(m, "error"));
}

static void say_run(const struct one *o, const json_t *run, bool had) {
    if (o->c->json) return;
    const json_t *metrics = json_object_get(run, "metrics");
    const char *key;
    json_t *v;
    printf("%d of %d  %s, seed %lld%s", o->done, o->all, o->cell->name, o->seed, had ? "  (finished before)" : "");
    if (json_object_get(run, "error")) printf("  %s: %s\n", json_text(run, "status"), json_text(run, "error"));
    else {
        json_object_foreach((json_t *)metrics, key, v) printf("  %s %.4g", key, json_number_value(v));
        printf("  %.3g s a step\n", json_num(run, "seconds_per_step"));
    }
    fflush(stdout);
}

static int cell_run(struct one *o) {
    json_t *runs = json_array();
    int status = STATUS_OK;
    for (int k = 0; k < o->c->seeds && !stopped && status != STATUS_USAGE; k++) {
        bool had;
        o->seed = o->c->first_seed + k;
        json_t *run = run_one(o, &had, &status);
        if (stopped || status == STATUS_INTERRUPTED) {
            json_decref(run);
            break;
        }
        o->done += status == STATUS_USAGE ? o->c->seeds - k : 1;
        json_array_append_new(runs, run);
        say_run(o, run, had);
    }
    summarise(o->cell, runs);
    return stopped || status == STATUS_INTERRUPTED ? STATUS_INTERRUPTED : STATUS_OK;
}

int cells_run(struct comparison *c) {
    struct one o = {.c = c, .all = c->n * c->seeds};
    struct sigaction stop = {.sa_handler = on_signal};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    int status = STATUS_OK;
    for (int i = 0; i < c->n && !status; i++) {
        o.cell = &c->cell[i];
        status = cell_run(&o);
        if (!status && comparison_write(c)) return STATUS_FAILED;
    }
    if (status) fprintf(stderr, "cyclora: stopped; the same command goes on with the runs that are not finished\n");
    return status;
}
