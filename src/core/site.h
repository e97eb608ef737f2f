/* Where a model and a parameter-efficient method meet, without knowing each other. A family's emit_block calls these
 * functions at the places where a method may act; with no method bound they emit the plain op.
 *
 * The mode decides what attention becomes: packed training, prefill (packed, and written to the cache) or one-token decode
 * against the cache. The family's text is the same. */
#ifndef CYC_CORE_SITE_H
#define CYC_CORE_SITE_H
#include "core/params.h"
#include "core/prog.h"

enum { MAX_STATES = 2 };

enum mode {
    MODE_TRAIN, MODE_SCORE, MODE_PREFILL, MODE_DECODE, MODE_FEATURES, MODE_CLASSIFY, MODE_COPY, MODE_EXTEND, MODE_CONTINUE, MODE_TOP
};

/* A part of the base by its names. */
struct module {
    const char *name;   /* "blk.3.attn_q" */
    const char *module; /* "model.layers.3.self_attn.q_proj": what target_modules match, and the name in adapter files */
    bool head;          /* the output projection: not part of all-linear */
};

/* A linear layer of the base as a method sees it. */
struct linear {
    struct module of;
    val w, bias;        /* [out, in]; bias may be absent */
    int64_t in, out;
    int rope_heads;     /* > 0: the rows are in GGUF's interleaved RoPE order, this many heads */
};

/* A vector of the base: a norm's weight, or a bias. */
struct base_vector {
    struct module of;
    const char *part;   /* "weight", "bias" */
    val base;           /* [n] */
    const float *data;  /* on the host */
    int64_t n;
    int rope_heads;     /* as above */
    struct file_form form;
};

/* A matrix of the base: of a linear layer, the head's, or a table that rows are taken from. A tied table is one matrix with two users. */
struct base_matrix {
    struct module of;
    const void *data;   /* on the host, rows of type `stored` */
    dtype stored;
    int64_t rows, cols;
    int rope_heads;     /* as above */
    bool turned;        /* files have it as [cols, rows] */
    bool tied;          /* the head is this table too */
    bool as_head;       /* ... and it is the head that asks */
    struct file_form form;
};

/* What a method computes of a matrix of the base once and for all. */
struct matrix {
    const char *name;
    dtype dt;
    const void *data;
    int64_t rows, columns;
};
struct derivation {
    err (*make)(const struct matrix *w, const struct derivation *d, float *out);
    size_t floats;        /* of `out` */
    int rank, iterations; /* make's own */
};

/* The token table of the base. */
struct embedding {
    struct module of;
    int64_t rows, width; /* [V, C] */
    dtype dt;
    const void *data;    /* on the host */
    double scale;        /* of its rows */
};

/* Attention of a layer as a method sees it, before its output projection. */
struct attending {
    int layer;
    val q, y;             /* queries as attention read them [N, H*D]; what it gave [N, H*D] */
    struct linear out;    /* the projection of y */
    struct linear kv[2];  /* what makes keys and values of rows; ... */
    int n;                /* ... 1: of one matrix, queries first */
    const struct op_attr *a;
};

/* What a method may want to know of a base before any program. */
struct base_sizes {
    int64_t layers, width, heads, kv_heads, head_dim, vocab;
    bool pairs;   /* columns of queries and keys are in GGUF's interleaved RoPE order */
    bool seq2seq; /* an encoder reads, a decoder writes */
    int64_t encoder_layers; /* ... of so many */
    bool norms_apart; /* what a sublayer gives goes through a norm of its own before it is added (Gemma) */
    bool encoder;
    bool turned;  /* files have matrices as [in, out] (GPT-2) */
    bool head_norms; /* queries and keys are normalised head by head */
};

/* The low-rank products of an adapter beside a group of linears. */
struct group_delta {
    int a, b[MAX_GROUP];     /* parameters: A [sum of ranks, in], the rows of each output in turn; B_i [out, rank] */
    int rank[MAX_GROUP];     /* 0: none there; all 0: no A either */
    float scale[MAX_GROUP];  /* of B_i A_i */
};

