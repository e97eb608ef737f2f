/* See teacher.h. */
#include "train/run.h"
#include "base/log.h"
#include "base/philox.h"
#include <stdlib.h>
#include <string.h>

/* --- which one ------------------------------------------------------------------------------------------------------- */
static bool teaches(const struct run *r) { return *r->cfg->teacher_model || *r->cfg->teacher_adapter; }

static const char *teacher_name(const struct run *r) { return *r->cfg->teacher_model ? r->cfg->teacher_model : r->cfg->side[0].model; }

static err readable(const struct base *b, const char *who) {
    const struct family *f = b->model.family;
    if (!f->seq2seq && !f->encoder) return OK;
    return fail(E_UNSUPPORTED, "%s is an encoder%s (%s): the %s of a distillation is a decoder, which says of each token what comes next",
                b->cfg->model, f->seq2seq ? "-decoder" : "", model_arch(&b->model), who);
}

err teacher_reads(const struct base *b) { return readable(b, "teacher"); }

/* Of how many ids are the two the same? *first: one that is not; -1: none. */
static int same_tokens(const tokenizer *a, const tokenizer *b, int n, int32_t *first) {
    int same = 0;
    *first = -1;
    for (int32_t i = 0; i < n; i++) {
        const char *x = tokenizer_token(a, i), *y = tokenizer_token(b, i);
        if (x && y ? !strcmp(x, y) : x == y) same++;
        else if (*first < 0) *first = i;
    }
    return same;
}

/* The student's ids must be the teacher's first ones, or all of them. */
static err vocabularies(const struct base *s, const struct base *t) {
    const long long rows = s->model.shape.vocab, of = t->model.shape.vocab;
    if (of < rows)
        return fail(E_USAGE,
                    "the teacher %s has %lld rows of output, the student %s has %lld: it says nothing of the last %lld ids. A student's "
                    "vocabulary must be "
                    "the teacher's, or its beginning",
                    t->cfg->model, of, s->cfg->model, rows, rows - of);
    if (!s->tok || !t->tok || base_same_ids(s, t)) return OK;
    const int n = tokenizer_vocab(s->tok), m = tokenizer_vocab(t->tok), most = n < m ? n : m;
    int32_t first;
    const int same = same_tokens(s->tok, t->tok, most, &first);
    if (same < most || n > m)
        return fail(E_USAGE,
                    "the teacher %s has another vocabulary than the student %s: of %d and %d tokens %d have the same id%s%s%s. "
                    "Distillation compares token by token: "
                    "take a teacher of the same family",
                    t->cfg->model, s->cfg->model, m, n, same, first < 0 ? "" : ", and not '",
                    first < 0                        ? ""
                    : tokenizer_token(s->tok, first) ? tokenizer_token(s->tok, first)
                                                     : "",
                    first < 0 ? "" : "'");
    log_info("the student's %d tokens are the first of the teacher's %d: its ids go to the teacher as they are, and what that says of "
             "others is left out",
             n, m);
    return OK;
}

/* --- opening ---------------------------------------------------------------------------------------------------------- */
static void ask_for(struct run *r) {
    const struct config *c = r->cfg;
    struct lesson *l = &r->teacher.lesson;
    const float beta = !strcmp(c->distill_loss, "forward_kl") ? 0 : !strcmp(c->distill_loss, "reverse_kl") ? 1 : (float)c->distill_beta;
    *l = (struct lesson){.top = (int)c->distill_top_k,
                         .train = {.share = (float)c->distill_alpha,
                                   .beta = beta,
                                   .temperature = (float)c->distill_temperature,
                                   .hidden = (float)c->distill_hidden},
                         .score = {.share = 1, .temperature = 1}}; /* evaluations say KL(teacher || student) as it is */
}

