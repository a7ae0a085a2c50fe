//! The crate `etcd-client` (tonic): key values, txn, watch, lease, lock, election, auth.
//!
//! Prints `ok NAME` or `FAILED NAME: why` for every step; run.sh starts the members.

use etcd_client::*;
use std::future::Future;
use std::time::{Duration, Instant};

type Outcome = std::result::Result<(), String>;

macro_rules! eq {
    ($got:expr, $wanted:expr) => {
        match (&$got, &$wanted) {
            (got, wanted) if got == wanted => {}
            (got, wanted) => {
                return Err(format!("line {}: got {got:?}, wanted {wanted:?}", line!()));
            }
        }
    };
}

/// `?` over every error of the library and over absent fields.
trait Told<T> {
    fn told(self) -> std::result::Result<T, String>;
}
impl<T> Told<T> for std::result::Result<T, Error> {
    fn told(self) -> std::result::Result<T, String> {
        self.map_err(|error| error.to_string())
    }
}
impl<T> Told<T> for Option<T> {
    fn told(self) -> std::result::Result<T, String> {
        self.ok_or_else(|| "a field is absent".to_string())
    }
}

fn refused<T>(outcome: std::result::Result<T, Error>, text: &str) -> Outcome {
    match outcome {
        Err(error) if error.to_string().contains(text) => Ok(()),
        Err(error) => Err(format!("wanted {text:?}, got {error}")),
        Ok(_) => Err(format!("wanted {text:?}, it was allowed")),
    }
}

struct Steps {
    endpoints: Vec<String>,
    folder: String,
    failed: usize,
}

impl Steps {
    async fn run<F: Future<Output = Outcome>>(&mut self, name: &str, step: F) {
        match tokio::time::timeout(Duration::from_secs(60), step).await {
            Ok(Ok(())) => println!("ok {name}"),
            outcome => {
                self.failed += 1;
                let why = outcome.map_or("not within 60 s".to_string(), |o| o.unwrap_err());
                println!("FAILED {name}: {}", why.replace('\n', " "));
            }
        }
    }
}

async fn put(client: &mut Client, key: &str, value: &str) -> std::result::Result<i64, String> {
    let answer = client.put(key, value, None).await.told()?;
    Ok(answer.header().told()?.revision())
}

async fn get(client: &mut Client, key: &str) -> std::result::Result<Option<String>, String> {
    let answer = client.get(key, None).await.told()?;
    Ok(answer.kvs().first().map(|kv| String::from_utf8_lossy(kv.value()).into_owned()))
}

async fn kv(mut c: Client, mut other: Client) -> Outcome {
    eq!(get(&mut c, "/none").await?, None);
    let first = put(&mut c, "/a", "1").await?;
    let answer = c.put("/a", "2", Some(PutOptions::new().with_prev_key())).await.told()?;
    eq!(answer.prev_key().told()?.value(), b"1");
    let answer = other.get("/a", None).await.told()?;
    let read = &answer.kvs()[0];
    eq!((read.value(), read.version(), read.create_revision()), (&b"2"[..], 2, first));
    for i in 0..10 {
        put(&mut c, &format!("/range/{i}"), &format!("{}", 9 - i)).await?;
    }
    let options = GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Value, SortOrder::Ascend)
        .with_limit(3);
    let answer = other.get("/range/", Some(options)).await.told()?;
    let keys: Vec<&[u8]> = answer.kvs().iter().map(|kv| kv.key()).collect();
    eq!(keys, [b"/range/9", b"/range/8", b"/range/7"]);
    eq!((answer.more(), answer.count()), (true, 10));
    let answer = c.get("/range/", Some(GetOptions::new().with_prefix().with_count_only())).await;
    eq!(answer.told()?.count(), 10);
    let options = GetOptions::new().with_revision(first);
    eq!(c.get("/a", Some(options)).await.told()?.kvs()[0].value(), b"1");
    let answer = c.delete("/range/", Some(DeleteOptions::new().with_prefix().with_prev_key())).await;
    let answer = answer.told()?;
    eq!((answer.deleted(), answer.prev_kvs().len()), (10, 10));
    refused(c.get("/a", Some(GetOptions::new().with_revision(999_999))).await, "future revision")
}

