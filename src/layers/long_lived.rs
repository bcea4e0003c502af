//! Streams that never end by themselves. They are ended when draining begins, at a bounded rate.
//!
//! A client whose stream ends cleanly reconnects to another instance. If all streams ended at the same
//! moment, the other instances would be overloaded with new connections. If none ended, the drain
//! would last until its deadline and cut them.

mod farewell;
mod pace;

pub(crate) use self::farewell::FinalFrame;
pub(crate) use self::pace::{Class, Member};

use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use crate::shutdown::Core;
use crate::sync::{Arc, Weak};

/// A class of responses that are ended when draining begins, for
/// [`DrainLayer::long_lived`](crate::DrainLayer::long_lived).
///
/// Such a body is ended between two frames, as if it had ended by itself: without an error, and for
/// gRPC with trailers that carry status 14 `UNAVAILABLE`. Its client reconnects, and reaches another
/// instance. To spread these reconnects, the bodies of a class are ended one after another, at a
/// [rate](Self::rate). A body may still end by itself before its turn. A body whose client does not
/// read cannot be ended, and is cut by force. Neither a pause nor a lame duck ends a body.
///
/// Use it for streams of which a part is as good as the whole: events, ticks, watches. Other responses
/// must not end as if they were complete. They may finish until force, which cuts them with an error.
/// Put a layer that compresses, or that combines several events into one frame, outside the
/// [`DrainLayer`](crate::DrainLayer). Inside it, the output of that layer would be cut in the middle.
///
/// Each class of a layer has one rate, however many services the layer has. Classes, and layers, do
/// not wait for one another.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{DrainLayer, LongLived, ShutdownController};
///
/// let ctl = ShutdownController::new();
/// let layer = DrainLayer::new(ctl.clone())
///     .long_lived(LongLived::content_type("application/x-ndjson").after(Duration::from_secs(5)))
///     .long_lived(LongLived::path("/grpc.health.v1.Health/Watch").rate(50));
/// # assert!(format!("{layer:?}").contains("ndjson"));
/// ```
#[derive(Debug, Clone)]
#[must_use = "a class does nothing until it is given to a layer"]
pub struct LongLived {
    name: Name,
    after: Duration,
    rate: u32,
}

/// What a response must match to belong to a class.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// In lower case, without parameters.
    ContentType(Box<str>),
    Path(Box<str>),
}

/// The classes of a layer.
#[derive(Clone)]
pub(crate) struct Classes {
    /// Shared, since servers clone a layer for every connection.
    classes: Arc<Vec<Arc<Class>>>,
    has_paths: bool,
    /// Weak, since the controller keeps the options that hold this.
    core: Weak<Core>,
}

// ===== impl LongLived =====

impl LongLived {
    /// Creates a class of responses with this media type.
    ///
    /// Parameters are ignored, and case does not matter. Do not use it for gRPC, where all responses
    /// have the same type: create a class for the [path](Self::path) of each method instead.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{DrainLayer, LongLived, ShutdownController};
    ///
    /// // Event streams are a class by default; here they end more slowly.
    /// let events = LongLived::content_type("text/event-stream").rate(20);
    /// let layer = DrainLayer::new(ShutdownController::new()).long_lived(events);
    /// # assert_eq!(format!("{layer:?}").matches("event-stream").count(), 1);
    /// ```
    pub fn content_type(media_type: impl AsRef<str>) -> Self {
        let essence = media_type.as_ref().split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        Self::named(Name::ContentType(essence.into()))
    }

    /// Creates a class of responses to requests with this path.
    ///
    /// The path must equal `uri().path()`; inside axum's `nest` that is the part after the prefix. It
    /// takes precedence over a class for the content type of the response. The path of a gRPC method
    /// is `/package.Service/Method`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{DrainLayer, LongLived, ShutdownController};
    ///
    /// let watch = LongLived::path("/grpc.health.v1.Health/Watch");
    /// let layer = DrainLayer::new(ShutdownController::new()).long_lived(watch);
    /// # assert!(format!("{layer:?}").contains("Watch"));
    /// ```
    pub fn path(path: impl Into<String>) -> Self {
        Self::named(Name::Path(path.into().into_boxed_str()))
    }

