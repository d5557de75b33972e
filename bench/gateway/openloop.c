/* An open-loop client: requests leave on schedule, whether or not earlier ones were answered; a late one is late from
 * its schedule on, so a stall of the server counts against every request that it delayed.
 *
 * usage: openloop PORT RATE SECONDS CONNECTIONS KEY BODY_FILE
 * Prints one line a request: microseconds from its scheduled time to the first byte of its answer's body, and to its
 * last byte; "- -" for one that failed. An answer has a Content-Length, or is chunked and ends in 0 CRLF CRLF.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct conn {
    int fd, busy, chunked, in_body;
    long request;
    size_t have, need;
    char buf[1 << 16], tail[8];
};

static uint64_t *due_ns, *first_us, *last_us;
static struct conn *conns;
static long num_idle, *idle_list;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int connect_to(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (struct sockaddr *)&at, sizeof at)) { perror("openloop"); exit(1); }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void done(long index) {
    struct conn *c = &conns[index];
    last_us[c->request] = (now_ns() - due_ns[c->request]) / 1000;
    c->busy = 0;
    idle_list[num_idle++] = index;
}

static int readable(long index) { /* -1: the connection failed */
    struct conn *c = &conns[index];
    ssize_t n = recv(c->fd, c->buf + c->have, sizeof c->buf - c->have - 1, 0);
    if (n <= 0) return -1;
    char *data = c->buf + c->have;
    size_t len = (size_t)n;
    if (!c->in_body) {
        c->have += len;
        c->buf[c->have] = 0;
        char *end = strstr(c->buf, "\r\n\r\n");
        if (!end) return 0;
        if (strncmp(c->buf, "HTTP/1.1 200", 12)) { fprintf(stderr, "%.200s\n", c->buf); return -1; }
        char *length = strcasestr(c->buf, "\r\ncontent-length:");
        c->chunked = !(length && length < end);
        c->need = c->chunked ? 0 : strtoul(length + 17, NULL, 10);
        c->in_body = 1;
        data = end + 4;
        len = c->have - (size_t)(data - c->buf);
        if (!len && (c->chunked || c->need)) { c->have = 0; return 0; }
    }
    c->have = 0;
    if (first_us[c->request] == UINT64_MAX) first_us[c->request] = (now_ns() - due_ns[c->request]) / 1000;
    if (c->chunked) {
        char joined[16];
        size_t take = len < 7 ? len : 7, old = 7 - take;
        memcpy(joined, c->tail + 7 - old, old);
        memcpy(joined + old, data + len - take, take);
        memcpy(c->tail, joined, 7);
        if (!memcmp(c->tail, "\r\n0\r\n\r\n", 7)) { memset(c->tail, 0, 8); done(index); }
    } else {
        c->need = len >= c->need ? 0 : c->need - len;
        if (!c->need) done(index);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    int port = atoi(argv[1]);
    double rate = atof(argv[2]), seconds = atof(argv[3]);
    long num_conns = atol(argv[4]), total = (long)(rate * seconds);
    static char body[1 << 20], request[(1 << 20) + 1024];
    FILE *file = fopen(argv[6], "r");
    size_t body_len = fread(body, 1, sizeof body - 1, file);
    size_t request_len = (size_t)snprintf(request, sizeof request,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "Authorization: Bearer %s\r\nContent-Length: %zu\r\n\r\n%s", argv[5], body_len, body);
    due_ns = calloc((size_t)total, 8);
    first_us = malloc((size_t)total * 8);
    last_us = malloc((size_t)total * 8);
    memset(first_us, 0xff, (size_t)total * 8);
    memset(last_us, 0xff, (size_t)total * 8);
    conns = calloc((size_t)num_conns, sizeof *conns);
    idle_list = calloc((size_t)num_conns, sizeof *idle_list);
    int poll = epoll_create1(0);
    for (long i = 0; i < num_conns; i++) {
        conns[i].fd = connect_to(port);
        struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)i};
        epoll_ctl(poll, EPOLL_CTL_ADD, conns[i].fd, &ev);
        idle_list[num_idle++] = i;
    }
    uint64_t start = now_ns() + 10000000, end = start + (uint64_t)((seconds + 10) * 1e9);
    for (long i = 0; i < total; i++) due_ns[i] = start + (uint64_t)(i * 1e9 / rate);
    long sent = 0;
    struct epoll_event events[256];
    while (now_ns() < end && (sent < total || num_idle < num_conns)) {
        uint64_t now = now_ns();
        while (sent < total && num_idle && due_ns[sent] <= now) {
            long index = idle_list[--num_idle];
            struct conn *c = &conns[index];
            c->busy = 1, c->in_body = 0, c->have = 0, c->request = sent++;
            if (send(c->fd, request, request_len, MSG_NOSIGNAL) != (ssize_t)request_len) return 1;
        }
        uint64_t wait_ns = 1000000;
        if (sent < total && num_idle) wait_ns = due_ns[sent] > now ? due_ns[sent] - now : 0;
        struct timespec wait = {.tv_sec = 0, .tv_nsec = (long)(wait_ns < 1000000 ? wait_ns : 1000000)};
        int count = epoll_pwait2(poll, events, 256, &wait, NULL);
        for (int i = 0; i < count; i++) {
            long index = (long)events[i].data.u64;
            if (readable(index) == 0) continue;
            close(conns[index].fd);
            conns[index].fd = connect_to(port);
            struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)index};
            epoll_ctl(poll, EPOLL_CTL_ADD, conns[index].fd, &ev);
            if (conns[index].busy) { conns[index].busy = 0; idle_list[num_idle++] = index; }
        }
    }
    for (long i = 0; i < total; i++) {
        if (last_us[i] == UINT64_MAX) puts("- -");
        else printf("%llu %llu\n", (unsigned long long)first_us[i], (unsigned long long)last_us[i]);
    }
    return 0;
}
