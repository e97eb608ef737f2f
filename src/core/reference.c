/* The reference backend has no kernels of its own: every instruction runs the op's slow definition. */
#include "core/backend.h"
#include <stddef.h>

static kernel find(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)inst, (void)in, (void)out;
    return NULL;
}

const struct backend backend_reference = {.name = "reference", .find = find, .computes = true, .mem = &mem_host, .flat = &flat_cpu, .compute = DT_F32};
