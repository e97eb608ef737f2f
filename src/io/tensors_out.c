/* The stream itself: which file and which tensor the next bytes belong to, padding, the check for numbers that are not finite.
 * The two formats differ in what stands before the data (safetensors_write.c, gguf_write.c). See tensors_out.h. */
#define _GNU_SOURCE
#include "io/tensors_out.h"
#include "io/tensors_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* So much is written before the disk is asked to begin: it works while the next tensors are made, and the last wait is short. */
enum { FLUSH_BYTES = 32 << 20 };

/* The index of the first element that is not finite, or -1. Such a number has an exponent of ones alone. */
static int64_t first_non_finite(dtype dt, const uint8_t *p, size_t bytes) {
    if (dt == DT_F32)
        for (size_t i = 0; i < bytes; i += 4)
            if ((~load_u32(p + i) & 0x7F800000) == 0) return (int64_t)(i / 4);
    if (dt == DT_F16 || dt == DT_BF16) {
        int ones = dt == DT_F16 ? 0x7C00 : 0x7F80;
        for (size_t i = 0; i < bytes; i += 2)
            if ((~(p[i] | p[i + 1] << 8) & ones) == 0) return (int64_t)(i / 2);
    }
    return -1;
}

/* The same without a place, in a form that compilers make vectors of. */
static bool all_finite(dtype dt, const uint8_t *p, size_t bytes) {
    uint32_t bad = 0;
    if (dt == DT_F32)
        for (size_t i = 0; i < bytes / 4; i++) bad |= (load_u32(p + 4 * i) & 0x7F800000) == 0x7F800000;
    uint16_t ones = dt == DT_F16 ? 0x7C00 : 0x7F80, v, bad16 = 0;
    if (dt == DT_F16 || dt == DT_BF16)
        for (size_t i = 0; i < bytes / 2; i++) memcpy(&v, p + 2 * i, 2), bad16 |= (v & ones) == ones;
    return !bad && !bad16;
}

err tensors_check_finite(const char *path, const struct tensor *t, const void *bytes, size_t n, size_t before) {
    if (all_finite(t->dt, bytes, n)) return OK;
    return fail(E_NUMERIC, "%s: not written: tensor '%s' is not finite (NaN or infinity) at element %lld of %lld", path, t->name,
                (long long)(first_non_finite(t->dt, bytes, n) + (int64_t)(before / (size_t)dtype_info[t->dt].bytes)),
                (long long)(t->bytes / (size_t)dtype_info[t->dt].bytes));
}

static size_t padding(const struct tensors_out *o, size_t bytes) { return (o->align - bytes % o->align) % o->align; }

size_t tensors_out_span(const struct tensors_out *o, const struct tensor *t) { return t->bytes + padding(o, t->bytes); }

static err pad(struct tensors_out *o, size_t bytes) {
    static const char zero[64];
    size_t n = padding(o, bytes);
    o->done += n;
    return file_put(&o->file, zero, n);
}

static err open_shard(struct tensors_out *o) {
    struct shard *s = &o->shard[o->at_shard];
    TRY(file_create(&o->file, s->path));
    o->open = true;
    o->flushed = 0;
    o->done += s->header.n;
    return file_put(&o->file, s->header.p, s->header.n);
}

static err close_shard(struct tensors_out *o) {
    o->open = false;
    o->at_shard++;
    return file_commit(&o->file);
}

static void flush_behind(struct tensors_out *o) {
    off_t at = ftello(o->file.f);
    if (at < 0 || (size_t)at - o->flushed < FLUSH_BYTES) return;
    sync_file_range(fileno(o->file.f), (off_t)o->flushed, at - (off_t)o->flushed, SYNC_FILE_RANGE_WRITE); /* a hint: its failure is none */
    o->flushed = (size_t)at;
}

err tensors_out_put(struct tensors_out *o, const void *bytes, size_t n) {
    for (const uint8_t *p = bytes; n;) {
        if (o->at == o->n) return fail(E_INTERNAL, "%s: %zu bytes after the last tensor", o->path, n);
        const struct tensor *t = &o->t[o->at];
        if (!o->open) TRY(open_shard(o));
        if (!o->left) o->left = t->bytes;
        size_t take = n < o->left ? n : o->left;
        TRY(tensors_check_finite(o->path, t, p, take, t->bytes - o->left));
        TRY(file_put(&o->file, p, take));
        p += take;
        n -= take;
        o->left -= take;
        o->done += take;
        flush_behind(o);
        if (o->left) continue;
        TRY(pad(o, t->bytes));
        o->at++;
        if (o->at == o->shard[o->at_shard].first + o->shard[o->at_shard].n) TRY(close_shard(o));
    }
    return OK;
}

static err commit(struct tensors_out *o) {
    if (o->at < o->n || o->left) return fail(E_INTERNAL, "%s: tensor '%s' has bytes missing", o->path, o->t[o->at].name);
    if (o->n == 0) { /* a header alone */
        TRY(open_shard(o));
        TRY(close_shard(o));
    }
    return o->index_path ? file_write(o->index_path, o->index.p, o->index.n) : OK;
}

err tensors_out_commit(struct tensors_out *o) {
    err e = commit(o);
    tensors_out_abandon(o);
    return e;
}

void tensors_out_abandon(struct tensors_out *o) {
    if (o->open) file_abandon(&o->file);
    for (int i = 0; i < o->n_shards; i++) str_free(&o->shard[i].header);
    str_free(&o->index);
    arena_free(&o->mem);
    *o = (struct tensors_out){0};
}

err tensors_out_begin(struct tensors_out *o, const char *path, const struct tensor *t, int n) {
    *o = (struct tensors_out){.t = t, .n = n, .align = 1};
    o->path = arena_str(&o->mem, path);
    return o->path ? OK : fail(E_MEMORY, "%s: out of memory", path);
}

/* A name that another tensor of the list has too, or NULL. */
const char *tensors_name_twice(const struct tensor *t, int n) {
    struct tensor *copy = n ? malloc((size_t)n * sizeof *t) : NULL;
    const char *twice = NULL;
    if (!copy) return NULL;
    memcpy(copy, t, (size_t)n * sizeof *t);
    if (tensors_sort_by_name("", copy, n))
        for (int i = 1; i < n && !twice; i++)
            if (!strcmp(copy[i - 1].name, copy[i].name)) twice = copy[i].name;
    free(copy);
    return twice;
}
