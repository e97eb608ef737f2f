/* Every method of methods.def, by the name that its adapter files carry. */
#ifndef CYC_PEFT_METHODS_H
#define CYC_PEFT_METHODS_H
#include "core/site.h"
#include "peft/none.h"

#define METHOD(name) extern const struct peft_method method_##name;
#include "peft/methods.def"
#undef METHOD

const struct peft_method *method_of_type(const char *peft_type); /* the first of that type; NULL when unknown */
void method_types(str *out);                                     /* "LORA, ...": for messages */

#endif
