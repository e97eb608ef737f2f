/* The CUDA backend's table: which kernel runs which op. One row per op; compute types are checked by the kernels' switch, so
 * what a plan holds is what runs. */
#include "cuda/cudnn.h"
#include "cuda/device.h"
#include "cuda/fp8.h"
#include "cuda/gemm.h"
#include "cuda/replay.h"
#include "cuda/spans.h"

typedef size_t (*scratch_of)(const struct inst *, const struct view *in, const struct view *out);

static const struct row {
    const struct op_def *op;
    kernel run;
    scratch_of scratch; /* NULL: none */
} table[] = {
    {&op_embed, cuda_embed, NULL},
    {&op_embed_bwd, cuda_embed_bwd, NULL},
    {&op_overlay, cuda_overlay, NULL},
    {&op_overlay_bwd, cuda_overlay_bwd, NULL},
    {&op_find_rows, cuda_find_rows, NULL},
    {&op_put_columns, cuda_put_columns, NULL},
    {&op_norm, cuda_norm, NULL},
    {&op_norm_bwd, cuda_norm_bwd, cuda_norm_bwd_scratch},
    {&op_linear, cuda_linear, cuda_linear_scratch},
    {&op_linear_bwd, cuda_linear_bwd, cuda_linear_bwd_scratch},
    {&op_column_sum, cuda_column_sum, cuda_column_sum_scratch},
    {&op_weight_grad, cuda_weight_grad, NULL},
    {&op_rope, cuda_rope, NULL},
    {&op_attention, cuda_attention, cuda_attention_scratch},
    {&op_attention_bwd, cuda_attention_bwd, cuda_attention_bwd_scratch},
    {&op_add, cuda_add, NULL},
    {&op_scale, cuda_scale, NULL},
    {&op_scale_bwd, cuda_scale_bwd, cuda_scale_bwd_scratch},
    {&op_dropout, cuda_dropout, NULL},
    {&op_noise, cuda_noise, NULL},
    {&op_magnitude, cuda_magnitude, NULL},
    {&op_magnitude_bwd, cuda_magnitude_bwd, NULL},
    {&op_glu, cuda_glu, NULL},
    {&op_glu_bwd, cuda_glu_bwd, NULL},
    {&op_split, cuda_split, NULL},
    {&op_split_bwd, cuda_split_bwd, NULL},
    {&op_softcap, cuda_softcap, NULL},
    {&op_head_loss, cuda_head_loss, cuda_head_loss_scratch},
    {&op_gather, cuda_gather, NULL},
    {&op_kv_append, cuda_kv_append, NULL},
    {&op_store, cuda_store, NULL},
    {&op_stash, cuda_stash, NULL},
    {&op_fetch, cuda_fetch, NULL},
    {&op_await, cuda_await, NULL},
    {&op_attention_cached, cuda_attention_cached, cuda_attention_cached_scratch},
    {&op_remember, cuda_remember, NULL},
    {&op_cache_copy, cuda_cache_copy, NULL},
    {&op_process, cuda_process, NULL},
    {&op_top, cuda_top, NULL},
    {&op_sample, cuda_sample, cuda_sample_scratch},
};

static const struct row *row_of(const struct inst *inst) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].op == inst->op) return &table[i];
    return NULL;
}

static kernel find(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)in, (void)out;
    const struct row *r = row_of(inst);
    return r ? r->run : NULL;
}

static size_t scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    const struct row *r = row_of(inst);
    return r && r->scratch ? r->scratch(inst, in, out) : 0;
}

static const struct flat_ops flat = {.sumsq = cuda_flat_sumsq,
                                     .adamw = cuda_flat_adamw,
                                     .cast = cuda_flat_cast,
                                     .widen = cuda_flat_widen,
                                     .round = cuda_flat_round,
                                     .importance = cuda_flat_importance,
                                     .orthogonal = cuda_flat_orthogonal,
                                     .advance = cuda_flat_advance,
                                     .adamw_8bit = cuda_adamw_8bit,
                                     .lion = cuda_lion,
                                     .sgd = cuda_sgd,
                                     .adafactor = cuda_adafactor,
                                     .muon = cuda_muon,
                                     .adafactor_scratch = cuda_adafactor_scratch,
                                     .muon_scratch = cuda_muon_scratch};

/* --- a base in fp8 ------------------------------------------------------------------------------------------------------- */
static bool keeps(dtype as) {
    int cards = 0;
    bool none = cudaGetDeviceCount(&cards) != cudaSuccess || !cards; /* a plan for a card that is not here */
    return as == DT_F8 && (none || cuda_fp8_available());
}

