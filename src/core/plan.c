/* Placing values and running the list. See plan.h. */
#include "core/plan.h"
#include "core/wide.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, WEIGHT_ALIGN = 256 /* what a card's own allocations begin at */ };
static size_t whole_units(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }
static size_t aligned(size_t n) { return whole_units(n, ALIGN); }

struct block { size_t off, size; uint32_t v; };

/* The live values of the ACT arena, sorted by offset. */
struct layout { struct block *s; int n; size_t top; };

/* Best fit: the smallest gap that holds the value, else after the last one. */
static size_t place(struct layout *l, size_t size, uint32_t v) {
    size_t best = SIZE_MAX, best_gap = SIZE_MAX, at = 0;
    int best_i = l->n;
    for (int i = 0; i < l->n; i++) {
        size_t gap = l->s[i].off - at;
        if (gap >= size && gap < best_gap) best = at, best_gap = gap, best_i = i;
        at = l->s[i].off + l->s[i].size;
    }
    if (best == SIZE_MAX) best = at;
    memmove(l->s + best_i + 1, l->s + best_i, (size_t)(l->n - best_i) * sizeof *l->s);
    l->s[best_i] = (struct block){best, size, v};
    l->n++;
    if (best + size > l->top) l->top = best + size;
    return best;
}

static void release(struct layout *l, uint32_t v) {
    for (int i = 0; i < l->n; i++)
        if (l->s[i].v == v) {
            memmove(l->s + i, l->s + i + 1, (size_t)(l->n - i - 1) * sizeof *l->s);
            l->n--;
            return;
        }
}

static void find_last_uses(struct prog *p) {
    for (int v = 1; v < p->nv; v++) p->v[v].last = p->v[v].keep ? INT_MAX : p->v[v].def;
    for (int i = 0; i < p->ni; i++)
        for (int k = 0; k < p->in[i].op->n_in; k++) {
            struct value *v = &p->v[p->in[i].in[k].i];
            if (has(p->in[i].in[k]) && v->last < i) v->last = i;
        }
}

/* Behind the last instruction of i's pieces; of one that runs whole, the next. */
static int pieces_end(const struct prog *p, int i) {
    int end = i + 1;
    while (p->in[i].piece && end < p->ni && p->in[end].piece == p->in[i].piece) end++;
    return end;
}

static void find_parts(struct prog *p) {
    for (int i = 0, end; i < p->ni; i = end) {
        end = pieces_end(p, i);
        for (int j = i; p->in[i].piece && j < end; j++)
            for (int k = 0; k < p->in[j].op->n_out; k++) {
                struct value *v = prog_v(p, p->in[j].out[k]);
                if (has(p->in[j].out[k]) && v->role == ROLE_ACT && v->last < end) v->part = true;
            }
    }
}

/* The sizes at which instruction i is planned. */
static void planned_sizes(const struct prog *p, const struct inst *i, int64_t size[SYM_COUNT]) {
    memcpy(size, p->cap, sizeof p->cap);
    if (i->piece) size[-prog_rows(p, i)] = p->piece_rows;
}

/* The bytes that a value of the ACT arena has room for. */
static size_t room(const struct prog *p, val v) {
    struct view w = prog_view(p, v, NULL);
    if (prog_v(p, v)->part) w.d[0] = p->piece_rows;
    return view_bytes(&w);
}

/* Gives out[0] the memory of a dying input where the op allows it. */
static bool take_over(struct prog *p, struct layout *l, const struct inst *s, int i) {
    struct value *out = prog_v(p, s->out[0]);
    for (int k = 0; k < s->op->n_in; k++) {
        if (!(s->op->inplace >> k & 1) || !has(s->in[k])) continue;
        struct value *in = prog_v(p, s->in[k]);
        if (in->role != ROLE_ACT || in->last != i || in->part != out->part || room(p, s->in[k]) != room(p, s->out[0])) continue;
        for (int j = 0; j < l->n; j++)
            if (l->s[j].v == s->in[k].i) {
                l->s[j].v = s->out[0].i;
                out->off = in->off;
                out->alias = s->in[k];
                return true;
            }
    }
    return false;
}

