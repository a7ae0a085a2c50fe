//! The sending half of a stream of requests.

use bytes::Bytes;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// A stream of what is sent into a channel.
pub struct Sent(mpsc::UnboundedReceiver<Bytes>);

pub fn channel() -> (mpsc::UnboundedSender<Bytes>, Sent) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Sent(receiver))
}

impl tokio_stream::Stream for Sent {
    type Item = Bytes;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.0.poll_recv(cx)
    }
}
