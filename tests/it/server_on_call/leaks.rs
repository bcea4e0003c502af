//! Leaks.

use super::*;

fn held_by(app: Router) -> (Router, Weak<()>) {
    let held = Arc::new(());
    let weak = Arc::downgrade(&held);
    let app = app.route(
        "/held",
        get(move || {
            let _held = held.clone();
            async { "held" }
        }),
    );
    (app, weak)
}

async fn is_freed(weak: &Weak<()>) -> bool {
    for _ in 0..100 {
        if weak.strong_count() == 0 {
            return true;
        }
        sleep(ms(10)).await;
    }
    false
}

/// Nothing of the application is left, whether awaited or not, dropped half-way or ended.
#[tokio::test(start_paused = true)]
async fn an_application_is_freed_however_its_server_ends() {
    // Never awaited.
    let ctl = within(1_000);
    let (app, weak) = held_by(app(&ctl));
    let (_door, listener) = pipes();
    drop(serve(listener, app, ctl.clone()));
    assert!(is_freed(&weak).await);

    // Turned into a future, never polled.
    let (app, weak) = held_by(self::app(&ctl));
    let (_door, listener) = pipes();
    drop(serve(listener, app, ctl).into_future());
    assert!(is_freed(&weak).await);

    // Dropped half-way, with connections of every kind.
    let ctl = within(1_000);
    let (app, weak) = held_by(self::app(&ctl));
    let (door, server) = start(&ctl, app);
    let mut clients = [connect(&door, 0), connect(&door, 1), connect(&door, 2)];
    clients[0].write_all(GET).await.unwrap();
    clients[1].write_all(b"GE").await.unwrap();
    let mut client = h2(&door).await;
    ask_and_fall_silent(&mut client, h2_get()).await;
    server.abort();
    assert!(is_freed(&weak).await);
    drop(ctl);
}

/// The runtime ends in the middle; waiters elsewhere are woken.
#[test]
fn a_runtime_that_goes_in_the_middle_ends_the_shutdown() {
    let ctl = within(2_000);
    let runtime = threads(2);
    let (door, listener) = pipes();
    let waiting = ctl.clone();
    let clients = runtime.block_on(async {
        let server: JoinHandle<_> =
            tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
        let mut client = connect(&door, 0);
        let request = b"GET /slow/60000 HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut second = h2(&door).await;
        ask_and_fall_silent(&mut second, h2_get()).await;
        ctl.trigger(ShutdownReason::Manual);
        sleep(ms(100)).await;
        drop(server);
        (client, second)
    });
    runtime.shutdown_timeout(ms(100));
    drop(clients);
    let report = in_a_thread(move || async move { waiting.shutdown(ShutdownReason::Manual).await });
    assert_eq!(report.reason(), ShutdownReason::Interrupted);
}
