//! An RPC's answer: gRPC frames and trailers to JSON and an HTTP status.

use super::super::front::CountedBody;
use super::super::unfold::unfold;
use super::{Once, Pieces, json};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost_reflect::MessageDescriptor;
use std::future::poll_fn;
use std::pin::Pin;
use tonic::body::Body as TonicBody;
use tonic::codegen::Body as _;
use tonic::codegen::http::{HeaderName, HeaderValue, Response, header};
use tonic::{Code, Status};

/// The answer of an RPC with one message.
pub async fn unary(
    response: Response<CountedBody>,
    kind: &MessageDescriptor,
) -> Result<Response<TonicBody>, Status> {
    let mut messages = Messages::new(response);
    let message = messages.next().await?;
    let message = message.ok_or_else(|| Status::internal("an answer without a message"))?;
    // The status comes behind the message.
    messages.next().await?;
    Ok(page(200, json::from_message(kind, message, "", "")?.into()))
}

/// The answer of an RPC with as many messages as it likes: a line for each. It begins with the
/// first of them, whose absence may be an error with a status of its own.
pub async fn stream(
    response: Response<CountedBody>,
    kind: MessageDescriptor,
) -> Response<TonicBody> {
    let mut messages = Messages::new(response);
    let first = match line(&mut messages, &kind).await {
        Ok(None) => return page(200, Bytes::new()),
        Ok(Some(first)) => first,
        Err(status) => return page(json::http_status(status.code()), error_line(&status)),
    };
    let state = Some((Some(first), messages, kind));
    let lines = unfold(state, |state| async move {
        let (first, mut messages, kind) = state?;
        let next = match first {
            Some(first) => Ok(Some(first)),
            None => line(&mut messages, &kind).await,
        };
        match next {
            Ok(line) => line.map(|line| (line, Some((None, messages, kind)))),
            Err(status) => Some((error_line(&status), None)),
        }
    });
    head(200, TonicBody::new(Pieces(lines)))
}

async fn line(messages: &mut Messages, kind: &MessageDescriptor) -> Result<Option<Bytes>, Status> {
    let Some(message) = messages.next().await? else { return Ok(None) };
    json::from_message(kind, message, "{\"result\":", "}\n").map(|line| Some(line.into()))
}

fn error_line(status: &Status) -> Bytes {
    format!("{{\"error\":{}}}\n", json::from_status(status)).into()
}

/// What is answered instead of a message.
pub fn refusal(status: &Status) -> Response<TonicBody> {
    let mut response = page(json::http_status(status.code()), json::from_status(status).into());
    if status.code() == Code::Unauthenticated
        && let Ok(why) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, why);
    }
    response
}

fn page(status: u16, text: Bytes) -> Response<TonicBody> {
    head(status, TonicBody::new(Once(Some(text))))
}

fn head(status: u16, body: TonicBody) -> Response<TonicBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().expect("a status of the table");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // grpc-gateway hands the answer's metadata on; this is all there is.
    let name = HeaderName::from_static("grpc-metadata-content-type");
    headers.insert(name, HeaderValue::from_static("application/grpc"));
    response
}

/// The messages of an answer, in order.
struct Messages {
    body: CountedBody,
    /// Received and not yet a message.
    waiting: BytesMut,
    /// How the answer ended, where that was said before any message.
    ended: Option<Status>,
}

impl Messages {
    fn new(response: Response<CountedBody>) -> Messages {
        let ended = Status::from_header_map(response.headers());
        Messages { body: response.into_body(), waiting: BytesMut::new(), ended }
    }

    /// The next message; `None` after a good end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(status) = &self.ended {
                return match status.code() {
                    Code::Ok => Ok(None),
                    _ => Err(status.clone()),
                };
            }
            if let Some(message) = take_message(&mut self.waiting)? {
                return Ok(Some(message));
            }
            let body = &mut self.body;
            match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.waiting.put(data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.ended = Status::from_header_map(&trailers);
                    }
                },
                Some(Err(status)) => self.ended = Some(status),
                // As gRPC clients see it.
                None => {
                    self.ended =
                        Some(Status::internal("server closed the stream without sending trailers"));
                }
            }
        }
    }
}

/// One message without its head, if it is there whole.
fn take_message(waiting: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((&[compressed, a, b, c, d], _)) = waiting.split_first_chunk::<5>() else {
        return Ok(None);
    };
    if compressed != 0 {
        return Err(Status::internal("an answer is compressed although nobody asked for it"));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if waiting.len() - 5 < length {
        return Ok(None);
    }
    waiting.advance(5);
    Ok(Some(waiting.split_to(length).freeze()))
}
