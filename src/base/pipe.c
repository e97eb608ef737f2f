/* See pipe.h. */
#define _GNU_SOURCE /* pipe2, sigtimedwait */
#include "base/pipe.h"
#include "base/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_ANSWER = 256 << 20 }; /* bytes of one exchange: more is no answer */
static const double patience = 2; /* seconds that a command has to end by itself */
extern char **environ;

static void drop(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* --- its life --------------------------------------------------------------------------------------------------------- */
static err spawn(struct pipe *p, const char *command, int its_in, int its_out) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, usual;
    char *argv[] = {"sh", "-c", (char *)command, NULL};
    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE);
    sigaddset(&usual, SIGINT);
    sigaddset(&usual, SIGTERM);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, its_in, 0);
    posix_spawn_file_actions_adddup2(&files, its_out, 1);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setsigdefault(&attr, &usual);
    posix_spawnattr_setsigmask(&attr, &none);
    const int code = posix_spawn(&p->pid, "/bin/sh", &files, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    return code ? fail(E_IO, "cannot start /bin/sh for '%s': %s", command, strerror(code)) : OK;
}

err pipe_open(struct pipe *p, const char *command) {
    int to[2] = {-1, -1}, from[2] = {-1, -1};
    *p = (struct pipe){.in = -1, .out = -1};
    err e = pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC) ? fail(E_IO, "cannot make a pipe: %s", strerror(errno)) : OK;
    if (!e) e = spawn(p, command, to[0], from[1]);
    drop(&to[0]);
    drop(&from[1]);
    if (e) return drop(&to[1]), drop(&from[0]), p->pid = 0, e;
    p->in = to[1], p->out = from[0];
    fcntl(p->in, F_SETFL, O_NONBLOCK);
    fcntl(p->out, F_SETFL, O_NONBLOCK);
    return OK;
}

/* Waits for its end for so long, then kills it and all of its group. Returns its status as waitpid has it; *killed: by us. */
static int reap(struct pipe *p, double seconds, bool *killed) {
    const double until = seconds_now() + seconds;
    siginfo_t seen = {0};
    int status = 0;
    drop(&p->in);
    while (!waitid(P_PID, (id_t)p->pid, &seen, WEXITED | WNOHANG | WNOWAIT) && !seen.si_pid && seconds_now() < until)
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    *killed = !seen.si_pid;
    kill(-p->pid, SIGKILL); /* what it started may outlive it; the number is its own until it is waited for */
    while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR) {}
    drop(&p->out);
    p->pid = 0;
    return status;
}

void pipe_close(struct pipe *p) {
    bool killed;
    if (p->pid) reap(p, patience, &killed);
    str_free(&p->answer);
}

/* What became of a command that answers no more. */
static err ended(struct pipe *p) {
    bool killed;
    const int status = reap(p, patience, &killed);
    if (killed) return fail(E_IO, "it closed its output, but did not end");
    if (WIFSIGNALED(status)) return fail(E_IO, "it was ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status) == 127) return fail(E_IO, "it ended with status 127: the shell found no such command");
    return fail(E_IO, "it ended with status %d", WEXITSTATUS(status));
}

static err silent(struct pipe *p, double timeout) {
    bool killed;
    reap(p, 0, &killed);
    return fail(E_IO, "it said nothing for %g s, and was ended", timeout);
}

/* --- an exchange -------------------------------------------------------------------------------------------------------- */
/* write(), but a reader that is gone is EPIPE alone: the signal is kept from this thread, and taken away where it came of this. */
static ssize_t write_quietly(int fd, const char *bytes, size_t n) {
    sigset_t sigpipe, pending, before;
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
    const ssize_t k = write(fd, bytes, n);
    const int code = errno;
    if (k < 0 && code == EPIPE && !sigismember(&pending, SIGPIPE))
        while (sigtimedwait(&sigpipe, NULL, &(struct timespec){0, 0}) < 0 && errno == EINTR) {}
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = code;
    return k;
}

static bool again(ssize_t k) { return k < 0 && (errno == EAGAIN || errno == EINTR); }

/* Reads what is there. False: its output has ended, or is beyond all measure. */
static bool take(struct pipe *p, int *lines) {
    char buf[65536];
    ssize_t k;
    while ((k = read(p->out, buf, sizeof buf)) > 0) {
        for (ssize_t i = 0; i < k; i++) *lines += buf[i] == '\n';
        str_add(&p->answer, buf, (size_t)k);
        if (p->answer.n > MOST_ANSWER) return false;
    }
    return again(k);
}

/* Poll until something can be done; false: nothing could for `timeout` seconds. */
static bool wait_for(struct pipe *p, bool writing, double timeout) {
    struct pollfd fd[2] = {{.fd = p->out, .events = POLLIN}, {.fd = writing ? p->in : -1, .events = POLLOUT}};
    const double until = seconds_now() + timeout;
    for (;;) {
        const double left = until - seconds_now();
        const int k = poll(fd, 2, left > 0 ? (int)(left < 1e6 ? left * 1000 + 1 : 1e9) : 0);
        if (k > 0) return true;
        if (!k || errno != EINTR) return false;
    }
}

static err too_much(struct pipe *p, int lines) {
    bool killed;
    reap(p, 0, &killed);
    return fail(E_IO, "it answered more than the %d line%s asked for", lines, lines == 1 ? "" : "s");
}

err pipe_exchange(struct pipe *p, const char *bytes, size_t n, bool last, int lines, double timeout, int *got) {
    size_t sent = 0;
    const bool before = p->answer.n > 0;
    *got = 0;
    str_clear(&p->answer);
    if (before && !take(p, got)) return ended(p);
    if (p->answer.n) return *got = lines + 1, too_much(p, 0); /* what it said since the last time */
    if (last && !n) drop(&p->in);
    while (*got < lines) {
        if (!wait_for(p, sent < n, timeout)) return silent(p, timeout);
        const ssize_t k = sent < n ? write_quietly(p->in, bytes + sent, n - sent) : 0;
        if (k > 0) sent += (size_t)k;
        if (k < 0 && !again(k)) sent = n; /* it reads no more: its answers may be there nevertheless */
        if (last && sent == n) drop(&p->in);
        if (take(p, got)) continue;
        if (*got < lines && p->answer.n && p->answer.p[p->answer.n - 1] != '\n') str_addc(&p->answer, '\n'), ++*got; /* its last line */
        if (*got < lines || p->answer.n > MOST_ANSWER) return ended(p);
    }
    if (p->answer.failed) return fail(E_MEMORY, "out of memory");
    const bool whole = p->answer.n && p->answer.p[p->answer.n - 1] == '\n';
    return *got > lines || (lines && !whole) ? too_much(p, lines) : OK;
}
