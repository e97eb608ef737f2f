/* Rows end to end. See pack.h. The one subtle line is the shift: a row's weight belongs to the token that is predicted,
 * the pack's to the position that predicts it. */
#include "data/pack.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

err pack_init(struct pack *p, int cap_n, int cap_s) {
    assert(cap_n > 0 && cap_s > 0);
    size_t n = (size_t)cap_n, s = (size_t)cap_s;
    int32_t *all = calloc(7 * n + 3 * s + 2, sizeof *all); /* one block: ids, pos, label, sample, cu, last, the source's */
    float *weight = calloc(n, sizeof *weight);
    *p = (struct pack){0};
    if (!all || !weight) {
        free(all);
        free(weight);
        return fail(E_MEMORY, "out of memory (a pack of %d tokens)", cap_n);
    }
    *p = (struct pack){.ids = all,
                       .pos = all + n,
                       .label = all + 2 * n,
                       .sample = all + 3 * n,
                       .cu = all + 4 * n,
                       .last = all + 4 * n + s + 1,
                       .src_cu = all + 4 * n + 2 * s + 1,
                       .src_ids = all + 4 * n + 3 * s + 2,
                       .src_pos = all + 5 * n + 3 * s + 2,
                       .src_sample = all + 6 * n + 3 * s + 2,
                       .weight = weight,
                       .cap_n = cap_n,
                       .cap_s = cap_s};
    return OK;
}

err pack_given(struct pack *p, int each, int width) {
    if (p->given == each && p->given_width == width) return OK;
    free(p->x);
    free(p->x_rows);
    const size_t n = (size_t)p->cap_s * (size_t)each;
    p->given = each, p->given_width = width;
    p->x = each ? calloc(n * (size_t)width, sizeof *p->x) : NULL;
    p->x_rows = each ? malloc(n * sizeof *p->x_rows) : NULL;
    if (each && (!p->x || !p->x_rows)) return fail(E_MEMORY, "out of memory (%zu vectors)", n);
    for (size_t i = 0; i < n; i++) p->x_rows[i] = (int32_t)i;
    return OK;
}

err pack_targets(struct pack *p, int targets) {
    p->targets = targets;
    p->target = calloc((size_t)p->cap_s * (size_t)targets + 1, sizeof *p->target);
    return p->target ? OK : fail(E_MEMORY, "out of memory (targets of a pack)");
}

void pack_free(struct pack *p) {
    free(p->target);
    free(p->x);
    free(p->x_rows);
    free(p->ids);
    free(p->weight);
    *p = (struct pack){0};
}

void pack_clear(struct pack *p) {
    p->n = p->s = p->m = 0;
    p->supervised = 0;
    p->lacks = false;
}

/* What position i of a row is to tell. */
static int32_t label_at(const struct pack *p, const struct row *r, int i) {
    if (r->target) return p->s;
    if (r->labels) return r->supervised[i] ? r->labels[i] - 1 : 0;
    return r->label ? r->label - 1 : i + 1 < r->n ? r->ids[i + 1] : 0;
}

bool pack_row(struct pack *p, const struct row *r, int32_t sample) {
    assert(r->n > r->source);
    if (p->s == p->cap_s || r->n + p->virtual_tokens > p->cap_n - p->n - (p->given ? 0 : p->m)) return false;
    for (int i = 0; i < r->source; i++) p->src_ids[p->m + i] = r->ids[i], p->src_pos[p->m + i] = i, p->src_sample[p->m + i] = sample;
    p->m += r->source;
    p->src_cu[p->s + 1] = p->m;
    const int32_t *ids = r->ids + r->source;
    const float weight = r->weight > 0 ? r->weight : 1;
    const int n = r->n - r->source, before = p->virtual_tokens, first = p->virtual_first + (p->given ? p->m : 0);
    for (int i = 0; i < before; i++) {
        const int at = p->n + i;
        p->ids[at] = first + i;
        p->pos[at] = i;
        p->sample[at] = sample;
        p->label[at] = 0;
        p->weight[at] = 0;
    }
    for (int i = 0; i < n; i++) {
        int at = p->n + before + i;
        const bool of_head = r->label || r->labels || r->target, predicts = i + 1 < n;
        p->ids[at] = ids[i];
        p->pos[at] = before + i;
        p->sample[at] = sample;
        p->label[at] = label_at(p, r, r->source + i);
        p->weight[at] = (of_head ? r->supervised[r->source + i] : predicts && r->supervised[r->source + i + 1]) ? weight : 0;
        p->supervised += p->weight[at];
    }
    const size_t numbers = (size_t)p->given * (size_t)p->given_width;
    if (p->given && r->given) memcpy(p->x + (size_t)p->m * (size_t)p->given_width, r->given, numbers * sizeof *p->x);
    p->lacks |= p->given && !r->given;
    p->m += p->given;
    if (r->target && p->target) memcpy(p->target + (size_t)p->s * (size_t)p->targets, r->target, (size_t)p->targets * sizeof *p->target);
    p->n += before + n;
    p->last[p->s++] = p->n - 1;
    p->cu[p->s] = p->n;
    return true;
}

void pack_pad(struct pack *p, int n, int s) {
    assert(n <= p->cap_n && s <= p->cap_s && (s > p->s || n == p->n));
    for (int i = p->n; i < n; i++) {
        p->ids[i] = p->label[i] = p->sample[i] = 0;
        p->pos[i] = i - p->n;
        p->weight[i] = 0;
    }
    p->n = n;
    for (; p->s < s; p->cu[p->s] = n, p->src_cu[p->s] = p->m) p->last[p->s++] = n - 1;
}

int pack_plan(const struct row *const *rows, int n, int virtual_tokens, int cap_n, int cap_s, int *first) {
    int passes = 0, tokens = 0;
    first[0] = 0;
    for (int i = 0; i < n; i++) {
        const int len = rows[i]->n + virtual_tokens;
        assert(len <= cap_n);
        if (len > cap_n - tokens || i - first[passes] == cap_s) {
            first[++passes] = i;
            tokens = 0;
        }
        tokens += len;
    }
    if (n) first[++passes] = n;
    return passes;
}
