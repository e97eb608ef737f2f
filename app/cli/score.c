/* `cyclora score`: the figures of an evaluation for texts made elsewhere. */
#include "args.h"
#include "cli.h"
#include <cyclora/cyclora.h>
#include <stdio.h>

const char help_score[] =
    "Scores texts against references, line by line: BLEU, chrF, chrF++ and exact match, equal to sacrebleu 2 with its\n"
    "defaults (13a tokens, exponential smoothing, chrF with beta 2), on a scale of 0 to 100.\n"
    "\n"
    "Usage: cyclora score --hyp F --ref F [--json]\n"
    "\n"
    "  --hyp F      the texts, one per line\n"
    "  --ref F      the references, as many lines\n"
    "  --json       {\"bleu\": ..., \"chrf\": ..., \"chrf++\": ..., \"exact\": ..., \"lines\": ...} on one line\n"
    "\n"
    "Examples:\n"
    "  cyclora score --hyp answers.txt --ref test.modern.txt\n"
    "  cyclora score --hyp answers.txt --ref test.modern.txt --json | jq .bleu\n"
    "\n"
    "Writes to stdout alone. Exit status: 0; 2 for a missing or empty file, or line counts that differ; 1 otherwise.\n";

static int score(const struct lines *hyp, const struct lines *ref, bool json) {
    cyc_scores s;
    int code = cyc_score_texts(hyp->v, ref->v, hyp->n, &s);
    if (code) return cli_failed(code);
    if (json)
        json_line(json_pack("{s:f, s:f, s:f, s:f, s:i}", "bleu", s.bleu, "chrf", s.chrf, "chrf++", s.chrf_pp, "exact",
                            s.exact, "lines", hyp->n));
    else
        printf("BLEU    %6.2f\nchrF    %6.2f\nchrF++  %6.2f\nexact   %6.2f %%\nlines   %6d\n", s.bleu, s.chrf,
               s.chrf_pp, s.exact, hyp->n);
    return STATUS_OK;
}

int cmd_score(int argc, char **argv) {
    const char *hyp_file = NULL, *ref_file = NULL;
    bool json = false;
    const struct arg args[] = {
        {"--hyp", ARG_TEXT, &hyp_file, 0}, {"--ref", ARG_TEXT, &ref_file, 0}, {"--json", ARG_FLAG, &json, 0}, {0}};
    int status = args_parse("score", argc, argv, args);
    if (status >= 0) return status;
    if (!hyp_file) return args_missing("score", "--hyp");
    if (!ref_file) return args_missing("score", "--ref");
    struct lines hyp, ref = {0};
    status = lines_read(hyp_file, LINES_NO_NUL, &hyp);
    if (!status) status = lines_read(ref_file, LINES_NO_NUL, &ref);
    if (!status && hyp.n != ref.n)
        status = cli_bad("score: %s has %d lines and %s has %d: a reference for each text is needed", hyp_file, hyp.n,
                         ref_file, ref.n);
    if (!status && hyp.n == 0) status = cli_bad("score: %s and %s are empty", hyp_file, ref_file);
    if (!status) status = score(&hyp, &ref, json);
    lines_free(&hyp);
    lines_free(&ref);
    return status;
}
