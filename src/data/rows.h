/* Rows: token ids with a supervised flag for each, made from records. A row is one sample: [prompt ids][answer ids],
 * the flag 0 on the prompt and 1 on the answer. Segments are tokenised apart and joined as ids, so that the boundary is
 * where it is said to be, and the same in training and in generation (BPE merges across it would shift the mask).
 *
 * The flag is on the token that is predicted: supervised[i] belongs to ids[i]; the packer shifts.
 *
 * Control tokens: prompt forms, and the prompts and completions of rows_sft (which may be templates rendered
 * elsewhere), are written by whoever trains, so "<|im_end|>" in them is that token. Texts and pairs are data: there it
 * is ten characters. A conversation whose content would make a control token is refused (io/chat.h): it could end the turn
 * that is being learnt. A BOS goes first where the model expects one and the row does not begin with it; a template that
 * brings two is refused.
 *
 * Invariants of every row: at least one supervised token beside the first; not longer than max_length; unless cut, its
 * last supervised token ends the answer (EOS, or the template's end of turn). A row of a classification or regression task has one supervised
 * position, which tells the class (the numbers) of the whole text; one of token classification a supervised position for each word, its first token.
 *
 * Rows of a parsed source are all in memory: r[n]. Those of a streamed one are tokenised once to be checked, measured and
 * counted (so `longest` is known before any step), then made again whenever they are drawn; r is NULL, and rows_draw() is
 * the one door to both. The pass over all records is shared among threads, in blocks whose results are taken in order, so
 * nothing depends on how many there are; the first bad record in file order is the one that is complained of.
 * Called by train and the data preview. */
#ifndef CYC_DATA_ROWS_H
#define CYC_DATA_ROWS_H
#include "data/labels.h"
#include "io/tokenizer.h"

struct row {
    int32_t *ids;
    uint8_t *supervised; /* per id */
    int n;
    int line; /* where it came from; 0: made, not read */
    const char *path;
    int source; /* encoder-decoders: so many of the ids are the encoder's, the rest the decoder's; else 0 */
    const float *given; /* the vectors that come with it (data/shapes.h); NULL: none */
    int label;  /* classification: 1 + the class that the row's one supervised position is to tell; 0: each position tells the next id */
    const int32_t *labels; /* token classification: [n], at supervised positions 1 + the class that they are to tell; NULL: see label */
    const float *target;   /* regression: the numbers that the one supervised position is to tell; NULL: see label */
    float weight;          /* of its supervised positions in the loss; 0: not said, which is 1 */
};
struct rows {
    arena mem;
    int n, cap;
    struct row *r;
    int longest;
    int truncated;              /* rows cut to max_length */
    int64_t tokens, supervised; /* of all rows */
    int64_t text_tokens, text_bytes; /* of documents, without what goes around them */
    int *first;                      /* of documents: the first row of each record, and behind them all; NULL: record i is row i */
    size_t bytes;               /* of memory, that the rows take */
    struct row_stream *stream;  /* rows that are made when they are drawn */
};
/* The rows of these numbers; they stay until the next draw. Those of a streamed source need it still to be open. */
err rows_draw(struct rows *rows, const int *which, int n, const struct row **list);

/* A prompt around a text: "KJV: {text}\nModern:" becomes head ids, the text, tail ids. Whitespace right before {text}
 * belongs to the text (lead), so that the ids of a text are the same whether it is written or read: that is what lets
 * generated ids become a prompt without passing through text. For that the two forms of a cycle need the same lead. */
struct prompt_form {
    struct ids head, tail; /* head begins with the BOS where the model expects one */
    char *lead;
    bool turn; /* of a chat: texts have no lead, and go on where the head ends */
};
err prompt_form_parse(const tokenizer *tk, const char *form, struct prompt_form *f); /* exactly one {text} */
/* The same with the form as what a user says in the model's own chat template, and the head of the assistant's turn behind it. An answer begins a
 * turn, so {text} begins the form or a line of it, or the same text would have other ids as a prompt (E_USAGE). */
