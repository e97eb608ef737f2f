/* Which loaders will take an adapter folder, and why others will not: told from its configuration and the names and shapes of its
 * tensors, before anybody tries. Sources: the loaders' own checks (PEFT's config keys; vLLM's peft_helper.py and its list of ranks;
 * llama.cpp's llama-adapter.cpp; mlx-lm's lora loading). Called by api for `inspect`, and before
 * training for the plan. */
#ifndef CYC_EXPORT_TAKERS_H
#define CYC_EXPORT_TAKERS_H
#include "base/err.h"
#include <jansson.h>

/* The keys of adapter_config.json that PEFT has had from its first releases, NULL at the end; a reader older than a key fails on it. */
extern const char *const peft_keys[];

/* [{"loader", "takes", "why"}, ...]; takes: "yes", "no", or what it needs. */
err takers_of(const char *folder, json_t **out);
/* Of an adapter that is still to be trained: the servers (vLLM, llama.cpp) that will not take it, as far as its configuration tells. */
json_t *takers_refusing(const json_t *config);

#endif
