//! Tokens that members remember: each stands for a user until it has not been used for a while.
//!
//! They come and go in the log's order, so every member knows them; when they run out is each
//! member's own to say, on its own clock, and after a restart none is left. That is etcd's simple
//! token: a client asks for a new one when it is told that its own is unknown.

use crate::types::auth::TokenChange;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
struct Held {
    user: String,
    until_ms: u64,
}

#[derive(Debug)]
pub struct Tokens {
    ttl_ms: u64,
    held: BTreeMap<String, Held>,
    /// (end, token) of each.
    ends: BTreeSet<(u64, String)>,
}

impl Tokens {
    /// Tokens live for so long after their last use.
    pub fn new(ttl_ms: u64) -> Tokens {
        Tokens { ttl_ms, held: BTreeMap::new(), ends: BTreeSet::new() }
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub fn changed(&mut self, change: TokenChange, now_ms: u64) {
        self.forget_old(now_ms);
        match change {
            TokenChange::Granted { token, user } => {
                let until_ms = now_ms.saturating_add(self.ttl_ms);
                self.ends.insert((until_ms, token.clone()));
                self.held.insert(token, Held { user, until_ms });
            }
            TokenChange::UserGone { user } => {
                let ends = &mut self.ends;
                self.held.retain(|token, held| {
                    let stays = held.user != user;
                    if !stays {
                        ends.remove(&(held.until_ms, token.clone()));
                    }
                    stays
                });
            }
            TokenChange::AllGone => {
                self.held.clear();
                self.ends.clear();
            }
        }
    }

    /// Whom the token stands for; using it makes it last.
    pub fn user(&mut self, token: &str, now_ms: u64) -> Option<String> {
        self.forget_old(now_ms);
        let held = self.held.get_mut(token)?;
        self.ends.remove(&(held.until_ms, token.to_owned()));
        held.until_ms = now_ms.saturating_add(self.ttl_ms);
        self.ends.insert((held.until_ms, token.to_owned()));
        Some(held.user.clone())
    }

    fn forget_old(&mut self, now_ms: u64) {
        while self.ends.first().is_some_and(|(until, _)| *until <= now_ms) {
            let (_, token) = self.ends.pop_first().expect("there is a first");
            self.held.remove(&token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(token: &str, user: &str) -> TokenChange {
        TokenChange::Granted { token: token.into(), user: user.into() }
    }

    #[test]
    fn a_token_lasts_as_long_as_it_is_used() {
        let mut tokens = Tokens::new(100);
        tokens.changed(granted("a.1", "alice"), 0);
        assert_eq!(tokens.user("a.1", 99).as_deref(), Some("alice"));
        assert_eq!(tokens.user("a.1", 198).as_deref(), Some("alice"));
        assert_eq!(tokens.user("a.1", 298), None);
        assert!(tokens.is_empty() && tokens.ends.is_empty());
    }

    #[test]
    fn a_user_that_is_gone_takes_its_tokens_along() {
        let mut tokens = Tokens::new(100);
        for (token, user) in [("a.1", "alice"), ("b.2", "bob"), ("a.3", "alice")] {
            tokens.changed(granted(token, user), 0);
        }
        tokens.changed(TokenChange::UserGone { user: "alice".into() }, 1);
        assert_eq!((tokens.user("a.1", 2), tokens.user("a.3", 2)), (None, None));
        assert_eq!(tokens.user("b.2", 2).as_deref(), Some("bob"));
        assert_eq!((tokens.len(), tokens.ends.len()), (1, 1));
        tokens.changed(TokenChange::AllGone, 3);
        assert_eq!(tokens.user("b.2", 3), None);
    }
}
