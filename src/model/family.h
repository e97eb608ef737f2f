/* What a family file uses: readers of sizes that complain by name (config.c), RoPE's frequency tables (rope.c), lists of tensors
 * (model.c) and the pieces that blocks are made of (blocks.c).
 *
 * A family's sizes() reads either GGUF metadata or a config.json, both with everything that changes the computation: what it
 * does not compute it refuses by name. */
#ifndef CYC_MODEL_FAMILY_H
#define CYC_MODEL_FAMILY_H
#include "model/model.h"
#include "ops/ops.h"

#define FAMILY(name) extern const struct family family_##name;
#include "model/families.def"
#undef FAMILY

/* --- sizes (config.c) -------------------------------------------------------------------------------------------- */
/* GGUF keys are given without the architecture: "block_count". */
err size_gguf(const struct model *m, const struct gguf_meta *meta, const char *key, int64_t *out);
int64_t size_gguf_or(const struct model *m, const struct gguf_meta *meta, const char *key, int64_t fallback);
double real_gguf_or(const struct model *m, const struct gguf_meta *meta, const char *key, double fallback);
err size_json(const struct model *m, const void *json, const char *key, int64_t *out);
int64_t size_json_or(const void *json, const char *key, int64_t fallback);
double real_json_or(const void *json, const char *key, double fallback);
bool bool_json_or(const void *json, const char *key, bool fallback);
bool text_json_is(const void *json, const char *key, const char *value);
bool has_json(const void *json, const char *key);
bool null_json(const void *json, const char *key); /* there, and null */
/* A key that must be absent, null, or this: another value changes the computation in a way that we do not have. */
err want_json(const struct model *m, const void *json, const char *key, const char *value);
err want_json_bool(const struct model *m, const void *json, const char *key, bool value);
/* The sizes that decoders name alike; every layer without a window and with m->rope[0] (still to be made). */
err decoder_sizes_gguf(struct model *m, const struct gguf_meta *meta);
err decoder_sizes_json(struct model *m, const void *json);
err sizes_done(struct model *m); /* of families that read their sizes themselves: checks them, makes m->layer */
/* Where config.json lists layer_types, the list says which layers have `window`; without it they stay as they are. */
err layer_types_json(struct model *m, const void *json, int64_t window);
/* One integer per layer ("no_rope_layers"); false: no such list. A list of another length is an error. */
err layer_flags_json(const struct model *m, const void *json, const char *key, bool *flag, bool *found);

/* --- rope.c ------------------------------------------------------------------------------------------------------- */
/* Fills a table from rope_parameters (transformers 5) or rope_theta and rope_scaling (4). layer_type: the table of which of
 * rope_parameters' two ("sliding_attention"), or NULL. base: RoPE's base where the file names none. */
err rope_json(struct model *m, const void *json, const char *layer_type, double base, struct rope_table *out);
/* From {arch}.rope.* and the tensors rope_freqs, rope_factors_*. scaled: whether scaling applies to this table. */
err rope_gguf(struct model *m, const struct gguf_meta *meta, double base, bool scaled, struct rope_table *out);
err rope_plain(struct model *m, double base, int64_t dims, struct rope_table *out);
/* A rope_scaling object's words, of a file or asked for (where: for messages); type NULL: it stretches nothing. */
err rope_scaling_read(struct model *m, const void *json, const char *where, int64_t dims, struct rope_scaling *s);
/* inv_freq, scale and base out of own_base and scaling, for sequences of up to `longest` tokens; dynamic and longrope depend on that. */
err rope_make(struct model *m, const char *where, int64_t longest, struct rope_table *t);

/* --- tensors (model.c) -------------------------------------------------------------------------------------------- */
/* A tensor that the sizes imply. Names are without ".weight" and, in a layer, without what stands before the layer's part. */
struct part {
    const char *name, *module; /* canonical; Hugging Face's */
    int64_t out, in;           /* in = 0: a vector of `out` */
    bool bias;                 /* a vector of `out` beside it */
    int64_t rope_heads;        /* rows are in RoPE's interleaved order where the file's are (shape.interleaved) */
    bool transposed;           /* Hugging Face's file has [in, out] */
    bool hf_only;              /* GGUF has no place for it */
};
#define VECTOR(n, m, o)            {.name = (n), .module = (m), .out = (o)}
#define MATRIX(n, m, o, i)         {.name = (n), .module = (m), .out = (o), .in = (i)}
#define BIASED(n, m, o, i, b)      {.name = (n), .module = (m), .out = (o), .in = (i), .bias = (b)}
#define ROTATED(n, m, o, i, b, h)  {.name = (n), .module = (m), .out = (o), .in = (i), .bias = (b), .rope_heads = (h)}
/* layer < 0: not of a layer. hf: what stands before the module of a layer ("model.layers"). */
err model_parts(struct model *m, const char *hf, int layer, const struct part *parts, size_t n);

/* --- blocks.c ----------------------------------------------------------------------------------------------------- */
val block_norm(const struct model *m, struct site *s, val x, const char *name, int l); /* RMSNorm, or LayerNorm where there is a bias */
val block_positions(const struct model *m, struct site *s);               /* rows of the table "position_embd" */
val block_add(struct site *s, val a, val b);
void block_qkv(const struct model *m, struct site *s, val h, int l, val q[3]);      /* three matrices, one group */
void block_qkv_fused(const struct model *m, struct site *s, val h, int l, val q[3]); /* one matrix "attn_qkv" */
void block_head_norms(const struct model *m, struct site *s, int l, val q[3]);      /* q and k, per head */
void block_rotate(const struct model *m, struct site *s, int l, val q[3]);          /* by the layer's table; none: as they are */
val block_attend(const struct model *m, struct site *s, int l, const val q[3]);     /* attention and its output projection */
/* What is added to x in the place of y, which a sublayer of layer l made of it (core/site.h, sublayer). */
val block_after(const struct model *m, struct site *s, int l, int place, val x, val y);
val block_join(const struct model *m, struct site *s, int l, int place, val x, val y); /* and the sum */
val block_gated(const struct model *m, struct site *s, val h, int l, enum activation act);       /* gate and up apart */
val block_gated_fused(const struct model *m, struct site *s, val h, int l, enum activation act); /* one matrix, gate first */
val block_mlp(const struct model *m, struct site *s, val h, int l, enum activation act);         /* no gate */
/* The Llama block, with biases and windows as the sizes say, and the tensors of a model made of such blocks. */
val block_llama(const struct model *m, struct site *s, val x, int l);
err llama_tensors(struct model *m);
err qwen_windows(struct model *m, const void *json); /* qwen2.c */

#endif
