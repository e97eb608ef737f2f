/* Records to rows. See rows.h.
 *
 * A row is drafted as a growing id list; after each segment mark() says whether the ids since the last mark are
 * supervised, so the boundary between prompt and answer is a position, never a token to search for. keep() then cuts
 * the draft to length, refuses it if nothing is left to learn, and copies it into the arena. */
#define _GNU_SOURCE
#include "data/rows.h"
#include "base/log.h"
#include "io/chat.h"
#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct draft {
    struct ids ids;
    uint8_t *on; /* [marked] */
    size_t marked, cap;
};

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

static void draft_free(struct draft *d) {
    ids_free(&d->ids);
    free(d->on);
}

static err mark(struct draft *d, bool supervised) {
    if (d->ids.n > d->cap) {
        uint8_t *on = realloc(d->on, d->ids.n * 2);
        if (!on) return out_of_memory();
        d->on = on;
        d->cap = d->ids.n * 2;
    }
    while (d->marked < d->ids.n) d->on[d->marked++] = supervised;
    return OK;
}

static err push_all(struct ids *out, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) TRY(ids_push(out, ids[i]));
    return OK;
}

/* Puts the BOS before ids where the model expects one and they do not begin with it (a rendered template may). */
static err lead_bos(const tokenizer *tk, struct ids *ids) {
    int32_t bos = tokenizer_bos(tk);
    if (!tokenizer_adds_bos(tk) || bos < 0 || (ids->n && ids->v[0] == bos)) return OK;
    TRY(ids_push(ids, bos));
    memmove(ids->v + 1, ids->v, (ids->n - 1) * sizeof *ids->v);
    ids->v[0] = bos;
    return OK;
}

static err put_eos(const tokenizer *tk, struct ids *ids) {
    int32_t eos = tokenizer_eos(tk);
    if (eos < 0)
        return fail(E_UNSUPPORTED, "the tokenizer names no end-of-text token, so a model could not learn to stop");
    return ids->n && ids->v[ids->n - 1] == eos ? OK : ids_push(ids, eos);
}

static err new_row(struct rows *out, size_t n, struct row **r) {
    if (n > INT_MAX || out->n == INT_MAX) return fail(E_INPUT, "a row of %zu tokens", n);
    if (out->n == out->cap) {
        int cap = out->cap > INT_MAX / 2 ? INT_MAX : out->cap * 2 + 16;
        struct row *p = realloc(out->r, (size_t)cap * sizeof *p);
        if (!p) return out_of_memory();
        out->r = p;
        out->cap = cap;
    }
    *r = &out->r[out->n];
    **r = (struct row){arena_alloc(&out->mem, n * sizeof(int32_t)), arena_alloc(&out->mem, n), (int)n, 0, NULL};
    if (!(*r)->ids || !(*r)->supervised) return out_of_memory();
    out->n++;
    if ((int)n > out->longest) out->longest = (int)n;
    return OK;
}

/* The draft becomes a row; the draft is empty again. */
static err keep(struct draft *d, int max_length, struct rows *out) {
    size_t n = d->ids.n, first = 1; /* the first token is predicted by nothing */
    if (n > (size_t)max_length) n = (size_t)max_length;
    while (first < d->marked && !d->on[first]) first++;
    if (first >= n && first < d->marked)
        return fail(E_INPUT,
                    "the prompt alone has %zu tokens, so max_length %d leaves nothing to learn: raise max_length or "
                    "shorten the prompt",
                    first, max_length);
    if (first >= n) return fail(E_INPUT, "no token to learn from (%zu in all, max_length %d)", d->ids.n, max_length);
    struct row *r;
    TRY(new_row(out, n, &r));
    memcpy(r->ids, d->ids.v, n * sizeof *r->ids);
    memcpy(r->supervised, d->on, n);
    out->truncated += n < d->ids.n;
    d->ids.n = d->marked = 0;
    return OK;
}

