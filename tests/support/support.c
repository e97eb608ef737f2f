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

bool same_bytes(const char *a, const char *b) {
    str x = {0}, y = {0};
    must(file_read(a, &x));
    must(file_read(b, &y));
    bool same = x.n == y.n && !memcmp(x.p, y.p, x.n);
    str_free(&x);
    str_free(&y);
    return same;
}
