/* Data of cycle training by ready recipes: what is read is what comes out, parts are disjoint and do not move when files grow, the
 * configuration trains as it is, and what cannot be read leaves nothing behind. Then commands of a user's own in such a run. */
#define _GNU_SOURCE
#include "support/shell.h"
#include "data/listing.h"

#define SHORT                                                                                                                              \
    " --set model=$G --set rope_scaling.rope_type=default --set max_length=120 --set max_new_tokens=24 --set eval.limit=2 --set "          \
    "test.limit=2"

/* Sentences with entities, triples with hostile values, and pairs of lines, 60 of each. */
static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("for i in $(seq 60); do printf 'Ada\\tB-PER\\nL%%s\\tI-PER\\nin\\tO\\nYork\\tB-LOC\\nn%%s\\tO\\n\\n' $i $i; done > $D/x.conll");
    ok("for i in $(seq 60); do echo '{\"triples\": [[\"s'$i'\", \"is | was && \\\\\\\\\", '$i'], {\"subject\": \"AT&T\", \"property\": \" "
       "p \", \"object\": \"\"}, \"a | b | c\"], \"text\": \"t'$i'\"}'; done > $D/x.jsonl");
    ok("for i in $(seq 60); do printf 'Dear %%s\\they %%s\\n' $i $i; done > $D/x.tsv; cut -f 1 $D/x.tsv > $D/formal.txt; cut -f 2 $D/x.tsv "
       "> $D/informal.txt");
    return 0;
}

static void test_entities(void **state) {
    (void)state;
    ok("$C data prepare entities $D/x.conll --out $D/e --json");
    says(ran.out.p, "\"pairs\":60,\"duplicates\":0");
    ok("grep -q '^{\"text\":\"PER: Ada L[0-9]* | LOC: York\"}$' $D/e/B.jsonl && grep -q '^{\"text\":\"Ada L[0-9]* in York n[0-9]*\"}$' "
       "$D/e/A.jsonl");
    ok("cat $D/e/*.jsonl | wc -l");
    says(ran.out.p, "60\n"); /* each pair in one part, A and B of different ones */
    ok("cat $D/e/A.jsonl $D/e/B.jsonl | grep -o ' L[0-9][0-9]*' | sort | uniq -d | wc -l");
    says(ran.out.p, "0\n");
    ok("for i in $(seq 60 90); do printf 'Eve\\tB-PER\\nM%%s\\tO\\n\\n' $i; done | cat - $D/x.conll $D/x.conll > $D/more.conll; $C data "
       "prepare entities $D/more.conll --out $D/e2 --json");
    says(ran.out.p, "\"pairs\":91,\"duplicates\":60");
    ok("for f in A B warm dev test; do grep Ada $D/e/$f.jsonl > $D/one; grep Ada $D/e2/$f.jsonl | cmp - $D/one || exit 1; done");
    ok("$C train $D/e/config.yaml --quiet --set max_steps=1 --set warmup_pairs.limit=2" SHORT);
    ok("grep -q '\"eval_entity_f1_partial_A\"' $D/e/run/metrics.jsonl && ! grep -q eval_entity_f1_B $D/e/run/metrics.jsonl");
}

/* What the triples were is read out of what was written. */
static void test_triples(void **state) {
    (void)state;
    ok("$C data prepare triples $D/x.jsonl --out $D/t --test 0.5 --dev 0 --warm 0");
    json_t *o = json_of("t/test.jsonl");
    struct listing l = {0};
    must(listing_parse(&listing_triples, json_string_value(json_object_get(o, "a")), &l));
    assert_int_equal(l.n, 3);
    assert_string_equal(l.v[0].field[1], "is | was && \\");
    assert_string_equal(l.v[1].field[1], " p ");
    assert_string_equal(l.v[1].field[2], "");
    assert_string_equal(l.v[2].field[0], "a");
    listing_free(&l);
    json_decref(o);
    ok("$C plan $D/t/config.yaml" SHORT);
    ok("sed 's/.*\"text\": \"\\(.*\\)\"}/{\"record\": {\"name\": \"x: y\", \"stars\": 4.5, \"id\": \"\\1\"}, \"text\": \"\\1\"}/' "
       "$D/x.jsonl > $D/r.jsonl; $C data prepare records $D/r.jsonl --out $D/r && grep -q 'name: x: y | stars: 4.5 | id: t' $D/r/A.jsonl");
}

