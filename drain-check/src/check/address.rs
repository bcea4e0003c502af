//! Addresses that are given, and ports that are free.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use http::Uri;

use crate::check::error::Error;
use crate::random::Random;
use crate::target::Target;

/// Reads `--url`. Returns the server's target and the path.
pub async fn of_url(url: &str) -> Result<(Target, String), Error> {
    let wrong = |what: &str| Error::Arguments(format!("--url `{url}` {what}"));
    let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("must begin with http:// (TLS is not spoken)"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
    let host = authority.host().trim_matches(['[', ']']);
    let port = authority.port_u16().unwrap_or(80);
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<_> = found.map_err(|_| wrong("has an unknown host"))?.collect();
    // A server on `localhost` mostly listens on IPv4 only.
    let address = found.iter().find(|address| address.is_ipv4());
    let address = address.or(found.first());
    let address = address.ok_or_else(|| wrong("has a host without an address"))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let target = Target {
        authority: authority.clone(),
        addresses: vec![*address],
        is_balancer: false,
    };
    Ok((target, path.to_owned()))
}

/// Finds free ports below the ephemeral range: a connection could otherwise take the port of a
/// server while that is restarted.
pub fn free_ports(count: usize, random: &mut Random) -> Result<Vec<SocketAddr>, Error> {
    let mut held = Vec::new();
    for _ in 0..1000 {
        let port = u16::try_from(10_000 + random.below(20_000)).unwrap_or(10_000);
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        if held.len() == count {
            let addresses: Result<_, _> = held.iter().map(TcpListener::local_addr).collect();
            return addresses.map_err(Error::io("read the address of a socket"));
        }
    }
    let what = format!("find {count} free ports from 10000 to 30000");
    Err(Error::io(what)(std::io::ErrorKind::AddrInUse.into()))
}
