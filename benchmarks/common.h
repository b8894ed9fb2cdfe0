/* What the load generator and the fake engine share: the bytes of bulk transfers, the answers, chunked framing. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Every byte of a transfer is checked against this sequence, so what is lost, doubled or swapped is seen. Its period
   is a prime, and no buffer's size is a multiple of it. */
#define PERIOD 1048573
#define WINDOW (512 * 1024)
static unsigned char pattern[PERIOD + WINDOW];

/* As Go's io.Copy makes them. */
#define CHUNK 32768
#define CHUNK_FRAME 6 /* "8000\r\n" */
#define CHUNKS_AT_ONCE 8

#define CONTAINERS 100
static char list_body[80 * 1024];
static size_t list_length;

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void prepare(void) {
    uint64_t state = 88172645463325252ull;
    for (size_t i = 0; i < PERIOD; i++) { /* xorshift64 */
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        pattern[i] = (unsigned char)state;
    }
    memcpy(pattern + PERIOD, pattern, WINDOW);

    char *end = list_body;
    *end++ = '[';
    for (int i = 0; i < CONTAINERS; i++)
        end += sprintf(
            end,
            "%s{\"Id\":\"%064x\",\"Names\":[\"/container-%03d\"],\"Image\":\"registry.example.org/team/service:1.2.%d\","
            "\"ImageID\":\"sha256:%064x\",\"Command\":\"docker-entrypoint.sh run --verbose\",\"Created\":1760000000,"
            "\"Ports\":[{\"IP\":\"0.0.0.0\",\"PrivatePort\":8080,\"PublicPort\":%d,\"Type\":\"tcp\"}],"
            "\"Labels\":{\"com.docker.compose.project\":\"ci\",\"com.docker.compose.service\":\"service-%03d\"},"
            "\"State\":\"running\",\"Status\":\"Up 3 minutes\",\"HostConfig\":{\"NetworkMode\":\"bridge\"},"
            "\"NetworkSettings\":{\"Networks\":{\"bridge\":{\"IPAMConfig\":null,\"Links\":null,\"Aliases\":null}}},"
            "\"Mounts\":[]}",
            i ? "," : "", i, i, i, i, 20000 + i, i);
    *end++ = ']';
    *end++ = '\n';
    list_length = (size_t)(end - list_body);

    signal(SIGPIPE, SIG_IGN);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

__attribute__((unused)) static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static size_t least(size_t a, uint64_t b) { return b < a ? (size_t)b : a; }

/* Whether these bytes are what stands at this position of the sequence. */
static bool is_pattern(uint64_t position, const char *data, size_t length) {
    while (length) {
        size_t step = least(length, WINDOW);
        if (memcmp(data, pattern + position % PERIOD, step)) return false;
        data += step, length -= step, position += step;
    }
    return true;
}

/* Writes chunks of the sequence to a buffer of CHUNKS_AT_ONCE * (CHUNK + 8) + 8 bytes, the last one included. */
static size_t make_chunks(char *buffer, uint64_t position, uint64_t left, uint64_t *taken) {
    char *end = buffer;
    *taken = 0;
    for (int i = 0; i < CHUNKS_AT_ONCE && *taken < left; i++) {
        size_t size = least(CHUNK, left - *taken);
        end += sprintf(end, "%zx\r\n", size);
        memcpy(end, pattern + (position + *taken) % PERIOD, size);
        end += size;
        *end++ = '\r', *end++ = '\n';
        *taken += size;
    }
    if (*taken == left) end += sprintf(end, "0\r\n\r\n");
    return (size_t)(end - buffer);
}
#define STAGE (CHUNKS_AT_ONCE * (CHUNK + 8) + 8)

/* A chunked body that is being read; extensions are skipped, trailers too. */
struct chunked {
    enum { SIZE, EXTENSION, DATA, DATA_CR, DATA_LF, TRAILER, TRAILER_LINE, TRAILER_LF, DONE, BROKEN } state;
    uint64_t left;
};

typedef bool (*payload_taker)(void *whose, const char *data, size_t length);

/* Returns how many bytes belong to the body; its state is DONE at its end, BROKEN if it is not chunked. */
static size_t read_chunked(struct chunked *body, const char *data, size_t length, payload_taker take, void *whose) {
    size_t i = 0;
    while (i < length && body->state < DONE) {
        char c = data[i];
        switch (body->state) {
        case SIZE:
            if (c >= '0' && c <= '9') body->left = body->left * 16 + (uint64_t)(c - '0');
            else if ((c | 32) >= 'a' && (c | 32) <= 'f') body->left = body->left * 16 + (uint64_t)((c | 32) - 'a' + 10);
            else if (c == '\r' || c == ';') body->state = EXTENSION;
            else body->state = BROKEN;
            i++;
            break;
        case EXTENSION:
            if (c == '\n') body->state = body->left ? DATA : TRAILER;
            i++;
            break;
        case DATA: {
            size_t step = least(length - i, body->left);
            if (!take(whose, data + i, step)) body->state = BROKEN;
            else if (!(body->left -= step)) body->state = DATA_CR;
            i += step;
            break;
        }
        case DATA_CR:
            body->state = c == '\r' ? DATA_LF : BROKEN;
            i++;
            break;
        case DATA_LF:
            body->state = c == '\n' ? SIZE : BROKEN;
            i++;
            break;
        case TRAILER:
            body->state = c == '\r' ? TRAILER_LF : TRAILER_LINE;
            i++;
            break;
        case TRAILER_LINE:
            if (c == '\n') body->state = TRAILER;
            i++;
            break;
        default: /* TRAILER_LF */
            body->state = c == '\n' ? DONE : BROKEN;
            i++;
        }
    }
    return i;
}

/* The value of a header field in a head that ends in an empty line, or NULL. */
static const char *field(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strchr(head, '\n'); line; line = strchr(line, '\n')) {
        line++;
        if (!strncasecmp(line, name, length) && line[length] == ':') {
            line += length + 1;
            while (*line == ' ') line++;
            return line;
        }
    }
    return NULL;
}

static struct sockaddr_un unix_address(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) die("the path is too long: %s", path);
    strcpy(address.sun_path, path);
    return address;
}
