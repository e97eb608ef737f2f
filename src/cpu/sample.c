/* The sampler: logits to token ids, and the log-probability of the chosen id under the raw logits.
 *
 * The op is defined by a sort: ids in order of logit (lower id first among equals); of the first top_k the shortest
 * prefix that holds top_p of their mass; of that, the id where the running mass passes a uniform number. None of the
 * three questions needs the order itself, only "the shortest prefix whose weight reaches a goal". prefix() answers that
 * by quickselect on weights, in expected linear time: three partial selections instead of a sort of the vocabulary. And
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
static int64_t candidates(const struct run_ctx *run, const float *z, int64_t V, float top, float least,
                          struct choice *c, double *total) {
    float w[BLOCK];
    int64_t n = 0;
    *total = 0;
    for (int64_t v = 0; v < V; v += BLOCK) {
        int64_t m = V - v < BLOCK ? V - v : BLOCK;
        *total += fused()->row_exp(z + v, m, top, 1 / run->temperature, w);
        for (int64_t i = 0; i < m; i++) {
            c[n] = (struct choice){w[i], (int32_t)(v + i)};
            n += !(w[i] < least);
        }
    }
    return n;
}

/* Draws among n candidates that outrank all other ids (`total`: everyone's weight); -1: they are not enough. */
static int32_t draw(const struct run_ctx *run, struct choice *c, int64_t n, double total, const float *z, float unit,
                    bool all) {
    if (run->top_k > 0 && (n > run->top_k || all)) {
        n = run->top_k < n ? prefix(c, n, run->top_k, true, z) : n;
        total = mass(c, n);
    } else if (run->top_k > 0) return -1;
    if (run->top_p < 1) {
        double goal = (double)run->top_p * total;
        if (!all && !(mass(c, n) >= goal)) return -1;
        n = prefix(c, n, goal, false, z);
        total = mass(c, n);
    }
    double goal = nextafter((double)unit * total, INFINITY); /* the running mass must pass it, not only reach it */
    if (!all && !(mass(c, n) >= goal)) return -1;
    return c[prefix(c, n, goal, false, z) - 1].id;
}

static int32_t sampled(const struct run_ctx *run, const float *z, int64_t V, float top, float unit, struct choice *c) {
    double total;
    int64_t n = candidates(run, z, V, top, HEAVY, c, &total);
    int32_t id = draw(run, c, n, total, z, unit, n == V);
    if (id >= 0) return id;
    candidates(run, z, V, top, -INFINITY, c, &total);
    return draw(run, c, V, total, z, unit, true);
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
        const float *z = view_row(&in[0], s), top = fused()->row_max(z, V);
        struct choice *c = (struct choice *)scratch + omp_get_thread_num() * V;
        struct philox r =
            philox(key, (uint32_t)run->step, (uint32_t)view_i32(&in[1])[s], (uint32_t)view_i32(&in[2])[s], 0);
        int32_t id = run->temperature > 0 ? sampled(run, z, V, top, philox_unit(r.v[0]), c) : greedy(z, V, top);
        ((int32_t *)out[0].p)[s] = id;
        view_f32(&out[1])[s] = (float)((double)(z[id] - top) - log(fused()->row_exp(z, V, top, 1, NULL)));
    }
    return OK;
}
