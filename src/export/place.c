/* See place.h. */
#define _DEFAULT_SOURCE
#define _XOPEN_SOURCE 700
#include "export/place.h"
#include "base/file.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char MARK[] = ".cyclora-";

/* "dir/.name.cyclora-PID" */
static err name_tmp(struct place *p) {
    const char *slash = strrchr(p->path, '/'), *name = slash ? slash + 1 : p->path;
    p->tmp = arena_printf(&p->mem, "%.*s.%s%s%ld", (int)(name - p->path), p->path, name, MARK, (long)getpid());
    return p->tmp ? OK : fail(E_MEMORY, "out of memory");
}

static const char *parent_of(struct place *p) {
    const char *slash = strrchr(p->path, '/');
    return !slash ? "." : slash == p->path ? "/" : arena_strn(&p->mem, p->path, (size_t)(slash - p->path));
}

static err remove_path(const char *path) {
    if (path_is_dir(path)) return dir_remove(path);
    return unlink(path) && errno != ENOENT ? fail(E_IO, "%s: cannot remove: %s", path, strerror(errno)) : OK;
}

/* Is it what a process that is gone left of an export to this very place? */
static bool is_leftover(const char *entry, const char *name) {
    size_t n = strlen(name);
    if (entry[0] != '.' || strncmp(entry + 1, name, n) || strncmp(entry + 1 + n, MARK, strlen(MARK))) return false;
    const char *number = entry + 1 + n + strlen(MARK);
    if (!*number || strspn(number, "0123456789") != strlen(number)) return false;
    return kill((pid_t)strtol(number, NULL, 10), 0) && errno == ESRCH;
}

static void sweep(struct place *p, const char *parent) {
    const char *slash = strrchr(p->path, '/');
    DIR *d = opendir(parent);
    for (struct dirent *e; d && (e = readdir(d));)
        if (is_leftover(e->d_name, slash ? slash + 1 : p->path)) remove_path(arena_printf(&p->mem, "%s/%s", parent, e->d_name));
    if (d) closedir(d);
}

/* The first entry that no export writes, or NULL. */
static const char *stranger_in(struct place *p) {
    static const char *const ours[] = {".safetensors", ".json", ".jinja", ".txt", ".model"};
    const char *found = NULL;
    DIR *d = opendir(p->path);
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        bool known = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || str_starts(e->d_name, "LICENSE") ||
                     str_starts(e->d_name, "NOTICE") || str_starts(e->d_name, "USE_POLICY");
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) known |= str_ends(e->d_name, ours[i]);
        if (!known || path_is_dir(arena_printf(&p->mem, "%s/%s", p->path, e->d_name))) {
            if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) found = arena_str(&p->mem, e->d_name);
        }
    }
    if (d) closedir(d);
    return found;
}

static err check_target(struct place *p) {
    if (!path_exists(p->path)) return OK;
    if (!p->force) return fail(E_USAGE, "%s exists already; --force replaces it", p->path);
    if (path_is_dir(p->path) != p->folder)
        return fail(E_USAGE, "%s is %s: it is not replaced", p->path,
                    p->folder ? "a file, and a folder would be written" : "a folder, and a file would be written");
    const char *other = p->folder ? stranger_in(p) : NULL;
    return other ? fail(E_USAGE, "%s holds '%s', which no export wrote: it is not replaced", p->path, other) : OK;
}

static err open_place(struct place *p, size_t bytes) {
    TRY(check_target(p));
    const char *parent = parent_of(p);
    if (!parent) return fail(E_MEMORY, "out of memory");
    TRY(dir_make(parent));
    TRY(name_tmp(p));
    sweep(p, parent);
    int64_t left = disk_free(parent);
    if (left >= 0 && (uint64_t)left < bytes)
        return fail(E_IO, "%s needs %.1f MB and its file system has %.1f MB left", p->path, (double)bytes / 1e6, (double)left / 1e6);
    return p->folder ? dir_make(p->tmp) : OK;
}

err place_open(struct place *p, const char *path, bool folder, bool force, size_t bytes) {
    *p = (struct place){.folder = folder, .force = force};
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    if (!n || !strcmp(path, "/")) return fail(E_USAGE, "'%s' is no place to write to", path);
    p->path = arena_strn(&p->mem, path, n);
    err e = p->path ? open_place(p, bytes) : fail(E_MEMORY, "out of memory");
    if (e) arena_free(&p->mem);
    if (e) *p = (struct place){0};
    return e;
}

err place_not_itself(const char *path, const char *source) {
    char *a = realpath(path, NULL), *b = source ? realpath(source, NULL) : NULL;
    const bool same = a && b && !strcmp(a, b);
    free(a);
    free(b);
    return same ? fail(E_USAGE, "%s is what is read: it cannot be written over", path) : OK;
}

err place_publish(struct place *p) {
    err e = OK;
    const char *old = p->folder && path_exists(p->path) ? arena_printf(&p->mem, "%s-old", p->tmp) : NULL;
    if (old && rename(p->path, old)) e = fail(E_IO, "%s: cannot be moved away: %s", p->path, strerror(errno));
    if (!e && rename(p->tmp, p->path)) {
        e = fail(E_IO, "%s: cannot rename: %s", p->path, strerror(errno));
        if (old) (void)!rename(old, p->path);
    }
    if (!e && old) e = dir_remove(old);
    if (!e) p->tmp = NULL;
    place_abandon(p);
    return e;
}

void place_abandon(struct place *p) {
    if (p->tmp) remove_path(p->tmp);
    arena_free(&p->mem);
    *p = (struct place){0};
}
