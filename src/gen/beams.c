/* Beam search: of each prompt the so many likeliest texts side by side, as transformers' generate(num_beams=) finds them.
 *
 * A step reads the log-probabilities of the best 2 * beams ids of every live beam, which hold the best 2 * beams of all its continuations: as
 * many as are needed where half of them end. What ends among the first half becomes a hypothesis, ranked by its log-probability over its
 * length to the power of length_penalty; what does not goes on. A search is over when nothing live can outrank its hypotheses any more (see
 * enum early_stopping), and then leaves the batch.
 *
 * The beams of a prompt have its slots. A beam's first continuation stays in the slot where its keys and values are; another takes the slot of
 * a beam that has none, and is given what that slot lacks by the program `copy`: of the first step the prompt, later the answer so far alone.
 * So nothing is kept twice beside what beams are. The encoder's keys are read by all beams where prefill has put them. */
#include "gen/batch.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct hypothesis {
    float score, worth;
    int n;
    bool stopped;
    int32_t *ids;
};
struct live {
    float score;
    int slot;
    int32_t *ids;
}; /* ids: `made` of them */
struct search {
    int place; /* in the order: whose search it is */
    int made;
    bool over;
    struct live *live, *next; /* [beams] */
    struct hypothesis *best;  /* [beams], the best first */
    int n_best;
};
struct searches {
    const struct generating *w;
    int n, beams;
    struct search *all;
    void *mem;
};
struct candidate {
    float score;
    int beam;
    int32_t id;
};

static int likelier(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : (x->beam > y->beam) - (x->beam < y->beam);
}

/* --- memory --------------------------------------------------------------------------------------------------------- */
static err searches_init(struct searches *q, const struct generating *w) {
    const size_t n = (size_t)(w->to - w->from), B = (size_t)w->g->choosing.beams, ids = (size_t)w->rq->max_new;
    const size_t each = sizeof *q->all + B * (2 * sizeof(struct live) + sizeof(struct hypothesis) + 3 * ids * sizeof(int32_t));
    *q = (struct searches){.w = w, .n = (int)n, .beams = (int)B, .mem = calloc(n, each)};
    if (!q->mem) return fail(E_MEMORY, "out of memory");
    struct live *live = (struct live *)((q->all = q->mem) + n);
    struct hypothesis *best = (struct hypothesis *)(live + 2 * n * B);
    int32_t *text = (int32_t *)(best + n * B);
    for (size_t i = 0; i < n; i++, live += 2 * B, best += B) {
        q->all[i] = (struct search){.place = w->from + (int)i, .live = live, .next = live + B, .best = best};
        for (size_t k = 0; k < 2 * B; k++, text += ids) live[k].ids = text;
        for (size_t k = 0; k < B; k++, text += ids) best[k].ids = text;
        for (size_t k = 0; k < B; k++) live[k].slot = (int)(i * B + k);
    }
    return OK;
}

/* --- slots ----------------------------------------------------------------------------------------------------------- */
/* The positions that slot `to` lacks of slot `from`. */
static err copy_slot(const struct searches *q, const struct search *s, int from, int to) {
    const int begin = generate_begins(q->w, q->w->order[s->place]);
    return generate_copy(q->w, from, to, s->made ? begin : 0, begin + s->made);
}

/* The next beam `i` is `parent`'s continuation: in its slot where no other is, else in one that no parent needs. */
static err settle(const struct searches *q, struct search *s, const int *parent, int n) {
    bool needed[MOST_BEAMS] = {false}, taken[MOST_BEAMS] = {false};
    for (int i = 0; i < n; i++) needed[parent[i]] = true;
    for (int i = 0, spare = 0; i < n; i++) {
        const struct live *p = &s->live[parent[i]];
        if (!taken[parent[i]]) {
            taken[parent[i]] = true;
            s->next[i].slot = p->slot;
            continue;
        }
        while (needed[spare]) spare++;
        s->next[i].slot = s->live[spare++].slot;
        TRY(copy_slot(q, s, p->slot, s->next[i].slot));
    }
    return OK;
}

/* --- one prompt ----------------------------------------------------------------------------------------------------- */
static void keep(struct search *q, int beams, const struct hypothesis *h, const int32_t *ids, int32_t last) {
    if (q->n_best == beams && !(h->worth > q->best[beams - 1].worth)) return;
    int at = q->n_best < beams ? q->n_best++ : beams - 1;
    int32_t *room = q->best[at].ids;
    for (; at > 0 && h->worth > q->best[at - 1].worth; at--) q->best[at] = q->best[at - 1];
    q->best[at] = *h;
    q->best[at].ids = room;
    memcpy(room, ids, (size_t)q->made * sizeof *ids);
    if (!h->stopped) room[q->made] = last;
}

/* The beams' continuations as candidates; at first there is one beam. id, logprob: [beams][2 * beams]. Returns how many. */
static int candidates_of(const struct search *q, int beams, const int32_t *id, const float *logprob, struct candidate *c) {
    const int from = q->made ? beams : 1, each = 2 * beams;
    for (int i = 0; i < from * each; i++) c[i] = (struct candidate){q->live[i / each].score + logprob[i], i / each, id[i]};
    qsort(c, (size_t)(from * each), sizeof *c, likelier);
    return each;
}

