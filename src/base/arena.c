/* Bump allocation in blocks that grow with what the arena holds, from 4 KiB to 1 MiB, and whole pages. See arena.h. */
#define _DEFAULT_SOURCE
#include "base/arena.h"
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { LEAST = 4096, MOST = 1 << 20 }; /* bytes of a block: a few of a small arena, and a large one's are no holes in the heap */
enum { LARGE = 8 << 20 };              /* from which large pages are asked for */

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    _Alignas(16) unsigned char bytes[];
};

void *arena_alloc(arena *a, size_t bytes) {
    if (bytes > SIZE_MAX - 65536 - sizeof(struct arena_block)) return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    struct arena_block *b = a->head;
    if (!b || b->size - b->used < bytes) {
        size_t size = b ? 2 * b->size : LEAST - sizeof *b;
        if (size > MOST) size = MOST;
        if (size < bytes) size = bytes;
        b = calloc(1, sizeof *b + size);
        if (!b) return NULL;
        b->size = size;
        b->next = a->head;
        a->head = b;
    }
    void *p = b->bytes + b->used;
    b->used += bytes;
    return p;
}

char *arena_strn(arena *a, const char *s, size_t n) {
    char *p = arena_alloc(a, n + 1);
    if (p) memcpy(p, s, n);
    return p;
}

char *arena_str(arena *a, const char *s) { return arena_strn(a, s, strlen(s)); }

char *arena_printf(arena *a, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (p) vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

size_t arena_used(const arena *a) {
    size_t n = 0;
    for (const struct arena_block *b = a->head; b; b = b->next) n += sizeof *b + b->used;
    return n;
}

void arena_free(arena *a) {
    for (struct arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    a->head = NULL;
}

void *pages_take(size_t bytes) {
    void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (bytes >= LARGE) madvise(p, bytes, MADV_HUGEPAGE); /* a hint: nothing depends on it */
    return p;
}

void pages_give(void *p, size_t bytes) {
    if (p) munmap(p, bytes ? bytes : 1);
}
