/* From conversations to segments. See chat.h for what is supervised and why.
 *
 * A rendering is text with a tag for each byte (0: the template's, i + 1: the content of message i). "The gap" of an
 * assistant's message is the stretch between the last content before it and its own; "the tail" is what stands behind the
 * last content in the prompt made for it. */
#define _GNU_SOURCE
#include "io/chat.h"
#include "base/file.h"
#include "base/log.h"
#include <stdlib.h>
#include <string.h>

struct control { /* a token that no content may make */
    const char *text;
    size_t n;
};
struct chat {
    jinja *t;
    const char *name; /* the template, in messages; the tokenizer's */
    struct control *control;
    size_t n_control;
    bool begins[256]; /* is there a control token with this first byte? */
    str tokens[3];    /* bos, eos, pad; empty where the tokenizer has none */
    arena mem;
    struct tm now;
    struct jinja_text whole, prompt; /* scratch */
    bool warned;
};

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

/* --- opening --- */

static err take_control(struct chat *c, const tokenizer *tk) {
    int n = tokenizer_vocab(tk);
    size_t count = 0;
    for (int i = 0; i < n; i++) count += tokenizer_is_special(tk, i);
    c->control = malloc((count + 1) * sizeof *c->control);
    if (!c->control) return out_of_memory();
    for (int32_t i = 0; i < n; i++) {
        str s = {0};
        if (!tokenizer_is_special(tk, i)) continue;
        err e = tokenizer_decode(tk, &i, 1, false, &s);
        const char *text = e || !s.n ? NULL : arena_strn(&c->mem, s.p, s.n);
        if (text) {
            c->control[c->n_control++] = (struct control){text, s.n};
            c->begins[(unsigned char)*text] = true;
        } else if (!e && s.n) e = out_of_memory();
        str_free(&s);
        TRY(e);
    }
    return OK;
}

static void take_date(struct tm *now) {
    const char *fixed = getenv("SOURCE_DATE_EPOCH"); /* reproducible-builds.org: UTC */
    time_t t = fixed && *fixed ? (time_t)strtoll(fixed, NULL, 10) : time(NULL);
    if (fixed && *fixed) gmtime_r(&t, now);
    else localtime_r(&t, now);
}

err chat_open(const tokenizer *tk, struct chat **out) {
    const char *source = tokenizer_template(tk);
    *out = NULL;
    if (!source)
        return fail(E_UNSUPPORTED,
                    "the model has no chat template; give texts instead of messages, or name a template with `chat_template` "
                    "(a Jinja file, or chatml)");
    struct chat *c = calloc(1, sizeof *c);
    if (!c) return out_of_memory();
    const int32_t ids[3] = {tokenizer_bos(tk), tokenizer_eos(tk), tokenizer_pad(tk)};
    c->name = tokenizer_template_name(tk);
    err e = jinja_parse(c->name, source, strlen(source), &c->t);
    if (!e) e = take_control(c, tk);
    for (int i = 0; i < 3 && !e; i++)
        if (ids[i] >= 0) e = tokenizer_decode(tk, &ids[i], 1, false, &c->tokens[i]);
    take_date(&c->now);
    if (e) chat_close(c);
    else *out = c;
    return e;
}

void chat_close(struct chat *c) {
    if (!c) return;
    jinja_free(c->t);
    free(c->control);
    for (int i = 0; i < 3; i++) str_free(&c->tokens[i]);
    arena_free(&c->mem);
    jinja_text_free(&c->whole);
    jinja_text_free(&c->prompt);
    free(c);
}

err chat_template_load(const char *name, str *out) {
    static const char chatml[] =
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    if (strcmp(name, "chatml") != 0) return file_read(name, out);
    str_adds(out, chatml);
    return out->failed ? out_of_memory() : OK;
}

/* --- rendering --- */

