/* See pairs.h. */
#include "support/pairs.h"
#include "support/support.h"
#include "base/file.h"
#include "base/str.h"
#include "data/source.h"

void sft_rows_of_pairs(const char *from, const char *to, int from_row, int to_row) {
    struct source s;
    str out = {0};
    must(source_open(from, WANT_PAIR, "a", "b", &s));
    for (int i = from_row; i < to_row && i < s.n; i++)
        str_addf(&out, "{\"prompt\": \"%s\\n\", \"completion\": \"%s\"}\n", s.r[i].prompt, s.r[i].completion);
    must(file_write(to, out.p, out.n));
    str_free(&out);
    source_close(&s);
}
