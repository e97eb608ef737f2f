/* Models, tokenizers, adapters, scoring and generation of the public API. */
#define _POSIX_C_SOURCE 200809L
#include "api/api.h"
#include "base/log.h"
#include "data/metrics.h"
#include "data/pack.h"
#include "data/score.h"
#include "io/chat.h"
#include "io/npy.h"
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

int api_code(err e) {
    if (!e) return CYC_OK;
    if (e == E_INTERRUPTED) return CYC_INTERRUPTED;
    return err_is_input(e) ? CYC_BAD_INPUT : CYC_FAILED;
}

int api_json(struct json_t *j, char **out) {
    *out = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(j);
    return *out ? CYC_OK : api_code(fail(E_MEMORY, "out of memory"));
}

const char *cyc_version(void) { return CYC_VERSION; }
const char *cyc_error(void) { return err_text(); }
void cyc_free(void *p) { free(p); }

static void (*user_sink)(void *, int, const char *);
static void pass_on(void *ctx, enum log_level level, const char *text) { user_sink(ctx, (int)level, text); }

void cyc_set_log(void (*sink)(void *ctx, int level, const char *line), void *ctx) {
    user_sink = sink;
    log_set(sink ? pass_on : NULL, ctx);
}

/* --- opening -------------------------------------------------------------------------------------------------------- */
static err open_tokenizer(const char *path, const struct tensors *gguf, tokenizer **out) {
    if (gguf) return tokenizer_from_gguf(gguf, out);
    if (str_ends(path, ".json")) return tokenizer_from_json(path, out);
    if (str_ends(path, ".gguf")) {
        struct tensors ts;
        TRY(tensors_open(path, &ts));
        err e = ts.meta ? tokenizer_from_gguf(&ts, out) : fail(E_INPUT, "%s: not a GGUF file", path);
        tensors_close(&ts);
        return e;
    }
    arena mem = {0};
    char *file = arena_printf(&mem, "%s/tokenizer.json", path);
    err e = tokenizer_from_json(file, out);
    arena_free(&mem);
    return e;
}

int cyc_tokenizer_open(const char *path, cyc_model **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) return api_code(fail(E_MEMORY, "out of memory"));
    err e = open_tokenizer(path, NULL, &(*out)->tok);
    if (e) cyc_model_close(*out), *out = NULL;
    return api_code(e);
}

static err open_model(const char *path, cyc_model *c) {
    if (str_starts(path, "random:")) return fail(E_USAGE, "a random model is for `plan` and benchmarks of `train`; name a real one");
    TRY(model_open(path, NULL, &c->m));
    model_warn(&c->m);
    c->weights = true;
    TRY(open_tokenizer(path, c->m.gguf ? &c->m.files : NULL, &c->tok));
    if (!tokenizer_fit(c->tok, c->m.shape.vocab))
        return fail(E_INPUT, "%s: the tokenizer has %d ids, the model only %lld", path, tokenizer_vocab(c->tok), (long long)c->m.shape.vocab);
    return OK;
}

int cyc_model_open(const char *path, cyc_model **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) return api_code(fail(E_MEMORY, "out of memory"));
    err e = open_model(path, *out);
    if (e) cyc_model_close(*out), *out = NULL;
    return api_code(e);
}

const struct backend *api_backend(const cyc_model *m) { return m->backend ? m->backend : &backend_cpu; }

static err model_device(cyc_model *m, const char *device, const char *dtype_name) {
    TRY(backend_pick(device, &m->backend));
    TRY(backend_compute(m->backend, dtype_name, &m->compute));
    return m->backend->open ? m->backend->open() : OK;
}

int cyc_model_device(cyc_model *m, const char *device, const char *dtype_name) {
    if (!m->weights) return api_code(fail(E_USAGE, "this handle is a tokenizer alone"));
    return api_code(model_device(m, device, dtype_name));
}

