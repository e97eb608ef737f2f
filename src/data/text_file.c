/* Mapping, unpacking and spooling. See text_file.h. */
#define _GNU_SOURCE
#include "data/text_file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- unpacking: into memory, and on into a spool where it gets too long --------------------------------------------- */
struct spool {
    struct text_file *t;
    uint64_t most;
};

static err put_plain(void *ctx, const void *plain, size_t n) {
    struct spool *s = ctx;
    struct text_file *t = s->t;
    t->n += n;
    if (t->fd < 0 && t->n <= s->most) {
        str_add(&t->plain, plain, n);
        return t->plain.failed ? fail(E_MEMORY, "%s: out of memory (unpacked so far: %zu bytes)", t->path, t->plain.n) : OK;
    }
    if (t->fd < 0) {
        TRY(spool_open(t->path, &t->fd));
        TRY(spool_write(t->path, t->fd, 0, t->plain.p, t->plain.n));
        str_free(&t->plain);
    }
    return spool_write(t->path, t->fd, t->n - n, plain, n);
}

static err unpack_into(struct text_file *t, const uint8_t *p, size_t n, uint64_t most) {
    struct spool s = {t, most};
    TRY(unpack(&(struct unpack_io){t->path, p, n, t->map.p == p, put_plain, &s}, t->packing));
    if (!t->n) return fail(E_INPUT, "%s: holds no records (it unpacks to nothing)", t->path);
    if (t->fd < 0) t->p = (const uint8_t *)t->plain.p;
    return OK;
}

/* --- opening -------------------------------------------------------------------------------------------------------- */
/* A plain file that is longer than `most`: its pages are not kept mapped, so they do not count as this process's. */
static err keep_on_disk(struct text_file *t) {
    file_unmap(&t->map);
    t->p = NULL;
    t->fd = open(t->path, O_RDONLY | O_CLOEXEC);
    return t->fd >= 0 ? OK : fail(E_IO, "%s: cannot open: %s", t->path, strerror(errno));
}

err text_file_from(const char *path, const void *bytes, size_t n, uint64_t most, struct text_file *t) {
    *t = (struct text_file){.path = path, .fd = -1, .packing = packing_of(bytes, n)};
    bytes_hash(bytes, n, t->hash);
    err e = OK;
    if (t->packing) e = unpack_into(t, bytes, n, most);
    else t->p = bytes, t->n = n;
    if (e) text_file_close(t);
    return e;
}

err text_file_open(const char *path, uint64_t most, struct text_file *t) {
    *t = (struct text_file){.path = path, .fd = -1};
    TRY(file_map(path, &t->map));
    t->packing = packing_of(t->map.p, t->map.n);
    err e = file_hash(path, t->hash);
    if (!e && t->packing) {
        e = unpack_into(t, t->map.p, t->map.n, most);
        file_unmap(&t->map);
    } else if (!e) {
        t->p = t->map.p;
        t->n = t->map.n;
        if (t->n > most) e = keep_on_disk(t);
    }
    if (e) text_file_close(t);
    return e;
}

err text_file_read(const struct text_file *t, uint64_t at, char *to, size_t n, size_t *got) {
    *got = 0;
    if (at >= t->n) return OK;
    if (n > t->n - at) n = (size_t)(t->n - at);
    if (t->p) return memcpy(to, t->p + at, n), *got = n, OK;
    while (*got < n) {
        ssize_t k = pread(t->fd, to + *got, n - *got, (off_t)(at + *got));
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return fail(E_IO, "%s: cannot read at byte %llu: %s", t->path, (unsigned long long)(at + *got), strerror(errno));
        if (k == 0)
            return fail(E_INPUT, "%s: ends at byte %llu, but had %llu when the run began: did it change?", t->path,
                        (unsigned long long)(at + *got), (unsigned long long)t->n);
        *got += (size_t)k;
    }
    return OK;
}

void text_file_close(struct text_file *t) {
    file_unmap(&t->map);
    str_free(&t->plain);
    if (t->fd >= 0) close(t->fd);
    *t = (struct text_file){.fd = -1};
}
