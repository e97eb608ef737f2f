/* The CPU backend: which kernel runs which op. One row per op. The kernels behind fused() exist once per instruction set; the
 * set is looked up when a plan is made. Kernels compute in f32; in a program of bf16 or f16 most run between copies of a block of
 * rows (core/wide.h), and those that only move numbers or read a cache take 16 bits themselves. */
#define _DEFAULT_SOURCE
#include "cpu/cpu.h"
#include "cpu/fused.h"
#include "cpu/gemm.h"
#include "core/wide.h"
#include "ops/ops.h"
#include <omp.h>
#include <stddef.h>
#include <unistd.h>

typedef size_t (*scratch_of)(const struct inst *, const struct view *in, const struct view *out);

/* How an op is run in 16 bits (core/wide.h): which operands have a row for each token and may come in blocks of `rows`, which are taken in any
 * type. Nothing said: whole. */
struct sixteen {
    bool never; /* the kernel itself takes every type */
    uint32_t rows_in, rows_out, as_stored;
    int rows;
};

struct row {
    const struct op_def *op;
    kernel run; /* NULL: the fused kernel at this offset */
    size_t fused;
    scratch_of scratch; /* NULL: none */
    struct sixteen in_16;
};

/* Elementwise: blocks that stay in a core's cache with all their copies. Products: what gemm.h unpacks the weights for at once. */
enum { FEW = 64, MANY = GEMM_ROWS };
#define FUSED(name)  NULL, offsetof(struct fused_kernels, name)
#define BIT(k)       (1u << (k))
#define OUTPUTS(k)   (((1u << MAX_GROUP) - 1) << (k)) /* of a group, from operand k on */
#define ANY_TYPE     {.never = true}
#define WHOLE(stored) {.as_stored = (stored)}
static const struct row table[] = {
    {&op_embed, cpu_embed, 0, NULL, {false, BIT(0), BIT(0), BIT(1), FEW}},
    {&op_embed_bwd, cpu_embed_bwd, 0, NULL, {false, BIT(0) | BIT(1), 0, BIT(2), FEW}},
    {&op_overlay, cpu_overlay, 0, NULL, {false, BIT(0) | BIT(1), BIT(0), 0, FEW}},
    {&op_overlay_bwd, cpu_overlay_bwd, 0, NULL, WHOLE(BIT(2))},
    {&op_norm, FUSED(norm), NULL, {false, BIT(0), BIT(0) | BIT(1) | BIT(2), 0, FEW}},
    {&op_norm_bwd, FUSED(norm_bwd), NULL, {false, BIT(0) | BIT(2) | BIT(3) | BIT(4), BIT(0), 0, FEW}},
    {&op_linear, cpu_linear, 0, cpu_linear_scratch,
     {false, BIT(LIN_X) | BIT(LIN_SAMPLE) | BIT(LIN_POS) | BIT(LIN_MIX), OUTPUTS(0) | BIT(LIN_T), OUTPUTS(LIN_W), MANY}},
    {&op_linear_bwd, cpu_linear_bwd, 0, cpu_linear_bwd_scratch,
     {false, BIT(LB_X) | BIT(LB_T) | OUTPUTS(LB_DY) | BIT(LB_SAMPLE) | BIT(LB_POS), BIT(LB_DX), OUTPUTS(LB_W), MANY}},
    {&op_column_sum, FUSED(column_sum), NULL, {false, BIT(0), 0, 0, FEW}},
    {&op_weight_grad, cpu_weight_grad, 0, cpu_weight_grad_scratch, {false, BIT(0) | BIT(1), 0, BIT(2), MANY}},
    {&op_rope, FUSED(rope), cpu_rope_scratch, {false, BIT(0) | BIT(1), BIT(0), 0, FEW}},
    {&op_attention, FUSED(attention), cpu_attention_scratch, WHOLE(0)},
    {&op_attention_bwd, FUSED(attention_bwd), cpu_attention_bwd_scratch, WHOLE(0)},
    {&op_add, FUSED(add), NULL, {false, BIT(0) | BIT(1), BIT(0), 0, FEW}},
    {&op_scale, FUSED(scale), NULL, {false, BIT(0), BIT(0), 0, FEW}},
    {&op_scale_bwd, FUSED(scale_bwd), NULL, WHOLE(0)},
    {&op_dropout, cpu_dropout, 0, NULL, {false, BIT(0) | BIT(1) | BIT(2), BIT(0), 0, FEW}},
    {&op_noise, cpu_noise, 0, NULL, WHOLE(0)},
    {&op_magnitude, FUSED(magnitude), NULL, WHOLE(0)},
    {&op_magnitude_bwd, FUSED(magnitude_bwd), NULL, WHOLE(0)},
    {&op_glu, FUSED(glu), NULL, {false, BIT(0) | BIT(1), BIT(0), 0, FEW}},
    {&op_glu_bwd, FUSED(glu_bwd), NULL, {false, BIT(0) | BIT(1) | BIT(2), BIT(0) | BIT(1), 0, FEW}},
    {&op_split, cpu_split, 0, NULL, {false, BIT(0), OUTPUTS(0), 0, FEW}},
    {&op_split_bwd, cpu_split_bwd, 0, NULL, {false, OUTPUTS(0), BIT(0), 0, FEW}},
    {&op_head_loss, cpu_head_loss, 0, cpu_head_loss_scratch, WHOLE(BIT(1) | BIT(5) | BIT(HEAD_TW))},
    {&op_gather, cpu_gather, 0, NULL, ANY_TYPE},
    {&op_kv_append, cpu_kv_append, 0, NULL, ANY_TYPE},
    {&op_store, cpu_store, 0, NULL, ANY_TYPE},
    {&op_attention_cached, FUSED(attention_cached), cpu_attention_cached_scratch,
     {false, BIT(0) | BIT(3) | BIT(4), BIT(0), BIT(1) | BIT(2), FEW}},
    {&op_softcap, FUSED(softcap), NULL, WHOLE(0)},
    {&op_process, cpu_process, 0, NULL, WHOLE(0)},
    {&op_top, cpu_top, 0, NULL, WHOLE(0)},
    {&op_sample, cpu_sample, 0, cpu_sample_scratch, WHOLE(0)},
};