err prompt_form_chat(const tokenizer *tk, const char *form, struct prompt_form *f);
void prompt_form_free(struct prompt_form *f);
/* Appends lead + text. */
err prompt_form_text(const tokenizer *tk, const struct prompt_form *f, const char *text, struct ids *out);
/* Appends head + text ids + tail. */
err prompt_form_wrap(const struct prompt_form *f, const int32_t *text, size_t n, struct ids *out);

/* SFT rows of a source: prompt/completion (tokenised apart, EOS after the completion), conversations through the chat
 * form, or texts (format: text), of which every token but the first is supervised, and an EOS. Of a source that says so (source.h, learnt) the last answer alone, or
 * everything, is supervised. Rows longer than max_length lose their end. A row left without a supervised token is E_INPUT naming file:line
 * and max_length. On error nothing is left to free. */
err rows_sft(const tokenizer *tk, const struct source *s, int max_length, struct rows *out);
/* Rows of pairs: wrap(lead + prompt) + lead + completion + EOS. swap: the record's two texts change places. */
err rows_pairs(const tokenizer *tk, const struct prompt_form *f, const struct source *s, bool swap, int max_length,
               struct rows *out);
/* Raw text: each record is a document, a BOS before it where the model expects one, and (ends) an EOS behind it. Of a longer one than max_length nothing
 * is lost: it goes on in the next row, which begins with the last id of the one before. So every token of a document but its first is learnt once, however
 * it is cut. Documents of one token have no row; none with two is E_INPUT. Streamed, a document is tokenised again for each of its rows that is drawn. */
err rows_documents(const tokenizer *tk, const struct source *s, int max_length, bool ends, struct rows *out);
/* The first row of a record; of records themselves, behind the last one. */
static inline int rows_first(const struct rows *rows, int record) { return rows->first ? rows->first[record] : record; }
/* Texts of one side of a cycle: lead + text, cut to max_length, nothing supervised. They become prompts and answers. */
err rows_texts(const tokenizer *tk, const struct prompt_form *f, const struct source *s, int max_length, struct rows *out);

/* Labelled texts: with what the model expects around a text (a row that is cut keeps what comes after it); the class is told at the
 * last token, or (first) at the first. A label that is none of `labels` is E_INPUT; labels NULL: texts without one, to be read at that place.
 * numbers > 0: so many of them in place of a class. twice: an encoder-decoder reads the text, within half of max_length, with the encoder and,
 * `start` in front and its end away, with the decoder, at whose last token the class is told. */
struct class_form { const struct labels *labels; bool first, twice; int numbers; int32_t start; }; /* it and the labels must outlive streamed rows */
err rows_labelled(const tokenizer *tk, const struct class_form *form, const struct source *s, int max_length, struct rows *out);
/* Words with tags, one space between them, and around them what the model expects. A word's first token tells its class, as in transformers'
 * run_ner; a word that has no token, or lies beyond max_length, tells none. A tag that is the name of no class but an integer is the class of
 * that number. labels NULL: words without tags; row.labels then are 1 + the number of the word. */
err rows_tagged(const tokenizer *tk, const struct class_form *form, const struct source *s, int max_length, struct rows *out);

/* Every record of a source as a row would have it, in order, without keeping any: for looking at data. A row that leaves
 * nothing to learn is no error here; a record that is none, or cannot become a row, comes with what is wrong, and the visitor says whether that ends
 * it. tk NULL: without tokens. */
struct row_seen {
    const char *path;
    int line;
    size_t tokens;     /* uncut */
    size_t supervised; /* within max_length */
    uint64_t hash;     /* of what the record says: prompt and completion, turns, text */
    err e;             /* with `wrong`, its message: there is no row */
    const char *wrong;
};
err rows_visit(const tokenizer *tk, const struct source *s, int max_length, err (*visit)(void *ctx, const struct row_seen *row), void *ctx);
void rows_free(struct rows *r);

/* Where the answer ends whose last token with loss is k: its control token (a template may let a line end follow it); -1: it has none. */
int answer_end(const tokenizer *tk, const int32_t *ids, const uint8_t *supervised, int k);

/* Adds one row to rows that began as {0}: prompt ids (not supervised) then answer ids (supervised). The caller sees to
 * the length and to the answer's EOS. */
err rows_add(struct rows *out, const int32_t *prompt, size_t np, const int32_t *answer, size_t na);

#endif