static err open_adapter(struct run *r) {
    struct teacher *t = &r->teacher;
    const char *folder = r->cfg->teacher_adapter;
    const struct peft_method *method;
    const void *settings;
    struct head head;
    struct model *m = &t->base->model;
    TRY(adapter_check_base(folder, m));
    if (t->shared) base_heed_adapter(t->base, folder);
    else TRY(adapter_stretch(folder, false, m));
    TRY(adapter_read_config(folder, &t->mem, &method, &settings));
    TRY(adapter_read_head(folder, &t->mem, &head));
    if (head.classes) return fail(E_USAGE, "%s has a classifier: it does not say which token comes next", folder);
    TRY(structure_init(&t->st, m, method, settings, NULL));
    if (t->st.given) return fail(E_USAGE, "%s reads vectors beside each text, which the student's rows have not", folder);
    if (program_head_is_base(m, &t->st)) return OK;
    return fail(E_UNSUPPORTED,
                "%s changes the output projection (%s): merge it into its base (cyclora merge) and name the result as teacher.model",
                folder, method->name);
}

err teacher_open(struct run *r, const struct plan_ask *ask) {
    struct teacher *t = &r->teacher;
    const struct base *like = ask->like && ask->like->teacher.base && !ask->like->teacher.shared ? ask->like->teacher.base : NULL;
    if (!teaches(r)) return OK;
    ask_for(r);
    if (r->cfg->distill_on_policy > 0) r->generates = true;
    TRY(readable(&r->base[0], "student"));
    if (ask->like && ask->like->teacher.answers.found) return OK; /* neither has one */
    t->cfg = *r->side[0].cfg;
    t->shared = !strcmp(teacher_name(r), t->cfg.model) && !r->base[0].quantised;
    t->base = &r->base[t->shared ? 0 : r->n_bases];
    if (!t->shared) {
        t->cfg.model = teacher_name(r);
        t->cfg.tokenizer = !strcmp(t->cfg.model, r->side[0].cfg->model) ? t->cfg.tokenizer : r->cfg->teacher_tokenizer;
        t->cfg.chat_template = "";
        t->base->cfg = &t->cfg, t->base->name = "teacher";
        r->n_bases++;
        err e = base_open(r, t->base, ask, like);
        if (e) return fail_in(e, "teacher");
        r->base[0].model.residents->beside = t->base->model.residents;
    }
    TRY(vocabularies(&r->base[0], t->base));
    if (r->cfg->distill_hidden > 0 && t->base->model.shape.width != r->base[0].model.shape.width)
        return fail(E_USAGE,
                    "'distill.hidden' compares rows of one width: the student %s is %lld wide, the teacher %s %lld. Leave it out: logits "
                    "are compared whatever the widths are",
                    r->base[0].cfg->model, (long long)r->base[0].model.shape.width, t->base->cfg->model,
                    (long long)t->base->model.shape.width);
    if (t->shared && !*r->cfg->teacher_adapter && !*r->side[0].cfg->adapter)
        log_warn("the teacher is the student's own base: until the student has changed there is nothing to learn from it");
    if (*r->cfg->teacher_adapter) TRY(open_adapter(r));
    t->lesson.teacher = &t->base->model;
    return OK;
}

/* --- its plan ---------------------------------------------------------------------------------------------------------- */
err teacher_look(struct run *r, const struct plan_ask *ask) {
    struct teacher *t = &r->teacher;
    if (ask->like) t->answers.found = ask->like->teacher.answers.found;
    else if (t->base && *r->cfg->distill_cache && !r->assumes) TRY(answers_look(r));
    if (!t->answers.found || !t->base) return OK;
    structure_free(&t->st);
    t->st = (struct structure){.method = NULL};
    t->lesson.teacher = NULL;
    if (!t->shared) {
        r->base[0].model.residents->beside = NULL;
        base_close(&r->base[--r->n_bases]);
    }
    t->base = NULL;
    return OK;
}

/* What the student's passes have room for, virtual tokens apart. */
static size_t tell_bytes(const struct run *r, const struct capacity *cap) {
    const struct teacher *t = &r->teacher;
    const size_t n = (size_t)cap->tokens, s = (size_t)cap->sequences,
                 row = t->base ? dtype_row_bytes(r->compute, t->base->model.shape.width) : 0;
    const size_t here = (size_t)run_pass(r), own = n + (size_t)t->st.virtual_tokens;
    const size_t pack = t->base ? own * 8 * sizeof(int32_t) + (3 * s + 2) * sizeof(int32_t) : 0;
    const size_t made = (size_t)(r->cfg->distill_on_policy > 0 ? run_most_rows(r) * r->cap.tokens : 0) * (sizeof(int32_t) + 1);
    return pack + made + (own + here) * row + (t->lesson.top ? 2 * here * (size_t)t->lesson.top * sizeof(float) : 0) + here * sizeof(float);
}

