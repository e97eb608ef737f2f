/* `cyclora generate`: one prompt streamed to a person, or many prompts in batches with their ids and rates as JSON.
 *
 * Streaming shows a token's text as soon as it is whole: a character whose bytes span tokens is held back until the
 * last of them is there. On a terminal, control characters that a model writes are shown, not sent. */
#include "adapters.h"
#include "args.h"
#include "cli.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_generate[] =
    "Continues prompts with a model, with or without an adapter. A prompt is taken as it is written; --chat puts "
    "it\n"
    "into the model's own chat template as one user turn.\n"
    "\n"
    "Usage: cyclora generate --model M [--adapter DIR | --adapter NAME=DIR[:WEIGHT] ...] (--prompt TEXT | --file F) [options]\n"
    "\n"
    "  --model M             a .gguf file or a Hugging Face folder\n"
    "  --adapter DIR         a PEFT adapter's folder; cyclora's own are RUN/A and RUN/B. Given more than once, or with a\n"
    "                        weight, as NAME=DIR[:WEIGHT]: all of them at once, each as strongly as its weight says (1; the\n"
    "                        name is the folder's where none is given). Of a .jsonl file the field \"adapter\" says it row by\n"
    "                        row: a name, an object of names and weights, or null for the base alone\n"
    "  --no-adapter          rows that say nothing go without any: the base, bit for bit\n"
    "  --prompt TEXT         one prompt\n"
    "  --file F              a prompt per line, UTF-8; of a .jsonl file the field \"prompt\" (or \"text\"); - is "
    "stdin\n"
    "  --vectors V           what an adapter with a projector reads beside each prompt: X.npy, a row for each, or the "
    "name of\n"
    "                        the field of a .jsonl file that has them\n"
    "  --chat                the prompt is a user's turn\n"
    "  --chat-template T     the same, in this template: a Jinja file, or chatml\n"
    "  --max-new-tokens N    at most so many tokens (128)\n"
    "  --greedy              always the likeliest token (the default)\n"
    "  --temperature T       sample at this temperature; then also\n"
    "  --top-p P, --top-k K  from the likeliest tokens of total probability P; from the K likeliest\n"
    "  --min-p M             from those at least M times as likely as the likeliest\n"
    "  --repetition-penalty X  tokens that are there already are less likely: their logits over X, negative ones times X\n"
    "  --min-new-tokens N    no end before N tokens\n"
    "  --beams N             beam search, the likeliest of N texts; then also\n"
    "  --length-penalty L    ... they are ranked by log-probability / length^L (1)\n"
    "  --early-stopping S    ... false, true or never: when a search is over, as transformers' early_stopping (false)\n"
    "  --seed S              the same seed gives the same text (0)\n"
    "  --ignore-eos          go on behind an end-of-text token\n"
    "  --batch N             prompts at once (16)\n"
    "  --share-head N        what all of them begin with is computed once, where it is N tokens or more; 0 = never (0)\n"
    "  --device D, --dtype T cpu (the default), cuda, or auto; float32, bfloat16, float16, or auto: a card's is bfloat16\n"
    "  --threads N           processor threads (all)\n"
    "  --activations A       f32, or int15: decode with activations of 15 bits and a sign, faster on AVX-512 VNNI "
    "(f32)\n"
    "  --json                {\"prompt\", \"ids\", \"text\", \"stopped\", \"tokens_per_s\", \"prefill_tokens_per_s\"} "
    "per prompt;\n"
    "                        the rates are those of its batch; null where each text has one token, which the prompt's\n"
    "                        pass made\n"
    "\n"
    "Examples:\n"
    "  cyclora generate --model SmolLM2-135M-Instruct.Q4_1.gguf --chat --prompt \"Name three rivers.\"\n"
    "  cyclora generate --model base.gguf --adapter run/A --file kjv.txt --max-new-tokens 60 --json > modern.jsonl\n"
    "  cyclora generate --model base.gguf --adapter chat=run1 --adapter style=run2:0.5 --prompt \"Dear\"\n"
    "\n"
    "Writes the texts to stdout and, without --json, the rates to stderr. Exit status: 0; 2 for a wrong option, "
    "model,\n"
    "adapter or prompt; 1 otherwise.\n";