static void place_outputs(struct prog *p, struct layout *l, int i, bool part) {
    const struct inst *s = &p->in[i];
    for (int k = 0; k < s->op->n_out; k++) {
        if (!has(s->out[k]) || prog_v(p, s->out[k])->role != ROLE_ACT || prog_v(p, s->out[k])->part != part) continue;
        if (k == 0 && s->op->inplace && take_over(p, l, s, i)) continue;
        prog_v(p, s->out[k])->off = place(l, aligned(room(p, s->out[k])), s->out[k].i);
    }
}

static void release_one(struct prog *p, struct layout *l, val v, int i, bool part) {
    if (has(v) && prog_v(p, v)->last == i && prog_v(p, v)->part == part) release(l, v.i);
}

static void release_dead(struct prog *p, struct layout *l, int i, bool part) {
    const struct inst *s = &p->in[i];
    for (int k = 0; k < s->op->n_in; k++) release_one(p, l, s->in[k], i, part);
    for (int k = 0; k < s->op->n_out; k++) release_one(p, l, s->out[k], i, part);
}

/* Instructions first .. end - 1, whole values or those of a piece. The instructions of a span run as one: nothing that one of them reads or
 * writes may be overwritten by another. */
static void place_run(struct plan *pl, struct layout *l, int first, int last, bool part) {
    for (int i = first, end; i < last; i = end) {
        for (end = i; end == i || (end < last && !pl->run[end]); end++) place_outputs(pl->p, l, end, part);
        for (int j = i; j < end; j++) release_dead(pl->p, l, j, part);
    }
}

/* A loop: the whole values that it makes are there before the first piece, those that it reads until after the last. */
static void place_pieces(struct plan *pl, struct layout *l, int first, int last) {
    for (int i = first; i < last; i++) place_outputs(pl->p, l, i, false);
    place_run(pl, l, first, last, true);
    for (int i = first; i < last; i++) release_dead(pl->p, l, i, false);
}

/* Values of the other arenas lie one after the other. */
static void place_aside(struct plan *pl, struct value *v, struct view w) {
    size_t *end = v->role == ROLE_STATE ? &pl->state : v->role == ROLE_INPUT ? &pl->input : v->role == ROLE_HOST ? &pl->host : NULL;
    if (v->role == ROLE_PARAM && v->off + view_bytes(&w) > pl->param) pl->param = v->off + view_bytes(&w);
    if (!end) return;
    if (has(v->alias)) v->off = prog_v(pl->p, v->alias)->off;
    else if (v->role != ROLE_HOST || v->last >= 0) v->off = *end, *end += aligned(view_bytes(&w));
}

static err place_values(struct plan *pl) {
    struct prog *p = pl->p;
    struct layout l = {calloc((size_t)p->nv + 1, sizeof(struct block)), 0, 0};
    if (!l.s) return fail(E_MEMORY, "out of memory while planning");
    for (int i = 0, end; i < p->ni; i = end) {
        for (end = pieces_end(p, i); !p->in[i].piece && end < p->ni && !p->in[end].piece;) end++;
        if (p->in[i].piece) place_pieces(pl, &l, i, end);
        else place_run(pl, &l, i, end, false);
    }
    pl->act = l.top;
    free(l.s);
    for (int v = 1; v < p->nv; v++) place_aside(pl, &p->v[v], prog_view(p, (val){(uint32_t)v}, NULL));
    return OK;
}

static void views_of(const struct prog *p, const val *v, int n, const int64_t *size, struct view *out) {
    for (int k = 0; k < n; k++) out[k] = prog_view(p, v[k], size);
}

