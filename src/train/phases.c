/* The memory of a run, phase by phase: what loading, generating, training, evaluating and saving have in use. Each column comes from the
 * programs that the phase runs (gen/program.h); lines that all phases share are the run's (struct footprint).
 *
 * Arenas are taken once, as large as the largest phase asks, and pages that a phase has touched stay: the peak of a run is footprint.total,
 * the largest phase's sum and what other phases have left beside it (the optimizer's states while an evaluation runs, say). Merging is a
 * process of its own, planned where exports are (api/plan.c). */
#include "train/run.h"
#include "base/process.h"
#include <string.h>

/* The lines of the table, in its order. */
enum line { WEIGHTS, DERIVED, ADAPTERS, TEACHER, GRADIENTS, OPTIMIZER, ACTIVATIONS, CACHE, SCRATCH, CHECK, FILES, DATA, RUNTIME, LINES };
static const char *const line_names[LINES] = {"weights",  "derived", "adapters", "teacher", "gradients", "optimizer", "activations",
                                              "kv cache", "scratch", "check", "file buffers", "data",      "runtime"};
static const char *const phase_names[PHASES] = {"load", "generate", "train", "evaluate", "save"};

/* What the programs of a phase ask of the arenas. */
static void add_programs(const struct run *r, enum phase phase, size_t *line) {
    const struct program *list[RUN_PROGRAMS];
    struct memory m;
    const int n = run_programs(r, list, phase);
    if (!n) return;
    memory_sizes(&m, list, n);
    for (int i = 0; i < n; i++)
        if (list[i]->plan.state > line[CACHE]) line[CACHE] = list[i]->plan.state;
    if (phase == PHASE_TRAIN) recipe_widen(r, &m.act_bytes, &m.scratch_bytes);
    line[ACTIVATIONS] = m.act_bytes - line[CACHE];
    line[SCRATCH] = m.scratch_bytes;
}

/* Saving streams out of the arenas where they are the host's; only an adapter that is finished as another one needs room for it. */
static void phase_lines(const struct run *r, enum phase phase, size_t line[LINES]) {
    const struct footprint *f = &r->foot;
    const bool learns = phase == PHASE_TRAIN || phase == PHASE_SAVE;
    memset(line, 0, LINES * sizeof *line);
    line[WEIGHTS] = f->weights, line[DERIVED] = f->derived, line[DATA] = f->data, line[RUNTIME] = f->runtime;
    if (phase != PHASE_LOAD) line[ADAPTERS] = f->adapters - (phase == PHASE_SAVE ? 0 : f->finished);
    else if (f->reading > f->check) line[FILES] = f->reading; /* gone before the check begins */
    else line[CHECK] = f->check;
    line[TEACHER] = f->teacher;
    if (learns) line[OPTIMIZER] = f->optimizer;
    if (phase == PHASE_TRAIN) line[GRADIENTS] = f->gradients + f->checks;
    add_programs(r, phase, line);
}

static size_t sum_of(const size_t line[LINES]) {
    size_t sum = 0;
    for (int i = 0; i < LINES; i++) sum += line[i];
    return sum;
}

static json_t *phase_json(const struct run *r, enum phase phase, size_t *total) {
    size_t line[LINES];
    json_t *lines = json_object();
    phase_lines(r, phase, line);
    *total = sum_of(line);
    for (int i = 0; i < LINES; i++)
        if (line[i]) json_object_set_new(lines, line_names[i], json_integer((json_int_t)line[i]));
    json_t *j = json_pack("{s:s, s:o, s:I}", "name", phase_names[phase], "lines", lines, "total", (json_int_t)*total);
    if (r->seen[phase]) json_object_set_new(j, "measured", json_integer((json_int_t)r->seen[phase]));
    return j;
}

json_t *phases_json(const struct run *r) {
    json_t *list = json_array();
    size_t most = 0, total;
    int peak = 0;
    for (int p = 0; p < PHASES; p++) {
        if (p == PHASE_GENERATE && !r->generates) continue;
        json_array_append_new(list, phase_json(r, (enum phase)p, &total));
        if (total > most) most = total, peak = p;
    }
    return json_pack("{s:s, s:I, s:I, s:o}", "peak_phase", phase_names[peak], "peak", (json_int_t)r->foot.total, "peak_kept",
                     (json_int_t)(r->foot.total - most), "phases", list);
}

void phase_seen(struct run *r, enum phase phase) {
    if (!r->seen[phase]) r->seen[phase] = r->backend->mem->host ? resident_bytes("VmHWM") : run_memory(r);
}
