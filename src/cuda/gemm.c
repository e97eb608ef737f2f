/* See gemm.h. cuBLASLt is loaded by name; its types come from its header at build time.
 *
 * cuBLASLt is column-major: a row-major C = op(A) op(B) is its C' = op(B)' op(A)', the same bytes with the operands
 * exchanged. For each shape its heuristics propose algorithms; large products try the first few on the real operands and
 * keep the fastest (a proposal can be 20 % off the best), others take the first.
 *
 * fp8 on Hopper takes both operands with K innermost and no other way. Scales are vectors, one number a row of C and one a
 * column, applied to the f32 sums: CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, of both operands or of none, compute
 * capability 9.0 and cuBLASLt 12.9 on (its manual, "Outer Vector Scaling for FP8"). Their addresses are set before each run.
 * Version 13.1 proposes one algorithm a shape. */
#define _GNU_SOURCE
#include "cuda/gemm.h"
#include <cublasLt.h>
#include <dlfcn.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE = 32 << 20, TRIES = 8, SLOTS = 4096 };

#define FUNCTIONS(F)                                                                                                  \
    F(Create) F(GetVersion) F(GetStatusString) F(MatmulDescCreate) F(MatmulDescDestroy) F(MatmulDescSetAttribute)     \
    F(MatrixLayoutCreate) F(MatrixLayoutDestroy) F(MatmulPreferenceCreate) F(MatmulPreferenceDestroy)                 \
    F(MatmulPreferenceSetAttribute) F(MatmulAlgoGetHeuristic) F(Matmul)
#define MEMBER(name) __typeof__(cublasLt##name) *name;
static struct { FUNCTIONS(MEMBER) } lt;
#undef MEMBER

static cublasLtHandle_t handle;
static void *workspace[2], *library; /* the second: of products beside the stream */

/* A product of either kind. */
struct product {
    const struct cuda_gemm *g;
    cudaDataType_t in;              /* of A and B */
    const float *scale_a, *scale_b; /* [M], [N] in fp8, else NULL */
};
/* Everything that the choice of an algorithm depends on; zeroed before it is filled, compared as bytes. */
struct shape {
    int64_t m, n, k, lda, ldb, ldc;
    int ta, tb, in, out, adds, tf32, align_a, align_b, align_c;
};
struct entry {
    struct shape shape;
    bool used;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
};
static struct entry *table; /* open addressing */
static int used;

static err status(cublasStatus_t s, const char *what) {
    return s == CUBLAS_STATUS_SUCCESS ? OK : fail(E_INTERNAL, "%s failed in cuBLASLt: %s", what, lt.GetStatusString(s));
}

