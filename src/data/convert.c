/* See convert.h. */
#include "data/convert.h"
#include <string.h>

struct converting {
    bool messages;
    json_t *line[BLOCK];
    struct output out;
};

static json_t *turns_json(const struct chat_message *t, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_pack("{s:s, s:s}", "role", t[i].role, "content", t[i].content));
    return list;
}

static err as_messages(const struct record *r, json_t **out) {
    const struct chat_message pair[] = {{"user", r->prompt}, {"assistant", r->completion}};
    *out = json_pack("{s:o}", "messages", r->n_turns ? turns_json(r->turns, r->n_turns) : turns_json(pair, 2));
    return OK;
}

static err as_pair(const struct record *r, json_t **out) {
    const int last = r->n_turns - 1;
    int answers = 0;
    if (r->prompt) return *out = json_pack("{s:s, s:s}", "prompt", r->prompt, "completion", r->completion), OK;
    for (int i = 0; i <= last; i++) answers += !strcmp(r->turns[i].role, "assistant");
    if (answers > 1 || !last || strcmp(r->turns[last].role, "assistant") != 0)
        return fail(E_INPUT, "a conversation of %d turns and %d answers is no prompt and completion: --to messages keeps it", r->n_turns,
                    answers);
    *out = last == 1 && !strcmp(r->turns[0].role, "user")
               ? json_pack("{s:s, s:s}", "prompt", r->turns[0].content, "completion", r->turns[1].content)
               : json_pack("{s:o, s:o}", "prompt", turns_json(r->turns, last), "completion", turns_json(r->turns + last, 1));
    return OK;
}

static err convert(void *ctx, const struct visited *v) {
    struct converting *c = ctx;
    json_t **line = &c->line[v->k];
    if (v->r->text) return fail(E_INPUT, "a plain text is no question and answer: there is nothing to convert it to");
    TRY(c->messages ? as_messages(v->r, line) : as_pair(v->r, line));
    return *line ? OK : fail(E_MEMORY, "out of memory");
}

static err take(void *ctx, const struct visited *v) {
    struct converting *c = ctx;
    json_t *line = c->line[v->k];
    c->line[v->k] = NULL;
    return output_line(&c->out, line);
}

static err go_through(struct converting *c, const struct rewriting *w, const char *to) {
    struct source s;
    TRY(source_open_files(w->files, w->n, &(struct source_options){.want = WANT_ANY}, &s));
    err e = records_pass(&(struct record_pass){&s, convert, take, c});
    for (int k = 0; k < BLOCK; k++) json_decref(c->line[k]);
    card_inputs(w->card, "inputs", &s);
    card_set(w->card, "to", json_string(to));
    card_count(w->card, "read", s.n);
    card_count(w->card, "written", c->out.rows);
    if (!e) e = output_commit(&c->out, json_object_get(w->card, "outputs"));
    if (!e) e = card_write(w->card, w->out);
    source_close(&s);
    return e;
}

err data_convert(const struct rewriting *w, const char *to) {
    struct converting c = {.messages = !strcmp(to, "messages")};
    if (!c.messages && strcmp(to, "prompt_completion") != 0)
        return fail(E_USAGE, "--to %.40s: messages and prompt_completion are possible", to);
    err e = output_open(&c.out, w->out, w);
    if (!e) e = go_through(&c, w, to);
    output_abandon(&c.out);
    return e;
}
