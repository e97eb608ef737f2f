/* See packed.h. What is read, W being the name of the weight:
 *   bitsandbytes NF4   W (U8, two weights a byte, high nibble first), W.absmax, W.quant_map,
 * W.quant_state.bitsandbytes__nf4 (U8: JSON), and where absmax is itself quantised W.nested_absmax, W.nested_quant_map
 * (QuantState.from_dict) F8_E4M3            W, and W_scale_inv or W_scale: one scale, one a row, or one a block of 128
 * x 128 (DeepSeek's checkpoints, transformers' fine-grained FP8, compressed-tensors); without any the numbers
 * themselves F8_E5M2, F64       W alone, as F16 and F32
 *
 * NF4 and E4M3 become the blocks of 64 of base/dtype.h, with their scale in front as f32: 4.5 and 8.5 bits a weight. NF4 whose
 * absmax is quantised keeps it so, in blocks of 512 (DT_NF4_DQ, 4.25 bits), where its rows are whole ones and its map and nesting are those
 * that bitsandbytes has; else its absmax is decoded in f32 as bitsandbytes does. Everything stays as it was trained: a product of scale and
 * code rounds once.
 *
 * It refuses: rows that are no whole number of blocks of 64, NF4 of another block size or code, scales that are not
 * finite, and by their names the schemes that are not read: FP4, int8, GPTQ, AWQ, MXFP4, packed compressed-tensors,
 * other groupings of F8 scales. Files are hostile: each companion's type and size is checked before it is read. */
#include "io/packed.h"
#include "base/nf4.h"
#include "base/str.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

enum { BLOCK = 64, F8_TILE = 128 };

static const char way_out[] = "use a GGUF file, NF4, or the model in bf16";

static bool stored_as(const struct tensor *t, const char *type) { return t && !strcmp(t->stored, type); }

static int64_t elements(const struct tensor *t) { return t->d[0] * t->d[1] * t->d[2] * t->d[3]; }

static const struct tensor *companion(const struct tensors *ts, const struct tensor *t, const char *suffix) {
    char name[2048];
    int n = snprintf(name, sizeof name, "%s%s", t->name, suffix);
    return n > 0 && n < (int)sizeof name ? tensors_find(ts, name) : NULL;
}

/* A companion that must be there, of that type and size. */
static err want(const struct tensors *ts, const struct tensor *t, const char *suffix, const char *type, int64_t n,
                const struct tensor **out) {
    const struct tensor *c = *out = companion(ts, t, suffix);
    if (!c)
        return fail(E_INPUT, "%s: tensor %s has no %s%s beside it: the file is incomplete", ts->path, t->name, t->name,
                    suffix);
    if (!stored_as(c, type) || elements(c) != n)
        return fail(E_INPUT, "%s: tensor %s is %s of %lld elements, must be %s of %lld", ts->path, c->name, c->stored,
                    (long long)elements(c), type, (long long)n);
    return OK;
}

/* Room for `out`, [rows, cols] of a type. */
static err make(struct tensors *ts, const struct tensor *t, dtype dt, int64_t rows, int64_t cols, struct tensor *out) {
    if (cols % dtype_info[dt].block)
        return fail(E_UNSUPPORTED,
                    "%s: tensor %s: rows of %lld weights are no whole number of blocks of %d, which %s needs; %s",
                    ts->path, t->name, (long long)cols, dtype_info[dt].block, dtype_info[dt].name, way_out);
    *out = *t;
    out->dt = dt;
    out->bytes = (size_t)rows * dtype_row_bytes(dt, cols);
    out->data = arena_alloc(&ts->mem, out->bytes);
    if (!out->data) return fail(E_MEMORY, "%s: out of memory for tensor %s (%zu bytes)", ts->path, t->name, out->bytes);
    ts->copied += out->bytes;
    return OK;
}

static err not_finite(const struct tensors *ts, const struct tensor *t, int64_t row) {
    return fail(E_NUMERIC, "%s: tensor %s is not finite (NaN or infinity) in row %lld", ts->path, t->name,
                (long long)row);
}

/* --- NF4 --------------------------------------------------------------------------------------------------------- */

struct nf4 {
    const uint8_t *packed;
    const float *absmax;                      /* or, where it is quantised: */
    const uint8_t *codes;                     /* one a block */
    const float *nested_absmax, *nested_code; /* one for nested_block blocks; 256 */
    int64_t nested_block, rows, cols;
    float offset;
};

