/* Loops over whole flat arenas (weights, gradients, optimizer states): the optimizer's kernels. An adapter's arena has
 * one layout for all of them, so clip, step and checks are one call each whatever the model.
 *
 * Results are the same for every number of threads: elements are independent, and sums are of fixed pieces, added in
 * their order. Non-finite values go through; flat_finite() finds them. */
#ifndef CYC_CORE_FLAT_H
#define CYC_CORE_FLAT_H
#include <stdbool.h>
#include <stdint.h>

double flat_sumsq(const float *x, int64_t n, int threads); /* sum x^2 in double */
bool flat_finite(const float *x, int64_t n, int threads);  /* no NaN, no infinity */
void flat_scale(float *x, float factor, int64_t n, int threads);
void flat_zero(float *x, int64_t n, int threads);

/* AdamW (Loshchilov, Hutter 2019) as torch.optim.AdamW computes it, in f32:
 *   p *= 1 - lr * weight_decay;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 *   p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)          with g = grad_scale * gradient */
struct adamw {
    double lr, beta1, beta2, eps, weight_decay;
    int64_t t;        /* this step's number; the first is 1 */
    float grad_scale; /* 1 / loss weight, times the clip factor: both in the one pass over the gradient */
};
struct adamw_state {
    float *p, *m, *v; /* weights and both moments */
    const float *g;
};
void flat_adamw(const struct adamw *o, const struct adamw_state *s, int64_t n, int threads);

#endif
