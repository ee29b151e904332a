//! A build as JSON documents, one on a line of standard output.

use serde::Serialize;

use super::event::{Event, Listener};
use crate::output;

/// Writes documents.
#[derive(Debug)]
pub(super) struct Json;

#[derive(Serialize)]
struct LogLine<'a> {
    event: &'static str,
    job: &'a str,
    text: &'a str,
}

impl Listener for Json {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::Log { job, lines } => {
                let documents = lines.iter().map(|text| LogLine { event: "log", job, text });
                output::json_lines(documents);
            }
            event => output::json(event),
        }
    }
}
