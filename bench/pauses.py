"""Watches what one client of a Redis port waits for at the longest, and loads such a port.

watch ADDR KEYS SECONDS [get] [whole]   one request a millisecond, GET and SET in turn, or GET alone,
                                        of keys below KEYS; with `whole`, from when the server
                                        holds KEYS keys. Ends after SECONDS, or at SIGTERM, and
                                        prints a line of JSON
load ADDR KEYS                          writes keys 0 to KEYS-1, pipelined
await ADDR KEYS SINCE                   waits until the server holds KEYS keys, and prints the
                                        seconds since SINCE, in seconds since 1970

Keys are those of bench/generators.sh, of 16 bytes, with values of 64.
"""

import gc
import json
import random
import signal
import socket
import sys
import time

VALUE = b"v" * 64
# Commands of one round of the load, of which two are under way.
ROUND = 512
RETRY_S = 0.002
# Pauses beyond this are told one by one.
TOLD_MS = 10
TOLD_MAX = 20


def key(number):
    return b"key:%012d" % number


def set_request(number):
    return b"*3\r\n$3\r\nSET\r\n$16\r\n%b\r\n$64\r\n%b\r\n" % (key(number), VALUE)


def get_request(number):
    return b"*2\r\n$3\r\nGET\r\n$16\r\n%b\r\n" % key(number)


def connect(addr):
    host, port = addr.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_reply(connection):
    """Reads the reply to one GET, SET or DBSIZE. Returns its bytes."""
    reply = b""
    while True:
        more = connection.recv(4096)
        if not more:
            raise ConnectionError("the server has closed the connection")
        reply += more
        head, end, rest = reply.partition(b"\r\n")
        if not end:
            continue
        if not head.startswith(b"$") or head == b"$-1" or len(rest) == int(head[1:]) + 2:
            return reply


def await_keys(addr, keys):
    """Returns a connection to a server that holds so many keys, once it does."""
    while True:
        try:
            connection = connect(addr)
            while True:
                connection.sendall(b"*1\r\n$6\r\nDBSIZE\r\n")
                if read_reply(connection) == b":%d\r\n" % keys:
                    return connection
                time.sleep(RETRY_S)
        except OSError:
            time.sleep(RETRY_S)


class Stopped(Exception):
    pass


def stop(*_):
    raise Stopped


def watch(addr, keys, seconds, *words):
    gc.disable()
    took, pauses, errors = [], [], 0
    signal.signal(signal.SIGTERM, stop)
    try:
        connection = await_keys(addr, keys) if "whole" in words else connect(addr)
        until = time.monotonic() + float(seconds)
        draw = random.Random(addr)
        requests = [get_request] if "get" in words else [get_request, set_request]
        while time.monotonic() < until:
            request = requests[len(took) % len(requests)](draw.randrange(keys))
            began = time.perf_counter_ns()
            connection.sendall(request)
            reply = read_reply(connection)
            ms = (time.perf_counter_ns() - began) / 1e6
            took.append(ms)
            errors += reply.startswith(b"-")
            if ms > TOLD_MS and len(pauses) < TOLD_MAX:
                pauses.append([round(time.time() - ms / 1e3, 3), round(ms, 1)])
            time.sleep(0.001)
    except Stopped:
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    took.sort()
    at = lambda part: round(took[min(int(len(took) * part), len(took) - 1)], 2) if took else None
    print(json.dumps({"requests": len(took), "errors": errors, "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "longest_ms": at(1), "pauses": pauses}))


def load(addr, keys):
    connection = connect(addr)
    under_way = 0

    def answered(most):
        nonlocal under_way
        while under_way > most:
            replies = connection.recv(1 << 16)
            if not replies or b"-" in replies:
                raise ConnectionError(f"expected OK, found {replies[:200]!r}")
            under_way -= replies.count(b"\n")

    for first in range(0, keys, ROUND):
        numbers = range(first, min(first + ROUND, keys))
        connection.sendall(b"".join(map(set_request, numbers)))
        under_way += len(numbers)
        answered(ROUND)
    answered(0)


def main():
    command, addr, keys, *words = sys.argv[1:]
    if command == "watch":
        watch(addr, int(keys), *words)
    elif command == "load":
        load(addr, int(keys))
    elif command == "await":
        await_keys(addr, int(keys))
        print(round(time.time() - float(words[0]), 3))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
