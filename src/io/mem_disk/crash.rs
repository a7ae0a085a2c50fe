//! What is left of a disk after the power failed.
//!
//! Per sector of each file the outcome is one of the versions it has had since the last sync, or
//! a tear between two neighbouring ones: a disk never holds a later write to a sector without
//! the earlier ones, because the cache it was flushed from did not either. Sectors are
//! independent of each other, of the file's length, and of the directories. Changes of a file's
//! length survive as a prefix in the order in which they were made (a journal keeps them so).

use super::image::Image;
use super::{DirChange, DirOp, Inode, Pending, State};
use crate::io::disk::SECTOR_BYTES;
use crate::types::prng::Prng;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Which of the changes that were not synced survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    /// The cache happened to be flushed completely.
    All,
    /// Only what was synced.
    None,
    /// Changes reached the disk in the order they were made, up to some point.
    Prefix,
    /// The latest changes reached the disk, the earlier ones did not.
    Reverse,
    /// Each on its own.
    Random,
    /// Only the very last change.
    LastOnly,
    /// Lengths and names, but no contents.
    MetadataOnly,
    /// Contents, but neither lengths nor names.
    DataOnly,
}

impl CrashMode {
    pub const ALL: [CrashMode; 8] = [
        CrashMode::All,
        CrashMode::None,
        CrashMode::Prefix,
        CrashMode::Reverse,
        CrashMode::Random,
        CrashMode::LastOnly,
        CrashMode::MetadataOnly,
        CrashMode::DataOnly,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPlan {
    pub mode: CrashMode,
    /// Whether a sector at the border between kept and dropped may be torn: the left or the right
    /// part of the new bytes, or garbage in their place (never outside them).
    pub torn: bool,
}

/// What a power failure took of all that was not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Versions of sectors.
    pub sectors: u64,
    /// Sectors that hold neither the one nor the other version.
    pub torn: u64,
    /// Changes of lengths.
    pub lengths: u64,
    /// Names given, taken and changed.
    pub names: u64,
}

impl Lost {
    pub fn is_nothing(&self) -> bool {
        *self == Lost::default()
    }
}

/// The mode with its random choices made.
struct Verdict<'a> {
    plan: CrashPlan,
    /// For `Prefix`, `Reverse` and `LastOnly`: the change at which the border lies, and the
    /// sector of it.
    cut: (u64, u64),
    prng: &'a mut Prng,
    lost: Lost,
}

impl Verdict<'_> {
    /// How many of the `versions` of one sector (each the change that made it, and which of that
    /// change's sectors this is) are on the disk.
    fn versions(&mut self, versions: &[(u64, u64)]) -> usize {
        let all = versions.len();
        match self.plan.mode {
            CrashMode::All | CrashMode::DataOnly => all,
            CrashMode::None | CrashMode::MetadataOnly => 0,
            CrashMode::Prefix => versions.iter().filter(|v| **v < self.cut).count(),
            CrashMode::Reverse | CrashMode::LastOnly => {
                if versions.last().is_some_and(|v| *v >= self.cut) { all } else { 0 }
            }
            // Both ends are likelier than what lies between.
            CrashMode::Random => match self.prng.below(4) {
                0 => self.prng.below(all as u64 + 1) as usize,
                1 => 0,
                _ => all,
            },
        }
    }

    /// How many of the length changes, in order, survive.
    fn lengths(&mut self, seqs: &[u64]) -> usize {
        let all = seqs.len();
        match self.plan.mode {
            CrashMode::All | CrashMode::MetadataOnly => all,
            CrashMode::None | CrashMode::DataOnly => 0,
            CrashMode::Prefix => seqs.iter().filter(|seq| **seq < self.cut.0).count(),
            CrashMode::Reverse | CrashMode::LastOnly => {
                if seqs.last().is_some_and(|seq| *seq >= self.cut.0) { all } else { 0 }
            }
            CrashMode::Random => self.prng.below(all as u64 + 1) as usize,
        }
    }

    fn tears(&mut self) -> bool {
        self.plan.torn && self.prng.chance(1, 3)
    }
}

/// Replaces the state by what a restarted machine finds.
pub fn crash(state: &mut State, plan: CrashPlan) {
    let mut prng = state.prng.clone();
    let cut = choose_cut(state, plan.mode, &mut prng);
    let mut verdict = Verdict { plan, cut, prng: &mut prng, lost: Lost::default() };
    for inode in state.inodes.values_mut() {
        crash_file(inode, &mut verdict);
    }
    let ops = std::mem::take(&mut state.dir_ops);
    crash_names(&mut state.durable_names, ops, &mut verdict);
    state.lost = verdict.lost;
    state.prng = prng;
    state.names = state.durable_names.clone();
}

/// The border of the ordered modes, uniform over the pending changes.
fn choose_cut(state: &State, mode: CrashMode, prng: &mut Prng) -> (u64, u64) {
    let mut seqs: Vec<(u64, u64)> = Vec::new();
    for inode in state.inodes.values() {
        for pending in &inode.pending {
            seqs.push(match pending {
                Pending::Write { seq, offset, data } => {
                    (*seq, sector_count(*offset, data.len() as u64))
                }
                Pending::Length { seq, .. } => (*seq, 1),
            });
        }
    }
    seqs.extend(state.dir_ops.iter().map(|op| (op.seq, 1)));
    seqs.sort_unstable();
    match seqs.last() {
        None => (0, 0),
        Some((last, _)) if mode == CrashMode::LastOnly => (*last, 0),
        Some(_) => {
            let (seq, sectors) = seqs[prng.below(seqs.len() as u64) as usize];
            (seq, prng.below(sectors + 1))
        }
    }
}

