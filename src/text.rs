//! Text from outside, made safe to show.

use std::borrow::Cow;

/// Returns `text` on one line: characters that would break or reverse it are escaped, and after at most `most`
/// characters there is `…` if more would follow.
pub(crate) fn one_line(text: &str, most: usize) -> Cow<'_, str> {
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte);
    if text.len() <= most && text.as_bytes().iter().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut line = String::new();
    let mut room = most;
    for char in text.chars() {
        let escaped = breaks_line(char).then(|| char.escape_default());
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

/// Returns whether `char` is a control character, separates lines, or changes the direction of text.
fn breaks_line(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_the_line_is_escaped_and_what_is_too_long_is_left_out() {
        for (text, most, line) in [
            ("GET /", 5, "GET /"),
            ("GET /", 4, "GET …"),
            ("äöü", 3, "äöü"),
            ("äöü", 2, "äö…"),
            ("GET /\u{1b}[31m\n", 100, "GET /\\u{1b}[31m\\n"),
            ("a\u{2028}b\u{202e}c", 100, "a\\u{2028}b\\u{202e}c"),
            ("\u{61c}\u{200f}", 100, "\\u{61c}\\u{200f}"),
            ("\u{2067}\u{2069}", 16, "\\u{2067}\\u{2069}"),
            ("\u{2067}\u{2069}", 15, "\\u{2067}…"),
            (
                "\u{200d}\u{2027}\u{202f}\u{206a}",
                4,
                "\u{200d}\u{2027}\u{202f}\u{206a}",
            ),
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
