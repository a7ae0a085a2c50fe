//! A plain HTTP/1.1 client for the tests: one request for each connection, and streams line by
//! line.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// An answer, its body read or still on its way.
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }
}

pub struct Web {
    pub address: String,
    /// Sent with every request.
    pub headers: Vec<(&'static str, String)>,
}

impl Web {
    pub fn new(address: &str) -> Web {
        Web { address: address.to_string(), headers: Vec::new() }
    }
    pub fn with(&self, name: &'static str, value: &str) -> Web {
        let mut headers = self.headers.clone();
        headers.push((name, value.to_string()));
        Web { address: self.address.clone(), headers }
    }

    /// Sends a request and reads the head of the answer.
    pub fn open(&self, method: &str, path: &str, body: &str) -> Stream {
        let mut socket = TcpStream::connect(&self.address).expect("the server accepts");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Connection: close\r\nContent-Length: {}\r\n\r\n", body.len()));
        socket.write_all(head.as_bytes()).expect("sent");
        // A server that refuses by the head alone may not read the rest.
        let _ = socket.write_all(body.as_bytes());
        let mut reader = BufReader::new(socket);
        let mut line = || {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a line of the head");
            line.trim_end().to_string()
        };
        let status = line().split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let mut headers = Vec::new();
        loop {
            let line = line();
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_string()));
        }
        let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked");
        Stream { status, headers, reader, chunked, waiting: Vec::new() }
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.open(method, path, body).whole()
    }
    pub fn get(&self, path: &str) -> (u16, String) {
        let answer = self.ask("GET", path, "");
        (answer.status, answer.body)
    }
    pub fn post(&self, path: &str, body: &str) -> (u16, String) {
        let answer = self.ask("POST", path, body);
        (answer.status, answer.body)
    }
    /// A POST that must succeed.
    pub fn ok(&self, path: &str, body: &str) -> Value {
        let answer = self.ask("POST", path, body);
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body);
        answer.json()
    }
}

/// An answer whose body is on its way. Dropping it closes the connection.
pub struct Stream {
    pub status: u16,
    headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
    chunked: bool,
    waiting: Vec<u8>,
}

impl Stream {
    /// The next piece of the body; empty at its end.
    fn piece(&mut self) -> Vec<u8> {
        let mut piece = Vec::new();
        if !self.chunked {
            self.reader.read_to_end(&mut piece).expect("the body");
            return piece;
        }
        let mut size = String::new();
        self.reader.read_line(&mut size).expect("a chunk's size");
        let size = usize::from_str_radix(size.trim_end(), 16).expect("a chunk's size");
        piece.resize(size + 2, 0);
        self.reader.read_exact(&mut piece).expect("a chunk");
        piece.truncate(size);
        piece
    }
    /// The next line of the body as JSON; `None` at its end.
    pub fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.waiting.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.waiting.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            let piece = self.piece();
            if piece.is_empty() {
                assert!(self.waiting.is_empty(), "an unfinished line");
                return None;
            }
            self.waiting.extend(piece);
        }
    }
    fn whole(mut self) -> Answer {
        let mut body = std::mem::take(&mut self.waiting);
        loop {
            let piece = self.piece();
            if piece.is_empty() {
                break;
            }
            body.extend(piece);
        }
        let body = String::from_utf8(body).expect("text");
        Answer { status: self.status, headers: self.headers, body }
    }
}

/// Bytes as the gateway spells them.
pub fn b64(bytes: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.as_bytes().chunks(3) {
        let mut word = [0; 4];
        word[1..=three.len()].copy_from_slice(three);
        let word = u32::from_be_bytes(word);
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