static const struct row *row_of(const struct inst *inst) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].op == inst->op) return &table[i];
    return NULL;
}

static struct wide wide_of(const struct row *r) {
    const struct sixteen *s = &r->in_16;
    return (struct wide){.run = r->run ? r->run : *(const kernel *)((const char *)fused() + r->fused),
                         .scratch = r->scratch,
                         .as_stored = s->as_stored,
                         .rows_in = s->rows_in,
                         .rows_out = s->rows_out,
                         .rows = s->rows,
                         .widen = fused()->widen,
                         .narrow = fused()->narrow};
}

static err run_wide(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    const struct wide w = wide_of(row_of(inst));
    return wide_run(&w, run, inst, in, out, scratch);
}

static bool through_f32(const struct row *r, const struct wide *w, const struct inst *inst, const struct view *in, const struct view *out) {
    return !r->in_16.never && wide_needed(w, inst, in, out);
}

static kernel find(const struct inst *inst, const struct view *in, const struct view *out) {
    const struct row *r = row_of(inst);
    if (!r) return NULL;
    const struct wide w = wide_of(r);
    return through_f32(r, &w, inst, in, out) ? run_wide : w.run;
}

static size_t scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    const struct row *r = row_of(inst);
    if (!r) return 0;
    const struct wide w = wide_of(r);
    if (through_f32(r, &w, inst, in, out)) return wide_scratch(&w, inst, in, out);
    return r->scratch ? r->scratch(inst, in, out) : 0;
}

static void describe(str *out) {
    str_addf(out, "cpu: %s kernels%s%s, %d threads\n", cpu_isa_name(cpu_isa()), cpu_vnni() ? ", integer dot products (VNNI)" : "",
             cpu_amx() ? ", tile products of bf16 (AMX)" : "", omp_get_max_threads());
    str_addf(out, "memory: %.1f GB\n", (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) * 1e-9);
}

const struct backend backend_cpu = {.name = "cpu", .find = find, .scratch = scratch, .computes = true, .mem = &mem_host, .flat = &flat_cpu, .compute = DT_F32, .describe = describe, .count_threads = cpu_count_threads};