/* Can a block of DT_NF4_DQ hold what those blocks of 64 have? */
static bool stays_nested(const struct nf4 *q) {
    return q->codes && q->nested_block % NF4_DQ_SCALES == 0 && !memcmp(q->nested_code, nf4_map, sizeof nf4_map) &&
           nf4_kept(DT_NF4, true, q->cols) == DT_NF4_DQ;
}

static float nf4_absmax(const struct nf4 *q, int64_t block) {
    return q->absmax ? q->absmax[block] : nf4_unnest(q->nested_code[q->codes[block]], q->nested_absmax[block / q->nested_block], q->offset);
}

static err read_state(const struct tensors *ts, const struct tensor *state, struct nf4 *q) {
    json_error_t why;
    json_t *j = json_loadb(state->data, state->bytes, JSON_REJECT_DUPLICATES, &why);
    if (!j) return fail(E_INPUT, "%s: tensor %s is not valid JSON at its byte %d", ts->path, state->name, why.position);
    const char *type = json_string_value(json_object_get(j, "quant_type"));
    const json_t *shape = json_object_get(j, "shape"), *offset = json_object_get(j, "nested_offset");
    json_int_t block = json_integer_value(json_object_get(j, "blocksize"));
    q->rows = json_integer_value(json_array_get(shape, 0));
    q->cols = json_integer_value(json_array_get(shape, 1));
    q->nested_block = json_integer_value(json_object_get(j, "nested_blocksize"));
    q->offset = (float)json_number_value(offset);
    err e = OK;
    if (!type || strcmp(type, "nf4") != 0 || block != BLOCK)
        e = fail(E_UNSUPPORTED, "%s: tensor %s: quant_type must be nf4 and blocksize %d; %s", ts->path, state->name,
                 BLOCK, way_out);
    else if (json_array_size(shape) != 2 || q->rows < 1 || q->cols < 1 || q->rows > INT32_MAX || q->cols > INT32_MAX)
        e = fail(E_INPUT, "%s: tensor %s: its shape is not that of a matrix", ts->path, state->name);
    else if (offset && (q->nested_block < 1 || !isfinite(q->offset)))
        e = fail(E_INPUT, "%s: tensor %s: nested_blocksize or nested_offset is no such number", ts->path, state->name);
    json_decref(j);
    return e;
}

static err read_nf4(const struct tensors *ts, const struct tensor *t, const struct tensor *state, struct nf4 *q) {
    const struct tensor *c;
    TRY(read_state(ts, state, q));
    int64_t n = q->rows * q->cols, blocks = n / BLOCK;
    if (n % 2 || elements(t) != n / 2)
        return fail(E_INPUT, "%s: tensor %s has %lld bytes; its quant_state says [%lld, %lld], half a byte each",
                    ts->path, t->name, (long long)elements(t), (long long)q->rows, (long long)q->cols);
    q->packed = t->data;
    TRY(want(ts, t, ".quant_map", "F32", 16, &c));
    for (int i = 0; i < 16; i++)
        if (!(fabsf(((const float *)c->data)[i] - nf4_code[i]) < 1e-6f))
            return fail(E_UNSUPPORTED, "%s: tensor %s is not NF4's code; %s", ts->path, c->name, way_out);
    bool nested = companion(ts, t, ".nested_absmax") != NULL;
    TRY(want(ts, t, ".absmax", nested ? "U8" : "F32", (n + BLOCK - 1) / BLOCK, &c));
    if (nested) q->codes = c->data;
    else q->absmax = c->data;
    if (!nested) return OK;
    if (q->nested_block < 1)
        return fail(E_INPUT, "%s: tensor %s: no nested_blocksize beside a quantised absmax", ts->path, state->name);
    TRY(want(ts, t, ".nested_absmax", "F32", (blocks + q->nested_block - 1) / q->nested_block, &c));
    q->nested_absmax = c->data;
    TRY(want(ts, t, ".nested_quant_map", "F32", 256, &c));
    q->nested_code = c->data;
    return OK;
}

/* 64 weights: in each 32 pairs (2 i, 2 i + 1) become pairs (i, i + 16). */
static void repack_codes(const uint8_t *p, uint8_t *to) {
    for (int h = 0; h < 32; h += 16)
        for (int i = 0; i < 8; i++) {
            uint8_t u = p[h + i], v = p[h + 8 + i];
            to[h + 2 * i] = (uint8_t)(u >> 4 | (v & 0xF0));
            to[h + 2 * i + 1] = (uint8_t)((u & 15) | v << 4);
        }
}

