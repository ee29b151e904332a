use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What is wrong with a build file, where, and what to do. It is data too, so that a program
/// can show the place in the file: [`text`](Self::text) and [`span`](Self::span).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildFileError {
    /// Name of the file, as the user knows it.
    pub file: Box<str>,
    /// The key, such as `jobs.build.steps[1]`; absent when the file as a whole is meant.
    pub key: Option<String>,
    /// What is wrong, one line.
    pub message: String,
    /// What to do.
    pub help: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// First byte and end of the place in `text`.
    pub span: (u32, u32),
    /// The file's text; empty when it cannot be shown.
    pub text: Box<str>,
}

impl BuildFileError {
    /// For a place in a text.
    pub(crate) fn at(
        file: &str,
        text: &str,
        span: Range<usize>,
        key: Option<String>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        let start = floor_char(text, span.start);
        let end = floor_char(text, span.end).max(start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            file: file.into(),
            key,
            message: message.into(),
            help: help.into(),
            line: small(before.bytes().filter(|b| *b == b'\n').count() + 1),
            column: small(before[line_start..].chars().count() + 1),
            span: (small(start), small(end)),
            text: text.into(),
        }
    }

    /// For a file that cannot be shown.
    pub(crate) fn whole(file: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::at(file, "", 0..0, None, message, help)
    }

    /// The place in [`text`](Self::text), in bytes.
    pub fn range(&self) -> Range<usize> {
        self.span.0 as usize..self.span.1 as usize
    }
}

impl fmt::Display for BuildFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        write!(f, "{}; {}", self.message, self.help)
    }
}

impl std::error::Error for BuildFileError {}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The last place up to `at` where a character begins or the text ends.
pub(crate) fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
