/* `cyclora data check` and its kin: what is wrong is named with its line, what is written is what was read, and nothing is left half-written. */
#define _GNU_SOURCE
#include "support/shell.h"
#include "base/file.h"

static int begin(void **state) { return shell_begin(state); }

/* Ten kinds of badness, each on a line of its own. */
static void test_check(void **state) {
    (void)state;
    ok("q='{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}'; a='{\"role\": \"assistant\", \"content\": '; { "
       "echo \"$q, $a\\\"hello\\\"}]}\"; "                                                       /* 1: as it should be */
       "echo \"$q, {\\\"role\\\": \\\"user\\\", \\\"content\\\": \\\"x\\\"}, $a\\\"y\\\"}]}\"; " /* 2: two of one speaker */
       "echo \"$q, $a\\\"  \\\"}]}\"; "                                                          /* 3: an empty answer */
       "echo \"$q, $a\\\"x <|im_end|>\\\"}]}\"; "                                                /* 4: a control token */
       "echo \"$q\"; "                                                                           /* 5: no JSON */
       "echo '{\"prompt\": \"a\", \"completion\": \"b\"}'; "                                     /* 6: another shape */
       "echo \"$q, $a\\\"see: \\`\\`\\`c\\\"}]}\"; "                                             /* 7: an open fence */
       "echo '{\"messages\": [{\"role\": \"robot\", \"content\": \"hi\"}]}'; "                   /* 8: an unknown role */
       "echo '{\"message\": []}'; "                                                              /* 9: a misnamed field */
       "printf '{\"messages\": [{\"role\": \"user\", \"content\": \"\\377\"}]}\\n'; "            /* 10: no UTF-8 */
       "echo \"$q, $a\\\"a\\\\u0007\\ufffd\\\"}]}\"; "                                           /* 11: symbols, two */
       "echo \"[$q]\"; "                                                                         /* 12: a list */
       "printf '%%s\\r\\n' \"$q, $a\\\"last\\\"}]}\"; } > $D/bad.jsonl");                        /* 13: fine, with CR LF */
    sh("$C data check $D/bad.jsonl --limit 0");
    assert_int_equal(ran.status, 2);
    static const char *const lines[] = {"bad.jsonl:2: bad: turn 2 (user): two turns of one speaker",
                                        "bad.jsonl:3: bad: \"messages\"[1]: \"content\" holds no text",
                                        "bad.jsonl:4: bad: turn 2 (assistant) holds <|im_end|>",
                                        "bad.jsonl:5: bad: not a JSON object",
                                        "bad.jsonl:6: bad: is of shape prompt_completion, but the file began (line 1)",
                                        "bad.jsonl:7: warning: the last answer stops behind a code fence",
                                        "bad.jsonl:8: bad: \"messages\"[0]: unknown role",
                                        "bad.jsonl:9: bad: no field \"messages\" (the line has \"message\")",
                                        "bad.jsonl:10: bad: not a JSON object on one line: unable to decode byte 0xff",
                                        "bad.jsonl:11: warning: turn 2 (assistant) holds U+FFFD",
                                        "bad.jsonl:11: warning: turn 2 (assistant) holds the control character 0x07",
                                        "bad.jsonl:12: bad: ",
                                        "13 records, 6 of that shape",
                                        "1 lines end in CR LF",
                                        "9 of 13 records are bad, 2 more are warned of"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) says(ran.out.p, lines[i]);
    sh("$C data check $D/bad.jsonl --limit 2 --json");
    says(ran.out.p, "\"bad\":9");
    assert_null(strstr(ran.out.p, "\"line\":4"));
    ok("head -n 1 $D/bad.jsonl | gzip > $D/good.jsonl.gz; $C data check $D/good.jsonl.gz");
    says(ran.out.p, "0 of 1 records are bad");
    refused("printf 'a,b\\n\"x,y\\n' > $D/q.csv; $C data check $D/q.csv", "q.csv:2: ", "never closed");
    refused("$C data check", "FILE is missing");
}

/* With a tokenizer: what is too long, and what is left of it. */
static void test_check_tokens(void **state) {
    (void)state;
    ok("printf '%%s\\n' '{\"prompt\": \"aslf\", \"completion\": \"aslf\"}' '{\"prompt\": \"aslfaslfaslf\", \"completion\": \"as\"}' > "
       "$D/p.jsonl");
    sh("$C data check $D/p.jsonl --model $G --max-length 10");
    assert_int_equal(ran.status, 2);
    says(ran.out.p, "p.jsonl:2: warning: ");
    says(ran.out.p, "p.jsonl:2: bad: nothing of an answer is left within max_length");
    ok("$C data check $D/p.jsonl --model $G --max-length 100");
}

