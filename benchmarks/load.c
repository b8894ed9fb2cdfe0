/* A load generator that speaks to a Docker engine, checks every answer, and prints what it measured as JSON.

       load SOCKET requests   kind=ping|list|create connections=N seconds=S|count=N [pause=US]   keep-alive
       load SOCKET connects   (the same)                                                        one request a connection
       load SOCKET bulk       kind=download-length|download-chunked|upload-length|upload-chunked|attach-source|attach-sink
                              bytes=N connections=N [seconds=S]       with seconds: again and again, until then
       load SOCKET echo       count=N size=N          round trips on one hijacked stream
       load SOCKET first-byte count=N                 from connecting to the first event
       load SOCKET idle       connections=N           hijacked streams; "ready", then waits for the end of its input
       load SOCKET stalled    kind=(a bulk one) connections=N          the same, with nobody reading

   An answer that is not what the engine gives is the end: status 1 and a sentence. */
#include "common.h"

static const char CREATE_BODY[] =
    "{\"Hostname\":\"\",\"Domainname\":\"\",\"User\":\"\",\"AttachStdin\":false,\"AttachStdout\":true,\"AttachStderr\":true,"
    "\"Tty\":false,\"OpenStdin\":false,\"StdinOnce\":false,\"Env\":[\"CI=true\",\"GOFLAGS=-mod=vendor\",\"LANG=C.UTF-8\","
    "\"PIPELINE=https://ci.example.org/team/service/pipelines/481516\"],\"Cmd\":[\"make\",\"-j4\",\"check\"],"
    "\"Image\":\"registry.example.org/team/builder:2024.2\",\"Volumes\":{\"/cache\":{}},\"WorkingDir\":\"/src\","
    "\"Entrypoint\":null,\"OnBuild\":null,\"Labels\":{\"com.example.team\":\"service\",\"com.example.stage\":\"check\"},"
    "\"HostConfig\":{\"Binds\":[\"/srv/ci/work:/src\"],\"ContainerIDFile\":\"\",\"LogConfig\":{\"Type\":\"\",\"Config\":{}},"
    "\"NetworkMode\":\"default\",\"PortBindings\":{},\"RestartPolicy\":{\"Name\":\"no\",\"MaximumRetryCount\":0},"
    "\"AutoRemove\":false,\"VolumeDriver\":\"\",\"VolumesFrom\":null,\"ConsoleSize\":[48,190],\"CapAdd\":null,"
    "\"CapDrop\":null,\"CgroupnsMode\":\"\",\"Dns\":[],\"DnsOptions\":[],\"DnsSearch\":[],\"ExtraHosts\":null,"
    "\"GroupAdd\":null,\"IpcMode\":\"\",\"Cgroup\":\"\",\"Links\":null,\"OomScoreAdj\":0,\"PidMode\":\"\","
    "\"Privileged\":false,\"PublishAllPorts\":false,\"ReadonlyRootfs\":false,\"SecurityOpt\":null,\"UTSMode\":\"\","
    "\"UsernsMode\":\"\",\"ShmSize\":0,\"Isolation\":\"\",\"CpuShares\":0,\"Memory\":0,\"NanoCpus\":0,\"BlkioWeight\":0,"
    "\"CpuPeriod\":0,\"CpuQuota\":0,\"CpuRealtimePeriod\":0,\"CpuRealtimeRuntime\":0,\"CpusetCpus\":\"\",\"CpusetMems\":\"\","
    "\"Devices\":[],\"MemoryReservation\":0,\"MemorySwap\":0,\"MemorySwappiness\":-1,\"PidsLimit\":0,\"Ulimits\":null},"
    "\"NetworkingConfig\":{\"EndpointsConfig\":{}}}\n";

#define USUAL "Host: api.moby.localhost\r\nUser-Agent: Docker-Client/24.0.7 (linux)\r\n"

struct connection {
    int descriptor;
    uint32_t watched;
    uint64_t began;
    enum { ANSWER_HEAD, BY_LENGTH, BY_CHUNKS, RAW } reading;
    char head[4096];
    size_t head_length;
    uint64_t left, position;
    struct chunked body;
    /* what is sent: first `request`, then the sequence */
    const char *request;
    size_t request_left;
    uint64_t made, to_make;
    bool by_chunks, ended;
    char *stage;
    size_t stage_length, stage_sent;
    char report[64];
};

static struct options {
    const char *socket, *mode, *kind;
    long connections, count, pause, size;
    uint64_t bytes;
    double seconds;
} options = {.kind = "ping", .connections = 1, .size = 64};