fn sector_count(offset: u64, len: u64) -> u64 {
    let sector = SECTOR_BYTES as u64;
    if len == 0 { 0 } else { (offset + len - 1) / sector - offset / sector + 1 }
}

/// The parts of a write, sector by sector: number, offset in the file, bytes.
fn sectors(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, u64, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == data.len() {
            return None;
        }
        let start = offset + at as u64;
        let room = SECTOR_BYTES - (start % SECTOR_BYTES as u64) as usize;
        let part = &data[at..(at + room).min(data.len())];
        at += part.len();
        Some((start / SECTOR_BYTES as u64, start, part))
    })
}

fn crash_file(inode: &mut Inode, verdict: &mut Verdict<'_>) {
    let pending = std::mem::take(&mut inode.pending);
    if pending.is_empty() {
        // Also what a failed sync has dropped from the cache is gone now.
        inode.live = inode.durable.clone();
        return;
    }
    let mut versions: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    let mut length_seqs = Vec::new();
    for change in &pending {
        match change {
            Pending::Write { seq, offset, data } => {
                for (ordinal, (sector, _, _)) in sectors(*offset, data).enumerate() {
                    versions.entry(sector).or_default().push((*seq, ordinal as u64));
                }
            }
            Pending::Length { seq, .. } => length_seqs.push(*seq),
        }
    }
    let lengths_kept = verdict.lengths(&length_seqs);
    verdict.lost.lengths += (length_seqs.len() - lengths_kept) as u64;
    // Per sector: versions still to be kept, and whether the one after them leaves a tear.
    let mut fate: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
    for (sector, versions) in &versions {
        let kept = verdict.versions(versions);
        let torn = kept < versions.len()
            && !matches!(verdict.plan.mode, CrashMode::None | CrashMode::MetadataOnly)
            && verdict.tears();
        verdict.lost.sectors += (versions.len() - kept) as u64;
        verdict.lost.torn += u64::from(torn);
        fate.insert(*sector, (kept, torn));
    }

    let mut image = inode.durable.clone();
    let mut length = image.len();
    let mut lengths_seen = 0;
    for change in pending {
        match change {
            Pending::Length { len, .. } => {
                lengths_seen += 1;
                if lengths_seen <= lengths_kept {
                    // Only cutting matters before the end: it makes what lay behind zeros.
                    if len < length {
                        image.set_len(len);
                    }
                    length = len;
                }
            }
            Pending::Write { offset, data, .. } => {
                for (sector, at, part) in sectors(offset, &data) {
                    let (kept, torn) = fate.get_mut(&sector).expect("gathered above");
                    if *kept > 0 {
                        *kept -= 1;
                        image.write(at, part);
                    } else if std::mem::take(torn) {
                        tear(&mut image, at, part, verdict.prng);
                    }
                }
            }
        }
    }
    image.set_len(length);
    inode.durable = image.clone();
    inode.live = image;
}

fn tear(image: &mut Image, at: u64, part: &[u8], prng: &mut Prng) {
    let cut = prng.below(part.len() as u64 + 1) as usize;
    match prng.below(3) {
        0 => image.write(at, &part[..cut]),
        1 => image.write(at + cut as u64, &part[cut..]),
        _ => {
            let garbage: Vec<u8> = part.iter().map(|_| prng.next_u64() as u8).collect();
            image.write(at, &garbage);
        }
    }
}

fn crash_names(names: &mut BTreeMap<PathBuf, u64>, ops: Vec<DirOp>, verdict: &mut Verdict<'_>) {
    let plan = verdict.plan;
    // Half of the random crashes are those of a journal that keeps names in order.
    let journal = verdict.prng.chance(1, 2);
    let journal_end = verdict.prng.below(ops.len() as u64 + 1) as usize;
    for (i, op) in ops.into_iter().enumerate() {
        let kept = match plan.mode {
            CrashMode::All | CrashMode::MetadataOnly => true,
            CrashMode::None | CrashMode::DataOnly => false,
            CrashMode::Prefix => op.seq < verdict.cut.0,
            CrashMode::Reverse | CrashMode::LastOnly => op.seq >= verdict.cut.0,
            CrashMode::Random if journal => i < journal_end,
            CrashMode::Random => verdict.prng.chance(1, 2),
        };
        if kept {
            apply_name(names, &op.change);
        } else {
            verdict.lost.names += 1;
        }
    }
}

pub fn apply_name(names: &mut BTreeMap<PathBuf, u64>, change: &DirChange) {
    match change {
        DirChange::Link { path, inode } => {
            names.insert(path.clone(), *inode);
        }
        DirChange::Unlink { path } => {
            names.remove(path);
        }
        DirChange::Rename { from, to, inode } => {
            // The name may have gone on to another file since, if an earlier change was lost.
            if names.get(from) == Some(inode) {
                names.remove(from);
            }
            names.insert(to.clone(), *inode);
        }
    }
}