static err load(void) {
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    for (size_t i = 0; i < sizeof names / sizeof *names && !library; i++) library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return fail(E_USAGE,
                    "cuBLASLt was not found (%s): install the package libcublas of CUDA 13 (or set LD_LIBRARY_PATH), or use device: cpu",
                    dlerror());
#define RESOLVE(name)                                                                                                                      \
    if (!(*(void **)&lt.name = dlsym(library, "cublasLt" #name)))                                                                          \
        return fail(E_USAGE, "the cuBLASLt that was found has no cublasLt" #name ": it is too old");
    FUNCTIONS(RESOLVE)
#undef RESOLVE
    return OK;
}

err cuda_gemm_open(void) {
    if (handle) return OK;
    if (!library) TRY(load());
    int cards;
    if (cudaGetDeviceCount(&cards) != cudaSuccess) return OK; /* doctor: the version can be told without a card */
    table = calloc(SLOTS, sizeof *table);
    if (!table) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < 2; i++) TRY(cuda_check(cudaMalloc(&workspace[i], WORKSPACE), "cuBLASLt's workspace"));
    return status(lt.Create(&handle), "opening");
}

size_t cuda_gemm_version(void) { return library ? lt.GetVersion() : 0; }

static cudaDataType_t type_of(dtype dt) { return dt == DT_F32 ? CUDA_R_32F : dt == DT_BF16 ? CUDA_R_16BF : CUDA_R_16F; }

/* The largest power of two up to 256 that divides an address. */
static int alignment(const void *p) {
    uintptr_t u = (uintptr_t)p | 256;
    return (int)(u & -u);
}

static struct shape shape_of(const struct product *p) {
    const struct cuda_gemm *g = p->g;
    struct shape s;
    memset(&s, 0, sizeof s);
    s.m = g->m, s.n = g->n, s.k = g->k, s.lda = g->lda, s.ldb = g->ldb, s.ldc = g->ldc;
    s.ta = g->ta, s.tb = g->tb, s.in = (int)p->in, s.out = (int)g->out, s.adds = g->beta != 0, s.tf32 = p->in == CUDA_R_32F && cuda_settings.tf32;
    s.align_a = alignment(g->a), s.align_b = alignment(g->b), s.align_c = alignment(g->c);
    return s;
}

static struct entry *slot_of(const struct shape *s) {
    uint64_t h = 1469598103934665603ull;
    for (size_t i = 0; i < sizeof *s; i++) h = (h ^ ((const unsigned char *)s)[i]) * 1099511628211ull;
    size_t i = h % SLOTS;
    while (table[i].used && memcmp(&table[i].shape, s, sizeof *s)) i = (i + 1) % SLOTS;
    return &table[i];
}

static err set(const struct entry *e, cublasLtMatmulDescAttributes_t what, const void *value, size_t bytes) {
    return status(lt.MatmulDescSetAttribute(e->op, what, value, bytes), "a descriptor");
}

static err point_at_scales(const struct entry *e, const struct product *p) {
    TRY(set(e, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p->scale_b, sizeof p->scale_b));
    return set(e, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p->scale_a, sizeof p->scale_a);
}

static err run(const struct entry *e, const struct product *p, const cublasLtMatmulAlgo_t *algo) {
    const struct cuda_gemm *g = p->g;
    if (p->scale_a) TRY(point_at_scales(e, p));
    return status(lt.Matmul(handle, e->op, &g->alpha, g->b, e->a, g->a, e->b, &g->beta, g->c, e->c, g->c, e->c, algo,
                            workspace[cuda_is_beside()], WORKSPACE, cuda_stream),
                  "a product");
}

/* Milliseconds of one run, the best of three. */
static float time_of(const struct entry *e, const struct product *p, const cublasLtMatmulAlgo_t *algo, cudaEvent_t a, cudaEvent_t b) {
    float best = 1e30f, ms;
    for (int i = 0; i < 4; i++) {
        cudaEventRecord(a, cuda_stream);
        if (run(e, p, algo)) return 1e30f;
        cudaEventRecord(b, cuda_stream);
        if (cudaEventSynchronize(b) != cudaSuccess || cudaEventElapsedTime(&ms, a, b) != cudaSuccess) return 1e30f;
        if (i && ms < best) best = ms;
    }
    return best;
}

static err choose(struct entry *e, const struct product *p) {
    const struct cuda_gemm *g = p->g;
    cublasLtMatmulPreference_t pref;
    cublasLtMatmulHeuristicResult_t found[TRIES];
    size_t bytes = WORKSPACE;
    uint32_t align[3] = {(uint32_t)e->shape.align_b, (uint32_t)e->shape.align_a, (uint32_t)e->shape.align_c};
    int n = 0;
    TRY(status(lt.MatmulPreferenceCreate(&pref), "a preference"));
    lt.MatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    lt.MatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align[0], sizeof *align);
    lt.MatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align[1], sizeof *align);
    lt.MatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align[2], sizeof *align);
    lt.MatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align[2], sizeof *align);
    err r = status(lt.MatmulAlgoGetHeuristic(handle, e->op, e->a, e->b, e->c, e->c, pref, TRIES, found, &n), "choosing an algorithm");
    lt.MatmulPreferenceDestroy(pref);
    if (!r && n < 1)
        r = fail(E_INTERNAL, "cuBLASLt has no algorithm for a product of %lld x %lld x %lld", (long long)g->m, (long long)g->n,
                 (long long)g->k);
    if (r) return r;
    e->algo = found[0].algo;
    if (n == 1 || (g->beta != 0 && g->beta != 1) || cuda_settings.deterministic || (double)g->m * (double)g->n * (double)g->k < 1e9) return OK;
    struct cuda_gemm same = *g; /* C + 1e-38 A B is C, but where C is next to nothing */
    struct product trial = *p;
    if (g->beta != 0) same.alpha = FLT_MIN;
    trial.g = &same;
    cudaEvent_t a, b;
    TRY(cuda_check(cudaEventCreate(&a), "an event"));
    TRY(cuda_check(cudaEventCreate(&b), "an event"));
    float best = 1e30f;
    for (int i = 0; i < n; i++) {
        float ms = time_of(e, &trial, &found[i].algo, a, b);
        if (ms < best) best = ms, e->algo = found[i].algo;
    }
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    return OK;
}

