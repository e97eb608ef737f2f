/* rollouts.safetensors of a checkpoint, beside the adapter that they train: texts that were made and not used yet (window), and the
 * replay buffer (replay), in their order. Each is one list of 32-bit words, a text after the other: how many ids the real text has, how
 * many as the trained adapter's tokenizer has it (0: the same), how many the made one, whether that ended, the bits of its
 * log-probability; then the ids. There is no file where there is nothing to keep.
 *
 * A file is hostile: each length is checked before it is used, each id against its vocabulary. See rollout.h. */
#include "train/rollout.h"
#include "base/file.h"
#include "base/str.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { HEAD = 5 };

static err flatten(const struct rollouts *from, int first, struct ids *out) {
    for (int i = first; i < from->n; i++) {
        const struct rollout *x = &from->v[i];
        int32_t bits;
        memcpy(&bits, &x->logprob, sizeof bits);
        const int32_t head[HEAD] = {(int32_t)x->real.n, (int32_t)x->answer.n, x->made.n, x->made.stopped, bits};
        for (int k = 0; k < HEAD; k++) TRY(ids_push(out, head[k]));
        for (size_t k = 0; k < x->real.n; k++) TRY(ids_push(out, x->real.v[k]));
        for (size_t k = 0; k < x->answer.n; k++) TRY(ids_push(out, x->answer.v[k]));
        for (int k = 0; k < x->made.n; k++) TRY(ids_push(out, x->made.ids[k]));
    }
    return OK;
}

static void file_name(char path[4096], const char *folder) { snprintf(path, 4096, "%s/rollouts.safetensors", folder); }

err rollout_write(const struct rollout_pool *p, const char *folder) {
    struct ids words[2] = {{0}};
    struct tensor t[2];
    char path[4096];
    static const char *const names[] = {"window", "replay"};
    int n = 0;
    err e = flatten(&p->window, p->used, &words[0]);
    if (!e) e = flatten(&p->replay, 0, &words[1]);
    for (int i = 0; i < 2; i++)
        if (words[i].n)
            t[n++] = (struct tensor){
                .name = names[i], .dt = DT_I32, .nd = 1, .d = {(int64_t)words[i].n}, .data = words[i].v, .bytes = words[i].n * 4};
    file_name(path, folder);
    if (!e && n) e = safetensors_write(path, t, n);
    ids_free(&words[0]);
    ids_free(&words[1]);
    return e;
}

static bool in_vocabulary(const int32_t *ids, int64_t n, int vocab) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab) return false;
    return true;
}

/* One text at w, of `left` words; returns how many it has, 0: it is damaged. */
static int64_t read_one(const int32_t *w, int64_t left, const int vocab[3], struct rollout *x) {
    if (left < HEAD || w[0] < 1 || w[1] < 0 || w[2] < 0 || (w[3] & ~1)) return 0;
    const int64_t all = HEAD + (int64_t)w[0] + w[1] + w[2];
    if (all > left) return 0;
    int32_t *ids = (int32_t *)w + HEAD;
    for (int k = 0; k < 3; ids += w[k++])
        if (!in_vocabulary(ids, w[k], vocab[k])) return 0;
    ids = (int32_t *)w + HEAD;
    *x = (struct rollout){.real = {ids, (size_t)w[0], 0}, .answer = {ids + w[0], (size_t)w[1], 0}, .weight = 1};
    x->made = (struct generation){.ids = ids + w[0] + w[1], .n = w[2], .stopped = w[3] != 0};
    memcpy(&x->logprob, &w[4], sizeof x->logprob);
    return isfinite(x->logprob) ? all : 0;
}

static err unflatten(const char *path, const struct tensor *t, const int vocab[3], struct rollouts *to) {
    const int32_t *w = t->data;
    const int64_t n = (int64_t)(t->bytes / 4);
    for (int64_t at = 0; at < n;) {
        struct rollout x;
        const int64_t words = read_one(w + at, n - at, vocab, &x);
        if (!words)
            return fail(E_INPUT, "%s: '%s' is damaged (at word %lld of %lld): go on from an older checkpoint", path, t->name, (long long)at,
                        (long long)n);
        TRY(rollouts_push(to, &x));
        at += words;
    }
    return OK;
}

err rollout_read(struct rollout_pool *p, const char *folder, const int vocab[3]) {
    char path[4096];
    struct tensors ts;
    rollouts_clear(&p->window);
    rollouts_clear(&p->replay);
    p->used = 0;
    file_name(path, folder);
    if (!path_exists(path)) return OK;
    TRY(tensors_open(path, &ts));
    err e = OK;
    const struct {
        const char *name;
        struct rollouts *to;
    } lists[] = {{"window", &p->window}, {"replay", &p->replay}};
    for (int i = 0; i < 2 && !e; i++) {
        const struct tensor *t = tensors_find(&ts, lists[i].name);
        if (t && t->dt != DT_I32) e = fail(E_INPUT, "%s: '%s' is no list of integers", path, t->name);
        else if (t) e = unflatten(path, t, vocab, lists[i].to);
    }
    tensors_close(&ts);
    return e;
}
