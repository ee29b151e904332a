//! One table of the configuration, read key by key: a wrong value is answered with what would be
//! right, and what nobody asked for is an unknown key.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use overseer_protocol::Amount;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::Source;
use crate::failure::Failure;

pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A key, where it stands, and its value.
pub(super) type Entry<'a, V> = (&'a str, Range<usize>, V);

/// Longest duration that makes sense: what is longer is meant as "never".
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How alike two names are that may be meant for each other, 0 to 1.
const ALIKE: f64 = 0.75;

/// A value and the place that it stands at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// A table that is read.
pub(super) struct Table<'a, 'i> {
    pub(super) source: &'a Source,
    /// The path of its keys, with a dot at the end; empty at the top.
    path: String,
    /// Where an error about the table as a whole points.
    pub(super) span: Range<usize>,
    table: &'a DeTable<'i>,
    /// The keys that were asked for.
    known: RefCell<Vec<&'static str>>,
}

impl<'a, 'i> Table<'a, 'i> {
    /// The whole file.
    pub(super) fn top(source: &'a Source, table: &'a DeTable<'i>) -> Self {
        Self { source, path: String::new(), span: 0..0, table, known: RefCell::default() }
    }

    /// A value that has to be a table; `example` is one.
    pub(super) fn of(
        source: &'a Source,
        path: &str,
        value: &'a Value<'i>,
        example: &str,
    ) -> Result<Self, Failure> {
        let DeValue::Table(table) = value.get_ref() else {
            let message = format!("a table is expected, not {}", kind(value.get_ref()));
            return Err(source.mistake(
                "config.value",
                &value.span(),
                Some(path),
                message,
                format!("write {example}"),
            ));
        };
        Ok(Self { source, path: format!("{path}."), span: value.span(), table, known: RefCell::default() })
    }

