/* `cyclora eval`: a run's adapters on the configuration's held-out data, the likelihood of one text, or a task
 * with few examples before it (shots.c). */
#include "adapters.h"
#include "args.h"
#include "cli.h"
#include "report.h"
#include "shots.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char help_eval[] =
    "Evaluates on held-out data: a run's adapters as its configuration says, or any model on one text or a task.\n"
    "\n"
    "Usage: cyclora eval CONFIG [--run DIR] [--set key=value]... [--json]\n"
    "       cyclora eval --model M [--adapter DIR] --text F [--json]\n"
    "       cyclora eval --model M [--adapter DIR] [--compare DIR]... --task T [--shots 0..K] [options]\n"
    "\n"
    "  CONFIG           a run's YAML file; eval.data names the held-out pairs or rows\n"
    "  --run DIR        a run folder, whose DIR/A and DIR/B (of one side: its adapter) are evaluated; else the bare base "
    "model\n"
    "  --set key=value  goes over the file; may be given several times\n"
    "  --model M        a .gguf file or a Hugging Face folder\n"
    "  --adapter DIR    a PEFT adapter's folder; several: NAME=DIR[:WEIGHT], as of `generate`\n"
    "  --device D, --dtype T  of a text: cpu (the default), cuda, or auto; float32, bfloat16, float16, or auto\n"
    "  --text F         UTF-8 text, taken whole as one sequence; no token is added\n"
    "  --json           one JSON object: the evaluation; of a text {\"ids\", \"nll\", \"sum\", \"tokens\", \"mean\",\n"
    "                   \"perplexity\"}, where nll[0] is 0 and tokens counts those that were predicted (all but the "
    "first)\n"
    "\n"
    "Of a task, with no or few examples in the prompt (percent; +- is the standard error of the mean over the records):\n"
    "  --task T         records {\"question\", \"choices\": [...], \"answer\": number or text} or {\"question\", \"answer\"}, JSONL or a\n"
    "                   JSON array; or a task of the lm-evaluation-harness over local files (.yaml), whose figures these are\n"
    "  --shots K        examples before each record: 3, 0,1,5 or 0..5, a row each (0)\n"
    "  --compare DIR    an adapter, a row of its own with the first of --shots; may be given several times\n"
    "  --shot-data F    draw them from there (a task's fewshot_split, or its other records; never the record itself)\n"
    "  --draw D         same: once for all records (faster), each: anew for each, first: the first of the file, task: as the\n"
    "                   file says, else same (the default); --seed N\n"
    "  --template T     doc_to_text: a field, or Jinja over the fields: $'Q: {{question}}\\nA:'; likewise --choices\n"
    "                   (or a JSON list), --target, --description\n"
    "  --until S, --max-new-tokens N  where an answer that is written ends (a line's end; 64 tokens)\n"
    "  --chat           questions are what a user says in the model's chat template, answers what the assistant says\n"
    "  --limit N        the first N records; --batch N: prompts at once (8), whose cache is what memory grows with\n"
    "\n"
    "Examples:\n"
    "  cyclora eval --model base.gguf --task quiz.jsonl --shots 0..5 --compare out/adapter\n"
    "  cyclora eval run.yaml --run out --set eval.limit=200\n"
    "  cyclora eval --model base.gguf --adapter out/A --text chapter.txt\n"
    "\n"
    "Writes to stdout alone. Exit status: 0; 2 for a wrong option, configuration, model or text; 1 otherwise.\n";

static void print_likelihood(const int32_t *ids, const float *nll, size_t n, bool json) {
    double sum = 0;
    for (size_t i = 1; i < n; i++) sum += nll[i];
    double mean = sum / (double)(n - 1);
    if (!json) {
        printf("tokens      %zu (%zu predicted)\nsum         %.4f nats\nmean        %.4f nats\nperplexity  %.3f\n", n,
               n - 1, sum, mean, exp(mean));
        return;
    }
    json_t *list = json_array(), *each = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(list, json_integer(ids[i]));
        json_array_append_new(each, json_number(nll[i]));
    }
    json_line(json_pack("{s:o, s:o, s:o, s:I, s:o, s:o}", "ids", list, "nll", each, "sum", json_number(sum), "tokens",
                        (json_int_t)(n - 1), "mean", json_number(mean), "perplexity", json_number(exp(mean))));
}

