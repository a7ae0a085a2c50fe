//! What is asked by plain HTTP: /version, /health, /livez, /readyz and /metrics here, JSON in
//! `gateway`.

use super::errors::row;
use super::front::Front;
use super::gateway;
use super::metrics::{self, Page};
use crate::node::NodeHandle;
use crate::types::command::{AlarmKind, RangeRequest};
use crate::types::version::{CLUSTER_VERSION, ETCD_VERSION, STORAGE_VERSION};
use crate::types::{ApiError, GroupId, KeyRange, NodeId};
use tonic::body::Body;
use tonic::codegen::http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};

const PLAIN: &str = "text/plain; charset=utf-8";

/// One page: status, content type, text.
type Answer = (u16, &'static str, String);

/// Any origin may ask, as with etcd's default for --cors.
const CORS: [(HeaderName, HeaderValue); 3] = [
    (
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
    ),
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("accept, content-type, authorization"),
    ),
];

pub async fn answer(front: Front, request: Request<Body>) -> Response<Body> {
    let mut response = if request.method() == Method::OPTIONS {
        Response::new(Body::empty())
    } else if gateway::owns(request.uri().path()) {
        gateway::answer(front, request).await
    } else {
        let (head, _) = request.into_parts();
        page(&front, &head.method, &head.uri).await
    };
    response.headers_mut().extend(CORS.map(|(name, value)| (Some(name), value)));
    response
}

async fn page(front: &Front, method: &Method, uri: &Uri) -> Response<Body> {
    let node = front.node();
    let query = Query(uri.query().unwrap_or_default());
    let path = uri.path();
    let checks = checks_of(path);
    let is_known = checks.is_some() || path == "/version" || path == "/health";
    let (status, kind, text) = match (path, checks) {
        _ if is_known && method != Method::GET => (405, PLAIN, "Method Not Allowed\n".to_string()),
        ("/version", _) => (200, "application/json", version()),
        ("/health", _) => health(node, query).await,
        ("/metrics", _) => {
            let mut page = Page::new();
            metrics::node(&mut page, node);
            metrics::grpc(&mut page, front.shards());
            metrics::process(&mut page);
            (200, "text/plain; version=0.0.4; charset=utf-8", page.finish())
        }
        (_, Some(checks)) => run_checks(node, &checks, query).await,
        (_, None) => (404, PLAIN, "404 page not found\n".to_string()),
    };
    let mut response = Response::new(Body::new(text));
    *response.status_mut() = status.try_into().expect("a status of the table above");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == 405 {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
    }
    if kind == PLAIN && path != "/health" || status != 200 {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

fn version() -> String {
    format!(
        "{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{CLUSTER_VERSION}\",\
         \"storage\":\"{STORAGE_VERSION}\"}}"
    )
}

/// `name=value` pairs; names and values here never need escapes.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn values(self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(move |(n, _)| *n == name).map(|(_, value)| value)
    }
    fn has(self, name: &'a str) -> bool {
        self.values(name).next().is_some()
    }
}

/// A read that finds nothing: it tells that reads work.
async fn probe(node: &NodeHandle, serializable: bool) -> Result<(), ApiError> {
    let request = RangeRequest {
        range: KeyRange::single(&b"health"[..]),
        serializable,
        count_only: true,
        ..RangeRequest::default()
    };
    if !serializable {
        node.read_barrier(GroupId::ROOT).await?;
    }
    let view = node.view(GroupId::ROOT).ok_or(ApiError::MemberNotFound)?;
    view.range(&request).map_err(|error| node.read_failed(error))?;
    Ok(())
}

fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}

fn alarms(node: &NodeHandle) -> Vec<(NodeId, AlarmKind)> {
    node.view(GroupId::ROOT).map(|view| view.alarms(None)).unwrap_or_default()
}

async fn health(node: &NodeHandle, query: Query<'_>) -> Answer {
    let serializable = query.values("serializable").any(|value| value == "true");
    let alarm = alarms(node)
        .into_iter()
        .map(|(_, kind)| alarm_name(kind))
        .find(|name| !query.values("exclude").any(|excluded| excluded == *name));
    let reason = if let Some(alarm) = alarm {
        format!("ALARM {alarm}")
    } else if !serializable && !node.has_leader(GroupId::ROOT) {
        "RAFT NO LEADER".to_string()
    } else if let Err(error) = probe(node, serializable).await {
        format!("RANGE ERROR:{}", row(&error).1)
    } else {
        return (200, PLAIN, "{\"health\":\"true\",\"reason\":\"\"}".to_string());
    };
    (503, PLAIN, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"))
}

const READY: &[&str] =
    &["data_corruption", "linearizable_read", "non_learner", "serializable_read"];
const LIVE: &[&str] = &["serializable_read"];

/// The checks behind /livez, /readyz or one of their parts.
fn checks_of(path: &str) -> Option<Vec<&'static str>> {
    let (all, rest) = match path.strip_prefix("/readyz") {
        Some(rest) => (READY, rest),
        None => (LIVE, path.strip_prefix("/livez")?),
    };
    if rest.is_empty() {
        return Some(all.to_vec());
    }
    let one = rest.strip_prefix('/')?;
    all.iter().find(|name| **name == one).map(|name| vec![*name])
}

async fn run_checks(node: &NodeHandle, checks: &[&'static str], query: Query<'_>) -> Answer {
    let mut lines = String::new();
    let mut failed = false;
    for name in checks {
        if query.values("exclude").any(|excluded| excluded == *name) {
            continue;
        }
        match run_check(node, name).await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {why}\n"));
            }
        }
    }
    match (failed, query.has("verbose")) {
        // One line break more than one would expect: etcd's.
        (true, _) => (503, PLAIN, format!("{lines}\n")),
        (false, true) => (200, PLAIN, format!("{lines}ok\n")),
        (false, false) => (200, PLAIN, "ok\n".to_string()),
    }
}

async fn run_check(node: &NodeHandle, name: &str) -> Result<(), String> {
    let read = |outcome: Result<(), ApiError>| outcome.map_err(|error| row(&error).1.to_string());
    match name {
        "data_corruption" => {
            match alarms(node).iter().any(|(_, kind)| *kind == AlarmKind::Corrupt) {
                true => Err("alarm activated: CORRUPT".to_string()),
                false => Ok(()),
            }
        }
        "linearizable_read" => read(probe(node, false).await),
        "serializable_read" => read(probe(node, true).await),
        "non_learner" => match node.is_learner() {
            true => Err("not supported for learner".to_string()),
            false => Ok(()),
        },
        other => unreachable!("{other} is not a check"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_by_path() {
        assert_eq!(checks_of("/livez"), Some(LIVE.to_vec()));
        assert_eq!(checks_of("/readyz"), Some(READY.to_vec()));
        assert_eq!(checks_of("/readyz/non_learner"), Some(vec!["non_learner"]));
        assert_eq!(checks_of("/livez/non_learner"), None);
        assert_eq!(checks_of("/livezz"), None);
        assert_eq!(checks_of("/"), None);
    }

    #[test]
    fn queries() {
        let query = Query("exclude=NOSPACE&verbose&exclude=CORRUPT");
        assert_eq!(query.values("exclude").collect::<Vec<_>>(), ["NOSPACE", "CORRUPT"]);
        assert!(query.has("verbose") && !query.has("serializable"));
    }

    #[test]
    fn version_is_json() {
        let value: serde_json::Value = serde_json::from_str(&version()).expect("JSON");
        assert_eq!(value["etcdserver"], ETCD_VERSION);
        assert_eq!(value["etcdcluster"], "3.6.0");
    }
}
