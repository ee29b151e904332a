use crate::world::World;

#[test]
fn the_doctor_says_what_is_here() {
    let world = World::new();
    let report = world.overseer(["doctor", "--json"]).exits(0).document();
    assert_eq!(report["ok"], true);
    let checks = report["checks"].as_array().unwrap();
    let git = checks.iter().find(|c| c["name"] == "git").unwrap();
    assert_eq!(git["status"], "ok");
    let labors = checks.iter().find(|c| c["name"] == "cache of labors").unwrap();
    let place = world.path("cache/labors").display().to_string();
    assert!(labors["found"].as_str().unwrap().starts_with(&place), "{labors}");
    let limits = checks.iter().find(|c| c["name"] == "limits of hosts").unwrap();
    // Each is there, or what is in its way is said.
    let [found, advice] = ["found", "advice"].map(|part| limits[part].as_str().unwrap_or_default());
    let missing = advice.split("; ").filter_map(|said| said.strip_prefix("no ")?.split_once(": "));
    let missing: Vec<_> = missing.flat_map(|(keys, _)| keys.split(", ")).collect();
    for key in ["user", "memory", "cpu", "processes"] {
        assert_ne!(found.split(' ').any(|had| had == key), missing.contains(&key), "{key}: {limits}");
    }
    let text = world.overseer(["doctor"]).exits(0).stdout;
    assert!(text.contains("can run here"), "{text}");
    // Not on a terminal: it is all there.
    assert!(checks.iter().all(|check| text.contains(check["needed_for"].as_str().unwrap())), "{text}");
}

#[test]
fn without_git_the_doctor_fails_and_says_what_to_do() {
    let world = World::new();
    let mut command = world.command(env!("CARGO_BIN_EXE_overseer"));
    let ran = world.run(command.env("PATH", world.path("")).arg("doctor")).exits(1);
    assert!(ran.stdout.contains("git: install git"), "{}", ran.stdout);
}
