/* The phases of a run on paper: a table of what each has in use, a chart of the phase with the most, the least time of a step, and a profile of
 * some. Used by plan and train. */
#include "cli.h"
#include "report.h"
#include "term.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const lines[] = {"weights",  "derived", "adapters", "teacher",      "gradients", "optimizer", "activations",
                                    "kv cache", "scratch", "check",    "file buffers", "data",      "runtime"};
enum { LINES = sizeof lines / sizeof *lines };

static bool any_has(const json_t *phases, const char *line) {
    size_t i;
    const json_t *p;
    json_array_foreach(phases, i, p) if (json_object_get(json_object_get(p, "lines"), line)) return true;
    return false;
}

static const json_t *phase_named(const json_t *phases, const char *name) {
    size_t i;
    const json_t *p;
    json_array_foreach(phases, i, p) if (!strcmp(json_text(p, "name"), name)) return p;
    return NULL;
}

static void phase_row(struct table *t, const json_t *phases, const char *name, const char *key) {
    size_t i;
    const json_t *p;
    table_text(t, name);
    json_array_foreach(phases, i, p) table_bytes(t, key ? p : json_object_get(p, "lines"), key ? key : name);
}

static void phase_table(const json_t *phases) {
    struct table t = {0};
    char heads[8][24];
    size_t i;
    const json_t *p;
    bool measured = false;
    table_head(&t, "in use");
    json_array_foreach(phases, i, p) {
        if (i == sizeof heads / sizeof *heads) break;
        snprintf(heads[i], sizeof heads[i], ">%s", json_text(p, "name"));
        table_head(&t, heads[i]);
        measured |= json_object_get(p, "measured") != NULL;
    }
    for (int l = 0; l < LINES; l++)
        if (any_has(phases, lines[l])) phase_row(&t, phases, lines[l], NULL);
    phase_row(&t, phases, "sum", "total");
    if (measured) phase_row(&t, phases, "peak so far", "measured");
    table_print(&t, "");
}

/* A bar, as wide as the terminal lets it be. */
static void bar(const char *name, double bytes, double most) {
    const int room = term_width() - 26 < 60 ? term_width() - 26 : 60;
    if (!(bytes > 0) || room < 4) return;
    printf("%-12s  ", name);
    for (int k = 0, long_ = (int)fmax(1, round(room * bytes / most)); k < long_; k++) putchar('#');
    printf(" %s\n", show_bytes(bytes));
}

/* Each line of the phase, and what others have left beside it. */
static void bars(const json_t *phase, double kept) {
    const json_t *of = json_object_get(phase, "lines");
    double most = kept;
    for (int l = 0; l < LINES; l++) most = fmax(most, json_num(of, lines[l]));
    for (int l = 0; l < LINES; l++) bar(lines[l], json_num(of, lines[l]), most);
    bar("kept", kept, most);
}

void report_phases(const json_t *plan, bool chart) {
    const json_t *phases = json_object_get(plan, "phases"), *peak = phase_named(phases, json_text(plan, "peak_phase"));
    if (!json_array_size(phases)) return;
    phase_table(phases);
    if (phase_named(phases, "merge"))
        printf("merge is cyclora merge afterwards, a process of its own; it streams the base, whose pages are given back\n");
    if (!peak) return;
    const double kept = json_num(plan, "peak_kept");
    printf("\n%speak%s  %s, set by %s", term_bold(), term_off(), show_bytes(json_num(plan, "peak")), json_text(peak, "name"));
    if (kept > 0) printf(": %s in use, %s kept from other phases", show_bytes(json_num(peak, "total")), show_bytes(kept));
    putchar('\n');
    if (chart) bars(peak, kept);
}

/* "1.2 ms", "3.45 s", "12:34" */
static const char *duration(double s) {
    static char ring[4][24];
    static unsigned turn;
    char *out = ring[turn++ % 4];
    if (s < 1) snprintf(out, sizeof ring[0], "%.3g ms", 1e3 * s);
    else if (s < 120) snprintf(out, sizeof ring[0], "%.3g s", s);
    else snprintf(out, sizeof ring[0], "%s", show_time(s));
    return out;
}

