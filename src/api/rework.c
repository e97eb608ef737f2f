/* cyc_adapter_rework: adapters made of adapters, by export/rework.h. */
#include "api/api.h"
#include "export/rework.h"
#include <limits.h>

int cyc_adapter_rework(const char *const *folders, size_t n, const cyc_rework_options *opt, char **json) {
    json_t *report = NULL;
    const struct rework_request r = {.how = opt->how ? opt->how : "",
                                     .folders = folders,
                                     .n = n > INT_MAX ? INT_MAX : (int)n,
                                     .weights = opt->weights,
                                     .n_weights = opt->n_weights > INT_MAX ? INT_MAX : (int)opt->n_weights,
                                     .rank = opt->rank,
                                     .density = opt->density,
                                     .by_count = opt->sign_by_count,
                                     .seed = opt->seed,
                                     .base = opt->base,
                                     .out = opt->out ? opt->out : "",
                                     .force = opt->force,
                                     .stop = api_stop()};
    err e = rework(&r, &report);
    *api_stop() = 0;
    if (json) *json = NULL;
    if (e || !json) json_decref(report);
    else if (api_json((struct json_t *)report, json)) e = E_MEMORY;
    return api_code(e);
}
