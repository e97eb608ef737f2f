/* The numbers of metrics.jsonl as curves, in memory that does not grow with the run: a curve that is full keeps the means of its neighbours. */
#define _POSIX_C_SOURCE 200809L
#include "report/report.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void series_add(struct series *s, double x, double y) {
    if (!isfinite(y)) return;
    if (!s->width) s->width = 1;
    s->sum_x += x, s->sum_y += y;
    if (++s->waiting < s->width) return;
    if (s->n == POINTS) {
        for (int i = 0; i < POINTS / 2; i++) s->x[i] = (s->x[2 * i] + s->x[2 * i + 1]) / 2, s->y[i] = (s->y[2 * i] + s->y[2 * i + 1]) / 2;
        s->n = POINTS / 2;
        s->width *= 2;
        if (s->waiting < s->width) return;
    }
    s->x[s->n] = s->sum_x / s->waiting, s->y[s->n++] = s->sum_y / s->waiting;
    s->sum_x = s->sum_y = s->waiting = 0;
}

/* "train_loss_A" is loss of side 0, "eval_round_trip_chrf" round_trip_chrf of none. */
static int side_of(const char *key, const json_t *sides, char figure[64]) {
    size_t i, n;
    const json_t *s;
    key += str_starts(key, "eval_") ? 5 : str_starts(key, "train_") && strcmp(key, "train_seconds") != 0 ? 6 : 0;
    snprintf(figure, 64, "%s", key);
    json_array_foreach(sides, i, s) {
        const char *name = json_str(s, "name");
        n = strlen(name);
        if (!n || !str_ends(figure, name) || strlen(figure) < n + 2 || figure[strlen(figure) - n - 1] != '_') continue;
        figure[strlen(figure) - n - 1] = 0;
        return (int)i;
    }
    return json_array_size(sides) == 1 ? 0 : -1;
}

static struct series *find(struct all_series *all, const char *figure, int side, bool eval) {
    for (int i = 0; i < all->n; i++)
        if (all->v[i]->side == side && all->v[i]->eval == eval && !strcmp(all->v[i]->figure, figure)) return all->v[i];
    struct series **v = realloc(all->v, (size_t)(all->n + 1) * sizeof *v), *s = calloc(1, sizeof *s);
    if (v) all->v = v;
    if (!v || !s) return free(s), NULL;
    snprintf(s->figure, sizeof s->figure, "%s", figure);
    s->side = side, s->eval = eval;
    return all->v[all->n++] = s;
}

/* A test is no point of a curve: it is of other data. */
static err add_line(const json_t *line, const json_t *sides, struct all_series *all) {
    const char *key, *of = json_str(line, "eval");
    const double step = json_num_or(line, "step", 0);
    json_t *v;
    if (!strcmp(of, "test")) return OK;
    json_object_foreach((json_t *)line, key, v) {
        char figure[64];
        if (!json_is_number(v) || !strcmp(key, "step") || str_ends(key, "seconds")) continue;
        struct series *s = find(all, figure, side_of(key, sides, figure), *of != 0);
        if (!s) return fail(E_MEMORY, "out of memory");
        series_add(s, step, json_number_value(v));
    }
    return OK;
}

err series_read(const char *path, const json_t *sides, struct all_series *out) {
    FILE *f = fopen(path, "re");
    char *line = NULL;
    size_t room = 0;
    err e = OK;
    while (f && !e && getline(&line, &room, f) > 0) {
        json_t *j = json_loads(line, 0, NULL); /* a killed run's last line may be half of one */
        if (j) e = add_line(j, sides, out);
        json_decref(j);
    }
    free(line);
    if (f) fclose(f);
    return e;
}

void series_free(struct all_series *all) {
    for (int i = 0; i < all->n; i++) free(all->v[i]);
    free(all->v);
    *all = (struct all_series){0};
}
