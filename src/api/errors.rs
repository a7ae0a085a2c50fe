//! The one table from `ApiError` to a gRPC code and text.
//!
//! Clients compare the text, not only the code, so both are etcd's to the letter, the places
//! included where etcd's server answers with another code than its own client library declares
//! (marked "on the wire").

use crate::types::ApiError;
use tonic::{Code, Status};

/// The code and text of one refusal.
pub fn row(error: &ApiError) -> (Code, &'static str) {
    match error {
        ApiError::EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
        ApiError::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
        ApiError::ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
        ApiError::LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
        ApiError::TooManyOps => {
            (Code::InvalidArgument, "etcdserver: too many operations in txn request")
        }
        ApiError::DuplicateKey => {
            (Code::InvalidArgument, "etcdserver: duplicate key given in txn request")
        }
        ApiError::InvalidSortOption => (Code::InvalidArgument, "etcdserver: invalid sort option"),
        ApiError::Compacted => {
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
        }
        ApiError::FutureRevision => {
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")
        }
        ApiError::NoSpace => (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        ApiError::LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
        ApiError::LeaseExists => (Code::FailedPrecondition, "etcdserver: lease already exists"),
        ApiError::LeaseTtlTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
        ApiError::RequestTooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
        // Declared ResourceExhausted; on the wire it is Unknown.
        ApiError::TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
        ApiError::MemberNotFound => (Code::NotFound, "etcdserver: member not found"),
        ApiError::NoLeader => (Code::Unavailable, "etcdserver: no leader"),
        ApiError::NotLeader => (Code::FailedPrecondition, "etcdserver: not leader"),
        ApiError::LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
        ApiError::Stopped => (Code::Unavailable, "etcdserver: server stopped"),
        ApiError::Timeout => (Code::Unavailable, "etcdserver: request timed out"),
        ApiError::TimeoutLeaderFail => (
            Code::Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
        ),
        ApiError::TimeoutConnectionLost => {
            (Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost")
        }
        ApiError::TimeoutWaitApplied => (
            Code::Unavailable,
            "etcdserver: request timed out, waiting for the applied index took too long",
        ),
        ApiError::Unhealthy => (Code::Unavailable, "etcdserver: unhealthy cluster"),
        ApiError::Corrupt => (Code::DataLoss, "etcdserver: corrupt cluster"),
        ApiError::NotSupportedForLearner => {
            (Code::FailedPrecondition, "etcdserver: rpc not supported for learner")
        }
        ApiError::BadLeaderTransferee => {
            (Code::FailedPrecondition, "etcdserver: bad leader transferee")
        }
        ApiError::WatchCanceled => (Code::Cancelled, "etcdserver: watch canceled"),
        ApiError::MemberIdExists => {
            (Code::FailedPrecondition, "etcdserver: member ID already exist")
        }
        ApiError::PeerUrlExists => {
            (Code::FailedPrecondition, "etcdserver: Peer URLs already exists")
        }
        ApiError::BadMemberUrls => {
            (Code::InvalidArgument, "etcdserver: given member URLs are invalid")
        }
        // Declared FailedPrecondition; on the wire it is Unknown.
        ApiError::NotEnoughStarted => {
            (Code::Unknown, "etcdserver: re-configuration failed due to not enough started members")
        }
        ApiError::NotLearner => {
            (Code::FailedPrecondition, "etcdserver: can only promote a learner member")
        }
        ApiError::LearnerNotReady => (
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member which is in sync with leader",
        ),
        ApiError::TooManyLearners => {
            (Code::FailedPrecondition, "etcdserver: too many learner members in cluster")
        }
        ApiError::TimeoutLeaderTransfer => {
            (Code::Unknown, "etcdserver: request timed out, leader transfer took too long")
        }
        ApiError::RootUserNotExist => {
            (Code::FailedPrecondition, "etcdserver: root user does not exist")
        }
        ApiError::RootRoleNotExist => {
            (Code::FailedPrecondition, "etcdserver: root user does not have root role")
        }
        ApiError::UserExists => (Code::FailedPrecondition, "etcdserver: user name already exists"),
        ApiError::UserEmpty => (Code::InvalidArgument, "etcdserver: user name is empty"),
        ApiError::UserNotFound => (Code::FailedPrecondition, "etcdserver: user name not found"),
        ApiError::RoleExists => (Code::FailedPrecondition, "etcdserver: role name already exists"),
        ApiError::RoleNotFound => (Code::FailedPrecondition, "etcdserver: role name not found"),
        ApiError::RoleEmpty => (Code::InvalidArgument, "etcdserver: role name is empty"),
        ApiError::AuthFailed => (
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
        ),
        ApiError::PermissionNotGiven => (Code::InvalidArgument, "etcdserver: permission not given"),
        ApiError::PermissionDenied => (Code::PermissionDenied, "etcdserver: permission denied"),
        ApiError::RoleNotGranted => {
            (Code::FailedPrecondition, "etcdserver: role is not granted to the user")
        }
        ApiError::PermissionNotGranted => {
            (Code::FailedPrecondition, "etcdserver: permission is not granted to the role")
        }
        ApiError::AuthNotEnabled => {
            (Code::FailedPrecondition, "etcdserver: authentication is not enabled")
        }
        ApiError::InvalidAuthToken => (Code::Unauthenticated, "etcdserver: invalid auth token"),
        ApiError::InvalidAuthManagement => {
            (Code::InvalidArgument, "etcdserver: invalid auth management")
        }
        ApiError::AuthOldRevision => {
            (Code::InvalidArgument, "etcdserver: revision of auth store is old")
        }
        // Not in etcd's table, so Unknown, in the words of its auth package.
        ApiError::NoPasswordUser => {
            (Code::Unknown, "auth: authentication failed, password was given for no password user")
        }
    }
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
        ];
        for (code, text, error) in rows {
            let status = status(&error);
            // Canceled is 1; the protocol's own spelling is CANCELLED.
            assert_eq!(status.code() as i32, code, "{error:?}");
            assert_eq!(status.message(), format!("etcdserver: {text}"), "{error:?}");
        }
    }
}
