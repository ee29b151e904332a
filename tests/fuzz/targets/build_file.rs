//! A `.overseer.toml` from anyone: it is refused with a place in the file, or it gives a plan
//! whose jobs can be put in order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overseer_builder::build_file::{BuildFile, MAX_JOBS};
use overseer_builder::graph::Graph;
use overseer_builder::plan::Plan;

#[path = "../seeds.rs"]
mod seeds;

const SEEDS: &[(&str, &[u8])] = &[
    ("small", b"[jobs.build]\nsteps = [\"make\"]\nartifacts = [\"out/*\"]\n"),
    (
        "all",
        b"[jobs.build]\nsteps = [\"make\", \"make test\"]\nartifacts = [\"bin/**\"]\ntimeout = \"20m\"\n\
          cache = [\"target\"]\n[jobs.build.env]\nCC = \"cc\"\n[jobs.build.matrix]\nos = [\"a\", \"b\"]\n\
          [jobs.pack]\nneeds = [\"build\"]\nsteps = [\"tar c needs\"]\n",
    ),
];

fuzz_target!(init: seeds::write(SEEDS.iter().map(|(name, bytes)| (*name, bytes.to_vec()))), |bytes: &[u8]| {
    match BuildFile::parse(bytes, ".overseer.toml") {
        Ok(file) => {
            assert!(!file.jobs.is_empty());
            let plan = Plan::of(&file);
            assert!(plan.jobs.len() <= MAX_JOBS);
            Graph::new(&plan).expect("a parsed file has a sound graph");
        }
        Err(error) => assert!(error.text.get(error.range()).is_some(), "{error:?}"),
    }
});
