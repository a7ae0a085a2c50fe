//! How a member without data joins a cluster that runs: it asks the members of
//! `--initial-cluster` who is in it, and finds itself in the answer by its peer URLs.
//!
//! etcd's checks, with etcd's words where operators search for them: every member must be in
//! `--initial-cluster` with the same URLs, and nobody else. Each refusal is one line that says
//! what to do. Nothing is written before all of them have passed.

use super::config::{Config, InitialMember, joined, same_urls};
use crate::io::Io;
use crate::transport::handshake::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use crate::transport::roster::{self, Roster};
use crate::types::url::Url;
use crate::types::{ClusterId, Member, NodeId};
use std::time::Duration;

/// A member that was asked may not have applied the addition yet: looks, and the time between two.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// Which cluster this is, and which of its members the configuration names.
pub async fn place(config: &Config, io: &Io) -> Result<(ClusterId, NodeId), String> {
    let me = config.own_entry().map_err(|error| error.to_string())?;
    let others = config.initial_cluster.iter().filter(|member| member.name != me.name);
    let mut urls: Vec<&Url> = others.flat_map(|member| &member.peer_urls).collect();
    urls.sort();
    let mut failures = Vec::new();
    let mut refusal = None;
    for look in 0..LOOKS {
        if look > 0 {
            io.clock.sleep_until(io.clock.now() + LOOK_AGAIN).await;
        }
        let mut answered = Vec::new();
        for url in urls {
            match roster::ask(io, &url.authority()).await {
                Ok(roster) if roster.members.is_empty() => {
                    failures.push(format!("{url} does not know the members yet"));
                }
                Ok(roster) => match assign(config, me, &roster) {
                    Ok(node) => return Ok((roster.cluster, node)),
                    Err(why) => {
                        refusal = Some(why);
                        answered.push(url);
                    }
                },
                Err(error) => failures.push(format!("{url}: {error}")),
            }
        }
        if answered.is_empty() {
            break;
        }
        urls = answered;
    }
    Err(refusal.unwrap_or_else(|| {
        let failures = if failures.is_empty() {
            "it names no other member".into()
        } else {
            failures.join("; ")
        };
        format!(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information \
             from the given URLs: list members that run in --initial-cluster ({failures})"
        )
    }))
}

