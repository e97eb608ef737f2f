/* See cudnn.h. cuDNN takes a computation as a graph of small operations and finds the engine that runs this pattern as one
 * kernel; its C interface sets attributes of descriptors (NVIDIA cuDNN documentation, "Backend API"). The two patterns here
 * are those of its scaled dot product attention, forward and backward, in the packed form: batches of S sequences with at
 * most L rows each, a tensor of lengths, and for each tensor the element at which each sequence begins ("ragged offsets").
 *
 * For Hopper (compute capability 9.0), cuDNN 9.10 or newer: since then -inf may stand where the mask is. Without its headers
 * at build time everything is refused. Refused as well: tensors of 2^31 elements (offsets are i32), rows off 16 bytes, plans
 * that want more workspace than the formula grants.
 *
 * A plan belongs to a shape; making one takes the host 50 ms, and a second for the first of its kind, whose kernel is compiled
 * then. So the caller rounds S and L up to few values, and every plan is kept, refusals too, as long as the process lives
 * (recorded runs point into their kernels). Nothing is made while a run is being recorded: its shape has been seen by then.
 *
 * Numerics: 16-bit operands, f32 sums; of grouped heads, dk and dv of each query head are rounded to 16 bits before they are
 * added up. dq is summed in order of arrival (atomics): not for deterministic runs. */
#define _GNU_SOURCE
#include "cuda/cudnn.h"
#if __has_include(<cudnn_graph.h>)
#include <cudnn_graph.h>
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PLANS = 256, OPS = 40, DESCRIPTORS = 128, CANDIDATES = 8 };

typedef cudnnBackendDescriptor_t desc;

#define FUNCTIONS(F)                                                                                                  \
    F(GetVersion) F(Create) F(SetStream) F(BackendCreateDescriptor) F(BackendDestroyDescriptor)                       \
    F(BackendSetAttribute) F(BackendGetAttribute) F(BackendFinalize) F(BackendExecute)
#define MEMBER(name) __typeof__(cudnn##name) *name;
static struct { FUNCTIONS(MEMBER) } nn;
#undef MEMBER

static cudnnHandle_t handle;
static void *library;

/* Names of tensors in a graph. Tensor t of enum cudnn_tensor is 1 + t, its offsets OFFSETS + t; what has no place in memory is
 * named from INNER on. */
enum { OFFSETS = 1 + CUDNN_TENSORS, ROWS_Q = 2 * CUDNN_TENSORS + 1, ROWS_K, SCALE, MASKED, ONE, DQ_SUM, DELTA, DK_HEADS, DV_HEADS, INNER };

static struct plan {
    struct cudnn_case shape;
    desc plan; /* NULL: refused */
} plans[PLANS];
static int n_plans;

/* --- the library ------------------------------------------------------------------------------------------------------ */
static bool load(void) {
    static bool tried;
    if (tried) return library != NULL;
    tried = true;
    library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    if (!library) return false;
#define RESOLVE(name) && (*(void **)&nn.name = dlsym(library, "cudnn" #name))
    if (true FUNCTIONS(RESOLVE)) return true;
#undef RESOLVE
    library = NULL;
    return false;
}

size_t cudnn_version(void) { return load() ? nn.GetVersion() : 0; }

/* A handle, where there is a card that these kernels are for. */
static bool ready(void) {
    static bool tried;
    if (tried) return handle != NULL;
    tried = true;
    int major = 0, minor = 0;
    cudaError_t e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    if (!e) e = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    if (e) return cudaGetLastError(), false;
    if (major != 9 || minor != 0 || !load() || nn.GetVersion() < CUDNN_OLDEST) return false;
    if (nn.Create(&handle) != CUDNN_STATUS_SUCCESS) handle = NULL;
    return handle != NULL;
}

/* --- descriptors -------------------------------------------------------------------------------------------------------- */
/* A graph under construction. The first failure stays in `bad`, and nothing is done after it. */
struct graph {
    const struct cudnn_case *c;
    cudnnDataType_t half; /* the 16-bit type */
    desc all[DESCRIPTORS], ops[OPS];
    int n, n_ops;
    int64_t inner;        /* the next name */
    desc rows_q, rows_k, scale, masked;
    bool bad;
};

