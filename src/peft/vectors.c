/* See vectors.h. */
#include "peft/vectors.h"
#include <stdio.h>

int vector_param(struct site *s, const struct base_vector *v, const char *infix) {
    char name[256], file[256];
    snprintf(name, sizeof name, "%s.%s", v->of.name, v->part);
    snprintf(file, sizeof file, "%s.%s%s", v->of.module, infix, v->part);
    const struct param_slice whole = {.name = file, .rows = v->n, .rope_heads = v->rope_heads, .from = v->data, .stored = DT_F32, .form = v->form};
    return param_get(s->params, name, 1, &v->n, INIT_COPY, 0, &whole, 1);
}

/* A set that was laid down by a model without this tensor has no copy of it (a language model's, beneath a head): the base's stands. */
static val copy_of(struct site *s, int index) { return index < 0 && s->params->sealed ? (val){0} : prog_param(s->p, s->params, index); }

val matrix_copy(struct site *s, const struct base_matrix *m, const struct module *of, bool base_stays) {
    char name[256], file[256];
    snprintf(name, sizeof name, "%s.weight", of->name);
    snprintf(file, sizeof file, "%s.weight", of->module);
    const struct param_slice whole = {.name = file, .rows = m->rows, .rope_heads = m->rope_heads, .from = m->data, .stored = m->stored, .base_stays = base_stays, .turned = m->turned, .form = m->form};
    return copy_of(s, param_get(s->params, name, 2, (int64_t[]){m->rows, m->cols}, INIT_COPY, 0, &whole, 1));
}

val vector_copy(struct site *s, const struct base_vector *v, const char *infix) { return copy_of(s, vector_param(s, v, infix)); }
