/* See program.h. */
#include "gen/program.h"
#include "gen/profile.h"
#include "base/arena.h"
#include "model/derived.h"
#include "ops/ops.h"
#include <stdlib.h>
#include <string.h>

/* Without a backward, and where it computes a block again anyway, pieces of so many rows cost no work, and such a product is at its full speed. */
enum { FREE_CHUNK = 2048 };

static const int64_t dim_n = SYM_N, dim_s = SYM_S, dim_s1 = SYM_S1, dim_m = SYM_M;

static val input(struct prog *p, const char *name, const int64_t *dim, dtype dt) { return prog_input(p, dt, 1, dim, name); }

static dtype cache_type(const struct site *s, struct capacity cap) { return cap.cache ? cap.cache : prog_dt(s->p); }

static void make_cache(struct site *s, const struct model *m, struct capacity cap) {
    int64_t d[4] = {cap.slots, m->shape.kv_heads, cap.length, m->shape.head_dim};
    for (int l = 0; l < m->shape.layers && m->family->seq2seq; l++) {
        s->cross_k[l] = prog_value(s->p, ROLE_STATE, cache_type(s, cap), 4, d, "cross k");
        s->cross_v[l] = prog_value(s->p, ROLE_STATE, cache_type(s, cap), 4, d, "cross v");
    }
    for (int l = 0; l < m->shape.layers; l++) {
        s->cache_k[l] = prog_value(s->p, ROLE_STATE, cache_type(s, cap), 4, d, "cache k");
        s->cache_v[l] = prog_value(s->p, ROLE_STATE, cache_type(s, cap), 4, d, "cache v");
    }
}

/* What prefill leaves for decoding beside the cache: places in the order of the parameters, so that both programs have the same. */
static void make_kept(struct site *s) {
    const struct param_set *set = s->params;
    s->kept = set ? arena_alloc(&s->p->mem, (size_t)set->n * sizeof *s->kept + 1) : NULL;
    if (set && !s->kept) prog_fail(s->p, E_MEMORY, "out of memory while building a program");
    for (int i = 0; s->kept && i < set->n; i++) {
        const struct param *p = &set->p[i];
        if (p->kept)
            s->kept[i] = p->keeps[0] ? prog_value(s->p, ROLE_STATE, prog_dt(s->p), 2, p->keeps, "kept")
                                     : prog_value(s->p, ROLE_STATE, DT_F32, p->nd, p->d, "kept");
    }
}

/* All that outlives a run of generation, in one order, so that its programs have the same places. Returns the ids' (with rules). */
static val make_states(struct site *s, const struct model *m, struct capacity cap, const struct choosing *how) {
    make_cache(s, m, cap);
    make_kept(s);
    return how->rules ? prog_value(s->p, ROLE_STATE, DT_I32, 2, (int64_t[]){cap.slots, cap.length}, "history") : (val){0};
}

/* What the encoder reads; in decoding where its keys are. */
static void source_inputs(struct site *s) {
    if (s->mode == MODE_DECODE) {
        s->src_last = input(s->p, "src_last", &dim_n, DT_I32);
        s->src_slot = input(s->p, "src_slot", &dim_n, DT_I32);
    } else {
        s->src_ids = input(s->p, "src_ids", &dim_m, DT_I32);
        s->src_pos = input(s->p, "src_pos", &dim_m, DT_I32);
        s->src_cu = input(s->p, "src_cu", &dim_s1, DT_I32);
        s->src_sample = input(s->p, "src_sample", &dim_m, DT_I32);
    }
    if (s->mode == MODE_PREFILL) s->src_slot = input(s->p, "src_slot", &dim_m, DT_I32);
}

/* Each row's weights of a method's members. */
static void member_inputs(struct program *g, struct site *s) {
    if (s->method && s->method->members) g->members = s->method->members(s->settings, &g->member_weights);
    if (!g->members) return;
    const size_t row = (size_t)g->members * sizeof(float);
    const int64_t of_n[2] = {SYM_N, g->members}, of_m[2] = {SYM_M, g->members};
    const bool source = g->seq2seq && s->mode != MODE_DECODE;
    g->mix = arena_alloc(&s->p->mem, row * (size_t)s->p->cap[-SYM_N]);
    g->src_mix = source ? arena_alloc(&s->p->mem, row * (size_t)s->p->cap[-SYM_M]) : NULL;
    if (!g->mix || (source && !g->src_mix)) prog_fail(s->p, E_MEMORY, "out of memory while building a program");
    s->mix = prog_input(s->p, DT_F32, 2, of_n, "mix");
    if (source) s->src_mix = prog_input(s->p, DT_F32, 2, of_m, "src_mix");
}

