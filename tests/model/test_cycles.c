/* Cycles of other shapes than two sides on one decoder (test_macct.c, test_text_path.c): rings, several pairs, encoder-decoders, a model for each
 * side. A part of a step is held, to the bit, against one that is laid together by hand from the texts in the files. Runs that must come to
 * the same are compared: one in two pieces, a pair beside another, and dmcct's adapters of a base that is there twice with macct's. */
#define _GNU_SOURCE
#include "support/settings.h"
#include "support/support.h"
#include "base/file.h"
#include "train/run.h"
#include <ctype.h>

#define DATA GOLDEN "/cipher/"
enum { ROWS = 4 };
static char root[] = "/tmp/cyclora_cycles_XXXXXX";

static const char *at(const char *name) {
    static char ring[8][256];
    static int next;
    char *s = ring[next++ % 8];
    snprintf(s, sizeof ring[0], "%s/%s", root, name);
    return s;
}

/* --- files of the test's own --------------------------------------------------------------------------------------- */
static void write_json(const char *name, json_t *j) {
    if (json_dump_file(j, at(name), 0)) flunk("%s cannot be written", at(name));
    json_decref(j);
}

/* T5's shape with the cipher's vocabulary; its tokenizer with two letters exchanged; texts of two more sides, and all four in pairs. */
static int make_root(void **state) {
    (void)state;
    if (!mkdtemp(root)) return -1;
    json_t *t5 = json_load_file(GOLDEN "/families/t5/config.json", 0, NULL), *tok = json_load_file(DATA "tokenizer.json", 0, NULL);
    json_object_set_new(t5, "vocab_size", json_integer(48));
    write_json("t5.json", t5);
    json_t *vocab = json_object_get(json_object_get(tok, "model"), "vocab");
    const json_int_t a = json_integer_value(json_object_get(vocab, "a"));
    json_object_set_new(vocab, "a", json_incref(json_object_get(vocab, "b")));
    json_object_set_new(vocab, "b", json_integer(a));
    must(dir_make(at("other")));
    write_json("other/tokenizer.json", tok);
    str config = {0};
    must(file_read(DATA "tokenizer_config.json", &config));
    must(file_write(at("other/tokenizer_config.json"), config.p, config.n));
    str_free(&config);
    FILE *in = fopen(DATA "test.jsonl", "r"), *c = fopen(at("c.jsonl"), "w"), *d = fopen(at("d.jsonl"), "w"),
         *all = fopen(at("pairs.jsonl"), "w");
    char line[512];
    for (int i = 0; i < 40 && in && c && d && all && fgets(line, sizeof line, in); i++) {
        json_t *j = json_loads(line, 0, NULL);
        const char *ta = json_string_value(json_object_get(j, "a")), *tb = json_string_value(json_object_get(j, "b"));
        fprintf(c, "{\"text\": \"%sq\"}\n", ta);
        fprintf(d, "{\"text\": \"%sQ\"}\n", tb);
        fprintf(all, "{\"a\": \"%s\", \"b\": \"%s\", \"c\": \"%sq\", \"d\": \"%sQ\"}\n", ta, tb, ta, tb);
        json_decref(j);
    }
    if (!in || !c || !d || !all) return -1;
    fclose(in), fclose(c), fclose(d), fclose(all);
    return 0;
}

static int remove_root(void **state) {
    (void)state;
    return dir_remove(root) != OK;
}

/* --- runs ----------------------------------------------------------------------------------------------------------- */
#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
static void set_path(struct config *c, const char *key, const char *name) {
    char set[320];
    snprintf(set, sizeof set, "%s=%s", key, at(name));
    must(config_set(c, set));
}

static void settings(struct config *c, int sides, const char *const *more) {
    static const char *const sets[] = {"model=" DATA,
                                       "A.data=" DATA "a.jsonl",
                                       "B.data=" DATA "b.jsonl",
                                       "per_device_train_batch_size=4",
                                       "max_new_tokens=8",
                                       "max_length=48",
                                       "pass_tokens=64",
                                       "lora.r=4",
                                       "learning_rate=1e-2",
                                       "threads=1",
                                       "max_steps=3"};
    config_with(c, sets, sizeof sets / sizeof *sets, NULL);
    if (sides > 2) set_path(c, "C.data", "c.jsonl");
    if (sides > 3) set_path(c, "D.data", "d.jsonl");
    for (int i = 0; more && more[i]; i++) must(config_set(c, more[i]));
}

