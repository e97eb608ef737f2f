/* A run's settings: read from YAML, overridden by --set, resolved into plain structs. The rows of config.def are the
 * keys; the sections A:, B:, ... override the shared side settings.
 *
 * `A` is a side and an adapter: A.data is the text of side A; adapter A maps A to B and so trains on targets from B's
 * file; A's learning rate, batch and schedule belong to adapter A.
 *
 * Every value that a function here stores has passed its key's type and range; config_check() then looks at what the
 * values say together. Words with several spellings are stored as one (gradient_checkpointing: true is "block"). */
#ifndef CYC_TRAIN_CONFIG_H
#define CYC_TRAIN_CONFIG_H
#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"
#include <stdbool.h>
#include <stdint.h>

enum { CONFIG_SIDES = 8 }; /* at most */
struct strs {
    int n;
    const char **v;
};

#define STR  const char *
#define INT  int64_t
#define REAL double
#define BOOL bool
#define STRS struct strs
#define FILES struct strs
struct side_config {
#define KEY_RUN(type, field)
#define KEY_SIDE(type, field)                          type field;
#define KEY(where, type, field, name, def, wants, doc) KEY_##where(type, field)
#include "train/config.def"
#undef KEY
#undef KEY_RUN
#undef KEY_SIDE
};

struct config {
    arena mem;
    struct side_config side[CONFIG_SIDES]; /* [0] = A (or the only one, sft), [1] = B, ... */
    int named; /* sides up to the last that was given something of its own; see config_sides() */
#define KEY_RUN(type, field) type field;
#define KEY_SIDE(type, field)
#define KEY(where, type, field, name, def, wants, doc) KEY_##where(type, field)
#include "train/config.def"
#undef KEY
#undef KEY_RUN
#undef KEY_SIDE
};
#undef STR
#undef INT
#undef REAL
#undef BOOL
#undef STRS
#undef FILES

/* A key as help pages show it; `type` includes the range ("integer >= 1"). */
struct config_key {
    const char *name, *type, *fallback, *doc;
    bool per_side;
};
const struct config_key *config_keys(size_t *n);

int config_sides(const struct config *c);            /* of objectives with several: two, or up to the last that has a section */
const char *config_side_name(int side);              /* "A", "B", ... */
/* next[i]: the side that comes after side i in its cycle (`cycles`). E_USAGE where a side is in none or in two, or alone. */
err config_cycles(const struct config *c, int next[CONFIG_SIDES]);
err config_init(struct config *c);                   /* the defaults */
err config_load(struct config *c, const char *path); /* YAML over what is there; relative paths stay as written */
err config_parse(struct config *c, const char *path, const void *yaml, size_t n); /* the same from memory */
err config_set(struct config *c,
               const char *assignment);   /* "lora.r=8", "A.learning_rate=1e-4"; a bare side key sets all sides */
err config_check(const struct config *c); /* ranges and contradictions, names in the message; model and data given */
err config_check_plan(const struct config *c); /* the same of what is planned without data: model alone is given */
bool config_knows_metric(const char *name);           /* as metric_for_best_model, without a command of the user's */
bool config_metric_falls(const struct config *c);    /* is the least of metric_for_best_model the best? */
bool config_without_data(const struct config *c); /* no side names a file */
err config_write(const struct config *c, str *yaml); /* every key resolved, loadable again */
void config_quote(const char *s, str *out);          /* a text as a value of such YAML: plain, or between double quotes */
void config_free(struct config *c);                  /* after a failed load or parse, the only thing left to do */

/* "2GB", "1.5 GiB", "500MB", in any case: GB is 10^9, GiB 2^30. A number without a unit is E_USAGE. "" is 0. */
err config_bytes(const char *text, size_t *bytes);
/* An item of a list of files: "more.jsonl.gz;weight=0.5;limit=1000;format=alpaca;field=body". In YAML it may be written as
 * {path: ..., weight: ...} (of guard.data name, kind and vectors too); a name that has a semicolon of its own is left alone. What is not given is 0 or NULL. */
struct file_entry {
    const char *path, *format, *field, *name, *kind, *vectors; /* the last three of guards alone */
    double weight;
    int64_t limit;
};
err config_entry(arena *mem, const char *item, struct file_entry *e);
/* What guards are (guard.c), in the order of their words; text where nothing is said. GUARD_KINDS: a word that is none. */
enum guard_kind { GUARD_TEXT, GUARD_SFT, GUARD_QA, GUARD_LABELS, GUARD_KINDS };
enum guard_kind config_guard_kind(const struct file_entry *e);
/* An item of guard.data, which has a name then: its own, or the file's. */
err config_guard(arena *mem, const char *item, struct file_entry *e);

/* "random:SEED[:dtype]": true and both parts (dtype "" when not given), false for any other model name. A malformed one
 * has been refused by config_check(). */
bool config_random_model(const char *model, uint64_t *seed, const char **dtype);

#endif
