/* `cyclora compare`: finished runs beside each other, by the last evaluation of each. */
#include "args.h"
#include "cli.h"
#include "report.h"
#include "term.h"
#include <stdio.h>
#include <string.h>

const char help_compare[] = "Puts finished runs beside each other: the last evaluation of each run, and what copying the input would score.\n"
                            "\n"
                            "Usage: cyclora compare RUN... [--json]\n"
                            "\n"
                            "  RUN     run folders (each holds the report.json that training wrote at its end)\n"
                            "  --json  one JSON object: {\"runs\": [{\"run\", \"evaluation\"}, ...]}\n"
                            "\n"
                            "Examples:\n"
                            "  cyclora compare runs/warm runs/control runs/cycles\n"
                            "  cyclora compare runs/seed1 runs/seed2 --json | jq '.runs[].evaluation.round_trip.chrf'\n"
                            "\n"
                            "Scores are 0 to 100, as sacrebleu counts them. Writes to stdout alone. Exit status: 0; 2 for a folder without a\n"
                            "report.\n";

enum { MOST_RUNS = 32 };

/* The last evaluation in DIR/report.json, or NULL after saying what is wrong. */
static json_t *last_eval(const char *dir) {
    str path = {0};
    json_error_t je;
    str_addf(&path, "%s/report.json", dir);
    json_t *report = json_load_file(path.p, 0, &je);
    if (!report) cli_bad("%s: %s (a run writes it at its end)", path.p, je.text);
    const json_t *evals = json_object_get(report, "evals");
    json_t *eval = json_incref(json_array_get(evals, json_array_size(evals) - 1));
    if (report && !eval) cli_bad("%s holds no evaluation; set eval.data or test.data", path.p);
    json_decref(report);
    str_free(&path);
    return eval;
}

static void scores(struct table *t, const json_t *eval, bool copy) {
    for (size_t i = 0; i < 2; i++) {
        const json_t *side = json_array_get(json_object_get(eval, "sides"), i);
        table_number(t, copy ? json_object_get(side, "copy") : side, "bleu", "%.1f");
        table_number(t, copy ? json_object_get(side, "copy") : side, "chrf", "%.1f");
        table_number(t, copy ? NULL : side, "loss", "%.3f");
    }
    table_number(t, copy ? NULL : json_object_get(eval, "round_trip"), "chrf", "%.1f");
    table_number(t, copy ? NULL : json_object_get(eval, "round_trip"), "exact", "%.1f");
}

static void print(char *const *dirs, json_t *const *evals, int n) {
    static const char *const heads[] = {"", ">A→B BLEU", ">chrF", ">loss", ">B→A BLEU", ">chrF", ">loss", ">A→B→A chrF", ">exact %"};
    struct table t = {0};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) table_head(&t, heads[i]);
    if (json_object_get(json_array_get(json_object_get(evals[0], "sides"), 0), "copy")) {
        table_text(&t, "copying the input");
        scores(&t, evals[0], true);
    }
    for (int i = 0; i < n; i++) {
        table_text(&t, dirs[i]);
        scores(&t, evals[i], false);
    }
    table_print(&t, "");
}

static int refuse(json_t **evals, int n) {
    while (n > 0) json_decref(evals[--n]);
    return STATUS_USAGE;
}

int cmd_compare(int argc, char **argv) {
    json_t *evals[MOST_RUNS];
    char *dirs[MOST_RUNS];
    bool json = false;
    int n = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return fputs(help_compare, stdout), STATUS_OK;
        if (!strcmp(argv[i], "--json")) json = true;
        else if (argv[i][0] == '-') return refuse(evals, n), cli_bad("unknown option '%s'; `cyclora compare --help` shows them", argv[i]);
        else if (n == MOST_RUNS) return refuse(evals, n), cli_bad("at most %d runs", MOST_RUNS);
        else if (!(evals[n] = last_eval(dirs[n] = argv[i]))) return refuse(evals, n);
        else n++;
    }
    if (!n) return args_missing("compare", "RUN");
    if (json) {
        json_t *list = json_array();
        for (int i = 0; i < n; i++) json_array_append_new(list, json_pack("{s:s, s:O}", "run", dirs[i], "evaluation", evals[i]));
        json_line(json_pack("{s:o}", "runs", list));
    } else print(dirs, evals, n);
    refuse(evals, n);
    return STATUS_OK;
}
