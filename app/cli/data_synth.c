/* `cyclora data synth`: pairs of instruction and output, written by a local teacher in the likeness of seeds. */
#define _POSIX_C_SOURCE 200809L /* strdup, sigaction */
#include "adapters.h"
#include "args.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_data_synth[] =
    "Has a local teacher write instruction-output pairs in the likeness of yours (Self-Instruct): each prompt shows it a few\n"
    "seeds, and what it writes is read, filtered and noted down with where it comes from. Dropped, and counted, are texts\n"
    "that are no pair or have no end, instructions too short or too long, refusals, copies and near copies of seeds and of\n"
    "each other, and what an evaluation set has too. Read what comes out: a filter knows no truth.\n"
    "\n"
    "Usage: cyclora data synth --model TEACHER --seeds FILE --out FILE -n N [--against FILE]... [options]\n"
    "\n"
    "  --model TEACHER       a .gguf file or a Hugging Face folder; --adapter DIR as of `cyclora generate`\n"
    "  --seeds FILE          pairs or conversations of any shape that `data preview` knows; --field A,B: a pair's fields\n"
    "  --out FILE            JSONL of {\"instruction\", \"input\", \"output\", \"provenance\"}, which training reads as it is (alpaca);\n"
    "                        FILE.card.json and .md have the settings, hashes and counts\n"
    "  -n N                  pairs wanted; --most M: texts asked for at most (20 N)\n"
    "  --against FILE        an evaluation set of any shape, may be given more than once; --against-field A,B: its fields\n"
    "  --template FILE       the prompt, with {examples} in one place; in the model's chat template where it has one\n"
    "  --raw                 not in the chat template\n"
    "  --examples N          seeds in a prompt (3)\n"
    "  --temperature T, --top-p P  how it samples (0.8, 0.95)\n"
    "  --max-new-tokens N    of a text (200)\n"
    "  --likeness X          ROUGE-L, 0 to 1, to any other instruction, above which one is dropped (0.7)\n"
    "  --min-words N         of an instruction (3); at most are 150\n"
    "  --run N               words in a row that no evaluation set may have too (8)\n"
    "  --seed N, --batch N   the same of both is the same file (0; 16 texts at once)\n"
    "  --device D, --dtype T, --threads N  as of `cyclora generate`\n"
    "  --json                the card on one line\n"
    "\n"
    "Ctrl-C loses nothing: what was written lies in FILE.work, where the same command goes on.\n"
    "\n"
    "Examples:\n"
    "  cyclora data synth --model teacher.gguf --seeds seeds.jsonl --out more.jsonl -n 200 --against test.jsonl\n"
    "  cyclora data synth --model teacher.gguf --seeds pairs.jsonl --field command,record --out more.jsonl -n 50 --raw\n"
    "\n"
    "Exit status: 0, also where fewer than N were kept (said); 1 where none was; 2 for what is wrong; 130 interrupted.\n";

static void on_signal(int sig) {
    (void)sig;
    cyc_stop();
}

static void on_round(void *ctx, int kept, int asked) {
    const cyc_synth_request *q = ctx;
    char line[128];
    snprintf(line, sizeof line, "%d of %d pairs kept, %d texts", kept, q->n, asked);
    if (term_tty()) progress_show(line);
}

static void print_card(const json_t *o, const cyc_synth_request *q) {
    static const struct {
        const char *key, *what;
    } reasons[] = {{"unread", "were no pair"},
                   {"cut", "had no end within --max-new-tokens"},
                   {"empty", "had no word in instruction or output"},
                   {"length", "had an instruction too short or too long"},
                   {"refusal", "refused"},
                   {"echo", "said their instruction again"},
                   {"copy", "had a seed's instruction"},
                   {"similar", "were like a seed or an earlier one"},
                   {"evaluation", "have words of an evaluation set"}};
    const json_t *counts = json_object_get(o, "counts");
    printf("%s%s%s  %.0f pairs of %.0f texts\n", term_bold(), q->out, term_off(), json_num(counts, "kept"), json_num(counts, "asked"));
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (json_num(counts, reasons[i].key) > 0) printf("  %5.0f %s\n", json_num(counts, reasons[i].key), reasons[i].what);
    printf("  %s.card.md has settings, hashes and counts; read the pairs before you train on them\n", q->out);
}

static int run(cyc_model *m, const struct adapters *a, const cyc_synth_request *q, bool json) {
    const struct sigaction stop = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    char *text = NULL, line[200];
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    int code = cyc_data_synth(m, a->a, q, &text);
    progress_clear();
    if (code) return cli_failed(code);
    json_t *o = json_take(text);
    const json_t *counts = json_object_get(o, "counts");
    snprintf(line, sizeof line, "%.0f pairs are fewer than the %d that were wanted: --most %d texts were asked for",
             json_num(counts, "kept"), q->n, q->most);
    if (json_num(counts, "kept") < q->n) cli_warn(line);
    if (!json) print_card(o, q);
    json ? json_line(o) : json_decref(o);
    return STATUS_OK;
}

