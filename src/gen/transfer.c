/* An adapter of one task as the start of another's: the same base, method and settings; what lies beside the method, a head, goes along where it tells the
 * same classes in the same order, and is left behind elsewhere: of a source whose labels are others, of a source that wrote texts for a task that tells
 * classes, and the other way round. The folder is read as strictly as any: by a structure of its own, from which the numbers are copied by name. */
#include "gen/adapter.h"
#include <string.h>

static bool same_shape(const struct param *a, const struct param *b) {
    return a->nd == b->nd && !memcmp(a->d, b->d, (size_t)a->nd * sizeof *a->d);
}

/* Every number of the method's that the structure has; how many parameters that were. */
static err copy(const char *folder, const struct structure *own, const float *have, const struct structure *st, void *weights,
                int *copied) {
    *copied = 0;
    for (int i = 0; i < st->params.n; i++) {
        const struct param *to = &st->params.p[i];
        if (adapter_of_head(st, &to->slice[0])) continue;
        const int k = param_of_slice(&own->params, to->slice[0].name);
        const struct param *from = k < 0 ? NULL : &own->params.p[k];
        int64_t n = 1;
        dtype dt;
        if (!from || !same_shape(from, to))
            return fail(E_USAGE, "%s %s %s: both tasks' adapters must have the same settings", folder,
                        from ? "has another shape of" : "does not train", to->slice[0].name);
        for (int d = 0; d < to->nd; d++) n *= to->d[d];
        param_write(&st->params, to, weights, 0, n, param_place(&own->params, from, have, &dt));
        ++*copied;
    }
    return OK;
}

static err from_other(const char *folder, const struct model *m, const void *settings, const struct head *head, const struct structure *st,
                      void *weights) {
    struct structure own;
    char text[64];
    int copied = 0;
    TRY(structure_init_head(&own, m, st->method, settings, head->classes ? head : NULL, NULL));
    float *have = arena_f32(own.params.bytes);
    err e = have ? adapter_read(folder, &own, have) : fail(E_MEMORY, "out of memory");
    if (!e) e = copy(folder, &own, have, st, weights, &copied);
    if (!e && !copied)
        e = fail(E_USAGE, "%s has nothing for this task: it is %s alone, and this one's classes are others", folder, head_text(head, text));
    if (have) arena_f32_free(have, own.params.bytes);
    structure_free(&own);
    return e;
}

err adapter_transfer(const char *folder, const struct model *m, const struct structure *st, void *weights, bool *head) {
    arena mem = {0};
    const void *settings;
    struct head have = {0};
    err e = adapter_settings(folder, m, st, &mem, &settings);
    if (!e) e = adapter_read_head(folder, &mem, &have);
    *head = !e && head_same(&have, &st->head);
    if (!e) e = *head ? adapter_load(folder, m, st, weights) : from_other(folder, m, settings, &have, st, weights);
    arena_free(&mem);
    return e;
}
