/* How data reach a run makes no difference to what is learnt: streamed or parsed, JSONL, an array, CSV, compressed or not,
 * one thread or two: the same adapters, to the byte. Files with weights resume exactly where a run was killed. A held-out
 * split is disjoint from what is trained on. On the cipher base, through the public API. */
#define _GNU_SOURCE
#include "support/folder.h"
#include "support/support.h"
#include "base/file.h"
#include "cyclora/cyclora.h"
#include "train/run.h"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define DATA GOLDEN "/cipher/"
enum { ROWS = 96 };

static void put(const char *name, const str *s) { must(file_write(at(name), s->p, s->n)); }

static void put_gz(const char *name, const str *s) {
    gzFile f = gzopen(at(name), "wb");
    assert_int_equal(gzwrite(f, s->p, (unsigned)s->n), (int)s->n);
    gzclose(f);
}

static void put_zst(const char *name, const str *s) {
    size_t room = ZSTD_compressBound(s->n);
    char *p = malloc(room);
    size_t n = ZSTD_compress(p, room, s->p, s->n, 3);
    assert_false(ZSTD_isError(n));
    must(file_write(at(name), p, n));
    free(p);
}

/* Row i: what the cipher base can learn. */
static void words(int i, char *prompt, char *completion) {
    int n = 3 + i % 7;
    for (int k = 0; k < n; k++) {
        prompt[k] = (char)('a' + (i * 7 + k * 3 + i / 26) % 26);
        completion[k] = (char)(prompt[k] - 32);
    }
    prompt[n] = completion[n] = 0;
}

static int make_files(void **state) {
    if (own_folder_make(state)) return -1;
    str lines = {0}, array = {0}, csv = {0}, texts = {0};
    str_adds(&csv, "note,completion,prompt\r\n");
    for (int i = 0; i < ROWS; i++) {
        char p[16], c[16];
        words(i, p, c);
        str_addf(&lines, "%s{\"prompt\": \"%s\\n\", \"completion\": \"%s\"}\n", i % 5 ? "" : "\n", p, c);
        str_addf(&array, "%s{\"prompt\": \"%s\\n\",\n \"completion\": \"%s\"}", i ? ",\n" : "[", p, c);
        str_addf(&csv, ",%s,\"%s\n\"\r\n", c, p);
        str_addf(&texts, "%s\n", p);
    }
    str_adds(&array, "\n]\n");
    put("rows.jsonl", &lines);
    put("rows.json", &array);
    put("rows.csv", &csv);
    put("texts.txt", &texts);
    put_gz("rows.jsonl.gz", &lines);
    put_zst("rows.json.zst", &array);
    put_zst("texts.txt.zst", &texts);
    str_free(&lines);
    str_free(&array);
    str_free(&csv);
    str_free(&texts);
    return 0;
}
static int kill_at;
static void on_step(void *ctx, const cyc_step *s) {
    (void)ctx;
    if (s->step == kill_at) raise(SIGKILL);
}

static int run(const char *name, int flags, const char *const *sets) {
    char out[300];
    cyc_config *c = cyc_config_new();
    snprintf(out, sizeof out, "output_dir=%s", at(name));
    if (cyc_config_set(c, out)) flunk("%s", cyc_error());
    for (; *sets; sets++)
        if (cyc_config_set(c, *sets)) flunk("%s: %s", *sets, cyc_error());
    cyc_callbacks cb = {.on_step = on_step};
    int code = cyc_train(c, flags, &cb, NULL);
    cyc_config_free(c);
    return code;
}

#define SFT "objective=sft", "model=" DATA, "per_device_train_batch_size=8", "max_length=32", "pass_tokens=64", "lora.r=4", "lora.lora_dropout=0.1", "learning_rate=4e-3"

static void sft_as(const char *name, const char *file, const char *streaming, const char *threads) {
    char data[300], stream[32], use[32], adapter[64], want[64];
    snprintf(data, sizeof data, "data=%s", at(file));
    snprintf(stream, sizeof stream, "streaming=%s", streaming);
    snprintf(use, sizeof use, "threads=%s", threads);
    if (run(name, 0, (const char *const[]){SFT, "max_steps=15", data, stream, use, NULL})) flunk("%s: %s", name, cyc_error());
    snprintf(adapter, sizeof adapter, "%s/adapter/adapter_model.safetensors", name);
    snprintf(want, sizeof want, "parsed/adapter/adapter_model.safetensors");
    if (!same_bytes(at(adapter), at(want))) flunk("%s: another adapter than from parsed JSONL", name);
}

