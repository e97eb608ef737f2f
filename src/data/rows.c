/* Records to rows. See rows.h.
 *
 * A row is drafted as a growing id list; after each segment mark() says whether the ids since the last mark are
 * supervised, so the boundary between prompt and answer is a position, never a token to search for. keep() then cuts
 * the draft to length, refuses it if nothing is left to learn, and copies it into the arena. Drafts are made by many
 * threads, a block of records at a time; rows are kept by one, in order. */
#define _GNU_SOURCE
#define XXH_INLINE_ALL
#include "data/rows.h"
#include "data/blocks.h"
#include "base/log.h"
#include "io/chat.h"
#include "io/npy.h"
#include <assert.h>
#include <limits.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct draft {
    struct ids ids;
    uint8_t *on; /* [marked] */
    size_t marked, cap;
    int label; /* of a labelled text: row.label */
    const float *target; /* ... of numbers, n_target: row.target; the record's */
    int n_target;
    struct ids tags; /* of words: row.labels */
    int source; /* row.source */
    int64_t text_tokens, text_bytes; /* of a text, without what goes around it */
    int line;                        /* of a streamed record */
    bool shortened; /* its text was cut already */
    float *given; /* the vectors that come with it, [given_n]; 0: none */
    size_t given_n;
};

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

static void draft_free(struct draft *d) {
    ids_free(&d->ids);
    ids_free(&d->tags);
    free(d->on);
    free(d->given);
}

/* The vectors of record `index`, out of itself or of their own file. */
static err take_given(const struct source *s, const struct record *r, int index, struct draft *d) {
    const struct given_form *g = &s->opt.given;
    const size_t n = (size_t)g->each * (size_t)g->width;
    if (!n) return OK;
    if (!d->given && !(d->given = malloc(n * sizeof *d->given))) return out_of_memory();
    d->given_n = n;
    if (g->file) return npy_row(g->file, index, d->given);
    memcpy(d->given, r->given, n * sizeof *d->given);
    return OK;
}

/* One row for each record. */
static err check_given(const struct source *s) {
    const struct given_form *g = &s->opt.given;
    if (!g->file) return OK;
    if (g->file->columns != (int64_t)g->each * g->width)
        return fail(E_INPUT, "%s: rows of %lld numbers, wanted are %lld (%d vector%s of %d)", g->file->path, (long long)g->file->columns,
                    (long long)g->each * g->width, g->each, g->each > 1 ? "s" : "", g->width);
    return g->file->rows >= s->n ? OK
                                 : fail(E_INPUT, "%s: %lld rows, but %s has %d records: one is wanted for each", g->file->path,
                                        (long long)g->file->rows, s->path, s->n);
}

static void draft_clear(struct draft *d) {
    d->ids.n = d->tags.n = d->marked = 0;
    d->label = d->n_target = d->source = 0;
    d->shortened = false;
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
static err lead_bos(const tokenizer *tk, struct ids *ids) { return tokenizer_surround(tk, true, false, ids); }

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
    **r = (struct row){.ids = arena_alloc(&out->mem, n * sizeof(int32_t)), .supervised = arena_alloc(&out->mem, n), .n = (int)n};
    if (!(*r)->ids || !(*r)->supervised) return out_of_memory();
    out->n++;
    if ((int)n > out->longest) out->longest = (int)n;
    return OK;
}

/* How many of the draft's tokens the row has; refuses one that leaves nothing to learn. */
static err measure(const struct draft *d, int max_length, bool learnt, size_t *n) {
    size_t first = 1; /* the first token is predicted by nothing */
    *n = d->ids.n > (size_t)max_length ? (size_t)max_length : d->ids.n;
    while (first < d->marked && !d->on[first]) first++;
    if (!learnt || first < *n) return OK;
    if (first < d->marked)
        return fail(E_INPUT,
                    "the prompt alone has %zu tokens, so max_length %d leaves nothing to learn: raise max_length or "
                    "shorten the prompt",
                    first, max_length);
    return fail(E_INPUT, "no token to learn from (%zu in all, max_length %d)", d->ids.n, max_length);
}

