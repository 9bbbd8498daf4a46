//! Reloads change what changed, and nothing else.

use std::time::Duration;

use gateway::{
    command::{Command, Outcome},
    spec::{ConnectionSpec, Origin, RemoteAddress, TunnelMode},
};
use hw_offload::PolicyAction;
use sa_store::{TrafficSelector, change::Change};

use crate::world::{A, B, World, child, spec, target};

/// IKE SA and pairs of A.
fn handles(world: &World) -> (u64, Vec<(String, u64)>) {
    let tunnel = world.tunnel(A);
    let children = tunnel.children.iter().map(|child| (child.name.clone(), child.id)).collect();
    (tunnel.ike_sas[0].id, children)
}

#[test]
fn the_same_configuration_changes_nothing() {
    let mut world = World::up(2);
    let before = (handles(&world), world.events(A).len());
    let outcome = world.apply(A, vec![spec(A, 2)]);
    assert_eq!(
        outcome,
        Outcome::Done("1 tunnels: 0 new, 0 changed, 1 unchanged; 0 removed".into())
    );
    world.run(20);
    assert_eq!((handles(&world), world.events(A).len()), before);
}

#[test]
fn only_changed_children_are_touched() {
    let mut world = World::up(3);
    let (ike, before) = handles(&world);
    for side in [B, A] {
        let mut changed = spec(side, 3);
        changed.mode = world_mode(side);
        changed.children.remove(0);
        changed.children[0].rekey.time = Some(Duration::from_secs(1800));
        changed.children.push(child(side, 7));
        assert!(matches!(world.apply(side, vec![changed]), Outcome::Done(_)));
    }
    world.run(90);
    world.expect_up();
    let (same_ike, after) = handles(&world);
    assert_eq!(same_ike, ike);
    let names: Vec<&str> = after.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["net1", "net2", "net7"]);
    assert_ne!(after[0].1, before[1].1, "net1 changed");
    assert_eq!(after[1].1, before[2].1, "net2 did not");
    assert_eq!(world.sides[A].backend.state().sas.len(), 6);
}

fn world_mode(side: usize) -> gateway::spec::TunnelMode {
    if side == A { gateway::spec::TunnelMode::AlwaysOn } else { gateway::spec::TunnelMode::Passive }
}

#[test]
fn a_changed_ike_configuration_re_establishes() {
    let mut world = World::up(1);
    let (ike, _) = handles(&world);
    let changed = ConnectionSpec { dpd: Some(Duration::from_secs(77)), ..spec(A, 1) };
    assert!(matches!(world.apply(A, vec![changed]), Outcome::Done(_)));
    world.run(30);
    world.expect_up();
    assert_ne!(handles(&world).0, ike);
}

#[test]
fn a_bypass_changes_policies_only() {
    let mut world = World::up(1);
    let before = handles(&world);
    let mut changed = spec(A, 1);
    changed.children[0].bypass = vec!["10.2.0.9".parse().unwrap()];
    assert!(matches!(world.apply(A, vec![changed]), Outcome::Done(_)));
    world.run(20);
    assert_eq!(handles(&world), before);
    let state = world.sides[A].backend.state();
    assert_eq!(state.policies.policies[0].action, PolicyAction::Bypass);
    assert!(matches!(state.policies.policies[1].action, PolicyAction::Protect { .. }));
}

#[test]
fn a_removed_tunnel_goes_with_its_sas_and_policies() {
    let mut world = World::up(1);
    assert!(matches!(world.apply(A, Vec::new()), Outcome::Done(_)));
    world.run(20);
    assert!(world.sides[A].gateway.status(world.now).tunnels.is_empty());
    let state = world.sides[A].backend.state();
    assert!(state.sas.is_empty() && state.policies.policies.is_empty());
    assert!(world.sides[B].backend.state().sas.is_empty());
    assert_eq!(world.sides[A].gateway.databases().pad().iter().count(), 0);
}

#[test]
fn a_bad_or_refused_reload_changes_nothing() {
    let mut world = World::up(1);
    let before = handles(&world);
    let policies = world.sides[A].backend.state().policies.clone();
    let mut doubled = spec(A, 2);
    doubled.children[1].name = "net0".into();
    let outcome = world.apply(A, vec![doubled]);
    assert!(matches!(&outcome, Outcome::Failed { code, .. } if code == "invalid-configuration"));
    let mut open = spec(A, 1);
    open.children[0].bypass = open.children[0].remote.clone();
    let outcome = world.apply(A, vec![open]);
    assert!(matches!(&outcome, Outcome::Failed { code, .. } if code == "invalid-configuration"));
    world.sides[A].backend.state().refuse_policies = true;
    let outcome = world.apply(A, vec![spec(A, 3)]);
    let Outcome::Failed { code, message } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(code, "install-failed");
    assert!(message.contains("nothing has changed: no room"), "{message}");
    world.run(20);
    assert_eq!(handles(&world), before);
    assert_eq!(world.sides[A].backend.state().policies, policies);
    world.sides[A].backend.state().refuse_policies = false;
    assert!(matches!(world.apply(A, vec![spec(A, 3)]), Outcome::Done(_)));
}

