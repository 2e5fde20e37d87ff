//! The upstream of all scenarios: one nginx worker.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::process::{Machine, Process};
use crate::traffic::{free_port, wait_for_port};

/// It, and where it listens.
#[derive(Debug)]
pub struct Upstream {
    process: Process,
    /// HTTP/1.1.
    pub http1: u16,
    /// HTTP/2 without TLS.
    pub http2: u16,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Killed, it would leave its worker behind.
        self.process.terminate();
    }
}

impl Upstream {
    /// Starts it.
    pub fn start(folder: &Path, machine: &Machine) -> anyhow::Result<Self> {
        let (http1, http2) = (free_port()?, free_port()?);
        let root = folder.join("www");
        fs::create_dir_all(&root)?;
        // An own worker may be another user.
        open_to_all(folder)?;
        fs::write(root.join("64k"), vec![b'x'; 64 << 10])?;
        fs::write(root.join("16m"), vec![b'x'; 16 << 20])?;
        let (folder_name, root, body) = (folder.display(), root.display(), "x".repeat(128));
        let locations = format!(
            "location = /small {{ return 200 \"{body}\"; }}
    location = /grpc {{ default_type application/grpc; add_trailer grpc-status 0; return 200 \"{body}\"; }}
    location / {{ root {root}; }}"
        );
        let configuration = format!(
            "daemon off;
worker_processes 1;
pid {folder_name}/nginx.pid;
error_log {folder_name}/nginx.log warn;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  server_tokens off;
  etag off;
  sendfile on;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  open_file_cache max=16;
  client_body_temp_path {folder_name}/body;
  server {{
    listen 127.0.0.1:{http1} backlog=4096;
    {locations}
  }}
  server {{
    listen 127.0.0.1:{http2} http2 backlog=4096;
    http2_max_concurrent_streams 1000;
    {locations}
  }}
}}
"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration)?;
        let arguments = ["-e".as_ref(), "stderr".as_ref(), "-c".as_ref(), file.as_os_str()];
        let mut process =
            Process::start("nginx".as_ref(), &arguments, machine.others, &folder.join("nginx.out"))?;
        wait_for_port(http1, &mut process).context("nginx does not answer")?;
        Ok(Self { process, http1, http2 })
    }
}

fn open_to_all(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?)
}
