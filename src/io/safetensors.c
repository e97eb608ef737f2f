/* safetensors: a u64 header length, a JSON header {name: {dtype, shape, data_offsets}}, then the tensors' bytes back to
 * back. Reads one file or a folder's shards (model.safetensors.index.json). Called by tensors_open(); what
 * writes them is safetensors_write.c.
 *
 * Element types that no kernel reads (F8, I64, U8 ..) have their size checked and are listed by their name, dt DT_NONE: it is
 * for whoever wants the tensor to take it (model/packed.c) or to refuse it (tensor_readable).
 *
 * Tensors without elements (PEFT's AdaLoRA writes such of a module of which nothing is left) are left out, as if they were not there.
 *
 * It refuses: element types that the format does not define, more than 4 dimensions (E_UNSUPPORTED); holes, overlaps and bytes that no tensor owns, as the format does (E_INPUT). Of a sharded model the
 * index decides: it names each tensor's one shard, and a shard's other tensors are not seen. Shards are names inside
 * the folder, never paths out of it.
 *
 * Invariant of what is read: data is aligned to its element, so that kernels may load it as it lies. The few files in
 * which it is not (odd header lengths of early writers) cost a copy of the tensor. */
#include "io/tensors.h"
#include "io/tensors_internal.h"
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>

enum { HEADER_BYTES_MAX = 100 * 1000 * 1000 /* the safetensors library's own limit */ };

static const struct {
    const char *name;
    dtype dt;
    int bytes;
} dtypes[] = {{"F32", DT_F32, 4}, {"F16", DT_F16, 2}, {"BF16", DT_BF16, 2}, {"I32", DT_I32, 4},     {"F64", 0, 8},     {"I64", 0, 8},     {"U64", 0, 8},
              {"U32", 0, 4},      {"I16", 0, 2},      {"U16", 0, 2},        {"F8_E4M3", 0, 1},      {"F8_E5M2", 0, 1}, {"F8_E8M0", 0, 1}, {"I8", 0, 1},
              {"U8", 0, 1},       {"BOOL", 0, 1}};
enum { N_DTYPES = sizeof dtypes / sizeof *dtypes };

static int bytes_stored(const struct tensor *t) {
    for (int i = 0; i < N_DTYPES; i++)
        if (t->stored == dtypes[i].name) return dtypes[i].bytes;
    return 0;
}

/* The header of one file, parsed: its tensors, sorted by name once checked. */
struct header {
    const char *path;
    struct file_map m;
    size_t start; /* of the data */
    struct tensor *t;
    int n;
};

static err check_name(err code, const char *path, const char *name) {
    if (name_valid(name, strlen(name))) return OK;
    return fail(code, "%s: a tensor's name (%zu bytes) is not 1 to %d bytes of plain UTF-8", path, strlen(name),
                NAME_BYTES_MAX);
}

static err out_of_memory(const char *path) { return fail(E_MEMORY, "%s: out of memory", path); }

/* jansson's message quotes the text near the error, which is the file's and may hold anything: only what is before. */
static err bad_json(const char *path, const char *where, const json_error_t *why) {
    const char *near = strstr(why->text, " near ");
    int n = near ? (int)(near - why->text) : (int)strlen(why->text);
    return fail(E_INPUT, "%s: %s is not valid JSON at its byte %d: %.*s", path, where, why->position, n, why->text);
}

static err read_dtype(const char *path, struct tensor *t, const json_t *entry) {
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (!name) return fail(E_INPUT, "%s: tensor '%s': no \"dtype\" string in the header: corrupt", path, t->name);
    for (int i = 0; i < N_DTYPES; i++)
        if (!strcmp(name, dtypes[i].name)) t->dt = dtypes[i].dt, t->stored = dtypes[i].name;
    if (t->stored) return OK;
    bool plain = name_valid(name, strlen(name)) && strlen(name) < 32;
    return fail(E_UNSUPPORTED, "%s: tensor '%s' has dtype %s, which is not known: convert the file", path, t->name,
                plain ? name : "unknown");
}

static err read_shape(const char *path, struct tensor *t, const json_t *entry) {
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) return fail(E_INPUT, "%s: tensor '%s': no \"shape\" array: corrupt", path, t->name);
    size_t nd = json_array_size(shape);
    if (nd > 4)
        return fail(E_UNSUPPORTED, "%s: tensor '%s' has %zu dimensions; up to 4 are supported", path, t->name, nd);
    t->nd = nd ? (int)nd : 1; /* a scalar is a vector of one */
    for (int i = 0; i < 4; i++) t->d[i] = 1;
    int64_t n = 1;
    for (size_t i = 0; i < nd; i++) {
        const json_t *d = json_array_get(shape, i);
        t->d[i] = json_integer_value(d);
        if (!json_is_integer(d) || t->d[i] < 0)
            return fail(E_INPUT, "%s: tensor '%s': dimension %zu of its shape is no size: corrupt", path, t->name, i);
        if (__builtin_mul_overflow(n, t->d[i], &n))
            return fail(E_INPUT, "%s: tensor '%s': its shape's product overflows: corrupt", path, t->name);
    }
    if (__builtin_mul_overflow(n, bytes_stored(t), &t->bytes))
        return fail(E_INPUT, "%s: tensor '%s': its size in bytes overflows: corrupt", path, t->name);
    return OK;
}

