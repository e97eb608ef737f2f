/* A program: a straight-line list of coarse ops over named values, laid down once by plain C builder calls and never
 * rewritten. What will run is this list; prog_print() shows it.
 *
 * Values are SSA: an instruction defines its outputs once. Two kinds are written by more than one instruction, and only
 * these: ROLE_GRAD (parameter gradients: every writer adds) and ROLE_STATE (the KV cache, and what prefill leaves for decoding).
 * ROLE_HOST: an activation's copy in the host's memory, while it waits for the backward pass (ops/stash.c).
 * `needs` (does a gradient flow here?) is derived: true for PARAM, and for an output when true for any input.
 * Sizes that change from run to run are symbols (SYM_N tokens, SYM_S sequences, SYM_S1 = S + 1, SYM_M tokens of
 * an encoder); everything else is a
 * number. The planner uses capacities, a run its actual sizes. */
#ifndef CYC_CORE_PROG_H
#define CYC_CORE_PROG_H
#include "base/arena.h"
#include "base/str.h"
#include "core/backend.h"

typedef struct { uint32_t i; } val; /* 0 = absent */
static inline bool has(val v) { return v.i != 0; }

enum role { ROLE_INPUT, ROLE_BASE, ROLE_PARAM, ROLE_ACT, ROLE_GRAD, ROLE_STATE, ROLE_HOST };
enum sym { SYM_N = -1, SYM_S = -2, SYM_S1 = -3, SYM_M = -4 };
enum { SYM_COUNT = 5, MAX_IN = 24, MAX_OUT = 8, MAX_GROUP = 4, MAX_MEMBERS = 32 };

struct value {
    dtype dt;
    int nd;
    int64_t d[4], ld; /* a negative entry (d[0] only) is a symbol; ld: elements from row to row */
    enum role role;
    bool needs;
    bool keep;         /* read by the caller after the run: its memory is not reused */
    bool again;        /* the backward pass makes it anew at any level (prog_pieces_end) */
    bool part;         /* it is read by its own pieces alone: there is room for the rows of one (planner) */
    int def, last;     /* defining instruction (-1: none) and last use, set by the planner */
    int segment;       /* checkpoint segment of the definition */
    size_t grad;       /* PARAM: its gradient's byte offset in the gradient arena */
    size_t off;        /* ACT, STATE, HOST, INPUT: byte offset in its arena (planner). PARAM: in the adapter's working copy; GRAD: in its
                          gradient, which is f32 */
    val alias;         /* this value shares the memory of that one (in-place op; a HOST value that has arrived) */
    val host;          /* ACT: its copy on the host, when it is there */
    int input;         /* INPUT: index in the binding */
    const void *data;  /* BASE: where the host has the bytes, ... */
    dtype stored;      /* ... of which type they are there, ... */
    void *at;          /* ... and where the backend has them (plan_place); NULL: there */
    const char *name;
};

enum activation { ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF, ACT_RELU, ACT_TANH };

/* head_loss: what a row's loss is made of beside the cross-entropy of its label. All zeros: nothing. */
struct loss_terms {
    float smoothing;   /* of the label, as PyTorch has it */
    float z;           /* the coefficient of logsumexp^2 */
    float share;       /* of the distance from a teacher; cross-entropy has the rest */
    float beta;        /* that distance: 0 KL(teacher || student), 1 KL(student || teacher), between them Jensen-Shannon's */
    float temperature; /* of both sides in it */
    float teacher_cap; /* the softcap of the teacher's logits */
    float hidden;      /* added to it: so many times the mean square by which the teacher's row differs from the row, which is as wide */
};

struct op_attr {
    float eps, scale, dropout, softcap;
    float alpha[MAX_GROUP];       /* linear: the scale of each output's low-rank delta */
    struct loss_terms loss;
    int n;                        /* linear: outputs in the group; top: ids of a row */
    int rank[MAX_GROUP];          /* linear: rows of A that belong to output i (they lie one after the other) */
    int members;                  /* linear with LIN_MIX: adapters whose deltas it adds up, ... */
    uint16_t member_rank[MAX_GROUP][MAX_MEMBERS]; /* ... and how many of the rank of output i are each one's, in their order */
    int width[MAX_GROUP];         /* split: columns of output i */
    int heads, kv_heads, head_dim, window;
    int first;                    /* overlay: ids from here on are rows of its table */
    int buckets, distance;        /* attention with a bias: relative positions share so many rows of its table; from where on all do */
    int rope_dims;                /* rope: rotated columns of a head; 0: all */
    enum activation act;          /* glu */
    int site;                     /* identity for dropout keys */
    bool causal, interleaved, inverse;
    bool slot_rows;               /* kv_append, attention_cached: rows of one run may be of one slot, and see each other */
    bool center;                  /* norm: LayerNorm */
    bool backward;                /* head_loss: makes gradients too; overlay_bwd: x wants one */
    bool normalise;               /* process: logits become log-probabilities first */
    bool wide;                    /* linear: outputs are f32 whatever the program computes in (logits) */
};

struct op_def;
struct inst {
    const struct op_def *op;
    val in[MAX_IN], out[MAX_OUT];
    struct op_attr a;
    int segment;
    int piece;         /* instructions in a row with the same number run together, a piece of the rows at a time; 0: all rows at once */
};

