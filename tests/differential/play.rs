//! Plays a sequence on both servers in step, and stops at the first answer that differs.

use crate::call::{Answer, Call, Plain, Reply, send};
use crate::gateway;
use crate::known::Differences;
use crate::normalise;
use crate::servers::{Pair, Server};
use crate::symbols::Revisions;
use crate::watch::StreamPair;
use bytes::Bytes;
use prost::Message as _;
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::v3electionpb as election;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::metadata::MetadataMap;

/// One step of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Call(Call),
    /// The same by the JSON gateway.
    Json(Call),
    /// A lease that would expire before the sequence ends, or whose id the server chooses:
    /// granted and revoked at once.
    ShortLease(pb::LeaseGrantRequest),
    /// These ids over one stream, each answered before the next is asked.
    KeepAlive(Vec<i64>),
    /// One request on one of the sequence's watch streams.
    Watch {
        stream: usize,
        ask: Ask,
    },
    /// A token for this user, kept for `As`.
    Login {
        user: &'static str,
        password: &'static str,
    },
    /// With the token that this user got last. Nobody has none; a user without a login brings one
    /// that never was.
    As(&'static str, Box<Op>),
    /// What happens while an alarm is on.
    Alarmed {
        alarm: i32,
        member_id: u64,
        ops: Vec<Op>,
    },
}

/// What can be asked on a watch stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Create(pb::WatchCreateRequest),
    Cancel(i64),
    Progress,
}

const WATCH: &str = "/etcdserverpb.Watch/Watch";

impl Op {
    /// The RPC's path.
    pub fn path(&self) -> &'static str {
        match self {
            Op::Call(call) | Op::Json(call) => call.path(),
            Op::ShortLease(_) => "/etcdserverpb.Lease/LeaseGrant",
            Op::KeepAlive(_) => "/etcdserverpb.Lease/LeaseKeepAlive",
            Op::Watch { .. } => WATCH,
            Op::Login { .. } => "/etcdserverpb.Auth/Authenticate",
            Op::As(_, op) => op.path(),
            Op::Alarmed { .. } => "/etcdserverpb.Maintenance/Alarm",
        }
    }
}

/// One request that was answered differently.
#[derive(Debug)]
pub struct Difference {
    /// Where in the sequence.
    pub at: usize,
    /// As it was sent, revisions filled in.
    pub request: String,
    pub etcd: String,
    pub ours: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Difference { request, etcd, ours, .. } = self;
        write!(out, "{request}\netcd:    {etcd}\nQuorate: {ours}")
    }
}

/// What both have answered so far.
pub struct Player<'a> {
    pair: &'a Pair,
    known: &'a mut Differences,
    revisions: Revisions,
    /// By number, and by who opened them.
    streams: BTreeMap<(usize, &'static str), StreamPair>,
    who: &'static str,
    /// etcd's token and ours, by user.
    tokens: BTreeMap<&'static str, [String; 2]>,
    /// The learner that was added last, to etcd and to Quorate.
    learners: [Option<u64>; 2],
    /// What the last campaign won.
    leader: Option<election::LeaderKey>,
    pub ops: usize,
}

/// Whose requests carry no token.
pub const NOBODY: &str = "";

