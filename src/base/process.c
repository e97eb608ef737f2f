/* What this process has of the machine's memory. See process.h. */
#define _GNU_SOURCE
#include "base/process.h"
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

enum { SEEN_AT_ONCE = 512 }; /* pages */

/* Which of n pages, SEEN_AT_ONCE at most, from `at` on are there. What the process has mapped stands in pagemap (the kernel's admin-guide/mm/pagemap.rst:
 * 64 bits a page, the highest says that it is present); mincore, where that cannot be read, tells of a file what anybody has of it. */
static int see_pages(int pagemap, uintptr_t at, size_t n, size_t page, unsigned char *there) {
    uint64_t entry[SEEN_AT_ONCE];
    if (pagemap < 0) return mincore((void *)at, n * page, there);
    if (pread(pagemap, entry, n * sizeof *entry, (off_t)(at / page * sizeof *entry)) != (ssize_t)(n * sizeof *entry)) return -1;
    for (size_t i = 0; i < n; i++) there[i] = entry[i] >> 63;
    return 0;
}

size_t resident_at(const void *p, size_t n) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = (uintptr_t)p, to = from + n;
    const int pagemap = n ? open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) : -1;
    unsigned char there[SEEN_AT_ONCE];
    size_t bytes = 0;
    for (uintptr_t at = from / page * page; at < to; at += SEEN_AT_ONCE * page) {
        const size_t left = (to - at + page - 1) / page, pages = left < SEEN_AT_ONCE ? left : SEEN_AT_ONCE;
        if (see_pages(pagemap, at, pages, page, there)) break;
        for (size_t i = 0; i < pages; i++) {
            const uintptr_t lo = at + i * page, hi = lo + page;
            if (there[i] & 1) bytes += (hi < to ? hi : to) - (lo > from ? lo : from);
        }
    }
    if (pagemap >= 0) close(pagemap);
    return bytes;
}

void resident_bring(void *p, size_t n) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    volatile char *byte = p;
    for (size_t i = 0; i < n; i += page) byte[i] = byte[i];
    if (n) byte[n - 1] = byte[n - 1]; /* where p is not a page's first */
}

/* --- the heap ----------------------------------------------------------------------------------------------------- */
#ifdef __GLIBC__
/* glibc's own threshold grows to whatever was freed, up to 32 MiB: a buffer of 2 MiB would stay as a hole in the heap. */
static int steady;

void heap_steady(void) { steady = mallopt(M_MMAP_THRESHOLD, 128 << 10); }

void heap_rest(void) { malloc_trim(0); }

size_t heap_bytes(void) {
    const struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

/* Half of it in one piece, for what is large, then small ones, which fill holes before the heap grows. Without trimming they stay. */
void heap_hold(size_t bytes) {
    struct piece { struct piece *next; char rest[4000]; } *held = NULL, *p;
    const size_t most = resident_bytes("RssAnon") + bytes;
    if (!steady) return;
    mallopt(M_TRIM_THRESHOLD, INT32_MAX);
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    void *large = malloc(bytes / 2);
    if (large) resident_bring(large, bytes / 2);
    for (size_t taken = 0; taken < bytes && resident_bytes("RssAnon") + sizeof *p < most && (p = malloc(sizeof *p)); taken += sizeof *p) {
        resident_bring(p, sizeof *p);
        p->next = held, held = p;
    }
    for (; held; held = p) p = held->next, free(held);
    free(large);
}
#else
void heap_steady(void) {}
void heap_rest(void) {}
size_t heap_bytes(void) { return 0; }
void heap_hold(size_t bytes) { (void)bytes; }
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
