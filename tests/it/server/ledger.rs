//! The ledger.

use super::*;

/// The outcomes of one client's requests.
#[derive(Debug, Default)]
struct Ledger {
    answered: usize,
    /// Ambiguous requests, on a connection that had worked.
    lost: usize,
    /// New connections whose first requests are lost.
    lost_when_new: usize,
}

const REFUSE_FOR: Duration = Duration::from_millis(300);

async fn hammer_http1(address: SocketAddr) -> Ledger {
    let mut ledger = Ledger::default();
    while let Ok(socket) = TcpStream::connect(address).await {
        let mut socket = socket;
        let mut answered_at = std::time::Instant::now();
        for nth in 0.. {
            // After that the server may close at any moment; the machine was busy.
            if nth > 0 && answered_at.elapsed() > REFUSE_FOR / 4 {
                break;
            }
            let sent = socket.write_all(server::get("/").as_bytes()).await;
            let mut text = Vec::new();
            while sent.is_ok() && !(text.ends_with(b"\r\n\r\nok") || text.ends_with(b"down\"}")) {
                if !socket
                    .read_buf(&mut text)
                    .await
                    .is_ok_and(|count| count > 0)
                {
                    break;
                }
            }
            if !text.ends_with(b"ok") && !text.ends_with(b"}") {
                assert!(
                    text.is_empty(),
                    "a part of an answer: {}",
                    text.escape_ascii()
                );
                match nth {
                    0 => ledger.lost_when_new += 1,
                    _ => ledger.lost += 1,
                }
                break;
            }
            ledger.answered += 1;
            answered_at = std::time::Instant::now();
            if text.windows(19).any(|w| w == b"connection: close\r\n") {
                assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
                break;
            }
        }
    }
    ledger
}

async fn hammer_http2(address: SocketAddr) -> Ledger {
    let mut ledger = Ledger::default();
    while let Ok(socket) = TcpStream::connect(address).await {
        let mut client = Http2::new(socket, &[]).await;
        // Room for all responses: a connection's window does not grow by itself any more than a
        // stream's.
        client.send(Frame::window(0, 1 << 30)).await;
        let (mut last, mut next) = (ALL_STREAMS, 1);
        let mut may_ask = true;
        let mut open = std::collections::BTreeSet::new();
        loop {
            while open.len() < 10 && may_ask {
                may_ask = client.try_send(Frame::get(next, "/")).await;
                open.insert(next);
                next += 2;
            }
            match in_time(client.next_of_all()).await {
                Ok(Some(frame)) if frame.kind == GOAWAY => {
                    last = frame.goaway().0;
                    may_ask = false;
                }
                Ok(Some(frame)) if frame.kind == PING => drop(client.try_send(frame.ack()).await),
                Ok(Some(frame)) if frame.ends() => {
                    assert!(open.remove(&frame.stream), "{frame:?}");
                    ledger.answered += 1;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        // Streams past the last one were not processed, and are safe to retry.
        let lost = open.iter().filter(|stream| **stream <= last).count();
        match next {
            1..=21 => ledger.lost_when_new += usize::from(lost > 0),
            _ => ledger.lost += lost,
        }
    }
    ledger
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_a_server_under_load_is_shut_down() {
    let rounds = 8;
    let mut lost_when_new = 0;
    for round in 0..rounds {
        let config = ShutdownConfig::default();
        let ctl = controller(match round % 2 {
            0 => config.refuse_for(REFUSE_FOR),
            _ => config.refuse_for(REFUSE_FOR).lame_duck(100 * MS),
        });
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..4 {
            clients.spawn(hammer_http1(address));
            clients.spawn(hammer_http2(address));
        }
        sleep(30 * MS).await;
        ctl.trigger(ShutdownReason::Manual);
        let report = in_time(server).await.unwrap();
        assert!(report.is_graceful(), "{report}");
        let mut answered = 0;
        for ledger in in_time(clients.join_all()).await {
            assert_eq!(ledger.lost, 0, "{ledger:?}");
            lost_when_new += ledger.lost_when_new;
            answered += ledger.answered;
        }
        let counted = report.admitted() + report.refused();
        assert!(
            counted as usize >= answered && answered > 0,
            "{report} {answered}"
        );
    }
    // A connection may arrive between the last accept and the close of the listener.
    println!("{lost_when_new} lost in {rounds} rounds");
    assert!(lost_when_new <= rounds, "{lost_when_new}");
}
