/* `cyclora plan --explain`: the static sums of DMCCT and MACCT with numbers in them. Every number is the library's. */
#include "report.h"
#include "cli.h"
#include "term.h"
#include <stdio.h>
#include <string.h>

/* "7.353e9", "21.76", "16": up to `digits`, exponents without their "+0". The last few calls stay valid. */
static const char *number(double x, int digits) {
    static char ring[16][32];
    static unsigned turn;
    char *s = ring[turn++ % 16], *e;
    snprintf(s, sizeof ring[0], "%.*g", digits, x);
    if ((e = strstr(s, "e+"))) {
        char *from = e + 2;
        while (*from == '0') from++;
        memmove(e + 1, from, strlen(from) + 1);
    }
    return s;
}

/* With the digits that a sum can be checked by: "20.00 GB", "213.8 MB". */
static const char *bytes(double n) {
    static char ring[4][32];
    static unsigned turn;
    char *s = ring[turn++ % 4];
    if (n >= 1e9) snprintf(s, sizeof ring[0], "%.2f GB", n / 1e9);
    else if (n >= 1e6) snprintf(s, sizeof ring[0], "%.1f MB", n / 1e6);
    else snprintf(s, sizeof ring[0], "%.1f kB", n / 1e3);
    return s;
}

static void shares(const json_t *example) {
    struct table t = {0};
    size_t i;
    const json_t *s, *list = json_object_get(example, "shares");
    static char head[4][24];
    table_head(&t, "adapter, share of the base");
    json_array_foreach(list, i, s) {
        if (i == 4) break;
        snprintf(head[i], sizeof head[i], ">%s %%", number(100 * json_num(s, "share"), 3));
        table_head(&t, head[i]);
    }
    table_head(&t, ">→ 0");
    table_text(&t, "base in the same static bytes");
    json_array_foreach(list, i, s) table_number(&t, s, "factor", "%.2fx");
    table_cell(&t, "%sx", number(json_num(example, "factor_limit"), 3));
    table_print(&t, "  ");
}

static void counted(const json_t *example) {
    struct table t = {0};
    size_t i;
    const json_t *c;
    table_head(&t, "counted as well");
    table_head(&t, ">DMCCT, bits a parameter");
    table_head(&t, ">MACCT");
    table_head(&t, ">factor");
    json_array_foreach(json_object_get(example, "counted"), i, c) {
        if (json_object_get(c, "weight_bits"))
            table_cell(&t, "%s, %.3f bits", json_text(c, "name"), json_num(c, "weight_bits"));
        else table_text(&t, json_text(c, "name"));
        table_number(&t, c, "dmcct_bits_per_parameter", "%.4g");
        table_number(&t, c, "macct_bits_per_parameter", "%.4g");
        table_number(&t, c, "factor", json_num(c, "factor") < 10 ? "%.2fx" : "%.1fx");
    }
    table_print(&t, "  ");
}

static void example(const json_t *o) {
    const char *theta = number(json_num(o, "parameters"), 4), *p = number(json_num(o, "weight_bits"), 4),
               *q = number(json_num(o, "adapter_bits"), 4);
    const char *s = number(json_num(o, "state_bits"), 4), *r = number(json_num(o, "share"), 4);
    const char *each = number(json_num(o, "macct_bits_per_parameter"), 4);
    printf("Static memory: weights and AdamW's two f32 states (%s bits), nothing else. θ parameters of p bits; "
           "adapters of rθ\n"
           "parameters of q bits:\n\n"
           "  two trained models (DMCCT)   2 θ (p + %s)\n"
           "  two adapters (MACCT)         θ (p + 2 r (q + %s))\n\n",
           s, s, s);
    printf("%sAt θ = %s, p = %s, q = %s, r = %s%s\n", term_bold(), theta, p, q, r, term_off());
    printf("  DMCCT  2 × %s × (%s + %s) = %s bits = %s\n", theta, p, s, number(json_num(o, "dmcct_bits"), 4),
           bytes(json_num(o, "dmcct_bytes")));
    printf("  MACCT  %s × (%s + 2 × %s × (%s + %s)) = %s × %s bits = %s\n", theta, p, r, q, s, theta, each,
           bytes(json_num(o, "macct_bytes")));
    printf("  equal  N = %s / %s = %s: the base may be %.2fx as large\n", number(json_num(o, "dmcct_bits"), 4), each,
           number(json_num(o, "same_bytes_parameters"), 4), json_num(o, "factor"));
    printf("         (not ~7.5x, as the method's first description rounds it)\n\n");
    shares(o);
    putchar('\n');
    counted(o);
}

