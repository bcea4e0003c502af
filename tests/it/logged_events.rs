//! Every event that the crate logs is in the guide, with its level and its fields.
//!
//! `UPDATE=1` updates the table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const BEGIN: &str = "| level | message | fields |\n|---|---|---|\n";

/// In the order of the guide's table.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    level: Level,
    message: String,
    fields: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// Returns the arguments up to the closing parenthesis, split at the top-level commas.
fn arguments(call: &str) -> Vec<String> {
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    let mut arguments = vec![String::new()];
    for c in call.chars() {
        let last = arguments.last_mut().unwrap();
        if in_text {
            in_text = c != '"' || escaped;
            escaped = c == '\\' && !escaped;
            last.push(c);
            continue;
        }
        match c {
            ')' if depth == 0 => break,
            ',' if depth == 0 => arguments.push(String::new()),
            _ => {
                depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
                in_text = c == '"';
                last.push(c);
            }
        }
    }
    let trimmed = arguments.iter().map(|argument| argument.trim().to_owned());
    trimmed.filter(|argument| !argument.is_empty()).collect()
}

/// The text of a literal: a backslash at the end of a line removes the following whitespace.
fn text(literal: &str) -> String {
    let lines = literal.trim_matches('"').split("\\\n");
    lines.map(str::trim_start).collect()
}

fn event(call: &str) -> Option<Event> {
    let mut arguments = arguments(call);
    let message = arguments.pop().filter(|last| last.starts_with('"'))?;
    let level = match arguments.first()?.as_str() {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "info" => Level::Info,
        "debug" => Level::Debug,
        _ => return None,
    };
    let field = |argument: &String| {
        let name = argument.split('=').next().unwrap().trim();
        name.trim_start_matches(['%', '?']).to_owned()
    };
    Some(Event {
        level,
        message: text(&message),
        fields: arguments[1..].iter().map(field).collect(),
    })
}

fn events() -> BTreeSet<Event> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut events = BTreeSet::new();
    for file in files {
        for start in ["tell!(", "tell_here!("] {
            for call in file.split(start).skip(1) {
                // The macros themselves, and their tests, contain no events.
                events.extend(event(call));
            }
        }
    }
    events
}

#[test]
fn the_guide_has_every_event() {
    let events = events();
    assert!(events.len() > 50, "{} events", events.len());
    let mut table = String::from(BEGIN);
    for Event {
        level,
        message,
        fields,
    } in events
    {
        let level = format!("{level:?}").to_lowercase();
        let fields: Vec<_> = fields.iter().map(|name| format!("`{name}`")).collect();
        table += &format!("| {level} | {message} | {} |\n", fields.join(", "));
    }
    let path = root().join("docs/guide/logs.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, _) = page.split_once(BEGIN).expect("the head of the table");
    let expected = format!("{before}{table}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &expected).unwrap();
    } else {
        assert_eq!(page, expected, "`UPDATE=1` writes the table anew");
    }
}
