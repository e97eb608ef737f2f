/* The two orders in which files keep the rows of q and k. RoPE turns pairs of a head's D numbers: Hugging Face's pairs are half a head
 * apart (j, j + D/2), "halves"; GGUF files of some architectures, llama's first of all, have them side by side (2j, 2j + 1), "pairs". */
#ifndef CYC_CORE_ROPE_ROWS_H
#define CYC_CORE_ROPE_ROWS_H
#include <stdint.h>

/* Where a row of the one order lies in the other; D: rows of a head. */
static inline int64_t rope_row_in_pairs(int64_t row_of_halves, int64_t D) {
    int64_t head = row_of_halves / D, j = row_of_halves % D, half = D / 2;
    return head * D + (j < half ? 2 * j : 2 * (j - half) + 1);
}
static inline int64_t rope_row_in_halves(int64_t row_of_pairs, int64_t D) {
    int64_t head = row_of_pairs / D, j = row_of_pairs % D;
    return head * D + (j % 2 ? D / 2 + j / 2 : j / 2);
}

#endif
