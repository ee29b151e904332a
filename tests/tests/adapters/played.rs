use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use overseer::adapter::NodeKey;
use overseer::adapter::mock::Mock;
use overseer::{Cause, Deadlines, Fleet, FleetBuilder, FleetEvent, Labor, LaborId, Overseer, WhatNext};
use overseer_protocol::proto::{ToLabor, ToOverseer, order};
use overseer_tests::peer::{self, Keys};
use overseer_tests::{TestFleet, eventually, within};
use tokio::sync::mpsc;
use tonic::Streaming;

/// What a callback was told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Going(LaborId, Cause),
    Terminated(LaborId, Cause, WhatNext),
}

/// Passes on what it is told of ends.
pub(crate) struct Listener(mpsc::UnboundedSender<Told>);

impl Overseer for Listener {
    async fn handle_event(&mut self, _: &Fleet<Self>, event: &FleetEvent) {
        if let FleetEvent::Going { labor, cause } = event {
            // A test that has ended listens no more.
            let _ = self.0.send(Told::Going(labor.id(), cause.clone()));
        }
    }

    async fn handle_terminated(&mut self, _: &Fleet<Self>, labor: &Labor, cause: &Cause, next: WhatNext) {
        let _ = self.0.send(Told::Terminated(labor.id(), cause.clone(), next));
    }
}

/// A fleet of empty labors on a mock, whose nodes only the test plays.
pub(crate) struct Played {
    pub(crate) mock: Mock,
    pub(crate) fleet: TestFleet<Listener>,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Played {
    pub(crate) async fn start(mock: Mock) -> Self {
        Self::with(mock, |builder| builder).await
    }

    pub(crate) async fn with(
        mock: Mock,
        change: impl FnOnce(FleetBuilder<Listener>) -> FleetBuilder<Listener>,
    ) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (send, told) = mpsc::unbounded_channel();
        let builder = Fleet::builder(Listener(send))
            .name(format!("played-{}-{number}", std::process::id()))
            .adapter(mock.clone())
            // Nobody plays a heart.
            .silence(Duration::from_secs(300))
            .lease(Duration::from_secs(600));
        Self { mock, fleet: TestFleet::start(change(builder)).await, told }
    }

    /// The next thing that a callback is told.
    pub(crate) async fn told(&mut self) -> Told {
        within("a callback", self.told.recv()).await.unwrap()
    }

    /// Waits until some life of a labor is booting.
    pub(crate) async fn boots(&self, labor: &Labor, generation: u32) {
        let good =
            |s: &overseer::Status| s.generation.0 == generation && s.state == overseer::LaborState::Booting;
        within("it boots", labor.wait_for(good)).await;
    }

    pub(crate) fn key(&self, labor: &Labor, generation: u32) -> NodeKey {
        let generation = overseer::Generation(generation);
        NodeKey { fleet: self.fleet.name().clone(), labor: labor.id(), generation }
    }

    /// Names of the nodes that are there.
    pub(crate) fn nodes(&self) -> Vec<NodeKey> {
        self.mock.nodes().into_iter().map(|node| node.key).collect()
    }

    /// Joins and attaches in the place of a node, which is ready then.
    pub(crate) async fn attach(&self, key: &NodeKey) -> Agent {
        let request = self.mock.requests().into_iter().find(|r| r.key == *key).unwrap();
        let document = request.bootstrap;
        let keys = Keys::generate();
        let joined = peer::join(&document, peer::join_request(&document.claim, &keys)).await.unwrap();
        let shown = keys.identity(&joined.identity.unwrap().certificate);
        let channel = peer::reach(&document, Some(shown)).await;
        let (reports, orders) = peer::attach(&channel, vec![peer::hello()]).await.unwrap();
        Agent { reports, orders }
    }

    /// Stops the fleet. The mock has no node then.
    pub(crate) async fn end(self) {
        self.fleet.end().await;
        assert_eq!(self.mock.nodes(), []);
    }
}

/// One end of an attached session.
pub(crate) struct Agent {
    pub(crate) reports: mpsc::Sender<ToOverseer>,
    orders: Streaming<ToLabor>,
}

impl Agent {
    /// Waits for the first order that fits; others are let pass.
    pub(crate) async fn ordered(&mut self, what: &str, fits: impl Fn(&order::Kind) -> bool) {
        eventually(what, async || {
            let message = within(what, self.orders.message()).await.unwrap().expect("the session is open");
            let kinds = message.orders.into_iter().filter_map(|order| order.kind);
            kinds.into_iter().any(|kind| fits(&kind)).then_some(())
        })
        .await;
    }
}

/// Ends that are not confirmed are asked for again soon.
pub(crate) fn impatient() -> Deadlines {
    Deadlines { terminate: Duration::from_millis(20), ..Deadlines::default() }
}
