//! The listener, and the threads that serve clients. The one file of `api` that names tokio's
//! sockets and starts anything.
//!
//! gRPC (HTTP/2 without TLS) and plain HTTP/1.1 share each port; the first bytes of a connection
//! tell which it is. Connections are accepted on the first serving thread and handed to the one
//! with the fewest: each thread runs a runtime of its own, so a connection's requests never
//! change threads and wake nobody else's. (Measured: 1.5 to 1.9 times the requests per second of
//! one runtime that steals work, for half the CPU.)
//!
//! It knows nothing of what is asked: an `Answer` does.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the listener is an edge: real sockets and threads are what it is for"
)]

use super::rpcs::{Counters, add};
use crate::io::biased_select;
use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tonic::codegen::{Body, Service, StdError, http};

/// What the server asks for each request. Cloned for each, so a clone must be cheap.
pub trait Answer: Clone + Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<StdError>> + Send + 'static;
    type Future: Future<Output = http::Response<Self::Body>> + Send + Unpin + 'static;

    fn answer<B>(&self, request: http::Request<B>) -> Self::Future
    where
        B: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static;
}

/// Accepted connections on their way to a thread; beyond it they wait in the kernel.
const HANDOVER_MAX: usize = 256;
/// Connections that the kernel keeps until they are accepted: a thousand clients that start at
/// once should not run into a retransmission timeout.
const BACKLOG: i32 = 4096;
/// How long requests under way may take once the server is told to stop. Streams that never end
/// by themselves are cut off then.
const DRAIN: Duration = Duration::from_millis(500);
/// A pause after a failed accept: out of file descriptors is the usual reason, and trying again
/// at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Flow-control credit of a whole connection. h2 ends a connection on which too many small
/// frames wait unread, and counts them against half of this window.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Flow-control credit of one stream: the largest request fits without a round trip.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Answer bytes that h2 holds for one stream before it stops asking for more.
const STREAM_SEND_BYTES: usize = 1 << 20;
/// Cancelled requests that a client may leave behind before it is taken for an attacker; the
/// default of 20 hits clients that cancel a lot.
const PENDING_RESETS_MAX: usize = 1024;
/// Metadata of one request: auth tokens are the largest part.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// etcd's: a silent client is asked after two hours, and dropped when it stays silent.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2 * 60 * 60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    /// With what resolves when the thread is about to end.
    threads: Vec<(JoinHandle<()>, oneshot::Receiver<()>)>,
    stops: Vec<Arc<Stop>>,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Listens at every `host:port` of `listen` and serves on one thread for each of `shards`;
    /// `make` builds what answers on a thread. Errors name the address.
    pub fn start<A: Answer>(
        listen: &[String],
        shards: &Arc<[Arc<Counters>]>,
        make: impl Fn(Arc<Counters>) -> A,
    ) -> io::Result<Server> {
        assert!(!shards.is_empty(), "a server needs a thread");
        let listeners: Vec<std::net::TcpListener> =
            listen.iter().map(|address| bind(address)).collect::<io::Result<_>>()?;
        let addresses =
            listeners.iter().map(std::net::TcpListener::local_addr).collect::<io::Result<_>>()?;

        let mut workers = Vec::new();
        let mut inboxes = Vec::new();
        for _ in shards.iter() {
            let (sender, inbox) = mpsc::channel(HANDOVER_MAX);
            workers.push(Worker { sender, open: Arc::default() });
            inboxes.push(inbox);
        }
        let stops: Vec<Arc<Stop>> = shards.iter().map(|_| Arc::default()).collect();
        let mut server = Server { threads: Vec::new(), stops: stops.clone(), addresses };
        let mut accept = Some((listeners, workers.clone()));
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let serving = Serving {
                answer: make(shards[number].clone()),
                counters: shards[number].clone(),
                open: workers[number].open.clone(),
                stop: stops[number].clone(),
            };
            // The first thread also accepts.
            let accept = accept.take();
            let (ending, ended) = oneshot::channel();
            let thread =
                std::thread::Builder::new().name(format!("client-{number}")).spawn(move || {
                    serving.run(inbox, accept);
                    // Nobody may be waiting any more.
                    let _ = ending.send(());
                })?;
            server.threads.push((thread, ended));
        }
        Ok(server)
    }

    /// Where it listens, ports filled in that were given as 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Accepts nothing more, lets requests under way finish for a moment, and ends the threads.
    /// The caller's own runtime goes on meanwhile: those requests may need it.
    pub async fn stop(mut self) {
        self.tell();
        for (_, ended) in &mut self.threads {
            // An error says that the thread has panicked, which is an end as well.
            let _ = ended.await;
        }
    }

    fn tell(&self) {
        for stop in &self.stops {
            stop.set();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tell();
        for (thread, _) in self.threads.drain(..) {
            // A panic of the thread has been reported already.
            let _ = thread.join();
        }
    }
}

/// Names are resolved to their first IPv4 address if they have one, as Go does.
fn bind(address: &str) -> io::Result<std::net::TcpListener> {
    let listen = || {
        let all: Vec<SocketAddr> = match address.strip_prefix(':') {
            Some(port) => format!("[::]:{port}").to_socket_addrs()?.collect(),
            None => address.to_socket_addrs()?.collect(),
        };
        let first = all.iter().find(|a| a.is_ipv4()).or(all.first());
        let first = first.ok_or_else(|| io::Error::other("the name has no address"))?;
        let listener = std::net::TcpListener::bind(first)?;
        listener.set_nonblocking(true)?;
        // Listening a second time only changes the length of the queue.
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(listener)
    };
    listen().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
    })
}

