/* See export.h. */
#include "export/export.h"
#include "base/file.h"
#include "base/log.h"
#include "base/nf4.h"
#include "base/process.h"
#include "export/check.h"
#include "export/crossing.h"
#include "export/lora_out.h"
#include "export/place.h"
#include "export/untie.h"
#include "gen/generate.h"
#include "gen/likeness.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const size_t SHARD_BYTES = 5000000000; /* transformers' own default was 5 GB for long: any file system takes that */

enum form_kind { KIND_LORA, KIND_HF, KIND_GGUF };
static const struct form {
    const char *name;
    enum form_kind kind;
    enum lora_form lora;
    bool file;
} forms[] = {{"peft", KIND_LORA, FORM_PEFT, false},
             {"gguf-lora", KIND_LORA, FORM_GGUF, true},
             {"mlx", KIND_LORA, FORM_MLX, false},
             {"hf", KIND_HF, 0, false},
             {"gguf", KIND_GGUF, 0, true}};
enum { N_FORMS = sizeof forms / sizeof *forms };

static const struct form *form_of(const char *to) {
    for (int i = 0; i < N_FORMS; i++)
        if (!strcmp(forms[i].name, to)) return &forms[i];
    return NULL;
}

bool export_is_file(const char *to) { return form_of(to) && form_of(to)->file; }

err export_known(const char *to) {
    return form_of(to) ? OK : fail(E_USAGE, "'%s' is nothing to export to; peft, gguf-lora, mlx, hf and gguf are", to);
}

/* Everything of one export while it lasts. */
struct job {
    const struct export_request *r;
    const struct form *form;
    struct model base, whole; /* with cut: a part of whole, which is not open else */
    tokenizer *tok;
    struct deltas deltas;
    struct structure st; /* the adapter for the graph */
    float *weights;
    struct items items;   /* of a model */
    dtype *to;            /* by rules: a type for each of the base's weights; NULL: without */
    struct lora_out lora; /* of an adapter */
    struct gguf_keys keys;
    struct tensors_out out;
    struct place place;
    struct check check;
    struct progress progress;
    size_t write_bytes, check_bytes, kept_bytes, total;
    char hash[33]; /* of the base as its files have it */
    json_t *report;
};

/* --- opening --------------------------------------------------------------------------------------------------------- */
/* The base's tokenizer, for readable check rows and metadata; a model may be without. */
static void open_tokenizer(struct job *j) {
    char path[4096];
    if (j->base.random) return;
    snprintf(path, sizeof path, "%s/tokenizer.json", j->r->base);
    err e = j->base.gguf ? tokenizer_from_gguf(&j->base.files, &j->tok) : path_exists(path) ? tokenizer_from_json(path, &j->tok) : OK;
    if (e) j->tok = NULL;
}

static err check_hash(const struct job *j) {
    const char *hash = j->hash;
    if (!j->r->hash || j->base.random || !strcmp(hash, j->r->hash)) return OK;
    if (j->r->hash_binds)
        return fail(
            E_USAGE,
            "%s is no longer the base that %s was trained on: its tensors hash to %s, in training to %s; name the right base with --model",
            j->r->base, j->r->adapter, hash, j->r->hash);
    log_warn("%s is not the file that %s was trained on (its tensors hash to %s, in training to %s): right for the same model in another "
             "form, wrong otherwise",
             j->r->base, j->r->adapter, hash, j->r->hash);
    return OK;
}

static err undo(struct job *j) {
    if (j->form->kind == KIND_LORA) return fail(E_USAGE, "a merge is undone into a model, not into %s", j->form->name);
    if (j->r->type && !dtype_plain(j->r->type))
        return fail(E_UNSUPPORTED, "--type %s: a merge is undone in plain types alone (f32, f16, bf16): `cyclora convert` makes others",
                    dtype_info[j->r->type].name);
    if (j->r->like) {
        struct model like;
        TRY(model_open(j->r->like, NULL, &like));
        err e = untie_for(j->r->adapter, &like);
        if (!e) e = check_alike(&like, &j->deltas);
        model_close(&like);
        if (e) return e;
    }
    return deltas_undo(&j->deltas, &j->base);
}

