/* Attention by cuDNN, where it is installed: its flash kernels for Hopper run at twice the rate of flash.cu's. It is loaded by
 * name and never needed: every function here says "no" and attention.cu uses its own kernels. */
#ifndef CYC_CUDA_CUDNN_H
#define CYC_CUDA_CUDNN_H
#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDNN_OLDEST = 91002 }; /* as cudnn_version() says it */

/* The tensors of attention, all packed: row n of any of them is token n, head h begins at column h * D (lse: column h). */
enum cudnn_tensor { CUDNN_Q, CUDNN_K, CUDNN_V, CUDNN_O, CUDNN_LSE, CUDNN_DO, CUDNN_DQ, CUDNN_DK, CUDNN_DV, CUDNN_TENSORS };

/* What a plan is made for. Zeroed before it is filled: compared as bytes. */
struct cudnn_case {
    int64_t ld[CUDNN_TENSORS]; /* elements from row to row; the forward has the first five */
    int dt, heads, kv_heads, head_dim;
    int sequences, longest;    /* upper bounds, from cudnn_rung(): the actual ones are in the table */
    int backward, causal;
};

/* One call. The scratch begins with a table of 1 + CUDNN_TENSORS rows of cudnn_row(sequences) i32 that the caller has filled on
 * the stream: row 0 the lengths of the sequences, row 1 + t the elements before each sequence in tensor t (sequences + 1 of
 * them). Sequences that are not there have length 0. */
struct cudnn_call {
    struct cudnn_case shape;
    void *tensor[CUDNN_TENSORS];
    int64_t tokens;
    float scale;
    void *scratch; /* cudnn_scratch() bytes at least */
};

size_t cudnn_version(void);                       /* of the library, as it says it; 0: not found */
int cudnn_rung(int64_t n, int steps);             /* n rounded up to one of `steps` (a power of two) a doubling: few plans serve many shapes */
int64_t cudnn_row(int sequences);                 /* i32 in a row of the table */
/* What a call needs, workspace included; grows with the tokens and the sequences, whatever the longest. 0 where a card is that
 * cuDNN is not used on (where none is, the plan is for an H100). */
size_t cudnn_scratch(const struct cudnn_case *c, int64_t tokens);
/* Is there a plan for this, or can one be made now (not while recording)? */
bool cudnn_takes(const struct cudnn_call *call);
err cudnn_attention(const struct cudnn_call *call); /* after cudnn_takes() */

#ifdef __cplusplus
}
#endif
#endif
