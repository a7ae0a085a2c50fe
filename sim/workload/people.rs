//! Clients that are somebody, in seeds where users count.
//!
//! Client 0 is the operator: a root by certificate, which makes users and roles in each group,
//! enables them, goes back to the first step when somebody has undone one, and may disable them
//! for a while. Programs, keepers of leases and calls after the disturbances that have to get
//! through are root's as well. The others have a name and either a token that members remember, a
//! signed one, or a certificate; who is told that its token is unknown, or older than the users of
//! today, asks for a new one, as a client of etcd's does.

use super::programs::PROGRAM_LEASES;
use super::{Client, LATE_CALLS, LEASES_EACH, LEASES_MAX};
use crate::callers::{Credential, ROLES, USERS, permission};
use crate::history::{Answer, Call, LeaseRow};
use crate::plan::Plan;
use bytes::Bytes;
use quorate::types::auth::{AuthCommand, Caller, ROOT};
use quorate::types::prng::Prng;
use quorate::types::reply::Reply;
use quorate::types::{ApiError, Command, GroupId, KeyRange};

/// How somebody says who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Token,
    Signed,
    Certificate,
}

/// One client's name and how it proves it.
#[derive(Clone, Debug)]
pub(super) struct Person {
    user: &'static str,
    proof: Proof,
}

/// What a client has to show in one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Papers {
    credential: Credential,
    /// Another one, of before.
    older: Credential,
    /// It was told that it needs one.
    wanted: bool,
    /// How far the operator is.
    step: usize,
    /// Users have ceased to count, and will again.
    paused: bool,
}

impl Person {
    fn new(plan: &Plan, id: u64) -> Person {
        let mut rng = plan.stream(&format!("person-{id}"));
        let user = match rng.below(4) {
            0 => ROOT,
            n => USERS[(n as usize - 1) % 2],
        };
        let proof =
            [Proof::Token, Proof::Token, Proof::Signed, Proof::Certificate][rng.below(4) as usize];
        if id == 0 {
            Person { user: ROOT, proof: Proof::Certificate }
        } else {
            Person { user, proof }
        }
    }
}

/// A range that a role is given: of some keys, not of all.
fn some_range(rng: &mut Prng, plan: &Plan) -> KeyRange {
    let hot = |rng: &mut Prng| plan.key(true, rng.below(plan.hot_keys));
    if plan.auth.edges && rng.chance(1, 3) {
        let key = hot(rng);
        return edge(rng, key);
    }
    match rng.below(6) {
        0 => KeyRange::single(hot(rng)),
        1 => KeyRange::new("hot/", "hot0"),
        2 => KeyRange::new("cold/", "cold0"),
        3 => KeyRange::new(hot(rng), vec![0]),
        4 => KeyRange::new(plan.key(false, rng.below(plan.cold_keys)), "hot/zz"),
        _ => KeyRange::new(vec![0], vec![0]),
    }
}

/// A key alone in other words, or with what comes right behind it, or only that.
pub(super) fn edge(rng: &mut Prng, key: Bytes) -> KeyRange {
    let behind = |byte: u8| [&key[..], &[byte]].concat();
    match rng.below(4) {
        0 => KeyRange::single(key),
        1 => KeyRange::new(key.clone(), behind(0)),
        2 => KeyRange::new(key.clone(), behind(b'!')),
        _ => KeyRange::new(behind(0), "hot0"),
    }
}

/// What the operator does in a group, in order; the last step lets users count.
fn setup(plan: &Plan, group: GroupId) -> Vec<AuthCommand> {
    let mut rng = plan.stream(&format!("auth-setup-{group}"));
    let name = |name: &str| name.to_owned();
    let add = |user: &str| AuthCommand::UserAdd {
        user: name(user),
        password_hash: Some(Bytes::from(format!("{user}'s"))),
    };
    let grant_role =
        |user: &str, role: &str| AuthCommand::UserGrantRole { user: name(user), role: name(role) };
    let mut steps = vec![add(ROOT), grant_role(ROOT, ROOT)];
    for (user, role) in USERS.iter().zip(ROLES) {
        let range = some_range(&mut rng, plan);
        let permission = permission(&mut rng, range);
        steps.extend([
            add(user),
            AuthCommand::RoleAdd { role: name(role) },
            AuthCommand::RoleGrantPermission { role: name(role), permission },
            grant_role(user, role),
        ]);
    }
    steps.push(AuthCommand::Enable);
    steps
}

