/* The classes of a classification task, of texts or of words: their names, in the order of the classifier's rows.
 *
 * Given by the configuration, or collected from the training data: numbers in their order where every label is one (so that labels
 * 0..K-1 are the rows 0..K-1, as transformers has them), else names in the order of their bytes. Fewer than two classes are refused:
 * there would be nothing to tell apart.
 *
 * Called by rows.c (what class a record is of), by train/classification.c and by whoever reads an adapter's labels.json. */
#ifndef CYC_DATA_LABELS_H
#define CYC_DATA_LABELS_H
#include "data/source.h"

struct labels {
    arena mem;
    int n;
    const char **name;
    int *by_name; /* numbers of the classes, by the bytes of their names */
};
/* Names are copied. A name given twice is E_USAGE. On error nothing is left to free. */
err labels_of(const char *const *name, int n, struct labels *out);
err labels_collect(const struct source *s, struct labels *out);
void labels_free(struct labels *l);
int labels_find(const struct labels *l, const char *name); /* -1: none of them */
/* "'x' is none of the 3 classes (a, b, c)", as E_INPUT. */
err labels_unknown(const struct labels *l, const char *name);

#endif