static desc make(struct graph *g, cudnnBackendDescriptorType_t type) {
    desc d = NULL;
    if (g->bad || g->n == DESCRIPTORS || nn.BackendCreateDescriptor(type, &d) != CUDNN_STATUS_SUCCESS) return g->bad = true, NULL;
    return g->all[g->n++] = d;
}

static void set(struct graph *g, desc d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n, const void *value) {
    if (!g->bad) g->bad = nn.BackendSetAttribute(d, name, type, n, value) != CUDNN_STATUS_SUCCESS;
}

static void set_desc(struct graph *g, desc d, cudnnBackendAttributeName_t name, desc value) {
    if (value) set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void set_type(struct graph *g, desc d, cudnnBackendAttributeName_t name, cudnnDataType_t type) {
    set(g, d, name, CUDNN_TYPE_DATA_TYPE, 1, &type);
}

static desc finish(struct graph *g, desc d) {
    if (!g->bad) g->bad = nn.BackendFinalize(d) != CUDNN_STATUS_SUCCESS;
    return d;
}

static void operation(struct graph *g, desc d) {
    finish(g, d);
    if (g->n_ops == OPS) g->bad = true;
    else g->ops[g->n_ops++] = d;
}

static void drop(struct graph *g) {
    while (g->n > 0) nn.BackendDestroyDescriptor(g->all[--g->n]);
}

/* name 0: lives in registers only */
struct tensor {
    int64_t name;
    cudnnDataType_t type;
    int64_t d[4], stride[4];
    desc offsets;
    bool by_value; /* its pointer is the host's */
};

static desc tensor(struct graph *g, struct tensor t) {
    desc d = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    bool is_virtual = !t.name;
    int64_t name = t.name ? t.name : g->inner++, align = 16;
    set_type(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, t.type);
    set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, t.d);
    set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, t.stride);
    set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &name);
    set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    set(g, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &t.by_value);
    set_desc(g, d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, t.offsets);
    return finish(g, d);
}

static desc scalar(struct graph *g, int64_t name) {
    return tensor(g, (struct tensor){.name = name, .type = CUDNN_DATA_FLOAT, .d = {1, 1, 1, 1}, .stride = {1, 1, 1, 1}, .by_value = true});
}

static desc ints(struct graph *g, int64_t name, int64_t n) {
    return tensor(g, (struct tensor){.name = name, .type = CUDNN_DATA_INT32, .d = {n, 1, 1, 1}, .stride = {1, 1, 1, 1}});
}

/* Tensor t in memory; columns: of a head. */
static struct tensor packed(struct graph *g, enum cudnn_tensor t, int64_t heads, int64_t columns) {
    int64_t ld = g->c->ld[t], L = g->c->longest;
    return (struct tensor){.name = 1 + t, .type = g->half, .d = {g->c->sequences, heads, L, columns}, .stride = {L * ld, columns, ld, 1},
                           .offsets = ints(g, OFFSETS + t, g->c->sequences + 1)};
}

static void swap(int64_t x[4]) {
    int64_t last = x[3];
    x[3] = x[2], x[2] = last;
}
static struct tensor transposed(struct tensor t) { return swap(t.d), swap(t.stride), t; }

/* Without a place: scores [S, H, L, L], numbers of rows [S, H, L, 1]. */
static desc scores(struct graph *g, cudnnDataType_t type) {
    int64_t H = g->c->heads, L = g->c->longest;
    return tensor(g, (struct tensor){.type = type, .d = {g->c->sequences, H, L, L}, .stride = {H * L * L, L * L, L, 1}});
}
static struct tensor row_numbers(struct graph *g) {
    int64_t H = g->c->heads, L = g->c->longest;
    return (struct tensor){.type = CUDNN_DATA_FLOAT, .d = {g->c->sequences, H, L, 1}, .stride = {H * L, L, 1, 1}};
}

/* --- operations; each returns its result ------------------------------------------------------------------------------ */
struct point {
    cudnnPointwiseMode_t mode;
    cudnnDataType_t math;
    desc x, b, t; /* t: the condition of a choice */
    int64_t axis; /* of an index */
};

static desc point(struct graph *g, struct point p, desc y) {
    desc how = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &p.mode);
    set_type(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, p.math);
    if (p.mode == CUDNN_POINTWISE_GEN_INDEX) set(g, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &p.axis);
    finish(g, how);
    desc op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, p.x);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, p.b);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, p.t);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    return operation(g, op), y;
}