impl Client {
    pub(super) fn take_name(&mut self, plan: &Plan) {
        if plan.auth.on {
            self.person = Some(Person::new(plan, self.id));
        }
    }

    /// What comes before whatever the client was going to do: the operator's next step, or asking
    /// for a token.
    pub(super) fn people_call(&mut self, plan: &Plan, group: GroupId) -> Option<Call> {
        let person = self.person.clone()?;
        let papers = self.papers.entry(group).or_default();
        let call = |command| Some(Call::Write(Command::Auth(command)));
        if self.id == 0 && self.nth < LATE_CALLS {
            let steps = setup(plan, group);
            let hurry = if papers.paused { (1, 6) } else { (2, 3) };
            if papers.step < steps.len() && self.rng.chance(hurry.0, hurry.1) {
                return call(steps[papers.step].clone());
            }
            // They may have been disabled by a call that was never answered.
            if self.rng.chance(1, 20) {
                return call(AuthCommand::Enable);
            }
        }
        if papers.wanted && person.proof != Proof::Certificate && self.rng.chance(3, 4) {
            let token_prefix = match person.proof {
                Proof::Token => format!("t{}-{}", self.id, self.nth),
                _ => String::new(),
            };
            return call(AuthCommand::Authenticate { user: person.user.to_owned(), token_prefix });
        }
        None
    }

    /// In whose name a call is made.
    pub fn credential(&mut self, plan: &Plan, group: GroupId, call: &Call) -> Credential {
        let Some(person) = self.person.clone() else { return Credential::Nobody };
        let program = self.running.as_ref().is_some_and(|r| r.asked.as_ref() == Some(call));
        if self.id == 0 || self.keeper.is_some() || program {
            return Credential::root();
        }
        let papers = self.papers.entry(group).or_default();
        let strange = plan.auth.strangers && self.rng.chance(1, 12);
        match (person.proof, &papers.credential) {
            (_, Credential::Signed(caller)) if strange => {
                let mut caller = caller.clone();
                caller.auth_revision -= self.rng.below(caller.auth_revision);
                Credential::Signed(caller)
            }
            (Proof::Token, _) if strange => papers.older.clone(),
            (Proof::Certificate, _) if strange => Credential::Certificate("nobody".to_owned()),
            (Proof::Certificate, _) => Credential::Certificate(person.user.to_owned()),
            (_, credential) => credential.clone(),
        }
    }

    /// What follows from an answer for the client's papers, and the operator's plan.
    pub fn people_answered(&mut self, plan: &Plan, group: GroupId, call: &Call, answer: &Answer) {
        let Some(person) = self.person.clone() else { return };
        if let (Answer::Leases { leases, .. }, true) = (answer, plan.auth.edges) {
            self.learn_leases(plan, group, leases);
        }
        let papers = self.papers.entry(group).or_default();
        let command = match call {
            Call::Write(Command::Auth(command)) => Some(command),
            _ => None,
        };
        match (command, answer) {
            (
                Some(AuthCommand::Authenticate { user, .. }),
                Answer::Wrote { reply: Ok(Reply::Authenticated { token, auth_revision }), .. },
            ) if user == person.user => {
                let signed = Caller { user: user.clone(), auth_revision: *auth_revision };
                let new = match person.proof {
                    Proof::Token if !token.is_empty() => Credential::Token(token.clone()),
                    Proof::Signed => Credential::Signed(signed),
                    _ => return,
                };
                papers.older = std::mem::replace(&mut papers.credential, new);
                papers.wanted = false;
            }
            (Some(AuthCommand::Authenticate { .. }), Answer::Failed { error, .. }) => {
                if matches!(error, ApiError::AuthNotEnabled | ApiError::AuthFailed) {
                    papers.wanted = false;
                }
            }
            (_, Answer::Failed { error, .. }) => {
                papers.wanted |= matches!(
                    error,
                    ApiError::UserEmpty | ApiError::InvalidAuthToken | ApiError::AuthOldRevision
                );
            }
            _ => {}
        }
        if let (0, Some(command)) = (self.id, command) {
            papers.operated(&setup(plan, group), command, answer);
        }
    }