void cyc_model_close(cyc_model *c) {
    if (!c) return;
    tokenizer_free(c->tok);
    if (c->weights) model_close(&c->m);
    free(c);
}

/* As transformers names classes that nobody has named. */
static err name_classes(struct head *h, arena *mem) {
    const char **name = h->classes && !h->names ? arena_alloc(mem, (size_t)h->classes * sizeof *name) : NULL;
    if (!h->classes || h->names) return OK;
    for (int i = 0; i < h->classes; i++)
        if (!name || !(name[i] = arena_printf(mem, "LABEL_%d", i))) return fail(E_MEMORY, "out of memory");
    h->names = name;
    return OK;
}

err api_adapter_read(cyc_model *m, const char *folder, arena *mem, struct structure *st, float **numbers) {
    const struct peft_method *method;
    const void *settings;
    TRY(adapter_check_base(folder, &m->m));
    TRY(adapter_stretch(folder, false, &m->m));
    TRY(adapter_read_config(folder, mem, &method, &settings));
    struct head head;
    TRY(adapter_read_head(folder, mem, &head));
    err e = name_classes(&head, mem);
    if (!e) e = structure_init_head(st, &m->m, method, settings, &head, NULL);
    if (e) return fail_in(e, "%s", folder);
    *numbers = arena_f32(st->params.bytes);
    return *numbers ? adapter_read(folder, st, *numbers) : fail(E_MEMORY, "out of memory");
}

err api_adapter_place(cyc_adapter *a, float *numbers) {
    const struct mem_ops *there = api_backend(a->model)->mem;
    const size_t bytes = a->st.params.bytes;
    a->w = there->host ? numbers : there->take(bytes);
    if (a->w == numbers) return OK;
    err e = a->w ? there->upload(a->w, numbers, bytes) : fail(E_MEMORY, "out of memory");
    arena_f32_free(numbers, bytes);
    return e;
}

static err open_adapter(const char *folder, cyc_adapter *a) {
    float *numbers = NULL;
    err e = api_adapter_read(a->model, folder, &a->mem, &a->st, &numbers);
    if (!e) return api_adapter_place(a, numbers);
    if (numbers) arena_f32_free(numbers, a->st.params.bytes);
    return e;
}

int cyc_adapter_open(cyc_model *m, const char *folder, cyc_adapter **out) {
    if (!m->weights) return api_code(fail(E_USAGE, "this handle is a tokenizer alone"));
    *out = calloc(1, sizeof **out);
    if (!*out) return api_code(fail(E_MEMORY, "out of memory"));
    (*out)->model = m;
    err e = open_adapter(folder, *out);
    if (e) cyc_adapter_close(*out), *out = NULL;
    return api_code(e);
}

void cyc_adapter_close(cyc_adapter *a) {
    if (!a) return;
    api_mixed_free(a->mix);
    if (a->w) api_backend(a->model)->mem->give(a->w, a->st.params.bytes);
    structure_free(&a->st);
    arena_free(&a->mem);
    free(a);
}

/* --- text ------------------------------------------------------------------------------------------------------------ */
int cyc_tokenize(const cyc_model *m, const char *text, size_t n, int32_t **ids, size_t *n_ids) {
    return cyc_tokenize_around(m, text, n, 0, ids, n_ids);
}

int cyc_tokenize_around(const cyc_model *m, const char *text, size_t n, int around, int32_t **ids, size_t *n_ids) {
    struct ids out = {0};
    err e = tokenizer_encode(m->tok, text, n, ENCODE_SPECIAL, &out);
    if (!e) e = tokenizer_surround(m->tok, around & CYC_BEFORE, around & CYC_AFTER, &out);
    if (e) ids_free(&out);
    *ids = out.v;
    *n_ids = out.n;
    return api_code(e);
}

