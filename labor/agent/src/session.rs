//! The link to the Overseer: dial, join, attach, and again.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use overseer_protocol::proto::{self, order, session_client::SessionClient};
use overseer_protocol::{Bootstrap, Endpoint, Facts, Identity, MAX_MESSAGE, PROTOCOL};
use parking_lot::Mutex;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::backoff::{Backoff, system_random};
use crate::connect::{self, ConnectError, Credentials, Purpose};
use crate::facts::VERSION;
use crate::join::{self, JoinError, Keys, Pass};
use crate::outbox::Outbox;
use crate::tells::{Tells, Told};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Time for the Overseer to answer Attach with its Welcome.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);

/// What others of the agent need to know of the session: where and as whom to open a connection,
/// and what the next Hello says.
#[derive(Clone)]
pub(crate) struct Standing(Arc<Mutex<Inner>>);

struct Inner {
    pass: Option<Pass>,
    endpoint: Option<Endpoint>,
    release: String,
    ready: bool,
    concurrency: u32,
    draining: bool,
}

impl Standing {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            pass: None,
            endpoint: None,
            release: String::new(),
            ready: false,
            concurrency: 0,
            draining: false,
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Where the session is, and as whom; none before the first join.
    pub(crate) fn place(&self) -> Option<(Endpoint, Credentials)> {
        let inner = self.0.lock();
        Some((inner.endpoint.clone()?, inner.pass.as_ref()?.credentials.clone()))
    }

    pub(crate) fn pass(&self) -> Option<Pass> {
        self.0.lock().pass.clone()
    }

    /// From now on we are this.
    pub(crate) fn renewed(&self, pass: Pass) {
        self.0.lock().pass = Some(pass);
    }

    /// What runs here. `ready`: it may be called, with that many calls at once.
    pub(crate) fn runs(&self, release: &str, ready: bool, concurrency: u32) {
        let mut inner = self.0.lock();
        release.clone_into(&mut inner.release);
        (inner.ready, inner.concurrency) = (ready, concurrency);
    }

    /// Nothing new is taken from now on.
    pub(crate) fn drains(&self) {
        self.0.lock().draining = true;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.0.lock().ready
    }
}

/// A session that was welcomed.
pub(crate) struct Attached {
    pub(crate) welcome: proto::Welcome,
    /// What the Hello said; it may have changed since.
    pub(crate) said_ready: bool,
    /// Of the outbox.
    pub(crate) stream: u64,
}

/// What the link says.
pub(crate) enum LinkEvent {
    /// Every order that follows is of this session; an older one is over.
    Up(Attached),
    Orders(Vec<proto::Order>),
    /// It dials again by itself.
    Down(String),
    /// It is of no use to dial again.
    Refused(String),
}

/// The link; always either dialling or attached.
pub(crate) struct Link {
    dialer: Rc<Dialer>,
    state: State,
}

type Dialled = Result<(Attached, Incoming), String>;
type Dialling = Pin<Box<dyn Future<Output = Dialled>>>;

enum State {
    Dialling(Dialling),
    /// Beside it the next session may be dialled.
    Up(Box<Incoming>, Option<Dialling>),
}

struct Incoming {
    orders: Streaming<proto::ToLabor>,
    /// What came in one message with the Welcome.
    early: Vec<proto::Order>,
}

/// Everything that dialling needs.
pub(crate) struct Dialer {
    pub(crate) bootstrap: Bootstrap,
    pub(crate) facts: Facts,
    pub(crate) standing: Standing,
    pub(crate) outbox: Outbox,
    pub(crate) tells: Tells,
    /// Called once we are somebody, while Attach is on its way.
    pub(crate) on_joined: Box<dyn Fn()>,
}

impl Link {
    /// Starts to dial when it is first waited for.
    pub(crate) fn new(dialer: Dialer) -> Self {
        let dialer = Rc::new(dialer);
        let state = State::Dialling(Box::pin(dialer.clone().dial(Duration::ZERO)));
        Self { dialer, state }
    }

    /// Waits for what happens next. Nothing is lost when the wait is given up.
    pub(crate) async fn next(&mut self) -> LinkEvent {
        let (incoming, next) = match &mut self.state {
            State::Dialling(dialling) => {
                let dialled = dialling.await;
                return self.up(dialled);
            }
            State::Up(incoming, next) => (incoming, next),
        };
        if !incoming.early.is_empty() {
            return LinkEvent::Orders(std::mem::take(&mut incoming.early));
        }
        let message = tokio::select! {
            dialled = dialled(next) => return self.up(dialled),
            message = incoming.orders.message() => message,
        };
        match message {
            Ok(Some(message)) => LinkEvent::Orders(message.orders),
            Ok(None) => self.down("the Overseer closed the session".into()),
            // Even a refusal: it may be that of an older certificate. The next Attach tells.
            Err(status) => self.down(format!("session: {}: {}", status.code(), status.message())),
        }
    }

    fn up(&mut self, dialled: Dialled) -> LinkEvent {
        match dialled {
            Ok((attached, incoming)) => {
                self.state = State::Up(Box::new(incoming), None);
                LinkEvent::Up(attached)
            }
            Err(refused) => LinkEvent::Refused(refused),
        }
    }

    /// Dials the next session while this one is up, as with a renewed certificate.
    pub(crate) fn renew(&mut self) {
        if let State::Up(_, next @ None) = &mut self.state {
            *next = Some(Box::pin(self.dialer.clone().dial(Duration::ZERO)));
        }
    }

    /// Gives the session up and dials anew.
    pub(crate) fn again(&mut self) {
        self.dialer.outbox.lost();
        self.state = State::Dialling(Box::pin(self.dialer.clone().dial(Duration::ZERO)));
    }

