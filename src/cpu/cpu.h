/* What the processor can do, and the kernels that the CPU table (backend.c) is filled with.
 *
 * Every kernel comes as a pair: the kernel itself and the exact number of scratch bytes it needs for the shapes it is
 * given (capacities at plan time, so the formula must not grow when a size shrinks). Kernels never allocate; the
 * scratch is 64-byte aligned. A kernel picks its instruction set by cpu_isa() at each call, so one binary runs
 * everywhere. */
#ifndef CYC_CPU_CPU_H
#define CYC_CPU_CPU_H
#include "core/prog.h"

enum cpu_isa { CPU_GENERIC, CPU_AVX2, CPU_AVX512 };

/* The widest set that this processor and CYC_CPU=generic|avx2|avx512 (a cap, for tests) allow. Read once. */
enum cpu_isa cpu_isa(void);
/* Tests and benchmarks: caps it from now on (never above what the processor has). Not while kernels run. */
void cpu_cap(enum cpu_isa most);
/* Whether, beside CPU_AVX512, there are its integer dot products. */
bool cpu_vnni(void);
/* Whether there are its tile products of bf16, and the system lets us use them. CYC_CPU=avx512 leaves them out. */
bool cpu_amx(void);
const char *cpu_isa_name(enum cpu_isa isa);
/* OpenMP threads a kernel may start: run->threads, at most cpu_max_threads(). Scratch that a thread owns is counted
 * cpu_max_threads() times: as often as cpu_count_threads() was told, or the processors of this machine, at least 4 (so tests may ask for more
 * than there are). */
int cpu_max_threads(void);
void cpu_count_threads(int n); /* backend.h's */
int cpu_threads(const struct run_ctx *run);
/* The same for work of so many floats: one thread where starting a second would cost more than it saves. */
int cpu_threads_for(const struct run_ctx *run, int64_t floats);

/* linear.c, head_loss.c: operands as in ops/ops.h */
err cpu_linear(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
               void *scratch);
size_t cpu_linear_scratch(const struct inst *inst, const struct view *in, const struct view *out);
err cpu_linear_bwd(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                   void *scratch);
size_t cpu_linear_bwd_scratch(const struct inst *inst, const struct view *in, const struct view *out);
err cpu_weight_grad(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                    void *scratch);
size_t cpu_weight_grad_scratch(const struct inst *inst, const struct view *in, const struct view *out);
err cpu_dropout(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out, void *scratch);
err cpu_head_loss(const struct run_ctx *run, const struct inst *inst, const struct view *in, struct view *out,
                  void *scratch);
size_t cpu_head_loss_scratch(const struct inst *inst, const struct view *in, const struct view *out);

#endif