/* The layout is base/dtype.h's F8. Quantised matrices are unpacked whole on their way. */
static err keep(const void *from, dtype stored, void *to, const struct view *as) {
    struct view w = *as;
    w.p = to;
    struct cuda_fp8_matrix m = cuda_fp8_matrix(&w);
    if (!dtype_quantised(stored)) return cuda_fp8_weights(&m, from, stored);
    void *plain = cuda_mem.take((size_t)(m.O * m.C) * 4);
    if (!plain) return fail(E_MEMORY, "no room on the card to unpack a matrix of %lld x %lld", (long long)m.O, (long long)m.C);
    err e = cuda_dequantise(stored, from, m.O, m.C, DT_F32, plain);
    if (!e) e = cuda_fp8_weights(&m, plain, DT_F32);
    cuda_mem.give(plain, 0);
    return e;
}

static void configure(const struct settings *s) { cuda_settings = *s; }

static const char *card(void) {
    static struct cuda_facts f;
    if (!f.card) cuda_facts(&f);
    return f.card ? f.name : NULL;
}

static void describe(str *out) {
    struct cuda_facts f;
    double bandwidth, rate;
    cuda_facts(&f);
    if (f.driver)
        str_addf(out, "cuda driver: supports CUDA %d.%d; this program was built with %d.%d\n", f.driver_version / 1000,
                 f.driver_version % 1000 / 10, f.runtime_version / 1000, f.runtime_version % 1000 / 10);
    if (f.cublaslt) str_addf(out, "cuBLASLt: %zu.%zu.%zu\n", f.cublaslt / 10000, f.cublaslt / 100 % 100, f.cublaslt % 100);
    if (!f.cudnn) str_addf(out, "cuDNN: not found (libcudnn.so.9); it is not needed, on Hopper it makes attention over long rows faster\n");
    else
        str_addf(out, "cuDNN: %zu.%zu.%zu%s\n", f.cudnn / 10000, f.cudnn / 100 % 100, f.cudnn % 100,
                 f.cudnn < CUDNN_OLDEST ? " (too old to be used: 9.10.2 is the oldest)" : "");
    if (f.card)
        str_addf(out, "card: %s, compute capability %d.%d, %d multiprocessors, %.1f GB, %.1f GB free\n", f.name, f.capability / 10,
                 f.capability % 10, f.sms, (double)f.bytes * 1e-9, (double)f.bytes_free * 1e-9);
    if (*f.why) str_addf(out, "cuda: %s\n", f.why);
    else if (cuda_measure(&bandwidth, &rate)) str_addf(out, "cuda: %s\n", err_text());
    else str_addf(out, "measured: copies %.2f TB/s, bf16 products %.0f TFLOP/s\n", bandwidth * 1e-12, rate * 1e-12);
}

/* Measured (an H100, an H200): what it takes when it is opened, 64 MiB of it two workspaces of products; what kernels may take, cuBLASLt's among them:
 * they are loaded when they are first launched, in pages of 2 MiB, one for training, up to five where tokens are chosen and a quantised base has wide
 * matrices; cuDNN's handle, where it may be asked. What recordings may take. And of the host's memory that is page-locked the tables of its pages, 8 bytes
 * for 4096. A run holds what of that is not there yet (train/run.c). */
enum { OPENED_BYTES = 70 << 20, KERNEL_BYTES = 4 << 20, CHOOSING_BYTES = 4 << 20, WIDE = 4096, WIDE_BYTES = 6 << 20, CUDNN_BYTES = 8 << 20,
       LOCKED_PAGE = 4096, LOCKED_ENTRY = 8 };

static size_t own(const struct prog *p, size_t locked) {
    bool cudnn = false, chooses = false, wide = false;
    for (int i = 0; i < p->ni; i++) {
        const struct inst *x = &p->in[i];
        chooses |= x->op == &op_sample || x->op == &op_top;
        cudnn |= (x->op == &op_attention || x->op == &op_attention_bwd) && cuda_attention_by_cudnn(x, prog_v(p, x->in[0])->dt);
    }
    for (int v = 1; v < p->nv; v++) wide |= p->v[v].role == ROLE_BASE && p->v[v].nd == 2 && p->v[v].d[1] >= WIDE;
    const size_t page = cuda_mem.page, tables = (locked / LOCKED_PAGE * LOCKED_ENTRY + page - 1) / page * page;
    return OPENED_BYTES + KERNEL_BYTES + (chooses ? CHOOSING_BYTES + (wide ? WIDE_BYTES : 0) : 0) + (cudnn ? CUDNN_BYTES : 0) + tables + REPLAY_BYTES;
}

const struct backend backend_cuda = {.name = "cuda", .find = find, .scratch = scratch, .span = cuda_span, .begin_run = cuda_begin_run, .keeps = keeps, .keep = keep, .computes = true, .mem = &cuda_mem, .flat = &flat, .replay = &cuda_replay, .own = own, .compute = DT_BF16, .card = card, .describe = describe, .configure = configure, .open = cuda_open};
