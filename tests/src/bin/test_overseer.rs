//! The `overseer` program of the tests and benches: built with them, so that nothing stale is
//! ever run.

fn main() -> std::process::ExitCode {
    overseer_server::main()
}
