/* cyclora, the command: a table of subcommands and the way to them. Each lives in a file of its own and does its work
 * through the public API alone. Exit status: 0 done; 1 it failed; 2 what was asked for is wrong (a command, an option,
 * a configuration, an input file); 130 interrupted, with the state saved. */
#define _POSIX_C_SOURCE 200809L
#include "cli.h"
#include "base/process.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct command commands[] = {
    {"recipes", "what can be done, and the page that tells when", help_recipes, cmd_recipes},
    {"init", "a commented configuration, ready to run, by a recipe", help_init, cmd_init},
    {"train", "train adapters as a configuration says", help_train, cmd_train},
    {"plan", "the memory and the work of a run, before a weight is read", help_plan, cmd_plan},
    {"data", "look at data files and training rows, clean and split them", help_data, cmd_data},
    {"data check", "what is wrong with data files, by line", help_data_check, cmd_data_check},
    {"data dedup", "records that an earlier one equals, or is near, go", help_data_dedup, cmd_data_dedup},
    {"data contamination", "test records that stand in training data", help_data_contamination, cmd_data_contamination},
    {"data filter", "records that pass rules", help_data_filter, cmd_data_filter},
    {"data split", "train, dev and test, groups kept together", help_data_split, cmd_data_split},
    {"data convert", "records in another shape", help_data_convert, cmd_data_convert},
    {"data synth", "pairs of instruction and output, written by a local teacher", help_data_synth, cmd_data_synth},
    {"eval", "evaluate a run, or score a text with a model", help_eval, cmd_eval},
    {"compare", "methods of one configuration, or finished runs, beside each other", help_compare, cmd_compare},
    {"generate", "write with a model, with or without an adapter", help_generate, cmd_generate},
    {"score", "BLEU, chrF and exact match of texts against references", help_score, cmd_score},
    {"embed", "vectors of texts", help_embed, cmd_embed},
    {"classify", "classes or numbers of texts, tags of words, by a head's adapter", help_classify, cmd_classify},
    {"tokenize", "token ids of texts", help_tokenize, cmd_tokenize},
    {"export", "adapters in the form that a loader reads, or merged", help_export, cmd_export},
    {"merge", "an adapter and its base as one model", help_merge, cmd_merge},
    {"convert", "a model in the other format or another type", help_convert, cmd_convert},
    {"quantize", "a model with its matrices in fewer bits, and what that costs", help_quantize, cmd_quantize},
    {"prune", "a smaller model: blocks and channels that count least left out", help_prune, cmd_prune},
    {"adapter", "adapters made of adapters: another rank, averages, TIES, DARE", help_adapter, cmd_adapter},
    {"inspect", "what a model, adapter, checkpoint or run folder holds", help_inspect, cmd_inspect},
    {"doctor", "what this machine has to compute with", help_doctor, cmd_doctor},
    {"help", "pages about the commands and the configuration", help_help, cmd_help},
    {NULL, NULL, NULL, NULL}};

const struct command *command_find(const char *name) {
    for (const struct command *c = commands; c->name; c++)
        if (!strcmp(c->name, name)) return c;
    return NULL;
}

const struct command *command_within(const char *name, const char *sub) {
    char both[64];
    snprintf(both, sizeof both, "%s %s", name, sub);
    return command_find(both);
}

static int unknown(const char *name) {
    const char *list[sizeof commands / sizeof *commands];
    int n = 0;
    if (name[0] == '-') return cli_bad("unknown option '%s'; `cyclora --help` shows the commands", name);
    for (const struct command *c = commands; c->name; c++) list[n++] = c->name;
    list[n] = NULL;
    const char *near = str_nearest(name, list);
    return near ? cli_bad("unknown command '%s'; did you mean '%s'?", name, near)
                : cli_bad("unknown command '%s'; `cyclora --help` shows the commands", name);
}

static void on_log(void *ctx, int level, const char *line) {
    (void)ctx;
    if (level >= 2) cli_warn(line);
    else if (level == 1) cli_note(line);
}

static int run(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "help";
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) name = "help";
    if (!strcmp(name, "--version") || !strcmp(name, "-V")) {
        printf("cyclora %s\n", cyc_version());
        return STATUS_OK;
    }
    const struct command *c = command_find(name), *within = argc > 2 ? command_within(name, argv[2]) : NULL;
    if (!c) return unknown(name);
    cyc_set_log(on_log, NULL);
    if (within) return within->run(argc - 2, argv + 2);
    return c->run(argc > 1 ? argc - 1 : argc, argc > 1 ? argv + 1 : argv);
}

/* libgomp's threads spin at every barrier before they sleep: by default for some 15 ms on a current processor, so that on a
 * busy machine a kernel that takes microseconds costs whole time slices (measured: a decode step 60 times slower). A short
 * spin costs nothing on a quiet machine. The library reads this before main, hence the second start. */
static void bound_spinning(char **argv) {
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    char self[4096]; /* its own path: started as /proc/self/exe the process would be called "exe" */
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || setenv("GOMP_SPINCOUNT", "5000", 0)) return; /* where this fails, all still works */
    self[n] = 0;
    execv(self, argv);
}

int main(int argc, char **argv) {
    bound_spinning(argv);
    heap_steady();
    int status = run(argc, argv);
    if (fflush(stdout) || ferror(stdout)) { /* a full disk or a closed pipe is not success */
        fprintf(stderr, "cyclora: error: cannot write to standard output\n");
        return status ? status : STATUS_FAILED;
    }
    return status;
}
