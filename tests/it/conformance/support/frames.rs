//! HTTP/2 frames (RFC 9113 §6), valid or not, and header blocks of literal fields only.

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 32;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The names of the error codes (RFC 9113 §7).
const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub fn error_name(code: u32) -> &'static str {
    ERRORS
        .get(code as usize)
        .copied()
        .unwrap_or("an unknown error")
}

// ===== header blocks =====

/// A literal field that is not indexed (RFC 7541 §6.2.2), without Huffman coding.
pub fn field(name: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let mut bytes = vec![0];
    push_length(&mut bytes, name.len());
    bytes.extend(name.as_bytes());
    push_length(&mut bytes, value.len());
    bytes.extend(value);
    bytes
}

/// An integer with a 7-bit prefix (RFC 7541 §5.1).
fn push_length(bytes: &mut Vec<u8>, mut length: usize) {
    if length < 127 {
        return bytes.push(length as u8);
    }
    bytes.push(127);
    length -= 127;
    while length >= 128 {
        bytes.push(length as u8 | 128);
        length /= 128;
    }
    bytes.push(length as u8);
}

pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// The header block of a request for `path`, with extra fields.
pub fn request_block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = block(&[
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
    ]);
    bytes.extend(block(more));
    bytes
}

/// A complete GET.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, &request_block("GET", path, &[]))
}

/// A complete request with this block.
pub fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, block)
}

/// The head of a POST that is echoed; its body follows.
pub fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let block = request_block("POST", "/echo", more);
    frame(HEADERS, END_HEADERS, stream, &block)
}

// ===== other frames =====

pub fn setting(number: u16, value: u32) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.extend(value.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

pub fn window(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

pub fn reset(stream: u32) -> Vec<u8> {
    const CANCEL: u32 = 8;
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A PRIORITY frame that depends on this stream.
pub fn priority(stream: u32, on: u32) -> Vec<u8> {
    frame(
        PRIORITY,
        0,
        stream,
        &[&on.to_be_bytes()[..], &[15]].concat(),
    )
}
