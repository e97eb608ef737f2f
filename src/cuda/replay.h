/* Repeated runs as one launch: core/backend.h's replay_ops by CUDA graphs. */
#ifndef CYC_CUDA_REPLAY_H
#define CYC_CUDA_REPLAY_H
#include "core/backend.h"

enum { REPLAY_BYTES = 96 << 20 }; /* what recordings hold together, at most */
extern const struct replay_ops cuda_replay;

#endif
