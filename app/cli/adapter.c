/* `cyclora adapter`: adapters made of adapters, cyc_adapter_rework(). The ways share their options; each takes those that mean something
 * to it. Printed: what was made, and of singular values what each module kept. */
#include "args.h"
#include "cli.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char help_adapter[] =
    "Makes an adapter of another, or of several, from their folders alone: no base is read.\n"
    "\n"
    "Usage: cyclora adapter resize DIR --rank R --out OUT\n"
    "       cyclora adapter average DIR... --out OUT [--weights W,W,...] [--type svd|cat|linear] [--rank R]\n"
    "       cyclora adapter ties DIR... --density D --out OUT [--weights W,W,...] [--sign total|frequency]\n"
    "       cyclora adapter dare DIR... --density D --out OUT [--weights W,W,...] [--ties] [--sign ...] [--seed S]\n"
    "       cyclora adapter prune DIR... --density D --out OUT [--weights W,W,...]\n"
    "\n"
    "  resize           a LoRA of another rank: the best there is, by the singular vectors of each module's product; a greater\n"
    "                   rank leaves the product as it is and gives it room to learn\n"
    "  average          the weighted sum of adapters. Of LoRA --type svd (default): of the rank --rank, or the greatest of\n"
    "                   them; cat: exactly, of the sum of their ranks; linear: A and B summed apart, of the same rank, a rough\n"
    "                   approximation. Of other methods the mean of all tensors: settings and shapes must be the same, weights\n"
    "                   sum to 1\n"
    "  ties             TIES: the greatest numbers of A and of B alone, and of these the ones of the elected sign\n"
    "  dare             DARE: random numbers left out, the others divided by the density; --ties elects signs too\n"
    "  prune            the greatest numbers alone, then the sum\n"
    "  DIR              an adapter's folder in PEFT's layout, of any origin\n"
    "  --weights W,...  one for each adapter; default 1/n each, 1 each where signs are elected\n"
    "  --density D      the part of the numbers that stays, above 0 and at most 1\n"
    "  --sign S         what elects a sign: total, the sum of the numbers (default), or frequency, how many have it\n"
    "  --seed S         of what dare leaves out, and of the new rows of a greater rank (default 0)\n"
    "  --base NAME      the base's name in the result, where the adapters name it differently; else they must agree\n"
    "  --force          replaces what is there\n"
    "  --json           what was made, by module, as one JSON object\n"
    "\n"
    "Types are those of PEFT's add_weighted_adapter. ties, dare and prune go number by number over A and B, as there, so a\n"
    "module has one rank in all adapters; resize gives it. A module that only some adapters have is made of those. DoRA can be\n"
    "resized, not added.\n"
    "\n"
    "Examples:\n"
    "  cyclora adapter resize runs/mine/adapter --rank 4 --out mine-r4\n"
    "  cyclora adapter average runs/a/adapter runs/b/adapter --weights 0.7,0.3 --out both\n"
    "  cyclora adapter ties runs/a/adapter runs/b/adapter --density 0.2 --out both\n"
    "\n"
    "Exit status: 0; 1 where writing failed; 2 for adapters that do not go together, with the reason; 130 interrupted, with\n"
    "nothing left.\n";

struct asked {
    struct arg_list dirs;
    const char *weights, *type, *sign;
    bool ties, force, json;
    double *w;
    cyc_rework_options o;
};

/* --- printing ------------------------------------------------------------------------------------------------------------ */
static void print_ranks(struct table *t, const json_t *ranks) {
    str text = {0};
    for (size_t i = 0; i < json_array_size(ranks); i++) {
        const json_t *r = json_array_get(ranks, i);
        if (json_is_null(r)) str_addf(&text, "%s-", i ? ", " : "");
        else str_addf(&text, "%s%d", i ? ", " : "", (int)json_integer_value(r));
    }
    table_text(t, text.p ? text.p : "");
    str_free(&text);
}

static void print_modules(const json_t *modules) {
    struct table t = {0};
    static const char *const heads[] = {"module", ">rank of", ">rank", ">energy kept", ">relative error"};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) table_head(&t, heads[i]);
    for (size_t i = 0; i < json_array_size(modules); i++) {
        const json_t *m = json_array_get(modules, i);
        table_text(&t, json_text(m, "module"));
        print_ranks(&t, json_object_get(m, "ranks"));
        table_number(&t, m, "rank", "%.0f");
        table_cell(&t, "%.4f %%", 100 * json_num(m, "kept"));
        table_number(&t, m, "error", "%.2e");
    }
    table_print(&t, "  ");
}

static void print(const json_t *o) {
    const json_t *adapters = json_object_get(o, "adapters"), *modules = json_object_get(o, "modules"), *worst = json_object_get(o, "worst");
    printf("%s%s%s  %s", term_bold(), json_text(o, "out"), term_off(), json_text(o, "how"));
    for (size_t i = 0; i < json_array_size(adapters); i++) {
        const json_t *a = json_array_get(adapters, i);
        printf("%s%s", i ? ", " : " of ", json_text(a, "folder"));
        if (strcmp(json_text(o, "how"), "resize")) printf(" x %g", json_num(a, "weight"));
    }
    putchar('\n');
    if (worst) print_modules(modules);
    printf("  %s, ", json_text(o, "method"));
    if (json_array_size(modules)) printf("%d modules, ", (int)json_array_size(modules));
    printf("%.0f tensors, %s parameters, %s\n", json_num(o, "tensors"), show_count(json_num(o, "parameters")), show_bytes(json_num(o, "bytes")));
    if (worst)
        printf("  kept      %.4f %% of the energy (squares) of all changes; worst relative error %.2e (%s)\n", 100 * json_num(o, "kept"),
               json_num(worst, "error"), json_text(worst, "module"));
}