int cyc_detokenize(const cyc_model *m, const int32_t *ids, size_t n, int skip_special, char **text) {
    str s = {0};
    err e = tokenizer_decode(m->tok, ids, n, skip_special != 0, &s);
    if (!e) str_add(&s, "", 0);
    if (!e && s.failed) e = fail(E_MEMORY, "out of memory");
    if (e) str_free(&s);
    *text = s.p;
    return api_code(e);
}

int cyc_score_texts(const char *const *hyp, const char *const *ref, int n, cyc_scores *out) {
    struct scores s;
    err e = score_texts(hyp, ref, n, &s);
    if (!e) *out = (cyc_scores){s.bleu, s.chrf, s.chrf_pp, s.exact};
    return api_code(e);
}

int cyc_metric_at(int i, cyc_metric *out) {
    int n;
    const struct metric *m = metrics_all(&n);
    if (i < 0 || i >= n) return api_code(fail(E_USAGE, "there are %d metrics", n));
    *out = (cyc_metric){m[i].name, m[i].title, m[i].doc, m[i].lower_is_better};
    return CYC_OK;
}

int cyc_score_metrics(const char *const *metrics, int n_metrics, const char *const *hyp, const char *const *ref, int n, double *out) {
    return api_code(metrics_score(metrics, n_metrics, &(struct scored){hyp, ref, n}, out));
}

/* --- scoring --------------------------------------------------------------------------------------------------------- */
static err check_ids(const cyc_model *m, const cyc_adapter *a, const int32_t *ids, size_t n) {
    if (!m->weights) return fail(E_USAGE, "this handle is a tokenizer alone");
    const int before = a ? a->st.virtual_tokens : 0;
    if (n + (size_t)before > (size_t)m->m.shape.context) {
        char also[64] = "";
        if (before) snprintf(also, sizeof also, " and the adapter's %d virtual ones", before);
        return fail(E_INPUT, "%zu tokens%s are more than the model's context of %lld", n, also, (long long)m->m.shape.context);
    }
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= m->m.shape.vocab)
            return fail(E_INPUT, "token id %d at place %zu is not in the vocabulary of %lld", ids[i], i + 1, (long long)m->m.shape.vocab);
    return OK;
}

/* One text as a pass of a program, with what its method puts before it; every token is to be predicted. */
static err pack_text(const struct program *g, const int32_t *ids, int n, struct pack *k) {
    uint8_t *supervised = malloc((size_t)n);
    err e = supervised ? pack_init(k, n + g->virtual_tokens, 1) : fail(E_MEMORY, "out of memory");
    if (!e) {
        memset(supervised, 1, (size_t)n);
        k->virtual_tokens = g->virtual_tokens;
        k->virtual_first = g->virtual_first;
        pack_row(k, &(struct row){.ids = (int32_t *)ids, .supervised = supervised, .n = n}, 0);
    }
    free(supervised);
    return e;
}

/* Runs a text through a program of its length; what the program gives for each of its tokens (`columns` f32 of `out`, from the text's first token
 * on) goes to `to`. */
static err run_text(cyc_model *m, cyc_adapter *a, enum mode mode, dtype compute, const int32_t *ids, int n, int64_t columns, float *to) {
    struct program g;
    struct memory mem = {0};
    struct pack k = {0};
    void *param;
    TRY(program_build(&g, &m->m, mode, a ? &a->st : NULL, (struct capacity){n, 1, 0, 0, compute, DT_NONE, 0}, CHECKPOINT_NONE, api_backend(m), false));
    const int before = g.virtual_tokens;
    const size_t all = (size_t)((before + n) * columns) * sizeof *to;
    float *got = malloc(all);
    err e = got ? pack_text(&g, ids, n, &k) : fail(E_MEMORY, "out of memory");
    if (!e) e = memory_for(&mem, (struct program *const[]){&g}, 1);
    if (!e) e = memory_bind(&mem, &g, a ? a->w : NULL, omp_get_max_threads(), &param);
    struct feed f = {.ids = k.ids, .pos = k.pos, .cu = k.cu, .sample = k.sample, .label = k.label, .weight = k.weight, .n = k.n, .s = k.s};
    if (!e) e = program_run(&g, &mem, param, NULL, &f, &(struct run_ctx){.threads = omp_get_max_threads()}, false);
    if (!e) e = program_read(&g, &mem, mode == MODE_SCORE ? g.nll : g.features, k.n, k.s, got, all);
    if (!e) memcpy(to, got + before * columns, (size_t)(n * columns) * sizeof *to);
    free(got);
    pack_free(&k);
    memory_free(&mem);
    program_free(&g);
    return e;
}

