/* A JSON object as a line of JSONL, written as short as it goes. */
#ifndef CYC_IO_JSONL_OUT_H
#define CYC_IO_JSONL_OUT_H
#include "base/str.h"
#include <jansson.h>

/* Takes the reference; NULL, or no memory, sets out->failed. */
void jsonl_add(str *out, json_t *o);

#endif
