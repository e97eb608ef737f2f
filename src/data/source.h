/* Records from files: one file or several with weights, of any container and shape (data/records.h, data/shapes.h),
 * plain or compressed, each record with its origin, so that every later complaint can say file:line.
 *
 * Two ways of having them, chosen by size (source_options.in_memory):
 *   parsed   every record is in memory as strings: r[n].
 *   streamed (streams is true, r is NULL) only places are kept: of every 16th record its offset and line, 16 bytes, so a
 *            byte a record; of more than 16 million records of every 32nd, and so on, so that places take 16 MiB at most.
 *            source_fetch() reads and parses a record when it is needed; one after the other it reads on, anywhere else
 *            it seeks and skips at most 15 (31, ...). Such records are checked by whoever fetches them first.
 * Nothing that a caller sees depends on which it is.
 *
 * Refused, always as file:line: what records.h and shapes.h refuse, and a file that yields no record. Accepted: a byte
 * order mark, CRLF, blank lines (skipped, but counted), a last line without its newline, lines of any length (streamed:
 * up to 64 MiB).
 *
 * A split (`split` 0.05) sends each record to one of two sides by the hash of its bytes: the same record is always on
 * the same side, whatever else is in the file, so equal records never are on both.
 *
 * Called by data/rows.c and its users (train, api). Strings live as long as the source, fetched ones as long as said
 * there. A caller that wants fewer records lowers `n`. */
#ifndef CYC_DATA_SOURCE_H
#define CYC_DATA_SOURCE_H
#include "data/shapes.h"

struct source_file {
    const char *path, *format; /* format NULL: auto */
    const char *field, *field2;
    double weight;  /* how often a row is seen in an epoch; 0 is 1 */
    int64_t limit;  /* only the first so many records; 0: all */
};

/* Of conversations, and of prompts with completions: which tokens carry loss. */
enum learnt { LEARN_ANSWERS /* every one */, LEARN_LAST /* the last answer alone */, LEARN_ALL /* prompts too */ };

struct source_options {
    enum source_want want;
    uint64_t in_memory; /* all files together, as they lie on disk or unpacked: above this they are streamed */
    double split;       /* share of the records that is held out */
    bool held_out;      /* these are wanted, not the others */
    bool vote;          /* the shape is what most records have, not the first one's: for looking at files that may hold bad ones */
    struct given_form given; /* vectors that come with each record; a file of them outlives the source */
    enum learnt learnt;
    int threads;        /* of those who make rows of it; 0: as many as there are */
    int marks;          /* places that are kept of all files together, 0: 2^20; tests make it small */
};

struct mark { /* where record stride * i of a part begins */
    uint64_t at;
    int line;
};

struct source_part {
    struct text_file file;
    struct layout layout;
    const char *path;
    char hash[33]; /* XXH3 128 of the file as it lies on disk */
    double weight;
    int first, n; /* records first .. first + n - 1 of the source */
    struct mark *mark;
};

struct source {
    arena mem, texts; /* texts: what the records hold */
    const char *path; /* the first file's, for several with how many more there are */
    int n;
    struct record *r; /* NULL when streamed, or after source_drop_texts() */
    char hash[33];    /* XXH3 128 of the file; of several, or with a weight, limit or split: of all that */
    int n_parts;
    struct source_part *part;
    struct source_options opt;
    bool streams;
    int stride;   /* of a part's records every so manieth has a mark; a power of two */
    int marks;    /* of all parts */
    size_t bytes; /* of memory, that it keeps */
};

err source_open_files(const struct source_file *f, int n, const struct source_options *opt, struct source *s);

/* One file, in memory. field/field2 name the fields (WANT_TEXT: "text" when NULL; WANT_PAIR and WANT_SFT: "prompt",
 * "completion" when NULL). A file whose name ends in none of .jsonl, .json, .csv, .tsv (.gz and .zst aside) is plain lines
 * (WANT_TEXT only; they have no fields, so none is asked for). On error nothing is left to close. */
err source_open(const char *path, enum source_want want, const char *field, const char *field2, struct source *s);
/* The same from memory; path is the name for messages, and its ending says which container. */
err source_parse(const char *path, const void *bytes, size_t n, enum source_want want, const char *field,
                 const char *field2, struct source *s);
err source_parse_as(const struct source_file *f, const void *bytes, size_t n, const struct source_options *opt, struct source *s);
void source_close(struct source *s);
void source_drop_texts(struct source *s); /* rows have been made: records are no longer needed (places stay) */
bool source_has_turns(const struct source *s); /* is any file one of conversations? */

/* A record's bytes, for whoever parses them elsewhere (source_scan), or the record itself, from either kind of source.
 * What one call gives lives until the next with the same fetcher, which begins as {0}. */
struct fetcher {
    struct scanner scan;
    arena mem;
    int part, next; /* scan stands before record `next` of this part (1 + its index; 0: nowhere) */
    size_t window;  /* what is read at a time, 0: as records.h has it; small for records here and there */
};
err source_scan(const struct source *s, int i, struct fetcher *f, struct extent *x, const struct source_part **part);
err source_fetch(const struct source *s, int i, struct fetcher *f, struct record *r);
void fetcher_free(struct fetcher *f);
/* A record of the source from its bytes; errors say file:line. */
err source_read(const struct source_part *part, const struct extent *x, arena *mem, struct record *r);
const struct source_part *source_part_of(const struct source *s, int i);

#endif
