/* What a run is told when the card fails it: no card is needed to say so. */
#include "support/support.h"
#include "cuda/cuda.h"

static void says(cudaError_t e, err code, const char *what, const char *advice) {
    assert_int_equal(cuda_check(e, "a copy from the card"), code);
    if (!strstr(err_text(), "a copy from the card") || !strstr(err_text(), what) || !strstr(err_text(), advice)) flunk("'%s' lacks '%s' or '%s'", err_text(), what, advice);
}

static void test_messages(void **state) {
    (void)state;
    assert_int_equal(cuda_check(cudaSuccess, "nothing"), OK);
    says(cudaErrorECCUncorrectable, E_INTERNAL, "cudaErrorECCUncorrectable", "checkpoints that were saved before are whole");
    says(cudaErrorECCUncorrectable, E_INTERNAL, "ECC", "memory is faulty");
    says(cudaErrorIllegalAddress, E_INTERNAL, "illegal memory access", "CUDA_LAUNCH_BLOCKING=1");
    says(cudaErrorDevicesUnavailable, E_INTERNAL, "cudaErrorDevicesUnavailable", "another process");
    says(cudaErrorMemoryAllocation, E_MEMORY, "no room", "another process");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_messages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
