/* The sampler on the card: logits to token ids, and the log-probability of the chosen id under the raw logits.
 *
 * The op is defined by a sort: ids by logit, lower id first among equals; of the first top_k the shortest prefix that holds
 * top_p of their mass, without what weighs less than min_p times the first; of that, the id where the running mass passes a uniform
 * number. min_p asks for a sum alone, the others for the shortest prefix
 * whose weight (or count) reaches a goal, so nothing is sorted: a block has a row, counts it into BINS bins that keep the
 * order, finds the bin in which the goal is reached by a scan, and looks at that bin's members alone in finer bins, until
 * one logit is left (locate). The first bins divide the logits below the maximum evenly, so that a usual row spreads over
 * them; finer ones divide the range of an integer that orders as the logit does (rank_key). Equal logits weigh the same, so
 * a division says how many of them the prefix takes, and the same search over ids finds the last one (nth_equal). A pass is
 * a read of the row, from the L2 cache; a question takes the first, shared one and 1 to 4 more.
 *
 * Weights are exp((z - max) / temperature) in f32, then whole multiples of 2^-44 (fewer bits when V > 2^18): their sums
 * are exact integers whatever the order, so atomics are deterministic here, all passes agree to the bit, and comparing a sum
 * with unit * mass is exact. What weighs less than that is never drawn: V * 2^-44 of the mass at most. The uniform number is
 * philox(seed, step, sample, position). The log-probability's sum is f32 exponentials added in double in a fixed order.
 *
 * NaN and infinite logits give some id and a NaN log-probability (all -inf: id 0), as the reference's definition leaves it.
 * Takes f32, bf16 and f16 logits of up to 2^30 columns. No scratch. */
#include "cuda/types.cuh"
#include <math.h>

enum { THREADS = 1024, WARPS = THREADS / 32, BINS = THREADS, BIN_BITS = 10, BATCH = 4 };
static const float REACH = 32; /* what lies this far below the maximum (after the temperature) weighs nothing */

struct draw {
    float inverse_t, top_p, min_p; /* inverse_t 0: greedy */
    int top_k;
    int unit_bits;          /* weights are multiples of 2^-unit_bits */
    const struct cuda_keys *keys;
};

/* Sums of 64 bits as two words: shared memory adds words natively. */
struct bins { uint32_t low[BINS], high[BINS], count[BINS]; };
struct found { uint32_t bin, pad; uint64_t above, mass_above; };
struct shared {
    struct bins first, finer;
    uint64_t sums[2][WARPS];
    double partial[WARPS];
    float tops[WARPS];
    uint32_t ids[WARPS], least[WARPS], most[WARPS];
    struct found found;
};

/* --- arithmetic of one element --------------------------------------------------------------------------------- */
/* Orders as z does; -0 is 0. */
__device__ static uint32_t rank_key(float z) {
    uint32_t u = __float_as_uint(z + 0.0f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}
__device__ static float key_value(uint32_t k) { return __uint_as_float(k & 0x80000000u ? k & 0x7FFFFFFFu : ~k); }

/* 0 also for NaN. */
__device__ static uint64_t weight_of(const struct draw *d, float z, float top) {
    float w = expf((z - top) * d->inverse_t);
    return w > 0 ? (uint64_t)(w * (float)(1ull << d->unit_bits)) : 0;
}

/* The first bins, best first; BINS: beyond reach, or NaN. Never decreases when z decreases: each step rounds monotonically. */
__device__ static uint32_t first_bin(const struct draw *d, float z, float top) {
    float at = (top - z) * d->inverse_t * (BINS / REACH);
    return at < BINS ? (uint32_t)at : BINS;
}

/* How far to shift numbers up to `range` so that they become bins. */
__device__ static int shift_for(uint32_t range) {
    int bits = 32 - __clz(range);
    return bits > BIN_BITS ? bits - BIN_BITS : 0;
}

/* The least whole mass that is >= fraction * sum; at least 1, since a prefix is never empty. */
__device__ static uint64_t goal_of(float fraction, uint64_t sum) {
    double g = ceil((double)fraction * (double)sum);
    return !(g >= 1) ? 1 : g >= (double)sum ? sum : (uint64_t)g;
}

/* The least whole mass above unit * mass, with the unit of philox_unit(bits): exact. */
__device__ static uint64_t goal_past(uint32_t bits, uint64_t mass) {
    uint64_t k = bits >> 8;
    return (__umul64hi(k, mass) << 40 | (k * mass) >> 24) + 1;
}

/* --- the block -------------------------------------------------------------------------------------------------- */
__device__ static void add_weight(struct bins *b, uint32_t bin, uint64_t w) {
    const uint32_t low = (uint32_t)w;
    uint32_t high = (uint32_t)(w >> 32), before = atomicAdd(&b->low[bin], low);
    high += before + low < before; /* the carry, wherever it happens */
    if (high) atomicAdd(&b->high[bin], high);
}

__device__ static void clear(struct bins *b) {
    b->low[threadIdx.x] = b->high[threadIdx.x] = b->count[threadIdx.x] = 0;
    __syncthreads();
}

__device__ static uint64_t mass_of(const struct bins *b) { return (uint64_t)b->high[threadIdx.x] << 32 | b->low[threadIdx.x]; }

/* Sum of x over the threads before this one, and over all in *total. */
__device__ static uint64_t scan(uint64_t x, uint64_t *sums, uint64_t *total) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    uint64_t upto = x, before = 0, all = 0;
    for (int d = 1; d < 32; d <<= 1) {
        uint64_t y = __shfl_up_sync(0xFFFFFFFFu, upto, d);
        if (lane >= d) upto += y;
    }
    __syncthreads(); /* the scan before has been read */
    if (lane == 31) sums[warp] = upto;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        if (w == warp) before = all;
        all += sums[w];
    }
    *total = all;
    return before + upto - x;
}