static bool headed(const struct job *j) { return j->r->adapter && j->deltas.head.classes; }

/* Where a head that was trained beside an adapter goes. */
static err place_head(const struct job *j) {
    char what[64];
    if (!headed(j) || (j->form->kind == KIND_HF && !j->r->undo)) return OK;
    return fail(E_UNSUPPORTED,
                "%s holds %s: %s has no place for it; `cyclora merge` makes a Hugging Face folder of base, adapter and head, and `cyclora "
                "classify` and PEFT take the adapter as it is",
                j->r->adapter, head_text(&j->deltas.head, what), j->r->undo ? "what a merge is taken back to" : j->form->name);
}

/* Is there a graph with the adapter in it? Not of a head alone, which changes nothing below it, nor of an encoder, which gives no logits. */
static bool in_graph(const struct job *j) { return j->r->adapter && j->deltas.n && !j->base.family->encoder; }

static err open_base(struct job *j) {
    struct model *m = j->r->cut ? &j->whole : &j->base;
    TRY(model_open(j->r->base, j->r->base_config, m));
    TRY(model_fill(m));
    return j->r->cut ? model_cut(m, j->r->cut, &j->base) : OK;
}

static err open_job(struct job *j) {
    TRY(open_base(j));
    open_tokenizer(j);
    if (j->r->rules) {
        j->to = arena_alloc(&j->base.mem, (size_t)j->base.n * sizeof *j->to + 1);
        if (!j->to) return fail(E_MEMORY, "out of memory");
        TRY(rules_apply(j->r->rules, &j->base, j->to));
        j->base.nested = j->r->rules->nested;
    }
    if (!j->r->adapter) return j->form->kind == KIND_LORA ? fail(E_USAGE, "--to %s needs an adapter", j->form->name) : OK;
    if (j->r->hash && !j->base.random) model_hash(&j->base, j->hash);
    TRY(untie_for(j->r->adapter, &j->base));
    if (!j->r->undo) TRY(adapter_stretch(j->r->adapter, true, &j->base)); /* a merged base is so by its own files */
    TRY(deltas_open(j->r->adapter, &j->base, &j->deltas));
    TRY(place_head(j));
    if (j->form->kind == KIND_LORA && j->base.stretched)
        log_warn("%s was trained with the base's RoPE stretched (rope_scaling.json), which %s cannot say: whoever serves it must stretch the "
                 "base so",
                 j->r->adapter, j->form->name);
    if (j->r->undo) TRY(undo(j));
    else TRY(check_hash(j));
    err e = in_graph(j) ? deltas_structure(&j->deltas, &j->base, &j->st, &j->weights) : OK;
    return e ? fail_in(e, "%s", j->r->adapter) : OK;
}

static void close_job(struct job *j) {
    tensors_out_abandon(&j->out);
    place_abandon(&j->place);
    check_close(&j->check);
    gguf_keys_free(&j->keys);
    lora_out_free(&j->lora);
    items_free(&j->items);
    if (j->weights) arena_f32_free(j->weights, j->st.params.bytes);
    structure_free(&j->st);
    deltas_close(&j->deltas);
    if (j->tok) tokenizer_free(j->tok);
    model_close(&j->base);
    model_close(&j->whole);
}

/* What texts compare the output with. */
static const struct model *reference_of(const struct job *j) { return j->r->cut ? &j->whole : &j->base; }

/* --- planning -------------------------------------------------------------------------------------------------------- */
static const struct deltas *deltas_or_null(const struct job *j) { return j->r->adapter ? &j->deltas : NULL; }
static struct structure *structure_or_null(struct job *j) { return in_graph(j) ? &j->st : NULL; }

/* The header is made twice: here for its size, and in begin() for the place that is known by then. */
static err begin(struct job *j, const char *path, struct tensors_out *out) {
    size_t shard = j->r->max_shard ? j->r->max_shard : SHARD_BYTES;
    if (j->form->kind == KIND_LORA) return lora_out_begin(&j->lora, path, out);
    if (j->form->kind == KIND_HF) return tensors_out_safetensors(out, path, j->items.t, j->items.n_t, shard);
    return tensors_out_gguf(out, path, &j->keys, j->items.t, j->items.n_t);
}