/* The tensor's end in the data goes to *end; its window is set only after the ends were held against the file. */
static err read_offsets(const char *path, struct tensor *t, const json_t *entry, uint64_t *end) {
    const json_t *pair = json_object_get(entry, "data_offsets");
    const json_t *b = json_array_get(pair, 0), *e = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return fail(E_INPUT, "%s: tensor '%s': no \"data_offsets\" of two integers: corrupt", path, t->name);
    json_int_t from = json_integer_value(b), to = json_integer_value(e);
    if (from < 0 || to < from || (uint64_t)(to - from) != t->bytes)
        return fail(E_INPUT,
                    "%s: tensor '%s': data_offsets [%lld, %lld] do not span the %zu bytes of its shape: corrupt", path,
                    t->name, (long long)from, (long long)to, t->bytes);
    *end = (uint64_t)to;
    return OK;
}

static err read_entry(arena *mem, const char *path, const char *name, const json_t *entry, struct tensor *t,
                      uint64_t *end) {
    TRY(check_name(E_INPUT, path, name));
    t->name = arena_str(mem, name);
    if (!t->name) return out_of_memory(path);
    if (!json_is_object(entry)) return fail(E_INPUT, "%s: tensor '%s': its header entry is no object", path, name);
    TRY(read_dtype(path, t, entry));
    TRY(read_shape(path, t, entry));
    return read_offsets(path, t, entry, end);
}

/* Data must be back to back from first to last byte, in whatever order the header lists it. */
static err check_layout(struct header *h) {
    tensors_sort_by_place(h->t, h->n);
    const uint8_t *at = h->m.p + h->start;
    for (int i = 0; i < h->n; i++) {
        const uint8_t *data = h->t[i].data;
        if (data != at)
            return fail(E_INPUT, "%s: tensor '%s' starts at byte %zu, its predecessor ends at byte %zu: %s: corrupt",
                        h->path, h->t[i].name, (size_t)(data - h->m.p), (size_t)(at - h->m.p),
                        data < at ? "they overlap" : "a hole");
        at += h->t[i].bytes;
    }
    size_t extra = (size_t)(h->m.p + h->m.n - at);
    if (extra) return fail(E_INPUT, "%s: %zu bytes follow the last tensor: corrupt", h->path, extra);
    return OK;
}

static err align(arena *mem, struct header *h) {
    for (int i = 0; i < h->n; i++) {
        struct tensor *t = &h->t[i];
        if ((uintptr_t)t->data % (size_t)bytes_stored(t) == 0) continue;
        void *copy = arena_alloc(mem, t->bytes);
        if (!copy) return out_of_memory(h->path);
        t->data = memcpy(copy, t->data, t->bytes);
    }
    return OK;
}

/* Gives each tensor its window; the one that reaches furthest tells how much of a truncated file is missing. */
static err place(struct header *h, const uint64_t *end) {
    uint64_t room = h->m.n - h->start, furthest = 0;
    int last = 0;
    for (int i = 0; i < h->n; i++)
        if (end[i] > furthest) furthest = end[i], last = i;
    if (furthest > room)
        return fail(
            E_INPUT,
            "%s: tensor '%s' needs %llu bytes of data, the file has %llu: %llu bytes are missing; fetch the file again",
            h->path, h->t[last].name, (unsigned long long)furthest, (unsigned long long)room,
            (unsigned long long)(furthest - room));
    for (int i = 0; i < h->n; i++) h->t[i].data = h->m.p + h->start + end[i] - h->t[i].bytes;
    return OK;
}

static err read_entries(arena *mem, struct header *h, json_t *root) {
    size_t n = json_object_size(root);
    h->t = n < INT_MAX ? arena_alloc(mem, n * sizeof *h->t) : NULL;
    uint64_t *end = h->t ? arena_alloc(mem, n * sizeof *end) : NULL;
    if (!end) return out_of_memory(h->path);
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry) {
        if (!strcmp(name, "__metadata__")) {
            if (!json_is_object(entry)) return fail(E_INPUT, "%s: \"__metadata__\" is no object: corrupt", h->path);
            continue;
        }
        TRY(read_entry(mem, h->path, name, entry, &h->t[h->n], &end[h->n]));
        h->n += h->t[h->n].bytes > 0;
    }
    TRY(place(h, end));
    TRY(check_layout(h));
    TRY(align(mem, h));
    return tensors_sort_by_name(h->path, h->t, h->n);
}

