//! The likely causes of losses, in words.

use serde::Serialize;

/// A likely cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The signal itself ends the process.
    NoSignalHandler,
    /// The process ends at once, with requests in flight.
    ExitsAtOnce,
    /// The process waits, and ends with requests in flight.
    EndsTooEarly,
    /// The process does not end, and is killed.
    NeverEnds,
    /// The listener stays open, and nobody accepts what the kernel takes.
    StopsAccepting,
    /// Connections are closed between a request and its answer, while the process runs.
    ClosesConnectionsInUse,
    /// Bodies of answers end in the middle, while the process runs.
    TruncatesBodies,
    /// Connections are closed while an upload is under way.
    ResetsUploads,
    /// Event streams end in an error.
    CutsEventStreams,
    /// WebSockets end without a close frame.
    CutsWebSockets,
    /// 503 without `Retry-After`.
    RefusesWithoutRetryAfter,
    /// Another status than usual.
    AnswersErrors,
    /// The balancer answers for an instance.
    BalancerAnswersErrors,
    /// No answer in time.
    DoesNotAnswer,
    /// Requests are lost far from any signal.
    LosesWithoutRestart,
    /// Idle connections are closed without a notice.
    ClosesIdleConnections,
    /// Connections are refused while the process still runs.
    ClosesListenerFirst,
}

impl Cause {
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::NoSignalHandler => "has no handler for the signal, which ends it at once",
            Self::ExitsAtOnce => "exits at once, with requests in flight",
            Self::EndsTooEarly => "ends before its last requests",
            Self::NeverEnds => "never ends, and was killed",
            Self::ClosesConnectionsInUse => {
                "closes connections between a request and its answer, while it still runs"
            }
            Self::StopsAccepting => "stops accepting, and keeps its listener open",
            Self::TruncatesBodies => "truncates the bodies of answers, while it still runs",
            Self::ResetsUploads => "resets uploads under way",
            Self::CutsEventStreams => "cuts event streams in place of ending them",
            Self::CutsWebSockets => "closes WebSockets without a close frame",
            Self::RefusesWithoutRetryAfter => "refuses by 503 without Retry-After",
            Self::AnswersErrors => "answers with an error",
            Self::BalancerAnswersErrors => "is still sent requests by the balancer, and drops them",
            Self::DoesNotAnswer => "keeps a connection open, and does not answer",
            Self::LosesWithoutRestart => "loses requests also without a restart",
            Self::ClosesIdleConnections => "closes kept connections at once",
            Self::ClosesListenerFirst => "closes its listener first",
        }
    }

    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::NoSignalHandler => {
                "install a handler that stops accepting, waits for what is in flight, and then ends; \
                 if there is one, let the process be the server, and not a shell that starts it"
            }
            Self::ExitsAtOnce => "wait for the requests in flight before the process ends",
            Self::EndsTooEarly => {
                "wait longer, or until the last byte is written: a process that ends with unread data \
                 in a socket also resets what it has written"
            }
            Self::NeverEnds => {
                "end streams and WebSockets when the signal comes, close idle connections, and set a \
                 deadline for the rest that is below the platform's"
            }
            Self::ClosesConnectionsInUse => {
                "close only idle connections, and those in use after their answer"
            }
            Self::StopsAccepting => {
                "close the listener when you stop accepting, after you have accepted what is in its \
                 backlog"
            }
            Self::TruncatesBodies => {
                "count a request until the end of its body, not until its head"
            }
            Self::ResetsUploads => {
                "read the body to its end, or answer and go on reading for a moment before the close \
                 (RFC 9112 §9.6)"
            }
            Self::CutsEventStreams => {
                "end the stream's body when the signal comes, so that its client reconnects"
            }
            Self::CutsWebSockets => {
                "send a close frame with 1001, going away (RFC 6455 §7.4.1), and wait for the answer"
            }
            Self::RefusesWithoutRetryAfter => {
                "add Retry-After to a 503 for a request that was not begun (RFC 9110 §10.2.3)"
            }
            Self::AnswersErrors => {
                "keep what requests need (pools, caches, queues) until the last one is answered"
            }
            Self::BalancerAnswersErrors => {
                "turn readiness red and go on serving until the balancer has seen it, then finish what \
                 is in flight"
            }
            Self::DoesNotAnswer => "refuse what is not to be served, or close the connection",
            Self::LosesWithoutRestart => {
                "find this first; fewer --clients show whether it is the load"
            }
            Self::ClosesIdleConnections => {
                "answer with Connection: close (HTTP/2: GOAWAY) for some time before idle connections \
                 are closed: longer than the clients' pauses between requests"
            }
            Self::ClosesListenerFirst => {
                "turn readiness red and keep accepting until the balancer has seen it; a client without \
                 a balancer is refused"
            }
        }
    }
}
