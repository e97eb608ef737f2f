/* A LoRA folder as its pairs of matrices, without the base: what merging, re-packing, resizing and arithmetic have in common. Takes any
 * PEFT folder, more than training can (a rank for each module, targets of any kind).
 *
 * Strict in what it pairs: each A has its B, of one rank, which is the configuration's for that module; with DoRA lengths too. Tensors
 * that belong to no pair (biases, modules_to_save) are listed for the caller to judge. It refuses adapters whose product is not the whole
 * change (start values taken off the base) or whose matrices mean something else (pooled, block-diagonal, Megatron's). */
#ifndef CYC_EXPORT_PAIRS_H
#define CYC_EXPORT_PAIRS_H
#include "io/tensors.h"

struct lora_pair {
    const char *module;         /* "model.layers.0.self_attn.q_proj" */
    bool table;                 /* of an embedding: lora_embedding_A [rank, V], lora_embedding_B [C, rank], the change transposed */
    const struct tensor *a, *b; /* [rank, in], [out, rank]; f32, f16 or bf16 */
    const struct tensor *m;     /* DoRA: [out], the lengths of the sum's rows; NULL */
    int rank;
    double scale;               /* of the product */
};

struct lora_pairs {
    arena mem;
    const char *folder;
    struct lora_pair *p; /* in the order of the file */
    int n, max_rank;
    const struct tensor **other; /* of no pair */
    int n_other;
    int r;
    double alpha, dropout; /* as the folder has them */
    bool rslora, dora;
    bool patterns;         /* ranks or alphas differ between modules */
};

/* What pairs are wanted for. */
struct pairs_use {
    const char *why; /* other methods are refused, and what the product alone would leave out (biases, rows of tokens, whole modules): " is no
                      * product, so ..."; NULL: whoever asks keeps such tensors as they are */
    bool saved;      /* ... but knows what to do with whole modules (modules_to_save) */
};

/* config: its adapter_config.json (jansson), which lies at `path`. */
err pairs_read(const char *folder, const void *config, const char *path, const struct tensors *files, const struct pairs_use *use,
               struct lora_pairs *out);
void pairs_free(struct lora_pairs *p);

extern const char adapter_prefix[]; /* "base_model.model." */

#endif
