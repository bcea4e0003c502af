//! Reads the instruction counts.

use crate::results::{Counted, Instructions};

impl Instructions {
    pub fn group(&self, group: &str) -> impl Iterator<Item = &Counted> {
        self.cases.iter().filter(move |case| case.group == group)
    }

    pub fn case(&self, group: &str, name: &str) -> Option<&Counted> {
        self.group(group).find(|case| case.name == name)
    }

    /// The cost over the first of its group.
    pub fn over(&self, group: &str, name: &str) -> Option<f64> {
        let bare = self.group(group).next()?;
        Some(self.case(group, name)?.instructions - bare.instructions)
    }

    /// The cost of each pending poll after the first.
    pub fn further_poll(&self, name: &str) -> Option<f64> {
        Some((self.over("pending_11", name)? - self.over("pending_once", name)?) / 10.0)
    }

    /// The total for the first, and the cost over it for the others.
    pub fn cell(&self, group: &str, name: &str) -> String {
        let first = self.group(group).next();
        match (first, self.case(group, name)) {
            (Some(first), Some(case)) if case.name == first.name => {
                format!("{:.1}", case.instructions)
            }
            (Some(first), Some(case)) => format!("{:+.1}", case.instructions - first.instructions),
            _ => "-".to_owned(),
        }
    }

    pub fn locked(&self, group: &str, name: &str) -> String {
        let case = self.case(group, name);
        case.map_or("-".to_owned(), |case| format!("{:.1}", case.locked))
    }
}
