"""The PyPI package `etcd3` (gRPC, threads): every call of its client, and auth by its stubs."""

import io
import threading
import time

import etcd3
import grpc
from etcd3 import etcdrpc

from steps import ENDPOINTS, eq, finish, kill_member, patiently, step, until


def connect(n=0, **options):
    host, port = ENDPOINTS[n % len(ENDPOINTS)]
    made = etcd3.client(host=host, port=port, timeout=10, **options)
    # The library sends its token as metadata and as call credentials; today's grpcio refuses
    # the latter on a channel without TLS.
    made.call_credentials = made.watcher._credentials = None
    return made


c = connect(0)
other = connect(-1)  # another member, where there is one

with step("kv: put, get, prev_kv, metadata"):
    eq(c.get("/kv/none"), (None, None))
    first = c.put("/kv/a", "1")
    second = c.put("/kv/a", "2", prev_kv=True)
    eq(second.prev_kv.value, b"1")
    eq(second.header.revision, first.header.revision + 1)
    value, meta = other.get("/kv/a")
    eq((value, meta.version, meta.mod_revision), (b"2", 2, second.header.revision))
    eq(meta.create_revision, first.header.revision)
    eq(other.get("/kv/a", serializable=True)[0] in (b"1", b"2", None), True)

with step("kv: ranges, prefixes, order, all keys"):
    for i in range(10):
        c.put(f"/range/{i}", str(9 - i))
    eq([v for v, _ in other.get_prefix("/range/")], [str(9 - i).encode() for i in range(10)])
    eq([m.key for _, m in c.get_range("/range/2", "/range/5")], [b"/range/%d" % i for i in (2, 3, 4)])
    eq([v for v, _ in c.get_prefix("/range/", sort_order="ascend", sort_target="value")][:2], [b"0", b"1"])
    eq([m.key for _, m in c.get_prefix("/range/", sort_order="descend", sort_target="mod")][0], b"/range/9")
    eq(len(list(c.get_prefix("/range/", keys_only=True))), 10)
    eq(len(list(c.get_all())), 11)

with step("kv: delete, delete_prefix, replace, put_if_not_exists"):
    eq(c.delete("/range/0"), True)
    eq(c.delete("/range/0"), False)
    eq(c.delete("/range/1", prev_kv=True, return_response=True).prev_kvs[0].value, b"8")
    eq(c.delete_prefix("/range/").deleted, 8)
    eq(c.replace("/kv/a", "2", "3"), True)
    eq(c.replace("/kv/a", "2", "4"), False)
    eq(c.put_if_not_exists("/kv/b", "x"), True)
    eq(c.put_if_not_exists("/kv/b", "y"), False)