static const struct head *head_of(const struct structure *st) { return st && st->head.classes ? &st->head : NULL; }

/* A base's output projection in another base's program: of its first `vocab` ids. */
static val foreign_head(struct prog *p, const struct model *m, int64_t vocab) {
    struct site s = {.p = p, .mode = MODE_FEATURES, .derived = derived_place, .model = m};
    const val w = model_head(m, &s).w;
    if (!p->failed && prog_v(p, w)->d[0] > vocab) prog_v(p, w)->d[0] = vocab;
    return w;
}

/* The teacher's operands of the loss. */
static void emit_lesson(struct program *g, const struct model *m, const struct lesson *l, struct site *s, val in[HEAD_IN], struct op_attr *a) {
    g->lesson = l;
    a->loss = s->mode == MODE_TRAIN ? l->train : l->score;
    if (l->top) {
        const int64_t d[2] = {SYM_N, l->top};
        in[HEAD_TOP] = prog_input(s->p, DT_I32, 2, d, "teacher's ids");
        in[HEAD_LOGP] = prog_input(s->p, DT_F32, 2, d, "teacher's log-probabilities");
        return;
    }
    in[HEAD_TX] = prog_input(s->p, prog_dt(s->p), 2, (int64_t[]){SYM_N, l->teacher->shape.width}, "teacher's rows");
    in[HEAD_TW] = foreign_head(s->p, l->teacher, m->shape.vocab);
    a->loss.teacher_cap = (float)l->teacher->shape.logit_softcap;
}

static void emit_loss(struct program *g, const struct model *m, const struct structure *st, struct site *s) {
    val label = input(s->p, "label", &dim_n, DT_I32), weight = input(s->p, "weight", &dim_n, DT_F32);
    const struct head *h = head_of(st);
    struct op_attr a = {.softcap = (float)m->shape.logit_softcap, .backward = s->mode == MODE_TRAIN};
    if (st && s->mode == MODE_TRAIN) a.loss = st->terms; /* a lesson has its own */
    val x, target = {0}, t;
    struct linear w = {0};
    struct projection own = {0};
    if ((g->targets = h && h->kind == HEAD_NUMBERS)) target = prog_input(s->p, DT_F32, 2, (int64_t[]){SYM_S, h->classes}, "target");
    if (h) x = head_rows(h, m, s), w = head_linear(h, m, s), a.softcap = 0;
    else x = model_body(m, s), own = model_head(m, s), w.w = own.w;
    t = site_head_low(s, x, &own.low), a.alpha[0] = own.low.scale;
    val in[HEAD_IN] = {x, w.w, label, weight, w.bias, own.own, has(own.own) ? s->own_ids : (val){0}, target, t, own.low.b};
    if (st && st->lesson) emit_lesson(g, m, st->lesson, s, in, &a);
    struct inst *i = prog_emit(s->p, &op_head_loss, in, HEAD_IN, &a);
    if (!i) return;
    g->loss = i->out[0];
    g->nll = i->out[1];
    prog_keep(s->p, g->loss);
    prog_keep(s->p, g->nll);
}

static void emit_logits(struct program *g, const struct model *m, struct site *s) {
    g->logits = model_logits(m, s, model_body(m, s));
    if (s->p->failed) return;
    prog_keep(s->p, g->logits);
}

/* The base's rows as they are read from outside: of an encoder-decoder the encoder's. */
static val emit_rows(const struct model *m, struct site *s) { return m->family->encode ? m->family->encode(m, s) : model_body(m, s); }

/* The rows that a head reads, one for each text or all, and what it says of them. */
static void emit_classes(struct program *g, const struct model *m, const struct structure *st, struct site *s) {
    const struct head *h = head_of(st);
    g->gathers = !h || h->kind != HEAD_TAGS;
    const val rows = g->gathers ? input(s->p, "rows", &dim_s, DT_I32) : (val){0};
    val x = h ? head_rows(h, m, s) : emit_rows(m, s);
    if (g->gathers) x = emit1(s->p, &op_gather, (val[]){x, rows}, 2, NULL);
    if (s->p->failed) return;
    if (!h) {
        prog_keep(s->p, g->features = x);
        return;
    }
    const struct linear w = head_linear(h, m, s);
    if (s->p->failed) return;
    site_emit_linear(s, x, 1, &w, &(struct op_attr){.wide = true}, NULL, &g->logits);
    if (!s->p->failed) prog_keep(s->p, g->logits);
}

