/* `cyclora eval`: a run's adapters on the configuration's held-out data, or the likelihood of one text. */
#include "adapters.h"
#include "args.h"
#include "cli.h"
#include "report.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char help_eval[] =
    "Evaluates on held-out data: a run's adapters as its configuration says, or any model on one text.\n"
    "\n"
    "Usage: cyclora eval CONFIG [--run DIR] [--set key=value]... [--json]\n"
    "       cyclora eval --model M [--adapter DIR] --text F [--json]\n"
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
    "Examples:\n"
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

struct where { const char *device, *dtype; };

static int eval_text(const char *model, const struct arg_list *adapter, const char *path, const struct where *on, bool json) {
    cyc_model *m = NULL;
    struct adapters a = {0};
    str text = {0};
    int status = text_read(path, &text), code = CYC_OK;
    if (!status) code = cyc_model_open(model, &m);
    if (!status && !code) code = cyc_model_device(m, on->device, on->dtype);
    if (code) status = cli_failed(code);
    if (!status) status = adapters_open("eval", m, adapter, false, false, &a);
    if (!status) status = score_text(m, a.a, path, &text, json);
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
    const char *config = NULL, *run = NULL, *model = NULL, *text = NULL;
    struct arg_list sets = {0}, adapter = {0};
    bool json = false;
    struct where on = {"cpu", "auto"};
    const struct arg args[] = {{"CONFIG", ARG_TEXT, &config, 0},     {"--run", ARG_TEXT, &run, 0},
                               {"--set", ARG_LIST, &sets, 0},        {"--model", ARG_TEXT, &model, 0},
                               {"--adapter", ARG_LIST, &adapter, 0}, {"--text", ARG_TEXT, &text, 0},
                               {"--device", ARG_TEXT, &on.device, 0}, {"--dtype", ARG_TEXT, &on.dtype, 0},
                               {"--json", ARG_FLAG, &json, 0},       {0}};
    int status = args_parse("eval", argc, argv, args);
    if (status < 0) {
        bool of_config = config || run || sets.n, of_text = model || adapter.n || text;
        if (of_config && of_text)
            status = cli_bad("eval: a configuration (CONFIG, --run, --set) and a text (--model, --adapter, --text) "
                             "are two different evaluations");
        else if (of_text && !model) status = args_missing("eval", "--model");
        else if (of_text && !text) status = args_missing("eval", "--text");
        else if (of_text) status = eval_text(model, &adapter, text, &on, json);
        else if (!config) status = args_missing("eval", "CONFIG");
        else status = eval_config(config, &sets, run, json);
    }
    free(sets.v);
    free(adapter.v);
    return status;
}