static int64_t count(const json_t *card, const char *name) {
    return json_integer_value(json_object_get(json_object_get(card, "counts"), name));
}

/* Five texts, of which one is there again in another case and notation, one nearly. */
static const char three_files[] =
    "printf '%%s\\n' '{\"prompt\": \"Where does the river Thames rise?\", \"completion\": \"In the Cotswolds, near Kemble.\", \"id\": "
    "12345678901234567890}' "
    "'{\"prompt\": \"How many legs has a spider?\", \"completion\": \"Eight legs, all told.\"}' > $D/a.jsonl; "
    "printf '[{\"prompt\": \"where does the river  Thames rise?\",\\n \"completion\": \"in the Cotswolds, near Kemble.\"},\\n {\"prompt\": "
    "\"Name\\\\n a\", \"completion\":"
    " \"b\"}]' > $D/b.json; "
    "printf 'prompt,completion\\n\"How many legs has a Spider?\",\"Eight legs, all told!\"\\n\"say \"\"x\"\"\",y\\n' > $D/c.csv; ";

static void test_dedup(void **state) {
    (void)state;
    ok(three_files);
    ok("$C data dedup $D/a.jsonl $D/b.json $D/c.csv -o $D/out.jsonl --removed $D/gone.jsonl");
    ok("printf '%%s\\n' \"$(sed -n 1,2p $D/a.jsonl)\" '{\"prompt\": \"Name\\n a\", \"completion\": \"b\"}' '{\"prompt\":\"say "
       "\\\"x\\\"\",\"completion\":\"y\"}' | cmp - "
       "$D/out.jsonl"); /* as they were: the long number, an array's element on one line, a table's row */
    ok("cat $D/gone.jsonl");
    says(ran.out.p, "/b.json\",\"line\":1,\"kept_path\":");
    says(ran.out.p, "/a.jsonl\",\"kept_line\":1,\"jaccard\":1.0}");
    says(ran.out.p, "/c.csv\",\"line\":2,\"kept_path\":");
    json_t *card = json_of("out.jsonl.card.json");
    assert_int_equal(count(card, "read"), 6);
    assert_int_equal(count(card, "removed_equal"), 1);
    assert_int_equal(count(card, "removed_near"), 1);
    assert_int_equal(json_array_size(json_object_get(card, "inputs")), 3);
    assert_int_equal(json_array_size(json_object_get(card, "outputs")), 2);
    json_decref(card);
    ok("grep -q '| removed_near | 1 |' $D/out.jsonl.card.md");
    ok("cp $D/out.jsonl.card.json $D/first; for t in 1 2; do OMP_NUM_THREADS=$t $C data dedup $D/a.jsonl $D/b.json $D/c.csv -o "
       "$D/out.jsonl --removed $D/gone.jsonl "
       "--overwrite && cmp $D/first $D/out.jsonl.card.json || exit 1; done"); /* the same bytes, whatever the threads */
    ok("$C data dedup $D/a.jsonl $D/b.json $D/c.csv -o $D/exact.jsonl --exact --json");
    says(ran.out.p, "\"kept\":5");
    ok("$C data dedup $D/a.jsonl -o $D/same.jsonl --removed $D/nothing.jsonl && cmp $D/a.jsonl $D/same.jsonl && test -e $D/nothing.jsonl -a ! -s $D/nothing.jsonl");
    refused("$C data dedup $D/a.jsonl -o $D/out.jsonl", "out.jsonl exists already; --overwrite replaces it");
    refused("$C data dedup $D/a.jsonl -o $D/../$(basename $D)/a.jsonl --overwrite", "is what is read");
    refused("$C data dedup $D/a.jsonl -o $D/no.jsonl --threshold 1.5", "a threshold of 1.5");
    refused("$C data dedup $D/a.jsonl", "-o OUT is missing");
    ok("! TMPDIR=/nowhere $C data dedup $D/a.jsonl -o $D/no.jsonl 2> $D/why && grep -q 'cannot write a temporary file in /nowhere' $D/why && "
       "! ls $D/no.jsonl*");
    refused("echo '{' >> $D/a.jsonl; $C data dedup $D/a.jsonl -o $D/no.jsonl", "a.jsonl:3: not a JSON object");
    ok("! ls $D | grep -q '^no\\.'");
}

