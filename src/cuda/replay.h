/* Repeated runs as one launch: core/backend.h's replay_ops by CUDA graphs. */
#ifndef CYC_CUDA_REPLAY_H
#define CYC_CUDA_REPLAY_H
#include "core/backend.h"

enum { REPLAY_BYTES = 64 << 20 }; /* what recordings take of the card together */
extern const struct replay_ops cuda_replay;

#endif
