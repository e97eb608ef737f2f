/* The CUDA backend's inside: one card, one stream (and one beside it), and the kernels that fill the op table (backend.c).
 *
 * Every function named cuda_<op> is a `kernel` of core/backend.h whose views point into device memory: it only launches
 * on cuda_stream and returns; nothing waits for the card but cuda_download and the flat sums. Launch errors are asked for
 * right after each launch, errors while running come out of the next call that waits.
 *
 * Element types: activations, adapters' working copies and caches are of the program's compute type (f32, bf16 or f16:
 * the view says which); norm weights, biases, rstd, lse, losses, parameter gradients are f32; ids and positions i32; base
 * matrices any type of base/dtype.h. All arithmetic accumulates in f32. 2-D views may be column slices (ld > d[1]).
 *
 * .cu files are C++ to the compiler and C in shape: kernels, a launcher each, no classes; extern "C" at the edge. */
#ifndef CYC_CUDA_CUDA_H
#define CYC_CUDA_CUDA_H
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" { /* the house's own headers are C */
#endif
#include "core/flat.h"
#include "ops/ops.h"

extern cudaStream_t cuda_stream; /* everything runs here, in order, but for what is put beside it: */
/* What is launched from begin to end runs beside what is launched after it, behind all before it; join: the stream waits for it. An op
 * that begins joins before it returns. Two small products, or a small one and a large one, so share the card. */
extern bool cuda_one_stream; /* nothing runs beside for now: what is put there runs in order */
err cuda_beside_begin(void);
err cuda_beside_end(void);
err cuda_beside_join(void); /* nothing there: nothing to do */
bool cuda_is_beside(void);  /* between begin and end: scratch that launches share is not to be touched */
err cuda_carry_open(void);   /* carry.c: the stream of copies to and from the host; */
err cuda_carry_join(void);   /* the main one waits for the last of them; mem_ops' two: */
err cuda_set_out(enum copy_way way, void *to, const void *from, size_t bytes);
err cuda_await_way(enum copy_way way);
extern int cuda_sms;             /* multiprocessors of the card */

/* What changes from run to run without changing its kernels, on the card: recorded runs read it there. */
struct cuda_keys { uint64_t seed, step; float loss_scale; };
extern struct cuda_keys *cuda_keys;
extern struct settings cuda_settings;
enum { CUDA_ONES = 65536 };
extern float *cuda_ones;         /* that many: scales of what has none */
/* Launches a kernel of one argument, which may start before the kernel before it has ended: it waits for that by wait_for_earlier()
 * (types.cuh) before it reads or writes anything that another kernel of the run touches. */
err cuda_launch(const void *kernel, dim3 grid, int threads, int shared_bytes, void *argument, const char *what);
err cuda_launch_clusters(const void *kernel, int blocks, int cluster, int threads, void *argument, const char *what); /* Hopper */
bool cuda_is_hopper(void); /* were the kernels built for it? else no early starts and no clusters */
err cuda_begin_run(const struct run_ctx *run); /* rows.cu: puts it there */

size_t cuda_free_bytes(void); /* of the card, whoever holds the others */
/* OK, or what CUDA said about `what` ("norm", "copy to the card"); sticky errors (a fault in a kernel) say so. */
err cuda_check(cudaError_t e, const char *what);
#define CUDA_LAUNCHED(what) cuda_check(cudaGetLastError(), what)

