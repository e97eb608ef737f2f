/* See args.h. */
#include "args.h"
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_option(const char *s) { return s[0] == '-' && s[1]; }

static const struct arg *find(const struct arg *args, const char *name, size_t n) {
    for (; args->name; args++)
        if (is_option(args->name) && strlen(args->name) == n && !memcmp(args->name, name, n)) return args;
    return NULL;
}

static int unknown(const char *command, const struct arg *args, const char *name) {
    const char *list[32];
    int n = 0;
    for (; args->name && n < 30; args++)
        if (is_option(args->name)) list[n++] = args->name;
    list[n++] = "--help";
    list[n] = NULL;
    const char *near = str_nearest(name, list);
    return near ? cli_bad("%s: unknown option '%s'; did you mean '%s'?", command, name, near)
                : cli_bad("%s: unknown option '%s'; `cyclora %s --help` lists the options", command, name, command);
}

static int take_number(const char *command, const struct arg *a, const char *text) {
    char *end;
    errno = 0;
    if (a->type == ARG_REAL) {
        double x = strtod(text, &end);
        if (end == text || *end || !isfinite(x))
            return cli_bad("%s: %s wants a number, not '%s'", command, a->name, text);
        if (x < a->least) return cli_bad("%s: %s is %s, but at least %g is wanted", command, a->name, text, a->least);
        *(double *)a->to = x;
        return -1;
    }
    long long i = strtoll(text, &end, 10);
    if (end == text || *end || errno || (a->type == ARG_INT && (i > INT_MAX || i < INT_MIN)))
        return cli_bad("%s: %s wants a whole number, not '%s'", command, a->name, text);
    if ((double)i < a->least)
        return cli_bad("%s: %s is %s, but at least %g is wanted", command, a->name, text, a->least);
    if (a->type == ARG_INT) *(int *)a->to = (int)i;
    else *(uint64_t *)a->to = (uint64_t)i;
    return -1;
}

static int take(const char *command, const struct arg *a, const char *text, int argc) {
    if (a->type == ARG_TEXT) {
        *(const char **)a->to = text;
        return -1;
    }
    if (a->type != ARG_LIST && a->type != ARG_SETTING) return take_number(command, a, text);
    struct arg_list *l = a->to;
    if (!l->v) l->v = calloc((size_t)argc, sizeof *l->v);
    if (!l->v) return cli_bad("out of memory");
    if (a->type == ARG_SETTING) {
        int room = (int)sizeof l->setting[0], full = l->settings == (int)(sizeof l->setting / sizeof l->setting[0]);
        if (full || snprintf(l->setting[l->settings], (size_t)room, "%s=%s", a->name + 2, text) >= room)
            return cli_bad("%s: %s '%s' is too long, or given too often", command, a->name, text);
        text = l->setting[l->settings++];
    }
    l->v[l->n++] = text;
    return -1;
}

/* argv[*i] is an option; *i moves on over its value. */
static int take_option(const char *command, const struct arg *args, int argc, char **argv, int *i) {
    const char *s = argv[*i], *eq = s[1] == '-' ? strchr(s, '=') : NULL;
    size_t n = eq ? (size_t)(eq - s) : strlen(s);
    if (!strcmp(s, "--help") || !strcmp(s, "-h")) {
        fputs(command_find(command)->help, stdout);
        return STATUS_OK;
    }
    const struct arg *a = find(args, s, n);
    if (!a) {
        str name = {0};
        str_add(&name, s, n);
        int status = unknown(command, args, name.p ? name.p : s);
        str_free(&name);
        return status;
    }
    if (a->type == ARG_FLAG) {
        if (eq) return cli_bad("%s: %s takes no value", command, a->name);
        *(bool *)a->to = true;
        return -1;
    }
    if (eq) return take(command, a, eq + 1, argc);
    if (*i + 1 >= argc) return cli_bad("%s: %s needs a value", command, a->name);
    const char *value = argv[++*i];
    if (find(args, value, strlen(value)))
        return cli_bad("%s: %s needs a value, not the option %s (write %s=%s to mean the text)", command, a->name,
                       value, a->name, value);
    return take(command, a, value, argc);
}

int args_parse(const char *command, int argc, char **argv, const struct arg *args) {
    const struct arg *next = args;
    bool options = true;
    for (int i = 1; i < argc; i++) {
        if (options && !strcmp(argv[i], "--")) {
            options = false;
            continue;
        }
        int status;
        if (options && is_option(argv[i])) status = take_option(command, args, argc, argv, &i);
        else {
            while (next->name && is_option(next->name)) next++;
            if (!next->name) return cli_bad("%s: superfluous argument '%s'", command, argv[i]);
            status = take(command, next->type == ARG_LIST ? next : next++, argv[i], argc);
        }
        if (status >= 0) return status;
    }
    return -1;
}

int args_missing(const char *command, const char *what) {
    return cli_bad("%s: %s is missing; `cyclora %s --help` shows how it is used", command, what, command);
}
