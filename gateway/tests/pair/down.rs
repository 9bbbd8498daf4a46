//! How soon `down` answers.

use gateway::command::{Command, Outcome};

use crate::world::{A, B, World, target};

/// Gives a command and counts the hundredths of a second until its outcome.
fn steps_until(world: &mut World, side: usize, command: Command) -> u32 {
    let id = world.start(side, command);
    for steps in 0..3000 {
        if let Some(outcome) = world.outcome(side, id) {
            assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
            return steps;
        }
        world.step();
    }
    panic!("no outcome");
}

#[test]
fn down_does_not_wait_for_what_a_rekey_left_to_drain() {
    for what in ["peer", "peer/net0"] {
        // Who rekeys, who is taken down, and how long after.
        for (rekeys, downs, pause) in
            [(A, A, 0), (A, A, 3), (A, B, 0), (A, B, 1), (A, B, 3), (B, A, 0), (B, A, 1), (B, A, 3)]
        {
            let mut world = World::up(2);
            let rekey = Command::Rekey(target("peer/net0"));
            steps_until(&mut world, rekeys, rekey);
            (0..pause).for_each(|_| world.step());
            let steps = steps_until(&mut world, downs, Command::Down(target(what)));
            let context = format!("{what}: {rekeys} rekeys, {downs} goes down {pause} steps later");
            // A child whose rekey the peer has not finished yet is asked for again a little later.
            let limit = if what == "peer" { 100 } else { 500 };
            assert!(steps < limit, "{context}: {steps} hundredths of a second");
            let pairs = if what == "peer" { 0 } else { 1 };
            assert_eq!(world.sides[downs].backend.state().sas.len(), 2 * pairs, "{context}");
        }
    }
}
