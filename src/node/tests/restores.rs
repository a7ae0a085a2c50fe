//! Snapshots that outlive their cluster, and clusters that begin with one.

use super::cluster::{Cluster, founders, group_ids, url};
use crate::io::{Disk, MemDisk, OpenMode};
use crate::multiraft::snapshots::Pin;
use crate::node::action::Action;
use crate::node::boot::{BootConfig, BootError, Founding, boot};
use crate::node::config::CoreConfig;
use crate::node::membership::member_id;
use crate::node::portable::{SnapshotReader, SnapshotWriter};
use crate::node::restore::{
    RestoreConfig, RestoreError, RestoreSource, Restored, StoreSource, restore,
};
use crate::node::survivor::{self, Tail};
use crate::types::command::{CompactRequest, RangeRequest};
use crate::types::{
    ClusterId, Command, GroupId, Incarnation, KeyRange, LeaseId, Member as Row, NodeId,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

const DB: &str = "/data/member/snap/db";
const OTHER_GROUP: GroupId = GroupId(2);

/// The members of the cluster to restore into: the old URLs, another token.
fn new_rows(n: u64) -> Vec<Row> {
    let row = |n| Row { id: member_id(&url(n), "new", None), peer_urls: url(n), ..Row::default() };
    (1..=n).map(row).collect()
}

fn restore_config(rows: &[Row], at: usize, seed: u64) -> RestoreConfig {
    let mut config =
        RestoreConfig::new("/data", rows.to_vec(), rows[at].id, Incarnation(0x5000 + seed));
    config.wal.segment_bytes = 256 << 10;
    config
}

fn dyn_disk(disk: &MemDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// A cluster with something of everything in its two groups.
fn lived() -> Cluster {
    let mut cluster = Cluster::new(3, 2, |config| {
        config.checkpoint.tail_entries = 40;
        config.chunk_bytes = 700;
    });
    cluster.settle(2);
    let id = cluster.ids()[0];
    let mut tokens = Vec::new();
    for n in 0..60 {
        tokens.push(cluster.put(id, GroupId::ROOT, &format!("k{:02}", n % 20), &format!("v{n}")));
        tokens.push(cluster.put(id, OTHER_GROUP, &format!("other{n}"), &"x".repeat(300)));
    }
    cluster.wait_all(&tokens);
    let propose = |command| move |token| Action::Propose { group: GroupId::ROOT, token, command };
    let grant = Command::LeaseGrant { id: LeaseId(77), ttl_seconds: 600 };
    let token = cluster.ask(id, propose(grant));
    cluster.wait(token).unwrap();
    let compact = Command::Compact(CompactRequest { revision: 30, physical: true });
    let token = cluster.ask(id, propose(compact));
    cluster.wait(token).unwrap();
    cluster.converge(2);
    cluster
}

fn pins(cluster: &mut Cluster, id: NodeId) -> Vec<Pin> {
    let member = cluster.nodes.get_mut(&id).unwrap().member.as_mut().unwrap();
    group_ids(2).iter().map(|group| member.applier.pin(*group).unwrap().unwrap()).collect()
}

/// A snapshot, as the pieces it was written in.
fn stream(cluster: &mut Cluster) -> Vec<Bytes> {
    let id = cluster.ids()[0];
    let (of, _) = founders(3);
    let mut writer = SnapshotWriter::new(of, id, pins(cluster, id), 700);
    let mut all = Vec::new();
    while let Some(bytes) = writer.next_bytes().unwrap() {
        all.push(bytes);
    }
    assert!(all.len() > 10, "several frames per group");
    all
}

fn reader(pieces: &[Bytes]) -> Result<SnapshotReader<'static>, String> {
    let mut pieces: VecDeque<Bytes> = pieces.to_vec().into();
    SnapshotReader::new(Box::new(move || Ok(pieces.pop_front()))).map_err(|e| e.to_string())
}

/// Everything a client could see of a group.
fn shown(
    cluster: &Cluster,
    id: NodeId,
    group: GroupId,
) -> impl PartialEq + std::fmt::Debug + use<> {
    let view = cluster.view(id, group);
    let all =
        RangeRequest { range: KeyRange::new(&b"\0"[..], &b"\0"[..]), ..RangeRequest::default() };
    let reply = view.range(&all).unwrap();
    let hash = view.hash_kv(0).unwrap();
    let leases: Vec<_> =
        view.leases().unwrap().into_iter().map(|l| (l.id, l.ttl_seconds)).collect();
    (view.revision(), view.compact_revision(), reply.kvs, hash.hash, leases)
}

fn found_anew(rows: &[Row], disks: Vec<MemDisk>, cluster_id: ClusterId) -> Cluster {
    let mut cluster = Cluster::empty(|config| config.checkpoint.tail_entries = 40);
    for (at, disk) in disks.into_iter().enumerate() {
        cluster.add_on(disk, rows[at].id, cluster_id, Founding::Never, at as u64 + 21);
    }
    cluster
}

#[test]
fn a_restored_cluster_goes_on_where_the_state_ends() {
    let mut old = lived();
    let id = old.ids()[0];
    let pieces = stream(&mut old);
    let rows = new_rows(3);
    let mut disks = Vec::new();
    let mut restored = Vec::new();
    for at in 0..3 {
        let disk = MemDisk::new(at as u64 + 50);
        let config = restore_config(&rows, at, at as u64);
        restored.push(restore(&dyn_disk(&disk), &mut reader(&pieces).unwrap(), &config).unwrap());
        let again = restore(&dyn_disk(&disk), &mut reader(&pieces).unwrap(), &config);
        assert!(matches!(again, Err(RestoreError::Exists { .. })), "{again:?}");
        disks.push(disk);
    }
    let Restored { cluster, revisions } = restored[0].clone();
    assert!(restored.iter().all(|other| *other == restored[0]));
    assert_ne!(cluster, founders(3).0, "another id");
    assert_eq!(revisions[0], (GroupId::ROOT, old.view(id, GroupId::ROOT).revision()));
    let mut new = found_anew(&rows, disks, cluster);
    new.settle(2);
    for group in group_ids(2) {
        assert_eq!(
            format!("{:?}", shown(&new, rows[1].id, group)),
            format!("{:?}", shown(&old, id, group))
        );
    }
    let before = new.view(rows[0].id, GroupId::ROOT).revision();
    let token = new.put(rows[0].id, GroupId::ROOT, "after", "restore");
    new.wait(token).unwrap();
    new.converge(2);
    assert_eq!(new.view(rows[2].id, GroupId::ROOT).revision(), before + 1);
    let members: Vec<NodeId> = new.member(rows[0].id).core.root().members.keys().copied().collect();
    let mut ids: Vec<NodeId> = rows.iter().map(|row| row.id).collect();
    ids.sort();
    assert_eq!(members, ids, "the old members are forgotten");
}

#[test]
fn a_restore_that_is_cut_short_leaves_nothing_that_counts() {
    let mut old = lived();
    let pieces = stream(&mut old);
    let rows = new_rows(3);
    let mut seen = [0; 3];
    for nth in 1..2_000 {
        let disk = MemDisk::new(nth);
        let config = restore_config(&rows, 1, nth);
        disk.set_crash_after(nth);
        let done = restore(&dyn_disk(&disk), &mut reader(&pieces).unwrap(), &config).is_ok();
        disk.clear_crash_after();
        disk.crash();
        let mut core = CoreConfig::new(config.cluster(), config.node, Incarnation(9), 9);
        core.name = "restored".into();
        let boot_config = BootConfig::new("/data", core, Founding::Never);
        let whole = match boot(dyn_disk(&disk), boot_config) {
            Ok(member) => {
                let revision = member.applier.view(GroupId::ROOT).unwrap().revision();
                assert_eq!(revision, old.view(old.ids()[0], GroupId::ROOT).revision());
                assert_eq!(member.applier.groups().count(), 2);
                assert!(member.store.verify().unwrap().is_clean());
                seen[2] += 1;
                true
            }
            Err(BootError::NoData { .. }) => {
                seen[0] += 1;
                false
            }
            Err(BootError::RestoreUnfinished { .. }) => {
                seen[1] += 1;
                false
            }
            Err(error) => panic!("after a crash at {nth}: {error}"),
        };
        assert!(whole || !done, "a restore that was reported is whole");
        let again = restore(&dyn_disk(&disk), &mut reader(&pieces).unwrap(), &config);
        match again {
            Ok(_) => assert!(!whole),
            Err(RestoreError::Exists { .. }) => assert!(whole),
            Err(error) => panic!("again, after a crash at {nth}: {error}"),
        }
        if done {
            assert!(seen.iter().all(|n| *n > 0), "each outcome is seen: {seen:?}");
            return;
        }
    }
    panic!("a restore of so many operations");
}

#[test]
fn a_snapshot_that_was_damaged_or_cut_is_refused() {
    let mut old = lived();
    let whole = stream(&mut old).concat();
    let rows = new_rows(1);
    let attempt = |bytes: Vec<u8>| {
        let disk = MemDisk::new(1);
        let mut source = reader(&[Bytes::from(bytes)])?;
        let config = restore_config(&rows, 0, 1);
        let result = restore(&dyn_disk(&disk), &mut source, &config).map_err(|e| e.to_string());
        if result.is_err() {
            assert_eq!(disk.files(), vec![Path::new("/data/member/lock")], "nothing is left");
        }
        result
    };
    assert!(attempt(whole.to_vec()).is_ok());
    for step in 1..60 {
        let at = whole.len() * step / 60;
        let mut flipped = whole.to_vec();
        flipped[at] ^= 4;
        assert!(attempt(flipped).is_err(), "a bit at {at} is another");
        assert!(attempt(whole[..at].to_vec()).is_err(), "cut at {at}");
    }
    // Whole frames missing, repeated, or of another snapshot: each frame is sound in itself.
    let pieces = stream(&mut old);
    for i in 0..pieces.len() {
        let mut fewer = pieces.clone();
        fewer.remove(i);
        assert!(attempt(fewer.concat()).is_err(), "without frame {i}");
    }
    let mut twice = pieces.clone();
    twice.insert(3, pieces[3].clone());
    assert!(attempt(twice.concat()).is_err());
    let mut longer = whole.to_vec();
    longer.push(0);
    assert!(attempt(longer).is_err());
}

fn copied(from: &MemDisk, path: &str) -> MemDisk {
    let copy = MemDisk::new(3);
    let bytes = from.contents(path).unwrap();
    copy.create_dir_all(Path::new("/backup")).unwrap();
    let file = copy.open(Path::new("/backup/db"), OpenMode::CreateNew).unwrap();
    file.write_at(&[&bytes], 0).unwrap();
    file.sync_data().unwrap();
    copy.sync_dir(Path::new("/backup")).unwrap();
    copy
}

#[test]
fn a_copied_store_is_taken_whole_or_not_at_all() {
    let mut old = lived();
    let id = old.ids()[0];
    let live = StoreSource::open(&dyn_disk(&old.nodes[&id].disk), Path::new(DB));
    assert!(matches!(live, Err(RestoreError::SourceInUse { .. })), "{live:?}");
    old.crash(id);
    let disk = old.nodes[&id].disk.clone();
    let in_place = StoreSource::open(&dyn_disk(&disk), Path::new(DB)).unwrap();
    assert_eq!(in_place.groups(), group_ids(2));
    drop(in_place);
    let backup = copied(&disk, DB);
    let rows = new_rows(1);
    let from = |backup: &MemDisk| -> Result<Restored, RestoreError> {
        let mut source = StoreSource::open(&dyn_disk(backup), Path::new("/backup/db"))?;
        restore(&dyn_disk(&MemDisk::new(8)), &mut source, &restore_config(&rows, 0, 1))
    };
    assert!(from(&backup).is_ok());
    let pages = backup.contents("/backup/db").unwrap().len() / 4096;
    let mut refused = 0;
    for page in 2..pages as u64 {
        let torn = copied(&disk, DB);
        torn.flip_bit("/backup/db", page * 4096 * 8 + 777);
        match from(&torn) {
            Ok(_) => {}
            Err(RestoreError::SourceDamaged { .. }) => refused += 1,
            Err(error) => panic!("page {page}: {error}"),
        }
    }
    assert!(refused * 3 > pages, "{refused} of {pages} pages are in use");
    let cut = copied(&disk, DB);
    cut.resize("/backup/db", 5 * 4096);
    assert!(matches!(from(&cut), Err(RestoreError::SourceDamaged { .. })));
}

#[test]
fn a_survivor_gives_everything_that_it_has() {
    let mut old = lived();
    let id = old.leader(GroupId::ROOT).unwrap();
    let token = old.put(id, GroupId::ROOT, "last", "words");
    old.wait(token).unwrap();
    old.run(500);
    old.crash(id);
    let revision =
        old.view(*old.ids().iter().find(|o| **o != id).unwrap(), GroupId::ROOT).revision();
    let disk = old.nodes[&id].disk.clone();
    let mut survivor =
        survivor::snapshot(dyn_disk(&disk), old.nodes[&id].config.clone(), Tail::Kept).unwrap();
    assert_eq!(survivor.groups()[0].2, revision);
    let mut pieces = Vec::new();
    while let Some(bytes) = survivor.snapshot.next_bytes().unwrap() {
        pieces.push(bytes);
    }
    drop(survivor);
    let known = survivor::snapshot(dyn_disk(&disk), old.nodes[&id].config.clone(), Tail::Committed);
    assert!(known.unwrap().groups()[0].2 <= revision);
    let rows = new_rows(1);
    let target = MemDisk::new(9);
    let done =
        restore(&dyn_disk(&target), &mut reader(&pieces).unwrap(), &restore_config(&rows, 0, 1));
    let done = done.unwrap();
    assert_eq!(done.revisions[0], (GroupId::ROOT, revision));
    let mut new = found_anew(&rows, vec![target], done.cluster);
    new.settle(2);
    assert_eq!(new.value(rows[0].id, GroupId::ROOT, "last"), Some(Bytes::from_static(b"words")));
}

#[test]
fn a_member_stands_alone_whenever_the_power_fails() {
    let mut old = lived();
    let id = old.leader(GroupId::ROOT).unwrap();
    let token = old.put(id, GroupId::ROOT, "last", "words");
    old.wait(token).unwrap();
    old.run(500);
    old.crash(id);
    let base = old.nodes[&id].disk.fork();
    let config = old.nodes[&id].config.clone();
    for nth in 1..400 {
        let disk = base.fork();
        disk.set_crash_after(nth);
        let done = survivor::stand_alone(dyn_disk(&disk), config.clone(), Tail::Kept).is_ok();
        disk.clear_crash_after();
        disk.crash();
        let member = boot(dyn_disk(&disk), config.clone()).unwrap();
        let root = member.core.root().clone();
        let alone = root.members.len() == 1;
        assert!(alone || root.members.len() == 3);
        for group in group_ids(2) {
            let voters = member.applier.meta(group).unwrap().conf.voters.len();
            assert_eq!(voters, root.members.len(), "the groups agree with the membership");
        }
        drop(member);
        assert!(alone || !done);
        if done {
            let mut new = Cluster::empty(|_| {});
            let cluster = founders(3).0;
            new.add_on(disk, id, cluster, Founding::Never, 1);
            new.settle(2);
            let last = new.value(id, GroupId::ROOT, "last");
            assert_eq!(last, Some(Bytes::from_static(b"words")));
            let token = new.put(id, GroupId::ROOT, "alone", "again");
            new.wait(token).unwrap();
            assert_eq!(new.member(id).core.root().removed.len(), 2);
            return;
        }
    }
    panic!("so many operations");
}
