/* `cyclora data check`: what is wrong with data files, each with its line and what to do. */
#include "data.h"
#include "term.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

const char help_data_check[] =
    "Reads data files record by record and lists what is wrong, with file, line and what to do: before a run, not in it.\n"
    "The shape of a file is what most of its records have.\n"
    "\n"
    "Usage: cyclora data check FILE... [--model PATH] [--max-length N] [--format F] [--field NAME] [--limit N] [--json]\n"
    "\n"
    "  FILE             JSONL, a JSON array, CSV or TSV with a header, plain lines; also .gz and .zst\n"
    "  --model PATH     its tokenizer and chat template are tried on each record: lengths, control tokens, what is learnt\n"
    "  --max-length N   where rows would be cut (1024)\n"
    "  --format F       text, messages, prompt_completion, alpaca, sharegpt; lines, jsonl, json, csv, tsv (found by itself)\n"
    "  --field NAME     the field of a text; two with a comma: of a prompt and its completion\n"
    "  --limit N        how many troubles are listed (20); 0 = all. All are counted\n"
    "  --json           {\"files\": [...], \"rows\", \"bad\", \"warned\", \"kinds\": [...], \"troubles\": [{\"path\", \"line\", \"kind\",\n"
    "                   \"bad\", \"what\"}]} on one line\n"
    "\n"
    "Bad: record (unreadable, a missing or empty field, an unknown role), roles (turns out of order), control (text that ends\n"
    "a turn), row (refused by the chat template, nothing to learn). Warned of: long (its end is cut), cut (an answer that\n"
    "stops midway), symbols (U+FFFD, control characters).\n"
    "\n"
    "Examples:\n"
    "  cyclora data check chats.jsonl.gz --model SmolLM2-135M-Instruct.Q4_1.gguf --max-length 512\n"
    "  cyclora data check *.jsonl --limit 0 --json | jq .troubles\n"
    "\n"
    "Writes to stdout. Exit status: 0 where no record is bad; 2 where one is, or something asked for is wrong; 1 otherwise.\n";

static void print_file(const json_t *f) {
    const double rows = fmax(json_num(f, "rows"), 1);
    const json_t *field;
    size_t i;
    printf("%s%s%s  %s, shape %s, %.3g MB\n", term_bold(), json_text(f, "path"), term_off(), json_text(f, "container"),
           json_text(f, "shape"), json_num(f, "bytes") / 1e6);
    printf("  %.0f records, %.0f of that shape (%.4g %%)", json_num(f, "rows"), json_num(f, "fit"), 100 * json_num(f, "fit") / rows);
    json_array_foreach(json_object_get(f, "fields"), i, field) {
        const double share = json_num(field, "rows") / rows;
        str name = {0};
        text_one_line(&name, json_text(field, "name"), 40);
        printf(i ? ", %s" : "\n  fields: %s", name.p ? name.p : "");
        if (share < 1) printf(" (%.3g %%)", 100 * share);
        str_free(&name);
    }
    putchar('\n');
    if (json_is_true(json_object_get(f, "byte_order_mark"))) puts("  it begins with a byte order mark, which is skipped");
    if (json_num(f, "crlf") > 0) printf("  %.0f lines end in CR LF; the CR is dropped\n", json_num(f, "crlf"));
}

static void print_check(const json_t *o) {
    const json_t *v, *troubles = json_object_get(o, "troubles");
    double listed = (double)json_array_size(troubles), all = 0;
    size_t i;
    json_array_foreach(json_object_get(o, "files"), i, v) print_file(v);
    json_array_foreach(troubles, i, v) {
        str what = {0};
        text_one_line(&what, json_text(v, "what"), 0);
        printf("%s:%.0f: %s: %s\n", json_text(v, "path"), json_num(v, "line"), json_is_true(json_object_get(v, "bad")) ? "bad" : "warning",
               what.p ? what.p : "");
        str_free(&what);
    }
    json_array_foreach(json_object_get(o, "kinds"), i, v) all += json_num(v, "count");
    if (all > listed) printf("... and %.0f more (--limit 0 lists all)\n", all - listed);
    printf("%.0f of %.0f records are bad, %.0f more are warned of", json_num(o, "bad"), json_num(o, "rows"), json_num(o, "warned"));
    json_array_foreach(json_object_get(o, "kinds"), i, v) printf("%s %s %.0f", i ? "," : ":", json_text(v, "kind"), json_num(v, "count"));
    putchar('\n');
}

int cmd_data_check(int argc, char **argv) {
    struct data_in in = {0};
    int limit = 20;
    bool json = false;
    const struct arg args[] = {{"FILE", ARG_LIST, &in.files, 0},
                               {"--model", ARG_TEXT, &in.model, 0},
                               {"--max-length", ARG_INT, &in.max_length, 2},
                               {"--format", ARG_TEXT, &in.format, 0},
                               {"--field", ARG_TEXT, &in.field, 0},
                               {"--limit", ARG_INT, &limit, 0},
                               {"--json", ARG_FLAG, &json, 0},
                               {0}};
    int status = args_parse("data check", argc, argv, args);
    char *text = NULL;
    cyc_data_request q;
    if (status < 0) status = data_request(&in, "data check", &q);
    if (status < 0) {
        int code = cyc_data_check(&q, limit, &text);
        status = code ? cli_failed(code) : STATUS_OK;
    }
    data_in_free(&in);
    if (!text) return status;
    json_t *o = json_take(text);
    if (json_num(o, "bad") > 0) status = STATUS_USAGE;
    if (!json) print_check(o);
    json ? json_line(o) : json_decref(o);
    return status;
}
