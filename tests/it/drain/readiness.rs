//! Readiness.

use super::*;

/// Calls, whether the service is ready or not.
fn is_refused<S>(service: &mut mock::Spawn<Drain<S>>, path: &str) -> bool
where
    S: Service<Request<String>, Response = Response<Full<Bytes>>, Error = BoxError>,
{
    let mut future = task::spawn(service.call(request(path)));
    let Poll::Ready(Ok(response)) = future.poll() else {
        return false;
    };
    response.status() == StatusCode::SERVICE_UNAVAILABLE
}

fn limited(layer: DrainLayer) -> (mock::Spawn<Drain<ConcurrencyLimit<Mock>>>, Handle) {
    mock::spawn_with(move |mock| layer.layer(ConcurrencyLimit::new(mock, 1)))
}

#[tokio::test(start_paused = true)]
async fn readiness_is_the_inners_while_running() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl));
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    handle.send_error(Broken);
    assert!(assert_ready_err!(service.poll_ready()).is::<Broken>());
}

#[tokio::test(start_paused = true)]
async fn readiness_while_draining_does_not_ask_the_inner() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    ctl.trigger(MANUAL);
    // It would return this error, if it were polled.
    handle.send_error(Broken);
    assert_ready_ok!(service.poll_ready());
    assert!(is_refused(&mut service, "/"));
    assert_pending!(handle.poll_request());
}

// The mock panics when it is called without being ready.
#[tokio::test(start_paused = true)]
async fn a_clone_does_not_inherit_readiness() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    assert_ready_ok!(service.poll_ready());
    let mut clone = service.clone();
    assert!(is_refused(&mut clone, "/"));
    // The guard was released.
    assert_eq!(ctl.in_flight(), 0);
    assert_pending!(handle.poll_request());

    let _future = service.call(request("/"));
    assert_eq!(ctl.in_flight(), 1);
    assert!(assert_ready!(handle.poll_request()).is_some());
}

