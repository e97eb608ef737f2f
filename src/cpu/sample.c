/* The sampler: logits to token ids, and the log-probability of the chosen id under the raw logits; what is done to logits before (process);
 * the best few ids of a row (top).
 *
 * The op is defined by a sort: ids in order of logit (lower id first among equals); of the first top_k the shortest
 * prefix that holds top_p of their mass, without what weighs less than min_p times the first; of that, the id where the running mass passes a
 * uniform number. None of the questions needs the order itself, only "the shortest prefix whose weight reaches a goal". prefix() answers that
 * by quickselect on weights, in expected linear time: partial selections instead of a sort of the vocabulary. And
 * nearly always the answers lie among the few ids that weigh at least HEAVY times the best one, so those alone are
 * tried first; where their weight does not reach a goal, all ids are taken.
 *
 * Weights are exp((z - max) / temperature) in f32, their sums in double. The uniform number is
 * philox(seed, step, sample, position): it depends on neither batch nor thread. NaN logits give some id and a NaN. */
#include "cpu/fused.h"
#include "base/philox.h"
#include "ops/ops.h"
#include <math.h>
#include <omp.h>

static const float HEAVY = 1e-3f;
enum { BLOCK = 1024 };

struct choice {
    float w;
    int32_t id;
};

static inline bool better(const struct choice *a, const struct choice *b, const float *z) {
    if (a->w != b->w) return a->w > b->w;
    if (z[a->id] != z[b->id]) return z[a->id] > z[b->id]; /* weights that rounding made equal */
    return a->id < b->id;
}

static inline void swap(struct choice *a, struct choice *b) {
    struct choice t = *a;
    *a = *b;
    *b = t;
}

/* Moves what ranks before the median of three to the front of c[lo, hi), the median after it; returns its index. */
static int64_t partition(struct choice *c, int64_t lo, int64_t hi, const float *z) {
    struct choice *a = &c[lo], *b = &c[lo + (hi - lo) / 2], *d = &c[hi - 1];
    if (better(b, a, z)) swap(a, b);
    if (better(d, a, z)) swap(a, d);
    if (better(b, d, z)) swap(b, d);
    int64_t at = lo;
    for (int64_t i = lo; i < hi - 1; i++) {
        bool front = better(&c[i], d, z);
        swap(&c[i], &c[at]);
        at += front;
    }
    swap(&c[at], d);
    return at;
}

/* The length of the shortest prefix, in rank order, whose weight (or count) reaches `goal`; c[0, n) is rearranged so
 * that the prefix lies in front, its last member last. At least 1, at most n. */
static int64_t prefix(struct choice *c, int64_t n, double goal, bool count, const float *z) {
    int64_t lo = 0, hi = n;
    double before = 0; /* the weight of c[0, lo) */
    while (hi - lo > 1) {
        int64_t mid = partition(c, lo, hi, z);
        double front = before;
        for (int64_t i = lo; i < mid; i++) front += count ? 1 : (double)c[i].w;
        double with = front + (count ? 1 : (double)c[mid].w);
        if (mid > lo && front >= goal) hi = mid;
        else if (with >= goal) return mid + 1;
        else {
            before = with;
            lo = mid + 1;
        }
    }
    return lo < n ? lo + 1 : n;
}

static double mass(const struct choice *c, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)c[i].w;
    return sum;
}

/* The ids whose weight is at least `least`, and in *total the weight of all. */
static int64_t candidates(const struct sampling *how, const float *z, int64_t V, float top, float least, struct choice *c, double *total) {
    float w[BLOCK];
    int64_t n = 0;
    *total = 0;
    for (int64_t v = 0; v < V; v += BLOCK) {
        int64_t m = V - v < BLOCK ? V - v : BLOCK;
        *total += fused()->row_exp(z + v, m, top, 1 / how->temperature, w);
        for (int64_t i = 0; i < m; i++) {
            c[n] = (struct choice){w[i], (int32_t)(v + i)};
            n += !(w[i] < least);
        }
    }
    return n;
}

/* Moves those that weigh at least `least` to the front; how many they are, 1 at least. */
static int64_t heavy(struct choice *c, int64_t n, float least) {
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++)
        if (c[i].w >= least) swap(&c[i], &c[m++]);
    return m ? m : 1;
}

/* Draws among n candidates that outrank all other ids (`total`: everyone's weight); -1: they are not enough. */
static int32_t draw(const struct sampling *how, struct choice *c, int64_t n, double total, const float *z, float unit, bool all) {
    if (how->top_k > 0 && (n > how->top_k || all)) {
        n = how->top_k < n ? prefix(c, n, how->top_k, true, z) : n;
        total = mass(c, n);
        all = true; /* that count */
    } else if (how->top_k > 0) return -1;
    if (how->top_p < 1) {
        double goal = (double)how->top_p * total;
        if (!all && !(mass(c, n) >= goal)) return -1;
        n = prefix(c, n, goal, false, z);
        total = mass(c, n);
        all = true;
    }
    if (how->min_p > 0) {
        if (!all && how->min_p < HEAVY) return -1;
        n = heavy(c, n, how->min_p);
        total = mass(c, n);
    }
    double goal = nextafter((double)unit * total, INFINITY); /* the running mass must pass it, not only reach it */
    if (!all && !(mass(c, n) >= goal)) return -1;
    return c[prefix(c, n, goal, false, z) - 1].id;
}

