//! What an operator may do, and where the wish must come from.

use http::Request;
use http::header::{HOST, HeaderName, ORIGIN};

use crate::controller::ShutdownController;
use crate::in_flight::event;
use crate::log::tell;
use crate::state::{LifecycleState, ShutdownReason};

/// An action of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Drain,
    Resume,
    Pause,
    Unpause,
}

impl Action {
    pub(super) const ALL: [Self; 4] = [Self::Drain, Self::Resume, Self::Pause, Self::Unpause];

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Resume => "resume",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
        }
    }

    /// Returns whether the action would do something at this moment.
    pub(super) fn is_possible(self, ctl: &ShutdownController) -> bool {
        match self {
            Self::Drain => !ctl.core().is_triggered(),
            Self::Resume => {
                ctl.state() == LifecycleState::LameDuck && !ctl.core().servers.one_has_ended()
            }
            Self::Pause => !ctl.is_paused() && !ctl.core().milestones().has(event::CLOSED),
            Self::Unpause => ctl.is_paused(),
        }
    }

    /// Does it, or returns why it is not possible.
    pub(super) fn perform(self, ctl: &ShutdownController) -> Result<(), String> {
        let result = match self {
            Self::Drain => ctl
                .trigger(ShutdownReason::Manual)
                .then_some(())
                .ok_or_else(|| {
                    format!(
                        "a shutdown has already begun: the state is `{}`",
                        ctl.state()
                    )
                }),
            Self::Resume => ctl.resume().map_err(|error| error.to_string()),
            Self::Pause => ctl.pause().then_some(()).ok_or_else(|| {
                if ctl.is_paused() {
                    "it is already paused".to_owned()
                } else {
                    format!(
                        "new work is already refused: the state is `{}`",
                        ctl.state()
                    )
                }
            }),
            Self::Unpause => ctl
                .unpause()
                .then_some(())
                .ok_or_else(|| format!("it is not paused: the state is `{}`", ctl.state())),
        };
        if result.is_ok() {
            tell!(
                info,
                action = self.name(),
                "action by the lifecycle service"
            );
        }
        result
    }
}

/// Returns whether a browser sent the request for a page of another origin.
///
/// Browsers say so by `Sec-Fetch-Site` (W3C Fetch Metadata), and older ones, or those that do not trust the
/// connection, by `Origin` (RFC 6454). Other clients send neither, and cannot be made to send requests by a
/// page.
pub(super) fn is_cross_site<B>(request: &Request<B>) -> bool {
    const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let headers = request.headers();
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        // Not `same-site`: that is another port or subdomain.
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return false;
    };
    let authority = request.uri().authority();
    let host = authority.map(|authority| authority.as_str().as_bytes());
    let host = host.or_else(|| Some(headers.get(HOST)?.as_bytes()));
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    match (origin, host) {
        (Some((_, origin)), Some(host)) => !origin.as_bytes().eq_ignore_ascii_case(host),
        // `null`, or no host to compare with.
        _ => true,
    }
}
