//! The door between the adapters (`api`) and the member.
//!
//! A `NodeHandle` is cheap to clone and never blocks the core: proposals, read barriers,
//! keepalives and transfers are queued and awaited; reads take a pinned view on the caller's own
//! thread; status is what the member last published.
//!
//! It knows nothing of gRPC, HTTP or encodings on the client wire.

use super::action::{Action, Answer, Token};
use super::membership::MembershipChange;
use super::shared::{Ended, GroupSlot, Shared, lock};
use super::watching::WatchStream;
use crate::auth::AuthState;
use crate::io::TaskKind;
use crate::mvcc::watch::HubCounts;
use crate::mvcc::{KeyspaceView, ReadError};
use crate::types::auth::Caller;
use crate::types::limits::PENDING_PROPOSALS_MAX;
use crate::types::reply::Reply;
use crate::types::{ApiError, ClusterId, Command, GroupId, LeaseId, Member, NodeId};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Looks without a leader after which a stream that requires one ends.
const LEADERLESS_LOOKS: u32 = 3;

/// What the operator allows clients to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    pub request_bytes_max: usize,
    pub txn_ops_max: usize,
    /// How long a remembered token lasts after its last use.
    pub token_ttl_ms: u64,
}

/// The outcome of a command that went through the log and was applied here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub reply: Reply,
    /// The keyspace's revision after the command (etcd's header revision).
    pub revision: i64,
}

/// A member as it last saw itself. Indexes are of the asked group's log.
#[derive(Clone, Debug, Default)]
pub struct MemberStatus {
    pub cluster_id: ClusterId,
    pub member_id: NodeId,
    /// `NodeId::NONE` without a leader.
    pub leader: NodeId,
    pub raft_term: u64,
    pub commit_index: u64,
    pub applied_index: u64,
    pub is_learner: bool,
    /// Bytes the store file takes, and those of them that hold data.
    pub db_bytes: u64,
    pub db_bytes_in_use: u64,
    /// 0 is "no quota".
    pub quota_bytes: u64,
    pub leader_changes: u64,
    pub proposals_pending: u64,
    pub proposals_failed: u64,
}

/// etcd's LeaseTimeToLive: `ttl` is -1 for an unknown lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTtl {
    pub ttl: i64,
    pub granted: i64,
    pub keys: Vec<Bytes>,
}

#[derive(Clone)]
pub struct NodeHandle {
    pub(super) shared: Arc<Shared>,
}

/// Forgets a request whose client has gone before the answer.
struct Asked<'a> {
    shared: &'a Shared,
    token: Token,
    answered: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered && self.shared.waiters.remove(self.token).is_some() {
            self.shared.core.send(Action::Cancel { token: self.token });
        }
    }
}

impl NodeHandle {
    pub fn limits(&self) -> RequestLimits {
        self.shared.limits
    }
    pub fn cluster_id(&self) -> ClusterId {
        self.shared.cluster
    }
    pub fn member_id(&self) -> NodeId {
        self.shared.node
    }
    fn slot(&self, group: GroupId) -> Option<&GroupSlot> {
        self.shared.groups.get(&group)
    }
    /// As last published; 0 for a group this member has no replica of.
    pub fn raft_term(&self, group: GroupId) -> u64 {
        self.slot(group).map_or(0, |slot| slot.term().0)
    }
    pub fn has_leader(&self, group: GroupId) -> bool {
        self.slot(group).is_some_and(|slot| !slot.leader().is_none())
    }
    pub fn is_learner(&self) -> bool {
        let root = lock(&self.shared.root).clone();
        // Who joins does not know itself before it has applied its own addition: until then it has
        // as little to answer with as a learner.
        let known = root.members.get(&self.shared.node);
        known.map_or(!root.removed.contains(&self.shared.node), |member| member.is_learner)
    }
    pub fn status(&self, group: GroupId) -> MemberStatus {
        let pressure = *lock(&self.shared.pressure);
        let mut status = MemberStatus {
            cluster_id: self.shared.cluster,
            member_id: self.shared.node,
            is_learner: self.is_learner(),
            db_bytes: pressure.file_bytes,
            db_bytes_in_use: pressure.in_use_bytes,
            quota_bytes: self.shared.quota_bytes,
            proposals_pending: self.shared.waiters.waiting(),
            proposals_failed: self.shared.metrics.proposals_failed.load(Ordering::Relaxed),
            ..MemberStatus::default()
        };
        if let Some(slot) = self.slot(group) {
            status.leader = slot.leader();
            status.raft_term = slot.term().0;
            status.commit_index = slot.commit.load(Ordering::Relaxed);
            status.applied_index = slot.applied().0;
            status.leader_changes = slot.leader_changes.load(Ordering::Relaxed);
        }
        status
    }
    /// What the member's loops measure, in Prometheus' text form.
    pub fn metrics_text(&self) -> String {
        let peers = self.shared.streams.get().map(|streams| streams.now()).unwrap_or_default();
        self.shared.metrics.text(self.shared.node, &peers)
    }

