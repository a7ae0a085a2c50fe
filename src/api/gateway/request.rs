//! A request's body: JSON texts, one behind the other, to gRPC frames.
//!
//! A text ends where its braces do, so a client may send several on one connection, with or
//! without line breaks between them, whenever it likes. What waits for its end is bounded.

use super::super::unfold::unfold;
use super::{Pieces, json};
use bytes::{BufMut, Bytes, BytesMut};
use prost_reflect::MessageDescriptor;
use std::future::poll_fn;
use std::pin::Pin;
use tonic::Status;
use tonic::body::Body as TonicBody;
use tonic::codegen::Body as _;

/// Base64 makes four bytes of three, and escapes or names take some more: a text twice as long as
/// the largest message is too large for certain.
const JSON_TO_MESSAGE: usize = 2;

/// So much of a body that is refused is still read.
const DISCARDED_BYTES_MAX: usize = 64 << 20;

/// The messages that a client sends.
pub struct Requests {
    body: TonicBody,
    kind: MessageDescriptor,
    /// Received and not yet a message.
    waiting: BytesMut,
    end: End,
    text_bytes_max: usize,
    is_over: bool,
}

impl Requests {
    pub fn new(body: TonicBody, kind: MessageDescriptor, message_bytes_max: usize) -> Requests {
        Requests {
            body,
            kind,
            waiting: BytesMut::new(),
            end: End::default(),
            text_bytes_max: message_bytes_max.saturating_mul(JSON_TO_MESSAGE),
            is_over: false,
        }
    }

    /// The next message as a gRPC frame; `None` once the client has said all.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(length) = self.end.find(&self.waiting) {
                let text = self.waiting.split_to(length);
                return frame(&json::to_message(&self.kind, &text)?).map(Some);
            }
            if self.waiting.len() > self.text_bytes_max {
                return Err(self.too_large().await);
            }
            if !self.is_over {
                match self.read().await? {
                    Some(data) => self.waiting.put(data),
                    None => self.is_over = true,
                }
                continue;
            }
            let text = std::mem::take(&mut self.waiting);
            if text.trim_ascii().is_empty() {
                return Ok(None);
            }
            // No object, or none that ends: the parser says what is wrong with it.
            return frame(&json::to_message(&self.kind, &text)?).map(Some);
        }
    }

    /// The next bytes of the body; `None` at its end.
    async fn read(&mut self) -> Result<Option<Bytes>, Status> {
        let body = &mut self.body;
        loop {
            match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                // Trailers say nothing here.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Some(Err(status)) => return Err(status),
                None => return Ok(None),
            }
        }
    }

    /// The refusal of a text that is too long. The rest is read and forgotten: a client that is
    /// still sending when the connection ends would not get to read why.
    async fn too_large(&mut self) -> Status {
        let mut size = std::mem::take(&mut self.waiting).len();
        while size < DISCARDED_BYTES_MAX
            && let Ok(Some(data)) = self.read().await
        {
            size += data.len();
        }
        Status::resource_exhausted(format!(
            "grpc: received message larger than max ({size} vs. {})",
            self.text_bytes_max
        ))
    }

    /// All messages as the body of a gRPC request, of which `first` was read already. The body
    /// ends at a text that is no message.
    pub fn stream(self, first: Bytes) -> TonicBody {
        let pieces = unfold((Some(first), self), |(first, mut requests)| async move {
            let piece = match first {
                Some(first) => first,
                None => requests.next().await.ok()??,
            };
            Some((piece, (None, requests)))
        });
        TonicBody::new(Pieces(pieces))
    }
}

