//! The JSON gateway, as clients without gRPC use it.

use crate::harness::Cluster;
use crate::web::{Stream, Web, b64};
use serde_json::{Value, json};
use std::time::Duration;

fn start(name: &str, extra: &[&str]) -> (Cluster, Web) {
    let cluster = Cluster::start(name, 1, extra);
    let web = Web::new(&cluster.members[0].client());
    (cluster, web)
}

/// The ids that every header begins with, as text.
fn ids(web: &Web) -> (String, String, String) {
    let status = web.ok("/v3/maintenance/status", "{}");
    let text = |name: &str| status["header"][name].as_str().expect(name).to_string();
    (text("cluster_id"), text("member_id"), text("raft_term"))
}

#[test]
fn bodies_to_the_letter() {
    let (_cluster, web) = start("gateway-kv", &[]);
    let (cluster_id, member_id, term) = ids(&web);
    let header = |revision: u32| {
        format!(
            "\"header\":{{\"cluster_id\":\"{cluster_id}\",\"member_id\":\"{member_id}\",\
             \"revision\":\"{revision}\",\"raft_term\":\"{term}\"}}"
        )
    };
    let ok = |path: &str, body: &str, expected: String| {
        assert_eq!(web.post(path, body), (200, expected), "{path} {body}");
    };
    ok("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#, format!("{{{}}}", header(2)));
    let kv = "{\"key\":\"Zm9v\",\"create_revision\":\"2\",\"mod_revision\":\"2\",\
              \"version\":\"1\",\"value\":\"YmFy\"}";
    let found = format!("{{{},\"kvs\":[{kv}],\"count\":\"1\"}}", header(2));
    ok("/v3/kv/range", r#"{"key":"Zm9v"}"#, found.clone());
    ok("/v3beta/kv/range", r#"{"key":"Zm9v","sortOrder":"NONE","limit":"0"}"#, found);
    ok("/v3/kv/range", r#"{"key":"YmFy"}"#, format!("{{{}}}", header(2)));
    ok(
        "/v3/kv/txn",
        r#"{"compare":[{"key":"Zm9v","target":"CREATE","result":"EQUAL","create_revision":"2"}],
            "success":[{"requestPut":{"key":"Zm9v","value":"YmF6","prev_kv":true}},
                       {"request_range":{"key":"Zm9v","count_only":true}}],
            "failure":[{"request_delete_range":{"key":"Zm9v"}}]}"#,
        format!(
            "{{{},\"succeeded\":true,\"responses\":[{{\"response_put\":{{\"header\":\
             {{\"revision\":\"3\"}},\"prev_kv\":{kv}}}}},{{\"response_range\":{{\"header\":\
             {{\"revision\":\"3\"}},\"count\":\"1\"}}}}]}}",
            header(3)
        ),
    );
    ok(
        "/v3/kv/deleterange",
        r#"{"key":"AA==","range_end":"AA=="}"#,
        format!("{{{},\"deleted\":\"1\"}}", header(4)),
    );
    ok("/v3/kv/compaction", r#"{"revision":"4","physical":true}"#, format!("{{{}}}", header(4)));
    ok("/v3/lease/grant", r#"{"TTL":"100","ID":"7"}"#, {
        format!("{{{},\"ID\":\"7\",\"TTL\":\"100\"}}", header(4))
    });
    ok("/v3/kv/put", r#"{"key":"Zm9v","lease":7}"#, format!("{{{}}}", header(5)));
    let left = web.ok("/v3/kv/lease/timetolive", r#"{"ID":"7","keys":true}"#);
    let ttl: i64 = left["TTL"].as_str().and_then(|ttl| ttl.parse().ok()).expect("a TTL");
    assert!((1..=100).contains(&ttl), "{left}");
    assert_eq!((&left["grantedTTL"], &left["keys"]), (&json!("100"), &json!(["Zm9v"])));
    ok("/v3/lease/leases", "", format!("{{{},\"leases\":[{{\"ID\":\"7\"}}]}}", header(5)));
    ok("/v3/kv/lease/revoke", r#"{"ID":7}"#, format!("{{{}}}", header(6)));

    for (path, body, status, expected) in [
        ("/v3/kv/put", "{}", 400, r#"{"code":3,"message":"etcdserver: key is not provided"}"#),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v","revision":"1"}"#,
            400,
            r#"{"code":11,"message":"etcdserver: mvcc: required revision has been compacted"}"#,
        ),
        (
            "/v3/lease/revoke",
            r#"{"ID":"9"}"#,
            404,
            r#"{"code":5,"message":"etcdserver: requested lease not found"}"#,
        ),
        ("/v3/lease/grant", r#"{"TTL":"-1","ID":"0"}"#, 200, ""),
        (
            "/v3/auth/authenticate",
            r#"{"name":"a","password":"b"}"#,
            400,
            r#"{"code":9,"message":"etcdserver: authentication is not enabled"}"#,
        ),
        ("/v3/kv/nothing", "{}", 404, r#"{"code":5,"message":"Not Found"}"#),
        ("/v3/", "{}", 404, r#"{"code":5,"message":"Not Found"}"#),
    ] {
        let (found, text) = web.post(path, body);
        assert_eq!(found, status, "{path}: {text}");
        assert!(expected.is_empty() || text == expected, "{path}: {text}");
    }
    let (status, _) = web.post("/v3/kv/put", r#"{"key":1}"#);
    assert_eq!(status, 400);
    for body in ["{", "[]", "nonsense", r#"{"key":"Zm9v"#] {
        for path in ["/v3/kv/put", "/v3/watch", "/v3/lease/keepalive", "/v3/election/observe"] {
            let answer = web.ask("POST", path, body);
            assert_eq!((answer.status, answer.json()["code"].as_i64()), (400, Some(3)), "{path}");
        }
    }
    let answer = web.ask("GET", "/v3/kv/range", "");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (501, r#"{"code":12,"message":"Method Not Allowed"}"#)
    );
    assert_eq!(answer.header("content-type"), Some("application/json"));
    // As a browser asks whether its page may.
    let answer = web.ask("OPTIONS", "/v3/kv/range", "");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
    // The largest message is bounded however it is spelled.
    for path in ["/v3/kv/put", "/v3/watch"] {
        let large = json!({ "key": "A".repeat(6 << 20) }).to_string();
        let answer = web.ask("POST", path, &large);
        assert_eq!((answer.status, answer.json()["code"].as_i64()), (429, Some(8)), "{path}");
    }
    let large = json!({ "key": b64("k"), "value": "A".repeat(3 << 20) }).to_string();
    let answer = web.ask("POST", "/v3/kv/put", &large);
    assert_eq!(
        (answer.status, answer.json()["message"].as_str()),
        (429, Some("grpc: received message larger than max (2359304 vs. 2097152)"))
    );
}

/// Every path of the table, with what an empty message gets from it on an empty member.
#[test]
fn every_path_leads_somewhere() {
    let (_cluster, web) = start("gateway-paths", &[]);
    // What others would wait for a holder or a leader to give up.
    let body = |path: &str| match path {
        "election/campaign" => r#"{"name":"ZQ==","lease":"12345"}"#,
        "election/leader" => r#"{"name":"ZQ=="}"#,
        _ => "{}",
    };
    for (path, status) in [
        ("kv/range", 400),
        ("kv/put", 400),
        ("kv/deleterange", 400),
        ("kv/txn", 200),
        ("kv/compaction", 200),
        ("lease/grant", 200),
        ("lease/revoke", 404),
        ("kv/lease/revoke", 404),
        ("lease/keepalive", 200),
        ("lease/timetolive", 200),
        ("kv/lease/timetolive", 200),
        ("lease/leases", 200),
        ("kv/lease/leases", 200),
        ("cluster/member/add", 400),
        ("cluster/member/remove", 404),
        ("cluster/member/update", 404),
        ("cluster/member/list", 200),
        ("cluster/member/promote", 404),
        ("maintenance/alarm", 200),
        ("maintenance/status", 200),
        ("maintenance/defragment", 200),
        ("maintenance/hash", 200),
        ("maintenance/hashkv", 200),
        ("maintenance/transfer-leadership", 400),
        ("auth/enable", 400),
        ("auth/disable", 200),
        ("auth/status", 200),
        ("auth/authenticate", 400),
        ("auth/user/add", 400),
        ("auth/user/get", 400),
        ("auth/user/list", 200),
        ("auth/user/delete", 400),
        ("auth/user/changepw", 400),
        ("auth/user/grant", 400),
        ("auth/user/revoke", 400),
        ("auth/role/add", 400),
        ("auth/role/get", 400),
        ("auth/role/list", 200),
        ("auth/role/delete", 400),
        ("auth/role/grant", 400),
        ("auth/role/revoke", 400),
        ("lock/lock", 200),
        ("lock/unlock", 500),
        ("election/campaign", 500),
        ("election/proclaim", 500),
        ("election/leader", 500),
        ("election/resign", 500),
    ] {
        let answer = web.ask("POST", &format!("/v3/{path}"), body(path));
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        if status == 200 && !matches!(path, "lease/keepalive" | "maintenance/defragment") {
            assert!(answer.json()["header"]["member_id"].is_string(), "{path}: {}", answer.body);
        } else if status != 200 {
            let json = answer.json();
            assert!(json["code"].is_i64() && json["message"] != "Not Found", "{path}: {json}");
        }
    }
    // A stream of bytes, once there is one.
    let (status, text) = web.post("/v3/maintenance/snapshot", "{}");
    assert!(status == 200 || status == 501 && text.starts_with("{\"error\":"), "{text}");
    let (status, text) = web.post("/v3/maintenance/downgrade", "{}");
    assert!(status == 400 || status == 501, "{text}");
}

fn result(stream: &mut Stream) -> Value {
    let line = stream.line().expect("a line");
    assert!(line["result"].is_object(), "{line}");
    line["result"].clone()
}

#[test]
fn watches_are_told_line_by_line() {
    let (_cluster, web) = start("gateway-watch", &[]);
    for value in ["one", "two"] {
        web.ok("/v3/kv/put", &json!({ "key": b64("a"), "value": b64(value) }).to_string());
    }
    // Several requests on one connection, the second watch from the past.
    let body = [
        json!({ "create_request": { "key": b64("a"), "prev_kv": true } }).to_string(),
        json!({ "create_request": { "key": b64("a"), "start_revision": "2" } }).to_string(),
    ];
    let mut stream = web.open("POST", "/v3/watch", &body.join("\n"));
    assert_eq!(stream.status, 200);
    let first = result(&mut stream);
    assert_eq!(first["created"], true);
    assert_eq!(first["header"]["revision"], "3");
    assert!(first.get("watch_id").is_none() && first.get("events").is_none());
    let second = result(&mut stream);
    assert_eq!((&second["watch_id"], &second["created"]), (&json!("1"), &json!(true)));
    let past = result(&mut stream);
    assert_eq!(past["watch_id"], "1");
    let values: Vec<_> = past["events"].as_array().expect("events").iter().collect();
    // A put is the zero of its enum, and left out.
    assert_eq!(
        *values[0],
        json!({ "kv": { "key": "YQ==", "create_revision": "2", "mod_revision": "2",
                        "version": "1", "value": b64("one") } })
    );
    assert_eq!(values.len(), 2);
    web.ok("/v3/kv/deleterange", r#"{"key":"YQ=="}"#);
    let mut told = [result(&mut stream), result(&mut stream)];
    told.sort_by_key(|line| line.get("watch_id").is_some());
    assert_eq!(
        told[0]["events"],
        json!([{ "type": "DELETE", "kv": { "key": "YQ==", "mod_revision": "4" },
                 "prev_kv": { "key": "YQ==", "create_revision": "2", "mod_revision": "3",
                              "version": "2", "value": b64("two") } }])
    );
    assert_eq!(
        told[1]["events"],
        json!([{ "type": "DELETE", "kv": { "key": "YQ==", "mod_revision": "4" } }])
    );
    let watchers = |expected: &str| {
        let line = format!("etcd_debugging_mvcc_watcher_total {expected}\n");
        for _ in 0..500 {
            if web.get("/metrics").1.contains(&line) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("never {expected} watchers");
    };
    watchers("2");
    // Who goes away watches no more.
    drop(stream);
    watchers("0");

    // Created and canceled, in one body; then the compacted past.
    let body = r#"{"create_request":{"key":"YQ=="}}{"cancel_request":{"watch_id":0}}"#;
    let mut stream = web.open("POST", "/v3/watch", body);
    assert_eq!(result(&mut stream)["created"], true);
    assert_eq!(result(&mut stream)["canceled"], true);
    web.ok("/v3/kv/compaction", r#"{"revision":"4"}"#);
    let body = r#"{"create_request":{"key":"YQ==","start_revision":"1"}}"#;
    let mut stream = web.open("POST", "/v3/watch", body);
    assert_eq!(result(&mut stream)["created"], true);
    let canceled = result(&mut stream);
    assert_eq!((&canceled["canceled"], &canceled["compact_revision"]), (&json!(true), &json!("4")));
}

#[test]
fn leases_locks_and_elections() {
    let (_cluster, web) = start("gateway-leases", &[]);
    let grant = || web.ok("/v3/lease/grant", r#"{"TTL":60}"#)["ID"].clone();
    let lease = grant();
    // One line for each request, and the answer's end with the requests'.
    let body = format!("{{\"ID\":{lease}}}\n{{\"ID\":\"1\"}}\n");
    let mut stream = web.open("POST", "/v3/lease/keepalive", &body);
    let kept = result(&mut stream);
    assert_eq!((&kept["ID"], &kept["TTL"]), (&lease, &json!("60")));
    let unknown = result(&mut stream);
    assert_eq!((&unknown["ID"], unknown.get("TTL")), (&json!("1"), None));
    assert_eq!(stream.line(), None);

    let ask = json!({ "name": b64("l"), "lease": lease }).to_string();
    let key = web.ok("/v3/lock/lock", &ask)["key"].clone();
    web.ok("/v3/lock/unlock", &json!({ "key": key }).to_string());

    let ask = json!({ "name": b64("e"), "lease": lease, "value": b64("me") }).to_string();
    let leader = web.ok("/v3/election/campaign", &ask)["leader"].clone();
    assert_eq!((&leader["name"], &leader["lease"]), (&json!(b64("e")), &lease));
    let mut observed =
        web.open("POST", "/v3/election/observe", &json!({ "name": b64("e") }).to_string());
    assert_eq!(result(&mut observed)["kv"]["value"], b64("me"));
    let ask = json!({ "leader": leader, "value": b64("still me") }).to_string();
    web.ok("/v3/election/proclaim", &ask);
    assert_eq!(result(&mut observed)["kv"]["value"], b64("still me"));
    let found = web.ok("/v3/election/leader", &json!({ "name": b64("e") }).to_string());
    assert_eq!(found["kv"]["value"], b64("still me"));
    web.ok("/v3/election/resign", &json!({ "leader": leader }).to_string());
    let (status, text) = web.post("/v3/election/leader", &json!({ "name": b64("e") }).to_string());
    assert_eq!((status, text.as_str()), (500, r#"{"code":2,"message":"election: no leader"}"#));
}

#[test]
fn users_by_their_tokens() {
    let (_cluster, web) = start("gateway-auth", &["--bcrypt-cost", "4"]);
    let ok = |web: &Web, path: &str, body: Value| web.ok(path, &body.to_string());
    for (name, password) in [("root", "r"), ("bob", "b")] {
        ok(&web, "/v3/auth/user/add", json!({ "name": name, "password": password }));
    }
    ok(&web, "/v3/auth/role/add", json!({ "name": "root" }));
    ok(&web, "/v3/auth/user/grant", json!({ "user": "root", "role": "root" }));
    ok(&web, "/v3/auth/role/add", json!({ "name": "reader" }));
    ok(&web, "/v3/auth/user/grant", json!({ "user": "bob", "role": "reader" }));
    let perm = json!({ "permType": "READ", "key": b64("a"), "range_end": b64("b") });
    ok(&web, "/v3/auth/role/grant", json!({ "name": "reader", "perm": perm }));
    ok(&web, "/v3/kv/put", json!({ "key": b64("a"), "value": b64("1") }));
    ok(&web, "/v3/auth/enable", json!({}));

    let range = json!({ "key": b64("a") }).to_string();
    let (status, text) = web.post("/v3/kv/range", &range);
    assert_eq!(
        (status, text.as_str()),
        (400, r#"{"code":3,"message":"etcdserver: user name is empty"}"#)
    );
    let answer = web.with("Authorization", "nonsense.1").ask("POST", "/v3/kv/range", &range);
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (401, r#"{"code":16,"message":"etcdserver: invalid auth token"}"#)
    );
    assert_eq!(answer.header("www-authenticate"), Some("etcdserver: invalid auth token"));
    let (status, _) = web.post("/v3/auth/authenticate", r#"{"name":"bob","password":"x"}"#);
    assert_eq!(status, 400);
    let token = |name: &str, password: &str| {
        let asked = json!({ "name": name, "password": password });
        let answer = ok(&web, "/v3/auth/authenticate", asked);
        answer["token"].as_str().expect("a token").to_string()
    };
    let bob = token("bob", "b");
    for value in [bob.clone(), format!("Bearer {bob}")] {
        let found = web.with("Authorization", &value).ok("/v3/kv/range", &range);
        assert_eq!(found["kvs"][0]["value"], b64("1"));
    }
    let bob = web.with("Grpc-Metadata-Token", &bob);
    let (status, text) = bob.post("/v3/kv/put", &range);
    assert_eq!(
        (status, text.as_str()),
        (403, r#"{"code":7,"message":"etcdserver: permission denied"}"#)
    );
    let mut stream = bob.open("POST", "/v3/watch", r#"{"create_request":{"key":"Yg=="}}"#);
    let refused = result(&mut stream);
    assert_eq!((&refused["created"], &refused["canceled"]), (&json!(true), &json!(true)));
    assert_eq!(
        refused["cancel_reason"],
        "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    );
    let mut stream = bob.open("POST", "/v3/watch", r#"{"create_request":{"key":"YQ=="}}"#);
    assert_eq!(result(&mut stream).get("canceled"), None);
    let root = web.with("Authorization", &token("root", "r"));
    assert_eq!(ok(&root, "/v3/auth/status", json!({}))["enabled"], true);
    ok(&root, "/v3/auth/disable", json!({}));
    ok(&web, "/v3/kv/put", json!({ "key": b64("z") }));
}

#[test]
fn metadata_reaches_the_service() {
    let mut cluster = Cluster::start("gateway-leaderless", 3, &[]);
    let web = Web::new(&cluster.members[0].client());
    web.ok("/v3/kv/put", r#"{"key":"YQ=="}"#);
    let careful = web.with("Grpc-Metadata-Hasleader", "true");
    let serializable = r#"{"key":"YQ==","serializable":true}"#;
    careful.ok("/v3/kv/range", serializable);
    let mut stream = careful.open("POST", "/v3/watch", r#"{"create_request":{"key":"YQ=="}}"#);
    assert_eq!(result(&mut stream)["created"], true);
    for member in &mut cluster.members[1..] {
        member.kill();
    }
    // The stream ends with an error of its own once the leader is missed.
    let last = stream.line().expect("a last line");
    assert_eq!(last, json!({ "error": { "code": 14, "message": "etcdserver: no leader" } }));
    assert_eq!(stream.line(), None);
    let (status, text) = careful.post("/v3/kv/range", serializable);
    assert_eq!((status, text.as_str()), (503, r#"{"code":14,"message":"etcdserver: no leader"}"#));
    web.ok("/v3/kv/range", serializable);
    let (status, text) = careful.post("/v3/watch", r#"{"create_request":{"key":"YQ=="}}"#);
    assert_eq!(
        (status, text.as_str()),
        (503, "{\"error\":{\"code\":14,\"message\":\"etcdserver: no leader\"}}\n")
    );
}
