"""The PyPI package `etcd3gw` (OpenStack's): the JSON gateway over HTTP/1.1.

The package has no calls for auth: those go to the gateway through its session, as JSON.
"""

import base64
import threading
import time

import requests
from etcd3gw import exceptions
from etcd3gw.client import Etcd3Client

from steps import ENDPOINTS, eq, finish, kill_member, patiently, step, until


def client(n=0, **options):
    host, port = ENDPOINTS[n % len(ENDPOINTS)]
    return Etcd3Client(host=host, port=port, timeout=15, **options)


def b64(text):
    return base64.b64encode(text.encode()).decode()


c = client(0, api_path=None)  # the path is found by /version
other = client(-1)

with step("version and path, status, members"):
    eq(c.api_path, "/v3/")
    eq(c.status()["leader"] != "0", True)
    eq(sorted(m["name"] for m in c.members()), [f"m{n}" for n in range(len(ENDPOINTS))])

with step("kv: create, put, get, ranges, order, replace, delete"):
    eq(c.get("/none"), [])
    eq(c.create("/a", "1"), True)
    eq(c.create("/a", "2"), False)
    c.put("/a", "2")
    value, meta = other.get("/a", metadata=True)[0]
    eq((value, meta["key"], meta["version"]), (b"2", b"/a", "2"))
    eq(c.replace("/a", "2", "3"), True)
    eq(c.replace("/a", "2", "4"), False)
    for i in range(10):
        c.put(f"/range/{i}", str(9 - i))
    eq([v for v, _ in c.get_prefix("/range/")], [str(9 - i).encode() for i in range(10)])
    eq([v for v, _ in c.get_prefix("/range/", sort_order="ascend", sort_target="value")][:2], [b"0", b"1"])
    eq(len(c.get_all()), 11)
    eq(c.delete("/range/0"), True)
    eq(c.delete("/range/0"), False)
    eq(c.delete_prefix("/range/"), True)
    c.put(b"/bytes/\x00\xff", bytes(range(256)))
    eq(c.get(b"/bytes/\x00\xff"), [bytes(range(256))])

with step("txn: both branches, an error as JSON"):
    compare = [{"key": b64("/a"), "result": "EQUAL", "target": "VALUE", "value": b64("3")},
               {"key": b64("/none"), "result": "EQUAL", "target": "CREATE", "create_revision": 0}]
    put = {"request_put": {"key": b64("/txn"), "value": b64("1")}}
    got = {"request_range": {"key": b64("/a")}}
    answer = c.transaction({"compare": compare, "success": [put, got], "failure": []})
    eq(answer["succeeded"], True)
    eq(answer["responses"][1]["response_range"]["kvs"][0]["value"], b64("3"))
    compare[0]["result"] = "NOT_EQUAL"
    answer = c.transaction({"compare": compare, "success": [put], "failure": [got]})
    eq(("succeeded" in answer and answer["succeeded"], len(answer["responses"])), (False, 1))
    try:
        c.transaction({"success": [put, put]})
        raise AssertionError("a duplicate key was taken")
    except exceptions.Etcd3Exception as error:
        eq("duplicate key given in txn request" in error.detail_text, True)

with step("watch: events of a prefix as a stream of JSON, an old start, once, its time limit"):
    events, cancel = other.watch_prefix("/watch/")
    got = []
    threading.Thread(target=lambda: got.extend(events), daemon=True).start()
    for i in range(3):
        c.put(f"/watch/{i}", "x")
    c.delete("/watch/0")
    until("four events", 10, lambda: len(got) == 4)
    eq([e["kv"]["key"] for e in got], [b"/watch/0", b"/watch/1", b"/watch/2", b"/watch/0"])
    eq([e.get("type", "PUT") for e in got], ["PUT", "PUT", "PUT", "DELETE"])
    cancel()
    first = int(got[0]["kv"]["mod_revision"])
    events, cancel = c.watch_prefix("/watch/", start_revision=first)
    eq([next(events)["kv"]["key"] for _ in range(4)], [e["kv"]["key"] for e in got])
    cancel()
    threading.Timer(0.5, lambda: c.put("/once", "1")).start()
    eq(c.watch_once("/once", timeout=10)["kv"]["value"], b"1")
    try:
        c.watch_once("/never", timeout=1)
        raise AssertionError("an event came for a key nobody wrote")
    except exceptions.WatchTimedOut:
        pass

