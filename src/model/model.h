/* A base model: frozen tensors mapped from its files, its sizes, and the family that knows how to emit it as a program.
 *
 * Matrices stay in the form and place where the file has them; the few vectors (norm weights, biases) and RoPE's
 * frequencies are f32 copies owned here. Tensors have canonical names, GGUF's ("blk.3.attn_q.weight"); a family maps
 * Hugging Face's names to them. */
#ifndef CYC_MODEL_MODEL_H
#define CYC_MODEL_MODEL_H
#include "core/plan.h"
#include "core/site.h"
#include "io/tensors.h"

struct shape {          /* one alphabet of sizes: L, C, H, K, D, F, V */
    int64_t layers, width, heads, kv_heads, head_dim, ffn, vocab, context;
    int64_t token_types;    /* BERT */
    int64_t encoder_layers, buckets, distance; /* T5; layers are the decoder's */
    int start;              /* the decoder's first token */
    bool gated, scaled_head;
    double norm_eps;
    double attn_scale;      /* of scores; 0: 1 / sqrt(D) */
    double attn_softcap, logit_softcap; /* 0: none */
    double embed_scale;     /* 0: 1 */
    bool tied;              /* the output projection is the embedding */
    bool interleaved;       /* RoPE pairs are neighbours (GGUF "llama") */
    bool qkv_bias, out_bias, mlp_bias;
    bool norm_plus_one;     /* Hugging Face's files hold a norm's weight less 1 (Gemma) */
    bool conv1d;            /* Hugging Face's files hold matrices as [in, out] (GPT-2): PEFT's fan_in_fan_out */
    bool hard_context;      /* positions from `context` on do not exist (learned ones; LongRoPE's short list) */
};

/* How a table is stretched, in the words of config.json's rope_scaling: by what its file says, or by what is asked (model_stretch). */
struct rope_scaling {
    const char *type;    /* NULL: not at all; "llama3" of a GGUF file: by freqs, of which `factor` is the greatest */
    double factor, original, attention_factor, low, high, beta_fast, beta_slow, mscale, mscale_all;
    bool unrounded;      /* yarn: its ramp does not begin and end at whole indices (truncate: false) */
    int64_t context;     /* what the file says of the longest sequence */
    const float *divide, *divide_long; /* longrope: [dims / 2]; the second NULL where the file has none */
    const float *freqs;  /* a GGUF file's divisors beside its type, or NULL */
};

/* RoPE as one kind of layer has it. */
struct rope_table {
    double base;     /* as it is computed with: ntk and dynamic change the file's, ... */
    double own_base; /* ... which is this */
    int64_t dims;    /* rotated columns of a head */
    float *inv_freq; /* [dims / 2] */
    double scale;    /* of sine and cosine (YaRN, LongRoPE) */
    struct rope_scaling scaling;
    bool local;      /* of layers with a window, which nobody stretches (Gemma 3) */
};

struct layer {
    int64_t window;                /* keys that a query sees, itself among them; 0: all before it */
    const struct rope_table *rope; /* NULL: no positions (SmolLM3) */
};

/* Part of a tensor: which of its rows and columns, ascending; NULL: all. Of a vector each number is a row. */
struct picked {
    int64_t rows, cols; /* that the tensor has */
    const int32_t *row, *col;
};

struct weight {
    const char *name;   /* canonical, without ".weight"/".bias" suffix stripped: "blk.3.attn_q.weight" */
    const char *module; /* Hugging Face module path: "model.layers.3.self_attn.q_proj" */
    dtype dt;
    int nd;
    int64_t d[4];
    const void *data;
    int rope_heads;
    struct file_form form; /* how Hugging Face's files have it */
    bool hf_only;       /* GGUF has no place for it */
    bool turned;        /* Hugging Face's files have it as [in, out] (GPT-2) */
    const void *source; /* what `data` is made of (model/quantised.h), of type `from`; NULL: data is the file's */
    dtype from;
    bool made;          /* ... and whether it has been */
    bool replaced;      /* nothing computes with data: a copy of it is trained */
    const struct picked *pick; /* of a model that is cut: d are the sizes of this part of data, and no program can read it; NULL: data is all of it */
};

