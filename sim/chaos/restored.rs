//! A majority of disks is lost for ever, and a new cluster begins with what one survivor has: under
//! a new id, on the old addresses, while members of the old one still run. It happens beside the
//! history, on copies of the survivor's disk.
//!
//! What must hold: the new cluster comes to life within ten election timeouts; what it holds is
//! what was committed, up to the revision at which the state ends; it takes writes; it and every
//! member of the old cluster refuse each other in both directions, each naming both ids, and
//! nothing about either side changes by it; directories of one are refused by members of the other.

use crate::faults::Fault;
use crate::lab::Lab;
use crate::member::{Birth, Origin};
use crate::rules::is_spoilt;
use crate::safety::{Checked, broken, ensure};
use crate::strangers::strangers;
use crate::world::World;
use quorate::io::{Disk, MemDisk, OpenMode};
use quorate::node::membership::{cluster_id, member_id};
use quorate::node::survivor::{self, Tail};
use quorate::node::{
    BootConfig, BootError, CoreConfig, Founding, RestoreConfig, RestoreError, RestoreSource,
    SnapshotReader, StoreSource, restore,
};
use quorate::types::command::RangeRequest;
use quorate::types::prng::Prng;
use quorate::types::{GroupId, Incarnation, KeyRange, Member, NodeId};
use quorate::wal::WalOptions;
use std::path::Path;
use std::sync::Arc;

const STORE: &str = "/data/member/snap/db";
const BACKUP: &str = "/backup/db";
const SNAPSHOT: &str = "/backup/snapshot";

fn shared(disk: &MemDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// Where the new cluster's state comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// A snapshot of the survivor's directory, its log included.
    Directory,
    /// Its `snap/db`, in place.
    Store,
    /// A copy of `snap/db` that was made page after page while the member went on writing.
    LiveCopy,
}

