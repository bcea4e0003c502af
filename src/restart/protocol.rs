//! What a process and its successor agree on: the protocol of sd_listen_fds(3), and one socket more.
//!
//! `LISTEN_PID` is left out, because a process ID is not known before the fork. Programs that do not check it
//! strictly, such as those with `listenfd`, take the sockets all the same.

/// How many sockets there are.
pub(super) const LISTEN_FDS: &str = "LISTEN_FDS";
/// Their names, with colons in between.
pub(super) const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";
/// For which process they are.
pub(super) const LISTEN_PID: &str = "LISTEN_PID";
/// An extension of `listenfd`: where they begin.
pub(super) const LISTEN_FDS_FIRST_FD: &str = "LISTEN_FDS_FIRST_FD";

/// The number of the first descriptor.
pub(super) const FIRST_FD: i32 = 3;

/// The name of the socket on which the successor says that it is ready. It is the last one.
pub(super) const READY: &str = "tower-lifecycle-ready";
/// What it says. If it closes the socket without a word, it will never be ready.
pub(super) const READY_BYTE: u8 = b'R';

/// Returns whether systemd would accept the name of a socket: ASCII without control characters and colons,
/// and at most 255 bytes.
pub(super) fn is_valid_name(name: &str) -> bool {
    let is_valid = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b':';
    (1..=255).contains(&name.len()) && name.bytes().all(is_valid) && name != READY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_systemd_accepts() {
        for good in ["http", "app.socket", "a b", &"x".repeat(255)] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", "a:b", "a\n", "ä", READY, &"x".repeat(256)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }
}
