//! Whole shutdowns as their clients see them: nothing is lost, and nothing is ambiguous.
//!
//! In each round a service is shut down at a random moment while its clients keep sending requests.
//! Each client records the outcome of every request. A request must get a complete response, even
//! if it was sent while draining, or be refused in a way that allows a retry. The server's counts
//! must equal the clients' counts. The clients here retry nothing, except what they never sent.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use drain_check::client::{Connection, Seen};
use drain_check::{Entry, Fate, Loss, Refusal, Sender, Unsent, Work};
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use tower_lifecycle::{LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason};

use crate::support::ledger::{
    Counts, Entries, Kind, Ledger, STREAM_SIZE, Service, UPLOAD_SIZE, fate_of, fate_of_error,
    first_events, random, random_millis,
};

/// How many shutdowns to run, at random moments. `LEDGER_ROUNDS` sets more of them.
fn rounds() -> usize {
    std::env::var("LEDGER_ROUNDS").map_or(6, |rounds| rounds.parse().unwrap())
}

const LAME_DUCK: Duration = Duration::from_millis(300);
/// How long an idle connection may still bring a request after draining has begun.
const IDLE: Duration = Duration::from_millis(200);
const MILLISECOND: Duration = Duration::from_millis(1);
const UNSENT: Seen = (Fate::NeverSent(Unsent::Closed), None);
const TURNED_AWAY: Seen = (Fate::NeverSent(Unsent::Refused), None);
/// The time limit of a round.
const TIMEOUT: Duration = Duration::from_secs(30);

