/* The ops and their operands, in order. [..] shapes; (opt) may be absent. All activations are row-major [N, C], f32 or what the program computes
 * in (bf16, f16: computed as in f32, rounded when stored; core/wide.h);
 * weights W may be any dtype of base/dtype.h (quantised along the last dimension); vectors (norm weights, biases) f32.
 *
 * embed            in  ids[N] i32, table[V,C]                    out x[N,C]                   x = scale * table[ids], 0 where ids is no row of it
 * embed_bwd        in  dx[N,C], ids, table                       out dtable[V,C] (GRAD: added: scale * dx to row ids)
 * overlay          in  x[N,C], ids[N] i32, table[P,C] act        out y[N,C] (may be in place of x)
 *                  y = ids < first ? x : table[ids - first], 0 where that is no row of it
 * overlay_bwd      in  dy[N,C], ids, table                       out dx[N,C] (with backward; may be in place of dy; 0 where ids >= first),
 *                      dtable[P,C] (a trained table: GRAD, added), or dtable[P,C] (another that needs it): sums of dy's rows
 * find_rows        in  ids[N] i32, which[R] i32                 out row[N] i32: which[row] = id, or -1; rest[N] i32: -1 there, else id
 * put_columns      in  z[N,V] f32, own[N,R] f32, which[R] i32   out y[N,V]: z with own's column r in the place of column which[r] (may be in place)
 * norm             in  x[N,C], w[D], bias[D] (opt)                out y[N,C], rstd[N] ([N,H] when heads H > 1), mean (with center)
 *                  D = C / H, H = max(heads, 1); each of a row's H vectors: m = center ? mean(x) : 0,
 *                  rstd = 1/sqrt(mean((x-m)^2)+eps), y = (x-m)*rstd*w + bias
 * norm_bwd         in  x, w, rstd, dy, mean (with center), bias (opt)
 *                  out dx[N,C], dw[D], dbias[D] (opt, GRAD: added)
 * linear           in  LIN_X x[N,C]; LIN_W+i W_i[O_i,C]; LIN_BIAS+i bias_i[O_i] (opt); LIN_A A[R,C] (opt);
 *                      LIN_B+i B_i[O_i,r_i] (opt); LIN_SAMPLE sample[N] i32, LIN_POS pos[N] i32 (with dropout); LIN_MIX weight[N,M] f32 (opt)
 *                  out Y_i[N,O_i] for i < n (all or, with A, none); LIN_T T[N,R] (when A)
 *                  Y_i = x W_i^T + bias_i + alpha_i * T_i B_i^T, T_i = drop_i(x) A_i^T; A_i, T_i: the r_i rows/columns
 *                  of output i, laid one after the other; r_i = 0: no delta there.
 *                  drop_i(x)[n,c] = keep ? x/(1-p) : 0, see ops_drop_keep().
 *                  With LIN_MIX the ranks are several adapters' (attr: members M, member_rank), and T is ops_weigh()ed: row n's columns of
 *                  member m times weight[n,m]. No gradient: nothing is trained so.
 *                  In a run of several adapters' rows (run_ctx.adapters) the row says whose A and B, and in linear_bwd whose dA and dB.
 * linear_bwd       in  LB_X x (with dA, or without dx); LB_W+i; LB_A; LB_B+i; LB_T T; LB_DY+i dY_i[N,O_i] (opt); LB_SAMPLE, LB_POS
 *                  out LB_DX dx[N,C] (opt); LB_DA dA[R,C] (opt, GRAD: added); LB_DB+i dB_i (opt, GRAD: added)
 *                  dT_i = alpha_i * dY_i B_i; dx = sum_i dY_i W_i + drop_i'(dT_i A_i); dA_i += dT_i^T drop_i(x);
 *                  dB_i += alpha_i * dY_i^T T_i
 * column_sum       in  dy[N,O], bias[O] (PARAM)                 out dbias[O] (GRAD: added)   dbias += sum_n dy
 * weight_grad      in  x[N,C], dy[N,O], W[O,C] (PARAM)          out dW[O,C] (GRAD: added)    dW += dy^T x
 * rope             in  x[N,H*D], pos[N] i32, inv_freq[R/2]       out y[N,H*D] (may be in place)
 *                  R = rope_dims, 0: D. angle = pos * inv_freq[j]; pairs (j, j+R/2), or (2j, 2j+1) when interleaved, of a
 *                  head's first R columns, the others as they are; inverse: -angle; the pairs times scale (0: 1)
 * attention        in  q[N,H*D], k[N,K*D], v[N,K*D], cu[S+1] i32 (opt), cu_k[S+1] i32 (opt), bias[B,H] f32 (opt)   out o[N,H*D], lse[N,H]
 *                  softmax(scale * q k^T) v inside each sequence cu[s]..cu[s+1], causal; head h reads kv head h*K/H;
 *                  lse = log sum exp of the scaled scores. window > 0: only the last `window` keys; softcap c > 0:
 *                  score = c tanh(score/c).
 *                  cu_k: k and v [M,K*D] are another text's, sequence by sequence (no mask). Without cu every query meets
 *                  every key, k and v [any,K*D] (no mask). bias: score of query i, key j
 *                  += bias[ops_bucket(j-i)][h] (T5; B = buckets)
 * attention_bwd    in  q, k, v, cu, o, lse, do, cu_k, bias                   out dq, dk, dv
 * add              in  a[N,C], b[N,C]                            out y (may be in place of a or b)
 * scale            in  x[N,C], l[C] or l[1] f32 (opt: 1), bias[C] f32 (opt)   out y[N,C] = s x * l + bias (may be in place); s = scale, 0: 1;
 *                  l[1]: one for all columns
 * scale_bwd        in  x (with dl), l (opt), dy                       out dx (opt; may be in place of x or dy), dl (opt, GRAD: added),
 *                                                               dl f32 (opt, ACT: written)
 *                  dx = s dy * l; dl = s sum_n dy * x (l[1]: over the columns too), of an l that is trained or computed; of a trained bias: column_sum
 * magnitude        in  m[O] f32, w2[O] f32, P[r,O] f32, B[O,r], G[r,r] f32, state[O] f32 STATE (opt)
 *                  out l[O] f32 (the STATE, where there is one), inv[O] f32
 *                  norm_o = sqrt(w2_o + 2 s sum_j P_jo B_oj + s^2 B_o G B_o^T), s = scale; l = m / norm, inv = 1 / norm, both 0 where
 *                  norm is 0. To gradients the norm is a constant
 * magnitude_bwd    in  dl[O] f32, inv[O] f32, m[O] (PARAM)       out dm[O] (GRAD: added)      dm += dl * inv
 * dropout          in  x[N,C], sample[N] i32, pos[N] i32            out y[N,C] (may be in place)   y = drop_0(x), as linear has it; its own backward
 * noise            in  x[N,C], cu[S+1] i32, sample[N] i32, pos[N] i32   out y[N,C] (may be in place)   y = x + alpha_0 / sqrt(L C) u, u in [-1, 1): ops_noise_bits();
 *                  of a sequence's rows but the first n, and L how many those are. Its backward is dy itself
 * glu              in  gate[N,F], up[N,F] (opt)                  out y = act(gate)*up, or act(gate) (may be in place)
 * glu_bwd          in  gate, up (opt), dy                        out dgate (may be in place), dup (when up)
 * split            in  x[N,sum W_i]                              out y_i[N,W_i] for i < n: x's columns, one slice after the other
 * split_bwd        in  dy_i[N,W_i] (opt: zeros)                  out dx
 * head_loss        in  x[N,C], W[V,C], label[N] i32, weight[N] f32, bias[V] f32 (opt), rows[R,C] and which[R] i32 (opt), target[T,V] f32 (opt),
 *                      HEAD_T t[N,R] and HEAD_B B[V,R] (opt), a teacher's HEAD_TX x[N,D] and HEAD_TW W[U,D], U >= V (opt), or what is remembered of one:
 *                      HEAD_TOP id[N,k] i32 and HEAD_LOGP logp[N,k] f32 (opt)
 *                  out sums[4] (of a program of several adapters 4 of each, by their rows) = {sum w*loss, sum w, sum w*correct, rows with w != 0}, nll[N] (0 where w = 0),
 *                      with backward also loss_scale * d(sum w*loss): dx[N,C] (where x needs it; 0 where w = 0), dW[V,C],
 *                      dbias[V], drows[R,C] (where they are trained; GRAD: added), HEAD_DT dt[N,R] (where t needs it; 0 where w = 0),
 *                      HEAD_DB dB[V,R] (GRAD: added)
 *                  W' = W with rows[r] in the place of row which[r] (then W itself is frozen); W below is that.
 *                  logits z = x W^T + bias + alpha_0 * t B^T (rows and t: one or the other), with softcap c > 0: c tanh(z/c). nll = -log softmax(z)[label]; with a target the mean of
 *                  (z - target[label])^2 (then neither rows nor softcap nor terms; correct is 0).
 *                  loss (struct loss_terms): nll, or (1 - share) ((1 - e) nll + e mean_v(-log softmax(z)_v)) + z logsumexp(z)^2 + share (T^2 D + h mean_c (x - x_t)^2), e the smoothing, h hidden (HEAD_TX as wide as x).
 *                  D between t = softmax(q / T), q the teacher's logits of the first V ids (with teacher_cap), and s = softmax(z / T): beta 0 KL(t||s),
 *                  beta 1 KL(s||t), else beta KL(t||m) + (1 - beta) KL(s||m) with m = beta t + (1 - beta) s (GKD, Agarwal et al. 2023; TRL's
 *                  generalized_jsd_loss, which has no T^2: that is Hinton's, so that a gradient's size does not hang on T). Of k < V ids that are remembered, with
 *                  their log-probabilities at temperature 1, all the others are one outcome more: q are k + 1 log-probabilities (the last one's
 *                  probability what the k leave, 2^-24 at least), z are the k logits and the logsumexp of the others. With k = V it is the whole. No gradient to a teacher.
 *                  Only rows with weight != 0 are computed; the [N,V] logits never exist (rows go in chunks).
 * gather           in  x[N,C], rows[S] i32                       out y[S,C]
 * kv_append        in  k[N,K*D], v[N,K*D], slot[N] i32, pos[N] i32, cache_k, cache_v [slots,K,T,D] STATE   out -
 * store            in  x[R,C], state[R,C] STATE                  out -                        state = x
 * stash            in  x[N,C]                                    out h[N,C] HOST          h = x, while what comes next runs
 * fetch            in  h[N,C] HOST                               out y[N,C]               y = h, while what comes next runs
 * await            in  h (of stash) or y (of fetch), x[N,C] (opt)   out h or y             the same value, from here on there; what else
 *                  is an operand (x, of which h is the copy) stays in its place until then
 * attention_cached in  q[N,H*D], cache_k, cache_v, slot[N], pos[N], bias (opt)   out o[N,H*D]
 *                  row n attends to positions 0..pos[n] of its slot
 * softcap          in  logits[S,V] f32                           out c tanh(logits/c) (may be in place)
 * remember         in  ids[N] i32, slot[N] i32, pos[N] i32, history[slots,T] i32 STATE   out -      history[slot[n]][pos[n]] = ids[n]
 * cache_copy       in  cache[slots,K,T,D] or history[slots,T] STATE, from[N] i32, to[N] i32, pos[N] i32   out -
 *                  position pos[n] of slot from[n] goes to slot to[n]; nothing that is read is written
 * process          in  PROC_Z z[S,V] f32, history STATE (opt), slot[N], pos[N] (with history), rows[S] (opt: row s is s), begin[S] (opt)
 *                  out z'[S,V]: z, with `normalise` log_softmax z; with history, row s knowing the ids at positions 0..pos[rows[s]] of its
 *                  slot and its answer beginning at begin[s] (none: behind them): of each id there z < 0 ? z * penalty : z / penalty; then
 *                  z[eos] = -inf where the answer has fewer than min_new ids
 * sample           in  logits[S,V], sample[S] i32, pos[S] i32 (of the last id that was read), raw[S,V] (opt)   out id[S] i32, logprob[S]
 *                  temperature 0: argmax (lowest id on ties); else temperature, top_k, top_p, min_p, philox(seed, sample, pos); logprob under
 *                  raw, where there is one
 * top              in  z[S,V] f32                                out id[S,n] i32, z[id][S,n]: the greatest, lower id first among equals; NaN is -inf
 */
