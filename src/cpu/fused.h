/* The fused kernels: everything of the CPU table that is not a matrix product. Each is written once over a vector of
 * floats (vec.h) and compiled once per instruction set; fused() gives the set that cpu_isa() allows now.
 *
 * Scratch is per thread: a kernel runs on cpu_threads(run) threads and thread t owns the t-th share of what its
 * _scratch formula asked for. Operands as in ops/ops.h. */
#ifndef CYC_CPU_FUSED_H
#define CYC_CPU_FUSED_H
#include "cpu/cpu.h"

enum { ATT_Q = 64, ATT_K = 64 }; /* queries and keys of one attention tile */

struct fused_kernels {
    kernel attention, attention_bwd, attention_cached, norm, norm_bwd, rope, add, glu, glu_bwd, softcap, scale, scale_bwd, column_sum,
        magnitude, magnitude_bwd;
    void (*cap_row)(float *x, int64_t n, float cap); /* x = cap tanh(x / cap) */
    float (*row_max)(const float *x, int64_t n); /* NaNs are skipped; -inf when nothing is left */
    /* y[i] = exp((x[i] - shift) * factor), y may be NULL; returns their sum */
    double (*row_exp)(const float *x, int64_t n, float shift, float factor, float *y);
    void (*widen)(dtype dt, const void *from, float *to, int64_t n);  /* bf16 or f16 to f32 */
    void (*narrow)(dtype dt, const float *from, void *to, int64_t n); /* and back, to nearest even */
};
#define FUSED_KERNELS                                                                                                  \
    { attention, attention_bwd, attention_cached, norm, norm_bwd, rope, add, glu, glu_bwd, softcap, scale, scale_bwd, column_sum, magnitude, magnitude_bwd, cap_row, row_max, row_exp, widen, narrow }
extern const struct fused_kernels fused_generic, fused_avx2, fused_avx512;
const struct fused_kernels *fused(void);

/* Floats of scratch of one thread. Attention: two or one score tiles, up to four numbers per query, packed operands. */
#define ATT_FORWARD_SHARE(D)    (ATT_K * ATT_Q + 3 * ATT_Q + (D)*ATT_Q)
#define ATT_BACKWARD_SHARE(D)   (2 * ATT_K * ATT_Q + 2 * ATT_Q + 2 * (D)*ATT_Q)
#define ATT_CACHED_SHARE(group) (((group) * (ATT_K + 2) + 15) / 16 * 16)
#define ATT_CACHED_ROOM(D, dt)  ((dt) == DT_F32 ? 0 : ATT_K * (D)) /* a tile of a cache of 16 bits */

size_t cpu_attention_scratch(const struct inst *inst, const struct view *in, const struct view *out);
size_t cpu_attention_bwd_scratch(const struct inst *inst, const struct view *in, const struct view *out);
size_t cpu_attention_cached_scratch(const struct inst *inst, const struct view *in, const struct view *out);
size_t cpu_rope_scratch(const struct inst *inst, const struct view *in, const struct view *out);

/* rows.c, sample.c */
err cpu_embed(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
              void *scratch);
err cpu_embed_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch);
err cpu_overlay(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch);
err cpu_overlay_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch);
err cpu_noise(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch);
err cpu_gather(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
               void *scratch);
err cpu_kv_append(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                  void *scratch);
err cpu_store(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch);
err cpu_split(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch);
err cpu_split_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch);
err cpu_sample(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
               void *scratch);
err cpu_process(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch);
err cpu_top(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch);
size_t cpu_sample_scratch(const struct inst *inst, const struct view *in, const struct view *out);

#endif
