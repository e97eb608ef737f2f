/* Models, tokenizers, adapters, scoring and generation of the public API. */
#define _POSIX_C_SOURCE 200809L
#include "api/api.h"
#include "base/log.h"
#include "data/score.h"
#include "io/chat.h"
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

static const struct backend *backend_of(const cyc_model *m) { return m->backend ? m->backend : &backend_cpu; }

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

static err open_adapter(const char *folder, cyc_adapter *a) {
    const struct peft_method *method;
    const void *settings;
    TRY(adapter_check_base(folder, &a->model->m));
    TRY(adapter_read_config(folder, &a->mem, &method, &settings));
    err e = structure_init(&a->st, &a->model->m, method, settings, NULL);
    if (e) return fail_in(e, "%s", folder);
    const struct mem_ops *there = backend_of(a->model)->mem;
    size_t bytes = a->st.params.bytes;
    float *host = arena_f32(bytes);
    a->w = there->host ? host : there->take(bytes);
    e = host && a->w ? adapter_read(folder, &a->st, host) : fail(E_MEMORY, "out of memory");
    if (host == a->w) return e;
    if (!e) e = there->upload(a->w, host, bytes);
    if (host) arena_f32_free(host, bytes);
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
    if (a->w) backend_of(a->model)->mem->give(a->w, a->st.params.bytes);
    structure_free(&a->st);
    arena_free(&a->mem);
    free(a);
}

/* --- text ------------------------------------------------------------------------------------------------------------ */
int cyc_tokenize(const cyc_model *m, const char *text, size_t n, int32_t **ids, size_t *n_ids) { return cyc_tokenize_around(m, text, n, 0, ids, n_ids); }

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

/* --- scoring --------------------------------------------------------------------------------------------------------- */
static err check_ids(const cyc_model *m, const int32_t *ids, size_t n) {
    if (!m->weights) return fail(E_USAGE, "this handle is a tokenizer alone");
    if (n > (size_t)m->m.shape.context) return fail(E_INPUT, "%zu tokens are more than the model's context of %lld", n, (long long)m->m.shape.context);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= m->m.shape.vocab) return fail(E_INPUT, "token id %d at place %zu is not in the vocabulary of %lld", ids[i], i + 1, (long long)m->m.shape.vocab);
    return OK;
}

static err score(cyc_model *m, cyc_adapter *a, const int32_t *ids, int n, float *nll) {
    struct program g;
    struct memory mem = {0};
    int32_t *pos = calloc((size_t)n * 3 + 2, sizeof *pos), *label = pos + n, *cu = pos + 3 * n, *sample = label + n;
    float *weight = calloc((size_t)n, sizeof *weight);
    err e = pos && weight ? program_build(&g, &m->m, MODE_SCORE, a ? &a->st : NULL, (struct capacity){n, 1, 0, 0, m->compute}, CHECKPOINT_NONE, backend_of(m), false) : fail(E_MEMORY, "out of memory");
    if (!e) {
        for (int i = 0; i < n; i++) pos[i] = i, label[i] = i + 1 < n ? ids[i + 1] : 0, weight[i] = i + 1 < n;
        cu[1] = n;
        e = memory_for(&mem, (struct program *const[]){&g}, 1);
        struct feed f = {.ids = ids, .pos = pos, .cu = cu, .sample = sample, .label = label, .weight = weight, .n = n, .s = 1};
        void *param;
        if (!e) e = memory_bind(&mem, &g, a ? a->w : NULL, omp_get_max_threads(), &param);
        if (!e) e = program_run(&g, &mem, param, NULL, &f, &(struct run_ctx){.threads = omp_get_max_threads()}, false);
        if (!e) e = program_read(&g, &mem, g.nll, n, 1, nll + 1, (size_t)(n - 1) * 4);
        memory_free(&mem);
        program_free(&g);
    }
    free(pos);
    free(weight);
    return e;
}

int cyc_score_ids(cyc_model *m, cyc_adapter *adapter, const int32_t *ids, size_t n, float *nll) {
    err e = check_ids(m, ids, n);
    if (!e && m->m.family->seq2seq) e = fail(E_UNSUPPORTED, "%s is an encoder-decoder (%s): it has no likelihood of one text, only of an answer to a prompt", m->m.path, model_arch(&m->m));
    if (e || n == 0) return api_code(e);
    nll[0] = 0;
    return n == 1 ? CYC_OK : api_code(score(m, adapter, ids, (int)n, nll));
}

/* --- features -------------------------------------------------------------------------------------------------------- */
int cyc_width(const cyc_model *m) { return m->weights ? (int)m->m.shape.width : 0; }

