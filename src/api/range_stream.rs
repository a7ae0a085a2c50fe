//! KV.RangeStream: a range in pieces, all of one moment, so that neither side has to hold it
//! whole. (etcd 3.7.)

use super::convert::{range_from_proto, range_reply_to_proto};
use super::errors::status;
use super::header::header;
use super::proto::etcdserverpb as pb;
use crate::mvcc::KeyspaceView;
use crate::node::NodeHandle;
use crate::types::command::RangeRequest;
use bytes::{BufMut, BytesMut};
use prost::Message as _;
use tonic::Status;

/// Keys of the first piece.
const KEYS_FIRST: i64 = 10;

/// The request, if it can be answered in pieces: in key order, without a look at every key first.
pub fn check(request: pb::RangeRequest) -> Result<RangeRequest, Status> {
    use pb::range_request::{SortOrder, SortTarget};
    let by_key = request.sort_target == SortTarget::Key as i32
        && request.sort_order == SortOrder::Ascend as i32;
    if request.sort_order != SortOrder::None as i32 && !by_key {
        // An order that does not exist is refused as such.
        range_from_proto(request).map_err(|error| status(&error))?;
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters != [0; 4] {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    let mut request = range_from_proto(request).map_err(|error| status(&error))?;
    request.sort_order = Default::default();
    request.sort_target = Default::default();
    Ok(request)
}

/// What is still to be sent.
pub struct Pieces {
    node: NodeHandle,
    /// The one state that all pieces are of.
    view: KeyspaceView,
    /// The rest of the range.
    request: RangeRequest,
    /// Keys that may still be sent.
    left: i64,
    /// Keys of the next piece, and bytes that a piece should have.
    keys: i64,
    bytes: usize,
    sent: i64,
    is_over: bool,
}

impl Pieces {
    pub fn new(node: NodeHandle, view: KeyspaceView, mut request: RangeRequest) -> Pieces {
        let left = if request.limit > 0 { request.limit } else { i64::MAX };
        if request.revision <= 0 {
            request.revision = view.revision();
        }
        let bytes = node.limits().request_bytes_max;
        Pieces { node, view, request, left, keys: KEYS_FIRST, bytes, sent: 0, is_over: false }
    }

    pub async fn next(mut self) -> Option<(Result<pb::RangeStreamResponse, Status>, Pieces)> {
        if self.is_over {
            return None;
        }
        let piece = self.piece();
        self.is_over |= piece.is_err();
        let piece = piece.map(|range| pb::RangeStreamResponse { range_response: Some(range) });
        Some((piece, self))
    }

    fn piece(&mut self) -> Result<pb::RangeResponse, Status> {
        let header = header(&self.node, self.view.revision());
        self.request.limit = self.keys.min(self.left);
        let reply = self.view.range(&self.request);
        let reply = reply.map_err(|error| status(&self.node.read_failed(error)))?;
        if self.request.count_only {
            self.is_over = true;
            return Ok(range_reply_to_proto(Some(header), reply));
        }
        let got = reply.kvs.len() as i64;
        self.left -= got;
        self.sent += got;
        let behind = reply.kvs.last().map(|kv| {
            let mut next = BytesMut::with_capacity(kv.key.len() + 1);
            next.put_slice(&kv.key);
            next.put_u8(0);
            next.freeze()
        });
        // What was not sent counts as well.
        let (more, count) = (reply.more, self.sent + reply.count - got);
        let mut piece = range_reply_to_proto(None, reply);
        (piece.more, piece.count) = (false, 0);
        self.is_over = !more || self.left == 0;
        if self.is_over {
            (piece.header, piece.more, piece.count) = (Some(header), more, count);
            return Ok(piece);
        }
        if let Some(next) = behind {
            self.request.range.key = next;
        }
        let bytes = piece.encoded_len();
        if bytes < self.bytes / 2 {
            self.keys = self.keys.saturating_mul(2);
        } else if bytes > self.bytes.saturating_mul(2) {
            self.keys = (self.keys / 2).max(1);
        }
        Ok(piece)
    }
}
