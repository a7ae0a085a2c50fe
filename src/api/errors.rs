//! The one table from `ApiError` to a gRPC code and text.
//!
//! Clients compare the text, not only the code, so both are etcd's to the letter, the places
//! included where etcd's server answers with another code than its own client library declares
//! (marked "on the wire").

use crate::types::ApiError;
use tonic::{Code, Status};

macro_rules! table {
    ($($(#[doc = $note:literal])* $error:ident => $code:ident, $text:literal;)*) => {
        /// The code and text of one refusal.
        pub fn row(error: &ApiError) -> (Code, &'static str) {
            match error {
                $(ApiError::$error => (Code::$code, $text),)*
            }
        }

        /// Every refusal there is, for tests that go through the table.
        pub const ALL: &[ApiError] = &[$(ApiError::$error),*];
    };
}

table! {
    EmptyKey => InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound => InvalidArgument, "etcdserver: key not found";
    ValueProvided => InvalidArgument, "etcdserver: value is provided";
    LeaseProvided => InvalidArgument, "etcdserver: lease is provided";
    TooManyOps => InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey => InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidSortOption => InvalidArgument, "etcdserver: invalid sort option";
    Compacted => OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRevision => OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NoSpace => ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    LeaseNotFound => NotFound, "etcdserver: requested lease not found";
    LeaseExists => FailedPrecondition, "etcdserver: lease already exists";
    LeaseTtlTooLarge => OutOfRange, "etcdserver: too large lease TTL";
    RequestTooLarge => InvalidArgument, "etcdserver: request is too large";
    /// Declared ResourceExhausted; on the wire it is Unknown.
    TooManyRequests => Unknown, "etcdserver: too many requests";
    MemberNotFound => NotFound, "etcdserver: member not found";
    NoLeader => Unavailable, "etcdserver: no leader";
    NotLeader => FailedPrecondition, "etcdserver: not leader";
    LeaderChanged => Unavailable, "etcdserver: leader changed";
    Stopped => Unavailable, "etcdserver: server stopped";
    Timeout => Unavailable, "etcdserver: request timed out";
    TimeoutLeaderFail => Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutConnectionLost => Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitApplied => Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    Unhealthy => Unavailable, "etcdserver: unhealthy cluster";
    Corrupt => DataLoss, "etcdserver: corrupt cluster";
    NotSupportedForLearner => FailedPrecondition, "etcdserver: rpc not supported for learner";
    BadLeaderTransferee => FailedPrecondition, "etcdserver: bad leader transferee";
    WatchCanceled => Cancelled, "etcdserver: watch canceled";
    MemberIdExists => FailedPrecondition, "etcdserver: member ID already exist";
    PeerUrlExists => FailedPrecondition, "etcdserver: Peer URLs already exists";
    BadMemberUrls => InvalidArgument, "etcdserver: given member URLs are invalid";
    /// Declared FailedPrecondition; on the wire it is Unknown.
    NotEnoughStarted => Unknown, "etcdserver: re-configuration failed due to not enough started members";
    NotLearner => FailedPrecondition, "etcdserver: can only promote a learner member";
    LearnerNotReady => FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners => FailedPrecondition, "etcdserver: too many learner members in cluster";
    TimeoutLeaderTransfer => Unknown, "etcdserver: request timed out, leader transfer took too long";
    RootUserNotExist => FailedPrecondition, "etcdserver: root user does not exist";
    RootRoleNotExist => FailedPrecondition, "etcdserver: root user does not have root role";
    UserExists => FailedPrecondition, "etcdserver: user name already exists";
    UserEmpty => InvalidArgument, "etcdserver: user name is empty";
    UserNotFound => FailedPrecondition, "etcdserver: user name not found";
    RoleExists => FailedPrecondition, "etcdserver: role name already exists";
    RoleNotFound => FailedPrecondition, "etcdserver: role name not found";
    RoleEmpty => InvalidArgument, "etcdserver: role name is empty";
    AuthFailed => InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    PermissionNotGiven => InvalidArgument, "etcdserver: permission not given";
    PermissionDenied => PermissionDenied, "etcdserver: permission denied";
    RoleNotGranted => FailedPrecondition, "etcdserver: role is not granted to the user";
    PermissionNotGranted => FailedPrecondition, "etcdserver: permission is not granted to the role";
    AuthNotEnabled => FailedPrecondition, "etcdserver: authentication is not enabled";
    InvalidAuthToken => Unauthenticated, "etcdserver: invalid auth token";
    InvalidAuthManagement => InvalidArgument, "etcdserver: invalid auth management";
    AuthOldRevision => InvalidArgument, "etcdserver: revision of auth store is old";
    DowngradeFormat => InvalidArgument, "etcdserver: wrong downgrade target version format";
    DowngradeTarget => InvalidArgument, "etcdserver: invalid downgrade target version";
    DowngradeInProgress => FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// Not in etcd's table, so Unknown, in the words of its auth package.
    NoPasswordUser => Unknown, "auth: authentication failed, password was given for no password user";
}

/// A refusal as a gRPC answer.
pub fn status(error: &ApiError) -> Status {
    let (code, text) = row(error);
    Status::new(code, text)
}

/// What an RPC that is not there yet answers: it says so, and what to do instead.
pub fn not_yet(what: &str) -> Status {
    Status::unimplemented(format!("quorate: {what} is not available in this version yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row, written a second time by code: a changed text or code must be changed twice.
    #[test]
    fn the_table_is_etcds() {
        use ApiError::*;
        let rows = [
            (3, "key is not provided", EmptyKey),
            (3, "key not found", KeyNotFound),
            (3, "value is provided", ValueProvided),
            (3, "lease is provided", LeaseProvided),
            (3, "too many operations in txn request", TooManyOps),
            (3, "duplicate key given in txn request", DuplicateKey),
            (3, "invalid sort option", InvalidSortOption),
            (11, "mvcc: required revision has been compacted", Compacted),
            (11, "mvcc: required revision is a future revision", FutureRevision),
            (8, "mvcc: database space exceeded", NoSpace),
            (5, "requested lease not found", LeaseNotFound),
            (9, "lease already exists", LeaseExists),
            (11, "too large lease TTL", LeaseTtlTooLarge),
            (3, "request is too large", RequestTooLarge),
            (2, "too many requests", TooManyRequests),
            (5, "member not found", MemberNotFound),
            (14, "no leader", NoLeader),
            (9, "not leader", NotLeader),
            (14, "leader changed", LeaderChanged),
            (14, "server stopped", Stopped),
            (14, "request timed out", Timeout),
            (14, "request timed out, possibly due to previous leader failure", TimeoutLeaderFail),
            (14, "request timed out, possibly due to connection lost", TimeoutConnectionLost),
            (
                14,
                "request timed out, waiting for the applied index took too long",
                TimeoutWaitApplied,
            ),
            (14, "unhealthy cluster", Unhealthy),
            (15, "corrupt cluster", Corrupt),
            (9, "rpc not supported for learner", NotSupportedForLearner),
            (9, "bad leader transferee", BadLeaderTransferee),
            (1, "watch canceled", WatchCanceled),
            (9, "root user does not exist", RootUserNotExist),
            (9, "root user does not have root role", RootRoleNotExist),
            (9, "user name already exists", UserExists),
            (3, "user name is empty", UserEmpty),
            (9, "user name not found", UserNotFound),
            (9, "role name already exists", RoleExists),
            (9, "role name not found", RoleNotFound),
            (3, "role name is empty", RoleEmpty),
            (3, "authentication failed, invalid user ID or password", AuthFailed),
            (3, "permission not given", PermissionNotGiven),
            (7, "permission denied", PermissionDenied),
            (9, "role is not granted to the user", RoleNotGranted),
            (9, "permission is not granted to the role", PermissionNotGranted),
            (9, "authentication is not enabled", AuthNotEnabled),
            (16, "invalid auth token", InvalidAuthToken),
            (3, "invalid auth management", InvalidAuthManagement),
            (3, "revision of auth store is old", AuthOldRevision),
            (3, "wrong downgrade target version format", DowngradeFormat),
            (3, "invalid downgrade target version", DowngradeTarget),
            (9, "cluster has a downgrade job in progress", DowngradeInProgress),
        ];
        for (code, text, error) in rows {
            let status = status(&error);
            // Canceled is 1; the protocol's own spelling is CANCELLED.
            assert_eq!(status.code() as i32, code, "{error:?}");
            assert_eq!(status.message(), format!("etcdserver: {text}"), "{error:?}");
        }
    }
}
