/* A fake Docker engine for benchmarks: answers at once, checks what it is sent, keeps nothing.

       engine SOCKET [SEND_BUFFER]

   ping, info, version, a list of 100 containers, create, archive (bulk of known length), images/get and images/load
   (bulk, chunked), attach (echo-, source-N and sink- containers) and events. A container named stall never reads. */
#include "common.h"

enum phase { HEAD_PHASE, BODY_LENGTH, BODY_CHUNKED, ECHO, SINK, STALLED, GONE };

struct connection {
    int descriptor;
    enum phase phase;
    uint32_t watched;
    char *inbox; /* of a head that is not whole */
    size_t inbox_length;
    char *queue; /* what could not be sent */
    size_t queue_length, queue_sent;
    uint64_t left; /* of a request's body */
    struct chunked body;
    bool bulk, bad, creating, end_after;
    uint64_t position; /* in the sequence, of a bulk upload */
    bool generating, chunked;
    uint64_t made, to_make; /* of a bulk download */
    struct connection *next_listener;
};

static int poll_set;
static char scratch[1 << 20];
static struct connection *listeners; /* to events */
static uint64_t created, sent_in_bulk;

/* The fields of every answer. Their date moves on, as a real one's does: nobody may count on equal heads. */
static const char *usual(void) {
    static char fields[160];
    static time_t then;
    time_t now = time(NULL);
    if (now != then) {
        then = now;
        strftime(fields, sizeof fields,
                 "Api-Version: 1.43\r\nDocker-Experimental: false\r\nOstype: linux\r\nServer: Docker/24.0.7 (linux)\r\n"
                 "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", gmtime(&now));
    }
    return fields;
}

static void watch(struct connection *c, uint32_t events) {
    if (c->watched == events) return;
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poll_set, EPOLL_CTL_MOD, c->descriptor, &event);
    c->watched = events;
}

static void leave(struct connection *c) {
    if (c->phase == GONE) return;
    c->phase = GONE;
    for (struct connection **p = &listeners; *p; p = &(*p)->next_listener)
        if (*p == c) {
            *p = c->next_listener;
            break;
        }
    close(c->descriptor);
    free(c->inbox);
    free(c->queue);
    c->inbox = c->queue = NULL;
}

static void rewatch(struct connection *c) {
    if (c->phase == GONE) return;
    bool full = c->queue_length - c->queue_sent > 1 << 20;
    uint32_t events = c->phase == STALLED || full ? 0 : EPOLLIN;
    if (c->queue_length > c->queue_sent || c->generating) events |= EPOLLOUT;
    watch(c, events);
}

static void send_some(struct connection *c, const char *data, size_t length) {
    if (c->phase == GONE) return;
    if (c->queue_length == c->queue_sent) {
        ssize_t sent = send(c->descriptor, data, length, 0);
        if (sent < 0 && errno != EAGAIN) {
            leave(c);
            return;
        }
        if (sent > 0) data += sent, length -= (size_t)sent;
        c->queue_length = c->queue_sent = 0;
    }
    if (length) {
        c->queue = realloc(c->queue, c->queue_length + length);
        memcpy(c->queue + c->queue_length, data, length);
        c->queue_length += length;
    }
    rewatch(c);
}

static void send_text(struct connection *c, const char *format, ...) {
    static char text[8192];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    send_some(c, text, (size_t)length);
}

static void answer(struct connection *c, const char *status, const char *type, const char *body) {
    send_text(c, "HTTP/1.1 %s\r\n%sContent-Type: %s\r\nContent-Length: %zu\r\n\r\n%s", status, usual(), type, strlen(body), body);
}

