/* What the three files of the configuration share: config.c (keys, values, rules), config_yaml.c (text in) and
 * config_write.c (text out). Nobody else includes this. */
#ifndef CYC_TRAIN_CONFIG_INTERNAL_H
#define CYC_TRAIN_CONFIG_INTERNAL_H
#include "train/config.h"

enum kind { KIND_STR, KIND_INT, KIND_REAL, KIND_BOOL, KIND_STRS, KIND_FILES };
union value {
    const char *s;
    int64_t i;
    double r;
    bool b;
    struct strs l;
};
/* Key k (its index in config_keys()) in a configuration; side does not matter for a key of the run. */
enum kind config_kind(int k);
union value config_value(const struct config *c, int k, int side);

/* One value as it was written, before anyone knows whether it is right. */
enum shape { PLAIN, QUOTED, LIST, MAPPING };
struct given {
    struct given *next;
    const char *at;   /* "run.yaml:3", or "--set" */
    const char *name; /* dotted, with A., B., ... */
    enum shape shape;
    struct strs v; /* one text, or the items of a list */
};
bool config_is_section(const char *name);                    /* "lora", "A", "B.lora": names that hold keys */
bool config_is_null(const struct given *g);                  /* nothing was written, or null */
err config_key_of(const struct given *g, int *k, int *side); /* side -1: all; unknown and misplaced keys are E_USAGE */
err config_mismatch(const struct given *g, int k);           /* E_USAGE: "run.yaml:3: 'lora.r' wants ..., found ..." */

bool config_is_decimal(const char *s, bool real); /* digits with an optional sign; a real may have a fraction and an exponent */
bool config_has_head(const struct config *c);     /* is it a head that the objective trains? */

/* config_files.c: an item of `data`, and of guards all that is to be right of them. */
err config_data_entry(arena *mem, const char *item, struct file_entry *e);
err config_check_guards(const struct config *c);

/* config_rollout.c: what is between generating and training; the first of it that an objective without generation has no use for. */
err config_check_rollouts(const struct config *c);
err config_check_no_rollouts(const struct config *c);

/* config_distill.c: a teacher and what is asked of it go together, and with the objective. */
err config_check_distill(const struct config *c);
err config_check_loss(const struct config *c); /* config_loss.c: what is learnt, and how its loss is made, by the objective */

/* The options of a file in a list, NULL-ended: weight, limit, format, field; and of guards name, kind and vectors. */
extern const char *const config_file_options[];

/* Reads a file's bytes into a list of given values; each names a known key once (sections are among them, with shape
 * MAPPING or a null value). Strings live in mem. */
err config_read(arena *mem, const char *path, const void *yaml, size_t n, struct given **first);
/* Reads one YAML value ("..." or [a, b]) into g, whose name and place are set. */
err config_read_value(arena *mem, const char *yaml, struct given *g);

#endif