static void test_contamination(void **state) {
    (void)state;
    const char *const words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen";
    ok("printf '%%s\\n' 'Nothing of this is elsewhere, in any of the training files at all.' 'HELLO,  big world of texts' 'hello big wide "
       "world of words, and of "
       "many texts, too' 'a b %s c d' 'too short' > $D/test.txt",
       words);
    ok("printf '%%s\\n' 'something else' 'hello, big world of texts' 'hello big wide world of words, and of many text, too' 'x y z %s, and "
       "then something else that is quite different follows' > $D/train.txt",
       words);
    sh("$C data contamination $D/train.txt --against $D/test.txt --json --report $D/hits.jsonl -o $D/clean.txt --fail-above 0.5");
    assert_int_equal(ran.status, 1);
    json_t *o = json_loads(ran.out.p, 0, NULL), *hits = json_object_get(o, "hits");
    static const char *const kinds[] = {"equal", "near", "ngram"};
    assert_int_equal(json_array_size(hits), 3);
    for (int i = 0; i < 3; i++) {
        const json_t *h = json_array_get(hits, (size_t)i);
        assert_string_equal(json_string_value(json_object_get(h, "kind")), kinds[i]);
        assert_int_equal(json_integer_value(json_object_get(h, "line")), i + 2);
        assert_int_equal(json_integer_value(json_object_get(h, "train_line")), i + 2);
    }
    assert_true(fabs(json_number_value(json_object_get(json_array_get(hits, 2), "ngrams")) - 2 / 6.) < 1e-9); /* of 18 words */
    assert_true(json_number_value(json_object_get(o, "share")) == 0.6 && count(o, "short") == 3);
    json_decref(o);
    ok("test $(wc -l < $D/hits.jsonl) = 3 && test $(wc -l < $D/clean.txt) = 1 && cat $D/clean.txt");
    says(ran.out.p, "{\"text\":\"something else\"}\n");
    ok("$C data contamination $D/train.txt --against $D/test.txt --fail-above 0.4 --least 0.5"); /* a third of its n-grams is too little */
    says(ran.out.p, "2 of 5 test records (40 %) stand in the training data: 1 equal, 1 near, 0 with n-grams; 3 have fewer words");
    ok("$C data contamination $D/train.txt --against $D/test.txt --exact");
    says(ran.out.p, "1 of 5 test records");
    refused("$C data contamination $D/train.txt", "--against TEST is missing");
    refused("$C data contamination $D/train.txt --against $D/train.txt -o $D/empty.txt", "every training record is in the test data");
    ok("! ls $D | grep -q '^empty'");
}

static void test_filter(void **state) {
    (void)state;
    ok("printf '%%s\\n' '{\"prompt\": \"good one\", \"completion\": \"a fine answer\", \"from\": \"books\"}' "
       "'{\"prompt\": \"x\", \"completion\": \"y\", \"from\": \"books\"}' "                               /* min_chars */
       "'{\"prompt\": \"a good one\", \"completion\": \"0101 1010 1 1 0\", \"from\": \"books\"}' "        /* min_letters */
       "'{\"prompt\": \"ab\", \"completion\": \"abcdefghijk lmnop\", \"from\": \"books\"}' "              /* max_ratio */
       "'{\"prompt\": \"good one\", \"completion\": \"p q\\nthis\\nthis\\nthis\", \"from\": \"books\"}' " /* max_repeated */
       "'{\"prompt\": \"good one\", \"completion\": \"\\u0445\\u043e\\u0440\\u043e\\u0448\\u043e abc\", \"from\": \"books\"}' " /* alphabet */
       "'{\"prompt\": \"good one\", \"completion\": \"a fine answer\"}' "                                                       /* keep */
       "'{\"prompt\": \"good one\", \"completion\": \"As an AI model\", \"from\": \"books\"}' "                                 /* drop */
       "> $D/f.jsonl");
    ok("$C data filter $D/f.jsonl -o $D/g.jsonl --min-chars 5 --min-letters 0.6 --max-ratio 8 --max-repeated 0.3 --alphabet Latin,Han "
       "--keep 'from=^books$' --drop "
       "'=(?i)as an ai' --json");
    json_t *o = json_loads(ran.out.p, 0, NULL);
    static const char *const rules[] = {"min_chars", "min_letters", "max_ratio", "max_repeated", "alphabet", "keep", "drop"};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        char name[40];
        snprintf(name, sizeof name, "removed_%s", rules[i]);
        if (count(o, name) != 1) flunk("%s took %d", rules[i], (int)count(o, name));
    }
    assert_int_equal(count(o, "kept"), 1);
    json_decref(o);
    ok("head -n 1 $D/f.jsonl | cmp - $D/g.jsonl");
    ok("$C data filter $D/p.jsonl -o $D/t.jsonl --max-tokens 12 --model $G --json");
    says(ran.out.p, "\"removed_max_tokens\":1,\"kept\":1");
    refused("$C data filter $D/f.jsonl -o $D/no.jsonl", "no rule is given");
    refused("$C data filter $D/f.jsonl -o $D/no.jsonl --min-chars 1000", "no record of 8 passes the rules");
    refused("$C data filter $D/f.jsonl -o $D/no.jsonl --max-tokens 9", "--model names it");
    refused("$C data filter $D/f.jsonl -o $D/no.jsonl --keep 'a=('", "--keep: '(' does not compile");
    refused("$C data filter $D/f.jsonl -o $D/no.jsonl --alphabet Latn,Klingon", "no list of scripts");
    refused("$C data filter $D/test.txt -o $D/no.jsonl --max-ratio 2", "test.txt:1: ", "plain text");
    ok("! ls $D | grep -q '^no\\.'");
}

