/* What this process has of the machine's memory: what the kernel says of it, the library's heap, and the program itself. */
#ifndef CYC_BASE_PROCESS_H
#define CYC_BASE_PROCESS_H
#include <stddef.h>

size_t resident_bytes(const char *field); /* of /proc/self/status: "VmRSS", "VmHWM", "RssAnon"; 0 where it does not tell */

size_t resident_at(const void *p, size_t n); /* of the bytes [p, p + n) those that this process has in memory, of a file those that it has looked at */
void resident_bring(void *p, size_t n);      /* brings in all of them, as they are; nobody else writes meanwhile */

/* The heap. */
void heap_steady(void);  /* for a program's main(): what is large lies in pages of its own, which go back to the system when it is freed */
void heap_rest(void);    /* what was freed goes back, as far as the library can: after reading, before arenas are taken */
size_t heap_bytes(void); /* what is given out; 0 where the library does not tell */
/* Brings in so many bytes more than there are now: pages that reading has left empty, and new ones. They stay for what is given out from then on, also
 * if it is large. Once, when what follows is to find its memory; nothing where heap_steady was not called: the heap is a host's then. */
void heap_hold(size_t bytes);

/* Program and libraries as they lie in memory, in bytes of whole pages. A segment beyond 8 MiB (kernels of a card, what a host of this library brings) is
 * counted with a quarter of one: little of it is read. */
size_t program_bytes(void);
/* Brings those pages in. A first call then waits for no page, and what the process has of its files does not hang on which neighbours the kernel
 * brought along with one that was needed (a megabyte, from run to run and system to system). */
void program_bring(void);

#endif
