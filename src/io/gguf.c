/* Reads GGUF, llama.cpp's format: a header, key-value metadata, a list of tensor descriptions, then aligned data.
 * Versions 2 and 3, little endian, one file. Called by tensors_open() with the file mapped; the tokenizer and the model
 * loader use the getters.
 *
 * The file is hostile: `struct reader` is the only way to its bytes, and take() checks each step against what is left.
 * Counts are held against the bytes that follow before anything is allocated for them.
 *
 * It refuses: other element types than those the kernels read (E_UNSUPPORTED, by ggml's name), arrays of arrays, files
 * split in parts, big endian, version 1. What a byte cannot mean is E_INPUT, with the byte's offset.
 *
 * Invariants of what it returns: metadata sorted by key, no key twice; every array's elements lie inside the file. */
#include "io/tensors.h"
#include "io/tensors_internal.h"
#include <stdarg.h>
#include <stdlib.h>

enum { N_DIMS_MAX = 4, ALIGNMENT_DEFAULT = 32, N_KEYS_MAX = 1 << 16, N_TENSORS_MAX = 1 << 20 };

/* The least bytes that a key (u64 length, 1 byte, u32 type, 1 byte of value) and a tensor's description (u64 length,
 * 1 byte, u32 nd, one u64, u32 type, u64 offset) can take: a bound on any honest count. */
enum { KEY_BYTES_MIN = 14, TENSOR_BYTES_MIN = 33 };

static const uint8_t value_bytes[] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

/* ggml's types by number. Those without a dtype are known by name only, for the message. */
static const struct {
    const char *name;
    dtype dt;
} ggml_types[] = {
    [0] = {"F32", DT_F32},    [1] = {"F16", DT_F16},    [2] = {"Q4_0", DT_Q4_0},  [3] = {"Q4_1", DT_Q4_1},
    [4] = {"Q4_2", 0},        [5] = {"Q4_3", 0},        [6] = {"Q5_0", DT_Q5_0},        [7] = {"Q5_1", DT_Q5_1},
    [8] = {"Q8_0", DT_Q8_0},  [9] = {"Q8_1", 0},        [10] = {"Q2_K", DT_Q2_K},       [11] = {"Q3_K", DT_Q3_K},
    [12] = {"Q4_K", DT_Q4_K},       [13] = {"Q5_K", DT_Q5_K},       [14] = {"Q6_K", DT_Q6_K}, [15] = {"Q8_K", 0},
    [16] = {"IQ2_XXS", 0},    [17] = {"IQ2_XS", 0},     [18] = {"IQ3_XXS", 0},    [19] = {"IQ1_S", 0},
    [20] = {"IQ4_NL", DT_IQ4_NL},     [21] = {"IQ3_S", 0},      [22] = {"IQ2_S", 0},      [23] = {"IQ4_XS", DT_IQ4_XS},
    [24] = {"I8", 0},         [25] = {"I16", 0},        [26] = {"I32", DT_I32},   [27] = {"I64", 0},
    [28] = {"F64", 0},        [29] = {"IQ1_M", 0},      [30] = {"BF16", DT_BF16}, [31] = {"Q4_0_4_4", 0},
    [32] = {"Q4_0_4_8", 0},   [33] = {"Q4_0_8_8", 0},   [34] = {"TQ1_0", 0},      [35] = {"TQ2_0", 0},
    [36] = {"IQ4_NL_4_4", 0}, [37] = {"IQ4_NL_4_8", 0}, [38] = {"IQ4_NL_8_8", 0}, [39] = {"MXFP4", 0},
    [40] = {"NVFP4", 0},      [41] = {"Q1_0", 0},
};
static const char supported_types[] = "F32, F16, BF16, I32, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS";

int gguf_type_number(dtype dt) {
    for (size_t i = 0; dt && i < sizeof ggml_types / sizeof *ggml_types; i++)
        if (ggml_types[i].dt == dt) return (int)i;
    return -1;
}

size_t gguf_value_bytes(enum gguf_type type) { return value_bytes[type]; }

struct reader {
    arena *mem;
    const char *path;
    struct file_map m;
    size_t at;
    char what[NAME_BYTES_MAX + 32]; /* what is being read, for messages: "key 3", "tensor 'output.weight'" */
};

static void now_reading(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void now_reading(struct reader *r, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->what, sizeof r->what, fmt, ap);
    va_end(ap);
}

static size_t left(const struct reader *r) { return r->m.n - r->at; }

