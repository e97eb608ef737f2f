/* Opening, planning and looping a run. See run.h. */
#define _DEFAULT_SOURCE
#include "train/run.h"
#include "base/log.h"
#include "base/process.h"
#include "cpu/cpu.h"
#include "model/derived.h"
#include "ops/ops.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct objective *const objectives[] = {
#define OBJECTIVE(name) &objective_##name,
#include "train/objectives.def"
#undef OBJECTIVE
};

/* Of the heap and the stacks what is on no list, measured (docs/memory.md): settings, pages while they are written, texts that are made and judged, holes
 * that reading has left; a thread's stack; of an adapter's tensor its name in a file's header, which is read again where the best adapter is wanted; what
 * is kept of an evaluation, and of a class in it. Of all that so much is left to come when the rest is brought in (settle). */
enum { HEAP_BYTES = 1344 << 10, STACK_BYTES = 12 << 10, TENSOR_BYTES = 1260, EVALUATION_BYTES = 6 << 10, CLASS_BYTES = 800, LEFT_BYTES = 128 << 10 };

static err pick_objective(struct run *r) {
    for (size_t i = 0; i < sizeof objectives / sizeof *objectives; i++)
        if (!strcmp(objectives[i]->name, r->cfg->objective))
            return r->objective = objectives[i], r->generates = objectives[i]->generates, OK;
    return fail(E_INTERNAL, "objective '%s' has no row in objectives.def", r->cfg->objective);
}

static err pick_device(struct run *r) {
    r->card = rates_named(r->cfg->device);
    if (r->card && !r->plans_only)
        return fail(E_USAGE, "device: %s (%s) is a name to plan for (cyclora plan); a run on such a card says device: cuda", r->card->name,
                    r->card->title);
    err e = backend_pick(r->card ? "cuda" : r->cfg->device, &r->backend);
    if (e) return r->card ? fail_in(e, "device %s", r->card->name) : e;
    TRY(backend_compute(r->backend, r->cfg->dtype, &r->compute));
    r->narrow = strcmp(r->cfg->trained_dtype, "float32") != 0;
    if (strcmp(r->cfg->offload_optimizer, "none") != 0 && r->backend->mem->host)
        return fail(E_USAGE,
                    "offload_optimizer: %s moves the optimizer's states from a card to the host's memory; this run is on the %s, where "
                    "they are there already: leave it out",
                    r->cfg->offload_optimizer, r->backend->name);
    TRY(backend_cache(r->backend, r->cfg->kv_cache_dtype, r->compute, &r->cache));
    if (r->cfg->tf32 && (r->backend->mem->host || r->compute != DT_F32))
        log_warn("tf32 is ignored: it is how a card multiplies in float32, and this run computes in %s on %s", dtype_info[r->compute].name,
                 r->backend->name);
    if (r->backend->configure) r->backend->configure(&(struct settings){.deterministic = r->cfg->deterministic, .tf32 = r->cfg->tf32});
    return OK;
}

/* Sides of equal structure on one base share plans: find one or lay it down. */
static err side_plans(struct run *r, struct side *s) {
    const struct peft_method *method;
    const void *settings;
    TRY(side_method(s, r, &r->cfg->mem, &method, &settings));
    for (int i = 0; i < r->n_plans; i++)
        if (r->plans[i].base == s->base && r->plans[i].st.method == method && method->same(r->plans[i].st.settings, settings))
            return s->plans = &r->plans[i], OK;
    struct plans *p = &r->plans[r->n_plans];
    p->base = s->base;
    TRY(structure_init_head(&p->st, &s->base->model, method, settings, &r->head, &p->modules));
    method_heed_ranks(&p->st);
    p->st.terms = (struct loss_terms){.smoothing = (float)r->cfg->label_smoothing, .z = (float)r->cfg->z_loss};
    p->st.noise = (float)r->cfg->neftune_alpha;
    p->st.adapters = run_joins(r) ? r->n_sides : 0;
    p->st.lesson = r->teacher.lesson.train.share > 0 ? &r->teacher.lesson : NULL;
    r->n_plans++;
    s->plans = p;
    p->st.params.narrow = r->narrow;
    return OK;
}

/* How the sides of these plans choose tokens, as far as it changes programs: what one of them asks for is there for all. */
static struct choosing choosing_of(const struct run *r, const struct plans *p) {
    struct choosing how = {0};
    for (int i = 0; i < r->n_sides; i++) {
        const struct side_config *c = r->side[i].cfg;
        const struct sampling sampling = side_sampling(c, 0);
        if (r->side[i].plans != p) continue;
        how.rules = how.rules || sampling_processes(&sampling);
        if (c->share_head > how.head) how.head = (int)c->share_head;
    }
    return how;
}

/* Beams have the slots that rows have, as far as these go. */
static err build_generators(const struct run *r, struct plans *p, struct capacity cap) {
    struct choosing how = choosing_of(r, p);
    TRY(generator_choosing(&p->gen, &p->base->model, &p->st, cap, &how, r->backend));
    how.beams = (int)r->cfg->eval_beams;
    if (cap.slots < how.beams) cap.slots = how.beams;
    return how.beams > 1 ? generator_choosing(&p->beam, &p->base->model, &p->st, cap, &how, r->backend) : OK;
}