impl World {
    pub(super) fn restore_beside(&mut self, survivor: usize, draw: u64) -> Checked {
        let slot = &self.slots[survivor];
        let unfit = slot.wiped || slot.damaged.is_some() || slot.disk.is_off();
        if unfit || slot.process == 0 {
            return Ok(());
        }
        self.counters.fired(Fault::Restored);
        let mut draws = Prng::stream(draw, "restored");
        let from = [From::Directory, From::Store, From::LiveCopy][draws.below(3) as usize];
        let lost = self.slots[survivor].disk.fork();
        let source = match self.source(survivor, &lost, from) {
            Ok(Some(source)) => source,
            Ok(None) => return Ok(()),
            Err(error) => return broken!("restore", format!("{from:?} of {survivor}: {error}")),
        };
        let n = self.plan.members;
        let urls: Vec<Vec<String>> =
            self.slots[..n].iter().map(|s| s.birth.peer_urls.clone()).collect();
        let members: Vec<(NodeId, Vec<String>)> =
            urls.iter().map(|urls| (member_id(urls, "restored", None), urls.clone())).collect();
        let cluster = cluster_id(members.iter().map(|member| member.0));
        let mut lab = Lab::new(&self.plan);
        let mut births = Vec::new();
        let mut disks = Vec::new();
        let mut ends: Vec<(GroupId, i64)> = Vec::new();
        for (node, peer_urls) in &members {
            let disk = MemDisk::new(draws.next_u64());
            let incarnation = Incarnation(draws.next_u64() | 1);
            let row = |(id, peer_urls): &(NodeId, Vec<String>)| Member {
                id: *id,
                peer_urls: peer_urls.clone(),
                ..Member::default()
            };
            let rows = members.iter().map(row).collect();
            let mut config = RestoreConfig::new("/data", rows, *node, incarnation);
            config.wal = WalOptions { segment_bytes: self.plan.segment_bytes, spare_segments: 2 };
            // Now and then the power fails in the middle, and the operator begins again.
            if draws.chance(1, 2) {
                disk.set_crash_after(1 + draws.below(60));
                let done = attempt(&disk, &source, &config);
                disk.clear_crash_after();
                disk.crash();
                match (done, attempt(&disk, &source, &config)) {
                    (_, Ok(end)) => ends = end,
                    // It was complete before the power failed.
                    (_, Err(RestoreError::Exists { .. })) => {}
                    (first, Err(error)) => {
                        return broken!("restore", format!("{error}, after {first:?}"));
                    }
                }
            } else {
                match attempt(&disk, &source, &config) {
                    Ok(end) => ends = end,
                    Err(error) => return broken!("restore", format!("{from:?}: {error}")),
                }
            }
            let birth = Birth {
                cluster,
                node: *node,
                peer_urls: peer_urls.clone(),
                origin: Origin::New { members: members.clone() },
            };
            let process = self.processes + 1;
            if let Err(error) = lab.start(&self.plan, &birth, incarnation, &disk, process) {
                return broken!("restore", format!("a restored member does not start: {error}"));
            }
            births.push((birth, incarnation));
            disks.push(disk);
        }
        let groups: Vec<GroupId> = (1..=self.plan.groups).map(GroupId).collect();
        self.holds_what_was_committed(&lab, &groups, &ends, from)?;
        let mut awaited = groups.clone();
        if is_spoilt("restore-no-service") {
            // A group that nobody has never has a leader.
            awaited.push(GroupId(u64::MAX));
        }
        match lab.settle(&awaited) {
            Ok(true) => {}
            Ok(false) => return broken!("restore-no-service", "no leader in a restored cluster"),
            Err(error) => return broken!("restore", error),
        }
        for group in &groups {
            if let Err(error) = lab.put(0, *group, b"restored", b"and alive") {
                return broken!("restore-no-service", format!("group {group}: {error}"));
            }
        }
        self.trace.word(lab.live(0).fingerprint());
        self.keep_apart(&lab)?;
        for (birth, incarnation) in &births {
            let process = self.processes + 1;
            let booted =
                crate::member::Live::boot(&self.plan, birth, *incarnation, &lost.fork(), process);
            ensure!(
                matches!(booted, Err(BootError::OtherCluster { .. })),
                "other-cluster-dir",
                "a member of {cluster} starts on a directory of the cluster it was restored from"
            );
        }
        self.counters.mattered(Fault::Restored);
        Ok(())
    }

