/* A data file as plain bytes that can be read anywhere, whatever its size and whether it is compressed or not.
 *
 * Up to `most` plain bytes are had in memory (mapped, or unpacked), p then holds them all. What is longer stays on disk
 * and is read piece by piece (p is NULL): an uncompressed file where it lies; a compressed one is unpacked once into a
 * spool, a file without a name in $TMPDIR (or /var/tmp), which goes with the process. So a random record of a .zst costs
 * one read, and the price is its plain size on disk while the run lasts.
 *
 * Called by data/records.c and data/source.c. */
#ifndef CYC_DATA_TEXT_FILE_H
#define CYC_DATA_TEXT_FILE_H
#include "base/file.h"
#include "base/str.h"
#include "data/unpack.h"

struct text_file {
    const char *path;    /* the caller's */
    const uint8_t *p;    /* [n], or NULL: text_file_read() */
    uint64_t n;
    struct file_map map; /* plain bytes as the file has them */
    str plain;           /* unpacked ones */
    int fd;              /* -1: none */
    enum packing packing;
    char hash[33];       /* XXH3 128 of the file as it lies on disk */
};
err text_file_open(const char *path, uint64_t most, struct text_file *t); /* on error nothing is left to close */
/* The same from memory; the bytes must outlive it. */
err text_file_from(const char *path, const void *bytes, size_t n, uint64_t most, struct text_file *t);
/* Up to n bytes from `at`; fewer only at the end of the text. */
err text_file_read(const struct text_file *t, uint64_t at, char *to, size_t n, size_t *got);
void text_file_close(struct text_file *t);
#endif
