//! A list whose members are found by their places, and whose places are used again.

#[derive(Debug)]
pub(super) struct Places<T> {
    members: Vec<Option<T>>,
    free: Vec<usize>,
}

// ===== impl Places =====

impl<T> Places<T> {
    /// Adds a member, and returns its place.
    pub(super) fn add(&mut self, member: T) -> usize {
        if let Some(place) = self.free.pop() {
            self.members[place] = Some(member);
            return place;
        }
        self.members.push(Some(member));
        self.members.len() - 1
    }

    /// Returns the member, unless it was taken.
    pub(super) fn member(&mut self, place: usize) -> Option<&mut T> {
        self.members[place].as_mut()
    }

    /// Takes the member out. Its place stays occupied.
    pub(super) fn take(&mut self, place: usize) -> Option<T> {
        self.members[place].take()
    }

    /// Gives the place back, and returns the member, unless it was taken.
    #[must_use = "dropping a member may be expensive, and the list is locked"]
    pub(super) fn remove(&mut self, place: usize) -> Option<T> {
        self.free.push(place);
        self.members[place].take()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.members.iter().flatten()
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
}