static void t5_model(struct config *c, const char *side, const char *ids) {
    char key[64], set[320];
    snprintf(set, sizeof set, "%smodel=random:1:f32", side);
    must(config_set(c, set));
    snprintf(key, sizeof key, "%smodel_config", side);
    set_path(c, key, "t5.json");
    snprintf(set, sizeof set, "%stokenizer=%s", side, ids);
    must(config_set(c, set));
}

static void start(struct run *r, struct config *c) {
    must(run_open(r, c));
    must(run_start(r));
}

static void finish(struct run *r, struct config *c) {
    run_close(r);
    config_free(c);
}

static void steps(struct run *r, int n) {
    for (int i = 0; i < n; i++) {
        struct step_info info = {0};
        must(r->objective->step(r, &info));
        r->step++;
    }
}

static void same_weights(const struct side *a, const struct side *b) {
    const size_t n = a->plans->st.params.bytes;
    assert_int_equal(n, b->plans->st.params.bytes);
    assert_memory_equal(a->learner.w, b->learner.w, n);
}

/* --- a part of a step by hand ---------------------------------------------------------------------------------------- */
static char *text_of(struct side *s, int i) {
    struct fetcher f = {0};
    struct record rec;
    must(source_fetch(&s->source, i, &f, &rec));
    char *text = strdup(rec.text);
    fetcher_free(&f);
    return text;
}

/* [head text tail], and of an encoder-decoder its EOS. */
static void prompt_of(const struct side *s, const struct ids *text, struct ids *out) {
    *out = (struct ids){0};
    must(prompt_form_wrap(&s->form, text->v, text->n, out));
    if (s->base->model.family->seq2seq) must(ids_push(out, s->base->eos));
}

/* What was written for `to`, as ids of its own. */
static void received(const struct side *to, const struct generation *g, bool by_text, struct ids *out) {
    *out = (struct ids){0};
    for (int k = 0; k < g->n && !by_text; k++) must(ids_push(out, g->ids[k]));
    if (!by_text) return;
    str text = {0};
    must(tokenizer_decode(to->from->base->tok, g->ids, (size_t)g->n, true, &text));
    const char *t = text.p ? text.p : "";
    while (isspace((unsigned char)*t)) t++;
    must(prompt_form_text(to->base->tok, &to->form, t, out));
    str_free(&text);
}

static void row_of(const struct side *s, const struct ids *prompt, const char *answer, struct rows *out) {
    struct ids ids = {0}, told = {0};
    const bool apart = s->base->model.family->seq2seq;
    for (size_t k = 0; k < prompt->n; k++) must(ids_push(&ids, prompt->v[k]));
    if (apart) must(ids_push(&ids, s->base->model.shape.start));
    must(prompt_form_text(s->base->tok, &s->form, answer, &told));
    must(ids_push(&told, s->base->eos));
    must(rows_add(out, ids.v, ids.n, told.v, told.n));
    if (apart) out->r[out->n - 1].source = (int)prompt->n;
    ids_free(&ids);
    ids_free(&told);
}

static void part(struct run *r, int which, bool by_text, uint64_t key, struct step_result *out) {
    struct side *s = &r->side[which];
    char *real[ROWS];
    struct ids prompt[ROWS];
    struct generation made[ROWS];
    struct rows rows = {0};
    const struct row *list[ROWS];
    for (int i = 0; i < ROWS; i++) {
        struct ids text = {0};
        real[i] = text_of(s->next, order_next(&s->next->order));
        must(prompt_form_text(s->next->base->tok, &s->next->form, real[i], &text));
        prompt_of(s->next, &text, &prompt[i]);
        ids_free(&text);
    }
    for (struct side *w = s->next; w != s; w = w->next) {
        must(generate_texts(r, (int)(w - r->side), prompt, ROWS, (int)w->cfg->max_new_tokens, w->cfg->temperature, key++, made, NULL));
        for (int i = 0; i < ROWS; i++) {
            struct ids text;
            received(w->next, &made[i], by_text, &text);
            ids_free(&prompt[i]);
            prompt_of(w->next, &text, &prompt[i]);
            ids_free(&text);
            free(made[i].ids);
        }
    }
    for (int i = 0; i < ROWS; i++) {
        row_of(s, &prompt[i], real[i], &rows);
        ids_free(&prompt[i]);
        free(real[i]);
    }
    for (int i = 0; i < ROWS; i++) list[i] = &rows.r[i];
    must(learner_step(&s->learner, &r->wb, list, ROWS, (uint64_t)r->cfg->seed, (uint64_t)(r->n_sides * r->step + which), out));
    rows_free(&rows);
}

