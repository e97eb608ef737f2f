/* Writes GGUF version 3: metadata made key by key or copied from another file, the list of tensors, data aligned to 32 (the default,
 * so that general.alignment need not be there). See tensors_out.h for the stream behind it.
 *
 * Dimensions are written innermost first, as ggml counts them. Rows that are no multiple of a type's block are refused. */
#include "io/tensors_internal.h"
#include "io/tensors_out.h"

enum { ALIGNMENT = 32 };

static void put_u32(str *b, uint32_t v) { str_add(b, (const char *)&v, sizeof v); }
static void put_u64(str *b, uint64_t v) { str_add(b, (const char *)&v, sizeof v); }
static void put_text(str *b, const char *s, size_t n) {
    put_u64(b, n);
    str_add(b, s, n);
}

/* --- keys ------------------------------------------------------------------------------------------------------------ */
static void key(struct gguf_keys *k, const char *name, enum gguf_type type) {
    put_text(&k->bytes, name, strlen(name));
    put_u32(&k->bytes, type);
    k->n++;
}

void gguf_key_u32(struct gguf_keys *k, const char *name, uint32_t v) {
    key(k, name, GGUF_U32);
    put_u32(&k->bytes, v);
}

void gguf_key_f32(struct gguf_keys *k, const char *name, double v) {
    float f = (float)v;
    key(k, name, GGUF_F32);
    str_add(&k->bytes, (const char *)&f, sizeof f);
}

void gguf_key_bool(struct gguf_keys *k, const char *name, bool v) {
    key(k, name, GGUF_BOOL);
    str_addc(&k->bytes, v);
}

void gguf_key_str(struct gguf_keys *k, const char *name, const char *v) {
    key(k, name, GGUF_STRING);
    put_text(&k->bytes, v, strlen(v));
}

void gguf_key_array(struct gguf_keys *k, const char *name, enum gguf_type elem, uint64_t n) {
    key(k, name, GGUF_ARRAY);
    put_u32(&k->bytes, elem);
    put_u64(&k->bytes, n);
}

void gguf_array_add_str(struct gguf_keys *k, const char *s, size_t n) { put_text(&k->bytes, s, n); }
void gguf_array_add_i32(struct gguf_keys *k, int32_t v) { put_u32(&k->bytes, (uint32_t)v); }
void gguf_array_add_f32(struct gguf_keys *k, double v) {
    float f = (float)v;
    str_add(&k->bytes, (const char *)&f, sizeof f);
}
void gguf_array_add_bytes(struct gguf_keys *k, const void *bytes, size_t n) { str_add(&k->bytes, bytes, n); }

/* Widened scalars keep their low bytes: the format is little endian, as the machine is. */
static void copy_scalar(str *b, enum gguf_type type, const struct gguf_kv *kv) {
    float f = (float)kv->v.f;
    if (type == GGUF_F32) str_add(b, (const char *)&f, sizeof f);
    else str_add(b, (const char *)&kv->v, gguf_value_bytes(type));
}

void gguf_key_copy(struct gguf_keys *k, const struct gguf_kv *kv) {
    key(k, kv->key, kv->type);
    if (kv->type == GGUF_STRING) {
        put_text(&k->bytes, kv->v.s, kv->n);
        return;
    }
    if (kv->type != GGUF_ARRAY) {
        copy_scalar(&k->bytes, kv->type, kv);
        return;
    }
    const uint8_t *end = kv->raw;
    uint64_t len;
    if (kv->elem == GGUF_STRING)
        for (uint64_t i = 0; i < kv->n; i++) gguf_array_str(&end, &len);
    else end += kv->n * gguf_value_bytes(kv->elem);
    put_u32(&k->bytes, kv->elem);
    put_u64(&k->bytes, kv->n);
    str_add(&k->bytes, (const char *)kv->raw, (size_t)(end - kv->raw));
}

void gguf_keys_free(struct gguf_keys *k) {
    str_free(&k->bytes);
    *k = (struct gguf_keys){0};
}

/* --- files ----------------------------------------------------------------------------------------------------------- */
static void put_head(str *b, const struct gguf_keys *k, int n_tensors) {
    str_add(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, (uint64_t)n_tensors);
    put_u64(b, k->n);
    str_add(b, k->bytes.p, k->bytes.n);
}

