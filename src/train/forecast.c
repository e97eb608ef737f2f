/* How long a step takes at the least: each instruction of its programs as long as its flops or its bytes need at the machine's rates, whichever
 * is longer (the roofline; op_def.cost), for the sizes that a mean step has. The rates are a card's from its data sheet (core/rates.h), the
 * processor's measured on the spot. What it leaves out makes every run slower than this: launches, caches, threads that wait. It is never a
 * reason to refuse anything.
 *
 * Assumed: rows of the data's mean length (without data: as long as max_length allows), generations that all run to max_new_tokens, rows of
 * equal length in a pass, all keys seen by a windowed layer. */
#include "train/run.h"
#include "base/arena.h"
#include "base/philox.h"
#include "gen/profile.h"
#include "ops/ops.h"
#include <math.h>

struct speed {
    double flops, bytes, link; /* the last of a card: each way between it and the host */
};                             /* a second */

/* --- the machine ------------------------------------------------------------------------------------------------------- */
enum { SIDE = 512, PRODUCT = 8 << 20, READ = 64 << 20 }; /* of matrices; bytes that a product of them wants, ... that are read */

static double fastest(double best, double t) { return best == 0 || t < best ? t : best; }

/* A product through the backend's own kernel, of matrices in the run's type: a few megabytes, in `room`. */
static err product_rate(struct run *r, struct prog *p, struct plan *pl, char *room, size_t bytes) {
    const int64_t d[2] = {SIDE, SIDE};
    const size_t row = dtype_row_bytes(r->compute, SIDE), matrix = SIDE * row;
    char *a = room;
    for (int i = 0; i < 2 * SIDE; i++) {
        float x[SIDE];
        for (int k = 0; k < SIDE; k++) x[k] = philox_unit(philox(1, (uint32_t)(i * SIDE + k), 0, 0, 0).v[0]) - 0.5f;
        quantise_row(r->compute, x, a + (size_t)i * row, SIDE);
    }
    val in[LIN_IN] = {{0}};
    p->compute = r->compute;
    in[LIN_X] = prog_input(p, r->compute, 2, d, "x"), in[LIN_W] = prog_base(p, r->compute, 2, d, a + matrix, "w");
    struct inst *i = prog_emit(p, &op_linear, in, LIN_IN, &(struct op_attr){.n = 1});
    if (i) prog_keep(p, i->out[0]);
    err e = p->failed ? p->failed : plan_make(pl, p, r->backend);
    if (!e && 2 * matrix + pl->scratch + pl->act > bytes) e = fail(E_INTERNAL, "a product takes %zu bytes", pl->scratch + pl->act);
    struct binding b = {.scratch = room + 2 * matrix, .act = room + 2 * matrix + pl->scratch, .input = (void *[]){a}};
    double best = 0;
    for (int k = 0; k < 6 && !e; k++) {
        const double t = seconds_now();
        e = plan_run(pl, &b, &(struct run_ctx){.threads = r->threads});
        best = fastest(best, seconds_now() - t);
    }
    if (!e) r->flops_rate = 2.0 * SIDE * SIDE * SIDE / best;
    return e;
}

/* Adds up what is there. */
static err read_rate(struct run *r, float *x, size_t bytes) {
    double best = 0, sum;
    err e = r->backend->mem->fill(x, 0, bytes);
    for (int k = 0; k < 4 && !e; k++) {
        const double t = seconds_now();
        e = r->backend->flat->sumsq(x, (int64_t)(bytes / 4), r->threads, &sum);
        best = fastest(best, seconds_now() - t);
    }
    if (!e && best > 0) r->bytes_rate = (double)bytes / best;
    return e;
}

/* At least `least` bytes, at most `most`, of the arena of the activations where the run has them: its peak is its own, not a measurement's. */
static char *room_for(struct run *r, size_t least, size_t most, size_t *bytes) {
    const size_t have = r->wb.mem.act_bytes & ~(size_t)63;
    const bool own = have >= least;
    *bytes = own && have < most ? have : most;
    return own ? r->wb.mem.act : pages_take(most);
}

static void room_end(struct run *r, char *room, size_t bytes) {
    if (room && room != r->wb.mem.act) pages_give(room, bytes);
}

static err measure(struct run *r) {
    struct prog p = {0};
    struct plan pl = {0};
    size_t bytes;
    char *room = room_for(r, PRODUCT, PRODUCT, &bytes);
    err e = room ? product_rate(r, &p, &pl, room, bytes) : fail(E_MEMORY, "out of memory");
    plan_free(&pl);
    prog_free(&p);
    room_end(r, room, bytes);
    if (e) return e;
    room = room_for(r, 1, READ, &bytes);
    e = room ? read_rate(r, (float *)room, bytes) : fail(E_MEMORY, "out of memory");
    room_end(r, room, bytes);
    return e;
}

