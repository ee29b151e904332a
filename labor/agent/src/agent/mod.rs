//! The agent's loop: what the Overseer, the plugin host, the owner and the clock say, one after
//! the other. Nothing in it waits for a network or a disk: that is work on the side.

mod calling;
mod ending;
mod given_up;
mod held;
mod host_streams;
mod hosting;
mod lives;
mod orders;
mod said;
mod upgrade;
mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use overseer_protocol::proto::{self, report::Kind};
use overseer_protocol::{Bootstrap, Cause, Endpoint, OnLeaseLost, ReleaseId};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bulk::Bulk;
use crate::cache::Directory;
use crate::calls::{self, Calls, HostNumber};
use crate::exit::Exit;
use crate::facts;
use crate::host::Confinement;
use crate::host_cache::HostCache;
use crate::load::Loader;
use crate::logs::Logs;
use crate::marker;
use crate::outbox::Outbox;
use crate::owner::Owner;
use crate::session::{Attached, Dialer, Link, LinkEvent, Standing};
use crate::signals::Signals;
use crate::spin::Spin;
use crate::spool::Bounds;
use crate::tells::{Tells, Told};
use calling::{Open, Payload};
use ending::Ending;
use held::Held;
use hosting::Hosting;
use work::Work;

/// Everything that an agent is at one time.
pub(crate) struct Agent {
    tells: Tells,
    on_lease_lost: OnLeaseLost,
    release_keys: Vec<String>,
    environment: std::collections::BTreeMap<String, String>,
    confinement: Option<Arc<Confinement>>,
    directory: Directory,
    standing: Standing,
    outbox: Outbox,
    bulk: Bulk,
    loader: Loader,
    logs: Logs,
    /// Notified when the host may be read again.
    room: Arc<Notify>,
    link: Link,
    session: Option<Session>,
    lease: Duration,
    lease_until: Instant,
    /// When the certificate is to be renewed; none while that is going on.
    renew_at: Option<Instant>,
    /// The certificate is newer than the session: attach again when nothing runs.
    reattach: bool,
    calls: Calls<Payload>,
    spin: Spin,
    open: HashMap<u64, Open>,
    /// Calls whose number is still taken by one of an older session that the plugin has not let
    /// go of.
    deferred: Vec<proto::Call>,
    held: Held,
    /// Large results that are on their way.
    putting: usize,
    hosting: Hosting,
    work: JoinSet<Work>,
    ending: Ending,
}

/// A session that is up.
struct Session {
    number: u64,
    task_prefix: u64,
    beat: Duration,
    next_beat: Instant,
    beats: u64,
    /// When the Overseer last said anything.
    heard: Instant,
}

fn end_what_is_marked() {
    let Ok(mark) = std::env::var(marker::VARIABLE) else { return };
    if let Err(error) = marker::end_marked(&mark) {
        tracing::error!("processes are left: {error}");
    }
}

impl Agent {
    /// Starts to dial; everything else follows from what comes back.
    pub(crate) fn new(
        bootstrap: Bootstrap,
        directory: Directory,
        cache: Option<Arc<HostCache>>,
        tells: Tells,
    ) -> Self {
        let room = Arc::new(Notify::new());
        let standing = Standing::new();
        let outbox = Outbox::new(room.clone());
        let bulk = Bulk::new(standing.clone());
        let logs = Logs::start(bulk.clone(), directory.spool(), Bounds::default(), room.clone());
        let lease = Duration::from_millis(bootstrap.lease_ms);
        let on_lease_lost = bootstrap.on_lease_lost;
        let release_keys = bootstrap.release_keys.clone();
        let environment = bootstrap.environment.clone();
        let confinement = Confinement::new(bootstrap.isolation.clone()).map(Arc::new);
        let prepared = bulk.clone();
        let loader = Loader { bulk: bulk.clone(), directory: directory.clone(), cache };
        // A node without a release will fetch one: its connection is opened beside the session's.
        let fetches = std::cell::Cell::new(loader.has_nothing());
        let link = Link::new(Dialer {
            bootstrap,
            facts: facts::gather(directory.root()),
            standing: standing.clone(),
            outbox: outbox.clone(),
            tells: tells.clone(),
            on_joined: Box::new(move || {
                if fetches.take() {
                    prepared.prepare();
                }
            }),
        });
        Self {
            tells,
            on_lease_lost,
            release_keys,
            environment,
            confinement,
            directory,
            standing,
            outbox,
            bulk,
            loader,
            logs,
            room,
            link,
            session: None,
            lease,
            lease_until: Instant::now() + lease,
            renew_at: None,
            reattach: false,
            calls: Calls::default(),
            spin: Spin::start(),
            open: HashMap::new(),
            deferred: Vec::new(),
            held: Held::default(),
            putting: 0,
            hosting: Hosting::default(),
            work: JoinSet::new(),
            ending: Ending::No,
        }
    }