err gguf_keys_open(const struct gguf_keys *k, str *bytes, struct tensors *ts) {
    *ts = (struct tensors){0};
    ts->path = "the metadata";
    str_clear(bytes);
    put_head(bytes, k, 0);
    if (bytes->failed || k->bytes.failed) return fail(E_MEMORY, "out of memory");
    err e = gguf_read(ts, ts->path, (struct file_map){(const uint8_t *)bytes->p, bytes->n});
    if (e) tensors_close(ts);
    return e;
}

int gguf_file_type(dtype dt) {
    static const struct {
        const char *name;
        int number;
    } types[] = {{"f32", 0},   {"f16", 1},   {"q4_0", 2},  {"q4_1", 3},  {"q8_0", 7},    {"q5_0", 8},    {"q5_1", 9}, {"q2_k", 10},
                 {"q3_k", 12}, {"q4_k", 15}, {"q5_k", 17}, {"q6_k", 18}, {"iq4_nl", 25}, {"iq4_xs", 30}, {"bf16", 32}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, dtype_info[dt].name)) return types[i].number;
    return -1;
}

bool gguf_writes(dtype dt) { return gguf_type_number(dt) >= 0 && (dtype_writable(dt) || dt == DT_I32); }

static err describe(struct tensors_out *o, const struct tensor *t, uint64_t at, str *b) {
    if (!name_valid(t->name, strlen(t->name)))
        return fail(E_USAGE, "%s: a tensor's name (%zu bytes) is not 1 to %d bytes of plain UTF-8", o->path, strlen(t->name),
                    NAME_BYTES_MAX);
    int number = gguf_type_number(t->dt);
    if (number < 0) return fail(E_UNSUPPORTED, "%s: tensor '%s' is %s, which GGUF does not have", o->path, t->name, dtype_info[t->dt].name);
    int64_t rows = 1, last = t->d[t->nd - 1];
    for (int i = 0; i < t->nd - 1; i++) rows *= t->d[i];
    if (last % dtype_info[t->dt].block)
        return fail(E_USAGE, "%s: tensor '%s': rows of %lld are no multiple of %s's block of %d", o->path, t->name, (long long)last,
                    dtype_info[t->dt].name, dtype_info[t->dt].block);
    if (rows <= 0 || last <= 0 || t->bytes != dtype_row_bytes(t->dt, last) * (size_t)rows)
        return fail(E_INTERNAL, "%s: tensor '%s': %zu bytes for %lld rows of %lld", o->path, t->name, t->bytes, (long long)rows,
                    (long long)last);
    put_text(b, t->name, strlen(t->name));
    put_u32(b, (uint32_t)t->nd);
    for (int i = t->nd - 1; i >= 0; i--) put_u64(b, (uint64_t)t->d[i]);
    put_u32(b, (uint32_t)number);
    put_u64(b, at);
    return OK;
}

static err begin(struct tensors_out *o, const struct gguf_keys *keys) {
    o->align = ALIGNMENT;
    o->shard = arena_alloc(&o->mem, sizeof *o->shard);
    if (!o->shard) return fail(E_MEMORY, "%s: out of memory", o->path);
    o->n_shards = 1;
    struct shard *s = o->shard;
    *s = (struct shard){.path = o->path, .n = o->n};
    const char *twice = tensors_name_twice(o->t, o->n);
    if (twice) return fail(E_USAGE, "%s: not written: two tensors are called '%s'", o->path, twice);
    put_head(&s->header, keys, o->n);
    uint64_t at = 0;
    for (int i = 0; i < o->n; at += tensors_out_span(o, &o->t[i++])) TRY(describe(o, &o->t[i], at, &s->header));
    while (s->header.n % ALIGNMENT && !s->header.failed) str_addc(&s->header, 0);
    o->total = s->header.n + at;
    return s->header.failed || keys->bytes.failed ? fail(E_MEMORY, "%s: out of memory", o->path) : OK;
}

err tensors_out_gguf(struct tensors_out *o, const char *path, const struct gguf_keys *keys, const struct tensor *t, int n) {
    TRY(tensors_out_begin(o, path, t, n));
    err e = begin(o, keys);
    if (e) tensors_out_abandon(o);
    return e;
}
