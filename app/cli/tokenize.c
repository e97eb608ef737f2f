/* `cyclora tokenize`: lines in, ids out. The lines are split at \n alone, so a \r, a tab or any other character is part
 * of the text and is tokenised. */
#include "args.h"
#include "cli.h"
#include <cyclora/cyclora.h>
#include <stdio.h>

const char help_tokenize[] =
    "Token ids of each line of a file, as the model's own tokenizer cuts it. Special tokens written in the text are\n"
    "recognised; none is added, unless asked for.\n"
    "\n"
    "Usage: cyclora tokenize --model M --file F [--around] [--json]\n"
    "\n"
    "  --model M    a .gguf file, a Hugging Face folder, or a tokenizer.json\n"
    "  --file F     UTF-8 text; lines end at \\n alone; - is stdin\n"
    "  --around     with what the model expects around a text: BOS, [CLS] ... [SEP], T5's </s>\n"
    "  --json       {\"text\": ..., \"ids\": [...]} per line; else the ids, separated by spaces\n"
    "\n"
    "Examples:\n"
    "  cyclora tokenize --model SmolLM2-135M-Instruct.Q4_1.gguf --file lines.txt --json\n"
    "  printf 'How long is this?' | cyclora tokenize --model base/ --file - | wc -w\n"
    "\n"
    "Writes to stdout alone. Exit status: 0; 2 for an unreadable model or a line that is not UTF-8 (named); 1 "
    "otherwise.\n";

static int print_line(const cyc_model *m, const char *text, size_t n, bool around, bool json) {
    int32_t *ids;
    size_t count;
    int code = cyc_tokenize_around(m, text, n, around ? CYC_BEFORE | CYC_AFTER : 0, &ids, &count);
    if (code) return cli_failed(code);
    if (json) {
        json_t *list = json_array();
        for (size_t i = 0; i < count; i++) json_array_append_new(list, json_integer(ids[i]));
        json_line(json_pack("{s:s%, s:o}", "text", text, n, "ids", list));
    } else {
        for (size_t i = 0; i < count; i++) printf(i ? " %d" : "%d", ids[i]);
        putchar('\n');
    }
    cyc_free(ids);
    return STATUS_OK;
}

int cmd_tokenize(int argc, char **argv) {
    const char *model = NULL, *file = NULL;
    bool json = false, around = false;
    const struct arg args[] = {{"--model", ARG_TEXT, &model, 0},
                               {"--file", ARG_TEXT, &file, 0},
                               {"--around", ARG_FLAG, &around, 0},
                               {"--json", ARG_FLAG, &json, 0},
                               {0}};
    int status = args_parse("tokenize", argc, argv, args);
    if (status >= 0) return status;
    if (!model) return args_missing("tokenize", "--model");
    if (!file) return args_missing("tokenize", "--file");
    struct lines l;
    cyc_model *m = NULL;
    status = lines_read(file, LINES_UTF8, &l);
    int code = status ? CYC_OK : cyc_tokenizer_open(model, &m);
    if (code) status = cli_failed(code);
    for (int i = 0; i < l.n && !status; i++) status = print_line(m, l.v[i], l.len[i], around, json);
    if (m) cyc_model_close(m);
    lines_free(&l);
    return status;
}