impl<'a> Player<'a> {
    pub fn new(pair: &'a Pair, known: &'a mut Differences) -> Player<'a> {
        Player {
            pair,
            known,
            revisions: Revisions { now: 1, compacted: 0 },
            streams: BTreeMap::new(),
            who: NOBODY,
            tokens: BTreeMap::new(),
            learners: [None; 2],
            leader: None,
            ops: 0,
        }
    }

    pub async fn play(&mut self, ops: &[Op]) -> Option<Difference> {
        for (at, op) in ops.iter().enumerate() {
            self.ops += 1;
            if let Err(difference) = self.step(at, op.clone()).await {
                return Some(difference);
            }
        }
        self.compare_streams(ops.len().saturating_sub(1)).await.err()
    }

    async fn step(&mut self, at: usize, op: Op) -> Result<(), Difference> {
        match op {
            Op::Call(call) => self.call(at, call).await.map(|_| ()),
            Op::Json(mut call) => {
                self.revisions.resolve_call(&mut call);
                if matches!(call, Call::Compact(_)) {
                    self.compare_streams(at).await?;
                }
                let etcd = gateway::post(&self.pair.etcd, &call);
                let ours = gateway::post(&self.pair.ours, &call);
                if let Answer::Told(body) = &etcd {
                    self.revisions.now = gateway::revision(body).unwrap_or(self.revisions.now);
                    if let Call::Compact(compact) = &call {
                        self.revisions.compacted = compact.revision;
                    }
                }
                let request = format!("JSON of {}", readable(&call));
                self.compare(at, call.path(), request, vec![etcd], vec![ours])
            }
            Op::ShortLease(grant) => {
                let (etcd, ours) = self.call(at, Call::LeaseGrant(grant)).await?;
                if let (Some(etcd), Some(ours)) = (granted(&etcd), granted(&ours)) {
                    let revoke = |id| Call::LeaseRevoke(pb::LeaseRevokeRequest { id });
                    self.both(at, revoke(etcd), revoke(ours)).await?;
                }
                Ok(())
            }
            Op::Login { user, password } => self.login(at, user, password).await,
            Op::As(who, op) => {
                let before = std::mem::replace(&mut self.who, who);
                let done = Box::pin(self.step(at, *op)).await;
                self.who = before;
                done
            }
            Op::Watch { stream, ask } => self.watch(at, stream, ask).await,
            Op::Alarmed { alarm, member_id, ops } => self.alarmed(at, alarm, member_id, ops).await,
            Op::KeepAlive(ids) => {
                let [with_etcd, with_ours] = self.credentials();
                let (etcd, ours) = tokio::join!(
                    keep_alive(&self.pair.etcd, &ids, with_etcd),
                    keep_alive(&self.pair.ours, &ids, with_ours)
                );
                self.compare(
                    at,
                    "/etcdserverpb.Lease/LeaseKeepAlive",
                    format!("{ids:?}"),
                    etcd,
                    ours,
                )
            }
        }
    }

    async fn watch(&mut self, at: usize, stream: usize, ask: Ask) -> Result<(), Difference> {
        let Revisions { now, compacted } = self.revisions;
        let request = format!("{ask:?}");
        let credentials = self.credentials();
        let pair = self
            .streams
            .entry((stream, self.who))
            .or_insert_with(|| StreamPair::open(&self.pair.etcd, &self.pair.ours, credentials));
        match ask {
            Ask::Create(mut create) => {
                self.revisions.resolve(&mut create.start_revision);
                if pair.create(create, now, compacted).await {
                    self.known.ended_watch();
                }
                Ok(())
            }
            Ask::Cancel(id) => {
                pair.cancel(id, now).await;
                self.compare_streams(at).await
            }
            Ask::Progress => {
                let (etcd, ours) = pair.progress(now).await;
                let told = |revision| vec![Answer::Told(format!("progress {revision:?}"))];
                self.compare(at, WATCH, request, told(etcd), told(ours))
            }
        }
    }

    async fn compare_streams(&mut self, at: usize) -> Result<(), Difference> {
        for (number, stream) in &self.streams {
            let (etcd, ours) =
                stream.views(&self.pair.etcd, &self.pair.ours, self.revisions.now).await;
            if etcd != ours {
                return Err(Difference {
                    at,
                    request: format!("what was told on stream {number:?}"),
                    etcd: format!("{etcd:#?}"),
                    ours: format!("{ours:#?}"),
                });
            }
        }
        Ok(())
    }

    async fn login(
        &mut self,
        at: usize,
        user: &'static str,
        password: &'static str,
    ) -> Result<(), Difference> {
        let login = pb::AuthenticateRequest { name: user.into(), password: password.into() };
        let (etcd, ours) = self.call(at, Call::Authenticate(login)).await?;
        let token = |answer| match answer {
            Answer::Reply(Reply::Authenticate(login)) => Some(login.token),
            _ => None,
        };
        if let (Some(etcd), Some(ours)) = (token(etcd), token(ours)) {
            self.tokens.insert(user, [etcd, ours]);
        }
        Ok(())
    }

    /// What names the caller to etcd, and to Quorate.
    fn credentials(&self) -> [MetadataMap; 2] {
        let none = [const { String::new() }; 2];
        let mut tokens = self.tokens.get(self.who).cloned().unwrap_or(none);
        tokens.each_mut().map(|token| {
            let mut metadata = MetadataMap::new();
            if self.who != NOBODY {
                let token = if token.is_empty() { "never.was" } else { token };
                metadata.insert("token", token.parse().expect("tokens are ASCII"));
            }
            metadata
        })
    }

    async fn alarmed(
        &mut self,
        at: usize,
        alarm: i32,
        member_id: u64,
        ops: Vec<Op>,
    ) -> Result<(), Difference> {
        let alarm = |action| Call::Alarm(pb::AlarmRequest { action, member_id, alarm });
        self.call(at, alarm(1)).await?;
        for op in ops {
            Box::pin(self.step(at, op)).await?;
        }
        self.call(at, alarm(2)).await.map(|_| ())
    }

    async fn call(&mut self, at: usize, mut call: Call) -> Result<(Answer, Answer), Difference> {
        self.revisions.resolve_call(&mut call);
        if matches!(call, Call::Compact(_)) {
            // Before it takes away what watchers have still to be told.
            self.compare_streams(at).await?;
        }
        match &mut call {
            Call::Proclaim(request) => self.fill_in(&mut request.leader),
            Call::Resign(request) => self.fill_in(&mut request.leader),
            _ => {}
        }
        let (mut etcd, mut ours) = (call.clone(), call);
        Revisions::resolve_members(&mut etcd, self.pair.etcd.member_id, self.learners[0]);
        Revisions::resolve_members(&mut ours, self.pair.ours.member_id, self.learners[1]);
        let answers = self.both(at, etcd, ours).await?;
        for (learner, answer) in self.learners.iter_mut().zip([&answers.0, &answers.1]) {
            if let Answer::Reply(Reply::MemberAdd(added)) = answer {
                *learner = added.member.as_ref().map(|member| member.id);
            }
        }
        Ok(answers)
    }

    /// A leader without a name stands for the last one to win.
    fn fill_in(&self, leader: &mut Option<election::LeaderKey>) {
        if leader.as_ref().is_some_and(|leader| leader.name.is_empty()) {
            leader.clone_from(&self.leader);
        }
    }

    /// Both answers as they came.
    async fn both(
        &mut self,
        at: usize,
        etcd: Call,
        ours: Call,
    ) -> Result<(Answer, Answer), Difference> {
        let pair = self.pair;
        let [with_etcd, with_ours] = self.credentials();
        if matches!(etcd, Call::MemberAdd(_)) {
            far_from_the_next_second().await;
        }
        let (from_etcd, from_ours) = tokio::join!(
            send_to_etcd(&pair.etcd, &etcd, with_etcd),
            send(&pair.ours.channel, &ours, with_ours)
        );
        self.note(&etcd, &from_etcd);
        let path = etcd.path();
        self.compare(
            at,
            path,
            readable(&etcd),
            vec![normalise::answer(from_etcd.clone(), &pair.etcd)],
            vec![normalise::answer(from_ours.clone(), &pair.ours)],
        )?;
        Ok((from_etcd, from_ours))
    }

    fn note(&mut self, call: &Call, answer: &Answer) {
        let Answer::Reply(reply) = answer else { return };
        if let Some(header) = reply.clone().header_mut()
            && header.revision > 0
        {
            self.revisions.now = header.revision;
        }
        if let Reply::Campaign(won) = reply {
            self.leader = won.leader.clone();
        }
        if let Call::Compact(compact) = call {
            self.revisions.compacted = compact.revision;
        }
    }

    fn compare(
        &mut self,
        at: usize,
        path: &'static str,
        request: String,
        etcd: Vec<Answer>,
        ours: Vec<Answer>,
    ) -> Result<(), Difference> {
        if etcd == ours || self.known.excuses(path, &request, &etcd, &ours) {
            return Ok(());
        }
        Err(Difference { at, request, etcd: format!("{etcd:?}"), ours: format!("{ours:?}") })
    }
}

