'use strict';
// The npm package `etcd3` (gRPC, promises): its builders, watches that resume by themselves,
// leases kept alive, locks, software transactions, elections, users and roles.

const fs = require('fs');
const http = require('http');
const path = require('path');
const assert = require('assert');
const { Etcd3, EtcdLockFailedError, EtcdPermissionDeniedError, EtcdAuthenticationFailedError } = require('etcd3');

const hosts = process.env.ENDPOINTS.split(',');
const dir = process.env.MEMBERS_DIR;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let failed = 0;

async function step(name, body) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('not within 60 s')), 60000);
  });
  try {
    await Promise.race([body(), late]);
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.error(error);
    console.log(`FAILED ${name}: ${String(error.message).split('\n')[0].slice(0, 300)}`);
  } finally {
    clearTimeout(timer);
  }
}

async function until(what, seconds, condition) {
  const limit = Date.now() + seconds * 1000;
  while (!(await condition())) {
    if (Date.now() > limit) throw new Error(`not within ${seconds} s: ${what}`);
    await sleep(50);
  }
}

function healthy(host) {
  return new Promise((resolve) => {
    const request = http.get(`http://${host}/health`, { timeout: 2000 }, (answer) => {
      let text = '';
      answer.on('data', (part) => (text += part));
      answer.on('end', () => resolve(text.includes('"true"')));
    });
    request.on('error', () => resolve(false));
    request.on('timeout', () => request.destroy());
  });
}

// kill -9; the member comes back on its port (see lib.sh).
async function killMember(n) {
  const file = path.join(dir, `m${n}.pid`);
  const pid = fs.readFileSync(file, 'utf8').trim();
  process.kill(Number(pid), 'SIGKILL');
  await until(`member ${n} is started again`, 10, () => {
    const now = fs.readFileSync(file, 'utf8').trim();
    return now !== '' && now !== pid;
  });
  await until(`member ${n} is healthy again`, 20, () => healthy(hosts[n]));
}

