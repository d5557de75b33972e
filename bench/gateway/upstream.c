/* The engine of the gateway race: one thread, epoll, HTTP/1.1 keep-alive, answers that cost next to nothing.
 *
 * A request whose body has "stream":true gets 128 events of 182 bytes and [DONE], one chunk and one send each, with
 * DELAY_US microseconds between; any other gets 603 bytes of JSON. usage: upstream PORT DELAY_US
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

#define MAX_FD 4096
#define CHUNKS 128

struct conn {
    char *buf;
    size_t have, cap;
    int left;          /* chunks still to send; 0 when not streaming */
    int place;         /* index in the list of streaming connections */
    uint64_t due_us;
};

static struct conn conns[MAX_FD];
static int streaming[MAX_FD], num_streaming;
static long delay_us;
static char json[1024], event[256];
static size_t json_len, event_len;
static const char stream_head[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
static const char stream_end[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void close_conn(int fd) {
    if (conns[fd].left) {
        int last = streaming[--num_streaming];
        streaming[conns[fd].place] = last;
        conns[last].place = conns[fd].place;
    }
    free(conns[fd].buf);
    memset(&conns[fd], 0, sizeof conns[fd]);
    close(fd);
}

static int send_all(int fd, const char *data, size_t len) {
    while (len) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) { usleep(100); continue; }
        if (n <= 0) return -1;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

static int step(int fd) { /* the next chunk, or the end */
    struct conn *c = &conns[fd];
    if (--c->left == 0) {
        int last = streaming[--num_streaming];
        streaming[c->place] = last;
        conns[last].place = c->place;
        return send_all(fd, stream_end, sizeof stream_end - 1);
    }
    return send_all(fd, event, event_len);
}

static int serve_request(int fd, const char *body) {
    struct conn *c = &conns[fd];
    if (!strstr(body, "\"stream\":true")) return send_all(fd, json, json_len);
    if (send_all(fd, stream_head, sizeof stream_head - 1)) return -1;
    c->left = CHUNKS + 1;
    c->place = num_streaming;
    streaming[num_streaming++] = fd;
    if (delay_us == 0) {
        while (c->left) if (step(fd)) return -1;
    } else if (step(fd)) return -1;
    c->due_us = now_us() + (uint64_t)delay_us;
    return 0;
}

static int readable(int fd) {
    struct conn *c = &conns[fd];
    if (c->cap - c->have < 65536) c->buf = realloc(c->buf, c->cap = c->have + 131072);
    ssize_t n = recv(fd, c->buf + c->have, c->cap - c->have - 1, 0);
    if (n < 0 && errno == EAGAIN) return 0;
    if (n <= 0) return -1;
    c->have += (size_t)n;
    c->buf[c->have] = 0;
    while (c->have && !c->left) {
        char *end = strstr(c->buf, "\r\n\r\n");
        if (!end) return 0;
        char *len_at = strcasestr(c->buf, "content-length:");
        size_t body_len = len_at && len_at < end ? strtoul(len_at + 15, NULL, 10) : 0;
        size_t total = (size_t)(end + 4 - c->buf) + body_len;
        if (c->have < total) return 0;
        char saved = c->buf[total];
        c->buf[total] = 0;
        if (serve_request(fd, end + 4)) return -1;
        c->buf[total] = saved;
        memmove(c->buf, c->buf + total, c->have - total + 1);
        c->have -= total;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    delay_us = atol(argv[2]);
    char body[640], text[160];
    memset(body, 'x', sizeof body);
    int n = snprintf(body, sizeof body,
        "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,"
        "\"message\":{\"role\":\"assistant\",\"content\":\"%0*d\"},\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":60,\"completion_tokens\":80,\"total_tokens\":140}}", 371, 0);
    json_len = (size_t)snprintf(json, sizeof json,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", n, body);
    memset(text, 'y', sizeof text);
    char data[200];
    int d = snprintf(data, sizeof data,
        "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{"
        "\"index\":0,\"delta\":{\"content\":\" tok%0*d\"},\"finish_reason\":null}]}\n\n", 26, 0);
    event_len = (size_t)snprintf(event, sizeof event, "%x\r\n%s\r\n", d, data);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1024)) { perror("upstream"); return 1; }
    int poll = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &ev);
    for (;;) {
        struct timespec wait = {.tv_sec = 0, .tv_nsec = 100000};
        int count = epoll_pwait2(poll, events, 256, num_streaming ? &wait : NULL, NULL);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (peer < 0) continue;
                if (peer >= MAX_FD) { close(peer); continue; }
                setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                ev = (struct epoll_event){.events = EPOLLIN, .data.fd = peer};
                epoll_ctl(poll, EPOLL_CTL_ADD, peer, &ev);
            } else if (readable(fd)) close_conn(fd);
        }
        if (!num_streaming) continue;
        uint64_t now = now_us();
        for (int i = num_streaming - 1; i >= 0; i--) {
            int fd = streaming[i];
            if (conns[fd].due_us > now) continue;
            conns[fd].due_us += (uint64_t)delay_us;
            if (conns[fd].due_us < now) conns[fd].due_us = now + (uint64_t)delay_us;
            if (step(fd)) close_conn(fd);
        }
    }
}
