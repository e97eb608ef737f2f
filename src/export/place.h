/* Where an output comes to be: beside its place, under a name that nothing takes for a model, and put there in one rename when it is
 * whole and checked. Whatever ends the process before leaves the place as it was; what a killed one left beside it is swept when the
 * next begins. */
#ifndef CYC_EXPORT_PLACE_H
#define CYC_EXPORT_PLACE_H
#include "base/arena.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>

struct place {
    arena mem;
    const char *path, *tmp;
    bool folder, force;
};
/* Refuses an existing path without force, and with it a folder that holds anything but such files as exports write; refuses where
 * the file system has less than `bytes` left. Makes the parent folder, and tmp where it is a folder. */
err place_open(struct place *p, const char *path, bool folder, bool force, size_t bytes);
err place_publish(struct place *p);  /* releases it too */
/* What is read may not be what is written over: E_USAGE where both are one. source may be NULL. */
err place_not_itself(const char *path, const char *source);
void place_abandon(struct place *p); /* removes what was written; after place_publish() nothing */

#endif