/* A low-rank product beside the output projection: logits += scale drop(x) A^T B^T. */
struct head_delta {
    val a, b; /* parameters [R, C], [V, R]; absent: there is none */
    float scale, dropout;
};

/* A matrix of an adapter's file that is made of its parameters. */
struct made_matrix {
    const char *name;
    int64_t rows, columns;
    const float *data;
};

/* An adapter between the gradient and the optimizer's step, or right after it, for a method that has a hand in that. */
struct tuning {
    const struct backend *backend; /* whose memory the arenas are */
    const struct param_set *set;
    float *w, *grad;               /* of set->bytes; of set->trained */
    float *own[MAX_STATES];        /* of set->trained: the method's, zero before the first step */
    int64_t step;                  /* 0: the first */
    double weight;                 /* the gradient is of the mean loss times this */
    float grad_scale;              /* after the step: the optimizer's */
    int threads;
};

/* An adapter's numbers on the host. */
struct numbers {
    const void *settings;
    const struct param_set *set;
    float *w;
};

/* What an adapter adds to a linear layer's matrix: B A, A [rank, in], B [out, rank], rows of B in Hugging Face's order. */
struct pair {
    int64_t rank;
    const float *a, *b;
};

struct site;
struct model;
struct targets;
struct module_list;

/* What a sublayer of a block gives, where it is about to be added to what the sublayer read. */
struct sublayer {
    enum { AFTER_ATTENTION, AFTER_CROSS, AFTER_FFN } place;
    int layer;        /* counted through both stacks, the encoder's first */
    struct module of; /* AdapterHub's names: "blk.3.attention", "model.layers.3.attention_adapters" */
    val read, made;   /* [N, C]; read: as the block has it, before the sublayer's norm */
    val (*norm)(struct site *s, const struct sublayer *at, val sum); /* what the sum goes through (BERT); NULL: nothing */
    const char *norm_name; /* norm's own */
};

/* How much of an adapter is products of low rank beside linears: nothing, all that it does to linears, all that it is. */
enum summed { SUMMED_NOT, SUMMED_LINEARS, SUMMED_ALL };

/* A method: a row of peft/methods.def and one file. Its settings are a struct of its own; as JSON (jansson) they have PEFT's names,
 * in adapter_config.json and from a configuration alike. */
struct peft_method {
    const char *name;      /* also its section of the configuration */
    const char *peft_type; /* in adapter_config.json; NULL: it is AdapterHub's */
    size_t settings;       /* bytes of them */
    err (*check)(const void *settings);
    bool (*same)(const void *a, const void *b); /* the same programs: they share plans and arenas */
    err (*read)(const void *json, const char *where, arena *mem, void *settings); /* texts in mem; what it cannot do is E_UNSUPPORTED by name */
    /* named: what to write for a word such as all-linear, or NULL. */
    err (*write)(const void *settings, const struct module_list *named, void *json);
    /* Do the numbers that were made for `module` under `have` mean the same under `want`? NULL: always. */
    err (*agrees)(const void *have, const void *want, const char *module, const char *folder);
    void (*describe)(const void *settings, str *out);   /* "LoRA adapter (r 16": an open bracket for its size */
    const struct targets *(*targets)(const void *settings); /* NULL: it does not choose modules */
    const char *mark;      /* ends the name of the tensor that it has once in each module */
    const char *table_mark; /* ... of the one that it has for the token table; NULL: it takes none */
    /* Whole modules of the base that are trained beside (PEFT's modules_to_save): endings of their names; each must end one. NULL: it has none. */
    const struct module_list *(*saved)(const void *settings);
    /* Emits the group x -> out[i]; NULL: untouched. */
    err (*linears)(struct site *s, val x, int n, const struct linear *w, val *out);
    /* What it adds to the logits: of w, the output projection, which is not among linears, for its product with the loss is one op (a tied
     * one's matrix is the token table, which stays as it is). NULL: nothing; then target_modules cannot name it. */
    struct head_delta (*head)(struct site *s, const struct linear *w);
    /* Are its linears products of low rank beside the base's? Then deltas says which, so that several adapters' can be one instruction
     * (peft/mix.c). NULL: they are not. */
    enum summed (*summed)(const void *settings);
    err (*deltas)(struct site *s, int n, const struct linear *w, struct group_delta *d);
    /* How many adapters it is made of that each row has a weight for; what these are where a run says nothing of rows. NULL: none. */
    int (*members)(const void *settings, const float **weights);
    /* What takes the place of at->made; absent or NULL: that. */
    val (*sublayer)(struct site *s, const struct sublayer *at);
    /* What takes the vector's place; absent or NULL: the vector. */
    val (*vector)(struct site *s, const struct base_vector *v);
    /* What takes the matrix's place; absent or NULL: the matrix. Asked for at each of its users, and to answer alike (but as_head). */
    val (*matrix)(struct site *s, const struct base_matrix *m);
    /* What a layer's attention adds, by its output projection. */
    val (*attention)(struct site *s, const struct attending *a);
    /* Ids whose rows of the token table are the adapter's own (in the settings; NULL: none), and these rows [n, C]. A tied head has them too. */
    const int32_t *(*own_tokens)(const void *settings, int *n);
    val (*tokens)(struct site *s, const struct base_matrix *table);
    /* Its tensors in files are the base's own, to be put in place of them: "MODULE.{whole}weight" or bias. NULL: they are not. */
    const char *whole;
    /* What it adds to w, the matrix of `module`, in mem or in n's numbers. NULL: it is no such thing, or (LoRA) in files already. */
    err (*pair)(const struct numbers *n, const char *module, const struct matrix *w, arena *mem, struct pair *out);
    bool ours;             /* PEFT has no such method */
    /* Of AdapterHub's methods, whose files are not PEFT's (gen/adapter.h): the name of the adapter, which is a part of its tensors' names. */
    const char *(*called)(const void *settings);

