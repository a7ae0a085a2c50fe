//! Users and roles, the naive way: names, lists and a counter, and every token by name.
//!
//! What a user may do is worked out anew at each question (`rights`), from etcd's rules and with
//! no code of the product's. One value is the state at one place in the log: members that lag
//! answer from an older one.

use bytes::Bytes;
use quorate::types::auth::{AuthCommand, Permission, PermissionKind, ROOT};
use quorate::types::reply::Reply;
use quorate::types::{ApiError, KeyRange, LogIndex};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    password: Option<Bytes>,
    pub roles: BTreeSet<String>,
}

/// What a role may do with which range: one kind for each range.
pub(super) type Role = Vec<Permission>;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    pub(super) enabled: bool,
    pub(super) users: BTreeMap<String, User>,
    pub(super) roles: BTreeMap<String, Role>,
    /// Changes so far.
    changes: u64,
    /// Whom each token stands for that was given out and not taken back.
    tokens: BTreeMap<String, String>,
}

/// All there is to compare of a replica: whether users count, their revision, each user with its
/// password and roles, each role with what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserRows {
    pub enabled: bool,
    pub revision: u64,
    pub users: Vec<(String, Option<Bytes>, Vec<String>)>,
    pub roles: Vec<(String, Vec<(KeyRange, PermissionKind)>)>,
}

impl UserRows {
    /// A role's permissions have no order of their own.
    pub fn role(
        name: &str,
        permissions: impl Iterator<Item = Permission>,
    ) -> (String, Vec<(KeyRange, PermissionKind)>) {
        let mut all: Vec<_> = permissions.map(|p| (p.range, p.kind)).collect();
        all.sort_by(|a, b| (&a.0.key, &a.0.end).cmp(&(&b.0.key, &b.0.end)));
        (name.to_owned(), all)
    }
}

impl Users {
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }
    pub fn revision(&self) -> u64 {
        1 + self.changes
    }
    /// Whom a token stands for here.
    pub fn token(&self, token: &str) -> Option<&str> {
        self.tokens.get(token).map(String::as_str)
    }

    pub fn rows(&self) -> UserRows {
        let user = |(name, user): (&String, &User)| {
            (name.clone(), user.password.clone(), user.roles.iter().cloned().collect())
        };
        UserRows {
            enabled: self.enabled,
            revision: self.revision(),
            users: self.users.iter().map(user).collect(),
            roles: self.roles.iter().map(|(n, r)| UserRows::role(n, r.iter().cloned())).collect(),
        }
    }

    /// Makes a change that somebody was permitted to make. `index` is its place in the log.
    pub(super) fn run(
        &mut self,
        command: &AuthCommand,
        index: LogIndex,
    ) -> Result<Reply, ApiError> {
        if let AuthCommand::Authenticate { user, token_prefix } = command {
            return self.authenticate(user, token_prefix, index);
        }
        let changed = self.change(command)?;
        self.changes += u64::from(changed);
        Ok(Reply::Auth)
    }

    /// The password was compared before, by whoever asked.
    fn authenticate(
        &mut self,
        user: &str,
        prefix: &str,
        index: LogIndex,
    ) -> Result<Reply, ApiError> {
        if !self.enabled {
            return Err(ApiError::AuthNotEnabled);
        }
        if self.users.get(user).is_none_or(|user| user.password.is_none()) {
            return Err(ApiError::AuthFailed);
        }
        let mut token = String::new();
        if !prefix.is_empty() {
            token = format!("{prefix}.{}", index.0);
            self.tokens.insert(token.clone(), user.to_owned());
        }
        Ok(Reply::Authenticated { token, auth_revision: self.revision() })
    }

    /// What was given out to a user proves nothing any more.
    fn take_back(&mut self, name: &str) {
        self.tokens.retain(|_, user| user != name);
    }

    /// Whether the revision grows by it.
    fn change(&mut self, command: &AuthCommand) -> Result<bool, ApiError> {
        match command {
            AuthCommand::Enable => {
                if !self.enabled {
                    let root = self.users.get(ROOT).ok_or(ApiError::RootUserNotExist)?;
                    if !root.roles.contains(ROOT) {
                        return Err(ApiError::RootRoleNotExist);
                    }
                    self.enabled = true;
                }
                Ok(false)
            }
            AuthCommand::Disable => {
                if self.enabled {
                    self.tokens.clear();
                }
                Ok(std::mem::take(&mut self.enabled))
            }
            AuthCommand::Authenticate { .. } => unreachable!("it changes nobody"),
            AuthCommand::UserAdd { user, password_hash } => {
                if user.is_empty() {
                    return Err(ApiError::UserEmpty);
                }
                if self.users.contains_key(user) {
                    return Err(ApiError::UserExists);
                }
                let password = password_hash.clone();
                self.users.insert(user.clone(), User { password, ..User::default() });
                Ok(true)
            }
            AuthCommand::UserDelete { user } => {
                self.spares_root(user)?;
                self.users.remove(user).ok_or(ApiError::UserNotFound)?;
                self.take_back(user);
                Ok(true)
            }
            AuthCommand::UserChangePassword { user: name, password_hash } => {
                let user = self.users.get_mut(name).ok_or(ApiError::UserNotFound)?;
                if let Some(password) = &mut user.password {
                    *password = password_hash.clone();
                }
                self.take_back(name);
                Ok(true)
            }
            AuthCommand::UserGrantRole { user, role } => {
                let known = role == ROOT || self.roles.contains_key(role);
                let user = self.users.get_mut(user).ok_or(ApiError::UserNotFound)?;
                if !known {
                    return Err(ApiError::RoleNotFound);
                }
                Ok(user.roles.insert(role.clone()))
            }
            AuthCommand::UserRevokeRole { user, role } => {
                if user == ROOT {
                    self.spares_root(role)?;
                }
                let user = self.users.get_mut(user).ok_or(ApiError::UserNotFound)?;
                if user.roles.remove(role) { Ok(true) } else { Err(ApiError::RoleNotGranted) }
            }
            AuthCommand::RoleAdd { role } => {
                if role.is_empty() {
                    return Err(ApiError::RoleEmpty);
                }
                if self.roles.contains_key(role) {
                    return Err(ApiError::RoleExists);
                }
                self.roles.insert(role.clone(), Role::default());
                Ok(true)
            }
            AuthCommand::RoleDelete { role } => {
                self.spares_root(role)?;
                self.roles.remove(role).ok_or(ApiError::RoleNotFound)?;
                for user in self.users.values_mut() {
                    user.roles.remove(role);
                }
                Ok(true)
            }
            AuthCommand::RoleGrantPermission { role, permission } => {
                let range = &permission.range;
                let open = range.end.as_ref() == [0];
                if range.key.is_empty()
                    || (!range.end.is_empty() && !open && range.end <= range.key)
                {
                    return Err(ApiError::InvalidAuthManagement);
                }
                let role = self.roles.get_mut(role).ok_or(ApiError::RoleNotFound)?;
                role.retain(|there| there.range != *range);
                role.push(permission.clone());
                Ok(true)
            }
            AuthCommand::RoleRevokePermission { role, range } => {
                let role = self.roles.get_mut(role).ok_or(ApiError::RoleNotFound)?;
                let before = role.len();
                role.retain(|there| there.range != *range);
                if role.len() < before { Ok(true) } else { Err(ApiError::PermissionNotGranted) }
            }
        }
    }

    /// Who lets users count must not lock everybody out.
    fn spares_root(&self, name: &str) -> Result<(), ApiError> {
        if self.enabled && name == ROOT { Err(ApiError::InvalidAuthManagement) } else { Ok(()) }
    }
}
