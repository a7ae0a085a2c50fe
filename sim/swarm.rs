//! Which faults a seed has, how many of them at once, and how hard they come.
//!
//! With every fault on in half of the seeds, all seeds would be the same soup: nothing but elections,
//! and the same rare interleavings drowned in it. So a seed first draws *how many* acts it has,
//! from none to many, then which, then how often. A fault's rank comes from a stream of its own
//! name: a new fault in the list leaves the draws of the others alone.

use crate::faults::Fault;
use crate::plan::{OpKind, Seed};
use crate::theme::Theme;
use std::collections::BTreeMap;

/// How many acts may be on, and in how many of 16 seeds.
const DENSITIES: [(usize, u64); 6] = [(0, 1), (1, 3), (2, 4), (4, 4), (8, 2), (usize::MAX, 2)];

pub struct Swarm {
    pub faults: BTreeMap<Fault, bool>,
    /// The mean time between two acts, in ticks.
    pub gap_ticks: u64,
    /// Few clients that think long, no fault: how fast virtual time goes by when little happens,
    /// and whether a cluster stays at rest when left alone.
    pub idle: bool,
    pub theme: Theme,
}

impl Swarm {
    pub fn new(seed: &Seed) -> Swarm {
        let mut rng = seed.stream("swarm");
        // A calm seed now and then: what breaks without any fault should be seen without any.
        let calm = rng.chance(1, 24);
        let idle = rng.chance(1, 3) && calm;
        let mut density = rng.below(DENSITIES.iter().map(|d| d.1).sum());
        let acts = DENSITIES
            .iter()
            .find(|d| {
                let here = density < d.1;
                density = density.saturating_sub(d.1);
                here
            })
            .map_or(0, |d| d.0);
        // From a quiet life with one disturbance at a time to one on the heels of the other.
        let mut gap_ticks = match rng.below(4) {
            0 => rng.between(30, 120),
            1 => rng.between(1, 6),
            _ => rng.between(4, 30),
        };
        let many = acts == usize::MAX;
        let mut ranked: Vec<(u64, Fault)> = Vec::new();
        let mut faults = BTreeMap::new();
        for fault in Fault::ALL.iter().copied().filter(|fault| !fault.is_of_servers()) {
            let draw = seed.stream(fault.name()).next_u64();
            if fault.is_act() {
                ranked.push((draw, fault));
            } else {
                let one_in = if fault.is_rare() { 8 } else { 3 };
                faults.insert(fault, draw.is_multiple_of(one_in) && !calm);
            }
        }
        ranked.sort_unstable();
        for (rank, (draw, fault)) in ranked.into_iter().enumerate() {
            let on = if many { draw.is_multiple_of(2) } else { rank < acts };
            faults.insert(fault, on && !calm);
        }
        let theme = if calm { Theme::None } else { Theme::new(seed) };
        theme.choose(seed, &mut faults, &mut gap_ticks);
        Swarm { faults, gap_ticks, idle, theme }
    }
}

/// Operations of an idle seed: the plainest ones.
pub fn is_idle_op(kind: OpKind) -> bool {
    matches!(kind, OpKind::Put | OpKind::Get)
}