static int score_text(cyc_model *m, cyc_adapter *a, const char *path, const str *text, bool json) {
    int32_t *ids = NULL;
    size_t n = 0;
    int code = cyc_tokenize_around(m, text->p, text->n, CYC_BEFORE, &ids, &n), status = STATUS_OK;
    float *nll = code ? NULL : calloc(n + 1, sizeof *nll);
    if (code) return cli_failed(code);
    if (!nll) status = cli_bad("eval: out of memory");
    else if (n < 2) status = cli_bad("%s: %zu token%s; a likelihood needs two at least", path, n, n == 1 ? "" : "s");
    else if ((code = cyc_score_ids(m, a, ids, n, nll))) status = cli_failed(code);
    else print_likelihood(ids, nll, n, json);
    cyc_free(ids);
    free(nll);
    return status;
}

static int eval_text(const struct shots_ask *q, const char *path) {
    cyc_model *m = NULL;
    struct adapters a = {0};
    str text = {0};
    int status = text_read(path, &text), code = CYC_OK;
    if (!status) code = cyc_model_open(q->model, &m);
    if (!status && !code) code = cyc_model_device(m, q->device, q->dtype);
    if (code) status = cli_failed(code);
    if (!status) status = adapters_open("eval", m, &q->adapter, false, false, &a);
    if (!status) status = score_text(m, a.a, path, &text, q->json);
    adapters_close(&a);
    if (m) cyc_model_close(m);
    str_free(&text);
    return status;
}

static int eval_config(const char *path, const struct arg_list *sets, const char *run, bool json) {
    cyc_config *c;
    char *text = NULL;
    int status = config_open(path, sets, &c);
    if (status) return status;
    int code = cyc_evaluate(c, run, &text);
    cyc_config_free(c);
    if (code) return cli_failed(code);
    json_t *eval = json_take(text);
    if (json) {
        json_line(eval);
        return STATUS_OK;
    }
    printf("%s%s%s\n", term_bold(), run ? run : "the base model", term_off());
    report_eval(eval);
    json_decref(eval);
    return STATUS_OK;
}

int cmd_eval(int argc, char **argv) {
    const char *config = NULL, *run = NULL, *text = NULL;
    struct arg_list sets = {0};
    struct shots_ask q = {.device = "cpu", .dtype = "auto"};
    const struct arg args[] = {{"CONFIG", ARG_TEXT, &config, 0},     {"--run", ARG_TEXT, &run, 0},
                               {"--set", ARG_LIST, &sets, 0},        {"--model", ARG_TEXT, &q.model, 0},
                               {"--adapter", ARG_LIST, &q.adapter, 0}, {"--text", ARG_TEXT, &text, 0},
                               {"--device", ARG_TEXT, &q.device, 0}, {"--dtype", ARG_TEXT, &q.dtype, 0},
                               {"--json", ARG_FLAG, &q.json, 0},     {"--task", ARG_TEXT, &q.task, 0},
                               {"--shots", ARG_TEXT, &q.shots, 0},   {"--shot-data", ARG_TEXT, &q.shot_data, 0},
                               {"--draw", ARG_TEXT, &q.draw, 0},     {"--compare", ARG_LIST, &q.compare, 0},
                               {"--template", ARG_TEXT, &q.text, 0}, {"--choices", ARG_TEXT, &q.choice, 0},
                               {"--target", ARG_TEXT, &q.target, 0}, {"--description", ARG_TEXT, &q.description, 0},
                               {"--until", ARG_LIST, &q.until, 0},   {"--max-new-tokens", ARG_INT, &q.max_new, 1},
                               {"--limit", ARG_INT, &q.limit, 1},    {"--batch", ARG_INT, &q.batch, 1},
                               {"--seed", ARG_SEED, &q.seed, 0},     {"--chat", ARG_FLAG, &q.chat, 0},
                               {0}};
    int status = args_parse("eval", argc, argv, args);
    if (status < 0) {
        const bool of_config = config || run || sets.n, of_model = q.model || q.adapter.n || text || q.task || shots_asks(&q);
        if (of_config && of_model)
            status = cli_bad("eval: a configuration (CONFIG, --run, --set) and a text or a task (--model, --adapter, --text, --task) "
                             "are different evaluations");
        else if (of_model && !q.model) status = args_missing("eval", "--model");
        else if (text && q.task) status = cli_bad("eval: --text and --task are two evaluations: give one");
        else if (q.task) status = eval_task(&q);
        else if (shots_asks(&q)) status = args_missing("eval", "--task");
        else if (of_model && !text) status = args_missing("eval", "--text or --task");
        else if (of_model) status = eval_text(&q, text);
        else if (!config) status = args_missing("eval", "CONFIG");
        else status = eval_config(config, &sets, run, q.json);
    }
    free(sets.v);
    free(q.adapter.v), free(q.compare.v), free(q.until.v);
    return status;
}