static err render(const struct chat *c, const struct chat_message *m, size_t n, bool prompt, struct jinja_text *out) {
    const struct jinja_context x = {.message = m,
                                    .n = n,
                                    .bos = c->tokens[0].n ? c->tokens[0].p : NULL,
                                    .eos = c->tokens[1].n ? c->tokens[1].p : NULL,
                                    .pad = c->tokens[2].n ? c->tokens[2].p : NULL,
                                    .add_generation_prompt = prompt,
                                    .now = &c->now};
    return jinja_render(c->t, &x, out);
}

static uint32_t from(const struct jinja_text *t, size_t i) { return t->tag[i] & ~JINJA_GENERATION; }

/* Bytes of the longest control token at i, 0 where there is none. */
static size_t control_at(const struct chat *c, const str *s, size_t i) {
    size_t best = 0;
    if (!c->begins[(unsigned char)s->p[i]]) return 0;
    for (size_t k = 0; k < c->n_control; k++) {
        const struct control *t = &c->control[k];
        if (t->n > best && t->n <= s->n - i && !memcmp(s->p + i, t->text, t->n)) best = t->n;
    }
    return best;
}

/* The end of the first control token in [at, end) of the text, 0 where there is none. */
static size_t control_behind(const struct chat *c, const str *s, size_t at, size_t end) {
    for (size_t n; at < end; at++)
        if ((n = control_at(c, s, at)) > 0 && at + n <= end) return at + n;
    return 0;
}

static err no_control_in_contents(const struct chat *c, const struct jinja_text *t) {
    for (size_t i = 0, n; i < t->text.n; i += n ? n : 1) {
        n = control_at(c, &t->text, i);
        for (size_t k = i; k < i + n; k++)
            if (from(t, k))
                return fail(E_INPUT, "\"messages\"[%u]: the content holds \"%.*s\", a control token of the model", from(t, k) - 1,
                            (int)(n < 60 ? n : 60), t->text.p + i);
    }
    return OK;
}

/* --- segments --- */

/* Ends a segment there. Neighbours of one kind are one segment. */
static err cut(struct chat_text *c, size_t end, bool supervised) {
    size_t start = c->n ? c->seg[c->n - 1].end : 0;
    if (start >= end) return OK;
    if (c->n && c->seg[c->n - 1].supervised == supervised) return c->seg[c->n - 1].end = end, OK;
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 8;
        struct chat_segment *seg = realloc(c->seg, cap * sizeof *seg);
        if (!seg) return out_of_memory();
        c->seg = seg;
        c->cap = cap;
    }
    c->seg[c->n++] = (struct chat_segment){start, end, supervised};
    return OK;
}

static err no_end(size_t message) {
    return fail(
        E_UNSUPPORTED,
        "\"messages\"[%zu]: the chat template ends the turn with no control token of the tokenizer, so a model could not learn to stop; "
        "name another with `chat_template`",
        message);
}

/* --- by generation blocks --- */

static err by_generation(const struct chat *c, struct chat_text *out) {
    const struct jinja_text *t = &c->whole;
    for (size_t at = 0, end, last; at < t->text.n; at = end) {
        for (end = at; end < t->text.n && !(t->tag[end] & JINJA_GENERATION);) end++;
        TRY(cut(out, end, false));
        if (end == t->text.n) break;
        for (at = last = end; end < t->text.n && (t->tag[end] & JINJA_GENERATION); end++)
            if (from(t, end)) last = end + 1;
        if (!control_behind(c, &t->text, last, end)) { /* the block stops short of the end token: it belongs to it all the same */
            size_t limit = end;
            while (limit < t->text.n && !t->tag[limit]) limit++;
            if (!(end = control_behind(c, &t->text, end, limit))) return no_end(from(t, last ? last - 1 : 0) ? from(t, last - 1) - 1 : 0);
        }
        TRY(cut(out, end, true));
    }
    return OK;
}

/* --- by provenance --- */