    /// Leases of others are there to be used and ended, but for those of programs and keepers.
    fn learn_leases(&mut self, plan: &Plan, group: GroupId, leases: &[LeaseRow]) {
        let known = &mut self.memory.entry(group).or_default().leases;
        let free =
            |id: u64| id % LEASES_EACH < PROGRAM_LEASES && id / LEASES_EACH < plan.clients as u64;
        for (id, ..) in leases.iter().rev().filter(|lease| free(lease.0.0 as u64)).take(3) {
            if !known.contains(id) {
                known.push(*id);
            }
        }
        known.drain(..known.len().saturating_sub(LEASES_MAX));
    }

    /// A change of users and roles, where they count. Only the operator lets them count no more:
    /// whoever else may is root, and does not. After the disturbances nobody changes anything, so
    /// that calls that must get through do.
    pub(super) fn change_people(&mut self, plan: &Plan) -> AuthCommand {
        let name = |name: &str| name.to_owned();
        let user = match self.rng.below(9) {
            0 => name(ROOT),
            1 => name(""),
            n => name(USERS[n as usize % 3]),
        };
        let role = match self.rng.below(9) {
            0 => name(ROOT),
            n => name(ROLES[n as usize % 2]),
        };
        let hash = Bytes::from(format!("hash-{}-{}", self.id, self.nth));
        let root = self.person.as_ref().is_some_and(|person| person.user == ROOT);
        let range = some_range(&mut self.rng, plan);
        let kind = self.rng.below(16);
        if self.nth >= LATE_CALLS || kind == 0 {
            return AuthCommand::Authenticate { user, token_prefix: format!("x{}", self.nth) };
        }
        match kind {
            1 => AuthCommand::Enable,
            2 | 3 if self.id == 0 && plan.auth.toggles || kind == 2 && !root => {
                AuthCommand::Disable
            }
            2..=4 => {
                let password_hash = self.rng.chance(3, 4).then_some(hash);
                AuthCommand::UserAdd { user, password_hash }
            }
            5 => AuthCommand::UserDelete { user },
            6 => AuthCommand::UserChangePassword { user, password_hash: hash },
            7 | 8 => AuthCommand::UserGrantRole { user, role },
            9 => AuthCommand::UserRevokeRole { user, role },
            10 => AuthCommand::RoleAdd { role },
            11 => AuthCommand::RoleDelete { role },
            12..=14 => {
                let permission = permission(&mut self.rng, range);
                AuthCommand::RoleGrantPermission { role, permission }
            }
            _ => AuthCommand::RoleRevokePermission { role, range },
        }
    }
}

impl Papers {
    fn operated(&mut self, steps: &[AuthCommand], command: &AuthCommand, answer: &Answer) {
        let error = match answer {
            Answer::Wrote { reply: Ok(_), .. } => None,
            Answer::Failed { error, .. } => Some(error),
            _ => return,
        };
        if *command == AuthCommand::Disable && error.is_none() {
            (self.step, self.paused) = (steps.len() - 1, true);
        } else if steps.get(self.step) == Some(command) {
            match error {
                None | Some(ApiError::UserExists | ApiError::RoleExists) => self.step += 1,
                // Somebody has undone what was done.
                Some(
                    ApiError::RootUserNotExist
                    | ApiError::RootRoleNotExist
                    | ApiError::UserNotFound
                    | ApiError::RoleNotFound,
                ) => self.step = 0,
                Some(_) => {}
            }
            self.paused &= self.step < steps.len();
        }
    }
}
