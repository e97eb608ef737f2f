/* The trained parameters of one adapter structure: names, shapes and places in a flat arena. Every program of the same
 * (method, model) shares one set: the first program adds the entries, later ones find them by name.
 *
 * Weights, gradient and each optimizer state are flat f32 arenas with the same offsets: clip, AdamW, save are one loop.
 * A parameter may be several of the file format's tensors laid one after the other (the A matrices of q, k, v, which
 * share their input, are one [3r, C] product): its slices carry the file names.
 *
 * Matrices lie before vectors. Programs that compute in bf16 or f16 read matrices in that type and vectors (norm weights, biases) in
 * f32: their working copy is the cast matrices and, behind them, the vectors as they are. Among the matrices, and among the vectors,
 * those of one learning rate lie together, so that the optimizer's loops are few.
 *
 * Weights may be narrow: then their arena is laid out as such a working copy in bf16 (matrices of 2 bytes a number, vectors behind them in f32),
 * and programs of bf16 read it where it lies. Gradients and states are f32 with the offsets below all the same.
 *
 * Last come matrices that belong to the adapter and do not learn (VeRA's projections): they are in its weights, its file and its working
 * copy, but no gradient and no optimizer state has a place for them. */
#ifndef CYC_CORE_PARAMS_H
#define CYC_CORE_PARAMS_H
#include "core/prog.h"

enum param_init { INIT_ZERO, INIT_UNIFORM /* U(-scale, scale) */, INIT_NORMAL_SLICES /* N(0, scale^2) by each slice's own scale */, INIT_ONE, INIT_COPY /* of each slice's `from` */,
                  INIT_MADE /* by each slice's `make` */ };

/* What files hold of a tensor x: x - less (Gemma's norm weights: less 1), of a matrix each row less `row` (BERT's positions have a token
 * type's row in them). A vector as [n], [n, 1] or [1, n], a matrix as [m, n] or [1, m, n]. All zero: x. No factor: what is trained must be what the files' own code
 * trains, or an optimizer's step is another. */
struct file_form {
    float less;
    const float *row;
    enum { FILE_VECTOR, FILE_COLUMN, FILE_ROW, FILE_ONE_OF } shape;
};

struct param_slice;
typedef err (*param_maker)(const struct param_slice *s, int64_t columns, uint64_t key, float *rows);
struct param_slice {
    const char *name;   /* in the adapter's file, e.g. "model.layers.0.self_attn.q_proj.lora_A.weight" */
    int64_t row0, rows; /* rows of the parameter */
    int64_t column0, columns; /* columns > 0: the file's tensor has so many, of which the parameter is those from column0 on */
    int rope_heads;     /* > 0: rows (of such a slice: columns) are stored in GGUF's interleaved RoPE order for this many heads; files use halves */
    float init_scale;   /* of INIT_NORMAL_SLICES */
    const void *from;   /* of INIT_COPY: the base's own values, in the order of memory, ... */
    dtype stored;       /* ... of this type; read when an arena is filled, not before */
    bool base_stays;    /* ... which others still read: the parameter does not stand in its place everywhere */
    float times;        /* ... and of INIT_COPY, times this; 0: 1 */
    param_maker make;   /* of INIT_MADE, ... */
    const void *how;    /* ... and what it goes by; NULL where the slice says all */
    bool turned;        /* files have it as [columns, rows] */
    int64_t of_rows;    /* > 0: the file's tensor has so many, of which the parameter has the first */
    bool again;         /* the file's tensor is another parameter's; this one has numbers of it once more: read, not written */
    bool outer;         /* its name in files stands beside the model, not in it: "base_model.NAME" */
    /* Files have what it began with (`from`, f32, times `times`) once more: below its rows, or to their right and negated. */
    enum { BESIDE_NOTHING, BESIDE_BELOW, BESIDE_NEGATED } beside;
    const char *also;   /* another name under which a file may have it; NULL: none */
    struct file_form form;
};