/* The kernel of instruction i, and what it asks for beside its operands. */
static err choose_kernel(struct plan *pl, int i, bool in_span) {
    const struct prog *p = pl->p;
    const struct inst *s = &p->in[i];
    const struct backend *b = pl->backend;
    struct view in[MAX_IN], out[MAX_OUT];
    int64_t size[SYM_COUNT];
    planned_sizes(p, s, size);
    views_of(p, s->in, s->op->n_in, size, in);
    views_of(p, s->out, s->op->n_out, size, out);
    size_t scratch = 0;
    kernel found = b->find(s, in, out);
    if (found) scratch = b->scratch ? b->scratch(s, in, out) : 0;
    else if (!b->mem->host)
        return fail(E_UNSUPPORTED, "the %s backend has no kernel for %s in %s", b->name, s->op->name, dtype_info[prog_dt(p)].name);
    else if (prog_dt(p) != DT_F32) found = wide_reference(s, in, out, &scratch);
    else {
        found = s->op->ref;
        scratch = s->op->ref_scratch ? s->op->ref_scratch(s, in, out) : 0;
    }
    if (!in_span) pl->run[i] = found;
    if (scratch > pl->scratch) pl->scratch = scratch;
    if (s->op->cost) {
        struct cost c = s->op->cost(s, in, out);
        const double times = s->piece ? (double)p->cap[-prog_rows(p, s)] / (double)p->piece_rows : 1;
        pl->flops += c.flops * times;
        pl->bytes += c.bytes * times;
    }
    return OK;
}

static err choose_kernels(struct plan *pl) {
    const struct prog *p = pl->p;
    const struct backend *backend = pl->backend;
    for (int i = 0; i < p->ni;) {
        int span = backend->span ? backend->span(p, i, &pl->run[i]) : 0;
        for (int j = i + 1; j < i + span; j++)
            if (p->in[j].piece != p->in[i].piece) span = 0;
        int end = i + (span > 1 ? span : 1);
        for (; i < end; i++) TRY(choose_kernel(pl, i, span > 1));
    }
    return OK;
}

err plan_make(struct plan *pl, struct prog *p, const struct backend *backend) {
    *pl = (struct plan){.p = p, .backend = backend};
    if (p->failed) return p->failed;
    prog_fit(p);
    pl->run = calloc((size_t)p->ni + 1, sizeof *pl->run);
    if (!pl->run) return fail(E_MEMORY, "out of memory while planning");
    find_last_uses(p);
    find_parts(p);
    if (backend->count_threads) backend->count_threads(p->threads);
    err e = choose_kernels(pl);
    if (backend->count_threads) backend->count_threads(0);
    return e ? e : place_values(pl);
}

/* --- gradients that live for a while -------------------------------------------------------------------------------------- */
/* Behind what is launched together from instruction i on: a span, or a loop over pieces of rows. */
static int group_end(const struct plan *pl, int i) {
    if (pl->p->in[i].piece) return pieces_end(pl->p, i);
    do i++;
    while (i < pl->p->ni && !pl->run[i]);
    return i;
}

/* Which parameter v is, or is the gradient of; -1: neither. */
static int of_param(const struct fused *f, const struct value *v) {
    const size_t off = v->role == ROLE_PARAM ? v->grad : v->off;
    for (int i = 0; i < f->n && (v->role == ROLE_PARAM || v->role == ROLE_GRAD); i++)
        if (off >= f->p[i].off && off < f->p[i].off + f->p[i].bytes) return i;
    return -1;
}

/* Launch [from, to) touches v. */
static void lives(struct fused *f, const struct value *v, int from, int to) {
    const int i = of_param(f, v);
    if (i < 0) return;
    if (v->role == ROLE_GRAD && f->p[i].first < 0) f->p[i].first = from;
    f->p[i].last = to - 1;
}

static void find_lives(const struct plan *pl, struct fused *f) {
    const struct prog *p = pl->p;
    for (int i = 0, end; i < p->ni; i = end) {
        end = group_end(pl, i);
        for (int j = i; j < end; j++) {
            for (int k = 0; k < p->in[j].op->n_in; k++) lives(f, &p->v[p->in[j].in[k].i], i, end);
            for (int k = 0; k < p->in[j].op->n_out; k++) lives(f, &p->v[p->in[j].out[k].i], i, end);
        }
    }
}