/* One record's segments into the draft; what else it needs is in the job. */
struct job {
    const tokenizer *tk;
    const struct prompt_form *form; /* pairs */
    bool swap;
    struct chat *chat;                /* conversations */
    struct chat_text rendered; /* scratch */
    struct ids text;           /* scratch */
    err (*draft)(struct job *, const struct record *, struct draft *);
};

/* The rows of a source, in order. Releases what the job holds. */
static err make_rows(struct job *job, const struct source *s, int max_length, struct rows *out) {
    *out = (struct rows){0};
    struct draft d = {0};
    const char *path = arena_str(&out->mem, s->path); /* rows outlive their source */
    err e = path ? OK : out_of_memory();
    if (max_length < 2) e = fail(E_USAGE, "max_length %d: a row needs a token to read and one to learn", max_length);
    for (int i = 0; i < s->n && !e; i++) {
        e = job->draft(job, &s->r[i], &d);
        if (!e) e = keep(&d, max_length, out);
        if (e) fail_in(e, "%s:%d", s->path, s->r[i].line);
        else out->r[i].path = path, out->r[i].line = s->r[i].line;
    }
    draft_free(&d);
    ids_free(&job->text);
    chat_close(job->chat);
    chat_text_free(&job->rendered);
    if (e) rows_free(out);
    return e;
}

static err draft_completion(struct job *job, const struct record *r, struct draft *d) {
    TRY(tokenizer_encode(job->tk, r->prompt, strlen(r->prompt), true, &d->ids));
    TRY(lead_bos(job->tk, &d->ids));
    TRY(mark(d, false));
    TRY(tokenizer_encode(job->tk, r->completion, strlen(r->completion), true, &d->ids));
    TRY(put_eos(job->tk, &d->ids));
    return mark(d, true);
}

/* What a conversation's row is to be whatever the template and the tokenizer do: not two BOS in front; each answer ends with
 * a control token that carries loss. */
static err check_chat(const tokenizer *tk, const struct draft *d) {
    const int32_t *v = d->ids.v, bos = tokenizer_bos(tk);
    if (d->ids.n > 1 && v[0] == bos && v[1] == bos) return fail(E_INPUT, "the chat template begins with two BOS tokens");
    for (size_t i = 0; i < d->ids.n; i++) {
        if (!d->on[i] || (i + 1 < d->ids.n && d->on[i + 1])) continue;
        size_t k = i; /* a template may let its end token be followed by a line end */
        while (k && d->on[k - 1] && !tokenizer_is_special(tk, v[k])) k--;
        if (!tokenizer_is_special(tk, v[k])) return fail(E_INPUT, "an answer that ends without an end token (token %zu)", i);
    }
    return OK;
}

static err draft_chat(struct job *job, const struct record *r, struct draft *d) {
    const struct chat_text *c = &job->rendered;
    TRY(chat_render(job->chat, r->turns, (size_t)r->n_turns, false, &job->rendered));
    for (size_t i = 0; i < c->n; i++) {
        TRY(tokenizer_encode(job->tk, c->text.p + c->seg[i].start, c->seg[i].end - c->seg[i].start, true, &d->ids));
        if (!i) TRY(lead_bos(job->tk, &d->ids));
        TRY(mark(d, c->seg[i].supervised));
    }
    return check_chat(job->tk, d);
}

static err draft_sft(struct job *job, const struct record *r, struct draft *d) {
    return r->n_turns ? draft_chat(job, r, d) : draft_completion(job, r, d);
}

static err draft_pair(struct job *job, const struct record *r, struct draft *d) {
    const char *read = job->swap ? r->completion : r->prompt, *write = job->swap ? r->prompt : r->completion;
    job->text.n = 0;
    TRY(prompt_form_text(job->tk, job->form, read, &job->text));
    TRY(prompt_form_wrap(job->form, job->text.v, job->text.n, &d->ids));
    TRY(mark(d, false));
    TRY(prompt_form_text(job->tk, job->form, write, &d->ids));
    TRY(put_eos(job->tk, &d->ids));
    return mark(d, true);
}