/* Without rates there is no forecast. */
static bool rates_of(struct run *r, struct speed *s, const char **whose) {
    const struct rates *card = r->card ? r->card : r->backend->card ? rates_of_card(r->backend->card()) : NULL;
    if (card) {
        *s = (struct speed){r->compute == DT_F32 ? card->f32 : card->f16, card->bandwidth, card->link};
        *whose = card->title;
        return true;
    }
    if (!r->backend->mem->host || (!r->bytes_rate && measure(r))) return false;
    *s = (struct speed){r->flops_rate, r->bytes_rate, 0};
    *whose = "this processor, measured";
    return s->flops > 0 && s->bytes > 0;
}

void forecast_rates(struct run *r, struct profile *p) {
    struct speed s;
    p->whose = "not known";
    if (rates_of(r, &s, &p->whose)) p->flops = s.flops, p->bytes = s.bytes;
}

/* --- the work ---------------------------------------------------------------------------------------------------------- */
struct work {
    double flops, seconds;
};

/* An encoder has as many rows as the decoder. */
static void add_pass(struct work *w, const struct program *g, const struct pass *of, double times, const struct speed *s) {
    struct pass p = *of;
    p.sources = p.tokens;
    for (int i = 0; i < g->p.ni; i++) {
        const struct cost c = work_at(g, &g->p.in[i], &p);
        w->flops += times * c.flops;
        w->seconds += times * fmax(c.flops / s->flops, c.bytes / s->bytes);
    }
}

/* --- a step ------------------------------------------------------------------------------------------------------------ */
struct step {
    struct work generate, train;
    double optimizer;
};

static double mean_row(const struct run *r, const struct side *s) {
    return s->rows.n && s->rows.tokens ? (double)s->rows.tokens / s->rows.n : (double)(s->longest > 0 ? s->longest : r->cap.tokens);
}

/* The rows of one part of a cycle: what side i trains on, its synthetic text as long as it may be. */
static struct pass cycle_row(const struct run *r, int i) {
    const struct side *s = &r->side[i], *o = s->next;
    const double form = (double)(s->form.head.n + s->form.tail.n), made = (double)s->from->cfg->max_new_tokens;
    if (r->assumes) return (struct pass){.tokens = (double)r->cap.tokens, .rows = 1, .supervised = 1 - made / (double)r->cap.tokens};
    const double answer = mean_row(r, o) + 1;
    return (struct pass){.tokens = form + made + answer, .rows = 1, .supervised = answer / (form + made + answer)};
}

static struct pass row_of(const struct run *r, int i) {
    if (r->objective->generates) return cycle_row(r, i);
    const struct side *s = &r->side[i];
    const double share = s->rows.tokens ? (double)s->rows.supervised / (double)s->rows.tokens : 1;
    return (struct pass){.tokens = mean_row(r, s), .rows = 1, .supervised = share};
}

static double rows_of(const struct run *r, int i) { return (double)(r->side[i].cfg->batch * r->side[i].cfg->accumulation); }

/* All rows that go through the programs together with side i's: in a joint step those of all sides, of which its own are a part. */
static double rows_with(const struct run *r, int i) {
    double n = 0;
    for (int k = 0; k < r->n_sides; k++) n += run_joins(r) || k == i ? rows_of(r, k) : 0;
    return n;
}

static void add_training(const struct run *r, int i, const struct speed *s, struct step *out) {
    const struct program *g = &r->side[i].plans->train;
    const double n = rows_with(r, i), share = rows_of(r, i) / n;
    struct pass p = row_of(r, i);
    p.tokens += g->virtual_tokens;
    const double most = floor((double)g->p.cap[-SYM_N] / p.tokens), rows = fmin(n, most < 1 ? 1 : most), passes = ceil(n / rows);
    p.tokens *= n / passes, p.rows = n / passes;
    add_pass(&out->train, g, &p, share * passes, s);
    if (g->lesson && !*r->cfg->distill_cache) add_pass(&out->train, &r->teacher.body, &p, passes, s);
    /* the step; before it the gradient is set to zero and read for its norm, behind it the method's own states are read and written. States
     * that lie on the host come and go at the same time */
    const struct structure *st = &r->side[i].plans->st;
    const struct recipe q = run_recipe(r, r->side[i].cfg);
    const struct optim_settings how = recipe_settings(&q);
    const struct cost c = optim_cost(recipe_optimizer(&q), &how, &st->params);
    const double bytes = c.bytes + (2.0 + 2.0 * learner_states(st)) * (double)st->params.trained;
    const double there_and_back = q.page ? (double)optim_bytes(recipe_optimizer(&q), &how, &st->params) / s->link : 0;
    out->optimizer += fmax(fmax(c.flops / s->flops, bytes / s->bytes), there_and_back);
}

