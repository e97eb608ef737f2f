/* Several adapters at once as their users meet them: names, weights and rows on the command line of `generate`, what each row then writes,
 * a merge taken back, and every refusal. What is computed is tests/model/test_mix.c's. */
#define _GNU_SOURCE
#include "support/shell.h"
#include <jansson.h>

#define M "tests/golden/mix/"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("printf '{\"prompt\": \"slf\", \"adapter\": \"chat\"}\n{\"prompt\": \"slf\", \"adapter\": null}\n{\"prompt\": \"slf\", \"adapter\": {\"style\": 1}}\n{\"prompt\": \"slf\"}\n' > $D/rows.jsonl");
    return 0;
}

/* What `generate` writes behind "slf" with these options, in ids. */
static char *written(const char *options) {
    ok("$C generate --model $G --prompt slf --ignore-eos --max-new-tokens 6 --json %s", options);
    json_t *o = json_loads(ran.out.p, 0, NULL);
    char *ids = json_dumps(json_object_get(o, "ids"), JSON_COMPACT);
    assert_non_null(ids);
    json_decref(o);
    return ids;
}

static void same(const char *one, const char *other) {
    char *a = written(one), *b = written(other);
    if (strcmp(a, b)) flunk("'%s' writes %s, '%s' %s", one, a, other, b);
    free(a);
    free(b);
}

static void test_command_line(void **state) {
    (void)state;
    same("--adapter " M "chat", "--adapter talk=" M "chat:1 --adapter " M "style:0");
    same("--adapter " M "style", "--adapter " M "chat/:0 --adapter " M "style/");
    same("", "--adapter " M "chat:0 --adapter " M "style:0");
    same("--adapter " M "dora", "--adapter " M "chat:0 --adapter " M "dora --adapter " M "ia3:0"); /* what is off is in nobody's way */
    same("", "--no-adapter --adapter " M "chat --adapter " M "style");
    same("", "--no-adapter");
    same("--adapter a=" M "chat --adapter b=" M "ia3", "--adapter b=" M "ia3 --adapter a=" M "chat");
    ok("echo slfslf > $D/t; for a in '--adapter " M "chat' '--adapter " M "chat:1 --adapter " M "style:0'; do $C eval --model $G --text $D/t --json $a | cut -c1-40; done | uniq | wc -l");
    assert_string_equal(ran.out.p, "1\n");
    ok("mkdir -p $D/a=b:2 && cp " M "chat/* $D/a=b:2");
    same("--adapter " M "chat", "--adapter $D/a=b:2"); /* what exists as it stands is a folder */
}

/* Rows of one batch write what they write alone. */
static void test_rows(void **state) {
    (void)state;
    static const char *const alone[] = {"--adapter " M "chat", "", "--adapter " M "style", "--adapter " M "chat --adapter " M "style"};
    ok("$C generate --model $G --file $D/rows.jsonl --ignore-eos --max-new-tokens 6 --json --adapter " M "chat --adapter " M "style");
    char *text = strdup(ran.out.p), *line = text;
    for (int i = 0; i < 4; i++) {
        char *end = strchr(line, '\n'), *want = written(alone[i]);
        json_t *o = json_loadb(line, (size_t)(end - line), 0, NULL);
        char *ids = json_dumps(json_object_get(o, "ids"), JSON_COMPACT);
        if (strcmp(ids, want)) flunk("row %d writes %s, alone %s", i + 1, ids, want);
        json_decref(o);
        free(ids);
        free(want);
        line = end + 1;
    }
    free(text);
    ok("echo '{\"prompt\": \"slf\", \"adapter\": null}' > $D/none.jsonl; for a in ia3 chat; do $C generate --model $G --file $D/none.jsonl --ignore-eos --max-new-tokens 6 --json --adapter " M "$a:0 | cut -d, -f2-7; done | uniq | wc -l");
    assert_string_equal(ran.out.p, "1\n");
    ok("$C generate --model $G --file $D/rows.jsonl --no-adapter --ignore-eos --max-new-tokens 6 --json --adapter " M "chat --adapter " M "style | tail -1 > $D/last; "
       "$C generate --model $G --prompt slf --ignore-eos --max-new-tokens 6 --json | cut -d, -f2-7 > $D/base; cut -d, -f2-7 $D/last | cmp - $D/base");
}

