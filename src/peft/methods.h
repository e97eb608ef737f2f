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
bool setting_given(const void *value); /* of adapter_config.json (jansson): absent, null, false, {} and [] are not */

/* AdapterHub's adapters: is this adapter_config.json (a jansson value) one of its, not PEFT's? The method of such, and its file of tensors. */
bool config_of_hub(const void *json);
const struct peft_method *method_of_hub(void);
const char *method_file(bool hub); /* "adapter_model.safetensors" */

#endif