/* What a mode cannot be of this model and structure. */
static void refuse(struct prog *p, const struct model *m, enum mode mode, const struct structure *st) {
    char what[64];
    if (head_of(st) && mode != MODE_TRAIN && mode != MODE_CLASSIFY && mode != MODE_FEATURES)
        prog_fail(p, E_USAGE, "this adapter is %s: it tells what it says of a text (cyclora classify), it does not write or score one",
                  head_text(&st->head, what));
    else if (head_of(st) && m->family->encoder && st->virtual_tokens && st->head.kind != HEAD_TAGS)
        prog_fail(p, E_UNSUPPORTED, "a classifier of an encoder (%s) reads its first token's row, before which no virtual ones can stand",
                  model_arch(m));
    else if (m->family->encoder && mode != MODE_FEATURES && mode != MODE_CLASSIFY && !head_of(st))
        prog_fail(p, E_UNSUPPORTED, "%s is an encoder (%s): it gives features and classes, it has no head to write with", m->path, model_arch(m));
}

/* The logits as a token is chosen from them: by the rules, of beams as log-probabilities. */
static val emit_process(struct program *g, struct site *s, val history, val rows) {
    val in[PROC_IN] = {[PROC_Z] = g->logits};
    if (!has(history) && g->choosing.beams < 2) return g->logits;
    if (has(history)) {
        prog_emit(s->p, &op_remember, (val[]){s->ids, s->slot, s->pos, history}, 4, NULL);
        in[PROC_HISTORY] = history, in[PROC_SLOT] = s->slot, in[PROC_POS] = s->pos, in[PROC_ROWS] = rows;
        if (g->mode == MODE_DECODE) in[PROC_BEGIN] = input(s->p, "begin", &dim_n, DT_I32);
    }
    return emit1(s->p, &op_process, in, PROC_IN, &(struct op_attr){.normalise = g->choosing.beams > 1});
}

static void emit_sample(struct program *g, const struct model *m, struct site *s, struct capacity cap, bool keep_logits) {
    const val history = make_states(s, m, cap, &g->choosing);
    val rows = {0}, last_pos = s->pos;
    if (g->mode == MODE_DECODE) s->sample = input(s->p, "sample", &dim_n, DT_I32);
    if (g->mode != MODE_DECODE) {
        rows = input(s->p, "rows", &dim_s, DT_I32);
        s->sample = input(s->p, "sample", &dim_s, DT_I32);
        last_pos = input(s->p, "last_pos", &dim_s, DT_I32);
    }
    val x = model_body(m, s);
    if (has(rows)) x = emit1(s->p, &op_gather, (val[]){x, rows}, 2, NULL);
    g->logits = model_logits(m, s, x);
    if (s->p->failed) return;
    if (m->shape.logit_softcap > 0) g->logits = emit1(s->p, &op_softcap, &g->logits, 1, &(struct op_attr){.softcap = (float)m->shape.logit_softcap});
    const val z = emit_process(g, s, history, rows), raw = z.i == g->logits.i ? (val){0} : g->logits;
    struct inst *i = g->choosing.beams > 1 ? prog_emit(s->p, &op_top, &z, 1, &(struct op_attr){.n = 2 * g->choosing.beams})
                                           : prog_emit(s->p, &op_sample, (val[]){z, s->sample, last_pos, raw}, 4, NULL);
    if (!i) return;
    g->next = i->out[0];
    g->logprob = i->out[1];
    prog_keep(s->p, g->next);
    prog_keep(s->p, g->logprob);
    if (keep_logits) prog_keep(s->p, g->logits);
}

