/* Another program that is asked in lines and answers in lines: a child process with a pipe each way.
 *
 * A command is a line for /bin/sh. It lives from pipe_open() to pipe_close(), is written to and read from at once (so neither side can
 * wait for the other for ever), and goes with all that it started: it has a process group of its own, which is ended with it, and which the
 * terminal's interrupt does not reach, so that a step under way can be finished. What it says on stderr goes where ours goes.
 *
 * Every failure is E_IO, says what the command did (ended with which status, was killed, was silent for how long, answered too much), and
 * leaves no process behind. A write to a command that is gone is such a failure and no SIGPIPE. Called by data/command.c. */
#ifndef CYC_BASE_PIPE_H
#define CYC_BASE_PIPE_H
#include "base/err.h"
#include "base/str.h"
#include <stdbool.h>
#include <sys/types.h>

struct pipe { /* zeroed: closed */
    pid_t pid;
    int in, out; /* ours: what it reads, what it writes; -1: closed */
    str answer;  /* of the last exchange */
};
err pipe_open(struct pipe *p, const char *command);
/* Writes n bytes and reads `lines` lines into p->answer; *got says how many there were, on failure too (more than asked for: that
 * was it). last: the command's input ends
 * behind the bytes. timeout: seconds that the command may be silent while an answer is due. After a failure the pipe is closed. */
err pipe_exchange(struct pipe *p, const char *bytes, size_t n, bool last, int lines, double timeout, int *got);
/* Ends its input, waits a moment, and kills what is left. */
void pipe_close(struct pipe *p);

#endif
