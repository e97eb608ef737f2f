/* What several test programs need: the golden fixtures, the real model's path, comparing with a named worst element. */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* the library has one of its own */
#define flunk(...) (print_error(__VA_ARGS__), print_error("\n"), _fail(__FILE__, __LINE__)) /* for fail_msg, which needs it */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/backend.h"
#include "io/tensors.h"

#define GOLDEN "tests/golden"

/* Fails the test with the library's message when e is not OK. */
#define must(e) must_((e), #e, __FILE__, __LINE__)
void must_(err e, const char *what, const char *file, int line);

/* A tensor of a fixture that must be there. */
const struct tensor *fixture(const struct tensors *ts, const char *name);
static inline const float *f32_of(const struct tensor *t) { return t->data; }
static inline const int32_t *i32_of(const struct tensor *t) { return t->data; }

/* Greatest |a - b| / (abs_tol + rel_tol * |b|) over n elements; fails above 1, printing name, index and both values. */
void close_to(const char *name, const float *a, const float *b, size_t n, double rel_tol, double abs_tol);

/* A run of n weights of any quantised type, every bit random but where scales lie; those are near `scale` over the code's
 * largest value. rng: a counter. */
void random_blocks(dtype dt, void *p, int64_t n, float scale, uint32_t *rng);

bool same_bytes(const char *a, const char *b); /* of two files */

/* The backend that CYC_TEST_DEVICE names, open; NULL without that variable. Exits with 77 (skipped) where there is no such card. */
const struct backend *test_card(void);
/* A copy of a backend's arena; free() it. */
float *to_host(const struct backend *b, const float *p, size_t bytes);

/* The real base model's path, or NULL (then tests of it say so and skip). */
const char *smollm2_path(void);

#endif
