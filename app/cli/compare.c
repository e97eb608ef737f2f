/* `cyclora compare`: finished runs beside each other, by the last evaluation of each; or, of a configuration file, the runs that --methods,
 * --seeds and --sweep ask for, made (compare_run.c) and put into one table (compare_out.c). A folder is a run, anything else a configuration. */
#include "args.h"
#include "base/file.h"
#include "cli.h"
#include "compare.h"
#include "cyclora/cyclora.h"
#include "report.h"
#include "term.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_compare[] =
    "Trains one configuration with several methods and seeds and puts what they reach on held-out data, how many numbers they\n"
    "train, the memory and the time of a step into one table and one plot. Of run folders it shows the last evaluations,\n"
    "memory and time.\n"
    "\n"
    "Usage: cyclora compare CONFIG [--methods LIST] [--seeds N] [--sweep [METHOD.]KEY=VALUES]... [options]\n"
    "       cyclora compare RUN... [--json]\n"
    "       cyclora compare --list\n"
    "\n"
    "  CONFIG           a YAML file with held-out data (test.data, eval.data or eval.split); its sections (lora.*, ...) hold\n"
    "  --methods LIST   names with commas, each with settings of its own behind colons: lora,full:layers=last-4\n"
    "                   (head,prompt,prefix,ia3,bitfit,lora,dora,full); a METHOD is such a name\n"
    "  --seeds N        runs of each row, with the seeds from the configuration's own on (3)\n"
    "  --sweep KEY=V,V  a row for each value, of several for each combination: r=4,16,64; without a METHOD the first of the\n"
    "                   list that has all such settings; METHOD.learning_rate=1e-4,1e-3 sweeps any other key\n"
    "  --lr METHOD=R    another learning rate than the method's usual one\n"
    "  --list           the names, what they stand for, their usual learning rates and where those are from\n"
    "  --out DIR        where all goes: compare.md, compare.json, compare.svg, and a folder a run (output_dir)\n"
    "  --score N        of sft, so many held-out prompts are completed and scored: chrF, BLEU, exact match (128; 0: none)\n"
    "  --set key=value  for all runs, over the file; --device D, --dtype T likewise\n"
    "  --json           the result as one JSON object, and nothing else on stdout; of runs {\"runs\": [{\"run\",\n"
    "                   \"evaluation\", \"cost\"}]}\n"
    "  RUN              run folders (each holds the report.json that training wrote at its end)\n"
    "\n"
    "Each run is a process of its own. What is finished is not run again by the same command; a run that fails is a line of the\n"
    "table. Checkpoints are removed once a run is finished, adapters stay.\n"
    "\n"
    "Examples:\n"
    "  cyclora compare run.yaml --methods head,lora,full --seeds 3\n"
    "  cyclora compare run.yaml --methods lora --sweep r=4,16,64 --sweep target_modules=attention,mlp,all-linear\n"
    "  cyclora compare run.yaml --methods prompt --sweep prompt.learning_rate=1e-2,3e-2,1e-1 --seeds 1\n"
    "  cyclora compare runs/warm runs/control runs/cycles\n"
    "  cyclora compare runs/macct runs/dmcct\n"
    "\n"
    "Accuracy, F1 and exact match are percent, BLEU and chrF 0 to 100 as sacrebleu counts them. Exit status: 0; 2 for what no run\n"
    "can be made of; 130 interrupted.\n";

static const char DEFAULT_METHODS[] = "head,prompt,prefix,ia3,bitfit,lora,dora,full";
enum { MOST_RUNS = 32, MOST_SEEDS = 32 };

/* DIR/report.json, or NULL after saying what is wrong. */
static json_t *read_report(const char *dir) {
    str path = {0};
    json_error_t je;
    str_addf(&path, "%s/report.json", dir);
    json_t *report = json_load_file(path.p, 0, &je);
    if (!report) cli_bad("%s: %s (a run writes it at its end)", path.p, je.text);
    else if (!json_array_size(json_object_get(report, "evals"))) {
        cli_bad("%s holds no evaluation; set eval.data or test.data", path.p);
        json_decref(report);
        report = NULL;
    }
    str_free(&path);
    return report;
}

static const json_t *last_eval(const json_t *report) {
    const json_t *evals = json_object_get(report, "evals");
    return json_array_get(evals, json_array_size(evals) - 1);
}

/* A direction's columns: three that every table has, then what else any run says of it. */
static const struct { const char *key, *head, *format; } usual[] = {{"bleu", ">BLEU", "%.1f"}, {"chrf", ">chrF", "%.1f"}, {"loss", ">loss", "%.3f"}};
enum { USUAL = sizeof usual / sizeof *usual, FREE = TABLE_COLUMNS - 3 }; /* beside the name and the way round */

struct own {
    struct { size_t side; const char *key; char head[48]; } v[FREE];
    int n;
};

/* Directions that the table has columns for. */
static size_t columns(json_t *const *reports, int n) {
    size_t most = 2;
    for (int i = 0; i < n; i++) {
        const size_t sides = json_array_size(json_object_get(last_eval(reports[i]), "sides"));
        if (sides > most) most = sides;
    }
    return most < FREE / USUAL ? most : FREE / USUAL;
}

