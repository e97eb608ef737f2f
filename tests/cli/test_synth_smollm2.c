/* `cyclora data synth` with the real model as teacher: rows that training reads, with where they come from; the same bytes from a request that
 * is made in one go and from one that goes on from what was left. */
#define _GNU_SOURCE
#include "support/shell.h"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    setenv("M", smollm2_path(), 1);
    ok("for i in 'the hall:hall' 'my room:room' 'the shed:shed' 'her desk:desk'; do echo '{\"prompt\": \"turn on the light in "
       "'\"${i%%:*}\"'\", "
       "\"completion\": \"TurnOn | area = '\"${i#*:}\"'\"}'; done > $D/seeds.jsonl");
    return 0;
}

#define ASK "$C data synth --model $M --raw --seeds $D/seeds.jsonl -n 1 --batch 4 --most 4 --max-new-tokens 32 --seed 1 --json --out $D/"

static void test_rows(void **state) {
    (void)state;
    ok(ASK "one.jsonl > $D/card && cat $D/one.jsonl");
    json_t *row = json_loads(ran.out.p, JSON_DISABLE_EOF_CHECK, NULL), *from = json_object_get(row, "provenance");
    assert_true(json_string_length(json_object_get(row, "instruction")) > 0 && json_string_length(json_object_get(row, "output")) > 0);
    assert_int_equal(json_array_size(json_object_get(from, "seeds")), 3);
    assert_int_equal(json_string_length(json_object_get(from, "teacher_xxh128_of_tensors")), 32);
    json_decref(row);
    ok("$C data preview $D/one.jsonl --model $M -n 1 | grep -q assistant && ! test -e $D/one.jsonl.work && test -e $D/one.jsonl.card.json");
    /* all that is written is like something already: nothing is kept, and the texts wait for another limit */
    sh(ASK "two.jsonl --likeness 0.001");
    assert_int_equal(ran.status, 1);
    ok(ASK "two.jsonl && cmp $D/one.jsonl $D/two.jsonl");
    /* the instruction that was kept is one of an evaluation set now */
    ok("sed 's/.*\"instruction\":\\(\"[^\"]*\"\\).*/{\"text\":\\1}/' $D/one.jsonl > $D/test.jsonl");
    sh(ASK "three.jsonl --against $D/test.jsonl");
    says(ran.err.p, "\"evaluation\":1");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows)};
    if (smollm2_path()) return cmocka_run_group_tests(tests, begin, shell_end);
    print_message("the real model is not here (tools/fetch.py smollm2): skipped\n");
    return 0;
}
