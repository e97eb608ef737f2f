/* Recording runs as CUDA graphs. A run that is seen for the first time is launched kernel by kernel (products choose their
 * algorithms then, which a recording cannot do); the second time it is recorded; from then on it is one launch.
 *
 * A recording takes memory of the card: 4 kB a kernel, and three times that where work forks to the stream beside (measured, H100, CUDA 13;
 * destroyed ones leave theirs to the next, with holes). Rows of ever new lengths would make ever new ones, so together they hold at most
 * HELD_BYTES, and with the holes REPLAY_BYTES, which the plan counts (backend.c). The first fork (a tenth faster at 135M), later ones run in one
 * stream. When there is no more room a run takes the place of the one that has been away longest, if it came back sooner than that.
 *
 * What a training run's recordings may take is set aside when it starts, as arenas are taken whole: they come late, and by then another process
 * may have taken what was free. The driver gives recordings no memory of ours, so it is given back to it piece by piece, just before each. */
#include "cuda/replay.h"
#include "cuda/cuda.h"
#include <stdlib.h>
#include <string.h>

enum { RUNS = 256, KEY = 256 }; /* runs that are remembered, recorded or not */
enum { HELD_BYTES = 52 << 20, FORKING_BYTES = 16 << 20, NODE_BYTES = 4 << 10, FORKING_NODE_BYTES = 12 << 10 };
enum { PIECE = 2 << 20, PIECES = REPLAY_BYTES / PIECE }; /* what the driver gives out at a time */

static struct record {
    unsigned char key[KEY];
    size_t bytes;
    uint64_t used; /* by the clock below; 0: free */
    cudaGraphExec_t graph;
    size_t holds;
} records[RUNS];
static uint64_t now;
static size_t held;
static struct record *recording;
static struct { void *piece[PIECES]; int n, runs; } aside; /* of so many runs */
static size_t grown; /* what the card has lost to recordings since the process began */

/* As much as recordings do not have yet; what another process took while it was given back is done without. */
static void top_up(void) {
    while (aside.runs && grown + (size_t)(aside.n + 1) * PIECE <= REPLAY_BYTES && cudaMalloc(&aside.piece[aside.n], PIECE) == cudaSuccess) aside.n++;
    cudaGetLastError();
}

static void give_back(size_t bytes) {
    for (const int keep = aside.n - (int)((bytes + PIECE - 1) / PIECE); aside.n > 0 && aside.n > keep;) cudaFree(aside.piece[--aside.n]);
}

static err set_aside(bool on) {
    aside.runs += on ? 1 : -1;
    if (!aside.runs) return give_back(REPLAY_BYTES), OK;
    top_up();
    if (grown + (size_t)(aside.n + 1) * PIECE > REPLAY_BYTES) return OK;
    set_aside(false);
    return fail(E_MEMORY, "no room on the card for the %d MB that recorded runs may take; another process may have taken it since the plan was made", REPLAY_BYTES >> 20);
}

static void drop(struct record *r) {
    if (r->graph) cudaGraphExecDestroy(r->graph);
    held -= r->holds;
    *r = (struct record){0};
}

/* The recorded run other than r that has been away longest; NULL: there is none. */
static struct record *oldest_beside(const struct record *r) {
    struct record *oldest = NULL;
    for (int i = 0; i < RUNS; i++)
        if (records[i].graph && &records[i] != r && (!oldest || records[i].used < oldest->used)) oldest = &records[i];
    return oldest;
}

/* Whoever looks for a faulty kernel wants each waited for: replays hide them. */
static bool launches_block(void) {
    const char *s = getenv("CUDA_LAUNCH_BLOCKING");
    return s && *s == '1';
}

/* r came back after so many runs. */
static err record(struct record *r, uint64_t away) {
    const struct record *oldest = oldest_beside(r);
    if (held >= HELD_BYTES && oldest && now - oldest->used <= away) return OK;
    recording = r;
    cuda_one_stream = held >= FORKING_BYTES;
    return cuda_check(cudaStreamBeginCapture(cuda_stream, cudaStreamCaptureModeThreadLocal), "recording a run");
}

static err begin(const void *key, size_t bytes, bool *replayed) {
    struct record *oldest = &records[0];
    *replayed = false;
    if (launches_block()) return OK;
    if (bytes > KEY) return fail(E_INTERNAL, "a replay key of %zu bytes", bytes);
    now++;
    for (int i = 0; i < RUNS; i++) {
        struct record *r = &records[i];
        if (r->used < oldest->used) oldest = r;
        if (!r->used || r->bytes != bytes || memcmp(r->key, key, bytes)) continue;
        const uint64_t away = now - r->used;
        r->used = now;
        if (r->graph) return *replayed = true, cuda_check(cudaGraphLaunch(r->graph, cuda_stream), "replaying a run");
        return record(r, away);
    }
    drop(oldest);
    memcpy(oldest->key, key, bytes);
    oldest->bytes = bytes;
    oldest->used = now;
    return OK;
}

/* Others leave before it comes, so that theirs is taken. */
static err make_room(struct record *r, cudaGraph_t graph, bool one_stream) {
    size_t nodes = 0;
    TRY(cuda_check(cudaGraphGetNodes(graph, NULL, &nodes), "recording a run"));
    const size_t holds = nodes * (one_stream ? NODE_BYTES : FORKING_NODE_BYTES);
    for (struct record *old; held + holds > HELD_BYTES && (old = oldest_beside(r));) drop(old);
    r->holds = holds;
    held += holds;
    return OK;
}

/* Its first launch brings it to the card. */
static err begin_replaying(struct record *r, cudaGraph_t graph) {
    give_back(r->holds + PIECE);
    const size_t before = cuda_free_bytes();
    err e = cuda_check(cudaGraphInstantiate(&r->graph, graph, 0), "recording a run");
    if (!e) e = cuda_check(cudaGraphLaunch(r->graph, cuda_stream), "replaying a run");
    const size_t after = cuda_free_bytes(), most = 2 * r->holds + PIECE; /* others' comings and goings are seen too */
    if (before > after) grown += before - after < most ? before - after : most;
    top_up();
    return e;
}

static err end(err launched) {
    struct record *r = recording;
    const bool one_stream = cuda_one_stream;
    cudaGraph_t graph = NULL;
    if (!r) return launched;
    recording = NULL;
    cuda_one_stream = false;
    err e = cuda_check(cudaStreamEndCapture(cuda_stream, &graph), "recording a run");
    if (!launched && !e) e = make_room(r, graph, one_stream);
    if (!launched && !e) e = begin_replaying(r, graph);
    if (graph) cudaGraphDestroy(graph);
    return launched ? launched : e;
}

static void forget(const void *plan) {
    for (int i = 0; i < RUNS; i++)
        if (records[i].used && !memcmp(records[i].key, &plan, sizeof plan)) drop(&records[i]);
}

const struct replay_ops cuda_replay = {begin, end, forget, set_aside};
