/* `cyclora plan`: what a run would need, from the run's own program laid down without computing anything. */
#include "args.h"
#include "cli.h"
#include "report.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>

const char help_plan[] =
    "Shows what a run would train, how much memory each part of it takes, and the work of its passes, before a weight is\n"
    "read. It is the run's own plan, not an estimate beside it: training uses the same numbers.\n"
    "\n"
    "Usage: cyclora plan CONFIG [--explain | --dump] [--set key=value]... [--device D] [--dtype T] [--json]\n"
    "       cyclora plan --explain [--json]\n"
    "\n"
    "  CONFIG           a run's YAML file\n"
    "  --explain        the sums that two adapters are compared with two trained models by, weights and optimizer\n"
    "                   states alone, and what they leave out; with CONFIG, this run's beside its plan\n"
    "  --dump           the programs themselves, an instruction a line: its number, its op, what it makes <- what it reads;\n"
    "                   a value is %number:name:shape, N tokens, (param) a trained one, (grad) its gradient. Nothing\n"
    "                   below the lowest trained value has a backward instruction\n"
    "  --set key=value  goes over the file; may be given several times\n"
    "  --device D       short for --set device=D: a run on a card can be planned where there is none; --dtype T likewise\n"
    "  --json           the plan as one JSON object, sizes in bytes; with --explain it has \"explain\"\n"
    "\n"
    "Examples:\n"
    "  cyclora plan run.yaml\n"
    "  cyclora plan run.yaml --set lora.r=64 --set max_length=2048 --json | jq .total\n"
    "  cyclora plan run.yaml --device cuda\n"
    "  cyclora plan run.yaml --set method=full --set full.layers=last-1 --dump | grep _bwd\n"
    "  cyclora plan --explain\n"
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
        printf("a pass of the model takes at most %.0f tokens; its backward pass %s\n", json_num(plan, "pass_tokens"),
               json_text(json_object_get(plan, "checkpointing"), "text"));
}

static void print_plan(const json_t *plan) {
    report_run(plan);
    putchar('\n');
    report_memory(plan);
    putchar('\n');
    print_programs(plan);
}

/* c may be NULL: the sums of --explain alone. Takes c. */
static int show(cyc_config *c, bool explain, bool json) {
    char *text = NULL;
    int code = explain ? cyc_explain(c, &text) : cyc_plan(c, &text);
    bool whole = c != NULL;
    cyc_config_free(c);
    if (code) return cli_failed(code);
    json_t *plan = json_take(text);
    if (json) {
        json_line(plan);
        return STATUS_OK;
    }
    if (whole) print_plan(plan);
    if (whole && explain) putchar('\n');
    if (explain) report_explain(json_object_get(plan, "explain"));
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

int cmd_plan(int argc, char **argv) {
    const char *config = NULL;
    struct arg_list sets = {0};
    bool explain = false, json = false, dumps = false;
    cyc_config *c = NULL;
    const struct arg args[] = {{"CONFIG", ARG_TEXT, &config, 0},
                               {"--explain", ARG_FLAG, &explain, 0},
                               {"--dump", ARG_FLAG, &dumps, 0},
                               {"--set", ARG_LIST, &sets, 0},
                               {"--device", ARG_SETTING, &sets, 0},
                               {"--dtype", ARG_SETTING, &sets, 0},
                               {"--json", ARG_FLAG, &json, 0},
                               {0}};
    int status = args_parse("plan", argc, argv, args);
    if (status < 0) {
        if (dumps && (explain || json)) status = cli_bad("plan: --dump is text and goes alone, without --explain and --json");
        else if (config) status = config_open(config, &sets, &c);
        else status = explain && !sets.n ? STATUS_OK : args_missing("plan", "CONFIG");
        if (!status) status = dumps ? dump(c) : show(c, explain, json);
    }
    free(sets.v);
    return status;
}