    /* In training; each may be NULL. `states` arenas are the method's own and lie in checkpoints. */
    int states;
    err (*before_step)(const void *settings, const struct tuning *t); /* adds to the gradient */
    err (*after_step)(const void *settings, const struct tuning *t);
    /* Of a method whose finished adapters have fewer numbers than those in training: the settings of the finished one, in mem, and the
     * numbers of the one as the other, each way; what `from` does not have is zero. */
    err (*finished)(const struct numbers *n, arena *mem, const void **settings);
    void (*adopt)(const struct numbers *from, const struct numbers *to);

    /* For methods of the input; each may be NULL. */
    /* Takes note of the base's sizes in the structure's own copy of the settings; refuses a base that it cannot go with. */
    err (*fit)(void *settings, const struct base_sizes *base);
    /* So many virtual tokens stand before every text, at positions 0, 1, ...; their ids are V, V + 1, ..., of which the token table makes
     * rows of zeros. They carry no loss, and nobody who counts or shows tokens sees them. */
    int (*virtual_tokens)(const void *settings);
    /* Vectors that are given with each text: so many, of `width` numbers; an input of every program but decoding's (site.given). Then there are as
     * many virtual tokens, whose ids go on from text to text of a pass, as the vectors do. */
    int (*given)(const void *settings, int *width);
    val (*embed)(struct site *s, const struct embedding *e, val x); /* the rows of the ids -> what the model goes on with */
    err (*kv)(struct site *s, int layer, val *k, val *v);           /* keys and values as attention is about to read and to keep them */
    bool bare;           /* the names in its file stand without "base_model.model." */
    /* Where training takes a detour (P-tuning's encoder): the file beside the adapter's own that the parameters lie in, NULL: none; and what the
     * adapter's own holds then, made of them in mem. */
    const char *(*apart)(const void *settings);
    err (*made)(const void *settings, const struct param_set *set, const float *weights, arena *mem, struct made_matrix *out);
};

/* Of several adapters: what lies under the one whose linears is asked, which believes that it is the base. */
struct site_under {
    err (*linears)(const struct site_under *u, struct site *s, val x, int n, const struct linear *w, val *out); /* a plain group */
    err (*alone)(const struct site_under *u, struct site *s, int n, const struct linear *w); /* it brings deltas of its own: is that possible? */
};

