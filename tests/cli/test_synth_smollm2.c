/* `cyclora data synth` with the real model as teacher: rows that training reads, with where they come from; the same bytes from a request that
 * is made in one go and from one that goes on from what was left. */
#define _GNU_SOURCE
#include "support/shell.h"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    setenv("M", smollm2_path(), 1);
    ok("for i in 'turn on the light in the hall:TurnOn' 'what time is it:Time' 'add milk to my list:ListAdd' 'play the next "
       "song:MediaNext'; do echo "
       "'{\"prompt\": \"'\"${i%%%%:*}\"'\", \"completion\": \"'\"${i#*:}\"'\"}'; done > $D/seeds.jsonl");
    return 0;
}

#define ASK                                                                                                                                \
    "$C data synth --model $M --raw --seeds $D/seeds.jsonl -n 1 --batch 4 --most 8 --examples 2 --max-new-tokens 24 --json --out $D/"

static void test_rows(void **state) {
    (void)state;
    ok(ASK "one.jsonl > $D/card && cat $D/one.jsonl");
    json_t *row = json_loads(ran.out.p, JSON_DISABLE_EOF_CHECK, NULL), *from = json_object_get(row, "provenance");
    assert_true(json_string_length(json_object_get(row, "instruction")) > 0 && json_string_length(json_object_get(row, "output")) > 0);
    assert_int_equal(json_array_size(json_object_get(from, "seeds")), 2);
    assert_int_equal(json_string_length(json_object_get(from, "teacher_xxh128_of_tensors")), 32);
    json_decref(row);
    ok("$C data preview $D/one.jsonl --model $M -n 1 | grep -q assistant && ! test -e $D/one.jsonl.work && test -e $D/one.jsonl.card.json");
    /* nothing is long enough: nothing is kept, and the texts wait for another limit */
    sh(ASK "two.jsonl --min-words 100");
    assert_int_equal(ran.status, 1);
    ok(ASK "two.jsonl && cmp $D/one.jsonl $D/two.jsonl");
    /* the instruction that was kept is one of an evaluation set now; whether another is kept in its place does not matter */
    ok("sed 's/.*\"instruction\":\\(\"[^\"]*\"\\).*/{\"text\":\\1}/' $D/one.jsonl > $D/test.jsonl");
    sh(ASK "three.jsonl --against $D/test.jsonl 2>&1");
    if (strstr(ran.out.p, "\"evaluation\":0")) flunk("an instruction of the evaluation set was kept: %s", ran.out.p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows)};
    if (smollm2_path()) return cmocka_run_group_tests(tests, begin, shell_end);
    print_message("the real model is not here (tools/fetch.py smollm2): skipped\n");
    return 0;
}
