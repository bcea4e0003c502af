//! The real controller.

use super::*;

pub(super) struct World {
    pub(super) ctl: ShutdownController,
    pub(super) since: Instant,
    pub(super) guards: Vec<InFlightGuard>,
    pub(super) requests: Vec<Hanging>,
    pub(super) waiters: Vec<Real>,
    pub(super) told: Arc<Mutex<Vec<Told>>>,
    /// The hooks that have begun: which, when, and with which notice.
    pub(super) hooks: Arc<Mutex<Vec<(usize, u64, ShutdownNotice)>>>,
}

/// A pending request, until it ends or its client disconnects.
pub(super) struct Hanging {
    pub(super) layer: Through,
    pub(super) answer: Shared,
}

pub(super) type Shared = Arc<Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>>;

pub(super) struct Real {
    pub(super) future: Spawn<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    pub(super) was_pending: bool,
}

/// The result of a future.
pub(super) enum Answer {
    Nothing,
    State(LifecycleState),
    Notice(ShutdownNotice),
    Report(ShutdownReport),
}

impl World {
    pub(super) fn new(times: Times) -> Self {
        let config = ShutdownConfig::default()
            .shutdown_timeout(ms(times.drain + times.reserve))
            .lame_duck(ms(times.lame_duck))
            .cleanup_reserve(ms(times.reserve))
            .late_for(ms(times.late_for))
            .refuse_for(ms(times.refuse_for));
        Self {
            ctl: ShutdownController::with_config(config).unwrap(),
            since: Instant::now(),
            guards: Vec::new(),
            requests: Vec::new(),
            waiters: Vec::new(),
            told: Arc::default(),
            hooks: Arc::default(),
        }
    }

    pub(super) fn millis(&self, at: Instant) -> u64 {
        (at - self.since).as_millis().try_into().unwrap()
    }

