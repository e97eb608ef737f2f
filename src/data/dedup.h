/* A source without the records that say what an earlier one says, or nearly (twins.h): `cyclora data dedup`. Called by api. */
#ifndef CYC_DATA_DEDUP_H
#define CYC_DATA_DEDUP_H
#include "data/rewrite.h"
#include "data/twins.h"

/* `removed`, NULL: none, gets a line for each record that goes: {"path", "line", "kept_path", "kept_line", "jaccard"}; 1 where they are equal. */
err data_dedup(const struct rewriting *w, const struct twin_options *o, const char *removed);

#endif
