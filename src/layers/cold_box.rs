//! An optional box that is rarely present.

use std::mem::ManuallyDrop;

/// An optional box that is rarely present.
///
/// It is dropped out of line, so that the drop of the type around it stays small enough for the
/// compiler to optimize. Otherwise, values that are moved meanwhile are written to memory and copied again.
pub(crate) struct ColdBox<P>(ManuallyDrop<Option<P>>);

impl<P> ColdBox<P> {
    #[inline]
    pub(crate) fn none() -> Self {
        Self(ManuallyDrop::new(None))
    }

    #[inline]
    pub(crate) fn of(pointer: P) -> Self {
        Self(ManuallyDrop::new(Some(pointer)))
    }

    #[inline]
    pub(crate) fn as_ref(&self) -> Option<&P> {
        self.0.as_ref()
    }

    pub(crate) fn take(&mut self) -> Option<P> {
        self.0.take()
    }

    #[inline]
    pub(crate) fn as_mut(&mut self) -> Option<&mut P> {
        self.0.as_mut()
    }
}

impl<P> Drop for ColdBox<P> {
    #[inline]
    fn drop(&mut self) {
        if self.0.is_some() {
            discard(&mut self.0);
        }
    }
}

#[cold]
#[inline(never)]
fn discard<P>(pointer: &mut Option<P>) {
    drop(pointer.take());
}