async function main() {
  const c = new Etcd3({ hosts });
  const other = new Etcd3({ hosts: hosts[hosts.length - 1] });

  await step('kv: put, get, ranges, counts, delete, touch', async () => {
    assert.strictEqual(await c.get('/none'), null);
    await c.put('/a').value('1');
    const previous = await c.put('/a').value('2').getPrevious();
    assert.strictEqual(previous.value.toString(), '1');
    assert.strictEqual(await other.get('/a').string(), '2');
    await c.put('/a').touch();
    assert.strictEqual((await c.get('/a').exec()).kvs[0].version, '3');
    await Promise.all([...Array(10).keys()].map((i) => c.put(`/range/${i}`).value(9 - i)));
    assert.deepStrictEqual(await other.getAll().prefix('/range/').keys(), [...Array(10).keys()].map((i) => `/range/${i}`));
    const byValue = await c.getAll().prefix('/range/').sort('Value', 'Descend').limit(2).keys();
    assert.deepStrictEqual(byValue, ['/range/0', '/range/1']);
    assert.strictEqual(await c.getAll().prefix('/range/').count(), 10);
    assert.strictEqual((await c.getAll().inRange({ start: '/range/2', end: '/range/5' }).numbers())['/range/4'], 5);
    assert.strictEqual((await c.delete().key('/range/0')).deleted, '1');
    assert.strictEqual((await c.delete().prefix('/range/').getPrevious()).length, 9);
    const ns = c.namespace('ns/');
    await ns.put('x').value('in');
    assert.strictEqual(await c.get('ns/x'), 'in');
    assert.deepStrictEqual(await ns.getAll().keys(), ['x']);
    await ns.delete().all();
  });

  await step('txn: compares, both branches, an error told in etcd\'s words', async () => {
    const yes = await c.if('/a', 'Version', '==', 3).and('/none', 'Create', '==', 0)
      .then(c.put('/txn/a').value('1'), c.get('/a')).else(c.put('/txn/no').value('1')).commit();
    assert.strictEqual(yes.succeeded, true);
    assert.strictEqual(yes.responses[1].response_range.kvs[0].value.toString(), '2');
    const no = await c.if('/a', 'Value', '==', 'other').then(c.put('/txn/no').value('1')).else(c.get('/txn/a')).commit();
    assert.strictEqual(no.succeeded, false);
    assert.strictEqual(no.responses[0].response_range.kvs[0].value.toString(), '1');
    assert.strictEqual(await c.get('/txn/no'), null);
    await assert.rejects(
      c.if('/a', 'Version', '>', 0).then(c.put('/dup').value(1), c.put('/dup').value(2)).commit(),
      /duplicate key given in txn request/);
  });

  await step('stm: two hundred increments by ten writers lose none', async () => {
    await c.put('/stm').value(0);
    const worker = async () => {
      for (let i = 0; i < 20; i++) {
        await c.stm({ retries: 500 }).transact(async (tx) => {
          await tx.put('/stm').value((await tx.get('/stm').number()) + 1);
        });
      }
    };
    await Promise.all([...Array(10).keys()].map(worker));
    assert.strictEqual(await c.get('/stm').number(), 200);
  });

  await step('watch: events, previous values, filters, an old start, cancel', async () => {
    const seen = [];
    const deletes = [];
    const all = await other.watch().prefix('/watch/').withPreviousKV().create();
    all.on('put', (kv, previous) => seen.push(['put', kv.key.toString(), previous && previous.value.toString()]));
    all.on('delete', (kv, previous) => seen.push(['delete', kv.key.toString(), previous && previous.value.toString()]));
    const only = await other.watch().prefix('/watch/').only('delete').create();
    only.on('data', (answer) => deletes.push(...answer.events.map((e) => e.kv.key.toString())));
    const first = (await c.put('/watch/1').value('x')).header.revision;
    await c.put('/watch/2').value('x');
    await c.put('/watch/1').value('y');
    await c.delete().key('/watch/1');
    await until('four events', 10, () => seen.length === 4 && deletes.length === 1);
    assert.deepStrictEqual(seen.map((e) => e.slice(0, 2).join(' ')), ['put /watch/1', 'put /watch/2', 'put /watch/1', 'delete /watch/1']);
    assert.deepStrictEqual([seen[2][2], seen[3][2]], ['x', 'y']);
    assert.deepStrictEqual(deletes, ['/watch/1']);
    const old = [];
    const history = await c.watch().prefix('/watch/').startRevision(first).create();
    history.on('data', (answer) => old.push(...answer.events.map((e) => `${e.type} ${e.kv.key}`)));
    await until('the history', 10, () => old.length === 4);
    await all.cancel();
    await only.cancel();
    await history.cancel();
    await c.put('/watch/3').value('x');
    await sleep(200);
    assert.strictEqual(seen.length, 4);
  });

  await step('watch: resumes by itself at the last revision when every member dies in turn', async () => {
    const got = [];
    const watcher = await c.watch().key('/resume').create();
    watcher.on('put', (kv) => got.push(Number(kv.value.toString())));
    watcher.on('error', () => {});
    let sent = 0;
    const send = async () => {
      // A put may be told to fail while its member is dead; put again: the watcher sees each that was done.
      for (;;) {
        try {
          await c.put('/resume').value(sent);
          break;
        } catch {
          await sleep(100);
        }
      }
      sent += 1;
    };
    for (let n = 0; n < hosts.length; n++) {
      for (let i = 0; i < 5; i++) await send();
      const killed = killMember(n);
      for (let i = 0; i < 5; i++) await send();
      await killed;
    }
    await send();
    await until('the last value', 30, () => got[got.length - 1] === sent - 1);
    const distinct = got.filter((value, i) => i === 0 || value !== got[i - 1]);
    assert.deepStrictEqual(distinct, [...Array(sent).keys()]);
    await watcher.cancel();
  });

  await step('lease: kept alive by the library, revoked, expired when let go', async () => {
    const lease = c.lease(3);
    await lease.put('/lease/kept').value('1');
    let kept = 0;
    lease.on('keepaliveSucceeded', () => (kept += 1));
    const lost = c.lease(2, { autoKeepAlive: false });
    await lost.put('/lease/lost').value('1');
    const begun = Date.now();
    await until('the lost lease\'s key is gone', 15, async () => (await other.get('/lease/lost')) === null);
    assert.ok(Date.now() - begun >= 1500, 'it went early');
    await until('it outlived its time to live', 10, () => Date.now() - begun > 5000);
    assert.ok(kept >= 1);
    assert.strictEqual(await other.get('/lease/kept'), '1');
    const once = await lease.keepaliveOnce();
    assert.strictEqual(once.TTL, '3');
    await lease.revoke();
    assert.strictEqual(await other.get('/lease/kept'), null);
  });

  await step('lock: one holder, a second one refused, then granted', async () => {
    const one = await c.lock('l').ttl(10).acquire();
    await assert.rejects(other.lock('l').ttl(10).acquire(), EtcdLockFailedError);
    await one.release();
    let inside = false;
    await other.lock('l').ttl(10).do(async () => {
      inside = true;
    });
    assert.ok(inside);
  });

  await step('election: campaign, observe, proclaim, resign, the next one', async () => {
    const election = c.election('boss', 5);
    const observed = [];
    const observer = await other.election('boss', 5).observe();
    observer.on('change', (value) => observed.push(value));
    const first = election.campaign('one');
    await first.wait();
    const second = other.election('boss', 5).campaign('two');
    let elected = false;
    second.on('elected', () => (elected = true));
    assert.strictEqual(await election.leader(), 'one');
    await until('the first leader', 10, () => observed.includes('one'));
    await first.proclaim('uno');
    await until('the proclaimed value', 10, () => observed.includes('uno'));
    assert.strictEqual(elected, false);
    await first.resign();
    await second.wait();
    await until('the next leader', 10, () => observed[observed.length - 1] === 'two');
    await second.resign();
    await observer.cancel();
  });

  await step('cluster and maintenance', async () => {
    const members = (await c.cluster.memberList({})).members;
    assert.deepStrictEqual(members.map((m) => m.name).sort(), hosts.map((_, n) => `m${n}`));
    const status = await c.maintenance.status({});
    assert.ok(members.some((m) => m.ID === status.leader));
    assert.deepStrictEqual((await c.maintenance.alarm({ action: 'GET' })).alarms, []);
    await c.kv.compact({ revision: status.header.revision, physical: true });
    await assert.rejects(c.get('/a').revision(1).exec(), /required revision has been compacted/);
  });

  await step('auth: users, roles, permissions by range, a token renewed by the library', async () => {
    const root = await c.user('root').create('r');
    await root.addRole(await c.role('root').create());
    const role = await c.role('r').create();
    await role.grant({ permission: 'Readwrite', range: c.range({ prefix: '/u/' }) });
    const user = await c.user('u').create('p');
    await user.addRole('r');
    assert.deepStrictEqual((await c.user('u').roles()).map((r) => r.name), ['r']);
    assert.strictEqual((await role.permissions())[0].permission, 'Readwrite');
    await c.auth.authEnable();
    const as = (username, password) => new Etcd3({ hosts, auth: { username, password } });
    const admin = as('root', 'r');
    try {
      await assert.rejects(other.get('/a').exec(), /user name is empty/);
      await assert.rejects(as('u', 'wrong').get('/a').exec(), EtcdAuthenticationFailedError);
      const u = as('u', 'p');
      await u.put('/u/1').value('mine');
      assert.strictEqual(await u.get('/u/1'), 'mine');
      await assert.rejects(u.get('/a').exec(), EtcdPermissionDeniedError);
      await assert.rejects(u.if('/u/1', 'Version', '>', 0).then(u.put('/a').value('no')).commit(), EtcdPermissionDeniedError);
      const seen = [];
      const watcher = await u.watch().prefix('/u/').create();
      watcher.on('put', (kv) => seen.push(kv.value.toString()));
      await admin.put('/u/2').value('seen');
      await until('the event', 10, () => seen.length === 1);
      await watcher.cancel();
      // A changed password makes every older token stale.
      await admin.user('u').setPassword('q');
      await as('u', 'q').put('/u/3').value('again');
      assert.deepStrictEqual((await admin.getUsers()).map((one) => one.name).sort(), ['root', 'u']);
    } finally {
      await admin.auth.authDisable();
    }
    assert.strictEqual(await other.get('/a'), '2');
  });
}

process.on('unhandledRejection', (error) => console.error('unhandled', error));
main().then(() => process.exit(failed ? 1 : 0), (error) => {
  console.log(`FAILED the program: ${error.message}`);
  process.exit(1);
});