struct request {
    const char *model_path, *prompt, *file, *activations, *device, *dtype, *template, *vectors, *early;
    bool chat, greedy, ignore_eos, json, no_adapter;
    struct arg_list adapter;
    int max_new, min_new, top_k, batch, threads, beams, share_head;
    double temperature, top_p, min_p, penalty, length_penalty;
    uint64_t seed;
    cyc_model *model;
    struct adapters adapters;
    const char **text; /* [n] the prompts */
    const json_t **said; /* [n] their field "adapter"; NULL: none has one */
    float *weights;      /* [n][adapters], where rows have their own */
    int n;
    float *vector;     /* [n * numbers]: what comes beside them; NULL: nothing */
    size_t numbers;
};

/* --- streaming ------------------------------------------------------------------------------------------------------
 */
struct stream {
    const cyc_model *model;
    int32_t *ids;
    size_t n, shown; /* ids so far; bytes of their text already on stdout */
    bool line_open;
};

/* How many bytes at the end may yet become another character: an unfinished sequence, or U+FFFD that stands for one. */
static size_t unfinished(const char *s, size_t n) {
    unsigned cp;
    if (n >= 3 && !memcmp(s + n - 3, "\xEF\xBF\xBD", 3)) return 3;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if ((c & 0xC0) == 0x80) continue;
        return c >= 0xC0 && !utf8_decode(s + n - back, back, &cp) ? back : 0;
    }
    return 0;
}

static void put_text(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F;
        if (control && term_tty()) printf("\\x%02x", c);
        else putchar(c);
    }
}

static void stream_flush(struct stream *s, bool last) {
    char *text = NULL;
    if (cyc_detokenize(s->model, s->ids, s->n, 1, &text)) return;
    size_t n = strlen(text), end = last ? n : n - unfinished(text, n);
    if (end > s->shown) {
        put_text(text + s->shown, end - s->shown);
        s->line_open = text[end - 1] != '\n';
        s->shown = end;
        fflush(stdout);
    }
    cyc_free(text);
}

static int on_token(void *ctx, int row, int32_t id) {
    struct stream *s = ctx;
    (void)row;
    s->ids[s->n++] = id;
    stream_flush(s, false);
    return 0;
}

/* --- one batch ------------------------------------------------------------------------------------------------------
 */
static int encode(const struct request *q, const char *prompt, int32_t **ids, size_t *n) {
    char *turn = NULL;
    int code = q->chat || q->template ? cyc_chat_prompt(q->model, prompt, &turn) : CYC_OK;
    if (!code) code = cyc_tokenize_around(q->model, turn ? turn : prompt, strlen(turn ? turn : prompt), CYC_BEFORE, ids, n);
    cyc_free(turn);
    if (code) return cli_failed(code);
    return *n ? STATUS_OK : cli_bad("generate: the prompt is empty");
}

static double rate(int64_t tokens, double seconds) { return seconds > 0 ? (double)tokens / seconds : 0; }

static int print_row(const struct request *q, const char *prompt, const cyc_generation *g,
                     const cyc_generate_stats *st) {
    char *text = NULL;
    int code = cyc_detokenize(q->model, g->ids, g->n, 1, &text);
    if (code) return cli_failed(code);
    if (q->json) {
        json_t *ids = json_array();
        for (size_t i = 0; i < g->n; i++) json_array_append_new(ids, json_integer(g->ids[i]));
        json_t *decoding = st->decoded_tokens ? json_real(rate(st->decoded_tokens, st->decode_s)) : json_null();
        json_line(json_pack("{s:o, s:o, s:o, s:b, s:o, s:f}", "prompt", json_utf8(prompt), "ids", ids, "text",
                            json_utf8(text), "stopped", g->stopped, "tokens_per_s", decoding,
                            "prefill_tokens_per_s", rate(st->prompt_tokens, st->prefill_s)));
    } else {
        str head = {0};
        text_one_line(&head, prompt, term_width() - 4);
        printf("%s==> %s%s\n", term_dim(), head.p ? head.p : "", term_off());
        put_text(text, strlen(text));
        putchar('\n');
        str_free(&head);
    }
    cyc_free(text);
    return STATUS_OK;
}

static void print_rates(const cyc_generate_stats *st) {
    fflush(stdout);
    fprintf(stderr, "%lld token%s", (long long)st->new_tokens, st->new_tokens == 1 ? "" : "s");
    if (st->decoded_tokens) fprintf(stderr, " at %.1f tokens/s", rate(st->decoded_tokens, st->decode_s));
    fprintf(stderr, "; prompt of %lld tokens at %.1f tokens/s\n", (long long)st->prompt_tokens, rate(st->prompt_tokens, st->prefill_s));
}