static char request[8192]; /* the head and, of create, the body */
static size_t request_length;
static const char *wanted; /* the beginning of the body, or all of it */
static size_t wanted_length;
static bool wanted_whole, downloads, uploads, attaches;
static int wanted_status;

static int poll_set;
static char scratch[1 << 20];
static uint32_t *latencies;
static size_t latency_count, latency_room;
static uint64_t done, moved;

static void note_latency(uint64_t nanoseconds) {
    if (latency_count == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 65536;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
    }
    latencies[latency_count++] = nanoseconds > UINT32_MAX ? UINT32_MAX : (uint32_t)nanoseconds;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double part) {
    if (!latency_count) return 0;
    return latencies[(size_t)(part * (double)(latency_count - 1))] / 1000.0;
}

static void print_results(double seconds) {
    qsort(latencies, latency_count, sizeof *latencies, ascending);
    printf("{\"requests\": %lu, \"seconds\": %.6f, \"bytes\": %lu, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f}\n", done,
           seconds, moved, percentile(.5), percentile(.9), percentile(.99));
    fflush(stdout);
}

static bool is(const char *kind) { return !strcmp(options.kind, kind); }

static void prepare_request(void) {
    const char *name = options.kind;
    const char *upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    wanted_status = 200;
    downloads = !strncmp(name, "download", 8) || is("attach-source");
    uploads = !strncmp(name, "upload", 6) || is("attach-sink");
    attaches = !strncmp(name, "attach", 6);
    if (is("ping")) {
        strcpy(request, "GET /_ping HTTP/1.1\r\n" USUAL "\r\n");
        wanted = "OK", wanted_whole = true;
    } else if (is("list")) {
        strcpy(request, "GET /v1.43/containers/json?all=1 HTTP/1.1\r\n" USUAL "\r\n");
        wanted = list_body, wanted_whole = true;
    } else if (is("create")) {
        sprintf(request, "POST /v1.43/containers/create HTTP/1.1\r\n" USUAL
                "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", sizeof CREATE_BODY - 1, CREATE_BODY);
        wanted = "{\"Id\":\"0", wanted_status = 201;
    } else if (is("download-length")) {
        sprintf(request, "GET /v1.43/containers/bulk-%lu/archive?path=/ HTTP/1.1\r\n" USUAL "\r\n", options.bytes);
    } else if (is("download-chunked")) {
        sprintf(request, "GET /v1.43/images/get?names=bulk-%lu HTTP/1.1\r\n" USUAL "\r\n", options.bytes);
    } else if (is("upload-length")) {
        sprintf(request, "PUT /v1.43/containers/%s/archive?path=/ HTTP/1.1\r\n" USUAL
                "Content-Type: application/x-tar\r\nContent-Length: %lu\r\n\r\n",
                !strcmp(options.mode, "stalled") ? "stall" : "bulk", options.bytes);
        wanted = "{\"bytes\":";
    } else if (is("upload-chunked")) {
        strcpy(request, "POST /v1.43/images/load HTTP/1.1\r\n" USUAL
               "Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n");
        wanted = "{\"bytes\":";
    } else if (is("attach-source") || is("attach-sink") || is("attach-echo")) {
        char container[64];
        if (is("attach-source")) sprintf(container, "source-%lu", options.bytes);
        else strcpy(container, name + strlen("attach-"));
        sprintf(request, "POST /v1.43/containers/%s/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n" USUAL
                "Content-Length: 0\r\n%s\r\n", container, upgrade);
        wanted_status = 101;
    } else if (is("events")) {
        strcpy(request, "GET /v1.43/events HTTP/1.1\r\n" USUAL "\r\n");
        wanted = "{\"status\":\"create\"";
    } else {
        die("no such kind: %s", name);
    }
    request_length = strlen(request);
    wanted_length = wanted ? strlen(wanted) : 0;
}

static void watch(struct connection *c, uint32_t events) {
    if (c->watched == events) return;
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poll_set, EPOLL_CTL_MOD, c->descriptor, &event);
    c->watched = events;
}

static void connect_to(struct connection *c) {
    struct sockaddr_un address = unix_address(options.socket);
    c->descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->descriptor < 0 || connect(c->descriptor, (struct sockaddr *)&address, sizeof address))
        die("cannot connect to %s: %s", options.socket, strerror(errno));
    fcntl(c->descriptor, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_set, EPOLL_CTL_ADD, c->descriptor, &event);
    c->watched = EPOLLIN;
}

