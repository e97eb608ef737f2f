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

/* NF4 with its scales quantised once more, as it is kept in memory. */
static double nf4_bits(void) { return dtype_bits(DT_NF4_DQ); }

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

/* Of the bases, as stored, without the matrices that nothing reads beside their trained copies. */
static double frozen_bits(const struct run *r) {
    double bits = 0;
    for (int k = 0; k < r->n_bases; k++) {
        const struct base *b = &r->base[k];
        bits += 8 * (double)b->model.bytes;
        for (int i = 0; i < b->model.n; i++)
            if (base_replaces(r, b, &b->model.w[i])) bits -= 8 * (double)weight_bytes(&b->model.w[i]);
    }
    return bits;
}

/* The same for a run, for each parameter of its (first) base. Whole models of its size would be trained in 16 bits at least: 4-bit weights
 * cannot be. */
static json_t *run_json(const struct run *r) {
    const struct model *m = &r->base[0].model;
    double theta = (double)m->parameters, p = (double)m->bytes * 8 / theta, sum = 0, whole = 0, whole_p = p < 16 ? 16 : p;
    json_t *shares = json_array();
    for (int i = 0; i < r->n_sides; i++) {
        const struct model *own = &r->side[i].base->model;
        double share = (double)param_count(&r->side[i].plans->st.params) / theta, bits = (double)own->bytes * 8 / (double)own->parameters;
        json_array_append_new(shares, json_real(share));
        sum += share;
        whole += trained_bits(1, bits < 16 ? 16 : bits, 0) * (double)own->parameters / theta;
    }
    double adapters = adapter_bits(frozen_bits(r) / theta, sum, ADAPTER, 0);
    return json_pack("{s:i, s:f, s:f, s:i, s:i, s:o, s:f, s:f, s:I, s:I, s:f, s:f, s:f}", "models", r->n_sides, "parameters", theta,
                     "weight_bits", p, "adapter_bits", ADAPTER, "state_bits", STATES, "shares", shares, "bits_per_parameter", adapters,
                     "bytes", theta * adapters / 8, "plan_static_bytes",
                     (json_int_t)(r->foot.weights + r->foot.adapters + r->foot.optimizer), "plan_total_bytes", (json_int_t)r->foot.total,
                     "whole_weight_bits", whole_p, "whole_bytes", theta * whole / 8, "factor", whole / adapters);
}

/* --- one sum at a time ------------------------------------------------------------------------------------------------- */
static json_t *texts(const char *const *list) {
    json_t *j = json_array();
    for (; *list; list++) json_array_append_new(j, json_string(*list));
    return j;
}

/* whose: "the description's", or "ours". */
static void figure(json_t *list, const char *whose, const char *what, const char *unit, double value) {
    json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:f}", "whose", whose, "what", what, "unit", unit, "value", value));
}

static json_t *topic(const char *title, const char *formula, const char *const *assumes, json_t *figures, const char *reading) {
    return json_pack("{s:s, s:s, s:o, s:o, s:s}", "title", title, "formula", formula, "assumes", texts(assumes), "figures", figures,
                     "reading", reading);
}

static const char THEIRS[] = "description", OURS[] = "ours";

static json_t *dmcct_topic(void) {
    const double theta = 1e9, p = 16;
    json_t *f = json_array();
    figure(f, THEIRS, "2 x 1e9 x (16 + 64) bits", "bytes", theta * trained_bits(2, p, 0) / 8);
    figure(f, OURS, "with gradients in the weights' 16 bits", "bytes", theta * trained_bits(2, p, p) / 8);
    figure(f, OURS, "and f32 master copies of the weights", "bytes", theta * trained_bits(2, p, p + 32) / 8);
    return topic("two trained models (DMCCT)", "2 θ (p + 64) bits",
                 (const char *const[]){"two models of θ = 1e9 parameters, p = 16 bits each",
                                       "AdamW: two states of 32 bits for every parameter",
                                       "no gradients, f32 masters, activations, key/value cache, logits or run time", NULL},
                 f,
                 "A static sum: what lies there between two steps. While training, gradients are there too, and 16-bit weights are as a "
                 "rule updated "
                 "through f32 copies; activations and the cache come on top and depend on tokens, layers and width, not on θ.");
}

