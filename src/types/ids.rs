//! Identifiers and counters, each a type of its own so that the compiler keeps them apart.

use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            pub const ZERO: $name = $name(0);
            /// The value after this one. Overflow is a broken invariant: no log is that long.
            #[must_use]
            pub fn next(self) -> $name {
                $name(self.0.checked_add(1).expect(concat!(stringify!($name), " overflows u64")))
            }
            /// The value before this one, stopping at zero.
            #[must_use]
            pub fn prev(self) -> $name {
                $name(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// "Nobody": no real identifier is zero.
            pub const NONE: $name = $name(0);
            pub fn is_none(self) -> bool {
                self.0 == 0
            }
        }

        /// Lower-case hexadecimal without padding, as etcd prints it.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }
    };
}

hex_id! {
    /// One process of the cluster; on the etcd wire a *member*, with the same 64-bit id.
    NodeId
}
hex_id! {
    /// The identity of a cluster: fixed at bootstrap, changed only by a restore.
    ClusterId
}
hex_id! {
    /// A random number drawn when a data directory is created. A member that comes back under
    /// its old id with another incarnation has lost its disk and must not vote.
    Incarnation
}
counter! {
    /// A Raft term (paper, section 5.1).
    Term
}
counter! {
    /// A position in one group's log. The first entry has index 1; 0 is "before the log".
    LogIndex
}

/// One Raft log and its state machine. Group 1 is the default keyspace and the root: membership
/// and the catalogue of further keyspaces are replicated in it. Ids are never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl GroupId {
    pub const ROOT: GroupId = GroupId(1);
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A client's TTL object. Signed because etcd's is; 0 is "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    pub const NONE: LeaseId = LeaseId(0);
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Lower-case hexadecimal of the two's complement, as etcdctl prints it.
impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// One change of one keyspace: `main` counts effective transactions, `sub` the changes inside
/// one of them. Identifies a change, which `main` alone does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    pub const fn new(main: i64, sub: i64) -> Revision {
        Revision { main, sub }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

/// Names one proposal: `origin` is a number drawn at each start of a process, `seq` counts its
/// requests. The applier answers only requests whose origin is its own process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    pub origin: u64,
    pub seq: u64,
}
