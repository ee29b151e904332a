//! Where the bootstrap document comes from.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use overseer_protocol::{Bootstrap, BootstrapError, MAX_BOOTSTRAP_BYTES};

/// The environment variable that may hold the document.
pub const VARIABLE: &str = "OVERSEER_BOOTSTRAP";

/// A place that a bootstrap document is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
    /// The text itself, from [`VARIABLE`].
    Text(String),
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The place cannot be read.
    #[error("the bootstrap document cannot be read from {place}: {source}")]
    Io {
        /// Which place.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is no bootstrap document.
    #[error(transparent)]
    Document(#[from] BootstrapError),
    /// The owner's pipe needs standard input.
    #[error(
        "the document asks for the owner's pipe, which is standard input; give the document with --stdin"
    )]
    OwnerPipe,
}

impl SourceError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "bootstrap.io",
            Self::Document(error) => error.code(),
            Self::OwnerPipe => "bootstrap.owner_pipe",
        }
    }
}

impl Source {
    /// Reads and checks the document. From standard input not further than its end, for with
    /// `owner_pipe` that stays open.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn read(&self) -> Result<Bootstrap, SourceError> {
        let document = match self {
            Self::Stdin => return from_reader(&mut io::stdin().lock()),
            Self::File(path) => from_file(path)?,
            Self::Text(text) => Bootstrap::from_json(text.as_bytes())?,
        };
        if document.owner_pipe { Err(SourceError::OwnerPipe) } else { Ok(document) }
    }
}

fn from_file(path: &Path) -> Result<Bootstrap, SourceError> {
    let error = |source| SourceError::Io { place: path.display().to_string(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(error)?;
    file.take(MAX_BOOTSTRAP_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(error)?;
    Ok(Bootstrap::from_json(&bytes)?)
}

/// One line, or a document over several lines that ends with the input.
fn from_reader(input: &mut impl Read) -> Result<Bootstrap, SourceError> {
    let mut bytes = vec![0; MAX_BOOTSTRAP_BYTES + 2];
    let mut len = 0;
    loop {
        let count = match input.read(&mut bytes[len..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|source| SourceError::Io { place: "standard input".into(), source })?,
        };
        len += count;
        let document = &bytes[..len];
        let full = len == bytes.len();
        if count == 0 || full {
            return Ok(Bootstrap::from_json(document.trim_ascii_end())?);
        }
        if document.ends_with(b"\n") {
            match Bootstrap::from_json(document.trim_ascii_end()) {
                // A line of a longer document: the rest follows.
                Err(BootstrapError::Json(error)) if error.is_eof() => {}
                read => return Ok(read?),
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use overseer_protocol::{Claim, Endpoint, Generation, LaborId, OnLeaseLost, Secret};

    use super::*;

    pub(crate) fn document(owner_pipe: bool) -> Bootstrap {
        Bootstrap {
            format: 1,
            fleet: "farm".parse().unwrap(),
            endpoints: vec![Endpoint::Tcp("127.0.0.1:1".into())],
            authorities: "PEM".into(),
            release_keys: vec![],
            claim: Claim::Labor {
                labor: LaborId::new(1, 2),
                generation: Generation::FIRST,
                token: Secret::new("hunter2".into()),
            },
            lease_ms: 30_000,
            owner: None,
            on_lease_lost: OnLeaseLost::End,
            owner_pipe,
            directory: None,
            cache: Default::default(),
            isolation: Default::default(),
            environment: Default::default(),
        }
    }

    /// Gives a byte at a time, and fails when it is read after the line's end.
    struct Line<'a>(&'a [u8]);

    impl Read for Line<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let (first, rest) = self.0.split_first().expect("read on after the line");
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn a_line_is_enough_and_nothing_behind_it_is_waited_for() {
        let mut line = document(true).to_json().unwrap();
        line.push(b'\n');
        assert_eq!(from_reader(&mut Line(&line)).unwrap(), document(true));
    }

    #[test]
    fn a_document_over_many_lines_may_be_piped_in() {
        let pretty = serde_json::to_vec_pretty(&document(false)).unwrap();
        assert_eq!(from_reader(&mut pretty.as_slice()).unwrap(), document(false));
    }

    #[test]
    fn bad_documents_are_refused_without_showing_the_claim() {
        let cut = &document(false).to_json().unwrap()[..100];
        for bad in [&b""[..], b"\n", b"not json\n", b"{}\n", cut, &[b' '; 20_000]] {
            let error = from_reader(&mut &bad[..]).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.is_empty(), "{error}");
        }
        let text = String::from_utf8(document(true).to_json().unwrap()).unwrap();
        assert!(matches!(Source::Text(text).read(), Err(SourceError::OwnerPipe)));
        let error = Source::File("/nonexistent/document".into()).read().unwrap_err();
        assert!(error.to_string().contains("/nonexistent/document"));
    }
}