void report_forecast(const json_t *plan) {
    const json_t *f = json_object_get(plan, "forecast"), *m = json_object_get(f, "measured");
    if (!f) return;
    const bool writes = json_num(f, "generate_s") > 0; /* texts may end sooner than a forecast can know */
    printf("%sa step%s%s takes at least %s (", term_bold(), term_off(), writes ? " whose texts all have max_new_tokens" : "",
           duration(json_num(f, "step_s")));
    if (writes) printf("generate %s, ", duration(json_num(f, "generate_s")));
    printf("train %s, optimizer %s): %sflop at %sflop/s and %s/s, %s\n", duration(json_num(f, "train_s")),
           duration(json_num(f, "optimizer_s")), show_count(json_num(f, "flops")), show_count(json_num(f, "flops_per_second")),
           show_bytes(json_num(f, "bytes_per_second")), json_text(f, "rates"));
    if (json_num(f, "guards_s") > 0) printf("an evaluation's guards take at least %s\n", duration(json_num(f, "guards_s")));
    if (!m)
        printf("each instruction as long as its flops or its bytes need; %s\n",
               json_is_true(json_object_get(f, "assumed_lengths")) ? "all rows as long as they may be" : "rows of the data's mean length");
    else if (writes) printf("measured: %s a step, with texts as long as they came\n", duration(json_num(m, "step_s")));
    else
        printf("measured: %s a step, %.0f %% of the bound's speed\n", duration(json_num(m, "step_s")),
               100 * json_num(f, "step_s") / json_num(m, "step_s"));
}

static double of_phase(const json_t *rows, const char *phase, const char *key) {
    size_t i;
    const json_t *row;
    double sum = 0;
    json_array_foreach(rows, i, row) if (!strcmp(json_text(row, "phase"), phase)) sum += json_num(row, key);
    return sum;
}

/* The row of a phase that takes the most after those above `below` seconds; NULL: there is none. */
static const json_t *next_row(const json_t *rows, const char *phase, double below) {
    size_t i;
    const json_t *row, *most = NULL;
    json_array_foreach(rows, i, row) {
        const double s = json_num(row, "seconds");
        if (!strcmp(json_text(row, "phase"), phase) && s < below && (!most || s > json_num(most, "seconds"))) most = row;
    }
    return most;
}

static void profile_row(const char *name, double seconds, double bound, const json_t *profile) {
    fprintf(stderr, "%-20s %10s %6.1f %%", name, duration(seconds / json_num(profile, "steps")),
            100 * seconds / json_num(profile, "seconds"));
    if (bound > 0) fprintf(stderr, " %9.0f %%", 100 * bound / seconds);
    fputc('\n', stderr);
}

void report_profile(const json_t *profile) {
    static const char *const phases[] = {"generate", "forward", "backward", "optimizer"};
    const json_t *rows = json_object_get(profile, "rows"), *row;
    if (!(json_num(profile, "steps") > 0)) return;
    fprintf(stderr, "%d step%s op by op; the bound: ", (int)json_num(profile, "steps"), json_num(profile, "steps") > 1 ? "s" : "");
    if (json_num(profile, "flops_per_second") > 0)
        fprintf(stderr, "%sflop/s and %s/s, ", show_count(json_num(profile, "flops_per_second")),
                show_bytes(json_num(profile, "bytes_per_second")));
    fprintf(stderr, "%s\n%-20s %10s %8s %11s\n", json_text(profile, "rates"), "", "a step", "share", "of bound");
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        const double all = of_phase(rows, phases[i], "seconds");
        if (!(all > 0)) continue;
        profile_row(phases[i], all, of_phase(rows, phases[i], "bound_s"), profile);
        for (double below = HUGE_VAL; strcmp(phases[i], "optimizer") && (row = next_row(rows, phases[i], below));) {
            char name[64];
            below = json_num(row, "seconds");
            snprintf(name, sizeof name, "  %s", json_text(row, "what"));
            if (below >= 0.001 * json_num(profile, "seconds")) profile_row(name, below, json_num(row, "bound_s"), profile);
        }
    }
    profile_row("all else", json_num(profile, "rest_s"), 0, profile);
}
