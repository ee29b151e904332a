//! Tasks for people.

use console::Style;

use super::document::TaskDocument;
use crate::client::fleet::{age, header, why};
use crate::output::Target;
use crate::table::{Cell, render};

fn state(task: &TaskDocument) -> Cell {
    let style = match task.state {
        "done" | "running" => Style::new().green(),
        "failed" => Style::new().red(),
        _ => Style::new().yellow(),
    };
    Cell::styled(task.state, style)
}

/// Tasks, a line each of at most `width` columns.
pub(super) fn list(tasks: &[TaskDocument], width: usize) -> String {
    if tasks.is_empty() {
        return "no tasks\n".to_owned();
    }
    let mut rows = vec![header(&["task", "state", "for", "tries", "method", "why"])];
    for task in tasks {
        rows.push(vec![
            Cell::plain(&task.task),
            state(task),
            Cell::plain(age(task.since_ms)),
            Cell::plain(task.attempts.to_string()),
            Cell::plain(printable(&task.method)),
            Cell::plain(why(task.failure.as_ref())),
        ]);
    }
    render(&rows, width, &[(5, 8), (4, 6)], Target::Stdout)
}

/// One task and how its attempts ended; nothing of it is cut.
pub(super) fn show(task: &TaskDocument) -> String {
    let retry = match (task.retry.on_loss, task.retry.times) {
        (false, 0) => "never".to_owned(),
        (true, 0) => "on loss".to_owned(),
        (on_loss, times) => {
            let loss = if on_loss { "on loss, and " } else { "" };
            format!("{loss}{times} times on {}", task.retry.on.join(", "))
        }
    };
    let mut lines = vec![
        ("task", task.task.clone()),
        ("fleet", task.fleet.clone()),
        ("method", format!("{}, {} bytes", printable(&task.method), task.payload_bytes)),
        ("state", format!("{} for {}", task.state, age(task.since_ms))),
        ("submitted", format!("{} ago", age(task.submitted_ms))),
        ("attempts", task.attempts.to_string()),
        ("retry", retry),
    ];
    if !task.labor.is_empty() {
        lines.push(("labor", task.labor.clone()));
    }
    if let Some(key) = &task.key {
        lines.push(("key", key.clone()));
    }
    if let Some(bytes) = task.result_bytes {
        lines.push(("result", format!("{bytes} bytes; overseer task attach prints it")));
    }
    if task.cancelled {
        lines.push(("cancelled", "yes".to_owned()));
    }
    if task.failure.is_some() {
        lines.push(("why", why(task.failure.as_ref())));
    }
    let row = |(name, text)| vec![Cell::styled(name, Style::new().dim()), Cell::plain(text)];
    let rows: Vec<_> = lines.into_iter().map(row).collect();
    let mut text = render(&rows, usize::MAX, &[], Target::Stdout);
    if !task.past.is_empty() {
        let mut rows = vec![header(&["try", "labor", "ended", "why"])];
        for past in &task.past {
            rows.push(vec![
                Cell::plain(past.attempt.to_string()),
                Cell::plain(&past.labor),
                Cell::plain(format!("{} ago", age(past.ended_ms))),
                Cell::plain(why(past.end.as_ref())),
            ]);
        }
        text.push('\n');
        text.push_str(&render(&rows, usize::MAX, &[], Target::Stdout));
    }
    text
}

/// What was done to a task that is not wanted any more.
pub(super) fn cancelled(task: &TaskDocument) -> String {
    match task.state {
        "done" | "failed" => format!("{} was over already: {}\n", task.task, task.state),
        _ => format!("{} is cancelled\n", task.task),
    }
}

/// Anybody may name a method anything.
fn printable(method: &str) -> String {
    method.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use console::measure_text_width;

    use super::*;
    use crate::api::proto;

    #[test]
    fn a_list_fits_a_terminal_and_one_task_is_whole() {
        let cause = || Some(proto::Cause { code: "task.answered".into(), text: "x\ny".repeat(100) });
        let past = proto::PastAttempt {
            attempt: 12,
            labor: format!("l-{}", "0".repeat(26)),
            end: cause(),
            ..Default::default()
        };
        let mut task = proto::Task {
            id: format!("t-{}", "0".repeat(32)),
            fleet: "f".repeat(63),
            method: "m".repeat(200),
            attempts: 13,
            key: Some("k".repeat(128)),
            failure: cause(),
            past: vec![past],
            ..Default::default()
        };
        task.set_state(proto::TaskState::Failed);
        let task = TaskDocument::from(task);
        let text = format!("{}{}", list(std::slice::from_ref(&task), 80), cancelled(&task));
        for line in text.lines() {
            assert!(measure_text_width(line) <= 80, "{line}");
        }
        let why = "x y".repeat(100);
        assert_eq!(show(&task).matches(&why).count(), 2);
        assert!(list(std::slice::from_ref(&task), usize::MAX).contains(&why));
    }
}
