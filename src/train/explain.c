/* The static sum that descriptions of MACCT compare by, weights and AdamW's states and nothing else, and what it leaves out:
 * computed for the example that the method is described with, and for a run beside its plan. docs/memory.md tells the same.
 *
 *     two trained models (DMCCT)   2 θ (p + 64)            bits; θ parameters of p bits, two f32 states for each
 *     two adapters (MACCT)         θ (p + 2 r (q + 64))    each adapter has rθ parameters of q bits */
#include "train/run.h"

enum { STATES = 64, ADAPTER = 32 }; /* bits of a trained parameter's two states; of an adapter's parameter */

/* Bits for each parameter of the base. extra: what else lies beside a trained parameter. */
static double trained_bits(int models, double p, double extra) { return models * (p + STATES + extra); }
static double adapter_bits(double p, double shares, double q, double extra) { return p + shares * (q + STATES + extra); }

/* NF4 with its scales quantised once more, as bitsandbytes has it: 4 bits, an 8-bit scale for 64, an f32 one for 256 of those. */
static double nf4_bits(void) { return 4 + 8.0 / 64 + 32.0 / (64 * 256); }

static void counted(json_t *list, const char *name, double dmcct, double macct) {
    json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:f}", "name", name, "dmcct_bits_per_parameter", dmcct,
                                          "macct_bits_per_parameter", macct, "factor", dmcct / macct));
}

/* What changes when more than the static sum is counted, or the base is smaller. */
static json_t *counted_json(double p, double q, double r) {
    json_t *list = json_array();
    double whole = trained_bits(2, p, 0), with_gradients = trained_bits(2, p, p);
    counted(list, "nothing", whole, adapter_bits(p, 2 * r, q, 0));
    counted(list, "gradients, in the weights' precision", with_gradients, adapter_bits(p, 2 * r, q, q));
    counted(list, "the same, MACCT with one gradient buffer", with_gradients, adapter_bits(p, 2 * r, q, 0) + r * q);
    counted(list, "nothing, on a 4-bit base (NF4)", whole, adapter_bits(nf4_bits(), 2 * r, q, 0));
    json_object_set_new(json_array_get(list, 3), "weight_bits", json_real(nf4_bits()));
    return list;
}

static json_t *example_json(void) {
    static const double shares[] = {0.01, 0.03, 0.05};
    const double theta = 1e9, p = 16, q = ADAPTER, r = 0.03;
    double whole = trained_bits(2, p, 0), adapters = adapter_bits(p, 2 * r, q, 0);
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        json_array_append_new(list, json_pack("{s:f, s:f}", "share", shares[i], "factor", whole / adapter_bits(p, 2 * shares[i], q, 0)));
    return json_pack("{s:f, s:f, s:f, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:o}", "parameters", theta, "weight_bits", p,
                     "adapter_bits", q, "state_bits", STATES, "share", r, "dmcct_bits", theta * whole, "dmcct_bytes", theta * whole / 8,
                     "macct_bits_per_parameter", adapters, "macct_bytes", theta * adapters / 8, "same_bytes_parameters",
                     theta * whole / adapters, "factor", whole / adapters, "factor_limit", whole / p, "shares", list, "counted",
                     counted_json(p, q, r));
}

/* The same for a run. Whole models of its size would be trained in 16 bits at least: 4-bit weights cannot be. */
static json_t *run_json(const struct run *r) {
    int sides = r->objective->sides;
    double theta = (double)r->model.parameters, p = (double)r->model.bytes * 8 / theta, sum = 0, whole_p = p < 16 ? 16 : p;
    json_t *shares = json_array();
    for (int i = 0; i < sides; i++) {
        double share = (double)param_count(&r->side[i].plans->st.params) / theta;
        json_array_append_new(shares, json_real(share));
        sum += share;
    }
    double adapters = adapter_bits(p, sum, ADAPTER, 0), whole = trained_bits(sides, whole_p, 0);
    return json_pack("{s:i, s:f, s:f, s:i, s:i, s:o, s:f, s:f, s:I, s:I, s:f, s:f, s:f}", "models", sides, "parameters", theta,
                     "weight_bits", p, "adapter_bits", ADAPTER, "state_bits", STATES, "shares", shares, "bits_per_parameter", adapters,
                     "bytes", theta * adapters / 8, "plan_static_bytes",
                     (json_int_t)(r->foot.weights + r->foot.adapters + r->foot.optimizer), "plan_total_bytes", (json_int_t)r->foot.total,
                     "whole_weight_bits", whole_p, "whole_bytes", theta * whole / 8, "factor", whole / adapters);
}

json_t *explain_json(const struct run *r) {
    json_t *j = json_pack("{s:o}", "example", example_json());
    if (j && r) json_object_set_new(j, "run", run_json(r));
    return j;
}
