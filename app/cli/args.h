/* Options: `--name value`, `--name=value`, flags, and positional arguments, in any order; `--` ends the options.
 * A positional ARG_LIST, the last one, takes all that follow.
 * An unknown option, a missing or malformed value and a superfluous argument are refused by name. */
#ifndef CYC_CLI_ARGS_H
#define CYC_CLI_ARGS_H
#include "cli.h"

enum arg_type {
    ARG_FLAG /* bool */,
    ARG_TEXT /* const char * */,
    ARG_LIST /* struct arg_list */,
    ARG_SETTING /* struct arg_list: `--device cuda` is listed as device=cuda */,
    ARG_INT /* int */,
    ARG_REAL /* double */,
    ARG_SEED /* uint64_t */
};
struct arg {
    const char *name; /* "--model", "-n", or the name of a positional argument ("CONFIG"), in order */
    enum arg_type type;
    void *to;     /* left as it is where the argument is absent */
    double least; /* of a number */
};
struct arg_list {
    const char **v;
    int n;
    char setting[4][64]; /* the text of ARG_SETTINGs */
    int settings;
}; /* v has room for every argument: the caller frees it */

/* args ends with a NULL name. Returns -1 to go on, or the exit status: 0 after --help, 2 after a complaint. */
int args_parse(const char *command, int argc, char **argv, const struct arg *args);
/* Complains about an argument that the command cannot do without. */
int args_missing(const char *command, const char *what);

#endif