fn granted(answer: &Answer) -> Option<i64> {
    match answer {
        Answer::Reply(Reply::LeaseGrant(grant)) => Some(grant.id),
        _ => None,
    }
}

/// The request in one line; large values by their size.
fn readable(call: &Call) -> String {
    match call {
        Call::Put(put) if put.value.len() > 100 => {
            let short = pb::PutRequest { value: Bytes::new(), ..put.clone() };
            format!("Put({short:?} with {} bytes of value)", put.value.len())
        }
        call => format!("{call:?}"),
    }
}

/// A new member's id has the second of its making in it: whether one is the same as before, or as one
/// that was removed, must not depend on which of the two servers was asked first.
async fn far_from_the_next_second() {
    const ENOUGH: Duration = Duration::from_millis(100);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let left = Duration::from_secs(1) - Duration::from_nanos(now.subsec_nanos().into());
    if left < ENOUGH {
        tokio::time::sleep(left + Duration::from_millis(1)).await;
    }
}

/// etcd's raft drops a change of the membership that comes before the one ahead of it is wholly done,
/// and the server then waits for it without end: nothing has happened, so it is asked again.
async fn send_to_etcd(etcd: &Server, call: &Call, metadata: MetadataMap) -> Answer {
    let answer = send(&etcd.channel, call, metadata.clone()).await;
    let is_lost = matches!(&answer, Answer::Refused(tonic::Code::Cancelled, text) if text == "Timeout expired");
    if is_lost && call.path().starts_with("/etcdserverpb.Cluster/Member") {
        return send(&etcd.channel, call, metadata).await;
    }
    answer
}

