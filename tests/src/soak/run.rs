use std::time::{Duration, Instant};

use overseer::check;
use overseer::data_dir::DataDir;
use overseer::{BoxError, FleetName};
use rustix::process::Signal;

use super::books::{Books, Report};
use super::faults::{Fault, Faults};
use super::link::{Link, Server, number};
use super::server::Ask;
use crate::cable::Cable;
use crate::processes::{self, Role};
use crate::steps::Random;
use crate::{PATIENCE, eventually, memory};

/// How long, how much.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long faults are made.
    pub time: Duration,
    /// Or until so many were made.
    pub rounds: Option<usize>,
    /// So many labors.
    pub labors: usize,
    /// Of the faults.
    pub seed: u64,
}

/// Clients of tasks, and as many of calls.
const CLIENTS: usize = 16;
/// Cables that the labors share.
const CABLES: usize = 8;
/// Longest time between two faults for ten labors; more labors have more of them.
const BETWEEN_MS: usize = 3000;

/// Where all of it is. Whatever runs of the fleet when this goes is killed.
struct Place {
    directory: tempfile::TempDir,
    fleet: FleetName,
}

impl Drop for Place {
    fn drop(&mut self) {
        for process in processes::of(&self.fleet) {
            processes::signal(process.pid, Signal::KILL);
        }
    }
}

/// Runs it: the report says whether all was well.
///
/// # Errors
/// Something could not even be tried.
///
/// # Panics
/// When something takes far longer than it may.
pub async fn run(options: &Options) -> Result<Report, BoxError> {
    let directory = tempfile::Builder::new().prefix("soak-").tempdir_in("/tmp")?;
    let place = Place { directory, fleet: format!("soak-{}", std::process::id()).parse()? };
    let path = |name: &str| place.directory.path().join(name);
    let (data, cables, marks, log) = (path("data"), path("cables"), path("marks"), path("server.log"));
    std::fs::create_dir(&cables)?;
    std::fs::create_dir(&marks)?;
    let lay = |n: usize| Cable::lay(&cables.join(n.to_string()), data.join("labors.sock"));
    let laid: Vec<Cable> = (0..CABLES).map(lay).collect();
    let (data_text, cables_text) = (data.display().to_string(), cables.display().to_string());
    let (name, labors) = (place.fleet.to_string(), options.labors.to_string());
    let arguments = [data_text.as_str(), &name, &labors, &cables_text];

    let mut random = Random::new(options.seed);
    let mut report = Report { seed: options.seed, ..Report::default() };
    let link = Link::new();
    let mut server = Server::start(&link, &arguments, &log).await?;
    whole(&link, options.labors, &mut report).await;
    let held = memory::of(server.pid())?.rss >> 10;
    let files = memory::open_files(server.pid())?;
    let books = Books::open(&link, marks, CLIENTS, &mut random);
    let mut faults = Faults::new(place.fleet.clone(), laid, link.clone());
    let begun = Instant::now();
    let most = options.rounds.unwrap_or(usize::MAX);
    while begun.elapsed() < options.time && faults.done.values().sum::<usize>() < most {
        let pause = random.below((BETWEEN_MS * 10 / options.labors.max(1)).clamp(100, BETWEEN_MS));
        tokio::time::sleep(Duration::from_millis(pause as u64)).await;
        match Faults::pick(&mut random) {
            Fault::KillServer => {
                server.kill().await?;
                server = Server::start(&link, &arguments, &log).await?;
                faults.count(Fault::KillServer);
            }
            fault => faults.make(fault, &mut random),
        }
    }
    report.seconds = begun.elapsed().as_secs();
    faults.end().await;
    report.faults = std::mem::take(&mut faults.done);
    books.close(&mut report).await;
    whole(&link, options.labors, &mut report).await;
    report.rss_kib = (held, memory::of(server.pid())?.rss >> 10);
    report.files = (files, memory::open_files(server.pid())?);
    eventually("each labor has one agent and one host", async || {
        let all = processes::of(&place.fleet);
        let count = |role| all.iter().filter(|p| p.role == role).count();
        (count(Role::Agent) == options.labors && count(Role::Host) == options.labors).then_some(())
    })
    .await;
    // It answers when nothing is left.
    let stopped = link.ask(&Ask::Stop).await;
    if let Err(error) = stopped {
        report.violations.push(format!("the fleet does not stop: {error:?}"));
    }
    if !server.wait().await? {
        report.violations.push("the server did not end in good order".into());
    }
    report.processes_left = processes::of(&place.fleet).len();
    if report.processes_left > 0 {
        report.violations.push(format!("left: {:?}", processes::of(&place.fleet)));
    }
    let checked = check::check(&DataDir::open_existing(&data)?, &[], true, |_| ()).await?;
    report.violations.extend(checked.problems.iter().map(|problem| format!("the store: {problem:?}")));
    if !report.violations.is_empty() {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        eprintln!("the server said:\n{said}");
    }
    Ok(report)
}

/// Waits until all labors are ready; says what there is if that does not come.
async fn whole(link: &Link, labors: usize, report: &mut Report) {
    let begun = Instant::now();
    let mut count = serde_json::Value::Null;
    while begun.elapsed() < PATIENCE * 2 {
        count = link.ask(&Ask::Ready).await.unwrap_or_default();
        if number(&count, 0) == labors && number(&count, 1) == labors {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    report.violations.push(format!("of {labors} labors there are and are ready: {count}"));
}
