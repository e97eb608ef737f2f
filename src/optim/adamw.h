/* AdamW with f32 states: of all that learns (adamw_torch), and of what other optimizers leave to it (adamw_8bit, muon). */
#ifndef CYC_OPTIM_ADAMW_H
#define CYC_OPTIM_ADAMW_H
#include "optim/optim.h"

/* The kernel's settings for a rate and a decay. */
struct adamw adamw_of_step(const struct optim_step *o, double lr, double weight_decay);

#endif