    /// Returns the status of the response, and whether it asks the client to close.
    pub(super) fn request(&mut self, layer: Through, hangs: bool) -> Option<(u16, bool)> {
        let handler = service_fn(move |_: Request<Full<Bytes>>| async move {
            if hangs {
                pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let request = Request::new(Full::default());
        let ctl = self.ctl.clone();
        match layer {
            Through::Drain => {
                self.send(layer, DrainLayer::new(ctl).layer(handler).oneshot(request))
            }
            Through::Tracking => {
                let service = RequestTrackingLayer::new(ctl).layer(handler);
                self.send(layer, service.oneshot(request))
            }
        }
    }

    pub(super) fn send<B: 'static>(
        &mut self,
        layer: Through,
        answer: impl Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    ) -> Option<(u16, bool)> {
        let mut answer = Box::pin(answer);
        if let Poll::Ready(answer) = task::spawn(answer.as_mut()).poll() {
            let answer = answer.unwrap();
            let closes = answer.headers().get(CONNECTION);
            let closes = closes.is_some_and(|value| value == "close");
            return Some((answer.status().as_u16(), closes));
        }
        let answer: Shared = Arc::new(Mutex::new(Some(Box::pin(async {
            let _ = answer.await;
        }))));
        let shared = Arc::clone(&answer);
        tokio::spawn(poll_fn(move |cx| {
            let mut answer = shared.lock().unwrap();
            let poll = answer
                .as_mut()
                .map_or(Poll::Ready(()), |answer| answer.as_mut().poll(cx));
            if poll.is_ready() {
                *answer = None;
            }
            poll
        }));
        self.requests.push(Hanging { layer, answer });
        None
    }

    /// Drops one of the pending requests. Returns its layer.
    pub(super) fn hang_up(&mut self, which: usize) -> Option<Through> {
        self.requests
            .retain(|request| request.answer.lock().unwrap().is_some());
        let which = which.checked_rem(self.requests.len())?;
        let request = self.requests.swap_remove(which);
        *request.answer.lock().unwrap() = None;
        Some(request.layer)
    }

    pub(super) fn lend(&self, lease: Lease) {
        let guard = self.ctl.track();
        let until = match lease {
            Lease::For(time) | Lease::Impatient(time) => Instant::now() + ms(time),
            _ => self.since,
        };
        tokio::spawn(async move {
            match lease {
                Lease::For(_) => sleep_until(until).await,
                Lease::AfterDraining(time) => {
                    guard.draining().await;
                    sleep(ms(time)).await;
                }
                Lease::UntilForced => guard.forced().await,
                Lease::Impatient(time) => {
                    let _ = timeout(ms(time / 2), guard.forced()).await;
                    sleep_until(until).await;
                }
            }
        });
    }

    pub(super) fn spawn(&self, name: String, when: When, how: How) {
        let (triggered, draining) = (self.ctl.triggered(), self.ctl.draining());
        let begun = Instant::now();
        let task = async move {
            match when {
                When::Triggered => drop(triggered.await),
                When::Draining => draining.await,
                When::After(time) => sleep_until(begun + ms(time)).await,
                When::Never => pending().await,
            }
            end(how)
        };
        // A task that ends does not begin a shutdown here: only the trigger and the force do.
        let task = tower_lifecycle::Task::new(name, task);
        drop((self.ctl).spawn_task(task.on_error(Note).on_panic(Note)));
    }

    pub(super) fn hook(&self, plan: HookPlan) -> Hook {
        let (log, since) = (Arc::clone(&self.hooks), self.since);
        let hook = Hook::new(plan.name.to_string(), move |notice| async move {
            let at = since.elapsed().as_millis().try_into().unwrap();
            log.lock().unwrap().push((plan.name, at, notice));
            match plan.takes {
                Some(0) => {}
                Some(takes) => sleep(ms(takes)).await,
                None => pending().await,
            }
            end(plan.how)
        });
        let hook = hook.phase(plan.phase);
        match plan.timeout {
            Some(timeout) => hook.timeout(ms(timeout)),
            None => hook,
        }
    }

    pub(super) fn wait(&mut self, kind: Kind) {
        fn unit(wait: Wait) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
            Box::pin(async {
                wait.await;
                Answer::Nothing
            })
        }
        let ctl = &self.ctl;
        let future: Pin<Box<dyn Future<Output = Answer> + Send>> = match kind {
            Kind::LameDuck => unit(ctl.lame_duck_begun()),
            Kind::Draining => unit(ctl.draining()),
            Kind::Drained => unit(ctl.drained()),
            Kind::Forced => unit(ctl.forced()),
            Kind::Stopped => unit(ctl.stopped()),
            Kind::StopAccepting => unit(ctl.stop_accepting()),
            Kind::Idle => unit(ctl.idle()),
            Kind::Triggered => {
                let wait = ctl.triggered();
                Box::pin(async { Answer::Notice(wait.await) })
            }
            Kind::State(state) => {
                let wait = ctl.wait_for(state);
                Box::pin(async { Answer::State(wait.await) })
            }
            Kind::Shutdown(reason) => {
                let wait = ctl.shutdown(reason);
                Box::pin(async { Answer::Report(wait.await) })
            }
        };
        self.waiters.push(Real {
            future: task::spawn(future),
            was_pending: false,
        });
    }

    pub(super) fn observe(&self, id: usize, react: React) {
        let (log, since) = (Arc::clone(&self.told), self.since);
        let (ctl, react) = (self.ctl.clone(), Mutex::new(react));
        self.ctl.on_state_change(move |old, new| {
            let at = since.elapsed().as_millis().try_into().unwrap();
            log.lock().unwrap().push((id, at, old, new));
            let mut due = React::Not;
            {
                let mut react = react.lock().unwrap_or_else(PoisonError::into_inner);
                assert!(*react != React::Panics, "scripted");
                if react.is_at(new) {
                    mem::swap(&mut due, &mut react);
                }
            }
            match due {
                React::Not | React::Panics => {}
                React::Pauses => drop(ctl.pause()),
                React::Resumes => drop(ctl.resume()),
                React::Forces => ctl.force(),
                _ => drop(ctl.trigger(ShutdownReason::ServerExited)),
            }
        });
    }
}

pub(super) fn end(how: How) -> Result<(), BoxError> {
    match how {
        How::Completes => Ok(()),
        How::Fails => Err("scripted".into()),
        How::Panics => panic!("scripted"),
    }
}

/// Runs all ready tasks, without time passing.
pub(super) async fn settle() {
    for _ in 0..24 {
        yield_now().await;
    }
}
