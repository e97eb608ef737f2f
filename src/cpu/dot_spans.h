/* Included by gemm_avx2.c, gemm_avx512.c and dot_vnni.c behind their dot_block(dt, rw, n, d, o): rw rows of W from o on by
 * n rows of x. Makes dot(): a function for each type and n, since inlined into one they would spill each other's
 * registers. The includer defines DOT_TYPES(X), a list of X(type), and WIDE_1 .. WIDE_8, the rw that suits each n: as many
 * accumulators as its registers hold. */
typedef void span_fn(const struct gemm_dot *d);
#define SPAN(dt, n, rw)                                                                                                \
    static __attribute__((noinline)) void span_##dt##_##n(const struct gemm_dot *d) {                                  \
        int64_t o = d->o0;                                                                                             \
        for (; o + (rw) <= d->o1; o += (rw)) dot_block(DT_##dt, rw, n, d, o);                                          \
        for (; o < d->o1; o++) dot_block(DT_##dt, 1, n, d, o);                                                         \
    }
#define SPANS(dt)                                                                                                      \
    SPAN(dt, 1, WIDE_1)                                                                                                \
    SPAN(dt, 2, WIDE_2)                                                                                                \
    SPAN(dt, 3, WIDE_3)                                                                                                \
    SPAN(dt, 4, WIDE_4)                                                                                                \
    SPAN(dt, 5, WIDE_5)                                                                                                \
    SPAN(dt, 6, WIDE_6)                                                                                                \
    SPAN(dt, 7, WIDE_7)                                                                                                \
    SPAN(dt, 8, WIDE_8)
DOT_TYPES(SPANS)
#undef SPANS
#undef SPAN

static void dot(const struct gemm_dot *d) {
#define OF(dt)                                                                                                         \
    [DT_##dt] = {span_##dt##_1, span_##dt##_2, span_##dt##_3, span_##dt##_4,                                           \
                 span_##dt##_5, span_##dt##_6, span_##dt##_7, span_##dt##_8},
    static span_fn *const spans[DT_COUNT][8] = {DOT_TYPES(OF)};
#undef OF
    spans[d->dt][d->rows - 1](d);
}
