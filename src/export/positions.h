/* RoPE in the two formats: a stretched table as GGUF's keys and tensors, and as config.json's rope_scaling. Both say what the base's file
 * said (struct rope_scaling); whether a reader makes the same table of it is crossing.c's to find out. Called by crossing.c and plan.c. */
#ifndef CYC_EXPORT_POSITIONS_H
#define CYC_EXPORT_POSITIONS_H
#include "io/tensors_out.h"
#include "model/model.h"
#include <jansson.h>

enum { POSITION_TENSORS = 2 };
/* {arch}.rope.*; nothing for a model without rotation. */
void positions_keys(const struct model *m, const char *arch, struct gguf_keys *out);
/* rope_freqs (llama3), rope_factors_short and _long (longrope), f32 vectors in mem; *n of them. */
err positions_tensors(const struct model *m, arena *mem, struct tensor out[POSITION_TENSORS], int *n);
bool positions_tensor(const char *name); /* is it one of these? */
bool positions_key(const struct model *m, const char *name); /* ... or one of the keys, {arch}.rope.*, or that of the context? */
/* rope_theta, rope_scaling and their like. original: of llama3, which GGUF's divisors do not say. */
err positions_config(const struct model *m, double original, json_t *config);
/* A real as the shortest decimal that is the same f32: metadata has f32, people wrote 1e-05. */
json_t *short_real(double v);

#endif
