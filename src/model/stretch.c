/* RoPE as a run asks for it, in place of what the model's files say: a context is extended by a rope_scaling of the configuration, in the words
 * of config.json. What was asked stays with the model as a text (m->stretched), which lies beside the adapters that are trained so
 * (rope_scaling.json, gen/adapter.c) and is asked again wherever they are opened; export/ writes it into what it merges.
 *
 * The context that comes of it: factor times the original one; of `dynamic`, and of `default` (positions that simply run on), what the run is
 * planned for. Layers with a window of their own table (Gemma 3) keep it, as such models were extended.
 *
 * Refused: models that do not rotate; another stretching of a model that has one. Called by train, api and export. */
#include "model/family.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT = JSON_INDENT(2) | JSON_REAL_PRECISION(12) };

bool model_rotates(const struct model *m) { return m->rope[0].dims > 0; }

static bool is(const struct rope_scaling *s, const char *type) { return s->type && !strcmp(s->type, type); }

static err refuse(const struct model *m) {
    return fail(E_USAGE, "rope_scaling: %s (%s) has no rotary positions that could be stretched%s", m->path, model_arch(m),
                m->shape.hard_context ? ": its table of positions has an end" : "");
}

/* The context that the frequencies are made from: what is said, what the files stretch from, or all that they know. */
static double original_of(const struct rope_table *t, double said) {
    return said > 0 ? said : t->scaling.type && t->scaling.original > 0 ? t->scaling.original : (double)t->scaling.context;
}

static err ask(struct model *m, const json_t *asked, int64_t longest, struct rope_table *t) {
    struct rope_scaling s;
    TRY(rope_scaling_read(m, asked, "rope_scaling", t->dims, &s));
    s.original = original_of(t, s.original);
    const double context = !s.type || is(&s, "dynamic") ? fmax((double)longest, s.type ? s.original : (double)t->scaling.context)
                                                        : round(s.factor * s.original);
    if (is(&s, "longrope") && !(s.factor >= 1)) return fail(E_USAGE, "rope_scaling: 'longrope' without a factor");
    if (!(context < 1 << 30)) return fail(E_USAGE, "rope_scaling: a context of %g tokens is out of range", context);
    t->own_base = real_json_or(asked, "rope_theta", t->own_base);
    if (!(t->own_base > 1)) return fail(E_USAGE, "rope_scaling: rope_theta %g is out of range", t->own_base);
    m->shape.context = s.context = (int64_t)context;
    m->shape.hard_context = false;
    t->scaling = s;
    return rope_make(m, "rope_scaling", longest, t);
}

/* asked NULL: does the file's own scaling give another table at this length? */
static err reach(struct model *m, int64_t longest, struct rope_table *t, bool *other) {
    const struct rope_scaling *s = &t->scaling;
    if (!(is(s, "dynamic") || (is(s, "longrope") && s->divide_long)) || (double)longest <= s->original) return OK;
    *other = true;
    if (is(s, "dynamic") && longest > m->shape.context) m->shape.context = longest;
    return rope_make(m, m->path, longest, t);
}

static err note(struct model *m, const json_t *asked, int64_t longest) {
    json_t *scaling = asked ? json_deep_copy(asked) : json_null();
    if (asked && m->rope[0].scaling.type)
        json_object_set_new(scaling, "original_max_position_embeddings", json_integer((json_int_t)m->rope[0].scaling.original));
    json_t *j = json_pack("{s:o, s:I}", "rope_scaling", scaling, "length", (json_int_t)longest);
    char *text = j ? json_dumps(j, TEXT) : NULL;
    m->stretched = text ? arena_str(&m->mem, text) : NULL;
    free(text);
    json_decref(j);
    return m->stretched ? OK : fail(E_MEMORY, "out of memory");
}

err model_stretch(struct model *m, const void *asked, int64_t longest) {
    bool other = asked != NULL;
    if (asked && !model_rotates(m)) return refuse(m);
    for (int i = 0; i < 2; i++) {
        struct rope_table *t = &m->rope[i];
        if (!t->dims || t->local) continue;
        TRY(asked ? ask(m, asked, longest, t) : reach(m, longest, t, &other));
    }
    return other ? note(m, asked, longest) : OK;
}

err model_stretch_as(struct model *m, const char *text, bool asked, const char *where) {
    json_error_t at;
    json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, &at), *scaling = json_object_get(j, "rope_scaling");
    const json_int_t length = json_integer_value(json_object_get(j, "length"));
    err e = OK;
    if (!j) return fail(E_INPUT, "%s: %s (line %d)", where, at.text, at.line);
    if ((!json_is_object(scaling) && !json_is_null(scaling)) || length < 0 || length > 1 << 30)
        e = fail(E_INPUT, "%s: not a record of how RoPE was stretched (rope_scaling, length)", where);
    else if (m->stretched) {
        char *again = json_dumps(j, TEXT);
        if (!again || strcmp(again, m->stretched))
            e = fail(E_USAGE,
                     "%s: its adapter was trained with RoPE stretched otherwise than what %s is stretched by now: one model at a time",
                     where, m->path);
        free(again);
    } else if (json_is_object(scaling) || !asked) e = model_stretch(m, json_is_object(scaling) ? scaling : NULL, length);
    json_decref(j);
    return e;
}
