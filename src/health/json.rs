//! The JSON body of a health response.

use std::fmt::{self, Display, Write};
use std::time::SystemTime;

use super::check::Check;
use super::step::Shown;
use crate::shutdown::ServiceHealth;

/// The response body. Formatting it writes the JSON, with the fields in this order.
pub(super) struct Payload<'a> {
    pub(super) status: &'a str,
    pub(super) version: &'a str,
    pub(super) services: Services<'a>,
    pub(super) uptime: u64,
    pub(super) in_flight_requests: u64,
    pub(super) timestamp: String,
}

/// A map by name: first the started services, then the checks that were run.
pub(super) struct Services<'a> {
    pub(super) started: &'a [ServiceHealth],
    pub(super) checks: &'a [Check],
    pub(super) shown: &'a [Shown],
}

/// The value of one service or check.
struct Entry<'a> {
    status: &'a str,
    error: Option<&'a str>,
    /// In seconds.
    age: Option<u64>,
}

/// A JSON string (RFC 8259, section 7).
struct Quoted<'a>(&'a str);

// ===== impl Payload =====

impl Display for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#"{{"status":{},"version":{},"services":{},"uptime":{},"in_flight_requests":{},"timestamp":{}}}"#,
            Quoted(self.status),
            Quoted(self.version),
            self.services,
            self.uptime,
            self.in_flight_requests,
            Quoted(&self.timestamp),
        )
    }
}

// ===== impl Services =====

impl Services<'_> {
    fn entries(&self) -> impl Iterator<Item = (&str, Entry<'_>)> {
        // Empty if no checks were run for this response.
        let checks = || self.checks.iter().zip(self.shown);
        // A check of the same name replaces the service: it says more.
        let is_replaced =
            move |service: &&ServiceHealth| checks().any(|(check, _)| check.name == service.name);
        let started = self.started.iter().filter(move |s| !is_replaced(s));
        let started = started.map(|service| {
            let entry = Entry {
                status: service.status,
                error: service.error.as_deref(),
                age: None,
            };
            (&*service.name, entry)
        });
        started.chain(checks().map(|(check, shown)| {
            let (status, error) = match &shown.outcome {
                Ok(()) => ("healthy", None),
                Err(error) => ("failed", Some(&**error)),
            };
            let age = shown.age.map(|age| age.as_secs());
            (&*check.name, Entry { status, error, age })
        }))
    }
}

impl Display for Services<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('{')?;
        for (index, (name, entry)) in self.entries().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}:{entry}", Quoted(name))?;
        }
        f.write_char('}')
    }
}

impl Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#"{{"status":{}"#, Quoted(self.status))?;
        if let Some(error) = self.error {
            write!(f, r#","error":{}"#, Quoted(error))?;
        }
        if let Some(age) = self.age {
            write!(f, r#","age":{age}"#)?;
        }
        f.write_char('}')
    }
}

// ===== impl Quoted =====

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for char in self.0.chars() {
            match char {
                '"' => f.write_str(r#"\""#)?,
                '\\' => f.write_str(r"\\")?,
                '\n' => f.write_str(r"\n")?,
                '\r' => f.write_str(r"\r")?,
                '\t' => f.write_str(r"\t")?,
                '\0'..' ' => write!(f, r"\u{:04x}", u32::from(char))?,
                _ => f.write_char(char)?,
            }
        }
        f.write_char('"')
    }
}

/// Returns the current time in UTC in the format of RFC 3339. Empty if the system clock is out of range.
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

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;
    use crate::health::run::Outcome;

    fn started(name: &str, status: &'static str, error: Option<&str>) -> ServiceHealth {
        ServiceHealth {
            name: name.into(),
            status,
            error: error.map(Into::into),
        }
    }

    fn check(name: &str) -> Check {
        Check::new(name.into(), false, || async { Ok(()) })
    }

    fn json(started: &[ServiceHealth], checks: &[Check], outcomes: &[Outcome]) -> String {
        let shown: Vec<_> = outcomes.iter().cloned().map(Shown::from).collect();
        let services = Services {
            started,
            checks,
            shown: &shown,
        };
        services.to_string()
    }

    #[test]
    fn services_come_first_and_in_order_and_then_the_checks() {
        let services = [
            started("queue", "starting", None),
            started("cache", "failed", Some("no route to \"host\"")),
        ];
        let outcomes = [Ok(()), Err("disk full".into())];
        assert_eq!(
            json(&services, &[check("database"), check("audit")], &outcomes),
            concat!(
                r#"{"queue":{"status":"starting"},"#,
                r#""cache":{"status":"failed","error":"no route to \"host\""},"#,
                r#""database":{"status":"healthy"},"#,
                r#""audit":{"status":"failed","error":"disk full"}}"#
            )
        );
        assert_eq!(json(&[], &[], &[]), "{}");
    }

    #[test]
    fn a_check_replaces_the_service_of_its_name_once_it_was_run() {
        let services = [
            started("database", "healthy", None),
            started("queue", "stopping", None),
        ];
        let checks = [check("database")];
        assert_eq!(
            json(&services, &checks, &[Err("too slow".into())]),
            r#"{"queue":{"status":"stopping"},"database":{"status":"failed","error":"too slow"}}"#
        );
        assert_eq!(
            json(&services, &checks, &[]),
            r#"{"database":{"status":"healthy"},"queue":{"status":"stopping"}}"#
        );
    }

    #[test]
    fn any_text_is_quoted_as_json() {
        let ascii: String = (0..128).map(char::from).collect();
        for text in [&*ascii, "µ, \u{2028} and \u{1f980}", ""] {
            let quoted = Quoted(text).to_string();
            let parsed: String = serde_json::from_str(&quoted).unwrap();
            assert_eq!(parsed, text);
        }
        assert_eq!(Quoted("a\"\\\n\u{1}").to_string(), r#""a\"\\\n\u0001""#);
    }
}
