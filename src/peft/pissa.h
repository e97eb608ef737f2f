/* PiSSA: a LoRA that begins at the greatest singular vectors of its matrix (pissa.c). Called by lora.c. */
#ifndef CYC_PEFT_PISSA_H
#define CYC_PEFT_PISSA_H
#include "core/site.h"

enum { PISSA_SETTLED = -1 /* as many iterations as it takes */ };

/* Where the factors will lie: A [rank, in], then -B [out, rank], B A the best product of this rank for W. NULL: the program has failed. */
const float *pissa_factors(struct site *s, const struct linear *w, int rank, int iterations);
/* y - B A x, frozen. */
val pissa_less(struct site *s, const struct linear *w, const float *factors, int rank, val x, val y);

#endif
