//! Watches: ids, where they start, what they are told and in what messages.

use super::*;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tonic::codec::Streaming;

/// A watch stream by hand.
pub struct Watching {
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watching {
    /// A stream with one watch on it, whose creation has been answered.
    pub async fn open(server: &Server, create: pb::WatchCreateRequest) -> Watching {
        let (watching, made) = Watching::start(server, create).await;
        assert!(made.created && !made.canceled, "{made:?}");
        watching
    }
    /// A stream, and the answer to its first creation.
    pub async fn start(
        server: &Server,
        create: pb::WatchCreateRequest,
    ) -> (Watching, pb::WatchResponse) {
        let (requests, sent) = mpsc::unbounded_channel();
        let union = Some(RequestUnion::CreateRequest(create));
        requests.send(pb::WatchRequest { request_union: union }).expect("we hold the other end");
        let mut client = pb::watch_client::WatchClient::new(server.channel.clone())
            .max_decoding_message_size(usize::MAX);
        let sent = crate::wire::Sent(sent);
        let answers = client.watch(sent).await.expect("a stream").into_inner();
        let mut watching = Watching { requests, answers };
        let made = watching.next().await;
        (watching, made)
    }
    fn ask(&self, union: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(union) };
        self.requests.send(request).expect("the stream is open");
    }
    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(create));
        self.next().await
    }
    async fn cancel(&mut self, watch_id: i64) -> pb::WatchResponse {
        self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
        self.next().await
    }
    /// What progress is answered, asked again until there is an answer.
    async fn progress(&mut self) -> pb::WatchResponse {
        loop {
            self.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            let limit = Duration::from_millis(500);
            // etcd leaves it unanswered while a watcher is catching up.
            if let Ok(answer) = tokio::time::timeout(limit, self.next()).await {
                return answer;
            }
        }
    }
    pub async fn next(&mut self) -> pb::WatchResponse {
        self.answers.message().await.expect("the stream goes on").expect("the stream goes on")
    }
    /// Nothing comes for a while.
    async fn is_silent(&mut self) {
        let limit = Duration::from_millis(300);
        if let Ok(told) = tokio::time::timeout(limit, self.next()).await {
            panic!("told {told:?}");
        }
    }
}

/// A watch on a range from a revision on.
pub fn on(key: &str, end: &str, start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.to_string().into(),
        range_end: end.to_string().into(),
        start_revision,
        ..Default::default()
    }
}

/// Each event's kind and key.
pub fn changed(answer: &pb::WatchResponse) -> Vec<String> {
    let event = |event: &mvccpb::Event| {
        let key = &event.kv.as_ref().expect("an event has a pair").key;
        format!("{} {}", event.r#type().as_str_name(), String::from_utf8_lossy(key))
    };
    answer.events.iter().map(event).collect()
}

#[test]
fn ids_are_counted_and_may_be_chosen() {
    with_server("sem-watch-ids", &[], |server| async move {
        let (mut stream, first) = Watching::start(&server, on("a", "", 0)).await;
        assert_eq!((first.watch_id, revision_of(&first.header), first.events.len()), (0, 1, 0));
        let chosen = |watch_id| pb::WatchCreateRequest { watch_id, ..on("a", "", 0) };
        assert_eq!(stream.create(chosen(2)).await.watch_id, 2);
        assert_eq!(stream.create(on("a", "", 0)).await.watch_id, 1);
        assert_eq!(stream.create(on("a", "", 0)).await.watch_id, 3, "2 is taken");
        let twice = stream.create(chosen(2)).await;
        assert!(twice.created && twice.canceled);
        assert_eq!(twice.watch_id, -1);
        assert_eq!(twice.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
        // Each is told on its own; no order holds between them.
        server.set("a", "1").await;
        let mut told = Vec::new();
        for _ in 0..4 {
            let answer = stream.next().await;
            assert_eq!(changed(&answer), ["PUT a"]);
            told.push(answer.watch_id);
        }
        told.sort_unstable();
        assert_eq!(told, [0, 1, 2, 3]);
        let gone = stream.cancel(2).await;
        assert!(gone.canceled && !gone.created && gone.cancel_reason.is_empty());
        // An id that is free again may be chosen; one that nobody has is no word worth.
        assert_eq!(stream.create(chosen(2)).await.watch_id, 2);
        stream.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 77 }));
        stream.requests.send(pb::WatchRequest { request_union: None }).expect("open");
        stream.is_silent().await;
    });
}

