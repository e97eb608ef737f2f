/* `cyclora data filter`, `split` and `convert`: records chosen by rules, dealt to parts, or in another shape. */
#include "data.h"
#include <stdio.h>
#include <stdlib.h>

#define FILES                                                                                                                              \
    "  FILE             JSONL, a JSON array, CSV or TSV with a header, plain lines; also .gz and .zst\n"                                   \
    "  --format F       text, messages, prompt_completion, alpaca, sharegpt; lines, jsonl, json, csv, tsv (found by itself)\n"             \
    "  --field NAME     the field of a text; two with a comma: of a prompt and its completion\n"
#define ENDING "Exit status: 0; 2 for a wrong option or data file (named with its line), or where nothing would be left; 1 otherwise.\n"

const char help_data_filter[] =
    "Writes the records that pass every rule that is given, as they were, and counts how many each rule took. They are tried\n"
    "in this order, and a record counts for the first that it fails. A run that would leave nothing is refused.\n"
    "\n"
    "Usage: cyclora data filter FILE... -o OUT RULE... [--model PATH] [--format F] [--field NAME] [--overwrite] [--json]\n"
    "\n" FILES "  -o OUT           JSONL; beside it OUT.card.json and OUT.card.md say what was done\n"
    "  --min-tokens N, --max-tokens N   length of the row that training makes of it (needs --model)\n"
    "  --model PATH     whose tokenizer and chat template: a .gguf file, a folder, a tokenizer.json\n"
    "  --min-chars N, --max-chars N     characters of all its texts\n"
    "  --min-ratio X, --max-ratio X     the answers' characters over those of what they answer\n"
    "  --min-letters S  share of letters among the characters that are not white space\n"
    "  --max-repeated S share of lines that an earlier line of the same record equals\n"
    "  --alphabet A     scripts, Latin,Greek (Unicode's names): of its letters at most --max-foreign may be of others\n"
    "  --max-foreign S  (0.05)\n"
    "  --keep F=REGEX   field F must match (PCRE2; `(?i)` ignores case); an empty F is all that the record says\n"
    "  --drop F=REGEX   field F may not match; both may be given several times\n"
    "  --overwrite      OUT may be there already\n"
    "  --json           the card, on one line\n"
    "\n"
    "Examples:\n"
    "  cyclora data filter chats.jsonl -o short.jsonl --max-tokens 512 --model base.gguf\n"
    "  cyclora data filter web.jsonl.zst -o latin.jsonl --alphabet Latin --min-letters 0.6 --max-repeated 0.3\n"
    "  cyclora data filter a.jsonl -o b.jsonl --drop '=(?i)as an ai language model' --keep 'source=^(wiki|books)$'\n"
    "\n" ENDING;

const char help_data_split[] =
    "Deals records to train.jsonl, dev.jsonl and test.jsonl of a new folder, by a hash of what each says and the seed: a record\n"
    "is in the same part whatever else is in the files, equal records are never in two, and no group is cut.\n"
    "\n"
    "Usage: cyclora data split FILE... --out DIR [--test S] [--dev S] [--group NAME] [--seed N] [--format F] [--field NAME]\n"
    "                          [--json]\n"
    "\n" FILES "  --out DIR        does not exist yet; appears whole or not at all, with split.card.json and split.card.md\n"
    "  --test S, --dev S   shares (0.1 and 0.1); 0 = no such part\n"
    "  --group NAME     records with one value of this field stay together: a document, a user, a day\n"
    "  --seed N         (42)\n"
    "  --json           the card, on one line\n"
    "\n"
    "Examples:\n"
    "  cyclora data split all.jsonl --out data/mine --test 0.1 --dev 0.05\n"
    "  cyclora data split qa.jsonl --out data/qa --group document --dev 0\n"
    "\n" ENDING;

const char help_data_convert[] =
    "Writes records of any shape as conversations, or as prompts and completions. Fields that the shape does not have are left\n"
    "out.\n"
    "\n"
    "Usage: cyclora data convert FILE... --to messages|prompt_completion -o OUT [--format F] [--field NAME] [--overwrite]\n"
    "                          [--json]\n"
    "\n" FILES "  --to SHAPE       messages: {\"messages\": [{\"role\", \"content\"}]}; prompt_completion: of strings, or of lists where\n"
    "                   more than one turn is before the answer (a system's); several answers are refused\n"
    "  -o OUT           JSONL; beside it OUT.card.json and OUT.card.md\n"
    "  --overwrite      OUT may be there already\n"
    "  --json           the card, on one line\n"
    "\n"
    "Examples:\n"
    "  cyclora data convert alpaca.json --to messages -o chats.jsonl\n"
    "  cyclora data convert pairs.csv --field question,answer --to prompt_completion -o pairs.jsonl\n"
    "\n" ENDING;

