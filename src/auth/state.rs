//! The users and roles at one applied index.

use super::rights::Rights;
use crate::codec::reader::{DecodeError, Reader};
use crate::codec::varint::{put_bytes, put_strings, put_varint};
use crate::types::auth::{AuthCommand, Permission, PermissionKind, ROOT, TokenChange};
use crate::types::reply::Reply;
use crate::types::{ApiError, KeyRange, LogIndex};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `None` for one without a password.
    pub password_hash: Option<Bytes>,
    pub roles: BTreeSet<String>,
    /// What the roles add up to; follows from them.
    pub(super) rights: Rights,
}

impl User {
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.contains(role)
    }
}

/// Ordered by key and end; one kind for each range.
type Role = BTreeMap<(Bytes, Bytes), PermissionKind>;

/// See the module's documentation. Cloning copies references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthState {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, Arc<User>>,
    roles: BTreeMap<String, Arc<Role>>,
}

impl Default for AuthState {
    fn default() -> AuthState {
        // A store whose users have never changed is at revision 1.
        AuthState { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

/// What came of one command.
#[derive(Debug)]
pub struct AuthDone {
    pub reply: Reply,
    /// Rows to store, or to remove.
    pub rows: Vec<(Bytes, Option<Bytes>)>,
    pub tokens: Vec<TokenChange>,
}

const CONFIG: u8 = b'c';
const USER: u8 = b'u';
const ROLE: u8 = b'r';

impl AuthState {
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }
    pub fn revision(&self) -> u64 {
        self.revision
    }
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|user| &**user)
    }
    /// By name.
    pub fn users(&self) -> impl Iterator<Item = (&String, &User)> {
        self.users.iter().map(|(name, user)| (name, &**user))
    }
    pub fn roles(&self) -> impl Iterator<Item = &String> {
        self.roles.keys()
    }
    /// What a role may do, by key; `None` for one that does not exist.
    pub fn permissions(&self, role: &str) -> Option<Vec<Permission>> {
        let role = self.roles.get(role)?;
        Some(permissions(role).collect())
    }

    /// Makes the change, or refuses it and changes nothing. `index` is the command's place in the
    /// log: it makes a token one that never was before.
    pub fn apply(&mut self, command: &AuthCommand, index: LogIndex) -> Result<AuthDone, ApiError> {
        let mut done = AuthDone { reply: Reply::Auth, rows: Vec::new(), tokens: Vec::new() };
        match command {
            AuthCommand::Enable => {
                if !self.enabled {
                    let root = self.user(ROOT).ok_or(ApiError::RootUserNotExist)?;
                    if !root.has_role(ROOT) {
                        return Err(ApiError::RootRoleNotExist);
                    }
                    self.enabled = true;
                    self.store_config(&mut done);
                }
            }
            AuthCommand::Disable => {
                if self.enabled {
                    self.enabled = false;
                    done.tokens.push(TokenChange::AllGone);
                    self.commit(&mut done);
                }
            }
            AuthCommand::Authenticate { user, token_prefix } => {
                self.authenticate(user, token_prefix, index, &mut done)?;
            }
            AuthCommand::UserAdd { .. }
            | AuthCommand::UserDelete { .. }
            | AuthCommand::UserChangePassword { .. }
            | AuthCommand::UserGrantRole { .. }
            | AuthCommand::UserRevokeRole { .. } => self.apply_user(command, &mut done)?,
            AuthCommand::RoleAdd { .. }
            | AuthCommand::RoleDelete { .. }
            | AuthCommand::RoleGrantPermission { .. }
            | AuthCommand::RoleRevokePermission { .. } => self.apply_role(command, &mut done)?,
        }
        Ok(done)
    }

    /// The password was checked by the member that asks; whether it is still that one shows in
    /// the revision of the answer.
    fn authenticate(
        &self,
        user: &str,
        token_prefix: &str,
        index: LogIndex,
        done: &mut AuthDone,
    ) -> Result<(), ApiError> {
        if !self.enabled {
            return Err(ApiError::AuthNotEnabled);
        }
        if self.user(user).is_none_or(|user| user.password_hash.is_none()) {
            return Err(ApiError::AuthFailed);
        }
        let mut token = String::new();
        if !token_prefix.is_empty() {
            token = format!("{token_prefix}.{}", index.0);
            done.tokens.push(TokenChange::Granted { token: token.clone(), user: user.into() });
        }
        done.reply = Reply::Authenticated { token, auth_revision: self.revision };
        Ok(())
    }

