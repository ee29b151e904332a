//! An error as people and programs see it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;

use crate::exit::Exit;

/// Why the program did not do what it was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// Stable code, such as `build.source`.
    pub(crate) code: Cow<'static, str>,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) help: Option<String>,
    /// Where in a file.
    pub(crate) place: Option<Box<Place>>,
    /// Of a call; its message names them too.
    pub(crate) call: Option<Box<FailedCall>>,
}

/// Where a call was, as far as that is known; each is empty where it is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FailedCall {
    pub(crate) labor: String,
    /// Whose logs it has written.
    pub(crate) task: String,
}

/// A place in a file of the user.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) key: Option<String>,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) span: Range<usize>,
    pub(crate) source: NamedSource<String>,
}

impl Failure {
    /// Something that the user can put right.
    pub(crate) fn input(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            exit: Exit::BadInput,
            code: Cow::Borrowed(code),
            message: message.into(),
            help: None,
            place: None,
            call: None,
        }
    }

    /// Something that failed in the machinery.
    pub(crate) fn fault(code: &'static str, message: impl Into<String>) -> Self {
        Self { exit: Exit::Fault, ..Self::input(code, message) }
    }

    /// From an error of the crates below, whose text is `what is wrong; what to do`.
    pub(crate) fn told(exit: Exit, code: impl Into<Cow<'static, str>>, text: &str) -> Self {
        let (message, help) = match text.split_once("; ") {
            Some((message, help)) => (message, Some(help.to_owned())),
            None => (text, None),
        };
        let code = code.into();
        // What the library calls by the names of its functions, in words of the program.
        let help = match &*code {
            "fleet.at_capacity" => Some("end one, or raise `max_labors` of the fleet".to_owned()),
            "call.not_ready" => Some(
                "wait until `overseer fleet show` says that it is ready, or leave out --labor".to_owned(),
            ),
            _ => help,
        };
        Self { exit, code, help, ..Self::input("", message) }
    }

    /// With advice.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With this advice, if it has none of its own.
    #[must_use]
    pub(crate) fn or_help(mut self, help: impl Into<String>) -> Self {
        self.help.get_or_insert_with(|| help.into());
        self
    }

    /// As a document for programs.
    pub(crate) fn document(&self) -> Document<'_> {
        let (place, call) = (self.place.as_deref(), self.call.as_deref());
        Document {
            event: "error",
            code: &self.code,
            message: &self.message,
            help: self.help.as_deref(),
            labor: call.map(|call| &*call.labor).unwrap_or_default(),
            task: call.map(|call| &*call.task).unwrap_or_default(),
            file: place.map(|p| p.source.name()),
            line: place.map(|p| p.line),
            column: place.map(|p| p.column),
            key: place.and_then(|p| p.key.as_deref()),
            exit: self.exit.code(),
        }
    }
}

/// The JSON form of a [`Failure`].
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    event: &'static str,
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    labor: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    task: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    exit: u8,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:{}:{}: ", place.source.name(), place.line, place.column)?;
            if let Some(key) = &place.key {
                write!(f, "{key}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Diagnostic for Failure {
    fn code(&self) -> Option<Box<dyn fmt::Display + '_>> {
        Some(Box::new(&self.code))
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place.as_ref().map(|place| &place.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        let label = place.key.clone().unwrap_or_else(|| "here".to_owned());
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(Some(label), place.span.clone()))))
    }
}