/* Sends as much as goes; the sequence comes behind the request, on attached streams when they are open. */
static void send_on(struct connection *c) {
    for (int turns = 0; turns < 8; turns++) {
        const char *data;
        size_t length;
        bool in_request = c->request_left > 0;
        bool raw = attaches && c->reading != RAW;
        if (c->request_left) {
            data = c->request, length = c->request_left;
        } else if (c->made == c->to_make || raw) {
            if (c->stage_sent < c->stage_length) goto staged;
            break;
        } else if (c->by_chunks) {
        staged:
            if (c->stage_sent == c->stage_length) {
                uint64_t taken;
                if (!c->stage) c->stage = malloc(STAGE);
                c->stage_length = make_chunks(c->stage, c->made, c->to_make - c->made, &taken);
                c->stage_sent = 0;
                c->made += taken;
            }
            data = c->stage + c->stage_sent, length = c->stage_length - c->stage_sent;
        } else {
            data = (const char *)pattern + c->made % PERIOD, length = least(WINDOW, c->to_make - c->made);
        }
        ssize_t sent = send(c->descriptor, data, length, 0);
        if (sent < 0) {
            if (errno != EAGAIN) die("%s %s: cannot send: %s", options.mode, options.kind, strerror(errno));
            watch(c, EPOLLIN | EPOLLOUT);
            return;
        }
        if (in_request) c->request += sent, c->request_left -= (size_t)sent;
        else if (c->by_chunks) c->stage_sent += (size_t)sent;
        else c->made += (uint64_t)sent;
        if (uploads && !in_request) moved += (uint64_t)sent;
    }
    bool more = c->request_left || c->stage_sent < c->stage_length || (c->made < c->to_make && !(attaches && c->reading != RAW));
    if (!more && is("attach-sink") && c->reading == RAW && !c->ended) {
        c->ended = true;
        shutdown(c->descriptor, SHUT_WR);
    }
    watch(c, more ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void begin_request(struct connection *c) {
    c->began = now_ns();
    c->reading = ANSWER_HEAD;
    c->head_length = 0, c->position = 0, c->ended = false;
    c->request = request, c->request_left = request_length;
    c->made = 0, c->to_make = uploads ? options.bytes : 0;
    c->by_chunks = is("upload-chunked");
    c->stage_length = c->stage_sent = 0;
    send_on(c);
}

static bool take_payload(void *whose, const char *data, size_t length) {
    struct connection *c = whose;
    if (downloads) {
        if (!is_pattern(c->position, data, length)) die("%s: wrong bytes near %lu", options.kind, c->position);
        moved += length;
    } else {
        if (wanted_whole && c->position + length > wanted_length) die("%s: the body is too long", options.kind);
        if (c->position < wanted_length) {
            size_t step = least(length, wanted_length - c->position);
            if (memcmp(wanted + c->position, data, step)) die("%s: wrong body: %.*s", options.kind, (int)least(length, 200), data);
        }
        if (!wanted_whole && c->position < sizeof c->report)
            memcpy(c->report + c->position, data, least(length, sizeof c->report - c->position));
    }
    c->position += length;
    return true;
}

static void take_head(struct connection *c) {
    int status = atoi(c->head + 9);
    if (strncmp(c->head, "HTTP/1.1 ", 9) || status != wanted_status)
        die("%s: wrong answer: %.*s", options.kind, (int)strcspn(c->head, "\r"), c->head);
    const char *length = field(c->head, "Content-Length"), *coding = field(c->head, "Transfer-Encoding");
    if (status == 101) {
        c->reading = RAW;
    } else if (coding && !strncasecmp(coding, "chunked", 7)) {
        c->reading = BY_CHUNKS, c->body = (struct chunked){0};
    } else if (length) {
        c->reading = BY_LENGTH, c->left = strtoull(length, NULL, 10);
    } else {
        die("%s: the answer has no framing", options.kind);
    }
}

/* Whether the answer is whole now. */
static bool take(struct connection *c, const char *data, size_t length) {
    if (c->reading == ANSWER_HEAD) {
        size_t step = least(length, sizeof c->head - 1 - c->head_length), before = c->head_length;
        memcpy(c->head + before, data, step);
        c->head_length += step;
        c->head[c->head_length] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) {
            if (c->head_length == sizeof c->head - 1) die("%s: the head does not end", options.kind);
            return false;
        }
        size_t used = (size_t)(end + 4 - c->head) - before;
        end[4] = 0;
        take_head(c);
        data += used, length -= used;
        if (c->reading == RAW) send_on(c);
    }
    if (c->reading == BY_LENGTH) {
        if (length > c->left) die("%s: more than its length", options.kind);
        take_payload(c, data, length);
        c->left -= length;
        return !c->left;
    }
    if (c->reading == BY_CHUNKS) {
        size_t used = read_chunked(&c->body, data, length, take_payload, c);
        if (c->body.state == BROKEN || used < length) die("%s: the chunks are broken", options.kind);
        return c->body.state == DONE;
    }
    if (is("attach-sink")) {
        if (c->position + length > sizeof c->report - 1) die("%s: too long an answer", options.kind);
        memcpy(c->report + c->position, data, length);
        c->position += length;
    } else {
        take_payload(c, data, length);
    }
    return false;
}

static void check_answer(struct connection *c) {
    char expected[64];
    if (wanted_length && c->position < wanted_length) die("%s: the body is too short", options.kind);
    if (is("create") && c->position != 88) die("create: the body has %lu bytes", c->position);
    if (downloads && c->position != options.bytes) die("%s: %lu bytes instead of %lu", options.kind, c->position, options.bytes);
    if (is("attach-sink")) sprintf(expected, "%lu good\n", options.bytes);
    else if (uploads) sprintf(expected, "{\"bytes\":%lu,\"good\":true}\n", options.bytes);
    else return;
    if (c->position != strlen(expected) || memcmp(c->report, expected, c->position))
        die("%s: the engine got something else: %.*s", options.kind, (int)c->position, c->report);
}

static void run(bool keep_alive, bool bulk) {
    struct connection *all = calloc((size_t)options.connections, sizeof *all);
    struct epoll_event events[256];
    long begun = 0, open = 0;
    uint64_t start = now_ns();
    uint64_t deadline = options.seconds > 0 ? start + (uint64_t)(options.seconds * 1e9) : UINT64_MAX;
    if (bulk && options.seconds <= 0) options.count = options.connections;
    for (long i = 0; i < options.connections && (!options.count || begun < options.count); i++, begun++, open++) {
        connect_to(&all[i]);
        begin_request(&all[i]);
    }
    while (open) {
        int timeout = deadline == UINT64_MAX ? 60000 : 1000;
        int ready = epoll_wait(poll_set, events, 256, timeout);
        uint64_t now = now_ns();
        if (!ready && deadline == UINT64_MAX) die("%s %s: nothing came for a minute", options.mode, options.kind);
        if (now > deadline && (bulk || now > deadline + 60000000000ull)) {
            if (!bulk) die("%s %s: an answer is missing", options.mode, options.kind);
            break;
        }
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) send_on(c);
            if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
            ssize_t length = recv(c->descriptor, scratch, sizeof scratch, 0);
            if (length < 0 && errno == EAGAIN) continue;
            if (length < 0) die("%s %s: cannot read: %s", options.mode, options.kind, strerror(errno));
            if (length == 0 && c->reading != RAW) die("%s %s: closed in an answer", options.mode, options.kind);
            if (length && !take(c, scratch, (size_t)length)) continue;
            check_answer(c);
            now = now_ns();
            note_latency(now - c->began);
            done++;
            bool again = now < deadline && (!options.count || begun < options.count);
            if (!again || !keep_alive) close(c->descriptor), open--;
            if (!again) continue;
            begun++;
            if (options.pause) usleep((useconds_t)options.pause);
            if (keep_alive) {
                begin_request(c);
            } else {
                uint64_t began = now_ns();
                connect_to(c);
                begin_request(c);
                c->began = began, open++;
            }
        }
    }
    print_results((double)(now_ns() - start) / 1e9);
}