#[tokio::test(start_paused = true)]
async fn readiness_is_used_up_by_one_call() {
    let ctl = ShutdownController::new();
    let (mut service, _handle) = mocked(DrainLayer::new(ctl.clone()));
    assert_ready_ok!(service.poll_ready());
    let _first = service.call(request("/"));
    assert!(is_refused(&mut service, "/"));
    assert_eq!(ctl.in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn draining_may_begin_between_readiness_and_call() {
    let ctl = refusing();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/exempt"]);
    let (mut service, mut handle) = mocked(layer);
    let mut other = service.clone();
    assert_ready_ok!(service.poll_ready());
    assert_ready_ok!(other.poll_ready());
    ctl.trigger(MANUAL);
    assert!(is_refused(&mut service, "/"));
    assert_pending!(handle.poll_request());
    // The readiness came from the inner service, so the exempt path is served.
    let _future = other.call(request("/exempt"));
    assert!(assert_ready!(handle.poll_request()).is_some());
    assert_eq!(ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_parked_in_readiness_is_woken_when_draining_begins_and_refused_after_its_end() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    handle.allow(0);
    assert_pending!(service.poll_ready());
    ctl.trigger(MANUAL);
    settle().await;
    assert!(service.is_woken());
    // It was not polled meanwhile, so it has not held the drain.
    assert!(ctl.state() > LifecycleState::Draining);
    assert_ready_ok!(service.poll_ready());
    assert!(is_refused(&mut service, "/"));
    assert_pending!(handle.poll_request());
    assert_eq!(ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_parked_in_readiness_is_counted_from_the_lame_duck_on() {
    let ctl = lame_duck();
    let (mut service, mut handle) = mocked(DrainLayer::new(ctl.clone()));
    handle.allow(0);
    assert_pending!(service.poll_ready());
    assert_eq!(ctl.in_flight(), 0);
    ctl.trigger(MANUAL);
    settle().await;
    assert!(service.is_woken());
    assert_pending!(service.poll_ready());
    assert_eq!(ctl.in_flight(), 1);
    ctl.draining().await;
    settle().await;
    assert!(service.is_woken());
    assert_pending!(service.poll_ready());
    assert_eq!(ctl.in_flight(), 1);
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let _future = service.call(request("/"));
    assert_eq!(ctl.in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_parked_service_that_is_dropped_leaves_no_waker_behind() {
    let ctl = ShutdownController::new();
    let (mock, mut handle) = mock::pair::<Request<String>, Response<Full<Bytes>>>();
    handle.allow(0);
    let mut service = DrainLayer::new(ctl.clone()).layer(mock);
    let mut waiter = task::spawn(());
    let before = waiter.waker_ref_count();
    assert_pending!(waiter.enter(|cx, _| service.poll_ready(cx)));
    assert!(waiter.waker_ref_count() > before);
    drop(service);
    assert_eq!(waiter.waker_ref_count(), before);
}

#[tokio::test(start_paused = true)]
async fn refusals_do_not_wait_for_a_concurrency_limit_but_who_waited_before_does() {
    let ctl = refusing();
    let (mut service, mut handle) = limited(DrainLayer::new(ctl.clone()));
    let mut other = service.clone();
    let mut admitted = task::spawn(send(service.get_mut(), request("/")));
    assert_pending!(other.poll_ready());

    ctl.trigger(MANUAL);
    settle().await;
    assert!(other.is_woken());
    assert_pending!(other.poll_ready());
    assert_eq!(ctl.in_flight(), 2);
    assert_ready_ok!(service.poll_ready());
    assert!(is_refused(&mut service, "/"));

    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::new(Full::from("hello")));
    assert_eq!(text(assert_ready_ok!(admitted.poll()).into_body()), "hello");
    assert!(other.is_woken());
    assert_ready_ok!(other.poll_ready());
    let mut waited = task::spawn(other.call(request("/")));
    assert_eq!(ctl.in_flight(), 1);
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::new(Full::from("hello")));
    assert_eq!(text(assert_ready_ok!(waited.poll()).into_body()), "hello");
    let report = ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful());
    assert_eq!((report.admitted(), report.refused()), (2, 1));
    assert_eq!(report.late_requests(), 0);
}

// Around a `ConcurrencyLimit`, which panics when it is called without a permit.
#[tokio::test(start_paused = true)]
async fn an_exempt_path_is_refused_while_the_inner_is_not_ready_and_served_once_it_is() {
    let ctl = refusing();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/exempt"]);
    let (mut service, mut handle) = limited(layer);
    let admitted = send(service.get_mut(), request("/"));
    ctl.trigger(MANUAL);

    assert_ready_ok!(service.poll_ready());
    assert!(is_refused(&mut service, "/exempt"));

    // Its permit is free again, but a service that was not told so is not ready.
    assert_ready_ok!(service.poll_ready());
    drop(admitted);
    assert!(is_refused(&mut service, "/exempt"));

    assert!(assert_ready!(handle.poll_request()).is_some());
    assert_ready_ok!(service.poll_ready());
    let _future = service.call(request("/exempt"));
    assert!(assert_ready!(handle.poll_request()).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_turns_into_a_refusal_of_exempt_paths_while_draining() {
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/exempt"]);
    let (mut service, mut handle) = mocked(layer);
    ctl.trigger(MANUAL);
    handle.send_error(Broken);
    assert_ready_ok!(service.poll_ready());
    assert!(is_refused(&mut service, "/exempt"));
    assert_pending!(handle.poll_request());
}

// `Buffer` panics when it is called without a reserved slot.
#[tokio::test(start_paused = true)]
async fn refusals_do_not_wait_for_a_full_buffer_and_what_is_queued_is_served() {
    let ctl = refusing();
    let (mock, mut handle) = mock::pair::<Request<String>, Response<Full<Bytes>>>();
    handle.allow(0);
    let (buffer, worker) = Buffer::pair(mock, 1);
    tokio::spawn(worker);
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/exempt"]);
    let mut service = mock::Spawn::new(layer.layer(buffer));

    let mut queued = Vec::new();
    while service.poll_ready().is_ready() {
        queued.push(tokio::spawn(service.call(request("/"))));
        settle().await;
    }
    assert!(!queued.is_empty());
    assert_eq!(ctl.in_flight(), queued.len() as u64);

    ctl.trigger(MANUAL);
    settle().await;
    assert!(service.is_woken());
    let mut late = service.clone();
    drop(service); // it waited, and is never called
    for path in ["/", "/exempt"] {
        assert_ready_ok!(late.poll_ready());
        assert!(is_refused(&mut late, path));
    }

    handle.allow(u64::MAX);
    for future in queued {
        let (_, respond) = handle.next_request().await.unwrap();
        respond.send_response(Response::new(Full::from("hello")));
        assert_eq!(text(future.await.unwrap().unwrap().into_body()), "hello");
    }
    ctl.drained().await;
    assert_eq!(ctl.in_flight(), 0);
}
