//! Tables that were replaced, and the answers that wait until no worker uses them.

use std::{collections::VecDeque, sync::Arc};

use hw_offload::Notice;

use crate::tables::Tables;

/// Oldest first: answers are told in the order of their batches.
#[derive(Default)]
pub(super) struct Retired {
    waiting: VecDeque<(Arc<Tables>, Vec<Notice>)>,
}

impl Retired {
    /// Keeps tables that no worker can take any more, and what is told when the last one that
    /// has them has put them down.
    pub(super) fn push(&mut self, old: Arc<Tables>, told: Vec<Notice>) {
        self.waiting.push_back((old, told));
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What can be told now.
    pub(super) fn take(&mut self) -> Vec<Notice> {
        let mut told = Vec::new();
        while let Some((old, _)) = self.waiting.front()
            && Arc::strong_count(old) == 1
        {
            told.extend(self.waiting.pop_front().into_iter().flat_map(|(_, notices)| notices));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use hw_offload::Ticket;

    use super::*;

    #[test]
    fn answers_wait_for_the_last_user_of_the_tables_before_them() {
        let done = |ticket| vec![Notice::Done(Ticket(ticket))];
        let tickets = |retired: &mut Retired| -> Vec<u64> {
            let told = retired.take().into_iter();
            told.map(|notice| if let Notice::Done(ticket) = notice { ticket.0 } else { 0 })
                .collect()
        };
        let mut retired = Retired::default();
        let (first, second) = (Arc::new(Tables::default()), Arc::new(Tables::default()));
        let worker = Arc::clone(&first);
        retired.push(first, done(1));
        retired.push(second, done(2));
        assert!(
            tickets(&mut retired).is_empty(),
            "a worker may still use what the first batch removed"
        );
        assert!(!retired.is_empty());
        drop(worker);
        assert_eq!(tickets(&mut retired), [1, 2]);
        assert!(retired.is_empty());
    }
}
