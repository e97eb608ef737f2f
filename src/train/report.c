/* The memory table: what the plan says, and beside it, after a run, what is resident. The plan's figures are those of the
 * plan that runs; the measured ones come from the kernel (pagemap for each arena, VmHWM for the process). */
#define _DEFAULT_SOURCE
#include "train/run.h"
#include "base/process.h"
#include "ops/ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t run_memory(const struct run *r) {
    return r->backend->mem->host ? resident_bytes("VmRSS") : r->backend->mem->taken();
}

/* A card's arenas are there as soon as they are taken. */
static size_t resident_of(const struct run *r, const void *p, size_t n) {
    return !p ? 0 : r->backend->mem->host ? resident_at(p, n) : n;
}

static size_t adapters_resident(const struct run *r, int what) {
    size_t n = 0;
    for (int i = 0; i < r->n_sides; i++) {
        const struct learner *l = &r->side[i].learner;
        if (l->st && what == 0) n += resident_of(r, l->w, param_weight_bytes(&l->st->params)) + (i ? 0 : r->wb.mem.work_bytes);
        for (int k = 0; l->st && what == 1 && !l->recipe.page && k < l->states; k++)
            n += resident_of(r, l->state[k].p, l->state[k].bytes);
        for (int k = 0; l->st && what == 1 && k < learner_states(l->st); k++) n += resident_of(r, l->own[k], l->st->params.trained);
    }
    return n;
}

static size_t base_resident(const struct run *r, const struct base *b) {
    const struct model *m = &b->model;
    if (m->random) return resident_of(r, m->reserved, m->bytes);
    size_t n = 0;
    bool all = !m->files.copied; /* what was repacked or copied for training has left the file's pages */
    for (int i = 0; i < m->n; i++) all &= !base_replaces(r, b, &m->w[i]);
    const bool maps = !base_forgets(r, b);
    for (int i = 0; maps && i < m->files.n_maps; i++) n += resident_of(r, m->files.maps[i].p, m->files.maps[i].n);
    for (int i = 0; maps && !all && i < m->files.n; i++)
        if (tensors_mapped(&m->files, m->files.t[i].data)) n -= resident_of(r, m->files.t[i].data, m->files.t[i].bytes);
    for (int i = 0; !all && i < m->n; i++) {
        const struct weight *w = &m->w[i];
        if (w->source || (base_replaces(r, b, w) && model_maps(m, w))) continue;
        n += resident_of(r, w->data, weight_bytes(w));
    }
    return n + resident_of(r, m->quantised, m->quantised_bytes);
}

static size_t weights_resident(const struct run *r) {
    size_t n = 0;
    for (int i = 0; i < bases_trained(r); i++) n += r->backend->mem->host ? base_resident(r, &r->base[i]) : r->base[i].model.residents->bytes;
    return r->backend->mem->host ? n : n - r->foot.derived;
}

/* Where the weights are; of several bases what goes for the first, and how many there are. */
static const char *weights_note(const struct run *r, char *note, size_t n) {
    const struct base *b = &r->base[0];
    const bool host = r->backend->mem->host;
    const char *what = b->model.keep           ? "on the card: the layers' matrices in fp8, for both directions, the rest as in the file"
                       : b->quantised && !host ? "on the card, quantised; the rest in the file's types"
                       : b->quantised && !b->model.random ? "quantised, in memory; the rest mapped from the file"
                       : !host                            ? "on the card, in the file's types"
                       : b->model.random                  ? "random, in memory"
                       : b->model.sizes_only              ? "as its files would have them, mapped and read-only"
                       : b->model.files.copied            ? "repacked for the kernels, in memory; the rest mapped from the file"
                                                          : "mapped from the file, read-only";
    if (bases_trained(r) == 1) return what;
    snprintf(note, n, "%d models, less what is trained itself; %s", r->n_bases, what);
    return note;
}

static const char *teacher_note(const struct run *r) {
    const struct teacher *t = &r->teacher;
    return !t->base     ? "what a pass takes of its answers, which are on disk"
           : t->shared  ? "its adapter on the student's base; no gradient, no optimizer; its passes are in the same arena"
           : !r->backend->mem->host ? "on the card, in the file's types; no gradient, no optimizer; its passes are in the same arena"
                                    : "mapped from its file, read-only; no gradient, no optimizer; its passes are in the same arena";
}

