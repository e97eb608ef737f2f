/* The command as its users meet it: exit status, the two streams, help pages, nearest names, and the contracts of the
 * JSON that scripts read. Each case runs the program (CYC_CLI) through a shell. Cases that need the real model are
 * skipped without it. */
#define _GNU_SOURCE
#include "base/file.h"
#include "support/support.h"
#include <jansson.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/cyclora_cli_XXXXXX";
static struct {
    int status;
    str out, err;
} ran;

/* Runs a shell line in which `$C` is the program and `$D` the test's folder. */
static void sh(const char *fmt, ...) {
    char line[4096], path[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    str cmd = {0};
    str_addf(&cmd, "C='%s' D='%s'; { %s; } >%s/stdout 2>%s/stderr </dev/null", CYC_CLI, dir, line, dir, dir);
    int st = system(cmd.p);
    str_free(&cmd);
    ran.status = WIFEXITED(st) ? WEXITSTATUS(st) : -1;
    str_clear(&ran.out);
    str_clear(&ran.err);
    snprintf(path, sizeof path, "%s/stdout", dir);
    must(file_read(path, &ran.out));
    snprintf(path, sizeof path, "%s/stderr", dir);
    must(file_read(path, &ran.err));
}

static void status_is(int want) {
    if (ran.status != want) flunk("status %d, not %d\nstdout: %s\nstderr: %s", ran.status, want, ran.out.p, ran.err.p);
}

static void says(const char *text, const char *part) {
    if (!strstr(text, part)) flunk("\"%s\" is not in:\n%s", part, text);
}

/* Refused with status 2, nothing on stdout, one line on stderr that opens as all do and holds each part. */
static void refused_(const char *line, ...) {
    sh("%s", line);
    status_is(2);
    if (ran.out.n) flunk("%s: stdout is not empty: %s", line, ran.out.p);
    if (!str_starts(ran.err.p, "cyclora: error: ")) flunk("%s: %s", line, ran.err.p);
    if (strchr(ran.err.p, '\n') != ran.err.p + ran.err.n - 1) flunk("%s: not one line: %s", line, ran.err.p);
    va_list ap;
    va_start(ap, line);
    for (const char *w; (w = va_arg(ap, const char *));) says(ran.err.p, w);
    va_end(ap);
}
#define refused(...) refused_(__VA_ARGS__, NULL)

static void write_file(const char *name, const char *text, size_t n) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    must(file_write(path, text, n));
}
#define put(name, text) write_file(name, text, sizeof(text) - 1)

static json_t *json_of(const char *text) {
    json_error_t e;
    json_t *o = json_loads(text, JSON_DISABLE_EOF_CHECK, &e);
    if (!o) flunk("not JSON (%s): %s", e.text, text);
    return o;
}

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    put("run.yaml", "model: nowhere.gguf\noutput_dir: /tmp/nowhere\nA: {data: a.jsonl}\nB: {data: b.jsonl}\n");
    put("two.txt", "the cat sat on the mat today\nand so did the dog\n");
    put("three.txt", "the cat sat on the mat today\nand so did a dog\nx\n");
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    str_free(&ran.out);
    str_free(&ran.err);
    return dir_remove(dir) != OK;
}

static const char *const names[] = {"train", "plan",     "data",    "eval", "generate",
                                    "score", "embed", "classify", "tokenize", "inspect", "compare", "doctor", "prune", "help", NULL};
static const char *const others[] = {"export", "merge", "convert", "quantize", "adapter", "recipes", "init", NULL}; /* a file may have several */

/* A vector a line, of length 1 unless it is asked for raw. */
static void embed_lines(void **state) {
    (void)state;
    for (int raw = 0; raw < 2; raw++) {
        sh("printf 'aslf' > $D/e.txt; $C embed --model tests/golden/cipher --file $D/e.txt%s", raw ? " --raw" : "");
        status_is(0);
        json_t *j = json_of(ran.out.p), *v = json_object_get(j, "embedding"), *x;
        double length = 0;
        size_t i;
        json_array_foreach(v, i, x) length += json_number_value(x) * json_number_value(x);
        assert_true(json_array_size(v) > 8 && (raw ? fabs(length - 1) > 1e-3 : fabs(length - 1) < 1e-5));
        json_decref(j);
    }
    refused("$C embed --model tests/golden/cipher", "--data");
    refused("$C embed --model tests/golden/cipher --file $D/none.txt", "none.txt");
}

static void page_is_whole(const char *name) {
    sh("$C %s --help", name);
    status_is(0);
    says(ran.out.p, "Usage: cyclora ");
    says(ran.out.p, "Examples:");
    says(ran.out.p, "Exit status: ");
    for (const char *p = ran.out.p, *nl; (nl = strchr(p, '\n')); p = nl + 1)
        if (nl - p > 124) flunk("%s --help has a line of %d bytes: %.40s", name, (int)(nl - p), p);
    str page = ran.out;
    ran.out = (str){0};
    sh("$C help %s", name);
    assert_string_equal(ran.out.p, page.p);
    str_free(&page);
}

