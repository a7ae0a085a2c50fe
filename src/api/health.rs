//! grpc.health.v1: whether this process answers gRPC at all. It does when it can be asked;
//! whether it can commit is what /readyz tells.

use super::proto::healthpb::health_check_response::ServingStatus;
use super::proto::healthpb::health_server::Health;
use super::proto::healthpb::{HealthCheckRequest, HealthCheckResponse};
use super::unfold::unfold;
use tonic::codegen::{BoxStream, async_trait};
use tonic::{Request, Response, Status};

pub struct HealthService;

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

#[async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        // As etcd: the server as a whole is all that is registered.
        if !request.into_inner().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(answer(ServingStatus::Serving)))
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = request.into_inner().service.is_empty();
        let now =
            answer(if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown });
        // The status does not change while anybody can be told of it.
        Ok(Response::new(Box::pin(unfold(Some(now), |now| async move {
            match now {
                Some(now) => Some((Ok(now), None)),
                None => std::future::pending().await,
            }
        }))))
    }
}
