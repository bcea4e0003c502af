//! The configuration: a file, overridden by the environment, overridden by the command line.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use config::{Config, Environment, File};
use serde::{Deserialize, Deserializer};
use tower_lifecycle::{BoxError, ShutdownConfig};

#[derive(Parser)]
struct Arguments {
    /// The configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A service that fails to start, to show the rollback
    #[arg(long, value_name = "SERVICE")]
    fail: Option<Service>,
    /// The time for the whole shutdown, such as 20 or 1m30s
    #[arg(long, value_name = "TIME", value_parser = ShutdownConfig::parse_duration)]
    shutdown_timeout: Option<Duration>,
    /// How long to keep serving while readiness is red
    #[arg(long, value_name = "TIME", value_parser = ShutdownConfig::parse_duration)]
    lame_duck: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Service {
    Store,
    Echo,
    Worker,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub echo: SocketAddr,
    pub data: PathBuf,
    #[serde(deserialize_with = "duration")]
    pub job: Duration,
    #[serde(default)]
    pub shutdown: ShutdownConfig,
    #[serde(skip)]
    fail: Option<Service>,
}

impl Settings {
    pub fn load() -> Result<Self, BoxError> {
        let arguments = Arguments::parse();
        let mut settings: Self = Config::builder()
            .add_source(File::from(arguments.config))
            .add_source(Environment::with_prefix("RUNTIME").separator("__"))
            .build()?
            .try_deserialize()?;

        let mut cli = ShutdownConfig::default();
        if let Some(time) = arguments.shutdown_timeout {
            cli = cli.shutdown_timeout(time);
        }
        if let Some(time) = arguments.lame_duck {
            cli = cli.lame_duck(time);
        }
        let environment = ShutdownConfig::from_env("RUNTIME")?;
        settings.shutdown = settings.shutdown.merge(environment).merge(cli);
        settings.fail = arguments.fail;
        Ok(settings)
    }

    /// Starts a service, unless the command line says that it fails.
    pub fn checked<T>(
        &self,
        service: &str,
        start: impl Future<Output = Result<T, BoxError>>,
    ) -> impl Future<Output = Result<T, BoxError>> {
        let fails = self.fail.and_then(|service| service.to_possible_value());
        let fails = fails.is_some_and(|fails| fails.get_name() == service);
        async move {
            if fails {
                Err("told to fail by --fail".into())
            } else {
                start.await
            }
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    ShutdownConfig::parse_duration(&text).map_err(serde::de::Error::custom)
}