static void help_pages(void **state) {
    (void)state;
    sh("$C");
    status_is(0);
    for (int i = 0; names[i]; i++) says(ran.out.p, names[i]);
    sh("$C --help");
    status_is(0);
    says(ran.out.p, "cyclora plan run.yaml");
    sh("$C --version");
    status_is(0);
    assert_true(str_starts(ran.out.p, "cyclora "));
    for (int i = 0; names[i]; i++) page_is_whole(names[i]);
    for (int i = 0; others[i]; i++) page_is_whole(others[i]);
    sh("$C doctor");
    status_is(0);
    says(ran.out.p, "cpu ");
    says(ran.out.p, "kernels");
    sh("$C doctor --json");
    status_is(0);
    says(ran.out.p, "{\"cpu\":");
    sh("$C help config");
    status_is(0);
    says(ran.out.p, "lora.target_modules");
    sh("$C help config --markdown");
    status_is(0);
    says(ran.out.p, "| `learning_rate` | number > 0 | `2e-4` |");
    says(ran.out.p, "macct\\|dmcct\\|sft");
}

static void wrong_commands(void **state) {
    (void)state;
    refused("$C trian", "unknown command 'trian'", "did you mean 'train'?");
    refused("$C frobnicate", "unknown command 'frobnicate'", "--help");
    refused("$C --verison", "unknown option '--verison'");
    refused("$C help nosuch", "no page 'nosuch'");
    refused("$C data", "data: ", "preview");
    refused("$C data previw run.yaml", "'previw'");
    refused("$C data stats", "FILE is missing");
    refused("$C data stats /nowhere.jsonl", "/nowhere.jsonl: cannot open");
    refused("$C data preview d.jsonl", "--model", "a CONFIG ends in .yaml");
    refused("$C data preview d.jsonl --model m --set a=b", "--set is for a CONFIG");
    refused("$C data preview run.yaml more.yaml", "superfluous argument 'more.yaml'");
    refused("$C data preview run.yaml --format alpaca", "are for data files");
}

static void wrong_options(void **state) {
    (void)state;
    refused("$C train --resum $D/run.yaml", "train: unknown option '--resum'", "did you mean '--resume'?");
    refused("$C train", "CONFIG is missing");
    refused("$C train $D/run.yaml more", "superfluous argument 'more'");
    refused("$C train $D/run.yaml --resume --overwrite", "contradict");
    refused("$C train $D/run.yaml --quiet=1", "--quiet takes no value");
    refused("$C train $D/run.yaml --set", "--set needs a value");
    refused("$C generate --prompt x", "--model is missing");
    refused("$C generate --model m", "either --prompt or --file");
    refused("$C generate --model m --prompt x --file f", "either --prompt or --file");
    refused("$C generate --model m --prompt --json", "--prompt needs a value, not the option --json");
    refused("$C generate --model m --prompt x --max-new-tokens many",
            "--max-new-tokens wants a whole number, not 'many'");
    refused("$C generate --model m --prompt x --max-new-tokens 0", "--max-new-tokens is 0");
    refused("$C doctor now", "doctor");
    refused("$C generate --model m --prompt x --activations int8", "--activations must be f32 or int15");
    refused("$C generate --model m --prompt x --max-new-tokens=99999999999", "whole number");
    refused("$C generate --model m --prompt x --temperature hot", "--temperature wants a number");
    refused("$C generate --model m --prompt x --temperature nan", "--temperature wants a number");
    refused("$C generate --model m --prompt x --greedy --temperature 1", "contradict");
    refused("$C generate --model m --prompt x --top-k 5", "--temperature");
    refused("$C generate --model m --prompt x --temperature 1 --top-p 1.5", "--top-p");
    refused("$C generate --model m --prompt x --min-p 0.1", "--temperature");
    refused("$C generate --model m --prompt x --repetition-penalty 0", "--repetition-penalty must be above 0");
    refused("$C generate --model m --prompt x --beams 4 --temperature 1", "--temperature");
    refused("$C generate --model m --prompt x --length-penalty 2", "no use without --beams");
    refused("$C generate --model m --prompt x --beams 2 --early-stopping soon", "false, true or never");
    refused("$C generate --model m --prompt x --seed -1", "--seed is -1");
    refused("$C tokenize --model m", "--file is missing");
    refused("$C eval", "CONFIG is missing");
    refused("$C eval --text f", "--model is missing");
    refused("$C eval --model m", "--text or --task is missing");
    refused("$C eval $D/run.yaml --model m --text f", "are different evaluations");
    refused("$C inspect", "PATH is missing");
}