    /// Until the end. No host of it is left then.
    pub(crate) async fn run(mut self, mut owner: Owner, mut signals: Signals) -> Exit {
        let exit = self.turn(&mut owner, &mut signals).await;
        self.hosting.lives.all().for_each(|life| life.host.kill(Cause::Asked));
        self.work.abort_all();
        crate::orphans::end_all();
        if matches!(exit, Exit::OwnerGone | Exit::LeaseLost) {
            // Nobody else is left to end what plugins have started.
            end_what_is_marked();
        }
        self.directory.clean();
        tracing::info!("the agent ends: {}", exit.meaning());
        exit
    }

    async fn turn(&mut self, owner: &mut Owner, signals: &mut Signals) -> Exit {
        loop {
            let now = Instant::now();
            if let Some(exit) = self.due(now) {
                return exit;
            }
            let timer = self.next_deadline(now);
            let readable = self.outbox.has_room() && self.logs.has_room();
            let lives = &mut self.hosting.lives;
            // Not in a fixed order: a flood from one side must not starve the other.
            tokio::select! {
                () = owner.gone() => return Exit::OwnerGone,
                () = signals.next() => if let Some(exit) = self.on_signal(Instant::now()) { return exit },
                event = self.link.next() => if let Some(exit) = self.on_link(event) { return exit },
                (host, said) = lives.receive(), if readable => self.on_output(host, said),
                Some(done) = self.work.join_next() => self.on_work(done),
                () = self.room.notified(), if !readable => {}
                () = tokio::time::sleep_until(timer) => {}
            }
        }
    }

    fn on_link(&mut self, event: LinkEvent) -> Option<Exit> {
        match event {
            LinkEvent::Up(attached) => self.on_up(attached),
            LinkEvent::Orders(orders) => {
                if let Some(session) = &mut self.session {
                    session.heard = Instant::now();
                }
                orders.into_iter().for_each(|order| self.on_order(order));
            }
            LinkEvent::Down(why) => {
                if self.ending.is_leaving() {
                    return Some(self.ending.exit());
                }
                if !self.tells.tell(&Told::Lost { why: &why }) {
                    tracing::warn!("the session is lost, dialling again: {why}");
                }
                self.bulk.reset();
                self.on_down();
            }
            LinkEvent::Refused(why) => {
                if !self.tells.refused(&why, self.standing.pass().is_some()) {
                    tracing::error!("refused: {why}");
                }
                return Some(Exit::Refused);
            }
        }
        None
    }

