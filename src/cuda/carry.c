/* Activations on their way to the host and back (ops/stash.c), on a stream of their own, so that the card's copy engines work beside
 * its multiprocessors.
 *
 * Each copy begins behind everything that was launched before it: what it reads has been made, and what lay before where it writes has
 * been read. await makes the stream wait for the last copy that began; the programs keep one on its way at a time (core/grad.c awaits
 * what came back before the next sets out). The stream is not the one for work beside (device.c): products there would queue behind a
 * copy of milliseconds. Forks and joins are events, so recorded runs (replay.c) hold them too, those that may fork. The host's side is page-locked
 * (mem_ops.take_host): from other memory the driver copies by way of a buffer, and the launching thread waits. */
#include "cuda/cuda.h"

static struct {
    cudaStream_t stream;
    cudaEvent_t begun, done;
    bool pending;
} carry;

err cuda_carry_open(void) {
    TRY(cuda_check(cudaStreamCreateWithFlags(&carry.stream, cudaStreamNonBlocking), "making a stream"));
    TRY(cuda_check(cudaEventCreateWithFlags(&carry.begun, cudaEventDisableTiming), "an event"));
    return cuda_check(cudaEventCreateWithFlags(&carry.done, cudaEventDisableTiming), "an event");
}

static err copy_rows(const struct view *from, const struct view *to, cudaStream_t stream, const char *what) {
    const size_t row = dtype_row_bytes(from->dt, from->d[1]), from_ld = dtype_row_bytes(from->dt, from->ld),
                 to_ld = dtype_row_bytes(to->dt, to->ld);
    const size_t rows = (size_t)from->d[0];
    const bool dense = from_ld == row && to_ld == row;
    if (!rows) return OK;
    return cuda_check(dense ? cudaMemcpyAsync(to->p, from->p, rows * row, cudaMemcpyDefault, stream)
                            : cudaMemcpy2DAsync(to->p, to_ld, from->p, from_ld, row, rows, cudaMemcpyDefault, stream),
                      what);
}

static err begin_copy(const struct view *from, const struct view *to, const char *what) {
    if (cuda_one_stream) return copy_rows(from, to, cuda_stream, what);
    TRY(cuda_check(cudaEventRecord(carry.begun, cuda_stream), what));
    TRY(cuda_check(cudaStreamWaitEvent(carry.stream, carry.begun, 0), what));
    TRY(copy_rows(from, to, carry.stream, what));
    carry.pending = true;
    return cuda_check(cudaEventRecord(carry.done, carry.stream), what);
}

err cuda_carry_join(void) {
    if (!carry.pending) return OK;
    carry.pending = false;
    return cuda_check(cudaStreamWaitEvent(cuda_stream, carry.done, 0), "a copy to or from the host");
}

err cuda_stash(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    return begin_copy(&in[0], &out[0], "a copy to the host");
}

err cuda_fetch(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    return begin_copy(&in[0], &out[0], "a copy from the host");
}

/* In place as a rule (core/plan.c). */
err cuda_await(const struct run_ctx *run, const struct inst *i, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)i, (void)scratch;
    TRY(cuda_carry_join());
    return in[0].p == out[0].p ? OK : copy_rows(&in[0], &out[0], cuda_stream, "a copy");
}
