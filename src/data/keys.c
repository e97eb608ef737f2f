/* See keys.h. The sort is a quicksort in place, since the C library's takes as much memory again; hashes are as good as random, and rows that stand in
 * order among equal ones stay cheap with the pivot from the middle. */
#define XXH_INLINE_ALL
#include "data/keys.h"
#include <xxhash.h>

struct key key_of(const void *bytes, size_t n, int32_t row) {
    const XXH128_hash_t h = XXH3_128bits(bytes, n);
    return (struct key){h.low64, (uint32_t)h.high64, row};
}

static void insertion(struct key *k, size_t n) {
    for (size_t i = 1; i < n; i++) {
        const struct key x = k[i];
        size_t at = i;
        for (; at && key_compare(&x, &k[at - 1]) < 0; at--) k[at] = k[at - 1];
        k[at] = x;
    }
}

void keys_sort(struct key *k, size_t n) {
    while (n > 16) {
        const struct key pivot = k[n / 2];
        size_t i = 0, at = n - 1;
        for (;; i++, at--) {
            while (key_compare(&k[i], &pivot) < 0) i++;
            while (key_compare(&pivot, &k[at]) < 0) at--;
            if (i >= at) break;
            const struct key x = k[i];
            k[i] = k[at], k[at] = x;
        }
        const size_t left = at + 1; /* [0, left) and the rest; the smaller by a call, so the depth stays below log n */
        if (left < n - left) keys_sort(k, left), k += left, n -= left;
        else keys_sort(k + left, n - left), n = left;
    }
    insertion(k, n);
}

size_t keys_run(const struct key *k, size_t n, size_t i) {
    size_t end = i + 1;
    while (end < n && k[end].low == k[i].low && k[end].high == k[i].high) end++;
    return end;
}

size_t keys_find(const struct key *k, size_t n, uint64_t low, uint32_t high) {
    size_t from = 0, to = n;
    while (from < to) {
        const size_t mid = (from + to) / 2;
        if (k[mid].low < low || (k[mid].low == low && k[mid].high < high)) from = mid + 1;
        else to = mid;
    }
    return from < n && k[from].low == low && k[from].high == high ? from : n;
}