#ifndef CYC_OPS_OPS_H
#define CYC_OPS_OPS_H
#include "core/grad.h"
#include "base/philox.h"
#include <math.h>

#define OP(name) extern const struct op_def op_##name;
#include "ops/ops.def"
#undef OP

extern const struct backward_ops ops_backward; /* of prog_backward() */

enum { LIN_X = 0, LIN_W = 1, LIN_BIAS = 5, LIN_A = 9, LIN_B = 10, LIN_SAMPLE = 14, LIN_POS = 15, LIN_MIX = 16, LIN_IN = 17, LIN_T = 4 };
enum { LB_X = 0, LB_W = 1, LB_A = 5, LB_B = 6, LB_T = 10, LB_DY = 11, LB_SAMPLE = 15, LB_POS = 16, LB_IN = 17,
       LB_DX = 0, LB_DA = 1, LB_DB = 2 };
enum { HEAD_T = 8, HEAD_B, HEAD_TX, HEAD_TW, HEAD_TOP, HEAD_LOGP, HEAD_IN, HEAD_DT = 6, HEAD_DB = 7, HEAD_OUT = 8 };
enum { PROC_Z, PROC_HISTORY, PROC_SLOT, PROC_POS, PROC_ROWS, PROC_BEGIN, PROC_IN };
enum { TOP_MOST = 256 };
enum { PURPOSE_DROPOUT = 1, PURPOSE_SAMPLE = 2, PURPOSE_SHUFFLE = 3, PURPOSE_INIT = 4, PURPOSE_REPLAY = 5, PURPOSE_NOISE = 6, PURPOSE_ROUND = 7,
       PURPOSE_NEFTUNE = 8 };

