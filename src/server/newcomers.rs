//! Keeps newcomers out of a listening socket that is about to be closed.

use std::io;

use socket2::{SockFilter, SockRef};
use tokio::net::TcpListener;

/// The flags in a segment's header (RFC 9293 §3.1), and those of one that opens a connection.
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Has the kernel drop each segment that asks for a new connection.
///
/// Those whom it has answered come in. The others ask again after a second, and are refused then,
/// since the socket is closed; a connection that is accepted by the kernel alone would be reset.
pub(super) fn keep_out(listener: &TcpListener) -> io::Result<()> {
    // Classic BPF, whose names are Linux's.
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
