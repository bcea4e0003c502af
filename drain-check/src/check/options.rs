//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use nix::sys::signal::Signal;

use crate::check::error::Error;
use crate::check::words;

/// Restarts a server under load, and says which requests were lost, when, and why
///
/// Exits with 0 if nothing was lost, with 1 if something was, with 2 if the check could not run.
#[derive(Debug, Clone, Parser)]
#[command(name = "drain-check", version, arg_required_else_help = true, args_override_self = true, after_help = EXAMPLES)]
#[non_exhaustive]
pub struct Options {
    /// The server's command, in place of the words after `--`; quotes are understood, no shell reads
    /// it, and {port} is replaced
    #[arg(long, value_name = "COMMAND", conflicts_with = "command")]
    pub spawn: Option<String>,
    /// The server's command
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Where the server answers; with --rolling, the path alone counts
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// More paths that clients ask for, in turn
    #[arg(long, value_name = "PATH")]
    pub path: Vec<String>,
    /// How often to restart, or each instance with --rolling [default: 5, or 2 with --rolling]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: Option<u32>,
    /// Instances, restarted in turn; each gets its port as {port} in the command and as PORT in the
    /// environment
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub rolling: Option<u16>,
    /// What spreads the requests over the instances
    #[arg(long, value_enum, default_value_t, requires = "rolling")]
    pub via: Via,
    /// HTTP/2 clients, too (prior knowledge, without TLS)
    #[arg(long)]
    pub h2: bool,
    /// HTTP/2 clients only
    #[arg(long, conflicts_with_all = ["sse", "ws"])]
    pub h2_only: bool,
    /// A path that answers with an event stream
    #[arg(long, value_name = "PATH")]
    pub sse: Option<String>,
    /// A path that is upgraded to a WebSocket
    #[arg(long, value_name = "PATH")]
    pub ws: Option<String>,
    /// A path that takes uploads by POST
    #[arg(long, value_name = "PATH")]
    pub upload: Option<String>,
    /// How many clients of each kind send requests
    #[arg(long, value_name = "C", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub clients: u16,
    /// What to send
    #[arg(long, default_value = "TERM", value_parser = signal)]
    pub signal: Signal,
    /// The readiness probe: ready when it answers with 2xx [default: ready when --url is answered]
    #[arg(long, value_name = "PATH")]
    pub ready_path: Option<String>,
    /// Seconds for the server to get ready
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub ready_within: Duration,
    /// Seconds for the server to end after the signal, before it is killed
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub end_within: Duration,
    /// Seconds for an answer
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub answer_within: Duration,
    /// Seconds of load before each signal, at most; each time is random
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub load: Duration,
    /// Ambiguous requests count as lost
    #[arg(long)]
    pub strict: bool,
    /// Repeats the random choices of an earlier run
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where to write the report as JSON (`-` is the standard output)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where to draw the requests over time (.svg or .html)
    #[arg(long, value_name = "FILE", value_parser = picture)]
    pub picture: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  drain-check --url http://127.0.0.1:3000/ -- ./my-server --port 3000
  drain-check --url http://127.0.0.1/ --rolling 3 --via haproxy --ready-path /health \\
      --json report.json --picture report.html -- ./my-server --port {port}";

/// What spreads the requests over instances.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum Via {
    /// The clients do, and pass over an instance that refuses the connection.
    #[default]
    None,
    /// HAProxy, with its default retries and a check twice a second.
    #[value(name = "haproxy")]
    HaProxy,
    /// nginx, with its default retries.
    Nginx,
}

impl Options {
    /// Parses the words of a command line, without the name of the program.
    ///
    /// # Errors
    ///
    /// [`Error::Arguments`], with the usage.
    pub fn parse_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let words = std::iter::once("drain-check").chain(words);
        Self::try_parse_from(words).map_err(|error| Error::Arguments(error.to_string()))
    }

    /// Returns the words of the server's command.
    pub(crate) fn command(&self) -> Result<Vec<String>, Error> {
        let words = match &self.spawn {
            Some(text) => {
                words::split(text).map_err(|what| Error::Arguments(format!("--spawn: {what}")))?
            }
            None => self.command.clone(),
        };
        if words.is_empty() {
            let what = "no server: give its command after `--`, or by --spawn";
            return Err(Error::Arguments(what.into()));
        }
        Ok(words)
    }

    /// Checks what concerns more than one option.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.command()?;
        let paths = self.path.iter().chain(&self.sse).chain(&self.ws);
        let paths = paths.chain(&self.upload).chain(&self.ready_path);
        for path in paths {
            if !path.starts_with('/') || path.parse::<http::Uri>().is_err() {
                let what = format!("`{path}` is not a path such as /items?page=2");
                return Err(Error::Arguments(what));
            }
        }
        if self.via != Via::None && (self.h2 || self.h2_only) {
            let what = "--h2 goes without --via: the balancers are set up for HTTP/1";
            return Err(Error::Arguments(what.into()));
        }
        Ok(())
    }

    pub(crate) fn rounds(&self) -> u32 {
        let default = if self.rolling.is_some() { 2 } else { 5 };
        self.rounds.unwrap_or(default)
    }

    pub(crate) fn has_http1(&self) -> bool {
        !self.h2_only
    }

    pub(crate) fn has_http2(&self) -> bool {
        self.h2 || self.h2_only
    }
}

fn signal(text: &str) -> Result<Signal, String> {
    let name = text.trim_start_matches("SIG");
    let known = format!("SIG{name}").parse::<Signal>();
    known.map_err(|_| "give a name such as TERM, INT or QUIT".into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "give seconds, more than 0 and up to 86400, such as 30 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if !(seconds > 0.0 && seconds <= 86_400.0) {
        return Err(wrong());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn picture(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("svg" | "html") => Ok(path),
        _ => Err("the name must end in .svg or .html".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(words: &str) -> String {
        let options = Options::parse_words(words.split(' '));
        let checked = options.and_then(|options| options.check());
        checked.unwrap_err().to_string()
    }

    #[test]
    fn bad_arguments_are_told_with_what_is_right() {
        let with = |words: &str| rejected(&format!("--url http://localhost/ {words} -- a"));
        assert!(with("--signal TREM").contains("TERM, INT or QUIT"));
        assert!(with("--load -1").contains("unexpected argument"));
        assert!(with("--load=-1").contains("more than 0"));
        assert!(with("--end-within never").contains("30 or 0.5"));
        assert!(with("--picture a.png").contains(".svg or .html"));
        assert!(with("--via haproxy").contains("--rolling"));
        assert!(with("--rounds 0").contains("1..=10000"));
        assert!(with("--sse events").contains("/items?page=2"));
        assert!(with("--rolling 2 --via nginx --h2").contains("HTTP/1"));
        assert!(rejected("--url http://localhost/").contains("no server"));
        assert!(rejected("--url http://localhost/ --spawn 'a").contains("without its end"));
    }
}
