/* See command.h. */
#define _POSIX_C_SOURCE 200809L /* strdup */
#include "data/command.h"
#include "base/log.h"
#include "io/jsonl_out.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static err begin(struct command *c) {
    if (c->open) return OK;
    TRY(pipe_open(&c->pipe, c->line));
    c->open = true;
    return OK;
}

void command_close(struct command *c) {
    if (c->open) pipe_close(&c->pipe);
    c->open = false;
}

/* The text of a row, short enough for a message. */
static const char *glimpse(const char *text, char *buf, size_t size) {
    str s = {0};
    str_add(&s, text, strlen(text) < size - 8 ? strlen(text) : size - 8);
    utf8_repair(&s);
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < ' ') s.p[i] = ' ';
    snprintf(buf, size, "%.*s", (int)size - 8, s.p ? s.p : "");
    str_free(&s);
    return buf;
}

/* As JSON wants it: what is no UTF-8 is U+FFFD. */
static json_t *clean(const char *text) {
    str s = {0};
    str_adds(&s, text);
    utf8_repair(&s);
    json_t *o = json_string(s.p ? s.p : "");
    str_free(&s);
    return o;
}

/* What is to come of an error: the command is ended, and with `skip` it is a warning. */
static err settle(struct command *c, err e, const char *instead) {
    command_close(c);
    e = fail_in(e, "%s '%s'", c->what, c->line);
    if (!c->skip || e != E_IO) return e;
    log_warn("%s; %s", err_text(), instead);
    return OK;
}

/* The next line of an answer, which is overwritten. */
static char *next_line(char **at) {
    char *line = *at, *end = strchr(line, '\n');
    if (!end) return NULL;
    *end = 0;
    *at = end + 1;
    return line;
}

/* --- processors --------------------------------------------------------------------------------------------------------- */
static err take_text(const char *line, int row, char **text) {
    char buf[80], was[80];
    json_t *o = json_loads(line, 0, NULL);
    const char *got = json_string_value(json_object_get(o, "text"));
    char *own = got ? strdup(got) : NULL;
    err e = got ? OK
                : fail(E_IO, "its answer to row %d (\"%s\") is not {\"text\": \"...\"}: %s", row + 1, glimpse(*text, was, sizeof was),
                       glimpse(line, buf, sizeof buf));
    if (got && !own) e = fail(E_MEMORY, "out of memory");
    json_decref(o);
    if (e) return e;
    free(*text);
    *text = own;
    return OK;
}

static err exchange(struct command *c, char **text, const str *ask, int n) {
    char buf[80];
    int got = 0;
    TRY(begin(c));
    err e = pipe_exchange(&c->pipe, ask->p, ask->n, false, n, c->timeout, &got);
    char *at = c->pipe.answer.p ? c->pipe.answer.p : "", *line;
    if (e == E_IO && got < n)
        e = fail_in(e, "it answered %d of %d rows; row %d is \"%s\"", got, n, got + 1, glimpse(text[got], buf, sizeof buf));
    for (int i = 0; got <= n && i < got && (line = next_line(&at));
         i++) { /* those of a batch that broke off count: with `skip` they stay */
        const err bad = take_text(line, i, &text[i]);
        if (bad) return bad;
    }
    return e;
}

err command_process(struct command *c, char **text, const char *const *source, int n) {
    str ask = {0};
    if (!n) return OK;
    for (int i = 0; i < n; i++) jsonl_add(&ask, json_pack("{s:o, s:o}", "text", clean(text[i]), "source", clean(source[i])));
    err e = ask.failed ? fail(E_MEMORY, "out of memory") : exchange(c, text, &ask, n);
    str_free(&ask);
    return e ? settle(c, e, "the texts stay as they were written") : OK;
}

/* --- metrics -------------------------------------------------------------------------------------------------------------- */
static err take_numbers(const char *line, json_t **numbers) {
    char buf[80];
    json_t *o = json_loads(line, 0, NULL), *v;
    const char *name;
    err e = json_is_object(o) ? OK : fail(E_IO, "its answer is no object of names and numbers: %s", glimpse(line, buf, sizeof buf));
    if (!e && !json_object_size(o)) e = fail(E_IO, "its answer has no number");
    json_object_foreach(o, name, v) {
        if (e) break;
        if (!json_is_number(v) || !isfinite(json_number_value(v))) e = fail(E_IO, "\"%s\" is no number", glimpse(name, buf, sizeof buf));
        else json_object_set_new(o, name, json_real(json_number_value(v)));
    }
    if (e) return json_decref(o), e;
    *numbers = o;
    return OK;
}

err command_measure(struct command *c, const struct command_rows *rows, json_t **numbers) {
    str ask = {0};
    int got = 0;
    *numbers = NULL;
    for (int i = 0; i < rows->n; i++)
        jsonl_add(&ask, json_pack("{s:o, s:o, s:o, s:s}", "source", clean(rows->source[i]), "hypothesis", clean(rows->hyp[i]), "reference",
                                 clean(rows->ref[i]), "direction", rows->direction));
    err e = ask.failed ? fail(E_MEMORY, "out of memory") : begin(c);
    if (!e) e = pipe_exchange(&c->pipe, ask.p, ask.n, true, 1, c->timeout, &got);
    char *at = c->pipe.answer.p, *line = e || !at ? NULL : next_line(&at);
    if (!e) e = line ? take_numbers(line, numbers) : fail(E_IO, "it answered nothing");
    str_free(&ask);
    if (e) return settle(c, fail_in(e, "%s", rows->direction), "this evaluation goes without its numbers");
    command_close(c);
    return OK;
}
