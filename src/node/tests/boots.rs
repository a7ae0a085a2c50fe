use super::cluster::{Cluster, founders, group_ids};
use crate::io::{Disk, MemDisk};
use crate::multiraft::meta::GroupMeta;
use crate::node::action::Action;
use crate::node::boot::{BootConfig, BootError, Founding, boot};
use crate::node::config::CoreConfig;
use crate::types::{ClusterId, Command, GroupId, Incarnation, NodeId};
use crate::wal::{Batch, Record, Wal};
use std::path::Path;
use std::sync::Arc;

fn config(incarnation: u64) -> BootConfig {
    let (cluster, rows) = founders(1);
    let core = CoreConfig::new(cluster, rows[0].id, Incarnation(incarnation), incarnation);
    let mut config =
        BootConfig::new("/data", core, Founding::New { members: rows, groups: group_ids(3) });
    config.wal.segment_bytes = 256 << 10;
    config
}

fn disk_of(disk: &Arc<MemDisk>) -> Arc<dyn Disk> {
    disk.clone()
}

/// Checkpoints every few entries, and next to nothing behind them in the log.
fn keeps_little(config: &mut BootConfig) {
    config.checkpoint.tail_entries = 5;
    config.core.trim.keep_entries = 2;
    config.core.trim.step_entries = 1;
}

#[test]
fn founding_survives_a_crash_at_every_operation() {
    let whole = Arc::new(MemDisk::new(0));
    drop(boot(disk_of(&whole), config(1)).unwrap());
    let mutating = 400;
    let mut cut = 0;
    for nth in 1..mutating {
        let disk = Arc::new(MemDisk::new(nth));
        disk.set_crash_after(nth);
        let done = boot(disk_of(&disk), config(nth)).is_ok();
        cut += u64::from(!done);
        disk.clear_crash_after();
        disk.crash();
        let member = boot(disk_of(&disk), config(10_000 + nth))
            .unwrap_or_else(|error| panic!("after a crash at {nth}: {error}"));
        if done {
            assert_eq!(member.core.config().incarnation, Incarnation(nth));
        }
        assert_eq!(member.core.group_ids().count(), 3);
        if done {
            break;
        }
    }
    assert!(cut > 10, "only {cut} crashes");
}

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    let disk = Arc::new(MemDisk::new(0));
    drop(boot(disk_of(&disk), config(1)).unwrap());
    let mut other = config(2);
    other.core.cluster = ClusterId(77);
    assert!(matches!(boot(disk_of(&disk), other), Err(BootError::OtherCluster { .. })));
    let mut other = config(2);
    other.core.node = NodeId(77);
    assert!(matches!(boot(disk_of(&disk), other), Err(BootError::OtherMember { .. })));
    let mut never = config(2);
    never.founding = Founding::Never;
    never.data_dir = "/elsewhere".into();
    assert!(matches!(boot(disk_of(&disk), never), Err(BootError::NoData { .. })));
    let held = boot(disk_of(&disk), config(2)).unwrap();
    assert_eq!(held.core.config().incarnation, Incarnation(1));
    assert!(matches!(boot(disk_of(&disk), config(3)), Err(BootError::Storage(_))));
}

#[test]
fn a_log_that_was_lost_or_put_back_is_refused() {
    let mut cluster = Cluster::new(1, 1, keeps_little);
    let id = cluster.ids()[0];
    let write = |cluster: &mut Cluster, n: usize| {
        let tokens: Vec<_> =
            (0..n).map(|n| cluster.put(id, GroupId::ROOT, &format!("k{n}"), "v")).collect();
        cluster.wait_all(&tokens);
        cluster.run(200);
    };
    write(&mut cluster, 20);
    let old = cluster.nodes[&id].disk.fork();
    for _ in 0..4 {
        write(&mut cluster, 10);
    }
    cluster.crash(id);
    let disk = cluster.nodes[&id].disk.clone();
    let copy = |from: &MemDisk, to: &MemDisk, dir: &str| {
        for path in to.files() {
            if path.starts_with(dir) {
                to.unlink(&path).unwrap();
            }
        }
        for path in from.files() {
            if path.starts_with(dir) {
                let bytes = from.contents(&path).unwrap();
                let file = to.open(&path, crate::io::OpenMode::CreateNew).unwrap();
                file.write_at(&[&bytes], 0).unwrap();
                file.sync_data().unwrap();
            }
        }
        to.sync_dir(Path::new(dir)).unwrap();
    };
    let boot_config = |cluster: &Cluster| cluster.nodes[&id].config.clone();
    // An old log beside a new store.
    let mixed = Arc::new(disk.fork());
    copy(&old, &mixed, "/data/member/wal");
    let error = boot(disk_of(&mixed), boot_config(&cluster)).unwrap_err();
    assert!(matches!(error, BootError::LogLost { .. }), "{error}");
    // An old store beside a new log.
    let mixed = Arc::new(disk.fork());
    copy(&old, &mixed, "/data/member/snap");
    let error = boot(disk_of(&mixed), boot_config(&cluster)).unwrap_err();
    assert!(matches!(error, BootError::Gap { .. }), "{error}");
    // No log at all.
    let mixed = Arc::new(disk.fork());
    for path in mixed.files() {
        if path.starts_with("/data/member/wal") {
            mixed.unlink(&path).unwrap();
        }
    }
    let error = boot(disk_of(&mixed), boot_config(&cluster)).unwrap_err();
    assert!(matches!(error, BootError::LogMissing { .. }), "{error}");
    cluster.start(id).unwrap();
}

