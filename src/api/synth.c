/* Pairs of instruction and output that a local teacher writes in the likeness of seeds (data/sieve.h says what is kept of them).
 *
 * Texts are asked for in rounds of `batch`. Which seeds a text's prompt shows, and the key that its tokens are drawn by, are functions of
 * the request's seed and the text's number alone, so the same request gives the same bytes. Each round is appended to OUT.work when it is
 * written; its first line is what the texts depend on, and a request that finds its own there takes the rounds that are whole as they are
 * and goes on. OUT and its card come when all is done, and OUT.work goes. Refused: an output that exists, another request's OUT.work, a
 * control token in a seed, a prompt that leaves no room in the context. Called by `cyclora data synth`. */
#include "api/api.h"
#include "base/file.h"
#include "base/philox.h"
#include "data/rewrite.h"
#include "data/sieve.h"
#include "io/jsonl_out.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char default_template[] =
    "Write one more instruction and its output, in the form of these examples and about something else.\n\n{examples}\n";
enum { PURPOSE_SYNTH = 0x5359, TAIL = 8 }; /* TAIL: tokens in which the end mark is looked for */

struct synth {
    cyc_model *m;
    cyc_adapter *a;
    const cyc_synth_request *q;
    const char *template;
    bool chat;
    struct sieve sieve;
    json_t *teacher, *head; /* of every row's provenance; what the texts depend on */
    json_t *card, *rows;
    str first, journal; /* the journal's first line; what was in it */
    size_t journal_at;  /* what comes next of what an earlier process has left */
    char work[4200];
    int asked;
};

/* What the API said of a failure, as a code of that class; its message stands. */
static err of_code(int code) { return code == CYC_OK ? OK : code == CYC_BAD_INPUT ? E_INPUT : E_INTERNAL; }

/* --- what is asked for ------------------------------------------------------------------------------------------------ */
/* Seeds of a text's prompt, none twice. */
static void draw(const struct synth *s, int attempt, int *which, int n) {
    const uint64_t key = philox_key(s->q->seed, PURPOSE_SYNTH);
    uint32_t turn = 0;
    for (int i = 0; i < n;) {
        const int pick = (int)(philox(key, (uint32_t)attempt, turn++, 0, 0).v[0] % (uint32_t)s->sieve.n_seeds);
        bool fresh = true;
        for (int k = 0; k < i; k++) fresh = fresh && which[k] != pick;
        if (fresh) which[i++] = pick;
    }
}

/* For JSON: 53 bits. */
static uint64_t sampling_seed(const struct synth *s, int round) {
    const struct philox r = philox(philox_key(s->q->seed, PURPOSE_SYNTH), (uint32_t)round, 0, 1, 0);
    return ((uint64_t)(r.v[0] & 0x1FFFFF) << 32) | r.v[1];
}

static int shown(const struct synth *s) { return s->q->examples < s->sieve.n_seeds ? s->q->examples : s->sieve.n_seeds; }

static err prompt_ids(const struct synth *s, int attempt, int *which, int32_t **ids, size_t *n) {
    str text = {0};
    char *turn = NULL;
    draw(s, attempt, which, shown(s));
    err e = sieve_prompt(&s->sieve, s->template, which, shown(s), &text);
    while (!e && text.n && strchr(" \n", text.p[text.n - 1])) text.p[--text.n] = 0;
    int code = CYC_OK;
    if (!e && s->chat) {
        code = cyc_chat_prompt(s->m, text.p, &turn);
        str_clear(&text);
        if (!code) str_adds(&text, turn);
    } else str_adds(&text, "\n\n");
    str_adds(&text, SIEVE_HEAD);
    if (!e && text.failed) e = fail(E_MEMORY, "out of memory");
    if (!e && !code) code = cyc_tokenize_around(s->m, text.p, text.n, CYC_BEFORE, ids, n);
    cyc_free(turn);
    str_free(&text);
    return e ? e : of_code(code);
}

