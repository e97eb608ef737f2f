/* `cyclora inspect`: whatever the library knows of a path, as aligned lines. It knows no field by name but "tensors"
 * and the sizes: what the library adds to its answer is shown without a change here. */
#include "args.h"
#include "cli.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_inspect[] =
    "Shows what a path holds: a model (.gguf file or Hugging Face folder), an adapter folder, a checkpoint, a run\n"
    "folder, or any safetensors file. Of an adapter also which of cyclora, PEFT, vLLM, llama.cpp and mlx-lm will take it,\n"
    "with what flag or export, or why not.\n"
    "\n"
    "Usage: cyclora inspect PATH [--model BASE] [--json]\n"
    "\n"
    "  --model BASE of an adapter or run: does it fit this base (names, shapes, the hash that its run noted)?\n"
    "  --json       everything as one JSON object\n"
    "\n"
    "Examples:\n"
    "  cyclora inspect SmolLM2-135M-Instruct.Q4_1.gguf\n"
    "  cyclora inspect out/A --model SmolLM2-135M-Instruct.Q4_1.gguf\n"
    "  cyclora inspect out/A --json | jq '.tensors | length'\n"
    "\n"
    "Writes to stdout alone. Exit status: 0; 2 for a path that is none of these or is damaged; 1 otherwise.\n";

static void scalar(const json_t *v, bool bytes, str *out) {
    if (json_is_string(v)) text_one_line(out, json_string_value(v), 200);
    else if (json_is_boolean(v)) str_adds(out, json_is_true(v) ? "yes" : "no");
    else if (bytes && json_is_number(v))
        str_addf(out, "%.0f (%s)", json_number_value(v), show_bytes(json_number_value(v)));
    else if (json_is_integer(v)) str_addf(out, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v)) str_addf(out, "%.6g", json_real_value(v));
    else if (json_is_null(v)) str_adds(out, "-");
}

static void value(const json_t *v, bool bytes, str *out) {
    size_t i, most = 24;
    const json_t *item;
    if (json_is_object(v)) str_adds(out, "{}"); /* only an empty one comes here */
    if (!json_is_array(v)) {
        scalar(v, bytes, out);
        return;
    }
    str_addc(out, '[');
    json_array_foreach(v, i, item) {
        if (i == most) break;
        if (i) str_adds(out, ", ");
        value(item, bytes, out);
    }
    if (json_array_size(v) > most) str_addf(out, ", ... %zu in all", json_array_size(v));
    str_addc(out, ']');
}

static bool is_table(const json_t *v) { return json_is_array(v) && json_is_object(json_array_get(v, 0)); }
static bool nests(const json_t *v) { return is_table(v) || json_object_size(v) > 0; }
static bool is_size(const char *key) { return strstr(key, "bytes") != NULL; }

static void print_table(const json_t *rows, const char *indent) {
    struct table t = {0};
    size_t i;
    const char *key;
    const json_t *row, *v;
    char heads[TABLE_COLUMNS][40];
    int n = 0;
    json_object_foreach(json_array_get(rows, 0), key, v) {
        if (n == TABLE_COLUMNS) break;
        snprintf(heads[n], sizeof heads[n], "%s%s", json_is_number(v) ? ">" : "", key);
        table_head(&t, heads[n++]);
    }
    json_array_foreach(rows, i, row) {
        for (int c = 0; c < n; c++) {
            str cell = {0};
            value(json_object_get(row, heads[c] + (*heads[c] == '>')), false, &cell);
            table_text(&t, cell.p ? cell.p : "");
            str_free(&cell);
        }
    }
    table_print(&t, indent);
}

/* Plain lines first, aligned; then what nests. */
static void print_object(const json_t *o, int depth) {
    char indent[64];
    const char *key;
    const json_t *v;
    int width = 0;
    snprintf(indent, sizeof indent, "%*s", depth * 2 < 60 ? depth * 2 : 60, "");
    json_object_foreach((json_t *)o, key, v) {
        int n = (int)strlen(key);
        if (!nests(v) && n > width) width = n;
    }
    json_object_foreach((json_t *)o, key, v) {
        str text = {0};
        if (nests(v)) continue;
        value(v, is_size(key), &text);
        printf("%s%s%s:%s%*s %s\n", indent, term_dim(), key, term_off(), width - (int)strlen(key), "",
               text.p ? text.p : "");
        str_free(&text);
    }
    json_object_foreach((json_t *)o, key, v) {
        if (!nests(v)) continue;
        printf("%s%s%s%s\n", indent, term_bold(), key, term_off());
        char deeper[68];
        snprintf(deeper, sizeof deeper, "%s  ", indent);
        if (is_table(v)) print_table(v, deeper);
        else print_object(v, depth + 1);
    }
}

int cmd_inspect(int argc, char **argv) {
    const char *path = NULL, *model = NULL;
    bool json = false;
    char *text = NULL;
    const struct arg args[] = {{"PATH", ARG_TEXT, &path, 0}, {"--model", ARG_TEXT, &model, 0}, {"--json", ARG_FLAG, &json, 0}, {0}};
    int status = args_parse("inspect", argc, argv, args);
    if (status >= 0) return status;
    if (!path) return args_missing("inspect", "PATH");
    int code = model ? cyc_inspect_on(path, model, &text) : cyc_inspect(path, &text);
    if (code) return cli_failed(code);
    json_t *o = json_take(text);
    if (json) {
        json_line(o);
        return STATUS_OK;
    }
    print_object(o, 0);
    json_decref(o);
    return STATUS_OK;
}