static void read_exactly(struct connection *c, size_t length) {
    for (size_t got = 0; got < length;) {
        ssize_t size = recv(c->descriptor, scratch + got, length - got, 0);
        if (size <= 0) die("%s: the stream ended", options.mode);
        got += (size_t)size;
    }
}

/* Opens a stream and leaves its descriptor blocking. */
static void open_stream(struct connection *c) {
    connect_to(c);
    epoll_ctl(poll_set, EPOLL_CTL_DEL, c->descriptor, NULL);
    fcntl(c->descriptor, F_SETFL, 0);
    if (send(c->descriptor, request, request_length, 0) != (ssize_t)request_length) die("cannot send");
    c->reading = ANSWER_HEAD, c->head_length = 0;
    while (c->head_length < sizeof c->head - 1) {
        if (recv(c->descriptor, c->head + c->head_length, 1, 0) != 1) die("%s: closed in the head", options.mode);
        c->head[++c->head_length] = 0;
        if (c->head_length >= 4 && !strcmp(c->head + c->head_length - 4, "\r\n\r\n")) break;
    }
    take_head(c);
}

static void echo_once(struct connection *c, uint64_t position) {
    size_t size = (size_t)options.size;
    const unsigned char *data = pattern + position % PERIOD;
    if (send(c->descriptor, data, size, 0) != (ssize_t)size) die("echo: cannot send");
    read_exactly(c, size);
    if (memcmp(scratch, data, size)) die("echo: other bytes came back");
}