/* pass_tokens counts virtual tokens too: they are computed. */
static err build_plans(struct run *r, struct plans *p, int64_t pass_tokens) {
    const struct model *m = &p->base->model;
    struct capacity cap = r->cap;
    if (pass_tokens - p->st.virtual_tokens > cap.tokens) cap.tokens = (int)pass_tokens - p->st.virtual_tokens;
    TRY(program_train(&p->train, m, &p->st, cap, &r->levels, r->backend));
    if (r->cfg->optimizer_in_bwd) TRY(plan_fuse(&p->train.plan, &p->st.params, &p->fused));
    TRY(program_build(&p->score, m, r->objective->heading ? MODE_CLASSIFY : MODE_SCORE, &p->st, cap, CHECKPOINT_NONE, r->backend, false));
    if (r->freezes)
        TRY(program_build(&p->body, m, r->head.kind == HEAD_TAGS ? MODE_FEATURES : MODE_CLASSIFY, NULL, cap, CHECKPOINT_NONE, r->backend,
                          false));
    p->generates = r->generates;
    const struct head head = p->st.head;
    p->st.head = (struct head){0}; /* what reads and writes texts has none */
    err e = r->beneath ? program_build(&p->beneath, m, MODE_SCORE, &p->st, cap, CHECKPOINT_NONE, r->backend, false) : OK;
    if (e) e = fail_in(e, "'guard.data', whose texts the language model beneath the head reads");
    if (!e && p->generates) e = build_generators(r, p, cap);
    p->st.head = head;
    return e;
}

/* A base without an adapter. Where a trained copy stands in the place of a tensor, the tensor itself may not be in memory. */
static err build_bare(struct run *r, struct base *b, int64_t pass_tokens) {
    struct capacity cap = r->cap;
    if (pass_tokens > cap.tokens) cap.tokens = (int)pass_tokens;
    program_free(&b->bare);
    for (int i = 0; i < r->n_plans; i++)
        for (int k = 0; k < b->model.n; k++)
            if (param_copies(&r->plans[i].st.params, b->model.w[k].data)) return OK;
    if (!r->objective->generates || b->model.family->seq2seq) return OK;
    return program_build(&b->bare, &b->model, MODE_SCORE, NULL, cap, CHECKPOINT_NONE, r->backend, false);
}

/* Tokens of the longest pass, virtual ones included. */
int run_pass(const struct run *r) {
    int64_t n = 0;
    for (int i = 0; i < r->n_plans; i++)
        if (r->plans[i].train.p.cap[-SYM_N] > n) n = r->plans[i].train.p.cap[-SYM_N];
    return (int)n;
}

static int most_virtual(const struct run *r) {
    int n = 0;
    for (int i = 0; i < r->n_plans; i++)
        if (r->plans[i].st.virtual_tokens > n) n = r->plans[i].st.virtual_tokens;
    return n;
}

static void drop_plans(struct plans *p) {
    fused_free(&p->fused);
    program_free(&p->train);
    program_free(&p->score);
    program_free(&p->beneath);
    program_free(&p->body);
    generator_free(&p->gen);
    generator_free(&p->beam);
}

int run_programs(const struct run *r, const struct program *out[RUN_PROGRAMS], int phase) {
    const bool all = phase == PHASES;
    int n = teacher_programs(r, out, phase); /* first: its tensors are where its own programs read them */
    for (int i = 0; i < r->n_plans; i++) {
        const struct plans *p = &r->plans[i];
        if (all || phase == PHASE_TRAIN) out[n++] = &p->train;
        if (all || phase == PHASE_EVALUATE) out[n++] = &p->score;
        if (p->beneath.p.ni && (all || phase == PHASE_EVALUATE)) out[n++] = &p->beneath;
        if (p->generates && (all || phase == PHASE_GENERATE || phase == PHASE_EVALUATE)) n += generator_programs(&p->gen, out + n);
        if (all || phase == PHASE_EVALUATE) n += generator_programs(&p->beam, out + n);
    }
    for (int i = 0; i < r->n_bases; i++)
        if (r->base[i].bare.p.ni && (all || phase == PHASE_EVALUATE)) out[n++] = &r->base[i].bare;
    if (r->freezes && phase == PHASE_LOAD) out[n++] = &r->plans[0].body; /* before the others run, in memory that is given back */
    return n;
}

/* Of those whose memory is taken for the whole run. */
static int list_programs(struct run *r, struct program **out) { return run_programs(r, (const struct program **)out, PHASES); }

/* The lists that models, adapters and programs are; tokenizers' tables, and the words that they keep where texts are still read when rows are made. */
static size_t description_bytes(const struct run *r) {
    const struct program *list[RUN_PROGRAMS];
    size_t bytes = 0;
    for (int i = 0; i < r->n_bases; i++) {
        const struct base *b = &r->base[i];
        bytes += model_list_bytes(&b->model);
        if (b->tok) bytes += tokenizer_bytes(b->tok) + (r->generates || data_streams(r) ? tokenizer_words_bytes() : 0);
    }
    for (int i = 0; i < r->n_plans; i++) bytes += param_list_bytes(&r->plans[i].st.params);
    for (int i = run_programs(r, list, PHASES) - 1; i >= 0; i--) bytes += prog_bytes(&list[i]->p);
    return bytes;
}

static size_t heap_beside(const struct run *r) {
    size_t most = 0;
    for (int i = 0; i < r->n_plans; i++) {
        const struct param_set *s = &r->plans[i].st.params;
        size_t tensors = 0;
        for (int k = 0; k < s->n; k++) tensors += (size_t)s->p[k].n_slices;
        if (tensors > most) most = tensors;
    }
    const int64_t every = r->cfg->eval_steps, evaluations = 3 + (every > 0 ? run_total(r) / every : 0); /* before, after and of test data */
    return HEAP_BYTES + (size_t)r->threads * STACK_BYTES + most * TENSOR_BYTES +
           (size_t)evaluations * (EVALUATION_BYTES + (size_t)r->head.classes * CLASS_BYTES);
}

