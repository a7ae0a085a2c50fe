//! Damage at rest: bytes that were written, synced and true once, and no longer are.
//!
//! An atlas keeps it recoverable: a member is damaged only when every configuration in force still
//! has a quorum without it and without whoever else is damaged, wiped or gone. Where in the file
//! is chosen from what is durable, and in a log always before something that was synced later: the
//! end of a log that is damaged cannot be told from a write that power cut short, by anybody.
//!
//! What must hold: what is damaged is never served and never cut off; the member either does not
//! need those bytes, or it stops with the file and the offset, and stays away until its operator
//! has removed and added it again. The others go on.

use crate::faults::{Act, Fault};
use crate::safety::{Checked, ensure};
use crate::world::{Condition, Event, Gone, World};
use quorate::node::BootError;
use quorate::types::StorageError;
use quorate::types::prng::Prng;
use std::path::{Path, PathBuf};

const STORE: &str = "/data/member/snap/db";
const PAGE: usize = 4096;
const SECTOR: usize = 512;
const META_PAGES: usize = 2;
/// Rot hits up to 2^(this - 1) places.
const ROT_DOUBLINGS: u64 = 6;
const EIO: i32 = 5;
const DAMAGES: [Fault; 5] =
    [Fault::BitRot, Fault::LatentSector, Fault::ZeroedPage, Fault::StalePage, Fault::Misdirected];

impl World {
    /// Remembers what the disk holds now, for a while: some damage is the past coming back, and
    /// what a log has gained since then tells where its safe part ends.
    pub(super) fn look_at_disk(&mut self, member: usize, fault: Fault, draw: u64, wait_us: u64) {
        if self.may_damage(member) {
            let old = self.slots[member].disk.fork();
            self.slots[member].earlier = Some(old);
            self.after(wait_us, Event::Act { act: Act::Damage { member, fault, draw } });
        }
    }

    fn may_damage(&self, m: usize) -> bool {
        let slot = &self.slots[m];
        let mut lost = self.lost_for_ever();
        let fresh = lost.insert(slot.node);
        // One damage each: it is known by its kind when it is found. (Learners are not among
        // those that a quorum needs, so they are not among the lost either.)
        let whole = slot.damaged.is_none() && !slot.wiped && !slot.is_gone();
        let quiet = slot.sabotaged.is_none() && whole;
        fresh && quiet && self.bears(&lost)
    }

    pub(super) fn damage(&mut self, m: usize, fault: Fault, draw: u64) {
        let Some(earlier) = self.slots[m].earlier.take() else { return };
        if !self.may_damage(m) {
            return;
        }
        let mut rng = Prng::new(draw);
        let disk = self.slots[m].disk.clone();
        let now = disk.fork();
        let in_log = fault != Fault::StalePage && rng.chance(1, 2);
        let path = if in_log {
            let mut logs: Vec<PathBuf> =
                now.files().into_iter().filter(|p| p.starts_with("/data/member/wal")).collect();
            logs.retain(|p| earlier.contents(p).is_some());
            if logs.is_empty() {
                return;
            }
            logs.swap_remove(rng.below(logs.len() as u64) as usize)
        } else {
            PathBuf::from(STORE)
        };
        let (Some(old), Some(new)) = (earlier.contents(&path), now.contents(&path)) else { return };
        // Cached bytes that are not durable yet would hide it, or undo it.
        if disk.contents(&path).as_ref() != Some(&new) {
            return;
        }
        let unit = if in_log { SECTOR } else { PAGE };
        let places: Vec<usize> = if in_log {
            let Some(end) = safe_end(&old, &new) else { return };
            (0..end / unit).collect()
        } else {
            (0..new.len() / unit).collect()
        };
        let at = |i: usize| i * unit..(i + 1) * unit;
        let stale = |i: &usize| old.get(at(*i)).is_some_and(|page| page != &new[at(*i)]);
        let written = |i: &usize| new[at(*i)].iter().any(|b| *b != 0);
        let mut chosen: Vec<usize> = match fault {
            Fault::StalePage => places.iter().copied().filter(stale).collect(),
            _ => places.iter().copied().filter(written).collect(),
        };
        if chosen.is_empty() {
            return;
        }
        // A few pages are read at every start and decide what the others mean.
        let metas = !in_log && rng.chance(1, 6);
        if metas {
            chosen.retain(|i| *i < META_PAGES);
            if chosen.is_empty() {
                return;
            }
        }
        let here = chosen.swap_remove(rng.below(chosen.len() as u64) as usize);
        let offset = (here * unit) as u64;
        match fault {
            Fault::BitRot => {
                disk.flip_bit(&path, (offset * 8) + rng.below(unit as u64 * 8));
                // Seldom alone. The other meta page is left: with both gone there is no store.
                chosen.retain(|i| in_log || *i >= META_PAGES);
                for _ in 1..1u64 << rng.below(ROT_DOUBLINGS) {
                    let Some(more) = pop_any(&mut chosen, &mut rng) else { break };
                    disk.flip_bit(&path, ((more * unit) as u64 * 8) + rng.below(unit as u64 * 8));
                }
            }
            Fault::LatentSector => {
                let sectors = (unit / SECTOR) as u64;
                disk.make_unreadable(&path, offset + rng.below(sectors) * SECTOR as u64, 1);
            }
            Fault::ZeroedPage => disk.overwrite(&path, offset, &vec![0; unit]),
            Fault::StalePage => disk.overwrite(&path, offset, &old[at(here)]),
            _ => {
                // A whole page of this file that was meant for another place.
                let Some(other) = chosen.first().copied() else { return };
                let other = chosen.get(rng.below(chosen.len() as u64) as usize).unwrap_or(&other);
                disk.overwrite(&path, offset, &new[at(*other)]);
            }
        }
        self.counters.fired(fault);
        self.slots[m].damaged = Some(fault);
        self.note(|| format!("{m}: {} in {} at {offset}", fault.name(), path.display()));
        // A member that runs on has most of it in memory, and writes it anew before it reads it.
        if self.slots[m].live.is_some() && rng.chance(1, 2) {
            self.crash_disk(m);
            self.stop_process(m);
            let at = self.now_us + self.plan.tick_us;
            self.plan_restart(m, at);
        }
    }