static err out_of_memory(const struct reader *r) { return fail(E_MEMORY, "%s: out of memory", r->path); }

/* The next n bytes; NULL, with the message recorded for an E_INPUT, where the file ends before. */
static const uint8_t *take(struct reader *r, uint64_t n, const char *field) {
    if (n > left(r)) {
        fail(E_INPUT, "%s: %s: %s at byte %zu takes %llu bytes and only %zu are left: truncated or corrupt", r->path,
             r->what, field, r->at, (unsigned long long)n, left(r));
        return NULL;
    }
    const uint8_t *p = r->m.p + r->at;
    r->at += (size_t)n;
    return p;
}

static err take_u32(struct reader *r, const char *field, uint32_t *v) {
    const uint8_t *p = take(r, 4, field);
    if (!p) return E_INPUT;
    *v = load_u32(p);
    return OK;
}

static err take_u64(struct reader *r, const char *field, uint64_t *v) {
    const uint8_t *p = take(r, 8, field);
    if (!p) return E_INPUT;
    *v = load_u64(p);
    return OK;
}

/* A string as the file has it: u64 length, then bytes. NULL as take(). */
static const char *take_string(struct reader *r, const char *field, uint64_t *n) {
    if (take_u64(r, field, n)) return NULL;
    return (const char *)take(r, *n, field);
}

static err take_name(struct reader *r, const char **name) {
    uint64_t n;
    size_t at = r->at;
    const char *s = take_string(r, "the name", &n);
    if (!s) return E_INPUT;
    if (!name_valid(s, n))
        return fail(E_INPUT, "%s: %s: the name at byte %zu (%llu bytes) is not 1 to %d bytes of plain UTF-8: corrupt",
                    r->path, r->what, at, (unsigned long long)n, NAME_BYTES_MAX);
    *name = arena_strn(r->mem, s, n);
    return *name ? OK : out_of_memory(r);
}

static err check_bools(const struct reader *r, const uint8_t *p, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (p[i] > 1)
            return fail(E_INPUT, "%s: %s: a bool at byte %zu is %d, not 0 or 1: corrupt", r->path, r->what,
                        (size_t)(p + i - r->m.p), p[i]);
    return OK;
}

static void widen(enum gguf_type type, const uint8_t *p, struct gguf_kv *kv) {
    float f;
    switch (type) {
    case GGUF_U8:
    case GGUF_BOOL: kv->v.u = *p; break;
    case GGUF_I8: kv->v.i = (int8_t)*p; break;
    case GGUF_U16: kv->v.u = (uint16_t)(p[0] | p[1] << 8); break;
    case GGUF_I16: kv->v.i = (int16_t)(p[0] | p[1] << 8); break;
    case GGUF_U32: kv->v.u = load_u32(p); break;
    case GGUF_I32: kv->v.i = (int32_t)load_u32(p); break;
    case GGUF_U64: kv->v.u = load_u64(p); break;
    case GGUF_I64: kv->v.i = (int64_t)load_u64(p); break;
    case GGUF_F64: memcpy(&kv->v.f, p, 8); break;
    case GGUF_F32:
        memcpy(&f, p, 4);
        kv->v.f = f;
        break;
    case GGUF_STRING:
    case GGUF_ARRAY: break; /* not scalars */
    }
}

static err take_type(struct reader *r, const char *field, enum gguf_type *type) {
    uint32_t v;
    TRY(take_u32(r, field, &v));
    if (v > GGUF_F64)
        return fail(E_INPUT, "%s: %s: %s at byte %zu is %u, GGUF has 0 to %d: corrupt", r->path, r->what, field,
                    r->at - 4, v, GGUF_F64);
    *type = (enum gguf_type)v;
    return OK;
}

static err read_array(struct reader *r, struct gguf_kv *kv) {
    TRY(take_type(r, "the array's element type", &kv->elem));
    if (kv->elem == GGUF_ARRAY)
        return fail(E_UNSUPPORTED, "%s: %s: an array of arrays; arrays of numbers or strings are supported", r->path,
                    r->what);
    TRY(take_u64(r, "the array's length", &kv->n));
    uint64_t least = kv->elem == GGUF_STRING ? 8 : value_bytes[kv->elem];
    if (kv->n > left(r) / least)
        return fail(E_INPUT,
                    "%s: %s: an array of %llu elements at byte %zu, and only %zu bytes are left: truncated or corrupt",
                    r->path, r->what, (unsigned long long)kv->n, r->at, left(r));
    kv->raw = r->m.p + r->at;
    if (kv->elem == GGUF_STRING) {
        for (uint64_t i = 0, n; i < kv->n; i++)
            if (!take_string(r, "a string of the array", &n)) return E_INPUT;
        return OK;
    }
    const uint8_t *p = take(r, kv->n * least, "the array");
    if (!p) return E_INPUT;
    return kv->elem == GGUF_BOOL ? check_bools(r, p, kv->n) : OK;
}

