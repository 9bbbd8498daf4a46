//! Key agreement on threads of its own: it takes milliseconds, and datagrams do not wait.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crypto::{
    ke::{self, KeError, PrivateKey},
    random::OsRandom,
};
use gateway::{input::CompletionResult, output::Ticket};
use ike::{
    input::{Agreement, GeneratedKey, KeFailure},
    output::Asker,
};
use sa_store::KeGroup;

use super::fair::Fair;

/// Key exchanges that peers of one standing asked for, at most: a minute of work is more than
/// anybody waits.
const PEERS_JOBS: usize = 1024;
/// How long a key exchange that a peer asked for may wait: half-open IKE SAs live for 30 s, and
/// what is left then has to do for the peer's own part and its IKE_AUTH.
const PEERS_PATIENCE: Duration = Duration::from_secs(20);

/// A piece of key exchange.
#[derive(Debug)]
pub(super) enum Job {
    Generate { group: KeGroup },
    Agree { private: PrivateKey, peer_public: Vec<u8> },
    GenerateAndAgree { group: KeGroup, peer_public: Vec<u8>, asker: Asker },
}

impl Job {
    /// Who wants it, perhaps a stranger; we want all others.
    const fn asker(&self) -> Option<Asker> {
        match self {
            Self::GenerateAndAgree { asker, .. } => Some(*asker),
            Self::Generate { .. } | Self::Agree { .. } => None,
        }
    }

    /// The answer when it is not done.
    const fn undone(&self) -> CompletionResult {
        match self {
            Self::Generate { .. } => CompletionResult::KeyGenerated(Err(KeFailure::Internal)),
            Self::Agree { .. } | Self::GenerateAndAgree { .. } => {
                CompletionResult::Agreed(Err(KeFailure::Internal))
            }
        }
    }
}

/// Called with each answer.
pub(super) type Done = Arc<dyn Fn(Ticket, CompletionResult) + Send + Sync>;

/// The threads; they end when this is dropped.
pub(super) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    done: Done,
}

/// What waits to be done.
#[derive(Debug, Default)]
struct Queue {
    /// What we want, bounded by our own tunnels: done first, so that no flood keeps them down.
    own: VecDeque<(Ticket, Job)>,
    /// What peers want.
    peers: Fair<(Instant, Ticket, Job), PEERS_JOBS>,
    closed: bool,
}

/// What a thread does next.
#[derive(Debug)]
enum Next {
    Work(Ticket, Job),
    /// Nobody waits for it any more.
    Skip(Ticket, Job),
}

impl Queue {
    /// Takes a job in; gives one back that is not done if there are too many.
    fn push(&mut self, now: Instant, ticket: Ticket, job: Job) -> Option<(Ticket, Job)> {
        match job.asker() {
            Some(asker) => {
                let gone = self.peers.push(asker, (now, ticket, job));
                gone.map(|(_, ticket, job)| (ticket, job))
            }
            None => {
                self.own.push_back((ticket, job));
                None
            }
        }
    }

    fn pop(&mut self, now: Instant) -> Option<Next> {
        if let Some((ticket, job)) = self.own.pop_front() {
            return Some(Next::Work(ticket, job));
        }
        let (since, ticket, job) = self.peers.pop()?;
        let late = now.saturating_duration_since(since) > PEERS_PATIENCE;
        Some(if late { Next::Skip(ticket, job) } else { Next::Work(ticket, job) })
    }
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// The system gives no threads.
    pub(super) fn start(count: usize, random: OsRandom, done: &Done) -> io::Result<Self> {
        let queue = Mutex::new(Queue::default());
        let shared = Arc::new(Shared { queue, filled: Condvar::new(), done: Arc::clone(done) });
        // Dropped, and with it the threads that there are, if the system gives no more.
        let this = Self { shared };
        for index in 0..count.max(1) {
            let shared = Arc::clone(&this.shared);
            thread::Builder::new().name(format!("key-exchange-{index}")).spawn(move || {
                while let Some(next) = shared.next() {
                    match next {
                        Next::Work(ticket, job) => (shared.done)(ticket, answer(job, random)),
                        Next::Skip(ticket, job) => (shared.done)(ticket, job.undone()),
                    }
                }
            })?;
        }
        Ok(this)
    }