/* The bin where the running sum of x (a bin a thread) reaches goal: 1 <= goal <= the sum of all. */
__device__ static struct found find(struct shared *sh, uint64_t x, uint64_t mass, uint64_t goal) {
    uint64_t total, above = scan(x, sh->sums[0], &total), mass_above = scan(mass, sh->sums[1], &total);
    if (above < goal && goal <= above + x) sh->found.bin = threadIdx.x, sh->found.above = above, sh->found.mass_above = mass_above;
    __syncthreads();
    struct found f = sh->found;
    __syncthreads();
    return f;
}

/* Runs `...` for the elements v of a row as `z`, BATCH loads at once; past the end z is -inf, which weighs nothing. */
#define EACH_LOGIT(row, V, ...)                                                                                       \
    for (int v0_ = threadIdx.x; v0_ < (V); v0_ += BATCH * THREADS) {                                                  \
        float batch_[BATCH];                                                                                          \
        _Pragma("unroll") for (int j_ = 0; j_ < BATCH; j_++)                                                          \
            batch_[j_] = v0_ + j_ * THREADS < (V) ? to_f32((row)[v0_ + j_ * THREADS]) : -INFINITY;                    \
        _Pragma("unroll") for (int j_ = 0; j_ < BATCH; j_++) {                                                        \
            const float z = batch_[j_];                                                                               \
            const int v = v0_ + j_ * THREADS;                                                                         \
            (void)v;                                                                                                  \
            __VA_ARGS__                                                                                               \
        }                                                                                                             \
    }

/* The maximum and the lowest id that has it. NaNs are passed over; 0 when nothing is above -inf. */
template <typename T> __device__ static float best(const T *__restrict__ row, int V, struct shared *sh, uint32_t *id) {
    float top = -INFINITY;
    uint32_t at = 0xFFFFFFFFu;
    EACH_LOGIT(row, V, if (z > top) top = z, at = (uint32_t)v;)
    for (int round = 0; round < 2; round++) { /* over the lanes, then over the warps */
        for (int d = 16; d; d >>= 1) {
            float z = __shfl_xor_sync(0xFFFFFFFFu, top, d);
            uint32_t v = __shfl_xor_sync(0xFFFFFFFFu, at, d);
            if (z > top || (z == top && v < at)) top = z, at = v;
        }
        if (round) break;
        if ((threadIdx.x & 31) == 0) sh->tops[threadIdx.x >> 5] = top, sh->ids[threadIdx.x >> 5] = at;
        __syncthreads();
        top = sh->tops[threadIdx.x & 31], at = sh->ids[threadIdx.x & 31];
    }
    *id = top > -INFINITY ? at : 0;
    return top;
}

