//! From a checked configuration to a serving member, and to its end.
//!
//! The order keeps a refused start from touching anything: flags, then the ports, then the data
//! directory; only then is anything written or answered.

use super::config::{ClusterState, Config, same_urls};
use super::joining;
use crate::api::front::Front;
use crate::api::rpcs::Counters;
use crate::api::server::Server;
use crate::api::tokens::AuthOptions;
use crate::btree::StoreOptions;
use crate::io::{Io, biased_select, tokio_backend};
use crate::multiraft::host::TrimPolicy;
use crate::node::handle::RequestLimits;
use crate::node::shared::Ended;
use crate::node::shell::Running;
use crate::node::start::{self, OpenError, StartConfig};
use crate::node::{BootConfig, CoreConfig, Founding, boot, membership};
use crate::types::url::Url;
use crate::types::{GroupId, Incarnation, Member, limits};
use std::fmt::Display;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether the member is ready.
const READY_LOOK: Duration = Duration::from_millis(5);
/// Between two counts of what is left of a long lease (etcd: 5 minutes).
const LEASE_CHECKPOINT_MS: u64 = 300_000;

/// Serves until told to stop or until the member cannot go on. The text of an error says what to
/// do.
pub fn serve(config: &Config) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let io = tokio_backend::io(runtime.handle().clone());
    runtime.block_on(run(config, io))
}

async fn run(config: &Config, io: Io) -> Result<(), String> {
    let clients = addresses(&config.listen_client_urls);
    let peers = addresses(&config.listen_peer_urls);
    for (flag, address) in clients
        .iter()
        .map(|a| ("listen-client-urls", a))
        .chain(peers.iter().map(|a| ("listen-peer-urls", a)))
    {
        port_is_free(flag, address)?;
    }

    let options = auth_options(config)?;
    let boot = boot_config(config, &io).await?;
    let running =
        start::open(&io, boot, start_config(config)).await.map_err(|error| match error {
            OpenError::Boot(error) => {
                format!("{error} (data directory {})", config.data_dir.display())
            }
            OpenError::Peers(error) => format!("{error}; choose another --listen-peer-urls"),
        })?;
    let outcome = serve_clients(config, options, &clients, &running, &io).await;
    // Whatever happened, the member ends in order.
    let ended = start::close(&running, &*io.clock).await;
    outcome?;
    match ended {
        Ended::Asked => Ok(()),
        Ended::Removed => Err("this member has been removed from the cluster".to_string()),
        Ended::IncarnationRefused => {
            Err("this member's data directory is not the one the cluster \
             knows under its id: remove the member, add it again, and start it with an empty data \
             directory and --initial-cluster-state existing"
                .to_string())
        }
        Ended::Storage(error) => Err(format!("stopped: {error}")),
    }
}

/// Serves clients until a signal or until the member ends by itself.
async fn serve_clients(
    config: &Config,
    options: AuthOptions,
    listen: &[String],
    running: &Running,
    io: &Io,
) -> Result<(), String> {
    let handle = running.handle.clone();
    let shards = Counters::shards(config.client_threads);
    let options = Arc::new(options);
    let server = Server::start(listen, &shards, |counters| {
        Front::new(handle.clone(), options.clone(), counters, shards.clone())
    })
    .map_err(|error| format!("{error}; choose another --listen-client-urls"))?;
    let mut terminate = signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = signal(tokio::signal::unix::SignalKind::interrupt())?;
    let ready = async {
        while !is_ready(&handle) {
            io.clock.sleep_until(io.clock.now() + READY_LOOK).await;
        }
        for address in server.addresses() {
            tracing::info!(%address, "ready to serve client requests");
        }
        std::future::pending::<()>().await;
    };
    biased_select! {
        _ = terminate.recv() => tracing::info!(signal = "terminated", "received signal; shutting down"),
        _ = interrupt.recv() => tracing::info!(signal = "interrupt", "received signal; shutting down"),
        () = handle.stopping() => {},
        () = ready => {},
    }
    // Leadership leaves while requests under way are still answered.
    running.stop();
    server.stop().await;
    Ok(())
}

fn signal(kind: tokio::signal::unix::SignalKind) -> Result<tokio::signal::unix::Signal, String> {
    tokio::signal::unix::signal(kind).map_err(|error| format!("no signal handler: {error}"))
}

/// A member is ready once the cluster knows it and it knows a leader (etcd's rule).
fn is_ready(handle: &crate::node::NodeHandle) -> bool {
    handle.has_leader(GroupId::ROOT)
        && handle
            .members()
            .iter()
            .any(|member| member.id == handle.member_id() && member.incarnation.is_some())
}

fn addresses(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::authority).collect()
}

/// Tries the address and lets go of it: a port in use is found before anything is touched.
fn port_is_free(flag: &str, address: &str) -> Result<(), String> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) => Err(cannot_listen(flag, address, &error)),
    }
}

fn cannot_listen(flag: &str, address: &str, error: &dyn Display) -> String {
    format!("cannot listen on {address}: {error}; choose another --{flag} or free the port")
}

/// What the flags mean for how clients are told apart; reads the keys.
pub fn auth_options(config: &Config) -> Result<AuthOptions, String> {
    Ok(AuthOptions { tokens: config.auth_token.open()?, bcrypt_cost: config.bcrypt_cost })
}

