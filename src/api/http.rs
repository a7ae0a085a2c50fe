//! What is asked by plain HTTP: /version, /health, /livez, /readyz and /metrics here, JSON in
//! `gateway`.

use super::checks::{self, Query};
use super::front::Front;
use super::gateway;
use super::metrics::{self, Page};
use crate::types::version::{CLUSTER_VERSION, ETCD_VERSION, STORAGE_VERSION};
use tonic::body::Body;
use tonic::codegen::http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};

const PLAIN: &str = "text/plain; charset=utf-8";

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
    let asked = checks::asked(path);
    let is_known = asked.is_some() || path == "/version" || path == "/health";
    let plain = |(status, text): checks::Verdict| (status, PLAIN, text);
    let (status, kind, text) = match (path, asked) {
        _ if is_known && method != Method::GET => (405, PLAIN, "Method Not Allowed\n".to_string()),
        ("/version", _) => (200, "application/json", version()),
        ("/health", _) => plain(checks::health(node, query, front.checks()).await),
        ("/metrics", _) => {
            let mut page = Page::new();
            metrics::node(&mut page, node);
            metrics::grpc(&mut page, front.shards());
            metrics::checks(&mut page, &front.checks().found());
            metrics::process(&mut page);
            (200, "text/plain; version=0.0.4; charset=utf-8", page.finish())
        }
        (_, Some(asked)) => plain(checks::run(node, asked, query, front.checks()).await),
        (_, None) => (404, PLAIN, "404 page not found\n".to_string()),
    };
    let mut response = Response::new(Body::new(text));
    *response.status_mut() = status.try_into().expect("a status of the table above");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == 405 {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
    }
    if status != 200 || (kind == PLAIN && path != "/health") {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_json() {
        let value: serde_json::Value = serde_json::from_str(&version()).expect("JSON");
        assert_eq!(value["etcdserver"], ETCD_VERSION);
        assert_eq!(value["etcdcluster"], "3.6.0");
    }
}
