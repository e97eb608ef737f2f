/* Where the records of a data file begin and end: lines, the objects of one JSON array, the rows of a CSV or TSV, blocks of lines
 * between blank ones (CoNLL: a sentence, a word a line), or the whole file (a document). What is in a record is data/shapes.c's matter.
 *
 * A scanner walks a text_file from any place at which a record begins. Where the text is not in memory it reads through
 * a window of 1 MiB that grows for a longer record, up to 64 MiB. Lines are counted from 1; a record's line is the one
 * that it begins on. Blank lines are no records; nor are lines of "-DOCSTART-" in CoNLL, which end a block as a blank one does.
 *
 * Refused, as file:line: a CSV quote that is never closed or is followed by text, an array that is not one ("[", objects,
 * commas, "]", nothing more), more than 2^31 lines, a record longer than the window may grow. */
#ifndef CYC_DATA_RECORDS_H
#define CYC_DATA_RECORDS_H
#include "data/text_file.h"

enum container { IN_LINES, IN_JSONL, IN_ARRAY, IN_CSV, IN_TSV, IN_CONLL, IN_DOCUMENT };

struct extent { /* a record's bytes; they stay until the next scan_next() */
    const char *p;
    size_t n;
    uint64_t at; /* in the plain text */
    int line;
};
struct scanner {
    const struct text_file *f;
    enum container kind;
    const char *p;  /* the window: plain bytes [base, base + n) */
    size_t n, at;   /* at: what comes next */
    uint64_t base;
    int line;       /* of p[at] */
    bool closed;    /* the array's ] was seen */
    bool first;     /* no element of the array was seen yet */
    bool here;      /* the next one begins right here: scan_seek() */
    char *own;
    size_t cap;
    size_t window;  /* what own begins with: 1 MiB; tests make it small */
};
void scan_begin(struct scanner *s, const struct text_file *f, enum container kind);
/* Goes to where an extent said that a record begins; `first`: it is the text's first. */
void scan_seek(struct scanner *s, uint64_t at, int line, bool first);
err scan_next(struct scanner *s, struct extent *x, bool *found);
void scan_end(struct scanner *s);

/* The fields of a CSV or TSV record: calls `field` for each, with quotes taken off. */
err csv_fields(enum container kind, const struct extent *x, err (*field)(void *ctx, int i, const str *text), void *ctx);
#endif