struct writing {
    struct data_in in;
    cyc_rewrite_request q;
    bool overwrite, json;
};

/* -1 to go on. out: how the option is called. */
static int writing_ready(struct writing *w, const char *command, const char *out) {
    const int status = data_request(&w->in, command, &w->q.data);
    w->q.overwrite = w->overwrite;
    return status < 0 && !w->q.out ? args_missing(command, out) : status;
}

int cmd_data_filter(int argc, char **argv) {
    struct writing w = {0};
    cyc_filter f = {.max_foreign = 0.05};
    struct arg_list keep = {0}, drop = {0};
    const struct arg args[] = {{"FILE", ARG_LIST, &w.in.files, 0},
                               {"-o", ARG_TEXT, &w.q.out, 0},
                               {"--min-tokens", ARG_INT, &f.min_tokens, 1},
                               {"--max-tokens", ARG_INT, &f.max_tokens, 1},
                               {"--min-chars", ARG_INT, &f.min_chars, 1},
                               {"--max-chars", ARG_INT, &f.max_chars, 1},
                               {"--min-ratio", ARG_REAL, &f.min_ratio, 0},
                               {"--max-ratio", ARG_REAL, &f.max_ratio, 0},
                               {"--min-letters", ARG_REAL, &f.min_letters, 0},
                               {"--max-repeated", ARG_REAL, &f.max_repeated, 0},
                               {"--alphabet", ARG_TEXT, &f.alphabet, 0},
                               {"--max-foreign", ARG_REAL, &f.max_foreign, 0},
                               {"--keep", ARG_LIST, &keep, 0},
                               {"--drop", ARG_LIST, &drop, 0},
                               {"--model", ARG_TEXT, &w.in.model, 0},
                               {"--format", ARG_TEXT, &w.in.format, 0},
                               {"--field", ARG_TEXT, &w.in.field, 0},
                               {"--overwrite", ARG_FLAG, &w.overwrite, 0},
                               {"--json", ARG_FLAG, &w.json, 0},
                               {0}};
    char *text = NULL;
    int status = args_parse("data filter", argc, argv, args);
    if (status < 0) status = writing_ready(&w, "data filter", "-o OUT");
    f.keep = keep.v, f.n_keep = keep.n, f.drop = drop.v, f.n_drop = drop.n;
    if (status < 0) {
        const int code = cyc_data_filter(&w.q, &f, &text);
        status = data_written(code, text, w.q.out, w.json);
    }
    data_in_free(&w.in);
    free(keep.v);
    free(drop.v);
    return status;
}

int cmd_data_split(int argc, char **argv) {
    struct writing w = {0};
    double dev = 0.1, test = 0.1;
    const char *group = NULL;
    uint64_t seed = 42;
    const struct arg args[] = {{"FILE", ARG_LIST, &w.in.files, 0},      {"--out", ARG_TEXT, &w.q.out, 0},
                               {"--test", ARG_REAL, &test, 0},          {"--dev", ARG_REAL, &dev, 0},
                               {"--group", ARG_TEXT, &group, 0},        {"--seed", ARG_SEED, &seed, 0},
                               {"--format", ARG_TEXT, &w.in.format, 0}, {"--field", ARG_TEXT, &w.in.field, 0},
                               {"--json", ARG_FLAG, &w.json, 0},        {0}};
    char *text = NULL, card[4200];
    int status = args_parse("data split", argc, argv, args);
    if (status < 0) status = writing_ready(&w, "data split", "--out");
    if (status < 0) {
        const int code = cyc_data_split(&w.q, dev, test, group, seed, &text);
        snprintf(card, sizeof card, "%s/split", w.q.out);
        status = data_written(code, text, card, w.json);
    }
    data_in_free(&w.in);
    return status;
}

int cmd_data_convert(int argc, char **argv) {
    struct writing w = {0};
    const char *to = NULL;
    const struct arg args[] = {{"FILE", ARG_LIST, &w.in.files, 0},    {"--to", ARG_TEXT, &to, 0},
                               {"-o", ARG_TEXT, &w.q.out, 0},         {"--format", ARG_TEXT, &w.in.format, 0},
                               {"--field", ARG_TEXT, &w.in.field, 0}, {"--overwrite", ARG_FLAG, &w.overwrite, 0},
                               {"--json", ARG_FLAG, &w.json, 0},      {0}};
    char *text = NULL;
    int status = args_parse("data convert", argc, argv, args);
    if (status < 0) status = writing_ready(&w, "data convert", "-o OUT");
    if (status < 0 && !to) status = args_missing("data convert", "--to");
    if (status < 0) {
        const int code = cyc_data_convert(&w.q, to, &text);
        status = data_written(code, text, w.q.out, w.json);
    }
    data_in_free(&w.in);
    return status;
}
