/* Which runs a comparison has: the words of --methods, the points of --sweep, their learning rates. See compare.h.
 *
 * A word is a name of the table below or any other value of the key `method`; what it stands for are settings over the configuration. A key
 * without a section is the method's own (r of lora is lora.r), or a key of the configuration. Commas and colons inside brackets do not part.
 * Everything is held against the configuration before the first run starts: what a key does not take is refused here, what a base or an
 * objective does not take is found by the run and becomes a line of the table. */
#include "compare.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Learning rates of the methods, for AdamW: few numbers far from the loss want large steps. They are where a user would begin, not what is
 * best for a task. */
static const struct word {
    const char *name, *method, *set;
    double rate;
    const char *source;
} words[] = {{"head", "none", NULL, 1e-2, "logistic regression on fixed rows: docs/methods.md, Heads"},
             {"prompt", "prompt_tuning", NULL, 3e-2, "PEFT's example of prompt tuning"},
             {"p", "p_tuning", NULL, 1e-3, "PEFT's example of P-tuning"},
             {"prefix", "prefix_tuning", NULL, 1e-2, "PEFT's example of prefix tuning"},
             {"ia3", "ia3", NULL, 3e-3, "Liu et al. 2022 (T-Few)"},
             {"bitfit", "bitfit", NULL, 1e-3, "Ben Zaken et al. 2022: 1e-4 to 1e-3"},
             {"norms", "ln_tuning", NULL, 1e-3, "as bitfit: vectors of the base"},
             {"tokens", "trainable_tokens", NULL, 1e-3, "rows of the base, few of them"},
             {"lora", "lora", NULL, 5e-4, "Hu et al. 2022: 2e-4 to 5e-4"},
             {"dora", "lora", "lora.use_dora=true", 5e-4, "as lora"},
             {"rslora", "lora", "lora.use_rslora=true", 5e-4, "as lora"},
             {"lora+", "lora", "lora.loraplus_lr_ratio=16", 2e-4, "B learns 16 times as fast; A about half as fast as lora's"},
             {"pissa", "lora", "lora.init_lora_weights=pissa_niter_4", 2e-4, "gradients are large from the start on"},
             {"houlsby", "bottleneck", "bottleneck.config=double_seq_bn", 1e-3, "docs/methods.md, Bottleneck adapters"},
             {"pfeiffer", "bottleneck", "bottleneck.config=seq_bn", 1e-3, "as houlsby"},
             {"parallel", "bottleneck", "bottleneck.config=par_bn", 1e-4, "it reads rows before the norm, whose size grows"},
             {"full", "full", NULL, 5e-5, "Devlin et al. 2019: 2e-5 to 5e-5; a tenth of lora's"}};
enum { WORDS = sizeof words / sizeof *words, MOST_WORDS = 64, MOST_VALUES = 32, MOST_KEYS = 16, MOST_CELLS = 1024 };

int words_print(void) {
    static const char *const heads[] = {"METHOD", "settings", ">learning rate", "as"};
    struct table t = {0};
    for (int i = 0; i < 4; i++) table_head(&t, heads[i]);
    for (int i = 0; i < WORDS; i++) {
        table_text(&t, words[i].name);
        table_cell(&t, "method=%s%s%s", words[i].method, words[i].set ? " " : "", words[i].set ? words[i].set : "");
        table_cell(&t, "%g", words[i].rate);
        table_text(&t, words[i].source);
    }
    table_print(&t, "");
    printf("\nAny other value of the key `method` is a METHOD too, with the configuration's own learning rate.\n");
    return STATUS_OK;
}

/* --- text --------------------------------------------------------------------------------------------------------------- */
/* text at each `by` that stands in no bracket; at most `most` parts, or -1. */
static int split(arena *mem, const char *text, char by, const char **part, int most) {
    int n = 0, depth = 0;
    for (const char *from = text, *p = text;; p++) {
        if (*p == '[' || *p == '(' || *p == '{') depth++;
        if (*p == ']' || *p == ')' || *p == '}') depth--;
        if (*p && (*p != by || depth > 0)) continue;
        if (n == most) return -1;
        part[n++] = arena_strn(mem, from, (size_t)(p - from));
        from = p + 1;
        if (!*p) return n;
    }
}

