//! Every rule that a run can break, by its id, and how each is known to be awake.
//!
//! The list is the only place where an id is born: `ensure!` and `broken!` take no other (a typo
//! does not compile), the table of checkers in SIMULATION.md has a row for each, and the self
//! checks fail with the ids of rules that nothing has been seen to break. A rule is controlled by
//! a spoilt observation that is fed to its checker (`control::control`), which has to notice it,
//! to be silent about the same observation unspoilt, and to be silent when it is switched off; or,
//! where only a whole run can break it, by the canary run that the list names.

use crate::safety::{Checked, Violation};
use std::cell::Cell;

/// How a rule is known to be awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// An observation is fed to the checker by hand.
    Fed,
    /// A run that is spoilt on purpose: a name in `run::controls::CANARIES`.
    Canary(&'static str),
}

#[derive(Debug)]
pub struct Rule {
    pub id: &'static str,
    pub meaning: &'static str,
    pub control: Control,
}

macro_rules! rules {
    ($($id:literal $(by $canary:literal)? : $meaning:literal,)*) => {
        pub const ALL: &[Rule] = &[$(Rule {
            id: $id,
            meaning: $meaning,
            control: rules!(@control $($canary)?),
        },)*];
    };
    (@control $canary:literal) => { Control::Canary($canary) };
    (@control) => { Control::Fed };
}

