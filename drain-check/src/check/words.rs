//! Splits a command into words, without a shell.

/// Splits at white space, with the quotes and the backslash of a POSIX shell, and nothing else of
/// it: no variables, no patterns, no pipes.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    // `Some("")` is an empty word, from `''`.
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(char) => word.push(char),
                        None => return Err(format!("`{text}` has a ' without its end")),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(char @ ('"' | '\\' | '$' | '`')) => word.push(char),
                            Some(char) => word.extend(['\\', char]),
                            None => return Err(format!("`{text}` has a \" without its end")),
                        },
                        Some(char) => word.push(char),
                        None => return Err(format!("`{text}` has a \" without its end")),
                    }
                }
            }
            '\\' => match chars.next() {
                Some(char) => word.get_or_insert_default().push(char),
                None => return Err(format!("`{text}` ends with a backslash")),
            },
            char if char.is_whitespace() => words.extend(word.take()),
            char => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_split_as_a_shell_does() {
        for (text, words) in [
            ("", &[][..]),
            ("  ./server  --port 3000 ", &["./server", "--port", "3000"]),
            (r#"a 'b c' "d e" f\ g"#, &["a", "b c", "d e", "f g"]),
            (r#"a'b'"c" '' """#, &["abc", "", ""]),
            (r#""\"\\\n" '\'"#, &[r#""\\n"#, r"\"]),
            ("$HOME *", &["$HOME", "*"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for text in ["'a", "\"a", "\"a\\", "a\\"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
