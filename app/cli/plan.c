/* `cyclora plan`: what a run would need, from the run's own program laid down without computing anything. */
#include "args.h"
#include "cli.h"
#include "report.h"
#include "term.h"
#include "base/file.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_plan[] =
    "Shows what a run would train, how much memory each phase of it takes and on what, and how long a step takes at the\n"
    "least, before a weight is read. It is the run's own plan, not an estimate beside it: training uses the same numbers.\n"
    "\n"
    "Usage: cyclora plan CONFIG [--explain [TOPIC] | --solve WHAT | --dump] [--set key=value]... [--device D] [--dtype T]\n"
    "                    [--memory-budget SIZE] [--json]\n"
    "       cyclora plan --explain [TOPIC] [--json]\n"
    "\n"
    "  CONFIG           a run's YAML file; or a model's config.json (or a folder with one) without weights or data: then\n"
    "                   rows are as long as max_length lets them be. config.json:q4_k plans its matrices as that type\n"
    "  --explain        the sums that two adapters are compared with two trained models by, weights and optimizer\n"
    "                   states alone, and what they leave out; with CONFIG, this run's beside its plan\n"
    "  TOPIC            one sum alone, with its assumptions: dmcct, macct, lora or full\n"
    "  --solve WHAT     the most that fits the memory limit: pass_tokens, generation_batch, max_length, rank, base (layers\n"
    "                   of this shape); checkpointing: the least of it\n"
    "  --dump           the programs themselves, an instruction a line: its number, its op, what it makes <- what it reads;\n"
    "                   a value is %number:name:shape, N tokens, (param) a trained one, (grad) its gradient. Nothing\n"
    "                   below the lowest trained value has a backward instruction\n"
    "  --set key=value  goes over the file; may be given several times\n"
    "  --device D       short for --set device=D: cpu, cuda, or a card that is not here: a100-40gb, a100, l40s, h100, h200\n"
    "                   (a build with CUDA knows what its kernels take); --dtype T likewise\n"
    "  --memory-budget SIZE  short for --set memory=SIZE: what does not fit is refused, with the smallest change that would\n"
    "  --json           the plan as one JSON object, sizes in bytes; with --explain it has \"explain\", with --solve \"solved\"\n"
    "\n"
    "Examples:\n"
    "  cyclora plan run.yaml\n"
    "  cyclora plan run.yaml --set lora.r=64 --set max_length=2048 --json | jq .total\n"
    "  cyclora plan models/70b/config.json --device h100 --set objective=sft --set max_length=4096\n"
    "  cyclora plan config.json --memory-budget 20GB --solve base\n"
    "  cyclora plan run.yaml --set method=full --set full.layers=last-1 --dump | grep _bwd\n"
    "  cyclora plan --explain macct\n"
    "\n"
    "Writes to stdout alone. Exit status: 0; 2 for a wrong configuration, or a plan beyond the memory limit; 1 otherwise.\n";

static void print_programs(const json_t *plan) {
    struct table t = {0};
    size_t i;
    const json_t *p;
    table_head(&t, "program");
    table_head(&t, ">instructions");
    table_head(&t, ">flops");
    table_head(&t, ">activations");
    json_array_foreach(json_object_get(plan, "programs"), i, p) {
        table_text(&t, json_text(p, "name"));
        table_number(&t, p, "instructions", "%.0f");
        table_cell(&t, "%s", json_object_get(p, "flops") ? show_count(json_num(p, "flops")) : "");
        table_bytes(&t, p, "act");
    }
    if (i) table_print(&t, "");
    if (json_object_get(plan, "pass_tokens"))
        printf("a pass of the model takes at most %.0f tokens\n", json_num(plan, "pass_tokens"));
    if (json_object_get(plan, "mlp_chunk"))
        printf("its feed-forwards go over them %.0f at a time\n", json_num(plan, "mlp_chunk"));
}

static void print_plan(const json_t *plan) {
    report_run(plan);
    putchar('\n');
    report_memory(plan);
    putchar('\n');
    report_phases(plan, true);
    putchar('\n');
    print_programs(plan);
    report_forecast(plan);
}

static void print_solved(const json_t *s) {
    const json_t *value = json_object_get(s, "value");
    const char *limit = show_bytes(json_num(s, "limit")), *key = json_text(s, "key");
    if (json_is_null(value)) {
        printf("%s: nothing fits %s; the least takes %s\n", key, limit, show_bytes(json_num(s, "total")));
        return;
    }
    if (json_is_string(value)) printf("%s: %s", key, json_string_value(value));
    else printf("%s: %.0f", key, json_number_value(value));
    if (!strcmp(json_text(s, "solve"), "base")) printf(" (%s parameters)", show_count(json_num(s, "parameters")));
    printf(" takes %s of %s\n", show_bytes(json_num(s, "total")), limit);
}

struct request {
    const char *solve, *topic; /* NULL: none */
    bool explain, json;
};

