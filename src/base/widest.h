/* WIDEST before a function: it is compiled for the vectors of several processors, and which is called is chosen when the program is loaded. For
 * loops that the compiler makes vectors of by itself, outside of a training step; kernels have a file for each kind (src/cpu). No sum may depend
 * on the width: what is written in such a function gives the same bits everywhere. */
#ifndef CYC_BASE_WIDEST_H
#define CYC_BASE_WIDEST_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDEST
#endif

#endif
