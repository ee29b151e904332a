//! Telemetry records as they travel: a batch is any number of `[u32 length][record]`, all
//! numbers little-endian. The agent forwards batches unopened; the Overseer reads them with
//! [`Records`].
//!
//! A record is `[u8 kind][u64 unix microseconds][u64 call][u16 length][name][value]`; the value
//! is 16 bytes of `done` and `total` for progress, 8 bytes for a metric, JSON for an event, and
//! text for a line, whose name is empty.

/// Largest record, in bytes without its length.
pub const MAX_RECORD: usize = 64 * 1024;

const HEAD: usize = 1 + 8 + 8 + 2;

/// One thing that a plugin said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record<'a> {
    /// When, by the labor's clock, in microseconds since 1970.
    pub micros: u64,
    /// The call that said it; 0 outside of any call.
    pub call: u64,
    /// What.
    pub body: Body<'a>,
}

/// The kinds of records.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Body<'a> {
    /// How far a call is.
    Progress {
        /// What is counted.
        what: &'a str,
        /// Units done.
        done: u64,
        /// Units in all; 0 when unknown.
        total: u64,
    },
    /// A number.
    Metric {
        /// Its name.
        name: &'a str,
        /// Its value.
        value: f64,
    },
    /// Something happened.
    Event {
        /// What.
        name: &'a str,
        /// More of it, as JSON.
        data: &'a [u8],
    },
    /// A sentence for people.
    Line {
        /// The sentence.
        text: &'a str,
    },
}

/// Why bytes are no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// The bytes end within a record.
    Short,
    /// A record is over [`MAX_RECORD`].
    TooLarge(u32),
    /// No such kind.
    Kind(u8),
    /// A name or a line is no UTF-8.
    Text,
    /// A value has the wrong size for its kind.
    Value,
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short => f.write_str("the telemetry batch ends within a record"),
            Self::TooLarge(length) => {
                write!(f, "a telemetry record of {length} bytes is over the {MAX_RECORD} allowed")
            }
            Self::Kind(kind) => {
                write!(f, "telemetry record of unknown kind {kind}; the labor speaks a newer version")
            }
            Self::Text => f.write_str("a telemetry record has a name that is no UTF-8"),
            Self::Value => f.write_str("a telemetry record has a value of the wrong size"),
        }
    }
}

impl std::error::Error for RecordError {}

impl<'a> Record<'a> {
    /// Appends the record with its length. A name is cut at 1024 bytes and a line at
    /// [`MAX_RECORD`]; gives false, and appends nothing, for an event that is larger.
    pub fn encode(&self, to: &mut Vec<u8>) -> bool {
        let (kind, name) = match self.body {
            Body::Progress { what, .. } => (1, what),
            Body::Metric { name, .. } => (2, name),
            Body::Event { name, .. } => (3, name),
            Body::Line { .. } => (4, ""),
        };
        let name = cut(name, 1024);
        let mut numbers = [0; 16];
        let value: &[u8] = match self.body {
            Body::Progress { done, total, .. } => {
                numbers[..8].copy_from_slice(&done.to_le_bytes());
                numbers[8..].copy_from_slice(&total.to_le_bytes());
                &numbers
            }
            Body::Metric { value, .. } => {
                numbers[..8].copy_from_slice(&value.to_bits().to_le_bytes());
                &numbers[..8]
            }
            Body::Event { data, .. } => data,
            Body::Line { text } => cut(text, MAX_RECORD - HEAD).as_bytes(),
        };
        let length = HEAD + name.len() + value.len();
        if length > MAX_RECORD {
            return false;
        }
        to.reserve(4 + length);
        to.extend_from_slice(&(length as u32).to_le_bytes());
        to.push(kind);
        to.extend_from_slice(&self.micros.to_le_bytes());
        to.extend_from_slice(&self.call.to_le_bytes());
        to.extend_from_slice(&(name.len() as u16).to_le_bytes());
        to.extend_from_slice(name.as_bytes());
        to.extend_from_slice(value);
        true
    }