/* What arenas take of a card beyond their bytes. It gives out pages of 2 MiB: what is larger than half of one has pages of its own, smaller ones share
 * (measured: H100, H200, CUDA 13). Of a page that opening has begun, and that the backend has counted, three quarters at least are left for the first that
 * fit into it. */
struct losses { size_t page, open, within, shared, whole; };

static void lose(struct losses *l, size_t bytes) {
    if (bytes <= l->open) l->open -= bytes, l->within += bytes;
    else if (2 * bytes <= l->page) l->shared += bytes;
    else l->whole += (l->page - bytes % l->page) % l->page;
}

static int64_t lost_bytes(const struct run *r, const struct memory *m, const size_t *bases) {
    const size_t page = r->backend->mem->page;
    struct losses l = {.page = page, .open = page / 4 * 3};
    for (int i = 0; i < r->n_bases; i++) lose(&l, bases[i]);
    const size_t arenas[] = {m->act_bytes, m->scratch_bytes, m->work_bytes, m->stage_bytes, r->foot.gradients, r->teacher.weight_bytes};
    for (size_t i = 0; i < sizeof arenas / sizeof *arenas; i++) lose(&l, arenas[i]);
    for (int i = 0; i < r->n_sides; i++) {
        size_t own[RECIPE_ARENAS];
        lose(&l, param_weight_bytes(&r->side[i].plans->st.params));
        for (int k = recipe_arenas(r, &r->side[i], own) - 1; k >= 0; k--) lose(&l, own[k]);
    }
    return (int64_t)(l.whole + (l.shared ? page - l.shared % page : 0)) - (int64_t)l.within;
}

/* Of a card's memory beside the arenas: what its backend takes for the most demanding of the programs, inputs, and what is lost to pages. */
static size_t card_runtime(const struct run *r, const struct program *const *list, int n, const struct memory *m, const size_t *bases) {
    size_t most = 0;
    for (int i = 0; i < n; i++) {
        const size_t bytes = r->backend->own(&list[i]->p, m->host_bytes + r->foot.away);
        if (bytes > most) most = bytes;
    }
    return (size_t)((int64_t)(most + m->stage_bytes) + lost_bytes(r, m, bases));
}

static err measure_plan(struct run *r) {
    const struct program *list[2 * RUN_PROGRAMS];
    int n = run_programs(r, list, PHASES);
    struct memory m;
    n += run_programs(r, list + n, PHASE_LOAD);
    memory_sizes(&m, list, n);
    struct footprint *f = &r->foot;
    const bool host = r->backend->mem->host;
    size_t held = 0, weights = 0; /* all bases' weights; what of them is not the mapped file */
    size_t bases[CONFIG_SIDES + 1] = {0}; /* ... each one's, with what is derived of it */
    *f = (struct footprint){.data = data_bytes(r) + r->data_lent, .runtime = program_bytes() + description_bytes(r), .working = m.work_bytes};
    for (int i = 0; i < r->n_bases; i++) {
        const struct base *b = &r->base[i];
        size_t own, bytes;
        TRY(base_bytes(r, b, &bytes, &own));
        weights += bytes, held += own, bases[i] = bytes + b->model.derived->bytes;
        *(i < bases_trained(r) ? &f->weights : &f->teacher) += bytes;
        f->derived += b->model.derived->bytes;
        if (host && b->check_bytes > f->check) f->check = b->check_bytes;
    }
    for (int i = 0; i < r->n_sides; i++) {
        const struct needs q = recipe_needs(r, &r->side[i]);
        f->optimizer += q.here, f->away += q.away;
    }
    recipe_widen(r, &m.act_bytes, &m.scratch_bytes);
    f->scratch = m.scratch_bytes;
    for (int i = 0; i < n; i++)
        if (list[i]->plan.state > f->cache) f->cache = list[i]->plan.state;
    f->activations = m.act_bytes - f->cache;
    f->offloaded = m.host_bytes;
    for (int i = 0; i < r->n_sides; i++) {
        const size_t b = r->cfg->optimizer_in_bwd ? r->side[i].plans->fused.bytes : r->side[i].plans->st.params.trained;
        f->adapters += param_weight_bytes(&r->side[i].plans->st.params);
        if (run_joins(r)) f->gradients += b;
        else if (b > f->gradients) f->gradients = b;
        if (host && r->cfg->check_accumulation && 2 * b > f->checks) f->checks = 2 * b;
        if (host && r->side[i].plans->st.method->finished && r->side[i].plans->st.params.bytes > f->finished)
            f->finished = r->side[i].plans->st.params.bytes;
    }
    f->adapters += f->working + f->finished;
    const size_t teacher = host ? r->teacher.bytes : r->teacher.weight_bytes; /* beside its base */
    f->teacher += teacher;
    f->runtime += heap_beside(r);
    if (!host) f->runtime = card_runtime(r, list, n, &m, bases), f->data = 0; /* the table is the card's; data stay on the host */
    const size_t later = f->adapters + f->gradients + f->checks + f->optimizer + f->activations + f->cache + f->scratch + teacher;
    f->reading = host ? r->read_bytes : 0;
    const size_t first = f->check > f->reading ? f->check : f->reading;
    if (first > later) f->beginning = first - later;
    f->resident = f->derived + later + f->beginning + f->data + f->runtime + held;
    f->total = f->resident + (weights > held ? weights - held : 0);
    return OK;
}