static err keep_given(const struct draft *d, struct rows *out, struct row *r) {
    float *x = arena_alloc(&out->mem, d->given_n * sizeof *x);
    if (!x) return out_of_memory();
    r->given = memcpy(x, d->given, d->given_n * sizeof *x);
    return OK;
}

/* What a row of a head's is to tell. */
static err keep_labels(const struct draft *d, size_t n, struct rows *out, struct row *r) {
    const size_t of_tags = d->tags.n ? n * sizeof(int32_t) : 0, of_target = (size_t)d->n_target * sizeof(float);
    r->label = d->label;
    r->source = d->source;
    if (of_tags && !(r->labels = arena_alloc(&out->mem, of_tags))) return out_of_memory();
    if (of_target && !(r->target = arena_alloc(&out->mem, of_target))) return out_of_memory();
    if (of_tags) memcpy((void *)r->labels, d->tags.v, of_tags);
    if (of_target) memcpy((void *)r->target, d->target, of_target);
    return OK;
}

/* n of the draft's ids, from `from` on, become a row, or are only counted (stored false). */
static err keep_span(const struct draft *d, size_t from, size_t n, struct rows *out, bool stored) {
    struct row *r;
    if (stored) {
        TRY(new_row(out, n, &r));
        memcpy(r->ids, d->ids.v + from, n * sizeof *r->ids);
        memcpy(r->supervised, d->on + from, n);
        if (from) r->supervised[0] = 0; /* in the row before it is */
        TRY(keep_labels(d, n, out, r));
        if (d->given_n) TRY(keep_given(d, out, r));
    } else out->n++;
    if ((int)n > out->longest) out->longest = (int)n;
    out->tokens += (int64_t)n;
    const bool of_head = d->label || d->n_target || d->tags.n;
    for (size_t i = !of_head; i < n; i++) out->supervised += d->on[from + i];
    return OK;
}

/* The draft's one row. */
static err keep_row(const struct draft *d, int max_length, bool learnt, struct rows *out, bool stored) {
    size_t n;
    TRY(measure(d, max_length, learnt, &n));
    TRY(keep_span(d, 0, n, out, stored));
    out->truncated += n < d->ids.n || d->shortened;
    return OK;
}

/* A document's row number k, of as many as there are: from which id on it goes, and how many ids it has; 0: there is no such row. Its first id is the last
 * one of the row before, where it was learnt. */
static size_t document_row(const struct draft *d, int max_length, size_t k, size_t *from) {
    *from = k * ((size_t)max_length - 1);
    const size_t left = d->ids.n > *from ? d->ids.n - *from : 0;
    return left < 2 ? 0 : left < (size_t)max_length ? left : (size_t)max_length;
}

/* One of a single token tells nothing, and has no row. */
static err keep_document(const struct draft *d, int max_length, struct rows *out, bool stored) {
    size_t from, n;
    for (size_t k = 0; (n = document_row(d, max_length, k, &from)); k++) {
        if (out->n == INT_MAX) return fail(E_INPUT, "too many rows");
        TRY(keep_span(d, from, n, out, stored));
        if (k) continue;
        out->text_tokens += d->text_tokens;
        out->text_bytes += d->text_bytes;
    }
    return OK;
}

/* One record's segments into the draft; what else it needs is in the job. */
struct job {
    const tokenizer *tk;
    const struct prompt_form *form; /* pairs */
    const struct class_form *classes; /* labelled texts */
    int max_length;                   /* of them */
    enum learnt learnt;
    bool swap, plain;          /* plain: texts, of which nothing is learnt as they are */
    bool documents;            /* texts whose rows go on where they are full */
    struct chat *chat;         /* conversations; a thread's own */
    struct chat_text rendered; /* scratch */
    struct ids text;           /* scratch */
    str word;                  /* scratch */
    err (*draft)(struct job *, const struct record *, struct draft *);
};

static void job_free(struct job *job) {
    ids_free(&job->text);
    str_free(&job->word);
    chat_close(job->chat);
    chat_text_free(&job->rendered);
}