/* "a,b" as two; the first is the text itself, cut. */
static int two_fields(char *text, const char *option, const char **first, const char **second) {
    char *comma = text ? strchr(text, ',') : NULL;
    if (text && (!comma || comma == text || !comma[1]))
        return cli_bad("data synth: %s wants two names with a comma between, not '%s'", option, text);
    if (comma) *comma = 0, *first = text, *second = comma + 1;
    return STATUS_OK;
}

struct more { /* options that are not the library's */
    const char *model, *device, *dtype, *template;
    char *field, *against_field;
    struct arg_list adapter;
    bool json;
};

static int open_and_run(cyc_synth_request *q, struct more *x) {
    cyc_model *m = NULL;
    struct adapters a = {0};
    str template = {0};
    int status = two_fields(x->field, "--field", &q->field, &q->field2), code = CYC_OK;
    if (!status) status = two_fields(x->against_field, "--against-field", &q->against_field, &q->against_field2);
    if (!status && x->template) status = text_read(x->template, &template);
    if (!status && x->template) q->form = template.p;
    if (!status) code = cyc_model_open(x->model, &m);
    if (!status && !code) code = cyc_model_device(m, x->device, x->dtype);
    if (code) status = cli_failed(code);
    if (!status) status = adapters_open("data synth", m, &x->adapter, false, false, &a);
    if (!status && x->adapter.n) q->adapter_name = x->adapter.v[0];
    if (!status) status = run(m, &a, q, x->json);
    adapters_close(&a);
    if (m) cyc_model_close(m);
    str_free(&template);
    return status;
}

int cmd_data_synth(int argc, char **argv) {
    cyc_synth_request q = {
        .examples = 3, .max_new_tokens = 200, .batch = 16, .temperature = 0.8, .top_p = 0.95, .likeness = 0.7, .least_words = 3, .run = 8};
    struct more x = {.device = "cpu", .dtype = "auto"};
    struct arg_list against = {0};
    const char *field = NULL, *against_field = NULL;
    bool raw = false;
    const struct arg args[] = {{"--model", ARG_TEXT, &x.model, 0},
                               {"--adapter", ARG_LIST, &x.adapter, 0},
                               {"--seeds", ARG_TEXT, &q.seeds, 0},
                               {"--field", ARG_TEXT, &field, 0},
                               {"--out", ARG_TEXT, &q.out, 0},
                               {"-n", ARG_INT, &q.n, 1},
                               {"--most", ARG_INT, &q.most, 1},
                               {"--against", ARG_LIST, &against, 0},
                               {"--against-field", ARG_TEXT, &against_field, 0},
                               {"--template", ARG_TEXT, &x.template, 0},
                               {"--raw", ARG_FLAG, &raw, 0},
                               {"--examples", ARG_INT, &q.examples, 1},
                               {"--temperature", ARG_REAL, &q.temperature, 0},
                               {"--top-p", ARG_REAL, &q.top_p, 0},
                               {"--max-new-tokens", ARG_INT, &q.max_new_tokens, 1},
                               {"--likeness", ARG_REAL, &q.likeness, 0},
                               {"--min-words", ARG_INT, &q.least_words, 1},
                               {"--run", ARG_INT, &q.run, 1},
                               {"--seed", ARG_SEED, &q.seed, 0},
                               {"--batch", ARG_INT, &q.batch, 1},
                               {"--device", ARG_TEXT, &x.device, 0},
                               {"--dtype", ARG_TEXT, &x.dtype, 0},
                               {"--threads", ARG_INT, &q.threads, 0},
                               {"--json", ARG_FLAG, &x.json, 0},
                               {0}};
    int status = args_parse("data synth", argc, argv, args);
    const char *missing = !x.model ? "--model" : !q.seeds ? "--seeds" : !q.out ? "--out" : !q.n ? "-n" : NULL;
    if (status < 0 && missing) status = args_missing("data synth", missing);
    if (status < 0) {
        if (!q.most) q.most = q.n > 100000 ? q.n : 20 * q.n;
        q.raw = raw;
        q.against = against.v, q.n_against = against.n;
        q.ctx = &q, q.on_round = on_round;
        x.field = field ? strdup(field) : NULL, x.against_field = against_field ? strdup(against_field) : NULL;
        status = open_and_run(&q, &x);
        free(x.field);
        free(x.against_field);
    }
    free(x.adapter.v);
    free(against.v);
    return status;
}