static err read_header(arena *mem, const char *path, struct file_map m, struct header *h) {
    *h = (struct header){.path = path, .m = m};
    if (m.n < 8) return fail(E_INPUT, "%s: truncated: %zu bytes, the header's length alone takes 8", path, m.n);
    uint64_t n = load_u64(m.p);
    if (n < 2 || n > HEADER_BYTES_MAX)
        return fail(E_INPUT, "%s: not a safetensors file: the first 8 bytes claim a header of %llu bytes (2 to %d)",
                    path, (unsigned long long)n, HEADER_BYTES_MAX);
    if (n > m.n - 8)
        return fail(E_INPUT,
                    "%s: the header takes %llu bytes and %zu follow: %llu bytes are missing; fetch the file again",
                    path, (unsigned long long)n, m.n - 8, (unsigned long long)(n - (m.n - 8)));
    if (m.p[8] != '{') return fail(E_INPUT, "%s: the header does not start with '{' at byte 8: corrupt", path);
    h->start = 8 + (size_t)n;
    json_error_t why;
    json_t *root = json_loadb((const char *)m.p + 8, (size_t)n, JSON_REJECT_DUPLICATES, &why);
    if (!root) return bad_json(path, "the header (from byte 8)", &why);
    err e = read_entries(mem, h, root);
    json_decref(root);
    return e;
}

err safetensors_read(struct tensors *ts, const char *path, struct file_map m) {
    struct header h;
    TRY(read_header(&ts->mem, path, m, &h));
    ts->t = h.t;
    ts->n = h.n;
    return OK;
}

/* A shard is a plain file name: an index cannot reach out of its folder. */
static bool shard_valid(const char *file) {
    return file && name_valid(file, strlen(file)) && !strchr(file, '/') && file[0] != '.' &&
           str_ends(file, ".safetensors");
}

/* The header of the shard called `file`, opened at its first mention; shard i is map i. */
static err find_shard(struct tensors *ts, const char *folder, const char *file, struct header *shards,
                      struct header **found) {
    for (int i = 0; i < ts->n_maps; i++)
        if (!strcmp(shards[i].path + strlen(folder) + 1, file)) {
            *found = &shards[i];
            return OK;
        }
    const char *path = arena_printf(&ts->mem, "%s/%s", folder, file);
    if (!path) return out_of_memory(folder);
    struct file_map m;
    *found = &shards[ts->n_maps];
    TRY(tensors_map(ts, path, &m));
    return read_header(&ts->mem, path, m, *found);
}

static err read_shards(struct tensors *ts, const char *folder, const char *index, const json_t *root) {
    json_t *map = json_object_get(root, "weight_map"), *value;
    if (!json_is_object(map)) return fail(E_INPUT, "%s: no \"weight_map\" object: corrupt", index);
    size_t n = json_object_size(map); /* also the most shards that there can be */
    ts->t = n < INT_MAX ? arena_alloc(&ts->mem, n * sizeof *ts->t) : NULL;
    ts->maps = arena_alloc(&ts->mem, n * sizeof *ts->maps);
    ts->fds = arena_alloc(&ts->mem, n * sizeof *ts->fds);
    struct header *shards = arena_alloc(&ts->mem, n * sizeof *shards), *shard = NULL;
    if (!ts->t || !ts->maps || !ts->fds || !shards) return out_of_memory(index);
    const char *name;
    json_object_foreach(map, name, value) {
        TRY(check_name(E_INPUT, index, name));
        const char *file = json_string_value(value);
        if (!shard_valid(file))
            return fail(E_INPUT, "%s: tensor '%s': its shard is not the name of a .safetensors file: corrupt", index,
                        name);
        TRY(find_shard(ts, folder, file, shards, &shard));
        const struct tensor *t = tensors_search(shard->t, shard->n, name);
        if (!t) return fail(E_INPUT, "%s: tensor '%s' should be in %s, which has no such tensor", index, name, file);
        ts->t[ts->n++] = *t;
    }
    return tensors_sort_by_name(index, ts->t, ts->n);
}

err safetensors_read_sharded(struct tensors *ts, const char *folder, const char *index) {
    struct file_map m;
    TRY(file_map(index, &m));
    json_error_t why;
    json_t *root = json_loadb((const char *)m.p, m.n, JSON_REJECT_DUPLICATES, &why);
    file_unmap(&m);
    if (!root) return bad_json(index, "the file", &why);
    err e = read_shards(ts, folder, index, root);
    json_decref(root);
    return e;
}
