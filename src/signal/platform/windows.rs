//! Listening on Windows, for Ctrl-C, Ctrl-Break, Close and Shutdown.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown,
};

use tokio::runtime::Handle;

use crate::shutdown::{Either, Start, race};
use crate::signal::choice::Signals;
use crate::signal::listener::Listener;
use crate::sync::Arc;

/// Listens in a task. When the task ends, its event listeners are dropped. Tokio's handler passes on
/// events without a listener, so the next event takes the system's default action.
pub(in crate::signal) fn listen(
    listener: Listener,
    _signals: &Signals,
    runtime: &Handle,
) -> io::Result<Start> {
    let mut signals = {
        let _entered = runtime.enter();
        Events::new()?
    };
    let task = runtime.spawn(async move {
        let mut stopped = listener.ctl.stopped();
        let mut first = None;
        while let Either::Left(signal) = race(signals.recv(), &mut stopped).await {
            if listener.received(signal, &mut first) {
                break;
            }
        }
    });
    let task = task.abort_handle();
    Ok(Start {
        stop: Box::new(move || task.abort()),
        absorb: Arc::new(|| None),
    })
}

struct Events {
    ctrl_c: CtrlC,
    ctrl_break: CtrlBreak,
    ctrl_close: CtrlClose,
    ctrl_shutdown: CtrlShutdown,
}

impl Events {
    fn new() -> io::Result<Self> {
        Ok(Self {
            ctrl_c: ctrl_c()?,
            ctrl_break: ctrl_break()?,
            ctrl_close: ctrl_close()?,
            ctrl_shutdown: ctrl_shutdown()?,
        })
    }

    async fn recv(&mut self) -> &'static str {
        poll_fn(|cx| {
            if self.ctrl_c.poll_recv(cx).is_ready() {
                return Poll::Ready("CTRL_C");
            }
            if self.ctrl_break.poll_recv(cx).is_ready() {
                return Poll::Ready("CTRL_BREAK");
            }
            if self.ctrl_close.poll_recv(cx).is_ready() {
                return Poll::Ready("CTRL_CLOSE");
            }
            if self.ctrl_shutdown.poll_recv(cx).is_ready() {
                return Poll::Ready("CTRL_SHUTDOWN");
            }
            Poll::Pending
        })
        .await
    }
}
