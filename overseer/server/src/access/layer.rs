//! What every request passes before it comes to its handler: its principal is found out, and
//! whether that may do it. The handler finds the [`Caller`] among the request's extensions.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use overseer::door::{Place, Placed};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::request::Parts;
use tonic::codegen::http::{Request, Response};
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};
use tower::Layer;

use super::open::OpenUnder;
use super::rules::{Needs, Record, Rule};
use super::token::{Refused, TokenText};
use super::tokens::Unknown;
use super::{Access, Caller, Principal, no_method, wrong};
use crate::api::status;

/// How a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Over the unix socket.
    Socket,
    /// Over TCP, with TLS.
    Tcp,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct AccessLayer {
    access: Arc<Access>,
    way: Way,
}

impl AccessLayer {
    /// For what comes this way.
    pub(crate) fn new(access: Arc<Access>, way: Way) -> Self {
        Self { access, way }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Checked<S>;

    fn layer(&self, inner: S) -> Checked<S> {
        Checked { inner, layer: self.clone() }
    }
}

/// A service whose requests are checked.
#[derive(Clone)]
pub(crate) struct Checked<S> {
    inner: S,
    layer: AccessLayer,
}

/// A request that may be done.
struct Admitted {
    /// None for a stranger, who may ask for very little.
    caller: Option<Caller>,
    token: Option<TokenText>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Body>> for Checked<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let layer = self.layer.clone();
        // The one that was asked whether it is ready.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let Admitted { caller, token } = match layer.admit(&parts).await {
                Ok(admitted) => admitted,
                Err(status) => return Ok(status.into_http()),
            };
            // Nobody behind this has a use for it.
            parts.headers.remove(AUTHORIZATION);
            if let Some(caller) = &caller {
                parts.extensions.insert(caller.clone());
            }
            let answering = inner.call(Request::from_parts(parts, body));
            let answer = match token {
                None => answering.await?,
                Some(token) => under_token(&layer.access, token, answering).await?,
            };
            if let Some(caller) = caller {
                note_if_unrecorded(&caller, &answer);
            }
            Ok(answer)
        })
    }
}

/// An answer that ends when its token is good no more.
async fn under_token(
    access: &Arc<Access>,
    token: TokenText,
    answering: impl Future<Output = Result<Response<Body>, Infallible>>,
) -> Result<Response<Body>, Infallible> {
    let access = Arc::clone(access);
    let mut ended: Pin<Box<dyn Future<Output = Refused> + Send>> =
        Box::pin(async move { access.tokens.ended(token).await });
    tokio::pin!(answering);
    tokio::select! {
        biased;
        answer = &mut answering => answer.map(|answer| answer.map(|body| Body::new(OpenUnder::new(body, ended)))),
        refused = poll_fn(|cx| ended.as_mut().poll(cx)) => Ok(ended_status(refused).into_http()),
    }
}

/// What somebody is told whose token has ended under an open request.
pub(super) fn ended_status(refused: Refused) -> Status {
    status::denied(tonic::Code::Unauthenticated, &wrong(refused))
}

/// A handler that changes something without a word in the audit log is a mistake of ours.
fn note_if_unrecorded(caller: &Caller, answer: &Response<Body>) {
    let refused = answer.headers().contains_key("grpc-status");
    if caller.rule.record != Record::Nothing && !caller.is_recorded() && !refused {
        debug_assert!(false, "{} is not recorded", caller.rule.path);
        tracing::error!(method = caller.rule.path, "a request is missing in the audit log");
    }
}

impl AccessLayer {
    /// Who asks, and whether he may.
    async fn admit(&self, request: &Parts) -> Result<Admitted, Status> {
        let rule = Rule::of(request.uri.path());
        match self.way {
            Way::Socket => {
                let rule = rule.ok_or_else(no_method)?;
                let caller = owner(request, rule)?;
                self.check(&caller).await?;
                Ok(Admitted { caller: Some(caller), token: None })
            }
            Way::Tcp => self.admit_remote(request, rule).await,
        }
    }

    async fn admit_remote(&self, request: &Parts, rule: Option<&'static Rule>) -> Result<Admitted, Status> {
        let connection = request.extensions.get::<Placed<TcpConnectInfo>>();
        let Some(Placed { inner, place }) = connection else {
            return Err(Status::internal("a connection without an address"));
        };
        let from = inner.remote_addr().map_or_else(|| "?".to_owned(), |address| address.to_string());
        let Some(value) = request.headers.get(AUTHORIZATION) else {
            if rule.is_some_and(|rule| rule.needs == Needs::Nothing) {
                // It has proved nothing: its time goes on.
                return Ok(Admitted { caller: None, token: None });
            }
            return Err(self.access.unknown(rule, None, place, &from).await);
        };
        let token = match bearer(value.as_bytes()) {
            Some(token) => token,
            None => {
                return Err(self.not_known(rule, Unknown::Refused(Refused::Wrong, None), place, &from).await);
            }
        };
        let principal = match self.access.tokens.whose(&token).await {
            Ok(principal) => principal,
            Err(unknown) => return Err(self.not_known(rule, unknown, place, &from).await),
        };
        place.proved();
        let rule = rule.ok_or_else(no_method)?;
        let caller = Caller::new(principal, from, rule);
        self.check(&caller).await?;
        Ok(Admitted { caller: Some(caller), token: Some(token) })
    }

    async fn not_known(&self, rule: Option<&Rule>, unknown: Unknown, place: &Place, from: &str) -> Status {
        self.access.unknown(rule, Some(unknown), place, from).await
    }

    async fn check(&self, caller: &Caller) -> Result<(), Status> {
        match caller.rule.check(&caller.principal) {
            Ok(()) => Ok(()),
            Err(denied) => Err(self.access.denied(caller, denied).await),
        }
    }
}

/// Who is at the socket: whoever can reach it is the owner, or root.
fn owner(request: &Parts, rule: &'static Rule) -> Result<Caller, Status> {
    let peer = request.extensions.get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let peer = peer.ok_or_else(|| Status::internal("a socket whose peer the system does not name"))?;
    let uid = peer.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        // The mode of the socket keeps others away already.
        return Err(Status::permission_denied("the socket is for its owner"));
    }
    let from = match peer.pid() {
        Some(pid) => format!("socket, process {pid}"),
        None => "socket".to_owned(),
    };
    Ok(Caller::new(Principal::Owner { uid }, from, rule))
}

/// The token of `Bearer TOKEN`.
fn bearer(value: &[u8]) -> Option<TokenText> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    TokenText::parse(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_is_read_as_the_rfc_has_it() {
        let token = format!("ovr_{}_{}", "0".repeat(16), "1".repeat(64));
        for good in [format!("Bearer {token}"), format!("bearer  {token} ")] {
            assert!(bearer(good.as_bytes()).is_some(), "{good}");
        }
        for bad in
            [token.clone(), format!("Basic {token}"), "Bearer ".into(), "Bearer é".into(), String::new()]
        {
            assert!(bearer(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(bearer(b"Bearer \xff").is_none());
    }
}
