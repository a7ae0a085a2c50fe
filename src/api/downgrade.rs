//! The Downgrade RPC: the job that etcd keeps while its members go back to an older release.
//!
//! The checks, the job and the answers are etcd 3.6's. What the job sets going there (members
//! lower the cluster version and the format of their files, and it ends by itself once all run
//! the older release) has nothing to act on here: every release of Quorate speaks one version of
//! etcd's API and reads its own files. So the job is kept, told by Status, and ends when it is
//! cancelled; no member changes.

use super::errors::status;
use super::header::{header, local_view};
use super::proto::etcdserverpb as pb;
use super::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::node::NodeHandle;
use crate::types::version::CLUSTER_VERSION;
use crate::types::{ApiError, Command, GroupId};
use tonic::Status;

/// For Status.
pub fn info(node: &NodeHandle) -> pb::DowngradeInfo {
    let target = node.downgrade_target();
    pb::DowngradeInfo { enabled: target.is_some(), target_version: target.unwrap_or_default() }
}

pub async fn answer(
    node: &NodeHandle,
    request: &pb::DowngradeRequest,
) -> Result<pb::DowngradeResponse, Status> {
    let refused = |error: ApiError| status(&error);
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => {
            validate(node, &request.version).await.map_err(refused)?;
        }
        Ok(DowngradeAction::Enable) => {
            let target = validate(node, &request.version).await.map_err(refused)?;
            set(node, target).await.map_err(refused)?;
        }
        Ok(DowngradeAction::Cancel) => {
            // etcd 3.6 logs what goes wrong here, and answers that all is well.
            if let Err(error) = cancel(node).await {
                tracing::warn!(?error, "failed to cancel downgrade");
            }
        }
        Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
    }
    let (major, minor) = major_minor(CLUSTER_VERSION).expect("our own version");
    Ok(pb::DowngradeResponse {
        header: Some(header(node, local_view(node)?.revision())),
        version: format!("{major}.{minor}"),
    })
}

/// The target in full, if the cluster may go there now.
async fn validate(node: &NodeHandle, version: &str) -> Result<String, ApiError> {
    let (major, minor) = target_of(version).ok_or(ApiError::DowngradeFormat)?;
    node.read_barrier(GroupId::ROOT).await?;
    let now = major_minor(CLUSTER_VERSION).expect("our own version");
    if (major, minor) != (now.0, now.1 - 1) {
        return Err(ApiError::DowngradeTarget);
    }
    if node.downgrade_target().is_some() {
        return Err(ApiError::DowngradeInProgress);
    }
    Ok(format!("{major}.{minor}.0"))
}

async fn cancel(node: &NodeHandle) -> Result<(), ApiError> {
    node.read_barrier(GroupId::ROOT).await?;
    match node.downgrade_target() {
        Some(_) => set(node, String::new()).await,
        None => Ok(()),
    }
}

async fn set(node: &NodeHandle, target: String) -> Result<(), ApiError> {
    node.propose(GroupId::ROOT, Command::SetDowngrade { target }).await.map(drop)
}

/// A version as etcd reads it: `X.Y` or `X.Y.Z`, with a suffix of either kind; of it only `X.Y`
/// counts.
fn target_of(text: &str) -> Option<(i64, i64)> {
    major_minor(text).or_else(|| major_minor(&format!("{text}.0")))
}

fn major_minor(text: &str) -> Option<(i64, i64)> {
    let suffix = |text: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
        !text.is_empty() && text.bytes().all(plain)
    };
    let (text, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (text, pre) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    if build.is_some_and(|b| !b.is_empty() && !suffix(b))
        || pre.is_some_and(|p| !p.is_empty() && !suffix(p))
    {
        return None;
    }
    let number = |text: &str| text.parse::<i64>().ok();
    let mut parts = text.splitn(3, '.').map(number);
    let (major, minor, _) = (parts.next()??, parts.next()??, parts.next()??);
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        for (text, read) in [
            ("3.5", Some((3, 5))),
            ("3.5.0", Some((3, 5))),
            ("3.5.21", Some((3, 5))),
            ("3.5.0-rc.1", Some((3, 5))),
            ("3.5.0+build", Some((3, 5))),
            ("", None),
            ("3", None),
            ("v3.5", None),
            ("3.5.x", None),
            ("3.5.1.2", None),
            ("3.five", None),
            ("3.5-rc", None),
            ("three", None),
        ] {
            assert_eq!(target_of(text), read, "{text:?}");
        }
    }
}