/* Sum of exp(z - top); with a temperature also the first bins. */
template <typename T> __device__ static double weigh(const T *__restrict__ row, int V, const struct draw *d, float top, bool count, struct shared *sh) {
    double sum = 0;
    clear(&sh->first);
    EACH_LOGIT(row, V, {
        sum += (double)expf(z - top);
        if (d->inverse_t == 0) continue;
        const uint64_t w = weight_of(d, z, top);
        const uint32_t bin = first_bin(d, z, top);
        if (!w || bin >= BINS) continue;
        add_weight(&sh->first, bin, w);
        if (count) atomicAdd(&sh->first.count[bin], 1u);
    })
    for (int s = 16; s; s >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, s);
    if ((threadIdx.x & 31) == 0) sh->partial[threadIdx.x >> 5] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < WARPS; w++) sum += sh->partial[w];
    return sum;
}

/* Least and greatest key of a first bin's members. */
template <typename T>
__device__ static void range_of(const T *__restrict__ row, int V, const struct draw *d, float top, uint32_t bin, struct shared *sh, uint32_t *lo,
                                uint32_t *hi) {
    uint32_t least = 0xFFFFFFFFu, most = 0;
    EACH_LOGIT(row, V, {
        if (first_bin(d, z, top) != bin || !weight_of(d, z, top)) continue;
        least = min(least, rank_key(z)), most = max(most, rank_key(z));
    })
    least = __reduce_min_sync(0xFFFFFFFFu, least), most = __reduce_max_sync(0xFFFFFFFFu, most);
    if ((threadIdx.x & 31) == 0) sh->least[threadIdx.x >> 5] = least, sh->most[threadIdx.x >> 5] = most;
    __syncthreads();
    *lo = __reduce_min_sync(0xFFFFFFFFu, sh->least[threadIdx.x & 31]);
    *hi = __reduce_max_sync(0xFFFFFFFFu, sh->most[threadIdx.x & 31]);
    __syncthreads();
}

/* The last logit of the shortest prefix that reaches goal: its key, the mass of what is greater, and what of the goal is
 * left for those equal to it. by_count: the goal is a number of ids, else a mass; not above that of all first bins. */
struct place { uint32_t key; uint64_t mass_above, left; };

template <typename T>
__device__ __noinline__ static struct place locate(const T *__restrict__ row, int V, const struct draw *d, float top, bool by_count, uint64_t goal,
                                                  struct shared *sh) {
    struct bins *b = &sh->first;
    struct found f = find(sh, by_count ? b->count[threadIdx.x] : mass_of(b), mass_of(b), goal);
    struct place p = {0, f.mass_above, goal - f.above};
    uint32_t lo, hi;
    range_of(row, V, d, top, f.bin, sh, &lo, &hi);
    b = &sh->finer;
    while (lo < hi) {
        const int shift = shift_for(hi - lo);
        clear(b);
        EACH_LOGIT(row, V, {
            const uint32_t key = rank_key(z);
            if (!(key >= lo && key <= hi)) continue;
            const uint64_t w = weight_of(d, z, top);
            if (!w) continue;
            add_weight(b, (hi - key) >> shift, w);
            if (by_count) atomicAdd(&b->count[(hi - key) >> shift], 1u);
        })
        __syncthreads();
        f = find(sh, by_count ? b->count[threadIdx.x] : mass_of(b), mass_of(b), p.left);
        p.mass_above += f.mass_above;
        p.left -= f.above;
        hi -= f.bin << shift;
        if (hi - lo >= 1u << shift) lo = hi - ((1u << shift) - 1);
    }
    p.key = hi;
    return p;
}

/* The n-th (from 1) id whose logit has this key. */
template <typename T> __device__ static int nth_equal(const T *__restrict__ row, int V, uint32_t key, uint64_t n, struct shared *sh) {
    int lo = 0, len = V;
    while (len > 1) {
        const int shift = shift_for((uint32_t)len - 1);
        clear(&sh->finer);
        EACH_LOGIT(row + lo, len, {
            if (v < len && rank_key(z) == key) atomicAdd(&sh->finer.count[v >> shift], 1u);
        })
        __syncthreads();
        struct found f = find(sh, sh->finer.count[threadIdx.x], 0, n);
        n -= f.above;
        lo += (int)f.bin << shift;
        len = min(1 << shift, len - ((int)f.bin << shift));
    }
    return lo;
}

