/* See span_score.h. Both sequences are walked at once: a span is right where one begins in both at the same place with the same type and
 * the two end together. */
#include "data/span_score.h"
#include <string.h>

bool spans_are_tagged(const char *const *names, int n) {
    bool any = false;
    for (int i = 0; i < n; i++) {
        if (!strcmp(names[i], "O")) continue;
        if (!names[i][0] || !strchr("BIES", names[i][0]) || names[i][1] != '-' || !names[i][2]) return false;
        any = true;
    }
    return any;
}

static const char *type_of(const char *tag) {
    const char *rest = *tag ? tag + 1 : tag;
    return *rest == '-' ? rest + 1 : rest;
}

/* Does a span end before `tag`, the one after `last`? NULL: the sentence's ends. */
static bool ends_before(const char *last, const char *tag) {
    const char a = last ? *last : 'O', b = tag ? *tag : 'O';
    if (a == 'O' || !a) return false;
    if (a == 'E' || a == 'S' || b == 'B' || b == 'S' || b == 'O') return true;
    return strcmp(type_of(last), type_of(tag)) != 0;
}

static bool begins_at(const char *last, const char *tag) {
    const char a = last ? *last : 'O', b = *tag;
    if (b == 'O' || !b) return false;
    if (b == 'B' || b == 'S' || a == 'E' || a == 'S' || a == 'O' || !a) return true;
    return strcmp(type_of(last), type_of(tag)) != 0;
}

int spans_find(const char *const *tags, int n, struct span *out) {
    int found = 0;
    for (int i = 0; i < n; i++) {
        const char *last = i ? tags[i - 1] : NULL;
        if (begins_at(last, tags[i])) out[found++] = (struct span){type_of(tags[i]), i, i + 1};
        else if (tags[i][0] != 'O') out[found - 1].to = i + 1;
    }
    return found;
}

void spans_count(const char *const *names, const int32_t *truth, const int32_t *said, int n, struct span_counts *add) {
    bool together = false; /* a span of each has begun at one place with one type, and neither has ended */
    for (int i = 0; i <= n; i++) {
        const char *t = i < n ? names[truth[i]] : NULL, *s = i < n ? names[said[i]] : NULL;
        const char *t0 = i ? names[truth[i - 1]] : NULL, *s0 = i ? names[said[i - 1]] : NULL;
        const bool t_ends = ends_before(t0, t), s_ends = ends_before(s0, s);
        add->right += together && t_ends && s_ends;
        if (t_ends || s_ends) together = false;
        const bool t_begins = t && begins_at(t0, t), s_begins = s && begins_at(s0, s);
        add->truth += t_begins;
        add->said += s_begins;
        if (t_begins || s_begins) together = t_begins && s_begins && !strcmp(type_of(t), type_of(s));
    }
}

struct span_score spans_score(const struct span_counts *c) {
    const double right = (double)c->right;
    const int64_t both = c->truth + c->said;
    return (struct span_score){c->said ? right / (double)c->said : 0, c->truth ? right / (double)c->truth : 0, both ? 2 * right / (double)both : 0};
}
