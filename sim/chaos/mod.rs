//! The nemesis' hand: how each act is carried out, and what is demanded while it lasts.
//!
//! One file per kind of disturbance; each opens with what it may do and what must hold meanwhile.

mod damage;
mod directories;
mod disk;
mod foreign;
mod identity;
mod members;
mod network;
mod process;
mod quorum;
mod remedy;
mod restored;
mod streams;
mod time;

pub use foreign::Foreign;
pub use members::Roster;

use crate::faults::{Act, Fault};
use crate::safety::Checked;
use crate::world::{Event, World};
use quorate::types::GroupId;

/// A stretch of time with a promise of its own; the nemesis rests meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// As many members are down as the cluster must bear: service resumes and goes on.
    Edge,
    /// One more: nothing may be answered.
    Loss,
    /// They are back: service resumes.
    Resume,
}

impl World {
    pub fn disturb(&mut self) -> Checked {
        if !self.acting {
            return Ok(());
        }
        if self.frozen_until_us > self.now_us {
            self.at(self.frozen_until_us, Event::Nemesis);
            return Ok(());
        }
        let act = self.next_act();
        if self.phase.is_some() {
            return Ok(());
        }
        let Some((word, act)) = act else { return Ok(()) };
        self.decide_act(word, &act);
        self.note(|| format!("nemesis: {act:?}"));
        self.carry_out(act)
    }

    /// The rest of an act that takes its time.
    pub fn go_on(&mut self, act: Act) -> Checked {
        // What only ends something happens in any case; nothing else disturbs a phase.
        let always = matches!(act, Act::Silence { .. } | Act::SpaceBack { .. });
        if self.acting && self.phase.is_none() || always {
            return self.carry_out(act);
        }
        Ok(())
    }

    fn carry_out(&mut self, act: Act) -> Checked {
        match act {
            // About members that are whole: one that is still joining, or has been removed, is not.
            Act::OldId { member }
            | Act::OtherClusterDir { member }
            | Act::OtherMemberDir { member, .. }
            | Act::OlderStore { member }
            | Act::MidStream { member, .. }
            | Act::ForeignPeer { member, .. }
            | Act::Wipe { member }
            | Act::Damage { member, .. }
                if !self.is_whole_member(member) => {}
            Act::OtherMemberDir { of, .. } if !self.is_whole_member(of) => {}
            // A restored cluster is compared with what the seed founded.
            Act::Restored { .. } if !self.is_as_founded() => {}
            Act::Heal => self.net.heal(),
            Act::Partition { side } => self.partition(side),
            Act::OneWay { from, to } => self.cut_one_way(from, to),
            Act::IsolateLeader => self.isolate_leader(),
            Act::SlowLink { from, to } => self.slow_link(from, to),
            Act::Minority { draw } => self.cut_off_minority(draw),
            Act::Bridge { middle, side } => self.bridge(middle, side),
            Act::Ring => self.ring(),
            Act::GroupPartition { draw, side } => self.partition_group(draw, side),
            Act::Flap { member, other, period_us, turns } => {
                self.flap(member, other, period_us, turns);
            }
            Act::Swizzle { draw } => self.swizzle(draw),
            Act::Clog { member, for_us } => self.clog(member, for_us),
            Act::Reset { a, b } => self.reset(a, b),
            Act::OneSideClosed { from, to } => self.close_one_side(from, to),
            Act::HalfOpen { member, down_us } => self.half_open(member, down_us),
            Act::DeafPeer { member, for_us } => self.deafen(member, for_us),
            Act::Silence { member } => self.silence(member),
            Act::LongPause { member, for_us } => self.pause(member, for_us, Fault::LongPause),
            Act::FreezeAll { for_us } => self.freeze_all(for_us),
            Act::StarveTicks { member, for_us } => self.starve_ticks(member, for_us),
            Act::IoError { member, draw, down_us } => self.io_error(member, draw, down_us),
            Act::NoSpace { member, slack, for_us } => self.fill_disk(member, slack, for_us),
            Act::SpaceBack { member } => self.empty_disk(member),
            Act::LookAtDisk { member, fault, draw, wait_us } => {
                self.look_at_disk(member, fault, draw, wait_us);
            }
            Act::Damage { member, fault, draw } => self.damage(member, fault, draw),
            Act::LeaderStall { for_us } => self.leader_stall(for_us),
            Act::Crash { member, down_us } => {
                self.crash(member, down_us, crate::faults::Fault::Crash);
            }
            Act::CrashInWrite { member, after_ops, down_us } => {
                self.crash_in_write(member, after_ops, down_us);
            }
            Act::CrashBetween { member, after, down_us } => {
                self.crash_between(member, after, down_us);
            }
            Act::CrashRare { member, draw, down_us } => self.crash_rare(member, draw, down_us),
            Act::Pause { member, for_us } => self.pause(member, for_us, Fault::Pause),
            Act::Transfer { to } => self.transfer_to(to),
            Act::SlowDisk { member, for_us } => self.slow_disk(member, for_us),
            Act::DiskError { member, down_us } => self.disk_error(member, down_us),
            Act::QuorumEdge { down_us } => self.quorum_edge(down_us),
            Act::QuorumLoss { down_us } => self.quorum_loss(down_us),
            Act::Members { fault, draw } => self.change_members(fault, draw),
            Act::Wipe { member } => return self.wipe(member),
            Act::ForeignPeer { member, for_us } => return self.foreign_peer(member, for_us),
            Act::MidStream { member, for_us } => {
                return self.switch_in_mid_stream(member, for_us);
            }
            Act::OldId { member } => return self.old_client_id(member),
            Act::OtherClusterDir { member } => return self.other_clusters_directory(member),
            Act::OtherMemberDir { member, of } => return self.other_members_directory(member, of),
            Act::OlderStore { member } => return self.older_store(member),
            Act::Restored { survivor, draw } => return self.restore_beside(survivor, draw),
            Act::Waves { first, down_us } => self.quorum_waves(first, down_us),
            Act::JointLoss { draw, tries, down_us } => {
                self.quorum_loss_in_joint(draw, tries, down_us)
            }
            Act::Remedy { draw, tries } => self.replace_lost(draw, tries),
            Act::Wave { member, down_us } => self.wave(member, down_us),
        }
        Ok(())
    }

    /// Who leads the group in the newest term, as the members see it.
    pub fn leader_of(&self, group: GroupId) -> Option<usize> {
        let leads = |m: &usize| {
            let live = self.slots[*m].live.as_ref()?;
            let said = live.said(group)?;
            (said.is_leader && !self.slots[*m].wiped).then_some((said.term, *m))
        };
        (0..self.slots.len()).filter_map(|m| leads(&m)).max().map(|(_, m)| m)
    }
}
