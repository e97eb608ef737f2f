/* See methods.h. */
#include "peft/methods.h"
#include <jansson.h>
#include <string.h>

static const struct peft_method *const methods[] = {
#define METHOD(name) &method_##name,
#include "peft/methods.def"
#undef METHOD
};
enum { N_METHODS = sizeof methods / sizeof *methods };

const struct peft_method *method_of_type(const char *peft_type) {
    for (int i = 0; i < N_METHODS; i++)
        if (methods[i]->peft_type && !strcmp(methods[i]->peft_type, peft_type)) return methods[i];
    return NULL;
}

void method_types(str *out) {
    for (int i = 0; i < N_METHODS; i++)
        if (methods[i]->peft_type && method_of_type(methods[i]->peft_type) == methods[i]) str_addf(out, "%s%s", i ? ", " : "", methods[i]->peft_type);
}

bool setting_given(const void *value) {
    const json_t *v = value;
    if (!v || json_is_null(v) || json_is_false(v)) return false;
    if (json_is_object(v)) return json_object_size(v) > 0;
    return !json_is_array(v) || json_array_size(v) > 0;
}

bool config_of_hub(const void *json) { return !json_object_get(json, "peft_type") && json_is_object(json_object_get(json, "config")); }

const struct peft_method *method_of_hub(void) {
    int i = 0;
    while (methods[i]->peft_type) i++;
    return methods[i];
}

const char *method_file(bool hub) { return hub ? "adapter.safetensors" : "adapter_model.safetensors"; }
