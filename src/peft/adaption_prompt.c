/* LLaMA-Adapter (Zhang et al. 2023, "LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention"): in the topmost layers
 * every query also attends to P trained rows, by the layer's own key and value matrices, in a softmax of their own, and a trained number, the
 * gate, says how much of that is added. PEFT's ADAPTION_PROMPT:
 *
 *   y = softmax(q k^T / sqrt(D)) v  +  g softmax(q k_p^T / sqrt(D)) v_p        k_p = P W_k + b_k,  v_p = P W_v + b_v
 *
 * q is rotated, k_p is not: a prompt has no positions. The gate begins at 0, so step 0 is the base bit for bit, and the first step moves
 * the gates alone. The gate multiplies v_p here, not the sum: the same number, of P rows in place of the text's.
 *
 * PEFT adds what the prompt gives after the output projection: to GPT-2's output as it is, to the others' through the same projection once
 * more, whose bias is then there twice. So a base with such a bias is refused: there is no adapter of PEFT's that begins at it. It is also refused
 * where keys are normalised or scores are capped, which PEFT's classes do not do, and for encoder-decoders. Llama, Mistral and GPT-2 are
 * PEFT's; other decoders of Llama's kind (Qwen 2, Phi-3, SmolLM3) go by Llama's rule, in files that PEFT has no loader for.
 *
 * k_p and v_p hang on the adapter alone: prefill leaves them for decoding, which then only attends. */
#include "peft/adaption_prompt.h"
#include "ops/ops.h"
#include "peft/methods.h"
#include "peft/soft_prompt.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const char MARK[] = ".adaption_prompt";
enum { MOST_LAYERS = 1 << 16 };

static bool same(const void *one, const void *other) {
    const struct adaption_prompt *a = one, *b = other;
    return a->len == b->len && a->layers == b->layers;
}

static err check(const void *settings) {
    const struct adaption_prompt *a = settings;
    if (a->len < 1 || a->len > MOST_VIRTUAL_TOKENS)
        return fail(E_USAGE, "adaption_prompt.adapter_len is %d; it must be 1 to %d", a->len, MOST_VIRTUAL_TOKENS);
    if (a->layers < 0 || a->layers > MOST_LAYERS)
        return fail(E_USAGE, "adaption_prompt.adapter_layers is %lld; it must be 0 (all) to %d", (long long)a->layers, MOST_LAYERS);
    return OK;
}

static err read_number(const json_t *j, const char *key, const char *where, json_int_t *out) {
    const json_t *v = json_object_get(j, key);
    *out = json_integer_value(v);
    return json_is_integer(v) && *out >= 0 && *out <= MOST_LAYERS
               ? OK
               : fail(E_INPUT, "%s: '%s' is missing or no number of 0 to %d", where, key, MOST_LAYERS);
}

static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    struct adaption_prompt *a = settings;
    const json_t *of = json_object_get(json, "target_modules");
    const char *name = json_string_value(of);
    json_int_t len, layers;
    (void)mem;
    if (of && !json_is_null(of) && (!name || (strcmp(name, "self_attn") && strcmp(name, "attn"))))
        return fail(E_UNSUPPORTED, "%s: target_modules of an ADAPTION_PROMPT other than self_attn (GPT-2: attn) is not supported", where);
    TRY(read_number(json, "adapter_len", where, &len));
    TRY(read_number(json, "adapter_layers", where, &layers));
    *a = (struct adaption_prompt){.len = (int)len, .layers = layers};
    err e = check(a);
    return e ? fail_in(e, "%s", where) : OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    const struct adaption_prompt *a = settings;
    (void)named;
    int bad = json_object_set_new(json, "adapter_len", json_integer(a->len)) |
              json_object_set_new(json, "adapter_layers", json_integer((json_int_t)a->layers)) |
              json_object_set_new(json, "target_modules", json_string(a->behind ? "attn" : "self_attn"));
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

static err agrees(const void *have, const void *want, const char *module, const char *folder) {
    const struct adaption_prompt *a = have, *b = want;
    (void)module;
    if (a->len != b->len)
        return fail(E_USAGE, "%s was made with adaption_prompt.adapter_len %d, the configuration says %d", folder, a->len, b->len);
    if (a->layers != b->layers)
        return fail(E_USAGE, "%s was made with adaption_prompt.adapter_layers %lld, the configuration says %lld", folder, (long long)a->layers,
                    (long long)b->layers);
    return OK;
}

static void describe(const void *settings, str *out) {
    const struct adaption_prompt *a = settings;
    str_addf(out, "LLaMA-Adapter (prompts of %d rows in the top %lld layers", a->len, (long long)a->layers);
}

static err fit(void *settings, const struct base_sizes *base) {
    struct adaption_prompt *a = settings;
    if (base->seq2seq || base->encoder)
        return fail(E_UNSUPPORTED, "adaption_prompt is a method for decoders: this base is an %s", base->encoder ? "encoder" : "encoder-decoder");
    if (base->head_norms)
        return fail(E_UNSUPPORTED, "adaption_prompt: this base normalises its keys, which PEFT's method knows nothing of");
    if (a->layers > base->layers)
        return fail(E_USAGE, "adaption_prompt.adapter_layers is %lld, and this base has %lld layers", (long long)a->layers, (long long)base->layers);
    if (!a->layers) a->layers = base->layers;
    a->first = base->layers - a->layers;
    a->behind = base->turned;
    return OK;
}

