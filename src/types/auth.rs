//! Users, roles and permissions as values: what can be asked about them, and who asks.

use super::range::KeyRange;
use bytes::Bytes;

/// The user that `AuthEnable` requires, and the role that may do everything.
pub const ROOT: &str = "root";

/// On whose behalf a request is made: what a token stood for when the request came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub user: String,
    /// The revision of users and roles when the user was told apart. A request that was checked
    /// under an older one than is applied is refused.
    pub auth_revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PermissionKind {
    Read,
    Write,
    ReadWrite,
}

impl PermissionKind {
    pub fn reads(self) -> bool {
        self != PermissionKind::Write
    }
    pub fn writes(self) -> bool {
        self != PermissionKind::Read
    }
}

/// What a role may do with a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    pub kind: PermissionKind,
    pub range: KeyRange,
}

/// A change of users, roles, or of whether they count. Passwords are hashed before they come here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthCommand {
    Enable,
    Disable,
    /// The password was right. Every member learns the token, if it is one that members remember
    /// (a prefix that the member drew; the entry's index makes it unique). Empty for signed ones.
    Authenticate {
        user: String,
        token_prefix: String,
    },
    /// `None` is a user without a password, who can only be told by a certificate.
    UserAdd {
        user: String,
        password_hash: Option<Bytes>,
    },
    UserDelete {
        user: String,
    },
    UserChangePassword {
        user: String,
        password_hash: Bytes,
    },
    UserGrantRole {
        user: String,
        role: String,
    },
    UserRevokeRole {
        user: String,
        role: String,
    },
    RoleAdd {
        role: String,
    },
    RoleDelete {
        role: String,
    },
    RoleGrantPermission {
        role: String,
        permission: Permission,
    },
    RoleRevokePermission {
        role: String,
        range: KeyRange,
    },
}

impl AuthCommand {
    /// See `Command::name`.
    pub fn name(&self) -> &'static str {
        match self {
            AuthCommand::Enable => "AuthEnable",
            AuthCommand::Disable => "AuthDisable",
            AuthCommand::Authenticate { .. } => "Authenticate",
            AuthCommand::UserAdd { .. } => "AuthUserAdd",
            AuthCommand::UserDelete { .. } => "AuthUserDelete",
            AuthCommand::UserChangePassword { .. } => "AuthUserChangePassword",
            AuthCommand::UserGrantRole { .. } => "AuthUserGrantRole",
            AuthCommand::UserRevokeRole { .. } => "AuthUserRevokeRole",
            AuthCommand::RoleAdd { .. } => "AuthRoleAdd",
            AuthCommand::RoleDelete { .. } => "AuthRoleDelete",
            AuthCommand::RoleGrantPermission { .. } => "AuthRoleGrantPermission",
            AuthCommand::RoleRevokePermission { .. } => "AuthRoleRevokePermission",
        }
    }
}

/// What members must do about the tokens they remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenChange {
    Granted {
        token: String,
        user: String,
    },
    /// Deleted, or with another password: who holds a token of this user proves nothing any more.
    UserGone {
        user: String,
    },
    AllGone,
}