struct model {
    arena mem;
    const char *path;
    const char *unread; /* a tensor of a classifier's head in its files; NULL: none */
    const struct family *family;
    struct shape shape;
    struct tensors files;
    int n, found;           /* tensors; how many of them the file has */
    struct weight *w;       /* sorted by name once open */
    struct rope_table rope[2];
    const char *stretched;  /* what was asked of the tables beside the files, as rope_scaling.json has it (model_stretch); NULL: nothing */
    bool as_filed;          /* an adapter that was trained without is open on it */
    struct layer *layer;    /* [L] */
    const float *head_scale; /* [C]: what the head's input is multiplied by (T5); NULL: nothing */
    int64_t parameters;
    size_t bytes;           /* of all tensors, as stored */
    int64_t mlp_chunk;      /* rows that go through a feed-forward at once; 0: 2048 where that costs nothing (program_build), else all */
    dtype keep;             /* what a backend keeps the layers' matrices as; DT_NONE: as stored */
    bool random;            /* random:SEED */
    bool sizes_only;        /* a config.json without weights: it can be planned with, nothing of it can be read */
    bool gguf;
    bool cut;               /* of another model, whose files these are (model/cut.h) */
    void *reserved;         /* addresses of the tensors of a random model, or of one without weights: reserved_bytes of them */
    size_t reserved_bytes;
    uint64_t seed;
    struct residents *residents; /* where a backend has the tensors */
    struct derived *derived; /* what methods want of its matrices (model/derived.h) */
    bool nested;            /* NF4 matrices that are made here have double quantisation */
    void *quantised;        /* where those of a file's model lie */
    size_t quantised_bytes;
    size_t elsewhere;       /* of files.copied: what lies there, not in the arenas of names */
};

struct family {
    const char *name;        /* GGUF general.architecture */
    const char *hf;          /* config.json model_type */
    /* Sizes from GGUF metadata or config.json (exactly one is not NULL). */
    err (*sizes)(struct model *m, const struct gguf_meta *meta, const void *json);
    /* The tensors that the sizes imply, with both names. */
    err (*tensors)(struct model *m);
    /* Emits the block of a layer: x [N, C] -> [N, C]. */
    val (*block)(const struct model *m, struct site *s, val x, int layer);
    /* Token ids -> x [N, C]; NULL: the token table times embed_scale. */
    val (*embed)(const struct model *m, struct site *s);
    /* What comes after the last block; NULL: the norm "output_norm". */
    val (*finish)(const struct model *m, struct site *s, val x);
    /* Ends of tensor names that a file may have beside the family's, without meaning: NULL-terminated, or NULL. */
    const char *const *spare;
    /* The whole stack, for a family that is not one row of blocks; NULL: embed, the blocks, finish. */
    val (*body)(const struct model *m, struct site *s);
    /* transformers' sequence classifier of the family. The module that is trained, with a bias, and reads the first token's row (of an
     * encoder-decoder: the last, through a layer of its own); NULL: "score", without, which reads the last's. pool: what stands between body and classifier; NULL: nothing. */
    const char *classifier;
    val (*pool)(const struct model *m, struct site *s, val x);
    /* AdapterHub's names for what stands behind a layer's attention and its feed-forward, below the layer; NULL: its usual ones. */
    const char *const *adapters;
    const char *const *sum_norms; /* norms of the two sums x + y, by those places (BERT); NULL: there are none */
    bool norms_apart;        /* core/site.h */
    const char *tagger;      /* its token classifier's module, with a bias everywhere; NULL: "score" */
    /* Encoder-decoders: the encoder alone, whose rows [N, C] are what features and token classifiers are made of; and what transformers'
     * classifiers have before the names of the base's modules. */
    val (*encode)(const struct model *m, struct site *s);
    val (*stacks)(const struct model *m, struct site *s); /* ... and both stacks, as its sequence classifier reads them */
    const char *inside;
    bool encoder;            /* no head of its own: features, and classifiers */
    bool seq2seq;            /* an encoder reads the prompt, a decoder writes */
};

