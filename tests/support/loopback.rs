//! Where servers of tests listen.
#![allow(dead_code)] // Some programs need it with some features only.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

/// Returns an address to bind, with a port that the system chooses.
///
/// On Linux each call returns another address. The clients of some tests go on connecting after their server
/// has closed. If its port were given to the server of another test, that server would count their requests.
pub fn loopback() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if !cfg!(target_os = "linux") {
        return (Ipv4Addr::LOCALHOST, 0).into();
    }
    let number = (std::process::id() << 10).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
    let [_, a, b, c] = number.to_be_bytes();
    (Ipv4Addr::new(127, 64 + a % 128, b, c), 0).into()
}
