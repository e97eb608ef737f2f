/* A bit for each record of a source. Called by twins.c and filter.c. */
#ifndef CYC_DATA_BITS_H
#define CYC_DATA_BITS_H
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

static inline uint64_t *bits_new(int n) { return calloc((size_t)n / 64 + 1, sizeof(uint64_t)); } /* all 0; the caller's to free */
static inline bool bit_of(const uint64_t *bits, int i) { return bits[i / 64] >> i % 64 & 1; }
static inline void bit_set(uint64_t *bits, int i) { bits[i / 64] |= 1ull << i % 64; }

#endif