/* The mean of rows [n, C], of length 1 if wanted. */
static void pool(const float *rows, int n, int64_t C, bool normalize, float *out) {
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
    struct program g;
    struct memory mem = {0};
    const int64_t C = m->m.shape.width;
    int32_t *pos = calloc((size_t)n, sizeof *pos), cu[2] = {0, n};
    float *rows = malloc((size_t)(n * C) * sizeof *rows);
    void *param;
    /* features leave in the compute type; f32 is what the host adds up */
    err e = pos && rows ? program_build(&g, &m->m, MODE_FEATURES, a ? &a->st : NULL, (struct capacity){n, 1, 0, 0, DT_F32}, CHECKPOINT_NONE, backend_of(m), false) : fail(E_MEMORY, "out of memory");
    if (!e) {
        for (int i = 0; i < n; i++) pos[i] = i;
        struct feed f = {.ids = ids, .pos = pos, .cu = cu, .n = n, .s = 1};
        e = memory_for(&mem, (struct program *const[]){&g}, 1);
        if (!e) e = memory_bind(&mem, &g, a ? a->w : NULL, omp_get_max_threads(), &param);
        if (!e) e = program_run(&g, &mem, param, NULL, &f, &(struct run_ctx){.threads = omp_get_max_threads()}, false);
        if (!e) e = program_read(&g, &mem, g.features, n, 1, rows, (size_t)(n * C) * sizeof *rows);
        if (!e) pool(rows, n, C, normalize, out);
        memory_free(&mem);
        program_free(&g);
    }
    free(pos);
    free(rows);
    return e;
}

int cyc_embed_ids(cyc_model *m, cyc_adapter *adapter, const int32_t *ids, size_t n, int normalize, float *out) {
    err e = check_ids(m, ids, n);
    if (!e && n == 0) e = fail(E_USAGE, "no token to embed");
    return api_code(e ? e : embed(m, adapter, ids, (int)n, normalize != 0, out));
}

/* --- generation ------------------------------------------------------------------------------------------------------ */
static err run_generation(cyc_model *m, cyc_adapter *a, const struct generate_request *rq, struct generation *out, struct generate_stats *stats) {
    int longest = 1, total = 0;
    for (int i = 0; i < rq->n; i++) {
        if ((int)rq->prompt[i].n > longest) longest = (int)rq->prompt[i].n;
        total += (int)rq->prompt[i].n;
    }
    struct generator g;
    struct memory mem = {0};
    int pass = total < 512 ? total : 512;
    struct capacity cap = {pass > longest ? pass : longest, rq->n, rq->n < 64 ? rq->n : 64, longest + rq->max_new, m->compute};
    TRY(generator_build(&g, &m->m, a ? &a->st : NULL, cap, backend_of(m)));
    err e = memory_for(&mem, (struct program *const[]){&g.prefill, &g.decode}, 2);
    if (!e) e = generate(&g, &mem, a ? a->w : NULL, rq, out, stats);
    memory_free(&mem);
    generator_free(&g);
    return e;
}

int cyc_generate(cyc_model *m, cyc_adapter *adapter, const int32_t *const *prompt, const size_t *prompt_n, int n, const cyc_generate_options *opt,
                 cyc_generation *out, cyc_generate_stats *stats) {
    cyc_generate_options o = opt ? *opt : (cyc_generate_options){0};
    struct ids *p = calloc((size_t)(n > 0 ? n : 1), sizeof *p);
    struct generation *g = calloc((size_t)(n > 0 ? n : 1), sizeof *g);
    err e = p && g ? OK : fail(E_MEMORY, "out of memory");
    int new = o.max_new_tokens ? o.max_new_tokens : 64;
    for (int i = 0; i < n && !e; i++) {
        e = check_ids(m, prompt[i], prompt_n[i]);
        if (!e && prompt_n[i] + (size_t)new > (size_t)m->m.shape.context)
            e = fail(E_INPUT,
                     "a prompt of %zu tokens and up to %d new ones are more than the model's context of %lld: ask for fewer "
                     "(max_new_tokens) or shorten the prompt",
                     prompt_n[i], new, (long long)m->m.shape.context);
        for (size_t k = 0; k < prompt_n[i] && !e; k++) e = ids_push(&p[i], prompt[i][k]);
        /* an encoder's text ends with EOS, as in training (train/sft.c) */
        if (!e && m->m.family->seq2seq && prompt_n[i] && prompt[i][prompt_n[i] - 1] != tokenizer_eos(m->tok)) e = ids_push(&p[i], tokenizer_eos(m->tok));
    }
    struct generate_request rq = {.prompt = p, .n = n, .max_new = new, .eos = o.ignore_eos ? -1 : tokenizer_eos(m->tok), .on_token = o.on_token, .ctx = o.ctx};
    rq.run = (struct run_ctx){.seed = o.seed, .temperature = o.temperature, .top_p = o.top_p > 0 ? o.top_p : 1, .top_k = o.top_k, .threads = o.threads > 0 ? o.threads : omp_get_max_threads(), .int_activations = o.int_activations};
    struct generate_stats st = {0};
    if (!e && n > 0) e = run_generation(m, adapter, &rq, g, &st);
    for (int i = 0; i < n && !e; i++) out[i] = (cyc_generation){g[i].ids, (size_t)g[i].n, g[i].stopped};
    if (stats && !e) *stats = (cyc_generate_stats){st.prefill_s, st.decode_s, st.prompt_tokens, st.new_tokens, st.decoded_tokens};
    for (int i = 0; p && i < n; i++) ids_free(&p[i]);
    free(p);
    free(g);
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
