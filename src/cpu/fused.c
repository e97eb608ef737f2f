/* Chooses the fused kernels' instruction set, and says how much scratch they need: a share per thread, for as many
 * threads as cpu_threads() can answer. */
#include "cpu/fused.h"

const struct fused_kernels *fused(void) {
    switch (cpu_isa()) {
    case CPU_AVX512: return &fused_avx512;
    case CPU_AVX2: return &fused_avx2;
    default: return &fused_generic;
    }
}

static size_t shares(size_t floats) { return (size_t)cpu_max_threads() * floats * sizeof(float); }

size_t cpu_attention_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)in, (void)out;
    return shares(ATT_FORWARD_SHARE((size_t)inst->a.head_dim));
}

size_t cpu_attention_bwd_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)in, (void)out;
    return shares(ATT_BACKWARD_SHARE((size_t)inst->a.head_dim));
}

size_t cpu_attention_cached_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)out;
    return shares(ATT_CACHED_SHARE((size_t)(inst->a.heads / inst->a.kv_heads)) + ATT_CACHED_ROOM((size_t)inst->a.head_dim, in[1].dt));
}

size_t cpu_rope_scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)in, (void)out;
    return shares((size_t)inst->a.head_dim);
}