static err plan_output(struct job *j) {
    const struct deltas *d = deltas_or_null(j);
    if (j->form->kind == KIND_LORA && j->deltas.made && j->form->lora == FORM_PEFT)
        return fail(E_USAGE, "%s: PEFT takes this %s adapter as it is", j->r->adapter, j->deltas.method->name);
    if (j->form->kind == KIND_LORA && j->deltas.method && !j->deltas.made)
        return fail(E_UNSUPPORTED,
                    "%s: tensors of the base were trained (%s), for which %s has no form: `cyclora merge` puts them into a model",
                    j->r->adapter, j->deltas.method->name, j->form->name);
    if (j->form->kind == KIND_LORA) {
        TRY(lora_out_plan(&j->lora, j->form->lora, &j->base, d, j->r->type));
        j->write_bytes = lora_out_bytes(&j->lora);
    } else if (j->form->kind == KIND_HF) {
        TRY(items_plan_hf(&j->items, &j->base, d, j->r->type, j->to));
    } else {
        TRY(items_plan_gguf(&j->items, &j->base, d, j->r->type, j->to));
        TRY(metadata_make(&j->base, j->items.type, &j->keys));
    }
    if (j->form->kind != KIND_LORA) j->write_bytes = items_write_bytes(&j->items);
    struct tensors_out probe;
    TRY(begin(j, j->r->out, &probe));
    j->total = probe.total;
    tensors_out_abandon(&probe);
    return OK;
}

/* What tokenizer.json is made in: the JSON's objects, its text, and the tokenizer that is read back; measured on vocabularies of 49,152 and
 * 128,256 as below 700 bytes for a token and its merge. */
static size_t tokenizer_json_bytes(const struct job *j) {
    return j->base.gguf && j->form->kind == KIND_HF && j->tok ? 700 * (size_t)tokenizer_vocab(j->tok) : 0;
}

/* Programs, plans, JSON, the heap's own: measured below 0.6 MB on models of 3 layers. */
enum { RUNTIME = 1 << 20, LAYER = 64 << 10 };

err export_merge_plan(const struct model *m, struct structure *st, int64_t rank, struct merge_plan *out) {
    struct check c;
    *out = (struct merge_plan){.write = items_merge_bytes(m, rank)};
    err e = check_open(&c, m, NULL);
    if (!e) e = check_bytes(&c, m, st, &out->check);
    out->kept = st->params.bytes + RUNTIME + LAYER * (size_t)m->shape.layers + (size_t)c.n * (size_t)c.vocab * 4;
    check_close(&c);
    return e;
}

/* What is there already is looked up; the reference's logits are still to come and stay, then either the output's buffers or a pass
 * over it. A reopened adapter is there twice for a moment, its rows as they were read and the structure. */
static err plan_memory(struct job *j) {
    if (!j->r->unchecked) {
        TRY(check_open(&j->check, &j->base, j->tok));
        TRY(check_bytes(&j->check, &j->base, structure_or_null(j), &j->check_bytes));
        if (model_picked(&j->base)) j->check.runs = false, j->check_bytes = 0; /* it runs when it is written: no logits to compare with */
        else if (!j->check.runs) {
            log_warn("%s: it gives no logits for rows of tokens alone: weights are checked, logits are not", j->base.path);
            j->check_bytes = 0;
        } else {
            j->kept_bytes = (size_t)j->check.n * (size_t)j->check.vocab * 4;
        }
        if (j->form->kind == KIND_LORA) j->check_bytes += 3 * deltas_pair_bytes(&j->deltas);
    }
    const bool reopened = !j->r->unchecked || j->r->n_texts;
    for (int i = 0; i < j->base.n && j->to && reopened; i++) { /* then NF4 is repacked */
        const int64_t *d = j->base.w[i].d;
        if (j->to[i] == DT_NF4) j->check_bytes += dtype_row_bytes(nf4_kept(DT_NF4, j->base.nested, d[1]), d[1]) * (size_t)d[0];
    }
    if (j->r->n_texts) {
        size_t bytes;
        TRY(likeness_bytes(reference_of(j), &j->base, &bytes));
        j->check_bytes += bytes;
    }
    j->write_bytes += tokenizer_json_bytes(j);
    j->kept_bytes += RUNTIME + LAYER * (size_t)j->base.shape.layers;
    progress_memory(&j->progress);
    j->kept_bytes += j->progress.peak - j->progress.before;
    return OK;
}