/* --- the limit ---------------------------------------------------------------------------------------------------- */
static size_t memory_limit(const struct run *r) {
    size_t limit = 0;
    config_bytes(r->cfg->memory, &limit); /* checked by config_check */
    if (limit) return limit;
    if (r->card) return r->card->memory;
    if (!r->backend->mem->host)
        return r->backend->mem->left() ? r->backend->mem->left() : SIZE_MAX; /* what is free, not what the card has */
    return (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
}

static err plan_once(struct run *r, int64_t pass_tokens, int slots, struct capacity least) {
    r->cap = least;
    r->pass_tokens = pass_tokens;
    if (!pass_tokens) pass_tokens = r->backend->mem->host ? 256 : 2048;
    for (int i = 0; i < r->n_sides && r->cfg->optimizer_in_bwd; i++) { /* a step is one pass */
        const int64_t all = r->side[i].cfg->batch * r->side[i].cfg->accumulation * (r->cap.tokens + most_virtual(r));
        if (all > pass_tokens) pass_tokens = all;
    }
    r->cap.compute = r->compute;
    r->cap.cache = r->cache;
    r->cap.threads = r->threads;
    r->cap.sequences = (int)(pass_tokens > r->cap.tokens ? pass_tokens : r->cap.tokens) / 2 + 1;
    r->cap.slots = slots;
    for (int i = 0; i < r->n_plans; i++) {
        drop_plans(&r->plans[i]);
        TRY(build_plans(r, &r->plans[i], pass_tokens));
    }
    TRY(teacher_plan(r, pass_tokens));
    for (int i = 0; i < r->n_bases; i++) TRY(build_bare(r, &r->base[i], pass_tokens));
    TRY(joint_allowed(r));
    return measure_plan(r);
}

const char *size_text(size_t bytes) {
    static _Thread_local char text[4][24];
    static _Thread_local unsigned turn;
    char *s = text[turn++ % 4];
    if (bytes >= 1000000000) snprintf(s, sizeof text[0], "%.2f GB", (double)bytes / 1e9);
    else snprintf(s, sizeof text[0], "%.1f MB", (double)bytes / 1e6);
    return s;
}

static int made_at_once(const struct run *r, const struct side *s) { return (int)(s->cfg->batch * s->cfg->accumulation * (r->objective->generates ? r->cfg->rollout_refresh : 1)); }

int run_most_rows(const struct run *r) {
    int most = 1, all = 0;
    for (int i = 0; i < r->n_sides; i++) {
        const int rows = made_at_once(r, &r->side[i]);
        if (rows > most) most = rows;
        all += rows;
    }
    if (run_joins(r) && all > most) most = all;
    if (r->eval.source.n > most) most = r->eval.source.n;
    for (int i = 0; i < r->n_guards; i++)
        if (r->guard[i].kind == GUARD_QA && r->guard[i].source.n > most) most = r->guard[i].source.n;
    return r->test.source.n > most ? r->test.source.n : most;
}

struct sizes { int slots; struct capacity least; };

static err plan_pass(struct run *r, int64_t pass_tokens, void *ctx) {
    const struct sizes *z = ctx;
    return plan_once(r, pass_tokens, z->slots, z->least);
}

/* Plans as the configuration says; a plan beyond the limit is refused with what would fit. */
static err plan_within(struct run *r, struct capacity least, const struct plan_ask *ask) {
    TRY(levels_parse(r));
    int slots = (r->cfg->generation_batch < 1 ? 1 : (int)r->cfg->generation_batch) * (run_joins(r) ? r->n_sides : 1);
    const int most = ask->like ? run_most_rows(ask->like) : run_most_rows(r);
    r->limit = memory_limit(r);
    struct sizes z = {slots < most ? slots : most, least};
    r->data_lent = ask->like ? ask->like->foot.data : 0;
    TRY(r->picks_levels ? levels_pick(r, r->limit, plan_pass, &z) : plan_pass(r, r->cfg->pass_tokens, &z));
    return ask->unlimited || r->foot.total <= r->limit ? OK : budget_refuse(r);
}

/* --- opening ------------------------------------------------------------------------------------------------------- */
int64_t run_total(const struct run *r) { return r->warm_steps + r->cfg->max_steps; }

/* What stands in for the data's labels. */
static err assume_head(struct run *r, const struct run *like) {
    if (like) r->head = like->head, r->classes = like->classes, r->generates = like->generates, r->beneath = like->beneath;
    else if (r->objective->open)
        return fail(E_USAGE, "'data' is missing: objective %s is planned with its data, which say how many rows the head has", r->cfg->objective);
    return OK;
}

static int most_new(const struct run *r) {
    int64_t n = 1;
    for (int i = 0; i < r->n_sides; i++)
        if (r->side[i].cfg->max_new_tokens > n) n = r->side[i].cfg->max_new_tokens;
    return (int)n;
}

static int most_length(const struct config *c, int sides) {
    int64_t n = 1;
    for (int i = 0; i < sides; i++)
        if (c->side[i].max_length > n) n = c->side[i].max_length;
    return (int)n;
}

static bool any_seq2seq(const struct run *r) {
    for (int i = 0; i < r->n_bases; i++)
        if (r->base[i].model.family->seq2seq) return true;
    return false;
}

/* Without data rows are as long as max_length lets them be, where there are positions; of a plan like another's as long as that one's. */
static void assume_lengths(struct run *r, const struct run *like) {
    const int new = most_new(r), most = most_length(r->cfg, r->n_sides);
    int context = INT32_MAX;
    for (int i = 0; i < r->n_bases; i++) {
        const struct shape *z = &r->base[i].model.shape;
        if (z->hard_context && z->context - most_virtual(r) < context) context = (int)z->context - most_virtual(r);
    }
    const int longest = most < context ? most : context;
    if (like) {
        const bool cut = longest < most_length(like->cfg, r->n_sides); /* to less than its rows may have now */
        r->cap.tokens = cut && longest < like->cap.tokens ? longest : like->cap.tokens;
        r->cap.length = cut && longest < like->cap.length ? longest : like->cap.length;
    } else {
        r->cap.tokens = longest + (any_seq2seq(r) ? 2 : 0); /* an EOS behind the prompt, a start before the answer */
        r->cap.length = longest + (*r->cfg->eval_data || *r->cfg->test_data ? new : 0); /* there prompts may be as long as rows */
        for (int i = 0; i < r->n_sides; i++) { /* a text that was made, in a prompt of no more tokens than bytes */
            const int made = (int)strlen(r->cfg->side[i].prompt) + 1 + 2 * new;
            if (made > r->cap.length) r->cap.length = made;
        }
        if (r->cap.length > context) r->cap.length = context;
    }
    for (int i = 0; i < r->n_sides; i++) r->side[i].longest = r->cap.tokens;
}

/* Which sides there are, and who follows whom. */
static err name_sides(struct run *r) {
    int next[CONFIG_SIDES];
    r->n_sides = r->objective->sides > 1 ? config_sides(r->cfg) : 1;
    for (int i = 0; i < r->n_sides; i++) {
        r->side[i].cfg = &r->cfg->side[i];
        r->side[i].name = r->n_sides > 1 ? config_side_name(i) : "";
    }
    if (r->n_sides > 1) TRY(config_cycles(r->cfg, next));
    for (int i = 0; i < r->n_sides && r->n_sides > 1; i++) {
        r->side[i].next = &r->side[next[i]];
        r->side[next[i]].from = &r->side[i];
    }
    return OK;
}

static void tokenizers_rest(struct run *r) {
    for (int i = 0; i < r->n_bases; i++)
        if (r->base[i].tok) tokenizer_rest(r->base[i].tok);
}

static err open_sides(struct run *r, const struct plan_ask *ask) {
    r->cap.length = 1;
    TRY(joint_open(r));
    if (r->cfg->optimizer_in_bwd && r->cfg->check_accumulation)
        return fail(E_USAGE, "check_accumulation looks at the gradient of a whole step, which optimizer_in_bwd never has: leave one of them out");
    const int64_t at_first = (int64_t)heap_bytes();
    if (r->assumes) TRY(assume_head(r, ask->like));
    else if (r->objective->open) TRY(r->objective->open(r));
    const int64_t opened = (int64_t)heap_bytes();
    for (int i = 0; i < r->n_sides; i++) {
        const struct recipe q = run_recipe(r, r->side[i].cfg);
        TRY(side_plans(r, &r->side[i]));
        if (r->narrow) TRY(recipe_narrow(&r->side[i].plans->st, &q, r->compute));
        if (r->cfg->optimizer_in_bwd) TRY(fused_allowed(&r->side[i].plans->st, &q, r->compute));
    }
    if (r->assumes) return assume_lengths(r, ask->like), OK;
    tokenizers_rest(r);
    const size_t before = resident_bytes("VmHWM");
    const int64_t structures = (int64_t)heap_bytes() - opened; /* the sides' */
    TRY(r->objective->load(r));
    TRY(guards_open(r));
    if (r->freezes) TRY(features_plan(r));
    tokenizers_rest(r);
    heap_rest();
    const int64_t there = (int64_t)heap_bytes() - at_first - structures;
    r->data_there = there > 0 ? (size_t)there : 0;
    const size_t now = resident_bytes("VmRSS"), peak = resident_bytes("VmHWM");
    if (peak > before && peak > now) r->read_bytes = peak - (now > before ? now : before);
    return OK;
}

static err open_run(struct run *r, const struct plan_ask *ask) {
    struct config *cfg = r->cfg;
    TRY(pick_objective(r));
    r->threads = cfg->threads > 0 ? (int)cfg->threads : omp_get_max_threads();
    TRY(pick_device(r));
    TRY(name_sides(r));
    TRY(bases_open(r, ask));
    TRY(open_sides(r, ask));
    TRY(teacher_look(r, ask));
    TRY(quantise_allowed(r));
    for (int i = 0; i < r->n_sides && !r->objective->generates; i++)
        if (r->side[i].longest > r->cap.tokens) r->cap.tokens = r->side[i].longest;
    if (r->warm.source.n) {
        int64_t per = r->side[0].cfg->batch * r->side[0].cfg->accumulation;
        r->warm_steps = (r->warm.source.n + per - 1) / per * cfg->warmup_epochs;
        TRY(order_init(&r->warm_order, r->warm.source.n, (uint64_t)cfg->seed, 9, true));
    }
    TRY(run_within_context(r, (r->cap.tokens > r->cap.length ? r->cap.tokens : r->cap.length) + most_virtual(r), most_virtual(r)));
    return plan_within(r, r->cap, ask);
}

err run_open(struct run *r, struct config *cfg) {
    *r = (struct run){.cfg = cfg, .backend = &backend_cpu, .evals = json_array()};
    TRY(config_check(cfg));
    return open_run(r, &(struct plan_ask){0});
}

err run_plan(struct run *r, struct config *cfg, const struct plan_ask *ask) {
    *r = (struct run){.cfg = cfg, .backend = &backend_cpu, .evals = json_array(), .plans_only = true};
    r->assumes = ask->like || config_without_data(cfg);
    TRY(r->assumes ? config_check_plan(cfg) : config_check(cfg));
    return open_run(r, ask);
}

err run_start(struct run *r) {
    struct program *list[RUN_PROGRAMS];
    int n = list_programs(r, list);
    for (int i = 0; i < r->n_bases; i++) {
        struct base *b = &r->base[i];
        const bool later = b->quantised && !r->backend->mem->host && !b->model.random && !r->cfg->quantization_check;
        if (!later) TRY(model_fill(&b->model)); /* else a card's are made as it takes them */
    }
    if (r->cfg->quantization_check) TRY(quantise_check(r));
    r->wb.threads = r->threads;
    r->wb.check_accumulation = r->cfg->check_accumulation;
    if (r->freezes) TRY(features_start(r));
    TRY(teacher_start(r));
    TRY(memory_for(&r->wb.mem, list, n));
    phase_seen(r, PHASE_LOAD); /* a host's arenas are not there before they are used */
    size_t act = 0, scratch = 0;
    recipe_widen(r, &act, &scratch);
    TRY(memory_grow(&r->wb.mem, act, scratch));
    TRY(pack_init(&r->wb.pack, run_pass(r), r->cap.sequences));
    if (r->classes.numbers) TRY(pack_targets(&r->wb.pack, r->classes.numbers));
    r->wb.grad_bytes = r->foot.gradients;
    r->wb.grad = r->backend->mem->take(r->wb.grad_bytes);
    if (!r->wb.grad) return fail(E_MEMORY, "cannot allocate %zu bytes of gradients", r->wb.grad_bytes);
    for (int i = 0; i < r->n_sides; i++) {
        struct side *s = &r->side[i];
        struct recipe q = run_recipe(r, s->cfg);
        TRY(learner_init(&s->learner, &s->plans->st, &s->plans->train, &q));
        s->learner.side = s->name;
        if (r->cfg->optimizer_in_bwd) s->learner.fused = &s->plans->fused;
        TRY(side_begin(r, i));
    }
    TRY(judge_open(r));
    bases_forget(r);
    heap_rest();
    program_bring();
    if (r->backend->replay) TRY(r->backend->replay->set_aside(true));
    r->sets_aside = r->backend->replay != NULL;
    return OK;
}

static void pairs_close(struct pairs *p) {
    source_close(&p->source);
    for (int i = 0; i < CONFIG_SIDES; i++) source_close(&p->more[i]), rows_free(&p->rows[i]);
}

void run_close(struct run *r) {
    if (r->sets_aside) r->backend->replay->set_aside(false);
    while (r->n_spare) r->backend->mem->give(r->spare[--r->n_spare], r->backend->mem->page);
    judge_close(r);
    for (int i = 0; i < CONFIG_SIDES; i++) {
        struct side *s = &r->side[i];
        learner_free(&s->learner);
        order_free(&s->order);
        source_close(&s->source);
        prompt_form_free(&s->form);
        rollout_free(&s->rollouts);
        for (int k = 0; s->texts && k < s->n_texts; k++)
            if (s->texts[k].cap) ids_free(&s->texts[k]);
        free(s->texts);
        rows_free(&s->rows);
        rows_free(&s->answers);
    }
    pairs_close(&r->warm);
    pairs_close(&r->eval);
    pairs_close(&r->test);
    guards_close(r);
    for (int i = 0; i < r->n_plans; i++) {
        drop_plans(&r->plans[i]);
        structure_free(&r->plans[i].st);
    }
    teacher_close(r);
    for (int i = 0; i < 3; i++) npy_close(&r->given[i]);
    order_free(&r->warm_order);
    memory_free(&r->wb.mem);
    if (r->wb.grad) r->backend->mem->give(r->wb.grad, r->wb.grad_bytes);
    pack_free(&r->wb.pack);
    free(r->wb.first);
    for (int i = 0; i < r->n_bases; i++) program_free(&r->base[i].bare), base_close(&r->base[i]);
    features_free(&r->frozen);
    labels_free(&r->labels);
    json_decref(r->evals);
    json_decref(r->report);
    free(r->events);
    lock_drop(&r->lock);
    *r = (struct run){0};
}

/* --- the loop ------------------------------------------------------------------------------------------------------- */
static const char *keyed(char *buf, size_t n, const struct side *s, const char *name) {
    snprintf(buf, n, *s->name ? "%s_%s" : "%s", name, s->name);
    return buf;
}

/* What became of the texts that the side's adapter trained on; what is not in use is not told of. */
static void log_rollouts(const struct rollout_stats *q, const struct side *s, json_t *j) {
    char k[64];
    const struct { const char *name; int64_t n; bool always; } counts[] = {
        {"rollout_texts", q->texts, true}, {"rollout_empty", q->empty, true}, {"rollout_truncated", q->truncated, true},
        {"rollout_dropped", q->dropped, false}, {"rollout_replayed", q->replayed, false}, {"rollout_denoised", q->denoised, false},
        {"rollout_supervised", q->supervised, false}, {"rollout_passed_over", q->passed_over, false}};
    const struct { const char *name; double x; } means[] = {
        {"rollout_logprob", q->logprob}, {"rollout_copy_rate", q->copy_rate}, {"rollout_length_ratio", q->length_ratio}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i].always || counts[i].n) json_object_set_new(j, keyed(k, sizeof k, s, counts[i].name), json_integer(counts[i].n));
    for (size_t i = 0; i < sizeof means / sizeof *means; i++)
        if (q->texts && isfinite(means[i].x)) json_object_set_new(j, keyed(k, sizeof k, s, means[i].name), json_real(means[i].x));
    if (q->idle) json_object_set_new(j, keyed(k, sizeof k, s, "idle"), json_true());
}

