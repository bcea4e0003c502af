//! The span of a shutdown, its phases, and the events in them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;
use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason, Startup};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::support::log::listen;

const SECOND: Duration = Duration::from_secs(1);

/// Records what happens to spans, one line each: `+` for opened, `-` for closed, and events.
#[derive(Clone, Default)]
struct Recorder {
    lines: Arc<Mutex<Vec<String>>>,
    panics: bool,
}

impl Recorder {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn note(&self, line: String) {
        self.lines.lock().unwrap().push(line);
        assert!(!self.panics, "a subscriber that is broken");
    }
}

#[derive(Default)]
struct Fields(HashMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let reason = fields.0.get("reason").map(|reason| format!(" {reason}"));
        let path = path(&cx, Some(id));
        self.note(format!("+ {path}{}", reason.unwrap_or_default()));
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        self.note(format!("- {}", path(&cx, Some(&id))));
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        if *event.metadata().level() <= tracing::Level::INFO {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let span = cx.event_span(event).map(|span| span.id());
            self.note(format!(
                "{}: {}",
                path(&cx, span.as_ref()),
                fields.0["message"]
            ));
        }
    }
}

fn path<S: Subscriber + for<'a> LookupSpan<'a>>(cx: &Context<'_, S>, id: Option<&Id>) -> String {
    let scope = id.and_then(|id| cx.span_scope(id));
    let names = scope.map(|scope| {
        scope
            .from_root()
            .map(|span| span.name())
            .collect::<Vec<_>>()
    });
    names.unwrap_or_default().join("/")
}

fn with_lame_duck() -> ShutdownController {
    let config = ShutdownConfig::default().lame_duck(SECOND);
    ShutdownController::with_config(config).unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_phase_is_a_span_in_that_of_the_shutdown() {
    let recorder = Recorder::default();
    let _listening = listen(Registry::default().with(recorder.clone()));
    let ctl = with_lame_duck();
    ctl.on_shutdown("flush", |_| async { Ok(()) }).unwrap();
    let stop = ctl.stop_accepting();
    let server = async {
        stop.await;
        Ok::<_, io::Error>(())
    };
    let server = tokio::spawn(ctl.run(server));
    tokio::task::yield_now().await;
    ctl.trigger(ShutdownReason::Manual);
    server.await.unwrap();
    assert_eq!(
        recorder.lines(),
        [
            "+ shutdown manual",
            "shutdown: shutdown triggered",
            "+ shutdown/lame_duck",
            "+ shutdown/draining",
            "- shutdown/lame_duck",
            "shutdown/draining: lame duck over",
            "shutdown/draining: draining: waiting for work in flight",
            ": server ended",
            "shutdown/draining: drained: cleaning up",
            "+ shutdown/stopping",
            "- shutdown/draining",
            "shutdown/stopping: shutdown hook completed",
            "shutdown/stopping: shutdown complete",
            "- shutdown/stopping",
            "- shutdown",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_is_called_off_closes_its_spans() {
    let recorder = Recorder::default();
    let _listening = listen(Registry::default().with(recorder.clone()));
    let ctl = with_lame_duck();
    ctl.trigger(ShutdownReason::Timeout);
    sleep(SECOND / 2).await;
    ctl.resume().unwrap();
    sleep(SECOND).await;
    ctl.shutdown(ShutdownReason::Manual).await;
    let lines = recorder.lines();
    let of_spans: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with(['+', '-']))
        .collect();
    assert_eq!(
        of_spans,
        [
            "+ shutdown timeout",
            "+ shutdown/lame_duck",
            "- shutdown/lame_duck",
            "- shutdown",
            "+ shutdown manual",
            "+ shutdown/lame_duck",
            "+ shutdown/draining",
            "- shutdown/lame_duck",
            "+ shutdown/stopping",
            "- shutdown/draining",
            "- shutdown/stopping",
            "- shutdown",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollback_is_one_span() {
    let recorder = Recorder::default();
    let _listening = listen(Registry::default().with(recorder.clone()));
    let startup = Startup::new(ShutdownConfig::default()).unwrap();
    let ctl = startup.controller();
    ctl.shutdown(ShutdownReason::Manual).await;
    drop(startup);
    let lines = recorder.lines();
    assert_eq!(lines.first().unwrap(), "+ shutdown manual");
    assert_eq!(lines.last().unwrap(), "- shutdown");
    assert!(
        lines.contains(&"shutdown: rolling back the start-up".to_owned()),
        "{lines:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_at_every_span_changes_nothing() {
    let recorder = Recorder {
        panics: true,
        ..Recorder::default()
    };
    let _listening = listen(Registry::default().with(recorder.clone()));
    let report = with_lame_duck().shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful());
    assert!(!recorder.lines().is_empty());
}
