//! Time, network, tasks and randomness of a real process, over tokio and the operating system.
//!
//! The only file below `api` that names tokio's time, net and spawn.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is what the rest of the library reaches through io's traits"
)]

use super::{
    BoxFuture, BoxFutureRef, Clock, Connection, Entropy, Io, Listener, Mono, Net, OsDisk, ReadHalf,
    TaskHandle, TaskKind, Tasks, WriteHalf, tasks,
};
use bytes::{Bytes, BytesMut};
use rand::TryRng;
use rand::rngs::SysRng;
use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};

/// Room that one read is given at least.
const READ_BYTES_MIN: usize = 16 << 10;

/// The real world: files, clocks, sockets and threads; shared tasks run on `shared`.
pub fn io(shared: Handle) -> Io {
    Io {
        disk: Arc::new(OsDisk),
        clock: Arc::new(TokioClock::new()),
        net: Arc::new(TokioNet),
        tasks: Arc::new(TokioTasks { shared }),
        entropy: Arc::new(OsEntropy),
    }
}

#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: Instant,
}

impl TokioClock {
    #[expect(clippy::new_without_default, reason = "a clock starts when it is made")]
    pub fn new() -> TokioClock {
        TokioClock { start: Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Mono {
        Mono(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, at: Mono) -> BoxFuture<()> {
        let wait = at.since(self.now());
        // Made inside the future: the timer belongs to the runtime that waits for it.
        Box::pin(async move { tokio::time::sleep(wait).await })
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn u64(&self) -> u64 {
        SysRng.try_next_u64().expect("a running system has random numbers")
    }
}

#[derive(Clone, Debug)]
pub struct TokioTasks {
    shared: Handle,
}

impl Tasks for TokioTasks {
    fn spawn(&self, name: &'static str, kind: TaskKind, task: BoxFuture<()>) -> TaskHandle {
        let (task, handle) = tasks::supervise(task);
        match kind {
            TaskKind::Shared => drop(self.shared.spawn(task)),
            TaskKind::Dedicated => {
                let run = move || match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime.block_on(task),
                    // Dropping the task is what its owner sees as its end.
                    Err(error) => tracing::error!(task = name, %error, "no runtime for a task"),
                };
                let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
                if let Err(error) = thread {
                    tracing::error!(task = name, %error, "no thread for a task");
                }
            }
        }
        handle
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct TokioNet;

impl Net for TokioNet {
    fn listen(&self, addr: String) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            // Binds with SO_REUSEADDR: a restarted member gets its port back at once.
            let listener = TcpListener::bind(addr.as_str()).await?;
            Ok(Box::new(TokioListener { listener }) as Box<dyn Listener>)
        })
    }

    fn dial(&self, addr: String) -> BoxFuture<io::Result<Connection>> {
        Box::pin(async move { connection(TcpStream::connect(addr.as_str()).await?, addr) })
    }
}

#[derive(Debug)]
struct TokioListener {
    listener: TcpListener,
}

impl Listener for TokioListener {
    fn local_addr(&self) -> String {
        self.listener.local_addr().map(|addr| addr.to_string()).unwrap_or_default()
    }

    fn accept(&mut self) -> BoxFutureRef<'_, io::Result<Connection>> {
        Box::pin(async move {
            let (stream, addr) = self.listener.accept().await?;
            connection(stream, addr.to_string())
        })
    }
}

fn connection(stream: TcpStream, peer: String) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok(Connection {
        peer,
        reader: Box::new(TokioReadHalf(reader)),
        writer: Box::new(TokioWriteHalf(writer)),
    })
}

#[derive(Debug)]
struct TokioReadHalf(OwnedReadHalf);

impl ReadHalf for TokioReadHalf {
    fn read<'a>(&'a mut self, buf: &'a mut BytesMut) -> BoxFutureRef<'a, io::Result<usize>> {
        Box::pin(async move {
            if buf.capacity() == buf.len() {
                buf.reserve(READ_BYTES_MIN);
            }
            self.0.read_buf(buf).await
        })
    }
}

#[derive(Debug)]
struct TokioWriteHalf(OwnedWriteHalf);

impl WriteHalf for TokioWriteHalf {
    fn write_all(&mut self, bytes: Bytes) -> BoxFutureRef<'_, io::Result<()>> {
        Box::pin(async move {
            self.0.write_all(&bytes).await?;
            self.0.flush().await
        })
    }

    fn shutdown(&mut self) -> BoxFutureRef<'_, io::Result<()>> {
        Box::pin(async move { self.0.shutdown().await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::until;
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    async fn a_dedicated_task_has_its_own_thread_with_time_and_network() {
        let io = io(Handle::current());
        let (send, receive) = mpsc::channel();
        let inner = io.clone();
        let task = Box::pin(async move {
            inner.clock.sleep_until(inner.clock.now() + Duration::from_millis(1)).await;
            let mut listener = inner.net.listen("127.0.0.1:0".into()).await.unwrap();
            let mut client = inner.net.dial(listener.local_addr()).await.unwrap();
            let mut server = listener.accept().await.unwrap();
            client.writer.write_all(Bytes::from_static(b"hello")).await.unwrap();
            client.writer.shutdown().await.unwrap();
            let mut buf = BytesMut::new();
            while server.reader.read(&mut buf).await.unwrap() > 0 {}
            send.send((buf, std::thread::current().name().map(str::to_owned))).unwrap();
        });
        let handle = io.tasks.spawn("test task", TaskKind::Dedicated, task);
        handle.finished().await;
        assert!(handle.is_finished());
        let (bytes, name) = receive.recv().unwrap();
        assert_eq!(&bytes[..], b"hello");
        assert_eq!(name.as_deref(), Some("test task"));
    }

    #[tokio::test]
    async fn an_aborted_task_drops_what_it_holds() {
        let io = io(Handle::current());
        for kind in [TaskKind::Shared, TaskKind::Dedicated] {
            let held = Arc::new(());
            let inner = held.clone();
            let task = Box::pin(async move {
                std::future::pending::<()>().await;
                drop(inner);
            });
            let handle = io.tasks.spawn("waits for ever", kind, task);
            assert!(!handle.is_finished());
            handle.abort();
            handle.finished().await;
            assert_eq!(Arc::strong_count(&held), 1);
        }
    }

    #[tokio::test]
    async fn a_port_in_use_says_so_and_deadlines_hold() {
        let io = io(Handle::current());
        let listener = io.net.listen("127.0.0.1:0".into()).await.unwrap();
        let again = io.net.listen(listener.local_addr()).await;
        assert_eq!(again.err().unwrap().kind(), io::ErrorKind::AddrInUse);
        let soon = io.clock.now() + Duration::from_millis(2);
        assert_eq!(until(&*io.clock, soon, std::future::pending::<()>()).await, None);
        assert!(io.clock.now() >= soon);
        assert_eq!(until(&*io.clock, soon, async { 7 }).await, Some(7));
        assert_ne!(io.entropy.u64(), io.entropy.u64());
        assert!(io.clock.wall_ms() > 1_600_000_000_000);
    }
}