static err draft_text(struct job *job, const struct record *r, struct draft *d) {
    TRY(tokenizer_encode(job->tk, r->text, strlen(r->text), false, &d->ids));
    TRY(lead_bos(job->tk, &d->ids));
    TRY(mark(d, true));
    if (d->marked) d->on[0] = 0;
    return OK;
}

err rows_sft(const tokenizer *tk, const struct source *s, int max_length, struct rows *out) {
    struct job job = {.tk = tk, .draft = draft_sft};
    *out = (struct rows){0};
    for (int i = 0; i < s->n; i++) {
        if (!s->r[i].n_turns) continue; /* a model without a template can still learn from prompts and completions */
        err e = chat_open(tk, &job.chat);
        if (e) return fail_in(e, "%s:%d", s->path, s->r[i].line);
        break;
    }
    return make_rows(&job, s, max_length, out);
}

err rows_pairs(const tokenizer *tk, const struct prompt_form *f, const struct source *s, bool swap, int max_length,
               struct rows *out) {
    return make_rows(&(struct job){.tk = tk, .form = f, .swap = swap, .draft = draft_pair}, s, max_length, out);
}

err rows_text(const tokenizer *tk, const struct source *s, int max_length, struct rows *out) {
    return make_rows(&(struct job){.tk = tk, .draft = draft_text}, s, max_length, out);
}

err rows_add(struct rows *out, const int32_t *prompt, size_t np, const int32_t *answer, size_t na) {
    struct row *r;
    TRY(new_row(out, np + na, &r));
    if (np) memcpy(r->ids, prompt, np * sizeof *prompt);
    if (na) memcpy(r->ids + np, answer, na * sizeof *answer);
    memset(r->supervised + np, 1, na);
    return OK;
}

void rows_free(struct rows *r) {
    free(r->r);
    arena_free(&r->mem);
    *r = (struct rows){0};
}

/* ---- prompt forms ---- */

static const char place[] = "{text}";

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

err prompt_form_parse(const tokenizer *tk, const char *form, struct prompt_form *f) {
    *f = (struct prompt_form){0};
    const char *at = strstr(form, place), *tail = at ? at + strlen(place) : NULL, *lead = at;
    if (!at || strstr(tail, place)) return fail(E_USAGE, "prompt \"%s\": must hold {text} exactly once", form);
    while (lead > form && is_space(lead[-1])) lead--;
    if (*tail && is_space(tail[strlen(tail) - 1]) && lead < at)
        log_warn(
            "prompt \"%s\" ends in whitespace and the answer begins with some (as {text} does): remove the prompt's",
            form);
    f->lead = strndup(lead, (size_t)(at - lead));
    err e = f->lead ? tokenizer_encode(tk, form, (size_t)(lead - form), true, &f->head) : out_of_memory();
    if (!e) e = lead_bos(tk, &f->head);
    if (!e) e = tokenizer_encode(tk, tail, strlen(tail), true, &f->tail);
    if (e) prompt_form_free(f);
    return e;
}

void prompt_form_free(struct prompt_form *f) {
    ids_free(&f->head);
    ids_free(&f->tail);
    free(f->lead);
    *f = (struct prompt_form){0};
}

err prompt_form_text(const tokenizer *tk, const struct prompt_form *f, const char *text, struct ids *out) {
    str whole = {0};
    str_adds(&whole, f->lead);
    str_adds(&whole, text);
    err e = whole.failed ? out_of_memory() : tokenizer_encode(tk, whole.p, whole.n, false, out);
    str_free(&whole);
    return e;
}

err prompt_form_wrap(const struct prompt_form *f, const int32_t *text, size_t n, struct ids *out) {
    TRY(push_all(out, f->head.v, f->head.n));
    TRY(push_all(out, text, n));
    return push_all(out, f->tail.v, f->tail.n);
}
