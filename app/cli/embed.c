/* `cyclora embed`: texts in, vectors out: what feature-based transfer and sentence encoders (MiniLM and others of BERT's kind) take of a
 * model. */
#include "args.h"
#include "cli.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_embed[] =
    "A vector for each text of a file, made of the model's last rows of it: their mean (sentence encoders: BERT, MiniLM), the\n"
    "last token's (decoders), or the first's ([CLS]). Each text gets what the model expects around it ([CLS] ... [SEP]).\n"
    "\n"
    "Usage: cyclora embed --model M --data F [--out X.npy|X.safetensors] [--pooling P] [--raw] [--adapter DIR]\n"
    "                     [--field NAME] [--max-length N]\n"
    "\n"
    "  --model M        a .gguf file or a Hugging Face folder; --adapter DIR: with this adapter on it\n"
    "  --data F         plain lines, JSONL, a JSON array, CSV or TSV with a header; .gz and .zst too (--file F is the same)\n"
    "  --out X          one matrix [texts, width] of float32: X.npy, or X.safetensors (tensor \"embeddings\"); without it a JSON\n"
    "                   object a text on stdout, {\"text\", \"embedding\": [...]}\n"
    "  --pooling P      mean (the default), last, cls\n"
    "  --raw            the vector as it is; else it is scaled to length 1, so that a dot product is the cosine\n"
    "  --field NAME     the field of the text (text); --format F: the kind of file, where its name does not tell\n"
    "  --max-length N   longer texts lose their end (1024, or the model's context)\n"
    "  --device D, --dtype T  cpu (the default), cuda, or auto; vectors are computed in float32 on any\n"
    "\n"
    "Examples:\n"
    "  cyclora embed --model cache/minilm --data lines.txt > vectors.jsonl\n"
    "  cyclora embed --model base.gguf --data train.jsonl --pooling last --raw --out train.npy\n"
    "\n"
    "Exit status: 0; 2 for a wrong option, model or file (named with its line); 1 otherwise.\n";

struct asked {
    const char *model, *adapter, *data, *format, *field, *pooling, *device, *dtype, *out;
    int max_length;
    bool raw;
};

static void print_vector(const char *text, const float *x, int width) {
    json_t *list = json_array();
    for (int c = 0; c < width; c++) json_array_append_new(list, json_number(x[c]));
    json_line(json_pack("{s:s, s:o}", "text", text, "embedding", list));
}

static int embed(const struct asked *q, int pooling, cyc_model *m, cyc_adapter *a, const cyc_texts *t) {
    const int n = cyc_texts_count(t), width = cyc_width(m);
    float *x = malloc((size_t)n * (size_t)width * sizeof *x + 1);
    if (!x) return cli_bad("embed: out of memory");
    int code = cyc_embed_texts(m, a, t, pooling, !q->raw, q->max_length, x);
    if (!code && q->out) code = cyc_matrix_write(q->out, x, n, width);
    for (int i = 0; i < n && !code && !q->out; i++) print_vector(cyc_text_at(t, i), x + (size_t)i * (size_t)width, width);
    free(x);
    if (!code && q->out) printf("%d texts, width %d: %s\n", n, width, q->out);
    return code ? cli_failed(code) : STATUS_OK;
}

static int pooling_of(const char *word, int *pooling) {
    static const char *const words[] = {"mean", "last", "cls"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(word, words[i])) return *pooling = (const int[]){CYC_POOL_MEAN, CYC_POOL_LAST, CYC_POOL_FIRST}[i], STATUS_OK;
    return cli_bad("embed: --pooling '%s': mean, last or cls", word);
}

int cmd_embed(int argc, char **argv) {
    struct asked q = {.pooling = "mean", .device = "cpu", .dtype = "auto"};
    const struct arg args[] = {{"--model", ARG_TEXT, &q.model, 0},     {"--data", ARG_TEXT, &q.data, 0},     {"--file", ARG_TEXT, &q.data, 0}, {"--out", ARG_TEXT, &q.out, 0},
                               {"--pooling", ARG_TEXT, &q.pooling, 0}, {"--raw", ARG_FLAG, &q.raw, 0},       {"--adapter", ARG_TEXT, &q.adapter, 0},
                               {"--format", ARG_TEXT, &q.format, 0},   {"--field", ARG_TEXT, &q.field, 0},   {"--max-length", ARG_INT, &q.max_length, 1},
                               {"--device", ARG_TEXT, &q.device, 0},   {"--dtype", ARG_TEXT, &q.dtype, 0},   {0}};
    int status = args_parse("embed", argc, argv, args), pooling;
    if (status >= 0) return status;
    if (!q.model) return args_missing("embed", "--model");
    if (!q.data) return args_missing("embed", "--data");
    if ((status = pooling_of(q.pooling, &pooling))) return status;
    cyc_model *m = NULL;
    cyc_adapter *a = NULL;
    cyc_texts *t = NULL;
    int code = cyc_texts_open(q.data, q.format, q.field, &t);
    if (!code) code = cyc_model_open(q.model, &m);
    if (!code) code = cyc_model_device(m, q.device, q.dtype);
    if (!code && q.adapter) code = cyc_adapter_open(m, q.adapter, &a);
    status = code ? cli_failed(code) : embed(&q, pooling, m, a, t);
    if (a) cyc_adapter_close(a);
    if (m) cyc_model_close(m);
    cyc_texts_close(t);
    return status;
}
