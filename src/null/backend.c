/* The null backend plans and counts, and computes nothing: a 70B plan on a laptop. It takes every instruction and asks the
 * CPU backend for its scratch formulas, so that its plan is the plan of the backend that will run. */
#include "core/prog.h"

static err refuse(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch) {
    (void)run, (void)inst, (void)in, (void)out, (void)scratch;
    return fail(E_INTERNAL, "the null backend computes nothing");
}

static kernel find(const struct inst *inst, const struct view *in, const struct view *out) {
    (void)inst, (void)in, (void)out;
    return refuse;
}

static size_t scratch(const struct inst *inst, const struct view *in, const struct view *out) {
    if (backend_cpu.find(inst, in, out)) return backend_cpu.scratch(inst, in, out);
    return inst->op->ref_scratch ? inst->op->ref_scratch(inst, in, out) : 0;
}

const struct backend backend_null = {.name = "null", .find = find, .scratch = scratch, .computes = false, .mem = &mem_host, .flat = &flat_cpu, .compute = DT_F32};
