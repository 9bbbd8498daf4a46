//! What operators read when something is missing: what it is, and what to do.

use gateway::{
    command::Command,
    spec::{ConnectionSpec, RemoteAddress},
};

use crate::world::{A, World, ip, spec};

fn reason(spec: ConnectionSpec) -> (String, String) {
    let mut world = World::empty();
    world.command(A, Command::LocalAddresses(vec![ip("192.0.2.9")]));
    world.sides[A].addresses.clear();
    world.apply(A, vec![spec]);
    world.run(1);
    let error = world.tunnel(A).last_error.unwrap();
    (error.code, error.message)
}

#[test]
fn what_is_missing_here_is_named_with_what_to_do() {
    let (code, message) = reason(spec(A, 1));
    assert_eq!(code, "no-local-address");
    assert!(message.contains("192.0.2.1"), "{message}");
    assert!(message.ends_with("give one to an interface, or change `local` of the tunnel"));

    let (code, message) = reason(ConnectionSpec { local: Vec::new(), ..spec(A, 1) });
    assert_eq!(code, "no-local-address");
    assert_eq!(message, "192.0.2.2 cannot be reached from here: no route");

    let remote = vec![RemoteAddress::Host("b.example".into())];
    let (code, message) = reason(ConnectionSpec { remote, ..spec(A, 1) });
    assert_eq!(code, "resolve-failed");
    assert_eq!(message, "the peer's host name cannot be used: no such host");
}