async fn txn(mut c: Client) -> Outcome {
    let compares = || {
        vec![
            Compare::value("/a", CompareOp::Equal, "2"),
            Compare::version("/a", CompareOp::Greater, 1),
            Compare::create_revision("/none", CompareOp::Equal, 0),
            Compare::mod_revision("/a", CompareOp::NotEqual, 0),
            Compare::lease("/a", CompareOp::Equal, 0),
        ]
    };
    let nested = Txn::new().and_then([TxnOp::put("/txn/nested", "1", None)]);
    let txn = Txn::new().when(compares()).and_then([
        TxnOp::put("/txn/a", "1", None),
        TxnOp::get("/a", None),
        TxnOp::delete("/none", None),
        TxnOp::txn(nested),
    ]);
    let answer = c.txn(txn.or_else([TxnOp::put("/txn/no", "1", None)])).await.told()?;
    eq!((answer.succeeded(), answer.op_responses().len()), (true, 4));
    match &answer.op_responses()[1] {
        TxnOpResponse::Get(read) => eq!(read.kvs()[0].value(), b"2"),
        other => return Err(format!("{other:?} for a get")),
    }
    eq!(get(&mut c, "/txn/nested").await?, Some("1".to_string()));
    let txn = Txn::new()
        .when([Compare::version("/a", CompareOp::Less, 1)])
        .and_then([TxnOp::put("/txn/no", "1", None)])
        .or_else([TxnOp::get("/txn/a", None)]);
    eq!(c.txn(txn).await.told()?.succeeded(), false);
    eq!(get(&mut c, "/txn/no").await?, None);
    let twice = Txn::new().and_then([TxnOp::put("/d", "1", None), TxnOp::put("/d", "2", None)]);
    refused(c.txn(twice).await, "etcdserver: duplicate key given in txn request")
}

/// The next answer with events or of another kind than a progress notification.
async fn next(stream: &mut WatchStream) -> std::result::Result<WatchResponse, String> {
    match tokio::time::timeout(Duration::from_secs(15), stream.message()).await {
        Ok(message) => message.told()?.told(),
        Err(_) => Err("no watch answer within 15 s".to_string()),
    }
}

async fn values(stream: &mut WatchStream, count: usize) -> std::result::Result<Vec<String>, String> {
    let mut got = Vec::new();
    while got.len() < count {
        for event in next(stream).await?.events() {
            let kv = event.kv().told()?;
            got.push(match event.event_type() {
                EventType::Put => String::from_utf8_lossy(kv.value()).into_owned(),
                EventType::Delete => "deleted".to_string(),
            });
        }
    }
    Ok(got)
}

async fn watch(mut c: Client, mut other: Client) -> Outcome {
    let mut stream =
        other.watch("/w/", Some(WatchOptions::new().with_prefix().with_prev_key())).await.told()?;
    eq!(next(&mut stream).await?.created(), true);
    let first = put(&mut c, "/w/a", "1").await?;
    put(&mut c, "/w/b", "2").await?;
    put(&mut c, "/w/a", "3").await?;
    c.delete("/w/a", None).await.told()?;
    eq!(values(&mut stream, 4).await?, ["1", "2", "3", "deleted"]);
    stream.request_progress().await.told()?;
    let progress = next(&mut stream).await?;
    eq!((progress.watch_id(), progress.events().len()), (-1, 0));
    eq!(progress.header().told()?.revision() >= first + 3, true);
    // A second watch on the stream, from the past and without puts.
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(first)
        .with_filters([WatchFilterType::NoPut])
        .with_watch_id(77);
    stream.watch("/w/", Some(options)).await.told()?;
    eq!(next(&mut stream).await?.watch_id(), 77);
    eq!(values(&mut stream, 1).await?, ["deleted"]);
    stream.cancel(77).await.told()?;
    let gone = next(&mut stream).await?;
    eq!((gone.canceled(), gone.watch_id()), (true, 77));
    // One txn's events come as one answer.
    let both = [TxnOp::put("/w/x", "1", None), TxnOp::put("/w/y", "2", None)];
    c.txn(Txn::new().and_then(both)).await.told()?;
    eq!(next(&mut stream).await?.events().len(), 2);
    // A start that was compacted away.
    let now = put(&mut c, "/w/a", "4").await?;
    c.compact(now, Some(CompactionOptions::new().with_physical())).await.told()?;
    let mut late = c.watch("/w/a", Some(WatchOptions::new().with_start_revision(first))).await.told()?;
    let mut answer = next(&mut late).await?;
    if !answer.canceled() {
        answer = next(&mut late).await?;
    }
    eq!((answer.canceled(), answer.compact_revision()), (true, now));
    Ok(())
}