/* Two runs of one configuration: one goes by itself, the other by hand. hops: generations of one part. */
static void by_hand(struct config *one, struct config *two, bool by_text, int hops, int n_steps) {
    struct run r, hand;
    start(&r, one);
    start(&hand, two);
    for (int step = 0; step < n_steps; step++) {
        struct step_info info = {0};
        must(r.objective->step(&r, &info));
        for (int i = 0; i < r.n_sides; i++) {
            struct step_result want;
            part(&hand, i, by_text, (uint64_t)(hops * (r.n_sides * step + i)), &want);
            assert_int_equal(info.side[i].tokens, want.tokens);
            assert_int_equal(info.side[i].supervised, want.supervised);
            if (info.side[i].loss != want.loss)
                flunk("side %s, step %d: loss %.9g, by hand %.9g", r.side[i].name, step, info.side[i].loss, want.loss);
        }
        r.step++, hand.step++;
    }
    for (int i = 0; i < r.n_sides; i++) same_weights(&r.side[i], &hand.side[i]);
    finish(&r, one);
    finish(&hand, two);
}

/* Three sides on one encoder-decoder, each with lengths and a temperature of its own, with dropout. */
static void test_ring_of_t5(void **state) {
    (void)state;
    struct config c[2];
    for (int i = 0; i < 2; i++) {
        settings(&c[i], 3,
                 LIST("generation.temperature=0.8", "B.generation.temperature=0", "B.max_new_tokens=6", "C.max_length=40",
                      "lora.lora_dropout=0.1", "C.lora.r=2", "A.prompt=a{text}\n", "B.prompt=bb{text}\n"));
        t5_model(&c[i], "", DATA "tokenizer.json");
    }
    by_hand(&c[0], &c[1], false, 2, 2);
}

/* A decoder and an encoder-decoder with another tokenizer: found by the hash, and both ways through text, real text too. */
static void test_two_families(void **state) {
    (void)state;
    struct config c[2];
    struct run r;
    for (int i = 0; i < 2; i++) {
        settings(&c[i], 2, LIST("objective=dmcct", "generation.temperature=0.8"));
        t5_model(&c[i], "B.", at("other/tokenizer.json"));
    }
    must(run_open(&r, &c[0]));
    assert_true(r.side[0].by_text && r.side[1].by_text && r.side[0].answers.n == r.side[0].n_texts);
    assert_int_equal(r.foot.data, data_bytes(&r));
    run_close(&r);
    by_hand(&c[0], &c[1], true, 1, 2);
}

/* --- runs that come to the same ------------------------------------------------------------------------------------------ */
/* A base that is there twice, each side's adapter on its own: nothing else is different, so the numbers are macct's. Neither copy changes. */
static void test_dmcct_is_macct(void **state) {
    (void)state;
    struct config c[2];
    struct run one, two;
    char before[33], after[33];
    settings(&c[0], 2, LIST("generation.temperature=0.8"));
    settings(&c[1], 2, LIST("generation.temperature=0.8", "objective=dmcct"));
    start(&one, &c[0]);
    start(&two, &c[1]);
    assert_int_equal(two.n_bases, 2);
    assert_ptr_not_equal(two.side[0].base->model.w[0].data, two.side[1].base->model.w[0].data);
    assert_false(two.side[0].by_text || two.side[1].by_text || two.side[0].answers.n);
    assert_int_equal(two.foot.weights, 2 * one.foot.weights);
    model_hash(&one.base[0].model, before);
    steps(&one, 2);
    steps(&two, 2);
    for (int i = 0; i < 2; i++) {
        same_weights(&one.side[i], &two.side[i]);
        model_hash(&two.base[i].model, after);
        assert_string_equal(before, after);
    }
    finish(&one, &c[0]);
    finish(&two, &c[1]);
}

static size_t in_vectors(const struct param_set *set) {
    size_t n = 0;
    for (int i = 0; i < set->n; i++) n += set->p[i].nd == 1 ? (size_t)set->p[i].d[0] : 0;
    return n;
}

/* Two models that are trained whole are two of everything, but for the gradient, which is one model's at a time: of θ parameters 2θ(p + 64) bits
 * with AdamW's states, p = 32, or (narrow) 16 and, of vectors' numbers, 16 more. */
