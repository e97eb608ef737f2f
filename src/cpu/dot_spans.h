/* Included by gemm_avx2.c and gemm_avx512.c behind their dot_block(dt, rw, n, d, o): rw rows of W from o on by n rows of x.
 * Makes dot(): a function for each type and n, since inlined into one they would spill each other's registers. The
 * includer defines WIDE_1 .. WIDE_8, the rw that suits each n: as many accumulators as its registers hold. */
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
SPANS(F32)
SPANS(F16)
SPANS(BF16)
SPANS(Q4_0)
SPANS(Q4_1)
SPANS(Q8_0)
SPANS(Q6_K)
#undef SPANS
#undef SPAN

static void dot(const struct gemm_dot *d) {
#define OF(dt)                                                                                                         \
    [DT_##dt] = {span_##dt##_1, span_##dt##_2, span_##dt##_3, span_##dt##_4,                                           \
                 span_##dt##_5, span_##dt##_6, span_##dt##_7, span_##dt##_8}
    static span_fn *const spans[DT_COUNT][8] = {OF(F32), OF(F16), OF(BF16), OF(Q4_0), OF(Q4_1), OF(Q8_0), OF(Q6_K)};
#undef OF
    spans[d->dt][d->rows - 1](d);
}
