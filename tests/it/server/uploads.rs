//! Early answers to uploads.

use super::*;

const UPLOAD: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_uploads_before_it_reads_gets_the_refusal_and_no_reset() {
    let ctl = refusing();
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app(&ctl), ctl.clone()).into_future());
    let working = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    let upload = move |chunked: bool| {
        let mut socket = connect(address);
        let mut head = "POST /read HTTP/1.1\r\nhost: test\r\n".to_owned();
        let piece = [b'u'; 64 * 1024];
        if chunked {
            head += "transfer-encoding: chunked\r\n\r\n";
        } else {
            head += &format!("content-length: {UPLOAD}\r\n\r\n");
        }
        write(&mut socket, head.as_bytes());
        for _ in 0..UPLOAD / piece.len() {
            if chunked {
                write(&mut socket, format!("{:x}\r\n", piece.len()).as_bytes());
            }
            write(&mut socket, &piece);
            if chunked {
                write(&mut socket, b"\r\n");
            }
        }
        if chunked {
            write(&mut socket, b"0\r\n\r\n");
        }
        read(&mut socket).unwrap()
    };
    for chunked in [false, true, false, true] {
        let answer = tokio::task::spawn_blocking(move || upload(chunked))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with(REFUSED), "{answer}");
    }
    for nth in 0..10 {
        let client = reqwest::Client::builder().no_proxy();
        let client = match nth % 2 {
            0 => client.http1_only(),
            _ => client.http2_prior_knowledge(),
        };
        let client = client.build().unwrap();
        let request = client.post(format!("http://{address}/read"));
        let answer = in_time(request.body(vec![b'u'; UPLOAD]).send())
            .await
            .unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(in_time(answer.text()).await.unwrap(), REFUSED);
    }
    drop(working);
    let report = in_time(server).await.unwrap();
    assert!(report.is_graceful(), "{report}");
    assert_eq!(report.refused(), 14);
}

/// A client in the middle of its upload that has received its refusal, and the time of that.
async fn refused_uploader(connector: &Connector) -> (DuplexStream, Instant) {
    let mut client = Http1::new(connector.pipe(4 * 1024));
    client
        .send("POST /read HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000000\r\n\r\n")
        .await;
    client.answer().await.assert_refused();
    (client.io, Instant::now())
}

/// Sends until the server closes. Returns how much it accepted.
async fn send_until_closed(io: &mut DuplexStream, size: usize, pause: Duration) -> usize {
    let mut sent = 0;
    let sending = async {
        while let Ok(count) = io.write(&vec![b'u'; size]).await {
            sent += count;
            sleep(pause).await;
        }
    };
    in_time(sending).await;
    sent
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_an_upload_is_read_for_no_longer_than_the_limits() {
    let ctl = refusing();
    let limits = |serve: tower_lifecycle::server::Serve<_, _>| serve.linger(256 * 1024, 3 * SECOND);
    let (connector, server) = start_with(&ctl, app(&ctl), limits);
    let working = ctl.track();
    trigger(&ctl).await;

    let (mut silent, since) = refused_uploader(&connector).await;
    assert_eq!(silent.read(&mut [0; 10]).await.unwrap(), 0, "all is said");
    assert_at(since, Duration::ZERO);
    for _ in 0..2 {
        silent.write_all(&[b'u'; 1024]).await.unwrap();
        sleep(900 * MS).await;
    }
    silent.write_all(&[b'u'; 1024]).await.unwrap();
    sleep(1010 * MS).await;
    silent.write_all(b"u").await.unwrap_err();

    let (mut slow, since) = refused_uploader(&connector).await;
    send_until_closed(&mut slow, 128, 100 * MS).await;
    let took = since.elapsed();
    assert!(took >= 2900 * MS && took <= 3200 * MS, "{took:?}");

    let (mut drips, since) = refused_uploader(&connector).await;
    send_until_closed(&mut drips, 1, 100 * MS).await;
    assert!(since.elapsed() <= 1200 * MS, "{:?}", since.elapsed());

    let (mut fast, since) = refused_uploader(&connector).await;
    let sent = send_until_closed(&mut fast, 4096, MS).await;
    assert!(
        (256 * 1024..300 * 1024).contains(&sent),
        "{sent} in {:?}",
        since.elapsed()
    );

    // A client that closes is gone at once.
    let (closing, since) = refused_uploader(&connector).await;
    drop(closing);
    drop(working);
    server.graceful().await;
    assert_at(since, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_upload_has_no_limit_but_its_silence_if_none_is_wanted() {
    let ctl = refusing();
    let (connector, server) = start_with(&ctl, app(&ctl), |serve| {
        serve.linger(u64::MAX, Duration::MAX)
    });
    let working = ctl.track();
    trigger(&ctl).await;
    let (mut client, _) = refused_uploader(&connector).await;
    for _ in 0..20 {
        sleep(400 * MS).await;
        client.write_all(&[b'u'; 512]).await.unwrap();
    }
    drop((client, working));
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_an_upload_is_not_read_without_end_or_at_all_if_so_wanted() {
    let ctl = refusing();
    let (connector, server) = start_with(&ctl, app(&ctl), |serve| serve.linger(0, Duration::ZERO));
    let working = ctl.track();
    trigger(&ctl).await;
    let (mut client, since) = refused_uploader(&connector).await;
    send_until_closed(&mut client, 1024, MS).await;
    assert!(since.elapsed() <= 10 * MS);
    drop(working);
    server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn the_client_of_an_upload_may_take_a_second_to_close() {
    let ctl = ShutdownController::new();
    let (connector, server) = start(&ctl, app(&ctl));
    let mut client = connector.http1();
    let upload =
        "POST /read HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody";
    client.send(upload).await;
    assert_eq!(client.answer().await.text(), "4");
    let since = trigger(&ctl).await;
    // The client takes its time to close.
    server.graceful().await;
    // The response has `connection: close`; only hyper knows whether the upload was read to its
    // end.
    assert!(since.elapsed() <= SECOND);
}
