/* `cyclora help`: the overview, a command's page, and the configuration's keys (also as docs/config.md). */
#include "args.h"
#include "cli.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <string.h>

const char help_help[] = "Shows a page: about a command, or about every key of a configuration file.\n"
                         "\n"
                         "Usage: cyclora help [COMMAND [SUBCOMMAND] | config] [--markdown]\n"
                         "\n"
                         "  --markdown   the configuration's keys as the page docs/config.md\n"
                         "\n"
                         "Examples:\n"
                         "  cyclora help train\n"
                         "  cyclora help config | less\n"
                         "\n"
                         "Writes to stdout alone. Exit status: 0, or 2 for a page that does not exist.\n";

static void overview(void) {
    printf(
        "cyclora %s: fine-tuning of language models in little memory\n"
        "\n"
        "Trains two LoRA adapters, A to B and B to A, on one frozen base model by cycle consistency on unpaired text\n"
        "(MACCT), or one adapter on pairs, conversations (sft) or raw text (text), or a head for classes, numbers or tags.\n"
        "Everything about a run is one YAML file.\n"
        "\n"
        "Usage: cyclora COMMAND ...\n\n",
        cyc_version());
    for (const struct command *c = commands; c->name; c++)
        if (!strchr(c->name, ' ')) printf("  %-10s %s\n", c->name, c->summary);
    printf("\n"
           "`cyclora COMMAND --help` shows a command's page, `cyclora help config` every configuration key,\n"
           "`cyclora --version` the version.\n"
           "\n"
           "A first run:\n"
           "  cyclora recipes                           what is there to do?\n"
           "  cyclora init sft --model M --data F       run.yaml, a line of reason beside each key\n"
           "  cyclora plan run.yaml                     does it fit?\n"
           "  cyclora data preview run.yaml             are these the tokens that should be learnt?\n"
           "  cyclora train run.yaml                    the run; Ctrl-C saves, --resume goes on\n"
           "  cyclora generate --model base.gguf --adapter out/A --prompt \"...\"\n"
           "\n"
           "Exit status: 0 done; 1 failed; 2 something asked for is wrong; 130 interrupted, with the state saved.\n");
}

static const char *fallback(const cyc_key *k, str *buf) {
    str_clear(buf);
    text_one_line(buf, k->fallback, 0);
    return buf->n ? buf->p : "";
}

static void key_page(const cyc_key *k, str *buf) {
    printf("%s%s%s  %s", term_bold(), k->name, term_off(), k->type);
    if (*k->fallback) printf(", default %s", fallback(k, buf));
    printf("\n    %s\n", k->doc);
}

static void config_page(void) {
    size_t n;
    str buf = {0};
    const cyc_key *keys = cyc_config_keys(&n);
    printf(
        "A configuration is a YAML file. Dots are nesting: lora.r is `lora: {r: 8}`. On the command line any key is\n"
        "`--set key=value`, which goes over the file; A.key and B.key set one side.\n"
        "\nKeys of the run\n\n");
    for (size_t i = 0; i < n; i++)
        if (!keys[i].per_side) key_page(&keys[i], &buf);
    printf("\nKeys of a side: at the top they hold for both, under `A:` or `B:` for one\n\n");
    for (size_t i = 0; i < n; i++)
        if (keys[i].per_side) key_page(&keys[i], &buf);
    str_free(&buf);
}

static void markdown_cell(const char *s) {
    for (; *s; s++) printf(*s == '|' ? "\\|" : "%c", *s);
}

static void markdown_rows(int per_side) {
    size_t n;
    str buf = {0};
    const cyc_key *keys = cyc_config_keys(&n);
    printf("\n| key | type | default | meaning |\n|---|---|---|---|\n");
    for (size_t i = 0; i < n; i++) {
        if (keys[i].per_side != per_side) continue;
        printf("| `%s` | ", keys[i].name);
        markdown_cell(keys[i].type);
        const char *value = fallback(&keys[i], &buf);
        printf(*value ? " | `%s` | " : " | %s | ", value);
        markdown_cell(keys[i].doc);
        printf(" |\n");
    }
    str_free(&buf);
}

static void config_markdown(void) {
    printf(
        "# Configuration\n\n"
        "This page is printed by `cyclora help config --markdown`.\n\n"
        "A configuration is a YAML file. Dots are nesting: `lora.r` is `lora: {r: 8}`. On the command line any key is\n"
        "`--set key=value`, which goes over the file; `A.key`, `B.key` set one side. An unknown key, a key given\n"
        "twice, and a value of the wrong type or range are refused with file and line.\n\n"
        "## Keys of the run\n");
    markdown_rows(0);
    printf("\n## Keys of a side\n\n"
           "At the top they hold for all sides; under `A:`, `B:` and further ones (to `H:`) for one. `A` is a side and an\n"
           "adapter: `A.data` is the text of side A, and adapter A maps A to B, with A's learning rate, batch and schedule\n"
           "([cycles.md](cycles.md)).\n");
    markdown_rows(1);
}

int cmd_help(int argc, char **argv) {
    const char *page = NULL, *sub = NULL;
    bool markdown = false;
    const struct arg args[] = {{"PAGE", ARG_TEXT, &page, 0}, {"PAGE", ARG_TEXT, &sub, 0}, {"--markdown", ARG_FLAG, &markdown, 0}, {0}};
    if (argc < 2 || !strcmp(argv[0], "--help") || !strcmp(argv[0], "-h")) {
        overview();
        return STATUS_OK;
    }
    int status = args_parse("help", argc, argv, args);
    if (status >= 0) return status;
    const struct command *c = sub ? command_within(page, sub) : page ? command_find(page) : NULL;
    if (c) fputs(c->help, stdout);
    else if (page && !sub && !strcmp(page, "config")) markdown ? config_markdown() : config_page();
    else return cli_bad("help: there is no page '%s%s%s'; `cyclora --help` shows the commands", page ? page : "", sub ? " " : "", sub ? sub : "");
    return STATUS_OK;
}