static err read_key(struct reader *r, struct gguf_kv *kv) {
    TRY(take_name(r, &kv->key));
    now_reading(r, "key '%s'", kv->key);
    TRY(take_type(r, "the value's type", &kv->type));
    if (kv->type == GGUF_ARRAY) return read_array(r, kv);
    if (kv->type == GGUF_STRING) {
        const char *s = take_string(r, "the string", &kv->n);
        if (!s) return E_INPUT;
        kv->v.s = arena_strn(r->mem, s, kv->n);
        return kv->v.s ? OK : out_of_memory(r);
    }
    const uint8_t *p = take(r, value_bytes[kv->type], "the value");
    if (!p) return E_INPUT;
    if (kv->type == GGUF_BOOL) TRY(check_bools(r, p, 1));
    widen(kv->type, p, kv);
    return OK;
}

static int order_of_keys(const void *a, const void *b) {
    return strcmp(((const struct gguf_kv *)a)->key, ((const struct gguf_kv *)b)->key);
}

static err read_keys(struct reader *r, struct gguf_meta *meta, uint64_t n) {
    meta->kv = arena_alloc(r->mem, n * sizeof *meta->kv);
    if (!meta->kv) return out_of_memory(r);
    for (; (uint64_t)meta->n < n; meta->n++) {
        now_reading(r, "key %d of %llu", meta->n + 1, (unsigned long long)n);
        TRY(read_key(r, &meta->kv[meta->n]));
    }
    qsort(meta->kv, n, sizeof *meta->kv, order_of_keys);
    for (int i = 1; i < meta->n; i++)
        if (!strcmp(meta->kv[i - 1].key, meta->kv[i].key))
            return fail(E_INPUT, "%s: key '%s' occurs twice: the file is corrupt", r->path, meta->kv[i].key);
    return OK;
}

/* What the keys say about the file itself. */
static err check_keys(const struct reader *r, struct gguf_meta *meta) {
    meta->alignment = ALIGNMENT_DEFAULT;
    const struct gguf_kv *kv = gguf_find(meta, "general.alignment");
    if (kv) {
        uint64_t a = kv->type == GGUF_U32 ? kv->v.u : 0;
        if (a < 8 || (a & (a - 1)))
            return fail(E_INPUT,
                        "%s: general.alignment is %llu, not a u32 that is a power of two of at least 8: corrupt",
                        r->path, (unsigned long long)a);
        meta->alignment = (uint32_t)a;
    }
    uint64_t parts;
    if (gguf_u64(meta, "split.count", &parts) && parts > 1)
        return fail(E_UNSUPPORTED, "%s: one of %llu parts of a split model; join them first: llama-gguf-split --merge",
                    r->path, (unsigned long long)parts);
    return OK;
}

static err read_header(struct reader *r, uint32_t *version, uint64_t *n_tensors, uint64_t *n_keys) {
    now_reading(r, "the header");
    const uint8_t *magic = take(r, 4, "the magic");
    if (!magic) return E_INPUT;
    if (memcmp(magic, "GGUF", 4))
        return fail(E_INPUT, "%s: not a GGUF file: it starts with bytes %02x %02x %02x %02x, not \"GGUF\"", r->path,
                    magic[0], magic[1], magic[2], magic[3]);
    TRY(take_u32(r, "the version", version));
    if (*version && !(*version & 0xFFFF))
        return fail(E_UNSUPPORTED, "%s: a big-endian GGUF file; little endian is supported", r->path);
    if (*version != 2 && *version != 3)
        return fail(E_UNSUPPORTED, "%s: GGUF version %u; versions 2 and 3 are supported", r->path, *version);
    TRY(take_u64(r, "the number of tensors", n_tensors));
    TRY(take_u64(r, "the number of keys", n_keys));
    if (*n_keys > N_KEYS_MAX || *n_keys > left(r) / KEY_BYTES_MIN)
        return fail(E_INPUT,
                    "%s: the header (byte 16) claims %llu keys, too many for the %zu bytes that follow: corrupt",
                    r->path, (unsigned long long)*n_keys, left(r));
    if (*n_tensors > N_TENSORS_MAX || *n_tensors > left(r) / TENSOR_BYTES_MIN)
        return fail(E_INPUT,
                    "%s: the header (byte 8) claims %llu tensors, too many for the %zu bytes that follow: corrupt",
                    r->path, (unsigned long long)*n_tensors, left(r));
    return OK;
}