static desc apply(struct graph *g, cudnnPointwiseMode_t mode, desc x, desc b, desc y) {
    return point(g, (struct point){mode, CUDNN_DATA_FLOAT, x, b, NULL, 0}, y);
}
static desc on_scores(struct graph *g, cudnnPointwiseMode_t mode, desc x, desc b) { return apply(g, mode, x, b, scores(g, CUDNN_DATA_FLOAT)); }

/* y = a b; which of its sizes are those of the sequence at hand */
struct product { desc a, b, m, n, k; };

static desc product(struct graph *g, struct product p, desc y) {
    desc how = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set_type(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
    finish(g, how);
    desc op = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, p.a);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, p.b);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, p.m);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, p.n);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, p.k);
    return operation(g, op), y;
}

static desc reduce(struct graph *g, cudnnReduceTensorOp_t how_to, desc x, desc y) {
    desc how = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &how_to);
    set_type(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    finish(g, how);
    desc op = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    return operation(g, op), y;
}

static desc reshape(struct graph *g, desc x, desc y) {
    desc op = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    return operation(g, op), y;
}

static desc index_of(struct graph *g, desc x, int64_t axis) {
    return point(g, (struct point){CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, x, NULL, NULL, axis}, scores(g, CUDNN_DATA_INT32));
}
static desc compare(struct graph *g, cudnnPointwiseMode_t mode, desc x, desc b) {
    return point(g, (struct point){mode, CUDNN_DATA_BOOLEAN, x, b, NULL, 0}, scores(g, CUDNN_DATA_BOOLEAN));
}
static desc choose(struct graph *g, desc x, desc condition) {
    return point(g, (struct point){CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, x, g->masked, condition, 0}, scores(g, CUDNN_DATA_FLOAT));
}

/* -inf beyond the sequence's rows, and in the future. */
static desc mask(struct graph *g, desc s) {
    desc row = index_of(g, s, 2), column = index_of(g, s, 3);
    desc in_rows = compare(g, CUDNN_POINTWISE_CMP_LT, row, g->rows_q), in_columns = compare(g, CUDNN_POINTWISE_CMP_LT, column, g->rows_k);
    s = choose(g, s, compare(g, CUDNN_POINTWISE_LOGICAL_AND, in_rows, in_columns));
    if (!g->c->causal) return s;
    row = index_of(g, s, 2), column = index_of(g, s, 3);
    return choose(g, s, compare(g, CUDNN_POINTWISE_CMP_GE, row, column));
}

/* --- the two graphs ------------------------------------------------------------------------------------------------------ */
static struct tensor lse_of(struct graph *g) {
    struct tensor t = packed(g, CUDNN_LSE, g->c->heads, 1);
    t.type = CUDNN_DATA_FLOAT;
    return t;
}

static void forward(struct graph *g) {
    const struct cudnn_case *c = g->c;
    desc q = tensor(g, packed(g, CUDNN_Q, c->heads, c->head_dim)), kt = tensor(g, transposed(packed(g, CUDNN_K, c->kv_heads, c->head_dim)));
    desc v = tensor(g, packed(g, CUDNN_V, c->kv_heads, c->head_dim)), o = tensor(g, packed(g, CUDNN_O, c->heads, c->head_dim));
    desc lse = tensor(g, lse_of(g));
    desc s = product(g, (struct product){q, kt, g->rows_q, g->rows_k, NULL}, scores(g, CUDNN_DATA_FLOAT));
    s = mask(g, on_scores(g, CUDNN_POINTWISE_MUL, s, g->scale));
    desc top = reduce(g, CUDNN_REDUCE_TENSOR_MAX, s, tensor(g, row_numbers(g)));
    desc e = on_scores(g, CUDNN_POINTWISE_EXP, on_scores(g, CUDNN_POINTWISE_SUB, s, top), NULL);
    desc sum = reduce(g, CUDNN_REDUCE_TENSOR_ADD, e, tensor(g, row_numbers(g)));
    apply(g, CUDNN_POINTWISE_ADD, top, apply(g, CUDNN_POINTWISE_LOG, sum, NULL, tensor(g, row_numbers(g))), lse);
    desc p = apply(g, CUDNN_POINTWISE_DIV, e, sum, scores(g, g->half));
    product(g, (struct product){p, v, g->rows_q, NULL, g->rows_k}, o);
}

