/* See nf4_out.h. */
#include "export/nf4_out.h"
#include "base/nf4.h"
#include <stdio.h>
#include <string.h>

enum { STATE_BYTES = 256, ALIGN = 8 };

static int64_t blocks_of(const struct item *it) { return it->rows * (it->cols / NF4_BLOCK); }
static int64_t nests_of(const struct item *it) { return (blocks_of(it) + NF4_NEST - 1) / NF4_NEST; }

/* The JSON comes behind a byte for each block, and ends where what follows is aligned. */
static int64_t state_bytes(const struct item *it) { return STATE_BYTES + (ALIGN - blocks_of(it) % ALIGN) % ALIGN; }

int nf4_out_tensors(const struct item *it, bool nested, arena *mem, struct tensor t[NF4_TENSORS]) {
    const int64_t n = blocks_of(it);
    const struct {
        const char *suffix;
        int64_t d[2];
        bool bytes, nest;
    } parts[NF4_TENSORS] = {
        {"", {n * NF4_BLOCK / 2, 1}, true, false},    {".nested_absmax", {nests_of(it), 0}, false, true},
        {".nested_quant_map", {256, 0}, false, true}, {".quant_map", {16, 0}, false, false},
        {".absmax", {n, 0}, nested, false},           {".quant_state.bitsandbytes__nf4", {state_bytes(it), 0}, true, false}};
    int k = 0;
    for (int i = 0; i < NF4_TENSORS; i++) {
        if (parts[i].nest && !nested) continue;
        t[k] = (struct tensor){.name = arena_printf(mem, "%s%s", it->t.name, parts[i].suffix), .nd = parts[i].d[1] ? 2 : 1};
        t[k].dt = parts[i].bytes ? DT_NONE : DT_F32;
        t[k].stored = parts[i].bytes ? "U8" : "F32";
        memcpy(t[k].d, parts[i].d, sizeof parts[i].d);
        t[k].bytes = (size_t)parts[i].d[0] * (parts[i].bytes ? 1 : 4);
        if (!t[k++].name) return 0;
    }
    return k;
}

size_t nf4_out_bytes(int64_t blocks) { return (size_t)blocks * 5 + (size_t)(blocks / NF4_NEST + 1) * 4; }

struct nf4_scales nf4_out_room(void *room, int64_t blocks) {
    float *absmax = room, *nested = absmax + blocks;
    return (struct nf4_scales){absmax, (uint8_t *)(nested + blocks / NF4_NEST + 1), nested};
}

void nf4_out_row(const struct item *it, const struct nf4_scales *s, int64_t r, const float *row, void *room, uint8_t *to) {
    const int64_t per = it->cols / NF4_BLOCK;
    quantise_row(DT_NF4, row, room, it->cols);
    nf4_take_absmax(room, per, s->absmax + r * per);
    for (int64_t k = 0; k < per; k++, to += NF4_BLOCK / 2) { /* of 32 weights: pairs (i, i + 16) become pairs (2 i, 2 i + 1) */
        const uint8_t *b = (const uint8_t *)room + k * NF4_BYTES + 4;
        for (int i = 0; i < NF4_BLOCK / 2; i++) {
            const uint8_t *p = b + i / 16 * 16 + i % 8 * 2;
            const int up = i % 16 < 8 ? 0 : 4;
            to[i] = (uint8_t)((p[0] >> up & 15) << 4 | (p[1] >> up & 15));
        }
    }
}

static const char *torch_dtype(dtype dt) { return dt == DT_F16 ? "float16" : dt == DT_BF16 ? "bfloat16" : "float32"; }

err nf4_out_rest(const struct item *it, bool nested, const struct nf4_scales *s, struct tensors_out *o) {
    const int64_t n = blocks_of(it);
    const float offset = nested ? nf4_offset(s->absmax, n) : 0;
    char state[STATE_BYTES + ALIGN], more[96] = "";
    if (nested) {
        nf4_nest(s->absmax, n, offset, s->code, s->nested);
        TRY(tensors_out_put(o, s->nested, (size_t)nests_of(it) * 4));
        TRY(tensors_out_put(o, nf4_map, sizeof nf4_map));
        snprintf(more, sizeof more, ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": %.17g", NF4_NEST,
                 (double)offset);
    }
    TRY(tensors_out_put(o, nf4_code, sizeof nf4_code));
    TRY(tensors_out_put(o, nested ? (const void *)s->code : s->absmax, (size_t)n * (nested ? 1 : 4)));
    memset(state, ' ', sizeof state);
    const int n_state =
        snprintf(state, STATE_BYTES, "{\"quant_type\": \"nf4\", \"blocksize\": %d, \"dtype\": \"%s\", \"shape\": [%lld, %lld]%s}",
                 NF4_BLOCK, torch_dtype(it->dt), (long long)it->rows, (long long)it->cols, more);
    if (n_state >= STATE_BYTES) return fail(E_INTERNAL, "%s: the state of '%s' has no room", o->path, it->t.name);
    state[n_state] = ' ';
    return tensors_out_put(o, state, (size_t)state_bytes(it));
}
