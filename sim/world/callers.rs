//! What a member does with a call before its core hears of it, where users count: who it is that
//! asks, and whether they may at all. That is the API's part, done here with the same checks in the
//! same order, each against the state that the member has applied, and each held against the model's
//! users at that index.

use super::World;
use super::slot::{Held, Step};
use crate::callers::Credential;
use crate::history::{Answer, Call, CallId, Demand};
use crate::member::Live;
use crate::model::{Verdict, Wish};
use crate::safety::{Checked, Violation};
use quorate::auth::Need;
use quorate::mvcc::ReadError;
use quorate::node::{Action, Token};
use quorate::types::auth::{AuthCommand, Caller};
use quorate::types::command::AlarmAction;
use quorate::types::{ApiError, Command, GroupId, LogIndex, StorageError};
use std::rc::Rc;

/// One lease question in so many asks for the lease's keys as well.
const KEYS_ONE_IN: u64 = 2;

/// Who asks, for a member.
enum Who {
    Is(Option<Caller>),
    Refused(ApiError),
    /// The token's entry is not applied here yet.
    NotYet,
}

/// What is demanded before the core hears of a call; reads are looked at when they are served.
fn demanded(call: CallId, what: &Call) -> Demand {
    match what {
        Call::Write(command) => match command {
            Command::Auth(AuthCommand::Authenticate { .. }) => Demand::Nothing,
            Command::Auth(_) | Command::Compact(_) => Demand::Root,
            Command::LeaseGrant { .. } | Command::LeaseRevoke { .. } => Demand::Known,
            Command::Alarm(alarm) if alarm.action == AlarmAction::Get => Demand::Known,
            Command::Alarm(_) => Demand::Root,
            _ => Demand::Nothing,
        },
        Call::KeepAlive(id) => Demand::Lease(*id, Wish::Write),
        Call::LeaseTtl(id) if call.is_multiple_of(KEYS_ONE_IN) => Demand::Lease(*id, Wish::Read),
        Call::LeaseTtl(_) => Demand::Known,
        Call::Range(_) | Call::ReadTxn(_) | Call::Leases => Demand::Nothing,
    }
}

/// What is demanded of a read.
fn of_read(what: &Call) -> Demand {
    match what {
        Call::Range(request) => Demand::Read(request.range.clone()),
        Call::ReadTxn(txn) => Demand::ReadTxn(txn.clone()),
        Call::Leases => Demand::Leases,
        _ => Demand::Nothing,
    }
}

/// On whose behalf a command goes into the log: some are let through before, and go there as the
/// member's own.
fn carried(command: &Command, caller: Option<Caller>) -> Option<Caller> {
    match command {
        Command::LeaseGrant { .. }
        | Command::Alarm(_)
        | Command::Auth(AuthCommand::Authenticate { .. }) => None,
        _ => caller,
    }
}

/// Whether a call with this credential gets to the log, or to a barrier, whoever may do what.
pub(super) fn is_let_in(credential: &Credential, what: &Call) -> bool {
    !matches!(credential, Credential::Token(_))
        && match what {
            Call::Range(_) | Call::ReadTxn(_) => true,
            Call::Write(command) => {
                matches!(command, Command::Put(_) | Command::DeleteRange(_) | Command::Txn(_))
            }
            _ => false,
        }
}

impl Live {
    /// What the product says to a demand, from the state that is applied here: the checks of each
    /// service of the API, which are above the core.
    fn permits(
        &self,
        group: GroupId,
        caller: Option<&Caller>,
        demand: &Demand,
    ) -> Result<Verdict, StorageError> {
        let Some(view) = self.applier.view(group) else { return Ok(Ok(())) };
        let auth = view.auth();
        let keys = |id| Ok(view.lease(id, true)?.map(|info| info.keys).unwrap_or_default());
        let lease = |id, need| match auth.check_known(caller) {
            Ok(()) => auth.check_lease(caller, need, || keys(id)),
            refused => Ok(refused),
        };
        match demand {
            Demand::Nothing => Ok(Ok(())),
            Demand::Known => Ok(auth.check_known(caller)),
            Demand::Root => Ok(auth.check_admin(caller)),
            Demand::Read(range) => Ok(auth.check_range(caller, Need::Read, range)),
            Demand::ReadTxn(txn) => match view.permits_txn(caller, txn) {
                Ok(()) => Ok(Ok(())),
                Err(ReadError::Api(error)) => Ok(Err(error)),
                Err(ReadError::Storage(error)) => Err(error),
            },
            Demand::Lease(id, Wish::Read) => lease(*id, Need::Read),
            Demand::Lease(id, Wish::Write) => lease(*id, Need::Write),
            Demand::Leases => match auth.check_admin(caller) {
                Err(error) if caller.is_none() => Ok(Err(error)),
                Err(_) => {
                    for info in view.leases()? {
                        if let Err(error) = lease(info.id, Need::Read)? {
                            return Ok(Err(error));
                        }
                    }
                    Ok(Ok(()))
                }
                Ok(()) => Ok(Ok(())),
            },
        }
    }
}

