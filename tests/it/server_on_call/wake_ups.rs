//! Wake-ups.

use super::*;

/// `PlanChannel::send` publishes the new version, and wakes batch after batch. A connection that is
/// polled in between registers with the new version. Its batch then takes its waker, and it never
/// registers again: it misses all later plans.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_polled_while_a_plan_is_told_hears_of_the_next_one() {
    let ctl = ctl(ShutdownConfig::default()
        .shutdown_timeout(ms(20_000))
        .lame_duck(ms(2_000)));
    let (door, listener) = pipes();
    // Without a layer, which would ask some of them to close at once: see the next test.
    let app: Router = Router::new().route("/", any(async || HELLO));
    let server = tokio::spawn(
        serve(listener, app.with_state(()), ctl.clone())
            .header_read_timeout(HOUR)
            .into_future(),
    );
    let mut clients = Vec::new();
    for number in 0..300 {
        let mut client = connect(&door, number);
        client.write_all(GET).await.unwrap();
        assert!(read_until(&mut client, HELLO).await.ends_with(HELLO));
        clients.push(client);
    }

    ctl.trigger(ShutdownReason::Manual);
    for client in &mut clients {
        unconstrained(client.write_all(GET)).await.unwrap();
    }
    for client in &mut clients {
        assert!(read_until(client, HELLO).await.ends_with(HELLO));
    }
    // All are idle now, and are closed when late clients are no longer refused.
    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
}

/// "Each is asked to leave at a moment of its own ... and not before": a connection with a request
/// in the poll in which it would read the plan responds first, with the earlier plan.
#[tokio::test(start_paused = true)]
async fn a_client_that_asks_when_the_lame_duck_begins_is_not_asked_to_leave_at_once() {
    let ctl = ctl(ShutdownConfig::default()
        .shutdown_timeout(ms(60_000))
        .lame_duck(ms(30_000)));
    let (door, server) = start(&ctl, app(&ctl));
    let _first = connect(&door, 0);
    let mut client = connect(&door, 1); // asked to close at 0.3 of the window
    client.write_all(GET).await.unwrap();
    read_until(&mut client, HELLO).await;
    ctl.trigger(ShutdownReason::Manual);
    unconstrained(client.write_all(GET)).await.unwrap();
    let answer = read_until(&mut client, HELLO).await;
    assert!(!answer.contains("connection: close"), "{answer}");
    drop(server);
}

/// The server may miss `resume` and the next `trigger`; it then drains by the deadlines of the
/// cancelled shutdown.
#[tokio::test(start_paused = true)]
async fn a_drain_goes_by_its_own_deadlines_and_not_by_those_of_one_called_off() {
    async fn answer_after_the_force(is_second: bool) -> String {
        let ctl = ctl(ShutdownConfig::default()
            .shutdown_timeout(ms(30_000))
            .lame_duck(ms(24_900)));
        let (door, server) = start(&ctl, app(&ctl));
        if is_second {
            ctl.trigger(ShutdownReason::Manual);
            sleep(ms(24_880)).await;
        }
        let mut client = connect(&door, 4);
        sleep(ms(1)).await;
        if is_second {
            ctl.resume().unwrap();
        }
        ctl.trigger(ShutdownReason::Manual);
        ctl.force();
        sleep(ms(100)).await;
        let _ = client.write_all(GET).await;
        let answer = read_until(&mut client, "}").await;
        drop(server);
        answer
    }
    assert!(answer_after_the_force(false).await.contains("503"));
    assert!(answer_after_the_force(true).await.contains("503"));
}
