//! Where requests go.

use std::net::SocketAddr;

use http::uri::Authority;

/// The address of a server, or those of its instances, or that of their balancer.
#[derive(Debug, Clone)]
pub struct Target {
    /// For `Host` and `:authority`.
    pub(crate) authority: Authority,
    pub(crate) addresses: Vec<SocketAddr>,
    /// Whether a balancer answers in place of a server.
    pub(crate) is_balancer: bool,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::of(vec![address], false)
    }
}

impl Target {
    pub(crate) fn of(addresses: Vec<SocketAddr>, is_balancer: bool) -> Self {
        let authority = addresses[0].to_string().parse();
        Self {
            authority: authority.expect("an address is an authority"),
            addresses,
            is_balancer,
        }
    }

    /// Returns the URL of a path, for clients that want one.
    pub(crate) fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.authority)
    }
}
