/* The card's unpackers (cuda/blocks.cuh) on the host: the same functions, held to dequantise_row() bit for bit on random blocks of
 * every stored type. Needs nvcc and no card; where there is one, the card's own results too. */
#include <stdio.h>
#include <stdlib.h>
#include "cuda/blocks.cuh"
extern "C" void random_blocks(dtype dt, void *p, int64_t n, float scale, uint32_t *rng);

static int failures, cards;

template <int DT> __global__ void on_card(const uint8_t *bytes, float *w, int n) {
    int e = 4 * (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (e < n) block4<DT>(bytes, e, w + e);
}

template <int DT> static void ask_card(const uint8_t *bytes, int n, float *w) {
    uint8_t *there;
    float *result;
    cudaMalloc(&there, 4 * n), cudaMalloc(&result, 4 * n);
    cudaMemcpy(there, bytes, dtype_row_bytes((dtype)DT, n), cudaMemcpyHostToDevice);
    on_card<DT><<<n / 4 / 64, 64>>>(there, result, n);
    if (cudaMemcpy(w, result, 4 * n, cudaMemcpyDeviceToHost) != cudaSuccess) failures++, printf("%s: the card failed\n", dtype_info[DT].name);
    cudaFree(there), cudaFree(result);
}

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
    static float have[2][N];
    for (int64_t e = 0; e < N; e += 4) block4<DT>(bytes, e, have[0] + e);
    if (cards) ask_card<DT>(bytes, N, have[1]);
    free(bytes);
    for (int where = 0; where <= (cards > 0); where++)
        for (int i = 0; i < N; i++)
            if (memcmp(&have[where][i], &want[i], 4)) {
                failures++;
                printf("%s%s: weight %d is %a, must be %a\n", dtype_info[DT].name, where ? " on the card" : "", i, have[where][i], want[i]);
                return;
            }
    printf("%s: equal%s\n", dtype_info[DT].name, cards ? ", on the card too" : "");
}

int main(void) {
    if (cudaGetDeviceCount(&cards) != cudaSuccess) cards = 0;
#define CHECK(stored) check<stored>();
    EACH_STORED(CHECK)
    return failures != 0;
}
