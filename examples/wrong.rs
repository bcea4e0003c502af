//! Mistakes, and the compiler's messages for them: see `.ci/messages`.
//!
//! They are compiled only with `--cfg wrong`.

#![allow(unexpected_cfgs)]

#[cfg(wrong)]
mod mistakes {
    use std::convert::Infallible;

    use axum::Router;
    use tokio::net::TcpListener;
    use tower_lifecycle::{ShutdownController, serve};

    fn state_is_missing(listener: TcpListener, app: Router<u32>, ctl: ShutdownController) {
        let _ = serve(listener, app, ctl);
    }

    fn listener_of_std(listener: std::net::TcpListener, app: Router, ctl: ShutdownController) {
        let _ = serve(listener, app, ctl);
    }

    fn task_with_a_value(ctl: &ShutdownController) {
        ctl.spawn("answer", async { 42 });
    }

    fn watched_by_mistake(ctl: &ShutdownController) {
        let _ = ctl.watch(async { Ok::<(), Infallible>(()) });
    }
}

fn main() {}
