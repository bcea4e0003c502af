//! Figures for the recorder of the `metrics` facade.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::controller::ShutdownController;
use super::metrics::Metrics;
use crate::state::LifecycleState;

impl ShutdownController {
    /// Records the present figures with the recorder of the `metrics` facade.
    ///
    /// Call it when metrics are scraped, before the exporter renders them, or at an interval. A request costs
    /// nothing for it, because the figures are the counts that admission keeps anyway. Without a recorder
    /// the call does nothing. Figures of several controllers in one process overwrite each other.
    ///
    /// The names follow Prometheus' conventions, with base units:
    ///
    /// | name | type | what it is |
    /// |---|---|---|
    /// | `lifecycle_state{state}` | gauge | 1 for the present [state](LifecycleState::name), 0 for the others |
    /// | `lifecycle_paused` | gauge | 1 in a [pause](Self::pause) |
    /// | `lifecycle_requests_in_flight` | gauge | requests and guards in flight |
    /// | `lifecycle_requests_admitted_total` | counter | admitted requests and guards |
    /// | `lifecycle_requests_refused_total` | counter | refused ones |
    /// | `lifecycle_requests_aborted_total` | counter | requests that were cut |
    /// | `lifecycle_requests_in_lame_duck` | gauge | requests that arrived in the latest lame duck |
    /// | `lifecycle_requests_late` | gauge | requests that arrived while draining and were served |
    /// | `lifecycle_requests_abandoned` | gauge | what was still alive at the end |
    /// | `lifecycle_connections_open` | gauge | open connections of `serve` and `watch` |
    /// | `lifecycle_upgrades_open` | gauge | upgraded connections, such as WebSockets |
    /// | `lifecycle_streams_open` | gauge | responses that draining ends, such as event streams |
    /// | `lifecycle_tasks_running` | gauge | tasks, workers and admin servers |
    /// | `lifecycle_services_running` | gauge | services of a [`Startup`](crate::Startup) |
    /// | `lifecycle_hooks_registered` | gauge | hooks that have not been run |
    /// | `lifecycle_shutdown_timeout_seconds` | gauge | the limit for the whole shutdown |
    /// | `lifecycle_shutdown_remaining_seconds` | gauge | what is left of it |
    /// | `lifecycle_hook_duration_seconds{hook,outcome}` | gauge | after the end, for each hook |
    /// | `lifecycle_service_stop_duration_seconds{service,outcome}` | gauge | after the end, for each service |
    ///
    /// The last two are there only when the shutdown is over. An exporter that pushes gets them from
    /// [`on_report`](Self::on_report).
    ///
    /// # Examples
    ///
    /// ```
    /// use metrics_exporter_prometheus::PrometheusBuilder;
    /// use tower_lifecycle::ShutdownController;
    ///
    /// let prometheus = PrometheusBuilder::new().install_recorder().unwrap();
    /// let ctl = ShutdownController::new();
    /// let _job = ctl.track();
    ///
    /// // In the handler of /metrics:
    /// ctl.record_metrics();
    /// let text = prometheus.render();
    /// assert!(text.contains("lifecycle_requests_in_flight 1"));
    /// assert!(text.contains(r#"lifecycle_state{state="running"} 1"#));
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn record_metrics(&self) {
        let metrics = self.metrics();
        self.record_counters(&metrics);
        self.record_gauges(&metrics);
        self.record_report();
    }

    fn record_counters(&self, metrics: &Metrics) {
        for (name, figure, description) in [
            (
                "lifecycle_requests_admitted_total",
                metrics.admitted,
                "Admitted requests and guards.",
            ),
            (
                "lifecycle_requests_refused_total",
                metrics.refused,
                "Refused requests and guards.",
            ),
            (
                "lifecycle_requests_aborted_total",
                metrics.aborted,
                "Requests that were cut by a force.",
            ),
        ] {
            // A recorder may have been installed since the last call.
            describe_counter!(name, Unit::Count, description);
            counter!(name).absolute(figure);
        }
    }

    fn record_gauges(&self, metrics: &Metrics) {
        for (name, figure, description) in [
            (
                "lifecycle_paused",
                u64::from(metrics.paused),
                "1 if new work is refused by a pause, otherwise 0.",
            ),
            (
                "lifecycle_requests_in_flight",
                metrics.in_flight,
                "Requests and guards in flight.",
            ),
            (
                "lifecycle_requests_in_lame_duck",
                metrics.late_arrivals,
                "Requests that arrived in the lame duck of the latest shutdown.",
            ),
            (
                "lifecycle_requests_late",
                metrics.late_requests,
                "Requests that arrived while draining and were served.",
            ),
            (
                "lifecycle_requests_abandoned",
                metrics.abandoned,
                "Requests, tasks and servers that were still alive when the shutdown was over.",
            ),
            (
                "lifecycle_connections_open",
                self.core().open_connections(),
                "Open connections of servers of tower-lifecycle, and watched ones.",
            ),
            (
                "lifecycle_upgrades_open",
                metrics.upgrades,
                "Upgraded connections, such as WebSockets.",
            ),
            (
                "lifecycle_streams_open",
                metrics.streams,
                "Responses that draining ends, such as event streams.",
            ),
            (
                "lifecycle_tasks_running",
                metrics.tasks,
                "Running tasks, workers and admin servers.",
            ),
            (
                "lifecycle_services_running",
                metrics.startup_services_tracked as u64,
                "Running services that were started by a start-up.",
            ),
            (
                "lifecycle_hooks_registered",
                metrics.hooks as u64,
                "Hooks that have not been run.",
            ),
        ] {
            describe_gauge!(name, Unit::Count, description);
            gauge!(name).set(figure as f64);
        }

        let timeout = metrics.shutdown_timeout;
        let notice = self.core().notice();
        let remaining = notice.map_or(Some(timeout), |notice| notice.time_remaining());
        for (name, time, description) in [
            (
                "lifecycle_shutdown_timeout_seconds",
                timeout,
                "The time limit for the whole shutdown.",
            ),
            (
                "lifecycle_shutdown_remaining_seconds",
                remaining.unwrap_or(Duration::MAX),
                "What is left of the time limit.",
            ),
        ] {
            describe_gauge!(name, Unit::Seconds, description);
            gauge!(name).set(time.as_secs_f64());
        }

        let name = "lifecycle_state";
        describe_gauge!(
            name,
            Unit::Count,
            "1 for the present state, 0 for the others."
        );
        for state in LifecycleState::ALL {
            let is_present = u8::from(state == metrics.state);
            gauge!(name, "state" => state.name()).set(f64::from(is_present));
        }
    }

    /// Records how long the parts of the clean-up took, if it is over.
    fn record_report(&self) {
        let Some(report) = self.core().report() else {
            return;
        };
        let name = "lifecycle_hook_duration_seconds";
        describe_gauge!(name, Unit::Seconds, "How long a hook took, by its outcome.");
        for hook in report.hooks() {
            let outcome = hook.outcome().name();
            gauge!(name, "hook" => hook.name().to_owned(), "outcome" => outcome)
                .set(hook.duration().as_secs_f64());
        }
        let name = "lifecycle_service_stop_duration_seconds";
        describe_gauge!(
            name,
            Unit::Seconds,
            "How long the stop of a service took, by its outcome."
        );
        for service in report.services() {
            let outcome = service.outcome().name();
            gauge!(name, "service" => service.name().to_owned(), "outcome" => outcome)
                .set(service.duration().as_secs_f64());
        }
    }
}
