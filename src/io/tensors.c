/* One door to files of tensors: decides which reader a path belongs to, keeps the list in the order that finds a name
 * quickly, and owns the maps. Called by the model loader, the adapter reader and `inspect`.
 *
 * A file is taken for what its ending says; without a known ending (a blob of a download cache) its first bytes decide.
 * It refuses PyTorch's pickles: reading one runs whatever code the file carries.
 *
 * Invariants: after a successful open, `t` is sorted by name and no name occurs twice; every window lies inside its
 * map, overlaps no other, and is aligned to its element. After a failed open nothing is held and `ts` is zero. */
#include "io/tensors.h"
#include "io/tensors_internal.h"
#include <stdlib.h>
#include <unistd.h>

static err refuse_pickle(const char *path) {
    return fail(
        E_UNSUPPORTED,
        "%s: a PyTorch pickle: loading one runs code from the file, so it is refused; convert it to safetensors, "
        "in transformers with model.save_pretrained(folder, safe_serialization=True)",
        path);
}

static bool named_as_pickle(const char *path) {
    return str_ends(path, ".bin") || str_ends(path, ".pt") || str_ends(path, ".pth");
}

err tensors_map(struct tensors *ts, const char *path, struct file_map *m) {
    TRY(file_map_open(path, m, &ts->fds[ts->n_maps]));
    ts->maps[ts->n_maps++] = *m;
    return OK;
}

/* NAME.safetensors that is not there, where NAME.bin is: an older adapter. */
static err pickle_instead(struct tensors *ts, const char *path) {
    if (!str_ends(path, ".safetensors") || path_exists(path)) return OK;
    const char *pickle = arena_printf(&ts->mem, "%.*s.bin", (int)(strlen(path) - strlen(".safetensors")), path);
    return pickle && path_exists(pickle) ? refuse_pickle(pickle) : OK;
}

static err open_file(struct tensors *ts, const char *path) {
    TRY(pickle_instead(ts, path));
    ts->maps = arena_alloc(&ts->mem, sizeof *ts->maps);
    ts->fds = arena_alloc(&ts->mem, sizeof *ts->fds);
    if (!ts->maps || !ts->fds) return fail(E_MEMORY, "%s: out of memory", path);
    struct file_map m;
    TRY(tensors_map(ts, path, &m));
    if (named_as_pickle(path)) return refuse_pickle(path);
    if (str_ends(path, ".gguf") || (m.n >= 4 && !memcmp(m.p, "GGUF", 4))) return gguf_read(ts, path, m);
    if (str_ends(path, ".safetensors") || (m.n > 8 && m.p[8] == '{')) return safetensors_read(ts, path, m);
    return fail(E_UNSUPPORTED, "%s: neither GGUF nor safetensors, by its name or by its first bytes", path);
}

static err open_folder(struct tensors *ts, const char *folder) {
    const char *one = arena_printf(&ts->mem, "%s/model.safetensors", folder);
    const char *index = arena_printf(&ts->mem, "%s/model.safetensors.index.json", folder);
    const char *pickle = arena_printf(&ts->mem, "%s/pytorch_model.bin", folder);
    const char *pickles = arena_printf(&ts->mem, "%s/pytorch_model.bin.index.json", folder);
    if (!one || !index || !pickle || !pickles) return fail(E_MEMORY, "%s: out of memory", folder);
    if (path_exists(one)) return open_file(ts, one);
    if (path_exists(index)) return safetensors_read_sharded(ts, folder, index);
    if (path_exists(pickle)) return refuse_pickle(pickle);
    if (path_exists(pickles)) return refuse_pickle(pickles);
    const char *adapter = arena_printf(&ts->mem, "%s/adapter_config.json", folder);
    if (adapter && path_exists(adapter))
        return fail(E_USAGE, "%s: an adapter, not a model: name its base as the model and this folder as the adapter", folder);
    return fail(E_USAGE,
                "%s: the folder has neither model.safetensors nor model.safetensors.index.json; a GGUF file is named "
                "by its own path",
                folder);
}

