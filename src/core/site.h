/* Where a model and a parameter-efficient method meet, without knowing each other. A family's emit_block calls these
 * functions at the places where a method may act; with no method bound they emit the plain op.
 *
 * The mode decides what attention becomes: packed training, prefill (packed, and written to the cache) or one-token decode
 * against the cache. The family's text is the same. */
#ifndef CYC_CORE_SITE_H
#define CYC_CORE_SITE_H
#include "core/params.h"
#include "core/prog.h"

enum mode { MODE_TRAIN, MODE_SCORE, MODE_PREFILL, MODE_DECODE, MODE_FEATURES };

/* A linear layer of the base as a method sees it. */
struct linear {
    const char *name;   /* "blk.3.attn_q" */
    const char *module; /* "model.layers.3.self_attn.q_proj": what target_modules match, and the name in adapter files */
    val w, bias;        /* [out, in]; bias may be absent */
    int64_t in, out;
    int rope_heads;     /* > 0: the rows are in GGUF's interleaved RoPE order, this many heads */
    bool head;          /* the output projection: not part of all-linear */
};

struct site;
struct peft_method {
    const char *name;
    const char *peft_type; /* in adapter_config.json */
    /* Emits the group x -> out[i]; NULL: untouched. */
    err (*linears)(struct site *s, val x, int n, const struct linear *w, val *out);
};

struct site {
    struct prog *p;
    enum mode mode;
    const struct peft_method *method; /* NULL: the bare base */
    const void *settings;             /* the method's own */
    struct param_set *params;
    int next_site;                    /* dropout identity, counted in emission order */
    val ids, pos, cu, sample, slot;   /* inputs; which ones exist depends on the mode */
    val *cache_k, *cache_v;           /* per layer */
};

err site_linears(struct site *s, val x, int n, const struct linear *w, val *out);
val site_linear(struct site *s, val x, const struct linear *w);
/* The plain group, for methods that add to it. A, B, rank, alpha, dropout come in `a` and `low`; low may be NULL. */
struct low_rank { val a, b[MAX_GROUP]; };
err site_emit_linear(struct site *s, val x, int n, const struct linear *w, const struct op_attr *a, const struct low_rank *low, val *out);
/* q, k, v after RoPE -> o, by mode; layer picks the cache. */
val site_attention(struct site *s, val q, val k, val v, int layer, const struct op_attr *a);

#endif
