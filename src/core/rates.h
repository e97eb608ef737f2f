/* What a plan goes by on a machine that is not here: the cards that --device may name, with their makers' figures. A time that follows
 * from them is a bound, which no program reaches; docs/memory.md says how near a run comes. Read by train's plans. */
#ifndef CYC_CORE_RATES_H
#define CYC_CORE_RATES_H
#include <stddef.h>

struct rates {
    const char *name;   /* as --device has it */
    const char *driver; /* part of what its driver calls it */
    const char *title;  /* as its maker calls it */
    size_t memory;      /* bytes that a plan may take: the card's decimal gigabytes, which lie below what its driver reports as free */
    double bandwidth;   /* bytes a second */
    double f32, f16;    /* flops a second of dense products: plain f32; bf16 and f16 with f32 sums */
    double link;        /* bytes a second from the host, and as many to it at the same time */
};

/* NULL: no card of the table is called so. */
const struct rates *rates_named(const char *name);
/* By what the driver calls a card ("NVIDIA H100 80GB HBM3"); NULL: it is not in the table, or `card` is. */
const struct rates *rates_of_card(const char *card);

#endif