err tensors_open(const char *path, struct tensors *ts) {
    *ts = (struct tensors){0};
    ts->path = arena_str(&ts->mem, path);
    err e = !ts->path           ? fail(E_MEMORY, "%s: out of memory", path)
            : path_is_dir(path) ? open_folder(ts, ts->path)
                                : open_file(ts, ts->path);
    if (e) tensors_close(ts);
    return e;
}

/* A byte that is read brings in its neighbours: 64 KiB, or the whole of a large folio, which a file system that has them makes up to 2 MiB long. */
enum { WINDOW = 2 << 20 };

void tensors_forget(const struct tensors *ts, const void *p, size_t n) {
    for (int i = 0; i < ts->n_maps; i++) {
        const uintptr_t first = (uintptr_t)ts->maps[i].p, last = first + ts->maps[i].n;
        uintptr_t from = (uintptr_t)p, to = from + n;
        if (from < first || to > last) continue;
        from = from / WINDOW * WINDOW, to = (to + WINDOW - 1) / WINDOW * WINDOW;
        if (from < first) from = first;
        if (to > last) to = last;
        file_forget((const void *)from, to - from);
    }
}

err tensors_copy(const struct tensors *ts, const void *p, size_t n, void *to) {
    for (int i = 0; i < ts->n_maps; i++) {
        const uint8_t *first = ts->maps[i].p, *at = p;
        if (at >= first && at < first + ts->maps[i].n) return file_read_at(ts->path, ts->fds[i], (uint64_t)(at - first), to, n);
    }
    memcpy(to, p, n);
    return OK;
}

void tensors_close(struct tensors *ts) {
    for (int i = 0; i < ts->n_maps; i++) file_unmap(&ts->maps[i]), close(ts->fds[i]);
    arena_free(&ts->mem);
    *ts = (struct tensors){0};
}

const struct tensor *tensors_find(const struct tensors *ts, const char *name) {
    return tensors_search(ts->t, ts->n, name);
}

err tensor_readable(const struct tensors *ts, const struct tensor *t) {
    if (t->dt != DT_NONE) return OK;
    return fail(E_UNSUPPORTED, "%s: tensor '%s' has dtype %s; supported are F32, F16, BF16, I32: convert the file", ts->path, t->name, t->stored);
}

static int order_of_names(const void *a, const void *b) {
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static int order_of_places(const void *a, const void *b) {
    uintptr_t p = (uintptr_t)((const struct tensor *)a)->data, q = (uintptr_t)((const struct tensor *)b)->data;
    return (p > q) - (p < q);
}

void tensors_sort_by_place(struct tensor *t, int n) {
    if (n) qsort(t, (size_t)n, sizeof *t, order_of_places);
}

err tensors_sort_by_name(const char *path, struct tensor *t, int n) {
    if (n) qsort(t, (size_t)n, sizeof *t, order_of_names);
    for (int i = 1; i < n; i++)
        if (!strcmp(t[i - 1].name, t[i].name))
            return fail(E_INPUT, "%s: tensor '%s' occurs twice: the file is corrupt", path, t[i].name);
    return OK;
}

const struct tensor *tensors_search(const struct tensor *t, int n, const char *name) {
    struct tensor key = {.name = name};
    return n ? bsearch(&key, t, (size_t)n, sizeof *t, order_of_names) : NULL;
}

bool name_valid(const char *s, size_t n) {
    if (n == 0 || n > NAME_BYTES_MAX) return false;
    for (size_t i = 0; i < n;) {
        unsigned cp;
        int len = utf8_decode(s + i, n - i, &cp);
        if (!len || cp < 0x20 || (cp >= 0x7F && cp < 0xA0)) return false;
        i += (size_t)len;
    }
    return true;
}

bool tensors_mapped(const struct tensors *ts, const void *p) {
    for (int i = 0; i < ts->n_maps; i++)
        if ((const uint8_t *)p >= ts->maps[i].p && (const uint8_t *)p < ts->maps[i].p + ts->maps[i].n) return true;
    return false;
}

size_t tensors_besides(const struct tensors *ts) {
    size_t bytes = 0;
    for (int i = 0; i < ts->n_maps; i++) bytes += ts->maps[i].n;
    for (int i = 0; i < ts->n; i++) bytes -= tensors_mapped(ts, ts->t[i].data) ? ts->t[i].bytes : 0;
    return bytes;
}