static void wrong_configurations(void **state) {
    (void)state;
    refused("$C train $D/none.yaml", "none.yaml");
    refused("$C train $D/run.yaml --set lerning_rate=1", "--set: unknown key 'lerning_rate'", "'learning_rate'");
    refused("$C plan $D/run.yaml --set lora.r=0", "--set: 'lora.r' wants an integer >= 1, found '0'");
    refused("$C train $D/run.yaml --set model=", "'model' is missing");
    refused("$C plan $D/run.yaml --set B.data=a.jsonl", "'A.data' and 'B.data' are the same text");
    refused("$C train $D/run.yaml", "nowhere.gguf");
    put("bad.yaml", "model: x\nlogging_steps: many\n");
    refused("$C train $D/bad.yaml", "bad.yaml:2: 'logging_steps' wants an integer >= 1, found 'many'");
    put("bad.yaml", "model: [x\n");
    refused("$C data preview $D/bad.yaml", "bad.yaml:", "not valid YAML");
    refused("$C eval $D/bad.yaml", "not valid YAML");
}

static void wrong_files(void **state) {
    (void)state;
    refused("$C inspect $D/none", "none");
    refused("$C inspect $D/run.yaml", "run.yaml");
    refused("$C generate --model $D/none.gguf --prompt x", "none.gguf");
    refused("$C eval --model $D/none.gguf --text $D/two.txt", "none.gguf");
    refused("$C tokenize --model $D/none.gguf --file $D/two.txt", "none.gguf");
    put("bad.txt", "fine\nnot \xC3(\n");
    refused("$C tokenize --model m --file $D/bad.txt", "bad.txt:2: not valid UTF-8: byte 0xc3 at column 5");
    refused("$C eval --model m --text $D/bad.txt", "bad.txt:2: not valid UTF-8");
    refused("$C generate --model m --file $D/bad.txt", "bad.txt:2: not valid UTF-8");
    put("bad.jsonl", "{\"prompt\": \"x\"}\n{\"other\": \"x\"}\n");
    refused("$C generate --model m --file $D/bad.jsonl", "bad.jsonl:2: ");
    put("empty.txt", "");
    refused("$C generate --model m --file $D/empty.txt", "empty.txt");
    refused("$C generate --model m --prompt ''", "empty prompt");
}

static void scores(void **state) {
    (void)state;
    sh("$C score --hyp $D/two.txt --ref $D/two.txt --json");
    status_is(0);
    json_t *o = json_of(ran.out.p);
    static const char *const key[] = {"bleu", "chrf", "chrf++", "exact"};
    for (int i = 0; i < 4; i++) assert_true(fabs(json_number_value(json_object_get(o, key[i])) - 100) < 1e-6);
    assert_int_equal(json_integer_value(json_object_get(o, "lines")), 2);
    json_decref(o);
    sh("$C score --hyp=$D/two.txt --ref=$D/two.txt");
    status_is(0);
    says(ran.out.p, "BLEU    100.00");
    put("said.txt", "LOC: York | PER: Ada\nnone\n");
    put("right.txt", "LOC: New York | PER: Ada\nnone\n");
    sh("$C score --hyp $D/said.txt --ref $D/right.txt --metrics entity_f1,ter,entity_f1_partial");
    status_is(0);
    says(ran.out.p, "entity F1    50.00\nTER          14.29\npartial F1   75.00\nlines            2\n");
    refused("$C score --hyp $D/said.txt --ref $D/right.txt --metrics chrf,rouge", "no metric 'rouge'", "rougeL");
    refused("$C score --hyp $D/said.txt --ref $D/right.txt --metrics triple_f1", "reference 1 is no list of triples");
    refused("$C score --hyp $D/two.txt --ref $D/three.txt", "2 lines", "3");
    refused("$C score --hyp $D/none --ref $D/two.txt", "none");
    refused("$C score --hyp $D/two.txt", "--ref is missing");
    put("empty.txt", "");
    refused("$C score --hyp $D/empty.txt --ref $D/empty.txt", "empty");
    sh("$C score --hyp $D/two.txt --ref $D/two.txt --json > /dev/full");
    status_is(1);
    says(ran.err.p, "cannot write");
}

static void inspects(void **state) {
    (void)state;
    const char *base = GOLDEN "/tiny_llama/tied_gqa";
    sh("$C inspect %s --json", base);
    status_is(0);
    json_t *o = json_of(ran.out.p);
    assert_string_equal(json_string_value(json_object_get(o, "kind")), "model");
    json_decref(o);
    sh("$C inspect %s/adapter_all_r4", base);
    status_is(0);
    says(ran.out.p, "adapter");
    assert_null(strstr(ran.out.p, "\033")); /* no colours into a file */
}

static double num(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }
#define near(got, want, tol) (fabs((got) - (want)) <= (tol) ? (void)0 : (void)flunk("%s is %.9g, not %.9g", #got, (double)(got), (double)(want)))

