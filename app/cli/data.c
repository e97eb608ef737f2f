/* `cyclora data`: what data files hold (stats), training rows as the model will see them, token by token (preview), and data of cycle
 * training made by a recipe (prepare; prepare.c). */
#define _POSIX_C_SOURCE 200809L /* strdup */
#include "data.h"
#include "prepare.h"
#include "term.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_data[] =
    "Shows the first training rows as token pieces, with those that carry loss marked: in green, or between ⟦ and ⟧\n"
    "where there are no colours. A mask that is off by a token, a template twice, a missing end token are seen here.\n"
    "Or counts what data files hold: their shape, rows, lengths, duplicates, what max_length cuts. Or makes the data of\n"
    "cycle training, with a configuration, from what there is. Each of the others has a page: `cyclora help data check`.\n"
    "\n"
    "Usage: cyclora data preview CONFIG [-n N] [--set key=value]... [--json]\n"
    "       cyclora data preview FILE... --model PATH [-n N] [--format F] [--field NAME] [--max-length N] [--json]\n"
    "       cyclora data stats FILE... [--model PATH] [--format F] [--field NAME] [--max-length N] [--html PAGE [--overwrite]]\n"
    "                          [--json]\n"
    "       cyclora data prepare RECIPE FILE... --out DIR [--field A,B] [--names A,B] [--model PATH] [--seed N]\n"
    "                            [--warm S] [--dev S] [--test S] [--json]\n"
    "       cyclora data check FILE...                          what is wrong with records, by line\n"
    "       cyclora data dedup FILE... -o OUT                   without those that an earlier one equals, or is near\n"
    "       cyclora data contamination TRAIN... --against TEST  test records that stand in the training data\n"
    "       cyclora data filter FILE... -o OUT RULE...          those that pass rules of length, ratio, letters, fields\n"
    "       cyclora data split FILE... --out DIR                train, dev and test, groups kept together\n"
    "       cyclora data convert FILE... --to SHAPE -o OUT      in another shape\n"
    "       cyclora data synth --model TEACHER --seeds FILE ... pairs written by a local teacher\n"
    "\n"
    "  CONFIG           a run's YAML file (.yaml, .yml)\n"
    "  FILE             JSONL, a JSON array, CSV or TSV with a header, plain lines; also .gz and .zst\n"
    "  --model PATH     whose tokenizer and chat template to use: a .gguf file, a folder, a tokenizer.json\n"
    "  -n N             rows to show of each file (3)\n"
    "  --format F       text, messages, prompt_completion, alpaca, sharegpt; lines, jsonl, json, csv, tsv (found by itself);\n"
    "                   document: a whole file is one text\n"
    "  --field NAME     the field of a text; two with a comma: of a prompt and its completion\n"
    "  --max-length N   where rows are cut (1024)\n"
    "  --html PAGE      the statistics as a page of HTML; --overwrite: it may be there already\n"
    "  --set key=value  goes over the configuration; may be given several times\n"
    "  RECIPE           entities: CoNLL, or JSONL of tokens and tags: a sentence, and \"LOC: New York | PER: Ada\"\n"
    "                   records: JSONL {\"record\": {\"name\": ...}, \"text\"}: \"name: value | ...\", and a text\n"
    "                   triples: JSONL {\"triples\": [[s, p, o], ...], \"text\"}: \"s | p | o && ...\", and a text\n"
    "                   languages, style: two files of lines, a .tsv of two columns, or a file with two named fields\n"
    "  --out DIR        gets A.jsonl and B.jsonl, of different pairs, warm, dev and test.jsonl, and config.yaml\n"
    "  --names A,B      what the sides are called in prompts (Formal,Informal)\n"
    "  --seed N         of the parts (42); a text is in the same part whatever else is in the files\n"
    "  --warm, --dev, --test S  shares of the pairs (0.05, 0.05, 0.1); 0 = none\n"
    "  --json           {\"rows\": [{\"from\", \"bos\", \"answers\", \"pieces\": [{\"text\", \"id\", \"supervised\"}]}], \"totals\": "
    "{...}}\n"
    "                   on one line (\"answers\": the token that ends each, null where it is cut);\n"
    "                   of files {\"files\": [{\"path\", \"shape\", \"rows\", ...}], \"preview\": [rows], \"totals\": {...}}\n"
    "\n"
    "Examples:\n"
    "  cyclora data preview run.yaml\n"
    "  cyclora data preview run.yaml -n 20 --set max_length=128 --json | jq .totals\n"
    "  cyclora data prepare style letters.tsv --names Formal,Informal --out data/letters --model base.gguf\n"
    "  cyclora data stats alpaca.json chats.jsonl.gz --model SmolLM2-135M-Instruct.Q4_1.gguf\n"
    "\n"
    "Writes to stdout, prepare to DIR, stats to PAGE. Exit status: 0; 2 for a wrong configuration or data file (named with its\n"
    "line); 1 otherwise.\n";

