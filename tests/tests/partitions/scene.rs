//! A fleet whose labors are at seats of their own, with calls and tasks on their way.

use std::time::Duration;

use overseer::{ControlPlane, Labor, Quiet};
use overseer_tests::load::Load;
use overseer_tests::namespaces::Network;
use overseer_tests::processes::{self, Process, Role};
use overseer_tests::seats::Seats;
use overseer_tests::task_load::TaskLoad;
use overseer_tests::{Built, TestFleet, builder, eventually, labor, within};

pub(crate) const LABORS: usize = 3;
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(200);
pub(crate) const SILENCE: Duration = Duration::from_millis(1500);
pub(crate) const GRACE: Duration = Duration::from_secs(2);
pub(crate) const LEASE: Duration = Duration::from_secs(4);

pub(crate) struct Scene {
    pub(crate) seats: Seats,
    pub(crate) fleet: TestFleet,
    pub(crate) labors: Vec<Labor>,
    plane: ControlPlane,
    calls: Load,
    tasks: TaskLoad,
}

/// Runs a scene, where there can be one: its calls and tasks are on their way.
pub(crate) fn play(
    options: impl Fn(Built<Quiet>) -> Built<Quiet> + Send,
    act: impl AsyncFnOnce(Scene) + Send,
) {
    let Some(network) = Network::lay(LABORS) else { return };
    let seats = Seats::new(network, labor!());
    let network = seats.network();
    network.serve(|| async move {
        let plane = ControlPlane::builder().listen(seats.network().listen()).start().await.unwrap();
        let builder = builder(Quiet, seats.clone()).control_plane(&plane).max_nodes(LABORS);
        let builder = builder.intensity(u32::MAX, Duration::from_secs(60));
        let (fleet, labors) = TestFleet::with(options(builder), LABORS).await;
        let calls = Load::start(&fleet, 6, 1);
        let tasks = TaskLoad::start(&fleet, 6, 2);
        let scene = Scene { seats, fleet, labors, plane, calls, tasks };
        scene.work_goes_on().await;
        act(scene).await;
    });
}

impl Scene {
    /// Another ten calls and tasks are done.
    pub(crate) async fn work_goes_on(&self) {
        let (calls, tasks) = (self.calls.answered() + 10, self.tasks.ended() + 10);
        eventually("calls and tasks are done", async || {
            (self.calls.answered() >= calls && self.tasks.ended() >= tasks).then_some(())
        })
        .await;
    }

    /// What runs of one life of a labor.
    pub(crate) fn processes(&self, labor: &Labor, generation: u32) -> Vec<Process> {
        let of_it = |p: &Process| p.labor == labor.id() && p.generation == generation;
        processes::of(self.fleet.name()).into_iter().filter(of_it).collect()
    }

    /// The fleet is whole again; every call and task was answered once and truly.
    pub(crate) async fn ends_well(self) {
        eventually("all labors are ready", async || {
            let count = self.fleet.count_children().await.unwrap();
            assert!(count.total <= LABORS, "{count:?}");
            (count.ready == LABORS).then_some(())
        })
        .await;
        self.work_goes_on().await;
        let report = within("every call is answered", self.calls.finish()).await;
        let tasks = within("every task is over", self.tasks.finish()).await;
        println!("{report}\ntasks: {tasks:?}");
        report.check();
        let (given, recorded): (usize, usize) = (tasks.values().sum(), {
            let over = self.fleet.list_tasks(true, None, 100_000).await.unwrap();
            let live = self.fleet.list_tasks(false, None, 100_000).await.unwrap();
            assert_eq!(live, []);
            over.len()
        });
        assert_eq!(given, recorded, "each task is recorded once");
        eventually("a node for each labor, and no other", async || {
            let all = processes::of(self.fleet.name());
            let count = |role| all.iter().filter(|p| p.role == role).count();
            (count(Role::Agent) == LABORS && count(Role::Host) == LABORS).then_some(())
        })
        .await;
        self.fleet.end().await;
        self.plane.shutdown().await;
    }
}
