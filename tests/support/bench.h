/* A family's golden case on a backend, ready to train, score and generate: what test_families.c and test_llama.c stand on; and the logits of a bare model.
 *
 * The fixture (tensors of PyTorch and PEFT) gives rows (with "classes", "targets" or "tags": of a head), expected gradients and weights; the model, the adapter and the
 * programs are the library's own. */
#ifndef TESTS_BENCH_H
#define TESTS_BENCH_H
#include "support/support.h"
#include "data/rows.h"
#include "gen/generate.h"
#include "train/learner.h"

struct bench {
    arena mem, mem_settings;
    struct model model;
    struct tensors want;
    struct structure st;
    struct program train, score; /* score: where the case asks for it; of a classifier what it says (MODE_CLASSIFY), and no generator */
    struct generator gen;
    struct learner learner;
    struct workbench wb;
    struct row row[8], *rows[8];
    int n_rows;
    char name[128]; /* for messages; the caller's */
};

struct bench_case {
    const char *model, *adapter, *expected; /* a folder or file, a folder, a file */
    const struct backend *backend;
    enum checkpoint level;
    struct capacity cap;
    int mlp_chunk; /* model.mlp_chunk */
    bool narrow;   /* weights in bf16 */
    struct recipe recipe;
    struct loss_terms terms; /* of training; */
    float noise;
    bool score;
};

void bench_open(struct bench *b, const struct bench_case *c);
/* The same with a fresh adapter of any settings (whose texts must outlive it) in place of the folder's; head may be NULL. */
void bench_build(struct bench *b, const struct bench_case *c, const struct peft_method *method, const void *settings, const struct head *head);
void bench_close(struct bench *b);

/* Compares every slice of an arena, times `scale`, with the fixture's tensors PREFIX + file name; the fixture has no others. */
void bench_compare(struct bench *b, const char *prefix, const float *there, double scale, double rel, double abs);

/* Loss and every gradient of the fixture's rows, then ten AdamW steps: losses, norms, learning rates (where the fixture has them) and what
 * is trained. sums: those of the first gradient. */
void bench_train(struct bench *b, double sums[4]);
/* The gradient is *first's, bit for bit; where there is none it becomes that (the caller frees). */
void bench_same_gradient(struct bench *b, float **first);
/* Token by token through the cache: the packed model's logits. After bench_greedy() it reads what that prefill left (DoRA's factors). */
void bench_decode(struct bench *b, double abs);
/* Greedy text of the fixture's prompts. */
void bench_greedy(struct bench *b);

/* Logits of a fixture's batch (ids, cu_seqlens) by the bare model at `path`, capped where the model caps them, [N, V]; the caller frees. */
float *logits_of(const char *path, const struct tensors *expected);
/* The same of rows that have n ids before them. */
float *logits_after(const char *path, const struct tensors *expected, const int32_t *before, int n);
/* With an adapter of a structure that was made for the model. */
float *logits_with(const char *path, struct structure *st, float *weights, const struct tensors *expected);
/* The same with a fresh adapter of a structure that was made for the model. */
float *logits_of_fresh(const char *path, struct structure *st, const struct tensors *expected);

#endif