with step("txn: compares of every target, both branches, nested"):
    t = c.transactions
    ok, answers = c.transaction(
        compare=[t.value("/kv/a") == "3", t.version("/kv/a") > 1, t.create("/kv/a") > 0,
                 t.mod("/kv/a") > 0, t.create("/kv/none") == 0, t.value("/kv/a") != "4"],
        success=[t.put("/txn/a", "1"), t.get("/kv/a"), t.delete("/kv/b"),
                 t.txn(compare=[], success=[t.put("/txn/b", "2")], failure=[])],
        failure=[t.put("/txn/no", "1")])
    eq(ok, True)
    eq(answers[1][0][0], b"3")
    eq(answers[2].response_delete_range.deleted, 1)
    eq(c.get("/txn/b")[0], b"2")
    eq(c.get("/txn/a")[1].mod_revision, c.get("/txn/b")[1].mod_revision)
    ok, answers = c.transaction([t.version("/kv/a") < 1], [t.put("/txn/no", "1")], [t.get("/txn/a")])
    eq((ok, answers[0][0][0]), (False, b"1"))
    eq(c.get("/txn/no"), (None, None))
    try:
        c.transaction([], [t.put("/dup", "1"), t.put("/dup", "2")], [])
        raise AssertionError("a duplicate key was taken")
    except grpc.RpcError as error:
        eq(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        eq(error.details(), "etcdserver: duplicate key given in txn request")

with step("watch: events, prev_kv, several watches of one stream, cancel"):
    events, cancel = other.watch_prefix("/watch/", prev_kv=True)
    got = []
    reader = threading.Thread(target=lambda: got.extend(events), daemon=True)
    reader.start()
    single, cancel_single = other.watch("/watch/3")
    for i in range(5):
        c.put(f"/watch/{i}", "x")
    c.put("/watch/0", "y")
    c.delete("/watch/0")
    until("seven events", 10, lambda: len(got) == 7)
    eq([type(e).__name__ for e in got], ["PutEvent"] * 6 + ["DeleteEvent"])
    eq([e.key for e in got], [b"/watch/%d" % i for i in (0, 1, 2, 3, 4, 0, 0)])
    eq((got[5].prev_value, got[6].prev_value), (b"x", b"y"))
    eq(next(single).key, b"/watch/3")
    cancel()
    cancel_single()
    reader.join(5)
    eq(reader.is_alive(), False)

with step("watch: from an old revision, watch_once and its time limit"):
    revision = c.put("/watch/old", "1").header.revision
    c.put("/watch/old", "2")
    c.delete("/watch/old")
    events, cancel = c.watch("/watch/old", start_revision=revision)
    eq([next(events).value for _ in range(3)], [b"1", b"2", b""])
    cancel()
    threading.Timer(0.3, lambda: c.put("/watch/once", "1")).start()
    eq(c.watch_once("/watch/once", timeout=10).value, b"1")
    try:
        c.watch_once("/watch/never", timeout=0.3)
        raise AssertionError("an event came for a key nobody wrote")
    except etcd3.exceptions.WatchTimedOut:
        pass

with step("watch: a start below the compaction is told the compacted revision"):
    revision = c.put("/compact", "1").header.revision
    c.put("/compact", "2")
    now = c.put("/compact", "3").header.revision
    c.compact(now, physical=True)
    events, _ = c.watch("/compact", start_revision=revision)
    try:
        next(events)
        raise AssertionError("an event came from below the compaction")
    except etcd3.exceptions.RevisionCompactedError as error:
        eq(error.compacted_revision, now)
    try:
        c.compact(now)
        raise AssertionError("the same revision was compacted twice")
    except grpc.RpcError as error:
        eq((error.code(), error.details()),
           (grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"))

with step("lease: grant, attached keys, keepalive, time to live, revoke"):
    lease = c.lease(30, 0x1234)
    eq((lease.id, lease.ttl, lease.granted_ttl), (0x1234, 30, 30))
    c.put("/lease/a", "1", lease=lease)
    c.put("/lease/b", "1", lease=lease)
    eq(sorted(lease.keys), [b"/lease/a", b"/lease/b"])
    eq(lease.refresh()[0].TTL, 30)
    eq(29 <= lease.remaining_ttl <= 30, True)
    lease.revoke()
    eq(list(other.get_prefix("/lease/")), [])
    eq(c.get_lease_info(0x1234).TTL, -1)
    eq(next(iter(c.refresh_lease(0x1234))).TTL, 0)

with step("lease: expiry deletes its keys and watchers hear of it; a kept lease stays"):
    kept, left = c.lease(2), c.lease(2)
    c.put("/expire/kept", "1", lease=kept)
    c.put("/expire/left", "1", lease=left)
    begun = time.monotonic()
    events, cancel = other.watch_prefix("/expire/")
    gone = []
    deleted = (e for e in events if type(e).__name__ == "DeleteEvent")
    threading.Thread(target=lambda: gone.append(next(deleted)), daemon=True).start()
    while not gone and time.monotonic() < begun + 15:
        kept.refresh()
        time.sleep(0.3)
    took = time.monotonic() - begun
    eq(gone[0].key, b"/expire/left")
    eq(2 <= took <= 8, True)
    eq(c.get("/expire/kept")[0], b"1")
    kept.revoke()
    cancel()

with step("lock: one holder, waiting, release, expiry of a dead holder"):
    one, two = c.lock("l", ttl=20), other.lock("l", ttl=20)
    eq(one.acquire(), True)
    eq((one.is_acquired(), two.is_acquired()), (True, False))
    eq(two.acquire(timeout=1), False)
    threading.Timer(0.5, one.release).start()
    eq(two.acquire(timeout=10), True)
    eq((one.is_acquired(), two.is_acquired()), (False, True))
    eq(two.release(), True)
    with c.lock("dead", ttl=2) as held:
        eq(held.is_acquired(), True)
        until("the dead holder's lock", 15, lambda: other.lock("dead", ttl=20).acquire(timeout=10))

with step("cluster and maintenance: members, status, hash, alarms, defragment"):
    members = list(c.members)
    eq(len(members), len(ENDPOINTS))
    eq(sorted(m.name for m in members), [f"m{n}" for n in range(len(ENDPOINTS))])
    status = c.status()
    eq(status.leader.id in [m.id for m in members], True)
    eq(status.db_size > 0, True)
    eq(isinstance(c.hash(), int), True)
    eq(list(c.list_alarms()), [])
    alarms = c.create_alarm(member_id=members[0].id)
    eq(alarms[0].alarm_type, etcdrpc.NOSPACE)
    try:
        c.put("/alarmed", "1")
        raise AssertionError("a put was taken under NOSPACE")
    except grpc.RpcError as error:
        eq((error.code(), error.details()),
           (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"))
    eq(len(list(c.disarm_alarm(member_id=members[0].id))), 1)
    eq(list(c.list_alarms()), [])
    c.put("/alarmed", "2")
    c.defragment()

with step("resumption: a watch opened anew at the last revision + 1 after a member's death"):
    at = c.put("/resume", "0").header.revision
    n = len(ENDPOINTS) - 1
    kill_member(n)
    patiently(lambda: c.put("/resume/other", "the dead member may have led"))
    for i in range(1, 6):
        c.put("/resume", str(i))
    # grpc shares the old connection's waiting time between attempts with the new channel.
    events, cancel = patiently(lambda: connect(n).watch("/resume", start_revision=at + 1))
    eq([next(events).value for _ in range(5)], [b"1", b"2", b"3", b"4", b"5"])
    cancel()

with step("auth: users, roles, a token, permissions by range, disabling"):
    auth = etcdrpc.AuthStub(c.channel)
    auth.UserAdd(etcdrpc.AuthUserAddRequest(name="root", password="r"))
    auth.RoleAdd(etcdrpc.AuthRoleAddRequest(name="root"))
    auth.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user="root", role="root"))
    auth.UserAdd(etcdrpc.AuthUserAddRequest(name="u", password="p"))
    auth.RoleAdd(etcdrpc.AuthRoleAddRequest(name="r"))
    permission = {"key": b"/u/", "range_end": b"/u0", "permType": 2}
    grant = etcdrpc.AuthRoleGrantPermissionRequest(name="r")
    for field, value in permission.items():
        setattr(grant.perm, field, value)
    auth.RoleGrantPermission(grant)
    auth.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user="u", role="r"))
    eq(list(auth.UserGet(etcdrpc.AuthUserGetRequest(name="u")).roles), ["r"])
    auth.AuthEnable(etcdrpc.AuthEnableRequest())
    root = connect(0, user="root", password="r")
    try:
        def refused(call, text):
            try:
                call()
                raise AssertionError("it was allowed")
            except grpc.RpcError as error:
                eq(error.details(), text)

        refused(lambda: other.get("/kv/a"), "etcdserver: user name is empty")
        refused(lambda: connect(0, user="u", password="wrong"),
                "etcdserver: authentication failed, invalid user ID or password")
        user = connect(-1, user="u", password="p")
        user.put("/u/1", "mine")
        eq(user.get("/u/1")[0], b"mine")
        refused(lambda: user.put("/kv/a", "no"), "etcdserver: permission denied")
        refused(lambda: list(user.get_prefix("/")), "etcdserver: permission denied")
        refused(lambda: user.transaction([], [user.transactions.put("/kv/a", "no")], []),
                "etcdserver: permission denied")
        events, cancel = user.watch_prefix("/u/")
        root.put("/u/2", "seen")
        eq(next(events).value, b"seen")
        cancel()
        lease = user.lease(20)
        user.put("/u/3", "leased", lease=lease)
        lease.revoke()
        eq(user.get("/u/3"), (None, None))
        eq(root.get("/kv/a")[0], b"3")
    finally:
        etcdrpc.AuthStub(root.channel).AuthDisable(
            etcdrpc.AuthDisableRequest(), metadata=root.metadata)
    eq(other.get("/kv/a")[0], b"3")

finish()