    /// Disks are looked at before the last power failure, if they rot in it.
    pub fn look_before_the_end(&mut self) {
        if DAMAGES.iter().any(|fault| self.plan.on(*fault)) {
            for slot in self.slots.iter_mut().filter(|slot| slot.live.is_some()) {
                slot.earlier = Some(slot.disk.fork());
            }
        }
    }

    /// While everybody is off, one member's files rot: nothing of them is in any memory, and all
    /// of it will be read.
    pub fn rot_while_off(&mut self) {
        let on: Vec<Fault> = DAMAGES.iter().copied().filter(|fault| self.plan.on(*fault)).collect();
        if on.is_empty() {
            return;
        }
        let draw = self.crashes.next_u64();
        let fault = on[(draw % on.len() as u64) as usize];
        let first = (draw >> 16) as usize % self.slots.len();
        let order = (0..self.slots.len()).map(|i| (first + i) % self.slots.len());
        if let Some(m) = order.into_iter().find(|m| self.may_damage(*m)) {
            self.damage(m, fault, draw);
        }
    }

    /// Whether the error is what was done to the member's files.
    pub fn is_damage(&self, m: usize, error: &StorageError) -> bool {
        match (self.slots[m].damaged, error) {
            (Some(Fault::LatentSector), StorageError::Io { source, .. }) => {
                source.raw_os_error() == Some(EIO)
            }
            (Some(_), StorageError::Corrupt { .. }) => true,
            _ => false,
        }
    }

    /// The member has found it, says where, and stops for good.
    pub fn damage_found(&mut self, m: usize, doing: &str, error: &StorageError) -> Checked {
        let fault = self.slots[m].damaged.expect("asked before");
        self.note(|| format!("{m} stops while at {doing}, {}: {error}", fault.name()));
        let named = match error {
            StorageError::Corrupt { path, .. } | StorageError::Io { path, .. } => {
                path.starts_with(Path::new("/data"))
            }
            _ => false,
        };
        ensure!(named, "damage-unnamed", "member {m}, {doing}: {error} names no file of its own");
        self.gone_damaged(m, fault);
        Ok(())
    }

    /// A member whose files contradict each other refuses to start.
    pub fn refuses_damage(&mut self, m: usize, error: &BootError) {
        let fault = self.slots[m].damaged.expect("asked before");
        self.note(|| format!("{m} refuses to start, {}: {error}", fault.name()));
        self.gone_damaged(m, fault);
    }

    fn gone_damaged(&mut self, m: usize, fault: Fault) {
        self.counters.mattered(fault);
        self.slots[m].sabotaged = None;
        self.slots[m].disk.clear_faults();
        if self.slots[m].live.is_some() {
            self.stop_process(m);
        }
        self.slots[m].condition = Condition::Gone(Gone::Damaged);
    }
}

fn pop_any(from: &mut Vec<usize>, rng: &mut Prng) -> Option<usize> {
    let at = rng.below(from.len().max(1) as u64) as usize;
    (at < from.len()).then(|| from.swap_remove(at))
}

/// Up to where a log's file was written before something later was; nowhere when nothing has been
/// written to it since.
fn safe_end(old: &[u8], new: &[u8]) -> Option<usize> {
    old.iter().zip(new).position(|(a, b)| a != b)
}
