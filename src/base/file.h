/* Files as the rest of the library wants them: mapped read-only, or written so that a reader never sees half of one. */
#ifndef CYC_BASE_FILE_H
#define CYC_BASE_FILE_H
#include "base/err.h"
#include "base/str.h"
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct file_map {
    const uint8_t *p;
    size_t n;
};
err file_map(const char *path, struct file_map *m); /* read-only, private; directories and empty files are E_INPUT */
/* The same, and a descriptor of the file, which the caller closes: for file_read_at. */
err file_map_open(const char *path, struct file_map *m, int *fd);
void file_unmap(struct file_map *m);
/* Bytes of a map that are not needed soon: their pages leave this process's memory and come back when read again. */
void file_forget(const void *p, size_t n);
/* All n bytes from `at` on. What is read so, and not out of a map, brings no pages of the file into this process's memory. */
err file_read_at(const char *path, int fd, uint64_t at, void *bytes, size_t n);
err file_read(const char *path, str *out);          /* the whole file, for small ones; a folder is E_INPUT */

/* Atomic write: file_create opens "path.tmp-PID", file_commit flushes, fsyncs, renames and fsyncs the folder;
 * file_abandon removes it. Exactly one of the two must follow a successful create. A full disk is E_IO. */
struct file_out {
    FILE *f;
    char *path, *tmp;
};
err file_create(struct file_out *o, const char *path);
err file_put(struct file_out *o, const void *bytes, size_t n);
err file_commit(struct file_out *o);
void file_abandon(struct file_out *o);
err file_write(const char *path, const void *bytes, size_t n); /* the three in one */
err file_append(const char *path, const void *bytes, size_t n); /* at its end, made where there is none; a killed process leaves at most a part of them */

/* A file without a name in $TMPDIR (or /var/tmp), which goes with the process: for what is too much for memory. `for_what` begins messages. */
err spool_open(const char *for_what, int *fd);
err spool_write(const char *for_what, int fd, uint64_t at, const void *bytes, size_t n);
err spool_read(const char *for_what, int fd, uint64_t at, void *bytes, size_t n); /* all n */

err dir_make(const char *path);      /* with parents; an existing folder is fine */
err dir_remove(const char *path);    /* a folder and what is in it */
/* A folder that is whole takes the place of `to`: at any instant there is the old one or the new one. The old one is then removed, under `from`. */
err dir_replace(const char *from, const char *to);
err dir_clear(const char *path, const char *keep); /* what is in it, but for the entry named keep (NULL: nothing stays) */
int dir_empty(const char *path, const char *but);  /* 1 when missing or empty; the entry named `but` does not count */
int path_is_dir(const char *path);
int path_exists(const char *path);
/* XXH3 128 of a file's bytes as 32 hex digits (the same as Debian's `xxh128sum`). */
err file_hash(const char *path, char hex[33]);
int64_t disk_free(const char *path);         /* bytes that the file system of an existing path can still take; -1: unknown */
void bytes_hash(const void *p, size_t n, char hex[33]);

#endif
