/* An adapter's optimizer.safetensors: the states by the optimizer's own names, which optimizer they are, its step, and the loss scale; where each
 * parameter lies, as a hash, since states that were saved for another order of the same size are for other parameters. AdamW's states have
 * torch's names, and a file that names no optimizer is AdamW's (there was none beside it once).
 *
 * Refused: the states of another optimizer, of other settings (sizes), of another layout. See learner.h. */
#include "base/arena.h"
#include "base/log.h"
#include "base/str.h"
#include "train/learner.h"
#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 32 };
static const char *const own_names[MAX_STATES] = {"method_state_1", "method_state_2"};

static err layout_hash(const struct param_set *s, char hex[33]) {
    str all = {0};
    for (int i = 0; i < s->n; i++) str_addf(&all, "%s %zu\n", s->p[i].name, s->p[i].off);
    if (!all.p) return fail(E_MEMORY, "out of memory");
    bytes_hash(all.p, all.n, hex);
    str_free(&all);
    return OK;
}

/* An arena and its name. */
struct entry {
    const char *name;
    dtype dt;
    size_t bytes;
    void *p;
    bool on_host;
};

static int list_entries(const struct learner *l, struct entry out[OPTIM_STATES + MAX_STATES]) {
    int n = 0;
    for (int i = 0; i < l->states; i++)
        out[n++] =
            (struct entry){l->state[i].name, l->state[i].dt, l->state[i].bytes, l->state[i].p, l->recipe.page || l->backend->mem->host};
    for (int i = 0; i < learner_states(l->st); i++)
        out[n++] = (struct entry){own_names[i], DT_F32, l->st->params.trained, l->own[i], l->backend->mem->host};
    return n;
}

static err to_host(const struct learner *l, const struct entry *x, struct tensor *t) {
    void *host = x->on_host ? x->p : pages_take(x->bytes);
    if (!host) return fail(E_MEMORY, "out of memory");
    *t = (struct tensor){.name = x->name, .dt = x->dt, .nd = 1, .d = {(int64_t)(x->bytes / 4)}, .data = host, .bytes = x->bytes};
    return x->on_host ? OK : l->backend->mem->download(host, x->p, x->bytes);
}

err optimizer_write(const struct learner *l, const char *folder) {
    char path[4096], layout[33], name[NAME_BYTES] = "";
    int32_t step = (int32_t)l->optim_steps, good = (int32_t)l->scaler.good;
    float scale = (float)l->scaler.scale;
    struct entry list[OPTIM_STATES + MAX_STATES];
    struct tensor t[OPTIM_STATES + MAX_STATES + 5] = {{0}};
    const int arenas = list_entries(l, list);
    int n = arenas;
    snprintf(name, sizeof name, "%s", l->optim->name);
    TRY(layout_hash(&l->st->params, layout));
    err e = OK;
    for (int i = 0; i < arenas && !e; i++) e = to_host(l, &list[i], &t[i]);
    t[n++] = (struct tensor){.name = "step", .dt = DT_I32, .nd = 1, .d = {1}, .data = &step, .bytes = 4};
    t[n++] = (struct tensor){.name = "layout", .dt = DT_I32, .nd = 1, .d = {8}, .data = layout, .bytes = 32};
    t[n++] = (struct tensor){.name = "optimizer", .dt = DT_I32, .nd = 1, .d = {NAME_BYTES / 4}, .data = name, .bytes = NAME_BYTES};
    if (l->scaler.scale != 0) {
        t[n++] = (struct tensor){.name = "loss_scale", .dt = DT_F32, .nd = 1, .d = {1}, .data = &scale, .bytes = 4};
        t[n++] = (struct tensor){.name = "loss_scale_good_steps", .dt = DT_I32, .nd = 1, .d = {1}, .data = &good, .bytes = 4};
    }
    snprintf(path, sizeof path, "%s/optimizer.safetensors", folder);
    if (!e) e = safetensors_write(path, t, n);
    for (int i = 0; i < arenas; i++)
        if (!list[i].on_host && t[i].data) pages_give((void *)t[i].data, list[i].bytes);
    return e;
}