err teacher_plan(struct run *r, int64_t pass_tokens) {
    struct teacher *t = &r->teacher;
    struct capacity cap = r->cap;
    if (!teaches(r)) return OK;
    program_free(&t->body);
    program_free(&t->best);
    t->body = t->best = (struct program){.mode = MODE_FEATURES};
    if (pass_tokens > cap.tokens) cap.tokens = (int)pass_tokens;
    if (t->base) {
        TRY(program_build(&t->body, &t->base->model, MODE_FEATURES, t->st.method ? &t->st : NULL, cap, CHECKPOINT_NONE, r->backend, false));
        if (t->lesson.top) TRY(program_top(&t->best, &t->base->model, cap, r->base[0].model.shape.vocab, t->lesson.top, r->backend));
    }
    const bool narrow = r->compute != DT_F32;
    t->weight_bytes = !t->st.method ? 0 : narrow ? param_work_bytes(&t->st.params, r->compute) : param_weight_bytes(&t->st.params);
    t->bytes = t->weight_bytes + tell_bytes(r, &cap);
    return OK;
}

int teacher_programs(const struct run *r, const struct program *out[TEACHER_PROGRAMS], int phase) {
    const struct teacher *t = &r->teacher;
    const bool ahead = *r->cfg->distill_cache != 0;
    const bool now = ahead ? phase == PHASE_LOAD : phase == PHASES || phase == PHASE_TRAIN || phase == PHASE_EVALUATE;
    int n = 0;
    if (now && t->body.p.ni) out[n++] = &t->body;
    if (now && t->best.p.ni) out[n++] = &t->best;
    return n;
}

/* --- starting ---------------------------------------------------------------------------------------------------------- */
/* Weights as programs read them; those of f32 that a working copy is made of go again. */
static err cast_weights(struct run *r, float *w) {
    struct teacher *t = &r->teacher;
    struct memory copy = {.backend = r->backend, .compute = r->compute, .work = r->backend->mem->take(t->weight_bytes)};
    err e = copy.work ? memory_bind(&copy, &t->body, w, r->threads, &t->weights)
                      : fail(E_MEMORY, "cannot take %zu bytes for the teacher's adapter", t->weight_bytes);
    t->weights = copy.work;
    return e;
}

static err fill_weights(struct run *r) {
    struct teacher *t = &r->teacher;
    const struct mem_ops *mem = r->backend->mem;
    const size_t bytes = param_weight_bytes(&t->st.params);
    float *host = arena_f32(bytes), *there = mem->host ? host : mem->take(bytes);
    err e = host && there ? adapter_read(r->cfg->teacher_adapter, &t->st, host)
                          : fail(E_MEMORY, "cannot take %zu bytes for the teacher's adapter", bytes);
    if (!e && there != host) e = mem->upload(there, host, bytes);
    if (!e && r->compute != DT_F32) e = cast_weights(r, there);
    else if (!e) t->weights = there;
    if (there && there != host && t->weights != there) mem->give(there, bytes);
    if (host && t->weights != host) arena_f32_free(host, bytes);
    return e;
}

static err make_room(struct run *r) {
    struct teacher *t = &r->teacher;
    const size_t here = (size_t)run_pass(r), row = t->base ? dtype_row_bytes(r->compute, t->base->model.shape.width) : 0,
                 k = (size_t)t->lesson.top;
    if (t->base) {
        const int own = (int)t->body.p.cap[-SYM_N];
        TRY(pack_init(&t->pack, own, r->cap.sequences));
        t->pack.virtual_tokens = t->body.virtual_tokens, t->pack.virtual_first = t->body.virtual_first;
        t->said = calloc((size_t)own, row);
        t->rows = calloc(here, row);
    }
    t->nll = calloc(here, sizeof *t->nll);
    if (k) t->ids = calloc(here * k, sizeof *t->ids), t->logprob = calloc(here * k, sizeof *t->logprob);
    const bool good = t->nll && (!k || (t->ids && t->logprob)) && (!t->base || (t->said && t->rows));
    return good ? OK : fail(E_MEMORY, "cannot take %zu bytes for what the teacher says", t->bytes);
}

