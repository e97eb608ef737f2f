/* Rows for sft out of the toy pairs that are there for cycles. */
#ifndef TESTS_PAIRS_H
#define TESTS_PAIRS_H

/* prompt/completion rows of a pairs file, records from_row .. to_row: A-text and newline, B-text. */
void sft_rows_of_pairs(const char *from, const char *to, int from_row, int to_row);

#endif