/* ---- the pass over all records ---- */

enum { CHATS = 64 };

struct slot { /* one record of a block */
    uint64_t hash; /* visited ones */
    struct draft d;
    err e;
    char *why;
};
struct pass {
    const struct source *s;
    const struct job *job;
    struct slot slot[BLOCK];
    struct block b;
    const char **path; /* of the source's files; rows outlive it */
    struct chat *chat[CHATS]; /* of the threads beside the first, which has the job's */
    err (*visit)(void *ctx, const struct row_seen *row); /* rows are looked at, not kept */
    void *ctx;
};

/* What a record says, however it is written. */
static uint64_t record_hash(const struct record *r) {
    uint64_t h = (uint64_t)r->n_turns + 1;
    const char *const texts[] = {r->text, r->prompt, r->completion, r->label};
    for (int i = 0; i < r->n_words; i++) h = XXH3_64bits_withSeed(r->words[i], strlen(r->words[i]), h);
    for (int i = 0; i < 4; i++)
        if (texts[i]) h = XXH3_64bits_withSeed(texts[i], strlen(texts[i]), h);
    for (int i = 0; i < r->n_turns; i++) {
        h = XXH3_64bits_withSeed(r->turns[i].role, strlen(r->turns[i].role), h);
        h = XXH3_64bits_withSeed(r->turns[i].content, strlen(r->turns[i].content), h);
    }
    return h;
}

static err draft_record(struct pass *p, int k, struct job *job, arena *mem) {
    struct slot *t = &p->slot[k];
    struct record own;
    const struct record *r;
    TRY(block_record(&p->b, k, mem, &own, &r));
    if (p->visit) t->hash = record_hash(r);
    err e = job->tk ? job->draft(job, r, &t->d) : OK;
    if (!e) e = take_given(p->s, r, p->b.from + k, &t->d);
    return e ? fail_in(e, "%s:%d", p->s->part[p->b.part[k]].path, r->line) : OK;
}

/* Messages are per thread, so a failing record keeps its own for whoever takes the results. */
static void draft_block(struct pass *p) {
    int threads = p->s->opt.threads > 0 ? p->s->opt.threads : omp_get_max_threads();
    if (threads > CHATS) threads = CHATS;
#pragma omp parallel num_threads(threads) if (p->b.n > 8)
    {
        struct job mine = *p->job;
        arena mem = {0};
        mine.rendered = (struct chat_text){0};
        mine.text = (struct ids){0};
        mine.word = (str){0};
        int me = omp_get_thread_num();
        if (me) mine.chat = p->chat[me];
#pragma omp for schedule(dynamic, 8)
        for (int k = 0; k < p->b.n; k++) {
            struct slot *t = &p->slot[k];
            draft_clear(&t->d);
            t->e = draft_record(p, k, &mine, &mem);
            free(t->why);
            t->why = t->e ? strdup(err_text()) : NULL;
        }
        if (me) p->chat[me] = mine.chat;
        arena_free(&mem);
        chat_text_free(&mine.rendered);
        ids_free(&mine.text);
        str_free(&mine.word);
    }
}

static err show(const struct pass *p, int k, int max_length) {
    const struct slot *t = &p->slot[k];
    struct row_seen row = {.path = p->path[p->b.part[k]], .line = p->b.x[k].line, .tokens = t->d.ids.n, .hash = t->hash, .e = t->e};
    if (t->e) row.wrong = t->why ? t->why : "out of memory";
    for (size_t i = 1; !t->e && i < t->d.marked && i < (size_t)max_length; i++) row.supervised += t->d.on[i];
    return p->visit(p->ctx, &row);
}

