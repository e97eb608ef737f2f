/* See methods.h. */
#include "peft/methods.h"
#include <string.h>

static const struct peft_method *const methods[] = {
#define METHOD(name) &method_##name,
#include "peft/methods.def"
#undef METHOD
};
enum { N_METHODS = sizeof methods / sizeof *methods };

const struct peft_method *method_of_type(const char *peft_type) {
    for (int i = 0; i < N_METHODS; i++)
        if (!strcmp(methods[i]->peft_type, peft_type)) return methods[i];
    return NULL;
}

void method_types(str *out) {
    for (int i = 0; i < N_METHODS; i++)
        if (method_of_type(methods[i]->peft_type) == methods[i]) str_addf(out, "%s%s", i ? ", " : "", methods[i]->peft_type);
}