static err take_shape(struct reader *r, struct tensor *t) {
    uint32_t nd;
    TRY(take_u32(r, "the number of dimensions", &nd));
    if (nd < 1 || nd > N_DIMS_MAX)
        return fail(E_INPUT, "%s: %s: %u dimensions at byte %zu, GGUF has 1 to %d: corrupt", r->path, r->what, nd,
                    r->at - 4, N_DIMS_MAX);
    t->nd = (int)nd;
    for (int i = 0; i < N_DIMS_MAX; i++) t->d[i] = 1;
    for (int i = t->nd - 1; i >= 0; i--) { /* the file's first is our last: the contiguous one */
        uint64_t d;
        TRY(take_u64(r, "a dimension", &d));
        if (d < 1 || d > INT64_MAX)
            return fail(E_INPUT, "%s: %s: a dimension at byte %zu is %llu: corrupt", r->path, r->what, r->at - 8,
                        (unsigned long long)d);
        t->d[i] = (int64_t)d;
    }
    return OK;
}

static err take_dtype(struct reader *r, struct tensor *t) {
    uint32_t type;
    TRY(take_u32(r, "the type", &type));
    bool known = type < sizeof ggml_types / sizeof *ggml_types;
    t->dt = known ? ggml_types[type].dt : DT_NONE;
    if (known) t->stored = ggml_types[type].name;
    if (t->dt) return OK;
    return fail(E_UNSUPPORTED,
                "%s: %s is of type %s (ggml %u); supported are %s: take such a file, or requantise with llama-quantize",
                r->path, r->what, known ? ggml_types[type].name : "unknown", type, supported_types);
}

/* The tensor's bytes, or E_INPUT where the last dimension is no whole number of blocks or the product overflows. */
static err measure(const struct reader *r, struct tensor *t) {
    const struct dtype_info *info = &dtype_info[t->dt];
    int64_t last = t->d[t->nd - 1], n = last;
    if (last % info->block)
        return fail(E_INPUT, "%s: %s: rows of %lld elements are no multiple of %s's block of %d: corrupt", r->path,
                    r->what, (long long)last, info->name, info->block);
    bool overflow = false;
    for (int i = 0; i < t->nd - 1; i++) overflow = overflow || __builtin_mul_overflow(n, t->d[i], &n);
    overflow = overflow || __builtin_mul_overflow(n / info->block, info->bytes, &t->bytes);
    if (overflow || t->bytes > r->m.n)
        return fail(
            E_INPUT,
            "%s: %s: its shape [%lld, %lld, %lld, %lld] needs more than the file's %zu bytes: truncated or corrupt",
            r->path, r->what, (long long)t->d[0], (long long)t->d[1], (long long)t->d[2], (long long)t->d[3], r->m.n);
    return OK;
}

/* Stores the tensor's offset in the data section; its place is known only after the last description. */
static err read_description(struct reader *r, uint32_t alignment, struct tensor *t, uint64_t *offset) {
    TRY(take_name(r, &t->name));
    now_reading(r, "tensor '%s'", t->name);
    TRY(take_shape(r, t));
    TRY(take_dtype(r, t));
    TRY(measure(r, t));
    TRY(take_u64(r, "the offset", offset));
    if (*offset % alignment)
        return fail(E_INPUT, "%s: %s: its offset %llu (byte %zu) is no multiple of the alignment %u: corrupt", r->path,
                    r->what, (unsigned long long)*offset, r->at - 8, alignment);
    if (*offset > SIZE_MAX - r->m.n - alignment - t->bytes)
        return fail(E_INPUT, "%s: %s: its offset %llu (byte %zu) lies beyond any file: corrupt", r->path, r->what,
                    (unsigned long long)*offset, r->at - 8);
    return OK;
}

