/* `cyclora doctor`: what this machine has to compute with, and what is missing. */
#include "args.h"
#include "cli.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_doctor[] =
    "Says what this machine has to compute with: processor kernels, memory, CUDA's driver and libraries, the card, its\n"
    "measured bandwidth and matrix rate; and, where no card can be used, what is missing.\n"
    "\n"
    "Usage: cyclora doctor [--json]\n"
    "\n"
    "  --json       {\"cpu\": ..., \"card\": ..., ...} on one line\n"
    "\n"
    "Examples:\n"
    "  cyclora doctor\n"
    "  cyclora doctor --json | jq .card\n"
    "\n"
    "Writes to stdout alone. Measuring takes a second and 2 GiB of the card. Exit status: 0, with or without a card.\n";

int cmd_doctor(int argc, char **argv) {
    bool json = false;
    const struct arg args[] = {{"--json", ARG_FLAG, &json, 0}, {0}};
    int status = args_parse("doctor", argc, argv, args);
    if (status >= 0) return status;
    char *text;
    int code = cyc_doctor(&text);
    if (code) return cli_failed(code);
    json_t *all = json_object();
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *what = strstr(line, ": ");
        if (!what) continue;
        *what = 0;
        what += 2;
        if (json) json_object_set_new(all, line, json_string(what));
        else printf("%-12s %s\n", line, what);
    }
    if (json) json_line(json_incref(all));
    json_decref(all);
    free(text);
    return STATUS_OK;
}