/* Dropout of channel c (any multiple of 4 at once: channels c..c+3) of one token for output i of a site. */
static inline struct philox ops_drop_bits(const struct run_ctx *run, int site, int output, int32_t sample, int32_t pos,
                                          int64_t c) {
    return philox(philox_key(run->seed, PURPOSE_DROPOUT), (uint32_t)(run->step & 0xFFFFFFFF), (uint32_t)sample,
                  (uint32_t)pos, (uint32_t)(site * MAX_GROUP + output) << 16 | (uint32_t)(c >> 2));
}
/* Noise of channels c..c+3 (c a multiple of 4) of one token. */
PHILOX_INLINE struct philox ops_noise_bits(uint64_t seed, uint64_t step, int32_t sample, int32_t pos, int64_t c) {
    return philox(philox_key(seed, PURPOSE_NEFTUNE), (uint32_t)(step & 0xFFFFFFFF), (uint32_t)sample, (uint32_t)pos, (uint32_t)(c >> 2));
}
/* The most that op noise adds to row n: 0 where it is in none of the S sequences, or one of the first a->n of its own. */
PHILOX_INLINE float ops_noise_most(const struct op_attr *a, const int32_t *cu, int64_t S, int64_t n, int64_t C) {
    int64_t s = 0, end = S; /* cu[s] <= n < cu[end] */
    if (n >= cu[S]) return 0;
    while (end - s > 1) {
        const int64_t middle = (s + end) / 2;
        if (cu[middle] <= n) s = middle;
        else end = middle;
    }
    const int64_t first = cu[s] + a->n;
    return n < first ? 0 : a->alpha[0] / sqrtf((float)(cu[end] - first) * (float)C);
}
/* What process knows of row s: its ids so far, and how many of them are its answer's. */
struct process_row { const int32_t *ids; int32_t known, made; };
static inline struct process_row ops_process_row(const struct view *in, int64_t s) {
    const int64_t r = in[PROC_ROWS].p ? view_i32(&in[PROC_ROWS])[s] : s;
    const int32_t known = view_i32(&in[PROC_POS])[r] + 1;
    return (struct process_row){view_i32(&in[PROC_HISTORY]) + view_i32(&in[PROC_SLOT])[r] * in[PROC_HISTORY].ld, known,
                                in[PROC_BEGIN].p ? known - view_i32(&in[PROC_BEGIN])[s] : 0};
}
/* T5's bucket of a relative position (key minus query): half of the buckets for small distances, one each; the others for ranges
 * that grow as the logarithm, up to `distance`; without a causal mask keys behind have half of all, keys ahead the other half.
 * In f32 like the models' own code, so that what lies on a border falls on the same side. */