err plan_fuse(struct plan *pl, const struct param_set *set, struct fused *out) {
    struct prog *p = pl->p;
    struct layout l = {calloc((size_t)set->n + 1, sizeof(struct block)), 0, 0};
    *out = (struct fused){.p = calloc((size_t)set->n + 1, sizeof *out->p)};
    if (!l.s || !out->p) return free(l.s), fail(E_MEMORY, "out of memory while planning");
    for (int i = 0; i < set->n; i++) {
        size_t bytes = sizeof(float);
        for (int k = 0; k < set->p[i].nd; k++) bytes *= (size_t)set->p[i].d[k];
        if (!set->p[i].frozen) out->p[out->n++] = (struct span_of_life){-1, -1, set->p[i].off, aligned(bytes), 0};
    }
    find_lives(pl, out);
    for (int i = 0; i < p->ni; i++) {
        for (int k = 0; k < out->n; k++)
            if (out->p[k].first == i) out->p[k].at = place(&l, out->p[k].bytes, (uint32_t)k);
        for (int k = 0; k < out->n; k++)
            if (out->p[k].first >= 0 && out->p[k].last == i) release(&l, (uint32_t)k);
    }
    for (int v = 1; v < p->nv; v++) {
        const int k = p->v[v].role == ROLE_GRAD ? of_param(out, &p->v[v]) : -1;
        if (k >= 0) p->v[v].off = p->v[v].off - out->p[k].off + out->p[k].at;
    }
    out->bytes = l.top;
    free(l.s);
    return OK;
}

void fused_free(struct fused *f) {
    free(f->p);
    *f = (struct fused){0};
}

void plan_free(struct plan *pl) {
    if (pl->backend && pl->backend->replay) pl->backend->replay->forget(pl);
    free(pl->run);
    *pl = (struct plan){0};
}

static void *base_of(const struct binding *b, const struct value *v) {
    switch (v->role) {
    case ROLE_INPUT: return b->stage ? b->stage + v->off : b->input[v->input];
    case ROLE_BASE: return v->at ? v->at : (void *)v->data;
    case ROLE_PARAM: return (char *)b->param + v->off;
    case ROLE_GRAD: return (char *)b->grad + v->off;
    case ROLE_STATE: return (char *)b->state + v->off;
    case ROLE_HOST: return (char *)b->host + v->off;
    case ROLE_ACT: return (char *)b->act + v->off;
    }
    return NULL;
}

struct view plan_view(const struct plan *pl, const struct binding *b, val v) {
    struct view w = prog_view(pl->p, v, b->size);
    if (!has(v)) return w;
    const struct value *x = prog_v(pl->p, v);
    w.p = base_of(b, x);
    if (x->nd && x->d[0] < 0 && b->first[-x->d[0]] && !x->part)
        w.p = (char *)w.p + (size_t)b->first[-x->d[0]] * dtype_row_bytes(x->dt, x->nd > 1 ? x->ld : 1);
    return w;
}

/* Copies a base tensor to its place; one that is kept as another type is converted there. */
static err bring(const struct backend *b, const struct value *x, const struct view *as, void *to) {
    if (x->stored == x->dt) return b->mem->upload(to, x->data, view_bytes(as));
    struct view stored = *as;
    stored.dt = x->stored;
    void *raw = b->mem->take(view_bytes(&stored));
    if (!raw) return fail(E_MEMORY, "no room on %s to convert tensor %s (%zu bytes)", b->name, x->name, view_bytes(&stored));
    err e = b->mem->upload(raw, x->data, view_bytes(&stored));
    if (!e) e = b->keep(raw, x->stored, to, as);
    b->mem->give(raw, view_bytes(&stored));
    return e;
}

/* NULL: it is not among them. Several values may be one tensor: frequencies of every block, a table that is the head too. */
static struct resident *find_resident(const struct residents *rs, const void *host) {
    for (; rs; rs = rs->beside)
        for (int i = 0; i < rs->n; i++)
            if (rs->r[i].host == host) return &rs->r[i];
    return NULL;
}

static err add_slab(struct residents *rs, const struct plan *pl, size_t bytes) {
    struct slab *all = realloc(rs->slab, (size_t)(rs->n_slabs + 1) * sizeof *all);
    if (!all) return fail(E_MEMORY, "out of memory");
    rs->slab = all;
    struct slab fresh = {rs->mem->take(bytes), bytes};
    if (!fresh.at) return fail(E_MEMORY, "no room on %s for %zu bytes of weights (after %zu)", pl->backend->name, bytes, rs->bytes - bytes);
    rs->slab[rs->n_slabs++] = fresh;
    return OK;
}