/* Tensors that are parts of one in NF4 count as that. */
static json_t *types_json(const struct tensor *t, int n) {
    json_int_t bytes[DT_ALL] = {0};
    json_t *j = json_object();
    for (int i = 0; i < n; i++) bytes[t[i].dt || !t[i].stored ? t[i].dt : DT_NF4] += (json_int_t)t[i].bytes;
    for (int i = 0; i < DT_ALL; i++)
        if (bytes[i]) json_object_set_new(j, dtype_info[i].name, json_integer(bytes[i]));
    return j;
}

static size_t planned_peak(const struct job *j) {
    return j->kept_bytes + (j->write_bytes > j->check_bytes ? j->write_bytes : j->check_bytes);
}

static void plan_json(struct job *j) {
    const struct tensor *t = j->form->kind == KIND_LORA ? j->lora.t : j->items.t;
    int n = j->form->kind == KIND_LORA ? j->lora.n : j->items.n_t;
    json_t *o = j->report;
    json_object_update_new(o, json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:i, s:I, s:o}", "to", j->form->name, "base", j->base.path,
                                        "architecture", j->base.family->name, "parameters", (json_int_t)reference_of(j)->parameters, "base_bytes",
                                        (json_int_t)reference_of(j)->bytes, "path", j->r->out, "tensors", n, "bytes", (json_int_t)j->total, "types",
                                        types_json(t, n)));
    if (j->r->adapter)
        json_object_set_new(o, "adapter",
                            json_pack("{s:s, s:s, s:b, s:i, s:i, s:f, s:b, s:b, s:b}", "path", j->r->adapter, "method",
                                      j->deltas.method ? j->deltas.method->name : "lora", "products", !j->deltas.method || j->deltas.made,
                                      "modules", j->deltas.n, "rank", j->deltas.max_rank, "alpha", j->deltas.alpha, "rslora",
                                      j->deltas.rslora, "dora", j->deltas.dora, "patterns", j->deltas.patterns));
    char head[64];
    if (headed(j))
        json_object_set_new(o, "head", json_pack("{s:s, s:s}", "is", head_text(&j->deltas.head, head), "module", j->deltas.head_module));
    if (j->r->undo) json_object_set_new(o, "undo", json_true());
    if (j->r->cut) json_object_set_new(o, "parameters_after", json_integer((json_int_t)j->base.parameters));
    json_object_set_new(o, "memory",
                        json_pack("{s:I, s:I, s:I, s:I}", "planned", (json_int_t)planned_peak(j), "kept", (json_int_t)j->kept_bytes,
                                  "write", (json_int_t)j->write_bytes, "check", (json_int_t)j->check_bytes));
    if (j->r->on_plan) j->r->on_plan(j->r->progress.ctx, o);
}

/* --- writing --------------------------------------------------------------------------------------------------------- */
static err write_output(struct job *j) {
    double start = seconds_now();
    const char *at = j->place.tmp;
    TRY(begin(j, at, &j->out));
    err e = j->form->kind == KIND_LORA ? lora_out_write(&j->lora, &j->out, &j->progress) : items_write(&j->items, &j->out, &j->progress);
    if (!e) e = tensors_out_commit(&j->out);
    if (!e && j->form->kind == KIND_LORA) e = lora_out_finish(&j->lora, at);
    const struct folder_form f = {j->items.type, headed(j) ? &j->deltas.head : NULL, j->to};
    if (!e && j->form->kind == KIND_HF) e = folder_make(&j->base, &f, at);
    progress_memory(&j->progress);
    double took = seconds_now() - start;
    json_object_set_new(j->report, "seconds", json_real(took));
    json_object_set_new(j->report, "bytes_per_second", json_real((double)j->total / (took > 0 ? took : 1e-9)));
    return e;
}