/* The numbers of the method's first description, set right; the page that tells the same has each of them. */
static void explains_the_sums(void **state) {
    (void)state;
    static const char *const lines[] = {"2 θ (p + 64)", "θ (p + 2 r (q + 64))", "1.6e11 bits = 20.00 GB", "1e9 × 21.76 bits = 2.72 GB", "N = 1.6e11 / 21.76 = 7.353e9: the base may be 7.35x",
                                        "8.93x  7.35x  6.25x  10x", "192  23.68   8.11x", "192  22.72   8.45x", "4.250 bits", "160  10.01   16.0x"};
    static const double share[] = {8.928571, 7.352941, 6.25}, counted[] = {7.352941, 8.108108, 8.450704, 15.984016};
    static const char *const page[] = {"**20.00 GB**", "21.76 bits = **2.72\nGB**", "N = 1.6e11 / 21.76 = 7.353e9", "| 8.93× | 7.35× | 6.25× | 10× |", "| 160 | 21.76 | 7.35 |", "| 192 | 23.68 | 8.11 |",
                                       "| 192 | 22.72 | 8.45 |", "NF4, 4.25 bits", "| 160 | 10.01 | 16.0 |"};
    sh("$C plan --explain");
    status_is(0);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) says(ran.out.p, lines[i]);
    sh("$C plan --explain --json");
    status_is(0);
    json_t *all = json_of(ran.out.p), *o = json_object_get(json_object_get(all, "explain"), "example");
    near(num(o, "dmcct_bits"), 1.6e11, 1);
    near(num(o, "dmcct_bytes"), 2e10, 1);
    near(num(o, "macct_bits_per_parameter"), 21.76, 1e-9);
    near(num(o, "same_bytes_parameters"), 7.353e9, 5e5);
    near(num(o, "factor"), 160 / 21.76, 1e-6);
    for (size_t i = 0; i < 3; i++) near(num(json_array_get(json_object_get(o, "shares"), i), "factor"), share[i], 1e-6);
    for (size_t i = 0; i < 4; i++) near(num(json_array_get(json_object_get(o, "counted"), i), "factor"), counted[i], 1e-6);
    json_decref(all);
    str text = {0};
    must(file_read("docs/memory.md", &text));
    for (size_t i = 0; i < sizeof page / sizeof *page; i++) says(text.p, page[i]);
    str_free(&text);
    refused("$C plan --explain --set lora.r=8", "CONFIG is missing");
    refused("$C plan $D/run.yaml --dump --json", "--dump is text and goes alone");
    refused("$C plan --dump", "CONFIG is missing");
}

/* A run's own sum is that of its plan's lines, but for what aligning each parameter adds. */
static void explains_a_run(void **state) {
    (void)state;
    static const char *const objectives[] = {"--set A.data=" GOLDEN "/cipher/a.jsonl --set B.data=" GOLDEN "/cipher/b.jsonl --set B.lora.r=3", "--set objective=sft --set data=$D/pair.jsonl"};
    put("pair.jsonl", "{\"prompt\": \"abc\", \"completion\": \"ABC\"}\n");
    put("cipher.yaml", "model: " GOLDEN "/cipher\nmax_length: 48\nmax_new_tokens: 8\noutput_dir: /tmp/nowhere\n");
    for (int i = 0; i < 2; i++) {
        sh("$C plan $D/cipher.yaml --explain --json %s", objectives[i]);
        status_is(0);
        json_t *plan = json_of(ran.out.p), *o = json_object_get(json_object_get(plan, "explain"), "run"), *model = json_object_get(plan, "model"), *side;
        double theta = num(model, "parameters"), trained = 0, lines = 0;
        size_t k;
        json_array_foreach(json_object_get(plan, "sides"), k, side) {
            trained += num(side, "trained");
            near(json_number_value(json_array_get(json_object_get(o, "shares"), k)), num(side, "trained") / theta, 1e-9);
        }
        assert_int_equal(k, 2 - i);
        static const int counts[] = {0, 1, 3}; /* weights, adapters, optimizer */
        for (k = 0; k < 3; k++) lines += num(json_array_get(json_object_get(plan, "memory"), (size_t)counts[k]), "bytes");
        near(num(o, "weight_bits") * theta / 8, num(model, "bytes"), 1);
        near(num(o, "bytes"), num(model, "bytes") + trained * 12, 1);
        near(num(o, "plan_static_bytes"), lines, 0);
        near(num(o, "bytes"), lines, 0.01 * lines);
        assert_true(num(o, "bytes") <= lines + 1);
        near(num(o, "plan_total_bytes"), num(plan, "total"), 0);
        near(num(o, "factor"), (2 - i) * theta * 80 / 8 / num(o, "bytes"), 1e-6);
        json_decref(plan);
        sh("$C plan $D/cipher.yaml --explain %s", objectives[i]);
        status_is(0);
        says(ran.out.p, "gradients"); /* the plan itself */
        says(ran.out.p, i ? "one adapter " : "two adapters");
    }
}

