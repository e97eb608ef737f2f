/* What a family file uses: readers of sizes that complain by name. */
#ifndef CYC_MODEL_FAMILY_H
#define CYC_MODEL_FAMILY_H
#include "model/model.h"

#define FAMILY(name) extern const struct family family_##name;
#include "model/families.def"
#undef FAMILY

err size_gguf(const struct gguf_meta *meta, const char *key, int64_t *out);
int64_t size_gguf_or(const struct gguf_meta *meta, const char *key, int64_t fallback);
double real_gguf_or(const struct gguf_meta *meta, const char *key, double fallback);
err size_json(const struct model *m, const void *json, const char *key, int64_t *out);
int64_t size_json_or(const void *json, const char *key, int64_t fallback);
double real_json_or(const void *json, const char *key, double fallback);
bool bool_json_or(const void *json, const char *key, bool fallback);
double rope_base_json(const void *json, double fallback);      /* rope_theta, or rope_parameters.rope_theta (transformers 5) */
err want_json(const struct model *m, const void *json, const char *key, const char *value); /* absent is fine */
err want_no_rope_scaling(const struct model *m, const void *json);

#endif
