/* `cyclora data dedup` and `contamination`: records that say the same, within files and between them. */
#include "data.h"
#include "term.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_data_dedup[] =
    "Writes files without the records that say what an earlier one says, or nearly. Equal are records whose texts are, case\n"
    "and white space apart; near are those whose sets of shingles have a Jaccard similarity of the threshold at least. MinHash\n"
    "finds them, the texts verify each. The first stays; whatever goes has one that stays and is equal or near.\n"
    "\n"
    "Usage: cyclora data dedup FILE... -o OUT [--removed FILE] [--exact] [--threshold J] [--shingle N] [--words]\n"
    "                          [--permutations N] [--seed N] [--format F] [--field NAME] [--overwrite] [--json]\n"
    "\n"
    "  FILE             JSONL, a JSON array, CSV or TSV with a header, plain lines; also .gz and .zst\n"
    "  -o OUT           JSONL of what stays, as it was; beside it OUT.card.json and OUT.card.md say what was done\n"
    "  --removed FILE   gets {\"path\", \"line\", \"kept_path\", \"kept_line\", \"jaccard\"} for each record that goes\n"
    "  --exact          equal ones alone\n"
    "  --threshold J    from which similarity on records are near (0.8)\n"
    "  --shingle N      how many characters in a row a shingle is (5)\n"
    "  --words          words in place of characters: for long texts, with --shingle 3 to 5\n"
    "  --permutations N how many hashes stand for a record (128)\n"
    "  --seed N         of the hashes (42)\n"
    "  --format F       text, messages, prompt_completion, alpaca, sharegpt; lines, jsonl, json, csv, tsv (found by itself)\n"
    "  --field NAME     the field of a text: it alone is compared; two with a comma: of a prompt and its completion\n"
    "  --overwrite      OUT and the list may be there already\n"
    "  --json           the card, on one line\n"
    "\n"
    "Memory: 140 MB at most and a bit a record, whatever the files' size; 160 bytes a record of temporary disk (TMPDIR).\n"
    "\n"
    "Examples:\n"
    "  cyclora data dedup chats.jsonl.gz more.json -o clean.jsonl --removed removed.jsonl\n"
    "  cyclora data dedup alpaca.json -o prompts.jsonl --field instruction --threshold 0.9\n"
    "\n"
    "Exit status: 0; 2 for a wrong option or data file (named with its line); 1 otherwise.\n";

const char help_data_contamination[] =
    "Says which test records stand in the training data, so that a score on them measures memory: equal (case and white space\n"
    "apart), near (Jaccard similarity of shingles, as in `data dedup`), or with so many words in a row that do.\n"
    "\n"
    "Usage: cyclora data contamination TRAIN... --against TEST [--against TEST]... [--fail-above S] [--ngram N] [--least S]\n"
    "                          [--exact] [--threshold J] [--shingle N] [--words] [--permutations N] [--seed N]\n"
    "                          [--report FILE] [-o OUT] [--limit N] [--format F] [--field NAME] [--overwrite] [--json]\n"
    "\n"
    "  TRAIN            JSONL, a JSON array, CSV or TSV with a header, plain lines; also .gz and .zst; streamed\n"
    "  --against TEST   a test file; may be given several times. Its records are indexed in memory\n"
    "  --fail-above S   exit status 1 where more than this share of the test records is found (never)\n"
    "  --ngram N        words in a row that are looked for (13); 0 = none\n"
    "  --least S        share of a test record's n-grams that must be found (0 = one will do)\n"
    "  --exact          equal ones alone\n"
    "  --threshold J, --shingle N, --words, --permutations N, --seed N   as in `cyclora help data dedup`\n"
    "  --report FILE    gets a line for each test record that is found: where, how, how near\n"
    "  -o OUT           gets the training records in which nothing of the tests was found, and its card\n"
    "  --limit N        how many are listed (20); 0 = all\n"
    "  --format F       of all files: text, messages, prompt_completion, alpaca, sharegpt; lines, jsonl, json, csv, tsv\n"
    "  --field NAME     the field of a text: it alone is compared; two with a comma: of a prompt and its completion\n"
    "  --overwrite      OUT and the report may be there already\n"
    "  --json           the card with \"share\" and \"hits\", on one line\n"
    "\n"
    "Examples:\n"
    "  cyclora data contamination train.jsonl --against test.jsonl --fail-above 0\n"
    "  cyclora data contamination web.jsonl.zst --against gsm8k.jsonl --field question -o clean.jsonl\n"
    "\n"
    "Exit status: 0; 1 above --fail-above, or where something failed; 2 for a wrong option or data file.\n";

void print_card(const json_t *card) {
    const json_t *v;
    const char *key;
    size_t i;
    json_array_foreach(json_object_get(card, "outputs"), i, v) printf("%s%s%s  %.0f records, %s\n", term_bold(), json_text(v, "path"),
                                                                      term_off(), json_num(v, "rows"), show_bytes(json_num(v, "bytes")));
    i = 0;
    json_object_foreach(json_object_get((json_t *)card, "counts"), key, v)
        printf("%s%.0f %s", i++ ? ", " : "  ", json_number_value(v), key);
    putchar('\n');
}

int data_written(int code, char *text, const char *out, bool json) {
    if (code) return cli_failed(code);
    json_t *card = json_take(text);
    if (!json) {
        print_card(card);
        printf("  %s.card.json, %s.card.md\n", out, out);
    }
    json ? json_line(card) : json_decref(card);
    return STATUS_OK;
}

