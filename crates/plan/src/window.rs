//! The window: which sandbox Jobs may start beside those that run.
//!
//! A Job counts as the sandboxes that it can still have at once, `min(open indexes, parallelism)`, against the campaign's
//! parallelism. Gradings go first, for they free nothing but end groups; then next rounds; then new groups in plan order.
//! What does not fit holds back everything of lower rank, so that it starts when nothing else is live at the latest.

/// Rank of a Job that wants to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Any round of a grading.
    Grading,
    /// A further round of rollouts.
    NextRound,
    /// The first round of a group.
    NewGroup,
}

/// A Job that wants to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its rank.
    pub rank: Rank,
    /// Position of its group in the plan.
    pub position: usize,
    /// Open indexes.
    pub open: u32,
}

/// Positions of the candidates that may start, in the order in which they start. `live` holds the open indexes of the Jobs
/// that run.
pub fn admit(live: &[u32], candidates: &[Candidate], parallelism: u32) -> Vec<usize> {
    let weight = |open: u32| open.min(parallelism);
    let mut free =
        parallelism.saturating_sub(live.iter().map(|open| weight(*open)).fold(0, u32::saturating_add));
    let mut ordered: Vec<&Candidate> = candidates.iter().collect();
    ordered.sort_by_key(|candidate| (candidate.rank, candidate.position));
    let mut admitted = Vec::new();
    let mut blocked: Option<Rank> = None;
    for candidate in ordered {
        if blocked.is_some_and(|rank| rank < candidate.rank) {
            break;
        }
        let needed = weight(candidate.open.max(1));
        if needed <= free {
            free -= needed;
            admitted.push(candidate.position);
        } else {
            blocked = blocked.or(Some(candidate.rank));
        }
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(rank: Rank, position: usize, open: u32) -> Candidate {
        Candidate { rank, position, open }
    }

    #[test]
    fn gradings_go_before_rounds_and_rounds_before_new_groups() {
        let all = [
            candidate(Rank::NewGroup, 0, 2),
            candidate(Rank::NextRound, 7, 2),
            candidate(Rank::Grading, 9, 2),
            candidate(Rank::NewGroup, 1, 2),
        ];
        assert_eq!(admit(&[], &all, 8), [9, 7, 0, 1]);
        assert_eq!(admit(&[], &all, 5), [9, 7]);
    }

    #[test]
    fn a_job_that_is_larger_than_the_window_starts_alone() {
        let large = [candidate(Rank::NewGroup, 0, 64)];
        assert_eq!(admit(&[], &large, 16), [0]);
        assert!(admit(&[1], &large, 16).is_empty());
    }

    #[test]
    fn what_does_not_fit_holds_back_lower_ranks_but_not_its_equals() {
        let all =
            [candidate(Rank::Grading, 0, 9), candidate(Rank::Grading, 1, 3), candidate(Rank::NewGroup, 2, 1)];
        assert_eq!(admit(&[6], &all, 10), [1]);
    }

    #[test]
    fn a_window_that_was_made_smaller_starts_nothing_until_it_is_free() {
        assert!(admit(&[20, 20], &[candidate(Rank::Grading, 0, 1)], 4).is_empty());
    }
}
