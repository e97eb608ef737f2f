/* What a record says: one line of JSONL, one object of an array, one row of a CSV or one sentence of a CoNLL file becomes a struct record.
 *
 * A file has one layout, found from its name and first record or named by `format`, and every record must have it:
 *
 *   text               {"text"}, or any one named field; plain lines; a whole file (format: document)
 *   prompt_completion  {"prompt", "completion"}, both strings or both lists of messages; or two named fields
 *   messages           {"messages": [{"role", "content"}]}
 *   labelled           {"text", "label"}, or two named fields: a text and its class, a string or an integer
 *   numbered           {"text", "label"}, or two named fields: a text and a number or several (regression)
 *   tagged             {"tokens", "tags"}, or two named fields: words and a tag for each, lists or texts with spaces between; a tag is a
 *                      string or an integer. Where no fields are named, "tokens" and "tags", "ner_tags", "labels" or
 *                      "pos_tags" are looked for, as data sets have them. CoNLL files: a word a line, its tag in the last column
 *   words              the same without tags; a text is split at white space
 *   question           {"question", "answers"}, or two named fields: a text, and a list of texts (or one) any of which answers it
 *   alpaca             {"instruction", "input", "output"[, "system", "history"]}: user = instruction, newline, input
 *   sharegpt           {"conversations": [{"from": "human|gpt|system", "value"}][, "system"]}
 *
 * The last three, and prompts that are lists, are conversations: turns with the roles system, user and assistant.
 * In CSV and TSV the first record names the columns, which then are fields like JSON's. Other fields are ignored.
 *
 * Refused, each with the keys that are there: a missing, blank or non-string field, an unknown role, a conversation
 * without an assistant's turn, a record of another shape than the file's first, a key given twice, a NUL, invalid UTF-8.
 * Messages carry no place; callers put file:line before them. Called by data/source.c; record_parse() by many threads. */
#ifndef CYC_DATA_SHAPES_H
#define CYC_DATA_SHAPES_H
#include "base/arena.h"
#include "data/records.h"
#include "io/chat.h"

/* Vectors that come with each record, `each` of `width` numbers (0: none): in a field of its own, as a list of numbers or of lists, or as the rows
 * of a .npy file, a record's vectors one after the other in a row. */
struct npy;
struct given_form { const char *field; const struct npy *file; int each, width; };

struct record {
    const char *text;                 /* {"text"}, a named field, or a plain line */
    const char *prompt, *completion;  /* {"prompt","completion"} or the two named fields of a pair */
    const char *label;                /* of `text`: the name of its class */
    const float *number;              /* ... or its numbers, n_numbers */
    int n_numbers;
    const char *const *words, *const *tags; /* n_words; tags NULL where they are not wanted */
    int n_words;                            /* ... or the answers to `text` */
    const struct chat_message *turns; /* a conversation; role: system, user, assistant */
    int n_turns;
    const float *given;               /* a field's numbers */
    int line; /* 1-based */
    int part; /* which of the source's files */
};

enum source_want {
    WANT_TEXT,
    WANT_PAIR,
    WANT_LABELLED, /* a text and its class */
    WANT_NUMBERED, /* a text and its numbers */
    WANT_TAGGED,   /* words and their tags */
    WANT_WORDS,
    WANT_QUESTION, /* a question and its answers */
    WANT_SFT,      /* prompt/completion or conversations */
    WANT_ANY,      /* those, or a text: for looking at a file */
};
enum record_shape {
    SHAPE_UNKNOWN,
    SHAPE_TEXT,
    SHAPE_PAIR,
    SHAPE_MESSAGES,
    SHAPE_PROMPT_TURNS,
    SHAPE_ALPACA,
    SHAPE_SHAREGPT,
    SHAPE_LABELLED,
    SHAPE_NUMBERED,
    SHAPE_TAGGED,
    SHAPE_WORDS,
    SHAPE_QUESTION,
    N_RECORD_SHAPES
};

struct json_t;
struct layout {
    enum container container;
    enum record_shape shape;
    bool named;                 /* the shape was asked for, not found */
    const char *field, *field2; /* of text and pairs; of labelled texts: text and label; of words: words and tags */
    struct given_form given;
    int first_line;             /* where the shape was seen */
    int n_columns;
    const char **column; /* CSV and TSV; in the arena */
};

/* From the file's name and `format` ("auto" or NULL, a shape above, or lines, document, jsonl, json, csv, tsv, conll). */
err layout_begin(const char *path, const char *format, enum source_want want, struct layout *l);
/* The first record of a CSV or TSV: its columns. */
err layout_columns(struct layout *l, const struct extent *x, arena *mem);
/* From the first record, where the shape is not known yet. */
err layout_find(struct layout *l, const struct extent *x, enum source_want want);
err record_parse(const struct layout *l, const struct extent *x, arena *mem, struct record *r);
/* The record as a JSON object, whatever its shape: a table's columns as strings, a line as its "text"; the caller's. Numbers are read as reals. */
err record_object(const struct layout *l, const struct extent *x, struct json_t **out);
/* Appends it as a line of JSONL with all its fields: JSON as it is written, its line ends apart. */
err record_line(const struct layout *l, const struct extent *x, str *out);

bool layout_has_turns(const struct layout *l);
const char *layout_name(const struct layout *l); /* "alpaca", "text"; as `format` takes it */
const char *container_name(enum container c);    /* "JSONL", "CSV" */
#endif