/* By general.architecture, or (hf) by model_type; NULL: not known. */
const struct family *model_family(const char *arch, bool hf);

/* path: a .gguf file, a Hugging Face folder, or "random:SEED[:dtype]" with config_path naming a config.json. Files are
 * mapped, so no matrix is read yet; a random model's memory is reserved and filled by model_fill(). */
err model_open(const char *path, const char *config_path, struct model *m);
/* A config.json (or a folder with one and no weights; "config.json:q4_k" says how its matrices would be stored, "nf4" with double
 * quantisation; else it does itself, else bf16): sizes and addresses alone, for plans. layers: so many in place of its own (lists of one
 * entry a layer are repeated); 0: its own. */
err model_open_sizes(const char *path, int64_t layers, struct model *m);
bool model_has_no_weights(const char *path); /* is it such a path? */
void model_warn(const struct model *m); /* says what of its files is left out, if anything */
/* stretch.c: RoPE for sequences of up to `longest` tokens (dynamic, longrope) and as `asked` says, in place of what the files say: an object with
 * the words of config.json's rope_scaling; NULL: as they say. Before a program is built. E_USAGE where the model does not rotate. */
err model_stretch(struct model *m, const void *asked, int64_t longest);
/* The same from a text that was m->stretched. asked: only what was asked, which files can say; a length alone is let be. where: for messages. */
err model_stretch_as(struct model *m, const char *text, bool asked, const char *where);
bool model_rotates(const struct model *m);
err model_fill(struct model *m); /* random models: make the weights; quantised ones (model/quantised.h): the same; others: nothing */
err model_retype(struct model *m, const dtype *to); /* of a random model before it is filled, or sizes alone: other types for some of m->w, DT_NONE for the rest */
void model_close(struct model *m);
static inline const char *model_arch(const struct model *m) { return m->gguf ? m->family->name : m->family->hf; } /* as its files say it */
const struct weight *model_weight(const struct model *m, const char *name); /* NULL when absent */
void model_sort(struct model *m); /* m->w by name, as model_weight() looks for them: after one was added */
size_t weight_bytes(const struct weight *w); /* as they are computed with */
size_t model_list_bytes(const struct model *m); /* of names, sizes and metadata, and the vectors that are copied */
bool model_maps(const struct model *m, const struct weight *w);   /* its bytes are a file's pages */
void model_forget(const struct model *m, const struct weight *w); /* these leave the process's memory until they are read again */
/* XXH3 128 over all tensors' names, types and bytes, of quantised ones those that they are made of: equal before and after training. */
void model_hash(const struct model *m, char hex[33]);

/* Emits the whole stack up to the final norm: returns x [N, C]. */
val model_body(const struct model *m, struct site *s);
/* The output projection's weight [V, C]; and the rows [R, C] that stand in the place of some of it (site.own_ids), or what is added to it, or neither. */
struct projection { val w, own; struct head_delta low; };
struct projection model_head(const struct model *m, struct site *s);
val model_logits(const struct model *m, struct site *s, val x);    /* [N, V] f32, without the cap */
/* For families: */
val model_base(const struct model *m, struct site *s, const char *name); /* a tensor by its canonical name */
val model_matrix(const struct model *m, struct site *s, const char *name); /* "token_embd": as a method may have it */
val model_embed(const struct model *m, struct site *s, double scale);     /* the token table's rows times `scale` */
val model_vector(const struct model *m, struct site *s, const char *name, int layer, const char *part); /* "attn_norm", "weight": as a method may have it; absent where there is none */
struct linear model_linear(const struct model *m, struct site *s, const char *name, int layer); /* "attn_q" of a layer; layer < 0: the whole name */

#endif
