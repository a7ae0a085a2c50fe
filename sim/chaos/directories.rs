//! Data directories in the wrong place: another cluster's, another member's, and a store that is
//! older than the log beside it. All of it happens on copies of disks; what a start makes of them
//! is asked of the product, and the history goes on undisturbed.
//!
//! What is *not* done: a whole directory that is older (log and store together). The member would
//! have forgotten votes and acknowledgements, and nothing in the directory says so; see
//! SIMULATION.md, "Known gaps".

use crate::faults::Fault;
use crate::member::Live;
use crate::rules::is_spoilt;
use crate::safety::{Checked, LogShape, broken, ensure};
use crate::world::World;
use quorate::io::{Disk, MemDisk, OpenMode};
use quorate::node::BootError;
use quorate::types::GroupId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const STORE: &str = "/data/member/snap/db";

/// Every file with what it holds, the lock apart.
fn contents(disk: &MemDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let named = |path: PathBuf| Some((path.clone(), disk.contents(&path)?));
    disk.files().into_iter().filter(|path| !path.ends_with("lock")).filter_map(named).collect()
}

/// The files that are not what they were.
fn changed_files(before: &[(PathBuf, Vec<u8>)], after: &[(PathBuf, Vec<u8>)]) -> Vec<PathBuf> {
    let differs = |file: &&(PathBuf, Vec<u8>)| !before.contains(file) || !after.contains(file);
    before.iter().chain(after).filter(differs).map(|file| file.0.clone()).collect()
}

impl World {
    /// The member restarts with a data directory of another cluster. Both ids must be told, and
    /// the directory stays as it is; with its own directory the member starts as ever.
    pub(super) fn other_clusters_directory(&mut self, m: usize) -> Checked {
        self.counters.fired(Fault::OtherClusterDir);
        let node = self.slots[m].node;
        let Some(foreign) = self.found_foreign(m, Fault::OtherClusterDir)? else { return Ok(()) };
        let disk = foreign.disk.fork();
        let before = contents(&disk);
        let slot = &self.slots[m];
        let process = self.processes + 1;
        let booted = Live::boot(&self.plan, &slot.birth, slot.incarnation, &disk, process);
        let (ours, theirs) = (slot.birth.cluster, foreign.birth.cluster);
        match booted {
            Err(error @ BootError::OtherCluster { expected, found, .. })
                if (expected, found) == (ours, theirs) =>
            {
                let said = match is_spoilt("cluster-id-untold") {
                    true => String::new(),
                    false => error.to_string(),
                };
                ensure!(
                    said.contains(&ours.to_string()) && said.contains(&theirs.to_string()),
                    "cluster-id-untold",
                    "member {m} refuses a directory of {theirs}, and says: {said}"
                );
            }
            Err(error) => return broken!("other-cluster-dir", format!("member {m}: {error}")),
            Ok(_) => {
                return broken!(
                    "other-cluster-dir",
                    format!("member {m} ({node}) of {ours} starts on a directory of {theirs}"),
                );
            }
        }
        if is_spoilt("refused-dir-changed") {
            disk.overwrite(STORE, 0, b"mine");
        }
        ensure!(
            contents(&disk) == before,
            "refused-dir-changed",
            "member {m} has changed the directory of {theirs} that it refused"
        );
        // And the other way round: the settings are the other cluster's, the directory is ours.
        let own = self.slots[m].disk.fork();
        if own.contents(STORE).is_none() || self.slots[m].damaged.is_some() {
            // Nothing there yet, or damage that is found before the id is looked at.
            return Ok(());
        }
        let before = contents(&own);
        let booted = Live::boot(&self.plan, &foreign.birth, foreign.incarnation, &own, process);
        let verdict = booted.map(|_| "starts".to_owned());
        ensure!(
            matches!(verdict, Err(BootError::OtherCluster { .. })),
            "other-cluster-dir",
            "a member of {theirs} on the directory of member {m} of {ours}: {verdict:?}"
        );
        let after = contents(&own);
        ensure!(
            after == before,
            "refused-dir-changed",
            "a member of {theirs} has changed the directory of member {m}: {:?}",
            changed_files(&before, &after)
        );
        self.counters.mattered(Fault::OtherClusterDir);
        Ok(())
    }

