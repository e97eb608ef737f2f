/* See folder.h. */
#define _GNU_SOURCE /* mkdtemp */
#include "support/folder.h"
#include "support/support.h"
#include "base/arena.h"
#include "base/file.h"

static char root[] = "/tmp/cyclora_test_XXXXXX";
static arena names;

int own_folder_make(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

int own_folder_remove(void **state) {
    (void)state;
    arena_free(&names);
    return dir_remove(root) != OK;
}

const char *own_folder(void) { return root; }

const char *at(const char *name) {
    const char *path = arena_printf(&names, "%s/%s", root, name);
    assert_non_null(path);
    return path;
}
