/* The list of backends that this build has, and the host's memory that several of them use. */
#include "base/arena.h"
#include "core/backend.h"
#include <string.h>
#include <unistd.h>

static err copy(void *to, const void *from, size_t bytes) {
    if (bytes) memcpy(to, from, bytes);
    return OK;
}

static err fill(void *p, int byte, size_t bytes) {
    if (bytes) memset(p, byte, bytes);
    return OK;
}

static size_t left(void) { return 0; }

static err set_out(enum copy_way way, void *to, const void *from, size_t bytes) { return (void)way, copy(to, from, bytes); }
static err await(enum copy_way way) { return (void)way, OK; }

const struct mem_ops mem_host = {.host = true, .take = pages_take, .give = pages_give, .upload = copy, .download = copy, .fill = fill, .left = left, .take_host = pages_take, .give_host = pages_give, .set_out = set_out, .await = await};

#ifdef CYC_CUDA
extern const struct backend backend_cuda;
static const struct backend *const cuda = &backend_cuda;
#else
static const struct backend *const cuda = NULL;
#endif

err backend_pick(const char *device, const struct backend **out) {
    *out = &backend_cpu;
    if (!strcmp(device, "cpu")) return OK;
    bool wanted = !strcmp(device, "cuda");
    if (!wanted && strcmp(device, "auto") != 0) return fail(E_USAGE, "device '%s' is not known (auto, cpu, cuda)", device);
    if (wanted && !cuda)
        return fail(E_USAGE, "device: cuda is asked for, but this program was built without CUDA (no nvcc was found): build it where CUDA "
                             "13 is installed, or use device: cpu");
    err closed = cuda ? cuda->open() : E_USAGE; /* asked for by name it is planned for all the same */
    if (cuda && (wanted || !closed)) *out = cuda;
    return OK;
}

/* The value of a key that names a plain type, or auto. */
static err plain_type(const char *key, const char *name, dtype by_itself, dtype *out) {
    *out = strcmp(name, "auto") ? dtype_parse(name) : by_itself;
    return dtype_plain(*out) ? OK : fail(E_USAGE, "%s '%s' is not known (auto, float32, bfloat16, float16)", key, name);
}

err backend_compute(const struct backend *b, const char *name, dtype *out) { return plain_type("dtype", name, b->compute, out); }

err backend_cache(const struct backend *b, const char *name, dtype compute, dtype *out) {
    TRY(plain_type("kv_cache_dtype", name, compute, out));
    if (!b->mem->host && *out != compute)
        return fail(E_USAGE, "kv_cache_dtype: %s with dtype: %s is for the processor; on a card the cache has the type that is computed in: "
                             "leave it at auto, or set dtype", name, dtype_info[compute].name);
    return OK;
}

void backend_describe(str *out) {
    backend_cpu.describe(out);
    if (cuda) cuda->describe(out);
    else str_adds(out, "cuda: not in this build: nvcc with cublasLt.h was not found when it was made (install CUDA 13 and build again)\n");
}