    fn down(&mut self, why: String) -> LinkEvent {
        self.dialer.outbox.lost();
        if let State::Up(_, Some(next)) = &mut self.state {
            let next = std::mem::replace(next, Box::pin(std::future::pending()));
            self.state = State::Dialling(next);
            return LinkEvent::Down(why);
        }
        // A server that restarts loses all its labors at once; they do not come back at once.
        let jitter = Backoff::new(FIRST_WAIT, FIRST_WAIT, system_random).next();
        self.state = State::Dialling(Box::pin(self.dialer.clone().dial(jitter)));
        LinkEvent::Down(why)
    }
}

/// The outcome of a dial, if there is one; pends without.
async fn dialled(next: &mut Option<Dialling>) -> Dialled {
    match next {
        Some(next) => next.await,
        None => std::future::pending().await,
    }
}

impl Dialer {
    /// Until a session is welcomed, or refused (the error).
    async fn dial(self: Rc<Self>, wait: Duration) -> Dialled {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT, system_random);
        let mut keys = None;
        let mut told = String::new();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        loop {
            for endpoint in &self.bootstrap.endpoints {
                match self.try_endpoint(endpoint, &mut keys).await {
                    Ok(session) => return Ok(session),
                    Err(JoinError::Refused(why)) => return Err(why),
                    // Said once, however often it is tried.
                    Err(JoinError::Retry(why)) if told == why => {}
                    Err(JoinError::Retry(why)) => {
                        if self.tells.tell(&Told::Unreachable { why: &why }) {
                            told = why;
                        } else {
                            tracing::warn!("{why}");
                        }
                    }
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn try_endpoint(
        &self,
        endpoint: &Endpoint,
        keys: &mut Option<Keys>,
    ) -> Result<(Attached, Incoming), JoinError> {
        let pass = match self.standing.pass() {
            Some(pass) => pass,
            None => {
                let pass = self.join(endpoint, keys).await?;
                self.standing.renewed(pass.clone());
                let Identity { fleet, labor, .. } = &pass.identity;
                self.tells.tell(&Told::Joined { fleet, labor: *labor });
                pass
            }
        };
        self.standing.0.lock().endpoint = Some(endpoint.clone());
        (self.on_joined)();
        let channel =
            connect::connect(endpoint, &pass.credentials, Purpose::Session).await.map_err(unreached)?;
        let attaching = self.attach(channel);
        match tokio::time::timeout(ATTACH_TIMEOUT, attaching).await {
            Ok(session) => session,
            Err(_) => Err(JoinError::Retry(format!("no welcome within {} s", ATTACH_TIMEOUT.as_secs()))),
        }
    }

    async fn join(&self, endpoint: &Endpoint, keys: &mut Option<Keys>) -> Result<Pass, JoinError> {
        let stranger = Credentials { authorities: self.bootstrap.authorities.clone(), identity: None };
        let connecting = connect::connect(endpoint, &stranger, Purpose::Session);
        // The key is made while the connection is on its way.
        let (channel, made) = tokio::join!(connecting, async {
            match keys.take() {
                Some(keys) => Ok(keys),
                None => Keys::generate(),
            }
        });
        let keys = keys.insert(made?);
        let channel = channel.map_err(unreached)?;
        let joining = join::join(channel, keys, &self.bootstrap.claim, &self.facts);
        match tokio::time::timeout(ATTACH_TIMEOUT, joining).await {
            Ok(pass) => pass,
            Err(_) => Err(JoinError::Retry("no answer to Join".into())),
        }
    }

    async fn attach(&self, channel: Channel) -> Result<(Attached, Incoming), JoinError> {
        let hello = {
            let inner = self.standing.0.lock();
            proto::Hello {
                versions: Some(PROTOCOL.into()),
                agent_version: VERSION.to_owned(),
                facts: serde_json::to_vec(&self.facts).unwrap_or_default().into(),
                release: inner.release.clone(),
                ready: inner.ready,
                concurrency: inner.concurrency,
                draining: inner.draining,
            }
        };
        let said_ready = hello.ready;
        let mut client = SessionClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let outgoing = self.outbox.begin(hello);
        let stream = outgoing.number();
        let refused = |s: tonic::Status| join::refusal("attach", &s);
        let mut orders = client.attach(outgoing).await.map_err(refused)?.into_inner();
        let closed = || JoinError::Retry("attach: the Overseer closed the session".into());
        let mut first = orders.message().await.map_err(refused)?.ok_or_else(closed)?.orders.into_iter();
        let Some(order::Kind::Welcome(welcome)) = first.next().and_then(|o| o.kind) else {
            return Err(JoinError::Retry("attach: the first order is no welcome".into()));
        };
        if welcome.version < PROTOCOL.oldest || welcome.version > PROTOCOL.newest {
            return Err(JoinError::Refused(format!(
                "the Overseer chose protocol version {}, this agent speaks {} to {}; upgrade the labor",
                welcome.version, PROTOCOL.oldest, PROTOCOL.newest
            )));
        }
        Ok((Attached { welcome, said_ready, stream }, Incoming { orders, early: first.collect() }))
    }
}

fn unreached(error: ConnectError) -> JoinError {
    match error {
        ConnectError::Unreachable { .. } => JoinError::Retry(error.to_string()),
        // Another endpoint of the document may still be good, so it is not the end.
        ConnectError::BadEndpoint(_) => JoinError::Retry(error.to_string()),
        ConnectError::Credentials(_) => JoinError::Refused(error.to_string()),
    }
}
