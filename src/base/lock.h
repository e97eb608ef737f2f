/* A lock on a folder: a file in it that one process at a time holds.
 *
 * The lock is on the open file (flock), so it ends with its process, however that ends; a file that a killed process left
 * behind blocks no one. The file holds the process's number, for messages alone. */
#ifndef CYC_BASE_LOCK_H
#define CYC_BASE_LOCK_H
#include "base/err.h"

struct lock {
    char *path; /* NULL: never asked for */
    int fd;     /* -1: the file system knows no locks (which was said in a warning) */
};
/* Takes the lock or says who has it: E_USAGE, "WHAT is in use by process 4711: ...". Asking again for one that is held is
 * fine. A symbolic link in the file's place is refused. */
err lock_take(struct lock *l, const char *path, const char *what);
void lock_drop(struct lock *l); /* removes the file */

#endif