/* --- a round ---------------------------------------------------------------------------------------------------------- */
struct round {
    int first, n;
    int *which;  /* [n][shown] */
    str *text;   /* [n] */
    bool *ended; /* [n] */
};

static void round_free(struct round *r) {
    for (int i = 0; r->text && i < r->n; i++) str_free(&r->text[i]);
    free(r->which);
    free(r->text);
    free(r->ended);
}

struct watch {
    const struct synth *s;
    int32_t (*tail)[TAIL];
    int *n;
};

/* Stops a row whose pair is closed. */
static int on_token(void *ctx, int row, int32_t id) {
    struct watch *w = ctx;
    int32_t *tail = w->tail[row];
    str text = {0};
    if (w->n[row] == TAIL) memmove(tail, tail + 1, (TAIL - 1) * sizeof *tail), w->n[row]--;
    tail[w->n[row]++] = id;
    const bool decoded = !tokenizer_decode(w->s->m->tok, tail, (size_t)w->n[row], DECODE_GOES_ON, &text);
    const int stop = decoded && text.p && strstr(text.p, SIEVE_END);
    str_free(&text);
    return stop || *api_stop();
}

static err write_texts(const struct synth *s, struct round *r, int round) {
    const cyc_synth_request *q = s->q;
    int32_t **ids = calloc((size_t)r->n, sizeof *ids);
    size_t *lengths = calloc((size_t)r->n, sizeof *lengths);
    cyc_generation *g = calloc((size_t)r->n, sizeof *g);
    struct watch w = {s, calloc((size_t)r->n, sizeof *w.tail), calloc((size_t)r->n, sizeof *w.n)};
    err e = ids && lengths && g && w.tail && w.n ? OK : fail(E_MEMORY, "out of memory");
    for (int i = 0; i < r->n && !e; i++) e = prompt_ids(s, r->first + i, r->which + i * shown(s), &ids[i], &lengths[i]);
    const cyc_generate_options opt = {.max_new_tokens = q->max_new_tokens,
                                      .temperature = (float)q->temperature,
                                      .top_p = (float)q->top_p,
                                      .seed = sampling_seed(s, round),
                                      .threads = q->threads,
                                      .on_token = on_token,
                                      .ctx = &w};
    int code = e ? CYC_OK : cyc_generate(s->m, s->a, (const int32_t *const *)ids, lengths, r->n, &opt, g, NULL);
    if (!e && *api_stop()) code = CYC_OK, e = fail(E_INTERRUPTED, "stopped");
    for (int i = 0; i < r->n && !e && !code; i++) {
        e = tokenizer_decode(s->m->tok, g[i].ids, g[i].n, DECODE_SKIP_SPECIAL, &r->text[i]);
        utf8_repair(&r->text[i]);
        str_adds(&r->text[i], "");
        if (r->text[i].p) r->text[i].n = strlen(r->text[i].p); /* a NUL ends it */
        r->ended[i] = g[i].stopped;
    }
    for (int i = 0; i < r->n; i++) {
        if (ids) cyc_free(ids[i]);
        if (g) cyc_free(g[i].ids);
    }
    free(ids), free(lengths), free(g), free(w.tail), free(w.n);
    return e ? e : of_code(code);
}

/* --- the journal -------------------------------------------------------------------------------------------------------- */
/* The next whole line of what was there when this process began; NULL: there is none. The caller drops it. */
static json_t *journal_next(struct synth *s) {
    const char *line = s->journal.p ? s->journal.p + s->journal_at : NULL, *end = line ? strchr(line, '\n') : NULL;
    json_t *o = end ? json_loadb(line, (size_t)(end - line), 0, NULL) : NULL;
    if (o) s->journal_at += (size_t)(end - line) + 1;
    return o;
}

