//! Generates the messages from the `.proto` files that the `envoy-types` package carries, plus the few under `proto/`.
//!
//! Nothing of upstream is committed: the files are read where cargo has put that package, and the code and the
//! descriptor set go to `OUT_DIR`.

#[path = "build/schema.rs"]
mod schema;

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost_types::FileDescriptorSet;

/// Must be the version in the workspace's Cargo.toml: changing it there and here makes this script run again.
const ENVOY_TYPES_VERSION: &str = "0.7.7";

/// The target under which Cargo.toml lists `envoy-types`; see there.
const DOWNLOAD_TARGET: &str = "x86_64-unknown-none";

/// Import roots inside the package's `proto` folder.
const IMPORT_ROOTS: [&str; 8] = [
    "data-plane-api",
    "xds",
    "googleapis",
    "protoc-gen-validate",
    "cel-spec/proto",
    "opentelemetry-proto",
    "client_model",
    "ratelimit",
];

/// Folders compiled whole; whatever they import comes along.
const WANTED: [&str; 5] =
    ["data-plane-api/envoy/", "xds/xds/", "xds/udpa/", "googleapis/google/rpc/", "ratelimit/"];

/// Files that no part of the mesh has a use for (a path containing one of these is left out): they would cost
/// compile time and larger tables.
const UNWANTED: [&str; 38] = [
    "dynamic_modules",
    "aws",
    "gcp_authn",
    "/a2a/",
    "/ai/",
    "/ai_",
    "reverse_tunnel",
    "reverse_connection",
    "mcp_multicluster",
    "mcp_json_rest_bridge",
    "sse_to_metadata",
    "thrift_to_metadata",
    "udp_proxy/session",
    "proto_api_scrubber",
    "proto_message_extraction",
    "grpc_field_extraction",
    "grpc_json_reverse_transcoder",
    "file_server",
    "file_system_buffer",
    "file_system_http_cache",
    "cache_v2",
    "transport_sockets/s2a",
    "extensions/quic/",
    "call_credentials/google",
    "call_credentials/service_account",
    "call_credentials/sts",
    "call_credentials/file_based",
    "channel_credentials/google",
    "channel_credentials/local",
    "fluentd",
    "extensions/watchdog",
    "socket_interface/sockmap",
    "service/redis_auth",
    "service/network_ext_proc",
    "generic_proxy/codecs/http1",
    "dns_resolver/apple",
    "ext_proc/processing_request_modifiers",
    "ext_proc/response_processors",
];

fn main() -> Result<(), Box<dyn Error>> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let own_protos = manifest_dir.join("proto");
    let upstream = upstream_protos(&manifest_dir)?;

    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed={}", own_protos.display());
    println!("cargo:rerun-if-changed={}", upstream.display());

    let mut import_roots = vec![own_protos.clone()];
    import_roots.extend(IMPORT_ROOTS.iter().map(|root| upstream.join(root)));
    import_roots.push(protoc_bin_vendored::include_path()?);

    let mut files = BTreeSet::new();
    collect(&own_protos, &own_protos, &mut files)?;
    for root in IMPORT_ROOTS {
        let root = upstream.join(root);
        collect(&root, &root, &mut files)?;
    }
    files.retain(|file| is_wanted(file));

    let descriptor_path = out_dir.join("descriptors.bin");
    run_protoc(&import_roots, &files, &descriptor_path)?;
    let bytes = fs::read(&descriptor_path)?;
    schema::write(&bytes, &out_dir)?;
    let mut descriptors = FileDescriptorSet::decode(bytes.as_slice())?;
    // Services are described where they are served (`xds`, `citadel`), never here.
    for file in &mut descriptors.file {
        file.service.clear();
    }

    let mut config = prost_build::Config::new();
    config
        .out_dir(&out_dir)
        .include_file("messages.rs")
        .bytes(["."])
        // Equal messages must encode to equal bytes, in every process and on every run.
        .btree_map(["."])
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .compile_well_known_types();
    for (message, rust) in [
        ("BoolValue", "bool"),
        ("BytesValue", "::prost::bytes::Bytes"),
        ("DoubleValue", "f64"),
        ("Empty", "()"),
        ("FloatValue", "f32"),
        ("Int32Value", "i32"),
        ("Int64Value", "i64"),
        ("StringValue", "::prost::alloc::string::String"),
        ("UInt32Value", "u32"),
        ("UInt64Value", "u64"),
    ] {
        config.extern_path(format!(".google.protobuf.{message}"), rust);
    }
    config.compile_fds(descriptors)?;
    add_type_urls(&out_dir)
}

