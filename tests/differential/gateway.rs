//! The JSON gateway: a call as an HTTP POST, its answer as text.
//!
//! The JSON is made from the same messages by their descriptors, so every generated call can go
//! this way too. Answers are compared as text, to the byte, with ids and terms evened out.

use crate::call::{Answer, Call};
use crate::servers::Server;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::LazyLock;
use std::time::Duration;
use tonic::Code;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let embedded: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    DescriptorPool::decode(embedded).expect("descriptors of our own build")
});

/// Where etcd's gateway has what the generator sends this way.
const PATHS: &[(&str, &str)] = &[
    ("/etcdserverpb.KV/Range", "/v3/kv/range"),
    ("/etcdserverpb.KV/Put", "/v3/kv/put"),
    ("/etcdserverpb.KV/DeleteRange", "/v3/kv/deleterange"),
    ("/etcdserverpb.KV/Txn", "/v3/kv/txn"),
    ("/etcdserverpb.KV/Compact", "/v3/kv/compaction"),
    ("/etcdserverpb.Lease/LeaseGrant", "/v3/lease/grant"),
    ("/etcdserverpb.Lease/LeaseRevoke", "/v3/kv/lease/revoke"),
    ("/v3lockpb.Lock/Lock", "/v3/lock/lock"),
    ("/v3lockpb.Lock/Unlock", "/v3/lock/unlock"),
    ("/v3electionpb.Election/Campaign", "/v3/election/campaign"),
    ("/v3electionpb.Election/Leader", "/v3/election/leader"),
];

pub fn has(call: &Call) -> bool {
    PATHS.iter().any(|(path, _)| *path == call.path())
}

pub fn post(server: &Server, call: &Call) -> Answer {
    let (_, path) = PATHS.iter().find(|(path, _)| *path == call.path()).expect("see `has`");
    let json = json_of(call);
    match exchange(&server.address, path, &json) {
        Ok((200, body)) => Answer::Told(even(body, server)),
        Ok((status, body)) => refusal(status, &body),
        Err(text) => Answer::Broken(text),
    }
}

fn json_of(call: &Call) -> String {
    let (service, method) = call.path()[1..].split_once('/').expect("a path of ours");
    let service = POOL.get_service_by_name(service).expect("a service of ours");
    let method = service.methods().find(|m| m.name() == method).expect("a method of ours");
    let input: MessageDescriptor = method.input();
    let message = DynamicMessage::decode(input, call.encode()).expect("a message of ours");
    let mut text = Vec::new();
    let mut json = serde_json::Serializer::new(&mut text);
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);
    message.serialize_with_options(&mut json, &options).expect("a message is JSON");
    String::from_utf8(text).expect("JSON is text")
}

/// Ids and the term evened out; spaces too, which Go's encoder sets or not from build to build
/// (there are none in bytes, numbers and names).
fn even(mut body: String, server: &Server) -> String {
    body.retain(|c| c != ' ');
    let body = body
        .replace(&format!("\"cluster_id\":\"{}\"", server.cluster_id), "\"cluster_id\":\"1\"")
        .replace(&format!("\"member_id\":\"{}\"", server.member_id), "\"member_id\":\"1\"");
    let Some((before, after)) = body.split_once("\"raft_term\":\"") else { return body };
    let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{before}\"raft_term\":\"1{rest}")
}

/// The header's revision, in an answer as text: the header comes first.
pub fn revision(body: &str) -> Option<i64> {
    let (_, after) = body.split_once("\"revision\":\"")?;
    after.split('"').next()?.parse().ok()
}

/// 3.5 says its error twice, 3.6 once: what both say, and the HTTP status.
fn refusal(status: u16, body: &str) -> Answer {
    let said: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let code = said.as_ref().and_then(|said| said["code"].as_i64());
    let text = said.as_ref().and_then(|said| said["message"].as_str());
    match (code, text) {
        (Some(code), Some(text)) => Answer::Refused(
            Code::from_i32(i32::try_from(code).unwrap_or(-1)),
            format!("HTTP {status} {text}"),
        ),
        _ => Answer::Broken(format!("HTTP {status} {body}")),
    }
}

fn exchange(address: &str, path: &str, json: &str) -> Result<(u16, String), String> {
    let mut socket = TcpStream::connect(address).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).map_err(|e| e.to_string())?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{json}",
        json.len()
    );
    socket.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).map_err(|e| e.to_string())?;
    let text = String::from_utf8(answer).map_err(|e| e.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("not HTTP: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| format!("no status: {head:?}"))?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if is_chunked { unchunked(body)? } else { body.to_string() }))
}

fn unchunked(mut rest: &str) -> Result<String, String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").ok_or("a chunk without a size")?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(|e| e.to_string())?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(after.get(..size).ok_or("a chunk cut short")?);
        rest = after.get(size + 2..).ok_or("a chunk without an end")?;
    }
}
