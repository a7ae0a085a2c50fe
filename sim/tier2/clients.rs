//! Clients: tier 1's workload, asked over gRPC, and now and then a look at what only an operator
//! asks.
//!
//! A client has one call open at a time, gives up after its patience, and tries another member when
//! a call fails. It never learns of a call that it gave up: the log says what became of it.

use super::judge::Told;
use super::race::{First, race};
use super::rpc::Line;
use super::story::lock;
use super::world::{World, member_ids};
use crate::faults::Fault;
use crate::history::Call;
use crate::plan::SECOND;
use crate::safety::{Checked, ensure};
use crate::workload::Client;
use quorate::api::convert;
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::etcdserverpb::cluster_client::ClusterClient;
use quorate::api::proto::etcdserverpb::kv_client::KvClient;
use quorate::api::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::api::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate::mvcc::is_read_only;
use quorate::types::{Command, GroupId};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tonic::Status;

/// One call in this many is followed by an operator's.
const LOOK_ONE_IN: u64 = 12;
/// One answer in this many is lost on its way, where the plan says so.
const LOST_ANSWER_ONE_IN: u64 = 60;

/// Asks until the world is quiet.
pub async fn run(world: Arc<World>, id: u64) {
    let plan = world.plan.clone();
    let mut client = Client::new(&plan, id);
    let hosts: Vec<usize> = world.hosts().collect();
    let mut whims = plan.stream(&format!("whims-{id}"));
    let delays = Arc::new(Mutex::new(plan.stream(&format!("line-{id}"))));
    loop {
        client.turn(None, true);
        world.sleep_us(client.think_us(&plan)).await;
        if world.is_quiet() {
            return;
        }
        let (_, call) = client.next_call(&plan, &[GroupId::ROOT], None);
        let host = client.member;
        let line = Line::new(world.clone(), host, delays.clone());
        let lost = whims.chance(1, LOST_ANSWER_ONE_IN) && plan.on(Fault::LostAnswer);
        if !ask(&world, &mut client, line.clone(), call, lost).await {
            client.move_on(&hosts);
        } else if whims.chance(1, LOOK_ONE_IN) {
            let checked = look(&world, host, line, whims.below(6)).await;
            world.story.check(checked);
        }
    }
}

/// A call and its answer; false if the client should try elsewhere.
async fn ask(world: &Arc<World>, client: &mut Client, line: Line, call: Call, lost: bool) -> bool {
    let call = match call {
        Call::Write(Command::Txn(txn)) if is_read_only(&txn) => Call::ReadTxn(txn),
        other => other,
    };
    let story = &world.story;
    let host = client.member;
    let id = lock(&world.judge).history.begin(story.now_us(), GroupId::ROOT, call.clone());
    story.event(0xc0, id, &[host as u8]);
    story.note(|| format!("client {} call {id} to {host}: {call:?}", client.id));
    let patience = world.sleep_us(world.plan.timeout_us);
    let heard = match race(perform(line, call.clone()), patience).await {
        First::A(heard) if !lost => heard,
        outcome => {
            if matches!(outcome, First::A(Ok(_))) {
                story.fired(Fault::LostAnswer);
                story.mattered(Fault::LostAnswer);
            }
            story.note(|| format!("client {} gives up call {id}", client.id));
            lock(&world.judge).history.abandon(id);
            return false;
        }
    };
    let now_us = story.now_us();
    story.note(|| format!("client {} call {id}: {heard:?}", client.id));
    match heard {
        Ok(told) => {
            story.event(0xc1, id, format!("{told:?}").as_bytes());
            let answer = lock(&world.judge).heard(now_us, id, &call, &told);
            match answer {
                Ok(answer) => client.heard(GroupId::ROOT, &answer),
                Err(violation) => story.check(Err(violation)),
            }
            true
        }
        Err(status) => {
            story.event(0xc2, id, status.message().as_bytes());
            let checked = lock(&world.judge).refused(now_us, id, &status);
            story.check(checked);
            false
        }
    }
}

/// The call as its RPC.
pub async fn perform(line: Line, call: Call) -> Result<Told, Status> {
    let (kv, lease) = (|| KvClient::new(line.clone()), || LeaseClient::new(line.clone()));
    Ok(match call {
        Call::Range(r) => Told::Range(kv().range(convert::range_to_proto(r)).await?.into_inner()),
        Call::ReadTxn(r) | Call::Write(Command::Txn(r)) => {
            Told::Txn(kv().txn(convert::txn_to_proto(r)).await?.into_inner())
        }
        Call::Write(Command::Put(r)) => {
            Told::Put(kv().put(convert::put_to_proto(r)).await?.into_inner())
        }
        Call::Write(Command::DeleteRange(r)) => {
            Told::Delete(kv().delete_range(convert::delete_to_proto(r)).await?.into_inner())
        }
        Call::Write(Command::Compact(r)) => {
            let request = pb::CompactionRequest { revision: r.revision, physical: r.physical };
            Told::Compact(kv().compact(request).await?.into_inner())
        }
        Call::Write(Command::LeaseGrant { id, ttl_seconds }) => {
            let request = pb::LeaseGrantRequest { id: id.0, ttl: ttl_seconds };
            Told::Grant(lease().lease_grant(request).await?.into_inner())
        }
        Call::Write(Command::LeaseRevoke { ids, .. }) => {
            let request = pb::LeaseRevokeRequest { id: ids[0].0 };
            Told::Revoke(lease().lease_revoke(request).await?.into_inner())
        }
        Call::KeepAlive(id) => {
            let request = pb::LeaseKeepAliveRequest { id: id.0 };
            let requests = tokio_stream::once(request);
            let mut answers = lease().lease_keep_alive(requests).await?.into_inner();
            let answer = answers.message().await?;
            Told::KeepAlive(answer.ok_or_else(|| Status::unknown("the stream ended"))?)
        }
        other => unreachable!("this tier's plan has no {other:?}"),
    })
}

