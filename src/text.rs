//! Text from outside, made safe to show.

use std::borrow::Cow;

/// Returns `text` on one line: control characters are escaped, and there are at most `most` characters. The
/// last of them is `…` if more would follow.
pub(crate) fn one_line(text: &str, most: usize) -> Cow<'_, str> {
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte);
    if text.len() <= most && text.as_bytes().iter().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut line = String::new();
    let mut room = most;
    // Where the line ends if it is too long, with one place left for `…`.
    let mut end = 0;
    for char in text.chars() {
        let escaped = char.is_control().then(|| char.escape_default());
        let length = escaped.as_ref().map_or(1, ExactSizeIterator::len);
        if length > room {
            line.truncate(end);
            line.push('…');
            break;
        }
        room -= length;
        match escaped {
            Some(escaped) => line.extend(escaped),
            None => line.push(char),
        }
        if room > 0 {
            end = line.len();
        }
    }
    Cow::Owned(line)
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_what_is_too_long_is_left_out() {
        assert_eq!(one_line("GET /", 200), "GET /");
        assert_eq!(one_line("GET /\u{1b}[31m\n", 200), "GET /\\u{1b}[31m\\n");
        assert_eq!(one_line("\n\n\n", 6), "\\n\\n\\n");
        assert_eq!(one_line("\n\n\n", 5), "\\n\\n…");
        assert_eq!(one_line("\n\n\n", 4), "\\n…");
        assert_eq!(one_line("äöü", 3), "äöü");
        assert_eq!(one_line("äöü", 2), "ä…");
        assert_eq!(one_line("GET", 3), "GET");
        assert_eq!(one_line("GET", 2), "G…");
        let long = "ä".repeat(1_000);
        let long = one_line(&long, 200);
        assert_eq!(long.chars().count(), 200);
        assert!(long.ends_with('…'));
    }
}
