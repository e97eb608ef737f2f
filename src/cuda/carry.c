/* Copies to the host and back beside the work, on streams of their own, so that the card's copy engines work beside its multiprocessors: of
 * activations (ops/stash.c), and of states of optimizers (mem_ops.set_out; train/paged.c), which go both ways at once, on a stream each. A
 * program's have one stream for both ways.
 *
 * Each copy begins behind everything that was launched before it: what it reads has been made, and what lay before where it writes has
 * been read. await makes the stream wait for the last copy that began; the programs keep one on its way at a time (core/grad.c awaits
 * what came back before the next sets out). The streams are not the one for work beside (device.c): products there would queue behind a
 * copy of milliseconds. Forks and joins are events, so recorded runs (replay.c) hold them too, those that may fork. The host's side is page-locked
 * (mem_ops.take_host): from other memory the driver copies by way of a buffer, and the launching thread waits. */
#include "cuda/cuda.h"

static struct lane {
    cudaStream_t stream;
    cudaEvent_t begun, done;
    bool pending;
} lanes[2]; /* by enum copy_way; programs have the second */

err cuda_carry_open(void) {
    for (int i = 0; i < 2; i++) {
        struct lane *l = &lanes[i];
        TRY(cuda_check(cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking), "making a stream"));
        TRY(cuda_check(cudaEventCreateWithFlags(&l->begun, cudaEventDisableTiming), "an event"));
        TRY(cuda_check(cudaEventCreateWithFlags(&l->done, cudaEventDisableTiming), "an event"));
    }
    return OK;
}

/* Between the two: a copy on that stream, behind what was launched before it. */
static err begin(struct lane *l, const char *what) {
    TRY(cuda_check(cudaEventRecord(l->begun, cuda_stream), what));
    return cuda_check(cudaStreamWaitEvent(l->stream, l->begun, 0), what);
}

static err begun(struct lane *l, const char *what) {
    l->pending = true;
    return cuda_check(cudaEventRecord(l->done, l->stream), what);
}

static err join(struct lane *l) {
    if (!l->pending) return OK;
    l->pending = false;
    return cuda_check(cudaStreamWaitEvent(cuda_stream, l->done, 0), "a copy to or from the host");
}

err cuda_carry_join(void) {
    TRY(join(&lanes[WAY_HERE]));
    return join(&lanes[WAY_HOST]);
}

err cuda_set_out(enum copy_way way, void *to, const void *from, size_t bytes) {
    const char *const what = way == WAY_HERE ? "a copy to the card" : "a copy to the host";
    struct lane *l = &lanes[way];
    if (cuda_one_stream) return cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, cuda_stream), what);
    TRY(begin(l, what));
    TRY(cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, l->stream), what));
    return begun(l, what);
}

err cuda_await_way(enum copy_way way) { return join(&lanes[way]); }

/* --- a program's ----------------------------------------------------------------------------------------------------- */
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
    struct lane *l = &lanes[WAY_HOST];
    if (cuda_one_stream) return copy_rows(from, to, cuda_stream, what);
    TRY(begin(l, what));
    TRY(copy_rows(from, to, l->stream, what));
    return begun(l, what);
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
