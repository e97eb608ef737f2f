/* `cyclora embed`: lines in, vectors out: the mean of the rows that the last layer makes of a line, as sentence encoders
 * (MiniLM and others of BERT's kind) are used. */
#include "args.h"
#include "cli.h"
#include <cyclora/cyclora.h>
#include <stdlib.h>

const char help_embed[] =
    "A vector for each line of a file: the mean over its tokens of the model's last rows. Meant for encoders (BERT,\n"
    "MiniLM); decoders answer too. Each line gets what the model expects around a text ([CLS] ... [SEP]).\n"
    "\n"
    "Usage: cyclora embed --model M --file F [--raw]\n"
    "\n"
    "  --model M    a .gguf file or a Hugging Face folder\n"
    "  --file F     UTF-8 text; lines end at \\n alone; - is stdin\n"
    "  --raw        the mean as it is; else it is scaled to length 1, so that a dot product is the cosine\n"
    "\n"
    "Examples:\n"
    "  cyclora embed --model cache/minilm --file lines.txt > vectors.jsonl\n"
    "\n"
    "Writes a JSON object a line to stdout, {\"text\", \"tokens\", \"embedding\": [...]}. Exit status: 0; 2 for a wrong\n"
    "option, model or line (named); 1 otherwise.\n";

static int embed_line(cyc_model *m, const char *text, size_t n, bool raw, float *vector) {
    int32_t *ids = NULL;
    size_t count = 0;
    int code = cyc_tokenize_around(m, text, n, CYC_BEFORE | CYC_AFTER, &ids, &count);
    if (!code) code = cyc_embed_ids(m, NULL, ids, count, !raw, vector);
    cyc_free(ids);
    if (code) return cli_failed(code);
    json_t *list = json_array();
    for (int c = 0; c < cyc_width(m); c++) json_array_append_new(list, json_number(vector[c]));
    json_line(json_pack("{s:s%, s:I, s:o}", "text", text, n, "tokens", (json_int_t)count, "embedding", list));
    return STATUS_OK;
}

int cmd_embed(int argc, char **argv) {
    const char *model = NULL, *file = NULL;
    bool raw = false;
    const struct arg args[] = {{"--model", ARG_TEXT, &model, 0}, {"--file", ARG_TEXT, &file, 0}, {"--raw", ARG_FLAG, &raw, 0}, {0}};
    int status = args_parse("embed", argc, argv, args);
    if (status >= 0) return status;
    if (!model) return args_missing("embed", "--model");
    if (!file) return args_missing("embed", "--file");
    struct lines l;
    cyc_model *m = NULL;
    status = lines_read(file, LINES_UTF8, &l);
    int code = status ? CYC_OK : cyc_model_open(model, &m);
    if (code) status = cli_failed(code);
    float *vector = status ? NULL : malloc((size_t)cyc_width(m) * sizeof *vector);
    if (!status && !vector) status = cli_bad("embed: out of memory");
    for (int i = 0; i < l.n && !status; i++) status = embed_line(m, l.v[i], l.len[i], raw, vector);
    free(vector);
    if (m) cyc_model_close(m);
    lines_free(&l);
    return status;
}