/* Every option that a command takes is on its page. */
static void help_names_every_option(void **state) {
    (void)state;
    for (int i = 0; names[i]; i++) {
        str source = {0};
        char path[64];
        snprintf(path, sizeof path, "app/cli/%s.c", names[i]);
        must(file_read(path, &source));
        sh("$C help %s", names[i]);
        for (char *at = source.p, *end; (at = strstr(at, "{\"-")); at = end) {
            at += 2;
            end = strchr(at, '"');
            if (!str_starts(end, "\", ARG_")) continue;
            *end = 0;
            if (!strstr(ran.out.p, at)) flunk("%s: %s is not on the page", names[i], at);
            *end = '"';
        }
        str_free(&source);
    }
}

/* --- with the real model --------------------------------------------------------------------------------------------
 */
static const char *model(void) {
    const char *path = smollm2_path();
    if (!path) skip();
    return path;
}

static void tokenizes(void **state) {
    (void)state;
    const char *m = model();
    json_t *golden = json_load_file(GOLDEN "/smollm2/tokens.json", JSON_ALLOW_NUL, NULL), *item;
    assert_non_null(golden);
    str lines = {0};
    size_t i;
    json_array_foreach(golden, i, item) {
        const char *s = json_string_value(json_object_get(item, "text"));
        size_t n = json_string_length(json_object_get(item, "text"));
        if (memchr(s, '\n', n)) continue;
        str_add(&lines, s, n);
        str_addc(&lines, '\n');
    }
    write_file("awkward.txt", lines.p, lines.n);
    str_free(&lines);
    sh("$C tokenize --model '%s' --file $D/awkward.txt --json", m);
    status_is(0);
    const char *line = ran.out.p;
    json_array_foreach(golden, i, item) {
        const json_t *text = json_object_get(item, "text");
        if (memchr(json_string_value(text), '\n', json_string_length(text))) continue;
        json_t *got = json_loads(line, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL);
        if (!json_equal(got, item)) flunk("case %zu: %.200s", i, line);
        json_decref(got);
        line = strchr(line, '\n') + 1;
    }
    assert_int_equal(*line, 0);
    json_decref(golden);
}

static void likelihoods(void **state) {
    (void)state;
    const char *m = model();
    enum { SEEN = 120 }; /* tokens; their text is well within the first 1000 bytes */
    str text = {0};
    struct tensors ts;
    must(file_read(GOLDEN "/smollm2/text.txt", &text));
    must(tensors_open(GOLDEN "/smollm2/nll.safetensors", &ts));
    write_file("part.txt", text.p, 1000);
    str_free(&text);
    sh("$C eval --model '%s' --text $D/part.txt --json", m);
    status_is(0);
    json_t *o = json_of(ran.out.p), *ids = json_object_get(o, "ids"), *nll = json_object_get(o, "nll");
    const int32_t *want_ids = i32_of(fixture(&ts, "text_ids"));
    const float *want = f32_of(fixture(&ts, "nll"));
    size_t n = json_array_size(ids);
    assert_true(n > SEEN && json_array_size(nll) == n);
    assert_int_equal(json_integer_value(json_object_get(o, "tokens")), n - 1);
    double sum = 0, mine = 0, theirs = 0;
    for (size_t i = 0; i < n; i++) sum += json_number_value(json_array_get(nll, i));
    for (size_t i = 1; i < SEEN; i++) {
        assert_int_equal(json_integer_value(json_array_get(ids, i)), want_ids[i]);
        mine += json_number_value(json_array_get(nll, i));
        theirs += want[i - 1];
    }
    assert_true(json_number_value(json_array_get(nll, 0)) == 0);
    if (fabs(mine - theirs) > 0.02 * theirs) flunk("nll of the first tokens is %g, PyTorch says %g", mine, theirs);
    double mean = json_number_value(json_object_get(o, "mean"));
    assert_true(fabs(json_number_value(json_object_get(o, "sum")) - sum) < 1e-4 * sum);
    assert_true(fabs(mean - sum / (double)(n - 1)) < 1e-4 * mean);
    assert_true(fabs(json_number_value(json_object_get(o, "perplexity")) - exp(mean)) < 1e-4 * exp(mean));
    json_decref(o);
    tensors_close(&ts);
}

