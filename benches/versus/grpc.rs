//! Unary gRPC calls straight over `h2`: the generator shares two cores with the servers it
//! measures, and a full client stack would cost as much as the server.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use prost::Message;

pub type Outcome<T> = Result<T, String>;

/// One HTTP/2 connection; cloning shares it.
#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    base: String,
}

fn context<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

impl Connection {
    /// `address` is host:port. The task that drives the connection ends with it.
    pub async fn open(address: &str) -> Outcome<Connection> {
        let socket = tokio::net::TcpStream::connect(address).await.map_err(context("connect"))?;
        socket.set_nodelay(true).map_err(context("nodelay"))?;
        let (requests, driver) = h2::client::Builder::new()
            .initial_window_size(2 << 20)
            .initial_connection_window_size(32 << 20)
            .enable_push(false)
            .handshake::<_, Bytes>(socket)
            .await
            .map_err(context("handshake"))?;
        tokio::spawn(async move {
            let _ = driver.await;
        });
        Ok(Connection { requests, base: format!("http://{address}") })
    }

    /// One request, one answer. A gRPC status other than OK is an error with its text.
    pub async fn call<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        question: &Q,
    ) -> Outcome<A> {
        let mut requests = self.requests.clone().ready().await.map_err(context("ready"))?;
        let request = http::Request::post(format!("{}{path}", self.base))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .map_err(context("request"))?;
        let (answer, mut body) = requests.send_request(request, false).map_err(context("send"))?;
        let length = question.encoded_len();
        let mut frame = BytesMut::with_capacity(length + 5);
        frame.put_u8(0);
        frame.put_u32(length as u32);
        question.encode(&mut frame).expect("the buffer was sized for the message");
        // Requests of the benchmark fit the initial windows, so sending never waits.
        body.send_data(frame.freeze(), true).map_err(context("body"))?;

        let answer = answer.await.map_err(context("answer"))?;
        check_status(answer.headers())?;
        let mut stream = answer.into_body();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk.map_err(context("data"))?;
            let _ = stream.flow_control().release_capacity(chunk.len());
            bytes.extend_from_slice(&chunk);
        }
        if let Some(trailers) = stream.trailers().await.map_err(context("trailers"))? {
            check_status(&trailers)?;
        }
        if bytes.len() < 5 {
            return Err("no message in the answer".to_string());
        }
        bytes.advance(5);
        A::decode(bytes.freeze()).map_err(context("decode"))
    }
}

fn check_status(headers: &http::HeaderMap) -> Outcome<()> {
    match headers.get("grpc-status").map(|value| value.as_bytes()) {
        None | Some(b"0") => Ok(()),
        Some(code) => Err(format!(
            "grpc status {} {}",
            String::from_utf8_lossy(code),
            headers.get("grpc-message").and_then(|m| m.to_str().ok()).unwrap_or("")
        )),
    }
}