    /// Reads one record without its length.
    ///
    /// # Errors
    /// Each [`RecordError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (kind, rest) = bytes.split_first().ok_or(RecordError::Short)?;
        let (micros, rest) = number(rest)?;
        let (call, rest) = number(rest)?;
        let (name_length, rest) = rest.split_first_chunk::<2>().ok_or(RecordError::Short)?;
        let name_length = usize::from(u16::from_le_bytes(*name_length));
        let (name, value) = rest.split_at_checked(name_length).ok_or(RecordError::Short)?;
        let name = str::from_utf8(name).map_err(|_| RecordError::Text)?;
        let body = match kind {
            1 => {
                let (done, rest) = number(value)?;
                let total = rest.try_into().map_err(|_| RecordError::Value)?;
                Body::Progress { what: name, done, total: u64::from_le_bytes(total) }
            }
            2 => {
                let bits = value.try_into().map_err(|_| RecordError::Value)?;
                Body::Metric { name, value: f64::from_bits(u64::from_le_bytes(bits)) }
            }
            3 => Body::Event { name, data: value },
            4 => Body::Line { text: str::from_utf8(value).map_err(|_| RecordError::Text)? },
            other => return Err(RecordError::Kind(*other)),
        };
        Ok(Self { micros, call, body })
    }
}

/// Reads a batch, in order. Ends after the first error, for what follows cannot be found; a
/// record of an unknown kind is an error that the rest can still be read after.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records of these bytes.
    pub fn new(batch: &'a [u8]) -> Self {
        Self { rest: batch }
    }

    fn take(&mut self) -> Result<&'a [u8], RecordError> {
        let (length, rest) = self.rest.split_first_chunk::<4>().ok_or(RecordError::Short)?;
        let length = u32::from_le_bytes(*length);
        if length as usize > MAX_RECORD {
            return Err(RecordError::TooLarge(length));
        }
        let (record, rest) = rest.split_at_checked(length as usize).ok_or(RecordError::Short)?;
        self.rest = rest;
        Ok(record)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match self.take() {
            Ok(record) => Some(Record::decode(record)),
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), RecordError> {
    let (number, rest) = bytes.split_first_chunk::<8>().ok_or(RecordError::Short)?;
    Ok((u64::from_le_bytes(*number), rest))
}

/// The longest beginning of a text within so many bytes.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_too_long_is_cut_or_refused() {
        let long = "ä".repeat(MAX_RECORD);
        let mut batch = Vec::new();
        assert!(Record { micros: 1, call: 2, body: Body::Line { text: &long } }.encode(&mut batch));
        assert!(
            Record { micros: 1, call: 2, body: Body::Metric { name: &long, value: 1.0 } }.encode(&mut batch)
        );
        let full = batch.len();
        let event = Body::Event { name: "e", data: long.as_bytes() };
        assert!(!Record { micros: 1, call: 2, body: event }.encode(&mut batch));
        assert_eq!(batch.len(), full);
        assert_eq!(Records::new(&batch).filter(Result::is_ok).count(), 2);
    }

    #[test]
    fn a_record_from_the_future_does_not_hide_the_others() {
        let mut batch = vec![20, 0, 0, 0, 99];
        batch.extend([0; 19]);
        Record { micros: 1, call: 0, body: Body::Line { text: "x" } }.encode(&mut batch);
        let read: Vec<_> = Records::new(&batch).collect();
        assert_eq!(read[0], Err(RecordError::Kind(99)));
        assert!(read[1].is_ok());
    }

    #[derive(Debug, Clone)]
    enum Owned {
        Progress(String, u64, u64),
        Metric(String, f64),
        Event(String, Vec<u8>),
        Line(String),
    }

    fn bodies() -> impl Strategy<Value = Owned> {
        prop_oneof![
            (any::<String>(), any::<u64>(), any::<u64>()).prop_map(|(w, d, t)| Owned::Progress(w, d, t)),
            (any::<String>(), any::<f64>()).prop_map(|(n, v)| Owned::Metric(n, v)),
            (any::<String>(), proptest::collection::vec(any::<u8>(), 0..200))
                .prop_map(|(n, d)| Owned::Event(n, d)),
            any::<String>().prop_map(Owned::Line),
        ]
    }

    proptest! {
        #[test]
        fn records_are_read_back(all in proptest::collection::vec((any::<u64>(), any::<u64>(), bodies()), 0..20)) {
            let records: Vec<_> = all.iter().map(|(micros, call, owned)| Record {
                micros: *micros,
                call: *call,
                body: match owned {
                    Owned::Progress(what, done, total) => Body::Progress { what, done: *done, total: *total },
                    Owned::Metric(name, value) => Body::Metric { name, value: *value },
                    Owned::Event(name, data) => Body::Event { name, data },
                    Owned::Line(text) => Body::Line { text },
                },
            }).collect();
            let mut batch = Vec::new();
            for record in &records {
                prop_assert!(record.encode(&mut batch));
            }
            let read: Vec<_> = Records::new(&batch).map(Result::unwrap).collect();
            prop_assert_eq!(read, records);
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Records::new(&bytes).count() <= bytes.len() / 4 + 1);
        }
    }
}
