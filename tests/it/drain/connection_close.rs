//! Connection: close.

use super::*;

#[tokio::test(start_paused = true)]
async fn http1_responses_say_close_from_the_lame_duck_on_whatever_the_application_said() {
    let http10 = || with(Method::GET, Version::HTTP_10);
    let http11 = || with(Method::GET, Version::HTTP_11);
    for request in [http10, http11] {
        for status in [StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR] {
            let seen = connection(request, status).await;
            assert_eq!(seen, ["keep-alive", "close", "close"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn http2_responses_are_left_as_they_are() {
    let http2 = || with(Method::GET, Version::HTTP_2);
    let seen = connection(http2, StatusCode::OK).await;
    assert_eq!(seen, ["keep-alive"; 3]);
}

#[tokio::test(start_paused = true)]
async fn tunnels_are_left_as_they_are() {
    let upgrade = || with(Method::GET, Version::HTTP_11);
    let seen = connection(upgrade, StatusCode::SWITCHING_PROTOCOLS).await;
    assert_eq!(seen, ["keep-alive"; 3]);

    let connect = || with(Method::CONNECT, Version::HTTP_11);
    for status in [StatusCode::OK, StatusCode::NO_CONTENT] {
        assert_eq!(connection(connect, status).await, ["keep-alive"; 3]);
    }
    // A tunnel that was not established.
    let seen = connection(connect, StatusCode::FORBIDDEN).await;
    assert_eq!(seen, ["keep-alive", "close", "close"]);
}
