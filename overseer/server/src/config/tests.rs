use std::path::Path;

use overseer::{Isolation, ReleaseCache};

use super::fleet::ReleasePlace;
use super::*;

/// A good file, to which each case adds its mistake.
const GOOD: &str = "[fleets.web]\nadapter = \"local\"\nrelease = \"web.release\"\n";

fn parse(text: &str) -> Result<Config, Failure> {
    Config::parse("overseer.toml", text.to_owned(), Path::new("/etc/overseer"))
}

#[test]
fn the_example_is_a_configuration_and_says_the_defaults() {
    let config = parse(EXAMPLE).unwrap();
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| {
            let key =
                line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
            format!("{}\n", key.unwrap_or(line))
        })
        .collect();
    assert!(uncommented.lines().filter(|line| line.contains(" = ")).count() == 31, "{uncommented}");
    let said = parse(&uncommented).unwrap();
    assert_eq!(said.server, config.server);
    let name: FleetName = "web".parse().unwrap();
    let (plain, said) = (&config.fleets[&name], &said.fleets[&name]);
    assert_eq!(plain.differences(said), ["environment"]);
    assert_eq!(plain.labors, said.labors);
    // Those that are only examples can be said, but for the certificate in place of the names.
    let examples =
        EXAMPLE.replace("#   control_cert", "# control_cert").replace("#   control_key", "# control_key");
    let server = parse(&examples.replace("#   ", "")).unwrap();
    assert_eq!(server.server.differences(&config.server).len(), 7, "{server:?}");
    assert_eq!(config.fleets[&name].differences(&server.fleets[&name]), ["spin", "isolation"]);
    assert_eq!(config.server, ServerConfig::default());
}

#[test]
fn what_a_file_says_is_what_is_read() {
    let config = parse(
        "[server]\ndata = \"state\"\nsocket = \"/run/o/c.sock\"\nlisten = \"127.0.0.1:0\"\n\
         control = \"[::1]:7401\"\ncontrol_cert = \"tls/c.pem\"\ncontrol_key = \"/k.pem\"\non_stop = \"end\"\n\
         grace = \"1m 30s\"\nmetrics = \"0.0.0.0:9464\"\nmetrics_open = true\n[fleets.web]\nadapter = \"local\"\nrelease = \"../web.release\"\ntrust = [\"a.pub\"]\n\
         unsigned = \"allow\"\nlabors = 3\nmax_labors = 5\nrestart = \"temporary\"\nheartbeat = \"2s\"\n\
         silence = \"6s\"\nlease = \"1m\"\ngrace = \"7s\"\nescalation = \"stop_fleet\"\n\
         task_retention = \"1h\"\nspin = \"50us\"\nintensity = { restarts = 2, period = \"10s\" }\ndeadlines = { stop = \"9s\" }\n\
         environment = { A = \"b\" }\nrelease_cache = { directory = \"cache\", quota = \"5MiB\" }\n\
         [fleets.web.isolation]\nuser = \"1000:1001\"\nmemory = \"64MiB\"\ncpu = \"0.25\"\nprocesses = 99\n\
         open_files = 100\nfile_size = \"1KiB\"\ncore = \"0\"\nrequired = true\n",
    )
    .unwrap();
    assert_eq!(config.server.data.as_deref(), Some(Path::new("/etc/overseer/state")));
    assert_eq!(config.server.socket.as_deref(), Some(Path::new("/run/o/c.sock")));
    assert_eq!((config.server.on_stop, config.server.grace.as_secs()), (OnStop::End, 90));
    assert_eq!(config.server.control.unwrap().to_string(), "[::1]:7401");
    let files = config.server.control_identity.as_ref().unwrap();
    assert_eq!(files.certificate, Path::new("/etc/overseer/tls/c.pem"));
    assert_eq!(files.key, Path::new("/k.pem"));
    assert_eq!(config.server.metrics, Some(([0, 0, 0, 0], 9464).into()));
    let web = config.fleets.values().next().unwrap();
    assert_eq!(web.release.value, ReleasePlace::File("/etc/overseer/../web.release".into()));
    assert_eq!((web.labors, web.options.max_nodes, web.unsigned), (3, 5, true));
    assert_eq!((web.options.intensity, web.options.period.as_secs()), (2, 10));
    assert_eq!((web.options.silence.as_secs(), web.options.deadlines.stop.as_secs()), (6, 9));
    assert_eq!(web.options.spin.as_micros(), 50);
    assert_eq!((web.environment["A"].as_str(), web.options.task_retention.as_secs()), ("b", 3600));
    assert_eq!(web.release_cache, ReleaseCache::at("/etc/overseer/cache").quota(5 << 20));
    let isolation = Isolation {
        user: Some("1000:1001".parse().unwrap()),
        memory: Some(64 << 20),
        cpu_milli: Some(250),
        processes: Some(99),
        open_files: Some(100),
        file_size: Some(1024),
        core: Some(0),
        required: true,
    };
    assert_eq!(web.isolation, isolation);
}

