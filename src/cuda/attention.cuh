/* What attention.cu and attention_cached.cu share: the shapes that they refuse, and a bias by distance (T5).
 *
 * The bias is a table [buckets, heads] in the card's memory; which bucket a distance falls into is ops_bucket()'s business, and it goes
 * by a logarithm in f32. The card's logarithm may round another way, on a border into another bucket. So the host says where each
 * bucket of the logarithmic half begins, by ops_bucket() itself, and a kernel only compares whole numbers. */
#ifndef CYC_CUDA_ATTENTION_CUH
#define CYC_CUDA_ATTENTION_CUH
#include "cuda/types.cuh"

static inline err refuse_shape(const struct inst *i, const struct view *x) {
    if (i->a.head_dim < 1 || i->a.head_dim > 256) return fail(E_UNSUPPORTED, "CUDA attention takes head sizes up to 256, this one is %d", i->a.head_dim);
    if (x->d[0] > INT32_MAX - 4096) return fail(E_UNSUPPORTED, "CUDA attention takes fewer than 2^31 tokens");
    return OK;
}

/* What most programs do not have: keys of another text or of none, a bias. */
static inline bool attention_plain(const struct inst *i) {
    int cu_k = i->op == &op_attention_bwd ? 7 : 4;
    return has(i->in[3]) && !has(i->in[cu_k]) && !has(i->in[cu_k + 1]);
}

enum { MAX_RANGES = 64 };
struct by_distance {
    const float *bias; /* [buckets, heads] */
    int ld, exact, ranges; /* distances below exact have a bucket each, then come that many ranges */
    bool causal;
    int32_t from[MAX_RANGES]; /* the least distance of each range; from[0] is exact */
};

static inline err by_distance_of(const struct inst *i, const struct view *bias, struct by_distance *b) {
    int n = i->a.causal ? i->a.buckets : i->a.buckets / 2;
    b->bias = view_f32(bias), b->ld = (int)bias->ld, b->causal = i->a.causal, b->exact = n / 2, b->ranges = n - n / 2;
    if (b->ranges > MAX_RANGES) return fail(E_UNSUPPORTED, "CUDA attention takes a bias of up to %d buckets, this one has %d", 2 * MAX_RANGES * (i->a.causal ? 1 : 2), i->a.buckets);
    for (int r = 0; r < b->ranges; r++) {
        int least = r ? b->from[r - 1] : b->exact, most = i->a.distance; /* from there on all are in the last range */
        while (least < most) {
            int mid = least + (most - least) / 2;
            if (ops_bucket(&i->a, -(int64_t)mid) >= b->exact + r) most = mid;
            else least = mid + 1;
        }
        b->from[r] = least;
    }
    return OK;
}

/* Of head h, for a key `ahead` of its query (behind it: below 0). */
__device__ __forceinline__ float bias_at(const struct by_distance &b, int ahead, int h) {
    int far = b.causal ? max(-ahead, 0) : abs(ahead), bucket = far;
    if (far >= b.exact) {
        int lo = 0, hi = b.ranges; /* the last range that has begun */
        while (hi - lo > 1) {
            int mid = (lo + hi) / 2;
            if (b.from[mid] <= far) lo = mid;
            else hi = mid;
        }
        bucket = b.exact + lo;
    }
    if (!b.causal && ahead > 0) bucket += b.exact + b.ranges;
    return __ldg(b.bias + (int64_t)bucket * b.ld + h);
}

#endif
