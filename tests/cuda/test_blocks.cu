/* The card's unpackers on the host: the same functions, held to dequantise_row() bit for bit on random blocks of every stored type:
 * four weights as f32 (cuda/blocks.cuh), and eight as operands of the tensor cores with their scale and offset (cuda/quants.cuh).
 * NF4's are scale * (code rounded to the operand's type). Needs nvcc and no card; where there is one, the card's own results too. */
#include <stdio.h>
#include <stdlib.h>
#include "cuda/quants.cuh"
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

/* --- operands ----------------------------------------------------------------------------------------------------------- */
template <typename T> HD float operand_f32(uint32_t h) {
    if constexpr (T_is_bf16<T>::yes) return bits_f32(h << 16);
    else return half_f32(h);
}

/* Weights j + 8t .. + 7 of the step that begins at p, as lane t of matvec_quant.cu has them. */
template <typename T, int DT> HD void lane8(const uint8_t *p, int half, int j, int t, float w[8]) {
    uint32_t a[4];
    operands<T, DT>(codes8<DT>(codes_of<DT>(p, half), j, t), a);
    for (int i = 0; i < 8; i++) {
        float scale, offset = 0, v = operand_f32<T>(a[i / 2] >> 16 * (i & 1) & 0xFFFF);
        if constexpr (quant<DT>::sixteenths) scale = line16<DT>(p, j + (t >> 1) * 16);
        else line32<T, DT>(p, half, j, &scale, &offset);
        v = add_rn(v, -excess<T, DT>());
        w[i] = quant<DT>::offset ? add_rn(mul_rn(scale, v), offset) : mul_rn(scale, v);
    }
}

template <typename T, int DT> HD void lane8_at(const uint8_t *bytes, int e, float *w) {
    constexpr int step = quant<DT>::step, half = DT == DT_NF4_DQ;
    const int k = e / step, second = half * (k & 1), at = k * (step * block_of<DT>::bytes / block_of<DT>::weights) - 8 * second;
    lane8<T, DT>(bytes + at, second, e % step / 32 * 32, e % 32 / 8, w);
}

template <typename T, int DT> __global__ void operands_on_card(const uint8_t *bytes, float *w, int n) {
    int e = 8 * (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (e < n) lane8_at<T, DT>(bytes, e, w + e);
}

/* What a weight must be: rounding a code is the only difference that is allowed. */
template <typename T, int DT> static void expected(const uint8_t *bytes, float *want, int n) {
    dequantise_row((dtype)DT, bytes, want, n);
    for (int e = 0; (DT == DT_NF4 || DT == DT_NF4_DQ) && e < n; e++) {
        const uint8_t *b = bytes + e / block_of<DT>::weights * block_of<DT>::bytes;
        const int at = DT == DT_NF4 ? 4 + e % 64 / 32 * 16 : nf4_dq_nibbles(e % 512 / 32);
        float code = nf4_code[b[at + e % 16] >> (e % 32 / 16 * 4) & 15];
        float scale = DT == DT_NF4 ? bits_f32(load_u32(b)) : nf4_dq_scale(b, e % 512 / 64);
        want[e] = scale * (T_is_bf16<T>::yes ? bf16_to_f32(f32_to_bf16(code)) : f16_to_f32(f32_to_f16(code)));
    }
}

template <typename T, int DT> static void check_operands(const char *type) {
    enum { N = 256 * 64 };
    static float want[N], have[2][N];
    uint32_t rng = 5;
    uint8_t *bytes = (uint8_t *)aligned_alloc(64, 4 * N), *there;
    random_blocks((dtype)DT, bytes, N, 1, &rng);
    expected<T, DT>(bytes, want, N);
    for (int e = 0; e < N; e += 8) lane8_at<T, DT>(bytes, e, have[0] + e);
    if (cards) {
        float *result;
        cudaMalloc(&there, 4 * N), cudaMalloc(&result, 4 * N);
        cudaMemcpy(there, bytes, dtype_row_bytes((dtype)DT, N), cudaMemcpyHostToDevice);
        operands_on_card<T, DT><<<N / 8 / 64, 64>>>(there, result, N);
        if (cudaMemcpy(have[1], result, 4 * N, cudaMemcpyDeviceToHost) != cudaSuccess) failures++, printf("%s in %s: the card failed\n", dtype_info[DT].name, type);
        cudaFree(there), cudaFree(result);
    }
    free(bytes);
    for (int where = 0; where <= (cards > 0); where++)
        for (int i = 0; i < N; i++)
            if (have[where][i] != want[i]) {
                failures++;
                printf("%s as %s%s: weight %d is %a, must be %a\n", dtype_info[DT].name, type, where ? " on the card" : "", i, have[where][i], want[i]);
                return;
            }
    printf("%s as %s: equal%s\n", dtype_info[DT].name, type, cards ? ", on the card too" : "");
}

int main(void) {
    if (cudaGetDeviceCount(&cards) != cudaSuccess) cards = 0;
#define CHECK(stored) check<stored>();
    EACH_STORED(CHECK)
#undef CHECK
#define CHECK(stored) check_operands<bf16, stored>("bf16"), check_operands<f16, stored>("f16");
    EACH_QUANT(CHECK)
    return failures != 0;
}
