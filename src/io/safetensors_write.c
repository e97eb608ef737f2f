/* Writes safetensors: the header, for one file or for shards with their index. See tensors_out.h for the stream behind it.
 *
 * Headers are what the safetensors library writes: metadata {"format":"pt"}, compact JSON padded with spaces to 8 bytes, data back to
 * back in the given order. Shards are cut between tensors, in order, as transformers names and indexes them; a tensor that is larger
 * than a shard has one to itself. Refused before anything is written: other types, no elements, two tensors of one name. */
#include "io/tensors_internal.h"
#include "io/tensors_out.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    dtype dt;
} dtypes[] = {{"F32", DT_F32}, {"F16", DT_F16}, {"BF16", DT_BF16}, {"I32", DT_I32}};
enum { N_DTYPES = sizeof dtypes / sizeof *dtypes };

static const char *dtype_in_file(dtype dt) {
    for (int i = 0; i < N_DTYPES; i++)
        if (dtypes[i].dt == dt) return dtypes[i].name;
    return NULL;
}

/* Bytes that mean something to their reader alone: no type of ours, and named U8. */
static bool is_bytes(const struct tensor *t) { return t->dt == DT_NONE && t->stored && !strcmp(t->stored, "U8"); }
static const char *type_in_file(const struct tensor *t) { return is_bytes(t) ? "U8" : dtype_in_file(t->dt); }

bool safetensors_writes(dtype dt) { return dtype_in_file(dt) != NULL; }

static err out_of_memory(const char *path) { return fail(E_MEMORY, "%s: out of memory", path); }

/* What the caller must not ask for, before anything is written. */
static err check_writable(const char *path, const struct tensor *t) {
    if (!name_valid(t->name, strlen(t->name)))
        return fail(E_USAGE, "%s: a tensor's name (%zu bytes) is not 1 to %d bytes of plain UTF-8", path, strlen(t->name), NAME_BYTES_MAX);
    if (!type_in_file(t))
        return fail(E_UNSUPPORTED, "%s: tensor '%s' is %s; safetensors are written as F32, F16, BF16, I32, U8", path, t->name,
                    dtype_info[t->dt].name);
    int64_t n = 1;
    for (int i = 0; i < t->nd; i++) n *= t->d[i];
    if (n <= 0 || t->bytes != (is_bytes(t) ? (size_t)n : dtype_row_bytes(t->dt, n)))
        return fail(E_INTERNAL, "%s: tensor '%s': %zu bytes for a shape of %lld elements", path, t->name, t->bytes, (long long)n);
    return OK;
}

static int add_text(const char *bytes, size_t n, void *to) {
    str_add(to, bytes, n);
    return 0;
}

/* Adds a value to the text and lets go of it. */
static bool add_json(str *text, json_t *j) {
    const bool failed = !j || json_dump_callback(j, add_text, text, JSON_COMPACT | JSON_ENCODE_ANY);
    json_decref(j);
    return !failed;
}

/* "name":{..}: a tensor whose data begin at byte `at`. */
static bool add_entry(str *text, const struct tensor *t, uint64_t at) {
    json_t *shape = json_array();
    bool done = shape != NULL;
    for (int k = 0; k < t->nd; k++) done &= json_array_append_new(shape, json_integer(t->d[k])) == 0;
    done &= add_json(text, json_string(t->name));
    str_addc(text, ':');
    return add_json(text, json_pack("{sssos[II]}", "dtype", type_in_file(t), "shape", shape, "data_offsets", (json_int_t)at,
                                    (json_int_t)(at + t->bytes))) && done;
}

/* Entry by entry: an object of all of them takes ten times the text. */
static err write_header(struct tensors_out *o, struct shard *s) {
    uint64_t length = 0, at = 0;
    str_add(&s->header, (const char *)&length, sizeof length);
    str_adds(&s->header, "{\"__metadata__\":{\"format\":\"pt\"}");
    bool done = true;
    for (int i = s->first; i < s->first + s->n; at += o->t[i++].bytes) {
        str_addc(&s->header, ',');
        done &= add_entry(&s->header, &o->t[i], at);
    }
    str_addc(&s->header, '}');
    while (s->header.n % 8 && !s->header.failed) str_addc(&s->header, ' '); /* the data starts aligned */
    if (!done || s->header.failed) return out_of_memory(o->path);
    length = s->header.n - sizeof length;
    memcpy(s->header.p, &length, sizeof length);
    o->total += s->header.n;
    return OK;
}