#[test]
fn a_destroyed_groups_log_stays_while_the_newest_checkpoint_knows_the_group() {
    let mut cluster = Cluster::new(1, 1, |_| {});
    let id = cluster.ids()[0];
    let root = |command| move |token| Action::Propose { group: GroupId::ROOT, token, command };
    cluster.settle(1);
    let created = cluster.ask(id, root(Command::CreateGroup));
    cluster.wait(created).expect("a second group");
    cluster.run(500);
    // The older checkpoint does not know the group, and when the newest is durable it is gone.
    let job = cluster.begin_checkpoint(id);
    let destroyed = cluster.ask(id, root(Command::DestroyGroup { group: GroupId(2) }));
    cluster.wait(destroyed).expect("the group ends");
    cluster.finish_checkpoint(id, job);
    cluster.run(500);
    // What has time until something else is written is written now.
    let put = cluster.put(id, GroupId::ROOT, "k", "v");
    cluster.wait(put).expect("group 1 goes on");
    cluster.crash(id);
    cluster.start(id).expect("the store has a group and the log has it too");
    cluster.run(500);
    assert_eq!(cluster.member(id).core.group_ids().count(), 1);
}

/// Takes a group out of a log, as if nothing of it had been synced yet.
fn forget_in_log(disk: &Arc<MemDisk>, config: &BootConfig, group: GroupId) {
    let dir = config.wal_path();
    let (wal, logs) = Wal::open(disk_of(disk), &dir, config.wal).unwrap();
    let identity = *wal.identity();
    let mut records = Vec::new();
    for (&kept, log) in logs.iter().filter(|(known, _)| **known != group) {
        let (index, term) = log.start;
        records.push(Record::HardState { group: kept, hard: log.hard });
        records.push(Record::LogStart { group: kept, index, term });
        if index < log.last {
            let entries = wal.read(kept, index.next(), log.last, u64::MAX as usize).unwrap();
            records.push(Record::Append { group: kept, entries });
        }
    }
    drop(wal);
    for path in disk.files().into_iter().filter(|path| path.starts_with(&dir)) {
        disk.unlink(&path).unwrap();
    }
    let mut wal = Wal::create(disk_of(disk), &dir, identity, config.wal).unwrap();
    wal.write(&Batch { records }).unwrap();
    wal.sync().unwrap();
}

#[test]
fn a_fetched_group_that_no_log_was_synced_of_begins_where_it_was_fetched() {
    let mut cluster = Cluster::new(3, 2, keeps_little);
    cluster.settle(2);
    let (group, away) = (GroupId(2), cluster.ids()[2]);
    cluster.crash(away);
    let id = cluster.ids()[0];
    for n in 0..40 {
        let put = cluster.put(id, group, &format!("k{n}"), "v");
        cluster.wait(put).expect("two of three take writes");
    }
    cluster.start(away).expect("its disk is whole");
    cluster.run_until("the state is fetched, and durable", 20_000, |cluster| {
        let metas = cluster.member(away).store.group_metas();
        let meta = GroupMeta::decode(&metas[&group], Path::new("db")).expect("it is ours");
        meta.is_as_installed() && meta.applied.0 > 20
    });
    cluster.crash(away);
    let node = &cluster.nodes[&away];
    forget_in_log(&node.disk, &node.config, group);
    cluster.start(away).expect("nothing was promised for the group");
    let put = cluster.put(id, group, "last", "v");
    cluster.wait(put).expect("the group goes on");
    cluster.converge(2);
    assert_eq!(cluster.value(away, group, "k39").as_deref(), Some(&b"v"[..]));
}
