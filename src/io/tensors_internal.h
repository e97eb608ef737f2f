/* What the readers of io/tensors.h share: the order of a tensor list, the rule for names, little-endian loads.
 * Private to src/io.
 *
 * A reader gets a `struct tensors` whose file is mapped and recorded in it already. It fills t, n and meta from the
 * arena and may fail half way: tensors_open() releases everything. */
#ifndef CYC_IO_TENSORS_INTERNAL_H
#define CYC_IO_TENSORS_INTERNAL_H
#include "io/tensors.h"
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "both formats are little endian and are used where they lie");

err gguf_read(struct tensors *ts, const char *path, struct file_map m);
err safetensors_read(struct tensors *ts, const char *path, struct file_map m);
/* `index` is the path of model.safetensors.index.json inside `folder`. */
err safetensors_read_sharded(struct tensors *ts, const char *folder, const char *index);

/* Maps a file and records the map in ts, whose `maps` has room for it. */
err tensors_map(struct tensors *ts, const char *path, struct file_map *m);

/* Names are identity and end up in messages: 1 to NAME_BYTES_MAX bytes of UTF-8 without control characters. */
enum { NAME_BYTES_MAX = 1024 };
bool name_valid(const char *s, size_t n);

/* Of tensors_out.c, for the formats: the start of every writer; the bytes that a tensor takes with its padding; a name that two share. */
struct tensors_out;
err tensors_out_begin(struct tensors_out *o, const char *path, const struct tensor *t, int n);
size_t tensors_out_span(const struct tensors_out *o, const struct tensor *t);
const char *tensors_name_twice(const struct tensor *t, int n);
/* `before`: bytes of the tensor that came earlier. Quantised types pass. */
err tensors_check_finite(const char *path, const struct tensor *t, const void *bytes, size_t n, size_t before);
/* ggml's number of a type, -1 where it has none; the bytes of a scalar. */
int gguf_type_number(dtype dt);
size_t gguf_value_bytes(enum gguf_type type);

/* By the address of the data, so that neighbours can be checked for overlap. */
void tensors_sort_by_place(struct tensor *t, int n);
/* By name, as tensors_find() needs it; two of one name are E_INPUT. */
err tensors_sort_by_name(const char *path, struct tensor *t, int n);
/* The tensor of that name in a list sorted by name, or NULL. */
const struct tensor *tensors_search(const struct tensor *t, int n, const char *name);

static inline uint32_t load_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t load_u64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

#endif
