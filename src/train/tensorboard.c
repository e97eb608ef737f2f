/* TensorBoard's event files (report_to: tensorboard): output_dir/runs/events.out.tfevents.TIME.HOST.PID.0, a record for each line of metrics.jsonl.
 *
 * A record is its length (u64), a checksum of that, the payload and a checksum of that; all little-endian (tensorflow/core/lib/io/record_writer.cc).
 * The payload is a protobuf Event (tensorboard's event.proto, summary.proto), written by hand here: 1 wall_time (double), 2 step (int64), 3 file_version
 * ("brain.Event:2", first in a file), 5 Summary{1 Value{1 tag, 2 simple_value (float)}}, 7 SessionLog{1 status: 1 = START}. The last, at the step after
 * a checkpoint, is how readers are told that a run was resumed: they drop what other files have from there on.
 *
 * A file is opened, appended to and closed at each line, as metrics.jsonl is: a killed run leaves at most one record cut short, which readers leave out.
 * It refuses nothing: numbers that are not finite are not in metrics.jsonl either. Called by checkpoint.c. */
#define _GNU_SOURCE
#include "train/tensorboard.h"
#include "base/file.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* --- records ------------------------------------------------------------------------------------------------------------- */
uint32_t crc32c(const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
    }
    return ~c;
}

static void add_le(str *s, uint64_t x, int bytes) {
    for (int i = 0; i < bytes; i++) str_addc(s, (char)(x >> 8 * i & 255));
}

static uint32_t masked(uint32_t c) { return (c >> 15 | c << 17) + 0xa282ead8u; }

void tfrecord_add(str *file, const str *payload) {
    const size_t at = file->n;
    add_le(file, payload->n, 8);
    if (file->failed) return;
    add_le(file, masked(crc32c(file->p + at, 8)), 4);
    str_add(file, payload->p, payload->n);
    add_le(file, masked(crc32c(payload->p, payload->n)), 4);
}

/* --- protobuf ------------------------------------------------------------------------------------------------------------ */
enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static void add_varint(str *s, uint64_t x) {
    for (; x > 127; x >>= 7) str_addc(s, (char)(x & 127) | (char)128);
    str_addc(s, (char)x);
}

static void add_key(str *s, int field, enum wire wire) { add_varint(s, (uint64_t)field << 3 | (uint64_t)wire); }

static void add_bytes(str *s, int field, const char *p, size_t n) {
    add_key(s, field, BYTES);
    add_varint(s, n);
    str_add(s, p, n);
}

static void add_time_and_step(str *s, int64_t step) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    const double now = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    uint64_t bits;
    memcpy(&bits, &now, sizeof bits);
    add_key(s, 1, FIXED64);
    add_le(s, bits, 8);
    add_key(s, 2, VARINT);
    add_varint(s, (uint64_t)step);
}

static void add_value(str *summary, const char *tag, float x) {
    str value = {0};
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    add_bytes(&value, 1, tag, strlen(tag));
    add_key(&value, 2, FIXED32);
    add_le(&value, bits, 4);
    add_bytes(summary, 1, value.p, value.n);
    summary->failed |= value.failed;
    str_free(&value);
}

/* --- files --------------------------------------------------------------------------------------------------------------- */
static err append(const char *path, const str *records) {
    return records->failed ? fail(E_MEMORY, "out of memory") : file_append(path, records->p, records->n);
}

err events_begin(const char *folder, int64_t restart, char **path) {
    static const char version[] = "brain.Event:2", start[] = {1 << 3 | VARINT, 1};
    char host[128] = "localhost";
    str file = {0}, event = {0};
    TRY(dir_make(folder));
    gethostname(host, sizeof host - 1);
    host[strcspn(host, "/")] = 0;
    if (asprintf(path, "%s/events.out.tfevents.%lld.%s.%ld.0", folder, (long long)time(NULL), host, (long)getpid()) < 0)
        return *path = NULL, fail(E_MEMORY, "out of memory");
    add_time_and_step(&event, 0);
    add_bytes(&event, 3, version, strlen(version));
    tfrecord_add(&file, &event);
    if (restart >= 0) {
        str_clear(&event);
        add_time_and_step(&event, restart);
        add_bytes(&event, 7, start, sizeof start);
        tfrecord_add(&file, &event);
    }
    file.failed |= event.failed;
    err e = append(*path, &file);
    str_free(&event);
    str_free(&file);
    return e;
}

err events_append(const char *path, const json_t *line) {
    const char *of = json_string_value(json_object_get(line, "eval")), *name;
    const char *room = !of ? "train" : strcmp(of, "test") ? "eval" : "test";
    str summary = {0}, event = {0}, file = {0};
    json_t *v;
    json_object_foreach((json_t *)line, name, v) {
        char tag[128];
        if (!json_is_number(v) || !strcmp(name, "step")) continue;
        const char *leaf = name + (str_starts(name, "eval_") ? 5 : str_starts(name, "train_") ? 6 : 0);
        snprintf(tag, sizeof tag, "%s/%s", room, leaf);
        add_value(&summary, tag, (float)json_number_value(v));
    }
    add_time_and_step(&event, json_integer_value(json_object_get(line, "step")));
    if (summary.n) add_bytes(&event, 5, summary.p, summary.n);
    tfrecord_add(&file, &event);
    file.failed |= summary.failed || event.failed;
    err e = append(path, &file);
    str_free(&summary);
    str_free(&event);
    str_free(&file);
    return e;
}
