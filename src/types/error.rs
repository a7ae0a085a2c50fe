//! The two kinds of failure that cross layers.
//!
//! `ApiError` is the outcome of a request: deterministic where it comes from apply, and mapped to
//! a gRPC code and text in one table (`api::errors`). `StorageError` is a disk's or a file's
//! fault: it stops the member and never becomes an answer to a client. The third kind, a broken
//! invariant, is an assertion.

use std::fmt;
use std::path::PathBuf;

/// Why a request was refused. Each variant is one row of etcd's error table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidSortOption,
    Compacted,
    FutureRevision,
    NoSpace,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    RequestTooLarge,
    TooManyRequests,
    MemberNotFound,
    NoLeader,
    NotLeader,
    LeaderChanged,
    Stopped,
    Timeout,
    TimeoutLeaderFail,
    TimeoutConnectionLost,
    TimeoutWaitApplied,
    Unhealthy,
    Corrupt,
    NotSupportedForLearner,
    BadLeaderTransferee,
    WatchCanceled,
    /// A member with this id exists (or existed: removed ids are remembered for ever).
    MemberIdExists,
    PeerUrlExists,
    BadMemberUrls,
    /// Strict reconfiguration: too few members have ever started.
    NotEnoughStarted,
    /// Only a learner can be promoted.
    NotLearner,
    LearnerNotReady,
    TooManyLearners,
    TimeoutLeaderTransfer,
    RootUserNotExist,
    RootRoleNotExist,
    UserExists,
    /// No name was given; or nobody is named where a user must be.
    UserEmpty,
    UserNotFound,
    RoleExists,
    RoleNotFound,
    RoleEmpty,
    AuthFailed,
    /// The user has no password to compare with.
    NoPasswordUser,
    PermissionNotGiven,
    PermissionDenied,
    RoleNotGranted,
    PermissionNotGranted,
    AuthNotEnabled,
    InvalidAuthToken,
    InvalidAuthManagement,
    /// No `major.minor`.
    DowngradeFormat,
    /// Only one minor version down is possible.
    DowngradeTarget,
    DowngradeInProgress,
    /// Users or roles have changed since the caller was told apart.
    AuthOldRevision,
}

/// A fault of the disk or of a file's contents. The member that meets one stops.
#[derive(Debug)]
pub enum StorageError {
    /// The operating system refused an operation.
    Io { op: &'static str, path: PathBuf, source: std::io::Error },
    /// Bytes that should hold something else. `offset` is where in the file.
    Corrupt { path: PathBuf, offset: u64, expected: String, found: String },
    /// The file belongs to another cluster, member or format.
    Mismatch { path: PathBuf, what: &'static str, expected: String, found: String },
    /// Another process holds the data directory.
    Locked { path: PathBuf },
    /// An earlier error has made this handle unusable: nothing is retried after a failed sync.
    Poisoned { path: PathBuf },
}

impl StorageError {
    pub fn io(op: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> StorageError {
        StorageError::Io { op, path: path.into(), source }
    }
    pub fn corrupt(
        path: impl Into<PathBuf>,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> StorageError {
        StorageError::Corrupt {
            path: path.into(),
            offset,
            expected: expected.into(),
            found: found.into(),
        }
    }
    /// Whether the disk had no room (the caller may then free some and go on).
    pub fn is_no_space(&self) -> bool {
        matches!(self, StorageError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::StorageFull)
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Io { op, path, source } => {
                write!(f, "{op} {}: {source}", path.display())
            }
            StorageError::Corrupt { path, offset, expected, found } => write!(
                f,
                "{} is damaged at offset {offset}: expected {expected}, found {found}",
                path.display()
            ),
            StorageError::Mismatch { path, what, expected, found } => write!(
                f,
                "{} has another {what}: expected {expected}, found {found}",
                path.display()
            ),
            StorageError::Locked { path } => {
                write!(f, "{} is in use by another process", path.display())
            }
            StorageError::Poisoned { path } => {
                write!(f, "{} failed earlier and is not used any more", path.display())
            }
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StorageError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
