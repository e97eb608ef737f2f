/* Lines to tokenize: files of one JSON string a line. */
#ifndef TESTS_IO_LINES_H
#define TESTS_IO_LINES_H
#include "base/file.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static struct lines {
    json_t **v;
    size_t n;
} lines;

/* Adds a file's; -1 where it cannot be read. */
static int lines_add(const char *path) {
    str file = {0};
    if (file_read(path, &file)) return -1;
    for (char *s = file.p; *s;) {
        char *end = strchr(s, '\n');
        lines.v = realloc(lines.v, (lines.n + 1) * sizeof *lines.v);
        lines.v[lines.n] = json_loadb(s, (size_t)(end - s), JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        if (!lines.v[lines.n++]) return -1;
        s = end + 1;
    }
    str_free(&file);
    return 0;
}

static int free_lines(void **state) {
    (void)state;
    for (size_t i = 0; i < lines.n; i++) json_decref(lines.v[i]);
    free(lines.v);
    return 0;
}

#endif