/* The pack has a token's likelihood at the position that predicts it. */
static err score(cyc_model *m, cyc_adapter *a, const int32_t *ids, int n, float *nll) {
    TRY(run_text(m, a, MODE_SCORE, m->compute, ids, n, 1, nll));
    memmove(nll + 1, nll, (size_t)(n - 1) * sizeof *nll);
    nll[0] = 0;
    return OK;
}

int cyc_score_ids(cyc_model *m, cyc_adapter *adapter, const int32_t *ids, size_t n, float *nll) {
    err e = api_adapter_ready(&adapter, NULL, 0, NULL);
    if (!e) e = check_ids(m, adapter, ids, n);
    if (!e && m->m.family->seq2seq)
        e = fail(E_UNSUPPORTED, "%s is an encoder-decoder (%s): it has no likelihood of one text, only of an answer to a prompt", m->m.path,
                 model_arch(&m->m));
    if (e || n == 0) return api_code(e);
    nll[0] = 0;
    return n == 1 ? CYC_OK : api_code(score(m, adapter, ids, (int)n, nll));
}

/* --- features -------------------------------------------------------------------------------------------------------- */
int cyc_width(const cyc_model *m) { return m->weights ? (int)m->m.shape.width : 0; }

void api_mean(const float *rows, int n, int64_t C, bool normalize, float *out) {
    double length = 0;
    for (int64_t c = 0; c < C; c++) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += rows[i * C + c];
        out[c] = (float)(sum / n);
        length += sum / n * (sum / n);
    }
    for (int64_t c = 0; c < C && normalize && length > 0; c++) out[c] = (float)(out[c] / sqrt(length));
}

static err embed(cyc_model *m, cyc_adapter *a, const int32_t *ids, int n, bool normalize, float *out) {
    const int64_t C = m->m.shape.width;
    float *rows = malloc((size_t)(n * C) * sizeof *rows);
    /* features leave in the compute type; f32 is what the host adds up */
    err e = rows ? run_text(m, a, MODE_FEATURES, DT_F32, ids, n, C, rows) : fail(E_MEMORY, "out of memory");
    if (!e) api_mean(rows, n, C, normalize, out);
    free(rows);
    return e;
}

int cyc_embed_ids(cyc_model *m, cyc_adapter *adapter, const int32_t *ids, size_t n, int normalize, float *out) {
    err e = api_adapter_ready(&adapter, NULL, 0, NULL);
    if (!e) e = check_ids(m, adapter, ids, n);
    if (!e && n == 0) e = fail(E_USAGE, "no token to embed");
    return api_code(e ? e : embed(m, adapter, ids, (int)n, normalize != 0, out));
}