/// What is added to a good file, its line from there on, the key, the code, and a part of the advice.
type Case = (&'static str, u32, Option<&'static str>, &'static str, &'static str);

#[test]
fn every_key_that_is_wrong_is_shown_with_what_would_be_right() {
    let in_fleet: &[Case] = &[
        (
            "adapterr = \"local\"",
            4,
            Some("fleets.web.adapterr"),
            "config.unknown_key",
            "did you mean `adapter`",
        ),
        ("zzz = 1", 4, Some("fleets.web.zzz"), "config.unknown_key", "the keys here are `adapter`"),
        (
            "task_retention = 7",
            4,
            Some("fleets.web.task_retention"),
            "config.value",
            "task_retention = \"30s\"",
        ),
        ("trust = \"me.pub\"", 4, Some("fleets.web.trust"), "config.value", "trust = [\"me.pub\"]"),
        ("trust = [1]", 4, Some("fleets.web.trust"), "config.value", "trust = [\"me.pub\"]"),
        ("trust = [\"\"]", 4, Some("fleets.web.trust"), "config.value", "trust = [\"me.pub\"]"),
        ("unsigned = true", 4, Some("fleets.web.unsigned"), "config.value", "unsigned = \"allow\""),
        (
            "unsigned = \"alow\"",
            4,
            Some("fleets.web.unsigned"),
            "config.value",
            "did you mean unsigned = \"allow\"",
        ),
        ("labors = \"3\"", 4, Some("fleets.web.labors"), "config.value", "from 0 to 10000"),
        ("labors = -1", 4, Some("fleets.web.labors"), "config.value", "from 0 to 10000"),
        ("labors = 99999999999999999999", 4, None, "config.value", ""),
        ("labors = 65", 4, Some("fleets.web.labors"), "config.value", "max_labors = 65"),
        ("max_labors = 0", 4, Some("fleets.web.max_labors"), "config.value", "from 1"),
        ("restart = \"always\"", 4, Some("fleets.web.restart"), "config.value", "restart = \"permanent\""),
        ("intensity = 10", 4, Some("fleets.web.intensity"), "config.value", "{ restarts = 10"),
        (
            "intensity = { restart = 1 }",
            4,
            Some("fleets.web.intensity.restart"),
            "config.unknown_key",
            "`restarts`",
        ),
        (
            "intensity = { restarts = 1.5 }",
            4,
            Some("fleets.web.intensity.restarts"),
            "config.value",
            "whole number",
        ),
        (
            "intensity = { period = 5 }",
            4,
            Some("fleets.web.intensity.period"),
            "config.value",
            "period = \"30s\"",
        ),
        ("escalation = \"panic\"", 4, Some("fleets.web.escalation"), "config.value", "give_up_labor"),
        ("heartbeat = 1", 4, Some("fleets.web.heartbeat"), "config.value", "heartbeat = \"30s\""),
        ("heartbeat = \"1\"", 4, Some("fleets.web.heartbeat"), "config.value", "its unit"),
        ("heartbeat = \"5s\"", 4, Some("fleets.web.silence"), "config.value", "more than 5s"),
        ("silence = \"1s\"", 4, Some("fleets.web.silence"), "config.value", "more than 1s"),
        ("silence = \"1m\"", 4, Some("fleets.web.lease"), "config.value", "more than 1m"),
        ("grace = \"0s\"", 4, Some("fleets.web.grace"), "config.value", "its unit"),
        ("spin = \"0s\"", 4, Some("fleets.web.spin"), "config.value", "or leave it out"),
        ("spin = \"2ms\"", 4, Some("fleets.web.spin"), "config.value", "spin = \"50us\""),
        ("lease = \"1s\"", 4, Some("fleets.web.lease"), "config.value", "more than 3s"),
        ("lease = \"1000y\"", 4, Some("fleets.web.lease"), "config.value", "its unit"),
        ("environment = [\"A=b\"]", 4, Some("fleets.web.environment"), "config.value", "GREETING"),
        ("environment = { A = 1 }", 4, Some("fleets.web.environment.A"), "config.value", "A = "),
        (
            "environment = { \"A=\" = \"b\" }",
            4,
            Some("fleets.web.environment.A="),
            "config.value",
            "without `=`",
        ),
        ("release_cache = 5", 4, Some("fleets.web.release_cache"), "config.value", "quota = \"2GiB\""),
        (
            "release_cache = { quota = 5 }",
            4,
            Some("fleets.web.release_cache.quota"),
            "config.value",
            "500MiB",
        ),
        (
            "release_cache = { quota = \"much\" }",
            4,
            Some("fleets.web.release_cache.quota"),
            "config.value",
            "500MiB",
        ),
        (
            "release_cache = { size = \"5\" }",
            4,
            Some("fleets.web.release_cache.size"),
            "config.unknown_key",
            "`quota`",
        ),
        ("isolation = true", 4, Some("fleets.web.isolation"), "config.value", "user = \"nobody\""),
        ("isolation = { usr = \"x\" }", 4, Some("fleets.web.isolation.usr"), "config.unknown_key", "`user`"),
        ("isolation = { user = \"root\" }", 4, Some("fleets.web.isolation.user"), "config.value", "not root"),
        ("isolation = { user = \"a:b\" }", 4, Some("fleets.web.isolation.user"), "config.value", "UID:GID"),
        ("isolation = { user = 5 }", 4, Some("fleets.web.isolation.user"), "config.value", "\"nobody\""),
        (
            "isolation = { memory = 5 }",
            4,
            Some("fleets.web.isolation.memory"),
            "config.value",
            "memory = \"500MiB\"",
        ),
        (
            "isolation = { memory = \"1MiB\" }",
            4,
            Some("fleets.web.isolation.memory"),
            "config.value",
            "\"16MiB\" or more",
        ),
        ("isolation = { cpu = 1.5 }", 4, Some("fleets.web.isolation.cpu"), "config.value", "cpu = \"1.5\""),
        ("isolation = { cpu = \"-1\" }", 4, Some("fleets.web.isolation.cpu"), "config.value", "\"1.5\""),
        (
            "isolation = { cpu = \"0.001\" }",
            4,
            Some("fleets.web.isolation.cpu"),
            "config.value",
            "half a core",
        ),
        (
            "isolation = { cpu = \"unlimited\" }",
            4,
            Some("fleets.web.isolation.cpu"),
            "config.value",
            "\"1.5\"",
        ),
        (
            "isolation = { processes = 1 }",
            4,
            Some("fleets.web.isolation.processes"),
            "config.value",
            "from 16",
        ),
        (
            "isolation = { open_files = 0 }",
            4,
            Some("fleets.web.isolation.open_files"),
            "config.value",
            "from 32",
        ),
        (
            "isolation = { file_size = \"x\" }",
            4,
            Some("fleets.web.isolation.file_size"),
            "config.value",
            "its unit",
        ),
        (
            "isolation = { core = 0 }",
            4,
            Some("fleets.web.isolation.core"),
            "config.value",
            "core = \"500MiB\"",
        ),
        (
            "isolation = { required = \"yes\" }",
            4,
            Some("fleets.web.isolation.required"),
            "config.value",
            "required = true",
        ),
        ("deadlines = \"1m\"", 4, Some("fleets.web.deadlines"), "config.value", "{ boot = "),
        ("deadlines = { bot = \"1m\" }", 4, Some("fleets.web.deadlines.bot"), "config.unknown_key", "`boot`"),
        ("deadlines = { stop = 5 }", 4, Some("fleets.web.deadlines.stop"), "config.value", "stop = \"30s\""),
        ("labors = 1\nlabors = 2", 5, None, "config.syntax", "toml.io"),
        ("[server]\ndta = \"x\"", 5, Some("server.dta"), "config.unknown_key", "did you mean `data`"),
        ("[server]\ndata = 1", 5, Some("server.data"), "config.value", "/var/lib/overseer"),
        ("[server]\nsocket = []", 5, Some("server.socket"), "config.value", "control.sock"),
        ("[server]\nlisten = 7400", 5, Some("server.listen"), "config.value", "0.0.0.0:7400"),
        ("[server]\nmetrics = 9464", 5, Some("server.metrics"), "config.value", "127.0.0.1:9464"),
        ("[server]\nmetrics = \"localhost\"", 5, Some("server.metrics"), "config.value", "127.0.0.1:9464"),
        ("[server]\nmetrics = \"[::]:1\"", 5, Some("server.metrics"), "config.value", "metrics_open = true"),
        ("[server]\nmetrics_open = 1", 5, Some("server.metrics_open"), "config.value", "metrics_open = true"),
        (
            "[server]\notlp = \"localhost:4317\"",
            5,
            Some("server.otlp"),
            "config.value",
            "http://127.0.0.1:4317",
        ),
        ("[server]\notlp = \"https://x:1\"", 5, Some("server.otlp"), "config.value", "http://127.0.0.1:4317"),
        ("[server]\nlisten = \"localhost\"", 5, Some("server.listen"), "config.value", "0.0.0.0:7400"),
        ("[server]\ncontrol = 7401", 5, Some("server.control"), "config.value", "0.0.0.0:7401"),
        ("[server]\ncontrol = \"7401\"", 5, Some("server.control"), "config.value", "[::]:7401"),
        ("[server]\ncontrol = \"\"", 5, Some("server.control"), "config.value", "0.0.0.0:7401"),
        (
            "[server]\ncontrl = \"1\"",
            5,
            Some("server.contrl"),
            "config.unknown_key",
            "did you mean `control`",
        ),
        (
            "[server]\nlisten = \"[::]:7400\"\ncontrol = \"[::]:7400\"",
            6,
            Some("server.control"),
            "config.value",
            "another port",
        ),
        (
            "[server]\ncontrol_cert = \"a.pem\"",
            5,
            Some("server.control_cert"),
            "config.value",
            "write control =",
        ),
        (
            "[server]\ncontrol_key = \"a.key\"",
            5,
            Some("server.control_key"),
            "config.value",
            "write control =",
        ),
        (
            "[server]\ncontrol_names = [\"a\"]",
            5,
            Some("server.control_names"),
            "config.value",
            "write control =",
        ),
        (
            "[server]\ncontrol = \"[::]:1\"\ncontrol_cert = \"a.pem\"",
            6,
            Some("server.control_key"),
            "config.missing",
            "control_key = \"server.key\"",
        ),
        (
            "[server]\ncontrol = \"[::]:1\"\ncontrol_key = \"a.key\"",
            6,
            Some("server.control_cert"),
            "config.missing",
            "control_cert = \"server.pem\"",
        ),
        (
            "[server]\ncontrol = \"[::]:1\"\ncontrol_names = \"a\"",
            6,
            Some("server.control_names"),
            "config.value",
            "control_names = [",
        ),
        (
            "[server]\ncontrol = \"[::]:1\"\ncontrol_names = [\"https://a\"]",
            6,
            Some("server.control_names"),
            "config.value",
            "without a port",
        ),
        (
            "[server]\ncontrol = \"[::]:1\"\ncontrol_names = [\"a\"]\ncontrol_cert = \"c\"\ncontrol_key = \"k\"",
            6,
            Some("server.control_names"),
            "config.value",
            "remove one",
        ),
        (
            "[server]\non_stop = \"kep\"",
            5,
            Some("server.on_stop"),
            "config.value",
            "did you mean on_stop = \"keep\"",
        ),
        ("[server]\ngrace = \"soon\"", 5, Some("server.grace"), "config.value", "its unit"),
        ("[[server]]", 4, Some("server"), "config.value", "[server]"),
        ("[servr]", 4, Some("servr"), "config.unknown_key", "did you mean `server`"),
        ("[fleets.Web]", 4, Some("fleets.Web"), "config.value", "a-z, 0-9"),
        (
            "[fleets.db]\nrelease = \"x\"",
            4,
            Some("fleets.db.adapter"),
            "config.missing",
            "adapter = \"local\"",
        ),
        (
            "[fleets.db]\nadapter = \"local\"\nrelease = \"ftp://a/b\"",
            6,
            Some("fleets.db.release"),
            "config.value",
            "https://",
        ),
        ("release_id = \"x\"", 4, Some("fleets.web.release_id"), "config.value", "remove it"),
        (
            "[fleets.db]\nadapter = \"local\"\nrelease = \"https://a/b\"",
            4,
            Some("fleets.db.release_id"),
            "config.missing",
            "overseer release inspect",
        ),
        (
            "[fleets.db]\nadapter = \"local\"\nrelease = \"https://a/b\"\nrelease_id = \"12\"",
            7,
            Some("fleets.db.release_id"),
            "config.value",
            "overseer release inspect",
        ),
        ("[fleets.db]\nadapter = \"local\"", 4, Some("fleets.db.release"), "config.missing", "release = "),
        (
            "[fleets.db]\nadapter = \"ec2\"",
            5,
            Some("fleets.db.adapter"),
            "config.value",
            "adapter = \"local\"",
        ),
        ("[fleets.db]\nadapter = 1", 5, Some("fleets.db.adapter"), "config.value", "adapter = \"local\""),
        ("[fleets]\ndb = 1", 4, None, "config", ""),
    ];
    parse(GOOD).unwrap();
    for (added, line, key, code, help) in in_fleet {
        let failure = parse(&format!("{GOOD}{added}\n")).err();
        let failure = failure.unwrap_or_else(|| panic!("{added} was taken"));
        let said = format!("{added}: {failure} ({:?})", failure.help);
        assert!(failure.code.starts_with(code), "{said}: {}", failure.code);
        assert!(failure.help.as_deref().unwrap_or_default().contains(help), "{said}");
        let place = failure.place.unwrap_or_else(|| panic!("{said} has no place"));
        if key.is_some() {
            assert_eq!(place.key.as_deref(), *key, "{said}");
            assert_eq!(place.line, *line, "{said}");
        }
    }
}