/* Sends what is queued, then what is generated; not for too long. */
static void flush(struct connection *c) {
    for (int turns = 0; turns < 8 && c->phase != GONE; turns++) {
        if (c->queue_length > c->queue_sent) {
            ssize_t sent = send(c->descriptor, c->queue + c->queue_sent, c->queue_length - c->queue_sent, 0);
            if (sent < 0) {
                if (errno != EAGAIN) leave(c);
                break;
            }
            c->queue_sent += (size_t)sent;
            if (c->queue_sent < c->queue_length) break;
            c->queue_length = c->queue_sent = 0;
        } else if (c->generating && c->made < c->to_make) {
            if (c->chunked) {
                uint64_t taken;
                char stage[STAGE];
                size_t length = make_chunks(stage, c->made, c->to_make - c->made, &taken);
                c->made += taken, sent_in_bulk += taken;
                send_some(c, stage, length);
            } else {
                size_t length = least(WINDOW, c->to_make - c->made);
                ssize_t sent = send(c->descriptor, pattern + c->made % PERIOD, length, 0);
                if (sent < 0) {
                    if (errno != EAGAIN) leave(c);
                    break;
                }
                c->made += (uint64_t)sent, sent_in_bulk += (uint64_t)sent;
            }
        } else {
            if (c->generating && c->end_after) shutdown(c->descriptor, SHUT_WR);
            c->generating = false;
            break;
        }
    }
    rewatch(c);
}

static void generate(struct connection *c, uint64_t length, bool in_chunks, bool end_after) {
    c->generating = true, c->chunked = in_chunks, c->end_after = end_after;
    c->made = 0, c->to_make = length;
    flush(c);
}

static void tell_event(struct connection *c, uint64_t number) {
    char event[1024];
    int length = sprintf(
        event,
        "{\"status\":\"create\",\"id\":\"%064lx\",\"from\":\"busybox:local\",\"Type\":\"container\",\"Action\":\"create\","
        "\"Actor\":{\"ID\":\"%064lx\",\"Attributes\":{\"image\":\"busybox:local\",\"name\":\"job-%lu\"}},"
        "\"scope\":\"local\",\"time\":1767225600,\"timeNano\":1767225600000000000}\n",
        number, number, number);
    send_text(c, "%x\r\n%s\r\n", length, event);
}

static bool take_upload(void *whose, const char *data, size_t length) {
    struct connection *c = whose;
    if (c->bulk && !is_pattern(c->position, data, length)) c->bad = true;
    c->position += length;
    return true;
}

static void body_done(struct connection *c) {
    char body[160];
    c->phase = HEAD_PHASE;
    if (c->creating) {
        created++;
        sprintf(body, "{\"Id\":\"%064lx\",\"Warnings\":[]}\n", created);
        answer(c, c->position > 2 ? "201 Created" : "400 Bad Request", "application/json", body);
        for (struct connection *p = listeners, *next; p; p = next) {
            next = p->next_listener;
            tell_event(p, created);
        }
    } else {
        sprintf(body, "{\"bytes\":%lu,\"good\":%s}\n", c->position, c->bad ? "false" : "true");
        answer(c, c->bad ? "400 Bad Request" : "200 OK", "application/json", body);
    }
}

static uint64_t number_in(const char *text, const char *mark) {
    const char *found = strstr(text, mark);
    return found ? strtoull(found + strlen(mark), NULL, 10) : 0;
}

static void begin_body(struct connection *c, const char *head) {
    const char *length = field(head, "Content-Length"), *coding = field(head, "Transfer-Encoding");
    c->position = 0, c->bad = false;
    if (coding) {
        c->body = (struct chunked){0};
        c->phase = BODY_CHUNKED;
        return;
    }
    c->left = length ? strtoull(length, NULL, 10) : 0;
    c->phase = BODY_LENGTH;
    if (!c->left) body_done(c);
}

static void attach(struct connection *c, const char *target) {
    send_text(c, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
                 "Connection: Upgrade\r\nUpgrade: tcp\r\n%s\r\n", usual());
    c->position = 0, c->bad = false;
    if (strstr(target, "/source-")) {
        c->phase = SINK;
        generate(c, number_in(target, "/source-"), false, true);
    } else {
        c->phase = strstr(target, "/sink/") ? SINK : ECHO;
    }
}

