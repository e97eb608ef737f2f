/* Which matrix of a base is quantised to which type: one type for the linear layers of its blocks, and other choices by name. Norms, biases,
 * tables and the head stay as they are unless a choice names them. Callers: training (quantization, quantization_modules) and export
 * (`cyclora quantize`), which therefore mean the same.
 *
 * A choice is MODULE=TYPE, MODULE as in rank_pattern: the ending of a module's name or a regular expression for it; TYPE "none" leaves it as it
 * is. The first that matches counts. A tied table is both embed_tokens and lm_head. Where a GGUF type's blocks do not fit a matrix's rows it
 * gets the smallest type with more bits whose blocks do, as llama.cpp's quantiser does.
 *
 * Refused: types that have no encoder, matrices that are quantised already, rows that blocks of 64 do not fit, choices that match nothing. */
#ifndef CYC_GEN_RULES_H
#define CYC_GEN_RULES_H
#include "model/model.h"
#include "peft/targets.h"

struct rules {
    dtype type;  /* of the blocks' linear layers */
    bool nested; /* double quantisation of NF4 */
    int n;
    const struct module_value *of; /* value: the dtype */
};

/* type: "nf4", "int8", "q8_0", ...; choice: n of them. setting: the name of the list, for messages. */
err rules_read(const char *type, const char *const *choice, int n, const char *setting, arena *mem, struct rules *r);
/* to [m->n]: DT_NONE where a weight stays. */
err rules_apply(const struct rules *r, const struct model *m, dtype *to);
/* What is made of what: "106 MB as nf4, 28 MB as q8_0", after quantised_open(). Types that are 0 bytes are left out. */
void rules_print(const struct model *m, const dtype *to, str *out);

#endif