    fn apply_user(&mut self, command: &AuthCommand, done: &mut AuthDone) -> Result<(), ApiError> {
        let known = |name: &String| self.users.get(name).ok_or(ApiError::UserNotFound);
        let (name, user) = match command {
            AuthCommand::UserAdd { user: name, password_hash } => {
                if name.is_empty() {
                    return Err(ApiError::UserEmpty);
                }
                if self.users.contains_key(name) {
                    return Err(ApiError::UserExists);
                }
                (name, User { password_hash: password_hash.clone(), ..User::default() })
            }
            AuthCommand::UserDelete { user: name } => {
                if self.enabled && name == ROOT {
                    return Err(ApiError::InvalidAuthManagement);
                }
                known(name)?;
                self.users.remove(name);
                done.rows.push((row(USER, name), None));
                done.tokens.push(TokenChange::UserGone { user: name.clone() });
                self.commit(done);
                return Ok(());
            }
            AuthCommand::UserChangePassword { user: name, password_hash } => {
                let mut user = User::clone(known(name)?);
                // Who has no password keeps having none.
                user.password_hash = user.password_hash.map(|_| password_hash.clone());
                done.tokens.push(TokenChange::UserGone { user: name.clone() });
                (name, user)
            }
            AuthCommand::UserGrantRole { user: name, role } => {
                let mut user = User::clone(known(name)?);
                // The root role need not exist to be given.
                if role != ROOT && !self.roles.contains_key(role) {
                    return Err(ApiError::RoleNotFound);
                }
                if !user.roles.insert(role.clone()) {
                    return Ok(());
                }
                (name, user)
            }
            AuthCommand::UserRevokeRole { user: name, role } => {
                if self.enabled && name == ROOT && role == ROOT {
                    return Err(ApiError::InvalidAuthManagement);
                }
                let mut user = User::clone(known(name)?);
                if !user.roles.remove(role) {
                    return Err(ApiError::RoleNotGranted);
                }
                (name, user)
            }
            other => unreachable!("not about a user: {other:?}"),
        };
        self.store_user(name, user, done);
        self.commit(done);
        Ok(())
    }

    fn apply_role(&mut self, command: &AuthCommand, done: &mut AuthDone) -> Result<(), ApiError> {
        let known = |name: &String| self.roles.get(name).ok_or(ApiError::RoleNotFound);
        let (name, role) = match command {
            AuthCommand::RoleAdd { role: name } => {
                if name.is_empty() {
                    return Err(ApiError::RoleEmpty);
                }
                if self.roles.contains_key(name) {
                    return Err(ApiError::RoleExists);
                }
                (name, Role::default())
            }
            AuthCommand::RoleDelete { role: name } => {
                if self.enabled && name == ROOT {
                    return Err(ApiError::InvalidAuthManagement);
                }
                known(name)?;
                self.roles.remove(name);
                done.rows.push((row(ROLE, name), None));
                for (user, mut without) in self.having(name) {
                    without.roles.remove(name);
                    self.store_user(&user, without, done);
                }
                self.commit(done);
                return Ok(());
            }
            AuthCommand::RoleGrantPermission { role: name, permission } => {
                if !is_valid(&permission.range) {
                    return Err(ApiError::InvalidAuthManagement);
                }
                let mut role = Role::clone(known(name)?);
                let KeyRange { key, end } = permission.range.clone();
                role.insert((key, end), permission.kind);
                (name, role)
            }
            AuthCommand::RoleRevokePermission { role: name, range } => {
                let mut role = Role::clone(known(name)?);
                if role.remove(&(range.key.clone(), range.end.clone())).is_none() {
                    return Err(ApiError::PermissionNotGranted);
                }
                (name, role)
            }
            other => unreachable!("not about a role: {other:?}"),
        };
        done.rows.push((row(ROLE, name), Some(encode_role(&role))));
        self.roles.insert(name.clone(), Arc::new(role));
        for (name, user) in self.having(name) {
            self.settle(name, user);
        }
        self.commit(done);
        Ok(())
    }