/* transformers' names; with two sides the reference implementation's: train_loss_A, learning_rate_A. */
static err log_step(struct run *r, const struct step_info *info) {
    json_t *j = json_pack("{s:I, s:f, s:f, s:f, s:I}", "step", (json_int_t)info->step, "seconds", info->seconds, "generate_seconds",
                          info->generate_s, "train_seconds", info->train_s, "generated_tokens", (json_int_t)info->generated);
    if (!j) return fail(E_MEMORY, "out of memory");
    if (info->warmup) json_object_set_new(j, "warmup", json_true());
    for (int i = 0; i < r->n_sides; i++) {
        const struct side *s = &r->side[i];
        const struct step_result *q = &info->side[i];
        char k[64];
        if (r->objective->generates && !info->warmup) log_rollouts(&info->rollouts[i], s, j);
        json_object_set_new(j, keyed(k, sizeof k, s, "epoch"), json_real((double)s->order.epoch + (double)s->order.index / s->order.n));
        if (info->rollouts[i].idle) continue;
        json_object_set_new(j, keyed(k, sizeof k, s, *s->name ? "train_loss" : "loss"), json_real(q->loss));
        if (q->taught) json_object_set_new(j, "ce", json_real(q->ce)), json_object_set_new(j, "kd", json_real(q->kd));
        json_object_set_new(j, keyed(k, sizeof k, s, "grad_norm"), json_real(q->grad_norm));
        json_object_set_new(j, keyed(k, sizeof k, s, "learning_rate"), json_real(q->learning_rate));
        if (q->loss_scale > 0) json_object_set_new(j, keyed(k, sizeof k, s, "loss_scale"), json_real(q->loss_scale));
        if (q->skipped) json_object_set_new(j, keyed(k, sizeof k, s, "skipped"), json_true());
        if (!r->classes.numbers)
            json_object_set_new(j, keyed(k, sizeof k, s, r->objective->heading ? "accuracy" : "mean_token_accuracy"),
                                json_real(q->accuracy));
        json_object_set_new(j, keyed(k, sizeof k, s, "num_tokens"), json_integer(q->tokens));
        json_object_set_new(j, keyed(k, sizeof k, s, "supervised_tokens"), json_integer(q->supervised));
    }
    return metrics_append(r, j);
}

