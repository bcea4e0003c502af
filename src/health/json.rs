//! The JSON of a health answer.

use std::fmt::Write;
use std::time::SystemTime;

use serde::Serialize;
use serde::ser::SerializeMap;

use super::Check;

/// The body, in the order of its fields.
#[derive(Serialize)]
pub(super) struct Health<'a> {
    pub(super) status: &'a str,
    pub(super) version: &'a str,
    pub(super) services: Services<'a>,
    pub(super) uptime: u64,
    pub(super) in_flight_requests: u64,
    pub(super) timestamp: String,
}

/// The checks that were run, by their names.
pub(super) struct Services<'a> {
    pub(super) checks: &'a [Check],
    pub(super) results: &'a [Option<Result<(), String>>],
}

// ===== impl Services =====

impl Serialize for Services<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct CheckHealth<'a> {
            status: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a str>,
        }

        let mut map = serializer.serialize_map(Some(self.results.len()))?;
        for (check, result) in self.checks.iter().zip(self.results) {
            let (status, error) = match result {
                Some(Ok(())) => ("healthy", None),
                Some(Err(error)) => ("failed", Some(&**error)),
                None => ("failed", Some("panicked")),
            };
            map.serialize_entry(&*check.name, &CheckHealth { status, error })?;
        }
        map.end()
    }
}

/// The time in RFC 3339, in UTC; empty if the clock is out of its range.
pub(super) fn timestamp() -> String {
    let mut text = String::new();
    match write!(
        text,
        "{}",
        humantime::format_rfc3339_seconds(SystemTime::now())
    ) {
        Ok(()) => text,
        Err(_) => String::new(),
    }
}
