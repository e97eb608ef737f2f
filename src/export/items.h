/* What an output file holds, tensor by tensor, and where each number comes from: the base's tensor, the order of its rows there and
 * in the output, the delta that is added. items_plan_*() make the list for an output; items_write() streams it. */
#ifndef CYC_EXPORT_ITEMS_H
#define CYC_EXPORT_ITEMS_H
#include "export/deltas.h"
#include "io/tensors_out.h"

struct item {
    struct tensor t;  /* the output's: name, type, shape, bytes */
    const void *data; /* the base's numbers: rows of cols, in type dt */
    dtype dt;
    bool mapped; /* data is a file's pages, which may be let go */
    int64_t rows, cols;
    struct picked pick;          /* data has so many rows and columns, of which these are taken (model/cut.h); all zeros: rows and cols are all of it */
    int64_t head;              /* rows of a head where RoPE's order matters; 0: rows stay where they are */
    bool from_pairs, to_pairs; /* the order there and here (core/rope_rows.h) */
    const struct delta *delta; /* a pair whose product is added */
    bool changed;    /* by the adapter (a pair, or data is the adapter's own tensor), or some of its columns are left out */
    bool turned;     /* data is [cols, rows], of a plain type: rows are its columns */
    float shift;     /* added to each number: Gemma's norms are stored less 1 in one format */
    bool transposed; /* the file has [in, out] (GPT-2's Conv1D): rows are inputs, and A and B change places */
};

struct items {
    arena mem;
    struct item *v;
    struct tensor *t; /* what they become, as the writers want them: one each, of NF4 several (nf4_out.h) */
    int n, n_t;
    bool nested;      /* NF4 with double quantisation */
    dtype type;     /* of the matrices, as asked for or chosen; DT_NONE: each keeps its own */
    int64_t widest; /* elements of a row */
};

/* type DT_NONE: what loses least. A merge into safetensors: the base's own type where it is plain, f16 where it is quantised; into
 * GGUF: tensors that nothing changes are copied as they are, changed ones become f16 where they were quantised. */
/* to: NULL, or a type for each of m->w that decides in type's place (gen/rules.h); DT_NONE: as the base has it. In a folder NF4 alone. */
err items_plan_hf(struct items *l, const struct model *m, const struct deltas *d, dtype type, const dtype *to);
err items_plan_gguf(struct items *l, const struct model *m, const struct deltas *d, dtype type, const dtype *to);
void items_free(struct items *l);

struct progress {
    void (*report)(void *ctx, size_t done, size_t total); /* may be NULL */
    void *ctx;
    volatile int *stop;  /* E_INTERRUPTED when it becomes non-zero; may be NULL */
    size_t peak, before; /* most anonymous memory seen, and what there was at the start */
};
void progress_memory(struct progress *p); /* looks at the process's memory now */

/* Bytes that items_write() takes beside the mapped files. */
size_t items_write_bytes(const struct items *l);
/* The same, about, before there is an adapter: of any that adds products of that rank to any of the model's matrices. */
size_t items_merge_bytes(const struct model *m, int64_t rank);
err items_write(const struct items *l, struct tensors_out *o, struct progress *p);

/* Lets the pages of a mapped range go: what was streamed through is not needed again. */
void pages_forget(const void *p, size_t n);

#endif