/* --- generation ------------------------------------------------------------------------------------------------------ */
static err run_generation(cyc_model *m, cyc_adapter *a, const struct generate_request *rq, struct choosing how, struct generation *out,
                          struct generate_stats *stats) {
    int longest = 1, total = 0;
    for (int i = 0; i < rq->n; i++) {
        if ((int)rq->prompt[i].n > longest) longest = (int)rq->prompt[i].n;
        total += (int)rq->prompt[i].n;
    }
    struct generator g;
    struct memory mem = {0};
    int pass = total < 512 ? total : 512;
    const int beams = how.beams > 1 ? how.beams : 1;
    const int at_once = rq->n * beams < 64 ? rq->n : beams < 64 ? 64 / beams : 1;
    struct capacity cap = {pass > longest ? pass : longest, rq->n, at_once * beams, longest + rq->max_new, m->compute, DT_NONE, 0};
    how.rules = sampling_processes(&rq->run.sampling);
    TRY(generator_choosing(&g, &m->m, a ? &a->st : NULL, cap, &how, api_backend(m)));
    const struct program *list[GENERATOR_PROGRAMS];
    const int n = generator_programs(&g, list);
    err e = memory_for(&mem, (struct program *const *)list, n);
    if (!e) e = generate(&g, &mem, a ? a->w : NULL, rq, out, stats);
    memory_free(&mem);
    generator_free(&g);
    return e;
}

/* How tokens are to be chosen. */
static err check_choice(const cyc_generate_options *o) {
    if (!(o->temperature >= 0)) return fail(E_USAGE, "temperature %g is below 0", (double)o->temperature);
    if (!(o->top_p >= 0 && o->top_p <= 1)) return fail(E_USAGE, "top_p %g is not between 0 and 1", (double)o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1)) return fail(E_USAGE, "min_p %g is not between 0 and 1", (double)o->min_p);
    if (!(o->repetition_penalty >= 0)) return fail(E_USAGE, "repetition_penalty %g is below 0", (double)o->repetition_penalty);
    if (o->top_k < 0 || o->min_new_tokens < 0) return fail(E_USAGE, "%s is below 0", o->top_k < 0 ? "top_k" : "min_new_tokens");
    if (o->share_head < 0) return fail(E_USAGE, "share_head %d is below 0", o->share_head);
    if (o->beams < 0 || o->beams > MOST_BEAMS) return fail(E_USAGE, "%d beams: 1 to %d can be had", o->beams, MOST_BEAMS);
    return OK;
}

