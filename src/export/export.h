/* One output: a merged or converted model, or an adapter in another form. Opens the base, plans (items.h, lora_out.h), says what it
 * will take, writes beside the place (place.h), reopens and checks what it wrote (check.h), and puts it in place. Called by api. */
#ifndef CYC_EXPORT_EXPORT_H
#define CYC_EXPORT_EXPORT_H
#include "base/dtype.h"
#include "export/items.h"
#include "gen/rules.h"
#include "io/tokenizer.h"
#include "model/cut.h"
#include <jansson.h>

struct export_request {
    const char *base, *base_config; /* as model_open(); base_config for random:SEED */
    const char *adapter;            /* NULL: the base alone, converted */
    const char *to;                 /* "peft", "gguf-lora", "mlx", "hf", "gguf" */
    dtype type;                     /* DT_NONE: what loses least (items.h) */
    const struct rules *rules;      /* the base is quantised by these (gen/rules.h), and type is not asked; or NULL */
    const struct ids *texts;        /* with rules or cut: base and result are compared on so many tokens of these (gen/likeness.h) */
    int n_texts;
    int64_t most_tokens;
    const char *out;
    const struct cut *cut; /* what is written is this of base (model/cut.h), and with texts compared with all of it; NULL: all of it */
    size_t max_shard; /* of safetensors; 0: 5 GB */
    bool force, unchecked;
    bool undo;        /* base is a merged model: the adapter is taken off */
    const char *like; /* with undo: the base that it should come to, to be compared with; NULL: none */
    const char *hash; /* of the base that the adapter was trained on, or NULL */
    bool hash_binds;  /* it is the same file: another hash is an error, not a warning */
    struct progress progress;
    void (*on_plan)(void *ctx, const json_t *plan); /* before anything is written; progress.ctx */
};
/* *report: the plan, then what was written and how the check went; also after a failed check. */
err export_one(const struct export_request *r, json_t **report);
/* What merging an adapter of this structure would take, before either has numbers: what stays, and the larger of what writing and
 * checking need. rank: of its products; 0 of one that takes the place of tensors. The base's own pages are given back as it goes. */
struct merge_plan {
    size_t kept, write, check;
};
err export_merge_plan(const struct model *m, struct structure *st, int64_t rank, struct merge_plan *out);
bool export_is_file(const char *to); /* one file, not a folder */
err export_known(const char *to);    /* E_USAGE with the list */

#endif
