//! Every unary RPC as data: its path, its request, its answer.
//!
//! A call travels as bytes through a codec that does nothing, so that an answer is compared as it
//! came: decoded here, and refused when it is not the one canonical encoding of what it says
//! (fields in order, nothing unknown, no zero spelled out), as Go's encoder writes it.

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message as _;
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::v3electionpb as election;
use quorate::api::proto::v3lockpb;
use std::time::Duration;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Past this a server that does not answer is taken to hang.
const CALL_MAX: Duration = Duration::from_secs(10);

macro_rules! rpcs {
    ($($name:ident $path:literal $request:ty, $reply:ty;)*) => {
        #[derive(Clone, Debug, PartialEq)]
        pub enum Call {
            $($name($request),)*
            /// Any bytes to any path.
            Raw(&'static str, Bytes),
        }
        #[derive(Clone, Debug, PartialEq)]
        pub enum Reply {
            $($name($reply),)*
            Raw(Bytes),
        }
        impl Call {
            pub fn path(&self) -> &'static str {
                match self {
                    $(Call::$name(_) => $path,)*
                    Call::Raw(path, _) => path,
                }
            }
            pub fn encode(&self) -> Bytes {
                match self {
                    $(Call::$name(request) => request.encode_to_vec().into(),)*
                    Call::Raw(_, bytes) => bytes.clone(),
                }
            }
            /// The same RPC with another request, if these bytes are one.
            pub fn with(&self, bytes: &[u8]) -> Option<Call> {
                match self {
                    $(Call::$name(_) => <$request>::decode(bytes).ok().map(Call::$name),)*
                    Call::Raw(..) => None,
                }
            }
            fn decode_reply(&self, bytes: &Bytes) -> Result<Reply, String> {
                match self {
                    $(Call::$name(_) => {
                        let reply = <$reply>::decode(bytes.clone()).map_err(|e| e.to_string())?;
                        if reply.encode_to_vec() != *bytes {
                            return Err(format!("not canonical: {bytes:?}"));
                        }
                        Ok(Reply::$name(reply))
                    })*
                    Call::Raw(..) => Ok(Reply::Raw(bytes.clone())),
                }
            }
        }
        impl Reply {
            /// The header, where the message has one and the server sent it.
            pub fn header_mut(&mut self) -> Option<&mut pb::ResponseHeader> {
                match self {
                    $(Reply::$name(reply) => reply.header.as_mut(),)*
                    Reply::Raw(_) => None,
                }
            }
        }
    };
}