/* The block's drafts as rows, in order. */
static err take_block(struct pass *p, int max_length, struct rows *out) {
    for (int k = 0; k < p->b.n; k++) {
        struct slot *t = &p->slot[k];
        const int before = out->n;
        if (p->visit) {
            TRY(show(p, k, max_length));
            continue;
        }
        if (t->e) return fail(t->e, "%s", t->why ? t->why : "out of memory");
        err e =
            p->job->documents ? keep_document(&t->d, max_length, out, p->s->r) : keep_row(&t->d, max_length, !p->job->plain, out, p->s->r);
        const int part = p->b.part[k], line = p->b.x[k].line;
        if (e) return fail_in(e, "%s:%d", p->s->part[part].path, line);
        draft_clear(&t->d);
        if (out->first) out->first[p->b.from + k + 1] = out->n;
        for (int i = before; i < out->n && p->s->r; i++) out->r[i].path = p->path[part], out->r[i].line = line;
    }
    return OK;
}

static err all_rows(struct pass *p, int max_length, struct rows *out) {
    p->path = arena_alloc(&out->mem, (size_t)p->s->n_parts * sizeof *p->path);
    if (!p->path) return out_of_memory();
    for (int i = 0; i < p->s->n_parts; i++)
        if (!(p->path[i] = arena_str(&out->mem, p->s->part[i].path))) return out_of_memory();
    if (max_length < 2) return fail(E_USAGE, "max_length %d: a row needs a token to read and one to learn", max_length);
    if (p->job->documents) {
        out->bytes += ((size_t)p->s->n + 1) * sizeof *out->first;
        if (!(out->first = calloc((size_t)p->s->n + 1, sizeof *out->first))) return out_of_memory();
    }
    while (p->b.from + p->b.n < p->s->n) {
        TRY(block_next(&p->b));
        draft_block(p);
        TRY(take_block(p, max_length, out));
    }
    return p->job->documents && !out->n ? fail(E_INPUT, "%s: no text with two tokens", p->s->path) : OK;
}

/* ---- rows that are made when drawn ---- */

struct row_stream {
    struct job job;
    const struct source *s;
    int max_length;
    struct fetcher f;
    struct draft d;
    int record; /* 1 + the one that is in d, of documents */
    struct rows batch;
};

static err stream_begin(struct job *job, const struct source *s, int max_length, struct rows *out) {
    out->stream = calloc(1, sizeof *out->stream);
    if (!out->stream) return out_of_memory();
    *out->stream = (struct row_stream){.job = *job, .s = s, .max_length = max_length};
    out->bytes += sizeof *out->stream + BLOCK_BYTES; /* the reader's window and the rows of a step */
    *job = (struct job){0};
    return OK;
}

/* Which record row i is of: the last one that begins at it or before. Those without a row begin where the next one does. */
static int record_of(const struct rows *rows, const struct source *s, int i) {
    int low = 0, high = s->n;
    if (!rows->first) return i;
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        if (rows->first[middle] <= i) low = middle;
        else high = middle;
    }
    return low;
}

static err draft_again(struct row_stream *st, int record) {
    struct record rec;
    if (st->record == record + 1) return OK; /* the next row of the same document */
    TRY(source_fetch(st->s, record, &st->f, &rec));
    st->record = 0;
    st->d.line = rec.line;
    draft_clear(&st->d);
    TRY(st->job.draft(&st->job, &rec, &st->d));
    TRY(take_given(st->s, &rec, record, &st->d));
    st->record = record + 1;
    return OK;
}

static err draw(struct row_stream *st, const struct rows *rows, int i) {
    const int record = record_of(rows, st->s, i);
    const struct source_part *part = source_part_of(st->s, record);
    size_t from, n;
    err e = draft_again(st, record);
    if (!e && !rows->first) e = keep_row(&st->d, st->max_length, !st->job.plain, &st->batch, true);
    else if (!e && !(n = document_row(&st->d, st->max_length, (size_t)(i - rows->first[record]), &from)))
        e = fail(E_INPUT, "a shorter text than when the run began: did the file change?");
    else if (!e) e = keep_span(&st->d, from, n, &st->batch, true);
    if (e) return fail_in(e, "%s:%d", part->path, st->d.line);
    struct row *r = &st->batch.r[st->batch.n - 1];
    r->path = part->path;
    r->line = st->d.line;
    return OK;
}

