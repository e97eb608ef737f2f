/* Messages to a person. The library only calls the sink; the program decides where lines go (none by default). */
#ifndef CYC_BASE_LOG_H
#define CYC_BASE_LOG_H
#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN };
typedef void (*log_sink)(void *ctx, enum log_level level, const char *line);
void log_set(log_sink sink, void *ctx);
bool log_hush(bool hush); /* true: lines are dropped, as while something is only tried; returns what it was before */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)

#endif