struct param {
    const char *name;
    int nd;
    int64_t d[4];
    size_t off; /* bytes into the arena */
    enum param_init init;
    float init_scale;
    float rate; /* its learning rate is so many times the recipe's */
    bool frozen; /* a matrix that does not learn */
    bool occasional; /* no gradient comes to it but where one of its ids occurs, or a token near enough */
    bool kept;  /* what prefill computes from it decoding reads: STATE (core/site.h) ... */
    int64_t keeps[2]; /* ... of so many rows and columns in the compute type; 0: of the parameter's shape, f32 */
    struct param_slice *slice;
    int n_slices;
};

/* Parameters of one set that are to lie in another too, under `name/` and theirs. */
struct param_lender {
    const char *name;
    const struct param_set *set; /* NULL: none */
    const float *weights;        /* the set's, on the host */
};

struct param_set {
    arena mem;
    int n, cap;
    struct param *p;
    size_t bytes, vectors; /* of the weights' arena; where the first vector lies: its end where there is none */
    size_t trained;        /* of the arenas of gradients and states: what is behind is frozen */
    bool sealed;
    bool narrow;           /* the weights' arena has matrices in bf16: of param_weight_bytes() */
    int next;                   /* where a name is looked for first */
    struct param_lender lender; /* what is asked for now is a copy of this one's (peft/mix.c) */
};

/* Finds or adds `name`; returns its index or -1 (out of memory). Slices are copied, their names too. */
int param_get(struct param_set *s, const char *name, int nd, const int64_t *d, enum param_init init, float scale,
              const struct param_slice *slice, int n_slices);
/* Before the set is sealed: parameter `index` learns `rate` times as fast as the recipe says (1 where nothing is said). */
void param_rate(struct param_set *s, int index, float rate);
void param_occasional(struct param_set *s, int index); /* ... may wait for its gradient */
void param_keep(struct param_set *s, int index, int64_t rows, int64_t columns); /* ... has a STATE in generation, of that shape or (0) its own */
void param_freeze(struct param_set *s, int index); /* ... a matrix, does not learn */
/* After the first program, before the arenas are taken: gives every parameter its place. No new ones from here on. */
void param_seal(struct param_set *s);
size_t param_work_bytes(const struct param_set *s, dtype compute); /* of the working copy */
size_t param_weight_bytes(const struct param_set *s);              /* of the weights' arena */
size_t param_list_bytes(const struct param_set *s);                /* of names, shapes and places */
/* Where a parameter lies in a weights' arena, and what of. */
void *param_place(const struct param_set *s, const struct param *p, const void *weights, dtype *dt);
/* n of its numbers, from its number `first` on, as f32; on the host. Into a narrow arena they are rounded to the nearest. */
void param_read(const struct param_set *s, const struct param *p, const void *weights, int64_t first, int64_t n, float *to);
void param_write(const struct param_set *s, const struct param *p, void *weights, int64_t first, int64_t n, const float *from);
/* What lies from byte `from` of the arena on, before `trained`, and learns alike: matrices or vectors, at one rate. */
struct param_stretch { size_t end; float rate; bool vectors; };
struct param_stretch param_stretch(const struct param_set *s, size_t from);
size_t param_end(const struct param *p); /* byte of the arena of f32 behind it */
void param_free(struct param_set *s);
int64_t param_count(const struct param_set *s); /* trained scalars */
int param_of_slice(const struct param_set *s, const char *name); /* which one has this name in files; -1: none */
bool param_copies(const struct param_set *s, const void *data); /* does a parameter stand in the place of the base's tensor with these bytes? */

/* The parameter as a value of this program. */
val prog_param(struct prog *p, const struct param_set *s, int index);
/* Rows of a matrix, as what no gradient flows to. */
val prog_param_rows(struct prog *p, const struct param_set *s, int index, int64_t row0, int64_t rows);

/* Fills an arena with the initial values: philox(seed, PURPOSE, parameter, element), independent of everything else. */
err param_fill(const struct param_set *s, uint64_t key, void *weights);

#endif
