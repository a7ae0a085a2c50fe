//! A cluster that grows, loses members and gets new ones, as an operator does it: `etcdctl` and
//! real processes. And every refusal of the membership RPCs, code and text.

use crate::client::Client;
use crate::harness::{
    Cluster, Etcdctl, Member, Ran, free_port, have_etcdctl, is_quorate, wait_serving,
};
use quorate::api::proto::etcdserverpb as pb;
use std::time::{Duration, Instant};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(30);

fn ctl_of(member: &Member) -> Etcdctl {
    Etcdctl { endpoints: member.client() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What follows `NAME=` in what `member add` prints.
fn variable(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().trim_matches('"').to_string()
}

/// Runs the command until it succeeds: before a cluster may change, its members must have told it
/// of themselves and have been connected for five seconds.
fn once_healthy(ctl: &Etcdctl, args: &[&str]) -> String {
    let begun = Instant::now();
    loop {
        let ran = ctl.run(args);
        if ran.code == 0 {
            return ran.stdout;
        }
        let early = ["etcdserver: unhealthy cluster", "due to not enough started members"];
        assert!(early.iter().any(|text| ran.stderr.contains(text)), "{args:?}: {ran:?}");
        assert!(begun.elapsed() < PATIENCE, "{args:?}: {ran:?}");
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Adds a member the way the manual says, and starts it with what `member add` printed.
fn add(cluster: &mut Cluster, ctl: &Etcdctl, name: &str, learner: bool) -> usize {
    let ports = (free_port(), free_port());
    let mut member = Member::new(cluster.dir.path(), name, ports, "", "existing", &[]);
    let urls = format!("--peer-urls={}", member.peer_url());
    let mut args = vec!["member", "add", name, urls.as_str()];
    if learner {
        args.push("--learner");
    }
    let told = once_healthy(ctl, &args);
    assert!(told.contains(" added to cluster "), "{told}");
    assert_eq!(variable(&told, "ETCD_NAME"), name);
    assert_eq!(variable(&told, "ETCD_INITIAL_CLUSTER_STATE"), "existing");
    member.set_flag("--initial-cluster", &variable(&told, "ETCD_INITIAL_CLUSTER"));
    member.start();
    cluster.members.push(member);
    cluster.members.len() - 1
}

fn serves(member: &Member) {
    wait_serving(&member.client(), PATIENCE)
        .unwrap_or_else(|text| panic!("{}: {text}\n{}", member.name, member.log_text()));
}

/// The rows of `member list`: id, status, name, peer URLs, client URLs, learner.
fn list(ctl: &Etcdctl) -> Vec<Vec<String>> {
    let rows = ctl.ok(&["member", "list"]);
    rows.lines().map(|line| line.split(", ").map(str::to_string).collect()).collect()
}

fn id_of(ctl: &Etcdctl, name: &str) -> String {
    let rows = list(ctl);
    let row = rows.iter().find(|row| row[2] == name);
    row.unwrap_or_else(|| panic!("no {name} in {rows:?}"))[0].clone()
}

/// Waits until the cluster knows so many members by name.
fn started(ctl: &Etcdctl, count: usize) {
    let begun = Instant::now();
    while list(ctl).iter().filter(|row| row[1] == "started").count() < count {
        assert!(begun.elapsed() < PATIENCE, "{:?}", list(ctl));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// SIGTERM; etcd then dies of the signal, Quorate ends well.
fn stop(member: &mut Member) {
    let (status, _) = member.terminate();
    assert!(status.success() || !is_quorate(), "{status:?}");
}

fn fails(ran: &Ran, text: &str) {
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains(text), "expected {text:?}, got {ran:?}");
}

/// Which of these members leads.
fn leader(members: &[&Member]) -> usize {
    let begun = Instant::now();
    let runtime = runtime();
    loop {
        for (at, member) in members.iter().enumerate() {
            let status = runtime.block_on(async { Client::new(&member.client()).status().await });
            if let Ok(status) = status
                && status.header.is_some_and(|header| header.member_id == status.leader)
            {
                return at;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "nobody leads");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_cluster_grows_and_its_members_are_replaced() {
    if !have_etcdctl("a growing cluster") {
        return;
    }
    let mut cluster = Cluster::start("grow", 1, &[]);
    let ctl = ctl_of(&cluster.members[0]);
    for n in 0..50 {
        ctl.ok(&["put", &format!("g/{n:02}"), "before"]);
    }
    let everything = ctl.ok(&["get", "g/", "--prefix"]);
    let second = add(&mut cluster, &ctl, "m2", false);
    serves(&cluster.members[second]);
    let third = add(&mut cluster, &ctl, "m3", false);
    serves(&cluster.members[third]);
    for member in &cluster.members {
        let here = ctl_of(member);
        assert_eq!(here.ok(&["get", "g/", "--prefix", "--consistency=s"]), everything);
        started(&here, 3);
    }
    // Every form of the list names everybody.
    for form in ["simple", "table", "json", "fields"] {
        let text = ctl.ok(&["member", "list", "-w", form]);
        for member in &cluster.members {
            assert!(text.contains(&member.name) && text.contains(&member.peer_url()), "{text}");
        }
    }

    // One is lost for good and another takes its place.
    let lost = id_of(&ctl, "m3");
    cluster.members[third].kill();
    let told = ctl.ok(&["member", "remove", &lost]);
    assert!(told.contains(&format!("Member {lost:>16} removed from cluster ")), "{told}");
    assert_eq!(list(&ctl).len(), 2);
    let fourth = add(&mut cluster, &ctl, "m4", false);
    serves(&cluster.members[fourth]);
    assert_eq!(ctl_of(&cluster.members[fourth]).ok(&["get", "g/", "--prefix"]), everything);

    // The lost one comes back with its old data: it is told that it is no member any more.
    cluster.members[third].start();
    let status = cluster.members[third].wait_end(PATIENCE);
    if is_quorate() {
        assert!(!status.success(), "{status:?}");
        let log = cluster.members[third].log_text();
        assert!(log.contains("this member has been removed from the cluster"), "{log}");
    }
    // With an empty directory and a new id it is welcome.
    std::fs::remove_dir_all(&cluster.members[third].data_dir).expect("the old data goes");
    let urls = format!("--peer-urls={}", cluster.members[third].peer_url());
    let told = once_healthy(&ctl, &["member", "add", "m3", &urls]);
    let initial = variable(&told, "ETCD_INITIAL_CLUSTER");
    cluster.members[third].set_flag("--initial-cluster", &initial);
    cluster.members[third].start();
    serves(&cluster.members[third]);
    started(&ctl, 4);
    assert_ne!(id_of(&ctl, "m3"), lost, "an id was used twice");

    // A member that joined needs nothing but its data directory; flags that begin a cluster must
    // at least name somebody of it, or the directory might be another cluster's.
    let founder = format!("{},m4=http://127.0.0.1:9", cluster.members[0].initial());
    for (state, initial) in [("existing", "m4=http://127.0.0.1:9"), ("new", &*founder)] {
        let member = &mut cluster.members[fourth];
        stop(member);
        member.set_flag("--initial-cluster-state", state);
        member.set_flag("--initial-cluster", initial);
        member.start();
        serves(member);
    }
    ctl.ok(&["put", "g/after", "all this"]);
    for member in &cluster.members {
        assert_eq!(ctl_of(member).ok(&["get", "g/after"]), "g/after\nall this\n");
    }
}

#[test]
fn learners_are_added_promoted_and_moved() {
    if !have_etcdctl("learners") {
        return;
    }
    let mut cluster = Cluster::start("learner", 1, &[]);
    let ctl = ctl_of(&cluster.members[0]);
    ctl.ok(&["put", "l/1", "one"]);
    // Never started: it has nothing.
    let url = format!("--peer-urls=http://127.0.0.1:{}", free_port());
    ctl.ok(&["member", "add", "m2", "--learner", &url]);
    let rows = list(&ctl);
    let absent = rows.iter().find(|row| row[1] == "unstarted").expect("an unstarted member");
    assert_eq!(absent.last().map(String::as_str), Some("true"), "{rows:?}");
    let early = "can only promote a learner member which is in sync with leader";
    fails(&ctl.run(&["member", "promote", &absent[0]]), early);
    let another = format!("--peer-urls=http://127.0.0.1:{}", free_port());
    fails(
        &ctl.run(&["member", "add", "m3", "--learner", &another]),
        "etcdserver: too many learner members in cluster",
    );
    ctl.ok(&["member", "remove", &absent[0]]);

    let learner = add(&mut cluster, &ctl, "m2", true);
    let here = ctl_of(&cluster.members[learner]);
    let begun = Instant::now();
    // A learner answers serializable reads and its status, and nothing else.
    while here.run(&["get", "l/1", "--consistency=s"]).stdout != "l/1\none\n" {
        assert!(begun.elapsed() < PATIENCE, "{}", cluster.members[learner].log_text());
        std::thread::sleep(Duration::from_millis(50));
    }
    fails(&here.run(&["put", "l/2", "x"]), "etcdserver: rpc not supported for learner");
    let status = here.ok(&["endpoint", "status", "-w", "json"]);
    assert!(status.contains("\"isLearner\":true"), "{status}");
    let id = id_of(&ctl, "m2");
    let told = ctl.ok(&["member", "promote", &id]);
    assert!(told.contains(&format!("Member {id:>16} promoted in cluster ")), "{told}");
    serves(&cluster.members[learner]);
    fails(&ctl.run(&["member", "promote", &id]), "etcdserver: can only promote a learner member");
    here.ok(&["put", "l/2", "two"]);

    // Its peer URL moves: the cluster is told first, then it starts elsewhere.
    stop(&mut cluster.members[learner]);
    cluster.members[learner].start();
    serves(&cluster.members[learner]);
    let url = format!("http://127.0.0.1:{}", free_port());
    let told = ctl.ok(&["member", "update", &id, &format!("--peer-urls={url}")]);
    assert!(told.contains(&format!("Member {id:>16} updated in cluster ")), "{told}");
    // Until it is there it cannot be reached, and of two voters both are needed.
    let member = &mut cluster.members[learner];
    member.kill();
    member.set_flag("--listen-peer-urls", &url);
    member.set_flag("--initial-advertise-peer-urls", &url);
    member.start();
    serves(member);
    assert_eq!(here.ok(&["get", "l/2"]), "l/2\ntwo\n");
    let rows = list(&ctl);
    assert!(rows.iter().any(|row| row[0] == id && row[3] == url), "{rows:?}");
}

#[test]
fn leaders_move_and_are_removed() {
    if !have_etcdctl("leaders") {
        return;
    }
    let mut cluster = Cluster::start("leaders", 3, &[]);
    let all: Vec<&Member> = cluster.members.iter().collect();
    let (first, next) = (leader(&all), (leader(&all) + 1) % 3);
    let leads = ctl_of(all[first]);
    started(&leads, 3);
    let target = id_of(&leads, &all[next].name);
    // etcdctl finds the leader among its endpoints by itself; the bare RPC does not.
    let refused = runtime().block_on(async {
        Client::new(&all[next].client()).move_leader(0xdead).await.expect_err("not the leader")
    });
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::FailedPrecondition, "etcdserver: not leader")
    );
    let refused = runtime().block_on(async {
        Client::new(&all[first].client()).move_leader(0xdead).await.expect_err("nobody")
    });
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::FailedPrecondition, "etcdserver: bad leader transferee")
    );
    let everybody = Etcdctl { endpoints: cluster.endpoints() };
    let told = everybody.ok(&["move-leader", &target]);
    assert!(told.contains(&format!(" to {target}")), "{told}");
    assert_eq!(leader(&all), next);
    runtime().block_on(async {
        let header = Client::new(&all[next].client()).move_leader(id(&target)).await;
        assert_eq!(header.expect("to itself is fine").header, None);
    });

    // The leader goes by its own hand, once it has been connected for long enough; or, where it may
    // end before it has answered (etcd), by another's.
    let ctl = ctl_of(all[if is_quorate() { next } else { first }]);
    once_healthy(&ctl, &["member", "remove", &target]);
    let status = cluster.members[next].wait_end(PATIENCE);
    if is_quorate() {
        assert!(!status.success(), "{status:?}");
        let log = cluster.members[next].log_text();
        assert!(log.contains("this member has been removed from the cluster"), "{log}");
    }
    let left: Vec<&Member> = cluster.members.iter().filter(|m| m.is_running()).collect();
    leader(&left);
    for member in left {
        serves(member);
        let ctl = ctl_of(member);
        assert_eq!(list(&ctl).len(), 2);
        ctl.ok(&["put", "still", "here"]);
    }
}

/// Waits until the cluster knows every member by name.
async fn all_started(client: &Client) {
    let begun = Instant::now();
    let unnamed = |list: &pb::MemberListResponse| list.members.iter().any(|m| m.name.is_empty());
    while client.members(true).await.map_or(true, |list| unnamed(&list)) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", client.members(false).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn id(hex: &str) -> u64 {
    u64::from_str_radix(hex, 16).expect("etcdctl prints ids in hex")
}

#[test]
fn every_refusal_has_etcds_code_and_text() {
    let cluster = Cluster::start("refusals", 3, &[]);
    runtime().block_on(async {
        let clients: Vec<Client> =
            cluster.members.iter().map(|member| Client::new(&member.client())).collect();
        for client in &clients {
            all_started(client).await;
        }
        let said = |result: Result<(), tonic::Status>| {
            let status = result.expect_err("a refusal");
            (status.code(), status.message().to_string())
        };
        for client in &clients {
            let members = client.members(true).await.expect("a list");
            assert_eq!(members.header.map(|header| header.revision), Some(0));
            let members = members.members;
            let taken = members[0].peer_ur_ls.clone();
            let invalid =
                (Code::InvalidArgument, "etcdserver: given member URLs are invalid".to_string());
            let absent = (Code::NotFound, "etcdserver: member not found".to_string());
            for bad in [&[][..], &[""], &["127.0.0.1:1"], &["http://127.0.0.1"], &["http://a:1/b"]]
            {
                assert_eq!(said(client.add(bad, false).await), invalid, "{bad:?}");
                assert_eq!(said(client.add(bad, true).await), invalid, "{bad:?}");
            }
            // etcd's server takes it, and panics.
            if is_quorate() {
                assert_eq!(said(client.update(members[0].id, &["nonsense"]).await), invalid);
            }
            assert_eq!(said(client.remove(0xdead).await), absent);
            assert_eq!(said(client.promote(0xdead).await), absent);
            assert_eq!(said(client.update(0xdead, &["http://127.0.0.1:1"]).await), absent);
            assert_eq!(
                said(client.promote(members[1].id).await),
                (Code::FailedPrecondition, "etcdserver: can only promote a learner member".into())
            );
            let exists =
                (Code::FailedPrecondition, "etcdserver: Peer URLs already exists".to_string());
            let other = &[taken[0].as_str()];
            assert_eq!(said(client.update(members[1].id, other).await), exists);
            // The same URL again is no conflict with itself.
            client.update(members[0].id, other).await.expect("nothing changes");
            // Whoever has been connected for less than five seconds does not count yet.
            let begun = Instant::now();
            loop {
                let answer = said(client.add(other, false).await);
                if answer == exists {
                    break;
                }
                let early = (Code::Unavailable, "etcdserver: unhealthy cluster".to_string());
                assert_eq!(answer, early);
                assert!(begun.elapsed() < PATIENCE);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert_eq!(said(client.add(other, true).await), exists);
        }
        // A learner that never starts comes and goes, once.
        let fresh = format!("http://127.0.0.1:{}", free_port());
        clients[0].add(&[&fresh], true).await.expect("a learner");
        let learner = clients[0].members(true).await.expect("a list").members;
        let learner = learner.iter().find(|member| member.is_learner).expect("the learner");
        assert_eq!(learner.name, "");
        clients[1].remove(learner.id).await.expect("learners go freely");
        let again = said(clients[2].remove(learner.id).await);
        assert_eq!(again, (Code::NotFound, "etcdserver: member not found".to_string()));
    });
}

#[test]
fn too_few_started_members_and_the_last_one() {
    let cluster = Cluster::start("started", 1, &[]);
    let refused = (
        Code::Unknown,
        "etcdserver: re-configuration failed due to not enough started members".to_string(),
    );
    runtime().block_on(async {
        let said = |result: Result<(), tonic::Status>| {
            let status = result.expect_err("a refusal");
            (status.code(), status.message().to_string())
        };
        let client = Client::new(&cluster.members[0].client());
        all_started(&client).await;
        let members = client.members(true).await.expect("a list").members;
        assert_eq!(said(client.remove(members[0].id).await), refused);
        // One may grow to two; then the second has to come before anything else.
        let url = format!("http://127.0.0.1:{}", free_port());
        client.add(&[&url], false).await.expect("the second");
        let url = format!("http://127.0.0.1:{}", free_port());
        assert_eq!(said(client.add(&[&url], false).await), refused);
        assert_eq!(said(client.remove(members[0].id).await), refused);
        // Without a quorum the list is still told to those who do not mind its age.
        assert_eq!(client.members(false).await.expect("a list").members.len(), 2);
    });
}

#[test]
fn who_does_not_fit_the_cluster_does_not_join_it() {
    if !is_quorate() {
        return;
    }
    let cluster = Cluster::start("misfit", 1, &[]);
    let running = cluster.members[0].initial();
    let refused = |name: &str, initial: &str, parts: &[&str]| {
        let ports = (free_port(), free_port());
        let own = format!("{name}=http://127.0.0.1:{}", ports.1);
        let initial = initial.replace("OWN", &own);
        let mut member = Member::new(cluster.dir.path(), name, ports, &initial, "existing", &[]);
        member.start();
        let status = member.wait_end(PATIENCE);
        assert!(!status.success(), "{status:?}");
        let log = member.log_text();
        for part in parts {
            assert!(log.contains(part), "{log} lacks {part:?}");
        }
        let wal = member.data_dir.join("member/wal");
        assert!(!wal.exists(), "a refused start wrote something");
    };
    let nobody = format!("x=http://127.0.0.1:{}", free_port());
    refused("n1", "OWN", &["cannot fetch cluster info from peer urls", "names no other member"]);
    refused(
        "n2",
        &format!("OWN,{nobody}"),
        &["could not retrieve cluster information from the given URLs", "refused"],
    );
    refused("n3", &format!("OWN,{running}"), &["member count is unequal", "etcdctl member add n3"]);
    refused(
        "n4",
        &format!("OWN,{running},{nobody}"),
        &["error validating peerURLs", "member count is unequal", "etcdctl member list"],
    );
    // A client's port is not a peer's.
    let client = format!("m1=http://{}", cluster.members[0].client());
    refused("n5", &format!("OWN,{client}"), &["cannot fetch cluster info from peer urls"]);
    refused("n6", &running, &["--initial-cluster has no member named \"n6\""]);
}

#[test]
fn a_downgrade_is_checked_kept_and_cancelled() {
    use pb::downgrade_request::DowngradeAction::{Cancel, Enable, Validate};
    if !is_quorate() {
        // etcd would begin to go down.
        return;
    }
    let mut cluster = Cluster::start("downgrade", 3, &[]);
    runtime().block_on(async {
        let clients: Vec<Client> =
            cluster.members.iter().map(|member| Client::new(&member.client())).collect();
        let client = &clients[0];
        let said = |result: Result<String, tonic::Status>| {
            let status = result.expect_err("a refusal");
            (status.code(), status.message().to_string())
        };
        let format = "etcdserver: wrong downgrade target version format".to_string();
        let target = "etcdserver: invalid downgrade target version".to_string();
        let running = "etcdserver: cluster has a downgrade job in progress".to_string();
        for action in [Validate, Enable] {
            for version in ["", "three", "3", "v3.5"] {
                let said = said(client.downgrade(action, version).await);
                assert_eq!(said, (Code::InvalidArgument, format.clone()), "{version:?}");
            }
            for version in ["3.6", "3.4", "3.7.1", "4.5"] {
                let said = said(client.downgrade(action, version).await);
                assert_eq!(said, (Code::InvalidArgument, target.clone()), "{version:?}");
            }
        }
        assert_eq!(client.downgrade(Validate, "3.5").await.expect("one down"), "3.6");
        assert_eq!(client.downgrade(Cancel, "").await.expect("nothing to cancel"), "3.6");
        assert_eq!(client.downgrade(Enable, "3.5.9").await.expect("one down"), "3.6");
        for client in &clients {
            let refused = said(client.downgrade(Validate, "3.5").await);
            assert_eq!(refused, (Code::FailedPrecondition, running.clone()));
            let info = client.status().await.expect("a status").downgrade_info;
            let info = info.expect("always told");
            assert_eq!((info.enabled, info.target_version.as_str()), (true, "3.5.0"));
        }
    });
    // It outlives every member's process.
    for member in &mut cluster.members {
        stop(member);
    }
    for member in &mut cluster.members {
        member.start();
    }
    cluster.wait_ready();
    runtime().block_on(async {
        let client = Client::new(&cluster.members[2].client());
        let info = client.status().await.expect("a status").downgrade_info.expect("always told");
        assert!(info.enabled);
        assert_eq!(client.downgrade(Cancel, "").await.expect("cancelled"), "3.6");
        let info = client.status().await.expect("a status").downgrade_info.expect("always told");
        assert_eq!((info.enabled, info.target_version.as_str()), (false, ""));
        // Who has the answer finds it done, each time.
        for _ in 0..40 {
            for (action, version, enabled) in [(Enable, "3.5", true), (Cancel, "", false)] {
                client.downgrade(action, version).await.expect("taken");
                let status = client.status().await.expect("a status");
                assert_eq!(status.downgrade_info.expect("always told").enabled, enabled);
            }
        }
        assert_eq!(client.downgrade(Validate, "3.5").await.expect("one down"), "3.6");
    });
}

#[test]
fn a_data_directory_goes_with_its_member_and_with_no_other() {
    if !is_quorate() || !have_etcdctl("moved and mixed up members") {
        return;
    }
    let mut cluster = Cluster::start("moved", 3, &[]);
    let ctl = ctl_of(&cluster.members[0]);
    started(&ctl, 3);
    let id = id_of(&ctl, "m3");
    let url = format!("http://127.0.0.1:{}", free_port());
    ctl.ok(&["member", "update", &id, &format!("--peer-urls={url}")]);
    // Flags that begin a cluster no longer give this member's id: its directory still does.
    let moved = &mut cluster.members[2];
    moved.kill();
    moved.set_flag("--listen-peer-urls", &url);
    moved.set_flag("--initial-advertise-peer-urls", &url);
    moved.start();
    serves(moved);
    // And once more, when its own checkpoint knows the new URL.
    stop(moved);
    moved.start();
    serves(moved);

    let other = cluster.members[1].data_dir.display().to_string();
    for at in [0, 1] {
        stop(&mut cluster.members[at]);
    }
    let mixed = &mut cluster.members[0];
    mixed.set_flag("--data-dir", &other);
    mixed.start();
    assert!(!mixed.wait_end(PATIENCE).success());
    assert!(mixed.log_text().contains("belongs to member"), "{}", mixed.log_text());
}
