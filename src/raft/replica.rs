//! The state of one replica, and what dispatches an input to the role it is in.

use super::{Boot, Config, Effects, Input, Status};
use crate::types::{LogIndex, Term};

#[derive(Debug)]
pub struct Replica {
    config: Config,
    boot: Boot,
}

impl Replica {
    pub fn new(config: Config, boot: Boot) -> Replica {
        Replica { config, boot }
    }
    pub fn step(&mut self, _input: Input, _effects: &mut Effects) {}
    pub fn status(&self) -> Status {
        Status { id: self.config.id, ..Status::default() }
    }
    /// The last trimmed entry.
    pub fn log_start(&self) -> (LogIndex, Term) {
        self.boot.start
    }
    /// Whether nothing is under way: the host may stop the ticks of a group that has been quiet
    /// for a while on all its nodes.
    pub fn is_quiet(&self) -> bool {
        false
    }
}