async fn lease(mut c: Client, mut other: Client) -> Outcome {
    let granted = c.lease_grant(30, Some(LeaseGrantOptions::new().with_id(4711))).await.told()?;
    eq!((granted.id(), granted.ttl()), (4711, 30));
    c.put("/lease/a", "1", Some(PutOptions::new().with_lease(4711))).await.told()?;
    let left = other.lease_time_to_live(4711, Some(LeaseTimeToLiveOptions::new().with_keys())).await;
    let left = left.told()?;
    eq!((left.granted_ttl(), left.keys()[0].as_slice()), (30, &b"/lease/a"[..]));
    let (mut keeper, mut stream) = other.lease_keep_alive(4711).await.told()?;
    for _ in 0..3 {
        keeper.keep_alive().await.told()?;
        eq!(stream.message().await.told()?.told()?.ttl(), 30);
    }
    eq!(c.leases().await.told()?.leases().iter().any(|lease| lease.id() == 4711), true);
    c.lease_revoke(4711).await.told()?;
    eq!(get(&mut other, "/lease/a").await?, None);
    eq!(c.lease_time_to_live(4711, None).await.told()?.ttl(), -1);
    refused(c.lease_revoke(4711).await, "etcdserver: requested lease not found")?;
    let (mut keeper, mut stream) = match c.lease_keep_alive(4711).await {
        Ok(both) => both,
        // The library asks once itself, and tells of an unknown lease by an error.
        Err(error) => return if error.to_string().contains("not") { expiry(c, other).await } else { Err(error.to_string()) },
    };
    keeper.keep_alive().await.told()?;
    eq!(stream.message().await.told()?.told()?.ttl(), 0);
    expiry(c, other).await
}

async fn expiry(mut c: Client, mut other: Client) -> Outcome {
    let (left, kept) = (c.lease_grant(2, None).await.told()?, c.lease_grant(2, None).await.told()?);
    c.put("/expire/left", "1", Some(PutOptions::new().with_lease(left.id()))).await.told()?;
    c.put("/expire/kept", "1", Some(PutOptions::new().with_lease(kept.id()))).await.told()?;
    let (mut keeper, mut stream) = other.lease_keep_alive(kept.id()).await.told()?;
    let begun = Instant::now();
    while get(&mut other, "/expire/left").await?.is_some() {
        keeper.keep_alive().await.told()?;
        stream.message().await.told()?.told()?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        eq!(begun.elapsed() < Duration::from_secs(12), true);
    }
    eq!(begun.elapsed() > Duration::from_millis(1500), true);
    eq!(get(&mut c, "/expire/kept").await?, Some("1".to_string()));
    c.lease_revoke(kept.id()).await.told()?;
    Ok(())
}

async fn lock(mut c: Client, mut other: Client) -> Outcome {
    let held = c.lock("l", None).await.told()?;
    let mut waiter = other.clone();
    let waiting = tokio::spawn(async move { waiter.lock("l", None).await.map(|l| l.key().to_vec()) });
    tokio::time::sleep(Duration::from_millis(700)).await;
    eq!(waiting.is_finished(), false);
    c.unlock(held.key()).await.told()?;
    let key = waiting.await.map_err(|error| error.to_string())?.told()?;
    eq!(key == held.key(), false);
    other.unlock(key).await.told()?;
    // A holder whose lease ends loses the lock.
    let lease = c.lease_grant(2, None).await.told()?.id();
    c.lock("dead", Some(LockOptions::new().with_lease(lease))).await.told()?;
    let next = other.lock("dead", None).await.told()?;
    other.unlock(next.key()).await.told()?;
    Ok(())
}

