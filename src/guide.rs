//! The guide: a page for each question.
//!
//! It exists with all features only, because its examples are compiled.

#[doc = include_str!("../docs/guide/shutdown.md")]
pub mod shutdown {}
#[doc = include_str!("../docs/guide/times.md")]
pub mod times {}
#[doc = include_str!("../docs/guide/layer.md")]
pub mod layer {}
// Of two definitions of a link, the first one counts: those of the page lead to files.
#[doc = "[choosing the times]: times"]
#[doc = "[behind a balancer]: balancers"]
#[doc = "[on Kubernetes]: kubernetes"]
#[cfg_attr(unix, doc = "[restart in place]: restart")]
#[cfg_attr(unix, doc = "[under systemd]: systemd")]
#[doc = "[what it logs]: logs\n"]
#[doc = include_str!("../docs/guide/deploy.md")]
pub mod deploy {}
#[doc = include_str!("../docs/guide/balancers.md")]
pub mod balancers {}
#[doc = include_str!("../docs/guide/kubernetes.md")]
pub mod kubernetes {}
#[doc = include_str!("../docs/guide/server.md")]
pub mod server {}
#[doc = include_str!("../docs/guide/axum.md")]
pub mod axum_serve {}
#[doc = include_str!("../docs/guide/accept_loop.md")]
pub mod accept_loop {}
#[doc = include_str!("../docs/guide/tasks.md")]
pub mod tasks {}
// The same pictures for rustdoc, whose pages are not beside the files: `[name]: data:image/png;base64,` and what
// `base64 -w0 name.png` prints.
#[doc = include_str!("../docs/guide/pictures/embedded.md")]
#[doc = include_str!("../docs/guide/admin.md")]
pub mod admin {}
#[doc = include_str!("../docs/guide/streams.md")]
pub mod streams {}
#[doc = include_str!("../docs/guide/grpc.md")]
pub mod grpc {}
#[doc = include_str!("../docs/guide/startup.md")]
pub mod startup {}
#[cfg(unix)]
#[doc = include_str!("../docs/guide/restart.md")]
pub mod restart {}
#[cfg(unix)]
#[doc = include_str!("../docs/guide/systemd.md")]
pub mod systemd {}
#[doc = include_str!("../docs/guide/logs.md")]
pub mod logs {}
#[doc = include_str!("../docs/guide/metrics.md")]
pub mod metrics {}
#[doc = include_str!("../docs/guide/testing.md")]
pub mod testing {}
#[doc = include_str!("../docs/guide/session.md")]
pub mod session {}
#[doc = include_str!("../docs/guide/cost.md")]
pub mod cost {}
#[doc = include_str!("../docs/guide/limits.md")]
pub mod limits {}
