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

/* The same with both moments in 8 bits (Dettmers et al. 2022): codes of base/dynamic_map.h (m: with a sign) times the largest of their block of
 * STATE_BLOCK elements, the first of which is element 0. The weights feel the moments before these are rounded again, to the nearest, as
 * bitsandbytes has it (its kernels for NVIDIA's cards also keep the sign of an m that rounds to nothing; the others do not, nor does this). */
enum { STATE_BLOCK = 256 };
static inline int64_t state_blocks(int64_t n) { return (n + STATE_BLOCK - 1) / STATE_BLOCK; }
struct adamw_8bit_state {
    float *p;
    const float *g;
    uint8_t *m, *v;        /* [n] */
    float *m_most, *v_most; /* [state_blocks(n)] */
};

/* Lion (Chen et al. 2023, algorithm 2):  p *= 1 - lr * weight_decay;  p -= lr * sign(beta1 m + (1 - beta1) g);  m = beta2 m + (1 - beta2) g */
struct lion {
    double lr, beta1, beta2, weight_decay;
    float grad_scale;
};

/* As torch.optim.SGD:  g += weight_decay p;  m = momentum m + g;  p -= lr (m, or Nesterov's g + momentum m; without momentum g) */
struct sgd {
    double lr, momentum, weight_decay;
    bool nesterov;
    float grad_scale;
};
struct momentum_state {
    float *p, *m; /* m: NULL without momentum */
    const float *g;
};

/* Adafactor (Shazeer, Stern 2018) as transformers has it, of one matrix [rows, columns] or, columns 0, a vector of `rows` numbers. Of a matrix
 * g^2 + eps is kept as its means over each row and each column, smoothed by beta2:
 *   u = g / sqrt(row column / mean(row));  u /= max(1, rms(u) / clip);  p -= lr (u + weight_decay p)
 * With scale_parameter lr is multiplied by max(eps_scale, rms(p)). */
struct adafactor {
    double lr, beta2, eps, eps_scale, clip, weight_decay;
    bool scale_parameter;
    float grad_scale;
    int64_t rows, columns;
};
struct adafactor_state {
    float *p;
    const float *g;
    float *row, *column; /* [rows], [columns]; of a vector row is all of v */
};

/* Muon (Jordan et al. 2024) as torch.optim.Muon has it, of one matrix [rows, columns]: with Nesterov's momentum, the direction made (nearly)
 * orthonormal by five steps of a Newton-Schulz iteration, X <- a X + (b XX' + c (XX')^2) X from X = D / |D|_F:
 *   m += (1 - momentum) (g - m);  D = g + momentum (m - g);  p *= 1 - lr * weight_decay;  p -= step * X */
struct muon {
    double lr, step, momentum, weight_decay;
    float grad_scale;
    int64_t rows, columns;
};
enum { MUON_ITERATIONS = 5 };
#define MUON_A 3.4445
#define MUON_B (-4.7750)
#define MUON_C 2.0315
#define MUON_EPS 1e-7 /* the least |D|_F that is divided by */

/* f32 to bf16 at random (base/round.h): element i of n is number first + i of what `key` and the step stand for. */
struct rounding {
    uint64_t key, step, first;
};

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