static int ask(cyc_config *c, const struct request *r, char **text) {
    return r->explain ? cyc_explain(c, text) : r->solve ? cyc_plan_solve(c, r->solve, text) : cyc_plan(c, text);
}

/* c may be NULL: the sums of --explain alone. Takes c. */
static int show(cyc_config *c, const struct request *r) {
    char *text = NULL;
    const int code = ask(c, r, &text);
    const bool whole = c != NULL;
    cyc_config_free(c);
    if (code) return cli_failed(code);
    json_t *plan = json_take(text);
    if (r->json) {
        json_line(plan);
        return STATUS_OK;
    }
    if (whole) print_plan(plan);
    if (whole && (r->explain || r->solve)) putchar('\n');
    if (r->solve) print_solved(json_object_get(plan, "solved"));
    if (r->explain) report_explain(json_object_get(plan, "explain"), r->topic);
    json_decref(plan);
    return STATUS_OK;
}

/* Takes c. */
static int dump(cyc_config *c) {
    char *text = NULL;
    int code = cyc_plan_dump(c, &text);
    cyc_config_free(c);
    if (code) return cli_failed(code);
    fputs(text, stdout);
    cyc_free(text);
    return STATUS_OK;
}

/* A model's sizes, where a run's YAML might be named. */
static bool is_model(const char *path) {
    const char *json = strstr(path, ".json");
    return path_is_dir(path) || (json && (!json[5] || json[5] == ':'));
}

/* A configuration file; or of a model alone the defaults, model set. */
static int open_any(const char *path, const struct arg_list *sets, cyc_config **out) {
    if (!is_model(path)) return config_open(path, sets, out);
    str model = {0};
    str_addf(&model, "model=%s", path);
    cyc_config *c = cyc_config_new();
    int code = c && model.p ? cyc_config_set(c, model.p) : CYC_FAILED;
    for (int i = 0; i < sets->n && !code; i++) code = cyc_config_set(c, sets->v[i]);
    str_free(&model);
    if (code && c) cyc_config_free(c);
    *out = code ? NULL : c;
    return code ? cli_failed(code) : STATUS_OK;
}

static int set_budget(cyc_config *c, const char *size) {
    str memory = {0};
    str_addf(&memory, "memory=%s", size);
    const int code = memory.p ? cyc_config_set(c, memory.p) : CYC_FAILED;
    str_free(&memory);
    return code ? cli_failed(code) : STATUS_OK;
}

/* `--explain macct` and `run.yaml --explain macct`: a word of these is the topic, wherever it stands. */
static const char *take_topic(const char **config, const char **second) {
    static const char *const topics[] = {"dmcct", "macct", "lora", "full"};
    for (size_t i = 0; i < sizeof topics / sizeof *topics; i++) {
        if (*config && !strcmp(*config, topics[i])) {
            *config = *second, *second = NULL;
            return topics[i];
        }
        if (*second && !strcmp(*second, topics[i])) {
            *second = NULL;
            return topics[i];
        }
    }
    return NULL;
}

int cmd_plan(int argc, char **argv) {
    const char *config = NULL, *second = NULL, *budget = NULL;
    struct arg_list sets = {0};
    struct request r = {0};
    bool dumps = false;
    cyc_config *c = NULL;
    const struct arg args[] = {{"CONFIG", ARG_TEXT, &config, 0},
                               {"TOPIC", ARG_TEXT, &second, 0},
                               {"--explain", ARG_FLAG, &r.explain, 0},
                               {"--solve", ARG_TEXT, &r.solve, 0},
                               {"--dump", ARG_FLAG, &dumps, 0},
                               {"--set", ARG_LIST, &sets, 0},
                               {"--device", ARG_SETTING, &sets, 0},
                               {"--dtype", ARG_SETTING, &sets, 0},
                               {"--memory-budget", ARG_TEXT, &budget, 0},
                               {"--json", ARG_FLAG, &r.json, 0},
                               {0}};
    int status = args_parse("plan", argc, argv, args);
    if (status < 0) {
        if (r.explain) r.topic = take_topic(&config, &second);
        if (second)
            status = cli_bad("plan: superfluous argument '%s'%s", second, r.explain ? "; --explain takes dmcct, macct, lora or full" : "");
        else if (dumps && (r.explain || r.json || r.solve))
            status = cli_bad("plan: --dump is text and goes alone, without --explain, --solve and --json");
        else if (r.explain && r.solve) status = cli_bad("plan: --explain and --solve do not go together");
        else if (config) status = open_any(config, &sets, &c);
        else status = r.explain && !sets.n ? STATUS_OK : args_missing("plan", "CONFIG");
        if (!status && c && budget && (status = set_budget(c, budget))) cyc_config_free(c);
        if (!status) status = dumps ? dump(c) : show(c, &r);
    }
    free(sets.v);
    return status;
}
