//! What the user asked to be built.

use std::path::PathBuf;

use clap::Args;
use overseer_builder::api::Source;

use super::artifacts::OutDirectory;
use super::{site, source};
use crate::exit::BUILD_CODES;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  overseer build .                                HEAD of the repository here
  overseer build . --worktree                     what lies there, committed or not
  overseer build ~/src/tool --rev v1.2 --out dist
  overseer build git@host:team/tool.git --nodes 4
  overseer build . --json | jq 'select(.event == \"job_finished\")'

Jobs come from .overseer.toml in the repository, or from its kind (Cargo, Make, …):
  [jobs.build]
  steps = [\"make\"]
  artifacts = [\"bin/*\"]
";

/// Builds a commit: its jobs run side by side on labors that live as long as the build
#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n{BUILD_CODES}"))]
pub(crate) struct BuildArgs {
    /// Directory of a git repository, or a git URL
    #[arg(value_name = "PATH|URL")]
    source: String,
    /// Branch, tag or commit [default: HEAD]
    #[arg(long, conflicts_with = "worktree", allow_hyphen_values = true)]
    rev: Option<String>,
    /// Directory for the artifacts: OUT/JOB/PATH
    #[arg(long, value_name = "DIR", default_value = "overseer-out")]
    out: PathBuf,
    /// Most labors at a time; each runs one job [default: cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    nodes: Option<u16>,
    /// Build what lies in the work tree, committed or not
    #[arg(long)]
    worktree: bool,
    /// Print JSON documents to standard output, one on a line; text goes to standard error
    #[arg(long)]
    pub(crate) json: bool,
}

/// A build that makes sense so far.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) source: Source,
    pub(super) rev: Option<String>,
    pub(super) worktree: bool,
    /// Absolute.
    pub(super) out: PathBuf,
    /// As the user gave it.
    pub(super) out_name: String,
    /// Most labors at a time.
    pub(super) nodes: usize,
    pub(super) cache: PathBuf,
    pub(super) json: bool,
}

impl Request {
    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// What cannot be built.
    pub(super) fn new(args: BuildArgs) -> Result<Self, Failure> {
        let source = source::parse(&args.source)?;
        if args.worktree && matches!(source, Source::Url(_)) {
            return Err(Failure::input("build.worktree", "a URL has no work tree")
                .help("leave --worktree out, or give the path of a repository"));
        }
        let out_name = args.out.display().to_string();
        let out = std::path::absolute(&args.out)
            .map_err(|e| Failure::input("build.out", format!("--out {out_name:?}: {e}")))?;
        if out.exists() && !out.is_dir() {
            return Err(Failure::input("build.out", format!("--out {out_name:?} is not a directory"))
                .help("choose another directory"));
        }
        OutDirectory(out.clone()).probe().map_err(|e| {
            Failure::input("build.out", format!("--out {out_name:?} cannot be written: {}", e.reason()))
                .help("fix its permissions, or choose another directory")
        })?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            source,
            rev: args.rev,
            worktree: args.worktree,
            out,
            out_name,
            nodes: args.nodes.map_or_else(cores, usize::from),
            cache: site::cache_directory()?,
            json: args.json,
        })
    }
}
