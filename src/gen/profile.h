/* Where the time of steps goes, by op: while a session's memory has a profile, each launch of its programs is timed by itself (a card is waited for
 * before and after, so its steps are slower than others and nothing is recorded), and beside the time stands what the op's flops and bytes
 * need at the machine's rates for the sizes of that very run: the share of the bound. What is no launch of a program (an optimizer's step)
 * its caller times with profile_begin() and profile_end(). Instructions that run in pieces are one row, and so are spans of one kernel.
 *
 * The work itself, work_at(), is also the forecast's (train/forecast.c), which knows no runs. */
#ifndef CYC_GEN_PROFILE_H
#define CYC_GEN_PROFILE_H
#include "gen/program.h"

/* The sizes of a run, or of a mean one. */
struct pass {
    double tokens, rows, supervised, length, sources;
}; /* supervised: share of tokens; length: keys that a cached query sees; sources: an encoder's rows */
struct cost work_at(const struct program *g, const struct inst *s, const struct pass *p);

enum profile_phase { PROFILE_GENERATE, PROFILE_FORWARD, PROFILE_BACKWARD, PROFILE_OPTIMIZER };
struct profile_row {
    enum profile_phase phase;
    const char *what; /* an op's name, or an optimizer's */
    int64_t launches;
    double seconds, bound; /* bound: the least that its work takes at the rates below */
};
struct profile {
    double flops, bytes; /* of the machine, a second; 0: not known, nor is a bound */
    const char *whose;   /* NULL: nobody has asked yet */
    int steps;
    double step_s; /* of these steps, all in all */
    double length; /* keys that the last token of a generation has seen */
    int n;
    struct profile_row row[96];
};

/* Around a run of `g`: a watch for its plan, which hands on to `inner` (NULL: nobody). p lives as long as it. */
struct profiling {
    struct plan_watch watch;
    const struct plan_watch *inner;
    const struct memory *mem;
    const struct program *g;
    struct pass pass;
    double began;
};
void profile_run(struct profiling *p, const struct memory *mem, const struct program *g, const struct feed *f);
/* Of what is no program's: seconds when it begins; 0 without a profile. */
double profile_begin(const struct memory *mem);
void profile_end(const struct memory *mem, enum profile_phase phase, const char *what, struct cost work, double began);

#endif
