//! The tasks around the core, over tokio and a disk in memory.

use super::cluster::{founders, group_ids};
use crate::io::mem_disk::{Fault, FaultKind, FaultOp};
use crate::io::{Io, MemDisk, tokio_backend, until};
use crate::node::handle::RequestLimits;
use crate::node::shared::Ended;
use crate::node::start::{self, StartConfig};
use crate::node::{BootConfig, CoreConfig, Founding};
use crate::types::command::PutRequest;
use crate::types::{ApiError, Command, GroupId, Incarnation};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Found by the simulator: the task that writes checkpoints had failed and ended, the applier
/// waited for the end of its checkpoint, and after the time for an orderly stop the process ended
/// as if it had been asked to.
#[tokio::test]
async fn a_store_that_fails_under_a_checkpoint_ends_the_member_and_says_so() {
    let disk = MemDisk::new(1);
    let io =
        Io { disk: Arc::new(disk.clone()), ..tokio_backend::io(tokio::runtime::Handle::current()) };
    let (cluster, rows) = founders(1);
    let mut core = CoreConfig::new(cluster, rows[0].id, Incarnation(1), 1);
    core.tick_ms = 10;
    let mut boot =
        BootConfig::new("/data", core, Founding::New { members: rows, groups: group_ids(1) });
    boot.wal.segment_bytes = 256 << 10;
    let config = StartConfig {
        listen_peers: vec!["127.0.0.1:0".to_owned()],
        peer_urls: Vec::new(),
        limits: RequestLimits {
            request_bytes_max: 1 << 20,
            txn_ops_max: 128,
            token_ttl_ms: 300_000,
        },
        checkpoint_entries: 1,
        progress_interval_ms: 600_000,
        observer: None,
    };
    let running = start::open(&io, boot, config).await.expect("an empty disk is founded");
    disk.inject(Fault::next(FaultOp::Write, FaultKind::Io).on("snap/db"));
    for n in 0_u32.. {
        let put =
            PutRequest { key: Bytes::copy_from_slice(&n.to_be_bytes()), ..PutRequest::default() };
        match running.handle.propose(GroupId::ROOT, Command::Put(put)).await {
            Err(ApiError::Stopped) => break,
            // Before the election.
            _ => io.clock.sleep_until(io.clock.now() + Duration::from_millis(5)).await,
        }
    }
    let soon = io.clock.now() + Duration::from_secs(1);
    let ended = until(&*io.clock, soon, running.ended()).await;
    assert!(matches!(ended, Some(Ended::Storage(_))), "{ended:?}");
}
