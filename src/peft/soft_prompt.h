/* What methods with virtual tokens share (prompt tuning, P-tuning, prefix tuning, projector), whose settings all begin with a struct soft_prompt: how
 * many there are, and the sizes of the base that PEFT's configuration repeats. */
#ifndef CYC_PEFT_SOFT_PROMPT_H
#define CYC_PEFT_SOFT_PROMPT_H
#include "core/site.h"

enum { MOST_VIRTUAL_TOKENS = 4096 };

struct soft_prompt {
    int tokens;
    int64_t width, layers, heads; /* token_dim, num_layers, num_attention_heads: as a folder says them (0: it does not), or the base's */
    int64_t first;                /* the id of the first virtual token: the base's vocabulary */
};

err soft_prompt_check(const struct soft_prompt *p, const char *method);
err soft_prompt_read(const void *json, const char *where, struct soft_prompt *p);
err soft_prompt_write(const struct soft_prompt *p, void *json);
/* width, heads: of what is trained. A folder that was made for another base is refused. */
err soft_prompt_fit(struct soft_prompt *p, const char *method, const struct base_sizes *base, int64_t width, int64_t heads);
/* Of a folder and of the structure that is to take its numbers. */
err soft_prompt_agrees(const struct soft_prompt *have, const struct soft_prompt *want, const char *method, const char *folder);
int soft_prompt_tokens(const void *settings); /* the methods' virtual_tokens (core/site.h) */
/* The rows of a trained table [rows, C], in the program's own type, to compute with. */
val soft_prompt_rows(struct site *s, int rows, val table);
/* A trained linear layer with a bias, NAME.weight and NAME.bias in files, that begins as PyTorch's does. */
val soft_prompt_linear(struct site *s, val x, const char *name, int64_t in, int64_t out);
/* Rows of virtual tokens in x become the table's [tokens, width of x]. */
val soft_prompt_lay(struct site *s, const struct soft_prompt *p, val x, val table);

#endif