/* -1: none of the words. */
static int early_stopping(const char *word) {
    static const char *const words[] = {[CYC_BEAMS_HEURISTIC] = "false", [CYC_BEAMS_EARLY] = "true", [CYC_BEAMS_NEVER] = "never"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(word, words[i])) return i;
    return -1;
}

static int run_batch(const struct request *q, int first, int n, int32_t **ids, size_t *lengths, cyc_generation *out) {
    cyc_generate_options opt = {.max_new_tokens = q->max_new,
                                .temperature = (float)q->temperature,
                                .top_p = (float)q->top_p,
                                .top_k = q->top_k,
                                .min_p = (float)q->min_p,
                                .repetition_penalty = (float)q->penalty,
                                .min_new_tokens = q->min_new,
                                .beams = q->beams,
                                .share_head = q->share_head,
                                .length_penalty = (float)q->length_penalty,
                                .early_stopping = early_stopping(q->early),
                                .seed = q->seed + (uint64_t)first,
                                .ignore_eos = q->ignore_eos,
                                .threads = q->threads,
                                .vectors = q->vector ? q->vector + (size_t)first * q->numbers : NULL,
                                .vectors_n = (size_t)n * q->numbers,
                                .int_activations = !strcmp(q->activations, "int15")};
    struct stream s = {.model = q->model};
    cyc_generate_stats stats = {0};
    int status = STATUS_OK;
    for (int i = 0; i < n && !status; i++) status = encode(q, q->text[first + i], &ids[i], &lengths[i]);
    if (status) return status;
    bool streamed = q->n == 1 && !q->json && q->beams < 2;
    if (streamed) {
        s.ids = calloc((size_t)q->max_new + 1, sizeof *s.ids);
        if (!s.ids) return cli_bad("generate: out of memory");
        opt.on_token = on_token;
        opt.ctx = &s;
    }
    if (q->weights) opt.weights = q->weights + (size_t)first * (size_t)q->adapters.n;
    int code = cyc_generate(q->model, q->adapters.a, (const int32_t *const *)ids, lengths, n, &opt, out, &stats);
    if (streamed) {
        stream_flush(&s, true);
        if (s.line_open || (!code && !s.shown)) putchar('\n');
        free(s.ids);
    }
    if (code) return cli_failed(code);
    for (int i = 0; i < n && !streamed && !status; i++) status = print_row(q, q->text[first + i], &out[i], &stats);
    if (!q->json) print_rates(&stats);
    return status;
}

static int run_batches(const struct request *q) {
    int status = STATUS_OK;
    for (int first = 0; first < q->n && !status; first += q->batch) {
        int n = q->n - first < q->batch ? q->n - first : q->batch;
        int32_t **ids = calloc((size_t)n, sizeof *ids);
        size_t *lengths = calloc((size_t)n, sizeof *lengths);
        cyc_generation *out = calloc((size_t)n, sizeof *out);
        status = ids && lengths && out ? run_batch(q, first, n, ids, lengths, out) : cli_bad("generate: out of memory");
        for (int i = 0; i < n && ids && out; i++) {
            cyc_free(ids[i]);
            cyc_free(out[i].ids);
        }
        free(ids);
        free(lengths);
        free(out);
    }
    return status;
}

/* --- the prompts ----------------------------------------------------------------------------------------------------
 */
/* Replaces each line of a .jsonl file by its "prompt" or "text"; the strings, and said's values, live in *keep. */
static int prompts_of_jsonl(const char *file, struct lines *l, json_t *keep, struct request *q) {
    const json_t **said = calloc((size_t)l->n + 1, sizeof *said);
    bool any = false;
    q->said = said;
    if (!said) return cli_bad("generate: out of memory");
    for (int i = 0; i < l->n; i++) {
        json_t *o = json_loadb(l->v[i], l->len[i], JSON_REJECT_DUPLICATES, NULL);
        const char *s = json_string_value(json_object_get(o, "prompt"));
        if (!s) s = json_string_value(json_object_get(o, "text"));
        json_array_append_new(keep, o ? o : json_null());
        if (!s) return cli_bad("%s:%d: not a JSON object with a \"prompt\" or a \"text\"", file, i + 1);
        l->v[i] = s;
        any |= (said[i] = json_object_get(o, "adapter")) != NULL;
    }
    if (any) return STATUS_OK;
    free(said);
    q->said = NULL;
    return STATUS_OK;
}