struct prog {
    arena mem;
    struct value *v;
    int nv, cap_v;
    struct inst *in;
    int ni, cap_i;
    int64_t cap[SYM_COUNT]; /* capacities, by -symbol */
    int threads;            /* of each run, at most: what scratch is counted for; 0: as many as the machine may run */
    dtype compute;          /* of activations, caches and the adapter's working copy: f32 (also DT_NONE), bf16 or f16 */
    int segment;            /* current checkpoint segment; outside of any: 0 */
    int64_t piece_rows;     /* more rows than these go through what is emitted in pieces so many at a time; 0: there are no pieces */
    int piece, n_pieces;    /* current number of inst.piece, 0: none; numbers given */
    int n_inputs;
    int adapters;           /* whose rows a run may have side by side (run_ctx.adapters); 0: one */
    bool offload;           /* what blocks read is copied to the host while it waits, ... */
    val leaving, left;      /* ... and this one, whose copy that is, is on its way */
    err failed;             /* the first builder error; the builders after it do nothing */
};

struct cost { double flops, bytes; };

/* An op, defined in one file of src/ops. Operand order is documented at the top of that file. */
struct op_def {
    const char *name;
    int n_in, n_out;
    unsigned inplace;  /* bit i: out[0] may take the memory of in[i] when in[i] dies here */
    unsigned spare;    /* bit k: out[k] is left out where nobody reads any of these */
    bool by_rows;      /* a row of its outputs depends on that row of its inputs alone, and gradients are added: it can run in pieces */
    bool cheap;        /* selective checkpointing recomputes it rather than keep its outputs */
    bool effect;       /* mutates STATE or reports: never removed as dead */
    bool any_type;     /* its definition takes operands of 16 bits as they are (core/wide.h) */
    err (*infer)(struct prog *, struct inst *);                                /* checks inputs, makes outputs */
    err (*vjp)(struct prog *, const struct inst *, const val *dout, val *din); /* appends the backward instructions */
    struct cost (*cost)(const struct inst *, const struct view *in, const struct view *out);
    size_t (*ref_scratch)(const struct inst *, const struct view *in, const struct view *out);
    kernel ref;        /* the definition: slow, accumulating in double */
    /* Of an op that knows whose a row is (run_ctx.adapters): its operands as adapter k has them. false: it has none of an adapter's. NULL: rows are
     * all alike to it, or it sorts them itself. */
    bool (*part)(const struct adapters *all, int k, const struct inst *i, const struct view *in, const struct view *out, struct view *own_in,
                 struct view *own_out);
};

/* --- builders ------------------------------------------------------------------------------------------------- */
void prog_free(struct prog *p);
size_t prog_bytes(const struct prog *p); /* of the description itself */
void prog_fit(struct prog *p);           /* nothing more comes: its lists take what they hold. Values and instructions may move */
val prog_value(struct prog *p, enum role role, dtype dt, int nd, const int64_t *d, const char *name);
val prog_input(struct prog *p, dtype dt, int nd, const int64_t *d, const char *name); /* inputs bind in creation order */
val prog_base(struct prog *p, dtype dt, int nd, const int64_t *d, const void *data, const char *name);
val prog_act(struct prog *p, dtype dt, int nd, const int64_t *d, const char *name);
/* Appends an instruction: infer() makes its outputs. Absent inputs are (val){0}; at the end they may be left out. Returns NULL after an error. */
struct inst *prog_emit(struct prog *p, const struct op_def *op, const val *in, int n_in, const struct op_attr *a);
val emit1(struct prog *p, const struct op_def *op, const val *in, int n_in, const struct op_attr *a); /* out[0] */
err prog_fail(struct prog *p, err code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static inline dtype prog_dt(const struct prog *p) { return p->compute ? p->compute : DT_F32; }
static inline struct value *prog_v(const struct prog *p, val v) { return &p->v[v.i]; }
int64_t prog_dim(const struct prog *p, int64_t d, const int64_t *size); /* a symbol's size, or d; size NULL: capacity */
struct view prog_view(const struct prog *p, val v, const int64_t *size); /* shape and type; p.p = NULL */
size_t view_bytes(const struct view *v);
void prog_print(const struct prog *p, str *out);

/* The parameter's gradient: a GRAD value at the parameter's offset of the gradient arena (kernels add to it). */
val prog_grad_of(struct prog *p, val param);
/* Same type and shape as another value, fresh memory. */
val prog_like(struct prog *p, val v, const char *name);
/* Marks a value that the caller reads after a run. */
void prog_keep(struct prog *p, val v);
/* Between these two a wide part of a block goes over the rows of x in pieces of at most piece_rows, where x has more: what lies between the
 * instructions never exists for all rows at once. The result, and whatever its instruction makes, does; the rest is made anew for the
 * backward. An instruction that is not by_rows, or makes something that has no rows, runs whole, and splits the pieces in two. */
void prog_pieces(struct prog *p, val x);
void prog_pieces_end(struct prog *p, val result);
int64_t prog_rows(const struct prog *p, const struct inst *i); /* the symbol whose rows it goes over; 0: none, or not by rows */
/* Drops instructions whose results nobody uses, and of others the outputs that may be left out (op_def, spare). */
void prog_drop_dead(struct prog *p);

/* infer() helpers: shapes as checks, the names in the message. */
err want(struct prog *p, const struct inst *i, int in, dtype dt, int nd, const int64_t *d); /* DT_NONE: any type */

#endif