/* Is this the best evaluation so far? */
static bool is_best(const struct run *r, const json_t *eval) {
    const json_t *best = eval_best(r);
    return eval_metric(r, eval) > (best ? eval_metric(r, best) : -HUGE_VAL);
}

/* Numbers of one side under the names that metrics.jsonl has for them: eval_chrf_A, eval_copy_rate_A; of a guard guard_old: eval_guard_old_loss_A. */
static void log_figures(json_t *line, const char *of, const char *side, const json_t *figures) {
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)figures, name, v) {
        char key[128];
        if (!json_is_real(v)) continue; /* what is counted are integers */
        snprintf(key, sizeof key, "eval_%s%s%s%s%s", of, *of ? "_" : "", name, *side ? "_" : "", side);
        json_object_set(line, key, v);
    }
}

/* What is measured between the steps, but for a test. */
static err eval_watched(struct run *r, json_t *eval) {
    TRY(health_moved(r, eval));
    TRY(eval_has_metric(r, eval));
    alarms_judge(r, eval);
    return is_best(r, eval) ? best_save(r) : OK;
}

/* After the first step the gradient and the optimizer's states are there. So is now what passes may not have filled yet and what the plan gives to the
 * heap: a later step, however full, finds its memory. Stacks, and what others bring in, are not the heap's. */
