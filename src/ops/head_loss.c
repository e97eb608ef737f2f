/* head_loss: the output projection and the loss in one op, so that the [N, V] logits never exist. The loss of a row is the cross-entropy of
 * its label; or, where there are targets (regression), the mean of its squared distances from the row of them that its label names. Rows with weight
 * zero are not computed (half of a cycle step's tokens are prompt). With `backward` the gradients come out of the same pass, while
 * a chunk's logits are at hand, dlogits = loss_scale weight (softmax - onehot) or loss_scale weight 2 (z - target) / V: to x where it needs one, and to W and the bias where
 * they are trained (a classifier, an output matrix). Some rows of W may have replacements that are trained while W is frozen: the tied
 * side of trainable tokens. Or W has a low-rank delta (LoRA on the output projection): t, what its A made of x in an instruction before this one, and
 * B come in, alpha t B^T is added to a chunk's logits, dt and dB go out, and A's own gradient follows from dt like any matrix's. A program that only
 * scores makes none.
 *
 * Beside the label's cross-entropy a loss may have other terms (struct loss_terms): smoothing of the label (Szegedy et al. 2016), the square of the
 * logits' normaliser (z-loss; PaLM), and the distance of the row's distribution from a teacher's. Of a teacher there is its last row, whose logits are
 * made beside the student's, a chunk at a time, or what was remembered: some ids and their log-probabilities. sums has what is trained; nll stays the
 * label's plain cross-entropy, so that perplexities mean what they say whatever is trained. Refused: a teacher that wants a gradient, one of fewer ids than the
 * student. The sums are not normalised: whoever owns the step divides once by the weight of all its passes. */
#include "ops/ops.h"
#include <math.h>
#include <string.h>

static err infer_terms(struct prog *p, const struct inst *i) {
    const struct value x = *prog_v(p, i->in[0]), w = *prog_v(p, i->in[1]), tx = *prog_v(p, i->in[HEAD_TX]), tw = *prog_v(p, i->in[HEAD_TW]),
                       top = *prog_v(p, i->in[HEAD_TOP]);
    const bool teacher = has(i->in[HEAD_TX]), remembered = has(i->in[HEAD_TOP]);
    const struct loss_terms *l = &i->a.loss;
    if (teacher) TRY(want(p, i, HEAD_TX, prog_dt(p), 2, (int64_t[]){x.d[0], tx.d[1]}));
    if (teacher) TRY(want(p, i, HEAD_TW, DT_NONE, 2, (int64_t[]){tw.d[0], tx.d[1]}));
    if (remembered) TRY(want(p, i, HEAD_TOP, DT_I32, 2, (int64_t[]){x.d[0], top.d[1]}));
    if (remembered) TRY(want(p, i, HEAD_LOGP, DT_F32, 2, top.d));
    if (teacher && tw.d[0] < w.d[0])
        return prog_fail(p, E_INPUT, "head_loss: a teacher '%s' of %lld ids for '%s' of %lld", tw.name, (long long)tw.d[0], w.name,
                         (long long)w.d[0]);
    if (remembered && top.d[1] > w.d[0])
        return prog_fail(p, E_INPUT, "head_loss: %lld ids remembered of a row, and '%s' has %lld", (long long)top.d[1], w.name,
                         (long long)w.d[0]);
    if (l->hidden > 0 && tx.d[1] != x.d[1])
        return prog_fail(p, E_USAGE, "head_loss: rows of '%s' are %lld wide, a teacher's %lld: they cannot be matched", x.name,
                         (long long)x.d[1], (long long)tx.d[1]);
    if (ops_mixes(l) && has(i->in[7])) return prog_fail(p, E_UNSUPPORTED, "head_loss: other terms beside targets of '%s'", w.name);
    if ((teacher && (remembered || tx.needs || tw.needs)) || l->share < 0 || l->share > 1 || l->beta < 0 || l->beta > 1 ||
        l->smoothing < 0 || l->smoothing >= 1 || l->z < 0 || l->hidden < 0 || (l->hidden > 0 && !teacher) ||
        (teacher || remembered ? !(l->temperature > 0) : l->share > 0))
        return prog_fail(p, E_INTERNAL, "head_loss: terms that cannot be");
    return OK;
}