static size_t teacher_resident(const struct run *r) {
    const struct teacher *t = &r->teacher;
    const bool own = t->base && !t->shared, host = r->backend->mem->host;
    return (host ? t->bytes : t->weight_bytes) + (!own ? 0 : host ? base_resident(r, t->base) : t->base->model.residents->bytes);
}

/* What is there now of what the plan counts: the same fields, in bytes. All but the runtime's, which is what remains (beside). */
static struct footprint footprint_now(const struct run *r) {
    const struct footprint *f = &r->foot;
    const struct memory *m = &r->wb.mem;
    const bool host = r->backend->mem->host;
    const size_t states = r->generates ? m->state_off : 0; /* where in the arena the cache begins */
    struct footprint now = {.weights = weights_resident(r), .derived = f->derived, .adapters = adapters_resident(r, 0),
                            .teacher = f->teacher ? teacher_resident(r) : 0, .gradients = resident_of(r, r->wb.grad, r->wb.grad_bytes),
                            .optimizer = adapters_resident(r, 1), .cache = f->cache ? resident_of(r, m->act + states, f->cache) : 0,
                            .scratch = resident_of(r, m->scratch, m->scratch_bytes)};
    now.activations = resident_of(r, m->act, m->act_bytes) - now.cache;
    if (host) now.data = r->data_there < f->data ? r->data_there : f->data; /* what else reading has left is the runtime's */
    return now;
}

static size_t beside(const struct footprint *now, size_t all) {
    const size_t known = now->weights + now->derived + now->adapters + now->teacher + now->gradients + now->optimizer + now->activations +
                         now->cache + now->scratch + now->data;
    return all > known ? all - known : 0;
}

size_t run_beside(const struct run *r) {
    const struct footprint now = footprint_now(r);
    return beside(&now, run_memory(r));
}

/* A line of the table; `have` is what was measured, NULL where nothing was. */
static void line(json_t *list, const char *name, size_t bytes, const char *note, const size_t *have) {
    json_t *j = json_pack("{s:s, s:I, s:s}", "name", name, "bytes", (json_int_t)bytes, "note", note);
    if (have) json_object_set_new(j, "measured", json_integer((json_int_t)*have));
    json_array_append_new(list, j);
}

static json_t *memory_json(const struct run *r, bool measured) {
    const struct footprint *f = &r->foot;
    json_t *m = json_array();
    char weights[160], act[160], grad[96], kv[96];
    snprintf(act, sizeof act, "one arena for training passes of %d tokens%s", run_pass(r), r->generates ? " and for generation" : "");
    snprintf(kv, sizeof kv, "%s, inside that arena; training passes use its bytes too", dtype_info[r->cache].name);
    snprintf(grad, sizeof grad, "%s",
             r->cfg->optimizer_in_bwd ? "those alive at a time: updated in the backward pass"
             : run_joins(r)           ? "of all adapters at once"
             : r->n_sides > 1         ? "one arena, used by one adapter at a time"
                                      : "f32");
    const bool host = r->backend->mem->host;
    struct footprint now = {0};
    if (measured) {
        const size_t most = host ? resident_bytes("VmHWM") : 0;
        now = footprint_now(r);
        now.runtime = beside(&now, most > r->seen[PHASE_LOAD] ? most : run_memory(r));
    }
#define HAVE(field) (measured ? &now.field : NULL)
    line(m, "weights", f->weights, weights_note(r, weights, sizeof weights), HAVE(weights));
    if (f->derived) line(m, "derived", f->derived, "of the base's matrices: computed at the start, shared by all programs", HAVE(derived));
    line(m, "adapters", f->adapters,
         r->narrow     ? "matrices in bf16, read where they lie; vectors in f32"
         : f->working  ? "f32, and a working copy in the compute type"
         : f->finished ? "f32, and room for a finished one when it is written"
                       : "f32",
         HAVE(adapters));
    if (f->teacher) line(m, "teacher", f->teacher, teacher_note(r), HAVE(teacher));
    line(m, "gradients", f->gradients, grad, HAVE(gradients));
    if (f->checks) line(m, "checks", f->checks, "check_accumulation: two copies of the gradient, at the first step", HAVE(checks));
    str optim = {0};
    recipe_describe(r, &optim);
    line(m, "optimizer", f->optimizer, optim.p ? optim.p : "", HAVE(optimizer));
    str_free(&optim);
    line(m, "activations", f->activations, act, HAVE(activations));
    if (r->generates) line(m, "kv cache", f->cache, kv, HAVE(cache));
    line(m, "scratch", f->scratch, "largest single request", HAVE(scratch));
    if (f->beginning)
        line(m, f->reading > f->check ? "file buffers" : "check", f->beginning,
             f->reading > f->check ? "while data are read, beyond the lines above"
                                   : "what quantization_check takes before training, beyond the lines above",
             HAVE(beginning));
    if (host)
        line(m, "data", f->data, data_streams(r) ? "streamed: places of records and their order; rows are made when drawn" : "token ids and texts",
             r->data_there ? HAVE(data) : NULL);
    line(m, "runtime", f->runtime,
         host ? "program, libraries, tokenizer, the lists that programs are"
              : "inputs, the workspace of products, libraries, recorded runs",
         HAVE(runtime));
    if (f->offloaded)
        line(m, "on the host", f->offloaded, "copies of what blocks read, page-locked: not on the card, in no total",
             measured ? &r->wb.mem.host_bytes : NULL);
#undef HAVE
    return m;
}

