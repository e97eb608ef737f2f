/* The card's unpackers (cuda/blocks.cuh) on the host: the same functions, held to dequantise_row() bit for bit on random blocks of
 * every stored type. Needs nvcc and no card. */
#include <stdio.h>
#include <stdlib.h>
#include "cuda/blocks.cuh"
extern "C" void random_blocks(dtype dt, void *p, int64_t n, float scale, uint32_t *rng);

static int failures;

template <int DT> static void check(void) {
    enum { N = 256 * 16 };
    static float want[N];
    uint32_t rng = 1;
    uint8_t *bytes = (uint8_t *)aligned_alloc(64, 4 * N);
    if (block_of<DT>::weights == 1)
        for (int i = 0; i < N; i++) want[i] = (float)(i * 7919 % 2001 - 1000) / 512;
    if (block_of<DT>::weights == 1) quantise_row((dtype)DT, want, bytes, N);
    else random_blocks((dtype)DT, bytes, N, 1, &rng);
    dequantise_row((dtype)DT, bytes, want, N);
    if ((int)block_of<DT>::weights != dtype_info[DT].block || (int)block_of<DT>::bytes != dtype_info[DT].bytes) failures++, printf("%s: another block size\n", dtype_info[DT].name);
    for (int64_t e = 0; e < N; e += 4) {
        float w[4];
        block4<DT>(bytes, e, w);
        for (int i = 0; i < 4; i++)
            if (memcmp(&w[i], &want[e + i], 4)) {
                failures++;
                printf("%s: weight %lld is %a, must be %a\n", dtype_info[DT].name, (long long)(e + i), w[i], want[e + i]);
                free(bytes);
                return;
            }
    }
    free(bytes);
    printf("%s: equal\n", dtype_info[DT].name);
}

int main(void) {
#define CHECK(stored) check<stored>();
    EACH_STORED(CHECK)
    return failures != 0;
}