/* How near an undone merge came to its base. */
static err compare_like(const struct job *j, const struct model *written) {
    struct model like;
    TRY(model_open(j->r->like, NULL, &like));
    err e = untie_for(j->r->adapter, &like);
    if (!e) e = check_same(&like, &j->deltas, written, j->report);
    model_close(&like);
    return e;
}

/* What quantising or pruning has cost. */
static err compare_texts(const struct job *j, const struct model *written) {
    struct likeness l;
    TRY(likeness_measure(reference_of(j), written, j->r->texts, j->r->n_texts, j->r->most_tokens, j->r->progress.stop, &l));
    json_object_set_new(j->report, "likeness",
                        json_pack("{s:I, s:f, s:f, s:f, s:f, s:I}", "tokens", (json_int_t)l.tokens, "mean_kl", l.kl, "worst_kl", l.kl_worst,
                                  "perplexity_base", exp(l.nll[0]), "perplexity", exp(l.nll[1]), "same_top", (json_int_t)l.same_top));
    return OK;
}

/* What explains differences in the logits: of several types the one with the fewest bits. */
static dtype coarsest(const struct job *j) {
    dtype least = j->to ? DT_F32 : j->items.type;
    for (int i = 0; i < j->base.n && j->to; i++)
        if (j->to[i] && dtype_info[j->to[i]].bytes * dtype_info[least].block < dtype_info[least].bytes * dtype_info[j->to[i]].block) least = j->to[i];
    return least;
}

/* What was written, opened from its bytes: an adapter on the base again, or a model. */
static err check_output(struct job *j) {
    if (j->form->kind != KIND_LORA) {
        struct model m;
        err e = model_open(j->place.tmp, NULL, &m);
        if (e) return fail_in(e, "what was written cannot be read");
        e = check_weights(&j->base, deltas_or_null(j), &m, j->report);
        if (!e && headed(j)) e = check_head(&j->deltas, &m);
        if (!e && j->check.runs) e = check_written(&j->check, &m, NULL, NULL, coarsest(j), j->report);
        if (!e && j->r->like) e = compare_like(j, &m);
        if (!e && j->r->n_texts) e = compare_texts(j, &m);
        progress_memory(&j->progress);
        model_close(&m);
        return e;
    }
    struct deltas back;
    struct structure st = {0};
    float *weights = NULL;
    err e = lora_out_reopen(&j->lora, j->place.tmp, &back);
    if (e) return fail_in(e, "what was written cannot be read");
    e = deltas_structure(&back, &j->base, &st, &weights);
    if (!e && j->check.runs) e = check_written(&j->check, &j->base, &st, weights, j->lora.type, j->report);
    progress_memory(&j->progress);
    if (weights) arena_f32_free(weights, st.params.bytes);
    structure_free(&st);
    deltas_close(&back);
    return e;
}

static void forget_base(const struct job *j) {
    for (int i = 0; i < j->base.files.n_maps; i++) pages_forget(j->base.files.maps[i].p, j->base.files.maps[i].n);
}

static err run_job(struct job *j) {
    TRY(open_job(j));
    TRY(plan_output(j));
    TRY(plan_memory(j));
    TRY(place_open(&j->place, j->r->out, !j->form->file, j->r->force, j->total));
    plan_json(j);
    if (j->check.runs) TRY(check_reference(&j->check, &j->base, structure_or_null(j), j->weights));
    progress_memory(&j->progress);
    forget_base(j);
    TRY(write_output(j));
    if (!j->r->unchecked || j->r->n_texts) TRY(check_output(j));
    TRY(place_publish(&j->place));
    return OK;
}

err export_one(const struct export_request *r, json_t **report) {
    struct job j = {.r = r, .form = form_of(r->to), .progress = r->progress, .report = json_object()};
    *report = j.report;
    TRY(export_known(r->to));
    if (!j.report) return fail(E_MEMORY, "out of memory");
    j.progress.before = resident_bytes("RssAnon");
    err e = run_job(&j);
    json_t *memory = json_object_get(j.report, "memory");
    if (memory)
        json_object_set_new(memory, "peak",
                            json_integer((json_int_t)(j.progress.peak > j.progress.before ? j.progress.peak - j.progress.before : 0)));
    close_job(&j);
    return e;
}
