/* See file.h. */
#define _GNU_SOURCE
#define XXH_INLINE_ALL
#include "base/file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>


/* A path that leads nowhere, or through a file, is the caller's mistake. */
static err cannot_open(const char *path) {
    int why = errno;
    return fail(why == ENOENT || why == ENOTDIR ? E_USAGE : E_IO, "%s: cannot open: %s", path, strerror(why));
}

err file_map_open(const char *path, struct file_map *m, int *fd) {
    *m = (struct file_map){0};
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return cannot_open(path);
    struct stat st;
    err e = OK;
    if (fstat(*fd, &st)) e = fail(E_IO, "%s: %s", path, strerror(errno));
    else if (S_ISDIR(st.st_mode)) e = fail(E_INPUT, "%s: a folder, where a file is wanted", path);
    else if (!S_ISREG(st.st_mode)) e = fail(E_INPUT, "%s: not a regular file", path);
    else if (st.st_size == 0) e = fail(E_INPUT, "%s: the file is empty", path);
    else {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, *fd, 0);
        if (p == MAP_FAILED) e = fail(E_IO, "%s: cannot map %lld bytes: %s", path, (long long)st.st_size, strerror(errno));
        else *m = (struct file_map){p, (size_t)st.st_size};
    }
    if (e) close(*fd), *fd = -1;
    return e;
}

err file_map(const char *path, struct file_map *m) {
    int fd;
    TRY(file_map_open(path, m, &fd));
    close(fd);
    return OK;
}

/* n bytes from `at` on; `why`: why they are not all there. */
static bool read_all(int fd, uint64_t at, void *bytes, size_t n, const char **why) {
    for (char *p = bytes; n;) {
        ssize_t k = pread(fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return *why = k ? strerror(errno) : "it ends early", false;
        p += k, at += (uint64_t)k, n -= (size_t)k;
    }
    return true;
}

err file_read_at(const char *path, int fd, uint64_t at, void *bytes, size_t n) {
    const char *why;
    return read_all(fd, at, bytes, n, &why) ? OK : fail(E_IO, "%s: cannot read: %s", path, why);
}

void file_forget(const void *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)p / page * page;
    madvise((void *)from, (uintptr_t)p + n - from, MADV_DONTNEED); /* pages of a file: whoever reads them again gets them again */
}

void file_unmap(struct file_map *m) {
    if (m->p) munmap((void *)m->p, m->n);
    *m = (struct file_map){0};
}

err file_read(const char *path, str *out) {
    FILE *f = fopen(path, "rbe");
    if (!f) return cannot_open(path);
    char buf[65536];
    size_t n;
    while ((n = fread(buf, 1, sizeof buf, f)) > 0) str_add(out, buf, n);
    int bad = ferror(f), why = errno;
    fclose(f);
    if (bad && why == EISDIR) return fail(E_INPUT, "%s: a folder, where a file is wanted", path);
    if (bad) return fail(E_IO, "%s: cannot read: %s", path, strerror(why));
    str_add(out, "", 0);
    return out->failed ? fail(E_MEMORY, "%s: out of memory", path) : OK;
}

err file_create(struct file_out *o, const char *path) {
    *o = (struct file_out){0};
    if (asprintf(&o->tmp, "%s.tmp-%ld", path, (long)getpid()) < 0) return fail(E_MEMORY, "out of memory");
    o->path = strdup(path);
    o->f = o->path ? fopen(o->tmp, "wbe") : NULL;
    if (!o->f) {
        err e = o->path ? fail(E_IO, "%s: cannot create: %s", path, strerror(errno)) : fail(E_MEMORY, "out of memory");
        free(o->tmp);
        free(o->path);
        *o = (struct file_out){0};
        return e;
    }
    return OK;
}

err file_put(struct file_out *o, const void *bytes, size_t n) {
    if (n && fwrite(bytes, 1, n, o->f) != n) return fail(E_IO, "%s: cannot write: %s", o->path, strerror(errno));
    return OK;
}

void file_abandon(struct file_out *o) {
    if (o->f) fclose(o->f);
    if (o->tmp) unlink(o->tmp);
    free(o->tmp);
    free(o->path);
    *o = (struct file_out){0};
}

static void sync_folder(const char *path) {
    char *dir = strdup(path), *slash = dir ? strrchr(dir, '/') : NULL;
    if (slash) *slash = 0;
    int fd = open(slash ? (*dir ? dir : "/") : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(dir);
}

err file_commit(struct file_out *o) {
    err e = OK;
    if (fflush(o->f) || fsync(fileno(o->f))) e = fail(E_IO, "%s: cannot write: %s", o->path, strerror(errno));
    if (fclose(o->f) && !e) e = fail(E_IO, "%s: cannot write: %s", o->path, strerror(errno));
    o->f = NULL;
    if (!e && rename(o->tmp, o->path)) e = fail(E_IO, "%s: cannot rename: %s", o->path, strerror(errno));
    if (!e) {
        sync_folder(o->path);
        free(o->tmp);
        o->tmp = NULL;
    }
    file_abandon(o);
    return e;
}

err file_write(const char *path, const void *bytes, size_t n) {
    struct file_out o;
    TRY(file_create(&o, path));
    err e = file_put(&o, bytes, n);
    if (!e) return file_commit(&o);
    file_abandon(&o);
    return e;
}

err file_append(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "ae");
    bool good = f && fwrite(bytes, 1, n, f) == n;
    if (f && fclose(f)) good = false;
    return good ? OK : fail(E_IO, "%s: cannot write: %s", path, strerror(errno));
}

