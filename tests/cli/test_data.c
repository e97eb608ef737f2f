/* `cyclora data check` and its kin: what is wrong is named with its line, what is written is what was read, and nothing is left half-written. */
#define _GNU_SOURCE
#include "support/shell.h"

static int begin(void **state) { return shell_begin(state); }

/* Ten kinds of badness, each on a line of its own. */
static void test_check(void **state) {
    (void)state;
    ok("q='{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}'; a='{\"role\": \"assistant\", \"content\": '; { "
       "echo \"$q, $a\\\"hello\\\"}]}\"; "                                                         /* 1: as it should be */
       "echo \"$q, {\\\"role\\\": \\\"user\\\", \\\"content\\\": \\\"x\\\"}, $a\\\"y\\\"}]}\"; "   /* 2: two of one speaker */
       "echo \"$q, $a\\\"  \\\"}]}\"; "                                                            /* 3: an empty answer */
       "echo \"$q, $a\\\"x <|im_end|>\\\"}]}\"; "                                                  /* 4: a control token */
       "echo \"$q\"; "                                                                             /* 5: no JSON */
       "echo '{\"prompt\": \"a\", \"completion\": \"b\"}'; "                                       /* 6: another shape */
       "echo \"$q, $a\\\"see: \\`\\`\\`c\\\"}]}\"; "                                               /* 7: an open fence */
       "echo '{\"messages\": [{\"role\": \"robot\", \"content\": \"hi\"}]}'; "                     /* 8: an unknown role */
       "echo '{\"message\": []}'; "                                                                /* 9: a misnamed field */
       "printf '{\"messages\": [{\"role\": \"user\", \"content\": \"\\377\"}]}\\n'; "              /* 10: no UTF-8 */
       "echo \"$q, $a\\\"a\\\\u0007\\ufffd\\\"}]}\"; "                                             /* 11: symbols, two */
       "echo \"[$q]\"; "                                                                           /* 12: a list */
       "printf '%%s\\r\\n' \"$q, $a\\\"last\\\"}]}\"; } > $D/bad.jsonl");                          /* 13: fine, with CR LF */
    sh("$C data check $D/bad.jsonl --limit 0");
    assert_int_equal(ran.status, 2);
    static const char *const lines[] = {"bad.jsonl:2: bad: turn 2 (user): two turns of one speaker", "bad.jsonl:3: bad: \"messages\"[1]: \"content\" holds no text",
                                        "bad.jsonl:4: bad: turn 2 (assistant) holds <|im_end|>", "bad.jsonl:5: bad: not a JSON object",
                                        "bad.jsonl:6: bad: is of shape prompt_completion, but the file began (line 1)", "bad.jsonl:7: warning: the last answer stops behind a code fence",
                                        "bad.jsonl:8: bad: \"messages\"[0]: unknown role", "bad.jsonl:9: bad: no field \"messages\" (the line has \"message\")",
                                        "bad.jsonl:10: bad: not a JSON object on one line: unable to decode byte 0xff", "bad.jsonl:11: warning: turn 2 (assistant) holds U+FFFD",
                                        "bad.jsonl:11: warning: turn 2 (assistant) holds the control character 0x07", "bad.jsonl:12: bad: ",
                                        "13 records, 6 of that shape", "1 lines end in CR LF", "9 of 13 records are bad, 2 more are warned of"};
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
    ok("printf '%%s\\n' '{\"prompt\": \"aslf\", \"completion\": \"aslf\"}' '{\"prompt\": \"aslfaslfaslf\", \"completion\": \"as\"}' > $D/p.jsonl");
    sh("$C data check $D/p.jsonl --model $G --max-length 10");
    assert_int_equal(ran.status, 2);
    says(ran.out.p, "p.jsonl:2: warning: ");
    says(ran.out.p, "p.jsonl:2: bad: nothing of an answer is left within max_length");
    ok("$C data check $D/p.jsonl --model $G --max-length 100");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_check), cmocka_unit_test(test_check_tokens)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