enum { MAX_PROGRAMS = 12 }; /* of a structure */
struct named_program { const char *name; const struct program *g; };

/* The programs of a structure; returns how many. */
static int named_programs(const struct plans *p, struct named_program out[MAX_PROGRAMS]) {
    const struct named_program all[MAX_PROGRAMS] = {{"train", &p->train},
                                                    {"score", &p->score},
                                                    {"beneath", &p->beneath},
                                                    {"prefill", &p->gen.prefill},
                                                    {"decode", &p->gen.decode},
                                                    {"features", &p->body},
                                                    {"extend", &p->gen.extend},
                                                    {"copy", &p->gen.copy},
                                                    {"beam prefill", &p->beam.prefill},
                                                    {"beam decode", &p->beam.decode},
                                                    {"beam extend", &p->beam.extend},
                                                    {"beam copy", &p->beam.copy}};
    int n = 0;
    for (int k = 0; k < MAX_PROGRAMS; k++)
        if (all[k].g->p.ni) out[n++] = all[k];
    return n;
}

static json_t *program_json(const struct named_program *n) {
    return json_pack("{s:s, s:i, s:f, s:I, s:I}", "name", n->name, "instructions", n->g->p.ni, "flops", n->g->plan.flops, "act",
                     (json_int_t)n->g->plan.act, "scratch", (json_int_t)n->g->plan.scratch);
}

static json_t *programs_json(const struct run *r) {
    json_t *list = json_array();
    for (int i = 0; i < r->n_plans; i++) {
        struct named_program all[MAX_PROGRAMS];
        const int n = named_programs(&r->plans[i], all);
        for (int k = 0; k < n; k++) json_array_append_new(list, program_json(&all[k]));
    }
    for (int i = 0; i < r->n_bases; i++)
        if (r->base[i].bare.p.ni) json_array_append_new(list, program_json(&(struct named_program){"bare base", &r->base[i].bare}));
    if (r->teacher.body.p.ni) json_array_append_new(list, program_json(&(struct named_program){"teacher", &r->teacher.body}));
    if (r->teacher.best.p.ni) json_array_append_new(list, program_json(&(struct named_program){"teacher's best ids", &r->teacher.best}));
    return list;
}

static void dump(const struct named_program *n, str *out) {
    str_addf(out, "%s%s: %d instructions\n", out->n ? "\n" : "", n->name, n->g->p.ni);
    prog_print(&n->g->p, out);
}

void run_dump(const struct run *r, str *out) {
    for (int i = 0; i < r->n_plans; i++) {
        struct named_program all[MAX_PROGRAMS];
        const int n = named_programs(&r->plans[i], all);
        for (int k = 0; k < n; k++) dump(&all[k], out);
    }
    for (int i = 0; i < r->n_bases; i++)
        if (r->base[i].bare.p.ni) dump(&(struct named_program){"bare base", &r->base[i].bare}, out);
    if (r->teacher.body.p.ni) dump(&(struct named_program){"teacher", &r->teacher.body}, out);
    if (r->teacher.best.p.ni) dump(&(struct named_program){"teacher's best ids", &r->teacher.best}, out);
}

