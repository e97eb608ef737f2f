/* Points over a logarithmic axis as SVG: each with its spread as a bar and its name beside it. See compare.h.
 *
 * Names do not lie on each other, on points or on bars: each takes the cheapest of some hundred places around its point, the points with most
 * neighbours first, and a line leads back to the point where the place is not next to it. What is not finite is left out. */
#define _GNU_SOURCE
#include "compare.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 900, HEIGHT = 560, LEFT = 74, RIGHT = 28, TOP = 52, BOTTOM = 66, LABEL = 11, NEAR = 14 /* a name needs no line */, LEAD = 8 };
static const double GLYPH = 6.5; /* of a label, wide: digits and small letters of most sans-serif fonts */

struct box { double x0, y0, x1, y1; };
struct canvas {
    const struct plot *p;
    double x0, x1, y0, y1;     /* the axes' ends: decades, and values */
    struct box *taken;         /* by points, bars, names and their lines */
    int n;
    str *out;
};

/* Okabe and Ito's colours, told apart by most eyes; yellow is left out on white. */
static const char *colour(int group) {
    static const char *const list[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f7f7f"};
    return list[group % 8];
}

static double at_x(const struct canvas *c, double x) { return LEFT + (log10(x) - c->x0) / (c->x1 - c->x0) * (WIDTH - LEFT - RIGHT); }
static double at_y(const struct canvas *c, double y) { return HEIGHT - BOTTOM - (y - c->y0) / (c->y1 - c->y0) * (HEIGHT - TOP - BOTTOM); }

static void text(const struct canvas *c, double x, double y, const char *how, const char *s) {
    str_addf(c->out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, how);
    for (; *s; s++) {
        if (*s == '<') str_adds(c->out, "&lt;");
        else if (*s == '&') str_adds(c->out, "&amp;");
        else if ((unsigned char)*s >= 32) str_addc(c->out, *s);
    }
    str_adds(c->out, "</text>\n");
}

/* 1, 2 or 5 times a power of ten: at most eight of them in a span. */
static double step_of(double span) {
    double power = pow(10, floor(log10(span / 8)));
    while (span / power > 8) {
        if (span / (2 * power) <= 8) return 2 * power;
        if (span / (5 * power) <= 8) return 5 * power;
        power *= 10;
    }
    return power;
}

static void ranges(struct canvas *c) {
    double x0 = HUGE_VAL, x1 = -HUGE_VAL, y0 = HUGE_VAL, y1 = -HUGE_VAL;
    for (int i = 0; i < c->p->n; i++) {
        const struct plot_point *q = &c->p->point[i];
        x0 = fmin(x0, log10(q->x)), x1 = fmax(x1, log10(q->x));
        y0 = fmin(y0, q->low), y1 = fmax(y1, q->high);
    }
    double pad = y1 > y0 ? 0.07 * (y1 - y0) : fabs(y1) * 0.05 + 1e-3;
    c->x0 = floor((x0 - 0.25) * 2) / 2, c->x1 = ceil((x1 + 0.35) * 2) / 2;
    c->y0 = y0 - pad, c->y1 = y1 + 1.6 * pad;
}

static void axes(const struct canvas *c) {
    const double bottom = HEIGHT - BOTTOM, right = WIDTH - RIGHT, step = step_of(c->y1 - c->y0);
    char label[32];
    for (int d = (int)ceil(c->x0); d <= (int)floor(c->x1); d++) {
        static const char *const units[] = {"", "k", "M", "G"};
        double x = at_x(c, pow(10, d));
        int unit = d < 0 ? 0 : d / 3 > 3 ? 3 : d / 3;
        str_addf(c->out, "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>\n", x, TOP, x, bottom);
        snprintf(label, sizeof label, "%g%s", pow(10, d - 3 * unit), units[unit]);
        text(c, x, bottom + 18, "text-anchor=\"middle\" class=\"tick\"", label);
    }
    for (double y = ceil(c->y0 / step) * step; y <= c->y1; y += step) {
        str_addf(c->out, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>\n", LEFT, at_y(c, y), right, at_y(c, y));
        snprintf(label, sizeof label, "%.*f", step < 1 ? (int)ceil(-log10(step) - 1e-9) : 0, y);
        text(c, LEFT - 8, at_y(c, y) + 4, "text-anchor=\"end\" class=\"tick\"", label);
    }
    str_addf(c->out, "<path d=\"M%d %dV%.1fH%.1f\" class=\"axis\"/>\n", LEFT, TOP, bottom, right);
    char turn[96];
    snprintf(turn, sizeof turn, "text-anchor=\"middle\" transform=\"rotate(-90 18 %.1f)\"", (TOP + bottom) / 2);
    text(c, (LEFT + right) / 2, HEIGHT - 26, "text-anchor=\"middle\"", c->p->x_label);
    text(c, 18, (TOP + bottom) / 2, turn, c->p->y_label);
    text(c, LEFT, 24, "class=\"title\"", c->p->title);
    text(c, LEFT, 41, "class=\"tick\"", c->p->note);
    if (c->p->lower) text(c, right, 41, "text-anchor=\"end\" class=\"tick\"", "lower is better");
}

/* --- labels -------------------------------------------------------------------------------------------------------------- */
static double overlap(const struct box *a, const struct box *b) {
    double w = fmin(a->x1, b->x1) - fmax(a->x0, b->x0), h = fmin(a->y1, b->y1) - fmax(a->y0, b->y0);
    return w > 0 && h > 0 ? w * h : 0;
}

static void take(struct canvas *c, double x0, double y0, double x1, double y1) { c->taken[c->n++] = (struct box){x0, y0, x1, y1}; }

/* The nearest place of a name's box to its point. */
static void nearest(const struct box *b, double x, double y, double *nx, double *ny) {
    *nx = fmin(fmax(x, b->x0), b->x1);
    *ny = fmin(fmax(y, b->y0 + 2), b->y1 - 2);
}

/* The k-th of a few places along the line from a point to its name. */
static struct box on_line(double x, double y, double nx, double ny, int k) {
    double at = (k + 2) / (LEAD + 2.0), cx = x + at * (nx - x), cy = y + at * (ny - y);
    return (struct box){cx - 2, cy - 2, cx + 2, cy + 2};
}

/* What a name would lie on and its line would cross, and how far it is from its point. */
static double cost(const struct canvas *c, const struct box *b, double x, double y) {
    double nx, ny, sum = 0;
    nearest(b, x, y, &nx, &ny);
    const double gap = hypot(nx - x, ny - y);
    for (int i = 0; i < c->n; i++) {
        sum += 20 * overlap(b, &c->taken[i]);
        for (int k = 0; k < LEAD && gap > NEAR; k++) {
            struct box at = on_line(x, y, nx, ny, k);
            sum += 4 * overlap(&at, &c->taken[i]);
        }
    }
    if (b->x0 < LEFT + 3 || b->x1 > WIDTH - RIGHT + 20 || b->y0 < TOP - 4 || b->y1 > HEIGHT - BOTTOM - 2) sum += 1e6;
    return sum + gap;
}

static void label(struct canvas *c, const struct plot_point *q) {
    const double x = at_x(c, q->x), y = at_y(c, q->y), w = GLYPH * (double)strlen(q->label), h = LABEL + 2;
    struct box best = {0};
    double least = HUGE_VAL, nx, ny;
    for (double away = 9; away < 190; away += away < 20 ? 4 : 12)
        for (int a = 0; a < 24; a++) {
            double dx = cos(a * M_PI / 12), dy = sin(a * M_PI / 12), cx = x + dx * (away + w / 2 * fabs(dx)),
                   cy = y + dy * (away + (fabs(dx) < 0.5 ? h / 2 : 0));
            struct box b = {cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2};
            double here = cost(c, &b, x, y) + (a % 12 ? 2 : 0);
            if (here < least) least = here, best = b;
        }
    nearest(&best, x, y, &nx, &ny);
    if (hypot(nx - x, ny - y) > NEAR) {
        str_addf(c->out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"lead\"/>\n", x, y, nx, ny);
        for (int k = 0; k < LEAD; k++) c->taken[c->n++] = on_line(x, y, nx, ny, k);
    }
    char how[64];
    snprintf(how, sizeof how, "class=\"label\" fill=\"%s\"", colour(q->group));
    text(c, best.x0, best.y1 - 3, how, q->label);
    take(c, best.x0, best.y0, best.x1, best.y1);
}

static int crowd(const struct canvas *c, int i) {
    int n = 0;
    const struct plot_point *p = c->p->point;
    for (int k = 0; k < c->p->n; k++) n += fabs(at_x(c, p[k].x) - at_x(c, p[i].x)) < 90 && fabs(at_y(c, p[k].y) - at_y(c, p[i].y)) < 30;
    return n;
}

static void points(struct canvas *c) {
    for (int i = 0; i < c->p->n; i++) {
        const struct plot_point *q = &c->p->point[i];
        const double x = at_x(c, q->x), y = at_y(c, q->y), high = at_y(c, q->high), low = at_y(c, q->low);
        const char *ink = colour(q->group);
        if (low - high > 0.5)
            str_addf(c->out, "<path d=\"M%.1f %.1fV%.1fM%.1f %.1fh8M%.1f %.1fh8\" stroke=\"%s\" class=\"bar\"/>\n", x, low, high, x - 4,
                     low, x - 4, high, ink);
        str_addf(c->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\" stroke=\"%s\"/>\n", x, y, q->small ? "3.2" : "4.8",
                 q->small ? "#ffffff" : ink, ink);
        take(c, x - 6, y - 6, x + 6, y + 6);
        take(c, x - 3, fmin(high, low), x + 3, fmax(high, low));
    }
}

void plot_svg(const struct plot *given, str *out) {
    struct plot p = *given;
    p.point = calloc((size_t)p.n + 1, sizeof *p.point);
    struct canvas c = {.p = &p, .out = out, .taken = calloc((size_t)((3 + LEAD) * p.n + 1), sizeof *c.taken)};
    bool *done = calloc((size_t)p.n + 1, sizeof *done);
    p.n = 0;
    for (int i = 0; p.point && i < given->n; i++)
        if (given->point[i].x > 0 && isfinite(given->point[i].low + given->point[i].y + given->point[i].high)) p.point[p.n++] = given->point[i];
    if (p.n && c.taken && done) {
        str_addf(out,
                 "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#222\">\n"
                 "<style>.grid{stroke:#e6e6e6}.axis{stroke:#444;fill:none}.tick{font-size:11px;fill:#555}.title{font-size:15px}.label{font-size:%dpx}.lead{stroke:#aaa;stroke-width:.7}"
                 ".bar{fill:none;stroke-width:1.2}</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
                 WIDTH, HEIGHT, WIDTH, HEIGHT, LABEL);
        ranges(&c);
        axes(&c);
        points(&c);
        for (int i = 0; i < p.n; i++) {
            int most = -1;
            for (int k = 0; k < p.n; k++)
                if (!done[k] && (most < 0 || crowd(&c, k) > crowd(&c, most))) most = k;
            done[most] = true;
            label(&c, &p.point[most]);
        }
        str_adds(out, "</svg>\n");
    }
    free(p.point);
    free(c.taken);
    free(done);
}
