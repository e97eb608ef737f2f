/* The optimizers' kernels on the processor: optim.c, muon.c. Rows of flat_cpu (flat.c); what they compute is core/flat.h's. */
#ifndef CYC_CPU_OPTIM_H
#define CYC_CPU_OPTIM_H
#include "core/backend.h"

err cpu_adamw_8bit(const struct adamw *o, const struct adamw_8bit_state *s, int64_t n, int threads);
err cpu_lion(const struct lion *o, const struct momentum_state *s, int64_t n, int threads);
err cpu_sgd(const struct sgd *o, const struct momentum_state *s, int64_t n, int threads);
err cpu_adafactor(const struct adafactor *o, const struct adafactor_state *s, void *scratch, int threads);
size_t cpu_adafactor_scratch(int64_t rows, int64_t columns);
err cpu_muon(const struct muon *o, const struct momentum_state *s, void *scratch, int threads);
size_t cpu_muon_scratch(int64_t rows, int64_t columns);

#endif
