//! Who asks: from a request's metadata to a user, and what each RPC demands of one.

use super::errors::status;
use super::rpcs::Access;
use super::tokens::{AuthOptions, TokenKind};
use crate::node::NodeHandle;
use crate::types::auth::Caller;
use crate::types::{ApiError, GroupId};
use tonic::Status;
use tonic::codegen::http;

/// The common name of the certificate that a connection was made with, for a listener that
/// verifies clients' certificates to put among a request's extensions. It names the user when
/// there is no token. The JSON gateway must not pass it on: there it would be the gateway's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName(pub String);

/// Who asks, as the front found out before the service was called. Absent while users do not
/// count.
#[derive(Clone, Debug)]
pub struct Asker(pub Caller);

/// What a request brings to tell its user by.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    token: Option<String>,
    certificate: Option<String>,
}

impl Credentials {
    pub fn of(headers: &http::HeaderMap, extensions: &http::Extensions) -> Credentials {
        let token = headers.get("token").or_else(|| headers.get("authorization"));
        Credentials {
            token: token.map(|token| {
                let token = String::from_utf8_lossy(token.as_bytes());
                token.strip_prefix("Bearer ").unwrap_or(&token).to_owned()
            }),
            certificate: extensions.get::<CertificateName>().map(|name| name.0.clone()),
        }
    }

    /// The user, or `None` when the request names nobody. A token that stands for nobody is
    /// refused. While users do not count nothing is looked at.
    pub async fn caller(
        &self,
        node: &NodeHandle,
        options: &AuthOptions,
    ) -> Result<Option<Caller>, ApiError> {
        if !node.auth_enabled(GroupId::ROOT) {
            return Ok(None);
        }
        let of_today = |user: String| -> Result<Option<Caller>, ApiError> {
            let auth_revision = node.auth(GroupId::ROOT)?.revision();
            Ok(Some(Caller { user, auth_revision }))
        };
        match (&self.token, &self.certificate, &options.tokens) {
            (Some(token), _, TokenKind::Simple) => {
                of_today(node.token_user(GroupId::ROOT, token).await?)
            }
            (Some(token), _, TokenKind::Signed(jwt)) => {
                let caller = jwt.check(token, node.wall_ms());
                caller.map(Some).ok_or(ApiError::InvalidAuthToken)
            }
            (None, Some(name), _) => of_today(name.clone()),
            (None, None, _) => Ok(None),
        }
    }
}

/// What is demanded before the service sees the request. What depends on the request is the
/// service's to check, or is checked where the command is applied.
pub async fn admit(
    node: &NodeHandle,
    options: &AuthOptions,
    access: Access,
    credentials: &Credentials,
) -> Result<Option<Asker>, Status> {
    let checked = async {
        let caller = credentials.caller(node, options).await?;
        let auth = node.auth(GroupId::ROOT)?;
        match access {
            Access::Open | Access::ByRequest => {}
            Access::Known => auth.check_known(caller.as_ref())?,
            Access::Admin => auth.check_admin(caller.as_ref())?,
        }
        Ok(caller.map(Asker))
    };
    checked.await.map_err(|error: ApiError| status(&error))
}

/// Who asks, for a service.
pub fn caller_of<T>(request: &tonic::Request<T>) -> Option<Caller> {
    request.extensions().get::<Asker>().map(|asker| asker.0.clone())
}