/* Takes what an earlier process has left, if it is this request's. */
static err journal_open(struct synth *s) {
    jsonl_add(&s->first, json_incref(s->head));
    if (s->first.failed) return fail(E_MEMORY, "out of memory");
    if (!path_exists(s->work)) return OK;
    TRY(file_read(s->work, &s->journal));
    if (s->journal.n < s->first.n || memcmp(s->journal.p, s->first.p, s->first.n) != 0)
        return fail(E_USAGE,
                    "%s is what another request has left, with other settings: ask for the same again to go on there, or remove it",
                    s->work);
    s->journal_at = s->first.n;
    return OK;
}

/* What was left of a line that was not whole goes, before more is appended. */
static err journal_trim(struct synth *s) {
    const size_t whole = s->journal_at;
    if (whole == s->journal.n) return OK;
    s->journal.n = whole;
    s->journal.p[whole] = 0;
    return file_write(s->work, s->journal.p, whole);
}

static err round_read(struct synth *s, struct round *r, bool *found) {
    json_t *o = journal_next(s), *texts = json_object_get(o, "texts"), *ended = json_object_get(o, "ended");
    *found = o && json_array_size(texts) == (size_t)r->n && json_array_size(ended) == (size_t)r->n;
    for (int i = 0; *found && i < r->n; i++) {
        const char *text = json_string_value(json_array_get(texts, (size_t)i));
        str_adds(&r->text[i], text ? text : "");
        r->ended[i] = json_is_true(json_array_get(ended, (size_t)i));
        draw(s, r->first + i, r->which + i * shown(s), shown(s));
        if (r->text[i].failed) return json_decref(o), fail(E_MEMORY, "out of memory");
    }
    json_decref(o);
    return *found ? OK : journal_trim(s);
}

static err round_append(const struct synth *s, const struct round *r) {
    json_t *texts = json_array(), *ended = json_array();
    for (int i = 0; i < r->n; i++) {
        json_array_append_new(texts, json_stringn(r->text[i].p, r->text[i].n));
        json_array_append_new(ended, json_boolean(r->ended[i]));
    }
    str line = {0};
    jsonl_add(&line, json_pack("{s:o, s:o}", "texts", texts, "ended", ended));
    err e = line.failed ? fail(E_MEMORY, "out of memory") : OK;
    if (!e && !path_exists(s->work)) e = file_write(s->work, s->first.p, s->first.n);
    if (!e) e = file_append(s->work, line.p, line.n);
    str_free(&line);
    return e;
}

/* --- rows ------------------------------------------------------------------------------------------------------------------ */
static void add_row(struct synth *s, const struct round *r, int i, int round, const struct seed *pair) {
    json_t *from = json_array(), *provenance = json_deep_copy(s->teacher);
    for (int k = 0; k < shown(s); k++) {
        const struct seed *seed = &s->sieve.seed[r->which[i * shown(s) + k]];
        json_array_append_new(from, json_sprintf("%s:%d", seed->path, seed->line));
    }
    json_object_set_new(provenance, "seeds", from);
    json_object_set_new(provenance, "number", json_integer(r->first + i));
    json_object_set_new(provenance, "sampling", json_pack("{s:I, s:i}", "seed", (json_int_t)sampling_seed(s, round), "row", i));
    json_array_append_new(s->rows, json_pack("{s:s, s:s, s:s, s:o}", "instruction", pair->instruction, "input", "", "output", pair->output,
                                             "provenance", provenance));
}

static int kept(const struct synth *s) { return (int)s->sieve.count[FATE_KEPT]; }

