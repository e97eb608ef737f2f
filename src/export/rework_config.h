/* What rework.c knows of adapter folders beside their numbers: opening them, whether they belong together, and the configuration of what is
 * made of them. Settings are the first adapter's but for what the numbers say (ranks, scales) and for the modules: where the adapters do not
 * choose the same ones, each module is named whole, which every loader reads alike. */
#ifndef CYC_EXPORT_REWORK_CONFIG_H
#define CYC_EXPORT_REWORK_CONFIG_H
#include "export/pairs.h"
#include <jansson.h>

struct adapter_in {
    arena mem;
    const char *folder, *path, *type; /* path: of adapter_config.json */
    json_t *config;
    struct tensors files;
    struct lora_pairs pairs;               /* of LoRA, by the caller */
};
err adapter_in_open(const char *folder, struct adapter_in *a);
void adapter_in_close(struct adapter_in *a); /* also after a failed or no open (zeroed) */

/* One method, one base unless `base` says which it is, and its RoPE stretched alike. */
err adapters_agree(const struct adapter_in *a, int n, const char *base);
/* For tensor by tensor: the same settings as far as they change a program, the same names, shapes and classes. */
err adapters_alike(const struct adapter_in *a, int n);

struct module_size {
    const char *module;
    int rank;
    double scale;
};
struct config_change {
    const char *base;            /* NULL: the first adapter's */
    struct module_size *modules; /* of LoRA */
    int n;
};
/* folder/adapter_config.json, and labels.json and rope_scaling.json where the first adapter has one. */
err rework_config_write(const struct adapter_in *a, int n, const struct config_change *c, const char *folder);

#endif
