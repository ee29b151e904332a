//! Where a request stands in a distributed trace, as W3C Trace Context writes it.

use std::fmt;
use std::str::FromStr;

use crate::id::IdError;

/// A trace, 16 bytes that are not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// A span within a trace, 8 bytes that are not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

/// A span in its trace: the text of the header `traceparent`,
/// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that whatever follows is a child of.
    pub span: SpanId,
    /// Whether spans are recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// The same trace with another span.
    #[must_use]
    pub fn at(self, span: SpanId) -> Self {
        Self { span, ..self }
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != 2 * N || !text.bytes().all(lower) {
        return None;
    }
    let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok()
}

impl FromStr for TraceContext {
    type Err = IdError;

    /// Reads any version; of a newer one than ours what ours has too.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let read = || {
            let mut parts = text.split('-');
            let [version] = hex::<1>(parts.next()?)?;
            let (trace, span) = (hex::<16>(parts.next()?)?, hex::<8>(parts.next()?)?);
            let [flags] = hex::<1>(parts.next()?)?;
            let more = parts.next().is_some();
            let good = version != 0xff && !(version == 0 && more) && trace != [0; 16] && span != [0; 8];
            good.then_some(Self { trace: TraceId(trace), span: SpanId(span), sampled: flags & 1 == 1 })
        };
        let expected = "use 00-TRACE-SPAN-FLAGS with 32, 16 and 2 lower-case hexadecimal digits";
        read().ok_or_else(|| IdError::new("traceparent", text, expected))
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-0{}", self.trace, self.span, u8::from(self.sampled))
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! hex_text {
    ($id:ident) => {
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

hex_text!(TraceId);
hex_text!(SpanId);

impl serde::Serialize for TraceContext {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for TraceContext {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(de)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_one_is_read_and_written() {
        let context: TraceContext = GOOD.parse().unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), GOOD);
        let newer = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-what-the-future-brings";
        assert_eq!(newer.parse(), Ok(context));
        let unsampled: TraceContext = GOOD.replace("-01", "-02").parse().unwrap();
        assert_eq!(unsampled.to_string(), GOOD.replace("-01", "-00"));
    }

    #[test]
    fn what_the_standard_forbids_is_refused() {
        let zeros = ["4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"];
        let wrong = [
            "".to_owned(),
            GOOD.to_uppercase(),
            format!("{GOOD}-more"),
            GOOD.replace("00-4", "ff-4"),
            GOOD.replace(zeros[0], &"0".repeat(32)),
            GOOD.replace(zeros[1], &"0".repeat(16)),
            GOOD.replace("-01", ""),
            GOOD.replace("4bf9", "4bé9"),
        ];
        for text in wrong {
            assert!(text.parse::<TraceContext>().is_err(), "{text}");
        }
    }
}
