/* `cyclora recipes` and `cyclora init`: the ready configurations, listed and written. */
#include "args.h"
#include "cli.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_recipes[] =
    "Lists what cyclora can do, a line each, with the page that says when to do it and when not.\n"
    "\n"
    "Usage: cyclora recipes [--json]\n"
    "\n"
    "  --json   [{\"name\", \"about\", \"page\", \"command\", \"config\"}]; config: is there a configuration for `cyclora init`?\n"
    "\n"
    "Examples:\n"
    "  cyclora recipes\n"
    "  cyclora recipes --json | jq -r '.[] | select(.config) | .name'\n"
    "\n"
    "Writes to stdout alone. Exit status: 0.\n";

const char help_init[] =
    "Writes a configuration by a recipe (`cyclora recipes` lists them): every key with a comment that says why it has its\n"
    "value. Without --model and --data it is the recipe's example, with the commands that fetch its model and texts.\n"
    "\n"
    "Usage: cyclora init RECIPE [-o FILE] [--model M] [--data F]... [--eval F] [--test F] [--pairs F] [--set key=value]...\n"
    "\n"
    "  RECIPE           a name of the list: sft, macct, classification, ...\n"
    "  -o FILE          where to (run.yaml); a file that exists is not written over\n"
    "  --model M        a .gguf file or a Hugging Face folder\n"
    "  --data F         the training data; given more than once: one side's files, or in cycles each side's, in their order\n"
    "  --eval F         held-out data; --test F: looked at once, at the end; --pairs F: the pairs that cycles begin with.\n"
    "                   With --data, what is not given of these is commented out\n"
    "  --set key=value  another value for a key that the recipe sets\n"
    "  --json           {\"recipe\", \"out\", \"page\", \"command\", \"missing\"}; missing: files that it names and that are not here\n"
    "\n"
    "Examples:\n"
    "  cyclora init sft --model base.gguf --data answers.jsonl && cyclora train run.yaml\n"
    "  cyclora init macct --model base.gguf --data formal.jsonl --data casual.jsonl --pairs few.jsonl -o style.yaml\n"
    "  cyclora init full --set learning_rate=1e-5 -o full.yaml\n"
    "\n"
    "Exit status: 0; 2 for an unknown recipe, a key that it does not set, or values that contradict each other; 1 otherwise.\n";

static void print_recipes(const json_t *list) {
    size_t i;
    const json_t *r;
    json_array_foreach(list, i, r) {
        const bool config = json_is_true(json_object_get(r, "config"));
        printf("%s%-21s%s%s\n", term_bold(), json_text(r, "name"), term_off(), json_text(r, "about"));
        printf("%21s%s%s%s%s%s\n", "", term_dim(), json_text(r, "page"),
               config ? "" : "; no configuration: ", config ? "" : json_text(r, "command"), term_off());
    }
    printf("\n`cyclora init RECIPE` writes a recipe's configuration, with a reason beside each key.\n");
}

int cmd_recipes(int argc, char **argv) {
    bool json = false;
    const struct arg args[] = {{"--json", ARG_FLAG, &json, 0}, {0}};
    int status = args_parse("recipes", argc, argv, args);
    if (status >= 0) return status;
    char *text = NULL;
    int code = cyc_recipes(&text);
    if (code) return cli_failed(code);
    json_t *list = json_take(text);
    if (!json) print_recipes(list);
    json ? json_line(list) : json_decref(list);
    return STATUS_OK;
}

static void print_written(const json_t *o) {
    size_t i;
    const json_t *m, *missing = json_object_get(o, "missing");
    const char *out = json_text(o, "out");
    printf("%s%s%s  recipe %s; %s says when to use it\n", term_bold(), out, term_off(), json_text(o, "recipe"), json_text(o, "page"));
    json_array_foreach(missing, i, m) printf("  not here: %s\n", json_string_value(m));
    if (json_array_size(missing)) printf("  the head of %s says how to fetch the example's; --model and --data name your own\n", out);
    printf("  cyclora plan %s\n  %s %s\n", out, json_text(o, "command"), out);
}

int cmd_init(int argc, char **argv) {
    cyc_init_request q = {.out = "run.yaml"};
    struct arg_list data = {0}, sets = {0};
    bool json = false;
    char *text = NULL;
    const struct arg args[] = {{"RECIPE", ARG_TEXT, &q.recipe, 0}, {"-o", ARG_TEXT, &q.out, 0},
                               {"--model", ARG_TEXT, &q.model, 0}, {"--data", ARG_LIST, &data, 0},
                               {"--eval", ARG_TEXT, &q.eval, 0},   {"--test", ARG_TEXT, &q.test, 0},
                               {"--pairs", ARG_TEXT, &q.pairs, 0}, {"--set", ARG_LIST, &sets, 0},
                               {"--json", ARG_FLAG, &json, 0},     {0}};
    int status = args_parse("init", argc, argv, args);
    if (status < 0 && !q.recipe) status = args_missing("init", "RECIPE");
    if (status < 0) {
        q.data = data.v, q.n_data = data.n, q.sets = sets.v, q.n_sets = sets.n;
        int code = cyc_init(&q, &text);
        status = code ? cli_failed(code) : STATUS_OK;
    }
    if (text) {
        json_t *o = json_take(text);
        if (!json) print_written(o);
        json ? json_line(o) : json_decref(o);
    }
    free(data.v);
    free(sets.v);
    return status;
}