static void settle_host(const struct run *r) {
    const struct memory *m = &r->wb.mem;
    resident_bring(m->act, m->act_bytes);
    resident_bring(m->scratch, m->scratch_bytes);
    heap_rest();
    const size_t now = run_beside(r) + LEFT_BYTES + (size_t)r->threads * STACK_BYTES;
    if (now < r->foot.runtime) heap_hold(r->foot.runtime - now);
}

/* A card's arenas are there from the start; kernels come when they are first launched, and which ones hangs on the lengths of rows. Of what the plan has
 * for them spare pages are held, so that no other process takes it, and given back as kernels have come. */
static void settle_card(struct run *r) {
    const struct mem_ops *m = r->backend->mem;
    int64_t room = (int64_t)r->foot.total - 1 - (int64_t)m->taken(); /* a whole page at most is left open, for the next to come */
    for (; room < 0 && r->n_spare; room += (int64_t)m->page) m->give(r->spare[--r->n_spare], m->page);
    for (; room >= (int64_t)m->page && r->n_spare < SPARE_PAGES && (r->spare[r->n_spare] = m->take(m->page)); room -= (int64_t)m->page) r->n_spare++;
}

/* At the end of each step and, once there was one, of each evaluation. */
static void settle(struct run *r) {
    if (!r->backend->mem->host) settle_card(r);
    else if (!r->seen[PHASE_TRAIN]) settle_host(r);
}

static err eval_now(struct run *r, const struct pairs *on, const char *tag, const struct run_events *ev) {
    json_t *j = NULL;
    TRY(run_evaluate(r, on, tag, &j));
    if (r->seen[PHASE_TRAIN]) settle(r);
    phase_seen(r, PHASE_EVALUATE);
    r->spent[PHASE_EVALUATE] += json_number_value(json_object_get(j, "seconds"));
    err watched = on == &r->eval ? eval_watched(r, j) : OK;
    if (!watched) json_array_append(r->evals, j);
    else return json_decref(j), watched;
    if (ev->eval) ev->eval(ev->ctx, j);
    json_t *line = json_pack("{s:I, s:s}", "step", (json_int_t)r->step, "eval", tag);
    static const char *const lists[] = {"sides", "health"};
    for (size_t k = 0; k < sizeof lists / sizeof *lists; k++) {
        size_t i;
        json_t *side;
        json_array_foreach(json_object_get(j, lists[k]), i, side)
            log_figures(line, "", json_string_value(json_object_get(side, "name")), side);
    }
    size_t i;
    json_t *g;
    json_array_foreach(json_object_get(j, "guard"), i, g) {
        char of[64];
        snprintf(of, sizeof of, "guard_%s", json_string_value(json_object_get(g, "guard")));
        log_figures(line, of, json_string_value(json_object_get(g, "side")), g);
    }
    const json_t *trip = json_object_get(j, "round_trip"), *alarms = json_object_get(j, "alarms");
    if (trip) json_object_set_new(line, "eval_round_trip_chrf", json_real(json_number_value(json_object_get(trip, "chrf"))));
    if (trip) json_object_set_new(line, "eval_round_trip_exact", json_real(json_number_value(json_object_get(trip, "exact"))));
    if (alarms) json_object_set(line, "alarms", (json_t *)alarms);
    json_decref(j);
    TRY(metrics_append(r, line));
    return folder_page(r, SO_FAR);
}

