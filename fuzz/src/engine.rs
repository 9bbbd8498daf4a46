//! A mutating runner. It sees no coverage; a target's answer takes its place (see
//! [`Target::run`]).

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::{Target, random::Random};

/// Octets of an input.
const MAX_INPUT: usize = 8192;
/// Inputs that are kept for further mutation.
const MAX_CORPUS: usize = 8192;
/// Longer than this for one input is a finding: nothing that is fuzzed may stall a daemon. Far
/// above what a loaded machine needs.
const TOO_LONG: Duration = Duration::from_secs(5);

/// Values at which lengths and counts break.
const INTERESTING: [u64; 24] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    9,
    15,
    16,
    17,
    28,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    0x7fff,
    0x8000,
    0xffff,
    0xffff_ffff,
];

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// That many inputs.
    Executions(u64),
    /// That long.
    Time(Duration),
}

/// What a run came to.
#[derive(Debug)]
pub struct Summary {
    /// Inputs run.
    pub executions: u64,
    /// Different answers seen.
    pub outcomes: usize,
    /// Inputs kept at the end.
    pub corpus: usize,
    /// The longest time one input took.
    pub slowest: Duration,
    /// Time of the run.
    pub elapsed: Duration,
    /// The input that ended the run, and why.
    pub finding: Option<(Vec<u8>, String)>,
}

/// Runs mutations of `inputs` until the limit or the first finding.
#[must_use]
pub fn run(target: &Target, inputs: Vec<Vec<u8>>, seed: u64, limit: Limit) -> Summary {
    let mut random = Random::new(seed);
    let mut outcomes = HashSet::new();
    let mut corpus = inputs;
    if corpus.is_empty() {
        corpus.push(vec![0]);
    }
    let begin = Instant::now();
    let mut summary = Summary {
        executions: 0,
        outcomes: 0,
        corpus: 0,
        slowest: Duration::ZERO,
        elapsed: Duration::ZERO,
        finding: None,
    };
    let first = corpus.len();
    let mut input = Vec::new();
    loop {
        let done = match limit {
            Limit::Executions(count) => summary.executions >= count,
            Limit::Time(time) => summary.executions.is_multiple_of(256) && begin.elapsed() >= time,
        };
        if done {
            break;
        }
        // Every input as it is, then mutations.
        let at = usize::try_from(summary.executions).unwrap_or(usize::MAX);
        input.clear();
        if at < first {
            input.extend_from_slice(&corpus[at]);
        } else {
            mutate(target, &corpus, &mut input, &mut random);
        }
        summary.executions += 1;
        let started = Instant::now();
        let answer = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        let took = started.elapsed();
        summary.slowest = summary.slowest.max(took);
        match answer {
            Err(panic) => {
                summary.finding = Some((input, text_of(panic.as_ref())));
                break;
            }
            Ok(_) if took > TOO_LONG => {
                summary.finding = Some((input, format!("took {took:?}")));
                break;
            }
            Ok(answer) => {
                if outcomes.insert(answer) && at >= first {
                    // A full corpus moves on: the committed inputs stay, others make room.
                    if corpus.len() < MAX_CORPUS {
                        corpus.push(input.clone());
                    } else if first < MAX_CORPUS {
                        let place = first + random.below(MAX_CORPUS - first);
                        corpus[place].clone_from(&input);
                    }
                }
            }
        }
    }
    summary.outcomes = outcomes.len();
    summary.corpus = corpus.len();
    summary.elapsed = begin.elapsed();
    summary
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without text".to_owned()
    }
}

fn mutate(target: &Target, corpus: &[Vec<u8>], input: &mut Vec<u8>, random: &mut Random) {
    input.extend_from_slice(&corpus[random.below(corpus.len())]);
    for _ in 0..=random.below(6) {
        step(corpus, input, random);
    }
    input.truncate(MAX_INPUT);
    if let Some(repair) = target.repair
        && random.below(8) != 0
    {
        repair(input);
    }
}

fn step(corpus: &[Vec<u8>], input: &mut Vec<u8>, random: &mut Random) {
    let length = input.len();
    let at = random.below(length + 1);
    let reach = 1 << random.below(8);
    let span = (1 + random.below(reach)).min(length - at);
    match random.below(12) {
        0 if at < length => input[at] ^= 1 << random.below(8),
        1 if at < length => input[at] = random.octet(),
        2 if at < length => {
            input[at] = input[at].wrapping_add_signed([-1, 1, -4, 4][random.below(4)]);
        }
        3 | 4 => number(input, at, random),
        5 => {
            input.drain(at..at + span);
        }
        6 => {
            let count = 1 + random.below(32);
            let octets: Vec<u8> = (0..count).map(|_| random.octet()).collect();
            input.splice(at..at, octets);
        }
        7 => {
            let again = input[at..at + span].to_vec();
            let times = 1 + random.below(4);
            input.splice(at..at, again.repeat(times));
        }
        8 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            let count = random.below(other.len() - from + 1).min(512);
            let end = if random.below(2) == 0 { at } else { (at + count).min(length) };
            input.splice(at..end, other[from..from + count].iter().copied());
        }
        9 => input[at..at + span].fill(0),
        10 => {
            let to = random.below(length + 1);
            let moved = input[at..at + span].to_vec();
            let count = moved.len().min(length - to);
            input[to..to + count].copy_from_slice(&moved[..count]);
        }
        _ => input.truncate(at),
    }
}

/// Writes a 16- or 32-bit number that lengths and counts break at.
fn number(input: &mut [u8], at: usize, random: &mut Random) {
    let left = input.len() - at;
    let value = match random.below(4) {
        0 => u64::try_from(left).unwrap_or_default(),
        1 => u64::try_from(left).unwrap_or_default().wrapping_add_signed([-1, 1][random.below(2)]),
        _ => INTERESTING[random.below(INTERESTING.len())],
    };
    let octets = value.to_be_bytes();
    let width = if random.below(4) == 0 { 4 } else { 2 };
    if let Some(place) = input.get_mut(at..at + width) {
        place.copy_from_slice(&octets[8 - width..]);
    }
}

/// Folds what happened into an answer of a target.
#[derive(Debug)]
pub struct Answer(u64);

impl Default for Answer {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Answer {
    /// Adds a number.
    pub const fn add(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Adds a text.
    pub fn add_text(&mut self, text: &str) {
        text.bytes().for_each(|octet| self.add(u64::from(octet)));
    }

    /// Adds a number by its magnitude only, so that not every value counts as new.
    pub fn add_size(&mut self, value: usize) {
        self.add(u64::from(usize::BITS - value.leading_zeros()));
    }

    /// The answer.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}