static err add_resident(struct residents *rs, struct resident fresh) {
    if (rs->n == rs->cap) {
        const int cap = rs->cap ? 2 * rs->cap : 256;
        struct resident *r = realloc(rs->r, (size_t)cap * sizeof *r);
        if (!r) return fail(E_MEMORY, "out of memory");
        rs->r = r;
        rs->cap = cap;
    }
    rs->r[rs->n++] = fresh;
    return OK;
}

static size_t weight_room(const struct view *w) { return whole_units(view_bytes(w), WEIGHT_ALIGN); }

err plan_weigh(const struct plan *pl, struct residents *rs) {
    for (int v = 1; v < pl->p->nv; v++) {
        const struct value *x = &pl->p->v[v];
        if (x->role != ROLE_BASE || find_resident(rs, x->data)) continue;
        const struct view w = prog_view(pl->p, (val){(uint32_t)v}, NULL);
        TRY(add_resident(rs, (struct resident){x->data, NULL}));
        rs->bytes += weight_room(&w);
    }
    return OK;
}

err plan_place(struct plan *pl, struct residents *rs) {
    const size_t before = rs->bytes;
    rs->mem = pl->backend->mem;
    if (rs->mem->host) return OK;
    TRY(plan_weigh(pl, rs));
    if (rs->bytes > before) TRY(add_slab(rs, pl, rs->bytes - before));
    char *at = rs->bytes > before ? rs->slab[rs->n_slabs - 1].at : NULL;
    for (int v = 1; v < pl->p->nv; v++) {
        struct value *x = &pl->p->v[v];
        if (x->role != ROLE_BASE) continue;
        struct resident *r = find_resident(rs, x->data);
        if (!r->at) {
            const struct view w = prog_view(pl->p, (val){(uint32_t)v}, NULL);
            if (rs->make) TRY(rs->make(rs->ctx, x->data));
            TRY(bring(pl->backend, x, &w, at));
            if (rs->drop) rs->drop(rs->ctx, x->data);
            r->at = at;
            at += weight_room(&w);
        }
        x->at = r->at;
    }
    return OK;
}

void residents_free(struct residents *rs) {
    for (int i = 0; i < rs->n_slabs; i++) rs->mem->give(rs->slab[i].at, rs->slab[i].bytes);
    free(rs->slab);
    free(rs->r);
    *rs = (struct residents){0};
}

/* Inputs go over in one copy. */
static err send_inputs(const struct plan *pl, const struct binding *b) {
    if (pl->backend->mem->host) return OK;
    size_t end = 0;
    for (int v = 1; v < pl->p->nv; v++) {
        const struct value *x = &pl->p->v[v];
        if (x->role != ROLE_INPUT) continue;
        struct view w = prog_view(pl->p, (val){(uint32_t)v}, b->size);
        size_t bytes = view_bytes(&w);
        if (!bytes) continue;
        memcpy(b->stage_host + x->off, b->input[x->input], bytes);
        if (x->off + bytes > end) end = x->off + bytes;
    }
    return pl->backend->mem->upload(b->stage, b->stage_host, end);
}

err plan_launch(const struct plan *pl, const struct binding *b, const struct run_ctx *run, int i, int *next) {
    const struct prog *p = pl->p;
    struct view in[MAX_SPAN * MAX_IN], out[MAX_SPAN * MAX_OUT];
    int end = i;
    if (p->in[i].piece && b->size[-prog_rows(p, &p->in[i])] > p->piece_rows)
        return fail(E_INTERNAL, "instruction %d (%s) runs in pieces", i, p->in[i].op->name);
    do {
        const struct inst *s = &p->in[end];
        for (int k = 0; k < s->op->n_in; k++) in[(end - i) * MAX_IN + k] = plan_view(pl, b, s->in[k]);
        for (int k = 0; k < s->op->n_out; k++) out[(end - i) * MAX_OUT + k] = plan_view(pl, b, s->out[k]);
    } while (++end < p->ni && !pl->run[end]);
    *next = end;
    err e = pl->run[i](run, &p->in[i], in, out, b->scratch);
    return e ? fail_in(e, "instruction %d (%s)", i, p->in[i].op->name) : OK;
}