static void take_request(struct connection *c, char *head) {
    char method[16], target[4096];
    if (sscanf(head, "%15s %4095s", method, target) != 2) {
        leave(c);
        return;
    }
    const char *path = target;
    if (path[1] == 'v' && path[2] >= '0' && path[2] <= '9' && strchr(path + 1, '/')) path = strchr(path + 1, '/');
    bool get = !strcmp(method, "GET");
    c->bulk = c->creating = false;
    if (!strncmp(path, "/_ping", 6)) {
        send_text(c, "HTTP/1.1 200 OK\r\n%sCache-Control: no-cache, no-store, must-revalidate\r\nPragma: no-cache\r\n"
                     "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n\r\n%s", usual(), get ? "OK" : "");
    } else if (get && !strncmp(path, "/containers/json", 16)) {
        send_text(c, "HTTP/1.1 200 OK\r\n%sContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%zx\r\n",
                  usual(), list_length);
        send_some(c, list_body, list_length);
        send_some(c, "\r\n0\r\n\r\n", 7);
    } else if (!strncmp(path, "/containers/create", 18)) {
        c->creating = true;
        begin_body(c, head);
    } else if (strstr(path, "/attach")) {
        attach(c, path);
    } else if (strstr(path, "/stall/archive")) {
        c->phase = STALLED;
        rewatch(c);
    } else if (get && strstr(path, "/archive")) {
        uint64_t length = number_in(path, "/bulk-");
        send_text(c, "HTTP/1.1 200 OK\r\n%sContent-Type: application/x-tar\r\nContent-Length: %lu\r\n\r\n", usual(), length);
        generate(c, length, false, false);
    } else if (get && !strncmp(path, "/images/get", 11)) {
        send_text(c, "HTTP/1.1 200 OK\r\n%sContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n", usual());
        generate(c, number_in(path, "names=bulk-"), true, false);
    } else if (strstr(path, "/archive") || !strncmp(path, "/images/load", 12)) {
        c->bulk = true;
        begin_body(c, head);
    } else if (get && !strncmp(path, "/containers/", 12) && strstr(path, "/json")) {
        char body[512];
        snprintf(body, sizeof body,
                 "{\"Id\":\"%.64s\",\"Created\":\"2026-01-01T00:00:00.000000000Z\",\"Path\":\"make\",\"Args\":[\"-j4\",\"check\"],"
                 "\"State\":{\"Status\":\"created\",\"Running\":false,\"Pid\":0,\"ExitCode\":0},\"Image\":\"sha256:%064x\","
                 "\"Name\":\"/busy_engine\",\"RestartCount\":0,\"Driver\":\"overlay2\",\"Mounts\":[],\"Config\":{\"Labels\":{}}}\n",
                 path + 12, 1);
        answer(c, "200 OK", "application/json", body);
    } else if (!strncmp(path, "/events", 7)) {
        send_text(c, "HTTP/1.1 200 OK\r\n%sContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", usual());
        tell_event(c, 0);
        c->next_listener = listeners, listeners = c;
    } else if (!strncmp(path, "/info", 5)) {
        char body[256];
        sprintf(body, "{\"ID\":\"fake\",\"Name\":\"fake\",\"Swarm\":{\"LocalNodeState\":\"inactive\"},\"SentInBulk\":%lu}\n", sent_in_bulk);
        answer(c, "200 OK", "application/json", body);
    } else if (!strncmp(path, "/version", 8)) {
        answer(c, "200 OK", "application/json", "{\"Version\":\"24.0.7\",\"ApiVersion\":\"1.43\",\"MinAPIVersion\":\"1.12\"}\n");
    } else if (!strncmp(path, "/volumes", 8)) {
        answer(c, "200 OK", "application/json", "{\"Volumes\":[],\"Warnings\":null}\n");
    } else if (get && (!strncmp(path, "/networks", 9) || !strncmp(path, "/images/json", 12))) {
        answer(c, "200 OK", "application/json", "[]\n");
    } else {
        answer(c, "404 Not Found", "application/json", "{\"message\":\"page not found\"}\n");
    }
}