static void generates(void **state) {
    (void)state;
    const char *m = model();
    sh("$C generate --model '%s' --prompt 'The capital of France is' --max-new-tokens 4 --greedy --json", m);
    status_is(0);
    json_t *o = json_of(ran.out.p);
    assert_true(str_starts(json_string_value(json_object_get(o, "text")), " Paris."));
    assert_string_equal(json_string_value(json_object_get(o, "prompt")), "The capital of France is");
    assert_int_equal(json_array_size(json_object_get(o, "ids")), 4);
    assert_true(json_is_false(json_object_get(o, "stopped")));
    assert_true(json_number_value(json_object_get(o, "tokens_per_s")) > 0);
    assert_true(json_number_value(json_object_get(o, "prefill_tokens_per_s")) > 0);
    json_decref(o);
    sh("$C generate --model '%s' --prompt 'The capital of France is' --max-new-tokens 1 --greedy --json", m);
    o = json_of(ran.out.p);
    assert_true(json_is_null(json_object_get(o, "tokens_per_s"))); /* the prompt's pass made it: nothing was decoded */
    json_decref(o);
    sh("$C generate --model '%s' --prompt 'The capital of France is' --max-new-tokens 1 --greedy", m);
    says(ran.err.p, "1 token; prompt of 5 tokens at ");
    sh("$C generate --model '%s' --prompt x --max-new-tokens 4 --device tpu", m);
    status_is(2);
    says(ran.err.p, "device 'tpu' is not known");
    sh("$C generate --model '%s' --prompt x --max-new-tokens 4 --dtype bfloat16", m);
    status_is(0);
    says(ran.err.p, "4 tokens at ");
    sh("$C generate --model '%s' --prompt x --max-new-tokens 4 --dtype int8", m);
    status_is(2);
    says(ran.err.p, "dtype 'int8' is not known");
    sh("CUDA_VISIBLE_DEVICES= $C generate --model '%s' --prompt x --max-new-tokens 4 --device cuda", m);
    status_is(2);
    says(ran.err.p, "device: cpu");
    sh("CUDA_VISIBLE_DEVICES= $C generate --model '%s' --prompt 'The capital of France is' --max-new-tokens 4 --greedy --json --device auto", m);
    status_is(0);
    sh("$C generate --model '%s' --prompt 'The capital of France is' --max-new-tokens 4", m); /* streamed */
    status_is(0);
    assert_true(str_starts(ran.out.p, " Paris."));
    says(ran.err.p, "tokens/s");
    sh("$C generate --model '%s' --prompt 'The capital of France is' --max-new-tokens 4 --beams 2 --repetition-penalty 1.1 "
       "--min-new-tokens 2 --json",
       m);
    status_is(0);
    says(ran.out.p, "Paris");
    sh("$C generate --model '%s' --prompt 'x' --max-new-tokens 4 --min-new-tokens 5", m);
    status_is(2);
    says(ran.err.p, "min_new_tokens 5 is more than max_new_tokens 4");
    sh("$C generate --model '%s' --prompt 'x' --beams 33", m);
    status_is(2);
    says(ran.err.p, "1 to 32");
    put("prompts.jsonl", "{\"prompt\": \"The capital of France is\"}\n{\"text\": \"Once upon a time,\\nthere\"}\n");
    sh("$C generate --model '%s' --file $D/prompts.jsonl --max-new-tokens 3 --temperature 0.8 --seed 7 --json", m);
    status_is(0);
    str first = ran.out;
    ran.out = (str){0};
    sh("$C generate --model '%s' --file $D/prompts.jsonl --max-new-tokens 3 --temperature 0.8 --seed 7 --json", m);
    for (const char *a = first.p, *b = ran.out.p; *a; a = strchr(a, '\n') + 1, b = strchr(b, '\n') + 1) {
        json_t *x = json_of(a), *y = json_of(b);
        assert_true(json_equal(json_object_get(x, "ids"), json_object_get(y, "ids")));
        json_decref(x);
        json_decref(y);
    }
    str_free(&first);
}

/* run.yaml: cycles of `model` on texts a and b, judged on pairs. */
static void put_run(const char *model, const char *a, const char *b, const char *pairs) {
    str yaml = {0};
    str_addf(&yaml,
             "model: %s\noutput_dir: %s/out\nmax_steps: 2\nmax_new_tokens: 6\nmax_length: 64\n"
             "per_device_train_batch_size: 2\nlora: {r: 2, lora_alpha: 4, target_modules: [q_proj, v_proj]}\n"
             "A: {data: %s}\nB: {data: %s}\neval: {data: %s, samples: 1, limit: 2}\n",
             model, dir, a, b, pairs);
    write_file("cycles.yaml", yaml.p, yaml.n);
    str_free(&yaml);
}

/* A base of a few thousand numbers, for what is the program's and not the model's. */
static void put_small_run(void) { put_run(GOLDEN "/cipher", GOLDEN "/cipher/a.jsonl", GOLDEN "/cipher/b.jsonl", GOLDEN "/cipher/test.jsonl"); }