static void open_line(bool *line_open) {
    if (!*line_open) fputs("    ", stdout);
    *line_open = true;
}

/* A piece as it stands in the row: line ends are shown and made, other control characters shown as escapes. */
static void print_piece(const char *s, bool *line_open) {
    while (*s) {
        size_t n = strcspn(s, "\n");
        str text = {0}, shown = {0};
        str_add(&text, s, n);
        text_one_line(&shown, text.p ? text.p : "", 0);
        open_line(line_open);
        fputs(shown.p ? shown.p : "", stdout);
        *line_open = s[n] != '\n';
        if (!*line_open) puts("↵");
        s += n + !*line_open;
        str_free(&text);
        str_free(&shown);
    }
}

/* What a row of a head's is to tell; false: it is none of such. */
static bool print_told(const json_t *row) {
    const json_t *numbers = json_object_get(row, "numbers"), *tags = json_object_get(row, "tags"), *e;
    size_t i;
    if (json_object_get(row, "label")) return printf("; label %s", json_text(row, "label")), true;
    if (!numbers && !tags) return false;
    printf("; %s", numbers ? "label" : "tags");
    json_array_foreach(numbers ? numbers : tags, i, e) {
        if (numbers) printf(" %g", json_number_value(e));
        else printf(" %s", json_string_value(e));
    }
    return true;
}

/* "BOS <s>; 2 answers, each ended by <|im_end|>": what is to be checked before anything else. */
static void print_ends(const json_t *row) {
    const json_t *ends = json_object_get(row, "answers"), *e;
    const char *bos = json_string_value(json_object_get(row, "bos")), *end = NULL;
    size_t i, n = json_array_size(ends), cut = 0;
    bool alike = true;
    json_array_foreach(ends, i, e) {
        const char *s = json_string_value(e);
        cut += !s;
        alike = alike && (!s || !end || !strcmp(s, end));
        if (s) end = s;
    }
    printf("; %s%s; %zu answer%s", bos ? "BOS " : "no BOS", bos ? bos : "", n, n == 1 ? "" : "s");
    if (cut) printf(", %zu without an end token", cut);
    if (end) printf(", %s by %s", n - cut == 1 ? "ended" : "each ended", alike ? end : "a token of its own");
}

static void print_row(const json_t *row) {
    size_t i, supervised = 0;
    const json_t *p, *pieces = json_object_get(row, "pieces");
    bool on = false, line_open = true;
    const char *begin = term_colour() ? term_good() : "⟦", *end = term_colour() ? term_off() : "⟧";
    json_array_foreach(pieces, i, p) supervised += json_is_true(json_object_get(p, "supervised"));
    printf("%s%s%s  %zu tokens, %zu supervised", term_bold(), json_text(row, "from"), term_off(),
           json_array_size(pieces), supervised);
    if (!print_told(row)) print_ends(row);
    fputs("\n    ", stdout);
    json_array_foreach(pieces, i, p) {
        bool now = json_is_true(json_object_get(p, "supervised"));
        if (now && !on) open_line(&line_open);
        if (now != on) fputs(now ? begin : end, stdout);
        on = now;
        print_piece(json_text(p, "text"), &line_open);
    }
    printf("%s%s\n", on ? end : "", line_open || on ? "\n" : "");
}

static void print_preview(const json_t *o) {
    size_t i;
    const json_t *row, *t = json_object_get(o, "totals");
    json_array_foreach(json_object_get(o, "rows"), i, row) print_row(row);
    if (!t) return;
    printf("%.0f rows, %.0f tokens, %.0f supervised", json_num(t, "rows"), json_num(t, "tokens"),
           json_num(t, "supervised"));
    if (json_object_get(t, "mean"))
        printf("; %.1f tokens a row, %.0f in the longest", json_num(t, "mean"), json_num(t, "longest"));
    if (json_num(t, "truncated") > 0) printf("; %.0f cut to max_length", json_num(t, "truncated"));
    putchar('\n');
}