/* g has its mode, and how it chooses. */
static err build(struct program *g, const struct model *m, struct structure *st, struct capacity cap, const struct checkpoints *c,
                 const struct backend *backend, bool keep_logits) {
    const enum mode mode = g->mode;
    *g = (struct program){.mode = mode, .choosing = g->choosing, .base = m->residents, .derived = m->derived};
    struct prog *p = &g->p;
    if (st) g->virtual_tokens = st->virtual_tokens, g->virtual_first = (int32_t)m->shape.vocab;
    if (st && mode != MODE_DECODE) g->given = st->given, g->given_width = st->given_width;
    cap.tokens += g->virtual_tokens;
    cap.length += g->virtual_tokens;
    p->compute = cap.compute ? cap.compute : backend->compute;
    p->threads = cap.threads;
    p->offload = c->offload && mode == MODE_TRAIN;
    p->adapters = st ? st->adapters : 0;
    p->cap[-SYM_N] = mode == MODE_DECODE ? cap.slots : cap.tokens;
    p->piece_rows = m->mlp_chunk ? m->mlp_chunk : mode != MODE_TRAIN || (c->level == CHECKPOINT_BLOCK && !c->blocks) ? FREE_CHUNK : 0;
    p->cap[-SYM_S] = cap.sequences;
    p->cap[-SYM_S1] = cap.sequences + 1;
    g->seq2seq = m->family->seq2seq &&
                 (head_of(st) ? head_reads_twice(&st->head, m) && mode != MODE_FEATURES : mode != MODE_FEATURES && mode != MODE_CLASSIFY);
    p->cap[-SYM_M] = g->seq2seq ? cap.tokens : (int64_t)cap.sequences * g->given;
    val *cache = arena_alloc(&p->mem, 4 * (size_t)m->shape.layers * sizeof *cache);
    if (!cache) return fail(E_MEMORY, "out of memory");
    struct site s = {.p = p,
                     .mode = mode == MODE_EXTEND || mode == MODE_CONTINUE ? MODE_DECODE : mode,
                     .extends = mode == MODE_EXTEND || mode == MODE_CONTINUE,
                     .cache_k = cache,
                     .cache_v = cache + m->shape.layers,
                     .cross_k = cache + 2 * m->shape.layers,
                     .cross_v = cache + 3 * m->shape.layers,
                     .derived = derived_place,
                     .model = m};
    if (st && mode == MODE_TRAIN) *(g->seq2seq ? &s.src_noise : &s.noise) = st->noise, s.before = st->virtual_tokens;
    if (st && st->method) g->params = &st->params, s.method = st->method, s.settings = st->settings, s.params = &st->params;
    s.ids = input(p, "ids", &dim_n, DT_I32);
    s.pos = input(p, "pos", &dim_n, DT_I32);
    g->ids = s.ids;
    g->pos = s.pos;
    if (s.method && s.method->own_tokens) {
        int n;
        g->own_ids = s.method->own_tokens(s.settings, &n);
        if (g->own_ids) s.own_ids = input(p, "own ids", &(int64_t){n}, DT_I32);
    }
    member_inputs(g, &s);
    if (g->given) {
        s.given = prog_input(p, DT_F32, 2, (int64_t[]){SYM_M, g->given_width}, "given");
        s.given_rows = input(p, "given rows", &dim_m, DT_I32);
    }
    if (s.mode != MODE_DECODE) s.cu = input(p, "cu", &dim_s1, DT_I32);
    if (g->seq2seq) source_inputs(&s);
    refuse(p, m, mode, st);
    if (mode == MODE_FEATURES) prog_keep(p, g->features = emit_rows(m, &s));
    else if (mode == MODE_CLASSIFY) emit_classes(g, m, st, &s);
    else if (mode == MODE_TRAIN || mode == MODE_SCORE) {
        s.sample = input(p, "sample", &dim_n, DT_I32);
        if (mode == MODE_SCORE && keep_logits) emit_logits(g, m, &s);
        else emit_loss(g, m, st, &s);
        if (mode == MODE_TRAIN && !p->failed) prog_backward(p, g->loss, c, &ops_backward);
    } else {
        s.slot = input(p, "slot", &dim_n, DT_I32);
        if (mode == MODE_CONTINUE) make_states(&s, m, cap, &g->choosing), emit_loss(g, m, st, &s);
        else emit_sample(g, m, &s, cap, keep_logits);
    }
    prog_drop_dead(p);
    err e = p->failed ? p->failed : plan_make(&g->plan, p, backend);
    if (e) program_free(g);
    return e;
}

err program_build(struct program *g, const struct model *m, enum mode mode, struct structure *st, struct capacity cap,
                  enum checkpoint level, const struct backend *backend, bool keep_logits) {
    *g = (struct program){.mode = mode};
    return build(g, m, st, cap, &(struct checkpoints){.level = level}, backend, keep_logits);
}

err program_train(struct program *g, const struct model *m, struct structure *st, struct capacity cap, const struct checkpoints *c,
                  const struct backend *backend) {
    *g = (struct program){.mode = MODE_TRAIN};
    return build(g, m, st, cap, c, backend, false);
}