static inline int ops_bucket(const struct op_attr *a, int64_t ahead) {
    int n = a->causal ? a->buckets : a->buckets / 2, base = !a->causal && ahead > 0 ? n : 0, exact = n / 2;
    int64_t far = a->causal ? (ahead < 0 ? -ahead : 0) : ahead < 0 ? -ahead : ahead;
    if (far < exact) return base + (int)far;
    int64_t large = exact + (int64_t)(logf((float)far / (float)exact) / (float)log((double)a->distance / exact) * (float)(n - exact));
    return base + (int)(large < n ? large : n - 1);
}
/* Runs a kernel of linear or linear_bwd once for each adapter of a run of several (op_def, part). false: there is nothing to divide. */
bool ops_by_adapter(kernel one, const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch, err *e);
/* What has the shape and type of a linear_bwd's x, which itself may be absent. */
static inline const struct view *ops_like_x(const struct view *in, const struct view *out) { return in[LB_X].nd ? &in[LB_X] : &out[LB_DX]; }
/* t times its member's weight, in the type of t; of weight 0 nothing comes through, not even what is no number. */
static inline float ops_weigh(float t, float weight) { return weight == 0 ? 0 : t * weight; }
/* The member that column j of T_k is of. */
static inline int ops_member(const struct op_attr *a, int k, int64_t j) {
    int m = 0;
    while (j >= a->member_rank[k][m]) j -= a->member_rank[k][m++];
    return m;
}
/* A norm's statistic of row n, group g: [N] or [N, H]. */
static inline float *ops_stat(const struct view *v, int64_t n, int64_t g) { return view_f32(v) + (v->nd == 2 ? n * v->ld + g : n); }
/* Is a row's loss in head_loss more than its label's cross-entropy? */
static inline bool ops_mixes(const struct loss_terms *l) { return l->smoothing > 0 || l->z > 0 || l->share > 0; }
/* Are the remembered ids of row n in head_loss's vocabulary? */
err ops_top_known(const struct view *in, int64_t n);
/* Of k remembered log-probabilities: that of all other ids together. */
static inline float ops_rest(const float *logp, int64_t k) {
    double rest = 1;
    for (int64_t j = 0; j < k; j++) rest -= exp((double)logp[j]);
    return (float)log(rest > 0x1p-24 ? rest : 0x1p-24);
}
/* scale's factor for all columns. */
static inline float ops_scale_by(const struct inst *i) { return i->a.scale != 0 ? i->a.scale : 1; }
static inline bool ops_drop_keep(uint32_t bits, float p) { return philox_unit(bits) >= p; }

#endif