static err save_now(struct run *r, const struct run_events *ev) {
    char *path = NULL;
    const double t0 = seconds_now();
    TRY(checkpoint_save(r, &path));
    phase_seen(r, PHASE_SAVE);
    r->spent[PHASE_SAVE] += seconds_now() - t0;
    err e = folder_page(r, SO_FAR);
    if (e) return free(path), e;
    if (ev->save) ev->save(ev->ctx, path);
    free(path);
    return OK;
}

/* Is the next step one that is profiled? Not the first of a process, which touches its memory for the first time. */
static struct profile *profile_due(struct run *r) {
    struct profile *p = &r->profile;
    const bool first = r->timed_steps == 0 && r->step + 1 < run_total(r) && !p->steps;
    if (first || p->steps >= r->cfg->profile_steps) return NULL;
    if (!p->whose) forecast_rates(r, p);
    return p;
}

static err one_step(struct run *r, const struct run_events *ev) {
    struct step_info info = {.total = run_total(r)};
    struct profile *p = profile_due(r);
    double t0 = seconds_now();
    r->wb.mem.profile = p;
    TRY(r->objective->step(r, &info));
    r->wb.mem.profile = NULL;
    info.seconds = seconds_now() - t0;
    settle(r);
    phase_seen(r, PHASE_TRAIN);
    r->elapsed += info.seconds;
    if (p) p->steps++, p->step_s += info.seconds;
    else if (!info.warmup) r->timed_steps++, r->generate_s += info.generate_s, r->train_s += info.train_s, r->step_s += info.seconds;
    r->spent[PHASE_GENERATE] += info.generate_s, r->spent[PHASE_TRAIN] += info.train_s;
    info.step = ++r->step;
    if (ev->step) ev->step(ev->ctx, r, &info);
    return r->cfg->logging_steps > 0 && r->step % r->cfg->logging_steps == 0 ? log_step(r, &info) : OK;
}

/* Evaluates where the configuration says so: before the first step (after the warm-up where there is one), every
 * eval_steps, and after the last step. */
static err eval_if_due(struct run *r, const struct run_events *ev) {
    int64_t total = run_total(r), every = r->cfg->eval_steps;
    bool own = r->objective->generates && !r->test.source.n; /* the round trip of the sides' own text needs no pairs */
    if (!r->eval.source.n && !own && !r->n_guards) return OK;
    if (r->step == total) return eval_now(r, &r->eval, "after", ev);
    if (r->step == r->warm_steps) return eval_now(r, &r->eval, r->warm_steps ? "warm-up" : "before", ev);
    return every > 0 && r->step > 0 && r->step % every == 0 ? eval_now(r, &r->eval, "step", ev) : OK;
}

static bool evaluated(const struct run *r) {
    size_t i;
    json_t *j;
    json_array_foreach(r->evals, i, j) if (json_integer_value(json_object_get(j, "step")) == r->step) return true;
    return false;
}

/* What is due at this step beside it: an evaluation, and what its alarms ask for. An alarm that ends the run leaves a checkpoint from which
 * --resume goes on; one that rolls it back too: a run that was resumed from before it might find a `best` of later steps. */
static err watch(struct run *r, const struct run_events *ev) {
    TRY(eval_if_due(r, ev));
    err e = alarms_act(r);
    if (!e) return r->rolled_back && r->rolled_back == r->step ? save_now(r, ev) : OK;
    char why[1024];
    snprintf(why, sizeof why, "%s", err_text());
    TRY(save_now(r, ev));
    TRY(folder_page(r, AT_END));
    return fail(e, "%s", why);
}

/* An interrupt ends the step under way first, so that a resumed run is the same to the bit; only evaluation is cut short,
 * and made up for by the run that resumes. */
err run_loop(struct run *r, const struct run_events *ev) {
    int64_t total = run_total(r);
    heap_rest(); /* what planning for its beginning, a table and a page took */
    if (r->freezes) TRY(features_keep(r, ev));
    err e = r->resumed && evaluated(r) ? OK : watch(r, ev);
    while (!e && r->step < total && !eval_patience_is_over(r)) {
        TRY(one_step(r, ev));
        e = r->stop && *r->stop ? E_INTERRUPTED : watch(r, ev);
        if (!e && r->cfg->save_steps > 0 && r->step % r->cfg->save_steps == 0 && r->step < total) e = save_now(r, ev);
    }
    if (e && e != E_INTERRUPTED) return e;
    TRY(save_now(r, ev));
    if (e) {
        TRY(folder_page(r, AT_END));
        return fail(E_INTERRUPTED, "interrupted after step %lld of %lld; everything is saved, go on with --resume", (long long)r->step,
                    (long long)total);
    }
    TRY(best_load(r, false));
    TRY(folder_finish(r));
    if (r->test.source.n) TRY(eval_now(r, &r->test, "test", ev));
    return folder_report(r);
}
