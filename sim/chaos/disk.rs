//! Disks: power failures, errors, slowness.

use crate::faults::Fault;
use crate::world::World;
use quorate::io::mem_disk::{CrashMode, CrashPlan, Fault as DiskFault, FaultKind, FaultOp};

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

    pub(super) fn slow_disk(&mut self, member: usize, for_us: u64) {
        self.counters.fired(Fault::SlowDisk);
        self.slots[member].slow_until_us = self.now_us + for_us;
    }

    /// The power fails: what was not synced is in doubt, as far as the switches say.
    pub fn crash_disk(&mut self, m: usize) {
        let (lost, torn) = (self.plan.on(Fault::LostWrites), self.plan.on(Fault::TornWrites));
        let draw = self.crashes.next_u64();
        let slot = &mut self.slots[m];
        let doubtful = slot.disk.unsynced_bytes() > 0;
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
        for (on, fault) in [(lost, Fault::LostWrites), (torn, Fault::TornWrites)] {
            if on {
                self.counters.fired(fault);
                if doubtful {
                    self.counters.mattered(fault);
                }
            }
        }
    }
}
