//! The agent of the tests: built with them, so that nothing stale is ever run.

fn main() {
    overseer::init();
    eprintln!("this is for tests to start as an agent; it does nothing by itself");
    std::process::exit(64);
}
