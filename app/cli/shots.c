/* See shots.h. */
#include "shots.h"
#include "adapters.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SHOTS = 16 };

bool shots_asks(const struct shots_ask *q) {
    return q->shot_data || q->shots || q->draw || q->text || q->choice || q->target || q->description || q->compare.n || q->until.n ||
           q->max_new || q->limit || q->batch || q->chat;
}

/* --- what is asked -------------------------------------------------------------------------------------------------- */
static int number(const char **s) {
    char *end;
    const long n = strtol(*s, &end, 10);
    if (end == *s || n < 0 || n > 1000) return -1;
    *s = end;
    return (int)n;
}

/* "3", "0,1,5" or "0..5". Returns how many there are; 0: it is none of these. */
static int shots_of(const char *text, int shots[MOST_SHOTS]) {
    int n = 0;
    for (const char *s = text;; s++) {
        int from = number(&s), to = from;
        if (!strncmp(s, "..", 2)) s += 2, to = number(&s);
        if (from < 0 || to < from || n + to - from >= MOST_SHOTS) return 0;
        while (from <= to) shots[n++] = from++;
        if (!*s) return n;
        if (*s != ',') return 0;
    }
}

static int order_of(const char *word) {
    static const char *const words[] = {
        [CYC_SHOTS_TASK] = "task", [CYC_SHOTS_SAME] = "same", [CYC_SHOTS_EACH] = "each", [CYC_SHOTS_FIRST] = "first"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(word, words[i])) return i;
    return -1;
}

/* --- rows ----------------------------------------------------------------------------------------------------------- */
struct rows {
    cyc_task *task;
    cyc_model *m;
    const struct shots_ask *q;
    struct table t;
    json_t *list;
};

/* "62.5 ± 3.1" in percent */
static void metric_cell(struct table *t, const json_t *metrics, const char *name) {
    const json_t *m = json_object_get(metrics, name);
    if (!m) table_cell(t, "%s", "");
    else if (isnan(json_num(m, "stderr"))) table_cell(t, "%.1f", 100 * json_num(m, "value"));
    else table_cell(t, "%.1f ± %.1f", 100 * json_num(m, "value"), 100 * json_num(m, "stderr"));
}

static const char *const metrics[] = {"acc", "acc_norm", "acc_bytes", "exact_match", "squad_em", "squad_f1"};
enum { METRICS = sizeof metrics / sizeof *metrics };

static void heads(struct table *t) {
    static const char *const titles[METRICS] = {">acc %", ">acc_norm %", ">acc_bytes %", ">exact match %", ">SQuAD exact %", ">SQuAD F1 %"};
    table_head(t, "");
    table_head(t, ">shots");
    for (int i = 0; i < METRICS; i++) table_head(t, titles[i]);
    table_head(t, ">tokens");
    table_head(t, ">seconds");
    table_head(t, ">memory");
}

static int row(struct rows *r, const char *name, cyc_adapter *a, int shots) {
    const struct shots_ask *q = r->q;
    char *text = NULL;
    const int code = cyc_task_run(
        r->task, r->m, a,
        &(cyc_shots){
            .shots = shots, .order = q->draw ? order_of(q->draw) : CYC_SHOTS_TASK, .seed = q->seed, .chat = q->chat, .batch = q->batch},
        &text);
    if (code) return cli_failed(code);
    json_t *o = json_take(text);
    const json_t *m = json_object_get(o, "metrics");
    json_object_set_new(o, "row", json_string(name));
    table_text(&r->t, name);
    table_cell(&r->t, "%d", shots);
    for (int i = 0; i < METRICS; i++) metric_cell(&r->t, m, metrics[i]);
    table_cell(&r->t, "%.0f", json_num(o, "prompt_tokens") + json_num(o, "option_tokens"));
    table_cell(&r->t, "%.1f", json_num(o, "seconds"));
    table_bytes(&r->t, o, "bytes");
    json_array_append_new(r->list, o);
    return STATUS_OK;
}

static int all_rows(struct rows *r, const int *shots, int n) {
    struct adapters a;
    int status = adapters_open("eval", r->m, &r->q->adapter, false, false, &a);
    for (int i = 0; i < n && !status; i++) status = row(r, r->q->adapter.n ? r->q->adapter.v[0] : "base", a.a, shots[i]);
    adapters_close(&a);
    for (int i = 0; i < r->q->compare.n && !status; i++) {
        cyc_adapter *other = NULL;
        const int code = cyc_adapter_open(r->m, r->q->compare.v[i], &other);
        status = code ? cli_failed(code) : row(r, r->q->compare.v[i], other, shots[0]);
        if (other) cyc_adapter_close(other);
    }
    return status;
}

static void print(struct rows *r) {
    const json_t *first = json_array_get(r->list, 0);
    if (r->q->json) {
        str_free(&r->t.cells);
        json_line(json_pack("{s:s, s:O}", "model", r->q->model, "rows", r->list));
        return;
    }
    printf("%s%s%s  %s, %.0f records\n\n", term_bold(), json_text(first, "task"), term_off(), json_text(first, "kind"),
           json_num(first, "records"));
    table_print(&r->t, "");
}

static int check(const struct shots_ask *q, int *shots, int *n) {
    *n = shots_of(q->shots ? q->shots : "0", shots);
    if (!*n)
        return cli_bad("eval: --shots is a number (3), a list (0,1,5) or a range (0..5), of %d at most, not '%s'", MOST_SHOTS, q->shots);
    if (q->draw && order_of(q->draw) < 0) return cli_bad("eval: --draw must be task, same, each or first, not '%s'", q->draw);
    return STATUS_OK;
}

int eval_task(const struct shots_ask *q) {
    struct rows r = {.q = q, .list = json_array()};
    int shots[MOST_SHOTS], n, status = check(q, shots, &n), code = CYC_OK;
    const cyc_task_options o = {.path = q->task,
                                .shot_data = q->shot_data,
                                .text = q->text,
                                .choice = q->choice,
                                .target = q->target,
                                .description = q->description,
                                .until = q->until.v,
                                .n_until = q->until.n,
                                .max_new_tokens = q->max_new,
                                .limit = q->limit};
    if (!status) code = cyc_task_open(&o, &r.task);
    if (!status && !code) code = cyc_model_open(q->model, &r.m);
    if (!status && !code) code = cyc_model_device(r.m, q->device, q->dtype);
    if (code) status = cli_failed(code);
    if (!status) {
        heads(&r.t);
        status = all_rows(&r, shots, n);
    }
    if (!status) print(&r);
    else str_free(&r.t.cells);
    cyc_task_close(r.task);
    if (r.m) cyc_model_close(r.m);
    json_decref(r.list);
    return status;
}