static void test_refusals(void **state) {
    (void)state;
    refused("$C generate --model $G --prompt s --adapter " M "chat --adapter x/chat", "two adapters are called 'chat'");
    refused("$C generate --model $G --prompt s --adapter a=" M "chat:much --adapter " M "style", "behind the last ':' a weight is expected, not 'much'");
    refused("$C generate --model $G --prompt s --adapter =" M "chat", "--adapter wants DIR or NAME=DIR[:WEIGHT]");
    refused("$C generate --model $G --prompt s --adapter " M "chat --adapter " M "dora", "adapters 'dora' and 'chat' both change");
    refused("$C generate --model $G --prompt s --adapter " M "ia3:0.5", "adapter 'ia3' (ia3) is on or off for the whole batch");
    refused("$C generate --model $G --file $D/rows.jsonl", "rows.jsonl:1: names an adapter, but none is given (--adapter NAME=DIR)");
    refused("$C generate --model $G --file $D/rows.jsonl --adapter " M "chat", "rows.jsonl:3: no adapter is called 'style' (there are: chat)");
    refused("$C generate --model $G --file $D/rows.jsonl --adapter " M "chat --adapter style=" M "ia3", "adapter 'style' (ia3) is on or off for the whole batch");
    ok("echo '{\"prompt\": \"s\", \"adapter\": 3}' > $D/bad.jsonl; echo '{\"prompt\": \"s\", \"adapter\": {\"chat\": \"x\"}}' > $D/worse.jsonl");
    refused("$C generate --model $G --file $D/bad.jsonl --adapter " M "chat", "bad.jsonl:1: \"adapter\" is a name, null, or an object of names and weights");
    refused("$C generate --model $G --file $D/worse.jsonl --adapter " M "chat", "worse.jsonl:1: the weight of adapter 'chat' is not a number");
    refused("$C generate --model $G --prompt s --adapter tests/golden/methods/lora_plus/adapter --adapter " M "chat", "was it made for another model or rank");
}

/* Merged and taken back: in f32 the base but for rounding, in f16 within the steps of both roundings. */
static void test_undo(void **state) {
    (void)state;
    ok("$C merge --model $G --adapter " M "style --out $D/merged --type f32 && $C merge --undo --model $D/merged --adapter " M "style --out $D/back");
    says(ran.out.p, "undone    worst difference to tests/golden/cipher ");
    ok("$C merge --model $G --adapter " M "style --out $D/m16 > $D/said && $C merge --undo --model $D/m16 --adapter " M "style --like $G --out $D/b16 --json");
    json_t *o = json_loads(ran.out.p, 0, NULL), *u = json_object_get(json_array_get(json_object_get(o, "outputs"), 0), "undone");
    assert_string_equal(json_string_value(json_object_get(u, "dtype")), "f16");
    assert_true(json_number_value(json_object_get(u, "worst")) > 0 && json_number_value(json_object_get(u, "worst")) < 2e-3);
    assert_true(json_number_value(json_object_get(u, "same")) > 0.3);
    json_decref(o);
    refused("$C merge --undo --model $D/m16 --adapter " M "dora --out $D/no", "DoRA changed the lengths of rows as well");
    refused("$C merge --undo --model $D/m16 --adapter " M "norms --out $D/no", "its tensors took the place of the base's (ln_tuning)");
    refused("$C merge --undo --model $D/m16 --adapter " M "style --out $D/no --type q8_0", "a merge is undone in plain types alone");
    refused("$C merge --model $G --adapter " M "style --like $G --out $D/no", "--like goes with --undo");
    ok("$C merge --model $G --adapter " M "style --out $D/m.gguf --type q8_0");
    refused("$C merge --undo --model $D/m.gguf --adapter " M "style --out $D/no", "is q8_0: what a merge into so few bits rounded away cannot be taken back");
    refused("$C merge --undo --model $D/m16 --adapter " M "style --like tests/golden/tiny_llama/bias --out $D/no", "it is not the base that it was merged from");
    ok("! test -e $D/no");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_command_line), cmocka_unit_test(test_rows), cmocka_unit_test(test_refusals), cmocka_unit_test(test_undo)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
