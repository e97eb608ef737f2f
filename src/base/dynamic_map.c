/* See dynamic_map.h. */
#include "base/dynamic_map.h"
#include <math.h>
#include <stdlib.h>

enum { DECADES = 7 };

/* torch.linspace(0.1, 1, n)[i], in f32 with one rounding: the upper half is counted from the end. */
static float boundary(int i, int n) {
    const float first = 0.1f, last = 1, step = (last - first) / (float)(n - 1);
    return i < n / 2 ? fmaf(step, (float)i, first) : fmaf(-step, (float)(n - 1 - i), last);
}

static int ascending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

void dynamic_map(bool with_sign, float map[DYNAMIC_CODES]) {
    int n = 0;
    for (int i = 0; i < DECADES; i++) {
        const int steps = (with_sign ? 1 : 2) << i;
        const float decade = (float)pow(10, i - (DECADES - 1));
        for (int k = 0; k < steps; k++) {
            const float mean = (boundary(k, steps + 1) + boundary(k + 1, steps + 1)) / 2;
            map[n++] = decade * mean;
            if (with_sign) map[n++] = -decade * mean;
        }
    }
    map[n++] = 0;
    map[n++] = 1;
    qsort(map, DYNAMIC_CODES, sizeof *map, ascending);
}

void dynamic_middles(const float map[DYNAMIC_CODES], float middle[DYNAMIC_CODES]) {
    middle[0] = -INFINITY;
    for (int c = 1; c < DYNAMIC_CODES; c++) middle[c] = (map[c - 1] + map[c]) / 2;
}
