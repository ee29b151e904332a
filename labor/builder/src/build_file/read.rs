use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::rules::{self, Broken};
use super::{ArtifactPattern, BuildFile, BuildFileError, JobSpec, MAX_COMBINATIONS, MAX_JOBS};

const JOB_KEYS: &str = "`steps`, `artifacts`, `needs`, `env`, `matrix`, `timeout` and `cache`";
/// A directory is named after the job, and file names end at 255 bytes.
const MAX_VARIANT_NAME: usize = 240;

type Value<'i> = Spanned<DeValue<'i>>;

/// A text with the span it stands at.
struct Text {
    value: String,
    span: Range<usize>,
    key: String,
}

/// Reads a TOML document by hand instead of by derive: so every error has its key and place,
/// the order of the file is kept, and a wrong type is answered with what to write instead.
pub(super) struct Reader<'a> {
    file: &'a str,
    text: &'a str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text }
    }

    pub(super) fn build_file(&self) -> Result<BuildFile, BuildFileError> {
        let document = DeTable::parse(self.text).map_err(|e| {
            let span = e.span().unwrap_or(0..0);
            let message = format!("this is not TOML: {}", e.message().replace('\n', ", "));
            self.error(span, None, message, "mend the syntax; see https://toml.io")
        })?;
        let mut jobs = None;
        for (name, span, value) in in_order(document.get_ref()) {
            if name != "jobs" {
                let help = "the only key here is `jobs`: write jobs as [jobs.NAME]";
                return Err(self.error(span, Some(name), format!("unknown key {name:?}"), help));
            }
            jobs = Some((span, value));
        }
        let none = |span| {
            self.error(
                span,
                Some("jobs"),
                "there are no jobs",
                "add one: [jobs.build] with steps = [\"make\"]",
            )
        };
        let Some((span, value)) = jobs else { return Err(none(0..0)) };
        let table = self.table(value, "jobs", "write jobs as [jobs.NAME]")?;
        if table.is_empty() {
            return Err(none(span));
        }
        let mut specs = Vec::new();
        let mut needs = Vec::new();
        let mut total = 0;
        for (name, span, value) in in_order(table) {
            self.rule(rules::job_name(name), &span, &format!("jobs.{name}"))?;
            let (spec, its_needs) = self.job(name, &span, value)?;
            total += spec.matrix.iter().map(|(_, values)| values.len()).product::<usize>();
            if total > MAX_JOBS {
                let message =
                    format!("with this job there are {total} jobs, more than the {MAX_JOBS} allowed");
                return Err(self.error(span, Some("jobs"), message, "use fewer jobs or smaller matrices"));
            }
            specs.push(spec);
            needs.push(its_needs);
        }
        self.check_needs(&specs, &needs)?;
        Ok(BuildFile { jobs: specs })
    }

    fn job(
        &self,
        name: &str,
        span: &Range<usize>,
        value: &Value<'_>,
    ) -> Result<(JobSpec, Vec<Text>), BuildFileError> {
        let at = format!("jobs.{name}");
        let table = self.table(value, &at, "write it as a table: [jobs.NAME] with steps = [\"make\"]")?;
        let mut spec = JobSpec {
            name: name.to_owned(),
            steps: vec![],
            artifacts: vec![],
            needs: vec![],
            env: vec![],
            matrix: vec![],
            timeout: None,
            cache: vec![],
        };
        let mut needs = Vec::new();
        for (key, key_span, value) in in_order(table) {
            let at = format!("{at}.{key}");
            match key {
                "steps" => spec.steps = plain(self.texts(value, &at, rules::step)?),
                "artifacts" => {
                    let rule = |p: &str| rules::artifact_pattern(p).map(|_| ());
                    let globs = plain(self.texts(value, &at, rule)?);
                    spec.artifacts = globs.into_iter().map(ArtifactPattern::required).collect();
                }
                "needs" => {
                    needs = self.texts(value, &at, |_| Ok(()))?;
                    self.no_twin(&needs)?;
                    spec.needs = needs.iter().map(|n| n.value.clone()).collect();
                }
                "env" => spec.env = self.env(value, &at)?,
                "matrix" => spec.matrix = self.matrix(name, value, &at)?,
                "timeout" => spec.timeout = Some(self.timeout(value, &at)?),
                "cache" => {
                    let paths = self.texts(value, &at, rules::cache_path)?;
                    self.no_twin(&paths)?;
                    spec.cache = plain(paths).iter().map(|p| p.trim_end_matches('/').to_owned()).collect();
                }
                _ => {
                    let message = format!("unknown key {key:?}");
                    return Err(self.error(
                        key_span,
                        Some(&at),
                        message,
                        format!("a job's keys are {JOB_KEYS}"),
                    ));
                }
            }
        }
        if spec.steps.is_empty() {
            let place = table.iter().find(|(k, _)| k.get_ref() == "steps").map(|(_, v)| v.span());
            let at = format!("{at}.steps");
            let help = "a job needs at least one: steps = [\"make\"]";
            return Err(self.error(place.unwrap_or(span.clone()), Some(&at), "there are no steps", help));
        }
        Ok((spec, needs))
    }

    fn env(&self, value: &Value<'_>, at: &str) -> Result<Vec<(String, String)>, BuildFileError> {
        let help = "write it as a table: env = { CC = \"gcc\" }";
        let mut pairs = Vec::new();
        for (name, span, value) in in_order(self.table(value, at, help)?) {
            let at = format!("{at}.{name}");
            self.rule(rules::env_name(name), &span, &at)?;
            let text = self.text(value, &at)?;
            self.rule(rules::env_value(&text.value), &text.span, &at)?;
            pairs.push((name.to_owned(), text.value));
        }
        Ok(pairs)
    }

    fn matrix(
        &self,
        job: &str,
        value: &Value<'_>,
        at: &str,
    ) -> Result<Vec<(String, Vec<String>)>, BuildFileError> {
        let help = "write it as a table of lists: matrix = { cc = [\"gcc\", \"clang\"] }";
        let mut matrix: Vec<(String, Vec<String>)> = Vec::new();
        let mut variables = BTreeSet::new();
        let mut combinations = 1_usize;
        let mut longest = job.len() + "()".len();
        for (key, span, list) in in_order(self.table(value, at, help)?) {
            let at = format!("{at}.{key}");
            self.rule(rules::matrix_key(key), &span, &at)?;
            let variable = rules::matrix_variable(key);
            if !variables.insert(variable.clone()) {
                let message = format!("another key gives the variable {variable} too");
                return Err(self.error(span, Some(&at), message, "rename one of them"));
            }
            let values = self.texts(list, &at, rules::matrix_value)?;
            self.no_twin(&values)?;
            if values.is_empty() {
                let help = "give at least one value, or remove the key";
                return Err(self.error(list.span(), Some(&at), "the list is empty", help));
            }
            combinations = combinations.saturating_mul(values.len());
            longest += key.len() + 3 + values.iter().map(|v| v.value.len()).max().unwrap_or(0);
            matrix.push((key.to_owned(), plain(values)));
        }
        if combinations > MAX_COMBINATIONS {
            let message = format!("{combinations} combinations are more than the {MAX_COMBINATIONS} allowed");
            return Err(self.error(value.span(), Some(at), message, "use fewer values, or several jobs"));
        }
        if longest > MAX_VARIANT_NAME {
            let message = format!("the names of the combinations grow to {longest} bytes");
            let help = format!("use shorter keys and values: {MAX_VARIANT_NAME} bytes at most");
            return Err(self.error(value.span(), Some(at), message, help));
        }
        Ok(matrix)
    }

    fn timeout(&self, value: &Value<'_>, at: &str) -> Result<Duration, BuildFileError> {
        let text = self.text(value, at)?;
        self.rule(rules::timeout(&text.value), &text.span, at)
    }

    fn check_needs(&self, specs: &[JobSpec], needs: &[Vec<Text>]) -> Result<(), BuildFileError> {
        let index: BTreeMap<&str, usize> =
            specs.iter().enumerate().map(|(i, spec)| (spec.name.as_str(), i)).collect();
        for (spec, its_needs) in specs.iter().zip(needs) {
            for need in its_needs {
                if need.value == spec.name {
                    let message = format!("the job {:?} needs itself", spec.name);
                    return Err(self.error(need.span.clone(), Some(&need.key), message, "remove it"));
                }
                if !index.contains_key(need.value.as_str()) {
                    let known: Vec<_> = index.keys().copied().collect();
                    let message = format!("there is no job {:?}", need.value);
                    let help = format!("the jobs are: {}", known.join(", "));
                    return Err(self.error(need.span.clone(), Some(&need.key), message, help));
                }
            }
        }
        let edges: Vec<Vec<usize>> =
            needs.iter().map(|n| n.iter().map(|n| index[n.value.as_str()]).collect()).collect();
        let Some(cycle) = find_cycle(&edges) else { return Ok(()) };
        let names: Vec<_> = cycle.iter().chain(&cycle[..1]).map(|i| specs[*i].name.as_str()).collect();
        let next = cycle.get(1).unwrap_or(&cycle[0]);
        let place = edges[cycle[0]].iter().position(|e| e == next).unwrap_or(0);
        let need = &needs[cycle[0]][place];
        let message = format!("the jobs need each other in a circle: {}", names.join(" → "));
        Err(self.error(need.span.clone(), Some(&need.key), message, "remove one of these needs"))
    }

    fn table<'v, 'i>(
        &self,
        value: &'v Value<'i>,
        at: &str,
        help: &str,
    ) -> Result<&'v DeTable<'i>, BuildFileError> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(table),
            other => {
                let message = format!("a table is expected, not {}", kind(other));
                Err(self.error(value.span(), Some(at), message, help))
            }
        }
    }

    fn text(&self, value: &Value<'_>, at: &str) -> Result<Text, BuildFileError> {
        match value.get_ref() {
            DeValue::String(text) => {
                Ok(Text { value: text.clone().into_owned(), span: value.span(), key: at.to_owned() })
            }
            other => {
                let message = format!("a text is expected, not {}", kind(other));
                Err(self.error(value.span(), Some(at), message, "put it in quotes"))
            }
        }
    }

    fn texts(
        &self,
        value: &Value<'_>,
        at: &str,
        rule: impl Fn(&str) -> Result<(), Broken>,
    ) -> Result<Vec<Text>, BuildFileError> {
        let DeValue::Array(items) = value.get_ref() else {
            let message = format!("a list of texts is expected, not {}", kind(value.get_ref()));
            return Err(self.error(value.span(), Some(at), message, "put it in brackets: [\"…\"]"));
        };
        let mut texts = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let text = self.text(item, &format!("{at}[{i}]"))?;
            self.rule(rule(&text.value), &text.span, &text.key)?;
            texts.push(text);
        }
        Ok(texts)
    }

    fn no_twin(&self, texts: &[Text]) -> Result<(), BuildFileError> {
        let mut seen = BTreeSet::new();
        match texts.iter().find(|text| !seen.insert(text.value.trim_end_matches('/'))) {
            None => Ok(()),
            Some(twin) => {
                let message = format!("{:?} is given twice", twin.value);
                Err(self.error(twin.span.clone(), Some(&twin.key), message, "remove one"))
            }
        }
    }

    fn rule<T>(&self, rule: Result<T, Broken>, span: &Range<usize>, at: &str) -> Result<T, BuildFileError> {
        rule.map_err(|broken| self.error(span.clone(), Some(at), broken.message, broken.help))
    }

    fn error(
        &self,
        span: Range<usize>,
        key: Option<&str>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> BuildFileError {
        BuildFileError::at(self.file, self.text, span, key.map(str::to_owned), message, help)
    }
}

