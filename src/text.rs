//! Text from outside, made safe to show.

use std::borrow::Cow;

/// Returns `text` on one line: control characters are escaped, and after at most `most` characters there is
/// `…` if more would follow.
pub(crate) fn one_line(text: &str, most: usize) -> Cow<'_, str> {
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte);
    if text.len() <= most && text.as_bytes().iter().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut line = String::new();
    let mut room = most;
    for char in text.chars() {
        let escaped = char.is_control().then(|| char.escape_default());
        let length = escaped.as_ref().map_or(1, ExactSizeIterator::len);
        if length > room {
            line.push('…');
            break;
        }
        room -= length;
        match escaped {
            Some(escaped) => line.extend(escaped),
            None => line.push(char),
        }
    }
    Cow::Owned(line)
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_what_is_too_long_is_left_out() {
        for (text, most, line) in [
            ("GET /", 5, "GET /"),
            ("GET /", 4, "GET …"),
            ("äöü", 3, "äöü"),
            ("äöü", 2, "äö…"),
            ("GET /\u{1b}[31m\n", 100, "GET /\\u{1b}[31m\\n"),
            ("\n\n\n", 6, "\\n\\n\\n"),
            ("\n\n\n", 5, "\\n\\n…"),
            ("\n\n\n", 3, "\\n…"),
            ("a", 0, "…"),
            ("", 0, ""),
        ] {
            assert_eq!(one_line(text, most), line, "{text:?}, {most}");
        }
    }
}
