//! `cargo bench -p overseer-tests`: every figure that Overseer promises in one table, each against
//! a floor of the same run or a recorded peer, with the library's default settings.
//!
//! `-- --json` prints the rows as JSON, `-- WORD` only measures the groups whose name has the
//! word in it: `start`, `calls`, `telemetry`, `loss`, `shipping`, `upgrade`,
//! `stop`, `build`, `served`, `memory`.

mod bench;
mod build;
mod calls;
mod floor;
mod loss;
mod memory;
mod print;
mod row;
mod served;
mod shipping;
mod start;
mod stop;
mod telemetry;
mod upgrade;

use std::future::Future;

use overseer::BoxError;

use crate::bench::Bench;
use crate::row::Row;

fn main() -> Result<(), overseer::MainError> {
    overseer::run(async {
        // Cargo adds `--bench`.
        let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
        let json = args.iter().any(|a| a == "--json");
        let words: Vec<&String> = args.iter().filter(|a| !a.starts_with("--")).collect();
        if let Some(unknown) = args.iter().find(|a| a.starts_with("--") && *a != "--json") {
            return Err(format!("unknown option {unknown}; there is only --json").into());
        }
        let wanted = |group: &str| words.is_empty() || words.iter().any(|w| group.contains(w.as_str()));

        let bench = Bench::open().await?;
        let mut rows = Vec::new();
        for group in GROUPS {
            if wanted(group) {
                for row in measure(group, &bench).await? {
                    if !json {
                        eprintln!("{}", print::line(&row));
                    }
                    rows.push(row);
                }
            }
        }
        bench.close().await;
        if rows.is_empty() {
            return Err(format!("nothing is called {words:?}; there are {}", GROUPS.join(", ")).into());
        }
        match json {
            true => println!("{}", serde_json::to_string_pretty(&rows)?),
            false => println!("\n{}", print::table(&rows)),
        }
        Ok(())
    })
}

const GROUPS: [&str; 10] =
    ["start", "calls", "telemetry", "loss", "shipping", "upgrade", "stop", "build", "served", "memory"];

async fn measure(group: &str, bench: &Bench) -> Result<Vec<Row>, BoxError> {
    match group {
        "start" => on_the_heap(start::rows(bench)).await,
        "calls" => on_the_heap(calls::rows(bench)).await,
        "telemetry" => on_the_heap(telemetry::rows(bench)).await,
        "loss" => on_the_heap(loss::rows(bench)).await,
        "shipping" => on_the_heap(shipping::rows(bench)).await,
        "upgrade" => on_the_heap(upgrade::rows(bench)).await,
        "stop" => on_the_heap(stop::rows(bench)).await,
        "build" => build::rows(bench),
        "served" => on_the_heap(served::rows()).await,
        _ => memory::rows(),
    }
}

/// The futures of a whole bench are large.
fn on_the_heap<'a, T>(
    future: impl Future<Output = T> + 'a,
) -> std::pin::Pin<Box<dyn Future<Output = T> + 'a>> {
    Box::pin(future)
}