/* The cached run's teacher has said what it had to. */
static void dismiss(struct run *r) {
    struct teacher *t = &r->teacher;
    if (t->weights) r->backend->mem->give(t->weights, t->weight_bytes);
    t->weights = NULL;
    if (!t->base) return;
    for (int i = 0; i < t->base->model.n && !t->shared; i++) model_forget(&t->base->model, &t->base->model.w[i]);
    if (!t->shared) residents_free(t->base->model.residents);
}

err teacher_start(struct run *r) {
    struct teacher *t = &r->teacher;
    if (!teaches(r)) return OK;
    r->wb.teacher = t;
    TRY(make_room(r));
    if (t->base && t->st.method) TRY(fill_weights(r));
    if (!*r->cfg->distill_cache) return OK;
    TRY(answers_start(r));
    dismiss(r);
    return OK;
}

void teacher_close(struct run *r) {
    struct teacher *t = &r->teacher;
    if (t->weights) r->backend->mem->give(t->weights, t->weight_bytes);
    program_free(&t->body);
    program_free(&t->best);
    structure_free(&t->st);
    pack_free(&t->pack);
    answers_close(&t->answers);
    rows_free(&t->made);
    free(t->said), free(t->rows), free(t->ids), free(t->logprob), free(t->nll);
    arena_free(&t->mem);
    *t = (struct teacher){.base = NULL};
}

/* --- a pass ------------------------------------------------------------------------------------------------------------ */
/* Its rows behind the last norm, in t->said, of the rows in t->pack. */
static err run_body(struct teacher *t, struct workbench *b, const struct row *const *rows, int first, int last) {
    const struct program *g = &t->body;
    struct pack *k = &t->pack;
    pack_clear(k);
    for (int i = first; i < last; i++)
        if (!pack_row(k, rows[i], i)) return fail(E_INTERNAL, "a pass of the student is beyond the teacher's");
    int n = k->n, s = k->s;
    const bool repeats = program_rungs(g, &n, &s);
    if (repeats) pack_pad(k, n, s);
    const struct feed f = {.ids = k->ids, .pos = k->pos, .cu = k->cu, .n = k->n, .s = k->s, .repeats = repeats};
    TRY(program_run(g, &b->mem, t->weights, NULL, &f, &(struct run_ctx){.threads = b->threads}, false));
    return program_read(g, &b->mem, g->features, k->n, k->s, t->said,
                        (size_t)k->n * dtype_row_bytes(prog_dt(&g->p), t->lesson.teacher->shape.width));
}

err teacher_best(struct teacher *t, struct workbench *b, const struct row *const *rows, int first, int last, int *n) {
    const struct program *g = &t->best;
    const struct pack *k = &t->pack;
    const size_t row = dtype_row_bytes(prog_dt(&g->p), t->lesson.teacher->shape.width), out = (size_t)t->lesson.top * sizeof(float);
    TRY(run_body(t, b, rows, first, last));
    *n = 0;
    for (int i = 0; i < k->n; i++)
        if (k->weight[i] != 0) memmove(t->said + (size_t)(*n)++ * row, t->said + (size_t)i * row, row);
    if (!*n) return OK;
    TRY(program_run(g, &b->mem, NULL, NULL, &(struct feed){.taught = t->said, .n = *n}, &(struct run_ctx){.threads = b->threads}, false));
    TRY(program_read(g, &b->mem, g->next, *n, 0, t->ids, (size_t)*n * out));
    return program_read(g, &b->mem, g->logprob, *n, 0, t->logprob, (size_t)*n * out);
}