    fn having(&self, role: &str) -> Vec<(String, User)> {
        let having = self.users.iter().filter(|(_, user)| user.has_role(role));
        having.map(|(name, user)| (name.clone(), User::clone(user))).collect()
    }

    /// Works out what the user's roles add up to.
    fn settle(&mut self, name: String, mut user: User) {
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
        let all: Vec<Permission> = roles.flat_map(|role| permissions(role)).collect();
        user.rights = Rights::of(all.iter());
        self.users.insert(name, Arc::new(user));
    }

    fn store_user(&mut self, name: &str, user: User, done: &mut AuthDone) {
        done.rows.push((row(USER, name), Some(encode_user(&user))));
        self.settle(name.to_owned(), user);
    }

    fn commit(&mut self, done: &mut AuthDone) {
        self.revision += 1;
        self.store_config(done);
    }

    fn store_config(&self, done: &mut AuthDone) {
        let mut out = BytesMut::new();
        out.put_u8(u8::from(self.enabled));
        put_varint(&mut out, self.revision);
        done.rows.push((row(CONFIG, ""), Some(out.freeze())));
    }

    /// Puts the state together again from its rows, in any order.
    pub fn load(rows: impl IntoIterator<Item = (Bytes, Bytes)>) -> Result<AuthState, DecodeError> {
        let mut state = AuthState::default();
        let mut users = Vec::new();
        for (key, value) in rows {
            let (key, value) = (&mut Reader::new(&key), &mut Reader::new(&value));
            let unknown = key.error("a known row of users and roles");
            match key.u8("row tag")? {
                CONFIG => {
                    state.enabled = value.bool("whether users count")?;
                    state.revision = value.varint("auth revision")?;
                }
                USER => users.push((key.string("user name")?, decode_user(value)?)),
                ROLE => {
                    let name = key.string("role name")?;
                    state.roles.insert(name, Arc::new(decode_role(value)?));
                }
                _ => return Err(unknown),
            }
            key.finish()?;
            value.finish()?;
        }
        for (name, user) in users {
            state.settle(name, user);
        }
        Ok(state)
    }
}

/// At least a key, and an end that leaves room for one.
fn is_valid(range: &KeyRange) -> bool {
    !range.key.is_empty() && !range.is_empty_range()
}

fn permissions(role: &Role) -> impl Iterator<Item = Permission> + '_ {
    role.iter().map(|((key, end), kind)| Permission {
        kind: *kind,
        range: KeyRange::new(key.clone(), end.clone()),
    })
}

fn row(tag: u8, name: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(2 + name.len());
    key.put_u8(tag);
    if tag != CONFIG {
        put_bytes(&mut key, name.as_bytes());
    }
    key.freeze()
}

fn encode_user(user: &User) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(u8::from(user.password_hash.is_some()));
    if let Some(hash) = &user.password_hash {
        put_bytes(&mut out, hash);
    }
    let roles: Vec<String> = user.roles.iter().cloned().collect();
    put_strings(&mut out, &roles);
    out.freeze()
}

fn decode_user(r: &mut Reader<'_>) -> Result<User, DecodeError> {
    Ok(User {
        password_hash: r.option("password flag", |r| r.bytes("password hash"))?,
        roles: r.list(1, "roles", |r| r.string("role name"))?.into_iter().collect(),
        rights: Rights::default(),
    })
}

fn encode_role(role: &Role) -> Bytes {
    let mut out = BytesMut::new();
    put_varint(&mut out, role.len() as u64);
    for ((key, end), kind) in role {
        out.put_u8(match kind {
            PermissionKind::Read => 0,
            PermissionKind::Write => 1,
            PermissionKind::ReadWrite => 2,
        });
        put_bytes(&mut out, key);
        put_bytes(&mut out, end);
    }
    out.freeze()
}

fn decode_role(r: &mut Reader<'_>) -> Result<Role, DecodeError> {
    let permission = |r: &mut Reader<'_>| {
        let unknown = r.error("a known kind of permission");
        let kind = match r.u8("permission kind")? {
            0 => PermissionKind::Read,
            1 => PermissionKind::Write,
            2 => PermissionKind::ReadWrite,
            _ => return Err(unknown),
        };
        Ok(((r.bytes("key")?, r.bytes("range end")?), kind))
    };
    Ok(r.list(3, "permissions", permission)?.into_iter().collect())
}
