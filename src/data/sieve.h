/* What is kept of pairs of instruction and output that a model has written in the likeness of seeds (api/synth.c), and why the rest is not.
 *
 * A model is shown some seeds in a fixed form, each closed by a line of its own, and goes on behind the head of the next:
 *
 *     Instruction: add 91 hour to 31 second timer
 *     Output: IncreaseTimer | hours = 91
 *     ###
 *
 * What it writes is read the same way. It is dropped, for the first reason that holds, where it has no output, does not come to an end, has no
 * word in one of the two, is too short or too long an instruction, refuses (in English; the table is in sieve.c), says its instruction again,
 * is a seed's instruction, is like a seed's or an earlier one's (ROUGE-L above a limit, Self-Instruct's rule: Wang et al. 2022), or is an
 * evaluation set's: an instruction that is one of its texts, or a run of words that it has too.
 *
 * Words are letters and digits of any alphabet, in lower case; everything else separates, so an alphabet without spaces has one word a
 * clause, and there likeness is near to equality. Words are compared by hashes (32 bits; runs and texts: 64). A pair is measured against
 * all before it: n of them take n^2 / 2 comparisons, microseconds each beside the tenths of a second that a model takes to write one.
 * Called by api. */
#ifndef CYC_DATA_SIEVE_H
#define CYC_DATA_SIEVE_H
#include "data/source.h"
#include "data/symbols.h"

enum fate {
    FATE_KEPT,
    FATE_UNREAD,
    FATE_CUT,
    FATE_EMPTY,
    FATE_LENGTH,
    FATE_REFUSAL,
    FATE_ECHO,
    FATE_COPY,
    FATE_SIMILAR,
    FATE_EVALUATION,
    FATES
};
const char *fate_name(enum fate f); /* "kept", "unread", ... */

struct seed {
    const char *instruction, *output, *path;
    int line;
};
struct sieve_rules {
    double likeness;             /* above this ROUGE-L (0..1) it is dropped */
    int least_words, most_words; /* of an instruction */
    int run;                     /* words that an evaluation set may not have in a row too */
};
struct sieve { /* begins as {.rules = ...} */
    struct sieve_rules rules;
    arena mem;
    struct seed *seed;
    int n_seeds;
    bool turns;         /* seeds were conversations */
    struct text *known; /* words of seeds' instructions, then of those that were kept */
    int n_known, cap_known;
    uint64_t *held_out; /* sorted hashes of evaluation sets' texts and runs */
    size_t n_held_out, cap_held_out;
    struct line line;
    int64_t count[FATES];
};
/* Each record's prompt and completion, or its first user's turn and the answer. E_INPUT: none has both. */
err sieve_seeds(struct sieve *s, const struct source *seeds);
/* All texts of an evaluation set, of any shape. */
err sieve_against(struct sieve *s, const struct source *set);

#define SIEVE_HEAD "Instruction:"
#define SIEVE_END  "\n###"
/* Appends the template with the seeds of these numbers in place of {examples}. */
err sieve_prompt(const struct sieve *s, const char *template, const int *which, int n, str *out);
/* Text that a model wrote behind SIEVE_HEAD; ended: it stopped by itself. *fate says what became of it; kept, the pair lives as long as
 * the sieve. */
err sieve_take(struct sieve *s, const char *text, bool ended, enum fate *fate, struct seed *pair);
void sieve_free(struct sieve *s);

#endif
