//! A server in a process with a low limit on open files.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason, serve};

use crate::support::loopback::loopback;

/// The child process of the next test.
#[test]
#[ignore = "not a test of its own"]
fn a_server_that_runs_out_of_file_descriptors() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let report = runtime.block_on(async {
        let ctl = ShutdownController::new();
        let listener = TcpListener::bind(loopback()).await.unwrap();
        println!("address={}", listener.local_addr().unwrap());
        let stop = ctl.clone();
        let stop = get(async move || stop.trigger(ShutdownReason::Manual).to_string());
        let routes = Router::new().route("/", get("ok")).route("/stop", stop);
        let app = routes.layer(DrainLayer::new(ctl.clone()));
        serve(listener, app, ctl).await
    });
    println!("graceful={}", report.is_graceful());
}

#[test]
fn a_server_that_has_run_out_of_file_descriptors_serves_when_there_are_some() {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""])
        .arg(program)
        .args(["--ignored", "--nocapture", "--exact"])
        .arg("descriptors::a_server_that_runs_out_of_file_descriptors")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = lines.map_while(Result::ok).filter_map(|line| {
        let (_, value) = line
            .split_once("address=")
            .or(line.split_once("graceful="))?;
        Some(value.to_owned())
    });
    let address = said.next().unwrap().parse().unwrap();

    let mut clients: Vec<_> = (0..60).map(|_| connect(address)).collect();
    for client in &mut clients {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            .unwrap();
    }
    let answered = |client: &mut TcpStream, patience| {
        client.set_read_timeout(Some(patience)).unwrap();
        client.read(&mut [0; 1024]).is_ok_and(|count| count > 0)
    };
    let (first, last) = clients.split_at_mut(20);
    assert!(
        first
            .iter_mut()
            .all(|client| answered(client, Duration::from_secs(10)))
    );
    let last = last.last_mut().unwrap();
    assert!(
        !answered(last, Duration::from_millis(50)),
        "there were enough descriptors for all"
    );
    clients.drain(..40);
    for client in &mut clients {
        assert!(answered(client, Duration::from_secs(10)));
    }
    drop(clients);
    let mut client = connect(address);
    client
        .write_all(b"GET /stop HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("true"));
    assert_eq!(said.next().unwrap(), "true");
    assert!(child.wait().unwrap().success());
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket
}
