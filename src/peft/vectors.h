/* For methods that train tensors of the base in place of them (norm tuning, BitFit, full, LoRA's `bias` and modules_to_save). */
#ifndef CYC_PEFT_VECTORS_H
#define CYC_PEFT_VECTORS_H
#include "core/site.h"
#include <string.h>

/* A trained copy of the vector, equal to it at the start; absent where the set is sealed and has none. In files it is
 * "MODULE.{infix}{part}", whole. */
val vector_copy(struct site *s, const struct base_vector *v, const char *infix);
int vector_param(struct site *s, const struct base_vector *v, const char *infix); /* the parameter that it is of */
/* The same of a matrix, under the name `of`, the matrix's own or another user's. base_stays: core/params.h */
val matrix_copy(struct site *s, const struct base_matrix *m, const struct module *of, bool base_stays);
static inline bool vector_of_norm(const struct base_vector *v) { return strstr(v->of.name, "norm") != NULL; } /* canonical names: blk.3.attn_norm */
static inline bool vector_is_bias(const struct base_vector *v) { return !strcmp(v->part, "bias"); }

#endif