/* Equal records and groups are never in two parts; a record stays where it is when others come. */
static void test_split(void **state) {
    (void)state;
    ok("for i in $(seq 200); do echo '{\"text\": \"text '$i'\", \"doc\": '$((i / 5))'}'; done > $D/s.jsonl; $C data split $D/s.jsonl --out "
       "$D/s1 --dev 0.2 --test 0.2");
    ok("sort $D/s.jsonl > $D/sorted; cat $D/s1/*.jsonl | sort | cmp - $D/sorted && test $(wc -l < $D/s1/dev.jsonl) -gt 20 -a $(wc -l < "
       "$D/s1/test.jsonl) -gt 20");
    ok("(for i in $(seq 300 350); do echo '{\"text\": \"text '$i'\"}'; done; sed 's/text \\([0-9]*\\)\"/TEXT  \\1\"/' $D/s.jsonl; cat "
       "$D/s.jsonl) > $D/more.jsonl; $C data "
       "split $D/more.jsonl --out $D/s2 --dev 0.2 --test 0.2");
    ok("for p in train dev test; do sort $D/s1/$p.jsonl > $D/sorted; grep doc $D/s2/$p.jsonl | grep -v TEXT | sort | cmp - $D/sorted || "
       "exit 1; grep TEXT $D/s2/$p.jsonl | sed "
       "'s/TEXT  /text /' | sort | cmp - $D/sorted || exit 1; done");
    ok("$C data split $D/s.jsonl --out $D/s3 --dev 0 --test 0.4 --group doc --seed 7 && ! test -e $D/s3/dev.jsonl");
    ok("for p in train test; do grep -o 'doc.*' $D/s3/$p.jsonl | sort -u; done | sort | uniq -d | wc -l");
    says(ran.out.p, "0\n");
    ok("grep -q '\"path\": \"'$D'/s3/test.jsonl\"' $D/s3/split.card.json");
    refused("$C data split $D/s.jsonl --out $D/s3", "s3 exists already");
    refused("$C data split $D/s.jsonl --out $D/s4 --test 0 --dev 0", "nothing to split off");
    refused("$C data split $D/s.jsonl --out $D/s4 --test 0.5 --dev 0.5", "leave nothing");
    refused("$C data split $D/s.jsonl --out $D/s4 --group page", "s.jsonl:1: no field \"page\"");
    refused("head -n 3 $D/s.jsonl > $D/few.jsonl; $C data split $D/few.jsonl --out $D/s4 --test 0.01 --dev 0",
            "no record falls to test.jsonl");
    ok("! ls $D | grep -q '^s4'");
}

