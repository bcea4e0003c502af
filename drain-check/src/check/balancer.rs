//! HAProxy or nginx before the instances, with their default retries.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::check::error::Error;
use crate::check::options::{Options, Via};

/// How long it has to listen.
const START: Duration = Duration::from_secs(10);

/// A load balancer. It is killed when it is dropped, and its folder removed.
#[derive(Debug)]
pub struct Balancer {
    folder: PathBuf,
    // Dropped, and so killed, after `drop` below has removed the folder.
    process: Child,
}

impl Balancer {
    pub async fn start(
        options: &Options,
        address: SocketAddr,
        servers: &[SocketAddr],
    ) -> Result<Self, Error> {
        let program = match options.via {
            Via::Nginx => "nginx",
            _ => "haproxy",
        };
        Self::start_as(program, options, address, servers).await
    }

    async fn start_as(
        program: &'static str,
        options: &Options,
        address: SocketAddr,
        servers: &[SocketAddr],
    ) -> Result<Self, Error> {
        let folder = format!("drain-check-{}-{}", std::process::id(), address.port());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).map_err(Error::io("create a folder for the balancer"))?;
        let file = folder.join("conf");
        let mut command = Command::new(program);
        let config = match options.via {
            Via::Nginx => {
                command
                    .arg("-p")
                    .arg(&folder)
                    .arg("-e")
                    .arg("stderr")
                    .arg("-c")
                    .arg(&file);
                nginx(options, &folder, address, servers)
            }
            _ => {
                command.args(["-db", "-q", "-f"]).arg(&file);
                haproxy(options, address, servers)
            }
        };
        std::fs::write(&file, config).map_err(Error::io("write the balancer's configuration"))?;
        // Debian installs them where only root has them in the PATH.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
        let wrong = |what: String, source| Error::Balancer {
            program,
            what,
            source,
        };
        let process = command
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| {
                let _ = std::fs::remove_dir_all(&folder);
                let what = "cannot be started; install it, or choose another --via".to_owned();
                wrong(what, Some(source))
            })?;
        let mut balancer = Self { folder, process };
        let deadline = Instant::now() + START;
        while TcpStream::connect(address).await.is_err() {
            if let Ok(Some(status)) = balancer.process.try_wait() {
                return Err(wrong(format!("has ended: {status}"), None));
            }
            if Instant::now() > deadline {
                return Err(wrong(format!("does not listen on {address}"), None));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(balancer)
    }

    /// How long it may take until a restarted instance gets requests again.
    pub fn settles_within(via: Via) -> Duration {
        match via {
            Via::None => Duration::ZERO,
            // Two checks must succeed, or the failures be forgotten.
            Via::HaProxy | Via::Nginx => Duration::from_millis(1200),
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn haproxy(options: &Options, address: SocketAddr, servers: &[SocketAddr]) -> String {
    let check = match &options.ready_path {
        Some(path) => format!("option httpchk GET {path}"),
        None => String::new(),
    };
    let mut config = format!(
        "defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend all
    bind {address}
    default_backend servers
backend servers
    balance roundrobin
    {check}
    default-server check inter 500ms fall 2
"
    );
    for server in servers {
        // Writing to a string cannot fail.
        let _ = writeln!(config, "    server s{} {server}", server.port());
    }
    config
}

fn nginx(options: &Options, folder: &Path, address: SocketAddr, servers: &[SocketAddr]) -> String {
    let folder = folder.display();
    let mut config = format!(
        "daemon off;
master_process off;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    map $http_upgrade $to_upstream {{ default upgrade; '' ''; }}
"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(config, "    {kind}_temp_path {folder}/{kind};");
    }
    config += "    upstream servers {\n";
    for server in servers {
        let _ = writeln!(config, "        server {server} fail_timeout=1s;");
    }
    config += "    }\n    server {\n";
    let _ = writeln!(config, "        listen {address};");
    config += "        location / {\n            proxy_pass http://servers;\n";
    if options.ws.is_some() {
        config += "            proxy_http_version 1.1;\n";
        config += "            proxy_set_header Upgrade $http_upgrade;\n";
        config += "            proxy_set_header Connection $to_upstream;\n";
    }
    if options.sse.is_some() {
        config += "            proxy_buffering off;\n";
    }
    config + "        }\n    }\n}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fails(program: &'static str) -> String {
        let words = "--url http://localhost/ --rolling 2 --via nginx -- a";
        let options = Options::parse_words(words.split(' ')).unwrap();
        let address = ([127, 0, 0, 1], 9).into();
        let started = Balancer::start_as(program, &options, address, &[address]).await;
        started.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_program_that_is_missing_or_does_not_run_is_told() {
        let missing = fails("no-such-balancer").await;
        assert!(
            missing.contains("no-such-balancer cannot be started; install it"),
            "{missing}"
        );
        let ended = fails("false").await;
        assert!(ended.contains("false has ended: exit status: 1"), "{ended}");
    }
}
