/* Building programs: values, instructions, shape checks, dead code, printing. See prog.h for the model.
 *
 * Errors inside builders stick to the program (p->failed) and silence the builders after them, so that a family's
 * emit_block reads as the model; whoever finishes the program checks once. */
#include "core/prog.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t prog_bytes(const struct prog *p) {
    return arena_used(&p->mem) + (size_t)p->nv * sizeof *p->v + (size_t)p->ni * (sizeof *p->in + sizeof(kernel));
}

static void fit(void **array, int n, int *cap, size_t each) {
    void *q = n < *cap && n ? realloc(*array, (size_t)n * each) : NULL;
    if (q) *array = q, *cap = n;
}

void prog_fit(struct prog *p) {
    fit((void **)&p->v, p->nv, &p->cap_v, sizeof *p->v);
    fit((void **)&p->in, p->ni, &p->cap_i, sizeof *p->in);
}

void prog_free(struct prog *p) {
    arena_free(&p->mem);
    free(p->v);
    free(p->in);
    *p = (struct prog){0};
}

err prog_fail(struct prog *p, err code, const char *fmt, ...) {
    if (p->failed) return p->failed;
    char msg[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return p->failed = fail(code, "%s", msg);
}

/* Makes room for one more element of a growing array. */
static bool grow(struct prog *p, void **array, int n, int *cap, size_t each) {
    if (n < *cap) return true;
    int bigger = *cap ? *cap * 2 : 32;
    void *q = realloc(*array, (size_t)bigger * each);
    if (!q) {
        prog_fail(p, E_MEMORY, "out of memory while building a program");
        return false;
    }
    *array = q;
    *cap = bigger;
    return true;
}

val prog_value(struct prog *p, enum role role, dtype dt, int nd, const int64_t *d, const char *name) {
    if (p->failed) return (val){0};
    if (p->nv == 0) p->nv = 1; /* index 0 means absent */
    if (!grow(p, (void **)&p->v, p->nv, &p->cap_v, sizeof *p->v)) return (val){0};
    struct value *v = &p->v[p->nv];
    *v = (struct value){.dt = dt, .nd = nd, .role = role, .def = -1, .last = -1, .segment = p->segment, .input = -1};
    for (int i = 0; i < nd; i++) v->d[i] = d[i];
    v->ld = nd > 1 ? 1 : 0;
    for (int i = 1; i < nd; i++) v->ld *= d[i];
    v->name = name ? arena_str(&p->mem, name) : "";
    return (val){(uint32_t)p->nv++};
}

val prog_input(struct prog *p, dtype dt, int nd, const int64_t *d, const char *name) {
    val v = prog_value(p, ROLE_INPUT, dt, nd, d, name);
    if (has(v)) prog_v(p, v)->input = p->n_inputs++;
    return v;
}

val prog_base(struct prog *p, dtype dt, int nd, const int64_t *d, const void *data, const char *name) {
    val v = prog_value(p, ROLE_BASE, dt, nd, d, name);
    if (has(v)) prog_v(p, v)->data = data, prog_v(p, v)->stored = dt;
    return v;
}

val prog_act(struct prog *p, dtype dt, int nd, const int64_t *d, const char *name) {
    return prog_value(p, ROLE_ACT, dt, nd, d, name);
}

val prog_like(struct prog *p, val v, const char *name) {
    if (!has(v)) return v;
    struct value like = *prog_v(p, v);
    return prog_act(p, like.dt, like.nd, like.d, name);
}

val prog_grad_of(struct prog *p, val param) {
    struct value v = *prog_v(p, param);
    char name[256];
    snprintf(name, sizeof name, "grad %s", v.name);
    val g = prog_value(p, ROLE_GRAD, DT_F32, v.nd, v.d, name);
    if (has(g)) prog_v(p, g)->off = v.grad;
    return g;
}

void prog_keep(struct prog *p, val v) {
    if (has(v)) prog_v(p, v)->keep = true;
}

static int64_t symbol_of(const struct prog *p, val v) {
    const int64_t d = has(v) && prog_v(p, v)->nd ? prog_v(p, v)->d[0] : 0;
    return d < 0 ? d : 0;
}

int64_t prog_rows(const struct prog *p, const struct inst *i) {
    int64_t rows = 0;
    if (!i->op->by_rows) return 0;
    for (int k = 0; k < i->op->n_in + i->op->n_out; k++) {
        const bool out = k >= i->op->n_in;
        const val v = out ? i->out[k - i->op->n_in] : i->in[k];
        const int64_t d = symbol_of(p, v);
        if (out && has(v) && !d && prog_v(p, v)->role == ROLE_ACT) return 0;
        if (d && rows && d != rows) return 0;
        if (d) rows = d;
    }
    return rows == SYM_N || rows == SYM_M ? rows : 0;
}

void prog_pieces(struct prog *p, val x) {
    const int64_t d = symbol_of(p, x);
    p->piece = p->piece_rows && d && p->cap[-d] > p->piece_rows ? ++p->n_pieces : 0;
}

void prog_pieces_end(struct prog *p, val result) {
    const int last = has(result) ? prog_v(p, result)->def : -1;
    for (int i = p->ni - 1; i >= 0 && p->piece && !p->failed && (p->in[i].piece == p->piece || !p->in[i].piece); i--)
        for (int k = 0; p->in[i].piece && i != last && k < p->in[i].op->n_out; k++)
            if (has(p->in[i].out[k])) prog_v(p, p->in[i].out[k])->again = true;
    p->piece = 0;
}

struct inst *prog_emit(struct prog *p, const struct op_def *op, const val *in, int n_in, const struct op_attr *a) {
    if (p->failed) return NULL;
    struct inst fresh = {.op = op, .segment = p->segment};
    for (int i = 0; i < n_in; i++) fresh.in[i] = in[i];
    if (a) fresh.a = *a;
    if (n_in > op->n_in) return prog_fail(p, E_INTERNAL, "%s: %d operands, wants %d", op->name, n_in, op->n_in), NULL;
    if (op->infer(p, &fresh) || p->failed) {
        if (!p->failed) p->failed = E_INTERNAL;
        return NULL;
    }
    if (!grow(p, (void **)&p->in, p->ni, &p->cap_i, sizeof *p->in)) return NULL;
    bool needs = false;
    for (int i = 0; i < n_in; i++) needs |= has(fresh.in[i]) && prog_v(p, fresh.in[i])->needs;
    for (int i = 0; i < op->n_out; i++) {
        if (!has(fresh.out[i])) continue;
        struct value *v = prog_v(p, fresh.out[i]);
        if (v->role != ROLE_ACT) continue;
        v->def = p->ni;
        v->needs = needs;
    }
    if (p->piece && prog_rows(p, &fresh)) fresh.piece = p->piece;
    p->in[p->ni] = fresh;
    return &p->in[p->ni++];
}

val emit1(struct prog *p, const struct op_def *op, const val *in, int n_in, const struct op_attr *a) {
    struct inst *i = prog_emit(p, op, in, n_in, a);
    return i ? i->out[0] : (val){0};
}

int64_t prog_dim(const struct prog *p, int64_t d, const int64_t *size) {
    if (d >= 0) return d;
    return size ? size[-d] : p->cap[-d];
}

struct view prog_view(const struct prog *p, val v, const int64_t *size) {
    if (!has(v)) return (struct view){0};
    const struct value *x = prog_v(p, v);
    struct view w = {.dt = x->dt, .nd = x->nd, .ld = x->ld};
    for (int i = 0; i < x->nd; i++) w.d[i] = prog_dim(p, x->d[i], size);
    return w;
}

size_t view_bytes(const struct view *v) {
    if (!v->nd) return 0;
    int64_t rows = 1;
    for (int i = 0; i + 1 < v->nd; i++) rows *= v->d[i];
    return (size_t)rows * dtype_row_bytes(v->dt, v->d[v->nd - 1]);
}

static void shape_text(const struct prog *p, const struct value *v, char *out, size_t n) {
    size_t at = 0;
    static const char *const sym[SYM_COUNT] = {"0", "N", "S", "S+1", "M"};
    at += (size_t)snprintf(out, n, "%s[", dtype_info[v->dt].name);
    for (int i = 0; i < v->nd && at < n; i++) {
        if (v->d[i] < 0) at += (size_t)snprintf(out + at, n - at, "%s%s", i ? "," : "", sym[-v->d[i]]);
        else at += (size_t)snprintf(out + at, n - at, "%s%lld", i ? "," : "", (long long)v->d[i]);
    }
    if (at < n) snprintf(out + at, n - at, "]");
    (void)p;
}

err want(struct prog *p, const struct inst *i, int in, dtype dt, int nd, const int64_t *d) {
    if (p->failed) return p->failed;
    if (!has(i->in[in])) return prog_fail(p, E_INTERNAL, "%s: operand %d is absent", i->op->name, in);
    const struct value *v = prog_v(p, i->in[in]);
    bool good = (dt == DT_NONE || v->dt == dt) && v->nd == nd;
    for (int k = 0; good && k < nd; k++) good = d[k] == v->d[k];
    if (good) return OK;
    struct value wanted = {.dt = dt == DT_NONE ? v->dt : dt, .nd = nd};
    for (int k = 0; k < nd; k++) wanted.d[k] = d[k];
    char have[96], need[96];
    shape_text(p, v, have, sizeof have);
    shape_text(p, &wanted, need, sizeof need);
    return prog_fail(p, E_INPUT, "%s: '%s' is %s, must be %s", i->op->name, v->name, have, need);
}

static void leave_out(const struct prog *p, struct inst *s, const bool *used) {
    bool read = false;
    for (int k = 0; k < s->op->n_out; k++) read |= (s->op->spare >> k & 1) && has(s->out[k]) && (used[s->out[k].i] || prog_v(p, s->out[k])->keep);
    for (int k = 0; k < s->op->n_out && !read; k++)
        if (s->op->spare >> k & 1) s->out[k] = (val){0};
}

void prog_drop_dead(struct prog *p) {
    if (p->failed) return;
    bool *used = calloc((size_t)p->nv, 1), *live = calloc((size_t)p->ni + 1, 1);
    if (!used || !live) prog_fail(p, E_MEMORY, "out of memory while building a program");
    for (int i = p->ni - 1; i >= 0 && !p->failed; i--) {
        const struct inst *s = &p->in[i];
        live[i] = s->op->effect;
        for (int k = 0; k < s->op->n_out; k++) {
            if (!has(s->out[k])) continue;
            const struct value *v = prog_v(p, s->out[k]);
            live[i] |= used[s->out[k].i] || v->keep || v->role == ROLE_GRAD || v->role == ROLE_STATE;
        }
        for (int k = 0; live[i] && k < s->op->n_in; k++) used[s->in[k].i] = true;
    }
    int n = 0;
    for (int i = 0; i < p->ni && !p->failed; i++) {
        if (!live[i]) continue;
        leave_out(p, &p->in[i], used);
        for (int k = 0; k < p->in[i].op->n_out; k++)
            if (has(p->in[i].out[k]) && prog_v(p, p->in[i].out[k])->role == ROLE_ACT) prog_v(p, p->in[i].out[k])->def = n;
        p->in[n++] = p->in[i];
    }
    if (!p->failed) p->ni = n;
    free(used);
    free(live);
}

void prog_print(const struct prog *p, str *out) {
    static const char *const roles[] = {"input", "base", "param", "act", "grad", "state", "host"};
    for (int i = 0; i < p->ni; i++) {
        const struct inst *s = &p->in[i];
        str_addf(out, "%4d %c%-16s", i, s->piece ? '|' : ' ', s->op->name);
        for (int side = 0; side < 2; side++) {
            int n = side ? s->op->n_in : s->op->n_out;
            const val *v = side ? s->in : s->out;
            str_adds(out, side ? " <-" : "");
            for (int k = 0; k < n; k++) {
                if (!has(v[k])) continue;
                char shape[96];
                shape_text(p, prog_v(p, v[k]), shape, sizeof shape);
                str_addf(out, " %%%u:%s:%s", v[k].i, prog_v(p, v[k])->name, shape);
                if (prog_v(p, v[k])->role != ROLE_ACT) str_addf(out, "(%s)", roles[prog_v(p, v[k])->role]);
            }
        }
        str_addc(out, '\n');
    }
}
