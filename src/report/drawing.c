/* What a page draws: curves over steps, and the run itself with its real sizes. All of it is inline SVG whose colours are classes of the page
 * (page.c), so that it follows light and dark; sizes are such that text stays readable where the page is as narrow as a telephone. */
#include "report/report.h"
#include <math.h>
#include <string.h>

/* --- curves -------------------------------------------------------------------------------------------------------------- */
enum { WIDTH = 400, HEIGHT = 216, LEFT = 60, RIGHT = 14, TOP = 20, BOTTOM = 30 };
struct axes {
    double x1, y0, y1, step;
};

static double at_x(const struct axes *a, double x) { return LEFT + x / a->x1 * (WIDTH - LEFT - RIGHT); }
static double at_y(const struct axes *a, double y) { return HEIGHT - BOTTOM - (y - a->y0) / (a->y1 - a->y0) * (HEIGHT - TOP - BOTTOM); }

/* 1, 2 or 5 times a power of ten, so that a span has at most `most` of them. */
static double tick(double span, int most) {
    double power = pow(10, floor(log10(span / most)));
    const double times = span / most / power;
    return power * (times <= 1 ? 1 : times <= 2 ? 2 : times <= 5 ? 5 : 10);
}

/* The least and the greatest value, rounded to ticks; what is never negative has no axis below 0. */
static struct axes axes_of(const struct chart *c) {
    double lo = HUGE_VAL, hi = -HUGE_VAL;
    for (int l = 0; l < c->n; l++)
        for (int i = 0; i < c->line[l].s->n; i++)
            lo = fmin(lo, c->scale * c->line[l].s->y[i]), hi = fmax(hi, c->scale * c->line[l].s->y[i]);
    if (lo == 0 && hi == 0) hi = 1;
    const double least = 0.2 * fmax(fabs(lo), fabs(hi)); /* what hardly changes is drawn flat */
    if (hi - lo < least) lo -= least / 2, hi += least / 2;
    if (c->scale > 1) lo = fmin(lo, 0), hi = fmax(hi, 10);
    struct axes a = {.x1 = fmax(1, c->steps), .step = tick(hi - lo, 5)};
    a.y0 = floor(lo / a.step) * a.step, a.y1 = ceil(hi / a.step - 1e-9) * a.step;
    return a;
}

static void grid(str *out, const struct chart *c, const struct axes *a) {
    for (double y = a->y0; y <= a->y1 + a->step / 2; y += a->step) {
        str_addf(out, "<path class=grid d=\"M%d %.1fH%d\"/>", LEFT, at_y(a, y), WIDTH - RIGHT);
        str_addf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=end>%.4g%s</text>", LEFT - 6, at_y(a, y) + 4, fabs(y) < a->step / 1e3 ? 0 : y,
                 c->unit);
    }
    const double step = fmax(1, tick(a->x1, 5));
    for (double x = 0; x <= a->x1; x += step)
        str_addf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=middle>%.6g</text>", at_x(a, x), HEIGHT - BOTTOM + 18, x);
    str_addf(out, "<path class=axis d=\"M%d %dH%d\"/>", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT);
}

static void curve(str *out, const struct chart *c, const struct axes *a, const struct chart_line *l) {
    str_addf(out, "<path class=\"line ink%d%s\" d=\"", l->ink % 4, l->dashed ? " dashed" : "");
    for (int i = 0; i < l->s->n; i++) str_addf(out, "%c%.1f %.1f", i ? 'L' : 'M', at_x(a, l->s->x[i]), at_y(a, c->scale * l->s->y[i]));
    str_adds(out, "\"/>");
    for (int i = 0; i < l->s->n && l->s->eval && l->s->n < 40; i++)
        str_addf(out, "<circle class=\"dot ink%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>", l->ink % 4, at_x(a, l->s->x[i]),
                 at_y(a, c->scale * l->s->y[i]));
}