rpcs! {
    Range "/etcdserverpb.KV/Range" pb::RangeRequest, pb::RangeResponse;
    Put "/etcdserverpb.KV/Put" pb::PutRequest, pb::PutResponse;
    DeleteRange "/etcdserverpb.KV/DeleteRange" pb::DeleteRangeRequest, pb::DeleteRangeResponse;
    Txn "/etcdserverpb.KV/Txn" pb::TxnRequest, pb::TxnResponse;
    Compact "/etcdserverpb.KV/Compact" pb::CompactionRequest, pb::CompactionResponse;
    LeaseGrant "/etcdserverpb.Lease/LeaseGrant" pb::LeaseGrantRequest, pb::LeaseGrantResponse;
    LeaseRevoke "/etcdserverpb.Lease/LeaseRevoke" pb::LeaseRevokeRequest, pb::LeaseRevokeResponse;
    LeaseTimeToLive "/etcdserverpb.Lease/LeaseTimeToLive" pb::LeaseTimeToLiveRequest, pb::LeaseTimeToLiveResponse;
    LeaseLeases "/etcdserverpb.Lease/LeaseLeases" pb::LeaseLeasesRequest, pb::LeaseLeasesResponse;
    Alarm "/etcdserverpb.Maintenance/Alarm" pb::AlarmRequest, pb::AlarmResponse;
    Status "/etcdserverpb.Maintenance/Status" pb::StatusRequest, pb::StatusResponse;
    Defragment "/etcdserverpb.Maintenance/Defragment" pb::DefragmentRequest, pb::DefragmentResponse;
    Hash "/etcdserverpb.Maintenance/Hash" pb::HashRequest, pb::HashResponse;
    HashKv "/etcdserverpb.Maintenance/HashKV" pb::HashKvRequest, pb::HashKvResponse;
    MoveLeader "/etcdserverpb.Maintenance/MoveLeader" pb::MoveLeaderRequest, pb::MoveLeaderResponse;
    Downgrade "/etcdserverpb.Maintenance/Downgrade" pb::DowngradeRequest, pb::DowngradeResponse;
    MemberAdd "/etcdserverpb.Cluster/MemberAdd" pb::MemberAddRequest, pb::MemberAddResponse;
    MemberRemove "/etcdserverpb.Cluster/MemberRemove" pb::MemberRemoveRequest, pb::MemberRemoveResponse;
    MemberUpdate "/etcdserverpb.Cluster/MemberUpdate" pb::MemberUpdateRequest, pb::MemberUpdateResponse;
    MemberList "/etcdserverpb.Cluster/MemberList" pb::MemberListRequest, pb::MemberListResponse;
    MemberPromote "/etcdserverpb.Cluster/MemberPromote" pb::MemberPromoteRequest, pb::MemberPromoteResponse;
    AuthEnable "/etcdserverpb.Auth/AuthEnable" pb::AuthEnableRequest, pb::AuthEnableResponse;
    AuthDisable "/etcdserverpb.Auth/AuthDisable" pb::AuthDisableRequest, pb::AuthDisableResponse;
    AuthStatus "/etcdserverpb.Auth/AuthStatus" pb::AuthStatusRequest, pb::AuthStatusResponse;
    Authenticate "/etcdserverpb.Auth/Authenticate" pb::AuthenticateRequest, pb::AuthenticateResponse;
    UserAdd "/etcdserverpb.Auth/UserAdd" pb::AuthUserAddRequest, pb::AuthUserAddResponse;
    UserGet "/etcdserverpb.Auth/UserGet" pb::AuthUserGetRequest, pb::AuthUserGetResponse;
    UserList "/etcdserverpb.Auth/UserList" pb::AuthUserListRequest, pb::AuthUserListResponse;
    UserDelete "/etcdserverpb.Auth/UserDelete" pb::AuthUserDeleteRequest, pb::AuthUserDeleteResponse;
    UserChangePassword "/etcdserverpb.Auth/UserChangePassword" pb::AuthUserChangePasswordRequest, pb::AuthUserChangePasswordResponse;
    UserGrantRole "/etcdserverpb.Auth/UserGrantRole" pb::AuthUserGrantRoleRequest, pb::AuthUserGrantRoleResponse;
    UserRevokeRole "/etcdserverpb.Auth/UserRevokeRole" pb::AuthUserRevokeRoleRequest, pb::AuthUserRevokeRoleResponse;
    RoleAdd "/etcdserverpb.Auth/RoleAdd" pb::AuthRoleAddRequest, pb::AuthRoleAddResponse;
    RoleGet "/etcdserverpb.Auth/RoleGet" pb::AuthRoleGetRequest, pb::AuthRoleGetResponse;
    RoleList "/etcdserverpb.Auth/RoleList" pb::AuthRoleListRequest, pb::AuthRoleListResponse;
    RoleDelete "/etcdserverpb.Auth/RoleDelete" pb::AuthRoleDeleteRequest, pb::AuthRoleDeleteResponse;
    RoleGrantPermission "/etcdserverpb.Auth/RoleGrantPermission" pb::AuthRoleGrantPermissionRequest, pb::AuthRoleGrantPermissionResponse;
    RoleRevokePermission "/etcdserverpb.Auth/RoleRevokePermission" pb::AuthRoleRevokePermissionRequest, pb::AuthRoleRevokePermissionResponse;
    Lock "/v3lockpb.Lock/Lock" v3lockpb::LockRequest, v3lockpb::LockResponse;
    Unlock "/v3lockpb.Lock/Unlock" v3lockpb::UnlockRequest, v3lockpb::UnlockResponse;
    Campaign "/v3electionpb.Election/Campaign" election::CampaignRequest, election::CampaignResponse;
    Proclaim "/v3electionpb.Election/Proclaim" election::ProclaimRequest, election::ProclaimResponse;
    Resign "/v3electionpb.Election/Resign" election::ResignRequest, election::ResignResponse;
    Leader "/v3electionpb.Election/Leader" election::LeaderRequest, election::LeaderResponse;
}

/// What a server said to one call.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Reply(Reply),
    Refused(Code, String),
    /// Of a stream, as text.
    Told(String),
    /// Not an answer that etcd's encoder could have produced.
    Broken(String),
}

pub async fn send(channel: &Channel, call: &Call, metadata: MetadataMap) -> Answer {
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
    if let Err(error) = grpc.ready().await {
        return Answer::Broken(format!("no connection: {error}"));
    }
    let mut request = tonic::Request::new(call.encode());
    *request.metadata_mut() = metadata;
    request.set_timeout(CALL_MAX);
    let path = call.path().parse().expect("a path of ours");
    match grpc.unary(request, path, Plain).await {
        Ok(reply) => match call.decode_reply(reply.get_ref()) {
            Ok(reply) => Answer::Reply(reply),
            Err(text) => Answer::Broken(text),
        },
        Err(status) => Answer::Refused(status.code(), status.message().to_string()),
    }
}

/// Bytes in, bytes out.
#[derive(Clone, Copy)]
pub struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Plain;
    type Decoder = Plain;
    fn encoder(&mut self) -> Plain {
        Plain
    }
    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