rules! {
    // Raft, as seen from outside.
    "election-safety": "a term of a group has one leader",
    "election-quorum": "a leader has the durable votes of a quorum of its configuration",
    "leader-completeness": "a new leader's log has everything that is committed",
    "vote-for-an-older-log": "nobody votes for a candidate whose log ends before its own",
    "log-matching": "one index and term, one entry",
    "committed-immutable": "over a committed entry nobody appends another but what an older leader than the one that committed it had sent",
    "committed-by-quorum": "what a leader commits by counting is synced on a quorum",
    "committed-is-durable": "what anybody applies first is synced on a quorum",
    "applied-is-durable-here": "what a member applies is synced on its own disk",
    "state-machine-safety": "one index, one applied entry",
    "commit-gap": "entries are applied in order, none left out",
    "monotone-term": "a process' term never falls",
    "monotone-commit": "a process' commit and applied index never fall",
    "configuration": "a member acts on the configuration that the committed changes make",
    "conf-verdict": "every member gives the same verdict on a committed change",
    "one-pending-change": "a leader proposes a change only when it has applied the one before",
    "state-equality": "equal applied indexes, equal states",
    // The disk.
    "message-after-durable": "no vote and no acknowledgement leaves before its sync",
    "durable-after-restart": "a group whose log was synced is found at the next start",
    "durable-hard-state": "a synced term and vote are found at the next start",
    "durable-log": "a synced entry is found at the next start",
    "recovered-not-durable": "what a member starts with would survive a power failure",
    "boot": "a member with its own whole directory starts",
    "older-checkpoint": "the checkpoint before the newest is whole, and the log goes on from it",
    "log-before-store": "the log gives up only what the store has for good",
    "store-structure": "the store's trees verify",
    "storage-error": "no operation fails that was not meant to",
    "damage-unnamed": "who stops for damage names a file of its own",
    "unbounded": "memory, queues, files and the log keep within their bounds",
    // Answers, with the log as witness.
    "wrong-reply": "a write's answer is the model's at its place in the log",
    "wrong-verdict": "a write that the state machine refused is in the log with that verdict",
    "wrong-command": "the command in the log is the one that was sent",
    "wrong-caller": "a command in the log is on behalf of who asked",
    "wrong-permission": "a member lets through what the users that it has applied permit, and nothing else",
    "read-without-right": "no pair leaves for somebody who may not read its key",
    "token-undead": "a token stands for nobody once its user is gone, has another password, or users do not count",
    "wrong-kind": "an answer is of the kind of its question",
    "wrong-alarm": "nobody is refused for an alarm that was never raised",
    "answered-twice": "one place in the log answers one call",
    "acked-not-committed": "what is answered is committed",
    "applied-twice": "a request is in the log once",
    "refused-but-done": "what was refused for good never happens",
    "undecodable": "a committed command decodes",
    "real-time-order": "a write lies behind all that was answered before it began",
    "linearizable-read": "a read sees all that was answered before it began",
    "read-uncommitted": "no read sees what is not committed",
    "read-future": "no revision is served that the state does not have",
    "read-compacted": "no revision is served that was compacted before",
    "wrong-read": "a read's content is the model's at its revision",
    "answer-without-quorum": "without a quorum nothing that begins then is answered",
    "black-box": "some order of the calls explains all answers",
    "lost-update": "one revision of a key is replaced once",
    "mutual-exclusion": "a lock has one holder at a time, and fences never fall",
    // Leases.
    "lease-early": "no lease is ended before its time",
    "lease-late": "a lease that nobody keeps ends",
    "lease-undead": "no lease is said to live after its end",
    "lease-lost": "no lease is said to be gone before its end",
    "lease-time": "the time left that is told fits the facts",
    "lease-list": "a list of leases has those that live",
    // Watches.
    "watch-order": "revisions are told in order, each once",
    "watch-missing": "no revision is left out",
    "watch-empty": "no message brings nothing",
    "watch-filter": "only what was asked for is told",
    "watch-is-create": "a key's first version is one that was created then",
    "watch-atomic": "a revision is told whole",
    "watch-prev-kv": "a previous pair is the right one",
    "watch-bookmark": "progress is not ahead of the events before it",
    "watch-compacted": "a watch ends for a compaction that took what it needed next",
    "watch-uncommitted": "nothing leaves for a watcher before it is committed",
    "watch-header": "a stream's header never falls",
    "watch-refused": "only nonsense is refused",
    "watch-id": "each message names a watch that exists",
    "watch-flags": "previous pairs and fragments come only to who asked for them",
    "watch-canceled": "only who has asked for it is canceled",
    "watch-created": "creations are answered in the order they were asked for",
    "watch-feed": "catching up never fails for anything but the disk",
    "watch-stalled": "in the calm every watch is told everything",
    "watch-silent" by "deaf watchers": "the same of whole servers",
    "watch-future": "no server tells of a revision that is not committed",
    "watch-gap": "a server's progress leaves nothing out",
    "watch-events": "a server tells exactly the events of the log",
    // Replicas, compared.
    "replica-content": "a replica has exactly the model's content",
    "replica-leases": "a replica has exactly the model's leases",
    "hash-kv": "one revision of one history has one HashKV",
    "membership-equality": "one index of group 1, one membership",
    // Identity.
    "wiped-accepted": "nobody shakes hands with a member that has lost its disk",
    "wiped-heard": "nobody takes its messages",
    "wiped-applies": "it applies nothing",
    "removed-accepted": "who knows of a removal shakes hands with the removed no more",
    "handshake-refused": "members of one cluster shake hands",
    "foreign-heard": "members of different clusters refuse each other on both sides",
    "foreign-lab": "a cluster of one comes to life",
    "cluster-id-untold": "a refusal names both clusters",
    "other-cluster-dir": "no member starts on another cluster's directory",
    "other-member-dir": "no member starts on another member's directory",
    "refused-dir-changed": "a directory that is refused stays as it was",
    "older-store": "an older store is either made up for by the log or refused",
    "restore": "a restore and the start after it succeed",
    "restored-content": "a restored member has what was committed at its revision",
    "restore-no-service": "a restored cluster serves",
    "unwanted-stop": "no member stops by itself without a reason",
    "silent-stop": "a server that is failed by its disk says so",
    // Service.
    "no-service": "a quorum that is up and connected serves",
    "not-converged": "in the calm all members apply all that is committed",
    "stranger-stays": "who does not introduce himself as a peer is sent away in time",
    "stop-hangs" by "a server that does not stop": "a server that is asked to stop does",
    // Everything else that must not happen.
    "bad-message": "no member finds a peer's message to be one that no peer sends",
    "strange-address": "messages are from who sends them and to who is a member",
    "codec": "what is decoded is what was encoded",
    "panic" by "panic": "nothing panics",
    "hang" by "endless server": "a seed comes to its end",
    "determinism": "one seed, one history",
}

