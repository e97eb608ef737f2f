/* `cyclora score`: the figures of an evaluation for texts made elsewhere. */
#define _POSIX_C_SOURCE 200809L /* strdup */
#include "args.h"
#include "cli.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_score[] =
    "Scores texts against references, line by line, from 0 to 100: BLEU, chrF, chrF++ and TER equal to sacrebleu 2 with\n"
    "its defaults (13a tokens, exponential smoothing, chrF with beta 2), ROUGE-L to rouge-score's, entities to seqeval's\n"
    "and nervaluate's.\n"
    "\n"
    "Usage: cyclora score --hyp F --ref F [--metrics LIST] [--json]\n"
    "\n"
    "  --hyp F         the texts, one per line\n"
    "  --ref F         the references, as many lines\n"
    "  --metrics LIST  with commas between (bleu,chrf,chrf++,exact):\n"
    "                    bleu, chrf, chrf++   n-grams of words, of characters, of both\n"
    "                    exact                lines equal byte for byte\n"
    "                    ter                  edits and moves of words; lower is better\n"
    "                    rougeL               longest common subsequence of words, F1\n"
    "                    entity_f1            lines \"LOC: New York | PER: Ada\", type and mention\n"
    "                    entity_f1_partial    the mentions alone, half a point for a word in common\n"
    "                    triple_f1            lines \"Ada | bornIn | London && ...\", sets\n"
    "                    squad_em, squad_f1   answers without case, punctuation and articles: equal; F1 of their words\n"
    "  --json          {\"bleu\": ..., \"chrf\": ..., \"chrf++\": ..., \"exact\": ..., \"lines\": ...} on one line\n"
    "\n"
    "Examples:\n"
    "  cyclora score --hyp answers.txt --ref test.modern.txt\n"
    "  cyclora score --hyp answers.txt --ref test.modern.txt --json | jq .bleu\n"
    "  cyclora score --hyp said.txt --ref entities.txt --metrics entity_f1,entity_f1_partial\n"
    "\n"
    "Writes to stdout alone. Exit status: 0; 2 for a missing or empty file, line counts that differ, an unknown metric, or\n"
    "a reference that a metric cannot read; 1 otherwise.\n";

enum { MOST = 32 };

static const char *title(const char *name) {
    cyc_metric m;
    for (int i = 0; !cyc_metric_at(i, &m); i++)
        if (!strcmp(m.name, name)) return m.title;
    return name;
}

static int score(const char *const *metrics, int n, const struct lines *hyp, const struct lines *ref, bool json) {
    double got[MOST];
    int code = cyc_score_metrics(metrics, n, hyp->v, ref->v, hyp->n, got), width = 8;
    if (code) return cli_failed(code);
    json_t *o = json_object();
    for (int i = 0; i < n; i++) {
        json_object_set_new(o, metrics[i], json_number(got[i]));
        if ((int)strlen(title(metrics[i])) + 2 > width) width = (int)strlen(title(metrics[i])) + 2;
    }
    json_object_set_new(o, "lines", json_integer(hyp->n));
    if (json) return json_line(o), STATUS_OK;
    json_decref(o);
    for (int i = 0; i < n; i++) printf("%-*s%6.2f\n", width, title(metrics[i]), got[i]);
    printf("%-*s%6d\n", width, "lines", hyp->n);
    return STATUS_OK;
}

/* "a,b" taken apart in place. */
static int metrics_of(char *list, const char **metrics, int *n) {
    for (*n = 0; list; (*n)++) {
        char *comma = strchr(list, ',');
        if (*n == MOST) return cli_bad("score: --metrics names more than %d", MOST);
        if (comma) *comma++ = 0;
        metrics[*n] = list;
        list = comma;
    }
    return STATUS_OK;
}

int cmd_score(int argc, char **argv) {
    const char *hyp_file = NULL, *ref_file = NULL, *list = "bleu,chrf,chrf++,exact", *metrics[MOST];
    bool json = false;
    int n;
    const struct arg args[] = {{"--hyp", ARG_TEXT, &hyp_file, 0},
                               {"--ref", ARG_TEXT, &ref_file, 0},
                               {"--metrics", ARG_TEXT, &list, 0},
                               {"--json", ARG_FLAG, &json, 0},
                               {0}};
    int status = args_parse("score", argc, argv, args);
    if (status >= 0) return status;
    if (!hyp_file) return args_missing("score", "--hyp");
    if (!ref_file) return args_missing("score", "--ref");
    struct lines hyp = {0}, ref = {0};
    char *names = strdup(list);
    status = names ? metrics_of(names, metrics, &n) : cli_bad("score: out of memory");
    if (!status) status = lines_read(hyp_file, LINES_NO_NUL, &hyp);
    if (!status) status = lines_read(ref_file, LINES_NO_NUL, &ref);
    if (!status && hyp.n != ref.n)
        status = cli_bad("score: %s has %d lines and %s has %d: a reference for each text is needed", hyp_file, hyp.n, ref_file, ref.n);
    if (!status && hyp.n == 0) status = cli_bad("score: %s and %s are empty", hyp_file, ref_file);
    if (!status) status = score(metrics, n, &hyp, &ref, json);
    lines_free(&hyp);
    lines_free(&ref);
    free(names);
    return status;
}
