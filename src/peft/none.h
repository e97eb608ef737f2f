/* No method: the base as it is, under a trained head. */
#ifndef CYC_PEFT_NONE_H
#define CYC_PEFT_NONE_H
#include <stdbool.h>

/* Is this adapter_config.json (a jansson value) one of a head alone? */
bool none_is(const void *json);

#endif