async fn keep_alive(server: &Server, ids: &[i64], metadata: MetadataMap) -> Vec<Answer> {
    let mut grpc = tonic::client::Grpc::new(server.channel.clone());
    let mut answers = Vec::new();
    if let Err(error) = grpc.ready().await {
        return vec![Answer::Broken(error.to_string())];
    }
    let (sender, requests) = crate::streams::channel();
    let path = "/etcdserverpb.Lease/LeaseKeepAlive".parse().expect("a path");
    // etcd sends its headers with the first answer.
    let ask = |id: i64| sender.send(pb::LeaseKeepAliveRequest { id }.encode_to_vec().into());
    ask(ids[0]).expect("the stream is open");
    let mut request = tonic::Request::new(requests);
    *request.metadata_mut() = metadata;
    let opened = grpc.streaming(request, path, Plain).await;
    let mut stream = match opened {
        Ok(stream) => stream.into_inner(),
        Err(status) => return vec![Answer::Refused(status.code(), status.message().to_string())],
    };
    for (at, id) in ids.iter().enumerate() {
        if at > 0 {
            ask(*id).expect("the stream is open");
        }
        match tokio::time::timeout(Duration::from_secs(5), stream.message()).await {
            Ok(Ok(Some(bytes))) => match pb::LeaseKeepAliveResponse::decode(bytes) {
                Ok(mut reply) => {
                    if let Some(header) = &mut reply.header {
                        normalise::header(header, server);
                    }
                    answers.push(Answer::Told(format!("{reply:?}")));
                }
                Err(error) => answers.push(Answer::Broken(error.to_string())),
            },
            Ok(Ok(None)) => answers.push(Answer::Broken("the stream ended".to_string())),
            Ok(Err(status)) => {
                answers.push(Answer::Refused(status.code(), status.message().to_string()));
                break;
            }
            Err(_) => answers.push(Answer::Broken("no answer".to_string())),
        }
    }
    answers
}

/// Back to an empty store with nothing in force, so that the next sequence starts from the same
/// state on both, and from no other sequence's.
pub fn reset() -> Vec<Op> {
    let all = || Bytes::from_static(b"\0");
    let mut ops = Vec::new();
    for id in [1, 2, 3, -5, 77, i64::MAX] {
        ops.push(Op::Call(Call::LeaseRevoke(pb::LeaseRevokeRequest { id })));
    }
    ops.push(Op::Call(Call::Put(pb::PutRequest { key: all(), ..Default::default() })));
    let delete = pb::DeleteRangeRequest { key: all(), range_end: all(), prev_kv: false };
    ops.push(Op::Call(Call::DeleteRange(delete)));
    let compact = pb::CompactionRequest { revision: crate::symbols::NOW, physical: true };
    ops.push(Op::Call(Call::Compact(compact)));
    ops
}
