//! The seeds of the keyed target reach what they are named after.

use fuzz::{
    corpus,
    keyed::{Reached, Script, World},
    target,
};

fn reached(name: &str) -> Reached {
    let corpus = corpus(&target::ike_keyed::TARGET).expect("the target has a folder of inputs");
    let (_, input) = corpus.iter().find(|(seed, _)| seed == name).expect("the seed is there");
    let mut script = Script::new(input);
    World::new(&mut script).expect("the endpoints are built").run(&mut script).1
}

#[test]
fn tunnels_come_up_with_every_suite() {
    for name in
        ["set_up_aead", "set_up_cbc", "set_up_chacha", "set_up_modp", "fragments", "cookie", "udp"]
    {
        let reached = reached(name);
        assert_eq!(reached.established, 2, "{name}: {reached:?}");
        assert_eq!(reached.installed, 4, "{name}: {reached:?}");
    }
    let wrong = reached("wrong_secret");
    assert_eq!((wrong.established, wrong.installed), (0, 0), "{wrong:?}");
    assert!(wrong.failed > 0, "{wrong:?}");
}

#[test]
fn rekeys_are_followed() {
    assert_eq!(reached("rekey_ike").ike_rekeyed, 4);
    assert_eq!(reached("rekey_child").child_rekeyed, 4);
    assert!(reached("rekey_both").child_rekeyed > 0);
    // The message after the rekey is sealed with keys of the new IKE SA.
    assert!(reached("rekeyed_and_altered").forged > 0);
}

/// Fragments of the harness's making come together, and a set-up goes on behind those that do
/// not.
#[test]
fn messages_come_in_fragments() {
    for name in ["fragmented", "fragmented_whole", "fragmented_rekey", "fragmented_too_often"] {
        let reached = reached(name);
        assert_eq!(reached.established, 2, "{name}: {reached:?}");
        assert!(reached.forged > 1, "{name}: {reached:?}");
    }
    assert_eq!(reached("fragmented_rekey").ike_rekeyed, 2);
    let refused = reached("fragmented_refused");
    assert_eq!((refused.established, refused.installed), (0, 0), "{refused:?}");
    assert!(refused.failed > 0 && refused.forged == 2, "{refused:?}");
}

#[test]
fn forged_messages_are_handed_in() {
    for name in ["altered", "withheld", "replaced", "injected_request", "injected_raw"] {
        let reached = reached(name);
        assert!(reached.forged > 0, "{name}: {reached:?}");
    }
}