err rows_draw(struct rows *rows, const int *which, int n, const struct row **list) {
    struct row_stream *st = rows->stream;
    if (st) {
        arena_free(&st->batch.mem);
        st->batch.n = 0;
        for (int i = 0; i < n; i++) TRY(draw(st, rows, which[i]));
    }
    for (int i = 0; i < n; i++) list[i] = st ? &st->batch.r[i] : &rows->r[which[i]];
    return OK;
}

static void stream_free(struct row_stream *st) {
    if (!st) return;
    job_free(&st->job);
    fetcher_free(&st->f);
    draft_free(&st->d);
    rows_free(&st->batch);
    free(st);
}

static err pass_open(struct pass **out, const struct source *s, const struct job *job) {
    struct pass *p = *out = calloc(1, sizeof *p);
    if (!p) return out_of_memory();
    p->s = p->b.s = s;
    p->job = job;
    return OK;
}

static void pass_close(struct pass *p) {
    if (!p) return;
    for (int k = 0; k < BLOCK; k++) {
        draft_free(&p->slot[k].d);
        free(p->slot[k].why);
    }
    for (int k = 0; k < CHATS; k++) chat_close(p->chat[k]);
    block_free(&p->b);
    free(p);
}

/* The rows of a source, in order. Releases what the job holds, or hands it on to those that are made when drawn. */
static err make_rows(struct job *job, const struct source *s, int max_length, struct rows *out) {
    *out = (struct rows){0};
    struct pass *p = NULL;
    err e = check_given(s);
    if (!e) e = pass_open(&p, s, job);
    if (!e) e = all_rows(p, max_length, out);
    pass_close(p);
    if (!e && !s->r) e = stream_begin(job, s, max_length, out);
    job_free(job);
    struct row *fits = out->n && out->r ? realloc(out->r, (size_t)out->n * sizeof *out->r) : NULL;
    if (fits) out->r = fits, out->cap = out->n;
    out->bytes += arena_used(&out->mem) + (size_t)out->cap * sizeof *out->r;
    if (e) rows_free(out);
    return e;
}

/* ---- drafts ---- */

static err draft_completion(struct job *job, const struct record *r, struct draft *d) {
    TRY(tokenizer_encode(job->tk, r->prompt, strlen(r->prompt), true, &d->ids));
    TRY(lead_bos(job->tk, &d->ids));
    TRY(mark(d, false));
    TRY(tokenizer_encode(job->tk, r->completion, strlen(r->completion), ENCODE_SPECIAL | ENCODE_GOES_ON, &d->ids));
    TRY(put_eos(job->tk, &d->ids));
    return mark(d, true);
}

int answer_end(const tokenizer *tk, const int32_t *ids, const uint8_t *supervised, int k) {
    while (k && supervised[k - 1] && !tokenizer_is_special(tk, ids[k])) k--;
    return tokenizer_is_special(tk, ids[k]) ? k : -1;
}

/* What a conversation's row is to be whatever the template and the tokenizer do: not two BOS in front; each answer ends with
 * a control token that carries loss. */
static err check_chat(const tokenizer *tk, const struct draft *d) {
    const int32_t *v = d->ids.v, bos = tokenizer_bos(tk);
    if (d->ids.n > 1 && v[0] == bos && v[1] == bos) return fail(E_INPUT, "the chat template begins with two BOS tokens");
    for (size_t i = 0; i < d->ids.n; i++) {
        if (!d->on[i] || (i + 1 < d->ids.n && d->on[i + 1])) continue;
        if (answer_end(tk, v, d->on, (int)i) < 0) return fail(E_INPUT, "an answer that ends without an end token (token %zu)", i);
    }
    return OK;
}

