/* See shell.h. */
#define _GNU_SOURCE
#include "support/shell.h"
#include "base/file.h"
#include <sys/wait.h>

struct ran ran;
static char dir[] = "/tmp/cyclora_shell_XXXXXX";

int shell_begin(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

int shell_end(void **state) {
    (void)state;
    str_free(&ran.out);
    str_free(&ran.err);
    return dir_remove(dir) != OK;
}

static void take(const char *name, str *to) {
    char path[64];
    str_clear(to);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    must(file_read(path, to));
}

static void run(const char *line) {
    str cmd = {0};
    str_addf(&cmd, "C='%s' D='%s' G='%s'; export OMP_NUM_THREADS=1; { %s\n} >%s/stdout 2>%s/stderr </dev/null", CYC_CLI, dir, GOLDEN "/cipher", line, dir, dir);
    int st = system(cmd.p);
    str_free(&cmd);
    ran.status = WIFEXITED(st) ? WEXITSTATUS(st) : 128;
    take("stdout", &ran.out);
    take("stderr", &ran.err);
}

static char *formatted(const char *fmt, va_list ap) {
    char *line;
    if (vasprintf(&line, fmt, ap) < 0) flunk("out of memory");
    return line;
}

void sh(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *line = formatted(fmt, ap);
    va_end(ap);
    run(line);
    free(line);
}

void ok(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *line = formatted(fmt, ap);
    va_end(ap);
    run(line);
    if (ran.status) flunk("%s: status %d\n%s%s", line, ran.status, ran.out.p, ran.err.p);
    free(line);
}

void says(const char *text, const char *part) {
    if (!strstr(text, part)) flunk("\"%s\" is not in:\n%s", part, text);
}

void refused_(const char *line, ...) {
    run(line);
    if (ran.status != 2) flunk("%s: status %d, not 2\n%s%s", line, ran.status, ran.out.p, ran.err.p);
    if (ran.out.n) flunk("%s: stdout: %s", line, ran.out.p);
    if (!str_starts(ran.err.p, "cyclora: error: ") || strchr(ran.err.p, '\n') != ran.err.p + ran.err.n - 1) flunk("%s: not one line of error: %s", line, ran.err.p);
    va_list ap;
    va_start(ap, line);
    for (const char *part; (part = va_arg(ap, const char *));) says(ran.err.p, part);
    va_end(ap);
}

json_t *json_of(const char *name) {
    json_error_t why;
    ok("cat $D/%s", name);
    json_t *j = json_loads(ran.out.p, JSON_DISABLE_EOF_CHECK, &why);
    if (!j) flunk("%s: %s", name, why.text);
    return j;
}

void labelled_letters(void) {
    ok("for a in s l e a; do for b in s l e t n; do for c in s l e; do echo '{\"text\": \"'$a$b$c'\", \"label\": \"of '$c'\"}'; done; done; "
       "done > $D/all.jsonl\n"
       "sed -n '1~5p' $D/all.jsonl > $D/dev.jsonl; sed '1~5d' $D/all.jsonl > $D/train.jsonl");
}