    fn on_up(&mut self, attached: Attached) {
        let Attached { welcome, said_ready, stream } = attached;
        if self.session.is_some() {
            // Replaced: the Overseer has given up what it still had to answer.
            self.on_down();
        }
        let now = Instant::now();
        // A server that forgot the rate must not get a flood.
        let beat = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(10)));
        if self.renew_at.is_none()
            && let Some(pass) = self.standing.pass()
        {
            self.renew_at = Some(now + pass.renew_after());
        }
        self.session = Some(Session {
            number: welcome.session,
            task_prefix: welcome.task_prefix,
            beat,
            next_beat: now + beat,
            beats: 0,
            heard: now,
        });
        if welcome.lease_ms > 0 {
            self.lease = Duration::from_millis(welcome.lease_ms);
        }
        self.lease_until = now + self.lease;
        self.spin.set(Duration::from_micros(u64::from(welcome.spin_us)));
        self.outbox.open(stream);
        self.say_held();
        self.say_what_changed(said_ready);
        self.tell_up();
        tracing::info!("attached, session {}", welcome.session);
    }

    fn tell_up(&self) {
        let endpoint = match self.standing.place() {
            Some((Endpoint::Tcp(address), _)) => address,
            Some((Endpoint::Unix(path), _)) => path.display().to_string(),
            None => return,
        };
        self.tells.tell(&Told::Connected { endpoint });
        if self.standing.is_ready() {
            self.tells.tell(&Told::Ready);
        }
    }

    fn on_down(&mut self) {
        self.session = None;
        self.deferred.clear();
        self.calls_event(calls::Event::SessionLost);
    }

    /// What the clock brings.
    fn due(&mut self, now: Instant) -> Option<Exit> {
        if now >= self.lease_until && self.on_lease_lost == OnLeaseLost::End {
            tracing::error!("no word from the Overseer for {} ms", self.lease.as_millis());
            return Some(Exit::LeaseLost);
        }
        if self.calls.next_deadline().is_some_and(|at| at <= now.into_std()) {
            self.calls_event(calls::Event::Tick);
        }
        self.silence(now);
        self.heartbeat(now);
        self.renewal(now);
        self.restart_due(now);
        self.health_due(now);
        self.stop_overdue(now);
        self.ending_due(now)
    }

    fn next_deadline(&self, now: Instant) -> Instant {
        let lease = (self.on_lease_lost == OnLeaseLost::End).then_some(self.lease_until);
        [
            lease,
            self.calls.next_deadline().map(Instant::from_std),
            self.session.as_ref().map(|s| s.next_beat),
            self.silent_at(),
            self.renew_at,
            self.hosting.next_deadline(),
            self.ending.deadline(),
            self.logs.patience_ends(),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or_else(|| now + Duration::from_secs(3600))
    }

    /// A network that swallows everything closes no stream: a session that is silent for a third
    /// of the lease is dialled anew while there is still time.
    fn silence(&mut self, now: Instant) {
        if self.silent_at().is_some_and(|at| at <= now) {
            if !self.tells.tell(&Told::Lost { why: "the Overseer is silent" }) {
                tracing::warn!("the Overseer is silent, dialling again");
            }
            self.link.again();
            // It goes through the same network.
            self.bulk.reset();
            self.on_down();
        }
    }

    fn silent_at(&self) -> Option<Instant> {
        let session = self.session.as_ref()?;
        Some(session.heard + (self.lease / 3).max(session.beat * 3))
    }

    fn heartbeat(&mut self, now: Instant) {
        let Some(session) = self.session.as_mut().filter(|s| s.next_beat <= now) else { return };
        session.beats += 1;
        session.next_beat = now + session.beat;
        let beat = proto::Heartbeat {
            seq: session.beats,
            running: u32::try_from(self.calls.running()).unwrap_or(u32::MAX),
            queued: u32::try_from(self.calls.waiting()).unwrap_or(u32::MAX),
        };
        self.report(Kind::Heartbeat(beat));
    }

    /// Renews the certificate in time, and moves to it when that costs no call. Until then the
    /// session goes on: it is good for as long as the newest certificate of its labor.
    fn renewal(&mut self, now: Instant) {
        if self.reattach && self.calls.running() + self.calls.waiting() == 0 && self.session.is_some() {
            self.reattach = false;
            self.link.renew();
            return;
        }
        if self.renew_at.is_some_and(|at| at <= now)
            && self.session.is_some()
            && let Some((endpoint, credentials)) = self.standing.place()
        {
            self.renew_at = None;
            self.work.spawn(work::renew(endpoint, credentials));
        } else if self.renew_at.is_some_and(|at| at <= now) {
            // Without a session there is nobody to ask; after the next Welcome there is.
            self.renew_at = Some(now + Duration::from_secs(1));
        }
    }

    /// Says something to the Overseer, if there is a session.
    fn report(&self, kind: Kind) {
        if self.session.is_some() {
            self.outbox.control(kind);
        }
    }

    fn host_event(&self, what: &str, host: HostNumber, release: ReleaseId, cause: Option<&Cause>) {
        self.report(Kind::HostEvent(proto::HostEvent {
            what: what.to_owned(),
            cause: cause.map(Cause::to_bytes).unwrap_or_default().into(),
            incarnation: host,
            release: release.to_string(),
        }));
    }
}
