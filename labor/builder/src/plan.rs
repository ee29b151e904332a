//! From a build file to the jobs that are run: matrices expanded, needs resolved.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::build_file::{ArtifactPattern, BuildFile, DEFAULT_TIMEOUT, JobSpec, rules};

/// A job of a plan, by its place in [`Plan::jobs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u32);

impl JobId {
    /// The place in [`Plan::jobs`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// All jobs of a build. The same build file gives the same plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// In the order of the file; a matrix in the order of its keys, the last one fastest.
    pub jobs: Vec<Job>,
}

/// One job as it is run on one labor: nothing is left to expand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its place in the plan.
    pub id: JobId,
    /// What users see, such as `build (os=linux, cc=gcc)`; unique in the plan. Its artifacts
    /// are laid into `needs/NAME/` of the jobs that need it.
    pub name: String,
    /// The matrix values of this job, in the order of the file.
    pub variant: Vec<(String, String)>,
    /// Shell commands, run one after the other by `sh -e -c` in the checkout's root.
    pub steps: Vec<String>,
    /// Which files it gives.
    pub artifacts: Vec<ArtifactPattern>,
    /// Jobs that must pass before, ascending.
    pub needs: Vec<JobId>,
    /// Environment of the steps; the matrix's variables are in it.
    pub env: BTreeMap<String, String>,
    /// How long it may run, in milliseconds.
    pub timeout_ms: u64,
    /// Directories that survive to the next build.
    pub cache: Vec<String>,
}

impl Plan {
    /// Expands a build file that was parsed or detected.
    pub fn of(file: &BuildFile) -> Self {
        let mut ids: BTreeMap<&str, Vec<JobId>> = BTreeMap::new();
        let mut jobs: Vec<Job> = Vec::new();
        for spec in &file.jobs {
            for variant in combinations(&spec.matrix) {
                let id = JobId(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
                ids.entry(&spec.name).or_default().push(id);
                jobs.push(job(id, spec, variant));
            }
        }
        let mut all = jobs.iter_mut();
        for spec in &file.jobs {
            let variants = ids.get(spec.name.as_str()).map_or(0, Vec::len);
            for job in all.by_ref().take(variants) {
                job.needs =
                    spec.needs.iter().filter_map(|n| ids.get(n.as_str())).flatten().copied().collect();
                job.needs.sort_unstable();
            }
        }
        Self { jobs }
    }

    /// The job with this id.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(id.index())
    }
}

fn job(id: JobId, spec: &JobSpec, variant: Vec<(String, String)>) -> Job {
    let mut env: BTreeMap<String, String> = spec.env.iter().cloned().collect();
    env.extend(variant.iter().map(|(key, value)| (rules::matrix_variable(key), value.clone())));
    let values: Vec<_> = variant.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let name =
        if values.is_empty() { spec.name.clone() } else { format!("{} ({})", spec.name, values.join(", ")) };
    Job {
        id,
        name,
        variant,
        steps: spec.steps.clone(),
        artifacts: spec.artifacts.clone(),
        needs: vec![],
        env,
        timeout_ms: u64::try_from(spec.timeout.unwrap_or(DEFAULT_TIMEOUT).as_millis()).unwrap_or(u64::MAX),
        cache: spec.cache.clone(),
    }
}

/// Every combination of a matrix; one empty one where there is none.
fn combinations(matrix: &[(String, Vec<String>)]) -> Vec<Vec<(String, String)>> {
    matrix.iter().fold(vec![vec![]], |combinations, (key, values)| {
        let with = |combination: &Vec<(String, String)>, value: &String| {
            let mut longer = combination.clone();
            longer.push((key.clone(), value.clone()));
            longer
        };
        combinations.iter().flat_map(|c| values.iter().map(move |v| with(c, v))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Plan {
        Plan::of(&BuildFile::parse(text.as_bytes(), "f").unwrap())
    }

    #[test]
    fn a_matrix_gives_one_job_for_each_combination_and_a_need_means_all_of_them() {
        let plan = plan(
            r#"
            [jobs.report]
            needs = ["build", "lint"]
            steps = ["x"]
            [jobs.build]
            steps = ["make"]
            env = { A = "1" }
            matrix = { os = ["linux", "bsd"], c-lib = ["glibc", "musl"] }
            timeout = "2s"
            [jobs.lint]
            steps = ["lint"]
            "#,
        );
        let names: Vec<_> = plan.jobs.iter().map(|j| j.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "report",
                "build (os=linux, c-lib=glibc)",
                "build (os=linux, c-lib=musl)",
                "build (os=bsd, c-lib=glibc)",
                "build (os=bsd, c-lib=musl)",
                "lint",
            ]
        );
        assert_eq!(plan.jobs[0].needs, [1, 2, 3, 4, 5].map(JobId));
        assert_eq!(plan.jobs[0].timeout_ms, 3_600_000);
        let bsd = &plan.jobs[3];
        assert_eq!(bsd.timeout_ms, 2000);
        let env: Vec<_> = bsd.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=1", "MATRIX_C_LIB=glibc", "MATRIX_OS=bsd"]);
        assert!(plan.jobs.iter().enumerate().all(|(i, job)| job.id.index() == i));
    }
}
