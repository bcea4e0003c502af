//! The options of a [`DrainLayer`](crate::DrainLayer), and how its services refer to them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Request, Response, request};

use super::facts::Facts;
use super::long_lived::{Classes, LongLived, SharedClasses};
use crate::in_flight::LayerHandle;
use crate::shutdown::Core;
use crate::sync::Arc;

/// The options of a [`DrainLayer`](crate::DrainLayer).
#[derive(Clone)]
pub(crate) struct Options {
    pub(super) retry_after: HeaderValue,
    exempt_paths: Vec<Box<str>>,
    pub(super) refuse_with: Option<RefuseWith>,
    pub(super) long_lived: Classes,
}

/// The handle of a [`DrainLayer`](crate::DrainLayer) service to its shard.
pub(crate) type DrainHandle = LayerHandle<LayerOptions>;

/// What a [`DrainLayer`](crate::DrainLayer) keeps for its services.
#[derive(Clone)]
pub(crate) struct LayerOptions {
    pub(crate) options: Arc<Options>,
    /// The facts that hold for every request of the layer.
    facts: Facts,
}

type RefuseWith = Arc<dyn Fn(&request::Parts) -> Response<Bytes> + Send + Sync>;

// ===== impl Options =====

impl Options {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        core.gate
            .keep_common(SharedClasses::new(Arc::downgrade(core)));
        Self {
            retry_after: whole_seconds(core.config.retry_after),
            exempt_paths: Vec::new(),
            refuse_with: None,
            long_lived: Classes::new(),
        }
    }

    /// Creates the options of a layer for services other than HTTP.
    pub(crate) fn none() -> Self {
        Self {
            retry_after: whole_seconds(Duration::ZERO),
            exempt_paths: Vec::new(),
            refuse_with: None,
            long_lived: Classes::new(),
        }
    }

    pub(crate) fn add_long_lived(&mut self, class: LongLived) {
        self.long_lived.add(class);
    }

    pub(crate) fn clear_long_lived(&mut self) {
        self.long_lived.clear();
    }

    pub(crate) fn set_retry_after(&mut self, time: Duration) {
        self.retry_after = whole_seconds(time);
    }

    pub(crate) fn exempt(&mut self, paths: impl IntoIterator<Item = impl Into<String>>) {
        let paths = paths.into_iter().map(|path| path.into().into_boxed_str());
        self.exempt_paths.extend(paths);
    }

    pub(crate) fn set_refuse_with(&mut self, refuse: RefuseWith) {
        self.refuse_with = Some(refuse);
    }

    pub(crate) fn has_exempt_paths(&self) -> bool {
        !self.exempt_paths.is_empty()
    }

    pub(crate) fn is_exempt(&self, path: &str) -> bool {
        self.exempt_paths.iter().any(|exempt| **exempt == *path)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("retry_after", &self.retry_after)
            .field("exempt_paths", &self.exempt_paths)
            .field("refuse_with", &self.refuse_with.is_some())
            .field("long_lived", &self.long_lived)
            .finish()
    }
}

// ===== impl LayerOptions =====

impl LayerOptions {
    pub(super) fn new(options: &Arc<Options>) -> Self {
        Self {
            options: Arc::clone(options),
            facts: Facts::of_layer(options.long_lived.number(), options.long_lived.have_paths()),
        }
    }

    /// Returns the facts about an admitted request that its response needs.
    #[inline(always)]
    pub(super) fn facts_of<T>(&self, request: &Request<T>) -> Facts {
        Facts::of(request).and(self.facts)
    }
}

/// Rounds up to whole seconds, which RFC 9110 §10.2.3 requires, so that no client retries too early.
fn whole_seconds(time: Duration) -> HeaderValue {
    let seconds = time.as_secs();
    HeaderValue::from(seconds.saturating_add(u64::from(time.subsec_nanos() > 0)))
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        for (time, seconds) in [
            (Duration::ZERO, "0"),
            (Duration::from_millis(1), "1"),
            (Duration::from_secs(5), "5"),
            (Duration::from_millis(5_001), "6"),
            (Duration::MAX, "18446744073709551615"),
        ] {
            assert_eq!(whole_seconds(time), seconds);
        }
    }
}
