/* A file of named tensors, whatever its format: the one shape in which GGUF and safetensors reach the model loader.
 *
 * The bytes stay where the file has them (mapped, read-only); a tensor is a checked window into the map. Opening
 * verifies every length, offset, name and type against the file's size, so that no later reader has to.
 * Metadata: GGUF key-values and safetensors' __metadata__ are looked up by key. */
#ifndef CYC_IO_TENSORS_H
#define CYC_IO_TENSORS_H
#include "base/arena.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/file.h"

struct tensor {
    const char *name;
    dtype dt;           /* DT_NONE: safetensors of a type that no kernel reads, see `stored` */
    const char *stored; /* the file's name of its type: "Q4_K", "F8_E4M3", "U8" */
    int nd;
    int64_t d[4]; /* row-major, outermost first: a linear weight is [out, in] in both formats */
    const void *data;
    size_t bytes;
};

struct tensors {
    arena mem;
    const char *path; /* the file, or the folder of several safetensors */
    int n;
    struct tensor *t;
    struct file_map *maps;
    int *fds; /* the maps' files */
    int n_maps;
    struct gguf_meta *meta; /* GGUF only, else NULL */
    size_t copied;          /* bytes of weights that lie in memory in a form of our own (io/packed.h) */
};

/* Opens *.gguf, *.safetensors, or a folder with model.safetensors or model.safetensors.index.json (sharded). */
err tensors_open(const char *path, struct tensors *ts);
void tensors_close(struct tensors *ts);
/* A tensor's bytes, or some of them, have done their work: where they are mapped (an odd file has them copied) their pages leave this process's memory,
 * and the neighbours that the kernel brings in with them. Whoever reads them again gets them again. */
void tensors_forget(const struct tensors *ts, const void *p, size_t n);
/* n bytes of a tensor, from p on, without bringing pages of the file into this process's memory. */
err tensors_copy(const struct tensors *ts, const void *p, size_t n, void *to);
enum { NEIGHBOURS_BYTES = 4 << 20 }; /* that are there beside a mapped tensor while it is read: 2 MiB around its first and its last byte */
bool tensors_mapped(const struct tensors *ts, const void *p); /* is that a byte of a mapped file? */
size_t tensors_besides(const struct tensors *ts);          /* of the mapped files, what is no tensor: a GGUF file's tokenizer */
const struct tensor *tensors_find(const struct tensors *ts, const char *name); /* NULL when absent */

/* E_UNSUPPORTED where the tensor is of a type that dequantise_row() does not read; for readers that want numbers. */
err tensor_readable(const struct tensors *ts, const struct tensor *t);

/* GGUF metadata. Getters return false when the key is absent or of another type. */
enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};
struct gguf_kv {
    const char *key;
    enum gguf_type type, elem;   /* elem: of an array */
    uint64_t n;                  /* array length, or string length */
    union { uint64_t u; int64_t i; double f; const char *s; } v; /* scalars widened; strings terminated copies */
    const uint8_t *raw;          /* arrays: the first element's bytes in the file (strings: u64 length + bytes each) */
};
struct gguf_meta { int n; struct gguf_kv *kv; uint32_t version; uint32_t alignment; };
const struct gguf_kv *gguf_find(const struct gguf_meta *m, const char *key);
bool gguf_u64(const struct gguf_meta *m, const char *key, uint64_t *out);   /* any integer type or bool, not negative */
bool gguf_f64(const struct gguf_meta *m, const char *key, double *out);     /* f32, f64 and integers */
const char *gguf_str(const struct gguf_meta *m, const char *key);           /* NULL when absent */
/* Iterates a string array: starts with *cursor = kv->raw; returns the bytes and length of each, already checked. */
const char *gguf_array_str(const uint8_t **cursor, uint64_t *len);

/* Writes safetensors atomically (F32, F16, BF16, I32 only), metadata {"format":"pt"}, tensors in the given order,
 * 8-byte aligned header as the safetensors library writes it. Non-finite floats are refused (E_NUMERIC) by name. */
err safetensors_write(const char *path, const struct tensor *t, int n);

#endif