/* How both compare unless they are told otherwise, and the options that tell, of the variables of these names. */
static const cyc_near usual = {.threshold = 0.8, .permutations = 128, .shingle = 5, .seed = 42};
#define COMPARING_ARGS(near)                                                                                                               \
    {"--exact", ARG_FLAG, &exact, 0}, {"--threshold", ARG_REAL, &(near).threshold, 0}, {"--shingle", ARG_INT, &(near).shingle, 1},         \
        {"--words", ARG_FLAG, &words, 0}, {"--permutations", ARG_INT, &(near).permutations, 16}, {"--seed", ARG_SEED, &(near).seed, 0},    \
        {"--format", ARG_TEXT, &in.format, 0}, {"--field", ARG_TEXT, &in.field, 0}, {"--overwrite", ARG_FLAG, &overwrite, 0}, {            \
        "--json", ARG_FLAG, &json, 0                                                                                                       \
    }

int cmd_data_dedup(int argc, char **argv) {
    struct data_in in = {0};
    cyc_near near = usual;
    cyc_rewrite_request q = {0};
    const char *removed = NULL;
    bool json = false, exact = false, words = false, overwrite = false;
    const struct arg args[] = {
        {"FILE", ARG_LIST, &in.files, 0}, {"-o", ARG_TEXT, &q.out, 0}, {"--removed", ARG_TEXT, &removed, 0}, COMPARING_ARGS(near), {0}};
    char *text = NULL;
    int status = args_parse("data dedup", argc, argv, args);
    if (status < 0) status = data_request(&in, "data dedup", &q.data);
    if (status < 0 && !q.out) status = args_missing("data dedup", "-o OUT");
    near.exact = exact, near.words = words, q.overwrite = overwrite;
    if (status < 0) {
        int code = cyc_data_dedup(&q, &near, removed, &text);
        status = data_written(code, text, q.out, json);
    }
    data_in_free(&in);
    return status;
}

static void print_hits(const json_t *o, int limit) {
    const json_t *c = json_object_get(o, "counts"), *hits = json_object_get(o, "hits"), *h;
    size_t i;
    json_array_foreach(hits, i, h) {
        const char *kind = json_text(h, "kind");
        const bool near = !strcmp(kind, "near");
        printf("%s:%.0f: %s %s:%.0f", json_text(h, "path"), json_num(h, "line"),
               near                     ? "is near"
               : !strcmp(kind, "equal") ? "equals"
                                        : "shares n-grams with",
               json_text(h, "train_path"), json_num(h, "train_line"));
        if (near) printf(", similarity %.3f", json_num(h, "jaccard"));
        if (json_num(h, "ngrams") > 0) printf(", %.3g %% of its n-grams", 100 * json_num(h, "ngrams"));
        putchar('\n');
    }
    if (limit && json_num(c, "contaminated") > limit)
        printf("... and %.0f more (--limit 0 lists all)\n", json_num(c, "contaminated") - limit);
    printf("%.0f of %.0f test records (%.3g %%) stand in the training data: %.0f equal, %.0f near, %.0f with n-grams",
           json_num(c, "contaminated"), json_num(c, "test"), 100 * json_num(o, "share"), json_num(c, "equal"), json_num(c, "near"),
           json_num(c, "ngram"));
    if (json_num(c, "short") > 0) printf("; %.0f have fewer words than an n-gram", json_num(c, "short"));
    printf("\n%.0f of %.0f training records are concerned\n", json_num(c, "train_records_concerned"), json_num(c, "train"));
}

static int contaminated(int code, char *text, int limit, double most, bool json) {
    if (code) return cli_failed(code);
    json_t *o = json_take(text);
    const bool above = most >= 0 && json_num(o, "share") > most;
    if (!json) {
        print_hits(o, limit);
        if (json_array_size(json_object_get(o, "outputs"))) print_card(o);
    }
    json ? json_line(o) : json_decref(o);
    return above ? STATUS_FAILED : STATUS_OK;
}

int cmd_data_contamination(int argc, char **argv) {
    struct data_in in = {0};
    struct arg_list against = {0};
    cyc_overlap o = {.near = usual, .ngram = 13, .limit = 20};
    cyc_rewrite_request q = {0};
    double most = -1;
    bool json = false, exact = false, words = false, overwrite = false;
    const struct arg args[] = {{"TRAIN", ARG_LIST, &in.files, 0},
                               {"--against", ARG_LIST, &against, 0},
                               {"--fail-above", ARG_REAL, &most, 0},
                               {"--ngram", ARG_INT, &o.ngram, 0},
                               {"--least", ARG_REAL, &o.least, 0},
                               {"--report", ARG_TEXT, &o.report, 0},
                               {"-o", ARG_TEXT, &q.out, 0},
                               {"--limit", ARG_INT, &o.limit, 0},
                               COMPARING_ARGS(o.near),
                               {0}};
    char *text = NULL;
    int status = args_parse("data contamination", argc, argv, args);
    if (status < 0) status = data_request(&in, "data contamination", &q.data);
    if (status < 0 && !against.n) status = args_missing("data contamination", "--against TEST");
    o.against = against.v, o.n_against = against.n;
    o.near.exact = exact, o.near.words = words, q.overwrite = overwrite;
    if (status < 0) {
        const int code = cyc_data_contamination(&q, &o, &text);
        status = contaminated(code, text, o.limit, most, json);
    }
    data_in_free(&in);
    free(against.v);
    return status;
}
