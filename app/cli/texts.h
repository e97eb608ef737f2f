/* What the commands over files of texts share (embed, classify): a model, an adapter on it, and the file. */
#ifndef CYC_CLI_TEXTS_H
#define CYC_CLI_TEXTS_H
#include "cli.h"
#include <cyclora/cyclora.h>

struct texts_ask {
    const char *model, *adapter /* NULL: the bare base */, *data, *format, *field, *device, *dtype;
    int max_length;
    bool words; /* where the adapter tells the classes of words, the file is one of words */
};

struct texts_open {
    cyc_model *m;
    cyc_adapter *a;
    cyc_texts *t;
};

/* A cyc_ call's code; texts_end() follows either way. */
int texts_begin(const struct texts_ask *q, struct texts_open *o);
void texts_end(struct texts_open *o);

#endif
