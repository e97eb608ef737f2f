/* See log.h. */
#include "base/log.h"
#include <stdarg.h>
#include <stdio.h>

static log_sink sink;
static void *sink_ctx;
static bool hushed;

void log_set(log_sink s, void *ctx) {
    sink = s;
    sink_ctx = ctx;
}

bool log_hush(bool hush) {
    const bool before = hushed;
    hushed = hush;
    return before;
}

void log_line(enum log_level level, const char *fmt, ...) {
    if (!sink || hushed) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    sink(sink_ctx, level, line);
}
