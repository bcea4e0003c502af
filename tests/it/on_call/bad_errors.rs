//! Bad errors.

use super::*;

#[derive(Debug)]
struct Outer(Inner);
#[derive(Debug)]
struct Inner;
impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outer")
    }
}
impl fmt::Display for Inner {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Err(fmt::Error)
    }
}
impl Error for Inner {}
impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[derive(Debug)]
struct Source;
impl fmt::Display for Source {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("cannot be shown")
    }
}
impl Error for Source {}
#[derive(Debug)]
struct Top(Source);
impl fmt::Display for Top {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("top")
    }
}
impl Error for Top {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn an_error_whose_source_cannot_be_shown_harms_only_its_hook() {
    let _logs = listen(Panics("")); // formats every field
    let ctl = ShutdownController::new();
    let ran = Arc::new(AtomicBool::new(false));
    ctl.on_shutdown("bad", |_| async { Err(Top(Source).into()) })
        .unwrap();
    let flag = ran.clone();
    ctl.add_hook(
        Hook::new("good", move |_| async move {
            flag.store(true, Ordering::SeqCst);
            Ok(())
        })
        .phase(1),
    )
    .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(
        ran.load(Ordering::SeqCst),
        "the good hook did not run; reason {}",
        report.reason()
    );
}

#[tokio::test]
async fn a_report_can_be_printed_whatever_the_errors_are() {
    let ctl = ShutdownController::new();
    ctl.on_shutdown("bad", |_| async { Err(Outer(Inner).into()) })
        .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    let text = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| report.to_string()));
    assert!(text.is_ok());
}

#[tokio::test]
async fn a_hook_that_is_never_run_and_panics_in_its_drop_harms_only_itself() {
    let ctl = ShutdownController::new();
    let clone = ctl.clone();
    ctl.on_shutdown("first", |_| async move {
        clone.force(); // like the second and third signal
        clone.force();
        pending().await
    })
    .unwrap();
    let guard = PanicsOnDrop;
    ctl.add_hook(
        Hook::new("never run", move |_| async move {
            drop(guard);
            Ok(())
        })
        .phase(1),
    )
    .unwrap();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(report.reason(), ShutdownReason::Manual, "{report}");
}

#[derive(Debug)]
struct Asks(ShutdownController);
impl fmt::Display for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} services", self.0.metrics().startup_services_tracked)
    }
}
impl Error for Asks {}

#[test]
fn an_error_that_asks_the_controller_does_not_deadlock_health() {
    let (done, waits) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = one_thread();
        runtime.block_on(async {
            let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
            let ctl = startup.controller();
            let clone = ctl.clone();
            startup
                .start("db", async { Ok::<_, BoxError>(1) }, |_| async move {
                    Err::<(), _>(Asks(clone))
                })
                .await
                .unwrap();
            startup.finish().await.unwrap();
            ctl.shutdown(ShutdownReason::Manual).await;
            let health = HealthService::new(ctl.clone());
            let response =
                tower::ServiceExt::oneshot(health, http::Request::new(String::new())).await;
            done.send(response.unwrap().status().as_u16()).unwrap();
        });
    });
    let status = waits.recv_timeout(Duration::from_secs(3));
    assert!(status.is_ok(), "health is locked for ever");
}