static err infer(struct prog *p, struct inst *i) {
    struct value x = *prog_v(p, i->in[0]), w = *prog_v(p, i->in[1]), bias = *prog_v(p, i->in[4]);
    TRY(want(p, i, 0, prog_dt(p), 2, x.d));
    TRY(want(p, i, 1, DT_NONE, 2, (int64_t[]){w.d[0], x.d[1]}));
    TRY(want(p, i, 2, DT_I32, 1, x.d));
    TRY(want(p, i, 3, DT_F32, 1, x.d));
    if (has(i->in[4])) TRY(want(p, i, 4, DT_F32, 1, w.d));
    const bool replaces = has(i->in[5]);
    if (replaces) TRY(want(p, i, 5, prog_dt(p), 2, (int64_t[]){prog_v(p, i->in[5])->d[0], x.d[1]}));
    if (replaces) TRY(want(p, i, 6, DT_I32, 1, prog_v(p, i->in[5])->d));
    const bool low = has(i->in[HEAD_T]);
    const struct value b = *prog_v(p, i->in[HEAD_B]);
    if (low) TRY(want(p, i, HEAD_T, prog_dt(p), 2, (int64_t[]){x.d[0], b.d[1]}));
    if (low) TRY(want(p, i, HEAD_B, prog_dt(p), 2, (int64_t[]){w.d[0], prog_v(p, i->in[HEAD_T])->d[1]}));
    if (low && replaces) return prog_fail(p, E_UNSUPPORTED, "head_loss: a low-rank delta on '%s', of which some rows are replaced", w.name);
    const bool squares = has(i->in[7]);
    if (squares) TRY(want(p, i, 7, DT_F32, 2, (int64_t[]){prog_v(p, i->in[7])->d[0], w.d[0]}));
    if (squares && (replaces || i->a.softcap > 0))
        return prog_fail(p, E_UNSUPPORTED, "head_loss: targets of '%s', whose logits are capped or replaced", w.name);
    if (replaces && w.needs) return prog_fail(p, E_UNSUPPORTED, "head_loss: rows that replace some of '%s', which is trained itself", w.name);
    TRY(infer_terms(p, i));
    const bool trains_w = w.needs, trains_bias = has(i->in[4]) && bias.needs;
    const bool trains_b = low && b.needs;
    const char *made = trains_w && w.role != ROLE_PARAM         ? w.name
                       : trains_bias && bias.role != ROLE_PARAM ? bias.name
                       : trains_b && b.role != ROLE_PARAM       ? b.name
                                                                : NULL;
    if (made) return prog_fail(p, E_UNSUPPORTED, "head_loss: a gradient of '%s', which is no parameter", made);
    i->out[0] = prog_act(p, DT_F32, 1, (int64_t[]){4 * (p->adapters > 1 ? p->adapters : 1)}, "loss sums");
    i->out[1] = prog_act(p, DT_F32, 1, x.d, "nll");
    if (i->a.backward && x.needs) i->out[2] = prog_act(p, prog_dt(p), 2, x.d, "d head");
    if (i->a.backward && trains_w) i->out[3] = prog_grad_of(p, i->in[1]);
    if (i->a.backward && trains_bias) i->out[4] = prog_grad_of(p, i->in[4]);
    if (i->a.backward && replaces && prog_v(p, i->in[5])->needs) i->out[5] = prog_grad_of(p, i->in[5]);
    if (i->a.backward && low && prog_v(p, i->in[HEAD_T])->needs) i->out[HEAD_DT] = prog_like(p, i->in[HEAD_T], "d head t");
    if (i->a.backward && trains_b) i->out[HEAD_DB] = prog_grad_of(p, i->in[HEAD_B]);
    return p->failed;
}

static err vjp(struct prog *p, const struct inst *i, const val *dout, val *din) {
    (void)dout;
    if (!i->a.backward) return prog_fail(p, E_INTERNAL, "head_loss: gradients are wanted of one that was to make none");
    din[0] = i->out[2];
    din[HEAD_T] = i->out[HEAD_DT];
    return OK;
}

