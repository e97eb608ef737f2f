/* See blocks.h. */
#define _POSIX_C_SOURCE 200809L /* strdup */
#include "data/blocks.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

err block_next(struct block *b) {
    const struct source *s = b->s;
    b->from += b->n;
    str_clear(&b->bytes);
    for (b->n = 0; b->n < BLOCK && b->from + b->n < s->n && b->bytes.n < BLOCK_BYTES; b->n++) {
        struct extent *x = &b->x[b->n];
        const struct source_part *part;
        if (s->r) {
            const struct record *r = &s->r[b->from + b->n];
            b->part[b->n] = r->part;
            *x = (struct extent){.line = r->line};
            continue;
        }
        TRY(source_scan(s, b->from + b->n, &b->f, x, &part));
        b->part[b->n] = (int)(part - s->part);
        str_add(&b->bytes, x->p, x->n);
    }
    if (b->bytes.failed) return out_of_memory();
    const char *p = b->bytes.p;
    for (int k = 0; k < b->n && !s->r; k++) b->x[k].p = p, p += b->x[k].n;
    return OK;
}

err block_record(const struct block *b, int k, arena *mem, struct record *own, const struct record **r) {
    *r = b->s->r ? &b->s->r[b->from + k] : own;
    if (b->s->r) return OK;
    TRY(source_read(&b->s->part[b->part[k]], &b->x[k], mem, own));
    own->part = b->part[k];
    return OK;
}

void block_free(struct block *b) {
    str_free(&b->bytes);
    fetcher_free(&b->f);
}

struct shared {
    const struct record_pass *p;
    struct block b;
    err e[BLOCK];
    char *why[BLOCK]; /* messages are per thread, so a failing record keeps its own */
};

static struct visited visited(const struct block *b, int k) {
    return (struct visited){b->from + k, k, &b->s->part[b->part[k]], &b->x[k], NULL};
}

static err work_on(const struct shared *sh, int k, arena *mem) {
    struct record own;
    struct visited v = visited(&sh->b, k);
    TRY(block_record(&sh->b, k, mem, &own, &v.r));
    err e = sh->p->work(sh->p->ctx, &v);
    return e ? fail_in(e, "%s:%d", v.part->path, v.r->line) : OK;
}

static void work_block(struct shared *sh) {
#pragma omp parallel if (sh->b.n > 8)
    {
#pragma omp for schedule(dynamic, 8)
        for (int k = 0; k < sh->b.n; k++) {
            arena mem = {0};
            sh->e[k] = work_on(sh, k, &mem);
            if (sh->e[k]) sh->why[k] = strdup(err_text());
            arena_free(&mem);
        }
    }
}

static err take_block(struct shared *sh) {
    for (int k = 0; k < sh->b.n; k++) {
        const struct visited v = visited(&sh->b, k);
        if (sh->e[k]) return fail(sh->e[k], "%s", sh->why[k] ? sh->why[k] : "out of memory");
        if (sh->p->take) TRY(sh->p->take(sh->p->ctx, &v));
    }
    return OK;
}

err records_pass(const struct record_pass *p) {
    struct shared *sh = calloc(1, sizeof *sh);
    if (!sh) return out_of_memory();
    sh->p = p;
    sh->b.s = p->s;
    err e = OK;
    do {
        e = block_next(&sh->b);
        if (!e && p->work) work_block(sh);
        if (!e) e = take_block(sh);
    } while (!e && sh->b.n);
    for (int k = 0; k < BLOCK; k++) free(sh->why[k]);
    block_free(&sh->b);
    free(sh);
    return e;
}
