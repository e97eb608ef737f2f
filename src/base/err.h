/* Errors: a code that a program can branch on, and one message that a person can act on.
 *
 * A function that can fail returns `err`. The first failing function records the message with fail(): what is
 * wrong, where (file, offset or line, tensor, shape), and what to do. Callers pass the code up with TRY() and may
 * prefix context with fail_in(). The message is per thread and lives until the next fail() on that thread.
 * The library never prints, exits or aborts on bad input; assert() is for our own bugs. */
#ifndef CYC_BASE_ERR_H
#define CYC_BASE_ERR_H

typedef enum err {
    OK = 0,
    E_USAGE,       /* the caller asked for something that does not exist or contradicts itself */
    E_INPUT,       /* a file's bytes are not what its format says */
    E_UNSUPPORTED, /* well formed, but not something we can do; the message names what is supported */
    E_IO,          /* the operating system refused: missing file, full disk */
    E_MEMORY,      /* would not fit, or an allocation failed */
    E_NUMERIC,     /* a number became non-finite */
    E_INTERRUPTED, /* SIGINT or SIGTERM asked us to stop; state was saved */
    E_INTERNAL     /* a bug of ours */
} err;

/* Records the message and returns the code. */
err fail(err code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Puts "context: " before the recorded message and returns the code unchanged. */
err fail_in(err code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The last message of this thread ("" when none). */
const char *err_text(void);
/* True for the codes that mean "what you gave me is wrong" (exit status 2), false for failures (exit status 1). */
int err_is_input(err code);

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        err try_e_ = (call);                                                                                           \
        if (try_e_) return try_e_;                                                                                     \
    } while (0)

#endif