/* What each row says of adapters, as weights. */
static int weigh_rows(struct request *q) {
    int status = STATUS_OK;
    if (!q->said) return STATUS_OK;
    q->weights = calloc((size_t)q->n * (size_t)q->adapters.n + 1, sizeof *q->weights);
    if (!q->weights) return cli_bad("generate: out of memory");
    for (int i = 0; i < q->n && !status; i++) {
        char where[4200];
        snprintf(where, sizeof where, "%s:%d", q->file, i + 1);
        if (q->said[i] && !json_is_null(q->said[i]) && !q->adapters.n)
            return cli_bad("%s: names an adapter, but none is given (--adapter NAME=DIR)", where);
        status = adapters_row(&q->adapters, q->said[i], q->no_adapter, where, q->weights + (size_t)i * (size_t)q->adapters.n);
    }
    if (q->adapters.n) return status;
    free(q->weights); /* rows say null, and there is nothing to leave out */
    q->weights = NULL;
    return status;
}

/* --- vectors --------------------------------------------------------------------------------------------------------
 */
static int vectors_of_npy(struct request *q) {
    int64_t rows, columns;
    int code = cyc_npy_read(q->vectors, &q->vector, &rows, &columns);
    if (code) return cli_failed(code);
    q->numbers = (size_t)columns;
    return rows == q->n ? STATUS_OK : cli_bad("%s: %lld rows for %d prompt%s", q->vectors, (long long)rows, q->n, q->n > 1 ? "s" : "");
}

/* The numbers of a list, of lists in it too, in order; NULL to: only counted. *bad: something else is among them. */
static size_t numbers_of(const json_t *list, float *to, bool *bad) {
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (json_is_number(v)) {
            if (to) to[n] = (float)json_number_value(v);
            n++;
        } else if (json_is_array(v)) n += numbers_of(v, to ? to + n : NULL, bad);
        else *bad = true;
    }
    return n;
}

/* Each record's as many as the first's: what the adapter wants is told by cyc_generate. */
static int vectors_of_field(struct request *q, const json_t *records) {
    if (!json_array_size(records)) return cli_bad("generate: --vectors %s names a field of a .jsonl file (--file), or a .npy file", q->vectors);
    for (int i = 0; i < q->n; i++) {
        const json_t *list = json_object_get(json_array_get(records, (size_t)i), q->vectors);
        bool bad = !json_is_array(list);
        const size_t n = numbers_of(list, NULL, &bad);
        if (bad || !n) return cli_bad("%s:%d: no list of numbers in \"%s\"", q->file, i + 1, q->vectors);
        if (!i) q->numbers = n, q->vector = malloc((size_t)q->n * n * sizeof *q->vector);
        if (n != q->numbers) return cli_bad("%s:%d: %zu numbers in \"%s\", line 1 has %zu", q->file, i + 1, n, q->vectors, q->numbers);
        if (!q->vector) return cli_bad("generate: out of memory");
        numbers_of(list, q->vector + (size_t)i * n, &bad);
    }
    return STATUS_OK;
}

static int run_request(struct request *q) {
    struct lines l = {0};
    json_t *keep = json_array();
    int status = STATUS_OK, code = CYC_OK;
    q->text = &q->prompt;
    q->n = 1;
    if (q->file) {
        status = lines_read(q->file, LINES_UTF8 | LINES_NO_NUL, &l);
        if (!status && str_ends(q->file, ".jsonl")) status = prompts_of_jsonl(q->file, &l, keep, q);
        if (!status && l.n == 0) status = cli_bad("%s: no prompt in it", q->file);
        q->text = l.v;
        q->n = l.n;
    }
    for (int i = 0; i < q->n && !status; i++)
        if (!*q->text[i]) status = cli_bad("%s:%d: an empty prompt", q->file ? q->file : "--prompt", i + 1);
    if (!status && q->vectors) status = str_ends(q->vectors, ".npy") ? vectors_of_npy(q) : vectors_of_field(q, keep);
    if (!status) code = cyc_model_open(q->model_path, &q->model);
    if (!status && !code) code = cyc_model_device(q->model, q->device, q->dtype);
    if (!status && !code && q->template) code = cyc_chat_template(q->model, q->template);
    if (code) status = cli_failed(code);
    if (!status) status = adapters_open("generate", q->model, &q->adapter, q->said != NULL, q->no_adapter, &q->adapters);
    if (!status) status = weigh_rows(q);
    if (!status) status = run_batches(q);
    adapters_close(&q->adapters);
    free(q->weights);
    free(q->said);
    if (q->model) cyc_model_close(q->model);
    json_decref(keep);
    lines_free(&l);
    free(q->vector);
    return status;
}