/* --- asking -------------------------------------------------------------------------------------------------------------- */
static int take_weights(struct asked *a) {
    size_t n = 1;
    for (const char *p = a->weights; *p; p++) n += *p == ',';
    if (!(a->w = calloc(n, sizeof *a->w))) return cli_bad("out of memory");
    const char *p = a->weights;
    for (size_t i = 0; i < n; i++) {
        char *end;
        a->w[i] = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !isfinite(a->w[i]))
            return cli_bad("adapter: --weights wants numbers with commas between them, not '%s'", a->weights);
        p = end + 1;
    }
    a->o.weights = a->w, a->o.n_weights = n;
    return -1;
}

static int choose(struct asked *a, const char *way) {
    static const char *const types[] = {"svd", "cat", "linear", NULL};
    const bool average = !strcmp(way, "average"), dare = !strcmp(way, "dare"), signs = dare ? a->ties : !strcmp(way, "ties");
    bool known = !a->type;
    for (int i = 0; types[i] && !known; i++) known = !strcmp(a->type, types[i]);
    if (!known) return cli_bad("adapter: there is no --type '%s' of an average: svd, cat and linear are", a->type);
    if (a->type && !average) return cli_bad("adapter: --type goes with average");
    if (a->ties && !dare) return cli_bad("adapter: --ties goes with dare");
    if (a->sign && !signs) return cli_bad("adapter: --sign goes with ties, and with dare --ties");
    if (a->sign && strcmp(a->sign, "total") && strcmp(a->sign, "frequency"))
        return cli_bad("adapter: --sign '%s' is neither total nor frequency", a->sign);
    if (!strcmp(way, "resize") && a->weights) return cli_bad("adapter: --weights has no use for one adapter's rank");
    a->o.how = a->type ? a->type : dare ? a->ties ? "dare_ties" : "dare_linear" : !strcmp(way, "prune") ? "magnitude_prune" : way;
    a->o.sign_by_count = a->sign && !strcmp(a->sign, "frequency");
    return -1;
}

static int check(struct asked *a, const char *way) {
    static const char *const ways[] = {"resize", "average", "ties", "dare", "prune", NULL};
    int i = 0;
    while (ways[i] && strcmp(ways[i], way)) i++;
    const char *near = ways[i] ? NULL : str_nearest(way, ways);
    if (near) return cli_bad("adapter: there is no '%s'; did you mean '%s'?", way, near);
    if (!ways[i]) return cli_bad("adapter: there is no '%s'; resize, average, ties, dare and prune are", way);
    if (!a->dirs.n) return args_missing("adapter", "DIR");
    if (i == 0 && !a->o.rank) return args_missing("adapter", "--rank");
    if (i >= 2 && isnan(a->o.density)) return args_missing("adapter", "--density");
    if (!a->o.out) return args_missing("adapter", "--out");
    if (isnan(a->o.density)) a->o.density = 0; /* not said */
    const int status = choose(a, way);
    return status < 0 && a->weights ? take_weights(a) : status;
}

static int run(struct asked *a) {
    char *text = NULL;
    a->o.force = a->force;
    const int code = cyc_adapter_rework(a->dirs.v, (size_t)a->dirs.n, &a->o, &text);
    if (code) return cli_failed(code);
    json_t *o = json_take(text);
    if (a->json) return json_line(o), STATUS_OK;
    print(o);
    json_decref(o);
    return STATUS_OK;
}

int cmd_adapter(int argc, char **argv) {
    struct asked a = {.o.density = NAN};
    const char *way = NULL;
    const struct arg args[] = {{"WAY", ARG_TEXT, &way, 0},          {"DIR", ARG_LIST, &a.dirs, 0},       {"--rank", ARG_INT, &a.o.rank, 1},     {"--density", ARG_REAL, &a.o.density, 0},
                               {"--weights", ARG_TEXT, &a.weights, 0}, {"--type", ARG_TEXT, &a.type, 0}, {"--sign", ARG_TEXT, &a.sign, 0},      {"--ties", ARG_FLAG, &a.ties, 0},
                               {"--seed", ARG_SEED, &a.o.seed, 0},  {"--base", ARG_TEXT, &a.o.base, 0},  {"--out", ARG_TEXT, &a.o.out, 0},      {"--force", ARG_FLAG, &a.force, 0},
                               {"--json", ARG_FLAG, &a.json, 0},    {0}};
    int status = args_parse("adapter", argc, argv, args);
    if (status < 0) status = way ? check(&a, way) : args_missing("adapter", "resize, average, ties, dare or prune");
    if (status < 0) status = run(&a);
    free(a.dirs.v);
    free(a.w);
    return status;
}
