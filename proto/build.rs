//! Compiles the agent stream's `.proto` without a `protoc`.

#[cfg_attr(not(feature = "grpc"), expect(clippy::unnecessary_wraps, reason = "there is nothing to compile then"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "grpc")]
    {
        println!("cargo::rerun-if-changed=proto/agent.proto");
        let descriptors = protox::compile(["proto/agent.proto"], ["proto"])?;
        tonic_prost_build::configure().compile_fds(descriptors)?;
    }
    Ok(())
}