/* Shards of at most max_shard bytes of data, in order. */
static err cut(struct tensors_out *o, size_t max_shard) {
    o->shard = arena_alloc(&o->mem, ((size_t)o->n + 1) * sizeof *o->shard);
    if (!o->shard) return out_of_memory(o->path);
    size_t in = 0;
    for (int i = 0; i < o->n; in += o->t[i++].bytes) {
        bool new = i == 0 || (max_shard && in + o->t[i].bytes > max_shard);
        if (new) o->shard[o->n_shards++] = (struct shard){.first = i}, in = 0;
        o->shard[o->n_shards - 1].n++;
        o->total += o->t[i].bytes;
    }
    if (!o->n_shards) o->n_shards = 1;
    return OK;
}

static err name_shards(struct tensors_out *o) {
    for (int i = 0; i < o->n_shards; i++) {
        struct shard *s = &o->shard[i];
        s->path = o->n_shards == 1 ? arena_printf(&o->mem, "%s/model.safetensors", o->path)
                                   : arena_printf(&o->mem, "%s/model-%05d-of-%05d.safetensors", o->path, i + 1, o->n_shards);
        if (!s->path) return out_of_memory(o->path);
    }
    return OK;
}

static err write_index(struct tensors_out *o) {
    json_int_t data = 0;
    json_t *map = json_object();
    bool failed = !map;
    for (int i = 0; i < o->n_shards; i++)
        for (int k = o->shard[i].first; k < o->shard[i].first + o->shard[i].n; k++) {
            failed |= json_object_set_new(map, o->t[k].name, json_string(strrchr(o->shard[i].path, '/') + 1)) != 0;
            data += (json_int_t)o->t[k].bytes;
        }
    json_t *root = json_pack("{s{sI}so}", "metadata", "total_size", data, "weight_map", map);
    failed |= !root || json_dump_callback(root, add_text, &o->index, JSON_INDENT(2));
    json_decref(root);
    str_addc(&o->index, '\n');
    o->index_path = arena_printf(&o->mem, "%s/model.safetensors.index.json", o->path);
    o->total += o->index.n;
    return failed || o->index.failed || !o->index_path ? out_of_memory(o->path) : OK;
}

static err begin(struct tensors_out *o, size_t max_shard) {
    for (int i = 0; i < o->n; i++) TRY(check_writable(o->path, &o->t[i]));
    const char *twice = tensors_name_twice(o->t, o->n);
    if (twice) return fail(E_USAGE, "%s: not written: two tensors are called '%s'", o->path, twice);
    TRY(cut(o, max_shard));
    if (max_shard) TRY(name_shards(o));
    else o->shard[0].path = o->path;
    for (int i = 0; i < o->n_shards; i++) TRY(write_header(o, &o->shard[i]));
    return o->n_shards > 1 ? write_index(o) : OK;
}

err tensors_out_safetensors(struct tensors_out *o, const char *path, const struct tensor *t, int n, size_t max_shard) {
    TRY(tensors_out_begin(o, path, t, n));
    err e = begin(o, max_shard);
    if (e) tensors_out_abandon(o);
    return e;
}

err safetensors_write(const char *path, const struct tensor *t, int n) {
    struct tensors_out o;
    TRY(tensors_out_safetensors(&o, path, t, n, 0));
    err e = OK;
    for (int i = 0; i < n && !e; i++) e = tensors_check_finite(path, &t[i], t[i].data, t[i].bytes, 0);
    for (int i = 0; i < n && !e; i++) e = tensors_out_put(&o, t[i].data, t[i].bytes);
    if (!e) return tensors_out_commit(&o);
    tensors_out_abandon(&o);
    return e;
}
