/* `cyclora train`: a run, watched. The library calls back at the start, after each step, evaluation and save; here that
 * becomes one of three things: text for a person (one line rewritten in place on a terminal, plain lines elsewhere),
 * the last lines alone (--quiet), or one JSON object per event (--json).
 *
 * The first SIGINT or SIGTERM asks the library to stop after the step it is in and to save; a second one exits at once.
 * A closed pipe behind us does not end a training run. */
#define _GNU_SOURCE
#include "args.h"
#include "cli.h"
#include "report.h"
#include "term.h"
#include "base/file.h"
#include <cyclora/cyclora.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char help_train[] =
    "Trains adapters as a configuration says: two by cycle consistency on unpaired text (objective macct), one on pairs\n"
    "or conversations (sft) or on raw text (text), or a head with one beside it: on texts with labels (classification) or\n"
    "numbers (regression), on words with tags (token_classification). The base model is never changed.\n"
    "\n"
    "Usage: cyclora train CONFIG [--set key=value]... [--device D] [--dtype T] [--resume | --overwrite] [--check-accum]\n"
    "                     [--profile] [--quiet] [--json]\n"
    "\n"
    "  CONFIG           a YAML file; `cyclora help config` lists its keys\n"
    "  --set key=value  goes over the file; may be given several times: lora.r=8, A.learning_rate=1e-4\n"
    "  --device D       short for --set device=D: auto, cpu, cuda; --dtype T likewise\n"
    "  --resume         go on from the newest checkpoint in output_dir, to the same max_steps\n"
    "  --overwrite      empty output_dir first; without either, an output_dir with something in it is refused\n"
    "  --check-accum    short for --set check_accumulation=true: the first step's gradient in passes and row by row\n"
    "  --profile        short for --set profile_steps=3: where the time of three steps goes, op by op, on stderr\n"
    "  --quiet          warnings and the result alone\n"
    "  --json           one JSON object per line: {\"event\": \"start\" | \"step\" | \"eval\" | \"save\" | \"end\", "
    "...};\n"
    "                   loss, grad_norm and learning_rate of a step have one entry per adapter, A first\n"
    "\n"
    "Examples:\n"
    "  cyclora train run.yaml\n"
    "  cyclora train run.yaml --set max_steps=500 --set output_dir=long --json > events.jsonl\n"
    "\n"
    "Writes into output_dir, one run at a time: the adapters in PEFT's layout (A and B; of one side: adapter), metrics.jsonl,\n"
    "checkpoints, the resolved configuration and a report. Ctrl-C finishes the step and saves a checkpoint; a second one\n"
    "leaves at once. On a random:SEED base, which is for benchmarks, checkpoints are saved and adapters are not.\n"
    "Exit status: 0; 2 for a wrong configuration or data; 130 interrupted, with the state saved; 1 otherwise.\n";

enum manner { FOR_PEOPLE, QUIET, JSON };
struct watch {
    enum manner manner;
    int logging_steps, last_step;
    const char *config;
    const struct arg_list *sets;
    char *output_dir;
};

/* --- signals --------------------------------------------------------------------------------------------------------
 */
static volatile sig_atomic_t stops;

static void on_signal(int sig) {
    (void)sig;
    static const char text[] = "\ncyclora: stopping after this step, to save; once more to leave at once\n";
    int saved = errno;
    if (stops++) _exit(STATUS_INTERRUPTED);
    cyc_stop();
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) stops = 1; /* nowhere to say it; stopping all the same */
    errno = saved;
}