impl World {
    fn who(&mut self, m: usize, group: GroupId, by: &Credential) -> Result<Who, Violation> {
        if !self.plan.auth.on {
            return Ok(Who::Is(None));
        }
        let now_ms = self.slots[m].now_ms(self.now_us);
        let live = self.live(m);
        let Some(auth) = live.auth(group).filter(|auth| auth.is_enabled()) else {
            return Ok(Who::Is(None));
        };
        let of_today = |user| Who::Is(Some(Caller { user, auth_revision: auth.revision() }));
        let token = match by {
            Credential::Nobody => return Ok(Who::Is(None)),
            Credential::Certificate(name) => return Ok(of_today(name.clone())),
            Credential::Signed(caller) => return Ok(Who::Is(Some(caller.clone()))),
            Credential::Token(token) => token,
        };
        let (at, user) = live.token_user(group, token, now_ms);
        let index = token.split_once('.').and_then(|(_, index)| index.parse().ok());
        match user {
            Some(user) => {
                self.history.token_stands(group, at, token, &user)?;
                Ok(of_today(user))
            }
            None if index.is_some_and(|index| at < LogIndex(index)) => Ok(Who::NotYet),
            None => Ok(Who::Refused(ApiError::InvalidAuthToken)),
        }
    }

    /// Whom a certificate names, as users are at the member now.
    pub(super) fn caller_of_today(
        &mut self,
        m: usize,
        group: GroupId,
        by: &Credential,
    ) -> Option<Caller> {
        let auth = self.live(m).auth(group).filter(|auth| auth.is_enabled())?;
        match by {
            Credential::Certificate(user) => {
                Some(Caller { user: user.clone(), auth_revision: auth.revision() })
            }
            _ => None,
        }
    }

    /// Takes a call up, for whoever makes it. `waited` for everything before it.
    pub(super) fn admit(
        &mut self,
        m: usize,
        call: CallId,
        group: GroupId,
        what: &Rc<Call>,
        by: Credential,
        waited: bool,
    ) -> Checked {
        let token = Token(call);
        let caller = match self.who(m, group, &by)? {
            Who::Is(caller) => caller,
            Who::NotYet if !waited => {
                let held = Held { group, what: what.clone(), step: Step::Told(by) };
                self.slots[m].reads.insert(call, held);
                return self.act(m, Action::Read { group, token });
            }
            Who::NotYet => return self.refuse(call, ApiError::InvalidAuthToken),
            Who::Refused(error) => return self.refuse(call, error),
        };
        if let Err(error) = self.permits(m, group, caller.as_ref(), &demanded(call, what))? {
            return self.refuse(call, error);
        }
        if self.slots[m].live.is_none() {
            return Ok(());
        }
        match &**what {
            Call::Write(command) => {
                let caller = carried(command, caller);
                self.history.asked_by(call, caller.clone());
                let command = command.clone();
                self.act(
                    m,
                    match caller {
                        None => Action::Propose { group, token, command },
                        Some(caller) => Action::ProposeAs { group, token, caller, command },
                    },
                )
            }
            Call::KeepAlive(lease) => {
                self.act(m, Action::KeepAlive { group, token, lease: *lease })
            }
            Call::LeaseTtl(lease) => self.act(m, Action::LeaseTtl { group, token, lease: *lease }),
            read if read.is_serializable() => self.read_now(m, call, group, what, caller),
            _ => {
                let held = Held { group, what: what.clone(), step: Step::Read(caller) };
                self.slots[m].reads.insert(call, held);
                self.act(m, Action::Read { group, token })
            }
        }
    }

    /// What the member says to a demand, as the users say that it has applied.
    pub(super) fn permits(
        &mut self,
        m: usize,
        group: GroupId,
        caller: Option<&Caller>,
        demand: &Demand,
    ) -> Result<Verdict, Violation> {
        // Without the group there are no users either: whatever is asked next says that it is gone.
        if !self.plan.auth.on || !self.live(m).has_state(group) {
            return Ok(Ok(()));
        }
        let live = self.live(m);
        let applied = live.applied(group);
        let counts = live.auth(group).is_some_and(|auth| auth.is_enabled());
        let verdict = match live.permits(group, caller, demand) {
            Ok(verdict) => verdict,
            Err(error) => {
                self.storage_error(m, "keys of a lease", &error)?;
                return Ok(Err(ApiError::Stopped));
            }
        };
        self.history.permitted(group, applied, caller, demand, &verdict)?;
        if counts && !matches!(demand, Demand::Nothing) {
            self.checked.permitted += u64::from(verdict.is_ok());
            self.checked.denied += u64::from(verdict.is_err());
        }
        Ok(verdict)
    }

    /// Nothing of the call gets any further, now or later.
    fn refuse(&mut self, call: CallId, error: ApiError) -> Checked {
        self.answer(call, Answer::Failed { error, never: true });
        Ok(())
    }

    /// Reads the member's own newest state, for somebody.
    pub(super) fn read_now(
        &mut self,
        m: usize,
        call: CallId,
        group: GroupId,
        what: &Call,
        caller: Option<Caller>,
    ) -> Checked {
        let applied = self.live(m).applied(group);
        // Destroyed by the applier, of which the core has not heard yet: the read says so.
        if self.live(m).has_state(group) {
            self.history.read_from(call, applied)?;
        }
        if let Err(error) = self.permits(m, group, caller.as_ref(), &of_read(what))? {
            self.answer(call, Answer::Failed { error, never: false });
            return Ok(());
        }
        match self.live(m).read(group, what) {
            Ok(answer) => {
                self.history.shown(group, applied, caller.as_ref(), &answer)?;
                self.leases_as_committed(m, group, &answer)?;
                self.answer(call, answer);
            }
            Err(error) => return self.storage_error(m, "read", &error),
        }
        Ok(())
    }
}