/* "(0.0363 + 0.0363)", or one alone. */
static void sum_of_shares(const json_t *list, str *out) {
    size_t i;
    const json_t *s;
    json_array_foreach(list, i, s) str_addf(out, "%s%s",
                                            i                           ? " + "
                                            : json_array_size(list) > 1 ? "("
                                                                        : "",
                                            number(json_number_value(s), 4));
    if (json_array_size(list) > 1) str_adds(out, ")");
}

static void run(const json_t *o) {
    str sum = {0};
    int models = (int)json_num(o, "models");
    double factor = json_num(o, "factor");
    const char *theta = number(json_num(o, "parameters"), 4), *p = number(json_num(o, "weight_bits"), 4),
               *q = number(json_num(o, "adapter_bits"), 4);
    const char *s = number(json_num(o, "state_bits"), 4), *whole_p = number(json_num(o, "whole_weight_bits"), 4),
               *each = number(json_num(o, "bits_per_parameter"), 4);
    sum_of_shares(json_object_get(o, "shares"), &sum);
    printf("\n%sThis run: θ = %.0f, p = %s (bits a weight, as the base is stored), q = %s%s\n", term_bold(),
           json_num(o, "parameters"), p, q, term_off());
    printf("  %s  %s × (%s + %s × (%s + %s)) = %s × %s bits = %s\n", models > 1 ? "two adapters" : "one adapter ",
           theta, p, sum.p ? sum.p : "", q, s, theta, each, bytes(json_num(o, "bytes")));
    printf("  planned       weights, adapters and optimizer %s; with all else %s\n",
           bytes(json_num(o, "plan_static_bytes")), bytes(json_num(o, "plan_total_bytes")));
    printf("  %s  %d × %s × (%s + %s) bits = %s, %.*fx as much (weights of %s bits: fewer cannot be trained)\n",
           models > 1 ? "two trained " : "one trained ", models, theta, whole_p, s, bytes(json_num(o, "whole_bytes")),
           factor < 10 ? 2 : 1, factor, whole_p);
    str_free(&sum);
}

/* --- one sum alone -------------------------------------------------------------------------------------------------- */
static const char *value(const json_t *figure) {
    const char *unit = json_text(figure, "unit");
    const double v = json_num(figure, "value");
    static char text[32];
    if (!strcmp(unit, "bytes")) return bytes(v);
    if (!strcmp(unit, "times")) snprintf(text, sizeof text, v < 9.995 ? "%.2fx" : "%.1fx", v);
    else snprintf(text, sizeof text, "%s%s", number(v, 4), !strcmp(unit, "bits") ? " bits" : "");
    return text;
}

static void figures(const json_t *topic, const char *whose, const char *head) {
    struct table t = {0};
    size_t i;
    const json_t *f;
    table_head(&t, head);
    table_head(&t, ">");
    json_array_foreach(json_object_get(topic, "figures"), i, f) {
        if (strcmp(json_text(f, "whose"), whose) != 0) continue;
        table_text(&t, json_text(f, "what"));
        table_text(&t, value(f));
    }
    table_print(&t, "  ");
}

static void one_topic(const json_t *topic) {
    size_t i;
    const json_t *text;
    printf("%s%s%s: %s\n\n", term_bold(), json_text(topic, "title"), term_off(), json_text(topic, "formula"));
    json_array_foreach(json_object_get(topic, "assumes"), i, text) printf("  %s %s\n", i ? "       " : "assumes", json_string_value(text));
    putchar('\n');
    figures(topic, "description", "as the description has it");
    putchar('\n');
    figures(topic, "ours", "and with what it leaves out");
    putchar('\n');
    print_wrapped(json_text(topic, "reading"));
}

void report_explain(const json_t *explain, const char *topic) {
    if (topic) one_topic(json_object_get(json_object_get(explain, "topics"), topic));
    else example(json_object_get(explain, "example"));
    if (json_object_get(explain, "run")) run(json_object_get(explain, "run"));
}
