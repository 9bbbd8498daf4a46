//! The cases.

use sa_store::SaId;

use super::{
    harness::{Answer, CHILD, Harness, answers, expect, install},
    inbound,
};
use crate::{Notice, Operation};

type Check = fn(&mut Harness<'_>) -> Result<(), String>;

/// Name, capacity of the backend, and the case.
pub(super) const ALL: &[(&str, Option<u64>, Check)] = &[
    ("a pair is installed, carries packets and is removed", None, life_of_a_pair),
    ("an outbound SA waits for its activation", None, waits_for_activation),
    ("protected traffic without an SA is blocked and asked for", None, blocked_and_acquired),
    ("a rekey moves traffic to the new pair", None, rekey),
    ("removing an unknown SA is done", None, remove_unknown),
    ("addresses change", None, update_addresses),
    ("counters are told", None, query),
    ("a flush removes every SA and no policy", None, flush),
    ("a refused batch has no effect", None, refusal_leaves_nothing),
    ("an SA is installed once", None, installed_once),
    ("a batch is answered once", None, answered_once),
    ("a full table refuses and recovers", Some(4), full_table),
    ("a pair that does not fit leaves nothing", Some(3), half_a_pair),
    ("a busy backend gives the batch back", None, busy),
    ("a soft limit is told once", None, soft_once),
    ("a hard limit stops the SA and is told once", None, hard_once),
    ("what the peer seals is opened and delivered", None, inbound::opened),
    ("replays are dropped", None, inbound::replays),
    ("what is not authentic is dropped and changes nothing", None, inbound::broken),
    ("what is outside the selectors is dropped", None, inbound::selectors),
    ("the first and the last packet of the peer are told", None, inbound::heard),
    ("a peer that moved is told until it is followed", None, inbound::moved),
];

fn life_of_a_pair(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let pair = t.pair(1);
    t.install(&pair)?;
    t.expect_used(2)?;
    t.expect_sent(5, 5)?;
    t.done(vec![Operation::Remove(pair.1.id), Operation::Remove(pair.0.id)])?;
    t.expect_used(0)?;
    t.expect_sent(5, 0)
}

fn waits_for_activation(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let pair = t.pair(1);
    t.done(vec![install(&pair.0), install(&pair.1)])?;
    t.expect_sent(3, 0)?;
    t.done(vec![Operation::Activate(pair.1.id)])?;
    t.expect_sent(3, 3)
}

fn blocked_and_acquired(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    t.expect_sent(20, 0)?;
    let acquires =
        t.count(|notice| matches!(notice, Notice::Acquire { child, .. } if *child == CHILD));
    expect(acquires == 1, || format!("20 packets within a second gave {acquires} acquires"))
}

fn rekey(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let (old, new) = (t.pair(1), t.pair(2));
    t.install(&old)?;
    t.expect_sent(2, 2)?;
    t.done(vec![install(&new.0), install(&new.1)])?;
    t.expect_sent(3, 3)?;
    t.done(vec![Operation::Activate(new.1.id)])?;
    t.expect_sent(4, 4)?;
    let (before, after) = (t.counters(old.1.id)?, t.counters(new.1.id)?);
    expect(before.packets == 5 && after.packets == 4, || {
        format!("the old SA carried {} of 5, the new one {} of 4", before.packets, after.packets)
    })?;
    t.done(vec![Operation::Remove(old.1.id), Operation::Remove(old.0.id)])?;
    t.expect_sent(2, 2)?;
    t.expect_used(2)
}

fn remove_unknown(t: &mut Harness<'_>) -> Result<(), String> {
    t.done(vec![Operation::Remove(SaId(999))])
}

fn update_addresses(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let pair = t.pair(1);
    t.install(&pair)?;
    let (local, before) = t.driver.addresses();
    let mut remote = before;
    remote.set_port(45_000);
    let update = |sa| Operation::UpdateAddresses { sa, local, remote };
    t.done(vec![update(pair.0.id), update(pair.1.id)])?;
    t.expect_sent_to(remote, 2, 2)?;
    t.expect_sent_to(before, 2, 0)?;
    t.refused(vec![update(SaId(999))], 0)
}

fn query(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let pair = t.pair(1);
    t.install(&pair)?;
    t.expect_sent(6, 6)?;
    let counters = t.counters(pair.1.id)?;
    expect(counters.packets == 6 && counters.bytes > 0 && counters.sequence == 7, || {
        format!("after 6 packets: {counters:?}")
    })?;
    t.refused(vec![Operation::Query(SaId(999))], 0)
}

fn flush(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let pair = t.pair(1);
    t.install(&pair)?;
    t.expect_sent(1, 1)?;
    t.done(vec![Operation::Flush])?;
    t.expect_used(0)?;
    t.expect_sent(3, 0)?;
    // Another one: the numbers of the first are used up to here.
    let pair = t.pair(2);
    t.install(&pair)?;
    t.expect_sent(1, 1)
}

fn refusal_leaves_nothing(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let (old, new) = (t.pair(1), t.pair(2));
    t.install(&old)?;
    let batch = vec![install(&new.0), install(&new.1), Operation::Activate(SaId(999))];
    t.refused(batch, 2)?;
    t.expect_used(2)?;
    t.expect_sent(2, 2)?;
    t.refused(vec![Operation::Activate(new.1.id)], 0)?;
    t.install(&new)?;
    t.expect_used(4)?;
    t.expect_sent(2, 2)
}

fn installed_once(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let pair = t.pair(1);
    t.install(&pair)?;
    t.refused(vec![install(&pair.1)], 0)?;
    t.expect_used(2)?;
    t.expect_sent(1, 1)
}

fn answered_once(t: &mut Harness<'_>) -> Result<(), String> {
    let pair = t.pair(1);
    let (first, second) = (t.ticket(), t.ticket());
    for (ticket, batch) in [
        (first, vec![install(&pair.0), install(&pair.1)]),
        (second, vec![Operation::Activate(SaId(999))]),
    ] {
        t.driver.backend().submit(ticket, batch).map_err(|busy| busy.to_string())?;
    }
    t.answer(first)?;
    t.answer(second)?;
    for _ in 0..3 {
        t.driver.wait();
        t.drain();
    }
    let more = t.seen.iter().filter(|n| answers(n, first) || answers(n, second)).count();
    expect(more == 0, || format!("{more} more answers came"))
}

fn full_table(t: &mut Harness<'_>) -> Result<(), String> {
    let pairs = [t.pair(1), t.pair(2), t.pair(3)];
    let max = t.driver.backend().capabilities().max_sas;
    expect(max == 4, || format!("a table for 4 SAs holds {max}"))?;
    t.install(&pairs[0])?;
    t.install(&pairs[1])?;
    t.refused(vec![install(&pairs[2].0), install(&pairs[2].1)], 0)?;
    t.expect_used(4)?;
    t.done(vec![Operation::Remove(pairs[0].1.id), Operation::Remove(pairs[0].0.id)])?;
    t.install(&pairs[2])?;
    t.expect_used(4)
}

fn half_a_pair(t: &mut Harness<'_>) -> Result<(), String> {
    let (first, second) = (t.pair(1), t.pair(2));
    t.install(&first)?;
    let answer = t.submit(vec![install(&second.0), install(&second.1)])?;
    expect(matches!(answer, Answer::Refused(0 | 1)), || format!("got {answer:?}"))?;
    t.expect_used(2)
}

fn busy(t: &mut Harness<'_>) -> Result<(), String> {
    const BATCHES: usize = 5000;
    let mut open = Vec::new();
    let mut given_back = None;
    for _ in 0..BATCHES {
        let ticket = t.ticket();
        let batch = vec![Operation::Remove(SaId(999)), Operation::Remove(SaId(998))];
        match t.driver.backend().submit(ticket, batch) {
            Ok(()) => open.push(ticket),
            Err(busy) => {
                given_back = Some(busy.0);
                break;
            }
        }
    }
    for ticket in open {
        t.answer(ticket)?;
    }
    if let Some(batch) = given_back {
        expect(batch.len() == 2, || "a part of the batch is missing".into())?;
        t.done(batch)?;
    }
    Ok(())
}

fn soft_once(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let mut pair = t.pair(1);
    pair.1.lifetime.soft.packets = Some(4);
    t.install(&pair)?;
    t.expect_sent(3, 3)?;
    t.drain();
    let soft = |n: &Notice| matches!(n, Notice::SoftExpired(sa) if *sa == pair.1.id);
    expect(!t.seen.iter().any(soft), || "it was told too early".into())?;
    t.expect_sent(3, 3)?;
    t.expect_sent(3, 3)?;
    let told = t.count(soft);
    expect(told == 1, || format!("it was told {told} times"))
}

fn hard_once(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let mut pair = t.pair(1);
    pair.1.lifetime.hard.packets = Some(6);
    t.install(&pair)?;
    t.expect_sent(6, 6)?;
    t.expect_sent(3, 0)?;
    t.expect_sent(3, 0)?;
    let told = t.count(|n| matches!(n, Notice::HardExpired { sa, .. } if *sa == pair.1.id));
    expect(told == 1, || format!("it was told {told} times"))?;
    let dropped = t.counters(pair.1.id)?.dropped.expired;
    expect(dropped == 6, || format!("{dropped} of 6 drops were counted as expired"))
}
