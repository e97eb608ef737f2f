/* A user's command as processor and metric: answers in order and many of them at once, and every way in which one can fail: named by its
 * row, within its time, with no process left. */
#include "data/command.h"
#include "base/log.h"
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <cmocka.h>

static const char *const sources[] = {"one", "two \"quoted\"\n", "\xC3\xA9\xFF"};
static char warned[4096];

static void on_log(void *ctx, enum log_level level, const char *line) {
    (void)ctx;
    if (level == LOG_WARN) snprintf(warned, sizeof warned, "%s", line);
}

static void fill(char *text[3]) {
    for (int i = 0; i < 3; i++) text[i] = strcpy(malloc(16), i == 0 ? "a" : i == 1 ? "b\\" : "c");
}

static void drop_texts(char *text[3]) {
    for (int i = 0; i < 3; i++) free(text[i]);
}

/* No child of ours is left, running or not. */
static void none_left(void) {
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

static int open_files(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static void answers_in_order(void **state) {
    (void)state;
    struct command c = {.line = "sed -u 's/\"text\":\"/&<</'", .what = "processor", .timeout = 20};
    char *text[3];
    for (int batch = 0; batch < 3; batch++) { /* one process for all */
        fill(text);
        assert_int_equal(command_process(&c, text, sources, 3), OK);
        assert_string_equal(text[0], "<<a");
        assert_string_equal(text[1], "<<b\\");
        assert_string_equal(text[2], "<<c");
        drop_texts(text);
    }
    assert_int_equal(command_process(&c, NULL, NULL, 0), OK);
    command_close(&c);
    none_left();
}

/* More than pipes hold, both ways, from a command that answers while it is still being written to. */
static void much_at_once(void **state) {
    (void)state;
    enum { N = 3000, LONG = 2000 };
    struct command c = {.line = "cat", .what = "processor", .timeout = 60};
    char **text = malloc(N * sizeof *text);
    const char **source = malloc(N * sizeof *source);
    for (int i = 0; i < N; i++) {
        text[i] = malloc(LONG + 1);
        memset(text[i], 'a' + i % 26, LONG);
        text[i][LONG] = 0;
        source[i] = "s";
    }
    assert_int_equal(command_process(&c, text, source, N), OK);
    for (int i = 0; i < N; i++) {
        assert_int_equal(strlen(text[i]), LONG);
        assert_int_equal(text[i][LONG - 1], 'a' + i % 26);
        free(text[i]);
    }
    free(text);
    free(source);
    command_close(&c);
    none_left();
}

static const struct trouble {
    const char *line, *says[3];
} troubles[] = {{"exit 7", {"ended with status 7", "answered 0 of 3 rows", "row 1 is \"a\""}},
                {"no-such-command-here", {"no such command", "answered 0 of 3 rows", ""}},
                {"head -n 2", {"ended with status 0", "answered 2 of 3 rows", "row 3 is \"c\""}},
                {"head -n 1; kill -9 $$", {"signal 9", "answered 1 of 3 rows", "row 2 is \"b\\\""}},
                {"head -n 1; sleep 60 & sleep 60", {"said nothing for 0.8 s", "answered 1 of 3 rows", "row 2"}},
                {"exec >&-; sleep 0.1", {"ended with status 0", "answered 0 of 3 rows", ""}},
                {"sed -u 's/.*/hello/'", {"row 1 (\"a\") is not {\"text\": \"...\"}: hello", "", ""}},
                {"sed -u '2s/.*/{\"text\": 5}/'", {"row 2 (\"b\\\")", "{\"text\": 5}", ""}}};

static void troubled(bool skip) {
    const int files = open_files();
    for (size_t i = 0; i < sizeof troubles / sizeof *troubles; i++) {
        const struct trouble *t = &troubles[i];
        struct command c = {
            .line = t->line, .what = "processor of side A", .timeout = strstr(t->line, "sleep 60") ? 0.8 : 30, .skip = skip};
        char *text[3];
        fill(text);
        *warned = 0;
        assert_int_equal(command_process(&c, text, sources, 3), skip ? OK : E_IO);
        const char *said = skip ? warned : err_text();
        for (int k = 0; k < 3; k++)
            if (!strstr(said, t->says[k])) fail_msg("'%s': \"%s\" does not say \"%s\"", t->line, said, t->says[k]);
        assert_non_null(strstr(said, "processor of side A '"));
        assert_string_equal(text[2], "c"); /* as it was written */
        drop_texts(text);
        none_left();
    }
    assert_int_equal(open_files(), files);
}

static void stops(void **state) {
    (void)state;
    troubled(false);
}

/* ... and the next batch starts the command again. */
static void goes_on(void **state) {
    (void)state;
    log_set(on_log, NULL);
    troubled(true);
    struct command c = {.line = "sed -u 4q", .what = "processor", .timeout = 5, .skip = true};
    char *text[3];
    for (int batch = 0; batch < 3; batch++) {
        fill(text);
        *warned = 0;
        assert_int_equal(command_process(&c, text, sources, 3), OK);
        assert_int_equal(*warned != 0, batch == 1);
        drop_texts(text);
    }
    command_close(&c);
    log_set(NULL, NULL);
    none_left();
}

/* What comes when nothing is due any more is noticed before it could be taken for the next batch's. */
static void says_too_much(void **state) {
    (void)state;
    struct command c = {.line = "head -n 3; echo more; sleep 60", .what = "processor", .timeout = 20};
    char *text[3];
    fill(text);
    err e = command_process(&c, text, sources, 3);
    nanosleep(&(struct timespec){0, 200000000}, NULL);
    if (!e) e = command_process(&c, text, sources, 3);
    assert_int_equal(e, E_IO);
    assert_non_null(strstr(err_text(), "it answered more than"));
    drop_texts(text);
    none_left();
}

static void numbers(void **state) {
    (void)state;
    static const char *const h[] = {"x", "y"}, *const r[] = {"x", "z"};
    static const struct {
        const char *line, *says;
    } bad[] = {{"cat >/dev/null; echo '{\"n\": \"many\"}'", "\"n\" is no number"},
               {"echo '{\"n\": true}'", "\"n\" is no number"},
               {"echo '{}'", "no number"},
               {"echo nan", "no object of names and numbers: nan"},
               {"echo '{\"n\": NaN}'", "no object"},
               {"cat", "more than the 1 line asked for"},
               {"cat > /dev/null", "ended with status 0"},
               {"cat >/dev/null; exit 3", "ended with status 3"},
               {"cat >/dev/null; sleep 60", "said nothing for 0.8 s"}};
    const struct command_rows rows = {sources, h, r, "A to B", 2};
    json_t *got;
    struct command c = {
        .line = "grep -c '\"hypothesis\":\"x\",\"reference\":\"x\",\"direction\":\"A to B\"' | sed 's/.*/{\"hits\": &, \"half\": 0.5}/'",
        .what = "eval.metric_command",
        .timeout = 20};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(command_measure(&c, &rows, &got), OK);
        assert_true(json_is_real(json_object_get(got, "hits")));
        assert_float_equal(json_number_value(json_object_get(got, "hits")), 1, 0);
        assert_float_equal(json_number_value(json_object_get(got, "half")), 0.5, 0);
        json_decref(got);
        none_left();
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        c = (struct command){.line = bad[i].line, .what = "eval.metric_command", .timeout = strstr(bad[i].line, "sleep 60") ? 0.8 : 30};
        assert_int_equal(command_measure(&c, &rows, &got), E_IO);
        if (!strstr(err_text(), bad[i].says)) fail_msg("'%s': \"%s\" does not say \"%s\"", bad[i].line, err_text(), bad[i].says);
        assert_non_null(strstr(err_text(), "A to B"));
        assert_null(got);
        none_left();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(answers_in_order), cmocka_unit_test(much_at_once),  cmocka_unit_test(stops),
                                       cmocka_unit_test(goes_on),          cmocka_unit_test(says_too_much), cmocka_unit_test(numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