/* The mass of what weighs min_p of the first at least: of a prefix, since weights fall along the order. */
template <typename T>
__device__ static uint64_t mass_at_least(const T *__restrict__ row, int V, const struct draw *d, float top, struct shared *sh) {
    uint64_t sum = 0, all;
    EACH_LOGIT(row, V, if (expf((z - top) * d->inverse_t) >= d->min_p) sum += weight_of(d, z, top);)
    scan(sum, sh->sums[0], &all);
    return all;
}

/* See the top. `instead` is drawn when nothing has a weight (infinities, NaNs). */
template <typename T>
__device__ static int choose(const T *__restrict__ row, int V, const struct draw *d, float top, uint32_t bits, int instead, bool count, struct shared *sh) {
    uint64_t mass, ids;
    struct place p;
    scan(mass_of(&sh->first), sh->sums[0], &mass);
    scan(sh->first.count[threadIdx.x], sh->sums[1], &ids);
    if (!mass) return instead;
    if (count && (uint64_t)d->top_k < ids) {
        p = locate(row, V, d, top, true, (uint64_t)d->top_k, sh);
        mass = p.mass_above + p.left * weight_of(d, key_value(p.key), top);
    }
    if (d->top_p < 1) {
        p = locate(row, V, d, top, false, goal_of(d->top_p, mass), sh);
        uint64_t w = weight_of(d, key_value(p.key), top);
        mass = p.mass_above + (p.left + w - 1) / w * w;
    }
    if (d->min_p > 0) mass = min(mass, max(mass_at_least(row, V, d, top, sh), (uint64_t)1));
    p = locate(row, V, d, top, false, goal_past(bits, mass), sh);
    uint64_t w = weight_of(d, key_value(p.key), top);
    return nth_equal(row, V, p.key, (p.left + w - 1) / w, sh);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    sample_kernel(const T *logits, int64_t ld, int V, const T *raw, int64_t ld_raw, const int32_t *sample, const int32_t *pos, int32_t *id,
                  float *logprob, struct draw d) {
    __shared__ struct shared sh;
    const int s = blockIdx.x;
    const T *row = logits + s * ld;
    const bool count = d.top_k > 0 && d.top_k < V;
    uint32_t at;
    float top = best(row, V, &sh, &at);
    double sum = weigh(row, V, &d, top, count, &sh);
    int pick = (int)at;
    if (d.inverse_t != 0) {
        struct philox r = philox(philox_key(d.keys->seed, PURPOSE_SAMPLE), (uint32_t)d.keys->step, (uint32_t)sample[s], (uint32_t)pos[s], 0);
        pick = choose(row, V, &d, top, r.v[0], pick, count, &sh);
    }
    if (raw) { /* what it is likely under */
        row = raw + s * ld_raw;
        d.inverse_t = 0;
        top = best(row, V, &sh, &at);
        sum = weigh(row, V, &d, top, false, &sh);
    }
    if (threadIdx.x) return;
    id[s] = pick;
    logprob[s] = (float)((double)(to_f32(row[pick]) - top) - log(sum));
}

extern "C" size_t cuda_sample_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)inst, (void)in, (void)out;
    return 0;
}

extern "C" err cuda_sample(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)inst, (void)scratch;
    const int64_t S = view_rows(&in[0]), V = in[0].d[1];
    if (!S || !V) return OK;
    if (V > 1 << 30) return fail(E_UNSUPPORTED, "sample: %lld logits in a row; the CUDA backend takes 2^30", (long long)V);
    const struct sampling *how = &run->sampling;
    struct draw d = {how->temperature > 0 ? 1 / how->temperature : 0, how->top_p, how->min_p, how->top_k, 44, cuda_keys};
    while (d.unit_bits > 32 && V > 1ll << (62 - d.unit_bits)) d.unit_bits--;
    WITH_TYPE(in[0].dt, sample_kernel<T><<<(unsigned)S, THREADS, 0, cuda_stream>>>((const T *)in[0].p, in[0].ld, (int)V, (const T *)in[3].p,
                                                                                   in[3].ld, view_i32(&in[1]), view_i32(&in[2]),
                                                                                   (int32_t *)out[0].p, view_f32(&out[1]), d));
    return CUDA_LAUNCHED("sample");
}
