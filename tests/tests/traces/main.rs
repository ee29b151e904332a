//! Spans from the client to the plugin, as a collector gets them.
#![allow(clippy::unwrap_used)]

mod collector;

use std::net::TcpListener;

use overseer_tests::served::Served;
use overseer_tests::{eventually, within};

use crate::collector::{Collector, Span};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

macro_rules! serve {
    ($test:expr, $otlp:expr) => {
        Served::start(env!("CARGO_BIN_EXE_test_overseer"), $test, &format!("otlp = \"http://{}\"", $otlp), "")
            .await
    };
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

/// Each span is a child of the one before it, and lies within it.
fn is_chain(spans: &[&Span]) {
    for pair in spans.windows(2) {
        let (outer, inner) = (pair[0], pair[1]);
        assert_eq!(inner.parent, outer.id, "{spans:#?}");
        assert!(inner.time.0 >= outer.time.0 && inner.time.1 <= outer.time.1, "{spans:#?}");
        assert!(inner.time.0 <= inner.time.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_one_trace_from_the_client_to_the_plugin() {
    let (collector, address) = Collector::start().await;
    let served = serve!("call", address);
    served.ready().await;
    let mut call = served.command(["call", &served.fleet, "trace"]);
    let output = call.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: String = serde_json::from_slice(&output.stdout).unwrap();
    let [_, trace, plugin, flags]: [&str; 4] = seen.split('-').collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(flags, "01");
    let spans = collector.spans(trace, 6).await;
    assert_eq!(spans.len(), 6, "{spans:#?}");
    let span = |name| named(&spans, name);
    let (client, server) = (span("overseer call"), span("overseer.control.v1.Calls/Call"));
    assert_eq!(client.parent, "");
    assert_eq!((&*client.service, &*server.service), ("overseer-client", "overseer"));
    is_chain(&[client, server, span("queue")]);
    is_chain(&[client, server, span("dispatch"), span("agent"), span("plugin")]);
    assert_eq!(span("plugin").id, plugin);
    assert_eq!(span("dispatch").attributes["overseer.fleet"], served.fleet);
    assert_eq!(span("dispatch").attributes["overseer.method"], "trace");
    assert!(spans.iter().all(|span| span.error.is_none()), "{spans:#?}");

    // One that fails says so, and one that is not to be sampled leaves nothing but knows its trace.
    let given = format!("00-{TRACE}-{PARENT}-01");
    let mut fails = served.command(["call", &served.fleet, "fail", "\"no bolts\""]);
    assert_eq!(fails.env("TRACEPARENT", given).output().unwrap().status.code(), Some(1));
    let spans = collector.spans(TRACE, 5).await;
    assert_eq!(named(&spans, "overseer.control.v1.Calls/Call").parent, PARENT);
    assert!(named(&spans, "plugin").error.as_ref().unwrap().contains("no bolts"));
    let quiet = format!("00-{}-{PARENT}-00", TRACE.replace('4', "5"));
    let mut call = served.command(["call", &served.fleet, "trace"]);
    let seen: String =
        serde_json::from_slice(&call.env("TRACEPARENT", &quiet).output().unwrap().stdout).unwrap();
    assert_eq!(seen, quiet);
    served.stop().await;
    // What was recorded before the end has been flushed by then.
    assert_eq!(collector.of(&TRACE.replace('4', "5")), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_of_a_task_stay_in_its_trace_over_a_restart() {
    let (collector, address) = Collector::start().await;
    let mut served = serve!("task", address);
    served.ready().await;
    let given = format!("00-{TRACE}-{PARENT}-01");
    let mark = served.path("mark");
    let argument = serde_json::to_string(&(mark.to_str().unwrap(), 2000)).unwrap();
    let mut submit = served.command(["submit", &served.fleet, "mark", &argument]);
    let output = submit.env("TRACEPARENT", &given).output().unwrap();
    let task = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let state = |served: &Served| {
        let shown: serde_json::Value =
            serde_json::from_str(&served.ask(["task", "show", &task, "--json"])).unwrap();
        shown["state"].as_str().unwrap().to_owned()
    };
    eventually("it runs", async || (state(&served) == "running").then_some(())).await;
    // The request and the wait have been exported; the attempt runs on without a server.
    collector.spans(TRACE, 2).await;
    served.kill();
    served.again().await;
    within("it is done", async {
        eventually("done", async || (state(&served) == "done").then_some(())).await
    })
    .await;
    let spans = collector.spans(TRACE, 5).await;
    let span = |name| named(&spans, name);
    let server = span("overseer.control.v1.Tasks/Submit");
    assert_eq!(server.parent, PARENT);
    let dispatch = span("dispatch");
    assert_eq!((&dispatch.parent, &*dispatch.attributes["overseer.attempt"]), (&server.id, "1"));
    assert_eq!(dispatch.attributes["overseer.task"], task);
    assert_eq!(span("queue").parent, server.id);
    is_chain(&[dispatch, span("agent"), span("plugin")]);
    // It ran for so long though the server saw only its end.
    let (start, end) = span("plugin").time;
    assert!(end - start >= 1_900_000_000, "{spans:#?}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_attempt_and_the_next_one_are_in_one_trace() {
    let (collector, address) = Collector::start().await;
    let served = serve!("lost", address);
    served.ready().await;
    let mark = served.path("mark");
    let argument = serde_json::to_string(&(mark.to_str().unwrap(), 500)).unwrap();
    let mut submit = served.command(["submit", &served.fleet, "mark", &argument]);
    let output = submit.env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01")).output().unwrap();
    let task = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    eventually("it runs", async || {
        let shown = served.ask(["task", "show", &task, "--json"]);
        shown.contains("\"state\":\"running\"").then_some(())
    })
    .await;
    served.kill_agents();
    served.ask(["task", "attach", &task]);
    let spans = collector.spans(TRACE, 7).await;
    let attempt = |n: &str| {
        let is_it = |span: &&Span| span.name == "dispatch" && span.attributes["overseer.attempt"] == n;
        spans.iter().find(is_it).unwrap_or_else(|| panic!("{n} in {spans:#?}"))
    };
    assert!(attempt("1").error.is_some());
    assert_eq!((&attempt("2").error, &attempt("2").parent), (&None, &attempt("1").parent));
    assert_eq!(named(&spans, "agent").parent, attempt("2").id);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_dead_or_deaf_costs_spans_and_nothing_else() {
    // One that takes connections and never answers.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let served = serve!("deaf", deaf.local_addr().unwrap());
    served.ready().await;
    for n in 0..20 {
        let text = n.to_string();
        let mut call = served.command(["call", &served.fleet, "echo", &text]);
        let output = call.env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{n}\n"));
    }
    eventually("spans are counted as lost", async || {
        let metrics = served.ask(["status", "--metrics"]);
        let count = |outcome: &str| -> f64 {
            let line = metrics
                .lines()
                .find(|l| l.contains(&format!("overseer_spans_total{{outcome=\"{outcome}\"}}")));
            line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
        };
        (count("not_exported") > 0.0 && count("recorded") >= 100.0).then_some(())
    })
    .await;
    within("it stops all the same", served.stop()).await;
}