int cyc_generate(cyc_model *m, cyc_adapter *adapter, const int32_t *const *prompt, const size_t *prompt_n, int n, const cyc_generate_options *opt,
                 cyc_generation *out, cyc_generate_stats *stats) {
    cyc_generate_options o = opt ? *opt : (cyc_generate_options){0};
    struct ids *p = calloc((size_t)(n > 0 ? n : 1), sizeof *p);
    struct generation *g = calloc((size_t)(n > 0 ? n : 1), sizeof *g);
    float *weights = NULL;
    err e = p && g ? api_adapter_ready(&adapter, o.weights, n, &weights) : fail(E_MEMORY, "out of memory");
    const int new = o.max_new_tokens ? o.max_new_tokens : 64, before = adapter ? adapter->st.virtual_tokens : 0;
    for (int i = 0; i < n && !e; i++) {
        e = check_ids(m, adapter, prompt[i], prompt_n[i]);
        if (!e && prompt_n[i] + (size_t)(before + new) > (size_t)m->m.shape.context)
            e = fail(E_INPUT,
                     "a prompt of %zu tokens%s and up to %d new ones are more than the model's context of %lld: ask for fewer "
                     "(max_new_tokens) or shorten the prompt",
                     prompt_n[i], before ? ", the adapter's virtual ones" : "", new, (long long)m->m.shape.context);
        for (size_t k = 0; k < prompt_n[i] && !e; k++) e = ids_push(&p[i], prompt[i][k]);
        /* an encoder's text ends with EOS, as in training (train/sft.c) */
        if (!e && m->m.family->seq2seq && prompt_n[i] && prompt[i][prompt_n[i] - 1] != tokenizer_eos(m->tok))
            e = ids_push(&p[i], tokenizer_eos(m->tok));
    }
    const size_t numbers = adapter ? (size_t)adapter->st.given * (size_t)adapter->st.given_width : 0;
    if (!e && o.vectors && o.vectors_n != (size_t)n * numbers)
        e = fail(E_INPUT, "%zu numbers in vectors for %d prompt%s, wanted are %zu: %zu for each", o.vectors_n, n, n > 1 ? "s" : "",
                 (size_t)n * numbers, numbers);
    for (size_t i = 0; i < o.vectors_n && o.vectors && !e; i++)
        if (!isfinite(o.vectors[i])) e = fail(E_INPUT, "number %zu of the vectors is not finite", i + 1);
    struct generate_request rq = {.given = o.vectors, .prompt = p, .n = n, .max_new = new, .eos = o.ignore_eos ? -1 : tokenizer_eos(m->tok), .mix = weights, .on_token = o.on_token, .ctx = o.ctx};
    rq.run = (struct run_ctx){.seed = o.seed,
                              .sampling = {.penalty = o.repetition_penalty,
                                           .min_new = o.min_new_tokens,
                                           .temperature = o.temperature,
                                           .top_k = o.top_k,
                                           .top_p = o.top_p > 0 ? o.top_p : 1,
                                           .min_p = o.min_p},
                              .threads = o.threads > 0 ? o.threads : omp_get_max_threads(),
                              .int_activations = o.int_activations};
    rq.beaming = (struct beaming){o.length_penalty, (enum early_stopping)o.early_stopping};
    struct generate_stats st = {0};
    if (!e) e = check_choice(&o);
    if (!e && n > 0) e = run_generation(m, adapter, &rq, (struct choosing){.beams = o.beams, .head = o.share_head}, g, &st);
    for (int i = 0; i < n && !e; i++) out[i] = (cyc_generation){g[i].ids, (size_t)g[i].n, g[i].stopped};
    if (stats && !e) *stats = (cyc_generate_stats){st.prefill_s, st.decode_s, st.prompt_tokens, st.new_tokens, st.decoded_tokens};
    for (int i = 0; p && i < n; i++) ids_free(&p[i]);
    free(p);
    free(g);
    free(weights);
    return api_code(e);
}

int cyc_npy_read(const char *path, float **x, int64_t *rows, int64_t *columns) {
    struct npy a;
    *x = NULL;
    err e = npy_open(path, &a);
    if (e) return api_code(e);
    *rows = a.rows, *columns = a.columns;
    *x = malloc((size_t)(a.rows * a.columns) * sizeof **x + 1);
    if (!*x) e = fail(E_MEMORY, "out of memory");
    for (int64_t i = 0; i < a.rows && a.columns && !e; i++) e = npy_row(&a, i, *x + i * a.columns);
    if (e) free(*x), *x = NULL;
    npy_close(&a);
    return api_code(e);
}

int cyc_chat_prompt(const cyc_model *m, const char *user, char **text) {
    struct chat *c = NULL;
    struct chat_text t = {0};
    str s = {0};
    int32_t bos = tokenizer_bos(m->tok);
    err e = chat_open(m->tok, &c);
    if (!e) e = chat_render(c, &(struct chat_message){"user", user}, 1, true, &t);
    if (!e && tokenizer_adds_bos(m->tok) && bos >= 0) e = tokenizer_decode(m->tok, &bos, 1, false, &s);
    if (!e && s.n && t.text.n >= s.n && !memcmp(t.text.p, s.p, s.n)) str_clear(&s); /* the template brings it */
    if (!e) str_add(&s, t.text.p ? t.text.p : "", t.text.n);
    if (!e && s.failed) e = fail(E_MEMORY, "out of memory");
    if (e) str_free(&s);
    *text = s.p;
    chat_text_free(&t);
    chat_close(c);
    return api_code(e);
}

int cyc_chat_template(cyc_model *m, const char *name) {
    str source = {0};
    err e = chat_template_load(name, &source);
    if (!e) e = tokenizer_set_template(m->tok, source.p ? source.p : "", name);
    str_free(&source);
    return api_code(e);
}
