//! The JSON body of a health response.

use std::fmt::Write;
use std::time::SystemTime;

use serde::Serialize;
use serde::ser::SerializeMap;

use super::check::Check;
use super::step::Shown;
use crate::shutdown::ServiceHealth;

/// The response body. The fields are serialized in this order.
#[derive(Serialize)]
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

// ===== impl Services =====

impl Serialize for Services<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Entry<'a> {
            status: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a str>,
            /// In seconds.
            #[serde(skip_serializing_if = "Option::is_none")]
            age: Option<u64>,
        }

        let mut map = serializer.serialize_map(None)?;
        // Empty if no checks were run for this response.
        let checks = || self.checks.iter().zip(self.shown);
        for service in self.started {
            // A check of the same name replaces the service: it says more.
            if checks().any(|(check, _)| check.name == service.name) {
                continue;
            }
            let entry = Entry {
                status: service.status,
                error: service.error.as_deref(),
                age: None,
            };
            map.serialize_entry(&*service.name, &entry)?;
        }
        for (check, shown) in checks() {
            let (status, error) = match &shown.outcome {
                Ok(()) => ("healthy", None),
                Err(error) => ("failed", Some(&**error)),
            };
            let age = shown.age.map(|age| age.as_secs());
            map.serialize_entry(&*check.name, &Entry { status, error, age })?;
        }
        map.end()
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
        serde_json::to_string(&services).expect("strings only")
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
}