static void full_models(const char *const *how, bool narrow) {
    struct config c;
    struct run r;
    settings(&c, 2, how);
    start(&r, &c);
    const struct param_set *set = &r.side[0].plans->st.params;
    const size_t n = (size_t)r.base[0].model.parameters, model = narrow ? 2 * (n + in_vectors(set)) : 4 * n;
    assert_int_equal(param_count(set), n);
    assert_int_equal(r.foot.adapters, 2 * model);
    assert_int_equal(r.foot.optimizer, 4 * 4 * n);
    assert_int_equal(r.foot.gradients, 4 * n);
    assert_true(r.foot.weights < n / 4); /* what no side reads of a file any more is not counted beside its copies */
    assert_true(r.side[0].learner.w != r.side[1].learner.w);
    char hash[2][33], now[33];
    for (int i = 0; i < 2; i++) model_hash(&r.base[i].model, hash[i]);
    steps(&r, 1);
    for (int i = 0; i < 2; i++) {
        model_hash(&r.base[i].model, now);
        assert_string_equal(hash[i], now);
    }
    assert_memory_not_equal(r.side[0].learner.w, r.side[1].learner.w, model);
    finish(&r, &c);
}

static void test_full_models(void **state) {
    (void)state;
    full_models(LIST("objective=dmcct", "method=full", "learning_rate=1e-3"), false);
    full_models(LIST("objective=dmcct", "method=full", "learning_rate=1e-3", "dtype=bfloat16", "trained_dtype=bfloat16"), true);
}

/* Greedy and without dropout a pair learns the same with another pair beside it. */
static void test_two_pairs(void **state) {
    (void)state;
    struct config c[2];
    struct run one, two;
    settings(&c[0], 2, NULL);
    settings(&c[1], 4, LIST("cycles=[A-B, C-D]"));
    start(&one, &c[0]);
    start(&two, &c[1]);
    steps(&one, 2);
    steps(&two, 2);
    for (int i = 0; i < 2; i++) same_weights(&one.side[i], &two.side[i]);
    finish(&one, &c[0]);
    finish(&two, &c[1]);
}

/* To the end, or (stop_at) so many steps and a checkpoint. */
static void whole_run(const char *out, bool resume, int stop_at, json_t **evals) {
    struct config c;
    struct run r;
    bool found;
    settings(&c, 3,
             LIST("generation.temperature=0.8", "lora.lora_dropout=0.1", "warmup_pairs.fields=a,b,c", "warmup_pairs.limit=4",
                  "warmup_pairs.epochs=1", "eval.fields=a,b,c", "eval.limit=2", "metric_for_best_model=chrf"));
    set_path(&c, "warmup_pairs.data", "pairs.jsonl");
    set_path(&c, "eval.data", "pairs.jsonl");
    set_path(&c, "output_dir", out);
    must(run_open(&r, &c));
    must(folder_check(&r, resume));
    must(run_start(&r));
    must(folder_begin(&r, resume));
    if (resume) must(checkpoint_resume(&r, &found));
    if (stop_at) steps(&r, stop_at);
    must(stop_at ? checkpoint_save(&r, NULL) : run_loop(&r, &(struct run_events){0}));
    if (evals) *evals = json_deep_copy(r.evals);
    finish(&r, &c);
}

/* A ring of three, with pairs of three fields: it runs to its end, and in two pieces to the same bits. */
static void test_ring_resumes(void **state) {
    (void)state;
    json_t *evals;
    whole_run("straight", false, 0, &evals);
    whole_run("pieces", false, 2, NULL);
    whole_run("pieces", true, 0, NULL);
    for (int i = 0; i < 3; i++) {
        char a[64], b[64];
        snprintf(a, sizeof a, "straight/checkpoint-4/%c/adapter_model.safetensors", "ABC"[i]);
        snprintf(b, sizeof b, "pieces/checkpoint-4/%c/adapter_model.safetensors", "ABC"[i]);
        if (!same_bytes(at(a), at(b))) flunk("%s and %s differ", a, b);
        snprintf(a, sizeof a, "straight/%c/adapter_config.json", "ABC"[i]);
        assert_true(path_exists(at(a)));
    }
    const json_t *last = json_array_get(evals, json_array_size(evals) - 1), *sides = json_object_get(last, "sides");
    assert_int_equal(json_array_size(sides), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(sides, 2), "direction")), "C→A");
    assert_string_equal(json_string_value(json_object_get(json_object_get(last, "round_trip"), "way")), "A→B→C→A");
    const json_t *sample = json_array_get(json_object_get(last, "samples"), 0);
    assert_int_equal(json_array_size(json_object_get(sample, "via")), 1);
    json_decref(evals);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ring_of_t5),     cmocka_unit_test(test_two_families),
                                       cmocka_unit_test(test_dmcct_is_macct), cmocka_unit_test(test_full_models),
                                       cmocka_unit_test(test_two_pairs),      cmocka_unit_test(test_ring_resumes)};
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
