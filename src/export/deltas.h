/* An adapter as what it does to its base: of LoRA W + scale * B A for each module (with DoRA its rows brought to lengths m), likewise of methods
 * that come to such a product (struct peft_method, pair: VeRA, AdaLoRA), of methods that
 * train tensors of the base (struct peft_method, whole) the tensor that takes the place of the base's. This reader takes any PEFT LoRA
 * folder, more than training can (rsLoRA, ranks and alphas by module), because merging and re-packing need no more than the products.
 *
 * It is strict: each tensor of the file belongs to a pair or to a tensor of the base, each of the right shape. It refuses by name, with
 * the reason: other methods, biases beside a LoRA, LoRA on token tables, adapters whose initialisation changed
 * the base. LoRA on the head of a tied model wants that head untied first (untie.h). modules_to_save are whole tensors beside the pairs; of a tied
 * table they are refused, for PEFT unties it. A trained head (gen/head.h) changes nothing of the base: it is kept beside, for a folder that has a
 * place for it. */
#ifndef CYC_EXPORT_DELTAS_H
#define CYC_EXPORT_DELTAS_H
#include "export/pairs.h"
#include "gen/adapter.h"

struct delta {
    const char *module;         /* "model.layers.0.self_attn.q_proj" */
    const struct weight *w;     /* the base's */
    const struct tensor *whole; /* what takes its place, in the form of Hugging Face's files; then there is no pair */
    const struct tensor *a, *b; /* [rank, in], [out, rank]; rows of b in Hugging Face's order; f32, f16 or bf16 */
    const struct tensor *m;     /* DoRA: [out], the lengths of the sum's rows; NULL */
    int rank;
    double scale;
};

struct deltas {
    arena mem;
    const char *folder;
    struct tensors files;
    struct lora_pairs pairs; /* LoRA's */
    struct delta *d; /* in the order of the base's weights */
    int n, max_rank;
    const struct peft_method *method; /* of whole tensors, or of pairs that were made, with its settings; NULL: LoRA's pairs */
    const void *settings; /* also of a LoRA with wholes */
    int wholes;           /* beside the pairs: modules_to_save */
    struct head head;     /* trained beside all that; classes 0: none */
    const char *head_module;           /* "score" */
    const struct tensor *head_part[2]; /* its weight [classes, C], and its bias or NULL */
    bool made;
    float *numbers; /* what they were made of, and some of them */
    size_t bytes;
    const char **targets;  /* the modules' names */
    double dropout;        /* for formats that note it */
    bool dora;             /* each delta has an m */
    bool rslora, patterns; /* scales are alpha / sqrt(rank); ranks or alphas differ between modules */
    double alpha;          /* as the folder has it */
    int r;
};

err deltas_open(const char *folder, const struct model *m, struct deltas *out);
void deltas_close(struct deltas *d);
/* W - scale * B A from here on: what a merge added is taken off. Refused where it cannot be: lengths (DoRA), tensors that took the place of
 * the base's, a model that is quantised. */
err deltas_undo(struct deltas *d, const struct model *merged);
/* What a row of W + scale * B A is multiplied by when its sum of squares is `squares`: 1 without DoRA. row: in Hugging Face's order. */
double delta_factor(const struct delta *d, int64_t row, double squares);
size_t deltas_pair_bytes(const struct deltas *d); /* of all pairs in f32, filled up to one rank */
const struct delta *deltas_of(const struct deltas *d, const struct weight *w); /* NULL: untouched */

/* The tensor of the base's files that a weight was read from, and back; NULL: none. Hugging Face files may have a prefix before all names
 * ("bert.", "transformer."). */
const struct tensor *tensor_of_weight(const struct model *m, const struct weight *w);
const struct weight *weight_of_tensor(const struct model *m, const struct tensor *t);

/* LoRA as a structure of uniform rank and scale 1 with the scales in B, ranks filled up with zeros: the same products, in
 * the form in which the training graph takes them. Whole tensors as training takes them. *weights is an arena of st->params.bytes (arena_f32_free). d outlives st. */
err deltas_structure(const struct deltas *d, const struct model *m, struct structure *st, float **weights);

#endif
