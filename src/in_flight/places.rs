//! A list whose members are found by their places, and whose places are used again.

#[derive(Debug)]
pub(crate) struct Places<T> {
    members: Vec<Option<T>>,
    free: Vec<usize>,
}

/// How many places keep their memory while none is in use.
const KEPT: usize = 64;

// ===== impl Places =====

impl<T> Places<T> {
    /// Adds a member, and returns its place.
    pub(crate) fn add(&mut self, member: T) -> usize {
        if let Some(place) = self.free.pop() {
            self.members[place] = Some(member);
            return place;
        }
        self.members.push(Some(member));
        self.members.len() - 1
    }

    /// Returns the member that is at a place, if there is one.
    pub(crate) fn member(&mut self, place: usize) -> Option<&mut T> {
        self.members.get_mut(place)?.as_mut()
    }

    /// Takes the member out. Its place stays occupied.
    pub(crate) fn take(&mut self, place: usize) -> Option<T> {
        self.members[place].take()
    }

    /// Gives the place back, and returns the member, unless it was taken.
    #[must_use = "dropping a member may be expensive, and the list is locked"]
    pub(crate) fn remove(&mut self, place: usize) -> Option<T> {
        let member = self.members[place].take();
        self.free.push(place);
        // No place is in use. Their memory is given back, if it is much.
        if self.free.len() == self.members.len() && self.free.len() > KEPT {
            *self = Self::default();
        }
        member
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.members.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.members.iter_mut().flatten()
    }
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            free: Vec::new(),
        }
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut places = Places::default();
        for n in 0..1_000 {
            let (first, second) = (places.add(n), places.add(n + 1));
            assert_eq!(places.take(second), Some(n + 1));
            assert_eq!(places.member(second), None);
            assert_eq!(places.iter().collect::<Vec<_>>(), [&n]);
            assert_eq!(places.remove(first), Some(n));
            assert_eq!(places.remove(second), None);
        }
        assert_eq!(places.members.len(), 2);
    }

    #[test]
    fn the_memory_of_many_is_given_back() {
        let mut places = Places::default();
        let all: Vec<_> = (0..10_000).map(|n| places.add(n)).collect();
        for place in all {
            assert!(places.remove(place).is_some());
        }
        assert_eq!(places.members.capacity() + places.free.capacity(), 0);
        assert_eq!(places.member(7), None);
    }
}