static err build_copies(struct program *g, const struct model *m, struct structure *st, struct capacity cap,
                        const struct backend *backend) {
    struct prog *p = &g->p;
    const int before = st ? st->virtual_tokens : 0, layers = m->shape.layers;
    cap.length += before;
    p->compute = cap.compute ? cap.compute : backend->compute;
    p->threads = cap.threads;
    p->cap[-SYM_N] = cap.tokens + before, p->cap[-SYM_S1] = 1; /* of no sequences */
    val *cache = arena_alloc(&p->mem, 4 * (size_t)layers * sizeof *cache);
    if (!cache) return fail(E_MEMORY, "out of memory");
    struct site s = {.p = p,
                     .mode = MODE_COPY,
                     .cache_k = cache,
                     .cache_v = cache + layers,
                     .cross_k = cache + 2 * layers,
                     .cross_v = cache + 3 * layers};
    if (st && st->method) s.params = &st->params;
    const val from = input(p, "from", &dim_n, DT_I32), slot = input(p, "slot", &dim_n, DT_I32), pos = input(p, "pos", &dim_n, DT_I32),
              history = make_states(&s, m, cap, &g->choosing);
    for (int l = 0; l < 2 * layers && !p->failed; l++) prog_emit(p, &op_cache_copy, (val[]){cache[l], from, slot, pos}, 4, NULL);
    if (has(history)) prog_emit(p, &op_cache_copy, (val[]){history, from, slot, pos}, 4, NULL);
    err e = p->failed ? p->failed : plan_make(&g->plan, p, backend);
    if (e) program_free(g);
    return e;
}

/* Rows at a time of which there are logits. */
enum { TOP_ROWS = 64 };

err program_top(struct program *g, const struct model *m, struct capacity cap, int64_t vocab, int k, const struct backend *backend) {
    *g = (struct program){.mode = MODE_TOP, .base = m->residents, .derived = m->derived};
    struct prog *p = &g->p;
    p->compute = cap.compute ? cap.compute : backend->compute;
    p->threads = cap.threads;
    p->cap[-SYM_N] = cap.tokens, p->cap[-SYM_S1] = 1; /* of no sequences */
    p->piece_rows = TOP_ROWS;
    struct site s = {.p = p, .mode = MODE_TOP, .derived = derived_place, .model = m};
    const val x = prog_input(p, prog_dt(p), 2, (int64_t[]){SYM_N, m->shape.width}, "rows");
    const struct linear w = {.w = foreign_head(p, m, vocab)};
    val z = {0};
    prog_pieces(p, x);
    if (!p->failed) site_emit_linear(&s, x, 1, &w, &(struct op_attr){.wide = true}, NULL, &z);
    if (m->shape.logit_softcap > 0) z = emit1(p, &op_softcap, &z, 1, &(struct op_attr){.softcap = (float)m->shape.logit_softcap});
    z = emit1(p, &op_process, (val[PROC_IN]){[PROC_Z] = z}, PROC_IN, &(struct op_attr){.normalise = true});
    const struct inst *i = prog_emit(p, &op_top, &z, 1, &(struct op_attr){.n = k});
    if (i) prog_keep(p, g->next = i->out[0]), prog_keep(p, g->logprob = i->out[1]);
    prog_pieces_end(p, (val){0});
    err e = p->failed ? p->failed : plan_make(&g->plan, p, backend);
    if (e) program_free(g);
    return e;
}

bool program_head_is_base(const struct model *m, struct structure *st) {
    struct prog p = {.compute = DT_F32};
    struct site s = {.p = &p, .mode = MODE_FEATURES, .derived = derived_place, .model = m, .method = st->method, .settings = st->settings, .params = &st->params};
    const struct projection h = model_head(m, &s);
    const bool is = !p.failed && !has(h.own) && !has(h.low.a) && prog_v(&p, h.w)->role == ROLE_BASE;
    prog_free(&p);
    return is;
}

err program_generates(struct program *g, const struct model *m, enum mode mode, struct structure *st, struct capacity cap,
                      const struct choosing *how, const struct backend *backend) {
    *g = (struct program){.mode = mode, .choosing = *how, .base = m->residents, .derived = m->derived};
    return mode == MODE_COPY ? build_copies(g, m, st, cap, backend)
                             : build(g, m, st, cap, &(struct checkpoints){.level = CHECKPOINT_NONE}, backend, false);
}

void program_free(struct program *g) {
    plan_free(&g->plan);
    prog_free(&g->p);
}

/* A cache outlives single runs but not a generation, so it shares the arena with the training activations. */
static size_t memory_act(const struct program *const *programs, int n, size_t *state_off) {
    size_t train = 0, gen = 0, state = 0;
    for (int i = 0; i < n; i++) {
        const struct plan *pl = &programs[i]->plan;
        if (pl->state) {
            if (pl->act > gen) gen = pl->act;
            if (pl->state > state) state = pl->state;
        } else if (pl->act > train) train = pl->act;
    }
    *state_off = gen;
    return train > gen + state ? train : gen + state;
}