static err draft_chat(struct job *job, const struct record *r, struct draft *d) {
    const struct chat_text *c = &job->rendered;
    if (!job->chat) TRY(chat_open(job->tk, &job->chat));
    TRY(chat_render(job->chat, r->turns, (size_t)r->n_turns, false, &job->rendered));
    for (size_t i = 0; i < c->n; i++) {
        unsigned flags = i ? ENCODE_SPECIAL | ENCODE_GOES_ON : ENCODE_SPECIAL;
        TRY(tokenizer_encode(job->tk, c->text.p + c->seg[i].start, c->seg[i].end - c->seg[i].start, flags, &d->ids));
        if (!i) TRY(lead_bos(job->tk, &d->ids));
        TRY(mark(d, c->seg[i].supervised));
    }
    return check_chat(job->tk, d);
}

static err draft_text(struct job *job, const struct record *r, struct draft *d) {
    d->text_bytes = (int64_t)strlen(r->text);
    TRY(tokenizer_encode(job->tk, r->text, (size_t)d->text_bytes, false, &d->ids));
    d->text_tokens = (int64_t)d->ids.n;
    TRY(lead_bos(job->tk, &d->ids));
    TRY(mark(d, true));
    if (d->marked) d->on[0] = 0;
    return OK;
}

static err draft_document(struct job *job, const struct record *r, struct draft *d) {
    TRY(draft_text(job, r, d));
    TRY(put_eos(job->tk, &d->ids));
    return mark(d, true);
}

/* Of a draft whose answers are marked. Between two answers there is always something that is none. */
static void choose_learnt(struct draft *d, enum learnt what) {
    size_t end = d->marked;
    if (what == LEARN_ALL) memset(d->on + 1, 1, d->marked - 1);
    while (end && !d->on[end - 1]) end--;
    while (end && d->on[end - 1]) end--;
    if (what == LEARN_LAST) memset(d->on, 0, end);
}

