//! Slow readers.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_whole_answer_through_a_drain() {
    for (path, vectored) in [
        ("/big", true),
        ("/big-in-pieces", true),
        ("/big", false),
        ("/big-in-pieces", false),
    ] {
        let ctl = ShutdownController::new();
        let (connector, pipes) = pipes();
        let server = serve(pipes, app(&ctl), ctl.clone());
        let server = Server(tokio::spawn(server.into_future()));
        let (client, io) = duplex(64);
        let mut io = Watched::new(io, &Alive::default());
        io.vectored = vectored;
        connector.accept(Ok(io));
        let mut client = Http1::new(client);
        client.send(server::get(path)).await;
        let mut received = vec![0; 64];
        client.io.read_exact(&mut received).await.unwrap();

        trigger(&ctl).await;
        let mut piece = [0; 64];
        loop {
            sleep(3 * MS).await;
            let count = client.io.read(&mut piece).await.unwrap();
            if count == 0 {
                break;
            }
            received.extend_from_slice(&piece[..count]);
            if received.len() < BIG {
                assert!(server.is_running(), "at {} bytes", received.len());
            }
        }
        // The data read is a normal response.
        let answer = read_again(&received).await;
        assert!(answer.body == big(), "{path}: {} bytes", answer.body.len());
        server.graceful().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_http_2_gets_the_whole_answer_through_a_drain() {
    for (pipe, window) in [(64, 65_535), (64 * 1024, 1_000), (64, 100)] {
        let ctl = ShutdownController::new();
        let (connector, server) = start(&ctl, app(&ctl));
        let io = TokioIo::new(connector.pipe(pipe));
        let (mut sender, connection) =
            hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(window)
                .handshake(io)
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::get("http://test/big").body(Empty::<Bytes>::new());
        let mut answer = sender.send_request(request.unwrap()).await.unwrap();

        trigger(&ctl).await;
        let mut received = Vec::new();
        while let Some(frame) = answer.frame().await {
            received.extend_from_slice(&frame.unwrap().into_data().unwrap());
            // The client may have received the rest without reading it yet.
            if received.len() + (window as usize) < BIG {
                assert!(server.is_running(), "at {} bytes", received.len());
            }
            sleep(MS).await;
        }
        assert!(received == big(), "{} bytes", received.len());
        server.graceful().await;
        connection.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_under_way_at_the_trigger_ends_whole_and_its_connection_with_it() {
    let ctl = ShutdownController::new();
    let (feed, food) = mpsc::unbounded_channel::<&'static str>();
    let food = Arc::new(std::sync::Mutex::new(Some(food)));
    let fed = get(async move || {
        let food = food.lock().unwrap().take().unwrap();
        Body::from_stream(stream::unfold(food, |mut food| async {
            let bite = food.recv().await?;
            Some((Ok::<_, Infallible>(bite), food))
        }))
    });
    let app = routes()
        .route("/fed", fed)
        .layer(DrainLayer::new(ctl.clone()));
    let (connector, server) = start(&ctl, app);
    let mut client = connector.http1();
    client.send(server::get("/fed")).await;
    feed.send("before, ").unwrap();
    let since = trigger(&ctl).await;
    sleep(5200 * MS).await;
    feed.send("after").unwrap();
    drop(feed);
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.closes()), ("before, after", false));
    // The response did not say that it is the last, so another request may be on its way.
    assert_eq!(client.end().await, b"");
    assert_at(since, 5400 * MS);
    server.graceful().await;
    assert_at(since, 5400 * MS);
}
