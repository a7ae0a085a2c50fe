//! Users, roles and what they may do: etcd's RBAC as a replicated value.
//!
//! ```text
//!   AuthCommand ──▶ AuthState::apply ──▶ AuthDone { reply, rows to store, tokens }   (in the log's order)
//!   Caller + request ──▶ AuthState::check_* ──▶ Ok, or the refusal                  (at apply and at reads)
//! ```
//!
//! Promises: the same commands in the same order give the same users, roles, revision and
//! refusals on every member. A check looks at nothing but the state, the caller and the request,
//! at every depth of nested transactions. A single-key permission is that key alone, for ranges
//! and watches alike; adjacent permissions add up to one range, as in etcd.
//!
//! The auth revision starts at 1 and grows with every change of a user or role and with
//! disabling (not with enabling): a caller who was told apart under an older one is refused, so a
//! permission that was taken away is gone for requests that are already on their way.
//!
//! Refuses to know: passwords (hashes are opaque here), tokens and their lifetimes, who is
//! connected, where the rows are stored.
//!
//! Read first: `state`, then `check`.

mod check;
mod rights;
mod state;

#[cfg(test)]
mod tests;

pub use check::Need;
pub use state::{AuthDone, AuthState, User};
