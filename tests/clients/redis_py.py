"""What a user of redis-py does: strings, pipelines, WATCH transactions from threads, scans, BEGIN."""

import sys
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

port = int(sys.argv[1])

for protocol in (2, 3):
    r = redis.Redis(port=port, protocol=protocol, decode_responses=True)
    r.flushall()
    assert r.ping()
    assert r.set("name", "isolith") is True
    assert r.get("name") == "isolith"
    assert r.set("name", "other", nx=True) is None
    assert r.set("name", "new", get=True) == "isolith"
    assert r.setex("short", 100, "v") and 98 <= r.ttl("short") <= 100
    assert r.ttl("name") == -1 and r.ttl("none") == -2
    assert r.expire("name", 50) and r.persist("name")
    assert r.incrby("n", 5) == 5 and r.decr("n") == 4
    assert r.mset({"a": 1, "b": 2}) and r.mget("a", "b", "c") == ["1", "2", None]
    assert r.append("a", "0") == 2 and r.strlen("a") == 2 and r.getrange("a", 0, 0) == "1"
    assert r.exists("a", "b", "c") == 2 and r.delete("a", "c") == 1
    assert r.type("b") == "string"
    assert r.dbsize() == len(list(r.scan_iter(count=2)))
    assert sorted(r.keys("n*")) == ["n", "name"]
    assert r.info()["redis_version"].startswith("7.") and r.info("replication")["role"] == "master"
    assert r.config_get("databases") == {"databases": "16"}
    assert isinstance(r.time(), tuple)
    assert r.client_setname("py") and r.client_getname() == "py"
    assert any(client["name"] == "py" for client in r.client_list())

    with r.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.set(f"p:{number}", number)
            pipe.get(f"p:{number}")
        replies = pipe.execute()
    assert replies == [x for n in range(1000) for x in (True, str(n))]

    with r.pipeline() as pipe:
        assert pipe.set("t", 1).incr("t").get("t").execute() == [True, 2, "2"]

    # A compare-and-set from several threads: redis-py's own WATCH loop.
    r.set("counter", 0)

    def add(pipe):
        value = int(pipe.get("counter"))
        pipe.multi()
        pipe.set("counter", value + 1)

    def work():
        mine = redis.Redis(port=port, protocol=protocol, decode_responses=True)
        for _ in range(25):
            mine.transaction(add, "counter")

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert r.get("counter") == "100", r.get("counter")

    # WatchError on a changed key.
    with r.pipeline() as pipe:
        pipe.watch("name")
        r.set("name", "changed")
        pipe.multi()
        pipe.set("name", "mine")
        try:
            pipe.execute()
            raise AssertionError("a changed key must be noticed")
        except redis.WatchError:
            pass

    # A lock as redis-py's recipes have it, without scripts.
    assert r.set("lock", "token", nx=True, px=20)
    while r.get("lock"):
        pass
    assert r.set("lock", "token2", nx=True, px=1000)

    # Beyond Redis: an interactive transaction needs one connection.
    one = redis.Redis(port=port, protocol=protocol, decode_responses=True, single_connection_client=True)
    assert one.execute_command("BEGIN") in ("OK", True)
    assert one.incr("seq") == 1
    assert r.get("seq") is None
    one.execute_command("COMMIT")
    assert r.get("seq") == "1"
    one.execute_command("BEGIN")
    one.get("seq")
    r.incr("seq")
    one.set("other", 1)
    try:
        one.execute_command("COMMIT")
        raise AssertionError("a conflict must be shown")
    except redis.ResponseError as error:
        assert str(error).startswith("CONFLICT retry=now age="), error

# What a library does with BEGIN: again with the age that the error gives, until it is done.
r = redis.Redis(port=port, decode_responses=True)
r.mset({"left": 100, "right": 100})


def transfer(client, terms):
    age = ""
    while True:
        pipe = client.pipeline(transaction=False)
        for command in (f"BEGIN {terms}{age}", "DECR left", "INCR right", "COMMIT"):
            pipe.execute_command(*command.split())
        last = pipe.execute(raise_on_error=False)[-1]
        if not isinstance(last, redis.ResponseError):
            return
        words = dict(word.split("=", 1) for word in str(last).split() if "=" in word)
        assert words["retry"] in ("now", "locks"), last
        age = f" AGE {words['age']}"


def work(terms):
    client = redis.Redis(port=port, decode_responses=True, single_connection_client=True)
    for _ in range(20):
        transfer(client, terms)


threads = [
    threading.Thread(target=work, args=(terms,))
    for terms in ("CONCURRENCY OPTIMISTIC", "CONCURRENCY LOCKING", "DEADLOCK NO-WAIT", "CONCURRENCY AUTO")
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert r.mget("left", "right") == ["20", "180"], r.mget("left", "right")
assert r.execute_command("CLIENT WAITING") in ([], {})


# The same operation by operation, as docs/transactions.md shows it.
def transact(client, work, terms=""):
    again = ""
    while True:
        try:
            client.execute_command(*f"BEGIN {terms}{again}".split())
            work(client)
            return client.execute_command("COMMIT")
        except Exception as error:
            try:
                client.execute_command("ROLLBACK")
            except redis.RedisError:
                pass  # it is over already: a COMMIT that fails ends it, and so does a lost connection
            words = dict(word.split("=", 1) for word in str(error).split() if "=" in word)
            retry = words.get("retry", "never")
            if not isinstance(error, redis.ResponseError) or retry == "never":
                raise
            if retry.startswith("after:"):
                time.sleep(int(retry.removeprefix("after:")) / 1000)
            again = " CONCURRENCY LOCKING" if retry == "locks" else ""
            again += f" AGE {words['age']}" if "age" in words else ""


def move(client):
    client.set("left", int(client.get("left")) - 1)
    client.set("right", int(client.get("right")) + 1)


def work_singly(terms):
    client = redis.Redis(port=port, single_connection_client=True, retry=Retry(NoBackoff(), 0))
    for _ in range(5):
        transact(client, move, terms)


threads = [
    threading.Thread(target=work_singly, args=(terms,))
    for terms in ("", "ISOLATION SNAPSHOT", "CONCURRENCY LOCKING LOCKTIMEOUT 1", "DEADLOCK NO-WAIT")
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert r.mget("left", "right") == ["0", "200"], r.mget("left", "right")
one = redis.Redis(port=port, single_connection_client=True, retry=Retry(NoBackoff(), 0))
try:
    transact(one, lambda client: client.set("never", 1) and client.execute_command("NONSENSE"))
    raise AssertionError("what cannot succeed is told")
except redis.ResponseError as error:
    assert str(error).startswith("unknown command"), error
assert one.get("never") is None and one.execute_command("BEGIN")

print("ok")
