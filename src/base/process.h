/* What this process has of the machine's memory: what the kernel says of it, the library's heap, and the program itself. */
#ifndef CYC_BASE_PROCESS_H
#define CYC_BASE_PROCESS_H
#include <stddef.h>

size_t resident_bytes(const char *field); /* of /proc/self/status: "VmRSS", "VmHWM", "RssAnon"; 0 where it does not tell */

/* The heap. */
void heap_steady(void);  /* for a program's main(): what is large lies in pages of its own, which go back to the system when it is freed */
void heap_rest(void);    /* what was freed goes back, as far as the library can: after reading, before arenas are taken */
size_t heap_bytes(void); /* what is given out; 0 where the library does not tell */

/* Program and libraries as they lie in memory, in bytes of whole pages. A segment beyond 8 MiB (kernels of a card, what a host of this library brings) is
 * counted with a quarter of one: little of it is read. */
size_t program_bytes(void);
/* Brings those pages in. A first call then waits for no page, and what the process has of its files does not hang on which neighbours the kernel
 * brought along with one that was needed (a megabyte, from run to run and system to system). */
void program_bring(void);

#endif