fn plain(texts: Vec<Text>) -> Vec<String> {
    texts.into_iter().map(|text| text.value).collect()
}

/// The entries of a table as the file has them: by their place, not by their name.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t str, Range<usize>, &'t Value<'i>)> {
    let mut entries: Vec<_> =
        table.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value)).collect();
    entries.sort_by_key(|(name, span, _)| (span.start, *name));
    entries
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

/// The first cycle, from its job that comes first in the file.
fn find_cycle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    for root in 0..edges.len() {
        // An explicit stack: a file may have a thousand jobs in a row.
        let mut path: Vec<(usize, usize)> = Vec::new();
        if marks[root] == Mark::New {
            marks[root] = Mark::Open;
            path.push((root, 0));
        }
        while let Some((job, next)) = path.last_mut() {
            let Some(&need) = edges[*job].get(*next) else {
                marks[*job] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            match marks[need] {
                Mark::Done => {}
                Mark::New => {
                    marks[need] = Mark::Open;
                    path.push((need, 0));
                }
                Mark::Open => {
                    let start = path.iter().position(|(job, _)| *job == need).unwrap_or(0);
                    let mut cycle: Vec<usize> = path[start..].iter().map(|(job, _)| *job).collect();
                    let first = cycle.iter().enumerate().min_by_key(|(_, job)| **job).map_or(0, |(i, _)| i);
                    cycle.rotate_left(first);
                    return Some(cycle);
                }
            }
        }
    }
    None
}