static err draft_sft(struct job *job, const struct record *r, struct draft *d) {
    if (r->text) return draft_document(job, r, d);
    TRY(r->n_turns ? draft_chat(job, r, d) : draft_completion(job, r, d));
    choose_learnt(d, job->learnt);
    return OK;
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

/* Is there a template, where a file has conversations? (A model without one can still learn from prompts and completions.) */
static err read_template(const tokenizer *tk, const struct source *s, struct job *job) {
    for (int i = 0; i < s->n_parts; i++) {
        const struct source_part *p = &s->part[i];
        if (!layout_has_turns(&p->layout)) continue;
        err e = chat_open(tk, &job->chat);
        return e ? fail_in(e, "%s:%d", p->path, p->layout.first_line) : OK;
    }
    return OK;
}

err rows_sft(const tokenizer *tk, const struct source *s, int max_length, struct rows *out) {
    struct job job = {.tk = tk, .learnt = s->opt.learnt, .draft = draft_sft};
    *out = (struct rows){0};
    TRY(read_template(tk, s, &job));
    return make_rows(&job, s, max_length, out);
}

err rows_visit(const tokenizer *tk, const struct source *s, int max_length, err (*visit)(void *ctx, const struct row_seen *row), void *ctx) {
    struct job job = {.tk = tk, .learnt = s->opt.learnt, .draft = draft_sft};
    struct rows none = {0};
    struct pass *p = NULL;
    if (tk) TRY(read_template(tk, s, &job));
    err e = pass_open(&p, s, &job);
    if (!e) {
        p->visit = visit;
        p->ctx = ctx;
        e = all_rows(p, max_length, &none);
    }
    pass_close(p);
    rows_free(&none);
    job_free(&job);
    return e;
}

/* How many of the draft's tokens the row has; of one that is cut the last become what comes after a text. */
static size_t cut(struct job *job, struct draft *d) {
    const struct ids *after = tokenizer_suffix(job->tk);
    const size_t most = (size_t)job->max_length / (job->classes->twice ? 2 : 1), n = d->ids.n < most ? d->ids.n : most;
    for (size_t i = 0; n < d->ids.n && i < after->n && i < n; i++) {
        d->ids.v[n - 1 - i] = after->v[after->n - 1 - i];
        if (d->tags.n) d->tags.v[n - 1 - i] = 0;
    }
    return n;
}

static err draft_labelled(struct job *job, const struct record *r, struct draft *d) {
    const struct labels *known = job->classes->labels;
    const int label = known ? labels_find(known, r->label) : 0, numbers = job->classes->numbers;
    if (label < 0) return labels_unknown(known, r->label);
    if (numbers && r->n_numbers != numbers)
        return fail(E_INPUT, "%d number%s, but the first record has %d", r->n_numbers, r->n_numbers == 1 ? "" : "s", numbers);
    TRY(tokenizer_encode(job->tk, r->text, strlen(r->text), 0, &d->ids));
    TRY(tokenizer_surround(job->tk, true, true, &d->ids));
    if (!d->ids.n) return fail(E_INPUT, "no token in the text");
    if (job->classes->twice) TRY(put_eos(job->tk, &d->ids));
    size_t n = cut(job, d);
    if (job->classes->twice) {
        d->ids.v[n - 1] = tokenizer_eos(job->tk); /* which is where the head reads */
        d->shortened = n < d->ids.n;
        d->ids.n = d->source = (int)n;
        TRY(ids_push(&d->ids, job->classes->start));
        for (size_t i = 0; i + 1 < n; i++) TRY(ids_push(&d->ids, d->ids.v[i]));
        n = d->ids.n;
    }
    TRY(mark(d, false));
    d->on[job->classes->first ? 0 : n - 1] = 1;
    d->label = numbers ? 0 : label + 1;
    d->target = r->number;
    d->n_target = numbers;
    return OK;
}

/* The class of a tag: by its name, or by its number. */
static int class_of_tag(const struct labels *known, const char *tag) {
    char *end;
    const int label = labels_find(known, tag);
    const long number = strtol(tag, &end, 10);
    return label >= 0 || end == tag || *end || number < 0 || number >= known->n ? label : (int)number;
}

/* Word by word, so that it is known which token begins which. */
static err draft_tagged(struct job *job, const struct record *r, struct draft *d) {
    const struct labels *known = job->classes->labels;
    TRY(lead_bos(job->tk, &d->ids));
    for (int i = 0; i < r->n_words; i++) {
        const int label = known ? class_of_tag(known, r->tags[i]) : i;
        const size_t at = d->ids.n, length = strlen(r->words[i]);
        if (label < 0) return labels_unknown(known, r->tags[i]);
        str_clear(&job->word);
        if (i) str_addc(&job->word, ' ');
        str_add(&job->word, r->words[i], length);
        if (job->word.failed) return out_of_memory();
        if (length) TRY(tokenizer_encode(job->tk, job->word.p, job->word.n, i ? ENCODE_GOES_ON : 0, &d->ids));
        while (d->tags.n < d->ids.n) TRY(ids_push(&d->tags, d->tags.n == at ? label + 1 : 0));
    }
    TRY(tokenizer_surround(job->tk, false, true, &d->ids));
    while (d->tags.n < d->ids.n) TRY(ids_push(&d->tags, 0));
    const size_t n = cut(job, d);
    size_t told = 0;
    TRY(mark(d, false));
    for (size_t i = 0; i < n; i++) told += d->on[i] = d->tags.v[i] != 0;
    return told ? OK : fail(E_INPUT, "no word with a token within max_length");
}

err rows_labelled(const tokenizer *tk, const struct class_form *form, const struct source *s, int max_length, struct rows *out) {
    return make_rows(&(struct job){.tk = tk, .classes = form, .max_length = max_length, .plain = true, .draft = draft_labelled}, s, max_length, out);
}

err rows_tagged(const tokenizer *tk, const struct class_form *form, const struct source *s, int max_length, struct rows *out) {
    return make_rows(&(struct job){.tk = tk, .classes = form, .max_length = max_length, .plain = true, .draft = draft_tagged}, s, max_length, out);
}

err rows_pairs(const tokenizer *tk, const struct prompt_form *f, const struct source *s, bool swap, int max_length,
               struct rows *out) {
    return make_rows(&(struct job){.tk = tk, .form = f, .swap = swap, .draft = draft_pair}, s, max_length, out);
}

err rows_documents(const tokenizer *tk, const struct source *s, int max_length, bool ends, struct rows *out) {
    return make_rows(&(struct job){.tk = tk, .documents = true, .draft = ends ? draft_document : draft_text}, s, max_length, out);
}

static err draft_side(struct job *job, const struct record *r, struct draft *d) {
    TRY(prompt_form_text(job->tk, job->form, r->text, &d->ids));
    return mark(d, false);
}

err rows_texts(const tokenizer *tk, const struct prompt_form *f, const struct source *s, int max_length, struct rows *out) {
    return make_rows(&(struct job){.tk = tk, .form = f, .plain = true, .draft = draft_side}, s, max_length, out);
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
    stream_free(r->stream);
    free(r->r);
    free(r->first);
    arena_free(&r->mem);
    *r = (struct rows){0};
}

/* ---- prompt forms ---- */

static const char place[] = "{text}";

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static err parse_form(const tokenizer *tk, const char *form, bool turn, struct prompt_form *f) {
    *f = (struct prompt_form){.turn = turn};
    const char *at = strstr(form, place), *tail = at ? at + strlen(place) : NULL, *lead = at;
    if (!at || strstr(tail, place)) return fail(E_USAGE, "prompt \"%s\": must hold {text} exactly once", form);
    while (lead > form && is_space(lead[-1]) && !turn) lead--;
    if (*tail && is_space(tail[strlen(tail) - 1]) && lead < at)
        log_warn(
            "prompt \"%s\" ends in whitespace and the answer begins with some (as {text} does): remove the prompt's",
            form);
    f->lead = strndup(lead, (size_t)(at - lead));
    err e = f->lead ? tokenizer_encode(tk, form, (size_t)(lead - form), true, &f->head) : out_of_memory();
    if (!e) e = lead_bos(tk, &f->head);
    if (!e) e = tokenizer_encode(tk, tail, strlen(tail), ENCODE_SPECIAL | ENCODE_GOES_ON, &f->tail);
    if (e) prompt_form_free(f);
    return e;
}

err prompt_form_parse(const tokenizer *tk, const char *form, struct prompt_form *f) { return parse_form(tk, form, false, f); }

err prompt_form_chat(const tokenizer *tk, const char *form, struct prompt_form *f) {
    struct chat *chat = NULL;
    struct chat_text all = {0};
    const char *at = strstr(form, place);
    *f = (struct prompt_form){0};
    if (at && at > form && at[-1] != '\n')
        return fail(E_USAGE, "prompt \"%s\": in a chat's turn {text} stands at the beginning, or begins a line, as an answer does", form);
    err e = chat_open(tk, &chat);
    if (!e) e = chat_render(chat, &(struct chat_message){"user", form}, 1, true, &all);
    if (!e) e = parse_form(tk, all.text.p ? all.text.p : "", true, f);
    chat_text_free(&all);
    chat_close(chat);
    return e;
}

void prompt_form_free(struct prompt_form *f) {
    ids_free(&f->head);
    ids_free(&f->tail);
    free(f->lead);
    *f = (struct prompt_form){0};
}

/* A tokenizer that puts a space before a text's first word (Llama 2's, T5's) does so only where the form has no lead of
 * its own. What stands before it in `out` has no say, so that the ids are the same on either side of a cycle. */
err prompt_form_text(const tokenizer *tk, const struct prompt_form *f, const char *text, struct ids *out) {
    str whole = {0};
    struct ids ids = {0};
    str_adds(&whole, f->lead);
    str_adds(&whole, text);
    err e = whole.failed ? out_of_memory() : tokenizer_encode(tk, whole.p, whole.n, *f->lead || f->turn ? ENCODE_GOES_ON : 0, &ids);
    if (!e) e = push_all(out, ids.v, ids.n);
    ids_free(&ids);
    str_free(&whole);
    return e;
}

err prompt_form_wrap(const struct prompt_form *f, const int32_t *text, size_t n, struct ids *out) {
    TRY(push_all(out, f->head.v, f->head.n));
    TRY(push_all(out, text, n));
    return push_all(out, f->tail.v, f->tail.n);
}