/* Files of before there was a layout have the parameters in the order of their names' making, as an arena of one rate has. */
static bool layout_fits(const struct tensor *t, const struct param_set *s, const char hex[33]) {
    if (t) return t->bytes == 32 && !memcmp(t->data, hex, 32);
    for (int i = 0; i < s->n; i++)
        if (s->p[i].rate != 1) return false;
    return true;
}

static err same_optimizer(const struct tensors *ts, const struct learner *l) {
    const struct tensor *t = tensors_find(ts, "optimizer");
    if (t && (t->bytes != NAME_BYTES || !memchr(t->data, 0, NAME_BYTES))) return fail(E_INPUT, "%s: 'optimizer' is no name", ts->path);
    const char *name = t ? t->data : optimizer_adamw_torch.name;
    if (!strcmp(name, l->optim->name)) return OK;
    return fail(E_INPUT,
                "%s: these are states of optim %s, the run's is %s: go on with the same, or begin anew with the folder's adapter alone "
                "(`adapter`, without optimizer.safetensors)",
                ts->path, name, l->optim->name);
}

/* What fits this learner, before anything of it is taken over. */
static err check(const struct tensors *ts, const struct learner *l, const struct entry *list, int n) {
    char layout[33];
    TRY(layout_hash(&l->st->params, layout));
    TRY(same_optimizer(ts, l));
    const struct tensor *step = tensors_find(ts, "step");
    bool good = step && step->bytes == 4 && layout_fits(tensors_find(ts, "layout"), &l->st->params, layout);
    for (int i = 0; i < l->states; i++) {
        const struct tensor *t = tensors_find(ts, list[i].name);
        good &= t && t->bytes == list[i].bytes && t->dt == list[i].dt;
    }
    if (!good) return fail(E_INPUT, "%s: the optimizer state does not belong to this configuration", ts->path);
    for (int i = l->states; i < n; i++) {
        const struct tensor *t = tensors_find(ts, list[i].name);
        if (!t || t->bytes != list[i].bytes)
            return fail(E_INPUT, "%s: %s is missing or does not belong to this configuration", ts->path, list[i].name);
    }
    return OK;
}

static err bring_back(const struct learner *l, const struct tensors *ts, const struct tensor *t, const struct entry *e) {
    return e->on_host ? tensors_copy(ts, t->data, e->bytes, e->p) : l->backend->mem->upload(e->p, t->data, e->bytes);
}

static err take_over(struct learner *l, const struct tensors *ts, const struct entry *list, int n) {
    for (int i = 0; i < n; i++) TRY(bring_back(l, ts, tensors_find(ts, list[i].name), &list[i]));
    l->optim_steps = *(const int32_t *)tensors_find(ts, "step")->data;
    const struct tensor *scale = tensors_find(ts, "loss_scale"), *good = tensors_find(ts, "loss_scale_good_steps");
    if (scale && l->scaler.scale == 0) log_warn("%s: the loss scale of a run in float16 is ignored: only float16 has one", ts->path);
    if (l->scaler.scale != 0 && scale && good && scale->bytes == 4 && good->bytes == 4)
        l->scaler = (struct scaler){*(const float *)scale->data, *(const int32_t *)good->data, 0};
    return OK;
}

err optimizer_read(struct learner *l, const char *folder, bool *found) {
    char path[4096];
    struct tensors ts;
    struct entry list[OPTIM_STATES + MAX_STATES];
    snprintf(path, sizeof path, "%s/optimizer.safetensors", folder);
    *found = path_exists(path);
    if (!*found) return OK;
    TRY(tensors_open(path, &ts));
    list_entries(l, list);
    const int n = l->states + (l->updates > 0 ? learner_states(l->st) : 0); /* the method's own where its schedule goes on */
    err e = check(&ts, l, list, n);
    if (!e) e = take_over(l, &ts, list, n);
    tensors_close(&ts);
    return e;
}
