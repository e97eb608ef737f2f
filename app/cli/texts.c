/* See texts.h. */
#include "texts.h"

int texts_begin(const struct texts_ask *q, struct texts_open *o) {
    *o = (struct texts_open){0};
    int code = cyc_model_open(q->model, &o->m);
    if (!code) code = cyc_model_device(o->m, q->device, q->dtype);
    if (!code && q->adapter) code = cyc_adapter_open(o->m, q->adapter, &o->a);
    const bool words = !code && q->words && cyc_head(o->a) == CYC_HEAD_TAGS;
    if (!code) code = (words ? cyc_words_open : cyc_texts_open)(q->data, q->format, q->field, &o->t);
    return code;
}

void texts_end(struct texts_open *o) {
    if (o->a) cyc_adapter_close(o->a);
    if (o->m) cyc_model_close(o->m);
    cyc_texts_close(o->t);
}