/* Gives every tensor its window. The one that reaches furthest tells how much of a truncated file is missing. */
static err place(const struct reader *r, uint32_t alignment, struct tensor *t, int n, const uint64_t *offset) {
    size_t start = (r->at + alignment - 1) & ~((size_t)alignment - 1), furthest = 0;
    int last = 0;
    for (int i = 0; i < n; i++) {
        size_t end = start + (size_t)offset[i] + t[i].bytes;
        if (end > furthest) furthest = end, last = i;
    }
    if (furthest > r->m.n)
        return fail(
            E_INPUT,
            "%s: tensor '%s' ends at byte %zu but the file has %zu: %zu bytes are missing; fetch the file again",
            r->path, t[last].name, furthest, r->m.n, furthest - r->m.n);
    for (int i = 0; i < n; i++) t[i].data = r->m.p + start + offset[i];
    tensors_sort_by_place(t, n);
    for (int i = 1; i < n; i++)
        if ((const uint8_t *)t[i - 1].data + t[i - 1].bytes > (const uint8_t *)t[i].data)
            return fail(E_INPUT, "%s: tensors '%s' and '%s' overlap at byte %zu: corrupt", r->path, t[i - 1].name,
                        t[i].name, (size_t)((const uint8_t *)t[i].data - r->m.p));
    return OK;
}

static err read_tensors(struct reader *r, struct tensors *ts, uint64_t n) {
    ts->t = arena_alloc(r->mem, n * sizeof *ts->t);
    uint64_t *offset = arena_alloc(r->mem, n * sizeof *offset);
    if (!ts->t || !offset) return out_of_memory(r);
    for (; (uint64_t)ts->n < n; ts->n++) {
        now_reading(r, "tensor %d of %llu", ts->n + 1, (unsigned long long)n);
        TRY(read_description(r, ts->meta->alignment, &ts->t[ts->n], &offset[ts->n]));
    }
    TRY(place(r, ts->meta->alignment, ts->t, ts->n, offset));
    return tensors_sort_by_name(r->path, ts->t, ts->n);
}

err gguf_read(struct tensors *ts, const char *path, struct file_map m) {
    struct reader r = {.mem = &ts->mem, .path = path, .m = m};
    uint64_t n_tensors = 0, n_keys = 0;
    ts->meta = arena_alloc(&ts->mem, sizeof *ts->meta);
    if (!ts->meta) return out_of_memory(&r);
    TRY(read_header(&r, &ts->meta->version, &n_tensors, &n_keys));
    TRY(read_keys(&r, ts->meta, n_keys));
    TRY(check_keys(&r, ts->meta));
    return read_tensors(&r, ts, n_tensors);
}

const struct gguf_kv *gguf_find(const struct gguf_meta *m, const char *key) {
    struct gguf_kv want = {.key = key};
    return m && m->n ? bsearch(&want, m->kv, (size_t)m->n, sizeof *m->kv, order_of_keys) : NULL;
}

static bool is_signed(enum gguf_type t) { return t == GGUF_I8 || t == GGUF_I16 || t == GGUF_I32 || t == GGUF_I64; }

static bool is_unsigned(enum gguf_type t) {
    return t == GGUF_U8 || t == GGUF_U16 || t == GGUF_U32 || t == GGUF_U64 || t == GGUF_BOOL;
}

bool gguf_u64(const struct gguf_meta *m, const char *key, uint64_t *out) {
    const struct gguf_kv *kv = gguf_find(m, key);
    if (!kv || !(is_unsigned(kv->type) || (is_signed(kv->type) && kv->v.i >= 0))) return false;
    *out = kv->v.u;
    return true;
}

bool gguf_f64(const struct gguf_meta *m, const char *key, double *out) {
    const struct gguf_kv *kv = gguf_find(m, key);
    if (!kv) return false;
    if (kv->type == GGUF_F32 || kv->type == GGUF_F64) *out = kv->v.f;
    else if (is_signed(kv->type)) *out = (double)kv->v.i;
    else if (is_unsigned(kv->type) && kv->type != GGUF_BOOL) *out = (double)kv->v.u;
    else return false;
    return true;
}

const char *gguf_str(const struct gguf_meta *m, const char *key) {
    const struct gguf_kv *kv = gguf_find(m, key);
    return kv && kv->type == GGUF_STRING ? kv->v.s : NULL;
}

const char *gguf_array_str(const uint8_t **cursor, uint64_t *len) {
    const char *s = (const char *)*cursor + 8;
    *len = load_u64(*cursor);
    *cursor += 8 + *len;
    return s;
}