/* Numbers of a row: its logits in double and, with a teacher, what terms_of() works in; then one weight row. */
struct places {
    double *z, *q, *y, *d;
    float *w;
    size_t bytes;
};
static struct places places_of(const struct view *in, void *scratch) {
    const int64_t V = in[1].d[0] + 1, C = in[1].d[1], D = in[HEAD_TW].nd ? in[HEAD_TW].d[1] : 0;
    struct places b = {.z = scratch};
    b.q = b.z + V, b.y = b.q + V, b.d = b.y + V, b.w = (float *)(b.d + V);
    b.bytes = (size_t)(4 * V) * sizeof *b.z + (size_t)(C > D ? C : D) * sizeof *b.w;
    return b;
}

static size_t ref_scratch(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i, (void)out;
    return places_of(in, NULL).bytes;
}

err ops_top_known(const struct view *in, int64_t n) {
    const struct view *top = &in[HEAD_TOP];
    for (int64_t j = 0; j < top->d[1]; j++) {
        const int32_t id = view_i32(top)[n * top->ld + j];
        if (id < 0 || id >= in[1].d[0])
            return fail(E_INPUT, "head_loss: id %d that is remembered of row %lld is not in 0..%lld", (int)id, (long long)n,
                        (long long)in[1].d[0] - 1);
    }
    return OK;
}

/* The teacher's logits of row n; or are the ids that are remembered in the vocabulary? */
static err ask_teacher(const struct inst *i, const struct view *in, int64_t n, const struct places *b) {
    const struct view *x = &in[HEAD_TX], *w = &in[HEAD_TW], *top = &in[HEAD_TOP];
    const double cap = i->a.loss.teacher_cap;
    for (int64_t v = 0; v < in[1].d[0] && x->p; v++) {
        dequantise_row(w->dt, (const char *)w->p + dtype_row_bytes(w->dt, w->d[1]) * (size_t)v, b->w, w->d[1]);
        b->q[v] = 0;
        for (int64_t c = 0; c < w->d[1]; c++) b->q[v] += (double)view_row(x, n)[c] * b->w[c];
        if (cap > 0) b->q[v] = cap * tanh(b->q[v] / cap);
    }
    return top->p ? ops_top_known(in, n) : OK;
}

/* Row v of W: in w, or where its replacement lies; *own: which one that is, or -1. */
static const float *row_of(const struct view *in, int64_t v, float *w, int64_t *own) {
    *own = -1;
    for (int64_t r = 0; r < in[6].d[0] && in[5].p; r++)
        if (view_i32(&in[6])[r] == v) *own = r;
    if (*own >= 0) return view_row(&in[5], *own);
    dequantise_row(in[1].dt, (const char *)in[1].p + dtype_row_bytes(in[1].dt, in[1].d[1]) * (size_t)v, w, in[1].d[1]);
    return w;
}

static double log_sum(const double *z, int64_t n) {
    double top = -INFINITY, sum = 0;
    for (int64_t v = 0; v < n; v++) top = z[v] > top || isnan(z[v]) ? z[v] : top;
    for (int64_t v = 0; v < n; v++) sum += exp(z[v] - top);
    return top + log(sum);
}

/* D of n outcomes of which y and q are the student's and the teacher's logits; y becomes its derivative by y. */
static double distance(double *y, double *q, int64_t n, const struct loss_terms *l) {
    const double T = l->temperature, beta = l->beta;
    for (int64_t v = 0; v < n; v++) y[v] /= T, q[v] /= T;
    const double of_y = log_sum(y, n), of_q = log_sum(q, n);
    double D = 0, centre = 0; /* of the derivatives by s, which D has as a sum of one term each */
    for (int64_t v = 0; v < n; v++) {
        const double a = y[v] - of_y, b = q[v] - of_q, s = exp(a), t = exp(b), most = a > b ? a : b;
        const double m = most + log((1 - beta) * exp(a - most) + beta * exp(b - most));
        const double from_t = beta == 1 ? 0 : t * (b - m), from_s = s * (a - m);
        D += beta == 0 ? from_t : beta == 1 ? from_s : beta * from_t + (1 - beta) * from_s;
        q[v] = beta == 0 ? -t : beta == 1 ? from_s : (1 - beta) * from_s;
        centre += q[v];
        y[v] = s;
    }
    for (int64_t v = 0; v < n; v++) y[v] = (q[v] - centre * y[v]) / T;
    return D;
}