/* Of grouped heads, dk or dv of every query head: dk's rows, as often as there are heads in a group. The engine multiplies
 * dk's offsets by that number itself. */
static struct tensor each_head(struct graph *g, struct tensor kv, int64_t name) {
    int64_t group = g->c->heads / g->c->kv_heads;
    kv.name = name, kv.d[1] = g->c->heads;
    kv.stride[0] *= group, kv.stride[2] *= group;
    return kv;
}

/* w: scores [S, H, L, L] with a side of 16 bits; out += w^T x, added over the heads of a group */
static void of_keys(struct graph *g, desc w, desc x, enum cudnn_tensor out, int64_t each) {
    const struct cudnn_case *c = g->c;
    struct tensor wt = {.type = g->half, .d = {c->sequences, c->heads, c->longest, c->longest}};
    int64_t L = c->longest, stride[4] = {c->heads * L * L, L * L, 1, L};
    memcpy(wt.stride, stride, sizeof stride);
    desc t = reshape(g, w, tensor(g, wt));
    struct tensor sum = packed(g, out, c->kv_heads, c->head_dim);
    struct product p = {t, x, g->rows_k, NULL, g->rows_q};
    if (c->heads == c->kv_heads) product(g, p, tensor(g, sum));
    else reduce(g, CUDNN_REDUCE_TENSOR_ADD, product(g, p, tensor(g, each_head(g, sum, each))), tensor(g, sum));
}

/* delta = rowsum(do o), times 1: the pattern has a factor here, for dropout. */
static desc delta_of(struct graph *g, desc go, struct tensor lse) {
    const struct cudnn_case *c = g->c;
    int64_t H = c->heads, L = c->longest, D = c->head_dim;
    desc o = tensor(g, packed(g, CUDNN_O, H, D)), one = scalar(g, ONE);
    struct tensor products = {.type = CUDNN_DATA_FLOAT, .d = {c->sequences, H, L, D}, .stride = {H * L * D, L * D, H * D, 1}};
    desc both = apply(g, CUDNN_POINTWISE_MUL, go, o, tensor(g, products));
    desc sum = reduce(g, CUDNN_REDUCE_TENSOR_ADD, both, tensor(g, row_numbers(g)));
    lse.name = DELTA;
    return apply(g, CUDNN_POINTWISE_MUL, sum, one, tensor(g, lse));
}

static void backward(struct graph *g) {
    const struct cudnn_case *c = g->c;
    int64_t H = c->heads, K = c->kv_heads, D = c->head_dim;
    struct tensor k = packed(g, CUDNN_K, K, D), lse = lse_of(g), sum = packed(g, CUDNN_DQ, H, D), k_again = k;
    desc q = tensor(g, packed(g, CUDNN_Q, H, D)), kt = tensor(g, transposed(k)), vt = tensor(g, transposed(packed(g, CUDNN_V, K, D)));
    desc go = tensor(g, packed(g, CUDNN_DO, H, D)), delta = delta_of(g, go, lse);
    desc s = product(g, (struct product){q, kt, g->rows_q, g->rows_k, NULL}, scores(g, CUDNN_DATA_FLOAT));
    s = on_scores(g, CUDNN_POINTWISE_SUB, on_scores(g, CUDNN_POINTWISE_MUL, s, g->scale), tensor(g, lse));
    desc p = on_scores(g, CUDNN_POINTWISE_EXP, mask(g, s), NULL);
    of_keys(g, p, go, CUDNN_DV, DV_HEADS);
    desc dp = product(g, (struct product){go, vt, g->rows_q, g->rows_k, NULL}, scores(g, CUDNN_DATA_FLOAT));
    dp = on_scores(g, CUDNN_POINTWISE_MUL, on_scores(g, CUDNN_POINTWISE_SUB, dp, delta), p);
    desc ds = on_scores(g, CUDNN_POINTWISE_MUL, dp, g->scale);
    of_keys(g, ds, q, CUDNN_DK, DK_HEADS);
    k_again.name = 0;
    struct tensor dq = sum;
    sum.name = DQ_SUM, sum.type = CUDNN_DATA_FLOAT;
    desc in_f32 = product(g, (struct product){ds, reshape(g, kt, tensor(g, k_again)), g->rows_q, NULL, g->rows_k}, tensor(g, sum));
    apply(g, CUDNN_POINTWISE_IDENTITY, in_f32, NULL, tensor(g, dq));
}