    /// The member restarts with the data directory of another member of its cluster.
    pub(super) fn other_members_directory(&mut self, m: usize, other: usize) -> Checked {
        let unfit = self.slots[other].wiped || self.slots[other].damaged.is_some();
        if m == other || unfit || self.slots[m].wiped {
            return Ok(());
        }
        if self.slots[other].disk.fork().contents(STORE).is_none() {
            // Its founding was cut short: nobody's directory yet.
            return Ok(());
        }
        self.counters.fired(Fault::OtherMemberDir);
        let disk = self.slots[other].disk.fork();
        let before = contents(&disk);
        let slot = &self.slots[m];
        let process = self.processes + 1;
        let booted = Live::boot(&self.plan, &slot.birth, slot.incarnation, &disk, process);
        let (ours, theirs) = (slot.node, self.slots[other].node);
        ensure!(
            matches!(
                booted,
                Err(BootError::OtherMember { expected, found, .. })
                    if (expected, found) == (ours, theirs)
            ),
            "other-member-dir",
            "member {m} ({ours}) on the directory of {other} ({theirs}): {:?}",
            booted.err()
        );
        ensure!(
            contents(&disk) == before,
            "refused-dir-changed",
            "member {m} has changed the directory of {other}"
        );
        self.counters.mattered(Fault::OtherMemberDir);
        Ok(())
    }

    /// The store is put back from an older copy, the log is not. Either the log still has all that
    /// the old store lacks, and the member comes up as if nothing had happened, or it must refuse.
    pub(super) fn older_store(&mut self, m: usize) -> Checked {
        if self.slots[m].wiped || self.slots[m].damaged.is_some() {
            return Ok(());
        }
        let now = self.slots[m].disk.fork();
        let Some(older) = self.older.insert(m, now.fork()) else { return Ok(()) };
        let Some(bytes) = older.contents(STORE) else { return Ok(()) };
        if now.contents(STORE).as_ref() == Some(&bytes) {
            return Ok(());
        }
        self.counters.fired(Fault::OlderStore);
        let process = self.processes + 1;
        let slot = &self.slots[m];
        let whole = Live::boot(&self.plan, &slot.birth, slot.incarnation, &now.fork(), process);
        if put_back(&now, &bytes).is_err() {
            return Ok(());
        }
        let mixed = Live::boot(&self.plan, &slot.birth, slot.incarnation, &now, process);
        match (whole, mixed) {
            (Ok((live, whole)), Ok((_, mixed))) => {
                let catalogue = &live.root().catalogue;
                // A group that was destroyed since the copy was made is gone from the log as well.
                // If it had just been born then, the old store says what the store of a member
                // says that crashed between the group's first checkpoint and its log: it comes up
                // as it was born, and ends when group 1's log gets to its end once more.
                let (gone, there) = mixed.logs.iter().partition::<BTreeMap<_, _>, _>(|(g, _)| {
                    catalogue.is_destroyed(**g) && !whole.logs.contains_key(g)
                });
                // As they were born or fetched, and nothing since.
                let new_born = |log: &&LogShape| log.terms.is_empty() && log.hard.vote.is_none();
                let ends = |logs: BTreeMap<&GroupId, &LogShape>| {
                    let end = |(g, log): (&GroupId, &LogShape)| {
                        (*g, log.last(), log.hard.term, log.hard.vote)
                    };
                    logs.into_iter().map(end).collect::<Vec<_>>()
                };
                // A fetched state is in the store before the log knows of it, and nothing is promised
                // in between: the log that goes with the old store ends where it did then.
                let fetched = |group: &GroupId, old: &LogShape| {
                    whole.logs.get(group).is_some_and(|own| {
                        let promised = |log: &LogShape| (log.hard.term, log.hard.vote);
                        own.terms.is_empty()
                            && own.start.0 > old.last()
                            && promised(own) == promised(old)
                    })
                };
                let (before, there): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    there.into_iter().partition(|(group, log)| fetched(group, log));
                let own = whole.logs.iter().filter(|(group, _)| !before.contains_key(group));
                let (there, own) = (ends(there), ends(own.collect()));
                ensure!(
                    there == own && gone.values().all(new_born),
                    "older-store",
                    "member {m} with an older store comes up with {there:?} and the destroyed \
                     {:?}, with its own with {own:?}",
                    ends(gone)
                );
                // The log had all that the old store lacks.
                if mixed.checkpoint != whole.checkpoint {
                    self.counters.mattered(Fault::OlderStore);
                }
            }
            // The log has moved on behind it: entries are gone, or a whole group that was destroyed.
            (_, Err(BootError::Gap { .. } | BootError::GroupMissing { .. })) => {
                self.counters.mattered(Fault::OlderStore);
            }
            // Its own directory is not fit to start from at this moment either.
            (Err(_), _) => {}
            (Ok(_), Err(error)) => {
                return broken!("older-store", format!("member {m} with an older store: {error}"));
            }
        }
        Ok(())
    }
}

fn put_back(disk: &MemDisk, bytes: &[u8]) -> Result<(), quorate::types::StorageError> {
    let path = Path::new(STORE);
    disk.unlink(path)?;
    let file = disk.open(path, OpenMode::CreateNew)?;
    file.write_at(&[bytes], 0)?;
    file.sync_data()?;
    disk.sync_dir(path.parent().expect("the store is in a directory"))
}
