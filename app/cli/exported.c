/* See exported.h. */
#define _POSIX_C_SOURCE 200809L
#include "exported.h"
#include "cli.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <ctype.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_signal(int sig) {
    (void)sig;
    cyc_stop();
}

void exported_signals(void) {
    struct sigaction stop = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is a full disk, not a death */
}

/* --- printing -------------------------------------------------------------------------------------------------------- */
static void print_types(const json_t *types) {
    const char *name, *comma = "";
    json_t *bytes;
    json_object_foreach((json_t *)types, name, bytes) {
        printf("%s%s %s", comma, name, show_bytes(json_number_value(bytes)));
        comma = ", ";
    }
}

void exported_plan(void *ctx, const char *text) {
    (void)ctx;
    json_t *o = json_loads(text, 0, NULL), *a = json_object_get(o, "adapter"), *m = json_object_get(o, "memory");
    printf("%s%s%s  from %s, %s, %s parameters, %s\n", term_bold(), json_text(o, "path"), term_off(), json_text(o, "base"),
           json_text(o, "architecture"), show_count(json_num(o, "parameters")), show_bytes(json_num(o, "base_bytes")));
    if (a && !json_num(a, "modules")) printf("  adapter   %s: nothing but the head\n", json_text(a, "path"));
    else if (a && strcmp(json_text(a, "method"), "lora") && json_is_true(json_object_get(a, "products")))
        printf("  adapter   %s: %s as products of rank %.0f%s on %.0f matrices\n", json_text(a, "path"), json_text(a, "method"),
               json_num(a, "rank"), json_is_true(json_object_get(a, "patterns")) ? " or less" : "", json_num(a, "modules"));
    else if (a && strcmp(json_text(a, "method"), "lora"))
        printf("  adapter   %s: %.0f trained tensors of the base (%s)\n", json_text(a, "path"), json_num(a, "modules"),
               json_text(a, "method"));
    else if (a)
        printf("  adapter   %s: %s of rank %.0f on %.0f matrices%s%s%s\n", json_text(a, "path"),
               json_is_true(json_object_get(a, "dora")) ? "DoRA" : "LoRA", json_num(a, "rank"), json_num(a, "modules"),
               json_is_true(json_object_get(a, "rslora")) ? ", rsLoRA" : "",
               json_is_true(json_object_get(a, "patterns")) ? ", ranks or alphas by module" : "",
               json_is_true(json_object_get(o, "undo")) ? "; it is taken off" : "");
    const double stay = json_num(o, "parameters_after");
    if (!isnan(stay)) printf("  stay      %s parameters, %.1f %%\n", show_count(stay), 100 * stay / json_num(o, "parameters"));
    const json_t *head = json_object_get(o, "head");
    if (head) printf("  head      %s (%s), as transformers has it\n", json_text(head, "is"), json_text(head, "module"));
    printf("  writes    %.0f tensors, %s: ", json_num(o, "tensors"), show_bytes(json_num(o, "bytes")));
    print_types(json_object_get(o, "types"));
    printf("\n  memory    planned %s (writing %s, checking %s, kept %s) beside the mapped files\n", show_bytes(json_num(m, "planned")),
           show_bytes(json_num(m, "write")), show_bytes(json_num(m, "check")), show_bytes(json_num(m, "kept")));
    fflush(stdout);
    json_decref(o);
}

void exported_progress(void *ctx, size_t done, size_t total) {
    (void)ctx;
    char line[64];
    snprintf(line, sizeof line, "  %.0f %% of %s", 100.0 * (double)done / (double)total, show_bytes((double)total));
    if (term_tty()) progress_show(line);
}

