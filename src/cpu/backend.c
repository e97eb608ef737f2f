/* The CPU backend: which kernel runs which op. One row per op. The kernels behind fused() exist once per instruction set; the
 * set is looked up when a plan is made. */
#define _DEFAULT_SOURCE
#include "cpu/cpu.h"
#include "cpu/fused.h"
#include "ops/ops.h"
#include <omp.h>
#include <stddef.h>
#include <unistd.h>

typedef size_t (*scratch_of)(const struct inst *, const struct view *in, const struct view *out);

struct row {
    const struct op_def *op;
    kernel run; /* NULL: the fused kernel at this offset */
    size_t fused;
    scratch_of scratch; /* NULL: none */
};

#define FUSED(name) NULL, offsetof(struct fused_kernels, name)
static const struct row table[] = {
    {&op_embed, cpu_embed, 0, NULL},
    {&op_embed_bwd, cpu_embed_bwd, 0, NULL},
    {&op_overlay, cpu_overlay, 0, NULL},
    {&op_overlay_bwd, cpu_overlay_bwd, 0, NULL},
    {&op_norm, FUSED(norm), NULL},
    {&op_norm_bwd, FUSED(norm_bwd), NULL},
    {&op_linear, cpu_linear, 0, cpu_linear_scratch},
    {&op_linear_bwd, cpu_linear_bwd, 0, cpu_linear_bwd_scratch},
    {&op_column_sum, FUSED(column_sum), NULL},
    {&op_weight_grad, cpu_weight_grad, 0, cpu_weight_grad_scratch},
    {&op_rope, FUSED(rope), cpu_rope_scratch},
    {&op_attention, FUSED(attention), cpu_attention_scratch},
    {&op_attention_bwd, FUSED(attention_bwd), cpu_attention_bwd_scratch},
    {&op_add, FUSED(add), NULL},
    {&op_scale, FUSED(scale), NULL},
    {&op_scale_bwd, FUSED(scale_bwd), NULL},
    {&op_dropout, cpu_dropout, 0, NULL},
    {&op_magnitude, FUSED(magnitude), NULL},
    {&op_magnitude_bwd, FUSED(magnitude_bwd), NULL},
    {&op_glu, FUSED(glu), NULL},
    {&op_glu_bwd, FUSED(glu_bwd), NULL},
    {&op_split, cpu_split, 0, NULL},
    {&op_split_bwd, cpu_split_bwd, 0, NULL},
    {&op_head_loss, cpu_head_loss, 0, cpu_head_loss_scratch},
    {&op_gather, cpu_gather, 0, NULL},
    {&op_kv_append, cpu_kv_append, 0, NULL},
    {&op_store, cpu_store, 0, NULL},
    {&op_attention_cached, FUSED(attention_cached), cpu_attention_cached_scratch},
    {&op_softcap, FUSED(softcap), NULL},
    {&op_sample, cpu_sample, 0, cpu_sample_scratch},
};

static const struct row *row_of(const struct inst *inst) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].op == inst->op) return &table[i];
    return NULL;
}

static kernel find(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)in, (void)out;
    const struct row *r = row_of(inst);
    if (!r || r->run) return r ? r->run : NULL;
    return *(const kernel *)((const char *)fused() + r->fused);
}

static size_t scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    const struct row *r = row_of(inst);
    return r && r->scratch ? r->scratch(inst, in, out) : 0;
}

static void describe(str *out) {
    str_addf(out, "cpu: %s kernels%s, %d threads\n", cpu_isa_name(cpu_isa()), cpu_vnni() ? ", integer dot products (VNNI)" : "",
             omp_get_max_threads());
    str_addf(out, "memory: %.1f GB\n", (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) * 1e-9);
}

const struct backend backend_cpu = {.name = "cpu", .find = find, .scratch = scratch, .computes = true, .mem = &mem_host, .flat = &flat_cpu, .compute = DT_F32, .describe = describe};
