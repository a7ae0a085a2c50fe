//! The Auth service: there are no users and roles yet, and it says so.

use super::errors::not_yet;
use super::header::{header, local_view};
use super::proto::etcdserverpb as pb;
use super::proto::etcdserverpb::auth_server::Auth;
use crate::node::NodeHandle;
use tonic::codegen::async_trait;
use tonic::{Request, Response, Status};

pub struct AuthService {
    node: NodeHandle,
}

impl AuthService {
    pub fn new(node: NodeHandle) -> AuthService {
        AuthService { node }
    }
}

macro_rules! refuse {
    ($($method:ident($request:ident) -> $response:ident;)*) => {
        #[async_trait]
        impl Auth for AuthService {
            async fn auth_status(
                &self,
                _: Request<pb::AuthStatusRequest>,
            ) -> Result<Response<pb::AuthStatusResponse>, Status> {
                Ok(Response::new(pb::AuthStatusResponse {
                    header: Some(header(&self.node, local_view(&self.node)?.revision())),
                    enabled: false,
                    // A store whose users never changed.
                    auth_revision: 1,
                }))
            }

            async fn authenticate(
                &self,
                _: Request<pb::AuthenticateRequest>,
            ) -> Result<Response<pb::AuthenticateResponse>, Status> {
                let text = "etcdserver: authentication is not enabled";
                Err(Status::failed_precondition(text))
            }

            $(
                async fn $method(
                    &self,
                    _: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    Err(not_yet("authentication"))
                }
            )*
        }
    };
}

refuse! {
    auth_enable(AuthEnableRequest) -> AuthEnableResponse;
    auth_disable(AuthDisableRequest) -> AuthDisableResponse;
    user_add(AuthUserAddRequest) -> AuthUserAddResponse;
    user_get(AuthUserGetRequest) -> AuthUserGetResponse;
    user_list(AuthUserListRequest) -> AuthUserListResponse;
    user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse;
    user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse;
    user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse;
    user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse;
    role_add(AuthRoleAddRequest) -> AuthRoleAddResponse;
    role_get(AuthRoleGetRequest) -> AuthRoleGetResponse;
    role_list(AuthRoleListRequest) -> AuthRoleListResponse;
    role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse;
    role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse;
    role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse;
}