static void plans_and_previews(void **state) {
    (void)state;
    char a[64], b[64], pairs[64];
    snprintf(a, sizeof a, "%s/a.jsonl", dir), snprintf(b, sizeof b, "%s/b.txt", dir), snprintf(pairs, sizeof pairs, "%s/pairs.jsonl", dir);
    put("a.jsonl", "{\"text\": \"one two three\"}\n{\"text\": \"four five six\"}\n{\"text\": \"seven eight\"}\n");
    put("b.txt", "uno dos tres\ncuatro cinco seis\nsiete ocho\n");
    put("pairs.jsonl", "{\"a\": \"nine ten\", \"b\": \"nueve diez\"}\n");
    put_run(model(), a, b, pairs);
    sh("$C plan $D/cycles.yaml --json");
    status_is(0);
    json_t *o = json_of(ran.out.p);
    assert_int_equal(json_array_size(json_object_get(o, "sides")), 2);
    assert_true(json_number_value(json_object_get(o, "total")) > 9e7);
    json_decref(o);
    sh("$C plan $D/cycles.yaml");
    status_is(0);
    says(ran.out.p, "weights");
    says(ran.out.p, "adapter B");
    refused("$C plan $D/cycles.yaml --set memory=1MB", "limit");
    refused("$C train $D/cycles.yaml --set output_dir=", "output_dir");
    sh("$C data preview $D/cycles.yaml -n 2 --json");
    status_is(0);
    o = json_of(ran.out.p);
    assert_non_null(json_object_get(o, "rows"));
    json_decref(o);
    sh("$C data preview $D/cycles.yaml");
    status_is(0);
    says(ran.out.p, "⟦");
}

static void data_files(void **state) {
    (void)state;
    sh("printf '%%s\\n' '{\"text\": \"one two\"}' '{\"n\": 1, \"text\": \"one two\"}' '{\"text\": \"three\"}' | gzip -c > $D/d.jsonl.gz");
    sh("printf 'instruction,output\\nadd,three\\n' > $D/d.csv");
    sh("$C data stats $D/d.jsonl.gz $D/d.csv --json");
    json_t *o = json_of(ran.out.p), *f = json_array_get(json_object_get(o, "files"), 0);
    assert_int_equal(json_integer_value(json_object_get(f, "rows")), 3);
    assert_int_equal(json_integer_value(json_object_get(f, "duplicates")), 1);
    assert_string_equal(json_string_value(json_object_get(f, "shape")), "text");
    assert_string_equal(json_string_value(json_object_get(f, "packing")), "gzip");
    f = json_array_get(json_object_get(o, "files"), 1);
    assert_string_equal(json_string_value(json_object_get(f, "shape")), "alpaca");
    assert_string_equal(json_string_value(json_object_get(f, "container")), "CSV");
    assert_null(json_object_get(f, "tokens"));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "totals"), "rows")), 4);
    json_decref(o);
    if (!model()) return;
    sh("$C data stats $D/d.jsonl.gz --model %s --max-length 2 --json", model());
    o = json_of(ran.out.p);
    f = json_array_get(json_object_get(o, "files"), 0);
    assert_int_equal(json_integer_value(json_object_get(f, "tokens")), 8); /* one two EOS, twice; three EOS */
    assert_int_equal(json_integer_value(json_object_get(f, "truncated")), 2);
    assert_int_equal(json_integer_value(json_object_get(f, "supervised")), 3);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(f, "length"), "max")), 3);
    json_decref(o);
    sh("$C data preview $D/d.csv --model %s", model());
    status_is(0);
    says(ran.out.p, "shape alpaca");
    says(ran.out.p, "⟦three<|im_end|>⟧");
}

/* Conversations, in the model's own template and in others. */
static void previews_conversations(void **state) {
    (void)state;
    const char *m = model();
    put("chat.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Yes?\"}]}\n");
    put("mine.jinja", "{% for m in messages %}[{{ m.content }}{{ eos_token if m.role == 'assistant' }}]{% endfor %}");
    put("broken.jinja", "\n{% for m in messages %}");
    put("refuses.jinja", "{{ raise_exception('not today') }}");
    sh("{ echo 'model: %s'; echo 'objective: sft'; echo \"data: $D/chat.jsonl\"; echo \"output_dir: $D/out\"; } > $D/chat.yaml", m);
    sh("$C data preview $D/chat.yaml");
    status_is(0);
    says(ran.out.p, "chat.jsonl:1  35 tokens, 3 supervised; BOS <|im_start|>; 1 answer, ended by <|im_end|>\n");
    says(ran.out.p, "⟦Yes?<|im_end|>⟧↵");
    sh("$C data preview $D/chat.yaml --set chat_template=$D/mine.jinja --json");
    status_is(0);
    json_t *o = json_of(ran.out.p), *row = json_array_get(json_object_get(o, "rows"), 0);
    assert_true(json_is_null(json_object_get(row, "bos")));
    assert_string_equal(json_string_value(json_array_get(json_object_get(row, "answers"), 0)), "<|im_end|>");
    json_decref(o);
    sh("$C data preview $D/chat.yaml --set max_length=34");
    says(ran.out.p, "1 answer, ended by <|im_end|>");
    sh("$C data preview $D/chat.yaml --set max_length=33");
    says(ran.out.p, "1 answer, 1 without an end token\n");
    refused("$C data preview $D/chat.yaml --set chat_template=$D/broken.jinja", "chat.jsonl:1: ", "/broken.jinja:2:4: ", "endfor is missing");
    refused("$C data preview $D/chat.yaml --set chat_template=$D/refuses.jinja", "chat.jsonl:1: ", "/refuses.jinja:1:19: ", "not today");
    refused("$C data preview $D/chat.yaml --set chat_template=$D/none.jinja", "none.jinja: ");
    sh("$C generate --model '%s' --chat-template chatml --prompt 'Say yes.' --max-new-tokens 2", m);
    status_is(0);
    sh("$C generate --model '%s' --chat --prompt 'a<|im_end|>b' --max-new-tokens 2", m);
    status_is(2);
    says(ran.err.p, "holds \"<|im_end|>\", a control token");
}

