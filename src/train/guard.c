/* Guards (guard.data): what a run is not to lose. Old text and old tasks are measured at each evaluation with every adapter on, beside what is trained:
 *
 *   text  each token but a document's first, as objective text measures what is held out: loss, perplexity, bits_per_byte
 *   sft   the answers of prompt/completion or conversations: loss, perplexity, accuracy of the likeliest token
 *
 * loss_rise is the loss over the run's first evaluation's, less 1: what an adapter has forgotten. Above guard.max_loss_rise the alarm "forgetting" sounds
 * (alarms.c), which on_alarm heeds, and metric_for_best_model takes any figure: guard.NAME.perplexity, in cycles guard.NAME_A.perplexity.
 *
 * Rows are made once, for each base's tokenizer, and go through the programs that evaluation has anyway; their lengths, their memory and their time are in
 * the plan. Refused: heads, which have no language model to measure; sets without a name of their own, or none that is unlike the others'; raw
 * text for an encoder-decoder. Called by run.c and evaluate.c. */
#include "train/run.h"
#include <stdlib.h>
#include <string.h>

static const struct side *first_on(const struct run *r, int base) { return r->objective->own_bases ? &r->side[base] : &r->side[0]; }

static err make_rows(struct run *r, struct guard *g, int base) {
    struct base *b = &r->base[base];
    const int length = (int)first_on(r, base)->cfg->max_length;
    if (!g->of_text) {
        TRY(rows_sft(b->tok, &g->source, length, &g->rows[base]));
        TRY(base_split_rows(b, &g->rows[base]));
    } else if (b->model.family->seq2seq)
        return fail(E_UNSUPPORTED, "an encoder-decoder (%s) has nothing to read before raw text: guard it with kind sft",
                    model_arch(&b->model));
    else TRY(rows_documents(b->tok, &g->source, length, false, &g->rows[base]));
    if (g->rows[base].longest > r->cap.tokens) r->cap.tokens = g->rows[base].longest;
    return OK;
}

static err open_one(struct run *r, const struct file_entry *e, struct guard *g) {
    *g = (struct guard){.name = e->name, .of_text = !e->kind || !strcmp(e->kind, "text")};
    const struct source_file file = {.path = e->path, .format = e->format, .field = e->field, .limit = e->limit};
    TRY(source_open_files(&file, 1, &(struct source_options){.want = g->of_text ? WANT_TEXT : WANT_SFT, .in_memory = UINT64_MAX},
                          &g->source));
    for (int i = 0; i < r->n_bases; i++) TRY(make_rows(r, g, i));
    source_drop_texts(&g->source);
    return OK;
}

err guards_open(struct run *r) {
    const struct strs *list = &r->cfg->guards;
    if (!list->n) return OK;
    r->guard = calloc((size_t)list->n, sizeof *r->guard);
    if (!r->guard) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < list->n; i++) {
        struct file_entry entry;
        TRY(config_guard(&r->cfg->mem, list->v[i], &entry));
        err e = open_one(r, &entry, &r->guard[r->n_guards++]);
        if (e) return fail_in(e, "guard %s", entry.name);
    }
    return OK;
}

void guards_close(struct run *r) {
    for (int i = 0; i < r->n_guards; i++) {
        source_close(&r->guard[i].source);
        for (int k = 0; k < CONFIG_SIDES; k++) rows_free(&r->guard[i].rows[k]);
    }
    free(r->guard);
    r->guard = NULL;
    r->n_guards = 0;
}

size_t guards_bytes(const struct run *r) {
    size_t n = 0;
    for (int i = 0; i < r->n_guards; i++) {
        n += r->guard[i].source.bytes;
        for (int k = 0; k < r->n_bases; k++) n += r->guard[i].rows[k].bytes;
    }
    return n;
}

const struct rows *guard_rows(const struct run *r, const struct guard *g, const struct side *s) { return &g->rows[s->base - r->base]; }

/* The loss of the run's first evaluation; 0: there is none. */
static double loss_at_first(const struct run *r, const char *name) {
    const json_t *g, *first = json_array_get(r->evals, 0);
    size_t i;
    json_array_foreach(json_object_get(first, "guard"), i, g) if (!strcmp(json_string_value(json_object_get(g, "name")),
                                                                          name)) return json_number_value(json_object_get(g, "loss"));
    return 0;
}

err guards_evaluate(struct run *r, json_t *eval) {
    json_t *list = json_array();
    if (r->n_guards) json_object_set(eval, "guard", list);
    json_decref(list);
    for (int i = 0; i < r->n_guards; i++) {
        const struct guard *g = &r->guard[i];
        for (int k = 0; k < r->n_sides; k++) {
            const struct side *s = &r->side[k];
            char name[64];
            snprintf(name, sizeof name, *s->name ? "%s_%s" : "%s", g->name, s->name);
            json_t *one = json_pack("{s:s, s:s, s:s}", "name", name, "guard", g->name, "side", s->name);
            const double first = loss_at_first(r, name);
            json_array_append_new(list, one);
            TRY(rows_figures(r, s, guard_rows(r, g, s), one));
            if (first > 0) json_object_set_new(one, "loss_rise", json_real(json_number_value(json_object_get(one, "loss")) / first - 1));
        }
    }
    return OK;
}
