//! The Auth service: users, roles, and tokens for those who know a password.

use super::caller::caller_of;
use super::errors::status;
use super::header::{fresh_view, header, local_view};
use super::password;
use super::proto::authpb;
use super::proto::etcdserverpb as pb;
use super::proto::etcdserverpb::auth_server::Auth;
use super::tokens::{AuthOptions, TokenKind};
use crate::mvcc::KeyspaceView;
use crate::node::NodeHandle;
use crate::types::auth::{AuthCommand, Caller, Permission, PermissionKind, ROOT};
use crate::types::reply::Reply;
use crate::types::{ApiError, Command, GroupId, KeyRange};
use std::sync::Arc;
use tonic::codegen::async_trait;
use tonic::{Request, Response, Status};

/// How often a password is compared anew because users changed meanwhile.
const AUTHENTICATE_TRIES: usize = 10;
/// etcd's simple tokens begin with so many letters.
const TOKEN_LETTERS: usize = 16;

pub struct AuthService {
    node: NodeHandle,
    options: Arc<AuthOptions>,
}

impl AuthService {
    pub fn new(node: NodeHandle, options: Arc<AuthOptions>) -> AuthService {
        AuthService { node, options }
    }

    async fn change(
        &self,
        caller: Option<Caller>,
        command: AuthCommand,
    ) -> Result<pb::ResponseHeader, Status> {
        let command = Command::Auth(command);
        let done = self.node.propose_as(GroupId::ROOT, caller, command).await;
        let done = done.map_err(|error| status(&error))?;
        Ok(header(&self.node, done.revision))
    }

    /// The users and roles of now, and the header for an answer about them.
    async fn look(&self) -> Result<(KeyspaceView, Option<pb::ResponseHeader>), Status> {
        let view = fresh_view(&self.node, false).await?;
        let header = header(&self.node, view.revision());
        Ok((view, Some(header)))
    }

    /// The start of a token: letters that nobody can guess.
    fn token_prefix(&self) -> String {
        let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut prefix = String::with_capacity(TOKEN_LETTERS);
        while prefix.len() < TOKEN_LETTERS {
            let drawn: [u8; 32] = self.node.random_bytes();
            // The last full multiple of 52: each letter is as likely as any other.
            let fair = drawn.into_iter().filter(|byte| *byte < 208);
            let fair = fair.map(|byte| char::from(letters[usize::from(byte) % 52]));
            prefix.extend(fair.take(TOKEN_LETTERS - prefix.len()));
        }
        prefix
    }

    async fn token(&self, name: &str, password: &str) -> Result<(String, i64), Status> {
        for _ in 0..AUTHENTICATE_TRIES {
            let view = local_view(&self.node)?;
            let auth = view.auth().clone();
            if !auth.is_enabled() {
                return Err(status(&ApiError::AuthNotEnabled));
            }
            let Some(user) = auth.user(name) else { return Err(status(&ApiError::AuthFailed)) };
            let Some(hash) = user.password_hash.clone() else {
                return Err(status(&ApiError::NoPasswordUser));
            };
            if !password::is_right(&self.node, password.to_owned(), hash).await? {
                tracing::warn!(user = name, "a wrong password");
                return Err(status(&ApiError::AuthFailed));
            }
            let token_prefix = match &self.options.tokens {
                TokenKind::Simple => self.token_prefix(),
                TokenKind::Signed(_) => String::new(),
            };
            let command = AuthCommand::Authenticate { user: name.to_owned(), token_prefix };
            let done = self.node.propose(GroupId::ROOT, Command::Auth(command)).await;
            let done = done.map_err(|error| status(&error))?;
            let Reply::Authenticated { token, auth_revision } = done.reply else {
                unreachable!("a command was answered with another's reply: {:?}", done.reply)
            };
            if auth_revision != auth.revision() {
                // The password may not be the one any more that was compared.
                continue;
            }
            let caller = Caller { user: name.to_owned(), auth_revision };
            let token = match &self.options.tokens {
                TokenKind::Simple => token,
                TokenKind::Signed(jwt) => {
                    let signed = jwt.sign(&caller, self.node.wall_ms());
                    // etcd's words for a member that only checks.
                    let text = "auth: token signing attempted with verify-only key";
                    signed.ok_or_else(|| Status::unknown(text))?
                }
            };
            return Ok((token, done.revision));
        }
        Err(status(&ApiError::AuthOldRevision))
    }
}

fn permission_from_proto(permission: authpb::Permission) -> Option<Permission> {
    use authpb::permission::Type;
    let kind = match Type::try_from(permission.perm_type).ok()? {
        Type::Read => PermissionKind::Read,
        Type::Write => PermissionKind::Write,
        Type::Readwrite => PermissionKind::ReadWrite,
    };
    Some(Permission { kind, range: KeyRange { key: permission.key, end: permission.range_end } })
}

fn permission_to_proto(permission: Permission) -> authpb::Permission {
    use authpb::permission::Type;
    let kind = match permission.kind {
        PermissionKind::Read => Type::Read,
        PermissionKind::Write => Type::Write,
        PermissionKind::ReadWrite => Type::Readwrite,
    };
    let KeyRange { key, end } = permission.range;
    authpb::Permission { perm_type: kind as i32, key, range_end: end }
}

/// What the root role may do: everything, whatever it was granted.
fn everything() -> Permission {
    Permission { kind: PermissionKind::ReadWrite, range: KeyRange::new(&b""[..], &b"\0"[..]) }
}