/* --- spools --------------------------------------------------------------------------------------------------------- */
static const char *spool_folder(void) {
    const char *dir = getenv("TMPDIR");
    return dir && *dir ? dir : "/var/tmp";
}

static err no_spool(const char *for_what) {
    return fail(E_IO, "%s: cannot write a temporary file in %s: %s; TMPDIR names another folder", for_what, spool_folder(), strerror(errno));
}

err spool_open(const char *for_what, int *fd) {
    char name[4096];
    snprintf(name, sizeof name, "%s/cyclora-spool-XXXXXX", spool_folder());
    *fd = mkostemp(name, O_CLOEXEC);
    if (*fd < 0) return no_spool(for_what);
    unlink(name);
    return OK;
}

err spool_write(const char *for_what, int fd, uint64_t at, const void *bytes, size_t n) {
    for (const char *p = bytes; n;) {
        ssize_t k = pwrite(fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return no_spool(for_what);
        p += k, at += (uint64_t)k, n -= (size_t)k;
    }
    return OK;
}

err spool_read(const char *for_what, int fd, uint64_t at, void *bytes, size_t n) {
    const char *why;
    return read_all(fd, at, bytes, n, &why) ? OK : fail(E_IO, "%s: cannot read a temporary file: %s", for_what, why);
}

int path_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int path_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

err dir_make(const char *path) {
    if (!*path) return fail(E_USAGE, "a folder's name is empty");
    char *p = strdup(path);
    if (!p) return fail(E_MEMORY, "out of memory");
    err e = OK;
    for (char *s = p + 1; !e; s++)
        if (*s == '/' || *s == 0) {
            char keep = *s;
            *s = 0;
            if (mkdir(p, 0777) && errno != EEXIST) e = fail(E_IO, "%s: cannot create: %s", p, strerror(errno));
            *s = keep;
            if (!keep) break;
        }
    if (!e && !path_is_dir(path)) e = fail(E_IO, "%s: exists and is not a folder", path);
    free(p);
    return e;
}

static bool is_entry(const struct dirent *ent, const char *but) {
    return strcmp(ent->d_name, ".") && strcmp(ent->d_name, "..") && (!but || strcmp(ent->d_name, but));
}

err dir_clear(const char *path, const char *keep) {
    DIR *d = opendir(path);
    if (!d) return errno == ENOENT ? OK : fail(E_IO, "%s: %s", path, strerror(errno));
    err e = OK;
    for (struct dirent *ent; !e && (ent = readdir(d));) {
        if (!is_entry(ent, keep)) continue;
        char *sub;
        if (asprintf(&sub, "%s/%s", path, ent->d_name) < 0) e = fail(E_MEMORY, "out of memory");
        else {
            struct stat st;
            if (lstat(sub, &st) == 0 && S_ISDIR(st.st_mode)) e = dir_remove(sub);
            else if (unlink(sub)) e = fail(E_IO, "%s: cannot remove: %s", sub, strerror(errno));
            free(sub);
        }
    }
    closedir(d);
    return e;
}

err dir_remove(const char *path) {
    TRY(dir_clear(path, NULL));
    return rmdir(path) && errno != ENOENT ? fail(E_IO, "%s: cannot remove: %s", path, strerror(errno)) : OK;
}

err dir_replace(const char *from, const char *to) {
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) == 0) return sync_folder(to), dir_remove(from);
    if (errno != ENOENT) TRY(dir_remove(to)); /* a file system that cannot exchange */
    if (rename(from, to)) return fail(E_IO, "%s: cannot rename: %s", from, strerror(errno));
    return sync_folder(to), OK;
}

int dir_empty(const char *path, const char *but) {
    DIR *d = opendir(path);
    if (!d) return 1;
    int n = 0;
    for (struct dirent *ent; (ent = readdir(d));) n += is_entry(ent, but);
    closedir(d);
    return n == 0;
}

int64_t disk_free(const char *path) {
    struct statvfs v;
    return statvfs(path, &v) ? -1 : (int64_t)v.f_bavail * (int64_t)v.f_frsize;
}

void bytes_hash(const void *p, size_t n, char hex[33]) {
    XXH128_hash_t h = XXH3_128bits(p, n);
    snprintf(hex, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

err file_hash(const char *path, char hex[33]) {
    FILE *f = fopen(path, "rbe");
    if (!f) return cannot_open(path);
    XXH3_state_t *x = XXH3_createState();
    char bytes[65536];
    if (x) XXH3_128bits_reset(x);
    for (size_t n; x && (n = fread(bytes, 1, sizeof bytes, f)) > 0;) XXH3_128bits_update(x, bytes, n);
    const int why = errno;
    err e = !x              ? fail(E_MEMORY, "out of memory")
            : !ferror(f)    ? OK
            : why == EISDIR ? fail(E_INPUT, "%s: a folder, where a file is wanted", path)
                            : fail(E_IO, "%s: cannot read: %s", path, strerror(why));
    fclose(f);
    if (!e) {
        XXH128_hash_t h = XXH3_128bits_digest(x);
        snprintf(hex, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
    }
    XXH3_freeState(x);
    return e;
}
