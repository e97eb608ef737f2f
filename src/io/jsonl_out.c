/* See jsonl_out.h. */
#include "io/jsonl_out.h"
#include <stdlib.h>

void jsonl_add(str *out, json_t *o) {
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (text) str_adds(out, text), str_addc(out, '\n');
    else out->failed = true;
    free(text);
    json_decref(o);
}
