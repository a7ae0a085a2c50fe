//! Who asks: what a seed draws about users that count, and what a request says of its sender.
//!
//! About one seed in six lets users count. There an operator sets up root, two users and their
//! roles in each group and enables them; later root's clients change users and roles, and the
//! operator may disable them for a while. Every other client is somebody: root, or a user with
//! few rights.

use crate::seed::Seed;
use crate::text::{Field, field, parts};
use quorate::types::KeyRange;
use quorate::types::auth::{Caller, Permission, PermissionKind};
use quorate::types::prng::Prng;

/// In one seed of so many users come to count.
const AUTH_ONE_IN: u64 = 6;

/// Users with few rights. The last one is only ever made by a change later on.
pub const USERS: [&str; 3] = ["alice", "bob", "carol"];
pub const ROLES: [&str; 2] = ["reader", "writer"];

#[derive(Clone, Debug)]
pub struct AuthPlan {
    /// Whether users count in this seed.
    pub on: bool,
    /// They cease to for a while now and then.
    pub toggles: bool,
    /// Some requests are in the name of nobody there is, of an older revision, or come with a token
    /// of the past.
    pub strangers: bool,
    /// How many of some sixty calls change users and roles.
    pub changes: u64,
    pub token_ttl_ms: u64,
    /// Clients look for where rights end: ranges that begin and end right behind keys, leases of
    /// others.
    pub edges: bool,
}

impl AuthPlan {
    pub fn new(seed: &Seed) -> AuthPlan {
        let mut rng = seed.stream("plan-auth");
        let on = rng.chance(1, AUTH_ONE_IN);
        let mut pick = |from: &[u64]| from[rng.below(from.len() as u64) as usize];
        AuthPlan {
            on,
            toggles: pick(&[0, 1]) == 1,
            strangers: pick(&[0, 1]) == 1,
            changes: pick(&[1, 2, 6]),
            token_ttl_ms: pick(&[2_000, 300_000]),
            edges: pick(&[1, 0]) == 1,
        }
    }
}

impl Field for AuthPlan {
    fn read(text: &str) -> Option<AuthPlan> {
        let (_, fields) = parts(text)?;
        Some(AuthPlan {
            on: field(&fields, "on")?,
            toggles: field(&fields, "toggles")?,
            strangers: field(&fields, "strangers")?,
            changes: field(&fields, "changes")?,
            token_ttl_ms: field(&fields, "token_ttl_ms")?,
            edges: field(&fields, "edges")?,
        })
    }
}

/// What a request says of its sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credential {
    #[default]
    Nobody,
    /// One that members remember.
    Token(String),
    /// Signed for a user under the users of a day.
    Signed(Caller),
    /// The name in a certificate.
    Certificate(String),
}

impl Credential {
    pub fn root() -> Credential {
        Credential::Certificate(quorate::types::auth::ROOT.to_owned())
    }
}

/// Something that a role may be given: single keys, all hot ones, everything behind a key, all.
pub fn permission(rng: &mut Prng, range: KeyRange) -> Permission {
    let kind = match rng.below(4) {
        0 => PermissionKind::Read,
        1 => PermissionKind::Write,
        _ => PermissionKind::ReadWrite,
    };
    Permission { kind, range }
}
