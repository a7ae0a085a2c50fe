//! The few messages of etcd's protocol that the load needs, and calls over one channel.
//!
//! By hand and not from `.proto` files: a watcher is to see what came on the wire, message by
//! message, with no library's buffering in between.

use http::uri::PathAndQuery;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

macro_rules! messages {
    ($($name:ident { $($(#[$meta:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $(#[derive(Clone, PartialEq, prost::Message)]
        pub struct $name { $($(#[$meta])* pub $field: $type),* })*
    };
}

messages! {
    Header {
        #[prost(uint64, tag = "2")] member_id: u64,
        #[prost(int64, tag = "3")] revision: i64,
    }
    KeyValue {
        #[prost(bytes = "vec", tag = "1")] key: Vec<u8>,
        #[prost(int64, tag = "3")] mod_revision: i64,
        #[prost(bytes = "vec", tag = "5")] value: Vec<u8>,
    }
    Event {
        #[prost(int32, tag = "1")] kind: i32,
        #[prost(message, optional, tag = "2")] kv: Option<KeyValue>,
    }
    WatchCreate {
        #[prost(bytes = "vec", tag = "1")] key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")] range_end: Vec<u8>,
        #[prost(int64, tag = "3")] start_revision: i64,
        #[prost(int64, tag = "7")] watch_id: i64,
    }
    WatchRequest {
        #[prost(message, optional, tag = "1")] create: Option<WatchCreate>,
    }
    WatchResponse {
        #[prost(message, optional, tag = "1")] header: Option<Header>,
        #[prost(int64, tag = "2")] watch_id: i64,
        #[prost(bool, tag = "3")] created: bool,
        #[prost(bool, tag = "4")] canceled: bool,
        #[prost(string, tag = "6")] cancel_reason: String,
        #[prost(message, repeated, tag = "11")] events: Vec<Event>,
    }
    Put {
        #[prost(bytes = "vec", tag = "1")] key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")] value: Vec<u8>,
        #[prost(int64, tag = "3")] lease: i64,
    }
    Op {
        #[prost(message, optional, tag = "2")] put: Option<Put>,
    }
    Txn {
        #[prost(message, repeated, tag = "2")] success: Vec<Op>,
    }
    // What Txn, Put and others answer, as far as it matters here.
    Written {
        #[prost(message, optional, tag = "1")] header: Option<Header>,
    }
    StatusQuestion {}
    StatusAnswer {
        #[prost(message, optional, tag = "1")] header: Option<Header>,
        #[prost(uint64, tag = "4")] leader: u64,
    }
    Grant {
        #[prost(int64, tag = "1")] ttl: i64,
        #[prost(int64, tag = "2")] id: i64,
    }
    Granted {
        #[prost(int64, tag = "2")] id: i64,
        #[prost(int64, tag = "3")] ttl: i64,
    }
    KeepAlive {
        #[prost(int64, tag = "1")] id: i64,
    }
    KeptAlive {
        #[prost(int64, tag = "2")] id: i64,
        #[prost(int64, tag = "3")] ttl: i64,
    }
    LeasesQuestion {}
    LeaseId {
        #[prost(int64, tag = "1")] id: i64,
    }
    LeasesAnswer {
        #[prost(message, repeated, tag = "2")] leases: Vec<LeaseId>,
    }
}

pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub const LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";

/// A channel of its own connection, made when it is first needed.
pub fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address of this program's own making")
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(2))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_lazy()
}

pub async fn call<Q, A>(to: &Channel, path: &'static str, question: Q, seconds: u64) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(to.clone()).max_decoding_message_size(64 << 20);
    let asked = async {
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        grpc.unary(Request::new(question), PathAndQuery::from_static(path), codec).await
    };
    match tokio::time::timeout(Duration::from_secs(seconds), asked).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}

pub async fn stream<Q, A>(
    to: &Channel,
    path: &'static str,
    questions: tokio::sync::mpsc::Receiver<Q>,
) -> Result<Streaming<A>, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(to.clone()).max_decoding_message_size(64 << 20);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let request = Request::new(ReceiverStream::new(questions));
    let asked = grpc.streaming(request, PathAndQuery::from_static(path), codec);
    match tokio::time::timeout(Duration::from_secs(5), asked).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no stream")),
    }
}