/// A message with gRPC's head: not compressed, so long.
fn frame(message: &[u8]) -> Result<Bytes, Status> {
    let length = u32::try_from(message.len())
        .map_err(|_| Status::resource_exhausted("grpc: received message larger than max"))?;
    let mut frame = BytesMut::with_capacity(EMPTY.len() + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    Ok(frame.freeze())
}

/// The frame of a message without fields: the head alone.
pub const EMPTY: Bytes = Bytes::from_static(&[0; 5]);

/// Looks for the end of the first JSON object. Each byte is looked at once, however the pieces
/// arrive.
#[derive(Debug, Default)]
struct End {
    seen: usize,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl End {
    /// How long the first object of `text` is. `text` must begin with what was seen at the call
    /// before; after an end it begins anew.
    fn find(&mut self, text: &[u8]) -> Option<usize> {
        for (at, &byte) in text.iter().enumerate().skip(self.seen) {
            self.seen = at + 1;
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth <= 1 => {
                    *self = End::default();
                    return Some(at + 1);
                }
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::paths;
    use super::*;
    use prost::Message as _;
    use tonic::Code;

    fn poll<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(future)
    }

    /// Every message of a body that arrives in pieces of `size` bytes.
    fn read(text: &str, size: usize) -> Result<Vec<Bytes>, Status> {
        let pieces: Vec<Bytes> = text.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
        let body = TonicBody::new(Pieces(tonic::codegen::tokio_stream::iter(pieces)));
        let kind = paths::find("/v3/lease/keepalive").expect("a route").input.clone();
        let mut requests = Requests::new(body, kind, 1000);
        let mut found = Vec::new();
        poll(async {
            while let Some(message) = requests.next().await? {
                found.push(message);
            }
            Ok(found)
        })
    }

    fn ids(text: &str) -> Result<Vec<i64>, Code> {
        let whole = read(text, text.len().max(1)).map_err(|status| status.code());
        let bytewise = read(text, 1).map_err(|status| status.code());
        assert_eq!(whole, bytewise, "{text}");
        let id = |frame: Bytes| {
            assert_eq!(
                (frame[0], frame[1..5].to_vec()),
                (0, vec![0, 0, 0, (frame.len() - 5) as u8])
            );
            type Message = super::super::super::proto::etcdserverpb::LeaseKeepAliveRequest;
            Message::decode(&frame[5..]).expect("a message").id
        };
        whole.map(|frames| frames.into_iter().map(id).collect())
    }

    #[test]
    fn texts_end_where_their_braces_do() {
        assert_eq!(ids(""), Ok(vec![]));
        assert_eq!(ids(" \r\n"), Ok(vec![]));
        assert_eq!(ids("{\"ID\":\"1\"}\n{\"ID\":2}{}\n"), Ok(vec![1, 2, 0]));
        let tricky = r#"{"x":"}\"}{","y":[{"z":"\\"}]}{"ID":3}"#;
        assert_eq!(ids(tricky), Ok(vec![0, 3]));
        for wrong in ["{", "nonsense", "{\"ID\":1}}", "{\"ID\":1} x", "[{\"ID\":1}]", "\"", "}"] {
            assert_eq!(ids(wrong), Err(Code::InvalidArgument), "{wrong}");
        }
    }

    #[test]
    fn what_never_ends_is_not_kept() {
        let long = format!("{{\"x\":\"{}", "x".repeat(3000));
        let status = read(&long, 1000).expect_err("too long");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().starts_with("grpc: received message larger than max (3006 vs."));
        // As long, but of many messages.
        let many = "{\"ID\":7}".repeat(1000);
        assert_eq!(ids(&many).expect("fine").len(), 1000);
    }

    #[test]
    fn a_stream_goes_on_to_the_first_text_that_is_no_message() {
        let body = TonicBody::new("{\"ID\":2} {\"ID\":[]} {\"ID\":3}".to_string());
        let kind = paths::find("/v3/lease/keepalive").expect("a route").input.clone();
        let mut stream = Requests::new(body, kind, 1000).stream(EMPTY);
        let mut data = Vec::new();
        poll(async {
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut stream).poll_frame(cx)).await {
                data.extend(frame.expect("no error").into_data().expect("data"));
            }
        });
        assert_eq!(data, [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 8, 2]);
    }
}