    fn named(name: Name) -> Self {
        Self {
            name,
            after: Duration::ZERO,
            rate: 200,
        }
    }

    /// Sets how long such a body may continue after draining has begun.
    ///
    /// The default is zero. With a time that is longer than the drain, the bodies are cut.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::LongLived;
    ///
    /// // A download of the log usually ends by itself within ten seconds.
    /// let tail = LongLived::path("/log/tail").after(Duration::from_secs(10));
    /// # assert!(format!("{tail:?}").contains("10s"));
    /// ```
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }

    /// Sets how many bodies of the class are ended per second, at most.
    ///
    /// The default is 200. The rate is raised if necessary, so that all bodies that are alive when
    /// draining begins end within half of the drain time that is left after [`after`](Self::after).
    /// With a rate of zero, they are spread evenly over that half.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::LongLived;
    ///
    /// // The other instances can take 1,000 new connections per second.
    /// let watch = LongLived::path("/watch").rate(1_000);
    /// # assert!(format!("{watch:?}").contains("1000"));
    /// ```
    pub fn rate(mut self, per_second: u32) -> Self {
        self.rate = per_second;
        self
    }
}

// ===== impl Classes =====

impl Classes {
    /// Creates the classes that every new layer has.
    pub(crate) fn new(core: Weak<Core>) -> Self {
        let mut classes = Self::none(core);
        classes.add(LongLived::content_type("text/event-stream"));
        classes
    }

    pub(crate) fn none(core: Weak<Core>) -> Self {
        Self {
            classes: Arc::default(),
            has_paths: false,
            core,
        }
    }

    /// Adds a class, or replaces the one of the same name.
    pub(crate) fn add(&mut self, class: LongLived) {
        self.has_paths |= matches!(class.name, Name::Path(_));
        let known = self.classes.iter().position(|known| known.is(&class.name));
        let class = Arc::new(Class::new(class, self.core.clone()));
        let classes = Arc::make_mut(&mut self.classes);
        match known {
            Some(index) => classes[index] = class,
            None => classes.push(class),
        }
    }

    pub(super) fn core(&self) -> &Weak<Core> {
        &self.core
    }

    pub(crate) fn clear(&mut self) {
        self.classes = Arc::default();
        self.has_paths = false;
    }

    #[inline]
    pub(crate) fn has_paths(&self) -> bool {
        self.has_paths
    }

    /// Returns the index of the class of `path`, if there is one.
    pub(crate) fn of_path(&self, path: &str) -> Option<usize> {
        let is_path =
            |class: &Arc<Class>| matches!(class.name(), Name::Path(name) if **name == *path);
        self.classes.iter().position(is_path)
    }

    /// Returns the class of a response whose body does not know its length.
    pub(crate) fn of_response(
        &self,
        path: Option<usize>,
        headers: &HeaderMap,
    ) -> Option<Arc<Class>> {
        // A response with a length has an end. For the client, an earlier end would be an error.
        if self.classes.is_empty() || headers.contains_key(CONTENT_LENGTH) {
            return None;
        }
        let class = path.and_then(|index| self.classes.get(index));
        class.or_else(|| self.of_content_type(headers)).cloned()
    }

    fn of_content_type(&self, headers: &HeaderMap) -> Option<&Arc<Class>> {
        let value = headers.get(CONTENT_TYPE)?.as_bytes();
        let essence = value.split(|&byte| byte == b';').next()?.trim_ascii();
        self.classes.iter().find(|class| match class.name() {
            Name::ContentType(name) => essence.eq_ignore_ascii_case(name.as_bytes()),
            Name::Path(_) => false,
        })
    }
}

impl fmt::Debug for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.classes.iter()).finish()
    }
}
