//! Any service.

use super::*;

type Jobs = mock::Spawn<Drain<mock::Mock<u32, u32>, tower_lifecycle::layers::AnyService>>;

fn jobs(ctl: &ShutdownController) -> (Jobs, mock::Handle<u32, u32>) {
    mock::spawn_layer(DrainLayer::new(ctl.clone()).reject_with_error())
}

// P1 and P2
#[tokio::test(start_paused = true)]
async fn any_service_is_counted_to_the_end_of_its_response_future() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = jobs(&ctl);
    let mut future = task::spawn(send(service.get_mut(), 1));
    assert_pending!(future.poll());
    assert_eq!(ctl.in_flight(), 1);
    let (job, respond) = handle.next_request().await.unwrap();
    respond.send_response(job + 1);
    assert_eq!(assert_ready_ok!(future.poll()), 2);
    assert_eq!(ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn any_service_is_refused_with_an_error_and_the_inner_is_not_needed() {
    let ctl = ShutdownController::new();
    let busy = ctl.track();
    let (mut service, mut handle) = jobs(&ctl);
    let mut other = service.clone();
    assert_ready_ok!(service.poll_ready());
    handle.allow(0);
    assert_pending!(other.poll_ready());

    ctl.trigger(MANUAL);
    settle().await;
    assert!(other.is_woken());
    assert_ready_ok!(other.poll_ready());
    for service in [&mut service, &mut other] {
        let error = assert_ready_err!(task::spawn(service.call(1)).poll());
        assert!(error.is::<ShuttingDown>());
    }
    assert_pending!(handle.poll_request());
    assert_eq!(ctl.in_flight(), 1);
    drop(busy);
    assert_eq!(ctl.shutdown(MANUAL).await.refused(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_errors_of_any_service_stay_what_they_are() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = jobs(&ctl);
    let mut future = task::spawn(send(service.get_mut(), 1));
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_error(Broken);
    assert!(assert_ready_err!(future.poll()).is::<Broken>());
    handle.send_error(Broken);
    assert!(assert_ready_err!(service.poll_ready()).is::<Broken>());
}

// P5
#[tokio::test(start_paused = true)]
async fn any_service_is_cut_with_an_error() {
    let stage = Stage::new();
    let layer = DrainLayer::new(stage.ctl.clone()).reject_with_error();
    let mut service = layer.layer(app());
    let mut waiting = task::spawn(send(&mut service, stage.request(Plan::Stall)));
    let mut spinning = task::spawn(send(&mut service, stage.request(Plan::Spin)));
    assert!(waiting.poll().is_pending());
    assert!(spinning.poll().is_pending());
    stage.ctl.force();
    settle().await;
    assert!(waiting.is_woken());
    for future in [&mut waiting, &mut spinning] {
        let Poll::Ready(Err(error)) = future.poll() else {
            panic!("not cut")
        };
        assert!(error.is::<Forced>());
    }
    assert_eq!(stage.polls(), 2);
    assert_eq!(stage.ctl.in_flight(), 0);
    let report = stage.ctl.shutdown(MANUAL).await;
    assert_eq!((report.aborted(), report.abandoned()), (2, 0));
}

// The mock panics when it is called without being ready.
#[tokio::test(start_paused = true)]
async fn any_service_is_never_called_unready() {
    let ctl = ShutdownController::new();
    let (mut service, mut handle) = jobs(&ctl);
    assert_ready_ok!(service.poll_ready());
    let mut clone = service.clone();
    let error = assert_ready_err!(task::spawn(clone.call(1)).poll());
    assert!(error.is::<ShuttingDown>());
    assert_eq!(ctl.in_flight(), 0);
    assert_pending!(handle.poll_request());
}
