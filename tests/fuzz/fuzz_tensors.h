/* What the fuzz targets of src/io share. Fuzzed readers open paths: an input is put in a file of the process's own
 * folder under /tmp, which disappears with the process. */
#ifndef CYC_FUZZ_TENSORS_H
#define CYC_FUZZ_TENSORS_H
#include "io/tensors.h"
#include <stdlib.h>
#include <unistd.h>

static char fuzz_folder[] = "/tmp/cyc-fuzz-XXXXXX";

static inline void fuzz_clean(void) { dir_remove(fuzz_folder); }

/* Writes the bytes to `name` in the folder and returns its path, valid until the next call. */
static inline const char *fuzz_file(const char *name, const uint8_t *bytes, size_t n) {
    static bool made;
    static char path[128];
    if (!made && (!mkdtemp(fuzz_folder) || atexit(fuzz_clean))) abort();
    made = true;
    snprintf(path, sizeof path, "%s/%s", fuzz_folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) abort();
    return path;
}

/* What a failure owes its caller: a message, and nothing held. Touches every byte where there was none. */
static inline void fuzz_check(err e, struct tensors *ts) {
    if (e && (!*err_text() || ts->mem.head || ts->n_maps || ts->n)) abort();
    volatile uint8_t sink = 0;
    for (int i = 0; i < ts->n; i++) {
        const struct tensor *t = &ts->t[i];
        const uint8_t *p = t->data;
        if (tensors_find(ts, t->name) != t) abort();
        for (size_t k = 0; k < t->bytes; k++) sink = (uint8_t)(sink ^ p[k]);
    }
}

#endif
