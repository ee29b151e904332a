//! Samples as text: the Prometheus text format 0.0.4, and OpenMetrics 1.0 for who asks for it.

use std::fmt::Write;

use super::{Described, Observed};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for a restart; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often which value was seen.
    Histogram,
}

impl Kind {
    /// As both formats name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// How samples are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Prometheus' own text, version 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What the header `Accept` of a request asks for: OpenMetrics where it is named with a weight
    /// that is not less than that of plain text.
    pub fn accepted(accept: &str) -> Self {
        let weight = |name: &str| {
            let range = accept.split(',').find(|range| range.trim().starts_with(name))?;
            let q = range.split(';').find_map(|part| part.trim().strip_prefix("q="));
            q.map_or(Some(1.0), |q| q.parse::<f64>().ok())
        };
        match (weight("application/openmetrics-text"), weight("text/plain")) {
            (Some(open), plain) if open > 0.0 && open >= plain.unwrap_or(0.0) => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// The header `Content-Type` of such a text.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Metrics and their samples at one moment.
#[derive(Debug, Clone, Default)]
pub struct Page {
    families: Vec<Family>,
}

/// One metric and its samples.
#[derive(Debug, Clone)]
pub struct Family {
    name: String,
    kind: Kind,
    help: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    /// `name="value"` with commas, escaped; empty without labels.
    labels: String,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Number(f64),
    Observed(Observed),
}

impl Page {
    /// One without any metric.
    pub fn new() -> Self {
        Self::default()
    }

    /// One with these metrics and no samples.
    pub(super) fn of(table: &[Described]) -> Self {
        let mut page = Self::new();
        for row in table {
            page.family(row.name, row.kind, row.help);
        }
        page
    }

    /// A metric, made where there is none of that name yet. What is no letter, digit, `_` or `:`
    /// in the name becomes `_`; the name of a counter gets its `_total` where that is missing.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> &mut Family {
        let name = good_name(name, kind);
        let place = self.families.iter().position(|family| family.name == name);
        let place = place.unwrap_or_else(|| {
            self.families.push(Family { name, kind, help: help.to_owned(), samples: Vec::new() });
            self.families.len() - 1
        });
        &mut self.families[place]
    }

    /// A sample of a metric that is on the page.
    pub(super) fn known(&mut self, name: &str) -> Option<&mut Family> {
        let found = self.families.iter_mut().find(|family| family.name == name);
        debug_assert!(found.is_some(), "{name} is not in the table of metrics");
        found
    }

    /// The names of the metrics that have samples.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.families.iter().filter(|family| !family.samples.is_empty()).map(|family| family.name.as_str())
    }

    /// All of it as text.
    pub fn text(&self, format: Format) -> String {
        let mut text = String::new();
        for family in self.families.iter().filter(|family| !family.samples.is_empty()) {
            family.write(&mut text, format);
        }
        if format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

impl Family {
    /// A number with these labels.
    pub fn number(&mut self, labels: &[(&str, &str)], value: f64) {
        self.samples.push(Sample { labels: written(labels), value: Value::Number(value) });
    }

    /// A histogram with these labels.
    pub fn observed(&mut self, labels: &[(&str, &str)], observed: Observed) {
        self.samples.push(Sample { labels: written(labels), value: Value::Observed(observed) });
    }

    fn write(&self, text: &mut String, format: Format) {
        let open = format == Format::OpenMetrics;
        // OpenMetrics names a counter without the ending that its samples have.
        let named = match self.kind {
            Kind::Counter if open => self.name.strip_suffix("_total").unwrap_or(&self.name),
            _ => &self.name,
        };
        let help = self.help.replace('\\', r"\\").replace('\n', r"\n");
        let help = if open { help.replace('"', "\\\"") } else { help };
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP {named} {help}\n# TYPE {named} {}\n", self.kind.name());
        for Sample { labels, value } in &self.samples {
            match value {
                Value::Number(value) => line(text, &self.name, "", labels, *value),
                Value::Observed(observed) => {
                    for (bound, count) in &observed.buckets {
                        let comma = if labels.is_empty() { "" } else { "," };
                        let labels = format!("{labels}{comma}le=\"{}\"", number(*bound));
                        line(text, &self.name, "_bucket", &labels, *count as f64);
                    }
                    line(text, &self.name, "_sum", labels, observed.sum);
                    line(text, &self.name, "_count", labels, observed.count() as f64);
                }
            }
        }
    }
}

fn line(text: &mut String, name: &str, ending: &str, labels: &str, value: f64) {
    let value = number(value);
    let _ = match labels {
        "" => writeln!(text, "{name}{ending} {value}"),
        labels => writeln!(text, "{name}{ending}{{{labels}}} {value}"),
    };
}

fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

fn written(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let _ = write!(text, "{comma}{name}=\"{value}\"");
    }
    text
}

fn good_name(name: &str, kind: Kind) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | ':') { c } else { '_' };
    let mut text: String = name.chars().map(good).collect();
    if !text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | ':')) {
        text.insert(0, '_');
    }
    if kind == Kind::Counter && !text.ends_with("_total") {
        text.push_str("_total");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Histogram;

    fn page() -> Page {
        let mut page = Page::new();
        let jobs = page.family("jobs.done", Kind::Counter, "Jobs \\ \"done\"\nso far.");
        jobs.number(&[("fleet", "a\\b\"c\nd"), ("kind", "x")], 3.0);
        let histogram = Histogram::new(&[0.5]);
        histogram.observe(Duration::from_millis(250));
        page.family("wait_seconds", Kind::Histogram, "Waits.").observed(&[], histogram.observed());
        page.family("2_odd", Kind::Gauge, "Odd.").number(&[], f64::NAN);
        page.family("empty", Kind::Gauge, "Nothing.");
        page
    }

    #[test]
    fn values_are_escaped_and_names_made_good() {
        let text = page().text(Format::Prometheus);
        let wanted = r#"# HELP jobs_done_total Jobs \\ "done"\nso far.
# TYPE jobs_done_total counter
jobs_done_total{fleet="a\\b\"c\nd",kind="x"} 3
# HELP wait_seconds Waits.
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.5"} 1
wait_seconds_bucket{le="+Inf"} 1
wait_seconds_sum 0.25
wait_seconds_count 1
# HELP _2_odd Odd.
# TYPE _2_odd gauge
_2_odd NaN
"#;
        assert_eq!(text, wanted);
    }

    #[test]
    fn open_metrics_names_a_counter_without_its_ending_and_says_its_end() {
        let text = page().text(Format::OpenMetrics);
        assert!(text.starts_with(
            "# HELP jobs_done Jobs \\\\ \\\"done\\\"\\nso far.\n# TYPE jobs_done counter\njobs_done_total{"
        ));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("text/plain, application/openmetrics-text;q=0.1"), Format::Prometheus);
        assert_eq!(Format::accepted("application/openmetrics-text;q=0"), Format::Prometheus);
        for plain in ["", "*/*", "text/html", "text/plain;q=nonsense"] {
            assert_eq!(Format::accepted(plain), Format::Prometheus, "{plain}");
        }
    }
}