void chart_svg(str *out, const struct chart *c) {
    const struct axes a = axes_of(c);
    str_addf(out, "<svg viewBox=\"0 0 %d %d\" role=img>", WIDTH, HEIGHT);
    if (c->warmup > 0) {
        const double end = at_x(&a, fmin(c->warmup, a.x1));
        str_addf(out, "<rect class=warm x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>", LEFT, TOP, end - LEFT, HEIGHT - TOP - BOTTOM);
        str_addf(out, "<text x=\"%d\" y=\"%d\">warm-up</text>", LEFT, TOP - 6);
    }
    grid(out, c, &a);
    for (int i = 0; i < c->n; i++) curve(out, c, &a, &c->line[i]);
    str_adds(out, "</svg>");
}

/* --- the run ------------------------------------------------------------------------------------------------------------- */
static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* At most `most` characters of a text, the end of a longer one left out. */
static void short_text(str *out, const char *s, int most) {
    char part[128];
    size_t n = 0;
    for (; s[n] && n < sizeof part - 4; n++)
        if (((unsigned char)s[n] & 0xc0) != 0x80 && !most--) break;
    snprintf(part, sizeof part, "%.*s%s", (int)n, s, s[n] ? "\xe2\x80\xa6" : "");
    html_text(out, part);
}

static void box(str *out, const char *class, double x, double y, double w, double h) {
    str_addf(out, "<rect class=\"%s\" x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\" rx=\"9\"/>", class, x, y, w, h);
}

static void centred(str *out, double x, double y, const char *class, const char *text, int most) {
    str_addf(out, "<text class=\"%s\" x=\"%.0f\" y=\"%.0f\" text-anchor=middle>", class, x, y);
    short_text(out, text, most);
    str_adds(out, "</text>");
}

enum { PILE = 118, MIDDLE = 190, TALL = 76, WIDE = 460, AT_MIDDLE = (WIDE - MIDDLE) / 2, AT_RIGHT = WIDE - PILE - 2 };

/* rows < 0: it is not said how many */
static void pile(str *out, double x, double y, const char *title, const char *path, double rows) {
    char line[64] = "";
    box(out, "data", x, y, PILE, TALL);
    centred(out, x + PILE / 2, y + 25, "strong", title, 14);
    centred(out, x + PILE / 2, y + 46, "", file_name(path), 14);
    if (rows >= 0) snprintf(line, sizeof line, "%s rows", count_text(rows));
    centred(out, x + PILE / 2, y + 65, "", line, 14);
}

static void adapter(str *out, double y, int ink, const json_t *side, const char *title) {
    char line[96];
    str_addf(out, "<rect class=\"adapter edge%d\" x=\"%d\" y=\"%.0f\" width=\"%d\" height=\"%d\" rx=\"9\"/>", ink, AT_MIDDLE, y, MIDDLE,
             TALL);
    centred(out, WIDE / 2, y + 25, "strong", title, 22);
    snprintf(line, sizeof line, "%s parameters", count_text(json_num_or(side, "trained", 0)));
    centred(out, WIDE / 2, y + 46, "", line, 24);
    snprintf(line, sizeof line, "%s, %.0f modules", json_str(side, "method"), json_num_or(side, "modules", 0));
    centred(out, WIDE / 2, y + 65, "", json_num_or(side, "modules", 0) > 0 ? line : json_str(side, "method"), 24);
}

static void base(str *out, double y, const json_t *model) {
    char line[96];
    box(out, "base", AT_MIDDLE, y, MIDDLE, TALL);
    snprintf(line, sizeof line, "frozen base, %s", count_text(json_num_or(model, "parameters", 0)));
    centred(out, WIDE / 2, y + 25, "strong", line, 22);
    centred(out, WIDE / 2, y + 46, "", file_name(json_str(model, "path")), 22);
    snprintf(line, sizeof line, "%.0f layers x %.0f, %s", json_num_or(model, "layers", 0), json_num_or(model, "width", 0),
             bytes_text(json_num_or(model, "bytes", 0)));
    centred(out, WIDE / 2, y + 65, "", line, 25);
}

