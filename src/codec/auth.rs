//! Commands about users and roles: `tag | fields in the order of the variant`.

use super::reader::{DecodeError, Reader};
use super::varint::{put_bool, put_bytes};
use crate::types::KeyRange;
use crate::types::auth::{AuthCommand, Permission, PermissionKind};
use bytes::{BufMut, BytesMut};

const ENABLE: u8 = 1;
const DISABLE: u8 = 2;
const AUTHENTICATE: u8 = 3;
const USER_ADD: u8 = 4;
const USER_DELETE: u8 = 5;
const USER_CHANGE_PASSWORD: u8 = 6;
const USER_GRANT_ROLE: u8 = 7;
const USER_REVOKE_ROLE: u8 = 8;
const ROLE_ADD: u8 = 9;
const ROLE_DELETE: u8 = 10;
const ROLE_GRANT_PERMISSION: u8 = 11;
const ROLE_REVOKE_PERMISSION: u8 = 12;

pub(super) fn encode_auth(command: &AuthCommand, out: &mut BytesMut) {
    let mut two = |tag: u8, first: &str, second: Option<&str>| {
        out.put_u8(tag);
        put_bytes(out, first.as_bytes());
        if let Some(second) = second {
            put_bytes(out, second.as_bytes());
        }
    };
    match command {
        AuthCommand::Enable => out.put_u8(ENABLE),
        AuthCommand::Disable => out.put_u8(DISABLE),
        AuthCommand::Authenticate { user, token_prefix } => {
            two(AUTHENTICATE, user, Some(token_prefix));
        }
        AuthCommand::UserAdd { user, password_hash } => {
            two(USER_ADD, user, None);
            put_bool(out, password_hash.is_some());
            if let Some(hash) = password_hash {
                put_bytes(out, hash);
            }
        }
        AuthCommand::UserDelete { user } => two(USER_DELETE, user, None),
        AuthCommand::UserChangePassword { user, password_hash } => {
            two(USER_CHANGE_PASSWORD, user, None);
            put_bytes(out, password_hash);
        }
        AuthCommand::UserGrantRole { user, role } => two(USER_GRANT_ROLE, user, Some(role)),
        AuthCommand::UserRevokeRole { user, role } => two(USER_REVOKE_ROLE, user, Some(role)),
        AuthCommand::RoleAdd { role } => two(ROLE_ADD, role, None),
        AuthCommand::RoleDelete { role } => two(ROLE_DELETE, role, None),
        AuthCommand::RoleGrantPermission { role, permission } => {
            two(ROLE_GRANT_PERMISSION, role, None);
            out.put_u8(match permission.kind {
                PermissionKind::Read => 0,
                PermissionKind::Write => 1,
                PermissionKind::ReadWrite => 2,
            });
            put_bytes(out, &permission.range.key);
            put_bytes(out, &permission.range.end);
        }
        AuthCommand::RoleRevokePermission { role, range } => {
            two(ROLE_REVOKE_PERMISSION, role, None);
            put_bytes(out, &range.key);
            put_bytes(out, &range.end);
        }
    }
}

pub(super) fn decode_auth(r: &mut Reader<'_>) -> Result<AuthCommand, DecodeError> {
    let unknown = r.error("known command about users and roles");
    let user = |r: &mut Reader<'_>| r.string("user name");
    let role = |r: &mut Reader<'_>| r.string("role name");
    let range =
        |r: &mut Reader<'_>| Ok(KeyRange { key: r.bytes("key")?, end: r.bytes("range end")? });
    Ok(match r.u8("auth command tag")? {
        ENABLE => AuthCommand::Enable,
        DISABLE => AuthCommand::Disable,
        AUTHENTICATE => {
            AuthCommand::Authenticate { user: user(r)?, token_prefix: r.string("token prefix")? }
        }
        USER_ADD => AuthCommand::UserAdd {
            user: user(r)?,
            password_hash: r.option("password flag", |r| r.bytes("password hash"))?,
        },
        USER_DELETE => AuthCommand::UserDelete { user: user(r)? },
        USER_CHANGE_PASSWORD => AuthCommand::UserChangePassword {
            user: user(r)?,
            password_hash: r.bytes("password hash")?,
        },
        USER_GRANT_ROLE => AuthCommand::UserGrantRole { user: user(r)?, role: role(r)? },
        USER_REVOKE_ROLE => AuthCommand::UserRevokeRole { user: user(r)?, role: role(r)? },
        ROLE_ADD => AuthCommand::RoleAdd { role: role(r)? },
        ROLE_DELETE => AuthCommand::RoleDelete { role: role(r)? },
        ROLE_GRANT_PERMISSION => {
            let role = role(r)?;
            let unknown = r.error("known kind of permission");
            let kind = match r.u8("permission kind")? {
                0 => PermissionKind::Read,
                1 => PermissionKind::Write,
                2 => PermissionKind::ReadWrite,
                _ => return Err(unknown),
            };
            AuthCommand::RoleGrantPermission {
                role,
                permission: Permission { kind, range: range(r)? },
            }
        }
        ROLE_REVOKE_PERMISSION => {
            AuthCommand::RoleRevokePermission { role: role(r)?, range: range(r)? }
        }
        _ => return Err(unknown),
    })
}