/// This member's id in the cluster, if the configuration describes that cluster.
fn assign(config: &Config, me: &InitialMember, roster: &Roster) -> Result<NodeId, String> {
    if !(PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(&roster.protocol_version) {
        return Err(format!(
            "incompatible with current running cluster: its members speak peer protocol {} \
             (version {}), this one {PROTOCOL_VERSION}: install the cluster's version",
            roster.protocol_version, roster.server_version
        ));
    }
    let is = |row: &Member, entry: &InitialMember| same_urls(&urls_of(row), &entry.peer_urls);
    let invalid = |why: String| {
        let rows: Vec<String> = roster.members.iter().map(shown).collect();
        format!(
            "error validating peerURLs {{ClusterID:{} Members:[{}]}}: {why}",
            roster.cluster,
            rows.join(" ")
        )
    };
    let own = roster.members.iter().find(|row| is(row, me));
    if own.is_none()
        && !config
            .initial_cluster
            .iter()
            .any(|entry| entry.name != me.name && !roster.members.iter().any(|row| is(row, entry)))
    {
        // All others are right: the usual mistake.
        let count = match roster.members.len() == config.initial_cluster.len() {
            true => "unmatched member while checking PeerURLs",
            false => "member count is unequal",
        };
        return Err(invalid(format!(
            "{count}: the cluster has no member at {}: run \"etcdctl member add {} --peer-urls={}\" \
             first, or correct the URLs",
            joined(&me.peer_urls),
            me.name,
            joined(&me.peer_urls)
        )));
    }
    if roster.members.len() != config.initial_cluster.len() {
        return Err(invalid(format!(
            "member count is unequal: the cluster has {}, --initial-cluster lists {}: list what \
             \"etcdctl member list\" shows, this member included",
            roster.members.len(),
            config.initial_cluster.len()
        )));
    }
    for row in &roster.members {
        if !config.initial_cluster.iter().any(|entry| is(row, entry)) {
            return Err(invalid(format!(
                "unmatched member while checking PeerURLs: no match found for existing member {}: \
                 list what \"etcdctl member list\" shows",
                shown(row)
            )));
        }
    }
    let learners = roster.members.iter().filter(|row| row.is_learner).count();
    if learners > config.learners_max {
        return Err(format!(
            "membership: too many learner members in cluster: it has {learners}, --max-learners is \
             {}: give every member the same --max-learners",
            config.learners_max
        ));
    }
    let own = own.expect("as many members as entries, and each has its own");
    if !own.name.is_empty() {
        return Err(format!(
            "member {} has already been bootstrapped: another data directory is bound to it; \
             remove the member, add it again, and start it with an empty data directory",
            own.id
        ));
    }
    Ok(own.id)
}

/// What was checked when it was added.
fn urls_of(row: &Member) -> Vec<Url> {
    row.peer_urls.iter().filter_map(|url| Url::parse(url).ok()).collect()
}

fn shown(row: &Member) -> String {
    format!("({}, {})", row.id, row.peer_urls.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags;
    use std::ffi::OsString;

    const CLUSTER: ClusterId = ClusterId(0xc1);

    fn row(id: u64, name: &str, url: &str) -> Member {
        let peer_urls = vec![url.to_string()];
        Member { id: NodeId(id), name: name.to_string(), peer_urls, ..Member::default() }
    }

    /// Two members and one that was added and has not started.
    fn roster() -> Roster {
        Roster {
            protocol_version: PROTOCOL_VERSION,
            server_version: "0".to_string(),
            cluster: CLUSTER,
            members: vec![
                row(1, "a", "http://127.0.0.1:1"),
                row(2, "b", "http://10.0.0.2:2"),
                row(3, "", "http://10.0.0.3:3"),
            ],
        }
    }

    fn assigned(cluster: &str, roster: &Roster) -> Result<NodeId, String> {
        let args = ["--name=c", "--initial-cluster-state=existing", "--initial-cluster", cluster];
        let typed = flags::parse(args.iter().map(OsString::from), []).expect("flags parse");
        let config = Config::new(&typed, &mut Vec::new()).expect("a valid configuration");
        assign(&config, config.own_entry().expect("named"), roster)
    }

    const ALL: &str = "a=http://localhost:1,other=http://10.0.0.2:2,c=http://10.0.0.3:3";

    #[test]
    fn a_member_is_known_by_its_urls() {
        assert_eq!(assigned(ALL, &roster()), Ok(NodeId(3)));
    }

    #[test]
    fn each_mistake_is_told_in_one_line_with_etcds_words() {
        let mut added_not = roster();
        added_not.members.pop();
        let mut taken = roster();
        taken.members[2].name = "c".to_string();
        let mut newer = roster();
        newer.protocol_version = PROTOCOL_VERSION + 1;
        let mut learners = roster();
        learners.members[1].is_learner = true;
        learners.members[2].is_learner = true;
        let short = "a=http://127.0.0.1:1,c=http://10.0.0.3:3";
        let wrong = "a=http://127.0.0.1:1,b=http://10.0.0.2:9,c=http://10.0.0.3:3";
        let moved = "a=http://127.0.0.1:1,b=http://10.0.0.2:2,c=http://10.0.0.3:9";
        for (cluster, roster, parts) in [
            (
                ALL,
                &added_not,
                ["error validating peerURLs", "member count is unequal", "member add c"],
            ),
            (
                short,
                &roster(),
                ["error validating peerURLs", "member count is unequal", "member list"],
            ),
            (wrong, &roster(), ["error validating peerURLs", "unmatched member", "10.0.0.2:2"]),
            (moved, &roster(), ["error validating peerURLs", "unmatched member", "10.0.0.3:9"]),
            (ALL, &taken, ["already been bootstrapped", "member 3", "add it again"]),
            (ALL, &newer, ["incompatible with current running cluster", "protocol", "install"]),
            (ALL, &learners, ["too many learner members", "--max-learners", "it has 2"]),
        ] {
            let error = assigned(cluster, roster).expect_err(parts[1]);
            for part in parts {
                assert!(error.contains(part), "{error:?} lacks {part:?}");
            }
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