#[test]
fn a_name_is_shown_where_it_stands() {
    let failure =
        parse("[fleets.web]\nadapter = \"local\"\nrelease = \"x\"\n  leese = \"1m\"\n").unwrap_err();
    let place = failure.place.unwrap();
    assert_eq!((place.line, place.column), (4, 3));
    assert_eq!(&place.source.inner()[place.span], "leese");
}

#[test]
fn what_a_file_names_must_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let plan = |text: &str| Config::parse("o.toml", text.to_owned(), directory.path()).unwrap().plan();
    let failure = plan(GOOD).map(|_| ()).unwrap_err();
    assert_eq!((failure.place.as_ref().unwrap().line, &*failure.code), (3, "release.package_io"));
    let failure = plan(&format!("{GOOD}trust = [\"a\"]\n")).map(|_| ()).unwrap_err();
    assert_eq!((failure.place.as_ref().unwrap().line, &*failure.code), (4, "release.key_not_public"));
    std::fs::write(directory.path().join("run"), "#!/bin/sh\n").unwrap();
    let builder = overseer_release::ReleaseBuilder::program("web", "1.0.0", directory.path().join("run"));
    builder.write(&directory.path().join("web.release")).unwrap();
    let failure = plan(GOOD).map(|_| ()).unwrap_err();
    assert_eq!((failure.place.as_ref().unwrap().line, &*failure.code), (3, "release.signature_missing"));
    let plan = plan(&format!("{GOOD}unsigned = \"allow\"\n")).unwrap();
    assert_eq!(plan.fleets.values().next().unwrap().release_name(), "web 1.0.0");
}
