//! The text of a configuration file, and errors that point into it.

use std::ops::Range;

use miette::NamedSource;

use crate::failure::{Failure, Place};

/// A file as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Its name, as the user knows it.
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    /// A mistake at a place of the file; `key` is its path, such as `fleets.web.lease`.
    pub(crate) fn mistake(
        &self,
        code: &'static str,
        span: &Range<usize>,
        key: Option<&str>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Failure {
        self.placed(Failure::input(code, message).help(help), span, key)
    }

    /// The same failure, shown at a place of the file.
    pub(crate) fn placed(&self, mut failure: Failure, span: &Range<usize>, key: Option<&str>) -> Failure {
        let start = floor_char(&self.text, span.start);
        let end = floor_char(&self.text, span.end).max(start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        failure.place = Some(Box::new(Place {
            key: key.map(str::to_owned),
            line: number(before.matches('\n').count() + 1),
            column: number(before[line_start..].chars().count() + 1),
            span: start..end,
            source: NamedSource::new(&self.name, self.text.clone()).with_language("TOML"),
        }));
        failure
    }
}

/// The end of the last whole character before this byte.
fn floor_char(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
