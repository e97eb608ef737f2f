/* report.html: a run on one page that needs nothing else (page.c); and the same of data files (data_page.c). */
#ifndef CYC_REPORT_REPORT_H
#define CYC_REPORT_REPORT_H
#include "base/err.h"
#include "base/str.h"
#include <jansson.h>

/* folder/report.html of what folder holds (config.yaml, audit.json, metrics.jsonl) and of the run's report so far, written beside and renamed.
 * report: what report.json has, and "total_steps"; fields that are missing are left out of the page. */
err report_write(const char *folder, const json_t *report);

/* A page about data files, of what cyc_data_stats returns; written beside and renamed. See data_page.c. */
err data_page_write(const char *path, const json_t *stats);

/* --- the parts of a page, for each other and for tests ----------------------------------------------------------------- */
/* Text of whatever origin inside an element or a quoted attribute: markup is written as entities, bytes that are no UTF-8 as U+FFFD, control
 * characters and those that turn the direction of writing by their names. */
void html_text(str *out, const char *text);
void page_begin(str *out, const char *title); /* up to the title as the page's heading */
void page_tile(str *out, const char *value, const char *name);

/* The words of `text` as HTML; those that `other` has not are in <ins>, and words of `other` that are missing stand in <del> at their places. */
err html_difference(str *out, const char *text, const char *other);

enum { POINTS = 128 };
/* Points that come one after the other; of more than POINTS, means of 2, 4, ... neighbours are kept. */
struct series {
    char figure[64];       /* "loss", "copy_rate" */
    int side;              /* its place in the plan's sides; -1: the run's */
    bool eval;             /* of evaluations, else of steps */
    int n, width, waiting; /* points; steps in each; those added to the next one so far */
    double x[POINTS], y[POINTS], sum_x, sum_y;
};
struct all_series {
    struct series **v;
    int n;
};
void series_add(struct series *s, double x, double y);
/* Numbers of a metrics.jsonl by figure and side; a file that is not there has none. names: the plan's sides. */
err series_read(const char *path, const json_t *sides, struct all_series *out);
void series_free(struct all_series *all);

struct chart_line {
    const struct series *s;
    int ink;
    bool dashed;
}; /* ink: 0, 1, ...: a side's colour */
struct chart {
    const struct chart_line *line;
    int n;
    double steps, warmup; /* the x axis; where the warm-up ends (0: none) */
    double scale;         /* values times this: 100 for shares in per cent */
    const char *unit;     /* behind the axis' numbers */
};
void chart_svg(str *out, const struct chart *c);
void diagram_svg(str *out, const json_t *plan, const char *objective);

double json_num_or(const json_t *o, const char *key, double otherwise);
const char *json_str(const json_t *o, const char *key); /* "" where it is none */
const char *bytes_text(double n);                       /* "1.25 GB"; the last eight stay valid, here and below */
const char *count_text(double n);                       /* "134.5 M" */
const char *time_text(double seconds);                  /* "1:23 min" */

#endif