/// What the flags mean for a member's start, its data directory apart.
pub fn start_config(config: &Config) -> StartConfig {
    StartConfig {
        listen_peers: addresses(&config.listen_peer_urls),
        peer_urls: config.advertise_peer_urls.iter().map(Url::to_string).collect(),
        limits: RequestLimits {
            request_bytes_max: config.request_bytes_max,
            txn_ops_max: config.txn_ops_max,
            token_ttl_ms: config.auth_token_ttl_ms,
        },
        checkpoint_entries: config.snapshot_count,
        progress_interval_ms: config.progress_interval_ms,
        observer: None,
    }
}

/// What the flags mean for the data directory: found a member, or recover the one that is there.
/// Only a member that joins a cluster waits for anybody.
pub async fn boot_config(config: &Config, io: &Io) -> Result<BootConfig, String> {
    let rows: Vec<Member> = config
        .initial_cluster
        .iter()
        .map(|member| {
            let peer_urls: Vec<String> = member.peer_urls.iter().map(Url::to_string).collect();
            let id = membership::member_id(&peer_urls, &config.cluster_token, None);
            Member { id, name: member.name.clone(), peer_urls, ..Member::default() }
        })
        .collect();
    let own_urls: Vec<String> = config.advertise_peer_urls.iter().map(Url::to_string).collect();
    let mut node = membership::member_id(&own_urls, &config.cluster_token, None);
    let mut cluster = membership::cluster_id(rows.iter().map(|member| member.id));
    let found = boot::whose(&io.disk, &config.data_dir)
        .map_err(|error| format!("{error} (data directory {})", config.data_dir.display()))?;
    let founding = match found {
        // As in etcd, a data directory decides who its member is and flags about the bootstrap
        // count no more. But flags that begin a cluster must not name quite another member, or
        // the directory was mixed up.
        Some((identity, root)) => {
            let row = root.members.get(&identity.node);
            // Addresses alone tell nothing: another cluster may have lived at the same. Somebody
            // that the flags begin the cluster with must be known there.
            let knows =
                |row: &Member| root.members.contains_key(&row.id) || root.removed.contains(&row.id);
            let relates = root.members.is_empty() || rows.iter().any(knows);
            let named = row.is_none_or(|row| is_named(config, row, relates));
            let names_it = identity.node == node || named;
            if config.cluster_state == ClusterState::New && !names_it {
                return Err(format!(
                    "the data directory {} belongs to member {} of cluster {}, but the flags name \
                     member {node} of cluster {cluster}: give this member its own --data-dir, or \
                     the --initial-cluster-token and --initial-advertise-peer-urls it began with, \
                     or --initial-cluster-state existing if it joined later",
                    config.data_dir.display(),
                    identity.node,
                    identity.cluster,
                ));
            }
            if config.cluster_state == ClusterState::New && identity.cluster != cluster {
                tracing::warn!(
                    "data-dir-cluster-id" = %identity.cluster,
                    "flags-cluster-id" = %cluster,
                    "--initial-cluster is not what this member began with; the data directory \
                     decides"
                );
            }
            (cluster, node) = (identity.cluster, identity.node);
            Founding::Never
        }
        None if config.cluster_state == ClusterState::Existing => {
            (cluster, node) = joining::place(config, io).await?;
            Founding::Join
        }
        None => {
            config.check_bootstrap().map_err(|error| error.to_string())?;
            Founding::New { members: rows, groups: Vec::new() }
        }
    };
    let origin = nonzero(io);
    let mut core = CoreConfig::new(cluster, node, Incarnation(nonzero(io)), origin);
    core.seed = io.entropy.u64();
    core.name = config.name.clone();
    core.client_urls = config.advertise_client_urls.iter().map(Url::to_string).collect();
    core.tick_ms = config.heartbeat_ms;
    core.election_ticks =
        u32::try_from(config.election_ms / config.heartbeat_ms.max(1)).unwrap_or(u32::MAX);
    core.trim = TrimPolicy {
        keep_entries: limits::TRIM_KEEP_ENTRIES.min(config.snapshot_count.max(1)),
        keep_bytes: limits::TRIM_KEEP_BYTES,
        step_entries: 1_000.min(config.snapshot_count.max(1)),
    };
    core.request_bytes_max = config.request_bytes_max;
    core.learners_max = config.learners_max;
    core.strict_reconfig = config.strict_reconfig;
    core.quota_bytes = config.quota_bytes.unwrap_or(0);
    core.lease_checkpoint_ms = config.lease_checkpoints.then_some(LEASE_CHECKPOINT_MS);
    let mut boot = BootConfig::new(&config.data_dir, core, founding);
    boot.store = StoreOptions { cache_bytes: config.cache_bytes };
    Ok(boot)
}

/// Whether the flags name the member of this row: by where it is reached now (if they speak of its
/// cluster at all), by where it was when
/// the cluster began, or by its name in that cluster.
fn is_named(config: &Config, row: &Member, relates: bool) -> bool {
    let urls: Vec<Url> = row.peer_urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
    let began = membership::member_id(&row.peer_urls, &config.cluster_token, None);
    let entry = config.own_entry().is_ok_and(|entry| same_urls(&urls, &entry.peer_urls));
    (relates && (entry || same_urls(&urls, &config.advertise_peer_urls)))
        || (began == row.id && row.name == config.name)
}

fn nonzero(io: &Io) -> u64 {
    loop {
        let number = io.entropy.u64();
        if number != 0 {
            return number;
        }
    }
}