static bool is_key(const char *name) {
    size_t n;
    const cyc_key *k = cyc_config_keys(&n);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(k[i].name, name)) return true;
    return false;
}

/* "r" of lora is "lora.r", "learning_rate" itself; NULL where neither is a key. */
static const char *full_key(arena *mem, const char *method, const char *key) {
    const char *own = arena_printf(mem, "%s.%s", method, key);
    return is_key(own) ? own : is_key(key) ? arena_str(mem, key) : NULL;
}

static int unknown_setting(const char *what, const char *method, const char *key) {
    const char *list[64];
    size_t n, section = strlen(method);
    int have = 0;
    const cyc_key *k = cyc_config_keys(&n);
    for (size_t i = 0; i < n && have < 63; i++)
        if (!strncmp(k[i].name, method, section) && k[i].name[section] == '.') list[have++] = k[i].name + section + 1;
    list[have] = NULL;
    const char *near = str_nearest(key, list);
    if (near) return cli_bad("compare: %s: %s has no setting '%s'; did you mean '%s'?", what, method, key, near);
    return cli_bad("compare: %s: '%s' is no setting of %s and no key of a configuration; `cyclora help config` lists them", what, key, method);
}

/* What the comparison itself says for each run. */
static const char *reserved(const char *key) {
    static const struct { const char *key, *why; } list[] = {{"method", "name it in --methods"}, {"seed", "--seeds says how many"}, {"output_dir", "--out says where all goes"},
                                                           {"logging_steps", "each step is logged, for its time"}, {"save_steps", "runs are short and start over"}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (!strcmp(list[i].key, key)) return list[i].why;
    return NULL;
}

/* --- words -------------------------------------------------------------------------------------------------------------- */
static bool is_method(const char *name) {
    size_t n, len = strlen(name);
    const cyc_key *k = cyc_config_keys(&n);
    while (n && strcmp(k->name, "method")) k++, n--;
    for (const char *p = n ? k->type : ""; *p;) {
        size_t m = strcspn(p, "|=");
        if (m == len && !strncmp(p, name, m)) return true;
        p += strcspn(p, "|");
        p += *p == '|';
    }
    return false;
}

static const struct word *word_of(const char *name) {
    for (int pass = 0; pass < 2; pass++) /* by its name here, else by the key's own word */
        for (int i = 0; i < WORDS; i++)
            if (!strcmp(name, pass ? words[i].method : words[i].name) && !(pass && words[i].set)) return &words[i];
    return NULL;
}

static const char *method_of(const char *name) {
    const struct word *w = word_of(name);
    return w ? w->method : name;
}

static int unknown_method(const char *name) {
    const char *list[WORDS + 1];
    for (int i = 0; i < WORDS; i++) list[i] = words[i].name;
    list[WORDS] = NULL;
    const char *near = str_nearest(name, list);
    if (near) return cli_bad("compare: unknown method '%s'; did you mean '%s'?", name, near);
    return cli_bad("compare: unknown method '%s'; `cyclora compare --list` shows them", name);
}

static int add_set(struct comparison *c, struct cell *x, const char *key, const char *value) {
    if (x->sets == MOST_SETS) return cli_bad("compare: %s has more than %d settings", x->name, MOST_SETS);
    x->set[x->sets++] = arena_printf(&c->mem, "%s=%s", key, value);
    return STATUS_OK;
}

static const char *value_of(const struct cell *x, const char *key) {
    size_t n = strlen(key);
    for (int i = 0; i < x->sets; i++)
        if (!strncmp(x->set[i], key, n) && x->set[i][n] == '=') return x->set[i] + n + 1;
    return NULL;
}

/* "key=value" of a word or a point, as a setting of x. */
static int own_setting(struct comparison *c, struct cell *x, const char *text) {
    const char *eq = strchr(text, '=');
    if (!eq || eq == text) return cli_bad("compare: '%s' of %s is not key=value", text, x->name);
    const char *given = arena_strn(&c->mem, text, (size_t)(eq - text)), *key = full_key(&c->mem, method_of(x->method), given);
    if (!key) return unknown_setting(x->name, method_of(x->method), given);
    if (reserved(key)) return cli_bad("compare: %s: '%s' is not set for one method: %s", x->name, key, reserved(key));
    if (value_of(x, key)) return cli_bad("compare: %s: '%s' is set twice", x->name, key);
    return add_set(c, x, key, eq + 1);
}

/* "lora", "full:learning_rate=1e-4:layers=last-4" */
static int cell_of_word(struct comparison *c, const char *text, struct cell *x) {
    const char *part[MOST_SETS];
    int n = split(&c->mem, text, ':', part, MOST_SETS);
    *x = (struct cell){.name = text, .method = n > 0 ? part[0] : text};
    if (n < 0) return cli_bad("compare: '%s' has more than %d parts", text, MOST_SETS);
    if (!*x->method) return cli_bad("compare: an empty name in --methods");
    const struct word *w = word_of(x->method);
    if (!w && !is_method(x->method)) return unknown_method(x->method);
    int status = add_set(c, x, "method", method_of(x->method));
    if (!status && w && w->set) status = own_setting(c, x, w->set);
    for (int i = 1; i < n && !status; i++) {
        status = own_setting(c, x, part[i]);
        x->name = arena_printf(&c->mem, "%s %s", i > 1 ? x->name : x->method, part[i]);
    }
    return status;
}

/* --- sweeps ------------------------------------------------------------------------------------------------------------- */
struct sweep {
    const char *method, *key, *given; /* "dora", "lora.r", "r" */
    const char *value[MOST_VALUES];
    int n, words;                     /* of --methods, which cell */
};

/* Whose a key without a name is: the first method that has all such keys. */
static int owner_of(struct comparison *c, int n_words, const struct sweep *s, int n) {
    for (int w = 0; w < n_words; w++) {
        bool all = true;
        for (int i = 0; i < n; i++)
            if (!s[i].method) all = all && is_key(arena_printf(&c->mem, "%s.%s", method_of(c->cell[w].method), s[i].given));
        if (all) return w;
    }
    return -1;
}

static int sweep_parse(struct comparison *c, const char *text, struct sweep *s) {
    const char *eq = strchr(text, '=');
    if (!eq || eq == text) return cli_bad("compare: --sweep wants key=value,value,... found '%s'", text);
    s->given = arena_strn(&c->mem, text, (size_t)(eq - text));
    const char *dot = strchr(s->given, '.');
    const char *name = dot ? arena_strn(&c->mem, s->given, (size_t)(dot - s->given)) : NULL;
    if (name && (word_of(name) || is_method(name))) s->method = name, s->given = dot + 1;
    s->n = split(&c->mem, eq + 1, ',', s->value, MOST_VALUES);
    if (s->n < 0) return cli_bad("compare: --sweep %s has more than %d values", s->given, MOST_VALUES);
    for (int i = 0; i < s->n; i++)
        if (!*s->value[i]) return cli_bad("compare: --sweep %s has an empty value", s->given);
    return STATUS_OK;
}

static int sweep_place(struct comparison *c, struct sweep *s, int n_words, int owner) {
    int w = owner;
    for (int i = n_words - 1; s->method && i >= 0; i--)
        if (!strcmp(c->cell[i].method, s->method)) w = i;
    if (s->method && (w < 0 || strcmp(c->cell[w].method, s->method)))
        return cli_bad("compare: --sweep of '%s', which is not among --methods %s", s->method, c->methods);
    if (w < 0) return cli_bad("compare: none of --methods %s has a setting '%s' (of one method: METHOD.%s=...)", c->methods, s->given, s->given);
    const struct cell *x = &c->cell[s->words = w];
    s->key = full_key(&c->mem, method_of(x->method), s->given);
    if (!s->key) return unknown_setting("--sweep", method_of(x->method), s->given);
    if (reserved(s->key)) return cli_bad("compare: --sweep %s: %s", s->key, reserved(s->key));
    if (value_of(x, s->key)) return cli_bad("compare: --sweep %s clashes with %s, which sets it to %s", s->given, x->name, value_of(x, s->key));
    return STATUS_OK;
}

/* All combinations of the values that cell w is swept over. */
static int grid(struct comparison *c, int w, const struct sweep *s, int n) {
    const struct sweep *of[MOST_KEYS];
    int keys = 0, at[MOST_KEYS] = {0};
    for (int i = 0; i < n; i++)
        if (s[i].words == w) of[keys++] = &s[i];
    while (keys) {
        if (c->n == MOST_CELLS) return cli_bad("compare: more than %d rows", MOST_CELLS);
        struct cell *x = &c->cell[c->n++];
        *x = c->cell[w];
        x->swept = true;
        for (int k = 0; k < keys; k++) {
            const char *value = of[k]->value[at[k]];
            x->name = arena_printf(&c->mem, "%s %s=%s", x->name, of[k]->given, value);
            int status = add_set(c, x, of[k]->key, value);
            if (status) return status;
        }
        int k = keys - 1;
        while (k >= 0 && ++at[k] == of[k]->n) at[k--] = 0;
        if (k < 0) break;
    }
    return STATUS_OK;
}

static int sweeps_make(struct comparison *c, int n_words) {
    struct sweep s[MOST_KEYS] = {{0}};
    int n = c->sweeps.n, status = STATUS_OK;
    if (n > MOST_KEYS) return cli_bad("compare: at most %d --sweep", MOST_KEYS);
    for (int i = 0; i < n && !status; i++) status = sweep_parse(c, c->sweeps.v[i], &s[i]);
    const int owner = status ? -1 : owner_of(c, n_words, s, n);
    for (int i = 0; i < n && !status; i++) {
        status = sweep_place(c, &s[i], n_words, owner);
        for (int k = 0; k < i && !status; k++)
            if (s[k].words == s[i].words && !strcmp(s[k].key, s[i].key)) status = cli_bad("compare: --sweep %s is given twice", s[i].key);
    }
    for (int w = 0; w < n_words && !status; w++) status = grid(c, w, s, n);
    return status;
}

/* --- learning rates and the configuration ------------------------------------------------------------------------------ */
static int rates_set(struct comparison *c, double fallback) {
    bool used[64] = {false};
    for (int i = 0; i < c->n; i++) {
        struct cell *x = &c->cell[i];
        const struct word *w = word_of(x->method);
        const char *own = value_of(x, "learning_rate"), *given = NULL;
        for (int k = 0; k < c->rates.n && k < 64; k++) {
            size_t n = strlen(x->method);
            if (strncmp(c->rates.v[k], x->method, n) || c->rates.v[k][n] != '=') continue;
            given = c->rates.v[k] + n + 1, used[k] = true;
        }
        x->rate_from = own ? "own" : given ? "--lr" : w ? "usual" : "configuration";
        x->rate = own ? strtod(own, NULL) : given ? strtod(given, NULL) : w ? w->rate : fallback;
        if (own) continue;
        char number[32];
        snprintf(number, sizeof number, "%g", x->rate);
        int status = add_set(c, x, "learning_rate", given ? given : number);
        if (status) return status;
    }
    for (int k = 0; k < c->rates.n; k++)
        if (k >= 64 || !used[k]) return cli_bad("compare: --lr wants METHOD=RATE of one of --methods %s, found '%s'", c->methods, c->rates.v[k]);
    return STATUS_OK;
}

/* What the resolved configuration says of a key, "seed" or "test.data"; "" where it says nothing. */
static const char *line_of(arena *mem, const char *yaml, const char *key) {
    const char *dot = strchr(key, '.'), *name = dot ? dot + 1 : key;
    const char *line = dot ? strstr(yaml, arena_printf(mem, "\n%.*s:\n", (int)(dot - key), key)) : yaml;
    if (line) line = strstr(line, arena_printf(mem, "\n%s%s: ", dot ? "  " : "", name));
    if (!line) return "";
    line += strlen(name) + (dot ? 5 : 3);
    const char *text = arena_strn(mem, line, strcspn(line, "\n"));
    json_t *quoted = *text == '"' ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
    if (quoted) text = arena_str(mem, json_string_value(quoted));
    json_decref(quoted);
    return text;
}

/* The configuration with x's settings (NULL: none), as text: a wrong value is said here. */
static int resolved(struct comparison *c, const struct cell *x, char **yaml) {
    struct arg_list all = {.v = calloc((size_t)(c->sets->n + MOST_SETS), sizeof *all.v)};
    cyc_config *cfg = NULL;
    if (!all.v) return cli_bad("out of memory");
    for (int i = 0; i < c->sets->n; i++) all.v[all.n++] = c->sets->v[i];
    for (int i = 0; x && i < x->sets; i++) all.v[all.n++] = x->set[i];
    int status = config_open(c->config, &all, &cfg);
    if (!status && cyc_config_text(cfg, yaml)) status = cli_failed(CYC_FAILED);
    if (cfg) cyc_config_free(cfg);
    free(all.v);
    return status;
}

/* A point of a grid that a row has already is that row; two rows of --methods that are one run are a mistake. */
static int same_once(struct comparison *c, int n_words) {
    char **yaml = calloc((size_t)c->n, sizeof *yaml);
    int status = yaml ? STATUS_OK : cli_bad("out of memory"), kept = 0;
    for (int i = 0; i < c->n && !status; i++) {
        char *text = NULL;
        if ((status = resolved(c, &c->cell[i], &text))) break;
        int k = 0;
        while (k < kept && strcmp(yaml[k], text) != 0) k++;
        if (k == kept) {
            c->cell[kept] = c->cell[i];
            yaml[kept++] = text;
            continue;
        }
        cyc_free(text);
        c->cell[k].swept = true;
        if (i < n_words) status = cli_bad("compare: '%s' and '%s' are the same run", c->cell[k].name, c->cell[i].name);
    }
    for (int k = 0; yaml && k < kept; k++) cyc_free(yaml[k]);
    free(yaml);
    c->n = kept;
    return status;
}

int cells_make(struct comparison *c) {
    const char *part[MOST_WORDS];
    char *text = NULL;
    int n = split(&c->mem, c->methods, ',', part, MOST_WORDS), status = resolved(c, NULL, &text);
    if (status) return status;
    const char *yaml = arena_printf(&c->mem, "\n%s", text); /* so that each key begins a line */
    cyc_free(text);
    const double rate = strtod(line_of(&c->mem, yaml, "learning_rate"), NULL);
    c->first_seed = strtoll(line_of(&c->mem, yaml, "seed"), NULL, 10);
    c->keeps_features = !*line_of(&c->mem, yaml, "features.cache");
    c->scored = (struct scored){line_of(&c->mem, yaml, "test.data"), line_of(&c->mem, yaml, "model"), line_of(&c->mem, yaml, "device"), line_of(&c->mem, yaml, "dtype"), line_of(&c->mem, yaml, "max_new_tokens")};
    if (!*c->scored.data) c->scored.data = line_of(&c->mem, yaml, "eval.data");
    const char *objective = line_of(&c->mem, yaml, "objective");
    const bool blind = !*c->scored.data && strtod(line_of(&c->mem, yaml, "eval.split"), NULL) == 0 && strcmp(objective, "macct"); /* whose round trip needs no data of its own */
    if (strcmp(objective, "sft")) c->score = 0;
    if (!c->out) c->out = line_of(&c->mem, yaml, "output_dir");
    if (!*c->out) return cli_bad("compare: 'output_dir' is not set in %s, and --out is not given", c->config);
    if (blind) return cli_bad("compare: %s names no held-out data (test.data, eval.data or eval.split) to compare by", c->config);
    if (n < 0) return cli_bad("compare: more than %d --methods", MOST_WORDS);
    c->cell = arena_alloc(&c->mem, MOST_CELLS * sizeof *c->cell);
    if (!c->cell) return cli_bad("out of memory");
    for (; c->n < n && !status; c->n++) status = cell_of_word(c, part[c->n], &c->cell[c->n]);
    if (!status) status = sweeps_make(c, n);
    if (!status) status = rates_set(c, rate);
    return status ? status : same_once(c, n);
}
