//! The `overseer` program.

fn main() -> std::process::ExitCode {
    overseer_server::main()
}
