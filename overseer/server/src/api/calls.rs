//! `Calls`: what the labors run is called.

use std::time::Duration;

use overseer::{CallError, CallOptions, Fleet};
use tonic::{Request, Response, Status};

use super::fleets::labor_id;
use super::status::{call_failed, refuse};
use super::{Service, caller, proto};
use crate::audit::record::Asked;
use crate::serve::slot::unknown_labor;

fn options(request: &proto::CallRequest) -> CallOptions {
    let mut options = CallOptions::default();
    if let Some(ms) = request.queue_ms {
        options.queue = Duration::from_millis(ms);
    }
    match request.run_ms {
        Some(0) => options.run = None,
        Some(ms) => options.run = Some(Duration::from_millis(ms)),
        None => {}
    }
    options
}

async fn call(fleet: &Fleet, request: proto::CallRequest) -> Result<proto::CallResponse, Status> {
    let options = options(&request);
    let failed = |error: CallError| call_failed(&error);
    let open = match &request.labor {
        None => fleet.start_call(&request.method, request.payload, options).await,
        Some(id) => {
            let id = labor_id(id).map_err(refuse)?;
            let labor = fleet.labor(id).ok_or_else(|| refuse(unknown_labor(fleet.name(), id)))?;
            labor.start_call(&request.method, request.payload, options).await
        }
    };
    let open = open.map_err(failed)?;
    let (labor, task) = (open.labor().to_string(), open.task().to_string());
    let result = open.answer().await.map_err(failed)?;
    Ok(proto::CallResponse { result, labor, task })
}

#[tonic::async_trait]
impl proto::calls_server::Calls for Service {
    async fn call(
        &self,
        request: Request<proto::CallRequest>,
    ) -> Result<Response<proto::CallResponse>, Status> {
        let _entered = self.server.gate.enter().map_err(refuse)?;
        let caller = caller::of(&request)?;
        let request = request.into_inner();
        let slot = self.seen(&caller).fleet(&request.fleet);
        let fleet = slot.and_then(|slot| slot.fleet()).map_err(refuse)?;
        let asked = Asked::of(&request.fleet).with("method", &request.method);
        self.access.audit.call(&caller, asked).await.map_err(refuse)?;
        // A client that goes away drops this, which cancels the call.
        call(&fleet, request).await.map(Response::new)
    }
}
