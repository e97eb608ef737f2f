/* The data of a run: which files, in memory or streamed, in which order, and what they take.
 *
 * A side's files become one source (data/source.h). Streaming is decided here: `streaming: auto` streams where the files
 * are larger than an eighth of the memory limit, since records and ids in memory take two to four times a file's size.
 * Held-out data (eval, test, warm-up pairs) are always in memory: they are looked at as a whole.
 *
 * Called by the objectives' load and step, and by run.c for the plan. */
#define _DEFAULT_SOURCE
#include "train/run.h"
#include "base/log.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SHARE = 8 }; /* of the memory limit: what files may have before they are streamed */

static uint64_t in_memory(const struct config *c) {
    size_t limit = 0;
    if (!strcmp(c->streaming, "true")) return 0;
    if (!strcmp(c->streaming, "false")) return UINT64_MAX;
    config_bytes(c->memory, &limit); /* checked by config_check */
    if (!limit) limit = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    return limit / SHARE;
}

err data_given(const struct side_config *c, const char *file, struct npy *open, struct given_form *given) {
    if (!side_given(c, given) || !*file) return OK;
    if (!open->data) TRY(npy_open(file, open));
    given->file = open;
    given->field = NULL;
    return OK;
}

void data_fields(const struct run *r, const struct side_config *c, enum source_want want, const char **field, const char **label) {
    const bool of_words = want == WANT_TAGGED; /* what is not named otherwise is looked for under the names that data sets have (shapes.h) */
    *field = want == WANT_PAIR || want >= WANT_SFT || (of_words && !strcmp(c->field, "text")) ? NULL : c->field;
    *label = want < WANT_LABELLED || want > WANT_TAGGED || (of_words && !strcmp(r->cfg->label_field, "label")) ? NULL : r->cfg->label_field;
}

enum learnt data_learnt(const struct run *r) {
    const char *on = r->cfg->loss_on;
    return !strcmp(on, "all") ? LEARN_ALL : !strcmp(on, "last_answer") ? LEARN_LAST : LEARN_ANSWERS;
}

err data_open(struct run *r, const struct side_config *c, enum source_want want, bool held_out, struct source *s) {
    arena mem = {0};
    struct source_file *f = arena_alloc(&mem, (size_t)c->data.n * sizeof *f);
    struct source_options o = {.want = want,
                               .in_memory = held_out ? UINT64_MAX : in_memory(r->cfg),
                               .split = r->cfg->eval_split,
                               .held_out = held_out,
                               .learnt = data_learnt(r),
                               .threads = r->threads};
    err e = f ? data_given(c, c->projector_file, &r->given[0], &o.given) : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < c->data.n && !e; i++) {
        struct file_entry entry;
        e = config_entry(&mem, c->data.v[i], &entry);
        f[i] = (struct source_file){.path = entry.path, .format = entry.format ? entry.format : c->format, .field = entry.field, .weight = entry.weight, .limit = entry.limit};
        const char *field, *label;
        data_fields(r, c, want, &field, &label);
        if (!f[i].field) f[i].field = field;
        f[i].field2 = label;
    }
    if (!e) e = source_open_files(f, c->data.n, &o, s);
    arena_free(&mem);
    return e;
}

err data_order(const struct run *r, struct side *s, uint32_t stream) {
    const struct source *src = &s->source;
    struct order_part *part = calloc((size_t)src->n_parts, sizeof *part);
    double all = 0;
    if (!part) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < src->n_parts; i++) {
        const struct source_part *p = &src->part[i];
        const int first = rows_first(&s->rows, p->first), n = rows_first(&s->rows, p->first + p->n) - first;
        double take = fmin(fmax(round(p->weight * n), 1), INT32_MAX);
        part[i] = (struct order_part){first, n, (int)take};
        all += take;
    }
    for (int i = 0; i < src->n_parts && src->n_parts > 1; i++)
        log_info("%s: %.1f %% of the rows of an epoch (%d of %.0f)", src->part[i].path, 100 * part[i].take / all, part[i].take, all);
    err e = order_init_parts(&s->order, part, src->n_parts, (uint64_t)r->cfg->seed, stream, s->cfg->shuffle);
    free(part);
    return e;
}

err data_draw(struct side *s, int n, const struct row **list) {
    int *which = malloc((size_t)n * sizeof *which);
    if (!which) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n; i++) which[i] = order_next(&s->order);
    err e = rows_draw(&s->rows, which, n, list);
    free(which);
    return e;
}

static err draw_as(struct side *s, struct rows *rows, const int *which, int n, struct ids *texts) {
    if (rows == &s->rows && s->texts) {
        for (int i = 0; i < n; i++) texts[i] = s->texts[which[i]];
        return OK;
    }
    const struct row **list = calloc((size_t)n, sizeof *list);
    if (!list) return fail(E_MEMORY, "out of memory");
    err e = rows_draw(rows, which, n, list);
    for (int i = 0; i < n && !e; i++) texts[i] = (struct ids){list[i]->ids, (size_t)list[i]->n, 0};
    free(list);
    return e;
}

err data_draw_texts(struct side *s, int n, struct ids *texts, struct ids *answers) {
    int *which = malloc((size_t)n * sizeof *which);
    if (!which) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < n; i++) which[i] = order_next(&s->order);
    err e = draw_as(s, &s->rows, which, n, texts);
    if (!e && s->answers.n) e = draw_as(s, &s->answers, which, n, answers);
    for (int i = 0; i < n && !e && !s->answers.n; i++) answers[i] = texts[i];
    free(which);
    return e;
}

err data_texts(const struct side *s, int n, arena *mem, const char **text) {
    struct fetcher f = {0};
    struct record rec;
    err e = OK;
    for (int i = 0; i < n && !e; i++) {
        e = source_fetch(&s->source, i, &f, &rec);
        if (!e && !(text[i] = arena_str(mem, rec.text))) e = fail(E_MEMORY, "out of memory");
    }
    fetcher_free(&f);
    return e;
}

static size_t pairs_bytes(const struct pairs *p) {
    size_t n = p->source.bytes;
    for (int i = 0; i < CONFIG_SIDES; i++) n += p->more[i].bytes + p->rows[i].bytes;
    return n;
}

size_t data_bytes(const struct run *r) {
    size_t n = arena_used(&r->labels.mem) + pairs_bytes(&r->warm) + pairs_bytes(&r->eval) + pairs_bytes(&r->test) + guards_bytes(r);
    for (int i = 0; i < r->frozen.sets; i++) n += r->frozen.texts[i].bytes;
    n += r->frozen.bytes;
    for (int i = 0; i < r->n_sides; i++) {
        const struct side *s = &r->side[i];
        n += s->source.bytes + s->rows.bytes + s->answers.bytes + (size_t)s->order.n * sizeof *s->order.perm;
        if (s->texts) n += (size_t)s->n_texts * sizeof *s->texts;
        if (r->objective->generates) n += rollout_bytes(r, s);
    }
    return n;
}

bool data_streams(const struct run *r) {
    for (int i = 0; i < r->n_sides; i++)
        if (r->side[i].source.streams) return true;
    return false;
}