#[test]
fn origins_do_not_touch_each_other() {
    let mut world = World::up(1);
    let before = handles(&world);
    let mut other = spec(A, 0);
    other.name = "other".into();
    other.children = vec![child(A, 5)];
    let origin = Origin::Client("controller".into());
    world.command(A, Command::Apply { origin: origin.clone(), connections: vec![other] });
    let tunnels = world.sides[A].gateway.status(world.now).tunnels;
    let names: Vec<&str> = tunnels.iter().map(|tunnel| &*tunnel.name).collect();
    assert_eq!(names, ["peer", "other"]);
    assert_eq!(world.sides[A].backend.state().policies.policies.len(), 2);
    world.command(A, Command::Apply { origin, connections: Vec::new() });
    world.run(20);
    assert_eq!(handles(&world), before);
    assert_eq!(world.sides[A].backend.state().policies.policies.len(), 1);
}

#[test]
fn ten_thousand_selectors_are_one_policy_to_the_backend() {
    let mut world = World::empty();
    let mut wide = spec(A, 1);
    wide.children[0].remote = (0..10_000u32)
        .map(|n| TrafficSelector::host(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).into()))
        .collect();
    assert!(matches!(world.apply(A, vec![wide]), Outcome::Done(_)));
    let state = world.sides[A].backend.state();
    assert_eq!(state.policies.policies.len(), 1);
    assert_eq!(state.policies.policies[0].remote.len(), 10_000);
}

/// What the process before it has left in the system must go, even if nothing follows it.
#[test]
fn an_empty_configuration_is_told_to_the_backend() {
    let mut world = World::empty();
    assert!(matches!(world.apply(A, Vec::new()), Outcome::Done(_)));
    assert_eq!(world.sides[A].backend.state().policies_set, 1);
    assert!(matches!(world.apply(A, Vec::new()), Outcome::Done(_)));
    assert_eq!(world.sides[A].backend.state().policies_set, 1);
}

/// A peer whose address was not known is no other policy: the journal stays as it is.
#[test]
fn the_journal_holds_policies_only_when_they_changed() {
    let mut world = World::empty();
    let any = ConnectionSpec {
        remote: vec![RemoteAddress::Any],
        mode: TunnelMode::Passive,
        ..spec(B, 1)
    };
    world.apply(B, vec![any]);
    world.apply(A, vec![spec(A, 1)]);
    for _ in 0..3 {
        world.run(60);
        world.expect_up();
        world.command(A, Command::Down(target("peer")));
        world.run(60);
        world.command(A, Command::Up(target("peer")));
    }
    assert!(world.sides[B].backend.state().policies_set > 3, "the backend knows the peer");
    let journal = world.sides[B].gateway.databases().changes(0).unwrap();
    let set = journal.filter(|change| matches!(change, Change::PoliciesSet(_))).count();
    assert_eq!(set, 1);
}

/// What goes because of a reload does not look as if an operator had taken it down.
#[test]
fn what_a_reload_ends_says_so() {
    let reconfigured = |kind| (kind, Some("reconfigured".to_owned()));
    let by_hand = |world: &World| {
        let events = world.events(A).into_iter();
        events.filter(|(_, code)| code.as_deref() == Some("deleted-by-operator")).count()
    };
    let downs = |world: &World, kind| {
        world.events(A).into_iter().filter(|event| *event == reconfigured(kind)).count()
    };
    // One child changes, one goes.
    let mut world = World::up(3);
    let mut changed = spec(A, 2);
    changed.children[0].rekey.time = Some(Duration::from_secs(1800));
    world.apply(A, vec![changed.clone()]);
    world.run(30);
    assert_eq!((downs(&world, "child-down"), by_hand(&world)), (2, 0), "{:?}", world.events(A));
    // The tunnel changes, with a peer that answers and with one that does not; then it goes.
    for (seconds, cut) in [(77, false), (88, true)] {
        let before = downs(&world, "ike-down");
        world.cut = cut;
        changed.dpd = Some(Duration::from_secs(seconds));
        world.apply(A, vec![changed.clone()]);
        world.run(30);
        assert_eq!((downs(&world, "ike-down"), by_hand(&world)), (before + 1, 0));
        world.cut = false;
        world.run(60);
    }
    let before = downs(&world, "ike-down");
    world.apply(A, Vec::new());
    world.run(30);
    assert_eq!((downs(&world, "ike-down"), by_hand(&world)), (before + 1, 0));
}
