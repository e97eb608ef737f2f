/* Recording runs as CUDA graphs. A run that is seen for the first time is launched kernel by kernel (products choose their
 * algorithms then, which a recording cannot do); the second time it is recorded; from then on it is one launch. */
#include "cuda/replay.h"
#include "cuda/cuda.h"
#include <stdlib.h>
#include <string.h>

enum { RECORDS = 64, KEY = 192 }; /* rows that end one by one make one record each */

static struct record {
    unsigned char key[KEY];
    size_t bytes;
    uint64_t used; /* by the clock below; 0: free */
    cudaGraphExec_t graph;
} records[RECORDS];
static uint64_t now;
static struct record *recording;

static void drop(struct record *r) {
    if (r->graph) cudaGraphExecDestroy(r->graph);
    *r = (struct record){0};
}

/* Whoever looks for a faulty kernel wants each waited for: replays hide them. */
static bool launches_block(void) {
    const char *s = getenv("CUDA_LAUNCH_BLOCKING");
    return s && *s == '1';
}

static err begin(const void *key, size_t bytes, bool *replayed) {
    struct record *oldest = &records[0];
    *replayed = false;
    if (launches_block()) return OK;
    if (bytes > KEY) return fail(E_INTERNAL, "a replay key of %zu bytes", bytes);
    for (int i = 0; i < RECORDS; i++) {
        struct record *r = &records[i];
        if (r->used < oldest->used) oldest = r;
        if (!r->used || r->bytes != bytes || memcmp(r->key, key, bytes)) continue;
        r->used = ++now;
        if (r->graph) return *replayed = true, cuda_check(cudaGraphLaunch(r->graph, cuda_stream), "replaying a run");
        recording = r;
        return cuda_check(cudaStreamBeginCapture(cuda_stream, cudaStreamCaptureModeThreadLocal), "recording a run");
    }
    drop(oldest);
    memcpy(oldest->key, key, bytes);
    oldest->bytes = bytes;
    oldest->used = ++now;
    return OK;
}

static err end(err launched) {
    struct record *r = recording;
    cudaGraph_t graph = NULL;
    if (!r) return launched;
    recording = NULL;
    err e = cuda_check(cudaStreamEndCapture(cuda_stream, &graph), "recording a run");
    if (!launched && !e) e = cuda_check(cudaGraphInstantiate(&r->graph, graph, 0), "recording a run");
    if (graph) cudaGraphDestroy(graph);
    if (launched || e) return launched ? launched : e;
    return cuda_check(cudaGraphLaunch(r->graph, cuda_stream), "replaying a run");
}

static void forget(const void *plan) {
    for (int i = 0; i < RECORDS; i++)
        if (records[i].used && !memcmp(records[i].key, &plan, sizeof plan)) drop(&records[i]);
}

const struct replay_ops cuda_replay = {begin, end, forget};