/* "Model A" where each side has its own. */
static void cycles_sentence(const struct run *r, str *out) {
    const char *who = r->objective->own_bases ? "Model" : "Adapter";
    for (int i = 0; i < r->n_sides; i++) {
        const struct side *s = &r->side[i], *to = s->next;
        const bool back = r->n_sides == 2 && i;
        str_addf(out, i ? " %s %s maps " : "%s %s maps ", who, s->name);
        if (back) str_adds(out, "back");
        else str_addf(out, "side %s to side %s", s->name, to->name);
        str_addf(out, ": it trains on real text of %s (%d lines), from text that ", to->source.path, to->n_texts);
        str_adds(out, r->objective->own_bases ? "model " : "adapter ");
        for (const struct side *w = to; w != s; w = w->next)
            str_addf(out, w == to ? "%s" : w->next == s ? " and then %s" : ", %s", w->name);
        str_addf(out, " make%s of it.", to->next == s ? "s" : "");
    }
}

static char *sentence(const struct run *r) {
    str s = {0};
    const struct side *a = &r->side[0];
    if (r->assumes) {
        str_addf(&s, "No data are given: rows of %d tokens are planned for", r->cap.tokens);
        if (r->generates) str_addf(&s, ", prompts with their answers of %d", r->cap.length);
        str_adds(&s, ".");
        return s.p;
    }
    if (r->n_sides == 1) {
        const struct structure *st = &a->plans->st;
        const bool adapts = st->method->targets || st->method->attention || st->method->sublayer || st->virtual_tokens;
        char head[64];
        if (st->head.classes) str_addf(&s, "One %s%s", head_text(&st->head, head) + 2, adapts ? " and one " : " on the frozen base"); /* without its article */
        else str_adds(&s, "One ");
        if (adapts) st->method->describe(st->settings, &s);
        if (a->plans->modules) str_addf(&s, ", %d modules", a->plans->modules);
        str_addf(&s, "%s learn%s from %s (%d rows).", adapts ? ")" : "", st->head.classes && adapts ? "" : "s", a->source.path, a->rows.n);
        if (st->lesson) teacher_describe(r, &s);
    } else {
        cycles_sentence(r, &s);
        if (r->warm_steps)
            str_addf(&s, " First, %s learn from %d pairs of %s for %lld passes.", r->n_sides == 2 ? "both" : "all", r->warm.source.n,
                     r->cfg->warmup_pairs, (long long)r->cfg->warmup_epochs);
    }
    for (int i = 0; i < r->n_guards; i++)
        str_addf(&s, i ? ", %s (%d rows)" : " Each evaluation looks at what is not to be lost: %s (%d rows)", r->guard[i].name,
                 r->guard[i].rows[0].n);
    if (r->n_guards) str_adds(&s, ".");
    return s.p;
}

static json_t *model_json(const struct model *m) {
    return json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I}", "path", m->path, "arch", model_arch(m), "random", (int)m->random,
                     "parameters", (json_int_t)m->parameters, "bytes", (json_int_t)m->bytes, "layers", (json_int_t)m->shape.layers, "width",
                     (json_int_t)m->shape.width, "vocab", (json_int_t)m->shape.vocab);
}

/* Where each side has one of its own: all of them, with the side's name. */
static json_t *models_json(const struct run *r) {
    json_t *list = json_array();
    for (int i = 0; i < r->n_bases; i++) {
        json_t *one = model_json(&r->base[i].model);
        json_object_set_new(one, "side", json_string(r->base[i].name));
        json_array_append_new(list, one);
    }
    return list;
}