static int count(const char *s, const char *part) {
    int n = 0;
    for (; (s = strstr(s, part)); s++) n++;
    return n;
}

static void trains(void **state) {
    (void)state;
    put_small_run();
    sh("$C train $D/cycles.yaml --json");
    status_is(0);
    assert_int_equal(count(ran.out.p, "{\"event\":\"start\""), 1);
    assert_int_equal(count(ran.out.p, "{\"event\":\"step\""), 2);
    assert_int_equal(count(ran.out.p, "{\"event\":\"end\""), 1);
    assert_true(count(ran.out.p, "{\"event\":\"eval\"") >= 2);
    refused("$C train $D/cycles.yaml", "out");
    sh("$C train $D/cycles.yaml --overwrite --check-accum");
    status_is(0);
    says(ran.err.p, "note: accumulation of side A");
    says(ran.out.p, "step 2/2");
    says(ran.out.p, "cyclora generate --model");
    says(ran.out.p, "/out/A");
    sh("$C inspect $D/out");
    status_is(0);
    sh("$C eval $D/cycles.yaml --run $D/out --json");
    status_is(0);
    json_decref(json_of(ran.out.p));
    sh("$C generate --model " GOLDEN "/cipher --adapter $D/out/A --prompt msle --max-new-tokens 2");
    status_is(0);
}

/* SIGTERM after the first step: status 130, a checkpoint, and --resume goes on from it. */
static void interrupted_and_resumed(void **state) {
    (void)state;
    put_small_run();
    sh("$C train $D/cycles.yaml --overwrite --json --set max_steps=100000 --set eval.data= > $D/events & p=$!; "
       "while ! grep -q '\"step\",' $D/events; do sleep 0.1; kill -0 $p || exit 99; done; kill -TERM $p; wait $p");
    status_is(130);
    sh("cat $D/events");
    assert_int_equal(count(ran.out.p, "{\"event\":\"save\""), 1);
    int done = count(ran.out.p, "{\"event\":\"step\"");
    sh("$C train $D/cycles.yaml --resume --quiet --set eval.data= --set max_steps=%d", done + 1);
    status_is(0);
}

static void a_loss_scale_is_float16s(void **state) {
    (void)state;
    put_small_run();
    sh("$C train $D/cycles.yaml --overwrite --quiet --set eval.data= --set max_steps=1 --set dtype=float16");
    status_is(0);
    sh("$C train $D/cycles.yaml --resume --quiet --set eval.data= --set max_steps=2 --set dtype=float16");
    status_is(0);
    if (strstr(ran.err.p, "loss scale")) flunk("it is ignored by a run in float16: %s", ran.err.p);
    sh("$C train $D/cycles.yaml --resume --quiet --set eval.data= --set max_steps=3 --set dtype=bfloat16");
    status_is(0);
    says(ran.err.p, "optimizer.safetensors: the loss scale of a run in float16 is ignored");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_pages), cmocka_unit_test(embed_lines),
        cmocka_unit_test(wrong_commands),
        cmocka_unit_test(wrong_options),
        cmocka_unit_test(wrong_configurations),
        cmocka_unit_test(wrong_files),
        cmocka_unit_test(scores),
        cmocka_unit_test(inspects),
        cmocka_unit_test(explains_the_sums),
        cmocka_unit_test(explains_a_run),
        cmocka_unit_test(help_names_every_option),
        cmocka_unit_test(tokenizes),
        cmocka_unit_test(likelihoods),
        cmocka_unit_test(generates),
        cmocka_unit_test(data_files), cmocka_unit_test(plans_and_previews),
        cmocka_unit_test(previews_conversations),
        cmocka_unit_test(trains),
        cmocka_unit_test(interrupted_and_resumed),
        cmocka_unit_test(a_loss_scale_is_float16s),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
