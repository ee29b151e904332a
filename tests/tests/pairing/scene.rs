use std::sync::Arc;

use overseer::authority::Authority;
use overseer::{ControlPlane, Generation, Labor, LaborState, Quiet};
use overseer_protocol::{Bootstrap, Identity};
use overseer_tests::node::Actors;
use overseer_tests::written::{self, Written};
use overseer_tests::{TestFleet, builder, eventually, labor, within};
use tonic::transport::Channel;
use tonic::{Code, Status};

use overseer_tests::peer::{self, Keys};

/// A fleet with one real labor that serves, beside which a test plays others.
pub(crate) struct Scene {
    pub(crate) plane: ControlPlane,
    pub(crate) fleet: TestFleet,
    pub(crate) serving: Labor,
    pub(crate) actors: Actors,
    pub(crate) written: Written,
}

impl Scene {
    pub(crate) async fn open() -> Self {
        let written = written::listen();
        let address = "127.0.0.1:0".parse().unwrap();
        let plane = ControlPlane::builder().listen(address).start().await.unwrap();
        let actors = Actors::new(labor!());
        let fleet = builder(Quiet, actors.clone()).control_plane(&plane);
        let (fleet, serving) = TestFleet::with_one(fleet).await;
        Self { plane, fleet, serving, actors, written }
    }

    /// A labor that is booting and that the test plays.
    pub(crate) async fn played(&self) -> (Labor, Bootstrap) {
        self.actors.play(true);
        let labor = self.fleet.start_child().await.unwrap();
        let document = self.actors.document(labor.id()).await;
        self.actors.play(false);
        within("it boots", labor.wait_for(|s| s.state == LaborState::Booting)).await;
        (labor, document)
    }

    /// Who the serving labor is.
    pub(crate) fn identity(&self) -> Identity {
        Identity { fleet: self.fleet.name().clone(), labor: self.serving.id(), generation: Generation::FIRST }
    }

    pub(crate) async fn authority(&self) -> Arc<Authority> {
        peer::authority_of(&self.plane).await
    }

    /// A connection with a certificate that the fleet's own authority issues for `identity`.
    pub(crate) async fn connect_as(&self, identity: &Identity) -> Channel {
        let authority = self.authority().await;
        let hour = std::time::Duration::from_secs(3600);
        let shown = Keys::generate().issued(&authority, identity, hour);
        peer::dial(&self.plane.endpoints()[0], authority.certificate(), Some(shown)).await.unwrap()
    }

    /// Waits until one line of the log has all of these.
    pub(crate) async fn wrote(&self, parts: &[&str]) {
        let seen = async || self.written.has(parts).then_some(());
        eventually(&format!("a line of the log with {parts:?}"), seen).await;
    }

    /// The fleet serves as before, with the same labor.
    pub(crate) async fn serves(&self) {
        let answer = within("an answer", self.serving.call::<_, u32>("echo", &7)).await;
        assert_eq!(answer.unwrap(), 7);
        assert_eq!(self.serving.status().generation, Generation::FIRST);
    }

    /// Checks that, and ends.
    pub(crate) async fn close(self) {
        self.serves().await;
        self.fleet.end().await;
        within("the shutdown", self.plane.shutdown()).await;
    }
}

/// The status of a refusal.
pub(crate) fn refused<T>(answer: Result<T, Status>, code: Code) -> String {
    match answer {
        Ok(_) => panic!("it was not refused"),
        Err(status) => {
            assert_eq!(status.code(), code, "{status:?}");
            status.message().to_owned()
        }
    }
}