/* Programs read weights in their own type where they lie. */
static bool in_place(const struct memory *mem, const struct param_set *s) { return mem->compute == DT_F32 || !s || s->narrow; }

void memory_sizes(struct memory *mem, const struct program *const *programs, int n) {
    const struct backend *backend = programs[0]->plan.backend;
    int64_t slots = 0;
    *mem = (struct memory){.backend = backend, .compute = prog_dt(&programs[0]->p)};
    mem->act_bytes = memory_act(programs, n, &mem->state_off);
    for (int i = 0; i < n; i++) {
        const struct plan *pl = &programs[i]->plan;
        if (pl->scratch > mem->scratch_bytes) mem->scratch_bytes = pl->scratch;
        if (pl->host > mem->host_bytes) mem->host_bytes = pl->host;
        if (pl->input > mem->log_off && !backend->mem->host) mem->log_off = pl->input;
        const size_t work = in_place(mem, programs[i]->params) ? 0 : param_work_bytes(programs[i]->params, mem->compute);
        const size_t works = work * (size_t)(programs[i]->p.adapters ? programs[i]->p.adapters : 1);
        if (works > mem->work_bytes) mem->work_bytes = works;
        if (programs[i]->mode == MODE_DECODE && programs[i]->p.cap[-SYM_N] > slots) slots = programs[i]->p.cap[-SYM_N];
    }
    if (mem->log_off) mem->stage_bytes = mem->log_off + 2 * LOG_LINES * (size_t)slots * sizeof *mem->log;
}

err memory_for(struct memory *mem, struct program *const *programs, int n) {
    memory_sizes(mem, (const struct program *const *)programs, n);
    const struct backend *backend = mem->backend;
    if (backend->open) TRY(backend->open());
    for (int i = 0; i < n; i++) TRY(derived_fill(programs[i]->derived, programs[i]->base));
    for (int i = 0; i < n; i++) TRY(plan_place(&programs[i]->plan, programs[i]->base));
    mem->act = backend->mem->take(mem->act_bytes);
    mem->scratch = backend->mem->take(mem->scratch_bytes);
    if (mem->work_bytes) mem->work = backend->mem->take(mem->work_bytes);
    if (mem->stage_bytes) mem->stage = backend->mem->take(mem->stage_bytes), mem->stage_host = pages_take(mem->stage_bytes);
    if (mem->host_bytes && !(mem->host = backend->mem->take_host(mem->host_bytes))) {
        memory_free(mem);
        return fail(E_MEMORY, "the host has no %zu bytes for activations that wait there (offload_activations)", mem->host_bytes);
    }
    if (mem->act && mem->scratch && (mem->work || !mem->work_bytes) && (!mem->stage_bytes || (mem->stage && mem->stage_host))) {
        mem->log = mem->stage ? (int32_t *)(mem->stage + mem->log_off) : NULL;
        return OK;
    }
    err e = fail(E_MEMORY, "cannot take %zu bytes for activations and scratch on %s", mem->act_bytes + mem->scratch_bytes, backend->name);
    memory_free(mem);
    return e;
}

static err grow(const struct mem_ops *m, char **p, size_t *have, size_t bytes) {
    if (bytes <= *have) return OK;
    m->give(*p, *have);
    *have = bytes;
    return (*p = m->take(bytes)) ? OK : fail(E_MEMORY, "cannot take %zu bytes for activations or scratch", bytes);
}

err memory_grow(struct memory *mem, size_t act, size_t scratch) {
    TRY(grow(mem->backend->mem, &mem->act, &mem->act_bytes, act));
    return grow(mem->backend->mem, &mem->scratch, &mem->scratch_bytes, scratch);
}

void memory_free(struct memory *mem) {
    if (!mem->backend) return;
    const struct mem_ops *m = mem->backend->mem;
    m->give(mem->act, mem->act_bytes);
    m->give(mem->scratch, mem->scratch_bytes);
    if (mem->work) m->give(mem->work, mem->work_bytes);
    if (mem->host) m->give_host(mem->host, mem->host_bytes);
    if (mem->stage) m->give(mem->stage, mem->stage_bytes);
    if (mem->stage_host) pages_give(mem->stage_host, mem->stage_bytes);
    *mem = (struct memory){0};
}

static err cast_weights(const struct memory *mem, const struct param_set *s, const float *from, char *to, int threads) {
    const struct { size_t n; dtype as; } parts[] = {{s->vectors / 4, mem->compute}, {(s->trained - s->vectors) / 4, DT_F32}, {(s->bytes - s->trained) / 4, mem->compute}};
    for (int i = 0; i < 3; i++) {
        if (parts[i].n) TRY(mem->backend->flat->cast(from, to, parts[i].as, (int64_t)parts[i].n, threads));
        from += parts[i].n;
        to += parts[i].n * dtype_row_bytes(parts[i].as, 1);
    }
    return OK;
}

