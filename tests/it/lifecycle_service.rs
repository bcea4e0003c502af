//! The lifecycle as JSON and as a page, and the actions of operators.

use std::future::{pending, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower_lifecycle::health::{LifecycleService, LifecycleServiceFuture};
use tower_lifecycle::layers::RequestNamesLayer;
use tower_lifecycle::{
    BoxError, DrainLayer, Hook, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
    Startup,
};

use crate::support::log::Lines;
use crate::support::loopback::loopback;
#[cfg(feature = "http2")]
use crate::support::server::start;
use crate::support::shutdown::{controller, ms, ten_seconds};

const MANUAL: ShutdownReason = ShutdownReason::Manual;
/// What Chromium sends for a page.
const BROWSER: &str =
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

async fn send(service: &LifecycleService, request: Request<()>) -> Response<Bytes> {
    let response = service.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

async fn json_of(service: &LifecycleService) -> Value {
    let response = send(service, Request::get("/lifecycle").body(()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    serde_json::from_slice(response.body()).unwrap()
}

/// The JSON of a service without actions.
async fn shown(ctl: &ShutdownController) -> Value {
    json_of(&LifecycleService::new(ctl.clone())).await
}

async fn page_of(service: &LifecycleService, target: &str) -> String {
    let request = Request::get(target).header("accept", BROWSER);
    let response = send(service, request.body(()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()["content-type"],
        "text/html; charset=utf-8"
    );
    String::from_utf8(response.into_body().to_vec()).unwrap()
}

async fn page(ctl: &ShutdownController) -> String {
    page_of(&LifecycleService::new(ctl.clone()), "/lifecycle").await
}

fn post(query: &str) -> http::request::Builder {
    Request::post(format!("/lifecycle{query}"))
}

fn error(response: &Response<Bytes>) -> String {
    let body: Value = serde_json::from_slice(response.body()).unwrap();
    body["error"].as_str().unwrap().to_owned()
}

fn lame_duck() -> ShutdownConfig {
    ten_seconds().lame_duck(ms(3_000))
}

// ===== each state =====

#[tokio::test(start_paused = true)]
async fn running_has_this_form() {
    let ctl = controller(ten_seconds());
    let _import = ctl.track_named("import");
    let _other = ctl.track();
    ctl.add_hook(Hook::new("flush", |_| async { Ok(()) }).phase(3))
        .unwrap();
    let _consumer = ctl.spawn("consumer", async { pending::<()>().await });
    let _queue = ctl.spawn_worker("queue", |_| async { pending::<()>().await });
    ctl.pause();
    assert!(ctl.try_admit().is_err());
    ctl.unpause();
    sleep(ms(1_500)).await;

    let mut seen = shown(&ctl).await;
    // By the system's clock.
    let uptime = seen["uptime_seconds"].take();
    assert!(uptime.as_f64().unwrap() >= 0.0);
    // By the system's clock as well.
    for item in seen["oldest"].as_array_mut().unwrap() {
        if item["kind"] != "guard" {
            assert!(item["age_seconds"].take().is_f64());
        }
    }
    let expected = json!({
        "state": "running",
        "ready": true,
        "paused": false,
        "forced": false,
        "reason": null,
        "signal": null,
        "result": null,
        "elapsed_seconds": null,
        "deadlines": null,
        "lame_duck_end": null,
        "lame_duck_lasted_seconds": null,
        "in_flight": {
            "total": 3, "requests": 2, "connections": 0, "tasks": 1, "servers": 0, "starts": 0,
        },
        "oldest": [
            {"kind": "guard", "name": "import", "stage": "running", "age_seconds": 1.5},
            {"kind": "task", "name": "consumer", "stage": "running", "age_seconds": null},
            {"kind": "worker", "name": "queue", "stage": "running", "age_seconds": null},
        ],
        "connections": [],
        "tasks": {"task": 1, "worker": 1, "admin": 0},
        "services": [
            {"name": "consumer", "status": "healthy"},
            {"name": "queue", "status": "healthy"},
        ],
        "hooks": [{"name": "flush", "phase": 3, "status": "registered"}],
        "saves": [],
        "admitted": 2,
        "refused": 1,
        "late_arrivals": 0,
        "late_requests": 0,
        "aborted": 0,
        "abandoned": 0,
        "shutdown_timeout_seconds": 10.0,
        "uptime_seconds": null,
        "actions": [],
    });
    assert_eq!(seen, expected);

    let text = send(&LifecycleService::new(ctl.clone()), Request::new(())).await;
    let text = String::from_utf8(text.into_body().to_vec()).unwrap();
    assert!(
        text.starts_with(r#"{"state":"running","ready":true,"paused":false,"forced":false,"#),
        "{text}"
    );
}

#[cfg(feature = "http2")]
#[tokio::test(start_paused = true)]
async fn the_connections_of_the_server_are_listed() {
    let ctl = controller(ten_seconds());
    let (connector, _server) = start(&ctl, Router::new());
    let _idle = connector.pipe(64);
    sleep(ms(1_500)).await;
    let mut half = connector.http1();
    half.send("GET / HT").await;
    sleep(ms(1_000)).await;
    let seen = shown(&ctl).await;
    assert_eq!(seen["in_flight"]["connections"], 2);
    let expected = json!([
        {"peer": "2", "stage": "head", "age_seconds": 1.0},
        {"peer": "1", "stage": "idle", "age_seconds": 2.5},
    ]);
    assert_eq!(seen["connections"], expected);
    let page = page_of(&LifecycleService::new(ctl.clone()), "/").await;
    let row = "<tr><td>2</td><td>head</td><td class=\"n\">1.0 s</td></tr>";
    assert!(page.contains(row), "{page}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_shown_first() {
    let ctl = controller(ten_seconds());
    ctl.pause();
    let seen = shown(&ctl).await;
    assert_eq!(
        (&seen["state"], &seen["paused"], &seen["ready"]),
        (&json!("running"), &json!(true), &json!(false))
    );
    let page = page(&ctl).await;
    assert!(page.contains("<body class=\"paused\">"), "{page}");
    assert!(page.contains("<h1>paused</h1><p>not ready</p>"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_is_shown_before_a_pause() {
    let ctl = controller(lame_duck());
    ctl.pause();
    ctl.trigger(MANUAL);
    let page = page(&ctl).await;
    assert!(page.contains("<body class=\"lame_duck\">"), "{page}");
    assert!(
        page.contains("<p>not ready · paused · shutdown by manual · for 0.0 s</p>"),
        "{page}"
    );
}

#[tokio::test(start_paused = true)]
async fn each_deadline_is_shown_until_it_is_past() {
    let ctl = controller(lame_duck());
    let request = ctl.track();
    let (proceed, may_proceed) = oneshot::channel::<()>();
    ctl.on_shutdown("closes", |_| async move {
        may_proceed.await?;
        Ok(())
    })
    .unwrap();
    ctl.on_shutdown("fails", |_| async { Err("disk full".into()) })
        .unwrap();
    ctl.trigger(ShutdownReason::Signal("SIGTERM"));

    sleep(ms(1_000)).await;
    let seen = shown(&ctl).await;
    assert_eq!(seen["state"], "lame_duck");
    assert_eq!(seen["ready"], false);
    assert_eq!(
        (&seen["reason"], &seen["signal"]),
        (&json!("signal"), &json!("SIGTERM"))
    );
    assert_eq!(seen["elapsed_seconds"], 1.0);
    assert_eq!(
        seen["deadlines"],
        json!({
            "lame_duck": {"limit_seconds": 3.0, "remaining_seconds": 2.0},
            "drain": {"limit_seconds": 8.0, "remaining_seconds": 7.0},
            "total": {"limit_seconds": 10.0, "remaining_seconds": 9.0},
        })
    );
    let text = page(&ctl).await;
    assert!(
        text.contains(
            "<h1>lame duck</h1><p>not ready · shutdown by signal SIGTERM · for 1.0 s</p>"
        ),
        "{text}"
    );
    assert!(
        text.contains("drain: 7.0 s of 8.0 s<progress max=\"8\" value=\"7\">"),
        "{text}"
    );

    sleep(ms(3_000)).await;
    let seen = shown(&ctl).await;
    assert_eq!(seen["state"], "draining");
    assert_eq!(
        seen["deadlines"],
        json!({
            "lame_duck": null,
            "drain": {"limit_seconds": 8.0, "remaining_seconds": 4.0},
            "total": {"limit_seconds": 10.0, "remaining_seconds": 6.0},
        })
    );
    assert_eq!(seen["lame_duck_end"], "in_full");
    assert_eq!(seen["lame_duck_lasted_seconds"], 3.0);
    assert_eq!(seen["in_flight"]["total"], 1);

    drop(request);
    sleep(ms(500)).await;
    let seen = shown(&ctl).await;
    assert_eq!(seen["state"], "stopping");
    assert_eq!(seen["deadlines"]["drain"], Value::Null);
    assert_eq!(seen["deadlines"]["total"]["remaining_seconds"], 5.5);
    assert_eq!(
        seen["hooks"],
        json!([
            {"name": "closes", "phase": 0, "status": "running"},
            {"name": "fails", "phase": 0, "status": "failed"},
        ])
    );
    assert_eq!(seen["result"], Value::Null);

    proceed.send(()).unwrap();
    ctl.stopped().await;
    let seen = shown(&ctl).await;
    assert_eq!(seen["state"], "stopped");
    assert_eq!(seen["result"], "with_errors");
    assert_eq!(seen["deadlines"], Value::Null);
    sleep(ms(5_000)).await;
    assert_eq!(shown(&ctl).await["elapsed_seconds"], 4.5, "it is over");
    assert_eq!(seen["hooks"][0]["status"], "completed");
    let text = page(&ctl).await;
    assert!(text.contains("<h1>stopped</h1>"), "{text}");
    assert!(text.contains("took 4.5 s · with errors</p>"), "{text}");
    assert!(
        text.contains("<td>fails</td><td class=\"bad\">failed</td>"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_was_cut_is_not_running_after_the_end() {
    let ctl = controller(ten_seconds());
    ctl.on_shutdown("hangs", |_| pending()).unwrap();
    ctl.add_hook(Hook::new("waits for it", |_| async { Ok(()) }).phase(1))
        .unwrap();
    ctl.trigger(MANUAL);
    sleep(ms(1)).await;
    let status = |seen: Value| {
        let hooks = seen["hooks"].as_array().unwrap().clone();
        let status = |hook: &Value| hook["status"].as_str().unwrap().to_owned();
        hooks.iter().map(status).collect::<Vec<_>>()
    };
    assert_eq!(status(shown(&ctl).await), ["running", "registered"]);
    ctl.force();
    ctl.stopped().await;
    let seen = shown(&ctl).await;
    assert_eq!(seen["forced"], true);
    let after = status(seen);
    assert!(!after.contains(&"running".to_owned()), "{after:?}");
    assert!(!after.contains(&"registered".to_owned()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_start_up_shows_its_services() {
    let mut startup = Startup::new(ten_seconds()).unwrap();
    let ctl = startup.controller();
    assert_eq!(shown(&ctl).await["state"], "initializing");
    let stop = |()| async { Ok::<_, BoxError>(()) };
    startup
        .start("database", ready(Ok::<_, BoxError>(())), stop)
        .await
        .unwrap();
    let other = ctl.clone();
    let looks = async move { Ok::<_, BoxError>(shown(&other).await) };
    let seen = startup
        .start("looks", looks, |_| async { Ok::<_, BoxError>(()) })
        .await
        .unwrap();
    assert_eq!(seen["ready"], false);
    assert_eq!(seen["in_flight"]["starts"], 1);
    assert_eq!(
        seen["services"],
        json!([
            {"name": "database", "status": "healthy"},
            {"name": "looks", "status": "starting"},
        ])
    );
    let state = seen["state"].as_str().unwrap();
    assert!(["initializing", "starting"].contains(&state), "{state}");

    let refused = async { Err::<(), BoxError>("refused".into()) };
    assert!(startup.start("cache", refused, stop).await.is_err());
    let seen = shown(&ctl).await;
    let failed = &seen["services"][2];
    assert_eq!(
        (&failed["name"], &failed["status"]),
        (&json!("cache"), &json!("failed"))
    );
    assert!(failed["error"].as_str().unwrap().contains("refused"));

    let _ = startup.fail("no cache").await;
    let seen = shown(&ctl).await;
    assert_eq!(
        (&seen["state"], &seen["result"]),
        (&json!("failed"), &json!("rolled_back"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_is_named() {
    let ctl = controller(ten_seconds());
    let app = Router::new()
        .route("/hangs", get(pending::<()>))
        .layer(RequestNamesLayer::new(ctl.clone()))
        .layer(DrainLayer::new(ctl.clone()));
    let request = Request::get("/hangs?key=secret")
        .body(Body::empty())
        .unwrap();
    let _request = tokio::spawn(app.oneshot(request));
    sleep(ms(2_000)).await;
    let seen = shown(&ctl).await;
    assert_eq!(
        seen["oldest"],
        json!([{"kind": "request", "name": "GET /hangs", "stage": "handler", "age_seconds": 2.0}])
    );
    let text = page(&ctl).await;
    assert!(
        text.contains(
            "<td>GET /hangs</td><td>request</td><td>handler</td><td class=\"n\">2.0 s</td>"
        ),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn only_the_oldest_twenty_are_listed() {
    let ctl = controller(ten_seconds());
    let mut guards = Vec::new();
    for n in 0..30 {
        guards.push(ctl.track_named(&format!("job {n}")));
        sleep(ms(1)).await;
    }
    let seen = shown(&ctl).await;
    let oldest = seen["oldest"].as_array().unwrap();
    assert_eq!(oldest.len(), 20);
    assert_eq!(
        (&oldest[0]["name"], &oldest[19]["name"]),
        (&json!("job 0"), &json!("job 19"))
    );
}

// ===== the page =====

#[tokio::test(start_paused = true)]
async fn the_page_loads_nothing_and_refreshes_itself() {
    let service = LifecycleService::new(controller(ten_seconds()));
    let request = Request::get("/")
        .header("accept", BROWSER)
        .body(())
        .unwrap();
    let response = send(&service, request).await;
    let headers = response.headers();
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    let length = response.body().len().to_string();
    assert_eq!(headers["content-length"], length.as_str());
    let page = String::from_utf8(response.into_body().to_vec()).unwrap();
    assert!(page.contains("<meta http-equiv=\"refresh\" content=\"2\">"));
    for part in ["<script", "http://", "https://", "src="] {
        assert!(!page.contains(part), "{part} in {page}");
    }
    assert!(!page.contains("<form"), "it is read only: {page}");
}

#[tokio::test(start_paused = true)]
async fn all_that_has_a_name_is_escaped() {
    let evil = "<script>alert('1')</script> & \"x\"";
    let safe = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;";
    let mut startup = Startup::new(ten_seconds()).unwrap();
    let ctl = startup.controller();
    ctl.on_shutdown(evil, |_| async { Ok(()) }).unwrap();
    let failed = async { Err::<(), BoxError>(format!("because of {evil}").into()) };
    let stop = |()| async { Ok::<_, BoxError>(()) };
    assert!(startup.start(evil, failed, stop).await.is_err());
    let _guard = ctl.track_named(evil);

    let page = page(&ctl).await;
    assert!(!page.contains("<script"), "{page}");
    let cells = page.matches(&format!("<td>{safe}</td>")).count();
    assert_eq!(cells, 3, "the guard, the service and the hook: {page}");
    assert!(page.contains(&format!("because of {safe}</td>")), "{page}");
}

#[tokio::test(start_paused = true)]
async fn the_form_is_chosen_by_format_and_then_by_accept() {
    let service = LifecycleService::new(controller(ten_seconds()));
    for (target, accept, is_page) in [
        ("/", None, false),
        ("/", Some("*/*"), false),
        ("/", Some("application/json"), false),
        ("/", Some("application/json, text/html;q=0.5"), false),
        ("/", Some(BROWSER), true),
        ("/", Some("TEXT/HTML; q=1"), true),
        ("/?format=json", Some(BROWSER), false),
        ("/?a=b&format=html", Some("application/json"), true),
        ("/?format=xml", None, false),
        ("/?format", None, false),
    ] {
        let mut request = Request::get(target);
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let response = send(&service, request.body(()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        let content_type = response.headers()["content-type"].to_str().unwrap();
        assert_eq!(
            content_type.starts_with("text/html"),
            is_page,
            "{target} {accept:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn head_has_the_headers_of_get_and_no_body() {
    let service = LifecycleService::new(controller(ten_seconds()));
    for target in ["/?format=html", "/?format=json"] {
        let request = |method| {
            Request::builder()
                .method(method)
                .uri(target)
                .body(())
                .unwrap()
        };
        let got = send(&service, request(Method::GET)).await;
        let head = send(&service, request(Method::HEAD)).await;
        assert_eq!(head.status(), StatusCode::OK);
        assert!(head.body().is_empty());
        // The length may differ by the digits of the uptime.
        for name in got
            .headers()
            .keys()
            .filter(|name| *name != "content-length")
        {
            assert_eq!(got.headers()[name], head.headers()[name], "{name}");
        }
        assert_ne!(head.headers()["content-length"], "0");
    }
}

// ===== actions =====

#[tokio::test(start_paused = true)]
async fn nothing_can_be_done_unless_it_is_switched_on() {
    let ctl = controller(ten_seconds());
    for (service, allow) in [
        (LifecycleService::new(ctl.clone()), "GET, HEAD"),
        (
            LifecycleService::new(ctl.clone())
                .actions(true)
                .actions(false),
            "GET, HEAD",
        ),
    ] {
        let response = send(&service, post("?action=pause").body(()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], allow);
    }
    let service = LifecycleService::new(ctl.clone()).actions(true);
    for method in [Method::PUT, Method::DELETE, Method::OPTIONS] {
        let request = Request::builder().method(method).uri("/?action=pause");
        let response = send(&service, request.body(()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "GET, HEAD, POST");
    }
    let request = Request::get("/?action=pause").body(()).unwrap();
    assert_eq!(send(&service, request).await.status(), StatusCode::OK);
    assert!(!ctl.is_paused(), "a GET does nothing");
}

#[tokio::test(start_paused = true)]
async fn each_action_is_done_logged_and_offered_when_it_is_possible() {
    let log = Lines::default();
    let _listening = log.listen();
    let ctl = controller(lame_duck());
    let service = LifecycleService::new(ctl.clone()).actions(true);
    let act = async |action: &str| {
        let request = post(&format!("?action={action}")).body(()).unwrap();
        let response = send(&service, request).await;
        (response.status(), response)
    };
    let offered = async || json_of(&service).await["actions"].clone();

    assert_eq!(offered().await, json!(["drain", "pause"]));
    let (status, response) = act("pause").await;
    assert_eq!(status, StatusCode::OK);
    let seen: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(seen["paused"], true, "the answer shows what has changed");
    assert_eq!(offered().await, json!(["drain", "unpause"]));
    let (status, response) = act("pause").await;
    assert_eq!(
        (status, error(&response)),
        (StatusCode::CONFLICT, "it is already paused".into())
    );

    assert_eq!(act("unpause").await.0, StatusCode::OK);
    assert!(!ctl.is_paused());
    let (status, response) = act("unpause").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(error(&response), "it is not paused: the state is `running`");
    let (status, response) = act("resume").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(
        error(&response),
        "there is no shutdown to call off: the state is `running`"
    );

    assert_eq!(act("drain").await.0, StatusCode::OK);
    assert_eq!(ctl.state(), LifecycleState::LameDuck);
    assert_eq!(ctl.notice().unwrap().reason(), MANUAL);
    assert_eq!(offered().await, json!(["resume", "pause"]));
    let (status, response) = act("drain").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(
        error(&response),
        "a shutdown has already begun: the state is `lame_duck`"
    );
    assert_eq!(act("resume").await.0, StatusCode::OK);
    assert_eq!(ctl.state(), LifecycleState::Running);

    let request = ctl.track();
    assert_eq!(act("drain").await.0, StatusCode::OK);
    ctl.draining().await;
    assert_eq!(offered().await, json!([]));
    for action in ["drain", "resume", "pause", "unpause"] {
        let (status, response) = act(action).await;
        assert_eq!(status, StatusCode::CONFLICT, "{action}");
        assert!(
            error(&response).contains("`draining`"),
            "{}",
            error(&response)
        );
    }
    drop(request);
    ctl.stopped().await;
    assert_eq!(act("drain").await.0, StatusCode::CONFLICT);

    let logged = log.containing("action by the lifecycle service");
    let done = ["pause", "unpause", "drain", "resume", "drain"];
    assert_eq!(logged.len(), done.len(), "only what was done: {logged:?}");
    for (line, action) in logged.iter().zip(done) {
        assert!(line.ends_with(&format!("action=\"{action}\"")), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_action_is_answered_with_the_known_ones() {
    let ctl = controller(ten_seconds());
    let service = LifecycleService::new(ctl.clone()).actions(true);
    for query in [
        "",
        "?",
        "?action",
        "?action=",
        "?action=Drain",
        "?action=%64rain",
        "?xaction=drain",
        "?&&action=<b>",
    ] {
        let Ok(request) = post(query).body(()) else {
            continue;
        };
        let response = send(&service, request).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{query}");
        let error = error(&response);
        for action in ["drain", "resume", "pause", "unpause"] {
            assert!(error.contains(action), "{error}");
        }
    }
    assert_eq!(ctl.state(), LifecycleState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_browser_is_led_back_or_told_why_not() {
    let ctl = controller(ten_seconds());
    let service = LifecycleService::new(ctl.clone()).actions(true);
    let act = async || {
        let request = post("?action=pause").header("accept", BROWSER);
        send(&service, request.body(()).unwrap()).await
    };
    let response = act().await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()["location"], "?format=html");

    let response = act().await;
    assert_eq!(response.status(), StatusCode::CONFLICT);
    let page = String::from_utf8(response.into_body().to_vec()).unwrap();
    assert!(
        page.contains("<p class=\"bad\">it is already paused</p>"),
        "{page}"
    );
    assert!(
        !page.contains("http-equiv=\"refresh\""),
        "it would be gone: {page}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_page_has_buttons_and_asks_before_it_drains() {
    let ctl = controller(ten_seconds());
    let service = LifecycleService::new(ctl.clone()).actions(true);
    let button = |action: &str| format!("<form method=\"post\" action=\"?action={action}\">");
    let page = page_of(&service, "/lifecycle").await;
    assert!(page.contains(&button("pause")), "{page}");
    assert!(page.contains("href=\"?confirm=drain\""), "{page}");
    assert!(
        !page.contains(&button("drain")) && !page.contains(&button("resume")),
        "{page}"
    );

    let page = page_of(&service, "/lifecycle?confirm=drain").await;
    assert!(page.contains(&button("drain")), "{page}");
    assert!(
        !page.contains("http-equiv=\"refresh\""),
        "it would be gone: {page}"
    );
    assert_eq!(ctl.state(), LifecycleState::Running);

    let read_only = LifecycleService::new(ctl.clone());
    let page = page_of(&read_only, "/lifecycle?confirm=drain").await;
    assert!(!page.contains("<form"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn a_page_of_another_origin_cannot_act() {
    let ctl = controller(ten_seconds());
    let service = LifecycleService::new(ctl.clone()).actions(true);
    let host = ("host", "admin.internal:9000");
    type Headers = &'static [(&'static str, &'static str)];
    let cases: [(Headers, bool); 12] = [
        (&[], true),
        (&[("sec-fetch-site", "same-origin")], true),
        (&[("sec-fetch-site", "none")], true),
        (&[("sec-fetch-site", "cross-site")], false),
        (&[("sec-fetch-site", "same-site")], false),
        (&[("sec-fetch-site", "?")], false),
        // Whatever `Origin` is: the browser knows better.
        (
            &[
                ("sec-fetch-site", "cross-site"),
                ("origin", "http://admin.internal:9000"),
            ],
            false,
        ),
        (&[("origin", "http://admin.internal:9000")], true),
        (&[("origin", "https://ADMIN.internal:9000")], true),
        (&[("origin", "http://admin.internal:9001")], false),
        (&[("origin", "http://evil.example")], false),
        (&[("origin", "null")], false),
    ];
    for (headers, is_allowed) in cases {
        ctl.unpause();
        let mut request = post("?action=pause").header(host.0, host.1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = send(&service, request.body(()).unwrap()).await;
        let status = if is_allowed {
            StatusCode::OK
        } else {
            StatusCode::FORBIDDEN
        };
        assert_eq!(response.status(), status, "{headers:?}");
        assert_eq!(ctl.is_paused(), is_allowed, "{headers:?}");
    }

    // HTTP/2 has the host in the target.
    for (target, status) in [
        (
            "http://admin.internal:9000/?action=unpause",
            StatusCode::FORBIDDEN,
        ),
        ("http://evil.example/?action=pause", StatusCode::OK),
    ] {
        ctl.unpause();
        ctl.pause();
        ctl.unpause();
        let request = Request::post(target).header("origin", "http://evil.example");
        let response = send(&service, request.body(()).unwrap()).await;
        assert_eq!(response.status(), status, "{target}");
    }
    // No host to compare with.
    let request = post("?action=pause").header("origin", "http://admin.internal:9000");
    let response = send(&service, request.body(()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[test]
fn the_service_and_its_future_have_the_auto_traits() {
    fn is_all<T: Send + Sync + Unpin + std::fmt::Debug + 'static>() {}
    is_all::<LifecycleService>();
    is_all::<LifecycleServiceFuture>();
}

// ===== over a socket =====

#[tokio::test]
async fn it_is_an_admin_server_that_can_end_the_process() {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let url = format!("http://{}/lifecycle", listener.local_addr().unwrap());
    let ctl = ShutdownController::with_config(ten_seconds()).unwrap();
    let service = LifecycleService::new(ctl.clone()).actions(true);
    // In a nested router, which changes the path.
    let inner = Router::new().route_service("/", service);
    let routes = Router::new().nest("/lifecycle", inner);
    ctl.spawn_admin("admin", |closing| async move {
        axum::serve(listener, routes)
            .with_graceful_shutdown(closing)
            .await
    });
    let (told, mut stopping) = mpsc::unbounded_channel();
    let (client, own_url) = (reqwest::Client::new(), url.clone());
    ctl.on_shutdown("looks", move |_| async move {
        told.send(client.get(own_url).send().await?.text().await?)?;
        Ok(())
    })
    .unwrap();
    let request = ctl.track_named("a request");

    let client = reqwest::Client::new();
    let browser = |request: reqwest::RequestBuilder| request.header("accept", BROWSER);
    // reqwest follows the redirect.
    let paused = browser(client.post(format!("{url}?action=pause")));
    let response = paused.send().await.unwrap();
    assert_eq!(response.url().as_str(), format!("{url}?format=html"));
    let page = response.text().await.unwrap();
    assert!(page.contains("<h1>paused</h1>"), "{page}");
    assert!(ctl.is_paused());

    let drain = client.post(format!("{url}?action=drain"));
    let refused = drain
        .try_clone()
        .unwrap()
        .header("origin", "http://evil.example");
    assert_eq!(refused.send().await.unwrap().status(), 403);
    let response = drain.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let seen: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(
        (&seen["state"], &seen["reason"]),
        (&json!("draining"), &json!("manual"))
    );
    assert_eq!(seen["oldest"][0]["name"], "a request");
    assert_eq!(seen["tasks"]["admin"], 1);

    drop(request);
    let ended = timeout(Duration::from_secs(30), ctl.shutdown(MANUAL)).await;
    assert!(ended.unwrap().is_graceful());
    let seen: Value = serde_json::from_str(&stopping.recv().await.unwrap()).unwrap();
    assert_eq!(seen["state"], "stopping");
    assert_eq!(
        seen["hooks"][0],
        json!({"name": "looks", "phase": 0, "status": "running"})
    );
}
