/* Records of a source written on as JSONL, and the card that says what was done: what `cyclora data dedup`, `filter`, `split`, `convert` and
 * `contamination` put on disk.
 *
 * A record is written with all its fields: JSON as it stood, on one line; a table's row as an object of strings, a plain line as {"text"}. A file comes
 * to be beside its place and is renamed when it is whole. An existing file is refused (E_USAGE) unless it may be overwritten, and what is read is never
 * written over. A failure leaves nothing.
 *
 * The card is OUT.card.json, and the same for people, OUT.card.md: the command and its settings, inputs and outputs with their sizes and XXH3 hashes,
 * what was removed and why. It has no date and nothing of the machine, so that the same command on the same files writes the same bytes. */
#ifndef CYC_DATA_REWRITE_H
#define CYC_DATA_REWRITE_H
#include "base/file.h"
#include "data/blocks.h"
#include <jansson.h>

/* What each of these commands is given. */
struct rewriting {
    const struct source_file *files;
    int n;
    const char *out;
    bool overwrite;
    json_t *card; /* card_begin(); it is filled, and written beside `out` */
};

struct output {
    const char *path; /* the caller's */
    struct file_out f;
    int rows;
    uint64_t bytes;
};
/* Refuses what is there already, and what is one of the files that are read. */
err output_open(struct output *o, const char *path, const struct rewriting *w);
err output_record(struct output *o, const struct visited *v);
err output_line(struct output *o, json_t *line); /* takes the reference */
/* Puts it in its place and adds {"path", "hash", "bytes", "rows"} to the array `list`. After either of these it may be opened again. */
err output_commit(struct output *o, json_t *list);
void output_abandon(struct output *o); /* after output_commit() nothing */

/* {"command", "cyclora", "inputs": [{"path", "hash", "bytes", "rows"}], "settings": {}, "counts": {}, "outputs": []}; NULL: out of memory. */
json_t *card_begin(const char *command, const char *version);
void card_inputs(json_t *card, const char *key, const struct source *s);
/* Adds one of the card's counts, and one of its settings. */
void card_count(json_t *card, const char *name, int64_t n);
void card_set(json_t *card, const char *name, json_t *value); /* takes the reference */
/* Writes path.card.json and path.card.md. */
err card_write(const json_t *card, const char *path);

#endif
