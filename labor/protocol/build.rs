//! Compiles the protos with protox: no protoc is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/overseer.proto");
    let files = protox::compile(["overseer.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").codec_path("crate::Codec").compile_fds(files)?;
    Ok(())
}
