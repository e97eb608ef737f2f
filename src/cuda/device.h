/* The card: opening it, its memory, the libraries that are loaded at run time. */
#ifndef CYC_CUDA_DEVICE_H
#define CYC_CUDA_DEVICE_H
#include "core/backend.h"

err cuda_open(void);
extern const struct mem_ops cuda_mem;

/* What `cyclora doctor` prints. Strings live for ever; versions are 1000 * major + 10 * minor, 0: not found. */
struct cuda_facts {
    bool driver, card;
    char name[256], why[512]; /* why: what is missing, when there is no usable card */
    int driver_version, runtime_version, capability, sms;
    size_t cublaslt, cudnn;   /* versions as the libraries say them */
    size_t bytes, bytes_free;
};
void cuda_facts(struct cuda_facts *f);
/* Measured: bytes a second of a large copy (read and written), flop/s of a large bf16 product. Opens the card. */
err cuda_measure(double *bandwidth, double *rate);

#endif
