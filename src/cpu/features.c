/* Which instruction set the kernels use: asked of the processor once, capped by the environment variable CYC_CPU so
 * that each path can be tested on one machine. A race between two first callers is harmless: both find the same. */
#define _GNU_SOURCE /* syscall */
#include "cpu/cpu.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"generic", "avx2", "avx512"};
static _Atomic int chosen = -1;

#if defined(__x86_64__)
/* Clang 14, which builds the fuzz targets, has no word for it. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

static enum cpu_isa detect(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return CPU_GENERIC;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return CPU_AVX512;
    return CPU_AVX2;
#else
    return CPU_GENERIC;
#endif
}

void cpu_cap(enum cpu_isa most) {
    enum cpu_isa have = detect();
    atomic_store(&chosen, have < most ? have : most);
}

enum cpu_isa cpu_isa(void) {
    int isa = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (isa >= 0) return isa;
    enum cpu_isa cap = CPU_AVX512;
    const char *env = getenv("CYC_CPU");
    for (int i = 0; env && i <= CPU_AVX512; i++)
        if (!strcmp(env, names[i])) cap = i;
    cpu_cap(cap);
    return atomic_load(&chosen);
}

bool cpu_vnni(void) {
#if defined(__x86_64__)
    return cpu_isa() == CPU_AVX512 && __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

/* Tile registers are the process's only after it has asked for them (Linux: arch_prctl(2), ARCH_REQ_XCOMP_PERM). */
static bool has_amx(void) {
#if defined(__x86_64__) && defined(__linux__)
    enum { ASK = 0x1023, TILE_DATA = 18, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AVX512_BF16 = 1 << 5 };
    unsigned a, b, c, d, more;
    const char *env = getenv("CYC_CPU");
    if (env && !strcmp(env, names[CPU_AVX512])) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE)) return false;
    if (!__get_cpuid_count(7, 1, &more, &b, &c, &d) || !(more & AVX512_BF16)) return false;
    return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
#else
    return false;
#endif
}

bool cpu_amx(void) {
    static _Atomic int has = -1;
    if (cpu_isa() != CPU_AVX512) return false;
    if (atomic_load(&has) < 0) atomic_store(&has, has_amx());
    return atomic_load(&has);
}

const char *cpu_isa_name(enum cpu_isa isa) { return names[isa]; }

static _Thread_local int counted;

void cpu_count_threads(int n) { counted = n; }

int cpu_max_threads(void) {
    const int there = omp_get_num_procs(), n = counted > 0 ? counted : there < 4 ? 4 : there;
    return n > 256 ? 256 : n;
}

int cpu_threads(const struct run_ctx *run) {
    int n = run->threads, most = cpu_max_threads();
    return n < 1 ? 1 : n > most ? most : n;
}

int cpu_threads_for(const struct run_ctx *run, int64_t floats) { return floats < 16384 ? 1 : cpu_threads(run); }
