//! Users and roles, the naive way: names, sets and a counter.
//!
//! Users never count here (nothing enables them): what they would permit is checked by scenarios
//! beside the product's own code, while this holds every member to the same users, roles,
//! revision and refusals through crashes, snapshots and changes of the leader.

use bytes::Bytes;
use quorate::types::auth::{AuthCommand, ROOT};
use quorate::types::reply::Reply;
use quorate::types::{ApiError, KeyRange};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
struct User {
    password: Option<Bytes>,
    roles: BTreeSet<String>,
}

/// Which ranges a role has, whatever it may do with them.
type Role = Vec<KeyRange>;

#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
    /// Changes so far.
    changes: u64,
}

impl Users {
    pub fn revision(&self) -> u64 {
        1 + self.changes
    }
    pub fn names(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }
    pub fn role_names(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    pub fn run(&mut self, command: &AuthCommand) -> Result<Reply, ApiError> {
        let changed = self.change(command)?;
        self.changes += u64::from(changed);
        Ok(Reply::Auth)
    }

    /// Whether anything is another way than before.
    fn change(&mut self, command: &AuthCommand) -> Result<bool, ApiError> {
        match command {
            AuthCommand::Enable => match self.users.get(ROOT) {
                None => Err(ApiError::RootUserNotExist),
                Some(root) if !root.roles.contains(ROOT) => Err(ApiError::RootRoleNotExist),
                Some(_) => unreachable!("the workload never lets users count"),
            },
            AuthCommand::Disable => Ok(false),
            AuthCommand::Authenticate { .. } => Err(ApiError::AuthNotEnabled),
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
                self.users.remove(user).map(|_| true).ok_or(ApiError::UserNotFound)
            }
            AuthCommand::UserChangePassword { user, password_hash } => {
                let user = self.users.get_mut(user).ok_or(ApiError::UserNotFound)?;
                if let Some(password) = &mut user.password {
                    *password = password_hash.clone();
                }
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
                role.retain(|there| there != range);
                role.push(range.clone());
                Ok(true)
            }
            AuthCommand::RoleRevokePermission { role, range } => {
                let role = self.roles.get_mut(role).ok_or(ApiError::RoleNotFound)?;
                let before = role.len();
                role.retain(|there| there != range);
                if role.len() < before { Ok(true) } else { Err(ApiError::PermissionNotGranted) }
            }
        }
    }
}
