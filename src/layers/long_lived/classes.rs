//! The classes of a layer, and the class of a response.
//!
//! An admitted request refers to its layer's classes by a number, and not to its layer, which would
//! need a reference count. Sets of classes are data. Layers with equal sets share one, which is kept
//! until the process ends.

use std::fmt;

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use super::{Class, LongLived, Name};
use crate::in_flight::Gate;
use crate::shutdown::Core;
use crate::sync::{Arc, Mutex, OnceLock, Weak, lock};

/// The classes of a layer.
#[derive(Clone, PartialEq)]
pub(crate) struct Classes(Vec<LongLived>);

/// A set of classes, and optionally one of them, of which the request has the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClassNumber(u16);

/// A set of classes with its numbers: its first one, and one for each class.
struct Numbered {
    first: u16,
    classes: Classes,
    next: OnceLock<Box<Numbered>>,
}

/// The classes that the layers of one controller share: each has its members and its pace.
pub(crate) struct SharedClasses {
    classes: Mutex<Vec<Arc<Class>>>,
    /// Weak, since the controller keeps this.
    core: Weak<Core>,
}

// ===== impl Classes =====

impl Classes {
    /// Creates the classes that every new layer has.
    pub(crate) fn new() -> Self {
        Self(vec![LongLived::content_type("text/event-stream")])
    }

    /// Adds a class, or replaces the one of the same name.
    pub(crate) fn add(&mut self, class: LongLived) {
        match self.0.iter_mut().find(|known| known.name == class.name) {
            Some(known) => *known = class,
            None => self.0.push(class),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn have_paths(&self) -> bool {
        let is_path = |class: &LongLived| matches!(class.name, Name::Path(_));
        self.0.iter().any(is_path)
    }

    /// Returns the number of these classes, the same for equal ones.
    pub(crate) fn number(&self) -> ClassNumber {
        let mut known = numbered();
        while known.classes != *self {
            let first = known.end();
            let new = Numbered {
                first,
                classes: self.clone(),
                next: OnceLock::new(),
            };
            if known.next.get().is_none() && new.len() >= usize::from(ClassNumber::NONE.0 - first) {
                return ClassNumber::NONE;
            }
            known = known.next.get_or_init(|| Box::new(new));
        }
        ClassNumber(known.first)
    }

    /// Returns the number for a request with this path, in the classes with this number.
    pub(crate) fn number_of_path(&self, number: ClassNumber, path: &str) -> ClassNumber {
        let has_path =
            |class: &LongLived| matches!(&class.name, Name::Path(name) if **name == *path);
        match self.0.iter().position(has_path) {
            // It does not overflow, because `number` left room for all.
            Some(index) if number != ClassNumber::NONE => ClassNumber(number.0 + 1 + index as u16),
            _ => number,
        }
    }

    fn of_content_type(&self, headers: &HeaderMap) -> Option<&LongLived> {
        let value = headers.get(CONTENT_TYPE)?.as_bytes();
        let essence = value.split(|&byte| byte == b';').next()?.trim_ascii();
        self.0.iter().find(|class| match &class.name {
            Name::ContentType(name) => essence.eq_ignore_ascii_case(name.as_bytes()),
            Name::Path(_) => false,
        })
    }
}

impl fmt::Debug for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// ===== impl ClassNumber =====

impl ClassNumber {
    /// No classes. Also of sets that come when all numbers are used: their responses are not ended at
    /// their turn, but cut by force.
    const NONE: Self = Self(u16::MAX);

    pub(crate) fn get(self) -> u16 {
        self.0
    }

    pub(crate) fn from_number(number: u16) -> Self {
        Self(number)
    }

    /// Returns the class of a response whose body does not know its length.
    pub(crate) fn of_response(self, gate: &Gate, headers: &HeaderMap) -> Option<Arc<Class>> {
        // A response with a length has an end. For the client, an earlier end would be an error.
        if headers.contains_key(CONTENT_LENGTH) {
            return None;
        }
        let mut known = numbered();
        while self.0 >= known.end() {
            known = known.next.get()?;
        }
        let class = match self.0.checked_sub(known.first + 1) {
            Some(index) => known.classes.0.get(usize::from(index)),
            None => known.classes.of_content_type(headers),
        };
        let shared = gate.common::<SharedClasses>()?;
        Some(shared.get(class?))
    }
}

// ===== impl Numbered =====

/// Returns the first set, the one of new layers. Others follow it.
fn numbered() -> &'static Numbered {
    static FIRST: OnceLock<Numbered> = OnceLock::new();
    FIRST.get_or_init(|| Numbered {
        first: 0,
        classes: Classes::new(),
        next: OnceLock::new(),
    })
}

impl Numbered {
    fn len(&self) -> usize {
        1 + self.classes.0.len()
    }

    /// Returns the first number after these. Does not overflow, because `number` checks it.
    fn end(&self) -> u16 {
        self.first + self.len() as u16
    }
}

// ===== impl SharedClasses =====

impl SharedClasses {
    pub(crate) fn new(core: Weak<Core>) -> Self {
        Self {
            classes: Mutex::default(),
            core,
        }
    }

    fn get(&self, long_lived: &LongLived) -> Arc<Class> {
        let mut classes = lock(&self.classes);
        if let Some(class) = classes.iter().find(|class| class.is(long_lived)) {
            return Arc::clone(class);
        }
        let class = Arc::new(Class::new(long_lived.clone(), self.core.clone()));
        classes.push(Arc::clone(&class));
        class
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    fn with(paths: impl IntoIterator<Item = &'static str>) -> Classes {
        let mut classes = Classes::new();
        (paths.into_iter()).for_each(|path| classes.add(LongLived::path(path)));
        classes
    }

    #[test]
    fn equal_sets_have_one_number_and_others_do_not_overlap() {
        assert_eq!(Classes::new().number(), ClassNumber(0));
        let (some, others) = (with(["/some", "/more"]), with(["/others"]));
        let number = some.number();
        assert_eq!(some.clone().number(), number);
        let numbers = ["/some", "/more"].map(|path| some.number_of_path(number, path).0);
        assert_eq!(numbers, [number.0 + 2, number.0 + 3]);
        assert_eq!(some.number_of_path(number, "/others"), number);
        let other = others.number();
        assert!(!(number.0..=number.0 + 3).contains(&other.0));
        assert!(!(other.0..=other.0 + 2).contains(&number.0));
    }

    #[test]
    fn too_many_classes_have_no_number() {
        let mut classes = Classes::new();
        classes.0 = vec![LongLived::path("/"); usize::from(u16::MAX)];
        let number = classes.number();
        assert_eq!(number, ClassNumber::NONE);
        assert_eq!(classes.number_of_path(number, "/"), ClassNumber::NONE);
    }
}
