/* See support.h. */
#include "support/support.h"
#include "base/philox.h"
#include "base/file.h"

void must_(err e, const char *what, const char *file, int line) {
    if (!e) return;
    print_error("%s: %s\n", what, err_text());
    _fail(file, line);
}

const struct tensor *fixture(const struct tensors *ts, const char *name) {
    const struct tensor *t = tensors_find(ts, name);
    if (!t) flunk("%s has no tensor %s", ts->path, name);
    return t;
}

void close_to(const char *name, const float *a, const float *b, size_t n, double rel_tol, double abs_tol) {
    double worst = -1;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]) / (abs_tol + rel_tol * fabs((double)b[i]));
        if (!(d <= worst)) worst = d, at = i; /* a NaN counts as worst */
        if (isnan(worst)) break;
    }
    if (n == 0 || worst <= 1) return;
    flunk("%s[%zu] is %.9g, must be %.9g (%.2g of the tolerance)", name, at, (double)a[at], (double)b[at], worst);
}

const char *smollm2_path(void) {
    const char *path = getenv("CYC_SMOLLM2_GGUF");
    if (!path) path = "cache/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (path_exists(path)) return path;
    print_message("the real model is not here (%s): this test is not run; `make check` fetches it\n", path);
    return NULL;
}

const struct backend *test_card(void) {
    const char *device = getenv("CYC_TEST_DEVICE");
    const struct backend *b = NULL;
    if (!device) return NULL;
    if (!backend_pick(device, &b) && b->open && !b->open()) return b;
    fprintf(stderr, "%s\n", err_text());
    exit(77);
}

float *to_host(const struct backend *b, const float *p, size_t bytes) {
    float *host = malloc(bytes + 1);
    assert_non_null(host);
    must(b->mem->download(host, p, bytes));
    return host;
}

void random_blocks(dtype dt, void *p, int64_t n, float scale, uint32_t *rng) {
    static const struct {
        dtype dt;
        int at[2], full; /* where its halves (floats of our own formats) lie, -1: none; the largest that they are multiplied with */
    } forms[] = {{DT_Q4_0, {0, -1}, 8},          {DT_Q4_1, {0, 2}, 16},        {DT_Q5_0, {0, -1}, 16},    {DT_Q5_1, {0, 2}, 32},   {DT_Q8_0, {0, -1}, 128},
                 {DT_Q2_K, {80, 82}, 45},        {DT_Q3_K, {108, -1}, 128},    {DT_Q4_K, {0, 2}, 945},    {DT_Q5_K, {0, 2}, 1953}, {DT_Q6_K, {208, -1}, 4096},
                 {DT_IQ4_NL, {0, -1}, 127},      {DT_IQ4_XS, {0, -1}, 4064},   {DT_NF4, {0, -1}, 1},      {DT_E4M3, {0, -1}, 448}};
    uint8_t *b = p;
    const int block = dtype_info[dt].block, bytes = dtype_info[dt].bytes;
    for (int64_t i = 0; i < n; i += block, b += bytes) {
        for (int k = 0; k < bytes; k++) b[k] = (uint8_t)philox(77, (*rng)++, 0, 0, 0).v[0];
        for (int k = 4; dt == DT_E4M3 && k < bytes; k++)
            if ((b[k] & 0x7F) == 0x7F) b[k] ^= 1; /* no NaN */
        for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
            for (int k = 0; k < 2 && forms[f].dt == dt; k++) {
                float d = (philox_unit(philox(78, (*rng)++, 0, 0, 0).v[0]) * 2 - 1) * scale / (float)forms[f].full;
                uint16_t h = f32_to_f16(d);
                if (forms[f].at[k] < 0) continue;
                if (dt == DT_NF4 || dt == DT_E4M3) memcpy(b + forms[f].at[k], &d, 4);
                else memcpy(b + forms[f].at[k], &h, 2);
            }
    }
}
