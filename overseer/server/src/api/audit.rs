//! `Audit`: who has asked for what.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::{Answers, Service, WAITING, caller, proto};
use crate::audit::log::{Listed, Wanted};
use crate::serve::gate;

/// Entries of one answer.
const READ: usize = 100;
/// Most entries of one answer.
const MOST: usize = 50_000;

fn entry(listed: Listed) -> proto::AuditEntry {
    let Listed { id, class, record } = listed;
    proto::AuditEntry {
        id: id.to_string(),
        at_ms: record.at_ms,
        kind: class.name().to_owned(),
        who: record.who,
        by: record.by,
        from: record.from,
        method: record.method,
        fleet: record.fleet,
        target: record.target,
        arguments: record.arguments,
        times: record.times,
        took_ms: record.outcome.as_ref().map(|outcome| outcome.took_ms),
        outcome: record.outcome.map(|outcome| outcome.code),
    }
}

#[tonic::async_trait]
impl proto::audit_server::Audit for Service {
    type ReadStream = Answers<proto::ReadAuditResponse>;

    async fn read(
        &self,
        request: Request<proto::ReadAuditRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        use proto::read_audit_response::What;
        drop(self.server.gate.enter().map_err(refuse)?);
        let caller = caller::of(&request)?;
        let request = request.into_inner();
        let mut wanted = Wanted {
            since_ms: request.since_ms,
            fleet: request.fleet,
            denied: request.denied,
            limit: request.limit.map_or(READ, |limit| limit as usize).min(MOST),
        };
        if let Some(only) = caller.principal.fleet() {
            if let Some(other) = wanted.fleet.as_deref().filter(|fleet| *fleet != only.as_str()) {
                self.seen(&caller).fleet(other).map_err(refuse)?;
            }
            wanted.fleet = Some(only.to_string());
        }
        // Before what there is, so that nothing falls between.
        let mut news = self.access.audit.log.follow();
        let read = self.access.audit.log.read(&wanted).await.map_err(refuse)?;
        let (send, receive) = tokio::sync::mpsc::channel(WAITING);
        let server = Arc::clone(&self.server);
        tokio::spawn(async move {
            let answer = |what| Ok(proto::ReadAuditResponse { what: Some(what) });
            let newest = read.last().map(|listed| listed.id);
            for listed in read {
                // A reader that is gone needs no more.
                if send.send(answer(What::Entry(entry(listed)))).await.is_err() {
                    return;
                }
            }
            if !request.follow {
                return;
            }
            loop {
                let what = tokio::select! {
                    listed = news.recv() => match listed {
                        // It was among those that were read.
                        Ok(listed) if listed.record.outcome.is_none() && newest.is_some_and(|id| listed.id <= id) => continue,
                        Ok(listed) if wanted.takes(&listed) => What::Entry(entry(listed)),
                        Ok(_) => continue,
                        Err(RecvError::Lagged(lost)) => What::Lost(lost),
                        Err(RecvError::Closed) => return,
                    },
                    () = send.closed() => return,
                    () = server.gate.closing() => {
                        let _ = send.try_send(Err(refuse(gate::stopping())));
                        return;
                    }
                };
                if send.send(answer(what)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}
