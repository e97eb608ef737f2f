/* `cyclora data synth` with a teacher that knows nothing (the cipher fixture with a longer context): what is refused, what is left of a request
 * that came to nothing, and that the next one goes on there. tests/cli/test_synth_smollm2.c has one that writes. */
#define _GNU_SOURCE
#include "support/shell.h"

#define ASK                                                                                                                                \
    "$C data synth --model $D/model --seeds $D/seeds.jsonl --out $D/out.jsonl -n 2 --most 4 --batch 2 --examples 1 --max-new-tokens 6 "

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("cp -r $G $D/model && sed -i 's/\"max_position_embeddings\": 64/\"max_position_embeddings\": 512/' $D/model/config.json\n"
       "for i in a b c d; do echo '{\"prompt\": \"say '$i' now\", \"completion\": \"'$i'\"}'; done > $D/seeds.jsonl");
    return 0;
}

static void test_nothing_kept(void **state) {
    (void)state;
    sh(ASK);
    assert_int_equal(ran.status, 1);
    says(ran.err.p, "of 4 texts that");
    says(ran.err.p, "none could be kept: {\"asked\":4,\"kept\":0,\"unread\":4");
    ok("! test -e $D/out.jsonl && ! test -e $D/out.jsonl.card.json && test $(wc -l < $D/out.jsonl.work) = 3 && cp $D/out.jsonl.work "
       "$D/work");
    ok("head -n 2 $D/work > $D/out.jsonl.work; printf '{\"texts\": [\"b' >> $D/out.jsonl.work"); /* killed in its second round */
    sh(ASK);
    assert_int_equal(ran.status, 1);
    ok("cmp $D/work $D/out.jsonl.work");
    refused(ASK "--seed 2", "out.jsonl.work is what another request has left", "remove it");
    refused(ASK "--temperature 0.5", "out.jsonl.work is what another request has left");
}

static void test_refused(void **state) {
    (void)state;
    refused("$C data synth --model $D/model --seeds $D/seeds.jsonl --out $D/no", "-n is missing");
    refused("touch $D/here; " ASK "--out $D/here", "exists already");
    refused(ASK "--out $D/no --temperature 0", "without sampling");
    refused(ASK "--out $D/no --most 1", "no fewer texts");
    refused(ASK "--out $D/no --field a", "--field wants two names");
    refused(ASK "--out $D/no --against $D/none.jsonl", "none.jsonl");
    refused("echo nothing > $D/t; " ASK "--out $D/no --template $D/t", "{examples} in one place");
    refused(ASK "--out $D/no --max-new-tokens 600", "more than the model's context of 512");
    ok("! ls $D | grep '^no'");
    ok("$C help data synth | grep -q 'Self-Instruct'");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing_kept), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
