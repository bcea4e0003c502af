//! Stops new connections to a listening socket that is about to be closed.

use std::io;

use socket2::{SockFilter, SockRef};
use tokio::net::TcpListener;

/// Offset of the flags in a TCP header (RFC 9293 §3.1), and the flags that open a connection.
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Makes the kernel drop every segment that opens a new connection.
///
/// Handshakes that the kernel has already answered still complete. Other clients retransmit their SYN
/// after a second and are refused then, because the socket is closed. Without the filter, the kernel would
/// accept their connections and reset them when the socket is closed.
pub(super) fn keep_out(listener: &TcpListener) -> io::Result<()> {
    // Classic BPF, with Linux's names.
    const LD_B_ABS: u16 = 0x30;
    const AND_K: u16 = 0x54;
    const JEQ_K: u16 = 0x15;
    const RET_K: u16 = 0x06;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LD_B_ABS, 0, 0, FLAGS),
        SockFilter::new(AND_K, 0, 0, SYN | ACK),
        SockFilter::new(JEQ_K, 0, 1, SYN),
        SockFilter::new(RET_K, 0, 0, 0),
        SockFilter::new(RET_K, 0, 0, u32::MAX),
    ])
}
