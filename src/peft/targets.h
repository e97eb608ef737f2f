/* Which modules of a base a method takes: PEFT's rules for target_modules, exclude_modules, layers_to_transform and layers_pattern
 * (tuners/tuners_utils.py, check_target_module_exists), and what *_pattern settings say of a module.
 *
 * Names and texts belong to whoever made the settings. */
#ifndef CYC_PEFT_TARGETS_H
#define CYC_PEFT_TARGETS_H
#include "core/site.h"

enum take { TAKE_NAMES, TAKE_REGEX, TAKE_ALL_LINEAR, TAKE_ATTENTION, TAKE_MLP, TAKE_NORMS, TAKE_ALL };

struct module_list {
    enum take take;
    int n;
    const char *const *names; /* modules or endings of them ("q_proj"); one regular expression of whole names where take says so */
};

struct targets {
    struct module_list of, except;
    int n_layers, n_containers;
    const int *layers;              /* none: every layer */
    const char *const *containers;  /* names before a layer's number; none: any */
};

/* One key of rank_pattern and the like: a module's ending, or a regular expression for it. */
struct module_value {
    const char *key;
    double value;
};

/* all-linear, attention, mlp (linear layers and their biases), norms, all. Of names and expressions: NULL. */
const char *take_word(enum take take);
/* The word's; TAKE_NAMES where it is none. */
enum take take_of_word(const char *word);

bool module_list_takes(const struct module_list *l, const struct module *w);
bool module_lists_same(const struct module_list *a, const struct module_list *b);
err module_list_check(const struct module_list *l, const char *setting);
/* A list of names, one regular expression, or a word; absent or null: none. And back (a jansson value, the caller's; null: none). */
err module_list_read(const void *json, const char *setting, const char *where, arena *mem, struct module_list *l);
void *module_list_json(const struct module_list *l);

bool targets_take(const struct targets *t, const struct module *w);
bool targets_same(const struct targets *a, const struct targets *b);
err targets_check(const struct targets *t, const char *method);
/* From and to adapter_config.json (jansson values). `named`: the names that stand for all-linear, attention, mlp in this model, or NULL. */
err targets_read(const void *json, const char *where, arena *mem, struct targets *t);
err targets_write(const struct targets *t, const struct module_list *named, void *json);

/* For methods whose settings are a struct targets and nothing else. What names no module takes `otherwise`. */
err targets_alone_read(const void *json, const char *where, arena *mem, void *settings, enum take otherwise, const char *method);
err targets_alone_write(const void *settings, const struct module_list *named, void *json);
bool targets_alone_same(const void *a, const void *b);
const struct targets *targets_alone(const void *settings);

/* What the first of n whose key matches the module says, or otherwise. E_INPUT: a key is no expression, or runs too long on this name. */
err module_value(const struct module_value *v, int n, const char *module, double otherwise, double *value);
bool module_values_same(const struct module_value *a, int na, const struct module_value *b, int nb);
err module_values_check(const struct module_value *v, int n, const char *setting);
/* {"key": number}, or absent or null. */
err module_values_read(const void *json, const char *setting, const char *where, arena *mem, const struct module_value **v, int *n);
err module_values_write(const struct module_value *v, int n, double times, const char *setting, void *json);

#endif
