//! Tells probers of readiness apart, so that the lame duck lasts until each has seen red.

use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use http::Request;
use http::header::USER_AGENT;

/// Returns what tells the sender of `request` from other probers: the address, if it is known, and the
/// `User-Agent`. The port is not part of it, because many probers open a connection for each probe.
pub(super) fn prober<B>(request: &Request<B>) -> impl Hash + '_ {
    let agent = request.headers().get(USER_AGENT);
    (address(request), agent.map(|agent| agent.as_bytes()))
}

fn address<B>(request: &Request<B>) -> Option<IpAddr> {
    let extensions = request.extensions();
    #[cfg(feature = "axum")]
    if let Some(info) = extensions.get::<axum::extract::ConnectInfo<SocketAddr>>() {
        return Some(info.0.ip());
    }
    extensions.get().map(SocketAddr::ip)
}