/// One serving thread as the acceptor sees it.
#[derive(Clone)]
struct Worker {
    sender: mpsc::Sender<std::net::TcpStream>,
    open: Arc<AtomicUsize>,
}

/// One serving thread.
struct Serving<A> {
    answer: A,
    counters: Arc<Counters>,
    /// Connections this thread has or is about to get.
    open: Arc<AtomicUsize>,
    stop: Arc<Stop>,
}

impl<A: Answer> Serving<A> {
    fn run(
        self,
        inbox: mpsc::Receiver<std::net::TcpStream>,
        accept: Option<(Vec<std::net::TcpListener>, Vec<Worker>)>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the kernel has room for one more epoll");
        runtime.block_on(async {
            let mut acceptors = JoinSet::new();
            if let Some((listeners, workers)) = accept {
                for listener in listeners {
                    let listener =
                        TcpListener::from_std(listener).expect("a listening socket can be watched");
                    acceptors.spawn(accept_all(listener, workers.clone()));
                }
            }
            let connections = self.serve(inbox).await;
            // Closes the listeners: whoever connects from now on is refused.
            drop(acceptors);
            let drained = async {
                let mut connections = connections;
                while connections.join_next().await.is_some() {}
            };
            let _ = tokio::time::timeout(DRAIN, drained).await;
        });
    }

    /// Serves what arrives until told to stop; what is still open then comes back.
    async fn serve(&self, mut inbox: mpsc::Receiver<std::net::TcpStream>) -> JoinSet<()> {
        let builder = Arc::new(builder());
        let mut connections = JoinSet::new();
        let mut stopped = pin!(self.stop.wait());
        loop {
            let arrived = biased_select! {
                () = &mut stopped => return connections,
                _ = connections.join_next(), if !connections.is_empty() => continue,
                arrived = inbox.recv() => arrived,
            };
            let Some(socket) = arrived else {
                // Nobody accepts any more.
                stopped.await;
                return connections;
            };
            connections.spawn(self.connection(socket, builder.clone()));
        }
    }

    fn connection(
        &self,
        socket: std::net::TcpStream,
        builder: Arc<auto::Builder<TokioExecutor>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let service = TowerToHyperService::new(Answering(self.answer.clone()));
        let (counters, stop) = (self.counters.clone(), self.stop.clone());
        let leave = Leave(self.open.clone());
        async move {
            let _leave = leave;
            let Ok(socket) = TcpStream::from_std(socket) else { return };
            // Answers are small and somebody waits for each.
            let _ = socket.set_nodelay(true);
            let io = TokioIo::new(Counted { socket, counters });
            let mut connection = pin!(builder.serve_connection(io, service));
            biased_select! {
                // How a connection ends is the client's affair: it hears of it itself.
                _ = connection.as_mut() => return,
                () = stop.wait() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES)
        .max_concurrent_streams(u32::MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // gRPC has no use for it.
        .auto_date_header(false);
    builder
}

async fn accept_all(listener: TcpListener, workers: Vec<Worker>) {
    loop {
        // Moving between runtimes: the socket leaves this one's epoll here.
        let socket = match listener.accept().await.and_then(|(socket, _)| socket.into_std()) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let least = workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        let worker = least.expect("a server has a thread");
        worker.open.fetch_add(1, Ordering::Relaxed);
        if worker.sender.send(socket).await.is_err() {
            return;
        }
    }
}

/// Tells the acceptor that a connection is gone, however it went.
struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A switch that goes one way. Each thread has its own, so that waiting for it touches nothing
/// that other threads touch.
#[derive(Debug, Default)]
struct Stop {
    is_set: AtomicBool,
    changed: Notify,
}

impl Stop {
    fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }
    async fn wait(&self) {
        let mut changed = pin!(self.changed.notified());
        // Listening before looking: a switch thrown in between is not missed.
        changed.as_mut().enable();
        if !self.is_set.load(Ordering::Acquire) {
            changed.await;
        }
    }
}

/// An `Answer` as the service that hyper calls.
#[derive(Clone)]
struct Answering<A>(A);

impl<A, B> Service<http::Request<B>> for Answering<A>
where
    A: Answer,
    B: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    type Response = http::Response<A::Body>;
    type Error = std::convert::Infallible;
    type Future = Infallibly<A::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Infallibly(self.0.answer(request))
    }
}

struct Infallibly<F>(F);

impl<F: Future + Unpin> Future for Infallibly<F> {
    type Output = Result<F::Output, std::convert::Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Ok)
    }
}

/// A socket that counts what goes through it.
struct Counted {
    socket: TcpStream,
    counters: Arc<Counters>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.socket).poll_read(cx, buf);
        add(&self.counters.bytes_received, (buf.filled().len() - before) as u64);
        outcome
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.count_sent(&outcome);
        outcome
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.count_sent(&outcome);
        outcome
    }
    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Counted {
    fn count_sent(&self, outcome: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(sent)) = outcome {
            add(&self.counters.bytes_sent, *sent as u64);
        }
    }
}

#[cfg(test)]
mod tests;
