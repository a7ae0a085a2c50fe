//! Where Quorate and etcd 3.5 answer differently on purpose, and why. At most fifteen, each as
//! narrow as it can be said.

use crate::call::{Answer, Reply};
use quorate::api::proto::authpb;
use tonic::Code;

/// One difference that is argued for.
struct Known {
    /// What the RPC's path contains.
    rpc: &'static str,
    what: &'static str,
    why: &'static str,
    /// Whether these two answers are that difference.
    is_it: fn(&Answer, &Answer) -> bool,
}

const KNOWN: &[Known] = &[
    Known {
        rpc: "KV/",
        what: "a sort order outside the enum",
        why: "3.6 refuses it; 3.5 takes it for no order",
        is_it: |_, ours| is_refused(ours, Code::InvalidArgument, "etcdserver: invalid sort option"),
    },
    Known {
        rpc: "KV/Txn",
        what: "which of two faults on the taken path is told",
        why: "3.5 checks all puts before all ranges, 3.6 each operation in its turn",
        is_it: |etcd, ours| {
            let put = is_refused(etcd, Code::InvalidArgument, "etcdserver: key not found")
                || is_refused(etcd, Code::NotFound, "etcdserver: requested lease not found");
            put && matches!(ours, Answer::Refused(Code::OutOfRange, text)
                if text.contains("etcdserver: mvcc: required revision "))
        },
    },
    Known {
        rpc: "",
        what: "whether a bad token or a fault of the request is told",
        why: "etcd looks at most requests before it asks who sends them; ours tells a stranger \
              nothing but that",
        is_it: |etcd, ours| {
            let stranger =
                is_refused(ours, Code::Unauthenticated, "etcdserver: invalid auth token");
            stranger && matches!(etcd, Answer::Refused(code, _) if *code != Code::Unauthenticated)
        },
    },
    Known {
        rpc: "Maintenance/Alarm",
        what: "an alarm of a kind that nobody knows",
        why: "3.5 and 3.6 find none of it, and end themselves when it is activated; ours refuses it",
        is_it: |etcd, ours| {
            let none = matches!(etcd, Answer::Reply(Reply::Alarm(a)) if a.alarms.is_empty());
            (none || is_refused(etcd, Code::PermissionDenied, "etcdserver: permission denied"))
                && is_refused(ours, Code::InvalidArgument, "quorate: unknown alarm or alarm action")
        },
    },
    Known {
        rpc: "Maintenance/HashKV",
        what: "hash_revision",
        why: "a field of 3.6",
        is_it: |etcd, ours| match (etcd, ours) {
            (Answer::Reply(Reply::HashKv(etcd)), Answer::Reply(Reply::HashKv(ours))) => {
                let mut as_35 = *ours;
                as_35.hash_revision = 0;
                as_35 == *etcd
            }
            _ => false,
        },
    },
    Known {
        rpc: "Maintenance/HashKV",
        what: "the hash of a revision that was compacted at",
        why: "etcd remembers the last ten in memory, as they were before the removal, and forgets \
              them at a restart; ours is always the one that another member would compute",
        is_it: |etcd, ours| match (etcd, ours) {
            (Answer::Reply(Reply::HashKv(etcd)), Answer::Reply(Reply::HashKv(ours))) => {
                etcd.header == ours.header && etcd.compact_revision < ours.compact_revision
            }
            (Answer::Reply(Reply::HashKv(_)), ours) => is_refused(
                ours,
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            _ => false,
        },
    },
    Known {
        rpc: "Maintenance/Status",
        what: "version, storageVersion, dbSizeQuota, downgradeInfo",
        why: "the version of 3.6, and fields of 3.6",
        is_it: |etcd, ours| match (etcd, ours) {
            (Answer::Reply(Reply::Status(etcd)), Answer::Reply(Reply::Status(ours))) => {
                let mut as_35 = ours.clone();
                as_35.version = etcd.version.clone();
                as_35.storage_version = String::new();
                as_35.db_size_quota = 0;
                as_35.downgrade_info = None;
                as_35 == *etcd
                    && ours.version.starts_with("3.6.")
                    && ours.storage_version == "3.6.0"
                    && ours.db_size_quota > 0
            }
            _ => false,
        },
    },
    Known {
        rpc: "Auth/RoleGet",
        what: "what the root role permits",
        why: "3.6 says everything, 3.5 shows what was granted to it, mostly nothing",
        is_it: |etcd, ours| match (etcd, ours) {
            (Answer::Reply(Reply::RoleGet(_)), Answer::Reply(Reply::RoleGet(ours))) => {
                let everything = |p: &authpb::Permission| {
                    p.perm_type == 2 && p.key.is_empty() && &p.range_end[..] == b"\0"
                };
                ours.perm.len() == 1 && everything(&ours.perm[0])
            }
            _ => false,
        },
    },
    Known {
        rpc: "Maintenance/Downgrade",
        what: "calling off a downgrade that nobody began",
        why: "3.5 refuses it, 3.6 is content",
        is_it: |etcd, ours| {
            is_refused(etcd, Code::FailedPrecondition, "etcdserver: no inflight downgrade job")
                && matches!(ours, Answer::Reply(Reply::Downgrade(_)))
        },
    },
    Known {
        rpc: "Maintenance/Status",
        what: "who may ask",
        why: "3.5.28 to 3.5.30 ask for the root role, 3.6.14 for any user",
        is_it: |etcd, ours| {
            is_refused(etcd, Code::PermissionDenied, "etcdserver: permission denied")
                && matches!(ours, Answer::Reply(Reply::Status(_)))
        },
    },
    Known {
        rpc: "Maintenance/",
        what: "the code of a refused user, of Hash, HashKV and Defragment",
        why: "3.5 forgets to translate it, 3.6 does not",
        is_it: |etcd, ours| match (etcd, ours) {
            (Answer::Refused(Code::Unknown, etcd), Answer::Refused(code, ours)) => {
                *code != Code::Unknown
                    && etcd.strip_prefix("auth: ") == ours.strip_prefix("etcdserver: ")
            }
            _ => false,
        },
    },
];

/// Seen where streams are read, not in an answer, and as much an entry as the others.
const ENDED_WATCH: &str = "Watch/Watch: a watch that a compaction has ended (etcd keeps its id, \
                           answers its cancellation, and tells the stream no progress until then; \
                           for ours it is over)";

/// By gRPC, or by the gateway, which puts its HTTP status in front.
fn is_refused(answer: &Answer, code: Code, text: &str) -> bool {
    matches!(answer, Answer::Refused(c, t) if *c == code
        && (t == text || t.starts_with("HTTP ") && t.ends_with(text)))
}

/// The list, and how often each entry was needed.
pub struct Differences {
    matched: Vec<usize>,
    ended_watches: usize,
}

impl Differences {
    pub fn new() -> Differences {
        assert!(KNOWN.len() < 15, "the list of differences is too long to be argued for");
        Differences { matched: vec![0; KNOWN.len()], ended_watches: 0 }
    }

    /// Whether each pair of answers is equal or a known difference.
    pub fn excuses(
        &mut self,
        path: &str,
        _request: &str,
        etcd: &[Answer],
        ours: &[Answer],
    ) -> bool {
        etcd.len() == ours.len()
            && etcd.iter().zip(ours).all(|(etcd, ours)| {
                etcd == ours
                    || KNOWN.iter().zip(&mut self.matched).any(|(known, matched)| {
                        let is_it = path.contains(known.rpc) && (known.is_it)(etcd, ours);
                        *matched += usize::from(is_it);
                        is_it
                    })
            })
    }

    /// A watch that a compaction has ended was canceled once more by the client, and etcd has
    /// answered that.
    pub fn ended_watch(&mut self) {
        self.ended_watches += 1;
    }

    /// Each entry with its count; those that never matched.
    pub fn report(&self) -> Vec<&'static str> {
        let mut stale = Vec::new();
        for (known, matched) in KNOWN.iter().zip(&self.matched) {
            println!("{matched:>7} x {}: {} ({})", known.rpc, known.what, known.why);
            if *matched == 0 {
                stale.push(known.what);
            }
        }
        println!("{:>7} x {ENDED_WATCH}", self.ended_watches);
        if self.ended_watches == 0 {
            stale.push(ENDED_WATCH);
        }
        stale
    }
}
