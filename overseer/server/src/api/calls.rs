//! `Calls`: what the labors run is called.

use std::time::Duration;

use overseer::trace::TraceContext;
use overseer::{CallError, CallOptions, Fleet};
use tonic::{Request, Response, Status};

use super::fleets::labor_id;
use super::status::{call_failed, refuse};
use super::{Service, caller, proto};
use crate::access::Caller;
use crate::audit::record::Asked;
use crate::failure::FailedCall;
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

async fn call(
    fleet: &Fleet,
    request: proto::CallRequest,
    trace: Option<TraceContext>,
) -> Result<proto::CallResponse, Status> {
    let options = options(&request).trace(trace);
    let open = match &request.labor {
        None => fleet.start_call(&request.method, request.payload, options).await,
        Some(id) => {
            let id = labor_id(id).map_err(refuse)?;
            let labor = fleet.labor(id).ok_or_else(|| refuse(unknown_labor(fleet.name(), id)))?;
            labor.start_call(&request.method, request.payload, options).await
        }
    };
    let open = open.map_err(|error: CallError| call_failed(&error, None))?;
    let (labor, task) = (open.labor().to_string(), open.task().to_string());
    let result = open.answer().await.map_err(|error| {
        let begun = FailedCall { labor: labor.clone(), task: task.clone() };
        call_failed(&error, Some(begun))
    })?;
    Ok(proto::CallResponse { result, labor, task })
}

impl Service {
    async fn call_in(
        &self,
        caller: &Caller,
        request: proto::CallRequest,
        trace: Option<TraceContext>,
    ) -> Result<proto::CallResponse, Status> {
        let _entered = self.server.gate.enter().map_err(refuse)?;
        let slot = self.seen(caller).fleet(&request.fleet);
        let fleet = slot.and_then(|slot| slot.fleet()).map_err(refuse)?;
        let asked = Asked::of(&request.fleet).with("method", &request.method);
        self.access.audit.call(caller, asked).await.map_err(refuse)?;
        // A client that goes away drops this, which cancels the call.
        call(&fleet, request, trace).await
    }
}

#[tonic::async_trait]
impl proto::calls_server::Calls for Service {
    async fn call(
        &self,
        request: Request<proto::CallRequest>,
    ) -> Result<Response<proto::CallResponse>, Status> {
        let span = self.trace(&request, "overseer.control.v1.Calls/Call");
        let caller = caller::of(&request)?;
        let answer = self.call_in(&caller, request.into_inner(), span.context()).await;
        span.end(&answer);
        answer.map(Response::new)
    }
}
