//! Without a leader: who is told at once, who waits, and what is answered all the same.

use super::*;
use crate::harness::Cluster;
use tonic::Request;

fn requiring<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
    request
}

#[test]
fn streams_that_require_a_leader_end_and_the_others_wait() {
    const NO_LEADER: &str = "etcdserver: no leader";
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut cluster = Cluster::start("sem-leaderless", 3, &[]);
    let address = format!("http://{}", cluster.members[0].client());
    runtime.block_on(async {
        let channel = Endpoint::from_shared(address).expect("our own address").connect_lazy();
        let mut kv = pb::kv_client::KvClient::new(channel.clone());
        kv.put(put("k", "1")).await.expect("a put");

        let mut watch = pb::watch_client::WatchClient::new(channel.clone());
        let mut lease = pb::lease_client::LeaseClient::new(channel.clone());
        let create = pb::watch_request::RequestUnion::CreateRequest(watches::on("k", "", 0));
        let open = |create: &pb::watch_request::RequestUnion| {
            let (requests, sent) = tokio::sync::mpsc::unbounded_channel();
            let request = pb::WatchRequest { request_union: Some(create.clone()) };
            requests.send(request).expect("we hold the other end");
            (requests, crate::wire::Sent(sent))
        };
        let (_strict_requests, sent) = open(&create);
        let mut strict = watch.watch(requiring(sent)).await.expect("a stream").into_inner();
        let (_patient_requests, sent) = open(&create);
        let mut patient = watch.watch(sent).await.expect("a stream").into_inner();
        for stream in [&mut strict, &mut patient] {
            assert!(stream.message().await.expect("goes on").expect("goes on").created);
        }
        let (keepalives, sent) = tokio::sync::mpsc::unbounded_channel();
        keepalives.send(pb::LeaseKeepAliveRequest { id: 1 }).expect("open");
        let sent = requiring(crate::wire::Sent(sent));
        let mut alive = lease.lease_keep_alive(sent).await.expect("a stream").into_inner();
        assert_eq!(alive.message().await.expect("goes on").expect("goes on").ttl, 0);

        for member in &mut cluster.members[1..] {
            member.kill();
        }
        let limit = Duration::from_secs(30);
        let ended = tokio::time::timeout(limit, strict.message()).await.expect("it ends");
        assert_eq!(text(ended), NO_LEADER);
        let ended = tokio::time::timeout(limit, alive.message()).await.expect("it ends");
        assert_eq!(text(ended), NO_LEADER);
        let waits = tokio::time::timeout(Duration::from_millis(300), patient.message()).await;
        assert!(waits.is_err(), "who requires nothing waits: {waits:?}");

        // New ones, and single requests, are told at once.
        assert_eq!(text(kv.range(requiring(range("k", ""))).await), NO_LEADER);
        let (_requests, sent) = open(&create);
        let refused = async { watch.watch(requiring(sent)).await?.into_inner().message().await };
        assert_eq!(text(refused.await), NO_LEADER);
        // What this member knows it tells to whoever asks for no more.
        let local = pb::RangeRequest { serializable: true, ..range("k", "") };
        assert_eq!(kv.range(local).await.expect("a local read").into_inner().count, 1);
        // It comes back by itself, and the watch that waited is told.
        for member in &mut cluster.members[1..] {
            member.start();
        }
        while kv.put(put("k", "2")).await.is_err() {}
        let told = tokio::time::timeout(limit, patient.message()).await.expect("told");
        assert_eq!(watches::changed(&told.expect("goes on").expect("goes on")), ["PUT k"]);
    });
}