    /// The path of one of its keys.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    fn get(&self, key: &'static str) -> Option<&'a Value<'i>> {
        self.known.borrow_mut().push(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// A wrong value.
    pub(super) fn wrong(
        &self,
        key: &str,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Failure {
        self.source.mistake("config.value", span, Some(&self.path(key)), message, help)
    }

    fn expected(&self, key: &str, value: &Value<'_>, what: &str, help: String) -> Failure {
        let message = format!("{what} is expected, not {}", kind(value.get_ref()));
        self.wrong(key, &value.span(), message, help)
    }

    /// A key that must be there.
    pub(super) fn required<T>(
        &self,
        key: &str,
        value: Option<Located<T>>,
        example: &str,
    ) -> Result<Located<T>, Failure> {
        value.ok_or_else(|| {
            let message = format!("the key `{key}` is missing");
            let help = format!("add {key} = {example}");
            self.source.mistake("config.missing", &self.span, Some(&self.path(key)), message, help)
        })
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str, example: &str) -> Result<Option<Located<String>>, Failure> {
        let Some(value) = self.get(key) else { return Ok(None) };
        self.as_text(key, value, &format!("{key} = {example}")).map(Some)
    }

    fn as_text(&self, key: &str, value: &Value<'_>, example: &str) -> Result<Located<String>, Failure> {
        match value.get_ref() {
            DeValue::String(text) if text.is_empty() => {
                Err(self.wrong(key, &value.span(), "the text is empty", format!("write {example}")))
            }
            DeValue::String(text) => Ok(Located { value: text.clone().into_owned(), span: value.span() }),
            _ => Err(self.expected(key, value, "a text", format!("write {example}"))),
        }
    }

    /// A list of texts.
    pub(super) fn texts(
        &self,
        key: &'static str,
        example: &str,
    ) -> Result<Option<Vec<Located<String>>>, Failure> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let example = format!("{key} = {example}");
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.expected(key, value, "a list of texts", format!("write {example}")));
        };
        items.iter().map(|item| self.as_text(key, item, &example)).collect::<Result<_, _>>().map(Some)
    }

    /// A text that is one of these.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, Failure> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let all = names.iter().map(|name| format!("{key} = {name:?}")).collect::<Vec<_>>().join(" or ");
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = match value.get_ref() {
            DeValue::String(text) => text,
            _ => return Err(self.expected(key, value, "a text", format!("write {all}"))),
        };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| name == text) {
            return Ok(Some(*choice));
        }
        let help = match nearest(text, &names) {
            Some(name) => format!("did you mean {key} = {name:?}? It may be {all}"),
            None => format!("write {all}"),
        };
        Err(self.wrong(key, &value.span(), format!("there is no `{key}` called {text:?}"), help))
    }

    /// True or false.
    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>, Failure> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Boolean(flag) => Ok(Some(*flag)),
            _ => Err(self.expected(key, value, "true or false", format!("write {key} = true"))),
        }
    }

    /// A whole number within a range.
    pub(super) fn count(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<Located<u32>>, Failure> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let (least, most) = (*range.start(), *range.end());
        let help = format!("write a whole number from {least} to {most}, such as {key} = {}", least.max(4));
        let DeValue::Integer(number) = value.get_ref() else {
            return Err(self.expected(key, value, "a whole number", help));
        };
        let number = i128::from_str_radix(number.as_str(), number.radix()).ok();
        match number.and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n)) {
            Some(number) => Ok(Some(Located { value: number, span: value.span() })),
            None => {
                let message = format!("the number is not within {least} to {most}");
                Err(self.wrong(key, &value.span(), message, help))
            }
        }
    }

    /// A duration as text, longer than nothing.
    pub(super) fn duration(&self, key: &'static str) -> Result<Option<Located<Duration>>, Failure> {
        let help = "write a number and its unit, such as";
        self.duration_as(key, format!("{help} {key} = \"30s\", \"500ms\", \"5m\" or \"1h\""))
    }

    /// The same, where other words help.
    pub(super) fn duration_as(
        &self,
        key: &'static str,
        help: impl Into<String>,
    ) -> Result<Option<Located<Duration>>, Failure> {
        let (Some(value), help) = (self.get(key), help.into()) else { return Ok(None) };
        let DeValue::String(text) = value.get_ref() else {
            return Err(self.expected(key, value, "a duration as text", help));
        };
        let message = match humantime::parse_duration(text) {
            Err(error) => format!("{text:?} is not a duration: {error}"),
            Ok(duration) if duration.is_zero() => "the duration is zero".to_owned(),
            Ok(duration) if duration > LONGEST => format!("{text:?} is longer than ten years"),
            Ok(duration) => return Ok(Some(Located { value: duration, span: value.span() })),
        };
        Err(self.wrong(key, &value.span(), message, help))
    }

    /// Bytes as text, with a unit or without.
    pub(super) fn bytes(&self, key: &'static str) -> Result<Option<Located<u64>>, Failure> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let help = format!("write a number and its unit, such as {key} = \"500MiB\"");
        let DeValue::String(text) = value.get_ref() else {
            return Err(self.expected(key, value, "a size as text", help));
        };
        match Amount::parse_bytes(text) {
            Ok(Amount::Units(bytes)) => Ok(Some(Located { value: bytes, span: value.span() })),
            Ok(Amount::Unlimited) => Ok(Some(Located { value: u64::MAX, span: value.span() })),
            Err(error) => Err(self.wrong(key, &value.span(), error.to_string(), help)),
        }
    }

    /// A decimal as text, in units of `10^-digits`, exactly.
    pub(super) fn decimal(
        &self,
        key: &'static str,
        digits: u32,
        example: &str,
    ) -> Result<Option<Located<u64>>, Failure> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let help = format!("write a number as text, such as {key} = {example}");
        let DeValue::String(text) = value.get_ref() else {
            return Err(self.expected(key, value, "a number as text", help));
        };
        match Amount::parse_decimal(text, digits) {
            Ok(Amount::Units(units)) => Ok(Some(Located { value: units, span: value.span() })),
            Ok(Amount::Unlimited) => Err(self.wrong(key, &value.span(), "there is no limit to say", help)),
            Err(error) => Err(self.wrong(key, &value.span(), error.to_string(), help)),
        }
    }

    /// A table within this one.
    pub(super) fn table(&self, key: &'static str, example: &str) -> Result<Option<Table<'a, 'i>>, Failure> {
        let Some(value) = self.get(key) else { return Ok(None) };
        Table::of(self.source, &self.path(key), value, example).map(Some)
    }

    /// All keys, whatever they are called, by their place in the file.
    pub(super) fn entries(&self) -> Vec<Entry<'a, &'a Value<'i>>> {
        let entries = self.table.iter();
        let mut all: Vec<_> = entries.map(|(k, v)| (k.get_ref().as_ref(), k.span(), v)).collect();
        all.sort_by_key(|(_, span, _)| span.start);
        all
    }

    /// Texts by name.
    pub(super) fn pairs(&self) -> Result<Vec<Entry<'a, String>>, Failure> {
        let pairs = self.entries().into_iter().map(|(name, span, value)| {
            let text = match value.get_ref() {
                DeValue::String(text) => text.clone().into_owned(),
                _ => return Err(self.expected(name, value, "a text", format!("write {name} = \"…\""))),
            };
            Ok((name, span, text))
        });
        pairs.collect()
    }

    /// Every key that was not asked for by now is a mistake.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        let known = self.known.borrow();
        let unknown = self.entries().into_iter().find(|(name, ..)| !known.contains(name));
        let Some((name, span, _)) = unknown else { return Ok(()) };
        let all = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let help = match nearest(name, &known) {
            Some(near) => format!("did you mean `{near}`? The keys here are {all}"),
            None => format!("the keys here are {all}"),
        };
        let message = format!("there is no key `{name}`");
        Err(self.source.mistake("config.unknown_key", &span, Some(&self.path(name)), message, help))
    }
}

/// The name that is probably meant.
fn nearest<'n>(text: &str, names: &[&'n str]) -> Option<&'n str> {
    let likeness = |name: &&'n str| strsim::jaro_winkler(text, name);
    let best = names.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) >= ALIKE).then_some(best)
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
