/* zlib's and libzstd's streaming decoders behind one loop. See unpack.h.
 *
 * zlib counts input in 32 bits, so a file is handed over in slices; zstd takes the same slices. */
#include "data/unpack.h"
#include "base/file.h"
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum { ROOM = 128 << 10, SLICE = 1 << 20, MOST_TIMES = 200, FORGET = 8 << 20 };
static const uint64_t BOMB_FROM = 64 << 20;

enum packing packing_of(const void *first, size_t n) {
    const uint8_t *p = first;
    if (n >= 3 && p[0] == 0x1f && p[1] == 0x8b && p[2] == 8) return PACKING_GZIP;
    if (n >= 4 && p[0] == 0x28 && p[1] == 0xb5 && p[2] == 0x2f && p[3] == 0xfd) return PACKING_ZSTD;
    if (n >= 4 && (p[0] & 0xf0) == 0x50 && p[1] == 0x2a && p[2] == 0x4d && p[3] == 0x18) return PACKING_ZSTD; /* skippable */
    return PACKING_NONE;
}

static err truncated(const struct unpack_io *io, const char *what) {
    return fail(E_INPUT, "%s: the %s stream ends early, at byte %zu: is the file cut off? Fetch it again", io->path, what, io->n);
}

struct progress {
    uint64_t total; /* plain bytes so far */
    size_t forgot;  /* pieces of the map that were let go */
};

static err give(const struct unpack_io *io, const uint8_t *plain, size_t n, size_t taken, struct progress *g) {
    g->total += n;
    for (; io->mapped && taken / FORGET > g->forgot; g->forgot++) file_forget(io->p + g->forgot * FORGET, FORGET);
    if (g->total > BOMB_FROM && g->total / MOST_TIMES > taken)
        return fail(E_INPUT,
                    "%s: the first %zu bytes unpack to more than %d times as many (%llu): this is a decompression bomb, or no text. If "
                    "it is real, unpack it yourself and name the plain file",
                    io->path, taken, MOST_TIMES, (unsigned long long)g->total);
    return n ? io->put(io->ctx, plain, n) : OK;
}

/* After a whole member: OK with *more = false at the end of the file or where only zeros follow. */
static err next_member(const struct unpack_io *io, size_t at, bool *more) {
    if (packing_of(io->p + at, io->n - at) == PACKING_GZIP) return *more = true, OK;
    *more = false;
    for (size_t i = at; i < io->n; i++)
        if (io->p[i]) return fail(E_INPUT, "%s: bytes that are not gzip follow the stream, at byte %zu", io->path, at);
    return OK;
}

static err unpack_gzip(const struct unpack_io *io, uint8_t *room) {
    z_stream z = {0};
    struct progress g = {0};
    size_t given = 0;
    bool more = true;
    if (inflateInit2(&z, 15 + 16) != Z_OK) return fail(E_MEMORY, "out of memory");
    err e = OK;
    while (!e && more) {
        if (!z.avail_in && given < io->n) {
            z.next_in = (Bytef *)(io->p + given);
            z.avail_in = (uInt)(io->n - given < SLICE ? io->n - given : SLICE);
            given += z.avail_in;
        }
        z.next_out = room;
        z.avail_out = ROOM;
        bool dry = !z.avail_in;
        int code = inflate(&z, Z_NO_FLUSH);
        size_t taken = given - z.avail_in;
        if (code == Z_MEM_ERROR) e = fail(E_MEMORY, "out of memory");
        else if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
            e = fail(E_INPUT, "%s: damaged gzip data near byte %zu: %s", io->path, taken, z.msg ? z.msg : "a dictionary is asked for");
        if (!e) e = give(io, room, ROOM - z.avail_out, taken, &g);
        if (!e && code == Z_STREAM_END) {
            e = next_member(io, taken, &more);
            if (!e && more) inflateReset(&z);
        } else if (!e && dry && z.avail_out) e = truncated(io, "gzip");
    }
    inflateEnd(&z);
    return e;
}

static err unpack_zstd(const struct unpack_io *io, uint8_t *room) {
    ZSTD_DStream *z = ZSTD_createDStream();
    struct progress g = {0};
    size_t at = 0, left = 1;
    if (!z) return fail(E_MEMORY, "out of memory");
    err e = OK;
    while (!e) {
        ZSTD_inBuffer in = {io->p + at, io->n - at < SLICE ? io->n - at : SLICE, 0};
        ZSTD_outBuffer out = {room, ROOM, 0};
        left = ZSTD_decompressStream(z, &out, &in);
        at += in.pos;
        if (ZSTD_isError(left)) {
            e = fail(E_INPUT, "%s: damaged zstd data near byte %zu: %s", io->path, at, ZSTD_getErrorName(left));
            break;
        }
        e = give(io, room, out.pos, at, &g);
        if (!e && at == io->n && out.pos < out.size) break;
    }
    if (!e && left) e = truncated(io, "zstd");
    ZSTD_freeDStream(z);
    return e;
}

err unpack(const struct unpack_io *io, enum packing packing) {
    uint8_t *room = malloc(ROOM);
    if (!room) return fail(E_MEMORY, "out of memory");
    err e = packing == PACKING_GZIP ? unpack_gzip(io, room) : unpack_zstd(io, room);
    free(room);
    return e;
}