/* Where [gap, gap_end) of the whole text stops being what the prompt has behind its last content. */
static size_t prompt_end(struct chat *c, size_t gap, size_t gap_end, bool *all) {
    const struct jinja_text *w = &c->whole, *p = &c->prompt;
    size_t tail = p->text.n, same = 0;
    while (tail && !from(p, tail - 1)) tail--;
    while (gap + same < gap_end && tail + same < p->text.n && w->text.p[gap + same] == p->text.p[tail + same]) same++;
    *all = tail + same == p->text.n;
    size_t end = gap + same;
    while (end > gap && end < w->text.n && ((unsigned char)w->text.p[end] & 0xC0) == 0x80) end--;
    for (size_t i = gap, n; i < end; i += n ? n : 1) { /* not inside a control token */
        n = control_at(c, &w->text, i);
        if (i + n > end) return i;
    }
    if (!*all && !c->warned) {
        str rest = {0};
        for (size_t i = tail + same; i < p->text.n; i++) p->text.p[i] == '\n' ? str_adds(&rest, "\\n") : str_addc(&rest, p->text.p[i]);
        log_warn("%s: a generation's prompt goes on with \"%.80s\", which an answer in training does not have before it", c->name,
                 rest.p ? rest.p : "");
        str_free(&rest);
        c->warned = true;
    }
    return end;
}

/* The span of message k, an assistant's; *end is 0 where it has none. `at` is where earlier spans end. */
static err find_span(struct chat *c, const struct chat_message *m, size_t k, size_t at, size_t *start, size_t *end) {
    const struct jinja_text *w = &c->whole;
    size_t n = w->text.n, gap = 0, first = at, last, limit;
    bool all = false;
    *end = 0;
    while (first < n && from(w, first) != k + 1) first++;
    bool there = first < n;
    for (size_t i = there ? first : n; i > 0; i--)
        if (from(w, i - 1) && from(w, i - 1) <= k) {
            gap = i;
            break;
        }
    if (!there)
        for (first = gap; first < n && !from(w, first);) first++;
    for (limit = last = first; limit < n && (!from(w, limit) || from(w, limit) == k + 1); limit++)
        if (from(w, limit)) last = limit + 1;
    err e = k ? render(c, m, k, true, &c->prompt) : E_INPUT;
    if (e == E_MEMORY) return e;
    *start = e ? first : prompt_end(c, gap, first, &all);
    if (!there && !all) return OK; /* the template leaves the turn out */
    if (!there) last = *start;
    *end = control_behind(c, &w->text, last, limit);
    return *end || !there ? OK : no_end(k);
}

static err by_provenance(struct chat *c, const struct chat_message *m, size_t n, struct chat_text *out) {
    size_t at = 0, start, end, turns = 0;
    for (size_t k = 0; k < n; k++) {
        if (strcmp(m[k].role, "assistant") != 0) continue;
        turns++;
        TRY(find_span(c, m, k, at, &start, &end));
        if (!end) continue;
        if (start < at) start = at;
        TRY(cut(out, start, false));
        TRY(cut(out, end, true));
        at = end;
    }
    if (turns && !at) return fail(E_INPUT, "the chat template leaves out what the assistant says");
    return cut(out, c->whole.text.n, false);
}

err chat_render(struct chat *c, const struct chat_message *m, size_t n, bool prompt, struct chat_text *out) {
    str_clear(&out->text);
    out->n = 0;
    TRY(render(c, m, n, prompt, &c->whole));
    TRY(no_control_in_contents(c, &c->whole));
    str_add(&out->text, c->whole.text.p ? c->whole.text.p : "", c->whole.text.n);
    if (out->text.failed) return out_of_memory();
    if (prompt) return cut(out, out->text.n, false);
    return jinja_has_generation(c->t) ? by_generation(c, out) : by_provenance(c, m, n, out);
}

void chat_text_free(struct chat_text *c) {
    str_free(&c->text);
    free(c->seg);
    *c = (struct chat_text){0};
}