/// Adds a `TypeUrl` next to each `Name`: prost gives the URL as a function that allocates, and its constants leave out
/// the outer messages of a nested one.
fn add_type_urls(out_dir: &Path) -> Result<(), Box<dyn Error>> {
    const NAME: &str = "impl ::prost::Name for ";
    for entry in fs::read_dir(out_dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let code = fs::read_to_string(&path)?;
        let mut output = String::with_capacity(code.len() * 5 / 4);
        let mut rest = code.as_str();
        while let Some(at) = rest.find(NAME) {
            let (before, block) = rest.split_at(at);
            let malformed = || format!("{}: a message without a type URL", path.display());
            let (message, _) = block[NAME.len()..].split_once(' ').ok_or_else(malformed)?;
            let start = block.find("\"type.googleapis.com/").ok_or_else(malformed)?;
            let end = start + block[start..].find(".into()").ok_or_else(malformed)?;
            let url = &block[start..end];
            output.push_str(before);
            output.push_str(&format!(
                "impl crate::TypeUrl for {message} {{ const TYPE_URL: &'static str = {url}; }}\n"
            ));
            output.push_str(&block[..end]);
            rest = &block[end..];
        }
        output.push_str(rest);
        fs::write(&path, output)?;
    }
    Ok(())
}

fn is_wanted(file: &Path) -> bool {
    let file = format!("/{}", file.display());
    let own = ["/udpa/type/", "/xds/type/v3/typed_struct", "/istio/", "/stats/"];
    let wanted = WANTED.iter().any(|folder| {
        // The folders are named with their import root, the files without.
        let inside = IMPORT_ROOTS
            .iter()
            .find_map(|root| folder.strip_prefix(root))
            .expect("every wanted folder lies in an import root");
        file.starts_with(inside)
    });
    own.iter().any(|folder| file.starts_with(folder))
        || wanted && !UNWANTED.iter().any(|part| file.contains(part))
}

/// Every `.proto` file below `folder`, relative to `root`.
fn collect(root: &Path, folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.insert(path.strip_prefix(root)?.to_path_buf());
        }
    }
    Ok(())
}

fn run_protoc(
    import_roots: &[PathBuf],
    files: &BTreeSet<PathBuf>,
    output: &Path,
) -> Result<(), Box<dyn Error>> {
    let mut protoc = Command::new(protoc_bin_vendored::protoc_bin_path()?);
    protoc.arg("--include_imports").arg("--descriptor_set_out").arg(output);
    for root in import_roots {
        protoc.arg("-I").arg(root);
    }
    let result = protoc.args(files).output()?;
    if !result.status.success() {
        return Err(format!("protoc failed:\n{}", String::from_utf8_lossy(&result.stderr)).into());
    }
    Ok(())
}

/// The `proto` folder of the downloaded `envoy-types` package.
fn upstream_protos(manifest_dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    // Without network first: usually everything has been downloaded already.
    let metadata = cargo_metadata(manifest_dir, &["--offline", "--locked"])
        .or_else(|_| cargo_metadata(manifest_dir, &["--offline"]))
        .or_else(|_| cargo_metadata(manifest_dir, &[]))
        .map_err(|error| {
            format!(
                "the protocol definitions in the package envoy-types cannot be found; run `cargo fetch` once \
                 with network access: {error}"
            )
        })?;
    let package = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == "envoy-types"))
        .ok_or("cargo metadata lists no package envoy-types")?;
    if package["version"] != ENVOY_TYPES_VERSION {
        return Err(format!(
            "envoy-types is {} but build.rs expects {ENVOY_TYPES_VERSION}: change ENVOY_TYPES_VERSION too",
            package["version"]
        )
        .into());
    }
    let manifest = package["manifest_path"].as_str().ok_or("the package has no manifest_path")?;
    Ok(Path::new(manifest).parent().ok_or("the manifest has no folder")?.join("proto"))
}

fn cargo_metadata(manifest_dir: &Path, flags: &[&str]) -> Result<serde_json::Value, Box<dyn Error>> {
    let mut cargo = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo
        .current_dir(manifest_dir)
        .args(["metadata", "--format-version", "1", "--filter-platform", DOWNLOAD_TARGET])
        .arg("--manifest-path")
        .arg(manifest_dir.join("Cargo.toml"))
        .args(flags);
    // The outer cargo sets these for the compiler it runs; the inner one shall ask the plain compiler.
    for variable in [
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
        "CARGO_BUILD_TARGET",
        "TARGET",
    ] {
        cargo.env_remove(variable);
    }
    let output = cargo.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