/* The line of an arrow, and its head at (x, y), turned by so many degrees. */
static void arrow(str *out, int ink, const char *path, double x, double y, int turn) {
    str_addf(out,
             "<path class=\"line ink%d\" d=\"%s\"/><path class=\"dot ink%d\" transform=\"translate(%.0f %.0f) rotate(%d)\" d=\"M0 0L-9 "
             "-5V5z\"/>",
             ink, path, ink, x, y, turn);
}

/* Text of one side at the left, of the other at the right; an adapter for each way above and below the base. */
static void cycle(str *out, const json_t *plan) {
    const json_t *sides = json_object_get(plan, "sides"), *a = json_array_get(sides, 0), *b = json_array_get(sides, 1);
    str_addf(out, "<svg viewBox=\"0 0 %d 276\" role=img>", WIDE);
    pile(out, 2, 100, "text of A", json_str(a, "data"), json_num_or(b, "rows", 0)); /* rows are those of what an adapter learns to write */
    pile(out, AT_RIGHT, 100, "text of B", json_str(b, "data"), json_num_or(a, "rows", 0));
    adapter(out, 4, 0, a, "adapter A: A to B");
    base(out, 100, json_object_get(plan, "model"));
    adapter(out, 196, 1, b, "adapter B: B to A");
    arrow(out, 0, "M61 98V42H130", 134, 42, 0);
    arrow(out, 0, "M326 42H399V94", 399, 98, 90);
    arrow(out, 1, "M399 177V234H330", 326, 234, 180);
    arrow(out, 1, "M134 234H61V181", 61, 177, -90);
    str_adds(out, "</svg>");
}

static void one_way(str *out, const json_t *plan, const char *objective) {
    const json_t *s = json_array_get(json_object_get(plan, "sides"), 0);
    char line[48] = "";
    if (json_array_size(json_object_get(plan, "labels")))
        snprintf(line, sizeof line, "%zu classes", json_array_size(json_object_get(plan, "labels")));
    str_addf(out, "<svg viewBox=\"0 0 %d 180\" role=img>", WIDE);
    pile(out, 2, 4, "data", json_str(s, "data"), json_num_or(s, "rows", 0));
    base(out, 4, json_object_get(plan, "model"));
    adapter(out, 100, 0, s, *json_str(plan, "head") ? "adapter and head" : "adapter");
    box(out, "data", AT_RIGHT, 4, PILE, TALL);
    centred(out, AT_RIGHT + PILE / 2, *line ? 38 : 47, "strong", objective, 13);
    if (*line) centred(out, AT_RIGHT + PILE / 2, 60, "", line, 16);
    arrow(out, 0, "M120 42H130", 134, 42, 0);
    arrow(out, 0, "M326 42H336", 340, 42, 0);
    str_adds(out, "</svg>");
}

/* Any number of adapters, a line each: what it reads, and what it learns to write. */
static void ways(str *out, const json_t *plan) {
    const json_t *sides = json_object_get(plan, "sides"), *s;
    size_t i;
    str_addf(out, "<svg viewBox=\"0 0 %d %zu\" role=img>", WIDE, 100 + 96 * json_array_size(sides));
    base(out, 4, json_object_get(plan, "model"));
    json_array_foreach(sides, i, s) {
        const int y = 100 + 96 * (int)i;
        char title[64], line[64];
        snprintf(title, sizeof title, "adapter %s", json_str(s, "name"));
        pile(out, 2, y, "reads", json_str(s, "data"), -1);
        adapter(out, y, (int)i % 4, s, title);
        pile(out, AT_RIGHT, y, "learns", json_str(s, "targets"), json_num_or(s, "rows", 0));
        for (int k = 0; k < 2; k++) {
            const int from = k ? 326 : 120;
            snprintf(line, sizeof line, "M%d %dH%d", from, y + TALL / 2, from + 10);
            arrow(out, (int)i % 4, line, from + 14, y + TALL / 2, 0);
        }
    }
    str_adds(out, "</svg>");
}

void diagram_svg(str *out, const json_t *plan, const char *objective) {
    const size_t n = json_array_size(json_object_get(plan, "sides"));
    if (n == 1) one_way(out, plan, objective);
    else if (n == 2) cycle(out, plan);
    else if (n) ways(out, plan);
}