static err take_round(struct synth *s, int round) {
    struct round r = {.first = s->asked, .n = s->q->batch};
    bool found;
    r.which = calloc((size_t)(r.n * shown(s)), sizeof *r.which);
    r.text = calloc((size_t)r.n, sizeof *r.text);
    r.ended = calloc((size_t)r.n, sizeof *r.ended);
    err e = r.which && r.text && r.ended ? round_read(s, &r, &found) : fail(E_MEMORY, "out of memory");
    if (!e && !found && !(e = write_texts(s, &r, round))) e = round_append(s, &r);
    for (int i = 0; i < r.n && !e && kept(s) < s->q->n && s->asked < s->q->most; i++) {
        enum fate fate;
        struct seed pair;
        s->asked++;
        e = sieve_take(&s->sieve, r.text[i].p, r.ended[i], &fate, &pair);
        if (!e && fate == FATE_KEPT) add_row(s, &r, i, round, &pair);
    }
    round_free(&r);
    return e ? e : (int)json_array_size(s->rows) == kept(s) ? OK : fail(E_MEMORY, "out of memory");
}

/* --- the whole ---------------------------------------------------------------------------------------------------------- */
static err open_seeds(struct synth *s, struct source *seeds) {
    const cyc_synth_request *q = s->q;
    TRY(source_open_files(&(struct source_file){.path = q->seeds, .field = q->field, .field2 = q->field2}, 1,
                          &(struct source_options){.want = q->field2 ? WANT_PAIR : WANT_SFT, .in_memory = UINT64_MAX}, seeds));
    json_object_set_new(s->head, "seeds", json_string(seeds->hash));
    card_inputs(s->card, "inputs", seeds);
    return sieve_seeds(&s->sieve, seeds);
}

static err read_against(struct synth *s) {
    const cyc_synth_request *q = s->q;
    struct source set;
    struct source_file *f = calloc((size_t)q->n_against + 1, sizeof *f);
    for (int i = 0; f && i < q->n_against; i++)
        f[i] = (struct source_file){.path = q->against[i], .field = q->against_field, .field2 = q->against_field2};
    err e = f ? OK : fail(E_MEMORY, "out of memory");
    if (e || !q->n_against) return free(f), e;
    e = source_open_files(f, q->n_against, &(struct source_options){.want = WANT_ANY, .in_memory = UINT64_MAX}, &set);
    free(f);
    if (e) return e;
    card_inputs(s->card, "against", &set);
    e = sieve_against(&s->sieve, &set);
    source_close(&set);
    return e;
}

/* Who writes, and how: what rows and card say. */
static err describe(struct synth *s) {
    const cyc_synth_request *q = s->q;
    char model[33], template[33], adapter[33] = "", path[4200];
    model_hash(&s->m->m, model);
    bytes_hash(s->template, strlen(s->template), template);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", q->adapter_name ? q->adapter_name : "");
    if (q->adapter_name && path_exists(path)) TRY(file_hash(path, adapter));
    s->teacher = json_pack("{s:s, s:s, s:s, s:b, s:f, s:f}", "teacher", s->m->m.path, "teacher_xxh128_of_tensors", model, "template_xxh128",
                           template, "chat", s->chat, "temperature", q->temperature, "top_p", q->top_p);
    if (q->adapter_name) json_object_set_new(s->teacher, "adapter", json_string(q->adapter_name));
    if (*adapter) json_object_set_new(s->teacher, "adapter_xxh128", json_string(adapter));
    s->head = json_pack("{s:O, s:s, s:i, s:i, s:i, s:I}", "teacher", s->teacher, "template", s->template, "examples", q->examples,
                        "max_new_tokens", q->max_new_tokens, "batch", q->batch, "seed", (json_int_t)q->seed);
    s->card = card_begin("synth", cyc_version());
    s->rows = json_array();
    return s->teacher && s->head && s->card && s->rows ? OK : fail(E_MEMORY, "out of memory");
}