/* --- memory --------------------------------------------------------------------------------------------------------------- */
int cudnn_rung(int64_t n, int steps) {
    int64_t step = 1;
    while (step * 2 * steps <= n) step *= 2;
    return (int)((n + step - 1) / step * step);
}

int64_t cudnn_row(int sequences) { return ((int64_t)sequences + 1 + 3) / 4 * 4; }

/* What a plan may ask for beside the tensors. cuDNN 9.19 asks for 17 KB forward, half a KB a sequence backward. */
static size_t workspace_of(const struct cudnn_case *c) { return ((size_t)1 << 20) + (size_t)c->sequences * 1024; }

/* Where in the scratch what lies: bytes from its beginning. */
struct layout { size_t dq, delta, dk, dv, workspace, end; };

static size_t up(size_t n) { return (n + 255) / 256 * 256; }

static struct layout layout_of(const struct cudnn_case *c, int64_t tokens) {
    struct layout l = {0};
    size_t at = up((size_t)cudnn_row(c->sequences) * (1 + CUDNN_TENSORS) * 4), n = (size_t)tokens;
    if (c->backward) {
        size_t group = c->heads == c->kv_heads ? 0 : (size_t)(c->heads / c->kv_heads);
        l.dq = at, at += up(n * (size_t)c->ld[CUDNN_DQ] * 4);
        l.delta = at, at += up(n * (size_t)c->ld[CUDNN_LSE] * 4);
        l.dk = at, at += up(n * (size_t)c->ld[CUDNN_DK] * group * 2);
        l.dv = at, at += up(n * (size_t)c->ld[CUDNN_DV] * group * 2);
    }
    l.workspace = at;
    l.end = at + workspace_of(c);
    return l;
}

size_t cudnn_scratch(const struct cudnn_case *c, int64_t tokens) {
    int cards = 0;
    bool none = cudaGetDeviceCount(&cards) != cudaSuccess || !cards;
    return none || ready() ? layout_of(c, tokens).end : 0;
}

/* --- plans ---------------------------------------------------------------------------------------------------------------- */
static desc graph_of(struct graph *g) {
    desc d = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(g, d, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    set(g, d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_ops, g->ops);
    return finish(g, d);
}

static desc heuristics(struct graph *g) {
    desc d = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    set_desc(g, d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph_of(g));
    set(g, d, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    return finish(g, d);
}

/* The plan of one proposal, or NULL: its engine does not take the graph, or wants too much workspace. */
static desc plan_of(const struct graph *g, desc engine) {
    desc d;
    int64_t got, bytes = 0;
    if (nn.BackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &d) != CUDNN_STATUS_SUCCESS) return NULL;
    cudnnStatus_t s = nn.BackendSetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    if (!s) s = nn.BackendSetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine);
    if (!s) s = nn.BackendFinalize(d);
    if (!s) s = nn.BackendGetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &got, &bytes);
    if (!s && bytes <= (int64_t)workspace_of(g->c)) return d;
    return nn.BackendDestroyDescriptor(d), NULL;
}

