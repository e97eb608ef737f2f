/* What data files hold, on one page without scripts, fonts or anything from a network: rows, duplicates, how long rows are, and what a max_length would
 * cut. Made by `cyclora data stats --html` of the very object that `--json` prints. Without a tokenizer there are no lengths. */
#include "base/file.h"
#include "report/report.h"
#include <math.h>

enum { WIDTH = 400, LEFT = 96, ROOM = 64, BAR = 15, STEP = 19 };

static void count_tile(str *out, const json_t *o, const char *key, const char *name) {
    const double n = json_num_or(o, key, -1);
    char text[40];
    if (n < 0) return;
    snprintf(text, sizeof text, "%.0f", n);
    page_tile(out, text, name);
}

static void tiles(str *out, const json_t *o) {
    const json_t *l = json_object_get(o, "length");
    str_adds(out, "<div class=tiles>\n");
    count_tile(out, o, "rows", "rows");
    count_tile(out, o, "duplicates", "say what another says");
    count_tile(out, o, "tokens", "tokens");
    count_tile(out, l, "median", "tokens in the median row");
    count_tile(out, l, "p95", "in the 95th percentile");
    count_tile(out, l, "max", "in the longest");
    count_tile(out, o, "truncated", "rows cut to max_length");
    count_tile(out, o, "unlearnable", "with nothing to learn within it");
    str_adds(out, "</div>\n");
}

/* A bar for each bin, the longest as long as there is room. */
static void bars(str *out, const json_t *bins) {
    const json_t *b;
    size_t i;
    double most = 1;
    json_array_foreach(bins, i, b) most = fmax(most, json_num_or(b, "rows", 0));
    str_addf(out, "<figure><figcaption>Rows by length in tokens</figcaption><svg viewBox=\"0 0 %d %d\" role=img>", WIDTH,
             (int)json_array_size(bins) * STEP);
    json_array_foreach(bins, i, b) {
        const double rows = json_num_or(b, "rows", 0), from = json_num_or(b, "from", 0), to = json_num_or(b, "to", 0);
        const double length = rows / most * (WIDTH - LEFT - ROOM);
        const int y = (int)i * STEP;
        str_addf(out, "<text x=\"%d\" y=\"%d\" text-anchor=end>%.0f", LEFT - 6, y + BAR - 3, from);
        if (to > from) str_addf(out, "–%.0f", to);
        str_addf(out, "</text><rect class=\"dot ink0\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>", LEFT, y, length, BAR);
        str_addf(out, "<text x=\"%.1f\" y=\"%d\">%.0f</text>", LEFT + length + 5, y + BAR - 3, rows);
    }
    str_adds(out, "</svg></figure>\n");
}

static void cuts(str *out, const json_t *o) {
    const json_t *c, *list = json_object_get(o, "cuts");
    const double rows = fmax(json_num_or(o, "rows", 1), 1), tokens = fmax(json_num_or(o, "tokens", 1), 1);
    size_t i;
    if (!json_array_size(list)) return;
    str_adds(out, "<div class=\"card scroll\"><table><tr><th class=n>max_length<th class=n>rows cut<th class=n>tokens lost</tr>\n");
    json_array_foreach(list, i, c) {
        const double cut = json_num_or(c, "rows", 0), lost = json_num_or(c, "tokens", 0);
        str_addf(out, "<tr><td class=n>%.0f<td class=n>%.0f (%.3g %%)<td class=n>%.0f (%.3g %%)</tr>\n", json_num_or(c, "max_length", 0),
                 cut, 100 * cut / rows, lost, 100 * lost / tokens);
    }
    str_adds(out, "</table></div>\n");
}

static void figures(str *out, const json_t *o) {
    tiles(out, o);
    if (!json_object_get(o, "histogram")) return;
    str_adds(out, "<div class=charts style=\"margin-top:14px\">\n");
    bars(out, json_object_get(o, "histogram"));
    cuts(out, o);
    str_adds(out, "</div>\n");
}

err data_page_write(const char *path, const json_t *stats) {
    const json_t *f, *files = json_object_get(stats, "files");
    str out = {0};
    size_t i;
    page_begin(&out, "What the data holds");
    if (json_array_size(files) > 1) str_adds(&out, "<h2>All files</h2>\n"), figures(&out, json_object_get(stats, "totals"));
    json_array_foreach(files, i, f) {
        str_adds(&out, "<h2>");
        html_text(&out, json_str(f, "path"));
        str_adds(&out, "</h2>\n<p class=soft>");
        html_text(&out, json_str(f, "container"));
        str_addf(&out, ", shape %s, %s</p>\n", json_str(f, "shape"), bytes_text(json_num_or(f, "bytes", 0)));
        figures(&out, f);
    }
    str_adds(&out, "</body></html>\n");
    err e = out.failed ? fail(E_MEMORY, "out of memory") : file_write(path, out.p, out.n);
    str_free(&out);
    return e;
}
