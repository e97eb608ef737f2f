/* The card: one a process, one stream and one beside it. Its libraries are looked up when it is opened, so that the same program runs on a
 * machine without them: CUDA's runtime is linked in and looks for the driver itself; cuBLASLt and cuDNN are loaded by name (gemm.c, cudnn.c). */
#define _GNU_SOURCE
#include "cuda/device.h"
#include "cuda/cudnn.h"
#include "cuda/gemm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cudaStream_t cuda_stream;
struct cuda_keys *cuda_keys;
struct settings cuda_settings;
float *cuda_ones;
int cuda_sms = 132; /* until a card is open: a plan made without one is an H100's */
static bool opened;
static size_t at_first, after_opening; /* bytes free: when there was a context and nothing else, ... and what libraries work with */

/* Beside the stream: while it is open it stands in cuda_stream and the main one waits here. */
static struct { cudaStream_t stream, main; cudaEvent_t forked, done; bool pending; } beside;

/* What to do about the errors that a run may meet long after it began. Kernels fail in their own time: which one it was is known
 * only where each is waited for. */
static const char *advice(cudaError_t e) {
    switch (e) {
    case cudaErrorECCUncorrectable: return "its memory is faulty: have the card looked at, and resume elsewhere or after a restart";
    case cudaErrorDevicesUnavailable: return "another process holds it for itself: wait for that, or use device: cpu";
    case cudaErrorLaunchTimeout:
        return "the system stops long kernels on this card (it drives a display): use another, or shorter passes (pass_tokens)";
    default: return "please report it; with CUDA_LAUNCH_BLOCKING=1 in the environment the message names the op";
    }
}

err cuda_check(cudaError_t e, const char *what) {
    if (e == cudaSuccess) return OK;
    if (e == cudaErrorMemoryAllocation)
        return fail(E_MEMORY, "%s: the card has no room left (%s); another process may have taken it since the plan was made", what,
                    cudaGetErrorName(e));
    return fail(E_INTERNAL, "%s failed on the card: %s (%s); checkpoints that were saved before are whole. What to do: %s", what,
                cudaGetErrorString(e), cudaGetErrorName(e), advice(e));
}

/* The oldest card that the kernels are built for: bf16 on its matrix units. */
enum { OLDEST = 80 };

static err look(struct cuda_facts *f) {
    int n = 0;
    cudaError_t e = cudaDriverGetVersion(&f->driver_version);
    cudaRuntimeGetVersion(&f->runtime_version);
    f->driver = e == cudaSuccess && f->driver_version > 0;
    if (!f->driver) return fail(E_USAGE, "no NVIDIA driver was found (libcuda.so.1): install one, or use device: cpu");
    if (f->driver_version < f->runtime_version)
        return fail(E_USAGE, "the NVIDIA driver supports CUDA %d.%d, this program needs %d.%d: update the driver, or use device: cpu",
                    f->driver_version / 1000, f->driver_version % 1000 / 10, f->runtime_version / 1000, f->runtime_version % 1000 / 10);
    e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n < 1)
        return fail(E_USAGE, "no CUDA card was found (%s); use device: cpu", e ? cudaGetErrorString(e) : "none is visible");
    struct cudaDeviceProp p;
    TRY(cuda_check(cudaGetDeviceProperties(&p, 0), "asking for the card's properties"));
    snprintf(f->name, sizeof f->name, "%s", p.name);
    f->capability = 10 * p.major + p.minor;
    f->sms = p.multiProcessorCount;
    f->bytes = p.totalGlobalMem;
    if (f->capability < OLDEST)
        return fail(E_USAGE, "%s has compute capability %d.%d; the kernels need 8.0 (Ampere) or newer: use device: cpu", p.name, p.major,
                    p.minor);
    f->card = true;
    return OK;
}

/* The first to ask makes the driver's context. */
size_t cuda_free_bytes(void) {
    size_t bytes = 0, total;
    return cudaMemGetInfo(&bytes, &total) == cudaSuccess ? bytes : 0;
}

