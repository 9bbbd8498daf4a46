//! Queues of datagrams with room for so many, and for so many octets.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::mpsc;

use super::driver::Datagram;

/// The end where datagrams go in; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    queue: mpsc::Sender<Datagram>,
    waiting: Arc<AtomicUsize>,
    room: usize,
}

/// The end where they come out.
#[derive(Debug)]
pub(super) struct LaneEnd {
    queue: mpsc::Receiver<Datagram>,
    waiting: Arc<AtomicUsize>,
}

/// A queue for `most` datagrams of `room` octets together.
pub(super) fn lane(most: usize, room: usize) -> (Lane, LaneEnd) {
    let (sender, receiver) = mpsc::channel(most);
    let waiting = Arc::<AtomicUsize>::default();
    let end = LaneEnd { queue: receiver, waiting: Arc::clone(&waiting) };
    (Lane { queue: sender, waiting, room }, end)
}

impl Lane {
    /// Takes a datagram if there is room. Never waits.
    pub(super) fn offer(&self, datagram: Datagram) -> bool {
        let length = datagram.payload.len();
        let waiting = self.waiting.fetch_add(length, Ordering::Relaxed).saturating_add(length);
        let taken = waiting <= self.room && self.queue.try_send(datagram).is_ok();
        if !taken {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
        }
        taken
    }
}

impl LaneEnd {
    /// Waits for the next one; `None` when every other end is gone.
    pub(super) async fn next(&mut self) -> Option<Datagram> {
        let next = self.queue.recv().await?;
        Some(self.gone(next))
    }

    /// The next one, if one is there.
    pub(super) fn try_next(&mut self) -> Option<Datagram> {
        let next = self.queue.try_recv().ok()?;
        Some(self.gone(next))
    }

    fn gone(&self, datagram: Datagram) -> Datagram {
        self.waiting.fetch_sub(datagram.payload.len(), Ordering::Relaxed);
        datagram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(length: usize) -> Datagram {
        let path = ike::config::Endpoints {
            local: ([127, 0, 0, 1], 500).into(),
            remote: ([127, 0, 0, 2], 500).into(),
        };
        Datagram { path, payload: vec![0; length] }
    }

    #[test]
    fn room_is_counted_in_datagrams_and_octets_and_comes_back() {
        let (lane, mut end) = lane(3, 1000);
        for _ in 0..10 {
            assert!(!lane.offer(datagram(1001)), "it never fits");
            assert!(lane.offer(datagram(600)) && lane.offer(datagram(400)));
            assert!(!lane.offer(datagram(1)));
            assert!(lane.offer(datagram(0)) && !lane.offer(datagram(0)), "three at most");
            let lengths = std::iter::from_fn(|| end.try_next()).map(|one| one.payload.len());
            assert_eq!(lengths.collect::<Vec<_>>(), [600, 400, 0]);
        }
    }
}
