/* See settings.h. */
#include "support/settings.h"
#include "base/file.h"
#include "gen/adapter.h"
#include "support/folder.h"
#include "support/support.h"

err settings_read(const char *json, const char *base) {
    const struct peft_method *method;
    const void *settings;
    arena mem = {0};
    struct model m;
    struct structure st;
    must(dir_make(at("settings")));
    must(file_write(at("settings/adapter_config.json"), json, strlen(json)));
    err e = adapter_read_config(at("settings"), &mem, &method, &settings);
    if (!e) {
        must(model_open(base, NULL, &m));
        e = structure_init(&st, &m, method, settings, NULL);
        if (!e) structure_free(&st);
        model_close(&m);
    }
    arena_free(&mem);
    return e;
}

void settings_refused(const char *json, const char *base, err code, const char *why) {
    err e = settings_read(json, base);
    if (e != code || !strstr(err_text(), why)) flunk("%s: %d, %s", json, (int)e, e ? err_text() : "accepted");
}

void config_with(struct config *c, const char *const *sets, size_t n, const char *const *more) {
    must(config_init(c));
    for (size_t i = 0; i < n; i++) must(config_set(c, sets[i]));
    for (; more && *more; more++) must(config_set(c, *more));
}
