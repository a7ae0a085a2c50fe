//! Disks: power failures, errors, slowness.

use crate::faults::{Act, Fault};
use crate::safety::Checked;
use crate::world::{Event, World};
use quorate::io::mem_disk::{CrashMode, CrashPlan, Fault as DiskFault, FaultKind, FaultOp};
use quorate::types::StorageError;

const ENOSPC: i32 = 28;

impl World {
    pub(super) fn crash_in_write(&mut self, member: usize, after_ops: u64, down_us: u64) {
        let restart_at_us = self.now_us + down_us;
        let slot = &mut self.slots[member];
        if slot.live.is_some() && slot.sabotaged.is_none() && !slot.wiped {
            slot.sabotaged = Some(Fault::CrashInWrite);
            slot.restart_at_us = restart_at_us;
            slot.disk.set_crash_after(after_ops);
            self.counters.fired(Fault::CrashInWrite);
        }
    }

    pub(super) fn disk_error(&mut self, member: usize, down_us: u64) {
        let op = if self.crashes.chance(1, 2) { FaultOp::Write } else { FaultOp::Sync };
        let nth = 1 + self.crashes.below(20);
        let restart_at_us = self.now_us + down_us;
        let slot = &mut self.slots[member];
        if slot.live.is_some() && slot.sabotaged.is_none() && !slot.wiped {
            slot.sabotaged = Some(Fault::DiskError);
            slot.restart_at_us = restart_at_us;
            slot.disk.inject(DiskFault::nth(op, FaultKind::Io, nth));
            self.counters.fired(Fault::DiskError);
        }
    }

    /// Some operation of any kind fails once: a read, a rename, the creation of a file, and so on.
    pub(super) fn io_error(&mut self, member: usize, draw: u64, down_us: u64) {
        const OPS: [(FaultOp, u64); 10] = [
            (FaultOp::Open, 2),
            (FaultOp::Create, 2),
            (FaultOp::Read, 20),
            (FaultOp::Write, 20),
            (FaultOp::Sync, 20),
            (FaultOp::SetLen, 2),
            (FaultOp::Allocate, 3),
            (FaultOp::Rename, 2),
            (FaultOp::Unlink, 2),
            (FaultOp::SyncDir, 3),
        ];
        let (op, often) = OPS[(draw % OPS.len() as u64) as usize];
        // Reads and unlinks do not want for room.
        let may_fill = matches!(
            op,
            FaultOp::Create | FaultOp::Write | FaultOp::Sync | FaultOp::SetLen | FaultOp::Allocate
        );
        let full = may_fill && (draw >> 8).is_multiple_of(3);
        let kind = if full { FaultKind::NoSpace } else { FaultKind::Io };
        let nth = 1 + (draw >> 16) % often;
        let restart_at_us = self.now_us + down_us;
        let slot = &mut self.slots[member];
        if slot.live.is_some() && slot.sabotaged.is_none() && !slot.wiped && !slot.is_gone() {
            slot.sabotaged = Some(Fault::IoError);
            slot.restart_at_us = restart_at_us;
            slot.disk.inject(DiskFault::nth(op, kind, nth));
            self.counters.fired(Fault::IoError);
        }
    }

    /// The disk of one member fills up but for `slack` bytes, and is emptied later.
    pub(super) fn fill_disk(&mut self, member: usize, slack: u64, for_us: u64) {
        let until_us = self.now_us + for_us;
        let slot = &mut self.slots[member];
        if slot.live.is_some() && slot.full_until_us == 0 && !slot.wiped {
            slot.full_until_us = until_us;
            slot.disk.set_capacity(Some(slot.disk.used_bytes() + slack));
            self.counters.fired(Fault::NoSpace);
            self.at(until_us, Event::Act { act: Act::SpaceBack { member } });
        }
    }

    pub(super) fn empty_disk(&mut self, member: usize) {
        let slot = &mut self.slots[member];
        if slot.full_until_us <= self.now_us {
            slot.full_until_us = 0;
            slot.disk.set_capacity(None);
        }
    }

    /// Whether the member has met its full disk.
    pub fn is_full(&self, m: usize, error: &StorageError) -> bool {
        let slot = &self.slots[m];
        slot.full_until_us > 0
            && matches!(error, StorageError::Io { source, .. }
                if source.raw_os_error() == Some(ENOSPC))
    }

    /// No room: the member stops, and is started again when there is some.
    pub fn stop_for_space(&mut self, m: usize, doing: &str, error: &StorageError) -> Checked {
        self.counters.mattered(Fault::NoSpace);
        self.note(|| format!("{m} stops while at {doing}: {error}"));
        let until_us = self.slots[m].full_until_us;
        if self.crashes.chance(1, 2) {
            self.slots[m].sabotaged = None;
            self.slots[m].disk.clear_faults();
            self.slots[m].disk.kill_process();
        } else {
            self.crash_disk(m);
        }
        self.stop_process(m);
        self.plan_restart(m, until_us + 1);
        Ok(())
    }

    pub(super) fn slow_disk(&mut self, member: usize, for_us: u64) {
        self.counters.fired(Fault::SlowDisk);
        self.slots[member].slow_until_us = self.now_us + for_us;
    }

    /// The power fails: what was not synced is in doubt, as far as the switches say.
    pub fn crash_disk(&mut self, m: usize) {
        let (lost, torn) = (self.plan.on(Fault::LostWrites), self.plan.on(Fault::TornWrites));
        let draw = self.crashes.next_u64();
        let slot = &mut self.slots[m];
        let doubtful = slot.disk.is_in_doubt();
        slot.disk.reseed(draw);
        slot.sabotaged = None;
        slot.disk.clear_faults();
        match (lost, torn) {
            (true, true) => slot.disk.crash(),
            (true, false) => {
                let mode = CrashMode::ALL[(draw % CrashMode::ALL.len() as u64) as usize];
                slot.disk.crash_with(CrashPlan { mode, torn: false });
            }
            (false, true) => {
                slot.disk.crash_with(CrashPlan { mode: CrashMode::Prefix, torn: true });
            }
            (false, false) => slot.disk.kill_process(),
        }
        let gone = slot.disk.lost();
        // A power failure with nothing in the cache is only a crash.
        for (on, fault) in [(lost, Fault::LostWrites), (torn, Fault::TornWrites)] {
            if on && doubtful {
                self.counters.fired(fault);
                let mattered = match fault {
                    Fault::TornWrites => gone.torn > 0,
                    _ => !gone.is_nothing(),
                };
                if mattered {
                    self.counters.mattered(fault);
                }
            }
        }
    }
}
