//! "none of these waits beyond three quarters of the drain".

use super::*;

/// The GOAWAY is followed by a whole grace, no matter how much of the drain is left.
#[tokio::test(start_paused = true)]
async fn a_silent_h2_client_does_not_hold_a_short_drain() {
    let report = end_with_silent_h2(1_500, h2_get()).await;
    assert!(report.is_graceful(), "{report}");
}

async fn end_with_two_bytes(total: u64) -> ShutdownReport {
    let ctl = within(total);
    let (door, server) = start(&ctl, app(&ctl));
    let mut client = connect(&door, 0);
    client.write_all(b"GE").await.unwrap();
    sleep(ms(10)).await;
    ctl.trigger(ShutdownReason::Manual);
    server.await.unwrap()
}

/// The grace is over, and then the closing takes another one.
#[tokio::test(start_paused = true)]
async fn two_bytes_do_not_hold_a_short_drain() {
    let report = end_with_two_bytes(2_000).await;
    assert!(report.is_graceful(), "{report}");
}

async fn answer_to_half_a_head() -> String {
    let ctl = within(30_000);
    let (door, _server) = start(&ctl, app(&ctl));
    let mut client = connect(&door, 0);
    let (begin, rest) = GET.split_at(2);
    client.write_all(GET).await.unwrap();
    read_until(&mut client, HELLO).await;
    client.write_all(begin).await.unwrap();
    sleep(ms(10)).await;
    ctl.trigger(ShutdownReason::Manual);
    sleep(ms(500)).await; // later than an idle one is closed, and within the grace
    let _ = client.write_all(rest).await;
    read_until(&mut client, HELLO).await
}

/// An incomplete head has its time limit on a reused connection, too. Not if it came in one piece
/// with the request before it: then hyper has it, and does not report it.
#[tokio::test(start_paused = true)]
async fn half_a_head_behind_a_request_has_the_grace_too() {
    assert!(answer_to_half_a_head().await.ends_with(HELLO));
}

/// As above: two bytes have the grace, not twice the grace.
#[tokio::test(start_paused = true)]
async fn two_bytes_have_one_grace() {
    let took = end_with_two_bytes(30_000).await.duration();
    assert!(took < ms(1_100), "{took:?}");
}

/// "closed when that time is over, or up to a quarter of it later", and not after a grace of
/// draining.
#[tokio::test(start_paused = true)]
async fn two_bytes_have_the_time_for_a_head() {
    let ctl = within(30_000);
    let (door, listener) = pipes();
    let serving = serve(listener, app(&ctl), ctl.clone())
        .header_read_timeout(ms(1_000))
        .grace(ms(20_000));
    let _server = tokio::spawn(serving.into_future());
    let mut client = connect(&door, 0);
    let began = Instant::now();
    client.write_all(b"GE").await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    let took = began.elapsed();
    assert!(took <= ms(1_260), "{took:?}");
}

async fn end_with_an_idle_client_after(request: &[u8], total: u64) -> ShutdownReport {
    let ctl = within(total);
    let (door, server) = start(&ctl, app(&ctl));
    let mut client = connect(&door, 0);
    client.write_all(request).await.unwrap();
    assert!(read_until(&mut client, HELLO).await.ends_with(HELLO));
    sleep(ms(1)).await;
    ctl.trigger(ShutdownReason::Manual);
    server.await.unwrap()
}

/// The control of the next test.
#[tokio::test(start_paused = true)]
async fn an_idle_client_is_gone_after_200_ms() {
    let took = end_with_an_idle_client_after(GET, 30_000).await.duration();
    assert!(took < ms(300), "{took:?}");
}

/// Its body was read to the end: there is nothing to read and discard.
#[tokio::test(start_paused = true)]
async fn an_idle_client_whose_last_request_had_a_body_is_gone_as_soon() {
    let took = end_with_an_idle_client_after(POST, 30_000).await.duration();
    assert!(took < ms(300), "{took:?}");
}

/// As above, in a short drain: an idle client costs the drain its grace.
#[tokio::test(start_paused = true)]
async fn an_idle_client_does_not_hold_a_short_drain() {
    let report = end_with_an_idle_client_after(POST, 1_200).await;
    assert!(report.is_graceful(), "{report}");
}
