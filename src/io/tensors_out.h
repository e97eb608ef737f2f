/* Files of tensors being written, a tensor at a time: the one door through which adapters, merged and converted models leave.
 *
 * The names, types and shapes of all tensors are told first (that makes the header, and the size of everything is known before a
 * byte is written); then their bytes follow in that order, in pieces of any size. Nothing but the piece at hand is held in memory.
 * A file appears under its name when it is whole (base/file.h); of a folder of shards the index comes last.
 *
 * Formats: safetensors, one file or shards with their index (model-00001-of-00004.safetensors); GGUF version 3, data aligned to 32.
 * Numbers that are not finite are refused wherever a plain type shows them (E_NUMERIC, with the tensor and the place).
 *
 *     struct tensors_out o;
 *     TRY(tensors_out_gguf(&o, path, &keys, list, n));        // o.total: bytes on disk
 *     for (...) e = tensors_out_put(&o, bytes, n);
 *     e ? tensors_out_abandon(&o) : (e = tensors_out_commit(&o)); */
#ifndef CYC_IO_TENSORS_OUT_H
#define CYC_IO_TENSORS_OUT_H
#include "io/tensors.h"

struct tensors_out {
    arena mem;
    const char *path;       /* the file, or the folder of shards */
    const struct tensor *t; /* in this order; data is not looked at. The caller's, until the end */
    int n;
    struct shard {
        const char *path;
        int first, n;
        str header;
    } * shard;
    int n_shards;
    size_t align; /* of each tensor's data */
    size_t total; /* bytes of all files */
    str index;    /* of several shards */
    const char *index_path;
    struct file_out file; /* of the shard being written */
    int at_shard, at;     /* the tensor being written */
    size_t left, flushed; /* bytes of it to come; bytes of the file that the disk was asked to take */
    size_t done;          /* bytes written in all */
    bool open;
};

/* max_shard > 0: path is a folder that exists, and gets model.safetensors or as many shards as that size asks for. 0: a file. */
err tensors_out_safetensors(struct tensors_out *o, const char *path, const struct tensor *t, int n, size_t max_shard);
struct gguf_keys;
err tensors_out_gguf(struct tensors_out *o, const char *path, const struct gguf_keys *keys, const struct tensor *t, int n);
err tensors_out_put(struct tensors_out *o, const void *bytes, size_t n);
err tensors_out_commit(struct tensors_out *o);   /* E_INTERNAL where bytes are missing; releases everything, also after an error */
void tensors_out_abandon(struct tensors_out *o); /* shards that were whole already stay: the folder is the caller's to remove */

/* GGUF metadata in the making. Keys keep the order in which they are added; a key twice is the caller's bug. */
struct gguf_keys {
    str bytes;
    uint64_t n;
};
void gguf_key_u32(struct gguf_keys *k, const char *key, uint32_t v);
void gguf_key_f32(struct gguf_keys *k, const char *key, double v);
void gguf_key_bool(struct gguf_keys *k, const char *key, bool v);
void gguf_key_str(struct gguf_keys *k, const char *key, const char *v);
/* The head of an array; n elements follow through gguf_array_add_*(). */
void gguf_key_array(struct gguf_keys *k, const char *key, enum gguf_type elem, uint64_t n);
void gguf_array_add_str(struct gguf_keys *k, const char *s, size_t n);
void gguf_array_add_i32(struct gguf_keys *k, int32_t v);
void gguf_array_add_f32(struct gguf_keys *k, double v);
void gguf_array_add_bytes(struct gguf_keys *k, const void *bytes, size_t n); /* n elements of one byte */
void gguf_key_copy(struct gguf_keys *k, const struct gguf_kv *kv); /* a key of another file, as it is there */
void gguf_keys_free(struct gguf_keys *k);
/* The keys as a file without tensors, mapped nowhere: what a reader of metadata would see. bytes must outlive ts. */
err gguf_keys_open(const struct gguf_keys *k, str *bytes, struct tensors *ts);

/* The type's number in general.file_type (ggml's LLAMA_FTYPE of a file that is mostly of this type); -1: it has none. */
int gguf_file_type(dtype dt);
/* Types that a tensor of the format can be written in. */
bool gguf_writes(dtype dt);
bool safetensors_writes(dtype dt);

#endif
