/* Data and configuration of a cycle from what people have, by a recipe (data/recipes.h): A.jsonl and B.jsonl, which share no pair,
 * warm.jsonl, dev.jsonl and test.jsonl of pairs, and a config.yaml that trains on them. The folder appears whole or not at all. Lengths
 * in the configuration are guesses from bytes, since no tokenizer is known here, and the file says so. Called by `cyclora data prepare`. */
#include "api/api.h"
#include "base/file.h"
#include "data/recipes.h"
#include "export/place.h"
#include "io/jsonl_out.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *const part_names[PARTS] = {"A", "B", "warm", "dev", "test"};

struct prepared {
    const struct recipe *recipe;
    const cyc_prepare_request *q;
    struct text_pairs pairs;
    int n[PARTS], longest; /* bytes of a text that one in a hundred is longer than */
};

/* --- texts ---------------------------------------------------------------------------------------------------------- */
static int by_size(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static err deal(struct prepared *p, str text[PARTS]) {
    const struct shares shares = {p->q->warm, p->q->dev, p->q->test};
    int *size = malloc(2 * (size_t)p->pairs.n * sizeof *size + 1), all = 2 * p->pairs.n;
    if (!size) return fail(E_MEMORY, "out of memory");
    for (int i = 0; i < p->pairs.n; i++) {
        const struct text_pair *t = &p->pairs.v[i];
        const enum part part = recipe_part(t->a, p->q->seed, &shares);
        if (part < PART_WARM) jsonl_add(&text[part], json_pack("{s:s}", "text", part == PART_A ? t->a : t->b));
        else jsonl_add(&text[part], json_pack("{s:s, s:s}", "a", t->a, "b", t->b));
        p->n[part]++;
        size[2 * i] = (int)strlen(t->a), size[2 * i + 1] = (int)strlen(t->b);
    }
    qsort(size, (size_t)all, sizeof *size, by_size);
    p->longest = all ? size[all - 1 - all / 100] : 0;
    free(size);
    for (int i = 0; i < PARTS; i++)
        if (text[i].failed) return fail(E_MEMORY, "out of memory");
    return OK;
}

/* No file may be empty, unless its share is 0. */
static err enough(const struct prepared *p) {
    const double share[PARTS] = {1, 1, p->q->warm, p->q->dev, p->q->test};
    for (int i = 0; i < PARTS; i++) {
        if (p->n[i] || share[i] == 0) continue;
        if (i < PART_WARM) return fail(E_INPUT, "%d pairs are too few: %s.jsonl would be empty", p->pairs.n, part_names[i]);
        return fail(E_INPUT, "of %d pairs none falls to %s.jsonl with a share of %g: raise --%s, or do without it (--%s 0)", p->pairs.n,
                    part_names[i], share[i], part_names[i], part_names[i]);
    }
    return OK;
}

/* --- the configuration ---------------------------------------------------------------------------------------------- */
/* A text as YAML has it between double quotes, which is as JSON has it. */
static void add_quoted(str *y, const char *fmt, const char *a, const char *b) {
    str s = {0};
    for (const char *p = fmt; *p; p++) {
        if (*p == '1') str_adds(&s, a);
        else if (*p == '2') str_adds(&s, b);
        else str_addc(&s, *p);
    }
    json_t *o = json_string(s.p ? s.p : "");
    char *text = o ? json_dumps(o, JSON_ENCODE_ANY) : NULL;
    str_adds(y, text ? text : "\"\"");
    y->failed |= !text;
    free(text);
    json_decref(o);
    str_free(&s);
}

static void add_file(str *y, const char *key, const struct prepared *p, enum part part) {
    str_addf(y, "  %s: ", key);
    add_quoted(y, part == PART_A ? "1/A.jsonl" : part == PART_B ? "1/B.jsonl" : "1/2.jsonl", p->q->out, part_names[part]);
    str_addc(y, '\n');
}

static void add_side(str *y, const struct prepared *p, bool b) {
    const char *name[2] = {p->q->names[0] ? p->q->names[0] : p->recipe->a, p->q->names[1] ? p->q->names[1] : p->recipe->b};
    str_addf(y, "%s:\n", b ? "B" : "A");
    add_file(y, "data", p, b ? PART_B : PART_A);
    str_adds(y, "  prompt: ");
    add_quoted(y, "1: {text}\n2:", name[b], name[!b]);
    if (p->n[PART_DEV] || p->n[PART_TEST]) str_addf(y, "\n  eval:\n    metrics: %s", b ? p->recipe->metrics_b : p->recipe->metrics_a);
    str_addc(y, '\n');
}

/* Bytes to tokens: about three of a text in English, fewer of others, so two are reckoned. */
static int tokens_of(const struct prepared *p) {
    const int n = (p->longest / 2 + 31) / 16 * 16;
    return n < 32 ? 32 : n > 512 ? 512 : n;
}

static void add_config(str *y, const struct prepared *p) {
    const int new = tokens_of(p);
    str_addf(y,
             "# Made by `cyclora data prepare %s`. A: %d texts, B: %d, of different pairs; %d pairs to begin with, %d to choose by, %d to "
             "end with.\n",
             p->recipe->name, p->n[PART_A], p->n[PART_B], p->n[PART_WARM], p->n[PART_DEV], p->n[PART_TEST]);
    if (*p->q->model) str_adds(y, "model: "), add_quoted(y, "1", p->q->model, ""), str_addc(y, '\n');
    else str_adds(y, "# model: a .gguf file or a Hugging Face folder (or: cyclora train CONFIG --set model=...)\n");
    str_adds(y, "objective: macct\noutput_dir: ");
    add_quoted(y, "1/run", p->q->out, "");
    str_addf(y, "\nseed: %llu\nmax_steps: 100\nper_device_train_batch_size: 8\nlearning_rate: 3.0e-4\n", (unsigned long long)p->q->seed);
    str_addf(y, "# guessed from the texts' bytes; `cyclora data stats FILE --model M` counts tokens\nmax_length: %d\nmax_new_tokens: %d\n",
             2 * new + new / 2 + 64, new);
    str_adds(y, "lora:\n  r: 16\n  lora_alpha: 32\n  target_modules: all-linear\n");
    add_side(y, p, false);
    add_side(y, p, true);
    if (p->n[PART_WARM]) str_adds(y, "warmup_pairs:\n"), add_file(y, "data", p, PART_WARM), str_adds(y, "  fields: [a, b]\n  epochs: 4\n");
    if (p->n[PART_DEV]) {
        str_adds(y, "eval:\n");
        add_file(y, "data", p, PART_DEV);
        str_addf(y, "  fields: [a, b]\n  limit: 128\neval_steps: 25\nmetric_for_best_model: %s\n", p->recipe->best);
    }
    if (p->n[PART_TEST]) str_adds(y, "test:\n"), add_file(y, "data", p, PART_TEST), str_adds(y, "  limit: 256\n");
}

/* --- the folder ------------------------------------------------------------------------------------------------------- */
static err write_all(const struct prepared *p, const struct place *at, const str text[PARTS], const str *config) {
    char path[4200];
    for (int i = 0; i < PARTS; i++) {
        if (!p->n[i]) continue;
        snprintf(path, sizeof path, "%s/%s.jsonl", at->tmp, part_names[i]);
        TRY(file_write(path, text[i].p, text[i].n));
    }
    snprintf(path, sizeof path, "%s/config.yaml", at->tmp);
    return file_write(path, config->p, config->n);
}

static err publish(const struct prepared *p, const str text[PARTS]) {
    struct place at;
    str config = {0};
    size_t bytes = 1 << 16;
    for (int i = 0; i < PARTS; i++) bytes += text[i].n;
    add_config(&config, p);
    err e = config.failed ? fail(E_MEMORY, "out of memory") : place_open(&at, p->q->out, true, false, bytes);
    if (e) return str_free(&config), e;
    e = write_all(p, &at, text, &config);
    if (e) place_abandon(&at);
    else e = place_publish(&at);
    str_free(&config);
    return e;
}

static err prepare(struct prepared *p) {
    const cyc_prepare_request *q = p->q;
    const struct recipe_input in = {q->files, q->n_files, q->field, q->field2};
    if (!(p->recipe = recipe_find(q->recipe))) return recipe_unknown(q->recipe);
    if (!(q->warm >= 0 && q->dev >= 0 && q->test >= 0 && q->warm + q->dev + q->test < 1))
        return fail(E_USAGE, "shares of %g, %g and %g leave nothing for A.jsonl and B.jsonl: they must be 0 at least, and together below 1",
                    q->warm, q->dev, q->test);
    if (path_exists(q->out)) return fail(E_USAGE, "%s exists already: name another folder, or remove it", q->out);
    TRY(recipe_read(p->recipe, &in, &p->pairs));
    str text[PARTS] = {{0}};
    err e = deal(p, text);
    if (!e) e = enough(p);
    if (!e) e = publish(p, text);
    for (int i = 0; i < PARTS; i++) str_free(&text[i]);
    return e;
}

int cyc_data_prepare(const cyc_prepare_request *q, char **json) {
    struct prepared p = {.q = q};
    err e = prepare(&p);
    json_t *o =
        e ? NULL
          : json_pack("{s:s, s:s, s:i, s:i}", "recipe", q->recipe, "out", q->out, "pairs", p.pairs.n, "duplicates", p.pairs.duplicates);
    for (int i = 0; i < PARTS && o; i++) json_object_set_new(o, part_names[i], json_integer(p.n[i]));
    text_pairs_free(&p.pairs);
    return e ? api_code(e) : api_json(o, json);
}