with step("lease: grant, keys, keepalive, revoke, expiry"):
    lease = c.lease(30)
    c.put("/lease/a", "1", lease=lease)
    eq(lease.keys(), [b"/lease/a"])
    eq(29 <= lease.ttl() <= 30, True)
    eq(lease.refresh(), 30)
    lease.revoke()
    eq(other.get("/lease/a"), [])
    eq(lease.refresh(), -1)
    left = c.lease(2)
    c.put("/lease/b", "1", lease=left)
    begun = time.monotonic()
    until("the key of an expired lease is gone", 12, lambda: not other.get("/lease/b"))
    eq(time.monotonic() - begun >= 1.5, True)

with step("lock: one holder, release, the next"):
    one, two = c.lock("l", ttl=20), other.lock("l", ttl=20)
    eq(one.acquire(), True)
    eq((one.is_acquired(), two.acquire(), two.is_acquired()), (True, False, False))
    eq(one.refresh(), 20)
    eq(two.release(), False)
    eq(one.release(), True)
    eq(two.acquire(), True)
    eq(two.release(), True)

with step("lock and election services by JSON"):
    def call(path, body, at=c):
        return at.post(at.get_url(path), json=body)

    lease = c.lease(30)
    key = call("lock/lock", {"name": b64("svc"), "lease": str(lease.id)})["key"]
    call("lock/unlock", {"key": key}, other)
    leader = call("election/campaign", {"name": b64("boss"), "lease": str(lease.id), "value": b64("v1")})["leader"]
    eq(call("election/leader", {"name": b64("boss")}, other)["kv"]["value"], b64("v1"))
    call("election/proclaim", {"leader": leader, "value": b64("v2")})
    eq(call("election/leader", {"name": b64("boss")}, other)["kv"]["value"], b64("v2"))
    call("election/resign", {"leader": leader})
    lease.revoke()

with step("resumption: a watch opened anew at the last revision + 1 after a member's death"):
    c.put("/resume", "0")
    at = int(c.get("/resume", metadata=True)[0][1]["mod_revision"])
    n = len(ENDPOINTS) - 1
    kill_member(n)
    patiently(lambda: client(0).put("/resume/other", "the dead member may have led"))
    for i in range(1, 6):
        client(0).put("/resume", str(i))
    events, cancel = patiently(lambda: client(n).watch("/resume", start_revision=at + 1))
    eq([next(events)["kv"]["value"] for _ in range(5)], [b"1", b"2", b"3", b"4", b"5"])
    cancel()

with step("auth: users and roles by JSON, a token in the header, permissions, disabling"):
    c, other = client(0), client(-1)
    call("auth/user/add", {"name": "root", "password": "r"}, c)
    call("auth/role/add", {"name": "root"}, c)
    call("auth/user/grant", {"user": "root", "role": "root"}, c)
    call("auth/user/add", {"name": "u", "password": "p"}, c)
    call("auth/role/add", {"name": "r"}, c)
    permission = {"permType": "READWRITE", "key": b64("/u/"), "range_end": b64("/u0")}
    call("auth/role/grant", {"name": "r", "perm": permission}, c)
    call("auth/user/grant", {"user": "u", "role": "r"}, c)
    call("auth/enable", {}, c)

    def login(name, password, n=0):
        token = call("auth/authenticate", {"name": name, "password": password}, client(n))["token"]
        session = requests.Session()
        session.headers["Authorization"] = token
        return client(n, session=session)

    def refused(body, text):
        try:
            body()
            raise AssertionError("it was allowed")
        except exceptions.Etcd3Exception as error:
            eq(text in error.detail_text, True)

    root = login("root", "r")
    try:
        refused(lambda: other.get("/a"), "user name is empty")
        refused(lambda: login("u", "wrong"), "authentication failed, invalid user ID or password")
        user = login("u", "p", -1)
        user.put("/u/1", "mine")
        eq(user.get("/u/1"), [b"mine"])
        refused(lambda: user.put("/a", "no"), "permission denied")
        refused(lambda: user.get_all(), "permission denied")
        events, cancel = user.watch_prefix("/u/")
        root.put("/u/2", "seen")
        eq(next(events)["kv"]["value"], b"seen")
        cancel()
    finally:
        call("auth/disable", {}, root)
    eq(other.get("/a"), [b"3"])

finish()