static int32_t sampled(const struct sampling *how, const float *z, int64_t V, float top, float unit, struct choice *c) {
    double total;
    int64_t n = candidates(how, z, V, top, HEAVY, c, &total);
    int32_t id = draw(how, c, n, total, z, unit, n == V);
    if (id >= 0) return id;
    candidates(how, z, V, top, -INFINITY, c, &total);
    return draw(how, c, V, total, z, unit, true);
}

static int32_t greedy(const float *z, int64_t V, float top) {
    for (int64_t v = 0; v < V; v++)
        if (z[v] == top) return (int32_t)v;
    return 0; /* only NaNs */
}

size_t cpu_sample_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)inst, (void)out;
    return (size_t)cpu_max_threads() * (size_t)in[0].d[1] * sizeof(struct choice);
}

err cpu_sample(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
               void *scratch) {
    (void)inst;
    const int64_t N = view_rows(&in[0]), V = in[0].d[1];
    const uint64_t key = philox_key(run->seed, PURPOSE_SAMPLE);
#pragma omp parallel for num_threads(cpu_threads(run)) schedule(dynamic)
    for (int64_t s = 0; s < N; s++) {
        const float *z = view_row(&in[0], s), top = fused()->row_max(z, V), *raw = in[3].p ? view_row(&in[3], s) : z;
        struct choice *c = (struct choice *)scratch + omp_get_thread_num() * V;
        struct philox r =
            philox(key, (uint32_t)run->step, (uint32_t)view_i32(&in[1])[s], (uint32_t)view_i32(&in[2])[s], 0);
        int32_t id = run->sampling.temperature > 0 ? sampled(&run->sampling, z, V, top, philox_unit(r.v[0]), c) : greedy(z, V, top);
        const float most = raw == z ? top : fused()->row_max(raw, V);
        ((int32_t *)out[0].p)[s] = id;
        view_f32(&out[1])[s] = (float)((double)(raw[id] - most) - log(fused()->row_exp(raw, V, most, 1, NULL)));
    }
    return OK;
}

/* --- before and beside it ----------------------------------------------------------------------------------------- */
err cpu_process(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    const int64_t S = view_rows(&in[PROC_Z]), V = in[PROC_Z].d[1];
    const struct sampling *how = &run->sampling;
#pragma omp parallel for num_threads(cpu_threads(run)) schedule(dynamic)
    for (int64_t s = 0; s < S; s++) {
        const float *z = view_row(&in[PROC_Z], s);
        float *to = view_row(&out[0], s), shift = 0;
        if (inst->a.normalise) {
            const float top = fused()->row_max(z, V);
            shift = top + (float)log(fused()->row_exp(z, V, top, 1, NULL));
        }
        for (int64_t v = 0; v < V; v++) to[v] = z[v] - shift;
        if (!in[PROC_HISTORY].p) continue;
        const struct process_row r = ops_process_row(in, s);
        for (int32_t t = 0; t < r.known && sampling_penalises(how); t++) {
            const int32_t id = r.ids[t];
            if (id >= 0 && id < V) to[id] = z[id] - shift < 0 ? (z[id] - shift) * how->penalty : (z[id] - shift) / how->penalty;
        }
        if (r.made < how->min_new && how->eos >= 0 && how->eos < V) to[how->eos] = -INFINITY;
    }
    return OK;
}

/* The n greatest, in order: most ids are not above the least of those so far. */
static void best_few(const float *z, int64_t V, int n, int32_t *id, float *value) {
    int have = 0;
    for (int64_t v = 0; v < V; v++) {
        const float x = z[v] == z[v] ? z[v] : -INFINITY;
        if (have == n && !(x > value[n - 1])) continue;
        int at = have < n ? have++ : n - 1;
        for (; at > 0 && x > value[at - 1]; at--) value[at] = value[at - 1], id[at] = id[at - 1];
        value[at] = x, id[at] = (int32_t)v;
    }
}

err cpu_top(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)scratch;
    const int64_t S = view_rows(&in[0]);
#pragma omp parallel for num_threads(cpu_threads(run))
    for (int64_t s = 0; s < S; s++)
        best_few(view_row(&in[0], s), in[0].d[1], inst->a.n, (int32_t *)out[0].p + s * out[0].ld, view_row(&out[1], s));
    return OK;
}