/* Blocks first .. last of the matrix, in type dt; false where a scale is not finite. */
static bool repack_nf4(const struct nf4 *q, int64_t first, int64_t last, dtype dt, uint8_t *b) {
    const int per = dtype_info[dt].block / BLOCK;
    bool fine = true;
    for (int64_t k = first; k < last; k++) {
        const int i = (int)(k - first) % per;
        const float absmax = nf4_absmax(q, k);
        fine &= (bool)isfinite(absmax);
        repack_codes(q->packed + k * (BLOCK / 2), b + (dt == DT_NF4 ? 4 : nf4_dq_nibbles(2 * i)));
        if (dt == DT_NF4) memcpy(b, &absmax, sizeof absmax);
        else if (!i) nf4_dq_put(b, q->nested_absmax[k / q->nested_block], q->offset, q->codes + k);
        if (i == per - 1) b += dtype_info[dt].bytes;
    }
    return fine;
}

static err take_nf4(struct tensors *ts, const struct tensor *t, const struct tensor *state, struct tensor *out) {
    struct nf4 q = {0};
    TRY(read_nf4(ts, t, state, &q));
    TRY(make(ts, t, stays_nested(&q) ? DT_NF4_DQ : DT_NF4, q.rows, q.cols, out));
    out->nd = 2;
    out->d[0] = q.rows, out->d[1] = q.cols;
    uint8_t *to = (uint8_t *)(uintptr_t)out->data;
    int64_t per = q.cols / BLOCK, bad = -1;
#pragma omp parallel for reduction(max : bad)
    for (int64_t r = 0; r < q.rows; r++)
        if (!repack_nf4(&q, r * per, (r + 1) * per, out->dt, to + dtype_row_bytes(out->dt, q.cols) * (size_t)r)) bad = r;
    return bad < 0 ? OK : not_finite(ts, t, bad);
}

/* --- F8 ---------------------------------------------------------------------------------------------------------- */

struct scale_map {
    const struct tensor *t; /* NULL: all are 1 */
    int64_t row, col, ld;   /* weights that share one, downwards and along a row; scales from row to row */
};

static float scale_at(const struct scale_map *m, int64_t row, int64_t col) {
    float s = 1;
    if (m->t)
        dequantise_row(m->t->dt,
                       (const char *)m->t->data +
                           (size_t)(row / m->row * m->ld + col / m->col) * (size_t)dtype_info[m->t->dt].bytes,
                       &s, 1);
    return s;
}

static err find_scales(const struct tensors *ts, const struct tensor *t, struct scale_map *m) {
    const int64_t R = t->d[0], C = t->d[1], tr = (R + F8_TILE - 1) / F8_TILE, tc = (C + F8_TILE - 1) / F8_TILE;
    const struct tensor *s = m->t = companion(ts, t, "_scale_inv");
    if (!s) s = m->t = companion(ts, t, "_scale");
    *m = (struct scale_map){s, R, C, 0};
    if (!s) return OK;
    if (!dtype_plain(s->dt))
        return fail(E_UNSUPPORTED, "%s: tensor %s: scales of type %s are not read; %s", ts->path, s->name, s->stored,
                    way_out);
    if (elements(s) == 1) return OK;
    if (s->nd == 2 && s->d[0] == tr && s->d[1] == tc) return *m = (struct scale_map){s, F8_TILE, F8_TILE, tc}, OK;
    if (elements(s) == R && s->d[0] == R) return *m = (struct scale_map){s, 1, C, 1}, OK;
    return fail(
        E_UNSUPPORTED,
        "%s: tensor %s is [%lld, %lld]: scales are read one for the matrix, one a row, or one a block of %d x %d; %s",
        ts->path, s->name, (long long)s->d[0], (long long)s->d[1], F8_TILE, F8_TILE, way_out);
}