macro_rules! changes {
    ($($method:ident($request:ident) -> $response:ident: |$r:ident| $command:expr;)*) => {
        #[async_trait]
        impl Auth for AuthService {
            async fn auth_status(
                &self,
                _: Request<pb::AuthStatusRequest>,
            ) -> Result<Response<pb::AuthStatusResponse>, Status> {
                let (view, header) = self.look().await?;
                let enabled = view.auth().is_enabled();
                let auth_revision = view.auth().revision();
                Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision }))
            }

            async fn authenticate(
                &self,
                request: Request<pb::AuthenticateRequest>,
            ) -> Result<Response<pb::AuthenticateResponse>, Status> {
                let request = request.into_inner();
                fresh_view(&self.node, false).await?;
                let (token, revision) = self.token(&request.name, &request.password).await?;
                let header = Some(header(&self.node, revision));
                Ok(Response::new(pb::AuthenticateResponse { header, token }))
            }

            async fn user_add(
                &self,
                request: Request<pb::AuthUserAddRequest>,
            ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
                let caller = caller_of(&request);
                let r = request.into_inner();
                let without_password = r.options.is_some_and(|options| options.no_password);
                let password_hash = match without_password {
                    true => None,
                    false => {
                        let cost = self.options.bcrypt_cost;
                        Some(password::hash(&self.node, r.password, cost).await?)
                    }
                };
                let command = AuthCommand::UserAdd { user: r.name, password_hash };
                let header = Some(self.change(caller, command).await?);
                Ok(Response::new(pb::AuthUserAddResponse { header }))
            }

            async fn user_change_password(
                &self,
                request: Request<pb::AuthUserChangePasswordRequest>,
            ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
                let caller = caller_of(&request);
                let r = request.into_inner();
                let cost = self.options.bcrypt_cost;
                let password_hash = password::hash(&self.node, r.password, cost).await?;
                let command = AuthCommand::UserChangePassword { user: r.name, password_hash };
                let header = Some(self.change(caller, command).await?);
                Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
            }

            async fn user_get(
                &self,
                request: Request<pb::AuthUserGetRequest>,
            ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
                let (caller, (view, header)) = (caller_of(&request), self.look().await?);
                let (auth, name) = (view.auth(), request.into_inner().name);
                auth.check_user_get(caller.as_ref(), &name).map_err(|error| status(&error))?;
                let user = auth.user(&name).ok_or_else(|| status(&ApiError::UserNotFound))?;
                let roles = user.roles.iter().cloned().collect();
                Ok(Response::new(pb::AuthUserGetResponse { header, roles }))
            }

            async fn user_list(
                &self,
                request: Request<pb::AuthUserListRequest>,
            ) -> Result<Response<pb::AuthUserListResponse>, Status> {
                let (caller, (view, header)) = (caller_of(&request), self.look().await?);
                view.auth().check_admin(caller.as_ref()).map_err(|error| status(&error))?;
                let users = view.auth().users().map(|(name, _)| name.clone()).collect();
                Ok(Response::new(pb::AuthUserListResponse { header, users }))
            }

            async fn role_get(
                &self,
                request: Request<pb::AuthRoleGetRequest>,
            ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
                let (caller, (view, header)) = (caller_of(&request), self.look().await?);
                let (auth, role) = (view.auth(), request.into_inner().role);
                auth.check_role_get(caller.as_ref(), &role).map_err(|error| status(&error))?;
                let found = auth.permissions(&role);
                let mut permissions = found.ok_or_else(|| status(&ApiError::RoleNotFound))?;
                if role == ROOT {
                    permissions = vec![everything()];
                }
                let perm = permissions.into_iter().map(permission_to_proto).collect();
                Ok(Response::new(pb::AuthRoleGetResponse { header, perm }))
            }

            async fn role_list(
                &self,
                request: Request<pb::AuthRoleListRequest>,
            ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
                let (caller, (view, header)) = (caller_of(&request), self.look().await?);
                view.auth().check_admin(caller.as_ref()).map_err(|error| status(&error))?;
                let roles = view.auth().roles().cloned().collect();
                Ok(Response::new(pb::AuthRoleListResponse { header, roles }))
            }

            $(
                async fn $method(
                    &self,
                    request: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    let caller = caller_of(&request);
                    let $r = request.into_inner();
                    let header = Some(self.change(caller, $command).await?);
                    Ok(Response::new(pb::$response { header }))
                }
            )*
        }
    };
}

changes! {
    auth_enable(AuthEnableRequest) -> AuthEnableResponse: |_r| AuthCommand::Enable;
    auth_disable(AuthDisableRequest) -> AuthDisableResponse: |_r| AuthCommand::Disable;
    user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse:
        |r| AuthCommand::UserDelete { user: r.name };
    user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse:
        |r| AuthCommand::UserGrantRole { user: r.user, role: r.role };
    user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse:
        |r| AuthCommand::UserRevokeRole { user: r.name, role: r.role };
    role_add(AuthRoleAddRequest) -> AuthRoleAddResponse:
        |r| AuthCommand::RoleAdd { role: r.name };
    role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse:
        |r| AuthCommand::RoleDelete { role: r.role };
    role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse:
        |r| {
            let given = r.perm.ok_or_else(|| status(&ApiError::PermissionNotGiven))?;
            let permission = permission_from_proto(given);
            let invalid = || status(&ApiError::InvalidAuthManagement);
            AuthCommand::RoleGrantPermission {
                role: r.name,
                permission: permission.ok_or_else(invalid)?,
            }
        };
    role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse:
        |r| AuthCommand::RoleRevokePermission {
            role: r.role,
            range: KeyRange { key: r.key, end: r.range_end },
        };
}