static int preview(const char *config, const struct arg_list *sets, int rows, bool json) {
    cyc_config *c;
    char *text = NULL;
    int status = config_open(config, sets, &c);
    if (status) return status;
    int code = cyc_preview(c, rows, &text);
    cyc_config_free(c);
    if (code) return cli_failed(code);
    json_t *o = json_take(text);
    if (!json) print_preview(o);
    json ? json_line(o) : json_decref(o);
    return STATUS_OK;
}

/* --- files ---------------------------------------------------------------------------------------------------------- */
/* A bar for each bin of lengths, in eighths of a column. */
static void print_histogram(const json_t *bins) {
    static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    const json_t *b;
    size_t i;
    double most = 1;
    json_array_foreach(bins, i, b) most = fmax(most, json_num(b, "rows"));
    json_array_foreach(bins, i, b) {
        const double rows = json_num(b, "rows"), columns = rows / most * fmin(term_width() - 36, 60);
        char range[40];
        if (json_num(b, "to") > json_num(b, "from")) snprintf(range, sizeof range, "%.0f-%.0f", json_num(b, "from"), json_num(b, "to"));
        else snprintf(range, sizeof range, "%.0f", json_num(b, "from"));
        printf("  %13s %8.0f ", range, rows);
        for (int k = 0; k < (int)columns; k++) fputs("█", stdout);
        puts(eighths[(int)(8 * (columns - floor(columns)))]);
    }
}

static void print_cuts(const json_t *o) {
    const json_t *c;
    size_t i;
    json_array_foreach(json_object_get(o, "cuts"), i, c)
        printf("  max_length %.0f would cut %.0f rows (%.3g %%) and lose %.3g %% of the tokens\n", json_num(c, "max_length"), json_num(c, "rows"),
               100 * json_num(c, "rows") / json_num(o, "rows"), 100 * json_num(c, "tokens") / json_num(o, "tokens"));
}

static void print_counts(const json_t *o) {
    const json_t *l = json_object_get(o, "length");
    printf("  %.0f rows, %.0f duplicates", json_num(o, "rows"), json_num(o, "duplicates"));
    if (!l) return (void)putchar('\n');
    printf("; %.0f tokens\n", json_num(o, "tokens"));
    printf("  tokens a row: %.0f at least, %.0f the median, %.0f the 95th percentile, %.0f at most\n", json_num(l, "min"),
           json_num(l, "median"), json_num(l, "p95"), json_num(l, "max"));
    printf("  %.1f %% of the tokens that are kept carry loss", 100 * json_num(o, "supervised") / fmax(json_num(o, "kept"), 1));
    if (json_num(o, "truncated") > 0) printf("; %.0f rows are cut to max_length", json_num(o, "truncated"));
    if (json_num(o, "unlearnable") > 0) printf("; %.0f have nothing to learn within it", json_num(o, "unlearnable"));
    putchar('\n');
    print_histogram(json_object_get(o, "histogram"));
    print_cuts(o);
}

static void print_files(const json_t *o) {
    size_t i;
    const json_t *f, *row, *files = json_object_get(o, "files");
    json_array_foreach(json_object_get(o, "preview"), i, row) print_row(row);
    json_array_foreach(files, i, f) {
        const char *packing = json_text(f, "packing");
        printf("%s%s%s  %s, shape %s", term_bold(), json_text(f, "path"), term_off(), json_text(f, "container"), json_text(f, "shape"));
        if (strcmp(packing, "none") != 0) printf(", %s", packing);
        printf(", %.3g MB\n", json_num(f, "bytes") / 1e6);
        print_counts(f);
    }
    if (json_array_size(files) < 2) return;
    printf("%sall files%s\n", term_bold(), term_off());
    print_counts(json_object_get(o, "totals"));
}

int data_request(struct data_in *in, const char *command, cyc_data_request *q) {
    if (!in->files.n) return args_missing(command, "FILE");
    char *second = NULL;
    if (in->field && !(in->own = strdup(in->field))) return cli_bad("out of memory");
    if (in->own && (second = strchr(in->own, ','))) *second++ = 0;
    *q = (cyc_data_request){in->files.v, in->files.n, in->format, in->own, second, in->model, in->max_length, 0};
    return -1;
}

void data_in_free(struct data_in *in) {
    free(in->files.v);
    free(in->own);
}