/* The same of one row, whose logits are z; d [V]: the derivative by them. */
static double distance_of(const struct inst *i, const struct view *in, int64_t n, const struct places *b) {
    const int64_t V = in[1].d[0], k = in[HEAD_TOP].d[1];
    if (in[HEAD_TX].p) {
        memcpy(b->d, b->z, (size_t)V * sizeof *b->d);
        return distance(b->d, b->q, V, &i->a.loss);
    }
    const int32_t *id = view_i32(&in[HEAD_TOP]) + n * in[HEAD_TOP].ld;
    const float *logp = view_row(&in[HEAD_LOGP], n);
    memcpy(b->d, b->z, (size_t)V * sizeof *b->d);
    for (int64_t j = 0; j < k; j++) b->y[j] = b->z[id[j]], b->q[j] = logp[j], b->d[id[j]] = -INFINITY;
    const double rest = k < V ? log_sum(b->d, V) : 0;
    b->y[k] = rest, b->q[k] = ops_rest(logp, k);
    const double D = distance(b->y, b->q, k < V ? k + 1 : k, &i->a.loss);
    for (int64_t v = 0; v < V; v++) b->d[v] = k < V ? b->y[k] * exp(b->d[v] - rest) : 0;
    for (int64_t j = 0; j < k; j++) b->d[id[j]] = b->y[j];
    return D;
}

/* Of one row of logits its loss; the logits become the loss's derivative by them. */
static double cross_entropy(const struct inst *i, const struct view *in, int64_t n, const struct places *b, bool *right, double *nll) {
    const int64_t V = in[1].d[0];
    const int32_t label = view_i32(&in[2])[n];
    const struct loss_terms *l = &i->a.loss;
    const double cap = i->a.softcap, taught = l->share * l->temperature * l->temperature;
    double *z = b->z, mean = 0;
    int64_t best = 0;
    for (int64_t v = 0; v < V; v++) {
        if (cap > 0) z[v] = cap * tanh(z[v] / cap);
        if (z[v] > z[best] || isnan(z[v])) best = v;
        mean += z[v] / (double)V;
    }
    const double all = log_sum(z, V);
    *nll = all - z[label];
    *right = best == label;
    double loss = (1 - l->share) * ((1 - l->smoothing) * *nll + l->smoothing * (all - mean)) + l->z * all * all;
    if (taught > 0) loss += taught * distance_of(i, in, n, b);
    for (int64_t v = 0; v < V; v++) {
        const double slope = cap > 0 ? 1 - z[v] / cap * (z[v] / cap) : 1, p = exp(z[v] - all);
        const double g = (1 - l->share) * (p - (1 - l->smoothing) * (v == label) - l->smoothing / (double)V) + 2 * l->z * all * p;
        z[v] = (g + (taught > 0 ? taught * b->d[v] : 0)) * slope;
    }
    return loss;
}

static double squares(double *z, int64_t V, const float *target) {
    double sum = 0;
    for (int64_t v = 0; v < V; v++) {
        const double off = z[v] - target[v];
        sum += off * off;
        z[v] = 2 * off / (double)V;
    }
    return sum / (double)V;
}

/* What the delta adds to logit v of row n. */
static double delta(const struct inst *i, const struct view *in, int64_t n, int64_t v) {
    double sum = 0;
    for (int64_t j = 0; j < in[HEAD_T].d[1] && in[HEAD_T].p; j++) sum += (double)view_row(&in[HEAD_T], n)[j] * view_row(&in[HEAD_B], v)[j];
    return in[HEAD_T].p ? sum * i->a.alpha[0] : 0;
}

/* Its gradients by that logit, whose own is g. */
static void delta_gradients(const struct inst *i, const struct view *in, struct view *out, int64_t n, int64_t v, double g) {
    for (int64_t j = 0; j < in[HEAD_T].d[1] && in[HEAD_T].p; j++) {
        if (out[HEAD_DT].p) view_row(&out[HEAD_DT], n)[j] += (float)(g * i->a.alpha[0] * view_row(&in[HEAD_B], v)[j]);
        if (out[HEAD_DB].p) view_row(&out[HEAD_DB], v)[j] += (float)(g * i->a.alpha[0] * view_row(&in[HEAD_T], n)[j]);
    }
}