static void echo(void) {
    struct connection c = {0};
    open_stream(&c);
    uint64_t start = now_ns();
    for (long i = 0; i < options.count; i++) {
        uint64_t began = now_ns();
        echo_once(&c, (uint64_t)i * 7919);
        note_latency(now_ns() - began);
        done++;
    }
    print_results((double)(now_ns() - start) / 1e9);
}

static void first_byte(void) {
    uint64_t start = now_ns();
    for (long i = 0; i < options.count; i++) {
        struct connection c = {0};
        uint64_t began = now_ns();
        connect_to(&c);
        epoll_ctl(poll_set, EPOLL_CTL_DEL, c.descriptor, NULL);
        fcntl(c.descriptor, F_SETFL, 0);
        if (send(c.descriptor, request, request_length, 0) != (ssize_t)request_length) die("cannot send");
        c.reading = ANSWER_HEAD;
        while (!c.position) {
            ssize_t length = recv(c.descriptor, scratch, sizeof scratch, 0);
            if (length <= 0) die("first-byte: the stream ended");
            take(&c, scratch, (size_t)length);
        }
        note_latency(now_ns() - began);
        close(c.descriptor);
        done++;
    }
    print_results((double)(now_ns() - start) / 1e9);
}

static void wait_for_end(void) {
    char c;
    printf("ready\n");
    fflush(stdout);
    while (read(0, &c, 1) > 0) {}
}

static void idle(void) {
    struct connection *c = calloc(1, sizeof *c);
    for (long i = 0; i < options.connections; i++) {
        open_stream(c);
        echo_once(c, (uint64_t)i);
    }
    wait_for_end();
}

static void stalled(void) {
    struct connection *all = calloc((size_t)options.connections, sizeof *all);
    struct epoll_event events[256];
    for (long i = 0; i < options.connections; i++) {
        connect_to(&all[i]);
        begin_request(&all[i]);
        if (downloads) epoll_ctl(poll_set, EPOLL_CTL_DEL, all[i].descriptor, NULL);
    }
    if (uploads) { /* until nothing went for half a second */
        int ready;
        while ((ready = epoll_wait(poll_set, events, 256, 500)) > 0)
            for (int i = 0; i < ready; i++) {
                if (events[i].events & ~(uint32_t)EPOLLOUT) die("stalled: the engine answered");
                send_on(events[i].data.ptr);
            }
    }
    print_results(0);
    wait_for_end();
}

int main(int count, char **arguments) {
    if (count < 3) die("usage: load SOCKET MODE [name=value...]");
    options.socket = arguments[1], options.mode = arguments[2];
    for (int i = 3; i < count; i++) {
        char *value = strchr(arguments[i], '=');
        if (!value) die("not name=value: %s", arguments[i]);
        *value++ = 0;
        if (!strcmp(arguments[i], "kind")) options.kind = value;
        else if (!strcmp(arguments[i], "connections")) options.connections = atol(value);
        else if (!strcmp(arguments[i], "count")) options.count = atol(value);
        else if (!strcmp(arguments[i], "pause")) options.pause = atol(value);
        else if (!strcmp(arguments[i], "size")) options.size = atol(value);
        else if (!strcmp(arguments[i], "bytes")) options.bytes = strtoull(value, NULL, 10);
        else if (!strcmp(arguments[i], "seconds")) options.seconds = atof(value);
        else die("no such option: %s", arguments[i]);
    }
    if (options.size > WINDOW) die("size is too large");
    const char *mode = options.mode;
    if (!strcmp(mode, "echo") || !strcmp(mode, "idle")) options.kind = "attach-echo";
    if (!strcmp(mode, "first-byte")) options.kind = "events";
    prepare();
    prepare_request();
    poll_set = epoll_create1(EPOLL_CLOEXEC);
    if (!strcmp(mode, "requests")) run(true, false);
    else if (!strcmp(mode, "connects")) run(false, false);
    else if (!strcmp(mode, "bulk")) run(false, true);
    else if (!strcmp(mode, "echo")) echo();
    else if (!strcmp(mode, "first-byte")) first_byte();
    else if (!strcmp(mode, "idle")) idle();
    else if (!strcmp(mode, "stalled")) stalled();
    else die("no such mode: %s", mode);
    return 0;
}