static void streamed_as_parsed(void **state) {
    (void)state;
    sft_as("parsed", "rows.jsonl", "false", "1");
    sft_as("streamed", "rows.jsonl", "true", "1");
    sft_as("streamed2", "rows.jsonl", "true", "2");
    sft_as("parsed2", "rows.jsonl", "auto", "2");
}

static void any_container(void **state) {
    (void)state;
    static const char *const files[] = {"rows.json", "rows.csv", "rows.jsonl.gz", "rows.json.zst"};
    for (int i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "parsed-%s", files[i]);
        sft_as(name, files[i], "false", "1");
        snprintf(name, sizeof name, "streamed-%s", files[i]);
        sft_as(name, files[i], "true", "1");
    }
}

static void macct_streamed(void **state) {
    (void)state;
    char data[300];
    snprintf(data, sizeof data, "A.data=%s", at("texts.txt.zst"));
    for (int i = 0; i < 2; i++) {
        const char *const sets[] = {"model=" DATA, data, "B.data=" DATA "b.jsonl", "per_device_train_batch_size=4", "max_new_tokens=8", "max_length=48", "pass_tokens=64", "lora.r=4",
                                    "generation.temperature=0.7", "learning_rate=2e-3", "threads=1", "max_steps=6", i ? "streaming=true" : "streaming=false", NULL};
        if (run(i ? "cycle-streamed" : "cycle-parsed", 0, sets)) flunk("%s", cyc_error());
    }
    assert_true(same_bytes(at("cycle-streamed/A/adapter_model.safetensors"), at("cycle-parsed/A/adapter_model.safetensors")));
    assert_true(same_bytes(at("cycle-streamed/B/adapter_model.safetensors"), at("cycle-parsed/B/adapter_model.safetensors")));
}

/* Killed at step 13 (the last checkpoint is of step 10) and resumed, with weights and a limit, streamed: the straight run. */
static void killed_and_resumed(void **state) {
    (void)state;
    char data[700];
    snprintf(data, sizeof data, "data=[\"%s;weight=0.4\", \"%s;weight=2;limit=7\", \"%s\"]", at("rows.jsonl"), at("rows.csv"), at("rows.json.zst"));
    const char *const sets[] = {SFT, "max_steps=40", "save_steps=5", "save_total_limit=0", "streaming=true", "threads=1", data, NULL};
    if (run("straight", 0, sets)) flunk("%s", cyc_error());
    pid_t child = fork();
    if (!child) {
        kill_at = 13;
        run("killed", 0, sets);
        _exit(3);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(path_exists(at("killed/checkpoint-10")) && !path_exists(at("killed/checkpoint-15")));
    if (run("killed", CYC_RESUME, sets)) flunk("%s", cyc_error());
    assert_true(same_bytes(at("killed/adapter/adapter_model.safetensors"), at("straight/adapter/adapter_model.safetensors")));
    snprintf(data, sizeof data, "data=[\"%s;weight=0.5\", \"%s;weight=2;limit=7\", \"%s\"]", at("rows.jsonl"), at("rows.csv"), at("rows.json.zst"));
    assert_int_equal(run("killed", CYC_RESUME, sets), CYC_BAD_INPUT);
    assert_non_null(strstr(cyc_error(), "has changed since the checkpoint"));
}

/* Training and evaluation share no row, and together have them all. */
static void split_is_disjoint(void **state) {
    (void)state;
    char data[300];
    struct run r;
    struct config c;
    snprintf(data, sizeof data, "data=%s", at("rows.jsonl"));
    const char *const sets[] = {SFT, "eval.split=0.25", data, "output_dir=unused", NULL};
    for (int streamed = 0; streamed < 2; streamed++) {
        must(config_init(&c));
        for (int i = 0; sets[i]; i++) must(config_set(&c, sets[i]));
        must(config_set(&c, streamed ? "streaming=true" : "streaming=false"));
        must(run_open(&r, &c));
        int n = r.side[0].rows.n, held = r.eval.rows[0].n, lines[ROWS + 64] = {0};
        assert_int_equal(n + held, ROWS);
        assert_in_range(held, 10, 40);
        for (int i = 0; i < n; i++) {
            const struct row *row;
            must(rows_draw(&r.side[0].rows, &i, 1, &row));
            lines[row->line]++;
        }
        for (int i = 0; i < held; i++) assert_int_equal(lines[r.eval.rows[0].r[i].line]++, 0);
        run_close(&r);
        config_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streamed_as_parsed), cmocka_unit_test(any_container),     cmocka_unit_test(macct_streamed),
        cmocka_unit_test(killed_and_resumed), cmocka_unit_test(split_is_disjoint),
    };
    return cmocka_run_group_tests(tests, make_files, own_folder_remove);
}