json_t *run_plan_json(struct run *r, enum telling when) {
    const bool measured = when != PLANNED;
    const struct base *b = &r->base[0];
    const struct model *m = &b->model;
    json_t *sides = json_array();
    for (int i = 0; i < r->n_sides; i++) {
        const struct side *s = &r->side[i], *o = s->next ? s->next : s;
        json_t *settings = json_object();
        const struct structure *st = &s->plans->st;
        if (st->method->write(st->settings, &st->named, settings)) json_object_clear(settings);
        json_array_append_new(sides, json_pack("{s:s, s:I, s:i, s:i, s:i, s:s, s:s, s:i, s:s, s:o, s:i}", "name", s->name, "trained",
                                               (json_int_t)param_count(&st->params), "modules", s->plans->modules, "virtual_tokens",
                                               st->virtual_tokens, "vectors", st->given, "data", s->source.path ? s->source.path : "",
                                               "targets", o->source.path ? o->source.path : "", "rows", o->n_texts ? o->n_texts : o->rows.n,
                                               "method", st->method->name, "settings", settings, "longest", s->longest));
    }
    char *text = sentence(r);
    json_t *j = json_pack("{s:s, s:o, s:o, s:o, s:I, s:I, s:i, s:i, s:I, s:I, s:o}", "sentence", text ? text : "", "model", model_json(m),
                          "sides", sides, "memory", memory_json(r, measured), "total", (json_int_t)r->foot.total, "private",
                          (json_int_t)r->foot.resident, "pass_tokens", run_pass(r), "generation_batch", r->generates ? r->cap.slots : 0,
                          "steps", (json_int_t)run_total(r), "warmup_steps", (json_int_t)r->warm_steps, "programs", programs_json(r));
    json_object_set_new(j, "checkpointing", levels_json(r));
    if (r->labels.n) {
        json_t *names = json_array();
        for (int i = 0; i < r->labels.n; i++) json_array_append_new(names, json_string(r->labels.name[i]));
        json_object_set_new(j, "labels", names);
    }
    if (m->stretched) json_object_set_new(j, "positions", base_positions_json(r, b));
    if (r->plans[0].train.p.n_pieces) json_object_set_new(j, "mlp_chunk", json_integer(r->plans[0].train.p.piece_rows));
    if (r->head.classes) json_object_set_new(j, "head", json_string(head_objective(&r->head)));
    if (r->freezes) json_object_set_new(j, "features", features_json(r));
    if (b->quantised) json_object_set_new(j, "quantization", quantise_json(r, b));
    if (r->n_bases > 1) json_object_set_new(j, "models", models_json(r));
    if (r->teacher.lesson.train.share > 0) json_object_set_new(j, "teacher", teacher_json(r));
    json_object_set_new(j, "device", json_string(r->card ? r->card->name : r->backend->name));
    if (r->limit && r->limit < SIZE_MAX) json_object_set_new(j, "limit", json_integer((json_int_t)r->limit));
    if (r->assumes) json_object_set_new(j, "assumed_tokens", json_integer(r->cap.tokens));
    json_object_update_new(j, phases_json(r));
    if (measured) json_object_set_new(j, "peak_resident", json_integer((json_int_t)(r->backend->mem->host ? resident_bytes("VmHWM") : run_memory(r))));
    json_t *forecast = when != SO_FAR && (r->timed_steps || r->plans_only) ? forecast_json(r) : NULL;
    if (forecast) json_object_set_new(j, "forecast", forecast);
    free(text);
    return j;
}

/* Rows as they take time; the rest of the steps is what no op of a program took. */
static json_t *profile_json(const struct profile *p) {
    static const char *const phases[] = {"generate", "forward", "backward", "optimizer"};
    json_t *rows = json_array();
    double sum = 0;
    for (int i = 0; i < p->n; i++) {
        const struct profile_row *w = &p->row[i];
        sum += w->seconds;
        json_array_append_new(rows, json_pack("{s:s, s:s, s:I, s:f, s:f}", "phase", phases[w->phase], "what", w->what, "launches",
                                              (json_int_t)w->launches, "seconds", w->seconds, "bound_s", w->bound));
    }
    return json_pack("{s:i, s:f, s:f, s:s, s:f, s:f, s:o}", "steps", p->steps, "seconds", p->step_s, "rest_s", p->step_s - sum, "rates",
                     p->whose, "flops_per_second", p->flops, "bytes_per_second", p->bytes, "rows", rows);
}

json_t *times_json(const struct run *r) {
    return json_pack("{s:f, s:f, s:f, s:f}", "generate", r->spent[PHASE_GENERATE], "train", r->spent[PHASE_TRAIN], "evaluate",
                     r->spent[PHASE_EVALUATE], "save", r->spent[PHASE_SAVE]);
}

static json_t *report_json(struct run *r, enum telling when) {
    const bool early = r->step < run_total(r) && eval_patience_is_over(r);
    json_t *j = json_pack("{s:I, s:I, s:f, s:o, s:O, s:o, s:s, s:s, s:b}", "steps", (json_int_t)r->step, "total_steps", (json_int_t)run_total(r),
                          "seconds", r->elapsed, "times", times_json(r), "evals", r->evals, "plan", run_plan_json(r, when), "output_dir",
                          r->cfg->output_dir, "objective", r->objective->name, "stopped", r->step < run_total(r) && !early);
    if (r->profile.steps) json_object_set_new(j, "profile", profile_json(&r->profile));
    if (early) json_object_set_new(j, "ended", json_string("ended by early_stopping_patience"));
    return j;
}

json_t *run_report_json(struct run *r, enum telling when) {
    if (when != AT_END) return report_json(r, when);
    if (!r->report) r->report = report_json(r, when);
    return json_incref(r->report);
}