static bool can_improve(const struct searches *q, const struct search *s) {
    const struct beaming *how = &q->w->rq->beaming;
    if (s->n_best < q->beams) return true;
    if (how->stopping == BEAM_EARLY) return false;
    const bool longest = how->stopping == BEAM_NEVER && how->length_penalty > 0;
    const float length = (float)(longest ? q->w->rq->max_new : s->made);
    return s->live[0].score / powf(length, how->length_penalty) > s->best[q->beams - 1].worth;
}

static err advance(const struct searches *q, struct search *s, const int32_t *id, const float *logprob) {
    const struct generate_request *rq = q->w->rq;
    struct candidate c[2 * MOST_BEAMS * MOST_BEAMS];
    const int n = candidates_of(s, q->beams, id, logprob, c), length = s->made + 1;
    int parent[MOST_BEAMS], on = 0;
    for (int i = 0; i < n; i++) {
        const struct live *p = &s->live[c[i].beam];
        const bool stopped = c[i].id == rq->eos, ends = stopped || length == rq->max_new;
        if (ends && i < q->beams)
            keep(s, q->beams,
                 &(struct hypothesis){c[i].score, c[i].score / powf((float)length, rq->beaming.length_penalty), s->made + !stopped, stopped, NULL},
                 p->ids, c[i].id);
        if (ends || on == q->beams) continue;
        memcpy(s->next[on].ids, p->ids, (size_t)s->made * sizeof *p->ids);
        s->next[on].ids[s->made] = c[i].id;
        s->next[on].score = c[i].score;
        parent[on++] = c[i].beam;
    }
    s->over = on < q->beams; /* all have ended */
    if (!s->over) {
        TRY(settle(q, s, parent, on));
        struct live *was = s->live;
        s->live = s->next, s->next = was;
    }
    s->made = length;
    s->over = s->over || !can_improve(q, s);
    return OK;
}

/* --- all of them ---------------------------------------------------------------------------------------------------- */
/* What a run has said of `lines` rows, into w->b->next: ids, then log-probabilities. */
static err read_best(const struct searches *q, const struct program *g, int n, int s, int lines, const float **logprob) {
    const size_t numbers = (size_t)lines * 2 * (size_t)q->beams;
    int32_t *ids = q->w->b->next;
    *logprob = (const float *)(ids + numbers);
    TRY(program_read(g, q->w->mem, g->next, n, s, ids, numbers * 4));
    return program_read(g, q->w->mem, g->logprob, n, s, ids + numbers, numbers * 4);
}

static err begin(struct searches *q) {
    const struct generating *w = q->w;
    const float *logprob;
    for (int place = w->from, n, s; place < w->to; place += s) {
        TRY(generate_pass(w, place, &n, &s));
        TRY(read_best(q, generate_opens(w), n, s, s, &logprob));
        for (int i = 0; i < s; i++)
            TRY(advance(q, &q->all[place - w->from + i], w->b->next + i * 2 * q->beams, logprob + i * 2 * q->beams));
        TRY(generate_copies(w)); /* the next pass writes over its list */
    }
    return OK;
}

/* One token more of every beam of a search that goes on; *any: there was one. */
static err step(struct searches *q, bool *any) {
    const struct generating *w = q->w;
    const struct program *decode = &w->g->decode;
    const float *logprob;
    int n = 0;
    for (int i = 0; i < q->n; i++)
        for (int k = 0; k < q->beams && !q->all[i].over; k++) {
            const struct live *l = &q->all[i].live[k];
            generate_line(w, n++, q->all[i].place, l->ids[q->all[i].made - 1], q->all[i].made, l->slot);
        }
    *any = n > 0;
    if (!n) return OK;
    const int lines = generate_lines(w, n);
    const struct feed f = generate_feed(w->b, lines);
    TRY(program_run(decode, w->mem, w->param, NULL, &f, &w->rq->run, false));
    w->stats->runs++;
    TRY(read_best(q, decode, lines, 0, lines, &logprob));
    for (int i = 0, at = 0; i < q->n; i++) {
        if (q->all[i].over) continue;
        TRY(advance(q, &q->all[i], w->b->next + at, logprob + at));
        at += 2 * q->beams * q->beams;
    }
    return generate_copies(w);
}

static void give(const struct searches *q) {
    for (int i = 0; i < q->n; i++) {
        const struct hypothesis *h = &q->all[i].best[0];
        struct generation *o = &q->w->out[q->w->order[q->all[i].place]];
        o->n = h->n, o->stopped = h->stopped, o->logprob = (double)h->score;
        memcpy(o->ids, h->ids, (size_t)h->n * sizeof *h->ids);
    }
}

err beams_run(const struct generating *w) {
    struct searches q;
    const double t0 = seconds_now();
    TRY(searches_init(&q, w));
    err e = begin(&q);
    const double t1 = seconds_now();
    for (bool any = !e; any && !e;) {
        if (w->rq->stop && *w->rq->stop) e = fail(E_INTERRUPTED, "interrupted");
        if (!e) e = step(&q, &any);
    }
    if (!e) give(&q);
    w->stats->prefill_s += t1 - t0;
    w->stats->decode_s += seconds_now() - t1;
    free(q.mem);
    return e;
}