/* The first proposal that works out; they come best first. */
static desc plan_graph(struct graph *g) {
    desc from = heuristics(g), found[CANDIDATES], plan = NULL;
    int64_t n = 0;
    for (int i = 0; i < CANDIDATES; i++) found[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (g->bad) return NULL;
    cudnnStatus_t s = nn.BackendGetAttribute(from, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, CANDIDATES, &n, found);
    for (int64_t i = 0; !s && i < n && i < CANDIDATES && !plan; i++) plan = plan_of(g, found[i]);
    return plan;
}

static void make_plan(struct plan *out) {
    struct graph *g = calloc(1, sizeof *g);
    if (!g) return;
    g->c = &out->shape, g->half = out->shape.dt == DT_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF, g->inner = INNER;
    g->rows_q = ints(g, ROWS_Q, out->shape.sequences), g->rows_k = ints(g, ROWS_K, out->shape.sequences);
    g->scale = scalar(g, SCALE), g->masked = scalar(g, MASKED);
    if (out->shape.backward) backward(g);
    else forward(g);
    out->plan = plan_graph(g);
    drop(g);
    free(g);
}

static struct plan *find(const struct cudnn_case *c) {
    for (int i = 0; i < n_plans; i++)
        if (!memcmp(&plans[i].shape, c, sizeof *c)) return &plans[i];
    return NULL;
}

/* --- running -------------------------------------------------------------------------------------------------------------- */
static bool recording(void) {
    enum cudaStreamCaptureStatus s = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(cuda_stream, &s) == cudaSuccess && s != cudaStreamCaptureStatusNone;
}

static int tensors_of(const struct cudnn_case *c) { return c->backward ? CUDNN_TENSORS : CUDNN_LSE + 1; }

static bool fits(const struct cudnn_call *call) {
    const struct cudnn_case *c = &call->shape;
    for (int t = 0; t < tensors_of(c); t++) {
        int64_t group = t == CUDNN_DK || t == CUDNN_DV ? c->heads / c->kv_heads : 1;
        if ((call->tokens + c->longest) * c->ld[t] * group > INT32_MAX || (uintptr_t)call->tensor[t] % 16) return false;
        if (t != CUDNN_LSE && c->ld[t] % 8) return false;
    }
    return true;
}

bool cudnn_takes(const struct cudnn_call *call) {
    if (cuda_settings.deterministic || !ready() || !fits(call)) return false;
    struct plan *p = find(&call->shape);
    if (!p && n_plans < PLANS && !recording()) {
        p = &plans[n_plans++];
        p->shape = call->shape;
        make_plan(p);
    }
    return p && p->plan;
}

/* The tensors of a call by name. */
struct pack {
    int64_t name[INNER];
    void *at[INNER];
    int n;
};
static void put(struct pack *p, int64_t name, void *at) {
    p->name[p->n] = name;
    p->at[p->n++] = at;
}

static void fill(struct pack *p, const struct cudnn_call *call, float *numbers) {
    const struct cudnn_case *c = &call->shape;
    struct layout l = layout_of(c, call->tokens);
    char *scratch = call->scratch;
    int32_t *table = call->scratch;
    put(p, ROWS_Q, table), put(p, ROWS_K, table);
    for (int t = 0; t < tensors_of(c); t++) {
        put(p, 1 + t, call->tensor[t]);
        put(p, OFFSETS + t, table + (1 + t) * cudnn_row(c->sequences));
    }
    put(p, SCALE, &numbers[0]), put(p, MASKED, &numbers[1]);
    if (!c->backward) return;
    put(p, ONE, &numbers[2]), put(p, DQ_SUM, scratch + l.dq), put(p, DELTA, scratch + l.delta);
    if (c->heads != c->kv_heads) put(p, DK_HEADS, scratch + l.dk), put(p, DV_HEADS, scratch + l.dv);
}

err cudnn_attention(const struct cudnn_call *call) {
    const struct plan *plan = find(&call->shape);
    float numbers[3] = {call->scale, -INFINITY, 1};
    void *workspace = (char *)call->scratch + layout_of(&call->shape, call->tokens).workspace;
    struct pack pack = {.n = 0};
    desc d;
    if (!plan || !plan->plan) return fail(E_INTERNAL, "attention: no cuDNN plan");
    fill(&pack, call, numbers);
    cudnnStatus_t s = nn.SetStream(handle, cuda_stream);
    if (!s) s = nn.BackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &d);
    if (s) return fail(E_INTERNAL, "attention failed in cuDNN (status %d)", (int)s);
    s = nn.BackendSetAttribute(d, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, pack.n, pack.name);
    if (!s) s = nn.BackendSetAttribute(d, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pack.n, pack.at);
    if (!s) s = nn.BackendSetAttribute(d, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (!s) s = nn.BackendFinalize(d);
    if (!s) s = nn.BackendExecute(handle, plan->plan, d);
    nn.BackendDestroyDescriptor(d);
    return s ? fail(E_INTERNAL, "attention failed in cuDNN (status %d)", (int)s) : OK;
}

#else /* built without its headers */
size_t cudnn_version(void) { return 0; }
int cudnn_rung(int64_t n, int steps) { return (void)steps, (int)n; }
int64_t cudnn_row(int sequences) { return sequences + 1; }
size_t cudnn_scratch(const struct cudnn_case *c, int64_t tokens) { return (void)c, (void)tokens, 0; }
bool cudnn_takes(const struct cudnn_call *call) { return (void)call, false; }
err cudnn_attention(const struct cudnn_call *call) { return (void)call, fail(E_INTERNAL, "attention: no cuDNN plan"); }
#endif