static void print_logits(const json_t *c) {
    str token = {0};
    char bound[32] = "";
    printf("  checked   %.0f rows, %.0f tokens: ", json_num(c, "rows"), json_num(c, "tokens"));
    if (json_num(c, "worst") == 0) {
        printf("every logit is the same to the last bit\n");
        return;
    }
    text_one_line(&token, json_text(c, "token"), 24);
    if (!isnan(json_num(c, "bound"))) snprintf(bound, sizeof bound, " (bound %.2g)", json_num(c, "bound"));
    printf("worst logit difference %.3g (row %.0f, position %.0f, token %.0f%s%s%s), %.2g of the "
           "logits' spread%s\n",
           json_num(c, "worst"), json_num(c, "row"), json_num(c, "position"), json_num(c, "id"), token.n ? " '" : "",
           token.n ? token.p : "", token.n ? "'" : "", json_num(c, "relative"), bound);
    str_free(&token);
}

static void print_check(const json_t *c) {
    print_logits(c);
    double kl = json_num(c, "mean_kl"), moved = json_num(c, "adapter_kl");
    printf("            mean KL %.3g nats, same first choice at %.0f of %.0f", kl, json_num(c, "same_top"), json_num(c, "tokens"));
    if (!isnan(moved)) printf("; the adapter moves the base by %.3g", moved);
    if (moved > 0 && kl > 0.1 * moved) printf(", and rounding costs %.0f %% of that: a larger --type keeps more", 100 * kl / moved);
    putchar('\n');
}

static void print_likeness(const json_t *l) {
    const double n = json_num(l, "tokens"), before = json_num(l, "perplexity_base"), after = json_num(l, "perplexity");
    printf("  quality   %.0f tokens: mean KL %.4g nats (worst %.3g), same first choice at %.1f %%; perplexity %.3f -> %.3f (%+.2f %%)\n", n,
           json_num(l, "mean_kl"), json_num(l, "worst_kl"), 100 * json_num(l, "same_top") / n, before, after, 100 * (after / before - 1));
}

void exported_done(void *ctx, const char *text) {
    (void)ctx;
    json_t *o = json_loads(text, 0, NULL);
    progress_clear();
    const json_t *check = json_object_get(o, "check");
    printf("  written   %s in %.2f s, %s/s; peak %s\n", show_bytes(json_num(o, "bytes")), json_num(o, "seconds"),
           show_bytes(json_num(o, "bytes_per_second")), show_bytes(json_num(json_object_get(o, "memory"), "peak")));
    const json_t *w = json_object_get(o, "weights_check");
    if (w)
        printf("  weights   %.0f tensors against the base%s: worst error %.2g of a row's size (%s in %s, bound %.2g)\n",
               json_num(w, "tensors"), json_object_get(o, "adapter") ? " with its deltas" : "", json_num(w, "relative"),
               json_text(w, "tensor"), json_text(w, "dtype"), json_num(w, "bound"));
    if (check) print_check(check);
    if (json_object_get(o, "likeness")) print_likeness(json_object_get(o, "likeness"));
    const json_t *u = json_object_get(o, "undone");
    if (!u && json_is_true(json_object_get(o, "undo"))) printf("  undone    with no base to compare with (--like BASE)\n");
    if (u)
        printf(
            "  undone    worst difference to %s %.3g (%s in %s), in all %.2g of the matrices' size; %.1f %% of the numbers are the same\n",
            json_text(u, "like"), json_num(u, "worst"), json_text(u, "tensor"), json_text(u, "dtype"), json_num(u, "relative"),
            100 * json_num(u, "same"));
    json_decref(o);
}

/* --- sizes ------------------------------------------------------------------------------------------------------------ */
int exported_shard(const char *text, int64_t *bytes) {
    static const struct {
        const char *unit;
        double each;
    } units[] = {{"", 1},      {"B", 1},      {"KB", 1e3},      {"MB", 1e6},        {"GB", 1e9},
                 {"TB", 1e12}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}};
    char *end;
    double n = strtod(text, &end);
    while (isspace((unsigned char)*end)) end++;
    for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++)
        if (!strcmp(end, units[i].unit) && n >= 1 && n * units[i].each < 1e18) return *bytes = (int64_t)(n * units[i].each), -1;
    return cli_bad("--max-shard-size wants a size such as 5GB or 500MB, not '%s'", text);
}
