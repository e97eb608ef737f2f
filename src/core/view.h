/* What a kernel sees of a tensor: a pointer, a type, the actual sizes of this run. Row-major; a 2-D view may be a
 * column slice of a wider one, then ld > d[1] (in elements; quantised views are never slices).
 *
 * One alphabet of sizes in all comments: N tokens, S sequences, C width, H heads, K kv heads, D head size, F ffn,
 * V vocabulary, R rank, L layers. */
#ifndef CYC_CORE_VIEW_H
#define CYC_CORE_VIEW_H
#include "base/dtype.h"

struct view {
    void *p; /* NULL: the optional operand is absent */
    dtype dt;
    int nd;
    int64_t d[4], ld;
};

static inline int64_t view_rows(const struct view *v) { return v->nd ? v->d[0] : 1; }
static inline int64_t view_cols(const struct view *v) {
    int64_t n = 1;
    for (int i = 1; i < v->nd; i++) n *= v->d[i];
    return n;
}
static inline float *view_f32(const struct view *v) { return (float *)v->p; }
static inline const int32_t *view_i32(const struct view *v) { return (const int32_t *)v->p; }
static inline float *view_row(const struct view *v, int64_t i) { return (float *)v->p + i * v->ld; }

#endif