// ===== with a lame duck =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alive_by_hyper_loses_nothing() {
    play(lame_duck(), |round| {
        for _ in 0..20 {
            round.spawn(|round| round.visit(Protocol::Http1, PlannedRequest::download));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alive_by_reqwest_loses_nothing() {
    play(lame_duck(), |round| {
        for _ in 0..20 {
            round.spawn(Round::visit_by_reqwest);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_of_each_http_2_connection_lose_nothing() {
    play(lame_duck(), |round| {
        for _ in 0..2 {
            round.spawn(|round| round.visit(Protocol::Http2(100), PlannedRequest::download));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_lose_nothing() {
    play(lame_duck(), |round| {
        for protocol in [Protocol::Http1, Protocol::Http2(4)] {
            round.spawn(move |round| round.visit(protocol, PlannedRequest::upload));
            round.spawn(move |round| round.visit(protocol, PlannedRequest::upload_in_vain));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_lose_nothing() {
    play(lame_duck(), |round| {
        for protocol in [Protocol::Http1, Protocol::Http2(10)] {
            for _ in 0..10 {
                round.spawn(move |round| round.visit(protocol, PlannedRequest::events));
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_sockets_lose_nothing() {
    play(lame_duck(), |round| {
        for _ in 0..20 {
            round.spawn(Round::talk);
        }
    })
    .await;
}

// ===== without =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_rest_lose_nothing_without_a_lame_duck() {
    let total = play(Service::config(), invite_those_who_do_not_rest).await;
    assert!(total.late > total.refused, "not served: {total}");
}

// ===== with an open listener that refuses =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_an_open_listener_refuses_lose_nothing() {
    for lame_duck in [Duration::ZERO, LAME_DUCK] {
        let config = Service::config().lame_duck(lame_duck);
        let total = play(config.refuse_for(IDLE), invite_those_who_do_not_rest).await;
        assert_eq!(total.late, 0, "{total}");
        // The listener is open for longer than most of them pause.
        assert!(total.refused > 2 * total.turned_away, "not told: {total}");
    }
}

fn invite_those_who_do_not_rest(round: &mut Clients) {
    for _ in 0..15 {
        round.spawn(|round| round.visit(Protocol::Http1, PlannedRequest::download));
    }
    round.spawn(|round| round.visit(Protocol::Http2(100), PlannedRequest::download));
}

// ===== after the time for late requests =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_http_2_connection_that_has_ten_milliseconds_loses_nothing() {
    let config = Service::config().late_for(10 * MILLISECOND);
    let total = play(config, |round| {
        round.spawn(|round| round.visit(Protocol::Http2(100), PlannedRequest::download));
    })
    .await;
    // A request after that time, which is refused, comes only by chance.
    assert!(total.late > 0, "not served: {total}");
}

// ===== axum's accept loop, which resets its backlog =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of 100 s, which judges nothing: run it with --nocapture"]
async fn figures_of_axum_serve_with_and_without_us() {
    for kind in [Kind::PlainAxum, Kind::Axum] {
        let mut total = Entries::default();
        for _ in 0..rounds() {
            let round = play_once(kind, Service::config(), &invite_those_who_do_not_rest);
            let (entries, _) = timeout(TIMEOUT, round).await.unwrap();
            total += entries;
        }
        println!("{kind:?}: {total}");
    }
}

// ===== the race that HTTP/1 allows =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lame_duck_no_connection_is_closed_under_a_request() {
    play(lame_duck(), |round| {
        for _ in 0..50 {
            round.spawn(Round::visit_as_it_closes);
        }
        round.spawn(Round::keep_it_draining);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, which judges nothing: run it with --nocapture"]
async fn requests_sent_on_connections_that_are_closed_at_that_instant() {
    for lame_duck in [Duration::ZERO, LAME_DUCK] {
        let config = Service::config().lame_duck(lame_duck);
        let invite = |round: &mut Clients| {
            for _ in 0..50 {
                round.spawn(Round::visit_as_it_closes);
            }
            round.spawn(Round::keep_it_draining);
        };
        let total = tally(&config, invite, |_, _| ()).await;
        println!("lame duck of {lame_duck:?}: {total}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, which judges nothing: run it with --nocapture"]
async fn requests_of_clients_that_connect_as_the_listener_is_closed() {
    let config = lame_duck();
    let total = tally(
        &config,
        |round| {
            for _ in 0..20 {
                round.spawn(Round::visit_until_connection_refused);
            }
        },
        |_, _| (),
    );
    println!("{}", total.await);
}

// ===== rounds =====

/// A shutdown, shared with its clients.
#[derive(Clone)]
struct Round {
    ctl: ShutdownController,
    address: SocketAddr,
    ledger: Arc<Ledger>,
}

/// The clients of a round.
struct Clients {
    round: Round,
    tasks: JoinSet<()>,
}

fn lame_duck() -> ShutdownConfig {
    Service::config().lame_duck(LAME_DUCK)
}

/// Runs shutdowns in which nothing may be lost.
async fn play(config: ShutdownConfig, invite: impl Fn(&mut Clients)) -> Entries {
    let total = tally(&config, invite, Entries::check).await;
    println!("{total}");
    assert!(total.answered > 0, "too tame: {total}");
    let sent_away = total.refused + total.turned_away;
    assert!(sent_away >= rounds() as u64, "not until the end: {total}");
    total
}

/// Runs shutdowns at random moments, checks each of them, and adds up their ledgers.
async fn tally(
    config: &ShutdownConfig,
    invite: impl Fn(&mut Clients),
    judge: fn(&Entries, &Counts),
) -> Entries {
    let mut total = Entries::default();
    for _ in 0..rounds() {
        let round = timeout(TIMEOUT, play_once(Kind::Ours, config.clone(), &invite));
        let (entries, counts) = round.await.expect("it should not take this long");
        judge(&entries, &counts);
        total += entries;
    }
    total
}

async fn play_once(
    kind: Kind,
    config: ShutdownConfig,
    invite: &impl Fn(&mut Clients),
) -> (Entries, Counts) {
    let service = Service::start_with(kind, config).await;
    let mut clients = Clients {
        round: Round {
            ctl: service.ctl.clone(),
            address: service.address,
            ledger: Arc::default(),
        },
        tasks: JoinSet::new(),
    };
    let ledger = Arc::clone(&clients.round.ledger);
    service.ctl.on_state_change(move |_, new| {
        if new == LifecycleState::Draining {
            ledger.begin_draining();
        }
    });
    invite(&mut clients);

    sleep(random_millis(20..170)).await;
    service.ctl.trigger(ShutdownReason::Manual);
    // They continue until they are refused or cannot connect.
    while let Some(result) = clients.tasks.join_next().await {
        result.unwrap();
    }
    (clients.round.ledger.take(), service.counts().await)
}

impl Clients {
    fn spawn<Fut>(&mut self, client: impl FnOnce(Round) -> Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(client(self.round.clone()));
    }
}

// ===== clients =====

/// A client's request.
struct PlannedRequest {
    method: Method,
    path: String,
    upload: Bytes,
    answer: Answer,
}

/// The expected response.
#[derive(Clone)]
enum Answer {
    Exactly(Bytes),
    Events,
}

/// What a client does after a request.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Again,
    /// Opens another connection.
    Reconnect,
    /// Goes to another instance.
    Stop,
}

impl Round {
    /// Sends requests on one connection after another, as long as each lasts.
    async fn visit(self, protocol: Protocol, planned: fn() -> PlannedRequest) {
        loop {
            think().await;
            let Some(streams) = self.connect(protocol).await else {
                return;
            };
            let visits: JoinSet<_> = streams
                .into_iter()
                .map(|stream| self.clone().ask_until_told(stream, planned))
                .collect();
            if visits.join_all().await.contains(&Next::Stop) {
                return;
            }
        }
    }

    async fn ask_until_told(self, mut stream: Stream, planned: fn() -> PlannedRequest) -> Next {
        loop {
            match self.ask(&mut stream, planned()).await {
                Next::Again => think().await,
                next => return next,
            }
        }
    }

    /// Sends one request, and records its outcome.
    async fn ask(&self, stream: &mut Stream, planned: PlannedRequest) -> Next {
        let what = planned.to_string();
        let answer = planned.answer.clone();
        let began = self.ledger.now();
        let (seen, leaves) = match stream.exchange(planned).await {
            Ok(response) => {
                let seen = fate_of(&response, |body| answer.is(body, &self.ledger));
                (seen, asks_to_leave(&response))
            }
            Err((Fate::Ambiguous | Fate::Lost(Loss::NoAnswer), seen)) => {
                let fate = match self.has_crossed(stream) {
                    true => Fate::Ambiguous,
                    false => Fate::Lost(Loss::NoAnswer),
                };
                ((fate, seen), true)
            }
            Err(seen) => (seen, true),
        };
        let next = match seen.0 {
            // The retry would come after the service is gone.
            Fate::Refused(Refusal::Later) => Next::Stop,
            _ if leaves => Next::Reconnect,
            _ => Next::Again,
        };
        self.note(stream.sender(), &what, began, seen);
        next
    }

    /// Sends requests with a client that manages its connections itself.
    async fn visit_by_reqwest(self) {
        let client = reqwest::Client::builder()
            .no_proxy()
            .retry(reqwest::retry::never())
            .build()
            .unwrap();
        loop {
            think().await;
            let planned = PlannedRequest::download();
            let url = format!("http://{}{}", self.address, planned.path);
            let began = self.ledger.now();
            let seen = match whole(client.get(url)).await {
                Ok(response) => fate_of(&response, |body| planned.answer.is(body, &self.ledger)),
                Err(error) if could_not_connect(&error) => TURNED_AWAY,
                Err(error) => fate_of_error(&error),
            };
            let is_over = matches!(seen.0, Fate::Refused(_) | Fate::NeverSent(_));
            self.note(Sender::Reqwest1, &planned.to_string(), began, seen);
            if is_over {
                return;
            }
        }
    }

    /// Sends messages and waits for their echoes, on one WebSocket after another.
    async fn talk(self) {
        while let Some(stream) = self.connect_tcp().await {
            let began = self.ledger.now();
            let seen = match client_async("ws://test/echo", stream).await {
                Ok((socket, _)) => match self.converse(socket).await {
                    Ok(()) => (Fate::Answered, None),
                    Err(error) => (Fate::Lost(Loss::WebSocket), Some(error.to_string())),
                },
                Err(tungstenite::Error::Http(response)) => {
                    let response = response.map(|body| Bytes::from(body.unwrap_or_default()));
                    fate_of(&response, |_| false)
                }
                Err(error) => fate_of_error(&error),
            };
            let is_over = matches!(seen.0, Fate::Refused(_));
            self.note(Sender::WebSocket, "a socket", began, seen);
            if is_over {
                return;
            }
            think().await;
        }
    }

    /// Ends when the server sends a close frame with "going away", and closes the connection
    /// cleanly.
    async fn converse(&self, mut socket: WebSocketStream<TcpStream>) -> tungstenite::Result<()> {
        let mut goodbye = false;
        while !goodbye {
            let message = Message::text(random(0..u64::MAX).to_string());
            socket.send(message.clone()).await?;
            match socket
                .next()
                .await
                .ok_or(tungstenite::Error::AlreadyClosed)??
            {
                Message::Close(Some(frame)) if frame.code == CloseCode::Away => goodbye = true,
                echo => {
                    assert_eq!(echo, message);
                    self.ledger.note_pieces(1);
                    think().await;
                }
            }
        }
        match socket.next().await {
            None | Some(Err(tungstenite::Error::ConnectionClosed)) => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(message)) => panic!("{message} after the goodbye"),
        }
    }

    /// Sends requests like the others, and has its next request ready when idle connections are
    /// closed.
    async fn visit_as_it_closes(self) {
        let mut draining = pin!(self.ctl.draining());
        let mut connection = None;
        loop {
            tokio::select! {
                () = &mut draining => break,
                () = think() => connection = self.ask_again(connection).await,
            }
        }
        sleep(IDLE - MILLISECOND + random_millis(0..3)).await;
        self.ask_again(connection).await;
    }

    /// Sends on this connection, or on a new one. Returns the connection if it can be reused.
    async fn ask_again(&self, connection: Option<Stream>) -> Option<Stream> {
        let mut stream = match connection {
            Some(stream) => stream,
            None => self.connect(Protocol::Http1).await?.pop()?,
        };
        let next = self.ask(&mut stream, PlannedRequest::quick()).await;
        (next == Next::Again).then_some(stream)
    }

    /// Retries at once after every response.
    async fn visit_until_connection_refused(self) {
        while let Some(mut streams) = self.connect(Protocol::Http1).await {
            self.ask(&mut streams[0], PlannedRequest::quick()).await;
            sleep(random_millis(0..3)).await;
        }
    }

    /// Keeps a request in flight until the others have seen idle connections closed.
    async fn keep_it_draining(self) {
        let mut streams = self.connect(Protocol::Http1).await.unwrap();
        self.ctl.triggered().await;
        let time = self.ctl.config().lame_duck + IDLE + Duration::from_millis(300);
        self.ask(&mut streams[0], PlannedRequest::wait(time)).await;
    }

    /// Opens a connection; `None` if the connection is refused.
    async fn connect(&self, protocol: Protocol) -> Option<Vec<Stream>> {
        Some(match protocol {
            Protocol::Http1 => {
                let opened = Connection::open(self.address).await;
                vec![Stream::Http1(self.accepted(opened)?)]
            }
            Protocol::Http2(streams) => {
                let stream = self.connect_tcp().await?;
                let (sender, connection) = h2::client::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                (0..streams)
                    .map(|_| Stream::Http2(sender.clone()))
                    .collect()
            }
        })
    }

    async fn connect_tcp(&self) -> Option<TcpStream> {
        self.accepted(TcpStream::connect(self.address).await)
    }

    fn accepted<T>(&self, connected: io::Result<T>) -> Option<T> {
        match connected {
            Ok(stream) => Some(stream),
            Err(error) => {
                assert!(is_refused_connection(&error), "{error}");
                let now = self.ledger.now();
                self.note(Sender::Http1, "a connection", now, TURNED_AWAY);
                None
            }
        }
    }

    /// Records the outcome of a request.
    fn note(&self, sender: Sender, what: &str, began: Duration, (fate, seen): Seen) {
        let seen = seen.map(|seen| format!("{what}, {}: {seen}", self.now()));
        self.ledger.note(Entry {
            client: 0,
            sender,
            work: Work::Request,
            began,
            ended: self.ledger.now(),
            fate,
            seen: seen.map(String::into_boxed_str),
        });
    }

    fn now(&self) -> String {
        let since = self.ledger.draining_for();
        format!("{}, draining since {since:?}", self.ctl.state())
    }

    /// Returns whether a request was sent when idle HTTP/1 connections were already being closed.
    fn has_crossed(&self, stream: &Stream) -> bool {
        let Stream::Http1(connection) = stream else {
            return false;
        };
        let Some(draining_for) = self.ledger.draining_for() else {
            return false;
        };
        let sent_for = connection.traffic().last_write().elapsed();
        draining_for.saturating_sub(sent_for) >= IDLE
    }
}

/// Half of the clients' pauses are zero.
async fn think() {
    if random(0..2) == 1 {
        sleep(random_millis(0..50)).await;
    }
}

fn asks_to_leave(response: &Response<Bytes>) -> bool {
    let connection = response.headers().get("connection");
    connection.is_some_and(|value| value == "close")
}

async fn whole(request: reqwest::RequestBuilder) -> reqwest::Result<Response<Bytes>> {
    let (head, body) = Response::from(request.send().await?).into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

/// Returns whether an attempt to connect failed because the listener is closed.
fn is_refused_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionReset)
}

fn could_not_connect(error: &reqwest::Error) -> bool {
    let mut source = error.source().filter(|_| error.is_connect());
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return is_refused_connection(error);
        }
        source = cause.source();
    }
    false
}

// ===== impl PlannedRequest =====

impl PlannedRequest {
    fn quick() -> Self {
        Self::get("/".to_owned(), Bytes::from_static(b"quick"))
    }

    /// Sent at once, later, or slowly.
    fn download() -> Self {
        match random(0..10) {
            0 => Self::get(
                "/stream".to_owned(),
                Bytes::from_static(&[b's'; STREAM_SIZE]),
            ),
            1..6 => Self::wait(Duration::from_millis(random(0..50))),
            _ => Self::quick(),
        }
    }

    /// It ends when the service does.
    fn events() -> Self {
        Self {
            answer: Answer::Events,
            ..Self::get("/events".to_owned(), Bytes::new())
        }
    }

    fn wait(time: Duration) -> Self {
        let millis = time.as_millis();
        let answer = format!("waited {millis} ms");
        Self::get(format!("/wait/{millis}"), answer.into())
    }

    fn upload() -> Self {
        let answer = format!("{UPLOAD_SIZE} bytes").into();
        Self::post("/upload", answer)
    }

    /// The response comes before the upload is complete.
    fn upload_in_vain() -> Self {
        Self::post("/early", Bytes::from_static(b"no need"))
    }

    fn get(path: String, answer: Bytes) -> Self {
        Self {
            method: Method::GET,
            path,
            upload: Bytes::new(),
            answer: Answer::Exactly(answer),
        }
    }

    fn post(path: &str, answer: Bytes) -> Self {
        Self {
            method: Method::POST,
            path: path.to_owned(),
            upload: Bytes::from_static(&[b'u'; UPLOAD_SIZE]),
            answer: Answer::Exactly(answer),
        }
    }

    fn request(&self) -> http::request::Builder {
        let request = Request::builder().method(self.method.clone());
        request.uri(format!("http://test{}", self.path))
    }
}

impl Answer {
    /// Returns whether this is the complete body.
    fn is(&self, body: &Bytes, ledger: &Ledger) -> bool {
        match self {
            Self::Exactly(answer) => body == answer,
            Self::Events => {
                let (whole, count) = first_events(body);
                ledger.note_pieces(count);
                whole
            }
        }
    }
}

impl fmt::Display for PlannedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

// ===== connections =====

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Http1,
    /// With this many streams at once.
    Http2(usize),
}

/// Carries one request at a time.
enum Stream {
    Http1(Connection),
    /// With uploads that end when the response is complete, which hyper's client does not offer.
    Http2(h2::client::SendRequest<Bytes>),
}

impl Stream {
    /// Sends a request, and reads the complete response.
    async fn exchange(&mut self, planned: PlannedRequest) -> Result<Response<Bytes>, Seen> {
        match self {
            Self::Http1(connection) => exchange_by_http1(connection, planned).await,
            Self::Http2(sender) => exchange_by_http2(sender.clone(), planned).await,
        }
    }

    fn sender(&self) -> Sender {
        match self {
            Self::Http1(_) => Sender::Http1,
            Self::Http2(_) => Sender::Http2,
        }
    }
}

async fn exchange_by_http1(
    connection: &mut Connection,
    planned: PlannedRequest,
) -> Result<Response<Bytes>, Seen> {
    let upload = Full::new(planned.upload.clone()).boxed();
    let request = planned.request().body(upload).unwrap();
    if !connection.is_open().await {
        return Err(UNSENT);
    }
    let response = connection.send(request, Work::Request, TIMEOUT).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| {
        let seen = format!("{}, then {error}", head.status);
        (Fate::Lost(Loss::Truncated), Some(seen))
    })?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

async fn exchange_by_http2(
    sender: h2::client::SendRequest<Bytes>,
    planned: PlannedRequest,
) -> Result<Response<Bytes>, Seen> {
    let mut sender = sender.ready().await.map_err(|_| UNSENT)?;
    let request = planned.request().body(()).unwrap();
    let sent = sender.send_request(request, planned.upload.is_empty());
    let (response, sending) = sent.map_err(|_| UNSENT)?;
    let received = async {
        let (head, mut body) = response.await?.into_parts();
        let mut received = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            received.extend_from_slice(&chunk);
        }
        Ok(Response::from_parts(head, received.freeze()))
    };
    // A client with the complete response need not send the rest.
    let received = tokio::select! {
        received = received => received,
        never = upload(sending, planned.upload) => match never {},
    };
    received.map_err(|error: h2::Error| fate_of_error(&error))
}

/// Sends as much as the peer accepts, and never ends.
async fn upload(mut sending: h2::SendStream<Bytes>, mut upload: Bytes) -> Infallible {
    while !upload.is_empty() {
        sending.reserve_capacity(upload.len());
        match poll_fn(|cx| sending.poll_capacity(cx)).await {
            Some(Ok(capacity)) => {
                let chunk = upload.split_to(capacity);
                let is_last = upload.is_empty();
                if sending.send_data(chunk, is_last).is_err() {
                    break;
                }
            }
            // It was reset; the response will report that.
            _ => break,
        }
    }
    pending().await
}
