//! Tells the crate for which target it is compiled: a release's default target.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Cargo always sets TARGET for build scripts; an empty one fails the manifest's own check.
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=OVERSEER_RELEASE_TARGET={target}");
}