static void test_convert(void **state) {
    (void)state;
    ok("printf '[{\"instruction\": \"add\", \"input\": \"1 2\", \"output\": \"3\"}, {\"system\": \"Be brief.\", \"instruction\": \"go\", "
       "\"output\": \"ok\"}]' > $D/al.json; $C "
       "data convert $D/al.json --to messages -o $D/m.jsonl && $C data convert $D/m.jsonl --to prompt_completion -o $D/pc.jsonl");
    ok("cat $D/m.jsonl $D/pc.jsonl");
    says(ran.out.p, "{\"messages\":[{\"role\":\"user\",\"content\":\"add\\n1 2\"},{\"role\":\"assistant\",\"content\":\"3\"}]}\n");
    says(ran.out.p, "{\"prompt\":\"add\\n1 2\",\"completion\":\"3\"}\n");
    says(ran.out.p, "{\"prompt\":[{\"role\":\"system\",\"content\":\"Be "
                    "brief.\"},{\"role\":\"user\",\"content\":\"go\"}],\"completion\":[{\"role\":\"assistant\",\"content\":\"ok\"}]}\n");
    refused("$C data convert $D/test.txt --to messages -o $D/no.jsonl", "test.txt:1: a plain text");
    refused("$C data convert $D/al.json --to alpaca -o $D/no.jsonl", "--to alpaca");
    ok("echo '{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}, {\"role\": "
       "\"user\", \"content\": \"c\"}, {\"role\": "
       "\"assistant\", \"content\": \"d\"}]}' > $D/long.jsonl");
    refused("$C data convert $D/long.jsonl --to prompt_completion -o $D/no.jsonl", "long.jsonl:1: a conversation of 4 turns and 2 answers");
}

/* Figures of lengths, and the page of them. */
static void test_stats(void **state) {
    (void)state;
    ok("for n in 1 2 3 40 70 100; do printf 's%%.0s' $(seq $n); echo; done > $D/l.txt; $C data stats $D/l.txt --model $G --json");
    json_t *o = json_loads(ran.out.p, 0, NULL), *t = json_object_get(o, "totals"), *bin;
    size_t i;
    json_int_t rows = 0, longest = json_integer_value(json_object_get(json_object_get(t, "length"), "max"));
    json_array_foreach(json_object_get(t, "histogram"), i, bin) rows += json_integer_value(json_object_get(bin, "rows"));
    assert_int_equal(rows, 6);
    assert_true(json_integer_value(json_object_get(
                    bin = json_array_get(json_object_get(t, "histogram"), json_array_size(json_object_get(t, "histogram")) - 1), "from")) <=
                    longest &&
                json_integer_value(json_object_get(bin, "to")) >= longest);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(json_object_get(t, "cuts"), 0), "rows")), 2);
    json_decref(o);
    ok("$C data stats $D/l.txt $D/a.jsonl --html $D/none.html || true; $C data stats $D/l.txt --model $G --html $D/page.html && grep -q "
       "'<svg' $D/page.html && ! grep -q 'http' "
       "$D/page.html");
    says(ran.out.p, "max_length 64 would cut 2 rows");
    refused("$C data stats $D/l.txt --html $D/page.html", "page.html exists already");
    refused("$C data preview run.yaml --html x", "--html and --overwrite belong to stats");
}

/* Each has a page, with every option that it takes. */
static void test_pages(void **state) {
    (void)state;
    static const char *const files[][5] = {
        {"data_check", "check"}, {"data_near", "dedup", "contamination"}, {"data_write", "filter", "split", "convert"}};
    for (int i = 0; i < 3; i++) {
        str source = {0}, pages = {0};
        char path[64];
        snprintf(path, sizeof path, "app/cli/%s.c", files[i][0]);
        must(file_read(path, &source));
        for (int k = 1; files[i][k]; k++) {
            ok("$C help data %s", files[i][k]);
            says(ran.out.p, "Usage: cyclora data ");
            says(ran.out.p, "Examples:");
            says(ran.out.p, "Exit status: ");
            str_adds(&pages, ran.out.p);
            ok("$C help data %s > $D/page; $C data %s --help | cmp - $D/page", files[i][k], files[i][k]);
            ok("$C help data");
            says(ran.out.p, files[i][k]);
        }
        for (char *at = source.p, *end; (at = strstr(at, "{\"-")); at = end) {
            end = strchr(at += 2, '"');
            if (!str_starts(end, "\", ARG_")) continue;
            *end = 0;
            if (!strstr(pages.p, at)) flunk("%s: %s is on no page", files[i][0], at);
            *end = '"';
        }
        str_free(&source);
        str_free(&pages);
    }
    refused("$C help data nosuch", "no page 'data nosuch'");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),         cmocka_unit_test(test_check_tokens), cmocka_unit_test(test_dedup),
        cmocka_unit_test(test_contamination), cmocka_unit_test(test_filter),       cmocka_unit_test(test_split),
        cmocka_unit_test(test_convert),       cmocka_unit_test(test_stats),        cmocka_unit_test(test_pages)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
