/* No method: the base is frozen, and only what a structure has beside its method (a classifier) is trained. No value of the backbone
 * needs a gradient then, so its train program has no backward instruction.
 *
 * PEFT has no type for a head alone. What it loads as one is a LORA whose target_modules is its own word for "none at all"
 * (peft.utils.constants.DUMMY_TARGET_MODULES), with the head among modules_to_save; r and lora_alpha mean nothing in it. */
#include "peft/none.h"
#include "peft/methods.h"
#include <jansson.h>
#include <string.h>

static const char DUMMY[] = "dummy-target-modules";

bool none_is(const void *json) {
    const char *targets = json_string_value(json_object_get(json, "target_modules"));
    return targets && !strcmp(targets, DUMMY);
}

static err check(const void *settings) { return (void)settings, OK; }
static bool same(const void *a, const void *b) { return (void)a, (void)b, true; }
static err read_json(const void *json, const char *where, arena *mem, void *settings) {
    return (void)json, (void)where, (void)mem, (void)settings, OK;
}

static err write_json(const void *settings, const struct module_list *named, void *json) {
    (void)settings, (void)named;
    json_t *j = json_pack("{s:s, s:i, s:i, s:f, s:s}", "target_modules", DUMMY, "r", 1, "lora_alpha", 1, "lora_dropout", 0.0, "bias", "none");
    const int bad = !j || json_object_update(json, j);
    json_decref(j);
    return bad ? fail(E_MEMORY, "out of memory") : OK;
}

static void describe(const void *settings, str *out) {
    (void)settings;
    str_adds(out, "head alone (frozen base");
}

const struct peft_method method_none = {.name = "none", .peft_type = "LORA", .settings = 1, .check = check, .same = same, .read = read_json, .write = write_json, .describe = describe, .mark = ""};
