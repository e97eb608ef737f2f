/* See rates.h. The figures are those of NVIDIA's data sheets, without sparsity: A100 (2022), L40S (2023), H100 (2023, SXM5), H200 (2024, SXM5).
 * An L40S keeps some of its 48 GB for error correction. Links are PCI Express, of which they say both ways together. */
#include "core/rates.h"
#include <string.h>

static const struct rates table[] = {
    {"a100-40gb", "A100-SXM4-40GB", "A100 SXM 40 GB", 40000000000, 1.555e12, 19.5e12, 312e12, 32e9},
    {"a100", "A100-SXM4-80GB", "A100 SXM 80 GB", 80000000000, 2.039e12, 19.5e12, 312e12, 32e9},
    {"l40s", "L40S", "L40S 48 GB", 47000000000, 0.864e12, 91.6e12, 362e12, 32e9},
    {"h100", "H100 80GB HBM3", "H100 SXM 80 GB", 80000000000, 3.35e12, 67e12, 989e12, 64e9},
    {"h200", "H200", "H200 SXM 141 GB", 141000000000, 4.8e12, 67e12, 989e12, 64e9},
};
enum { N = sizeof table / sizeof *table };

const struct rates *rates_named(const char *name) {
    for (int i = 0; i < N; i++)
        if (!strcmp(table[i].name, name)) return &table[i];
    return NULL;
}

const struct rates *rates_of_card(const char *card) {
    for (int i = 0; card && i < N; i++)
        if (strstr(card, table[i].driver)) return &table[i];
    return NULL;
}
