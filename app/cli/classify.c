/* `cyclora classify`: texts in, classes out, by an adapter that holds a classifier. */
#include "args.h"
#include "cli.h"
#include <cyclora/cyclora.h>
#include <stdlib.h>

const char help_classify[] =
    "Tells the class of each text of a file, by an adapter with a classifier (objective: classification; PEFT's task type\n"
    "SEQ_CLS).\n"
    "\n"
    "Usage: cyclora classify --model M --adapter DIR --data F [--field NAME] [--max-length N] [--device D] [--dtype T]\n"
    "\n"
    "  --model M        the base: a .gguf file or a Hugging Face folder\n"
    "  --adapter DIR    the adapter; its labels.json names the classes (LABEL_0, LABEL_1, ... without one)\n"
    "  --data F         plain lines, JSONL, a JSON array, CSV or TSV with a header; .gz and .zst too\n"
    "  --field NAME     the field of the text (text); --format F: the kind of file, where its name does not tell\n"
    "  --max-length N   longer texts lose their end (1024, or the model's context)\n"
    "  --device D, --dtype T  cpu (the default), cuda, or auto; float32, bfloat16, float16, or auto\n"
    "\n"
    "Examples:\n"
    "  cyclora classify --model base.gguf --adapter run/adapter --data test.jsonl > classes.jsonl\n"
    "  cyclora classify --model base.gguf --adapter run/adapter --data lines.txt | jq -r .label\n"
    "\n"
    "Writes a JSON object a text to stdout, {\"text\", \"label\", \"probabilities\": {class: p, ...}}. Exit status: 0; 2 for a\n"
    "wrong option, model, adapter or file (named with its line); 1 otherwise.\n";

struct asked {
    const char *model, *adapter, *data, *format, *field, *device, *dtype;
    int max_length;
};

static void print_classes(const cyc_adapter *a, const char *text, const float *p) {
    json_t *all = json_object();
    int best = 0;
    for (int k = 0; k < cyc_classes(a); k++) {
        if (p[k] > p[best]) best = k;
        json_object_set_new(all, cyc_class_name(a, k), json_number(p[k]));
    }
    json_line(json_pack("{s:s, s:s, s:o}", "text", text, "label", cyc_class_name(a, best), "probabilities", all));
}

static int classify(const struct asked *q, cyc_model *m, cyc_adapter *a, const cyc_texts *t) {
    float *p = malloc(((size_t)cyc_texts_count(t) * (size_t)cyc_classes(a) + 1) * sizeof *p);
    if (!p) return cli_bad("classify: out of memory");
    int code = cyc_classify_texts(m, a, t, q->max_length, p);
    for (int i = 0; i < cyc_texts_count(t) && !code; i++) print_classes(a, cyc_text_at(t, i), p + (size_t)i * (size_t)cyc_classes(a));
    free(p);
    return code ? cli_failed(code) : STATUS_OK;
}

int cmd_classify(int argc, char **argv) {
    struct asked q = {.device = "cpu", .dtype = "auto"};
    const struct arg args[] = {{"--model", ARG_TEXT, &q.model, 0},   {"--adapter", ARG_TEXT, &q.adapter, 0}, {"--data", ARG_TEXT, &q.data, 0},
                               {"--format", ARG_TEXT, &q.format, 0}, {"--field", ARG_TEXT, &q.field, 0},     {"--device", ARG_TEXT, &q.device, 0},
                               {"--dtype", ARG_TEXT, &q.dtype, 0},   {"--max-length", ARG_INT, &q.max_length, 1}, {0}};
    int status = args_parse("classify", argc, argv, args);
    if (status >= 0) return status;
    if (!q.model) return args_missing("classify", "--model");
    if (!q.adapter) return args_missing("classify", "--adapter");
    if (!q.data) return args_missing("classify", "--data");
    cyc_model *m = NULL;
    cyc_adapter *a = NULL;
    cyc_texts *t = NULL;
    int code = cyc_texts_open(q.data, q.format, q.field, &t);
    if (!code) code = cyc_model_open(q.model, &m);
    if (!code) code = cyc_model_device(m, q.device, q.dtype);
    if (!code) code = cyc_adapter_open(m, q.adapter, &a);
    status = code ? cli_failed(code) : classify(&q, m, a, t);
    if (a) cyc_adapter_close(a);
    if (m) cyc_model_close(m);
    cyc_texts_close(t);
    return status;
}
