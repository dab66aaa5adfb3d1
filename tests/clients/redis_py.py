"""redis-py as an application uses it, with its default settings. Arguments: host:port of the node to use, and of another one."""

import sys
import threading
import time

import redis

(host, port), (other_host, other_port) = (address.rsplit(":", 1) for address in sys.argv[1:3])
DEADLINE_S = 10


def expect(what, found, wanted):
    if found != wanted:
        raise SystemExit(f"{what}: expected {wanted!r}, found {found!r}")


def until(what, probe):
    """What one node has taken, another shows a moment later."""
    end = time.monotonic() + DEADLINE_S
    while not probe():
        if time.monotonic() > end:
            raise SystemExit(f"waited {DEADLINE_S} s for: {what}")
        time.sleep(0.02)


def strings(r, b):
    """`b` makes of a text what this client gives back for it."""
    expect("ping", r.ping(), True)
    expect("set", r.set("py:a", "1"), True)
    expect("get", r.get("py:a"), b("1"))
    expect("get of nothing", r.get("py:nothing"), None)
    expect("set nx", r.set("py:a", "2", nx=True), None)
    expect("set xx get", r.set("py:a", "2", xx=True, get=True), b("1"))
    expect("incr", r.incr("py:a"), 3)
    expect("decrby", r.decrby("py:a", 13), -10)
    expect("incrbyfloat", r.incrbyfloat("py:a", 0.5), -9.5)
    expect("append", r.append("py:text", "hello"), 5)
    expect("getrange", r.getrange("py:text", 1, -2), b("ell"))
    expect("mset", r.mset({"py:b": "x", "py:c": "y"}), True)
    expect("mget", r.mget("py:b", "py:nothing", "py:c"), [b("x"), None, b("y")])
    expect("exists", r.exists("py:b", "py:c", "py:nothing"), 2)
    expect("type", r.type("py:b"), b("string"))
    expect("delete", r.delete("py:b", "py:c", "py:nothing"), 2)
    expect("getdel", r.getdel("py:text"), b("hello"))


def expiry(r):
    expect("set ex", r.set("py:short", "1", ex=1000), True)
    assert 990 <= r.ttl("py:short") <= 1000, r.ttl("py:short")
    expect("expire", r.expire("py:short", 2000, gt=True), True)
    assert 1_990_000 <= r.pttl("py:short") <= 2_000_000, r.pttl("py:short")
    expect("persist", r.persist("py:short"), True)
    expect("ttl of what stays", r.ttl("py:short"), -1)
    expect("pexpire", r.pexpire("py:short", 100), True)
    until("the key expires", lambda: r.get("py:short") is None)
    expect("ttl of nothing", r.ttl("py:short"), -2)


def pipelines(r):
    for transaction in (True, False):
        pipe = r.pipeline(transaction=transaction)
        pipe.set("py:p", 1).incr("py:p").get("py:p").expire("py:p", 100).ttl("py:p").delete("py:p")
        found = pipe.execute()
        # As text or as bytes.
        found[2] = int(found[2])
        expect(f"pipeline, transaction={transaction}", found, [True, 2, 2, True, 100, 1])
    with r.pipeline() as pipe:
        for number in range(2000):
            pipe.set(f"py:many:{number}", number)
        expect("2000 writes in a transaction", pipe.execute(), [True] * 2000)
    # An error stands where it belongs.
    r.set("py:word", "word")
    results = r.pipeline().incr("py:word").set("py:p", 1).execute(raise_on_error=False)
    assert isinstance(results[0], redis.ResponseError) and results[1] is True, results
    try:
        r.incr("py:word")
        raise SystemExit("INCR of a word went through")
    except redis.ResponseError as error:
        expect("its error", str(error), "value is not an integer or out of range")


def optimistic(r):
    """WATCH: of those that count at once, none loses a step."""
    r.set("py:watched", 0)
    clients, steps = 4, 25

    def count():
        for _ in range(steps):
            with r.pipeline() as pipe:
                while True:
                    try:
                        pipe.watch("py:watched")
                        value = int(pipe.get("py:watched"))
                        pipe.multi()
                        pipe.set("py:watched", value + 1)
                        pipe.execute()
                        break
                    except redis.WatchError:
                        continue

    run_together(clients, count)
    expect("watched counter", int(r.get("py:watched")), clients * steps)
    expect("transaction()", r.transaction(lambda pipe: (pipe.multi(), pipe.incr("py:watched")), "py:watched"), [clients * steps + 1])


def run_together(count, job):
    failures = []

    def guarded():
        try:
            job()
        except BaseException as error:  # Shown where the script can fail on it.
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def pool():
    r = redis.Redis(connection_pool=redis.ConnectionPool(host=host, port=int(port), max_connections=16))
    r.delete("py:pooled")
    run_together(8, lambda: [r.incr("py:pooled") for _ in range(50)])
    expect("counter of a pool", int(r.get("py:pooled")), 400)
    r.close()


def connection(r):
    expect("client_setname", r.client_setname("py-test"), True)
    assert r.client_getname() in ("py-test", b"py-test"), r.client_getname()
    assert r.client_id() > 0
    info = r.info()
    expect("info", (info["loading"], info["role"], info["redis_mode"]), (0, "master", "standalone"))
    assert info["connected_clients"] >= 1 and info["used_memory"] > 0 and info["db0"]["keys"] > 0, info
    expect("info of one section", "redis_version" in r.info("server"), True)
    assert any(client["name"] == "py-test" for client in r.client_list()), r.client_list()
    assert r.dbsize() > 2000, r.dbsize()
    assert r.command_count() > 50
    assert r.config_get("maxmemory")
    assert abs(r.time()[0] - time.time()) < 5
    expect("echo", r.echo("hello") in ("hello", b"hello"), True)


def scans(r, b):
    found = set(r.scan_iter("py:many:*", count=100))
    expect("scan_iter", found, {b(f"py:many:{number}") for number in range(2000)})
    expect("keys", len(r.keys("py:many:1???")), 1000)


def binary(r):
    every_byte = bytes(range(256))
    r.set(every_byte, every_byte * 4000)
    expect("binary", r.get(every_byte), every_byte * 4000)
    expect("unlink", r.unlink(every_byte), 1)


def across():
    one = redis.Redis(host=host, port=int(port))
    other = redis.Redis(host=other_host, port=int(other_port))
    one.set("py:across", "from one", ex=1000)
    until("the other node shows it", lambda: other.get("py:across") == b"from one")
    assert 900 <= other.ttl("py:across") <= 1000, other.ttl("py:across")
    other.delete("py:across")
    until("this node shows that it is deleted", lambda: one.get("py:across") is None)


def main():
    for options in ({}, {"decode_responses": True}, {"protocol": 2}, {"protocol": 3}, {"protocol": 3, "decode_responses": True}):
        b = (lambda text: text) if options.get("decode_responses") else str.encode
        r = redis.Redis(host=host, port=int(port), **options)
        r.delete("py:a", "py:text", "py:watched")
        strings(r, b)
        expiry(r)
        pipelines(r)
        optimistic(r)
        scans(r, b)
        connection(r)
        r.close()
    r = redis.from_url(f"redis://{host}:{port}/0")
    binary(r)
    r.close()
    pool()
    across()
    print(f"ok: redis-py {redis.__version__}: strings, expiry, pipelines, WATCH, scans, a pool, in both versions of RESP")


main()
