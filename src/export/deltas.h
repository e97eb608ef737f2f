/* A LoRA adapter as what it does to its base: W + scale * B A for each module, with DoRA its rows brought to lengths m. This reader takes any PEFT LoRA folder, more than
 * training can (rsLoRA, ranks and alphas by module), because merging and re-packing need no more than the products.
 *
 * It is strict: each tensor of the file belongs to a pair, each pair to a matrix of the base of the right shape. It refuses by name,
 * with the reason: biases, modules_to_save, embeddings and heads, adapters whose initialisation changed the base. */
#ifndef CYC_EXPORT_DELTAS_H
#define CYC_EXPORT_DELTAS_H
#include "gen/adapter.h"

struct delta {
    const char *module;         /* "model.layers.0.self_attn.q_proj" */
    const struct weight *w;     /* the base's matrix */
    const struct tensor *a, *b; /* [rank, in], [out, rank]; rows of b in Hugging Face's order; f32, f16 or bf16 */
    const struct tensor *m;     /* DoRA: [out], the lengths of the sum's rows; NULL */
    int rank;
    double scale;
};

struct deltas {
    arena mem;
    const char *folder;
    struct tensors files;
    struct delta *d; /* in the order of the base's weights */
    int n, max_rank;
    const char **targets;  /* the modules' names */
    double dropout;        /* for formats that note it */
    bool dora;             /* each delta has an m */
    bool rslora, patterns; /* scales are alpha / sqrt(rank); ranks or alphas differ between modules */
    double alpha;          /* as the folder has it */
    int r;
};

err deltas_open(const char *folder, const struct model *m, struct deltas *out);
void deltas_close(struct deltas *d);
/* What a row of W + scale * B A is multiplied by when its sum of squares is `squares`: 1 without DoRA. row: in Hugging Face's order. */
double delta_factor(const struct delta *d, int64_t row, double squares);
const struct delta *deltas_of(const struct deltas *d, const struct weight *w); /* NULL: untouched */

/* The tensor of the base's files that a weight was read from, and back; NULL: none. Hugging Face files may have a prefix before all names
 * ("bert.", "transformer."). */
const struct tensor *tensor_of_weight(const struct model *m, const struct weight *w);
const struct weight *weight_of_tensor(const struct model *m, const struct tensor *t);

/* The adapter as a structure of uniform rank and scale 1 with the scales in B, ranks filled up with zeros: the same products, in
 * the form in which the training graph takes them. *weights is an arena of st->params.bytes (arena_f32_free). d outlives st. */
err deltas_structure(const struct deltas *d, const struct model *m, struct structure *st, float **weights);

#endif