    /// Queues `action` and waits for its answer. A full queue refuses at once.
    async fn ask(&self, action: impl FnOnce(Token) -> Action) -> Result<Answer, ApiError> {
        let shared = &*self.shared;
        let (token, answer) = shared.waiters.register();
        let mut asked = Asked { shared, token, answered: false };
        // Registered first, so that an end of the member in between is seen by one of the two.
        if shared.is_stopping() {
            return Err(ApiError::Stopped);
        }
        if shared.core.try_send(action(token), PENDING_PROPOSALS_MAX).is_err() {
            shared.waiters.remove(token);
            return Err(ApiError::TooManyRequests);
        }
        let answer = answer.await.unwrap_or(Err(ApiError::Stopped));
        asked.answered = true;
        answer
    }

    /// Sends `command` through the log and waits for its outcome here.
    pub async fn propose(&self, group: GroupId, command: Command) -> Result<Committed, ApiError> {
        self.propose_as(group, None, command).await
    }

    /// As `propose`, on behalf of whoever asked: permissions are checked where the command is
    /// applied, against the users and roles of that point of the log.
    pub async fn propose_as(
        &self,
        group: GroupId,
        caller: Option<Caller>,
        command: Command,
    ) -> Result<Committed, ApiError> {
        let action = |token| match caller {
            Some(caller) => Action::ProposeAs { group, token, caller, command },
            None => Action::Propose { group, token, command },
        };
        match self.ask(action).await {
            Ok(Answer::Applied { reply, revision, .. }) => Ok(Committed { reply, revision }),
            Ok(other) => unreachable!("a proposal was answered with {other:?}"),
            Err(error) => {
                self.shared.metrics.proposals_failed.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// As `propose_as`, and nobody waits for what becomes of it.
    pub fn propose_and_forget(&self, group: GroupId, caller: Option<Caller>, command: Command) {
        // The answer finds that nobody listens.
        let (token, _) = self.shared.waiters.register();
        let action = match caller {
            Some(caller) => Action::ProposeAs { group, token, caller, command },
            None => Action::Propose { group, token, command },
        };
        if self.shared.core.try_send(action, PENDING_PROPOSALS_MAX).is_err() {
            self.shared.waiters.remove(token);
        }
    }

    /// Returns once everything acknowledged before the call is visible in `view`.
    pub async fn read_barrier(&self, group: GroupId) -> Result<(), ApiError> {
        if self.slot(group).is_some_and(|slot| slot.alone.load(Ordering::Acquire)) {
            return Ok(());
        }
        let clock = &self.shared.io.clock;
        let asked = clock.now();
        let outcome = self.ask(|token| Action::Read { group, token }).await.map(drop);
        self.shared.metrics.read_index(clock.now() - asked, outcome.is_ok());
        outcome
    }

    /// The newest applied state of the group. `None` if this member has no replica of it.
    pub fn view(&self, group: GroupId) -> Option<KeyspaceView> {
        self.slot(group).map(GroupSlot::view)
    }

    /// Whether users count. A request that is let through just before they do is still checked
    /// where it is applied or read.
    pub fn auth_enabled(&self, group: GroupId) -> bool {
        self.slot(group).is_some_and(|slot| slot.auth_enabled.load(Ordering::Acquire))
    }

    /// The users and roles as applied here. They are part of `view`, for reads.
    pub fn auth(&self, group: GroupId) -> Result<Arc<AuthState>, ApiError> {
        let view = self.view(group).ok_or(ApiError::MemberNotFound)?;
        Ok(view.auth().clone())
    }

    /// The user a remembered token stands for. A token names the entry that made it: one that this
    /// member has not applied yet is waited for.
    pub async fn token_user(&self, group: GroupId, token: &str) -> Result<String, ApiError> {
        let mut split = token.split('.');
        let (Some(_), Some(index), None) = (split.next(), split.next(), split.next()) else {
            return Err(ApiError::InvalidAuthToken);
        };
        let index: u64 = index.parse().map_err(|_| ApiError::InvalidAuthToken)?;
        if self.slot(group).is_some_and(|slot| slot.applied().0 < index) {
            self.read_barrier(group).await?;
        }
        let now_ms = self.shared.io.clock.now().0 / 1_000_000;
        let user = lock(&self.shared.tokens).user(token, now_ms);
        user.ok_or(ApiError::InvalidAuthToken)
    }

    /// Runs something that keeps a processor busy for long, away from the threads that serve.
    pub async fn compute<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let _slot = self.shared.computing.acquire().await.map_err(|_| ApiError::Stopped)?;
        let (sender, receiver) = oneshot::channel();
        let task = async move {
            // Whoever asked may have gone.
            let _ = sender.send(work());
        };
        self.shared.io.tasks.spawn(name, TaskKind::Dedicated, Box::pin(task));
        receiver.await.map_err(|_| ApiError::Stopped)
    }

    /// Random bytes, from the member's own source.
    pub fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(8) {
            let number = self.shared.io.entropy.u64().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        bytes
    }

    /// Milliseconds since the Unix epoch, for what others read: never for an order of events.
    pub fn wall_ms(&self) -> u64 {
        self.shared.io.clock.wall_ms()
    }

    /// What a failed read means for the client; a storage fault also ends the member.
    pub fn read_failed(&self, error: ReadError) -> ApiError {
        match error {
            ReadError::Api(error) => error,
            ReadError::Storage(error) => {
                tracing::error!(%error, "a read found the store damaged; stopping");
                self.shared.end(Ended::Storage(error));
                ApiError::Stopped
            }
        }
    }

    /// Renews a lease at the leader; 0 for an unknown or expired one, else its TTL in seconds.
    pub async fn keep_alive(&self, group: GroupId, lease: LeaseId) -> Result<i64, ApiError> {
        match self.ask(|token| Action::KeepAlive { group, token, lease }).await? {
            Answer::KeptAlive { ttl_seconds } => {
                if ttl_seconds > 0 {
                    self.shared.metrics.leases_renewed.fetch_add(1, Ordering::Relaxed);
                }
                Ok(ttl_seconds)
            }
            other => unreachable!("a keepalive was answered with {other:?}"),
        }
    }

    /// Remaining seconds as the leader counts them; attached keys as applied here, after a
    /// barrier.
    pub async fn lease_time_to_live(
        &self,
        group: GroupId,
        lease: LeaseId,
        keys: bool,
    ) -> Result<LeaseTtl, ApiError> {
        let answer = self.ask(|token| Action::LeaseTtl { group, token, lease }).await?;
        let (granted, ttl) = match answer {
            Answer::LeaseTtl { granted_seconds, remaining_seconds } => {
                (granted_seconds, remaining_seconds)
            }
            other => unreachable!("a TTL question was answered with {other:?}"),
        };
        let mut found = LeaseTtl { ttl, granted, keys: Vec::new() };
        if keys && ttl >= 0 {
            self.read_barrier(group).await?;
            let info = self.view(group).map(|view| view.lease(lease, true)).transpose();
            let info = info.map_err(|error| self.read_failed(ReadError::Storage(error)))?;
            found.keys = info.flatten().map(|info| info.keys).unwrap_or_default();
        }
        Ok(found)
    }

    /// The membership as applied here, ordered by id.
    pub fn members(&self) -> Vec<Member> {
        lock(&self.shared.root).members.values().cloned().collect()
    }

    /// The version that the cluster was told to go down to, as applied here.
    pub fn downgrade_target(&self) -> Option<String> {
        let root = lock(&self.shared.root);
        (!root.downgrade.is_empty()).then(|| root.downgrade.clone())
    }

    /// Changes who is in the cluster, through the leader and its checks. Gives the member that was
    /// added, and the membership behind the change.
    pub async fn change_membership(
        &self,
        change: MembershipChange,
    ) -> Result<(Option<Member>, Vec<Member>), ApiError> {
        match self.ask(|token| Action::Membership { token, change }).await? {
            Answer::Members { member, members } => Ok((member, members)),
            other => unreachable!("a change of the membership was answered with {other:?}"),
        }
    }

    pub async fn move_leader(&self, group: GroupId, target: NodeId) -> Result<(), ApiError> {
        self.ask(|token| Action::Transfer { group, token, to: target }).await.map(drop)
    }

    /// One client's stream of watches over one keyspace.
    pub fn open_watch(&self, group: GroupId) -> Result<WatchStream, ApiError> {
        if self.shared.is_stopping() {
            return Err(ApiError::Stopped);
        }
        WatchStream::open(self.shared.clone(), group).ok_or(ApiError::NoLeader)
    }

    /// Resolves once the group has been without a leader here at three looks in a row, one
    /// election timeout apart: when etcd ends the streams of clients that require a leader.
    pub async fn leader_lost(&self, group: GroupId) {
        let clock = &self.shared.io.clock;
        let pause = Duration::from_millis(self.shared.election_ms.load(Ordering::Relaxed));
        let mut leaderless = 0;
        while leaderless < LEADERLESS_LOOKS {
            clock.sleep_until(clock.now() + pause).await;
            leaderless = if self.has_leader(group) { 0 } else { leaderless + 1 };
        }
    }

    /// How many watch the group here.
    pub fn watch_counts(&self, group: GroupId) -> HubCounts {
        self.slot(group).map(|slot| lock(&slot.watches).counts()).unwrap_or_default()
    }

    /// A positive random number, for ids that the member assigns.
    pub fn random_id(&self) -> i64 {
        loop {
            let id = (self.shared.io.entropy.u64() >> 1) as i64;
            if id != 0 {
                return id;
            }
        }
    }

    /// Resolves when the member begins to stop.
    pub async fn stopping(&self) {
        self.shared.stopping().await;
    }
}