bool cuda_one_stream;
bool cuda_is_beside(void) { return beside.main != NULL; }

err cuda_beside_begin(void) {
    if (cuda_one_stream) return OK;
    TRY(cuda_check(cudaEventRecord(beside.forked, cuda_stream), "work beside the stream"));
    TRY(cuda_check(cudaStreamWaitEvent(beside.stream, beside.forked, 0), "work beside the stream"));
    beside.main = cuda_stream, cuda_stream = beside.stream, beside.pending = true;
    return OK;
}

err cuda_beside_end(void) {
    if (cuda_one_stream) return OK;
    cuda_stream = beside.main, beside.main = NULL;
    return cuda_check(cudaEventRecord(beside.done, beside.stream), "work beside the stream");
}

err cuda_beside_join(void) {
    if (!beside.pending) return OK;
    beside.pending = false;
    return cuda_check(cudaStreamWaitEvent(cuda_stream, beside.done, 0), "work beside the stream");
}

static err open_beside(void) {
    TRY(cuda_check(cudaStreamCreateWithFlags(&beside.stream, cudaStreamNonBlocking), "making a stream"));
    TRY(cuda_check(cudaEventCreateWithFlags(&beside.forked, cudaEventDisableTiming), "an event"));
    return cuda_check(cudaEventCreateWithFlags(&beside.done, cudaEventDisableTiming), "an event");
}

static err make_ones(void) {
    float *host = malloc(CUDA_ONES * sizeof *host);
    if (!host) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < CUDA_ONES; i++) host[i] = 1;
    err e = cuda_check(cudaMalloc((void **)&cuda_ones, CUDA_ONES * sizeof *host), "opening");
    if (!e) e = cuda_check(cudaMemcpy(cuda_ones, host, CUDA_ONES * sizeof *host, cudaMemcpyHostToDevice), "opening");
    free(host);
    return e;
}

err cuda_open(void) {
    if (opened) return OK;
    struct cuda_facts f = {0};
    TRY(look(&f));
    at_first = cuda_free_bytes();
    TRY(cuda_gemm_open());
    TRY(cuda_check(cudaSetDevice(0), "opening"));
    TRY(cuda_check(cudaStreamCreateWithFlags(&cuda_stream, cudaStreamNonBlocking), "making a stream"));
    TRY(open_beside());
    TRY(cuda_carry_open());
    TRY(cuda_check(cudaMalloc((void **)&cuda_keys, sizeof *cuda_keys), "a run's keys"));
    TRY(cuda_check(cudaMemsetAsync(cuda_keys, 0, sizeof *cuda_keys, cuda_stream), "a run's keys"));
    TRY(make_ones());
    cuda_sms = f.sms;
    after_opening = cuda_free_bytes();
    opened = true;
    return OK;
}

void cuda_facts(struct cuda_facts *f) {
    *f = (struct cuda_facts){0};
    err e = look(f);
    if (e) snprintf(f->why, sizeof f->why, "%s", err_text());
    if (!e) f->bytes_free = cuda_free_bytes();
    if (cuda_gemm_open()) {
        if (!e) snprintf(f->why, sizeof f->why, "%s", err_text());
    } else f->cublaslt = cuda_gemm_version();
    f->cudnn = cudnn_version();
}

/* --- memory ---------------------------------------------------------------------------------------------------------- */
static void *take(size_t bytes) {
    void *p = NULL;
    if (cudaMalloc(&p, bytes ? bytes : 1) != cudaSuccess) return cudaGetLastError(), NULL;
    if (cudaMemsetAsync(p, 0, bytes ? bytes : 1, cuda_stream) != cudaSuccess) return cudaFree(p), NULL;
    return p;
}

static void give(void *p, size_t bytes) {
    (void)bytes;
    if (p) cudaFree(p);
}