#[test]
fn where_a_watch_starts() {
    with_server("sem-watch-starts", &[], |server| async move {
        for value in ["1", "2", "3", "4"] {
            server.set("k", value).await; // 2 to 5
        }
        server.compact(3, true).await.expect("compacted");
        // From the past, the compact revision included.
        let (mut past, made) = Watching::start(&server, on("k", "", 3)).await;
        assert_eq!(revision_of(&made.header), 5);
        let told = past.next().await;
        let revisions: Vec<i64> =
            told.events.iter().map(|e| e.kv.as_ref().expect("a pair").mod_revision).collect();
        assert_eq!(revisions, [3, 4, 5]);
        // From before it: made, then ended without a revision and without a word.
        let (mut compacted, made) = Watching::start(&server, on("k", "", 2)).await;
        assert!(made.created && !made.canceled);
        let gone = compacted.next().await;
        assert_eq!((gone.canceled, gone.compact_revision, gone.watch_id), (true, 3, 0));
        assert_eq!((revision_of(&gone.header), gone.cancel_reason.as_str()), (0, ""));
        // The stream goes on.
        let future = compacted.create(on("k", "", 8)).await;
        assert_eq!((future.created, future.canceled, future.watch_id), (true, false, 1));
        server.set("k", "6").await;
        server.set("k", "7").await;
        server.set("k", "8").await;
        let told = compacted.next().await;
        assert_eq!(told.events[0].kv.as_ref().expect("a pair").mod_revision, 8);
        // Below zero is no revision.
        let below = compacted.create(on("k", "", -1)).await;
        assert_eq!((below.created, below.canceled, below.watch_id), (true, true, -1));
        assert_eq!(below.cancel_reason, COMPACTED);
    });
}

#[test]
fn ranges_filters_and_previous_pairs() {
    with_server("sem-watch-what", &[], |server| async move {
        use pb::watch_create_request::FilterType::{Nodelete, Noput};
        let (mut all, _) = Watching::start(&server, on("", "\0", 0)).await;
        let with = |filter: pb::watch_create_request::FilterType| pb::WatchCreateRequest {
            filters: vec![filter as i32],
            ..on("a", "b", 0)
        };
        let (mut puts, _) = Watching::start(&server, with(Nodelete)).await;
        let (mut deletes, _) = Watching::start(&server, with(Noput)).await;
        let before = pb::WatchCreateRequest { prev_kv: true, ..on("b", "\0", 0) };
        let (mut before, _) = Watching::start(&server, before).await;
        server.grant(3, 600).await.expect("a lease");
        server.put(pb::PutRequest { lease: 3, ..put("a", "1") }).await.expect("a put");
        server.set("c", "1").await;
        server.set("c", "2").await;
        server.delete(delete("a", "z")).await.expect("deleted"); // 5
        let told = all.next().await;
        let kv = told.events[0].kv.clone().expect("a pair");
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (2, 2, 1, 3));
        assert!(told.events[0].prev_kv.is_none(), "nobody asked for it");
        all.next().await;
        all.next().await;
        let last = all.next().await;
        assert_eq!(changed(&last), ["DELETE a", "DELETE c"]);
        let kv = last.events[0].kv.clone().expect("a pair");
        let bare = mvccpb::KeyValue { key: "a".into(), mod_revision: 5, ..Default::default() };
        assert_eq!(kv, bare, "a delete tells a key and a revision");
        assert_eq!(changed(&puts.next().await), ["PUT a"]);
        puts.is_silent().await;
        assert_eq!(changed(&deletes.next().await), ["DELETE a"]);
        let previous = |answer: &pb::WatchResponse| {
            answer.events[0].prev_kv.as_ref().map(|kv| (kv.value.to_vec(), kv.mod_revision))
        };
        assert_eq!(previous(&before.next().await), None, "there was none");
        assert_eq!(previous(&before.next().await), Some((b"1".to_vec(), 3)));
        assert_eq!(previous(&before.next().await), Some((b"2".to_vec(), 4)));
        // Who is created has nothing before, even where the same revision deletes the one before.
        server.set("c", "3").await;
        assert_eq!(previous(&before.next().await), None);
        let anew = [Op::RequestDeleteRange(delete("b", "\0")), Op::RequestPut(put("c", "4"))];
        server.txn(txn(anew)).await.expect("a delete from a key on may stand beside a put");
        let told = before.next().await;
        assert_eq!(changed(&told), ["DELETE c", "PUT c"]);
        assert_eq!(previous(&told), Some((b"3".to_vec(), 6)));
        assert!(told.events[1].prev_kv.is_none(), "{told:?}");
    });
}

