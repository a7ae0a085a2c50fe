//! From a checked configuration to a running member, and to its end: the one way in for the
//! server's process and for a simulated one.
//!
//! The order keeps a refused start from touching anything: the data directory is opened first,
//! then the peers' ports, and only then does anything run. It knows nothing of flags, signals or
//! clients' connections.

use super::boot::{self, BootConfig, BootError};
use super::handle::RequestLimits;
use super::shared::{Ended, GroupSlot, Observer, Shared};
use super::shell::{self, Running};
use super::streams::Streams;
use crate::io::{Clock, Io, until};
use crate::transport::{LocalIdentity, StartError};
use crate::types::GroupId;
use crate::types::version::QUORATE_VERSION;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long an orderly stop may take before the process ends all the same.
const STOP_LIMIT: Duration = Duration::from_millis(1_800);

/// What a start needs besides the data directory's part.
#[derive(Clone)]
pub struct StartConfig {
    /// `host:port` of each address that peers are listened for on.
    pub listen_peers: Vec<String>,
    /// What the other members dial, as URLs.
    pub peer_urls: Vec<String>,
    pub limits: RequestLimits,
    /// A checkpoint is also due every so many entries (etcd's `--snapshot-count`).
    pub checkpoint_entries: u64,
    /// How often watchers that asked for it are told of progress.
    pub progress_interval_ms: u64,
    /// Sees what is applied. None in production.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Why a member did not start.
#[derive(Debug)]
pub enum OpenError {
    Boot(BootError),
    Peers(StartError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Boot(error) => error.fmt(f),
            OpenError::Peers(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Boot(error) => error.source(),
            OpenError::Peers(error) => error.source(),
        }
    }
}

/// Opens the data directory, listens for peers and starts the member's tasks.
pub async fn open(
    io: &Io,
    boot_config: BootConfig,
    config: StartConfig,
) -> Result<Running, OpenError> {
    let (cluster, node) = (boot_config.core.cluster, boot_config.core.node);
    let (data_dir, store) = (boot_config.data_dir.clone(), boot_config.store_path());
    let quota_bytes = boot_config.core.quota_bytes;
    let member = boot::boot(io.disk.clone(), boot_config).map_err(OpenError::Boot)?;
    tracing::info!(
        "local-member-id" = %node,
        "cluster-id" = %cluster,
        "data-dir" = %data_dir.display(),
        store = %store.display(),
        "opened the data directory"
    );
    let local = LocalIdentity {
        cluster,
        node,
        incarnation: member.core.config().incarnation,
        server_version: QUORATE_VERSION.to_string(),
        peer_urls: config.peer_urls,
    };
    let groups: BTreeMap<GroupId, GroupSlot> = member
        .applier
        .groups()
        .map(|group| {
            let view = member.applier.view(group).expect("the applier named the group");
            let slot = GroupSlot::new(view, config.progress_interval_ms);
            // What the store already holds: there may be nothing to apply for a long time.
            let applied = member.core.applied_index(group).unwrap_or_default();
            slot.applied.store(applied.0, Ordering::Relaxed);
            (group, slot)
        })
        .collect();
    let mut shared = Shared::new(
        io.clone(),
        cluster,
        node,
        config.limits,
        quota_bytes,
        groups,
        member.applier.root(),
        member.applier.pressure(),
    );
    shared.observer = config.observer;
    let shared = Arc::new(shared);
    let streams = Streams::new(node);
    streams
        .start(io.clone(), local, config.listen_peers, &shared)
        .await
        .map_err(OpenError::Peers)?;
    let _ = shared.streams.set(streams.clone());
    Ok(shell::start(shared, member, streams, config.checkpoint_entries.max(1)))
}

/// Ends the member in order: leadership handed over, a last checkpoint, every task ended; or not
/// quite, when that takes too long.
pub async fn close(running: &Running, clock: &dyn Clock) -> Ended {
    running.stop();
    match until(clock, clock.now() + STOP_LIMIT, running.ended()).await {
        Some(ended) => ended,
        None => {
            tracing::warn!("the member did not stop in time; what is in the log is safe");
            running.why()
        }
    }
}