/* Instructions i .. end - 1, for some of the rows at a time; a run without rows is one empty piece. */
static err launch_pieces(const struct plan *pl, const struct binding *b, const struct run_ctx *run, int i, int end) {
    const int64_t sym = -prog_rows(pl->p, &pl->p->in[i]), rows = b->size[sym], most = pl->p->piece_rows;
    const int64_t n = rows > most ? (rows + most - 1) / most : 1, each = (rows + n - 1) / n;
    struct binding piece = *b;
    struct run_ctx own = *run;
    for (int64_t k = 0; k < n; k++) {
        piece.first[sym] = k * each;
        piece.size[sym] = rows - k * each < each ? rows - k * each : each;
        struct adapters some;
        if (run->adapters) some = adapters_of_rows(run->adapters, k * each, piece.size[sym]), own.adapters = &some;
        for (int j = i; j < end;) TRY(plan_launch(pl, &piece, &own, j, &j));
    }
    return OK;
}

static err launch_all(const struct plan *pl, const struct binding *b, const struct run_ctx *run) {
    for (int i = 0, end; i < pl->p->ni; i = end) {
        end = group_end(pl, i);
        if (b->watch && b->watch->before) TRY(b->watch->before(b->watch->ctx, i, end));
        if (pl->p->in[i].piece) TRY(launch_pieces(pl, b, run, i, end));
        else TRY(plan_launch(pl, b, run, i, &end));
        if (b->watch && b->watch->after) TRY(b->watch->after(b->watch->ctx, i, end));
    }
    return OK;
}

/* What the kernels of a run depend on beside the bytes in its arenas. Compared as bytes, so padding is cleared. */
struct replay_key {
    const void *plan, *act, *scratch, *state, *host, *param, *grad, *stage;
    int64_t size[SYM_COUNT];
    struct run_ctx run;
    int64_t adapter_end[MAX_ADAPTERS];
};

static void key_of(struct replay_key *k, const struct plan *pl, const struct binding *b, const struct run_ctx *run) {
    memset(k, 0, sizeof *k);
    k->plan = pl, k->act = b->act, k->scratch = b->scratch, k->state = b->state, k->host = b->host;
    k->param = b->param, k->grad = b->grad, k->stage = b->stage;
    memcpy(k->size, b->size, sizeof k->size);
    k->run.sampling = run->sampling; /* of words, without padding */
    k->run.longest = run->longest, k->run.weighted = run->weighted;
    for (int a = 0; run->adapters && a < run->adapters->n; a++) k->adapter_end[a] = run->adapters->of[a].end;
}

err plan_run(const struct plan *pl, const struct binding *b, const struct run_ctx *asked) {
    struct run_ctx own = *asked;
    const struct run_ctx *run = &own;
    if (pl->p->threads > 0 && own.threads > pl->p->threads) own.threads = pl->p->threads; /* scratch is counted for so many */
    if (!pl->backend->computes) return fail(E_INTERNAL, "a plan of the %s backend cannot be run", pl->backend->name);
    for (int s = 1; s < SYM_COUNT; s++)
        if (b->size[s] > pl->p->cap[s])
            return fail(E_INTERNAL, "a run of size %lld exceeds the plan's %lld", (long long)b->size[s], (long long)pl->p->cap[s]);
    if (b->poison) {
        TRY(pl->backend->mem->fill(b->act, 0xFF, pl->act));
        TRY(pl->backend->mem->fill(b->scratch, 0xFF, pl->scratch));
    }
    if (!b->staged) TRY(send_inputs(pl, b));
    if (pl->backend->begin_run) TRY(pl->backend->begin_run(run));
    const struct replay_ops *replay = b->repeats ? pl->backend->replay : NULL;
    if (!replay) return launch_all(pl, b, run);
    struct replay_key key;
    bool replayed = false;
    key_of(&key, pl, b, run);
    TRY(replay->begin(&key, sizeof key, &replayed));
    return replayed ? OK : replay->end(launch_all(pl, b, run));
}
