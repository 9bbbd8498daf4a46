//! Key agreement on threads of its own: it takes milliseconds, and datagrams do not wait.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use crypto::{
    ke::{self, KeError, PrivateKey},
    random::OsRandom,
};
use gateway::{input::CompletionResult, output::Ticket};
use ike::input::{Agreement, GeneratedKey, KeFailure};
use sa_store::KeGroup;

/// A piece of key exchange.
#[derive(Debug)]
pub(super) enum Job {
    Generate { group: KeGroup },
    Agree { private: PrivateKey, peer_public: Vec<u8> },
    GenerateAndAgree { group: KeGroup, peer_public: Vec<u8> },
}

/// Called with each answer.
pub(super) type Done = Arc<dyn Fn(Ticket, CompletionResult) + Send + Sync>;

/// The threads; they end when this is dropped.
pub(super) struct Workers {
    jobs: mpsc::Sender<(Ticket, Job)>,
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// The system gives no threads.
    pub(super) fn start(count: usize, random: OsRandom, done: &Done) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<(Ticket, Job)>();
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..count.max(1) {
            let (queue, done) = (Arc::clone(&queue), Arc::clone(done));
            thread::Builder::new().name(format!("key-exchange-{index}")).spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((ticket, job)) = next else { return };
                    done(ticket, answer(job, random));
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Hands over a job; its answer comes later.
    pub(super) fn submit(&self, ticket: Ticket, job: Job) {
        // The threads only end with `self`.
        let _ = self.jobs.send((ticket, job));
    }
}

fn answer(job: Job, random: OsRandom) -> CompletionResult {
    let only_generates = matches!(job, Job::Generate { .. });
    catch_unwind(AssertUnwindSafe(|| compute(job, random))).unwrap_or_else(|_| {
        crate::logs::gave_up(format_args!("a key exchange failed with an internal error"));
        if only_generates {
            CompletionResult::KeyGenerated(Err(KeFailure::Internal))
        } else {
            CompletionResult::Agreed(Err(KeFailure::Internal))
        }
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
        Job::GenerateAndAgree { group, peer_public } => CompletionResult::Agreed(
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
    use super::*;

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
            workers.submit(Ticket(2), Job::GenerateAndAgree { group, peer_public });
            let (Ticket(2), CompletionResult::Agreed(Ok(theirs))) = answers.recv().unwrap() else {
                panic!("no agreement")
            };
            let peer_public = theirs.public.unwrap();
            workers.submit(Ticket(3), Job::Agree { private: ours.private, peer_public });
            let (Ticket(3), CompletionResult::Agreed(Ok(shared))) = answers.recv().unwrap() else {
                panic!("no agreement")
            };
            assert_eq!(shared.shared.expose(), theirs.shared.expose());
            let bad = Job::GenerateAndAgree { group, peer_public: vec![0; group.public_len()] };
            workers.submit(Ticket(4), bad);
            let (Ticket(4), CompletionResult::Agreed(Err(why))) = answers.recv().unwrap() else {
                panic!("a zero value was taken")
            };
            assert_eq!(why, KeFailure::InvalidPublicValue);
        }
    }
}
