/* What this process has of the machine's memory. See process.h. */
#define _GNU_SOURCE
#include "base/process.h"
#include <link.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

size_t resident_bytes(const char *field) {
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    size_t kb = 0, n = strlen(field);
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, field, n) && line[n] == ':') kb = strtoull(line + n + 1, NULL, 10);
    if (f) fclose(f);
    return kb * 1024;
}

/* --- the heap ----------------------------------------------------------------------------------------------------- */
#ifdef __GLIBC__
/* glibc's own threshold grows to whatever was freed, up to 32 MiB: a buffer of 2 MiB would stay as a hole in the heap. */
void heap_steady(void) { mallopt(M_MMAP_THRESHOLD, 128 << 10); }

void heap_rest(void) { malloc_trim(0); }

size_t heap_bytes(void) {
    const struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}
#else
void heap_steady(void) {}
void heap_rest(void) {}
size_t heap_bytes(void) { return 0; }
#endif

/* --- the program -------------------------------------------------------------------------------------------------- */
enum { LARGEST = 8 << 20, OF_LARGER = 256 << 10 };

struct segments { size_t page, bytes; int brings; };

/* A byte of each page is read, whatever lies there: between variables too, which AddressSanitizer would forbid. */
__attribute__((no_sanitize_address)) static void touch(size_t first, size_t end, size_t page) {
    for (size_t at = first; at < end; at += page) (void)*(volatile const char *)at;
}

static int see_segments(struct dl_phdr_info *info, size_t size, void *ctx) {
    (void)size;
    struct segments *s = ctx;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[i];
        if (h->p_type != PT_LOAD || !(h->p_flags & PF_R)) continue;
        const size_t first = (info->dlpi_addr + h->p_vaddr) & ~(s->page - 1);
        const size_t end = (info->dlpi_addr + h->p_vaddr + h->p_memsz + s->page - 1) & ~(s->page - 1);
        if (end - first > LARGEST) {
            s->bytes += OF_LARGER;
            continue;
        }
        s->bytes += end - first;
        if (s->brings) touch(first, end, s->page);
    }
    return 0;
}

static size_t see_program(int brings) {
    struct segments s = {(size_t)sysconf(_SC_PAGESIZE), 0, brings};
    dl_iterate_phdr(see_segments, &s);
    return s.bytes;
}

size_t program_bytes(void) { return see_program(0); }

void program_bring(void) { see_program(1); }
