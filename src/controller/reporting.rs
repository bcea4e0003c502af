//! Where the report goes, besides to those who wait for it.

use super::controller::ShutdownController;
use crate::shutdown::ShutdownReport;

impl ShutdownController {
    /// Calls `receive` with the report of the shutdown, or of the rollback of a start-up.
    ///
    /// It is called once, before those who wait for the report get it. So it is called even if the process
    /// exits right after that. If the report exists already, it is called at once. A panic in it is caught.
    /// It must not block, because it delays the end of the shutdown.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let (metrics, received) = mpsc::channel();
    /// ctl.on_report(move |report| metrics.send(report.aborted()).unwrap());
    ///
    /// ctl.shutdown(ShutdownReason::Manual).await;
    /// assert_eq!(received.recv().unwrap(), 0);
    /// # }
    /// ```
    pub fn on_report<F>(&self, receive: F)
    where
        F: FnOnce(&ShutdownReport) + Send + 'static,
    {
        self.core().on_report(Box::new(receive));
    }

    /// Writes the report to a file, as JSON.
    ///
    /// The form is that of [`ShutdownReport`]'s `Serialize`. The file is created, or truncated, and written
    /// before those who wait for the report get it. It may also be a pipe or a device. On Kubernetes
    /// `/dev/termination-log` is a fitting path: `kubectl describe pod` shows it. A file that cannot be
    /// written is logged, and changes nothing else. A disk that hangs delays the end of the shutdown by a
    /// second.
    ///
    /// Give it an absolute path, or one from the current directory at the end of the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let path = std::env::temp_dir().join(format!("report-{}.json", std::process::id()));
    /// let ctl = ShutdownController::new();
    /// ctl.write_report_to(&path);
    ///
    /// ctl.shutdown(ShutdownReason::Manual).await;
    /// let report: serde_json::Value =
    ///     serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    /// assert_eq!(report["result"], "graceful");
    /// assert_eq!(report["requests"]["aborted"], 0);
    /// # std::fs::remove_file(path).unwrap();
    /// # }
    /// ```
    #[cfg(feature = "serde")]
    #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
    pub fn write_report_to(&self, path: impl Into<std::path::PathBuf>) {
        let path = path.into();
        self.on_report(move |report| file::write(path, report.clone()));
    }
}

#[cfg(feature = "serde")]
mod file {
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::time::Duration;
    use std::{fs, io, thread};

    use crate::log;
    use crate::log::tell;
    use crate::shutdown::ShutdownReport;

    /// How long the end of a shutdown waits for the file.
    const TIMEOUT: Duration = Duration::from_secs(1);

    /// Writes the file on a thread of its own, since the disk may hang.
    pub(super) fn write(path: PathBuf, report: ShutdownReport) {
        let (done, written) = mpsc::channel();
        let file = path.clone();
        let thread = thread::Builder::new().name("lifecycle-report".to_owned());
        let thread = thread.spawn(move || {
            let json = serde_json::to_vec_pretty(&report).map_err(io::Error::from);
            let result = json.and_then(|mut json| {
                json.push(b'\n');
                fs::write(file, json)
            });
            // The receiver may have given up.
            let _ = done.send(result);
        });
        let result = match thread.map(|_| written.recv_timeout(TIMEOUT)) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tell!(error, path = %path.display(), %error, "cannot write the report of the shutdown");
            log::flush();
        }
    }
}
