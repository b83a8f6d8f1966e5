//! The invariants of docs/protocol.md, by name.

use std::fmt;

/// An invariant. S stands for safety, L for liveness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "`meaning` documents them")]
pub enum Invariant {
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
    S8,
    S9,
    S10,
    S11,
    S12,
    L1,
    L2,
    L3,
}

impl Invariant {
    /// Every invariant, in the order of docs/protocol.md.
    pub const ALL: [Self; 15] = [
        Self::S1,
        Self::S2,
        Self::S3,
        Self::S4,
        Self::S5,
        Self::S6,
        Self::S7,
        Self::S8,
        Self::S9,
        Self::S10,
        Self::S11,
        Self::S12,
        Self::L1,
        Self::L2,
        Self::L3,
    ];

    /// Its name in docs/protocol.md.
    pub const fn name(self) -> &'static str {
        match self {
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S3 => "S3",
            Self::S4 => "S4",
            Self::S5 => "S5",
            Self::S6 => "S6",
            Self::S7 => "S7",
            Self::S8 => "S8",
            Self::S9 => "S9",
            Self::S10 => "S10",
            Self::S11 => "S11",
            Self::S12 => "S12",
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        }
    }

    /// What it requires, in one line.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::S1 => "at most one pod of a task may run",
            Self::S2 => "each iteration runs at most once, unless its last attempt is proven free",
            Self::S3 => "no iteration starts above the limit in effect",
            Self::S4 => "`iterations` never falls and equals the charged iterations",
            Self::S5 => "nothing starts after a stop until the stop is lifted",
            Self::S6 => "IterationLimitReached is shown exactly when the limit applies",
            Self::S7 => "a raised limit resumes with exactly the next iteration",
            Self::S8 => "nothing is left after a deletion except a retained PVC",
            Self::S9 => "no iteration has more free attempts than `freeAttempts` allows",
            Self::S10 => "a task succeeds only by a report on the goal and completion in effect",
            Self::S11 => "a release never writes to a task that another release serves",
            Self::S12 => "a successful uninstall leaves no pod with our finalizer and no task with its name",
            Self::L1 => "after the last fault a task reaches the end that it would have reached without any",
            Self::L2 => "after that the operator writes nothing more",
            Self::L3 => "a request that the API server keeps refusing is sent less and less often",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_matches_the_protocol() {
        let protocol = include_str!("../../../docs/protocol.md");
        let names: Vec<&str> = protocol
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"))
            .map(|(name, _)| name)
            .filter(|name| name.strip_prefix(['S', 'L']).is_some_and(|rest| rest.parse::<u8>().is_ok()))
            .collect();
        assert_eq!(names, Invariant::ALL.map(Invariant::name));
    }
}