    /// The state to restore from, as a disk with either a snapshot, a directory or a copy.
    fn source(
        &self,
        m: usize,
        lost: &MemDisk,
        from: From,
    ) -> Result<Option<(MemDisk, &'static str)>, String> {
        let slot = &self.slots[m];
        match from {
            From::Store => Ok(Some((lost.clone(), STORE))),
            From::Directory => {
                let core = CoreConfig::new(slot.birth.cluster, slot.node, slot.incarnation, 1);
                let mut config = BootConfig::new("/data", core, Founding::Never);
                config.wal =
                    WalOptions { segment_bytes: self.plan.segment_bytes, spare_segments: 2 };
                config.chunk_bytes = self.plan.snapshot_chunk_bytes;
                let survivor = survivor::snapshot(shared(lost), config, Tail::Committed)
                    .map_err(|error| error.to_string())?;
                let backup = MemDisk::new(1);
                let disk = shared(&backup);
                disk.create_dir_all(Path::new("/backup")).map_err(|error| error.to_string())?;
                survivor.write_file(&disk, Path::new(SNAPSHOT)).map_err(|e| e.to_string())?;
                Ok(Some((backup, SNAPSHOT)))
            }
            From::LiveCopy => {
                // The first half is from when this member's disk was last looked at.
                let Some(now) = slot.disk.contents(STORE) else { return Ok(None) };
                let mut copy = now.clone();
                if let Some(old) = self.older.get(&m).and_then(|disk| disk.contents(STORE)) {
                    let half = (now.len() / 2).min(old.len()) / 4096 * 4096;
                    copy[..half].copy_from_slice(&old[..half]);
                }
                let backup = MemDisk::new(1);
                let disk = shared(&backup);
                let copied = || -> Result<(), quorate::types::StorageError> {
                    disk.create_dir_all(Path::new("/backup"))?;
                    let file = disk.open(Path::new(BACKUP), OpenMode::CreateNew)?;
                    file.write_at(&[&copy], 0)?;
                    file.sync_data()?;
                    disk.sync_dir(Path::new("/backup"))
                };
                copied().map_err(|error| error.to_string())?;
                // Refused is what a torn copy should be; what is not refused must be sound.
                match StoreSource::open(&disk, Path::new(BACKUP)) {
                    Ok(_) => Ok(Some((backup, BACKUP))),
                    Err(RestoreError::SourceDamaged { .. }) => Ok(None),
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    }

    /// Each restored member has exactly what was committed at the revision it ends with.
    fn holds_what_was_committed(
        &self,
        lab: &Lab,
        groups: &[GroupId],
        ends: &[(GroupId, i64)],
        from: From,
    ) -> Checked {
        let everything =
            RangeRequest { range: KeyRange::new(vec![0], vec![0]), ..RangeRequest::default() };
        for m in 0..lab.len() {
            for &group in groups {
                let model = self.history.model(group);
                let found = match lab.live(m).contents(group, &everything) {
                    Ok(found) => found,
                    Err(error) => return broken!("restore", format!("a first read: {error}")),
                };
                let revision = found.1 + i64::from(is_spoilt("restored-content"));
                // A log may know of a commit that nobody has applied yet; a store does not.
                let ahead = revision > model.revision();
                ensure!(
                    !ahead || from == From::Directory,
                    "restored-content",
                    "{from:?}: group {group} ends at revision {revision}, {} was committed",
                    model.revision()
                );
                ensure!(
                    ends.is_empty() || ends.contains(&(group, revision)),
                    "restored-content",
                    "{from:?}: group {group} is at {revision}, told was {ends:?}"
                );
                if revision >= model.compacted() && !ahead {
                    let expected = model.range_at(&everything, revision);
                    ensure!(
                        found.0 == expected,
                        "restored-content",
                        "{from:?}: member {m} group {group} at {revision} has {:?}\n  expected \
                         {expected:?}",
                        found.0
                    );
                }
                ensure!(
                    lab.live(m).hash_kv(group) == lab.live(0).hash_kv(group)
                        && lab.live(m).leases(group) == lab.live(0).leases(group),
                    "restored-content",
                    "{from:?}: members 0 and {m} of one restored cluster differ in group {group}"
                );
            }
        }
        Ok(())
    }

    /// Old members and new ones at the same addresses have nothing to say to each other.
    fn keep_apart(&mut self, lab: &Lab) -> Checked {
        for m in 0..self.slots.len() {
            let Some(old) = self.slots[m].live.as_ref() else { continue };
            for n in 0..lab.len() {
                if let Err(why) = strangers(old, lab.live(n)) {
                    return broken!(
                        "foreign-heard",
                        format!("old member {m}, new member {n}: {why}"),
                    );
                }
            }
        }
        Ok(())
    }
}

fn attempt(
    disk: &MemDisk,
    source: &(MemDisk, &'static str),
    config: &RestoreConfig,
) -> Result<Vec<(GroupId, i64)>, RestoreError> {
    let (from, path) = source;
    let from = shared(from);
    let mut reader;
    let mut store;
    let state: &mut dyn RestoreSource = if *path == SNAPSHOT {
        reader = SnapshotReader::open(&from, Path::new(path)).map_err(|error| {
            RestoreError::SourceDamaged {
                source: SNAPSHOT.into(),
                offset: 0,
                what: error.to_string(),
            }
        })?;
        &mut reader
    } else {
        store = StoreSource::open(&from, Path::new(path))?;
        &mut store
    };
    restore(&shared(disk), state, config).map(|done| done.revisions)
}