struct site {
    struct prog *p;
    enum mode mode;
    bool extends;        /* decoding, with several tokens of a slot in one run */
    const struct peft_method *method; /* NULL: the bare base */
    const void *settings;             /* the method's own */
    struct param_set *params;
    float noise, src_noise;           /* NEFTune's alpha, of the rows that ids become, and of the encoder's; training alone; 0: none */
    int before;                       /* virtual tokens before each text, which have none */
    int next_site;                    /* dropout identity, counted in emission order */
    val ids, pos, cu, sample, slot;   /* inputs; which ones exist depends on the mode */
    val given, given_rows;            /* ... of a method with given vectors: all of a pass [M, width], f32, and 0, 1, ... M - 1 */
    val own_ids;                      /* ... of a method with own_tokens: those, i32 */
    val mix, src_mix;                 /* ... of a method with members: each row's weights of them [N, members] f32; of the encoder's rows */
    const struct site_under *under;   /* NULL: the base */
    val *cache_k, *cache_v;           /* per layer */
    /* Encoder-decoders: the encoder's inputs (rows [M]), and in decoding the slot and the last row of the text that each row reads [N]. */
    val src_ids, src_pos, src_cu, src_sample, src_slot, src_last;
    val *cross_k, *cross_v;           /* per layer of the decoder: keys and values of the encoder's rows, made once by prefill */
    val *kept;                        /* by parameter, where one is `kept`: STATE that prefill writes and decoding reads; NULL in other modes */
    /* Where `d` of a linear's matrix will lie, from when weights are first read (model/derived.h); NULL: the program has failed. */
    const float *(*derived)(struct site *s, const struct linear *w, const struct derivation *d);
    const struct model *model;        /* the base: derived()'s own */
};

err site_linears(struct site *s, val x, int n, const struct linear *w, val *out);
val site_linear(struct site *s, val x, const struct linear *w);
/* A block begins: what is emitted from here on is of its segment (counted from 1), and reads x. With prog.offload x sets out for the host;
 * the block before's has had that block's time and is there. */
void site_block(struct site *s, int segment, val x);
val site_sublayer(struct site *s, const struct sublayer *at);
struct head_delta site_head(struct site *s, const struct linear *w);
val site_head_low(struct site *s, val x, const struct head_delta *d); /* drop(x) A^T [N, R], for head_loss; absent: there is no delta */
val site_dropout(struct site *s, val x, double p);                    /* x itself but in training */
val site_noise(struct site *s, val x);                                /* ids' rows: x itself where there is no noise */
val site_vector(struct site *s, const struct base_vector *v);
val site_tokens(struct site *s, const struct base_matrix *table); /* absent: no token has a row of its own */
val site_matrix(struct site *s, const struct base_matrix *m); /* absent: the base's own */
val site_embed(struct site *s, const struct embedding *e, val table); /* token ids -> rows [N, C] */
/* The plain group, for methods that add to it. A, B, rank, alpha, dropout come in `a` and `low`; low may be NULL. mix: rows' weights of the members in `a`. */
struct low_rank { val a, b[MAX_GROUP], mix; };
err site_emit_linear(struct site *s, val x, int n, const struct linear *w, const struct op_attr *a, const struct low_rank *low, val *out);
/* q, k, v after RoPE -> o, by mode; layer picks the cache. bias: by distance, or absent. */
val site_attention(struct site *s, const val q[3], val bias, int layer, const struct op_attr *a);
val site_attended(struct site *s, const struct attending *a); /* -> [N, C]; kv is looked at where site_attends() */
static inline bool site_attends(const struct site *s) { return s->method && s->method->attention; }
/* Encoder-decoders. The site whose rows are the encoder's; attention among them (no cache in any mode); linears that read its rows
 * from the decoder's side; and the decoder's attention to them: k and v are absent in decoding. */
struct site site_of_source(const struct site *s);
val site_attention_source(struct site *s, const val q[3], val bias, const struct op_attr *a);
err site_source_linears(struct site *s, val x, int n, const struct linear *w, val *out);
val site_attention_cross(struct site *s, const val q[3], int layer, const struct op_attr *a);

#endif