static json_t *macct_topic(void) {
    const double theta = 1e9, p = 16, q = ADAPTER, r = 0.03, whole = trained_bits(2, p, 0), each = adapter_bits(p, 2 * r, q, 0);
    json_t *f = json_array();
    figure(f, THEIRS, "bits for each parameter of the base", "bits", each);
    figure(f, THEIRS, "1e9 x 21.76 bits", "bytes", theta * each / 8);
    figure(f, THEIRS, "base in the bytes of two trained models of 1e9", "parameters", theta * whole / each);
    figure(f, OURS, "that base over one of theirs (said to be ~7.5)", "times", whole / each);
    figure(f, OURS, "with gradients on both sides", "times", trained_bits(2, p, p) / adapter_bits(p, 2 * r, q, q));
    figure(f, OURS, "... and one gradient buffer for both adapters, as here", "times",
           trained_bits(2, p, p) / (adapter_bits(p, 2 * r, q, 0) + r * q));
    figure(f, OURS, "static, on a 4-bit base (NF4 with its scales quantised)", "times", whole / adapter_bits(nf4_bits(), 2 * r, q, 0));
    figure(f, OURS, "the most, as r goes to 0", "times", whole / p);
    return topic(
        "two adapters on one frozen base (MACCT)", "θ (p + 2 r (q + 64)) bits",
        (const char *const[]){"one base of θ parameters, p = 16 bits each, frozen: no gradient and no state of its own",
                              "two adapters of r θ parameters, r = 0.03, q = 32 bits each, of one size",
                              "AdamW: two states of 32 bits for every trained parameter",
                              "no gradients, activations, key/value cache, logits or run time", NULL},
        f,
        "The description says ~7.5x; its own algebra gives 1.6e11 / 21.76 = 7.353e9, so 7.35x. f32 masters are nothing here: adapters are "
        "f32. Activations and the cache are those of the larger base, and the comparison leaves them out on both sides.");
}

static json_t *lora_topic(void) {
    const double n = 7e9;
    json_t *f = json_array();
    figure(f, THEIRS, "N = 7e9, M = 1 %", "bytes", 4 * n + 16 * 0.01 * n);
    figure(f, THEIRS, "N = 7e9, M = 5 %", "bytes", 4 * n + 16 * 0.05 * n);
    figure(f, OURS, "M = 1 %, a base of 16 bits", "bytes", 2 * n + 16 * 0.01 * n);
    figure(f, OURS, "M = 1 %, a 4-bit base (NF4)", "bytes", nf4_bits() / 8 * n + 16 * 0.01 * n);
    figure(f, OURS, "two adapters of 1 % (MACCT) with one gradient: 28 M in place of 32 M", "bytes", 28 * 0.01 * n);
    return topic("LoRA", "4 N + 16 M bytes",
                 (const char *const[]){"N frozen parameters of 4 bytes: no gradient, no states",
                                       "M trained ones of 16: weight, gradient, two states of AdamW, f32 each", "no activations", NULL},
                 f,
                 "Right for f32. A base here costs what its file costs, not 4 N. The activations that it leaves out are the larger part at "
                 "long rows: "
                 "training an adapter needs them as training the whole model does, so a smaller rank does not help there; smaller passes "
                 "and recomputing do.");
}

/* Floats that a block of Mistral 7B's shape keeps of a token for its backward (docs/memory.md): C 4096, KD 1024, F 14336, H 32; 32 blocks. */
static double mistral_activations(double tokens) {
    const double C = 4096, KD = 1024, F = 14336, H = 32, L = 32;
    return 4 * tokens * L * (6 * C + 2 * KD + 3 * F + 2 + H);
}

static json_t *full_topic(void) {
    const double theta = 7.2417e9;
    json_t *f = json_array();
    figure(f, THEIRS, "weights: 7e9 x 4 bytes", "bytes", 28e9);
    figure(f, THEIRS, "gradients", "bytes", 28e9);
    figure(f, THEIRS, "backward pass, called activations", "bytes", 54.98e9);
    figure(f, THEIRS, "optimizer step", "bytes", 109.96e9);
    figure(f, OURS, "weights: 7.2417e9 x 4 bytes (26.98 GiB)", "bytes", 4 * theta);
    figure(f, OURS, "gradients", "bytes", 4 * theta);
    figure(f, OURS, "AdamW's two states", "bytes", 8 * theta);
    figure(f, OURS, "these three", "bytes", 16 * theta);
    figure(f, OURS, "activations of 512 tokens, nothing recomputed", "bytes", mistral_activations(512));
    figure(f, OURS, "activations of 2048 tokens", "bytes", mistral_activations(2048));
    return topic(
        "full fine-tuning in f32 (Mistral 7B)", "16 θ bytes and the activations",
        (const char *const[]){"every parameter trained: weight, gradient, two states of AdamW, f32 each",
                              "activations kept by 32 blocks of width 4096, one row in a pass", NULL},
        f,
        "The description's 28, 28, 54.98 and 109.96 GB are peaks of four stages (accelerate's estimate-memory: 1, 1, 2 and 4 times the "
        "weights' 27.49), not terms of a sum: the last one has the others in it. Activations are no multiple of weights: they grow with "
        "tokens, layers and width.");
}

static json_t *topics_json(void) {
    return json_pack("{s:o, s:o, s:o, s:o}", "dmcct", dmcct_topic(), "macct", macct_topic(), "lora", lora_topic(), "full", full_topic());
}

json_t *explain_json(const struct run *r) {
    json_t *j = json_pack("{s:o, s:o}", "example", example_json(), "topics", topics_json());
    if (j && r) json_object_set_new(j, "run", run_json(r));
    return j;
}