/* `rows` answers of `new` tokens to prompts of so many, so many times: a pass over the prompts, then token by token. */
struct writing {
    double rows, prompt, new, times;
};
static void add_writing(struct work *w, const struct generator *gen, const struct writing *of, const struct speed *s) {
    const struct pass first = {of->rows * of->prompt, of->rows, 1, of->prompt, 0},
                      next = {of->rows, of->rows, 1, of->prompt + of->new / 2, 0};
    add_pass(w, &gen->prefill, &first, of->times, s);
    add_pass(w, &gen->decode, &next, of->times * (of->new - 1), s);
}

/* The others write what side i trains on, one after the other. */
static void add_generation(const struct run *r, int i, const struct speed *s, struct step *out) {
    const double n = rows_with(r, i), batches = ceil(n / r->cap.slots), rows = n / batches, times = batches * rows_of(r, i) / n;
    for (const struct side *o = r->side[i].next; o != &r->side[i]; o = o->next) {
        const double new = (double)o->cfg->max_new_tokens,
                     text = o->from == &r->side[i] ? mean_row(r, o) : (double)o->from->cfg->max_new_tokens;
        const double prompt = r->assumes ? fmax(1, (double)r->cap.length - new) : text + (double)(o->form.head.n + o->form.tail.n);
        add_writing(&out->generate, &o->plans->gen, &(struct writing){rows, prompt, new, times}, s);
    }
}

/* An evaluation's way through a guard: its rows, or its questions and what is written for them. */
static void add_guard(struct work *w, const struct run *r, const struct guard *g, const struct side *on, const struct speed *s) {
    const struct program *score = g->kind == GUARD_LABELS ? &on->plans->score : rows_scorer(r, on);
    const struct rows *rows = guard_rows(r, g, on);
    const double n = rows->n, all = (double)rows->tokens + n * score->virtual_tokens;
    if (g->kind == GUARD_QA) {
        const struct prompt_form *f = &g->form[on->base - r->base];
        const double times = ceil(n / r->cap.slots), prompt = (double)rows->tokens / n + (double)(f->head.n + f->tail.n);
        return add_writing(w, &on->plans->gen, &(struct writing){n / times, prompt, (double)on->cfg->max_new_tokens, times}, s);
    }
    const double passes = ceil(all / (double)score->p.cap[-SYM_N]);
    const struct pass p = {.tokens = all / passes, .rows = n / passes, .supervised = (double)rows->supervised / (double)rows->tokens};
    add_pass(w, score, &p, passes, s);
}

static double guards_time(const struct run *r, const struct speed *s) {
    struct work w = {0};
    for (int i = 0; i < r->n_guards; i++)
        for (int k = 0; k < r->n_sides; k++) add_guard(&w, r, &r->guard[i], &r->side[k], s);
    return w.seconds;
}

static json_t *spent(const struct run *r) {
    const double n = (double)r->timed_steps;
    return json_pack("{s:f, s:f, s:f}", "generate_s", r->generate_s / n, "train_s", r->train_s / n, "step_s", r->step_s / n);
}

json_t *forecast_json(struct run *r) {
    struct speed s;
    struct step step = {0};
    const char *whose;
    if (r->freezes || !rates_of(r, &s, &whose)) return NULL; /* a head on rows that are computed once takes no time worth telling */
    for (int i = 0; i < r->n_sides; i++) {
        add_training(r, i, &s, &step);
        if (r->objective->generates) add_generation(r, i, &s, &step);
    }
    json_t *j = json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:b}", "rates", whose, "flops_per_second", s.flops, "bytes_per_second",
                          s.bytes, "flops", step.generate.flops + step.train.flops, "generate_s", step.generate.seconds, "train_s",
                          step.train.seconds, "optimizer_s", step.optimizer, "step_s",
                          step.generate.seconds + step.train.seconds + step.optimizer, "assumed_lengths", (int)r->assumes);
    if (j && r->n_guards) json_object_set_new(j, "guards_s", json_real(guards_time(r, &s)));
    if (j && r->timed_steps) json_object_set_new(j, "measured", spent(r));
    return j;
}