async fn election(mut c: Client, mut other: Client) -> Outcome {
    refused(c.leader("boss").await, "election: no leader")?;
    let first = c.lease_grant(20, None).await.told()?.id();
    let second = c.lease_grant(20, None).await.told()?.id();
    let answer = c.campaign("boss", "one", first).await.told()?;
    let leader = answer.leader().told()?.clone();
    eq!(leader.lease(), first);
    let mut observed = other.observe("boss").await.told()?;
    let value = |answer: LeaderResponse| {
        answer.kv().map(|kv| String::from_utf8_lossy(kv.value()).into_owned())
    };
    eq!(observed.message().await.told()?.and_then(value), Some("one".to_string()));
    c.proclaim("uno", Some(ProclaimOptions::new().with_leader(leader.clone()))).await.told()?;
    eq!(observed.message().await.told()?.and_then(value), Some("uno".to_string()));
    eq!(value(other.leader("boss").await.told()?), Some("uno".to_string()));
    let mut candidate = other.clone();
    let waiting = tokio::spawn(async move {
        candidate.campaign("boss", "two", second).await.map(|answer| answer.leader().cloned())
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    eq!(waiting.is_finished(), false);
    c.resign(Some(ResignOptions::new().with_leader(leader.clone()))).await.told()?;
    let next = waiting.await.map_err(|error| error.to_string())?.told()?.told()?;
    eq!(observed.message().await.told()?.and_then(value), Some("two".to_string()));
    let late = c.proclaim("late", Some(ProclaimOptions::new().with_leader(leader))).await;
    refused(late, "election: not leader")?;
    other.resign(Some(ResignOptions::new().with_leader(next))).await.told()?;
    c.lease_revoke(first).await.told()?;
    c.lease_revoke(second).await.told()?;
    Ok(())
}

async fn maintenance(mut c: Client, count: usize) -> Outcome {
    let members = c.member_list().await.told()?;
    eq!(members.members().len(), count);
    let status = c.status().await.told()?;
    eq!(members.members().iter().any(|member| member.id() == status.leader()), true);
    eq!(status.db_size() > 0 && status.raft_term() > 0 && status.raft_index() > 0, true);
    let id = members.members()[0].id();
    let options = || {
        let mut options = AlarmOptions::new();
        options.with_member(id);
        Some(options)
    };
    c.alarm(AlarmAction::Activate, AlarmType::Nospace, options()).await.told()?;
    refused(c.put("/alarmed", "1", None).await, "etcdserver: mvcc: database space exceeded")?;
    eq!(c.alarm(AlarmAction::Get, AlarmType::None, None).await.told()?.alarms().len(), 1);
    c.alarm(AlarmAction::Deactivate, AlarmType::Nospace, options()).await.told()?;
    put(&mut c, "/alarmed", "2").await?;
    c.hash().await.told()?;
    c.hash_kv(0).await.told()?;
    c.defragment().await.told()?;
    Ok(())
}

/// A watch that its program resumes: at another member, at the last revision + 1.
async fn resumption(endpoints: Vec<String>, folder: String) -> Outcome {
    let mut writer = Client::connect(&endpoints, None).await.told()?;
    let last = endpoints.len() - 1;
    let mut seen: Vec<String> = Vec::new();
    let mut at = put(&mut writer, "/resume", "0").await?;
    let mut member = Client::connect([&endpoints[last]], None).await.told()?;
    let from = |at: i64| Some(WatchOptions::new().with_start_revision(at + 1));
    let mut stream = member.watch("/resume", from(at)).await.told()?;
    for i in 1..=5 {
        put(&mut writer, "/resume", &i.to_string()).await?;
    }
    while seen.len() < 5 {
        for event in next(&mut stream).await?.events() {
            let kv = event.kv().told()?;
            at = kv.mod_revision();
            seen.push(String::from_utf8_lossy(kv.value()).into_owned());
        }
    }
    let pid = || std::fs::read_to_string(format!("{folder}/m{last}.pid")).unwrap_or_default();
    let old = pid();
    let killed = std::process::Command::new("kill").args(["-9", old.trim()]).status();
    eq!(killed.map(|status| status.success()).unwrap_or(false), true);
    for i in 6..=10 {
        let limit = Instant::now() + Duration::from_secs(20);
        while let Err(error) = put(&mut writer, "/resume", &i.to_string()).await {
            eq!((Instant::now() < limit, &error), (true, &error));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    // The broken stream tells of its end rather than staying silent.
    eq!(next(&mut stream).await.is_err(), true);
    let limit = Instant::now() + Duration::from_secs(20);
    let mut stream = loop {
        let mut anew = Client::connect([&endpoints[0]], None).await.told()?;
        match anew.watch("/resume", from(at)).await {
            Ok(stream) => break stream,
            Err(error) => eq!((Instant::now() < limit, error.to_string()), (true, error.to_string())),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    seen.extend(values(&mut stream, 5).await?);
    // A put whose answer was lost with its member may have been done twice.
    seen.dedup();
    let wanted: Vec<String> = (1..=10).map(|i| i.to_string()).collect();
    eq!(seen, wanted);
    Ok(())
}

async fn auth(mut c: Client, endpoints: Vec<String>) -> Outcome {
    c.user_add("root", "r", None).await.told()?;
    c.role_add("root").await.told()?;
    c.user_grant_role("root", "root").await.told()?;
    c.user_add("u", "p", None).await.told()?;
    c.role_add("r").await.told()?;
    c.role_grant_permission("r", Permission::read_write("/u/").with_prefix()).await.told()?;
    c.user_grant_role("u", "r").await.told()?;
    eq!(c.user_get("u").await.told()?.roles(), ["r"]);
    eq!(c.role_get("r").await.told()?.permissions().len(), 1);
    eq!(c.user_list().await.told()?.users(), ["root", "u"]);
    refused(c.role_add("r").await, "etcdserver: role name already exists")?;
    c.auth_enable().await.told()?;
    let login = |name: &str, password: &str| {
        let options = ConnectOptions::new().with_user(name, password);
        let endpoints = endpoints.clone();
        async move { Client::connect(&endpoints, Some(options)).await }
    };
    let mut root = login("root", "r").await.told()?;
    let outcome = async {
        refused(c.get("/a", None).await, "etcdserver: user name is empty")?;
        refused(login("u", "no").await, "authentication failed, invalid user ID or password")?;
        let mut u = login("u", "p").await.told()?;
        put(&mut u, "/u/1", "mine").await?;
        eq!(get(&mut u, "/u/1").await?, Some("mine".to_string()));
        refused(u.put("/a", "no", None).await, "etcdserver: permission denied")?;
        let hidden = Txn::new().and_then([TxnOp::txn(Txn::new().and_then([TxnOp::get("/a", None)]))]);
        refused(u.txn(hidden).await, "etcdserver: permission denied")?;
        refused(u.user_list().await, "etcdserver: permission denied")?;
        let mut stream = u.watch("/u/", Some(WatchOptions::new().with_prefix())).await.told()?;
        eq!(next(&mut stream).await?.created(), true);
        put(&mut root, "/u/2", "seen").await?;
        eq!(values(&mut stream, 1).await?, ["seen"]);
        let held = u.lock("/u/lock", None).await.told()?;
        u.unlock(held.key()).await.told()?;
        refused(u.lock("/other", None).await, "etcdserver: permission denied")?;
        root.user_change_password("u", "q").await.told()?;
        let mut u = login("u", "q").await.told()?;
        root.role_revoke_permission("r", "/u/", Some(RoleRevokePermissionOptions::new().with_prefix()))
            .await
            .told()?;
        refused(u.get("/u/1", None).await, "etcdserver: permission denied")?;
        root.user_revoke_role("u", "r").await.told()?;
        root.role_delete("r").await.told()?;
        root.user_delete("u").await.told()?;
        Ok(())
    }
    .await;
    root.auth_disable().await.told()?;
    eq!(get(&mut c, "/a").await?, Some("2".to_string()));
    outcome
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let endpoints: Vec<String> = std::env::var("ENDPOINTS")
        .expect("run.sh sets ENDPOINTS")
        .split(',')
        .map(str::to_string)
        .collect();
    let folder = std::env::var("MEMBERS_DIR").expect("run.sh sets MEMBERS_DIR");
    let count = endpoints.len();
    let mut steps = Steps { endpoints, folder, failed: 0 };
    let c = Client::connect(&steps.endpoints, None).await.expect("members answer");
    let other = Client::connect([&steps.endpoints[count - 1]], None).await.expect("members answer");
    steps.run("kv: put, get, ranges, a past revision, delete", kv(c.clone(), other.clone())).await;
    steps.run("txn: compares of every target, both branches, nested", txn(c.clone())).await;
    steps.run("watch: two on a stream, progress, one txn one answer, compacted", watch(c.clone(), other.clone())).await;
    steps.run("lease: grant, keepalive, time to live, list, revoke, expiry", lease(c.clone(), other.clone())).await;
    steps.run("lock: a second one waits, a dead holder's lock", lock(c.clone(), other.clone())).await;
    steps.run("election: campaign, proclaim, observe, leader, resign", election(c.clone(), other.clone())).await;
    steps.run("members, status, alarms, hashes, defragment", maintenance(other.clone(), count)).await;
    let (endpoints, folder) = (steps.endpoints.clone(), steps.folder.clone());
    steps.run("resumption: at another member at the last revision + 1", resumption(endpoints, folder)).await;
    let endpoints = steps.endpoints.clone();
    let c = Client::connect(&endpoints, None).await.expect("members answer");
    steps.run("auth: users, roles, tokens, permissions by range, a lock under them", auth(c, endpoints)).await;
    std::process::exit(if steps.failed > 0 { 1 } else { 0 });
}