    /// Hands over a job; its answer comes later, or at once that it cannot be done now.
    pub(super) fn submit(&self, ticket: Ticket, job: Job) {
        let refused = self.shared.lock().push(Instant::now(), ticket, job);
        self.shared.filled.notify_one();
        if let Some((ticket, job)) = refused {
            (self.shared.done)(ticket, job.undone());
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do; `None` when the threads shall end.
    fn next(&self) -> Option<Next> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(next) = queue.pop(Instant::now()) {
                return Some(next);
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn answer(job: Job, random: OsRandom) -> CompletionResult {
    let undone = job.undone();
    catch_unwind(AssertUnwindSafe(|| compute(job, random))).unwrap_or_else(|_| {
        crate::logs::gave_up(format_args!("a key exchange failed with an internal error"));
        undone
    })
}

fn compute(job: Job, mut random: OsRandom) -> CompletionResult {
    match job {
        Job::Generate { group } => CompletionResult::KeyGenerated(
            ke::generate(group, &mut random)
                .map(|pair| GeneratedKey { public: pair.public, private: pair.private })
                .map_err(failure),
        ),
        Job::Agree { private, peer_public } => CompletionResult::Agreed(
            private
                .agree(&peer_public)
                .map(|shared| Agreement { public: None, shared })
                .map_err(failure),
        ),
        Job::GenerateAndAgree { group, peer_public, .. } => CompletionResult::Agreed(
            ke::generate(group, &mut random)
                .and_then(|pair| {
                    let shared = pair.private.agree(&peer_public)?;
                    Ok(Agreement { public: Some(pair.public), shared })
                })
                .map_err(failure),
        ),
    }
}

fn failure(error: KeError) -> KeFailure {
    match error {
        KeError::Internal => KeFailure::Internal,
        KeError::Length { .. } | KeError::InvalidPublic | KeError::NonContributory => {
            KeFailure::InvalidPublicValue
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use ike::output::Standing;

    use super::*;

    fn asker() -> Asker {
        Asker { standing: Standing::Anybody, source: [192, 0, 2, 1].into() }
    }

    fn peers() -> Job {
        Job::GenerateAndAgree {
            group: KeGroup::Curve25519,
            peer_public: vec![9; 32],
            asker: asker(),
        }
    }

    /// Tickets in the order of [`Queue::pop`], and whether each is worked at.
    fn drain(queue: &mut Queue, now: Instant) -> Vec<(u64, bool)> {
        core::iter::from_fn(|| queue.pop(now))
            .map(|next| match next {
                Next::Work(ticket, _) => (ticket.0, true),
                Next::Skip(ticket, _) => (ticket.0, false),
            })
            .collect()
    }

    #[test]
    fn our_own_come_first_and_what_nobody_waits_for_is_skipped() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let own = || Job::Generate { group: KeGroup::Curve25519 };
        for (ticket, job) in [(1, peers()), (2, own()), (3, peers()), (4, own())] {
            assert!(queue.push(now, Ticket(ticket), job).is_none());
        }
        assert_eq!(drain(&mut queue, now), [(2, true), (4, true), (1, true), (3, true)]);
        queue.push(now, Ticket(5), peers());
        queue.push(now, Ticket(6), own());
        let later = now + PEERS_PATIENCE + Duration::from_secs(1);
        queue.push(later, Ticket(7), peers());
        assert_eq!(drain(&mut queue, later), [(6, true), (5, false), (7, true)]);
    }

    #[test]
    fn a_flood_is_bounded_and_keeps_nothing_of_ours_out() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let refused = (0..10_000).filter_map(|it| queue.push(now, Ticket(it), peers()));
        assert_eq!(refused.count(), 10_000 - PEERS_JOBS);
        let (group, private) = (KeGroup::Curve25519, OsRandom::new().unwrap());
        let private = ke::generate(group, &mut { private }).unwrap().private;
        let job = Job::Agree { private, peer_public: vec![9; 32] };
        assert!(queue.push(now, Ticket(77_777), job).is_none());
        assert_eq!(drain(&mut queue, now)[0], (77_777, true));
    }

    #[test]
    fn two_sides_agree_and_bad_values_are_refused() {
        let (send, answers) = mpsc::channel();
        let send = Mutex::new(send);
        let done: Done = Arc::new(move |ticket, result| {
            send.lock().unwrap().send((ticket, result)).unwrap();
        });
        let workers = Workers::start(2, OsRandom::new().unwrap(), &done).unwrap();
        for group in KeGroup::ALL {
            workers.submit(Ticket(1), Job::Generate { group });
            let (_, CompletionResult::KeyGenerated(Ok(ours))) = answers.recv().unwrap() else {
                panic!("no key")
            };
            let peer_public = ours.public;
            workers.submit(Ticket(2), Job::GenerateAndAgree { group, peer_public, asker: asker() });
            let (Ticket(2), CompletionResult::Agreed(Ok(theirs))) = answers.recv().unwrap() else {
                panic!("no agreement")
            };
            let peer_public = theirs.public.unwrap();
            workers.submit(Ticket(3), Job::Agree { private: ours.private, peer_public });
            let (Ticket(3), CompletionResult::Agreed(Ok(shared))) = answers.recv().unwrap() else {
                panic!("no agreement")
            };
            assert_eq!(shared.shared.expose(), theirs.shared.expose());
            let peer_public = vec![0; group.public_len()];
            let bad = Job::GenerateAndAgree { group, peer_public, asker: asker() };
            workers.submit(Ticket(4), bad);
            let (Ticket(4), CompletionResult::Agreed(Err(why))) = answers.recv().unwrap() else {
                panic!("a zero value was taken")
            };
            assert_eq!(why, KeFailure::InvalidPublicValue);
        }
    }
}