/* How far row n is from the teacher's, and what it adds to dx; g: the gradient of the loss. */
static double match(const struct inst *i, const struct view *in, int64_t n, double g, float *dx) {
    const int64_t C = in[0].d[1];
    const double by = i->a.loss.share * i->a.loss.hidden / (double)C;
    double sum = 0;
    for (int64_t c = 0; c < C && by > 0; c++) {
        const double off = (double)view_row(&in[0], n)[c] - view_row(&in[HEAD_TX], n)[c];
        sum += off * off;
        if (dx) dx[c] += (float)(g * 2 * by * off);
    }
    return by * sum;
}

static bool wants_gradients(const struct view *out) {
    bool any = false;
    for (int k = 2; k < HEAD_OUT; k++) any |= out[k].p != NULL;
    return any;
}

static err ref(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    const double scale = run->loss_scale != 0 ? run->loss_scale : 1;
    int64_t V = in[1].d[0], C = in[1].d[1];
    const struct places b = places_of(in, scratch);
    double *z = b.z, all[4 * MAX_ADAPTERS] = {0};
    for (int64_t n = 0; n < in[0].d[0]; n++) {
        float weight = view_f32(&in[3])[n], *dx = out[2].p ? view_row(&out[2], n) : NULL;
        const float *x = view_row(&in[0], n);
        view_f32(&out[1])[n] = 0;
        if (dx) memset(dx, 0, (size_t)C * 4);
        if (out[HEAD_DT].p) memset(view_row(&out[HEAD_DT], n), 0, (size_t)out[HEAD_DT].d[1] * 4);
        if (weight == 0) continue;
        int64_t own;
        double *sums = all + 4 * (run->adapters ? adapters_whose(run->adapters, n) : 0);
        for (int64_t v = 0; v < V; v++) {
            const float *w = row_of(in, v, b.w, &own);
            z[v] = (in[4].p ? view_f32(&in[4])[v] : 0) + delta(i, in, n, v);
            for (int64_t c = 0; c < C; c++) z[v] += (double)x[c] * w[c];
        }
        TRY(ask_teacher(i, in, n, &b));
        bool right = false;
        double nll = 0;
        double loss =
            in[7].p ? nll = squares(z, V, view_row(&in[7], view_i32(&in[2])[n])) : cross_entropy(i, in, n, &b, &right, &nll);
        loss += match(i, in, n, scale * weight, dx);
        view_f32(&out[1])[n] = (float)nll;
        sums[0] += weight * loss;
        sums[1] += weight;
        sums[2] += right ? weight : 0;
        sums[3] += 1;
        for (int64_t v = 0; v < V && wants_gradients(out); v++) {
            const float *w = row_of(in, v, b.w, &own);
            const double g = scale * weight * z[v];
            for (int64_t c = 0; c < C && dx; c++) dx[c] += (float)(g * w[c]);
            for (int64_t c = 0; c < C && out[3].p; c++) view_row(&out[3], v)[c] += (float)(g * x[c]);
            for (int64_t c = 0; c < C && out[5].p && own >= 0; c++) view_row(&out[5], own)[c] += (float)(g * x[c]);
            if (out[4].p) view_f32(&out[4])[v] += (float)g;
            delta_gradients(i, in, out, n, v, g);
        }
    }
    for (int k = 0; k < 4 * adapters_in(run->adapters); k++) view_f32(&out[0])[k] = (float)all[k];
    return OK;
}

static struct cost cost(const struct inst *i, const struct view *in, const struct view *out) {
    (void)i;
    double n = (double)in[0].d[0], v = (double)in[1].d[0], c = (double)in[1].d[1], r = in[HEAD_T].nd ? (double)in[HEAD_T].d[1] : 0;
    const double d = in[HEAD_TW].nd ? (double)in[HEAD_TW].d[1] : 0;
    return (struct cost){
        2 * n * v * (d + c * (1 + (out[2].nd != 0) + (out[3].nd != 0)) + r * (1 + (out[HEAD_DT].nd != 0) + (out[HEAD_DB].nd != 0))),
        v * (double)dtype_row_bytes(in[1].dt, in[1].d[1]) + 4 * v * r +
            v * (d ? (double)dtype_row_bytes(in[HEAD_TW].dt, in[HEAD_TW].d[1]) : 0)};
}

const struct op_def op_head_loss = {.name = "head_loss", .n_in = HEAD_IN, .n_out = HEAD_OUT, .effect = true, .infer = infer, .vjp = vjp, .cost = cost, .ref_scratch = ref_scratch, .ref = ref};