static bool has_column(const struct own *own, size_t side, const char *key) {
    for (int k = 0; k < USUAL; k++)
        if (!strcmp(usual[k].key, key)) return true;
    for (int k = 0; k < own->n; k++)
        if (own->v[k].side == side && !strcmp(own->v[k].key, key)) return true;
    return false;
}

static void find_own(json_t *const *reports, int n, int room, struct own *own) {
    json_t *side, *v;
    const char *key;
    size_t i;
    for (int r = 0; r < n; r++)
        json_array_foreach(json_object_get(last_eval(reports[r]), "sides"), i, side) json_object_foreach(side, key, v) {
            if (!report_compares(side, key, v) || has_column(own, i, key) || own->n >= room) continue;
            own->v[own->n].side = i, own->v[own->n].key = key;
            snprintf(own->v[own->n++].head, sizeof own->v->head, ">%s", key);
        }
}

static void scores(struct table *t, const json_t *eval, size_t sides, const struct own *own, bool copy) {
    for (size_t i = 0; i < sides; i++) {
        const json_t *side = json_array_get(json_object_get(eval, "sides"), i), *from = copy ? json_object_get(side, "copy") : side;
        for (int k = 0; k < USUAL; k++) table_number(t, from, usual[k].key, usual[k].format);
        for (int k = 0; k < own->n; k++)
            if (own->v[k].side == i) table_number(t, from, own->v[k].key, "%.2f");
    }
    table_number(t, copy ? NULL : json_object_get(eval, "round_trip"), "chrf", "%.1f");
    table_number(t, copy ? NULL : json_object_get(eval, "round_trip"), "exact", "%.1f");
}

static void print_scores(char *const *dirs, json_t *const *reports, int n) {
    static const char *const ways[] = {"A→B", "B→A"};
    const size_t sides = columns(reports, n);
    struct table t = {0};
    struct own own = {.n = 0};
    char head[CYC_SIDES][48]; /* the table keeps them */
    find_own(reports, n, FREE - (int)sides * USUAL, &own);
    table_head(&t, "");
    for (size_t i = 0; i < sides; i++) {
        const char *direction = json_text(json_array_get(json_object_get(last_eval(reports[0]), "sides"), i), "direction");
        snprintf(head[i], sizeof head[i], ">%.32s BLEU", *direction ? direction : i < 2 ? ways[i] : "");
        table_head(&t, head[i]);
        for (int k = 1; k < USUAL; k++) table_head(&t, usual[k].head);
        for (int k = 0; k < own.n; k++)
            if (own.v[k].side == i) table_head(&t, own.v[k].head);
    }
    table_head(&t, ">round trip chrF");
    table_head(&t, ">exact %");
    if (json_object_get(json_array_get(json_object_get(last_eval(reports[0]), "sides"), 0), "copy")) {
        table_text(&t, "copying the input");
        scores(&t, last_eval(reports[0]), sides, &own, true);
    }
    for (int i = 0; i < n; i++) {
        table_text(&t, dirs[i]);
        scores(&t, last_eval(reports[i]), sides, &own, false);
    }
    table_print(&t, "");
}

static double line_of(const json_t *plan, const char *name) {
    size_t i;
    const json_t *line;
    json_array_foreach(json_object_get(plan, "memory"), i, line) if (!strcmp(json_text(line, "name"), name)) return json_num(line, "bytes");
    return 0;
}

/* Of a run: what is trained, the memory of it (weights, adapters, optimizer: what the sum of DMCCT and MACCT compares), all that is planned,
 * what was measured, and the time of a step. */
static json_t *cost_json(const json_t *report) {
    const json_t *plan = json_object_get(report, "plan"), *time = json_object_get(json_object_get(plan, "forecast"), "measured"), *side;
    double trained = 0;
    size_t i;
    json_array_foreach(json_object_get(plan, "sides"), i, side) trained += json_num(side, "trained");
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "objective", json_text(report, "objective"), "trained",
                     json_number(trained), "static",
                     json_number(line_of(plan, "weights") + line_of(plan, "adapters") + line_of(plan, "optimizer")), "planned",
                     json_number(json_num(plan, "total")), "measured", json_number(json_num(plan, "peak_resident")), "generate_s",
                     json_number(json_num(time, "generate_s")), "train_s", json_number(json_num(time, "train_s")), "step_s",
                     json_number(json_num(time, "step_s")));
}

static void print_costs(char *const *dirs, json_t *const *costs, int n) {
    static const char *const heads[] = {"",          "objective", ">trained",  ">weights+states", ">planned",
                                        ">measured", ">s a step", ">generate", ">train"};
    struct table t = {0};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) table_head(&t, heads[i]);
    for (int i = 0; i < n; i++) {
        table_text(&t, dirs[i]);
        table_text(&t, json_text(costs[i], "objective"));
        table_text(&t, show_count(json_num(costs[i], "trained")));
        table_bytes(&t, costs[i], "static");
        table_bytes(&t, costs[i], "planned");
        table_bytes(&t, costs[i], "measured");
        table_number(&t, costs[i], "step_s", "%.3g");
        table_number(&t, costs[i], "generate_s", "%.3g");
        table_number(&t, costs[i], "train_s", "%.3g");
    }
    putchar('\n');
    table_print(&t, "");
}

