/* What a side's adapter begins with: fresh numbers by the run's seed; those of an adapter that goes on with its task (`adapter`, with its optimizer's state
 * where the folder has one); or those of another task (`init_from`), over fresh ones, for a head that is not the same begins anew. A run that resumes
 * reads its checkpoint over this. Called by run_start(). */
#include "base/file.h"
#include "base/log.h"
#include "ops/ops.h"
#include "train/run.h"

static err go_on(struct side *s) {
    bool found;
    base_heed_adapter(s->base, s->cfg->adapter);
    err e = learner_load(&s->learner, s->cfg->adapter, &s->base->model);
    if (!e) e = optimizer_read(&s->learner, s->cfg->adapter, &found); /* a checkpoint's folder has one */
    return e && *s->name ? fail_in(e, "adapter of side %s", s->name) : e;
}

static bool is_adapter(arena *mem, const char *folder) {
    const char *config = folder ? arena_printf(mem, "%s/adapter_config.json", folder) : NULL;
    return config && path_exists(config);
}

/* The folder itself, or the side's of a run or a checkpoint. */
static err source_of(const struct run *r, const struct side *s, arena *mem, const char **folder) {
    const char *root = r->cfg->init_from, *name = *s->name ? s->name : "adapter";
    *folder = root;
    if (is_adapter(mem, root)) return OK;
    *folder = arena_printf(mem, "%s/%s", root, name);
    return is_adapter(mem, *folder)
               ? OK
               : fail(E_INPUT, "%s is no adapter (adapter_config.json), and no run or checkpoint with one in %s/%s", root, root,
                      name);
}

static err of_another_task(struct run *r, struct side *s) {
    arena mem = {0};
    const char *folder;
    bool head = true;
    err e = source_of(r, s, &mem, &folder);
    if (!e) base_heed_adapter(s->base, folder);
    if (!e) e = learner_transfer(&s->learner, folder, &s->base->model, &head);
    if (e) e = fail_in(e, "init_from");
    else if (!head)
        log_info("init_from: the adapter of %s goes on, the head %s", folder,
                 r->head.classes ? "begins anew: its classes are not those of this task" : "that it has is left");
    arena_free(&mem);
    return e;
}

err side_begin(struct run *r, int i) {
    struct side *s = &r->side[i];
    if (*s->cfg->adapter) return go_on(s);
    TRY(learner_fill(&s->learner, philox_key((uint64_t)r->cfg->seed + (uint64_t)i, PURPOSE_INIT)));
    return *r->cfg->init_from ? of_another_task(r, s) : OK;
}