err memory_bind(const struct memory *mem, const struct program *g, const void *weights, int threads, void **param) {
    const bool lie = !weights || in_place(mem, g->params);
    *param = lie ? (void *)weights : mem->work;
    return lie ? OK : cast_weights(mem, g->params, weights, mem->work, threads);
}

err memory_bind_all(const struct memory *mem, const struct program *g, const struct crowd *c, int threads, void **param, struct adapters *all) {
    const bool lie = in_place(mem, g->params);
    const size_t work = lie ? 0 : param_work_bytes(g->params, mem->compute);
    *all = (struct adapters){.n = c->n};
    if (c->n > g->p.adapters) return fail(E_INTERNAL, "rows of %d adapters in a program of %d", c->n, g->p.adapters);
    for (int k = 0; k < c->n; k++) {
        if (!lie) TRY(cast_weights(mem, g->params, c->weights[k], (char *)mem->work + (size_t)k * work, threads));
        all->of[k].weights = lie ? (ptrdiff_t)((intptr_t)c->weights[k] - (intptr_t)c->weights[0]) : (ptrdiff_t)((size_t)k * work);
        all->of[k].grads = (ptrdiff_t)((size_t)k * g->params->trained);
    }
    *param = lie ? (void *)c->weights[0] : mem->work;
    return OK;
}

static struct binding bind(const struct memory *mem, int n, int s, int m) {
    struct binding b = {.act = mem->act, .scratch = mem->scratch, .state = mem->act + mem->state_off, .host = mem->host, .stage = mem->stage, .stage_host = mem->stage_host};
    b.size[-SYM_N] = n;
    b.size[-SYM_S] = s;
    b.size[-SYM_S1] = s + 1;
    b.size[-SYM_M] = m;
    return b;
}

/* --- ladders -------------------------------------------------------------------------------------------------------- */
/* Kernels that average less than this are short beside their launches. */
static const double SHORT_FLOPS = 30e9;

static int power_below(int n) {
    int p = 1;
    while (2 * p <= n) p *= 2;
    return p;
}

/* The next multiple of the `parts`-th part of the power of two below. */
static int rung(int n, int parts) {
    int step = power_below(n) / parts;
    return step > 1 ? (n + step - 1) / step * step : n;
}

static int at_most(int64_t most, int n) { return n > most ? (int)most : n; }

bool program_rungs(const struct program *g, int *n, int *s) {
    const int64_t cap_n = g->p.cap[-SYM_N], cap_s = g->p.cap[-SYM_S];
    if (!g->plan.backend->replay || g->plan.flops * *n / (double)cap_n > SHORT_FLOPS * g->p.ni) return false;
    int up_n = at_most(cap_n, rung(*n, 16)), up_s = at_most(cap_s, 2 * power_below(*s < 4 ? 4 : *s));
    if (up_n > *n && up_s == *s) return false; /* no sequence left for the slack to be */
    *n = up_n;
    *s = up_s;
    return true;
}

int program_lines(const struct program *g, int n) { return g->plan.backend->replay ? at_most(g->p.cap[-SYM_N], rung(n, 2)) : n; }

/* What kernels may know of the inputs without asking the backend. */
static void look_at(const struct feed *f, struct run_ctx *run) {
    run->longest = run->weighted = 0;
    for (int s = 0; f->cu && s < f->s; s++)
        if (f->cu[s + 1] - f->cu[s] > run->longest) run->longest = f->cu[s + 1] - f->cu[s];
    for (int i = 0; f->weight && i < f->n; i++) run->weighted += f->weight[i] != 0;
    if (!f->repeats) return;
    run->longest = at_most(f->n, rung(run->longest, 2));
    run->weighted = at_most(f->n, rung(run->weighted, 4));
}

/* A run says them, or all rows have the structure's. */
static const float *rows_weights(const struct program *g, const float *said, int n, float *room) {
    for (int i = 0; i < n && !said; i++) memcpy(room + (size_t)i * (size_t)g->members, g->member_weights, (size_t)g->members * sizeof *room);
    return said ? said : room;
}

