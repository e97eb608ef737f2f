/* The per-thread error message. See err.h for the contract. */
#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char text[2048];

err fail(err code, const char *fmt, ...) {
    char fresh[sizeof text]; /* the arguments may point into text */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(fresh, sizeof fresh, fmt, ap);
    va_end(ap);
    memcpy(text, fresh, sizeof text);
    return code;
}

err fail_in(err code, const char *fmt, ...) {
    char fresh[sizeof text];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(fresh, sizeof fresh, fmt, ap);
    va_end(ap);
    if (n < 0) n = 0;
    size_t room = (size_t)n + 3 < sizeof fresh ? sizeof fresh - (size_t)n - 3 : 0;
    if (room) snprintf(fresh + n, sizeof fresh - (size_t)n, ": %.*s", (int)room, text);
    memcpy(text, fresh, sizeof text);
    return code;
}

const char *err_text(void) { return text; }

int err_is_input(err code) { return code == E_USAGE || code == E_INPUT || code == E_UNSUPPORTED; }
