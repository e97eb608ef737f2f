/* The time that steps, waits and reports are measured by. */
#ifndef CYC_BASE_CLOCK_H
#define CYC_BASE_CLOCK_H

double seconds_now(void); /* monotonic */

#endif
