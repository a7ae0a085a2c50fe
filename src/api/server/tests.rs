use super::*;
use std::io::{Read as _, Write as _};
use std::net::TcpStream as Socket;

/// Says which thread answered, after as long as the path asks for in milliseconds.
#[derive(Clone)]
struct Echo(usize);

impl Answer for Echo {
    type Body = tonic::body::Body;
    type Future = Pin<Box<dyn Future<Output = http::Response<Self::Body>> + Send>>;

    fn answer<B>(&self, request: http::Request<B>) -> Self::Future
    where
        B: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
    {
        let wait: u64 = request.uri().path()[1..].parse().unwrap_or(0);
        let text = format!("thread {}", self.0);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            http::Response::new(tonic::body::Body::new(text))
        })
    }
}

fn start(threads: usize) -> (Server, Arc<[Arc<Counters>]>) {
    let shards = Counters::shards(threads);
    let made = std::cell::Cell::new(0);
    let make = |_: Arc<Counters>| {
        made.set(made.get() + 1);
        Echo(made.get() - 1)
    };
    let server =
        Server::start(&["127.0.0.1:0".to_string()], &shards, make).expect("a free port to listen");
    (server, shards)
}

fn ask(socket: &mut Socket, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("the server reads");
    let mut text = String::new();
    let mut chunk = [0; 1024];
    while !text.contains("thread") {
        let read = socket.read(&mut chunk).expect("the server answers");
        if read == 0 {
            break;
        }
        text.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    text.lines().last().unwrap_or_default().to_string()
}

#[test]
fn connections_are_spread_and_stay_on_their_thread() {
    let (server, shards) = start(2);
    let mut sockets: Vec<Socket> = (0..4)
        .map(|_| {
            let mut socket = Socket::connect(server.addresses()[0]).expect("it listens");
            // Once it is answered it has been handed over, so the next one sees it counted.
            ask(&mut socket, "/0");
            socket
        })
        .collect();
    let mut threads: Vec<String> = sockets.iter_mut().map(|s| ask(s, "/0")).collect();
    let again: Vec<String> = sockets.iter_mut().map(|s| ask(s, "/0")).collect();
    assert_eq!(threads, again);
    threads.sort();
    assert_eq!(threads, ["thread 0", "thread 0", "thread 1", "thread 1"]);
    for shard in shards.iter() {
        assert!(shard.bytes_received.load(Ordering::Relaxed) > 0);
        assert!(shard.bytes_sent.load(Ordering::Relaxed) > 0);
    }
}

#[test]
fn a_stop_lets_requests_finish_but_not_for_ever() {
    let (server, shards) = start(2);
    let address = server.addresses()[0];
    let mut quick = Socket::connect(address).expect("it listens");
    let mut slow = Socket::connect(address).expect("it listens");
    let [soon, late] = ["/100", "/60000"].map(|p| format!("GET {p} HTTP/1.1\r\nHost: x\r\n\r\n"));
    quick.write_all(soon.as_bytes()).expect("it reads");
    slow.write_all(late.as_bytes()).expect("it reads");
    // Both requests have been read, so both are under way.
    let read = || shards.iter().map(|s| s.bytes_received.load(Ordering::Relaxed)).sum::<u64>();
    while read() < (soon.len() + late.len()) as u64 {
        std::thread::yield_now();
    }
    let begun = std::time::Instant::now();
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let mut text = String::new();
    quick.read_to_string(&mut text).expect("answered, then closed");
    assert!(text.contains("thread"), "{text}");
    let mut nothing = String::new();
    let _ = slow.read_to_string(&mut nothing);
    assert!(!nothing.contains("thread"), "{nothing}");
    assert!(Socket::connect(address).is_err(), "the port is closed");
}

#[test]
fn a_port_in_use_is_named() {
    let (server, _) = start(1);
    let address = server.addresses()[0].to_string();
    let error = Server::start(std::slice::from_ref(&address), &Counters::shards(1), |_| Echo(0))
        .expect_err("the port is taken")
        .to_string();
    assert!(error.contains(&address) && error.contains("in use"), "{error}");
}