bool cuda_attention_by_cudnn(const struct inst *i, dtype dt); /* may it be cuDNN's, where rows are long enough? */
/* elementwise.cu: rows and elements */
err cuda_embed(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_norm(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_norm_bwd(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_rope(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_add(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_glu(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_glu_bwd(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_gather(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_split(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_split_bwd(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_softcap(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
size_t cuda_norm_bwd_scratch(const struct inst *, const struct view *in, const struct view *out);
/* columns.cu: scale, sums over rows */
err cuda_scale(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_scale_bwd(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_column_sum(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
size_t cuda_scale_bwd_scratch(const struct inst *, const struct view *in, const struct view *out);
size_t cuda_column_sum_scratch(const struct inst *, const struct view *in, const struct view *out);
/* rows.cu */
err cuda_noise(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_dropout(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
/* magnitude.cu */
err cuda_magnitude(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_magnitude_bwd(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
/* tables.cu: gradients of tables, rows laid over rows, rows that have replacements */
err cuda_find_rows(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_put_columns(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_embed_bwd(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_overlay(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_overlay_bwd(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
/* norm.cu: norms per head, with a mean, with a bias; what cuda_norm() and cuda_norm_bwd() leave to it */
bool cuda_plain_norm(const struct inst *i);
err cuda_vector_norm(const struct inst *, const struct view *in, struct view *out);
err cuda_vector_norm_bwd(const struct inst *, const struct view *in, struct view *out, void *scratch);
size_t cuda_vector_norm_bwd_scratch(const struct view *in, const struct view *out);
/* attention.cu, attention_cached.cu */
err cuda_attention(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_attention_bwd(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_store(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_kv_append(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_attention_cached(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
size_t cuda_attention_scratch(const struct inst *, const struct view *in, const struct view *out);
size_t cuda_attention_bwd_scratch(const struct inst *, const struct view *in, const struct view *out);
size_t cuda_attention_cached_scratch(const struct inst *, const struct view *in, const struct view *out);
/* carry.c */
err cuda_stash(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_fetch(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_await(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
/* process.cu */
err cuda_remember(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_cache_copy(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_process(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_top(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
/* sample.cu */
err cuda_sample(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
size_t cuda_sample_scratch(const struct inst *, const struct view *in, const struct view *out);
/* linear.c, head_loss.cu: products by cuBLASLt (gemm.h) */
err cuda_linear(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_linear_bwd(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_weight_grad(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
err cuda_head_loss(const struct run_ctx *, const struct inst *, const struct view *in, struct view *out, void *scratch);
size_t cuda_linear_scratch(const struct inst *, const struct view *in, const struct view *out);
size_t cuda_linear_bwd_scratch(const struct inst *, const struct view *in, const struct view *out);
size_t cuda_head_loss_scratch(const struct inst *, const struct view *in, const struct view *out);

/* dequant.cu: rows [0, rows) of a base matrix as `to` (f32, bf16, f16), row-major and dense. src and dst on the device. */
err cuda_dequantise(dtype dt, const void *src, int64_t rows, int64_t cols, dtype to, void *dst);
/* Columns [from, from + width) of w, in whole blocks: [rows, width] at dst. */
err cuda_dequantise_columns(const struct view *w, int64_t from, int64_t width, dtype to, void *dst);
/* y[n, o] (+)= sum_c x[n, c] * W[o, c] (+ bias[o]) for few rows: W is read once, as it is stored. x is of the compute type
 * (f32, bf16, f16) with row stride ldx, y of type y_dt with stride ldy. false: not for this shape or type, use a product. */
struct cuda_matvec {
    const struct view *w; /* [O, C] */
    const float *bias;    /* [O] or NULL */
    const void *x;
    dtype x_dt, y_dt;
    int64_t n, ldx, ldy;
    void *y;
    const void *soon; /* what the kernel after this one will read (a hint), NULL: nothing known */
    int64_t soon_bytes;
};
bool cuda_matvec_takes(dtype w, dtype x, int64_t n, int64_t C);
bool cuda_few_rows(const struct view *w, const struct view *x); /* linear.c: is the product x W^T this kernel's? */
err cuda_matvec(const struct cuda_matvec *m, int n); /* n products that share x: one launch for neighbours of one type of W */

/* flat.cu: flat_ops on the device; the pointers are device memory, the sum comes back to the host, `threads` means nothing */
err cuda_flat_sumsq(const float *x, int64_t n, int threads, double *out);
err cuda_flat_adamw(const struct adamw *o, const struct adamw_state *s, int64_t n, int threads);
err cuda_flat_cast(const float *x, void *to, dtype dt, int64_t n, int threads);
err cuda_flat_widen(const uint16_t *x, float *to, int64_t n, int threads);
err cuda_flat_round(const struct rounding *o, const float *x, uint16_t *to, int64_t n, int threads);
err cuda_flat_importance(const struct importance *o, const struct importance_state *s, int64_t n, int threads);
err cuda_flat_orthogonal(const struct orthogonal *o, const float *v, float *grad, int threads);
err cuda_flat_advance(int32_t *ids, int32_t *pos, const int32_t *next, const float *logprob, int32_t *log, int n);
/* optim.cu, muon.cu: the same */
err cuda_adamw_8bit(const struct adamw *o, const struct adamw_8bit_state *s, int64_t n, int threads);
err cuda_lion(const struct lion *o, const struct momentum_state *s, int64_t n, int threads);
err cuda_sgd(const struct sgd *o, const struct momentum_state *s, int64_t n, int threads);
err cuda_adafactor(const struct adafactor *o, const struct adafactor_state *s, void *scratch, int threads);
err cuda_muon(const struct muon *o, const struct momentum_state *s, void *scratch, int threads);
size_t cuda_adafactor_scratch(int64_t rows, int64_t columns);
size_t cuda_muon_scratch(int64_t rows, int64_t columns);

#ifdef __cplusplus
}
#endif
#endif
