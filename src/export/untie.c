/* See untie.h. */
#include "export/untie.h"
#include "export/pairs.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static err untie(struct model *m) {
    const struct weight *table = model_weight(m, "token_embd.weight");
    if (!table) return fail(E_INTERNAL, "%s: no token table", m->path);
    if (m->shape.scaled_head)
        return fail(
            E_UNSUPPORTED,
            "%s: a low-rank product beside the head cannot be merged: the head is the token table (tied), with its input scaled for "
            "that, and no format can say so of a head of its own; use the adapter as it is",
            m->path);
    struct weight head = *table, *w = realloc(m->w, (size_t)(m->n + 1) * sizeof *w);
    if (!w) return fail(E_MEMORY, "out of memory");
    m->w = w;
    head.name = "output.weight", head.module = "lm_head";
    w[m->n++] = head;
    model_sort(m);
    m->shape.tied = false;
    return OK;
}

err untie_for(const char *folder, struct model *m) {
    char path[4096], name[64];
    struct tensors ts;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    if (!m->shape.tied || m->family->encoder || !path_exists(path)) return OK; /* whoever opens the adapter misses it */
    TRY(tensors_open(path, &ts));
    snprintf(name, sizeof name, "%slm_head.lora_A.weight", adapter_prefix);
    err e = tensors_find(&ts, name) ? untie(m) : OK;
    tensors_close(&ts);
    return e;
}

bool untied(const struct model *m) {
    const struct weight *head = model_weight(m, "output.weight"), *table = model_weight(m, "token_embd.weight");
    return head && table && head->data == table->data;
}
