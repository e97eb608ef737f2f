/* What is kept of written pairs, and for which reason the rest is not: one text for each, and what lies just on the other side of each limit. */
#include "data/sieve.h"
#include "support/support.h"

static void open_text(const char *name, const char *text, enum source_want want, struct source *s) {
    must(source_parse(name, text, strlen(text), want, NULL, NULL, s));
}

static struct source seeds, set;

static int begin(void **state) {
    (void)state;
    open_text("seeds.jsonl",
              "{\"prompt\": \" Name three large rivers of Europe.\\n\", \"completion\": \" Volga, Danube, Ural\"}\n"
              "{\"prompt\": \"Say good night in French!\", \"completion\": \"bonne nuit\"}\n",
              WANT_SFT, &seeds);
    open_text("set.jsonl",
              "{\"prompt\": \"What is the capital of Norway?\", \"completion\": \"The capital of that kingdom in the north is Oslo, a city "
              "by the sea.\"}\n",
              WANT_ANY, &set);
    return 0;
}

static int end(void **state) {
    (void)state;
    source_close(&seeds);
    source_close(&set);
    return 0;
}

static void sieve_begin(struct sieve *s, double likeness) {
    *s = (struct sieve){.rules = {likeness, 3, 12, 8}};
    must(sieve_seeds(s, &seeds));
    must(sieve_against(s, &set));
}

static void takes(struct sieve *s, enum fate want, const char *text, bool ended) {
    enum fate fate;
    struct seed pair;
    must(sieve_take(s, text, ended, &fate, &pair));
    if (fate != want) flunk("%s: %s, not %s", text, fate_name(fate), fate_name(want));
}

static void test_fates(void **state) {
    (void)state;
    struct sieve s;
    sieve_begin(&s, 0.7);
    takes(&s, FATE_UNREAD, " Count to five.", true);
    takes(&s, FATE_UNREAD, " Count to five.\n###\nOutput: 1", true); /* the output is another pair's */
    takes(&s, FATE_CUT, " Count up to five.\nOutput: one two", false);
    takes(&s, FATE_KEPT, " Count up to five.\nOutput: one two\nthree\n### and so on", false);
    takes(&s, FATE_KEPT, " Sort these by weight: gold, tin, air\nOutput: gold\n\nInstruction: and", false);
    takes(&s, FATE_EMPTY, " ...\nOutput: yes\n###", true);
    takes(&s, FATE_EMPTY, " What is the sum?\nOutput: !\n###", true);
    takes(&s, FATE_LENGTH, " Sum them\nOutput: 4\n###", true);
    takes(&s, FATE_LENGTH, " a b c d e f g h i j k l m\nOutput: 4\n###", true);
    takes(&s, FATE_KEPT, " a b c d e f g h i j k l\nOutput: 4\n###", true);
    takes(&s, FATE_REFUSAL, " Tell me about my neighbour's letters\nOutput: I\xE2\x80\x99m sorry, but that is private.\n###", true);
    takes(&s, FATE_REFUSAL, " Paint a picture of that\nOutput: As an AI, I have no hands.\n###", true);
    takes(&s, FATE_ECHO, " It is raining today\nOutput: it is RAINING, today!\n###", true);
    takes(&s, FATE_COPY, " name three large rivers of europe\nOutput: Rhine\n###", true);
    takes(&s, FATE_SIMILAR, " Name three large lakes of Europe\nOutput: Ladoga\n###", true); /* 5 of 6 words */
    takes(&s, FATE_SIMILAR, " Count up to five.\nOutput: again\n###", true);                 /* one that was kept */
    takes(&s, FATE_KEPT, " Name three rivers in Asia of note\nOutput: Ob\n###", true);       /* 4 of 6 and 7: 0.62 */
    takes(&s, FATE_EVALUATION, " what is the capital of norway\nOutput: Oslo\n###", true);
    takes(&s, FATE_EVALUATION, " Where does the king live\nOutput: capital of that kingdom in the north is\n###", true);
    takes(&s, FATE_KEPT, " Where does that queen live\nOutput: capital of that kingdom in the north was here\n###",
          true); /* 7 words in a row */
    static const int64_t counts[FATES] = {5, 2, 1, 2, 2, 2, 1, 1, 2, 2};
    for (int i = 0; i < FATES; i++) assert_int_equal(s.count[i], counts[i]);
    sieve_free(&s);
}

static void test_limits(void **state) {
    (void)state;
    struct sieve s;
    sieve_begin(&s, 0.9);
    takes(&s, FATE_KEPT, " Name three large lakes of Europe\nOutput: Ladoga\n###", true); /* 0.83 */
    sieve_free(&s);
    sieve_begin(&s, 0.6);
    takes(&s, FATE_SIMILAR, " Name three rivers in Asia of note\nOutput: Ob\n###", true);
    takes(&s, FATE_KEPT,
          " \xC3\x9C"
          "bersetze das W\xC3\xB6rtchen Tee\nOutput: \xD1\x87\xD0\xB0\xD0\xB9\n###",
          true); /* words of any alphabet */
    takes(&s, FATE_SIMILAR,
          " \xC3\xBC"
          "bersetze das w\xC3\xB6rtchen tee\nOutput: te\n###",
          true);
    sieve_free(&s);
}

static void test_prompt(void **state) {
    (void)state;
    struct sieve s;
    str out = {0};
    sieve_begin(&s, 0.7);
    must(sieve_prompt(&s, "More:\n{examples}\n", (const int[]){1, 0}, 2, &out));
    assert_string_equal(out.p, "More:\nInstruction: Say good night in French!\nOutput: bonne nuit\n###\n\n"
                               "Instruction: Name three large rivers of Europe.\nOutput: Volga, Danube, Ural\n###\n");
    assert_int_equal(sieve_prompt(&s, "More", (const int[]){0}, 1, &out), E_USAGE);
    assert_int_equal(sieve_prompt(&s, "{examples}{examples}", (const int[]){0}, 1, &out), E_USAGE);
    str_free(&out);
    sieve_free(&s);
}

/* Of a conversation the first exchange; a record without one is named. */
static void test_seeds(void **state) {
    (void)state;
    struct source chats;
    struct sieve s = {.rules = {0.7, 3, 12, 8}};
    open_text("chats.jsonl",
              "{\"messages\": [{\"role\": \"system\", \"content\": \"Be kind.\"}, {\"role\": \"user\", \"content\": \"Good day\"}, "
              "{\"role\": \"assistant\", \"content\": \"And to you\"}, {\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", "
              "\"content\": \"y\"}]}\n"
              "{\"messages\": [{\"role\": \"assistant\", \"content\": \"Hello\"}]}\n",
              WANT_SFT, &chats);
    assert_int_equal(sieve_seeds(&s, &chats), E_INPUT);
    assert_non_null(strstr(err_text(), "chats.jsonl:2: a seed is an instruction and its output"));
    assert_string_equal(s.seed[0].instruction, "Good day");
    assert_string_equal(s.seed[0].output, "And to you");
    sieve_free(&s);
    source_close(&chats);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fates), cmocka_unit_test(test_limits), cmocka_unit_test(test_prompt),
                                       cmocka_unit_test(test_seeds)};
    return cmocka_run_group_tests(tests, begin, end);
}
