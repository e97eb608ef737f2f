/* report.html and TensorBoard's files: texts that would break out of a page stay texts, curves stay within their memory, records are framed and
 * checked as the format says. */
#include "support/folder.h"
#include "support/support.h"
#include "base/file.h"
#include "report/report.h"
#include "train/tensorboard.h"

static const char hostile[] = "</dd><script>alert(1)</script>&amp;\"'><img src=x onerror=alert(2)>\x01\x7f\xff \xe2\x80\xae"
                              "dne";

static void same_text(const char *have, const char *want) {
    if (strcmp(have ? have : "", want) != 0) flunk("have %s\nwant %s", have, want);
}

static void test_text(void **state) {
    (void)state;
    str s = {0};
    html_text(&s, hostile);
    same_text(s.p, "&lt;/dd&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;&quot;&#39;&gt;&lt;img src=x "
                   "onerror=alert(2)&gt;[U+0001][U+007F]\xef\xbf\xbd [U+202E]dne");
    str_free(&s);
}

static void test_difference(void **state) {
    (void)state;
    static const struct {
        const char *text, *other, *want;
    } rows[] = {
        {"a b c", "a b c", "a b c "},
        {"a x c", "a b c", "a <del>b</del> <ins>x</ins> c "},
        {"", "gone", "<del>gone</del> "},
        {"new", "", "<ins>new</ins> "},
        {"the <b> sat", "the cat sat", "the <del>cat</del> <ins>&lt;b&gt;</ins> sat "},
        {" \t", "", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        str s = {0};
        must(html_difference(&s, rows[i].text, rows[i].other));
        same_text(s.p, rows[i].want);
        str_free(&s);
    }
    str a = {0}, b = {0}, s = {0}; /* beyond a table's size all behind the common beginning is one change */
    for (int i = 0; i < 1200; i++) str_addf(&a, "w%d ", i), str_addf(&b, "%s%d ", i < 3 ? "w" : "v", i);
    must(html_difference(&s, a.p, b.p));
    assert_int_equal(strncmp(s.p, "w0 w1 w2 <del>v3</del> ", 22), 0);
    str_free(&a), str_free(&b), str_free(&s);
}

/* However many steps there are: at most so many points, first and last ones near the ends, and the mean stays. */
static void test_series(void **state) {
    (void)state;
    for (int n = 1; n < 5000; n = n * 3 + 1) {
        struct series s = {0};
        for (int i = 0; i < n; i++) series_add(&s, i, 2.0 * i);
        series_add(&s, n, NAN);
        assert_in_range(s.n, n < POINTS ? n : POINTS / 2, POINTS);
        for (int i = 0; i < s.n; i++) assert_true(s.y[i] == 2 * s.x[i] && (!i || s.x[i] > s.x[i - 1]));
        assert_true(s.x[0] < s.width && s.x[s.n - 1] > n - 2.0 * s.width);
    }
}

static json_t *a_report(void) {
    json_t *sample =
        json_pack("{s:s, s:s, s:s, s:s}", "a", "in <b>", "b", "</dd><script>x</script>", "back", "in <i>", "reference", "out & on");
    json_t *eval = json_pack("{s:s, s:i, s:[O], s:[{s:s, s:s, s:s}]}", "tag", "step", "step", 4, "samples", sample, "alarms", "name",
                             "drift", "side", "B", "message", "<u>");
    json_t *plan = json_pack("{s:s, s:{s:s, s:i}, s:[{s:s, s:s, s:i}, {s:s, s:s, s:i}], s:i, s:[{s:s, s:i, s:i, s:s}]}", "sentence",
                             "A & B <br>", "model", "path", "\"><script>", "parameters", 1000, "sides", "name", "A", "data", "a/<x>.jsonl",
                             "trained", 10, "name", "B", "data", "b", "trained", 10, "warmup_steps", 2, "memory", "name", "weights",
                             "bytes", 5000, "measured", 4000, "note", "<s>");
    json_decref(sample);
    return json_pack("{s:i, s:i, s:f, s:s, s:o, s:[o], s:{s:f, s:f}}", "steps", 4, "total_steps", 9, "seconds", 1.5, "objective", "macct",
                     "plan", plan, "evals", eval, "times", "train", 1.0, "save", 3.0);
}

static void must_have(const str *page, const char *part) {
    if (!strstr(page->p, part)) flunk("\"%s\" is not on the page", part);
}

/* A whole page: what must be on it, and that nothing on it could run or be fetched. */
static void test_page(void **state) {
    (void)state;
    static const char metrics[] =
        "{\"step\":1,\"train_loss_A\":2.5,\"train_loss_B\":3.5,\"grad_norm_A\":1.0}\n{\"step\":2,\"train_loss_A\":1e300,\"train_loss_B\":"
        "null}\nno json\n"
        "{\"step\":4,\"eval\":\"step\",\"eval_loss_A\":2.0,\"eval_copy_rate_A\":0.5,\"eval_triple_<f1>_B\":7}\n{\"step\":4,\"train_lo";
    static const char *const never[] = {"<script", "<img", "href=", "src=", "url(", "@import", "http",
                                        "<br>",    "<u>",  "<s>",   "<b> ", "nan",  "inf",     NULL};
    str page = {0};
    json_t *report = a_report();
    must(dir_make(at("page")));
    must(file_write(at("page/metrics.jsonl"), metrics, strlen(metrics)));
    must(file_write(at("page/config.yaml"), hostile, strlen(hostile)));
    must(report_write(at("page"), report));
    must(file_read(at("page/report.html"), &page));
    for (int i = 0; never[i]; i++)
        if (strstr(page.p, never[i]) && strcmp(never[i], "src=") != 0)
            flunk("%s is on the page:\n%.200s", never[i], strstr(page.p, never[i]));
    must_have(&page, "4 / 9");
    must_have(&page, "<del>out</del>");
    must_have(&page, "Copies of the input");
    must_have(&page, "triple_&lt;f1&gt;");
    must_have(&page, "warm-up");
    must_have(&page, "75.0 %"); /* of the time, saving */
    must_have(&page, "drift</b>: adapter B &lt;u&gt;");
    must_have(&page, "&lt;script&gt;alert(1)");
    json_decref(report);
    json_t *bare = json_pack("{s:{}, s:[]}", "plan", "evals"); /* a run that has nothing yet */
    must(report_write(at("page"), bare));
    json_decref(bare);
    str_free(&page);
}

/* --- TensorBoard ---------------------------------------------------------------------------------------------------------- */
static uint64_t little(const char *p, int bytes) {
    uint64_t x = 0;
    for (int i = bytes - 1; i >= 0; i--) x = x << 8 | (unsigned char)p[i];
    return x;
}

static uint32_t masked(const char *p, size_t n) {
    const uint32_t c = crc32c(p, n);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static void test_crc(void **state) {
    (void)state;
    char zeros[32] = {0}, ones[32]; /* RFC 3720, B.4 */
    memset(ones, 0xff, sizeof ones);
    assert_int_equal(crc32c("123456789", 9), 0xe3069283u);
    assert_int_equal(crc32c(zeros, 32), 0x8a9136aau);
    assert_int_equal(crc32c(ones, 32), 0x62a8ab43u);
    assert_int_equal(crc32c("", 0), 0);
}

/* Three records: the version, the restart, and a line's two numbers. */
static void test_events(void **state) {
    (void)state;
    static const char value[] = "\x0a\x11\x0a\x0atrain/loss\x15\x00\x00\x20\x40"; /* 1 Value{1 tag, 2 simple_value 2.5} */
    char *path = NULL;
    str file = {0};
    json_t *line = json_pack("{s:i, s:f, s:s, s:b}", "step", 300, "train_loss", 2.5, "text", "is no number", "warmup", 1);
    must(events_begin(at("runs"), 7, &path));
    assert_non_null(strstr(path, "/events.out.tfevents."));
    must(events_append(path, line));
    must(file_read(path, &file));
    const char *record[3];
    size_t n[3], at_ = 0;
    for (int i = 0; i < 3; i++) {
        const char *p = file.p + at_;
        n[i] = little(p, 8);
        assert_true(at_ + 16 + n[i] <= file.n);
        assert_int_equal(little(p + 8, 4), masked(p, 8));
        record[i] = p + 12;
        assert_int_equal(little(p + 12 + n[i], 4), masked(record[i], n[i]));
        at_ += 16 + n[i];
    }
    assert_int_equal(at_, file.n);
    assert_memory_equal(record[0] + 9,
                        "\x10\x00\x1a\x0d"
                        "brain.Event:2",
                        17);                                           /* 2 step 0, 3 file_version */
    assert_memory_equal(record[1] + 9, "\x10\x07\x3a\x02\x08\x01", 6); /* 2 step 7, 7 SessionLog{1 START} */
    assert_memory_equal(record[2] + 9, "\x10\xac\x02\x2a\x13", 5);     /* 2 step 300, 5 Summary */
    assert_int_equal(n[2], 9 + 5 + sizeof value - 1);
    assert_memory_equal(record[2] + 14, value, sizeof value - 1);
    json_decref(line);
    str_free(&file);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_difference), cmocka_unit_test(test_series),
                                       cmocka_unit_test(test_page), cmocka_unit_test(test_crc),        cmocka_unit_test(test_events)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
