"""The PyPI package `aetcd` (gRPC, asyncio): every call of its client, and auth by its stubs."""

import asyncio
import time

import aetcd
import grpc
from aetcd import exceptions, rpc, rtypes

from steps import ENDPOINTS, eq, finish, kill_member, step


def client(n=0, **options):
    host, port = ENDPOINTS[n % len(ENDPOINTS)]
    return aetcd.Client(host=host, port=port, timeout=15, **options)


async def take(watch, count, seconds=10):
    got = []

    async def read():
        async for event in watch:
            got.append(event)
            if len(got) == count:
                return

    await asyncio.wait_for(read(), seconds)
    return got


async def main():
    c, other = client(0), client(-1)
    await c.connect()
    await other.connect()

    with step("kv: put, get, ranges, delete, replace"):
        eq(await c.get(b"/kv/none"), None)
        await c.put(b"/kv/a", b"1")
        put = await c.put(b"/kv/a", b"2", prev_kv=True)
        eq(put.prev_kv.value, b"1")
        got = await other.get(b"/kv/a")
        eq((got.value, got.version, got.mod_revision), (b"2", 2, put.header.revision))
        for i in range(10):
            await c.put(b"/range/%d" % i, b"%d" % (9 - i))
        eq([kv.value for kv in await other.get_prefix(b"/range/")], [b"%d" % (9 - i) for i in range(10)])
        got = await c.get_range(b"/range/2", b"/range/9", sort_order="descend", sort_target="key")
        eq(([kv.key for kv in got][:2], got.more, got.count), ([b"/range/8", b"/range/7"], False, 7))
        eq((await c.delete(b"/range/0", prev_kv=True)).prev_kv.value, b"9")
        eq(await c.delete(b"/range/0"), None)
        eq((await c.delete_range(b"/range/1", b"/range/3")).deleted, 2)
        eq((await c.delete_prefix(b"/range/")).deleted, 7)
        eq(await c.replace(b"/kv/a", b"2", b"3"), True)
        eq(await c.replace(b"/kv/a", b"2", b"4"), False)
        eq(len(await c.get_all()), 1)

    with step("txn: compares of every target, both branches"):
        t = c.transactions
        ok, answers = await c.transaction(
            compare=[t.value(b"/kv/a") == b"3", t.version(b"/kv/a") > 1, t.create(b"/kv/a") > 0,
                     t.mod(b"/kv/a") > 0, t.create(b"/kv/none") == 0, t.value(b"/kv/a") != b"4"],
            success=[t.put(b"/txn/a", b"1"), t.get(b"/kv/a"), t.delete(b"/kv/none")],
            failure=[t.put(b"/txn/no", b"1")])
        eq((ok, answers[1][0][0], answers[2].response_delete_range.deleted), (True, b"3", 0))
        ok, answers = await c.transaction(
            [t.version(b"/kv/a") < 1], [t.put(b"/txn/no", b"1")], [t.get(b"/txn/a")])
        eq((ok, answers[0][0][0]), (False, b"1"))
        eq(await c.get(b"/txn/no"), None)

    with step("watch: events, prev_kv, kinds, several watches of one stream, cancel"):
        all_events = await other.watch_prefix(b"/watch/", prev_kv=True)
        deletes = await other.watch_prefix(b"/watch/", kind=rtypes.EventKind.DELETE)
        for i in range(5):
            await c.put(b"/watch/%d" % i, b"x")
        await c.put(b"/watch/0", b"y")
        await c.delete(b"/watch/0")
        got = await take(all_events, 7)
        eq([e.kv.key for e in got], [b"/watch/%d" % i for i in (0, 1, 2, 3, 4, 0, 0)])
        eq([e.kind for e in got], [rtypes.EventKind.PUT] * 6 + [rtypes.EventKind.DELETE])
        eq((got[5].prev_kv.value, got[6].prev_kv.value), (b"x", b"y"))
        eq([e.kv.key for e in await take(deletes, 1)], [b"/watch/0"])
        await all_events.cancel()
        await deletes.cancel()

    with step("watch: from an old revision, once and its time limit, compacted"):
        revision = (await c.put(b"/old", b"1")).header.revision
        await c.put(b"/old", b"2")
        await c.delete(b"/old")
        watch = await c.watch(b"/old", start_revision=revision)
        eq([e.kv.value for e in await take(watch, 3)], [b"1", b"2", b""])
        await watch.cancel()
        once = asyncio.ensure_future(c.watch_once(b"/once", timeout=10))
        await asyncio.sleep(0.3)
        await c.put(b"/once", b"1")
        eq((await once).kv.value, b"1")
        try:
            await c.watch_once(b"/never", timeout=1)
            raise AssertionError("an event came for a key nobody wrote")
        except exceptions.WatchTimeoutError:
            pass
        await c.compact((await c.put(b"/old", b"3")).header.revision, physical=True)
        watch = await c.watch(b"/old", start_revision=revision)
        try:
            await take(watch, 1)
            raise AssertionError("an event came from below the compaction")
        except exceptions.RevisionCompactedError:
            pass

    with step("lease: grant, attached keys, keepalive, time to live, revoke, expiry"):
        lease = await c.lease(30, 0x4321)
        eq((lease.id, lease.ttl), (0x4321, 30))
        await c.put(b"/lease/a", b"1", lease=lease)
        eq(list(await lease.keys()), [b"/lease/a"])
        eq((await lease.refresh()).TTL, 30)
        eq(29 <= await lease.remaining_ttl() <= 30, True)
        eq(await lease.granted_ttl(), 30)
        await lease.revoke()
        eq(await other.get(b"/lease/a"), None)
        eq(await lease.remaining_ttl(), -1)
        left = await c.lease(2)
        await c.put(b"/expire", b"1", lease=left)
        watch = await other.watch(b"/expire")
        begun = time.monotonic()
        eq([e.kind for e in await take(watch, 1, 15)], [rtypes.EventKind.DELETE])
        eq(1.5 <= time.monotonic() - begun <= 8, True)
        await watch.cancel()

    with step("lock: one holder, waiting, release"):
        one, two = c.lock(b"l", ttl=20), other.lock(b"l", ttl=20)
        eq(await one.acquire(), True)
        eq((await one.is_acquired(), await two.is_acquired()), (True, False))
        eq(await two.acquire(timeout=1), False)
        waiting = asyncio.ensure_future(two.acquire(timeout=10))
        await asyncio.sleep(0.5)
        eq(await one.release(), True)
        eq(await waiting, True)
        await two.refresh()
        eq(await two.release(), True)

    with step("cluster and maintenance: members, status, hash, alarms, defragment"):
        members = [m async for m in c.members()]
        eq(sorted(m.name for m in members), [f"m{n}" for n in range(len(ENDPOINTS))])
        status = await c.status()
        eq(status.db_size > 0, True)
        eq(isinstance(await c.hash(), int), True)
        await c.create_alarm(member_id=members[0].id)
        try:
            await c.put(b"/alarmed", b"1")
            raise AssertionError("a put was taken under NOSPACE")
        except (exceptions.ClientError, grpc.RpcError) as error:
            eq("database space exceeded" in str(error), True)
        await c.disarm_alarm(member_id=members[0].id)
        await c.put(b"/alarmed", b"2")
        await c.defragment()

    with step("resumption: a watch opened anew at the last revision + 1 after a member's death"):
        at = (await c.put(b"/resume", b"0")).header.revision
        n = len(ENDPOINTS) - 1
        await asyncio.to_thread(kill_member, n)
        for _ in range(50):  # the dead member may have led
            try:
                await c.put(b"/resume/other", b"")
                break
            except Exception:
                await asyncio.sleep(0.2)
        for i in range(1, 6):
            await c.put(b"/resume", b"%d" % i)
        again = client(n)
        watch = await again.watch(b"/resume", start_revision=at + 1)
        eq([e.kv.value for e in await take(watch, 5)], [b"1", b"2", b"3", b"4", b"5"])
        await watch.cancel()

    with step("auth: a user with a range, refusals, a watch with a token, disabling"):
        auth = rpc.AuthStub(c.channel)
        await auth.UserAdd(rpc.AuthUserAddRequest(name="root", password="r"))
        await auth.RoleAdd(rpc.AuthRoleAddRequest(name="root"))
        await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
        await auth.UserAdd(rpc.AuthUserAddRequest(name="u", password="p"))
        await auth.RoleAdd(rpc.AuthRoleAddRequest(name="r"))
        grant = rpc.AuthRoleGrantPermissionRequest(name="r")
        grant.perm.key, grant.perm.range_end, grant.perm.permType = b"/u/", b"/u0", 2
        await auth.RoleGrantPermission(grant)
        await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="u", role="r"))
        await auth.AuthEnable(rpc.AuthEnableRequest())
        root = client(0, username="root", password="r")
        await root.connect()
        try:
            async def refused(call, text):
                try:
                    await call
                    raise AssertionError("it was allowed")
                except (exceptions.ClientError, grpc.RpcError) as error:
                    eq(text in str(error) or text in repr(error.__cause__), True)

            await refused(client(0, username="u", password="no").connect(), "authentication failed")
            user = client(-1, username="u", password="p")
            await user.connect()
            await user.put(b"/u/1", b"mine")
            eq((await user.get(b"/u/1")).value, b"mine")
            await refused(user.put(b"/kv/a", b"no"), "permission denied")
            await refused(user.get_prefix(b"/"), "permission denied")
            watch = await user.watch_prefix(b"/u/")
            await root.put(b"/u/2", b"seen")
            eq((await take(watch, 1))[0].kv.value, b"seen")
            await watch.cancel()
        finally:
            await rpc.AuthStub(root.channel).AuthDisable(rpc.AuthDisableRequest(), metadata=root.metadata)
        eq((await other.get(b"/kv/a")).value, b"3")


asyncio.run(asyncio.wait_for(main(), 150))
finish()