/* What is there place after place goes to where the student's pass has these places; from the last, so that nothing is overwritten. */
static void spread(struct teacher *t, const struct pack *k, int n) {
    const size_t top = (size_t)t->lesson.top;
    for (int i = k->n - 1; i >= 0 && n; i--) {
        if (k->weight[i] == 0) continue;
        n--;
        memmove(t->ids + (size_t)i * top, t->ids + (size_t)n * top, top * sizeof *t->ids);
        memmove(t->logprob + (size_t)i * top, t->logprob + (size_t)n * top, top * sizeof *t->logprob);
    }
}

err teacher_tell(struct workbench *b, const struct row *const *rows, int first, int last, struct feed *f) {
    struct teacher *t = b->teacher;
    const struct pack *k = &b->pack;
    f->taught = t->rows, f->top = t->ids, f->top_logprob = t->logprob;
    if (t->answers.best) return answers_tell(t, k, rows, first), OK;
    if (t->lesson.top) {
        int n;
        TRY(teacher_best(t, b, rows, first, last, &n));
        return spread(t, k, n), OK;
    }
    TRY(run_body(t, b, rows, first, last));
    const size_t row = dtype_row_bytes(prog_dt(&t->body.p), t->lesson.teacher->shape.width);
    for (int i = first; i < last; i++) {
        const size_t from = (size_t)(t->pack.cu[i - first] + t->pack.virtual_tokens), to = (size_t)(k->cu[i - first] + k->virtual_tokens);
        memcpy(t->rows + to * row, t->said + from * row, (size_t)rows[i]->n * row);
    }
    return OK;
}

err teacher_hear(struct workbench *b, const struct program *g) {
    struct teacher *t = b->teacher;
    const struct pack *k = &b->pack;
    TRY(program_read(g, &b->mem, g->nll, k->n, k->s, t->nll, (size_t)k->n * sizeof *t->nll));
    for (int i = 0; i < k->n; i++) t->heard[0] += (double)k->weight[i] * (double)t->nll[i], t->heard[1] += (double)k->weight[i];
    return OK;
}

json_t *teacher_json(const struct run *r) {
    const struct teacher *t = &r->teacher;
    const struct config *c = r->cfg;
    json_t *j = json_pack("{s:s, s:s, s:s, s:f, s:f, s:I, s:b}", "path", teacher_name(r), "adapter", c->teacher_adapter, "loss",
                          c->distill_loss, "temperature", c->distill_temperature, "alpha", c->distill_alpha, "top_k",
                          (json_int_t)c->distill_top_k, "shares_base", (int)t->shared);
    if (t->base)
        json_object_update_new(
            j, json_pack("{s:I, s:I}", "parameters", (json_int_t)t->base->model.parameters, "bytes", (json_int_t)t->base->model.bytes));
    if (t->answers.n)
        json_object_set_new(j, "answers",
                            json_pack("{s:s, s:I, s:I, s:b, s:f}", "key", t->answers.key, "positions", (json_int_t)t->answers.n, "bytes",
                                      (json_int_t)(t->answers.n * t->lesson.top * 8), "found", (int)t->answers.found, "seconds",
                                      t->answers.seconds));
    return j;
}

void teacher_describe(const struct run *r, str *out) {
    const struct teacher *t = &r->teacher;
    const struct config *c = r->cfg;
    str_addf(out, " Of its loss %g %% is the distance from %s%s%s (%s", 100 * c->distill_alpha, teacher_name(r),
             *c->teacher_adapter ? " with " : "", c->teacher_adapter, c->distill_loss);
    if (!strcmp(c->distill_loss, "jsd")) str_addf(out, ", beta %g", c->distill_beta);
    str_addf(out, ", temperature %g", c->distill_temperature);
    if (c->distill_top_k) str_addf(out, ", its best %lld ids", (long long)c->distill_top_k);
    if (c->distill_on_policy > 0) str_addf(out, ", %g %% of the answers written by the student", 100 * c->distill_on_policy);
    str_addf(out, "%s).", t->answers.found ? ", found on disk: it is not loaded" : "");
}