struct page { /* of statistics: where, NULL: none, and whether it may be there already */
    const char *path;
    bool overwrite;
};

static int look_at(struct data_in *l, int rows, bool json, const struct page *page) {
    char *text = NULL;
    cyc_data_request q;
    int status = data_request(l, "data", &q);
    if (status >= 0) return status;
    q.rows = rows;
    int code = cyc_data_stats(&q, &text);
    if (!code && page->path) code = cyc_data_page(text, page->path, page->overwrite);
    if (code) return cyc_free(text), cli_failed(code);
    json_t *o = json_take(text);
    if (!json) print_files(o);
    json ? json_line(o) : json_decref(o);
    return STATUS_OK;
}

/* What belongs to files has no say over a configuration, and the other way round. */
static int preview_any(struct data_in *l, const struct arg_list *sets, int rows, bool json) {
    const char *first = l->files.v[0];
    bool config = str_ends(first, ".yaml") || str_ends(first, ".yml");
    if (!config && !l->model)
        return cli_bad("data: %s is taken for a data file (a CONFIG ends in .yaml), so --model must say whose tokenizer to use", first);
    if (!config && sets->n) return cli_bad("data: --set is for a CONFIG; %s is taken for a data file (a CONFIG ends in .yaml)", first);
    if (!config) return look_at(l, rows, json, &(struct page){0});
    if (l->files.n > 1) return cli_bad("data: superfluous argument '%s'", l->files.v[1]);
    if (l->model || l->format || l->field || l->max_length)
        return cli_bad("data: --model, --format, --field and --max-length are for data files; a CONFIG says these itself (--set)");
    return preview(first, sets, rows, json);
}

int cmd_data(int argc, char **argv) {
    const char *what = NULL;
    struct arg_list sets = {0};
    struct data_in l = {0};
    struct page page = {0};
    struct prepare p = {.seed = 42, .warm = 0.05, .dev = 0.05, .test = 0.1};
    int rows = 3;
    bool json = false;
    const struct arg args[] = {{"preview", ARG_TEXT, &what, 0},
                               {"FILE", ARG_LIST, &l.files, 0},
                               {"-n", ARG_INT, &rows, 1},
                               {"--set", ARG_LIST, &sets, 0},
                               {"--json", ARG_FLAG, &json, 0},
                               {"--model", ARG_TEXT, &l.model, 0},
                               {"--format", ARG_TEXT, &l.format, 0},
                               {"--field", ARG_TEXT, &l.field, 0},
                               {"--max-length", ARG_INT, &l.max_length, 2},
                               {"--html", ARG_TEXT, &page.path, 0},
                               {"--overwrite", ARG_FLAG, &page.overwrite, 0},
                               {"--out", ARG_TEXT, &p.out, 0},
                               {"--names", ARG_TEXT, &p.names, 0},
                               {"--seed", ARG_SEED, &p.seed, 0},
                               {"--warm", ARG_REAL, &p.warm, 0},
                               {"--dev", ARG_REAL, &p.dev, 0},
                               {"--test", ARG_REAL, &p.test, 0},
                               {0}};
    int status = args_parse("data", argc, argv, args);
    if (status < 0) {
        const bool prepares = what && !strcmp(what, "prepare"), counts = what && !strcmp(what, "stats");
        if (!what) status = args_missing("data", "what to do (preview, stats, prepare)");
        else if (strcmp(what, "preview") != 0 && !counts && !prepares)
            status = cli_bad("data: '%s' is nothing that can be done; `cyclora data preview CONFIG`, `cyclora data stats FILE...` and "
                             "others are: `cyclora help data`",
                             what);
        else if (!l.files.n) status = args_missing("data", prepares ? "RECIPE" : *what == 'p' ? "CONFIG" : "FILE");
        else if (prepares && (l.format || l.max_length || sets.n))
            status = cli_bad("data: --format, --max-length and --set have no use with prepare");
        else if (!counts && (page.path || page.overwrite)) status = cli_bad("data: --html and --overwrite belong to stats");
        else if (!prepares && (p.out || p.names)) status = cli_bad("data: %s belongs to prepare", p.out ? "--out" : "--names");
        else if (prepares) status = data_prepare(&p, &l.files, l.field, l.model, json);
        else status = *what == 'p' ? preview_any(&l, &sets, rows, json) : look_at(&l, 0, json, &page);
    }
    free(sets.v);
    data_in_free(&l);
    return status;
}
