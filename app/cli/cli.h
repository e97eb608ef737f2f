/* What the subcommands share: their table, how they fail, and how they read files and the library's JSON.
 *
 * The program stands on include/cyclora/cyclora.h and on src/base alone. It keeps three streams apart: stdout carries
 * what was asked for, stderr carries `cyclora: warning: ...` and `cyclora: error: ...` (one line each), and nothing is
 * asked on stdin. */
#ifndef CYC_CLI_H
#define CYC_CLI_H
#include "base/str.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2, STATUS_INTERRUPTED = 130 };

/* One row per subcommand (main.c), and per subcommand of one that has a page of its own ("data check"). `run` sees its own name (the last word of
 * it) as argv[0] and returns the exit status. `help` is the page. */
struct command {
    const char *name, *summary, *help;
    int (*run)(int argc, char **argv);
};
extern const struct command commands[]; /* ends with a NULL name */
const struct command *command_find(const char *name);
const struct command *command_within(const char *name, const char *sub); /* of two words; NULL: there is none */

int cmd_train(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_merge(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_prune(int argc, char **argv);
int cmd_adapter(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_data(int argc, char **argv);
int cmd_data_check(int argc, char **argv);
int cmd_data_dedup(int argc, char **argv);
int cmd_data_contamination(int argc, char **argv);
int cmd_data_filter(int argc, char **argv);
int cmd_data_split(int argc, char **argv);
int cmd_data_convert(int argc, char **argv);
int cmd_data_synth(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_embed(int argc, char **argv);
int cmd_classify(int argc, char **argv);
int cmd_score(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_recipes(int argc, char **argv);
int cmd_init(int argc, char **argv);
int cmd_help(int argc, char **argv);
extern const char help_train[], help_generate[], help_eval[], help_plan[], help_inspect[], help_data[], help_tokenize[], help_score[],
    help_doctor[], help_embed[], help_classify[], help_compare[], help_export[], help_merge[], help_convert[], help_adapter[], help_help[],
    help_quantize[], help_prune[], help_recipes[], help_init[], help_data_check[], help_data_dedup[], help_data_contamination[],
    help_data_filter[], help_data_split[], help_data_convert[], help_data_synth[];

void cli_warn(const char *line);
void cli_note(const char *line); /* what was asked for, on stderr as a warning is */
int cli_bad(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* says what is wrong; STATUS_USAGE */
int cli_failed(int code); /* says cyc_error() of a failed cyc_ call; the status for its code */

/* --- files: lines split at \n and nowhere else ----------------------------------------------------------------------
 */
struct lines {
    str bytes;
    int n;
    const char **v; /* each terminated */
    size_t *len;
};
enum { LINES_UTF8 = 1, LINES_NO_NUL = 2 }; /* what is refused by its line: bytes that are not UTF-8; a NUL */
/* "-" is stdin. Returns STATUS_OK, or says what is wrong and returns the status; lines_free() and
 * str_free() follow either way. */
int lines_read(const char *path, int flags, struct lines *l);
void lines_free(struct lines *l);
int text_read(const char *path, str *text); /* the whole file; valid UTF-8 */

/* A configuration file with its --set overrides. On failure says so and returns the status; nothing is left to free. */
struct arg_list;
struct cyc_config;
int config_open(const char *path, const struct arg_list *sets, struct cyc_config **c);

/* --- the library's JSON; a missing field is "" or NaN, never a failure
 * ------------------------------------------------ */
json_t *json_take(char *text); /* parses and frees what a cyc_ call returned; never NULL */
const char *json_text(const json_t *o, const char *key);
double json_num(const json_t *o, const char *key);
json_t *json_number(double x);       /* null for NaN */
json_t *json_utf8(const char *text); /* bytes that are not UTF-8 become U+FFFD */
void json_line(json_t *o);           /* prints one line on stdout and drops the reference */

#endif