/* fp8: vectors of scales, and partial sums that stay in the tensor cores' short accumulators: 5 to 25 % faster at 8B's shapes;
 * it adds a relative error of 1.3e-3 (K = 4096) or 2.9e-3 (14336) to the 3.7e-2 of the operands' rounding. */
static err scaled(const struct entry *e, const struct product *p) {
    int32_t vectors = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    int8_t fast = 1;
    TRY(set(e, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &vectors, sizeof vectors));
    TRY(set(e, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &vectors, sizeof vectors));
    TRY(set(e, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast));
    return point_at_scales(e, p);
}

static err prepare(struct entry *e, const struct shape *s, const struct product *p) {
    const struct cuda_gemm *g = p->g;
    cublasOperation_t T = CUBLAS_OP_T, N = CUBLAS_OP_N;
    *e = (struct entry){.shape = *s};
    TRY(status(lt.MatmulDescCreate(&e->op, e->shape.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F), "a descriptor"));
    TRY(set(e, CUBLASLT_MATMUL_DESC_TRANSA, g->tb ? &T : &N, sizeof N));
    TRY(set(e, CUBLASLT_MATMUL_DESC_TRANSB, g->ta ? &T : &N, sizeof N));
    if (p->scale_a) TRY(scaled(e, p));
    uint64_t n = (uint64_t)g->n, m = (uint64_t)g->m, k = (uint64_t)g->k;
    TRY(status(lt.MatrixLayoutCreate(&e->a, p->in, g->tb ? k : n, g->tb ? n : k, g->ldb), "a layout"));
    TRY(status(lt.MatrixLayoutCreate(&e->b, p->in, g->ta ? m : k, g->ta ? k : m, g->lda), "a layout"));
    TRY(status(lt.MatrixLayoutCreate(&e->c, type_of(g->out), n, m, g->ldc), "a layout"));
    TRY(choose(e, p));
    e->used = true;
    used++;
    return OK;
}

static void drop_all(void) {
    for (int i = 0; i < SLOTS; i++) {
        struct entry *e = &table[i];
        if (!e->used) continue;
        lt.MatmulDescDestroy(e->op);
        lt.MatrixLayoutDestroy(e->a);
        lt.MatrixLayoutDestroy(e->b);
        lt.MatrixLayoutDestroy(e->c);
        *e = (struct entry){.used = false};
    }
    used = 0;
}

static err multiply(const struct product *p) {
    const struct cuda_gemm *g = p->g;
    if (!g->m || !g->n || !g->k) return OK;
    struct shape s = shape_of(p);
    struct entry *e = slot_of(&s);
    if (!e->used) {
        if (used > SLOTS / 2) { /* ragged batches bring ever new sizes */
            drop_all();
            e = slot_of(&s);
        }
        TRY(prepare(e, &s, p));
    }
    return run(e, p, &e->algo);
}

err cuda_gemm(const struct cuda_gemm *g) {
    return multiply(&(struct product){.g = g, .in = type_of(g->in)});
}

err cuda_fp8_gemm(const struct cuda_fp8_gemm *f) {
    struct cuda_gemm g = {f->m, f->n, f->k, f->a, f->b, f->c, f->k, f->ldb, f->ldc, false, true, DT_NONE, f->out, 1, f->adds ? 1 : 0};
    return multiply(&(struct product){&g, CUDA_R_8F_E4M3, f->scale_a, f->scale_b});
}
