//! IKE fragmentation (RFC 7383).

use ike::{config::EndpointConfig, input::Command};

use crate::common::{A, B, CHILD, Fate, World, child};

/// So many selectors that IKE_AUTH takes several fragments.
fn world(seed: u64) -> World {
    World::with(
        seed,
        EndpointConfig { fragment_size: 576, ..EndpointConfig::default() },
        |node, it| {
            let nets = |second: u8| {
                (0..100).map(|it| format!("10.{second}.{it}.0/25")).collect::<Vec<_>>().join(",")
            };
            let (local, remote) = if node == A { (1, 2) } else { (2, 1) };
            it.children = vec![child(1, &nets(local), &nets(remote))];
        },
    )
}

#[test]
fn large_messages_come_in_pieces() {
    let mut world = world(1);
    world.establish();
    let pieces = world.ladder.iter().filter(|it| it.contains("IKE_AUTH")).count();
    assert!(pieces >= 10, "{pieces}");
    for sent in &world.sent {
        assert!(sent.payload.len() + 28 <= 576 || sent.label().contains("IKE_SA_INIT"));
    }
    world.start_traffic();
    world.command(B, Command::RekeyChild { child: CHILD });
    world.run_s(1);
    assert_eq!(world.rekeyed(A), 1);
    world.assert_nothing_lost();
}

#[test]
fn lost_and_mixed_up_fragments_only_delay() {
    for lost in 2..14 {
        let mut world = world(lost);
        let mut count = 0;
        world.filter = Box::new(move |_| {
            count += 1;
            match count {
                it if it == lost + 1 => Fate::Drop,
                it if it % 3 == 0 => Fate::Late(std::time::Duration::from_millis(5)),
                it if it % 5 == 0 => Fate::Twice,
                _ => Fate::Deliver,
            }
        });
        world.initiate(A);
        world.run_s(10);
        world.assert_up(1);
        world.assert_clean();
    }
}
