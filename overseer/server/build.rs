//! Compiles the control API's protos with protox: no protoc is needed on the machine.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["control.proto", "access.proto"], ["proto"])?;
    // Served to who asks the server what it can do.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("control.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
