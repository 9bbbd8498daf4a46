//! Lines on their way to an output that may stand still or be broken.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Octets that may wait; lines beyond them are lost.
const ROOM: usize = 1 << 20;

/// A queue with a thread that writes what is in it.
pub(super) struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    octets: usize,
    /// Whether a line is on its way out.
    writing: bool,
    /// Lines that did not fit or could not be written, and were not told of yet.
    lost: u64,
}

impl Shared {
    /// Nothing here can leave the state half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut out: impl Write) {
        let mut state = self.state();
        loop {
            let Some(line) = state.lines.pop_front() else {
                self.drained.notify_all();
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.octets = state.octets.saturating_sub(line.len());
            state.writing = true;
            drop(state);
            let written = out.write_all(&line).and_then(|()| out.flush());
            state = self.state();
            state.writing = false;
            match written {
                Ok(()) if state.lost > 0 => {
                    let lost = std::mem::take(&mut state.lost);
                    drop(state);
                    tracing::warn!("{lost} lines of the log are lost: they could not be written");
                    state = self.state();
                }
                Ok(()) => {}
                Err(_) => state.lost += 1,
            }
        }
    }
}

impl Queue {
    /// Writes to `out` from now on.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let writing = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).spawn(move || writing.write_all(out))?;
        Ok(Self(shared))
    }

    /// Adds a line if there is room. Never waits for the output.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.0.state();
        if state.octets.saturating_add(line.len()) > ROOM {
            state.lost += 1;
            return;
        }
        state.octets += line.len();
        state.lines.push_back(line);
        drop(state);
        self.0.filled.notify_one();
    }

    /// Waits until everything is written, at most this long.
    pub(super) fn flush(&self, limit: Duration) {
        let busy = |state: &mut State| state.writing || !state.lines.is_empty();
        let _ = self.0.drained.wait_timeout_while(self.0.state(), limit, busy);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// An output that writes a line when it is told to, and fails when told so.
    struct Gate {
        asked: Sender<Vec<u8>>,
        answer: Receiver<bool>,
    }

    impl Write for Gate {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            let _ = self.asked.send(octets.to_vec());
            match self.answer.recv() {
                Ok(true) => Ok(octets.len()),
                _ => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Queue, Receiver<Vec<u8>>, Sender<bool>) {
        let ((asked, asks), (answers, answer)) = (channel(), channel());
        (Queue::start(Gate { asked, answer }).unwrap(), asks, answers)
    }

    #[test]
    fn an_output_that_stands_still_costs_lines_and_no_time() {
        let (queue, asks, answers) = gate();
        queue.push(b"first\n".to_vec());
        assert_eq!(asks.recv().unwrap(), b"first\n");
        // The output stands still now; all of this returns at once.
        let line = vec![b'x'; 1 << 10];
        for _ in 0..(ROOM >> 10) + 7 {
            queue.push(line.clone());
        }
        assert_eq!(queue.0.state().lost, 7);
        queue.flush(Duration::from_millis(1));
        for _ in 0..=ROOM >> 10 {
            answers.send(true).unwrap();
        }
        queue.flush(Duration::from_secs(60));
        assert_eq!(asks.iter().take(ROOM >> 10).filter(|asked| *asked == line).count(), ROOM >> 10);
        assert_eq!(queue.0.state().lost, 0, "it was told");
    }

    #[test]
    fn an_output_that_fails_is_tried_again_with_the_next_line() {
        let (queue, asks, answers) = gate();
        for (line, works) in [(b"a\n", false), (b"b\n", false), (b"c\n", true), (b"d\n", true)] {
            queue.push(line.to_vec());
            assert_eq!(asks.recv().unwrap(), line);
            let before = queue.0.state().lost;
            answers.send(works).unwrap();
            queue.flush(Duration::from_secs(60));
            let after = if works { 0 } else { before + 1 };
            assert_eq!(queue.0.state().lost, after);
        }
    }
}
