/* See combine.h. */
#include "export/combine.h"
#include "base/philox.h"
#include <math.h>
#include <string.h>

/* The k-th greatest of x (k >= 1), by Hoare's selection; x loses its order. */
static float kth_greatest(float *x, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        const float middle = x[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] > middle) i++;
            while (x[j] < middle) j--;
            if (i > j) break;
            const float y = x[i];
            x[i++] = x[j], x[j--] = y;
        }
        if (k - 1 <= j) high = j;
        else if (k - 1 >= i) low = i;
        else break;
    }
    return x[k - 1];
}

/* Of equal ones on the border the first stay. */
static void keep_greatest(float *x, int64_t n, double density, float *room) {
    const int64_t k = (int64_t)(density * (double)n);
    if (k >= n) return;
    int64_t equal = k;
    float border = INFINITY;
    if (k > 0) {
        for (int64_t i = 0; i < n; i++) room[i] = fabsf(x[i]);
        border = kth_greatest(room, n, k);
        for (int64_t i = 0; i < n; i++) equal -= fabsf(x[i]) > border;
    }
    for (int64_t i = 0; i < n; i++) {
        const bool on = fabsf(x[i]) == border;
        if (fabsf(x[i]) < border || (on && equal <= 0)) x[i] = 0;
        equal -= on;
    }
}

bool combine_keeps(const struct combining *c, uint32_t tensor, int input, int64_t element) {
    const struct philox r = philox(c->key, tensor, (uint32_t)element, (uint32_t)(element >> 32), (uint32_t)input);
    return philox_unit(r.v[0]) < (float)c->density;
}

static void keep_some(const struct combining *c, float *x, int64_t n, uint32_t tensor, int input) {
    for (int64_t i = 0; i < n; i++) x[i] = combine_keeps(c, tensor, input, i) ? x[i] / (float)c->density : 0;
}

/* 1 or -1; zero has no sign of its own, but the sum of nothing elects 1. */
static int elected(const struct combining *c, float *const *x, int n, int64_t i) {
    float sum = 0;
    for (int k = 0; k < n; k++) sum += c->by_count ? (float)((x[k][i] > 0) - (x[k][i] < 0)) : x[k][i];
    return sum >= 0 ? 1 : -1;
}

/* The mean of the weighted numbers that have the elected sign. */
static float of_one_sign(const struct combining *c, float *const *x, const float *weights, int n, int64_t i) {
    const int sign = elected(c, x, n, i);
    float sum = 0;
    int have = 0;
    for (int k = 0; k < n; k++) {
        const bool agrees = sign > 0 ? x[k][i] > 0 : x[k][i] < 0;
        sum += agrees ? x[k][i] * weights[k] : 0;
        have += agrees;
    }
    return sum / (float)(have ? have : 1);
}

void combine(const struct combining *c, float *const *x, const float *weights, int n, int64_t count, uint32_t tensor, float *room, float *out) {
    for (int k = 0; k < n && c->density < 1; k++) {
        if (c->thin == THIN_SMALLEST) keep_greatest(x[k], count, c->density, room);
        if (c->thin == THIN_RANDOM) keep_some(c, x[k], count, tensor, k);
    }
    for (int64_t i = 0; i < count; i++) {
        float sum = 0;
        for (int k = 0; k < n && !c->elect; k++) sum += x[k][i] * weights[k];
        out[i] = c->elect ? of_one_sign(c, x, weights, n, i) : sum;
    }
}
