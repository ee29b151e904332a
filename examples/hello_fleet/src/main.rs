//! The smallest whole program: an Overseer with all callbacks, a local adapter, one call.

use overseer::local::Local;
use overseer::{
    BoxError, Cause, Facts, Fleet, FleetEvent, Labor, MainError, Overseer, Record, Release, ReleaseId,
    WhatNext,
};

#[derive(Default)]
struct MyFleet {
    paired: usize,
    greetings: usize,
}

impl Overseer for MyFleet {
    async fn init(&mut self, fleet: &Fleet<Self>) -> Result<(), BoxError> {
        println!("fleet {} starts", fleet.name());
        Ok(())
    }

    async fn handle_connected(&mut self, _: &Fleet<Self>, labor: &Labor, facts: &Facts) {
        println!("{} connected: {} cores, {}", labor.id(), facts.cores, facts.target);
    }

    async fn handle_loaded(&mut self, _: &Fleet<Self>, labor: &Labor, release: &ReleaseId) {
        println!("{} loaded release {}", labor.id(), release.short());
    }

    async fn handle_paired(&mut self, _: &Fleet<Self>, labor: &Labor) {
        self.paired += 1;
        println!("{} paired", labor.id());
    }

    async fn handle_telemetry(&mut self, _: &Fleet<Self>, labor: &Labor, record: &Record<'_>) {
        self.greetings += 1;
        println!("{} says {:?}", labor.id(), record.body);
    }

    async fn handle_disconnected(&mut self, _: &Fleet<Self>, labor: &Labor, cause: &Cause) {
        println!("{} disconnected: {cause}", labor.id());
    }

    async fn handle_terminated(&mut self, _: &Fleet<Self>, labor: &Labor, cause: &Cause, next: WhatNext) {
        println!("{} terminated: {cause}; {next:?}", labor.id());
    }

    async fn handle_event(&mut self, _: &Fleet<Self>, event: &FleetEvent) {
        println!("{event:?}");
    }
}

fn main() -> Result<(), MainError> {
    overseer::run(async {
        let release = Release::plugin_beside_program("hello_fleet", "1.0.0")?;
        let fleet = Fleet::builder(MyFleet::default())
            .adapter(Local::new())
            .release(release)
            .max_nodes(10)
            .start()
            .await?;

        let labor = fleet.start_child().await?;
        labor.ready().await?;
        let answer: String = labor.call("greet", "world").await?;
        println!("{answer}");

        if fleet.start_children(10).await.is_err() {
            println!("no slot for an 11th labor");
        }
        let paired = fleet.call_state(|state| state.paired).await?;
        println!("{paired} labor paired so far");

        fleet.terminate_child(labor.id());
        println!("ended: {}", labor.terminated().await);
        fleet.stop().await;
        Ok(())
    })
}
