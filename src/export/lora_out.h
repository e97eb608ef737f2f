/* A LoRA adapter in the forms that others load. Each form is written and can be read back as deltas, from its bytes alone and by its
 * own rules for scales and orders, so that the check (check.h) sees what a loader would.
 *
 *   peft       a folder; tensors as they are, adapter_config.json with the keys that every version of PEFT knows
 *   gguf-lora  llama.cpp: <GGUF name>.lora_a [r, in] and .lora_b [out, r]; a loader scales by adapter.lora.alpha / rank, so alpha is
 *              scale * rank where that is one number (alpha, or alpha * sqrt(r) with rsLoRA), and what differs is folded into B; rows
 *              of B are in the order in which GGUF files of the architecture keep q and k
 *   mlx        adapters.safetensors with <module>.lora_a [in, r] and .lora_b [r, out]; one rank and scale for all: smaller ranks are
 *              filled up with zeros, scales that differ are folded into B */
#ifndef CYC_EXPORT_LORA_OUT_H
#define CYC_EXPORT_LORA_OUT_H
#include "export/deltas.h"
#include "export/items.h"

enum lora_form { FORM_PEFT, FORM_GGUF, FORM_MLX };

struct lora_out {
    arena mem;
    enum lora_form form;
    const struct model *m;
    const struct deltas *d;
    struct tensor *t; /* A and B of each delta, in turn; peft: the file's own */
    int n;
    double scale; /* gguf: of adapter.lora.alpha, that is scale * rank; mlx: the scale itself; B is folded relative to it */
    dtype type;
    struct model twin; /* gguf: names and orders */
};
err lora_out_plan(struct lora_out *o, enum lora_form form, const struct model *m, const struct deltas *d, dtype type);
void lora_out_free(struct lora_out *o);
size_t lora_out_bytes(const struct lora_out *o); /* memory that writing takes */
/* path: the file of gguf-lora, the folder of the others. *total: bytes on disk. */
err lora_out_begin(const struct lora_out *o, const char *path, struct tensors_out *out);
err lora_out_write(const struct lora_out *o, struct tensors_out *out, struct progress *p);
err lora_out_finish(const struct lora_out *o, const char *folder); /* the configuration beside the tensors */
/* Reads it back. */
err lora_out_reopen(const struct lora_out *o, const char *path, struct deltas *back);

#endif