static void test_pairs_of_texts(void **state) {
    (void)state;
    ok("$C data prepare style $D/x.tsv --out $D/s1 --names Formal,Slang && $C data prepare languages $D/formal.txt $D/informal.txt --out "
       "$D/s2");
    ok("sed 's/\\(.*\\)\\t\\(.*\\)/{\"x\": \"\\1\", \"y\": \"\\2\"}/' $D/x.tsv > $D/xy.jsonl; $C data prepare style $D/xy.jsonl --field "
       "x,y --out $D/s3 --dev 0");
    ok("cmp $D/s1/A.jsonl $D/s2/A.jsonl && cmp $D/s1/test.jsonl $D/s2/test.jsonl && cmp $D/s1/test.jsonl $D/s3/test.jsonl && ! test -e "
       "$D/s3/dev.jsonl && ! grep -q '^eval' $D/s3/config.yaml");
    ok("grep -q 'prompt: \"Slang: {text}.nFormal:\"' $D/s1/config.yaml && $C plan $D/s3/config.yaml" SHORT);
    ok("$C data prepare style $D/x.tsv --out $D/s4 --seed 7 && ! cmp -s $D/s1/A.jsonl $D/s4/A.jsonl");
}

static void test_refused(void **state) {
    (void)state;
    refused("$C data prepare entity $D/x.conll --out $D/no", "no recipe 'entity'", "entities, records, triples, languages, style");
    refused("$C data prepare style $D/x.tsv", "--out is missing");
    refused("$C data prepare style --out $D/no", "a file to prepare is missing");
    refused("$C data prepare style $D/x.tsv --out $D/s1", "exists already");
    refused("$C data prepare style $D/x.tsv --out $D/no --warm 0.5 --dev 0.5", "leave nothing");
    refused("$C data prepare style $D/x.tsv --out $D/no --names One", "--names wants two names");
    refused("head -n 59 $D/informal.txt > $D/short.txt; $C data prepare languages $D/formal.txt $D/short.txt --out $D/no", "60 texts",
            "has 59");
    refused("sed '5s/\\t/ /' $D/x.tsv > $D/bad.tsv; $C data prepare style $D/bad.tsv --out $D/no", "bad.tsv:5: no tab");
    refused("sed '5s/hey.*//' $D/x.tsv > $D/bad.tsv; $C data prepare style $D/bad.tsv --out $D/no", "bad.tsv:5: an empty text");
    refused("sed '3s/\"a | b | c\"/\"a | b\"/' $D/x.jsonl > $D/bad.jsonl; $C data prepare triples $D/bad.jsonl --out $D/no",
            "bad.jsonl:3: ", "has not 3 parts");
    refused("sed '4s/triples/threes/' $D/x.jsonl > $D/bad.jsonl; $C data prepare triples $D/bad.jsonl --out $D/no",
            "bad.jsonl:4: no \"triples\"");
    refused("sed 's/B-PER/NAME/' $D/x.conll > $D/bad.conll; $C data prepare entities $D/bad.conll --out $D/no",
            "bad.conll:1: ", "tags that mark no entities");
    refused("head -n 2 $D/x.tsv > $D/bad.tsv; $C data prepare style $D/bad.tsv --out $D/no", "2 pairs");
    ok("! test -e $D/no && ! ls -a $D | grep cyclora-");
}

/* A processor and a metric that break off: status 1, the row and the way it went, and what was saved before is there. */
static void test_commands(void **state) {
    (void)state;
    static const char run[] = "$C train $D/s1/config.yaml --quiet --set max_steps=6 --set save_steps=1 --set warmup_pairs.limit=2 --set "
                              "warmup_pairs.epochs=1 --set per_device_train_batch_size=2" SHORT;
    sh("%s --set output_dir=$D/c1 --set B.processor.command='sed -u 9q'", run);
    assert_int_equal(ran.status, 1);
    says(ran.err.p, "cyclora: error: processor of side B 'sed -u 9q': it answered ");
    says(ran.err.p, "it ended with status 0");
    ok("test -f $D/c1/checkpoint-4/A/adapter_model.safetensors && ! test -e $D/c1/report.json");
    ok("%s --set output_dir=$D/c1 --resume --set B.processor.command=cat && test -e $D/c1/report.json", run);
    ok("%s --set output_dir=$D/c2 --set B.processor.command='sed -u 9q' --set B.processor.on_error=skip", run);
    says(ran.err.p, "the texts stay as they were written");
    sh("%s --set output_dir=$D/c3 --set eval.metric_command='cat >/dev/null; echo \"{\\\"mine\\\": \\\"high\\\"}\"'", run);
    assert_int_equal(ran.status, 1);
    says(ran.err.p, "\"mine\" is no number");
    ok("%s --set output_dir=$D/c4 --set eval.metric_command='echo \"{\\\"mine\\\": 2.5}\"' --set metric_for_best_model=mine --set "
       "greater_is_better=false && grep -q '\"eval_mine_B\":2.5' $D/c4/metrics.jsonl",
       run);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_entities), cmocka_unit_test(test_triples),
                                       cmocka_unit_test(test_pairs_of_texts), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_commands)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