/* Pinned: copies to and from it run at the bus's speed, and need no buffer between. */
static void *take_host(size_t bytes) {
    void *p = NULL;
    if (cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocDefault) != cudaSuccess) return cudaGetLastError(), NULL;
    return memset(p, 0, bytes);
}

static void give_host(void *p, size_t bytes) {
    (void)bytes;
    if (p) cudaFreeHost(p);
}

static err upload(void *to, const void *from, size_t bytes) {
    return bytes ? cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda_stream), "a copy to the card") : OK;
}

static err download(void *to, const void *from, size_t bytes) {
    TRY(cuda_carry_join());
    if (bytes) TRY(cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_stream), "a copy from the card"));
    return cuda_check(cudaStreamSynchronize(cuda_stream), "work");
}

static err fill(void *p, int byte, size_t bytes) { return bytes ? cuda_check(cudaMemsetAsync(p, byte, bytes, cuda_stream), "filling memory") : OK; }

static size_t left(void) { return opened ? cuda_free_bytes() + at_first - after_opening : 0; }

static size_t taken(void) {
    const size_t now = opened ? cuda_free_bytes() : at_first;
    return at_first > now ? at_first - now : 0;
}

const struct mem_ops cuda_mem = {.host = false,
                                 .page = 2 << 20,
                                 .take = take,
                                 .give = give,
                                 .upload = upload,
                                 .download = download,
                                 .fill = fill,
                                 .left = left,
                                 .taken = taken,
                                 .take_host = take_host,
                                 .give_host = give_host,
                                 .set_out = cuda_set_out,
                                 .await = cuda_await_way};

/* --- measuring --------------------------------------------------------------------------------------------------------- */
/* Seconds a repetition of `what`, of many in a row. */
static err timed(err (*what)(void *), void *ctx, int reps, double *seconds) {
    cudaEvent_t a, b;
    float ms = 0;
    TRY(cuda_check(cudaEventCreate(&a), "an event"));
    TRY(cuda_check(cudaEventCreate(&b), "an event"));
    err e = what(ctx);
    cudaEventRecord(a, cuda_stream);
    for (int i = 0; i < reps && !e; i++) e = what(ctx);
    cudaEventRecord(b, cuda_stream);
    if (!e) e = cuda_check(cudaEventSynchronize(b), "measuring");
    cudaEventElapsedTime(&ms, a, b);
    *seconds = ms * 1e-3 / reps;
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    return e;
}

struct copy_of { char *p; size_t bytes; };
static err copy_once(void *ctx) {
    struct copy_of *c = ctx;
    return cuda_check(cudaMemcpyAsync(c->p, c->p + c->bytes, c->bytes, cudaMemcpyDeviceToDevice, cuda_stream), "a copy");
}
static err gemm_once(void *ctx) { return cuda_gemm(ctx); }

err cuda_measure(double *bandwidth, double *rate) {
    enum { SIDE = 8192 };
    TRY(cuda_open());
    struct copy_of c = {take((size_t)2 << 30), (size_t)1 << 30};
    if (!c.p) return fail(E_MEMORY, "measuring needs 2 GiB free on the card");
    double s;
    err e = timed(copy_once, &c, 20, &s);
    *bandwidth = 2.0 * (double)c.bytes / s;
    /* numbers, not zeros: products of zeros run faster than any real ones */
    if (!e) e = cuda_fill_random(c.p, (int64_t)2 * SIDE * SIDE);
    struct cuda_gemm g = {SIDE, SIDE, SIDE, c.p, c.p + (size_t)2 * SIDE * SIDE, c.p + (size_t)4 * SIDE * SIDE, SIDE, SIDE, SIDE, false, true, DT_BF16, DT_BF16, 1, 0};
    if (!e) e = timed(gemm_once, &g, 20, &s);
    *rate = 2.0 * SIDE * SIDE * SIDE / s;
    give(c.p, 0);
    return e;
}
