//! What a server has kept, looked at and moved when it has stopped.

use crate::world::World;

#[test]
fn what_a_server_keeps_is_clean_and_goes_on_in_another_place() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    world.ask(["fleet", "start", &world.fleet("a"), "--labors", "2"]);
    world.wait_ready("a", 2);
    let refused = world.overseer(["store", "check", "--data", "data", "--json"]).exits(2).document();
    assert_eq!(refused["code"], "store.in_use");
    // The worst way to leave it.
    let mut serving = serving;
    serving.signal(rustix::process::Signal::KILL);
    serving.end();
    let report = world.ask(["store", "check", "--deep", "--data", "data"]);
    let counts = &report["counts"];
    assert_eq!((&counts["labors"], &counts["claims"]), (&2.into(), &2.into()), "{report}");
    assert_eq!((&counts["fleets by hand"], &counts["certificate authorities"]), (&1.into(), &1.into()));
    world.ask(["store", "export", "all.export", "--blobs", "--data", "data"]);
    std::fs::remove_dir_all(world.path("data")).unwrap();
    world.ask(["store", "import", "all.export", "--data", "data"]);
    // The labors are found again, or replaced: what was said by hand holds.
    let serving = world.serve();
    world.wait_ready("a", 2);
    serving.stop();
    world.ask(["store", "check", "--data", "data"]);
}