/* --- in a program -------------------------------------------------------------------------------------------------------- */
struct place { int prompt, gate; }; /* the parameters of a layer */

/* Both are named after the attention's own module: the projection's without its last part. What decoding reads: k_p as the prompt's, g v_p as the
 * gate's. */
static struct place parameters(struct site *s, const struct adaption_prompt *a, const struct attending *at) {
    const char *module = at->out.of.module;
    const int end = (int)(strrchr(module, '.') - module);
    const int64_t width = at->kv[0].in, one = 1, kept = (int64_t)at->a->kv_heads * at->a->head_dim;
    char name[64], prompt[256], gate[256];
    snprintf(prompt, sizeof prompt, "%.*s%s", end, module, MARK);
    snprintf(gate, sizeof gate, "%.*s.adaption_gate", end, module);
    const struct param_slice rows = {.name = prompt, .rows = a->len, .init_scale = 1, .form = {.shape = FILE_ONE_OF}}, number = {.name = gate, .rows = 1};
    struct place p;
    snprintf(name, sizeof name, "blk.%d.adaption_prompt", at->layer);
    p.prompt = param_get(s->params, name, 2, (int64_t[]){a->len, width}, INIT_NORMAL_SLICES, 0, &rows, 1);
    snprintf(name, sizeof name, "blk.%d.adaption_gate", at->layer);
    p.gate = param_get(s->params, name, 1, &one, INIT_ZERO, 0, &number, 1);
    param_keep(s->params, p.prompt, a->len, kept);
    param_keep(s->params, p.gate, a->len, kept);
    return p;
}

/* Keys and values of rows [P, C], by one matrix of q, k and v or by two. */
static void keys_and_values(struct site *s, const struct attending *at, val rows, val *k, val *v) {
    const int q = at->a->heads * at->a->head_dim, kv = at->a->kv_heads * at->a->head_dim;
    val out[3] = {{0}};
    site_emit_linear(s, rows, at->n, at->kv, NULL, NULL, out);
    *k = out[0], *v = out[1];
    if (at->n > 1) return;
    struct inst *i = prog_emit(s->p, &op_split, out, 1, &(struct op_attr){.n = 3, .width = {q, kv, kv}});
    if (i) *k = i->out[1], *v = i->out[2];
}

/* What the prompt adds to the attention of a layer, [N, H D]. Its keys and values are small and no part of a block: recomputing a block does not
 * make them again. */
static val prompted(struct site *s, const struct adaption_prompt *a, const struct attending *at) {
    const int segment = s->p->segment;
    const struct place p = parameters(s, a, at);
    if (p.prompt < 0 || p.gate < 0) return prog_fail(s->p, E_MEMORY, "out of memory while building a program"), (val){0};
    val k, v;
    if (s->mode == MODE_DECODE) k = s->kept[p.prompt], v = s->kept[p.gate];
    else {
        s->p->segment = 0;
        keys_and_values(s, at, soft_prompt_rows(s, a->len, prog_param(s->p, s->params, p.prompt)), &k, &v);
        v = emit1(s->p, &op_scale, (val[]){v, prog_param(s->p, s->params, p.gate)}, 2, NULL);
        s->p->segment = segment;
    }
    if (s->mode == MODE_PREFILL) {
        prog_emit(s->p, &op_store, (val[]){k, s->kept[p.prompt]}, 2, NULL);
        prog_emit(s->p, &op_store, (val[]){v, s->kept[p.gate]}, 2, NULL);
    }
    struct op_attr attr = *at->a;
    attr.causal = false, attr.window = 0;
    return emit1(s->p, &op_attention, (val[]){at->q, k, v}, 3, &attr);
}

static val attention(struct site *s, const struct attending *at) {
    const struct adaption_prompt *a = s->settings;
    if (at->layer < a->first) return site_linear(s, at->y, &at->out);
    if (at->a->softcap > 0) return prog_fail(s->p, E_UNSUPPORTED, "adaption_prompt: this base caps its scores, which PEFT's method knows nothing of"), (val){0};
    if (has(at->out.bias) && !a->behind)
        return prog_fail(s->p, E_UNSUPPORTED, "adaption_prompt: %s has a bias, which PEFT adds twice: no adapter begins at this base", at->out.of.module), (val){0};
    const val more = prompted(s, a, at);
    if (!a->behind) return site_linear(s, emit1(s->p, &op_add, (val[]){at->y, more}, 2, NULL), &at->out);
    return emit1(s->p, &op_add, (val[]){site_linear(s, at->y, &at->out), more}, 2, NULL);
}

const struct peft_method method_adaption_prompt = {.name = "adaption_prompt",
                                                   .peft_type = "ADAPTION_PROMPT",
                                                   .settings = sizeof(struct adaption_prompt),
                                                   .check = check,
                                                   .same = same,
                                                   .read = read_json,
                                                   .write = write_json,
                                                   .agrees = agrees,
                                                   .describe = describe,
                                                   .mark = MARK,
                                                   .fit = fit,
                                                   .attention = attention};