/// One of the calls that are judged by themselves. Errors are nobody's fault here.
async fn look(world: &Arc<World>, host: usize, line: Line, which: u64) -> Checked {
    let patience = world.sleep_us(world.plan.timeout_us);
    match race(look_at(world, host, line, which), patience).await {
        First::A(checked) => checked,
        First::B(()) => Ok(()),
    }
}

async fn look_at(world: &Arc<World>, host: usize, line: Line, which: u64) -> Checked {
    let mut maintenance = MaintenanceClient::new(line.clone());
    let mut lease = LeaseClient::new(line.clone());
    let before = lock(&world.judge).revision();
    match which {
        0 => {
            let Ok(told) = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await else {
                return Ok(());
            };
            let told = told.into_inner();
            world.story.note(|| format!("{host} hashes {told:?}"));
            lock(&world.judge).hash_kv(host, &told)
        }
        1 => {
            let Ok(told) = maintenance.status(pb::StatusRequest {}).await else { return Ok(()) };
            let told = told.into_inner();
            let known = member_ids(world).unwrap_or_default();
            ensure!(
                told.leader == 0 || known.iter().any(|id| id.0 == told.leader),
                "strange-address",
                "{host} says that {} leads, which is no member",
                told.leader
            );
            ensure!(
                told.raft_applied_index <= lock(&world.judge).committed().0,
                "read-uncommitted",
                "{host} has applied {}, {} is committed",
                told.raft_applied_index,
                lock(&world.judge).committed()
            );
            Ok(())
        }
        2 => {
            let request = pb::MemberListRequest { linearizable: true };
            let Ok(told) = ClusterClient::new(line).member_list(request).await else {
                return Ok(());
            };
            // As in etcd, a member has no name before it has published itself.
            let mut members = told.into_inner().members;
            let count = members.len();
            members.retain(|member| !member.name.is_empty());
            let named: BTreeSet<&str> = members.iter().map(|m| m.name.as_str()).collect();
            let ours: BTreeSet<String> = world.hosts().map(|host| format!("m{host}")).collect();
            ensure!(
                count == ours.len()
                    && named.len() == members.len()
                    && named.iter().all(|name| ours.contains(*name)),
                "wrong-read",
                "{host} lists {count} members: {members:?}"
            );
            Ok(())
        }
        3 => {
            let Ok(told) = lease.lease_leases(pb::LeaseLeasesRequest {}).await else {
                return Ok(());
            };
            let told = told.into_inner();
            for status in told.leases {
                let Ok(left) = lease
                    .lease_time_to_live(pb::LeaseTimeToLiveRequest { id: status.id, keys: true })
                    .await
                else {
                    continue;
                };
                let left = left.into_inner();
                // A new leader adds an election timeout, in which the old one may have renewed it.
                let grace = world.plan.election_us().div_ceil(SECOND) as i64;
                ensure!(
                    left.id == status.id && left.ttl <= left.granted_ttl + grace,
                    "wrong-read",
                    "{host} says of lease {}: {left:?}",
                    status.id
                );
            }
            Ok(())
        }
        4 => {
            // A member's own state is no older than what it has just answered from.
            let Ok(told) = maintenance.hash(pb::HashRequest {}).await else { return Ok(()) };
            let revision = told.into_inner().header.map_or(0, |header| header.revision);
            let now = lock(&world.judge).revision();
            ensure!(
                revision <= now,
                "read-uncommitted",
                "{host} hashes revision {revision}, {now} is committed"
            );
            Ok(())
        }
        _ => {
            let everything = quorate::types::command::RangeRequest {
                range: quorate::types::KeyRange::new(vec![0], vec![0]),
                count_only: true,
                ..Default::default()
            };
            let told = perform(line, Call::Range(everything)).await;
            if let Ok(Told::Range(told)) = told {
                let revision = told.header.map_or(0, |header| header.revision);
                // `before` was applied somewhere, but perhaps never told to anybody.
                let now = lock(&world.judge).revision();
                ensure!(
                    revision <= now,
                    "read-uncommitted",
                    "{host}: {revision} of {now}, {before} before"
                );
            }
            Ok(())
        }
    }
}
