//! `drain-check`: restarts a server under load, and says which requests were lost, when, and why.

use std::error::Error as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use drain_check::{Error, Options, Report, check};

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(report) => ExitCode::from(report.exit_code()),
        Err(error) => {
            let mut text = format!("drain-check: {error}");
            if let Some(source) = error.source() {
                text = format!("{text}: {source}");
            }
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<Report, Error> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Io { what, source }
    };
    let runtime = tokio::runtime::Runtime::new().map_err(io("start a runtime"))?;
    let report = runtime.block_on(check(options))?;
    let to_stdout = options.json.as_deref() == Some(Path::new("-"));
    if to_stdout {
        let _ = writeln!(io::stdout(), "{}", report.json());
        let _ = writeln!(io::stderr(), "{report}");
    } else {
        let _ = writeln!(io::stdout(), "{report}");
    }
    if let Some(path) = options.json.as_deref().filter(|_| !to_stdout) {
        let written = std::fs::write(path, report.json() + "\n");
        written.map_err(io(&format!("write {}", path.display())))?;
    }
    if let Some(path) = &options.picture {
        let is_page = path.extension().is_some_and(|ending| ending == "html");
        let text = if is_page {
            report.page()
        } else {
            report.picture()
        };
        let written = std::fs::write(path, text);
        written.map_err(io(&format!("write {}", path.display())))?;
    }
    Ok(report)
}
