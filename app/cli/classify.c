/* `cyclora classify`: texts in; classes, numbers, or words' tags out, by an adapter that holds a head. */
#include "args.h"
#include "texts.h"
#include <stdlib.h>

const char help_classify[] =
    "Tells the class of each text of a file, its numbers, or the tags of its words, by an adapter with such a head\n"
    "(objective: classification, regression, token_classification; PEFT's task types SEQ_CLS and TOKEN_CLS).\n"
    "\n"
    "Usage: cyclora classify --model M --adapter DIR --data F [--field NAME] [--max-length N] [--device D] [--dtype T]\n"
    "\n"
    "  --model M        the base: a .gguf file or a Hugging Face folder\n"
    "  --adapter DIR    the adapter; its labels.json names the classes (LABEL_0, LABEL_1, ... without one)\n"
    "  --data F         plain lines, JSONL, a JSON array, CSV or TSV with a header; .gz and .zst too; for tags CoNLL files as\n"
    "                   well, and a text's words are those between white space\n"
    "  --field NAME     the field of the text (text; of lists of words: tokens, words or text); --format F: the kind of file,\n"
    "                   where its name does not tell\n"
    "  --max-length N   longer texts lose their end (1024, or the model's context)\n"
    "  --device D, --dtype T  cpu (the default), cuda, or auto; float32, bfloat16, float16, or auto\n"
    "\n"
    "Examples:\n"
    "  cyclora classify --model base.gguf --adapter run/adapter --data test.jsonl > classes.jsonl\n"
    "  cyclora classify --model base.gguf --adapter run/adapter --data lines.txt | jq -r .label\n"
    "\n"
    "Writes a JSON object a text to stdout: {\"text\", \"label\", \"probabilities\": {class: p, ...}}; {\"text\", \"label\": number}, or\n"
    "a list of numbers; {\"tokens\", \"tags\", \"probabilities\"}, three lists, with null for a word beyond --max-length.\n"
    "Exit status: 0; 2 for a wrong option, model, adapter or file (named with its line); 1 otherwise.\n";

static void print_classes(const cyc_adapter *a, const char *text, const float *p) {
    json_t *all = json_object();
    int best = 0;
    for (int k = 0; k < cyc_classes(a); k++) {
        if (p[k] > p[best]) best = k;
        json_object_set_new(all, cyc_class_name(a, k), json_number(p[k]));
    }
    json_line(json_pack("{s:s, s:s, s:o}", "text", text, "label", cyc_class_name(a, best), "probabilities", all));
}

static void print_numbers(const cyc_adapter *a, const char *text, const float *x) {
    json_t *all = json_array();
    for (int k = 0; k < cyc_classes(a); k++) json_array_append_new(all, json_number(x[k]));
    json_line(json_pack("{s:s, s:O}", "text", text, "label", cyc_classes(a) == 1 ? json_array_get(all, 0) : all));
    json_decref(all);
}

static int classify(const struct texts_ask *q, cyc_model *m, cyc_adapter *a, const cyc_texts *t) {
    float *p = malloc(((size_t)cyc_texts_count(t) * (size_t)cyc_classes(a) + 1) * sizeof *p);
    if (!p) return cli_bad("classify: out of memory");
    int code = cyc_classify_texts(m, a, t, q->max_length, p);
    for (int i = 0; i < cyc_texts_count(t) && !code; i++)
        (cyc_head(a) == CYC_HEAD_NUMBERS ? print_numbers : print_classes)(a, cyc_text_at(t, i), p + (size_t)i * (size_t)cyc_classes(a));
    free(p);
    return code ? cli_failed(code) : STATUS_OK;
}

static void print_tags(const cyc_adapter *a, const cyc_texts *t, int i, const int32_t *tag, const float *p) {
    json_t *words = json_array(), *tags = json_array(), *all = json_array();
    for (int k = 0; k < cyc_words_count(t, i); k++) {
        json_array_append_new(words, json_string(cyc_word_at(t, i, k)));
        json_array_append_new(tags, tag[k] < 0 ? json_null() : json_string(cyc_class_name(a, tag[k])));
        json_array_append_new(all, tag[k] < 0 ? json_null() : json_number(p[k]));
    }
    json_line(json_pack("{s:o, s:o, s:o}", "tokens", words, "tags", tags, "probabilities", all));
}

static int tag(const struct texts_ask *q, cyc_model *m, cyc_adapter *a, const cyc_texts *t) {
    size_t n = 0;
    for (int i = 0; i < cyc_texts_count(t); i++) n += (size_t)cyc_words_count(t, i);
    int32_t *tags = malloc(n * sizeof *tags + 1);
    float *p = malloc(n * sizeof *p + 1);
    int code = tags && p ? cyc_tag_words(m, a, t, q->max_length, tags, p) : CYC_OK, status = code ? cli_failed(code)
                                                                                             : tags && p
                                                                                                 ? STATUS_OK
                                                                                                 : cli_bad("classify: out of memory");
    size_t at = 0;
    for (int i = 0; i < cyc_texts_count(t) && !status; at += (size_t)cyc_words_count(t, i++)) print_tags(a, t, i, tags + at, p + at);
    free(tags);
    free(p);
    return status;
}

int cmd_classify(int argc, char **argv) {
    struct texts_ask q = {.device = "cpu", .dtype = "auto", .words = true};
    const struct arg args[] = {{"--model", ARG_TEXT, &q.model, 0},   {"--adapter", ARG_TEXT, &q.adapter, 0}, {"--data", ARG_TEXT, &q.data, 0},
                               {"--format", ARG_TEXT, &q.format, 0}, {"--field", ARG_TEXT, &q.field, 0},     {"--device", ARG_TEXT, &q.device, 0},
                               {"--dtype", ARG_TEXT, &q.dtype, 0},   {"--max-length", ARG_INT, &q.max_length, 1}, {0}};
    int status = args_parse("classify", argc, argv, args);
    if (status >= 0) return status;
    if (!q.model) return args_missing("classify", "--model");
    if (!q.adapter) return args_missing("classify", "--adapter");
    if (!q.data) return args_missing("classify", "--data");
    struct texts_open o;
    const int code = texts_begin(&q, &o);
    status = code ? cli_failed(code) : (cyc_head(o.a) == CYC_HEAD_TAGS ? tag : classify)(&q, o.m, o.a, o.t);
    texts_end(&o);
    return status;
}