static void catch_signals(void) {
    struct sigaction stop = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

/* --- JSON events ----------------------------------------------------------------------------------------------------
 */
static void event(const char *name, json_t *fields) {
    json_t *o = json_pack("{s:s}", "event", name);
    json_object_update(o, fields);
    json_decref(fields);
    json_line(o);
}

static json_t *parse(const char *text) {
    json_t *o = json_loads(text, 0, NULL);
    return o ? o : json_object();
}

static json_t *per_side(const double *x, int sides) {
    json_t *list = json_array();
    for (int i = 0; i < sides; i++) json_array_append_new(list, json_number(x[i]));
    return list;
}

static json_t *step_json(const cyc_step *s) {
    return json_pack("{s:i, s:i, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:I, s:i, s:i, s:i, s:i}", "step", s->step,
                     "max_steps", s->max_steps, "warmup", s->warmup, "loss", per_side(s->loss, s->sides), "grad_norm",
                     per_side(s->grad_norm, s->sides), "learning_rate", per_side(s->learning_rate, s->sides), "seconds",
                     json_number(s->seconds), "generate_s", json_number(s->generate_s), "train_s",
                     json_number(s->train_s), "generated", (json_int_t)s->generated, "trained", (json_int_t)s->trained,
                     "supervised", (json_int_t)s->supervised, "eta_s", json_number(s->eta_s), "resident",
                     (json_int_t)s->resident, "skipped", s->skipped, "texts", s->texts, "dropped", s->dropped, "idle", s->idle);
}

/* --- lines for people -----------------------------------------------------------------------------------------------
 */
static void pair(str *out, const char *name, const char *fmt, const double *x, int sides) {
    str_addf(out, "  %s", name);
    for (int i = 0; i < sides; i++) {
        char number[32];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(number, sizeof number, fmt, x[i]);
#pragma GCC diagnostic pop
        const char side[] = {(char)('A' + i), 0};
        str_addf(out, sides > 1 ? " %s %s" : "%s %s", sides > 1 ? side : "", isnan(x[i]) ? "-" : number);
    }
}

/* "step 12/100  loss A 2.3100 B 2.4410  812 tokens/s  generate 61 % train 39 %  612 MB  left 1:23" */
static void step_line(const cyc_step *s, bool details, str *out) {
    double busy = s->generate_s + s->train_s;
    str_addf(out, "step %d/%d%s", s->step, s->max_steps, s->warmup ? " warm-up" : "");
    pair(out, "loss", "%.4f", s->loss, s->sides);
    if (details) pair(out, "grad", "%.3g", s->grad_norm, s->sides);
    if (details) pair(out, "lr", "%.3g", s->learning_rate, s->sides);
    if (s->seconds > 0) str_addf(out, "  %.0f tokens/s", (double)(s->generated + s->trained) / s->seconds);
    if (s->generate_s > 0 && busy > 0)
        str_addf(out, "  generate %.0f %% train %.0f %%", 100 * s->generate_s / busy, 100 * s->train_s / busy);
    if (s->resident) str_addf(out, "  %s", show_bytes((double)s->resident));
    str_addf(out, "  left %s", show_time(s->eta_s));
    if (s->dropped) str_addf(out, "  (%d of %d texts dropped)", s->dropped, s->texts);
    if (s->skipped)
        str_addf(out, "  (%s: the gradient overflowed float16; the loss scale is halved)",
                 s->sides > 1 && s->skipped == 1 ? "one adapter left out" : "left out");
}

static void on_start(void *ctx, const char *json) {
    struct watch *w = ctx;
    json_t *o = parse(json), *plan = json_object_get(o, "plan");
    free(w->output_dir);
    w->output_dir = strdup(json_text(o, "output_dir"));
    if (w->manner == JSON) {
        event("start", o);
        return;
    }
    if (w->manner == FOR_PEOPLE) {
        report_run(plan);
        printf("%smemory%s     %s planned", term_bold(), term_off(), show_bytes(json_num(plan, "total")));
        if (json_num(plan, "private") > 0) printf(", %s of it private", show_bytes(json_num(plan, "private")));
        if (json_num(plan, "limit") > 0) printf("; limit %s", show_bytes(json_num(plan, "limit")));
        printf("\n%soutput%s     %s", term_bold(), term_off(), json_text(o, "output_dir"));
        if (json_num(o, "resumed_step") > 0) printf("  (resumed at step %.0f)", json_num(o, "resumed_step"));
        printf("\n\n");
        fflush(stdout);
    }
    if (w->manner == QUIET) report_servers(plan);
    json_decref(o);
}

static void on_step(void *ctx, const cyc_step *s) {
    struct watch *w = ctx;
    str line = {0};
    w->last_step = s->step;
    if (w->manner == JSON) {
        event("step", step_json(s));
        return;
    }
    if (w->manner == QUIET) return;
    bool due = s->step % w->logging_steps == 0 || s->step == s->max_steps;
    step_line(s, !term_tty(), &line);
    if (term_tty() && line.p) progress_show(line.p);
    else if (due && line.p) {
        puts(line.p);
        fflush(stdout);
    }
    str_free(&line);
}

static void on_eval(void *ctx, const char *json) {
    struct watch *w = ctx;
    json_t *o = parse(json);
    if (w->manner == JSON) {
        event("eval", o);
        return;
    }
    if (w->manner == FOR_PEOPLE) {
        const char *tag = json_text(o, "tag");
        progress_clear();
        printf("%sevaluation%s %s%s%.0f\n", term_bold(), term_off(), strcmp(tag, "step") ? tag : "",
               strcmp(tag, "step") ? ", step " : "at step ", json_num(o, "step"));
        report_eval(o);
        putchar('\n');
        fflush(stdout);
    }
    json_decref(o);
}

static void on_save(void *ctx, const char *path) {
    struct watch *w = ctx;
    if (w->manner == JSON) event("save", json_pack("{s:i, s:o}", "step", w->last_step, "path", json_utf8(path)));
    if (w->manner != FOR_PEOPLE) return;
    progress_clear();
    printf("saved %s\n", path);
    fflush(stdout);
}

/* --- the end --------------------------------------------------------------------------------------------------------
 */
static void print_usage(const json_t *plan, const char *dir) {
    size_t i;
    const json_t *side, *models = json_object_get(plan, "models"); /* where each side has one of its own */
    json_array_foreach(json_object_get(plan, "sides"), i, side) {
        const json_t *base = models ? json_array_get(models, i) : json_object_get(plan, "model");
        const char *model = json_text(base, "path");
        if (json_is_true(json_object_get(base, "random"))) continue; /* there is no adapter to use */
        str adapter = {0};
        str_addf(&adapter, "%s/%s", dir, *json_text(side, "name") ? json_text(side, "name") : "adapter");
        bool own = adapter.p && path_is_dir(adapter.p);
        const char *with = *model ? model : "MODEL", *folder = own ? adapter.p : dir;
        if (json_object_get(plan, "head")) printf("  cyclora classify --model %s --adapter %s --data FILE\n", with, folder);
        else
            printf("  cyclora generate --model %s --adapter %s --prompt \"...\"%s\n", with, folder,
                   json_num(side, "vectors") > 0 ? " --vectors X.npy" : "");
        str_free(&adapter);
    }
}

static void print_end(const json_t *report) {
    const json_t *plan = json_object_get(report, "plan"), *evals = json_object_get(report, "evals");
    const char *dir = json_text(report, "output_dir");
    progress_clear();
    if (json_array_size(evals)) {
        report_milestones(evals);
        putchar('\n');
    }
    if (json_object_get(plan, "memory")) {
        report_memory(plan);
        putchar('\n');
        report_phases(plan, false);
        putchar('\n');
    }
    report_forecast(plan);
    if (*json_text(report, "ended")) printf("%s\n", json_text(report, "ended"));
    printf("%.0f steps in %s; everything is in %s\n", json_num(report, "steps"), show_time(json_num(report, "seconds")),
           dir);
    print_usage(plan, dir);
}

static void print_stopped(const struct watch *w) {
    progress_clear();
    printf("stopped after step %d; the state is in %s\n  cyclora train %s", w->last_step,
           w->output_dir ? w->output_dir : "output_dir", w->config);
    for (int i = 0; i < w->sets->n; i++) printf(" --set '%s'", w->sets->v[i]);
    printf(" --resume\n");
}

static int finish(const struct watch *w, int code, json_t *report) {
    if (code && code != CYC_INTERRUPTED) {
        json_decref(report);
        return cli_failed(code);
    }
    if (w->manner == JSON) event("end", report);
    else {
        if (code) print_stopped(w);
        else print_end(report);
        report_profile(json_object_get(report, "profile"));
        json_decref(report);
    }
    return code ? STATUS_INTERRUPTED : STATUS_OK;
}

/* logging_steps as the library resolved it. */
static int logging_steps(const cyc_config *c) {
    char *yaml = NULL;
    int n = 1;
    const char *line = cyc_config_text(c, &yaml) ? NULL : strstr(yaml, "\nlogging_steps: ");
    if (line && sscanf(line, "\nlogging_steps: %d", &n) != 1) n = 1;
    cyc_free(yaml);
    return n < 1 ? 1 : n;
}

static int train(cyc_config *c, const char *path, const struct arg_list *sets, int flags, enum manner manner) {
    struct watch w = {.manner = manner, .logging_steps = logging_steps(c), .config = path, .sets = sets};
    cyc_callbacks cb = {&w, on_start, on_step, on_eval, on_save};
    char *text = NULL;
    catch_signals();
    int code = cyc_train(c, flags, &cb, &text);
    int status = finish(&w, code, json_take(text));
    free(w.output_dir);
    return status;
}

int cmd_train(int argc, char **argv) {
    const char *config = NULL;
    struct arg_list sets = {0};
    bool resume = false, overwrite = false, quiet = false, json = false, check = false, profile = false;
    cyc_config *c = NULL;
    const struct arg args[] = {{"CONFIG", ARG_TEXT, &config, 0},
                               {"--set", ARG_LIST, &sets, 0},
                               {"--device", ARG_SETTING, &sets, 0},
                               {"--dtype", ARG_SETTING, &sets, 0},
                               {"--resume", ARG_FLAG, &resume, 0},
                               {"--overwrite", ARG_FLAG, &overwrite, 0},
                               {"--check-accum", ARG_FLAG, &check, 0},
                               {"--profile", ARG_FLAG, &profile, 0},
                               {"--quiet", ARG_FLAG, &quiet, 0},
                               {"--json", ARG_FLAG, &json, 0},
                               {0}};
    int status = args_parse("train", argc, argv, args);
    if (status < 0) {
        if (!config) status = args_missing("train", "CONFIG");
        else if (resume && overwrite) status = cli_bad("train: --resume and --overwrite contradict each other");
        else {
            if ((check || profile) && !sets.v) sets.v = calloc((size_t)argc, sizeof *sets.v);
            if (check && sets.v) sets.v[sets.n++] = "check_accumulation=true";
            if (profile && sets.v) sets.v[sets.n++] = "profile_steps=3";
            status = config_open(config, &sets, &c);
        }
    }
    if (c)
        status = train(c, config, &sets, (resume ? CYC_RESUME : 0) | (overwrite ? CYC_OVERWRITE : 0),
                       json    ? JSON
                       : quiet ? QUIET
                               : FOR_PEOPLE);
    if (c) cyc_config_free(c);
    free(sets.v);
    return status;
}
