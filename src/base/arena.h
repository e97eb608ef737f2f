/* A bump allocator for descriptions: names, values, instructions, parsed configs. Everything in it dies together.
 * Not for tensors: those live in arenas placed by the planner (core/plan.h).
 *
 * Allocation returns zeroed memory and NULL only when the system is out of memory. */
#ifndef CYC_BASE_ARENA_H
#define CYC_BASE_ARENA_H
#include <stddef.h>

typedef struct arena {
    struct arena_block *head;
} arena;

void *arena_alloc(arena *a, size_t bytes);
char *arena_str(arena *a, const char *s);                    /* copy of a C string */
char *arena_strn(arena *a, const char *s, size_t n);         /* copy of n bytes, terminated */
char *arena_printf(arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
size_t arena_used(const arena *a);                           /* bytes given out, with its own; the rest of its blocks nobody has touched */
void arena_free(arena *a);                                   /* frees everything; the arena may be used again */

/* Zeroed memory in whole pages, taken when first touched; in large pages where the system has them (a gigabyte of small
 * ones costs more in address look-ups than in reading). NULL when out of memory. 0 bytes is one page. */
void *pages_take(size_t bytes);
void pages_give(void *p, size_t bytes);

#endif
