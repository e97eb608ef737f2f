/* Compressed bytes to plain ones: gzip and zstd, known by their first bytes, never by a name.
 *
 * Several members or frames in a row are one text, as `cat a.gz b.gz` makes them; zeros after the last gzip member are
 * padding. Refused with the offset in the compressed file: a stream that ends early, one that is damaged, anything else
 * after the last member, a zstd window beyond 128 MiB, and a text that is more than 200 times as long as what it came
 * from (beyond 64 MiB): real text never is, and a decompression bomb would fill memory or disk.
 *
 * The plain bytes go to a sink in pieces of at most 128 KiB, so memory here is bounded whatever the file claims. Called
 * by data/text_file.c. */
#ifndef CYC_DATA_UNPACK_H
#define CYC_DATA_UNPACK_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum packing { PACKING_NONE, PACKING_GZIP, PACKING_ZSTD };
enum packing packing_of(const void *first, size_t n);

struct unpack_io {
    const char *path; /* for messages */
    const uint8_t *p; /* the compressed bytes */
    size_t n;
    bool mapped; /* p is a file's map: pages that were read are let go */
    err (*put)(void *ctx, const void *plain, size_t n);
    void *ctx;
};
err unpack(const struct unpack_io *io, enum packing packing);

#endif