/* Takes a whole head if there is one; returns how many of the bytes are used up. */
static size_t take_head(struct connection *c, char *data, size_t length) {
    if (c->inbox_length || !memmem(data, length, "\r\n\r\n", 4)) {
        c->inbox = realloc(c->inbox, c->inbox_length + length + 1);
        memcpy(c->inbox + c->inbox_length, data, length);
        size_t before = c->inbox_length;
        c->inbox_length += length;
        c->inbox[c->inbox_length] = 0;
        char *end = memmem(c->inbox, c->inbox_length, "\r\n\r\n", 4);
        if (!end) return length;
        size_t used = (size_t)(end + 4 - c->inbox) - before;
        char *head = c->inbox;
        head[before + used] = 0;
        c->inbox = NULL, c->inbox_length = 0;
        take_request(c, head);
        free(head);
        return used;
    }
    size_t used = (size_t)((char *)memmem(data, length, "\r\n\r\n", 4) + 4 - data);
    char kept = data[used]; /* there is always room for one more */
    data[used] = 0;
    take_request(c, data);
    data[used] = kept;
    return used;
}

static void take(struct connection *c, char *data, size_t length) {
    while (length && c->phase != GONE) {
        size_t used = length;
        switch (c->phase) {
        case HEAD_PHASE:
            used = take_head(c, data, length);
            break;
        case BODY_LENGTH:
            used = least(length, c->left);
            take_upload(c, data, used);
            if (!(c->left -= used)) body_done(c);
            break;
        case BODY_CHUNKED:
            used = read_chunked(&c->body, data, length, take_upload, c);
            if (c->body.state == DONE) body_done(c);
            if (c->body.state == BROKEN) leave(c);
            break;
        case ECHO:
            send_some(c, data, length);
            break;
        case SINK:
            if (!is_pattern(c->position, data, length)) c->bad = true;
            c->position += length;
            break;
        default:
            break;
        }
        data += used, length -= used;
    }
}

static void read_from(struct connection *c) {
    ssize_t length = recv(c->descriptor, scratch, sizeof scratch - 1, 0);
    if (length > 0) {
        take(c, scratch, (size_t)length);
    } else if (length == 0 && c->phase == SINK && !c->generating) {
        send_text(c, "%lu %s\n", c->position, c->bad ? "bad" : "good");
        leave(c);
    } else if (length == 0 || errno != EAGAIN) {
        leave(c);
    }
}

int main(int count, char **arguments) {
    if (count < 2) die("usage: engine SOCKET [SEND_BUFFER]");
    prepare();
    struct sockaddr_un address = unix_address(arguments[1]);
    int buffer = count > 2 ? atoi(arguments[2]) : 0;
    unlink(arguments[1]);
    int door = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(door, (struct sockaddr *)&address, sizeof address) || listen(door, 4096)) die("cannot listen on %s", arguments[1]);
    poll_set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll_set, EPOLL_CTL_ADD, door, &event);
    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(poll_set, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                int descriptor;
                while ((descriptor = accept4(door, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                    if (buffer) setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
                    c = calloc(1, sizeof *c);
                    c->descriptor = descriptor, c->watched = EPOLLIN;
                    struct epoll_event added = {.events = EPOLLIN, .data.ptr = c};
                    epoll_ctl(poll_set, EPOLL_CTL_ADD, descriptor, &added);
                }
                continue;
            }
            if (c->phase != GONE && events[i].events & EPOLLOUT) flush(c);
            if (c->phase != GONE && events[i].events & EPOLLIN) read_from(c);
            if (c->phase != GONE && events[i].events & (EPOLLHUP | EPOLLERR) && !(events[i].events & EPOLLIN)) leave(c);
        }
        /* Not before all of this turn's events are done: one of them may name a connection that another ended. */
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c && c->phase == GONE) {
                for (int k = i + 1; k < ready; k++)
                    if (events[k].data.ptr == c) events[k].data.ptr = NULL;
                free(c);
            }
        }
    }
}