static const json_t *first_of(json_t *const *costs, int n, const char *objective, int *which) {
    for (*which = 0; *which < n; ++*which)
        if (!strcmp(json_text(costs[*which], "objective"), objective)) return costs[*which];
    return NULL;
}

/* Two models against two adapters, where both are among the runs. */
static void print_factor(char *const *dirs, json_t *const *costs, int n) {
    int two, one;
    const json_t *models = first_of(costs, n, "dmcct", &two), *adapters = first_of(costs, n, "macct", &one);
    if (!models || !adapters) return;
    printf("\n%s against %s: weights and states %.3g times, planned %.3g times, measured %.3g times the memory\n", dirs[two], dirs[one],
           json_num(models, "static") / json_num(adapters, "static"), json_num(models, "planned") / json_num(adapters, "planned"),
           json_num(models, "measured") / json_num(adapters, "measured"));
}

static int refuse(json_t **reports, int n) {
    while (n > 0) json_decref(reports[--n]);
    return STATUS_USAGE;
}

static int beside(const struct arg_list *dirs, bool json) {
    json_t *reports[MOST_RUNS], *costs[MOST_RUNS];
    char *names[MOST_RUNS];
    int n = 0;
    if (dirs->n > MOST_RUNS) return cli_bad("compare: at most %d runs", MOST_RUNS);
    for (; n < dirs->n; n++)
        if (!(reports[n] = read_report(names[n] = (char *)dirs->v[n]))) return refuse(reports, n);
    for (int i = 0; i < n; i++) costs[i] = cost_json(reports[i]);
    if (json) {
        json_t *list = json_array();
        for (int i = 0; i < n; i++)
            json_array_append_new(list,
                                  json_pack("{s:s, s:O, s:O}", "run", names[i], "evaluation", last_eval(reports[i]), "cost", costs[i]));
        json_line(json_pack("{s:o}", "runs", list));
    } else {
        print_scores(names, reports, n);
        print_costs(names, costs, n);
        print_factor(names, costs, n);
    }
    refuse(costs, n);
    refuse(reports, n);
    return STATUS_OK;
}

static int methods(struct comparison *c) {
    int status = c->seeds > MOST_SEEDS ? cli_bad("compare: --seeds is %d, but at most %d are run", c->seeds, MOST_SEEDS) : cells_make(c);
    if (!status && c->seeds == 1 && !c->json) cli_warn("one seed a row: no spread is known, and small differences may be luck");
    if (!status && !c->json) printf("%d rows, %d seed%s: %d runs into %s\n\n", c->n, c->seeds, c->seeds > 1 ? "s" : "", c->n * c->seeds, c->out);
    if (!status) status = cells_run(c);
    if (!status && c->json) json_line(comparison_json(c));
    else if (!status) comparison_print(c);
    for (int i = 0; i < c->n; i++) json_decref(c->cell[i].result);
    arena_free(&c->mem);
    return status;
}

int cmd_compare(int argc, char **argv) {
    struct arg_list what = {0}, sets = {0};
    bool list = false;
    struct comparison c = {.sets = &sets, .seeds = 3, .score = 128};
    const struct arg args[] = {{"CONFIG", ARG_LIST, &what, 0}, {"--methods", ARG_TEXT, &c.methods, 0}, {"--seeds", ARG_INT, &c.seeds, 1}, {"--sweep", ARG_LIST, &c.sweeps, 0},
                               {"--lr", ARG_LIST, &c.rates, 0}, {"--out", ARG_TEXT, &c.out, 0}, {"--score", ARG_INT, &c.score, 0}, {"--set", ARG_LIST, &sets, 0},
                               {"--device", ARG_SETTING, &sets, 0}, {"--dtype", ARG_SETTING, &sets, 0}, {"--json", ARG_FLAG, &c.json, 0}, {"--list", ARG_FLAG, &list, 0}, {0}};
    int status = args_parse("compare", argc, argv, args);
    if (status < 0) {
        const bool asks = c.methods || c.out || c.sweeps.n || c.rates.n || sets.n;
        c.config = what.n ? what.v[0] : NULL;
        const bool runs = what.n && path_is_dir(c.config);
        if (list) status = words_print();
        else if (!what.n) status = args_missing("compare", "CONFIG or RUN");
        else if (!runs && what.n > 1)
            status =
                cli_bad("compare: %s: one configuration at a time, or run folders alone", path_is_dir(what.v[1]) ? c.config : what.v[1]);
        else if (runs && asks)
            status = cli_bad("compare: %s is a run folder: --methods, --sweep and the like go with a configuration file", c.config);
        else if (runs) status = beside(&what, c.json);
        else {
            if (!c.methods) c.methods = DEFAULT_METHODS;
            status = methods(&c);
        }
    }
    free(what.v), free(sets.v), free(c.sweeps.v), free(c.rates.v);
    return status;
}
