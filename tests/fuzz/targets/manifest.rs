//! A `release.toml` from anyone: it is refused with a place in the file, or it is written and
//! read again as the same.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use overseer_release::Manifest;

#[path = "../seeds.rs"]
mod seeds;

const SEEDS: &[(&str, &[u8])] = &[
    ("plugin", b"name = \"a\"\nversion = \"1.0.0\"\nkind = \"plugin\"\nentry = \"liba.so\"\nabi = 1\n"),
    (
        "program",
        b"name = \"b\"\nversion = \"1.0.0-rc.1+x\"\nkind = \"program\"\nentry = \"bin/b\"\nargs = [\"-v\"]\n\
          mode = \"serve\"\nrestart = \"on_failure\"\ntarget = \"x86_64-unknown-linux-gnu\"\n\
          [environment]\nPORT = \"80\"\n",
    ),
    (
        "run",
        b"name = \"c\"\nversion = \"1.0.0\"\nkind = \"program\"\nentry = \"bin/c\"\nmode = \"run\"\n\
          concurrency = 4\n",
    ),
];

fuzz_target!(init: seeds::write(SEEDS.iter().map(|(name, bytes)| (*name, bytes.to_vec()))), |data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Manifest::from_toml(Path::new("release.toml"), text) {
        Ok(manifest) => {
            let again = manifest.to_toml().expect("a manifest that was read can be written");
            let again = Manifest::from_toml(Path::new("release.toml"), &again).expect("and read again");
            assert_eq!(again, manifest);
        }
        Err(error) => {
            let lines = text.matches('\n').count() + 1;
            assert!(error.line >= 1 && error.line <= lines && error.column >= 1, "{error}");
        }
    }
});
