//! Compiles `proto/` to Rust, without protoc.
//!
//! Messages, servers and clients come out of `tonic-prost-build`. The Watch service is described
//! by hand below: its answers are `api::wire::WatchFrame`, whose events were encoded once for all
//! watchers, and which is on the wire what `WatchResponse` is.

use std::path::PathBuf;

const PROTOS: [&str; 6] =
    ["auth.proto", "health.proto", "kv.proto", "rpc.proto", "v3election.proto", "v3lock.proto"];

#[allow(clippy::disallowed_methods, reason = "a build script writes files: that is its work")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=QUORATE_RUSTC={}", compiler()?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    let files = compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(PROTOS)?
        .file_descriptor_set();
    // What the JSON gateway knows of the messages; it has no use for comments.
    let descriptors = compiler.include_source_info(false).encode_file_descriptor_set();
    std::fs::write(out.join("descriptors.bin"), descriptors)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;

    // `manual` names the file after package and service and generates the server alone.
    let watch = tonic_prost_build::manual::Service::builder()
        .name("Watch")
        .package("etcdserverpb")
        .method(
            tonic_prost_build::manual::Method::builder()
                .name("watch")
                .route_name("Watch")
                .input_type("crate::api::proto::etcdserverpb::WatchRequest")
                .output_type("crate::api::wire::WatchFrame")
                .codec_path("tonic_prost::ProstCodec")
                .client_streaming()
                .server_streaming()
                .build(),
        )
        .build();
    tonic_prost_build::manual::Builder::new()
        .build_client(false)
        .build_transport(false)
        .out_dir(&out)
        .compile(&[watch]);
    Ok(())
}

/// The compiler's own version line: `--version` names it where etcd names Go.
fn compiler() -> Result<String, Box<dyn std::error::Error>> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = std::process::Command::new(rustc).arg("--version").output()?;
    Ok(String::from_utf8(out.stdout)?.trim().to_string())
}
