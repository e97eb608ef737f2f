/* Adapters made of adapters, without their base: another rank for one (the singular vectors of its products), or several in one. Works on
 * the folders' files alone, of any origin; the result is a folder in PEFT's layout that appears whole or not at all. A module at a time is
 * in memory.
 *
 * Of LoRA, as PEFT's add_weighted_adapter, with its words:
 *   svd     the best product of the wanted rank for the weighted sum of all products
 *   cat     that sum exactly: the ranks add up
 *   linear  A and B summed apart, each with the root of weight times scale
 *   ties, magnitude_prune, dare_linear, dare_ties   the same with numbers left out, or of one sign (combine.h)
 * The last five want one rank in a module. Of other methods only the weighted mean of all tensors, with weights that sum to 1 (what they
 * hold is the base's tensor and its change in one, or a place in the input: any other sum would scale that).
 *
 * Refused by name: different bases, methods, classes; of sums DoRA, biases and whole modules beside the products; of means factors. */
#ifndef CYC_EXPORT_REWORK_H
#define CYC_EXPORT_REWORK_H
#include "base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct rework_request {
    const char *how;            /* "resize", one of the words above, or "average": svd of LoRA, linear of others */
    const char *const *folders;
    int n;
    const double *weights;      /* NULL: 1 / n each; of ties and dare_ties 1 each */
    int n_weights;
    int rank;                   /* of resize and svd; of svd 0: the greatest there is */
    double density;             /* of the ones that leave numbers out; 0: not said */
    bool by_count;              /* their sign is that of most, not of the sum */
    uint64_t seed;              /* of dare_, and of a greater rank's new rows */
    const char *base;           /* the name of the one base of all; NULL: as they say */
    const char *out;
    bool force;
    volatile int *stop;         /* may be NULL */
};
/* *report: {"out", "how", "method", "adapters": [{"folder", "weight"}], "modules": [{"module", "ranks", "rank", "kept", "error"}], "kept",
 * "worst": {"module", "error"}, "parameters", "bytes"}; kept (of the squares) and error (of the size) where singular values were left out. */
err rework(const struct rework_request *r, json_t **report);

#endif
