/* A test program's own folder, for what it writes: made before its tests and removed, with all in it, after them. */
#ifndef TESTS_FOLDER_H
#define TESTS_FOLDER_H

int own_folder_make(void **state); /* for cmocka_run_group_tests */
int own_folder_remove(void **state);
const char *own_folder(void);
const char *at(const char *name); /* a path in it, good until the folder goes */

#endif