/// Whether there is such a rule; for the compiler to ask.
pub const fn is_listed(id: &str) -> bool {
    let mut at = 0;
    while at < ALL.len() {
        if equal(ALL[at].id.as_bytes(), id.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A rule's id. One that is not in the list does not compile.
macro_rules! rule {
    ($id:literal) => {{
        const _: () = assert!($crate::rules::is_listed($id), concat!("not in sim/rules.rs: ", $id));
        $id
    }};
}
pub(crate) use rule;

/// Goes on only if it holds, or if the rule is switched off.
macro_rules! ensure {
    ($cond:expr, $rule:literal, $($arg:tt)+) => {
        if !$cond && !$crate::rules::is_blind($rule) {
            let rule = $crate::rules::rule!($rule);
            return Err($crate::safety::Violation { rule, detail: format!($($arg)+) });
        }
    };
}
pub(crate) use ensure;

/// What to return where a rule is broken. With the rule switched off: a result of no meaning.
macro_rules! broken {
    ($rule:literal, $detail:expr $(,)?) => {
        $crate::rules::report($crate::rules::rule!($rule), || $detail.into())
    };
}
pub(crate) use broken;

pub fn report<T: Default>(
    rule: &'static str,
    detail: impl FnOnce() -> String,
) -> Result<T, Violation> {
    if is_blind(rule) { Ok(T::default()) } else { Err(Violation { rule, detail: detail() }) }
}

thread_local! {
    static BLIND: Cell<&'static str> = const { Cell::new("") };
    static SPOILT: Cell<&'static str> = const { Cell::new("") };
}

/// Whether this rule is switched off on this thread: asked only when it is about to be violated.
pub fn is_blind(rule: &'static str) -> bool {
    BLIND.get() == rule
}

/// Runs a negative control with one rule switched off: what was spoilt must then pass that rule,
/// or it was not the rule that had noticed it.
pub fn blinded<T>(rule: &'static str, run: impl FnOnce() -> T) -> T {
    let before = BLIND.replace(rule);
    let result = run();
    BLIND.set(before);
    result
}

/// Whether what this rule looks at is to be spoilt, on this thread: asked where an observation of
/// a whole world is made that no control can make by hand.
pub fn is_spoilt(rule: &'static str) -> bool {
    SPOILT.get() == rule
}

pub fn spoilt<T>(rule: &'static str, run: impl FnOnce() -> T) -> T {
    let before = SPOILT.replace(rule);
    let result = run();
    SPOILT.set(before);
    result
}

pub mod control {
    //! What the controls of the referees share.

    use super::*;
    use std::collections::BTreeSet;
    use std::sync::{Mutex, PoisonError};

    static NOTICED: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

    fn noticed() -> std::sync::MutexGuard<'static, BTreeSet<&'static str>> {
        NOTICED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `feed` makes an observation, spoilt or not. Spoilt it breaks this rule and no other before
    /// it; not spoilt it breaks none; and with the rule switched off nothing speaks for it.
    pub fn control(rule: &'static str, feed: impl Fn(bool) -> Checked) {
        if let Err(other) = feed(false) {
            panic!("[{rule}] a good observation is taken for bad: {other:?}");
        }
        caught(rule, || feed(true));
    }

    /// The half of it: spoilt, and spoilt with the rule switched off.
    pub fn caught(rule: &'static str, feed: impl Fn() -> Checked) {
        match feed() {
            Ok(()) => panic!("[{rule}] is broken and nobody notices"),
            Err(found) => assert_eq!(found.rule, rule, "another rule spoke: {found:?}"),
        }
        if let Err(found) = blinded(rule, feed) {
            assert_ne!(found.rule, rule, "switched off, and it speaks: {found:?}");
        }
        assert!(is_listed(rule), "[{rule}] is in no list");
        noticed().insert(rule);
    }

    /// Rules of the list that nothing was seen to break.
    pub fn never_noticed() -> Vec<&'static str> {
        let noticed = noticed();
        let asleep = |rule: &&Rule| !noticed.contains(rule.id);
        ALL.iter().filter(asleep).map(|rule| rule.id).collect()
    }
}
