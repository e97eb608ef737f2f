/* See lock.h. */
#define _GNU_SOURCE
#include "base/lock.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* A holder that ends removes the file: a lock taken on it a moment too late is on a file that no one else will find. */
static bool still_there(int fd, const char *path) {
    struct stat a, b;
    return !fstat(fd, &a) && !lstat(path, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static err busy(int fd, const char *what) {
    char text[24] = "";
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    long pid = n > 0 ? strtol(text, NULL, 10) : 0;
    char who[48] = "another process";
    if (pid > 0) snprintf(who, sizeof who, "process %ld", pid);
    return fail(E_USAGE, "%s is in use by %s: wait until that has ended, or name another folder", what, who);
}

static void sign(int fd) {
    char text[24];
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) || pwrite(fd, text, (size_t)n, 0) != n) return; /* a full disk: messages will not name us */
}

err lock_take(struct lock *l, const char *path, const char *what) {
    if (l->path) return OK;
    for (;;) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0) return fail(E_IO, "%s: cannot create: %s", path, strerror(errno));
        bool locked = !flock(fd, LOCK_EX | LOCK_NB);
        int why = errno;
        if (!locked && why == EWOULDBLOCK) {
            err e = busy(fd, what);
            close(fd);
            return e;
        }
        if (!locked) {
            log_warn("%s cannot be locked (%s): see to it that no other run writes there", what, strerror(why));
            unlink(path);
            close(fd);
            fd = -1;
        } else if (!still_there(fd, path)) {
            close(fd);
            continue;
        } else sign(fd);
        *l = (struct lock){strdup(path), fd};
        return l->path ? OK : (close(fd), fail(E_MEMORY, "out of memory"));
    }
}

void lock_drop(struct lock *l) {
    if (l->path && l->fd >= 0) {
        if (still_there(l->fd, l->path)) unlink(l->path);
        close(l->fd);
    }
    free(l->path);
    *l = (struct lock){0};
}
