//! Finds out from a process's surroundings which platform will end it.

use std::env;
use std::path::Path;

use super::error::ConfigError;
use super::platform::Platform;
use super::shutdown_config::ShutdownConfig;

// ===== impl ShutdownConfig =====

impl ShutdownConfig {
    /// Checks that a shutdown fits the platform that the configuration was made for, or else the one
    /// that is found, with its default grace. If none is found, everything fits.
    pub(crate) fn fits_surroundings(&self) -> Result<(), ConfigError> {
        self.fits_platform_of(
            |variable| env::var_os(variable).is_some_and(|value| !value.is_empty()),
            |file| Path::new(file).exists(),
        )
    }

    fn fits_platform_of(
        &self,
        is_set: impl Fn(&str) -> bool,
        exists: impl Fn(&str) -> bool,
    ) -> Result<(), ConfigError> {
        match &self.platform {
            Some(chosen) => self.fits(chosen),
            None => Platform::find(is_set, exists).map_or(Ok(()), |found| self.fits(&found)),
        }
    }
}

// ===== impl Platform =====

impl Platform {
    /// Finds the platform by what each puts into the surroundings of its processes.
    ///
    /// Every container of a pod is given `KUBERNETES_SERVICE_HOST`. Docker and Podman make a file in the
    /// root of each container. A container is asked for before systemd, because Podman hands
    /// `NOTIFY_SOCKET` on into its containers. systemd sets `INVOCATION_ID` for each process of a unit
    /// (systemd.exec(5)). The shells of a session may have it, too; 90 s are seldom too short there.
    fn find(is_set: impl Fn(&str) -> bool, exists: impl Fn(&str) -> bool) -> Option<Self> {
        if is_set("KUBERNETES_SERVICE_HOST") {
            Some(Self::kubernetes())
        } else if exists("/.dockerenv") {
            Some(Self::docker())
        } else if exists("/run/.containerenv") {
            Some(Self::named("Podman", Self::docker().termination_grace))
        } else if is_set("INVOCATION_ID") || is_set("NOTIFY_SOCKET") {
            Some(Self::systemd())
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Returns the name and the grace of the platform of a process that finds only these.
    fn found(variables: &[&str], files: &[&str]) -> Option<(&'static str, u64)> {
        let platform = Platform::find(
            |variable| variables.contains(&variable),
            |file| files.contains(&file),
        )?;
        Some((platform.name, platform.termination_grace.as_secs()))
    }

    #[test]
    fn each_platform_is_told_by_its_own_mark() {
        let kubernetes = Some(("Kubernetes", 30));
        assert_eq!(found(&["KUBERNETES_SERVICE_HOST"], &[]), kubernetes);
        assert_eq!(found(&[], &["/.dockerenv"]), Some(("Docker", 10)));
        assert_eq!(found(&[], &["/run/.containerenv"]), Some(("Podman", 10)));
        assert_eq!(found(&["INVOCATION_ID"], &[]), Some(("systemd", 90)));
        assert_eq!(found(&["NOTIFY_SOCKET"], &[]), Some(("systemd", 90)));
        assert_eq!(found(&["HOME", "INVOCATION"], &["/etc/passwd"]), None);
    }

    #[test]
    fn of_several_marks_that_of_the_nearest_platform_counts() {
        let files = ["/.dockerenv", "/run/.containerenv"];
        let variables = ["INVOCATION_ID", "KUBERNETES_SERVICE_HOST"];
        assert_eq!(found(&variables, &files), Some(("Kubernetes", 30)));
        let podman_in_a_unit = found(&["NOTIFY_SOCKET"], &["/run/.containerenv"]);
        assert_eq!(podman_in_a_unit, Some(("Podman", 10)));
    }

    #[test]
    fn the_default_total_is_as_long_as_kubernetes_waits_and_longer_than_docker_does() {
        let fits = |variable: &str, file: &str| {
            ShutdownConfig::default().fits_platform_of(|v| v == variable, |f| f == file)
        };
        let error = fits("KUBERNETES_SERVICE_HOST", "").expect_err("too long");
        assert_eq!(
            error.to_string(),
            "shutdown_timeout is 30s, but may be at most 29s: Kubernetes kills after 30s, less \
             the margin of 1s"
        );
        let error = fits("", "/.dockerenv").expect_err("too long").to_string();
        assert!(
            error.contains("at most 9s: Docker kills after 10s"),
            "{error}"
        );
        assert_eq!(fits("INVOCATION_ID", ""), Ok(()));
        assert_eq!(fits("", ""), Ok(()));
    }

    #[test]
    fn the_platform_that_was_chosen_counts_and_not_the_one_that_is_found() {
        let patient = Platform::kubernetes().termination_grace(Duration::from_secs(600));
        let config = ShutdownConfig::within(patient).expect("it fits");
        let is_asked = |_: &str| panic!("no need to look for a platform");
        assert_eq!(config.fits_platform_of(is_asked, is_asked), Ok(()));
        let config = config.shutdown_timeout(Duration::from_secs(600));
        assert!(config.fits_platform_of(is_asked, is_asked).is_err());
    }
}