static err check(const cyc_synth_request *q) {
    if (path_exists(q->out)) return fail(E_USAGE, "%s exists already: name another file, or remove it", q->out);
    if (!(q->temperature > 0)) return fail(E_USAGE, "temperature %g: without sampling a prompt has one text alone", q->temperature);
    if (!(q->top_p > 0 && q->top_p <= 1)) return fail(E_USAGE, "top_p %g is not above 0 and at most 1", q->top_p);
    if (!(q->likeness > 0 && q->likeness <= 1)) return fail(E_USAGE, "a likeness of %g is not above 0 and at most 1", q->likeness);
    if (q->n < 1 || q->most < q->n || q->examples < 1 || q->batch < 1 || q->max_new_tokens < 1 || q->least_words < 1 || q->run < 1)
        return fail(E_USAGE, "counts must be 1 at least, and no fewer texts may be asked for than pairs are wanted");
    return OK;
}

static void fill_card(struct synth *s) {
    const cyc_synth_request *q = s->q;
    json_object_set(s->card, "teacher", s->teacher);
    json_object_update_new(json_object_get(s->card, "settings"),
                           json_pack("{s:i, s:i, s:i, s:i, s:i, s:f, s:i, s:i, s:I, s:s}", "n", q->n, "most", q->most, "examples",
                                     q->examples, "max_new_tokens", q->max_new_tokens, "batch", q->batch, "likeness", q->likeness,
                                     "least_words", q->least_words, "run", q->run, "seed", (json_int_t)q->seed, "template", s->template));
    card_count(s->card, "asked", s->asked);
    for (int i = 0; i < FATES; i++) card_count(s->card, fate_name((enum fate)i), s->sieve.count[i]);
}

static err nothing_kept(const struct synth *s) {
    char *counts = json_dumps(json_object_get(s->card, "counts"), JSON_COMPACT);
    err e = fail(E_NUMERIC, "of %d texts that %s wrote none could be kept: %s", s->asked, s->m->m.path, counts ? counts : "");
    free(counts);
    return e;
}

static err publish(struct synth *s) {
    struct output out;
    const json_t *row;
    size_t i;
    fill_card(s);
    if (!kept(s)) return nothing_kept(s);
    TRY(output_open(&out, s->q->out, &(struct rewriting){.files = &(struct source_file){.path = s->q->seeds}, .n = 1}));
    err e = OK;
    json_array_foreach(s->rows, i, row) if (!e) e = output_line(&out, json_incref((json_t *)row));
    if (e) output_abandon(&out);
    else e = output_commit(&out, json_object_get(s->card, "outputs"));
    if (!e) e = card_write(s->card, s->q->out);
    if (!e) remove(s->work);
    return e;
}

static err synth(struct synth *s, struct source *seeds) {
    const cyc_synth_request *q = s->q;
    TRY(check(q));
    if (!s->m->weights) return fail(E_USAGE, "this handle is a tokenizer alone");
    TRY(describe(s));
    TRY(open_seeds(s, seeds));
    TRY(read_against(s));
    TRY(journal_open(s));
    for (int round = 0; kept(s) < q->n && s->asked < q->most; round++) {
        TRY(take_round(s, round));
        if (q->on_round) q->on_round(q->ctx, kept(s), s->asked);
    }
    return publish(s);
}

int cyc_data_synth(cyc_model *m, cyc_adapter *a, const cyc_synth_request *q, char **json) {
    struct synth s = {.m = m, .a = a, .q = q, .template = q->form ? q->form : default_template};
    struct source seeds = {0};
    s.chat = !q->raw && tokenizer_template(m->tok);
    s.sieve.rules = (struct sieve_rules){q->likeness, q->least_words, 150, q->run};
    snprintf(s.work, sizeof s.work, "%s.work", q->out);
    *json = NULL;
    err e = synth(&s, &seeds);
    *api_stop() = 0;
    int code = e ? api_code(e) : api_json((struct json_t *)json_incref(s.card), json);
    json_decref(s.teacher);
    json_decref(s.head);
    json_decref(s.card);
    json_decref(s.rows);
    str_free(&s.first);
    str_free(&s.journal);
    sieve_free(&s.sieve);
    source_close(&seeds);
    return code;
}