static err take_e4m3(struct tensors *ts, const struct tensor *t, struct tensor *out) {
    struct scale_map m;
    if (t->nd != 2) return fail(E_UNSUPPORTED, "%s: tensor %s in F8_E4M3 is no matrix; %s", ts->path, t->name, way_out);
    TRY(find_scales(ts, t, &m));
    TRY(make(ts, t, DT_E4M3, t->d[0], t->d[1], out));
    int64_t per = t->d[1] / BLOCK, bad = -1;
#pragma omp parallel for reduction(max : bad)
    for (int64_t r = 0; r < t->d[0]; r++) {
        uint8_t *b = (uint8_t *)(uintptr_t)out->data + (size_t)(r * per) * 68;
        const uint8_t *p = (const uint8_t *)t->data + r * t->d[1];
        for (int64_t k = 0; k < per; k++, b += 68, p += BLOCK) {
            float s = scale_at(&m, r, k * BLOCK);
            memcpy(b, &s, 4);
            memcpy(b + 4, p, BLOCK);
            for (int i = 0; i < BLOCK; i++)
                if ((p[i] & 0x7F) == 0x7F) bad = r;
            if (!isfinite(s)) bad = r;
        }
    }
    return bad < 0 ? OK : not_finite(ts, t, bad);
}

/* --- plain types ----------------------------------------------------------------------------------------------------
 */

/* E5M2 is the upper byte of an f16. */
static err widen(struct tensors *ts, const struct tensor *t, dtype dt, struct tensor *out) {
    const int64_t n = elements(t);
    TRY(make(ts, t, dt, 1, n, out));
    for (int64_t i = 0; i < n; i++) {
        double v;
        if (dt == DT_F16) ((uint16_t *)(uintptr_t)out->data)[i] = (uint16_t)(((const uint8_t *)t->data)[i] << 8);
        else memcpy(&v, (const char *)t->data + 8 * i, 8), ((float *)(uintptr_t)out->data)[i] = (float)v;
    }
    return OK;
}

static err unpack(struct tensors *ts, const struct tensor *t, struct tensor *out) {
    const struct tensor *nf4 = companion(ts, t, ".quant_state.bitsandbytes__nf4");
    if (stored_as(t, "U8") && nf4)
        return stored_as(nf4, "U8")
                   ? take_nf4(ts, t, nf4, out)
                   : fail(E_INPUT, "%s: tensor %s is %s, must be U8", ts->path, nf4->name, nf4->stored);
    if (companion(ts, t, ".quant_state.bitsandbytes__fp4"))
        return fail(E_UNSUPPORTED, "%s: tensor %s is quantised by bitsandbytes to FP4, which is not read; %s", ts->path,
                    t->name, way_out);
    if (stored_as(t, "I8"))
        return fail(
            E_UNSUPPORTED,
            "%s: tensor %s is quantised to int8 (bitsandbytes LLM.int8(), compressed-tensors), which is not read; %s",
            ts->path, t->name, way_out);
    if (stored_as(t, "F8_E4M3")) return take_e4m3(ts, t, out);
    if (stored_as(t, "F8_E5M2")) {
        if (companion(ts, t, "_scale_inv") || companion(ts, t, "_scale"))
            return fail(E_UNSUPPORTED, "%s: tensor %s: F8_E5M2 with scales is not read; %s", ts->path, t->name,
                        way_out);
        return widen(ts, t, DT_F16, out);
    }
    if (stored_as(t, "F64")) return widen(ts, t, DT_F32, out);
    return tensor_readable(ts, t);
}

err packed_tensor(struct tensors *ts, const struct tensor *t, struct tensor *out) {
    TRY(unpack(ts, t, out));
    tensors_forget(ts, t->data, t->bytes);
    return OK;
}

err packed_missing(const struct tensors *ts, const char *name) {
    static const struct {
        const char *suffix, *scheme;
    } known[] = {{".qweight", "GPTQ or AWQ"},
                 {".weight_packed", "compressed-tensors in packed integers"},
                 {".weight_blocks", "MXFP4"},
                 {"_blocks", "MXFP4"}};
    char other[2048];
    int n = (int)strlen(name) - (str_ends(name, ".weight") ? 7 : 0);
    for (size_t i = 0; i < sizeof known / sizeof *known && n < 1024; i++) {
        snprintf(other, sizeof other, "%.*s%s", n, name, known[i].suffix);
        if (tensors_find(ts, other))
            return fail(E_UNSUPPORTED, "%s: tensor %s is quantised as %s (%s is there), which is not read; %s",
                        ts->path, name, known[i].scheme, other, way_out);
    }
    return fail(E_INPUT, "%s: tensor %s is missing", ts->path, name);
}