#[test]
fn the_past_comes_whole_and_in_order_on_a_second_stream() {
    with_server("sem-watch-resume", &[], |server| async move {
        // A txn's events are never parted; a watch that goes on elsewhere misses nothing.
        for round in 0..50 {
            let puts = (0..4).map(|n| Op::RequestPut(put(&format!("k{n}"), &round.to_string())));
            server.txn(txn(puts)).await.expect("a txn");
        }
        let (mut first, _) = Watching::start(&server, on("k", "l", 2)).await;
        let mut revisions = Vec::new();
        let note = |answer: &pb::WatchResponse, revisions: &mut Vec<i64>| {
            let told: Vec<i64> =
                answer.events.iter().map(|e| e.kv.as_ref().expect("a pair").mod_revision).collect();
            assert!(told.len().is_multiple_of(4) && told.is_sorted(), "{told:?}");
            assert!(revision_of(&answer.header) >= *told.last().expect("never empty"));
            revisions.extend(told.iter().step_by(4));
        };
        note(&first.next().await, &mut revisions);
        drop(first);
        for round in 50..60 {
            let puts = (0..4).map(|n| Op::RequestPut(put(&format!("k{n}"), &round.to_string())));
            server.txn(txn(puts)).await.expect("a txn");
        }
        let next = revisions.last().expect("some") + 1;
        let (mut second, _) = Watching::start(&server, on("k", "l", next)).await;
        while revisions.len() < 60 {
            note(&second.next().await, &mut revisions);
        }
        assert_eq!(revisions, (2..62).collect::<Vec<i64>>());
    });
}

#[test]
fn progress_by_request_is_of_the_whole_stream() {
    with_server("sem-watch-progress", &[], |server| async move {
        server.set("k", "1").await;
        let (mut stream, _) = Watching::start(&server, on("k", "", 0)).await;
        stream.create(on("j", "", 0)).await;
        server.set("elsewhere", "1").await;
        let told = stream.progress().await;
        assert_eq!((told.watch_id, revision_of(&told.header)), (-1, 3));
        assert!(told.events.is_empty() && !told.created && !told.canceled);
        // Never ahead of what has been told.
        server.set("k", "2").await;
        stream.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        assert_eq!(changed(&stream.next().await), ["PUT k"]);
    });
}

#[test]
fn progress_by_interval_is_of_one_watch() {
    let flag = match crate::harness::is_quorate() {
        true => "--watch-progress-notify-interval=300ms",
        // The name of it in 3.5.
        false => "--experimental-watch-progress-notify-interval=300ms",
    };
    with_server("sem-watch-interval", &[flag], |server| async move {
        let notified = pb::WatchCreateRequest { progress_notify: true, ..on("k", "", 0) };
        let (mut stream, _) = Watching::start(&server, notified).await;
        stream.create(on("k", "", 0)).await;
        server.set("elsewhere", "1").await;
        let mut told = stream.next().await;
        while revision_of(&told.header) < 2 {
            told = stream.next().await;
        }
        assert_eq!((told.watch_id, told.events.len()), (0, 0));
        let again = stream.next().await;
        assert_eq!((again.watch_id, revision_of(&again.header)), (0, 2), "only who asked for it");
    });
}

#[test]
fn from_now_on_is_behind_every_write_that_was_answered() {
    with_server("sem-watch-now", &[], |server| async move {
        let (mut stream, _) = Watching::start(&server, on("elsewhere", "", 0)).await;
        for round in 0..200 {
            let written = server.set("k", &round.to_string()).await;
            let made = stream.create(on("k", "", 0)).await;
            assert!(revision_of(&made.header) >= written, "made before {written}: {made:?}");
            // An event of that write would come before the answer.
            let gone = stream.cancel(made.watch_id).await;
            assert!(gone.canceled && gone.events.is_empty(), "{gone:?}");
        }
    });
}
