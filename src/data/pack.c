/* Rows end to end. See pack.h. The one subtle line is the shift: a row's weight belongs to the token that is predicted,
 * the pack's to the position that predicts it. */
#include "data/pack.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

err pack_init(struct pack *p, int cap_n, int cap_s) {
    assert(cap_n > 0 && cap_s > 0);
    size_t n = (size_t)cap_n, s = (size_t)cap_s;
    int32_t *all = calloc(4 * n + 2 * s + 1, sizeof *all); /* one block: ids, pos, label, sample, cu, last */
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
                       .weight = weight,
                       .cap_n = cap_n,
                       .cap_s = cap_s};
    return OK;
}

void pack_free(struct pack *p) {
    free(p->ids);
    free(p->weight);
    *p = (struct pack){0};
}

void pack_clear(struct pack *p) {
    p->n = p->s = 0;
    p->supervised = 0;
}

bool pack_row(struct pack *p, const struct row *r, int32_t sample) {
    assert(r->n > 0);
    if (p->s == p->cap_s || r->n > p->cap_n - p->n) return false;
    for (int i = 0; i < r->n; i++) {
        int at = p->n + i;
        bool predicts = i + 1 < r->n;
        p->ids[at] = r->ids[i];
        p->pos[at] = i;
        p->sample[at] = sample;
        p->label[at] = predicts ? r->ids[i + 1] : 0;
        p->weight[at] = predicts && r->supervised[i + 1] ? 1 : 0;
        p->supervised += p->weight[at];
    }
    p->n += r->n;
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
    for (; p->s < s; p->cu[p->s] = n) p->last[p->s++] = n - 1;
}

int pack_plan(const struct row *const *rows, int n, int cap_n, int cap_s, int *first) {
    int passes = 0, tokens = 0;
    first[0] = 0;
    for (int i = 0; i < n; i++) {
        assert(rows[i]->n <= cap_n);
        if (rows[i]->n > cap_n - tokens || i - first[passes] == cap_s) {
            first[++passes] = i;
            tokens = 0;
        }
        tokens += rows[i]->n;
    }
    if (n) first[++passes] = n;
    return passes;
}
