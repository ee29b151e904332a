//! A build for people: live logs, and on a terminal what runs now.

use std::collections::BTreeMap;
use std::time::Duration;

use console::Style;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use super::event::{Event, Listener, Outcome, Planned};
use super::lines::tame;
use super::summary;
use crate::output::{self, Target};

/// Widest job name in front of a line; longer ones are not cut, they stand out.
const PREFIX: usize = 24;
/// Colours that can be told apart on dark and light; of 256.
const COLORS: [u8; 12] = [33, 70, 133, 166, 37, 98, 136, 67, 169, 106, 173, 30];

/// Shows a build.
pub(super) struct Display {
    target: Target,
    state: Mutex<State>,
}

struct State {
    /// Columns for job names.
    width: usize,
    /// On a terminal only.
    screen: Option<Screen>,
}

struct Screen {
    all: MultiProgress,
    overall: ProgressBar,
    jobs: BTreeMap<String, ProgressBar>,
    done: usize,
    failed: usize,
    total: usize,
}

impl Display {
    /// Text goes to `target`, the progress display always to standard error.
    pub(super) fn new(target: Target) -> Self {
        Self { target, state: Mutex::new(State { width: 0, screen: output::progress().map(Screen::new) }) }
    }

    fn dim(&self, text: &str) -> String {
        self.target.style(&Style::new().dim(), text)
    }

    fn prefix(&self, job: &str, width: usize) -> String {
        let color = Style::new().color256(COLORS[color_index(job)]);
        let padding = " ".repeat(width.saturating_sub(console::measure_text_width(job)));
        format!("{}{padding} {}", self.target.style(&color, job), self.dim("|"))
    }

    fn line(&self, job: &str, line: &str) {
        let width = self.state.lock().width;
        self.target.write(&format!("{} {line}\n", self.prefix(job, width)));
    }

    fn plan(&self, plan: &Planned<'_>) {
        let mut state = self.state.lock();
        let widths = plan.jobs.iter().map(|j| console::measure_text_width(j.job));
        state.width = widths.filter(|w| *w <= PREFIX).max().unwrap_or(0);
        if let Some(screen) = &mut state.screen {
            screen.total = plan.jobs.len();
            screen.show_overall();
        }
        drop(state);
        let what =
            if plan.worktree { format!("the work tree on {}", plan.short) } else { plan.short.to_owned() };
        let what = self.target.style(&Style::new().bold(), &what);
        let jobs =
            if plan.jobs.len() == 1 { "1 job".to_owned() } else { format!("{} jobs", plan.jobs.len()) };
        self.target.write(&format!(
            "building {what} {} {}\n",
            tame(plan.subject, false),
            self.dim(&format!("({jobs})"))
        ));
    }
}

/// The same job has the same colour in every build.
fn color_index(job: &str) -> usize {
    usize::from(blake3::hash(job.as_bytes()).as_bytes()[0]) % COLORS.len()
}

impl Listener for Display {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::Plan(plan) => self.plan(plan),
            Event::Warning { job, message } => {
                let about = job.map(|job| format!("{job}: ")).unwrap_or_default();
                let warning = Target::Stderr.style(&Style::new().yellow().bold(), "warning:");
                Target::Stderr.write(&format!("{warning} {about}{message}\n"));
            }
            Event::JobStarted { job, attempt, .. } => {
                if let Some(screen) = &mut self.state.lock().screen {
                    screen.begin(job);
                }
                if *attempt > 1 {
                    self.line(job, &self.dim(&format!("try {attempt}")));
                }
            }
            Event::Step { job, step, steps, command } => {
                let first = tame(command.lines().next().unwrap_or_default(), false);
                let more = if command.lines().count() > 1 { " …" } else { "" };
                if let Some(screen) = &self.state.lock().screen {
                    screen.step(job, &format!("{step}/{steps} {first}"));
                }
                self.line(job, &self.dim(&format!("$ {first}{more}")));
            }
            Event::Log { job, lines } => {
                let prefix = self.prefix(job, self.state.lock().width);
                let colors = self.target.has_colors();
                let text: String = lines.iter().map(|l| format!("{prefix} {}\n", tame(l, colors))).collect();
                self.target.write(&text);
            }
            Event::JobLost { job, cause, again, .. } => {
                let what = if *again { "it runs again" } else { "given up" };
                let text = self.target.style(&Style::new().yellow(), &format!("{cause}; {what}"));
                self.line(job, &text);
            }
            Event::JobFinished(result) => {
                if let Some(screen) = &mut self.state.lock().screen {
                    screen.end(&result.job, result.result != Outcome::Passed);
                }
            }
            Event::Finished(totals) => {
                self.close();
                self.target.write(&summary::text(totals, self.target, self.target.width()));
            }
        }
    }

    fn close(&self) {
        if let Some(screen) = self.state.lock().screen.take() {
            screen.clear();
        }
    }
}

impl Screen {
    fn new(all: MultiProgress) -> Self {
        let overall = all.add(spinner("{spinner:.cyan} {msg} {elapsed:.dim}").with_message("starting"));
        overall.enable_steady_tick(Duration::from_millis(100));
        Self { all, overall, jobs: BTreeMap::new(), done: 0, failed: 0, total: 0 }
    }

    fn show_overall(&self) {
        let failed = if self.failed > 0 { format!(", {} not passed", self.failed) } else { String::new() };
        let (done, total, running) = (self.done, self.total, self.jobs.len());
        self.overall.set_message(format!("{done} of {total} jobs done, {running} running{failed}"));
    }

    fn begin(&mut self, job: &str) {
        let bar = spinner("{spinner:.cyan} {prefix:.bold} {wide_msg:.dim} {elapsed:.dim}");
        let bar = self.all.insert_before(&self.overall, bar.with_prefix(job.to_owned()));
        bar.enable_steady_tick(Duration::from_millis(100));
        self.jobs.insert(job.to_owned(), bar);
        self.show_overall();
    }

    fn step(&self, job: &str, step: &str) {
        if let Some(bar) = self.jobs.get(job) {
            bar.set_message(step.to_owned());
        }
    }

    fn end(&mut self, job: &str, failed: bool) {
        if let Some(bar) = self.jobs.remove(job) {
            bar.finish_and_clear();
        }
        self.done += 1;
        self.failed += usize::from(failed);
        self.show_overall();
    }

    fn clear(&self) {
        self.jobs.values().for_each(ProgressBar::finish_and_clear);
        self.overall.finish_and_clear();
    }
}

fn spinner(template: &str) -> ProgressBar {
    // The templates above are right; a bar without them would still do.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_keeps_its_colour_and_all_colours_are_used() {
        assert_eq!(color_index("build"), color_index("build"));
        let used: std::collections::BTreeSet<_> = (0..200).map(|i| color_index(&i.to_string())).collect();
        assert_eq!(used.len(), COLORS.len());
    }
}