/* In the order in which program_build() has made the inputs. */
static void list_inputs(const struct program *g, const struct feed *f, const void **in) {
    int n = 0;
    if (g->mode == MODE_TOP) {
        in[n++] = f->taught;
        return;
    }
    if (g->mode == MODE_COPY) in[n++] = f->from, in[n++] = f->slot;
    else in[n++] = f->ids;
    in[n++] = f->pos;
    if (g->mode == MODE_COPY) return;
    if (g->own_ids) in[n++] = g->own_ids;
    if (g->members) in[n++] = rows_weights(g, f->mix, f->n, g->mix);
    if (g->src_mix) in[n++] = rows_weights(g, f->src_mix, f->m, g->src_mix);
    if (g->given) in[n++] = f->given, in[n++] = f->given_rows;
    if (g->mode != MODE_DECODE && g->mode != MODE_EXTEND && g->mode != MODE_CONTINUE) in[n++] = f->cu;
    if (g->seq2seq && g->mode == MODE_DECODE) in[n++] = f->src_last, in[n++] = f->src_slot;
    else if (g->seq2seq) in[n++] = f->src_ids, in[n++] = f->src_pos, in[n++] = f->src_cu, in[n++] = f->src_sample;
    if (g->seq2seq && g->mode == MODE_PREFILL) in[n++] = f->src_slot;
    if (g->mode == MODE_PREFILL || g->mode == MODE_EXTEND) in[n++] = f->slot, in[n++] = f->rows, in[n++] = f->sample, in[n++] = f->last_pos;
    else if (g->mode == MODE_DECODE) {
        in[n++] = f->slot, in[n++] = f->sample;
        if (g->choosing.rules) in[n++] = f->begin;
    } else if (g->mode == MODE_CONTINUE) in[n++] = f->slot, in[n++] = f->label, in[n++] = f->weight;
    else if (g->mode == MODE_CLASSIFY && g->gathers) in[n++] = f->rows;
    else if (g->mode != MODE_FEATURES && g->mode != MODE_CLASSIFY) in[n++] = f->sample, in[n++] = f->label, in[n++] = f->weight;
    if (g->targets) in[n++] = f->target;
    if (g->lesson && g->lesson->top) in[n++] = f->top, in[n++] = f->top_logprob;
    else if (g->lesson) in[n++] = f->taught;
}

err program_run(const struct program *g, const struct memory *mem, void *param, float *grad, const struct feed *f,
                const struct run_ctx *run, bool poison) {
    const void *input[20];
    if (g->given && !f->given)
        return fail(E_USAGE, "this adapter reads %d vector%s of %d numbers beside each text, and none %s given", g->given,
                    g->given > 1 ? "s" : "", g->given_width, g->given > 1 ? "are" : "is");
    list_inputs(g, f, input);
    struct binding b = bind(mem, f->n, g->mode == MODE_DECODE ? 0 : f->s, f->m);
    struct run_ctx known = *run;
    look_at(f, &known);
    b.param = param;
    b.grad = grad;
    b.poison = poison;
    b.repeats = f->repeats && !mem->profile;
    b.watch = f->watch;
    b.input = (void *const *)input;
    struct profiling watched;
    if (mem->profile) profile_run(&watched, mem, g, f), b.watch = &watched.watch;
    return plan_run(&g->plan, &b, &known);
}

/* --- token by token -------------------------------------------------------------------------------------------------- */
err program_advance(const struct program *g, const struct memory *mem, int n, int line) {
    struct binding b = bind(mem, n, 0, 0);
    return mem->backend->flat->advance(plan_view(&g->plan, &b, g->ids).p, plan_view(&g->plan, &b, g->pos).p, plan_view(&g->plan, &b, g->next).p,
                                       plan_view(&g->plan, &b, g->logprob).p, mem->log + 2 * (size_t)line * n, n);
}

err program_again(const struct program *g, const struct memory *mem, void *param, int n, const struct run_ctx *run) {
    struct binding b = bind(mem, n, 0, 0);
    b.param = param;
    b.staged = true;
    b.repeats = !mem->profile;
    struct profiling watched;
    if (mem->profile) profile_run(&watched, mem, g, &(struct feed){.n = n}), b.watch = &watched.watch;
    return plan_run(&g->plan, &b, run);
}

err program_log(const struct memory *mem, int n, int lines, int32_t *to) {
    return mem->backend->mem->download(to, mem->log, 2 * (size_t)n * lines * sizeof *to);
}

struct view program_out(const struct program *g, const struct memory *mem, val v, int n, int s) {
    struct binding b = bind(mem, n, s, 0);
    return plan_view(&g->plan, &b, v);
}

err program_read(const struct program *g, const struct memory *mem, val v, int n, int s, void *to, size_t bytes) {
    return mem->backend->mem->download(to, program_out(g, mem, v, n, s).p, bytes);
}
