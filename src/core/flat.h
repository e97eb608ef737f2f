/* Loops over whole flat arenas (weights, gradients, optimizer states): the optimizer's kernels. An adapter's arena has
 * one layout for all of them, so clip, step and checks are one call each whatever the model.
 *
 * Results are the same for every number of threads: elements are independent, and sums are of fixed pieces, added in
 * their order. Non-finite values go through; flat_finite() finds them. */
#ifndef CYC_CORE_FLAT_H
#define CYC_CORE_FLAT_H
#include "base/err.h"
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

/* What it would cost to have a weight at zero, smoothed from step to step, and how unsure that is (Zhang et al. 2023, equations 9 to 11; PEFT's
 * RankAllocator): c = |p g|;  mean = beta1 mean + (1 - beta1) c;  spread = beta2 spread + (1 - beta2) |c - mean|, with g = grad_scale * gradient. */
struct importance {
    double beta1, beta2;
    float grad_scale;
};
struct importance_state {
    const float *p, *g;
    float *mean, *spread;
};
void flat_importance(const struct importance *o, const struct importance_state *s, int64_t n, int threads);

/* n vectors, element l of vector i at i * across + l * along, are to be orthonormal: with S_ij = <v_i, v_j> - (i == j) the gradient of
 * weight * ||S||_F (S's Frobenius norm; at 0: none) is added to that of the vectors, which lies as they do. */
enum { ORTHOGONAL_MOST = 256 };
struct orthogonal {
    int n; /* at most ORTHOGONAL_MOST */
    int64_t length, across, along;
    double weight;
};
err flat_orthogonal(const struct orthogonal *o, const float *v, float *grad, int threads);

#endif