static int check(const struct request *q) {
    if (!q->model_path) return args_missing("generate", "--model");
    if (!q->prompt == !q->file) return cli_bad("generate: give either --prompt or --file");
    if (q->greedy && q->temperature > 0) return cli_bad("generate: --greedy and --temperature contradict each other");
    if (q->temperature == 0 && (q->top_p < 1 || q->top_k || q->min_p > 0))
        return cli_bad("generate: --top-p, --top-k and --min-p have no use without --temperature");
    if (q->min_p < 0 || q->min_p > 1) return cli_bad("generate: --min-p must be between 0 and 1");
    if (q->penalty <= 0) return cli_bad("generate: --repetition-penalty must be above 0");
    if (q->beams > 1 && q->temperature > 0) return cli_bad("generate: --beams take the likeliest, they do not go with --temperature");
    if (early_stopping(q->early) < 0) return cli_bad("generate: --early-stopping must be false, true or never");
    if (q->beams < 2 && (q->length_penalty != 1 || early_stopping(q->early)))
        return cli_bad("generate: --length-penalty and --early-stopping have no use without --beams");
    if (strcmp(q->activations, "f32") != 0 && strcmp(q->activations, "int15") != 0)
        return cli_bad("generate: --activations must be f32 or int15");
    if (q->top_p <= 0 || q->top_p > 1) return cli_bad("generate: --top-p must be above 0 and at most 1");
    return STATUS_OK;
}

int cmd_generate(int argc, char **argv) {
    struct request q = {.max_new = 128, .top_p = 1, .penalty = 1, .beams = 1, .length_penalty = 1, .early = "false", .batch = 16,
                        .activations = "f32", .device = "cpu", .dtype = "auto"};
    const struct arg args[] = {{"--model", ARG_TEXT, &q.model_path, 0}, {"--adapter", ARG_LIST, &q.adapter, 0},
                               {"--prompt", ARG_TEXT, &q.prompt, 0},    {"--file", ARG_TEXT, &q.file, 0},
                               {"--chat", ARG_FLAG, &q.chat, 0},        {"--max-new-tokens", ARG_INT, &q.max_new, 1},
                               {"--greedy", ARG_FLAG, &q.greedy, 0},    {"--temperature", ARG_REAL, &q.temperature, 0},
                               {"--top-p", ARG_REAL, &q.top_p, 0},      {"--top-k", ARG_INT, &q.top_k, 0},
                               {"--seed", ARG_SEED, &q.seed, 0},        {"--ignore-eos", ARG_FLAG, &q.ignore_eos, 0},
                               {"--batch", ARG_INT, &q.batch, 1},       {"--threads", ARG_INT, &q.threads, 0},
                               {"--json", ARG_FLAG, &q.json, 0},        {"--activations", ARG_TEXT, &q.activations, 0},
                               {"--device", ARG_TEXT, &q.device, 0},    {"--dtype", ARG_TEXT, &q.dtype, 0},
                               {"--chat-template", ARG_TEXT, &q.template, 0}, {"--no-adapter", ARG_FLAG, &q.no_adapter, 0},
                               {"--vectors", ARG_TEXT, &q.vectors, 0},  {"--min-p", ARG_REAL, &q.min_p, 0},
                               {"--repetition-penalty", ARG_REAL, &q.penalty, 0}, {"--min-new-tokens", ARG_INT, &q.min_new, 0},
                               {"--beams", ARG_INT, &q.beams, 1},       {"--length-penalty", ARG_REAL, &q.length_penalty, -100},
                               {"--early-stopping", ARG_TEXT, &q.early, 0}, {"--share-head", ARG_INT, &q.share_head, 0},
                               {0}};
    int status = args_parse("generate", argc, argv, args);
    if (status < 0 && !(status = check(&q))) status = run_request(&q);
    free(q.adapter.v);
    return status;
}
